"""How tests reach the real kernel: every body that changes anything runs in a process of its own, as root or as a user."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

REPOSITORY = Path(__file__).parent.parent
USER = 61234  # nobody's; the tests' ordinary user
AS_OTHER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all")
CI = os.environ.get("CI") == "true"

for each in (signal.SIGINT, signal.SIGQUIT):  # ignored in what a shell's script starts by `&`, and so in all it starts
    if signal.getsignal(each) is signal.SIG_IGN:
        signal.signal(each, signal.default_int_handler if each is signal.SIGINT else signal.SIG_DFL)

PRELUDE = """
import errno, json, os, pathlib, signal, socket, subprocess, sys, tempfile, threading, time, warnings
warnings.simplefilter("error")
import nsapi
from inside import *
"""

AS_USER = """
assert os.getuid() != 0 != os.geteuid(), "runs as root by mistake"
assert status("CapEff") == "0000000000000000", "has capabilities by mistake"
"""


def lacking(what: str) -> None:
    """Skip, saying what is missing; in CI, where .ci/run installs it, fail."""
    if CI:
        pytest.fail(f"CI lacks what .ci/run should have installed: {what}")
    pytest.skip(f"needs {what}")


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        lacking(f"the command {name}")
    assert path is not None
    return path


#: What the ordinary user is called where he needs a name.
NAME = "nsapi-test"


def with_etc(folder: Path, **files: str) -> list[str]:
    """Run what follows where these files of /etc have other contents: in a mount namespace, which ends with it.

    *folder* is where they lie, for everybody to read.
    """
    tool("unshare")
    own = Path(tempfile.mkdtemp(dir=folder))
    own.chmod(0o755)
    script = []
    for name, content in files.items():
        if not Path("/etc", name).exists():
            lacking(f"/etc/{name}")
        (own / name).write_text(content)
        script.append(f"mount --bind {own / name} /etc/{name}")
    return ["unshare", "--mount", "sh", "-c", " && ".join([*script, 'exec "$@"']), "sh"]


def ids_of(name: str, uid: int, first: int = 100000, count: int = 65536) -> dict[str, str]:
    """Files of /etc in which *uid* is called *name*, and is granted these ids."""
    line = f"{name}:{first}:{count}\n"
    passwd = Path("/etc/passwd").read_text() + f"{name}:x:{uid}:{uid}::/:/bin/sh\n"
    return {"passwd": passwd, "subuid": line, "subgid": line}


class Runner:
    """Calls a function in a fresh interpreter and gives its result back, through JSON.

    Its source is all that travels: it sees the names of PRELUDE, those of inside.py, and its arguments.
    """

    def __init__(self, name: str, python: str, prefix: list[str], prelude: str, library: Path) -> None:
        self.name, self.python, self.prefix, self.prelude, self.library = name, python, prefix, prelude, library

    def __call__(self, body: Callable[..., Any], *args: Any, under: tuple[str, ...] = (), timeout: float = 120) -> Any:
        source = textwrap.dedent(inspect.getsource(body))
        call = f"{body.__name__}(*json.loads({json.dumps(args)!r}))"
        code = f"{PRELUDE}{self.prelude}\n{source}\nprint('RESULT', json.dumps({call}), flush=True)\n"
        done = subprocess.run(
            [*self.prefix, *under, self.python, "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(self.library), "HOME": "/"},
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"as {self.name}, exit status {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Warning" not in done.stderr, done.stderr
        results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        assert len(results) == 1, done.stdout + done.stderr
        return json.loads(results[0][7:])

    def __repr__(self) -> str:
        return self.name


@pytest.fixture(scope="session")
def library() -> Iterator[Path]:
    """Where inside.py is, for a user who may not read this checkout."""
    folder = Path(tempfile.mkdtemp(prefix="nsapi-tests-"))
    folder.chmod(0o755)
    shutil.copy(Path(__file__).with_name("inside.py"), folder)
    (folder / "inside.py").chmod(0o644)
    yield folder
    shutil.rmtree(folder)


def _works_for_user(python: str) -> bool:
    # By way of env: setpriv itself execs while it still may read root's home.
    command = [*AS_OTHER, "env", python, "-c", "import nsapi, attrs"]
    try:
        return subprocess.run(command, capture_output=True, cwd="/", timeout=60).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="session")
def user_python(library: Path) -> str:
    """An interpreter with nsapi that an ordinary user can run: ours, or one with a venv where he can read it.

    NSAPI_TEST_USER_PYTHON names one made before (.ci/run does, for all its runs of this suite).
    """
    if os.geteuid() != 0:
        lacking("root, to play an ordinary user")
    tool("setpriv")
    for python in (os.environ.get("NSAPI_TEST_USER_PYTHON"), sys.executable):
        if python and _works_for_user(python):
            return python
    if not Path("/usr/bin/python3").exists():
        lacking("/usr/bin/python3, for a venv that an ordinary user can run")
    venv = library / "venv"
    build = library / "build"
    shutil.copytree(REPOSITORY, build, ignore=shutil.ignore_patterns(".git", ".venv", "build", "*.so", ".*_cache"))
    for command in (
        ["/usr/bin/python3", "-m", "venv", str(venv)],
        [str(venv / "bin/pip"), "install", "--quiet", f"{build}[test]"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lacking(f"python3-venv, python3-dev and gcc for a user's venv: {done.stdout}{done.stderr}")
    assert _works_for_user(str(venv / "bin/python"))
    return str(venv / "bin/python")


@pytest.fixture(scope="session")
def root(library: Path) -> Runner:
    if os.geteuid() != 0:
        lacking("root")
    return Runner("root", sys.executable, [], "assert os.getuid() == 0\n", library)


@pytest.fixture(scope="session")
def user(request: pytest.FixtureRequest, library: Path) -> Runner:
    """An ordinary user: this one, or as root a real other uid without any capability."""
    if os.geteuid() != 0:
        return Runner("user", sys.executable, [], AS_USER, library)
    return Runner("user", request.getfixturevalue("user_python"), [*AS_OTHER, "env"], AS_USER, library)


@pytest.fixture
def granted(root: Runner, user_python: str, library: Path, readable_tmp: Path) -> Runner:
    """The ordinary user with a name, and 65,536 ids from 100000 on."""
    prefix = [*with_etc(readable_tmp, **ids_of(NAME, USER)), *AS_OTHER, "env"]
    return Runner("user", user_python, prefix, AS_USER, library)


def setuid(script: str, *, folder: Path, name: str) -> str:
    """Make a helper that is setuid root, as newuidmap is; scripts get nothing of it. What PATH must begin with for it."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    (folder / name).write_text(script)
    (folder / name).chmod(0o4755)
    folder.chmod(0o777)
    return str(folder)


@pytest.fixture(params=["root", "user"])
def anyone(request: pytest.FixtureRequest) -> Runner:
    """Both, one after the other."""
    runner = request.getfixturevalue(request.param)
    assert isinstance(runner, Runner)
    return runner


@pytest.fixture
def readable_tmp() -> Iterator[Path]:
    """A folder that everybody can read and write."""
    folder = Path(tempfile.mkdtemp(prefix="nsapi-tests-"))
    folder.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
    yield folder
    shutil.rmtree(folder)
