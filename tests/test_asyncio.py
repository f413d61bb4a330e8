"""create_subprocess_exec gives asyncio's Process, started inside and waited for by pidfd; and trio waits for a Popen.

A case is a coroutine that starts programs. It comes out the same whether asyncio starts them or nsapi does.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib.util
import inspect
import os
import resource
import select
import signal
import textwrap
import threading
import warnings
import weakref
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import REPOSITORY, Runner, lacking
from inside import CtrlC, all_ns, at_every_moment, children, end_of, fds, living, ns, waiting_for_all

import nsapi

IMPORTS = """
import asyncio, atexit, gc, inspect, io, resource, select, weakref
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Awaitable, Callable
from pathlib import Path
"""


def left() -> dict[str, object]:
    """What a program that was started could leave in this process; the memfd of the launcher is for the next."""
    open_fds = {fd: where for fd, where in fds().items() if "memfd:nsapi" not in where}
    threads = len(os.listdir("/proc/self/task"))
    handler = signal.getsignal(signal.SIGCHLD)
    return {"children": children(), "fds": open_fds, "threads": threads, "SIGCHLD": str(handler)}


def clean(main: Callable[..., Any], *args: Any) -> Any:
    """Run a coroutine function on a loop of its own; nothing is left of what it started."""
    problems: list[str] = []

    async def noted() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(repr(context)))
        return await main(*args)

    before = left()
    result = asyncio.run(noted())
    after = left()
    assert after == before, (before, after)
    assert problems == []
    return result


def end_children() -> None:
    """Of a body that has ended, also of one that has failed."""
    for pid in children():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def there(anyone: Runner) -> Runner:
    """Runs a body that has the functions above, as root and as a user."""
    return with_helpers(anyone)


@pytest.fixture
def one(user: Runner) -> Runner:
    """The same where privilege makes no difference to the loop."""
    return with_helpers(user)


@pytest.fixture(params=[("root", {}), ("user", {"init": True})], ids=["root", "user-init"])
def each_way(request: pytest.FixtureRequest) -> tuple[Runner, dict[str, Any]]:
    """Who starts programs, and fields of the Config: once without a reaper to wait for, once with."""
    return with_helpers(request.getfixturevalue(request.param[0])), request.param[1]


def with_helpers(runner: Runner, *more: Callable[..., Any]) -> Runner:
    helpers: list[Callable[..., Any]] = [left, clean, end_children, *more]
    sources = "\n".join([*map(inspect.getsource, helpers), "atexit.register(end_children)"])
    return Runner(runner.name, runner.python, runner.prefix, f"{runner.prelude}{IMPORTS}\n{sources}", runner.library)


# ---- as asyncio's ----

Start = Callable[..., Awaitable[Any]]


class Case(NamedTuple):
    expected: object
    source: str


CASES: dict[str, Case] = {}


def case(expected: object) -> Callable[[Callable[[Start], Awaitable[object]]], None]:
    def note(function: Callable[[Start], Awaitable[object]]) -> None:
        source = inspect.getsource(function)
        CASES[function.__name__] = Case(expected, source[source.index("async def") :])

    return note


@case(["Process", True, True, ["StreamWriter", "StreamReader", "StreamReader"], 3, 3])
async def it_is_asyncios_process(start: Start) -> object:
    process = await start("sh", "-c", "read line; exit $line", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    facts = [type(process).__name__, isinstance(process, asyncio.subprocess.Process), process.returncode is None]
    facts.append([type(each).__name__ for each in (process.stdin, process.stdout, process.stderr)])
    process.stdin.write(b"3\n")
    return [*facts, await process.wait(), process.returncode]


@case([None, None, None, None, None, 0])
async def without_pipes_there_are_no_streams(start: Start) -> object:
    process = await start("true")
    streams = [process.stdin, process.stdout, process.stderr]
    return [*streams, *await process.communicate(), process.returncode]


@case([True, True, 0])
async def communicate_moves_megabytes_both_ways(start: Start) -> object:
    data = os.urandom(3 * 2**20)
    process = await start("sh", "-c", "tee /dev/stderr", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate(data)
    return [out == data, err == data, process.returncode]


@case(["b'out\\nerr\\n'", None])
async def stderr_may_go_to_stdout(start: Start) -> object:
    process = await start("sh", "-c", "echo out; echo err >&2", stdout=PIPE, stderr=STDOUT)
    out, err = await process.communicate()
    return [repr(out), err]


@case(["b''", None])
async def devnull_is_empty_and_takes_all(start: Start) -> object:
    process = await start("sh", "-c", "cat; echo err >&2", stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    out, err = await process.communicate()
    return [repr(out), err]


@case([["b'0\\n'", "b'1\\n'", "b'2\\n'"], "b''", 0])
async def a_dialogue_goes_line_by_line(start: Start) -> object:
    process = await start("cat", stdin=PIPE, stdout=PIPE)
    answers = []
    for number in range(3):
        process.stdin.write(f"{number}\n".encode())
        await process.stdin.drain()
        answers.append(repr(await process.stdout.readline()))
    process.stdin.close()
    await process.stdin.wait_closed()
    return [answers, repr(await process.stdout.read()), await process.wait()]


@case([2**21, 0])
async def a_slow_reader_holds_the_writer_back(start: Start) -> object:
    process = await start("sh", "-c", "head -c 2097152 /dev/zero", stdout=PIPE, limit=1000)
    total = 0
    while chunk := await process.stdout.read(100000):
        total += len(chunk)
        await asyncio.sleep(0)
    return [total, await process.wait()]


@case(["ValueError", 0])
async def limit_is_that_of_a_line(start: Start) -> object:
    process = await start("sh", "-c", "head -c 50000 /dev/zero", stdout=PIPE, limit=100)
    try:
        await process.stdout.readline()
        error = ""
    except ValueError as raised:
        error = type(raised).__name__
    await process.stdout.read()
    return [error, await process.wait()]


@case([[-9, -9, -9], -9, "ProcessLookupError", "ProcessLookupError", "ProcessLookupError"])
async def any_number_may_wait_also_afterwards(start: Start) -> object:
    process = await start("sleep", "1000")
    waiting = [asyncio.ensure_future(process.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    process.kill()
    statuses = [*await asyncio.gather(*waiting)]
    errors = []
    for call in (process.kill, process.terminate, lambda: process.send_signal(signal.SIGINT)):
        try:
            call()
        except ProcessLookupError as error:
            errors.append(type(error).__name__)
    return [statuses, await process.wait(), *errors]


@case([-15, -1, 0, 255])
async def statuses_and_signals_are_exact(start: Start) -> object:
    found = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        process = await start("sleep", "1000")
        process.terminate() if number == signal.SIGTERM else process.send_signal(number)
        found.append(await process.wait())
    for status in (0, 255):
        process = await start("sh", "-c", f"exit {status}")
        found.append(await process.wait())
    return found


@case(["TimeoutError", None, -15])
async def waiting_for_a_while_leaves_it_running(start: Start) -> object:
    process = await start("sleep", "1000")
    try:
        await asyncio.wait_for(process.wait(), 0.01)
    except asyncio.TimeoutError:
        state = process.returncode
    process.terminate()
    return ["TimeoutError", state, await process.wait()]


@case(["TimeoutError", -9])
async def after_a_timeout_of_communicate_kill_is_as_usual(start: Start) -> object:
    process = await start("sleep", "1000", stdin=PIPE, stdout=PIPE)
    try:
        await asyncio.wait_for(process.communicate(), 0.01)
    except asyncio.TimeoutError:
        process.kill()
        await process.communicate()
    return ["TimeoutError", process.returncode]


@case(["b'end'", 0])
async def communicate_does_not_mind_a_broken_pipe(start: Start) -> object:
    process = await start("sh", "-c", "exec <&-; printf end", stdin=PIPE, stdout=PIPE)
    out, _ = await process.communicate(b"x" * 2**20)
    return [repr(out), process.returncode]


@case(["ConnectionError", 0])
async def drain_tells_of_a_broken_pipe(start: Start) -> object:
    process = await start("true", stdin=PIPE)
    process.stdin.write(b"x" * 2**20)
    try:
        await process.stdin.drain()
        error = ""
    except ConnectionError:
        error = "ConnectionError"
    return [error, await process.wait()]


@case(["b'kept'", 0])
async def what_was_said_is_read_after_the_end(start: Start) -> object:
    process = await start("sh", "-c", "printf kept", stdout=PIPE)
    status = await process.wait()
    return [repr(await process.stdout.read()), status]


@case(["b'1 value / 5\\n'"])
async def the_keywords_are_subprocesss(start: Start) -> object:
    receive, send = os.pipe()
    os.write(send, b"5\n")
    script = f'read n <&{receive}; echo $(ps -o sess= -p $$ | grep -c "^ *$$$") $NAME $PWD $n'
    keywords = {"env": {"NAME": "value", "PATH": os.environ["PATH"]}, "cwd": "/", "pass_fds": [receive]}
    process = await start("sh", "-c", script, stdout=PIPE, start_new_session=True, **keywords)
    out, _ = await process.communicate()
    os.close(receive)
    os.close(send)
    return [repr(out)]


@case(dict.fromkeys(("universal_newlines", "shell", "text", "encoding", "errors", "bufsize", "limit"), "ValueError"))
async def what_bytes_and_argv_leave_no_choice_of_is_refused(start: Start) -> object:
    values = {"encoding": "utf-8", "errors": "strict", "bufsize": -1, "limit": 0}
    found = {}
    for name in ("universal_newlines", "shell", "text", "encoding", "errors", "bufsize", "limit"):
        try:
            process = await start("true", stdout=PIPE, **{name: values.get(name, True)})
            await process.wait()
        except ValueError as error:
            found[name] = type(error).__name__
    return found


@case(["FileNotFoundError", "TypeError"])
async def a_failing_start_raises(start: Start) -> object:
    found = []
    for argv in (["/no/such/program"], []):
        try:
            await start(*argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        except (FileNotFoundError, TypeError) as error:
            found.append(next(each.__name__ for each in type(error).__mro__ if each.__module__ == "builtins"))
    return found


@case([[0, 1, 2, 3, 4, 5, 6, 7], "b'7'"])
async def several_run_side_by_side(start: Start) -> object:
    argvs = [("sh", "-c", f"read line; printf {number}; exit {number}") for number in range(8)]
    processes = await asyncio.gather(*(start(*argv, stdin=PIPE, stdout=PIPE) for argv in argvs))
    said = await asyncio.gather(*(each.communicate(b"go\n") for each in processes))
    return [[each.returncode for each in processes], repr(said[-1][0])]


def outcomes(sources: dict[str, str], fields: dict[str, Any] | None) -> dict[str, object]:
    """What becomes of each case, with asyncio's own or in namespaces; each on a loop of its own that leaves nothing."""

    def start(*argv: str, **keywords: Any) -> Awaitable[Any]:
        if fields is None:
            return asyncio.create_subprocess_exec(*argv, **keywords)
        types = fields.pop("types", ())
        config = nsapi.Config.new(*types, **fields)
        fields["types"] = types
        return nsapi.create_subprocess_exec(*argv, config=config, **keywords)

    found: dict[str, object] = {}
    for name, source in sources.items():
        scope = dict(globals())
        exec(f"from __future__ import annotations\nStart = None\n{source}", scope)
        before = left()
        found[name] = asyncio.run(asyncio.wait_for(scope[name](start), 60))
        if fields is not None:
            assert left() == before, (name, before, left())
    return found


