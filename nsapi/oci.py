# SPDX-License-Identifier: MIT
"""Config from and to the files of container runtimes: OCI's config.json, and libcontainer's own JSON.

``_members`` says which member is which field. Here is how a field is written in JSON. A file is parted in two: what is a
field, as it was written, and the rest, which is ``Config.extra``; put together again they are the file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any, NamedTuple

import attrs

from nsapi import _fields, _native
from nsapi._config import Config, Namespace, Namespaces, check_config
from nsapi._fields import CAPABILITIES, CAPABILITY_SETS, NO_ID
from nsapi._json import checked, choice, copied, objects, read, required, shown, whole
from nsapi._mapping import denies_setgroups
from nsapi._maps import IDMap
from nsapi._members import CARRIED, INSIDE, MEMBERS, UNAPPLIED, covered, join, schema_of
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

__all__ = ["dump", "load"]

#: Written into what has not been loaded from a file: the first version with all that a Config can say.
_OCI_VERSION = "1.2.0"


# ---- fields ----


class _Form(NamedTuple):
    """How one field is written: which names its objects have, to be read and to be written."""

    read: Callable[[Any, str], Any]
    write: Callable[[Any], Any]
    names: frozenset[str] = frozenset()


class _Elsewhere(Exception):
    """The member asks for what the field cannot hold."""


def _namespaces(attribute: str) -> _Form:
    types = {getattr(each, attribute): each for each in NamespaceType}

    def read(value: Any, path: str) -> Namespaces:
        found: dict[NamespaceType, str] = {}
        made = []
        for each, where in objects(value, path):
            word = choice(required("string", each, where, "type"), join(where, "type"), types)
            file = checked("string", each.get("path") or "", join(where, "path"))
            if file and not file.startswith("/"):
                raise ValueError(f"{join(where, 'path')}: {shown(file)} is no absolute path")
            if types[word] in found:
                raise ValueError(f"{join(where, 'type')}: {shown(word)} is given twice, first in {found[types[word]]}")
            found[types[word]] = where
            try:
                made.append(Namespace(types[word], file))
            except ValueError as error:
                raise _moved(error, {"path": join(where, "path")}) from None
        return Namespaces(made)

    def write(value: Namespaces) -> Any:
        return [{"type": getattr(each.type, attribute), **({"path": each.path} if each.path else {})} for each in value]

    return _Form(read, write, frozenset({"type", "path"}))


def _mappings(*names: str) -> _Form:
    def read(value: Any, path: str) -> list[IDMap]:
        maps = []
        for each, where in objects(value, path):
            numbers = [whole(required("integer", each, where, name), join(where, name), NO_ID) for name in names]
            try:
                maps.append(IDMap(*numbers))
            except ValueError as error:
                fields = ("container_id", "host_id", "size")
                raise _moved(error, dict(zip(fields, (join(where, name) for name in names), strict=True))) from None
        return maps

    def write(value: list[IDMap]) -> Any:
        return [dict(zip(names, (each.container_id, each.host_id, each.size), strict=True)) for each in value]

    return _Form(read, write, frozenset(names))


def _read_time_offsets(value: Any, path: str) -> dict[str, tuple[int, int]]:
    offsets = {}
    for clock, each in value.items():
        choice(clock, join(path, clock), _fields.CLOCKS)
        where = join(path, clock)
        parts = checked("object", each, where)
        secs, nanosecs = (0 if parts.get(name) is None else parts[name] for name in ("secs", "nanosecs"))
        offsets[clock] = (
            whole(secs, join(where, "secs"), 2**63 - 1, -(2**63)),
            whole(nanosecs, join(where, "nanosecs"), 999_999_999),
        )
    return offsets


def _write_time_offsets(value: dict[str, tuple[int, int]]) -> Any:
    return {clock: {"secs": secs, "nanosecs": nanosecs} for clock, (secs, nanosecs) in value.items()}


def _read_sysctl(value: Any, path: str) -> dict[str, str]:
    return {name: checked("string", each, join(path, name)) for name, each in value.items()}


def _read_groups(value: Any, path: str) -> list[int]:
    return [whole(each, join(path, at), NO_ID - 1) for at, each in enumerate(value)]


def _capabilities(spelled: Callable[[str], str]) -> _Form:
    sets = {spelled(each): each for each in CAPABILITY_SETS}

    def read(value: Any, path: str) -> dict[str, frozenset[str]]:
        found = {}
        for name, names in value.items():
            if name in sets and names is not None:
                where = join(path, name)
                for at, each in enumerate(checked("strings", names, where)):
                    if each not in CAPABILITIES:
                        raise ValueError(f"{join(where, at)}: {shown(each)} is no name of capabilities(7)")
                found[sets[name]] = frozenset(names)
        return found

    def write(value: dict[str, frozenset[str]]) -> Any:
        return {spelled(name): sorted(value[name], key=CAPABILITIES.index) for name in CAPABILITY_SETS if name in value}

    return _Form(read, write, frozenset(sets))


def _rlimits(numbered: bool) -> _Form:
    def numbers() -> dict[str, int]:
        import resource

        return {each: getattr(resource, each) for each in _fields.RLIMITS}

    def read(value: Any, path: str) -> dict[str, tuple[int, int]]:
        limits: dict[str, tuple[int, int]] = {}
        found: dict[str, str] = {}
        by_number = {number: each for each, number in numbers().items()} if numbered else {}
        for each, where in objects(value, path):
            kind = required("integer" if numbered else "string", each, where, "type")
            if numbered and kind not in by_number:
                raise ValueError(f"{join(where, 'type')}: {kind} is no resource of getrlimit(2)")
            name = by_number[kind] if numbered else choice(kind, join(where, "type"), _fields.RLIMITS)
            if name in found:
                raise ValueError(f"{join(where, 'type')}: {name} is given twice, first in {found[name]}")
            soft, hard = (
                whole(required("integer", each, where, key), join(where, key), 2**64 - 1) for key in ("soft", "hard")
            )
            if soft > hard:
                raise ValueError(f"{join(where, 'soft')}: {soft} is over hard, {hard}")
            found[name], limits[name] = where, (soft, hard)
        return limits

    def write(value: dict[str, tuple[int, int]]) -> Any:
        return [
            {"type": numbers()[name] if numbered else name, "soft": soft, "hard": hard}
            for name, (soft, hard) in value.items()
        ]

    return _Form(read, write, frozenset({"type", "soft", "hard"}))


def _read_networks(value: Any, path: str) -> bool:
    """Find the entry by which libcontainer brings up the loopback of a created network."""
    if any(each.get("type") != "loopback" for each, _ in objects(value, path)):
        raise _Elsewhere
    return bool(value)


#: The kernel's words and, with an r, their recursive forms. All of nsapi's are recursive.
_PROPAGATIONS = {"private": "private", "slave": "slave", "shared": "shared", "unbindable": None}


def _read_propagation(value: str, path: str) -> str | None:
    words = [*_PROPAGATIONS, *(f"r{each}" for each in _PROPAGATIONS)]
    found = _PROPAGATIONS[choice(value, path, words).removeprefix("r")] if value else None
    if value and found is None:
        raise _Elsewhere
    return found


def _read_propagation_flags(value: int, path: str) -> str | None:
    recursive = _native.constant("MS_REC")
    for each in ("private", "slave", "shared"):
        if value & ~recursive == _native.constant(f"MS_{each.upper()}"):
            return each
    if value:
        raise _Elsewhere
    return None


def _write_propagation_flags(value: str) -> int | None:
    return None if value == "unchanged" else _native.constant("MS_REC") | _native.constant(f"MS_{value.upper()}")


def _as_is(value: Any, path: str = "") -> Any:
    return value


def _unless_zero(value: Any, path: str = "") -> Any:
    """Read what Go writes for nothing as nothing."""
    return value or None


_BOTH = {
    "time_offsets": _Form(_read_time_offsets, _write_time_offsets, frozenset({"secs", "nanosecs"})),
    "hostname": _Form(_unless_zero, _as_is),
    "domainname": _Form(_unless_zero, _as_is),
    "sysctl": _Form(_read_sysctl, dict),
    "no_new_privs": _Form(_as_is, _as_is),
    "oom_score_adj": _Form(_as_is, _as_is),
}
_FORMS: dict[str, dict[str, _Form]] = {
    "oci": {
        **_BOTH,
        "namespaces": _namespaces("oci_name"),
        "uid_mappings": _mappings("containerID", "hostID", "size"),
        "gid_mappings": _mappings("containerID", "hostID", "size"),
        "propagation": _Form(_read_propagation, lambda value: None if value == "unchanged" else value),
        "uid": _Form(_as_is, _as_is),
        "gid": _Form(_as_is, _as_is),
        "groups": _Form(_read_groups, list),
        "capabilities": _capabilities(str),
        "rlimits": _rlimits(numbered=False),
    },
    "libcontainer": {
        **_BOTH,
        "namespaces": _namespaces("value"),
        "uid_mappings": _mappings("container_id", "host_id", "size"),
        "gid_mappings": _mappings("container_id", "host_id", "size"),
        "propagation": _Form(_read_propagation_flags, _write_propagation_flags),
        "loopback": _Form(_read_networks, lambda value: [{"type": "loopback"}] if value else None),
        "capabilities": _capabilities(str.capitalize),
        "rlimits": _rlimits(numbered=True),
        "parent_death_signal": _Form(_unless_zero, _as_is),
    },
}
_PATHS = {
    schema: {row.becomes: path for path, row in rows.items() if row.becomes not in (INSIDE, UNAPPLIED, CARRIED)}
    for schema, rows in MEMBERS.items()
}


# ---- load ----


def _moved(error: Exception, paths: Mapping[str, str]) -> Exception:
    """Name the JSON paths instead of the fields, with which the messages of Config begin."""
    names, _, rest = str(error).partition(": ")
    if not all(name in paths for name in names.split(", ")):
        return error
    return type(error)(f"{', '.join(paths[name] for name in names.split(', '))}: {rest}")


def _part(form: _Form, value: Any, nested: bool = False) -> tuple[Any, Any]:
    """Part the value of a field in what belongs to it, and members that are not known; None where there are none."""
    if isinstance(value, list) and form.names:
        parts = [_part(form, each) for each in value]
        unknown = [rest or {} for _, rest in parts]
        return [known for known, _ in parts], unknown if any(unknown) else None
    if isinstance(value, dict) and nested:
        halves = {name: _part(form, each) for name, each in value.items()}
        others = {name: rest for name, (_, rest) in halves.items() if rest}
        return {name: known for name, (known, _) in halves.items()}, others or None
    if isinstance(value, dict) and form.names:
        others = {name: each for name, each in value.items() if name not in form.names}
        return {name: each for name, each in value.items() if name in form.names}, others or None
    return value, None


def _joined(known: Any, rest: Any) -> Any:
    """Put together what was parted. Where both have a value the first has it, unless it is null."""
    if isinstance(known, dict) and isinstance(rest, dict):
        both = {name: _joined(known[name], rest[name]) if name in rest else known[name] for name in known}
        return both | {name: each for name, each in rest.items() if name not in known}
    if isinstance(known, list) and isinstance(rest, list) and len(known) == len(rest):
        return [_joined(*pair) for pair in zip(known, rest, strict=True)]
    return rest if known is None else known


def _read_members(
    schema: str, value: dict[str, Any], path: str, fields: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what is a field into *fields*; part the object in what was read, and the rest."""
    written: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, each in value.items():
        where = join(path, name)
        row = MEMBERS[schema].get(where)
        if row is not None and each is not None:
            checked(row.kind, each, where)
        if row is None or row.becomes in (UNAPPLIED, CARRIED):
            extra[name] = each
        elif each is None:
            written[name] = None
        elif row.becomes == INSIDE:
            written[name], rest = _read_members(schema, each, where, fields)
            if rest:
                extra[name] = rest
        else:
            form = _FORMS[schema][row.becomes]
            try:
                fields[row.becomes] = form.read(each, where)
            except _Elsewhere:
                extra[name] = each
                continue
            written[name], rest = _part(form, each, nested=row.becomes == "time_offsets")
            if rest:
                extra[name] = rest
    return written, extra


