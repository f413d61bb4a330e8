"""boot_env: any spawner starts a program inside, holds it as it holds every other, and is told if it is not inside."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import AS_OTHER, AS_USER, NAME, REPOSITORY, USER, Runner, ids_of, lacking, setuid, tool, with_etc
from inside import (
    PYTHON,
    TYPES,
    Any,
    CtrlC,
    all_ns,
    at_every_moment,
    children,
    drop_all_capabilities,
    failure,
    fds,
    ns,
    only_child,
    status,
    unshared,
)
from test_nsexec import (
    GIDMAP,
    GIDMAPPATH,
    OOM,
    ROOTLESS,
    SETGROUP,
    TIMEOFFSETS,
    UIDMAP,
    UIDMAPPATH,
    attribute,
    create,
    join,
    message,
    number,
    string,
)

import nsapi

SPAWNERS = ["subprocess", "asyncio", "multiprocessing"]


@pytest.fixture(autouse=True)
def modules(library: Path) -> None:
    """What bodies, and the programs they start, import."""
    for name in ("tests/booting.py", "examples/boot_multiprocessing.py"):
        copy = library / Path(name).name
        if not copy.exists():
            shutil.copy(REPOSITORY / name, copy)
            copy.chmod(0o644)


# ---- what the program finds ----


@pytest.mark.parametrize("spawner", SPAWNERS)
def test_the_first_instruction_is_inside(anyone: Runner, spawner: str) -> None:
    """One thread, pid 1, in new namespaces of all eight types, root in there."""

    def body(spawner: str) -> Any:
        from booting import Scene

        scene = Scene(spawner, "exit", *TYPES)
        status = scene.end()
        ours = all_ns()
        same = [type for type in TYPES if scene.facts["ns"][type] == ours[type]]
        started, program = scene.pids
        facts = {name: scene.facts[name] for name in ("pid", "threads", "uid", "mask")}
        return status, same, facts, started == scene.process.pid, started == program, children()

    assert anyone(body, spawner) == [7, [], {"pid": 1, "threads": 1, "uid": 0, "mask": []}, True, False, []]


@pytest.mark.parametrize("spawner", SPAWNERS)
def test_without_a_new_pid_or_time_the_program_is_what_was_started(anyone: Runner, spawner: str) -> None:
    """No process more."""

    def body(spawner: str) -> Any:
        from booting import Scene

        scene = Scene(spawner, "exit", "user", "net", "uts", "ipc", "mnt", "cgroup")
        status = scene.end()
        started, program = scene.pids
        return status, started == program == scene.process.pid == scene.facts["pid"], children()

    assert anyone(body, spawner) == [7, True, []]


@pytest.mark.parametrize(
    ("what", "how", "expected"), [("crash", None, -11), ("family", "terminate", -15), ("family", "kill", -9)]
)
@pytest.mark.parametrize("types", ["user,pid,mnt", "user,net"])
@pytest.mark.parametrize("spawner", SPAWNERS)
def test_how_it_ends_is_what_the_spawner_sees(
    anyone: Runner, spawner: str, types: str, what: str, how: str | None, expected: int
) -> None:
    """By a crash or by a signal to what the spawner holds: the right status, no zombie; with a pid namespace all end."""

    def body(spawner: str, types: list[str], what: str, how: str | None) -> Any:
        from booting import Scene

        scene = Scene(spawner, what if "pid" in types or what == "crash" else "wait", *types)
        if how:
            getattr(scene.process, how)()
        return scene.end(), children()

    assert anyone(body, spawner, types.split(","), what, how) == [expected, []]


@pytest.mark.parametrize("spawner", SPAWNERS)
def test_end_of_output_is_seen_while_the_program_lives(anyone: Runner, spawner: str) -> None:
    """Who stands between keeps no descriptor of the program's but its pidfd."""

    def body(spawner: str) -> Any:
        from booting import Scene

        scene = Scene(spawner, "close", "user", "pid", "mnt")
        end = scene.spawned.line()
        alive = os.path.exists(f"/proc/{scene.pids.program}")
        kept = [os.readlink(f"/proc/{scene.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{scene.process.pid}/fd")]
        scene.process.kill()
        return end.decode(), alive, kept, scene.end()

    end, alive, kept, status = anyone(body, spawner)
    assert (end, alive, status) == ("", True, -9)
    assert len(kept) == 1
    assert "pidfd" in kept[0]


def test_signals_go_through(anyone: Runner) -> None:
    """Caught ones are caught, ignored ones ignored, others end it, by the same signal."""

    def body() -> Any:
        from booting import Scene

        for each in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)  # in the background and under nohup they are ignored
        results = []
        for types in (["user", "pid", "mnt"], ["user", "time"], ["user", "net"]):
            scene = Scene("subprocess", "catch", *types)
            for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
                os.kill(scene.process.pid, caught)
            results.append(scene.end())
            for other in (signal.SIGUSR2, signal.SIGQUIT, signal.SIGRTMIN + 2):
                scene = Scene("subprocess", "wait", *types)
                os.kill(scene.process.pid, other)
                results.append(scene.end() == -other)
        return results, children()

    assert anyone(body) == [[3, True, True, True] * 3, []]


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_signal_at_any_moment_ends_it(anyone: Runner, how: str) -> None:
    """From the first on: nothing is lost on the way to a program that cannot have it yet, and nothing stays behind."""

    def body(how: str) -> Any:
        for round in range(80):
            with nsapi.boot_env(
                nsapi.Config.new(*(["user", "pid"], ["user", "time"], ["user", "uts"])[round % 3])
            ) as boot:
                process = subprocess.Popen(["sleep", "1000"], env=boot.env, pass_fds=boot.pass_fds)
                time.sleep(round / 16000)  # any moment of the 5 ms it takes
                getattr(process, how)()
                assert process.wait(60) < 0
                facts = failure(lambda: boot.confirm(60))
                assert "TimeoutError" not in str(facts), facts
                boot._ours.settimeout(60)
                while boot._ours.recv(4096):  # until nobody has it
                    pass
        return children()

    assert anyone(body, how) == []


def test_it_stops_and_continues_with_the_program(anyone: Runner) -> None:
    """Asked to stop, it stops the program and itself; let go on, both do; stopped by another, it stops too."""

    def body() -> Any:
        from booting import Scene

        # In an orphaned process group, as under nohup, SIGTSTP would stop nothing.
        inner = os.fork()
        if inner:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
        os.setpgid(0, 0)
        results: list[Any] = []
        for types in (["user", "pid", "mnt"], ["user", "time"]):
            scene = Scene("subprocess", "wait", *types)
            started, program = scene.pids
            for stop, target in ((signal.SIGTSTP, started), (signal.SIGSTOP, program)):
                os.kill(target, stop)
                _, wait_status = os.waitpid(started, os.WUNTRACED)
                states = [status("State", pid)[0] for pid in (started, program)]
                results.append((os.WIFSTOPPED(wait_status), states))
                os.kill(started, signal.SIGCONT)
                while "T" in (status("State", started)[0], status("State", program)[0]):
                    time.sleep(0.001)
            os.kill(started, signal.SIGTERM)
            results.append(scene.end())
        return results

    stopped = [True, ["T", "T"]]
    assert anyone(body) == [stopped, stopped, -15] * 2


