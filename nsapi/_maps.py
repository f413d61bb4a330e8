# SPDX-License-Identifier: MIT
"""IDMap, and lists of them: what is mapped to what, read, written, translated, composed, subtracted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from attrs import field, frozen

from nsapi import _fields
from nsapi._fields import NO_ID

#: user_namespaces(7): lines in a map, and bytes in one write.
MAX_EXTENTS, MAX_MAP_BYTES = 340, 4095
#: The words for maps that have to be looked up: see id_maps.
MAP_KINDS = ("root", "current", "subids", "auto", "identity")


@frozen
class IDMap:
    """One run of ids: *size* ids from *container_id* on inside are those from *host_id* on outside; user_namespaces(7).

    All are 32-bit, and 4294967295 is no id; size is at least 1. Else ValueError, or TypeError for what is no int.
    """

    container_id: int = field(validator=_fields.integer(0, NO_ID - 1))
    host_id: int = field(validator=_fields.integer(0, NO_ID - 1))
    size: int = field(validator=_fields.integer(1, NO_ID))

    def __attrs_post_init__(self) -> None:
        for name in ("container_id", "host_id"):
            if getattr(self, name) + self.size > NO_ID:
                raise ValueError(f"size: {self.size} ids from {name} {getattr(self, name)} go past {NO_ID - 1}")

    def to_host(self, id: int, *, strict: bool = False) -> int | None:
        """Translate an id inside to the one outside; if it is not in this run None, or with *strict* a LookupError."""
        return IDMap.host_of([self], id, strict=strict)

    def to_container(self, id: int, *, strict: bool = False) -> int | None:
        """Translate an id outside to the one inside; if it is not in this run None, or with *strict* a LookupError."""
        return IDMap.container_of([self], id, strict=strict)

    @staticmethod
    def host_of(maps: Iterable[IDMap], id: int, *, strict: bool = False) -> int | None:
        """Translate an id inside by a whole map; what is not in it is None, or with *strict* a LookupError."""
        runs = ((each.container_id, each.host_id, each.size) for each in _listed("maps", maps))
        return _translate(runs, id, strict, "inside")

    @staticmethod
    def container_of(maps: Iterable[IDMap], id: int, *, strict: bool = False) -> int | None:
        """Translate an id outside by a whole map; what is not in it is None, or with *strict* a LookupError."""
        runs = ((each.host_id, each.container_id, each.size) for each in _listed("maps", maps))
        return _translate(runs, id, strict, "outside")

    @classmethod
    def parse(cls, text: str) -> list[IDMap]:
        """Read ``"0:1000:1,1:100000:65536"``, or the lines of ``/proc/PID/uid_map``.

        Raises ValueError for what is not three whole numbers an entry, TypeError for what is no str.
        """
        if not isinstance(text, str):
            raise TypeError(f"id map: {text!r} is no str")
        entries = [entry.strip() for line in text.splitlines() for entry in line.split(",") if entry.strip()]
        maps = []
        for entry in entries:
            numbers = [each.strip() for each in entry.split(":")] if ":" in entry else entry.split()
            if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
                raise ValueError(f"id map: {entry!r} is not CONTAINER:HOST:SIZE, three whole numbers")
            try:
                maps.append(cls(*map(int, numbers)))
            except ValueError as error:
                raise ValueError(f"id map: {entry!r}: {error}") from None
        return maps

    @staticmethod
    def format(maps: Iterable[IDMap]) -> str:
        """Write *maps* as :meth:`parse` reads them: ``"0:1000:1,1:100000:65536"``."""
        return ",".join(f"{each.container_id}:{each.host_id}:{each.size}" for each in _listed("maps", maps))

    @staticmethod
    def compose(inner: Iterable[IDMap], outer: Iterable[IDMap]) -> list[IDMap]:
        """Tell what ids of a nested user namespace are outside of the one around it.

        *inner* is the map of the nested one, as seen in the one around it; *outer* is that one's own. What is not mapped
        all the way is not in the result, whose runs are in the order of *inner*, then by their ids inside.
        """
        found = []
        outer = sorted(_listed("outer", outer), key=lambda each: each.container_id)
        for near in _listed("inner", inner):
            for far in outer:
                first = max(near.host_id, far.container_id)
                size = min(near.host_id + near.size, far.container_id + far.size) - first
                if size > 0:
                    inside, outside = near.to_container(first), far.to_host(first)
                    assert inside is not None
                    assert outside is not None
                    found.append(IDMap(inside, outside, size))
        return found

    @staticmethod
    def subtract(
        maps: Iterable[IDMap], *, container_id: int | None = None, host_id: int | None = None, size: int = 1
    ) -> list[IDMap]:
        """Take *size* ids out of *maps*: those from *container_id* on inside, or those from *host_id* on outside, or both.

        Exactly these are gone, and every other id is mapped as before: what merely touches them loses nothing.
        """
        maps = _listed("maps", maps)
        for name, first in (("container_id", container_id), ("host_id", host_id)):
            if first is not None:
                _fields.check_int("", name, first, 0, NO_ID - 1)
                _fields.check_int("", "size", size, 1, NO_ID)
                if first + size > NO_ID:
                    raise ValueError(f"size: {size} ids from {name} {first} go past {NO_ID - 1}")
                maps = [part for each in maps for part in _without(each, getattr(each, name), first, size)]
        return maps


def _listed(name: str, maps: Iterable[IDMap]) -> list[IDMap]:
    """Take what a field of a Config takes, but for None."""
    found = id_maps_of(name, maps)
    if found is None:
        raise TypeError(f"{name}: None is no list of IDMap, nor text as '0:1000:1'")
    return found


def _without(run: IDMap, start: int, first: int, size: int) -> Iterator[IDMap]:
    """Give what is left of *run*, whose ids begin with *start* on one of its sides, without *size* of these from *first*."""
    before = min(max(first - start, 0), run.size)
    after = min(max(first + size - start, 0), run.size)
    for begin, end in ((0, before), (after, run.size)):
        if end > begin:
            yield IDMap(run.container_id + begin, run.host_id + begin, end - begin)


def _translate(runs: Iterable[tuple[int, int, int]], id: int, strict: bool, where: str) -> int | None:
    _fields.check_type("id", id)
    for start, target, size in runs:
        if 0 <= id - start < size:
            return target + id - start
    if strict:
        raise LookupError(f"id: {id} {where} is not mapped")
    return None


class IDMaps(NamedTuple):
    """The maps of uids and of gids of one user namespace; *reason* tells why they are not as wide as was asked for."""

    uid: list[IDMap]
    gid: list[IDMap]
    reason: str | None = None


def map_text(maps: Iterable[IDMap]) -> bytes:
    """Write *maps* as the kernel reads them in one write(2)."""
    return "".join(f"{each.container_id} {each.host_id} {each.size}\n" for each in maps).encode()


def id_maps_of(name: str, value: Any) -> list[IDMap] | None:
    """Convert what the field *name* of a Config was given to a list; None stays None."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return IDMap.parse(value)
        if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable):
            raise TypeError(f"{value!r} is no list of IDMap, nor text as '0:1000:1'")
        return [each if isinstance(each, IDMap) else _id_map(each) for each in value]
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None  # IDMap cannot know of which field it is


def _id_map(value: Any) -> IDMap:
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        raise TypeError(f"{value!r} is no IDMap")
    return IDMap(*value)


def problems(name: str, maps: Sequence[IDMap]) -> Iterator[str]:
    """Say what the kernel would refuse in a list whose entries are good each by itself."""
    if len(maps) > MAX_EXTENTS:
        yield f"{name}: {len(maps)} entries, and the kernel takes {MAX_EXTENTS}: {maps[MAX_EXTENTS]} is one too many"
    ends = list(accumulate(len(map_text([each])) for each in maps))
    if maps and ends[-1] > MAX_MAP_BYTES:
        last = next(each for each, end in zip(maps, ends, strict=True) if end > MAX_MAP_BYTES)
        yield f"{name}: {ends[-1]} bytes of text, and the kernel takes {MAX_MAP_BYTES}: {last} is past them"
    for side in ("container_id", "host_id"):
        ordered = sorted(maps, key=lambda each: getattr(each, side))
        for low, high in pairwise(ordered):
            if getattr(low, side) + low.size > getattr(high, side):
                yield f"{name}: {low} and {high} overlap in {side}"
