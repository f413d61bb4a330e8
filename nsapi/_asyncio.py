# SPDX-License-Identifier: MIT
"""create_subprocess_exec: Popen on an asyncio loop, by what is public of asyncio. No threads, no child watcher."""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import os
import signal
import warnings
from typing import Any

from nsapi import _native
from nsapi._process import Popen, _end_reaper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from nsapi._arguments import File, Path
    from nsapi._config import Config
    from nsapi._types import NamespaceType

#: What asyncio's streams leave no choice of.
_FIXED = {"bufsize": 0, "shell": False, "universal_newlines": False, "text": False, "encoding": None, "errors": None}


class _Pipe(asyncio.StreamReaderProtocol):
    """Our end of one pipe, until it is closed."""

    def __init__(self, program: _Program, file: Any, reader: asyncio.StreamReader | None) -> None:
        super().__init__(reader, loop=program.loop)  # type: ignore[arg-type]
        self.program = program
        self.file = file
        self.transport: Any = None
        self._told = False

    @property
    def lost(self) -> bool:
        """Whether the transport is done with it: it has told so, or closed the file, where Ctrl-C came between."""
        return self._told or (self.transport is not None and self.file.closed)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._told = True
        self.program.try_finish()


class _Program(asyncio.SubprocessTransport):
    """A Popen, its pipes, and the loop that watches over them.

    Two things end: the program, which ``exited`` tells, and with the last pipe that is closed all of it, ``finished``.
    The loop holds this object until then, whoever else forgets it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.popen = Popen.__new__(Popen)  # held before it starts anything, so that Ctrl-C finds it
        super().__init__({"subprocess": self.popen})
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self.exited: asyncio.Future[None] = loop.create_future()
        self.finished: asyncio.Future[None] = loop.create_future()
        self._returncode: int | None = None
        self._duplicate = _native.new_cell()  # poll() of the Popen closes its pidfd, and the loop would not know
        self._reaper = -1  # once it is taken from the Popen
        self._pipes: dict[int, _Pipe] = {}
        self._closed = self._killed = False
        self._guard: AsyncGenerator[None, None] | None = None

    # ---- its beginning ----

    async def start(self, argv: Sequence[Path], limit: int, keywords: dict[str, Any]) -> None:
        """Start it and connect the pipes; on any failure nothing is left."""
        try:
            self._guard = self._until_shutdown()
            await self._guard.asend(None)
            self.popen.__init__(argv, **keywords)  # type: ignore[misc]
            _native.fill(self._duplicate, os.dup, self.popen.pidfd)
            self.loop.add_reader(self._pidfd, self._ended)
            if self.popen.stdin is not None:
                pipe = await self._connect(self.loop.connect_write_pipe, 0, self.popen.stdin)
                self.stdin = asyncio.StreamWriter(pipe.transport, pipe, None, self.loop)
            if self.popen.stdout is not None:
                self.stdout = asyncio.StreamReader(limit, self.loop)
                await self._connect(self.loop.connect_read_pipe, 1, self.popen.stdout, self.stdout)
            if self.popen.stderr is not None:
                self.stderr = asyncio.StreamReader(limit, self.loop)
                await self._connect(self.loop.connect_read_pipe, 2, self.popen.stderr, self.stderr)
        except BaseException as error:
            if self._pidfd < 0 or isinstance(error, (KeyboardInterrupt, SystemExit)):
                self.end_at_once()
            else:
                await self.end()
            raise

    async def _connect(self, connect: Any, fd: int, file: Any, reader: asyncio.StreamReader | None = None) -> _Pipe:
        pipe = _Pipe(self, file, reader)

        def taken() -> _Pipe:
            self._pipes[fd] = pipe
            return pipe

        await connect(taken, file)
        return pipe

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        """End it with the loop: asyncio.run() closes all generators that wait, after all tasks have ended."""
        try:
            yield
        finally:
            self._guard = None
            if not self.finished.done():
                await self.end()

    # ---- its end ----

    def _ended(self) -> None:
        """The pidfd is readable: reap it. Ctrl-C meanwhile does not keep the loop from coming back to it."""
        try:
            self._reap()
        except (KeyboardInterrupt, SystemExit):
            self.loop.call_soon(self._ended)
            raise

    def _reap(self) -> None:
        popen = self.popen
        if self._pidfd >= 0:
            self.loop.remove_reader(self._pidfd)
            with popen._pidfd_lock:  # its poll() would wait for the reaper, however much that has to reap
                if popen._reaper >= 0:
                    self._reaper, popen._reaper = popen._reaper, -1
            if popen.poll() is None:  # another thread is at it, or a tracer has yet to let it go
                self.loop.call_later(0.001, self._ended)
                return
            self._close_pidfd()
            if self._reaper >= 0:  # which ends now that its program is reaped
                try:
                    signal.pidfd_send_signal(self._reaper, signal.SIGKILL)  # unless it has been stopped
                except ProcessLookupError:
                    pass
                self.loop.add_reader(self._reaper, self._ended)
                return
        if self._reaper >= 0:
            self.loop.remove_reader(self._reaper)
            self._close_reaper()
        self._returncode = popen.returncode
        if not self.exited.done():
            self.exited.set_result(None)
        self.try_finish()

    @property
    def _pidfd(self) -> int:
        return int(self._duplicate[0])

    def _close_pidfd(self) -> None:
        _native.close_cell(self._duplicate)

    def _close_reaper(self) -> None:
        reaper, self._reaper = self._reaper, -1
        _end_reaper(reaper)

    def try_finish(self) -> None:
        """Once the program has ended and all it has said is read, its stdin is of no use; then all is done."""
        if self._returncode is None or self.finished.done():
            return
        if all(pipe.lost for fd, pipe in self._pipes.items() if fd):
            if 0 in self._pipes and not self._pipes[0].lost:
                if self._pipes[0].transport is not None:
                    self._pipes[0].transport.close()
                return
            self._finish()

    def _finish(self) -> None:
        self._closed = True
        self.finished.set_result(None)
        guard, self._guard = self._guard, None
        if guard is not None:
            try:
                guard.aclose().send(None)  # which does not wait: it sees that all is done
            except StopIteration:
                pass

    async def end(self) -> None:
        """Kill it, if it still runs, and wait until nothing is left of it. Cancelled meanwhile, the loop does the rest."""
        self._killed = True
        self.close()
        await asyncio.shield(self.exited)
        await asyncio.sleep(0)  # by then the transports have closed the pipes; Ctrl-C may have lost that they tell so
        self.try_finish()
        await asyncio.shield(self.finished)

    def end_at_once(self) -> None:
        """The same where there is no loop to wait with."""
        if not self.loop.is_closed():
            for fd in (self._pidfd, self._reaper):
                if fd >= 0:
                    self.loop.remove_reader(fd)
        self.close()
        if self.popen._child_created:
            self._returncode = self.popen.wait()
        self._close_pidfd()
        self._close_reaper()
        self._closed = True
        if not self.loop.is_closed() and not self.finished.done():
            self._finish()

    # ---- what asyncio's Process asks of its transport ----

    def close(self) -> None:
        """Close the pipes, and kill it if it still runs."""
        if self._closed:
            return
        self._closed = True
        self.close_pipes()
        if self._returncode is None and self.popen._child_created:
            self._send(signal.SIGKILL)

    def close_pipes(self) -> None:
        """Close our ends, and with them what it has not read, or we have not."""
        if not self.popen._child_created:
            return
        for fd, file in enumerate((self.popen.stdin, self.popen.stdout, self.popen.stderr)):
            pipe = self._pipes.get(fd)
            if file is not None and (pipe is None or pipe.transport is None or self.loop.is_closed()):
                file.close()
            elif pipe is not None and not pipe.lost:
                if fd:
                    pipe.transport.close()
                elif not pipe.transport.is_closing() or pipe.transport.get_write_buffer_size():
                    pipe.transport.abort()  # which asyncio's does twice where it is closing already

    def is_closing(self) -> bool:
        return self._closed

    def get_pid(self) -> int:
        return self.popen.pid

    def get_returncode(self) -> int | None:
        return self._returncode

    def get_pipe_transport(self, fd: int) -> Any:
        return self._pipes[fd].transport if fd in self._pipes else None

    def send_signal(self, signal: int) -> None:
        if not self.finished.done():
            self._send(signal)
        elif not self._killed:
            raise ProcessLookupError(f"process {self.popen.pid} has ended, with returncode {self._returncode}")

    def _send(self, sig: int) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, sig)
            except ProcessLookupError:
                pass  # as in subprocess: it has ended meanwhile

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __repr__(self) -> str:
        state = "not started" if not self.popen._child_created else "running" if self._returncode is None else "ended"
        return f"<nsapi's subprocess transport pid={getattr(self.popen, 'pid', None)} {state}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not getattr(self, "_closed", True) and self.popen._child_created:
            try:
                _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            finally:
                self.end_at_once()


class Process(asyncio.subprocess.Process):
    """What :func:`create_subprocess_exec` gives."""

    _transport: _Program

    def __init__(self, program: _Program) -> None:
        super().__init__(program, program, program.loop)  # type: ignore[arg-type]

    @property
    def pidfd(self) -> int:
        """A pidfd of the program, owned by this object; -1 once the program has been waited for."""
        return self._transport.popen.pidfd

    @property
    def shares_pidns(self) -> bool:
        """Whether the program shares its pid namespace with others, as ``Popen.shares_pidns``."""
        return self._transport.popen.shares_pidns

    async def wait(self) -> int:
        """Wait until the program has ended. Any number of tasks may; cancelling one leaves the program alone."""
        await asyncio.shield(self._transport.exited)
        status = self.returncode
        assert status is not None
        return status

    async def communicate(self, input: Any = None) -> tuple[bytes, bytes]:
        """Feed *input*, close stdin, read all, wait. Cancelled, it kills the program: what was read is lost anyway."""
        if self.stdin is None:
            if input is not None:
                raise ValueError("input: there is no pipe to write it to; start with stdin=PIPE")
        elif input is None:
            self.stdin.close()  # asyncio's does so since Python 3.12
        try:
            return await super().communicate(input)
        except asyncio.CancelledError:
            await self._transport.end()
            raise
        except (KeyboardInterrupt, SystemExit):
            # They end the loop, as Ctrl-C does before Python 3.11: there nothing can be waited for.
            self._transport.end_at_once()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the program, as Popen's ``with`` does; kill it first where an exception ends the block."""
        try:
            if kind is None:
                self._transport.close_pipes()
                await self.wait()
        finally:
            await self._transport.end()


