"""call: a function in an interpreter of its own inside, its value or its exception, and nothing left of it."""

from __future__ import annotations

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

import attrs
import pytest
from conftest import Runner
from inside import (
    NEW_OF_EACH,
    SHOWN,
    TYPES,
    all_ns,
    all_shown,
    changed,
    children,
    dumpable,
    everything,
    failure,
    fds,
    fork_and_die,
    id_of,
    import_late,
    ns,
    only_child,
    open_own,
    raise_it,
    raise_odd,
    raise_unpicklable,
    ready,
    refusal,
    shown,
    sockets_of,
    status,
    unshared,
    without_python,
    write_to,
)

import nsapi

# ---- where it runs ----


def test_function_runs_in_a_new_namespace(root: Runner) -> None:
    """Of each type it sees one of its own, and the caller stays where it is."""

    def body(*types: str) -> list[Any]:
        before, there = all_ns(), {}
        for type in types:
            config = nsapi.Config.new(type, maps="identity" if type == "user" else None)
            there[type] = nsapi.call(ns, type, config=config)
        return [[type for type in types if there[type] == before[type]], all_ns() == before, children()]

    assert root(body, *TYPES) == [[], True, []]


def test_user_calls_in_new_namespaces(user: Runner) -> None:
    """An ordinary user is root there, in all eight types at once, and the Config is performed before the function runs."""

    def body(*types: str) -> list[Any]:
        config = nsapi.Config.new(*types, hostname="blue", loopback=True)
        return [
            nsapi.call(socket.gethostname, config=config),
            nsapi.call(os.getresuid, config=config),
            nsapi.call(os.getpid, config=config),
            all(
                there != here
                for there, here in zip(nsapi.call(all_ns, config=config).values(), all_ns().values(), strict=True)
            ),
        ]

    assert user(body, *TYPES) == ["blue", [0, 0, 0], 1, True]


def test_function_runs_in_the_namespaces_of_a_process(root: Runner) -> None:
    """Of each type, and all that differ where none is named: the process's own, exactly."""

    def body(*types: str) -> list[str]:
        wrong = []
        with unshared(*NEW_OF_EACH) as process:
            target = only_child(process.pid)
            for wanted in (*((type,) for type in types), ()):
                there = nsapi.call(all_ns, target=target, types=wanted)
                wrong += [f"{wanted}: {name}" for name in wanted or types if there[name] != ns(name, target)]
        return wrong

    assert root(body, *TYPES) == []


def test_user_calls_in_a_container_of_his_own(user: Runner) -> None:
    """Without any privilege outside he is root there, and all of its namespaces can be joined, mnt too."""

    def body() -> list[Any]:
        with unshared(*NEW_OF_EACH) as process:
            target = only_child(process.pid)
            there = nsapi.call(all_ns, target=target)
            return [
                [name for name in TYPES if there[name] != ns(name, target)],
                nsapi.call(os.getresuid, target=target),
                children() == [process.pid],
            ]

    assert user(body) == [[], [0, 0, 0], True]


CAPS = ("bounding", "permitted", "effective", "inheritable", "ambient")
LIMITS: dict[str, Any] = {"rlimits": {"RLIMIT_NOFILE": 60}, "oom_score_adj": 500, "no_new_privs": True}
#: Fields of Config, and what is created; "mnt" by itself joins another's.
IN_FORCE: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("uts", "net", "mnt", "ipc"),
        {"hostname": "blue", "domainname": "deep", "loopback": True, "propagation": "slave"},
    ),
    (("uts", "net"), {**LIMITS, "sysctl": {"net.ipv4.ip_forward": "1"}, "parent_death_signal": 15}),
    (("time", "pid"), {"time_offsets": {"boottime": 100}, "init": True}),
    (("user",), {"uid_mappings": "5:0:1", "gid_mappings": "6:0:1"}),
    (("user",), {"maps": "identity", "setgroups": "deny"}),
    (("uts",), {"uid": 61234, "gid": 61235, "groups": [7, 8], "capabilities": {each: ["CAP_KILL"] for each in CAPS}}),
    (("mnt",), {**LIMITS, "uid": 61234, "gid": 61235, "groups": [7, 8], "parent_death_signal": 15}),
    (("mnt",), {"capabilities": {each: ["CAP_KILL", "CAP_CHOWN"] for each in CAPS[:3]}, "parent_death_signal": 9}),
    ((), {"cgroup_path": "/"}),
]


