# SPDX-License-Identifier: MIT
"""ProcessPoolExecutor: interpreters that stay inside and are called again and again.

Each worker has a thread here, which sends it one call at a time and waits for the answer: all that can become of a call
is then what can become of :func:`nsapi.call`, and there is no third thread that both must tell about it. One more thread,
begun where the pool was made, starts workers: a thread that asks for a call may be in other namespaces by then.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from nsapi import _interpreter, _native, _worker
from nsapi._clone import Overdue
from nsapi._interpreter import Answer, Interpreter, InterpreterDied, Recipe
from nsapi._process import _config_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeVar

    from nsapi._config import Config
    from nsapi._types import NamespaceType

    Value = TypeVar("Value")

_PATIENCE = 5.0  # seconds that a worker may take to end as interpreters do


class _Item:
    """A call that has been asked for."""

    __slots__ = ("args", "func", "future", "keywords")

    def __init__(self, future: Future[Any], func: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.future, self.func, self.args, self.keywords = future, func, args, keywords


class _State:
    """What the threads of a pool share with it. They do not know the pool itself, so that it can be collected."""

    def __init__(self, recipe: Recipe, max_workers: int, first: tuple[Any, ...]) -> None:
        self.recipe, self.max_workers, self.first = recipe, max_workers, first
        self.queue: SimpleQueue[_Item | None] = SimpleQueue()  # None wakes a thread, to look whether this is the end
        self.wanted: SimpleQueue[bool] = SimpleQueue()  # for the thread that starts workers: one more, or the end
        self.lock = threading.Lock()
        self.idle = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []
        self.workers: list[Interpreter] = []
        self.promised = 0  # workers there are, and those that have been asked for
        self.users = 0  # threads that may need the recipe
        self.closed = False
        self.broken: str | None = None

    def close(self) -> None:
        """Let the threads end when nothing is left to do."""
        with self.lock:
            self.closed = True
        self.wanted.put(False)
        self.queue.put(None)
        self.use(0)

    def use(self, change: int) -> None:
        """Count the threads; with the last, the recipe goes."""
        with self.lock:
            self.users += change
            unused = self.closed and not self.users
        if unused:
            self.recipe.close()

    def join(self) -> None:
        """Wait for all threads; the one that starts others is waited for before those."""
        at = 0
        while at < len(self.threads):
            self.threads[at].join()
            at += 1

    def fail(self, why: str) -> None:
        """Give up: a worker has died, and nobody knows what it has done. The others are ended, all calls fail."""
        with self.lock:
            first, self.broken = self.broken is None, self.broken or why
            workers = list(self.workers)
        if first:
            for each in workers:
                each.interrupt()
        for item in self.take_waiting():
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(_broken(why))
        self.queue.put(None)

    def take_waiting(self) -> list[_Item]:
        """Take the calls out of the queue that nobody has begun."""
        found = []
        try:
            while True:
                item = self.queue.get_nowait()
                if item is not None:
                    found.append(item)
        except Empty:
            return found


def _broken(why: str) -> Exception:
    text = f"{why}; its calls and those that waited are lost"
    try:
        from concurrent.futures.process import BrokenProcessPool  # which loads all of multiprocessing
    except RuntimeError:  # and cannot at the end of the program
        return BrokenExecutor(text)
    return BrokenProcessPool(text)


def _start(state: _State, worker: Interpreter) -> Callable[[], Answer]:
    """Start a worker; what this gives is to be called for its answer, which says that it is inside."""
    worker.start(state.recipe, stdin=subprocess.DEVNULL)
    return partial(worker.ask, "the start of a worker", *state.first[:2])


def _add(state: _State, worker: Interpreter, begun: Callable[[], Answer] | None) -> None:
    """Give the worker its thread."""
    thread = threading.Thread(target=_run, args=(state, worker, begun), name=f"nsapi-pool-{worker.process.pid}")
    with state.lock:
        state.workers.append(worker)
        state.threads.append(thread)
    state.use(1)
    try:
        thread.start()
    except BaseException:
        with state.lock:
            state.workers.remove(worker)
            state.threads.remove(thread)
        state.use(-1)
        raise


def _start_wanted(state: _State) -> None:
    while state.wanted.get():
        if state.broken is not None:
            continue
        worker = Interpreter()
        try:
            begun = _start(state, worker)
            try:
                _add(state, worker, begun)
            except (
                RuntimeError
            ):  # no more threads, as at the end of the program since Python 3.12: those there are do it
                worker.kill()
        except BaseException as error:
            worker.kill()
            state.fail(f"a worker could not start: {_interpreter.said(error)}")
    state.use(-1)


def _run(state: _State, worker: Interpreter, begun: Callable[[], Answer] | None) -> None:
    """Give the worker one call after the other; the thread that belongs to it."""
    try:
        if begun is not None:
            begun().value()
        while (item := _next(state)) is not None:
            if item.future.set_running_or_notify_cancel():
                _perform(state, worker, item)
            del item
    except BaseException as error:
        state.fail(f"a worker could not start: {_interpreter.said(error)}")
    finally:
        _end(state, worker)


def _next(state: _State) -> _Item | None:
    """Wait for a call; None is the end."""
    try:
        item = state.queue.get_nowait()
    except Empty:
        state.idle.release()
        item = state.queue.get()
    while item is None:
        if state.closed or state.broken is not None:
            state.queue.put(None)  # for the next
            return None
        item = state.queue.get()
    return item


def _perform(state: _State, worker: Interpreter, item: _Item) -> None:
    try:
        payload, fds = _interpreter.request(item.func, item.args, item.keywords)
        value = worker.ask(_interpreter.words_of(item.func), payload, fds).value()
    except InterpreterDied as error:
        state.fail(str(error))
        item.future.set_exception(_broken(state.broken or str(error)))
    except BaseException as error:
        item.future.set_exception(error)
    else:
        item.future.set_result(value)


def _end(state: _State, worker: Interpreter) -> None:
    try:
        worker.until(time.monotonic() + (_PATIENCE if state.broken is None else 0))
        worker.end()
    except Overdue:
        worker.kill()
    with state.lock:
        state.workers.remove(worker)
    state.use(-1)


_pools: weakref.WeakSet[_State] = weakref.WeakSet()


def _at_exit() -> None:
    """Let what was asked for be done, as concurrent.futures does, before the interpreter ends."""
    for state in list(_pools):
        state.close()
        state.join()


_registered = False


def _register() -> None:
    global _registered
    if not _registered:
        threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
        _registered = True


class ProcessPoolExecutor(Executor):
    """A :class:`concurrent.futures.Executor` whose workers are interpreters in other namespaces, as those of :func:`call`.

    *config*, or *target* and *types*, are those of :class:`Popen`. A target is opened once, here: workers that are started
    later enter the same namespaces, wherever the process is then. Each worker has namespaces of its own where the config
    creates some; who wants them shared creates them first and gives them as target.

    The first worker is started here and has entered when this returns; the others, *max_workers* at most (as many as there
    are CPUs), when calls find none idle. With ``parent_death_signal`` and no ``init``, which the kernel ties to this thread,
    all are started here. *initializer*, called with *initargs*, is the first that a worker does. Where a mount namespace is
    joined, only what has been loaded by then can be called: the caller's script, and the module of *initializer*.

    What can be passed, and what is raised, is told at :func:`call`. A worker that dies breaks the pool: its call, those that
    wait and those to come raise concurrent.futures.process.BrokenProcessPool. Ctrl-C reaches the calls that run, as it does
    all of the terminal's processes, and no idle worker.

    Each worker has a thread in this process. A pool that is left (``with``, :meth:`shutdown`), dropped, or there at the end
    of the program, first does what was asked for; nothing is left running.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        config: Config | None = None,
        target: Any = None,
        types: Sequence[NamespaceType | str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        _native.require()
        config = _config_of(config, target, types)
        config.validate()
        if max_workers is None:
            max_workers = len(os.sched_getaffinity(0))
        if isinstance(max_workers, bool) or not isinstance(max_workers, int):
            raise TypeError(f"max_workers: {max_workers!r} is no int")
        if max_workers <= 0:
            raise ValueError(f"max_workers: {max_workers} is not greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer: {initializer!r} cannot be called")
        first = _interpreter.request(_worker.ready, (initializer, tuple(initargs)), {})
        recipe = Recipe(config)
        late = recipe.preparation.late
        recipe.preparation.load_main = late is not None and late.closed
        self._state = state = _State(
            recipe, max_workers, (*first, initializer, initargs)
        )  # the files that are named live on
        at_once = max_workers if config.parent_death_signal is not None and not config.init else 1
        try:
            for _ in range(at_once):
                worker = Interpreter()
                try:
                    _start(state, worker)().value()
                    _add(state, worker, None)
                except BaseException:
                    if worker not in state.workers:
                        worker.kill()
                    raise
                state.promised += 1
            if max_workers > at_once:
                starter = threading.Thread(target=_start_wanted, args=(state,), name="nsapi-pool")
                starter.start()
                state.threads.append(starter)
                state.use(1)
        except BaseException:
            state.close()
            state.join()
            raise
        _pools.add(state)
        _register()
        self._finalizer = weakref.finalize(self, state.close)
        self._finalizer.atexit = False

    def submit(self, fn: Callable[..., Value], /, *args: Any, **kwargs: Any) -> Future[Value]:
        """Ask for a call; its future has the value, or what call would raise."""
        state = self._state
        with state.lock:
            if state.broken is not None:
                raise _broken(state.broken)
            if state.closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            item = _Item(Future(), fn, args, kwargs)
            if not state.idle.acquire(blocking=False) and state.promised < state.max_workers:
                state.promised += 1
                state.wanted.put(True)
            state.queue.put(item)
        return item.future

    def map(
        self, fn: Callable[..., Value], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Value]:
        """Call *fn* with one element of each iterable at a time, *chunksize* in one message; the values in order."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        each = zip(*iterables)  # noqa: B905  # as map does
        chunks = iter(lambda: list(itertools.islice(each, chunksize)), [])
        results = super().map(partial(_worker.call_each, fn), chunks, timeout=timeout)
        return itertools.chain.from_iterable(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and let the workers end when those that were asked for are done, or cancelled."""
        state = self._state
        if cancel_futures:
            for item in state.take_waiting():
                item.future.cancel()
        state.close()
        if wait:
            state.join()
