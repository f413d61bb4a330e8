# SPDX-License-Identifier: MIT
"""The only importer of the C core: ints and bytes in, exceptions out. No cffi type is seen but here and in `_scan`."""

from __future__ import annotations

import os
import sys
import time
from _thread import _count as _thread_count
from _thread import get_native_id
from errno import EBADF, ENOMEM, ENOSYS

from nsapi._errors import NamespaceError, NamespaceRestoreError, Unsupported, hint, thread_count, unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from nsapi._types import NamespaceType


class _Absent:
    """Stands where the C core is missing: on another system than Linux. The model works, every verb ends here."""

    def __getattr__(self, name: str) -> Any:
        raise unsupported(f"namespaces are a feature of Linux, and this is {sys.platform}")


if TYPE_CHECKING or sys.platform == "linux":
    from nsapi._ffi import ffi as ffi
    from nsapi._ffi import lib as lib  # missing on Linux, the installation is broken: fail here
else:
    ffi = lib = _Absent()


def require() -> None:
    """Raise Unsupported where there is no C core."""
    getattr(lib, "nsapi_spawn")  # noqa: B009


O_PATH, O_DIRECTORY = getattr(os, "O_PATH", 0), getattr(os, "O_DIRECTORY", 0)


class Step:
    """One entry of a plan: which function of the C core, its arguments, and the words for it if it fails."""

    __slots__ = ("data", "fd", "filename", "flags", "length", "op", "path", "slot", "types", "value", "words")

    def __init__(
        self,
        op: str,
        words: str,
        *,
        fd: int = -1,
        slot: int = -1,
        flags: int = 0,
        value: int = 0,
        length: int = 0,
        path: bytes | None = None,
        data: bytes | None = None,
        types: tuple[NamespaceType, ...] = (),
        filename: object = None,
    ) -> None:
        self.op, self.words, self.types, self.filename = op, words, types, filename
        self.fd, self.slot, self.flags, self.value = fd, slot, flags, value
        self.length, self.path, self.data = length, path, data

    def __repr__(self) -> str:
        return f"<Step {self.op}: {self.words}>"


class Strings:
    """A NULL-terminated ``char *[]`` of bytes without NUL, with what it points to."""

    __slots__ = ("_block", "array", "count")

    def __init__(self, strings: Sequence[bytes]) -> None:
        self.count = len(strings)
        self._block = ffi.from_buffer(b"\0".join(strings) + b"\0")
        self.array = ffi.new("char *[]", len(strings) + 1)
        lib.nsapi_strings(self._block, len(strings), self.array)

    @property
    def block(self) -> bytes:
        """All of them, each with the NUL that ends it."""
        return bytes(ffi.buffer(self._block, len(self._block))) if self.count else b""


_environment: tuple[object, Strings] | None = None


def environment() -> Strings:
    """Copy the C library's environment, of which os.environ does not know what os.putenv and C have set.

    What was copied last serves again where both are the same still: the strings' addresses, and what Python knows.
    """
    global _environment
    if _thread_count() or get_native_id() != os.getpid():
        pointers = _environ()
        while (again := _environ()) != pointers:
            pointers = again
        return Strings([ffi.string(each) for each in pointers])
    # Nobody else runs Python, so that the table stays as it is; looking at it is a tenth of the work then.
    table, count = lib.environ, lib.nsapi_environ_count()
    key = bytes(ffi.buffer(table, count * _POINTER)) if count else b"", dict(getattr(os.environb, "_data", os.environb))
    known = _environment
    if known is not None and known[0] == key:
        return known[1]
    made = Strings([ffi.string(table[index]) for index in range(count)])
    _environment = key, made
    return made


def _environ() -> list[Any]:
    """List the pointers in environ. Each is read in one expression: between two, another thread may move the table."""
    pointers: list[Any] = []
    if lib.environ != ffi.NULL:
        while (each := lib.environ[len(pointers)]) != ffi.NULL:
            pointers.append(each)
    return pointers


