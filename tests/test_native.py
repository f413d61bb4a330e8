"""The system calls themselves: setns and unshare, on the real kernel."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from conftest import Runner
from inside import (
    NEW_OF_EACH,
    TYPES,
    all_ns,
    everything,
    failure,
    fds,
    ns,
    only_child,
    status,
    unshared,
)

import nsapi

MOVES_AT_ONCE = ("user", "ipc", "uts", "net", "mnt", "cgroup")  # for pid and time it is the children that move


def test_unshare_gives_this_thread_a_new_namespace_and_setns_takes_it_back(root: Runner) -> None:
    """The thinnest path through all modules: words, steps, C, kernel."""

    def body() -> list[str]:
        home = nsapi.current("uts")
        before = ns("uts")
        nsapi.unshare("uts")
        inside = ns("uts")
        nsapi.setns(home, "uts")
        home.close()
        return [before, inside, ns("uts")]

    before, inside, after = root(body)
    assert before == after != inside


# ---- setns to one namespace ----


@pytest.mark.parametrize("type", TYPES)
def test_setns_moves_the_calling_thread(anyone: Runner, type: str) -> None:
    """A single-threaded process joins any type: what setns(2) changes at once, and nothing else, has changed."""

    def body(type: str) -> dict[str, object]:
        with unshared(*NEW_OF_EACH) as parent:
            child = only_child(parent.pid)
            if os.getuid() != 0 and type != "user":
                nsapi.setns(os.open(f"/proc/{child}/ns/user", os.O_RDONLY))  # what owns the others
            handle, before = nsapi.open(child, type), all_ns()
            assert nsapi.setns(handle, type) is None  # type: ignore[func-returns-value]
            after, target = all_ns(), all_ns(child)
            handle.close()
        changed = [name for name in after if after[name] != before[name]]
        return {"changed": changed, "there": all(after[name] == target[name] for name in changed)}

    changes = {"pid": ["pid_for_children"], "time": ["time", "time_for_children"]}
    assert anyone(body, type) == {"changed": changes.get(type, [type]), "there": True}


def test_setns_takes_every_spelling_of_nstype(root: Runner) -> None:
    """A word of any spelling, a member, a mask, a collection of one, or 0; and an fd or what has one."""

    def body() -> list[bool]:
        member = nsapi.NamespaceType.MNT
        spellings = [0, "mnt", "mount", "NEWNS", "CLONE_NEWNS", member, member.flag, ("mnt",), [member], {"mount"}, ()]
        with unshared("--mount") as process, open(f"/proc/{process.pid}/ns/mnt", "rb") as file:
            home, handle, there = nsapi.current("mnt"), nsapi.open(process, "mnt"), ns("mnt", process.pid)
            moved = []
            for fd in (handle, handle.fileno(), file, file.fileno()):
                for spelling in spellings:
                    nsapi.setns(fd, spelling)  # type: ignore[arg-type]
                    moved.append(ns("mnt") == there)
                    nsapi.setns(home)
                    moved.append(ns("mnt") != there)
            home.close()
            handle.close()
        return moved

    assert root(body) == [True] * 4 * 11 * 2


def test_setns_lends_the_fd(root: Runner) -> None:
    """The caller's fd stays open and the caller's, whether setns worked or not."""

    def body() -> list[object]:
        with unshared("--uts") as process:
            fd, pidfd = os.open(f"/proc/{process.pid}/ns/uts", os.O_RDONLY), os.pidfd_open(process.pid)
            before = fds()
            nsapi.setns(fd, "uts")
            nsapi.setns(pidfd, "uts")
            wrong = failure(lambda: nsapi.setns(fd, "net"))["errno"]
            return [before == fds(), wrong]

    assert root(body) == [True, errno.EINVAL]


# ---- setns to a process ----


@pytest.mark.parametrize("spelling", ["tuple", "mask", "nsapi order", "object"])
def test_setns_of_a_pidfd_takes_several_types_in_one_go(anyone: Runner, spelling: str) -> None:
    """All types named come from that process at once, with the user namespace that owns them; the others stay."""

    def body(spelling: str) -> dict[str, object]:
        class File:
            def __init__(self, fd: int) -> None:
                self.fileno = lambda: fd

        with unshared(*NEW_OF_EACH) as parent:
            child = only_child(parent.pid)
            pidfd, before, there = os.pidfd_open(child), all_ns(), all_ns(child)
            words: Any = ("uts", "net", "user", "ipc", "mnt", "cgroup", "pid")
            if spelling == "mask":
                words = sum(nsapi.NamespaceType.parse(word).flag for word in words)
            elif spelling == "nsapi order":
                words = [each for each in nsapi.NamespaceType if each is not nsapi.NamespaceType.TIME]
            nsapi.setns(File(pidfd) if spelling == "object" else pidfd, words)
            after = all_ns()
            os.close(pidfd)
        return {name: [after[name] == there[name], after[name] == before[name]] for name in after}

    moved = {"user", "ipc", "uts", "net", "mnt", "cgroup", "pid_for_children"}
    answer = anyone(body, spelling)
    assert {name for name, (there, _) in answer.items() if there} == moved
    assert {name for name, (_, before) in answer.items() if before} == answer.keys() - moved


def test_setns_of_a_pidfd_moves_all_or_none(root: Runner) -> None:
    """Where one type of several cannot be joined, no other has moved either."""

    def body() -> dict[str, object]:
        with unshared("--user", "--uts", "--net") as process:
            nsapi.unshare("user")  # from here the process's namespaces are out of reach
            pidfd, before = os.pidfd_open(process.pid), everything()
            answer = failure(lambda: nsapi.setns(pidfd, ("uts", "net")))
            answer["unchanged"] = before == everything()
            os.close(pidfd)
        return answer

    answer = root(body)
    assert answer["unchanged"]
    assert answer["errno"] in (errno.EPERM, errno.EACCES)
    assert "PermissionError" in answer["classes"]


def test_entering_a_user_namespace_gives_its_ids_and_capabilities(anyone: Runner) -> None:
    """In a single-threaded process setns into a user namespace works, and there is no way back."""

    def body() -> dict[str, object]:
        home = nsapi.current("user")
        with unshared("--user", "--map-root-user") as process:
            before = ns("user")
            handle = nsapi.open(process, "user")
            nsapi.setns(handle, "user")
            handle.close()
            moved = ns("user") == ns("user", process.pid) != before
        answer = failure(lambda: nsapi.setns(home, "user"))
        home.close()
        return {"moved": moved, "uid": os.getuid(), "caps": int(status("CapEff"), 16) != 0, "back": answer}

    answer = anyone(body)
    assert answer["moved"]
    assert answer["uid"] == 0
    assert answer["caps"]
    assert answer["back"]["errno"] == errno.EPERM
    assert "CAP_SYS_ADMIN" in answer["back"]["text"]
