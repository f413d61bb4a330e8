# SPDX-License-Identifier: MIT
"""By what a namespace that discover has found is opened again; each way is looked at before it is gone."""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT, ENOSYS, EPERM, ESRCH
from typing import NamedTuple

from nsapi import _native, _scan, _switch
from nsapi._errors import NamespaceError
from nsapi._handle import NamespaceHandle
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nsapi._native import Fd

Id = tuple[int, int]


class Reference(NamedTuple):
    """One way to a namespace.

    ``path``: that path. ``pin``: that mount point. ``mount``: that one in the mount namespace *of*. ``socket``: of process
    *pid*, number *fd*, whose net namespace it is. ``owner``, ``parent``: of the namespace *of*. ``id``: by the kernel's id,
    *fd*. ``next``, ``previous``: the mount namespace beside *of* in the kernel's list.
    """

    kind: str
    path: str = ""
    pid: int = 0
    fd: int = 0
    of: Id = (0, 0)

    def __str__(self) -> str:
        if self.kind in ("path", "pin"):
            return self.path
        if self.kind == "mount":
            return f"{self.path} in mount namespace {self.of[1]}"
        if self.kind == "socket":
            return f"socket {self.fd} of process {self.pid}"
        if self.kind == "id":
            return f"id {self.fd}"
        beside = " mount namespace" if self.kind in ("next", "previous") else ""
        return f"{self.kind}{beside} of namespace {self.of[1]}"


#: The requests of ioctl_nsfs(2) for relatives.
KIN = {"owner": "NS_GET_USERNS", "parent": "NS_GET_PARENT"}


def open_reference(
    reference: Reference, device: int, open_other: Callable[[Id], NamespaceHandle], tasks: Callable[[Id], Iterable[str]]
) -> Fd:
    """Follow *reference*. What is opened is on *device*, and may be any namespace by now.

    *open_other* opens another namespace, *tasks* tells who is in one, in words for /proc; both are asked only where the way
    leads there.
    """
    kind = reference.kind
    if kind == "path":
        return _open_path(reference.path, device)
    if kind == "pin":
        fd = _opened(_open_mount_point("/", reference.path, device), device)
        # Where openat2(2) is filtered, a file server on the way may be asked.
        return _open_path(reference.path, device) if fd.number in (-ENOSYS, -EPERM) else fd
    if kind == "id":
        return _scan.open_by_id(reference.fd, 0, 0)
    if kind == "socket":
        return _open_socket(reference.pid, reference.fd)
    if kind == "mount":
        for task in tasks(reference.of):
            fd = _opened(_open_mount_point(f"/proc/{task}/root", reference.path, device), device)
            if fd.number >= 0:
                return fd
    with Closing(open_other(reference.of)) as other:
        if kind == "mount":
            return _open_inside(other, reference.path)
        if kind in KIN:
            return _scan.open_by_ioctl(other.fileno(), KIN[kind])
        return _scan.mount_namespace_beside(other.fileno(), previous=kind == "previous")


class Closing:
    """Closes a handle at the end of the block, which does not enter it."""

    __slots__ = ("_handle",)

    def __init__(self, handle: NamespaceHandle) -> None:
        self._handle = handle

    def __enter__(self) -> NamespaceHandle:
        return self._handle

    def __exit__(self, *exc: object) -> None:
        self._handle.close()


def _open_path(path: str, device: int) -> Fd:
    return _opened(_scan.open_at(-1, path, _native.O_PATH), device)


def _open_mount_point(root: str, path: str, device: int) -> Fd:
    """Open what is mounted at *path* below *root*, O_PATH: its symbolic links lead to nothing outside."""
    with _scan.open_at(-1, root, _native.O_PATH | _native.O_DIRECTORY) as dir:
        return _scan.failed(-dir) if dir < 0 else _scan.open_mount_point(dir, os.fsencode(path), device)


def _opened(probe: Fd, device: int) -> Fd:
    """Open for ioctls what an O_PATH fd is on, which is closed. Of anything else only the place has been opened then."""
    with probe as fd:
        if fd < 0:
            return _scan.failed(-fd)
        if not _scan.inode_on(device, fd):
            return _scan.failed(ENOENT)
        return _scan.open_at(-1, f"/proc/thread-self/fd/{fd}")  # a thread may have a table of its own


def _open_socket(pid: int, fd: int) -> Fd:
    """Open the net namespace of another process's socket, through a copy of it."""
    with _scan.pidfd_open(pid) as pidfd:
        if pidfd < 0:
            return _scan.failed(-pidfd)
        with _scan.pidfd_getfd(pidfd, fd) as copy:
            return _scan.failed(-copy) if copy < 0 else _scan.open_by_ioctl(copy, "SIOCGSKNS")


def _open_inside(mnt: NamespaceHandle, path: str) -> Fd:
    """Open a path in a mount namespace that no process is in: in a thread that goes there, and ends.

    It does not come back, so it is not for `enter`, which loads all modules before it goes where there may be none.
    """
    import threading

    there = _switch.Move((mnt.type,), mnt.fileno(), repr(mnt))
    found, tid = [_scan.failed(ENOENT)], [0]

    def go() -> None:
        tid[0] = threading.get_native_id()
        try:
            _switch.go_for_good(there)
            found[0] = _open_mount_point("/", path, mnt.id[0])
        except OSError as error:
            found[0] = _scan.failed(error.errno or EINVAL)

    thread = threading.Thread(target=go, name="nsapi-mount-namespace", daemon=True)
    try:
        thread.start()
        thread.join()
        for _ in range(1000):  # Python has joined it while the kernel still counts it, and refuses things to threads
            if not os.path.exists(f"/proc/self/task/{tid[0]}"):
                break
            os.sched_yield()
    except RuntimeError:  # no thread can be started, as while children are born in another pid namespace
        return _scan.failed(ESRCH)
    return _opened(found[0], mnt.id[0])  # here: there, /proc may be another, or a false one


def check_same(fd: Fd, words: str, type: NamespaceType, id: Id, ns_id: int | None) -> NamespaceHandle:
    """Make a handle of *fd*, which is its own from here on; NamespaceError, ENOENT, where it is another namespace."""
    handle = NamespaceHandle(fd.cell, words)
    if handle.type is type and handle.id == id and (ns_id is None or handle.ns_id == ns_id):
        return handle
    handle.close()
    raise NamespaceError(ENOENT, None, words, step=f"open {words}", type=type, hint="another namespace is there now")
