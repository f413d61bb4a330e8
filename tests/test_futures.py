"""ThreadPoolExecutor: its threads live inside, nobody else moves, and what cannot get inside does no work outside."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import importlib
import inspect
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest
from conftest import Runner, lacking
from inside import all_ns, drop_all_capabilities, everything, failure, ns, only_child, same_id, status, unshared
from test_enter import NEW_TO_ENTER, changes, forbid, in_thread, position
from test_enter import Equipped as Visitor

import nsapi

CARRIED = ("net", "uts", "ipc", "cgroup", "mnt")


def at_once(pool: concurrent.futures.Executor, work: Callable[[], Any], count: int) -> list[Any]:
    """What *work* gives in *count* threads of the pool: each waits for the others to have one, too."""
    together = threading.Barrier(count, timeout=30)

    def wait_and_work() -> Any:
        together.wait()
        return work()

    return [future.result(30) for future in [pool.submit(wait_and_work) for _ in range(count)]]


def end_of_threads() -> None:
    """Wait for all threads but this one."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(30)
            assert not thread.is_alive()


def at_rest() -> dict[str, object]:
    """Everything that a pool could change, once the C library has taken the signals that it takes with the first thread."""
    in_thread(int)
    found = everything()
    del found["children"]  # a user's bodies are pid 1: they get the children of those that they kill
    found["threads"] = threading.active_count()  # in /proc one is for a moment after it has been joined
    return found


class Equipped(Visitor):
    """With HELPERS in reach of its bodies."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.prelude += "\nimport asyncio, concurrent.futures, importlib\nfrom contextlib import closing\n"
        helpers: tuple[Callable[..., Any], ...] = (at_once, end_of_threads, at_rest)
        self.prelude += "\n\n".join(map(inspect.getsource, helpers))
        self.prelude += f"\nCARRIED = {CARRIED!r}\n"


@pytest.fixture(params=["root", "user"])
def anyone(request: pytest.FixtureRequest) -> Runner:
    return Equipped(request.getfixturevalue(request.param))


# ---- inside ----


def test_tasks_run_inside_and_nobody_else_moves(anyone: Runner) -> None:
    """Every thread of the pool is in all that was named and else where its maker is; afterwards all is as before."""

    def body() -> Any:
        before, home = at_rest(), all_ns()
        answers: dict[str, Any] = {}
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            for types in [*([each] for each in CARRIED), CARRIED]:
                there = {**home, **{name: ns(name, child) for name in types}}
                with nsapi.ThreadPoolExecutor(child, *types, max_workers=3) as pool:
                    seen = [each == there != home for each in at_once(pool, all_ns, 3)]
                    answers[",".join(types)] = [*seen, all_ns() == home]
        return answers, changes(before, at_rest())

    answers, changed = anyone(body)
    assert answers == dict.fromkeys([*CARRIED, ",".join(CARRIED)], [True] * 4)
    assert changed == []


def test_it_is_a_thread_pool_of_concurrent_futures(anyone: Runner) -> None:
    """map, cancelling, exceptions and idle threads are the standard library's; a namespace itself needs no type."""

    def body() -> Any:
        net = nsapi.current("net")
        gate, started, other = threading.Event(), threading.Event(), threading.Event()
        with nsapi.ThreadPoolExecutor(net, max_workers=1, thread_name_prefix="inside") as pool:
            net.close()  # its own is another
            answers: list[Any] = [isinstance(pool, concurrent.futures.ThreadPoolExecutor)]
            answers.append(list(pool.map(pow, [2, 3], [5, 2])))
            answers.append(type(pool.submit(int, "x").exception()).__name__)
            answers.append(pool.submit(lambda *args, **kw: [args, kw], 1, fn=2, place=3).result())
            answers.append(len({pool.submit(threading.get_ident).result() for _ in range(20)}))
            answers.append(pool.submit(lambda: threading.current_thread().name).result())
            running = pool.submit(lambda: started.set() or (gate.wait(30) and other.set()))  # type: ignore[func-returns-value]
            waiting = pool.submit(int)
            started.wait(30)
            pool.shutdown(wait=False, cancel_futures=True)
            answers += [waiting.cancelled(), other.is_set(), failure(lambda: pool.submit(int))["text"]]
            gate.set()
            running.result(30)
            answers.append(other.is_set())
        return answers

    assert anyone(body) == [
        *(True, [32, 9], "ValueError", [[1], {"fn": 2, "place": 3}], 1, "inside_0", True, False),
        *("cannot schedule new futures after shutdown", True),
    ]


