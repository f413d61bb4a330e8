# SPDX-License-Identifier: MIT
"""NamespaceHandle, the owner of an fd on a namespace; how one is opened, and what a target may be."""

from __future__ import annotations

import builtins
import os
import stat
import sys
from _thread import allocate_lock
from errno import EACCES, EBADF, EINVAL, ENOENT, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, ESRCH, EXDEV

from nsapi import _native, _switch
from nsapi._errors import NamespaceError, hint, refused, unsupported
from nsapi._native import Program, State
from nsapi._types import NamespaceType, is_namespace_supported, names_of, parse_types, types_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from typing_extensions import Self

    from nsapi._enter import Entering

#: Where ip-netns(8) keeps its names.
NETNS_DIR = "/run/netns"
_OLD_KERNEL = (EINVAL, ENOTTY, ENOSYS, EOPNOTSUPP)


class NamespaceHandle:
    """Owns an open fd on one namespace, which keeps that namespace alive; made by :func:`open` and :func:`current`.

    ``with handle:`` runs the block inside, for the calling thread only, and does *not* close the handle. It nests, may be
    repeated, and many threads may do it at once. What it promises for each type is said at :func:`enter`.

    Two handles are equal when they are on the same namespace. One that is never closed warns (ResourceWarning) and closes
    itself; after :meth:`close`, :attr:`type`, :attr:`id`, equality and hash remain.
    """

    __slots__ = ("__weakref__", "_closed", "_fd", "_id", "_kin", "_lock", "_trip", "_type", "_users", "_words")

    _closed: bool

    def __init__(self, fd: int, words: str, type: NamespaceType | None = None) -> None:
        # Owns fd from here on, also when it is refused.
        self._closed, self._fd, self._lock = False, fd, allocate_lock()
        self._users: list[None] = []  # an entry for each call under way that uses the fd
        self._kin: dict[str, NamespaceHandle | None] = {}
        self._trip: _switch.Trip | None = None
        self._words = words
        try:
            self._type = _type_of(fd, words)
            if type is not None and type is not self._type:
                raise refused(
                    EINVAL,
                    f"it is a {self._type.proc_name} namespace, and {type.proc_name} was asked for",
                    filename=words,
                    type=type,
                )
            status = os.fstat(fd)
            self._id = status.st_dev, status.st_ino
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Duplicate *fd*, an open nsfs file; the caller's stays the caller's. EBADF or EINVAL for another file."""
        if isinstance(fd, bool) or not isinstance(fd, int):
            raise TypeError(f"fd: {fd!r} is no file descriptor")
        return cls(_duplicate(fd), f"fd {fd}")

    @property
    def type(self) -> NamespaceType:
        """The type of the namespace."""
        return self._type

    @property
    def id(self) -> tuple[int, int]:
        """Device and inode, the namespace's identity while anything keeps it alive; lsns(8) shows the second."""
        return self._id

    @property
    def ns_id(self) -> int | None:
        """The kernel's 64-bit id, never used twice until reboot (NS_GET_ID, Linux 6.18); None where it tells none."""
        self._borrow()
        try:
            answer = _native.ioctl_u64(self._fd, "NS_GET_ID")
            if answer < 0 and self._type is NamespaceType.MNT:
                answer = _native.ioctl_u64(self._fd, "NS_GET_MNTNS_ID")  # Linux 6.8
            return answer if answer >= 0 else None
        finally:
            self._release()

    @property
    def owner(self) -> NamespaceHandle | None:
        """The user namespace that owns this one, for a user namespace its parent: NS_GET_USERNS of ioctl_nsfs(2).

        The handle is kept, and closed by this one. None where the kernel hides it: outside the caller's own.
        """
        return self._relative("NS_GET_USERNS", "owner")

    @property
    def parent(self) -> NamespaceHandle | None:
        """The parent of a pid or user namespace: NS_GET_PARENT. Kept and closed by this one.

        None where the kernel hides it, and for the types that have no parent.
        """
        if self._type not in (NamespaceType.PID, NamespaceType.USER):
            return None
        return self._relative("NS_GET_PARENT", "parent")

    @property
    def owner_uid(self) -> int | None:
        """The uid, as the caller sees it, that made this user namespace: NS_GET_OWNER_UID. None for other types.

        For those, ask ``handle.owner.owner_uid``.
        """
        if self._type is not NamespaceType.USER:
            return None
        self._borrow()
        try:
            answer = _native.ioctl_u32(self._fd, "NS_GET_OWNER_UID")
        finally:
            self._release()
        if answer < 0:
            raise NamespaceError(-answer, None, self._words, step="NS_GET_OWNER_UID", type=self._type)
        return answer

    def _relative(self, request: str, name: str) -> NamespaceHandle | None:
        self._borrow()
        try:
            if name not in self._kin:
                fd = _native.ioctl(self._fd, request)
                if fd < 0 and fd != -EPERM:
                    raise NamespaceError(-fd, None, self._words, step=request, type=self._type)
                words = f"{name} of {self._words}"
                found = None if fd < 0 else NamespaceHandle(fd, words)
                with self._lock:
                    # Closed meanwhile by another thread, it closes no more relatives.
                    kept = None if self._closed else self._kin.setdefault(name, found)
                if found is not None and kept is not found:  # or another thread was faster
                    found.close()
            if self._closed:
                raise ValueError(f"the handle on {self!r} is closed")
            return self._kin[name]
        finally:
            self._release()

    def fileno(self) -> int:
        """Lend the fd. ValueError after :meth:`close`."""
        if self._closed:
            raise ValueError(f"the handle on {self!r} is closed")
        return self._fd

    def enter(self, *, unshare_fs: bool = False) -> Entering[NamespaceHandle]:
        """Make a context manager that enters: as ``nsapi.enter(handle)``."""
        from nsapi._enter import enter

        return enter(self, unshare_fs=unshare_fs)

    def close(self) -> None:
        """Close the fd, and those of :attr:`owner` and :attr:`parent`. More than once is no error.

        A call that is using the fd in another thread keeps it to its own end, so that its number is not reused meanwhile.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            kin = list(self._kin.values())
        self._close_unused()
        for each in kin:
            if each is not None:
                each.close()

    # Who uses the fd says so first and looks at _closed then; close() sets _closed first and looks for users then. So one
    # of the two sees the other, whatever the order, and the last of them closes. No lock: entering would take it twice.

    def _borrow(self) -> None:
        self._users.append(None)
        if self._closed:
            self._release()
            raise ValueError(f"the handle on {self!r} is closed")

    def _release(self) -> None:
        self._users.pop()
        if self._closed:
            self._close_unused()

    def _close_unused(self) -> None:
        with self._lock:
            if self._users:
                return
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def duplicate(self) -> NamespaceHandle:
        """Make an independent handle on the same namespace."""
        self._borrow()
        try:
            return NamespaceHandle(_duplicate(self._fd), self._words)
        finally:
            self._release()

    def __enter__(self) -> Self:
        users = self._users
        try:
            users.append(None)
            if self._closed:
                raise ValueError(f"the handle on {self!r} is closed")
            _switch.enter(self, self._trip or self._make_trip())
        finally:
            users.pop()
            if self._closed:
                self._close_unused()
        return self

    def _make_trip(self) -> _switch.Trip:
        _switch.check((self._type,), unshare_fs=False)
        trip = _switch.plan([_switch.Move((self._type,), self._fd, self._words)])
        if self._type is not NamespaceType.MNT:  # which is asked for each time: threads come and go
            self._trip = trip
        return trip

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        _switch.leave(self)

    def __eq__(self, other: object) -> bool:
        return self._id == other._id if isinstance(other, NamespaceHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        closed = " closed" if self._closed else ""
        return f"<NamespaceHandle {self._type.proc_name}:[{self._id[1]}]{closed}>"

    def __reduce__(self) -> Any:
        raise TypeError("a NamespaceHandle owns an fd of this process and cannot be pickled or copied")

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            try:
                import warnings

                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            except ImportError:  # at the end of the interpreter
                pass
            finally:  # warnings may be errors
                self.close()


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)  # close-on-exec (PEP 446)
    except OSError as error:
        raise NamespaceError(error.errno or EBADF, None, f"fd {fd}", step="dup") from None
    except OverflowError:
        raise NamespaceError(EBADF, None, f"fd {fd}", step="dup") from None


def _type_of(fd: int, words: str) -> NamespaceType:
    """Ask the kernel, but only where it is nsfs: elsewhere the ioctl's number may mean anything."""
    if _native.fs_magic(fd) != _native.constant("NSFS_MAGIC"):
        raise refused(EINVAL, "it is no namespace (not a file of nsfs)", filename=words)
    answer = _native.ioctl(fd, "NS_GET_NSTYPE")
    if answer < 0:
        why = "it was opened with O_PATH" if answer == -EBADF else None
        raise NamespaceError(-answer, None, words, step="NS_GET_NSTYPE", hint=why)
    return types_in(answer)[0]


