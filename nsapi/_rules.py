# SPDX-License-Identifier: MIT
"""What the fields of a Config mean for each other: libcontainer's rules, the runtime-spec's and the kernel's. Pure."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from nsapi import _fields, _maps
from nsapi._maps import IDMap
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsapi._config import Config

#: time_namespaces(7): seconds to which the kernel's clocks count, and half of that, which no offset may pass.
_KTIME_SEC_MAX = (2**63 - 1) // 10**9


class Rule(NamedTuple):
    """What one function looks at, and what it finds wrong: each a line that names the field, its value and the rule."""

    fields: tuple[str, ...]
    problems: Callable[[Config], Iterator[str]]


def problems(config: Config, *, besides: Collection[str] = ()) -> Iterator[str]:
    """Say all that is wrong, but for rules about the fields *besides*, whose values are no such values by themselves."""
    for rule in RULES:
        if not set(rule.fields) & set(besides):
            yield from rule.problems(config)


def _of_maps(config: Config) -> Iterator[str]:
    lists = {"uid_mappings": config.uid_mappings, "gid_mappings": config.gid_mappings}
    if not config.namespaces.is_private("user"):
        where = "is joined and has its maps" if config.namespaces.contains("user") else "is not among the namespaces"
        for name, maps in lists.items():
            if maps is not None:
                yield f"{name}: '{IDMap.format(maps)}', and a user namespace {where}"
        for name in ("setgroups", "maps"):
            if getattr(config, name) is not None:
                yield f"{name}: {getattr(config, name)!r}, and a user namespace {where}"
        return
    if config.maps is not None and (config.uid_mappings, config.gid_mappings) != (None, None):
        yield f"maps: {config.maps!r}, and uid_mappings, gid_mappings: one or the other"
    if (config.uid_mappings is None) != (config.gid_mappings is None):
        given = " and ".join("None" if maps is None else f"'{IDMap.format(maps)}'" for maps in lists.values())
        yield f"uid_mappings, gid_mappings: {given}: one given needs the other; [] maps nobody"
    for name, maps in lists.items():
        yield from _maps.problems(name, maps or [])


def _of_names(config: Config) -> Iterator[str]:
    for name in ("hostname", "domainname"):
        value = getattr(config, name)
        if value is not None and not config.namespaces.contains("uts"):
            yield f"{name}: {value!r} needs a uts namespace, so as not to rename the host"


def _of_time(config: Config) -> Iterator[str]:
    if config.time_offsets and not config.namespaces.is_private("time"):
        rule = "need a created time namespace; those of one that is joined are fixed"
        yield f"time_offsets: {config.time_offsets} {rule}"
    for clock, (seconds, _) in config.time_offsets.items():
        if not -_KTIME_SEC_MAX <= seconds <= _KTIME_SEC_MAX // 2:
            yield f"time_offsets: {clock}: {seconds} seconds, and no clock counts so far"


def _of_net(config: Config) -> Iterator[str]:
    if config.loopback and not config.namespaces.contains("net"):
        yield "loopback: True needs a net namespace"


def _of_mounts(config: Config) -> Iterator[str]:
    if config.propagation is not None and not config.namespaces.is_private("mnt"):
        yield f"propagation: {config.propagation!r} needs a created mnt namespace"


def _of_pid_1(config: Config) -> Iterator[str]:
    created = config.namespaces.is_private("pid")
    if config.init and not created:
        yield "init: True needs a created pid namespace, of which it is pid 1"
    if config.parent_death_signal not in (None, 9) and created and not config.init:
        yield (
            f"parent_death_signal: {config.parent_death_signal} would be dropped by pid 1 of a pid namespace,"
            " which has no handler for it: SIGKILL (9), or init=True"
        )


def _of_capabilities(config: Config) -> Iterator[str]:
    if config.capabilities is None:
        return
    sets = {name: config.capabilities.get(name, frozenset()) for name in _fields.CAPABILITY_SETS}
    for small, large in (
        ("effective", "permitted"),
        ("ambient", "permitted"),
        ("ambient", "inheritable"),
        ("inheritable", "bounding"),
    ):
        for each in sorted(sets[small] - sets[large]):
            yield f"capabilities: {each} is {small}, so it must be {large} too (capabilities(7))"


# ---- sysctls ----

#: namespaces(7): what is an IPC namespace's own below kernel. The rest there is the host's, but for two names of uts.
_OF_IPC = frozenset(
    f"kernel.{name}" for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)
_TREES = {"fs.mqueue.": NamespaceType.IPC, "net.": NamespaceType.NET, "user.": NamespaceType.USER}
_SWAP = str.maketrans("./", "/.")


def sysctl_key(key: str) -> str:
    """Write *key* as sysctl(8) does: where its first separator is ``/``, ``/`` and ``.`` change places."""
    separators = [each for each in key if each in "./"]
    return key.translate(_SWAP) if separators[:1] == ["/"] else key


def sysctl_path(key: str) -> bytes:
    """Name the file of *key* below /proc."""
    return os.fsencode(f"sys/{sysctl_key(key).translate(_SWAP)}")


def sysctl_owner(key: str) -> NamespaceType | None:
    """Tell the type of namespace that *key* belongs to; None for what is the host's, or nobody's."""
    key = sysctl_key(key)
    if key in _OF_IPC:
        return NamespaceType.IPC
    if key == "kernel.domainname":
        return NamespaceType.UTS
    return next((type for tree, type in _TREES.items() if key.startswith(tree)), None)


def _of_sysctl(config: Config) -> Iterator[str]:
    seen: dict[str, str] = {}
    for given, value in config.sysctl.items():
        key, owner = sysctl_key(given), sysctl_owner(given)
        if key in seen:
            yield f"sysctl: {seen[key]!r} and {given!r} are the same key"
        seen[key] = given
        # `..` would lead out of what the rules below are about.
        if {"", ".", ".."} & set(key.translate(_SWAP).split("/")):
            yield f"sysctl: {given!r} is no name of a sysctl, as 'net.ipv4.ip_forward'"
        elif key == "kernel.hostname":
            yield f"sysctl: {given}: {value!r} is what the field hostname is for"
        elif owner is None:
            yield f"sysctl: {given}: {value!r} would be the host's too: it belongs to no namespace that can be created"
        elif not config.namespaces.is_private(owner):
            why = "; one that is joined is others' too" if config.namespaces.contains(owner) else ""
            yield f"sysctl: {given}: {value!r} needs a created {owner.proc_name} namespace{why}"
        yield from _of_sysctl_value(config, given, key, value)


def _of_sysctl_value(config: Config, given: str, key: str, value: str) -> Iterator[str]:
    """The kernel answers that all is well where it has written only a part, or nothing."""
    if not value:
        yield f"sysctl: {given}: '' is empty, and the kernel ignores that"
    elif "\n" in value[:-1]:
        yield f"sysctl: {given}: {value!r} has more than one line, and the kernel reads the first"
    if key != "kernel.domainname":
        return
    text = value.removesuffix("\n")
    if len(os.fsencode(text)) > _fields.MAX_HOSTNAME:
        yield f"sysctl: {given}: {value!r} is over {_fields.MAX_HOSTNAME} bytes, and the kernel cuts it"
    if config.domainname not in (None, text):
        yield f"sysctl: {given}: {value!r}, and domainname says {config.domainname!r}"


RULES = (
    Rule(("uid_mappings", "gid_mappings", "setgroups", "maps"), _of_maps),
    Rule(("hostname", "domainname"), _of_names),
    Rule(("time_offsets",), _of_time),
    Rule(("loopback",), _of_net),
    Rule(("propagation",), _of_mounts),
    Rule(("sysctl", "domainname"), _of_sysctl),
    Rule(("init", "parent_death_signal"), _of_pid_1),
    Rule(("capabilities",), _of_capabilities),
)


# ---- ids ----


def host_id(config: Config, kind: str, id: int) -> int:
    """Tell which id outside is *id* inside; *kind* is ``uid`` or ``gid``."""
    _fields.check_type("id", id)
    if not config.namespaces.contains("user"):
        return id
    maps: list[IDMap] | None = getattr(config, f"{kind}_mappings")
    if not maps:
        why = "nobody is mapped"
        if not config.namespaces.is_private("user"):
            why = "the user namespace is joined and has its maps"
        elif maps is None:
            why = "none is given, and which it will be a verb finds out"
        raise LookupError(f"id: {id}: {kind}_mappings has nothing: {why}")
    found = IDMap.host_of(maps, id)
    if found is None:
        raise LookupError(f"id: {id} is not mapped: {kind}_mappings is '{IDMap.format(maps)}'")
    return found