SOURCES = {name: each.source for name, each in CASES.items()}
EXPECTED = {name: each.expected for name, each in CASES.items()}


@pytest.mark.parametrize(
    "fields",
    [{"types": ["user", "uts"]}, {"types": ["user", "pid", "mnt", "net"], "init": True}],
    ids=["vfork", "launcher"],
)
def test_a_process_in_namespaces_is_as_asyncios(there: Runner, fields: dict[str, Any]) -> None:
    """Streams, communicate, wait, signals, errors, statuses; each case leaves no child, fd, thread or handler."""
    assert there(outcomes, SOURCES, fields) == EXPECTED


#: Where asyncio's own is another on some Pythons.
OWN_WAY = {
    "a_failing_start_raises": "some leave pipes open",
    "what_bytes_and_argv_leave_no_choice_of_is_refused": "a wrong limit is found after the program has started",
    "drain_tells_of_a_broken_pipe": "stdin is a socket, whose buffer may take it all",
    "after_a_timeout_of_communicate_kill_is_as_usual": "stdin is not closed before 3.12",
    "what_was_said_is_read_after_the_end": "wait() waits for the pipes in 3.13.0",
}


def test_the_cases_are_asyncios(root: Runner) -> None:
    """What the table above expects is what this Python's asyncio does."""
    sources = {name: source for name, source in SOURCES.items() if name not in OWN_WAY}
    expected = {name: each for name, each in EXPECTED.items() if name not in OWN_WAY}
    assert with_helpers(root)(outcomes, sources, None) == expected


