"""Both carriers do the same: what is promised of a program that a vfork child becomes holds for one that is launched."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
from typing import Any

import pytest
from conftest import Runner, tool
from inside import PYTHON, answer_enosys, children, failure, fds, waiting_for_all
from test_popen import CASES, as_told, come_out

import nsapi

#: What the launcher is needed for and which changes nothing that the cases look at: who runs it, types, fields.
FORCED: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "root, maps of ranges": ("root", ["user"], {"uid_mappings": "0:0:65536", "gid_mappings": "0:0:65536"}),
    "root, its own pid namespace": ("root", [], {"pid": "/proc/self/ns/pid"}),
    "user, init": ("user", ["user", "pid", "mnt"], {"init": True}),
}


@pytest.fixture(scope="module", params=FORCED)
def launched(request: pytest.FixtureRequest) -> Any:
    who, types, fields = FORCED[request.param]
    return come_out(request.getfixturevalue(who), types, fields)


@pytest.mark.parametrize("name", CASES)
def test_it_comes_out_the_same_by_the_launcher(launched: Any, name: str) -> None:
    """Every case of test_popen."""
    assert launched[name]["nsapi"] == {"outcome": as_told(CASES[name].expected), "left": []}


#: Of one caller: a Config for a vfork child, and those for the launcher.
BOTH: dict[str, list[tuple[list[str], dict[str, Any]]]] = {
    "root": [
        (["uts"], {}),
        (["uts"], {"uid": 0}),
        (["user"], {"uid_mappings": "0:0:65536", "gid_mappings": "0:0:65536"}),
        (["uts"], {"pid": "/proc/self/ns/pid"}),
        (["pid", "mnt"], {"init": True}),
    ],
    "user": [(["user"], {}), (["user"], {"uid": 0}), (["user", "pid", "mnt"], {"init": True})],
}


# ---- a status that somebody else has taken ----


@pytest.mark.parametrize("thief", ["wait", "thread", "handler", "ignored"])
def test_a_stolen_status_is_exact_all_the_same(anyone: Runner, thief: str) -> None:
    """waitpid(-1) in a loop, in another thread or on SIGCHLD, or nobody waits: the kernel still tells, Linux 6.15.

    Before, and where a filter forbids to ask: 0, as subprocess. A program that has not started is an error as ever.
    """

    def body(configs: list[Any], thief: str) -> Any:
        import contextlib

        def ended(config: Any, script: str) -> int:
            process = nsapi.Popen(["sh", "-c", script], config=config)
            if thief == "wait":
                os.waitpid(process.pid, 0)
            return process.wait()

        if thief == "ignored":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        somebody = waiting_for_all(thief) if thief in ("thread", "handler") else contextlib.nullcontext()
        before, found = fds(), []
        with somebody:
            for types, fields in configs:
                config = nsapi.Config.new(*types, **fields)
                each = [{ended(config, "exit 7") for _ in range(30)}, {ended(config, "kill -9 $$") for _ in range(5)}]
                errors = [str(failure(lambda: nsapi.run(["/nowhere"], config=config))["step"]) for _ in range(5)]
                found.append([*map(list, each), sorted(set(errors))])
            left = sorted(set(fds()) - set(before) - {fd for fd, path in fds().items() if "memfd" in path})
            answer_enosys(("ioctl", 0xC040FF0B), errnum=25)
            old = sorted({ended(nsapi.Config.new(*types, **fields), "exit 7") for types, fields in configs} - {7})
        return [found, left, old, children()]

    exact = int(os.uname().release.split(".")[0]) * 1000 + int(os.uname().release.split(".")[1]) >= 6015
    configs = BOTH[anyone.name]
    found, left, old, alive = anyone(body, configs, thief)
    for sevens, kills, errors in found:
        assert set(sevens) <= {7} if exact else {0, 7}
        assert set(kills) <= {-9} if exact else {0, -9}
        assert errors == ["exec /nowhere"]
    assert (left, alive) == ([], [])
    assert set(old) <= {0}
    assert old == [0] or thief in ("thread", "handler")


def test_whoever_is_not_the_parent_learns_nothing_and_does_not_wait(anyone: Runner) -> None:
    """In a forked copy of the caller the program is no child: 0 at once, as subprocess, while it runs on."""

    def body(configs: list[Any]) -> Any:
        found = []
        for types, fields in configs:
            with nsapi.Popen(["sleep", "1000"], config=nsapi.Config.new(*types, **fields)) as process:
                copy = os.fork()
                if not copy:
                    os._exit(process.wait() + 40)
                found += [os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]), process.poll()]
                process.kill()
            found.append(process.returncode)
        return found

    configs = BOTH[anyone.name][:2]
    assert anyone(body, configs) == [40, None, -9] * 2


# ---- what else a program gets from its caller ----

INHERITED = """
import ctypes, json, os, resource
libc = ctypes.CDLL(None)
def status(field):
    with open("/proc/self/status") as file:
        return next(line.split(":", 1)[1].split() for line in file if line.startswith(field + ":"))
