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
    from collections.abc import Sequence

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

    __slots__ = ("back", "there")

    def __init__(self, there: Program, back: Program) -> None:
        self.there, self.back = there, back


class _Me:
    """What is known of one thread."""

    __slots__ = ("entered", "joined_pid", "lost", "own_fs", "spare")

    def __init__(self) -> None:
        self.entered: list[tuple[object, Program, State]] = []
        self.lost: NamespaceRestoreError | None = None
        self.joined_pid = False
        self.own_fs = False  # it has agreed to a root, cwd and umask of its own
        self.spare: list[State] = []  # that are home again; making one takes a tenth of the time that entering takes


class _Thread(_local):
    def __init__(self) -> None:
        self.me = _Me()


_thread = _Thread()


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


def agree_on_fs(verb: str, *, unshare_fs: bool) -> None:
    """See that a mount namespace may be set: the thread is alone, or has agreed to its own root, cwd and umask."""
    sys.modules["nsapi"]._load_all()  # inside, whatever is imported is the target's
    if unshare_fs:
        _thread.me.own_fs = True
    elif not _thread.me.own_fs and not _native.single_threaded():
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


def children_are_elsewhere() -> bool:
    """Tell whether what this thread starts is born in a pid namespace that it has joined, among strangers."""
    me = _thread.me
    return me.joined_pid or any(NamespaceType.PID in step.types for _, back, _ in me.entered for step in back.steps)


def note_children(*, elsewhere: bool) -> None:
    """Note whether the pid namespace of this thread's children is now, for good, another than its own."""
    _thread.me.joined_pid = elsewhere


def plan(moves: Sequence[Move]) -> Trip:
    """Make the way there and the way back; the fds in *moves* must stay open until ``there`` has run."""
    types = tuple(each for move in moves for each in move.types)
    steps = [own(each, slot) for slot, each in enumerate(types)]
    if NamespaceType.MNT in types:
        fs_flags = _native.O_PATH | _native.O_DIRECTORY
        steps += [
            # Before CHECK_FS, which moves cwd about: it must be this thread's alone.
            Step("unshare", "unshare fs", flags=_native.constant("CLONE_FS")),
            Step("open", "open / to return to", path=b"/", flags=fs_flags, slot=_ROOT),
            Step("open", "open the working directory to return to", path=b".", flags=fs_flags, slot=_CWD),
            Step("check_fs", "check that root and cwd can be returned to", slot=_ROOT, value=_CWD),
        ]
    for move in moves:
        words = f"setns {names_of(move.types)} of {move.words}"
        steps.append(
            Step("setns", words, fd=move.fd, flags=flags_of(move.types), types=move.types, filename=move.words)
        )
    return Trip(Program(steps), _back_program(types))


def enter(owner: object, trip: Trip) -> None:
    """Go there. If that fails, the thread is where it was, or NamespaceRestoreError says that it is lost."""
    me = _thread.me
    if me.lost is not None:
        raise NamespaceRestoreError(
            EINVAL, step="check", hint=f"this thread could not go back earlier, and is lost: {me.lost}"
        )
    state = me.spare.pop() if me.spare else State()
    me.entered.append((owner, trip.back, state))
    try:
        _native.enter(trip.there, trip.back, state)
    except BaseException as error:
        me.entered.pop()
        if isinstance(error, NamespaceRestoreError):
            me.lost = error
        elif state.moved:  # KeyboardInterrupt, right after the C core had done it
            _leave(me, trip.back, state)
        raise


def leave(owner: object) -> None:
    """Go back from what *owner* entered last; it must be what this thread entered last."""
    me = _thread.me
    if not me.entered or me.entered[-1][0] is not owner:
        raise RuntimeError("left out of order, or in another thread than entered: namespaces nest, thread by thread")
    _, back, state = me.entered[-1]
    try:
        _leave(me, back, state)
    finally:
        me.entered.pop()
    me.spare.append(state)


def _leave(me: _Me, back: Program, state: State) -> None:
    try:
        _native.leave(back, state)
    except NamespaceRestoreError as error:
        me.lost = error
        raise
    except BaseException:  # KeyboardInterrupt before the call: go back first, then let it through
        if state.moved:
            _native.leave(back, state)
        raise
