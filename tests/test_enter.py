"""enter and `with handle:`: what each type promises, inside and afterwards, and every way to fail."""

from __future__ import annotations

import ctypes
import errno
import inspect
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import Runner, lacking, tool
from inside import (
    NEW_OF_EACH,
    PIDFD_GET,
    CtrlC,
    all_ns,
    answer_enosys,
    at_every_moment,
    drop_all_capabilities,
    everything,
    failure,
    fds,
    ns,
    only_child,
    ready,
    same_id,
    status,
    unshared,
)

import nsapi

ENTERABLE = ("ipc", "uts", "net", "pid", "mnt", "cgroup")
REFUSED = ("user", "time")

#: For a body of an ordinary user: a user namespace of his own, with one of each other type that it owns.
OWN = ("unshare", *NEW_OF_EACH, "--mount-proc", "--kill-child")

#: Options of unshare(1) for a child in new namespaces of each type that can be entered.
NEW_TO_ENTER = "--ipc --uts --net --pid --fork --mount --cgroup".split()


# ---- what travels to the bodies beside inside.py ----


def position() -> dict[str, object]:
    """Where the calling thread is, and what it sees from there."""
    return {**all_ns(), "root": same_id("/"), "cwd": same_id("."), "umask": status("Umask")}


def changes(before: Any, after: Any) -> list[str]:
    return [name for name in before if before[name] != after[name]]


