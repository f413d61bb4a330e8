# SPDX-License-Identifier: MIT
"""Snapshot and its NamespaceInfo records: what discover has found, to look at from every side."""

from __future__ import annotations

from errno import EACCES, EMFILE, ENFILE, ENOENT, EPERM
from typing import Any, NamedTuple

from nsapi import _scan
from nsapi._errors import NamespaceError, hint
from nsapi._handle import NamespaceHandle
from nsapi._reference import Id, Reference, check_same, open_reference
from nsapi._tasks import Processes, Tasks
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nsapi._native import Fd
    from nsapi._tasks import Process

#: The version of what to_dict gives. A key that is added leaves it; one that goes, or changes its meaning, raises it.
SCHEMA = 1
_ORDER = {type: number for number, type in enumerate(NamespaceType)}
RELATIONS = ("owner", "parent", "process")


class Pin(NamedTuple):
    """Where a namespace is mounted: the path as the mount namespace *mnt* has it; *here* if that is the caller's."""

    path: str
    mnt: Id
    here: bool


class Thread(NamedTuple):
    """A thread that is elsewhere than its process; its words are where it is below /proc."""

    pid: int
    tid: int

    def __str__(self) -> str:
        return f"{self.pid}/task/{self.tid}"


class NamespaceInfo:
    """What :func:`discover` has found out about one namespace. A record of facts: it keeps nothing alive.

    ``type``
        its :class:`NamespaceType`
    ``id``
        device and inode, as :attr:`NamespaceHandle.id`; lsns(8) shows the second
    ``ns_id``
        the kernel's 64-bit id, never used twice until reboot; None where it tells none (before Linux 6.18)
    ``owner_id``, ``parent_id``
        the ids of the owning user namespace, and of the parent of a pid or user namespace; None where the kernel hides
        it from the caller, or there is none
    ``owner_uid``
        the uid, as the caller sees it, that made this user namespace, or for another type its owner; None if hidden
    ``nsid``
        the number by which the caller's net namespace knows this one, as ``ip netns list-id`` shows it; or None
    ``pinned``
        where it is mounted: tuples ``(path, mnt, here)`` of the path, the id of the mount namespace that has it, and
        whether that is the caller's
    ``threads``
        tuples ``(pid, tid)`` of the threads in it whose process is elsewhere

    Two records are equal if they are of the same namespace.
    """

    __slots__ = (
        "_references",
        "_snapshot",
        "id",
        "ns_id",
        "nsid",
        "owner_id",
        "owner_uid",
        "parent_id",
        "pinned",
        "threads",
        "type",
    )

    id: Id
    type: NamespaceType
    ns_id: int | None
    owner_id: Id | None
    parent_id: Id | None
    owner_uid: int | None
    nsid: int | None
    pinned: tuple[Pin, ...]
    threads: tuple[Thread, ...]
    _references: tuple[Reference, ...]
    _snapshot: Snapshot

    def __init__(self, type: NamespaceType, id: Id, **facts: Any) -> None:
        absent = {"ns_id": None, "owner_id": None, "parent_id": None, "owner_uid": None, "nsid": None}
        for name, value in {**absent, "pinned": (), "threads": (), "_references": (), **facts}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "id", id)

    def __setstate__(self, state: tuple[None, dict[str, Any]]) -> None:
        """Be unpickled, or copied: always with the snapshot that it is of."""
        for name, value in state[1].items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: a NamespaceInfo tells what was found, and cannot be changed")

    @property
    def owner(self) -> NamespaceInfo | None:
        """The record of the owning user namespace; None where it is hidden, or not in this snapshot."""
        return self._snapshot._by_id.get(self.owner_id) if self.owner_id else None

    @property
    def parent(self) -> NamespaceInfo | None:
        """The record of the parent of a pid or user namespace; None as for :attr:`owner`."""
        return self._snapshot._by_id.get(self.parent_id) if self.parent_id else None

    @property
    def children(self) -> tuple[NamespaceInfo, ...]:
        """The records of those whose parent this is: of pid and user namespaces."""
        return tuple(self._snapshot._related("parent_id").get(self.id, ()))

    @property
    def owned(self) -> tuple[NamespaceInfo, ...]:
        """The records of those that this user namespace owns, which for user namespaces are its children."""
        return tuple(self._snapshot._related("owner_id").get(self.id, ()))

    @property
    def pids(self) -> Sequence[int]:
        """The pids of the processes in it, ascending: an array, made without another look at them."""
        return self._snapshot._tasks.of(self.type, self.id[1])

    @property
    def nprocs(self) -> int:
        """How many processes are in it."""
        return len(self.pids)

    @property
    def leaders(self) -> tuple[int, ...]:
        """The pids of those members whose parent is no member, ascending. Reads their parents now."""
        pids, ppid = self.pids, self._snapshot._processes.ppid
        members = set(pids)
        return tuple(pid for pid in pids if ppid(pid) not in members)

    @property
    def members(self) -> tuple[int, ...]:
        """The pids of the processes in it: the leaders, then the others, ascending. Reads their parents now."""
        return self._leaders_first(self.leaders)

    def _leaders_first(self, leaders: tuple[int, ...]) -> tuple[int, ...]:
        first = set(leaders)
        return (*leaders, *(pid for pid in self.pids if pid not in first))

    @property
    def references(self) -> tuple[str, ...]:
        """By what it can be reached, in words: below ``/proc``, of the first of its processes; then what else was found."""
        pids = self.pids[:3]
        name = self.type.proc_name
        return (*(f"/proc/{pid}/ns/{name}" for pid in pids), *map(str, self._references))

    def open(self) -> NamespaceHandle:
        """Open it, and make sure that it is the same. Close the handle after use.

        By its id where the kernel can (Linux 6.18, with privilege), else by each of its references until one is right. A
        bind mount in a mount namespace that no process is in is opened by a thread that goes there and ends; the calling
        thread stays where it is. Raises NamespaceError: ``ENOENT`` it is gone, or nothing leads to it any more; ``EACCES``
        what leads to it may not be opened. Without ``ns_id``, one that has the same inode number by now is taken for it.
        """
        return self._open(set())

    def _open(self, asked: set[Id]) -> NamespaceHandle:
        asked.add(self.id)
        words, denied = f"{self.type.proc_name}:[{self.id[1]}]", 0
        for fd in self._ways(asked):
            errnum = -fd.number
            if errnum <= 0:
                try:
                    return check_same(fd, words, self.type, self.id, self.ns_id)
                except NamespaceError as error:
                    errnum = error.errno or ENOENT
            if errnum in (EMFILE, ENFILE):
                raise NamespaceError(errnum, None, words, step=f"open {words}", type=self.type)
            if errnum in (EACCES, EPERM):
                denied = errnum
        errnum = denied or ENOENT
        why = hint(EACCES, "open") if denied else "it is gone, or nothing that was found leads to it any more"
        raise NamespaceError(errnum, None, words, step=f"open {words}", type=self.type, hint=why)

    def _ways(self, asked: set[Id]) -> Iterator[Fd]:
        if self.ns_id is not None:
            yield _scan.open_by_id(self.ns_id, self.type.flag, self.id[1])
        for task in self._snapshot._members(self.id):
            yield _scan.open_at(-1, f"/proc/{task}/ns/{self.type.proc_name}")
        for reference in self._references:
            try:
                yield open_reference(
                    reference, self.id[0], lambda other: self._snapshot._open(other, asked), self._snapshot._members
                )
            except NamespaceError as error:
                yield _scan.failed(error.errno or ENOENT)

    def to_dict(self) -> dict[str, Any]:
        """Give the facts as plain values, as documented at :meth:`Snapshot.to_dict`."""
        leaders = self.leaders
        return {
            "type": self.type.proc_name,
            "id": list(self.id),
            "ns_id": self.ns_id,
            "owner": list(self.owner_id) if self.owner_id else None,
            "parent": list(self.parent_id) if self.parent_id else None,
            "children": [list(each.id) for each in self.children],
            "owner_uid": self.owner_uid,
            "nsid": self.nsid,
            "nprocs": self.nprocs,
            "leaders": list(leaders),
            "members": list(self._leaders_first(leaders)),
            "threads": [list(each) for each in self.threads],
            "pinned": [{"path": pin.path, "mnt": list(pin.mnt), "here": pin.here} for pin in self.pinned],
            "references": list(self.references),
        }

    def __eq__(self, other: object) -> bool:
        return (self.id, self.ns_id) == (other.id, other.ns_id) if isinstance(other, NamespaceInfo) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<NamespaceInfo {self.type.proc_name}:[{self.id[1]}]>"


