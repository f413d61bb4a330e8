"""init=True: pid 1 is a reaper beside the program, which ends as any program does, and all that it has started with it."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from conftest import Runner, setuid
from inside import PYTHON, answer_enosys, children, everything, failure, fds, status

import nsapi

INIT: dict[str, Any] = {"init": True}


# ---- how it ends ----


def test_every_end_is_told_as_it_was(anyone: Runner) -> None:
    """Statuses and signals, from within and from outside, by which the program would end without a namespace."""

    def body() -> Any:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        statuses = [nsapi.run(["sh", "-c", f"exit {each}"], config=config).returncode for each in (0, 7, 255)]
        numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT, signal.SIGPIPE, signal.SIGRTMAX)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in numbers:
            statuses.append(nsapi.run(["sh", "-c", f"kill -{int(number)} $$"], config=config).returncode)
            with nsapi.Popen(["sleep", "1000"], config=config) as process:
                process.send_signal(number)
            statuses.append(process.returncode)
        with nsapi.Popen(["sleep", "1000"], config=config) as process:
            process.terminate()
        return [statuses, process.returncode, children()]

    expected = [0, 7, 255, -9, -9, -15, -15, -11, -11, -2, -2, -13, -13, -64, -64]
    assert anyone(body) == [expected, -15, []]


@pytest.mark.parametrize(
    ("types", "fields"),
    [(["user"], INIT), ([], INIT), (["user"], {"pid": "/proc/self/ns/pid", **INIT})],
    ids=["no pid namespace", "nothing at all", "a pid namespace that is joined"],
)
def test_without_a_new_pid_namespace_it_is_refused(types: list[str], fields: dict[str, Any]) -> None:
    """One that is joined has a pid 1 already."""
    before = fds(), children()
    with pytest.raises(ValueError, match="init: True needs a created pid namespace, of which it is pid 1"):
        nsapi.run(["true"], config=nsapi.Config.new(*types, **fields))
    assert (fds(), children()) == before


# ---- what it reaps ----

ORPHANS = """
import os, sys
read, write = os.pipe()
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if not child:
        if not os.fork():
            os.read(read, 1)
        os._exit(0)
    os.waitpid(child, 0)
mine = [os.getpid(), 1]
def others():
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in mine]
parents = set()
for pid in others():
    with open(f"/proc/{pid}/stat") as file:
        parents.add(file.read().rpartition(")")[2].split()[1])
print(len(others()), *parents)
os.write(write, b"x" * int(sys.argv[1]))
while others():
    os.sched_yield()
print("reaped")
"""


def test_a_thousand_orphans_at_once_are_reaped(anyone: Runner) -> None:
    """All alive, all children of pid 1; then all end, of which pid 1 may be told only once."""

    def body(script: str) -> Any:
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        made = nsapi.run([*PYTHON, script, "1000"], config=config, capture_output=True, text=True)
        return [made.stdout.split(), made.stderr, made.returncode]

    assert anyone(body, ORPHANS) == [["1000", "1", "reaped"], "", 0]


# ---- the caller's end ----

CALLER = """
import nsapi, os, signal, sys, threading
how, keywords = sys.argv[1], eval(sys.argv[2])
def start():
    script = "trap 'echo cleaned up; exit' USR1; sleep 1000 & setsid sleep 1000 & echo started; while :; do wait; done"
    config = nsapi.Config.new("user", "pid", "mnt", init=True, **keywords)
    started.append(nsapi.Popen(["sh", "-c", script], config=config))
