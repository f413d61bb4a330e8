# SPDX-License-Identifier: MIT
"""What goes between two interpreters: framed messages on a socketpair, pickled, with open files beside them.

Both ends use it. It loads no module that an interpreter has not, but for the C halves of socket and pickle: what it costs
is paid at the start of every worker.
"""

from __future__ import annotations

import _socket
import copyreg
import os
import sys
from _pickle import Pickler, Unpickler
from errno import EMFILE
from io import BytesIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

#: What a message is: to a worker, and from it.
PREPARE, CALL, VALUE, RAISED, UNUSABLE, REFUSED = range(6)

_HEADER, _MAX_FDS, _FD = 16, 253, 4  # 253: SCM_MAX_FD, what the kernel takes in one message
_RIGHTS = getattr(_socket, "SOL_SOCKET", 0), getattr(_socket, "SCM_RIGHTS", 0)
_NO_SIGNAL, _CLOSE_ON_EXEC, _TRUNCATED = (
    getattr(_socket, name, 0) for name in ("MSG_NOSIGNAL", "MSG_CMSG_CLOEXEC", "MSG_CTRUNC")
)


class Channel:
    """One end of a socketpair; the two speak in turns. The socket is lent."""

    flags = 0  # of each call

    def __init__(self, end: Any) -> None:
        self._end = end
        self.whole = True  # else a message has been left in its middle, and what comes next makes no sense

    def wait(self, *, to_send: bool) -> None:
        """Wait until something can be sent or received; a blocking socket does so by itself."""

    def send(self, kind: int, payload: Any, fds: Sequence[int] = ()) -> None:
        """Send a message with open files beside it, which stay the caller's too."""
        view = memoryview(payload)
        numbers = (kind, 4), (len(fds), 4), (len(view), 8)
        header = memoryview(b"".join(number.to_bytes(size, "little") for number, size in numbers))
        rights = [(*_RIGHTS, b"".join(fd.to_bytes(_FD, sys.byteorder) for fd in fds))] if fds else []
        while header or view:
            try:
                sent = self._end.sendmsg([header, view] if header else [view], rights, _NO_SIGNAL | self.flags)
            except BlockingIOError:
                self.wait(to_send=True)
                continue
            rights, self.whole = [], False
            header, view = header[sent:], view[max(0, sent - len(header)) :]
        self.whole = True

    def receive(self) -> tuple[int, bytearray, list[int]]:
        """Receive a message; the fds that came with it are the caller's to close. EOFError: the other end is gone."""
        fds: list[int] = []
        try:
            header, complete = bytearray(), True
            while len(header) < _HEADER:
                complete &= self._receive_header(header, fds)
            kind, count, size = (int.from_bytes(header[a:b], "little") for a, b in ((0, 4), (4, 8), (8, 16)))
            payload = bytearray(size)
            view = memoryview(payload)
            while view:
                view = view[self._receive_into(view) :]
            self.whole = True
            if not complete or len(fds) != count:
                raise OSError(EMFILE, os.strerror(EMFILE))
        except BaseException:
            close_all(fds)
            raise
        return kind, payload, fds

    def _receive_header(self, header: bytearray, fds: list[int]) -> bool:
        self.wait(to_send=False)
        room = _socket.CMSG_SPACE(_MAX_FDS * _FD)
        try:
            data, ancillary, flags, _ = self._end.recvmsg(_HEADER - len(header), room, _CLOSE_ON_EXEC | self.flags)
        except BlockingIOError:
            return True
        for level, kind, content in ancillary:
            if (level, kind) == _RIGHTS:
                whole = len(content) - len(content) % _FD
                fds += (int.from_bytes(content[at : at + _FD], sys.byteorder) for at in range(0, whole, _FD))
        if not data:
            raise EOFError
        self.whole = False
        header += data
        return not flags & _TRUNCATED

    def _receive_into(self, view: memoryview) -> int:
        try:
            got: int = self._end.recv_into(view, 0, self.flags)
        except BlockingIOError:
            self.wait(to_send=False)
            return 0
        if not got:
            raise EOFError
        return got


def close_all(fds: list[int]) -> None:
    """Close each once, whenever Ctrl-C comes: after a call, so there is none between the next two."""
    while fds:
        fd = fds[-1]
        del fds[-1]
        if fd >= 0:
            os.close(fd)


