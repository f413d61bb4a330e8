"""visit: what each step promises, straight from one namespace to the next, and home whatever happens."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Runner, tool
from inside import (
    CtrlC,
    at_every_moment,
    everything,
    failure,
    fds,
    ns,
    only_child,
    unshared,
)
from test_enter import ENTERABLE, NEW_TO_ENTER, Equipped, changes, forbid, in_thread, position

import nsapi


@pytest.fixture(params=["root", "user"])
def anyone(request: pytest.FixtureRequest) -> Runner:
    runner = Equipped(request.getfixturevalue(request.param))
    runner.prelude += "import contextlib\n"
    return runner


@pytest.fixture(scope="session")
def root(root: Runner) -> Runner:
    runner = Equipped(root)
    runner.prelude += "import contextlib\n"
    return runner


# ---- what each step promises ----


def test_each_step_is_inside_and_the_block_ends_at_home(anyone: Runner) -> None:
    """Of each type that can be entered: in every step this thread is in the target's and in no other; then as before."""

    def body() -> Any:
        wrong: list[object] = []
        os.chdir("/tmp")
        with unshared(*NEW_TO_ENTER) as one, unshared(*NEW_TO_ENTER) as two, unshared(*NEW_TO_ENTER) as three:
            pids = [only_child(each.pid) for each in (one, two, three)]
            for type in ENTERABLE:
                name = "pid_for_children" if type == "pid" else type
                before = everything()
                handles = [nsapi.open(pid, type) for pid in pids]
                with_handles = fds()
                seen: list[Any] = []
                for targets in (pids, handles, (pids[0], handles[1], f"/proc/{pids[2]}/ns/{type}"), reversed(pids), []):
                    with nsapi.visit(targets, type) as each:
                        seen.append(changes(before["namespaces"], position()))
                        for target, handle in each:
                            inside = position()
                            expected = {name: f"{type}:[{handle.id[1]}]"}
                            moved = {key: inside[key] for key in changes(before["namespaces"], inside)}
                            if moved != expected or handle.type.proc_name != type:
                                wrong.append([type, repr(target), moved])
                            seen.append([target if isinstance(target, int) else "", handle.id[1]])
                    if fds() != with_handles:
                        wrong.append([type, "fds"])
                ids = [handle.id[1] for handle in handles]
                pairs = [list(pair) for pair in zip(pids, ids, strict=True)]
                blank = [["", each] for each in ids]
                rows = [[], *pairs, [], *blank, [], pairs[0], *blank[1:], [], *reversed(pairs), []]
                if seen != rows:
                    wrong.append([type, seen, rows])
                for handle in handles:
                    handle.close()
                wrong += changes(before, everything())
        return wrong

    assert anyone(body) == []


def test_it_goes_straight_from_one_to_the_next(root: Runner, readable_tmp: pathlib.Path) -> None:
    """One setns for each step, none home in between, and one at the end: by handle and by pid alike."""

    def body() -> Any:
        with unshared("--net") as one, unshared("--net") as two, unshared("--net") as three:
            pids = [each.pid for each in (one, two, three)]
            handles = [nsapi.open(pid, "net") for pid in pids]
            with handles[0]:
                pass  # this thread can come back, and has shown it
            for targets in (pids, handles):
                with nsapi.visit(targets, "net") as each:
                    for _ in each:
                        pass
            for handle in handles:
                handle.close()
        return None

    log = readable_tmp / "log"
    root(body, under=(tool("strace"), "-f", "-qq", "-e", "trace=setns", "-e", "signal=none", "-o", str(log)))
    calls = [line for line in log.read_text().splitlines() if "setns(" in line]
    assert [line for line in calls if "= 0" not in line] == []
    assert len(calls) == 3 + 2 * (3 + 1)  # entering tries the way back, goes, returns


