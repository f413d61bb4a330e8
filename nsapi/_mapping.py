# SPDX-License-Identifier: MIT
"""Who writes the maps of a new user namespace: its first process, the privileged side, or newuidmap. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from errno import ENOENT, EPERM
from typing import NamedTuple

from nsapi._errors import refused
from nsapi._maps import IDMap
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsapi._config import Config
    from nsapi._plan import Facts


class Grant(NamedTuple):
    """What an ordinary user may have newuidmap or newgidmap write for him."""

    helper: str | None = None  # its absolute path
    trusted: bool = True  # it is setuid root, or has file capabilities
    user: str = ""  # as subuid(5) names him
    ranges: tuple[tuple[int, int], ...] | None = None  # first and how many; None: not in a file that we can read
    named: bool = True  # he has an entry in passwd(5)
    group: int | None = None  # the gid there, where the caller has another and the helper does not like that


class Mapping(NamedTuple):
    """The maps of a created user namespace, and who writes them: a vfork child itself, stage 0, or the helpers for it."""

    writer: str = "child"  # or "stage 0" or "helpers"
    uid_maps: Sequence[IDMap] = ()
    gid_maps: Sequence[IDMap] = ()
    deny_setgroups: bool = False
    uid_helper: str | None = None
    gid_helper: str | None = None


def effective_maps(config: Config, facts: Facts) -> tuple[Sequence[IDMap], Sequence[IDMap]]:
    """The maps to be written: as given, or for a created user namespace without any, the caller as root."""
    if facts.maps is not None:
        return facts.maps.uid, facts.maps.gid
    if config.uid_mappings is None and config.gid_mappings is None:
        return [IDMap(0, facts.euid, 1)], [IDMap(0, facts.egid, 1)]
    return config.uid_mappings or [], config.gid_mappings or []


def _is_foreign(maps: Sequence[IDMap], own: int) -> bool:
    """user_namespaces(7): a process without privilege outside may map its own id, and nothing else."""
    return len(maps) > 1 or any(each.size != 1 or each.host_id != own for each in maps)


def foreign_maps(config: Config, facts: Facts) -> tuple[bool, bool]:
    """Tell which of the uid and gid maps hold other ids than the caller's own."""
    if not config.namespaces.is_private("user"):
        return False, False
    uid_maps, gid_maps = effective_maps(config, facts)
    return _is_foreign(uid_maps, facts.euid), _is_foreign(gid_maps, facts.egid)


def denies_setgroups(config: Config, gid_maps: Sequence[IDMap]) -> bool:
    """Say it for a single id, as `unshare -r` whoever writes the map; ranges are made to be changed between."""
    if config.setgroups is not None:
        return config.setgroups == "deny"
    return len(gid_maps) == 1 and gid_maps[0].size == 1


def mapping(config: Config, facts: Facts) -> Mapping:
    """Decide who writes the maps of a created user namespace; NamespaceError, step ``"check"``, if nobody can."""
    if not config.namespaces.is_private("user"):
        return Mapping()
    uid_maps, gid_maps = effective_maps(config, facts)
    foreign_uids, foreign_gids = foreign_maps(config, facts)
    made = Mapping("child", uid_maps, gid_maps, denies_setgroups(config, gid_maps))
    if not foreign_uids and not foreign_gids and config.setgroups != "allow":
        return made
    if facts.may_map:
        return made._replace(writer="stage 0")
    if config.setgroups == "allow" and gid_maps and not foreign_gids:
        why = "setgroups: a gid map of one's own id alone, without CAP_SETGID, is accepted only with 'deny'"
        raise refused(EPERM, why, type=NamespaceType.USER)
    if foreign_uids:
        _check_grant("uid", uid_maps, facts.euid, facts.uids)
    if foreign_gids:
        _check_grant("gid", gid_maps, facts.egid, facts.gids)
    return made._replace(
        writer="helpers",
        uid_helper=facts.uids.helper if foreign_uids else None,
        gid_helper=facts.gids.helper if foreign_gids else None,
    )


def _check_grant(kind: str, maps: Iterable[IDMap], own: int, grant: Grant) -> None:
    """Refuse what newuidmap(1) would, who only says "not allowed"."""
    name, file = f"new{kind}map", f"/etc/sub{kind}"
    if grant.helper is None:
        why = f"without CAP_SETUID and CAP_SETGID, {name} (package uidmap) has to write this map, and it is not on PATH"
        raise refused(ENOENT, why, filename=name, type=NamespaceType.USER)
    if not grant.trusted:
        why = f"{name} is neither setuid root nor has file capabilities, so it cannot write this map"
        raise refused(EPERM, why, filename=grant.helper, type=NamespaceType.USER)
    if not grant.named:
        why = f"{name} writes for nobody without a name: there is no entry of uid {grant.user} in passwd(5)"
        raise refused(EPERM, why, filename=grant.helper, type=NamespaceType.USER)
    if grant.group is not None:
        raise refused(EPERM, other_group(name, grant), filename=grant.helper, type=NamespaceType.USER)
    if grant.ranges is None:
        return  # it knows more than we can read, and will say so
    for each in maps:
        if each.size == 1 and each.host_id == own:
            continue
        missing = next(_outside(each.host_id, each.size, grant.ranges), None)
        if missing is None:
            continue
        if not grant.ranges:
            why = f"there is no line for {grant.user} in {file}: usermod --add-sub{kind}s 100000-165535 {grant.user}"
        else:
            granted = ", ".join(f"{first}:{size}" for first, size in grant.ranges)
            why = f"{kind} {missing} of the entry {IDMap.format([each])} is not granted to {grant.user}, who has {granted}"
        raise refused(EPERM, why, filename=file, type=NamespaceType.USER)


def other_group(name: str, grant: Grant) -> str:
    """Say why the helper *name* will not write for one who has changed his gid."""
    return (
        f"{name} writes only for the gid that {grant.user} has in passwd(5), {grant.group}, and the caller's is another,"
        " as after newgrp(1): GRANT_AUX_GROUP_SUBIDS in login.defs(5) lets it"
    )


def _outside(first: int, size: int, ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Give the first id of each gap that *ranges* leave between *first* and *size* ids on."""
    end = first + size
    for start, count in sorted(ranges):
        if start > first and first < end:
            yield first
        first = max(first, start + count)
    if first < end:
        yield first