def test_all_of_the_config_is_in_force_when_the_function_runs(root: Runner) -> None:
    """As with run, which executes a program; by either method, or it is refused; what none performs, by both."""

    def body(rows: list[Any]) -> list[Any]:
        import atexit

        wrong: list[Any] = []
        methods = ("spawn", "fork")
        mine = [each.split(" - ") for each in Path("/proc/self/mountinfo").read_text().splitlines()]
        cgroups = [
            first.split()[4] for first, last in mine if last.startswith("cgroup2 ") and os.access(first.split()[4], 2)
        ]
        own = f"{cgroups[0]}/nsapi-tests-{os.getpid()}" if cgroups else None
        if own is not None:
            os.mkdir(own)
            atexit.register(os.rmdir, own)
        with unshared("--mount", "--net") as process:
            for types, fields in rows:
                if "cgroup_path" in fields:
                    fields["cgroup_path"] = own
                config = (
                    nsapi.Config.join(process, "mnt", **fields)
                    if types == ["mnt"]
                    else nsapi.Config.new(*types, **fields)
                )
                ran = nsapi.run(["grep", "-H", "", *SHOWN], config=config, capture_output=True, text=True).stdout
                refused = "init" in fields or "identity" in fields.values() or fields.get("cgroup_path")
                for method in (
                    methods if "uid" not in fields or types == ["mnt"] else methods[1:]
                ):  # who may read Python?
                    if method == "fork" and refused:
                        got: Any = refusal(lambda: nsapi.call(int, config=config, method="fork"))[0]
                        wrong += [] if got == "Unsupported" else [[types, fields, got]]
                        continue
                    *got, dies, up = nsapi.call(all_shown, config=config, method=method)
                    wanted = [
                        *shown(ran),
                        fields.get("parent_death_signal", 0),
                        up if "net" not in types else config.loopback,
                    ]
                    wrong += [
                        [types, method, *pair]
                        for pair in zip(wanted, [*got, dies, up], strict=True)
                        if pair[0] != pair[1]
                    ]
            unperformed: list[dict[str, Any]] = [
                {"root": "/usr"},
                {"mounts": [{}]},
                {"extra": {"linux": {"seccomp": {"x": 1}}}},
            ]
            for more in unperformed:
                for config in (nsapi.Config.new("mnt", **more), nsapi.Config.join(process, "mnt", **more)):
                    for method in methods:
                        wrong += [more] * (
                            refusal(lambda: nsapi.call(int, config=config, method=method))[0] != "Unsupported"
                        )
        return wrong

    named = {name for _, fields in IN_FORCE for name in fields}
    others = {"namespaces", "target", "extra", "allow", "mounts", "root"}
    assert {each.name for each in attrs.fields(nsapi.Config) if each.init} == named | others
    assert root(body, IN_FORCE) == []


def test_who_is_not_root_in_a_joined_user_namespace_has_no_capabilities(root: Runner) -> None:
    """As no program has that is executed there, though nothing is executed; a Config that gives some does."""

    def body() -> list[Any]:
        with unshared("--user", "--map-root-user") as process:
            # What is made is of the namespace that is joined: there he may name it.
            nsapi.call(socket.sethostname, "x", config=nsapi.Config.new("uts", user=process))
        with unshared("--user", "--map-user=1000", "--map-group=1000", "--net") as process:
            given = nsapi.Config.join(
                process, capabilities={name: ["CAP_KILL"] for name in ("bounding", "permitted", "effective")}
            )
            return [
                nsapi.call(os.getresuid, target=process),
                nsapi.call(status, "CapPrm", target=process),
                nsapi.call(status, "CapPrm", config=given),
            ]

    assert root(body) == [[1000] * 3, "0" * 16, "0" * 14 + "20"]


