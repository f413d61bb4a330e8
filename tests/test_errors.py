"""NamespaceError: an OSError in every respect; and what it advises, in real situations on the real kernel."""

from __future__ import annotations

import copy
import errno
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inside import TYPES, drop_all_capabilities, failure

import nsapi
from nsapi import NamespaceError, NamespaceRestoreError, NamespaceType, Unsupported

# No test is timed, so neither are hypothesis's examples.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

CLASSES: tuple[type[NamespaceError], ...] = (NamespaceError, Unsupported, NamespaceRestoreError)
BUILTIN = {
    errno.EPERM: PermissionError,
    errno.EACCES: PermissionError,
    errno.ENOENT: FileNotFoundError,
    errno.ESRCH: ProcessLookupError,
    errno.EEXIST: FileExistsError,
    errno.ENOTDIR: NotADirectoryError,
    errno.EISDIR: IsADirectoryError,
    errno.ECHILD: ChildProcessError,
    errno.EAGAIN: BlockingIOError,
    errno.EINTR: InterruptedError,
    errno.EPIPE: BrokenPipeError,
    errno.ETIMEDOUT: TimeoutError,
    errno.EINVAL: OSError,
    errno.ENOSPC: OSError,
    errno.ENOMEM: OSError,
    errno.EBUSY: OSError,
    errno.EUSERS: OSError,
    errno.ERANGE: OSError,
    errno.ENOSYS: OSError,
}
FACTS: dict[str, Any] = {
    "step": "unshare user",
    "index": 0,
    "total": 7,
    "type": NamespaceType.USER,
    "hint": "user.max_user_namespaces is 0",
}


# ---- the class ----


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("errnum", BUILTIN)
def test_it_is_an_oserror_of_the_class_for_its_errno(cls: type[NamespaceError], errnum: int) -> None:
    """Existing ``except`` clauses catch it, and no others: of the standard classes it is the one that OSError would be."""
    error = cls(errnum, None, "/x", **FACTS)
    plain = OSError(errnum, os.strerror(errnum), "/x")
    assert type(plain) is BUILTIN[errnum]
    standard = {each for each in type(error).__mro__ if each.__module__ == "builtins"}
    assert standard == set(type(plain).__mro__)
    assert isinstance(error, cls)
    assert (error.errno, error.strerror, error.filename) == (plain.errno, plain.strerror, plain.filename)
    assert error.args == plain.args
    assert type(error).__name__ == cls.__name__
    with pytest.raises(BUILTIN[errnum]):
        raise error


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_not_known_is_none(cls: type[NamespaceError]) -> None:
    """Only errno is needed; the text for it is the C library's, and args are the two that OSError has."""
    error = cls(errno.ENOSPC)
    assert (error.errno, error.strerror, error.filename) == (errno.ENOSPC, "No space left on device", None)
    assert (error.step, error.index, error.total, error.type, error.path, error.hint) == (None,) * 6
    assert str(error) == "[Errno 28] No space left on device"
    assert error.args == (errno.ENOSPC, "No space left on device")


def test_its_facts_are_attributes() -> None:
    """As documented; path and filename are the same."""
    error = NamespaceError(errno.ENOSPC, "full", "/x", **FACTS)
    assert {name: getattr(error, name) for name in FACTS} == FACTS
    assert (error.path, error.filename, error.strerror) == ("/x", "/x", "full")


@pytest.mark.parametrize(
    ("arguments", "facts", "text"),
    [
        ((28,), FACTS, "[Errno 28] No space left on device: unshare user (step 1 of 7) — user.max_user_namespaces is 0"),
        ((28,), {**FACTS, "hint": None}, "[Errno 28] No space left on device: unshare user (step 1 of 7)"),
        ((22,), {"step": "check", "hint": "why"}, "[Errno 22] Invalid argument: check — why"),
        ((22, None, "/x"), {"step": "check", "hint": "why"}, "[Errno 22] Invalid argument: check: '/x' — why"),
        ((22, None, "c"), {"step": "check", "hint": "why"}, "[Errno 22] Invalid argument: check: 'c' — why"),
        ((2, None, "/x"), {"step": "open /x"}, "[Errno 2] No such file or directory: open /x"),
        ((20, None, "a"), {"step": "exec a", "index": 0, "total": 1}, "[Errno 20] Not a directory: exec a (step 1 of 1)"),
        ((2, None, "/x"), {}, "[Errno 2] No such file or directory: '/x'"),
        ((2, "gone"), {}, "[Errno 2] gone"),
    ],
)  # fmt: skip
def test_its_text(arguments: tuple[Any, ...], facts: dict[str, Any], text: str) -> None:
    """Errno, step and place, file where the step does not name it, advice after a dash."""
    assert str(NamespaceError(*arguments, **facts)) == text


