"""Handles: what may be opened and how, every refusal, identity and relatives, the life of the fd."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Runner, lacking, tool
from inside import (
    NEW_OF_EACH,
    PIDFD_GET,
    TYPES,
    answer_enosys,
    everything,
    failure,
    fds,
    next_pid,
    ns,
    only_child,
    ready,
    same_id,
    unshared,
)

import nsapi


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    """One that everybody can read and write, for this module."""
    path = Path(tempfile.mkdtemp(prefix="nsapi-tests-"))
    path.chmod(0o777)
    yield str(path)
    shutil.rmtree(path)


# ---- every form of target ----

FORMS = {
    "a pid": TYPES,
    "an object with .pid": TYPES,
    "an object with .pid and .pidfd": TYPES,
    "an object whose fileno() is a pidfd": TYPES,
    "an absolute str path": TYPES,
    "a relative str path": TYPES,
    "a bytes path": TYPES,
    "a PathLike": TYPES,
    "a symlink": TYPES,
    "a handle": TYPES,
    "an open file": TYPES,
    "a subprocess.Popen": TYPES,
    "a multiprocessing.Process": TYPES,
    "an asyncio Process": TYPES,
}


def open_every_form(folder: str, old_kernel: bool) -> dict[str, dict[str, object]]:
    """In the child: what open() makes of each form and type."""
    import asyncio
    import multiprocessing
    import pathlib
    from contextlib import closing

    if old_kernel:
        answer_enosys(*PIDFD_GET, errnum=25)
    found: dict[str, dict[str, object]] = {}

    class Process:
        def __init__(self, pid: int) -> None:
            self.pid = pid

    class Pinned(Process):
        def __init__(self, pid: int, pidfd: int) -> None:
            self.pid, self.pidfd = pid, pidfd

    class File:
        def __init__(self, fd: int) -> None:
            self.fileno = lambda: fd

    def look(form: str, target: object, type: str, pid: int, *, named: bool = True) -> None:
        before = everything()
        with closing(nsapi.open(target, type if named else None)) as handle:
            found.setdefault(form, {})[type] = row = {
                "id": list(handle.id),
                "type": handle.type.proc_name,
                "proc": same_id(f"/proc/{pid}/ns/{type}"),
                "ours": same_id(f"/proc/self/ns/{type}"),
                "inheritable": os.get_inheritable(handle.fileno()),
            }
        row["unchanged"] = before == everything()

    with unshared(*NEW_OF_EACH) as parent:
        pid = only_child(parent.pid)
        pidfd = os.pidfd_open(pid)
        for type in TYPES:
            path = f"/proc/{pid}/ns/{type}"
            look("a pid", pid, type, pid)
            look("an object with .pid", Process(pid), type, pid)
            look("an object with .pid and .pidfd", Pinned(pid, pidfd), type, pid)
            look("an object whose fileno() is a pidfd", File(pidfd), type, pid)
            look("an absolute str path", path, type, pid, named=False)
            look("a bytes path", path.encode(), type, pid, named=False)
            look("a PathLike", pathlib.Path(path), type, pid, named=False)
            os.chdir(f"/proc/{pid}/ns")
            look("a relative str path", f"./{type}", type, pid, named=False)
            os.chdir("/")
            os.symlink(path, f"{folder}/{type}")
            look("a symlink", f"{folder}/{type}", type, pid, named=False)
            os.unlink(f"{folder}/{type}")
            with closing(nsapi.open(pid, type)) as handle:
                look("a handle", handle, type, pid, named=False)
            with open(path, "rb") as file:
                look("an open file", file, type, pid, named=False)
        os.close(pidfd)

    in_place = [option for option in NEW_OF_EACH if option not in ("--pid", "--fork")]
    with unshared(*in_place) as process:
        for type in TYPES:
            look("a subprocess.Popen", process, type, process.pid)

    async def look_in_asyncio() -> None:
        argv = ["unshare", *in_place, "--", "sh", "-c", "echo ready; exec sleep 1000"]
        child = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
        for type in TYPES:
            look("an asyncio Process", child, type, child.pid)
        child.kill()
        await child.wait()

    def stay_inside(pipe: Any) -> None:
        nsapi.unshare("user", "ipc", "uts", "net", "mnt", "cgroup")
        pipe.send("ready")
        time.sleep(1000)

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    worker = context.Process(target=stay_inside, args=(there,))
    worker.start()
    assert here.recv() == "ready"
    assert worker.pid is not None
    for type in TYPES:
        look("a multiprocessing.Process", worker, type, worker.pid)
    worker.kill()
    worker.join()
    asyncio.run(look_in_asyncio())
    return found


@pytest.fixture(scope="module", params=["root", "user", "root, /proc", "user, /proc"])
def found(request: pytest.FixtureRequest, folder: str) -> Any:
    """As root and as a user; by the ioctls of a pidfd and, where the kernel does not know them, through /proc."""
    name, _, old_kernel = request.param.partition(", ")
    return request.getfixturevalue(name)(open_every_form, folder, bool(old_kernel))


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("form", FORMS)
def test_open_opens_what_proc_shows_whatever_the_form_of_target(found: Any, form: str, type: str) -> None:
    """The handle is on the namespace that /proc/PID/ns/TYPE shows, close-on-exec, and nothing else has changed."""
    row = found[form][type]
    assert row["id"] == row["proc"]
    assert row["type"] == type
    assert not row["inheritable"]
    assert row["unchanged"]
    shares_ours = {
        "a subprocess.Popen": ("pid",),
        "an asyncio Process": ("pid",),
        "a multiprocessing.Process": ("pid", "time"),
    }
    assert (row["id"] == row["ours"]) == (type in shares_ours.get(form, ()))


def test_open_of_a_socket_is_the_namespace_that_it_was_made_in(root: Runner) -> None:
    """A socket stands for its own net namespace, wherever the caller is."""

    def body() -> list[object]:
        sockets: list[tuple[socket.socket, list[int]]] = []

        def make() -> None:
            nsapi.unshare("net")
            made = same_id("/proc/thread-self/ns/net")
            sockets.append((socket.socket(), made))
            sockets.append((socket.socket(socket.AF_UNIX), made))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        answers: list[object] = []
        for each, made in sockets:
            for type in (None, "net", "network", nsapi.NamespaceType.NET):
                handle = nsapi.open(each, type)
                answers.append(list(handle.id) == made != same_id("/proc/self/ns/net"))
                answers.append(not os.get_inheritable(handle.fileno()))
                handle.close()
            each.close()
        return answers

    assert root(body) == [True] * 16


def test_open_of_a_name_is_what_ip_netns_made(root: Runner) -> None:
    """A str without a slash is a network namespace of ip-netns(8), whose own it stays."""
    tool("ip")

    def body() -> dict[str, object]:
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        nothing = failure(lambda: nsapi.open("blue"))
        without = os.listdir("/run")
        subprocess.run(["ip", "netns", "add", "blue"], check=True)
        before = everything()
        missing = failure(lambda: nsapi.open("red"))
        handles = [nsapi.open("blue"), nsapi.open("blue", "net"), nsapi.open("/run/netns/blue")]
        ids = [list(handle.id) for handle in handles]
        for handle in handles:
            handle.close()
        return {
            "ids": ids,
            "made": same_id("/run/netns/blue"),
            "ours": same_id("/proc/self/ns/net"),
            "unchanged": before == everything() and os.listdir("/run/netns") == ["blue"],
            "without": without,
            "nothing": nothing["classes"],
            "missing": missing["classes"],
            "text": missing["text"],
        }

    answer = root(body)
    assert answer["ids"] == [answer["made"]] * 3
    assert answer["made"] != answer["ours"]
    assert answer["unchanged"]
    assert answer["without"] == []
    assert "FileNotFoundError" in answer["nothing"]
    assert "FileNotFoundError" in answer["missing"]
    assert "/run/netns/red" in answer["text"]
    assert "never creates" in answer["text"]


def test_a_file_in_the_working_directory_needs_a_slash(root: Runner) -> None:
    """A plain word is never looked up in the working directory; "./word" is."""

    def body() -> list[object]:
        os.chdir("/proc/self/ns")
        handle = nsapi.open("./net")
        handle.close()
        return [handle.type.proc_name, failure(lambda: nsapi.open("net"))["classes"]]

    opened, refused = root(body)
    assert opened == "net"
    assert "FileNotFoundError" in refused


def test_open_takes_every_spelling_of_a_type(anyone: Runner) -> None:
    """proc's, OCI's, libcontainer's and the kernel's word and the member itself name one type."""

    def body() -> list[bool]:
        same = []
        for member in nsapi.NamespaceType:
            for word in (member, member.proc_name, member.oci_name, member.value, f"CLONE_{member.value}"):
                handle = nsapi.open(os.getpid(), word)
                same.append(handle.type is member)
                handle.close()
        return same

    assert anyone(body) == [True] * 40


# ---- the pid and the process ----


def test_open_and_current_ask_the_pidfd_and_not_proc(root: Runner) -> None:
    """Where the kernel has the ioctls of a pidfd, neither open nor current can be deceived by what is mounted on /proc."""

    def body() -> dict[str, object] | None:
        import fcntl

        pidfd = os.pidfd_open(os.getpid())
        try:
            os.close(fcntl.ioctl(pidfd, PIDFD_GET[3][1]))
        except OSError:
            return None
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        wanted = {type: same_id(f"/proc/self/ns/{type}") for type in TYPES}
        subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
        assert os.listdir("/proc") == []
        seen = []
        for type in TYPES:
            for handle in (nsapi.open(os.getpid(), type), nsapi.current(type)):
                seen.append(list(handle.id) == wanted[type])
                handle.close()
        return {"seen": seen}

    answer = root(body)
    if answer is None:
        lacking("Linux 6.11, for the ioctls of a pidfd")
    assert answer["seen"] == [True] * 16


def test_an_old_kernel_is_not_deceived_by_a_false_proc(root: Runner) -> None:
    """Where /proc must be asked, and is none, that is an error with the reason, not another namespace."""

    def body() -> list[dict[str, object]]:
        answer_enosys(*PIDFD_GET, errnum=25)
        with unshared("--uts") as stranger:
            nsapi.unshare("mnt")
            for command in (
                ["mount", "--make-rprivate", "/"],
                ["mount", "--rbind", "/proc", "/mnt"],
                ["mount", "-t", "tmpfs", "none", "/proc"],
                ["mkdir", "-p", f"/proc/{os.getpid()}/ns", "/proc/thread-self/ns", "/proc/thread-self/fdinfo"],
                ["touch", f"/proc/{os.getpid()}/ns/uts", "/proc/thread-self/ns/uts"],
                ["mount", "--bind", f"/mnt/{stranger.pid}/ns/uts", f"/proc/{os.getpid()}/ns/uts"],
                ["mount", "--bind", f"/mnt/{stranger.pid}/ns/uts", "/proc/thread-self/ns/uts"],
            ):
                subprocess.run(command, check=True)
            for fd in range(20):
                with open(f"/proc/thread-self/fdinfo/{fd}", "w") as file:
                    file.write(f"Pid:\t{os.getpid()}\n")
            return [failure(lambda: nsapi.open(os.getpid(), "uts")), failure(lambda: nsapi.current("uts"))]

    for answer in root(body):
        assert answer["errno"] == errno.EXDEV
        assert "not procfs" in answer["text"]


def test_an_old_kernel_finds_the_process_in_the_proc_of_another_pid_namespace(root: Runner) -> None:
    """Where /proc counts pids differently from the caller, its own process is still found, not a namesake."""

    def body() -> dict[str, object]:
        answer_enosys(*PIDFD_GET, errnum=25)
        handle = nsapi.open(os.getpid(), "pid")
        answer = {"pid": os.getpid(), "id": list(handle.id), "own": same_id("/proc/thread-self/ns/pid")}
        handle.close()
        return answer

    answer = root(body, under=("unshare", "--pid", "--fork", "--kill-child"))
    assert answer["pid"] == 1
    assert answer["id"] == answer["own"]


@pytest.mark.parametrize("old_kernel", [False, True], ids=["ioctl", "/proc"])
def test_a_reused_pid_is_not_taken_for_the_process_that_had_it(root: Runner, old_kernel: bool) -> None:
    """Once its pid is a stranger's, a process object is refused: by its pidfd, or as no child of ours any more."""
    if not Path("/proc/sys/kernel/ns_last_pid").exists():
        lacking("a kernel with CONFIG_CHECKPOINT_RESTORE")

    def body(old_kernel: bool) -> dict[str, dict[str, object]]:
        import asyncio
        import multiprocessing

        if old_kernel:
            answer_enosys(*PIDFD_GET, errnum=25)
        refused = {}

        def reuse(name: str, target: object, pid: int) -> None:
            """Kill and reap it behind its object's back, and let a stranger have its pid."""
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            next_pid(pid - 1)
            with ready("sh", "-c", "unshare --uts sh -c 'echo ready; exec sleep 1000' & wait") as shell:
                assert only_child(shell.pid) == pid
                stranger = nsapi.open(pid, "uts")
                assert list(stranger.id) != same_id("/proc/self/ns/uts")
                stranger.close()
                refused[name] = failure(lambda: nsapi.open(target, "uts"))
                os.kill(pid, signal.SIGKILL)

        next_pid(1001)
        process = subprocess.Popen(["sleep", "1000"])
        assert process.pid == 1001
        reuse("subprocess.Popen", process, process.pid)
        process.returncode = 0  # else it warns when it is thrown away

        class Pinned:
            def __init__(self, process: subprocess.Popen[bytes]) -> None:
                self.pid, self.pidfd = process.pid, os.pidfd_open(process.pid)

        next_pid(2001)
        process = subprocess.Popen(["sleep", "1000"])
        pinned = Pinned(process)
        reuse(".pidfd", pinned, process.pid)
        process.returncode = 0

        class File:
            def fileno(self) -> int:
                return pinned.pidfd

        assert failure(lambda: nsapi.open(File(), "uts"))["errno"] == errno.ESRCH
        os.close(pinned.pidfd)

        next_pid(3001)
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        worker.start()
        assert worker.pid is not None
        reuse("multiprocessing", worker, worker.pid)

        async def in_asyncio() -> None:
            next_pid(4001)
            child = await asyncio.create_subprocess_exec("sleep", "1000")
            # The child watcher reaps it in another thread, or in this one once the loop runs on: it has not yet told.
            os.kill(child.pid, signal.SIGKILL)
            try:
                os.waitpid(child.pid, 0)
            except ChildProcessError:
                pass
            next_pid(child.pid - 1)
            script = "unshare --uts sh -c 'echo ready; exec sleep 1000' & wait"
            with ready("sh", "-c", script) as shell:
                assert only_child(shell.pid) == child.pid
                refused["asyncio"] = failure(lambda: nsapi.open(child, "uts"))
                os.kill(child.pid, signal.SIGKILL)

        import logging

        logging.disable()  # asyncio tells that somebody else has waited
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asyncio.run(in_asyncio())
        return refused

    refused = root(body, old_kernel, under=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))
    assert sorted(refused) == [".pidfd", "asyncio", "multiprocessing", "subprocess.Popen"]
    for name, answer in refused.items():
        assert "ProcessLookupError" in answer["classes"], (name, answer)
        assert "pid may" in answer["text"], (name, answer)