def test_who_has_not_entered_calls_nothing(root: Runner) -> None:
    """What cannot be loaded when all is to be joined ends the interpreter: no next call is made outside."""

    def body() -> list[Any]:
        from nsapi._interpreter import Interpreter, Recipe, request

        interpreter = Interpreter()
        with unshared("--mount") as process, Recipe(nsapi.Config.join(process, "mnt")) as recipe:
            try:
                interpreter.start(recipe)
                first = interpreter.ask("first", b"nonsense")
                return [
                    refusal(each)[0] for each in (first.value, lambda: interpreter.ask("second", *request(int, (), {})))
                ]
            finally:
                interpreter.kill()

    assert root(body) == ["TypeError", "InterpreterDied"]


def test_mount_namespace_without_python(root: Runner) -> None:
    """The interpreter has loaded the function before it goes where it could load nothing; its path is that of inside."""

    def body() -> list[Any]:
        with tempfile.TemporaryDirectory(dir="/tmp") as folder, without_python(folder) as process:
            return [
                nsapi.call(os.listdir, "/usr", target=process, types=["mnt"]),
                nsapi.call(ns, "net", target=process) == ns("net", process.pid),
                nsapi.call(status, "Uid", config=nsapi.Config.join(process, uid=61234, gid=61234, groups=[])).split(),
                refusal(lambda: nsapi.call(import_late, "xml.dom.minidom", target=process))[1],
                refusal(lambda: nsapi.call(divmod, 1, 0, target=process))[0],
                nsapi.call(int, "7", target=process),
                children() == [process.pid],
            ]

    found = root(body)
    assert found[:3] == [[], True, ["61234"] * 4]
    assert "xml: not imported before the mount namespace was joined" in found[3]
    assert found[4:] == ["ZeroDivisionError", 7, True]


def test_a_strangers_file_is_never_imported(root: Runner) -> None:
    """What lies in the mount namespace under a name of ours is not loaded there, and shown in no traceback."""

    def body() -> list[Any]:
        with tempfile.TemporaryDirectory() as folder:
            sys.path.insert(0, folder)
            Path(folder, "ours.py").write_text("def fail():\n    raise KeyError\n")
            import ours  # type: ignore[import-not-found]

            files = " ".join(f"{folder}/{name}.py" for name in ("colorsys", "ours"))
            script = (
                f"mount -t tmpfs none {folder} && echo 'stranger = 1\nstranger = 2' | tee {files} && echo ready >&2"
            )
            with ready("unshare", "--mount", "sh", "-c", f"({script}) 2>&1 >/dev/null; exec sleep 1000") as process:
                name, _ = refusal(lambda: nsapi.call(import_late, "colorsys", target=process))
                try:
                    nsapi.call(ours.fail, target=process)
                except KeyError as error:
                    return [name, "in fail" in str(error.__cause__), "stranger" in str(error.__cause__)]
        return []

    assert root(body) == ["ModuleNotFoundError", True, False]


def test_what_cannot_be_joined_says_so_before_the_function_runs(user: Runner) -> None:
    """The error is that of the step, as from run, and the function has done nothing."""

    def body(folder: str) -> list[Any]:
        mark = f"{folder}/mark"
        fails = [
            failure(lambda: nsapi.call(os.mkdir, mark, config=nsapi.Config.new("net"))),
            failure(lambda: nsapi.call(os.mkdir, mark, target=1, types=["mnt"])),
            failure(lambda: nsapi.call(os.mkdir, mark, config=nsapi.Config.new(mnt="/proc/self/ns/mnt"))),
        ]
        return [[each["step"] for each in fails], os.path.exists(mark), children()]

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        steps, made, left = user(body, folder)
    assert steps[0] == "clone net"
    assert steps[1].startswith("open the mnt namespace of process 1")
    assert steps[2].startswith("setns mnt of ")
    assert not made
    assert left == []


def test_who_is_root_in_the_user_namespace_cannot_reach_the_interpreter(root: Runner) -> None:
    """It is not dumpable while it holds what is the caller's among others."""

    def body() -> list[Any]:
        os.setgroups([12345])
        with unshared(*NEW_OF_EACH) as process:
            target = only_child(process.pid)
            return [
                nsapi.call(dumpable, target=target),
                [nsapi.call(dumpable, target=target, types=[each]) for each in ("net", "pid", "mnt")],
                nsapi.call(status, "Groups", target=target),
                nsapi.call(os.getresuid, target=target),
            ]

    assert root(body) == [0, [1, 0, 0], "", [0, 0, 0]]


