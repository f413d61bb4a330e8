# SPDX-License-Identifier: MIT
"""runc's bootstrap message: what a Config asks for, as ``_nsexec.c`` and runc's own nsexec.c read it from the init pipe."""

from __future__ import annotations

import os
import struct
from errno import EINVAL

from nsapi import _idmap, _mapping, _native, _plan
from nsapi._config import check_config
from nsapi._errors import refused, unsupported
from nsapi._maps import map_text
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nsapi._config import Config
    from nsapi._maps import IDMap

    _Attribute = tuple[int, int | bytes]

_INIT_MESSAGE, _NLM_F_REQUEST = 62000, 1  # the number after it counts messages
#: Lengths are 16 bits wide; one that wrapped would turn data into attributes (CVE-2021-43784).
_MAX = 65535
(
    _CLONE_FLAGS, _NS_PATHS, _UIDMAP, _GIDMAP, _SETGROUP, _OOM_SCORE_ADJ, _ROOTLESS_EUID, _UIDMAP_PATH, _GIDMAP_PATH,
    _TIME_OFFSETS,
) = range(27281, 27291)  # fmt: skip
#: What the message has no words for. Nothing that was asked for is dropped in silence.
NOT_IN_MESSAGE = (
    "hostname domainname mounts root sysctl loopback uid gid groups capabilities rlimits no_new_privs"
    " parent_death_signal cgroup_path init"
).split()


def _pack(attributes: Iterable[_Attribute]) -> bytes:
    """Write attributes in netlink's form: a number is an u32, bytes get the NUL that ends them."""
    parts = []
    for type, value in attributes:
        payload = struct.pack("=I", value) if isinstance(value, int) else value + b"\0"
        size = 4 + len(payload)
        if size > _MAX:
            raise ValueError(f"bootstrap message: attribute {type} has {size} bytes, and the protocol takes {_MAX}")
        parts.append(struct.pack("=HH", size, type) + payload + bytes(-size % 4))
    body = b"".join(parts)
    length = 16 + len(body)
    if length > _MAX:
        raise ValueError(f"bootstrap message: {length} bytes, and the protocol takes {_MAX}")
    return struct.pack("=IHHII", length, _INIT_MESSAGE, _NLM_F_REQUEST, 1, 0) + body


def bootstrap_data(config: Config) -> bytes:
    """Encode *config* as the message that runc's ``bootstrapData`` would send to its nsenter.

    The namespaces to join are named by the paths of ``config.namespaces``, which must exist. What happens after the
    bootstrap (hostname, mounts, ...) is not part of it, nor what keeps a join's target alive. Raises ValueError for what
    the message cannot express: a comma or NUL in a path, more than 65,535 bytes, a target without types, setgroups other
    than it follows from the maps.
    """
    _native.require()
    check_config(config)
    config.validate()
    joined = list(config.namespaces.joined())
    if config.target is not None and not joined:
        raise ValueError("target: which of its namespaces are joined is not said; name the types")
    rootless = os.geteuid() != 0
    attributes = dict(_of_runc(config, {each.type: each.path for each in joined}, rootless))
    denied = rootless and _SETGROUP not in attributes and not {_UIDMAP, _GIDMAP}.isdisjoint(attributes)
    if config.setgroups not in (None, "deny" if denied else "allow"):
        why = "the message has no word for it, and means the other for these maps and this user"
        raise ValueError(f"setgroups: {config.setgroups!r}: {why}")
    data = _pack(attributes.items())
    for each in joined:
        try:
            os.lstat(each.path)
        except (FileNotFoundError, NotADirectoryError):
            raise refused(EINVAL, "there is no such file to join", filename=each.path, type=each.type) from None
        except OSError:
            pass  # who opens it may be told more
    return data


def encode(config: Config, paths: dict[NamespaceType, str], *, rootless: bool) -> bytes:
    """Encode *config*, joining by these paths; *rootless* denies setgroups for a gid map of the caller's own id as 0."""
    return _pack(_of_runc(config, paths, rootless))