print(json.dumps({
    "nice": os.nice(0), "affinity": sorted(os.sched_getaffinity(0)), "policy": os.sched_getscheduler(0),
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")},
    "io priority": libc.syscall({"x86_64": 252, "aarch64": 31}[os.uname().machine], 1, 0),
    "session keyring": libc.syscall({"x86_64": 250, "aarch64": 219}[os.uname().machine], 0, -3, 0),
    "personality": libc.personality(0xffffffff), "timer slack": libc.prctl(30, 0, 0, 0, 0),
    "securebits": libc.prctl(27, 0, 0, 0, 0), "keep caps": libc.prctl(7, 0, 0, 0, 0), "death signal": ctypes.c_int(-1).value,
    "subreaper": status("NoNewPrivs"), "pending": [status("SigPnd"), status("ShdPnd")], "blocked": status("SigBlk"),
    "ignored": status("SigIgn"), "coredump filter": open("/proc/self/coredump_filter").read(),
    "thp": status("THP_enabled"), "speculation": status("Speculation_Store_Bypass"),
    "timers": list(map(float, __import__("signal").getitimer(0))),
}))
"""


@pytest.mark.parametrize("restore", [True, False])
def test_it_inherits_the_same_by_either_carrier(anyone: Runner, restore: bool) -> None:
    """Nice, affinity, every limit, io priority, session keyring, personality; no pending signal, no timer."""

    def body(configs: list[Any], script: str, restore: bool) -> Any:
        import ctypes
        import resource

        libc = ctypes.CDLL(None)
        keyctl, ioprio = {"x86_64": (250, 251), "aarch64": (219, 30)}[os.uname().machine]
        libc.syscall(keyctl, 1, None)  # a session keyring of our own
        libc.syscall(ioprio, 1, 0, 3 << 13)  # idle
        libc.prctl(29, 123456, 0, 0, 0)  # timer slack
        libc.prctl(41, 1, 0, 0, 0)  # no huge pages
        libc.personality(0x0040000)  # no randomised addresses
        os.nice(3)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (77, 177))
        pathlib.Path("/proc/self/coredump_filter").write_text("0x11")
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, 40})
        for number in (signal.SIGUSR1, 40):
            os.kill(os.getpid(), number)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 1000)
        seen = []
        argv = [*PYTHON, script]
        seen.append(json.loads(subprocess.check_output(argv, restore_signals=restore)))
        for types, fields in configs:
            config = nsapi.Config.new(*types, **fields)
            made = nsapi.run(argv, config=config, capture_output=True, restore_signals=restore)
            assert made.returncode == 0, made.stderr
            seen.append(json.loads(made.stdout))
        return seen

    expected, *seen = anyone(body, BOTH[anyone.name], INHERITED, restore)
    for each in (expected, *seen):  # glibc's posix_spawn, which Python 3.13 uses, leaves its own two signals ignored
        each["ignored"] = f"{int(each['ignored'][0], 16) & ~(1 << 31 | 1 << 32):x}"
    assert expected["policy"] == os.SCHED_BATCH
    assert expected["limits"]["RLIMIT_NOFILE"] == [77, 177]
    assert expected["pending"] == [["0" * 16]] * 2
    for each in seen:
        assert each == expected


@pytest.mark.parametrize(
    "keywords",
    [
        {"user": 7},
        {"group": 8},
        {"extra_groups": [5, 4, 4]},
        {"extra_groups": []},
        {"user": 7, "group": 8},
        {"user": 7, "group": 8, "extra_groups": [9, 10]},
        {"user": "nobody", "group": "daemon", "extra_groups": ["adm", 3]},
        {"user": 7, "extra_groups": []},
    ],
    ids=repr,
)
def test_ids_are_those_that_subprocess_gives(root: Runner, keywords: dict[str, Any]) -> None:
    """Groups, then gid, then uid: each while there is the power to; and again in a user namespace of the same ids."""

    def body(keywords: dict[str, Any]) -> Any:
        os.setgroups([1, 2, 3])
        argv, ranges = (
            ["grep", "-E", "^(Uid|Gid|Groups)", "/proc/self/status"],
            {"uid_mappings": "0:0:65536", "gid_mappings": "0:0:65536"},
        )
        configs = [nsapi.Config.new("uts"), nsapi.Config.new("user", **ranges)]
        configs.append(nsapi.Config.new("user", "pid", "mnt", init=True, **ranges))
        made = [subprocess.run(argv, capture_output=True, **keywords)]
        made += [nsapi.run(argv, config=config, capture_output=True, **keywords) for config in configs]
        return [(each.stdout + each.stderr).decode() for each in made]

    expected, *seen = root(body, keywords)
    assert expected.count("\n") == 3
    assert seen == [expected] * 3


# ---- descriptors ----


FDS = """
import json, os, sys
listed = {}
for name in os.listdir("/proc/self/fd"):
    try:
        listed[int(name)] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
