# SPDX-License-Identifier: MIT
"""Namespace, Namespaces, Config: values that say what a process shall get. Nothing acts here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, overload

from attrs import define, field, fields, frozen, setters, validators

from nsapi import _fields, _maps, _members, _rules
from nsapi._fields import NO_ID
from nsapi._maps import IDMap, IDMaps, id_maps_of
from nsapi._types import NamespaceType, flags_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from typing_extensions import Self


# ---- namespaces ----


def _join_path(value: Any) -> str:
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"path: {value!r} is no path; a live process or handle is joined by Config.new or Config.join")
    path = os.fsdecode(value)
    _fields.encode("path", path)
    if not isinstance(value, str) and not path:
        raise ValueError(f"path: {value!r} is empty; only '' says that the namespace is to be created")
    if isinstance(value, str) or "/" in path:
        return path
    return f"./{path}"  # else it would be taken for a name of ip-netns(8)


def _parse_type(word: NamespaceType | str) -> NamespaceType:
    return NamespaceType.parse(word)


@frozen
class Namespace:
    """One namespace of a container: *type*, and *path* ``""`` to create it or else the file to join it by.

    As libcontainer's ``configs.Namespace``. *target* is what lives behind *path*, where it is a process or a handle.
    """

    type: NamespaceType = field(converter=_parse_type)
    path: str = field(default="", converter=_join_path)
    target: Any = field(default=None, kw_only=True, repr=False)

    def get_path(self, pid: int) -> str:
        """Name the file of *pid*'s namespace of this type, whatever *path* is: ``/proc/PID/ns/NAME``."""
        return f"/proc/{pid}/ns/{self.type.proc_name}"


class Namespaces:
    """The namespaces of a container in order, one per type: what to create and what to join.

    Made of :class:`Namespace`, ``(type, path)`` pairs or words; a type that comes twice is a ValueError. The methods are
    libcontainer's: ``remove`` and ``index`` answer, where a list's would raise. Compares by value, not hashable.
    """

    __slots__ = ("_items",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, iterable: Iterable[Namespace | NamespaceType | str | tuple[NamespaceType | str, str]] = ()
    ) -> None:
        self._items: dict[NamespaceType, Namespace] = {}
        if isinstance(iterable, (str, Mapping)) or not isinstance(iterable, Iterable):
            raise TypeError(f"namespaces: {iterable!r} is no list of types, (type, path) pairs or Namespace objects")
        for item in iterable:
            namespace = _namespace(item)
            if namespace.type in self._items:
                raise ValueError(f"namespaces: {namespace.type.proc_name} is given twice")
            self._items[namespace.type] = namespace

    def add(self, type: NamespaceType | str, path: str = "") -> None:
        """Append a namespace; where the type is there already, overwrite its path in place."""
        self._put(Namespace(type, path))

    def _put(self, namespace: Namespace) -> None:
        self._items[namespace.type] = namespace  # a dict keeps the place of a key that it has

    def remove(self, type: NamespaceType | str) -> bool:
        """Remove the namespace of *type*; tell whether there was one."""
        return self._items.pop(NamespaceType.parse(type), None) is not None

    def contains(self, type: NamespaceType | str) -> bool:
        """Tell whether *type* is there, to be created or joined."""
        return NamespaceType.parse(type) in self._items

    def index(self, type: NamespaceType | str) -> int:
        """Tell the position of *type*; -1 if it is absent."""
        parsed = NamespaceType.parse(type)
        return list(self._items).index(parsed) if parsed in self._items else -1

    def path_of(self, type: NamespaceType | str) -> str:
        """Tell the path by which *type* is joined; ``""`` if it is absent or created."""
        found = self._items.get(NamespaceType.parse(type))
        return found.path if found is not None else ""

    def is_private(self, type: NamespaceType | str) -> bool:
        """Tell whether *type* is to be created: there, and with no path."""
        found = self._items.get(NamespaceType.parse(type))
        return found is not None and not found.path

    def created(self) -> tuple[NamespaceType, ...]:
        """List the types to be created, in order."""
        return tuple(each.type for each in self._items.values() if not each.path)

    def joined(self) -> tuple[Namespace, ...]:
        """List the namespaces to be joined, in order."""
        return tuple(each for each in self._items.values() if each.path)

    def clone_flags(self) -> int:
        """OR the CLONE_NEW* flags of what is created; joined ones do not count."""
        return flags_of(self.created())

    def __copy__(self) -> Namespaces:
        return Namespaces(self)

    def __contains__(self, type: NamespaceType | str) -> bool:
        return self.contains(type)

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, at: int) -> Namespace:
        return list(self._items.values())[at]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Namespaces) else NotImplemented

    def __repr__(self) -> str:
        return f"Namespaces({list(self)!r})"