def test_the_target_may_end_after_the_pool_was_made(anyone: Runner) -> None:
    """The namespaces are kept, so that threads that start later get there too: mnt as well, with its files."""

    def body() -> Any:
        with unshared("--net", "--uts", "--ipc", "--cgroup", "--mount") as process:
            there = {name: ns(name, process.pid) for name in CARRIED}
            pool = nsapi.ThreadPoolExecutor(process, *CARRIED, max_workers=4)
        dead = failure(lambda: nsapi.ThreadPoolExecutor(process, "net")).get("errno")
        seen = at_once(pool, lambda: [{name: ns(name) for name in CARRIED} == there, os.path.exists("/proc")], 4)
        pool.shutdown()
        return dead, seen

    assert anyone(body) == [errno.ESRCH, [[True, True]] * 4]


def test_a_thread_with_mnt_has_its_own_files_cwd_and_umask(anyone: Runner) -> None:
    """Paths are the target's, and chdir and umask in one thread are seen in no other."""

    def body() -> Any:
        with unshared("--mount") as process:
            with nsapi.enter(process, "mnt"):
                subprocess.run(["mount", "-t", "tmpfs", "inside", "/mnt"], check=True)
            before, numbers = position(), iter(range(3))

            def work() -> Any:
                number = next(numbers)
                at_first = os.getcwd()
                os.chdir("/mnt")
                pathlib.Path(f"/mnt/{number}").touch()
                os.umask(number)
                again.wait()
                return at_first, os.getcwd(), int(status("Umask"), 8) - number

            def visit() -> list[str]:
                with home:  # which needs no unshare_fs here
                    return os.listdir("/mnt")

            again = threading.Barrier(3, timeout=30)
            with nsapi.ThreadPoolExecutor(process, "mnt") as pool, closing(nsapi.current("mnt")) as home:
                seen = at_once(pool, work, 3)
                files = pool.submit(os.listdir, "/mnt").result()
                visited = pool.submit(visit).result() == os.listdir("/mnt") != files
            return seen, sorted(files), changes(before, position()), visited

    assert anyone(body) == [[["/", "/mnt", 0]] * 3, ["0", "1", "2"], [], True]


def test_nothing_of_nsapi_is_imported_from_the_target_s_files(anyone: Runner) -> None:
    """With mnt all is loaded before: what happens in the threads, good or bad, finds no module missing."""

    def body() -> Any:
        def move() -> None:
            nsapi.setns(home, unshare_fs=True)

        def start() -> None:
            if bad:
                raise bad.pop()

        bad: list[Exception] = []
        home, gate = nsapi.current("mnt"), threading.Event()
        with unshared("--mount") as process:
            pool = nsapi.ThreadPoolExecutor(process, "mnt", max_workers=3, initializer=start)
            before = set(sys.modules)
            pool.submit(move).result()
            bad.append(ValueError("mine"))
            answer: dict[str, object] = {}
            while not answer:  # until a new thread has been started, and has failed
                answer = failure(lambda: pool.submit(gate.wait, 30))
            gate.set()
            pool.shutdown()
        home.close()
        return answer["text"], sorted(set(sys.modules) - before)

    text, loaded = anyone(body)
    assert "ValueError('mine')" in text
    assert loaded == []


# ---- submit from elsewhere ----