class Target:
    """What a verb was pointed at: a process, pinned by a pidfd, or one namespace. Owns its fd; ``with`` closes it."""

    __slots__ = ("fd", "is_process", "words")

    def __init__(self, fd: int, words: str, *, is_process: bool = False) -> None:
        self.fd, self.words, self.is_process = fd, words, is_process

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *exc: object) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def open(self, type: NamespaceType | None) -> NamespaceHandle:
        """Open the process's namespace of *type*, or the one namespace, which must be of *type* if that is given."""
        if not self.is_process:
            return NamespaceHandle(_duplicate(self.fd), self.words, type)
        if type is None:
            raise TypeError(
                f"type: {self.words} has a namespace of each type: name {names_of(NamespaceType).replace(',', ', ')}"
            )
        fd = _native.ioctl(self.fd, f"PIDFD_GET_{type.proc_name.upper()}_NAMESPACE")
        why = None
        if -fd in _OLD_KERNEL:  # before Linux 6.11
            fd, why = self._open_in_proc(type)
        if fd < 0:
            step = f"open the {type.proc_name} namespace of {self.words}"
            raise NamespaceError(-fd, None, self.words, step=step, type=type, hint=why or hint(-fd, "open"))
        return NamespaceHandle(fd, f"{self.words}, {type.proc_name}", type)

    def _open_in_proc(self, type: NamespaceType) -> tuple[int, str | None]:
        """Open it in /proc: the fd and None, or -errno and why, where more is known than the errno."""
        try:
            proc = os.open("/proc", _native.O_PATH | _native.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            return -(error.errno or EACCES), None
        try:
            if _native.fs_magic(proc) != _native.constant("PROC_SUPER_MAGIC"):
                return -EXDEV, hint(EXDEV, "open_own")
            # The pid as this /proc counts: it may be of another pid namespace than the caller.
            name = f"{_pid_of(self.fd, proc)}/ns/{type.proc_name}"
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        except OSError as error:
            if error.errno != ENOENT:
                return -(error.errno or EACCES), None
            if not is_namespace_supported(type):
                raise unsupported(f"this kernel has no {type.proc_name} namespaces") from None
            if _is_ready(self.fd):
                return -ESRCH, None
            return -ESRCH, "/proc does not show it: hidden (hidepid), or of another pid namespace than this /proc"
        finally:
            os.close(proc)
        # Only now is it known that /proc/PID was still the process that the pidfd holds.
        if _is_ready(self.fd):
            os.close(fd)
            return -ESRCH, None
        return fd, None


def _is_ready(fd: int) -> bool:
    """Tell whether *fd* can be read or has hung up: a pidfd, when its process has ended."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _pid_of(pidfd: int, proc: int) -> int:
    """Read the pid that a pidfd stands for in this /proc; 0 or -1 (the kernel's words) where it has none there."""
    info = os.open(f"thread-self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    with builtins.open(info, encoding="ascii") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("Pid:")), 0)


def resolve(target: Any) -> Target:
    """Find out what *target* is and pin it; nothing is created. The forms are told at :func:`open`."""
    if isinstance(target, NamespaceHandle):
        target._borrow()
        try:
            return Target(_duplicate(target._fd), target._words)
        finally:
            target._release()
    if isinstance(target, int) and not isinstance(target, bool):
        return _resolve_pid(target)
    if isinstance(target, str) and "/" not in target:
        if target in ("", ".", "..") or "\0" in target:
            raise ValueError(f"target: {target!r} is no name of a network namespace")
        return _resolve_path(f"{NETNS_DIR}/{target}", target)
    if isinstance(target, (str, bytes, os.PathLike)):
        path = os.fsdecode(target)
        if not path or "\0" in path:
            raise ValueError(f"target: {path!r} is no path")
        return _resolve_path(path, path)
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
    fd = _native.pidfd_open(pid) if pid < 2**31 else -ESRCH
    if fd < 0:
        why = hint(-fd, "pidfd_open")
        if -fd in (EINVAL, ENOENT):  # ENOENT since Linux 6.9
            fd, why = -EINVAL, "it is the id of a thread, not of a process"
        raise NamespaceError(-fd, None, words, step=f"pidfd_open of {words}", hint=why)
    return Target(fd, words, is_process=True)


def _resolve_path(path: str, words: str) -> Target:
    try:
        # Look before opening: a FIFO would wait, a device might do something.
        probe = os.open(path, _native.O_PATH | os.O_CLOEXEC)
        try:
            if _native.fs_magic(probe) != _native.constant("NSFS_MAGIC"):
                raise refused(EINVAL, "it is no namespace (not a file of nsfs)", filename=words)
        finally:
            os.close(probe)
        return Target(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), words)
    except NamespaceError:
        raise
    except OSError as error:
        named = path != words
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
        target = Target(_duplicate(pidfd), kind, is_process=True)
        if not _is_pidfd(target.fd):
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
            return _is_ready(process.sentinel)
        except ValueError:  # multiprocessing.current_process() has none
            return False
    return False


def _is_a(target: Any, module: str, name: str) -> bool:
    """Tell whether it is an instance, without importing the module."""
    return module in sys.modules and isinstance(target, getattr(sys.modules[module], name))


def _resolve_fd(holder: Any) -> Target:
    fd = holder.fileno()
    if isinstance(fd, bool) or not isinstance(fd, int):
        raise TypeError(f"target: fileno() of {holder!r} is no int")
    words = f"{type(holder).__name__} fd {fd}"
    own = _duplicate(fd)
    if _native.fs_magic(own) == _native.constant("NSFS_MAGIC"):
        return Target(own, words)
    with Target(own, words):
        if stat.S_ISSOCK(os.fstat(own).st_mode):
            net = _native.ioctl(own, "SIOCGSKNS")
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
            return Target(net, words)
        if not _is_pidfd(own):
            raise refused(EINVAL, "it is no namespace, no pidfd and no socket", filename=words)
        return Target(_duplicate(own), words, is_process=True)


def _is_pidfd(fd: int) -> bool:
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
    _refuse_type_of_name(target, parsed)
    with resolve(target) as resolved:
        return resolved.open(parsed)


def _refuse_type_of_name(target: Any, type: NamespaceType | None) -> None:
    if isinstance(target, str) and "/" not in target and type not in (None, NamespaceType.NET):
        raise ValueError(
            f"type: the name {target!r} is that of a net namespace, and {type.proc_name} was asked for;"
            f" a file in the working directory is './{target}'"
        )


def current(type: NamespaceType | str) -> NamespaceHandle:
    """Open the namespace of *type* that the *calling thread* is in (``/proc/self`` would tell of the main thread's).

    For pid this is the one it lives in itself, which setns and unshare never change.
    """
    parsed = NamespaceType.parse(type)
    step = _switch.own(parsed, 0)
    if parsed is NamespaceType.PID:
        step.value, step.path = _native.constant("PIDFD_GET_PID_NAMESPACE"), b"pid"
    step.words = f"open the {parsed.proc_name} namespace of this thread"
    state = State()
    _native.run(Program([step]), state)
    return NamespaceHandle(state.take_fd(0), f"this thread's {parsed.proc_name} namespace", parsed)
