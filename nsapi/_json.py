# SPDX-License-Identifier: MIT
"""JSON in, checked values out: each fault begins with the line and column, or with the JSON path, where it is."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nsapi._fields import check_int
from nsapi._members import join

#: Deeper than any file that is meant; each level costs a reader some of its stack.
_MAX_DEPTH = 64


class _Repeating(dict[str, Any]):
    """An object in whose text a member comes twice."""

    repeated: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    names = [name for name, _ in pairs]
    marked = _Repeating(made)
    marked.repeated = next(name for name in names if names.count(name) > 1)
    return marked


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _parse(text: str | bytes, name: str) -> Any:
    try:
        if isinstance(text, bytes):
            text = text.decode()
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}: line {error.lineno}, column {error.colno}: no JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        assert isinstance(text, bytes)
        line, column = text.count(b"\n", 0, error.start) + 1, error.start - text.rfind(b"\n", 0, error.start)
        raise ValueError(f"{name}: line {line}, column {column}: no UTF-8: {error.reason}") from None
    except RecursionError:
        raise ValueError(f"{name}: nested more than {_MAX_DEPTH} deep") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def read(source: Any) -> tuple[dict[str, Any], str]:
    """Read *source*, a path, an open file or a dict, as a dict that nobody shares; tell its name for messages."""
    name = "config"
    if isinstance(source, (str, bytes, os.PathLike)):
        name = os.fsdecode(source)
        with open(source, "rb") as file:
            source = _parse(file.read(), name)
    elif hasattr(source, "read"):
        name = str(getattr(source, "name", "file"))
        source = _parse(source.read(), name)
    elif not isinstance(source, Mapping):
        raise TypeError(f"{source!r} is no path, no file and no dict")
    if not isinstance(source, Mapping):
        raise TypeError(f"{name}: {shown(source)} is not an object")
    return copied(source), name


def copied(value: Any, path: str = "", depth: int = 0) -> Any:
    """Copy what JSON can hold, and refuse the rest."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"{path.split('.')[0].split('[')[0]}: nested more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        if isinstance(value, _Repeating):
            raise ValueError(f"{join(path, value.repeated)}: the member is given twice")
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{path or 'config'}: {name!r} is no name of a member, which is a str")
        return {name: copied(each, join(path, name), depth + 1) for name, each in value.items()}
    if isinstance(value, list):
        return [copied(each, join(path, at), depth + 1) for at, each in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path}: {value} is no number of JSON")
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{path}: {value!r} is no value of JSON")


def shown(value: Any) -> str:
    """Write a value for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "object": ("an object", lambda value: isinstance(value, dict)),
    "array": ("an array", lambda value: isinstance(value, list)),
    "strings": ("an array of strings", lambda value: isinstance(value, list)),
    "string": ("a string", lambda value: isinstance(value, str)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
}


def checked(kind: str, value: Any, path: str) -> Any:
    """Refuse a value of another kind, one of _KINDS."""
    words, fits = _KINDS[kind]
    if not fits(value):
        raise TypeError(f"{path}: {shown(value)} is not {words}")
    if kind == "strings":
        for at, each in enumerate(value):
            checked("string", each, join(path, at))
    return value


def required(kind: str, owner: dict[str, Any], path: str, name: str) -> Any:
    """Get a member that must be there; null is not."""
    if owner.get(name) is None:
        raise ValueError(f"{join(path, name)}: is missing, and required")
    return checked(kind, owner[name], join(path, name))


def choice(value: Any, path: str, words: Iterable[str]) -> str:
    """Refuse what is not one of these words."""
    words = tuple(words)
    if checked("string", value, path) not in words:
        raise ValueError(f"{path}: {shown(value)} is not one of {', '.join(words)}")
    return str(value)


def whole(value: Any, path: str, high: int, low: int = 0) -> int:
    """Refuse what is no whole number from *low* to *high*."""
    check_int("", path, checked("integer", value, path), low, high)
    return int(value)


def objects(value: list[Any], path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Go through an array of objects, each with its path."""
    for at, each in enumerate(value):
        yield checked("object", each, join(path, at)), join(path, at)