def _config_of(schema: str, document: dict[str, Any]) -> tuple[Config, list[str]]:
    """Read a whole file; tell which ambient capabilities it cannot have."""
    fields: dict[str, Any] = {}
    written, extra = _read_members(schema, document, "", fields)
    namespaces = fields.setdefault("namespaces", Namespaces())
    for name in ("uid_mappings", "gid_mappings"):
        if fields.get(name) == [] and not namespaces.is_private("user"):
            del fields[name]  # asks for nothing
    if schema == "oci":
        # What a file leaves unsaid there means what it means to runc and crun.
        fields["loopback"] = namespaces.is_private("net")
        process = document.get("process")
        if process is not None:
            fields.setdefault("capabilities", {})
            if process.get("user") is not None:
                for name in ("uid", "gid"):
                    required("integer", process["user"], "process.user", name)
                if not fields.get("groups"):
                    fields["groups"] = [] if _may_set_groups(namespaces, fields.get("gid_mappings")) else None
    sets = fields.get("capabilities") or {}
    ambient = sets.get("ambient", frozenset())
    given = ambient & sets.get("permitted", frozenset()) & sets.get("inheritable", frozenset())
    if ambient - given:
        fields["capabilities"] = sets | {"ambient": given}
    try:
        config = Config(extra=extra, **{name: each for name, each in fields.items() if each is not None})
        config.validate()
    except (TypeError, ValueError) as error:
        raise _moved(error, _PATHS[schema]) from None
    config._written = schema, written
    return config, sorted(ambient - given, key=CAPABILITIES.index)


