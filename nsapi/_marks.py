# SPDX-License-Identifier: MIT
"""What the markers of the pytest plugin say, and whether such namespaces can be made here."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import pytest

from nsapi._config import Config
from nsapi._errors import NamespaceError
from nsapi._process import run
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

#: In the pytest that runs one marked test inside: nothing is started there, nor tried out.
INSIDE = pytest.StashKey[bool]()
_TRIED = pytest.StashKey["dict[str, str | None]"]()


def config_of(item: pytest.Item, marker: str) -> Config:
    """Put together what all marks of that name say, those of the class and module too; of a field, the nearest."""
    types: list[NamespaceType] = []
    fields: dict[str, Any] = {}
    with failing(f"pytest.mark.{marker}", TypeError, ValueError):
        for mark in item.iter_markers(marker):
            types += [each for each in map(NamespaceType.parse, mark.args) if each not in types]
            fields = {**mark.kwargs, **fields}
        if not types and not fields:
            raise TypeError("name at least one namespace type")
        config = new_config(types, fields)
        config.validate()
    return config


@contextmanager
def failing(words: str, *classes: type[Exception], remedy: str = "") -> Iterator[None]:
    """Let errors of these classes fail the test by their text, which says it all, and a remedy."""
    try:
        yield
    except classes as error:
        raise pytest.fail.Exception(f"{words}: {error}{remedy}", pytrace=False) from None


def new_config(types: Sequence[NamespaceType | str], fields: dict[str, Any]) -> Config:
    """Make a Config; a created pid namespace gets its reaper, and so ends with the program, whatever else it has started."""
    init = NamespaceType.PID in map(NamespaceType.parse, types)
    return Config.new(*types, **{"init": init, **fields})


def skip_without(item: pytest.Item) -> None:
    """Skip *item* where what its marks require cannot be made."""
    if INSIDE in item.config.stash:  # it has been tried where the namespaces are made
        return
    config = config_of(item, "requires_namespace")
    tried = item.config.stash.setdefault(_TRIED, {})
    key = repr(config)
    if key not in tried:
        tried[key] = _why_not(config)
    reason = tried[key]
    if reason is not None:
        words = ",".join(each.type.proc_name for each in config.namespaces)
        raise pytest.skip.Exception(f"needs namespaces ({words}): {reason}", _use_item_location=True)


def _why_not(config: Config) -> str | None:
    """Try it: what the marker ``namespace`` would start is started, and does nothing."""
    command = [sys.executable, "-I", "-S", "-c", ""]
    try:
        done = run(command, config=config, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except NamespaceError as error:
        return str(error)
    return f"Python ends there with status {done.returncode}: {done.stderr.strip()}" if done.returncode else None