def test_a_hostile_root_reaches_no_interpreter(root: Runner) -> None:
    """Who has all capabilities in the user namespace, sees it, and has the same id, still may not look into it."""

    def body() -> list[Any]:
        with (
            unshared("--user", "--map-root-user", "--mount") as process,
            nsapi.ProcessPoolExecutor(1, target=process, initializer=ns, initargs=("net",)) as pool,
        ):
            (worker,) = set(children()) - {process.pid}
            found: list[Any] = [pool.submit(ns, "user").result() == ns("user", process.pid)]
            for pid in (worker, process.pid):
                looked = nsapi.run(["cat", f"/proc/{pid}/environ"], target=process, capture_output=True)
                found.append([looked.returncode, b"Permission denied" in looked.stderr])
            return found

    assert root(body) == [True, [1, True], [0, False]]


def test_a_fork_of_the_program_keeps_no_interpreter(root: Runner) -> None:
    """It has copies of all files, also of the channel; and yet a call ends while it lives."""

    def body() -> list[Any]:
        from nsapi._interpreter import Interpreter, Recipe, request

        interpreter = Interpreter()
        with Recipe(nsapi.Config.new("uts")) as recipe:
            interpreter.start(recipe)
        other = os.fork()
        if other == 0:
            signal.pause()
        try:
            interpreter.until(time.monotonic() + 30)
            value = interpreter.ask("abs", *request(abs, (-1,), {})).value()
            interpreter.end()
            return [value, interpreter.process.returncode]
        finally:
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)
            interpreter.kill()

    assert root(body) == [1, 0]


# ---- what comes back ----


def test_values_and_arguments_of_any_size(root: Runner) -> None:
    """100 MB either way, and both ways at once."""

    def body() -> list[int]:
        config, data = nsapi.Config.new("uts"), bytes(100_000_000)
        got = nsapi.call(bytes.upper, data, config=config)
        return [len(got), nsapi.call(sum, [1, 2], start=4, config=config)]

    assert root(body) == [100_000_000, 7]


def test_exceptions_are_the_real_ones(root: Runner) -> None:
    """Of the class that was raised, with what it holds, and the remote traceback as the cause."""

    def body() -> list[Any]:
        config = nsapi.Config.new("uts")
        found = []
        for error in (KeyError("a"), OSError(13, "no", "/x"), KeyboardInterrupt("b")):
            try:
                nsapi.call(raise_it, error, config=config)
            except BaseException as caught:
                found.append([repr(caught), "in raise_it" in str(caught.__cause__)])
        found.append(list(refusal(lambda: nsapi.call(raise_odd, config=config))))
        for loads in (False, True):
            found.append(list(refusal(lambda: nsapi.call(raise_unpicklable, loads, config=config))))
        return found

    assert root(body) == [
        ["KeyError('a')", True],
        ["PermissionError(13, 'no')", True],
        ["KeyboardInterrupt('b')", True],
        ["RuntimeError", "inside.raise_odd raised Odd: c, an exception that cannot be loaded here"],
        ["RuntimeError", "inside.raise_unpicklable raised Unpicklable: worse, an exception that cannot be pickled"],
        ["RuntimeError", "inside.raise_unpicklable raised Unpicklable: worse, an exception that cannot be loaded here"],
    ]


def test_what_cannot_be_pickled_is_named(root: Runner) -> None:
    """Function, argument or result: which it is, and why."""

    def body() -> list[Any]:
        config = nsapi.Config.new("uts")
        import functools

        lock = threading.Lock()
        three: Any = 3
        calls = [
            lambda: nsapi.call(lambda: 1, config=config),
            lambda: nsapi.call(len, lock, config=config),
            lambda: nsapi.call(sorted, [1], key=lock, config=config),
            lambda: nsapi.call(threading.Lock, config=config),
            lambda: nsapi.call(no_file, config=config),
            lambda: nsapi.call(three, config=config),
            lambda: nsapi.call(sockets_of, 254, config=config),
            lambda: nsapi.call(
                functools.partial(exec, "import threading; threading.Lock" + 9_000 * " "), lock, config=config
            ),
            lambda: nsapi.call(functools.partial(sockets_of), [bytes(10_000), lock], config=config),
        ]

        def no_file() -> None: ...

        vars(sys.modules["__main__"])["no_file"] = no_file
        no_file.__qualname__ = "no_file"
        answers = [refusal(each) for each in calls]
        assert [name for name, _ in answers] == ["TypeError"] * 9, answers
        return [*(text for _, text in answers), children()]

    *texts, left = root(body)
    starts = [
        "func: <function",
        "argument 1: <unlocked _thread.lock",
        "key: <unlocked _thread.lock",
        "_thread.",
        "__main__",
    ]
    assert [text for text, start in zip(texts, starts, strict=False) if not text.startswith(start)] == []
    assert "method='fork'" in texts[0]
    assert "the result cannot be pickled" in texts[3]
    assert "no_file is of the caller's __main__, which is no file" in texts[4]
    assert texts[6].startswith(
        "inside.sockets_of: the result cannot be pickled: ValueError: 254 open files in one message"
    )
    assert max(map(len, texts)) < 1000
    assert "func: 3 cannot be called" in texts[5]
    assert left == []


