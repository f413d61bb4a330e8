"""ProcessPoolExecutor: concurrent.futures' interface, warm interpreters inside, and nothing left of them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner
from inside import (
    all_ns,
    changed,
    children,
    everything,
    failure,
    fds,
    id_of,
    import_late,
    meet,
    ns,
    raise_it,
    refusal,
    run_a_thread,
    sockets_of,
    status,
    unshared,
    whereabouts,
    without_python,
)

import nsapi


def test_calls_run_inside_in_workers_that_stay(root: Runner) -> None:
    """As many interpreters as are needed at once, each in namespaces of its own, which stay the same; then none is left."""

    def body() -> list[Any]:
        config = nsapi.Config.new("uts", "net", hostname="blue")
        run_a_thread()  # for which the C library sets handlers of its own
        before = everything()
        with nsapi.ProcessPoolExecutor(3, config=config) as pool:
            first = {pool.submit(os.getpid).result() for _ in range(20)}
            with tempfile.TemporaryDirectory() as place:
                waits = [pool.submit(meet, place, 3) for _ in range(3)]  # three at once: no worker can take two of them
                met = {each.result() for each in waits}
            pids = {pid for pid, _ in met}
            spaces = {space for _, space in met}
            again = set(pool.map(whereabouts, range(30)))  # which workers take how many is the queue's affair
            inside: list[Any] = [
                len(first),
                pids == set(children()),
                len(spaces),
                again <= met,
                ns("uts") not in spaces,
            ]
            inside.append(type(pool).__mro__[1].__name__)
        return [*inside, changed(before)]

    *inside, different = root(body)
    assert inside == [1, True, 3, True, True, "Executor"]
    assert different == []


def test_results_are_those_of_call(root: Runner) -> None:
    """Values of any size, real exceptions with the remote traceback, what cannot be pickled by name; the pool works on."""

    def body() -> list[Any]:
        with nsapi.ProcessPoolExecutor(1, config=nsapi.Config.new("uts")) as pool:
            error = pool.submit(raise_it, KeyError("a")).exception()
            assert error is not None
            return [
                repr(error),
                "in raise_it" in str(error.__cause__),
                refusal(pool.submit(len, threading.Lock()).result)[1].split(":")[0],
                refusal(pool.submit(threading.Lock).result)[1].split(":")[1],
                refusal(pool.submit(lambda: 1).result)[1].split(":")[0],
                len(pool.submit(bytes.upper, bytes(30_000_000)).result()),
                list(pool.map(pow, range(5), [2] * 5, chunksize=2)),
                list(pool.map(pow, range(5), [2] * 5)),
                failure(lambda: list(pool.map(divmod, [1, 1], [1, 0])))["classes"],
            ]

    *found, classes = root(body)
    assert found == [
        "KeyError('a')",
        True,
        "argument 1",
        " the result cannot be pickled",
        "func",
        30_000_000,
        [0, 1, 4, 9, 16],
        [0, 1, 4, 9, 16],
    ]
    assert classes[0] == "ZeroDivisionError"


def test_a_target_is_entered_by_all_workers(root: Runner) -> None:
    """The one that was given at the start, also by a worker that is started when the process has ended."""

    def body() -> list[Any]:
        with unshared("--net", "--uts", "--mount") as process:
            there = {name: ns(name, process.pid) for name in ("net", "uts", "mnt")}
            pool = nsapi.ProcessPoolExecutor(2, target=process, initializer=ns, initargs=("net",))
        with pool:
            with tempfile.TemporaryDirectory() as place:
                waits = [pool.submit(meet, place, 2) for _ in range(2)]
                met = {each.result() for each in waits}
            found = {pid: all_ns(pid) for pid in children()}
        return [
            found.keys() == {pid for pid, _ in met},
            [{t: each[t] for t in there} == there for each in found.values()],
        ]

    assert root(body) == [True, [True, True]]


def test_a_worker_starts_where_the_pool_was_made(root: Runner) -> None:
    """Not where the thread happens to be that asks for the call."""

    def body() -> list[bool]:
        with (
            nsapi.ProcessPoolExecutor(2, config=nsapi.Config.new("uts")) as pool,
            unshared("--net") as process,
            tempfile.TemporaryDirectory() as place,
        ):
            with nsapi.enter(process, "net"):
                waits = [pool.submit(meet, place, 2) for _ in range(2)]
            workers = [each.result()[0] for each in waits]
            return [ns("net", pid) == ns("net") for pid in workers]

    assert root(body) == [True, True]


def test_mount_namespace_without_python(root: Runner) -> None:
    """What the initializer's module has loaded can be called; another module is not looked for inside."""

    def body() -> list[Any]:
        import colorsys

        with (
            tempfile.TemporaryDirectory(dir="/tmp") as folder,
            without_python(folder) as process,
            nsapi.ProcessPoolExecutor(1, target=process, initializer=ns, initargs=("net",)) as pool,
        ):
            return [
                pool.submit(os.listdir, "/usr").result(),
                pool.submit(ns, "net").result() == ns("net", process.pid),
                refusal(pool.submit(import_late, "xml.dom").result)[0],
                refusal(pool.submit(colorsys.rgb_to_hls, 0, 0, 0).result)[1],
            ]

    *found, text = root(body)
    assert found == [[], True, "ModuleNotFoundError"]
    assert "func or its arguments cannot be loaded in the new interpreter: ModuleNotFoundError: colorsys" in text


