"""The bootstrap in C, spoken to as runc speaks to it: a message made by hand goes in, pids and log lines come out."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import AS_OTHER, NAME, REPOSITORY, USER, ids_of, lacking, tool, with_etc
from inside import TYPES, all_ns, only_child

FLAGS = {
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "time": 0x00000080,
}
ALL = sum(FLAGS.values())
FLAGS_ATTR, PATHS, UIDMAP, GIDMAP, SETGROUP, OOM, ROOTLESS, UIDMAPPATH, GIDMAPPATH, TIMEOFFSETS = range(27281, 27291)
NAMES = (
    "CLONE_FLAGS NS_PATHS UIDMAP GIDMAP SETGROUP OOM_SCORE_ADJ ROOTLESS_EUID UIDMAPPATH GIDMAPPATH TIMENSOFFSET".split()
)


# ---- the speaker's side of the protocol, as its description says ----


def attribute(type: int, payload: bytes, *, length: int | None = None) -> bytes:
    size = len(payload) + 4 if length is None else length
    return struct.pack("=HH", size, type) + payload + bytes(-len(payload) % 4)


def number(type: int, value: int) -> bytes:
    return attribute(type, struct.pack("=I", value))


def string(type: int, value: str | bytes) -> bytes:
    return attribute(type, (value.encode() if isinstance(value, str) else value) + b"\0")


def message(*attributes: bytes, type: int = 62000, length: int | None = None) -> bytes:
    payload = b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(payload) if length is None else length, type, 1, 0, 0) + payload


def create(*types: str) -> bytes:
    return number(FLAGS_ATTR, sum(FLAGS[type] for type in types))


def join(**paths: str | int) -> bytes:
    """Types to join, each by path or by the process whose namespace it is."""
    items = (f"{type}:{path if isinstance(path, str) else f'/proc/{path}/ns/{type}'}" for type, path in paths.items())
    return string(PATHS, ",".join(items))


def maps(uid: str, gid: str, *, setgroups: bool, rootless: bool, helpers: Sequence[str] = ()) -> bytes:
    parts = [string(UIDMAP, uid), string(GIDMAP, gid), number(SETGROUP, setgroups), number(ROOTLESS, rootless)]
    parts += [string(type, path) for type, path in zip((UIDMAPPATH, GIDMAPPATH), helpers, strict=False)]
    return b"".join(parts)


#: What an ordinary user may do by himself: root inside is who he is outside.
OWN_MAPS = maps(f"0 {USER} 1\n", f"0 {USER} 1\n", setgroups=False, rootless=True)
LOG_LINE = re.compile(r"nsexec(?:-([012]))?\[(\d+)\]: (.+)", re.DOTALL)


def children() -> list[int]:
    """Of this thread, which starts all of them; dead ones too."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


def reap(pid: int) -> int:
    """The exit status of our child, or minus the signal; one that does not end is killed, and an error."""
    pidfd = os.pidfd_open(pid)
    try:
        ended = select.select([pidfd], [], [], 30)[0]
        if not ended:
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert ended, f"process {pid} was still there"
        return status
    finally:
        os.close(pidfd)


