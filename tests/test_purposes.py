"""By what each kind of namespace is for: two programs that would meet outside do not meet inside."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner
from inside import PYTHON, ns, ready
from test_spawn import HELPERS, become_root, mount, mounted, out, own, piped, talking, teaching

import nsapi
from nsapi import Config


@pytest.fixture(scope="module")
def root(root: Runner) -> Runner:
    return teaching(root, *HELPERS)


@pytest.fixture(scope="module")
def user(user: Runner) -> Runner:
    return teaching(user, *HELPERS)


# ---- ipc ----

#: Finds or makes the queues of this key and name, takes what is in them, puts the word given there and waits.
QUEUES = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
lib = libc if hasattr(libc, "mq_open") else ctypes.CDLL("librt.so.1", use_errno=True)
key, name, word = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3].encode()

class Message(ctypes.Structure):
    _fields_ = [("type", ctypes.c_long), ("text", ctypes.c_char * 8)]

class Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("flags", "most", "size", "now")] + [("pad", ctypes.c_long * 4)]

queue = libc.msgget(key, 0o1000 | 0o600)
mq = lib.mq_open(name, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600, ctypes.byref(Attributes(most=4, size=8)))
assert queue >= 0 and mq >= 0, ctypes.get_errno()
message, text = Message(), ctypes.create_string_buffer(8)
found = [
    message.text.decode() if libc.msgrcv(queue, ctypes.byref(message), 8, 0, 0o4000) >= 0 else "-",
    text.value.decode() if lib.mq_receive(mq, text, 8, None) >= 0 else "-",
]
message.type, message.text = 1, word
assert libc.msgsnd(queue, ctypes.byref(message), 8, 0o4000) == 0
assert lib.mq_send(mq, word.ljust(8, b"\\0"), 8, 0) == 0
print(*found, flush=True)
if sys.argv[4:] == ["last"]:
    libc.msgctl(queue, 0, None)
    lib.mq_unlink(name)
else:
    sys.stdin.read()
"""


def test_ipc_the_same_key_gives_different_queues(anyone: Runner) -> None:
    """SysV and POSIX message queues: two programs with one key do not get each other's words, two of one namespace do."""

    def body(code: str) -> list[str]:
        key, name = str(os.getpid()), f"/nsapi-tests-{os.getpid()}"
        found = []

        def start(stack: ExitStack, word: str, config: Config, *more: str) -> subprocess.Popen[Any]:
            process = stack.enter_context(piped([*PYTHON, code, key, name, word, *more], config))
            assert process.stdout is not None
            found.append(process.stdout.readline().strip())
            return process

        become_root()
        with ExitStack() as stack:
            start(stack, "outside", Config.new("uts"))
            one = start(stack, "one", Config.new("ipc"))
            start(stack, "two", Config.new("ipc"))
            start(stack, "three", Config.new(ipc=one))
            start(stack, "last", Config.new("uts"), "last")
        return found

    assert anyone(body, QUEUES) == ["- -", "- -", "- -", "one one", "outside outside"]


# ---- pid ----


