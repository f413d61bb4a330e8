# SPDX-License-Identifier: MIT
"""clone: a copy of this single-threaded process in new namespaces, and Child, which stands for it.

This is the one place where the interpreter is forked, by a system call of its own (``_clone.c``).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from _thread import allocate_lock
from errno import EINVAL, EMFILE, ENFILE, ENOSYS
from typing import Any

from nsapi import _native
from nsapi._errors import NamespaceError, Unsupported, hint, refused, threads
from nsapi._native import Step
from nsapi._types import NamespaceType, flags_of, names_of, parse_types, types_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from typing_extensions import Self


class Overdue(Exception):
    """What is waited for has not come in the time that was allowed."""


_LONGEST = 1e6  # seconds: poll takes the milliseconds as a C int
_NAP = 0.001


def poll_until(poll: Any, deadline: float | None) -> list[tuple[int, int]]:
    """Wait until something is ready, or this moment of time.monotonic(), with Overdue then."""
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        ready: list[tuple[int, int]] = poll.poll(None if left is None else max(0.0, min(left, _LONGEST)) * 1000)
        if ready:
            return ready
        if left is not None and not left > _LONGEST:
            raise Overdue


class Child:
    """A child that :func:`clone` has made: a copy of this process, which runs one function and ends.

    Wait for it: by :meth:`wait`, :meth:`poll`, or the end of a ``with`` block. One that is dropped before warns
    (ResourceWarning) and stays a zombie. ``returncode`` is None until then; negative is the signal that has ended it.
    """

    returncode: int | None = None

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._born = _native.Born()  # the C core writes there: whenever Ctrl-C comes, it is known who was born

    def _begin(self, clone: Step, func: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Be born, by this step; the child calls, and does not come back from here."""
        born = self._born
        _flush()
        try:
            errnum = -_native.fork(clone.flags, born)
            if born.pid == 0:
                _live(func, args)
        except BaseException:
            if born.pid == 0:
                os._exit(1)  # Ctrl-C, before it has begun
            raise
        if errnum:
            raise (Unsupported if errnum == ENOSYS else NamespaceError)(
                errnum,
                None,
                None,
                step=clone.words,
                type=clone.types[0] if len(clone.types) == 1 else None,
                hint=hint(errnum, "clone", clone.words, tuple(each.proc_name for each in clone.types)),
            )

    @property
    def pid(self) -> int:
        """Its pid, as this process sees it."""
        return self._born.pid

    @property
    def pidfd(self) -> int:
        """A pidfd of it, owned by this object; -1 once it has been waited for."""
        return self._born.pidfd

    def poll(self) -> int | None:
        """Look whether it has ended: its returncode, or None."""
        with self._lock:
            if self.returncode is None and self.pidfd >= 0:
                try:
                    found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
                except ChildProcessError:  # somebody has waited for all children
                    status = max(0, _native.exit_status(self.pidfd))
                    self.returncode = os.waitstatus_to_exitcode(status)
                else:
                    if found is None:
                        return None
                    exited = found.si_code == os.CLD_EXITED
                    self.returncode = found.si_status if exited else -found.si_status
            if self.returncode is not None:
                self._born.close()  # which Ctrl-C may have come before, the last time
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended: its exit status, or minus the signal. After *timeout* seconds, TimeoutExpired."""
        try:
            return self._wait_until(None if timeout is None else time.monotonic() + timeout)
        except Overdue:
            from subprocess import TimeoutExpired

            assert timeout is not None
            raise TimeoutExpired(f"child {self.pid}", timeout) from None

    def _wait_until(self, deadline: float | None) -> int:
        """Wait until it has ended, or this moment of time.monotonic(), with Overdue then."""
        while (status := self.poll()) is None:
            cell, ends = _native.new_cell(), select.poll()
            try:
                with self._lock:  # another thread may wait too, and closes the pidfd
                    if self.pidfd >= 0:
                        ends.register(_native.fill(cell, os.dup, self.pidfd), select.POLLIN)
                if cell[0] >= 0:
                    poll_until(ends, deadline)
            except OSError as error:
                if error.errno not in (EMFILE, ENFILE):
                    raise
                if deadline is not None and time.monotonic() >= deadline:
                    raise Overdue from None
                time.sleep(_NAP)  # with no fd to spare: look now and then
            finally:
                _native.close_cell(cell)
        return status

    def send_signal(self, sig: int) -> None:
        """Send a signal, by its pidfd: never to a stranger that has its number. Nothing, once it has ended.

        In a new pid namespace it is pid 1, and gets only signals that it has a handler for, and SIGKILL and SIGSTOP.
        """
        self.poll()
        with self._lock:
            if self.pidfd >= 0:
                try:
                    signal.pidfd_send_signal(self.pidfd, sig)
                except ProcessLookupError:
                    pass

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _end_now(self) -> None:
        """Kill and reap it, if it was born, whatever Ctrl-C says meanwhile."""
        interrupted = None
        while self.pidfd >= 0:
            try:
                self.kill()
                self.wait()
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wait()

    def __repr__(self) -> str:
        return f"<Child {self.pid}: {'runs' if self.returncode is None else f'ended with {self.returncode}'}>"

    def __del__(self) -> None:
        if self.pidfd >= 0:
            try:
                import warnings

                warnings.warn(f"child {self.pid} was never waited for", ResourceWarning, stacklevel=2, source=self)
            finally:
                self._born.close()


def _flush() -> None:
    """What waits to be written is not to be written twice."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError):  # None, or closed
            pass