@given(
    errnum=st.sampled_from(list(BUILTIN)),
    filename=st.none() | st.sampled_from(["c", "fd 3", "blue"]) | st.text().map("/x".__add__),
    step=st.none() | st.sampled_from(["check", "open /x"]),
    hint=st.none() | st.text(min_size=1),
    place=st.none() | st.tuples(st.integers(0, 9), st.integers(10, 20)),
)
def test_its_text_leaves_nothing_out(
    errnum: int, filename: str | None, step: str | None, hint: str | None, place: tuple[int, int] | None
) -> None:
    """Whatever is known is told."""
    index, total = place or (None, None)
    text = str(NamespaceError(errnum, None, filename, step=step, hint=hint, index=index, total=total))
    assert text.startswith(f"[Errno {errnum}] {os.strerror(errnum)}")
    if step is not None:
        assert f": {step}" in text
    if place:
        assert f" (step {place[0] + 1} of {place[1]})" in text
    if hint is not None:
        assert text.endswith(f" — {hint}")
    if filename is not None:
        assert repr(filename) in text or (step == "open /x" and filename == "/x")


@pytest.mark.parametrize("errnum", BUILTIN)
@pytest.mark.parametrize("cls", CLASSES)
def test_it_pickles_whole(cls: type[NamespaceError], errnum: int) -> None:
    """Sent from another process it is the same: class, built-in class, text, facts, notes; so is a copy."""
    error = cls(errnum, "text", "/x", **FACTS)
    notes = ["a note", "another"]
    vars(error)["__notes__"] = notes  # add_note() is Python 3.11's
    again = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for same in (*again, copy.copy(error), copy.deepcopy(error)):
        assert isinstance(same, cls)
        assert isinstance(same, BUILTIN[errnum])
        assert str(same) == str(error)
        assert same.args == error.args
        assert vars(same) == vars(error)
        assert (same.errno, same.strerror, same.filename) == (errnum, "text", "/x")
        assert vars(same)["__notes__"] == notes
        assert pickle.dumps(same)  # and on to a third process


class Mine(Unsupported):
    """Somebody's own."""


@pytest.mark.parametrize("errnum", [errno.ENOSYS, errno.EPERM])
def test_what_was_made_of_it_pickles_too(errnum: int) -> None:
    """A subclass comes back as itself, and an attribute with it, as those of every exception do."""
    error = Mine(errnum, **FACTS)
    error.more = ["anything"]  # type: ignore[attr-defined]
    same = pickle.loads(pickle.dumps(error))
    assert isinstance(same, Mine)
    assert vars(same) == vars(error)


def test_it_comes_back_from_another_process(anyone: Runner) -> None:
    """As the standard library's pools send it: caught by the class of its errno, with its step and advice."""

    def body() -> list[object]:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        drop_all_capabilities()
        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            answer = failure(pool.submit(nsapi.unshare, "uts").result)
        return [answer["classes"], answer["text"]]

    classes, text = anyone(body)
    assert classes[:2] == ["NamespaceError", "NamespaceError"]
    assert "PermissionError" in classes
    assert text.startswith("[Errno 1] Operation not permitted: unshare uts (step 1 of 1) — needs CAP_SYS_ADMIN")


def test_a_real_failure_has_all_its_facts(anyone: Runner) -> None:
    """The step by words, place and type; the file where there is one; what is not, is None."""

    def body() -> list[list[object]]:
        drop_all_capabilities()
        calls: list[Any] = [
            lambda: nsapi.unshare("uts"),
            lambda: nsapi.unshare("uts", "net"),
            lambda: nsapi.setns(-1),
            lambda: nsapi.enter(os.getpid(), "net").__enter__(),
            lambda: nsapi.run(["/nsapi/nope"], config=nsapi.Config()),
        ]
        found: list[list[object]] = []
        for call in calls:
            try:
                call()
            except nsapi.NamespaceError as error:
                type = None if error.type is None else error.type.name
                found.append([error.errno, error.step, error.index, error.total, type, error.path, error.filename])
        return [[str(os.getpid()), *row] for row in found]

    rows = anyone(body)
    process = f"process {rows[0][0]}"
    assert [row[1:] for row in rows] == [
        [errno.EPERM, "unshare uts", 0, 1, "UTS", None, None],
        [errno.EPERM, "unshare uts,net", 0, 1, None, None, None],
        [errno.EBADF, "setns", None, None, None, "fd -1", "fd -1"],
        [errno.EPERM, "check that the net namespace can be returned to", 1, 3, "NET", process, process],
        [errno.ENOENT, "exec /nsapi/nope", 4, 5, None, "/nsapi/nope", "/nsapi/nope"],
    ]


def test_subclasses_are_what_they_say() -> None:
    """A caller can tell what will never work here, and a lost thread, from what failed this time."""
    for cls in (Unsupported, NamespaceRestoreError):
        assert issubclass(cls, NamespaceError)
    assert not isinstance(NamespaceError(errno.EPERM), (Unsupported, NamespaceRestoreError))
    assert not issubclass(Unsupported, NamespaceRestoreError)
    assert not issubclass(NamespaceRestoreError, Unsupported)


