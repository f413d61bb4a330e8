# SPDX-License-Identifier: MIT
"""create: a namespace that no process has to stay in."""

from __future__ import annotations

import os
from typing import Any

from nsapi import _native
from nsapi._config import Config
from nsapi._errors import unsupported
from nsapi._handle import NamespaceHandle
from nsapi._process import Popen
from nsapi._target import open as open_namespace
from nsapi._types import NamespaceType


def create(type: NamespaceType | str, *, name: str | None = None, path: Any = None, **fields: Any) -> NamespaceHandle:
    """Make a new user namespace, with its maps, and give a handle on it; no process is left in it.

    For idmapped mounts, and to be joined or to own others later: it lives as long as the handle. *fields* are those of
    ``Config.new`` that a user namespace takes: ``maps="auto"``, ``uid_mappings``, ``gid_mappings``, ``setgroups``. A short
    process is made and ended on the way; the caller's place is not changed.

    Raises ValueError for fields that do not fit, NamespaceError with the step that failed, and :class:`Unsupported` for
    another type, *name* and *path*, which are not there yet.
    """
    _native.require()
    type = NamespaceType.parse(type)
    if type is not NamespaceType.USER or name is not None or path is not None:
        raise unsupported("create makes user namespaces without a name in this version")
    for each in fields:
        if each not in ("maps", "uid_mappings", "gid_mappings", "setgroups"):
            raise TypeError(f"{each}: is no field of a user namespace; maps, uid_mappings, gid_mappings, setgroups are")
    return hold(Config.new(type, **fields), type)


def hold(config: Config, type: NamespaceType | str) -> NamespaceHandle:
    """Make what *config* says and give a handle on its namespace of *type*; no process is left in it."""
    from nsapi import _launcher

    launcher, owned = _launcher.executable(joins=False)
    ends: list[int] = []
    try:
        # It waits to be killed, or for the end of its standard input if we are, or if Ctrl-C comes before Popen is in our
        # hands: hence no PIPE, which would be lost with it. It needs nothing inside: neither files nor a mapped id.
        ends += os.pipe()
        command, itself = ["nsapi-hold"], f"/proc/self/fd/{launcher}"
        with Popen(command, executable=itself, config=config, stdin=ends[0], pass_fds=(launcher,)) as process:
            try:
                return open_namespace(process, type)
            finally:
                os.close(ends.pop())
                process.kill()  # somebody who has been forked meanwhile may keep its standard input open
    finally:
        for fd in (*ends, launcher) if owned else ends:
            os.close(fd)
