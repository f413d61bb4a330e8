# SPDX-License-Identifier: MIT
"""socket, socketpair: made in the net namespace of a target, used here."""

from __future__ import annotations

import os
import socket as _module
from socket import AF_INET, SOCK_STREAM

from nsapi import _elsewhere, _native
from nsapi._errors import NamespaceError, NamespaceRestoreError
from nsapi._handle import NamespaceHandle
from nsapi._target import path_of, resolve
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def socket(target: Any, family: int = AF_INET, type: int = SOCK_STREAM, proto: int = 0) -> _module.socket:
    """Make a socket in the net namespace of *target*, and use it here: a plain ``socket.socket``, close-on-exec.

    A socket belongs to the namespace that it was made in for as long as it is open, and keeps it alive. *target* takes
    every form of :func:`open`; of a process it is the net namespace. *family*, *type* and *proto* are those of
    ``socket.socket``, -1 too; so is the timeout, by ``socket.setdefaulttimeout``.

    Nothing else is changed. The calling thread goes there and back within one call of the C core, and none of Python runs
    meanwhile: it may be any of many threads, in an :func:`enter` block, or run an event loop. Nothing is forked and no
    thread started.

    Raises NamespaceError with the step that failed, socket(2) or one on the way: the thread is where it was, and no fd is
    left; :class:`NamespaceRestoreError` if it cannot go back, as :func:`enter` does. TypeError and ValueError name an
    argument that cannot be one. Needs CAP_SYS_ADMIN here and in the user namespace that owns the target, and for raw and
    packet sockets CAP_NET_RAW in the latter.
    """
    _native.require()
    return _make(_elsewhere.call("socket", family, type, proto), target)[0]


def socketpair(
    target: Any, family: int | None = None, type: int = SOCK_STREAM, proto: int = 0
) -> tuple[_module.socket, _module.socket]:
    """Make two connected sockets in the net namespace of *target*: socketpair(2), all else being as :func:`socket` says.

    *family* None is AF_UNIX. Who has one of them can ask for its namespace (:func:`open` takes sockets).

    Raises NamespaceError: ``EOPNOTSUPP`` for a family without pairs.
    """
    _native.require()
    family = _module.AF_UNIX if family is None else family
    one, other = _make(_elsewhere.call("socketpair", family, type, proto), target)
    return one, other


def _make(call: _elsewhere.Call, target: Any) -> list[_module.socket]:
    if isinstance(target, NamespaceHandle):
        return target._have_made(_elsewhere.make, call)
    if isinstance(target, (str, bytes, os.PathLike)):
        path, words = path_of(target)
        try:
            return _elsewhere.make(call, os.fsencode(path), words)
        except NamespaceRestoreError:
            raise
        except NamespaceError:
            pass  # below is the way of all other targets: it says what is wrong with this one
    with resolve(target) as found:
        handle = found.open(NamespaceType.NET)
    try:
        return handle._have_made(_elsewhere.make, call)
    finally:
        handle.close()
