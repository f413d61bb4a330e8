# SPDX-License-Identifier: MIT
"""Verbs that move the calling thread: enter, visit, and the system calls setns and unshare themselves."""

from __future__ import annotations

import os
from errno import EINVAL, EUSERS
from sys import modules

from nsapi import _native, _switch
from nsapi._errors import NamespaceError, NamespaceRestoreError, refused, threads
from nsapi._handle import NamespaceHandle, children_are_elsewhere, current, type_of
from nsapi._native import Program, State, Step
from nsapi._switch import ENTERABLE, Move
from nsapi._target import is_pidfd, refuse_type_of_name, resolve, resolve_fd
from nsapi._types import NamespaceType, flags_of, names_of, parse_types, types_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Generic, NoReturn, TypeVar, overload

    Entered = TypeVar("Entered", bound="NamespaceHandle | tuple[NamespaceHandle, ...]", covariant=True)
    Given = TypeVar("Given")

    class _Leaving(_switch.Leaving, Generic[Entered]):
        pass

    class _LeavingRound(_switch.Leaving, Generic[Given]):
        pass

    class _Round(Generic[Given]):
        pass

else:
    Entered = Given = None

    class _Leaving(_switch.Leaving):
        __slots__ = ()

        def __class_getitem__(cls, item: object) -> type:
            return cls

    class _Round:
        __slots__ = ()
        __class_getitem__ = _Leaving.__dict__["__class_getitem__"]

    _LeavingRound = _Leaving


class Entering(_Leaving[Entered]):
    """The context manager that :func:`enter` makes; entering opens the target, leaving closes it."""

    __slots__ = ("_target", "_types", "_unshare_fs")

    def __init__(self, target: Any, types: tuple[NamespaceType, ...], *, unshare_fs: bool) -> None:
        self._target, self._types, self._unshare_fs = target, types, unshare_fs

    def __enter__(self) -> Entered:
        """Open the target and go there; gives the handle, for several types a tuple of handles in their order."""
        handles: list[NamespaceHandle] = []
        try:
            with resolve(self._target) as target:
                if not self._types and target.is_process:
                    raise _which(target.words)
                for each in self._types or (None,):
                    handles.append(target.open(each))  # one by one: of those before one that fails, none is lost
                types = tuple(each.type for each in handles)
                _switch.check(types, unshare_fs=self._unshare_fs)
                if target.is_process and len(types) > 1:
                    # One call moves all or none, and sees one moment of the target.
                    moves = [Move(types, target.fd, target.words)]
                else:
                    moves = [Move((each.type,), each.fileno(), target.words) for each in handles]
                entered: Any = handles[0] if len(handles) == 1 else tuple(handles)
                _switch.enter(self, _switch.plan(moves), handles)
        except BaseException:
            _switch.undo(handles)  # KeyboardInterrupt, when it was inside already
            raise
        return entered  # type: ignore[no-any-return]


def _which(words: str) -> TypeError:
    return TypeError(
        f"types: {words} has a namespace of each type: name one or more of {names_of(ENTERABLE).replace(',', ', ')}"
    )


if TYPE_CHECKING:

    @overload
    def enter(
        target: Any, type: NamespaceType | str = ..., /, *, unshare_fs: bool = False
    ) -> Entering[NamespaceHandle]: ...

    @overload
    def enter(
        target: Any,
        type: NamespaceType | str,
        second: NamespaceType | str,
        /,
        *types: NamespaceType | str,
        unshare_fs: bool = False,
    ) -> Entering[tuple[NamespaceHandle, ...]]: ...


