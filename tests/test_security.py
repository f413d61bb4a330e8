"""What strangers inside a namespace can do to who joins it, and what of ours they find there: nothing. See SECURITY.md."""

from __future__ import annotations

import errno
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, USER, Runner, lacking, tool
from inside import children, failure, fds, living, ns, only_child, ready, status
from test_nsexec import OOM, OWN_MAPS, Bootstrap, create, join, lockstep, message, reap, string, target
from test_nsexec import program as program  # its fixture

import nsapi

# ---- a hostile container ----


@pytest.fixture(scope="session")
def hostile() -> Iterator[str]:
    """hostile.c, static, and beside it what may be executed but not read, so that it is as hidden as we are."""
    import shutil
    import tempfile

    if os.geteuid() != 0:
        lacking("root")
    if not Path("/proc/sys/kernel/ns_last_pid").exists():
        lacking("the sysctl kernel.ns_last_pid: a kernel with CONFIG_CHECKPOINT_RESTORE")
    folder = Path(tempfile.mkdtemp(prefix="nsapi-tests-"))
    folder.chmod(0o755)
    command = [tool("gcc"), "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
    command += ["-o", str(folder / "hostile"), str(REPOSITORY / "tests/hostile.c")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.copy(tool("true"), folder / "hidden")
    os.chown(folder / "hidden", USER, USER)
    (folder / "hidden").chmod(0o111)
    yield str(folder)
    shutil.rmtree(folder)


#: Where the hostile root is, and what of its namespaces is joined. Beside us in one pid namespace, it sees all stages.
JOINS: dict[str, tuple[str, dict[str, object]]] = {
    "all": ("inside", {"join": ["user", "pid", "mnt", "net"]}),
    "user and pid": ("inside", {"join": ["user", "pid"]}),
    "pid": ("inside", {"join": ["pid"]}),
    "user, with a reaper": ("beside", {"join": ["user"], "new": ["pid", "mnt"], "init": True}),
    "user, and new ones": ("beside", {"join": ["user", "net"], "new": ["uts", "pid"]}),
}
OF_ITS_OWN = ("--user", "--map-root-user", "--net", "--mount-proc", "--pid", "--fork", "--kill-child")
#: A caller whose pid namespace is its own, so that what a hostile process does to its neighbours is done to no others.
APART = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.mark.parametrize(
    ("carrier", "case"),
    [*(("launcher", case) for case in JOINS), *(("preloaded object", case) for case in ("all", "user, and new ones"))],
)
def test_a_hostile_root_gets_nothing_of_who_joins(root: Runner, hostile: str, carrier: str, case: str) -> None:
    """No ptrace, memory, descriptor, file or directory of any process of ours, at any moment that it is there."""

    def body(folder: str, where: str, fields: dict[str, Any], carrier: str, own: list[str]) -> Any:
        import select

        options = own if where == "inside" else ["--user", "--map-root-user", "--net"]
        with ready("unshare", *options, f"{folder}/hostile", "hunt") as process:
            assert process.stdout is not None
            it = only_child(process.pid) if where == "inside" else process.pid
            paths: dict[str, Any] = dict.fromkeys(fields["join"], it)
            config = nsapi.Config.new(*fields.get("new", ()), **paths)
            quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            config.init = fields.get("init", False) and carrier == "launcher"
            for _ in range(2000):
                if carrier == "launcher":
                    # Executed, it stays as hidden as it was: who gets anything has got it from us.
                    assert nsapi.run([f"{folder}/hidden"], config=config, **quiet).returncode == 0
                else:
                    with nsapi.boot_env(config) as boot:
                        started = subprocess.Popen(["true"], env=boot.env, pass_fds=boot.pass_fds, **quiet)
                        boot.confirm(60, started)
                        assert started.wait(60) == 0
                if select.select([process.stdout], [], [], 0)[0]:
                    break
            os.kill(it, signal.SIGTERM)
            return process.stdout.read()

    where, fields = JOINS[case]
    assert root(body, hostile, where, fields, carrier, OF_ITS_OWN, under=APART) == "enough\n"


@pytest.mark.parametrize("carrier", ["launcher", "preloaded object"])
def test_who_is_killed_at_his_birth_is_an_error_or_a_status(root: Runner, hostile: str, carrier: str) -> None:
    """By root of the joined namespaces, every time: never success, nobody hangs, nobody stays; nor do descriptors."""

    def body(folder: str, carrier: str, own: list[str]) -> Any:
        answers = set()
        with ready("unshare", *own, f"{folder}/hostile", "kill") as process:
            assert process.stdout is not None
            it = only_child(process.pid)
            nsapi.run(["true"], config=nsapi.Config.new("user", uid=0))  # the launcher is in memory from now on
            before = fds()
            for _ in range(40):
                config = nsapi.Config.join(it, "user", "pid", "mnt", "net")
                try:
                    if carrier == "launcher":
                        answers.add(nsapi.run([f"{folder}/hidden"], config=config).returncode)  # as hidden as we are
                        continue
                    with nsapi.boot_env(config) as boot:
                        started = subprocess.Popen(["true"], env=boot.env, pass_fds=boot.pass_fds)
                        try:
                            boot.confirm(60, started)
                        finally:
                            status = started.wait(60)
                        answers.add(status)
                except nsapi.NamespaceError:
                    answers.add(-9)
            os.kill(it, signal.SIGTERM)
            left = [child for child in children() if child != process.pid]
            return [sorted(answers), fds() == before, left, process.stdout.read().splitlines()]

    answers, same, left, taken = root(body, hostile, carrier, OF_ITS_OWN)
    assert answers in ([-9], [-9, 0])
    assert (same, left) == (True, [])
    assert [each for each in taken if each != "enough"] == []


def test_ctrl_c_ends_who_was_stopped_at_his_birth(root: Runner, hostile: str) -> None:
    """A stopped stage says nothing for ever, and the caller waits; KeyboardInterrupt comes, and leaves nobody."""

    def body(folder: str, own: list[str]) -> Any:
        signal.alarm(100)
        with ready("unshare", *own, f"{folder}/hostile", "stop") as process:
            it = only_child(process.pid)
            config = nsapi.Config.join(it, "user", "pid", "mnt", "net")
            nsapi.run(["true"], config=nsapi.Config.new("user", uid=0))  # as above
            before = fds()
            main, over = threading.get_ident(), threading.Event()
            interrupted: list[str] = []

            def watch() -> None:
                while not over.is_set():
                    for child in children():
                        try:
                            if status("State", child)[0] != "T" or child == process.pid:
                                continue
                            if pathlib.Path(f"/proc/{child}/comm").read_text() in ("true\n", "sleep\n"):
                                os.kill(child, signal.SIGKILL)  # too late: it was the program already
                            elif not interrupted:
                                interrupted.append("stopped")
                                signal.pthread_kill(main, signal.SIGINT)
                        except (OSError, StopIteration):
                            continue

            thread = threading.Thread(target=watch)
            thread.start()
            ended = ""
            try:
                while not interrupted:
                    nsapi.run(["true"], config=config)
            except KeyboardInterrupt:
                ended = "KeyboardInterrupt"
            over.set()
            thread.join()
            return [ended, fds() == before, [child for child in children() if child != process.pid]]

    assert root(body, hostile, OF_ITS_OWN) == ["KeyboardInterrupt", True, []]


@pytest.mark.parametrize("known", [True, False], ids=["process given", "process unknown"])
def test_who_was_stopped_at_his_birth_is_not_confirmed(user: Runner, hostile: str, known: bool) -> None:
    """The preloaded object's: a TimeoutError, and the stopped stage is gone, though its user may not look into it."""

    def body(folder: str, known: bool, own: list[str]) -> Any:
        signal.alarm(100)
        with ready("unshare", *own, f"{folder}/hostile", "stop") as process:
            it = only_child(process.pid)
            while True:
                with nsapi.boot_env(nsapi.Config.join(it, "user", "pid", "net")) as boot:
                    started = subprocess.Popen(["true"], env=boot.env, pass_fds=boot.pass_fds)
                    try:
                        boot.confirm(0.5, started if known else None)
                    except TimeoutError:
                        started.wait(60)
                        while living(it):  # it has been sent SIGKILL by now, at the end of its parent
                            os.sched_yield()
                        return [child for child in children() if child != process.pid]
                    started.kill()  # too late: it was the program already
                    started.wait(60)
                    while living(it):
                        os.sched_yield()

    assert user(body, hostile, known, OF_ITS_OWN) == []


@pytest.mark.parametrize("carrier", ["launcher", "preloaded object"])
def test_an_init_that_dies_meanwhile_is_an_error_or_a_status(root: Runner, carrier: str) -> None:
    """At any moment of a join: the error says which init has died, or the program has been killed."""

    def body(carrier: str) -> Any:
        answers = set()
        for round in range(25):
            options = ("--user", "--map-root-user", "--pid", "--fork", "--kill-child")
            with ready("unshare", *options, "sh", "-c", "echo ready; exec sleep 1000") as process:
                it = os.pidfd_open(only_child(process.pid))
                config = nsapi.Config.join(only_child(process.pid), "user", "pid")

                def end(it: int = it, round: int = round) -> None:
                    time.sleep(round / 5000)  # any moment of the 2 ms it takes, and some later
                    signal.pidfd_send_signal(it, signal.SIGKILL)

                thread = threading.Thread(target=end)
                thread.start()
                try:
                    if carrier == "launcher":
                        answers.add(nsapi.run(["sleep", "1000"], config=config).returncode)
                    else:
                        with nsapi.boot_env(config) as boot:
                            started = subprocess.Popen(["sleep", "1000"], env=boot.env, pass_fds=boot.pass_fds)
                            try:
                                boot.confirm(60, started)
                            finally:
                                started.wait(60)
                            answers.add(started.returncode)
                except nsapi.NamespaceError:
                    answers.add(-9)
                thread.join()
                os.close(it)
        return [sorted(answers), children()]

    assert root(body, carrier) == [[-9], []]


# ---- what of ours is there ----


@pytest.fixture(scope="session")
def speaking(request: pytest.FixtureRequest) -> str:
    """The program of test_nsexec, whose log stops it at every line."""
    return str(request.getfixturevalue("program"))


def lines(reader: int) -> Iterator[str]:
    """Of the log, up to the last."""
    while "<= nsexec" not in (line := os.read(reader, 4096).decode()):
        assert '"fatal"' not in line, line
        assert line, "it has ended"
        yield line


def until_the_program_may_run(log: Iterator[str]) -> Iterator[str]:
    """Of the log; the rest is read, but who is inside by then may have become the program, which has files of its own."""
    for line in log:
        if "let stage 2 go on" in line:
            break
        yield line
    for _ in log:
        pass


@contextmanager
def stopping(argv: list[str], data: bytes, *pass_fds: int) -> Iterator[tuple[Bootstrap, Iterator[str]]]:
    """A bootstrap whose stages wait at each line that they log until it has been taken; it must go well."""
    reader, writer = lockstep()
    boot = Bootstrap(argv, log_to=writer, pass_fds=pass_fds)
    os.close(writer)
    boot.send(data)
    yield boot, lines(reader)
    assert boot.facts() is not None
    boot.end_program()
    boot.process.returncode = 0
    assert [reap(stage) for stage in boot.stages()] == [0, 0, 7]
    boot.close()
    os.close(reader)


@pytest.mark.usefixtures("root")
def test_no_directory_goes_where_strangers_are(speaking: str) -> None:
    """At every line of the log: who has joined has no directory open, and works in one of the joined namespace."""
    with target("--user", "--map-root-user", "--pid", "--fork", "--mount") as it:
        there = os.readlink(f"/proc/{it}/ns/mnt")
        data = message(create("uts"), join(user=it, pid=it, mnt=it), string(OOM, "300"))
        looked = 0
        with stopping([speaking], data) as (boot, log):
            for _ in until_the_program_may_run(log):
                for stage in boot.stages():
                    try:
                        if os.readlink(f"/proc/{stage}/ns/mnt") != there:
                            continue
                        looked += 1
                        for fd in os.listdir(f"/proc/{stage}/fd"):
                            assert not os.path.isdir(f"/proc/{stage}/fd/{fd}"), os.readlink(f"/proc/{stage}/fd/{fd}")
                        assert os.readlink(f"/proc/{stage}/cwd") == "/"
                    except FileNotFoundError:
                        continue  # it has ended
        assert looked > 4


@pytest.mark.usefixtures("root")
def test_all_that_the_stages_open_is_close_on_exec(speaking: str) -> None:
    """At every line of the log: whatever they execute, and whenever, gets stdio and what the speaker has lent, or passed."""
    with target("--net", "--uts", "--ipc", "--cgroup") as it:
        data = message(create("user", "time"), join(net=it, uts=it, ipc=it, cgroup=it), string(OOM, "300"), OWN_MAPS)
        looked = 0
        with stopping([speaking], data) as (boot, log):
            for _ in until_the_program_may_run(log):
                for stage in boot.stages():
                    try:
                        for fd in map(int, os.listdir(f"/proc/{stage}/fd")):
                            flags = pathlib.Path(f"/proc/{stage}/fdinfo/{fd}").read_text().split()[3]
                            own = fd > 2 and fd not in boot.lent
                            assert not own or int(flags, 8) & os.O_CLOEXEC, os.readlink(f"/proc/{stage}/fd/{fd}")
                            looked += own
                    except FileNotFoundError:
                        continue  # it has ended, or has closed it
        assert looked > 20


@pytest.mark.usefixtures("root")
def test_an_ordinary_user_is_seen_only_while_he_is_mapped(speaking: str) -> None:
    """Who is dumpable owns his files in /proc: hidden before he joins, shown from asking for his maps until he has them."""
    able = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=+sys_admin"]
    owners: dict[str, int] = {}
    types = ("net", "uts", "ipc")
    with target(*(f"--{each}" for each in types)) as it:
        links = {each: os.open(f"/proc/{it}/ns/{each}", os.O_RDONLY) for each in types}
        joins = join(**{each: f"/proc/self/fd/{fd}" for each, fd in links.items()})
        data = message(create("user", "cgroup"), joins, OWN_MAPS)
        # A stage is up to one line further than what has been read: there are two more joins before it asks, and with
        # stage 0 stopped it gets no answer.
        with stopping([*able, "--ambient-caps=+sys_admin", speaking], data, *links.values()) as (boot, log):
            for line in log:
                for words in ("join net", "ask stage 0", "unshare the other", "inside"):
                    if f"]: {words}" in line:
                        stage = int(line.split("[")[1].split("]")[0])
                        owners[words] = os.stat(f"/proc/{stage}/environ").st_uid
                if "]: join net" in line:
                    os.kill(boot.process.pid, signal.SIGSTOP)
                    os.waitid(os.P_PID, boot.process.pid, os.WSTOPPED | os.WNOWAIT)
                elif "]: ask stage 0" in line:
                    os.kill(boot.process.pid, signal.SIGCONT)
        for fd in links.values():
            os.close(fd)
    assert owners == {"join net": 0, "ask stage 0": USER, "unshare the other": 0, "inside": 0}


def test_an_init_knows_nothing_of_the_caller(anyone: Runner) -> None:
    """The launcher's environment is its own three variables; secrets of argv and env are not in its memory."""

    def body() -> Any:
        secret = "".join(["se", "cret", "-of-the-caller"])
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        argv = ["sh", "-c", "echo ready; read -r _", secret]
        ends: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with nsapi.Popen(argv, config=config, env={**os.environ, "PASSWORD": secret}, **ends) as process:
            assert process.stdout is not None
            process.stdout.readline()
            (init,) = [child for child in children() if child != process.pid]
            variables = pathlib.Path(f"/proc/{init}/environ").read_text().rstrip("\0").split("\0")
            found = []
            with open(f"/proc/{init}/maps") as maps, open(f"/proc/{init}/mem", "rb") as memory:
                for line in maps:
                    first, last = (int(each, 16) for each in line.split()[0].split("-"))
                    if "[v" in line:
                        continue
                    memory.seek(first)
                    if secret.encode() in memory.read(last - first):
                        found.append(line)
            process.communicate(b"\n")
        return [[each.partition("=")[0] for each in variables], found]

    variables, found = anyone(body)
    assert variables == ["_LIBCONTAINER_INITPIPE", "_LIBCONTAINER_LOGPIPE", "_LIBCONTAINER_LOGLEVEL"]
    assert found == []


def test_the_program_cannot_write_to_the_launcher(anyone: Runner) -> None:
    """Its file in memory lies under /proc/1/exe: root of the namespace opens it for nothing that changes it."""

    def body(script: str) -> Any:
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        told = nsapi.run([sys.executable, "-I", "-S", "-c", script], config=config, capture_output=True, text=True)
        return told.stdout or told.stderr

    script = """
import os, mmap, fcntl
def tried(call):
    try:
        call()
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None) is not None
    return False
assert "memfd:nsapi" in os.readlink("/proc/1/exe"), os.readlink("/proc/1/exe")
exe = os.open("/proc/1/exe", os.O_RDONLY)
again = f"/proc/self/fd/{exe}"
print([tried(lambda: os.open("/proc/1/exe", how)) for how in (os.O_WRONLY, os.O_RDWR)],
      [tried(lambda: os.open(again, how)) for how in (os.O_WRONLY, os.O_RDWR)], tried(lambda: os.truncate(again, 0)),
      fcntl.fcntl(exe, fcntl.F_GET_SEALS))
"""
    assert anyone(body, script) == "[True, True] [True, True] True 15\n"


def test_what_it_is_to_do_is_sealed_and_of_any_length(anyone: Runner) -> None:
    """More than 65,535 bytes of arguments and environment; and nobody changes them on their way."""

    def body() -> Any:
        from nsapi import _launcher

        big = "x" * 100_000
        script = 'printf %s "$0$BIG" | wc -c'
        config = nsapi.Config.new("user", uid=0)
        done = nsapi.run(
            ["sh", "-c", script, big], config=config, env={**os.environ, "BIG": big}, capture_output=True, text=True
        )
        cell = _launcher.sealed("nsapi", b"cargo")
        fd = cell[0]
        writers = [failure(lambda: os.pwrite(fd, b"x", 0)), failure(lambda: os.ftruncate(fd, 1 << 20))]
        return [done.stdout.strip(), all(writers), os.get_inheritable(fd)]

    assert anyone(body) == ["200000", True, False]


@pytest.mark.parametrize("fields", [{}, {"init": True}], ids=["joined", "with a reaper"])
def test_an_inherited_directory_stays_outside(root: Runner, fields: dict[str, object]) -> None:
    """Whatever the caller's other modules have left open, and inheritable: neither the program nor its init has it."""

    def body(fields: dict[str, Any]) -> Any:
        import fcntl

        directory = os.open("/", os.O_RDONLY)
        fcntl.fcntl(directory, fcntl.F_DUPFD, 50)
        with ready("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "sh", "-c",
                   "echo ready; exec sleep 1000") as process:  # fmt: skip
            it = only_child(process.pid)
            joins = (
                nsapi.Config.new("pid", "mnt", user=it, **fields) if fields else nsapi.Config.join(it, "user", "pid")
            )
            with nsapi.Popen(["sleep", "1000"], config=joins) as inside:
                others = [child for child in children() if child != process.pid]
                held = [os.path.exists(f"/proc/{child}/fd/50") for child in others]
                inside.kill()
        return held

    assert root(body, fields) == [False] * (2 if fields else 1)


@pytest.mark.parametrize("carrier", ["launcher", "preloaded object"])
def test_groups_stay_outside(root: Runner, carrier: str) -> None:
    """The caller's are not given to the root of a joined user namespace, where setgroups is denied, and who may trace."""

    def body(carrier: str) -> Any:
        os.setgroups([0, 4242])
        with ready("unshare", "--user", "--map-root-user", "sh", "-c", "echo ready; exec sleep 1000") as process:
            config = nsapi.Config.join(process.pid, "user")
            look = ["grep", "Groups", "/proc/self/status"]
            if carrier == "launcher":
                return nsapi.run(look, config=config, capture_output=True, text=True).stdout.split()
            with nsapi.boot_env(config) as boot:
                started = subprocess.Popen(look, env=boot.env, pass_fds=boot.pass_fds, stdout=subprocess.PIPE)
                boot.confirm(60, started)
                return started.communicate()[0].decode().split()

    assert root(body, carrier) == ["Groups:"]


@pytest.mark.parametrize("carrier", ["launcher", "preloaded object"])
def test_ids_that_are_not_mapped_stay_outside(root: Runner, carrier: str) -> None:
    """Another user's namespace has no root, or one: we are that one, who is told, or not there. Never root of the host."""

    def body(user: int, carrier: str) -> Any:
        answers: list[Any] = []
        other = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
        for options in (["--user"], ["--user", "--map-user=5", "--map-group=5"], ["--user", "--map-root-user"]):
            with ready(*other, "unshare", *options, "sh", "-c", "echo ready; exec sleep 1000") as process:
                config = nsapi.Config.join(process.pid, "user")
                if carrier == "launcher":
                    config.uid = config.gid = 5 if "--map-user=5" in options else None
                try:
                    if carrier == "launcher":
                        with nsapi.Popen(["sleep", "1000"], config=config) as program:
                            answers.append(os.stat(f"/proc/{program.pid}").st_uid)
                            program.kill()
                    else:
                        with nsapi.boot_env(config) as boot:
                            started = subprocess.Popen(["sleep", "1000"], env=boot.env, pass_fds=boot.pass_fds)
                            try:
                                answers.append(status("Uid", boot.confirm(60, started).program).split()[0])
                            finally:
                                started.kill()
                                started.wait()
                except nsapi.NamespaceError as error:
                    answers.append(str(error).partition(": ")[2])
        return answers

    refused = "keep a gid that the joined user namespace does not map"
    if carrier == "launcher":
        assert root(body, USER, carrier) == [refused, USER, USER]
    else:
        assert root(body, USER, carrier) == [refused, refused, str(USER)]


# ---- what of theirs we believe ----


def test_paths_are_opened_before_anything_is_joined(root: Runner) -> None:
    """In the joined mount namespace there is no /proc: what a path meant outside is joined all the same."""

    def body() -> Any:
        script = "mount --make-rprivate /; mount -t tmpfs none /proc; echo ready; exec sleep 1000"
        with ready("unshare", "--mount", "--cgroup", "--time", "sh", "-c", script) as process:
            there = {type: ns(type, process.pid) for type in ("mnt", "cgroup", "time")}
            config = nsapi.Config.new(**{type: f"/proc/{process.pid}/ns/{type}" for type in there})
            with nsapi.boot_env(config) as boot:
                started = subprocess.Popen(["sleep", "1000"], env=boot.env, pass_fds=boot.pass_fds)
                booted = {type: ns(type, boot.confirm(60, started).program) for type in there}
                started.kill()
                started.wait()
            with nsapi.Popen(["sleep", "1000"], config=config) as launched:
                made = {type: ns(type, launched.pid) for type in there}
                launched.kill()
            return booted == there, made == there

    assert root(body) == [True, True]


@pytest.mark.parametrize("carrier", ["launcher", "preloaded object"])
@pytest.mark.parametrize("kind", ["no procfs", "a link over self"])
def test_a_foreign_proc_is_not_written_to(root: Runner, kind: str, carrier: str) -> None:
    """The caller is in a mount namespace where /proc leads to the files of a victim: they stay as they are."""

    def body(kind: str, carrier: str, over_self: str) -> Any:
        script = """
            mount --make-rprivate /; mount -t tmpfs none /mnt; mkdir /mnt/proc; mount -t proc proc /mnt/proc
            ln -s /mnt/proc/$1 /mnt/self
            if [ "$2" = "no procfs" ]; then mount -t tmpfs none /proc
                for each in self thread-self; do ln -s /mnt/proc/$1 /proc/$each; done
            else "$3" -I -S -c "$4" || exit 1; fi
            echo ready; exec sleep 1000
        """
        with ready("sh", "-c", "echo ready; exec sleep 1000") as victim:
            score = pathlib.Path(f"/proc/{victim.pid}/oom_score_adj")
            argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(victim.pid), kind, sys.executable, over_self]
            with ready(*argv) as process:
                if carrier == "launcher":
                    config = nsapi.Config.new("uts", oom_score_adj=777, uid=0)
                    nsapi.run(
                        ["true"], config=nsapi.Config.new("user", uid=0)
                    )  # all is imported, as enter's caller must
                    with nsapi.enter(process.pid, "mnt"):
                        told = failure(lambda: nsapi.run(["true"], config=config))["text"]
                else:
                    with nsapi.boot_env(nsapi.Config.new("uts", oom_score_adj=777)) as boot:
                        command = ["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", "env"]
                        ours = [
                            f"{key}={boot.env[key]}" for key in ("LD_PRELOAD", "_NSAPI_BOOT", "_LIBCONTAINER_INITPIPE")
                        ]
                        with subprocess.Popen([*command, *ours, "true"], pass_fds=boot.pass_fds) as started:
                            told = failure(lambda: boot.confirm(60, started))["text"]
                return [score.read_text().strip(), told]

    over_self = """
import ctypes, os
call = ctypes.CDLL(None, use_errno=True).syscall
link = call(428, -100, b"/mnt/self", 1 | 0x100)  # open_tree: a clone, of the link itself
assert link >= 0, ctypes.get_errno()
assert call(429, link, b"", -100, b"/proc/self", 4) == 0, ctypes.get_errno()  # move_mount onto the link itself
"""
    score, told = root(body, kind, carrier, over_self)
    assert score == "0", told
    assert (
        "procfs" in told if kind == "no procfs" else "Invalid cross-device link" in told or "symbolic link" in told
    ), told


def test_the_launcher_starts_nothing_outside_of_what_it_has_joined(root: Runner) -> None:
    """A directory that a link of the container's leads out to is refused; by itself the program is at the root inside."""

    def body() -> Any:
        link = f"mount -t tmpfs none /srv; ln -s /proc/{os.getpid()}/root /srv/out; echo ready; exec sleep 1000"
        with ready("unshare", "--mount", "sh", "-c", "mount --make-rprivate /; " + link) as process:
            config = nsapi.Config.join(process, "mnt", uid=0)
            refused = failure(lambda: nsapi.run(["pwd", "-P"], config=config, cwd="/srv/out"))
            return [
                refused["errno"],
                refused["step"],
                nsapi.run(["pwd", "-P"], config=config, capture_output=True, text=True).stdout,
            ]

    assert root(body) == [errno.EXDEV, "chdir /srv/out", "/\n"]


# ---- who may ----


def test_the_owner_may_join_what_has_an_init(user: Runner) -> None:
    """As an ordinary user: by its pid 1 as by the program, with run, with nsenter(1), and held open."""

    def body() -> Any:
        config = nsapi.Config.new("user", "pid", "mnt", "net", "uts", init=True)
        look = ["readlink", "/proc/self/ns/net"]
        options = ["--user", "--preserve-credentials", "--net", "--pid", "--mount"]
        answers: list[Any] = []
        with nsapi.Popen(["sleep", "1000"], config=config) as process:
            try:
                (init,) = [child for child in children() if child != process.pid]
                there = ns("net", process.pid)
                for each in (init, process.pid):
                    for command in (
                        nsapi.run(look, target=each, capture_output=True, text=True),
                        subprocess.run(["nsenter", *options, "-t", str(each), *look], capture_output=True, text=True),
                    ):
                        answers.append([command.stdout.strip() == there, command.stderr])
                    handle = nsapi.open(each, "net")
                    answers.append([f"net:[{handle.id[1]}]" == there, ""])
                    handle.close()
            finally:
                process.kill()
        return answers

    assert user(body) == [[True, ""]] * 6


def test_who_stays_outside_is_not_seen_inside(root: Runner) -> None:
    """Nothing but the program is in the joined pid namespace once it runs, whoever was on the way there."""

    def body() -> Any:
        import select

        options = ["--user", "--map-root-user", "--net", "--mount-proc", "--pid", "--fork", "--kill-child"]
        with ready("unshare", *options, "sh", "-c", "echo ready; exec sleep 1000") as process:
            it = only_child(process.pid)
            config = nsapi.Config.join(it, "user", "pid", "net")
            with nsapi.boot_env(config) as boot:
                started = subprocess.Popen(["sleep", "1000"], env=boot.env, pass_fds=boot.pass_fds)
                program = os.pidfd_open(boot.confirm(60, started).program)
                booted = living(it)
                started.kill()
                started.wait()
                select.select([program], [], [])
            with nsapi.Popen(["sleep", "1000"], config=config) as launched:
                made = living(it)
                launched.kill()
            return len(booted), len(made)

    assert root(body) == [1, 1]


# ---- the code ----


def test_the_core_has_no_stdio_no_locale_and_no_names(tmp_path: Path) -> None:
    """What would read files of the container's, or allocate, is not even called by the launcher's code."""
    called: set[str] = set()
    for name in ("_launch", "_nsexec", "_native"):
        made = tmp_path / f"{name}.o"
        command = [tool("gcc"), "-std=c11", "-D_GNU_SOURCE", "-O2", "-c", "-o", str(made), f"nsapi/{name}.c"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        listed = subprocess.run([tool("nm"), "-u", str(made)], capture_output=True, text=True, check=True).stdout
        called |= {line.split()[-1] for line in listed.splitlines()}
    assert "setns" in called
    forbidden = re.compile(
        r".*printf.*|f?puts|fopen|fwrite|stderr|.*locale.*|iconv.*|(get|set)(pw|gr(nam|gid|ent)|host|serv|addr).*|"
        r"dl.*|.*alloc.*|.*memalign|strn?dup|free|(open|scan)dir|system|popen|exec[lv]p.*|__.*_chk"
    )
    assert sorted(name for name in called if forbidden.fullmatch(name)) == []
