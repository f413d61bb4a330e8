"""Blocks and asyncio: a block without await is legitimate; one that is left by another task, or out of order, is told.

Nothing is lost by it: the thread comes home, at once or when what has been entered since has been left.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Runner
from inside import (
    CtrlC,
    at_every_moment,
    failure,
    fds,
    ns,
)
from test_enter import Equipped, changes, forbid, in_thread

import nsapi

WAYS = ("enter", "several", "handle", "handle.enter", "visit")

#: What the bodies share: places to go to, and a block of each way into one of them.
SHARED = '''
import asyncio, contextlib

@contextlib.contextmanager
def places(count=3):
    """Handles on new uts namespaces, and a process in one of them that lives as long."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(unshared("--uts", "--ipc")) for _ in range(count)]
        yield [stack.enter_context(contextlib.closing(nsapi.open(each, "uts"))) for each in processes], processes

@contextlib.contextmanager
def stepping(handle):
    with nsapi.visit([handle], "uts") as each:
        yield next(each)

def block(way, handle, process):
    if way == "enter":
        return nsapi.enter(process, "uts")
    if way == "several":
        return nsapi.enter(process, "uts", "ipc")
    if way == "visit":
        return stepping(handle)
    return handle if way == "handle" else handle.enter()

def where():
    return {**position(), "fds": fds()}
