"""The child that shares the caller's memory: what it is while it lives, what it leaves alone, and how each step fails.

To look at it between clone and exec, it is started into a frozen cgroup: there the kernel stops it before its first
instruction, for as long as a test wants.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Runner
from inside import (
    PYTHON,
    TYPES,
    answer_enosys,
    children,
    dumpable,
    everything,
    failure,
    fds,
    ns,
    status,
    unshared,
    waiting_for_all,
)
from test_spawn import HELPERS, become_root, cgroup2, inside, mount, out, own, piped, status_inside, teaching

import nsapi
from nsapi import Config

__all__ = ["cgroup2"]  # a fixture

# ---- what the bodies here know beside inside.py ----


def refuse_call(number: int, errnum: int) -> None:
    """Install a seccomp filter, for good: the system call of this number answers *errnum*."""
    import struct

    rows = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | errnum), (0x06, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    argument = struct.pack("HP", len(rows), ctypes.addressof(program))
    assert libc.prctl(22, 2, argument, 0, 0) == 0, ctypes.get_errno()


def raw_mask(how: int, mask: int) -> int:
    """rt_sigprocmask(2) by number: the C library hides its own two signals, 32 and 33."""
    number = {"x86_64": 14, "aarch64": 135}[os.uname().machine]
    new, old = ctypes.c_uint64(mask), ctypes.c_uint64()
    assert ctypes.CDLL(None).syscall(number, how, ctypes.byref(new), ctypes.byref(old), 8) == 0
    return old.value


def settled() -> dict[str, object]:
    """Everything of this process, once the threads that have been joined are gone."""
    while len(os.listdir("/proc/self/task")) > threading.active_count():
        os.sched_yield()
    return everything()


def changed(before: dict[str, object], mappings: int = 0) -> list[str]:
    """What of everything is another than before; where *mappings* are given, also whether there are many more."""
    after = settled()
    found = [name for name in before if before[name] != after[name]]
    return found + (["mappings"] if mappings and count_mappings() > mappings + 100 else [])


def count_mappings() -> int:
    with open("/proc/self/maps", encoding="utf-8") as file:
        return len(file.readlines())


class Frozen:
    """A spawner that sleeps, and its child, stopped between clone and exec."""

    def __init__(self, cgroup: str, spawner: subprocess.Popen[str]) -> None:
        self.cgroup, self.spawner = cgroup, spawner
        members = Path(f"{cgroup}/cgroup.procs")
        while not (pids := members.read_text().split()):
            assert spawner.poll() is None
            self.wait_for_event()
        self.child = int(pids[0])
        while "running" in Path(f"/proc/{self.child}/syscall").read_text():  # on its way to where it is stopped
            os.sched_yield()

    def wait_for_event(self) -> None:
        import select

        with open(f"{self.cgroup}/cgroup.events") as events:
            changed = select.poll()
            changed.register(events, select.POLLPRI)
            if "populated 0" in events.read():
                changed.poll(100)

    def thaw(self) -> None:
        Path(f"{self.cgroup}/cgroup.freeze").write_text("0")


@contextmanager
def frozen(cgroup: str, code: str, *args: str) -> Iterator[Frozen]:
    """Run *code*, which starts one program in cgroup ``sys.argv[1]``, up to the birth of its child."""
    Path(f"{cgroup}/cgroup.freeze").write_text("1")
    argv, pipe = [sys.executable, "-c", code, cgroup, *args], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as spawner:
        try:
            yield Frozen(cgroup, spawner)
        finally:
            if os.path.exists(f"{cgroup}/cgroup.kill"):
                Path(f"{cgroup}/cgroup.kill").write_text("1")
            Path(f"{cgroup}/cgroup.freeze").write_text("0")
            spawner.kill()


VFORK_HELPERS = (*HELPERS, refuse_call, raw_mask, settled, changed, count_mappings, Frozen, frozen)


@pytest.fixture(scope="module")
def root(root: Runner) -> Runner:
    return teaching(root, *VFORK_HELPERS)


@pytest.fixture(scope="module")
def user(user: Runner) -> Runner:
    return teaching(user, *VFORK_HELPERS)


# ---- between clone and exec ----

#: Starts `cat /proc/self/status` with handlers, and ignored signals, while another thread answers.
SPAWN = """
import ctypes, os, signal, sys, threading
from inside import *
import nsapi
if "clone" in sys.argv:
    answer_enosys(("clone3", None))
for number in (signal.SIGUSR1, signal.SIGRTMIN, signal.SIGRTMAX):
    signal.signal(number, lambda *args: None)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGRTMAX - 1, signal.SIG_IGN)
def answer():
    for line in sys.stdin:
        print("tick", flush=True)
