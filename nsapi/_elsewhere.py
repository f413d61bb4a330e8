# SPDX-License-Identifier: MIT
"""Sockets made in another net namespace: the system calls by the C core, the objects by the socket module."""

from __future__ import annotations

from operator import index
from socket import AF_INET, SOCK_STREAM, AddressFamily, SocketKind, socket

from nsapi import _switch
from nsapi._native import State, Step
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import IntEnum
    from typing import Any

#: The arguments of socket(2), and what ``socket.socket`` takes -1 for.
_DEFAULTS = {"family": int(AF_INET), "type": int(SOCK_STREAM), "proto": 0}
_INT, _UINT64 = range(-(2**31), 2**31), 2**64 - 1
_new = socket.__new__


class Call:
    """A call of socket(2) or socketpair(2), its arguments checked, and the errand that makes it in any namespace."""

    __slots__ = ("arguments", "errand")

    def __init__(self, op: str, family: int, type: int, proto: int) -> None:
        self.arguments = family, type, proto
        words = f"{op} {_name(AddressFamily, family)}, {_name(SocketKind, type)}, {proto}"
        value, flags, length = (each & _UINT64 for each in self.arguments)
        step = Step(op, words, slot=1, value=value, flags=flags, length=length, types=(NamespaceType.NET,))
        self.errand = _switch.Errand(NamespaceType.NET, [step], (1,) if op == "socket" else (1, 2))


def _name(kind: type[IntEnum], number: int) -> str:
    try:
        return kind(number).name
    except ValueError:
        return str(number)


#: Those that have been made, so that no steps are made again; a limit, since there are many numbers.
_calls: dict[tuple[str, int, int, int], Call] = {}
_MAX_CALLS = 64


def call(op: str, family: Any, type: Any, proto: Any) -> Call:
    """Find the call with these arguments, or make it; TypeError and ValueError name the one that is none."""
    try:
        return _calls[op, index(family), index(type), index(proto)]
    except (KeyError, TypeError):
        numbers = []
        for name, given in zip(_DEFAULTS, (family, type, proto), strict=True):
            try:
                numbers.append(index(given))
            except TypeError:
                raise TypeError(f"{name}: {given!r} is no int") from None
            if numbers[-1] not in _INT:
                raise ValueError(f"{name}: {given!r} is no int of C") from None
        key = (op, *numbers)
        if op == "socket":
            numbers = [
                default if each == -1 else each for each, default in zip(numbers, _DEFAULTS.values(), strict=True)
            ]
        made = Call(op, *numbers)
        if len(_calls) < _MAX_CALLS:
            _calls[key] = made  # type: ignore[index]
        return made


def make(call: Call, where: int | bytes, words: str) -> list[socket]:
    """Make the socket, or the two, in the net namespace of an fd, which is lent, or at a path; *words* name it in errors."""
    spare = _switch.thread.me.spare
    state = spare.pop() if spare else State()
    made: list[socket] = []
    fds = state.raw.fd
    try:
        _switch.run(call.errand, where, words, state)
        for slot in call.errand.slots:
            one = _new(socket)
            made.append(one)
            one.__init__(*call.arguments, fds[slot])  # type: ignore[misc]
            fds[slot] = -1
    except BaseException:
        # KeyboardInterrupt may have come after any call: an fd is the state's until a socket has it.
        for each, slot in zip(made, call.errand.slots):  # noqa: B905  # the second may not be there yet
            if each.fileno() >= 0:
                state.take_fd(slot)
                super(socket, each).close()  # it may be half made: its own close() could fail
        state.close()
        raise
    spare.append(state)
    return made