def in_thread(work: Callable[[], Any]) -> Any:
    """What *work* gives, or raises, in a thread of its own."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def forbid(call: str, *arguments: tuple[int, int], errnum: int = errno.EPERM) -> None:
    """Install a seccomp filter for this thread, for good: *call* with these (place, value) of arguments fails."""
    numbers = {"setns": (308, 268), "chroot": (161, 51), "unshare": (272, 97)}
    rows = [(0x20, 0, 0, 0), (0x15, 0, 2 * len(arguments) + 1, numbers[call][os.uname().machine == "aarch64"])]
    for left, (place, value) in zip(range(len(arguments), 0, -1), arguments, strict=True):
        rows += [(0x20, 0, 0, 16 + 8 * place), (0x15, 0, 2 * left - 1, value)]
    rows += [(0x06, 0, 0, 0x00050000 | errnum), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rows), ctypes.addressof(code)))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP


HELPERS: tuple[Callable[..., Any], ...] = (position, changes, in_thread, forbid)


#: An ordinary user is root in a user namespace of his own.
AS_USER = """
assert os.getuid() or pathlib.Path("/proc/self/uid_map").read_text().split()[1] != "0", "runs as root by mistake"
"""


class Equipped(Runner):
    """With HELPERS in reach of its bodies. Those of a user run in OWN, unless *under* says otherwise."""

    def __init__(self, runner: Runner) -> None:
        lines = ["import ctypes, struct", "from collections.abc import Callable"]
        lines += ["from concurrent.futures import ThreadPoolExecutor", "from contextlib import ExitStack"]
        check = AS_USER if runner.name == "user" else runner.prelude
        prelude = "\n\n".join([check, *lines, *map(inspect.getsource, HELPERS)])
        prelude += f"\nENTERABLE, NEW_TO_ENTER = {ENTERABLE!r}, {NEW_TO_ENTER!r}\n"
        super().__init__(runner.name, runner.python, runner.prefix, prelude, runner.library)

    def __call__(
        self, body: Callable[..., Any], *args: Any, under: tuple[str, ...] | None = None, timeout: float = 60
    ) -> Any:
        if under is None:
            under = OWN if self.name == "user" else ()
        return super().__call__(body, *args, under=under, timeout=timeout)


@pytest.fixture(scope="session")
def root(root: Runner) -> Runner:
    return Equipped(root)


@pytest.fixture(scope="session")
def user(user: Runner) -> Runner:
    return Equipped(user)


# ---- the table: each type, in each way, alone and with other threads ----

WAYS = ("enter", "with handle", "handle.enter()", "again")


def enter_each_type(threaded: bool) -> Any:
    """In the child: for each type and way, where this thread, the others and what was started inside have been."""
    rows: dict[str, dict[str, dict[str, object]]] = {}
    main: dict[str, object] = {}
    asked, told = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)

    def others() -> dict[str, object]:
        if threaded:
            asked.wait()
            told.wait()
        return dict(main)

    def use(type: str, way: str, context: Any, there: dict[str, str]) -> None:
        before, others_before, table = position(), others(), fds()
        with context:
            inside, others_inside = position(), others()
            name = "pid_for_children" if type == "pid" else type
            started = subprocess.run(["readlink", f"/proc/self/ns/{type}"], capture_output=True, text=True).stdout
            thread = failure(lambda: in_thread(int)) if type == "pid" else in_thread(position) if threaded else inside
        rows.setdefault(type, {})[way] = {
            "changed": changes(before, inside),
            "there": inside[name] == there[name],
            "process": started.strip() == there[type],
            "thread": thread.get("text") if type == "pid" else changes(inside, thread),
            "others": changes(others_before, others_inside) + changes(others_before, others()),
            "left": changes(before, position()),
            "fds": fds() == table,
        }

    def work() -> None:
        os.chdir("/tmp")
        os.umask(0o027)
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            for type in ENTERABLE:
                handle, there = nsapi.open(child, type), all_ns(child)
                fs = {"unshare_fs": True} if threaded and type == "mnt" else {}
                contexts = nsapi.enter(child, type, **fs), handle, handle.enter(**fs)
                for way, context in zip(("enter", "with handle", "handle.enter()"), contexts, strict=True):
                    use(type, way, context, there)
                use(type, "again", contexts[0], there)
                handle.close()

    if not threaded:
        work()
        return rows
    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(3 * 4 * len(ENTERABLE)):
        asked.wait()
        main.update(position())
        told.wait()
    thread.join()
    return rows


@pytest.fixture(scope="module", params=["root", "root, threads", "user", "user, threads"])
def rows(request: pytest.FixtureRequest) -> tuple[bool, Any]:
    """As root and as a user in a user namespace of his own; alone in the process and with another thread."""
    name, _, threads = request.param.partition(", ")
    runner = request.getfixturevalue(name)
    return bool(threads), runner(enter_each_type, bool(threads))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("type", ENTERABLE)
def test_a_block_is_inside_and_leaving_is_exact(rows: tuple[bool, Any], type: str, way: str) -> None:
    """This thread alone is inside, with what it starts, of that type alone; then nothing is different from before."""
    row = rows[1][type][way]
    moved = {"pid": ["pid_for_children"], "mnt": ["mnt", "cwd"]}
    assert row["changed"] == moved.get(type, [type])
    assert row["there"]
    assert row["process"]
    assert row["thread"] == ("can't start new thread" if type == "pid" else [])
    assert row["others"] == []
    assert row["left"] == []
    assert row["fds"]


def test_inside_is_what_the_namespaces_are_for(anyone: Runner) -> None:
    """Host name, SysV queues, abstract sockets, mounts and pids are the target's inside, and one's own afterwards."""

    def body() -> Any:
        libc = ctypes.CDLL(None)
        assert libc.msgget(0x6E736170, 0o1600) >= 0
        mine = socket.socket(socket.AF_UNIX)
        mine.bind("\0nsapi-test-enter")

        def child_counts_itself_otherwise() -> bool:
            with subprocess.Popen(["sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True) as process:
                return process.communicate()[0] != f"{process.pid}\n"

        def may_bind() -> bool:
            with socket.socket(socket.AF_UNIX) as other:
                return not failure(lambda: other.bind("\0nsapi-test-enter"))

        looks: dict[str, Any] = {
            "uts": lambda: socket.gethostname() == "there",
            "ipc": lambda: libc.msgget(0x6E736170, 0) == -1,
            "net": may_bind,
            "mnt": lambda: os.path.exists("/mnt/marker"),
            "pid": child_counts_itself_otherwise,
        }
        seen: dict[str, list[object]] = {}
        script = "hostname there; mount -t tmpfs none /mnt; touch /mnt/marker; echo ready; exec sleep 1000"
        with ready("unshare", *NEW_TO_ENTER, "--kill-child", "sh", "-c", script) as parent:
            child = only_child(parent.pid)
            for type, look in looks.items():
                seen[type] = [look()]
                with nsapi.enter(child, type):
                    seen[type].append(look())
                seen[type].append(look())
        mine.close()
        assert libc.msgctl(libc.msgget(0x6E736170, 0), 0, None) == 0
        return seen

    seen = anyone(body, under=("unshare", "--ipc") if anyone.name == "root" else OWN)
    assert seen == {type: [False, True, False] for type in ("uts", "ipc", "net", "mnt", "pid")}


# ---- user and time ----


@pytest.mark.parametrize("threaded", [False, True], ids=["alone", "threads"])
def test_user_and_time_are_refused_before_anything_changes(anyone: Runner, threaded: bool) -> None:
    """A thread could never come back: refused in every way and every combination, with the remedy."""

    def body(threaded: bool) -> Any:
        def work() -> Any:
            refused = []
            with unshared(*NEW_OF_EACH) as parent:
                child = only_child(parent.pid)
                for type in ("user", "time"):
                    handle = nsapi.open(child, type)
                    before = everything()
                    for way in (
                        lambda: nsapi.enter(child, type).__enter__(),
                        lambda: nsapi.enter(child, type, unshare_fs=True).__enter__(),
                        lambda: nsapi.enter(child, "net", type).__enter__(),
                        lambda: nsapi.enter(child, type, "mnt", unshare_fs=True).__enter__(),
                        lambda: nsapi.enter(f"/proc/{child}/ns/{type}").__enter__(),
                        lambda: nsapi.enter(handle).__enter__(),
                        lambda: nsapi.enter(handle, type).__enter__(),
                        lambda: handle.enter().__enter__(),
                        handle.__enter__,
                    ):
                        answer = failure(way)
                        refused.append([type, answer["errno"], answer["step"], answer["text"], before == everything()])
                    handle.close()
            return refused

        return in_thread(work) if threaded else work()

    refused = anyone(body, threaded)
    assert len(refused) == 2 * 9
    for type, errnum, step, text, unchanged in refused:
        assert errnum == (errno.EINVAL if type == "user" else errno.EUSERS)
        assert step == "check"
        assert f"a {type} namespace" in text or "a time namespace is entered by new processes" in text
        assert "use run or Popen" in text
        assert unchanged


# ---- several types at once ----


def test_as_gives_the_handle_and_for_several_types_a_tuple_in_their_order(root: Runner) -> None:
    """What `as` binds are open handles on where the block is, closed with it; a handle itself gives itself."""

    def body() -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            answers: list[Any] = []
            with nsapi.enter(child, "net") as one:
                answers.append([one.type.proc_name, list(one.id) == same_id("/proc/thread-self/ns/net")])
            for order in (["uts", "net"], ["net", "uts"], ["pid", "cgroup", "mnt", "ipc", "net", "uts"]):
                with nsapi.enter(child, *order) as several:
                    there = [list(each.id) == same_id(f"/proc/{child}/ns/{each.type.proc_name}") for each in several]
                    open_inside = [each.fileno() >= 0 for each in several]
                words = [each.type.proc_name for each in several]
                closed = ["ValueError" in failure(each.fileno)["classes"] for each in (one, *several)]  # type: ignore[operator]
                answers.append([type(several).__name__, words == order, all(there), all(open_inside), all(closed)])
            handle = nsapi.open(child, "net")
            with handle as itself:
                answers.append(itself is handle)
            with handle.enter() as copy, nsapi.enter(handle) as other:
                answers.append([copy == other == handle, other is not handle])
            handle.fileno()
            handle.close()
            context = nsapi.enter(child, "net")
            with context as first, context as second:
                answers.append([first == second, first is not second])
        return answers

    assert root(body) == [
        ["net", True],
        *[["tuple", True, True, True, True]] * 3,
        True,
        [True, True],
        [True, True],
    ]


def test_several_types_are_set_by_one_system_call(root: Runner, readable_tmp: pathlib.Path) -> None:
    """Of the setns calls one moves all types of the target at once; no other one goes to a namespace of the target."""
    trace = readable_tmp / "trace"

    def body() -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            there = [ns(type, child) for type in ENTERABLE]
            with nsapi.enter(child, "net", "uts", "mnt", "ipc", "pid", "cgroup"):
                pass
        return there

    there = root(body, under=(tool("strace"), "-f", "-y", "-o", str(trace), "-e", "trace=setns"))
    calls = re.findall(r"setns\((\S+), (\S+)\) += (\S+)", trace.read_text())
    assert [result for _, _, result in calls] == ["0"] * len(calls)
    at_once = [set(flags.split("|")) for _, flags, _ in calls if "|" in flags]
    assert at_once == [{f"CLONE_NEW{name}" for name in ("NET", "UTS", "NS", "IPC", "PID", "CGROUP")}]
    assert not [fd for fd, _, _ in calls if any(name in fd for name in there)]


def test_where_one_of_several_types_cannot_be_entered_none_is(anyone: Runner) -> None:
    """The pid namespace of an ancestor cannot be entered; then uts, net and mnt, which could be, have not been."""

    def body() -> Any:
        # Our child in a new pid namespace looks back at us, who by then have left its uts and net.
        ours = os.pidfd_open(os.getpid())
        reader, writer = os.pipe()
        read_moved, write_moved = os.pipe()

        class Parent:
            def fileno(self) -> int:
                return ours

        nsapi.unshare("pid")
        child = os.fork()
        if child == 0:
            os.chdir("/tmp")
            assert os.read(read_moved, 1) == b"x"
            before = everything()
            answers = []
            for types in (("uts", "net", "pid"), ("pid", "mnt", "uts"), ("net", "uts")):
                answer = failure(lambda: nsapi.enter(Parent(), *types).__enter__())
                answers.append([answer.get("errno"), changes(before, everything())])
            os.write(writer, json.dumps(answers).encode())
            os._exit(0)
        nsapi.unshare("uts", "net", "mnt")
        os.write(write_moved, b"x")
        os.waitpid(child, 0)
        return json.loads(os.read(reader, 65536))

    first, second, third = anyone(body)
    assert first == second == [errno.EINVAL, []]
    assert third[0] is None
    assert "namespaces" in third[1]


# ---- nesting ----


def nest_at_random(seed: int, threaded: bool) -> Any:
    """In the child: blocks in blocks, any type, target and way; what is wrong, if anything, and how deep it went."""
    import random

    wrong: list[Any] = []
    entered, deepest = 0, 0

    class Boom(Exception):
        pass

    def dive(seed: int, targets: list[tuple[int, dict[str, str], dict[str, nsapi.NamespaceHandle]]]) -> None:
        dice = random.Random(seed)
        os.chdir("/tmp")
        fs = {"unshare_fs": True} if threaded else {}
        if threaded:
            with nsapi.enter(targets[0][0], "mnt", **fs):  # from here on `with handle:` may do it too
                pass

        def check(expected: dict[str, object], moment: str) -> None:
            seen = {**all_ns(), "cwd": os.getcwd()}
            if seen != expected:
                wrong.append([seed, moment, changes(expected, seen)])

        def blocks(expected: dict[str, object], depth: int) -> None:
            nonlocal entered, deepest
            deepest = max(deepest, depth)
            for _ in range(dice.randint(1, 3)):
                if entered > 400 or wrong or depth == 12:
                    return
                entered += 1
                pid, there, handles = dice.choice(targets)
                types = dice.sample(ENTERABLE, dice.choice([1, 1, 2, 3, 6]))
                way = dice.choice(["enter", "handle", "handle.enter"]) if len(types) == 1 else "enter"
                context: Any = nsapi.enter(pid, *types, **fs)
                if way != "enter":
                    context = handles[types[0]] if way == "handle" else handles[types[0]].enter(**fs)
                inside = dict(expected)
                for name in types:
                    name = "pid_for_children" if name == "pid" else name
                    inside[name] = there[name]
                if "mnt" in types:
                    inside["cwd"] = "/"
                try:
                    with context:
                        check(inside, "inside")
                        if dice.random() < 0.3:
                            os.chdir(dice.choice(["/proc", "/dev", "/tmp", "/"]))
                            inside["cwd"] = os.getcwd()
                        try:
                            blocks(inside, depth + 1)
                            if dice.random() < 0.2:
                                raise Boom(dice.randint(0, depth))
                        finally:
                            if "mnt" not in types:
                                expected["cwd"] = inside["cwd"]
                except Boom as boom:
                    check(expected, "after an exception")
                    if boom.args[0] < depth:
                        raise
                check(expected, "after")

        before = {**all_ns(), "cwd": os.getcwd()}
        blocks(dict(before), 0)

    with ExitStack() as stack:
        targets = []
        for _ in range(3):
            pid = only_child(stack.enter_context(unshared(*NEW_TO_ENTER)).pid)
            handles = {type: nsapi.open(pid, type) for type in ENTERABLE}
            for handle in handles.values():
                stack.callback(handle.close)
            targets.append((pid, all_ns(pid), handles))
        before = fds()
        if threaded:
            threads = [threading.Thread(target=dive, args=(seed + each, targets)) for each in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            for each in range(4):
                dive(seed + each, targets)
            if fds() != before:
                wrong.append("leak")
    return [wrong, entered, deepest]


@pytest.mark.parametrize("threaded", [False, True], ids=["alone", "threads"])
def test_blocks_nest_in_any_way(anyone: Runner, threaded: bool) -> None:
    """Hundreds of blocks in each other, of random types, targets and ways, with exceptions: each is where it should be."""
    wrong, entered, deepest = anyone(nest_at_random, 20, threaded)
    assert wrong == []
    assert entered > 100
    assert deepest >= 5


def test_system_calls_inside_a_block_do_not_change_the_way_back(root: Runner) -> None:
    """Whatever setns and unshare have done inside, leaving goes to where the block was entered."""

    def body() -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child, home, answers = only_child(parent.pid), nsapi.current("net"), []
            os.chdir("/tmp")
            before = position()
            for type in ("ipc", "uts", "net", "mnt", "cgroup"):
                with nsapi.enter(child, type):
                    nsapi.unshare(type)
                answers.append(changes(before, position()))
            with nsapi.enter(child, "net"):
                nsapi.setns(home)
            answers.append(changes(before, position()))
            with nsapi.enter(child, "net", "mnt"):
                nsapi.unshare("mnt")
                nsapi.setns(home)
                os.chdir("/proc")
            home.close()
            return [*answers, changes(before, position())]

    assert root(body) == [[]] * 7


# ---- exceptions ----


@pytest.mark.parametrize("way", ["enter", "several", "handle"])
def test_exceptions_pass_through(anyone: Runner, way: str) -> None:
    """What is raised in the block arrives outside as the same object, from home; so do return, break and continue."""

    def body(way: str) -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            handle, before = nsapi.open(child, "net"), position()
            answers: list[Any] = []

            def block() -> Any:
                return {"enter": nsapi.enter(child, "net"), "several": nsapi.enter(child, "uts", "pid")}.get(
                    way, handle
                )

            for error in (
                KeyError("body"),
                OSError(errno.ENOENT, "body"),
                nsapi.NamespaceError(errno.EINVAL),
                KeyboardInterrupt(),
                SystemExit(3),
                GeneratorExit(),
                StopIteration(),
            ):
                try:
                    with block():
                        raise error
                except BaseException as caught:
                    answers.append([caught is error, caught.__cause__ is caught.__context__ is None])
                answers.append(changes(before, position()))
            try:
                with block():
                    signal.raise_signal(signal.SIGINT)
                    while True:
                        pass
            except KeyboardInterrupt:
                answers.append(changes(before, position()))

            def leave_by_return() -> bool:
                with block():
                    return changes(before, position()) != []

            def leave_by_generator() -> Any:
                with block():
                    yield changes(before, position()) != []
                    yield "never"

            answers += [leave_by_return(), changes(before, position())]
            for how in range(2):
                with block():
                    if how:
                        break
                    continue
            answers.append(changes(before, position()))
            generator = leave_by_generator()
            answers.append(next(generator))
            generator.close()
            answers.append(changes(before, position()))
            handle.close()
        return answers

    answers = anyone(body, way)
    assert answers == [*[[True, True], []] * 7, [], True, [], [], True, []]


INTERRUPTED = ("enter", "several", "handle", "handle.enter", "mnt")


@pytest.mark.parametrize("way", INTERRUPTED)
def test_ctrl_c_at_any_moment_leaves_the_thread_at_home(root: Runner, way: str) -> None:
    """Wherever in nsapi CPython looks for signals, KeyboardInterrupt finds or brings the thread home.

    That is at the start of a Python function and after a call of a C function. One place is out of reach for code in
    Python: the start of ``__exit__`` itself.
    """

    def body(way: str) -> Any:
        warnings.simplefilter("ignore")  # handles that the interrupt has left to be collected

        with unshared(*NEW_TO_ENTER) as parent, unshared("--ipc", "--uts") as other:
            child = only_child(parent.pid)
            handle = nsapi.open(child, "net")
            exits = [type(context).__exit__.__code__ for context in (handle, handle.enter(), nsapi.enter(child, "net"))]

            def use() -> None:
                context: Any = handle
                if way == "enter":
                    context = nsapi.enter(child, "net")
                elif way == "several":
                    context = nsapi.enter(child, "uts", "net", "ipc")
                elif way == "handle.enter":
                    context = handle.enter()
                elif way == "mnt":
                    context = nsapi.enter(child, "mnt", "net", unshare_fs=True)
                with context as entered:
                    kept[:] = entered if isinstance(entered, tuple) else [entered]

            kept: list[nsapi.NamespaceHandle] = []

            def attempt(ctrl_c: CtrlC) -> list[object]:
                kept.clear()
                home = position()
                outer = nsapi.enter(other, "ipc", "uts")
                outer.__enter__()
                before = position()
                with ctrl_c:
                    use()
                wrong: list[object] = changes(before, position())  # type: ignore[assignment]
                wrong += ["open" for each in kept if each is not handle and not failure(each.fileno)]
                leaving = failure(lambda: outer.__exit__(None, None, None))
                wrong += [leaving["text"]] if leaving else changes(home, position())
                if not wrong:
                    with nsapi.enter(child, "net"):
                        wrong += [] if ns("net") == ns("net", child) else ["not inside any more"]
                    wrong += changes(home, position())
                return wrong if ctrl_c.came == ctrl_c.raised else [*wrong, "swallowed"]

            result = at_every_moment(
                lambda ctrl_c: in_thread(lambda: attempt(ctrl_c)),
                skip=lambda code, event: event == "call" and code in exits,
            )
            handle.close()
        return result

    moments, wrong = root(body, way)
    assert moments > 10
    assert wrong == []


# ---- a failure half-way ----


@pytest.mark.parametrize("type", ENTERABLE)
def test_a_setns_that_fails_changes_nothing(anyone: Runner, type: str) -> None:
    """The error names step, type and target; namespaces, root, cwd, umask, fds and children are as before."""

    def body(type: str) -> Any:
        os.chdir("/tmp")
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            answers: list[Any] = []
            handle, second = nsapi.open(child, type), "net" if type == "uts" else "uts"
            both = [nsapi.NamespaceType.parse(word).flag for word in (type, second)]
            forbid("setns", (0, handle.fileno()))
            forbid("setns", (1, sum(both)))
            before = everything()
            for way in (handle.__enter__, lambda: nsapi.enter(child, type, second).__enter__()):
                answer = failure(way)
                answers.append([answer["classes"], answer["step"], answer["text"], changes(before, everything())])
            handle.close()
        return [child, second, *answers]

    child, second, one, several = anyone(body, type)
    assert one[1] == f"setns {type} of process {child}, {type}"
    assert several[1] == f"setns {type},{second} of process {child}"
    for classes, _, text, changed in (one, several):
        assert "PermissionError" in classes
        assert "NamespaceRestoreError" not in classes
        assert "CAP_SYS_ADMIN" in text
        assert changed == []


def move_twice(first: str, filtered: bool) -> Any:
    """In the child: one move, then another; with *filtered* the other always fails. What came of it, and where we are."""
    from nsapi import _switch

    os.chdir("/tmp")
    second = "uts" if first == "net" else "net"
    members = [nsapi.NamespaceType.parse(word) for word in (first, second)]
    with unshared(*NEW_TO_ENTER) as parent:
        child = only_child(parent.pid)
        handles = [nsapi.open(child, member) for member in members]
        moves = [_switch.Move((handle.type,), handle.fileno(), "there") for handle in handles]
        if filtered:
            forbid("setns", (0, handles[1].fileno()), errnum=errno.EBUSY)
        before, home, there = everything(), position(), {**all_ns(child), "cwd": same_id("/")}
        answer = failure(lambda: _switch.enter("us", _switch.plan(moves)))
        answer["changed"] = changes(before, everything())
        answer["stays"] = [name for name in changes(home, position()) if position()[name] == there[name]]
        answer["again"] = failure(handles[0].__enter__)
        for handle in handles:
            handle.close()
    return answer


@pytest.mark.parametrize("type", ENTERABLE)
def test_a_failure_half_way_is_rolled_back(root: Runner, type: str) -> None:
    """Where the second of two targets cannot be entered, the first has been left again, root and cwd restored."""
    answer = root(move_twice, type, True)
    assert answer["errno"] == errno.EBUSY
    assert "NamespaceRestoreError" not in answer["classes"]
    assert answer["changed"] == []
    assert answer["again"] == {}


@pytest.mark.parametrize("type", ["uts", "mnt"])
def test_a_failure_half_way_that_cannot_be_undone_says_so(root: Runner, type: str) -> None:
    """From whichever setns on all fail: the thread is where it was, or is told to be lost, and then enters no more."""
    lost = 0
    for call in range(1, 9):
        answer = root(
            move_twice,
            type,
            False,
            under=(tool("strace"), "-f", "-qq", "-o", "/dev/null", "-e", f"inject=setns:error=EPERM:when={call}+"),
        )
        if "classes" not in answer:  # both moves came before that call
            break
        assert "fds" not in answer["changed"]
        assert answer["errno"] == errno.EPERM
        if "NamespaceRestoreError" not in answer["classes"]:
            assert answer["changed"] == []
            continue
        stays = {"mnt": ["mnt", "cwd"]}.get(type, [type])
        assert set(answer["stays"]) <= set(stays)
        lost += answer["stays"] == stays
        assert "going back after: " in answer["text"]
        assert "NamespaceRestoreError" in answer["again"]["classes"]
        assert answer["again"]["step"] == "check"
    else:
        raise AssertionError("never went through")
    assert lost >= 1


# ---- going back fails ----


@pytest.mark.parametrize("way", ["enter", "handle"])
@pytest.mark.parametrize("type", ENTERABLE)
def test_a_thread_that_cannot_go_back_is_lost_and_no_other(root: Runner, type: str, way: str) -> None:
    """NamespaceRestoreError says what and where; the thread stays inside and enters nothing more; others go on."""

    def body(type: str, way: str) -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            handle, there = nsapi.open(child, type), all_ns(child)
            name = "pid_for_children" if type == "pid" else type

            given: list[nsapi.NamespaceHandle] = []

            def use(context: Any, then: Callable[[], object] = int) -> bool:
                with context as entered:
                    given.append(entered)
                    inside = ns(name) == there[name]
                    then()
                return inside and ns(name) != there[name]

            def work() -> Any:
                context: Any = handle if way == "handle" else nsapi.enter(child, type, unshare_fs=True)
                use(handle.enter(unshare_fs=True))
                before = fds()
                answer = failure(lambda: use(context, drop_all_capabilities))
                answer["fds"] = before == fds()
                answer["stays"] = ns(name) == there[name]
                answer["open"] = not failure(given[-1].fileno)
                answer["again"] = [
                    failure(lambda: nsapi.enter("/proc/self/ns/uts").__enter__()),
                    failure(handle.__enter__),
                    failure(handle.enter(unshare_fs=True).__enter__),
                ]
                return answer

            answer = in_thread(work)
            answer["others"] = [in_thread(lambda: use(handle.enter(unshare_fs=True))) for _ in range(3)]
            answer["others"].append(use(handle.enter(unshare_fs=True)))
            handle.close()
        return answer

    answer = root(body, type, way)
    assert "NamespaceRestoreError" in answer["classes"]
    assert answer["open"] == (way == "handle")
    assert "PermissionError" in answer["classes"]
    assert answer["errno"] == errno.EPERM
    assert answer["step"] == f"return to the {type} namespace of before"
    assert "let it end" in answer["text"]
    assert answer["stays"]
    assert answer["fds"]
    for again in answer["again"]:
        assert "NamespaceRestoreError" in again["classes"]
        assert again["step"] == "check"
        assert "lost" in again["text"]
    assert answer["others"] == [True] * 4


@pytest.mark.parametrize("type", ENTERABLE)
def test_a_process_that_makes_a_user_namespace_inside_cannot_go_back(root: Runner, type: str) -> None:
    """The kernel lets nobody out of a user namespace: that is told, not passed over."""

    def body(type: str) -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)

            def use() -> None:
                with nsapi.enter(child, type):
                    nsapi.unshare("user")

            return failure(use)

    answer = root(body, type)
    assert "NamespaceRestoreError" in answer["classes"]
    assert answer["errno"] == errno.EPERM
    assert type in answer["text"]


def test_one_type_that_cannot_be_left_does_not_keep_the_others(root: Runner) -> None:
    """Every type is tried, whatever became of the one before; the error names the one that has failed."""

    def body() -> Any:
        answers = []
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)

            def work(stuck: str) -> Any:
                os.chdir("/tmp")
                member = nsapi.NamespaceType.parse(stuck)

                def use() -> None:
                    with nsapi.enter(child, *ENTERABLE, unshare_fs=True):
                        forbid("setns", (1, member.flag), errnum=errno.EBUSY)

                before, table = position(), fds()
                answer = failure(use)
                return [stuck, answer["step"], answer["classes"], changes(before, position()), table == fds()]

            for stuck in ENTERABLE:
                answers.append(in_thread(lambda: work(stuck)))
        return answers

    for stuck, step, classes, changed, closed in root(body):
        assert "NamespaceRestoreError" in classes
        assert step == f"return to the {stuck} namespace of before"
        assert changed == {"pid": ["pid_for_children"], "mnt": ["mnt", "cwd"]}.get(stuck, [stuck])
        assert closed


def test_root_and_cwd_that_cannot_be_restored_are_told(root: Runner) -> None:
    """Back in its mount namespace but not at its root and cwd, the thread is lost too."""

    def body() -> Any:
        os.chdir("/tmp")
        with unshared("--mount") as process:

            def use() -> None:
                with nsapi.enter(process, "mnt"):
                    forbid("chroot")

            before = position()
            answer = failure(use)
            answer["changed"] = changes(before, position())
            answer["again"] = failure(lambda: nsapi.enter(process, "mnt").__enter__())
        return answer

    answer = root(body)
    assert "NamespaceRestoreError" in answer["classes"]
    assert answer["step"] == "return to root and cwd of before"
    assert answer["changed"] == ["cwd"]
    assert "NamespaceRestoreError" in answer["again"]["classes"]


@pytest.mark.parametrize("way", ["enter", "handle"])
def test_the_bodys_own_error_is_told_with_the_one_of_going_back(root: Runner, way: str) -> None:
    """Who reads the traceback sees both: what the block raised, and that the thread is lost."""

    def body(way: str) -> Any:
        import traceback

        with unshared("--uts", "--net") as process:
            handle, problem = nsapi.open(process, "uts"), KeyError("the body's own")

            def work() -> Any:
                try:
                    with handle if way == "handle" else nsapi.enter(process, "uts", "net"):
                        drop_all_capabilities()
                        raise problem
                except nsapi.NamespaceRestoreError as error:
                    text = "".join(traceback.format_exception(error))
                    return [problem in (error.__cause__, error.__context__), text]
                return []

            answer = in_thread(work)
            handle.close()
        return answer

    chained, text = root(body, way)
    assert chained
    assert text.index("the body's own") < text.index("return to the uts namespace of before")


def test_a_lost_thread_still_tries_to_leave_the_outer_blocks(root: Runner) -> None:
    """Of nested blocks those are left that can be."""

    def body() -> Any:
        with unshared("--uts", "--net") as process:
            before = position()

            def use() -> None:
                with nsapi.enter(process, "uts"), nsapi.enter(process, "net"):
                    forbid("setns", (1, nsapi.NamespaceType.NET.flag))

            answer = failure(use)
            return [answer["step"], changes(before, position())]

    assert root(body) == ["return to the net namespace of before", ["net"]]


@pytest.mark.parametrize("type", ["net", "uts", "ipc", "cgroup", "mnt", "pid"])
def test_who_could_not_come_back_is_refused_at_the_door(user: Runner, type: str) -> None:
    """In a user namespace that does not own the caller's namespace of that type, going there would be one-way."""

    def body(type: str) -> Any:
        new = {"mnt": ["--mount"], "pid": ["--pid", "--fork"]}.get(type, [f"--{type}"])
        os.chdir("/tmp")
        with unshared(*new) as process:
            target, before = only_child(process.pid) if type == "pid" else process.pid, everything()
            handle = nsapi.open(target, type)

            def use(context: Any) -> None:
                with context:
                    pass

            answer = failure(lambda: use(nsapi.enter(target, type)))
            answer["changed"] = changes(before, {**everything(), "fds": before["fds"]})
            answer["handle"] = failure(lambda: use(handle))
            answer["threads"] = failure(lambda: in_thread(lambda: use(handle.enter(unshare_fs=True))))
            handle.close()
        return answer

    answer = user(body, type, under=("unshare", "--map-root-user"))
    assert answer["changed"] == []
    for each in (answer, answer["handle"], answer["threads"]):
        assert each["errno"] == errno.EPERM
        assert "PermissionError" in each["classes"]
        assert "NamespaceRestoreError" not in each["classes"]
        assert type in each["text"]


