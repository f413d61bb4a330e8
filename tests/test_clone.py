"""clone, and call by a fork: a copy of this process inside, which does what it is told and ends."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import pytest
from conftest import Runner
from inside import (
    TYPES,
    CtrlC,
    all_ns,
    answer_enosys,
    at_every_moment,
    changed,
    children,
    everything,
    failure,
    fds,
    ns,
    refusal,
    status,
    unshared,
)

import nsapi

# ---- clone ----


def test_child_is_in_new_namespaces_of_each_type(root: Runner) -> None:
    """In those and no others, by words, members or an int mask; the caller stays where it is."""

    def body(*types: str) -> list[Any]:
        def tell(*names: str) -> None:
            os.write(write, json.dumps([all_ns()[name] for name in names]).encode())

        read, write = os.pipe()
        before, wrong = all_ns(), []
        mask = nsapi.Namespaces(types).clone_flags()
        each_way: list[Any] = [*types, nsapi.NamespaceType.NET, types, mask, ()]
        for flags in each_way:
            with nsapi.clone(tell, *types, flags=flags) as child:
                there = dict(zip(types, json.loads(os.read(read, 4096)), strict=True))
            new = [name for name in types if there[name] != before[name]]
            wanted = list(types) if flags in (types, mask) else [getattr(flags, "proc_name", flags)] if flags else []
            if new != wanted or child.returncode != 0:
                wrong.append([str(flags), new, child.returncode])
        return [wrong, all_ns() == before, children()]

    assert root(body, *TYPES) == [[], True, []]


STATUSES = """
import atexit, os, signal, sys
import nsapi

def fail():
    raise KeyError("lost")

atexit.register(print, "atexit")
print("buffered")
for each in (
    lambda: None, lambda: 7, lambda: 257, lambda: sys.exit(3), sys.exit, lambda: os._exit(4), lambda: signal.raise_signal(9),
    os.abort, lambda: "text", fail, lambda: print("said") or 0,
):
    try:
        child = nsapi.clone(each, flags="user")
        print("status", child.wait())
    finally:
        pass
"""


def test_what_the_child_returns_is_its_status() -> None:
    """As that of a program; its traceback is on standard error, and nothing that comes after the call happens in it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", STATUSES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", env=environment)
    statuses = [0, 7, 1, 3, 0, 4, -9, -6, 1, 1]
    said = ["buffered", *(f"status {each}" for each in statuses), "said", "status 0", "atexit"]
    assert done.stdout.splitlines() == said
    errors = [line for line in done.stderr.splitlines() if line[0].isalpha() and "Error" in line]
    assert errors == [
        "TypeError: child_func: 'text' is no exit status, which is an int, or None for 0",
        "KeyError: 'lost'",
    ]


def test_child_is_waited_for_by_its_pidfd(root: Runner) -> None:
    """poll, wait, timeout, signals, with: as of subprocess.Popen; the pidfd is closed with it."""

    def body() -> list[Any]:
        before = everything()
        child = nsapi.clone(signal.pause, flags=["uts", "net"])
        found: list[Any] = [child.poll(), child.pid in children(), os.path.exists(f"/proc/self/fd/{child.pidfd}")]
        found.append(refusal(lambda: child.wait(0.01))[0])
        child.terminate()
        found += [child.wait(), child.poll(), child.returncode, child.pidfd]
        child.kill()  # nobody
        with nsapi.clone(time.sleep, 0.01) as other:
            found.append(other.returncode)
        found.append(other.returncode)
        stolen = nsapi.clone(lambda: 5)
        os.waitpid(stolen.pid, 0)
        found.append(stolen.wait() in (0, 5))
        return [*found, changed(before)]

    assert root(body) == [None, True, True, "TimeoutExpired", -15, -15, -15, -1, None, 0, True, []]


def test_child_that_is_dropped_warns(root: Runner) -> None:
    def body() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pid = nsapi.clone(int).pid
        os.waitpid(pid, 0)
        return [str(each.message).replace(str(pid), "N") for each in caught if each.category is ResourceWarning]

    assert root(body) == ["child N was never waited for"]


def test_child_is_a_whole_interpreter(root: Runner) -> None:
    """Hooks of a fork are called, threads can be started and are waited for, ids are right, it can start programs."""

    def body() -> list[Any]:
        hooks: list[str] = []
        os.register_at_fork(
            before=lambda: hooks.append("before"),
            after_in_parent=lambda: hooks.append("parent"),
            after_in_child=lambda: hooks.append("child"),
        )

        def work() -> int:
            ran: list[int] = []
            thread = threading.Thread(target=lambda: ran.append(threading.get_native_id()))
            thread.start()
            thread.join()
            main = threading.main_thread()
            good = [hooks == ["before", "child"], len(ran) == 1, ran != [os.getpid()]]
            good += [threading.get_native_id() == os.getpid(), threading.current_thread() is main]
            good += [nsapi.run(["true"], config=nsapi.Config.new("net")).returncode == 0]
            good += [nsapi.call(abs, -1, config=nsapi.Config.new("uts")) == 1]
            return sum(1 << at for at, each in enumerate(good) if not each)

        def leave_a_thread() -> None:
            threading.Timer(0.05, os.write, (write, b"late")).start()

        child = nsapi.clone(work, flags=["uts", "ipc"])
        found: list[Any] = [child.wait(), list(hooks)]
        read, write = os.pipe()
        nsapi.clone(leave_a_thread).wait()
        os.close(write)
        return [*found, os.read(read, 9).decode()]

    assert root(body) == [0, ["before", "parent"], "late"]