started = []
thread = threading.Thread(target=start)
thread.start(); thread.join()
input()
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(0)
"""


@pytest.mark.parametrize("how", ["exit", "killed"])
@pytest.mark.parametrize(
    "keywords", [{}, {"parent_death_signal": 9}, {"parent_death_signal": int(signal.SIGUSR1)}], ids=str
)
def test_all_end_with_the_caller(anyone: Runner, how: str, keywords: dict[str, Any]) -> None:
    """However it ends, whatever thread has started it, and long after that has ended.

    With a death signal the program is told and may take its time; but when it ends, so do the others.
    """

    def body(script: str, how: str, keywords: str) -> Any:
        read, write = os.pipe()
        argv = [sys.executable, "-c", script, how, keywords]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=write) as caller:
            os.close(write)
            with open(read, encoding="ascii") as file:
                line = file.readline()
                assert caller.stdin is not None
                caller.stdin.write(b"\n")
                caller.stdin.close()
                rest = file.read()  # to its end: nobody has the pipe any more
        return [line + rest, caller.returncode]

    said = "started\ncleaned up\n" if keywords.get("parent_death_signal") == signal.SIGUSR1 else "started\n"
    assert anyone(body, CALLER, how, repr(keywords)) == [said, -9 if how == "killed" else 0]


# ---- the end of pid 1 ----


def test_pid_1_cannot_be_ended_from_inside_and_ends_all_from_outside(anyone: Runner) -> None:
    """Whatever the program sends it, root or not; SIGKILL from outside ends the program, as the kernel says."""

    def body() -> Any:
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        script = (
            "for each in 1 2 3 9 10 13 14 15 17 18 19 20; do kill -$each 1 || exit 1; done; echo alive; exec sleep 1000"
        )
        with nsapi.Popen(["sh", "-c", script], config=config, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            (reaper,) = [pid for pid in children() if pid != process.pid]
            state = status("State", reaper)
            os.kill(reaper, signal.SIGKILL)
        alive = state in ("S (sleeping)", "R (running)")  # still at the last of the signals, perhaps
        return [line, alive or state, process.returncode, children()]

    assert anyone(body) == ["alive\n", True, -9, []]


# ---- stop and continue ----


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
@pytest.mark.parametrize("whom", ["program", "group"])
def test_it_stops_and_continues(anyone: Runner, number: int, whom: str) -> None:
    """Its parent sees it. Where pid 1 was stopped too, with the group, and not continued, the end is told all the same."""

    def body(number: int, whom: str) -> Any:
        os.setpgid(0, 0)  # SIGTSTP stops nobody in a group that is orphaned, as that of a job without a terminal may be
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        with nsapi.Popen(["sleep", "1000"], config=config, process_group=0 if whom == "program" else None) as process:
            if whom == "group":
                (reaper,) = [pid for pid in children() if pid != process.pid]
                os.kill(reaper, number)
            process.send_signal(number)
            found = os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            assert found is not None
            facts = [found.si_status, process.poll()]
            process.send_signal(signal.SIGCONT)
            found = os.waitid(os.P_PID, process.pid, os.WCONTINUED)
            assert found is not None
            process.terminate()
        return [*facts, found.si_code == os.CLD_CONTINUED, process.returncode, children()]

    assert anyone(body, int(number), whom) == [number, None, True, -15, []]


# ---- killed at any moment ----


@pytest.mark.parametrize(
    ("types", "fields"),
    [(["pid", "mnt"], INIT), (["user", "pid", "mnt"], INIT), (["uts"], {"uid": 0})],
    ids=["two stages and pid 1", "three stages and pid 1", "two stages"],
)
def test_a_start_that_is_killed_leaves_nobody(root: Runner, types: list[str], fields: dict[str, Any]) -> None:
    """Any of the stages, or pid 1, as soon as there are so many: an error, or a program, and never a zombie or a wait.

    Also who was born, and whose maker was killed before it could tell of it.
    """

    def body(types: list[str], fields: dict[str, Any]) -> Any:
        config = nsapi.Config.new(*types, **fields)
        import contextlib

        me = threading.get_native_id()
        ends: set[str] = set()

        def kill(count: int, victim: int) -> None:
            with open(f"/proc/self/task/{me}/children", encoding="ascii") as file:
                while not done.is_set():
                    file.seek(0)
                    if len(found := file.read().split()) >= count:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(found[victim]), signal.SIGKILL)
                        return

        first = threading.Thread(target=bool)  # with it the C library sets a handler of its own
        first.start()
        first.join()
        before = everything()
        most = 2 + ("user" in types) + config.init
        for count, victim in [(one, each) for one in range(1, most + 1) for each in range(one)] * (48 // most):
            done = threading.Event()
            killer = threading.Thread(target=kill, args=(count, victim))
            killer.start()
            try:
                ends.add(str(nsapi.run(["true"], config=config).returncode))
            except nsapi.NamespaceError as error:
                ends.add(str(error.step).partition(":")[0])
            done.set()
            killer.join()
            if left := children():
                return [count, victim, left]
        after = everything()
        changed = [key for key in before if before[key] != after[key] and key not in ("fds", "threads", "mounts")]
        return [sorted(ends), changed]

    ends, changed = root(body, types, fields)
    assert set(ends) <= {
        "0", "-9", "start the launcher", "stage 0 has died", "stage 1 has died", "stage 2 has died", "the reaper has died",
        "start stage 2",
    }  # fmt: skip
    assert "start the launcher" in ends
    assert len(ends) > 1
    assert changed == []


# ---- the helper ----


HELPER = """
import os, sys
with open("/proc/self/status") as file:
    told = [line.split()[1] for line in file if line.startswith(("SigBlk", "SigIgn"))]
told += [fd for fd in sorted(os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")]
with open(os.path.dirname(sys.argv[0]) + "/told", "w") as file:
    file.write(" ".join(told))
sys.exit(1)
"""


@pytest.mark.parametrize("missing", [(), ("close_range",)], ids=["", "without close_range"])
def test_a_helper_gets_stdio_and_no_signal_of_ours(
    granted: Runner, readable_tmp: pathlib.Path, missing: list[str]
) -> None:
    """Nothing blocked or ignored, so that Ctrl-C reaches it; no fd but 0, 1 and 2, not even one that the program gets."""

    def body(folder: str, missing: list[str]) -> Any:
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        os.dup2(0, 77, inheritable=True)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        answer_enosys(*((each, None) for each in missing))
        maps = {"uid_mappings": "0:100000:10", "gid_mappings": f"0:{os.getgid()}:1"}
        error = failure(lambda: nsapi.run(["true"], config=nsapi.Config.new("user", **maps), pass_fds=[77]))
        return [pathlib.Path(folder, "told").read_text().split(), error["step"]]

    script = f"#!{granted.python} -ISE\n{HELPER}"
    told, step = granted(body, setuid(script, folder=readable_tmp, name="newuidmap"), missing)
    assert told == [
        "0" * 16,
        f"{1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1:016x}",
        "0",
        "1",
        "2",
    ]  # Python's own
    assert "exited with status 1" in step