# ---- values ----

# Named in a pickle in place of what makes the object; the one that loads has the files, see _Load.


def make_socket(index: int, family: int, type: int, proto: int) -> Any:
    """Stand in a pickle for a socket."""
    raise TypeError("a socket that was sent between interpreters is loaded once, by the other")


def make_handle(index: int, words: str) -> Any:
    """Stand in a pickle for a NamespaceHandle."""
    raise TypeError("a handle that was sent between interpreters is loaded once, by the other")


def make_connection(index: int, *ways: bool) -> Any:
    """Stand in a pickle for one of multiprocessing's connections."""
    raise TypeError("a connection that was sent between interpreters is loaded once, by the other")


def _place(fds: list[int], holder: Any) -> int:
    fds.append(holder.fileno())
    return len(fds) - 1


_Reduced = tuple["Callable[..., Any]", tuple[object, ...]]


def _of_socket(fds: list[int], value: Any) -> _Reduced:
    if value.fileno() < 0:
        raise ValueError(f"{value!r} is closed")
    return make_socket, (_place(fds, value), int(value.family), int(value.type), value.proto)


def _of_handle(fds: list[int], value: Any) -> _Reduced:
    return make_handle, (_place(fds, value), value._words)


def _of_connection(fds: list[int], value: Any) -> _Reduced:
    return make_connection, (_place(fds, value), value.readable, value.writable)


#: Where there is no such module yet, or another thread is in the middle of importing it, there is no such object.
_WITH_FDS: tuple[tuple[str, str, Callable[[list[int], Any], _Reduced]], ...] = (
    ("socket", "socket", _of_socket),
    ("nsapi._handle", "NamespaceHandle", _of_handle),
    ("multiprocessing.connection", "Connection", _of_connection),
)


def dump(value: object) -> tuple[bytes, list[int]]:
    """Pickle *value*, and name the open files it holds, which are lent: *value* must live until they are sent."""
    fds: list[int] = []
    buffer = BytesIO()
    pickler = Pickler(buffer, 5)
    table: dict[type, Callable[[Any], Any]] = dict(copyreg.dispatch_table)
    for module, name, reduce in _WITH_FDS:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None:
            table[kind] = lambda each, reduce=reduce: reduce(fds, each)  # type: ignore[misc]
    pickler.dispatch_table = table
    pickler.dump(value)
    if len(fds) > _MAX_FDS:
        raise ValueError(f"{len(fds)} open files in one message, and the kernel takes {_MAX_FDS}")
    return buffer.getvalue(), fds


def _same(module: str) -> str:
    return module


class _Load(Unpickler):
    def __init__(self, payload: Any, fds: list[int], main: Callable[[str], str]) -> None:
        super().__init__(BytesIO(payload))
        self._fds, self._main = fds, main

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name in ("make_socket", "make_handle", "make_connection"):
            return getattr(self, name)
        if module in ("__main__", "__mp_main__"):
            module = self._main(name)
        return super().find_class(module, name)

    def _take(self, index: int) -> int:
        fd, self._fds[index] = self._fds[index], -1
        if fd < 0:
            raise ValueError("an open file that was sent is claimed twice")
        return fd

    def make_socket(self, index: int, family: int, type: int, proto: int) -> Any:
        from socket import socket

        return socket(family, type, proto, fileno=self._take(index))

    def make_handle(self, index: int, words: str) -> Any:
        from nsapi._handle import NamespaceHandle
        from nsapi._native import cell_of

        return NamespaceHandle(cell_of(self._take(index)), words)

    def make_connection(self, index: int, *ways: bool) -> Any:
        from multiprocessing.connection import Connection

        return Connection(self._take(index), *ways)


def load(payload: Any, fds: list[int], main: Callable[[str], str] = _same) -> Any:
    """Unpickle what :func:`dump` has made; closes the fds that nothing in it has claimed.

    *main* is asked in which module a name of the other's ``__main__`` is found here.
    """
    unpickler = _Load(payload, fds, main)
    try:
        return unpickler.load()
    finally:
        unpickler.memo.clear()  # it knows what has been made, and a method of itself: a circle, which nobody collects soon
        close_all(fds)
