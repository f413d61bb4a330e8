# SPDX-License-Identifier: MIT
"""discover: every namespace that can be reached from here, and by what."""

from __future__ import annotations

import os
from array import array
from errno import EACCES, EBADF, EINVAL, EMFILE, ENFILE, ENOENT, EPERM, ESRCH, EXDEV

from nsapi import _native, _scan
from nsapi._errors import NamespaceError, hint
from nsapi._handle import NamespaceHandle
from nsapi._native import Fd
from nsapi._reference import KIN, Id, Reference, open_reference
from nsapi._scan import LINK_WIDTH, TASK_WIDTH, failed
from nsapi._snapshot import NamespaceInfo, Pin, Snapshot, Thread
from nsapi._tasks import SOURCES, Scan, Tasks, source_number
from nsapi._types import NamespaceType, flags_of, parse_types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nsapi._scan import Facts

TYPES = tuple(NamespaceType)
#: The columns of the C core's rows: the types in their order, then these, which are files of two of them.
FOR_CHILDREN = {8: NamespaceType.PID, 9: NamespaceType.TIME}
#: So many ways of a kind to one namespace are kept, beside its processes: anybody can open an fd on it a million times.
MOST = 16


def discover(
    types: NamespaceType | str | Iterable[NamespaceType | str] | None = None,
    *,
    sources: str | Iterable[str] = SOURCES,
) -> Snapshot:
    """Find every namespace that can be reached from here. Changes nothing, and the calling thread stays where it is.

    Who is where is as the thread's own /proc shows it. Only what is mounted in a mount namespace that no process is in, and
    is known from nowhere else, is opened by a thread that goes there and ends.

    *types* is one type, or several: only these are in the answer; all where it is None. *sources* says where to look, in
    these words; all by default, which takes about twice as long as processes alone:

    - ``"processes"``: the namespaces of each process in /proc; who is in which is known by this one only
    - ``"threads"``: of threads that are elsewhere than their process
    - ``"children"``: ``pid_for_children`` and ``time_for_children`` of each process
    - ``"fds"``: what is open in a process
    - ``"sockets"``: the net namespace of each socket (Linux 5.6), through a copy of it for a moment
    - ``"mounts"``: bind mounts, in every mount namespace: by statmount(2) and listmount(2) (Linux 6.11), else by
      /proc/PID/mountinfo of a process there; and mount namespaces in which nobody is, by ioctl_nsfs(2) (Linux 6.13)
    - ``"ancestors"``: parents and owners of all these, and theirs, in which there may be nobody

    With all of the last four, listns(2) is asked too where the kernel has it (Linux 6.19).

    Who ends while being looked at, or may not be looked at (``EACCES`` or ``EPERM``, also for root), is counted in
    ``Snapshot.skipped``, and told of in ``Snapshot.unseen``. Raises NamespaceError where no answer would be complete: no
    /proc, something else mounted over it, no free fds. ValueError and TypeError for other words.
    """
    _native.require()
    wanted = _types(types)
    with _Walk(wanted, _sources(sources)) as walk:
        try:
            walk.run()
        except NamespaceError:
            raise
        except OSError as error:
            raise NamespaceError(error.errno or EINVAL, None, error.filename or "/proc", step="scan /proc") from None
        return walk.snapshot()


def _types(types: NamespaceType | str | Iterable[NamespaceType | str] | None) -> frozenset[NamespaceType]:
    if types is None:
        return frozenset(TYPES)
    if isinstance(types, (str, NamespaceType)):
        types = (types,)
    try:
        found = parse_types(types)
    except TypeError as error:
        raise TypeError(f"types: {types!r} is no namespace type and no iterable of them") from error
    if not found:
        raise ValueError("types: none is named; None stands for all")
    return frozenset(found)


def _sources(sources: str | Iterable[str]) -> tuple[str, ...]:
    try:
        given = {sources} if isinstance(sources, str) else set(sources)
    except TypeError:
        raise TypeError(f"sources: {sources!r} is no word and no iterable of words: {', '.join(SOURCES)}") from None
    for each in given:
        if each not in SOURCES:
            raise ValueError(f"sources: {each!r} is none of {', '.join(SOURCES)}")
    if not given:
        raise ValueError(f"sources: none is named; they are {', '.join(SOURCES)}")
    return tuple(each for each in SOURCES if each in given)