def _namespace(item: Any) -> Namespace:
    if isinstance(item, Namespace):
        return item
    if isinstance(item, tuple):
        if len(item) != 2:
            raise TypeError(f"namespaces: {item!r} is no pair of type and path")
        return Namespace(*item)
    return Namespace(item)


def joined_namespace(type: NamespaceType, target: Any) -> Namespace:
    """Describe the join of *target*'s namespace of *type*, without opening anything.

    *target* is ``"blue"`` (net only), a path, a pid, or an object with ``.pid`` or ``fileno()``, such as a handle.
    """
    name = type.proc_name
    if isinstance(target, str) and "/" not in target:
        if not target or target in (".", "..") or type is not NamespaceType.NET:
            raise ValueError(
                f"{name}: {target!r} is no path; the names of ip-netns(8) are for net, and a path has a '/'"
            )
        return Namespace(type, f"/run/netns/{target}")
    if isinstance(target, (str, bytes, os.PathLike)):
        if not _fields.encode(name, os.fsdecode(target)):
            raise ValueError(f"{name}: path {target!r} is empty")
        return Namespace(type, target)
    if isinstance(target, bool) or target is None:
        raise TypeError(f"{name}: {target!r} is no path, name, pid, process or handle")
    if isinstance(target, int) or hasattr(target, "pid"):
        pid = target if isinstance(target, int) else target.pid
        if isinstance(pid, bool) or not isinstance(pid, int) or pid <= 0:
            raise ValueError(f"{name}: {target!r} has no pid greater than 0")
        return Namespace(type, f"/proc/{pid}/ns/{name}", target=target)
    if hasattr(target, "fileno"):
        actual = getattr(target, "type", type)
        if isinstance(actual, NamespaceType) and actual is not type:
            raise ValueError(f"{name}: {target!r} is a {actual.proc_name} namespace, not {name}")
        return Namespace(type, f"/proc/{os.getpid()}/fd/{target.fileno()}", target=target)
    raise TypeError(f"{name}: {target!r} is no path, name, pid, process or handle")


def _uid_maps(value: Any) -> list[IDMap] | None:
    return id_maps_of("uid_mappings", value)


def _gid_maps(value: Any) -> list[IDMap] | None:
    return id_maps_of("gid_mappings", value)


def _namespaces(value: Any) -> Namespaces:
    return value if isinstance(value, Namespaces) else Namespaces(value)


# ---- Config ----

_MAPS = _fields.one_of(None, *_maps.MAP_KINDS, remedy="; lists are for uid_mappings and gid_mappings")


class Memo:
    """What is known of a Config as it was when it was found valid; the steps that were last made for it, and for what."""

    __slots__ = ("program", "snapshot")

    def __init__(self, snapshot: tuple[object, ...] = ()) -> None:
        self.snapshot = snapshot
        self.program: tuple[tuple[Any, object, object], Any] | None = None

    def __reduce__(self) -> tuple[type[Memo], tuple[()]]:
        return Memo, ()  # a copy of a Config finds out for itself