def test_the_signature_is_asyncios() -> None:
    """The same names with the same defaults; ours besides."""
    theirs, ours = (
        dict(inspect.signature(each).parameters)
        for each in (asyncio.create_subprocess_exec, nsapi.create_subprocess_exec)
    )
    assert inspect.iscoroutinefunction(nsapi.create_subprocess_exec)
    assert ours.keys() - theirs.keys() == {"config", "target", "types", "keywords"}
    for name in theirs.keys() - {"kwds"}:
        assert (ours[name].kind, ours[name].default) == (theirs[name].kind, theirs[name].default), name


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({}, TypeError, "config or target"),
        ({"config": nsapi.Config.new("uts"), "target": 1}, TypeError, "config, target: give one"),
        ({"config": "uts"}, TypeError, "config: 'uts' is no Config"),
        ({"config": nsapi.Config.new("uts"), "text": True}, ValueError, "text: must be False"),
        ({"config": nsapi.Config.new("uts"), "encoding": "utf-8"}, ValueError, "encoding: must be None"),
        ({"config": nsapi.Config.new("uts"), "limit": 0}, ValueError, "limit: 0"),
        ({"config": nsapi.Config.new("uts"), "limit": "1"}, TypeError, "limit: '1'"),
        ({"config": nsapi.Config.new("uts"), "preexec_fn": print}, ValueError, "preexec_fn: no Python can run"),
        ({"config": nsapi.Config(hostname="x")}, ValueError, "hostname: 'x' needs a uts namespace"),
        ({"config": nsapi.Config.new("uts"), "nonsense": 1}, TypeError, "nonsense"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_starts(
    keywords: dict[str, Any], error: type[Exception], words: str
) -> None:
    """The field, as in Popen; where both a field and the program are wrong, too."""

    async def main() -> None:
        before = fds(), children()
        with pytest.raises(error, match=words):
            await nsapi.create_subprocess_exec("/no/such/program", stdin=PIPE, stdout=PIPE, stderr=PIPE, **keywords)
        assert (fds(), children()) == before

    asyncio.run(main())


# ---- inside ----


def test_each_program_is_in_its_own_namespaces_at_the_same_time(there: Runner) -> None:
    """Two on one loop, in two net namespaces; a third joins the first, as `target=process`; the thread stays at home."""

    def body() -> None:
        async def main() -> None:
            home = all_ns()
            config = nsapi.Config.new("user", "net", "uts", hostname="inside")
            both = [await nsapi.create_subprocess_exec("cat", config=config, stdin=PIPE) for _ in range(2)]
            first, second = (ns("net", each.pid) for each in both)
            assert len({first, second, ns("net")}) == 3
            script = "uname -n; readlink /proc/self/ns/net"
            third = await nsapi.create_subprocess_exec("sh", "-c", script, target=both[0], stdout=PIPE)
            assert (await third.communicate())[0].decode().split() == ["inside", first]
            for each in both:
                await each.communicate()
            assert all_ns() == home

        clean(main)

    there(body)


def test_with_init_the_loop_waits_for_the_reaper_too(there: Runner) -> None:
    """terminate() works on a sleep, which is not pid 1; orphans end with it, and are gone when wait() returns."""

    def body() -> None:
        async def main() -> None:
            config = nsapi.Config.new("user", "pid", "mnt", init=True)
            script = "(sleep 1000 & sleep 1000 &); echo; exec sleep 1000"
            process: Any = await nsapi.create_subprocess_exec("sh", "-c", script, config=config, stdout=PIPE)
            assert process.shares_pidns is False
            await process.stdout.readline()
            (init,) = set(children()) - {process.pid}
            assert len(living(init)) == 3
            process.terminate()
            assert await process.wait() == -signal.SIGTERM
            assert children() == []
            assert process.pidfd == -1
            assert not Path(f"/proc/{init}").exists()

        clean(main)

    there(body)


def test_a_reaper_that_has_much_to_do_does_not_hold_up_the_loop(one: Runner) -> None:
    """Between the program's end and its reaper's, other tasks run: that end is waited for by pidfd, not by waitid."""

    def body() -> None:
        async def main() -> None:
            config = nsapi.Config.new("user", "pid", "mnt", init=True)
            process = await nsapi.create_subprocess_exec("cat", config=config, stdin=PIPE)
            pidfds = []
            add_reader = asyncio.get_running_loop().add_reader

            def noted(fd: int, *args: Any) -> None:
                pidfds.append(status_of(fd))
                add_reader(fd, *args)

            def status_of(fd: int) -> int:
                text = Path(f"/proc/self/fdinfo/{fd}").read_text()
                return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pid:"))

            (init,) = set(children()) - {process.pid}
            asyncio.get_running_loop().add_reader = noted  # type: ignore
            await process.communicate()
            assert pidfds == [init]

        clean(main)

    one(body)


def test_failing_steps_come_out_of_the_await(there: Runner) -> None:
    """A NamespaceError with its step, which is also the OSError that asyncio would raise; nothing is left."""

    def body() -> None:
        async def main() -> None:
            calls = [
                ("true", nsapi.Config.new("user", net="/no/such/namespace"), "open /no/such/namespace"),
                ("/no/such/program", nsapi.Config.new("user"), "exec /no/such/program"),
            ]
            for program, config, step in calls:
                before = left()
                failed: object = None
                try:
                    await nsapi.create_subprocess_exec(program, stdin=PIPE, stdout=PIPE, stderr=PIPE, config=config)
                except nsapi.NamespaceError as error:
                    failed = isinstance(error, FileNotFoundError), error.step
                assert failed == (True, step)
                assert left() == before

        clean(main)

    there(body)


def test_it_works_on_the_loop_of_any_thread(one: Runner) -> None:
    """Several loops at once, each in its own thread, none of them the main one's: no watcher, no SIGCHLD."""

    def body() -> list[list[int]]:
        async def main(number: int) -> int:
            config = nsapi.Config.new("user", "uts")
            processes = [
                await nsapi.create_subprocess_exec("sh", "-c", f"read x; exit {number}", config=config, stdin=PIPE)
                for _ in range(5)
            ]
            await asyncio.gather(*(each.communicate() for each in processes))
            found[number] = [each.returncode for each in processes]
            return 0

        before = left()
        found: dict[int, Any] = {}
        threads = [threading.Thread(target=lambda n=n: asyncio.run(main(n))) for n in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            end_of(each)
        assert left() == before
        return [found[number] for number in range(4)]

    assert one(body) == [[number] * 5 for number in range(4)]


def test_no_thread_and_no_child_watcher(one: Runner) -> None:
    """While programs run there is one thread, as before; the policy's watcher was never asked for; SIGCHLD is as it was."""

    def body() -> None:
        async def main() -> None:
            before = left()
            config = nsapi.Config.new("user", "uts")
            process = await nsapi.create_subprocess_exec("cat", config=config, stdin=PIPE, stdout=PIPE)
            waiting = asyncio.ensure_future(process.wait())
            await asyncio.sleep(0)
            now = left()
            assert (now["threads"], now["SIGCHLD"]) == (before["threads"], before["SIGCHLD"])
            assert getattr(asyncio.get_event_loop_policy(), "_watcher", None) is None
            process.kill()
            await waiting

        clean(main)

    one(body)


def test_somebody_else_may_wait_for_all_children(there: Runner) -> None:
    """The end is seen by pidfd, whoever has reaped; the Popen's own poll() may come first as well."""

    def body() -> list[object]:
        async def main() -> list[object]:
            config = nsapi.Config.new("user", "uts")
            process = await nsapi.create_subprocess_exec("sh", "-c", "exit 3", config=config)
            with waiting_for_all("thread"):
                stolen = await process.wait() in (3, 0)  # exact since Linux 6.15
            process = await nsapi.create_subprocess_exec("sh", "-c", "exit 3", config=config)
            popen = process._transport.get_extra_info("subprocess")
            assert popen.wait() == 3
            other = await nsapi.create_subprocess_exec(
                "sh", "-c", "exit 4", config=config
            )  # takes fds that are free now
            return [stolen, await process.wait(), await other.wait()]

        return list(clean(main))

    assert there(body) == [True, 3, 4]


def test_what_keeps_a_status_back_is_waited_for(one: Runner) -> None:
    """A thread that is in the Popen's own poll() just then, a reaper that has been stopped: wait() returns even so."""

    def body() -> list[int]:
        async def main() -> list[int]:
            process: Any = await nsapi.create_subprocess_exec("true", config=nsapi.Config.new("user", "uts"))
            with process._transport.get_extra_info("subprocess")._waitpid_lock:
                select.select([process.pidfd], [], [])
                for _ in range(5):
                    await asyncio.sleep(0)
                assert process.returncode is None
            found = [await asyncio.wait_for(process.wait(), 30)]
            config = nsapi.Config.new("user", "pid", "mnt", init=True)
            process = await nsapi.create_subprocess_exec("cat", config=config, stdin=PIPE)
            (init,) = set(children()) - {process.pid}
            os.kill(init, signal.SIGSTOP)
            process.stdin.close()
            return [*found, await asyncio.wait_for(process.wait(), 30)]

        return list(clean(main))

    assert one(body) == [0, 0]


def test_several_hundred_at_once(one: Runner) -> None:
    """All run at the same time and end at the same time; no fd and no child is left."""

    def body() -> list[int]:
        async def main() -> list[int]:
            config = nsapi.Config.new("user", "uts")
            start = nsapi.create_subprocess_exec
            many = await asyncio.gather(*(start("cat", config=config, stdin=PIPE, stdout=PIPE) for _ in range(250)))
            assert len(set(children())) == 250
            said = await asyncio.gather(*(each.communicate(b"%d" % each.pid) for each in many))
            assert [int(out) for out, _ in said] == [each.pid for each in many]
            assert children() == []
            return [each.returncode or 0 for each in many]

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        return list(clean(main))

    assert one(body) == [0] * 250


def test_too_many_open_files_is_an_error_that_leaves_nothing(there: Runner) -> None:
    """Wherever the fds run out: among the pipes, in the start, or after it, when the program already runs."""

    def body(fields: dict[str, Any]) -> None:
        async def main() -> None:
            config = nsapi.Config.new("user", "pid", "mnt", **fields)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            failures = 0
            for limit in range(3, 100):
                before = left()
                taken = max(fds()) + 1
                fill = [os.open("/dev/null", os.O_RDONLY) for _ in range(taken - len(fds()) - 1)]
                resource.setrlimit(resource.RLIMIT_NOFILE, (taken + limit - 3, hard))
                try:
                    process = await nsapi.create_subprocess_exec(
                        "cat", config=config, stdin=PIPE, stdout=PIPE, stderr=PIPE
                    )
                except OSError as error:
                    if error.errno != errno.EMFILE:
                        raise
                    process = None
                    failures += 1
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                    for fd in fill:
                        os.close(fd)
                if process is not None:
                    await process.communicate()
                assert left() == before, (limit, before, left())
                if process is not None:
                    break
            assert failures >= 6 + 1  # six ends of pipes, the pidfd, its duplicate

        async def first() -> None:
            config = nsapi.Config.new("user", "pid", "mnt", **fields)  # loads what is loaded when it is first used
            await (await nsapi.create_subprocess_exec("true", config=config)).wait()

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1024), min(hard, 1024)))
        clean(first)
        clean(main)

    there(body, {})
    there(body, {"init": True})


