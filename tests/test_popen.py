"""nsapi.Popen is a subprocess.Popen: the same call comes out the same, on each Python, whatever the keyword.

A case is a small function that makes one call. It runs twice, once with subprocess and once with nsapi, each time in a
forked copy of a fresh process, and both outcomes must be the one that is written beside it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import inspect
import io
import itertools
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any, NamedTuple

import pytest
from conftest import Runner
from inside import children, fds, next_pid, ns, status, unshared

import nsapi

# ---- every keyword ----

#: What each keyword of subprocess.Popen is promised to do; each has cases below, which show it.
KEYWORDS = {
    "args": "a list is the program and its arguments; a str, bytes or path is the program alone",
    "bufsize": "0 is no buffer, 1 is by lines in text mode, -1 the default, more is a size",
    "executable": "replaces the program and leaves argv[0]; without a slash it is looked up on the child's PATH",
    "stdin": "the child's fd 0: None, PIPE, DEVNULL, an fd, or what has a fileno()",
    "stdout": "the child's fd 1, wherever it was before, also where 0, 1 and 2 cross or are closed",
    "stderr": "the child's fd 2; STDOUT is where stdout goes",
    "close_fds": "the child has 0, 1 and 2 only; False: also what is inheritable",
    "shell": "the first argument is a command for /bin/sh, or executable; the rest are its $0, $1 ...",
    "cwd": "the child's directory, to which a relative program belongs too",
    "env": "the child's whole environment; None is the caller's",
    "universal_newlines": "as text",
    "restore_signals": "SIGPIPE and SIGXFSZ, which Python ignores, have their defaults; False: they stay ignored",
    "start_new_session": "setsid(2)",
    "pass_fds": "fds that the child has too, under the same numbers; implies close_fds",
    "encoding": "text in this encoding",
    "errors": "text with this handling of bytes that are no text",
    "text": "str for bytes, \\n for every line end",
    "umask": "the child's; -1 is the caller's",
    "pipesize": "of each pipe, F_SETPIPE_SZ",
    "user": "uid, or a name to look up",
    "group": "gid, or a name to look up",
    "extra_groups": "gids or names; [] is none",
    "process_group": "setpgid(2); subprocess has it since Python 3.11, nsapi everywhere",
}


class Refusal(NamedTuple):
    value: Any
    error: type[Exception]
    words: str


#: The others are refused, with the reason.
REFUSED = {
    "preexec_fn": Refusal(print, ValueError, "preexec_fn: no Python can run between clone and exec"),
    "startupinfo": Refusal(object(), ValueError, "startupinfo is only supported on Windows"),
    "creationflags": Refusal(1, ValueError, "creationflags is only supported on Windows"),
}


def test_no_keyword_of_this_python_is_forgotten() -> None:
    """Each keyword of subprocess.Popen stands in one of the two tables above."""
    known = inspect.signature(subprocess.Popen).parameters
    assert known.keys() - {"process_group"} == (KEYWORDS.keys() | REFUSED.keys()) - {"process_group"}
    assert not KEYWORDS.keys() & REFUSED.keys()
    assert KEYWORDS.keys() == {each.keyword for each in CASES.values()} - {""}


def test_the_signature_is_that_of_subprocess() -> None:
    """The same keywords with the same defaults, by position in the same order; ours come by keyword only."""
    theirs, ours = (dict(inspect.signature(each).parameters) for each in (subprocess.Popen, nsapi.Popen))
    for name, parameter in theirs.items():
        assert ours[name].kind is parameter.kind, name
        assert ours[name].default == parameter.default, name
    positional = [name for name, each in theirs.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert list(ours)[: len(positional)] == positional
    own = {name: ours[name] for name in ours.keys() - theirs.keys()}
    assert own.keys() - {"process_group"} == {"config", "target", "types"}
    assert all(each.kind is each.KEYWORD_ONLY for each in own.values())


def test_run_has_the_keywords_of_subprocess_run() -> None:
    """With the same defaults; all others go to Popen."""
    theirs, ours = (dict(inspect.signature(each).parameters) for each in (subprocess.run, nsapi.run))
    for name, parameter in theirs.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert (ours[name].kind, ours[name].default) == (parameter.kind, parameter.default), name
    assert [each.kind for each in ours.values()][-1] is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("verb", [nsapi.Popen, nsapi.run])
@pytest.mark.parametrize("keyword", REFUSED)
def test_a_keyword_that_cannot_be_is_refused_with_the_reason(keyword: str, verb: Callable[..., Any]) -> None:
    """Nothing that was asked for is dropped in silence; nothing has started and nothing stays open."""
    value, error, words = REFUSED[keyword]
    before = fds(), children()
    with pytest.raises(error) as caught:
        verb(["true"], config=nsapi.Config.new("uts"), stdin=PIPE, stdout=PIPE, stderr=PIPE, **{keyword: value})
    assert words in str(caught.value)
    assert (fds(), children()) == before


# ---- cases ----


class Raises(NamedTuple):
    """What is expected of a call that fails; as for subprocess, errno and filename are part of an OSError."""

    error: str
    errno: int | None = None
    filename: object = None


class Case(NamedTuple):
    keyword: str
    expected: object
    source: str


CASES: dict[str, Case] = {}

#: What all cases see, beside what every body sees.
HELPERS = [
    """
import contextlib, gc, io, itertools, select
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
"""
]


def case(keyword: str, expected: object) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Add a case; in it, *run* and *popen* are subprocess's or nsapi's, *folder* is empty and its own."""

    def add(function: Callable[..., object]) -> Callable[..., object]:
        source = textwrap.dedent(inspect.getsource(function))
        CASES[function.__name__] = Case(keyword, expected, source[source.index("\ndef ") + 1 :])
        return function

    return add


def helper(function: Any) -> Any:
    """Let the cases have this function too."""
    source = inspect.getsource(function)
    HELPERS.append(source[source.index("\n") + 1 :])
    return function


def outcomes(
    cases: dict[str, Any], helpers: list[str], types: list[str], fields: dict[str, Any], folder: str
) -> dict[str, dict[str, Any]]:
    """In the child: how each case comes out, and what it leaves behind. With a Config that has fields, nsapi alone."""
    import __future__

    import contextlib
    import gc
    import inspect
    import shutil

    names, flags = dict(globals()), __future__.annotations.compiler_flag
    for source in helpers:
        exec(compile(source, "<helper>", "exec", flags), names)

    def perform(name: str, api: dict[str, Any]) -> list[object]:
        exec(compile(cases[name][1], "<case>", "exec", flags), names)
        given = {**api, "folder": pathlib.Path(folder)}
        wanted = inspect.signature(names[name]).parameters
        try:
            return ["returns", repr(names[name](**{each: given[each] for each in wanted}))]
        except BaseException as error:
            known = next(each for each in type(error).__mro__ if each.__module__ in ("builtins", "subprocess"))
            filename = getattr(error, "filename", None)
            path = (
                os.fspath(filename) if isinstance(filename, os.PathLike) else filename
            )  # some Pythons do, some do not
            return ["raises", known.__name__, getattr(error, "errno", None), repr(path)]

    def perform_here(name: str, api: dict[str, Any]) -> dict[str, object]:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        os.environ["PATH"] = "/usr/bin:/bin"  # without what only root may search, which is another error
        before = fds().keys()
        outcome = perform(name, api)
        os.chdir("/")  # where that has been removed, modules cannot be imported
        gc.collect()
        left = [where for fd, where in fds().items() if fd not in before]
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            left.append("a child")
        return {"outcome": outcome, "left": left}

    def perform_in_a_copy(name: str, api: dict[str, Any]) -> dict[str, Any]:
        os.mkdir(folder)
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                signal.alarm(30)
                os.dup2(send, 200, False)
                answer = perform_here(name, api)
            except BaseException as error:
                answer = {"outcome": ["broken", repr(error)]}
            os.write(200, json.dumps(answer).replace(folder, "FOLDER").encode())
            os._exit(0)
        os.close(send)
        with open(receive, "rb") as file:
            told = file.read()
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.killpg(pid, signal.SIGKILL)  # what it has left behind, if it did not come to its end
        os.waitpid(pid, 0)
        shutil.rmtree(folder)
        return dict(json.loads(told)) if told else {"outcome": ["died", str(ended)]}

    def with_config(verb: Any) -> Any:
        return lambda *args, **keywords: verb(*args, config=config, **keywords)

    config = nsapi.Config.new(*types, **fields)  # one for all: what was made for one call must not serve another
    theirs = {"run": subprocess.run, "popen": subprocess.Popen}
    ours = {"run": with_config(nsapi.run), "popen": with_config(nsapi.Popen)}
    ours["run"](["true"])  # loads all that is loaded when it is first used
    known, found = inspect.signature(subprocess.Popen).parameters, {}
    for name, (keyword, _) in cases.items():
        found[name] = {"nsapi": perform_in_a_copy(name, ours)}
        if not fields and (not keyword or keyword in known):
            found[name]["subprocess"] = perform_in_a_copy(name, theirs)
    return found


@helper
@contextlib.contextmanager
def held(popen: Any, **keywords: Any) -> Iterator[Any]:
    """A program that has started, so that /proc shows all that it was given, and does nothing until it is killed."""
    keywords.setdefault("args", ["sleep", "1000"])
    with popen(**keywords) as process:
        try:
            # Exec lets go of its parent before it has closed fds, and the program opens some while it starts.
            while "(sleep) S" not in Path(f"/proc/{process.pid}/stat").read_text():
                os.sched_yield()
            yield process
        finally:
            process.kill()


