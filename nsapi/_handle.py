# SPDX-License-Identifier: MIT
"""NamespaceHandle, the owner of an fd on a namespace: identity, relatives, entering."""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock
from errno import EBADF, EEXIST, EINVAL, EMFILE, ENFILE, EPERM

from nsapi import _native, _switch
from nsapi._errors import NamespaceError, refused
from nsapi._native import Program, State
from nsapi._types import NamespaceType, types_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket as plain_socket
    from typing import Any

    from typing_extensions import Self

    from nsapi._bind import Init, Place


#: Never empty, a list has room for one more: it need not be allocated at each entering.
_NOBODY = [None] * 8


class NamespaceHandle(_switch.Leaving):
    """Owns an open fd on one namespace, which keeps that namespace alive; made by :func:`open` and :func:`current`.

    ``with handle:`` runs the block inside, for the calling thread only, and does *not* close the handle. It nests, may be
    repeated, and many threads may do it at once. What it promises for each type is said at :func:`enter`.

    Two handles are equal when they are on the same namespace. One that is never closed warns (ResourceWarning) and closes
    itself; after :meth:`close`, :attr:`type`, :attr:`id`, equality and hash remain, and all else is a ValueError.

    multiprocessing passes it to other processes, which get a handle of their own; nothing else pickles or copies it.
    """

    __slots__ = ("__weakref__", "_closed", "_fd", "_id", "_kin", "_lock", "_trip", "_type", "_users", "_words")

    _closed: bool

    def __init__(self, cell: Any, words: str, type: NamespaceType | None = None) -> None:
        self._lock = allocate_lock()
        self._users = _NOBODY[:]  # one entry more for each call under way that uses the fd
        self._kin: dict[str, NamespaceHandle | None] = {}
        self._trip: _switch.Trip | None = None
        self._words = words
        # Takes the fd out of the cell, and owns it from here on, also when it is refused. No call until `try`: new_cell.
        self._fd: int = cell[0]
        cell[0] = -1
        self._closed = False
        try:
            self._type = type_of(self._fd, words)
            if type is not None and type is not self._type:
                raise self._is_not(type)
            status = os.fstat(self._fd)
            self._id = status.st_dev, status.st_ino
            if "multiprocessing.reduction" in sys.modules:
                _register()
        except BaseException:
            self.close()
            raise

    def _is_not(self, type: NamespaceType) -> NamespaceError:
        why = f"it is a {self._type.proc_name} namespace, and {type.proc_name} was asked for"
        return refused(EINVAL, why, filename=self._words, type=type)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Duplicate *fd*, an open nsfs file; the caller's stays the caller's.

        Raises NamespaceError, EBADF or EINVAL, for another file, and TypeError for what is no int.
        """
        _native.require()
        if isinstance(fd, bool) or not isinstance(fd, int):
            raise TypeError(f"fd: {fd!r} is no file descriptor")
        return cls(duplicate_fd(fd), f"fd {fd}")

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

        The handle is kept, and closed with this one. None where the kernel hides it: outside the caller's own.
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
                cell = _native.new_cell()
                fd = _native.fill_by_ioctl(cell, self._fd, request)
                if fd < 0 and fd != -EPERM:
                    raise NamespaceError(-fd, None, self._words, step=request, type=self._type)
                words = f"{name} of {self._words}"
                found = None if fd < 0 else NamespaceHandle(cell, words)
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

    def enter(self, *, unshare_fs: bool = False) -> Inside:
        """Make a context manager that enters, as ``with handle:`` does, and can be told *unshare_fs* of :func:`enter`."""
        return Inside(self, unshare_fs=unshare_fs)

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> plain_socket:
        """Make a plain ``socket.socket`` in this net namespace, and use it here; as :func:`nsapi.socket` does.

        -1 is what ``socket.socket`` takes it for: AF_INET, SOCK_STREAM, 0. NamespaceError, EINVAL, for another type.
        """
        loaded = _elsewhere or _load_elsewhere()
        (made,) = self._have_made(loaded.make, loaded.call("socket", family, type, proto))
        return made

    def _have_made(self, make: Callable[[Any, int, str], list[plain_socket]], call: Any) -> list[plain_socket]:
        users = self._users
        try:
            users.append(None)
            if self._closed:
                raise ValueError(f"the handle on {self!r} is closed")
            if self._type is not NamespaceType.NET:
                raise self._is_not(NamespaceType.NET)
            return make(call, self._fd, self._words)
        finally:
            del users[-1]
            if self._closed:
                self._close_unused()

    def pin(self, path: Any) -> None:
        """Make the file *path*, and mount the namespace on it, which keeps it until :func:`unpin`; the handle stays open.

        *path* is a str, bytes or os.PathLike, and must not be there yet. The mount is made in the caller's mount namespace,
        which for a mount namespace must be older than it. For the pid namespace of :func:`create`, its pid 1 is from then
        on ended by :func:`unpin`, and no longer with the handle; a handle that another process was given keeps no pid 1.

        Raises NamespaceError: ``EEXIST``; ``EPERM`` without CAP_SYS_ADMIN in the user namespace that owns the mount
        namespace. Neither file nor mount is left then. After Ctrl-C all is there, or nothing.
        """
        from nsapi import _bind

        self._keep(_bind.at_path("path", path))

    def _keep(self, place: Place, init: Init | None = None) -> None:
        from nsapi import _bind

        users = self._users
        try:
            users.append(None)
            if self._closed:
                raise ValueError(f"the handle on {self!r} is closed")
            _bind.keep(self._fd, self._type, place, init)
        finally:
            del users[-1]
            if self._closed:
                self._close_unused()

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
            if len(self._users) > len(_NOBODY):
                return
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)  # at once: after any other call KeyboardInterrupt could lose it

    def duplicate(self) -> NamespaceHandle:
        """Make an independent handle on the same namespace, which the caller closes."""
        self._borrow()
        try:
            return NamespaceHandle(duplicate_fd(self._fd), self._words)
        finally:
            self._release()

    def __enter__(self) -> Self:
        self._go(self)
        return self

    def _go(self, owner: object, *, unshare_fs: bool = False) -> None:
        users = self._users
        try:
            users.append(None)
            if self._closed:
                raise ValueError(f"the handle on {self!r} is closed")
            _switch.enter(owner, self._trip or self._make_trip(unshare_fs=unshare_fs))
        finally:
            del users[-1]
            if self._closed:
                self._close_unused()

    def _make_trip(self, *, unshare_fs: bool) -> _switch.Trip:
        _switch.check((self._type,), unshare_fs=unshare_fs)
        trip = _switch.plan([_switch.Move((self._type,), self._fd, self._words)])
        if self._type is not NamespaceType.MNT:  # which is asked for each time: threads come and go
            self._trip = trip
        return trip

    def __eq__(self, other: object) -> bool:
        return self._id == other._id if isinstance(other, NamespaceHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        closed = " closed" if self._closed else ""
        return f"<NamespaceHandle {self._type.proc_name}:[{self._id[1]}]{closed}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a NamespaceHandle owns an fd of this process and cannot be pickled or copied: duplicate() makes another one;"
            " multiprocessing passes it to other processes, and socket.send_fds its fileno() for from_fd()"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pass the fd, if it is multiprocessing that asks; else refuse.

        It has our reducer if it was loaded before this handle was made. If not, it is known by who has called the pickler.
        """
        if _register():
            reduction = sys.modules["multiprocessing.reduction"]
            if sys._getframe(1).f_code in (reduction.ForkingPickler.dumps.__code__, reduction.dump.__code__):
                return _send(self)
        return self.__reduce__()

    def __del__(self) -> None:
        self._users = []  # nobody has it any more, also where KeyboardInterrupt came between _borrow and _release
        if getattr(self, "_closed", True):
            if getattr(self, "_fd", -1) >= 0:  # KeyboardInterrupt has ended close()
                self._close_unused()
        else:
            try:
                import warnings

                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            except ImportError:  # at the end of the interpreter
                pass
            finally:  # warnings may be errors
                self.close()