# ---- advice: situations, as they come, and what helps ----


class Expected(NamedTuple):
    """What a caller sees in a situation: class, errno, step, what is said and what must not be, since it would mislead."""

    raised: str
    errnum: int
    step: str
    words: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


def _eperm(step: str, *words: str, never: tuple[str, ...] = ()) -> Expected:
    return Expected("PermissionError", errno.EPERM, step, words, never)


def _enoent(step: str, *words: str, never: tuple[str, ...] = ()) -> Expected:
    return Expected("FileNotFoundError", errno.ENOENT, step, words, never)


def _esrch(step: str, *words: str) -> Expected:
    return Expected("ProcessLookupError", errno.ESRCH, step, words, ("descendant",))


def _other(errnum: int, step: str, *words: str, never: tuple[str, ...] = ()) -> Expected:
    return Expected("NamespaceError", errnum, step, words, never)


_NEEDS = ("needs CAP_SYS_ADMIN", "add 'user'")
_JOIN_NEEDS = ("needs CAP_SYS_ADMIN", "here", "owns the target")
_THREADS = ("3 threads", "run", "Popen")
_PID_IS_SET = ("pid namespace for children", "set already")
_NO_THREADS = ("threads", "unshare_fs", "single-threaded", "cannot join")
_WORKS = None