def test_threads_are_right_wherever_submit_is_called(anyone: Runner) -> None:
    """A thread is born where its starter is; it goes to the target in the pool's types and to the maker's in all others."""

    def body() -> Any:
        os.chdir("/tmp")
        before, answers = at_rest(), {}
        with unshared(*NEW_TO_ENTER) as parent, unshared(*NEW_TO_ENTER) as other:
            child, elsewhere = only_child(parent.pid), only_child(other.pid)
            for inside in ("net", "mnt"):
                want = {**position(), inside: ns(inside, child)}
                if inside == "mnt":
                    want["cwd"] = same_id("/")
                for outside in CARRIED:
                    with nsapi.ThreadPoolExecutor(child, inside, max_workers=3) as pool:

                        def submit() -> Any:
                            with nsapi.enter(elsewhere, outside, unshare_fs=True):
                                return ns(outside) == ns(outside, elsewhere), at_once(pool, position, 3)

                        moved, seen = in_thread(submit)
                        answers[f"{inside} {outside}"] = moved, [changes(want, each) for each in seen]
        return answers, changes(before, at_rest())

    answers, changed = anyone(body)
    assert answers == {f"{inside} {outside}": [True, [[]] * 3] for inside in ("net", "mnt") for outside in CARRIED}
    assert changed == []


def test_a_thread_that_cannot_be_where_the_maker_was_works_nowhere(root: Runner) -> None:
    """Started elsewhere, when the way to the maker's namespace is lost because a task has moved the first thread."""

    def body() -> Any:
        before = at_rest()
        with unshared("--uts") as other:
            gate, moved = threading.Event(), threading.Event()

            def start() -> None:
                if not moved.is_set():
                    nsapi.unshare("uts")
                    moved.set()
                    gate.wait(30)

            pool = nsapi.ThreadPoolExecutor(os.getpid(), "net", max_workers=2, initializer=start)
            moved.wait(30)
            with nsapi.enter(other, "uts"):
                answer = failure(pool.submit(ns, "uts").result)
            gate.set()
            pool.shutdown()
        return answer, changes(before, at_rest())

    answer, changed = Equipped(root)(body)
    assert answer["step"] == "check"
    assert "the pool's first thread has been moved to another uts namespace by a task" in answer["text"]
    assert changed == []


def test_a_thread_started_elsewhere_stays_in_the_root_of_the_maker(root: Runner, readable_tmp: pathlib.Path) -> None:
    """Setting the mount namespace again has led it out of a chroot; it goes back there before it works."""

    def body(folder: str) -> Any:
        with unshared("--mount") as other:
            nsapi.unshare("mnt")
            for command in ("--make-rprivate /", f"-t tmpfs none {folder}"):
                subprocess.run(["mount", *command.split()], check=True)
            os.mkdir(f"{folder}/proc")
            subprocess.run(["mount", "--rbind", "/proc", f"{folder}/proc"], check=True)
            at_rest()  # with its imports
            os.chroot(folder)
            os.chdir("/")
            jail = same_id("/")
            with nsapi.ThreadPoolExecutor(os.getpid(), "net", max_workers=2) as pool:

                def submit() -> Any:
                    with nsapi.enter(other, "mnt", unshare_fs=True):
                        seen = at_once(pool, lambda: [same_id("/") == jail, same_id(".") == jail], 2)
                        return same_id("/") != jail, seen

                return in_thread(submit)

    assert Equipped(root)(body, str(readable_tmp)) == [True, [[True, True]] * 2]


# ---- what cannot get inside ----

