# SPDX-License-Identifier: MIT
"""What went wrong, at which step, and what usually helps: the one home of advice."""

from __future__ import annotations

import os
from errno import (
    EACCES,
    EBUSY,
    EEXIST,
    EINVAL,
    EIO,
    ELOOP,
    ENOENT,
    ENOEXEC,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    EROFS,
    ESRCH,
    EUSERS,
    EXDEV,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import Self

    from nsapi._types import NamespaceType


class NamespaceError(OSError):
    """A step of a plan failed, or was refused before the kernel could do worse.

    It is an :class:`OSError`, and also an instance of the built-in class for its errno (``FileNotFoundError``,
    ``PermissionError``, ``ProcessLookupError`` …), so existing ``except`` clauses work. It pickles whole.

    ``step``
        the words of the step that failed, as ``"unshare user"``; ``"check"`` where nsapi refused before any call
    ``index``, ``total``
        the place of the step in its plan, counted from 0, and the number of steps; None without a plan
    ``type``
        the :class:`NamespaceType` concerned, where it is one
    ``path``
        the target or file as given, where there is one (``filename`` is the same)
    ``hint``
        what usually is the cause or the remedy, or None
    """

    step: str | None
    index: int | None
    total: int | None
    type: NamespaceType | None
    path: Any
    hint: str | None

    def __new__(cls, errnum: int, strerror: str | None = None, filename: Any = None, **facts: Any) -> Self:
        """Make an instance that is also of the built-in class for *errnum*."""
        combined: Any = _also_builtin(cls, errnum)
        # A filename of None would stay in args, which are errno and strerror, as those of OSError.
        given = () if filename is None else (filename,)
        made: Self = super().__new__(combined, errnum, strerror or os.strerror(errnum), *given)
        return made

    def __init__(
        self,
        errnum: int,
        strerror: str | None = None,
        filename: Any = None,
        *,
        step: str | None = None,
        index: int | None = None,
        total: int | None = None,
        type: NamespaceType | None = None,
        hint: str | None = None,
    ) -> None:
        self.step, self.index, self.total = step, index, total
        self.type, self.path, self.hint = type, filename, hint

    def __str__(self) -> str:
        text = f"[Errno {self.errno}] {self.strerror}"
        if self.step is not None:
            text += f": {self.step}"
        if self.index is not None:
            text += f" (step {self.index + 1} of {self.total})"
        name = None if self.filename is None else os.fsdecode(self.filename)
        if name is not None and not (self.step or "").endswith((f" {name}", f"/{name}")):
            text += f": {self.filename!r}"
        return f"{text} — {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        """Name the class that can be imported, which the one made for the errno cannot; facts and notes are in the dict."""
        named = next(cls for cls in type(self).__mro__ if cls not in _combined.values())
        return named, (self.errno, self.strerror, self.filename), self.__dict__


class Unsupported(NamespaceError):
    """This kernel, platform or version of nsapi cannot do it; errno is ENOSYS."""


class NamespaceRestoreError(NamespaceError):
    """The calling thread could not go back to where it was, and is lost.

    Whatever it does now happens in the namespaces it was in; it refuses every further ``enter``. Let it end.
    """


_combined: dict[tuple[type[NamespaceError], type[OSError]], type[NamespaceError]] = {}


def _also_builtin(cls: type[NamespaceError], errnum: int) -> type[NamespaceError]:
    builtin = type(OSError(errnum, ""))
    if issubclass(cls, builtin):
        return cls
    if (cls, builtin) not in _combined:
        names = {"__module__": cls.__module__, "__doc__": cls.__doc__}
        _combined[cls, builtin] = type(cls.__name__, (cls, builtin), names)
    return _combined[cls, builtin]


def refused(errnum: int, why: str, *, filename: str | None = None, type: NamespaceType | None = None) -> NamespaceError:
    """Answer, before any system call, what the kernel would answer, and say why."""
    return NamespaceError(errnum, None, filename, step="check", type=type, hint=why)


def unsupported(why: str) -> Unsupported:
    """Say what cannot be done here, and why."""
    return Unsupported(ENOSYS, None, None, step="check", hint=why)


# ---- hints ----


def _read(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # it may be a stranger's FIFO
    except OSError:
        return None
    try:
        return os.read(fd, 64).decode("ascii", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(fd)


def thread_count() -> int:
    """Count the threads of this process, those that Python does not know too; 0 where /proc does not tell."""
    try:
        return os.stat("/proc/self/task").st_nlink - 2
    except OSError:
        return 0


def threads() -> str:
    """Say how many threads there are: ``"this process has 3 threads"``."""
    count = thread_count()
    return f"this process has {count or 'several'} thread{'' if count == 1 else 's'}"


def _no_space(types: tuple[str, ...]) -> str | None:
    for name in types:
        if _read(f"/proc/sys/user/max_{name}_namespaces") == "0":
            return f"user.max_{name}_namespaces is 0"
    limits = {name: _read(f"/proc/sys/user/max_{name}_namespaces") for name in types}
    known = ", ".join(f"user.max_{name}_namespaces is {limit}" for name, limit in limits.items() if limit)
    text = f"a limit is reached, here{f' ({known})' if known else ''} or in a user namespace above"
    nested = " or ".join(name for name in types if name in ("user", "pid"))
    return f"{text}, or {nested} namespaces are nested 33 deep" if nested else text


def _has_sys_admin() -> bool:
    """Tell whether this thread has CAP_SYS_ADMIN, in its own user namespace; False where /proc does not tell."""
    try:
        fd = os.open("/proc/thread-self/status", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        lines = os.read(fd, 8192).split(b"\n")
    finally:
        os.close(fd)
    return any(line.startswith(b"CapEff:") and int(line[7:], 16) >> 21 & 1 for line in lines)


def _may_not_create(types: tuple[str, ...]) -> str | None:
    if "user" not in types:
        if _has_sys_admin():
            return "this process has CAP_SYS_ADMIN, so the host's policy (seccomp, LSM) refuses it"
        return "needs CAP_SYS_ADMIN; add 'user' to the namespaces to make them without privilege, or in create give user=, one of yours"
    if _read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone is 0: this host allows user namespaces to root only"
    if _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            "kernel.apparmor_restrict_unprivileged_userns is 1: AppArmor allows user namespaces to listed programs only"
        )
    return "user namespaces are refused in a chroot, to a user without a map, or by the host's policy (seccomp, LSM)"


def _may_not_map(types: tuple[str, ...]) -> str | None:
    if _read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return _may_not_create(("user",))
    if os.geteuid() == 0:
        return "mapping uid 0 of outside needs CAP_SETFCAP, since Linux 5.12"
    return "without privilege a map holds the caller's own id only, and a gid map needs setgroups='deny'"


# Threads are counted before any call: none of these can be EINVAL for their sake.


def _may_not_make_twice(types: tuple[str, ...]) -> str | None:
    return "the pid namespace for children is set already, and is not the caller's own" if "pid" in types else None


def _may_not_join(types: tuple[str, ...]) -> str | None:
    return "the pid namespace is not the caller's own, and no descendant of it" if "pid" in types else None


def _no_pid_1(types: tuple[str, ...]) -> str | None:
    try:
        own, children = (os.readlink(f"/proc/thread-self/ns/{name}") for name in ("pid", "pid_for_children"))
    except OSError:
        return None
    return (
        None if own == children else "pid 1 of the pid namespace for children has ended; nothing can be started there"
    )


def _not_settable(types: tuple[str, ...]) -> str | None:
    if "uts" in types:
        return "only uid 0 of outside may write this key: use the field domainname"
    return "the key is read-only in a new namespace, or needs more than root of a user namespace has"


def _always(text: str) -> Callable[[tuple[str, ...]], str | None]:
    return lambda types: text


_DEAD = "the process has ended; its pid may already be another's"
_MAKE = ("clone", "unshare")
_JOIN = ("setns", "check_return", "return", "return_fs")
_SYSCTL = ("write sysctl",)
_ID_MAPS = ("write uid_map", "write gid_map", "write setgroups")
_Row = tuple[int, tuple[str, ...], "Callable[[tuple[str, ...]], str | None]"]

# errno, the steps it may come from (by name of the step or by its words), advice
_HINTS: tuple[_Row, ...] = (
    (ENOSPC, _MAKE, _no_space),
    (EPERM, _MAKE, _may_not_create),
    (EPERM, _JOIN, _always("needs CAP_SYS_ADMIN here and in the user namespace that owns the target (mnt: CAP_SYS_CHROOT too); with them, a policy (seccomp, LSM) refuses it")),
    (EPERM, _ID_MAPS, _may_not_map),
    (EACCES, _ID_MAPS, _always("/proc/PID/uid_map belongs to root where the process is not dumpable")),
    (EINVAL, _MAKE, _may_not_make_twice),
    (EINVAL, _JOIN, _may_not_join),
    (EUSERS, _JOIN, _always("a time namespace is entered by single-threaded processes only: use run or Popen")),
    (ENOMEM, ("clone",), _no_pid_1),
    (EBUSY, ("clone",), _always("a cgroup with controllers for its children takes no processes itself: name a leaf")),
    (EPERM, ("clone_mount", "umount"), _always("a file keeps a namespace by a mount, which needs CAP_SYS_ADMIN in the user namespace that owns this mount namespace. Without it an open handle or a process keeps it; or do it all in a user and mount namespace of your own")),
    (EEXIST, ("make_file",), _always("what is there is never opened by create or pin: nsapi.open does, and nsapi.unpin takes it away")),
    (ELOOP, ("attach",), _always("a mount namespace can only be kept by a file in one that is older than it (Linux 6.18 looks at its number, which on another CPU may be the smaller one: a new one may do)")),
    (ENOENT, ("open file",), _always("nsapi.named lists the names that there are")),
    (EBUSY, ("remove file",), _always("more than one namespace was mounted there: unpin again")),
    (EPERM, ("mount /proc",), _always("parts of /proc are covered here, as in a container, and the kernel shows no fuller one: mounts=[] keeps the old")),
    (EINVAL, ("make /proc private",), _always("/proc is no mount point here: mounts=[] leaves it as it is")),
    (EINVAL, ("mount",), _always('"/" is no mount point here, as in a chroot: propagation="unchanged" leaves it')),
    (ENOENT, _SYSCTL, _always("a new namespace has no such key: it is the host's alone, or of a part that this kernel lacks or has not loaded")),
    (EINVAL, _SYSCTL, _always("the key does not accept this value")),
    (EIO, _SYSCTL, _always("the kernel took only the beginning of this value: it holds more numbers than the key has")),
    (EPERM, _SYSCTL, _not_settable),
    (EACCES, _SYSCTL, _not_settable),
    (EROFS, _SYSCTL, _always("/proc is mounted read-only here, as in a container")),
    (EXDEV, _SYSCTL, _always("something is mounted over /proc or /proc/sys here, as in a container")),
    (EXDEV, ("write", "open_own"), _always("something that is not procfs is mounted over /proc")),
    (ENOSYS, ("write", "open_own"), _always("a seccomp filter knows no openat2(2), without which /proc cannot be told from a false one")),
    (EXDEV, ("chdir",), _always("that directory is outside of the root of the joined mount namespace: a link of its own leads out")),
    (EPERM, ("set RLIMIT_NOFILE",), _always("raising a hard limit needs CAP_SYS_RESOURCE in the initial user namespace, and none goes over fs.nr_open")),
    (EPERM, ("prlimit",), _always("raising a hard limit needs CAP_SYS_RESOURCE in the initial user namespace")),
    (EACCES, ("write oom_score_adj",), _always("lowering it needs CAP_SYS_RESOURCE in the initial user namespace")),
    (ERANGE, ("write timens_offsets",), _always("with this offset the clock would be negative or too large")),
    (EPERM, ("cap_bound", "capset", "cap_ambient"), _always("a capability that the process does not have cannot be given; dropping bounding ones needs CAP_SETPCAP")),
    (ENOENT, ("exec",), _always("no such program inside: PATH and the path are looked up after root and mounts; a script's interpreter may be missing; a str is one name, not a command line")),
    (EACCES, ("exec",), _always("not executable for this user inside (the program, a script's interpreter or a folder of PATH), or on a noexec mount")),
    (ENOEXEC, ("exec",), _always("neither a program for this machine nor a script that begins with #!")),
    (ESRCH, ("setns", "open", "pidfd_open"), _always(_DEAD)),
    (EACCES, ("open / to return to", "open the working directory to return to"), _always("this user may not search that directory, so could not come back to it: chdir first")),
    (EACCES, ("open",), _always("the namespaces of another user's process need CAP_SYS_PTRACE")),
    (EINVAL, ("setgroups", "setresgid", "setresuid"), _always("that id is not mapped in this user namespace")),
    (EPERM, ("setgroups",), _always("it needs CAP_SETGID inside, and a user namespace where setgroups is not denied")),
    (EPERM, ("setresgid", "setresuid"), _always("changing ids needs CAP_SETGID and CAP_SETUID inside")),
    (EPERM, ("socket", "socketpair"), _always("raw and packet sockets need CAP_NET_RAW in the user namespace that owns the net namespace")),
    (EOPNOTSUPP, ("socketpair",), _always("of the usual families AF_UNIX alone has pairs")),
    (ESRCH, ("pdeathsig",), _always("the parent has ended already")),
)  # fmt: skip


def hint(errnum: int, op: str, words: str = "", types: tuple[str, ...] = ()) -> str | None:
    """Find the usual cause of *errnum* at a step: named *op*, described by *words*, about *types*."""
    kind = " ".join(words.split()[:2])  # "write sysctl", whatever the key
    for row_errnum, ops, advice in _HINTS:
        if row_errnum == errnum and not {op, words, kind}.isdisjoint(ops):
            return advice(types)
    return None
