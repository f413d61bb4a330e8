# SPDX-License-Identifier: MIT
"""By what a namespace that discover has found is opened again; each way is looked at before it is gone."""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT, ESRCH
from typing import NamedTuple

from nsapi import _native, _scan
from nsapi._errors import NamespaceError
from nsapi._handle import NamespaceHandle
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Id = tuple[int, int]


class Reference(NamedTuple):
    """One way to a namespace.

    ``path``: that path. ``mount``: that path in the mount namespace *of*. ``socket``: of process *pid*, number *fd*, whose
    net namespace it is. ``owner``, ``parent``: of the namespace *of*. ``id``: by the kernel's id, *fd*. ``next``,
    ``previous``: the mount namespace beside *of* in the kernel's list.
    """

    kind: str
    path: str = ""
    pid: int = 0
    fd: int = 0
    of: Id = (0, 0)

    def __str__(self) -> str:
        if self.kind == "path":
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
    reference: Reference, device: int, open_other: Callable[[Id], NamespaceHandle], pids: Callable[[Id], list[int]]
) -> int:
    """Follow *reference*: an fd, which the caller owns, or -errno. It is on *device*, and may be of any namespace by now.

    *open_other* opens another namespace, *pids* tells who is in one; both are asked only where the way leads there.
    """
    kind = reference.kind
    if kind == "path":
        return _open_path(reference.path, device)
    if kind == "id":
        return _scan.open_by_id(reference.fd, 0, 0)
    if kind == "socket":
        return _open_socket(reference.pid, reference.fd)
    if kind == "mount":
        for pid in pids(reference.of):
            fd = _opened(_open_mount_point(f"/proc/{pid}/root", reference.path, device), device)
            if fd >= 0:
                return fd
    with Closing(open_other(reference.of)) as other:
        if kind == "mount":
            return _open_inside(other, reference.path)
        if kind in KIN:
            return _native.ioctl(other.fileno(), KIN[kind])
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


def _open_path(path: str, device: int) -> int:
    """Open a file of nsfs. Of something else, which it may be by now, only the place is opened."""
    try:
        probe = os.open(path, _native.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        return -(error.errno or EINVAL)
    return _opened(probe, device)


def _open_mount_point(root: str, path: str, device: int) -> int:
    """Open what is mounted at *path* below *root*, O_PATH: its symbolic links lead to nothing outside."""
    try:
        dir = os.open(root, _native.O_PATH | _native.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return -(error.errno or EINVAL)
    try:
        return _scan.open_mount_point(dir, os.fsencode(path), device)
    finally:
        os.close(dir)


def _opened(probe: int, device: int) -> int:
    """Open for ioctls what an O_PATH fd is on, which is closed; or hand -errno on."""
    if probe < 0:
        return probe
    try:
        if not _scan.inode_on(device, probe):
            return -ENOENT
        return os.open(f"/proc/self/fd/{probe}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return -(error.errno or EINVAL)
    finally:
        os.close(probe)


def _open_socket(pid: int, fd: int) -> int:
    """Open the net namespace of another process's socket, through a copy of it."""
    pidfd = _native.pidfd_open(pid)
    if pidfd < 0:
        return pidfd
    try:
        copy = _scan.pidfd_getfd(pidfd, fd)
    finally:
        os.close(pidfd)
    if copy < 0:
        return copy
    try:
        return _native.ioctl(copy, "SIOCGSKNS")
    finally:
        os.close(copy)


def _open_inside(mnt: NamespaceHandle, path: str) -> int:
    """Open a path in a mount namespace that no process is in: in a thread that goes there, and ends."""
    import threading

    lock, abandoned, found = threading.Lock(), False, [-ENOENT]
    tid: list[int] = []

    def go() -> None:
        tid.append(threading.get_native_id())
        fd = -ENOENT
        try:
            with mnt.enter(unshare_fs=True):
                fd = _open_mount_point("/", path, mnt.id[0])
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            fd = -(error.errno or EINVAL)
        with lock:
            if not abandoned:
                found[0] = fd
            elif fd >= 0:
                os.close(fd)

    thread = threading.Thread(target=go, name="nsapi-mount-namespace", daemon=True)
    try:
        thread.start()
        thread.join()
    except RuntimeError:  # no thread can be started, as while children are born in another pid namespace
        return -ESRCH
    except BaseException:
        with lock:
            abandoned = True
        if found[0] >= 0:
            os.close(found[0])
        raise
    for _ in range(1000):  # Python has joined it while the kernel still counts it, and refuses things to threads
        if not os.path.exists(f"/proc/self/task/{tid[0]}"):
            break
        os.sched_yield()
    return _opened(found[0], mnt.id[0])  # here: there, /proc may be another, or a false one


def check_same(fd: int, words: str, type: NamespaceType, id: Id, ns_id: int | None) -> NamespaceHandle:
    """Make a handle of *fd*, which is its own from here on; NamespaceError, ENOENT, where it is another namespace."""
    handle = NamespaceHandle(_native.cell_of(fd), words)
    if handle.type is type and handle.id == id and (ns_id is None or handle.ns_id == ns_id):
        return handle
    handle.close()
    raise NamespaceError(ENOENT, None, words, step=f"open {words}", type=type, hint="another namespace is there now")