def test_an_old_kernel_notices_a_pid_reused_between_pinning_and_opening(root: Runner) -> None:
    """Through /proc too a process is held from before its namespace is opened until after."""
    if not Path("/proc/sys/kernel/ns_last_pid").exists():
        lacking("a kernel with CONFIG_CHECKPOINT_RESTORE")

    def body() -> dict[str, object]:
        answer_enosys(*PIDFD_GET, errnum=25)
        next_pid(1001)
        victim = subprocess.Popen(["sleep", "1000"])
        assert victim.pid == 1001
        swapped: list[Any] = []

        def swap(event: str, args: Any) -> None:
            """Right before the file is opened; an audit hook hears of it."""
            if event == "open" and str(args[0]).endswith("ns/uts") and not swapped:
                swapped.append(ready("sh", "-c", "unshare --uts sh -c 'echo ready; exec sleep 1000' & wait"))
                victim.kill()
                victim.wait()
                next_pid(1000)
                shell = swapped[0].__enter__()
                assert only_child(shell.pid) == 1001

        sys.addaudithook(swap)
        before = fds()
        answer = failure(lambda: nsapi.open(1001, "uts"))
        os.kill(1001, signal.SIGKILL)
        swapped[0].__exit__(None, None, None)
        return {**answer, "leaked": before != fds()}

    answer = root(body, under=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))
    assert answer["errno"] == errno.ESRCH
    assert not answer["leaked"]


