"""Many threads, each in namespaces of its own: nobody is moved but who asked, and everybody comes home."""

from __future__ import annotations

import os
import pathlib
import subprocess
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Runner
from inside import all_ns, fds, ns, only_child, same_id, unshared
from test_enter import NEW_TO_ENTER, Equipped, position

import nsapi

INHERITED = ("ipc", "uts", "net", "mnt", "cgroup")  # by threads; with pid none can be started


@pytest.fixture(params=["root", "user"])
def anyone(request: pytest.FixtureRequest) -> Runner:
    runner = Equipped(request.getfixturevalue(request.param))
    runner.prelude += f"INHERITED = {INHERITED!r}\n"
    return runner


def test_32_threads_in_32_net_namespaces_a_thousand_times_each(anyone: Runner) -> None:
    """Every single look of every thread shows the namespace that it is in at that moment; no thread is left behind."""

    def body() -> Any:
        home, before, wrong = ns("net"), fds(), []

        def make() -> nsapi.NamespaceHandle:
            nsapi.unshare("net")
            return nsapi.current("net")

        handles = []
        for _ in range(32):
            with ThreadPoolExecutor(1) as pool:
                handles.append(pool.submit(make).result())
        names = [f"net:[{handle.id[1]}]" for handle in handles]
        assert len({home, *names}) == 33
        start, looks, inside = threading.Barrier(33, timeout=30), [0] * 32, ["/proc/thread-self/ns/net"]

        def work(number: int) -> None:
            start.wait()
            for turn in range(1000):
                at = (number + turn) % 32
                handle = handles[at]
                with handle if turn % 8 else nsapi.enter(handle):
                    if os.readlink(inside[0]) != names[at]:
                        wrong.append(["inside", number, turn])
                    looks[number] += 1
                if os.readlink(inside[0]) != home:
                    wrong.append(["outside", number, turn])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        start.wait()
        seen = set()
        while any(thread.is_alive() for thread in threads):
            seen.add(ns("net"))
            for thread in threads:
                thread.join(0.001)
        for handle in handles:
            handle.close()
        tasks = set()
        for task in os.listdir("/proc/self/task"):
            try:
                tasks.add(ns("net", f"self/task/{task}"))
            except FileNotFoundError:  # joined, and gone only now
                continue
        return {
            "wrong": wrong,
            "looks": looks,
            "main": seen == {home},
            "tasks": tasks == {home},
            "python's": threading.active_count(),
            "fds": before == fds(),
        }

    answer = anyone(body)
    assert answer["wrong"] == []
    assert answer["looks"] == [1000] * 32
    assert answer["main"]
    assert answer["tasks"]
    assert answer["python's"] == 1
    assert answer["fds"]


def test_200_threads_are_inside_at_once_and_each_sees_what_it_has_left(anyone: Runner) -> None:
    """200 blocks at one moment, from three homes into two targets: everybody is inside, and back where it came from."""

    def body() -> Any:
        with unshared("--net") as one, unshared("--net") as two:
            main, before = ns("net"), fds()
            together, wrong = threading.Barrier(201, timeout=60), []

            def work(number: int) -> None:
                if number % 4 == 1:
                    nsapi.unshare("net")  # a home of its own
                elif number % 4 == 3:
                    nsapi.setns(shared)
                home, target = ns("net"), (one, two)[number % 2]
                for _ in range(3):
                    with nsapi.enter(target.pid, "net"):
                        together.wait()
                        if ns("net") != ns("net", target.pid):
                            wrong.append(["inside", number])
                        together.wait()
                    if ns("net") != home:
                        wrong.append(["outside", number])
                homes[number] = home
                together.wait()
                together.wait()

            homes: dict[int, str] = {}
            with ThreadPoolExecutor(1) as pool:
                pool.submit(nsapi.unshare, "net").result()
                shared = pool.submit(nsapi.current, "net").result()
            threads = [threading.Thread(target=work, args=(number,)) for number in range(200)]
            for thread in threads:
                thread.start()
            for _ in range(6):
                together.wait()
                wrong += [] if ns("net") == main else [["main"]]
            together.wait()  # all have left; they are still there to be looked at
            tasks = [ns("net", f"self/task/{task}") for task in os.listdir("/proc/self/task")]
            together.wait()
            for thread in threads:
                thread.join()
            own = {homes[number] for number in range(1, 200, 4)}
            shared_name = f"net:[{shared.id[1]}]"
            shared.close()
            return [
                wrong,
                sorted(tasks) == sorted([*homes.values(), main]),
                [len(own), tasks.count(main), tasks.count(shared_name)],
                fds() == before,
            ]

    assert anyone(body) == [[], True, [50, 101, 50], True]