threading.Thread(target=answer, daemon=True).start()
config = nsapi.Config.new("uts", "pid", cgroup_path=sys.argv[1])
process = nsapi.Popen(["cat", "/proc/self/status"], config=config, stdout=subprocess.PIPE, text=True)
print("STATUS", process.communicate()[0].replace("\\n", ";"), flush=True)
os._exit(0)
"""
ALL_BLOCKED = f"{2**64 - 1 - (1 << signal.SIGKILL - 1) - (1 << signal.SIGSTOP - 1):016x}"


@pytest.mark.parametrize("call", ["clone3", "clone"])
def test_the_child_before_exec(root: Runner, cgroup2: str, call: str) -> None:
    """No handler of ours can run in it, nothing interrupts the caller, and its stack is its own, with a guard below."""

    def body(cgroup: str, code: str, call: str) -> dict[str, object]:
        with frozen(cgroup, code, call) as it:
            assert it.spawner.stdin is not None
            assert it.spawner.stdout is not None
            ticks = []
            for _ in range(3):  # its other threads run meanwhile
                it.spawner.stdin.write("\n")
                it.spawner.stdin.flush()
                ticks.append(it.spawner.stdout.readline())
            stack = int(Path(f"/proc/{it.child}/syscall").read_text().split()[-2], 16)
            maps = [line.split() for line in Path(f"/proc/{it.child}/maps").read_text().splitlines()]
            borders = [[int(border, 16) for border in fields[0].split("-")] for fields in maps]
            at = next(number for number, (low, high) in enumerate(borders) if low < stack <= high)
            names = ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "Threads", "NSpid")
            child = {name: status(name, it.child) for name in names}
            answer: dict[str, object] = {
                "ticks": ticks,
                "stack": [maps[at][1], borders[at][1] - borders[at][0] >= 2**16, len(maps[at]) == 5],
                "guard": [maps[at - 1][1], borders[at - 1][1] == borders[at][0]],
                "child": child,
                "caller": {name: status(name, it.spawner.pid) for name in ("SigBlk", "SigIgn", "State")},
                "memory": os.path.samefile(f"/proc/{it.child}/exe", f"/proc/{it.spawner.pid}/exe"),
            }
            it.thaw()
            printed = it.spawner.communicate("")[0]
            answer["program"] = dict(
                line.split(":\t") for line in printed.partition("STATUS ")[2].split(";") if line.startswith("Sig")
            )
        return answer

    answer = root(body, cgroup2, SPAWN, call)
    assert answer["ticks"] == ["tick\n"] * 3
    assert answer["stack"] == ["rw-p", True, True]
    assert answer["guard"] == ["---p", True]
    ignored = int(answer["caller"].pop("SigIgn"), 16)
    given_back = sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))  # which Python ignores
    of_ours = 1 << signal.SIGHUP - 1 | 1 << signal.SIGRTMAX - 2
    assert ignored & of_ours == of_ours
    assert answer["caller"] == {"SigBlk": ALL_BLOCKED, "State": "D (disk sleep)"}
    pid = answer["child"].pop("NSpid").split()
    assert pid[1] == "1"
    assert answer["child"] == {
        "SigBlk": ALL_BLOCKED,
        "SigIgn": f"{ignored:016x}",
        "SigCgt": f"{0:016x}",
        "SigPnd": f"{0:016x}",
        "Threads": "1",
    }
    program = answer["program"]
    assert program["SigBlk"] == program["SigCgt"] == f"{0:016x}"
    assert program["SigIgn"] == f"{ignored & ~given_back:016x}"


INTERRUPTED = """
import os, subprocess, sys
from inside import *
import nsapi
out = subprocess.PIPE
config = nsapi.Config.new("uts", cgroup_path=sys.argv[1])
before = everything()
try:
    nsapi.Popen(["sleep", "1000"] if "good" in sys.argv else ["/nowhere"], config=config, stdout=out, stderr=out)
except KeyboardInterrupt:
    print("interrupted", everything() == before, flush=True)
"""


@pytest.mark.parametrize("how", ["good", "failing"])
def test_ctrl_c_while_the_caller_sleeps(root: Runner, cgroup2: str, how: str) -> None:
    """It comes when the child has become the program, or has failed; then no program, pipe or zombie is left."""

    def body(cgroup: str, code: str, how: str) -> list[object]:
        with frozen(cgroup, code, how) as it:
            it.spawner.send_signal(signal.SIGINT)
            pending = status("ShdPnd", it.spawner.pid)
            it.thaw()
            return [int(pending, 16) == 1 << signal.SIGINT - 1, *it.spawner.communicate()]

    assert root(body, cgroup2, INTERRUPTED, how) == [True, "interrupted True\n", ""]


ORPHAN = """
import sys, nsapi
config = nsapi.Config.new("uts", cgroup_path=sys.argv[1], parent_death_signal=int(sys.argv[3]))
sys.exit(nsapi.run(["touch", sys.argv[2]], config=config).returncode)
"""


@pytest.mark.parametrize("dies", [True, False], ids=["dies", "lives"])
def test_a_parent_that_dies_before_the_death_signal_is_set(
    root: Runner, cgroup2: str, readable_tmp: Path, dies: bool
) -> None:
    """The signal would never come: the program is not started then."""

    def body(cgroup: str, code: str, mark: str, dies: bool) -> list[object]:
        assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: the orphan becomes ours
        with frozen(cgroup, code, mark, str(int(signal.SIGTERM))) as it:
            if dies:
                it.spawner.kill()
                it.spawner.wait()
                it.thaw()
                ended: object = os.waitstatus_to_exitcode(os.waitpid(it.child, 0)[1])
            else:
                it.thaw()
                ended = it.spawner.wait()
        return [ended, os.path.exists(mark)]

    expected = [127, False] if dies else [0, True]
    assert root(body, cgroup2, ORPHAN, f"{readable_tmp}/started", dies) == expected


def test_a_child_that_is_killed_before_exec(root: Runner, cgroup2: str) -> None:
    """As with subprocess: the program has been started, and ended by that signal; nothing of it is left."""

    def body(cgroup: str, code: str) -> list[str]:
        with frozen(cgroup, code) as it:
            os.kill(it.child, signal.SIGKILL)
            return list(it.spawner.communicate())

    code = """