async def create_subprocess_exec(
    program: Path,
    *args: Path,
    config: Config | None = None,
    target: Any = None,
    types: Sequence[NamespaceType | str] = (),
    stdin: File = None,
    stdout: File = None,
    stderr: File = None,
    limit: int = 2**16,
    **keywords: Any,
) -> Process:
    """Start a program in namespaces, and give an :class:`asyncio.subprocess.Process`.

    *config*, *target*, *types* and what is raised are those of :class:`Popen`; *limit* and all else are those of
    :func:`asyncio.create_subprocess_exec`, and what that refuses, as *text* and *shell*, is a ValueError here, too.

    The program is a child of the calling thread, which starts it as :class:`Popen` does: the loop stands still until the
    program has started. Then the loop waits for it by its pidfd, in any thread: no thread is started, no child watcher and
    no SIGCHLD needed. Any of asyncio's own loops will do; on uvloop, do not cancel a start, which would wait for ever.

    A cancelled ``create_subprocess_exec``, a cancelled ``communicate()``, an exception that ends ``async with process:``
    (also cancellation), and the end of ``asyncio.run()`` kill the program and wait until it is gone. A cancelled
    ``wait()`` does not: it is how one waits for a while.
    """
    _native.require()
    if not isinstance(limit, int):
        raise TypeError(f"limit: {limit!r} is no int")
    if limit <= 0:
        raise ValueError(f"limit: {limit} is no size of a buffer; 1 or more bytes are")
    for name, only in _FIXED.items():
        given = keywords.pop(name, only)
        if given not in (only, None):
            raise ValueError(
                f"{name}: must be {only}, not {given!r}; asyncio's streams are of bytes, and no shell is run"
            )
    keywords |= {"bufsize": 0, "stdin": stdin, "stdout": stdout, "stderr": stderr}
    keywords |= {"config": config, "target": target, "types": types}
    transport = _Program(asyncio.get_running_loop())
    await transport.start([program, *args], limit, keywords)
    return Process(transport)
