# SPDX-License-Identifier: MIT
"""Config to carrier and ordered steps, and why in that order. Pure: it reads nothing and changes nothing.

What it needs to know of the world is handed to it as facts about the caller. It knows no fd but those that the child
keeps: what ``_process`` opens for a spawn stands in the slots that are named here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from nsapi import _native, _rules
from nsapi._config import Config
from nsapi._errors import unsupported
from nsapi._fields import CAPABILITIES, CAPABILITY_SETS
from nsapi._mapping import Grant, effective_maps, foreign_maps
from nsapi._mapping import mapping as mapping
from nsapi._maps import IDMaps, map_text
from nsapi._members import covered
from nsapi._native import Step
from nsapi._types import NamespaceType, flags_of, names_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsapi._switch import Move

#: Since Linux 6.2 execve(2) moves a process into its time_for_children; before, only fork(2) did.
TIME_AT_EXEC = (6, 2)
#: Slots of what is opened before anything is joined: /proc, the cgroup, a pidfd of the parent; then what is joined.
PROC, CGROUP, PARENT, JOINS = range(4)
#: And for the launcher, behind at most eight of those.
TOGETHER, LAUNCHER, CARGO, INIT_PIPE, LOG_PIPE = range(JOINS + 8, JOINS + 13)
_SIGPIPE, _SIGXFSZ = 13, 25  # what Python ignores and subprocess's restore_signals gives back
_LAUNCHER_JOINS = (NamespaceType.USER, NamespaceType.PID, NamespaceType.TIME)


class Facts(NamedTuple):
    """What a decision needs to know of the caller and the host."""

    euid: int
    egid: int
    dumpable: bool = True
    main_thread: bool = True
    children_elsewhere: bool = False
    kernel: tuple[int, int] = TIME_AT_EXEC
    oom_score_adj: int = 0
    exec_gives_capabilities: bool = False
    maps: IDMaps | None = None  # what the Config's word for them means here and now
    may_map: bool = True  # CAP_SETUID and CAP_SETGID
    uids: Grant = Grant()  # what newuidmap, and newgidmap, would write; looked up where they are needed
    gids: Grant = Grant()


class Request(NamedTuple):
    """What Popen was asked for beside the Config, made into numbers and bytes; see subprocess for the meanings."""

    cwd: tuple[bytes, object] | None = None  # as the kernel takes it, and as it was given
    caller_cwd: bytes = b"/"
    stdio: tuple[tuple[int, int], ...] = ()
    pass_fds: tuple[int, ...] = ()
    close_fds: bool = True
    restore_signals: bool = True
    start_new_session: bool = False
    process_group: int = -1
    umask: int = -1
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    orphan: bool = False  # to be nobody's child


_NOTHING_MORE = Request()


class Plan(NamedTuple):
    """The steps in their order, for the carrier that can perform them."""

    carrier: str  # "vfork" or "launcher"
    steps: tuple[Step, ...]  # of the vfork child
    between: tuple[Step, ...] = ()  # of the launcher, when all is joined and nothing is made yet
    inside: tuple[Step, ...] = ()  # of the launcher's last stage, to its exec

    @property
    def all(self) -> tuple[Step, ...]:
        """All steps in their order, by which a failed one is numbered."""
        return self.steps + self.between + self.inside


_Test = Callable[[Config, Request, "Sequence[NamespaceType]", Facts], bool]

IDS = "uid, gid, groups, user=, group=, extra_groups=: changing ids in shared memory changes our own dumpable flag"

#: What a vfork child cannot do, and why: it shares the caller's memory, and the caller sleeps meanwhile. The launcher can.
NEEDS_LAUNCHER: tuple[tuple[str, _Test], ...] = (
    (
        "id maps other than the caller's own single id, which a privileged process outside has to write",
        lambda config, request, joins, facts: any(foreign_maps(config, facts)),
    ),
    (
        "joining a user, pid or time namespace: strangers there could reach into a child that shares our memory",
        lambda config, request, joins, facts: any(each in _LAUNCHER_JOINS for each in joins),
    ),
    (
        IDS,
        lambda config, request, joins, facts: any(each is not None for each in ids(config, request)),
    ),
    (
        "setgroups='allow', which a privileged process outside has to write",
        lambda config, request, joins, facts: config.setgroups == "allow",
    ),
    (
        "starting a program while enter or setns has set the pid namespace of children: it would share our memory in"
        " sight of strangers",
        lambda config, request, joins, facts: facts.children_elsewhere,
    ),
    ("init=True", lambda config, request, joins, facts: config.init),
    (
        "the pid 1 that create leaves, which is to be no child of the caller",
        lambda config, request, joins, facts: request.orphan,
    ),
    (
        "joining together with a new user and a new pid namespace, which takes one more fork",
        lambda config, request, joins, facts: (
            bool(joins) and config.namespaces.is_private("user") and config.namespaces.is_private("pid")
        ),
    ),
    (
        "a map written by an ordinary user's process that is not dumpable, whose /proc files belong to root",
        lambda config, request, joins, facts: (
            config.namespaces.is_private("user") and facts.euid != 0 and not facts.dumpable
        ),
    ),
    (
        "process_group greater than 0 with a new pid namespace, in which that group does not exist",
        lambda config, request, joins, facts: request.process_group > 0 and config.namespaces.is_private("pid"),
    ),
    (
        "oom_score_adj lowered together with a new user namespace, which has no power over it",
        lambda config, request, joins, facts: (
            config.oom_score_adj is not None
            and config.oom_score_adj < facts.oom_score_adj
            and config.namespaces.is_private("user")
        ),
    ),
    (
        f"a new time namespace before Linux {'.'.join(map(str, TIME_AT_EXEC))}, where exec does not move into it",
        lambda config, request, joins, facts: config.namespaces.is_private("time") and facts.kernel < TIME_AT_EXEC,
    ),
)

#: Fields that are modelled and that no carrier performs yet. Nothing that confines is dropped in silence.
NOT_PERFORMED: tuple[str, ...] = ("mounts", "root")


def check(config: Config, facts: Facts, request: Request = _NOTHING_MORE) -> None:
    """Raise ValueError for what can never be performed by this caller; nothing needs to be opened for it."""
    if config.parent_death_signal is not None and not facts.main_thread and not config.init:
        raise ValueError(
            "parent_death_signal: the kernel ties it to the thread that spawns, and this is not the main thread, which"
            " may end sooner: spawn in the main thread, or init=True"
        )
    own = _uid_inside(config, request, facts)
    if config.capabilities is not None:
        _refuse_regained_capabilities(config, own)
    elif (
        config.parent_death_signal is not None
        and facts.exec_gives_capabilities
        and not config.no_new_privs
        and not config.namespaces.is_private("user")
    ):
        raise ValueError(
            "parent_death_signal: the program is started as uid 0, exec gives it capabilities that the caller has dropped,"
            " and the kernel clears the signal then (prctl(2)): set no_new_privs=True"
        )


def _uid_inside(config: Config, request: Request, facts: Facts) -> int:
    """Tell the uid that the program starts with, as it sees it. Of a joined user namespace the maps are not known: 0."""
    uid, *_ = ids(config, request)
    if uid is not None:
        return uid
    if not config.namespaces.is_private("user"):
        return 0 if config.namespaces.contains("user") else facts.euid
    maps = effective_maps(config, facts)[0]
    if any(each.container_id == 0 for each in maps):
        return 0
    inside = [each.to_container(facts.euid) for each in maps]
    return next((each for each in inside if each is not None), 65534)


def ids(config: Config, request: Request) -> tuple[int | None, int | None, tuple[int, ...] | None]:
    """Tell the uid, gid and groups that are asked for; None is as they are. Popen's and the Config's are one wish."""
    groups = None if config.groups is None else tuple(config.groups)
    given = (request.uid, config.uid), (request.gid, config.gid), (request.groups, groups)
    for name, (ours, theirs) in zip(("user", "group", "extra_groups"), given, strict=True):
        if ours is not None and theirs is not None and ours != theirs:
            raise ValueError(f"{name}: {ours}, and the config says {theirs}")
    uid, gid, groups = (theirs if ours is None else ours for ours, theirs in given)  # type: ignore[assignment]
    return uid, gid, groups  # type: ignore[return-value]


def refuse_unapplied(config: Config) -> None:
    """Raise Unsupported for what a loaded file asks for, is not performed, and is not allowed to be left out."""
    paths = [each for each in config.unapplied if not covered(each, config.allow)]
    if paths:
        raise unsupported(f"{', '.join(paths)}: asked for and not performed; to run without, name each in allow")


def choose(config: Config, request: Request, joins: Sequence[NamespaceType], facts: Facts) -> str:
    """Choose the carrier; ValueError for what can never be performed, Unsupported for what this version cannot."""
    check(config, facts, request)
    for name in NOT_PERFORMED:
        if getattr(config, name):
            raise unsupported(f"{name} is not performed by this version of nsapi")
    refuse_unapplied(config)
    needs = any(needed(config, request, joins, facts) for _, needed in NEEDS_LAUNCHER)
    return "launcher" if needs else "vfork"


def _refuse_regained_capabilities(config: Config, own: int) -> None:
    """execve(2) makes permitted anew: of bounding and inheritable for uid 0, of ambient for others; so too effective."""
    sets = {name: (config.capabilities or {}).get(name, frozenset()) for name in CAPABILITY_SETS}
    if own != 0:
        given, why = sets["ambient"], "ambient has them: take them out of ambient"
    elif config.no_new_privs:
        given, why = sets["permitted"], "permitted has them: take them out of permitted"
    else:
        given = sets["bounding"] | sets["inheritable"]
        why = "bounding has them, and the program is started as uid 0: take them out of bounding, or set no_new_privs=True"
    for name in ("permitted", "effective"):
        regained = sorted(given - sets[name])
        if regained:
            raise ValueError(f"capabilities: exec would make {', '.join(regained)} {name} again, since {why}")


def plan(config: Config, request: Request, joins: Sequence[Move], facts: Facts) -> Plan:
    """Order the steps of starting a program as *config* and *request* say, *joins* being already opened.

    Three rules make the order. /proc is written (maps, offsets, oom) before anything is mounted, by an fd from before
    anything was joined. After making a user namespace the host's are out of reach, so joining comes first. And what
    takes power away (capabilities, no_new_privs) comes last.
    """
    joined = [each for move in joins for each in move.types]
    carrier = choose(config, request, joined, facts)
    if carrier == "vfork":
        return Plan(carrier, tuple(_steps(config, request, joins, facts)))
    changed_root = NamespaceType.MNT in joined
    return Plan(
        carrier,
        tuple(_launching_steps(config, request, joins)),
        # Before a new user namespace is made: it has no power over what is joined.
        tuple(_uts_and_net_steps(config, joined)),
        tuple(_inside_steps(config, request, changed_root=changed_root, launched=True)),
    )


def _launching_steps(config: Config, request: Request, joins: Sequence[Move]) -> Iterator[Step]:
    """Become the launcher, with its own fds and those of the program."""
    yield Step("clone", "clone", slot=CGROUP if config.cgroup_path is not None else -1)
    yield from _file_steps(request)
    slots = [CARGO, INIT_PIPE, LOG_PIPE, *range(JOINS, JOINS + sum(len(move.types) for move in joins))]
    if any(len(move.types) > 1 for move in joins):
        slots.append(TOGETHER)
    if config.sysctl:
        slots.append(PROC)
    if config.parent_death_signal is not None or config.init:
        slots.append(PARENT)
    for slot in slots:
        yield Step("keep", "keep a fd for the launcher", slot=slot)
    if request.process_group > 0 and not request.start_new_session:
        # A new pid namespace does not know that number.
        yield Step("setpgid", f"setpgid {request.process_group}", value=request.process_group)
    yield Step("exec", "exec the launcher", slot=LAUNCHER)


def forked_steps(config: Config, joins: Sequence[Move], facts: Facts, caller_cwd: bytes) -> list[Step]:
    """Order what a fork of the caller does: its clone, and all that a vfork child would do but for the program's sake.

    Its memory is its own, so that it may change its ids. Else it can do no more; and it executes nothing, which is when a
    new time namespace takes effect that was not there from the start.
    """
    request = Request(close_fds=False, restore_signals=False, caller_cwd=caller_cwd)
    joined = [each for move in joins for each in move.types]
    choose(config, request, joined, facts)
    reasons = [why for why, needed in NEEDS_LAUNCHER if why is not IDS and needed(config, request, joined, facts)]
    if config.namespaces.is_private("time") and (config.time_offsets or joins):
        reasons.append("offsets of a new time namespace, or joining beside it: its first process must be executed")
    if config.cgroup_path is not None:
        reasons.append("cgroup_path")
    for why in reasons:
        raise unsupported(f"{why}: only method='spawn' performs it")
    steps = list(_steps(config, request, joins, facts, time_at_clone=True))
    if config.namespaces.is_private("user") and _uid_inside(config, request, facts) != 0:
        steps += unless_root(config)
    return [each for each in steps if each.op not in ("sigmask", "exec")]


def unless_root(config: Config) -> list[Step]:
    """What execve(2) does to who has all capabilities in a user namespace and is not 0 there: where nothing is executed."""
    return [] if config.capabilities is not None else [Step("capset", "drop capabilities as exec does")]


def _steps(
    config: Config, request: Request, joins: Sequence[Move], facts: Facts, *, time_at_clone: bool = False
) -> Iterator[Step]:
    created = config.namespaces.created()
    # A new user namespace is the first of all and owns the others, unless something is joined: that comes before it.
    late = bool(joins) and NamespaceType.USER in created
    # time takes effect at exec, after its offsets are written: by unshare, where there is one.
    at_clone = () if late else tuple(each for each in created if time_at_clone or each is not NamespaceType.TIME)
    words = f"clone {names_of(at_clone)}" if at_clone else "clone"
    cgroup = CGROUP if config.cgroup_path is not None else -1
    yield Step("clone", words, flags=flags_of(at_clone), slot=cgroup, types=at_clone)
    yield from _file_steps(request)
    if config.oom_score_adj is not None:
        yield _write("oom_score_adj", str(config.oom_score_adj).encode())
    for slot, move in enumerate(joins, JOINS):
        yield _setns(move, slot)
    # The host's power over what is joined ends with the new user namespace, and that over what is created begins.
    joined = [each for move in joins for each in move.types]
    yield from _uts_and_net_steps(config, joined)
    rest = tuple(each for each in created if each not in at_clone)
    if rest:
        yield Step("unshare", f"unshare {names_of(rest)}", flags=flags_of(rest), types=rest)
    if NamespaceType.USER in created:
        yield from _map_steps(config, facts)
    if config.time_offsets:
        yield _write("timens_offsets", offsets_text(config), (NamespaceType.TIME,))
    changed_root = any(NamespaceType.MNT in move.types for move in joins)
    yield from _inside_steps(config, request, changed_root=changed_root, launched=False)


def offsets_text(config: Config) -> bytes:
    """Write the time offsets as the kernel reads them."""
    return "".join(f"{clock} {secs} {nanos}\n" for clock, (secs, nanos) in config.time_offsets.items()).encode()


def _inside_steps(config: Config, request: Request, *, changed_root: bool, launched: bool) -> Iterator[Step]:
    """What is done when all namespaces are there, by either carrier."""
    created = config.namespaces.created()
    yield from _uts_and_net_steps(config, created)
    for key, value in config.sysctl.items():
        yield _sysctl(key, value)
    if NamespaceType.MNT in created:
        yield from _mount_steps(config, fresh_proc=NamespaceType.PID in created)
    joined_group = launched and request.process_group > 0 and not request.start_new_session
    yield from _process_steps(config, request, changed_root=changed_root, joined_group=joined_group)
    yield from _privilege_steps(config, request)
    yield from _death_steps(config)
    yield Step("sigmask", "restore the signal mask")
    yield Step("exec", "exec")


def late_steps(config: Config, joins: Sequence[Move], caller_cwd: bytes) -> tuple[list[Step], list[Step]]:
    """What an interpreter does to itself, when it has loaded its function: join, and then give up power.

    *joins* come mnt before user: there the host's power over the mount namespace has ended.
    """
    entering = []
    for slot, move in enumerate(joins, JOINS):
        entering.append(_setns(move, slot))
        if NamespaceType.MNT in move.types:
            entering += _process_steps(
                Config(), Request(restore_signals=False, caller_cwd=caller_cwd), changed_root=True
            )
    leaving = [*_privilege_steps(config, _NOTHING_MORE), *_death_steps(config)]
    return entering, leaving


def _setns(move: Move, slot: int) -> Step:
    words = f"setns {names_of(move.types)} of {move.words}"
    return Step("setns", words, slot=slot, flags=flags_of(move.types), types=move.types, filename=move.words)


def _death_steps(config: Config) -> Iterator[Step]:
    """After all that changes credentials, which would clear it."""
    if config.parent_death_signal is not None and not config.init:
        words = f"set parent_death_signal {config.parent_death_signal}"
        yield Step("pdeathsig", words, value=config.parent_death_signal, slot=PARENT)


def _uts_and_net_steps(config: Config, types: Sequence[NamespaceType]) -> Iterator[Step]:
    """Set up those of these types that the Config has fields for."""
    if NamespaceType.UTS in types:
        for op, name in (("sethostname", config.hostname), ("setdomainname", config.domainname)):
            if name is not None:
                data = os.fsencode(name)
                yield Step(op, f"{op} {name}", data=data, length=len(data), types=(NamespaceType.UTS,))
    if NamespaceType.NET in types and config.loopback:
        yield Step("loopback", "bring up lo", types=(NamespaceType.NET,))


def _file_steps(request: Request) -> Iterator[Step]:
    if request.close_fds:
        yield Step("close_on_exec", "close all other fds")
    for fd in request.pass_fds:
        yield Step("keep", f"pass fd {fd}", fd=fd)
    for fd, to in request.stdio:
        yield Step("dup2", f"make fd {fd} the child's {to}", fd=fd, value=to)


def _write(name: str, data: bytes, types: tuple[NamespaceType, ...] = (), path: bytes | None = None) -> Step:
    """Write a file in the /proc that was opened before anything was joined: without *path* the child's own *name*."""
    return Step(
        "write",
        f"write {name}",
        slot=PROC,
        path=f"self/{name}".encode() if path is None else path,
        data=data,
        length=len(data),
        flags=_native.constant("PROC_SUPER_MAGIC"),
        types=types,
    )


