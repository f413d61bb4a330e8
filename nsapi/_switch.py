# SPDX-License-Identifier: MIT
"""Moves the calling thread to other namespaces and back: the only place that knows what a thread can enter and leave.

Two programs for each move. *There* saves the thread's own namespaces (and root and cwd, for mnt), then sets the new
ones; *back* returns to what was moved and closes what was saved. The C core runs *back* by itself when *there* fails.

A thread has one place, and its blocks nest. Who leaves out of order gets a RuntimeError, and nothing is lost: the way
back of that block is taken as soon as those that were entered after it have been left.
"""

from __future__ import annotations

import sys
from _thread import _local
from errno import EINVAL, EUSERS

from nsapi import _native
from nsapi._errors import NamespaceError, NamespaceRestoreError, refused, threads
from nsapi._native import Program, State, Step
from nsapi._types import NamespaceType, flags_of, names_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any, Protocol

    class Closable(Protocol):
        def close(self) -> None: ...

    #: One block: who has entered, the way back and what is saved for it, the asyncio task, what to close afterwards.
    Entry = tuple[object, Program, State, object, Sequence[Closable]]

#: The types that one thread of many can enter and leave again.
ENTERABLE = tuple(each for each in NamespaceType if each not in (NamespaceType.USER, NamespaceType.TIME))
_ROOT, _CWD = 8, 9  # slots behind those of the eight types


class Move:
    """Where to go: *types* by one setns of *fd*, which is lent; *words* name the target in errors."""

    __slots__ = ("fd", "types", "words")

    def __init__(self, types: tuple[NamespaceType, ...], fd: int, words: str) -> None:
        self.types, self.fd, self.words = types, fd, words


class Trip:
    """The way there and the way back, which may be taken many times, by many threads."""

    __slots__ = ("_careful", "_moves", "_quick", "_saves", "back", "flags", "types")

    def __init__(self, types: tuple[NamespaceType, ...], saves: list[Step], moves: list[Step], back: Program) -> None:
        self.types, self.flags, self.back = types, flags_of(types), back
        self._saves, self._moves = saves, moves
        self._quick: Program | None = None
        self._careful: Program | None = None

    def quick(self) -> Program:
        """Save what is to be returned to, and go."""
        if self._quick is None:
            self._quick = Program([*self._saves, *self._moves])
        return self._quick

    def careful(self) -> Program:
        """Before going, set what has been saved: who may not do that could not come back."""
        if self._careful is None:
            returns = [
                _check_return(each, self._moves[0].filename if self._moves else None)  # in aid of which
                for each in sorted(
                    self._saves, key=lambda each: NamespaceType.MNT in each.types
                )  # it moves root and cwd
                if each.op == "open_own"
            ]
            self._careful = Program([*self._saves, *returns, *self._moves])
        return self._careful


def _check_return(saved: Step, filename: object = None) -> Step:
    words = f"check that the {saved.types[0].proc_name} namespace can be returned to"
    return Step("check_return", words, slot=saved.slot, flags=saved.flags, types=saved.types, filename=filename)


class Errand:
    """Steps made in a namespace of *type* within one call of the C core, which goes there and back.

    It serves any target and any thread. What the steps make is in *slots*, which do not begin before 1.
    """

    __slots__ = ("careful", "flag", "quick", "slots", "undo")

    def __init__(self, type: NamespaceType, steps: Sequence[Step], slots: Sequence[int]) -> None:
        home, back = own(type, 0), _back_program((type,)).steps
        there = Step("setns", f"setns {type.proc_name}", slot=_native.LENT, flags=type.flag, types=(type,))
        self.flag, self.slots = type.flag, slots
        self.quick = Program([home, there, *steps, *back])
        self.careful = Program([home, _check_return(home), there, *steps, *back])
        self.undo = Program([*back, *(Step("close", "close", slot=slot) for slot in slots)])