'''


@pytest.fixture(scope="session")
def root(root: Runner) -> Runner:
    runner = Equipped(root)
    runner.prelude += SHARED
    return runner


def places(count: int = 3) -> Any: ...  # for type checkers: those of SHARED


def block(way: str, handle: Any, process: Any) -> Any: ...


def where() -> Any: ...


@pytest.mark.parametrize("way", WAYS)
def test_a_block_without_await_is_legitimate_on_a_loop(root: Runner, way: str) -> None:
    """Many tasks, each with many blocks and awaits between them: every block is inside, all else is outside."""

    def body(way: str) -> Any:
        async def work(number: int) -> list[object]:
            wrong: list[object] = []
            for turn in range(20):
                at = (number + turn) % 3
                with block(way, handles[at], processes[at]):
                    if ns("uts") != ns("uts", processes[at].pid):
                        wrong.append("inside")
                    with handles[at - 1]:
                        pass
                await asyncio.sleep(0)
                if ns("uts") != home:
                    wrong.append("outside")
            return wrong

        async def main() -> Any:
            return await asyncio.gather(*(work(number) for number in range(5)))

        with places() as (handles, processes):
            home, before = ns("uts"), where()
            return [asyncio.run(main()), changes(before["fds"], fds())]

    assert root(body, way) == [[[]] * 5, []]


@pytest.mark.parametrize("second", ["handle", "visit"])
@pytest.mark.parametrize("way", WAYS)
def test_two_tasks_whose_blocks_interleave_are_told_and_come_home(root: Runner, way: str, second: str) -> None:
    """The first to enter is the first to leave: a RuntimeError with both names and the remedy; the other one leaves well."""

    def body(way: str, second: str) -> Any:
        async def main() -> Any:
            entered, left = asyncio.Event(), asyncio.Event()
            seen: dict[str, Any] = {}

            async def first_in() -> None:
                with block(way, handles[0], processes[0]):
                    await entered.wait()

            async def last_in() -> None:
                with block(second, handles[1], processes[1]):
                    entered.set()
                    await left.wait()
                    seen["inside"] = ns("uts") == ns("uts", processes[1].pid)
                seen["left"] = changes(before, where())

            tasks = [asyncio.create_task(first_in(), name="Ann"), asyncio.create_task(last_in(), name="Bob")]
            try:
                await tasks[0]
            except RuntimeError as error:
                seen["error"] = str(error)
            seen["stays"] = ns("uts") == ns("uts", processes[1].pid)
            left.set()
            await tasks[1]
            with block(way, handles[2], processes[2]):
                seen["again"] = ns("uts") == ns("uts", processes[2].pid)
            return seen

        with places() as (handles, processes):
            asyncio.run(asyncio.sleep(0))
            loop = asyncio.new_event_loop()
            before = where()
            seen = loop.run_until_complete(main())
            seen["after"] = changes(before, where())
            loop.close()
        return seen

    answer = root(body, way, second)
    error = answer.pop("error")
    for words in ("'Ann'", "'Bob'", "out of order", "nsapi.ThreadPoolExecutor(target, *types)", "loop.run_in_executor"):
        assert words in error
    assert answer == {"inside": True, "stays": True, "left": [], "again": True, "after": []}


def test_who_has_left_too_early_may_try_again_once(root: Runner) -> None:
    """What has been gone back for meanwhile is left; to leave it again is no error, until the thread enters something."""

    def body() -> Any:
        def leave(context: Any) -> bool:
            return failure(lambda: context.__exit__(None, None, None)) == {}

        with places(3) as (handles, _):
            before, answers = where(), []
            for then in (False, True):
                first, last = handles[0].enter(), handles[1].enter()
                first.__enter__()
                last.__enter__()
                answers.append([leave(first), leave(first), leave(last)])
                if then:
                    with handles[2]:
                        pass
                answers.append([leave(first), leave(first), changes(before, where()) == []])
        return answers

    early, again, early_too, too_late = root(body)
    assert early == early_too == [False, False, True]
    assert again == [True, False, True]
    assert too_late == [False, False, True]


def test_two_tasks_with_blocks_of_one_handle_are_told_apart(root: Runner) -> None:
    """It looks as if the one had left what the other has entered; it is out of order all the same."""

    def body() -> Any:
        async def main() -> Any:
            entered, left = asyncio.Event(), asyncio.Event()

            async def first_in() -> None:
                with handles[0]:
                    await entered.wait()

            async def last_in() -> Any:
                with handles[0]:
                    entered.set()
                    await left.wait()
                    return ns("uts") == ns("uts", processes[0].pid)

            tasks = [asyncio.create_task(first_in()), asyncio.create_task(last_in())]
            await asyncio.wait(tasks[:1])
            left.set()
            return [type(tasks[0].exception()).__name__, await tasks[1], ns("uts") == home]

        with places(1) as (handles, processes):
            home = ns("uts")
            return asyncio.run(main())

    assert root(body) == ["RuntimeError", True, True]


def test_any_order_of_leaving_ends_at_home(root: Runner) -> None:
    """Four blocks, by tasks and by generators without a loop, left in every order: whoever is not last is told, once."""

    def body() -> Any:
        import itertools

        def generator(number: int) -> Any:
            with block(ways[number], handles[number], processes[number]):
                yield

        async def task(number: int, leave: Any) -> None:
            with block(ways[number], handles[number], processes[number]):
                await leave.wait()

        async def main(order: Any) -> list[int]:
            leave = [asyncio.Event() for _ in order]
            tasks = []
            for number in range(len(order)):
                tasks.append(asyncio.create_task(task(number, leave[number])))
                await asyncio.sleep(0)
            told = []
            for number in order:
                leave[number].set()
                await asyncio.wait([tasks[number]])
                if isinstance(tasks[number].exception(), RuntimeError):
                    told.append(number)
            return told

        def plain(order: Any) -> list[int]:
            generators = [generator(number) for number in range(len(order))]
            for each in generators:
                next(each)
            told = []
            for number in order:
                try:
                    generators[number].close()
                except RuntimeError:
                    told.append(number)
            return told

        wrong: list[object] = []
        ways = ("handle", "enter", "visit", "several")
        with places(4) as (handles, processes):
            loop = asyncio.new_event_loop()
            before = where()
            for order in itertools.permutations(range(4)):
                # Who leaves while somebody is inside who has entered later.
                expected = [each for place, each in enumerate(order) if max(order[place:]) > each]
                for told in (loop.run_until_complete(main(order)), plain(order)):
                    if told != expected or changes(before, where()):
                        wrong.append([order, told, expected, changes(before, where())])
            loop.close()
        return wrong

    assert root(body) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_block_that_another_task_leaves_is_left_and_told(root: Runner, way: str) -> None:
    """A generator that is resumed in another task, or outside of the loop: the thread is home, and both are named."""

    def body(way: str) -> Any:
        def generator() -> Any:
            with block(way, handles[0], processes[0]):
                yield

        async def start(each: Any) -> None:
            next(each)

        async def finish(each: Any) -> str:
            try:
                each.close()
            except RuntimeError as error:
                return str(error)
            return ""

        async def main() -> Any:
            running = generator()
            await asyncio.create_task(start(running), name="Ann")
            return await asyncio.create_task(finish(running), name="Bob")

        with places(1) as (handles, processes):
            loop = asyncio.new_event_loop()
            before = where()
            answers = [[loop.run_until_complete(main()), changes(before, where())]]
            outside = generator()
            next(outside)
            answers.append([loop.run_until_complete(loop.create_task(finish(outside), name="Bob")), []])
            answers[-1][1] = changes(before, where())
            inside = generator()
            loop.run_until_complete(loop.create_task(start(inside), name="Ann"))
            try:
                inside.close()
            except RuntimeError as error:
                answers.append([str(error), changes(before, where())])
            around = block(way, handles[0], processes[0])  # a loop that runs in the block from its beginning to its end
            with around:
                loop.run_until_complete(asyncio.sleep(0))
            answers.append(["", changes(before, where())])
            loop.close()
        return answers

    answers = root(body, way)
    assert [changed for _, changed in answers] == [[]] * 4
    for (text, _), names in zip(
        answers[:3], (("'Ann'", "'Bob'"), ("no task", "'Bob'"), ("'Ann'", "no task")), strict=True
    ):
        assert f"entered by {names[0] if names[0] == 'no task' else 'task ' + names[0]}" in text
        assert names[1] in text
        assert "run_in_executor" in text


def test_an_asynchronous_generator_that_the_loop_closes_is_told(root: Runner) -> None:
    """asyncio closes one that was broken out of in a task of its own: its handler of exceptions hears of it."""

    def body() -> Any:
        async def agen() -> Any:
            with handles[0]:
                yield 1
                yield 2

        async def main() -> Any:
            heard: list[str] = []
            asyncio.get_running_loop().set_exception_handler(
                lambda loop, context: heard.append(str(context["exception"]))
            )
            running = agen()
            async for _ in running:
                break
            del running
            for _ in range(5):
                await asyncio.sleep(0)
            return [len(heard), "run_in_executor" in "".join(heard), ns("uts") == home]

        with places(1) as (handles, _):
            home = ns("uts")
            return asyncio.run(main())

    assert root(body) == [1, True, True]


def test_a_visit_goes_on_in_its_own_task_only(root: Runner) -> None:
    """A step in another task is refused, and moves nobody; the task of the block goes on."""

    def body() -> Any:
        async def main() -> Any:
            with nsapi.visit(handles, "uts") as each:
                next(each)
                here = ns("uts")

                async def step() -> Any:
                    return failure(lambda: next(each))

                answer = await asyncio.create_task(step())
                return [answer["classes"][0], here == ns("uts"), next(each)[0] is handles[1]]

        with places(2) as (handles, _):
            home = ns("uts")
            return [*asyncio.run(main()), ns("uts") == home]

    assert root(body) == ["RuntimeError", True, True, True]


def test_a_task_that_is_cancelled_inside_leaves_as_any_other(root: Runner) -> None:
    """On top: no error but its own. Below another's: told, and home with that one."""

    def body() -> Any:
        async def inside(handle: Any, entered: Any) -> None:
            with handle:
                entered.set()
                await asyncio.sleep(3600)

        async def main() -> Any:
            tasks = []
            for handle in handles:
                entered = asyncio.Event()
                tasks.append(asyncio.create_task(inside(handle, entered)))
                await entered.wait()
            answers: list[object] = []
            for number in (0, 2, 1):
                tasks[number].cancel()
                (result,) = await asyncio.gather(tasks[number], return_exceptions=True)
                answers.append(type(result).__name__)
                answers.append(ns("uts") == home)
            return answers

        with places(3) as (handles, _):
            home = ns("uts")
            return asyncio.run(main())

    assert root(body) == ["RuntimeError", False, "CancelledError", False, "CancelledError", True]


def test_worker_threads_of_a_loop_enter_as_they_like(root: Runner) -> None:
    """The remedy: awaits in between, two at a time, and the thread of the loop never moves."""

    def body() -> Any:
        def look(number: int) -> bool:
            with handles[number]:
                together.wait()
                return ns("uts") == ns("uts", processes[number].pid)

        async def main() -> Any:
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(2) as pool:
                seen = await asyncio.gather(*(loop.run_in_executor(pool, look, number) for number in (0, 1)))
            return [*seen, ns("uts") == home]

        together = threading.Barrier(2, timeout=30)
        with places(2) as (handles, processes):
            home = ns("uts")
            return asyncio.run(main())

    assert root(body) == [True, True, True]


@pytest.mark.parametrize("broken", [0, 1])
def test_if_the_way_back_for_the_one_who_left_early_fails_the_thread_is_lost(root: Runner, broken: int) -> None:
    """Who leaves last is told by NamespaceRestoreError, and the thread enters nothing more. All ways back are tried."""

    def body(broken: int) -> Any:
        def work() -> Any:
            given: list[nsapi.NamespaceHandle] = []

            def generator(process: Any) -> Any:
                with nsapi.enter(process, "uts") as handle:
                    given.append(handle)
                    yield

            home, table = ns("uts"), fds()
            first, second, last = (generator(each) for each in processes)
            next(first), next(second), next(last)
            answers = [failure(first.close), failure(second.close)]
            saved = set(fds()) - set(table) - {each.fileno() for each in given}
            forbid("setns", (0, sorted(saved)[broken]))  # its way back
            answers.append(failure(last.close))
            end = home if broken else ns("uts", processes[0].pid)
            closed = fds() == table and all(failure(each.fileno) for each in given)
            return [*answers, failure(handles[0].__enter__), closed, ns("uts") == end]

        with places(3) as (handles, processes):
            return in_thread(work)

    first, second, last, again, closed, stays = root(body, broken)
    assert [first["classes"][0], second["classes"][0]] == ["RuntimeError"] * 2
    for error in (last, again):
        assert "NamespaceRestoreError" in error["classes"]
    assert [closed, stays] == [True, True]


def test_ctrl_c_while_one_who_left_early_is_gone_back_for(root: Runner) -> None:
    """Wherever in nsapi it comes: with the next block at the latest the thread is home, and no fd is left."""

    def body() -> Any:
        def attempt(ctrl_c: CtrlC) -> list[object]:
            before = where()
            first, last = handles[0].enter(), handles[1].enter()
            first.__enter__()
            last.__enter__()
            failure(lambda: first.__exit__(None, None, None))
            with ctrl_c:
                last.__exit__(None, None, None)
            with handles[0]:
                pass
            return list(changes(before, where()))

        with places(2) as (handles, _):
            return at_every_moment(
                lambda ctrl_c: in_thread(lambda: attempt(ctrl_c)),
                skip=lambda code, event: event == "call" and code.co_name == "__exit__",
            )

    moments, wrong = root(body)
    assert moments > 5
    assert wrong == []


def test_asyncio_is_looked_at_only_where_it_has_been_imported(root: Runner) -> None:
    """Entering loads nothing of it; where it is half imported in another thread, entering works."""

    def body() -> Any:
        with places(1) as (handles, _):
            names = [name for name in sys.modules if name.split(".")[0] == "asyncio"]
            for name in names:
                del sys.modules[name]
            with handles[0]:
                pass
            loaded = "asyncio" in sys.modules
            sys.modules["asyncio"] = type(sys)("asyncio")  # as its import begins
            with handles[0]:
                pass
        return [loaded, warnings.filters != []]

    assert root(body) == [False, True]