class Exec:
    """What a spawn executes at last: the paths to try in order, argv and environ; *name* is for errors."""

    __slots__ = ("name", "raw", "strings")

    def __init__(self, name: Any, paths: Strings, argv: Strings, env: Strings) -> None:
        self.name, self.strings = name, (paths, argv, env)
        self.raw = ffi.new(_EXEC)
        self.raw.paths, self.raw.argv, self.raw.envp = paths.array, argv.array, env.array


class Program:
    """Steps as the C core wants them, with all that they point to kept alive. Never written to: threads may share it."""

    __slots__ = ("_kept", "raw", "steps")

    def __init__(self, steps: Sequence[Step]) -> None:
        array = ffi.new("nsapi_step[]", len(steps))
        kept = [array]
        for raw, step in zip(array, steps, strict=True):
            raw.op, raw.fd, raw.slot = getattr(lib, "NSAPI_" + step.op.upper()), step.fd, step.slot
            raw.flags, raw.value, raw.length = step.flags, step.value, step.length
            if step.path is not None:
                raw.path = path = ffi.new("char[]", step.path)
                kept.append(path)
            if step.data is not None:
                raw.data = data = ffi.new("char[]", step.data)
                kept.append(data)
        self.steps, self._kept = steps, kept
        self.raw = ffi.new("nsapi_program *", {"steps": array, "count": len(steps)})


class State:
    """What one run of steps has done so far, and holds: fds in slots, the types it has moved."""

    __slots__ = ("exec", "raw")

    def __init__(self) -> None:
        self.raw = ffi.new(_STATE)
        self.raw[0] = _EMPTY[0]
        self.exec: Exec | None = None

    @property
    def moved(self) -> bool:
        """Whether something has been moved and not yet returned to."""
        return bool(self.raw.moved & 0xFFFFFFFF)

    @property
    def holds(self) -> bool:
        """Whether what is to be returned to is saved: the first slot is filled first, and emptied when all is done."""
        return bool(self.raw.fd[0] >= 0)

    @property
    def returned(self) -> int:
        """The types that have been moved and returned to, as CLONE_NEW*."""
        return int(self.raw.moved >> 32)

    def close(self) -> None:
        """Close what is in the slots: of a thread that has ended inside."""
        lib.nsapi_close_all(self.raw)

    @property
    def child(self) -> tuple[int, int]:
        """The pid and pidfd of the child that has been spawned; -1 and -1 before."""
        return int(self.raw.pid), int(self.raw.pidfd)

    def lend(self, fds: Sequence[int], program: Exec) -> None:
        """Put what a spawn needs into the first slots, and what it is to execute; all stays the caller's."""
        self.fill(fds)
        self.exec, self.raw.exec = program, program.raw

    def fill(self, fds: Sequence[int], first: int = 0) -> None:
        """Put fds, which stay the caller's, into the slots from *first* on."""
        for slot, fd in enumerate(fds, first):
            self.raw.fd[slot] = fd

    def take_fd(self, slot: int) -> int:
        """Give away the fd in *slot*; -1 if there is none."""
        fd = self.raw.fd[slot]
        self.raw.fd[slot] = -1
        return int(fd)