# ---- every refusal ----


class Refusal(NamedTuple):
    raised: str
    errnum: int | None = None
    step: str | None = None
    path: str | None = None
    words: tuple[str, ...] = ()


def _os(raised: str, errnum: int, step: str, path: str | None, *words: str) -> Refusal:
    return Refusal(raised, errnum, step, path, words)


def _refused(path: str | None, *words: str) -> Refusal:
    return Refusal("NamespaceError", errno.EINVAL, "check", path, words)


def _value(*words: str) -> Refusal:
    return Refusal("ValueError", words=("target", *words))


def _type(*words: str) -> Refusal:
    return Refusal("TypeError", words=words)


_MISMATCH = ("it is a net namespace", "uts was asked for")
_DEAD = ("ProcessLookupError", errno.ESRCH)
_NO_NAMESPACE = "it is no namespace"

REFUSALS = {
    # not of the type asked for: both are named
    "type: path": _refused("/proc/self/ns/net", *_MISMATCH),
    "type: bytes path": _refused("/proc/self/ns/net", *_MISMATCH),
    "type: handle": _refused("this thread's net namespace", *_MISMATCH),
    "type: open file": _refused("* fd *", *_MISMATCH),
    "type: name": Refusal("ValueError", words=("'blue'", "net", "uts", "./blue")),
    "type: unknown word": Refusal("ValueError", words=("type", "'nut'", "net", "mnt (mount)")),
    "type: no word": Refusal("TypeError", words=("type", "7", "net")),
    # no namespace at all
    "path: plain file": _refused("*/plain", _NO_NAMESPACE),
    "path: fifo": _refused("*/fifo", _NO_NAMESPACE),
    "path: directory": _refused("/", _NO_NAMESPACE),
    "path: device": _refused("/dev/null", _NO_NAMESPACE),
    "path: procfs": _refused("/proc/self/status", _NO_NAMESPACE),
    "path: missing": _os("FileNotFoundError", errno.ENOENT, "open */missing", "*/missing"),
    "path: below a file": _os("NotADirectoryError", errno.ENOTDIR, "open */plain/x", "*/plain/x"),
    "path: loop": _os("NamespaceError", errno.ELOOP, "open */loop", "*/loop"),
    "path: empty": _value("no path"),
    "path: NUL": _value("no path"),
    "name: missing": _os("FileNotFoundError", errno.ENOENT, "open /run/netns/mis*", "missing-*", "never creates"),
    "name: empty": _value("''"),
    "name: dot": _value("'.'"),
    "name: dots": _value("'..'"),
    "name: NUL": _value("no name"),
    "fileno: plain file": _refused("* fd *", "no namespace, no pidfd and no socket"),
    "fileno: pipe": _refused("* fd *", "no pidfd"),
    "fileno: directory of a process": _refused("File fd *", "no pidfd"),
    "fileno: closed file": Refusal("ValueError", words=("closed",)),
    "fileno: closed socket": _os("NamespaceError", errno.EBADF, "dup", "fd -1"),
    "fileno: stale number": _os("NamespaceError", errno.EBADF, "dup", "fd 987"),
    "fileno: O_PATH": _os("NamespaceError", errno.EBADF, "NS_GET_NSTYPE", "File fd *", "O_PATH"),
    "fileno: none": _type("target", "fileno()"),
    "fileno: bool": _type("target", "fileno()"),
    "from_fd: -1": _os("NamespaceError", errno.EBADF, "dup", "fd -1"),
    "from_fd: stale number": _os("NamespaceError", errno.EBADF, "dup", "fd 987"),
    "from_fd: 2**31": _os("NamespaceError", errno.EBADF, "dup", "fd 2147483648"),
    "from_fd: huge": _os("NamespaceError", errno.EBADF, "dup", "fd 1180591620717411303424"),
    "from_fd: bool": _type("fd", "True"),
    "from_fd: float": _type("fd", "1.0"),
    "from_fd: None": _type("fd", "None"),
    "from_fd: plain file": _refused("fd *", _NO_NAMESPACE),
    "from_fd: pidfd": _refused("fd *", _NO_NAMESPACE),
    "from_fd: O_PATH": _os("NamespaceError", errno.EBADF, "NS_GET_NSTYPE", "fd *", "O_PATH"),
    "handle: closed": Refusal("ValueError", words=("closed",)),
    # no process, or one that is gone
    "pid: dead": _os(*_DEAD, "pidfd_open of process *", "process *", "has ended"),
    "pid: zombie": _os(*_DEAD, "open the net namespace of process *", "process *", "has ended"),
    "pid: thread": _os("NamespaceError", errno.EINVAL, "pidfd_open of process *", "process *", "id of a thread"),
    "pid: 0": _value("0 is no pid"),
    "pid: -1": _value("-1 is no pid"),
    "pid: above any": _os(*_DEAD, "pidfd_open of process 2147483647", "process 2147483647"),
    "pid: 2**31": _os(*_DEAD, "pidfd_open of process 2147483648", "process 2147483648"),
    "pid: huge": _os(*_DEAD, "pidfd_open of process 1180591620717411303424", "process 1180591620717411303424"),
    "pid: without type": _type("type", "user, ipc, uts, net, pid, mnt, cgroup, time"),
    "Popen: waited for": _os(*_DEAD, "check", "Popen *", "ended with 3", "pid may"),
    "Popen: killed": _os(*_DEAD, "check", "Popen *", "ended with -9", "pid may"),
    "Popen: zombie": _os(*_DEAD, "open the net namespace of Popen *", "Popen *", "has ended"),
    "Popen: reaped by another": _os(*_DEAD, "*", "Popen *", "has ended"),
    "Process: not started": _value("has not been started"),
    "Process: joined": _os(*_DEAD, "check", "ForkProcess *", "ended with 0"),
    "Process: closed": Refusal("ValueError", words=("closed",)),
    "asyncio: waited for": _os(*_DEAD, "check", "Process *", "ended with 0"),
    "object: .pid 0": _value("0 is no pid"),
    "object: .pid a word": _type("target", "no int"),
    "object: .pid a bool": _type("target", "no int"),
    "object: .pidfd no pidfd": _refused("Process *", ".pidfd", "no pidfd"),
    "object: .pidfd stale": _os("NamespaceError", errno.EBADF, "dup", "fd 987"),
    # no target at all
    "target: None": _type("target", "None"),
    "target: bool": _type("target", "True"),
    "target: float": _type("target", "1.5"),
    "target: list": _type("target", "[1]"),
    "target: object": _type("target", ".pid", "fileno()"),
}
AS_ROOT = {
    "type: socket": _refused("socket fd *", *_MISMATCH),
}
AS_USER = {
    "another's: pid": _os(
        "PermissionError", errno.EACCES, "open the net namespace of process 1", "process 1", "CAP_SYS_PTRACE"
    ),
    "another's: path": _os("PermissionError", errno.EACCES, "open /proc/1/ns/net", "/proc/1/ns/net", "CAP_SYS_PTRACE"),
    "another's: socket": _os("PermissionError", errno.EPERM, "SIOCGSKNS", "socket fd *", "CAP_NET_ADMIN"),
    "another's: folder": _os("PermissionError", errno.EACCES, "open */sealed/x", "*/sealed/x"),
}