class _Me:
    """What is known of one thread."""

    __slots__ = ("entered", "joined_pid", "lost", "misused", "own_fs", "proven", "settled", "spare")

    def __init__(self) -> None:
        self.entered: list[Entry] = []
        self.misused = False  # it may have abandoned entries, or settled ones
        self.settled: list[object] = []  # who has left out of order, and has been gone back for
        self.lost: NamespaceRestoreError | None = None
        self.joined_pid = False
        self.own_fs = False  # it has agreed to a root, cwd and umask of its own
        self.proven = 0  # types that it has come back from: those it does not try out again
        self.spare: list[State] = []  # that are home again; making one takes a tenth of the time that entering takes

    def __del__(self) -> None:
        for _, _, state, _, _ in self.entered:  # the thread has ended inside, and nobody will ever go back
            state.close()
        self.entered.clear()  # for the iterator of a visit, in another thread


class _Thread(_local):
    def __init__(self) -> None:
        self.me = _Me()


thread = _Thread()


def check(types: Sequence[NamespaceType], *, unshare_fs: bool) -> None:
    """Refuse, before anything changes, what the calling thread could not enter or could not leave again."""
    if NamespaceType.USER in types:
        raise refused(
            EINVAL, "a thread can never come back out of a user namespace: use run or Popen", type=NamespaceType.USER
        )
    if NamespaceType.TIME in types:
        raise refused(
            EUSERS, "a time namespace is entered by new processes only: use run or Popen", type=NamespaceType.TIME
        )
    if NamespaceType.MNT in types:
        agree_on_fs("enter", unshare_fs=unshare_fs)


def load_all() -> None:
    """Import what is imported at first use, before a mount namespace is set: inside, each file is the target's."""
    sys.modules["nsapi"]._load_all()


def agree_on_fs(verb: str, *, unshare_fs: bool) -> None:
    """See that a mount namespace may be set: the thread is alone, or has agreed to its own root, cwd and umask."""
    load_all()
    if unshare_fs:
        thread.me.own_fs = True
    elif not thread.me.own_fs and not _native.single_threaded():
        raise refused(
            EINVAL,
            f"{threads()} that share root, cwd and umask. {verb}(…, unshare_fs=True) gives this thread its own, for good;"
            " run or Popen do it in a new process",
            type=NamespaceType.MNT,
        )


_back_programs: dict[tuple[NamespaceType, ...], Program] = {}
_home_programs: dict[tuple[NamespaceType, ...], Program] = {}


def _back_program(types: tuple[NamespaceType, ...]) -> Program:
    """Return to *types* from the slots that ``there`` has filled; one program serves all that enter the same types."""
    if types in _back_programs:
        return _back_programs[types]
    used = [*range(len(types)), *((_ROOT, _CWD) if NamespaceType.MNT in types else ())]
    closes = [Step("close", "close", slot=slot) for slot in used]
    return _back_programs.setdefault(types, Program([*_home_program(types).steps, *closes]))


def _home_program(types: tuple[NamespaceType, ...]) -> Program:
    """Return to *types*, and keep the slots for another time."""
    if types in _home_programs:
        return _home_programs[types]
    steps = []
    slots = {each: slot for slot, each in enumerate(types)}
    # mnt first: its root and cwd are only worth restoring in the mount namespace that they belong to.
    for each in sorted(types, key=lambda each: each is not NamespaceType.MNT):
        words = f"return to the {each.proc_name} namespace of before"
        steps.append(Step("return", words, slot=slots[each], flags=each.flag, types=(each,)))
        if each is NamespaceType.MNT:
            steps.append(Step("return_fs", "return to root and cwd of before", slot=_ROOT, value=_CWD, types=(each,)))
    return _home_programs.setdefault(types, Program(steps))


def own(each: NamespaceType, slot: int, *, of_children: bool = True) -> Step:
    """Open the calling thread's namespace of this type; for pid, that of its children, which is what setns changes."""
    pidfd_name, proc_name = each.proc_name.upper(), each.proc_name
    if each is NamespaceType.PID and of_children:
        pidfd_name, proc_name = "PID_FOR_CHILDREN", "pid_for_children"
    return Step(
        "open_own",
        f"open the {each.proc_name} namespace to return to",
        slot=slot,
        flags=each.flag,
        value=_native.constant(f"PIDFD_GET_{pidfd_name}_NAMESPACE"),
        path=proc_name.encode(),
        types=(each,),
    )