class _Found:
    """What is known of a namespace so far."""

    __slots__ = ("facts", "pinned", "references", "threads", "type")

    def __init__(self, type: NamespaceType, facts: Facts | None) -> None:
        self.type, self.facts = type, facts
        self.references: list[Reference] = []
        self.pinned: dict[Pin, None] = {}  # in a shared mount a name is mounted twice at the same place
        self.threads: list[Thread] = []

    def refer(self, reference: Reference) -> None:
        if reference not in self.references and sum(each.kind == reference.kind for each in self.references) < MOST:
            self.references.append(reference)


class _Walk:
    """One walk: owns the fds that it needs; ``with`` closes them."""

    def __init__(self, wanted: frozenset[NamespaceType], sources: tuple[str, ...]) -> None:
        self.wanted, self.sources = wanted, sources
        # By inode number: no two namespaces have the same, whatever their types.
        self.found: dict[int, _Found] = {}
        self.tasks = Tasks(array("I"), {})
        self.skipped: dict[str, dict[str, int]] = {}
        self.unseen: list[str] = []
        self.proc, self.route = failed(EBADF), failed(EBADF)
        self.way: NamespaceHandle | None = None
        self.types = {each.flag: each for each in TYPES}

    def __enter__(self) -> _Walk:
        try:
            self.proc = _scan.open_at(-1, "/proc", _native.O_PATH | _native.O_DIRECTORY)
            proc = self.proc.number
            if proc < 0:
                raise NamespaceError(-proc, None, "/proc", step="open /proc")
            if _native.fs_magic(proc) != _native.constant("PROC_SUPER_MAGIC"):
                raise NamespaceError(EXDEV, None, "/proc", step="open /proc", hint=hint(EXDEV, "open_own"))
            try:
                self.device = os.stat("thread-self/ns/mnt", dir_fd=proc).st_dev
            except OSError as error:
                raise NamespaceError(error.errno or EINVAL, None, "/proc", step="open /proc") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.proc.__exit__()
        self.route.__exit__()
        if self.way is not None:
            self.way.close()

    def run(self) -> None:
        scan = self._scan()
        self._look_for_pid_1()
        if NamespaceType.NET in self.wanted:  # not before, or it would be found; without one, nsid is not told
            self.route = _scan.route_socket()
            _refuse(-self.route.number)
        rows = array("I", scan.processes)
        columns = {each: rows[2 + number :: TASK_WIDTH] for number, each in enumerate(TYPES)}
        self.tasks = Tasks(rows[0::TASK_WIDTH], columns)
        if "processes" in self.sources:
            for type, column in columns.items():
                # The last one written stays: the first process.
                for inode, pid in dict(zip(reversed(column), reversed(self.tasks.pids), strict=True)).items():
                    if inode:
                        self._meet_member(type, inode, pid)
        else:
            self.tasks = Tasks(array("I"), {})
        for number, type in FOR_CHILDREN.items():
            inodes, peopled = rows[2 + number :: TASK_WIDTH], set(self.tasks.columns.get(type, ()))
            for inode, pid in dict(zip(reversed(inodes), reversed(rows[0::TASK_WIDTH]), strict=True)).items():
                if inode and inode not in peopled:
                    path = f"/proc/{pid}/ns/{type.proc_name}_for_children"
                    self._meet(inode, type, Reference("path", path), "children")
        self._meet_threads(array("I", scan.threads))
        self._meet_links(array("I", scan.links))
        if {"fds", "sockets", "mounts", "ancestors"} <= set(self.sources):
            self._list()  # before the mounts, which are looked for in what it finds too
        if "mounts" in self.sources:
            self._walk_mounts()

    def _scan(self) -> Scan:
        sources = set(self.sources) - {"ancestors", "mounts"}
        if "sockets" in sources and NamespaceType.NET not in self._columns():
            sources.remove("sockets")
        if "sockets" in sources and os.readlink("self", dir_fd=self.proc.number) != str(os.getpid()):
            sources.remove("sockets")
            self.unseen.append("sockets: /proc is of another pid namespace, so that its pids are not the caller's")
        columns = self._columns()
        rows = not {"processes", "threads"}.isdisjoint(sources)
        names: list[str | None] = [each.proc_name if rows and each in columns else None for each in TYPES]
        for each in FOR_CHILDREN.values():
            asked = "children" in sources and each in columns
            names.append(f"{each.proc_name}_for_children" if asked else None)
        if "fds" in sources and not rows:  # whose links are known by these names
            names[:8] = [each.proc_name if each in columns else None for each in TYPES]
        scan = Scan(self.proc.number, names, sources, self.device)
        for (source, reason), count in scan.skipped.items():
            self._skip(source, reason, count)
        return scan

    def _look_for_pid_1(self) -> None:
        """Tell of a /proc that hides processes (hidepid): the pid 1 that every pid namespace has is not there then."""
        try:
            os.stat("1", dir_fd=self.proc.number)
        except FileNotFoundError:
            self.unseen.append("processes: /proc does not list those of others (hidepid), so that they are not counted")

    def _columns(self) -> frozenset[NamespaceType]:
        """Tell which types have to be looked at: user namespaces own all others, and mount namespaces hold mounts."""
        if NamespaceType.USER in self.wanted and "ancestors" in self.sources:
            return frozenset(TYPES)
        return self.wanted | ({NamespaceType.MNT} if "mounts" in self.sources else set())

    def _skip(self, source: str, reason: str, count: int = 1) -> None:
        counts = self.skipped.setdefault(source, {})
        counts[reason] = counts.get(reason, 0) + count

    # ---- one namespace ----

    def _meet_member(self, type: NamespaceType, inode: int, pid: int) -> None:
        """Describe the namespace of a process, or of the next one if that has ended."""
        if inode in self.found:
            return
        others: Iterator[int] | None = None
        each: int | None = pid
        while each is not None:
            fd = _scan.open_at(self.proc.number, f"{each}/ns/{type.proc_name}")
            _refuse(-fd.number)
            if fd.number >= 0 and self._describe(fd, inode):
                return
            if others is None:
                others = iter(self.tasks.of(type, inode)[1:])
            each = next(others, None)
        self.found[inode] = _Found(type, None)  # all have ended meanwhile: they were there

    def _meet(self, inode: int, type: NamespaceType | None, reference: Reference, source: str) -> _Found | None:
        """Describe what *reference* leads to, if it is not known yet; None if that leads elsewhere by now."""
        if inode not in self.found:
            fd = self._open_reference(reference)
            if fd.number < 0:
                reasons = {EACCES: "denied", EPERM: "denied", ENOENT: "ended", ESRCH: "ended", EBADF: "ended"}
                self._skip(source, reasons.get(-fd.number, "failed"))
                return None
            if not self._describe(fd, inode):
                self._skip(source, "ended")
                return None
        found = self.found[inode]
        found.refer(reference)
        return found

    def _open_reference(self, reference: Reference) -> Fd:
        try:
            fd = open_reference(reference, self.device, self._open_found, self._members)
        except NamespaceError as error:
            fd = failed(error.errno or EINVAL)
        _refuse(-fd.number)
        return fd

    def _describe(self, fd: Fd, inode: int | None) -> int:
        """Describe what *fd* is on, and with ancestors all above it; closes fd. Its inode number; 0 if it is not *inode*."""
        pending, answer = [fd], 0
        try:
            for each in pending:  # grows on the way up
                try:
                    facts = _scan.describe(each.number, self.route.number)
                except NamespaceError as error:
                    _refuse(error.errno)
                    continue
                if facts[0] not in self.types:
                    continue  # a type that is not known yet
                if not answer:
                    if inode is not None and facts[2] != inode:
                        return 0
                    answer = facts[2]
                self._note(facts)
                if "ancestors" in self.sources:
                    pending += self._climb(each.number, facts)
        finally:
            for each in pending:
                each.__exit__()
        return answer

    def _note(self, facts: Facts) -> _Found:
        found = self.found.get(facts[2])
        if found is None:
            found = self.found[facts[2]] = _Found(self.types[facts[0]], facts)
        elif found.facts is None:
            found.facts = facts
        return found

    def _climb(self, fd: int, facts: Facts) -> Iterator[Fd]:
        for kind, inode in (("owner", facts[4]), ("parent", facts[5])):
            if inode and inode not in self.found:
                above = _scan.open_by_ioctl(fd, KIN[kind])
                _refuse(-above.number)
                if above.number >= 0:
                    yield above
                    type = NamespaceType.USER if kind == "owner" else self.types[facts[0]]
                    self.found[inode] = _Found(type, None)
                    self.found[inode].refer(Reference(kind, of=(self.device, facts[2])))

    # ---- threads, fds, sockets ----

    def _meet_threads(self, rows: array[int]) -> None:
        for start in range(0, len(rows), TASK_WIDTH):
            pid, tid, *inodes = rows[start : start + TASK_WIDTH]
            process = self.tasks.inodes(pid)
            for number, inode in enumerate(inodes):
                type = FOR_CHILDREN.get(number) or TYPES[number]
                if not inode or process.get(type) == inode:
                    continue
                name = type.proc_name if number < len(TYPES) else f"{type.proc_name}_for_children"
                source = "threads" if number < len(TYPES) else "children"
                found = self._meet(inode, type, Reference("path", f"/proc/{pid}/task/{tid}/ns/{name}"), source)
                if found is not None and number < len(TYPES):
                    found.threads.append(Thread(pid, tid))

    def _meet_links(self, rows: array[int]) -> None:
        sockets = source_number("sockets")
        for start in range(0, len(rows), LINK_WIDTH):
            pid, fd, inode, source = rows[start : start + LINK_WIDTH]
            if source == sockets:
                self._meet(inode, NamespaceType.NET, Reference("socket", pid=pid, fd=fd), "sockets")
            else:
                self._meet(inode, None, Reference("path", f"/proc/{pid}/fd/{fd}"), "fds")

    # ---- mounts ----

    def _walk_mounts(self) -> None:
        own = self._describe(self._own_mount_namespace(), None)
        self._meet_mount_namespaces(own)
        walked: set[int] = set()
        while True:
            todo = [
                inode for inode, each in self.found.items() if each.type is NamespaceType.MNT and inode not in walked
            ]
            if not todo:
                break
            for inode in todo:
                walked.add(inode)
                mounts = self._mounts(inode, own)
                if mounts is None:
                    self._skip("mounts", "denied" if self._is_there(inode) else "ended")
                for text, path in mounts or ():
                    self._meet_mount(text, path, inode, here=inode == own)

    def _is_there(self, inode: int) -> bool:
        """Tell whether a namespace is there still; one that may not be opened is."""
        try:
            self._open_found((self.device, inode)).close()
        except NamespaceError as error:
            _refuse(error.errno)
            return error.errno in (EACCES, EPERM)
        return True

    def _meet_mount(self, text: bytes, path: str, mnt: int, *, here: bool) -> None:
        inode = int(text.partition(b"[")[2].rstrip(b"]") or 0)
        if not inode:
            return
        id = (self.device, mnt)
        reference = Reference("pin", path) if here else Reference("mount", path, of=id)
        known = inode in self.found
        found = self._meet(inode, None, reference, "mounts")
        if found is None and not known:
            # It is mounted there, whether or not anybody can open it: covered by another mount, or out of reach.
            type = next((each for each in TYPES if text.startswith(each.proc_name.encode() + b":")), None)
            if type is None:
                return
            found = self.found[inode] = _Found(type, None)
            found.refer(reference)
        if found is not None:
            found.pinned[Pin(path, id, here)] = None

    def _mounts(self, inode: int, own: int) -> list[tuple[bytes, str]] | None:
        """List the mounts of namespaces in a mount namespace; None where that may not be looked into."""
        facts = self.found[inode].facts
        if facts is not None and facts[3]:
            listed = _scan.nsfs_mounts(facts[3])
            if not isinstance(listed, int):
                return [(text, os.fsdecode(path)) for text, path in zip(listed[0::2], listed[1::2], strict=True)]
            _refuse(-listed)
        tasks = ["thread-self"] if inode == own else list(self._members((self.device, inode)))
        best = next(filter(self._sees_all, tasks), None)
        for task in tasks if best is None else (best, *tasks):
            text = _scan.read_file(self.proc.number, f"{task}/mountinfo", whole=True)
            if isinstance(text, bytes):
                return list(_nsfs_lines(text))
            _refuse(-text)
        return None

    def _sees_all(self, task: str) -> bool:
        """Tell whether the root of a task is that of its mount namespace: mountinfo shows what is below it only."""
        try:
            return os.readlink(f"{task}/root", dir_fd=self.proc.number) == "/"
        except OSError:
            return False

    def _meet_mount_namespaces(self, own: int) -> None:
        """Walk the kernel's list of all mount namespaces, to both ends; an older kernel, or little privilege, shows none."""
        for kind in ("next", "previous"):
            here, inode = self._own_mount_namespace(), own
            try:
                while inode:
                    with here as fd:
                        here = _scan.mount_namespace_beside(fd, previous=kind == "previous")
                    _refuse(-here.number)
                    if here.number < 0:
                        self._tell_if_denied(-here.number, kind)
                        break
                    before, inode = inode, _scan.inode_on(self.device, here.number)
                    if inode not in self.found:
                        self._describe(Fd(os.dup, here.number), inode)
                    if inode in self.found and not self.tasks.of(NamespaceType.MNT, inode):
                        self.found[inode].refer(Reference(kind, of=(self.device, before)))
            finally:
                here.__exit__()

    def _tell_if_denied(self, errnum: int, kind: str) -> None:
        # Also denied to root who is not in the initial pid namespace: what is his he sees by his processes.
        if errnum == EPERM and kind == "next":
            status = _scan.read_file(self.proc.number, "thread-self/status")
            if isinstance(status, int) or not int(status.partition(b"CapEff:")[2].split(None, 1)[0], 16) >> 21 & 1:
                self.unseen.append("mounts: mount namespaces that no process is in are listed for CAP_SYS_ADMIN only")

    def _own_mount_namespace(self) -> Fd:
        fd = _scan.open_at(self.proc.number, "thread-self/ns/mnt")
        if fd.number < 0:
            raise NamespaceError(-fd.number, None, "/proc", step="scan /proc")
        return fd

    # ---- listns ----

    def _list(self) -> None:
        known = {each.facts[3] for each in self.found.values() if each.facts is not None}
        for id in _scan.list_ids(flags_of(self.wanted)) or ():
            if id not in known:
                reference = Reference("id", fd=id)
                fd = self._open_reference(reference)
                inode = self._describe(fd, None) if fd.number >= 0 else 0
                if inode:
                    self.found[inode].refer(reference)

    # ---- the answer ----

    def _members(self, id: Id) -> Iterator[str]:
        """Name below /proc who is in a mount namespace: processes, then threads of others."""
        yield from map(str, self.tasks.of(NamespaceType.MNT, id[1]))
        yield from map(str, self.found[id[1]].threads)

    def _open_found(self, id: Id) -> NamespaceHandle:
        """Open a namespace that has been found, on the way to another; it is kept open for the next."""
        if self.way is None or self.way.id != id:
            way = self.snapshot(everything=True)[id].open()
            if self.way is not None:
                self.way.close()
            self.way = way
        return self.way.duplicate()

    def snapshot(self, *, everything: bool = False) -> Snapshot:
        infos: list[NamespaceInfo] = []
        others: list[NamespaceInfo] = []
        for inode, each in self.found.items():
            (infos if everything or each.type in self.wanted else others).append(self._info(inode, each))
        return Snapshot(
            infos, self.tasks, sources=self.sources, skipped=self.skipped, unseen=self._unseen(), others=others
        )

    def _info(self, inode: int, found: _Found) -> NamespaceInfo:
        kept = {
            "threads": tuple(found.threads),
            "pinned": tuple(found.pinned),
            "_references": tuple(found.references),
        }
        if found.facts is None:
            return NamespaceInfo(found.type, (self.device, inode), **kept)
        _, _, _, ns_id, owner, parent, uid, nsid = found.facts
        return NamespaceInfo(
            found.type,
            (self.device, inode),
            ns_id=ns_id or None,
            owner_id=(self.device, owner) if owner else None,
            parent_id=(self.device, parent) if parent else None,
            owner_uid=uid if uid >= 0 else None,
            nsid=nsid if nsid >= 0 else None,
            **kept,
        )

    def _unseen(self) -> tuple[str, ...]:
        words = {
            "processes": "processes: the namespaces of {}, and what is open there, need CAP_SYS_PTRACE",
            "threads": "threads: the namespaces of {} need CAP_SYS_PTRACE",
            "fds": "fds: what is open in {} processes needs CAP_SYS_PTRACE",
            "sockets": "sockets: the net namespaces of {} need CAP_SYS_PTRACE, and CAP_NET_ADMIN there",
            "mounts": "mounts: what is mounted in {} mount namespaces needs CAP_SYS_ADMIN, and Linux 6.11",
        }
        counts = {source: reasons.get("denied", 0) for source, reasons in self.skipped.items()}
        told = tuple(text.format(counts[source]) for source, text in words.items() if counts.get(source))
        return (*told, *self.unseen)


def _refuse(errnum: int | None) -> None:
    """Raise where the fault is ours, and an answer would lack what is there."""
    if errnum in (EMFILE, ENFILE):
        raise NamespaceError(errnum or 0, None, "/proc", step="scan /proc")


def _nsfs_lines(mountinfo: bytes) -> Iterator[tuple[bytes, str]]:
    """Find the mounts of namespaces in proc_pid_mountinfo(5): the namespace's text, and the mount point."""
    if b" - nsfs " not in mountinfo:
        return
    for line in mountinfo.split(b"\n"):
        # A file system may show of itself what it likes after this.
        before, _, after = line.partition(b" - ")
        if after.startswith(b"nsfs "):
            _, _, _, root, point, *_ = before.split(b" ")
            yield root, os.fsdecode(_unescape(point))


def _unescape(path: bytes) -> bytes:
    first, *rest = path.split(b"\\")
    return first + b"".join(bytes([int(each[:3], 8)]) + each[3:] for each in rest)