def test_what_cannot_be_entered_fails_at_once(user: Runner) -> None:
    """The pool is not made, and the error is that of the step; so is that of an initializer."""

    def body() -> list[Any]:
        run_a_thread()  # for which the C library sets handlers of its own
        before = everything()
        made = nsapi.Config.new("user")
        found = [
            failure(lambda: nsapi.ProcessPoolExecutor(2, config=nsapi.Config.new("net")))["step"],
            failure(lambda: nsapi.ProcessPoolExecutor(2, config=nsapi.Config.new(mnt="/proc/self/ns/mnt")))["step"],
            refusal(lambda: nsapi.ProcessPoolExecutor(config=made, initializer=raise_it, initargs=(KeyError(5),)))[0],
            refusal(lambda: nsapi.ProcessPoolExecutor(0, config=nsapi.Config.new("user")))[1].split(":")[0],
            refusal(lambda: nsapi.ProcessPoolExecutor())[1].split(":")[0],
        ]
        return [*found, changed(before)]

    first, second, *rest, different = user(body)
    assert first == "clone net"
    assert second.startswith("setns mnt of ")
    assert rest == ["KeyError", "max_workers", "config or target"]
    assert different == []


def test_a_dead_worker_breaks_the_pool(root: Runner) -> None:
    """Its call, those that wait and those to come raise BrokenProcessPool; the other workers are ended."""

    def body() -> list[Any]:
        run_a_thread()  # for which the C library sets handlers of its own
        before = everything()
        with nsapi.ProcessPoolExecutor(2, config=nsapi.Config.new("pid")) as pool:
            sleeps = pool.submit(time.sleep, 1000)
            killed = pool.submit(os._exit, 3)
            waits = [pool.submit(time.sleep, 0) for _ in range(3)]
            asked: list[Any] = [killed, sleeps, *waits]
            found = [refusal(each.result) for each in asked]
            found.append(refusal(lambda: pool.submit(int)))
        return [
            [name for name, _ in found],
            found[0][1],
            changed(before),
        ]

    names, text, different = root(body)
    assert names == ["BrokenProcessPool"] * 6
    assert text.startswith("posix._exit: the interpreter ended with exit status 3")
    assert different == []


def test_shutdown_does_what_was_asked_or_cancels_it(root: Runner) -> None:
    """As concurrent.futures': without cancel_futures all that was asked for is done."""

    def body() -> list[Any]:
        pool = nsapi.ProcessPoolExecutor(1, config=nsapi.Config.new("uts"))
        done = [pool.submit(time.sleep, 0.05) for _ in range(3)]
        pool.shutdown(wait=False)
        late = refusal(lambda: pool.submit(int))[0]
        pool.shutdown()
        found = [late, [each.done() and not each.cancelled() for each in done], children()]
        pool = nsapi.ProcessPoolExecutor(1, config=nsapi.Config.new("uts"))
        running = pool.submit(time.sleep, 0.3)
        while not running.running():
            os.sched_yield()
        waits = [pool.submit(int) for _ in range(3)]
        pool.shutdown(cancel_futures=True)
        return [*found, running.done(), [each.cancelled() for each in waits], children(), threading.active_count()]

    assert root(body) == ["RuntimeError", [True] * 3, [], True, [True] * 3, [], 1]


def test_a_pool_that_is_dropped_ends(root: Runner) -> None:
    """Nobody needs to shut it down: its workers and threads end with it."""

    def body() -> list[Any]:
        pool = nsapi.ProcessPoolExecutor(2, config=nsapi.Config.new("uts"))
        future, lock = pool.submit(os.getpid), pool._state.lock
        with lock:  # the collector may run anywhere
            del pool
        pid = future.result()
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(60)
        return [pid > 0, children(), threading.active_count()]

    assert root(body) == [True, [], 1]


def test_an_answer_for_which_there_is_no_memory_breaks_the_pool(root: Runner) -> None:
    """Its rest would be taken for the next answer."""

    def body() -> list[Any]:
        import resource

        with nsapi.ProcessPoolExecutor(1, config=nsapi.Config.new("uts")) as pool:
            pool.submit(int).result()
            size = int(status("VmSize").split()[0]) * 1024
            resource.setrlimit(resource.RLIMIT_AS, (size + 2**25, -1))
            error = type(pool.submit(bytes, 2**27).exception()).__name__
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
            return [error, refusal(lambda: pool.submit(int).result())[0]]

    assert root(body) == ["MemoryError", "BrokenProcessPool"]