def has_moved_children() -> bool:
    """Tell whether enter or setns has set the pid namespace of what this thread starts."""
    me = thread.me
    return me.joined_pid or any(NamespaceType.PID in step.types for _, back, *_ in me.entered for step in back.steps)


def with_children_at(home: int, there: int, act: Callable[[], None]) -> None:
    """Act while what this thread starts is born in the pid namespace *home*, its own; then it is *there* again."""
    flags, types = NamespaceType.PID.flag, (NamespaceType.PID,)
    go = Program([Step("setns", "start in the own pid namespace", fd=home, flags=flags, types=types)])
    back = Program([Step("setns", "return to the pid namespace of the children", fd=there, flags=flags, types=types)])
    try:
        _native.run(go, State())
        act()
    finally:
        _native.run(back, State())


def go_for_good(move: Move) -> None:
    """Take this thread, which is to end there, into a mount namespace; first it gets a root and cwd of its own."""
    _native.run(Program([Step("unshare", "unshare fs", flags=_native.constant("CLONE_FS")), _set(move)]), State())


def note_children(*, elsewhere: bool) -> None:
    """Note whether the pid namespace of this thread's children is now, for good, another than its own."""
    thread.me.joined_pid = elsewhere


def _saves(types: tuple[NamespaceType, ...]) -> list[Step]:
    saves = [own(each, slot) for slot, each in enumerate(types)]
    if NamespaceType.MNT in types:
        fs_flags = _native.O_PATH | _native.O_DIRECTORY
        saves += [
            # Before CHECK_FS, which moves cwd about: it must be this thread's alone.
            Step("unshare", "unshare fs", flags=_native.constant("CLONE_FS")),
            Step("open", "open / to return to", path=b"/", flags=fs_flags, slot=_ROOT),
            Step("open", "open the working directory to return to", path=b".", flags=fs_flags, slot=_CWD),
            Step("check_fs", "check that root and cwd can be returned to", slot=_ROOT, value=_CWD),
        ]
    return saves


def _set(move: Move) -> Step:
    words = f"setns {names_of(move.types)} of {move.words}"
    return Step("setns", words, fd=move.fd, flags=flags_of(move.types), types=move.types, filename=move.words)


def plan(moves: Sequence[Move]) -> Trip:
    """Make the way there and the way back; the fds in *moves* must stay open until ``there`` has run."""
    types = tuple(each for move in moves for each in move.types)
    return Trip(types, _saves(types), [_set(move) for move in moves], _back_program(types))


_rounds: dict[NamespaceType, Trip] = {}


def plan_round(each: NamespaceType) -> Trip:
    """Make the way of a visit, which begins at home: what is to be returned to is saved and tried, and nothing moves."""
    if each not in _rounds:
        types = (each,)
        # Trying mnt has moved root and cwd.
        moves = _home_program(types).steps if each is NamespaceType.MNT else ()
        _rounds[each] = Trip(types, _saves(types), list(moves), _back_program(types))
    return _rounds[each]


_modules = sys.modules


def _current_task() -> object:
    """Tell which asyncio task is running; None outside of one. Only asked where asyncio has been imported."""
    asyncio: Any = _modules["asyncio"]
    running = getattr(asyncio, "_get_running_loop", None)  # another thread may be importing it just now
    return None if running is None or running() is None else asyncio.current_task()


def _refuse_lost(me: _Me) -> None:
    if me.lost is not None:
        raise NamespaceRestoreError(
            EINVAL, step="check", hint=f"this thread could not go back earlier, and is lost: {me.lost}"
        )


