# SPDX-License-Identifier: MIT
"""Popen and run: subprocess's, with a Config. The C core makes the child; no Python runs between clone and exec."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from errno import EINVAL, EXDEV
from typing import Any

from nsapi import _arguments, _native, _plan, _switch
from nsapi._config import Config, Namespace, joined_namespace
from nsapi._errors import NamespaceError, refused, unsupported
from nsapi._handle import NamespaceHandle, children_are_elsewhere, current
from nsapi._native import Program, State
from nsapi._switch import Move
from nsapi._target import Target, resolve
from nsapi._types import NamespaceType, is_namespace_supported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from nsapi._arguments import File, Path


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
    if not isinstance(config, Config):
        raise TypeError(f"config: {config!r} is no Config")
    return config


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

    _pidfd = -1
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
        for name, number in (("process_group", process_group), ("umask", umask)):
            if isinstance(number, int) and not -(2**31) <= number < 2**31:
                raise ValueError(f"{name}: {number} is more than the kernel can hold")  # it would cut it, to 0 perhaps
        # Python 3.10's has no such keyword; it comes to _execute_child past subprocess, everywhere.
        self._process_group = -1 if process_group is None else process_group
        if not (user is None and group is None and extra_groups is None):
            raise unsupported(_plan.IDS)  # before Python 3.10 opens pipes, and forgets them where a name is unknown
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
        *_, p2cwrite, c2pread, _, errread, _ = (0, *self._ends)
        for fd, file in ((p2cwrite, "stdin"), (c2pread, "stdout"), (errread, "stderr")):
            # Of a pipe for which there was no file yet, as for an unknown encoding. Where Ctrl-C came between the file's
            # making and its keeping, it has closed itself, and the number may be another thread's by now.
            if fd != -1 and getattr(self, file, None) is None and _arguments.file_of(fd) == self._pipes.get(fd):
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
        self._ends = super()._get_handles(*files)  # type: ignore[misc]
        self._pipes = {fd: _arguments.file_of(fd) for fd in (self._ends[1], self._ends[2], self._ends[4]) if fd != -1}
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
        facts = _facts(self._config)
        known = self._config._memo.program
        if known is None or known[0][2] != facts:  # else this has been found good already, as it is now
            _plan.check(self._config, facts)  # before anything is opened
        with _Lent() as lent:
            # Joining mnt leaves it; by Config.join without types, that is not known before all is opened.
            leaves = self._config.namespaces.path_of(NamespaceType.MNT) or self._config.target is not None
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
                ids=not (gid is None and gids is None and uid is None),
            )
            joins = lent.joins(self._config)
            program = _program(self._config, request, joins, facts)
            state = State()
            fds = *lent.descriptors(self._config), *(move.fd for move in joins)
            state.lend(fds, _arguments.program(executable, argv, env))
            self._spawn(program, state)
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
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(_nohang)
                    if pid:
                        self._handle_exitstatus(status)
            finally:
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
    ) -> tuple[int, int]:
        """Wait by pidfd: where somebody else has waited for the program, its number may be another child's by now."""
        if self._pidfd < 0:  # reaped before, and somebody has set returncode back to None
            return self.pid, 0
        try:
            found = _waitid(_pidfd_type, self._pidfd, _exited | wait_flags)
        except _no_child:
            return self.pid, 0  # as subprocess: it is dead, and nobody can tell how it ended
        if found is None:
            return 0, 0
        return self.pid, found.si_status << 8 if found.si_code == _by_exit else found.si_status

    def _handle_exitstatus(self, *status: Any, _close: Any = os.close) -> None:
        super()._handle_exitstatus(*status)  # type: ignore[misc]
        with self._pidfd_lock:
            pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            _close(pidfd)


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
    with Popen(args, config=config, target=target, types=types, **keywords) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()  # what was read so far is in the exception already
            raise
        except BaseException:
            process.kill()
            process.wait()  # after KeyboardInterrupt, __exit__ would not
            raise
        status = process.poll()
        assert status is not None
    if check and status:
        raise subprocess.CalledProcessError(status, process.args, output=stdout, stderr=stderr)
    return subprocess.CompletedProcess(process.args, status, stdout, stderr)


# ---- what a plan needs from the world ----


def _program(config: Config, request: _plan.Request, joins: Sequence[Move], facts: _plan.Facts) -> Program:
    """Make the steps; what was made last for the same Config, unchanged since, and the same circumstances serves again."""
    key = request, tuple((move.types, move.words) for move in joins), facts
    memo = config._memo
    known = memo.program
    if known is not None and known[0] == key:
        return known[1]
    program = Program(_plan.plan(config, request, joins, facts).steps)
    if memo.snapshot == config._snapshot():  # else it has changed since validate, and these steps are of something else
        memo.program = key, program
    return program


