"""On another system than Linux the model works and every verb says why it cannot; and what an import costs on Linux."""

from __future__ import annotations

import errno
import inspect
import json
import os
import pathlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner, tool
from inside import failure

import nsapi

OTHERS = ("darwin", "win32")
#: The public names that are values and work everywhere. All others are verbs.
MODEL = """
    Child Config IDMap IDMaps Namespace NamespaceType Namespaces is_namespace_supported namespace_types ns_name TYPE_CHECKING
    oci NamespaceError NamespaceRestoreError Unsupported NamespaceInfo Snapshot
""".split()


def go_elsewhere(platform: str) -> None:
    """Make of this fresh interpreter one of another system: its name, no C core, nothing that only Linux's Python has."""
    import asyncio
    import resource
    import select
    import signal
    import subprocess

    import attrs  # and with it all of the standard library that it uses: they know their way about

    assert attrs
    assert asyncio
    absent: Any = None
    for name in ("nsapi._ffi", "cffi", "_cffi_backend"):
        sys.modules[name] = absent
    names = "P_ALL P_PID P_PGID P_PIDFD pidfd_open waitid setns unshare memfd_create eventfd O_PATH O_TMPFILE getresuid"
    gone: list[tuple[Any, str]] = [(os, names), (signal, "pidfd_send_signal sigtimedwait"), (resource, "prlimit")]
    if platform == "win32":
        for name in ("fcntl", "resource", "pwd", "grp", "termios"):
            sys.modules[name] = absent
        gone += [
            (os, "O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK environb fork uname statvfs getppid"),
            (os, "getuid geteuid getgid getegid WNOHANG WNOWAIT WEXITED WSTOPPED WUNTRACED CLD_EXITED CLD_KILLED"),
            (signal, "SIGKILL SIGCHLD SIGSTOP pthread_sigmask"),
            (select, "poll epoll"),
        ]
    for module, words in gone:
        for name in words.split():
            if hasattr(module, name):
                delattr(module, name)
    assert subprocess
    sys.platform = platform
    del sys.modules["nsapi"]


@pytest.fixture(params=OTHERS)
def elsewhere(request: pytest.FixtureRequest, library: Path) -> Runner:
    """Runs a body in a Python of another system, as far as this one can look like it."""
    prelude = f"{inspect.getsource(go_elsewhere)}\ngo_elsewhere({request.param!r})\nimport nsapi\n"
    return Runner(request.param, sys.executable, [], prelude, library)


# ---- another system ----


def test_elsewhere_the_model_works(elsewhere: Runner) -> None:
    """Types, namespaces, id maps and configs can be made, read, checked, compared and shown, as for another machine."""

    def body() -> dict[str, Any]:
        fields: dict[str, Any] = {"hostname": "x", "loopback": True, "time_offsets": {"boottime": 1.5}}
        fields |= {"uid_mappings": "0:1000:1", "gid_mappings": "0:1000:1", "capabilities": {"bounding": ["CAP_KILL"]}}
        config = nsapi.Config.new("user", "uts", "time", net="blue", **fields)
        config.validate()
        nsapi.Config.join(4321, "net", "ipc").validate()
        nsapi.Config.join("blue").validate()
        namespaces = nsapi.Namespaces(["user", ("net", "/run/netns/blue")])
        namespaces.add("uts")
        return {
            "parse": {nsapi.NamespaceType.parse(word).value for word in ("net", "network", "NEWNET", "CLONE_NEWNET")}
            == {"NEWNET"},
            "names": [nsapi.ns_name(each) for each in (*nsapi.namespace_types(), "mount", "nothing")],
            "supported": nsapi.is_namespace_supported("nothing"),
            "namespaces": [namespaces.remove("uts"), namespaces.remove("uts"), namespaces.path_of("net")],
            "get_path": namespaces[0].get_path(7),
            "repr": repr(namespaces[0]),
            "ids": [each.to_host(0) for each in nsapi.IDMap.parse("0:1000:1")],
            "equal": config == nsapi.Config.new("user", "uts", "time", net="blue", **fields),
            "dumped": nsapi.oci.load(nsapi.oci.dump(config)) is not None,
            "loaded": nsapi.oci.load({"linux": {"namespaces": [{"type": "network"}]}}).namespaces.contains("net"),
            "shown": repr(config).startswith("Config("),
            "refused": failure(nsapi.Config.new(hostname="x").validate)["text"],
        }

    assert elsewhere(body) == {
        "parse": True,
        "names": ["user", "ipc", "uts", "net", "pid", "mnt", "cgroup", "time", "mnt", ""],
        "supported": False,
        "namespaces": [True, False, "/run/netns/blue"],
        "get_path": "/proc/7/ns/user",
        "repr": "Namespace(type=<NamespaceType.USER: 'NEWUSER'>, path='')",
        "ids": [1000],
        "equal": True,
        "dumped": True,
        "loaded": True,
        "shown": True,
        "refused": "hostname: 'x' needs a uts namespace, so as not to rename the host",
    }