def refuse_in_every_way(folder: str, old_kernel: bool) -> dict[str, dict[str, object]]:
    """In the child: each way to be refused, once to look at the error, 100 times to look at the fd table."""
    import asyncio
    import multiprocessing
    import shutil

    class Process:
        def __init__(self, pid: object, pidfd: object = None) -> None:
            self.pid, self.pidfd = pid, pidfd

    class File:
        def __init__(self, fd: object) -> None:
            self.fileno = lambda: fd

    folder = f"{folder}/refused"
    os.mkdir(folder)
    os.mkfifo(f"{folder}/fifo")
    os.symlink("loop", f"{folder}/loop")
    os.mkdir(f"{folder}/sealed", 0)
    plain = open(f"{folder}/plain", "w")
    pipe = os.pipe()
    a_socket, closed_socket, closed_file = socket.socket(), socket.socket(), open("/dev/null")
    closed_socket.close()
    closed_file.close()
    net_file = open("/proc/self/ns/net", "rb")
    path_fd = os.open("/proc/self/ns/net", os.O_PATH)
    process_fd, pidfd = os.open("/proc/self", os.O_RDONLY), os.pidfd_open(os.getpid())
    handle, closed_handle = nsapi.current("net"), nsapi.current("net")
    closed_handle.close()

    waited, killed = subprocess.Popen(["sh", "-c", "exit 3"]), subprocess.Popen(["sleep", "1000"])
    killed.kill()
    waited.wait()
    killed.wait()
    zombie, reaped = subprocess.Popen(["true"]), subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    os.waitpid(reaped.pid, 0)
    context = multiprocessing.get_context("fork")
    not_started, joined, closed = (context.Process(target=int) for _ in range(3))
    for each in (joined, closed):
        each.start()
        each.join()
    closed.close()

    async def run_true() -> object:
        child = await asyncio.create_subprocess_exec("true")
        await child.wait()
        return child

    in_asyncio = asyncio.run(run_true())
    thread_id: list[int] = []
    told, done = threading.Event(), threading.Event()

    def stay() -> None:
        thread_id.append(threading.get_native_id())
        told.set()
        done.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    told.wait()

    ways: dict[str, tuple[Any, ...]] = {
        "type: path": ("/proc/self/ns/net", "uts"),
        "type: bytes path": (b"/proc/self/ns/net", "uts"),
        "type: handle": (handle, "uts"),
        "type: open file": (net_file, "uts"),
        "type: socket": (a_socket, "uts"),
        "type: name": ("blue", "uts"),
        "type: unknown word": (os.getpid(), "nut"),
        "type: no word": (os.getpid(), 7),
        "path: plain file": (f"{folder}/plain",),
        "path: fifo": (f"{folder}/fifo",),
        "path: directory": ("/",),
        "path: device": ("/dev/null",),
        "path: procfs": ("/proc/self/status",),
        "path: missing": (f"{folder}/missing",),
        "path: below a file": (f"{folder}/plain/x",),
        "path: loop": (f"{folder}/loop",),
        "path: empty": (b"",),
        "path: NUL": ("/\0",),
        "name: missing": (f"missing-{os.getpid()}",),
        "name: empty": ("",),
        "name: dot": (".",),
        "name: dots": ("..",),
        "name: NUL": ("a\0b",),
        "fileno: plain file": (plain, "net"),
        "fileno: pipe": (File(pipe[0]), "net"),
        "fileno: directory of a process": (File(process_fd), "net"),
        "fileno: closed file": (closed_file, "net"),
        "fileno: closed socket": (closed_socket, "net"),
        "fileno: stale number": (File(987), "net"),
        "fileno: O_PATH": (File(path_fd), "net"),
        "fileno: none": (File(None), "net"),
        "fileno: bool": (File(True), "net"),
        "handle: closed": (closed_handle,),
        "pid: dead": (waited.pid, "net"),
        "pid: zombie": (zombie.pid, "net"),
        "pid: thread": (thread_id[0], "net"),
        "pid: 0": (0, "net"),
        "pid: -1": (-1, "net"),
        "pid: above any": (2**31 - 1, "net"),
        "pid: 2**31": (2**31, "net"),
        "pid: huge": (2**70, "net"),
        "pid: without type": (os.getpid(),),
        "Popen: waited for": (waited, "net"),
        "Popen: killed": (killed, "net"),
        "Popen: zombie": (zombie, "net"),
        "Popen: reaped by another": (reaped, "net"),
        "Process: not started": (not_started, "net"),
        "Process: joined": (joined, "net"),
        "Process: closed": (closed, "net"),
        "asyncio: waited for": (in_asyncio, "net"),
        "object: .pid 0": (Process(0), "net"),
        "object: .pid a word": (Process("1"), "net"),
        "object: .pid a bool": (Process(True), "net"),
        "object: .pidfd no pidfd": (Process(os.getpid(), plain.fileno()), "net"),
        "object: .pidfd stale": (Process(os.getpid(), 987), "net"),
        "target: None": (None, "net"),
        "target: bool": (True, "net"),
        "target: float": (1.5, "net"),
        "target: list": ([1], "net"),
        "target: object": (object(), "net"),
        "another's: pid": (1, "net"),
        "another's: path": ("/proc/1/ns/net",),
        "another's: socket": (a_socket,),
        "another's: folder": (f"{folder}/sealed/x",),
    }
    from_fd = {
        "-1": -1,
        "stale number": 987,
        "2**31": 2**31,
        "huge": 2**70,
        "bool": True,
        "float": 1.0,
        "None": None,
        "plain file": plain.fileno(),
        "pidfd": pidfd,
        "O_PATH": path_fd,
    }
    root_only, user_only = ("type: socket",), ("another's: ",)
    skipped = user_only if os.getuid() == 0 else root_only
    if old_kernel:
        answer_enosys(*PIDFD_GET, errnum=25)
    refused = {}
    for name in [*ways, *(f"from_fd: {name}" for name in from_fd)]:
        if name.startswith(skipped):
            continue

        def call(name: str = name) -> object:
            if name.startswith("from_fd: "):
                return nsapi.NamespaceHandle.from_fd(from_fd[name[9:]])  # type: ignore[arg-type]
            return nsapi.open(*ways[name])

        refused[name] = failure(call)
        before = everything()
        for _ in range(100):
            failure(call)
        refused[name]["unchanged"] = before == everything()
    done.set()
    thread.join()
    zombie.wait()
    reaped.returncode = 0
    handle.close()
    os.chmod(f"{folder}/sealed", 0o700)
    shutil.rmtree(folder)
    for fd in (*pipe, path_fd, process_fd, pidfd):
        os.close(fd)
    for file in (plain, a_socket, net_file):
        file.close()
    return refused


