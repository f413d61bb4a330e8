"""The preloaded object spoken to as runc speaks: any dynamic program begins inside, and finds what it was started with."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import test_nsexec
from conftest import AS_OTHER, tool
from inside import TYPES
from test_nsexec import (
    ALL,
    FLAGS_ATTR,
    OWN_MAPS,
    ROOTLESS,
    Bootstrap,
    changed,
    create,
    join,
    maps,
    message,
    number,
    target,
)
from test_nsexec import nothing_left as nothing_left  # each test leaves neither processes nor descriptors

import nsapi
from nsapi import _boot_env

#: Tells in one line of JSON what it is, and ends as nsexec_main.c does.
PYTHON_PROGRAM = r"""
import json, os, resource, socket, stat, sys
found = [int(fd) for fd in os.listdir("/proc/self/fd")]
fds = [fd for fd in found if os.path.exists(f"/proc/self/fd/{fd}")]
(pipe,) = [fd for fd in fds if stat.S_ISSOCK(os.fstat(fd).st_mode)]
try:
    rest = socket.socket(fileno=os.dup(pipe)).recv(4096, socket.MSG_DONTWAIT)
except BlockingIOError:
    rest = b""
print(json.dumps({
    "ns": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
    "pid": os.getpid(), "sid": os.getsid(0), "pgid": os.getpgid(0), "uid": os.getresuid(), "gid": os.getresgid(),
    "threads": len(os.listdir("/proc/self/task")), "fds": sorted(fds), "rest": rest.decode(),
    "environment": dict(os.environ), "boottime": int(open("/proc/uptime").read().split(".")[0]),
    "oom_score_adj": open("/proc/self/oom_score_adj").read(),
    "child": os.system("test -z \"$LD_PRELOAD$_LIBCONTAINER_INITPIPE\""),
}), flush=True)
sys.stdin.read()
sys.exit(7)
"""
#: Its readlink is a child, which would wait for a message of its own if it were booted, too.
SHELL_PROGRAM = r"""
for type in user ipc uts net pid mnt cgroup time; do
    list="$list,\"$type\":\"$(readlink /proc/self/ns/$type)\""
