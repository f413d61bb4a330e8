"""The command ``nsapi``: what it prints, how it ends, and that signals and the terminal work as without it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, USER, Runner, tool

import nsapi
from nsapi._command import COMMANDS, parse, parser_of

#: Where names may be made, and nobody else sees them; with processes of its own.
OWN_RUN = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'mount -t tmpfs -o mode=755 none /run && exec "$@"',
    "sh",
)
OWN_PROC = ("unshare", "--fork", "--pid", "--mount-proc")
#: The same for everybody; nothing else on the machine is seen from there, not even what is mounted where nobody is.
OWN_WORLD = ("unshare", "--user", "--map-root-user", "--net", *OWN_PROC[1:])
#: Folders that everybody may search: else a program that is not there is one that may not be looked for.
ENVIRONMENT = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
ENVIRONMENT.pop("PYTHONUNBUFFERED", None)  # else no output waits to be written at the end


class Command:
    """Runs ``python -m nsapi`` as root or as a user."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def argv(self, *words: str, under: tuple[str, ...] = ()) -> list[str]:
        return [*self.runner.prefix, *under, self.runner.python, "-m", "nsapi", *words]

    def __call__(self, *words: str, under: tuple[str, ...] = (), **keywords: Any) -> subprocess.CompletedProcess[str]:
        keywords = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60, "env": ENVIRONMENT, **keywords}
        return subprocess.run(self.argv(*words, under=under), text=True, cwd="/", **keywords)

    def out(self, *words: str, under: tuple[str, ...] = ()) -> str:
        done = self(*words, under=under)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def json(self, *words: str, under: tuple[str, ...] = ()) -> Any:
        return json.loads(self.out(*words, "--json", under=under))

    def start(self, *words: str, **keywords: Any) -> subprocess.Popen[str]:
        keywords = {"stdout": subprocess.PIPE, **keywords}
        keywords = {"stdin": subprocess.DEVNULL, **keywords}
        return subprocess.Popen(self.argv(*words), text=True, cwd="/", **keywords)


@pytest.fixture
def command(anyone: Runner) -> Command:
    return Command(anyone)


@pytest.fixture
def as_root(root: Runner) -> Command:
    return Command(root)


NEW = ("run", "--new", "user,uts")
#: Whatever happens to nsapi, a test leaves no program.
LEAVES_NONE = (*NEW, "--parent-death-signal", "KILL", "--")

# ---- how it ends ----

ENDS = {
    "no command": ((), 2, "nsapi: which command? One of ls, tree, show, run, enter, pin, unpin"),
    "unknown command": (("lsns",), 2, "nsapi: 'lsns' is none of the commands ls,"),
    "unknown option": (("ls", "--nope"), 2, "nsapi ls: unrecognized arguments: --nope — see `nsapi ls --help`"),
    "abbreviated option": (("ls", "--js"), 2, "nsapi ls: unrecognized arguments: --js"),
    "no type": (("ls", "--type", "netz"), 2, "'netz' is no namespace type"),
    "no column": (("ls", "-o", "NS,NOPE"), 2, "--output: 'NOPE' is none of NS, TYPE, PATH"),
    "no number": (("ls", "--task", "x"), 2, "argument -p/--task: invalid int value: 'x'"),
    "no process": (("ls", "--task", "4194304"), 1, "process 4194304 is not there"),
    "no such process": (("show", "4194304"), 1, "process 4194304 is not there"),
    "no such name": (("show", "no-such-name"), 1, "no-such-name"),
    "no such inode": (("show", "net:[17]"), 1, "net:[17] is no namespace that can be reached"),
    "no namespace": (("show", "/etc/passwd"), 1, "/etc/passwd"),
    "nothing to make": (("run", "--", "true"), 2, "neither --new nor --join is given"),
    "made and joined": (("run", "--new", "user,net", "--join", "net=1", "true"), 2, "net: made by --new or joined by"),
    "joined twice": (("run", "--join", "net=1", "--join", "net=2", "true"), 2, "net is joined twice"),
    "two wholes": (("run", "--join", "1", "--join", "2", "true"), 2, "only one can be without its types"),
    "help on nothing": (("help", "lsns"), 2, "nsapi: 'lsns' is none of the commands ls,"),
    "no pair": (("run", "--new", "user,time", "--time-offset", "boottime", "true"), 2, "form NAME=VALUE"),
    "no seconds": (
        ("run", "--new", "user,time", "--time-offset", "boottime= -1.5", "true"),
        2,
        "' -1.5' is no number of s",
    ),
    "no number of seconds": (
        ("run", "--new", "user,time", "--time-offset", "boottime=unlimited", "true"),
        2,
        "as 86400",
    ),
    "no signal": (("run", "--new", "user", "--parent-death-signal", "NOPE", "true"), 2, "'NOPE' is no signal, as KILL"),
    "no cgroup": (("run", "--new", "user", "--cgroup-path", "/no/such", "true"), 1, "open /no/such"),
    "no cgroup to pin in": (("pin", "cgroup", "/tmp/x", "--cgroup-path", "/no/such"), 1, "open /no/such"),
    "no limit": (("run", "--new", "user", "--rlimit", "core=0:x", "true"), 2, "--rlimit: 'x' is no number"),
    "maps twice": (("run", "--new", "user", "--map", "root", "--gid-map", "0:1:1", "true"), 2, "--map: it is for uids"),
    "no map": (("run", "--new", "user", "--map", "0:1", "true"), 2, "uid_mappings: "),
    "no uts for it": (("run", "--new", "user", "--hostname", "x", "true"), 2, "hostname: "),
    "no capability": (("run", "--new", "user", "--cap", "NOPE", "true"), 2, "CAP_NOPE"),
    "nothing to enter": (("enter",), 2, "nsapi enter: the following arguments are required: PID|NAME|PATH — see"),
    "words that are no types": (("enter", "1", "ip", "a"), 2, "'ip' is no namespace type"),
    "a program without --": (("enter", "1", "net", "ip", "a"), 2, "the program and its arguments stand after --"),
    "no such name of a type": (("run", "--join", "uts=no-such", "true"), 1, "there is no uts namespace of the n"),
    "pin and keep": (("pin", "net", "x", "--from", "1", "--loopback"), 2, "--from keeps a namespace as it is"),
    "no such file to unpin": (("unpin", "/no/such/file"), 1, "No such file or directory"),
    "exit status": ((*NEW, "--", "sh", "-c", "exit 7"), 7, ""),
    "killed": ((*NEW, "--", "sh", "-c", "kill -TERM $$"), -signal.SIGTERM, ""),
    "killed for good": ((*NEW, "--", "sh", "-c", "kill -KILL $$"), -signal.SIGKILL, ""),
    "not found": ((*NEW, "--", "no-such-program"), 127, "exec no-such-program"),
    "not executable": ((*NEW, "--", "/etc/passwd"), 126, "exec /etc/passwd"),
    "no directory": ((*NEW, "--cwd", "/no/such", "--", "true"), 1, "chdir /no/such"),
    "without --": ((*NEW, "sh", "-c", "exit 3", "--", "-x"), 3, ""),
}


