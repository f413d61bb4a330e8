# SPDX-License-Identifier: MIT
"""Interpreters that are started inside and told what to call: one for each nsapi.call, several for a pool."""

from __future__ import annotations

import _socket
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import attrs

from nsapi import _channel, _idmap, _native, _plan
from nsapi._channel import CALL, PREPARE, RAISED, REFUSED, UNUSABLE, VALUE, Channel
from nsapi._clone import Overdue, poll_until
from nsapi._config import Config, Namespaces, joined_namespace
from nsapi._errors import NamespaceError, unsupported
from nsapi._fields import CAPABILITIES
from nsapi._handle import NamespaceHandle, duplicate_fd
from nsapi._process import Popen, _caller_cwd
from nsapi._switch import Move
from nsapi._types import NamespaceType
from nsapi._worker import Late, Preparation, call_each, refuse_endless_start
from nsapi._world import Lent, check_types, facts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

USER, MNT, PID = NamespaceType.USER, NamespaceType.MNT, NamespaceType.PID
_BOOT = "import sys; sys.path[:] = {path}; from nsapi._worker import main; main({fd})"


class RemoteTraceback(Exception):
    """The traceback of the other interpreter, as the cause of what was raised there."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteTraceback, (self.text,)


class InterpreterDied(subprocess.CalledProcessError):
    """The interpreter has ended before the function returned; ``returncode`` as subprocess's, ``cmd`` the function."""

    def __str__(self) -> str:
        if self.returncode < 0:
            import signal

            try:
                name = signal.Signals(-self.returncode).name
            except ValueError:
                name = f"signal {-self.returncode}"
            return f"{self.cmd}: the interpreter died of {name} before the function returned"
        return f"{self.cmd}: the interpreter ended with exit status {self.returncode} before the function returned"


# ---- the channel of the caller ----


class Line(Channel):
    """The caller's end: never waits for a process that has ended, nor longer than is allowed."""

    flags = getattr(_socket, "MSG_DONTWAIT", 0)

    def __init__(self, end: Any, pidfd: int) -> None:
        super().__init__(end)
        self.deadline: float | None = None
        self._poll, self._number = select.poll(), end.fileno()
        self._poll.register(pidfd, select.POLLIN)

    def wait(self, *, to_send: bool) -> None:
        self._poll.register(self._number, select.POLLOUT if to_send else select.POLLIN)
        ready = poll_until(self._poll, self.deadline)
        if all(fd != self._number for fd, _ in ready):  # what it has said before it ended comes first
            raise EOFError

    def hear(self, words: str) -> Answer | None:
        """Wait for what comes of a function; None: it has ended, and nothing will."""
        try:
            return Answer(words, *self.receive())
        except (EOFError, ConnectionResetError):
            return None


class Answer(NamedTuple):
    """What came of a function: a message that is not loaded yet."""

    words: str
    kind: int
    payload: bytearray
    fds: list[int]

    def value(self) -> Any:
        """Load what the function has returned, or raise what it has raised."""
        words, kind, payload, fds = self
        if kind in (VALUE, REFUSED):
            try:
                value = _channel.load(payload, fds, _main_here)
            except Exception as error:
                raise TypeError(f"{words}: the result cannot be loaded here: {said(error)}") from error
            if kind == REFUSED:
                raise value
            return value
        if kind == UNUSABLE:
            what, summary, text = _channel.load(payload, fds)
            raise TypeError(f"{words}: {what}: {summary}") from RemoteTraceback(text)
        assert kind == RAISED
        pickled, summary, text = _channel.load(payload, [])
        cause = RemoteTraceback(text)
        if pickled is None:
            raise RuntimeError(f"{words} raised {summary}, an exception that cannot be pickled") from cause
        try:
            raised = _channel.load(pickled, fds, _main_here)
            if not isinstance(raised, BaseException):
                raise TypeError(f"{raised!r} is no exception")
        except Exception:
            raise RuntimeError(f"{words} raised {summary}, an exception that cannot be loaded here") from cause
        raise raised from cause


def _main_here(name: str) -> str:
    return "__main__"


def said(error: BaseException) -> str:
    """Say it as the last line of a traceback does."""
    return f"{type(error).__name__}: {error}"


# ---- what goes there ----