import sys, nsapi
from inside import *
config, before = nsapi.Config.new("uts", "pid", cgroup_path=sys.argv[1]), everything()
print(nsapi.run(["true"], config=config).returncode, everything() == before)
"""
    assert root(body, cgroup2, code) == ["-9 True\n", ""]


# ---- signals ----


def test_the_mask_of_the_caller_is_the_programs(anyone: Runner) -> None:
    """Exactly, with the C library's own two signals, 32 and 33; and of the thread that started it."""

    def body() -> list[bool]:
        config, found = Config.new(*own("uts")), []

        def look(mask: int) -> None:
            raw_mask(2, mask)
            found.append(int(status_inside(config)["SigBlk"], 16) == mask == raw_mask(2, 0))

        masks = [
            0,
            1 << 31,
            1 << 32,
            3 << 31,
            1 << 33,
            1 << 63,
            1 << signal.SIGTERM - 1,
            2**64 - 1 - (1 << 8) - (1 << 18),
        ]
        for mask in masks:
            look(mask)
            thread = threading.Thread(target=look, args=(mask,))
            thread.start()
            thread.join()
        return found

    assert anyone(body) == [True] * 16


def test_a_signal_with_a_handler_kills_the_program_and_an_ignored_one_does_not(anyone: Runner) -> None:
    """Handlers are defaults in the program; what is ignored stays so, but for SIGPIPE, as subprocess has it."""

    def body() -> list[object]:
        numbers = [each for each in signal.valid_signals() if each not in (signal.SIGKILL, signal.SIGSTOP)]
        for number in numbers:
            signal.signal(number, signal.SIG_IGN if number % 2 else lambda *args: None)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        config, found = Config.new(*own("uts")), []
        ignored = int(status("SigIgn"), 16)  # also 32, in what posix_spawn of the C library has started
        given_back = sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))
        for restore in (True, False):
            there = status_inside(config, restore_signals=restore)
            ign, cgt = int(there["SigIgn"], 16), int(there["SigCgt"], 16)
            found.append([ign == (ignored & ~given_back if restore else ignored), cgt == 0])
        killed = nsapi.run(["sh", "-c", f"kill -{int(signal.SIGUSR2)} $$"], config=config).returncode
        return [*found, killed]

    assert anyone(body) == [[True, True], [True, True], -signal.SIGUSR2]


@pytest.mark.parametrize("handler", ["Python", "C"])
def test_signals_that_arrive_meanwhile_do_no_harm(anyone: Runner, handler: str) -> None:
    """A timer of a tenth of a millisecond that interrupts what it can, over good and failing starts."""

    def body(handler: str) -> dict[str, object]:
        calls = [0]

        def count(*args: object) -> None:
            calls[0] += 1

        config, before = Config.new(*own("uts"), hostname="inner"), fds()
        wrong: list[object] = []
        if handler == "Python":
            signal.signal(signal.SIGALRM, count)
        else:
            libc = ctypes.CDLL(None)
            libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
            libc.signal(signal.SIGALRM, ctypes.cast(libc.labs, ctypes.c_void_p))  # a function that does nothing
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        for _ in range(100):
            process = nsapi.Popen(["uname", "-n"], config=config, stdout=subprocess.PIPE, text=True)
            answer = process.communicate()[0], process.wait()
            if answer != ("inner\n", 0):
                wrong.append(answer)
            error = failure(lambda: nsapi.Popen(["/nowhere"], config=config))
            if error.get("errno") != errno.ENOENT:
                wrong.append(error)
        signal.setitimer(signal.ITIMER_REAL, 0)
        return {
            "wrong": wrong,
            "children": children(),
            "fds": fds() == before,
            "called": handler == "C" or calls[0] > 10,
        }

    assert anyone(body, handler) == {"wrong": [], "children": [], "fds": True, "called": True}


# ---- threads ----


def test_many_threads_start_programs_at_once(anyone: Runner) -> None:
    """16 threads, 50 programs each, good and failing, of one Config and of their own: each gets what it asked for."""

    def body() -> dict[str, object]:
        shared = Config.new(*own("uts", "ipc"), hostname="shared")
        wrong: list[object] = []
        for start in (threading.Thread(target=out, args=(["true"], shared)),):  # the C library takes a signal for it
            start.start()
            start.join()
        before, started = settled(), threading.Barrier(16)

        def work(number: int) -> None:
            started.wait()
            mine = Config.new(*own("uts"), hostname=f"host-{number}")
            for turn in range(50):
                if turn % 5 == 4:
                    error = failure(lambda: nsapi.Popen([f"/nowhere/{number}"], config=mine))
                    found, wanted = [error.get("errno"), error.get("path")], [errno.ENOENT, f"/nowhere/{number}"]
                else:
                    config, name = (shared, "shared") if turn % 2 else (mine, f"host-{number}")
                    argv = ["sh", "-c", f"uname -n; exit {number}"]
                    done = nsapi.run(argv, config=config, stdout=subprocess.PIPE, text=True)
                    found, wanted = [done.stdout, done.returncode], [f"{name}\n", number]
                if found != wanted:
                    wrong.append([number, turn, found])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"wrong": wrong, "changed": changed(before)}

    assert anyone(body) == {"wrong": [], "changed": []}


def test_a_program_starts_where_its_thread_is(anyone: Runner) -> None:
    """Threads that have entered net namespaces start theirs there, at once, and the main thread its own at home."""

    def body() -> dict[str, object]:
        from concurrent.futures import ThreadPoolExecutor

        become_root()
        nsapi.unshare("net")  # an ordinary user could not come back to the host's
        home, config = ns("net"), Config.new("uts", "ipc")
        wrong: list[object] = []
        started = threading.Barrier(5)
        with ExitStack() as stack:
            held = [stack.enter_context(unshared("--net")) for _ in range(4)]

            def work(process: subprocess.Popen[str]) -> None:
                wanted = ns("net", process.pid)
                with nsapi.enter(process, "net"):
                    started.wait()
                    for _ in range(10):
                        found = inside(config)
                        if found["net"] != wanted or found["uts"] == ns("uts"):
                            wrong.append(found)
                if inside(config)["net"] != home:
                    wrong.append("home")

            with ThreadPoolExecutor(4) as pool:
                answers = pool.map(work, held)
                started.wait()
                for _ in range(10):
                    if inside(config)["net"] != home:
                        wrong.append("main")
                list(answers)
        return {"wrong": wrong}

    assert anyone(body) == {"wrong": []}