done
echo "{\"ns\":{${list#,}},\"pid\":$$,\"preload\":\"$LD_PRELOAD\",\"type\":\"$_LIBCONTAINER_INITTYPE\"}"
cat
exit 7
"""
ROOT_MAPS = maps("0 0 1\n", "0 0 1\n", setgroups=False, rootless=False)


@pytest.fixture(scope="session")
def preloaded(library: Path) -> str:
    """The object, where everybody can read it."""
    copy = library / "_boot.so"
    shutil.copy(_boot_env._find_object(), copy)
    copy.chmod(0o755)
    return str(copy)


def started(
    preload: str, argv: Sequence[str], *, user: bool = False, env: dict[str, str] | None = None, **keywords: Any
) -> Bootstrap:
    """By way of env(1), so that nothing is preloaded into setpriv."""
    return Bootstrap([*(AS_OTHER if user else ()), "env", f"LD_PRELOAD={preload}", *argv], env=env, **keywords)


@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
def test_an_interpreter_begins_inside(preloaded: str, user_python: str, user: bool) -> None:
    """All eight namespaces, pid 1 with one thread, a session of its own, root; its descriptors, and no word of ours."""
    spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    boot = started(
        preloaded,
        [user_python, "-I", "-S", "-c", PYTHON_PROGRAM],
        user=user,
        pass_fds=[spare],
        env={"ONE": "1", "_LIBCONTAINER_LOGLEVEL": "5"},
    )
    facts = boot.succeed(message(number(FLAGS_ATTR, ALL), OWN_MAPS if user else ROOT_MAPS) + b'{"config":1}')
    os.close(spare)
    boot.close()
    assert changed(facts) == set(TYPES)
    assert (facts["pid"], facts["sid"], facts["pgid"], facts["threads"]) == (1, 1, 1, 1)
    assert facts["uid"] == facts["gid"] == [0, 0, 0]
    assert facts["fds"] == sorted({0, 1, 2, *boot.lent, spare})
    assert facts["rest"] == '{"config":1}'  # not a byte of it was read
    facts["environment"].pop("LC_CTYPE", None)
    assert facts["environment"] == {"PATH": os.environ["PATH"], "ONE": "1", "_LIBCONTAINER_INITTYPE": "standard"}
    assert facts["child"] == 0
    assert facts["pids"]["stage1_pid"] != facts["pids"]["stage2_pid"]


@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
def test_a_shell_begins_inside(preloaded: str, user: bool) -> None:
    """Its children are not booted again."""
    boot = started(preloaded, ["/bin/sh", "-c", SHELL_PROGRAM], user=user)
    facts = boot.succeed(message(create("user", "pid", "net"), OWN_MAPS if user else ROOT_MAPS))
    boot.close()
    assert changed(facts) == {"user", "pid", "net"}
    assert (facts["pid"], facts["preload"], facts["type"]) == (1, "", "standard")


@pytest.mark.parametrize(
    ("preload", "left"),
    [
        ("{own}", ""),
        ("{own}:libm.so.6", "libm.so.6"),
        ("libm.so.6:{own}", "libm.so.6"),
        ("libm.so.6 {own} libm.so.6", "libm.so.6 libm.so.6"),
        ("libm.so.6:_boot.so", "libm.so.6"),
        ("{own}:{folder}/x_boot.so", "{folder}/x_boot.so"),
    ],
    ids=["alone", "first", "last", "between", "searched for", "one of a like name"],
)
def test_what_else_is_preloaded_stays(preloaded: str, preload: str, left: str) -> None:
    """Only our own entry is cut out."""
    folder = os.path.dirname(preloaded)
    other = Path(folder, "x_boot.so")
    if not other.exists():
        other.write_bytes(Path(next(iter(Path("/lib").glob("*/libm.so.6")), preloaded)).read_bytes())
    names = {"own": preloaded, "folder": folder}
    boot = started(preload.format(**names), ["/bin/sh", "-c", SHELL_PROGRAM], env={"LD_LIBRARY_PATH": folder})
    facts = boot.succeed(message(create("uts")))
    boot.close()
    assert facts["preload"] == left.format(**names)


def test_the_type_of_init_says_whether_anything_was_made(preloaded: str) -> None:
    """``standard`` where one namespace or more is new, ``setns`` where all are joined."""
    with target("--net", "--uts") as pid:
        for parts, expected in (
            ([create("uts")], "standard"),
            ([create("uts"), join(net=pid)], "standard"),
            ([create(), join(net=pid, uts=pid)], "setns"),
        ):
            boot = started(preloaded, ["/bin/sh", "-c", SHELL_PROGRAM])
            facts = boot.succeed(message(*parts))
            boot.close()
            assert facts["type"] == expected


def test_a_failure_is_that_of_the_protocol(preloaded: str) -> None:
    """One fatal line, exit status 1, and the program never runs."""
    boot = started(preloaded, ["/bin/sh", "-c", SHELL_PROGRAM])
    assert boot.failure(message(create(), join(net="/nonexistent"))) == (
        "open the net namespace /nonexistent: No such file or directory"
    )
    boot.close()


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_pipe_nothing_happens(preloaded: str, value: str | None) -> None:
    """Nothing is taken out of the environment of who did not ask."""
    boot = started(preloaded, ["/bin/sh", "-c", SHELL_PROGRAM], env={"_LIBCONTAINER_INITPIPE": value})  # type: ignore[dict-item]
    facts = boot.facts()
    boot.end_program()
    assert boot.process.wait() == 7
    boot.close()
    assert (facts["pid"], facts["preload"], facts["type"]) == (boot.process.pid, preloaded, "")
    assert changed(facts) == set()


def test_it_understands_what_bootstrap_data_says(preloaded: str, user_python: str) -> None:
    """Each attribute has its effect in the program."""
    argv = [user_python, "-I", "-S", "-c", PYTHON_PROGRAM]
    with target("--net", "--uts", "--ipc") as pid:
        joined = {"net": f"/proc/{pid}/ns/net", "uts": f"/proc/{pid}/ns/uts"}
        maps = {"uid_mappings": "0:0:1,1:100000:10,20:200000:5", "gid_mappings": "0:0:1,7:70000:9"}
        for config, expected in (
            (nsapi.Config.new("user", "pid", "ipc", **maps), {"user", "pid", "ipc"}),
            (nsapi.Config.new("cgroup", oom_score_adj=321, **joined), {"cgroup", "net", "uts"}),
            (nsapi.Config.new("user", "time", time_offsets={"boottime": 10**8}), {"user", "time"}),
        ):
            data = nsapi.bootstrap_data(config)
            assert struct.unpack_from("=IH", data) == (len(data), 62000)
            boot = started(preloaded, argv)
            facts = boot.succeed(data)
            boot.close()
            assert changed(facts) == expected
            if config.oom_score_adj is not None:
                assert facts["oom_score_adj"] == "321\n"
                theirs = {name: os.readlink(path) for name, path in joined.items()}
                assert theirs.items() <= facts["ns"].items()
            if config.time_offsets:
                assert facts["boottime"] > 10**8


def test_an_ordinary_users_data_is_understood(preloaded: str, user_python: str) -> None:
    """As said by the user himself: the own id as root, and setgroups denied."""
    assert number(ROOTLESS, 1) in OWN_MAPS
    code = "import nsapi, sys; sys.stdout.buffer.write(nsapi.bootstrap_data(nsapi.Config.new('user', 'pid', 'net')))"
    import subprocess

    tool("setpriv")
    made = subprocess.run([*AS_OTHER, "env", user_python, "-c", code], capture_output=True, check=True, cwd="/")
    boot = started(preloaded, [user_python, "-I", "-S", "-c", PYTHON_PROGRAM], user=True)
    facts = boot.succeed(made.stdout)
    boot.close()
    assert changed(facts) == {"user", "pid", "net"}
    assert json.dumps(facts["uid"]) == "[0, 0, 0]"


@pytest.mark.parametrize("scene", test_nsexec.SCENES)
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_who_is_killed_takes_the_others_with_him(
    preloaded: str, readable_tmp: Path, victim: int, scene: str
) -> None:
    """At every line of the log, as where the bootstrap is part of the program."""
    script = readable_tmp / "program"
    script.write_text(f"#!/bin/sh\nexec env LD_PRELOAD={preloaded} /bin/sh -c 'echo {{}}; cat; exit 7'\n")
    script.chmod(0o755)
    test_nsexec.test_one_who_is_killed_takes_the_others_with_him(str(script), victim, scene)