def enter(owner: object, trip: Trip, handles: Sequence[Closable] = ()) -> None:
    """Go there. If that fails, the thread is where it was, or NamespaceRestoreError says that it is lost.

    *handles* are closed when it has been left, not where entering fails.
    """
    me = thread.me
    if me.misused:
        _tidy(me)
    if me.lost is not None:
        _refuse_lost(me)
    task = _current_task() if "asyncio" in _modules else None
    there = trip.careful() if trip.flags & ~me.proven else trip.quick()
    state = me.spare.pop() if me.spare else State()
    entry = (owner, trip.back, state, task, handles)
    # KeyboardInterrupt comes at the start of a function or after a call of C: after this, until the caller's block has
    # begun, there must be neither. Hence the odd `del` instead of pop() all around.
    try:
        me.entered.append(entry)
        _native.enter(there, trip.back, state)
    except NamespaceRestoreError as error:  # told from the others without a call, which Ctrl-C could end
        me.lost = error
        del me.entered[-1]
        raise
    except BaseException:
        if state.holds:  # KeyboardInterrupt, right after the C core had done it
            _go_back(me)
        elif me.entered and me.entered[-1] is entry:
            del me.entered[-1]
        raise


def leave(me: _Me, owner: object) -> RuntimeError | None:
    """Go back from what *owner* entered last, which must be what this thread, and this task, entered last.

    If it is not, the error to be raised is returned. The thread is home then, or will be when what has been entered
    since has been left. After KeyboardInterrupt, what is still the last entry has not been left: call again.
    """
    task = _current_task() if "asyncio" in _modules else None
    entry = me.entered[-1] if me.entered else None
    if entry is None or entry[0] is not owner or entry[3] is not task or me.misused:
        return _leave_wrongly(me, owner, task)
    _go_back(me)
    return None


def leave_down_to(depth: int) -> None:
    """Leave, whoever has entered, all blocks of this thread but the outermost *depth*; after Ctrl-C, call again."""
    me = thread.me
    while len(me.entered) > depth:
        _go_back(me)


def _go_back(me: _Me) -> None:
    """Go back from the last entry."""
    _, back, state, _, handles = me.entered[-1]
    try:
        _native.leave(back, state)
    except NamespaceRestoreError as error:
        me.lost = error
        del me.entered[-1]
        _close(handles)
        raise
    except BaseException:  # KeyboardInterrupt
        if not state.holds:
            del me.entered[-1]
            _close(handles)
        raise
    del me.entered[-1]
    me.proven |= state.returned
    me.spare.append(state)
    if handles:
        _close(handles)


def _close(handles: Sequence[Closable]) -> None:
    for each in handles:
        each.close()


class _Abandoned:
    """Stands in an entry for its owner, who has left out of order."""

    __slots__ = ("owner",)

    def __init__(self, owner: object) -> None:
        self.owner = owner


_ORDER = "left out of order, or in another thread than entered: namespaces nest, thread by thread"
_REMEDY = (
    "A thread is in one place, and an await in the block lets other tasks run there:"
    " use nsapi.ThreadPoolExecutor(target, *types) with loop.run_in_executor"
)


def _name(task: Any) -> str:
    if task is None:
        return "no task"
    return (
        f"task {task.get_name()!r}" if hasattr(task, "get_name") else repr(task)
    )  # some loops have tasks of their own


def _leave_wrongly(me: _Me, owner: object, task: object) -> RuntimeError | None:
    """Leave as far as can be; tell what is wrong, if anything."""
    entered = me.entered
    own = [index for index, entry in enumerate(entered) if entry[0] is owner]
    if not own:
        again = next((index for index, each in enumerate(me.settled) if each is owner), None)
        if again is None:
            return RuntimeError(_ORDER)
        del me.settled[again]  # it tries again; once
        return None
    # Two tasks may be in blocks of the same handle.
    index = next((each for each in reversed(own) if entered[each][3] is task), own[-1])
    _, back, state, by, handles = entered[index]
    if index < len(entered) - 1:
        after = entered[-1][3]
        me.misused = True
        entered[index] = (_Abandoned(owner), back, state, by, handles)
        if task is None and by is None and after is None:
            return RuntimeError(_ORDER)
        return RuntimeError(
            f"{_ORDER}. Entered by {_name(by)}, left by {_name(task)} before what {_name(after)} has entered since;"
            f" the thread goes back when that has been left. {_REMEDY}"
        )
    try:
        _go_back(me)
    finally:
        _unwind(me)
    if by is task:
        return None
    return RuntimeError(
        f"entered by {_name(by)} and left by {_name(task)}; the thread has gone back only now. {_REMEDY}"
    )