@helper
def fds_of(process: Any) -> dict[int, str]:
    """Where the child's fds lead to; the other end of one of our pipes has the name that we know it by."""
    ours = {}
    for name in ("stdin", "stdout", "stderr"):
        if getattr(process, name):
            ours[os.readlink(f"/proc/self/fd/{getattr(process, name).fileno()}")] = name
    table = {int(fd): os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")}
    return {fd: ours.get(where, where) for fd, where in sorted(table.items())}


@helper
def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@helper
def caught(call: Callable[[], object]) -> str:
    """The name of the exception that *call* raises."""
    try:
        call()
    except BaseException as error:
        return next(each.__name__ for each in type(error).__mro__ if each.__module__ in ("builtins", "subprocess"))
    return "nothing"


# ---- args ----


@case("args", b"a b\n")
def a_list_is_the_program_and_its_arguments(run: Any) -> object:
    return run(["echo", "a b"], capture_output=True).stdout


@case("args", b"")
def a_str_is_a_program(run: Any) -> object:
    return run("true", capture_output=True).stdout


@case("args", Raises("FileNotFoundError", errno.ENOENT, "echo hello"))
def a_str_is_not_split_into_words(run: Any) -> object:
    return run("echo hello")


@case("args", [0, 0, 0])
def bytes_and_paths_are_programs_too(run: Any) -> object:
    return [run(program).returncode for program in (b"true", b"/bin/true", pathlib.PurePath("/bin/true"))]


@case("args", b"/tmp text bytes\n")
def arguments_may_be_str_bytes_and_paths(run: Any) -> object:
    return run((each for each in ("echo", pathlib.Path("/tmp"), "text", b"bytes")), stdout=PIPE).stdout


@case("args", [b"\xff|", b"\xe9\xe9|"])
def undecodable_arguments_arrive_as_they_were(run: Any) -> object:
    return [run(["printf", "%s|", each], stdout=PIPE).stdout for each in ("\udcff", os.fsdecode(b"\xe9\xe9"))]


@case("args", ["ValueError", "ValueError", "ValueError", "ValueError", "UnicodeEncodeError"])
def arguments_hold_no_nul_and_can_be_encoded(run: Any) -> object:
    calls = (["true", "a\0b"], ["true", b"a\0b"], ["tr\0ue"], "tr\0ue", ["true", "\ud800"])
    return [caught(lambda: run(args)) for args in calls]


@case("args", ["TypeError"] * 4)
def arguments_of_another_kind_are_refused(run: Any) -> object:
    return [caught(lambda: run(args)) for args in (["true", 1], ["true", None], None, 7)]


@case("args", [Raises("FileNotFoundError", errno.ENOENT, "nothing"), "FileNotFoundError", "FileNotFoundError"][0])
def a_missing_program_is_file_not_found(run: Any) -> object:
    return run(["nothing", "else"])


@case("args", Raises("FileNotFoundError", errno.ENOENT, "/nothing/there"))
def a_missing_path_is_file_not_found(run: Any) -> object:
    return run(["/nothing/there"], stdin=PIPE, stdout=PIPE, stderr=PIPE)


@case("args", Raises("FileNotFoundError", errno.ENOENT, b"/nothing"))
def a_missing_program_is_named_as_it_was_given(run: Any) -> object:
    return run([b"/nothing"])


@case("args", Raises("FileNotFoundError", errno.ENOENT, "/nothing"))
def a_missing_path_is_named(run: Any) -> object:
    return run(pathlib.Path("/nothing"))


@case("args", Raises("PermissionError", errno.EACCES, "/etc"))
def a_directory_is_no_program(run: Any) -> object:
    return run("/etc")


@case("args", Raises("PermissionError", errno.EACCES, ""))
def an_empty_name_is_no_program(run: Any) -> object:
    return run([""], env={"PATH": "/bin"})


@case("args", Raises("OSError", errno.E2BIG, "true"))
def an_argument_may_be_too_long(run: Any) -> object:
    return run(["true", "x" * 2**20])


@case("args", Raises("OSError", errno.ENOEXEC, "FOLDER/script"))
def a_script_says_what_it_is_for(run: Any, folder: Path) -> object:
    return run([str(script(folder / "script", "exit 3\n"))])


@case("args", [True, ["true"], "<Popen: returncode: 0 args: ['true']>", 76])
def args_are_kept_as_they_were_given(popen: Any) -> object:
    args = ["true"]
    with popen(args) as process, popen(["true", "x" * 100]) as other:
        process.wait()
        return [process.args is args, process.args, repr(process), repr(other).index("...>")]


# ---- bufsize ----


@case("bufsize", ["FileIO", "BufferedWriter", "BufferedWriter", "BufferedWriter", "BufferedWriter"])
def bufsize_says_what_stdin_is(popen: Any) -> object:
    kinds = []
    for bufsize in (0, -1, None, 1, 100):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 1 is no size in binary mode
            process = popen(["cat"], bufsize, stdin=PIPE)
        with process:
            kinds.append(type(process.stdin).__name__)
    return kinds


@case("bufsize", [[False, True], b"line\n"])
def bufsize_1_is_by_lines_in_text_mode(popen: Any) -> object:
    buffered = []
    for bufsize in (-1, 1):
        with popen(["cat"], bufsize, stdin=PIPE, stdout=PIPE, text=True) as process:
            buffered.append(process.stdin.line_buffering)
            if bufsize == 1:
                process.stdin.write("line\n")
                line = os.read(process.stdout.fileno(), 100)
    return [buffered, line]


@case("bufsize", Raises("TypeError"))
def bufsize_is_an_int(run: Any) -> object:
    return run(["true"], bufsize="0")


# ---- executable ----


@case("executable", [b"name\n"] * 5)
def executable_replaces_the_program_and_leaves_argv_0(run: Any) -> object:
    programs = ("/bin/sh", "sh", b"/bin/sh", b"sh", pathlib.Path("/bin/sh"))
    return [run(["name", "-c", "echo $0"], executable=each, stdout=PIPE).stdout for each in programs]


@case("executable", Raises("FileNotFoundError", errno.ENOENT, "nothing"))
def a_missing_executable_is_named(run: Any) -> object:
    return run(["true"], executable="nothing")


@case("executable", Raises("ValueError"))
def executable_holds_no_nul(run: Any) -> object:
    return run(["true"], executable="tr\0ue")


@case("executable", [b"second", b"second", b"second", b"second"])
def a_name_is_looked_up_on_the_path_of_env(run: Any, folder: Path) -> object:
    for name in ("first", "second"):
        (folder / name).mkdir()
    script(folder / "first/tool", "#!/bin/sh\nprintf first", 0o644)
    script(folder / "second/tool", "#!/bin/sh\nprintf second")
    (folder / "file").touch()
    first, second = str(folder / "first"), str(folder / "second")
    # What cannot be executed, a file where a directory should be, what is missing: the search goes on.
    paths = (f"{first}:{second}", f"{folder}/file:{second}", f"/nothing::{second}", second)
    return [run(["tool"], env={"PATH": path}, stdout=PIPE).stdout for path in paths]


@case("executable", Raises("PermissionError", errno.EACCES, "tool"))
def the_better_reason_is_told_for_what_is_on_no_path(run: Any, folder: Path) -> object:
    script(folder / "tool", "#!/bin/sh\n", 0o644)
    return run(["tool"], env={"PATH": f"/nothing:{folder}:/nowhere"})


@case("executable", ["FileNotFoundError", "FileNotFoundError", b"here"])
def the_callers_path_is_not_used_when_env_has_one(run: Any, folder: Path) -> object:
    script(folder / "tool", "#!/bin/sh\nprintf here")
    os.environ["PATH"] += f":{folder}"
    return [
        caught(lambda: run(["tool"], env={"PATH": "/bin"})),
        caught(lambda: run(["tool"], env={})),
        run(["tool"], stdout=PIPE).stdout,
    ]


@case("executable", b"mine")
def a_path_with_an_empty_part_is_the_childs_directory(run: Any, folder: Path) -> object:
    script(folder / "tool", "#!/bin/sh\nprintf mine")
    return run(["tool"], env={"PATH": "/nothing:"}, cwd=folder, stdout=PIPE).stdout


# ---- stdin, stdout, stderr ----


@case("stdin", [b"from a pipe", b"", b"from a file", b"from a file", b"from a file"])
def stdin_is_a_pipe_nothing_an_fd_or_a_file(run: Any, folder: Path) -> object:
    class HasFd:
        def __init__(self, fd: int) -> None:
            self.fileno = lambda: fd

    (folder / "file").write_text("from a file")
    found = [run(["cat"], input=b"from a pipe", stdout=PIPE).stdout, run(["cat"], stdin=DEVNULL, stdout=PIPE).stdout]
    for kind in ("fd", "object", "file"):
        with open(folder / "file", "rb") as file:
            stdin = {"fd": file.fileno(), "object": HasFd(file.fileno()), "file": file}[kind]
            found.append(run(["cat"], stdin=stdin, stdout=PIPE).stdout)
    return found


@case("stdout", ["out\nerr\n", "", "out\n", "", "out\nerr\n"])
def stdout_and_stderr_go_where_they_are_told(run: Any, folder: Path) -> object:
    found = []
    for name, kind in (("out", STDOUT), ("out", DEVNULL), ("err", PIPE), ("err", DEVNULL), ("both", None)):
        with open(folder / "file", "w+b") as file:
            other = {"out": kind, "err": kind, "both": file}[name]
            run(["sh", "-c", "echo out; echo err >&2"], stdout=DEVNULL if kind == DEVNULL else file, stderr=other)
            file.seek(0)
            found.append(file.read().decode())
    return found


@case("stdout", [[b"o", b"e"], [b"o", None], [None, b"e"], [b"oe", None]])
def pipes_are_read(run: Any) -> object:
    kinds = ({"stdout": PIPE, "stderr": PIPE}, {"stdout": PIPE, "stderr": DEVNULL}, {"stderr": PIPE, "stdout": DEVNULL})
    results = [
        run(["sh", "-c", "printf o; printf e >&2"], **each) for each in (*kinds, {"stdout": PIPE, "stderr": STDOUT})
    ]
    return [[each.stdout, each.stderr] for each in results]


@case("stderr", [{0: "/dev/null", 1: "FOLDER/out", 2: "FOLDER/out"}, {0: "/dev/null", 1: "stdout", 2: "stdout"}])
def stderr_may_be_stdout_wherever_that_is(popen: Any, folder: Path) -> object:
    found = []
    with open(folder / "out", "wb") as file:
        os.dup2(file.fileno(), 1)
        for stdout in (None, PIPE):
            with held(popen, stdin=DEVNULL, stdout=stdout, stderr=STDOUT) as process:
                found.append(fds_of(process))
    return found


@case("stdout", [])
def fds_0_to_2_may_cross_in_every_way(popen: Any, folder: Path) -> object:
    """All 64 ways in which each is what it was, or one of the three."""
    before = []
    for fd, name in enumerate(("zero", "one", "two")):
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT)
        os.dup2(file, fd)
        os.close(file)
        before.append(str(folder / name))
    wrong = []
    for chosen in itertools.product((None, 0, 1, 2), repeat=3):
        with held(popen, **dict(zip(("stdin", "stdout", "stderr"), chosen, strict=True))) as process:
            found = fds_of(process)
        wanted = {fd: before[fd if each is None else each] for fd, each in enumerate(chosen)}
        wrong += [] if found == wanted else [(chosen, found)]
    return wrong