IMPOSSIBLE: list[tuple[str, str, str]] = [
    ("'no such name'", "FileNotFoundError", "open /run/netns/no such name"),
    ("2**30, 'net'", "ProcessLookupError", "pidfd_open of process"),
    ("os.getpid(), 'pid'", "NamespaceError", "use ProcessPoolExecutor, call or run"),
    ("os.getpid(), 'net', 'user'", "NamespaceError", "use ProcessPoolExecutor, call or run"),
    ("os.getpid(), 'time'", "NamespaceError", "use ProcessPoolExecutor, call or run"),
    ("'/proc/self/ns/pid'", "NamespaceError", "use ProcessPoolExecutor, call or run"),
    ("'/proc/self/ns/net', 'uts'", "NamespaceError", "it is a net namespace, and uts was asked for"),
    ("'/proc/self/ns/net', 'net', 'uts'", "ValueError", "is one namespace"),
    ("os.getpid()", "TypeError", "name one or more of net, uts, ipc, cgroup, mnt"),
    ("subprocess", "TypeError", "target: <module 'subprocess'"),
    ("os.getpid(), 'nut'", "ValueError", "nut"),
    ("os.getpid(), 'net', 'net'", "ValueError", "given twice"),
    ("os.getpid(), 'net', max_workers=0", "ValueError", "max_workers"),
    ("os.getpid(), 'net', initializer=3", "TypeError", "initializer: 3 is not callable"),
]


def test_a_pool_that_cannot_be_is_refused_when_it_is_made(anyone: Runner) -> None:
    """As enter refuses it, and with the remedy; no thread and no fd is left."""

    def body(*rows: str) -> Any:
        before, kept, answers = at_rest(), [], []
        for row in rows:
            try:
                eval(f"nsapi.ThreadPoolExecutor({row})")
            except Exception as error:
                kept.append(error)  # with all that its traceback holds
            classes = [each.__name__ for each in type(kept[-1]).__mro__]
            answers.append([classes, str(kept[-1]), changes(before, at_rest())])
        return answers

    answers = anyone(body, *(row for row, _, _ in IMPOSSIBLE))
    for (row, kind, words), (classes, text, changed) in zip(IMPOSSIBLE, answers, strict=True):
        assert kind in classes, (row, classes, text)
        assert words in text, row
        assert changed == [], row


def test_without_privilege_it_fails_when_it_is_made(user: Runner) -> None:
    """Not in the first task: one thread really goes in before. The error is that of enter."""

    def body() -> Any:
        before, kept = at_rest(), []
        for types in (["net"], ["uts", "mnt"]):
            try:
                nsapi.ThreadPoolExecutor(os.getpid(), *types)
            except PermissionError as error:
                kept.append(error)  # with all that its traceback holds
        return [[error.step, error.hint] for error in kept], changes(before, at_rest())  # type: ignore[attr-defined]

    answers, changed = Equipped(user)(body, under=())
    assert [step.partition(" of process ")[0] for step, _ in answers] == ["setns net", "setns uts"]
    assert all("needs CAP_SYS_ADMIN" in hint for _, hint in answers)
    assert changed == []


def test_a_later_thread_that_cannot_enter_works_nowhere(anyone: Runner) -> None:
    """Its task is not done outside: the future tells what enter would, and the pool takes no more. Nobody hangs."""

    def body() -> Any:
        before = at_rest()
        with unshared("--net") as process:
            gate, seen = threading.Event(), []

            def start() -> None:
                gate.wait(30)
                seen.append(ns("net") == ns("net", process.pid))

            def submit() -> Any:
                drop_all_capabilities()  # of the thread, and so of the one that it starts
                return pool.submit(ns, "net")

            pool = nsapi.ThreadPoolExecutor(process, "net", max_workers=2, initializer=start)  # it keeps the first busy
            first = failure(in_thread(submit).result)
            again = failure(lambda: pool.submit(int))
            gate.set()
            pool.shutdown()
        return first, again, seen, changes(before, at_rest())

    first, again, seen, changed = anyone(body)
    assert "PermissionError" in first["classes"]
    assert first["step"].startswith("setns net of ")
    assert again["classes"][0] == "BrokenThreadPool"
    assert first["text"] in again["text"]
    assert (seen, changed) == ([True], [])