def test_elsewhere_flags_are_unknown(elsewhere: Runner) -> None:
    """The compiler knows them, and there was none: Unsupported, not a number made up."""

    def body() -> list[dict[str, object]]:
        return [
            failure(lambda: nsapi.NamespaceType.NET.flag),
            failure(lambda: nsapi.Namespaces(["net"]).clone_flags()),
            failure(lambda: nsapi.Config.new("net").namespaces.clone_flags()),
        ]

    for answer in elsewhere(body):
        assert answer.get("classes", [])[:1] == ["Unsupported"]
        assert f"this is {elsewhere}" in answer["text"]


def test_elsewhere_every_verb_is_unsupported(elsewhere: Runner) -> None:
    """Each says on which system it is, whatever its target; not that a file is missing, or a name of Linux's Python."""

    def body(*model: str) -> dict[str, str]:
        class Process:
            pid = 4321

        class File:
            def fileno(self) -> int:
                return 0

        targets = [4321, Process(), File(), "blue", "/run/netns/blue", "/", b"/", pathlib.Path("/dev/null")]
        configs = [nsapi.Config.new(*types) for types in ([], ["user"], ["net", "pid"])]
        configs += [
            nsapi.Config.new(net="/run/netns/blue"),
            nsapi.Config.new(cgroup_path="/x"),
            nsapi.Config(root="/x"),
        ]
        programs: list[tuple[Any, ...]] = [(["true"], {"config": config}) for config in configs]
        programs += [(["true"], {"target": target, "types": ["net"]}) for target in targets]
        table: dict[str, list[tuple[Any, ...]]] = {
            "NamespaceHandle": [(0,), (99,), (-1,)],
            "Popen": programs,
            "ThreadPoolExecutor": [*((target, "net") for target in targets), (4321, "net", "mnt"), (4321, "pid")],
            "boot_env": [(each,) for each in configs],
            "bootstrap_data": [(each,) for each in configs],
            "create_subprocess_exec": [(*argv, keywords) for argv, keywords in programs],
            "ProcessPoolExecutor": [({"config": each},) for each in configs],
            "call": [(len, "x", {"config": each}) for each in configs] + [(len, "x", {"target": 1, "method": "fork"})],
            "clone": [(len, "x"), (len, "x", {"flags": "net"}), (len, "x", {"flags": 1 << 30})],
            "create": [("user",), ("user", {"maps": "auto"})],
            "discover": [("net",), (["net", "pid"],), (None, {"sources": "fds"})],
            "id_maps": [(each,) for each in ("root", "auto", "identity", 4321, Process())],
            "current": [(each,) for each in nsapi.NamespaceType],
            "enter": [*((target, "net") for target in targets), (4321, "net", "mnt"), (4321, "user"), (4321, "time")],
            "named": [("net",), ("mnt",)],
            "open": [(target, "net") for target in targets],
            "run": programs,
            "start_initialization": [(len, [])],
            "socket": [(each,) for each in targets],
            "socketpair": [(each,) for each in targets],
            "setns": [(0,), (99, "net"), (-1,), (0, 1 << 30), (File(), "net")],
            "unpin": [("blue",), ("/a/b", "net")],
            "unshare": [("net",), ("user", "uts"), (1 << 30,)],
            "visit": [(targets, "net"), ([], "mnt"), ([], "user")],
        }

        def call(name: str, arguments: tuple[Any, ...]) -> object:
            verb, keywords = getattr(nsapi, name), {}
            if isinstance(arguments[-1], dict):
                *arguments, keywords = arguments  # type: ignore[assignment]
            if name == "NamespaceHandle":
                verb = verb.from_fd
            made = verb(*arguments, **keywords)
            if name == "enter":
                with made:
                    pass
            if hasattr(made, "send"):
                made.send(None)  # as a loop would
            return made

        public = {name for name in dir(nsapi) if not name.startswith("_")} - set(model)
        wrong = dict.fromkeys(public - table.keys(), "is not in the table of this test")
        for name, rows in table.items():
            for number, row in enumerate(rows):
                key = f"{name}, row {number}"
                try:
                    wrong[key] = f"returned {call(name, row)!r}"
                except nsapi.Unsupported as error:
                    if error.errno != errno.ENOSYS or f"this is {sys.platform}" not in str(error):
                        wrong[key] = str(error)
                except BaseException as error:
                    wrong[key] = f"{type(error).__name__}: {error}"
        return wrong

    assert elsewhere(body, *MODEL) == {}