def test_what_was_given_stays_open_and_what_was_opened_is_closed_in_turn(root: Runner) -> None:
    """At most one handle of visit's own is open at a time; its end is the next step's turn, or the end of the block."""

    def body() -> Any:
        with unshared("--net") as process:
            given, count = nsapi.open(process, "net"), len(fds()) + 1
            seen: list[Any] = []
            kept = []
            with nsapi.visit(
                [given, process, f"/proc/{process.pid}/ns/net", process.pid, given, process], "net"
            ) as each:
                for target, handle in each:
                    kept.append(handle)
                    seen.append([handle is target, len(fds()) - count])
            seen.append([len(fds()) - count, given.fileno() >= 0])
            closed = [failure(handle.fileno)["classes"][0] if handle is not given else "" for handle in kept]  # type: ignore[index]
            given.close()
        return [seen, closed]

    seen, closed = root(body)
    assert seen == [[True, 0], [False, 1], [False, 1], [False, 1], [True, 0], [False, 1], [-1, True]]
    assert closed == ["", "ValueError", "ValueError", "ValueError", "", "ValueError"]


def test_own_pid_and_proc_self_are_home(root: Runner) -> None:
    """While the main thread is away, so is its process to whoever looks: named as a target it is where it lives."""

    def body() -> Any:
        with unshared("--net") as process:
            home = nsapi.current("net")
            paths = ["/proc/self/ns/net", "/proc/thread-self/ns/net", f"/proc/{os.getpid()}/ns/net"]
            paths += ["//proc/self/ns/net", f"/proc/self/task/{os.getpid()}/ns/net", "./self/ns/net"]
            os.chdir("/proc")
            answers = []

            class Process:
                pid = os.getpid()

            pidfd = os.fdopen(os.pidfd_open(os.getpid()))
            for own in (os.getpid(), Process(), pidfd, *paths, pathlib.Path(paths[0])):
                with nsapi.visit([process, own, process], "net") as each:
                    answers.append([handle == home for _, handle in each])
            home.close()
            pidfd.close()
        return answers

    assert root(body) == [[False, True, False]] * 10


def test_a_mount_namespace_is_looked_up_from_home(root: Runner, readable_tmp: pathlib.Path) -> None:
    """Paths, names and generators mean what they mean outside; root and cwd are the old ones afterwards."""

    def body(folder: str) -> Any:
        os.chdir(folder)
        wrong: list[object] = []

        def make(number: int) -> None:
            nsapi.unshare("mnt")
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
            pathlib.Path(folder, "number").write_text(str(number))

        processes = []
        for number in range(3):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(make, number).result()
                processes.append(pool.submit(subprocess.Popen, ["cat"], stdin=subprocess.PIPE).result())
        for number, process in enumerate(processes):
            os.symlink(f"/proc/{process.pid}/ns/mnt", f"link{number}")
        before = position()
        handle = nsapi.open(processes[1], "mnt")

        def lookup() -> Any:
            for number in range(3):
                assert os.path.islink(f"{folder}/link{number}")  # not to be seen inside
                yield f"./link{number}"

        for targets in (lookup(), [f"{folder}/link0", handle, processes[2].pid]):
            with nsapi.visit(targets, "mnt", unshare_fs=True) as each:
                wrong += changes(before, position())
                for number, _ in enumerate(each):
                    if pathlib.Path(folder, "number").read_text() != str(number) or os.getcwd() != "/":
                        wrong.append(number)
        handle.close()
        wrong += changes(before, position())
        for process in processes:
            process.communicate()
        return wrong

    assert root(body, str(readable_tmp)) == []


def test_mnt_with_other_threads_needs_consent(root: Runner) -> None:
    """As in enter: refused at `with`, before anything changes; one thread's consent is its own."""

    def body() -> Any:
        handle = nsapi.current("mnt")
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        before = everything()

        def use(**consent: bool) -> None:
            with nsapi.visit([handle], "mnt", **consent) as each:
                next(each)

        answers = [
            failure(use),
            changes(before, everything()),
            failure(lambda: in_thread(lambda: use(unshare_fs=True))),
        ]
        stop.set()
        thread.join()
        handle.close()
        return answers

    refused, changed, consented = root(body)
    assert refused["errno"] == errno.EINVAL
    assert "unshare_fs=True" in refused["text"]
    assert changed == []
    assert consented == {}