class Node:
    """A namespace in a tree of them: ``namespace``, and the ``children`` below it."""

    __slots__ = ("children", "namespace")

    def __init__(self, namespace: NamespaceInfo) -> None:
        self.namespace = namespace
        self.children: list[Node] = []

    def walk(self) -> Iterator[tuple[int, NamespaceInfo]]:
        """Give this one and all below it, each with its depth, from top to bottom."""
        stack = [(0, self)]
        while stack:
            depth, node = stack.pop()
            yield depth, node.namespace
            stack += [(depth + 1, child) for child in reversed(node.children)]

    def __repr__(self) -> str:
        return f"<Node {self.namespace!r}, {len(self.children)} children>"


class Snapshot:
    """What :func:`discover` has found: an iterable of :class:`NamespaceInfo`, by type, then by inode number.

    ``len(snap)``, ``snap[id]`` by (device, inode), which is KeyError for another, and ``id in snap``. Filters are plain
    Python: ``[ns for ns in snap if ns.nprocs > 100]``. It is data: it holds no fd, and what it shows may be over. Names,
    parents and command lines of processes are read when they are asked for, then kept.

    ``sources``
        what was looked through
    ``skipped``
        what could not be looked at, counted: ``{"processes": {"ended": 1, "denied": 2}}``
    ``unseen``
        what may be missing for that reason, or is not even listed in /proc, as sentences; empty for who may see everything
    """

    def __init__(
        self,
        namespaces: Sequence[NamespaceInfo],
        tasks: Tasks,
        *,
        sources: tuple[str, ...] = (),
        skipped: Mapping[str, Mapping[str, int]] | None = None,
        unseen: tuple[str, ...] = (),
        processes: Any = None,
        others: Sequence[NamespaceInfo] = (),
    ) -> None:
        self._all = sorted(namespaces, key=lambda each: (_ORDER[each.type], each.id))
        self._by_id = {each.id: each for each in self._all}
        self._tasks, self._processes = tasks, processes or Processes()
        self._kin: dict[str, dict[Id, list[NamespaceInfo]]] = {}
        self.sources, self.skipped, self.unseen = sources, skipped or {}, unseen
        # By way of these, which were not asked for, some of the others are opened.
        self._known = {each.id: each for each in (*others, *self._all)}
        for each in self._known.values():
            object.__setattr__(each, "_snapshot", self)

    def __iter__(self) -> Iterator[NamespaceInfo]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, id: Id) -> NamespaceInfo:
        return self._by_id[id]

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def __repr__(self) -> str:
        return f"<Snapshot: {len(self)} namespaces, {len(self._tasks.pids)} processes>"

    def by_type(self, type: NamespaceType | str) -> tuple[NamespaceInfo, ...]:
        """Give the namespaces of one type."""
        type = NamespaceType.parse(type)
        return tuple(each for each in self._all if each.type is type)

    def of(self, pid: int) -> tuple[NamespaceInfo, ...]:
        """Give the namespaces that the process *pid* is in; KeyError for one that is not in this snapshot."""
        inodes = self._tasks.inodes(_check_pid(pid))
        if not inodes:
            raise KeyError(f"process {pid} is not in this snapshot")
        return tuple(each for each in self._all if inodes.get(each.type) == each.id[1])

    def process(self, pid: int) -> Process | None:
        """Read parent, uid, name and command line of a process, now: a tuple with these names; None if it has ended."""
        pid = _check_pid(pid)
        found: Process | None = self._processes.process(pid)
        return found

    def persistent(self) -> tuple[NamespaceInfo, ...]:
        """Give the namespaces that no process and no thread is in: what else has been found keeps them."""
        return tuple(each for each in self._all if not each.nprocs and not each.threads)

    def tree(self, by: str = "owner") -> tuple[Node, ...]:
        """Arrange all namespaces in trees, and give the topmost: objects with ``.namespace``, ``.children``, ``.walk()``.

        *by* is ``"owner"``: below each user namespace what it owns; ``"parent"``: below each pid and user namespace its
        children, all else on top; ``"process"``: below each namespace those of its type whose first process has its parent
        there, which reads parents now.
        """
        if by not in RELATIONS:
            raise ValueError(f"by: {by!r} is none of {', '.join(RELATIONS)}")
        if by == "process":
            above = self._above_by_process()
        else:
            above = {each.id: each.owner_id if by == "owner" else each.parent_id for each in self._all}
        _cut_circles(above)
        nodes = {each.id: Node(each) for each in self._all}
        tops: list[Node] = []
        for each in self._all:
            id = above[each.id]
            (tops if id is None or id not in nodes else nodes[id].children).append(nodes[each.id])
        return tuple(tops)

    def _above_by_process(self) -> dict[Id, Id | None]:
        above: dict[Id, Id | None] = {}
        for each in self._all:
            above[each.id] = None
            pid, seen = (each.pids[0] if each.nprocs else 0), {0}
            while pid not in seen:  # parents are read one after the other: a circle is thinkable
                seen.add(pid)
                pid = self._processes.ppid(pid)
                inode = self._tasks.inodes(pid).get(each.type, 0)
                if inode != each.id[1]:
                    above[each.id] = (each.id[0], inode) if inode else None
                    break
        return above

    def translate_pid(
        self, pid: int, from_: NamespaceInfo | NamespaceHandle | Id, to: NamespaceInfo | NamespaceHandle | Id
    ) -> int | None:
        """Tell what the process that is *pid* in the pid namespace *from_* is called in the pid namespace *to*.

        None if there is no such process, or *to* does not see it: a pid namespace sees its own processes and those of its
        descendants. Both are records, handles or ids, of pid namespaces of this snapshot (else KeyError, ValueError). What
        the processes are called is read from ``NSpid`` of proc_pid_status(5) when it is first asked for.
        """
        pid = _check_pid(pid)
        origin, target = self._pid_namespace(from_, "from_"), self._pid_namespace(to, "to")
        below = [(origin, 0)]
        for namespace, depth in below:
            below += [(child, depth + 1) for child in namespace.children]
            up = _steps_up(namespace, target)
            for each in namespace.pids:
                names = self._processes.nspids(each)
                if depth < len(names) and names[-1 - depth] == pid:
                    return names[-1 - up] if up is not None and up < len(names) else None
        return None

    def _pid_namespace(self, namespace: Any, field: str) -> NamespaceInfo:
        info = self._by_id[getattr(namespace, "id", namespace)]
        if info.type is not NamespaceType.PID:
            raise ValueError(f"{field}: {info!r} is no pid namespace")
        return info

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as plain values, in the schema that docs/reference/discover.rst tells of. Reads parents now."""
        return {
            "schema": SCHEMA,
            "sources": list(self.sources),
            "skipped": {source: dict(counts) for source, counts in self.skipped.items()},
            "unseen": list(self.unseen),
            "namespaces": [each.to_dict() for each in self._all],
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Give :meth:`to_dict` as JSON, in ASCII; what of a path is no UTF-8 is kept as ``os.fsdecode`` has it."""
        import json

        return json.dumps(self.to_dict(), indent=indent)

    def to_dot(self) -> str:
        """Draw it for Graphviz: a box for each namespace, an arrow from each owner, a dashed one from each parent."""
        lines = ["digraph namespaces {", "  rankdir=LR; node [shape=box];"]
        for each in self._all:
            count = f"{each.nprocs} process{'' if each.nprocs == 1 else 'es'}"
            name = f"{each.type.proc_name}:[{each.id[1]}]"
            label = "\\n".join(map(_dot, (name, count, *(pin.path for pin in each.pinned))))
            lines.append(f'  "{each.id[1]}" [label="{label}"];')
        for each in self._all:
            if each.owner is not None:
                lines.append(f'  "{each.owner.id[1]}" -> "{each.id[1]}";')
            if each.parent is not None and each.type is NamespaceType.PID:
                lines.append(f'  "{each.parent.id[1]}" -> "{each.id[1]}" [style=dashed];')
        return "\n".join([*lines, "}"]) + "\n"

    def _related(self, name: str) -> dict[Id, list[NamespaceInfo]]:
        if name not in self._kin:
            kin: dict[Id, list[NamespaceInfo]] = {}
            for each in self._all:
                id = getattr(each, name)
                if id is not None:
                    kin.setdefault(id, []).append(each)
            self._kin[name] = kin
        return self._kin[name]

    def _members(self, id: Id) -> Iterator[str]:
        """Name below /proc who is in a namespace: processes, then threads of others."""
        info = self._known.get(id)
        if info is not None:
            yield from map(str, info.pids)
            yield from map(str, info.threads)

    def _open(self, id: Id, asked: set[Id]) -> NamespaceHandle:
        """Open one on the way to another; what is asked for already leads nowhere."""
        info = self._known.get(id)
        if info is None or id in asked:
            raise NamespaceError(ENOENT, None, f"namespace {id[1]}", step=f"open namespace {id[1]}")
        return info._open(asked)


def _check_pid(pid: Any) -> int:
    if not isinstance(pid, int):
        raise TypeError(f"pid: {pid!r} is no int")
    return pid


def _steps_up(namespace: NamespaceInfo, target: NamespaceInfo) -> int | None:
    """Count the parents from one to the other; None where that is none of its ancestors."""
    steps, seen = 0, set()
    each: NamespaceInfo | None = namespace
    while each is not None and each.id not in seen:
        if each.id == target.id:
            return steps
        seen.add(each.id)
        each, steps = each.parent, steps + 1
    return None


def _cut_circles(above: dict[Id, Id | None]) -> None:
    """Let nothing stand above itself: what was read at different times may say so."""
    safe: set[Id] = set()
    for id in above:
        way: set[Id] = set()
        each: Id | None = id
        while each is not None and each not in safe:
            way.add(each)
            next = above.get(each)
            if next in way:
                above[each] = next = None
            each = next
        safe |= way


def _dot(text: str) -> str:
    """Quote for a label of Graphviz; a path may hold anything, also what is no UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