@case("stdout", [])
def the_caller_may_have_closed_0_to_2(popen: Any, folder: Path) -> object:
    """Each of the three closed or not; each inherited, a pipe, or /dev/null."""
    names = ("stdin", "stdout", "stderr")
    saved, before = [], []
    for fd in range(3):
        file = os.open(folder / str(fd), os.O_RDWR | os.O_CREAT)
        saved.append(os.dup2(file, 100 + fd, False))
        before.append(str(folder / str(fd)))
        os.close(file)
    wrong = []
    for closed in [each for count in range(4) for each in itertools.combinations(range(3), count)]:
        for kinds in itertools.product((None, PIPE, DEVNULL), repeat=3):
            for fd in range(3):
                os.dup2(saved[fd], fd)
            for fd in closed:
                os.close(fd)
            with held(popen, **dict(zip(names, kinds, strict=True))) as process:
                found = fds_of(process)
            wanted = {}
            for fd, kind in enumerate(kinds):
                if kind is not None:
                    wanted[fd] = "/dev/null" if kind == DEVNULL else names[fd]
                elif fd not in closed:
                    wanted[fd] = before[fd]
            wrong += [] if found == wanted else [(closed, kinds, found)]
    for fd in saved:
        os.close(fd)
    return wrong


@case("stdin", Raises("OSError", errno.EBADF))
def a_closed_fd_is_refused(run: Any) -> object:
    return run(["true"], stdin=99)


@case("stdin", Raises("ValueError"))
def a_closed_file_is_refused(run: Any, folder: Path) -> object:
    with open(folder / "file", "wb") as file:
        pass
    return run(["true"], stdin=file, stdout=PIPE, stderr=PIPE)


@case("stdin", Raises("OSError", errno.EBADF))
def a_file_whose_fd_is_closed_is_refused_and_no_other_fd_is_passed_instead(run: Any) -> object:
    class Stale:
        def fileno(self) -> int:
            return lowest

    lowest = os.dup(0)
    os.close(lowest)
    return run(["true"], stdin=Stale(), stdout=PIPE)


@case("stderr", ["AttributeError", "AttributeError", "UnsupportedOperation"][:2])
def what_has_no_fd_is_refused(run: Any) -> object:
    return [caught(lambda: run(["true"], stdin=PIPE, stdout=PIPE, stderr=each)) for each in ("text", 1.5)]


@case("stdin", [True, True])
def the_fds_given_stay_open_and_the_callers(run: Any) -> object:
    receive, send = os.pipe()
    before = [os.fstat(fd).st_ino for fd in (receive, send)], os.get_inheritable(send)
    run(["echo", "x"], stdin=receive, stdout=send, stderr=send)
    same = before == ([os.fstat(fd).st_ino for fd in (receive, send)], os.get_inheritable(send))
    arrived = os.read(receive, 10) == b"x\n"
    os.close(receive)
    os.close(send)
    return [same, arrived]


# ---- close_fds, pass_fds ----


@case("close_fds", [[], ["inheritable"]])
def close_fds_false_leaves_what_is_inheritable(popen: Any, folder: Path) -> object:
    opened = [os.open(folder / name, os.O_RDWR | os.O_CREAT) for name in ("inheritable", "private")]
    os.set_inheritable(opened[0], True)
    found = []
    for close_fds in (True, False):
        with held(popen, stdin=PIPE, stdout=PIPE, stderr=PIPE, close_fds=close_fds) as process:
            found.append([os.path.basename(where) for fd, where in fds_of(process).items() if fd > 2])
    for fd in opened:
        os.close(fd)
    return found


@case("pass_fds", [{120: "FOLDER/file", 121: "FOLDER/file"}, [False, True]])
def pass_fds_are_the_same_fds_in_the_child(popen: Any, folder: Path) -> object:
    file = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    os.dup2(file, 120, False)
    os.dup2(file, 121, True)
    with held(popen, pass_fds=[121, 120, 120]) as process:
        found = {fd: where for fd, where in fds_of(process).items() if fd > 2}
    unchanged = [os.get_inheritable(fd) for fd in (120, 121)]
    for fd in (file, 120, 121):
        os.close(fd)
    return [found, unchanged]


@case("pass_fds", {"one of them": [120], "a set": [120, 121], "an iterator": [120, 121], "none": []})
def pass_fds_is_any_collection(popen: Any) -> object:
    for fd in (120, 121):
        os.dup2(0, fd)
    found = {}
    collections = {"one of them": (120,), "a set": {120, 121}, "an iterator": iter((121, 120)), "none": ()}
    for name, each in collections.items():
        with held(popen, pass_fds=each) as process:
            found[name] = [fd for fd in fds_of(process) if fd > 2]
    for fd in (120, 121):
        os.close(fd)
    return found