# ---- nesting ----


def test_visits_and_blocks_nest(anyone: Runner) -> None:
    """A block in a step comes back to that step; a visit in a block to that block; a visit in a visit to its step."""

    def body() -> Any:
        with unshared("--net", "--uts") as one, unshared("--net", "--uts") as two:
            home, before = position(), fds()
            targets = [one, two]
            seen: list[Any] = []
            with nsapi.enter(one, "uts"):
                inside = position()
                with nsapi.visit(targets, "net") as outer:
                    for first, _ in outer:
                        here = position()
                        with nsapi.enter(two, "net", "uts"):
                            seen.append(ns("net") == ns("net", two.pid))
                        seen.append(changes(here, position()))
                        with nsapi.visit(targets, "net") as inner:
                            for second, _ in inner:
                                seen.append(ns("net") == ns("net", second.pid))
                        seen.append(changes(here, position()))
                        seen.append(ns("net") == ns("net", first.pid))
                seen.append(changes(inside, position()))
            seen.append(changes(home, position()))
            seen.append(before == fds())
        return seen

    assert anyone(body) == [*[True, [], True, True, [], True] * 2, [], [], True]


def test_one_visit_serves_again_and_several_threads(root: Runner) -> None:
    """What visit() has made may be entered again, and by many threads at once: each goes its own way."""

    def body() -> Any:
        with unshared("--net") as one, unshared("--net") as two:
            handles = [nsapi.open(each, "net") for each in (one, two)] * 4
            context, home = nsapi.visit(handles, "net"), ns("net")
            together = threading.Barrier(4, timeout=30)

            def work() -> list[object]:
                wrong: list[object] = []
                for _ in range(50):
                    together.wait()
                    with context as each:
                        wrong += [repr(handle) for _, handle in each if ns("net") != f"net:[{handle.id[1]}]"]
                    if ns("net") != home:
                        wrong.append("outside")
                return wrong

            with ThreadPoolExecutor(4) as pool:
                wrong = [done.result() for done in [pool.submit(work) for _ in range(4)]]
            for handle in handles:
                handle.close()
        return wrong

    assert root(body) == [[]] * 4


# ---- the ways out ----


def test_every_way_out_of_the_block_leads_home(anyone: Runner) -> None:
    """Break, return, exceptions of the body and of the targets' code, a generator that is closed: home, and all closed."""

    def body() -> Any:
        with unshared("--net") as process:
            before: dict[str, object] = {**position(), "fds": fds()}
            answers: list[object] = []

            def where() -> list[str]:
                return changes(before, {**position(), "fds": fds()})

            def targets(error: BaseException | None = None) -> Any:
                yield process
                if error is not None:
                    raise error
                yield process.pid

            def by_break() -> None:
                with nsapi.visit(targets(), "net") as each:
                    for _ in each:
                        break
                    answers.append(where() != [])

            def by_return() -> None:
                with nsapi.visit(targets(), "net") as each:
                    for _ in each:
                        return

            def by_error(error: BaseException) -> None:
                with nsapi.visit(targets(), "net") as each:
                    for _ in each:
                        raise error

            def by_targets(error: BaseException) -> None:
                with nsapi.visit(targets(error), "net") as each:
                    for _ in each:
                        pass

            def by_generator() -> None:
                def steps() -> Any:
                    with nsapi.visit(targets(), "net") as each:
                        yield from each

                generator = steps()
                next(generator)
                answers.append(where() != [])
                generator.close()

            def by_signal() -> None:
                with contextlib.suppress(KeyboardInterrupt), nsapi.visit(targets(), "net") as each:
                    for _ in each:
                        signal.raise_signal(signal.SIGINT)

            for way in (by_break, by_return, by_generator, by_signal):
                way()
                answers.append(where())
            for way_of in (by_error, by_targets):
                for error in (KeyError("x"), KeyboardInterrupt(), nsapi.NamespaceError(errno.EINVAL)):
                    try:
                        way_of(error)
                    except BaseException as caught:
                        answers.append([caught is error, where()])
        return answers

    assert anyone(body) == [True, [], [], True, [], [], *[[True, []]] * 6]