@pytest.mark.parametrize("case", ENDS)
def test_it_ends_as_told(user: Runner, case: str) -> None:
    """Usage is 2, other errors 1, one line with what helps; else it ends as the program did."""
    words, status, text = ENDS[case]
    done = Command(user)(*words)
    assert done.returncode == status, done
    assert text in done.stderr
    assert done.stderr.count("\n") == (1 if text else 0), done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", [("--", "sh"), ("sh",), ("--debug", "--", "sh")])
def test_what_follows_the_program_is_its_own(user: Runner, words: tuple[str, ...]) -> None:
    """Options, help and -- after the first word that is none of ours."""
    script = ("-c", 'printf "%s\n" "$@"', "sh")
    words_of_program = ("--help", "--", "--new", "-h", "--", "--debug")
    assert Command(user).out(*NEW, *words, *script, *words_of_program).split() == list(words_of_program)


def test_a_user_is_told_what_would_help(user: Runner) -> None:
    """The hint of the error is in the line."""
    done = Command(user)("run", "--new", "net", "--", "true")
    assert done.returncode == 1
    assert done.stderr.startswith("nsapi: Operation not permitted: clone net (step 1 of ")
    assert "add 'user' to the namespaces to make them without privilege" in done.stderr


@pytest.mark.parametrize("words", [("--debug", "show", "/etc/passwd"), ("show", "/etc/passwd", "--debug")])
def test_debug_shows_the_traceback(user: Runner, words: tuple[str, ...]) -> None:
    """Only then."""
    command = Command(user)
    done = command(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.splitlines()[-1].startswith("nsapi: ")
    traceback = command("--debug", "show", f"/no/{HOSTILE}").stderr
    assert "Traceback" in traceback
    assert traceback.replace("\n", "").isprintable()


@pytest.mark.parametrize("words", [("ls",), ("run", "--new", "user", "-h"), ("run", "--help"), ("--help",)])
def test_output_that_nobody_reads_is_no_error_to_speak_of(user: Runner, words: tuple[str, ...]) -> None:
    """As with other commands, `| head` ends it silently; a full device or none at all is an error of one line."""
    command = Command(user)
    read, write = os.pipe()
    os.close(read)
    done = command(*words, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")
    with open("/dev/full", "w", encoding="ascii") as full:
        done = command(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "nsapi: No space left on device\n")
    shell = ["sh", "-c", 'exec "$@" >&-', "sh"]
    done = subprocess.run(
        [*shell, *command.argv(*words)], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd="/", timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "nsapi: standard output is closed\n")


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -TERM $$", -signal.SIGTERM), (None, 127)])
def test_it_needs_no_standard_files(user: Runner, script: str | None, status: int) -> None:
    """With none of the three it ends as told, and the program has none either."""
    closed = "for fd in 0 1 2; do test ! -e /proc/self/fd/$fd || exit 1; done"
    program = ("no-such-program",) if script is None else ("sh", "-c", f"{closed}; {script}")
    argv = Command(user).argv("run", "--new", "user,pid", "--map", "current", "--init", "--", *program)
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    assert subprocess.run([*shell, *argv], env=ENVIRONMENT, cwd="/", timeout=60).returncode == status


# ---- ls, tree, show ----


def test_ls_has_what_lsns_has(as_root: Command) -> None:
    """In a pid namespace with processes in others: the same records, column by column, in lsns's JSON."""
    tool("lsns")
    columns = "NS,TYPE,PATH,NPROCS,PID,PPID,COMMAND,UID,USER,PNS,ONS"
    ours = " ".join(["exec", *as_root.argv("ls", "--json", "-o", columns)])
    script = f"""
        unshare --uts --ipc sleep 1000 & unshare --user --net sleep 1001 & setpriv --reuid 1 unshare -U sleep 1002 &
        until [ $(lsns --list -n -o COMMAND | grep -c "^sleep 100") = 5 ]; do :; done
        (exec lsns --list -J -o {columns}) && ({ours}); kill $(pgrep -x sleep)
    """
    done = subprocess.run([*OWN_PROC, "sh", "-c", script], capture_output=True, text=True, cwd="/", timeout=60)
    decoder = json.JSONDecoder()
    theirs, end = decoder.raw_decode(done.stdout)
    mine, _ = decoder.raw_decode(done.stdout[end:].lstrip())
    by_ns = {each["ns"]: each for each in mine["namespaces"]}
    assert len(theirs["namespaces"]) >= 12
    for each in theirs["namespaces"]:
        wanted = {name: None if value == 0 and name in ("pns", "ons") else value for name, value in each.items()}
        found = by_ns[each["ns"]]
        assert list(found) == columns.lower().split(",")
        hidden = {name for name in ("pns", "ons") if wanted[name] is None}  # 2.38 does not ask for each type
        assert {k: v for k, v in found.items() if k not in hidden} == {
            k: v for k, v in wanted.items() if k not in hidden
        }


def test_ls_of_a_process(command: Command) -> None:
    """--task, --type and columns; the words are those of the links in /proc."""
    if command.runner.name == "root":
        done = command.json("ls", "--task", str(os.getpid()), "-o", "NS,TYPE")
        links = {f"{each['type']}:[{each['ns']}]" for each in done["namespaces"]}
        assert links == {os.readlink(f"/proc/self/ns/{each['type']}") for each in done["namespaces"]}
        assert len(links) == 8
    head, *lines = command.out("ls", "-t", "uts", "-t", "net", "-o", "+path").splitlines()
    assert head.split() == ["NS", "TYPE", "NPROCS", "PID", "USER", "COMMAND", "PATH"]
    assert {line.split()[1] for line in lines} == {"uts", "net"}
    assert command.out("ls", "--type", "net").split()[:8] == "NS TYPE NPROCS PID USER NETNSID NSFS COMMAND".split()
    assert re.fullmatch(r"(\d+\n)+", command.out("ls", "-n", "-o", "ns,NS"))
    head, *lines = command.out("ls", "-o", "NPROCS,TYPE,NS,USER").splitlines()
    for line in lines:
        assert line == line.rstrip()
        assert [line[: head.index(name) + len(name)].split()[-1] for name in ("NPROCS", "NS")] == line.split()[0:3:2]


def test_tree_has_each_below_what_owns_it(command: Command) -> None:
    """Lines before, in letters where the encoding has no lines; children in JSON; other types only on the way."""
    top, *_ = command.json("tree", "--type", "net", under=OWN_WORLD)["namespaces"]
    assert top["type"] == "user"
    assert [each["type"] for each in top["children"]] == ["net"]
    for environment, corner in (("PYTHONIOENCODING=ascii", "`-"), ("PYTHONUTF8=1", "└─")):
        lines = command.out("tree", "owner", "-t", "net", "-n", under=(*OWN_WORLD, "env", environment)).splitlines()
        assert [line.startswith(corner) for line in lines] == [False, True], lines


def test_show_tells_all_about_one(command: Command) -> None:
    """By inode, by the words of the link, by path; and the namespaces of a process, with which are the same here."""
    inode = os.stat("/proc/self/ns/uts").st_ino
    for word in (str(inode), f"uts:[{inode}]", "/proc/self/ns/uts"):
        assert command.out("show", word).startswith(f"namespace      uts:[{inode}]\n"), word
    facts = command.json("show", str(inode))
    assert (facts["type"], facts["id"][1]) == ("uts", inode)
    if command.runner.name == "root":
        rows = command.out("show", str(os.getpid())).splitlines()
        assert rows[0].startswith(f"process {os.getpid()} of ")
        assert [line.endswith("same as here") for line in rows[2:]] == [True] * 8
    alone = command.out("show", "/proc/self/ns/uts", under=("unshare", "--user", "--uts"))
    assert "\nprocesses      1\n" in alone
    assert "reached by" not in alone  # but by itself


def test_show_tells_what_differs(user: Runner) -> None:
    """Of a process; and a net namespace that has no number here is unassigned, in lsns's word."""
    command = Command(user)
    with command.start("run", "--new", "user,net", "--", "sh", "-c", "echo $$; exec sleep 1000") as there:
        try:
            assert there.stdout is not None
            pid = there.stdout.readline().strip()
            rows = command.out("show", pid).splitlines()[2:]
            facts = command.json("show", pid)["namespaces"]
            number = command.out("ls", "-p", pid, "-t", "net", "-n", "-o", "NETNSID")
        finally:
            there.terminate()
    assert [line.split()[1] for line in rows if not line.endswith("same as here")] == ["user", "net"]
    assert [each["type"] for each in facts if not each["same"]] == ["user", "net"]
    assert number == "unassigned\n"


HOSTILE = "x\033[31m\ny\udcff\u202e\x7f\x9bÿz"
HARMLESS = r"x\x1b[31m\x0ay\xff\u202e\x7f\x9bÿz"


def test_hostile_strings_are_harmless(command: Command) -> None:
    """Control characters of command lines, names and paths come out as text, a line stays a line; in JSON they are data."""
    script = "import sys; print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [*command.runner.prefix, command.runner.python, "-ISc", script, os.fsencode(HOSTILE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for words in (("ls", "--task", str(process.pid), "-o", "NS,COMMAND"), ("show", str(process.pid))):
            text = command.out(*words)
            assert text.replace("\n", "").isprintable()
        assert HARMLESS in command.out("show", str(process.pid))
        assert command.json("show", str(process.pid))["command"].endswith(HOSTILE)
        ascii = ("env", "PYTHONIOENCODING=ascii")
        assert HARMLESS.replace("ÿ", r"\xff") in command.out("show", str(process.pid), under=ascii)
        assert command.out("show", str(process.pid), "--json").replace("\n", "").isprintable()
    done = command("show", f"/no/{HOSTILE}")
    assert done.returncode == 1
    assert done.stderr[:-1].isprintable(), done.stderr
    assert "\033" not in command("run", "--new", "user", "--hostname", HOSTILE, "true").stderr


# ---- names ----


def test_names_are_pinned_shown_joined_and_unpinned(as_root: Command) -> None:
    """All of it, where /run is its own: `nsapi` is told by its words what Python tells by arguments."""
    nsapi = " ".join(as_root.argv())
    script = f"""
        set -e
        {nsapi} pin net blue --loopback
        {nsapi} pin uts box --hostname inside
        {nsapi} pin ipc /run/kept=ipc --from $$
        {nsapi} pin ipc "$(printf '/run/\\033[31m')"
        {nsapi} ls --persistent -n -o TYPE,NSFS,COMMAND
        {nsapi} pin user own --map 0:0:1
        {nsapi} pin net owned --owner own
        echo "$({nsapi} ls -P -n -t net -o NSFS,ONS | grep owned)" $(stat -Lc %i /run/nsapi/user/own)
        unshare --mount sh -c 'umount /run/netns/blue; {nsapi} ls -P -n -t net -o NSFS,COMMAND'
        {nsapi} show blue | grep -e ^pinned
        {nsapi} run --join net=blue --join uts=box -- sh -c 'hostname; cat /sys/class/net/lo/flags' || true
        {nsapi} enter box -- hostname
        {nsapi} run --join /run/kept=ipc -- true
        {nsapi} run --new uts --join box -- true 2>&1 || echo refused $?
        {nsapi} unpin blue
        {nsapi} unpin --type uts box
        {nsapi} unpin /run/kept=ipc
        {nsapi} ls --persistent -n -t net -o NSFS | grep -c /run/netns/blue || true
    """
    done = subprocess.run([*OWN_RUN, "sh", "-c", script], capture_output=True, text=True, cwd="/", timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert re.search(r"^net +/run/netns/blue +\[/run/netns/blue\]$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^uts +/run/nsapi/uts/box ", done.stdout, re.MULTILINE), done.stdout
    assert r"[/run/\x1b[31m]" in done.stdout
    assert re.search(r"^/run/netns/owned (\d+) \1$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^ +\[/run/netns/blue in mount namespace \d+\]$", done.stdout, re.MULTILINE), done.stdout
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"pinned +/run/netns/blue", lines[-7])
    assert lines[-6:] == ["inside", lines[-5], "inside", "nsapi: uts: created or joined twice", "refused 2", "0"]


def test_made_and_joined_in_one(as_root: Command) -> None:
    """All that `run` is for in one line: some made, one joined, a map, a name, lo, a pid 1, and the program's status."""
    nsapi = " ".join(as_root.argv())
    tool("ip")
    inside = (
        "stat -Lc %i /proc/self/ns/net; hostname; id -u; ip -o link show lo up | grep -c LOOPBACK,UP; echo $$; exit 9"
    )
    script = f"""
        set -e
        {nsapi} pin net blue
        stat -Lc %i /run/netns/blue
        {nsapi} run --new user,pid,uts,mnt --join net=blue --map auto --hostname box --loopback --init -- sh -c '{inside}'
    """
    done = subprocess.run([*OWN_RUN, "sh", "-c", script], capture_output=True, text=True, cwd="/", timeout=60)
    assert (done.returncode, done.stderr) == (9, ""), done
    blue, *seen = done.stdout.split()
    assert seen == [blue, "box", "0", "1", "2"]


def test_a_users_own_names_are_found(user: Runner) -> None:
    """Also net's, which are not where `ip netns` has them; and first where no type is told."""
    nsapi = f"{user.python} -m nsapi"
    script = f"""
        mount -t tmpfs none /mnt && export XDG_RUNTIME_DIR=/mnt || exit
        {nsapi} pin net mine && {nsapi} pin ipc mine
        {nsapi} enter mine -- stat -Lc %i /proc/self/ns/net
        for type in net ipc; do
            stat -Lc %i /mnt/nsapi/$type/mine
            {nsapi} run --join $type=mine -- stat -Lc %i /proc/self/ns/$type
            {nsapi} enter mine $type -- stat -Lc %i /proc/self/ns/$type
        done
        {nsapi} unpin mine && {nsapi} unpin --type ipc mine
    """
    done = Command(user)("run", "--new", "user,mnt", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, ""), done
    net, *_, ipc = done.stdout.split()
    assert done.stdout.split() == [net] * 4 + [ipc] * 3


# ---- run and enter ----

SHOWS = {
    "hostname": (("--new", "uts", "--hostname", "box"), "hostname", "box"),
    "map": (("--map", "0:{uid}:1", "--setgroups", "deny"), "cat /proc/self/setgroups; id -u", "deny\n0"),
    "uid of a range": (("--map", "current"), "id -u", "{uid}"),
    "loopback": (("--new", "net", "--loopback"), "ip -o link show lo up 2>/dev/null || cat /sys/class/net/lo/flags", None),
    "init": (("--new", "pid,mnt", "--init"), "echo $$", "2"),
    "no init": (("--new", "pid,mnt"), "echo $$", "1"),
    "proc": (("--new", "pid,mnt", "--keep-proc"), 'read pid _ </proc/self/stat; test "$pid" = $$ || echo old', "old"),
    "capabilities": (("--cap", "kill,CAP_NET_RAW"), "grep CapEff /proc/self/status", "CapEff:\t0000000000002020"),
    "no capabilities": (("--cap", ""), "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000000"),
    "no new privileges": (("--no-new-privs",), "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    "limit": (("--rlimit", "nofile=33:44"), "ulimit -Sn; ulimit -Hn", "33\n44"),
    "limit for both": (("--rlimit", "RLIMIT_NOFILE=55"), "ulimit -Sn; ulimit -Hn", "55\n55"),
    "directory": (("--cwd", "/proc"), "pwd", "/proc"),
    "oom": (("--oom-score-adj", "500"), "cat /proc/self/oom_score_adj", "500"),
    "time": (
        ("--new", "time", "--time-offset", "boottime=86400.5", "--time-offset", "monotonic=-1.25"),
        "tr -s ' ' </proc/self/timens_offsets",
        "monotonic -2 750000000\nboottime 86400 500000000",
    ),
    "sysctl": (("--new", "ipc", "--sysctl", "kernel.msgmax=4242"), "cat /proc/sys/kernel/msgmax", "4242"),
    "propagation": (("--new", "mnt", "--propagation", "slave"), "grep -c shared: /proc/self/mountinfo", "0"),
    "domainname": (("--new", "uts", "--domainname", "far"), "cat /proc/sys/kernel/domainname", "far"),
    "maps": (("--uid-map", "7:{uid}:1", "--gid-map", "8:{gid}:1"), "id -u; id -g", "7\n8"),
    "unmapped": (("--uid-map", "", "--gid-map", ""), "id -u", "65534"),
    "no limit": (("--rlimit", "CPU=unlimited"), "ulimit -t", "unlimited"),
    "whole seconds": (
        ("--new", "time", "--time-offset", "boottime=-9"),
        "tail -n1 /proc/self/timens_offsets | tr -s ' '",
        "boottime -9 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SHOWS)
def test_options_of_run_are_fields_of_a_config(user: Runner, case: str) -> None:
    """One to one; the program sees it."""
    command = Command(user)
    options, script, wanted = SHOWS[case]
    uid = str(USER if os.geteuid() == 0 else os.geteuid())
    gid = str(USER if os.geteuid() == 0 else os.getegid())
    words = [each.format(uid=uid, gid=gid) for each in options]
    done = command("run", "--new", "user", *words, "--", "sh", "-c", script)
    assert done.stderr == ""
    if wanted is not None:
        assert done.stdout.strip() == wanted.format(uid=uid)
    else:
        assert "LOOPBACK,UP" in done.stdout or done.stdout.strip() == "0x9", done.stdout


def test_ids_of_the_program(as_root: Command) -> None:
    """As many groups as are named, and none for ''."""
    ids = ("--", "sh", "-c", "id -u; id -g; id -G; pwd")
    done = as_root.out("run", "--new", "uts", "--uid", "5", "--gid", "6", "--groups", "7,8", *ids)
    assert done.split() == ["5", "6", "6", "7", "8", "/"]
    here = ("enter", str(os.getpid()), "uts", "--setuid", "5", "--setgid", "6", "--groups", "", "--wd", "/proc")
    assert as_root.out(*here, *ids).split() == ["5", "6", "6", "/proc"]


def test_enter_goes_to_all_that_differs(command: Command) -> None:
    """A pid alone is enough, as is a shell where no program is named; files that are open stay open."""
    with command.start(
        "run", "--new", "user,uts,ipc", "--hostname", "box", "sh", "-c", "echo $$; exec sleep 1000"
    ) as there:
        try:
            assert there.stdout is not None
            pid = int(there.stdout.readline())
            assert command.out("enter", str(pid), "--", "hostname") == "box\n"
            assert command.out("enter", str(pid), "user,uts", "--", "hostname") == "box\n"
            assert command.out("run", "--join", str(pid), "hostname") == "box\n"
            done = command("enter", str(pid), stdin=None, input="hostname; exit 5\n")
            assert (done.returncode, done.stdout) == (5, "box\n")
            done = command("enter", str(pid), env={**ENVIRONMENT, "SHELL": "/usr/bin/env"})
            assert "SHELL=/usr/bin/env" in done.stdout.splitlines()
        finally:
            there.terminate()
    assert there.returncode == -signal.SIGTERM
    read, write = os.pipe()
    done = command(
        *NEW, "--", command.runner.python, "-ISc", f"import os; os.write({write}, b'kept')", pass_fds=(write,)
    )
    os.close(write)
    assert os.read(read, 100) == b"kept", done
    os.close(read)


# ---- signals and the terminal ----

#: Says ready, then names each signal that comes, until SIGTERM.
LISTENS = """
import signal, sys
all = signal.valid_signals() - {signal.SIGTSTP, signal.SIGCONT, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, all)
print("ready", flush=True)
number = 0
while number != signal.SIGTERM:
    number = signal.sigwait(all)
    print("got", signal.Signals(number).name, flush=True)
"""


@pytest.mark.parametrize("options", [("--new", "user,uts"), ("--new", "user,pid,mnt"), ("--new", "user,pid", "--init")])
def test_signals_reach_the_program(user: Runner, options: tuple[str, ...]) -> None:
    """Whoever sends them to nsapi, which ends when the program does, as it does."""
    command = Command(user)
    with command.start("run", *options, "--", command.runner.python, "-ISc", LISTENS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGWINCH", "SIGTERM"):
            process.send_signal(getattr(signal, name))
            assert process.stdout.readline() == f"got {name}\n"
    assert process.returncode == 0


def test_a_death_signal_comes_when_nsapi_is_killed(user: Runner) -> None:
    """Where nsapi can hand on nothing any more."""
    command = Command(user)
    options = ("--new", "user", "--parent-death-signal", "term")
    with command.start("run", *options, "--", command.runner.python, "-ISc", LISTENS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.read() == "got SIGTERM\n"


def test_a_signal_that_may_not_be_sent_is_no_end(as_root: Command) -> None:
    """The program has become another user's: it is waited for all the same."""
    tool("setpriv")
    script = "trap 'echo by mistake' TERM; echo ready; read line; exit 5"
    argv = as_root.argv("run", "--new", "uts", "--uid", "1", "--", "sh", "-c", script)
    with subprocess.Popen(
        ["setpriv", "--bounding-set=-kill", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        until_taken(process.pid, signal.SIGTERM)
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 5


def until_taken(pid: int, number: int) -> None:
    """Wait until a process has fetched the signal that was sent to it."""
    pending = 1 << number - 1
    while pending & int(re.findall(r"^ShdPnd:\t(.*)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0], 16):
        os.sched_yield()


SENDS_ITSELF = """
import os, signal, sys
import nsapi._payload
class Popen(nsapi._payload.Popen):
    def __init__(self, *args, **keywords):
        os.kill(os.getpid(), signal.SIGTERM)
        super().__init__(*args, **keywords)
nsapi._payload.Popen = Popen
from nsapi.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("program", [("sleep", "1000"), ("no-such-program",)])
def test_a_signal_while_it_starts_is_kept(user: Runner, program: tuple[str, ...]) -> None:
    """The program gets it as soon as there is one; where it does not start, nsapi ends by it."""
    argv = [*user.prefix, user.python, "-c", SENDS_ITSELF, *LEAVES_NONE, *program]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


INTERRUPTS_ITSELF = """
import os, signal, sys
import nsapi._payload
def create(*args, **keywords):
    try:
        os.kill(os.getpid(), int(number))
    finally:
        print("taken back", flush=True)
nsapi._payload.create = create
from nsapi.__main__ import main
number = sys.argv.pop(1)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_pin_take_back_what_it_has_made(user: Runner, number: signal.Signals) -> None:
    """Then it ends by the signal, without a word."""
    argv = [*user.prefix, user.python, "-c", INTERRUPTS_ITSELF, str(int(number)), "pin", "net", "blue"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "taken back\n", "")


ENDS_MEANWHILE = """
import os, sys
import nsapi._payload
read, write = os.pipe()
os.dup2(read, 0)
class Popen(nsapi._payload.Popen):
    def poll(self):
        if super().poll() is not None:
            return self.returncode
        os.close(write)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
nsapi._payload.Popen = Popen
from nsapi.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_program_may_end_at_any_moment(user: Runner) -> None:
    """Also between the question whether it has ended and the one whether it has stopped."""
    argv = [*user.prefix, user.python, "-c", ENDS_MEANWHILE, *NEW, "--", "sh", "-c", "read line; exit 7"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


def test_the_environment_is_the_programs_own(user: Runner) -> None:
    """Python sets LC_CTYPE in the C locale; the program does not see it, or what it was."""
    command = Command(user)
    words = (*NEW, "--", "/usr/bin/env")
    for given in ((), ("LC_CTYPE=C",), ("LC_CTYPE=POSIX", "A=B=C", "EMPTY=")):
        assert set(command.out(*words, under=("env", "-i", *given)).splitlines()) == set(given)


def test_only_a_program_has_its_statuses(as_root: Command) -> None:
    """127 and 126 are of run and enter: where `pin` cannot start what it needs, as without /proc, it is 1."""
    nsapi = " ".join(as_root.argv())
    script = f"umount -l /proc; exec {nsapi} pin net /run/blue"
    done = subprocess.run([*OWN_RUN, "sh", "-c", script], capture_output=True, text=True, cwd="/", timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done


def test_ignored_signals_stay_ignored(user: Runner) -> None:
    """As under nohup(1). Ignored SIGCHLD does not lose the status."""
    ignored = 1 << signal.SIGHUP - 1
    script = f"set -- $(grep SigIgn /proc/self/status); test $((0x$2 & {ignored})) = {ignored} && exit 7"
    done = Command(user)(*NEW, "--", "sh", "-c", script, under=("env", "--ignore-signal=HUP,CHLD"))
    assert (done.returncode, done.stderr) == (7, "")


def test_it_ends_as_the_program_also_as_pid_1(as_root: Command) -> None:
    """Which no signal of its own ends: by the status that a shell would tell."""
    words = ("run", "--new", "uts", "--", "sh", "-c", "kill -TERM $$")
    assert as_root(*words, under=("unshare", "--fork", "--pid")).returncode == 128 + signal.SIGTERM


def test_no_second_core_is_dumped(as_root: Command, tmp_path: Path) -> None:
    """The program's own is enough."""
    script = 'ulimit -c unlimited; cd "$0"; exec "$@"'
    words = as_root.argv("run", "--new", "uts", "--", "sh", "-c", "ulimit -c 0; kill -QUIT $$")
    process = subprocess.Popen(["sh", "-c", script, str(tmp_path), *words])
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert (os.WTERMSIG(status), os.WCOREDUMP(status), list(tmp_path.iterdir())) == (signal.SIGQUIT, False, [])


def test_it_stops_and_goes_on_with_the_program(user: Runner) -> None:
    """Whoever stops it, and though only nsapi is told to go on."""
    with Command(user).start(*NEW, "--", "sh", "-c", "kill -STOP $$; echo on; exit 6") as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.read() == "on\n"
    assert process.returncode == 6


class Terminal:
    """A session on a terminal of its own, in whose foreground the command is."""

    def __init__(self, argv: list[str], **environment: str) -> None:
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            for name in ("NO_COLOR", "COLUMNS"):
                os.environ.pop(name, None)
            os.chdir("/")
            os.execvpe(argv[0], argv, {**os.environ, "TERM": "xterm", **environment})
        self.pidfd = os.pidfd_open(self.pid)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def until(self, words: str) -> None:
        while words not in self.text:
            ready, _, _ = select.select([self.fd], [], [], 30)
            assert ready, self.text
            self.text += os.read(self.fd, 65536).decode()

    def rest(self) -> tuple[int, str]:
        """The status it ends with, and all it has written."""
        while self.fd >= 0:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # EIO: nobody has it open any more
                data = b""
            if not data:
                break
            self.text += data.decode()
        assert select.select([self.pidfd], [], [], 30)[0], "it goes on"
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return status, self.text


def test_ctrl_c_comes_once(command: Command) -> None:
    """The terminal sends it to both; nsapi hands on no second, and stays until the program ends."""
    with Terminal(command.argv(*LEAVES_NONE, command.runner.python, "-ISc", LISTENS)) as terminal:
        terminal.until("ready")
        os.write(terminal.fd, b"\x03")
        terminal.until("got SIGINT")
        os.write(terminal.fd, b"\x1c")
        terminal.until("got SIGQUIT")
        os.kill(terminal.pid, signal.SIGTERM)
        status, text = terminal.rest()
    assert (status, text.count("got SIGINT"), text.count("got SIGQUIT")) == (0, 1, 1)


def test_ctrl_c_ends_both(command: Command) -> None:
    """By the signal, so that a shell's loop ends too."""
    with Terminal(command.argv(*LEAVES_NONE, "sh", "-c", "echo ready; exec sleep 1000")) as terminal:
        terminal.until("ready")
        os.write(terminal.fd, b"\x03")
        status, text = terminal.rest()
    assert (status, "ready" in text) == (-signal.SIGINT, True)


def test_ctrl_c_is_handed_on_where_the_terminal_does_not_send_it(command: Command) -> None:
    """To a program that is in a session of its own; else nothing would end the two."""
    alone = "import os\nos.setsid()\n" + LISTENS
    with Terminal(command.argv(*LEAVES_NONE, command.runner.python, "-ISc", alone)) as terminal:
        terminal.until("ready")
        os.write(terminal.fd, b"\x03")
        terminal.until("got SIGINT")
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.rest()[0] == 0


def test_a_terminal_that_is_closed_ends_both(command: Command) -> None:
    """It tells the leader of its session alone: here nsapi, as where ssh or a terminal's window started it."""
    with Terminal(command.argv(*LEAVES_NONE, "sh", "-c", "echo ready; exec sleep 1000")) as terminal:
        terminal.until("ready")
        terminal.close()
        assert terminal.rest()[0] == -signal.SIGHUP


def test_ctrl_z_stops_both_and_fg_continues_both(user: Runner) -> None:
    """The shell is told that its job has stopped, and the program goes on with it."""
    command = Command(user)
    shell = 'set -m; "$@"; echo stopped $?; fg >/dev/null; echo ended $?'
    payload = "import signal, sys; print('ready', flush=True); sys.exit(int(sys.stdin.readline()))"
    tool("bash")
    argv = command.argv(*LEAVES_NONE, command.runner.python, "-ISc", payload)
    with Terminal(["bash", "-c", shell, "bash", *argv]) as terminal:
        terminal.until("ready")
        os.write(terminal.fd, b"\x1a")
        terminal.until("stopped 147")
        os.write(terminal.fd, b"9\n")
        terminal.until("ended 9")
        assert terminal.rest()[0] == 0


@pytest.mark.parametrize(
    ("environment", "coloured", "columns"),
    [({"COLUMNS": "50"}, True, 50), ({"NO_COLOR": "1", "COLUMNS": "60"}, False, 60), ({"TERM": "dumb"}, False, None)],
)
def test_colours_and_width_are_for_terminals(
    user: Runner, environment: dict[str, str], coloured: bool, columns: int | None
) -> None:
    """Not for files; NO_COLOR, TERM and COLUMNS have their say."""
    command = Command(user)
    with command.start("run", "--new", "user,uts", "sh", "-c", f"echo $$; exec sleep 1000 {'0 ' * 200}") as long:
        try:
            assert long.stdout is not None
            words = ("ls", "-p", long.stdout.readline().strip(), "-t", "user,uts", "-o", "NS,TYPE,COMMAND")
            with Terminal(command.argv(*words), **environment) as terminal:
                status, text = terminal.rest()
            with Terminal(command.argv(*words, "--notruncate"), **environment) as terminal:
                whole = terminal.rest()[1]
            plain = command.out(*words)
        finally:
            long.terminate()
    assert status == 0
    assert ("\033[" in text) is coloured
    assert "\033" not in plain
    lines = [line for line in re.sub(r"\033\[\d*m", "", text).splitlines() if not line.startswith("nsapi: not seen")]
    assert lines[0].split() == ["NS", "TYPE", "COMMAND"]
    assert max(map(len, plain.splitlines())) > 400
    assert max(map(len, whole.splitlines())) > 400
    if columns is not None:
        assert max(map(len, lines)) == columns


def test_what_is_not_seen_is_told_to_who_looks(root: Runner, user: Runner) -> None:
    """On a terminal as in JSON, not in what goes to a file or a program. Here it is a shell of root's that a user sees."""
    beside = [*root.prefix, *OWN_PROC, "sh", "-c", '"$@"; exit', "sh"]
    told = "processes: the namespaces of 1, and what is open there, need CAP_SYS_PTRACE"
    for name in ("ls", "tree"):
        argv = [*beside, *Command(user).argv(name, "-t", "uts")]
        done = subprocess.run([*argv, "--json"], stdout=subprocess.PIPE, env=ENVIRONMENT, cwd="/", timeout=60)
        assert told in json.loads(done.stdout)["unseen"]
        with Terminal(argv, NO_COLOR="1") as terminal:
            assert f"nsapi: not seen: {told}\r\n" in terminal.rest()[1]


def test_wide_characters_are_cut_by_what_they_take(user: Runner) -> None:
    """A row is never longer than the terminal is wide, and as long as it can be."""
    command = Command(user)
    wide, marked = "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 90, "e\N{DEVANAGARI VOWEL SIGN U}" * 180
    script = "import os; print(os.getpid(), flush=True); input()"
    for word, each in ((wide, 2), (marked, 1)):
        program = (command.runner.python, "-ISc", script, word)
        with command.start(*NEW, "--", *program, stdin=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                pid = process.stdout.readline().strip()
                words = ("ls", "-p", pid, "-t", "uts", "-n", "-o", "TYPE,PID,COMMAND,NS")
                with Terminal(command.argv(*words), COLUMNS="150", NO_COLOR="1", PYTHONUTF8="1") as terminal:
                    status, text = terminal.rest()
            finally:
                process.terminate()
        assert status == 0
        row = next(line for line in text.splitlines() if line.startswith("uts"))
        taken = sum(2 if char == wide[0] else char != marked[1] for char in row)
        assert 150 - each < taken <= 150, row


# ---- help, cost ----


SCREENS = REPOSITORY / "docs/_screens"


def words_of(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name: str) -> None:
    """Each subcommand has examples that can be parsed, and the reference shows all of its options as they are."""
    parser = parser_of(name)
    shown = (SCREENS / f"help-{name}.txt").read_text(encoding="utf-8")
    for action in parser._actions:
        assert words_of(action.help or "") in words_of(shown), action
        for option in action.option_strings:
            assert re.search(rf"^  .*{option}\b", shown, re.MULTILINE), option
    known = {option for action in parser._actions for option in action.option_strings}
    listed = re.findall(r"^  ((?:-\w[^-\s]*,? )?--?[\w-]+)", shown, re.MULTILINE)
    assert {word for line in listed for word in re.findall(r"--[\w-]+", line)} <= known
    assert words_of(parser.epilog or "") in words_of(shown)
    examples = re.findall(rf"^  nsapi {name} (.*?)(?:  .*| \|.*)?$", parser.epilog or "", re.MULTILINE)
    assert len(examples) >= 3
    for example in examples:
        parse([name, *shlex.split(example.replace("$$", "1"))])


def test_help_is_shown(user: Runner) -> None:
    """Of nsapi, and of each subcommand by either word."""
    command = Command(user)
    shown = (SCREENS / "help.txt").read_text(encoding="utf-8")
    assert command.out("--help") == command.out("help") == shown.partition("\n")[2]
    assert command.out("run", "--help") == command.out("help", "run")


@pytest.mark.parametrize("name", ["ls", "ls-persistent", "tree", "show"])
def test_screens_are_what_the_command_prints(root: Runner, name: str) -> None:
    """The pages show what docs/screens.py has made; it makes the same today, but for numbers and what a kernel lacks."""
    code = (
        "import json, sys; sys.path[:0] = sys.argv[1:2]; import screens; print(json.dumps(screens.screen(sys.argv[2])))"
    )
    argv = [root.python, "-c", code, str(REPOSITORY / "docs"), name]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")

    with closing(nsapi.current("net")) as here:
        unknown = "kernel's id" if here.ns_id is None else "-"

    def shape(text: str) -> list[str]:  # inode numbers, by which they are sorted, come as they come
        lines = [line for line in text.splitlines() if not line.startswith(unknown)]
        return sorted(words_of(re.sub(r"\d+|[├└]─|│ ", "N", line)) for line in lines)

    assert shape(json.loads(done.stdout)) == shape((SCREENS / f"{name}.txt").read_text(encoding="utf-8"))


def test_ls_loads_little(command: Command) -> None:
    """What a list needs and no more: no attrs, no subprocess, nothing that waits or connects."""
    code = "import sys; from nsapi.__main__ import main; main(['ls', '-o', 'NS']); print('LOADED', *sys.modules)"
    argv = [*command.runner.prefix, *OWN_WORLD, command.runner.python, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", timeout=60)
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert "nsapi._discover" in loaded
    assert loaded.isdisjoint({"attr", "attrs", "asyncio", "subprocess", "socket", "json", "shutil", "nsapi._config"})


def test_it_is_installed_as_a_command() -> None:
    """`nsapi` is beside the interpreter."""
    path = Path(sys.executable).with_name("nsapi")
    done = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"nsapi \d+\.\d+\S*\n", done.stdout), done