# ---- cancelled, forgotten, interrupted ----


def test_a_cancelled_start_kills_and_reaps(each_way: tuple[Runner, dict[str, Any]]) -> None:
    """At each point where it waits, of itself or in a timeout: when CancelledError arrives, nothing is left."""

    runner, fields = each_way

    def body(fields: dict[str, Any]) -> None:
        async def main() -> None:
            config = nsapi.Config.new("user", "pid", "mnt", **fields)
            cancelled = 0
            for steps in range(50):
                before = left()
                start = nsapi.create_subprocess_exec("sleep", "9", config=config, stdin=PIPE, stdout=PIPE, stderr=PIPE)
                task = asyncio.ensure_future(start)
                for _ in range(steps):
                    await asyncio.sleep(0)
                if task.done():
                    async with task.result() as process:
                        process.kill()
                    break
                task.cancel()
                try:
                    await task
                    raise AssertionError("came through")
                except asyncio.CancelledError:
                    cancelled += 1
                assert left() == before, steps
            assert cancelled > 5, cancelled

        clean(main)

    runner(body, fields)


def test_a_cancelled_communicate_kills_and_reaps(one: Runner) -> None:
    """When CancelledError arrives the program is gone; what follows by habit, kill() and communicate(), still works."""

    def body(fields: dict[str, Any]) -> None:
        async def main() -> None:
            config = nsapi.Config.new("user", "pid", "mnt", **fields)
            for steps in range(6):
                before = left()
                process: Any = await nsapi.create_subprocess_exec(
                    "cat", config=config, stdin=PIPE, stdout=PIPE, stderr=PIPE
                )
                keep = os.dup(process.stdin.get_extra_info("pipe").fileno())  # so that it does not end by itself
                task = asyncio.ensure_future(process.communicate(b"x" * 2**20))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    pass
                os.close(keep)
                assert task.cancelled()
                if steps:  # else it has not begun
                    assert left() == before
                    assert process.returncode == -9
                process.kill()
                await process.communicate()
                assert await process.wait() == -9
                assert left() == before

        clean(main)

    one(body, {})
    one(body, {"init": True})


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit"])
def test_what_ends_the_loop_in_communicate_kills_and_reaps(one: Runner, error: str) -> None:
    """As Ctrl-C does before Python 3.11, wherever it comes: when it is raised the program is gone."""

    def body(fields: dict[str, Any], error: str) -> list[Any]:
        import builtins

        async def main() -> list[Any]:
            config = nsapi.Config.new("user", "pid", "mnt", **fields)
            before = left()
            process: Any = await nsapi.create_subprocess_exec(
                "cat", config=config, stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
            keep = os.dup(process.stdin.get_extra_info("pipe").fileno())  # so that it does not end by itself
            talk = process.communicate(b"x" * 2**20)
            talk.send(None)
            try:
                talk.throw(getattr(builtins, error))
            except (KeyboardInterrupt, SystemExit):
                ended = process.returncode
            os.close(keep)
            for _ in range(3):  # the loop closes the pipes
                await asyncio.sleep(0)
            return [ended, left() == before]

        found: list[Any] = clean(main)
        return found

    assert one(body, {}, error) == [-9, True]


def test_a_second_cancellation_does_not_stop_the_reaping(one: Runner) -> None:
    """A start that is ending a program, cancelled again: the loop does the rest; the end of a block waits even so."""

    def body(fields: dict[str, Any]) -> int:
        async def cancel_twice(task: Any) -> bool:
            task.cancel()
            await asyncio.sleep(0)
            waits = not task.done()
            task.cancel()
            await asyncio.wait([task], timeout=30)
            assert task.cancelled()
            return waits

        async def use(process: Any) -> None:
            async with process:
                await process.communicate(b"x" * 2**20)

        async def all_gone(before: object) -> None:
            while left() != before:
                await asyncio.sleep(0.001)

        async def main() -> int:
            config = nsapi.Config.new("user", "pid", "mnt", **fields)
            pipes: dict[str, Any] = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
            waited = 0
            for steps in range(1, 50):
                before = left()
                start = nsapi.create_subprocess_exec("sleep", "1000", config=config, **pipes)
                task: Any = asyncio.ensure_future(start)
                for _ in range(steps):
                    await asyncio.sleep(0)
                if task.done():
                    break
                waited += await cancel_twice(task)
                await asyncio.wait_for(all_gone(before), 30)
            process = task.result()
            task = asyncio.ensure_future(use(process))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            with process._transport.get_extra_info("subprocess")._waitpid_lock:  # so that it is not reaped yet
                for _ in range(2):
                    task.cancel()
                    for _ in range(10):
                        await asyncio.sleep(0)
                assert not task.done()
            await asyncio.wait([task], timeout=30)
            assert task.cancelled()
            assert left() == before
            assert process.returncode == -9
            return waited

        return int(clean(main))

    assert one(body, {}) > 3
    assert one(body, {"init": True}) > 3


def test_a_cancelled_wait_leaves_the_program_to_the_others(one: Runner) -> None:
    """Who waits is not who owns: the other waiters get the status."""

    def body() -> list[int]:
        async def main() -> list[int]:
            config = nsapi.Config.new("user", "uts")
            process: Any = await nsapi.create_subprocess_exec("cat", config=config, stdin=PIPE)
            first, other = (asyncio.ensure_future(process.wait()) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            assert process.returncode is None
            process.stdin.close()
            return [first.cancelled(), await other]

        return list(clean(main))

    assert one(body) == [True, 0]


@pytest.mark.parametrize("ended_by", ["cancel", "timeout", "exception", "itself"])
def test_the_block_of_a_process_leaves_nothing(one: Runner, ended_by: str) -> None:
    """`async with`: an exception or cancellation kills, whatever is awaited inside; its own end waits, as Popen's."""

    def body(ended_by: str) -> list[object]:
        async def use(seen: list[Any], before: object) -> None:
            config = nsapi.Config.new("user", "pid", "mnt", init=True)
            start: Any = nsapi.create_subprocess_exec("cat", config=config, stdin=PIPE, stdout=PIPE)
            try:
                async with await start as process:
                    seen.append(process)
                    if ended_by == "exception":
                        raise LookupError
                    if ended_by != "itself":
                        await process.stdout.readline()
            finally:
                assert left() == before

        async def main() -> list[object]:
            seen: list[Any] = []
            task = asyncio.ensure_future(use(seen, left()))
            while not seen:
                await asyncio.sleep(0.001)
            if ended_by == "cancel":
                task.cancel()
            try:
                await asyncio.wait_for(task, 0.01 if ended_by == "timeout" else None)
                error = ""
            except (asyncio.CancelledError, asyncio.TimeoutError, LookupError) as raised:
                error = type(raised).__name__
            return [error, seen[0].returncode]

        return list(clean(main))

    errors = {"cancel": "CancelledError", "timeout": "TimeoutError", "exception": "LookupError", "itself": ""}
    assert one(body, ended_by) == [errors[ended_by], 0 if ended_by == "itself" else -9]


@pytest.mark.parametrize("unread", [0, 2**20])
def test_stdin_ends_with_the_program_whoever_else_could_read_it(one: Runner, unread: int) -> None:
    """Another process has its read end still: a pipe that was written to in vain is closed, not waited for."""

    def body(unread: int) -> None:
        async def main() -> None:
            before = left()
            config = nsapi.Config.new("user", "uts")
            process: Any = await nsapi.create_subprocess_exec("sleep", "1000", config=config, stdin=PIPE)
            reader = os.open(f"/proc/{process.pid}/fd/0", os.O_RDONLY)
            if unread:
                task = asyncio.ensure_future(process.communicate(b"x" * unread))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task], timeout=30)
                assert task.cancelled()
            else:
                process.kill()
                await process.wait()
                await asyncio.wait_for(process.stdin.wait_closed(), 30)
            os.close(reader)
            assert process.returncode == -9
            assert left() == before

        clean(main)

    one(body, unread)


