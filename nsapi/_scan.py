# SPDX-License-Identifier: MIT
"""What ``_scan.c`` sees of all namespaces there are: ints and bytes, as ``_native`` has them of the rest of the C core."""

from __future__ import annotations

import os
from errno import ERANGE

from nsapi._errors import NamespaceError
from nsapi._native import Fd, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    #: type (CLONE_NEW*), device, inode, id or 0, inodes of owner and parent or 0, uid of who made it or -1, nsid or -1
    Facts = tuple[int, int, int, int, int, int, int, int]

#: The uint32 of a task: pid, tid, then an inode number for each name; and of a link: pid, fd, inode, source.
TASK_WIDTH, LINK_WIDTH = 12, 4

#: How many bytes of a file of procfs are read; where it is read whole, at first.
ROOM = 1 << 16


def failed(errnum: int) -> Fd:
    """Make an Fd that is none, for this reason."""
    return Fd(int, -errnum)


def open_at(dir: int, path: str, flags: int = os.O_RDONLY) -> Fd:
    """Open a file, close-on-exec; below *dir* if *path* does not begin with a slash."""
    return Fd(lib.nsapi_open_at, dir, os.fsencode(path), flags)


def read_file(dir: int, path: str, *, whole: bool = False) -> bytes | int:
    """Read a file of procfs, or its first 64 KiB; or -errno."""
    room = ROOM
    while True:
        buffer = _uncleared("char[]", room)
        used = int(lib.nsapi_read_file(dir, path.encode(), buffer, room))
        if used < 0:
            return used
        if used < room or not whole:
            return bytes(ffi.buffer(buffer, used))
        room *= 4


_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


def _rows(array: Any, width: int) -> bytes:
    return bytes(ffi.buffer(ffi.cast("char *", array.rows), 4 * width * array.count)) if array.count else b""


def scan_proc(
    proc: int, names: Sequence[str | None], bits: int, device: int
) -> tuple[list[bytes], tuple[list[int], list[int], list[int]]]:
    """Walk the procfs directory *proc*, reading these files below /proc/PID/ns; NamespaceError if it cannot be complete.

    Gives rows of uint32 for processes, threads and links; and what was skipped by source: ended, denied, failed.
    """
    raw = ffi.gc(ffi.new("nsapi_scan *"), lib.nsapi_scan_free)
    kept = [ffi.NULL if name is None else ffi.new("char[]", name.encode()) for name in names]
    result = int(lib.nsapi_scan_proc(proc, ffi.new("char *[]", kept), bits, device, raw))
    if result < 0:
        raise NamespaceError(-result, None, "/proc", step="scan /proc")
    rows = (raw.processes, TASK_WIDTH), (raw.threads, TASK_WIDTH), (raw.links, LINK_WIDTH)
    return [_rows(*each) for each in rows], (list(raw.gone), list(raw.denied), list(raw.failed))


def describe(fd: int, route: int) -> Facts:
    """Ask a namespace about itself and its relatives; NamespaceError where that cannot be, or there are no fds."""
    raw = ffi.new("nsapi_facts *")
    result = int(lib.nsapi_describe(fd, route, raw))
    if result < 0:
        raise NamespaceError(-result, None, f"fd {fd}", step="describe a namespace")
    return raw.type, raw.device, raw.inode, raw.id, raw.owner, raw.parent, raw.owner_uid, raw.nsid


def route_socket() -> Fd:
    """Open a socket of rtnetlink(7) in the caller's net namespace."""
    return Fd(lib.nsapi_netlink_socket, 0)


def open_by_id(id: int, type: int, inode: int) -> Fd:
    """Open a namespace by what it is (Linux 6.18)."""
    return Fd(lib.nsapi_open_by_id, id, type, inode)


def open_by_ioctl(fd: int, request: str) -> Fd:
    """Open what the ioctl named *request* gives of *fd*."""
    return Fd(lib.nsapi_ioctl, fd, getattr(lib, request), ffi.NULL)


def list_ids(types: int) -> list[int] | None:
    """List the ids of all namespaces of *types* that the caller may see, by listns(2); None before Linux 6.19."""
    page = ffi.new("uint64_t[]", 512)

    def ask(last: int) -> Sequence[int] | int:
        count = int(lib.nsapi_list_ids(last, types, page, len(page)))
        return count if count < 0 else list(page[0:count])

    return all_pages(ask)


def all_pages(ask: Callable[[int], Sequence[int] | int]) -> list[int] | None:
    """Gather what *ask* tells of the ids greater than one, some at a time, or -errno; None where it cannot be asked at all.

    listns(2) tells of no id by ENOENT, if it was asked for those after another. After an error half-way there is no more.
    """
    found: list[int] = []
    while True:
        page = ask(found[-1] if found else 0)
        if isinstance(page, int):
            return found or None
        if not page:
            return found
        found += page


def mount_namespace_beside(fd: int, *, previous: bool) -> Fd:
    """Open the mount namespace that is the next or previous in the kernel's list (Linux 6.13)."""
    return Fd(lib.nsapi_mount_namespace_beside, fd, previous)


def pidfd_open(pid: int) -> Fd:
    """Open a pidfd of a process."""
    return Fd(lib.nsapi_pidfd_open, pid, 0)


def pidfd_getfd(pidfd: int, fd: int) -> Fd:
    """Copy an fd of another process."""
    return Fd(lib.nsapi_pidfd_getfd, pidfd, fd)


def inode_on(device: int, fd: int) -> int:
    """Tell the inode number of what *fd* is on, if it is on *device*, else 0; no file server is asked."""
    return int(lib.nsapi_inode_on(device, fd))


def open_mount_point(dir: int, path: bytes, device: int) -> Fd:
    """Open *path*, O_PATH, with *dir* as its root, if it is on *device*; no file server is asked."""
    return Fd(lib.nsapi_open_mount_point, dir, path, device)


def nsfs_mounts(id: int) -> list[bytes] | int:
    """List the mounts of namespaces in the mount namespace *id*: text and mount point by turns; or -errno (Linux 6.11)."""
    room = 1 << 16
    while True:
        buffer = _uncleared("char[]", room)
        used = int(lib.nsapi_nsfs_mounts(id, buffer, room))
        if used >= 0:
            return bytes(ffi.buffer(buffer, used)).split(b"\0")[:-1]
        if used != -ERANGE:
            return used
        room *= 4