def _of_runc(config: Config, paths: dict[NamespaceType, str], rootless: bool) -> Iterator[_Attribute]:
    """In runc's order."""
    yield _CLONE_FLAGS, config.namespaces.clone_flags()
    if paths:
        yield _NS_PATHS, b",".join(_path(each, paths[each]) for each in NamespaceType if each in paths)
    if config.namespaces.is_private(NamespaceType.USER):
        looked_up = None if config.maps is None else _idmap.id_maps(config.maps)
        facts = _plan.Facts(euid=os.geteuid(), egid=os.getegid(), maps=looked_up)
        uid_maps, gid_maps = _mapping.effective_maps(config, facts)
        if uid_maps:
            if rootless and (helper := _idmap.find_helper("newuidmap")):
                yield _UIDMAP_PATH, os.fsencode(helper)
            yield _UIDMAP, map_text(uid_maps)
        if gid_maps:
            yield _GIDMAP, map_text(gid_maps)
            if rootless and (helper := _idmap.find_helper("newgidmap")):
                yield _GIDMAP_PATH, os.fsencode(helper)
            # A map that root or a helper has to write leaves setgroups as it is; the own id alone needs it denied.
            if not _is_own_root(gid_maps, facts.egid):
                yield _SETGROUP, 1
    if config.oom_score_adj is not None:
        yield _OOM_SCORE_ADJ, str(config.oom_score_adj).encode()
    yield _ROOTLESS_EUID, int(rootless)
    if config.time_offsets:
        yield _TIME_OFFSETS, _plan.offsets_text(config)


def _is_own_root(maps: Sequence[IDMap], own: int) -> bool:
    (*rest, first) = maps
    return not rest and (first.container_id, first.host_id, first.size) == (0, own, 1)


def _path(type: NamespaceType, path: str) -> bytes:
    encoded = os.fsencode(path)
    for bad, words in ((b",", "a comma"), (b"\0", "NUL")):
        if bad in encoded:
            raise ValueError(f"{type.proc_name}: path {path!r} has {words} in it, which the message cannot hold")
    return type.proc_name.encode() + b":" + encoded


def refuse_what_is_not_said(config: Config) -> None:
    """Raise Unsupported for fields that the bootstrap cannot perform."""
    _native.require()
    for name in NOT_IN_MESSAGE:
        value = getattr(config, name)
        # [] and {} ask for nothing, but for groups and capabilities: there they take all away.
        if value or not (value is None or value is False or name in ("mounts", "sysctl", "rlimits")):
            raise unsupported(f"{name} is not part of the bootstrap: do it in the program, by start_initialization")
    _plan.refuse_unapplied(config)


def for_launcher(config: Config, facts: _plan.Facts, mapping: _mapping.Mapping) -> bytes:
    """Make the message for our own launcher, who gets what it joins as open files."""
    attributes: list[_Attribute] = [(_CLONE_FLAGS, config.namespaces.clone_flags())]
    if mapping.uid_maps:
        attributes.append((_UIDMAP, map_text(mapping.uid_maps)))
    if mapping.gid_maps:
        attributes.append((_GIDMAP, map_text(mapping.gid_maps)))
    if mapping.uid_helper:
        attributes.append((_UIDMAP_PATH, os.fsencode(mapping.uid_helper)))
    if mapping.gid_helper:
        attributes.append((_GIDMAP_PATH, os.fsencode(mapping.gid_helper)))
    if config.oom_score_adj is not None:
        attributes.append((_OOM_SCORE_ADJ, str(config.oom_score_adj).encode()))
    if config.time_offsets:
        attributes.append((_TIME_OFFSETS, _plan.offsets_text(config)))
    # Rootless: stage 1 has to be seen while it is mapped. SETGROUP: whether to deny is not guessed from the rest.
    attributes += [(_SETGROUP, 1), (_ROOTLESS_EUID, int(facts.euid != 0))]
    return _pack(attributes)