RUNS = {
    "root": {**REFUSALS, **AS_ROOT},
    "user": {**REFUSALS, **AS_USER},
    "root, /proc": {**REFUSALS, **AS_ROOT},
    "user, /proc": {**REFUSALS, **AS_USER},
}


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What came in each run: pytest would make a parametrized fixture anew for each of the ways."""
    return {}


@pytest.fixture
def refusals(request: pytest.FixtureRequest, folder: str, answers: dict[str, Any]) -> tuple[dict[str, Refusal], Any]:
    """What is expected, and what came."""
    run = request.param
    name, _, old_kernel = run.partition(", ")
    if name == "user" and os.stat("/proc/1").st_uid != 0:
        lacking("a process of another user with pid 1")
    if run not in answers:
        answers[run] = request.getfixturevalue(name)(refuse_in_every_way, folder, bool(old_kernel))
    return RUNS[run], answers[run]


@pytest.mark.parametrize(
    ("refusals", "way"), [(run, way) for run, ways in RUNS.items() for way in ways], indirect=["refusals"]
)
def test_a_refusal_says_what_is_wrong(refusals: tuple[dict[str, Refusal], Any], way: str) -> None:
    """The class, errno, step and path that a caller can act upon, words that he understands, and nothing left behind."""
    expected, answers = refusals
    assert sorted(expected) == sorted(answers)
    row, answer = expected[way], answers[way]
    assert row.raised in answer["classes"], answer
    assert ("NamespaceError" in answer["classes"]) == (row.errnum is not None)
    assert answer["errno"] == row.errnum, answer
    for name, pattern in (("step", row.step), ("path", row.path)):
        if pattern is None:
            assert answer[name] is None, answer
        else:
            assert fnmatchcase(answer[name], pattern), answer
    for word in row.words:
        assert word in answer["text"], answer
    assert answer["unchanged"]


def test_advice_for_another_users_process_is_not_given_for_a_folder(user: Runner, readable_tmp: Path) -> None:
    """EACCES on a path outside /proc says nothing of CAP_SYS_PTRACE."""

    def body(folder: str) -> dict[str, object]:
        os.mkdir(f"{folder}/sealed", 0)
        answer = failure(lambda: nsapi.open(f"{folder}/sealed/x"))
        os.rmdir(f"{folder}/sealed")
        return answer

    answer = user(body, str(readable_tmp))
    assert answer["errno"] == errno.EACCES
    assert "PTRACE" not in answer["text"]


def test_a_zombie_has_ended_for_every_type_on_every_kernel(anyone: Runner) -> None:
    """A process that has ended but is not waited for is ESRCH; never taken for a kernel that lacks the type."""

    def body() -> list[object]:
        zombie = subprocess.Popen(["true"])
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        errors = [failure(lambda type=type: nsapi.open(zombie, type))["errno"] for type in TYPES]  # type: ignore[misc]
        answer_enosys(*PIDFD_GET, errnum=25)
        errors += [failure(lambda type=type: nsapi.open(zombie, type))["errno"] for type in TYPES]  # type: ignore[misc]
        zombie.wait()
        return errors

    assert anyone(body) == [errno.ESRCH] * 16


def test_a_missing_name_is_never_created(root: Runner) -> None:
    """Where ip-netns(8) was never used, opening a name makes neither the name nor the folder."""

    def body() -> list[object]:
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        answers: list[object] = [failure(lambda: nsapi.open("blue"))["errno"], os.listdir("/run")]
        os.mkdir("/run/netns")
        return [*answers, failure(lambda: nsapi.open("blue"))["errno"], os.listdir("/run/netns")]

    assert root(body) == [errno.ENOENT, [], errno.ENOENT, []]


def test_a_file_in_the_place_of_a_name_is_no_namespace(root: Runner) -> None:
    """What `touch /run/netns/blue` makes, or a name whose namespace is unmounted, is refused, not entered."""

    def body() -> dict[str, object]:
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        os.mkdir("/run/netns")
        with open("/run/netns/blue", "w"):
            pass
        return failure(lambda: nsapi.open("blue"))

    answer = root(body)
    assert (answer["errno"], answer["step"], answer["path"]) == (errno.EINVAL, "check", "blue")
    assert _NO_NAMESPACE in answer["text"]


# ---- file descriptors ----


def test_zero_is_a_valid_file_descriptor(root: Runner) -> None:
    """With stdin closed the kernel gives out fd 0, and everything works with it."""

    def body() -> list[object]:
        os.close(0)
        ours, pidfd, checks = same_id("/proc/self/ns/uts"), os.pidfd_open(os.getpid()), []
        assert pidfd == 0
        pidfd = os.dup(pidfd)
        os.close(0)

        class Pinned:
            pid = os.getpid()

            def __init__(self) -> None:
                self.pidfd = pidfd

        class File:
            def __init__(self, fd: int) -> None:
                self.fileno = lambda: fd

        with open("/proc/self/ns/uts", "rb") as at_zero:  # each form, while 0 is what is lent
            assert at_zero.fileno() == 0
            zero = nsapi.NamespaceHandle.from_fd(0)
            checks.append(list(zero.id) == ours)
            zero.close()
            handle = nsapi.open(at_zero)
            checks.append(list(handle.id) == ours)
            handle.close()
            nsapi.setns(0, "uts")
        for target in (os.getpid(), Pinned(), File(pidfd), "/proc/self/ns/uts"):  # and while 0 is free to be taken
            handle = nsapi.open(target, "uts")
            checks.append(list(handle.id) == ours)
            handle.close()
        os.dup2(pidfd, 0)
        handle = nsapi.open(File(0), "uts")
        checks.append(list(handle.id) == ours)
        os.close(0)
        zero = handle.duplicate()
        handle.close()
        assert zero.fileno() == 0
        nsapi.unshare("uts")
        with zero:
            checks.append(same_id("/proc/self/ns/uts") == ours)
        checks.append(same_id("/proc/self/ns/uts") != ours)
        nsapi.setns(zero, "uts")
        checks.append(same_id("/proc/self/ns/uts") == ours)
        again = nsapi.open(zero)
        checks += [again == zero, list(again.id) == ours]
        checks.append(zero.ns_id == again.ns_id)
        zero.close()
        checks.append(0 not in fds())
        owner = again.owner
        assert owner is not None
        assert owner.fileno() == 0
        checks.append(list(owner.id) == same_id("/proc/self/ns/user"))
        again.close()
        checks.append(0 not in fds())
        for type in TYPES:
            handle = nsapi.current(type)
            checks.append(list(handle.id) == same_id(f"/proc/self/ns/{type}"))
            handle.close()
        os.close(pidfd)
        return [*checks, sorted(fds())]

    *checks, left = root(body)
    assert checks == [True] * len(checks)
    assert left == [1, 2]


def test_from_fd_duplicates(anyone: Runner) -> None:
    """The caller's fd stays the caller's, and the handle's is its own."""

    def body() -> list[object]:
        answers: list[object] = []
        for type in TYPES:
            with open(f"/proc/self/ns/{type}", "rb") as file:
                first = nsapi.NamespaceHandle.from_fd(file.fileno())
                second = nsapi.NamespaceHandle.from_fd(file.fileno())
                first.close()
                answers.append(os.fstat(file.fileno()).st_ino == second.id[1])
            answers.append(os.fstat(second.fileno()).st_ino == second.id[1])
            answers.append(second.type.proc_name == type)
            answers.append(not os.get_inheritable(second.fileno()))
            second.close()
        return answers

    assert anyone(body) == [True] * 32