def _may_set_groups(namespaces: Namespaces, gid_maps: list[IDMap] | None) -> bool:
    if not namespaces.is_private("user"):
        return True
    return bool(gid_maps) and not denies_setgroups(Config(), gid_maps or [])


def _recognized(document: Mapping[str, Any]) -> str | None:
    if any(each in document for each in ("ociVersion", "linux", "process", "root", "annotations")):
        return "oci"
    return "libcontainer" if "namespaces" in document else None


def _say(words: str) -> None:
    """Tell the logger ``nsapi``. A program that has not loaded logging gets what it would do: a line on stderr."""
    logging = sys.modules.get("logging")
    if logging is not None:
        logging.getLogger("nsapi").warning(words)
    elif sys.stderr is not None:
        sys.stderr.write(f"{words}\n")


def load(
    source: str | bytes | os.PathLike[str] | os.PathLike[bytes] | IO[str] | IO[bytes] | Mapping[str, Any],
    *,
    allow: Iterable[str] = (),
) -> Config:
    """Read an OCI runtime-spec ``config.json``, or libcontainer's JSON, as a Config; nothing is opened or run.

    *source* is a path, an open file, or what ``json.load`` has made of it. What a Config has no field for is in its
    ``extra``. What of that asks for something is in its ``unapplied``: it runs if *allow* names each of these paths, or
    one that has it in it. Raises ValueError for a bad file, TypeError for a value of the wrong kind; either begins with
    the JSON path of the fault.
    """
    document, name = read(source)
    schema = _recognized(document)
    if schema is None:
        raise ValueError(f"{name}: neither OCI's (no ociVersion, no linux) nor libcontainer's (no namespaces)")
    config, lost = _config_of(schema, document)
    config.allow = _fields.json_paths(allow)
    if lost:
        path = join(_PATHS[schema]["capabilities"], "ambient")
        _say(f"{path}: {', '.join(lost)}: not granted: not permitted and inheritable too (capabilities(7))")
    return config