def test_an_initializer_runs_inside_once_in_each_thread(anyone: Runner) -> None:
    """Also one that waits for the other threads: only the arrival of the first is waited for when the pool is made."""

    def body() -> Any:
        with unshared("--net") as process:
            together, seen = threading.Barrier(2, timeout=30), []

            def start(*args: int) -> None:
                together.wait()
                seen.append([*args, ns("net") == ns("net", process.pid)])

            with nsapi.ThreadPoolExecutor(process, "net", max_workers=2, initializer=start, initargs=(4, 2)) as pool:
                at_once(pool, int, 2)
                at_once(pool, int, 2)
        return seen

    assert anyone(body) == [[4, 2, True]] * 2


def test_an_initializer_that_fails_breaks_the_pool(anyone: Runner) -> None:
    """BrokenThreadPool, as in concurrent.futures, in the futures and from submit; and with its cause."""

    def body() -> Any:
        before = at_rest()
        with unshared("--net") as process:
            gate, reached = threading.Event(), threading.Event()

            def start() -> None:
                reached.set()
                gate.wait(30)
                raise KeyError("mine")

            pool = nsapi.ThreadPoolExecutor(process, "net", max_workers=1, initializer=start)
            futures = [pool.submit(int) for _ in range(3)]
            reached.wait(30)
            gate.set()
            errors = [future.exception(30) for future in futures]
            errors.append(failure(lambda: pool.submit(int)))  # type: ignore[arg-type]
            pool.shutdown(wait=False)
            end_of_threads()
        kinds = [type(error).__name__ for error in errors[:3]]
        causes = [repr(error.__cause__) for error in errors[:3] if error is not None]
        return kinds, causes, errors[3], changes(before, at_rest())

    kinds, causes, again, changed = anyone(body)
    assert kinds == ["BrokenThreadPool"] * 3
    assert causes == ["KeyError('mine')"] * 3
    assert again["classes"][0] == "BrokenThreadPool"
    assert "KeyError('mine')" in again["text"]
    assert changed == []


def test_a_thread_cannot_be_started_in_a_block_of_pid(anyone: Runner) -> None:
    """What threading says of it, when the pool is made; nothing is left."""

    def body() -> Any:
        before = at_rest()
        with unshared("--pid", "--fork") as parent, nsapi.enter(only_child(parent.pid), "pid"):
            answer = failure(lambda: nsapi.ThreadPoolExecutor(os.getpid(), "net"))
        return answer["classes"][0], changes(before, at_rest())  # type: ignore[index]

    assert anyone(body) == ["RuntimeError", []]


# ---- tasks that move their thread ----


def test_the_next_task_is_inside_whatever_the_one_before_has_done(anyone: Runner) -> None:
    """The thread is looked at before each task, and set back."""

    def body() -> Any:
        before, answers = at_rest(), {}
        with unshared(*NEW_TO_ENTER) as parent:
            child, stack = only_child(parent.pid), ExitStack()
            for type in ("net", "mnt"):
                there, home = ns(type, child), nsapi.current(type)
                ways: dict[str, Callable[[], Any]] = {
                    "setns": lambda: nsapi.setns(home, type, unshare_fs=True),
                    "unshare": lambda: nsapi.unshare(type),
                    "enter": lambda: stack.enter_context(home.enter(unshare_fs=True)),
                }
                for how, move in ways.items():

                    def stray() -> bool:
                        move()
                        return ns(type) != there

                    with nsapi.ThreadPoolExecutor(child, type, max_workers=1) as pool:
                        seen = [pool.submit(stray).result(), *(pool.submit(ns, type).result() == there for _ in "ab")]
                        answers[f"{type} {how}"] = seen
                home.close()
        return answers, changes(before, at_rest())

    answers, changed = anyone(body)
    assert answers == {f"{type} {how}": [True] * 3 for type in ("net", "mnt") for how in ("setns", "unshare", "enter")}
    assert changed == []