#: For root and for an ordinary user; the situations themselves are in the body below.
SITUATIONS: dict[str, Expected | None] = {
    # EPERM without CAP_SYS_ADMIN
    "no privilege: run uts": _eperm("clone uts", *_NEEDS),
    "no privilege: run time": _eperm("unshare time", *_NEEDS),
    "no privilege: unshare": _eperm("unshare uts,net", *_NEEDS),
    "no privilege: enter": _eperm("check that the net namespace can be returned to", *_JOIN_NEEDS, never=("add 'user'",)),
    "no privilege: setns": _eperm("setns net", *_JOIN_NEEDS, never=("add 'user'",)),
    "no privilege: run in a target": _eperm("setns net of process *", *_JOIN_NEEDS, never=("add 'user'",)),
    "no privilege: run with user": _WORKS,
    "no privilege: unshare with user": _WORKS,
    "a chroot: run user": _eperm("clone user", "chroot", never=("add 'user'",)),
    "a chroot: unshare user": _eperm("unshare user", "chroot", never=("add 'user'",)),
    "no map: unshare user": _eperm("unshare user", "without a map"),
    "a policy forbids unshare": _eperm("unshare uts", "policy", never=("needs CAP_SYS_ADMIN", "add 'user'")),
    "a policy forbids clone": _eperm("clone uts", "policy", never=("needs CAP_SYS_ADMIN", "add 'user'")),
    "a policy forbids setns": _eperm("check that the net namespace can be returned to", "policy"),
    "a policy knows no unshare": Expected("Unsupported", errno.ENOSYS, "unshare uts"),
    # ENOSPC
    **{
        f"limit 0: {verb} {type}": _other(
            errno.ENOSPC,
            f"unshare {type}" if verb == "unshare" or type == "time" else f"clone {type}",
            f"user.max_{type}_namespaces is 0",
            never=("nested", "limit is reached"),
        )
        for type in TYPES
        for verb in ("run", "unshare")
    },
    "limit 0: of several": _other(
        errno.ENOSPC, "clone user,uts,net", "user.max_net_namespaces is 0", never=("max_uts", "max_user", "nested")
    ),
    "a chroot without a Python: run uts at limit 0": _other(errno.ENOSPC, "clone uts", "user.max_uts_namespaces is 0"),
    "limit 1 reached": _other(errno.ENOSPC, "clone uts", "limit", "user.max_uts_namespaces is 1", never=("nested",)),
    "limit 0 of the user namespace above": _other(errno.ENOSPC, "clone uts", "limit", "above", never=("nested",)),
    "limit 0 without /proc": _other(errno.ENOSPC, "unshare uts", "limit", never=("None", "nested")),
    "32 user namespaces above": _other(errno.ENOSPC, "unshare user", "nested", "33"),
    "32 user namespaces above: run": _other(errno.ENOSPC, "clone user", "nested", "33"),
    "32 user namespaces above: run uts": _WORKS,
    "32 pid namespaces above": _other(errno.ENOSPC, "unshare pid", "nested", "33"),
    # EINVAL
    "3 threads: unshare user": _other(errno.EINVAL, "check", *_THREADS, never=("descendant",)),
    "3 threads: setns user": _other(errno.EINVAL, "check", *_THREADS, never=("descendant",)),
    "3 threads: enter mnt": _other(errno.EINVAL, "check", *_THREADS, "unshare_fs=True"),
    "3 threads: enter mnt, unshare_fs": _WORKS,
    "3 threads, no /proc: unshare user": _other(errno.EINVAL, "check", "several threads", "run", never=("0 thread",)),
    "3 threads: setns time": _other(errno.EUSERS, "check", *_THREADS),
    "3 threads: run user": _WORKS,
    "2 pid namespaces: unshare": _other(errno.EINVAL, "unshare pid", *_PID_IS_SET, never=_NO_THREADS),
    "2 pid namespaces: run user,pid": _other(errno.EINVAL, "clone user,pid", *_PID_IS_SET, never=_NO_THREADS),
    "2 pid namespaces, 3 threads: run user,pid,mnt": _other(
        errno.EINVAL, "clone user,pid,mnt", *_PID_IS_SET, never=_NO_THREADS
    ),
    "2 pid namespaces, 3 threads: run pid,mnt": _other(errno.EINVAL, "clone pid,mnt", *_PID_IS_SET, never=_NO_THREADS),
    "2 pid namespaces, 3 threads: unshare mnt,pid": _other(
        errno.EINVAL, "unshare mnt,pid", *_PID_IS_SET, never=_NO_THREADS
    ),
    "3 threads: setns mnt and the pid namespace above": _other(
        errno.EINVAL, "setns mnt,pid", "descendant", never=("pass unshare_fs", "threads")
    ),
    "setns of the own user namespace": _other(errno.EINVAL, "check", "it is in", never=("threads", "descendant")),
    # the program
    "no program": _enoent("exec nsapi-nope", "no such program", "PATH"),
    "no program, by path": _enoent("exec /nsapi/nope", "no such program"),
    "no interpreter of a script": _enoent("exec *script", "interpreter"),
    "no interpreter of a binary": _enoent("exec *binary", "interpreter"),
    "no cwd": _enoent("chdir /nsapi/nope", never=("program", "PATH", "interpreter")),
    "not executable": Expected("PermissionError", errno.EACCES, "exec *plain", ("not executable",), ("PTRACE",)),
    "a directory": Expected("PermissionError", errno.EACCES, "exec /", ("not executable",)),
    "on a noexec mount": Expected("PermissionError", errno.EACCES, "exec *true", ("noexec",)),
    "an interpreter that is not executable": Expected("PermissionError", errno.EACCES, "exec *script", ("interpreter",)),
    "no program at all": _other(errno.ENOEXEC, "exec *words", "#!", "this machine"),
    "a folder of PATH that may not be searched": Expected(
        "PermissionError", errno.EACCES, "exec nsapi-nope", ("PATH",)
    ),
    "below a file": Expected("NotADirectoryError", errno.ENOTDIR, "exec *plain/x", never=("noexec",)),
    # ESRCH
    "dead: open": _esrch("pidfd_open of process *", "has ended", "another's"),
    "dead: enter": _esrch("pidfd_open of process *", "has ended", "another's"),
    "dead: run": _esrch("pidfd_open of process *", "has ended", "another's"),
    "dead: run in all of it": _esrch("pidfd_open of process *", "has ended", "another's"),
    "dead: run by keyword": _esrch("pidfd_open of process *", "has ended", "another's"),
    "dead: setns of its pidfd": _esrch("setns net", "has ended"),
    "dead: Popen": _esrch("check", "ended with 0", "waited for"),
    "zombie: run": _esrch("*", "has ended"),
    # ENOMEM
    "pid 1 has ended": _other(errno.ENOMEM, "clone uts", "pid 1", "has ended"),
    "no memory": _other(errno.ENOMEM, "map the stack of a child", never=("pid 1",)),
    # /proc
    "no CAP_SETFCAP": _eperm("write uid_map", "CAP_SETFCAP", never=("own id only", "setgroups")),
    "a clock before its beginning": _other(errno.ERANGE, "write timens_offsets", "negative"),
    "a clock beyond its end": _other(errno.ERANGE, "write timens_offsets", "too large"),
    "oom_score_adj lowered": Expected("PermissionError", errno.EACCES, "write oom_score_adj", ("CAP_SYS_RESOURCE",)),
    # mounts
    "/proc is covered": _eperm("mount /proc", "covered", "mounts=[]"),
    "/proc is covered: mounts=[]": _WORKS,
    "a chroot: run mnt": _other(errno.EINVAL, "make all mounts private", "chroot", 'propagation="unchanged"'),
    "a chroot: run mnt unchanged": _WORKS,
    "a chroot: run mnt,pid unchanged": _other(
        errno.EINVAL, "make /proc private", "/proc", "mounts=[]", never=('propagation="unchanged"', '"/" is no mount')
    ),
    "a chroot: run mnt,pid unchanged, mounts=[]": _WORKS,
    # limits, capabilities
    "a hard limit raised": _eperm("set RLIMIT_CORE", "CAP_SYS_RESOURCE", never=("nr_open",)),
    "more files than fs.nr_open": _eperm("set RLIMIT_NOFILE", "fs.nr_open"),
    "bounding dropped": _eperm("drop bounding capabilities", "CAP_SETPCAP"),
    "a capability that is not there": _eperm("set capabilities", "does not have"),
    # cgroups
    "a cgroup v1 directory": _other(errno.EINVAL, "check", "cgroup_path", "cgroup v1"),
    "no cgroup": _other(errno.EINVAL, "check", "cgroup_path", "no cgroup2", never=("v1",)),
}  # fmt: skip
#: Only root can make them.
AS_ROOT: dict[str, Expected | None] = {
    "a cgroup with controllers": _other(errno.EBUSY, "clone uts", "controllers", "leaf"),
    "a cgroup with controllers: a leaf": _WORKS,
    "a working directory that may not be searched": Expected(
        "PermissionError",
        errno.EACCES,
        "open the working directory to return to",
        ("directory",),
        ("PTRACE", "process"),
    ),
}