@define(on_setattr=[setters.convert, setters.validate])
class Config:
    """What a process shall get: its namespaces, and what is done in them before the program starts.

    Modelled on libcontainer's ``configs.Config``. Mutable; every assignment is validated, and :meth:`validate`, which each
    verb calls first, checks what fields mean for each other. Compares by value, not hashable. Made by :meth:`new` and
    :meth:`join`.

    ``namespaces``
        :class:`Namespaces`, or an iterable to make them of
    ``uid_mappings``, ``gid_mappings``
        lists of :class:`IDMap` (or ``"0:1000:1"``) for a created user namespace; both None: the caller is root inside, as
        ``unshare -r``; both ``[]``: nobody is mapped
    ``maps``
        instead of these two lists a word, such as ``"auto"``, which :func:`nsapi.id_maps` looks up when a verb runs
    ``setgroups``
        None: denied for a gid map of a single id, allowed for ranges; ``"deny"`` or ``"allow"`` insist
    ``hostname``, ``domainname``
        1 to 64 bytes; need uts
    ``time_offsets``
        ``{"boottime": 3600, "monotonic": -1.5}``: seconds, int, float or (seconds, nanoseconds); need a created time
    ``mounts``, ``root``
        not performed yet. ``mounts=[]`` also leaves the old ``/proc``; None gives a new pid with a new mnt namespace its own
    ``propagation``
        of all mounts in a created mnt namespace: ``"private"`` (the default), ``"slave"``, ``"shared"``, ``"unchanged"``
    ``sysctl``
        ``{"net.ipv4.ip_forward": "1"}``: what belongs to a created ipc, net, user or uts namespace, written in this order
    ``loopback``
        bring ``lo`` up; needs net
    ``uid``, ``gid``, ``groups``
        ids inside, with which the program starts; None: unchanged, but 0 in a user namespace joined or made, if mapped
    ``capabilities``
        ``{"bounding": ["CAP_KILL"], …}`` with the five sets of capabilities(7); one left out is empty, as in libcontainer
    ``rlimits``
        ``{"RLIMIT_NOFILE": (soft, hard)}`` or one int for both; -1 is no limit
    ``no_new_privs``
        set the bit of that name, prctl(2)
    ``oom_score_adj``
        -1000 to 1000, proc(5)
    ``parent_death_signal``
        1 to 64, sent to the program when the thread that started it ends, prctl(2); main thread only; with a created
        pid namespace only SIGKILL
    ``cgroup_path``
        absolute path, or fd, of the cgroup2 directory to start in
    ``init``
        a small reaper as pid 1 of the created pid namespace, beside the program
    ``target``
        the process or namespace given to :meth:`join`
    ``extra``
        what a loaded file has beside the fields above, by the names of the file: ``extra["process"]["args"]``
    ``allow``
        the JSON paths among :attr:`unapplied` without which the program may run; a path covers all that is in it
    """

    namespaces: Namespaces = field(factory=Namespaces, converter=_namespaces)
    uid_mappings: list[IDMap] | None = field(default=None, converter=_uid_maps, kw_only=True)
    gid_mappings: list[IDMap] | None = field(default=None, converter=_gid_maps, kw_only=True)
    maps: str | None = field(default=None, validator=_MAPS, kw_only=True)
    setgroups: str | None = field(default=None, validator=_fields.one_of(None, "deny", "allow"), kw_only=True)
    hostname: str | None = _fields.optional(_fields.name)
    domainname: str | None = _fields.optional(_fields.name)
    time_offsets: dict[str, tuple[int, int]] = field(factory=dict, converter=_fields.time_offsets, kw_only=True)
    mounts: list[Any] | None = _fields.optional(validators.instance_of(list))
    root: str | os.PathLike[str] | None = _fields.optional(_fields.absolute)
    propagation: str | None = field(default=None, validator=_fields.one_of(None, *_fields.PROPAGATIONS), kw_only=True)
    sysctl: dict[str, str] = field(factory=dict, validator=_fields.texts, kw_only=True)
    loopback: bool = _fields.flag()
    uid: int | None = _fields.optional(_fields.integer(0, NO_ID - 1))
    gid: int | None = _fields.optional(_fields.integer(0, NO_ID - 1))
    groups: Sequence[int] | None = _fields.optional(_fields.ids)
    capabilities: dict[str, frozenset[str]] | None = field(default=None, converter=_fields.capabilities, kw_only=True)
    rlimits: dict[str, tuple[int, int]] = field(factory=dict, converter=_fields.rlimits, kw_only=True)
    no_new_privs: bool = _fields.flag()
    oom_score_adj: int | None = _fields.optional(_fields.integer(-1000, 1000))
    parent_death_signal: int | None = _fields.optional(_fields.integer(1, 64))
    cgroup_path: str | os.PathLike[str] | int | None = _fields.optional(_fields.cgroup)
    init: bool = _fields.flag()
    target: Any = field(default=None, kw_only=True)
    extra: dict[str, Any] = field(factory=dict, validator=validators.instance_of(dict), kw_only=True)
    allow: Sequence[str] = field(default=(), converter=_fields.json_paths, kw_only=True)
    #: How the fields stood in the file that nsapi.oci has loaded: its schema, and their members.
    _written: tuple[str, dict[str, Any]] | None = field(default=None, init=False, eq=False, repr=False)
    _memo: Memo = field(factory=Memo, init=False, eq=False, repr=False)

    @classmethod
    def new(cls, *types: NamespaceType | str, **fields: Any) -> Self:
        """Make a Config: words create, ``net="blue"`` (a type's name as keyword) joins, other keywords are fields.

        A join takes the name of a net namespace, a path, a pid, a process or a handle, which is kept and never closed;
        nothing is opened until a verb runs. Created and joined both is a ValueError, an unknown keyword a TypeError.
        """
        namespaces = Namespaces(fields.pop("namespaces", ()))
        if isinstance(fields.get("maps"), IDMaps):
            maps = fields.pop("maps")
            for name in ("uid", "gid"):
                if fields.setdefault(f"{name}_mappings", getattr(maps, name)) is not getattr(maps, name):
                    raise ValueError(f"maps, {name}_mappings: one or the other")
        for each in types:
            if namespaces.contains(each):
                raise ValueError(f"namespaces: {NamespaceType.parse(each).proc_name} is given twice")
            namespaces.add(each)
        for each in NamespaceType:
            if each.proc_name in fields:
                joined = joined_namespace(each, fields.pop(each.proc_name))
                if namespaces.contains(each):
                    raise ValueError(f"{each.proc_name}: created and joined both")
                namespaces._put(joined)
        return cls(namespaces, **fields)

    @classmethod
    def join(cls, target: Any, *types: NamespaceType | str, **fields: Any) -> Self:
        """Make a Config that joins *types* of *target*; of a process all that differ from the caller's, if none is named.

        *target* takes every form of :func:`nsapi.open`; nothing is opened until a verb runs. Raises TypeError for None, and
        ValueError for a type that is created or joined twice.
        """
        if target is None:
            raise TypeError("target: None is no process and no namespace")
        config = cls.new(**fields)
        if isinstance(target, str) and "/" not in target and not types:
            types = (NamespaceType.NET,)
        elif not types and isinstance(own := getattr(target, "type", None), NamespaceType):
            types = (own,)
        for each in types:
            joined = joined_namespace(NamespaceType.parse(each), target)
            if config.namespaces.contains(joined.type):
                raise ValueError(f"{joined.type.proc_name}: created or joined twice")
            config.namespaces._put(joined)
        config.target = target
        return config

    @property
    def unapplied(self) -> list[str]:
        """The JSON paths in ``extra`` of what asks for something that nsapi does not perform, as ``"linux.seccomp"``.

        An unknown member counts. Running the Config raises Unsupported, unless ``allow`` has each of them.
        """
        return list(_members.unapplied(self.extra, self._written[0] if self._written else None))

    @overload
    def validate(self, *, all: Literal[False] = False) -> None: ...

    @overload
    def validate(self, *, all: Literal[True]) -> list[str]: ...

    def validate(self, *, all: bool = False) -> list[str] | None:
        """Check the fields against each other, without touching the system; the first problem is a ValueError.

        The rules are libcontainer's, the OCI runtime-spec's and the kernel's. With *all*, the list of all problems is the
        answer, empty if there are none, and nothing is raised for them.
        """
        found: list[str] = []
        if self._memo.snapshot != self._snapshot():
            for problem in self._problems():
                if not all:
                    raise problem
                found.append(str(problem))
            if not found:
                self._memo = Memo(self._snapshot())
        return found if all else None

    def _problems(self) -> Iterator[Exception]:
        # Assignment has checked each value; only what is inside of lists and dicts can have changed since.
        wrong = []
        for name in _CONTAINERS:
            value = getattr(self, name)
            if value:
                try:
                    setattr(self, name, value)
                except (TypeError, ValueError) as error:
                    wrong.append(name)
                    yield error
                    continue
                _refill(value, getattr(self, name))
                object.__setattr__(self, name, value)  # the same object: who holds it goes on changing this Config
        yield from map(ValueError, _rules.problems(self, besides=wrong))

    def host_uid(self, id: int) -> int:
        """Tell which uid outside is *id* inside, by the first entry of ``uid_mappings`` that has it.

        As libcontainer's ``HostUID``: without a user namespace it is *id* itself. Raises LookupError for an id that is not
        mapped, and where these lists are not given: a verb finds out then who is root inside, or what ``maps`` means.
        """
        return _rules.host_id(self, "uid", id)

    def host_gid(self, id: int) -> int:
        """Tell which gid outside is *id* inside, by ``gid_mappings``; all else as :meth:`host_uid`."""
        return _rules.host_id(self, "gid", id)

    def _snapshot(self) -> tuple[object, ...]:
        """Copy all values, those inside of containers too, so that it tells each change, also of 1 to True or 1.0."""
        frozen = [each if each is None else tuple(each) for each in _of_frozen(self)]
        loose = [repr(each) if each else each is None for each in _of_anything(self)]
        return _plain(self), frozen, loose


_OF_FROZEN = ("namespaces", "uid_mappings", "gid_mappings")
_OF_ANYTHING = ("mounts", "groups", "time_offsets", "sysctl", "capabilities", "rlimits", "extra")
_of_frozen, _of_anything = attrgetter(*_OF_FROZEN), attrgetter(*_OF_ANYTHING)
_plain = attrgetter(
    *(each.name for each in fields(Config) if each.name not in (*_OF_FROZEN, *_OF_ANYTHING, "_memo", "_written"))
)


def check_config(config: object) -> None:
    """Refuse what is none, by name, where a verb takes one."""
    if not isinstance(config, Config):
        raise TypeError(f"config: {config!r} is no Config")


def _refill(container: Any, checked: Any) -> None:
    """Put what a converter has made of the content into the container itself."""
    if isinstance(container, dict):
        container.update(checked)
    elif isinstance(container, list):
        container[:] = checked


_CONTAINERS = tuple("uid_mappings gid_mappings time_offsets mounts sysctl groups capabilities rlimits extra".split())