# ---- dump ----


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set what is at *path*; None takes it away."""
    *owners, name = path.split(".")
    for each in owners:
        if not isinstance(tree.get(each), dict):
            if value is None:
                return
            tree[each] = {}
        tree = tree[each]
    if value is None:
        tree.pop(name, None)
    else:
        tree[name] = value


def dump(config: Config, *, schema: Literal["oci", "libcontainer"] = "oci") -> dict[str, Any]:
    """Write *config* as ``json.dump`` takes it; of an unchanged file that :func:`load` has read, equal to that file.

    ``extra`` is in it, if it is of the same *schema*. What the schema has no words for (a field, or what ``extra`` of the
    other one asks for) is told of to the logger ``nsapi``, unless ``allow`` covers it. Raises ValueError for a target whose
    namespaces are not named.
    """
    if schema not in MEMBERS:
        raise ValueError(f"schema: {schema!r} is not one of {', '.join(map(repr, MEMBERS))}")
    check_config(config)
    config.validate()
    if config.target is not None and not config.namespaces.joined():
        raise ValueError("target: which of its namespaces are joined is not said; name the types")
    of, written = config._written or (schema_of(config.extra), {})
    extra = copied(config.extra) if of in (None, schema) else {}
    if config._written is None or of != schema:
        written = {"linux": {"namespaces": []}} if schema == "oci" else {"namespaces": []}
        if schema == "oci":
            extra.setdefault("ociVersion", _OCI_VERSION)
    document = _ordered(schema, _joined(_rewritten(config, schema, copied(written), extra), extra))
    after, _ = _config_of(schema, document)
    blank = Config()
    lost = [
        name
        for name in (each.name for each in attrs.fields(Config))
        if name not in ("target", "extra", "allow")
        and name[0] != "_"
        and not _same(config, after, name)
        # Unsaid is as the runtime likes it. But to leave capabilities as they are cannot be said of a process.
        and (name == "capabilities" or not _same(config, blank, name))
    ]
    lost += [path for path in config.unapplied if path not in after.unapplied and not covered(path, config.allow)]
    if lost:
        _say(f"{schema} has no words for what the config has in {', '.join(lost)}")
    return document


def _ordered(schema: str, value: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Sort the members as the table has them; those that it does not know come last."""
    places = {each: place for place, each in enumerate(MEMBERS[schema])}
    made = {}
    for name in sorted(value, key=lambda name: places.get(join(path, name), len(places))):
        inside = join(path, name)
        row = MEMBERS[schema].get(inside)
        descend = row is not None and row.becomes == INSIDE and isinstance(value[name], dict)
        made[name] = _ordered(schema, value[name], inside) if descend else value[name]
    return made


def _same(one: Config, other: Config, name: str) -> bool:
    if name == "namespaces":
        # What lives behind a path is not written.
        return [(each.type, each.path) for each in one.namespaces] == [
            (each.type, each.path) for each in other.namespaces
        ]
    return bool(getattr(one, name) == getattr(other, name))


def _rewritten(config: Config, schema: str, written: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Write the fields that are no more as they were read; what stood in *extra* beside these goes."""
    before, _ = _config_of(schema, written)
    blank = Config()
    for name, path in _PATHS[schema].items():
        if not _same(config, before, name):
            unset = name != "namespaces" and _same(config, blank, name)
            _put(written, path, None if unset else _FORMS[schema][name].write(getattr(config, name)))
            _put(extra, path, None)
    user = (written.get("process") or {}).get("user")
    if user:
        for name in ("uid", "gid"):
            user.setdefault(name, 0)  # neither is without the other there
    return written