# ---- current ----


def look_at_current(kernel: str) -> dict[str, dict[str, object]]:
    """In the child: what current() says in a thread that has left the namespaces of its process."""
    if kernel == "without the ioctls":
        answer_enosys(*PIDFD_GET, errnum=25)
    elif kernel == "without PIDFD_THREAD":
        answer_enosys(("pidfd_open", None), errnum=22)
    elif kernel == "without pidfd_open":
        answer_enosys(("pidfd_open", None))
    seen: dict[str, dict[str, object]] = {}

    def look() -> None:
        nsapi.unshare("ipc", "uts", "net", "pid", "mnt", "cgroup", "time")
        for type in TYPES:
            handle = nsapi.current(type)
            seen[type] = {
                "current": list(handle.id),
                "thread": same_id(f"/proc/thread-self/ns/{type}"),
                "process": same_id(f"/proc/self/ns/{type}"),
                "type": handle.type.proc_name,
                "inheritable": os.get_inheritable(handle.fileno()),
            }
            handle.close()

    before = fds()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert before == fds()
    return seen


@pytest.fixture(
    scope="module", params=["new kernel", "without the ioctls", "without PIDFD_THREAD", "without pidfd_open"]
)
def seen(request: pytest.FixtureRequest, root: Runner) -> Any:
    return root(look_at_current, request.param)


@pytest.mark.parametrize("type", TYPES)
def test_current_is_of_the_calling_thread(seen: Any, type: str) -> None:
    """Where a thread has left its process, current() opens the thread's; on an old kernel too."""
    row = seen[type]
    assert row["current"] == row["thread"]
    assert (row["current"] == row["process"]) == (type in ("user", "pid", "time"))
    assert row["type"] == type
    assert not row["inheritable"]


@pytest.mark.parametrize("wrong", ["nut", 7, None, True])
def test_current_of_no_type_is_refused(wrong: Any) -> None:
    """A word that is no type is a ValueError, another object a TypeError, and both list the words."""
    with pytest.raises(ValueError if isinstance(wrong, str) else TypeError, match=r"type: .* net.*mnt \(mount\)"):
        nsapi.current(wrong)


# ---- identity and relatives ----


def test_handles_on_the_same_namespace_are_equal(anyone: Runner) -> None:
    """==, hash and ns_id tell namespaces apart, however they were opened, and agree with (dev, ino)."""

    def body() -> list[object]:
        import fcntl

        def kernels_word(fd: int) -> int | None:
            try:
                return int.from_bytes(fcntl.ioctl(fd, 0x8008B70D, bytes(8)), sys.byteorder)  # NS_GET_ID
            except OSError:
                return None

        answers: list[object] = []
        with unshared(*NEW_OF_EACH) as parent:
            for type in TYPES:
                ours, again = nsapi.current(type), nsapi.open(f"/proc/self/ns/{type}")
                other = nsapi.open(only_child(parent.pid), type)
                answers += [
                    ours == again,
                    hash(ours) == hash(again),
                    ours.id == again.id,
                    list(ours.id) == same_id(f"/proc/self/ns/{type}"),
                    ours.ns_id == again.ns_id == ours.ns_id,
                    type == "mnt" or ours.ns_id == kernels_word(ours.fileno()),
                    ours != other,
                    ours.id != other.id,
                    ours.ns_id is None or ours.ns_id != other.ns_id,
                    len({ours, again, other}) == 2,
                    f"{type}:[{ours.id[1]}]" in repr(ours),
                    ours != ours.id,
                    (ours == "net") is False,
                ]
                for handle in (ours, again, other):
                    handle.close()
        return answers

    assert anyone(body) == [True] * 13 * 8


def test_ns_id_of_net_is_the_cookie_of_its_sockets(anyone: Runner) -> None:
    """What SO_NETNS_COOKIE says of a socket is the ns_id of its namespace."""

    def body() -> list[object]:
        pairs: list[object] = []
        for _ in range(2):
            with socket.socket() as here:
                handle = nsapi.current("net")
                cookie = int.from_bytes(here.getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder)
                pairs.append([handle.ns_id, cookie])
                handle.close()
            if not pairs[1:]:
                nsapi.unshare(*(["net"] if os.getuid() == 0 else ["user", "net"]))
        return pairs

    (first, cookie), (second, other_cookie) = anyone(body)
    if first is None:
        lacking("Linux 6.18, for NS_GET_ID")
    assert first == cookie != other_cookie == second