def test_the_end_of_the_loop_is_the_end_of_its_programs(each_way: tuple[Runner, dict[str, Any]]) -> None:
    """What runs when asyncio.run() returns is killed and reaped by then, with no warning, whoever holds it or nobody."""

    runner, fields = each_way

    def body(fields: dict[str, Any]) -> int:
        async def main() -> Any:
            config = nsapi.Config.new("user", "pid", "mnt", **fields)
            start: Any = nsapi.create_subprocess_exec
            await start("sleep", "1000", config=config, stdin=PIPE, stdout=PIPE, stderr=PIPE)
            await start("sleep", "1000", config=config)
            held = await start("sh", "-c", "while :; do echo; done", config=config, stdout=PIPE, stdin=PIPE)
            held.stdin.write(b"x" * 2**20)  # which nobody will read
            return held

        return int(clean(main).returncode)

    assert runner(body, fields) == -9


def test_a_forgotten_process_runs_on_and_is_reaped(one: Runner) -> None:
    """As asyncio's: the loop holds it, also its pipes; when it has ended nothing of it is left, in memory neither."""

    def body() -> None:
        async def main() -> None:
            before = left()
            config = nsapi.Config.new("user", "uts")
            process: Any = await nsapi.create_subprocess_exec("cat", config=config, stdin=PIPE, stdout=PIPE)
            keep, transport = os.dup(process.stdin.get_extra_info("pipe").fileno()), weakref.ref(process._transport)
            pid = process.pid
            process.stdin.close()
            del process
            gc.collect()
            assert children() == [pid]
            os.close(keep)
            while children():
                await asyncio.sleep(0.001)
            for _ in range(5):
                await asyncio.sleep(0)
            gc.collect()
            assert transport() is None
            assert left() == before

        clean(main)

    one(body)