def test_pid_two_programs_are_both_pid_1(anyone: Runner) -> None:
    """At once; each sees itself only, signals nobody outside, and takes its own children with it when it ends."""

    def body() -> dict[str, object]:
        script = "echo ready; echo $$; kill -9 $1 2>/dev/null || echo missed; sleep 1000 & echo /proc/[0-9]*; read _"
        config = Config.new(*own("pid", "mnt"))
        found, inner = [], []
        with talking(script, config, str(os.getpid())) as one, talking(script, config, str(os.getpid())) as two:
            for process in (one, two):
                assert process.stdout is not None
                found.append([process.stdout.readline().strip() for _ in range(3)])
                (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
                inner.append(os.pidfd_open(child))
            different = ns("pid", one.pid) != ns("pid", two.pid)
        gone = []
        for pidfd in inner:
            try:
                nsapi.open(type("Pidfd", (), {"fileno": lambda self, fd=pidfd: fd})(), "uts").close()
                gone.append(False)
            except ProcessLookupError:
                gone.append(True)
            os.close(pidfd)
        return {"found": found, "different": different, "gone": gone}

    seen = ["1", "missed", "/proc/1 /proc/2"]
    assert anyone(body) == {"found": [seen, seen], "different": True, "gone": [True, True]}


# ---- uts ----


def test_uts_host_names_differ_at_once(anyone: Runner) -> None:
    """Two programs and the host have three names at the same time, also when one inside is renamed."""

    def body() -> list[str]:
        host = os.uname().nodename
        types = own("uts")
        with (
            talking("echo ready; read _; uname -n", Config.new(*types, hostname="one")) as one,
            talking("hostname other; echo ready; read _; uname -n", Config.new(*types, hostname="two")) as two,
        ):
            names = [each.communicate("\n")[0].strip() for each in (one, two)]
        return [*names, "host" if os.uname().nodename == host else os.uname().nodename]

    assert anyone(body) == ["one", "other", "host"]


# ---- user ----

#: What root of a user namespace may not do to a file, to a process and to himself: the errno of each, or "done".
TRY_AS_ROOT = """
import os, resource, sys
path, pid = sys.argv[1], int(sys.argv[2])
def attempt(call):
    try:
        call()
    except OSError as error:
        return error.errno
    except ValueError as error:
        return str(error).replace(" ", "-")
    return "done"
for call in (
    lambda: open(path, "w"),
    lambda: open(path),
    lambda: os.chmod(path, 0o666),
    lambda: os.chown(path, 0, 0),
    lambda: os.kill(pid, 0),
    lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)),
):
    print(attempt(call))
print(os.getuid(), open("/proc/self/status").read().split("CapEff:")[1].split()[0] != "0" * 16)
"""
REFUSED = [*map(str, [errno.EACCES] * 2 + [errno.EPERM] * 3), "not-allowed-to-raise-maximum-limit"]


def test_user_root_inside_has_no_power_outside(root: Runner, user: Runner, readable_tmp: Path) -> None:
    """He has all capabilities there, and cannot read or write a 0600 file of the host's root, nor raise a limit."""
    secret = readable_tmp / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)

    def body(secret: str, code: str, stranger: int) -> list[str]:
        config = Config.new("user", rlimits={"RLIMIT_NOFILE": (100, 100)})
        return out([*PYTHON, code, secret, str(stranger)], config).split()

    assert user(body, str(secret), TRY_AS_ROOT, os.getpid()) == [*REFUSED, "0", "True"]
    assert secret.read_text() == "secret"


@pytest.mark.parametrize("mapped", [True, False], ids=["as root inside", "as nobody"])
def test_user_roots_own_power_ends_there(root: Runner, readable_tmp: Path, mapped: bool) -> None:
    """What root could do by its capabilities alone, to other users' files, processes and limits, it cannot any more."""

    def body(folder: str, code: str, mapped: bool) -> list[str]:
        secret = Path(folder, "secret")
        secret.write_text("secret")
        secret.chmod(0o600)
        os.chown(secret, 1, 1)
        maps: dict[str, Any] = {} if mapped else {"uid_mappings": [], "gid_mappings": []}
        config = Config.new("user", rlimits={"RLIMIT_NOFILE": (100, 100)}, **maps)
        with ready("setpriv", "--reuid=1", "--clear-groups", "sh", "-c", "echo ready; exec sleep 1000") as process:
            found = out([*PYTHON, code, str(secret), str(process.pid)], config).split()
        return [*found, secret.read_text()]

    refused, ids = [*REFUSED], ["0", "True"] if mapped else ["65534", "False"]
    if not mapped:
        refused[3] = str(errno.EINVAL)  # there is no id 0 to give the file to
    assert root(body, str(readable_tmp), TRY_AS_ROOT, mapped) == [*refused, *ids, "secret"]


def test_user_ids_are_translated(anyone: Runner, readable_tmp: Path) -> None:
    """A file made by root inside is the caller's outside, and everybody else's files are nobody's inside."""

    def body(folder: str) -> list[object]:
        script = 'touch "$1/made"; stat -c %u "$1/made" /'
        inside = out(["sh", "-c", script, "sh", folder], Config.new("user")).split()
        if os.getuid() == 0:
            inside[1] = "65534" if inside[1] == "0" else inside[1]  # "/" is root's own, whose id is mapped
        return [inside, os.stat(f"{folder}/made").st_uid == os.getuid()]

    assert anyone(body, str(readable_tmp)) == [["0", "65534"], True]