# ---- leaving in the wrong order, or elsewhere ----


@pytest.mark.parametrize("way", ["enter", "several", "handle", "handle.enter"])
def test_leaving_out_of_order_or_in_another_thread_is_refused_and_changes_nothing(root: Runner, way: str) -> None:
    """A RuntimeError, and whoever leaves in the right order and thread afterwards still gets home."""

    def body(way: str) -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            handles = [nsapi.open(child, type) for type in ("uts", "net")]
            pairs: dict[str, list[Any]] = {
                "enter": [nsapi.enter(child, "uts"), nsapi.enter(child, "net")],
                "several": [nsapi.enter(child, "uts", "ipc"), nsapi.enter(child, "net", "cgroup")],
                "handle": handles,
                "handle.enter": [handle.enter() for handle in handles],
            }
            outer, inner = pairs[way]

            def leave(context: Any) -> Any:
                return failure(lambda: context.__exit__(None, None, None))

            def where() -> Any:
                return {**position(), "fds": fds()}

            before, answer = where(), {"never entered": leave(outer)}
            outer.__enter__()
            inner.__enter__()
            inside = where()
            answer["out of order"] = leave(outer)
            answer["another thread"] = in_thread(lambda: leave(inner))
            answer["changed"] = changes(inside, where())
            answer["right"] = [leave(inner), leave(outer)]
            answer["left"] = changes(before, where())
            answer["twice"] = leave(outer)
            answer["still"] = changes(before, where())
            for handle in handles:
                handle.close()
        return answer

    answer = root(body, way)
    for wrong in ("never entered", "out of order", "another thread", "twice"):
        assert "RuntimeError" in answer[wrong]["classes"], wrong
        assert "out of order, or in another thread" in answer[wrong]["text"]
    assert answer["changed"] == answer["left"] == answer["still"] == []
    assert answer["right"] == [{}, {}]