def enter(target: Any, *types: NamespaceType | str, unshare_fs: bool = False) -> Entering[Any]:
    """Run a ``with`` block inside namespaces of *target*, the calling thread alone; then go back to where it was.

    *target* takes every form of :func:`open`. *types* may be left out where the target is itself a namespace. ``as``
    gives the :class:`NamespaceHandle`, for several types a tuple of them in their order.

    =================  ==============================================  =================================================
    type               inside                                          afterwards
    =================  ==============================================  =================================================
    net, uts, ipc,     this thread only; what it starts, threads and   back exactly; what was started stays there
    cgroup             processes, inherits it
    mnt                a single-threaded process. With other threads   root and cwd are the old ones too
                       refused, unless *unshare_fs*: that gives this
                       thread its own root, cwd and umask for good
    pid                processes that this thread starts; the thread   back exactly
                       itself never moves, and can start no threads
    user, time         refused, before anything changes: a thread      –
                       could not come back
    =================  ==============================================  =================================================

    Several types of a process are set by one setns(2) of its pidfd, all or none; a failure half-way is undone. Blocks
    nest, and exceptions pass through. Not for ``await`` inside the block: other tasks of the loop would run inside too.
    Leaving out of order, or in another asyncio task than entered, is a RuntimeError; the thread goes home all the same, at
    once or when what was entered since has been left.

    Raises NamespaceError with the step that failed, the thread being where it was; :class:`NamespaceRestoreError` if it
    is not, and cannot go back: that thread then refuses every further ``enter``. TypeError without *types* for a process.
    Needs CAP_SYS_ADMIN here and in the user namespace that owns the target; mnt CAP_SYS_CHROOT too.
    """
    _native.require()
    parsed = parse_types(types)
    refuse_type_of_name(target, parsed[0] if len(parsed) == 1 else None)
    if len(parsed) > 1 and isinstance(target, (str, bytes, os.PathLike, NamespaceHandle)):
        raise ValueError(f"types: {target!r} is one namespace, and {names_of(parsed)} were asked for")
    if isinstance(target, int) and not isinstance(target, bool) and not parsed:
        raise _which(f"process {target}")
    user_or_time = [each for each in parsed if each not in ENTERABLE]
    if user_or_time:
        _switch.check(user_or_time, unshare_fs=unshare_fs)
    return Entering(target, parsed, unshare_fs=unshare_fs)


class Visiting(_LeavingRound[Given]):
    """The context manager that :func:`visit` makes: gives an iterator, and goes home at the end of the block."""

    __slots__ = ("_targets", "_type", "_unshare_fs")

    def __init__(self, targets: Iterable[Given], type: NamespaceType, *, unshare_fs: bool) -> None:
        self._targets, self._type, self._unshare_fs = targets, type, unshare_fs

    def __enter__(self) -> Iterator[tuple[Given, NamespaceHandle]]:
        """Save the way home; nothing moves before the first step."""
        # Inside a mount namespace, code of a generator would look for its files in there.
        targets = list(self._targets) if self._type is NamespaceType.MNT else self._targets
        handles: list[NamespaceHandle] = []
        try:
            _switch.check((self._type,), unshare_fs=self._unshare_fs)
            trip = _switch.plan_round(self._type)
            each = _Steps(iter(targets), self._type, trip, handles)
            _switch.enter(self, trip, handles)
        except BaseException:
            _switch.undo(handles)
            raise
        return each

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "visit() is a context manager, which brings the thread home: "
            "with nsapi.visit(targets, type) as each: for target, handle in each: …"
        )


class _Steps(_Round[Given]):
    """The iterator of one visit: each step goes to the next namespace. It is not ended by a step that fails."""

    __slots__ = ("_handles", "_targets", "_trip", "_type", "_words")

    def __init__(
        self, targets: Iterator[Given], type: NamespaceType, trip: _switch.Trip, handles: list[NamespaceHandle]
    ) -> None:
        # handles holds what this step has opened; at the end of the block it is closed by whoever leaves.
        self._targets, self._type, self._trip, self._handles = targets, type, trip, handles
        self._words = ""

    def __next__(self) -> tuple[Given, NamespaceHandle]:
        for pair in self:
            return pair
        raise StopIteration

    def __iter__(self) -> Iterator[tuple[Given, NamespaceHandle]]:
        # All state is in self: what `for` uses is a generator because that takes half the time of calls of __next__.
        handles = self._handles
        place = _switch.Place(self._trip, handles)
        entered, entry, is_here, round = place.entered, place.entry, place.is_here, place.round
        if round is None or not is_here():
            raise _misplaced()
        go, raw, loaded, plain = round.go, round.raw, modules, NamespaceHandle
        for target in self._targets:
            if not entered or entered[-1] is not entry or ("asyncio" in loaded and not is_here()):
                raise _misplaced()
            handle: Any = target
            if handle.__class__ is not plain or handles:
                if not is_here():
                    raise _misplaced()
                handle = self._open(target)
            users = handle._users  # as in NamespaceHandle._go
            try:
                users.append(None)
                if handle._closed:
                    raise _misplaced() if not is_here() else self._closed(handle)
                if failed := go(raw, handle._fd):
                    raise self._failed(handle) if failed < 0 else _misplaced()
            finally:
                del users[-1]
                if handle._closed:
                    handle._close_unused()
            yield target, handle

    def _open(self, target: Any) -> NamespaceHandle:
        """Open what is no handle, after closing what the step before has opened."""
        handles = self._handles
        if handles:
            handles[-1].close()
            del handles[-1]
        if isinstance(target, NamespaceHandle):
            return target
        try:
            refuse_type_of_name(target, self._type)
            if self._type is NamespaceType.MNT or _is_own(target):
                _switch.go_home(self._trip)  # where names, paths and /proc are those that are meant
            with resolve(target) as resolved:
                handles.append(resolved.open(self._type))
                self._words = resolved.words
        except BaseException:
            _switch.go_home(self._trip)
            raise
        return handles[-1]

    def _failed(self, handle: NamespaceHandle) -> NamespaceError:
        error = _switch.failed_on(self._trip, handle._fd, self._words if self._handles else handle._words)
        if handle._type is not self._type and not isinstance(error, NamespaceRestoreError):  # the kernel has looked
            why = f"it is a {handle._type.proc_name} namespace, and {self._type.proc_name} was asked for"
            return refused(EINVAL, why, filename=handle._words, type=self._type)
        return error

    def _closed(self, handle: NamespaceHandle) -> ValueError:
        _switch.go_home(self._trip)
        return ValueError(f"the handle on {handle!r} is closed")


