# SPDX-License-Identifier: MIT
"""The table of what is measured. A new row is an entry here, an operation in operations.py and a floor in floors.c."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from benchmarks.harness import Aim, Contestant, Row

#: Net namespaces are taken down behind their end by a kernel thread, after a grace period: five of them are gone 50 ms
#: later. Without the pause everybody, the floor too, would wait for locks that the neighbour's teardown holds; a longer
#: one measures caches gone cold. What is timed is few at once, as a program starts them, not how fast a kernel is that is
#: flooded.
AT_ONCE, SETTLE = 5, 0.05

#: A peer that is no part of every installation: `pip install '.[test]'`.
HAS_PYROUTE2 = importlib.util.find_spec("pyroute2") is not None

#: Who gets no map from unshare(1) without a line in these, not even root. Bound over the host's, for one worker alone.
SUBIDS = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"'


def rows(floors: Path, *, quick: bool = False) -> list[Row]:
    """Make the rows; *floors* is where floors.c is compiled to, *quick* is for trying the harness out."""
    python = (sys.executable, str(Path(__file__).with_name("operations.py")))
    touch = ("--touch", "64" if quick else "2048")
    big = (*python, *touch, "--threads", "16")
    big_one_thread = (*python, *touch)
    c = (str(floors),)
    granted = floors.with_name("subids")
    granted.write_text("root:100000:65536\n")
    with_subids = ("unshare", "--mount", "sh", "-c", SUBIDS, str(granted), *python)

    def rounds(number: int) -> int:
        return 3 if quick else number

    def crowd(number: int) -> tuple[str, ...]:
        number = number // 20 if quick else number
        return ("env", f"FLOORS={floors}", *c, "crowd", str(number), *python)

    enter_peers = [Contestant("nsapi.enter(pid)", python, "enter_pid", 200)]
    if sys.version_info >= (3, 12):
        enter_peers.append(Contestant("os.setns twice", python, "enter_os_setns", 1000))
    socket_peers = []
    if HAS_PYROUTE2:
        socket_peers.append(Contestant("pyroute2, which forks", python, "socket_pyroute2"))
    return [
        Row(
            "spawn",
            "run /bin/true in new user, pid, mnt, net, ipc and uts namespaces",
            Contestant("nsapi.run", python, "spawn_run", AT_ONCE),
            Contestant("C: vfork-clone, exec, wait", c, "spawn", AT_ONCE),
            (
                Contestant("C: the same steps", c, "spawn_same_steps", AT_ONCE),
                Contestant("unshare(1) by subprocess", python, "spawn_unshare", AT_ONCE),
            ),
            (Aim("C: vfork-clone, exec, wait", 1.25), Aim("unshare(1) by subprocess", 0.5)),
            rounds=rounds(120),
            settle=SETTLE,
        ),
        Row(
            "spawn-2GiB-16threads",
            "the same from a parent with 2 GiB touched and 16 threads",
            Contestant("nsapi.run", big, "spawn_run", AT_ONCE),
            Contestant("itself in a small parent", python, "spawn_run", AT_ONCE),
            (
                Contestant("itself with 1 thread", big_one_thread, "spawn_run", AT_ONCE),
                Contestant("subprocess, preexec_fn", big, "spawn_preexec"),
                Contestant("os.fork, exec", big, "spawn_fork"),
                Contestant("os.fork, exec, 1 thread", big_one_thread, "spawn_fork"),
            ),
            (Aim("itself in a small parent", 1.15),),
            rounds=rounds(80),
            settle=SETTLE,
        ),
        Row(
            "launch-range",
            "run /bin/true in a new user namespace with a range of ids",
            Contestant("nsapi.run", with_subids, "launch_range", AT_ONCE),
            Contestant("unshare --map-users", with_subids, "launch_unshare", AT_ONCE),
            (),
            (Aim("unshare --map-users", 0.7),),
            rounds=rounds(120),
        ),
        Row(
            "launch-join",
            "run /bin/true in all namespaces of a process",
            Contestant("nsapi.run", python, "launch_join", AT_ONCE),
            Contestant("nsenter -a", python, "launch_nsenter", AT_ONCE),
            (),
            (Aim("nsenter -a", 0.7),),
            rounds=rounds(120),
        ),
        Row(
            "launch-2GiB-16threads",
            "launch-range from a parent with 2 GiB touched and 16 threads",
            Contestant("nsapi.run", big, "launch_range", AT_ONCE),
            Contestant("itself in a small parent", python, "launch_range", AT_ONCE),
            (),
            (Aim("itself in a small parent", 1.15),),
            rounds=rounds(80),
        ),
        Row(
            "enter",
            "go into a net namespace and come back, one thread",
            Contestant("with handle:", python, "enter_handle", 1000),
            Contestant("C: open, setns, setns, close", c, "enter", 1000),
            tuple(enter_peers),
            (Aim("C: open, setns, setns, close", 1.5),),
            rounds=rounds(200),
        ),
        *(
            Row(
                f"discover-{number}",
                f"find the namespaces of {number:,} processes",
                Contestant('discover(sources="processes")', crowd(number), "discover_processes"),
                Contestant("C: readlinkat /proc/*/ns/*", crowd(number), "discover_scan"),
                (
                    Contestant("lsns by subprocess", crowd(number), "discover_lsns"),
                    Contestant("discover(), all sources", crowd(number), "discover_all"),
                ),
                (Aim("C: readlinkat /proc/*/ns/*", 2), Aim("lsns by subprocess", 0.2)),
                rounds=rounds(60_000 // number),
            )
            for number in (2_000, 10_000)
        ),
        Row(
            "discover-growth",
            "the same among 10,000 processes, beside itself among 2,000: five times as long, and a tenth",
            Contestant("10,000 processes", crowd(10_000), "discover_processes"),
            Contestant("2,000 processes", crowd(2_000), "discover_processes"),
            (),
            (Aim("2,000 processes", 5.5),),
            rounds=rounds(10),
        ),
        Row(
            "socket",
            "make a TCP socket in a net namespace that a handle is on, and close it",
            Contestant("handle.socket", python, "socket_handle", 100),
            Contestant("C: open, setns, socket, setns", c, "socket_elsewhere", 100),
            tuple(socket_peers),
            (Aim("C: open, setns, socket, setns", 1.5), *(Aim(each.name, 0.01) for each in socket_peers)),
            rounds=rounds(300),
        ),
        Row(
            "socket-name",
            "the same in one that has a name",
            Contestant("nsapi.socket", python, "socket_named", 100),
            Contestant("C: the same, and open", c, "socket_named", 100),
            (),
            (Aim("C: the same, and open", 1.5),),
            rounds=rounds(300),
        ),
        Row(
            "visit",
            "go through 300 net namespaces, then home, one thread",
            Contestant("nsapi.visit", python, "visit_handles", 4),
            Contestant("C: open, 301 setns, close", c, "visit", 4),
            (Contestant("300 times with handle:", python, "visit_one_by_one"),),
            (Aim("C: open, 301 setns, close", 1.5),),
            rounds=rounds(100),
        ),
        Row(
            "call",
            "call a function in an interpreter of its own in a new uts namespace",
            Contestant("nsapi.call", python, "call_cold"),
            Contestant("bare interpreter with the same imports", python, "call_bare"),
            (),
            (Aim("bare interpreter with the same imports", 1.3),),
            rounds=rounds(60),
        ),
        Row(
            "pool",
            "call a function in a warm worker and have its result",
            Contestant("nsapi.ProcessPoolExecutor", python, "pool_warm", 200),
            Contestant("concurrent.futures.ProcessPoolExecutor", python, "pool_futures", 200),
            (),
            (Aim("concurrent.futures.ProcessPoolExecutor", 1.5),),
            rounds=rounds(60),
        ),
        Row(
            "import",
            "start an interpreter, import nsapi, enter a net namespace once",
            Contestant("import, first enter", python, "start_first_enter"),
            Contestant("bare interpreter", python, "start_bare"),
            (),
            (Aim("bare interpreter", 15, in_ms=True),),
            rounds=rounds(80),
        ),
        Row(
            "ls",
            "start the command `nsapi ls`, and list what processes are in, and all else",
            Contestant("nsapi ls", python, "start_ls"),
            Contestant("bare interpreter", python, "start_bare"),
            (Contestant("lsns", python, "start_lsns"),),
            (Aim("bare interpreter", 60, in_ms=True),),
            rounds=rounds(80),
        ),
    ]