class Bootstrap:
    """A program started as `runc init` is, and what its speaker sees of it."""

    def __init__(self, argv: Sequence[str], *, env: dict[str, str] | None = None, log_to: int | None = None,
                 pass_fds: Sequence[int] = (), nonblocking: bool = False) -> None:  # fmt: skip
        self.pipe, theirs = socket.socketpair()
        self.pipe.settimeout(30)  # ours alone
        theirs.setblocking(not nonblocking)
        self.log_fd, log = os.pipe2(os.O_CLOEXEC) if log_to is None else (-1, log_to)
        environment = {"PATH": os.environ["PATH"], "_LIBCONTAINER_INITPIPE": str(theirs.fileno())}
        environment |= {"_LIBCONTAINER_LOGPIPE": str(log)} | (env or {})
        self.environment = [f"{key}={value}" for key, value in environment.items() if value is not None]
        self.lent = (theirs.fileno(), log)
        self.strangers = set(children())
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno(), log, *pass_fds],
            env={key: value for key, value in environment.items() if value is not None},
            cwd="/",
        )
        theirs.close()
        if log_to is None:
            os.close(log)

    def send(self, data: bytes) -> None:
        self.pipe.sendall(data)

    def stages(self) -> list[int]:
        """Those that are there now, or are zombies: children of the speaker, all of them."""
        return [pid for pid in children() if pid not in self.strangers]

    def pids(self) -> dict[str, int]:
        """The line of JSON that stage 0 writes; empty where it ends without one."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self.pipe.recv(1)
            if not byte:
                assert line == b"", line
                return {}
            line += byte
        found: dict[str, int] = json.loads(line)
        assert list(found) == ["stage1_pid", "stage2_pid"]
        assert line.decode() == json.dumps(found, separators=(",", ":")) + "\n"
        return found

    def facts(self) -> Any:
        """What the program says about itself; None where it never ran."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def log(self) -> list[tuple[str, str | None, str]]:
        """All lines, once everybody has ended: level, stage, text."""
        content = b""
        while part := os.read(self.log_fd, 65536):
            content += part
        return parse_log(content)

    def close(self) -> None:
        self.pipe.close()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        if self.log_fd >= 0:
            os.close(self.log_fd)

    def end_program(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def succeed(self, data: bytes) -> Any:
        """The facts, when everything that the protocol promises to the speaker has happened."""
        self.send(data)
        pids = self.pids()
        assert pids, self.explain()
        assert reap(self.process.pid) == 0
        self.process.returncode = 0
        assert reap(pids["stage1_pid"]) == 0
        facts = self.facts()
        assert facts is not None, self.explain()
        self.end_program()
        assert reap(pids["stage2_pid"]) == 7  # main's own
        assert self.process.stderr is not None
        assert self.process.stderr.read() == b""
        facts["pids"] = pids
        return facts

    def explain(self) -> str:
        self.end_program()
        return repr(self.log())

    def failure(self, data: bytes | None = None, *, shut: bool = False) -> str:
        """The text of the one fatal line, when everybody has ended and nobody has run the program."""
        if data is not None:
            self.send(data)
        if shut:
            self.pipe.shutdown(socket.SHUT_WR)
        assert self.facts() is None
        assert reap(self.process.pid) == 1
        self.process.returncode = 1
        for stage in self.stages():
            assert reap(stage) != 0
        fatal = [text for level, _, text in self.log() if level == "fatal"]
        assert len(fatal) == 1, fatal
        return fatal[0]


def parse_log(content: bytes) -> list[tuple[str, str | None, str]]:
    parsed = []
    for line in content.decode(errors="surrogateescape").splitlines(keepends=True):
        assert line.endswith("\n")
        assert len(line.encode(errors="surrogateescape")) <= 4096
        entry = json.loads(line)
        assert list(entry) == ["level", "msg"]
        match = LOG_LINE.fullmatch(entry["msg"])
        assert match, entry
        parsed.append((entry["level"], match[1], match[3]))
    return parsed


@pytest.fixture(scope="session")
def program() -> Iterator[str]:
    """nsexec_main.c with nsexec() before its main, under UBSan, where everybody can run it."""
    folder = Path(tempfile.mkdtemp(prefix="nsapi-tests-"))
    folder.chmod(0o755)
    path = folder / "nsexec_main"
    sources = [str(REPOSITORY / "tests/nsexec_main.c"), str(REPOSITORY / "nsapi/_nsexec.c")]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    sanitize = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    done = subprocess.run(
        [tool("gcc"), *flags, *sanitize, "-o", str(path), *sources], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    path.chmod(0o755)
    yield str(path)
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Neither processes nor descriptors."""
    if os.geteuid() != 0:
        lacking("root")
    before = len(os.listdir("/proc/self/fd"))
    assert children() == []
    yield
    left = children()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert left == []
    assert len(os.listdir("/proc/self/fd")) == before


class Starter:
    def __init__(self, program: str) -> None:
        self.program = program
        self.started: list[Bootstrap] = []

    def __call__(self, *, user: bool = False, under: Sequence[str] = (), **keywords: Any) -> Bootstrap:
        prefix = AS_OTHER if user else ()
        self.started.append(Bootstrap([*under, *prefix, self.program], **keywords))
        return self.started[-1]


@pytest.fixture
def start(program: str) -> Iterator[Starter]:
    """Starts the program, as root or as an ordinary user, with a pipe and a log."""
    starter = Starter(program)
    yield starter
    for each in starter.started:
        each.close()


@pytest.fixture(params=["root", "user"])
def user(request: pytest.FixtureRequest) -> bool:
    """Whether it is an ordinary user; both, one after the other."""
    return bool(request.param == "user")


@contextmanager
def target(*options: str, user: bool = False, command: Sequence[str] = ("sleep", "1000")) -> Iterator[int]:
    """The pid of a process in new namespaces."""
    fork = ["--kill-child"] if "--fork" in options else []
    prefix = AS_OTHER if user else ()
    argv = [*prefix, "unshare", *options, *fork, "--", "sh", "-c", 'echo ready; exec "$0" "$@"', *command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE, cwd="/") as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            pid = only_child(process.pid) if fork else process.pid
            pidfd = os.pidfd_open(pid)
            yield pid
        finally:
            process.kill()
        select.select([pidfd], [], [])  # the child of a killed unshare is killed a little later
        os.close(pidfd)


def changed(facts: Any) -> set[str]:
    ours = all_ns()
    return {type for type in TYPES if facts["ns"][type] != ours[type]}


# ---- not asked, or badly ----


@pytest.mark.parametrize("value", [None, ""])
def test_without_an_init_pipe_nothing_happens(start: Starter, value: str | None) -> None:
    """The program runs as if nsexec were not there: the same process, not a word, errno as it was."""
    boot = start(env={"_LIBCONTAINER_INITPIPE": value, "_LIBCONTAINER_LOGLEVEL": "nonsense"})
    facts = boot.facts()
    boot.end_program()
    assert boot.process.wait() == 7
    assert (facts["pid"], facts["errno"], facts["sid"]) == (boot.process.pid, 77, os.getsid(0))
    assert changed(facts) == set()
    assert boot.log() == []


@pytest.mark.parametrize("value", ["x", "-1", "3x", " 3", "+3", "0x3", "99999999999999999999", "2147483648"])
@pytest.mark.parametrize("variable", ["INITPIPE", "LOGPIPE", "LOGLEVEL"])
def test_a_number_that_is_none_is_fatal(start: Starter, variable: str, value: str) -> None:
    """Nothing is guessed: the program does not start."""
    boot = start(env={f"_LIBCONTAINER_{variable}": value})
    if variable == "LOGPIPE":  # then there is only stderr
        assert boot.process.wait() == 1
        assert boot.process.stderr is not None
        assert boot.process.stderr.read() == f"FATAL: _LIBCONTAINER_LOGPIPE is no number from 0 on: {value}\n".encode()
    else:
        assert boot.failure() == f"_LIBCONTAINER_{variable} is no number from 0 on: {value}"


def test_an_init_pipe_that_is_no_socket_is_refused(start: Starter) -> None:
    """Neither is it read from, nor waited for."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    others = message(create("uts"))
    os.write(writer, others)
    boot = start(env={"_LIBCONTAINER_INITPIPE": str(reader)}, pass_fds=[reader])
    assert boot.failure() == f"the init pipe, fd {reader}, is no socket"
    os.close(writer)
    assert os.read(reader, 4096) == others
    os.close(reader)
    assert start(env={"_LIBCONTAINER_INITPIPE": "0"}).failure() == "the init pipe, fd 0, is no socket"
    assert "Bad file descriptor" in start(env={"_LIBCONTAINER_INITPIPE": "999"}).failure()


def test_a_setuid_program_takes_no_bootstrap(program: str) -> None:
    """Whoever calls a program that has more rights than he has does not choose its namespaces."""
    folder = Path(program).parent
    if os.statvfs(folder).f_flag & os.ST_NOSUID:
        lacking("a folder for temporary files that is not mounted nosuid")
    copy = folder / "setuid"
    shutil.copy(program, copy)
    copy.chmod(0o4755)
    try:
        boot = Bootstrap([*AS_OTHER, str(copy)])
        boot.pipe.shutdown(socket.SHUT_WR)
        assert boot.facts() is None
        assert boot.process.wait() == 1
        assert boot.process.stderr is not None
        assert boot.process.stderr.read() == b"FATAL: a program with more rights than its caller takes no bootstrap\n"
        assert boot.log() == []
        boot.close()
    finally:
        copy.unlink()


# ---- in the place of runc's nsexec.c ----

# What runc's log.c, getenv.c and escape.c own, and what its log.c and its Go file want of nsexec.c.
NEIGHBOURS = """
#include <stdbool.h>
#include <stdlib.h>
int logfd = -1;
void setup_logpipe(void) {}
bool log_enabled_for(int level) { return level < 0; }
void write_log(int level, const char *format, ...) { (void)level; (void)format; }
int getenv_int(const char *name) { return getenv(name) ? 1 : -1; }
char *escape_json_string(char *string) { return string; }
extern void nsexec();
void __attribute__((constructor)) init(void) { nsexec(); }
extern int current_stage;
int main(void) { return current_stage == -1 ? 0 : 1; }
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_links_beside_the_files_of_runc(tmp_path: Path, compiler: str) -> None:
    """They may stay: no name is there twice, and none is missing. Our headers lie beside it, as in runc's folder."""
    for name, source in (("nsexec.c", "_nsexec.c"), ("_nsexec.h", "_nsexec.h"), ("_kernel.h", "_kernel.h")):
        shutil.copy(REPOSITORY / "nsapi" / source, tmp_path / name)
    (tmp_path / "neighbours.c").write_text(NEIGHBOURS)
    argv = [tool(compiler), "-Wall", "-Wextra", "-Werror", "-o", "program", "nsexec.c", "neighbours.c"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([tmp_path / "program"], check=False, stdin=subprocess.DEVNULL).returncode == 0


# ---- what is created ----


@pytest.mark.parametrize("type", TYPES)
def test_creates_a_namespace_of_each_type(start: Starter, user: bool, type: str) -> None:
    """That type, and no other, is new; a user namespace comes with its maps."""
    types = {type, "user"} if user else {type}
    parts = [create(*types)]
    if "user" in types:
        parts.append(OWN_MAPS if user else maps("0 0 1\n", "0 0 1\n", setgroups=False, rootless=False))
    facts = start(user=user).succeed(message(*parts))
    assert changed(facts) == types
    assert facts["pid"] == (1 if type == "pid" else facts["pids"]["stage2_pid"])


def test_creates_all_at_once(start: Starter, user: bool) -> None:
    """All eight, in one go, as root and as anybody."""
    own = maps("0 0 1\n", "0 0 1\n", setgroups=False, rootless=False)
    facts = start(user=user).succeed(message(number(FLAGS_ATTR, ALL), OWN_MAPS if user else own))
    assert changed(facts) == set(TYPES)


def test_what_the_program_finds(start: Starter) -> None:
    """One thread, a session of its own, root; the descriptors and the environment that it was started with."""
    spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    boot = start(pass_fds=[spare], env={"ONE": "1"})
    facts = boot.succeed(message(create("uts")))
    os.close(spare)
    assert facts["sid"] == facts["pgid"] == facts["pid"]
    assert (facts["threads"], facts["dumpable"], facts["errno"]) == (1, 1, 77)
    assert facts["uid"] == facts["gid"] == [0, 0, 0]
    assert facts["comm"] == "runc:[2:INIT]"
    assert {int(fd) for fd in facts["fds"]} == {0, 1, 2, *boot.lent, spare}
    assert facts["environment"] == boot.environment
    assert facts["thread_id_known"] == 1  # to the C library, which fork(3) would have told
    assert facts["sigpipe_blocked"] == 0


def test_nothing_after_the_message_is_read(start: Starter) -> None:
    """The same socket then carries what the program reads itself."""
    facts = start().succeed(message(create("uts")) + b'{"config":1}')
    assert bytes.fromhex(facts["rest"]) == b'{"config":1}'


def unread(pipe: socket.socket) -> int:
    """How many bytes the other side has not read yet."""
    return int(struct.unpack("=i", fcntl.ioctl(pipe, termios.TIOCOUTQ, bytes(4)))[0])


@pytest.mark.parametrize("nonblocking", [False, True])
def test_a_message_may_come_in_pieces(start: Starter, nonblocking: bool) -> None:
    """A read that returns less is resumed, at every byte; also where the speaker's socket does not block."""
    boot, data = start(nonblocking=nonblocking), message(create("uts"), number(ROOTLESS, 0))
    for byte in data[:-1]:
        boot.send(bytes([byte]))
        # Only when it has been read does the next one follow.
        while unread(boot.pipe):
            os.sched_yield()
    assert changed(boot.succeed(data[-1:])) == {"uts"}


def test_oom_score_is_set_for_everybody(start: Starter, user: bool) -> None:
    """Also for one that joins something, whose files in /proc are soon no longer its own."""
    with target("--user", "--map-root-user", user=user) as pid:
        parts = [create(), join(user=pid), string(OOM, "500"), number(ROOTLESS, user)]
        assert start(user=user).succeed(message(*parts))["oom_score_adj"] == "500\n"


@pytest.mark.parametrize(
    ("setgroups", "rootless", "left"), [(1, 0, 0), (0, 0, 2), (None, 0, 2), (1, 1, 2)], ids=lambda each: str(each)
)
def test_groups_are_dropped_only_where_the_speaker_says_so(
    start: Starter, setgroups: int | None, rootless: int, left: int
) -> None:
    """Not for an ordinary user, who could not, and not without the attribute."""
    parts = [create("uts"), number(ROOTLESS, rootless)]
    parts += [] if setgroups is None else [number(SETGROUP, setgroups)]
    assert start(under=["setpriv", "--groups=7,8"]).succeed(message(*parts))["group_count"] == left


@pytest.mark.parametrize("also", ["", "join"])
def test_time_offsets_are_set(start: Starter, user: bool, also: str) -> None:
    """They hold for the program; an ordinary user's too, and after joining, when /proc/PID is root's."""
    offsets = string(TIMEOFFSETS, "boottime 1000000 0\nmonotonic 5 0\n")
    with target("--user", "--map-root-user", user=user) as pid:
        own = OWN_MAPS if user else maps("0 0 1\n", "0 0 1\n", setgroups=False, rootless=False)
        where = [create("time"), join(user=pid), number(ROOTLESS, user)] if also else [create("time", "user"), own]
        facts = start(user=user).succeed(message(*where, offsets))
    assert facts["boottime"] >= 1000000
    assert "time" in changed(facts)


# ---- maps ----


def test_the_map_of_an_ordinary_user(start: Starter) -> None:
    """``setgroups`` is denied first, as the kernel wants it."""
    facts = start(user=True).succeed(message(create("user"), OWN_MAPS))
    assert facts["uid_map"].split() == facts["gid_map"].split() == ["0", str(USER), "1"]
    assert (facts["setgroups"], facts["uid"], facts["gid"]) == ("deny\n", [0, 0, 0], [0, 0, 0])


@pytest.mark.parametrize("count", [1, 2, 340])
def test_maps_of_many_extents_by_root(start: Starter, count: int) -> None:
    """As many as the kernel takes; setgroups stays allowed."""
    extents = "".join(f"{each} {each + 1000} 1\n" for each in range(count))
    own = maps(extents, extents, setgroups=True, rootless=False)
    facts = start().succeed(message(create("user", "net"), own))
    assert facts["uid_map"].split() == facts["gid_map"].split() == extents.split()
    assert facts["setgroups"] == "allow\n"
    assert changed(facts) == {"user", "net"}
    assert facts["dumpable"] == 0  # its ids have changed


def test_one_extent_more_than_the_kernel_takes(start: Starter) -> None:
    """The kernel's own answer, and nobody left."""
    extents = "".join(f"{each} {each} 1\n" for each in range(341))
    own = maps(extents, "0 0 1\n", setgroups=False, rootless=False)
    assert start().failure(message(create("user"), own)) == "write uid_map: Invalid argument"


def test_maps_that_leave_out_root(start: Starter) -> None:
    """The protocol promises root, so this is an error."""
    own = maps("5 5 1\n", "5 5 1\n", setgroups=False, rootless=False)
    assert start().failure(message(create("user"), own)) == "become root in the user namespace: Invalid argument"


def helper(folder: Path, script: str) -> str:
    path = folder / "helper"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


TWO = f"0 {USER} 1\n1 100000 65536\n"


def helped(*paths: str, map: str = TWO) -> bytes:
    return message(create("user"), maps(map, map, setgroups=True, rootless=True, helpers=paths))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "exited with status 3"),
        ("kill -9 $$", "was killed by signal 9"),
        ("kill -15 $$", "was killed by signal 15"),
    ],
)
@pytest.mark.parametrize("sigchld", ["default", "ignored"])
def test_a_helper_that_fails(start: Starter, readable_tmp: Path, script: str, reason: str, sigchld: str) -> None:
    """Also one that is killed has failed, and where SIGCHLD is ignored it is noticed all the same."""
    path = helper(readable_tmp, script)
    under = ["env", "--ignore-signal=CHLD"] if sigchld == "ignored" else []
    assert start(user=True, under=under).failure(helped(path, path)) == f"{path} {reason}"


