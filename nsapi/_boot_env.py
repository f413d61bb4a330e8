# SPDX-License-Identifier: MIT
"""boot_env: an environment in which any spawner starts any dynamic program inside; start_initialization: its other end.

The parent half holds one end of a socket, which has the message already. The other end goes to the program, where the
preloaded object (``_boot.c``) reads it before main. Lines of JSON come back: a fatal one, or that it is inside.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from contextlib import closing
from typing import Any, NamedTuple

from nsapi import _bootstrap, _native, _plan
from nsapi._config import Config, check_config
from nsapi._errors import NamespaceError, unsupported
from nsapi._handle import NamespaceHandle, current
from nsapi._target import open as open_namespace
from nsapi._target import resolve
from nsapi._types import NamespaceType, is_namespace_supported
from nsapi._world import check_types, facts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    from typing_extensions import ParamSpec, Self

    class _Process(Protocol):
        @property
        def pid(self) -> int | None: ...

    _P = ParamSpec("_P")
    _T = TypeVar("_T")

_OURS = ("_LIBCONTAINER_INITPIPE", "_LIBCONTAINER_LOGPIPE", "_LIBCONTAINER_LOGLEVEL", "_LIBCONTAINER_INITTYPE")
_READY = "_NSAPI_READY"  # left by _boot.c for start_initialization: fd and inode of the socket
_MAX_LINE = 1 << 20
_MAX_SAID = 1 << 17  # it fits into the socket: nobody has to read while we write
_DEATH = 5.0  # how long what was killed may take to be gone


class BootPids(NamedTuple):
    """Who is who, in the caller's numbers: *started* is what the spawner holds, *program* what runs inside.

    They are one where no process had to be made: without a new or joined pid or time namespace.
    """

    started: int
    program: int


class BootEnv:
    """What a spawner needs to start one program inside, and what comes back from it; made by :func:`boot_env`.

    ``with`` closes it. It serves one start. Not for two threads at once.
    """

    def __init__(self, config: Config) -> None:
        check_config(config)
        config.validate()
        _bootstrap.refuse_what_is_not_said(config)
        check_types(config)
        self._object = _find_object()
        self._handles: list[NamespaceHandle] = []
        self._read = bytearray()
        self._started = self._program = 0
        self._ready = self._ended = False
        self._error: BaseException | None = None
        self._ours, self._theirs = socket.socketpair()
        try:
            self._theirs.setblocking(True)  # whatever socket.setdefaulttimeout() says
            self._inode = os.fstat(self._theirs.fileno()).st_ino
            self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._orders = self._make_orders(config)
            self._ours.setblocking(False)
            # It fits into the socket: nobody has to read while we write.
            data = self._message(config)
            if self._ours.send(data) != len(data):
                raise NamespaceError(errno.ENOBUFS, step="send the bootstrap message")
        except BaseException:
            self.close()
            raise

    def _message(self, config: Config) -> bytes:
        paths = {each.type: os.path.abspath(each.path) for each in config.namespaces.joined() if each.target is None}
        targets = {each.type: each.target for each in config.namespaces.joined() if each.target is not None}
        if config.target is not None and not config.namespaces.joined():
            targets = dict.fromkeys(self._differing(config), config.target)
        for type, target in targets.items():
            # Held until the program is inside: a pid could be another's by then.
            handle = open_namespace(target, type)
            self._handles.append(handle)
            paths[type] = f"/proc/{os.getpid()}/fd/{handle.fileno()}"
        return _bootstrap.encode(config, paths, rootless=os.geteuid() != 0)

    def _differing(self, config: Config) -> list[NamespaceType]:
        with resolve(config.target) as target:
            if not target.is_process:
                raise ValueError(f"target: {target.words} is one namespace: name its type")
        types = []
        for type in NamespaceType:
            if config.namespaces.is_private(type) or not is_namespace_supported(type):
                continue
            with closing(open_namespace(config.target, type)) as theirs, closing(current(type)) as ours:
                if theirs.id != ours.id:
                    types.append(type)
        return types

    def _make_orders(self, config: Config) -> str:
        propagation, new_proc = 0, 0
        if config.namespaces.is_private("mnt"):
            word = config.propagation or "private"
            propagation = 0 if word == "unchanged" else _native.constant(f"MS_{word.upper()}")
            if config.namespaces.is_private("pid") and config.mounts is None:
                new_proc = 2 if word in ("shared", "unchanged") else 1
        # Whoever writes the maps; and what nobody can write is refused here, as by run.
        deny_setgroups = int(_plan.mapping(config, facts_of(config)).deny_setgroups)
        return f"{self._inode}:{propagation}:{new_proc}:{deny_setgroups}"

    @property
    def env(self) -> dict[str, str]:
        """The whole environment to start the program with: that of now, and what leads it inside."""
        made = {key: value for key, value in os.environ.items() if key not in (*_OURS, _READY)}
        fd = str(self._theirs.fileno())
        made |= {"_NSAPI_BOOT": self._orders, "_LIBCONTAINER_INITPIPE": fd}
        others = made.get("LD_PRELOAD")
        made["LD_PRELOAD"] = f"{self._object}:{others}" if others else self._object
        return made

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """The descriptors that the program must inherit under the same numbers."""
        return (self._theirs.fileno(),)

    def confirm(self, timeout: float | None = 10.0, process: _Process | None = None) -> BootPids:
        """Wait until the program is inside, just before its main; give the pids.

        If it is not inside in time (no object is preloaded into a static or set-user-ID program), what holds our end of
        the pipe is killed, and *process*, what the spawner has returned, if it is given: only that finds a program of
        another user, and tells a child of it that is inside from itself. Raises NamespaceError naming the step; it is a
        TimeoutError if nothing was said. What :func:`start_initialization` has caught is raised too, if it is there.
        """
        self._theirs.close()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while not self._program and self._error is None:
                self._receive(deadline)
            while not self._ended and self._error is None and self._has_more():
                self._receive(deadline)
            if self._error is not None:
                raise self._error
            if process is not None and process.pid not in (None, self._started):
                _kill_child(process)  # first: it would see its child's end, and end by itself
                for pid in (self._started, self._program):
                    _kill(pid, self._inode)
                self._program = 0
                raise NamespaceError(
                    errno.ECHILD,
                    step="check who is inside",
                    hint=f"nothing was preloaded into process {process.pid}, but into its child {self._started}",
                )
        except BaseException:
            if not self._program:
                self._kill(process)
            raise
        self._release()
        return BootPids(self._started, self._program)

    def wait_ready(self, timeout: float | None = None, process: _Process | None = None) -> None:
        """Wait until the function given to :func:`start_initialization` has returned; raise what it has raised.

        Until the program is inside, as :meth:`confirm`. Raises TimeoutError, and leaves it alone, where it takes longer;
        ProcessLookupError (a NamespaceError) where it has ended without.
        """
        start = time.monotonic()
        self.confirm(timeout, process)
        deadline = None if timeout is None else start + timeout
        while not self._ready:
            if self._error is not None:
                raise self._error
            self._receive(deadline)

    def close(self) -> None:
        """Close what is open. A program that is not yet inside fails then; one that is goes on."""
        self._ours.close()
        self._theirs.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _release(self) -> None:
        for handle in self._handles:
            handle.close()
        self._handles.clear()

    # ---- what is said ----

    def _has_more(self) -> bool:
        import select

        poll = select.poll()
        poll.register(self._ours, select.POLLIN)
        return bool(poll.poll(0))

    def _receive(self, deadline: float | None) -> None:
        """Take what is said next; the kernel tells who says it."""
        if self._ended:
            raise self._silence()
        self._ours.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-6))
        words = "answer" if not self._program else "get ready"
        try:
            data, ancillary, _, _ = self._ours.recvmsg(65536, socket.CMSG_SPACE(12))
        except TimeoutError:
            raise NamespaceError(
                errno.ETIMEDOUT,
                step=f"wait for the program to {words}",
                hint=self._why_silent(),
            ) from None
        except ConnectionResetError:
            data, ancillary = b"", []
        if not data:
            self._ended = True
            if not self._program and self._error is None:
                raise self._silence()
            return
        sender = next((int.from_bytes(found[:4], sys.byteorder) for *_, found in ancillary), 0)
        self._read += data
        if len(self._read) > _MAX_LINE:
            raise NamespaceError(errno.EPROTO, step="read what the program says", hint="a line has no end")
        *lines, rest = bytes(self._read).split(b"\n")
        self._read = bytearray(rest)
        for line in lines:
            self._take(line, sender)

    def _why_silent(self) -> str | None:
        if self._program:
            return None
        if self._started:
            return "it has begun: a stage was stopped inside, or waits for something"
        return "nothing is preloaded into a static or set-user-ID program"

    def _silence(self) -> NamespaceError:
        if not self._program:
            hint = "it has not got the pipe (pass_fds), was killed, or nothing was preloaded into it"
            return NamespaceError(errno.ESRCH, step="the program ended before it was inside", hint=hint)
        hint = "it has not called start_initialization, or was killed"
        return NamespaceError(errno.ESRCH, step="the program ended before it was ready", hint=hint)

    def _take(self, line: bytes, sender: int) -> None:
        import json

        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise NamespaceError(errno.EPROTO, step="read what the program says", hint=ascii(line[:100]))
        if said.get("level") in ("fatal", "panic") and not self._program:
            self._error = self._error or _fatal(str(said.get("msg")))
        elif "started" in said and not self._started:
            self._started = sender
        elif "inside" in said and not self._program:
            self._program = sender
        elif "ready" in said:
            self._ready = True
        elif "exception" in said:
            self._error = _exception(said)

    # ---- nothing is left running ----

    def _kill(self, process: _Process | None) -> None:
        """Kill who was given the other end of the socket; a fork of ours has a copy, but one that ends at exec."""
        if process is not None:
            _kill_child(process)
        deadline = time.monotonic() + _DEATH
        alone = 0
        while not self._ended and alone < 10 and time.monotonic() < deadline:
            holders = _holders(self._inode)
            for pid in holders:
                _kill(pid, self._inode)
            alone = 0 if holders else alone + 1
            try:  # the end of file is the end of the last of them
                self._ours.settimeout(0.02)
                self._ended = not self._ours.recv(65536)
            except TimeoutError:
                pass
            except OSError:
                self._ended = True
        self._release()


def _find_object() -> str:
    """Find the preloadable object, which is never imported."""
    from importlib.util import find_spec

    found = find_spec("nsapi._boot")
    path = found.origin if found is not None else None
    if not path or not os.path.isfile(path):
        raise unsupported("the preloadable object nsapi/_boot is missing from this installation")
    if ":" in path or any(each.isspace() for each in path):
        raise unsupported(f"ld.so(8) takes no path with a blank or a colon in LD_PRELOAD: {path}")
    return path


def _holds(pid: int, inode: int, *, passed_on: bool = False) -> bool:
    wanted = f"socket:[{inode}]"
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{fd}") == wanted and (
                    not passed_on or _is_inherited(f"/proc/{pid}/fdinfo/{fd}")
                ):
                    return True
            except OSError:
                continue
    except OSError:
        pass
    return False


def _is_inherited(path: str) -> bool:
    with open(path, encoding="ascii") as file:
        flags = next(line.split()[1] for line in file if line.startswith("flags:"))
    return not int(flags, 8) & os.O_CLOEXEC


def _holders(inode: int) -> list[int]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and _holds(pid, inode, passed_on=True)]


def _kill(pid: int, inode: int) -> None:
    import signal

    cell = _native.new_cell()
    fd = _native.fill_with_pidfd(cell, pid)
    if fd < 0:
        return
    try:
        if _holds(pid, inode):  # still: now it cannot become another
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        _native.close_cell(cell)


def _kill_child(process: _Process) -> None:
    """Kill it by pidfd, while nobody has reaped it; asyncio's own ``kill`` would, behind the back of its watcher."""
    import signal

    cell = _native.new_cell()
    fd = _native.fill_with_pidfd(cell, process.pid or 0)
    if fd < 0:
        return
    try:
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises if it is no child of ours
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        _native.close_cell(cell)