def test_the_end_of_the_program_by_another_is_passed_on(anyone: Runner) -> None:
    """Killed behind the back of who stands between."""

    def body() -> Any:
        from booting import Scene

        scene = Scene("subprocess", "family", "user", "pid", "mnt")
        os.kill(scene.pids.program, signal.SIGKILL)
        return scene.end(), children()

    assert anyone(body) == [-9, []]


def test_the_terminal_sends_its_signals_once(anyone: Runner) -> None:
    """Ctrl-C goes to the whole group: who stands between does not send it again."""

    def body() -> Any:
        import pty

        code = (
            "import os, signal, sys, time\n"
            "caught = []\n"
            "signal.signal(signal.SIGINT, lambda *_: caught.append(1))\n"
            "signal.signal(signal.SIGQUIT, lambda *_: sys.exit(len(caught)))\n"
            "print('ready', flush=True)\n"
            "while True:\n"
            "    time.sleep(0.01)\n"
            "    if caught: print('caught', flush=True); time.sleep(0.2); sys.exit(len(caught))\n"
        )
        leader = (
            "import fcntl, nsapi, os, subprocess, sys, termios\n"
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            "with nsapi.boot_env(nsapi.Config.new('user', 'pid', 'mnt')) as boot:\n"
            "    import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "    p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], env=boot.env, pass_fds=boot.pass_fds)\n"
            "    boot.confirm(60, p)\n"
            "    sys.exit(p.wait())\n"
        )
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", leader, code], stdin=theirs, stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        os.write(ours, b"\x03")
        process.stdout.read()
        process.stdout.close()
        return line.decode(), process.wait()

    assert anyone(body) == ["ready\n", 1]


def test_the_environment_is_clean(anyone: Runner) -> None:
    """Ours goes, other people's stays, the parent's is never touched; the program has its name."""

    def body() -> Any:

        other = "/lib/nonexistent-nsapi-test.so"
        before = dict(os.environ)
        results = []
        for preload in (None, other, f"{other}:{other}", f"{other} {other}"):
            if preload:
                os.environ["LD_PRELOAD"] = preload
            boot = nsapi.boot_env(nsapi.Config.new("user", "pid", "mnt"))
            code = "import os, json; print(json.dumps([dict(os.environ), open('/proc/self/comm').read()]))"
            # ld.so(8) says on stderr what it cannot preload
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, env=boot.env, pass_fds=boot.pass_fds, capture_output=True)
            boot.confirm(60)
            env, comm = json.loads(done.stdout)
            ours = sorted(name for name in env if name.startswith(("_NSAPI", "_LIBCONTAINER")))
            results.append([env.get("LD_PRELOAD") == preload, ours, env["_LIBCONTAINER_INITTYPE"], comm.strip()])
            rest = {name: env[name] for name in env if name not in (*ours, "LD_PRELOAD", "LC_CTYPE")}
            assert rest == {name: value for name, value in before.items() if name not in ("LD_PRELOAD", "LC_CTYPE")}
            boot.close()
            assert os.environ.pop("LD_PRELOAD", None) == preload
            assert dict(os.environ) == before
        return results, os.path.basename(sys.executable)

    results, name = anyone(body)
    names = ["_LIBCONTAINER_INITTYPE", "_NSAPI_READY"]
    assert results == [[True, names, "standard", name]] * 4


def test_a_new_mount_namespace_is_private_with_its_own_proc(root: Runner) -> None:
    """As run and Popen make it, unless told otherwise."""

    def body() -> Any:
        results = []
        for fields in ({}, {"propagation": "unchanged"}, {"propagation": "slave", "mounts": []}):
            with nsapi.boot_env(nsapi.Config.new("pid", "mnt", **fields)) as boot:
                code = (
                    "import os; print(os.readlink('/proc/self'), open('/proc/self/mountinfo').readline().split('-')[0])"
                )
                under = ["unshare", "--mount", "--propagation", "shared"]
                command = [*under, sys.executable, "-c", code]
                # unshare itself would take the bootstrap: only the shell behind it has the environment
                env = [
                    f"{key}={value}"
                    for key, value in boot.env.items()
                    if "NSAPI" in key or "INITPIPE" in key or "PRELOAD" in key
                ]
                done = subprocess.run(
                    [*under, "env", *env, *command[len(under) :]],
                    pass_fds=boot.pass_fds,
                    capture_output=True,
                    text=True,
                )
                boot.confirm(60)
                pid, _, mount = done.stdout.partition(" ")
                results.append([pid == "1", "shared:" in mount, "master:" in mount])
        return results

    assert root(body) == [[True, False, False], [True, True, False], [False, False, True]]


def test_joins_what_is_there(root: Runner) -> None:
    """A pid namespace, of which the program is not the first, by pid; all of a process's, without naming any."""

    def body() -> Any:
        results = []
        with unshared("--pid", "--fork", "--net", "--uts", "--user", "--map-root-user") as process:
            target = only_child(process.pid)
            theirs = all_ns(target)
            code = (
                "import json, os; type = os.environ['_LIBCONTAINER_INITTYPE'];"
                "print(json.dumps([type, os.getpid() > 1, os.getuid()]), flush=True); input()"
            )
            for config in (
                nsapi.Config.new(pid=target),
                nsapi.Config.join(target),
                nsapi.Config.join(target, "net", "user"),
                nsapi.Config.new("ipc", net=target, pid=target),
            ):
                with nsapi.boot_env(config) as boot:
                    process_inside = subprocess.Popen(
                        [sys.executable, "-c", code],
                        env=boot.env,
                        pass_fds=boot.pass_fds,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                    )
                    pids = boot.confirm(60, process_inside)
                    assert process_inside.stdout is not None
                    facts = json.loads(process_inside.stdout.readline())
                    same = sorted(type for type in TYPES if ns(type, pids.program) == theirs[type] != ns(type))
                    process_inside.communicate(b"\n")
                    results.append([facts, same, process_inside.returncode, pids.started == pids.program])
        return results, children()

    assert root(body) == [
        [
            [["setns", True, 0], ["pid"], 0, False],
            [["setns", True, 0], ["net", "pid", "user", "uts"], 0, False],
            [["setns", True, 0], ["net", "user"], 0, True],
            [["standard", True, 0], ["net", "pid"], 0, False],
        ],
        [],
    ]