class Held(State):
    """Owns what is in its slots: ``with`` closes it, or at the latest when nobody has it any more."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.raw = _gc(self.raw, lib.nsapi_close_all)  # no __del__, in which KeyboardInterrupt would be lost

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


if TYPE_CHECKING or sys.platform == "linux":
    _STATE = ffi.typeof("nsapi_state *")
    _EXEC = ffi.typeof("nsapi_exec *")
    _CELL, _NONE = ffi.typeof("int[1]"), (-1,)
    _new, _gc, _close = ffi.new, ffi.gc, lib.nsapi_close
    LENT: int = lib.NSAPI_LENT
    _NULL = ffi.NULL
    _POINTER = ffi.sizeof("char *")
    _EMPTY = ffi.new(_STATE, {"step": -1, "pid": -1, "pidfd": -1, "fd": [-1] * lib.NSAPI_SLOTS})


#: Stacks that no child is running on now: as many as threads have spawned at the same moment, up to a limit.
_stacks: list[Any] = []
_MAX_STACKS = 4


def _failure(program: Program, state: State) -> NamespaceError:
    """Find the words for the step that the C core says has failed."""
    name = None if state.exec is None else state.exec.name
    return failure(program.steps, state.raw.step, state.raw.errnum, name)


def failure(steps: Sequence[Step], index: int, errnum: int, executable: Any, target: object = None) -> NamespaceError:
    """Make the error for the step of this index; *executable* is the name of what an exec was to execute.

    *target* is what the steps were lent, where that is not in their words.
    """
    step = steps[index]
    names = tuple(each.proc_name for each in step.types)
    words, filename = step.words, step.filename
    if target is not None:
        filename = target
        words = f"{words} of {target}" if step.slot == LENT else words
    if step.op == "exec" and step.slot < 0 and executable is not None:
        filename = executable
        words = f"{words} {os.fsdecode(filename)}"
    return (Unsupported if errnum == ENOSYS else NamespaceError)(
        errnum,
        None,
        filename,
        step=words,
        index=index,
        total=len(steps),
        type=step.types[0] if len(step.types) == 1 else None,
        hint=hint(errnum, step.op, step.words, names),
    )


def run(program: Program, state: State) -> None:
    """Perform the steps in the calling thread."""
    if lib.nsapi_run(program.raw, state.raw) < 0:
        raise _failure(program, state)


def enter(program: Program, back: Program, state: State) -> None:
    """Perform the steps in the calling thread; if one fails, perform *back* in the same call. *state* begins anew."""
    if lib.nsapi_enter(program.raw, back.raw, state.raw) < 0:
        raise refusal(program.steps, state)


def errand(program: Program, back: Program, state: State, where: int | bytes, target: str) -> None:
    """Perform the steps as :func:`enter` does, the slot LENT being *where*, a lent fd or a path, which is opened and closed.

    *target* names it in errors.
    """
    fd, path = (-1, where) if isinstance(where, bytes) else (where, _NULL)
    if lib.nsapi_errand(program.raw, back.raw, state.raw, fd, path) < 0:
        if state.raw.step < 0:
            raise NamespaceError(state.raw.errnum, None, target, step=f"open {target}")
        error = failure(program.steps, state.raw.step, state.raw.errnum, None, target)
        if program.steps[state.raw.step].op == "return" and state.raw.lost:
            raise _lost(state.raw.lost, error.step)
        raise _undone(error, state)


def refusal(steps: Sequence[Step], state: State) -> NamespaceError:
    """Make the error for a step that has failed; NamespaceRestoreError where going back after it has failed too."""
    return _undone(failure(steps, state.raw.step, state.raw.errnum, None), state)


def _undone(error: NamespaceError, state: State) -> NamespaceError:
    if not state.raw.lost:
        return error
    lost = _lost(state.raw.lost, f"going back after: {error.step}")
    lost.__cause__ = error
    return lost


def _lost(errnum: int, step: str | None) -> NamespaceRestoreError:
    return NamespaceRestoreError(errnum, step=step, hint="this thread stays half-way: let it end")


class Round:
    """What a visit goes on with: ``go(raw, fd)`` sets one more namespace, and performs *home* where that fails.

    It answers 0; -1 after a failure, of which :func:`refusal` tells; 1 in another thread than that of *state*.
    """

    __slots__ = ("_kept", "go", "raw")

    def __init__(self, home: Program, state: State, types: int) -> None:
        self._kept = home, state
        self.raw = ffi.new("nsapi_round *", {"home": home.raw, "state": state.raw, "types": types})
        self.go = lib.nsapi_go_on  # itself: a method around it would be a quarter of the time of a step


def leave(back: Program, state: State) -> None:
    """Perform all steps in the calling thread, whatever becomes of each; raise the first failure."""
    if lib.nsapi_leave(back.raw, state.raw) < 0:
        error = _failure(back, state)
        raise NamespaceRestoreError(
            error.errno or 0,
            step=error.step,
            index=error.index,
            total=error.total,
            type=error.type,
            hint="this thread stays where it is, and refuses to enter anything else: let it end",
        )


def spawn(program: Program, state: State) -> None:
    """Perform the steps in a vfork child; the first is its clone, the last its exec. *state* has its pid and pidfd."""
    try:
        stack = _stacks.pop()  # nobody else has it until it is back
    except IndexError:
        mapped = lib.nsapi_stack_new()
        if mapped == ffi.NULL:
            raise NamespaceError(ENOMEM, None, None, step="map the stack of a child") from None
        stack = ffi.gc(mapped, lib.nsapi_stack_free)
    result = lib.nsapi_spawn(program.raw, state.raw, stack)
    if len(_stacks) < _MAX_STACKS:
        _stacks.append(stack)
    if result < 0:
        raise _failure(program, state)


class Born:
    """What :func:`fork` has done: ``pid`` is -1 before, the child's in the parent, and 0 in the child."""

    __slots__ = ("_pid", "_pidfd")

    def __init__(self) -> None:
        self._pid, self._pidfd = ffi.new("int *", -1), ffi.new("int *", -1)

    @property
    def pid(self) -> int:
        """The pid."""
        return int(self._pid[0])

    @property
    def pidfd(self) -> int:
        """The pidfd, in the parent; -1 before and after."""
        return int(self._pidfd[0])

    def close(self, _close: Any = os.close) -> None:
        """Close the pidfd; more than once is no error."""
        fd = int(self._pidfd[0])
        if fd >= 0:
            self._pidfd[0] = -1
            _close(fd)