# ---- net ----

#: Serves a word on port 80, or asks for it.
PORT_80 = """
import socket, sys
if sys.argv[1] == "serve":
    with socket.create_server(("127.0.0.1", 80)) as server:
        print("bound", flush=True)
        server.accept()[0].sendall(sys.argv[2].encode())
        sys.stdin.read()
else:
    try:
        print(socket.create_connection(("127.0.0.1", 80)).recv(9).decode())
    except OSError as error:
        print(error.errno)
"""


def test_net_port_80_is_bound_in_each_of_two(anyone: Runner) -> None:
    """At once, by programs that need no privilege outside; each is reached by those in its own namespace only."""

    def body(code: str) -> list[object]:
        become_root()
        config = Config.new("net", loopback=True)
        serve, ask = [*PYTHON, code, "serve"], [*PYTHON, code, "ask"]
        found: list[object] = []
        with ExitStack() as stack:
            servers = []
            for name in ("one", "two"):
                server = stack.enter_context(piped([*serve, name], config))
                stack.callback(server.kill)
                assert server.stdout is not None
                found.append(server.stdout.readline().strip())
                servers.append(server)
            found += [out(ask, Config.join(server, "net")).strip() for server in servers]
            found.append(out(ask, config).strip())
        return found

    assert anyone(body, PORT_80) == ["bound", "bound", "one", "two", str(errno.ECONNREFUSED)]


# ---- mnt ----


def test_mnt_a_mount_made_inside_is_not_seen_outside(anyone: Runner, readable_tmp: Path) -> None:
    """Nor by another program in a namespace of its own; and one that is unmounted inside stays outside."""

    def body(folder: str) -> dict[str, object]:
        become_root()
        nsapi.unshare("mnt")  # so that the host is not touched whatever happens
        mount("-t", "tmpfs", "none", folder)
        mount("--make-shared", folder)
        for name in ("new", "old"):
            os.mkdir(f"{folder}/{name}")
        mount("-t", "tmpfs", "none", f"{folder}/old")
        script = (
            'mount -t tmpfs none "$1/new" && touch "$1/new/$2" && umount "$1/old" && echo ready; read _; ls "$1/new"'
        )
        config = Config.new("mnt")
        with talking(script, config, folder, "one") as one, talking(script, config, folder, "two") as two:
            found: dict[str, object] = {"new": mounted(f"{folder}/new"), "old": mounted(f"{folder}/old")}
            found["files"] = os.listdir(f"{folder}/new")
            found["inside"] = [each.communicate("\n")[0].strip() for each in (one, two)]
        return found

    assert anyone(body, str(readable_tmp)) == {"new": 0, "old": 1, "files": [], "inside": ["one", "two"]}


# ---- cgroup ----


def test_cgroup_the_path_seen_inside_is_relative(anyone: Runner) -> None:
    """Whatever cgroups the program is in, it finds itself at "/" in each; one outside sees where it really is."""

    def body() -> dict[str, object]:
        script = "echo ready; read _; cut -d: -f3 /proc/self/cgroup | sort -u; head -n1 /proc/self/mountinfo >&2"
        real = Path("/proc/self/cgroup").read_text()
        with talking(script, Config.new(*own("cgroup")), stderr=subprocess.DEVNULL) as process:
            outside = Path(f"/proc/{process.pid}/cgroup").read_text()
            inside = process.communicate("\n")[0].split()
        return {"inside": inside, "outside": outside == real}

    assert anyone(body) == {"inside": ["/"], "outside": True}


# ---- time ----


def test_time_two_programs_have_been_up_for_different_times(anyone: Runner) -> None:
    """At once: one thinks that the machine was booted a day earlier, the other knows better; so do their children."""

    def body() -> list[int]:
        script = "echo ready; read _; sh -c 'cut -d. -f1 /proc/uptime'"
        types = own("time")
        with (
            talking(script, Config.new(*types, time_offsets={"boottime": 86400})) as one,
            talking(script, Config.new(*types)) as two,
        ):
            late = int(one.communicate("\n")[0])
            return [late - int(two.communicate("\n")[0]), late]

    difference, late = anyone(body)
    assert 86400 - 3600 < difference <= 86400  # less what has passed between the two
    assert late > 86400