@pytest.mark.parametrize("how", ["setns", "a block that cannot be left"])
def test_a_thread_that_cannot_be_set_back_works_nowhere(root: Runner, how: str) -> None:
    """Its next task is not done there, but has the error, and the pool takes no more."""

    def body(how: str) -> Any:
        before = at_rest()
        with unshared(*NEW_TO_ENTER) as parent:
            child, home = only_child(parent.pid), nsapi.current("net")

            def stray() -> None:
                gate.wait(30)
                if how == "setns":
                    nsapi.setns(home)
                    forbid("setns", (1, nsapi.NamespaceType.NET.flag))
                else:
                    with nsapi.enter(child, "uts"):
                        forbid("setns", (1, nsapi.NamespaceType.UTS.flag))

            pool = nsapi.ThreadPoolExecutor(child, "net", max_workers=1)
            gate = threading.Event()
            first, second = pool.submit(stray), pool.submit(ns, "net")
            gate.set()
            answers = [failure(first.result).get("step"), failure(second.result)["step"]]
            answers.append(failure(lambda: pool.submit(int))["classes"][0])  # type: ignore[index]
            pool.shutdown()
            home.close()
        return answers, changes(before, at_rest())

    first, second = {
        "setns": (None, "setns net of process "),
        "a block that cannot be left": ("return to the uts namespace of before",) * 2,
    }[how]
    answers, changed = Equipped(root)(body, how)
    assert answers[0] == first
    assert answers[1].startswith(second)
    assert answers[2] == "BrokenThreadPool"
    assert changed == []


# ---- the end ----


def test_nothing_is_left_however_it_ends(anyone: Runner) -> None:
    """Fds are closed with shutdown, or with the last thread; the work that was taken is done."""

    def body() -> Any:
        before, answers = at_rest(), {}
        for way in ("wait", "do not wait", "forget it", "from a task"):
            gate, done = threading.Event(), set()

            def work(number: int) -> None:
                gate.wait(30)
                done.add(number)

            pool = nsapi.ThreadPoolExecutor(os.getpid(), "net", "uts", max_workers=2)
            futures: list[concurrent.futures.Future[Any]] = [pool.submit(work, number) for number in range(4)]
            futures.append(pool.submit(int, "x"))
            if way == "from a task":
                pool.submit(pool.shutdown, wait=False)
            elif way == "do not wait":
                pool.shutdown(wait=False)
            elif way == "wait":
                gate.set()
                pool.shutdown()
            if way == "forget it":
                del pool  # else it is kept, as are the futures with their tracebacks
            gate.set()
            end_of_threads()
            answers[way] = sorted(done), failure(futures[-1].result)["classes"][0], changes(before, at_rest())  # type: ignore[index]
        return answers

    good = [[0, 1, 2, 3], "ValueError", []]
    assert anyone(body) == dict.fromkeys(("wait", "do not wait", "forget it", "from a task"), good)


FORGETFUL = """
import os, nsapi
pool = nsapi.ThreadPoolExecutor(os.getpid(), "net", max_workers=1)
pool.submit(sum, range(3_000_000))
for number in range(3):
    pool.submit(print, number, flush=True)
"""


def test_a_pool_that_was_forgotten_finishes_its_work_at_exit(anyone: Runner) -> None:
    """As those of concurrent.futures; and nothing is said."""

    def body(code: str) -> Any:
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30)
        return done.stdout.split(), done.stderr, done.returncode

    assert anyone(body, FORGETFUL) == [["0", "1", "2"], "", 0]


LATE = """
import os, sys, threading, nsapi
def look():
    threading.main_thread().join()
    with nsapi.enter(os.getpid(), "mnt", unshare_fs=True):
        try:
            nsapi.ThreadPoolExecutor
        except ImportError:
            print("there is none any more")
        nsapi.setns
threading.Thread(target=look).start()
"""


def test_a_thread_that_outlives_the_main_thread_can_still_enter_mnt(anyone: Runner) -> None:
    """concurrent.futures cannot be loaded then: there is no pool, and none is looked for in the target's files."""

    def body(code: str) -> Any:
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30)
        return done.stdout, done.stderr, done.returncode

    assert anyone(body, LATE) == ["there is none any more\n", "", 0]