def _sysctl(key: str, value: str) -> Step:
    """What /proc/sys shows is that of the namespaces of the one who opens the file, whoever's /proc it is."""
    owner = _rules.sysctl_owner(key)
    types = () if owner is None else (owner,)
    return _write(f"sysctl {_rules.sysctl_key(key)}", os.fsencode(value), types, _rules.sysctl_path(key))


def _map_steps(config: Config, facts: Facts) -> Iterator[Step]:
    user = (NamespaceType.USER,)
    uid_maps, gid_maps = effective_maps(config, facts)
    if gid_maps or config.setgroups == "deny":
        # Before gid_map: the kernel demands it of who has no CAP_SETGID outside, and refuses it afterwards.
        yield _write("setgroups", b"deny", user)
    for name, maps in (("uid_map", uid_maps), ("gid_map", gid_maps)):
        if maps:
            yield _write(name, map_text(maps), user)


def _mount_steps(config: Config, *, fresh_proc: bool) -> Iterator[Step]:
    mnt = (NamespaceType.MNT,)
    propagation = config.propagation or "private"
    recursive = _native.constant("MS_REC")
    if propagation != "unchanged":
        flags = recursive | _native.constant(f"MS_{propagation.upper()}")
        yield Step("mount", f"make all mounts {propagation}", path=b"/", data=b"none", flags=flags, types=mnt)
    if fresh_proc and config.mounts is None:
        if propagation in ("shared", "unchanged"):
            # Else the new /proc would appear in the caller's namespace too.
            private = recursive | _native.constant("MS_PRIVATE")
            yield Step("mount", "make /proc private", path=b"/proc", data=b"none", flags=private, types=mnt)
        flags = sum(map(_native.constant, ("MS_NOSUID", "MS_NODEV", "MS_NOEXEC")))
        yield Step("mount", "mount /proc", path=b"/proc", data=b"proc", flags=flags, types=mnt)