def test_after_a_loop_closed_by_hand_a_warning_tells_of_what_is_killed(each_way: tuple[Runner, dict[str, Any]]) -> None:
    """Without asyncio.run nobody ends it; when it is collected it warns as asyncio's does, and is killed and reaped."""

    runner, fields = each_way

    def body(fields: dict[str, Any]) -> list[str]:
        async def main() -> Any:
            config = nsapi.Config.new("user", "pid", "mnt", **fields)
            return await nsapi.create_subprocess_exec("sleep", "1000", config=config, stdin=PIPE, stdout=PIPE)

        before = left()
        loop = asyncio.new_event_loop()
        process = loop.run_until_complete(main())
        loop.close()
        assert process.pid in children()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            del process, loop
            gc.collect()
        assert left() == before
        return [str(each.message) for each in told if issubclass(each.category, ResourceWarning)]

    said = runner(body, fields)
    assert any("unclosed transport" in each and "subprocess" in each for each in said), said


def test_ctrl_c_leaves_nothing(each_way: tuple[Runner, dict[str, Any]]) -> None:
    """KeyboardInterrupt comes out of asyncio.run(), wherever it came in, and no program is left."""

    runner, fields = each_way

    def body(fields: dict[str, Any]) -> int:
        async def main() -> None:
            config = nsapi.Config.new("user", "pid", "mnt", **fields)
            while True:
                process = await nsapi.create_subprocess_exec("cat", config=config, stdin=PIPE, stdout=PIPE)
                await process.communicate(b"x")

        async def first() -> None:  # loads what is loaded at first use: an import that is interrupted is not ours
            await (await nsapi.create_subprocess_exec("true", config=nsapi.Config.new("user", "pid", **fields))).wait()

        clean(first)
        warnings.simplefilter("ignore")  # asyncio's own, of what it was making when it was interrupted
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupted = 0
        for number in range(12):
            before = left()
            # Again later: CPython swallows what is raised in a destructor, and main would go on for ever.
            signal.setitimer(signal.ITIMER_REAL, 0.02 + number * 0.0037, 5)
            signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            gc.collect()
            assert left() == before
        return interrupted

    assert runner(body, fields) == 12