def _unwind(me: _Me) -> None:
    """Go back for those who have left out of order, where nobody is inside any more who has entered since."""
    failed: NamespaceRestoreError | None = None
    while me.entered and isinstance(abandoned := me.entered[-1][0], _Abandoned):
        try:
            _go_back(me)
        except NamespaceRestoreError as error:
            failed = failed or error
        me.settled.append(abandoned.owner)
    me.misused = bool(me.settled) or any(isinstance(entry[0], _Abandoned) for entry in me.entered)
    if failed is not None:
        raise failed


def _tidy(me: _Me) -> None:
    """Forget, before something is entered, who may still try again; go back where Ctrl-C has kept it from being done."""
    me.settled.clear()
    _unwind(me)


def _return(me: _Me, back: Program, state: State) -> None:
    try:
        _native.leave(back, state)
    except NamespaceRestoreError as error:
        me.lost = error
        raise


def run(errand: Errand, where: int | bytes, words: str, state: State) -> None:
    """Run the errand in the namespace of an fd, which is lent, or at a path; *words* name it in errors.

    If it fails nothing has been made, and the thread is where it was, or NamespaceRestoreError says that it is lost. What
    has been made is in *state*, also after KeyboardInterrupt, which may come when all is done.
    """
    me = thread.me
    if me.lost is not None:
        _refuse_lost(me)
    try:
        _native.errand(errand.careful if errand.flag & ~me.proven else errand.quick, errand.undo, state, where, words)
    except NamespaceRestoreError as error:
        me.lost = error
        raise
    except BaseException:
        if state.moved:  # KeyboardInterrupt, right after the C core had not come back
            _return(me, errand.undo, state)
        raise
    me.proven |= errand.flag


class Leaving:
    """What a context manager does at the end of its block, where :func:`enter` has made it the owner."""

    __slots__ = ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        me = thread.me
        entered = me.entered
        entry = entered[-1] if entered else None
        try:
            wrong = leave(me, self)
        except BaseException:  # KeyboardInterrupt, before it has begun or before all was closed
            if entry is not None and entry[0] is self:
                if entered and entered[-1] is entry:
                    leave(me, self)
                _close(entry[4])
            raise
        if wrong is not None:
            raise wrong


def undo(handles: Sequence[Closable]) -> None:
    """Leave, if what these handles were opened for has been entered; close them."""
    me = thread.me
    try:
        if me.entered and me.entered[-1][4] is handles:
            _go_back(me)
    finally:
        _close(handles)


class Place:
    """Where a visit goes on: its entry, if that is the innermost of this thread, and the way to the next fd."""

    __slots__ = ("entered", "entry", "round")

    def __init__(self, trip: Trip, handles: Sequence[Closable]) -> None:
        me = thread.me
        _refuse_lost(me)
        self.entered = me.entered  # not me, which ends with its thread
        self.entry = self.entered[-1] if self.entered and self.entered[-1][4] is handles else None
        self.round = None if self.entry is None else _native.Round(_home_program(trip.types), self.entry[2], trip.flags)

    def is_here(self) -> bool:
        """Tell whether this is the thread and the task that has entered, and nothing entered since is still to be left."""
        entered, entry = self.entered, self.entry
        if thread.me.entered is not entered or entry is None or not entered or entered[-1] is not entry:
            return False
        return "asyncio" not in _modules or entry[3] is _current_task()


def failed_on(trip: Trip, fd: int, words: str) -> NamespaceError:
    """Make the error for a step of a visit that has failed; the thread is home, or lost."""
    me = thread.me
    error = _native.refusal([_set(Move(trip.types, fd, words))], me.entered[-1][2])
    if isinstance(error, NamespaceRestoreError):
        me.lost = error
    return error


def go_home(trip: Trip) -> None:
    """Go home within the innermost block, a visit's."""
    me = thread.me
    try:
        _native.leave(_home_program(trip.types), me.entered[-1][2])
    except NamespaceRestoreError as error:
        me.lost = error
        raise


def forget_proofs() -> None:
    """After setns and unshare: what this thread could return to may be another's now."""
    thread.me.proven = 0