class Inside(_switch.Leaving):
    """The context manager of :meth:`NamespaceHandle.enter`: lends the handle, whose it is not to close."""

    __slots__ = ("_handle", "_unshare_fs")

    def __init__(self, handle: NamespaceHandle, *, unshare_fs: bool) -> None:
        self._handle, self._unshare_fs = handle, unshare_fs

    def __enter__(self) -> NamespaceHandle:
        """Go there, the calling thread alone; gives the handle."""
        self._handle._go(self, unshare_fs=self._unshare_fs)
        return self._handle


_elsewhere: Any = None


def _load_elsewhere() -> Any:
    """Load what makes sockets, and with it the socket module, which others need not pay for."""
    global _elsewhere
    from nsapi import _elsewhere as loaded

    _elsewhere = loaded
    return loaded


def _register() -> bool:
    """Tell multiprocessing how handles are sent, as it knows of sockets; False where it is not loaded, or not yet."""
    register = getattr(sys.modules.get("multiprocessing.reduction"), "register", None)
    if register is None:
        return False
    register(NamespaceHandle, _send)
    return True


def _send(handle: NamespaceHandle) -> tuple[Any, ...]:
    handle._borrow()
    try:
        passed = sys.modules["multiprocessing.reduction"].DupFd(handle._fd)
    finally:
        handle._release()
    return _receive, (handle.__class__, passed, handle._words, handle._id)