@pytest.mark.parametrize("way", ["with handle", "handle.enter()"])
def test_one_handle_serves_many_threads_at_once(anyone: Runner, way: str) -> None:
    """32 threads are inside by the same handle at the same moment, nested and repeated; it stays open."""

    def body(way: str) -> Any:
        with unshared("--uts", "--net") as process:
            uts, net = nsapi.open(process, "uts"), nsapi.open(process, "net")
            there, home = all_ns(process.pid), all_ns()
            together = threading.Barrier(32, timeout=30)
            seen: list[Any] = []

            def block(handle: nsapi.NamespaceHandle) -> Any:
                return handle if way == "with handle" else handle.enter()

            def work() -> None:
                for _ in range(3):
                    with block(uts), block(uts), block(net):
                        together.wait()
                        inside = all_ns()
                        together.wait()
                    seen.append([name for name in inside if inside[name] != home[name]])
                    seen.append(all(inside[name] == there[name] for name in ("uts", "net")) and all_ns() == home)

            with ThreadPoolExecutor(32) as pool:
                for done in [pool.submit(work) for _ in range(32)]:
                    done.result()
            still_open = uts.fileno() != net.fileno()
            uts.close()
            net.close()
        return [len(seen), [each for each in seen if each not in (["uts", "net"], True)], still_open]

    assert anyone(body, way) == [3 * 32 * 2, [], True]


def test_threads_that_did_not_ask_never_move(anyone: Runner) -> None:
    """While six threads enter and leave, one for each type, what the others see of themselves is always the same."""

    def body() -> Any:
        os.chdir("/tmp")
        os.umask(0o027)
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            stop, wrong = threading.Event(), []
            looked: list[int] = []

            def watch() -> None:
                first, count = position(), 0
                while not stop.is_set() or not count:
                    count += 1
                    if position() != first:
                        wrong.append("a bystander has moved")
                looked.append(count)

            def move(type: str) -> None:
                there = all_ns(child)
                name = "pid_for_children" if type == "pid" else type
                before = position()
                for _ in range(200):
                    with nsapi.enter(child, type, unshare_fs=True):
                        if ns(name) != there[name]:
                            wrong.append(type)
                if position() != before:
                    wrong.append(f"after {type}")

            before = position()
            with ThreadPoolExecutor(2) as bystanders, ThreadPoolExecutor(6) as movers:
                watching = [bystanders.submit(watch) for _ in range(2)]
                for done in [movers.submit(move, type) for type in (*INHERITED, "pid")]:
                    done.result()
                stop.set()
                for done in watching:
                    done.result()
            if position() != before:
                wrong.append("main")
        return [wrong, [count > 1 for count in looked]]

    assert anyone(body) == [[], [True, True]]


def test_threads_and_processes_started_inside_stay_inside(anyone: Runner) -> None:
    """They inherit, and remain there after the thread that started them has left; from then on that is their home."""

    def body() -> Any:
        seen: dict[str, list[object]] = {}
        with unshared(*NEW_TO_ENTER) as parent, unshared(*NEW_TO_ENTER) as another:
            child, other = only_child(parent.pid), only_child(another.pid)
            for type in INHERITED:
                home, there = ns(type), ns(type, child)
                answers: list[object] = []
                left = threading.Event()

                def stay(type: str = type, left: threading.Event = left) -> Any:
                    first = ns(type)
                    left.wait(30)
                    second = ns(type)
                    with nsapi.enter(other, type, unshare_fs=True):
                        third = ns(type)
                    return [first, second, third, ns(type)]

                with nsapi.enter(child, type, unshare_fs=True):
                    pool = ThreadPoolExecutor(1)  # a pool starts its threads when they are first needed
                    staying = pool.submit(stay)
                    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
                answers.append(ns(type) == home)
                left.set()
                elsewhere = ns(type, other)
                answers.append(staying.result() == [there, there, elsewhere, there])
                answers.append(pool.submit(ns, type).result() == there)
                answers.append(ns(type, process.pid) == there)
                answers.append(ns(type) == home)
                pool.shutdown()
                process.communicate()
                seen[type] = answers
        return seen

    assert anyone(body) == dict.fromkeys(INHERITED, [True] * 5)


def test_each_thread_starts_children_in_its_own_pid_namespace(anyone: Runner) -> None:
    """pid is set for the children of one thread: each starts its own elsewhere, and no threads until it has left."""

    def body() -> Any:
        with unshared(*NEW_TO_ENTER) as one, unshared(*NEW_TO_ENTER) as two:
            targets, home, together = [only_child(one.pid), only_child(two.pid)], ns("pid"), threading.Barrier(3)

            def born() -> str:
                return subprocess.run(["readlink", "/proc/self/ns/pid"], capture_output=True, text=True).stdout.strip()

            def work(target: int) -> Any:
                with nsapi.enter(target, "pid"):
                    together.wait(30)
                    inside = [born() == ns("pid", target) for _ in range(5)]
                    own = ns("pid") == home
                    try:
                        threading.Thread(target=int).start()
                        refused = ""
                    except RuntimeError as error:
                        refused = str(error)
                    together.wait(30)
                thread = threading.Thread(target=int)
                thread.start()
                thread.join()
                return [inside, own, refused, born() == home]

            with ThreadPoolExecutor(2) as pool:
                working = [pool.submit(work, target) for target in targets]
                together.wait(30)
                mine = [born() == home for _ in range(5)]
                thread = threading.Thread(target=int)  # this one may
                thread.start()
                thread.join()
                together.wait(30)
                return [mine, *(done.result() for done in working)]

    expected = [[True] * 5, True, "can't start new thread", True]
    assert anyone(body) == [[True] * 5, expected, expected]


