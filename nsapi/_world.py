# SPDX-License-Identifier: MIT
"""What a plan needs from the world: facts about the caller, and the fds that are lent to one spawn."""

from __future__ import annotations

import os
import threading
from errno import EEXIST, EINVAL, ENOENT, ENOSYS
from typing import Any, NamedTuple

from nsapi import _idmap, _mapping, _maps, _native, _plan, _switch
from nsapi._config import Config, Namespace, joined_namespace
from nsapi._errors import NamespaceError, Unsupported, refused, unsupported
from nsapi._handle import NamespaceHandle, children_are_elsewhere, current, own
from nsapi._switch import Move
from nsapi._target import Target, resolve
from nsapi._types import NamespaceType, flags_of, is_namespace_supported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Join(NamedTuple):
    """A namespace to join, already open."""

    type: NamespaceType
    fd: int
    words: str


class Together(NamedTuple):
    """A process several of whose namespaces are to be joined at once, if that can be."""

    fd: int = -1
    types: int = 0


class Lent:
    """Fds that are open for the time of one spawn; ``with`` closes them."""

    def __init__(self) -> None:
        self._cells: list[Any] = []
        self._handles: list[NamespaceHandle] = []
        self._targets: list[Target] = []
        self._process: Target | None = None
        self._me = -1  # a pidfd of this thread; -errno where the kernel has none
        self._of_process: dict[NamespaceType, int] = {}

    def __enter__(self) -> Lent:
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.close()
        for target in self._targets:
            target.__exit__()
        for cell in self._cells:
            _native.close_cell(cell)

    def _cell(self) -> Any:
        """Make room for an fd that is closed with all others, whenever Ctrl-C comes."""
        cell = _native.new_cell()
        self._cells.append(cell)
        return cell

    def _open_directory(self, path: str) -> int:
        flags = _native.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return self.above_stdio(_native.fill(self._cell(), os.open, path, flags))
        except OSError as error:
            raise NamespaceError(error.errno or EINVAL, None, path, step=f"open {path}") from None

    def above_stdio(self, fd: int, to: int = -1) -> int:
        """Move an fd that a dup2 could overwrite out of the way of 0, 1 and 2, which the caller may have closed."""
        if fd > 2 or fd == to:
            return fd
        import fcntl

        return _native.fill(self._cell(), fcntl.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 3)

    def joins(self, config: Config) -> list[Move]:
        """Open all that is to be joined, before anything is: afterwards paths mean something else, or nothing."""
        moves = []
        joined = list(config.namespaces.joined())
        if config.target is not None:
            of_target = [each for each in joined if _is_of(each, config.target)]
            target = resolve(config.target)
            self._targets.append(target)
            if target.is_process:
                self._process = target
                types = tuple(each.type for each in of_target) or self._differing(config)
                if of_target and NamespaceType.USER in types and not self._differs(NamespaceType.USER):
                    types = tuple(each for each in types if each is not NamespaceType.USER)
                if types:
                    moves.append(Move(types, self.above_stdio(target.fd), target.words))
                joined = [each for each in joined if each not in of_target]
            elif not of_target:
                moves.append(self._move(target, None))
                (type,) = moves[0].types
                if config.namespaces.contains(type):
                    raise ValueError(f"{type.proc_name}: created or joined twice")
        for each in joined:
            with resolve(each.path if each.target is None else each.target) as target:
                move = self._move(target, each.type)
                if each.type is not NamespaceType.USER or not self._is_own_user(self._handles[-1]):
                    moves.append(move)
        return moves

    def _is_own_user(self, handle: NamespaceHandle) -> bool:
        """The caller is there already; and the kernel takes joining one's own for an error."""
        here = current(NamespaceType.USER)
        self._handles.append(here)
        return handle == here

    def opened(self, moves: Sequence[Move]) -> tuple[list[Join], Together]:
        """Open each namespace of a process by itself too: the launcher tries all at once, and then one after the other."""
        joins, together = [], Together()
        for move in moves:
            if self._process is None or move.words is not self._process.words:
                joins += [Join(type, move.fd, move.words) for type in move.types]
                continue
            if len(move.types) > 1:
                together = Together(move.fd, flags_of(move.types))
            for type in move.types:
                joins.append(Join(type, self._open(type), move.words))
        return joins, together

    def of_children(self, config: Config, moves: list[Move]) -> tuple[int, int]:
        """Open the pid namespace that this thread's children are born in, and its own. If no move is to pid, go there."""
        if config.namespaces.is_private(NamespaceType.PID):
            raise unsupported(
                "creating a pid namespace while enter, setns or unshare has set that of this thread's children: it would"
                " be in theirs, and only a process that is inside could make it"
            )
        for each in (True, False):
            try:
                self._handles.append(own(NamespaceType.PID, of_children=each))
            except NamespaceError as error:
                if error.errno != ENOENT:
                    raise
                raise unsupported(
                    "the pid namespace of this thread's children has no process yet, and this kernel opens none such: the"
                    " launcher, which this program needs, would be its pid 1, and end. Start another program there first"
                ) from None
        there, home = (self.above_stdio(handle.fileno()) for handle in self._handles[-2:])
        if not any(NamespaceType.PID in move.types for move in moves):
            moves.append(Move((NamespaceType.PID,), there, "the pid namespace of this thread's children"))
        return there, home

    def _move(self, target: Target, type: NamespaceType | None) -> Move:
        handle = target.open(type)
        self._handles.append(handle)
        return Move((handle.type,), self.above_stdio(handle.fileno()), target.words)

    def _open(self, type: NamespaceType) -> int:
        """Open the process's own, once."""
        if type not in self._of_process:
            self._keep(type)
        return self._of_process[type]

    def _keep(self, type: NamespaceType) -> NamespaceHandle:
        assert self._process is not None
        handle = self._process.open(type)
        self._handles.append(handle)
        self._of_process[type] = self.above_stdio(handle.fileno())
        return handle

    def _differing(self, config: Config) -> tuple[NamespaceType, ...]:
        """Take what differs from the caller's: joining one's own user namespace is an error, the rest a waste."""
        supported = [each for each in NamespaceType if is_namespace_supported(each)]
        return tuple(each for each in supported if not config.namespaces.contains(each) and self._differs(each))

    def _differs(self, type: NamespaceType) -> bool:
        """Tell whether the process's is another than the caller's; if so, it is open now."""
        assert self._process is not None
        if self._me == -1:
            self._me = _native.fill_with_own_pidfd(self._cell())
        if self._me >= 0:
            name = type.proc_name.upper()
            fd = _native.fill_with_other(self._cell(), self._process.fd, name, self._me, name)
            if fd >= 0:
                self._of_process[type] = self.above_stdio(fd)
            if fd >= 0 or fd == -EEXIST:
                return fd >= 0
        # An older kernel, or an error, for which there are words.
        there, here = self._keep(type), current(type)
        self._handles.append(here)
        return there != here

    def descriptors(self, config: Config, *, launched: bool) -> tuple[int, int, int]:
        """Open what the steps write to or look at, in the caller's namespaces: PROC, CGROUP and PARENT of the plan."""
        proc = cgroup = parent = -1
        own = config.namespaces.is_private("user") or config.time_offsets or config.oom_score_adj is not None
        if config.sysctl or (own and not launched):  # for what is its own, the launcher opens its own
            proc = self._open_directory("/proc")
        if config.cgroup_path is not None:
            cgroup = self._cgroup(config.cgroup_path)
        if config.parent_death_signal is not None or config.init:
            parent = _native.fill_with_pidfd(self._cell(), os.getpid())
            if parent < 0:
                raise (Unsupported if parent == -ENOSYS else NamespaceError)(
                    -parent, None, None, step="pidfd_open of this process"
                )
            parent = self.above_stdio(parent)
        return proc, cgroup, parent

    def _cgroup(self, path: str | os.PathLike[str] | int) -> int:
        fd = path if isinstance(path, int) else self._open_directory(os.fspath(path))
        magic = _native.fs_magic(fd)
        if magic < 0:
            raise refused(-magic, f"cgroup_path: fd {path} is not open", filename=str(path))
        if magic == _native.constant("CGROUP2_SUPER_MAGIC"):
            return fd
        why = "it is no cgroup2 directory"
        if magic == _native.constant("CGROUP_SUPER_MAGIC"):
            why = "it is a cgroup v1 directory; on a hybrid host the cgroup2 tree is mounted at /sys/fs/cgroup/unified"
        raise refused(EINVAL, f"cgroup_path: {why}", filename=str(path))


