"""The pytest plugin, seen by who runs pytest: each case is a session of its own, with the plugin loaded by its name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import Runner, lacking, tool

INI = "[pytest]\naddopts = --strict-markers --strict-config -p nsapi.testing -rA\nfilterwarnings = error\n"
PRELUDE = """
import errno, os, signal, socket, subprocess, sys, time, warnings
from pathlib import Path
import pytest
from inside import *
"""
#: Where user namespaces are refused, as on hosts that forbid them.
NO_USER_NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"',
    "sh",
)


class Session:
    """A pytest of its own, in a folder of its own, on the tests that are given it as text."""

    def __init__(self, runner: Runner, folder: Path, library: Path) -> None:
        self.runner, self.folder = runner, folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self.environment |= {"PYTHONPATH": str(library), "HOME": "/", "COLUMNS": "500", "TMPDIR": str(folder)}
        self.environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # what else is installed here makes it no faster
        self.write("pytest.ini", INI)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o644)

    def command(self, source: str, *options: str, under: tuple[str, ...] = ()) -> list[str]:
        self.write("test_it.py", PRELUDE + textwrap.dedent(source))
        return [*self.runner.prefix, *under, self.runner.python, "-m", "pytest", *options]

    def __call__(self, source: str, *options: str, under: tuple[str, ...] = ()) -> Done:
        command = self.command(source, *options, under=under)
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        return Done(done.returncode, done.stdout + done.stderr)


class Done:
    """How it ended: exit status, all that it has printed, and of each test what the summary says."""

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text
        self.results: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        for line in text.partition("short test summary info")[2].splitlines():
            word, _, rest = line.partition(" test_it.py::")
            if rest and word.isupper():
                name, _, reason = rest.partition(" - ")
                self.results[name] = word.lower()
                self.reasons[name] = reason

    def of(self, name: str) -> str:
        """What it says about one test, from its headline to the next."""
        return self.text.partition(f" {name} ___")[2].partition("\n___")[0]


@pytest.fixture
def root_session(root: Runner, readable_tmp: Path, library: Path) -> Session:
    return Session(root, readable_tmp, library)


@pytest.fixture
def user_session(user: Runner, readable_tmp: Path, library: Path) -> Session:
    command = [*user.prefix, user.python, "-c", "import pytest"]
    if subprocess.run(command, cwd="/", capture_output=True).returncode:
        lacking("pytest in the ordinary user's Python")
    return Session(user, readable_tmp, library)


@pytest.fixture(params=["root_session", "user_session"])
def session(request: pytest.FixtureRequest) -> Session:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, Session)
    return made


# ---- the marker ----


def test_marked_tests_of_a_user_are_reported_as_all_others(user_session: Session) -> None:
    """Outcomes, tracebacks, output, warnings, durations and junit's XML; outside he has no capability, before and after."""
    done = user_session(
        """
        BEFORE = []

        @pytest.fixture(scope="module")
        def where():
            yield os.getpid(), ns("net")
            print("torn down in", ns("net"))

        def test_outside(where):
            assert os.getuid() == os.geteuid() != 0 and status("CapEff") == "0000000000000000"
            BEFORE.append(everything())

        @pytest.mark.namespace("net")
        @pytest.mark.namespace("user")
        class TestInside:
            def test_passes(self, where, tmp_path, record_property):
                record_property("where", ns("net"))
                record_property("path", tmp_path)
                assert where == (os.getpid(), ns("net"))
                assert os.getuid() == 0 and status("CapEff") != "0000000000000000"
                assert [name for _, name in socket.if_nameindex()] == ["lo"]
                (tmp_path / "file").write_text("x")
                assert tmp_path.is_relative_to(os.environ["TMPDIR"])

            def test_fails(self, where):
                print("this is printed")
                number = 3
                assert number == 4

            @pytest.mark.xfail(strict=True)
            def test_xfails(self):
                assert False

            @pytest.mark.skipif("os.getuid() == 0", reason="root inside")
            def test_skips(self):
                assert False

            @pytest.mark.skip("never")
            @pytest.mark.namespace("nonsense")
            def test_never_starts(self):
                assert False

            @pytest.mark.parametrize("value", ["a", "b[::]/ é"])
            @pytest.mark.filterwarnings("default")
            def test_takes(self, value):
                if value == "a":
                    warnings.warn("be warned")
                else:
                    os.kill(os.getpid(), signal.SIGSEGV)

        def test_outside_again(where):
            assert where == (os.getpid(), ns("net"))
            (before,), after = BEFORE, everything()
            assert [name for name in before if before[name] != after[name]] == []
        """,
        "--junitxml=report.xml",
        "--durations=0",
        "-vv",
        "-o",
        "junit_family=xunit1",
    )
    assert done.status == 1, done.text
    assert done.results == {
        "test_outside": "passed",
        "TestInside::test_passes": "passed",
        "TestInside::test_fails": "failed",
        "TestInside::test_xfails": "xfail",
        "TestInside::test_takes[a]": "passed",
        "TestInside::test_takes[b[::]/ \\xe9]": "failed",
        "test_outside_again": "passed",
    }, done.text
    assert "SKIPPED [1] test_it.py" in done.text
    assert ": root inside" in done.text
    assert ": never" in done.text
    assert "2 failed, 4 passed, 2 skipped, 1 xfailed, 1 warning in" in done.text
    assert "UserWarning: be warned" in done.text
    failed = done.of("TestInside.test_fails")
    for line in (
        ">       assert number == 4",
        "E       assert 3 == 4",
        "this is printed",
        "test_it.py:",
        "torn down in",
    ):
        assert line in failed
    crashed = done.of("TestInside.test_takes[b[::]/ \\xe9]")
    assert "the pytest inside the namespaces (user,net) was ended by SIGSEGV, after setup of the test" in crashed
    assert "Fatal Python error: Segmentation fault" in crashed
    root = ElementTree.parse(user_session.folder / "report.xml").getroot()
    cases = {case.attrib["name"]: [each.tag for each in case] for case in root.iter("testcase")}
    assert cases["test_passes"] == ["properties"]
    assert cases["test_fails"] == cases["test_takes[b[::]/ \\xe9]"] == ["failure"]
    assert root[0].attrib["failures"] == "2"
    properties = {each.attrib["name"]: each.attrib["value"] for each in root.iter("property")}
    assert properties["where"].startswith("net:[")
    assert properties["path"].startswith(str(user_session.folder))