def test_ns_id_is_none_where_the_kernel_tells_none(root: Runner) -> None:
    """Before Linux 6.18 only mnt has an id, by its own ioctl; before 6.8 none."""

    def body() -> list[object]:
        handles = {type: nsapi.current(type) for type in TYPES}
        new = handles["mnt"].ns_id
        answer_enosys(("ioctl", 0x8008B70D), errnum=25)
        some = {type: handle.ns_id for type, handle in handles.items()}
        answer_enosys(("ioctl", 0x8008B705), errnum=25)
        none = {type: handle.ns_id for type, handle in handles.items()}
        for handle in handles.values():
            handle.close()
        return [new, some, none]

    new, some, none = root(body)
    assert some == {**dict.fromkeys(TYPES), "mnt": new}
    assert none == dict.fromkeys(TYPES)


@pytest.mark.parametrize("type", TYPES)
def test_owner_and_parent_lead_to_the_top(anyone: Runner, type: str) -> None:
    """Of a namespace made in a new user namespace: that one owns it, ours owns that; only pid and user have parents."""

    def body(type: str) -> dict[str, object]:
        with unshared(*NEW_OF_EACH) as parent:
            handle = nsapi.open(only_child(parent.pid), type)
        # From here on no process is left inside: the handle alone keeps it and its relatives.
        chain, each = [], handle.owner
        while each is not None:
            chain.append([*each.id, each.type.proc_name, each.owner_uid])
            each = each.owner
        parents, each = [], handle.parent
        while each is not None:
            parents.append([*each.id, each.type.proc_name])
            each = each.parent
        answer = {
            "chain": chain,
            "parents": parents,
            "ours": [*same_id("/proc/self/ns/user"), "user"],
            "our pid": [*same_id("/proc/self/ns/pid"), "pid"],
            "own": [*handle.id, type],
            "uid": os.getuid(),
            "owner_uid": handle.owner_uid,
            "kept": handle.owner is handle.owner and handle.parent is handle.parent,
            "inheritable": handle.owner is None or os.get_inheritable(handle.owner.fileno()),
        }
        handle.close()
        return answer

    answer = anyone(body, type)
    owners = [each[:3] for each in answer["chain"]]
    if type == "user":  # the owner of a user namespace is its parent
        assert answer["owner_uid"] == answer["uid"]
        assert owners[0] == answer["ours"]
        assert answer["parents"] == owners
    else:
        assert answer["owner_uid"] is None
        assert answer["chain"][0][3] == answer["uid"]
        assert owners[1] == answer["ours"]
        assert owners[0] not in (answer["ours"], answer["own"])
        if type == "pid":
            assert answer["parents"][0] == answer["our pid"]
        else:
            assert answer["parents"] == []
    # At the top, or where the caller's own user namespace ends, the kernel says no more.
    assert owners[-1] == answer["ours"]
    assert answer["kept"]
    assert not answer["inheritable"]


def test_owner_and_parent_are_none_where_the_kernel_hides_them(anyone: Runner) -> None:
    """From inside a user namespace the owners of what is outside cannot be seen: None, not an error."""

    def body() -> list[object]:
        outside = nsapi.current("net")
        top = nsapi.current("user")
        nsapi.unshare("user")
        inside = nsapi.current("user")
        answers: list[object] = [outside.owner, top.owner, top.parent, inside.owner, inside.parent]
        answers += [outside.owner, outside.parent, outside.owner_uid]
        for handle in (outside, top, inside):
            handle.close()
        return answers

    assert anyone(body) == [None] * 8


def test_owner_uid_is_as_the_caller_sees_it(anyone: Runner) -> None:
    """The maker of a user namespace, in the uids of the asker: 65534 to one to whom it is not mapped."""

    def body() -> list[object]:
        outside = nsapi.current("user")
        with unshared("--user") as process:
            handle = nsapi.open(process, "user")
        answers: list[object] = [handle.owner_uid, os.getuid(), outside.owner_uid]
        nsapi.unshare("user")
        answers.append(handle.owner_uid)
        handle.close()
        outside.close()
        return answers

    maker, me, top, unmapped = anyone(body)
    assert (maker, unmapped) == (me, 65534)
    assert isinstance(top, int)


# ---- life and death of the fd ----


def test_closing_ends_the_fd_and_leaves_what_is_known(anyone: Runner) -> None:
    """close() may be called twice; afterwards type, id, equality and hash remain, and the rest is a ValueError."""

    def body() -> list[object]:
        before = fds()
        answers: list[object] = []
        for type in TYPES:
            handle, other = nsapi.current(type), nsapi.current(type)
            known = handle.id, handle.type, hash(handle)
            owner = handle.owner
            handle.close()
            spare = os.open("/", os.O_RDONLY)  # has the number now
            handle.close()
            os.fstat(spare)
            os.close(spare)
            answers += [(handle.id, handle.type, hash(handle)) == known, handle == other, "closed" in repr(handle)]
            answers.append(owner is None or "ValueError" in failure(owner.fileno)["classes"])  # type: ignore[operator]
            for use in (
                handle.fileno,
                handle.duplicate,
                handle.__enter__,
                lambda: handle.ns_id,
                lambda: handle.owner,
                lambda: nsapi.open(handle),
                lambda: nsapi.setns(handle),
            ):
                answer = failure(use)
                answers.append("ValueError" in answer["classes"] and "closed" in answer["text"])  # type: ignore[operator]
            other.close()
        return [*answers, before == fds()]

    assert anyone(body) == [True] * (11 * 8 + 1)


def test_relatives_are_closed_with_their_handle(root: Runner) -> None:
    """owner and parent belong to the handle that gave them: closing it closes the whole chain."""

    def body() -> list[object]:
        with unshared("--user", "--map-root-user", "--pid", "--fork") as parent:
            handle = nsapi.open(only_child(parent.pid), "pid")
        before = fds()
        owner, above = handle.owner, handle.parent
        assert owner is not None
        assert above is not None
        top = owner.parent
        assert top is not None
        assert len(fds()) == len(before) + 3
        handle.close()
        dead = ["ValueError" in failure(each.fileno)["classes"] for each in (owner, above, top)]  # type: ignore[operator]
        return [*dead, len(fds()) == len(before) - 1]

    assert root(body) == [True] * 4


def test_a_handle_that_is_never_closed_warns_and_closes_itself(anyone: Runner) -> None:
    """A forgotten handle is a ResourceWarning that names it, and no leak, even where warnings are errors."""

    def body() -> list[object]:
        before = fds()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            handle = nsapi.current("net")
            assert handle.owner is not None
            del handle
        answers: list[object] = [[each.category.__name__, str(each.message)] for each in caught]
        caught.clear()  # each holds its source
        answers.append(before == fds())
        unraisable: list[object] = []
        sys.unraisablehook = lambda args: unraisable.append(args.exc_type.__name__)
        handle = nsapi.current("net")
        del handle
        return [*answers, unraisable, before == fds()]

    (kind, text), closed, unraisable, closed_again = anyone(body)
    assert kind == "ResourceWarning"
    assert "net:[" in text
    assert closed
    assert unraisable == ["ResourceWarning"]
    assert closed_again