def test_a_program_with_threads_is_refused(user: Runner) -> None:
    """It is told how many there are; nothing is born."""

    def body() -> list[Any]:
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        config = nsapi.Config.new("user")
        found = [failure(lambda: nsapi.clone(int)), failure(lambda: nsapi.call(int, config=config, method="fork"))]
        stop.set()
        thread.join()
        return [[each["errno"], each["step"], "this process has 2 threads" in str(each["hint"])] for each in found]

    assert user(body) == [[22, "check", True]] * 2


def test_child_is_waited_for_without_an_fd_to_spare(user: Runner) -> None:
    """Where the process has used up all of its own, nothing is left of the child either."""

    def body() -> list[Any]:
        import resource

        child = nsapi.clone(time.sleep, 0.05)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        found: list[Any] = [refusal(lambda: child.wait(0.01))[0], child.wait()]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return [*found, child.pidfd, children()]

    assert user(body) == ["TimeoutExpired", 0, -1, []]


def test_ctrl_c_at_any_moment_of_waiting_keeps_the_child(user: Runner) -> None:
    """No fd is lost, and it can be waited for again."""

    def body() -> list[Any]:
        def attempt(ctrl_c: CtrlC) -> list[Any]:
            read, write = os.pipe()
            before = fds()
            child = nsapi.clone(lambda: len(os.read(read, 1)))
            with ctrl_c:
                try:
                    child.wait(0.001)
                except subprocess.TimeoutExpired:
                    pass
            os.write(write, b"x")
            wrong = [] if child.wait() == 1 and fds() == before else [child.returncode, before, fds()]
            os.close(read)
            os.close(write)
            return wrong

        moments, wrong = at_every_moment(attempt)
        return [moments > 10, wrong]

    assert user(body) == [True, []]


def test_a_thread_that_has_been_joined_is_none(user: Runner) -> None:
    """The kernel counts it a moment longer than Python, and it is no reason to refuse; one of a C library's is."""

    def body() -> list[Any]:
        refused = 0
        for _ in range(100):
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
            try:
                nsapi.clone(int).wait()
            except nsapi.NamespaceError:
                refused += 1
        libc = ctypes.CDLL(None)
        libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.pause, None)
        error = failure(lambda: nsapi.clone(int))
        return [refused, error["errno"], error["step"], "this process has 2 threads" in str(error["hint"])]

    assert user(body) == [0, 22, "check", True]


def test_wrong_flags_are_refused_by_name(user: Runner) -> None:
    """Before anything is born; what the kernel refuses is the step's error."""

    def body() -> list[Any]:
        values: list[Any] = [0x100, 0x10F00, "net,uts", 3.5, True, 17, ["net", "net"]]
        found = [refusal(lambda: nsapi.clone(int, flags=each)) for each in values]
        denied = failure(lambda: nsapi.clone(int, flags="net"))
        three: Any = 3
        return [found, denied["step"], str(denied["hint"])[:21], refusal(lambda: nsapi.clone(three))[1], children()]

    found, step, hint, func, left = user(body)
    assert [name for name, _ in found] == [
        "ValueError",
        "ValueError",
        "ValueError",
        "TypeError",
        "TypeError",
        "ValueError",
        "ValueError",
    ]
    assert found[0][1].startswith("flags: CLONE_VM: the child is a copy")
    assert "CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD" in found[1][1]
    assert [step, hint, func, left] == ["clone net", "needs CAP_SYS_ADMIN; ", "child_func: 3 cannot be called", []]


def test_without_clone3(root: Runner) -> None:
    """An older kernel, or a filter: clone(2) does it, and time, for which that has no bit, is said to be missing."""

    def body() -> list[Any]:
        answer_enosys(("clone3", None))
        first = nsapi.clone(lambda: int(ns("uts") == here), flags=["uts", "net"]) if (here := ns("uts")) else None
        assert first is not None
        aborted = nsapi.clone(os.abort, flags="uts")
        return [first.wait(), aborted.wait(), failure(lambda: nsapi.clone(int, flags="time"))["classes"], children()]

    status, aborted, classes, left = root(body)
    assert [status, aborted, left] == [0, -6, []]
    assert classes[0] == "Unsupported"


# ---- call by a fork ----


INNER = "__main__.body.<locals>.<lambda>.<locals>.<lambda>"
ENDED = f"{INNER}: the interpreter ended with exit status 3 before the function returned"


