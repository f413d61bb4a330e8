# SPDX-License-Identifier: MIT
"""What a verb may be pointed at: how each form is pinned, checked and opened; nothing is ever created."""

from __future__ import annotations

import builtins
import os
import stat
import sys
from errno import EACCES, EBADF, EINVAL, ENOENT, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ESRCH, EXDEV

from nsapi import _native
from nsapi._errors import NamespaceError, hint, refused, unsupported
from nsapi._handle import NamespaceHandle, duplicate_fd
from nsapi._types import NamespaceType, is_namespace_supported, names_of, parse_types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Where ip-netns(8) keeps its names.
NETNS_DIR = "/run/netns"
_OLD_KERNEL = (EINVAL, ENOTTY, ENOSYS, EOPNOTSUPP)


class Target:
    """What a verb was pointed at: a process, pinned by a pidfd, or one namespace. Owns its fd; ``with`` closes it."""

    __slots__ = ("_cell", "fd", "is_process", "words")

    def __init__(self, cell: Any, words: str, *, is_process: bool = False) -> None:
        self._cell, self.fd, self.words, self.is_process = cell, cell[0], words, is_process

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *exc: object) -> None:
        self.fd = -1
        _native.close_cell(self._cell)

    def open(self, type: NamespaceType | None) -> NamespaceHandle:
        """Open the process's namespace of *type*, or the one namespace, which must be of *type* if that is given."""
        if not self.is_process:
            return NamespaceHandle(duplicate_fd(self.fd), self.words, type)
        if type is None:
            raise TypeError(
                f"type: {self.words} has a namespace of each type: name {names_of(NamespaceType).replace(',', ', ')}"
            )
        cell = _native.new_cell()
        fd = _native.fill_by_ioctl(cell, self.fd, f"PIDFD_GET_{type.proc_name.upper()}_NAMESPACE")
        why = None
        if -fd in _OLD_KERNEL:  # before Linux 6.11
            fd, why = self._open_in_proc(type, cell)
        if fd < 0:
            step = f"open the {type.proc_name} namespace of {self.words}"
            raise NamespaceError(-fd, None, self.words, step=step, type=type, hint=why or hint(-fd, "open"))
        return NamespaceHandle(cell, f"{self.words}, {type.proc_name}", type)

    def _open_in_proc(self, type: NamespaceType, cell: Any) -> tuple[int, str | None]:
        """Open it in /proc: the fd and None, or -errno and why, where more is known than the errno."""
        directory = _native.new_cell()
        try:
            proc = _native.fill(directory, os.open, "/proc", _native.O_PATH | _native.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            return -(error.errno or EACCES), None
        try:
            if _native.fs_magic(proc) != _native.constant("PROC_SUPER_MAGIC"):
                return -EXDEV, hint(EXDEV, "open_own")
            # The pid as this /proc counts: it may be of another pid namespace than the caller.
            name = f"{_pid_of(self.fd, proc)}/ns/{type.proc_name}"
            fd = _open_at(cell, name, proc)
        except OSError as error:
            if error.errno != ENOENT:
                return -(error.errno or EACCES), None
            if not is_namespace_supported(type):
                raise unsupported(f"this kernel has no {type.proc_name} namespaces") from None
            if is_ready(self.fd):
                return -ESRCH, None
            return -ESRCH, "/proc does not show it: hidden (hidepid), or of another pid namespace than this /proc"
        finally:
            _native.close_cell(directory)
        # Only now is it known that /proc/PID was still the process that the pidfd holds.
        if is_ready(self.fd):
            _native.close_cell(cell)
            return -ESRCH, None
        return fd, None


def _open_at(cell: Any, name: str, dir_fd: int) -> int:
    from functools import partial

    return _native.fill(cell, partial(os.open, dir_fd=dir_fd), name, os.O_RDONLY | os.O_CLOEXEC)


def is_ready(fd: int) -> bool:
    """Tell whether *fd* can be read or has hung up: a pidfd, when its process has ended."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _pid_of(pidfd: int, proc: int) -> int:
    """Read the pid that a pidfd stands for in this /proc; 0 or -1 (the kernel's words) where it has none there."""
    cell = _native.new_cell()
    _open_at(cell, f"thread-self/fdinfo/{pidfd}", proc)
    with builtins.open(cell[0], encoding="ascii", closefd=False) as file:  # cell is its owner
        return next((int(line.split()[1]) for line in file if line.startswith("Pid:")), 0)


def path_of(target: str | bytes | os.PathLike[Any]) -> tuple[str, str]:
    """Give the path that a name or path stands for, and the words for it; ValueError where it is neither."""
    if isinstance(target, str) and "/" not in target:
        if target in ("", ".", "..") or "\0" in target:
            raise ValueError(f"target: {target!r} is no name of a network namespace")
        return f"{NETNS_DIR}/{target}", target
    path = os.fsdecode(target)
    if not path or "\0" in path:
        raise ValueError(f"target: {path!r} is no path")
    return path, path


def resolve(target: Any) -> Target:
    """Find out what *target* is and pin it; nothing is created. The forms are told at :func:`open`."""
    _native.require()
    if isinstance(target, NamespaceHandle):
        target._borrow()
        try:
            return Target(duplicate_fd(target._fd), target._words)
        finally:
            target._release()
    if isinstance(target, int) and not isinstance(target, bool):
        return _resolve_pid(target)
    if isinstance(target, (str, bytes, os.PathLike)):
        return _resolve_path(*path_of(target))
    if hasattr(target, "pid"):
        return _resolve_process(target)
    if hasattr(target, "fileno"):
        return _resolve_fd(target)
    raise TypeError(
        f"target: {target!r} is no namespace or process; it is a pid, an object with .pid, a name below {NETNS_DIR},"
        " a path, a NamespaceHandle, or an object with fileno(): a namespace's file, a pidfd, a socket"
    )


def _resolve_pid(pid: int, words: str = "") -> Target:
    if pid <= 0:
        raise ValueError(f"target: {pid} is no pid; it is greater than 0")
    words = words or f"process {pid}"
    cell = _native.new_cell()
    fd = _native.fill_with_pidfd(cell, pid) if pid < 2**31 else -ESRCH
    if fd < 0:
        why = hint(-fd, "pidfd_open")
        if -fd in (EINVAL, ENOENT):  # ENOENT since Linux 6.9
            fd, why = -EINVAL, "it is the id of a thread, not of a process"
        raise NamespaceError(-fd, None, words, step=f"pidfd_open of {words}", hint=why)
    return Target(cell, words, is_process=True)


def _resolve_path(path: str, words: str) -> Target:
    cell = _native.new_cell()
    try:
        # Look before opening: a FIFO would wait, a device might do something.
        _native.fill(cell, os.open, path, _native.O_PATH | os.O_CLOEXEC)
        try:
            if _native.fs_magic(cell[0]) != _native.constant("NSFS_MAGIC"):
                raise refused(EINVAL, "it is no namespace (not a file of nsfs)", filename=words)
        finally:
            _native.close_cell(cell)
        _native.fill(cell, os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        return Target(cell, words)
    except NamespaceError:
        raise
    except OSError as error:
        named = os.path.dirname(path) == NETNS_DIR  # also where a Config has made a path of the name
        why = hint(error.errno or 0, "open") if path.startswith("/proc/") else None
        if named and error.errno == ENOENT:
            why = f"there is no {path}; `ip netns` lists the names, and nsapi.open never creates one"
        raise NamespaceError(
            error.errno or EINVAL,
            None,
            words,
            step=f"open {path}",
            type=NamespaceType.NET if named else None,
            hint=why,
        ) from None


def _resolve_process(process: Any) -> Target:
    pid = process.pid
    kind = f"{type(process).__name__} {pid}"
    if pid is None:
        raise ValueError(f"target: {process!r} has no pid: it has not been started")
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"target: .pid of {process!r} is no int")
    status = getattr(process, "returncode", None)
    if status is None:
        status = getattr(process, "exitcode", None)
    if status is not None:
        raise refused(
            ESRCH, f"it has ended with {status} and been waited for; its pid may already be another's", filename=kind
        )
    pidfd = getattr(process, "pidfd", None)
    if isinstance(pidfd, int) and pidfd >= 0:
        target = Target(duplicate_fd(pidfd), kind, is_process=True)
        if not is_pidfd(target.fd):
            with target:
                raise refused(EINVAL, "its .pidfd is no pidfd", filename=kind)
        return target
    target = _resolve_pid(pid, kind)
    if _was_reaped(process, pid):
        with target:
            why = "it has ended, or is no child of this process; its pid may already be another's"
            raise refused(ESRCH, why, filename=kind)
    return target


def _was_reaped(process: Any, pid: int) -> bool:
    """Tell whether a child has been waited for behind the back of the object that stands for it.

    Then its pid, pinned just now, may be a stranger's. The object of no other module than these three is known to stand
    for a child; and a stranger who is our child too cannot be told from it.
    """
    if _is_a(process, "subprocess", "Popen") or _is_a(process, "asyncio.subprocess", "Process"):
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
    elif _is_a(process, "multiprocessing.process", "BaseProcess"):  # of a fork server it is no child of ours
        try:
            return is_ready(process.sentinel)
        except ValueError:  # multiprocessing.current_process() has none
            return False
    return False


def _is_a(target: Any, module: str, name: str) -> bool:
    """Tell whether it is an instance, without importing the module, which another thread may be doing just now."""
    return isinstance(target, getattr(sys.modules.get(module), name, ()))


def _resolve_fd(holder: Any) -> Target:
    fd = holder.fileno()
    if isinstance(fd, bool) or not isinstance(fd, int):
        raise TypeError(f"target: fileno() of {holder!r} is no int")
    return resolve_fd(fd, f"{type(holder).__name__} fd {fd}")


def resolve_fd(fd: int, words: str) -> Target:
    """Find out what an fd is of, a namespace, a process or a socket; the fd is lent."""
    cell = duplicate_fd(fd)
    own = cell[0]
    if _native.fs_magic(own) == _native.constant("NSFS_MAGIC"):
        return Target(cell, words)
    with Target(cell, words):
        if stat.S_ISSOCK(os.fstat(own).st_mode):
            there = _native.new_cell()
            net = _native.fill_by_ioctl(there, own, "SIOCGSKNS")
            if net < 0:
                why = "needs CAP_NET_ADMIN in the user namespace that owns the socket's namespace"
                raise NamespaceError(
                    -net,
                    None,
                    words,
                    step="SIOCGSKNS",
                    type=NamespaceType.NET,
                    hint=why if -net in (EPERM, EACCES) else None,
                )
            return Target(there, words)
        if not is_pidfd(own):
            raise refused(EINVAL, "it is no namespace, no pidfd and no socket", filename=words)
        return Target(duplicate_fd(own), words, is_process=True)


def is_pidfd(fd: int) -> bool:
    """Signal 0 goes to pidfds only; EBADF answers for all else."""
    import signal

    if stat.S_ISDIR(os.fstat(fd).st_mode):  # /proc/PID is taken for a pidfd by this call, and by no other
        return False
    try:
        signal.pidfd_send_signal(fd, 0)
    except OSError as error:
        return error.errno != EBADF
    return True


def open(target: Any, type: NamespaceType | str | None = None) -> NamespaceHandle:
    """Open a namespace that exists; never creates one, changes nothing. Close the handle after use.

    *target* is one of

    - a pid, or an object whose ``.pid`` is one (``Popen``, those of asyncio and multiprocessing): *type* is needed. The
      process is pinned by a pidfd first, so that a reused pid is not taken for it
    - ``"blue"``, a str without ``/``: the network namespace ``/run/netns/blue`` of ip-netns(8)
    - a path: a str with ``/``, bytes, or an os.PathLike
    - a :class:`NamespaceHandle`, of which a new one is made
    - an object with ``fileno()``: a namespace's open file, a pidfd (*type* is needed), or a socket (its net namespace)

    *type* may be left out where the target is itself a namespace; where both are given they must agree.

    Raises NamespaceError: ``ENOENT`` no such name or path, ``ESRCH`` the process has ended, ``EINVAL`` no namespace or
    one of another type, ``EACCES`` another user's process. TypeError, ValueError: not one of these forms.
    """
    (parsed,) = parse_types((type,)) if type is not None else (None,)
    refuse_type_of_name(target, parsed)
    with resolve(target) as resolved:
        return resolved.open(parsed)


def refuse_type_of_name(target: Any, type: NamespaceType | None) -> None:
    if isinstance(target, str) and "/" not in target and type not in (None, NamespaceType.NET):
        raise ValueError(
            f"type: the name {target!r} is that of a net namespace, and {type.proc_name} was asked for;"
            f" a file in the working directory is './{target}'"
        )