def test_a_handle_may_be_closed_inside_its_own_block(root: Runner) -> None:
    """The way back does not need it."""

    def body() -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child, before, answers = only_child(parent.pid), position(), []
            for block in (nsapi.open(child, "net"), nsapi.enter(child, "net"), nsapi.enter(child, "uts", "mnt")):
                table = len(fds())
                with block as entered:
                    for handle in [entered] if isinstance(entered, nsapi.NamespaceHandle) else entered:
                        handle.close()
                answers.append([changes(before, position()), len(fds()) - table])
        return answers

    assert root(body) == [[[], -1], [[], 0], [[], 0]]


def test_one_context_manager_serves_several_threads(root: Runner) -> None:
    """What enter() has made may be entered by one thread while another is inside; each leaves its own block."""

    def body() -> Any:
        with unshared("--net") as process:
            context, before = nsapi.enter(process, "net"), fds()
            home, there = ns("net"), ns("net", process.pid)
            with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
                # First in, first out.
                for pool in (first, second):
                    pool.submit(context.__enter__).result()
                left = [failure(first.submit(context.__exit__, None, None, None).result)]
                seen = [first.submit(ns, "net").result() == home, second.submit(ns, "net").result() == there]
                left.append(failure(second.submit(context.__exit__, None, None, None).result))
                seen += [pool.submit(ns, "net").result() == home for pool in (first, second)]
            return [left, seen, fds() == before]

    assert root(body) == [[{}, {}], [True] * 4, True]