def test_marked_tests_run_under_xdist_beside_others(root_session: Session) -> None:
    """A worker has threads, and is no obstacle; marks of module, class and function are put together."""
    if find_spec("xdist") is None:
        lacking("pytest-xdist")
    done = root_session(
        """
        pytestmark = pytest.mark.namespace("net", loopback=True)

        def test_net(worker_id, testrun_uid):
            assert worker_id == os.environ["PYTEST_XDIST_WORKER"]
            assert "UP" in subprocess.run(["ip", "link", "show", "lo"], capture_output=True, text=True).stdout

        @pytest.mark.xdist_group("more")
        @pytest.mark.namespace("uts", "mnt", hostname="outer")
        class TestMore:
            @pytest.mark.namespace("pid", hostname="box")
            def test_all(self):
                assert os.uname().nodename == "box"
                assert os.getpid() == 2 and Path("/proc/1/comm").read_text() == "nsapi-init\\n"

            def test_mounts(self):
                assert os.uname().nodename == "outer"
                subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)

            @pytest.mark.namespace("net", loopback=False)
            def test_exits(self):
                print("last words")
                os._exit(7)
        """,
        *("-n", "2", "-p", "xdist", "--dist", "loadgroup"),
    )
    assert {name.partition("@")[0]: result for name, result in done.results.items()} == {
        "test_net": "passed",
        "TestMore::test_all": "passed",
        "TestMore::test_mounts": "passed",
        "TestMore::test_exits": "failed",
    }, done.text
    assert "the pytest inside the namespaces (net,uts,mnt) ended with exit status 7, after setup" in done.text
    assert str(root_session.folder) not in Path("/proc/self/mountinfo").read_text()


