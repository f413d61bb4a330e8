# SPDX-License-Identifier: MIT
"""Popen and run: subprocess's, with a Config. The C core makes the child; no Python runs between clone and exec."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from itertools import chain, starmap
from operator import index
from typing import Any

from nsapi import _arguments, _native, _plan, _switch
from nsapi._config import Config, check_config
from nsapi._handle import children_are_elsewhere
from nsapi._native import Program, State
from nsapi._switch import Move
from nsapi._types import NamespaceType
from nsapi._world import Lent, check_types, facts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from nsapi._arguments import File, Path
    from nsapi._launcher import Mission


def _config_of(config: Config | None, target: Any, types: Sequence[NamespaceType | str]) -> Config:
    """One of the two, never none: nothing shall run outside by mistake."""
    if config is not None and target is not None:
        raise TypeError("config, target: give one, not both; target=x, types=(…) is short for Config.join(x, …)")
    if config is None and target is None:
        raise TypeError("config or target: one says which namespaces; without any, subprocess is what you want")
    if isinstance(types, str):
        raise TypeError(f"types: {types!r} is one word; a tuple of them is wanted")
    if config is None:
        return Config.join(target, *types)
    if types:
        raise TypeError("types: goes with target; a config has its own namespaces")
    check_config(config)
    return config


def _end_reaper(
    pidfd: int,
    _close: Any = os.close,
    _waitid: Any = getattr(os, "waitid", None),
    _pidfd_type: int = getattr(os, "P_PIDFD", 3),
    _exited: int = getattr(os, "WEXITED", 0),
    _no_child: type[OSError] = ChildProcessError,
    _send: Any = getattr(signal, "pidfd_send_signal", None),
    _kill: int = getattr(signal, "SIGKILL", 9),
    _error: type[OSError] = OSError,
) -> None:
    """Let pid 1 go, which has seen the program's end: only now does the kernel. Ctrl-C waits until it is gone."""
    interrupted = None
    while pidfd >= 0:
        try:
            try:
                _send(pidfd, _kill)  # unless it has been stopped
            except _error:
                pass
            try:
                _waitid(_pidfd_type, pidfd, _exited)
            except _no_child:
                pass
            closing, pidfd = pidfd, -1
            _close(closing)
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


