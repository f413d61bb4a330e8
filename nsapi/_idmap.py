# SPDX-License-Identifier: MIT
"""What decisions about id maps need to know of the system: subid files, helpers, capabilities, who somebody is; id_maps."""

from __future__ import annotations

import os
import re
import stat
from errno import EINVAL, EPERM, ESRCH, EXDEV
from typing import Any, NamedTuple

from nsapi import _native
from nsapi._errors import NamespaceError, hint, refused
from nsapi._mapping import Grant, other_group
from nsapi._maps import MAP_KINDS, MAX_EXTENTS, MAX_MAP_BYTES, IDMap, IDMaps, map_text
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    _Ranges = tuple[tuple[int, int], ...]

_SETGID = 6  # CAP_SETGID; the next is CAP_SETUID
_NUMBER = re.compile("0|[1-9][0-9]{0,9}").fullmatch


class _Who(NamedTuple):
    uid: int
    gid: int
    name: str  # "" where there is no entry in passwd(5)
    group: int = -1  # the gid there


def own_proc(name: str) -> bytes:
    """Read a file of this thread's in /proc, which may be a stranger's: neither wait at a FIFO, nor believe a plain file."""
    return _read_proc(f"thread-self/{name}")


def _read_proc(name: str) -> bytes:
    path = f"/proc/{name}"
    cell = _native.new_cell()
    try:
        fd = _native.fill(cell, os.open, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NamespaceError(error.errno or EINVAL, None, path, step=f"read {os.path.basename(name)}") from None
    try:
        if _native.fs_magic(fd) != _native.constant("PROC_SUPER_MAGIC"):
            raise refused(EXDEV, "something that is not procfs is mounted over /proc", filename=path)
        # A map longer than a page comes in parts, however much is asked for: seq_file gives what it has in its buffer.
        return b"".join(iter(lambda: os.read(fd, 16384), b""))
    finally:
        _native.close_cell(cell)


def capabilities() -> dict[bytes, int]:
    """Tell the capability sets of this thread, by the names that /proc has for them: ``b"CapEff"``."""
    lines = own_proc("status").split(b"\n")
    return {line[:6]: int(line[7:], 16) for line in lines if line.startswith(b"Cap")}


def may_map() -> bool:
    """Tell whether this thread may write any map: it has CAP_SETUID and CAP_SETGID."""
    return capabilities()[b"CapEff"] >> _SETGID & 3 == 3


def find_helper(name: str) -> str | None:
    """Find newuidmap or newgidmap: an absolute path, since a setuid program is started by it."""
    import shutil

    path = shutil.which(name)
    return path if path is not None and os.path.isabs(path) else None


def grant(kind: str) -> Grant:
    """Find out what newuidmap (*kind* ``"uid"``) or newgidmap would write for the caller, and whether it is there."""
    helper = find_helper(f"new{kind}map")
    who = _who(os.getuid())  # the helpers go by the real uid
    trusted = helper is not None and _is_trusted(helper)
    named = who.name != ""
    group = who.group if named and os.getgid() != who.group and not _grants_any_group() else None
    return Grant(helper, trusted, who.name or str(who.uid), _subids(kind, who), named, group)


def _grants_any_group() -> bool:
    """Tell whether the helpers write for a process with any gid. They go by the last such line, and only ``yes`` is yes."""
    try:
        with open("/etc/login.defs", encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return False
    values = [each[1].lower() for each in lines if each[:1] == ["GRANT_AUX_GROUP_SUBIDS"] and len(each) > 1]
    return values[-1:] == ["yes"]


def _is_trusted(path: str) -> bool:
    """Tell whether it gets any privilege when it is executed."""
    try:
        status = os.stat(path)
        if status.st_mode & stat.S_ISUID and status.st_uid == 0:
            return True
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _who(user: str | int | None) -> _Who:
    import pwd

    if user is None:
        user = os.geteuid()
    if isinstance(user, bool) or not isinstance(user, (int, str)):
        raise TypeError(f"user: {user!r} is no name and no uid")
    try:
        entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    except (KeyError, OverflowError):
        if user in (os.geteuid(), os.getuid()):
            return _Who(int(user), os.getegid(), "")
        raise ValueError(f"user: there is no user {user!r}") from None
    gid = os.getegid() if entry.pw_uid == os.geteuid() else entry.pw_gid
    return _Who(entry.pw_uid, gid, entry.pw_name, entry.pw_gid)


def _subids(kind: str, who: _Who) -> _Ranges | None:
    """Read all lines of subuid(5) or subgid(5) for this user, by name or number; None where only the helpers can.

    Also those of gids are by the user's name. What is no line of three fields is passed over, and so is what shadow refuses
    to take for a number, such as one before a carriage return, or takes for another one, as what begins with a 0.
    """
    try:
        with open("/etc/nsswitch.conf", encoding="utf-8", errors="replace") as file:
            services = [line.split("#")[0].split()[1:] for line in file if line.startswith("subid:")]
        if services and services[0] not in ([], ["files"]):
            return None
    except OSError:
        pass
    ranges, path = [], f"/etc/sub{kind}"
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:
                owner, *numbers = line.removesuffix("\n").split(":")
                if owner in (who.name or None, str(who.uid)) and len(numbers) == 2 and all(map(_NUMBER, numbers)):
                    ranges.append((int(numbers[0]), int(numbers[1])))
    except FileNotFoundError:
        pass  # nobody has any then
    except PermissionError:
        return None
    except OSError as error:
        raise NamespaceError(error.errno or EINVAL, None, path, step=f"read {os.path.basename(path)}") from None
    return tuple(ranges)


def id_maps(kind: Any, *, user: str | int | None = None) -> IDMaps:
    """Look up maps by a word, for *user* (a name or uid) or else the caller; or read those of a process.

    ``"root"``
        the user is 0 inside, and nobody else is mapped, as ``unshare -r``
    ``"current"``
        the user has the same id inside, as ``unshare -c``
    ``"subids"``
        all ids that subuid(5) and subgid(5) grant the user, one after the other from 0 on; but for those that the caller's
        own user namespace does not map, as in a container
    ``"auto"``
        root, and the subids from 1 on: the best map that this user can have. Where not all of them can be had, as many as
        can, or ``"root"``, and ``.reason`` says why
    ``"identity"``
        every id of the caller's own user namespace, unchanged; writing it takes CAP_SETUID and CAP_SETGID
    a pid, or an object with ``.pid``
        the maps of the user namespace that this process is in, as seen from the caller's (``/proc/PID/uid_map``); what that
        does not map itself is left out, and ``.reason`` says so

    Nothing is changed. Raises ValueError for another word or an unknown user, TypeError; NamespaceError for ``"subids"``
    where there are none, and for a process that has ended.
    """
    _native.require()
    if not isinstance(kind, str):
        if user is not None:
            raise TypeError("user: a process has its maps already")
        return _of_process(kind)
    if kind not in MAP_KINDS:
        raise ValueError(f"kind: {kind!r} is not one of {', '.join(MAP_KINDS)}, nor a process")
    who = _who(user)
    if kind == "root":
        return IDMaps([IDMap(0, who.uid, 1)], [IDMap(0, who.gid, 1)])
    if kind == "current":
        return IDMaps([IDMap(who.uid, who.uid, 1)], [IDMap(who.gid, who.gid, 1)])
    if kind == "identity":
        return IDMaps(_identity(own_proc("uid_map")), _identity(own_proc("gid_map")))
    if kind == "auto":
        return _auto(who)
    for each in ("uid", "gid"):
        if why := _why_no_subids(each, who):
            raise refused(EPERM, why, filename=f"/etc/sub{each}", type=NamespaceType.USER)
    return IDMaps(_runs("uid", who, ()), _runs("gid", who, ()))


def _identity(text: bytes) -> list[IDMap]:
    return [IDMap(each.container_id, each.container_id, each.size) for each in IDMap.parse(text.decode())]


def _of_process(process: Any) -> IDMaps:
    """Read both while a pidfd holds the process: its number could be another's else."""
    pid = process if isinstance(process, int) else getattr(process, "pid", None)
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"kind: {process!r} is no word, no pid, and has none")
    if not 0 < pid < 2**31:
        raise ValueError(f"kind: {pid} is no pid; it is greater than 0")
    words = f"process {pid}"
    cell = _native.new_cell()
    pidfd = _native.fill_with_pidfd(cell, pid)
    if pidfd < 0:
        raise NamespaceError(-pidfd, None, words, step=f"pidfd_open of {words}", hint=hint(-pidfd, "pidfd_open"))
    try:
        (uids, why), (gids, why_gids) = (_seen(each, _read_proc(f"{pid}/{each}_map"), words) for each in ("uid", "gid"))
        import select

        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(0):
            raise NamespaceError(ESRCH, None, words, step=f"pidfd_open of {words}", hint=hint(ESRCH, "pidfd_open"))
        return IDMaps(uids, gids, why or why_gids)
    finally:
        _native.close_cell(cell)


def _seen(kind: str, text: bytes, words: str) -> tuple[list[IDMap], str | None]:
    """Read a map as far as its ids outside are ids of the caller's own user namespace; tell why that is not all.

    The kernel translates the first id of each run only: it is 4294967295 where the caller has none for it, and of the ids
    behind it those are right that are in the same run of the caller's map. A map below the caller's has no others.
    """
    own = own_proc(f"{kind}_map")
    if text == own:
        return IDMap.parse(text.decode()), None
    around, seen, count = IDMap.parse(own.decode()), [], 0
    for line in text.splitlines():
        inside, outside, size = map(int, line.split())
        count += size
        for run in around:
            left = run.container_id + run.size - outside
            if run.container_id <= outside and left > 0:
                seen.append(IDMap(inside, outside, min(size, left)))
    here = sum(each.size for each in seen)
    if here == count:
        return seen, None
    return seen, f"of the {count} {kind}s of {words}, {here} are seen from the caller's own user namespace"


def _why_no_subids(kind: str, who: _Who) -> str | None:
    name = who.name or str(who.uid)
    ranges = _subids(kind, who)
    if ranges is None:
        where = "by a service (subid: in /etc/nsswitch.conf) that is not asked, or in a file that may not be read"
        return f"the sub{kind}s of {name} are kept {where}"
    if not any(_usable(ranges)):
        return f"there is no line for {name} in /etc/sub{kind}: usermod --add-sub{kind}s 100000-165535 {name}"
    if not any(_here(kind, ranges)):
        return f"no {kind} that /etc/sub{kind} grants {name} is mapped in the caller's own user namespace"
    return None


def _usable(ranges: Iterable[tuple[int, int]]) -> Iterable[IDMap]:
    for first, count in ranges:
        try:
            yield IDMap(first, first, count)
        except ValueError:
            continue  # not even one id, or past the last


def _here(kind: str, ranges: Iterable[tuple[int, int]]) -> Iterable[IDMap]:
    """Give what there is of them in the caller's own user namespace: in a container the file may be the host's."""
    for each in IDMap.compose(_usable(ranges), IDMap.parse(own_proc(f"{kind}_map").decode())):
        yield IDMap(each.container_id, each.container_id, each.size)


def _runs(kind: str, who: _Who, before: tuple[IDMap, ...]) -> list[IDMap]:
    """Map what is granted, once, behind what is mapped *before*."""
    maps = list(before)
    at = sum(each.size for each in maps)
    for run in _here(kind, _subids(kind, who) or ()):
        left = [run]
        for known in maps:
            if known.host_id < run.host_id + run.size and run.host_id < known.host_id + known.size:
                left = IDMap.subtract(left, host_id=known.host_id, size=known.size)
        for each in left:
            maps.append(IDMap(at, each.host_id, each.size))
            at += each.size
    return maps


def _fitting(maps: list[IDMap]) -> list[IDMap]:
    """Leave out the last ones of what is more than the kernel takes."""
    maps = maps[:MAX_EXTENTS]
    while len(map_text(maps)) > MAX_MAP_BYTES:
        maps.pop()
    return maps


def _auto(who: _Who) -> IDMaps:
    root = [IDMap(0, who.uid, 1)], [IDMap(0, who.gid, 1)]
    reason = _why_no_subids("uid", who) or _why_no_subids("gid", who)
    if reason is None and not may_map():
        if who.uid != os.geteuid():
            reason = f"only {who.name} himself, or who has CAP_SETUID and CAP_SETGID, may map these ids"
        for kind in ("uid", "gid"):
            found = grant(kind)
            if found.helper is None:
                reason = reason or f"new{kind}map (package uidmap) is not on PATH"
            elif not found.trusted:
                reason = reason or f"{found.helper} is neither setuid root nor has file capabilities"
            elif not found.named:
                reason = (
                    reason or f"new{kind}map writes for nobody without a name: no entry of {found.user} in passwd(5)"
                )
            elif found.group is not None:
                reason = reason or other_group(f"new{kind}map", found)
    if reason is not None:
        return IDMaps(*root, reason)
    uids, gids = _runs("uid", who, (root[0][0],)), _runs("gid", who, (root[1][0],))
    for kind in ("uid", "gid"):
        ranges = _subids(kind, who) or ()
        granted, here = (sum(each.size for each in runs) for runs in (_usable(ranges), _here(kind, ranges)))
        if here < granted:
            reason = reason or f"of the {granted} {kind}s granted, the caller's own user namespace maps {here}"
    fitting = _fitting(uids), _fitting(gids)
    if fitting != (uids, gids):
        had, left = max(len(uids), len(gids)), min(map(len, fitting))
        reason = f"the kernel takes {MAX_EXTENTS} entries and {MAX_MAP_BYTES} bytes: of {had} entries {left} are left"
    return IDMaps(*fitting, reason)