def test_on_linux_a_missing_core_is_a_broken_installation(library: Path) -> None:
    """It is an ImportError: 'unsupported' would send the user to look for another kernel."""

    def body() -> list[dict[str, object]]:
        absent: Any = None
        sys.modules["nsapi._ffi"] = absent
        alone = (
            "NamespaceError",
            "NamespaceRestoreError",
            "Unsupported",
            "IDMap",
            "IDMaps",
        )  # which know nothing of it
        names = [name for name in dir(nsapi) if name not in alone]
        return [failure(lambda: getattr(nsapi, name)) for name in names if name[0] != "_" and name != "TYPE_CHECKING"]

    answers = Runner("without a core", sys.executable, [], "", library)(body)
    assert len(answers) > 10
    for answer in answers:
        assert "ImportError" in answer.get("classes", [])
        assert "nsapi._ffi" in answer["text"]


# ---- what an import costs ----

#: What a first program says, and every module that each line of it loads, in the words of sys.modules.
LOADED_BY: list[tuple[str, str]] = [
    ("import nsapi", "nsapi"),
    (
        "handle = nsapi.current('net')",
        "_cffi_backend nsapi._errors nsapi._ffi nsapi._ffi.lib nsapi._handle nsapi._native nsapi._switch nsapi._types",
    ),
    ("with handle: pass", ""),
    ("nsapi.unshare('uts')", "nsapi._enter nsapi._target"),
    ("with nsapi.enter(handle): pass", ""),
    ("handle.close()", ""),
]
#: What every Python has loaded, or loads in a fraction of a millisecond.
SMALLEST = "import __future__, enum, errno, importlib, os"


def loaded_by(*lines: str) -> list[set[str]]:
    """Run the lines in a bare interpreter; what each adds to sys.modules."""
    code = f"import sys\nsys.path[:] = {[str(Path(nsapi.__file__).parent.parent), *sys.path]!r}\n{SMALLEST}\n"
    code += "before, added = set(sys.modules), []\n"
    for line in lines:
        code += f"{line}\nadded.append(sorted(set(sys.modules) - before)); before = set(sys.modules)\n"
    code += "import json; print(json.dumps(added))"
    prefix = [] if os.geteuid() == 0 else [tool("unshare"), "--map-root-user", "--net"]
    command = [*prefix, sys.executable, "-I", "-S", "-W", "error", "-c", code]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [set(names) for names in json.loads(done.stdout)]


def test_import_loads_next_to_nothing() -> None:
    """A tool that enters one namespace pays for the system calls' modules, and not for attrs, typing, re or subprocess."""
    loaded = loaded_by(*(line for line, _ in LOADED_BY))
    assert [(line, " ".join(sorted(names))) for (line, _), names in zip(LOADED_BY, loaded, strict=True)] == LOADED_BY


#: What else may come beside attrs and subprocess: the code, and the modules it adds to nsapi's own.
LOADED_BESIDE: list[tuple[str, str, set[str]]] = [
    ("import attrs, math", "nsapi.Config.new('net'), nsapi.IDMap(0, 0, 1), nsapi.Namespaces()", set()),
    ("import attrs, math, subprocess", "nsapi.run(['true'], config=nsapi.Config.new('user', 'uts'))", {"resource"}),
]


@pytest.mark.parametrize(("before", "line", "more"), LOADED_BESIDE, ids=["model", "run"])
def test_model_and_run_load_attrs_and_subprocess_and_little_more(before: str, line: str, more: set[str]) -> None:
    """Who describes namespaces needs attrs; who runs a program there would else have used subprocess."""
    _, loaded = loaded_by(before, f"import nsapi; {line}")
    assert {name for name in loaded if not name.startswith("nsapi.")} == {"_cffi_backend", "nsapi"} | more


def test_typing_extensions_is_never_imported(library: Path) -> None:
    """It is there for type checkers: every name can be used without it."""

    def body() -> list[str]:
        absent: Any = None
        sys.modules["typing_extensions"] = absent
        loaded = [type(getattr(nsapi, name)).__name__ for name in dir(nsapi)]
        with open("/dev/null") as file:
            nsapi.run(["true"], config=nsapi.Config.new("user", "uts"), stdin=file)
        return loaded

    assert "function" in Runner("without", sys.executable, [], "", library)(body)
