# SPDX-License-Identifier: MIT
"""ThreadPoolExecutor, whose threads live inside: each goes in once, and ends there."""

from __future__ import annotations

import concurrent.futures
import copy
import functools
import os
import weakref
from _thread import allocate_lock
from concurrent.futures.thread import BrokenThreadPool
from errno import EINVAL, EMFILE, ENFILE, EUSERS
from threading import local

from nsapi import _native, _switch
from nsapi._enter import enter
from nsapi._errors import NamespaceError, hint, refused
from nsapi._handle import NamespaceHandle, current
from nsapi._native import Program, State, Step
from nsapi._target import resolve
from nsapi._types import NamespaceType, is_namespace_supported, names_of, parse_types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from typing import Any, TypeVar

    from typing_extensions import ParamSpec

    P = ParamSpec("P")
    T = TypeVar("T")

#: The types that a thread carries, and that the threads which it starts inherit.
_CARRIED = (NamespaceType.NET, NamespaceType.UTS, NamespaceType.IPC, NamespaceType.CGROUP, NamespaceType.MNT)
_FIRST = "the pool's first thread"


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """A ``concurrent.futures.ThreadPoolExecutor`` whose threads live in namespaces of *target*: the caller never moves.

    *target* takes every form of :func:`open`, *types* are one or more of net, uts, ipc, cgroup and mnt, and may be left
    out where the target is itself a namespace. The namespaces are opened here, once: every thread goes to these, also
    when the target has ended. In all other types a thread is where the maker of the pool was, whoever calls ``submit``.
    The other parameters are those of :mod:`concurrent.futures`; *initializer* runs inside.

    With mnt, each thread has its own root, cwd and umask, and begins at the root. Files are the target's then, those of
    Python's modules too: import what the tasks need before.

    Before each task the thread is looked at, and set back if the one before has moved it out of *types*. Whatever else a
    task changes, cwd and other types, stays changed in that thread. Threads end inside; ``shutdown``, or the end of the
    last thread, closes what was opened.

    Raises as :func:`enter` does, here and not in the first task: one thread is inside before this returns. A later thread
    that cannot enter puts its NamespaceError into the future whose turn it is, and BrokenThreadPool comes from every
    ``submit`` from then on, as after an initializer that failed. NamespaceError, ``EINVAL`` or ``EUSERS`` with step
    ``"check"``, for pid, user and time: use ``ProcessPoolExecutor``, ``call`` or :func:`run`.
    RuntimeError from ``submit`` in a child of :func:`os.fork`, in which there are no such threads.
    """

    def __init__(
        self,
        target: Any,
        *types: NamespaceType | str,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        _native.require()
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer: {initializer!r} is not callable")
        parsed = parse_types(types)
        _check(parsed)
        if not parsed and isinstance(target, int) and not isinstance(target, bool):
            raise _which(f"process {target}")
        enter(target, *types)  # which refuses what is no target, or one of another type
        self._place: _Place | None = _Place(initializer and functools.partial(initializer, *initargs))
        super().__init__(max_workers, thread_name_prefix, _begin, (weakref.ref(self._place),))
        waiting = False
        try:
            self._place.open(target, parsed)
            self.submit(int)  # and so the first thread is started
            waiting = True
            self._place.arrived.acquire()  # a lock, which Ctrl-C finds whole, unlike a Future
            waiting = False
            if self._place.refusal is not None:
                raise self._place.refusal
        except BaseException:
            self.shutdown(wait=not waiting)  # after Ctrl-C, the initializer may be running
            raise

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` called inside: as that of :class:`concurrent.futures.Executor`."""
        place = self._place
        if place is None:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if place.pid != os.getpid():
            raise RuntimeError(f"this pool has its threads in process {place.pid}; make another after fork")
        if place.failure is not None:
            raise BrokenThreadPool(f"a thread of this pool could not begin: {place.failure}") from place.failure
        return super().submit(_run, place, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; as that of :class:`concurrent.futures.Executor`. What was opened is closed with the threads."""
        place, self._place = self._place, None
        if place is not None and place.pid != os.getpid():
            place.close()  # the locks may be held by threads that there are none of here
            return
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait and place is not None:
            place.close()


def _which(words: str) -> TypeError:
    names = names_of(_CARRIED).replace(",", ", ")
    return TypeError(f"types: {words} has a namespace of each type: name one or more of {names}")


def _check(types: Iterable[NamespaceType]) -> None:
    for each in types:
        if each not in _CARRIED:
            why = "a thread never leaves its pid namespace" if each is NamespaceType.PID else "no thread can enter it"
            errnum = EUSERS if each is NamespaceType.TIME else EINVAL
            raise refused(errnum, f"{why}: use ProcessPoolExecutor, call or run", type=each)


class _Place:
    """Where the threads of one pool are to be. Who needs it holds it; the last one who lets go closes it.

    These are the pool until it is shut down, each task until it begins, each thread until it ends.
    """

    __slots__ = tuple("__weakref__ _enter arrived failure first handles home pid refusal start".split())

    def __init__(self, start: Callable[[], object] | None) -> None:
        self.start, self.pid = start, os.getpid()
        self.handles: list[NamespaceHandle] = []
        self.failure: BaseException | None = None  # why no more work is taken
        self.refusal: BaseException | None = None  # of the first thread
        self.arrived = allocate_lock()  # which it releases
        self.arrived.acquire()
        self.first: weakref.ref[_Worker] | None = None
        self.home: dict[NamespaceType, tuple[int, int]] = {}  # where it was born, in the other types

    def open(self, target: Any, types: tuple[NamespaceType, ...]) -> None:
        with resolve(target) as found:
            if not types and found.is_process:
                raise _which(found.words)
            for each in types or (None,):
                self.handles.append(found.open(each))
            words = found.words
        _check(each.type for each in self.handles)
        if self.holds(NamespaceType.MNT):
            _switch.load_all()  # in this thread: it may be in the middle of an import
        in_order = sorted(
            self.handles, key=lambda each: each.type is NamespaceType.MNT
        )  # it needs more than the others
        self._enter = Program([_setns(each.type, each.fileno(), words) for each in in_order])

    def holds(self, type: NamespaceType) -> bool:
        return any(each.type is type for each in self.handles)

    def enter(self) -> None:
        if self.holds(NamespaceType.MNT):
            _switch.agree_on_fs("enter", unshare_fs=True)
        borrowed: list[NamespaceHandle] = []
        try:
            for each in self.handles:  # shutdown joins all threads, but for one whose start Ctrl-C has interrupted
                each._borrow()
                borrowed.append(each)
            _native.run(self._enter, State())
        finally:
            for each in borrowed:
                each._release()
        _switch.forget_proofs()

    def close(self) -> None:
        for each in getattr(self, "handles", ()):  # Ctrl-C may have come before there are any
            each.close()

    __del__ = close


def _setns(type: NamespaceType, fd: int, words: str) -> Step:
    return Step("setns", f"setns {type.proc_name} of {words}", fd=fd, flags=type.flag, types=(type,), filename=words)


class _Here(local):
    worker: _Worker


_here = _Here()


def _begin(reference: weakref.ref[_Place]) -> None:
    """Run first in each thread: go in, then do what the user wants done in each.

    Raises nothing: concurrent.futures would log it with lines of source files, and whose would they be in here?
    """
    place = reference()
    if place is None:  # the pool is shut down, and nothing left to do
        return
    _here.worker = _Worker(place)
    start = place.start if _here.worker.arrive() else None
    del place  # a traceback keeps what this frame holds
    if start is not None:
        try:
            start()
        except BaseException as error:
            _here.worker.give_up(error)


def _run(place: _Place, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call it, but only inside. *place* has been kept open for this."""
    del place  # else the traceback of an exception would keep it
    trouble = _here.worker.trouble()
    if trouble is not None:
        raise trouble
    return fn(*args, **kwargs)


class _Worker:
    """One thread of a pool, in whose local storage it is, and with which it ends."""

    __slots__ = ("__weakref__", "_failure", "_place", "fd")

    def __init__(self, place: _Place) -> None:
        self._place, self.fd = place, -1
        self._failure: BaseException | None = None

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close

    def arrive(self) -> bool:
        place = self._place
        first = place.first is None
        if first:
            place.first = weakref.ref(self)
        try:
            self._open_proc()
            self._go_home()
            place.enter()
        except BaseException as error:
            self._fail(error)
            if first:
                place.refusal = error
        finally:
            if first:
                place.arrived.release()
        return self._failure is None

    def give_up(self, error: BaseException) -> None:
        broken = BrokenThreadPool(f"the initializer has failed: {error!r}")
        broken.__cause__ = error
        self._fail(broken)

    def trouble(self) -> BaseException | None:
        """See to it that the thread is inside, also if a task has moved it; else tell why no task can run here."""
        try:
            if self._failure is None and _switch.thread.me.lost is not None:
                self._fail(_switch.thread.me.lost)
            if self._failure is None and any(self._id(each.type) != each.id for each in self._place.handles):
                self._place.enter()
        except (OSError, ValueError) as error:
            self._fail(error)
        if self._failure is None:
            return None
        another = copy.copy(self._failure)  # for this future alone: raising it adds to it
        another.__cause__ = self._failure.__cause__
        return another

    def _fail(self, error: BaseException) -> None:
        self._failure = self._place.failure = error.with_traceback(None)  # whose frames would keep this

    def _open_proc(self) -> None:
        """Open this thread's directory of /proc, while /proc is the maker's. Where there is none, ioctls have to do."""
        path = "/proc/thread-self"
        try:
            self.fd = os.open(path, _native.O_PATH | _native.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (EMFILE, ENFILE):
                raise NamespaceError(error.errno, None, path, step=f"open {path}") from None
            return
        if _native.fs_magic(self.fd) != _native.constant("PROC_SUPER_MAGIC"):
            self.close()

    def _id(self, type: NamespaceType) -> tuple[int, int]:
        if self.fd >= 0:
            status = os.stat(f"ns/{type.proc_name}", dir_fd=self.fd)
            return status.st_dev, status.st_ino
        own = current(type)
        own.close()
        return own.id

    def _go_home(self) -> None:
        """A thread is born where the one that calls submit is: go to where the first was born, in the other types."""
        place = self._place
        others = [each for each in _CARRIED if not place.holds(each) and is_namespace_supported(each)]
        here = {each: self._id(each) for each in others}
        place.home = place.home or here
        for each in others:
            if here[each] != place.home[each]:
                self._join_first(each)

    def _join_first(self, type: NamespaceType) -> None:
        first = self._place.first and self._place.first()
        words = f"open the {type.proc_name} namespace of {_FIRST}"
        if not first or first.fd < 0:
            raise refused(EINVAL, f"submit was called in another {type.proc_name} namespace, and there is no /proc")
        fds: list[int] = []
        try:
            fds.append(os.open(f"ns/{type.proc_name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=first.fd))
            if type is NamespaceType.MNT:
                _switch.agree_on_fs("enter", unshare_fs=True)
                flags = _native.O_PATH | _native.O_DIRECTORY | os.O_CLOEXEC
                fds += [os.open(name, flags, dir_fd=first.fd) for name in ("root", "cwd")]
            status = os.fstat(fds[0])
            if (status.st_dev, status.st_ino) != self._place.home[type]:
                raise refused(EINVAL, f"{_FIRST} has been moved to another {type.proc_name} namespace by a task")
            _native.run(Program([_setns(type, fds[0], _FIRST)]), State())
            if type is NamespaceType.MNT:  # it has put root and cwd at the root of that namespace
                words = "return to root and cwd of before"
                os.fchdir(fds[1])
                os.chroot(".")
                os.fchdir(fds[2])
        except NamespaceError:
            raise
        except OSError as error:
            raise NamespaceError(
                error.errno or EINVAL, None, _FIRST, step=words, hint=hint(error.errno or 0, "open")
            ) from None
        finally:
            for fd in fds:
                os.close(fd)