class Popen(subprocess.Popen[Any]):
    """A :class:`subprocess.Popen` whose program starts in the namespaces that *config* says.

    Give *config*, or *target* and *types*, short for ``Config.join(target, *types)``. Every other argument is
    subprocess's; ``preexec_fn`` and Windows's are refused. ``args[0]`` on PATH, *executable* and *cwd* are resolved
    inside. A child starts in the namespaces of the calling thread, which sleeps until the program has started: neither
    Ctrl-C nor a timeout reaches it before.

    ``pid`` is the program's own, as the caller sees it; ``pidfd`` is owned by the object, and -1 once it is reaped.

    Raises, beside subprocess's: NamespaceError with the step that failed (a program that is not found is one, and a
    FileNotFoundError); ValueError or TypeError for what a Config cannot mean, before any system call;
    :class:`Unsupported`. Nothing is left running, open or moved then.
    """

    _pidfd = _reaper = -1
    _orphan = False
    _ends: tuple[int, ...] = (-1,) * 6
    _pipes: Mapping[int, object] = {}

    def __init__(
        self,
        args: Path | Sequence[Path],
        bufsize: int = -1,
        executable: Path | None = None,
        stdin: File = None,
        stdout: File = None,
        stderr: File = None,
        preexec_fn: None = None,
        close_fds: bool = True,
        shell: bool = False,
        cwd: Path | None = None,
        env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
        universal_newlines: bool | None = None,
        startupinfo: None = None,
        creationflags: int = 0,
        restore_signals: bool = True,
        start_new_session: bool = False,
        pass_fds: Collection[int] = (),
        *,
        config: Config | None = None,
        target: Any = None,
        types: Sequence[NamespaceType | str] = (),
        user: str | int | None = None,
        group: str | int | None = None,
        extra_groups: Iterable[str | int] | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        umask: int = -1,
        pipesize: int = -1,
        process_group: int | None = None,
    ) -> None:
        _native.require()
        if preexec_fn is not None:
            raise ValueError("preexec_fn: no Python can run between clone and exec; say it in the Config")
        self._config = _config_of(config, target, types)
        self._config.validate()
        self._shares_pidns = not self._config.namespaces.is_private("pid")  # a Config may change later
        self._pidfd_lock = threading.RLock()  # reentrant: a signal handler may kill() too
        if process_group is not None and not isinstance(process_group, int):
            raise TypeError(f"process_group: {process_group!r} is no int")
        umask = index(umask)
        for name, number in (("process_group", process_group), ("umask", umask)):
            if isinstance(number, int) and not -(2**31) <= number < 2**31:
                raise ValueError(f"{name}: {number} is more than the kernel can hold")  # it would cut it, to 0 perhaps
        # Python 3.10's has no such keyword; it comes to _execute_child past subprocess, everywhere.
        self._process_group = -1 if process_group is None else process_group
        # Before Python 3.10 opens pipes, and forgets them where a name is unknown.
        user, group = _arguments.user_id(user), _arguments.group_id(group)
        extra_groups = None if extra_groups is None else _arguments.group_ids(extra_groups)
        pass_fds = _arguments.open_fds(pass_fds)
        files = ("stdin", stdin), ("stdout", stdout), ("stderr", stderr)  # held here: their fds are used below
        ends = [_arguments.end(name, file) for name, file in files]
        try:
            super().__init__(
                args,
                bufsize=bufsize,
                executable=executable,
                stdin=ends[0],
                stdout=ends[1],
                stderr=ends[2],
                close_fds=close_fds,
                shell=shell,
                cwd=cwd,
                env=env,
                universal_newlines=universal_newlines,
                startupinfo=startupinfo,
                creationflags=creationflags,
                restore_signals=restore_signals,
                start_new_session=start_new_session,
                pass_fds=pass_fds,
                user=user,
                group=group,
                extra_groups=extra_groups,
                encoding=encoding,
                errors=errors,
                text=text,
                umask=umask,
                pipesize=pipesize,
            )
        except BaseException:
            self._leave_nothing()
            raise

    def _leave_nothing(self) -> None:
        """Undo what a failed call has left: a child born just before Ctrl-C, pipes that subprocess has forgotten."""
        if self._child_created and self.returncode is None:
            self.kill()
            self.wait()
        kept = {self._ends[1]: "stdin", self._ends[2]: "stdout", self._ends[4]: "stderr"}
        for fd, pipe in self._pipes.items():
            # Of a pipe for which there was no file yet, as for an unknown encoding. Where Ctrl-C came between the file's
            # making and its keeping, it has closed itself, and the number may be another thread's by now.
            if getattr(self, kept.get(fd, ""), None) is None and _arguments.file_of(fd) == pipe:
                os.close(fd)

    @property
    def pidfd(self) -> int:
        """A pidfd of the program, owned by this object; -1 once the program has been waited for."""
        return self._pidfd

    @property
    def shares_pidns(self) -> bool:
        """Whether the program shares its pid namespace with others: False where one was created for it.

        As libcontainer's ``sharePidns``: then its end does not end the processes it has started.
        """
        return self._shares_pidns

    def send_signal(self, sig: int) -> None:
        """Send a signal to the program, by its pidfd: never to a stranger that has its number."""
        self.poll()
        with self._pidfd_lock:  # a thread that waits would close it, and its number be another's
            if self._pidfd >= 0:
                try:
                    signal.pidfd_send_signal(self._pidfd, sig)
                except ProcessLookupError:
                    pass  # it has ended meanwhile, as in subprocess

    def terminate(self) -> None:
        """Send SIGTERM.

        A program that is pid 1 of its pid namespace (one was created, without ``init=True``) gets only signals that it
        has a handler for, and SIGKILL and SIGSTOP: ``terminate()`` does nothing to a ``sleep`` there. Use :meth:`kill`.
        """
        super().terminate()

    # ---- what subprocess calls ----

    def _get_handles(self, *files: File) -> tuple[int, ...]:
        # Pipes are made here: where a later one cannot be, some Pythons forget those before it.
        piped = [number for number, file in enumerate(files) if file == subprocess.PIPE]
        joined = 1 in piped and files[2] == subprocess.STDOUT
        others = [None if each in piped or (joined and each == 2) else file for each, file in enumerate(files)]
        ends: list[int] = list(super()._get_handles(*others))  # type: ignore[misc]
        made: list[int] = []
        size = getattr(self, "pipesize", -1)
        try:
            for each in piped:
                made.extend(chain.from_iterable(starmap(os.pipe, [()])))  # one call: Ctrl-C may come after any
                ends[2 * each : 2 * each + 2] = made[-2:]
                if size > 0:
                    import fcntl

                    fcntl.fcntl(made[-1], fcntl.F_SETPIPE_SZ, size)
            if joined:
                ends[5] = ends[3]
            pipes = {fd: _arguments.file_of(fd) for fd in made}
            self._ends, self._pipes = tuple(ends), pipes
        except BaseException:
            for fd in (*made, self.__dict__.pop("_devnull", -1)):
                if fd != -1:
                    os.close(fd)
            raise
        return self._ends

    def _execute_child(
        self,
        args: Any,
        executable: Any,
        preexec_fn: None,
        close_fds: bool,
        pass_fds: Collection[int],
        cwd: Path | None,
        env: Mapping[Any, Any] | None,
        startupinfo: None,
        creationflags: int,
        shell: bool,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        restore_signals: bool,
        gid: int | None,
        gids: list[int] | None,
        uid: int | None,
        umask: int,
        start_new_session: bool,
        process_group: int = -1,  # absent on Python 3.10; ours comes another way
    ) -> None:
        if shell and isinstance(args, os.PathLike):
            raise TypeError("path-like args is not allowed when shell is true")
        argv = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
        if not argv:
            raise ValueError("args: at least the program's name is needed")
        if shell:
            argv = [executable or "/bin/sh", "-c", *argv]
        if executable is None:
            executable = argv[0]
        sys.audit("subprocess.Popen", executable, argv, cwd, env)
        groups = None if gids is None else tuple(gids)
        config, facts = self._config, facts_of(self._config)
        ids = _plan.Request(uid=uid, gid=gid, groups=groups)
        known = config._memo.program
        if known is None or known[0][2] != facts or _plan.ids(config, known[0][0]) != _plan.ids(config, ids):
            # Before anything is opened; else it has been found good already, as it is now.
            check_types(config)
            _plan.check(config, facts, ids)
        with Lent() as lent:
            # Joining mnt leaves it; by Config.join without types, that is not known before all is opened.
            leaves = config.namespaces.path_of(NamespaceType.MNT) or config.target is not None
            caller_cwd = _caller_cwd() if leaves else b"/"
            child_ends = ((p2cread, 0), (c2pwrite, 1), (errwrite, 2))
            request = _plan.Request(
                cwd=None if cwd is None else (_arguments.encode("cwd", cwd), cwd),
                caller_cwd=caller_cwd,
                stdio=tuple((lent.above_stdio(fd, to), to) for fd, to in child_ends if fd != -1),
                pass_fds=tuple(pass_fds),
                close_fds=close_fds,
                restore_signals=restore_signals,
                start_new_session=start_new_session,
                process_group=self._process_group,
                umask=umask,
                uid=uid,
                gid=gid,
                groups=groups,
                orphan=self._orphan,
            )
            moves, home, there = lent.joins(config), -1, -1
            if facts.children_elsewhere:
                there, home = lent.of_children(config, moves)
            mission = _mission(config, request, moves, facts)
            if home < 0 and not isinstance(mission, Program) and children_are_elsewhere():
                # By unshare. A vfork child may be the first there, but not stage 0, which ends.
                there, home = lent.of_children(config, moves)
                mission = _mission(config, request, moves, facts._replace(children_elsewhere=True))
            program = _arguments.program(executable, argv, env)
            lends = lent.descriptors(config, launched=not isinstance(mission, Program))
            if isinstance(mission, Program):
                state = State()
                state.lend((*lends, *(move.fd for move in moves)), program)
                self._spawn(mission, state)
            else:
                from nsapi import _launcher

                spawn = _native.spawn if home < 0 else _at_home(home, there)
                death = config.parent_death_signal or 0
                given: list[_launcher.Launched] = []
                try:
                    _launcher.launch(mission, program, lends, *lent.opened(moves), death, spawn, given)
                finally:
                    if given:
                        self.pid, self._pidfd, self._reaper = given[0]
                        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _spawn(self, program: Program, state: State) -> None:
        try:
            _native.spawn(program, state)
            self.pid, self._pidfd = state.child
            self._child_created = True
        except BaseException:
            pid, pidfd = state.child
            if pid > 0:  # KeyboardInterrupt between the child's birth and these lines: nobody would know of it
                self.pid, self._pidfd = pid, pidfd
                self._child_created = True
                self.kill()
                self.wait()
            raise

    # __del__ comes here too, at the end of the interpreter, when modules may be empty: hence the default arguments.

    def _internal_poll(self, *args: Any, _nohang: int = getattr(os, "WNOHANG", 0), **keywords: Any) -> int | None:
        held = [False]
        try:
            if self.returncode is None:
                # The call and the assignment are one instruction: Ctrl-C would come between, and nobody wait any more.
                held[:] = map(self._waitpid_lock.acquire, held)  # type: ignore[attr-defined]
            if held[0] and self.returncode is None:
                pid, status = self._try_wait(_nohang)
                if pid:
                    self._handle_exitstatus(status)
        finally:
            if held[0]:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(
        self,
        wait_flags: int,
        _waitid: Any = getattr(os, "waitid", None),
        _pidfd_type: int = getattr(os, "P_PIDFD", 3),
        _exited: int = getattr(os, "WEXITED", 0),
        _by_exit: int = getattr(os, "CLD_EXITED", 0),
        _no_child: type[OSError] = ChildProcessError,
        _exit_status: Callable[[int], int] = _native.exit_status,
    ) -> tuple[int, int]:
        """Wait by pidfd: where somebody else has waited for the program, its number may be another child's by now."""
        if self._pidfd < 0:  # reaped before, and somebody has set returncode back to None
            return self.pid, 0
        try:
            found = _waitid(_pidfd_type, self._pidfd, _exited | wait_flags)
        except _no_child:
            status = _exit_status(self._pidfd)
            return self.pid, status if status >= 0 else 0  # 0 as subprocess: nobody can tell how it ended
        if found is None:
            return 0, 0
        return self.pid, found.si_status << 8 if found.si_code == _by_exit else found.si_status

    def _handle_exitstatus(
        self,
        *status: Any,
        _close: Any = os.close,
        _end_reaper: Any = _end_reaper,
    ) -> None:
        pidfd = reaper = -1
        try:
            super()._handle_exitstatus(*status)  # type: ignore[misc]
        finally:  # Ctrl-C may come after any call
            try:
                if self.returncode is not None:
                    with self._pidfd_lock:
                        pidfd, reaper = self._pidfd, self._reaper
                        self._pidfd = self._reaper = -1
            finally:
                try:
                    if pidfd >= 0:
                        _close(pidfd)
                finally:
                    _end_reaper(reaper)