def test_after_the_last_step_the_block_is_still_there(root: Runner) -> None:
    """Home is at the end of the block, whether the loop has been broken out of or not."""

    def body() -> Any:
        with unshared("--net") as process:
            home = ns("net")
            with nsapi.visit([process], "net") as each:
                seen = [ns("net") == home]
                for _ in each:
                    pass
                seen.append(ns("net") == ns("net", process.pid))
                seen.append(next(each, None) is None)
            return [*seen, ns("net") == home]

    assert root(body) == [True, True, True, True]


@pytest.mark.parametrize("targets", ["nothing", "handles", "all"])
def test_ctrl_c_at_any_moment_leaves_the_thread_at_home(root: Runner, targets: str) -> None:
    """Wherever in nsapi CPython looks for signals, KeyboardInterrupt finds or brings the thread home.

    As for enter: at the start of a Python function and after a call of a C function, but for the start of ``__exit__``.
    What is saved for the way home is closed, too.
    """

    def body(targets: str) -> Any:
        warnings.simplefilter("ignore")  # handles that the interrupt has left to be collected
        with unshared("--net", "--ipc") as process, unshared("--net") as other:
            handle = nsapi.open(other, "net")
            its_exit = type(nsapi.visit([], "net")).__exit__.__code__

            def use() -> None:
                table: dict[str, list[Any]] = {
                    "nothing": [],
                    "handles": [handle, handle],
                    "all": [process, handle, process.pid, handle],
                }
                with nsapi.visit(table[targets], "net") as each:
                    for _ in each:
                        pass

            def where() -> dict[str, object]:
                return position() if targets == "all" else {**position(), "fds": fds()}

            def attempt(ctrl_c: CtrlC) -> list[object]:
                home = where()
                with nsapi.enter(process, "ipc"):
                    before = where()
                    with ctrl_c:
                        use()
                    wrong: list[object] = list(changes(before, where()))
                wrong += changes(home, where())
                return wrong if ctrl_c.came == ctrl_c.raised else [*wrong, "swallowed"]

            moment, found = at_every_moment(
                lambda ctrl_c: in_thread(lambda: attempt(ctrl_c)),
                skip=lambda code, event: event == "call" and code is its_exit,
            )
            still_open = handle.fileno() >= 0
            handle.close()
        return [moment, found, still_open]

    moments, wrong, still_open = root(body, targets)
    assert moments > 10
    assert wrong == []
    assert still_open


# ---- targets that fail ----

#: What a target is, the class of its error, and words of it.
FAILING: dict[str, tuple[str, str]] = {
    "missing name": ("FileNotFoundError", "missing-name"),
    "missing path": ("FileNotFoundError", "/missing"),
    "dead pid": ("ProcessLookupError", "process"),
    "plain file": ("NamespaceError", "no namespace"),
    "other type": ("NamespaceError", "uts namespace, and net was asked for"),
    "path of other type": ("NamespaceError", "uts namespace, and net was asked for"),
    "closed handle": ("ValueError", "closed"),
    "no target": ("TypeError", "None"),
    "forbidden": ("PermissionError", "setns net of Popen"),
}