def test_an_interpreter_that_ends_is_an_error(root: Runner) -> None:
    """It names signal or status; also where a process that it has left holds its files open."""

    def body() -> list[Any]:
        found = []
        calls: list[tuple[Any, tuple[int, ...]]] = [(signal.raise_signal, (9,)), (os._exit, (3,)), (sys.exit, (4,))]
        ours, theirs = socket.socketpair()
        for func, args in (*calls, (fork_and_die, (theirs,))):
            try:
                nsapi.call(func, *args, config=nsapi.Config.new("uts"), timeout=60)
            except subprocess.CalledProcessError as error:
                found.append([error.returncode, str(error).split(":")[1], children()])
        theirs.close()
        ours.close()
        return found

    ended = " the interpreter ended with exit status {} before the function returned"
    assert root(body) == [
        [-9, " the interpreter died of SIGKILL before the function returned", []],
        *([status, ended.format(status), []] for status in (3, 4, 7)),
    ]


def test_a_call_that_takes_too_long_is_ended(root: Runner) -> None:
    """subprocess's TimeoutExpired, and nothing is left: not where the function is, not where it was to be loaded."""

    def body() -> list[Any]:
        before, found = everything(), []
        calls: list[tuple[Any, tuple[int, ...]]] = [(time.sleep, (1000,)), (signal.pause, ())]
        for func, args in calls:
            try:
                nsapi.call(func, *args, config=nsapi.Config.new("pid"), timeout=0.3)
            except subprocess.TimeoutExpired as error:
                found.append([error.timeout, error.cmd])
        late = [nsapi.call(abs, -1, config=nsapi.Config.new("pid"), timeout=each) for each in (float("inf"), 1e12)]
        late.append(nsapi.clone(int).wait(float("inf")))
        return [found, late, changed(before)]

    assert root(body) == [[[0.3, "time.sleep"], [0.3, "_signal.pause"]], [1, 1, 0], []]


def test_files_travel_both_ways(root: Runner) -> None:
    """Sockets, handles and multiprocessing's connections: the same open file there, and each end closes its own."""

    def body() -> list[Any]:
        import multiprocessing

        config = nsapi.Config.new("net")
        before = len(fds())
        ours, theirs = socket.socketpair()
        nsapi.call(write_to, theirs, b"hello", config=config)
        own = nsapi.current("net")
        same = nsapi.call(id_of, own, config=config) == list(own.id)
        own.close()
        with_socket = nsapi.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM, config=config)
        handle = nsapi.call(open_own, "net", config=config)
        there = nsapi.open(with_socket)
        left, right = multiprocessing.Pipe()
        nsapi.call(type(right).send, right, {"a": 1}, config=config)
        found = [
            ours.recv(9).decode(),
            same,
            handle.type.proc_name,
            handle.id != own.id,
            there.id != own.id,
            left.recv(),
        ]
        for each in (ours, theirs, with_socket, handle, there, left, right):
            each.close()
        return [*found, len(fds()) - before]

    assert root(body) == ["hello", True, "net", True, True, {"a": 1}, 0]