def test_a_program_starts_in_every_namespace_that_its_thread_has_entered(anyone: Runner) -> None:
    """One or all that a thread enters itself, and mixed with what is made for the program."""

    def body() -> dict[str, object]:
        found: dict[str, object] = {}
        types = ("net", "uts", "ipc", "cgroup", "mnt")
        become_root()
        nsapi.unshare(*types)  # an ordinary user could not come back to the host's
        with unshared("--net", "--uts", "--ipc", "--cgroup", "--mount") as process:
            for type in types:
                with nsapi.enter(process, type):
                    there = inside(Config.new("time"))
                    found[type] = [each for each in types if there[each] == ns(each, process.pid)] == [type]
            with nsapi.enter(process, *types):
                there = inside(Config.new("uts", "user", "pid"))
                found["all but one"] = [type for type in types if there[type] != ns(type, process.pid)]
        return found

    types = ("net", "uts", "ipc", "cgroup", "mnt")
    assert anyone(body) == {**dict.fromkeys(types, True), "all but one": ["uts"]}


def test_no_program_is_born_among_strangers(root: Runner) -> None:
    """It shares the caller's memory: where a pid namespace has been entered it is the launcher that goes there."""

    def body() -> list[object]:
        config = Config.new("uts")
        with unshared("--pid", "--fork") as parent:
            (child,) = map(int, Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())
            with nsapi.enter(child, "pid"):
                there = out(["echo", "there"], config)
                before = everything()
                there += out(["sh", "-c", "echo $$"], config)
                after = everything()
            return [there, before == after, out(["echo", "again"], config)]

    there, unchanged, again = root(body)
    assert there.startswith("there\n")
    assert (int(there.split()[1]) < 100, unchanged, again) == (True, True, "again\n")


def test_programs_of_a_pid_namespace_that_the_caller_has_made(anyone: Runner) -> None:
    """After unshare("pid") the first is its pid 1 and the next its pid 2, as for every child; when 1 ends, so do all."""

    def body() -> list[object]:
        become_root()
        nsapi.unshare("pid")
        script = "echo $$; read _"
        with (
            piped(["sh", "-c", script], Config.new("uts")) as one,
            piped(["sh", "-c", script], Config.new("uts")) as two,
        ):
            assert one.stdout is not None
            assert two.stdout is not None
            assert one.stdin is not None
            pids = [one.stdout.readline(), two.stdout.readline()]
            one.stdin.close()
            killed = two.wait()  # before one, which the kernel does not let end as long as others are there
        answer = failure(lambda: out(["true"], Config.new("uts")))
        return [pids, killed, answer["errno"], answer["step"]]

    assert anyone(body) == [["1\n", "2\n"], -signal.SIGKILL, errno.ENOMEM, "clone uts"]


@pytest.mark.parametrize("thief", ["thread", "handler"])
def test_one_who_waits_for_every_child_breaks_nothing(anyone: Runner, thief: str) -> None:
    """waitpid(-1), in another thread or on SIGCHLD: a failing start says why, a good one ends, even if none knows how."""

    def body(thief: str) -> dict[str, object]:
        config = Config.new(*own("uts"))
        wrong: list[object] = []
        before = fds()
        with waiting_for_all(thief):
            for _ in range(200):
                error = failure(lambda: nsapi.Popen(["/nowhere"], config=config))
                if (error.get("errno"), error.get("step")) != (errno.ENOENT, "exec /nowhere"):
                    wrong.append(error)
                with nsapi.Popen(["sh", "-c", "exit 3"], config=config) as process:
                    pass
                if process.returncode not in (0, 3) or process.pidfd != -1:
                    wrong.append([process.returncode, process.pidfd])
        return {"wrong": wrong, "fds": fds() == before, "children": children()}

    assert anyone(body, thief) == {"wrong": [], "fds": True, "children": []}


# ---- what is the caller's stays his ----


def test_a_thousand_programs_leave_nothing_behind(anyone: Runner) -> None:
    """One after the other, and 20 at a time: no fd, no zombie, no mapping, nothing changed."""

    def body() -> list[str]:
        config = Config.new(*own("uts"), hostname="inner", oom_score_adj=1000, no_new_privs=True)
        before = settled()
        out(["true"], config)
        mappings = count_mappings()
        for _ in range(900):
            nsapi.run(["true"], config=config, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=True)
        for _ in range(5):
            held = [
                nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(20)
            ]
            for process in held:
                process.communicate(b"x")
        return changed(before, mappings)

    assert anyone(body) == []


