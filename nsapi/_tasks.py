# SPDX-License-Identifier: MIT
"""Which process is in which namespaces, as discover has read it; and what /proc tells of processes later."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from errno import EMFILE, ENFILE
from typing import NamedTuple

from nsapi import _native, _scan
from nsapi._errors import NamespaceError
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Process(NamedTuple):
    """What ``/proc`` tells of a process: *command* is its command line, or *name* where it has none."""

    pid: int
    ppid: int
    uid: int
    name: str
    command: str


class Processes:
    """Reads what is asked of processes, once each, when it is asked: later than the snapshot."""

    __slots__ = ("_nspids", "_ppids")

    def __init__(self) -> None:
        self._ppids: dict[int, int] = {}
        self._nspids: dict[int, tuple[int, ...]] = {}

    def ppid(self, pid: int) -> int:
        """Tell the parent; 0 where there is none, or the process has ended."""
        if pid not in self._ppids:
            # "7 (a name, perhaps with a bracket) S 1 ...": the name is the only field that may hold one
            fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split(None, 2)
            self._ppids[pid] = int(fields[1]) if len(fields) > 1 else 0
        return self._ppids[pid]

    def nspids(self, pid: int) -> tuple[int, ...]:
        """Tell its pid in the pid namespace of /proc, and in each below down to its own; () if it has ended."""
        if pid not in self._nspids:
            lines = _read(f"/proc/{pid}/status").split(b"\n")
            found = next((line for line in lines if line.startswith(b"NSpid:")), b"NSpid:")
            self._nspids[pid] = tuple(map(int, found[6:].split()))
        return self._nspids[pid]

    def process(self, pid: int) -> Process | None:
        """Read all of it; None if it has ended."""
        name = _read(f"/proc/{pid}/comm").removesuffix(b"\n")
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            return None
        command = _read(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ")
        return Process(pid, self.ppid(pid), uid, *(os.fsdecode(each) for each in (name, command or name)))


def _read(path: str) -> bytes:
    text = _scan.read_file(-1, path)
    if isinstance(text, bytes):
        return text
    if text in (-EMFILE, -ENFILE):
        raise NamespaceError(-text, None, path, step=f"read {path}")
    return b""


class Tasks:
    """Which process is in which namespaces: compact arrays, a column of inode numbers for each type, looked into late."""

    __slots__ = ("_groups", "columns", "pids")

    def __init__(self, pids: array[int], columns: Mapping[NamespaceType, array[int]]) -> None:
        self.pids, self.columns = pids, columns
        self._groups: dict[NamespaceType, dict[int, array[int]]] = {}

    def of(self, type: NamespaceType, inode: int) -> array[int]:
        """List the pids of the processes in a namespace, ascending."""
        groups = self._groups.get(type)
        if groups is None:
            groups = {}
            for pid, each in zip(self.pids, self.columns.get(type, ()), strict=False):
                group = groups.get(each)
                if group is None:
                    group = groups[each] = array("I")
                group.append(pid)
            groups.pop(0, None)
            self._groups[type] = groups
        return groups.get(inode) or array("I")

    def inodes(self, pid: int) -> dict[NamespaceType, int]:
        """Tell the inode numbers of a process's namespaces; empty if it is not among these."""
        row = bisect_left(self.pids, pid)  # /proc lists them in this order
        if row == len(self.pids) or self.pids[row] != pid:
            return {}
        return {type: column[row] for type, column in self.columns.items()}


# ---- what one walk through /proc finds ----

#: The words of discover's sources; the C core knows the first five.
SOURCES = ("processes", "threads", "children", "fds", "sockets", "mounts", "ancestors")


def source_number(source: str) -> int:
    """Look up what the C core calls a source."""
    return _native.constant("NSAPI_" + source.upper())


class Scan:
    """What one walk through /proc has found: rows of uint32, one after the other, and what was skipped."""

    __slots__ = ("links", "processes", "skipped", "threads")

    def __init__(self, proc: int, names: Sequence[str | None], sources: Iterable[str], device: int) -> None:
        bits = sum(1 << source_number(each) for each in sources)
        (self.processes, self.threads, self.links), counted = _scan.scan_proc(proc, names, bits, device)
        self.skipped = {
            (source, reason): count
            for source in SOURCES[:5]
            for reason, counts in zip(("ended", "denied", "failed"), counted, strict=True)
            if (count := counts[source_number(source)])
        }
