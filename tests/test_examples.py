"""Every file in examples/ does what it says, as root and as an ordinary user."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, USER, Runner, tool
from inside import ns, unshared

EXAMPLES = sorted(path.name for path in (REPOSITORY / "examples").glob("*.py"))
#: For an ordinary user: capabilities of his own, over a net namespace of his own..
PRIVILEGED = ("unshare", "--map-root-user", "--net")
#: Where user namespaces are refused, as on hosts that forbid them.
NO_USER_NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"',
    "sh",
)


class Examples:
    """Runs a copy of an example that everybody can read, with warnings as errors."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.runner, self.folder = runner, folder

    def __call__(self, name: str, *under: str, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        copy = self.folder / name
        for each in {name, name.replace("_parent", "_child")}:  # the second of two files stands beside the first
            shutil.copy(REPOSITORY / "examples" / each, self.folder)
            (self.folder / each).chmod(0o644)
        return subprocess.run(
            [*self.runner.prefix, *under, self.runner.python, "-W", "error", str(copy), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
            stdin=subprocess.DEVNULL,
        )

    def lines(self, name: str, *under: str) -> list[str]:
        """What a successful run prints."""
        done = self(name, *under)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.splitlines()

    def privileged_lines(self, name: str) -> list[str]:
        """The same with the privilege that entering takes."""
        if self.runner.name == "root":
            return self.lines(name)
        tool("unshare")
        return self.lines(name, *PRIVILEGED)


@pytest.fixture
def examples(anyone: Runner, readable_tmp: Path) -> Examples:
    return Examples(anyone, readable_tmp)


@pytest.fixture
def users_examples(user: Runner, readable_tmp: Path) -> Examples:
    return Examples(user, readable_tmp)


def test_every_example_is_tested_here() -> None:
    boot = ["boot_asyncio.py", "boot_multiprocessing.py", "boot_subprocess.py"]
    init = ["init_child.py", "init_parent.py"]
    others = [
        "asyncio_subprocess.py",
        "asyncio_executor.py",
        "call_inside.py",
        "clone.py",
        "discover.py",
        "enter_net.py",
        "errors.py",
        "from_config_json.py",
        "handle_to_process.py",
        "ids.py",
        "join_process.py",
        "ls_json.py",
        "named.py",
        "process_pool.py",
        "quickstart.py",
        "run_isolated.py",
        "socket_elsewhere.py",
        "test_with_namespaces.py",
        "visit_all.py",
        "with_init.py",
    ]
    assert sorted([*boot, *init, *others]) == EXAMPLES


def test_quickstart_shows_inside_against_outside(examples: Examples) -> None:
    lines = examples.lines("quickstart.py")
    rows = {line[:15].strip(): (line[16:35].strip(), line[35:].strip()) for line in lines[3:14]}
    inside = {name: value for name, (value, _) in rows.items()}
    facts = ["host name", "pid", "uid", "interfaces", "processes"]
    types = [f"{name} namespace" for name in ("user", "pid", "mnt", "net", "uts", "ipc")]
    assert list(rows) == facts + types
    assert {name: inside[name] for name in facts if name != "interfaces"} == {
        "host name": "inside",
        "pid": "1",
        "uid": "0",
        "processes": "1",
    }
    assert "lo" in inside["interfaces"].split()
    assert all(re.fullmatch(r"\w+:\[\d+\]", cell) for name in types for cell in rows[name])
    assert all(rows[name][0] != rows[name][1] for name in types)


def test_quickstart_enters_and_comes_back_as_root(root: Runner, readable_tmp: Path) -> None:
    *_, there, back = Examples(root, readable_tmp).lines("quickstart.py")
    assert re.match(r"This thread, in the net namespace of process \d+: .*\blo\b", there)
    assert back.startswith("This thread, back again: ")


def test_quickstart_says_in_one_line_why_it_cannot(examples: Examples) -> None:
    tool("unshare")
    done = examples("quickstart.py", *NO_USER_NAMESPACES)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"quickstart: \[Errno 28\] .*: clone user,.* \(step 1 of \d+\) — user\.max_user_namespaces is 0\n", done.stderr
    )


def test_enter_net_serves_one_address_in_two_namespaces(examples: Examples) -> None:
    red, blue, own = examples.privileged_lines("enter_net.py")
    pattern = r"<NamespaceHandle net:\[(\d+)\]>: a connection from 127.0.0.1 to port 8080"
    numbers = {re.fullmatch(pattern, line)[1] for line in (red, blue)}  # type: ignore[index]
    assert len(numbers) == 2
    assert own.endswith("in this thread's own namespace")
    assert not any(number in own for number in numbers)


def test_socket_elsewhere_serves_one_address_in_two_namespaces(examples: Examples) -> None:
    red, blue, here = examples.privileged_lines("socket_elsewhere.py")
    pattern = r"<NamespaceHandle net:\[(\d+)\]>: the server of net:\[\1\] has answered"
    numbers = {re.fullmatch(pattern, line)[1] for line in (red, blue)}  # type: ignore[index]
    assert len(numbers) == 2
    assert here.endswith(", and is: True")
    assert not any(number in here for number in numbers)


def test_visit_all_lists_its_own_and_another_namespace(examples: Examples) -> None:
    """A process in a namespace of its own is found and entered, as far as whoever runs it may."""
    if examples.runner.name == "root":
        with unshared("--net") as process:
            lines = examples.lines("visit_all.py")
            other = ns("net", process.pid)
    else:
        lines = examples.privileged_lines("visit_all.py")
        other = ""
    assert re.fullmatch(r"net:\[\d+\] of process \d+ \(this process\): .*\blo\b.*", lines[0])
    assert any(line.startswith(other) and " lo" in line for line in lines[1:]) or not other


def test_run_isolated_tells_three_ends_apart(examples: Examples) -> None:
    assert examples.lines("run_isolated.py") == [
        "uname -n: sandbox",
        "id -u: 0",
        "sh -c ulimit -n: 64",
        "sh -c exit 3: exit status 3",
        "/no/such/program: there is no such program inside",
    ]


def test_run_isolated_names_the_step_that_failed(examples: Examples) -> None:
    tool("unshare")
    done = examples("run_isolated.py", *NO_USER_NAMESPACES)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("run_isolated: clone user,pid,mnt,net,uts,ipc: No space left on device (user.max_")


def test_join_process_joins_all_some_and_half(examples: Examples) -> None:
    lines = examples.privileged_lines("join_process.py")
    names, numbers = [], []
    for line in lines:
        found = re.fullmatch(r".*\b(\S+): (\d+) interfaces, (ipc:\[\d+\])", line)
        assert found is not None, line
        names.append(found[1])
        numbers.append(found[3])
    assert names[1:] == ["elsewhere", "elsewhere", "third"]
    outside, joined_all, joined_two, joined_one = numbers
    assert joined_all != outside == joined_two == joined_one


def test_asyncio_executor_asks_two_namespaces_at_once(examples: Examples) -> None:
    lines = examples.privileged_lines("asyncio_executor.py")
    assert lines == ["this is red", "this is blue", "this is red", "the loop has moved: False"]


def test_handle_to_process_is_entered_there(examples: Examples) -> None:
    sees, status = examples.privileged_lines("handle_to_process.py")
    assert re.match(r"the other process sees: .*\blo\b", sees)
    assert status == "exit status: 0"


@pytest.mark.parametrize(
    "name",
    ["asyncio_executor.py", "enter_net.py", "handle_to_process.py", "join_process.py", "socket_elsewhere.py"],
)
def test_without_privilege_they_say_what_is_needed(name: str, users_examples: Examples) -> None:
    done = users_examples(name)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"\w+: \[Errno 1\] .*: clone net.* — needs CAP_SYS_ADMIN; .*\n", done.stderr)