class _Lent:
    """Fds that are open for the time of one spawn; ``with`` closes them."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._handles: list[NamespaceHandle] = []
        self._targets: list[Target] = []

    def __enter__(self) -> _Lent:
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.close()
        for target in self._targets:
            target.__exit__()
        for fd in self._fds:
            os.close(fd)

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return self.above_stdio(fd)

    def above_stdio(self, fd: int, to: int = -1) -> int:
        """Move an fd that a dup2 could overwrite out of the way of 0, 1 and 2, which the caller may have closed."""
        if fd > 2 or fd == to:
            return fd
        import fcntl

        self._fds.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
        return self._fds[-1]

    def joins(self, config: Config) -> list[Move]:
        """Open all that is to be joined, before anything is: afterwards paths mean something else, or nothing."""
        moves = []
        joined = list(config.namespaces.joined())
        if config.target is not None:
            of_target = [each for each in joined if _is_of(each, config.target)]
            target = resolve(config.target)
            self._targets.append(target)
            if target.is_process:
                types = tuple(each.type for each in of_target) or self._differing(target, config)
                if types:
                    moves.append(Move(types, self.above_stdio(target.fd), target.words))
                joined = [each for each in joined if each not in of_target]
            elif not of_target:
                moves.append(self._move(target, None))
                (type,) = moves[0].types
                if config.namespaces.contains(type):
                    raise ValueError(f"{type.proc_name}: created or joined twice")
        for each in joined:
            with resolve(each.path if each.target is None else each.target) as target:
                moves.append(self._move(target, each.type))
        return moves

    def _move(self, target: Target, type: NamespaceType | None) -> Move:
        handle = target.open(type)
        self._handles.append(handle)
        return Move((handle.type,), self.above_stdio(handle.fileno()), target.words)

    def _differing(self, target: Target, config: Config) -> tuple[NamespaceType, ...]:
        """Take what differs from the caller's: joining one's own user namespace is an error, the rest a waste."""
        types = []
        for each in NamespaceType:
            if config.namespaces.contains(each) or not is_namespace_supported(each):
                continue
            there = target.open(each)
            self._handles.append(there)
            here = current(each)
            self._handles.append(here)
            if there != here:
                types.append(each)
        return tuple(types)

    def descriptors(self, config: Config) -> tuple[int, int, int]:
        """Open what the steps write to or look at, in the caller's namespaces: PROC, CGROUP and PARENT of the plan."""
        proc = cgroup = parent = -1
        if config.namespaces.is_private("user") or config.time_offsets or config.oom_score_adj is not None:
            proc = self._own(_open_directory("/proc"))
        if config.cgroup_path is not None:
            cgroup = self._cgroup(config.cgroup_path)
        if config.parent_death_signal is not None:
            parent = self._own(os.pidfd_open(os.getpid()))
        return proc, cgroup, parent

    def _cgroup(self, path: str | os.PathLike[str] | int) -> int:
        fd = path if isinstance(path, int) else self._own(_open_directory(os.fspath(path)))
        magic = _native.fs_magic(fd)
        if magic < 0:
            raise refused(-magic, f"cgroup_path: fd {path} is not open", filename=str(path))
        if magic == _native.constant("CGROUP2_SUPER_MAGIC"):
            return fd
        why = "it is no cgroup2 directory"
        if magic == _native.constant("CGROUP_SUPER_MAGIC"):
            why = "it is a cgroup v1 directory; on a hybrid host the cgroup2 tree is mounted at /sys/fs/cgroup/unified"
        raise refused(EINVAL, f"cgroup_path: {why}", filename=str(path))


def _is_of(namespace: Namespace, target: Any) -> bool:
    """Tell whether this join is of the target that was given to Config.join, which keeps paths and names as text only."""
    if namespace.target is not None:
        return namespace.target is target
    if not isinstance(target, (str, bytes, os.PathLike)):
        return False
    try:
        return namespace == joined_namespace(namespace.type, target)
    except ValueError:  # a name is of net only
        return False


def _open_directory(path: str) -> int:
    try:
        return os.open(path, _native.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NamespaceError(error.errno or EINVAL, None, path, step=f"open {path}") from None


def _facts(config: Config) -> _plan.Facts:
    """Find out what the plan for this Config depends on, and no more: each look costs a system call."""
    euid, oom, created = os.geteuid(), 0, config.namespaces.is_private
    dies = config.parent_death_signal
    main_thread = dies is None or threading.get_native_id() == os.getpid()
    if config.oom_score_adj is not None:
        oom = int(_own_proc("oom_score_adj"))
    return _plan.Facts(
        euid=euid,
        egid=os.getegid(),
        dumpable=euid == 0 or not created(NamespaceType.USER) or _native.dumpable() == 1,
        main_thread=main_thread,
        children_elsewhere=_switch.has_moved_children() and children_are_elsewhere(),
        kernel=_kernel() if created(NamespaceType.TIME) else _plan.TIME_AT_EXEC,
        oom_score_adj=oom,
        exec_gives_capabilities=bool(dies and main_thread and euid == 0) and _exec_gives_capabilities(),
    )


def _own_proc(name: str) -> bytes:
    """Read a file of this thread's in /proc, which may be a stranger's: neither wait at a FIFO, nor believe a plain file."""
    path = f"/proc/thread-self/{name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NamespaceError(error.errno or EINVAL, None, path, step=f"read {name}") from None
    try:
        if _native.fs_magic(fd) != _native.constant("PROC_SUPER_MAGIC"):
            raise refused(EXDEV, "something that is not procfs is mounted over /proc", filename=path)
        return os.read(fd, 16384)
    finally:
        os.close(fd)


def _exec_gives_capabilities() -> bool:
    """execve(2) of uid 0 makes the permitted capabilities anew, of the bounding and the inheritable ones."""
    lines = _own_proc("status").split(b"\n")
    sets = {line[:6]: int(line[7:], 16) for line in lines if line.startswith(b"Cap")}
    return bool((sets[b"CapBnd"] | sets[b"CapInh"]) & ~sets[b"CapPrm"])


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)


def _caller_cwd() -> bytes:
    try:
        return os.getcwdb()
    except OSError:  # it has been removed
        return b"/"