def test_joins_by_whatever_names_a_namespace(root: Runner) -> None:
    """A pid, a Popen, a path, a handle, a name under /run/netns: all lead to the same."""

    def body() -> Any:
        os.makedirs("/run/netns", exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
        found = []
        with unshared("--net") as process:
            Path("/run/netns/blue").touch()
            subprocess.run(["mount", "--bind", f"/proc/{process.pid}/ns/net", "/run/netns/blue"], check=True)
            handle = nsapi.open(process.pid, "net")
            for target in (process.pid, process, f"/proc/{process.pid}/ns/net", handle, "blue"):
                for types in ([], ["pid", "uts"]):
                    with nsapi.boot_env(nsapi.Config.new(*types, net=target)) as boot:
                        argv = ["readlink", "/proc/self/ns/net"]
                        done = subprocess.run(
                            argv, env=boot.env, pass_fds=boot.pass_fds, capture_output=True, text=True
                        )
                        boot.confirm(60)
                    found.append(done.stdout.strip() == ns("net", process.pid) != ns("net"))
            handle.close()
        return found, children()

    assert root(body, under=("unshare", "--mount")) == [[True] * 10, []]


def test_time_offsets_are_those_of_the_program(anyone: Runner) -> None:
    """For an ordinary user, too."""

    def body() -> Any:
        config = nsapi.Config.new("user", "time", time_offsets={"boottime": 10**8, "monotonic": 10**9})
        code = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME) > 10**8, time.monotonic() > 10**9)"
        with nsapi.boot_env(config) as boot:
            argv = [sys.executable, "-c", code]
            done = subprocess.run(argv, env=boot.env, pass_fds=boot.pass_fds, capture_output=True, text=True)
            boot.confirm(60)
        return done.stdout, time.monotonic() > 10**9

    assert anyone(body) == ["True True\n", False]


def test_newuidmap_writes_what_an_ordinary_user_may_not(user_python: str, library: Path, readable_tmp: Path) -> None:
    """Ranges granted in /etc/subuid and /etc/subgid, in a mount namespace that has such lines."""
    if os.geteuid() != 0:
        lacking("root, to grant ids")
    tool("newuidmap"), tool("newgidmap")
    prefix = [*with_etc(readable_tmp, **ids_of(NAME, USER)), *AS_OTHER, "env"]
    granted = Runner("user with ids", user_python, prefix, AS_USER, library)

    def body(failing: str) -> Any:
        found = []
        own = os.getuid()
        for types in (["user"], ["user", "pid", "mnt"]):
            config = nsapi.Config.new(
                *types, uid_mappings=f"0:{own}:1,1:100000:500,600:100500:9", gid_mappings=f"0:{own}:1,1:100000:1000"
            )
            script = (
                "import os; os.setgroups([5]); print(os.getuid(), os.getgroups(), len([*open('/proc/self/uid_map')]))"
            )
            with nsapi.boot_env(config) as boot:
                argv = [*PYTHON, script]
                done = subprocess.run(argv, env=boot.env, pass_fds=boot.pass_fds, capture_output=True, text=True)
                boot.confirm(60)
            found.append([done.stdout, done.stderr, done.returncode])
        beyond = nsapi.Config.new("user", uid_mappings="0:5:9", gid_mappings=f"0:{own}:1")
        ungranted = failure(lambda: nsapi.boot_env(beyond))
        os.environ["PATH"] = f"{failing}:{os.environ['PATH']}"
        with nsapi.boot_env(config) as boot:
            failed = subprocess.run(["true"], env=boot.env, pass_fds=boot.pass_fds, stderr=subprocess.DEVNULL)
            refused = failure(lambda: boot.confirm(60))
        helped = str(refused["step"]).partition("newuidmap")[2]
        return found, [ungranted["step"], ungranted["hint"]], helped, failed.returncode, children()

    failing = setuid("#!/bin/sh\nexit 1\n", folder=readable_tmp, name="newuidmap")
    found, (step, why), *rest = granted(body, failing)
    assert found == [["0 [5] 3\n", "", 0]] * 2
    assert step == "check"
    assert "uid 5 of the entry 0:5:9 is not granted" in why
    assert rest == [" exited with status 1", 1, []]