def _is_own(target: Any) -> bool:
    """Tell whether it names the caller's own process or thread, which at this moment is where the step before went."""
    if isinstance(target, (str, bytes, os.PathLike)):
        return os.fsdecode(target).startswith(("/proc/self/", "/proc/thread-self/", f"/proc/{os.getpid()}/"))
    pid = getattr(target, "pid", target)
    return isinstance(pid, int) and pid == os.getpid()


def _misplaced() -> RuntimeError:
    return RuntimeError(
        "visit() goes on in its own block only: in the thread and task that entered it, while nothing that was entered"
        " since, in it or by the code of targets, is still to be left, and not after its end"
    )


def visit(targets: Iterable[Given], type: NamespaceType | str, *, unshare_fs: bool = False) -> Visiting[Given]:
    """Go through namespaces of one *type*, the calling thread alone, straight from each to the next; home at the end.

    ::

        with nsapi.visit(targets, "net") as each:
            for target, handle in each:
                ...  # inside target

    *targets* is an iterable of anything that :func:`open` takes; ``target`` is what it gave. Handles are lent. What else
    there is is opened at its turn, and its ``handle`` closed when the next one's has come, or at the end.

    The thread is at home before the first step and again after the block: at its end, by ``break``, return, exception or
    Ctrl-C. After the last step, in the rest of the block, it is still in the last namespace. A target that cannot be
    entered raises from its step; the thread is home then, and ``next(each)`` may go on with the one behind it.

    The code of a generator runs where the thread is at that moment, in the namespace of the step before; give a list where
    that matters. For mnt it is used up before the block begins, and the thread goes home to open what is no handle: inside,
    every path is the target's. Otherwise each type does what it does in :func:`enter`; *unshare_fs* is for mnt, as there.

    Raises NamespaceError as :func:`enter` does, at ``with`` if this thread could not come back. TypeError for a bare
    ``for`` over it: an iterator that is broken out of would leave the thread away. RuntimeError for a step outside of its
    block, in another thread or task, or while something that was entered in the block has not been left.
    """
    _native.require()
    parsed = NamespaceType.parse(type)
    if parsed not in ENTERABLE:
        _switch.check((parsed,), unshare_fs=unshare_fs)
    if isinstance(targets, (str, bytes)) or not (hasattr(targets, "__iter__") or hasattr(targets, "__getitem__")):
        raise TypeError(f"targets: {targets!r} is no iterable of targets; for a single one there is enter()")
    return Visiting(targets, parsed, unshare_fs=unshare_fs)


def _mask(nstype: int | NamespaceType | str | Iterable[NamespaceType | str]) -> tuple[NamespaceType, ...]:
    if isinstance(nstype, bool):
        raise TypeError(f"nstype: {nstype!r} is no namespace type")
    if isinstance(nstype, int):
        return types_in(nstype)
    if isinstance(nstype, (str, NamespaceType)):
        return (NamespaceType.parse(nstype),)
    if not hasattr(nstype, "__iter__"):
        raise TypeError(f"nstype: {nstype!r} is no namespace type")
    return parse_types(nstype)