def _live(func: Callable[..., object], args: tuple[Any, ...]) -> NoReturn:
    """Be the child, to its end: nothing of the caller's frames is returned to, and none of its exit handlers run."""
    status = 1
    try:
        try:
            result = func(*args)
            if result is not None and not isinstance(result, int):
                raise TypeError(f"child_func: {result!r} is no exit status, which is an int, or None for 0")
            status = int(result or 0)
        except SystemExit as error:
            if error.code is None or isinstance(error.code, int):
                status = int(error.code or 0)
            else:
                sys.stderr.write(f"{error.code}\n")
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        _flush()
    finally:
        os._exit(status & 0xFF)


def refuse_threads(verb: str, remedy: str) -> None:
    """Refuse to fork with other threads: the child would have none, but all the locks that they hold."""
    if not _native.single_threaded():
        raise refused(EINVAL, f"{threads()}, and {verb} copies the calling one alone: {remedy}")


def _types(flags: int | NamespaceType | str | Iterable[NamespaceType | str]) -> tuple[NamespaceType, ...]:
    if isinstance(flags, bool):
        raise TypeError(f"flags: {flags!r} is no namespace type")
    if isinstance(flags, int):
        if names := _native.other_flags(flags):
            raise ValueError(f"flags: {', '.join(names)}: the child is a copy of this process, and shares nothing else")
        return types_in(flags)
    if isinstance(flags, (str, NamespaceType)):
        return (NamespaceType.parse(flags),)
    if not hasattr(flags, "__iter__"):
        raise TypeError(f"flags: {flags!r} is no namespace type, list of them or sum of CLONE_NEW* constants")
    return parse_types(tuple(flags))


def clone(
    child_func: Callable[..., int | None],
    /,
    *args: Any,
    flags: int | NamespaceType | str | Iterable[NamespaceType | str] = (),
) -> Child:
    """Run a function in a copy of this process, in new namespaces: clone(2), one system call.

    *flags* are words or members of :class:`NamespaceType`, or one int mask of CLONE_NEW*; none is a fork. The child calls
    ``child_func(*args)``: what it returns, an int or None for 0, is its exit status. An exception is printed on standard
    error, and is 1; SystemExit is what it is everywhere. Nothing that would come after this call in the caller happens in
    the child, nor do the caller's exit handlers (atexit, ``finally``). The hooks of os.register_at_fork are called;
    those that C libraries have left with pthread_atfork(3) are not.

    For a program of a single thread. In a new user namespace the child is nobody (65534) until somebody writes its maps:
    clone(2) does not. ``call(…, method="fork", config=…)`` does, and what else one fork can. In a new pid namespace the
    child is pid 1. Files, memory and signal handlers are copies of this process's.

    Raises NamespaceError: ``EINVAL`` with step ``"check"`` telling how many threads there are; else as the kernel:
    ``EPERM`` without CAP_SYS_ADMIN unless user is among the flags, ``ENOSPC`` at a limit, naming the sysctl. ValueError for
    CLONE_VM, CLONE_THREAD and all other flags, by name.
    """
    _native.require()
    if not callable(child_func):
        raise TypeError(f"child_func: {child_func!r} cannot be called")
    types = _types(flags)
    refuse_threads("clone", "use run or call")
    child = Child()
    words = f"clone {names_of(types)}" if types else "clone"
    try:
        child._begin(Step("clone", words, flags=flags_of(types), types=types), child_func, args)
        return child
    except BaseException:
        child._end_now()
        raise