def test_nothing_of_the_caller_changes(root: Runner) -> None:
    """Files, children, threads, signals, ids: as before, after success and after each kind of failure."""

    def body() -> list[str]:
        config = nsapi.Config.new("uts")
        nsapi.call(os.getpid, config=config)
        before = everything()
        with unshared("--mount", "--net") as process:
            nsapi.call(os.getpid, target=process)
            failure(
                lambda: nsapi.call(os.getpid, config=nsapi.Config.join(process, uid=5, rlimits={"RLIMIT_NOFILE": 3}))
            )
        nsapi.call(os.getpid, config=config)
        failure(lambda: nsapi.call(raise_it, KeyError(), config=config))
        failure(lambda: nsapi.call(threading.Lock, config=config))
        failure(lambda: nsapi.call(os._exit, 1, config=config))
        failure(lambda: nsapi.call(os.getpid, config=nsapi.Config.new(net="nsapi-no-such")))
        return changed(before)

    assert root(body) == []


def test_a_module_that_another_thread_is_importing_is_not_there_yet(user: Runner) -> None:
    """Half of it is known then, and of what it will have nothing can be in the call."""

    def body() -> list[Any]:
        from types import ModuleType, SimpleNamespace

        with nsapi.Popen(["cat"], config=nsapi.Config.new("user", "net"), stdin=subprocess.PIPE) as process:
            for name in ("asyncio.subprocess", "multiprocessing.process", "multiprocessing.connection"):
                sys.modules[name] = ModuleType(name)
            target = SimpleNamespace(pid=process.pid)
            return [nsapi.call(ns, "net", target=target), ns("net", process.pid)]

    inside, there = user(body)
    assert inside == there


def test_ctrl_c_ends_it(root: Runner) -> None:
    """KeyboardInterrupt comes out of call, and neither process nor file is left."""

    def body() -> list[Any]:
        nsapi.call(time.sleep, 0, config=nsapi.Config.new("uts"))  # loads what is loaded at first use
        before = everything()
        found = []
        for delay in (0.001, 0.01, 0.03, 0.3):
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, delay)
            try:
                nsapi.call(time.sleep, 1000, config=nsapi.Config.new("uts"))
            except KeyboardInterrupt:
                found.append(children())
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        return [found, changed(before)]

    assert root(body) == [[[]] * 4, []]


def test_wrong_arguments_are_refused_first(root: Runner) -> None:
    """TypeError or ValueError names what is wrong, before anything starts."""

    def body() -> list[Any]:
        config = nsapi.Config.new("uts")
        three: Any = "3"
        return [
            refusal(lambda: nsapi.call(os.getpid))[1],
            refusal(lambda: nsapi.call(os.getpid, config=config, target=1))[1],
            refusal(lambda: nsapi.call(os.getpid, config=config, method="thread"))[1],
            refusal(lambda: nsapi.call(os.getpid, config=config, timeout=three))[1],
            refusal(lambda: nsapi.call(os.getpid, config=nsapi.Config.new("user", mnt=os.getpid())))[1],
        ]

    texts = root(body)
    assert [text.split(":")[0] for text in texts[:4]] == ["config or target", "config, target", "method", "timeout"]
    assert "a new user namespace beside a mount namespace that is joined" in texts[4]


# ---- scripts ----

SCRIPT = """
import multiprocessing, os, sys
import nsapi

class Point:
    def __init__(self, x): self.x = x

def double(point):
    return Point(2 * point.x)

print("once", __name__)
if __name__ == "__main__":
    print(sys.argv[1:], nsapi.call(double, Point(21), config=nsapi.Config.new("uts")).x, flush=True)
"""


@pytest.mark.parametrize("as_module", [False, True], ids=["file", "module"])
def test_functions_of_a_script(root: Runner, tmp_path: Path, as_module: bool) -> None:
    """Functions and classes of the caller's own script travel, as with multiprocessing; its guarded part runs once."""
    (tmp_path / "script.py").write_text(SCRIPT)
    what = ["-m", "script"] if as_module else ["script.py"]
    done = subprocess.run([sys.executable, *what, "x"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["once __main__", "once __mp_main__", "['x'] 42"]


def test_script_without_a_guard_does_not_start_without_end(root: Runner, tmp_path: Path) -> None:
    """One that calls at its top level is told what is missing."""
    code = "import nsapi\ndef f(): pass\nnsapi.call(f, config=nsapi.Config.new('uts'))\n"
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]