def test_a_closed_handle_does_not_warn(root: Runner) -> None:
    """Nothing is said of handles that were closed, or refused, however they are thrown away."""

    def body() -> int:
        import gc

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            handle = nsapi.current("net")
            cycle: list[object] = [handle]
            cycle.append(cycle)
            handle.close()
            del handle, cycle
            failure(lambda: nsapi.open("/proc/self/ns/net", "uts"))
            gc.collect()
        return len(caught)

    assert root(body) == 0


def test_a_handle_keeps_its_namespace_alive_without_a_process(root: Runner) -> None:
    """What was set inside is still there after the last process has ended."""

    def body() -> str:
        with ready("unshare", "--uts", "sh", "-c", "hostname kept; echo ready; exec sleep 1000") as process:
            handle = nsapi.open(process, "uts")
        with handle:
            name = socket.gethostname()
        handle.close()
        return name

    assert root(body) == "kept"


def test_a_duplicate_is_independent(root: Runner) -> None:
    """open(handle) and duplicate() make handles on the same namespace whose ends do not touch each other."""

    def body() -> list[object]:
        handle = nsapi.current("net")
        first, second = handle.duplicate(), nsapi.open(handle, "net")
        handle.close()
        answers: list[object] = [first == second == handle, first.fileno() != second.fileno()]
        first.close()
        answers.append(os.fstat(second.fileno()).st_ino == second.id[1])
        second.close()
        return answers

    assert root(body) == [True] * 3


def test_pickling_and_copying_are_refused(anyone: Runner) -> None:
    """An fd means nothing elsewhere: TypeError, and the handle stays usable."""

    def body() -> list[object]:
        import copy
        import pickle

        handle = nsapi.current("net")
        answers = [failure(lambda: use(handle)) for use in (pickle.dumps, copy.copy, copy.deepcopy)]
        handle.fileno()
        handle.close()
        return [[answer["classes"], answer["text"]] for answer in answers]

    for classes, text in anyone(body):
        assert "TypeError" in classes
        assert "cannot be pickled or copied" in text


def test_closing_between_any_two_calls_never_touches_a_reused_fd(root: Runner) -> None:
    """Closed by somebody else in the middle of a call, that call speaks of its own namespace or is a ValueError."""

    def body() -> dict[str, list[object]]:
        with unshared("--user", "--uts") as mine, unshared("--user", "--uts") as decoy:
            home = nsapi.current("uts")
            path, decoys_path = f"/proc/{mine.pid}/ns/uts", f"/proc/{decoy.pid}/ns/uts"
            right = nsapi.open(path)
            assert right.owner is not None
            there, owners = list(right.id), list(right.owner.id)

            def inside(handle: nsapi.NamespaceHandle) -> object:
                with handle:
                    return same_id("/proc/self/ns/uts") == there

            def entered(handle: nsapi.NamespaceHandle) -> object:
                with nsapi.enter(handle):
                    return same_id("/proc/self/ns/uts") == there

            def visited(handle: nsapi.NamespaceHandle) -> object:
                with nsapi.visit([handle], "uts") as each:
                    next(each)
                    return same_id("/proc/self/ns/uts") == there

            def moved(handle: nsapi.NamespaceHandle) -> object:
                nsapi.setns(handle, "uts")
                try:
                    return same_id("/proc/self/ns/uts") == there
                finally:
                    nsapi.setns(home)

            def copied(handle: nsapi.NamespaceHandle) -> object:
                copy = handle.duplicate()
                copy.close()
                return list(copy.id) == there

            def opened(handle: nsapi.NamespaceHandle) -> object:
                copy = nsapi.open(handle)
                copy.close()
                return list(copy.id) == there

            def owned(handle: nsapi.NamespaceHandle) -> object:
                owner = handle.owner
                assert owner is not None
                return list(owner.id) == owners

            def known(handle: nsapi.NamespaceHandle) -> object:
                return handle.ns_id == right.ns_id

            answers: dict[str, list[object]] = {}
            before = fds()
            for use in (inside, entered, visited, moved, copied, opened, owned, known):
                answers[use.__name__] = []
                for moment in range(1, 1000):
                    handle, count = nsapi.open(path), 0
                    spares: list[int] = []
                    number = handle.fileno()

                    def hook(frame: Any, event: str, arg: Any) -> None:
                        nonlocal count
                        count += event in ("call", "c_call")
                        # With its lock held another thread's close() would wait, as ours cannot.
                        if count == moment and not spares and not handle._lock.locked():
                            spares.extend(os.open(decoys_path, os.O_RDONLY) for _ in range(1))
                            handle.close()
                            spares.extend(os.open(decoys_path, os.O_RDONLY) for _ in range(3))

                    sys.setprofile(hook)
                    try:
                        answers[use.__name__].append(use(handle))
                    except ValueError:
                        answers[use.__name__].append("closed")
                    finally:
                        sys.setprofile(None)
                    for fd in spares:
                        assert os.readlink(f"/proc/self/fd/{fd}") == ns("uts", decoy.pid)
                        os.close(fd)
                    handle.close()
                    assert not os.path.lexists(f"/proc/self/fd/{number}")
                    assert ns("uts") == f"uts:[{home.id[1]}]"
                    if count < moment:
                        break
            assert before == fds()
            right.close()
            home.close()
        return answers

    for name, answers in root(body).items():
        assert len(answers) > 3, name
        assert set(answers) == {True, "closed"}, (name, answers)


def test_closing_while_threads_use_it_never_touches_a_reused_fd(root: Runner) -> None:
    """Threads that use a handle which another closes, again and again, never see the namespace that has its number."""

    def body() -> list[object]:
        sys.setswitchinterval(1e-6)
        wrong: list[object] = []
        with unshared("--uts") as mine, unshared("--uts") as decoy:
            path, decoys_path = f"/proc/{mine.pid}/ns/uts", f"/proc/{decoy.pid}/ns/uts"
            right = nsapi.open(path)
            before = fds()

            def use(handle: nsapi.NamespaceHandle, start: threading.Barrier) -> None:
                start.wait()
                try:
                    while True:
                        if handle.ns_id != right.ns_id:
                            wrong.append("ns_id")
                        copy = handle.duplicate()
                        copy.close()
                        if copy != right:
                            wrong.append("duplicate")
                        with handle:
                            if ns("uts") != f"uts:[{right.id[1]}]":
                                wrong.append("with")
                except ValueError:
                    handle.close()
                except Exception as error:
                    wrong.append(repr(error))

            for _ in range(150):
                handle, start = nsapi.open(path), threading.Barrier(4)
                threads = [threading.Thread(target=use, args=(handle, start)) for _ in range(3)]
                for thread in threads:
                    thread.start()
                start.wait()
                handle.close()
                spares = [os.open(decoys_path, os.O_RDONLY) for _ in range(4)]
                for thread in threads:
                    thread.join()
                for fd in spares:
                    if os.readlink(f"/proc/self/fd/{fd}") != ns("uts", decoy.pid):
                        wrong.append("closed another's fd")
                    os.close(fd)
            if before != fds():
                wrong.append("leak")
            right.close()
        return wrong

    assert root(body) == []