def test_a_forked_child_may_leave_too(root: Runner) -> None:
    """A process forked inside a block is inside, and where it leaves the block it is at home; its parent stays."""

    def body() -> Any:
        with unshared("--net", "--uts", "--mount") as process:
            os.chdir("/tmp")
            before = position()
            reader, writer = os.pipe()
            with nsapi.enter(process, "net", "uts", "mnt"):
                inside = position()
                pid = os.fork()
                seen: list[object] = [changes(inside, position())]
                if pid:
                    os.waitpid(pid, 0)
                    seen.append(changes(inside, position()))
            seen.append(changes(before, position()))
            if not pid:
                os.write(writer, json.dumps(seen).encode())
                os._exit(0)
        return [json.loads(os.read(reader, 65536)), seen]

    assert root(body) == [[[], []], [[], [], []]]


# ---- targets ----


def test_enter_takes_every_form_of_target(root: Runner, readable_tmp: pathlib.Path) -> None:
    """What open() takes enter() takes, with the type or, where the target is itself a namespace, without."""
    tool("ip")

    def body(folder: str) -> Any:
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        with unshared("--net") as process:
            subprocess.run(["ip", "netns", "attach", "blue", str(process.pid)], check=True)
            path, home, there = f"/proc/{process.pid}/ns/net", ns("net"), ns("net", process.pid)
            pidfd = os.pidfd_open(process.pid)
            handle, file = nsapi.open(process, "net"), open(path, "rb")
            os.symlink(path, f"{folder}/net")
            with handle:
                inet, unix = socket.socket(), socket.socket(socket.AF_UNIX)

            class File:
                def fileno(self) -> int:
                    return pidfd

            class Process:
                pid = process.pid

            targets: dict[str, Any] = {
                "name": "blue",
                "path": path,
                "bytes": path.encode(),
                "PathLike": pathlib.Path(path),
                "symlink": f"{folder}/net",
                "handle": handle,
                "file": file,
                "socket": inet,
                "unix socket": unix,
                "pid": process.pid,
                "Popen": process,
                "pidfd": File(),
                "object with .pid": Process(),
            }
            seen: dict[str, list[bool]] = {}
            before = fds()
            for name, target in targets.items():
                of_process = target in (process.pid, process) or isinstance(target, (File, Process))
                for words in [("net",), ("network",), *([] if of_process else [()])]:
                    context: Any = nsapi.enter(target, *words)
                    with context as entered:
                        seen.setdefault(name, []).append(ns("net") == there == f"net:[{entered.id[1]}]")
                    seen[name].append(ns("net") == home and fds() == before)
            handle.close()
            for each in (file, inet, unix):
                each.close()
        return seen

    seen = root(body, str(readable_tmp))
    assert len(seen) == 13
    for name, answers in seen.items():
        processes = ("pid", "Popen", "pidfd", "object with .pid")
        assert answers == [True] * (4 if name in processes else 6), name


@pytest.mark.parametrize("target", [1, os.getpid()], ids=["1", "self"])
def test_a_pid_without_type_is_refused_at_the_call(target: int) -> None:
    """A process has a namespace of each type: TypeError, naming those that can be entered and no others."""
    with pytest.raises(TypeError, match=f"^types: process {target} has .* ipc, uts, net, pid, mnt, cgroup$"):
        nsapi.enter(target)