def test_a_helper_that_is_missing(start: Starter) -> None:
    """Where none was found, the kernel's no stands; where it is gone, that is said."""
    assert start(user=True).failure(helped()) == "write uid_map: Operation not permitted"
    boot = start(user=True)
    boot.send(helped("/nonexistent/newuidmap"))
    assert boot.failure() == "/nonexistent/newuidmap exited with status 127"


@pytest.mark.parametrize("count", [6, 340])
def test_a_helper_gets_every_extent(start: Starter, readable_tmp: Path, count: int) -> None:
    """Pid and all numbers, each an argument; nothing of our environment, no descriptor but stdio."""
    arguments = readable_tmp / "arguments"
    script = f'printf "%s\\n" "$@" > {arguments}; env -i /bin/ls /proc/self/fd > {arguments}.fds'
    script += f"; cat /proc/$$/environ > {arguments}.env; exit 5"
    path = helper(readable_tmp, script)
    extents = "".join(f"{each} {each + 1000} 1\n" for each in range(count))
    boot = start(user=True)
    boot.send(helped(path, path, map=extents))
    assert boot.failure() == f"{path} exited with status 5"
    pid, *numbers = arguments.read_text().split()
    assert pid.isdigit()
    assert numbers == extents.split()
    assert Path(f"{arguments}.fds").read_text().split() == ["0", "1", "2", "3"]  # 3 is what reads the folder
    assert Path(f"{arguments}.env").read_bytes() == b""