def test_discover_finds_what_nothing_but_an_fd_holds(examples: Examples) -> None:
    """It makes such a namespace, finds it, and opens it by what was found."""
    lines = examples.lines("discover.py")
    found = next(line for line in lines if ": no process" in line)
    number = re.match(r"net:\[(\d+)\]: no process, reached by /proc/\d+/fd/\d+", found)
    assert number is not None
    assert f"opened again: <NamespaceHandle net:[{number[1]}]>" in lines
    assert any(re.fullmatch(r"user:\[\d+\] +\d+ processes.*", line) for line in lines)


def test_errors_shows_each_kind(examples: Examples) -> None:
    text = "\n".join(examples.lines("errors.py"))
    assert "\n  ValueError\n  hostname: 'mine' needs a uts namespace" in text
    assert "\n  NamespaceError, OSError\n  [Errno 22] Invalid argument: check — a thread can never come back" in text
    assert "\n  NamespaceError, FileNotFoundError, OSError\n  [Errno 2] No such file or directory: open /run/" in text
    assert "\n  Unsupported, NamespaceError, OSError\n  [Errno 38] Function not implemented: check — " in text
    assert "exec /no/such/program (step 8 of 8)" in text
    assert text.endswith("pickled   True")


def test_with_init_is_joined_and_terminated(examples: Examples) -> None:
    assert examples.lines("with_init.py") == ["box nsapi-init sh", "ended by SIGTERM"]


def test_ids_are_looked_up_and_mapped(examples: Examples) -> None:
    uids, gids, *reason, known, last = examples.lines("ids.py")
    assert re.fullmatch(r"uids: 0:\d+:1(,1:\d+:\d+)*", uids)
    assert gids.startswith("gids: 0:")
    assert len(reason) == (1 if "," not in uids else 0)
    assert re.fullmatch(r"0 is \d+ outside, 4000000000 is None", known)
    assert last == "the kernel has them: True"


def test_named_keeps_by_a_name_as_root(root: Runner, readable_tmp: Path) -> None:
    """Where nobody else sees it: /run is its own."""
    script = 'mount -t tmpfs -o mode=755 none /run && exec "$@"'
    under = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    assert Examples(root, readable_tmp).lines("named.py", *under) == [
        "kept by: /run/netns/NAME",
        "inside it is another: True",
        "still listed: False",
    ]