def setns(
    fd: Any, nstype: int | NamespaceType | str | Iterable[NamespaceType | str] = 0, *, unshare_fs: bool = False
) -> None:
    """Move the calling thread into the namespace that *fd* is on: setns(2), for good.

    *fd* is an int or has ``fileno()``; it is lent. On a namespace's file, *nstype* checks that it is of that type, and 0
    checks nothing; on a pidfd (Linux 5.8) it names the types to take from that process, several at once, all or none.
    For pid it is the children of the thread that move. mnt sets root and cwd to the root of the new namespace, and in a
    process with other threads needs ``unshare_fs=True``, which gives this thread its own root, cwd and umask for good.

    Raises NamespaceError, ``EINVAL`` with step ``"check"``: not of that type; user or mnt in a threaded process; one's
    own user namespace. ``EUSERS``: time in a threaded process. ``EPERM`` without CAP_SYS_ADMIN. ``EBADF``: *fd* is not open.
    ``ESRCH``: a pidfd of a process that has ended.
    """
    types = _mask(nstype)
    if isinstance(fd, NamespaceHandle):
        fd._borrow()  # so that close() in another thread does not let its number be reused meanwhile
        try:
            return _setns(fd._fd, types, unshare_fs=unshare_fs)
        finally:
            fd._release()
    number = fd if isinstance(fd, int) else getattr(fd, "fileno", lambda: fd)()
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"fd: {fd!r} is no file descriptor and has no fileno()")
    return _setns(number, types, unshare_fs=unshare_fs)


def _setns(number: int, types: tuple[NamespaceType, ...], *, unshare_fs: bool) -> None:
    words = f"fd {number}"
    magic = _native.fs_magic(number) if 0 <= number < 2**31 else -9
    if magic < 0:
        raise NamespaceError(-magic, None, words, step="setns")
    if magic == _native.constant("NSFS_MAGIC"):
        actual = type_of(number, words)
        if types and types != (actual,):
            raise refused(
                EINVAL, f"it is a {actual.proc_name} namespace, and {names_of(types)} was asked for", filename=words
            )
        types = (actual,)
    elif not is_pidfd(number):
        raise refused(EINVAL, "it is no namespace and no pidfd", filename=words)
    elif not types:
        raise refused(EINVAL, "for a pidfd nstype names the types to take from that process", filename=words)
    _check_alone(types)
    if NamespaceType.USER in types:
        _refuse_own_user(number, words)
    if NamespaceType.MNT in types:
        _switch.agree_on_fs("setns", unshare_fs=unshare_fs)
    step = Step("setns", f"setns {names_of(types)}", fd=number, flags=flags_of(types), types=types, filename=words)
    _native.run(Program([step]), State())
    _switch.forget_proofs()
    if NamespaceType.PID in types:
        _switch.note_children(elsewhere=children_are_elsewhere())


def _check_alone(types: tuple[NamespaceType, ...]) -> None:
    for each, errnum in ((NamespaceType.USER, EINVAL), (NamespaceType.TIME, EUSERS)):
        if each in types and not _native.single_threaded():
            why = f"{threads()}, and a {each.proc_name} namespace is for single-threaded ones: use run or Popen"
            raise refused(errnum, why, type=each)


def _refuse_own_user(number: int, words: str) -> None:
    here = current(NamespaceType.USER)
    try:
        with resolve_fd(number, words) as target:
            there = target.open(NamespaceType.USER)
        there.close()
    finally:
        here.close()
    if there == here:
        why = "a process cannot join the user namespace it is in; leave user out of nstype"
        raise refused(EINVAL, why, filename=words, type=NamespaceType.USER)


def unshare(*types: NamespaceType | str | int) -> None:
    """Give the calling thread fresh namespaces: unshare(2), for good. Processes and threads it starts inherit them.

    *types* are words or members, or one int mask of CLONE_NEW*. For pid and time it is the children that move, not the
    thread: pid lets it start no more threads, and the first child is pid 1. mnt gives the thread its own root, cwd and
    umask. After user, ids are 65534 until somebody writes the maps.

    Raises NamespaceError: ``EINVAL`` with step ``"check"`` for user in a threaded process, telling how many threads there
    are; ``EPERM`` without CAP_SYS_ADMIN unless user is among them; ``ENOSPC`` at a limit, naming the sysctl.
    """
    if not types:
        raise TypeError("types: name at least one namespace type")
    if len(types) == 1 and isinstance(types[0], int) and not isinstance(types[0], bool):
        parsed = _mask(types[0])
        if not parsed:
            raise ValueError("types: 0 names no namespace type")
    else:
        parsed = parse_types(types)  # type: ignore[arg-type]
    if NamespaceType.USER in parsed:
        _check_alone((NamespaceType.USER,))
    if NamespaceType.MNT in parsed:
        _switch.load_all()
    step = Step("unshare", f"unshare {names_of(parsed)}", flags=flags_of(parsed), types=parsed)
    _native.run(Program([step]), State())
    _switch.forget_proofs()
    if NamespaceType.MNT in parsed:  # the kernel has unshared root, cwd and umask with it
        _switch.agree_on_fs("unshare", unshare_fs=True)