def test_stopping_and_choosing_is_done_outside(root_session: Session) -> None:
    """-x stops at a failure inside; --lf, -k and -m choose, and what is chosen runs."""
    source = """
        @pytest.mark.namespace("uts")
        def test_passes(): pass

        @pytest.mark.namespace("uts")
        def test_fails(): assert False

        def test_later(): pass
        """
    done = root_session(source, "-x")
    assert done.results == {"test_passes": "passed", "test_fails": "failed"}, done.text
    cached = {path.name for path in root_session.folder.glob(".pytest_cache/v/cache/*")}
    assert cached >= {"lastfailed", "nodeids"}
    done = root_session(source, "--lf", "-k", "fails", "-m", "namespace", "test_it.py::test_fails")
    assert done.results == {"test_fails": "failed"}, done.text
    assert "1 failed in" in done.text


def test_what_other_tests_have_set_up_is_torn_down_after_a_marked_one(root_session: Session) -> None:
    """A fixture of the module ends after its last test, also where that is a marked one; its failure is an error there."""
    done = root_session(
        """
        @pytest.fixture(scope="module")
        def here():
            yield os.getpid()
            assert False, "seen at the end"

        def test_first(here): pass

        @pytest.mark.namespace("uts")
        def test_last(): pass
        """
    )
    assert done.results == {"test_first": "passed", "test_last": "error"}, done.text
    assert "1 error in" in done.text
    assert "seen at the end" in done.reasons["test_last"]


def test_test_that_stops_the_session_stops_it_from_inside(root_session: Session) -> None:
    """pytest.exit inside is pytest.exit."""
    done = root_session(
        """
        @pytest.mark.namespace("uts")
        def test_stops(): pytest.exit("that is enough")

        def test_later(): pass
        """
    )
    assert done.status == 2
    assert "Exit: that is enough" in done.text
    assert done.results == {}


def test_what_is_told_from_inside_is_data_and_never_run(root_session: Session) -> None:
    """A test can write what it wants where its report is expected: it fails, and no code of its choice is run outside."""
    done = root_session(
        """
        import pickle

        class Bomb:
            def __reduce__(self): return os.system, ("touch exploded",)

        @pytest.mark.namespace("uts")
        def test_forges():
            for fd, name in fds().items():
                if name.startswith(os.environ["TMPDIR"]) and fd > 2:
                    os.write(fd, pickle.dumps(Bomb()))
        """,
        "-s",
    )
    assert done.results == {"test_forges": "failed"}, done.text
    assert "posix.system is no plain value" in done.text
    assert not (root_session.folder / "exploded").exists()