def test_a_forked_child_is_told_that_it_has_no_threads(root: Runner) -> None:
    """There submit is a RuntimeError instead of a task that never runs, and shutdown returns."""

    def body() -> Any:
        with nsapi.ThreadPoolExecutor(os.getpid(), "net", max_workers=2) as pool:
            pool.submit(int).result()
            pool._shutdown_lock.acquire()  # as another thread may have it in submit
            pid = os.fork()
            if pid == 0:
                try:
                    told = failure(lambda: pool.submit(int))
                    pool.shutdown()
                    again = failure(lambda: pool.submit(int))
                    with nsapi.ThreadPoolExecutor(os.getpid(), "net") as own:
                        right = own.submit(ns, "net").result() == ns("net")
                    wrong = "make another after fork" not in str(told["text"]) or again == {} or not right
                    os._exit(wrong)
                finally:
                    os._exit(2)
            pool._shutdown_lock.release()
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), pool.submit(int).result()

    assert Equipped(root)(body) == [0, 0]


def test_many_threads_share_one_pool(anyone: Runner) -> None:
    """Eight threads submit to two pools at once; every task is where it should be."""

    def body() -> Any:
        before = at_rest()
        with unshared("--net") as one, unshared("--net") as two:
            pools = {ns("net", each.pid): nsapi.ThreadPoolExecutor(each, "net", max_workers=4) for each in (one, two)}
            wrong: list[str] = []

            def use(number: int) -> None:
                for turn in range(15):
                    there, pool = list(pools.items())[(number + turn) % 2]
                    if pool.submit(ns, "net").result(30) != there:
                        wrong.append(there)

            with ThreadPoolExecutor(8) as callers:
                for future in [callers.submit(use, number) for number in range(8)]:
                    future.result()
            for pool in pools.values():
                pool.shutdown()
        return wrong, changes(before, at_rest())

    assert anyone(body) == [[], []]


# ---- with others ----


def test_one_loop_works_in_two_namespaces(anyone: Runner) -> None:
    """asyncio: run_in_executor with each of two pools, and to_thread by the loop's default, while the loop stays outside."""

    def body() -> Any:
        before = at_rest()

        async def main(one: Any, two: Any) -> Any:
            loop, home = asyncio.get_running_loop(), ns("net")
            with nsapi.ThreadPoolExecutor(one, "net") as first, nsapi.ThreadPoolExecutor(two, "net") as second:
                pools = [first, second] * 5
                seen = await asyncio.gather(*(loop.run_in_executor(pool, ns, "net") for pool in pools))
                loop.set_default_executor(nsapi.ThreadPoolExecutor(two, "net"))
                seen.append(await asyncio.to_thread(ns, "net"))
                return seen == [ns("net", each.pid) for each in [one, two] * 5 + [two]], ns("net") == home

        with unshared("--net") as one, unshared("--net") as two:
            answers = asyncio.run(main(one, two))
        return answers, changes(before, at_rest())

    assert anyone(body) == [[True, True], []]


def test_pyroute2_lists_the_links_of_the_namespace(anyone: Runner) -> None:
    """Its IPRoute knows nothing of nsapi: made in a thread of the pool, it speaks to that namespace."""
    try:
        importlib.import_module("pyroute2")
    except ImportError:
        lacking("pyroute2, of nsapi[test]")

    def body() -> Any:
        try:
            pyroute2: Any = importlib.import_module("pyroute2")
        except ImportError:
            return None

        def rename() -> None:
            with pyroute2.IPRoute() as routes:
                routes.link("set", index=1, ifname="inside")

        def links() -> Any:
            with pyroute2.IPRoute() as routes:
                return [link.get_attr("IFLA_IFNAME") for link in routes.get_links()]

        with unshared("--net") as process:
            with nsapi.ThreadPoolExecutor(process, "net", max_workers=2) as pool:
                pool.submit(rename).result()
                inside = at_once(pool, links, 2)
            return inside, "inside" in links()

    answer = anyone(body)
    if answer is None:
        lacking(f"pyroute2 for {anyone}")
    assert answer == [[["inside"]] * 2, False]
