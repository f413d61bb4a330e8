# SPDX-License-Identifier: MIT
"""Moves the calling thread to other namespaces and back: the only place that knows what a thread can enter and leave.

Two programs for each move. *There* saves the thread's own namespaces (and root and cwd, for mnt), then sets the new
ones; *back* returns to what was moved and closes what was saved. The C core runs *back* by itself when *there* fails.
"""

from __future__ import annotations

import sys
from _thread import _local
from errno import EINVAL, EUSERS

from nsapi import _native
from nsapi._errors import NamespaceRestoreError, refused, threads
from nsapi._native import Program, State, Step
from nsapi._types import NamespaceType, flags_of, names_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

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

    __slots__ = ("_careful", "_moves", "_quick", "_saves", "back", "flags")

    def __init__(self, types: Sequence[NamespaceType], saves: list[Step], moves: list[Step], back: Program) -> None:
        self.flags, self.back = flags_of(types), back
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
                _check_return(each, self._moves[0].filename)  # in aid of which
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

    __slots__ = ("entered", "joined_pid", "lost", "own_fs", "proven", "spare")

    def __init__(self) -> None:
        self.entered: list[tuple[object, Program, State]] = []
        self.lost: NamespaceRestoreError | None = None
        self.joined_pid = False
        self.own_fs = False  # it has agreed to a root, cwd and umask of its own
        self.proven = 0  # types that it has come back from: those it does not try out again
        self.spare: list[State] = []  # that are home again; making one takes a tenth of the time that entering takes

    def __del__(self) -> None:
        for _, _, state in self.entered:  # the thread has ended inside, and nobody will ever go back
            state.close()


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


def _back_program(types: tuple[NamespaceType, ...]) -> Program:
    """Return to *types* from the slots that ``there`` has filled; one program serves all that enter the same types."""
    if types in _back_programs:
        return _back_programs[types]
    steps = []
    slots = {each: slot for slot, each in enumerate(types)}
    # mnt first: its root and cwd are only worth restoring in the mount namespace that they belong to.
    for each in sorted(types, key=lambda each: each is not NamespaceType.MNT):
        words = f"return to the {each.proc_name} namespace of before"
        steps.append(Step("return", words, slot=slots[each], flags=each.flag, types=(each,)))
        if each is NamespaceType.MNT:
            steps.append(Step("return_fs", "return to root and cwd of before", slot=_ROOT, value=_CWD, types=(each,)))
    used = [*slots.values(), *((_ROOT, _CWD) if NamespaceType.MNT in types else ())]
    steps += [Step("close", "close", slot=slot) for slot in used]
    return _back_programs.setdefault(types, Program(steps))


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
    return me.joined_pid or any(NamespaceType.PID in step.types for _, back, _ in me.entered for step in back.steps)


def with_children_at(home: int, there: int, act: Callable[[], None]) -> None:
    """Act while what this thread starts is born in the pid namespace *home*, its own; then it is *there* again."""

    def step(fd: int, words: str) -> Program:
        return Program([Step("setns", words, fd=fd, flags=NamespaceType.PID.flag, types=(NamespaceType.PID,))])

    go, back = step(home, "start in the own pid namespace"), step(there, "return to the pid namespace of the children")
    try:
        _native.run(go, State())
        act()
    finally:
        _native.run(back, State())


def note_children(*, elsewhere: bool) -> None:
    """Note whether the pid namespace of this thread's children is now, for good, another than its own."""
    thread.me.joined_pid = elsewhere


def plan(moves: Sequence[Move]) -> Trip:
    """Make the way there and the way back; the fds in *moves* must stay open until ``there`` has run."""
    types = tuple(each for move in moves for each in move.types)
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
    sets = []
    for move in moves:
        words = f"setns {names_of(move.types)} of {move.words}"
        sets.append(Step("setns", words, fd=move.fd, flags=flags_of(move.types), types=move.types, filename=move.words))
    return Trip(types, saves, sets, _back_program(types))


def enter(owner: object, trip: Trip) -> None:
    """Go there. If that fails, the thread is where it was, or NamespaceRestoreError says that it is lost."""
    me = thread.me
    if me.lost is not None:
        raise _lost(me.lost)
    there = trip.careful() if trip.flags & ~me.proven else trip.quick()
    state = me.spare.pop() if me.spare else State()
    entry = (owner, trip.back, state)
    # KeyboardInterrupt comes at the start of a function or after a call of C: after this, until the caller's block has
    # begun, there must be neither. Hence the odd `del` instead of pop() all around.
    try:
        me.entered.append(entry)
        _native.enter(there, trip.back, state)
    except BaseException as error:
        if me.entered and me.entered[-1] is entry:
            del me.entered[-1]
        if isinstance(error, NamespaceRestoreError):
            me.lost = error
        elif state.moved:  # KeyboardInterrupt, right after the C core had done it
            _return(me, trip.back, state)
        raise


def leave(owner: object) -> None:
    """Go back from what *owner* entered last; it must be what this thread entered last.

    After KeyboardInterrupt, what is still the last entry has not been left: call again.
    """
    me = thread.me
    if not me.entered or me.entered[-1][0] is not owner:
        raise RuntimeError("left out of order, or in another thread than entered: namespaces nest, thread by thread")
    _, back, state = me.entered[-1]
    try:
        _return(me, back, state)
    except BaseException as error:
        if not state.moved or isinstance(error, NamespaceRestoreError):
            del me.entered[-1]
        raise
    del me.entered[-1]
    me.proven |= state.returned
    me.spare.append(state)


def _lost(why: NamespaceRestoreError) -> NamespaceRestoreError:
    return NamespaceRestoreError(
        EINVAL, step="check", hint=f"this thread could not go back earlier, and is lost: {why}"
    )


def run(errand: Errand, where: int | bytes, words: str, state: State) -> None:
    """Run the errand in the namespace of an fd, which is lent, or at a path; *words* name it in errors.

    If it fails nothing has been made, and the thread is where it was, or NamespaceRestoreError says that it is lost. What
    has been made is in *state*, also after KeyboardInterrupt, which may come when all is done.
    """
    me = thread.me
    if me.lost is not None:
        raise _lost(me.lost)
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
        entered = thread.me.entered
        entry = entered[-1] if entered else None
        try:
            leave(self)
        except BaseException:  # KeyboardInterrupt, before it has begun
            if entry is not None and entry[0] is self and entered and entered[-1] is entry:
                leave(self)
            raise


def undo(owner: object) -> None:
    """Leave, if *owner*, made for this one visit, has been entered."""
    if thread.me.entered and thread.me.entered[-1][0] is owner:
        leave(owner)


def _return(me: _Me, back: Program, state: State) -> None:
    try:
        _native.leave(back, state)
    except NamespaceRestoreError as error:
        me.lost = error
        raise


def forget_proofs() -> None:
    """After setns and unshare: what this thread could return to may be another's now."""
    thread.me.proven = 0