@pytest.mark.parametrize("begun", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("at", [0, 1], ids=["worker", "starter"])
def test_ctrl_c_while_a_thread_is_started_leaves_nothing(root: Runner, at: int, begun: bool) -> None:
    """Whether that has begun or not: no worker, no thread, no file of what is joined."""

    def body(at: int, begun: bool) -> list[Any]:
        starts = []

        def start(thread: threading.Thread) -> None:
            starts.append(thread)
            if begun or len(starts) <= at:
                real(thread)
            if len(starts) > at:
                raise KeyboardInterrupt

        run_a_thread()
        config = nsapi.Config.new("uts", net="/proc/self/ns/net")
        before = everything()
        real, threading.Thread.start = threading.Thread.start, start  # type: ignore[method-assign, assignment]
        try:
            nsapi.ProcessPoolExecutor(2, config=config)
        except KeyboardInterrupt:
            return [len(starts), changed(before)]
        return []

    assert root(body, at, begun) == [at + 1, []]


def test_no_pool_is_begun_when_the_program_has_ended(root: Runner) -> None:
    """It would not be ended with it: refused, and nothing has been started."""
    code = """
import atexit, nsapi, os, threading
def late():
    try:
        nsapi.ProcessPoolExecutor(2, config=nsapi.Config.new("uts"))
    except RuntimeError:
        print(open("/proc/self/task/{}/children".format(os.getpid())).read() == "")
atexit.register(late)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=60)
    assert [done.stdout, done.stderr] == ["True\n", ""]


@pytest.mark.parametrize("end", ["", "pool.shutdown(wait=False)", "sys.exit(3)"])
def test_end_of_the_program(root: Runner, tmp_path: Path, end: str) -> None:
    """What was asked for is done first, functions of the script too, and the program does not hang."""
    code = f"""
import nsapi, os, sys, time
def write(text):
    time.sleep(0.1); print(text, flush=True)
if __name__ == "__main__":
    pool = nsapi.ProcessPoolExecutor(2, config=nsapi.Config.new("uts"))
    for each in "abc":
        pool.submit(write, each)
    {end}
"""
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert [sorted(done.stdout.split()), done.stderr] == [["a", "b", "c"], ""]


def test_ctrl_c_reaches_calls_and_no_idle_worker(root: Runner) -> None:
    """As it does all processes of a terminal: the call that runs raises it, and the pool works on."""

    def body() -> list[Any]:
        with nsapi.ProcessPoolExecutor(2, config=nsapi.Config.new("uts")) as pool:
            busy = pool.submit(signal.pause)
            idle = pool.submit(os.getpid).result()
            (working,) = set(children()) - {idle}
            while "S" not in status("State", working) or int(status("SigCgt", working), 16) & 2 == 0:
                os.sched_yield()
            for each in children():
                os.kill(each, signal.SIGINT)
            try:
                busy.result()
            except KeyboardInterrupt:
                return [{pool.submit(os.getpid).result() for _ in range(9)} <= {idle, working}]
        return []

    assert root(body) == [True]


def test_files_travel(root: Runner) -> None:
    """As with call; nothing of them is kept, neither here nor in the worker, and none where there is no room for all."""

    def body() -> list[Any]:
        def files_of_worker() -> int:
            pool.submit(int).result()  # now it has done with the call before
            return len(os.listdir(f"/proc/{children()[0]}/fd"))

        before = len(fds())
        config = nsapi.Config.new("net", uts="/proc/self/ns/uts")
        with nsapi.ProcessPoolExecutor(1, config=config) as pool:
            here, there = len(fds()), files_of_worker()
            own = nsapi.current("net")
            same = all(pool.submit(id_of, own).result() == list(own.id) for _ in range(20))
            sockets = [pool.submit(socket.socket, socket.AF_INET, socket.SOCK_DGRAM).result() for _ in range(3)]
            own.close()
            for each in sockets:
                each.close()
            import resource

            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(fds()) + 9, limits[1]))
            error = failure(pool.submit(sockets_of, 50).result)["errno"] == errno.EMFILE
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            found = [same, error, len(fds()) - here, files_of_worker() - there]
        return [*found, len(fds()) - before]

    assert root(body) == [True, True, 0, 0, 0]


def test_a_default_timeout_of_sockets_changes_nothing(root: Runner) -> None:
    """It is for the program's own: a namespace is kept, and a worker waits for its next call, and does not ask for it."""

    def body() -> list[Any]:
        socket.setdefaulttimeout(3)
        for _ in range(10):
            nsapi.create("net").close()
        with nsapi.ProcessPoolExecutor(1, config=nsapi.Config.new("uts")) as pool:
            pid = pool.submit(os.getpid).result()
            waiting = []
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
                    info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
                    waiting.append(int(info.partition("flags:")[2].split()[0], 8) & os.O_NONBLOCK)
        return waiting

    assert root(body) == [0]