def test_a_target_that_fails_is_named_and_the_thread_is_home(root: Runner) -> None:
    """At once, not only at the end of the block; all is closed, and the visit may go on with the target behind it."""

    def body() -> Any:
        def work() -> Any:
            good, denied = nsapi.open(process, "net"), nsapi.open(process, "net")
            forbid("setns", (0, denied.fileno()))
            bad = {
                "missing name": "missing-name",
                "missing path": "/missing",
                "dead pid": ended.pid,
                "plain file": "/dev/null",
                "other type": uts,
                "path of other type": f"/proc/{process.pid}/ns/uts",
                "closed handle": closed,
                "no target": None,
                "forbidden": denied,
            }
            before, answers = everything(), {}
            for name, target in bad.items():
                with nsapi.visit([good, process, target, good], "net") as each:
                    during = {**everything(), "fds": 0}
                    next(each), next(each)
                    answer = failure(lambda: next(each))
                    answer["left"] = changes(during, {**everything(), "fds": 0})
                    answer["goes on"] = next(each)[0] is good and ns("net") == ns("net", process.pid)
                answer["after"] = changes(before, everything())
                answers[name] = answer
            good.close()
            denied.close()
            return answers

        with unshared("--net") as process:
            ended = subprocess.Popen(["true"])
            ended.wait()
            uts, closed = nsapi.current("uts"), nsapi.current("net")
            closed.close()
            answers = in_thread(work)
            uts.close()
        return answers

    answers = root(body)
    assert sorted(answers) == sorted(FAILING)
    for name, answer in answers.items():
        raised, words = FAILING[name]
        assert raised in answer["classes"], (name, answer)
        assert words in answer["text"], (name, answer)
        assert [answer["left"], answer["goes on"], answer["after"]] == [[], True, []], (name, answer)
    assert all(answer["path"] for answer in answers.values() if "NamespaceError" in answer["classes"])


@pytest.mark.parametrize("last", ["net", "uts", "missing name"])
def test_a_thread_that_cannot_come_home_is_lost(root: Runner, last: str) -> None:
    """A step that fails, and home that fails too: NamespaceRestoreError, and the thread enters nothing more; nor goes on."""

    def body(last: str) -> Any:
        with unshared("--net") as process:
            handle = nsapi.open(process, "net")
            bad: Any = last if last == "missing name" else nsapi.open(process, last)

            def work() -> Any:
                before = fds()
                answers: list[Any] = []

                def use() -> None:
                    with nsapi.visit([handle, bad, handle], "net") as each:
                        next(each)
                        forbid("setns", (1, nsapi.NamespaceType.NET.flag))
                        answers.append(failure(lambda: next(each)))
                        answers.append(failure(lambda: next(each)))
                        answers.append(failure(handle.__enter__))

                answers.append(failure(use))
                answers.append(failure(handle.__enter__))
                return [*answers, before == fds(), ns("net") == ns("net", process.pid)]

            answers = in_thread(work)
            with handle:
                pass
            handle.close()
            if bad is not last:
                bad.close()
        return answers

    *errors, closed, stays = root(body, last)
    for error in errors:
        assert "NamespaceRestoreError" in error["classes"], errors
    words = "return to the net namespace of before" if last == "missing name" else "going back after: setns net"
    assert words in errors[0]["text"]
    for error in (*errors[1:3], errors[-1]):
        assert "this thread could not go back earlier" in error["text"]
    assert [closed, stays] == [True, True]


def test_visiting_without_free_file_descriptors_fails_whole(root: Runner) -> None:
    """Wherever the limit is met: EMFILE, home, nothing left open; and steps by handle need no fd."""

    def body() -> Any:
        import resource

        with unshared("--net") as process:
            handle, errors = nsapi.open(process, "net"), []
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            before, free = everything(), max(fds()) + 1

            def use(*targets: Any) -> None:
                with nsapi.visit(targets, "net") as each:
                    for _ in each:
                        pass

            use(process)
            for targets in ((process, handle, process.pid), (handle, handle)):
                for spare in range(20):
                    resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, hard))
                    found = failure(lambda: use(*targets))
                    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                    errors.append(found.get("errno"))
                    errors += changes(before, everything())
                    if not found:
                        break
            handle.close()
        return errors

    errors = root(body)
    assert errors.count(None) == 2
    assert set(errors) == {errno.EMFILE, None}