class Orphan(Popen):
    """A program that is no child of this process: nobody waits for it, and it is not ours to reap."""

    _orphan = True

    def disown(self) -> None:
        """Forget the program, and close the pidfd."""
        pidfd, self._pidfd, self.returncode = self._pidfd, -1, 0
        if pidfd >= 0:
            os.close(pidfd)


def run(
    args: Path | Sequence[Path],
    *,
    config: Config | None = None,
    target: Any = None,
    types: Sequence[NamespaceType | str] = (),
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **keywords: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a program in namespaces and wait for it: :func:`subprocess.run` with a Config.

    *config*, *target*, *types* and what is raised are those of :class:`Popen`; all else is subprocess's. A timeout, counted
    from when the program has started, kills it and raises subprocess.TimeoutExpired.
    """
    if input is not None:
        if keywords.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        keywords["stdin"] = subprocess.PIPE
    if capture_output:
        if keywords.get("stdout") is not None or keywords.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        keywords["stdout"] = keywords["stderr"] = subprocess.PIPE
    started: list[Popen] = []
    try:
        # One call: Ctrl-C may come after it, and before the block has begun.
        started += map(partial(Popen, config=config, target=target, types=types, **keywords), [args])
        with started[0] as process:
            try:
                stdout, stderr = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()
                process.wait()  # after KeyboardInterrupt, __exit__ would not; what was read is in TimeoutExpired already
                raise
            status = process.poll()
            assert status is not None
    except BaseException:
        for process in started:
            process.kill()
            process.wait()
        raise
    if check and status:
        raise subprocess.CalledProcessError(status, process.args, output=stdout, stderr=stderr)
    return subprocess.CompletedProcess(process.args, status, stdout, stderr)


# ---- what subprocess leaves to its _execute_child ----


def _mission(config: Config, request: _plan.Request, joins: Sequence[Move], facts: _plan.Facts) -> Program | Mission:
    """Make the steps; what was made last for the same Config, unchanged since, and the same circumstances serves again."""
    key = request, tuple((move.types, move.words) for move in joins), facts
    memo = config._memo
    known = memo.program
    if known is not None and known[0] == key:
        return known[1]  # type: ignore[no-any-return]
    plan = _plan.plan(config, request, joins, facts)
    made: Program | Mission
    if plan.carrier == "vfork":
        made = Program(plan.steps)
    else:
        from nsapi import _bootstrap, _launcher  # with modules that most programs never need

        mapping = _plan.mapping(config, facts)
        message = _bootstrap.for_launcher(config, facts, mapping)
        made = _launcher.mission(plan, config, mapping, message, joins=bool(joins), orphan=request.orphan)
    if memo.snapshot == config._snapshot():  # else it has changed since validate, and these steps are of something else
        memo.program = key, made
    return made


def _at_home(home: int, there: int) -> Callable[[Program, State], None]:
    """Start the launcher's stage 0 in the caller's own pid namespace, among no strangers: it goes there by itself."""

    def spawn(program: Program, state: State) -> None:
        _switch.with_children_at(home, there, lambda: _native.spawn(program, state))

    return spawn


def _caller_cwd() -> bytes:
    try:
        return os.getcwdb()
    except OSError:  # it has been removed
        return b"/"