def test_ctrl_c_at_any_moment_leaves_nothing(each_way: tuple[Runner, dict[str, Any]]) -> None:
    """Wherever CPython looks for signals while asyncio and nsapi do this: nothing waits for ever, and nothing is left."""
    runner, fields = each_way

    def body(fields: dict[str, Any]) -> Any:
        async def main() -> None:
            config = nsapi.Config.new("user", "pid", **fields)
            process = await nsapi.create_subprocess_exec("cat", config=config, stdin=PIPE, stdout=PIPE)
            await process.communicate(b"x")

        def attempt(ctrl_c: CtrlC) -> list[str]:
            before = left()
            with ctrl_c:
                asyncio.run(main())
            gc.collect()
            return [] if left() == before else ["left"]

        warnings.simplefilter("ignore")  # asyncio's own, of what it was making when it was interrupted
        return at_every_moment(attempt, skip=lambda code, _: not code.co_filename.endswith("/_asyncio.py"))

    moments, wrong = runner(body, fields)
    assert moments > 50
    assert wrong == []


# ---- trio ----


def recipe() -> str:
    """The function for trio that docs/howto shows."""
    page = (REPOSITORY / "docs/howto/subprocess-asyncio.rst").read_text()
    start = page.index("   async def run_in_trio(")
    return textwrap.dedent(page[start : page.index("   print(trio.run", start)])