def test_a_user_without_privilege_is_told_before_the_first_step(user: Runner) -> None:
    """EPERM and CAP_SYS_ADMIN, at `with`: nothing of the targets has been used."""

    def body() -> Any:
        used: list[int] = []

        def targets() -> Any:
            used.append(1)
            yield os.getpid()

        before = everything()
        answer = failure(lambda: nsapi.visit(targets(), "net").__enter__())
        return [answer, used, changes(before, everything())]

    answer, used, changed = Equipped(user)(body, under=())
    assert "PermissionError" in answer["classes"]
    assert "CAP_SYS_ADMIN" in answer["text"]
    assert used == changed == []


# ---- misuse ----


def test_a_bare_for_is_refused_with_the_form_that_comes_home(root: Runner) -> None:
    """An iterator that is broken out of would leave the thread away."""

    def body() -> Any:
        before = everything()
        calls: list[Callable[[], object]] = [
            lambda: next(nsapi.visit(["/proc/self/ns/net"], "net")),  # type: ignore[call-overload]
            lambda: list(nsapi.visit(["/proc/self/ns/net"], "net")),
            lambda: iter(nsapi.visit(["/proc/self/ns/net"], "net")),
        ]
        return [*map(failure, calls), changes(before, everything())]

    *answers, changed = root(body)
    assert [answer["classes"][0] for answer in answers] == ["TypeError"] * 3
    for answer in answers[1:]:
        assert "with nsapi.visit(targets, type) as each: for target, handle in each:" in answer["text"]
    assert changed == []