def _process_steps(
    config: Config, request: Request, *, changed_root: bool, joined_group: bool = False
) -> Iterator[Step]:
    import resource

    for name, (soft, hard) in config.rlimits.items():
        yield Step("prlimit", f"set {name}", flags=getattr(resource, name), value=soft, length=hard)
    if request.start_new_session:
        yield Step("setsid", "setsid")
    if request.process_group >= 0 and not joined_group:
        yield Step("setpgid", f"setpgid {request.process_group}", value=request.process_group)
    if request.umask >= 0:
        yield Step("umask", "umask", value=request.umask)
    if request.restore_signals:
        signals = sum(1 << number - 1 for number in (_SIGPIPE, _SIGXFSZ))
        yield Step("sigdefault", "restore signals", value=signals)
    if changed_root:
        # setns has put us at the root of the mount namespace; the caller's directory, where there is one of that name.
        yield Step("chdir", "chdir to the caller's directory", path=request.caller_cwd, flags=1, value=1)
    if request.cwd is not None:
        path, given = request.cwd
        yield Step("chdir", f"chdir {os.fsdecode(path)}", path=path, filename=given, value=int(changed_root))


def _id_steps(config: Config, request: Request) -> Iterator[Step]:
    uid, gid, groups = ids(config, request)
    if groups is not None:
        data = b"".join(each.to_bytes(4, sys.byteorder) for each in groups)
        yield Step("setgroups", f"set groups {', '.join(map(str, groups)) or 'to none'}", data=data, length=len(groups))
    if gid is not None:
        yield Step("setresgid", f"set gid {gid}", value=gid)
    if uid is not None:
        yield Step("setresuid", f"set uid {uid}", value=uid)


def _privilege_steps(config: Config, request: Request) -> Iterator[Step]:
    if config.capabilities is None:
        yield from _id_steps(config, request)
    else:
        masks = {
            name: sum(1 << CAPABILITIES.index(each) for each in config.capabilities.get(name, ()))
            for name in CAPABILITY_SETS
        }
        # Bounding first, while CAP_SETPCAP is there to do it; ambient last, it must be permitted and inheritable.
        yield Step("cap_bound", "drop bounding capabilities", value=masks["bounding"])
        changes = tuple(_id_steps(config, request))
        if changes:
            yield Step("keep_caps", "keep capabilities over the change of ids")
            yield from changes
        yield Step(
            "capset",
            "set capabilities",
            flags=masks["effective"],
            value=masks["permitted"],
            length=masks["inheritable"],
        )
        yield Step("cap_ambient", "set ambient capabilities", value=masks["ambient"])
    if config.no_new_privs:
        yield Step("no_new_privs", "set no_new_privs")