@pytest.mark.parametrize(("who", "flag"), [("root", 1), ("root", 0), ("user", 1)])
def test_dumpable_and_errno_stay_what_they_were(request: pytest.FixtureRequest, who: str, flag: int) -> None:
    """Whatever the child has done to its ids, capabilities and namespaces, and whether it has come to exec."""

    def body(flag: int) -> list[object]:
        from nsapi import _ffi

        ffi: Any = _ffi.ffi
        found: list[object] = []
        no_caps: dict[str, Any] = {"capabilities": {}}
        with unshared(*([] if os.getuid() else ["--uts"])) as process:
            assert ctypes.CDLL(None).prctl(4, flag, 0, 0, 0) == 0  # PR_SET_DUMPABLE
            join: dict[str, Any] = {} if os.getuid() else {"uts": process}
            for fields in ({}, no_caps, {"no_new_privs": True, "parent_death_signal": 9}):
                for program in (["true"], ["/nowhere"]):
                    for config in (Config.new(*TYPES, **fields), Config.new("user", "net", **join, **fields)):
                        failure(lambda: nsapi.run(program, config=config))
                        ffi.errno = 77  # what the C core finds as the caller's
                        failure(lambda: nsapi.run(program, config=config))
                        found.append([dumpable(), ffi.errno])
        return found

    assert request.getfixturevalue(who)(body, flag) == [[flag, 77]] * 12


def test_dumpable_stays_when_many_threads_change_it_at_once(anyone: Runner) -> None:
    """It is of the memory, so the children of all threads share it: none takes another's moment for the rule."""

    def body() -> list[object]:
        become_root()
        found: list[object] = []
        with unshared("--uts", "--net") as process:
            config = Config.new("user", "mnt", "ipc", uts=process, net=process, capabilities={}, no_new_privs=True)

            def work() -> None:
                for turn in range(20):
                    failure(lambda: nsapi.run(["true" if turn % 2 else "/nowhere"], config=config))

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            found.append(dumpable())
        return found

    assert anyone(body) == [1]


def test_no_descriptor_leaks_into_the_program(anyone: Runner) -> None:
    """It has 0, 1 and 2, whatever is open here, and whatever nsapi has opened for it; close_fds=False adds only what was
    inheritable before."""

    def body() -> list[object]:
        become_root()
        found: list[object] = []
        script = """if True:
            import os
            listed = map(int, os.listdir("/proc/self/fd"))
            print(sorted(fd for fd in listed if os.path.exists(f"/proc/self/fd/{fd}")))"""
        with unshared("--uts", "--net", "--ipc", "--mount") as process, open("/dev/null") as file:
            os.set_inheritable(os.dup2(file.fileno(), 50), True)
            os.dup2(file.fileno(), 51, inheritable=False)
            handle = nsapi.open(process, "net")
            fields: dict[str, Any] = {"time_offsets": {"boottime": 1}, "oom_score_adj": 1000, "parent_death_signal": 9}
            configs = [
                Config.new("user", "time", uts=process, net=handle, mnt=process, **fields),
                Config.join(process, parent_death_signal=9),
                Config.new(*TYPES, **fields),
            ]
            for config in configs:
                for close_fds in (True, False):
                    found.append(json.loads(out([*PYTHON, script], config, close_fds=close_fds)))
                found.append(json.loads(out([*PYTHON, script], config, pass_fds=[51])))
            handle.close()
        return found

    assert anyone(body) == [[0, 1, 2], [0, 1, 2, 50], [0, 1, 2, 51]] * 3


# ---- on older kernels ----


@pytest.mark.parametrize("call", ["clone3", "close_range"])
def test_without_the_newer_call_it_comes_out_the_same(anyone: Runner, call: str) -> None:
    """clone3(2), close_range(2): where a filter answers ENOSYS, the same programs find the same around them."""

    def body(call: str) -> list[list[Any]]:
        mask = 1 << 32 | 1 << signal.SIGTERM - 1
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda *args: None)
        raw_mask(2, mask)
        code = """if True:
            import os, time, json
            status = dict(line.split(":", 1) for line in open("/proc/self/status"))
            names = ("SigBlk", "SigIgn", "SigCgt", "CapEff", "CapBnd", "NoNewPrivs")
            print(json.dumps([
                os.getpid(), os.getppid(), os.uname().nodename, os.getuid(), os.getcwd(),
                {name: status[name].strip() for name in names},
                [open("/proc/self/" + name).read() for name in ("uid_map", "gid_map", "setgroups", "timens_offsets")],
                sorted(fd for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)),
                {name: os.readlink("/proc/self/ns/" + name) == "%s" for name in os.listdir("/proc/self/ns")},
                len(open("/proc/self/mountinfo").readlines()),
            ]))"""
        low = os.dup2(0, 40, inheritable=True)
        os.dup2(0, 41)
        fields: dict[str, Any] = {
            "hostname": "inner",
            "loopback": True,
            "time_offsets": {"monotonic": 5, "boottime": -1},
        }
        configs = [Config.new(*own("uts"), hostname="inner"), Config.new(*TYPES, **fields), Config.new("user", "time")]
        configs += [Config.new(*own("pid"), no_new_privs=True), Config.new(*own("cgroup", "mnt"), propagation="slave")]
        rounds = []
        for turn in range(2):
            found: list[Any] = []
            for config in configs:
                found.append(json.loads(out([*PYTHON, code], config)))
                found.append(json.loads(out([*PYTHON, code], config, close_fds=False, start_new_session=True)))
                found[-1][1] = found[-2][1] = "parent"
                for answer in found[-2:]:
                    answer[0] = answer[0] == 1
                error = failure(lambda: out(["/nowhere"], config))
                found.append([error["errno"], error["step"], error["text"]])
            if os.getuid() != 0:
                error = failure(lambda: out(["true"], Config.new("uts")))
                found.append([error["errno"], error["step"], error["text"]])
            rounds.append(found)
            if not turn:
                answer_enosys((call, None))
        os.close(low)
        # By the filter itself, and not by nsapi, no_new_privs is set from then on.
        for found in rounds:
            for answer in found:
                if len(answer) > 3:
                    answer[5].pop("NoNewPrivs")
        return rounds

    new, old = anyone(body, call)
    assert new == old
    assert len(new) == 15 + (anyone.name == "user")


