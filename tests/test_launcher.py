"""Carrier C: what a vfork child cannot do is done by the launcher, with the same results, and nothing of it stays behind."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import AS_OTHER, AS_USER, NAME, USER, Runner, ids_of, lacking, setuid, tool, with_etc
from inside import (
    NEW_OF_EACH,
    PIDFD_GET,
    PYTHON,
    TYPES,
    CtrlC,
    all_ns,
    answer_enosys,
    at_every_moment,
    children,
    everything,
    failure,
    fds,
    ns,
    only_child,
    refusal,
    unshared,
)

import nsapi
from nsapi import Config

# ---- the same through both carriers ----

REPORT = """
import ctypes, json, os, resource, signal, sys
def status(field):
    with open("/proc/self/status") as file:
        return next(line.split(":", 1)[1].split() for line in file if line.startswith(field + ":"))
listed = {}
for name in os.listdir("/proc/self/fd"):
    try:
        listed[name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass
print(json.dumps({
    "fds": {name: "a pipe" if path.startswith("pipe:") else path for name, path in listed.items()},
    "inheritable": [fd for fd in map(int, listed) if os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)],
    "cwd": os.getcwd(), "umask": status("Umask"), "argv": sys.argv, "environ": dict(os.environ),
    "comm": open("/proc/self/comm").read(), "cmdline": open("/proc/self/cmdline").read(),
    "own session": os.getsid(0) == os.getpid(), "own group": os.getpgid(0) == os.getpid(),
    "parent": os.getppid() == int(sys.argv[1]), "session": os.getsid(0), "group": os.getpgid(0) if sys.argv[2] else 0,
    "signals": [status(name) for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")],
    "ids": [os.getresuid(), os.getresgid(), sorted(os.getgroups())],
    "caps": [status("Cap" + kind) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")],
    "no new privs": status("NoNewPrivs"), "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
    "limits": [resource.getrlimit(each) for each in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
    "setgroups": open("/proc/self/setgroups").read(),
    "maps": [open(f"/proc/self/{kind}_map").read() for kind in ("uid", "gid")],
    "oom": open("/proc/self/oom_score_adj").read(), "stdin": os.read(0, 100).decode(),
}))
"""

KEYWORDS: dict[str, dict[str, object]] = {
    "nothing": {},
    "cwd": {"cwd": "/usr"},
    "umask": {"umask": 0o27},
    "start_new_session": {"start_new_session": True},
    "process_group=0": {"process_group": 0},
    "restore_signals=False": {"restore_signals": False},
    "close_fds=False": {"close_fds": False},
    "env": {"env": {"A": "b", "LC_ALL": "C.UTF-8"}},
    "executable": {"executable": "/usr/bin/env"},
}
FIELDS: dict[str, dict[str, object]] = {
    "limits": {"rlimits": {"RLIMIT_NOFILE": 64, "RLIMIT_CORE": 0}},
    "no_new_privs": {"no_new_privs": True},
    "oom": {"oom_score_adj": 500},
    "capabilities": {"capabilities": {}, "no_new_privs": True},
    "bounding": {
        "capabilities": {
            kind: ["CAP_KILL"] for kind in ("bounding", "permitted", "effective", "inheritable", "ambient")
        }
    },
}


def compare(report: str, keywords: dict[str, Any], fields: dict[str, Any]) -> list[object]:
    root = os.getuid() == 0
    read, _ = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, 34, 64])
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    seen: list[Any] = []
    if keywords.get("executable"):
        argv = ["env", sys.executable, "-I", "-S", "-c", report, str(os.getpid()), ""]
    else:
        argv = [sys.executable, "-I", "-S", "-c", report, str(os.getpid()), ""]
    if keywords.get("close_fds", True):
        keywords["pass_fds"] = [read]
    for extra in (dict[str, Any](), {"uid": 0}):  # the second needs the launcher
        config = nsapi.Config.new("uts" if root else "user", **fields, **extra)
        made = nsapi.run(argv, config=config, capture_output=True, input=b"hello", **keywords)
        assert made.returncode == 0, made.stderr.decode()
        found = json.loads(made.stdout)
        if keywords.get("start_new_session"):
            del found["session"]
        seen.append(found)
    return seen


@pytest.mark.parametrize("keywords", KEYWORDS.values(), ids=KEYWORDS.keys())
def test_the_program_finds_the_same_by_either_carrier(anyone: Runner, keywords: dict[str, object]) -> None:
    """Stdio, fds, cwd, umask, session, group, signals, ids, environment, name: as a vfork child would have it."""
    by_vfork, by_launcher = anyone(compare, REPORT, keywords, {})
    assert by_launcher == by_vfork


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS.keys())
def test_the_config_is_performed_the_same_by_either_carrier(anyone: Runner, fields: dict[str, object]) -> None:
    """What takes power away takes the same, by either carrier."""
    by_vfork, by_launcher = anyone(compare, REPORT, {}, fields)
    assert by_launcher == by_vfork


def test_its_own_fds_are_none_that_the_program_gets(anyone: Runner) -> None:
    """Where 0, 1 or 2 are closed in the caller, what it opens next has these numbers: stdio goes there all the same."""

    def body() -> Any:
        import itertools

        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        for fd, high in ((0, 100), (1, 101), (2, 102), (os.open("/etc/hostname", os.O_RDONLY), 110), (writer, 111)):
            os.dup2(fd, high, inheritable=False)
        told = []
        config = nsapi.Config.new("user", uid=0)
        for closed in (each for count in (3, 2, 1) for each in itertools.combinations(range(3), count)):
            for fd in closed:
                os.close(fd)
            try:
                program = ["sh", "-c", "readlink /proc/self/fd/0; echo error >&2"]
                nsapi.run(program, config=config, stdin=110, stdout=111, stderr=111, check=True)
                told.append(os.read(reader, 4096).decode())
            except Exception as error:
                told.append(repr(error))
            finally:
                for fd in closed:
                    os.dup2(100 + fd, fd)
        return told

    assert anyone(body) == ["/etc/hostname\nerror\n"] * 7


def test_setgroups_does_not_depend_on_who_writes_it(root: Runner) -> None:
    """A gid map of one id denies, one of ranges allows; "deny" and "allow" insist."""

    def body() -> Any:
        def setgroups(**fields: Any) -> Any:
            config = nsapi.Config.new("user", **fields)
            return nsapi.run(["cat", "/proc/self/setgroups"], config=config, capture_output=True, text=True).stdout

        ranges = {"uid_mappings": "0:0:2", "gid_mappings": "0:0:2"}
        return [
            setgroups(), setgroups(uid=0), setgroups(**ranges), setgroups(setgroups="deny", **ranges),
            setgroups(setgroups="allow"), setgroups(uid_mappings=[], gid_mappings=[]),
            setgroups(uid_mappings=[], gid_mappings=[], setgroups="deny", init=False),
        ]  # fmt: skip

    answers = [each.strip() for each in root(body)]
    assert answers == ["deny", "deny", "allow", "deny", "allow", "allow", "deny"]


# ---- maps ----


def test_root_writes_any_map(root: Runner) -> None:
    """Ranges, without a helper; uid 0 inside where 0 is mapped, else as it was; unmapped: nobody."""

    def body() -> Any:
        def inside(uid: Any, gid: Any) -> Any:
            config = nsapi.Config.new("user", uid_mappings=uid, gid_mappings=gid)
            argv = ["sh", "-c", "grep -E '^[UG]id' /proc/self/status; cat /proc/self/uid_map"]
            made = nsapi.run(argv, config=config, capture_output=True, text=True, check=True)
            lines = [line.split() for line in made.stdout.splitlines()]
            return [lines[0][1:], lines[1][1:], [field for line in lines[2:] for field in line]]

        many = [(2 * each, 1000 + 2 * each, 1) for each in range(340)]
        return [
            inside("0:100000:65536", "0:100000:65536"),
            inside("0:0:1,1:100000:65536", "0:0:1,1:100000:65536"),
            inside("5:0:1,6:100000:10", "5:0:1,6:100000:10"),
            len(inside([tuple(each) for each in many], [(0, 100000, 10)])[2]),
        ]

    a, b, c, count = root(body)
    assert a == [["0"] * 4, ["0"] * 4, ["0", "100000", "65536"]]
    assert b[:2] == [["0"] * 4] * 2
    assert c[:2] == [["5"] * 4] * 2
    assert count == 340 * 3


def test_newuidmap_writes_what_an_ordinary_user_may_not(
    root: Runner, user_python: str, library: Path, readable_tmp: Path
) -> None:
    """Ranges granted in /etc/subuid and /etc/subgid, to a user with a name; the groups may then be set."""
    tool("newuidmap"), tool("newgidmap")
    prefix = [*with_etc(readable_tmp, **ids_of(NAME, USER, 700000, 1000)), *AS_OTHER, "env"]
    named = Runner("user", user_python, prefix, AS_USER, library)

    def body() -> Any:
        found = []
        for fields in ({"types": ("user",)}, {"types": ("user", "pid", "mnt"), "init": True}):
            types: Any = fields.pop("types")
            maps = "0:{}:1,1:700000:1000"
            own = {"uid_mappings": maps.format(os.getuid()), "gid_mappings": maps.format(os.getgid())}
            config = nsapi.Config.new(*types, **own, **fields)
            script = (
                "import os; os.setgroups([5]); print(os.getuid(), os.getgroups(), len([*open('/proc/self/uid_map')]))"
            )
            made = nsapi.run([*PYTHON, script], config=config, capture_output=True, text=True)
            found.append([made.stdout, made.stderr, made.returncode])
        return [*found, children()]

    assert named(body) == [["0 [5] 2\n", "", 0], ["0 [5] 2\n", "", 0], []]


def test_a_missing_grant_or_helper_is_an_error_that_says_so(user: Runner) -> None:
    """EPERM with the helper's name, or ENOENT where there is none; nothing is left."""
    tool("newuidmap")

    def body(uid: int) -> Any:
        maps = f"0:{uid}:1,1:700000:1000"
        config = nsapi.Config.new("user", uid_mappings=maps, gid_mappings=maps)
        call = lambda: nsapi.run(["true"], config=config, stderr=subprocess.DEVNULL)  # noqa: E731
        failure(call)
        before = everything()
        refused = failure(call)
        os.environ["PATH"] = "/nonexistent"
        return [refused, failure(call), everything() == before]

    refused, missing, same = user(body, USER)
    assert refused["errno"] == 1
    assert "writes for nobody without a name" in refused["text"]
    assert missing["errno"] == 2
    assert "newuidmap" in missing["text"]
    assert same


# ---- ids ----


@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_a_caller_with_two_ids_is_told_what_to_do(kind: str, root: Runner) -> None:
    """For the kernel it starts a program with more rights than it has (AT_SECURE), and the launcher refuses to be one."""

    def body(kind: str, other: int) -> Any:
        nsapi.create("user").close()
        before = everything()
        setter = os.setresuid if kind == "uid" else os.setresgid
        setter(other, -1, -1)
        found = failure(lambda: nsapi.run(["true"], config=nsapi.Config.new("user"), user=0))
        setter(0, -1, -1)
        return [found["text"], before == everything(), children()]

    text, same, left = root(body, kind, USER)
    assert "start the launcher — it trusts no caller whose real and effective ids differ" in text
    assert (same, left) == (True, [])


def test_ids_are_those_inside(root: Runner) -> None:
    """The Config's, or Popen's user, group and extra_groups with subprocess's meanings; they may agree, not differ."""

    def body() -> Any:
        argv = ["grep", "-E", "^(Uid|Gid|Groups):", "/proc/self/status"]

        def ids(config: Any, **keywords: Any) -> str:
            made = nsapi.run(argv, config=config, capture_output=True, text=True, **keywords)
            return " ".join(made.stdout.split()) or made.stderr

        def theirs(**keywords: Any) -> str:
            return " ".join(subprocess.run(argv, capture_output=True, text=True, **keywords).stdout.split())

        wishes: list[dict[str, Any]] = [
            {"user": 1234}, {"group": 1235}, {"extra_groups": [7, 8]}, {"extra_groups": []},
            {"user": "nobody", "group": 5, "extra_groups": ["root", 9]},
        ]  # fmt: skip
        new = nsapi.Config.new
        return {
            "same": [ids(new("uts"), **wish) == theirs(**wish) for wish in wishes],
            "config": ids(new("uts", uid=5, gid=6, groups=[7])),
            "mapped": ids(
                new("user", uid_mappings="0:100000:10", gid_mappings="0:100000:10", uid=5, gid=6, groups=[7])
            ),
            "agree": ids(new("uts", uid=5), user=5),
            "differ": failure(lambda: ids(new("uts", uid=5), user=6)),
            "unmapped": failure(lambda: ids(new("user", uid=5))),
            "unknown": failure(lambda: ids(new("uts"), user="no such user")),
            "negative": failure(lambda: ids(new("uts"), user=-1)),
        }

    found = root(body)
    assert found["same"] == [True] * 5
    assert found["config"] == "Uid: 5 5 5 5 Gid: 6 6 6 6 Groups: 7"
    assert found["mapped"] == "Uid: 5 5 5 5 Gid: 6 6 6 6 Groups: 7"
    assert found["agree"].startswith("Uid: 5 5 5 5 Gid: 0 0 0 0")
    assert found["differ"]["classes"][0] == "ValueError"
    assert found["unmapped"]["step"] == "set uid 5"
    assert found["unmapped"]["errno"] == 22
    assert found["unknown"]["classes"][0] == "KeyError"
    assert found["negative"]["classes"][0] == "ValueError"


def test_capabilities_are_kept_over_a_change_of_ids(root: Runner) -> None:
    """What the Config gives is what the program has, whatever its uid becomes."""

    def body() -> Any:
        kept = {kind: ["CAP_KILL"] for kind in ("bounding", "permitted", "effective", "inheritable", "ambient")}
        config = nsapi.Config.new("uts", uid=1000, gid=1000, groups=[], capabilities=kept)
        made = nsapi.run(["grep", "^Cap", "/proc/self/status"], config=config, capture_output=True, text=True)
        return made.stdout.split()[1::2]

    assert root(body) == ["0000000000000020"] * 5


# ---- joins ----

WHERE = """
import json, os, socket
names = "user ipc uts net pid mnt cgroup time".split()
print(json.dumps([{each: os.readlink("/proc/self/ns/" + each) for each in names}, os.getpid(), socket.gethostname()]))
"""


def test_all_of_a_process_are_joined(anyone: Runner) -> None:
    """By target=pid: every namespace that differs; the program is inside, as root of the user namespace."""

    def body() -> Any:
        with unshared(*NEW_OF_EACH) as process:
            pid = only_child(process.pid)
            links = "[os.readlink('/proc/self/ns/' + each) for each in names]"
            script = f"import os; names = {TYPES}; print({links}, os.getuid(), os.getcwd())"
            inside = nsapi.run([*PYTHON, script], target=pid, capture_output=True, text=True, cwd="/usr")
            return [inside.stdout, f"{[ns(each, pid) for each in TYPES]} 0 /usr\n", inside.stderr]

    found, expected, errors = anyone(body)
    assert found == expected, errors


@pytest.mark.parametrize(
    ("refused", "errnum"), [("all at once", errno.EPERM), ("all at once", errno.EINVAL), ("one by one", errno.EPERM)]
)
def test_all_of_a_process_are_joined_at_once_or_one_by_one(anyone: Runner, refused: str, errnum: int) -> None:
    """In one call, where the kernel takes it; else in passes. A filter forbids the one or the other."""

    def body(refused: str, errnum: int) -> Any:
        with unshared(*NEW_OF_EACH) as process:
            pid = only_child(process.pid)
            there = [ns(each, pid) for each in TYPES]
            flags = [type.flag for type in nsapi.namespace_types()]
            for each in [sum(flags)] if refused == "all at once" else flags:
                answer_enosys(("setns", each), errnum=errnum)
            script = f"import os; print(*(os.readlink('/proc/self/ns/' + each) for each in {TYPES}))"
            inside = nsapi.run([*PYTHON, script], target=pid, capture_output=True, text=True)
            return [inside.stdout.split() == there, inside.stderr]

    assert anyone(body, refused, errnum) == [True, ""]


def test_what_is_joined_and_what_is_made_mix(anyone: Runner) -> None:
    """Joined and created in one Config; what is created belongs to the user namespace that is joined."""

    def body(script: str) -> Any:
        with unshared(*NEW_OF_EACH) as process:
            pid = only_child(process.pid)

            def inside(*types: str, **fields: Any) -> Any:
                config = nsapi.Config.new(*types, **fields)
                made = nsapi.run([*PYTHON, script], config=config, capture_output=True, text=True)
                assert made.returncode == 0, made.stderr
                return json.loads(made.stdout)

            there = {each: ns(each, pid) for each in TYPES}
            one = inside("pid", "mnt", "uts", user=pid, net=pid, hostname="made")
            two = inside("pid", "mnt", user=pid, uts=pid, hostname="joined", init=True)
            return [there, all_ns(), one, two]

    there, here, one, two = anyone(body, WHERE)
    assert [each for each in there if one[0][each] == there[each]] == ["user", "net"]
    assert one[1:] == [1, "made"]
    assert [each for each in TYPES if one[0][each] == here[each]] == ["ipc", "cgroup", "time"]
    assert [each for each in there if two[0][each] == there[each]] == ["user", "uts"]
    assert two[1:] == [2, "joined"]


def test_joins_together_with_a_new_user_and_pid_namespace(root: Runner) -> None:
    """One more fork than a vfork child has; what is joined is set up while the caller's power over it lasts."""

    def body() -> Any:
        with unshared("--uts", "--net") as process:
            config = nsapi.Config.new("user", "pid", "mnt", uts=process, net=process, hostname="hello", loopback=True)
            script = "echo $$ $(id -u) $(hostname) $(readlink /proc/self/ns/net)"
            inside = nsapi.run(["sh", "-c", script], config=config, capture_output=True, text=True)
            return [inside.stdout, ns("net", process.pid), inside.stderr]

    found, net, errors = root(body)
    assert found == f"1 0 hello {net}\n", errors


def test_one_s_own_user_namespace_is_joined_already(anyone: Runner) -> None:
    """The kernel takes it for an error; a caller who names it with others has what was asked for."""

    def body() -> Any:
        config = (
            nsapi.Config.join(os.getpid(), "user", "net")
            if os.getuid() == 0
            else nsapi.Config.join(os.getpid(), "user")
        )
        made = nsapi.run(["readlink", "/proc/self/ns/user"], config=config, capture_output=True, text=True)
        return [made.stdout.strip(), ns("user")]

    found, own = anyone(body)
    assert found == own


def test_a_dead_init_or_process_is_an_error_that_says_so(anyone: Runner) -> None:
    """ENOMEM with the cause where the pid namespace is dead; ESRCH where the process is."""

    def body() -> Any:
        import contextlib

        with unshared("--user", "--map-root-user", "--pid", "--fork") as process:
            child = only_child(process.pid)
            user, pid = nsapi.open(child, "user"), nsapi.open(child, "pid")
            os.kill(child, signal.SIGKILL)
            process.wait()
            with contextlib.closing(user), contextlib.closing(pid):
                dead = failure(lambda: nsapi.run(["true"], config=nsapi.Config.new(user=user, pid=pid)))
                before = everything()
                again = failure(lambda: nsapi.run(["true"], config=nsapi.Config.new(user=user, pid=pid)))
                return [
                    dead,
                    again == dead,
                    everything() == before,
                    failure(lambda: nsapi.run(["true"], target=process.pid)),
                ]

    dead, again, same, gone = anyone(body)
    assert dead["errno"] == 12
    assert "init of the pid namespace has died" in dead["step"]
    assert again
    assert same
    assert gone["errno"] == 3


def test_a_thread_whose_children_are_elsewhere_can_start_programs(root: Runner) -> None:
    """Inside enter(pid): the program is there, and the thread's children still are, afterwards."""

    def body() -> Any:
        with unshared("--pid", "--fork") as process:
            pid = only_child(process.pid)
            with nsapi.enter(pid, "pid"):
                before = ns("pid_for_children")
                made = nsapi.run(
                    ["readlink", "/proc/self/ns/pid"], config=nsapi.Config.new("uts"), capture_output=True, text=True
                )
                started = nsapi.Popen(["sleep", "100"], config=nsapi.Config.new("uts"))
                seen = ns("pid", started.pid)
                started.kill()
                status = started.wait()
                failed = failure(lambda: nsapi.run(["no such program"], config=nsapi.Config.new("uts")))
                return [
                    ns("pid", pid),
                    before,
                    made.stdout.strip(),
                    seen,
                    status,
                    failed["errno"],
                    ns("pid_for_children"),
                ]

    there, before, inside, seen, status, failed, after = root(body)
    assert there == before == seen == after
    assert inside in (there, "")  # its own /proc/self is that of the caller's /proc, which does not know it
    assert status == -9
    assert failed == 2


@pytest.mark.parametrize("keywords", [{"uid": 1}, {"groups": []}], ids=["uid", "groups"])
@pytest.mark.parametrize("occupied", [False, True], ids=["empty", "with a process"])
@pytest.mark.parametrize("old", [False, True], ids=["this kernel", "before 6.11"])
def test_after_unshare_of_pid_the_launcher_is_not_pid_1_there(
    root: Runner, keywords: dict[str, Any], occupied: bool, old: bool
) -> None:
    """The program starts there, as the next process, or it is refused; the namespace outlives the launcher."""

    def body(keywords: dict[str, Any], occupied: bool, old: bool) -> Any:
        started: list[Any] = []
        if old:
            answer_enosys(*PIDFD_GET, errnum=25)
        nsapi.unshare("pid")
        if occupied:
            started = [nsapi.Popen(["sleep", "100"], config=nsapi.Config.new("uts"))]
        try:
            for _ in range(2):
                started.append(nsapi.Popen(["sleep", "100"], config=nsapi.Config.new("uts", **keywords)))
        except nsapi.Unsupported as error:
            return str(error), children()
        finally:
            found = [
                pathlib.Path(f"/proc/{each.pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1]
                for each in started
            ]
            own, there = ns("pid"), ns("pid_for_children") if started else ""
            inside = own != there and {ns("pid", each.pid) for each in started} == {there}
            for each in reversed(started):
                each.kill()
                each.wait()
        return found, inside, children()

    made = root(body, keywords, occupied, old)
    if isinstance(made[0], str):
        assert not occupied  # kernels before 6.11 open no pid namespace that is empty
        assert ("has no process yet" in made[0], made[1]) == (True, [])
    else:
        assert made == [["1", "2", "3"][: 2 + occupied], True, []]


def test_after_unshare_of_pid_without_power_over_home_the_launcher_is_refused(user: Runner) -> None:
    """Before anything is started; the thread's children are where they were."""

    def body() -> Any:
        nsapi.unshare("user", "pid")
        failed = failure(lambda: nsapi.run(["true"], config=nsapi.Config.new("uts", groups=[])))
        first = nsapi.Popen(["sleep", "100"], config=nsapi.Config.new("uts"))
        status = pathlib.Path(f"/proc/{first.pid}/status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1]
        first.kill()
        return [failed["step"], failed["errno"], status, first.wait(), children()]

    step, errnum, pid, status, left = user(body)
    assert (step, errnum) == ("start in the own pid namespace", 1)
    assert (pid, status, left) == ("1", -9, [])


@pytest.mark.parametrize("verb", ["enter", "unshare"])
@pytest.mark.parametrize("keywords", [{}, {"uid": 1}], ids=["vfork", "launcher"])
def test_a_pid_namespace_cannot_be_created_while_children_are_elsewhere(
    root: Runner, verb: str, keywords: dict[str, Any]
) -> None:
    """It is refused, in words that say so, and nothing was started; afterwards all is as before."""

    def body(verb: str, keywords: dict[str, Any]) -> Any:
        config = nsapi.Config.new("pid", **keywords)

        def attempt() -> list[object]:
            try:
                nsapi.run(["true"], config=config)
            except OSError as error:
                return [str(error), children()]
            return ["nothing"]

        if verb == "unshare":
            nsapi.unshare("pid")
            return [*attempt(), nsapi.run(["sh", "-c", "exit $$"], config=nsapi.Config.new("uts")).returncode]
        with unshared("--pid", "--fork") as process:
            with nsapi.enter(only_child(process.pid), "pid"):
                before = ns("pid_for_children")
                words, left = attempt()
                same = before == ns("pid_for_children")
            return [words, [] if left == [process.pid] else left, 1 if same else 0]

    words, left, first = root(body, verb, keywords)
    assert "children" in words
    assert "pid namespace" in words
    assert (left, first) == ([], 1)


# ---- init ----

ORPHAN = """
import os, signal, time
read, write = os.pipe()
child = os.fork()
if not child:
    orphan = os.fork()
    if orphan:
        os.write(write, str(orphan).encode())
    os._exit(0)
os.waitpid(child, 0)
orphan = int(os.read(read, 20))
while os.path.exists(f"/proc/{orphan}"):
    time.sleep(0.001)
stays = os.fork()
if not stays:
    os.closerange(0, 3)
    signal.pause()
print("reaped", flush=True)
"""

CALLER = """
import nsapi, os, threading
def start():
    started.append(nsapi.Popen(["sleep", "1000"], config=nsapi.Config.new("user", "pid", "mnt", init=True)))
started = []
thread = threading.Thread(target=start)
thread.start(); thread.join()
print(started[0].pid, flush=True)
input()
os._exit(0)
"""


def test_with_init_the_program_is_pid_2_and_its_status_exact(anyone: Runner) -> None:
    """Exit code, death by signal, terminate(): pid 1 is a reaper beside it; both are gone when wait() returns."""

    def body() -> Any:
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        found = [nsapi.run(["sh", "-c", "exit 7"], config=config).returncode]
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
            process = nsapi.Popen(["sleep", "1000"], config=config)
            process.send_signal(number)
            found.append(process.wait())
        inside = nsapi.run(["sh", "-c", "echo $$ $(cat /proc/1/comm)"], config=config, capture_output=True, text=True)
        return [found, inside.stdout, children(), len(fds())]

    statuses, inside, left, _ = anyone(body)
    assert statuses == [7, -9, -15, -11]
    assert inside == "2 nsapi-init\n"
    assert left == []


def test_the_reaper_reaps_and_ends_with_the_program(anyone: Runner) -> None:
    """An orphan's zombie goes away; what the program leaves running ends with it."""

    def body(script: str) -> Any:
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        made = nsapi.run([*PYTHON, script], config=config, capture_output=True, text=True, timeout=60)
        return [made.stdout, made.stderr, made.returncode, children()]

    assert anyone(body, ORPHAN) == ["reaped\n", "", 0, []]


def test_the_reaper_holds_nothing_and_its_owner_may_enter(user: Runner) -> None:
    """No fd of the caller's, not its files nor its directory: a pipe ends with the program, and nsenter finds the way in."""

    def body() -> Any:
        read, write = os.pipe()
        os.set_inheritable(write, True)
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        with nsapi.Popen(["sleep", "1000"], config=config, pass_fds=[write]) as process:
            os.close(write)
            with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
                assert "NSpid:" in file.read()
            (reaper,) = [pid for pid in children() if pid != process.pid]
            held = sorted(
                os.readlink(f"/proc/{reaper}/fd/{fd}").split(":")[-1] for fd in os.listdir(f"/proc/{reaper}/fd")
            )
            inside = nsapi.run(["readlink", "/proc/self/ns/pid"], target=reaper, capture_output=True, text=True)
            facts = [
                held,
                os.readlink(f"/proc/{reaper}/cwd"),
                inside.stdout.strip() == ns("pid", process.pid),
                inside.stderr,
            ]
            process.kill()
            process.wait()
            return [*facts, os.read(read, 1).decode()]

    held, cwd, inside, errors, end = user(body)
    assert held == ["[pidfd]", "[pidfd]", "[signalfd]"]
    assert cwd == "/"
    assert inside, errors
    assert end == ""


def test_a_killed_reaper_takes_the_program_with_it(anyone: Runner) -> None:
    """As the kernel says of pid 1."""

    def body() -> Any:
        with nsapi.Popen(["sleep", "1000"], config=nsapi.Config.new("user", "pid", "mnt", init=True)) as process:
            (reaper,) = [pid for pid in children() if pid != process.pid]
            os.kill(reaper, signal.SIGKILL)
            status = process.wait(timeout=60)
        return [status, children()]

    assert anyone(body) == [-9, []]


def test_with_init_the_end_of_the_caller_ends_all(anyone: Runner) -> None:
    """Whatever thread has spawned; it is the process that counts."""

    def body(script: str) -> Any:
        import select

        env = {**os.environ}
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        ) as caller:
            assert caller.stdin is not None is not caller.stdout
            pid = int(caller.stdout.readline())
            pidfd = os.pidfd_open(pid)
            alive = not select.select([pidfd], [], [], 0)[0]
            caller.stdin.write("\n")
            caller.stdin.close()
            caller.wait()
            ended = bool(select.select([pidfd], [], [], 60)[0])
        return [alive, ended]

    assert anyone(body, CALLER) == [True, True]


# ---- strangers ----

HOSTILE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
print("ready", flush=True)
seen, got = set(), []
me = os.getpid()
while True:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, me):
            continue
        seen.add(name)
        for file in ("mem", "environ", "maps", "exe", "fd"):
            try:
                if file == "fd":
                    for each in os.listdir(f"/proc/{name}/fd"):
                        got.append((name, file, os.readlink(f"/proc/{name}/fd/{each}")))
                elif file == "exe":
                    got.append((name, file, os.readlink(f"/proc/{name}/exe")))
                else:
                    got.append((name, file, os.open(f"/proc/{name}/{file}", os.O_RDWR if file == "mem" else os.O_RDONLY)))
                    os.close(got[-1][2])
            except OSError:
                pass
    got = [each for each in got if "memfd" in str(each) or "_launch" in str(each) or "socket" in str(each)]
    if os.path.exists(sys.argv[1]):
        break
open(sys.argv[1] + ".told", "w").write(repr((len(seen) > 0, got)))
"""


def test_a_hostile_root_inside_sees_nothing_of_the_launcher(root: Runner, readable_tmp: Path) -> None:
    """It looks for every process that joins its user and pid namespace, in a loop: no file, fd or memory of ours."""

    def body(script: str, folder: str) -> Any:
        stop = f"{folder}/stop"
        argv = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
        argv += ["sh", "-c", 'exec "$0" -c "$1" "$2" & wait', sys.executable, script, stop]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            pid = only_child(process.pid)
            config = nsapi.Config.join(pid, "user", "pid", "mnt")
            for _ in range(150):
                nsapi.run(["true"], config=config)
            pathlib.Path(stop).touch()
            process.wait(60)
        return eval(pathlib.Path(f"{stop}.told").read_text())

    seen, got = root(body, HOSTILE, str(readable_tmp))
    assert seen
    assert got == []


def test_a_cgroup_s_fd_may_also_be_the_program_s(root: Runner) -> None:
    """Lent for its birth, and passed on."""
    with open("/proc/mounts") as mounts:
        folders = [line.split()[1] for line in mounts if line.split()[2] == "cgroup2"]
    if not folders:
        lacking("a cgroup2 mount")

    def body(folder: str) -> Any:
        cgroup = os.open(folder, os.O_RDONLY)
        config = nsapi.Config.new("uts", uid=0, cgroup_path=cgroup)
        look = ["readlink", f"/proc/self/fd/{cgroup}"]
        told = nsapi.run(look, config=config, pass_fds=[cgroup], capture_output=True, text=True)
        os.close(cgroup)
        return told.stdout.strip()

    assert root(body, folders[0]) == folders[0]


# ---- nothing is left ----


def test_two_hundred_failures_leave_nothing(anyone: Runner) -> None:
    """Each at another place: the program, a step before it, a join, the maps."""

    def body() -> Any:
        new = nsapi.Config.new
        with unshared(*NEW_OF_EACH) as process:
            pid = only_child(process.pid)
            calls = [
                lambda: nsapi.run(["no such program"], config=new("user", uid=0)),
                lambda: nsapi.run(["no such program"], config=new("user", "pid", "mnt", init=True)),
                lambda: nsapi.run(["true"], config=new("user", uid=5)),
                lambda: nsapi.run(["true"], target=pid, cwd="/no such folder"),
                lambda: nsapi.run(["true"], config=new("user", "time", uid=0, time_offsets={"boottime": -(10**9)})),
            ]
            for call in calls:
                assert failure(call), call
            before = everything()
            errors = [failure(call)["step"] for _ in range(40) for call in calls]
            return [everything() == before, sorted(set(errors))]

    same, steps = anyone(body)
    assert same
    assert "set uid 5" in steps
    assert "exec no such program" in steps
    assert "chdir /no such folder" in steps
    assert len(steps) == 4


def test_ctrl_c_meanwhile_leaves_nothing(granted: Runner, readable_tmp: Path) -> None:
    """A helper hangs; Ctrl-C ends it, and all stages, before KeyboardInterrupt is raised."""

    def body(uid: int, path: str) -> Any:
        folder = pathlib.Path(path)
        os.mkfifo(folder / "started")
        os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
        maps = f"0:{uid}:1,1:100000:1000"
        config = nsapi.Config.new("user", uid_mappings=maps, gid_mappings=f"0:{os.getgid()}:1")
        failure(lambda: nsapi.run(["no such program"], config=nsapi.Config.new("user", uid=0)))
        helpers = []
        main = threading.get_ident()

        def interrupt() -> None:
            helpers.append(int((folder / "started").read_text()))
            signal.pthread_kill(main, signal.SIGINT)

        first = threading.Thread(target=bool)  # with it the C library sets a handler of its own
        first.start()
        first.join()
        before = everything()
        thread = threading.Thread(target=interrupt)
        thread.start()
        interrupted = False
        try:
            nsapi.run(["true"], config=config)
        except KeyboardInterrupt:
            interrupted = True
        thread.join()
        after = everything()
        return [
            interrupted,
            {key: (before[key], after[key]) for key in before if before[key] != after[key] and key != "threads"},
            os.path.exists(f"/proc/{helpers[0]}"),
        ]

    script = "#!/bin/sh\necho $$ > ${0%/*}/started\nexec /bin/sleep 1000\n"
    assert granted(body, USER, setuid(script, folder=readable_tmp, name="newuidmap")) == [True, {}, False]


@pytest.mark.parametrize("full", [False, True], ids=["few allowed", "all but a few in use"])
def test_without_open_files_to_spare_it_fails_and_leaves_nothing(root: Runner, full: bool) -> None:
    """The right result, or an error that names the step; also where a pidfd cannot be received, or a stage lacks one."""

    def body(full: bool) -> Any:
        import resource

        maps = {"uid_mappings": "0:0:1,1:100000:1000", "gid_mappings": "0:0:1,1:100000:1000"}
        new = nsapi.Config.new
        configs = [new("user", "pid", "mnt", init=True, **maps), new("pid", init=True), new("user", **maps), new(uid=5)]
        assert [nsapi.run(["true"], config=each).returncode for each in configs] == [0] * 4
        before, hard = everything(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wrong: list[Any] = []
        steps: set[str] = set()
        works = 0
        for config in configs:
            for free in range(20):
                used: list[int] = []
                if full:
                    # Not those of the launcher, which has them closed: it has room, and only its caller has none.
                    used = [os.dup(0) for _ in range(60)]
                    free += max(used)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
                try:
                    works += nsapi.run(["sh", "-c", "exit 9"], config=config).returncode == 9
                except nsapi.NamespaceError as error:
                    steps.add(str(error.step))
                    known = error.errno == errno.EMFILE or error.step == "the reaper has died"
                    wrong += [] if known else [[free, str(error)]]
                except BaseException as error:
                    wrong.append([free, repr(error)])
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                for fd in used:
                    os.close(fd)
                wrong += [] if everything() == before else [[free, fds(), children()]]
        return [wrong, works > 20, sorted(steps)]

    wrong, works, steps = root(body, full)
    assert wrong == []
    assert works
    assert ("clone" if full else "start stage 1") in steps


def test_a_pidfd_that_cannot_be_received_leaves_nothing(root: Runner) -> None:
    """Another thread may take the last fd meanwhile: who was born is known by number then, and ended."""

    def body() -> Any:
        import resource

        config = nsapi.Config.new("user", "pid", "mnt", init=True, uid_mappings="0:0:2", gid_mappings="0:0:2")
        nsapi.run(["true"], config=config)
        before, hard = everything(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]

        def hook(frame: Any, event: str, arg: Any) -> None:
            if event == "call" and frame.f_code.co_name == "hear":
                resource.setrlimit(resource.RLIMIT_NOFILE, (len(fds()), hard))

        sys.setprofile(hook)
        error = failure(lambda: nsapi.run(["sleep", "1000"], config=config))
        sys.setprofile(None)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return [error["step"], error["errno"], everything() == before]

    assert root(body) == ["receive a pidfd", errno.EMFILE, True]


def test_a_limit_on_the_size_of_files_is_an_error_that_says_so(anyone: Runner) -> None:
    """Files in memory count: a RLIMIT_FSIZE too small for them is named."""

    def body() -> Any:
        import resource

        config = nsapi.Config.new("user", uid=0)
        answers = []
        for warm in (False, True):
            if warm:
                nsapi.run(["true"], config=config)
            before, hard = everything(), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            answers.append(failure(lambda: nsapi.run(["true"], config=config)))
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            answers[-1]["same"] = everything() == before
        return answers

    cold, warm = anyone(body)
    assert (cold["step"], warm["step"]) == ("copy the launcher to memory", "prepare the launcher")
    for each in (cold, warm):
        assert (each["errno"], each["same"]) == (errno.EFBIG, True)
        assert "RLIMIT_FSIZE" in each["hint"]
        assert "NamespaceError" in each["classes"]


def test_an_error_that_is_kept_keeps_nothing_open(anyone: Runner) -> None:
    """An exception holds its traceback, and that the frames: what they had open is closed nevertheless."""

    def body() -> Any:
        import resource

        config, kept = nsapi.Config.new("user", uid=0), list[Exception]()
        nsapi.run(["true"], config=config)
        before, hard = fds(), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        for limit in (hard, 100):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                nsapi.run(["/missing"], config=config)
            except nsapi.NamespaceError as error:
                kept.append(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        return [[type(each).__name__ for each in kept], len(kept), fds() == before]

    names, count, same = anyone(body)
    assert (count, same) == (2, True), names


@pytest.mark.parametrize("copied", [False, True], ids=["known", "copied"])
def test_ctrl_c_at_any_moment_leaves_no_process(root: Runner, copied: bool) -> None:
    """Wherever it comes, KeyboardInterrupt is raised, and neither child nor zombie nor fd is left.

    Also when the launcher's file has to be copied first, and fds to be moved out of the way.
    """

    def body(copied: bool) -> Any:
        from nsapi import _launcher

        new = nsapi.Config.new
        maps = {"uid_mappings": "0:0:1,1:100000:1000", "gid_mappings": "0:0:1,1:100000:1000"}
        config = new("user", "pid", "mnt", init=True, **maps)
        names = {"_end_reaper", "_handle_exitstatus"}
        warnings.simplefilter(
            "ignore"
        )  # sockets and files that were whole, and are collected with what was interrupted
        if copied:
            os.close(0)

        def state() -> Any:
            if copied:
                os.close(_launcher.executable(joins=False)[0])
            return everything()

        def attempt(ctrl_c: CtrlC) -> list[Any]:
            before = state()
            error = refusal(lambda: interrupted(ctrl_c))
            after = state()
            wrong = [[name, before[name], after[name]] for name in ("fds", "children") if before[name] != after[name]]
            return [*wrong, *filter(None, error), *([] if ctrl_c.came == ctrl_c.raised else ["swallowed"])]

        def interrupted(ctrl_c: CtrlC) -> None:
            with ctrl_c:
                nsapi.run(["true"], config=config)

        def skip(code: Any, event: str) -> bool:
            return not code.co_filename.endswith("/_launcher.py") and (event != "c_return" or code.co_name not in names)

        return at_every_moment(attempt, skip=skip)

    moments, wrong = root(body, copied)
    assert moments > 60
    assert wrong == []


def test_ctrl_c_while_what_is_joined_is_opened_leaves_no_fd(root: Runner) -> None:
    """Those of a process, those of paths, and what the steps write to: each is known before it is open."""

    def body() -> Any:
        files = ("/_world.py", "/_native.py")
        with unshared("--net", "--uts", "--ipc") as process, nsapi.open(process, "net") as net:
            ways: list[dict[str, Any]] = [
                {"config": nsapi.Config.join(process, parent_death_signal=9, oom_score_adj=500)},
                {"config": nsapi.Config.new("uts", net=net, ipc=f"/proc/{process.pid}/ns/ipc", oom_score_adj=500)},
                {"target": process, "types": ("uts", "ipc")},
            ]
            wrong: list[Any] = []
            reached = []
            warnings.simplefilter("ignore")  # handles that were whole, and are collected with what was interrupted
            os.close(0)  # so that fds have to be moved out of the way
            for way in ways:

                def attempt(ctrl_c: CtrlC, way: dict[str, Any] = way) -> list[Any]:
                    before = fds()
                    with ctrl_c:
                        nsapi.run(["true"], **way)
                    wrong = [] if fds() == before else ["fds"]
                    return wrong if ctrl_c.came == ctrl_c.raised else [*wrong, "swallowed"]

                moments, found = at_every_moment(
                    attempt, skip=lambda code, _: not code.co_filename.endswith(files) or code.co_name == "spawn"
                )
                wrong += found
                reached.append(moments > 20)
            return [reached, wrong]

    assert root(body) == [[True] * 3, []]


def test_sigchld_ignored_or_reaped_by_somebody_else(anyone: Runner) -> None:
    """The stages' zombies may be gone before they are waited for."""

    def body() -> Any:
        config = nsapi.Config.new("user", "pid", "mnt", init=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        process = nsapi.Popen(["true"], config=config)
        process.wait()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return [children(), nsapi.run(["sh", "-c", "exit 3"], config=config).returncode]

    assert anyone(body) == [[], 3]


# ---- its file ----


def test_the_file_in_memory_is_sealed_and_remade_when_closed(anyone: Runner) -> None:
    """One fd a process, close-on-exec, which nobody can write to; a program that closes all its fds does no harm."""

    def body() -> Any:
        import fcntl

        def run() -> int:
            return nsapi.run(["true"], config=nsapi.Config.new("user", uid=0)).returncode

        run()
        (fd,) = [fd for fd, path in fds().items() if "memfd:nsapi" in path]
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        writable = failure(lambda: os.write(fd, b"x")) and failure(lambda: os.ftruncate(fd, 0))
        cloexec = not os.get_inheritable(fd)
        os.close(fd)
        other = os.open("/dev/null", os.O_RDONLY)
        status = run()
        os.dup2(other, fd)
        return [
            seals,
            bool(writable),
            cloexec,
            status,
            run(),
            len([path for path in fds().values() if "memfd" in path]),
        ]

    assert anyone(body)[:5] == [15, True, True, 0, 0]


def test_another_file_in_the_place_of_the_launcher_is_not_executed(anyone: Runner) -> None:
    """Not one that is sealed too, and not the same where somebody has left it open to writers."""

    def body(other: str) -> Any:
        import fcntl

        from nsapi import _launcher

        def run() -> int:
            return nsapi.run(["true"], config=nsapi.Config.new("user", uid=0)).returncode

        run()
        assert _launcher._known is not None
        fd = _launcher._known[0]
        sealed = _launcher.sealed("nsapi", pathlib.Path(other).read_bytes(), _launcher._MFD_EXEC)
        os.dup2(sealed[0], fd, inheritable=False)
        answers = [run(), _launcher._known[0] != fd]
        unsealed = os.memfd_create("nsapi", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.write(unsealed, pathlib.Path(_launcher._FILE).read_bytes())
        found = os.fstat(unsealed)
        _launcher._known = unsealed, (found.st_dev, found.st_ino)
        answers += [run(), _launcher._known[0] != unsealed]
        return [*answers, fcntl.fcntl(_launcher._known[0], fcntl.F_GET_SEALS)]

    assert anyone(body, tool("false")) == [0, True, 0, True, 15]


def test_where_memory_cannot_be_executed(root: Runner) -> None:
    """vm.memfd_noexec=2: the installed file serves among ourselves; among strangers it is refused, with that reason."""
    if not Path("/proc/sys/vm/memfd_noexec").exists():
        lacking("the sysctl vm.memfd_noexec, Linux 6.3")

    def body() -> Any:
        pathlib.Path("/proc/sys/vm/memfd_noexec").write_text("2")
        new = nsapi.Config.new
        with unshared("--uts") as process:
            before = everything()
            ours = nsapi.run(["id", "-u"], config=new("uts", uid=5), capture_output=True, text=True).stdout
            theirs = failure(lambda: nsapi.run(["true"], config=new(uts=process, uid=5)))
            return [ours, theirs, everything() == before]

    # The sysctl is that of a pid namespace.
    ours, theirs, same = root(body, under=("unshare", "--pid", "--fork", "--mount-proc"))
    assert ours == "5\n"
    assert "vm.memfd_noexec is 2" in theirs["hint"]
    assert same


# ---- the message ----


def attribute(type: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, type) + payload + bytes(-len(payload) % 4)


def test_bootstrap_data_is_what_runc_sends() -> None:
    """Header 62000, attributes in runc's order, paths with the user namespace first."""
    uid, gid = os.geteuid(), os.getegid()
    config = Config.new(
        "pid", "uts", "time", net="/proc/self/ns/net", ipc="/proc/self/ns/ipc", oom_score_adj=-5,
        time_offsets={"boottime": 3},
    )  # fmt: skip
    body = attribute(27281, struct.pack("=I", 0x20000000 | 0x04000000 | 0x80))
    body += attribute(27282, b"ipc:/proc/self/ns/ipc,net:/proc/self/ns/net\0")
    body += attribute(27286, b"-5\0") + attribute(27287, struct.pack("=I", uid != 0))
    body += attribute(27290, b"boottime 3 0\n\0")
    assert nsapi.bootstrap_data(config) == struct.pack("=IHHII", len(body) + 16, 62000, 1, 1, 0) + body
    mapped = nsapi.bootstrap_data(Config.new("user", uid_mappings=f"0:{uid}:1", gid_mappings=f"0:{gid}:1,1:9:1"))
    assert attribute(27283, f"0 {uid} 1\n\0".encode()) in mapped
    assert attribute(27284, f"0 {gid} 1\n1 9 1\n\0".encode()) in mapped
    assert attribute(27285, struct.pack("=I", 1)) in mapped


def test_bootstrap_data_refuses_what_cannot_be_said(tmp_path: Path) -> None:
    """A comma in a path, a file that is not there."""
    (tmp_path / "a,b").touch()
    with pytest.raises(ValueError, match="comma"):
        nsapi.bootstrap_data(Config.new(net=str(tmp_path / "a,b")))
    with pytest.raises(nsapi.NamespaceError):
        nsapi.bootstrap_data(Config.new(net=str(tmp_path / "missing")))