def _fatal(text: str) -> NamespaceError:
    """Make an error of a fatal line: ``nsexec-1[77]: unshare the user namespace: Operation not permitted``."""
    _, _, words = text.partition("]: ")
    words = words or text
    for number in errno.errorcode:
        tail = f": {os.strerror(number)}"
        if words.endswith(tail):
            return NamespaceError(number, step=words[: -len(tail)])
    return NamespaceError(errno.EINVAL, step=words)


# ---- exceptions from inside ----


class _RemoteTraceback(Exception):
    """As that of concurrent.futures: the cause whose text is the traceback of another process."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def _exception(said: dict[str, Any]) -> BaseException:
    """Rebuild an exception. The program may be hostile: only exceptions of modules that are here already are made."""
    import base64
    import io
    import pickle

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = getattr(sys.modules.get(module), name, None)
            if isinstance(found, type) and (issubclass(found, BaseException) or found is NamespaceType):
                return found
            raise pickle.UnpicklingError(f"{module}.{name} is no exception that is known here")

    text = str(said.get("traceback"))
    words = str(said.get("words") or "") or "start_initialization has failed"
    try:
        error: Any = Unpickler(io.BytesIO(base64.b64decode(str(said["exception"])))).load()
        if not isinstance(error, Exception):
            raise TypeError(error)
    except Exception:
        error = RuntimeError(words)
    failed: BaseException = error
    failed.__cause__ = _RemoteTraceback(text)
    return failed


def _described(error: Exception) -> dict[str, object]:
    """What is said of an exception: the words for where it is unknown, or cannot be pickled, or is too large."""
    import base64
    import pickle
    import traceback

    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        words = f"{type(error).__qualname__}: {error}"
    except Exception:
        words = type(error).__qualname__
    try:
        exception = base64.b64encode(pickle.dumps(error)).decode()
    except Exception:
        exception = ""
    said: dict[str, object] = {"exception": exception, "traceback": text, "words": words[:1000]}
    if len(_line(said)) > _MAX_SAID:
        room = _MAX_SAID // 32  # on either side; in JSON, a character is six bytes at most
        if len(text) > 2 * room:
            text = f"{text[:room]}\n[...]\n{text[-room:]}"
        said |= {"exception": "", "traceback": text}
    return said


def boot_env(config: Config) -> BootEnv:
    """Make an environment in which whatever program is started begins inside, before its first instruction of main.

    For spawners that nsapi does not know: pass ``.env`` and ``.pass_fds`` to subprocess, asyncio or any other, then call
    ``.confirm(timeout)``, without which nothing is known: a program that ld.so(8) preloads nothing into (static,
    set-user-ID) runs outside. ``os.environ`` stays as it is. A new or joined pid or time namespace holds only children:
    what the spawner holds then is the program's parent, which passes signals on, stops and ends as the program does.

    Raises ValueError, :class:`Unsupported` for fields that are not part of the bootstrap, NamespaceError.
    """
    return BootEnv(config)


def start_initialization(func: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call *func* in a program that was started by :func:`boot_env`, tell the parent that it is ready, return its value.

    As libcontainer's ``StartInitialization``. An exception goes to the parent, whose ``confirm`` or ``wait_ready`` raises
    it; the program ends with status 1 (from another thread than the main one: at once) and prints nothing. SystemExit and
    KeyboardInterrupt are not caught. Raises RuntimeError in a process that was not started so, or where it has been called
    before.
    """
    _native.require()
    pipe = _take_pipe()
    try:
        value = func(*args, **kwargs)
    except Exception as error:
        import threading

        _say(pipe, _described(error))
        if threading.current_thread() is not threading.main_thread():
            os._exit(1)  # SystemExit would end the thread alone
        raise SystemExit(1) from None
    except BaseException:
        pipe.close()
        raise
    _say(pipe, {"ready": True})
    return value


def _take_pipe() -> socket.socket:
    value = os.environ.get(_READY, "")
    fd, _, inode = value.partition(":")
    try:
        found = os.fstat(int(fd))
    except (ValueError, OSError, OverflowError):
        found = None
    if found is None or str(found.st_ino) != inode:
        raise RuntimeError("start_initialization: this process was not started by boot_env, or has done it already")
    del os.environ[_READY]
    os.set_inheritable(int(fd), False)
    return socket.socket(fileno=int(fd))


def _line(what: dict[str, object]) -> bytes:
    import json

    return json.dumps(what, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _say(pipe: socket.socket, what: dict[str, object]) -> None:
    with pipe:
        try:
            pipe.sendall(_line(what), socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the parent has closed its end: it does not want to know