def words_of(func: Any) -> str:
    """Name a function in a message; not what a partial holds, which may be large."""
    while isinstance(func, partial):
        func = func.args[0] if func.func is call_each else func.func
    name = getattr(func, "__qualname__", None)
    return f"{getattr(func, '__module__', None)}.{name}" if isinstance(name, str) else repr(func)


def request(func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[bytes, list[int]]:
    """Pickle a call; a TypeError says which part of it cannot be."""
    if not callable(func):
        raise TypeError(f"func: {func!r} cannot be called")
    try:
        return _channel.dump((func, args, keywords))
    except Exception as error:
        parts = {"func": func, **{f"argument {at}": each for at, each in enumerate(args, 1)}, **keywords}
        for name, each in parts.items():
            try:
                _channel.dump(each)
            except Exception as reason:
                remedy = ""
                if each is func:
                    remedy = "; name a function of a module, or, in a single-threaded program, method='fork'"
                raise TypeError(f"{name}: {repr(each)[:200]} cannot be pickled: {said(reason)}{remedy}") from reason
        raise TypeError(f"func and its arguments cannot be pickled: {said(error)}") from error


# ---- starting interpreters ----


def _preparation() -> Preparation:
    """Tell how this interpreter has been started, for functions of its __main__: multiprocessing's rules."""
    main = sys.modules.get("__main__")
    spec, path = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    name: str | None = getattr(spec, "name", None)
    if name is not None and (name == "__main__" or name.endswith(".__main__")):
        name = path = None  # a package that is run; what it does there is not to be done again
    elif name is None and path is not None:
        path = os.path.abspath(path)
    return Preparation(list(getattr(sys, "argv", [""])), name, path)


def _command(fd: int) -> list[str]:
    if not sys.executable:
        raise unsupported("sys.executable is empty: this program holds its interpreter inside, and none can be started")
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = []
    for each in sys.path:
        if isinstance(each, str):
            path.append(each or os.fsdecode(_caller_cwd()))
    if home not in path:
        path.append(home)
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", _BOOT.format(path=ascii(path), fd=fd)]


class Interpreter:
    """An interpreter inside, and the channel to it. Made empty, so that it is known whenever Ctrl-C comes; then started."""

    def __init__(self) -> None:
        self.process = Popen.__new__(Popen)
        # Not socket's, which unwraps one object and wraps the next: Ctrl-C between the two would leave a file.
        self._end, self._theirs = _socket.socketpair()
        # Whatever socket.setdefaulttimeout() says, which makes the file itself non-blocking.
        self._end.setblocking(True)
        self._theirs.setblocking(True)
        self._line: Line | None = None

    def start(self, recipe: Recipe, **keywords: Any) -> None:
        """Start it by a recipe, and tell it how to prepare itself; the keywords are those of Popen."""
        fd, cell = self._theirs.fileno(), _native.new_cell()
        try:
            if fd <= 2:
                import fcntl

                # The caller has closed his standard streams, and a program has its own first.
                fd = _native.fill(cell, fcntl.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 3)
            self.process.__init__(_command(fd), config=recipe.config, pass_fds=[fd], **keywords)  # type: ignore[misc]
        finally:
            _native.close_cell(cell)
            self._theirs.close()
        self._line = Line(self._end, self.process.pidfd)
        payload, _ = _channel.dump(recipe.preparation)
        self._send(PREPARE, payload, recipe.fds)

    def until(self, deadline: float | None) -> None:
        """Let no answer be waited for longer than to this moment of time.monotonic()."""
        assert self._line is not None
        self._line.deadline = deadline

    def _send(self, kind: int, payload: Any, fds: Sequence[int]) -> None:
        assert self._line is not None
        try:
            self._line.send(kind, payload, fds)
        except (BrokenPipeError, ConnectionResetError, EOFError):
            pass  # it has ended; what it said last comes next

    def ask(self, words: str, payload: Any, fds: Sequence[int] = ()) -> Answer:
        """Have a function called. InterpreterDied: there will be no answer; Overdue: there is none yet."""
        assert self._line is not None
        self._send(CALL, payload, fds)
        answer = self._line.hear(words)
        if answer is None:
            self._wait()
            raise InterpreterDied(self.process.returncode, words)
        return answer

    def _wait(self) -> None:
        deadline = None if self._line is None else self._line.deadline
        try:
            self.process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Overdue from None

    def end(self) -> None:
        """Let it end as interpreters do, and wait for that."""
        with suppress(OSError):
            self._end.shutdown(_socket.SHUT_RDWR)  # a fork of the caller may hold it open too
        self._end.close()
        self._wait()

    @property
    def in_step(self) -> bool:
        """Whether the next that comes is the beginning of an answer: not where one could not be received to its end."""
        return self._line is not None and self._line.whole

    def interrupt(self) -> None:
        """Kill it, from another thread: who waits for its answer is told that it has died."""
        self.process.kill()

    def kill(self) -> None:
        """End and reap it, whatever it does, and whatever Ctrl-C says meanwhile."""
        interrupted = None
        while getattr(self.process, "_child_created", False) and self.process.returncode is None:
            try:
                self.process.kill()
                self.process.wait()
            except KeyboardInterrupt as error:
                interrupted = error
        self._end.close()
        self._theirs.close()
        if interrupted is not None:
            raise interrupted


class Recipe:
    """How to start interpreters inside: checked, opened and decided once. Owns what it has opened; ``with`` closes it.

    ``config`` is what Popen performs, ``preparation`` what the interpreter does then, ``fds`` what it needs for that.
    """

    def __init__(self, config: Config) -> None:
        refuse_endless_start()
        self._handles: list[NamespaceHandle] = []
        self._own: list[Any] = []
        self.fds: list[int] = []
        self.preparation = _preparation()
        self.config, facts = config, facts_of(config)
        check_types(config)
        _plan.check(config, facts)
        try:
            if config.target is not None or config.namespaces.joined():
                self._decide(config, facts.euid)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Recipe:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what has been opened for the joins. What has been started goes on."""
        for handle in self._handles:
            handle.close()
        for cell in self._own:
            _native.close_cell(cell)

    def _decide(self, config: Config, euid: int) -> None:
        """Open what is to be joined, once: a process could be elsewhere the next time. Then choose what is joined last.

        That is mnt, in which there may be no Python; and the user namespace of others, where the caller has power enough
        without it: until it knows its function, the interpreter is out of reach then for who is root there.
        """
        moves: dict[NamespaceType, Move] = {}
        with Lent() as lent:
            for join in lent.opened(lent.joins(config))[0]:
                handle = NamespaceHandle(duplicate_fd(join.fd), join.words)
                self._handles.append(handle)
                moves[join.type] = Move((join.type,), handle.fileno(), join.words)
        created = config.namespaces.created()
        if MNT in moves and USER in created:
            raise unsupported(
                "a new user namespace beside a mount namespace that is joined: Python would have to make one itself"
            )
        last = [MNT] if MNT in moves else []
        if USER in moves and not created and euid == 0 and _has_sys_admin():
            last.append(USER)
        self.preparation.dumpable = not {USER, PID, MNT} & moves.keys()
        namespaces = Namespaces(created)
        for handle in self._handles:
            if handle.type not in last:
                namespaces._put(joined_namespace(handle.type, handle))
        fields: dict[str, Any] = {"target": None, "namespaces": namespaces}
        if last:
            fields |= {"uid": None, "gid": None, "groups": None, "capabilities": None, "no_new_privs": False}
            if not config.init:
                fields["parent_death_signal"] = None
            self._join_late(config, [moves[each] for each in last])
        self.config = attrs.evolve(config, **fields)

    def _join_late(self, config: Config, moves: list[Move]) -> None:
        first = _plan.JOINS
        if config.parent_death_signal is not None and not config.init:
            first = _plan.PARENT
            cell = _native.new_cell()
            self._own.append(cell)
            parent = _native.fill_with_pidfd(cell, os.getpid())
            if parent < 0:
                raise NamespaceError(-parent, None, None, step="pidfd_open of this process")
        self.fds = [*(cell[0] for cell in self._own), *(move.fd for move in moves)]
        types = [type for move in moves for type in move.types]
        self.preparation.late = Late(
            *_plan.late_steps(config, moves, _caller_cwd()),
            first,
            root_if_mapped=(config.uid is not None, config.gid is not None) if USER in types else None,
            unless_root=_plan.unless_root(config) if USER in types else [],
            closed=MNT in types,
        )


def _has_sys_admin() -> bool:
    return bool(_idmap.capabilities()[b"CapEff"] >> CAPABILITIES.index("CAP_SYS_ADMIN") & 1)