def test_maps_of_many_ids(root: Runner) -> None:
    """Written from outside, whether or not a process more is needed; the program is root of them."""

    def body() -> Any:
        results = []
        for types in (["user"], ["user", "pid", "mnt"]):
            config = nsapi.Config.new(
                *types, uid_mappings="0:100000:1000,2000:5:3,3000:9:1", gid_mappings="0:200000:500,700:1:2"
            )
            with nsapi.boot_env(config) as boot:
                code = (
                    "import os; count = len([*open('/proc/self/uid_map'), *open('/proc/self/gid_map')]);"
                    "os.setgroups([701]); print(os.getresuid(), os.getresgid(), os.getgroups(), count); input()"
                )
                process = subprocess.Popen(
                    ["/usr/bin/python3", "-I", "-S", "-c", code],
                    env=boot.env,
                    pass_fds=boot.pass_fds,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                pids = boot.confirm(60, process)
                outside = status("Uid", pids.program).split()[0], status("Gid", pids.program).split()[0]
                output, _ = process.communicate("\n")
                results.append([output.strip(), outside, process.returncode])
        return results

    if not Path("/usr/bin/python3").exists():
        lacking("/usr/bin/python3, which every id may run")
    assert root(body) == [["(0, 0, 0) (0, 0, 0) [701] 5", ["100000", "200000"], 0]] * 2


def test_a_message_that_would_mean_other_setgroups_is_refused(anyone: Runner) -> None:
    """runc denies it of an ordinary user's map of himself as 0, and of nothing else; what is asked for is not dropped."""

    def body() -> Any:
        found = []
        for setgroups in ("deny", "allow"):
            for maps in (f"0:{os.getgid()}:1", "0:100000:9"):
                own = {"uid_mappings": f"0:{os.getuid()}:1", "gid_mappings": maps}
                config = nsapi.Config.new("user", setgroups=setgroups, **own)
                found.append(str(failure(lambda config=config: nsapi.bootstrap_data(config)).get("text", "")))  # type: ignore[misc]
        return [each.partition(": the message")[0] for each in found]

    deny, allow = "setgroups: 'deny'", "setgroups: 'allow'"
    assert anyone(body) == ([deny, deny, "", ""] if anyone.name == "root" else ["", deny, allow, ""])


@pytest.mark.parametrize("types", [("user",), ("user", "pid")], ids="-".join)
def test_setgroups_is_as_by_run(anyone: Runner, types: tuple[str, ...]) -> None:
    """Whoever writes the map, and whatever words it is given in: denied for one id, and where that is asked for."""

    def body(types: list[str]) -> Any:
        own = [f"5:{os.getuid()}:1", f"5:{os.getgid()}:1"]
        cases: list[dict[str, Any]] = [{}, {"maps": "current"}, {"uid_mappings": own[0], "gid_mappings": own[1]}]
        if os.getuid() == 0:
            ranges = {"uid_mappings": "0:0:9", "gid_mappings": "0:0:9"}
            cases += [ranges, {"maps": "identity"}, {"setgroups": "allow"}, {**ranges, "setgroups": "deny"}]
            cases += [{"maps": "identity", "setgroups": "deny"}]
        found = []
        for fields in cases:
            config = nsapi.Config.new(*types, **fields)
            argv = ["cat", "/proc/self/setgroups"]
            with nsapi.boot_env(config) as boot:
                done = subprocess.run(argv, env=boot.env, pass_fds=boot.pass_fds, capture_output=True, text=True)
                boot.confirm(60)
            found.append([done.stdout, nsapi.run(argv, config=config, capture_output=True, text=True).stdout])
        return found

    found = anyone(body, types)
    assert [booted for booted, _ in found] == [run for _, run in found]
    expected = ["deny\n"] * 3 + ["allow\n"] * 3 + ["deny\n"] * 2
    assert [booted for booted, _ in found] == expected[: len(found)]
    assert len(found) == (8 if anyone.name == "root" else 3)


# ---- fails closed ----

FAILURES = {
    "missing object": ["TimeoutError", "wait for the program to answer"],
    "static program": ["TimeoutError", "wait for the program to answer"],
    "fd not passed": ["ProcessLookupError", "the program ended before it was inside"],
    "wrong fd": ["ProcessLookupError", "the program ended before it was inside"],
    "pipe for a socket": ["ProcessLookupError", "the program ended before it was inside"],
    "pipe of that number": ["ProcessLookupError", "the program ended before it was inside"],
    "number of nothing": ["ProcessLookupError", "the program ended before it was inside"],
    "no number": ["ProcessLookupError", "the program ended before it was inside"],
    "orders of another": ["ProcessLookupError", "the program ended before it was inside"],
    "killed stage": ["NamespaceError", "stage 1 has died"],
    "killed program": ["NamespaceError", "stage 1 has died"],
    "wrong type": ["NamespaceError", "/proc/self/ns/uts is a uts namespace, not net"],
    "no such namespace": ["FileNotFoundError", "open the net namespace /nonexistent"],
    "not enough power": ["PermissionError", "unshare 0x40000000"],
    "impossible offset": ["NamespaceError", "write the time offsets"],
    "second start": ["TimeoutError", "wait for the program to answer"],
}


@pytest.fixture(scope="session")
def static_program(library: Path) -> str:
    """Waits for the end of its input, having nothing that could be preloaded into it."""
    source = library / "static.c"
    source.write_text("#include <unistd.h>\nint main(void) { char c; while (read(0, &c, 1) > 0); return 0; }\n")
    path = library / "static"
    done = subprocess.run([tool("gcc"), "-static", "-o", str(path), str(source)], capture_output=True, check=False)
    if done.returncode:
        lacking("libc.a, for a static program")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("known", [True, False], ids=["process given", "process unknown"])
@pytest.mark.parametrize("case", FAILURES)
def test_what_is_not_inside_is_an_error_and_gone(anyone: Runner, static_program: str, case: str, known: bool) -> None:
    """A typed error that names the step; nothing is left running, whoever knows the process."""

    def body(case: str, static: str, known: bool) -> Any:
        types = ["user", "pid", "mnt"]
        config = nsapi.Config.new(*types)
        if case == "wrong type":
            config = nsapi.Config.new("user", net="/proc/self/ns/uts")
        elif case == "no such namespace":
            config = nsapi.Config.new("user", net="/nonexistent")
        elif case == "not enough power":
            config = nsapi.Config.new("net")
            if os.geteuid() == 0:
                drop_all_capabilities()
                libc = ctypes.CDLL(None)
                assert libc.prctl(38, 1, 0, 0, 0) == 0
                assert libc.prctl(28, 1, 0, 0, 0) in (0, -1)
        elif case == "impossible offset":
            config = nsapi.Config.new("user", "time", time_offsets={"boottime": -(10**9)})
        boot = nsapi.boot_env(config)
        env, pass_fds, command = boot.env, boot.pass_fds, ["cat"]
        stranger, other = socket.socketpair()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        if case == "missing object":
            env["LD_PRELOAD"] = "/nonexistent/_boot.so"
        elif case == "static program":
            command = [static]
        elif case == "fd not passed":
            pass_fds = ()
        elif case == "wrong fd":
            env["_LIBCONTAINER_INITPIPE"] = str(other.fileno())
            pass_fds = (other.fileno(),)
            stranger.send(b"for somebody else")
        elif case == "pipe for a socket":
            env["_LIBCONTAINER_INITPIPE"] = "0"
        elif case == "pipe of that number":
            env["_LIBCONTAINER_INITPIPE"] = str(writer)
            env["_NSAPI_BOOT"] = f"{os.fstat(writer).st_ino}:{env['_NSAPI_BOOT'].partition(':')[2]}"
            pass_fds = (writer,)
        elif case == "number of nothing":
            env["_LIBCONTAINER_INITPIPE"] = "999"
        elif case == "no number":
            env["_LIBCONTAINER_INITPIPE"] = f"{pass_fds[0]}x"
        elif case == "orders of another":
            env["_NSAPI_BOOT"] += ":1"
        elif case == "second start":
            subprocess.run(["true"], env=env, pass_fds=pass_fds, check=True)
            while True:  # what the first one has said is another's
                boot._receive(None)
                if boot._program:
                    boot._program = 0
                    break
        under = []
        if case == "killed stage":
            under = ["time"]
        elif case == "killed program":
            under = ["net"]
        if under:
            boot.close()
            boot = nsapi.boot_env(
                nsapi.Config.new("user", "pid") if case == "killed stage" else nsapi.Config.new("user", "net")
            )
            env, pass_fds = boot.env, boot.pass_fds
            number = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
            code = ctypes.create_string_buffer(
                b"".join(
                    part[0].to_bytes(2, "little") + bytes(part[1:3]) + part[3].to_bytes(4, "little")
                    for part in (
                        (0x20, 0, 0, 0),
                        (0x15, 0, 1, number),
                        (0x06, 0, 0, 0x80000000),
                        (0x06, 0, 0, 0x7FFF0000),
                    )
                ),
                32,
            )
            prog = ctypes.create_string_buffer(16)
            ctypes.c_ushort.from_buffer(prog).value = 4
            ctypes.c_void_p.from_buffer(prog, 8).value = ctypes.addressof(code)
            libc = ctypes.CDLL(None)
            assert libc.prctl(38, 1, 0, 0, 0) == 0
            assert libc.prctl(22, 2, prog, 0, 0) == 0
        process = subprocess.Popen(
            command, env=env, pass_fds=pass_fds, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        facts = failure(
            lambda: boot.confirm(
                1 if "object" in case or "static" in case or "second" in case else 60, process if known else None
            )
        )
        process.wait(60)
        left = nsapi._boot_env._holders(boot._inode)
        boot.close()
        stranger.setblocking(False)
        untouched = case != "wrong fd" or other.recv(100) == b"for somebody else"
        os.close(writer)
        untouched = untouched and os.read(reader, 100) == b""
        os.close(reader)
        assert process.stdin is not None
        process.stdin.close()
        stranger.close()
        other.close()
        return facts.get("classes"), facts.get("step"), process.returncode, left, children(), untouched

    classes, step, status, left, remaining, untouched = anyone(body, case, static_program, known)
    expected, words = FAILURES[case]
    assert classes is not None, "no error"
    assert {"NamespaceError", expected} <= set(classes)
    assert step == words
    assert status != 0
    assert (left, remaining, untouched) == ([], [], True)


@pytest.mark.parametrize("rights", ["set-user-ID", "capabilities"])
def test_a_program_with_more_rights_is_not_started_inside(user: Runner, readable_tmp: Path, rights: str) -> None:
    """Nothing is preloaded into it; it is killed all the same."""
    if os.geteuid() != 0:
        lacking("root, to give a program more rights")
    if os.statvfs(readable_tmp).f_flag & os.ST_NOSUID:
        lacking("a folder for temporary files that is not mounted nosuid")
    program = readable_tmp / "privileged"
    shutil.copy(tool("sleep"), program)
    program.chmod(0o755 | (stat.S_ISUID if rights == "set-user-ID" else 0))
    if rights == "capabilities":
        done = subprocess.run([tool("setcap"), "cap_net_admin=ep", str(program)], capture_output=True, check=False)
        if done.returncode:
            lacking("a file system with capabilities")

    def body(program: str) -> Any:
        with nsapi.boot_env(nsapi.Config.new("user", "net")) as boot:
            process = subprocess.Popen([program, "1000"], env=boot.env, pass_fds=boot.pass_fds)
            facts = failure(lambda: boot.confirm(0.5, process))
            return "TimeoutError" in str(facts["classes"]), process.wait(), children()

    assert user(body, str(program)) == [True, -9, []]


def test_a_program_with_more_rights_takes_no_orders(user: Runner, readable_tmp: Path) -> None:
    """Nor where the object comes into it by another way, as one that it is linked with."""
    if os.geteuid() != 0:
        lacking("root, to give a program more rights")
    if os.statvfs(readable_tmp).f_flag & os.ST_NOSUID:
        lacking("a folder for temporary files that is not mounted nosuid")
    from nsapi import _boot_env

    own = readable_tmp / "boot.so"
    shutil.copy(_boot_env._find_object(), own)
    source, program = readable_tmp / "linked.c", readable_tmp / "linked"
    source.write_text("int main(void) { return 7; }\n")
    command = [tool("gcc"), "-o", str(program), str(source), "-Wl,--no-as-needed", str(own)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    own.chmod(0o755)

    def body(program: str) -> Any:
        with nsapi.boot_env(nsapi.Config.new("user", "net")) as boot:
            env = {name: value for name, value in boot.env.items() if name != "LD_PRELOAD"}
            process = subprocess.Popen([program], env=env, pass_fds=boot.pass_fds, stderr=subprocess.PIPE)
            facts = failure(lambda: boot.confirm(60, process))
            return bool(facts), process.wait(), process.communicate()[1].decode(), children()

    refused = "FATAL: a program with more rights than its caller takes no bootstrap\n"
    program.chmod(0o4755)
    assert user(body, str(program)) == [True, 1, refused, []]
    program.chmod(0o755)  # the same without
    assert user(body, str(program))[:3] == [False, 7, ""]


@pytest.mark.parametrize("how", ["removed", "unreadable", "no object"])
def test_an_object_that_cannot_be_preloaded_is_noticed(user: Runner, readable_tmp: Path, how: str) -> None:
    """ld.so(8) goes on without it, with a line on stderr at most."""

    def body(path: str, how: str) -> Any:
        boot = nsapi.boot_env(nsapi.Config.new("user", "net"))
        env = boot.env
        env["LD_PRELOAD"] = path
        if how != "removed":
            Path(path).write_bytes(Path(boot._object).read_bytes() if how == "unreadable" else b"x" * 999)
            os.chmod(path, 0 if how == "unreadable" else 0o755)
        process = subprocess.Popen(["sleep", "1000"], env=env, pass_fds=boot.pass_fds, stderr=subprocess.DEVNULL)
        facts = failure(lambda: boot.confirm(0.5))
        boot.close()
        return "TimeoutError" in str(facts["classes"]), process.wait(), children()

    assert user(body, str(readable_tmp / "object.so"), how) == [True, -9, []]


def test_without_the_object_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where it was installed there is none, or ld.so(8) could not take its path."""
    import importlib.util

    for name, words in (("missing.so", "is missing"), ("a b.so", "no path with a blank"), ("a:b.so", "or a colon")):
        path = tmp_path / name
        if words != "is missing":
            path.touch()
        spec = importlib.util.spec_from_file_location("nsapi._boot", path)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=spec: found)
        with pytest.raises(nsapi.Unsupported, match=words):
            nsapi.boot_env(nsapi.Config.new("user"))


def test_a_child_of_a_static_program_is_not_what_was_started(anyone: Runner, library: Path) -> None:
    """It would be inside, and its parent outside: both are killed, where the spawner's process is given."""
    source = library / "starter.c"
    source.write_text(
        "#include <unistd.h>\n#include <sys/wait.h>\nint main(int argc, char **argv)\n"
        "{ if (argc > 1 && !fork()) execv(argv[1], argv + 1); wait(0); return 0; }\n"
    )
    starter = library / "starter"
    done = subprocess.run([tool("gcc"), "-static", "-o", str(starter), str(source)], capture_output=True, check=False)
    if done.returncode:
        lacking("libc.a, for a static program")

    def body(starter: str, sleep: str) -> Any:
        with nsapi.boot_env(nsapi.Config.new("user", "net")) as boot:
            process = subprocess.Popen([starter, sleep, "1000"], env=boot.env, pass_fds=boot.pass_fds)
            facts = failure(lambda: boot.confirm(60, process))
            return facts["step"], process.wait(60), nsapi._boot_env._holders(boot._inode), children()

    words = "check who is inside"
    assert anyone(body, str(starter), tool("sleep")) == [words, -9, [], []]


def test_a_multiprocessing_process_that_fails_is_waited_for(anyone: Runner) -> None:
    """Its start raises what confirm has raised, and leaves no zombie."""

    def body() -> Any:
        import multiprocessing

        from boot_multiprocessing import BootProcess

        process = BootProcess(nsapi.Config.new("user", net="/nonexistent"), target=print)
        facts = failure(process.start)
        multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
        return facts["step"], process.exitcode != 0, children()

    assert anyone(body) == ["open the net namespace /nonexistent", True, []]


def test_closing_it_early_ends_what_is_not_inside_yet(anyone: Runner) -> None:
    """Nobody would ever confirm it."""

    def body() -> Any:
        boot = nsapi.boot_env(nsapi.Config.new("user", "pid", "mnt"))
        env, fds = boot.env, [os.dup(fd) for fd in boot.pass_fds]
        (fd,) = fds
        boot.close()
        env["_LIBCONTAINER_INITPIPE"] = str(fd)
        done = subprocess.run(["echo", "outside"], env=env, pass_fds=fds, capture_output=True, text=True)
        return done.returncode, done.stdout

    assert anyone(body) == [1, ""]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hostname", "x"), ("domainname", "x"), ("mounts", [1]), ("root", "/x"), ("sysctl", {"net.x": "1"}),
        ("loopback", True), ("uid", 0), ("gid", 0), ("groups", []), ("capabilities", {}), ("rlimits", {"RLIMIT_CORE": 0}),
        ("no_new_privs", True), ("parent_death_signal", 9), ("cgroup_path", "/sys/fs/cgroup"), ("init", True),
    ],
)  # fmt: skip
def test_what_the_bootstrap_cannot_do_is_refused(field: str, value: object) -> None:
    """By name; nothing that was asked for is dropped."""
    config = nsapi.Config.new("user", "pid", "uts", "net", "mnt", **{field: value})
    with pytest.raises(nsapi.Unsupported, match=f"{field} is not part of the bootstrap"):
        nsapi.boot_env(config)


def test_what_a_file_asks_for_and_is_not_performed_is_refused() -> None:
    """As by run; what asks for nothing goes through."""
    with pytest.raises(nsapi.Unsupported, match=r"linux\.seccomp: asked for and not performed"):
        nsapi.boot_env(nsapi.Config.new("user", extra={"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}}))
    nsapi.boot_env(nsapi.Config.new("user", extra={"process": {"args": ["sh"]}})).close()


def test_nothing_is_left_open() -> None:
    before = fds()
    with nsapi.boot_env(nsapi.Config.new("user", net="/proc/self/ns/net", pid=os.getpid())) as boot:
        assert len(boot.pass_fds) == 1
    boot.close()
    assert fds() == before


# ---- start_initialization ----


def test_start_initialization_reports_what_it_raises(anyone: Runner) -> None:
    """The exception itself, with its traceback; the program ends with 1 and has printed nothing."""

    def body() -> Any:
        from booting import initialized  # an exception is rebuilt where its module is known

        results = []
        programs = {
            "builtin": "def f(): raise KeyError('here')",
            "ours": "def f(): nsapi.setns(0, 'net')",
            "unknown": "class Own(Exception): pass\ndef f(): raise Own('here')",
            "hostile": (
                "import os\nclass E(Exception):\n def __reduce__(self): return os.system, ('touch /tmp/nsapi-hostile',)\n"
                "def f(): raise E('here')"
            ),
            "large": "def f(): raise ValueError('x' * 3000000)",
            "smileys": "def f(): raise ValueError('\\U0001f600' * 100000)",
            "surrogates": "def f(): raise ValueError('\\udc80')",
            "deep": "def f(): f()",
            "attributes": "from booting import Custom\ndef f(): raise Custom('here', [5, 'x', {'y': b'z'}])",
            "cannot be made": "from booting import Custom\nclass E(Custom): pass\ndef f(): raise E('here', {})",
            "unpicklable": "def f():\n e = ValueError('here'); e.lock = lambda: 0; raise e",
            "wordless": "class E(Exception):\n def __str__(self): raise OSError\ndef f(): raise E",
            "cause": "def f():\n try: {}[5]\n except KeyError as e: raise ValueError('here') from e",
            "good": "def f(): return 5",
            "exits": "def f(): raise SystemExit(3)",
        }
        for name, text in programs.items():
            call = "nsapi.start_initialization(f)"
            code = f"{text}\nprint({call})\ntry: {call}\nexcept RuntimeError: print('once')"
            error, status, output, errors = initialized(code)
            cause = str(error.__cause__) if error is not None else ""
            results.append([name, type(error).__name__, "in f" in cause, status, output, errors])
            if name == "attributes":
                assert (error.first, error.second, error.args) == ("here", [5, "x", {"y": b"z"}], ("here: 3",))
            elif name == "cause":
                assert "KeyError: 5" in cause
            elif name == "unknown":
                assert str(error) == "Own: here"
        return results, os.path.exists("/tmp/nsapi-hostile"), children()

    results, touched, left = anyone(body)
    assert (touched, left) == (False, [])
    assert results == [
        ["builtin", "KeyError", True, 1, "", ""],
        ["ours", "NamespaceError", True, 1, "", ""],
        ["unknown", "RuntimeError", True, 1, "", ""],
        ["hostile", "RuntimeError", True, 1, "", ""],
        ["large", "RuntimeError", True, 1, "", ""],
        ["smileys", "RuntimeError", True, 1, "", ""],
        ["surrogates", "ValueError", True, 1, "", ""],
        ["deep", "RecursionError", True, 1, "", ""],
        ["attributes", "Custom", True, 1, "", ""],
        ["cannot be made", "RuntimeError", True, 1, "", ""],
        ["unpicklable", "RuntimeError", True, 1, "", ""],
        ["wordless", "RuntimeError", True, 1, "", ""],
        ["cause", "ValueError", True, 1, "", ""],
        ["good", "NoneType", False, 0, "5\nonce\n", ""],
        ["exits", "NamespaceError", False, 3, "", ""],
    ]


def test_confirm_raises_what_start_initialization_has_caught(anyone: Runner) -> None:
    def body() -> Any:
        with nsapi.boot_env(nsapi.Config.new("user", "pid", "mnt")) as boot:
            code = "import nsapi, sys; nsapi.start_initialization(sys.intern, 5)"
            done = subprocess.run([sys.executable, "-c", code], env=boot.env, pass_fds=boot.pass_fds)
            return done.returncode, str(failure(boot.confirm)["classes"])[:12]

    assert anyone(body) == [1, "['TypeError'"]


def test_what_start_initialization_says_needs_no_reader(anyone: Runner) -> None:
    """A parent that only waits for the program does not wait forever, however long the traceback."""

    def body() -> Any:
        code = "import nsapi\ndef f(): raise ValueError('\x01' * 60000)\nnsapi.start_initialization(f)"
        with nsapi.boot_env(nsapi.Config.new("user")) as boot:
            process = subprocess.Popen([sys.executable, "-c", code], env=boot.env, pass_fds=boot.pass_fds)
            boot.confirm(60, process)
            status = process.wait(60)
            facts = failure(boot.wait_ready)
        return status, "ValueError" in str(facts)

    assert anyone(body) == [1, True]


@pytest.mark.parametrize("maps", ["", "0:0:2"], ids=["nobody waits in between", "a parent in between"])
def test_ctrl_c_at_any_moment_leaves_no_fd_and_no_process(root: Runner, maps: str) -> None:
    """While it is made and confirmed. Until it is confirmed whom confirm() was given is killed; then it is the caller's."""

    def body(maps: str) -> Any:
        import inspect

        warnings.simplefilter("ignore")  # sockets that were whole, and are collected with what was interrupted
        config = nsapi.Config.new("uts")
        if maps:
            config = nsapi.Config.new("user", "pid", uid_mappings=maps, gid_mappings=maps)

        def attempt(ctrl_c: CtrlC) -> list[Any]:
            before, boot, process = fds(), None, None
            with ctrl_c:
                boot = nsapi.boot_env(config)
                process = subprocess.Popen(["sleep", "1000"], env={**os.environ, **boot.env}, pass_fds=boot.pass_fds)
                inside = boot.confirm(20, process)
            boot = None
            if process is not None:
                if not ctrl_c.raised and inside.program != process.pid:
                    process.terminate()
                else:
                    process.kill()
                process.wait()
            wrong: list[Any] = [*children(), *([] if fds() == before else [before, fds()])]
            return wrong if ctrl_c.came == ctrl_c.raised else [*wrong, "swallowed"]

        def skip(code: Any, event: str) -> bool:
            # It is also called to be closed, where CPython swallows what is raised.
            return event == "call" and bool(code.co_flags & inspect.CO_GENERATOR)

        return at_every_moment(attempt, skip=skip)

    moments, wrong = root(body, maps)
    assert moments > 100
    assert wrong == []


@pytest.mark.parametrize(("end", "status"), [("sys.exit(3)", 3), ("raise KeyboardInterrupt", -2), ("os._exit(5)", 5)])
def test_start_initialization_catches_exceptions_only(anyone: Runner, end: str, status: int) -> None:
    """What is meant to end the program ends it; the parent is told that it has ended."""

    def body(end: str) -> Any:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = f"import nsapi, os, sys\ndef f(): {end}\nnsapi.start_initialization(f)"
        with nsapi.boot_env(nsapi.Config.new("user", "pid", "mnt")) as boot:
            argv = [sys.executable, "-c", code]
            process = subprocess.Popen(argv, env=boot.env, pass_fds=boot.pass_fds, stderr=subprocess.DEVNULL)
            facts = failure(lambda: boot.wait_ready(60, process))
            return facts["step"], "ProcessLookupError" in str(facts["classes"]), process.wait(60)

    words = "the program ended before it was ready"
    # pid 1 cannot end itself by a signal: Python's own way out of Ctrl-C is 128 + 2 there.
    expected = [130, -2] if status == -2 else [status]
    step, same, seen = anyone(body, end)
    assert (step, same) == (words, True)
    assert seen in expected


def test_start_initialization_in_a_group_a_thread_and_after_a_fork(anyone: Runner) -> None:
    """A group comes whole; from a thread the program ends all the same; a fork has nothing left to do."""

    def body() -> Any:
        from booting import initialized

        programs = {
            "group": "def f(): raise ExceptionGroup('all', [KeyError(5), ValueError('x')])\nnsapi.start_initialization(f)",
            "thread": (
                "import threading, time\n"
                "threading.Thread(target=nsapi.start_initialization, args=(divmod, 5, 0)).start()\n"
                "time.sleep(1000)"
            ),
            "fork": (
                "nsapi.start_initialization(int)\n"
                "if os.fork() == 0:\n"
                "    try: nsapi.start_initialization(int)\n"
                "    except RuntimeError: os._exit(7)\n"
                "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"
            ),
        }
        if sys.version_info < (3, 11):
            programs["group"] = "nsapi.start_initialization(divmod, 1, 0)"
        results = []
        for name, code in programs.items():
            error, status, output, errors = initialized(code)
            results.append([name, status, output + errors, repr(error)])
        return results, children()

    group = "ExceptionGroup('all', [KeyError(5), ValueError('x')])"
    results, left = anyone(body)
    zero = "ZeroDivisionError("
    assert left == []
    assert [row[:3] for row in results] == [["group", 1, ""], ["thread", 1, ""], ["fork", 7, ""]]
    assert results[0][3] == group or sys.version_info < (3, 11)
    assert results[1][3].startswith(zero)
    assert results[2][3] == "None"


def test_start_initialization_elsewhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that was not started so, also where it only looks as if it were."""
    for value in (None, "", "x", "1", "999999:5", "0:0", "99999999999999999999:1"):
        if value is not None:
            monkeypatch.setenv("_NSAPI_READY", value)
        with pytest.raises(RuntimeError, match="was not started by boot_env"):
            nsapi.start_initialization(print, "never")


# ---- bootstrap_data ----


def test_bootstrap_data_is_the_message_of_runc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Byte for byte, in its order, but for the number that counts messages."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)
    rootful, seq = number(ROOTLESS, 0), 8
    paths = {name: str(tmp_path / name) for name in ("time", "net", "user")}
    for path in paths.values():
        Path(path).touch()

    def same(config: nsapi.Config, *parts: bytes) -> bool:
        made, expected = nsapi.bootstrap_data(config), message(*parts)
        return made[:seq] + made[seq + 4 :] == expected[:seq] + expected[seq + 4 :]

    assert same(nsapi.Config.new("net", "uts"), create("net", "uts"), rootful)
    assert same(
        nsapi.Config.new("mnt", **paths),
        create("mnt"),
        join(**{name: paths[name] for name in ("user", "net", "time")}),
        rootful,
    )
    assert same(
        nsapi.Config.new("user", oom_score_adj=-5),
        create("user"), string(UIDMAP, "0 0 1\n"), string(GIDMAP, "0 0 1\n"), string(OOM, "-5"), rootful,
    )  # fmt: skip
    assert same(
        nsapi.Config.new(
            *("user", "time"), uid_mappings="0:5:9", gid_mappings="0:5:9,9:99:1", time_offsets={"boottime": (7, 5)}
        ),
        create("user", "time"), string(UIDMAP, "0 5 9\n"), string(GIDMAP, "0 5 9\n9 99 1\n"), number(SETGROUP, 1),
        rootful, string(TIMEOFFSETS, "boottime 7 5\n"),
    )  # fmt: skip


def test_bootstrap_data_of_all_attributes_is_in_the_order_of_runc(
    monkeypatch: pytest.MonkeyPatch, readable_tmp: Path
) -> None:
    """An ordinary user's, with helpers; types to join are sorted with user first, however they were given."""
    monkeypatch.setattr(os, "geteuid", lambda: 5)
    monkeypatch.setattr(os, "getegid", lambda: 6)
    for name in ("newuidmap", "newgidmap"):
        (readable_tmp / name).write_text("#!/bin/sh\n")
        (readable_tmp / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(readable_tmp))
    uid_helper = string(UIDMAPPATH, f"{readable_tmp}/newuidmap")
    gid_helper = string(GIDMAPPATH, f"{readable_tmp}/newgidmap")
    odd = str(readable_tmp / "a\nb é:=")
    Path(odd).touch()
    everything = nsapi.Config.new(
        *("time", "pid", "user"), uid_mappings="0:5:1,1:100000:9", gid_mappings="0:6:2", oom_score_adj=1000,
        time_offsets={"monotonic": (-1, 5), "boottime": 86400}, net=odd, ipc="/proc/self/ns/ipc",
    )  # fmt: skip
    data = nsapi.bootstrap_data(everything)
    parts = [
        create("time", "pid", "user"), join(ipc="/proc/self/ns/ipc", net=odd),
        uid_helper, string(UIDMAP, "0 5 1\n1 100000 9\n"), string(GIDMAP, "0 6 2\n"), gid_helper,
        number(SETGROUP, 1), string(OOM, "1000"), number(ROOTLESS, 1),
    ]  # fmt: skip
    offsets = [f"{line}\n" for line in ("monotonic -1 5", "boottime 86400 0")]
    assert data[16:] in [message(*parts, string(TIMEOFFSETS, "".join(each)))[16:] for each in (offsets, offsets[::-1])]
    own = nsapi.bootstrap_data(nsapi.Config.new("user", uid_mappings="0:5:1", gid_mappings="0:6:1"))
    assert own[16:] == message(
        create("user"), uid_helper, string(UIDMAP, "0 5 1\n"), string(GIDMAP, "0 6 1\n"), gid_helper, number(ROOTLESS, 1)
    )[16:]  # fmt: skip
    other = nsapi.bootstrap_data(nsapi.Config.new("user", uid_mappings="0:5:1", gid_mappings="0:7:1"))
    assert number(SETGROUP, 1) in other
    joined = nsapi.bootstrap_data(nsapi.Config.new(time=odd, cgroup=odd, user=odd, mnt=odd, uts=odd, pid=odd))
    assert joined[16:] == message(
        create(), join(**dict.fromkeys(("user", "uts", "pid", "mnt", "cgroup", "time"), odd)), number(ROOTLESS, 1)
    )[16:]  # fmt: skip
    assert nsapi.bootstrap_data(nsapi.Config())[16:] == message(create(), number(ROOTLESS, 1))[16:]


def test_bootstrap_data_names_the_helpers_for_an_ordinary_user(
    monkeypatch: pytest.MonkeyPatch, readable_tmp: Path
) -> None:
    """By absolute path, if they are there; a relative PATH finds none."""
    monkeypatch.setattr(os, "geteuid", lambda: 5)
    for name in ("newuidmap", "newgidmap"):
        (readable_tmp / name).write_text("#!/bin/sh\n")
        (readable_tmp / name).chmod(0o755)
    config = nsapi.Config.new("user", uid_mappings="0:5:1", gid_mappings="0:5:1")
    monkeypatch.setenv("PATH", str(readable_tmp))
    data = nsapi.bootstrap_data(config)
    for each, name in ((27288, "newuidmap"), (27289, "newgidmap")):
        assert string(each, f"{readable_tmp}/{name}") in data
    assert number(ROOTLESS, 1) in data
    monkeypatch.chdir(readable_tmp)
    monkeypatch.setenv("PATH", ".")
    assert b"newuidmap" not in nsapi.bootstrap_data(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (nsapi.Config.new(net="/a,b"), "a comma"),
        (nsapi.Config.new(net="/" + "x" * 70000), "65535"),
        (nsapi.Config.new(net="/" + "x" * 40000, pid="/" + "x" * 40000), "65535"),
        (nsapi.Config.join(1), "name the types"),
    ],
    ids=["comma", "long path", "long message", "no types"],
)
def test_bootstrap_data_refuses_what_it_cannot_say(config: nsapi.Config, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nsapi.bootstrap_data(config)
    if "types" not in words:
        with pytest.raises(ValueError, match=words):
            nsapi.boot_env(config)


@pytest.mark.parametrize("verb", [nsapi.boot_env, nsapi.bootstrap_data])
@pytest.mark.parametrize("config", ["uts", None, ["net"]])
def test_what_is_no_config_is_refused_by_name(verb: Callable[[Any], object], config: object) -> None:
    with pytest.raises(TypeError, match=re.escape(f"config: {config!r} is no Config")):
        verb(config)


def test_no_path_ends_early() -> None:
    """What comes behind a NUL would be lost."""
    with pytest.raises(ValueError, match="a NUL byte"):
        nsapi.bootstrap_data(nsapi.Config.new(net="/a\0b"))


def test_a_length_of_an_attribute_never_wraps() -> None:
    """The longest that fits: one byte more is refused, not cut (CVE-2021-43784)."""
    room = 65532 - 16 - 8 - 8 - 4 - len("net:\0")  # 65,535 cannot be: attributes end at a multiple of 4
    config = nsapi.Config.new(net="/" + "x" * (room - 1))
    data = nsapi.bootstrap_data(config)
    assert len(data) == 65532
    assert attribute(27282, b"net:" + config.namespaces.path_of("net").encode() + b"\0") in data
    with pytest.raises(ValueError, match="65536 bytes"):
        nsapi.bootstrap_data(nsapi.Config.new(net="/" + "x" * room))
    with pytest.raises(ValueError, match="attribute 27282 has 65536 bytes"):
        nsapi.bootstrap_data(nsapi.Config.new(net="/" + "x" * (65536 - 4 - 4 - 2)))