def fork(flags: int, born: Born) -> int:
    """Make a child with a copy of this single-threaded process, with CLONE_NEW* flags; 0, in both of them, or -errno."""
    return int(lib.nsapi_fork(flags, born._pid, born._pidfd))


def other_flags(flags: int) -> list[str]:
    """Name the flags of clone(2) in *flags* that are none of CLONE_NEW*."""
    rest, names = ffi.new("uint64_t *", flags & (2**64 - 1)), []
    while (name := lib.nsapi_take_flag(rest)) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


def new_cell() -> Any:
    """Make a place for one fd, before it is opened; when it ends, what nobody has taken out of it is closed.

    KeyboardInterrupt comes after any call of C, and the number that the call has answered would be lost. Who takes the fd
    out, ``cell[0]``, puts -1 there, with no call between the two.
    """
    return _gc(_new(_CELL, _NONE), _close)  # no __del__, in which KeyboardInterrupt would be lost


def cell_of(fd: int) -> Any:
    """Put an fd that somebody has handed over into a cell of its own."""
    cell = new_cell()
    cell[0] = fd
    return cell


def fill(cell: Any, function: Callable[..., int], *arguments: object) -> int:
    """Call a function of C that opens an fd; that, or what else it answers, which is no fd."""
    cell[0:1] = map(function, *[(each,) for each in arguments])  # the call and the assignment are one instruction
    return int(cell[0])


def take(cell: Any) -> int:
    """Take the fd out; it is the caller's from then on."""
    fd: int = cell[0]
    cell[0] = -1
    return fd


def fill_by_ioctl(cell: Any, fd: int, request: str) -> int:
    """Make the ioctl named *request* on *fd*, which opens another; that, or -errno."""
    return lib.nsapi_fill_by_ioctl(cell, fd, getattr(lib, request))


def fill_with_pidfd(cell: Any, pid: int) -> int:
    """Open a pidfd of the process *pid*; that, or -errno."""
    return lib.nsapi_fill_with_pidfd(cell, pid)


def close_cell(cell: Any) -> None:
    """Close the fd, if there is one."""
    lib.nsapi_close(cell)