def test_each_thread_sees_the_files_of_its_own_mount_namespace(anyone: Runner) -> None:
    """Eight threads in eight mount namespaces read the same path at the same time; root and cwd of all others stay."""

    def body() -> Any:
        os.chdir("/tmp")
        home, table = [ns("mnt"), same_id("/"), os.getcwd()], fds()
        wrong: list[object] = []
        ready = threading.Barrier(8, timeout=30)

        def make(number: int) -> nsapi.NamespaceHandle:
            nsapi.unshare("mnt")
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
            pathlib.Path("/mnt/number").write_text(str(number))
            return nsapi.current("mnt")

        def work(number: int) -> None:
            for turn in range(100):
                ready.wait()
                with handles[(number + turn) % 8].enter(unshare_fs=True):
                    if pathlib.Path("/mnt/number").read_text() != str((number + turn) % 8):
                        wrong.append(number)
                if os.path.exists("/mnt/number") or [ns("mnt"), same_id("/"), os.getcwd()] != home:
                    wrong.append(f"{number} outside")

        handles = []
        for number in range(8):
            with ThreadPoolExecutor(1) as pool:
                handles.append(pool.submit(make, number).result())
        with ThreadPoolExecutor(8) as pool:
            working = [pool.submit(work, number) for number in range(8)]
            while not all(done.done() for done in working):
                if os.path.exists("/mnt/number") or [ns("mnt"), same_id("/"), os.getcwd()] != home:
                    wrong.append("main")
            for done in working:
                done.result()
        for handle in handles:
            handle.close()
        return [wrong, fds() == table]

    assert anyone(body) == [[], True]


def test_a_thread_goes_home_to_where_it_was_not_to_the_main_thread(anyone: Runner) -> None:
    """/proc/self is the main thread's: while that is elsewhere, others leave to their own namespaces all the same."""

    def body() -> Any:
        with unshared(*NEW_TO_ENTER) as one, unshared(*NEW_TO_ENTER) as two:
            away, target = only_child(one.pid), only_child(two.pid)
            go, done = threading.Event(), threading.Event()
            seen: list[Any] = []

            def work() -> None:
                go.wait(30)
                home = all_ns()
                seen.append([name for name in home if home[name] != ns(name, "self")])
                for types in (("net",), ("ipc", "uts", "net", "pid", "mnt", "cgroup")):
                    with nsapi.enter(target, *types, unshare_fs=True):
                        pass
                    seen.append([name for name in home if ns(name) != home[name]])
                done.set()

            thread = threading.Thread(target=work)
            thread.start()
            with nsapi.enter(away, "ipc", "uts", "net", "pid", "mnt", "cgroup", unshare_fs=True):
                go.set()
                done.wait(30)
            thread.join()
        return seen

    assert anyone(body) == [["ipc", "uts", "net", "mnt", "cgroup", "pid_for_children"], [], []]


def test_a_thread_that_ends_inside_takes_nobody_with_it(anyone: Runner) -> None:
    """Whoever never leaves (a block in a generator that nobody finishes) is gone with its thread, and so are its fds."""

    def body() -> Any:
        warnings.simplefilter("ignore", ResourceWarning)  # nobody closes what the blocks have opened
        with unshared("--net", "--uts") as process:
            table, home = fds(), all_ns()
            handle = nsapi.open(process, "net")
            kept: list[Any] = []

            def halfway() -> Any:
                with handle, nsapi.enter(process, "uts"):
                    yield ns("net") == ns("net", process.pid)

            def work() -> bool:
                generator = halfway()
                kept.append(generator)
                return bool(next(generator))

            inside = []
            for _ in range(5):
                with ThreadPoolExecutor(1) as pool:
                    inside.append(pool.submit(work).result())
            with ThreadPoolExecutor(4) as pool:
                seen = [pool.submit(all_ns).result() == home for _ in range(8)]
            late = []
            for generator in kept:
                try:
                    generator.close()
                except RuntimeError as error:
                    late.append("another thread" in str(error))
            handle.close()
            return [inside, seen, late, all_ns() == home, fds() == table]

    assert anyone(body) == [[True] * 5, [True] * 8, [True] * 5, True, True]