def test_maps_by_newuidmap_and_newgidmap(start: Starter, readable_tmp: Path) -> None:
    """The real helpers, for more ids than an ordinary user may map by himself."""
    helpers = (tool("newuidmap"), tool("newgidmap"))
    facts = start(user=True, under=with_etc(readable_tmp, **ids_of(NAME, USER))).succeed(helped(*helpers))
    assert facts["uid_map"].split() == facts["gid_map"].split() == TWO.split()
    assert (facts["uid"], facts["gid"], facts["setgroups"]) == ([0, 0, 0], [0, 0, 0], "allow\n")


# ---- what is joined ----


@pytest.mark.parametrize("type", TYPES)
def test_joins_a_namespace_of_each_type(start: Starter, user: bool, type: str) -> None:
    """That of the target, and no other."""
    with target(*NEW_OF_EACH, user=user) as pid:
        types = {type, "user"} if user else {type}
        parts = [create(), join(**dict.fromkeys(sorted(types, reverse=True), pid)), number(ROOTLESS, user)]
        facts = start(user=user).succeed(message(*parts))
        there = all_ns(pid)
    assert changed(facts) == types
    assert {each: facts["ns"][each] for each in types} == {each: there[each] for each in types}
    assert facts["dumpable"] == 0


NEW_OF_EACH = "--user --map-root-user --ipc --uts --net --pid --fork --mount --cgroup --time".split()