def test_trio_waits_for_a_popen_by_its_pidfd(root: Runner) -> None:
    """The recipe of the docs: other tasks run meanwhile, cancellation kills, and nothing is left either way."""
    if importlib.util.find_spec("trio") is None:
        lacking("trio, of nsapi[test]")

    def body(recipe: str) -> list[Any]:
        import trio

        scope: dict[str, Any] = {"trio": trio, "nsapi": nsapi}
        exec(recipe, scope)
        run = scope["run_in_trio"]
        found: list[Any] = []

        async def main() -> None:
            config = nsapi.Config.new("user", "pid", "mnt", init=True)
            before = left()
            async with trio.open_nursery() as nursery:
                release, hold = os.pipe()
                nursery.start_soon(lambda: run(["sh", "-c", "read x; exit 3"], found, config=config, stdin=release))
                await trio.sleep(0.01)
                os.write(hold, b"x\n")
            os.close(release)
            os.close(hold)
            assert left() == before
            with trio.move_on_after(0.05) as scope:
                await run(["sleep", "1000"], found, config=config)
            assert scope.cancelled_caught
            assert left() == before

        async def noted(argv: list[str], found: list[Any], **keywords: Any) -> None:
            found.append(await plain(argv, **keywords))

        plain, run = run, noted
        trio.run(main)
        return found

    assert with_helpers(root)(body, recipe()) == [3]