os.write(int(sys.argv[1]), json.dumps({fd: listed[fd] for fd in sorted(listed)}).encode())
"""


@pytest.mark.parametrize("close_fds", [True, False])
def test_odd_numbers_are_passed_by_either_carrier(anyone: Runner, close_fds: bool) -> None:
    """0, 1 or 2 closed in the caller, which then opens its own there; the lowest that are free, and the highest."""

    def body(configs: list[Any], script: str, close_fds: bool) -> Any:
        import itertools
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (100, 101, 102):
            os.dup2(fd - 100, fd, inheritable=False)
        read, write = os.pipe()
        os.dup2(write, 4095, inheritable=True)
        os.dup2(read, 200)
        os.close(read)
        os.close(write)
        argv = [*PYTHON, script, "4095"]
        low = {null, *range(20, 25)}
        for fd in range(20, 25):
            os.dup2(null, fd, inheritable=True)
        wrong = []
        for closed in (each for count in range(4) for each in itertools.combinations(range(3), count)):
            for fd in closed:
                os.close(fd)
            seen = []
            for types, fields in configs:
                config = nsapi.Config.new(*types, parent_death_signal=9, oom_score_adj=1000, **fields)
                passed = {"pass_fds": [4095, *sorted(low)]} if close_fds else {"close_fds": False}
                status = nsapi.Popen(argv, config=config, **passed).wait()
                seen.append([status, os.read(200, 10000).decode() if not status else ""])
            for fd in range(3):
                os.dup2(100 + fd, fd)
            wrong += [] if len({str(each) for each in seen}) == 1 and seen[0][0] == 0 else [[closed, seen]]
        return [wrong, seen[0]]

    wrong, last = anyone(body, [BOTH[anyone.name][each] for each in (0, -2, -1)], FDS, close_fds)
    assert wrong == []
    assert {"20", "21", "22", "23", "24", "4095"} <= json.loads(last[1]).keys()
    assert "memfd" not in last[1]


# ---- a terminal ----


def on_a_terminal(configs: list[Any], case: str) -> Any:
    """In a copy of this process that leads a session with a terminal, play a case with each Config."""
    import fcntl
    import resource
    import struct
    import termios
    import traceback

    def wait_for(condition: Any) -> None:
        while not condition():
            os.sched_yield()

    def stat(pid: int) -> dict[str, Any]:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return {"state": fields[0], "group": int(fields[2]), "session": int(fields[3]), "tty": int(fields[4])}

    def comm(pid: int) -> str:
        try:
            return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def stopped(process: Any) -> int:
        found = os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert found is not None
        assert found.si_code == os.CLD_STOPPED
        return found.si_status

    def continued(process: Any) -> bool:
        found = os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        return found is not None and found.si_code == os.CLD_CONTINUED

    def started(argv: list[str], config: Any, **keywords: Any) -> Any:
        process = nsapi.Popen(argv, config=config, stdin=tty, stdout=tty, stderr=tty, **keywords)
        wait_for(lambda: comm(process.pid) == argv[0])
        return process

    def bring_to_front(group: int) -> None:
        """Who is in the background may, with SIGTTOU blocked; ignored, the program would ignore it too."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        os.tcsetpgrp(tty, group)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})

    def in_front(terminal: int) -> int:
        return int(struct.unpack("i", fcntl.ioctl(terminal, termios.TIOCGPGRP, b"    "))[0])

    def where(config: Any) -> Any:
        """Whose group and session, whether it has the terminal, whether that is still ours."""
        found = []
        for keywords in ({}, {"process_group": 0}, {"start_new_session": True}):
            process = started(["sleep", "1000"], config, **keywords)
            facts, me = stat(process.pid), stat(os.getpid())
            group = {me["group"]: "ours", process.pid: "its own"}.get(facts["group"])
            session = {me["session"]: "ours", process.pid: "its own"}.get(facts["session"])
            found.append([group, session, facts["tty"] == me["tty"], in_front(master) == os.getpgrp()])
            process.kill(), process.wait()
        return found

    def background(config: Any) -> Any:
        """It may not read, nor with TOSTOP write, before it is in the foreground; its parent sees it stop."""
        attributes = termios.tcgetattr(tty)
        attributes[3] = (attributes[3] | termios.TOSTOP) & ~termios.ECHO
        termios.tcsetattr(tty, termios.TCSANOW, attributes)
        os.write(master, b"hello\n")
        found: list[Any] = []
        for script in ("read line; [ $line = hello ] || exit 1; exit 3", "echo out; exit 4"):
            process = started(["sh", "-c", script], config, process_group=0)
            found += [stopped(process), process.poll()]
            bring_to_front(process.pid)
            process.send_signal(signal.SIGCONT)
            found.append(process.wait())
            bring_to_front(os.getpgrp())
        return found

    def keys(config: Any) -> Any:
        """Ctrl-Z stops the group in the foreground, Ctrl-C and Ctrl-\\ end it."""
        found: list[Any] = []
        for key in (b"\x03", b"\x1c"):
            process = started(["sleep", "1000"], config, process_group=0)
            bring_to_front(process.pid)
            os.write(master, b"\x1a")
            found += [stopped(process), process.poll(), stat(process.pid)["state"]]
            process.send_signal(signal.SIGCONT)
            found.append(continued(process))
            os.write(master, key)
            found.append(process.wait())
            bring_to_front(os.getpgrp())
        return found

    def shell(config: Any) -> Any:
        """A shell with a terminal of its own: its job is stopped by Ctrl-Z, brought back by fg, ended by Ctrl-C."""
        mine, its = os.openpty()
        script = f"exec bash --norc --noediting -i <{os.ttyname(its)} >&0 2>&0"
        os.fchmod(its, 0o666)
        process = nsapi.Popen(["sh", "-c", script], config=config, start_new_session=True)
        wait_for(lambda: comm(process.pid) == "bash")
        os.write(mine, b"sleep 1000\n")
        wait_for(lambda: comm(in_front(mine)) == "sleep")
        job = in_front(mine)
        os.write(mine, b"\x1a")
        wait_for(lambda: in_front(mine) == process.pid)
        found = [stat(job)["state"], job != process.pid]
        os.write(mine, b"fg\n")
        wait_for(lambda: in_front(mine) == job and stat(job)["state"] == "S")
        os.write(mine, b"\x03")
        wait_for(lambda: in_front(mine) == process.pid)
        os.write(mine, b"exit $(($? - 123))\n")  # 130: ended by SIGINT
        found.append(process.wait())
        os.close(mine)
        os.close(its)
        return found

    def counted(config: Any) -> Any:
        """One Ctrl-C, one signal, and that from the terminal: each is awaited before the next is sent."""
        script = """if True:
            import os, signal
            both = {signal.SIGINT, signal.SIGTERM}
            signal.pthread_sigmask(signal.SIG_BLOCK, both)
            os.write(9, b"ready ")
            while (one := signal.sigwaitinfo(both)).si_signo != signal.SIGTERM:
                os.write(9, b"terminal " if one.si_code == 128 else b"somebody ")
            """
        read, write = os.pipe()
        os.dup2(write, 9, inheritable=True)
        process = nsapi.Popen([*PYTHON, script], config=config, stdin=tty, stdout=tty, pass_fds=[9])
        os.close(9)
        os.close(write)
        told = []
        with open(read, encoding="ascii") as file:
            for _ in range(20):
                told.append("".join(iter(lambda: file.read(1), " ")))
                os.write(master, b"\x03")
            told.append("".join(iter(lambda: file.read(1), " ")))
            process.send_signal(
                signal.SIGTERM
            )  # of those that wait the lowest comes first, so that one more SIGINT is seen
            rest = file.read()
        return [told.count("terminal"), len(told), rest, process.wait()]

    play = {each.__name__: each for each in (where, background, keys, shell, counted)}[case]
    results: list[Any] = []
    for types, fields in configs:
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                master, tty = os.openpty()
                fcntl.ioctl(tty, termios.TIOCSCTTY, 0)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                signal.signal(signal.SIGINT, lambda *_: None)
                signal.signal(signal.SIGQUIT, signal.SIG_DFL)
                answer = play(nsapi.Config.new(*types, **fields))
            except BaseException:
                answer = traceback.format_exc()
            os.write(send, json.dumps(answer).encode())
            os._exit(0)
        os.close(send)
        with open(receive, "rb") as file:
            results.append(json.loads(file.read()))
        os.waitpid(pid, 0)
    return results


ON_A_TERMINAL: dict[str, Any] = {
    "where": [
        ["ours", "ours", True, True],
        ["its own", "ours", True, True],
        ["its own", "its own", False, True],
    ],
    "background": [signal.SIGTTIN, None, 3, signal.SIGTTOU, None, 4],
    "keys": [signal.SIGTSTP, None, "T", True, -signal.SIGINT, signal.SIGTSTP, None, "T", True, -signal.SIGQUIT],
    "shell": ["T", True, 7],
    "counted": [20, 21, "", 0],
}


@pytest.mark.parametrize("case", ON_A_TERMINAL)
def test_on_a_terminal_it_is_the_same_by_either_carrier(anyone: Runner, case: str) -> None:
    """Group, session and terminal; SIGTTIN and SIGTTOU; Ctrl-Z, Ctrl-C, and a shell's jobs; each signal comes once."""
    tool("bash")
    configs = BOTH[anyone.name]
    assert anyone(on_a_terminal, configs, case) == [ON_A_TERMINAL[case]] * len(configs)