class Fd:
    """Owns the fd that a function of C has opened: ``number``, or -errno where there is none.

    It is closed at the end of a block; where KeyboardInterrupt comes before that, with this object: see new_cell.
    """

    __slots__ = ("cell",)

    def __init__(self, function: Callable[..., int], *arguments: object) -> None:
        self.cell = new_cell()
        fill(self.cell, function, *arguments)

    @property
    def number(self) -> int:
        return int(self.cell[0])

    def __enter__(self) -> int:
        return int(self.cell[0])

    def __exit__(self, *exc: object) -> None:
        close_cell(self.cell)


def ioctl(fd: int, request: str) -> int:
    """Make the ioctl named *request* on *fd*, for those that answer by their result; that, or -errno."""
    # cffi would wrap a number that does not fit an int; the kernel answers EBADF.
    return int(lib.nsapi_ioctl(fd, getattr(lib, request), ffi.NULL)) if 0 <= fd < 2**31 else -EBADF


def ioctl_u32(fd: int, request: str) -> int:
    """Make an ioctl that answers in a 32-bit number (an uid); that, or -errno."""
    answer = ffi.new("uint32_t *")
    result = int(lib.nsapi_ioctl(fd, getattr(lib, request), answer))
    return int(answer[0]) if result >= 0 else result


def ioctl_u64(fd: int, request: str) -> int:
    """Make an ioctl that answers in a 64-bit number (a namespace's id); that, or -errno."""
    answer = ffi.new("uint64_t *")
    result = int(lib.nsapi_ioctl(fd, getattr(lib, request), answer))
    return int(answer[0]) if result >= 0 else result


def ioctl_pid(fd: int, request: str, pid: int) -> int:
    """Make an ioctl that translates *pid*; the other number, or -errno."""
    return int(lib.nsapi_ioctl(fd, getattr(lib, request), ffi.cast("void *", pid)))


def pidfd_open(pid: int) -> int:
    """Open a pidfd of the process *pid*; that, or -errno."""
    return int(lib.nsapi_pidfd_open(pid, 0))


def fill_with_own_pidfd(cell: Any) -> int:
    """Open a pidfd of the calling thread, not of its process (Linux 6.9); that, or -errno."""
    return fill(cell, lib.nsapi_pidfd_open, get_native_id(), lib.PIDFD_THREAD)


def fill_with_other(cell: Any, pidfd: int, request: str, other: int, other_request: str) -> int:
    """Open what PIDFD_GET_*request* gives of *pidfd* (Linux 6.11); -EEXIST if it is the same of *other*; or -errno."""
    get = getattr(lib, f"PIDFD_GET_{request}_NAMESPACE"), getattr(lib, f"PIDFD_GET_{other_request}_NAMESPACE")
    return fill(cell, lib.nsapi_open_other, pidfd, get[0], other, get[1])


def exit_status(pidfd: int, _lib: Any = lib) -> int:
    """Tell the wait status of a child that somebody else has waited for; or -errno where the kernel does not know it."""
    return _lib.nsapi_exit_status(pidfd)  # type: ignore[no-any-return]


def fs_magic(fd: int) -> int:
    """Tell which file system *fd* is on, as statfs(2) f_type; or -errno."""
    return int(lib.nsapi_fs_magic(fd))


def dumpable() -> int:
    """Tell whether this process is dumpable: 1 where its /proc files belong to its user."""
    return int(lib.nsapi_dumpable())


def single_threaded() -> bool:
    """Tell whether this process has one thread, by the kernel's count; by /proc where a filter keeps the kernel from it.

    One that Python has joined is on its way out, and the kernel still counts it: it gets a moment to be gone.
    """
    deadline = time.monotonic() + _FAREWELL
    while not _alone():
        if _thread_count() or time.monotonic() > deadline:  # Python's, that run; or those of a C library
            return False
        time.sleep(0.0001)
    return True


_FAREWELL = 0.1


def _alone() -> bool:
    answer = lib.nsapi_single_threaded()
    return thread_count() == 1 if answer < 0 else bool(answer)


def constant(name: str) -> int:
    """Look a kernel constant up, as the compiler knows it."""
    return int(getattr(lib, name))