@pytest.mark.parametrize("order", ["user first", "user last"])
def test_joins_all_of_a_process(start: Starter, user: bool, order: str) -> None:
    """In any order: what the caller may not join at first is joined from inside the user namespace."""
    types = ["user", *(type for type in TYPES if type != "user")]
    types = types if order == "user first" else types[::-1]
    with target(*NEW_OF_EACH, user=user) as pid:
        facts = start(user=user).succeed(message(create(), join(**dict.fromkeys(types, pid)), number(ROOTLESS, user)))
        there = all_ns(pid)
    assert {type: facts["ns"][type] for type in TYPES} == {type: there[type] for type in TYPES}
    assert facts["uid"] == facts["gid"] == [0, 0, 0]


def test_joins_what_the_caller_owns_and_what_the_user_namespace_owns(start: Starter) -> None:
    """A net namespace of the host's root together with the container's: the first before, the others from inside."""
    with target("--net") as hosts, target(*NEW_OF_EACH, user=True) as pid:
        parts = [create(), join(user=pid, net=hosts, uts=pid, mnt=pid)]
        facts = start().succeed(message(*parts))
        there = {**all_ns(pid), "net": all_ns(hosts)["net"]}
    assert {type: facts["ns"][type] for type in ("user", "net", "uts", "mnt")} == {
        type: there[type] for type in ("user", "net", "uts", "mnt")
    }


def test_joins_some_and_creates_others(start: Starter, user: bool) -> None:
    """What is new belongs to the user namespace that was joined."""
    with target(*NEW_OF_EACH, user=user) as pid:
        facts = start(user=user).succeed(
            message(create("uts", "pid", "mnt"), join(user=pid, net=pid), number(ROOTLESS, user))
        )
        there = all_ns(pid)
    assert {type for type in TYPES if facts["ns"][type] == there[type]} == {"user", "net"}
    assert changed(facts) == {"user", "net", "uts", "pid", "mnt"}
    assert facts["pid"] == 1


def test_joins_before_a_new_user_namespace(start: Starter) -> None:
    """Root joins what the host owns, then makes a user namespace, mapped while it is hidden from the target."""
    with target("--net", "--uts", "--pid", "--fork") as pid:
        own = maps("0 1000 1\n", "0 1000 1\n", setgroups=True, rootless=False)
        facts = start().succeed(message(create("user", "mnt"), join(net=pid, uts=pid, pid=pid), own))
        there = all_ns(pid)
    assert {type for type in TYPES if facts["ns"][type] == there[type]} == {
        "net",
        "uts",
        "pid",
        "time",
        "cgroup",
        "ipc",
    }
    assert changed(facts) == {"net", "uts", "pid", "user", "mnt"}


def test_joins_before_a_new_user_namespace_of_an_ordinary_user(start: Starter) -> None:
    """Who is not root but may join: his files in /proc are root's then, except while he is being mapped."""
    able = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=+sys_admin"]
    with target("--net") as pid:
        link = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        parts = [create("user", "uts"), join(net=f"/proc/self/fd/{link}"), OWN_MAPS]
        facts = start(under=[*able, "--ambient-caps=+sys_admin"], pass_fds=[link]).succeed(message(*parts))
        assert facts["ns"]["net"] == all_ns(pid)["net"]
        os.close(link)
    assert changed(facts) == {"user", "uts", "net"}
    assert facts["dumpable"] == 0


# ---- what cannot be joined ----


def test_a_namespace_of_another_type_is_named(start: Starter) -> None:
    """Both types, before anything is joined or started."""
    reason = start().failure(message(create(), join(net=f"/proc/{os.getpid()}/ns/pid")))
    assert reason == f"/proc/{os.getpid()}/ns/pid is a pid namespace, not net"


def test_what_is_no_namespace_is_refused(start: Starter, readable_tmp: Path) -> None:
    """A file, a folder, a terminal's device; a fifo does not block."""
    os.mkfifo(readable_tmp / "fifo")
    for path in ("/etc/passwd", "/", "/dev/null", str(readable_tmp / "fifo")):
        assert start().failure(message(create(), join(net=path))) == f"{path} is no namespace"


def test_what_is_missing_is_named(start: Starter) -> None:
    """The type, the path, the kernel's reason; it is looked for before anything is joined."""
    with target("--net") as pid:
        reason = start().failure(message(create(), join(net=pid, uts="/proc/-1/ns/uts")))
    assert reason == "open the uts namespace /proc/-1/ns/uts: No such file or directory"


def test_a_pid_namespace_whose_init_is_dead(start: Starter) -> None:
    """It can be joined, but nobody can be born there: the error says so."""
    with target("--pid", "--fork") as pid:
        fd = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    reason = start().failure(message(create(), join(pid=f"/proc/{os.getpid()}/fd/{fd}")))
    os.close(fd)
    assert reason == "start stage 2 (the init of the pid namespace has died): Cannot allocate memory"


def test_a_zombie_has_no_namespaces(start: Starter) -> None:
    """Refused when its path is opened."""
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    boot = start()
    boot.send(message(create(), join(net=zombie.pid)))
    assert boot.facts() is None
    assert zombie.wait() == 0
    assert boot.failure() == f"open the net namespace /proc/{zombie.pid}/ns/net: No such file or directory"