def test_what_is_not_collected_inside_fails(root_session: Session) -> None:
    """A module that differs there, or cannot be imported: an error that says so, and the output with it."""
    done = root_session(
        """
        if os.getpid() != int(os.environ.setdefault("OUTSIDE", str(os.getpid()))):
            raise ValueError("not in there")

        @pytest.mark.namespace("uts")
        def test_it(): pass
        """
    )
    assert done.results == {"test_it": "error"}, done.text
    assert "the pytest inside the namespaces (uts) ended with exit status 4, before setup of the test" in done.text
    assert "ValueError: not in there" in done.text


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_pytest_that_is_ended_leaves_nothing_inside(user_session: Session, sent: signal.Signals) -> None:
    """By Ctrl-C, to the pytest outside alone, which reports it; or killed, when it can do nothing any more."""
    command = user_session.command(
        """
        @pytest.mark.namespace("user")
        def test_waits():
            os.write(2, b"ready\\n")
            sys.stdin.read()
        """,
        "-s",
    )
    read, write = os.pipe()
    with subprocess.Popen(
        command,
        cwd=user_session.folder,
        env=user_session.environment,
        stdin=read,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        os.close(read)
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(sent)
        try:
            text, _ = process.communicate(timeout=60)  # to the end of the pipes: nobody else holds them
        finally:
            os.close(write)  # by which it would end
        assert process.wait() == (2 if sent == signal.SIGINT else -signal.SIGKILL), text
    assert ("KeyboardInterrupt" in text) == (sent == signal.SIGINT)


def test_missing_namespaces_are_an_error_or_a_skip_with_the_reason(user_session: Session) -> None:
    """The marker alone fails, requires_namespace skips; both say why; a wrong word is an error; -s, and nothing imported."""
    tool("unshare")
    done = user_session(
        """
        from nsapi.testing import requires_namespace

        def test_plugin_has_imported_nothing():
            assert {name for name in sys.modules if name.split(".")[0] == "nsapi"} == {"nsapi", "nsapi.testing"}

        @pytest.mark.namespace("user", "net")
        def test_marked(): pass

        @requires_namespace("user", "net")
        @pytest.mark.namespace("user", "net")
        def test_required(): pass

        @requires_namespace("user", "net")
        class TestRequired:
            def test_once(self): assert False

        @pytest.mark.requires_namespace("uts")
        def test_root_of_its_own(): pass

        @requires_namespace("bananas")
        def test_wrong_word(): pass

        @pytest.mark.namespace(hostname="x")
        def test_wrong_field(): pass

        @pytest.mark.namespace
        def test_no_word(): pass
        """,
        under=NO_USER_NAMESPACES,
    )
    assert done.results == {
        "test_plugin_has_imported_nothing": "passed",
        "test_root_of_its_own": "passed",
        "test_marked": "error",
        "test_wrong_word": "error",
        "test_wrong_field": "error",
        "test_no_word": "error",
    }, done.text
    reason = "[Errno 28] No space left on device: clone user,net (step 1 of "
    assert done.reasons["test_marked"].startswith(f"Failed: pytest.mark.namespace: {reason}")
    assert "— user.max_user_namespaces is 0" in done.reasons["test_marked"]
    assert "requires_namespace with the same arguments skips" in done.text
    skipped = [line for line in done.text.splitlines() if line.startswith("SKIPPED")]
    assert len(skipped) == 2
    assert all(f": needs namespaces (user,net): {reason}" in line for line in skipped)
    assert done.reasons["test_wrong_word"].startswith("Failed: pytest.mark.requires_namespace: type: 'bananas' is no")
    assert done.reasons["test_wrong_field"].startswith("Failed: pytest.mark.namespace: hostname: 'x' needs a uts")
    assert done.reasons["test_no_word"] == "Failed: pytest.mark.namespace: name at least one namespace type"


# ---- the fixtures ----


def test_netns_is_entered_for_the_test_alone(root_session: Session) -> None:
    """The test and what is set up after it are inside, with lo up; then the thread is home, however the test has ended."""
    done = root_session(
        """
        import nsapi
        HOME = []

        @pytest.fixture
        def server(netns):
            with socket.create_server(("127.0.0.1", 80)) as server:
                yield server
            assert ns("net") != HOME[0]["namespaces"]["net"]

        def test_home():
            nsapi.create("user").close()  # what it needs is kept for the next
            HOME.append(everything())

        def test_inside(netns, server):
            assert netns.type.proc_name == "net" and netns.id[1] == os.stat("/proc/thread-self/ns/net").st_ino
            assert ns("net") != HOME[0]["namespaces"]["net"]
            assert [name for _, name in socket.if_nameindex()] == ["lo"]
            socket.create_connection(("127.0.0.1", 80)).close()
            with netns: pass

        def test_fails(netns): assert False

        def test_moves_on(netns): nsapi.unshare("net")

        def test_forgets_to_leave(netns):
            handle = nsapi.current("uts")
            handle.__enter__()
            nsapi.unshare("uts")
            handle.close()

        def test_home_again():
            (before,), after = HOME, everything()
            assert [name for name in before if before[name] != after[name]] == []
        """
    )
    assert done.results == {
        "test_home": "passed",
        "test_inside": "passed",
        "test_fails": "failed",
        "test_moves_on": "passed",
        "test_forgets_to_leave": "error",
        "test_home_again": "passed",
    }, done.text
    assert done.reasons["test_forgets_to_leave"].endswith("the test has entered something and not left it")


def test_thread_that_cannot_go_home_ends_the_session(root_session: Session) -> None:
    """No test is run where nobody has asked for it to be."""
    done = root_session(
        """
        def test_cannot_go_home(netns): drop_all_capabilities()

        def test_never_comes(): pass
        """
    )
    assert done.status == 3, done.text
    assert "Exit: netns: the thread that runs the tests cannot go home: [Errno 1]" in done.text
    assert "1 passed in" in done.text


def test_netns_of_a_user_is_an_error_that_names_the_remedy(user_session: Session) -> None:
    """Not a skip, which nobody would see; requires_namespace makes one of it."""
    done = user_session(
        """
        from nsapi.testing import requires_namespace

        def test_error(netns): pass

        @requires_namespace("net")
        def test_skip(netns): pass

        @pytest.mark.namespace("user", "net")
        def test_inside(netns):
            assert [name for _, name in socket.if_nameindex()] == ["lo"]
        """
    )
    assert done.results == {"test_error": "error", "test_inside": "passed"}, done.text
    assert done.reasons["test_error"].startswith(
        "Failed: netns: [Errno 1] Operation not permitted: clone net (step 1 of "
    )
    assert "@pytest.mark.namespace('user', 'net') runs a test inside without" in done.text
    assert "needs namespaces (net): [Errno 1] Operation not permitted: clone net (step 1 of" in done.text


def test_sandbox_ends_all_that_it_has_started(session: Session) -> None:
    """Killed, reaped and closed after the test: passed or failed, ended before, stopped, with a full pipe."""
    done = session(
        """
        import nsapi
        nsapi.run(["true"], config=nsapi.Config.new("user", "pid", init=True))  # keeps its launcher for the next

        @pytest.fixture(autouse=True)
        def nothing_left():
            before = fds(), children()
            yield
            assert (fds(), children()) == before

        def test_passes(sandbox):
            config = sandbox.config("user", "pid", "mnt")
            process = sandbox.popen(["sh", "-c", "sleep 1000 & echo $$; wait"], config=config, stdout=-1, text=True)
            assert process.stdout.readline() == "2\\n" and config.init
            os.kill(process.pid, signal.SIGSTOP)

        def test_fails(sandbox):
            config = sandbox.config("user", "pid", init=False)
            writer = sandbox.popen(["sleep", "1000"], config=config, stdin=-1)
            writer.stdin.write(b"x")
            ended = sandbox.popen(["true"], config=config)
            killed = sandbox.popen(["sleep", "1000"], config=config)
            ended.wait()
            killed.kill()
            assert False, "as it shall"

        def test_cannot_start(sandbox):
            with pytest.raises(FileNotFoundError):
                sandbox.popen(["/no/such/program"], config=sandbox.config("user"))
        """
    )
    assert done.results == {"test_passes": "passed", "test_fails": "failed", "test_cannot_start": "passed"}, done.text
    assert "1 failed, 2 passed in" in done.text
    assert "as it shall" in done.reasons["test_fails"]


# ---- the module ----


def test_without_pytest_the_import_says_so() -> None:
    """And nobody else needs it: star-import, dir and help are as they are."""
    code = "import sys; sys.modules['pytest'] = None\nfrom nsapi import *\nimport nsapi\n"
    code += "assert all(hasattr(nsapi, name) for name in dir(nsapi))\nimport nsapi.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: nsapi.testing is a plugin of pytest, which is not here: pip install pytest"
    )