def test_closures_are_called_in_a_fork(user: Runner) -> None:
    """The whole Config is performed, ids and maps too; the value, the exception and the end are those of call."""

    def body(*types: str) -> list[Any]:
        before, here = everything(), all_ns()
        seen = [1]
        config = nsapi.Config.new(*types, hostname="blue", loopback=True, no_new_privs=True)

        def inside() -> list[Any]:
            seen.append(2)
            there = all_ns()
            new = [name for name in types if there[name] != here[name]]
            return [seen, os.getresuid(), os.getpid(), socket.gethostname(), new == list(types), status("NoNewPrivs")]

        def call(function: Any, **more: Any) -> Any:
            return nsapi.call(function, config=config, method="fork", **more)

        found = [call(inside), seen, refusal(lambda: call(lambda: 1 / 0)), refusal(lambda: call(lambda: os._exit(3)))]
        found += [
            refusal(lambda: call(signal.pause, timeout=0.1))[0],
            refusal(lambda: call(threading.Lock))[1].split(": ", 2)[-1],
        ]
        return [*found, len(call(lambda: bytes(20_000_000))), changed(before)]

    assert user(body, *TYPES) == [
        [[1, 2], [0, 0, 0], 1, "blue", True, "1"],
        [1],
        ["ZeroDivisionError", "division by zero"],
        ["InterpreterDied", ENDED],
        "TimeoutExpired",
        "TypeError: cannot pickle '_thread.lock' object",
        20_000_000,
        [],
    ]


@pytest.mark.parametrize("way", ["call", "clone"])
def test_ctrl_c_at_any_moment_leaves_no_child(root: Runner, way: str) -> None:
    """KeyboardInterrupt comes out, neither child nor zombie nor fd is left, and nothing is waited for without an end."""

    def body(way: str) -> Any:
        import inspect

        os.register_at_fork(after_in_child=lambda: sys.setprofile(None))  # the child is not interrupted
        warnings.simplefilter("ignore")  # what was whole, and is collected with what was interrupted

        def attempt(ctrl_c: CtrlC) -> list[Any]:
            before = fds()
            with ctrl_c:
                if way == "call":
                    nsapi.call(os.getpid, config=nsapi.Config.new("uts"), method="fork")
                else:
                    with nsapi.clone(lambda: 0, flags="uts") as child:
                        child.wait()
            wrong: list[Any] = [*children(), *([] if fds() == before else ["fds"])]
            return wrong if ctrl_c.came == ctrl_c.raised else [*wrong, "swallowed"]

        def skip(code: Any, event: str) -> bool:
            if event == "call" and code.co_flags & inspect.CO_GENERATOR:
                return True  # it is also called to be closed, where CPython swallows what is raised
            return (code.co_name, event) == ("__enter__", "call")  # nobody knows of the child yet

        return at_every_moment(attempt, skip=skip)

    moments, wrong = root(body, way)
    assert moments > 40
    assert wrong == []


def test_what_was_said_before_the_end_is_heard(user: Runner) -> None:
    """Also by a caller who looks when the copy has ended already."""

    def body() -> list[Any]:
        from nsapi._channel import VALUE, Channel, dump
        from nsapi._interpreter import Line

        ours, theirs = socket.socketpair()
        with ours, theirs, nsapi.clone(lambda: Channel(theirs).send(VALUE, *dump(7))) as child:
            theirs.close()
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
            answer = Line(ours, child.pidfd).hear("x")
            return [answer and answer.value()]

    assert user(body) == [7]


def test_fork_joins_what_one_fork_can(root: Runner) -> None:
    """net, uts, mnt with ids; what takes the launcher is refused, naming the other method."""

    def body() -> list[Any]:
        before = everything()
        with unshared("--net", "--uts", "--mount") as process:
            config = nsapi.Config.join(process, "net", "uts", "mnt", uid=61234, gid=61234, groups=[])

            def inside() -> list[Any]:
                return [all_ns()[name] for name in ("net", "uts", "mnt")] + [status("Uid").split()[0]]

            there = nsapi.call(inside, config=config, method="fork")
            found: list[Any] = [there == [ns(name, process.pid) for name in ("net", "uts", "mnt")] + ["61234"]]
        for refused in (
            nsapi.Config.new("pid", init=True),
            nsapi.Config.new("time", time_offsets={"boottime": 5}),
            nsapi.Config.new("user", uid_mappings="0:100000:5", gid_mappings="0:100000:5"),
            nsapi.Config.new(pid=os.getpid()),
        ):
            name, text = refusal(lambda: nsapi.call(int, config=refused, method="fork"))
            found.append(name == "Unsupported" and "only method='spawn' performs it" in text)
        found.append(refusal(lambda: nsapi.call(int, config=nsapi.Config.new(net="nsapi-no-such"), method="fork"))[0])
        return [*found, changed(before)]

    assert root(body) == [True, True, True, True, True, "NamespaceError", []]