def test_without_either_and_without_proc_nothing_is_passed_on(root: Runner) -> None:
    """Where close_range(2) is missing and /proc is no procfs, the fds cannot be closed: the program is not started."""

    def body() -> list[object]:
        answer_enosys(("close_range", None))
        out(["true"], Config.new("uts"))
        everything()
        nsapi.unshare("mnt")
        mount("--make-rprivate", "/")
        mount("-t", "tmpfs", "none", "/proc")
        before = os.listdir("/proc")
        error = failure(lambda: out(["true"], Config.new("uts")))
        os.mkdir("/proc/self")
        os.mkdir("/proc/self/fd")
        fake = failure(lambda: out(["true"], Config.new("uts")))
        return [before, error["errno"], error["step"], fake["errno"], fake["step"]]

    step = "close all other fds"
    assert root(body) == [[], errno.ENOENT, step, errno.EXDEV, step]


# ---- how each step fails ----


class Failure(NamedTuple):
    """One way to fail: who can, what is asked for, and what is told."""

    who: str  # "root", "user" or both
    errnum: int
    step: str  # a pattern
    first: bool = False  # whether it is the first step, made by clone itself


FAILURES = {
    "clone: may not": Failure("user", errno.EPERM, "clone uts", first=True),
    "clone: none left": Failure("root user", errno.ENOSPC, "clone net", first=True),
    "clone: unmapped": Failure("root user", errno.EPERM, "clone user", first=True),
    "clone: cgroup is gone": Failure("root", errno.ENOENT, "clone", first=True),
    "clone: cgroup is not for processes": Failure("root", errno.EOPNOTSUPP, "clone", first=True),
    "clone: cgroup of others": Failure("user", errno.EACCES, "clone", first=True),
    "close_on_exec": Failure("root user", errno.EPERM, "close all other fds"),
    "write: oom_score_adj": Failure("user", errno.EACCES, "write oom_score_adj"),
    "setns": Failure("user", errno.EPERM, "setns net of .*"),
    "setns: several": Failure("user", errno.EPERM, "setns uts,net of .*"),
    "unshare: may not": Failure("user", errno.EPERM, "unshare time"),
    "unshare: none left": Failure("root user", errno.ENOSPC, "unshare time"),
    "write: uid_map": Failure("root", errno.EPERM, "write uid_map"),
    "write: timens_offsets": Failure("root user", errno.ERANGE, "write timens_offsets"),
    "sethostname": Failure("root user", errno.EPERM, "sethostname inner"),
    "setdomainname": Failure("root user", errno.EPERM, "setdomainname domain"),
    "loopback": Failure("root", errno.EPERM, "bring up lo"),
    "mount: propagation": Failure("root", errno.EINVAL, "make all mounts private"),
    "mount: proc": Failure("root user", errno.EPERM, "mount /proc"),
    "prlimit": Failure("root user", errno.EPERM, "set RLIMIT_NOFILE"),
    "setpgid": Failure("root user", errno.EPERM, "setpgid 1"),
    "chdir": Failure("root user", errno.ENOENT, "chdir /nowhere"),
    "chdir: a file": Failure("root user", errno.ENOTDIR, "chdir /proc/self/status"),
    "cap_bound": Failure("user", errno.EPERM, "drop bounding capabilities"),
    "capset": Failure("user", errno.EPERM, "set capabilities"),
    "cap_ambient": Failure("root", errno.EPERM, "set ambient capabilities"),
    "exec: missing": Failure("root user", errno.ENOENT, "exec nsapi-nowhere"),
    "exec: a missing interpreter": Failure("root user", errno.ENOENT, "exec FOLDER/orphan"),
    "exec: not executable": Failure("root user", errno.EACCES, "exec FOLDER/plain"),
    "exec: a directory": Failure("root user", errno.EACCES, "exec /"),
    "exec: no format": Failure("root user", errno.ENOEXEC, "exec FOLDER/text"),
    "exec: too long": Failure("root user", errno.E2BIG, "exec true"),
    "exec: loop": Failure("root user", errno.ELOOP, "exec FOLDER/loop"),
    "exec: in use": Failure("root user", errno.ETXTBSY, "exec FOLDER/busy"),
}
#: Steps that a Config cannot make fail, or in other ways than above: arguments, the step before it, errno.
RAW: dict[str, tuple[dict[str, Any], tuple[str, dict[str, Any]] | None, int]] = {
    "clone": ({}, None, errno.EINVAL),  # not the first
    "setns: no namespace": ({"fd": 0, "flags": 0x40000000}, None, errno.EINVAL),
    "unshare: no type": ({"flags": 1}, None, errno.EINVAL),
    "write: not beneath": ({"path": b"/proc/self/nowhere", "data": b"x", "length": 1}, None, errno.EXDEV),
    "write: in the way": ({"path": b"/dev/null", "data": b"x", "length": 1, "flags": 0x9FA0}, None, errno.EXDEV),
    "write: a symlink": ({"path": b"/proc/self", "data": b"x", "length": 1}, None, errno.EXDEV),
    "socket: no family": ({"slot": 1, "value": 999, "flags": 1}, None, errno.EAFNOSUPPORT),
    "socketpair: no pairs": ({"slot": 1, "value": 2, "flags": 1}, None, errno.EOPNOTSUPP),
    "socketpair: one slot": ({"slot": 19, "value": 1, "flags": 1}, None, errno.EINVAL),
    "dumpable: no such state": ({"value": 2}, None, errno.EINVAL),
    "prlimit: no resource": ({"flags": 999}, None, errno.EINVAL),
    "keep: closed": ({"fd": 987}, None, errno.EBADF),
    "dup2: closed": ({"fd": 987, "value": 5}, None, errno.EBADF),
    "dup2: closed, to itself": ({"fd": 987, "value": 987}, None, errno.EBADF),
    "dup2: out of range": ({"fd": 0, "value": 2**30}, None, errno.EBADF),
    "setsid: leads a group": ({}, ("setpgid", {"value": 0}), errno.EPERM),
    "sigdefault: SIGKILL": ({"value": 1 << signal.SIGKILL - 1}, None, errno.EINVAL),
    "pdeathsig: no signal": ({"value": 65, "fd": 0}, None, errno.EINVAL),
    "pdeathsig: no parent": ({"value": 9, "fd": 987}, None, errno.ESRCH),
}
CANNOT_FAIL = {"umask", "no_new_privs", "sigmask"}
ONLY_TO_ENTER = {"open", "open_own", "close", "check_return", "return", "check_fs", "return_fs"}
ONLY_TO_LAUNCH = {"setgroups", "setresgid", "setresuid", "keep_caps"}  # test_launcher
ONLY_TO_PIN = {"make_file", "clone_mount", "attach", "umount"}  # test_pin