@case("pass_fds", [{0: "stdin", 1: "stdout", 2: "stderr"}, {0: "FOLDER/0", 1: "FOLDER/1", 2: "FOLDER/2"}, [False] * 3])
def pass_fds_may_name_0_to_2(popen: Any, folder: Path) -> object:
    """Where they are redirected, that wins; where not, they are the caller's, even if close-on-exec."""
    for fd in range(3):
        file = os.open(folder / str(fd), os.O_RDWR | os.O_CREAT)
        os.dup2(file, fd, False)
        os.close(file)
    found: list[object] = []
    with held(popen, pass_fds=(0, 1, 2), stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        found.append(fds_of(process))
    with held(popen, pass_fds=(0, 1, 2)) as process:
        found.append(fds_of(process))
    return [*found, [os.get_inheritable(fd) for fd in range(3)]]


@case("pass_fds", {0: "FOLDER/file", 1: "FOLDER/file", 2: "FOLDER/file", 120: "FOLDER/file"})
def what_is_passed_may_be_stdio_too(popen: Any, folder: Path) -> object:
    file = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    os.dup2(file, 120, False)
    os.close(file)
    with held(popen, pass_fds=(120,), stdin=120, stdout=120, stderr=STDOUT) as process:
        found = fds_of(process)
    os.close(120)
    return found


@case("pass_fds", ["pass_fds overriding close_fds.", [0, 1, 2, 120]])
def pass_fds_implies_close_fds(popen: Any) -> object:
    os.dup2(0, 120, False)
    os.dup2(0, 121, True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with held(popen, pass_fds=(120,), close_fds=False) as process:
            found = list(fds_of(process))
    for fd in (120, 121):
        os.close(fd)
    return [*(str(each.message) for each in told if each.category is RuntimeWarning), found]


@case("pass_fds", ["OSError", "ValueError", "ValueError", "ValueError", "TypeError", "TypeError"])
def pass_fds_must_be_open(run: Any) -> object:
    return [caught(lambda: run(["true"], pass_fds=each)) for each in ((99,), (-1,), (2**40,), ("x",), (None,), None)]


# ---- shell ----


@case("shell", [b"a b\n", b"a b\n", b"zero one\n", b"bytes\n"])
def a_shell_runs_the_command(run: Any) -> object:
    commands = ("echo 'a b'", ["echo 'a b'"], ["echo $0 $1", "zero", "one"], b"echo bytes")
    return [run(each, shell=True, stdout=PIPE).stdout for each in commands]


@case("shell", [b"/bin/sh\n", b"FOLDER/shell\n"])
def executable_is_another_shell(run: Any, folder: Path) -> object:
    (folder / "shell").symlink_to("/bin/sh")
    return [run("echo $0", shell=True, executable=each, stdout=PIPE).stdout for each in (None, folder / "shell")]


@case("shell", [3, 127, -15])
def the_status_is_the_shells(run: Any) -> object:
    commands = ("exit 3", "/nothing/there", "kill $$")
    return [run(each, shell=True, stderr=DEVNULL).returncode for each in commands]


@case("shell", ["TypeError", "TypeError"])
def a_path_is_no_command(run: Any) -> object:
    return [caught(lambda: run(pathlib.Path("/bin/true"), shell=True, **more)) for more in ({}, {"stdin": PIPE})]


# ---- cwd ----


@case("cwd", ["FOLDER/in"] * 4 + ["/"])
def cwd_is_the_childs_directory(popen: Any, folder: Path) -> object:
    (folder / "in").mkdir()
    os.chdir(folder)
    found = []
    for cwd in (f"{folder}/in", os.fsencode(folder / "in"), folder / "in", "in", "/"):
        with held(popen, cwd=cwd) as process:
            found.append(os.readlink(f"/proc/{process.pid}/cwd"))
    return found


@case("cwd", "FOLDER")
def without_cwd_it_is_the_callers(popen: Any, folder: Path) -> object:
    os.chdir(folder)
    with held(popen) as process:
        return os.readlink(f"/proc/{process.pid}/cwd")


@case("cwd", 0)
def a_caller_whose_directory_is_gone_may_start_programs(run: Any, folder: Path) -> object:
    (folder / "gone").mkdir()
    os.chdir(folder / "gone")
    (folder / "gone").rmdir()
    return run(["true"]).returncode


@case("cwd", [b"in", b"in"])
def a_relative_program_belongs_to_cwd(run: Any, folder: Path) -> object:
    (folder / "in").mkdir()
    script(folder / "tool", "#!/bin/sh\nprintf out")
    script(folder / "in/tool", "#!/bin/sh\nprintf in")
    os.chdir(folder)
    return [
        run(["./tool"], cwd="in", stdout=PIPE).stdout,
        run(["x"], executable="./tool", cwd="in", stdout=PIPE).stdout,
    ]


@case("cwd", Raises("FileNotFoundError", errno.ENOENT, "/nothing/there"))
def a_missing_cwd_is_named(run: Any) -> object:
    return run(["true"], cwd="/nothing/there", stdin=PIPE, stdout=PIPE, stderr=PIPE)


@case("cwd", Raises("FileNotFoundError", errno.ENOENT, b"/nothing"))
def a_missing_cwd_is_named_as_it_was_given(run: Any) -> object:
    return run(["true"], cwd=b"/nothing")


@case("cwd", Raises("FileNotFoundError", errno.ENOENT, "/nothing"))
def a_missing_path_for_cwd_is_named(run: Any) -> object:
    return run(["true"], cwd=pathlib.Path("/nothing"))


@case("cwd", Raises("FileNotFoundError", errno.ENOENT, "/nothing"))
def a_missing_cwd_comes_before_a_missing_program(run: Any) -> object:
    return run(["nothing either"], cwd="/nothing")


@case("cwd", Raises("NotADirectoryError", errno.ENOTDIR, "/etc/passwd"))
def a_cwd_is_a_directory(run: Any) -> object:
    return run(["true"], cwd="/etc/passwd")


@case("cwd", ["ValueError", "ValueError", "TypeError", "FileNotFoundError"])
def a_cwd_is_a_path(run: Any) -> object:
    return [caught(lambda: run(["true"], cwd=each)) for each in ("/t\0mp", b"/t\0mp", 1.5, "")]


# ---- env ----


@case("env", [b"", b"A=b\0", b"A=b\0", b"A=\xff\0"])
def env_is_the_whole_environment(popen: Any) -> object:
    found = []
    for env in ({}, {"A": "b"}, {b"A": b"b"}, {"A": "\udcff"}):
        with held(popen, args=["/bin/sleep", "1000"], env=env) as process:
            found.append(Path(f"/proc/{process.pid}/environ").read_bytes())
    return found


@case("env", [b"new\n", b"\n", b"\xff\n"])
def without_env_it_is_the_callers_of_now(run: Any) -> object:
    found = []
    for value in ("new", None, "\udcff"):
        os.environ["NSAPI_TEST"] = value or ""
        if value is None:
            del os.environ["NSAPI_TEST"]
        found.append(run(["sh", "-c", "echo $NSAPI_TEST"], stdout=PIPE).stdout)
    return found


@case("env", b"set in C\n")
def without_env_it_is_also_what_c_has_set(run: Any) -> object:
    """As os.putenv or a C library does, which os.environ does not know of."""
    os.putenv("NSAPI_TEST", "set in C")
    return run(["sh", "-c", "echo $NSAPI_TEST"], stdout=PIPE).stdout


@case("env", ["ValueError", "ValueError", "ValueError", "ValueError", "TypeError", "TypeError", "AttributeError"])
def env_is_a_mapping_of_names_without_equals_sign_and_nul(run: Any) -> object:
    wrong = ({"A=": "b"}, {b"A=": b"b"}, {"A\0": "b"}, {"A": "b\0"}, {1: "b"}, {"A": 1}, [("A", "b")])
    return [caught(lambda: run(["true"], env=each)) for each in wrong]


@case("env", Raises("OSError", errno.E2BIG, "true"))
def an_environment_may_be_too_large(run: Any) -> object:
    return run(["true"], env={**os.environ, "A": "x" * 2**20})


# ---- text ----


@case("text", ["a\nb\nc\n"] * 5)
def text_has_one_kind_of_line_end(run: Any) -> object:
    ways = ({"text": True}, {"universal_newlines": True}, {"encoding": "utf-8"}, {"errors": "strict"})
    command = ["printf", "a\\r\\nb\\rc\\n"]
    found = [run(command, stdout=PIPE, **way).stdout for way in ways]
    return [*found, run(command, stdout=PIPE, text=True, universal_newlines=True).stdout]


@case("universal_newlines", [True, True, False, Raises("SubprocessError").error])
def universal_newlines_is_the_old_name_of_text(popen: Any) -> object:
    found: list[object] = []
    for keywords in ({"universal_newlines": True}, {"text": True}, {}):
        with popen(["true"], stdout=PIPE, **keywords) as process:
            found.append(bool(process.universal_newlines))
    return [*found, caught(lambda: popen(["true"], stdout=PIPE, text=True, universal_newlines=False))]


@case("encoding", ["é", "Ã©", "\xe9"])
def encoding_is_that_of_every_pipe(run: Any) -> object:
    found = [run(["printf", "\\303\\251"], stdout=PIPE, encoding=each).stdout for each in ("utf-8", "latin-1")]
    return [*found, run(["cat"], input="\xe9", stdout=PIPE, encoding="utf-16").stdout]


@case("errors", ["\ufffd", "\udcff", "UnicodeDecodeError"])
def errors_says_what_becomes_of_bytes_that_are_no_text(run: Any) -> object:
    command = ["printf", "\\377"]
    found = [run(command, stdout=PIPE, encoding="utf-8", errors=each).stdout for each in ("replace", "surrogateescape")]
    return [*found, caught(lambda: run(command, stdout=PIPE, encoding="utf-8"))]


@case("text", ["TypeError", "TypeError"])
def input_is_text_in_text_mode_only(run: Any) -> object:
    return [caught(lambda: run(["cat"], input=b"bytes", text=True)), caught(lambda: run(["cat"], input="text"))]


# ---- signals, session, group, umask, pipes ----


@case("restore_signals", [[False, False, True], [True, True, True]])
def restore_signals_gives_back_what_python_ignores(popen: Any) -> object:
    """What the caller ignores otherwise stays ignored, as exec(2) says."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    found = []
    for restore in (True, False):
        with held(popen, restore_signals=restore) as process:
            ignored = int(status("SigIgn", process.pid), 16)
            assert int(status("SigCgt", process.pid), 16) == 0
        found.append([bool(ignored >> number - 1 & 1) for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGUSR1)])
    return found


@case("restore_signals", True)
def the_signal_mask_is_the_callers(popen: Any) -> object:
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMAX})
    with held(popen) as process:
        return status("SigBlk", process.pid) == status("SigBlk") != "0" * 16


@case("start_new_session", [[False, False], [True, True], [True, True]])
def start_new_session_makes_the_child_its_leader(popen: Any) -> object:
    found = []
    for wanted in (False, True, 1):
        with held(popen, start_new_session=wanted) as process:
            found.append([os.getsid(process.pid) == process.pid, os.getpgid(process.pid) == process.pid])
    return found


@case("process_group", ["the caller's", "its own", "another's", "the caller's"])
def process_group_is_its_own_or_another_ones(popen: Any) -> object:
    found = []
    with held(popen, process_group=0) as other:
        for group in (None, 0, other.pid, -1):
            with held(popen, process_group=group) as process:
                names = {os.getpgid(0): "the caller's", process.pid: "its own", other.pid: "another's"}
                found.append(names[os.getpgid(process.pid)])
    return found


@case("process_group", Raises("PermissionError", errno.EPERM))
def a_process_group_of_nobody_is_refused(run: Any) -> object:
    return run(["true"], process_group=1, stdin=PIPE, stdout=PIPE, stderr=PIPE)


@case("process_group", Raises("PermissionError", errno.EPERM))
def the_leader_of_a_session_has_its_group_already(run: Any) -> object:
    return run(["true"], process_group=0, start_new_session=True)


@case("process_group", ["TypeError", "TypeError"])
def process_group_is_an_int(run: Any) -> object:
    return [caught(lambda: run(["true"], process_group=each)) for each in ("0", 0.0)]


@case("umask", ["0027", "0777", "0000", "0022", "0022"])
def umask_is_the_childs(popen: Any) -> object:
    os.umask(0o22)
    found = []
    for umask in (0o27, 0o777, 0, -1):
        with held(popen, umask=umask) as process:
            found.append(status("Umask", process.pid))
    return [*found, status("Umask")]


@case("umask", ["TypeError", "TypeError", "TypeError"])
def umask_is_an_int(run: Any) -> object:
    return [caught(lambda: run(["true"], umask=each)) for each in ("7", None, 1.5)]


@case("user", ["KeyError", "ValueError", "TypeError"])
def user_is_a_name_or_a_number(run: Any) -> object:
    return [caught(lambda: run(["true"], user=each)) for each in ("no such user", -1, 1.5)]


@case("group", ["KeyError", "ValueError", "TypeError"])
def group_is_a_name_or_a_number(run: Any) -> object:
    return [caught(lambda: run(["true"], group=each)) for each in ("no such group", -1, 1.5)]


@case("extra_groups", ["ValueError", "KeyError", "ValueError", "TypeError"])
def extra_groups_are_names_or_numbers(run: Any) -> object:
    return [caught(lambda: run(["true"], extra_groups=each)) for each in ("root", ["no such group"], [-1], [1.5])]


@case("pipesize", [[4096] * 3, [65536] * 3, [65536] * 3])
def pipesize_is_that_of_each_pipe(popen: Any) -> object:
    import fcntl

    found = []
    for size in (4096, -1, None):
        with popen(["true"], stdin=PIPE, stdout=PIPE, stderr=PIPE, pipesize=size) as process:
            pipes = (process.stdin, process.stdout, process.stderr)
            found.append([fcntl.fcntl(pipe.fileno(), 1032) for pipe in pipes])  # F_GETPIPE_SZ
    return found


@case("pipesize", Raises("TypeError"))
def pipesize_is_an_int(run: Any) -> object:
    return run(["true"], pipesize="4096", stdout=PIPE)


# ---- how it ends ----


@case("", [0, 1, 255, -1, -9, -15, -64, -3])
def returncode_is_the_status_or_the_signal(run: Any) -> object:
    endings = ("exit 0", "exit 1", "exit 255", "kill -HUP $$", "kill -9 $$", "kill $$", "kill -64 $$")
    core = "ulimit -c 0; kill -QUIT $$"
    return [run(["sh", "-c", each]).returncode for each in (*endings, core)]


@case("", [None, None, "TimeoutExpired", -9, -9, -9, -9])
def poll_and_wait_tell_whether_it_runs(popen: Any) -> object:
    with popen(["sleep", "1000"]) as process:
        found = [process.returncode, process.poll(), caught(lambda: process.wait(timeout=0.001))]
        process.kill()
        return [*found, process.wait(), process.poll(), process.wait(timeout=0), process.returncode]


@case("", ["TimeoutExpired", ["sleep", "1000"], 0.001, None, None])
def timeout_expired_says_what_has_timed_out(popen: Any) -> object:
    with popen(["sleep", "1000"]) as process:
        try:
            process.wait(timeout=0.001)
        except subprocess.TimeoutExpired as error:
            found = [type(error).__name__, error.cmd, error.timeout, error.output, error.stderr]
        process.kill()
        return found


@case("", [-15, -9, -2, -10])
def a_signal_ends_it(popen: Any) -> object:
    found = []
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for act in ("terminate", "kill", signal.SIGINT, signal.SIGUSR1):
        with popen(["sleep", "1000"]) as process:
            if isinstance(act, str):
                getattr(process, act)()
            else:
                process.send_signal(act)
            found.append(process.wait())
    return found


@case("", [None, None, None, None, 0])
def signals_to_what_has_ended_do_nothing(popen: Any) -> object:
    with popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        found = [process.send_signal(0)]  # dead, and nobody has waited
        process.wait()
        return [*found, process.terminate(), process.kill(), process.send_signal(signal.SIGINT), process.returncode]


@case("", ["OSError", "TypeError"])
def a_signal_is_one(popen: Any) -> object:
    with popen(["sleep", "1000"]) as process:
        found = [caught(lambda: process.send_signal(each)) for each in (999, "TERM")]
        process.kill()
        return found


@case("", [None, "S (sleeping)", -9])
def a_stopped_program_has_not_ended(popen: Any) -> object:
    with held(popen) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        found = [process.poll()]
        process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WNOWAIT)
        while status("State", process.pid).startswith("R"):
            os.sched_yield()
        found.append(status("State", process.pid))
        process.kill()
        return [*found, process.wait()]


@case("", [0, 0])
def what_somebody_else_has_waited_for_has_ended(popen: Any) -> object:
    found = []
    for verb in ("wait", "poll"):
        process = popen(["true"])
        os.waitpid(process.pid, 0)
        found.append(getattr(process, verb)())
    return found


@case("", 0)
def it_ends_where_sigchld_is_ignored(run: Any) -> object:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return run(["true"]).returncode


@case("", [-9, -9])
def a_signal_handler_may_end_what_is_waited_for(popen: Any) -> object:
    import fcntl

    signal.signal(signal.SIGIO, lambda *_: process.kill())
    found = []
    for keywords in ({}, {"timeout": 1000}):
        with popen(["sh", "-c", "read line; echo; exec sleep 1000"], stdin=PIPE, stdout=PIPE) as process:
            fcntl.fcntl(process.stdout, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(process.stdout, fcntl.F_SETFL, os.O_ASYNC)
            process.stdin.close()
            found.append(process.wait(**keywords))
    return found


@case("", [[0, b"x" * 10], [True] * 3, [True] * 3, "ValueError"])
def the_context_manager_closes_and_waits(popen: Any) -> object:
    with popen(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        process.stdin.write(b"x" * 10)
        process.stdin.close()
        answer = process.stdout.read()
    pipes = (process.stdin, process.stdout, process.stderr)
    closed = [pipe.closed for pipe in pipes]
    again = caught(process.communicate)
    try:
        with popen(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            raise KeyError("passes through")
    except KeyError:
        pass
    closed_too = [pipe.closed for pipe in (process.stdin, process.stdout, process.stderr)]
    return [[process.returncode, answer], closed, closed_too, again]


@case("", ["BrokenPipeError", 0])
def the_context_manager_waits_where_closing_fails(popen: Any) -> object:
    try:
        with popen(["true"], stdin=PIPE) as process:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            process.stdin.write(b"x")
    except BrokenPipeError as error:
        found = [type(error).__name__, process.returncode]
    return found


# ---- communicate ----


@case("", [b"input", b"noise"])
def communicate_sends_and_receives(popen: Any) -> object:
    with popen(["sh", "-c", "printf noise >&2; cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        return list(process.communicate(b"input"))


@case("", [2**20, 2**20, 0])
def communicate_does_not_block_on_much(popen: Any) -> object:
    much = b"x" * 2**20
    with popen(["sh", "-c", "tee /dev/stderr"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        out, err = process.communicate(much)
        return [len(out), len(err), process.returncode]


@case("", [None, None])
def communicate_without_pipes_waits(popen: Any) -> object:
    with popen(["true"]) as process:
        return list(process.communicate())


@case("", [b"", None])
def communicate_ignores_who_does_not_read(popen: Any) -> object:
    with popen(["true"], stdin=PIPE, stdout=PIPE) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return list(process.communicate(b"x" * 2**18))


@case("", ["TimeoutExpired", b"part", "ValueError", [b"part and the rest", None], 0])
def communicate_goes_on_after_a_timeout(popen: Any) -> object:
    """What was read until then is in the exception, and is not lost."""
    with popen(["sh", "-c", "printf part; cat"], stdin=PIPE, stdout=PIPE) as process:
        select.select([process.stdout], [], [])
        keep = os.dup(process.stdin.fileno())
        found: list[object] = [None, None]
        while not found[1]:  # a slow machine may not come to reading in that time
            try:
                process.communicate(timeout=0.05)
            except subprocess.TimeoutExpired as error:
                found = [type(error).__name__, error.output]
        found.append(caught(lambda: process.communicate(b"too late")))
        os.write(keep, b" and the rest")
        os.close(keep)
        return [*found, list(process.communicate()), process.returncode]


# ---- run ----


@case("", ["CompletedProcess", ["sh", "-c", "exit 3"], 3, None, None])
def run_gives_a_completed_process(run: Any) -> object:
    done = run(["sh", "-c", "exit 3"])
    return [type(done).__name__, done.args, done.returncode, done.stdout, done.stderr]


@case("", [3, ["sh", "-c", "echo out; exit 3"], "out\n", "", "out\n", "CalledProcessError", 0])
def check_raises_for_a_status(run: Any) -> object:
    try:
        run(["sh", "-c", "echo out; exit 3"], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        found = [error.returncode, error.cmd, error.output, error.stderr, error.stdout]
    killed = caught(lambda: run(["sh", "-c", "kill $$"], check=True))
    return [*found, killed, run(["true"], check=True).returncode]


@case("", ["ValueError", "ValueError", "ValueError", b"both"])
def run_refuses_what_contradicts(run: Any) -> object:
    return [
        caught(lambda: run(["cat"], input=b"x", stdin=PIPE)),
        caught(lambda: run(["cat"], capture_output=True, stdout=PIPE)),
        caught(lambda: run(["cat"], capture_output=True, stderr=DEVNULL)),
        run(["cat"], input=b"both", capture_output=True, stdin=None, stdout=None, stderr=None).stdout,
    ]


@case("", [["sleep", "1000"], True, [], "TimeoutExpired"])
def run_kills_and_reaps_after_its_timeout(run: Any) -> object:
    try:
        run(["sleep", "1000"], timeout=0.001)
    except subprocess.TimeoutExpired as error:
        found = [error.cmd, error.timeout <= 0.001, children()]
    return [*found, caught(lambda: run(["sleep", "1000"], timeout=-1, stdout=PIPE))]


@case("", [b"part", b"noise"])
def run_tells_what_came_before_its_timeout(run: Any) -> object:
    for timeout in (0.1, 1, 10):  # a slow machine may not come to writing and reading in that time
        try:
            run(["sh", "-c", "printf part; printf noise >&2; exec sleep 1000"], timeout=timeout, capture_output=True)
        except subprocess.TimeoutExpired as error:
            found = [error.stdout, error.stderr]
        if all(found):
            break
    return found


@case("", ["ValueError", [], "UnicodeDecodeError", []])
def run_leaves_nobody_behind_when_it_fails(run: Any) -> object:
    class Unreadable:
        def __len__(self) -> int:
            raise ValueError

    return [
        caught(lambda: run(["sleep", "1000"], input=Unreadable())),
        children(),
        caught(lambda: run(["sh", "-c", "printf '\\377'; exec sleep 1000 >&-"], stdout=PIPE, encoding="utf-8")),
        children(),
    ]


# ---- the rest of an object's life ----


@case("", ["subprocess N is still running", True, True, False, []])
def a_forgotten_program_is_reaped_by_the_next(popen: Any) -> object:
    process = popen(["sleep", "1000"])
    pid = process.pid
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del process
        gc.collect()
    (warning,) = (str(each.message).replace(str(pid), "N") for each in told if each.category is ResourceWarning)
    found = [warning, pid in [each.pid for each in subprocess._active], pid in children()]  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    popen(["true"]).wait()
    return [*found, pid in [each.pid for each in subprocess._active], children()]  # type: ignore[attr-defined]


@case("", [50, list(range(50)), []])
def there_may_be_many_at_once(popen: Any) -> object:
    many = [popen(["sh", "-c", f"read line; exit {number}"], stdin=PIPE) for number in range(50)]
    found = [len({each.pid for each in many})]
    for each in many:
        each.communicate(b"go\n")
    return [*found, [each.wait() for each in many], children()]


@case("", [True, True, True, True])
def it_is_a_subprocess_popen(popen: Any) -> object:
    with popen(["true"], stdout=PIPE) as process:
        kinds = [isinstance(process, subprocess.Popen), isinstance(process.stdout, io.BufferedReader)]
        return [*kinds, isinstance(process.pid, int), process.__class_getitem__ is not None]


@case(
    "",
    [
        ["true", ["true", "x"], "/", {"A": "b", "PATH": "/bin"}],
        ["/bin/sh", ["/bin/sh", "-c", "true"], None, None],
        ["/bin/false", ["true"], None, None],
        ["true", ["true"], None, None],
    ],
)
def the_audit_event_is_raised(run: Any) -> object:
    found: list[object] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            found.append(list(arguments))

    sys.addaudithook(hook)
    run(["true", "x"], cwd="/", env={"A": "b", "PATH": "/bin"})
    run("true", shell=True)
    run(["true"], executable="/bin/false")
    run("true")
    return found


@case("", ["RuntimeError", []])
def an_audit_hook_may_forbid_it(run: Any) -> object:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            raise RuntimeError

    sys.addaudithook(hook)
    return [caught(lambda: run(["true"], stdin=PIPE, stdout=PIPE, stderr=PIPE)), children()]


@case("", [0, 3, 0])
def any_thread_may_run_programs(run: Any) -> object:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(run(["sh", "-c", f"exit {n}"]).returncode for n in (0, 3, 0)))
    thread.start()
    thread.join()
    return found


# ---- all cases, twice ----


def come_out(runner: Runner, types: list[str], fields: dict[str, Any]) -> Any:
    """How all cases come out with this Config."""
    folder = Path(tempfile.mkdtemp(prefix="nsapi-tests-"))
    folder.chmod(0o777)
    cases = {name: (each.keyword, each.source) for name, each in CASES.items()}
    try:
        return runner(outcomes, cases, HELPERS, types, fields, str(folder / "case"))
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["root", "user"])
def came_out(request: pytest.FixtureRequest) -> Any:
    """How all cases come out, for root in a new uts namespace and for a user in a new user namespace."""
    types = {"root": ["uts"], "user": ["user"]}[request.param]
    return come_out(request.getfixturevalue(request.param), types, {})


def as_told(expected: object) -> list[object]:
    if isinstance(expected, Raises):
        return ["raises", expected.error, expected.errno, repr(expected.filename)]
    return ["returns", repr(expected)]


@pytest.mark.parametrize("name", CASES)
def test_it_comes_out_as_with_subprocess(came_out: Any, name: str) -> None:
    """The same call has the same outcome with subprocess and with nsapi, which leaves no fd and no child behind."""
    found, wanted = came_out[name], as_told(CASES[name].expected)
    assert found["nsapi"]["outcome"] == wanted
    assert found["nsapi"]["left"] == []
    if "subprocess" in found:  # else this Python's has no such keyword
        assert found["subprocess"]["outcome"] == wanted


# ---- which namespaces ----

_UTS = nsapi.Config.new("uts")
UNCLEAR: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({}, "config or target"),
    "both": ({"config": _UTS, "target": 1, "types": ("uts",)}, "config, target: give one"),
    "types alone": ({"types": ("net",)}, "config or target"),
    "types with a config": ({"config": _UTS, "types": ("net",)}, "types: goes with target"),
    "types as one word": ({"target": 1, "types": "net"}, "types: 'net' is one word"),
    "a config of another kind": ({"config": ["uts"]}, "config: ['uts'] is no Config"),
}


@pytest.mark.parametrize("verb", [nsapi.Popen, nsapi.run])
@pytest.mark.parametrize("name", UNCLEAR)
def test_nothing_runs_outside_by_mistake(name: str, verb: Callable[..., Any]) -> None:
    """One of config and target says where, never none and never both."""
    keywords, words = UNCLEAR[name]
    with pytest.raises(TypeError) as caught:
        verb(["true"], **keywords)
    assert words in str(caught.value)


@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize("args", [[], (), iter(())])
def test_args_name_a_program(args: Any, shell: bool) -> None:
    """Empty ones are a ValueError that says so, where subprocess has an IndexError, or a shell that complains."""
    with pytest.raises(ValueError, match="args"):
        nsapi.Popen(args, config=_UTS, shell=shell, stdout=PIPE)


def test_the_program_is_in_the_namespaces_of_config_and_the_caller_is_not(anyone: Runner) -> None:
    """By run and by Popen."""

    def body() -> list[object]:
        config, home = nsapi.Config.new("user", "uts", "ipc"), [ns("uts"), ns("ipc")]
        command = ["readlink", "/proc/self/ns/uts", "/proc/self/ns/ipc"]
        first = nsapi.run(command, config=config, stdout=subprocess.PIPE, text=True).stdout.split()
        with nsapi.Popen(command, config=config, stdout=subprocess.PIPE, text=True) as process:
            second = process.communicate()[0].split()
        return [not {*home} & {*first, *second}, len(first), len(second), [ns("uts"), ns("ipc")] == home]

    assert anyone(body) == [True, 2, 2, True]


def test_target_and_types_are_short_for_config_join(root: Runner) -> None:
    """The types named, or without any all in which the target differs."""

    def body() -> list[list[bool]]:
        found = []
        with unshared("--uts", "--ipc") as process:
            for target in (process.pid, process):
                for types in (("uts",), ("ipc", "uts"), ()):
                    command = ["readlink", "/proc/self/ns/uts", "/proc/self/ns/ipc"]
                    done = nsapi.run(command, target=target, types=types, stdout=subprocess.PIPE, text=True)
                    there = [ns("uts", process.pid), ns("ipc", process.pid)]
                    found.append([each == other for each, other in zip(done.stdout.split(), there, strict=True)])
        return found

    assert root(body) == [[True, False], [True, True], [True, True]] * 2


def test_a_child_starts_in_the_namespaces_of_the_thread_that_makes_it(root: Runner) -> None:
    """What the config does not name is the calling thread's, wherever it has gone."""

    def body() -> list[bool]:
        found: list[bool] = []

        def in_thread() -> None:
            with nsapi.enter(process, "net"):
                command = ["readlink", "/proc/self/ns/net"]
                done = nsapi.run(command, config=nsapi.Config.new("uts"), stdout=subprocess.PIPE, text=True)
                found.append(done.stdout.strip() == ns("net", process.pid) == ns("net"))

        with unshared("--net") as process:
            thread = threading.Thread(target=in_thread)
            thread.start()
            thread.join()
            return [*found, ns("net", process.pid) != ns("net")]

    assert root(body) == [True, True]


def test_shares_pidns_is_what_was_asked_for_at_the_start(anyone: Runner) -> None:
    """False with a pid namespace of its own; what becomes of the Config later does not matter."""

    def body() -> list[object]:
        found: list[object] = []
        for types in (("user", "uts"), ("user", "pid")):
            config = nsapi.Config.new(*types)
            with nsapi.Popen(["true"], config=config) as process:
                config.namespaces.remove("pid")
                config.namespaces.add("uts")
                found.append(process.shares_pidns)
        return found

    assert anyone(body) == [True, False]


def test_a_config_that_changes_counts_as_it_is_at_the_call(anyone: Runner) -> None:
    """Between two calls, also inside of its lists and dicts; what was made for the call before does not serve then."""

    def body() -> list[object]:
        config = nsapi.Config.new("user", "uts", hostname="first")
        script = "uname -n; ulimit -n; grep NoNewPrivs /proc/self/status; readlink /proc/self/ns/ipc"

        def look() -> list[object]:
            done = nsapi.run(["sh", "-c", script], config=config, stdout=subprocess.PIPE, text=True)
            name, files, _, no_new_privs, ipc = done.stdout.split()
            return [name, files == "11", no_new_privs, ipc == ns("ipc")]

        found = [look(), look()]
        config.hostname = "second"
        found.append(look())
        config.rlimits["RLIMIT_NOFILE"] = (11, 11)
        config.no_new_privs = True
        found.append(look())
        config.namespaces.add("ipc")
        found.append(look())
        config.namespaces.remove("ipc")
        config.rlimits.clear()
        config.no_new_privs = False
        config.hostname = "first"
        return [*found, look()]

    first = ["first", False, "0", True]
    assert anyone(body) == [
        first,
        first,
        ["second", False, "0", True],
        ["second", True, "1", True],
        ["second", True, "1", False],
        first,
    ]


def test_a_config_that_changes_during_a_call_is_not_taken_for_what_it_was(anyone: Runner) -> None:
    """By another thread, or a hook: that call takes one or the other, and the next one takes what is there then."""

    def body() -> list[str]:
        config, script = nsapi.Config.new("user", "uts", hostname="before"), ["uname", "-n"]

        def look() -> str:
            return str(nsapi.run(script, config=config, stdout=subprocess.PIPE, text=True).stdout)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "subprocess.Popen":
                config.hostname = names.pop()

        names = ["x", "during"]
        sys.addaudithook(hook)
        look()
        config.hostname = "before"
        names[:] = ["before"]
        return [look()]

    assert anyone(body) == ["before\n"]


# ---- the pidfd ----


def test_pidfd_is_open_until_the_program_is_reaped(anyone: Runner) -> None:
    """It is the program's, close-on-exec, readable when the program has ended, and -1 once that has been waited for."""

    def body() -> list[list[object]]:
        import select

        config, found = nsapi.Config.new("user"), []
        ways: dict[str, Callable[[Any], object]] = {
            "wait": lambda process: process.wait(),
            "wait with timeout": lambda process: process.wait(timeout=100),
            "poll": lambda process: process.poll(),
            "communicate": lambda process: process.communicate(),
            "send_signal": lambda process: process.send_signal(0),
            "with": lambda process: process.__exit__(None, None, None),
            "del": lambda process: process.__del__(),
        }
        for way, act in ways.items():
            before = fds()
            receive, send = os.pipe()
            process = nsapi.Popen(["cat"], stdin=receive, config=config)
            os.close(receive)
            pidfd = process.pidfd
            info = pathlib.Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").split()
            row: list[object] = [way, info[info.index("Pid:") + 1] == str(process.pid), os.get_inheritable(pidfd)]
            row += [select.select([pidfd], [], [], 0)[0] == [], process.poll()]
            os.close(send)
            row += [select.select([pidfd], [], [])[0] == [pidfd], process.pidfd == pidfd]  # ended, not yet reaped
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                act(process)
            found.append([*row, process.pidfd, process.returncode, fds() == before])
        return found

    found = anyone(body)
    assert [row[0] for row in found] == [
        "wait",
        "wait with timeout",
        "poll",
        "communicate",
        "send_signal",
        "with",
        "del",
    ]
    assert all(row[1:] == [True, False, True, None, True, True, -1, 0, True] for row in found), found


def test_pidfd_is_the_programs_alone_to_set_and_close() -> None:
    """It cannot be assigned to."""
    assert isinstance(nsapi.Popen.pidfd, property)
    assert nsapi.Popen.pidfd.fset is None


def test_pidfd_may_be_0(anyone: Runner) -> None:
    """0 is a valid fd: of a caller without a stdin."""

    def body() -> list[object]:
        os.close(0)
        process = nsapi.Popen(["sleep", "1000"], config=nsapi.Config.new())
        found: list[object] = [process.pidfd, process.poll()]
        process.kill()
        return [*found, process.wait(), process.pidfd, 0 in fds()]

    assert anyone(body) == [0, None, -9, -1, False]


def test_a_signal_never_reaches_a_stranger_with_the_same_pid(root: Runner) -> None:
    """Somebody else has waited for the program, and its pid is another child's: that one is neither killed nor reaped."""

    def body() -> list[object]:
        process = nsapi.Popen(["sleep", "1000"], config=nsapi.Config.new("uts"))
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        next_pid(process.pid)
        stranger = subprocess.Popen(["sleep", "1000"])
        found: list[object] = [stranger.pid == process.pid, process.returncode]
        with process._waitpid_lock:  # type: ignore[attr-defined]  # as if a thread had it, which is about to look
            process.kill()
        process.kill()
        process.terminate()
        found += [process.poll(), process.wait(), process.pidfd, stranger.poll()]
        stranger.terminate()
        return [*found, stranger.wait()]

    found = root(body, under=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))
    known = found.pop(2)
    assert known in (0, -9)  # Linux 6.15 still tells how it ended
    assert found == [True, None, known, -1, None, -15]


def test_threads_may_wait_and_signal_at_once(anyone: Runner) -> None:
    """Each waiter has the same status, and no signal goes to an fd that has just been closed."""

    def body() -> list[object]:
        config = nsapi.Config.new("user")
        wrong: list[str] = []
        statuses: list[int | None] = []

        def repeat(act: Callable[[], object]) -> None:
            try:
                while process.returncode is None:
                    act()
            except BaseException as error:
                wrong.append(repr(error))

        for _ in range(10):
            process = nsapi.Popen(["cat"], stdin=subprocess.PIPE, config=config)
            acts = (process.wait, process.poll, lambda: process.send_signal(0), lambda: process.send_signal(0))
            threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
            for thread in threads:
                thread.start()
            process.kill()
            for thread in threads:
                thread.join()
            assert process.stdin is not None
            process.stdin.close()
            statuses.append(process.returncode)
        return [wrong, statuses]

    assert anyone(body) == [[], [-9] * 10]


# ---- pid 1 ----


def test_pid_1_gets_only_signals_that_it_has_a_handler_for(anyone: Runner) -> None:
    """terminate() does nothing to a sleep that is pid 1; kill() ends it, and terminate() ends what has a handler."""

    def body() -> dict[str, object]:
        found: dict[str, object] = {}
        for name, types in (("pid 1", ("user", "pid")), ("another", ("user",))):
            with nsapi.Popen(["sleep", "1000"], config=nsapi.Config.new(*types)) as process:
                process.terminate()
                process.send_signal(signal.SIGINT)
                process.kill()
                found[name] = [process.wait(), process.shares_pidns]
        script = "trap 'exit 5' TERM; sleep 1000 & echo $$; wait"
        config = nsapi.Config.new("user", "pid")
        with nsapi.Popen(["sh", "-c", script], config=config, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found["inside"] = process.stdout.readline()
            found["outside"] = status("NSpid", process.pid).split() == [str(process.pid), "1"]
            process.terminate()
            try:
                found["with a handler"] = process.wait(timeout=60)
            finally:
                process.kill()
        return found

    assert anyone(body) == {
        "pid 1": [-9, False],
        "another": [-15, True],
        "inside": "1\n",
        "outside": True,
        "with a handler": 5,
    }


def test_process_group_in_a_new_pid_namespace(anyone: Runner) -> None:
    """0 is the program's own; another is the caller's, though it has no number in there."""

    def body() -> list[object]:
        found: list[object] = []
        for group in (0, os.getpgid(0)):
            with nsapi.Popen(["sleep", "1000"], config=nsapi.Config.new("user", "pid"), process_group=group) as process:
                found.append(os.getpgid(process.pid) == (group or process.pid))
                process.kill()
        return found

    assert anyone(body) == [True, True]


# ---- what fails leaves nothing ----


@pytest.mark.parametrize("keyword", ["process_group", "umask"])
@pytest.mark.parametrize("number", [2**31, 2**32, 2**64, -(2**32)])
def test_a_number_that_the_kernel_cannot_hold_is_refused(root: Runner, keyword: str, number: int) -> None:
    """It is not cut, which would make 0 of most of these: a umask that hides nothing."""

    def body(keyword: str, number: int) -> object:
        keywords: dict[str, Any] = {keyword: number}
        try:
            return nsapi.run(["true"], config=nsapi.Config.new("uts"), **keywords).returncode
        except (ValueError, OverflowError) as error:
            return [str(error), children()]

    message, left = root(body, keyword, number)
    assert keyword in message
    assert left == []


def test_a_missing_program_is_the_error_of_subprocess_and_more(anyone: Runner) -> None:
    """FileNotFoundError with its filename, and a NamespaceError that tells the step; for a missing cwd too."""

    def body() -> list[dict[str, object]]:
        config, found = nsapi.Config.new("user"), []
        for args, cwd in ((["/nothing", "x"], None), (["true"], "/nothing")):
            try:
                nsapi.Popen(args, config=config, cwd=cwd)
            except FileNotFoundError as error:
                facts = {name: getattr(error, name) for name in ("errno", "filename", "path", "step")}
                found.append({**facts, "known": isinstance(error, nsapi.NamespaceError)})
        return found

    wanted = {"errno": errno.ENOENT, "filename": "/nothing", "path": "/nothing", "known": True}
    assert anyone(body) == [{**wanted, "step": "exec /nothing"}, {**wanted, "step": "chdir /nothing"}]


def test_a_call_that_is_refused_leaves_nothing_open(anyone: Runner) -> None:
    """Whatever is wrong with it, and whatever this Python's subprocess forgets to close."""

    def body() -> dict[str, object]:
        import contextlib
        import gc

        class NoFd:
            def fileno(self) -> int:
                raise OSError(errno.ENXIO, "no fd")

        wrong: dict[str, tuple[Any, ...]] = {
            "args": ([], [1], ["a\0b"], None),
            "bufsize": ("1",),
            "creationflags": (1,),
            "cwd": ("a\0b", 1.5, "/nothing"),
            "encoding": ("no such encoding", "hex", 1),
            "env": ({"a=": "b"}, 1),
            "errors": (1,),
            "executable": ("a\0b", "/nothing"),
            "extra_groups": ("wheel", [-1], ["no such group"], [1.5]),
            "group": ("no such group", -1, 1.5),
            "pass_fds": ((99,), (-1,), 1),
            "pipesize": ("1",),
            "preexec_fn": (print,),
            "process_group": ("1", 1),
            "startupinfo": (1,),
            "stderr": (NoFd(), "text", 99, -9),
            "stdin": (subprocess.STDOUT, 99, "text"),
            "stdout": (subprocess.STDOUT, 99, "text"),
            "umask": ("1", None),
            "universal_newlines": (False,),
            "user": ("no such user", -1, 1.5),
        }
        found: dict[str, object] = {}
        for keyword, values in wrong.items():
            for value in values:
                keywords: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
                keywords |= {"args": ["true"], "text": True, "config": nsapi.Config.new("user"), keyword: value}
                before = fds()
                with contextlib.suppress(Exception), nsapi.Popen(**keywords):
                    found[f"{keyword}={value!r}"] = "is not refused"
                gc.collect()
                if fds() != before or children():
                    found[f"{keyword}={value!r}"] = [len(fds()) - len(before), children()]
        return found

    assert anyone(body) == {}


def test_without_free_fds_there_is_an_error_and_nothing_is_left(anyone: Runner) -> None:
    """EMFILE at whatever place it comes."""

    def body() -> list[object]:
        import contextlib
        import resource

        config, found = nsapi.Config.new("user"), list[object]()
        nsapi.run(["true"], config=config)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        full = []
        with contextlib.suppress(OSError):
            while True:
                full.append(os.dup(0))
        for free in range(8):
            for fd in full[:free]:
                os.close(fd)
            try:
                process = nsapi.Popen(["cat"], stdin=0, stdout=2, stderr=1, config=config)
                found.append(process.wait())
            except OSError as error:
                found.append(error.errno)
            still_free = [os.dup(0) for _ in range(free)]
            assert sorted(still_free) == sorted(full[:free])
        os.closerange(3, 64)
        return [*found, children()]

    *found, left = anyone(body)
    assert left == []
    assert found == sorted(found, reverse=True)  # errors first, then success
    assert (found[0], found[-1]) == (errno.EMFILE, 0)


def test_ctrl_c_in_run_ends_and_reaps_the_program(anyone: Runner) -> None:
    """Whatever run is doing; no warning comes later of a program that still runs."""

    def body() -> list[object]:
        import gc

        signal.signal(signal.SIGINT, signal.default_int_handler)
        before, found, ways = fds(), list[object](), list[dict[str, Any]]()
        ways += [{}, {"capture_output": True}, {"timeout": 1000}]
        for keywords in ways:
            call = ["sh", "-c", "read line; kill -INT $PPID; exec sleep 1000"]  # once run is waiting
            try:
                nsapi.run(call, config=nsapi.Config.new("user"), input=b"\n", **keywords)
            except KeyboardInterrupt:
                gc.collect()
                found.append([children(), fds() == before])
            for pid in children():
                os.kill(pid, signal.SIGKILL)
        return found

    assert anyone(body) == [[[], True]] * 3


def test_ctrl_c_at_any_line_leaves_nobody_behind(anyone: Runner) -> None:
    """Between the birth of the child and the moment when the caller has the object, nobody else could end it."""

    def body() -> list[object]:
        import gc

        config, wrong = nsapi.Config.new("user"), list[object]()
        nsapi.run(["true"], config=config)
        package = os.path.dirname(nsapi.__file__)
        line, where = 0, list[str]()

        def trace(frame: Any, event: str, argument: object) -> Any:
            nonlocal line
            if not frame.f_code.co_filename.startswith(package) or frame.f_code.co_name in ("wait", "kill", "poll"):
                return None
            if event == "line":
                line -= 1
                if line == 0:
                    sys.settrace(None)
                    where.append(f"{frame.f_code.co_name}:{frame.f_lineno - frame.f_code.co_firstlineno}")
                    raise KeyboardInterrupt
            return trace

        for first in range(1, 2000):
            line, where, process = first, [], None
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                sys.settrace(trace)
                try:
                    process = nsapi.Popen(["sleep", "1000"], config=config)
                except KeyboardInterrupt:
                    pass
                finally:
                    sys.settrace(None)
                gc.collect()
            if process is not None:
                process.kill()
                process.wait()
                return [first > 50, wrong]
            if told or children():
                wrong.append([*where, [str(each.message) for each in told]])
            for pid in children():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        return ["no end"]

    assert anyone(body) == [True, []]


# ---- many, in threads, in asyncio, at the end ----


def test_many_threads_may_start_programs_at_once(anyone: Runner) -> None:
    """Each has its own namespaces, output and status."""

    def body() -> list[object]:
        from concurrent.futures import ThreadPoolExecutor

        def start(number: int) -> bool:
            name = f"host-{number}"
            config = nsapi.Config.new("user", "uts", hostname=name)
            done = nsapi.run(["sh", "-c", f"uname -n; exit {number}"], config=config, stdout=subprocess.PIPE, text=True)
            return (done.stdout, done.returncode) == (name + "\n", number)

        before = fds()
        with ThreadPoolExecutor(8) as pool:
            right = list(pool.map(start, range(80)))
        return [right.count(True), fds() == before]

    assert anyone(body) == [80, True]


def test_the_thread_of_an_asyncio_loop_may_start_programs(anyone: Runner) -> None:
    """Asyncio's own children are not disturbed, the loop may wait by the pidfd, and its other threads work too."""

    def body() -> list[object]:
        import asyncio

        config = nsapi.Config.new("user")

        async def main() -> list[object]:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            theirs = await asyncio.create_subprocess_exec("sh", "-c", "exit 4")
            ours = nsapi.Popen(["sh", "-c", "read line; exit 5"], stdin=subprocess.PIPE, config=config)
            loop.add_reader(ours.pidfd, ended.set)
            at_once = nsapi.run(["sh", "-c", "exit 6"], config=config)
            in_thread = await asyncio.to_thread(nsapi.run, ["sh", "-c", "exit 7"], config=config)
            assert ours.stdin is not None
            ours.stdin.close()
            await ended.wait()
            loop.remove_reader(ours.pidfd)
            return [await theirs.wait(), ours.poll(), at_once.returncode, in_thread.returncode]

        return asyncio.run(main())

    assert anyone(body) == [4, 5, 6, 7]


def test_a_program_that_runs_at_the_end_of_the_interpreter_makes_no_noise(anyone: Runner) -> None:
    """As with subprocess: no error from __del__, when modules are empty already."""

    def body() -> list[str]:
        answers = []
        for verb in (
            "subprocess.Popen(['cat'], stdin=-1)",
            "nsapi.Popen(['cat'], stdin=-1, config=nsapi.Config.new('user'))",
        ):
            code = f"import nsapi, subprocess\nprocess = {verb}\ncircle = [process]\ncircle.append(circle)"
            argv = [sys.executable, "-W", "ignore", "-c", code]
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
            answers.append(done.stdout + done.stderr)
        return answers

    assert anyone(body) == ["", ""]


def test_a_subclass_is_one_too(anyone: Runner) -> None:
    """As of subprocess.Popen: what a subclass overrides is used, and repr has its name."""

    def body() -> list[object]:
        class Mine(nsapi.Popen):
            def __init__(self, *args: Any, **keywords: Any) -> None:
                super().__init__(*args, config=nsapi.Config.new("user"), **keywords)

            def wait(self, timeout: float | None = None) -> int:
                return super().wait(timeout) + 100

        with Mine(["sh", "-c", "exit 1"]) as process:
            return [process.wait(), repr(process), isinstance(process, subprocess.Popen)]

    assert anyone(body) == [101, "<Mine: returncode: 1 args: ['sh', '-c', 'exit 1']>", True]


def test_pipes_that_cannot_be_made_are_not_left(anyone: Runner) -> None:
    """Where fds run out at any of them, or one cannot have its size; some Pythons' subprocess keeps those before it."""

    def body() -> list[int | None]:
        import resource

        pipe, devnull, found = subprocess.PIPE, subprocess.DEVNULL, []
        config, hard = nsapi.Config.new("user"), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        nsapi.run(["true"], config=config)  # loads what is loaded when it is first used
        before = fds()
        free = max(before) + 1
        rows: list[tuple[int, dict[str, Any]]] = [(free + more, {"stdin": pipe}) for more in range(6)]
        rows += [(free + more, {"stdin": devnull}) for more in range(3)]
        rows.append((hard, {"stdin": pipe, "pipesize": 2**31 - 1}))
        fill = [os.dup(0) for _ in range(free - len(before) - 1)]  # the last, which is below free, is listdir's
        for limit, keywords in rows:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                nsapi.Popen(["true"], config=config, stdout=pipe, stderr=pipe, **keywords)
            except OSError as error:
                found.append(error.errno)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            assert {fd: where for fd, where in fds().items() if fd not in fill} == before, (limit, keywords)
        return found[:6] + found[9:]

    *exhausted, pipesize = anyone(body)
    assert exhausted == [errno.EMFILE] * 6
    assert pipesize in (errno.EPERM, errno.EINVAL, errno.ENOMEM, errno.EBUSY)