@pytest.mark.parametrize(
    ("target", "types", "error", "words"),
    [
        (1, ("user",), nsapi.NamespaceError, "use run or Popen"),
        (1, ("time", "net"), nsapi.NamespaceError, "use run or Popen"),
        (1, ("net", "net"), ValueError, "given twice"),
        (1, ("nut",), ValueError, "'nut' is no namespace type"),
        (1, (7,), TypeError, "7 is no namespace type"),
        (1, (None,), TypeError, "None is no namespace type"),
        (1, (["net", "uts"],), TypeError, "is no namespace type"),
        ("blue", ("uts",), ValueError, "the name 'blue' is that of a net namespace"),
        ("blue", ("net", "uts"), ValueError, "is one namespace, and net,uts were asked for"),
        ("/proc/self/ns/net", ("net", "uts"), ValueError, "is one namespace"),
        (b"/proc/self/ns/net", ("net", "uts"), ValueError, "is one namespace"),
        (pathlib.Path("/proc/self/ns/net"), ("net", "uts"), ValueError, "is one namespace"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_at_the_call(target: Any, types: Any, error: Any, words: str) -> None:
    """Before the block, and before any system call, naming what is wrong."""
    with pytest.raises(error, match=re.escape(words)):
        nsapi.enter(target, *types)


ENTER_REFUSALS = {
    "Popen without type": ("TypeError", None, "ipc, uts, net, pid, mnt, cgroup"),
    "pidfd without type": ("TypeError", None, "ipc, uts, net, pid, mnt, cgroup"),
    "handle, two types": ("ValueError", None, "is one namespace"),
    "handle, wrong type": ("NamespaceError", errno.EINVAL, "it is a net namespace, and uts was asked for"),
    "closed handle": ("ValueError", None, "closed"),
    "closed handle, type": ("ValueError", None, "closed"),
    "with closed handle": ("ValueError", None, "closed"),
    "closed handle.enter()": ("ValueError", None, "closed"),
    "file, two types": ("NamespaceError", errno.EINVAL, "it is a net namespace, and uts was asked for"),
    "path, wrong type": ("NamespaceError", errno.EINVAL, "it is a net namespace, and mnt was asked for"),
    "socket, wrong type": ("NamespaceError", errno.EINVAL, "it is a net namespace, and ipc was asked for"),
    "plain file": ("NamespaceError", errno.EINVAL, "it is no namespace"),
    "missing path": ("FileNotFoundError", errno.ENOENT, "/missing"),
    "missing name": ("FileNotFoundError", errno.ENOENT, "never creates"),
    "dead pid": ("ProcessLookupError", errno.ESRCH, "has ended"),
    "dead pid, several": ("ProcessLookupError", errno.ESRCH, "has ended"),
    "waited Popen": ("ProcessLookupError", errno.ESRCH, "ended with 0"),
    "zombie": ("ProcessLookupError", errno.ESRCH, "has ended"),
    "pid 0": ("ValueError", None, "0 is no pid"),
    "None": ("TypeError", None, "None"),
    "bool": ("TypeError", None, "True"),
}


@pytest.fixture(scope="module")
def refusals(root: Runner) -> Any:
    """Each once to look at the error, 100 times to look at what is left behind."""

    def body() -> Any:
        here, closed = nsapi.current("net"), nsapi.current("net")
        closed.close()
        ended, zombie = subprocess.Popen(["true"]), subprocess.Popen(["true"])
        ended.wait()
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        waiting = subprocess.Popen(["sleep", "1000"])
        file, plain, inet, pidfd = open("/proc/self/ns/net"), open("/dev/null"), socket.socket(), os.pidfd_open(1)

        class File:
            def fileno(self) -> int:
                return pidfd

        ways: dict[str, tuple[Any, ...]] = {
            "Popen without type": (waiting,),
            "pidfd without type": (File(),),
            "handle, two types": (here, "net", "uts"),
            "handle, wrong type": (here, "uts"),
            "closed handle": (closed,),
            "closed handle, type": (closed, "net"),
            "file, two types": (file, "net", "uts"),
            "path, wrong type": ("/proc/self/ns/net", "mnt"),
            "socket, wrong type": (inet, "ipc"),
            "plain file": (plain, "net"),
            "missing path": ("/missing", "net"),
            "missing name": ("missing-name",),
            "dead pid": (ended.pid, "net"),
            "dead pid, several": (ended.pid, "net", "uts"),
            "waited Popen": (ended, "net"),
            "zombie": (zombie, "net", "uts"),
            "pid 0": (0, "net"),
            "None": (None, "net"),
            "bool": (True, "net"),
        }
        calls: dict[str, Callable[[], object]] = {
            name: lambda name=name: nsapi.enter(*ways[name]).__enter__()  # type: ignore[misc]
            for name in ways
        }
        calls |= {"with closed handle": closed.__enter__, "closed handle.enter()": closed.enter().__enter__}
        refused = {}
        for name, call in calls.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                refused[name], before = failure(call), everything()
                for _ in range(100):
                    failure(call)
                warned = [str(each.message) for each in caught]
                caught.clear()  # each holds its source
                refused[name] |= {"changed": changes(before, everything()), "warned": warned}
        waiting.kill()
        for process in (waiting, zombie):
            process.wait()
        here.close()
        for each in (file, plain, inet):
            each.close()
        return refused

    return root(body)


@pytest.mark.parametrize("way", ENTER_REFUSALS)
def test_a_block_that_cannot_begin_says_why_and_leaves_nothing(refusals: Any, way: str) -> None:
    """The class and errno a caller can act upon, words that he understands, nothing changed and nothing left open."""
    raised, errnum, words = ENTER_REFUSALS[way]
    answer = refusals[way]
    assert raised in answer["classes"], answer
    assert answer["errno"] == errnum
    assert words in answer["text"]
    assert answer["changed"] == []
    assert answer["warned"] == []
    assert sorted(refusals) == sorted(ENTER_REFUSALS)


def test_a_user_without_privilege_is_told_what_it_takes(user: Runner) -> None:
    """EPERM, the step, the target and CAP_SYS_ADMIN; nothing has changed."""

    def body() -> Any:
        answers = []
        with ready("sh", "-c", "echo ready; exec sleep 1000") as process:
            for type in ENTERABLE:
                handle, before = nsapi.open(process, type), everything()
                for way in (lambda: nsapi.enter(process, type).__enter__(), handle.__enter__):
                    answer = failure(way)
                    changed = changes(before, everything())
                    answers.append([type, answer["classes"], answer["step"], answer["text"], changed])
                handle.close()
        return answers

    answers = user(body, under=())
    assert len(answers) == 12
    for type, classes, step, text, changed in answers:
        assert "PermissionError" in classes
        assert "NamespaceRestoreError" not in classes
        assert type in step
        assert "CAP_SYS_ADMIN" in text
        assert changed == []


# ---- scarcity ----


def test_entering_without_free_file_descriptors_fails_whole(root: Runner) -> None:
    """Wherever on the way the limit is met: EMFILE, nothing changed; and leaving needs no fd at all."""

    def body() -> Any:
        import resource

        errors: list[Any] = []
        os.chdir("/tmp")
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            handle = nsapi.open(child, "mnt")
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            before, free = everything(), max(fds()) + 1
            for use in (lambda: nsapi.enter(child, "net", "mnt", "pid"), handle.enter, lambda: handle):
                for spare in range(20):
                    resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, hard))
                    try:
                        with use():
                            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
                        errors.append("entered")
                        break
                    except OSError as error:
                        errors.append(error.errno)
                    finally:
                        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                        errors += changes(before, everything())
            handle.close()
        return errors

    errors = root(body)
    assert errors.count("entered") == 3
    assert {error for error in errors if error != "entered"} == {errno.EMFILE}
    assert len(errors) > 9


# ---- mnt: the trap, root, cwd and umask ----


def visit_a_mount_namespace(way: str) -> Any:
    """In the child: what another thread sees while this one is in a mount namespace with /mnt/marker, and afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir("/tmp")
    script = "mount -t tmpfs none /mnt; touch /mnt/marker; echo ready; exec sleep 1000"
    with ready("unshare", "--mount", "--uts", "sh", "-c", script) as process:
        pidfd, there = os.pidfd_open(process.pid), ns("mnt", process.pid)
        handle = nsapi.open(process, "mnt")
        inside, seen = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=30)
        looks: dict[str, object] = {}

        def look() -> Any:
            return [os.path.exists("/mnt/marker"), os.getcwd(), ns("mnt") == there, status("Umask")]

        def stay() -> None:
            looks["thread"] = look()
            inside.wait()
            seen.wait()

        def work() -> None:
            if way == "raw":
                mask = nsapi.NamespaceType.MNT.flag | nsapi.NamespaceType.UTS.flag
                assert libc.setns(pidfd, mask) == 0, ctypes.get_errno()
                stay()
            elif way.startswith("setns"):
                nsapi.setns(handle if way == "setns" else pidfd, way.split()[1:], unshare_fs=True)
                stay()
            else:
                with (
                    handle.enter(unshare_fs=True)
                    if way == "handle"
                    else nsapi.enter(process, *way.split(), unshare_fs=True)
                ):
                    stay()
                looks["thread after"] = look()

        before = look()
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait()
        looks["others"] = look()
        seen.wait()
        thread.join()
        looks["others after"] = look()
        handle.close()
    return {"before": before, **looks}


@pytest.mark.parametrize("way", ["mnt", "mnt uts", "uts mnt", "handle", "setns", "setns mnt uts", "setns uts mnt"])
def test_the_root_and_cwd_of_other_threads_are_never_touched(root: Runner, way: str) -> None:
    """Alone or with other types, a mount namespace moves the calling thread, and no other resolves a path in it."""
    answer = root(visit_a_mount_namespace, way)
    before = answer["before"]
    assert before[:3] == [False, "/tmp", False]
    assert answer["thread"] == [True, "/", True, before[3]]
    assert answer["others"] == answer["others after"] == before
    assert answer.get("thread after", before) == before


def test_the_kernel_does_touch_them_if_it_is_asked_directly(root: Runner) -> None:
    """The control of the test above: a bare setns with mnt and another type gives every thread the target's root."""
    answer = root(visit_a_mount_namespace, "raw")
    if answer["others"] == answer["before"]:
        pytest.skip("needs a kernel that has the trap; this one closed it")
    assert answer["others"][:3] == [True, "/", False]


def test_they_are_not_touched_for_a_moment_either(root: Runner) -> None:
    """With each call that changes root or cwd drawn out, other threads that look all the time see nothing of it."""

    def body() -> Any:
        os.chdir("/tmp")
        with unshared("--mount", "--uts") as process, ThreadPoolExecutor(1) as pool:

            def work() -> str:
                with nsapi.enter(process, "mnt", "uts", unshare_fs=True):
                    return os.getcwd()

            seen, working = set(), pool.submit(work)
            while not working.done():
                seen.add(f"{os.getcwd()} {os.readlink('/proc/self/root')}")
            return [working.result(), sorted(seen)]

    slow = "inject=fchdir,chroot,setns:delay_exit=10000"
    under = (tool("strace"), "-f", "-qq", "-o", "/dev/null", "-e", "trace=fchdir,chroot,setns", "-e", slow)
    assert root(body, under=under) == ["/", ["/tmp /"]]


def test_mnt_with_other_threads_needs_consent(root: Runner) -> None:
    """Refused in every combination, before anything changes, with the number of threads and the keyword that allows it."""

    def body() -> Any:
        answers: list[Any] = []
        stop, started = threading.Event(), threading.Barrier(3, timeout=30)
        others = [threading.Thread(target=lambda: (started.wait(), stop.wait())) for _ in range(2)]
        for other in others:
            other.start()
        started.wait()
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            handle, pidfd = nsapi.open(child, "mnt"), os.pidfd_open(child)
            ways: dict[str, Callable[[], object]] = {
                "mnt": lambda: nsapi.enter(child, "mnt").__enter__(),
                "mnt uts": lambda: nsapi.enter(child, "mnt", "uts").__enter__(),
                "net mnt": lambda: nsapi.enter(child, "net", "mnt").__enter__(),
                "path": lambda: nsapi.enter(f"/proc/{child}/ns/mnt").__enter__(),
                "handle": handle.__enter__,
                "handle.enter": handle.enter().__enter__,
                "setns": lambda: nsapi.setns(handle),
                "setns mnt": lambda: nsapi.setns(handle, "mnt"),
                "setns mnt uts": lambda: nsapi.setns(pidfd, ("mnt", "uts")),
            }
            before = everything()
            for name, way in ways.items():
                answer = failure(way)
                answers.append([name, answer["errno"], answer["step"], answer["text"], changes(before, everything())])
            handle.close()
        stop.set()
        for other in others:
            other.join()
        return answers

    answers = root(body)
    assert len(answers) == 9
    for name, errnum, step, text, changed in answers:
        assert (errnum, step) == (errno.EINVAL, "check"), name
        assert "this process has 3 threads" in text
        assert "unshare_fs=True" in text
        assert "run or Popen" in text
        assert ("setns(" if name.startswith("setns") else "enter(") in text
        assert changed == []


def test_a_filter_that_forbids_unshare_is_not_taken_for_threads(root: Runner) -> None:
    """As a container's seccomp profile does: EPERM of the step that it forbids, and no talk of threads that are not."""

    def body() -> Any:
        with unshared("--mount") as process:
            forbid("unshare")
            return [failure(nsapi.enter(process, "mnt").__enter__), failure(lambda: nsapi.unshare("user"))]

    for answer, step in zip(root(body), ("unshare fs", "unshare user"), strict=True):
        assert (answer["errno"], answer["step"]) == (errno.EPERM, step)
        assert "thread" not in answer["text"]
        assert step == "unshare fs" or "seccomp" in answer["text"]


def test_consent_is_the_threads_own_and_lasts(root: Runner) -> None:
    """Given once, also by unshare("mnt"), that thread is not asked again; every other thread still is."""

    def body() -> Any:
        with unshared("--mount") as process:
            handle = nsapi.open(process, "mnt")

            def use(context: Any) -> bool:
                with context:
                    return ns("mnt") == ns("mnt", process.pid)

            def again() -> Any:
                before = ns("mnt")
                seen: list[object] = [use(nsapi.enter(process, "mnt")), use(handle), use(handle.enter())]
                other = in_thread(lambda: failure(handle.__enter__)["errno"])
                return [*seen, other, ns("mnt") == before]

            def by_enter() -> Any:
                with nsapi.enter(process, "mnt", unshare_fs=True):
                    pass
                return again()

            def by_unshare() -> Any:
                nsapi.unshare("mnt")
                return again()

            def by_setns() -> Any:
                home = nsapi.current("mnt")
                nsapi.setns(handle, unshare_fs=True)
                nsapi.setns(home)
                home.close()
                return again()

            answer = {way.__name__: in_thread(way) for way in (by_enter, by_unshare, by_setns)}
            answer["net is no consent"] = in_thread(
                lambda: (use(nsapi.enter(process, "net", unshare_fs=True)), failure(handle.__enter__)["errno"])[1]
            )
            handle.close()
        return answer

    answer = root(body)
    assert answer.pop("net is no consent") == errno.EINVAL
    assert answer == {way: [True, True, True, errno.EINVAL, True] for way in ("by_enter", "by_unshare", "by_setns")}


def test_a_thread_with_its_own_fs_keeps_it_for_good(root: Runner) -> None:
    """cwd and umask are this thread's alone from mnt with unshare_fs on, and everybody's without: net splits nothing."""

    def body() -> Any:
        with unshared("--mount", "--net") as process:

            def work(type: str) -> Any:
                with nsapi.enter(process, type, unshare_fs=True):
                    os.umask(0o011)
                os.chdir("/proc")
                return [os.getcwd(), status("Umask")]

            answer: dict[str, object] = {}
            for type in ("mnt", "net"):
                os.chdir("/tmp")
                os.umask(0o022)
                answer[type] = [in_thread(lambda: work(type)), os.getcwd(), status("Umask")]
        return answer

    assert root(body) == {
        "mnt": [["/proc", "0011"], "/tmp", "0022"],
        "net": [["/proc", "0011"], "/proc", "0011"],
    }


def test_a_process_that_shares_root_and_cwd_with_ours_is_not_touched_either(root: Runner) -> None:
    """clone(CLONE_FS) shares them between processes, where each has one thread; the trap is there too, and avoided."""

    def body() -> Any:
        libc = ctypes.CDLL(None, use_errno=True)
        os.chdir("/tmp")
        script = "mount -t tmpfs none /mnt; touch /mnt/marker; echo ready; exec sleep 1000"
        with ready("unshare", "--mount", "--uts", "sh", "-c", script) as process:
            asked, ask = os.pipe()
            told, tell = os.pipe()
            clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
            pid = libc.syscall(clone, 0x200 | signal.SIGCHLD, 0, 0, 0, 0)
            if pid == 0:
                while os.read(asked, 1) == b"?":
                    os.write(tell, json.dumps([os.path.exists("/mnt/marker"), os.getcwd()]).encode())
                os._exit(0)
            assert pid > 0

            def look() -> object:
                os.write(ask, b"?")
                return json.loads(os.read(told, 4096))

            os.chdir("/proc")
            shared = look()
            with nsapi.enter(process, "mnt", "uts"):
                inside, mine = look(), [os.path.exists("/mnt/marker"), os.getcwd()]
            after = look()
            os.write(ask, b".")
            os.waitpid(pid, 0)
        return [shared, inside, mine, after, os.getcwd()]

    assert root(body) == [[False, "/proc"], [False, "/proc"], [True, "/"], [False, "/proc"], "/proc"]


@pytest.mark.parametrize("threaded", [False, True], ids=["alone", "threads"])
@pytest.mark.parametrize("case", ["chroot", "chroot, cwd outside", "cwd deleted", "cwd unmounted", "cwd below"])
def test_root_and_cwd_are_the_old_ones_afterwards(
    root: Runner, readable_tmp: pathlib.Path, case: str, threaded: bool
) -> None:
    """Not the root of the mount namespace, where setns(2) puts both: a chroot is not escaped, a cwd not lost."""

    def body(folder: str, case: str, threaded: bool) -> Any:
        os.makedirs(f"{folder}/jail/below")
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        with unshared("--mount", "--net") as process:
            proc, fd_table = os.open("/proc", os.O_PATH), os.open("/proc/self/fd", os.O_RDONLY)

            def look() -> Any:
                try:
                    cwd = os.getcwd()
                except FileNotFoundError:
                    cwd = "deleted"
                mnt = os.readlink("thread-self/ns/mnt", dir_fd=proc)
                return [mnt, same_id("/"), same_id("."), cwd, sorted(os.listdir("/"))]

            def work() -> Any:
                os.chdir(f"{folder}/jail/below")
                if case == "cwd deleted":
                    os.rmdir(f"{folder}/jail/below")
                elif case == "cwd unmounted":
                    subprocess.run(["mount", "-t", "tmpfs", "none", f"{folder}/jail/below"], check=True)
                    os.chdir(f"{folder}/jail/below")
                    subprocess.run(["umount", "-l", f"{folder}/jail/below"], check=True)
                elif case == "chroot":
                    os.chroot(f"{folder}/jail")
                elif case == "chroot, cwd outside":
                    os.chdir("/tmp")
                    os.chroot(f"{folder}/jail")
                before, table = look(), os.listdir(fd_table)
                with nsapi.enter(process, "mnt", unshare_fs=threaded):
                    inside = look()
                    os.chdir("proc")
                with nsapi.enter(process, "net", "mnt", unshare_fs=threaded):
                    pass
                return [before, inside, look(), table == os.listdir(fd_table)]

            answer = in_thread(work) if threaded else work()
            return [*answer, look()]

    before, inside, after, no_leak, others = root(body, str(readable_tmp), case, threaded)
    assert inside[0] != before[0]
    assert inside[3] == "/"
    assert after == others == before
    assert no_leak


def test_a_cwd_that_could_not_be_entered_again_is_refused_at_the_door(
    root: Runner, user_python: str, readable_tmp: pathlib.Path
) -> None:
    """Where a process may be in a directory but not go there (another's, on a root-squashed share): EACCES, unmoved."""
    root = Equipped(Runner(root.name, user_python, [], "", root.library))

    def body(folder: str) -> Any:
        os.mkdir(f"{folder}/sealed", 0o700)
        os.chdir(f"{folder}/sealed")
        os.setgroups([])
        os.setresgid(61234, 61234, 61234)
        os.setresuid(61234, 61234, 61234)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable again: else /proc/self/uid_map is root's
        nsapi.unshare("user", "mnt", "net")
        for name, text in (("setgroups", "deny"), ("uid_map", "0 61234 1"), ("gid_map", "0 61234 1")):
            pathlib.Path(f"/proc/self/{name}").write_text(text)
        with unshared("--mount", "--net") as process:
            before = everything()
            answer = failure(lambda: nsapi.enter(process, "net", "mnt").__enter__())
            answer["changed"] = changes(before, everything())
            with nsapi.enter(process, "net"):
                answer["cwd"] = os.getcwd()
            os.chdir("/")
            with nsapi.enter(process, "net", "mnt"):
                answer["inside"] = ns("mnt") == ns("mnt", process.pid)
        return answer

    answer = root(body, str(readable_tmp))
    assert "PermissionError" in answer["classes"]
    assert answer["errno"] == errno.EACCES
    assert "to return to" in answer["step"] or "can be returned to" in answer["step"]
    assert "process" not in answer["text"]  # advice about another user's process is for other steps
    assert answer["changed"] == []
    assert answer["cwd"] == f"{readable_tmp}/sealed"
    assert answer["inside"]


def test_nothing_is_imported_from_inside_a_mount_namespace(root: Runner) -> None:
    """Modules found there would be the target's. What has been used before, nsapi's verbs, loads nothing more inside."""

    def body() -> Any:
        code = """if True:
            import os, sys
            import nsapi
            from nsapi import NamespaceError, current, enter, open, setns, unshare
            pid, pidfd = int(sys.argv[1]), os.pidfd_open(int(sys.argv[1]))
            class File:
                def fileno(self):
                    return pidfd
            class Process:
                def __init__(self, pid):
                    self.pid = pid
            handle = open(pid, "uts")
            def use(context):
                with context:
                    pass
            def refuse(call):
                try:
                    call()
                except (NamespaceError, TypeError, ValueError):
                    return
                raise AssertionError("works by mistake")
            loaded = {}
            with enter(pid, "mnt"):
                for name, verb in {
                    "enter": lambda: use(enter(pid, "uts", "net")),
                    "with handle": lambda: use(handle),
                    "handle.enter": lambda: use(handle.enter()),
                    "object": lambda: use(enter(Process(pid), "net")),
                    "pidfd": lambda: use(enter(File(), "net")),
                    "current": lambda: current("uts").close(),
                    "owner": lambda: handle.owner.owner_uid,
                    "setns": lambda: setns(handle, "uts"),
                    "setns pidfd": lambda: setns(pidfd, ("uts", "net")),
                    "unshare": lambda: unshare("uts"),
                    "unshare pid": lambda: unshare("pid"),
                    "unshare twice": lambda: refuse(lambda: unshare("pid")),
                    "wrong type": lambda: refuse(lambda: open(handle, "net")),
                    "no process": lambda: refuse(lambda: use(enter(2**22 + 1, "net"))),
                    "no name": lambda: refuse(lambda: use(enter("missing-name"))),
                    "no namespace": lambda: refuse(lambda: setns(0)),
                    "user": lambda: refuse(lambda: use(enter(pid, "user"))),
                }.items():
                    before = set(sys.modules)
                    verb()
                    loaded[name] = sorted(set(sys.modules) - before)
                before = set(sys.modules)
            handle.close()
            loaded["leaving"] = sorted(set(sys.modules) - before)
            print({name: modules for name, modules in loaded.items() if modules}, len(loaded))
        """
        with unshared("--mount", "--uts", "--net") as process:
            argv = [sys.executable, "-W", "error", "-c", code, str(process.pid)]
            done = subprocess.run(argv, capture_output=True, text=True)
        return [done.stdout, done.stderr]

    assert root(body) == ["{} 18\n", ""]


# ---- pid ----


def test_leaving_goes_back_to_a_pid_namespace_that_has_no_process_yet(root: Runner) -> None:
    """After unshare("pid"), before the first child: a block with pid in between, and the first child is still pid 1."""

    def body() -> Any:
        import fcntl

        pidfd = os.pidfd_open(os.getpid())
        try:
            os.close(fcntl.ioctl(pidfd, PIDFD_GET[5][1]))
        except OSError:
            return ["old kernel"]
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            nsapi.unshare("pid")
            with nsapi.enter(child, "pid", "uts"):
                inside = subprocess.run(["readlink", "/proc/self/ns/pid"], capture_output=True, text=True).stdout
            first = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout
            return [inside.strip() == ns("pid", child), first]

    answer = root(body)
    if answer == ["old kernel"]:
        lacking("Linux 6.11, for the ioctls of a pidfd")
    assert answer == [True, "1\n"]


def test_starting_a_process_in_a_pid_namespace_that_has_died_fails(root: Runner) -> None:
    """The kernel lets nobody be born there (ENOMEM); the thread itself comes back as from any other."""

    def body() -> Any:
        with unshared("--pid", "--fork") as parent:
            child = only_child(parent.pid)
            handle = nsapi.open(child, "pid")
            os.kill(child, signal.SIGKILL)
            parent.wait()
        before = position()
        with handle:
            answer = failure(os.fork)
        handle.close()
        return [answer["errno"], changes(before, position()), subprocess.call(["true"])]

    assert root(body) == [errno.ENOMEM, [], 0]


# ---- older kernels ----


@pytest.mark.parametrize(
    "kernel", ["new", "without the ioctls", "without PIDFD_THREAD", "without pidfd_open", "without any of them"]
)
def test_an_older_kernel_enters_and_leaves_as_exactly(root: Runner, kernel: str) -> None:
    """Also in a thread that has left its process, whose way back is not that of the main thread."""

    def body(kernel: str) -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child = only_child(parent.pid)
            pidfd, there, wrong = os.pidfd_open(child), all_ns(child), []
            handles = {type: nsapi.open(child, type) for type in ENTERABLE}

            class File:
                def fileno(self) -> int:
                    return pidfd

            def check(context: Any, types: list[str]) -> None:
                names = ["pid_for_children" if type == "pid" else type for type in types]
                before, table = position(), fds()
                with context:
                    inside = position()
                if any(inside[name] != there[name] for name in names):
                    wrong.append(["inside", types])
                if changes(before, position()) or table != fds():
                    wrong.append(["after", types, changes(before, position())])

            def work() -> Any:
                nsapi.unshare("ipc", "uts", "net", "mnt", "cgroup")
                os.chdir("/tmp")
                os.umask(0o027)
                if kernel in ("without the ioctls", "without any of them"):
                    answer_enosys(*PIDFD_GET, errnum=25)
                if kernel == "without PIDFD_THREAD":
                    answer_enosys(("pidfd_open", 0o200), errnum=22)
                if kernel in ("without pidfd_open", "without any of them"):
                    answer_enosys(("pidfd_open", None))
                for type in ENTERABLE:
                    check(handles[type], [type])
                    check(handles[type].enter(), [type])
                    check(nsapi.enter(f"/proc/{child}/ns/{type}"), [type])
                    check(nsapi.enter(File(), type), [type])
                    check(nsapi.enter(File(), *ENTERABLE), [*ENTERABLE])
                return wrong

            answer = in_thread(work)
            for handle in handles.values():
                handle.close()
        return answer

    assert root(body, kernel) == []


def test_where_the_way_back_cannot_be_opened_nothing_is_entered(root: Runner) -> None:
    """A filter that knows neither pidfds nor openat2: the error names that step, and nothing has changed."""

    def body() -> Any:
        with unshared("--uts", "--net") as process:
            handle = nsapi.open(process, "uts")
            answer_enosys(*PIDFD_GET, ("openat2", None))
            before = everything()
            answer = failure(handle.__enter__)
            handle.close()
            return [answer["errno"], answer["step"], changes(before, {**everything(), "fds": before["fds"]})]

    assert root(body) == [errno.ENOSYS, "open the uts namespace to return to", []]