@pytest.mark.parametrize(
    ("targets", "type", "raised", "words"),
    [
        ("blue", "net", TypeError, "'blue' is no iterable of targets; for a single one there is enter"),
        (b"/proc/self/ns/net", "net", TypeError, "no iterable"),
        (1234, "net", TypeError, "1234 is no iterable"),
        ([], "user", nsapi.NamespaceError, "never come back out of a user namespace"),
        ([], "time", nsapi.NamespaceError, "entered by new processes only"),
        ([], "nothing", ValueError, "net"),
        ([], 7, TypeError, "7"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_at_the_call(targets: Any, type: Any, raised: Any, words: str) -> None:
    """Before the block, and before any system call, naming what is wrong."""
    with pytest.raises(raised, match=words):
        nsapi.visit(targets, type)


def test_steps_out_of_place_are_refused_and_move_nobody(root: Runner) -> None:
    """After the block, in another thread, before an inner block has been left, or after targets' own code has entered."""

    def body() -> Any:
        with unshared("--net") as process, unshared("--net") as other:
            handle, another = nsapi.open(process, "net"), nsapi.open(other, "net")
            before, answers = {**position(), "fds": fds()}, {}

            def stepping(each: Any) -> Any:
                def step() -> Any:
                    here = ns("net")
                    return [failure(lambda: next(each)), failure(lambda: list(each)), here == ns("net")]

                return step

            context = nsapi.visit([handle] * 9, "net")
            with context as each:
                running = iter(each)
                next(running)
                step = stepping(each)
                answers["another thread"] = in_thread(step)
                answers["another thread, running"] = in_thread(stepping(running))
                next(each)
                with another:
                    answers["inside"] = step()
                next(each)
                with nsapi.visit([another], "net") as inner:
                    next(inner)
                    answers["inside a visit"] = step()
                next(each)
                running = iter(each)
            answers["after"] = step()
            answers["after, running"] = stepping(running)()
            with context as again:
                next(again)
                answers["of another block"] = step()

            def entering() -> Any:
                with another:
                    yield handle

            source = entering()

            def use() -> None:
                with nsapi.visit(source, "net") as each:
                    for _ in each:
                        pass

            answers["code of targets"] = [failure(use), failure(use), True]
            source.close()
            changed = changes(before, {**position(), "fds": fds()})
            for each_handle in (handle, another):
                each_handle.close()
        return [answers, changed]

    answers, changed = root(body)
    for name, (first, second, stayed) in answers.items():
        for error in (first,) if "running" in name or "code" in name else (first, second):
            assert error, name
            assert error["classes"][0] == "RuntimeError", (name, error)
        assert stayed, name
    assert changed == []


def test_the_steps_of_a_thread_that_has_ended_are_nobody_elses(root: Runner) -> None:
    """Who ends inside leaves an iterator behind that moves no other thread, not one that has got its stack either."""

    def body() -> Any:
        warnings.simplefilter("ignore", ResourceWarning)
        with unshared("--net") as process:
            handle, closed, wrong = nsapi.open(process, "net"), nsapi.open(process, "net"), []
            table, number = fds(), closed.fileno()
            kept: list[Any] = []

            def begin() -> None:
                context = nsapi.visit([handle] * 9, "net")
                steps = iter(context.__enter__())
                next(steps)
                kept.append(steps)

            def go_on() -> list[object]:
                home = ns("net")
                answer = failure(lambda: next(kept[-1]))
                return [] if ns("net") == home and answer["classes"][0] == "RuntimeError" else [answer]  # type: ignore[index]

            for _ in range(10):
                in_thread(begin)
                wrong += in_thread(go_on)
            with nsapi.visit([handle, closed, handle], "net") as each:
                kept.append(iter(each))
                next(kept[-1])
                closed.close()
                wrong += in_thread(go_on)
                wrong += [] if ns("net") == ns("net", process.pid) else ["moved by another thread"]
            del table[number]
            wrong += [] if fds() == table else ["fds"]
            handle.close()
        return wrong

    assert root(body) == []


def test_targets_may_be_a_generator_whose_code_runs_in_the_step_before(root: Runner) -> None:
    """It is asked for one target at a time: what it sees is where the thread is."""

    def body() -> Any:
        with unshared("--net") as process, unshared("--net") as other:
            home, first, second = ns("net"), ns("net", process.pid), ns("net", other.pid)
            seen: list[str] = []

            def targets() -> Any:
                for each in (process, other):
                    seen.append(ns("net"))
                    yield each
                seen.append(ns("net"))

            with nsapi.visit(targets(), "net") as each:
                count = len(list(each))
        return [count, seen == [home, first, second]]

    assert root(body) == [2, True]


# ---- what others do in it ----


def test_a_stock_library_sees_each_namespace(root: Runner) -> None:
    """pyroute2's IPRoute, made in a step or in a block of enter, lists the links that are there, and no others."""

    def body() -> Any:
        import pyroute2  # type: ignore[import-untyped]

        def links() -> list[str]:
            with pyroute2.IPRoute() as route:
                return sorted(str(link.get_attr("IFLA_IFNAME")) for link in route.get_links())

        with unshared("--net") as one, unshared("--net") as two:
            home, targets, before = links(), [one, two], fds()
            with nsapi.visit(targets, "net") as each:
                for number, _ in enumerate(each):
                    with pyroute2.IPRoute() as route:
                        route.link("add", ifname=f"link{number}", kind="bridge")
            seen = []
            with nsapi.visit(targets, "net") as each:
                seen.append([links() for _ in each])
            entered = []
            for target in targets:
                with nsapi.enter(target, "net"):
                    entered.append(links())
            seen.append(entered)
            native = [name for name in seen[0][0] if name != "link0"]  # lo, and what this kernel makes by itself
            state = [links() == home, fds() == before, "lo" in native]
        return [[[name for name in names if name not in native] for names in each] for each in seen], state

    assert root(body) == [[[["link0"], ["link1"]]] * 2, [True, True, True]]