def test_what_may_never_be_joined_is_listed(start: Starter) -> None:
    """Every type and path that is left after the last pass."""
    with target("--net", "--uts") as roots, target("--user", "--map-root-user", user=True) as pid:
        links = []
        fds = [os.open(f"/proc/{roots}/ns/{type}", os.O_RDONLY) for type in ("net", "uts")]
        for fd in fds:
            os.set_inheritable(fd, True)
            links.append(f"/proc/self/fd/{fd}")
        parts = [create(), join(user=pid, net=links[0], uts=links[1]), number(ROOTLESS, 1)]
        reason = start(user=True, pass_fds=fds).failure(message(*parts))
        for fd in fds:
            os.close(fd)
    assert reason == f"join net {links[0]}, uts {links[1]}: Operation not permitted"


def test_the_kernel_refuses_what_an_ordinary_user_may_not(start: Starter) -> None:
    """The step and the kernel's reason."""
    reason = start(user=True).failure(message(create("net"), number(ROOTLESS, 1)))
    assert reason == "unshare 0x40000000: Operation not permitted"


# ---- messages that are wrong ----

GOOD = {
    FLAGS_ATTR: struct.pack("=I", FLAGS["user"] | FLAGS["time"]),
    PATHS: b"net:/proc/self/ns/net\0",
    UIDMAP: b"0 0 1\n\0",
    GIDMAP: b"0 0 1\n\0",
    SETGROUP: struct.pack("=I", 0),
    OOM: b"0\0",
    ROOTLESS: struct.pack("=I", 0),
    UIDMAPPATH: b"/bin/true\0",
    GIDMAPPATH: b"/bin/true\0",
    TIMEOFFSETS: b"boottime 1 0\n\0",
}
NUMBERS = {FLAGS_ATTR, SETGROUP, ROOTLESS}


def with_one(type: int, *replacement: bytes) -> bytes:
    """A good message of all attributes, but with this instead of one."""
    parts = [attribute(each, payload) for each, payload in GOOD.items()]
    parts[type - FLAGS_ATTR : type - FLAGS_ATTR + 1] = replacement
    return message(*parts)


def test_the_message_of_all_attributes_is_good(start: Starter) -> None:
    """So that what fails below does so for its one fault."""
    facts = start().succeed(message(*(attribute(type, payload) for type, payload in GOOD.items())))
    assert changed(facts) == {"user", "time"}


def faults(type: int) -> Iterator[tuple[str, bytes]]:
    payload = GOOD[type]
    yield "twice", with_one(type, attribute(type, payload), attribute(type, payload))
    yield "empty", with_one(type, attribute(type, b""))
    for length in (0, 3):
        yield f"length {length}", with_one(type, attribute(type, payload, length=length))
    yield "longer than the message", with_one(type, attribute(type, payload, length=0xFFFF))
    last = b"".join(attribute(each, GOOD[each]) for each in GOOD if each != type)
    yield "one byte longer than the message", message(last, attribute(type, payload, length=len(payload) + 5)[:-3])
    yield "header cut", message(last, attribute(type, payload)[:3])
    if type in NUMBERS:
        yield "three bytes", with_one(type, attribute(type, payload[:3]))
        yield "five bytes", with_one(type, attribute(type, payload + b"\0"))
        yield "bits that mean nothing", with_one(type, number(type, 1 << 31))
    else:
        yield "no NUL", with_one(type, attribute(type, payload[:-1]))
        yield "a NUL within", with_one(type, attribute(type, payload + b"x\0"))
        yield "two NULs", with_one(type, attribute(type, payload + b"\0"))
        yield "only a NUL", with_one(type, attribute(type, b"\0"))


FAULTS = [(NAMES[type - FLAGS_ATTR], fault, data) for type in GOOD for fault, data in faults(type)]