def _is_of(namespace: Namespace, target: Any) -> bool:
    """Tell whether this join is of the target that was given to Config.join, which keeps paths and names as text only."""
    if namespace.target is not None:
        return namespace.target is target
    if not isinstance(target, (str, bytes, os.PathLike)):
        return False
    try:
        return namespace == joined_namespace(namespace.type, target)
    except ValueError:  # a name is of net only
        return False


def check_types(config: Config) -> None:
    """Refuse to create what this kernel has no file for: of some types it would say nothing, and make none."""
    missing = [each for each in config.namespaces.created() if not is_namespace_supported(each)]
    try:
        known = os.listdir("/proc/self/ns") if missing else []
    except OSError:  # no /proc: that tells nothing about the kernel
        return
    for each in missing:
        if each.proc_name not in known:
            name = each.proc_name
            raise unsupported(f"this kernel has no {name} namespaces: there is no /proc/self/ns/{name}")


def facts_of(config: Config) -> _plan.Facts:
    """Find out what the plan for this Config depends on, and no more: each look costs a system call."""
    euid, oom, created = os.geteuid(), 0, config.namespaces.is_private
    dies = config.parent_death_signal
    main_thread = dies is None or threading.get_native_id() == os.getpid()
    if config.oom_score_adj is not None:
        oom = int(_idmap.own_proc("oom_score_adj"))
    facts = _plan.Facts(
        euid=euid,
        egid=os.getegid(),
        dumpable=euid == 0 or not created(NamespaceType.USER) or _native.dumpable() == 1,
        main_thread=main_thread,
        children_elsewhere=_switch.has_moved_children() and children_are_elsewhere(),
        kernel=_kernel() if created(NamespaceType.TIME) else _plan.TIME_AT_EXEC,
        oom_score_adj=oom,
        exec_gives_capabilities=bool(dies and main_thread and euid == 0) and _exec_gives_capabilities(),
    )
    return _facts_about_maps(config, facts)


def _facts_about_maps(config: Config, facts: _plan.Facts) -> _plan.Facts:
    """Who may write them matters only for other ids than the caller's own."""
    if config.maps is not None:
        maps = _idmap.id_maps(config.maps)
        for problem in (*_maps.problems("uid_map", maps.uid), *_maps.problems("gid_map", maps.gid)):
            raise refused(EINVAL, f"maps: {config.maps!r}: {problem}", type=NamespaceType.USER)
        facts = facts._replace(maps=maps)
    foreign_uids, foreign_gids = _mapping.foreign_maps(config, facts)
    if not (foreign_uids or foreign_gids or config.setgroups == "allow") or _idmap.may_map():
        return facts
    facts = facts._replace(may_map=False)
    if foreign_uids:
        facts = facts._replace(uids=_idmap.grant("uid"))
    if foreign_gids:
        facts = facts._replace(gids=_idmap.grant("gid"))
    return facts


def _exec_gives_capabilities() -> bool:
    """execve(2) of uid 0 makes the permitted capabilities anew, of the bounding and the inheritable ones."""
    sets = _idmap.capabilities()
    return bool((sets[b"CapBnd"] | sets[b"CapInh"]) & ~sets[b"CapPrm"])


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)