def test_every_step_is_made_to_fail() -> None:
    """A new one needs a row in one of the two tables."""
    from nsapi._ffi import ffi

    steps = {name.removeprefix("NSAPI_").lower() for name in ffi.typeof("enum nsapi_op").relements} - {"ops"}
    shown = {kind.partition(":")[0] for kind in (*FAILURES, *RAW)}
    assert shown | CANNOT_FAIL | ONLY_TO_ENTER | ONLY_TO_LAUNCH | ONLY_TO_PIN == steps
    assert not shown & (CANNOT_FAIL | ONLY_TO_ENTER | ONLY_TO_PIN)


def test_a_step_by_itself_fails_with_its_errno(anyone: Runner) -> None:
    """The C core tells the index and the errno, whatever the steps; the child is gone then, and nothing has changed."""

    def body(rows: dict[str, Any]) -> dict[str, object]:
        from nsapi._native import Program, State, Step, spawn

        found: dict[str, object] = {}
        for kind, (keywords, earlier, _) in rows.items():
            keywords = {name: value.encode() if name in ("path", "data") else value for name, value in keywords.items()}
            steps = [Step("clone", "first"), *([Step(earlier[0], "before", **earlier[1])] if earlier else [])]
            steps += [Step(kind.partition(":")[0], kind, **keywords), Step("umask", "after")]
            before = everything()
            answer = failure(lambda steps=steps: spawn(Program(steps), State()))  # type: ignore[misc]
            found[kind] = [answer["errno"], answer["step"], everything() == before]
        return found

    rows = json.loads(json.dumps(RAW, default=bytes.decode))
    assert anyone(body, rows) == {kind: [row[2], kind, True] for kind, row in RAW.items()}


