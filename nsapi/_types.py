# SPDX-License-Identifier: MIT
"""NamespaceType: the only table of the eight types; everything else about them is derived from it."""

from __future__ import annotations

import os
from _thread import allocate_lock
from enum import Enum

from nsapi import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class NamespaceType(Enum):
    """One of the eight kinds of namespaces(7). Iteration has USER first, as libcontainer's ``NamespaceTypes()``.

    The value is libcontainer's name (``"NEWNS"`` for ``MNT``); ``proc_name`` is its name below ``/proc/PID/ns``,
    ``oci_name`` that of the OCI runtime-spec.
    """

    # value, name below /proc/PID/ns, OCI name
    USER = "NEWUSER", "user", "user"
    IPC = "NEWIPC", "ipc", "ipc"
    UTS = "NEWUTS", "uts", "uts"
    NET = "NEWNET", "net", "network"
    PID = "NEWPID", "pid", "pid"
    MNT = "NEWNS", "mnt", "mount"
    CGROUP = "NEWCGROUP", "cgroup", "cgroup"
    TIME = "NEWTIME", "time", "time"

    proc_name: str
    oci_name: str
    _flag: int | None

    # Members are compared by identity, so this is right; Enum's own goes through the name, ten times slower.
    __hash__ = object.__hash__

    def __new__(cls, value: str, proc_name: str, oci_name: str) -> NamespaceType:
        """Take the first column as the value."""
        member = object.__new__(cls)
        member._value_ = value
        member.proc_name = proc_name
        member.oci_name = oci_name
        member._flag = None
        return member

    @property
    def flag(self) -> int:
        """Its ``CLONE_NEW*`` constant, as the compiler knows it. Raises Unsupported on another system than Linux."""
        if self._flag is None:
            self._flag = _native.constant(f"CLONE_{self.value}")
        return self._flag

    @classmethod
    def parse(cls, word: NamespaceType | str) -> NamespaceType:
        """Read a type in any spelling of the field: ``"net"``, ``"network"``, ``"NEWNET"``, ``"CLONE_NEWNET"``, a member.

        Raises ValueError for another word and TypeError for another kind of object; both list the words.
        """
        if isinstance(word, cls):
            return word
        if not isinstance(word, str):
            raise TypeError(f"type: {word!r} is no namespace type; it is a NamespaceType or one of {_words()}")
        try:
            return _BY_WORD[word]
        except KeyError:
            raise ValueError(f"type: {word!r} is no namespace type; it is one of {_words()}") from None


_BY_WORD: dict[str, NamespaceType] = {
    word: each for each in NamespaceType for word in (each.proc_name, each.oci_name, each.value, f"CLONE_{each.value}")
}


def _words() -> str:
    alias = [f"{each.proc_name} ({each.oci_name})" for each in NamespaceType if each.oci_name != each.proc_name]
    plain = [each.proc_name for each in NamespaceType if each.oci_name == each.proc_name]
    return f"{', '.join(plain + alias)}, or as NEWNET, CLONE_NEWNET"


def parse_types(words: Iterable[NamespaceType | str]) -> tuple[NamespaceType, ...]:
    """Read several types; a duplicate is a ValueError."""
    types = tuple(map(NamespaceType.parse, words))
    if len(set(types)) != len(types):
        raise ValueError(f"types: one is given twice: {', '.join(each.proc_name for each in types)}")
    return types


def flags_of(types: Iterable[NamespaceType]) -> int:
    """OR the CLONE_NEW* constants of *types*."""
    flags = 0
    for each in types:
        flags |= each.flag
    return flags


def types_in(flags: int) -> tuple[NamespaceType, ...]:
    """Name the types in a mask of CLONE_NEW* constants; what else is in it is a ValueError."""
    types = tuple(each for each in NamespaceType if flags & each.flag)
    if flags != flags_of(types):
        raise ValueError(f"types: {flags:#x} is no sum of CLONE_NEW* constants")
    return types


def names_of(types: Iterable[NamespaceType]) -> str:
    """Name *types* for a message: ``"user,pid,mnt"``."""
    return ",".join(each.proc_name for each in types)


def namespace_types() -> list[NamespaceType]:
    """List all eight types, USER first, as libcontainer's ``NamespaceTypes()``."""
    return list(NamespaceType)


def ns_name(type: object) -> str:
    """Name *type* as below ``/proc/PID/ns``; ``""`` for what is no type, as libcontainer's ``NsName``."""
    try:
        return NamespaceType.parse(type).proc_name  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""


_supported: dict[NamespaceType, bool] = {}
_supported_lock = allocate_lock()


def is_namespace_supported(type: object) -> bool:
    """Tell whether this kernel has namespaces of *type*; False for what is no type, as ``IsNamespaceSupported``.

    Looks for ``/proc/self/ns/NAME`` once per process and type.
    """
    try:
        parsed = NamespaceType.parse(type)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    with _supported_lock:
        if parsed not in _supported:
            _supported[parsed] = os.path.exists(f"/proc/self/ns/{parsed.proc_name}")
        return _supported[parsed]