def fail_in_every_situation(folder: str) -> dict[str, Any]:
    """In the child: each situation in a process of its own, and how its last call failed; empty where it worked."""
    import codecs
    import ctypes
    import re
    import resource
    import shutil
    import struct
    import traceback
    from functools import partial as do

    from nsapi import _native
    from nsapi._fields import CAPABILITIES

    folder = f"{folder}/{os.getuid()}"
    os.mkdir(folder)
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"  # the tester's own may have what this user cannot search
    kept: list[object] = []  # until the process ends: nothing is finalized, so nothing warns
    unshare, uts = nsapi.unshare, nsapi.NamespaceType.UTS.flag

    def run(*types: str, argv: tuple[str, ...] = ("true",), cwd: str | None = None, **fields: Any) -> None:
        assert nsapi.run(argv, config=nsapi.Config.new(*types, **fields), cwd=cwd).returncode == 0

    def join(target: Any, *types: str) -> None:
        nsapi.run(["true"], target=target, types=types)

    def enter(*arguments: Any, **keywords: Any) -> None:
        kept.append(nsapi.enter(*arguments, **keywords))
        kept.append(kept[-1].__enter__())  # type: ignore[attr-defined]

    def own(type: str) -> int:
        return os.open(f"/proc/self/ns/{type}", os.O_RDONLY)

    def write(path: str, text: str) -> None:
        # In bytes: no codec is loaded before nsapi itself has to do without one.
        with open(path, "wb") as file:
            file.write(text.encode())

    def mount(*arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)

    def be_root() -> None:
        """In a user namespace of one's own, with all capabilities there."""
        uid, gid = os.getuid(), os.getgid()
        unshare("user")
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"0 {uid} 1")
        write("/proc/self/gid_map", f"0 {gid} 1")

    def be_root_without_proc() -> None:
        be_root()
        unshare("mnt")
        mount("-t", "tmpfs", "none", "/proc")

    def limit(type: str, number: int) -> None:
        write(f"/proc/sys/user/max_{type}_namespaces", str(number))

    def go_on_in_a_child() -> None:
        """As the first process of the pid namespace for children; its parent waits and ends as it does."""
        pid = os.fork()
        if pid:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)

    def threads() -> None:
        """Two more, until the process ends."""
        for _ in range(2):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    def forbid(call: str, errnum: int = errno.EPERM, flag: int = 0) -> None:
        """By seccomp, as systemd's RestrictNamespaces= does: *call*, where its first argument has *flag*."""
        numbers = {"unshare": (272, 97), "setns": (308, 268), "clone3": (435, 435)}
        number = numbers[call][os.uname().machine == "aarch64"]
        rows = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errnum), (0x06, 0, 0, 0x7FFF0000)]
        if flag:
            rows[1:2] = [(0x15, 0, 3, number), (0x20, 0, 0, 16), (0x45, 0, 1, flag)]
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
        program = struct.pack("HxxxxxxP", len(rows), ctypes.addressof(code))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()

    def chroot(*, proc: bool = False) -> None:
        """A root that is a directory with programs, without Python, and no mount point."""
        be_root()
        unshare("mnt")
        mount("-t", "tmpfs", "none", folder)
        for name in ("bin", "usr", "lib", "lib64", "proc"):
            os.makedirs(f"{folder}/root/{name}")
            if os.path.isdir(f"/{name}") and (proc or name != "proc"):
                mount("--rbind", f"/{name}", f"{folder}/root/{name}")
        library = f"{folder}/root{os.path.dirname(os.__file__)}"
        if os.path.isdir(library):
            mount("-t", "tmpfs", "none", library)
        os.chroot(f"{folder}/root")
        os.chdir("/")

    def nest(type: str) -> None:
        """As deep as it goes, and one namespace less than fails."""
        while not failure(be_root if type == "user" else do(unshare, type)):
            if type == "pid":
                go_on_in_a_child()

    def another_pid_namespace() -> None:
        be_root()
        unshare("pid")

    def another_pid_namespace_and_threads() -> None:
        be_root()
        threads()
        unshare("pid")

    def the_pid_namespace_above() -> None:
        be_root()
        unshare("mnt", "pid")
        go_on_in_a_child()
        kept.append(os.pidfd_open(os.getpid()))
        unshare("pid")
        go_on_in_a_child()
        threads()

    def cover_proc() -> None:
        be_root()
        unshare("mnt", "pid")
        go_on_in_a_child()
        mount("-t", "proc", "none", "/proc")
        mount("-t", "tmpfs", "none", "/proc/sys")

    def start(name: str, content: bytes, mode: int = 0o755, below: str = "") -> None:
        path = f"{folder}/{name}"
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        run("user", argv=(path + below,))

    def start_on_a_noexec_mount() -> None:
        mount("-t", "tmpfs", "-o", "noexec", "none", folder)
        run("user", argv=(shutil.copy(true, f"{folder}/true"),))

    def start_by_a_sealed_path() -> None:
        os.mkdir(f"{folder}/sealed", 0)
        os.environ["PATH"] = f"{folder}/sealed:/usr/bin:/bin"
        try:
            run(argv=("nsapi-nope",))
        finally:
            os.rmdir(f"{folder}/sealed")

    def dead() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["true"])
        process.wait()
        return process

    def pidfd_of_a_dead() -> int:
        process = subprocess.Popen(["sleep", "1000"])
        pidfd = os.pidfd_open(process.pid)
        process.kill()
        process.wait()
        return pidfd

    def zombie() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["true"])
        kept.append(process)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process

    def start_without_memory() -> None:
        config = nsapi.Config.new("user")
        nsapi.run(["true"], config=config)  # once, so that Python has got all that it needs itself
        _native._stacks.clear()
        resource.setrlimit(resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))
        try:
            nsapi.run(["true"], config=config)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

    def stay_in_a_sealed_directory() -> None:
        codecs.lookup("ascii")  # for this Python may be root's alone
        os.mkdir(f"{folder}/sealed", 0o700)
        os.chdir(f"{folder}/sealed")
        os.rmdir(f"{folder}/sealed")
        os.setgroups([])
        os.setresgid(61234, 61234, 61234)
        os.setresuid(61234, 61234, 61234)
        unshare("user", "mnt")

    def mounted(kind: str) -> list[str]:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            lines = [line.split() for line in file]
        return [line[4] for line in lines if line[line.index("-") + 1] == kind]

    def cgroup_v1() -> str | None:
        kept.extend(mounted("cgroup"))
        return None if kept else "a host with cgroup v1"

    def cgroup_with_controllers() -> str | None:
        for top in mounted("cgroup2"):
            known, enabled = (
                pathlib.Path(top, f"cgroup.{name}").read_text(encoding="utf-8").split()
                for name in ("controllers", "subtree_control")
            )
            if known and os.access(f"{top}/cgroup.subtree_control", os.W_OK):
                kept.extend([top, (enabled or known)[0], bool(enabled)])
                return None
        return "a cgroup2 hierarchy with a controller, writable"

    def start_in_a_cgroup_with_controllers(below: str) -> None:
        top, controller, enabled = kept
        path = f"{top}/nsapi-tests-{os.getpid()}"
        if not enabled:
            write(f"{top}/cgroup.subtree_control", f"+{controller}")
        os.makedirs(f"{path}/leaf")
        try:
            write(f"{path}/cgroup.subtree_control", f"+{controller}")
            run("uts", cgroup_path=path + below)
        finally:
            os.rmdir(f"{path}/leaf")
            os.rmdir(path)
            if not enabled:
                write(f"{top}/cgroup.subtree_control", f"-{controller}")

    me, weak = os.getpid, drop_all_capabilities
    true = shutil.which("true") or "/bin/true"
    with open(true, "rb") as file:
        binary = re.sub(rb"/lib(?=[^\0]*/ld-)", b"/nop", file.read(), count=1)
    all_but_one = {"bounding": CAPABILITIES, "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}

    # How each comes about, and last the call that is looked at.
    situations: dict[str, tuple[Callable[[], object], ...]] = {
        "no privilege: run uts": (weak, do(run, "uts")),
        "no privilege: run time": (weak, do(run, "time")),
        "no privilege: unshare": (weak, do(unshare, "uts", "net")),
        "no privilege: enter": (weak, lambda: enter(me(), "net")),
        "no privilege: setns": (weak, lambda: nsapi.setns(own("net"), "net")),
        "no privilege: run in a target": (weak, lambda: join(me(), "net")),
        # For its map root would need CAP_SETFCAP.
        "no privilege: run with user": (weak if os.getuid() else bool, do(run, "uts", "user")),
        "no privilege: unshare with user": (weak, do(unshare, "uts", "user")),
        "a chroot: run user": (do(chroot, proc=True), do(run, "user")),
        "a chroot: unshare user": (do(chroot, proc=True), do(unshare, "user")),
        "no map: unshare user": (do(unshare, "user"), do(unshare, "user")),
        "a policy forbids unshare": (be_root, do(forbid, "unshare", flag=uts), do(unshare, "uts")),
        "a policy forbids clone": (be_root, do(forbid, "clone3"), do(run, "uts")),
        "a policy forbids setns": (be_root, do(unshare, "net"), do(forbid, "setns"), lambda: enter(me(), "net")),
        "a policy knows no unshare": (be_root, do(forbid, "unshare", errno.ENOSYS, uts), do(unshare, "uts")),
        **{f"limit 0: run {each}": (be_root, do(limit, each, 0), do(run, each)) for each in TYPES},
        **{f"limit 0: unshare {each}": (be_root, do(limit, each, 0), do(unshare, each)) for each in TYPES},
        "limit 0: of several": (be_root, do(limit, "net", 0), do(run, "user", "uts", "net")),
        "a chroot without a Python: run uts at limit 0": (do(chroot, proc=True), do(limit, "uts", 0), do(run, "uts")),
        "limit 1 reached": (be_root, do(limit, "uts", 1), do(unshare, "uts"), do(run, "uts")),
        "limit 0 of the user namespace above": (be_root, do(limit, "uts", 0), be_root, do(run, "uts")),
        "limit 0 without /proc": (be_root, do(limit, "uts", 0), be_root_without_proc, do(unshare, "uts")),
        "32 user namespaces above": (do(nest, "user"), do(unshare, "user")),
        "32 user namespaces above: run": (do(nest, "user"), do(run, "user")),
        "32 user namespaces above: run uts": (do(nest, "user"), do(run, "uts")),
        "32 pid namespaces above": (be_root, do(nest, "pid"), do(unshare, "pid")),
        "3 threads: unshare user": (threads, do(unshare, "user", "uts")),
        "3 threads: setns user": (threads, lambda: nsapi.setns(own("user"))),
        "3 threads: setns time": (threads, lambda: nsapi.setns(own("time"))),
        "3 threads: enter mnt": (threads, lambda: enter(me(), "mnt")),
        "3 threads: enter mnt, unshare_fs": (
            be_root,
            do(unshare, "mnt"),
            threads,
            lambda: enter(me(), "mnt", unshare_fs=True),
        ),
        "3 threads, no /proc: unshare user": (be_root_without_proc, threads, do(unshare, "user")),
        "3 threads: run user": (threads, do(run, "user", "mnt", "pid")),
        "2 pid namespaces: unshare": (another_pid_namespace, do(unshare, "pid")),
        "2 pid namespaces: run user,pid": (another_pid_namespace, do(run, "user", "pid")),
        "2 pid namespaces, 3 threads: run user,pid,mnt": (
            another_pid_namespace_and_threads,
            do(run, "user", "pid", "mnt"),
        ),
        "2 pid namespaces, 3 threads: run pid,mnt": (another_pid_namespace_and_threads, do(run, "pid", "mnt")),
        "2 pid namespaces, 3 threads: unshare mnt,pid": (another_pid_namespace_and_threads, do(unshare, "mnt", "pid")),
        "3 threads: setns mnt and the pid namespace above": (
            the_pid_namespace_above,
            lambda: nsapi.setns(kept[0], ("mnt", "pid"), unshare_fs=True),
        ),
        "setns of the own user namespace": (lambda: nsapi.setns(own("user")),),
        "no program": (do(run, "user", argv=("nsapi-nope",)),),
        "no program, by path": (do(run, "user", argv=("/nsapi/nope",)),),
        "no interpreter of a script": (do(start, "script", b"#!/nsapi/nope\n"),),
        "no interpreter of a binary": (do(start, "binary", binary),),
        "no cwd": (do(run, "user", cwd="/nsapi/nope"),),
        "not executable": (do(start, "plain", b"#!/bin/sh\n", 0o644),),
        "a directory": (do(run, "user", argv=("/",)),),
        "on a noexec mount": (be_root, do(unshare, "mnt"), start_on_a_noexec_mount),
        "an interpreter that is not executable": (do(start, "script", b"#!/etc/passwd\n"),),
        "a folder of PATH that may not be searched": (weak, start_by_a_sealed_path),
        "no program at all": (do(start, "words", b"words\n"),),
        "below a file": (do(start, "plain", b"", below="/x"),),
        "dead: open": (lambda: nsapi.open(dead().pid, "net"),),
        "dead: enter": (lambda: enter(dead().pid, "net"),),
        "dead: run": (lambda: join(dead().pid, "net"),),
        "dead: run in all of it": (lambda: join(dead().pid),),
        "dead: run by keyword": (lambda: run("uts", net=dead().pid),),
        "dead: setns of its pidfd": (lambda: nsapi.setns(pidfd_of_a_dead(), "net"),),
        "dead: Popen": (lambda: join(dead(), "net"),),
        "zombie: run": (lambda: join(zombie(), "net"),),
        "pid 1 has ended": (another_pid_namespace, dead, do(run, "uts")),
        "no memory": (start_without_memory,),
        "no CAP_SETFCAP": (be_root, weak, do(run, "user")),
        "a clock before its beginning": (do(run, "user", "time", time_offsets={"boottime": -(10**9)}),),
        "a clock beyond its end": (do(run, "user", "time", time_offsets={"monotonic": 4_611_686_018}),),
        "oom_score_adj lowered": (weak, do(run, oom_score_adj=-1000)),
        "/proc is covered": (cover_proc, do(run, "user", "pid", "mnt")),
        "/proc is covered: mounts=[]": (cover_proc, do(run, "user", "pid", "mnt", mounts=[])),
        "a chroot: run mnt": (chroot, do(run, "mnt")),
        "a chroot: run mnt unchanged": (chroot, do(run, "mnt", propagation="unchanged")),
        "a chroot: run mnt,pid unchanged": (chroot, do(run, "mnt", "pid", propagation="unchanged")),
        "a chroot: run mnt,pid unchanged, mounts=[]": (
            chroot,
            do(run, "mnt", "pid", propagation="unchanged", mounts=[]),
        ),
        "a hard limit raised": (
            weak,
            do(resource.setrlimit, resource.RLIMIT_CORE, (0, 0)),
            do(run, rlimits={"RLIMIT_CORE": 1}),
        ),
        "more files than fs.nr_open": (do(run, "user", rlimits={"RLIMIT_NOFILE": -1}),),
        "bounding dropped": (weak, do(run, capabilities={})),
        "a capability that is not there": (weak, do(run, capabilities=all_but_one, no_new_privs=True)),
        "a cgroup v1 directory": (cgroup_v1, lambda: run("user", cgroup_path=kept[0])),
        "no cgroup": (do(run, "user", cgroup_path=folder),),
    }
    if os.getuid() == 0:
        situations |= {
            "a cgroup with controllers": (cgroup_with_controllers, do(start_in_a_cgroup_with_controllers, "")),
            "a cgroup with controllers: a leaf": (
                cgroup_with_controllers,
                do(start_in_a_cgroup_with_controllers, "/leaf"),
            ),
            "a working directory that may not be searched": (stay_in_a_sealed_directory, lambda: enter(me(), "mnt")),
        }

    def in_a_child(*setups: Callable[[], object], call: Callable[[], object]) -> Any:
        here, there = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                needs = [needed for setup in setups if isinstance(needed := setup(), str)]
                answer: Any = {"needs": needs[0]} if needs else failure(call)
            except BaseException:
                answer = {"broken": traceback.format_exc()}
            try:
                os.write(there, json.dumps(answer).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(there)
        with open(here, encoding="utf-8") as file:
            text = file.read()
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return json.loads(text) if ended == 0 else {"broken": ended}

    # Loaded once, and here: in a chroot there is no Python.
    assert failure(lambda: nsapi.setns(-1))
    assert failure(lambda: unshare("nut"))
    assert failure(lambda: nsapi.enter(me(), "nut"))
    assert failure(lambda: run("user", cwd="/nsapi/nope"))
    assert issubclass(nsapi.ProcessPoolExecutor, object)
    return {name: in_a_child(*setups, call=call) for name, (*setups, call) in situations.items()}


RUNS = {"root": {**SITUATIONS, **AS_ROOT}, "user": SITUATIONS}


@pytest.fixture(scope="module")
def answers_of(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """How every situation ends, for root or for an ordinary user."""
    folder = Path(tempfile.mkdtemp(prefix="nsapi-tests-"))
    folder.chmod(0o777)
    known: dict[str, Any] = {}

    def answers(run: str) -> Any:
        if run not in known:
            known[run] = request.getfixturevalue(run)(fail_in_every_situation, str(folder))
        return known[run]

    yield answers
    shutil.rmtree(folder)


@pytest.mark.parametrize(("run", "situation"), [(run, name) for run, names in RUNS.items() for name in names])
def test_advice_fits_the_situation(answers_of: Callable[[str], Any], run: str, situation: str) -> None:
    """The step that failed, the class to catch, what is the cause or helps; and nothing that would lead astray."""
    found = answers_of(run)
    assert sorted(found) == sorted(RUNS[run])
    expected, answer = RUNS[run][situation], found[situation]
    if "needs" in answer:
        pytest.skip(f"needs {answer['needs']}")
    assert "broken" not in answer
    if expected is None:
        assert answer == {}, answer
        return
    assert answer, "it worked"
    assert expected.raised in answer["classes"], answer
    assert "NamespaceError" in answer["classes"], answer
    assert answer["errno"] == expected.errnum, answer
    assert fnmatchcase(answer["step"], expected.step), answer
    for word in expected.words:
        assert word in (answer["hint"] or ""), answer["text"]
    for word in expected.never:
        assert word not in (answer["hint"] or ""), answer["text"]