def fail(kind: str, folder: str, count: int) -> dict[str, object]:
    """In a process of its own: prepare this failure, see it as a caller does, and then *count* times."""
    import resource

    os.environ["PATH"], mask = "/usr/bin:/bin", status("SigBlk")
    out(["true"], Config.new(*own("uts")))  # all is loaded
    everything()
    program: list[str] = ["true"]
    keywords: dict[str, Any] = {}
    config = Config.new(*own("uts"))
    syscalls = {"x86_64": (170, 171), "aarch64": (161, 162)}[os.uname().machine]
    with ExitStack() as stack:
        if kind == "clone: may not":
            config = Config.new("uts")
        elif kind in ("clone: none left", "unshare: none left"):
            name = "net" if kind.startswith("clone") else "time"
            config = Config.new(name)
            become_root("always")
            Path(f"/proc/sys/user/max_{name}_namespaces").write_text("0")
        elif kind == "clone: unmapped":
            config = Config.new("user", uid_mappings=[], gid_mappings=[])
            nsapi.unshare("user")
        elif kind == "clone: cgroup is gone":
            os.mkdir(f"{folder}/gone")
            gone = os.open(f"{folder}/gone", os.O_PATH)
            stack.callback(os.close, gone)
            os.rmdir(f"{folder}/gone")
            config = Config.new(cgroup_path=gone)
        elif kind == "clone: cgroup is not for processes":
            for name in ("threaded", "invalid"):
                os.mkdir(f"{folder}/{name}")
                stack.callback(os.rmdir, f"{folder}/{name}")
            Path(f"{folder}/threaded/cgroup.type").write_text("threaded")
            config = Config.new(cgroup_path=f"{folder}/invalid")
        elif kind == "clone: cgroup of others":
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            config = Config.new(cgroup_path=next(line.split()[4] for line in lines if " - cgroup2 " in line))
        elif kind == "close_on_exec":
            refuse_call(436, errno.EPERM)
        elif kind == "write: oom_score_adj":
            config = Config.new(oom_score_adj=-1000)
        elif kind in ("setns", "setns: several"):
            process = stack.enter_context(unshared("--user", "--map-root-user", "--net", "--uts"))
            handle = nsapi.open(process, "net")
            stack.callback(handle.close)
            config = Config.new(net=handle) if kind == "setns" else Config.join(process, "uts", "net")
        elif kind == "unshare: may not":
            config = Config.new("time")
        elif kind == "write: uid_map":  # root of the outer namespace is not to be root here without CAP_SETFCAP there
            keep = int(status("CapEff"), 16) & ~(1 << 31)
            header = (ctypes.c_uint32 * 2)(0x20080522, 0)
            data = (ctypes.c_uint32 * 6)(*([keep & 0xFFFFFFFF] * 2), 0, *([keep >> 32] * 2), 0)
            assert ctypes.CDLL(None).capset(header, data) == 0
            config = Config.new("user")
        elif kind == "write: timens_offsets":
            config = Config.new(*own("time"), time_offsets={"boottime": -(10**9)})
        elif kind == "sethostname":
            refuse_call(syscalls[0], errno.EPERM)
            config = Config.new(*own("uts"), hostname="inner")
        elif kind == "setdomainname":
            refuse_call(syscalls[1], errno.EPERM)
            config = Config.new(*own("uts"), hostname="inner", domainname="domain")
        elif kind == "loopback":  # needs CAP_NET_ADMIN, where making the namespace needs CAP_SYS_ADMIN
            keep = 1 << 21
            header = (ctypes.c_uint32 * 2)(0x20080522, 0)
            data = (ctypes.c_uint32 * 6)(keep, keep, 0, 0, 0, 0)
            assert ctypes.CDLL(None).capset(header, data) == 0
            config = Config.new("net", loopback=True)
        elif kind == "mount: propagation":
            nsapi.unshare("mnt")
            mount("--make-rprivate", "/")
            mount("-t", "tmpfs", "none", folder)
            os.mkdir(f"{folder}/root")
            for name in ("proc", "dev"):
                os.mkdir(f"{folder}/root/{name}")
                mount("--rbind", f"/{name}", f"{folder}/root/{name}")
            os.chroot(f"{folder}/root")
            os.chdir("/")
            config = Config.new("mnt")
        elif kind == "mount: proc":
            become_root("always")
            nsapi.unshare("mnt")
            mount("-t", "tmpfs", "none", "/proc/tty")
            config = Config.new("user", "pid", "mnt")
        elif kind == "prlimit":
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
            config = Config.new("user", rlimits={"RLIMIT_NOFILE": (100, 101)})
        elif kind == "setpgid":
            keywords = {"process_group": 1}
        elif kind == "chdir":
            keywords = {"cwd": "/nowhere"}
        elif kind == "chdir: a file":
            keywords = {"cwd": "/proc/self/status"}
        elif kind == "cap_bound":
            config = Config.new(capabilities={})
        elif kind == "capset":
            from nsapi._fields import CAPABILITIES

            config = Config.new(capabilities={"bounding": CAPABILITIES, "permitted": ["CAP_KILL"]})
        elif kind == "cap_ambient":
            assert ctypes.CDLL(None).prctl(28, 1 << 6, 0, 0, 0) == 0  # PR_SET_SECUREBITS, NO_CAP_AMBIENT_RAISE
            names = ("bounding", "permitted", "inheritable", "effective", "ambient")
            sets = {name: ["CAP_KILL"] for name in names}
            config = Config.new("uts", capabilities=sets)
        elif kind == "exec: missing":
            program = ["nsapi-nowhere"]
        elif kind == "exec: a directory":
            program = ["/"]
        elif kind == "exec: too long":
            program = ["true", "x" * 2**17]
        elif kind.startswith("exec: "):
            files = {"a missing interpreter": "orphan", "not executable": "plain", "no format": "text"}
            files |= {"loop": "loop", "in use": "busy"}
            path = f"{folder}/{files[kind[6:]]}"
            if kind == "exec: loop":
                os.symlink(path, path)
            else:
                file = stack.enter_context(open(path, "w"))
                file.write("#!/nowhere/interpreter\n" if kind == "exec: a missing interpreter" else "text\n")
                file.flush()
                os.chmod(path, 0o644 if kind == "exec: not executable" else 0o755)
                if kind != "exec: in use":
                    file.close()
            program = [path]
        else:
            raise AssertionError(kind)

        def call() -> object:
            return nsapi.Popen(program, config=config, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **keywords)

        answer = failure(call)
        try:
            call()
        except nsapi.NamespaceError as error:
            answer |= {"index": error.index, "total": error.total, "raised": True}
        before, mappings = settled(), count_mappings()
        for _ in range(count):
            failure(call)
        answer["changed"] = [*changed(before, mappings), *(["mask"] if status("SigBlk") != mask else [])]
    return answer


@pytest.mark.parametrize(("kind", "who"), [(kind, who) for kind, row in FAILURES.items() for who in row.who.split()])
def test_a_step_that_fails_is_named_and_nothing_is_left(
    request: pytest.FixtureRequest, readable_tmp: Path, kind: str, who: str
) -> None:
    """Its words, its place among how many, its errno; after 1,000 of them the process is what it was before the first."""
    runner, row = request.getfixturevalue(who), FAILURES[kind]
    cgroup = kind.startswith("clone: cgroup") and who == "root"
    folder = request.getfixturevalue("cgroup2") if cgroup else str(readable_tmp)
    answer = runner(fail, kind, folder, 1000 if row.who.startswith(who) else 100)
    assert answer.get("raised"), answer
    assert answer["errno"] == row.errnum, answer
    assert re.fullmatch(row.step.replace("FOLDER", folder), answer["step"]), answer
    assert answer["step"] in answer["text"]
    assert f"(step {answer['index'] + 1} of {answer['total']})" in answer["text"]
    assert (answer["index"] == 0) == row.first
    assert answer["index"] < answer["total"]
    assert (answer["index"] == answer["total"] - 1) == row.step.startswith("exec ")
    assert type(OSError(row.errnum, "")).__name__ in answer["classes"]
    assert answer["changed"] == []
