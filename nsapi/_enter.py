# SPDX-License-Identifier: MIT
"""Verbs that move the calling thread: enter, and the system calls setns and unshare themselves."""

from __future__ import annotations

import os
from errno import EINVAL, EUSERS

from nsapi import _native, _switch
from nsapi._errors import NamespaceError, refused, threads
from nsapi._handle import NamespaceHandle, children_are_elsewhere, current, type_of
from nsapi._native import Program, State, Step
from nsapi._switch import ENTERABLE, Move
from nsapi._target import is_pidfd, refuse_type_of_name, resolve, resolve_fd
from nsapi._types import NamespaceType, flags_of, names_of, parse_types, types_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, Generic, TypeVar, overload

    Entered = TypeVar("Entered", bound="NamespaceHandle | tuple[NamespaceHandle, ...]", covariant=True)

    class _Generic(Generic[Entered]):
        pass

else:
    Entered = None

    class _Generic:
        def __class_getitem__(cls, item: object) -> type:
            return cls


class Entering(_Generic[Entered]):
    """The context manager that :func:`enter` makes; entering opens the target, leaving closes it."""

    __slots__ = ("_target", "_types", "_unshare_fs")

    def __init__(self, target: Any, types: tuple[NamespaceType, ...], *, unshare_fs: bool) -> None:
        self._target, self._types, self._unshare_fs = target, types, unshare_fs

    def __enter__(self) -> Entered:
        """Open the target and go there; gives the handle, for several types a tuple of handles in their order."""
        handles: list[NamespaceHandle] = []
        visit = _Visit(self, handles)
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
                _switch.enter(visit, _switch.plan(moves))
        except BaseException:
            try:
                _switch.undo(visit)  # KeyboardInterrupt, when it was inside already
            finally:
                visit.close()
            raise
        return entered  # type: ignore[no-any-return]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        inside = _switch.thread.me.entered
        visit: Any = inside[-1][0] if inside else None  # not isinstance: Ctrl-C could come after a call of C
        if visit.__class__ is not _Visit or visit.context is not self:
            _switch.leave(self)  # which raises: this has not been entered last
            return
        try:
            visit.__exit__(kind, error, trace)
        finally:
            visit.close()


class _Visit(_switch.Leaving):
    """One block: of which context manager, and what it has opened. Several threads may be in blocks of the same one."""

    __slots__ = ("context", "handles")

    def __init__(self, context: object, handles: list[NamespaceHandle]) -> None:
        self.context, self.handles = context, handles

    def close(self) -> None:
        for handle in self.handles:
            handle.close()


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