def _receive(cls: type[NamespaceHandle], passed: Any, words: str, id: tuple[int, int]) -> NamespaceHandle:
    """Make the handle anew, of an fd that is now this process's own."""
    cell = _native.new_cell()
    try:
        cell[0] = passed.detach()
        os.set_inheritable(cell[0], False)  # neither recvmsg(2) nor multiprocessing does that
        handle = cls(cell, words)
    except OSError:
        handle = None
    # A starting process is given the number, and what is open under it at last: the handle may have been closed meanwhile.
    if handle is None or handle._id != id:
        if handle is not None:
            handle.close()
        raise refused(
            EBADF, "the handle was closed while the process was started that it was passed to", filename=words
        )
    return handle


def duplicate_fd(fd: int) -> Any:
    """Duplicate an fd, close-on-exec; NamespaceError, EBADF, where it is not open."""
    cell = _native.new_cell()
    try:
        _native.fill(cell, os.dup, fd)  # not inheritable: PEP 446
    except OSError as error:
        raise NamespaceError(error.errno or EBADF, None, f"fd {fd}", step="dup") from None
    except OverflowError:
        raise NamespaceError(EBADF, None, f"fd {fd}", step="dup") from None
    return cell


#: Those that have been met, by CLONE_NEW*: to look through the table takes longer than the system calls of an opening.
_of_flag: dict[int, NamespaceType] = {}


def type_of(fd: int, words: str) -> NamespaceType:
    """Ask the kernel, but only where it is nsfs: elsewhere the ioctl's number may mean anything."""
    if _native.fs_magic(fd) != _native.constant("NSFS_MAGIC"):
        raise refused(EINVAL, "it is no namespace (not a file of nsfs)", filename=words)
    answer = _native.ioctl(fd, "NS_GET_NSTYPE")
    if answer < 0:
        why = "it was opened with O_PATH" if answer == -EBADF else None
        raise NamespaceError(-answer, None, words, step="NS_GET_NSTYPE", hint=why)
    if answer not in _of_flag:
        (_of_flag[answer],) = types_in(answer)
    return _of_flag[answer]


def current(type: NamespaceType | str) -> NamespaceHandle:
    """Open the namespace of *type* that the *calling thread* is in (``/proc/self`` would tell of the main thread's).

    For pid this is the one it lives in itself, which setns and unshare never change. Close the handle after use.

    By a pidfd of the thread (Linux 6.9, 6.11), before by ``/proc/thread-self``. Raises NamespaceError where there is
    neither, or no such type in this kernel.
    """
    return own(NamespaceType.parse(type), of_children=False)


def own(type: NamespaceType, *, of_children: bool) -> NamespaceHandle:
    """Open the calling thread's namespace of *type*, or for pid, if *of_children*, the one that its children get."""
    step = _switch.own(type, 0, of_children=of_children)
    step.words = f"open the {type.proc_name} namespace of this thread"
    state = State()
    try:
        _native.run(Program([step]), state)
        return NamespaceHandle(state.raw.fd, f"this thread's {type.proc_name} namespace", type)
    except BaseException:
        state.close()
        raise


def children_are_elsewhere() -> bool:
    """Tell whether what this thread starts is born in another pid namespace than its own; also where that cannot be told."""
    mine, there = _native.new_cell(), _native.new_cell()
    try:
        me = _native.fill_with_own_pidfd(mine)
        if me >= 0:
            fd = _native.fill_with_other(there, me, "PID_FOR_CHILDREN", me, "PID")
            if fd >= 0 or fd == -EEXIST:
                return fd >= 0
    finally:
        _native.close_cell(mine)
        _native.close_cell(there)
    handles: list[NamespaceHandle] = []  # an older kernel, or nothing can be opened
    try:
        for of_children in (True, False):
            handles.append(own(NamespaceType.PID, of_children=of_children))
        return handles[0] != handles[1]
    except NamespaceError as error:
        if error.errno in (EMFILE, ENFILE):
            raise  # of all else, it is the likely reason: its pid 1 has ended
        return True
    finally:
        for handle in handles:
            handle.close()