@pytest.mark.parametrize(("name", "fault", "data"), FAULTS, ids=[f"{name}: {fault}" for name, fault, _ in FAULTS])
def test_a_bad_attribute_is_refused(start: Starter, name: str, fault: str, data: bytes) -> None:
    """Before anything is done."""
    boot = start()
    reason = boot.failure(data)
    assert reason.startswith("bad message: ")
    if fault != "header cut":
        assert name in reason
    if "length" in fault or "longer" in fault:  # not what is found where nothing may be looked for
        assert f"{name} says it has " in reason


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ([], "no CLONE_FLAGS"),
        ([number(ROOTLESS, 0)], "no CLONE_FLAGS"),
        ([create(), number(27280, 0)], "unknown attribute 27280"),
        ([create(), number(27291, 0)], "unknown attribute 27291"),
        ([create(), number(0, 0)], "unknown attribute 0"),
        ([create(), number(ROOTLESS, 2)], "ROOTLESS_EUID is 0x2"),
        ([number(FLAGS_ATTR, 0x100)], "CLONE_FLAGS is 0x100"),
        ([create(), join(network="/x")], "NS_PATHS has a type that is none: network"),
        ([create(), join(pid_for_children="/x")], "NS_PATHS has a type that is none: pid_for_children"),
        ([create(), string(PATHS, "net")], "NS_PATHS has an item that is not type:path: net"),
        ([create(), string(PATHS, "net:")], "NS_PATHS has an item that is not type:path: net:"),
        ([create(), string(PATHS, "net:/x,")], "NS_PATHS has an item that is not type:path: "),
        ([create(), string(PATHS, ",net:/x")], "NS_PATHS has an item that is not type:path: "),
        ([create(), string(PATHS, ":/x")], "NS_PATHS has a type that is none: "),
        ([create(), string(PATHS, "net:/x,net:/y")], "NS_PATHS has net twice"),
        ([create("net"), join(net="/x")], "net is to be created and joined"),
        ([create(), string(UIDMAP, "0 0 1\n")], "id maps without a new user namespace"),
        ([create("user"), join(user="/x")], "user is to be created and joined"),
        ([create(), string(TIMEOFFSETS, "boottime 1 0\n")], "time offsets without a new time namespace"),
        ([create("user"), string(UIDMAPPATH, "newuidmap")], "UIDMAPPATH is not what it should be: newuidmap"),
        *(
            ([create("user"), string(GIDMAP, text)], f"GIDMAP is not what it should be: {text}")
            for text in (
                "\n",
                "0 0\n",
                "0 0 1 1\n",
                "0 0 1\n\n",
                "0 0 -1",
                "--help 0 1",
                "0 0 1\n1 1",
                "0 0 4294967296",
                "0x0 0 1",
            )
        ),
        ([create(), b"\0"], "1 bytes behind the last attribute"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(start: Starter, attributes: list[bytes], reason: str) -> None:
    """Nothing is ignored, nothing is guessed."""
    assert start().failure(message(*attributes)) == f"bad message: {reason}"


@pytest.mark.parametrize("length", [*range(16), 65536, 0xFFFFFFFF])
def test_a_total_length_that_cannot_be(start: Starter, length: int) -> None:
    """Not a byte of the payload is awaited then, so that its early end is no matter."""
    assert start().failure(message(create(), length=length), shut=True) == f"bad message: it says it has {length} bytes"


def test_the_longest_message_is_read(start: Starter) -> None:
    """65,535 bytes; that its one path is too long for the kernel is another matter."""
    data = message(create(), attribute(PATHS, b"net:" + b"x" * (65535 - 16 - 8 - 4 - 4 - 1) + b"\0"))[:65535]
    data = struct.pack("=I", 65535) + data[4:]
    reason = start().failure(data)
    assert reason.startswith("open the net namespace xxx")


@pytest.mark.parametrize("cut", [0, 1, 15])
def test_a_header_that_ends_early(start: Starter, cut: int) -> None:
    """End of file is an error at any byte."""
    reason = start().failure(message(create())[:cut], shut=True)
    assert reason == f"the init pipe ended after {cut} of the 16 bytes of the header"


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_a_payload_that_ends_early(start: Starter, cut: int) -> None:
    """End of file is an error at any byte."""
    reason = start().failure(message(create())[: 16 + cut], shut=True)
    assert reason == f"the init pipe ended after {cut} of the 8 bytes of the message"


def test_a_message_of_another_type(start: Starter) -> None:
    """Also netlink's own error."""
    for type in (0, 2, 61999, 62001):
        assert start().failure(message(create(), type=type)) == f"bad message: its type is {type}, not 62000"


# ---- the log ----


def test_the_log_says_how_it_starts_and_where(start: Starter) -> None:
    """Phrases that runc's own tests look for, and the stage of each line."""
    boot = start(under=["taskset", "1"])
    boot.succeed(message(create("uts")))
    log = boot.log()
    assert log[0] == ("debug", None, "=> nsexec container setup")
    assert log[1] == ("debug", None, "affinity: 0x1")
    assert {stage for _, stage, _ in log} == {None, "0", "1", "2"}
    assert {level for level, _, _ in log} == {"debug"}


@pytest.mark.parametrize(("level", "lines"), [("0", 0), ("1", 1), ("4", 1)])
def test_the_log_is_as_loud_as_asked(start: Starter, level: str, lines: int) -> None:
    """Levels are logrus'; a fatal line is one from 1 on."""
    boot = start(env={"_LIBCONTAINER_LOGLEVEL": level})
    boot.send(message(create(), join(net="/nonexistent")))
    assert boot.process.wait() == 1
    assert [level for level, _, _ in boot.log()] == ["fatal"] * lines


def test_without_a_log_a_failure_goes_to_stderr(start: Starter) -> None:
    """As text, once."""
    boot = start(env={"_LIBCONTAINER_LOGPIPE": None})
    boot.send(message(create(), join(net="/nonexistent")))
    assert boot.process.wait() == 1
    assert boot.process.stderr is not None
    expected = b"FATAL: open the net namespace /nonexistent: No such file or directory\n"
    assert boot.process.stderr.read() == expected
    assert boot.log() == []


def test_a_log_line_is_json_whatever_is_in_it(start: Starter) -> None:
    """Quotes, control characters and DEL are escaped, other bytes stay."""
    path = "/" + "".join(map(chr, range(1, 128))).replace(",", "").replace("/", "") + "ä€"
    reason = start().failure(message(create(), join(net=path)))
    assert reason == f"open the net namespace {path}: No such file or directory"


@pytest.mark.parametrize("filler", ["x", '"', "\x01", "ä"])
def test_a_log_line_is_never_longer_than_a_pipe_writes_at_once(start: Starter, filler: str) -> None:
    """It is cut, and still a line of JSON."""
    reason = start().failure(message(create(), join(net="/" + filler * 20000)))
    assert reason.startswith(f"open the net namespace /{filler * 100}")


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_log_that_nobody_reads_is_no_failure(start: Starter, kind: str) -> None:
    """Nor does it leave a signal behind."""
    if kind == "pipe":
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.close(reader)
    else:
        ours, theirs = socket.socketpair()
        ours.close()
        writer = theirs.detach()
    facts = start(log_to=writer).succeed(message(create("uts")))
    os.close(writer)
    assert changed(facts) == {"uts"}
    assert facts["sigpipe_blocked"] == 0


# ---- when somebody dies ----


def lockstep() -> tuple[int, int]:
    """A pipe that holds one write: who logs a line waits until the one before it has been read."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    fcntl.fcntl(writer, getattr(fcntl, "F_SETPIPE_SZ", 1031), 4096)
    return reader, writer


@contextmanager
def draining(reader: int) -> Iterator[list[bytes]]:
    """What comes from now on until everybody has ended: read in the background, complete at the end of the block."""
    parts: list[bytes] = []

    def drain() -> None:
        while part := os.read(reader, 4096):
            parts.append(part)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    yield parts
    thread.join()
    os.close(reader)


def stage_of(pid: int) -> int:
    """By its name; -1 if it has none yet."""
    with open(f"/proc/{pid}/comm") as file:
        return {"runc:[0:PARENT]": 0, "runc:[1:CHILD]": 1, "runc:[2:INIT]": 2}.get(file.read().strip(), -1)


SCENES = {
    "create": message(create("user", "uts", "net"), maps("0 0 1\n", "0 0 1\n", setgroups=False, rootless=False)),
    "join": message(create("uts", "pid"), join(net="/proc/self/ns/net", ipc="/proc/self/ns/ipc")),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_who_is_killed_takes_the_others_with_him(program: str, victim: int, scene: str) -> None:
    """At every line of the log: nobody is left, nobody hangs, and one of the others says why, once."""
    killed = 0
    for after in itertools.count():
        reader, writer = lockstep()
        boot = Bootstrap([program], log_to=writer)
        os.close(writer)
        boot.send(SCENES[scene])
        content = b"".join(os.read(reader, 4096) for _ in range(after))
        complete = "<= nsexec" in content.decode()
        found = [pid for pid in boot.stages() if stage_of(pid) == victim]
        for pid in found[:1]:
            os.kill(pid, signal.SIGKILL)
        with draining(reader) as rest:
            facts = boot.facts()
            boot.end_program()
            statuses = {0: reap(boot.process.pid)}
            boot.process.returncode = statuses[0]
            others = [reap(pid) for pid in boot.stages()]
        boot.close()
        fatal = [text for level, _, text in parse_log(content + b"".join(rest)) if level == "fatal"]
        told = f"killed {found} as stage {victim} after {after} lines: {statuses} {others} {fatal} {facts is not None}"
        killed += bool(found)
        if not found:
            assert (statuses[0], facts is not None, fatal) == (0, True, []), told
        elif statuses[0] == 0:  # it was too late: all had been done
            assert fatal == [], told
        else:
            assert statuses[0] == (-9 if victim == 0 else 1), told
            if facts is None:
                assert len(fatal) == 1 or others == [], told  # stage 0 alone has nobody to say it
                assert 0 not in others, told
            else:  # only stage 0 is there still when the program begins
                assert (victim, len(fatal) > 1) == (0, False), told
        if complete:
            break
    assert killed >= 3


@pytest.mark.parametrize("victim", ["stage1_pid", "stage2_pid"])
def test_one_who_cannot_see_that_another_died_is_killed(program: str, victim: str) -> None:
    """A stage that is stopped does not read the end of file; stage 0 ends it."""
    reader, writer = lockstep()
    boot = Bootstrap([program], log_to=writer)
    os.close(writer)
    boot.send(SCENES["create"])
    content = b""
    while b"report the pids" not in content:
        content += os.read(reader, 4096)
    pids = boot.pids()
    (other,) = pids.keys() - {victim}
    os.kill(pids[other], signal.SIGSTOP)
    os.kill(pids[victim], signal.SIGKILL)
    assert reap(pids[victim]) == -9
    if victim == "stage2_pid":
        os.kill(pids[other], signal.SIGCONT)  # it has work to do before anybody can notice
    with draining(reader) as rest:
        assert reap(boot.process.pid) == 1
        boot.process.returncode = 1
        assert reap(pids[other]) in ((-9,) if other == "stage2_pid" else (0, -9))
        assert boot.facts() is None
    assert [level for level, _, _ in parse_log(content + b"".join(rest))].count("fatal") == 1
    boot.close()


def test_a_speaker_that_has_gone(start: Starter) -> None:
    """Nobody would ever reap or end the program: it is not started."""
    boot = start()
    boot.send(message(create("uts")))
    boot.pipe.close()
    assert boot.failure() == "send the pids to the init pipe: Broken pipe"


def test_who_is_pid_1_has_no_siblings(start: Starter) -> None:
    """The kernel's no, with its reason."""
    boot = start(under=["unshare", "--pid", "--fork", "--kill-child"])
    boot.send(message(create("uts")))
    assert boot.failure() == "start stage 1 (pid 1 has no parent to give it to): Invalid argument"


# ---- what a stranger sees ----

HOSTILE = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.stdin.readline()
print("hunting", flush=True)
while sys.stdin.readline():
    seen, caught = [], []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid == os.getpid():
            continue
        seen.append(pid)
        for name in ("mem", "environ", "maps", "auxv"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    if name == "mem" or file.read(1):
                        caught.append(f"{pid} {name}")
            except OSError:
                pass
        for name in ("exe", "cwd", "root", *(f"fd/{fd}" for fd in range(12))):
            try:
                os.readlink(f"/proc/{pid}/{name}")
                caught.append(f"{pid} {name}")
            except OSError:
                pass
        if libc.ptrace(0x4206, pid, None, None) == 0:
            caught.append(f"{pid} ptrace")
        try:
            pidfd = os.pidfd_open(pid)
            if libc.syscall(438, pidfd, 0, 0) >= 0:
                caught.append(f"{pid} pidfd_getfd")
            os.close(pidfd)
        except OSError:
            pass
    print(len(seen), *caught, sep=";", flush=True)
"""


def test_a_stranger_in_the_target_cannot_touch_who_joins(program: str) -> None:
    """Root of the joined user and pid namespaces, at every line of the log: no memory, no descriptor, no ptrace."""
    hostile = [sys.executable, "-I", "-S", "-c", HOSTILE]
    options = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with subprocess.Popen(
        ["unshare", *options, "--", *hostile], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as unshare:
        assert unshare.stdin is not None
        assert unshare.stdout is not None
        try:
            print("go", file=unshare.stdin, flush=True)
            assert unshare.stdout.readline() == "hunting\n"
            pid = only_child(unshare.pid)
            reader, writer = lockstep()
            boot = Bootstrap([program], log_to=writer)
            os.close(writer)
            boot.send(message(create("uts"), join(user=pid, pid=pid)))
            seen = 0
            while b"<= nsexec" not in os.read(reader, 4096):
                print("round", file=unshare.stdin, flush=True)
                others, *caught = unshare.stdout.readline().strip().split(";")
                seen = max(seen, int(others))
                assert caught == []
            assert seen == 1  # stage 2 was there to be seen
            assert boot.facts() is not None
            boot.end_program()
            boot.process.returncode = 0
            assert [reap(stage) for stage in boot.stages()] == [0, 0, 7]
            boot.close()
            os.close(reader)
        finally:
            unshare.kill()