def test_named_tells_an_ordinary_user_what_he_may(users_examples: Examples) -> None:
    why, last = users_examples.lines("named.py")
    assert why.startswith("named: [Errno 1] Operation not permitted: clone net (step 1 of ")
    assert last == "kept by handles, and joined: True"


def test_tests_in_namespaces_pass(examples: Examples) -> None:
    done = examples("test_with_namespaces.py")
    assert done.returncode == 0, done
    if examples.runner.name == "root":
        assert " 5 passed in " in done.stdout
    else:
        assert "needs namespaces (net): [Errno 1] Operation not permitted: clone net (step 1 of " in done.stdout
        assert " 4 passed, 1 skipped in " in done.stdout


def test_asyncio_subprocess_serves_one_port_twice_at_a_time(examples: Examples) -> None:
    assert examples.lines("asyncio_subprocess.py") == [
        "red: the client 0, the server -9",
        "blue: the client 0, the server -9",
        "after its timeout: -9",
    ]


def test_boot_subprocess_ends_as_its_program(examples: Examples) -> None:
    assert examples.lines("boot_subprocess.py") == [
        "we hold its parent: True",
        "it says: pid 1 uid 0 threads 1",
        "exit status: 7",
    ]


def test_boot_asyncio_runs_three_side_by_side(examples: Examples) -> None:
    assert examples.lines("boot_asyncio.py") == [
        "exit statuses: 0 7 8",
        "each is pid 1: True",
        "different namespaces: 3",
    ]


def test_boot_multiprocessing_has_exit_codes(examples: Examples) -> None:
    assert examples.lines("boot_multiprocessing.py") == [
        "pid 1 uid 0 other net namespace: True",
        "exitcode: 7",
        "terminated: -15",
    ]


@pytest.mark.parametrize("name", ["boot_subprocess", "boot_asyncio", "boot_multiprocessing", "init_parent"])
def test_boot_examples_name_the_step_that_failed(examples: Examples, name: str) -> None:
    tool("unshare")
    done = examples(f"{name}.py", *NO_USER_NAMESPACES)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{name}: [Errno 28] No space left on device: unshare the user namespace")


def test_init_in_two_files_is_ready_or_says_why_not(examples: Examples) -> None:
    assert examples.lines("init_parent.py") == [
        "the program in the container says: container",
        "exit status: 0",
        "init failed: [Errno 22] Invalid argument",
        "it was raised in: init_child.py",
    ]


def test_init_is_started_by_its_parent_only(examples: Examples) -> None:
    done = examples("init_child.py")
    assert (done.returncode, done.stdout) == (1, "")


def test_from_config_json_runs_what_is_allowed_to_lack_what_it_names(examples: Examples, readable_tmp: Path) -> None:
    ids = [{"containerID": 0, "hostID": 0 if examples.runner.name == "root" else USER, "size": 1}]
    process = {"args": ["sh", "-c", "uname -n; exit 5"], "env": ["PATH=/usr/bin:/bin"], "user": {"uid": 0, "gid": 0}}
    linux = {"namespaces": [{"type": "user"}, {"type": "uts"}], "uidMappings": ids, "gidMappings": ids}
    document = {
        "ociVersion": "1.0.2",
        "process": process,
        "hostname": "box",
        "linux": linux,
        "root": {"path": "rootfs"},
    }
    file = readable_tmp / "config.json"
    file.write_text(json.dumps(document))
    done = examples("from_config_json.py", arguments=(str(file),))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(
        "check — root: asked for and not performed; to run without, name each in allow\nin this file: root\n"
    )
    done = examples("from_config_json.py", arguments=(str(file), "root"))
    assert (done.returncode, done.stdout, done.stderr) == (5, "box\n", "")


def test_call_inside(examples: Examples) -> None:
    """Values, exceptions, ends and sockets come back from inside."""
    assert examples.lines("call_inside.py") == [
        "{'greeting': 'hello', 'host': 'inside', 'uid': 0, 'pid': 1}",
        "refused, as it is said inside: True",
        "ended before it returned: 3",
        "inside",
        "listens inside on port 8080",
        "['kept', 'inside']",
    ]


def test_process_pool(examples: Examples) -> None:
    """All workers listen on one port, each in its own namespace."""
    assert examples.lines("process_pool.py") == [
        "worker: one",
        "['worker: two', 'worker: three']",
        "worker: from a coroutine",
    ]


def test_clone(examples: Examples) -> None:
    """It is pid 1, and its status is what it returned."""
    assert examples.lines("clone.py") == [
        "pid 1 on inside",
        "exit status 7; the host is still called the same: True",
    ]


def test_ls_json_counts(examples: Examples) -> None:
    lines = [line for line in examples.lines("ls_json.py") if not line.startswith(("not seen: ", "kept by "))]
    assert lines
    assert all(re.fullmatch(r"\S+: \d+ net", line) for line in lines)
