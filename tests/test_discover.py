"""discover finds every namespace, whatever keeps it alive, and what it finds can be opened; it disturbs nothing."""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner, tool
from inside import (
    PYTHON,
    TYPES,
    CtrlC,
    answer_enosys,
    at_every_moment,
    drop_all_capabilities,
    everything,
    failure,
    fds,
    next_pid,
    only_child,
    ready,
    same_id,
    status,
    unshared,
)

import nsapi
from nsapi._discover import _nsfs_lines
from nsapi._scan import all_pages
from nsapi._tasks import SOURCES

#: Alone with one's own processes: what else the host does cannot be seen.
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def alone(runner: Runner) -> tuple[str, ...]:
    """The same for an ordinary user, who stays one: in a user namespace that maps himself alone, and without privilege."""
    return ALONE if runner.name == "root" else (*ALONE, "--map-current-user")


# ---- the same as lsns ----


def test_finds_what_lsns_finds(anyone: Runner) -> None:
    """No namespace of lsns is missing, and each has as many processes, the same first of them, and the same uid.

    Among them are some of every type, a thread that is elsewhere than its process, and a dead process.
    """

    def body() -> list[Any]:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        lsns = ["lsns", "--json", "--output", "NS,TYPE,NPROCS,PID,UID"]
        go = "def go():\n assert libc.unshare(0x04000000) == 0\n print('ready', flush=True)\n time.sleep(1000)\n"
        thread = f"import ctypes, threading, time\nlibc = ctypes.CDLL(None)\n{go}threading.Thread(target=go).start()"
        with (
            unshared(*user, "--net", "--uts", "--cgroup"),
            unshared("--user", "--map-root-user", "--ipc", "--mount"),
            unshared(*user, "--pid", "--fork"),
            unshared(*user, "--time", "--fork"),
            ready("unshare", *user, *PYTHON, thread),
            ready("unshare", *user, "--uts", "sh", "-c", "echo ready; exit") as dead,
        ):
            os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
            listed = subprocess.run(lsns, capture_output=True, text=True, check=True)
            snapshot = nsapi.discover()
            ours = []
            for each in snapshot:
                if each.nprocs:
                    first = snapshot.process(each.pids[0])
                    assert first is not None
                    ours.append([each.type.proc_name, each.id[1], each.nprocs, first.pid, first.uid])
        assert any(dead.pid in each.pids for each in snapshot.by_type("user"))
        own = [each.id[1] for each in snapshot.of(os.getpid())]
        theirs, missing = [], []
        for row in json.loads(listed.stdout)["namespaces"]:
            if row["nprocs"]:
                # lsns counts itself, which ended before us
                theirs.append([row["type"], row["ns"], row["nprocs"] - (row["ns"] in own), row["pid"], row["uid"]])
            elif not any(each.id[1] == row["ns"] for each in snapshot):
                missing.append(row)  # a newer lsns lists more than what has processes
        return [sorted(theirs), sorted(ours), missing]

    tool("lsns")
    theirs, ours, missing = anyone(body, under=alone(anyone))
    assert theirs == ours
    assert not missing
    types = [row[0] for row in ours]
    assert {type for type in TYPES if types.count(type) > 1} == set(TYPES)


# ---- what is kept alive by one thing only ----

#: What keeps it, by which source it is found, of which type it is, and who can hold it so.
HOLDERS = [
    ("process", "processes", "net"),
    ("thread", "threads", "uts"),
    ("child", "children", "time"),
    ("fd", "fds", "net"),
    ("fd of a mounted file", "fds", "uts"),
    ("socket", "sockets", "net"),
    ("mount", "mounts", "uts"),
    ("mount elsewhere", "mounts", "uts"),
    ("mount of nobody's", "mounts", "uts"),
    ("grandchild", "ancestors", "user"),
]
#: These need privilege over one's own mount namespace, or to go into another, which an ordinary user has not.
ROOT_ONLY = ("mount", "mount of nobody's", "fd of a mounted file")


def holding(kind: str, folder: str, find: Any) -> Any:
    """Make a namespace that one thing alone keeps alive; then look for it."""
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *own_user]
    say = "print('ready', flush=True); time.sleep(1000)"
    python = "import ctypes, os, socket, sys, threading, time\nlibc = ctypes.CDLL(None)\n"
    if kind in ("process", "fd"):
        with unshared(*own_user, "--net") as process:
            handle = nsapi.open(process, "net")
            if kind == "process":
                handle.close()
                return find(handle.id, process.pid)
        result = find(handle.id, os.getpid())
        handle.close()
        return result
    if kind == "thread":
        go = "def go():\n assert libc.unshare(0x04000000) == 0\n print('ready', flush=True)\n time.sleep(1000)\n"
        with ready(*unshare, *PYTHON, python + go + "threading.Thread(target=go).start()") as process:
            (tid,) = (int(each) for each in os.listdir(f"/proc/{process.pid}/task") if int(each) != process.pid)
            return find(same_id(f"/proc/{process.pid}/task/{tid}/ns/uts"), [process.pid, tid])
    if kind == "child":
        with ready(*unshare, *PYTHON, python + "assert libc.unshare(0x80) == 0\n" + say) as process:
            return find(same_id(f"/proc/{process.pid}/ns/time_for_children"), process.pid)
    if kind == "socket":
        ours, theirs = socket.socketpair()
        send = "s = socket.socket(); socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b'x'], [s.fileno()])\n"
        command = [*unshare, "--net", *PYTHON, python + send + say, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE) as process:
            _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
            id = same_id(f"/proc/{process.pid}/ns/net")
            process.kill()
        for each in (ours, theirs):
            each.close()
        result = find(id, os.getpid())
        os.close(fd)
        return result
    if kind in ("mount", "fd of a mounted file"):
        path = f'{folder}/a name\\with "signs"\n'
        pathlib.Path(path).touch()
        with unshared("--uts") as process:
            subprocess.run(["mount", "--bind", f"/proc/{process.pid}/ns/uts", path], check=True)
        id = same_id(path)
        if kind == "mount":
            return find(id, path)
        fd = os.open(path, os.O_RDONLY)
        subprocess.run(["umount", "--lazy", path], check=True)
        return find(id, fd)
    if "mount" in kind:
        # Its mounts are its own; a tmpfs, since the folder may be somebody else's.
        script = f"mount --make-rprivate / && mount -t tmpfs none {folder} && touch {folder}/x && cd {folder} &&"
        script += " unshare --uts sh -c 'mount --bind /proc/self/ns/uts x && readlink /proc/self/ns/uts >text' &&"
        script += " echo ready && exec sleep 1000"
        with ready(*unshare, "--mount", "sh", "-c", script) as process:
            inode = pathlib.Path(f"/proc/{process.pid}/root/{folder}/text").read_text().strip()[5:-1]
            id = [os.stat("/proc/self/ns/uts").st_dev, int(inode)]
            mnt = nsapi.open(process, "mnt")
            if kind == "mount elsewhere":
                mnt.close()
                return find(id, f"{folder}/x")
        result = find(id, f"{folder}/x")
        mnt.close()
        return result
    assert kind == "grandchild"
    nested = ["unshare", "--user", "--map-root-user", "unshare", "--user", "sh", "-c", "echo ready; exec sleep 1000"]
    with ready(*nested) as process:
        with contextlib.closing(nsapi.open(process, "user")) as handle:
            assert handle.owner is not None
            ids = handle.owner.id, handle.id
        return find(*ids)


@pytest.fixture
def holder(request: pytest.FixtureRequest) -> Runner:
    """Runs a body that knows the function above."""
    anyone = request.getfixturevalue(request.param)
    prelude = f"{anyone.prelude}\nimport contextlib\n{inspect.getsource(holding)}"
    return Runner(anyone.name, anyone.python, anyone.prefix, prelude, anyone.library)


@pytest.mark.parametrize(
    ("holder", "kind", "source", "type"),
    [(name, *row) for name in ("root", "user") for row in HOLDERS if name == "root" or row[0] not in ROOT_ONLY],
    indirect=["holder"],
)
def test_finds_what_one_thing_keeps_alive(
    holder: Runner, readable_tmp: Path, kind: str, source: str, type: str
) -> None:
    """It is found by that source, not without it, and can be opened; no thread has moved, nothing is left open."""

    def body(kind: str, source: str, type: str, folder: str) -> Any:
        def find(id: Any, what: Any) -> Any:
            id = tuple(id)
            nsapi.discover(type)  # what is loaded once
            before = everything()
            snapshot = nsapi.discover()
            info = snapshot[id]
            with contextlib.closing(info.open()) as handle:
                opened = [handle.type.proc_name, list(handle.id) == list(id), handle.ns_id == info.ns_id]
            others = [each for each in snapshot.sources if each != source]
            without = id in nsapi.discover(sources=others)
            narrow = nsapi.discover(type)
            return {
                "type": info.type.proc_name,
                "opened": opened,
                "found without it": without,
                "found among its type": id in narrow and narrow[id].references == info.references,
                "only its type": {each.type.proc_name for each in narrow} == {type},
                "persistent": info in snapshot.persistent(),
                "changed": [key for key, value in everything().items() if value != before[key]],
                "owner": info.owner is not None and info.owner.type.proc_name == "user",
                "owner's uid": info.owner is not None and type != "user" and info.owner_uid == info.owner.owner_uid,
                "told": {
                    "process": lambda: list(info.members) == [what] and info.references[0] == f"/proc/{what}/ns/net",
                    "thread": lambda: [list(each) for each in info.threads] == [what],
                    "child": lambda: info.references == (f"/proc/{what}/ns/time_for_children",),
                    "fd": lambda: any(ref.startswith(f"/proc/{what}/fd/") for ref in info.references),
                    "fd of a mounted file": lambda: f"/proc/{os.getpid()}/fd/{what}" in info.references,
                    "socket": lambda: any("socket" in ref and f"process {what}" in ref for ref in info.references),
                    "mount": lambda: [(pin.path, pin.here) for pin in info.pinned] == [(what, True)],
                    "mount elsewhere": lambda: [(pin.path, pin.here) for pin in info.pinned] == [(what, False)],
                    "mount of nobody's": lambda: [(pin.path, pin.here) for pin in info.pinned] == [(what, False)],
                    "grandchild": lambda: (
                        [each.id for each in info.children] == [what] and info.owner_uid == os.getuid()
                    ),
                }[kind](),
            }

        return holding(kind, folder, find)

    under = alone(holder)
    assert holder(body, kind, source, type, str(readable_tmp), under=under) == {
        "type": type,
        "opened": [type, True, True],
        "found without it": False,
        "found among its type": True,
        "only its type": True,
        "persistent": kind not in ("process", "thread"),
        "changed": [],
        "owner": True,
        "owner's uid": type != "user",
        "told": True,
    }


# ---- what may not or cannot be looked at ----


def test_nothing_is_unseen_by_who_may_see_all(root: Runner) -> None:
    """Root, alone with his own processes, sees everything and is told so."""

    def body() -> Any:
        with unshared("--net"):
            snapshot = nsapi.discover()
        # What has processes is reached by these, and nothing of the search is among what was found.
        others = [ref for each in snapshot if each.nprocs for ref in each.references if "/ns/" not in ref]
        others += [ref for each in snapshot for ref in each.references if "for_children" in ref]
        return [dict(snapshot.skipped), list(snapshot.unseen), list(snapshot.sources), others]

    sources = ["processes", "threads", "children", "fds", "sockets", "mounts", "ancestors"]
    assert root(body, under=ALONE) == [{}, [], sources, []]


@pytest.mark.parametrize("hide", [0, 1, 2, 4])
def test_others_processes_are_counted_not_fatal(user: Runner, root: Runner, hide: int) -> None:
    """An ordinary user finds his own, and is told how much he could not see, and what it would take.

    With hidepid, others are listed and denied too, or not even listed, which is said.
    """

    def body() -> Any:
        snapshot = nsapi.discover()
        denied = dict(snapshot.skipped).get("processes", {}).get("denied", 0)
        text = snapshot.unseen[0]
        own = len(snapshot.of(os.getpid()))
        return [own, denied > 0, str(denied) in text and "CAP_SYS_PTRACE" in text, "hidepid" in text]

    script = f'mount -t proc -o hidepid={hide} none /proc && "$@"; exit $?'  # pid 1 is root's
    prefix = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", *user.prefix]
    beside = Runner("user", user.python, prefix, user.prelude, user.library)
    assert beside(body) == [8, hide < 2, hide < 2, hide >= 2]


#: Programs for Python: the first thread ends, another lives on; a thread alone is in a mount namespace, and mounts there.
FIRST_ENDS = """
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
def go():
    while open(f"/proc/{os.getpid()}/stat").read().rpartition(") ")[2][0] != "Z":
        os.sched_yield()
    os.write(1, b"ready\\n")
    time.sleep(1000)
threading.Thread(target=go).start()
libc.syscall(60 if os.uname().machine == "x86_64" else 93, 0)
"""
THREAD_MOUNTS = """
import ctypes, subprocess, threading, time
libc = ctypes.CDLL(None)
def go():
    assert libc.unshare(0x20000) == 0
    script = "mount -t tmpfs none /mnt && touch /mnt/thread && unshare --uts mount --bind /proc/self/ns/uts /mnt/thread"
    subprocess.run(["sh", "-c", "mount --make-rprivate / && " + script], check=True)
    print("ready", flush=True)
    time.sleep(1000)
threading.Thread(target=go).start()
"""


#: A file server that answers until a namespace is mounted on its only file, then never again.
FILE_SERVER = """
import ctypes, os, struct, subprocess, sys, threading, time
fuse, folder, over = os.open("/dev/fuse", os.O_RDWR), sys.argv[1], []
def attributes(node):
    return struct.pack("<6Q10I", node, *[0] * 8, 0o40755 if node == 1 else 0o100644, 1, *[0] * 5)
def serve():
    while True:
        request = os.read(fuse, 1 << 20)
        _, operation, unique, node = struct.unpack_from("<IIQQ", request)
        answer, error = b"", 0
        if operation == 26:  # FUSE_INIT
            answer = struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *[0] * 8)
        elif operation == 1:  # FUSE_LOOKUP: for no time
            answer = struct.pack("<4Q2I", 2, 0, 0, 0, 0, 0) + attributes(2)
        elif operation == 3:  # FUSE_GETATTR
            answer = struct.pack("<Q2I", 0, 0, 0) + attributes(node)
        else:
            error = -38
        if not over:
            os.write(fuse, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
assert ctypes.CDLL(None).mount(b"none", folder.encode(), b"fuse", 0, options) == 0
threading.Thread(target=serve, daemon=True).start()
subprocess.run(["unshare", "--uts", "mount", "--bind", "/proc/self/ns/uts", folder + "/x"], check=True)
over.append(True)
print("ready", flush=True)
time.sleep(90)  # who waits by mistake is let go then
"""


@pytest.mark.parametrize("here", [True, False], ids=["here", "elsewhere"])
def test_no_file_server_is_waited_for(root: Runner, readable_tmp: Path, here: bool) -> None:
    """Where a namespace is mounted on what a stranger serves, who never answers, that is told, and nobody hangs."""

    def body(program: str, folder: str, here: bool) -> Any:
        os.mkdir(f"{folder}/served")
        with ready("unshare", "--ipc" if here else "--mount", *PYTHON, program, f"{folder}/served"):
            snapshot = nsapi.discover()
            found = [[pin.path == f"{folder}/served/x", pin.here] for each in snapshot for pin in each.pinned]
            (pinned,) = [each for each in snapshot if each.pinned]
            return [found, failure(pinned.open)["errno"]]

    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    assert root(body, FILE_SERVER, str(readable_tmp), here, under=ALONE, timeout=60) == [[[True, here]], errno.ENOENT]


def test_threads_are_found_whose_first_has_ended(anyone: Runner) -> None:
    """The process is a zombie then, and its other threads live on; they are looked for by any type."""

    def body(go: str) -> Any:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        with ready("unshare", *user, "--net", "--uts", *PYTHON, go) as process:
            (tid,) = (int(each) for each in os.listdir(f"/proc/{process.pid}/task") if int(each) != process.pid)
            answers = []
            for types in (None, "net"):
                snapshot = nsapi.discover(types)
                id: Any = tuple(same_id(f"/proc/{process.pid}/task/{tid}/ns/net"))
                answers.append([list(each) for each in snapshot[id].threads] == [[process.pid, tid]])
                snapshot[id].open().close()
        return answers

    assert anyone(body, FIRST_ENDS, under=alone(anyone)) == [True, True]


def test_threads_alone_are_those_elsewhere(root: Runner) -> None:
    """Without the processes too, a thread is told of where it is elsewhere than its process, and only there."""

    def body() -> Any:
        go = "def go():\n assert libc.unshare(0x04000000) == 0\n print('ready', flush=True)\n time.sleep(1000)\n"
        code = f"import ctypes, threading, time\nlibc = ctypes.CDLL(None)\n{go}threading.Thread(target=go).start()"
        with ready(*PYTHON, code) as process:
            snapshot = nsapi.discover(sources="threads")
            return [[each.type.proc_name, [pid == process.pid for pid, _ in each.threads]] for each in snapshot]

    assert root(body, under=ALONE) == [["uts", [True]]]


def test_an_fd_is_found_wherever_its_file_is_mounted(root: Runner) -> None:
    """Also below /dev, where most open files are none of a namespace."""

    def body() -> Any:
        pathlib.Path("/dev/x").touch()
        with unshared("--uts") as process:
            subprocess.run(["mount", "--bind", f"/proc/{process.pid}/ns/uts", "/dev/x"], check=True)
        with open("/dev/x", "rb") as file:
            id = os.fstat(file.fileno()).st_dev, os.fstat(file.fileno()).st_ino
            return id in nsapi.discover(sources="fds")

    assert root(body, under=(*ALONE, "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh"))


def test_a_thread_with_fds_of_its_own_opens_the_right_one(root: Runner) -> None:
    """Its numbers are none of the main thread's, who has other files there."""

    def body(requests: Any) -> Any:
        import ctypes

        answer_enosys(*map(tuple, requests), errnum=25)
        answers: list[Any] = []
        apart, filled = threading.Event(), threading.Event()
        with unshared("--net") as process:
            kept = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)

        def look() -> None:
            answers.append(ctypes.CDLL(None).unshare(0x400))  # CLONE_FILES
            apart.set()
            filled.wait()
            info = nsapi.discover("net", sources=["fds"])[os.fstat(kept).st_dev, os.fstat(kept).st_ino]
            handle = info.open()
            answers.append(handle.id == info.id)
            handle.close()

        thread = threading.Thread(target=look)
        thread.start()
        apart.wait()
        pipes = [os.pipe() for _ in range(20)]
        filled.set()
        thread.join()
        return [answers, len(pipes)]

    assert root(body, OLD_IOCTLS, under=ALONE) == [[0, True], 20]


def test_many_fds_do_not_push_out_where_it_is_mounted(root: Runner, readable_tmp: Path) -> None:
    """Anybody who is in it can open many fds on it, and close them; by its mount it can be opened all the same."""

    def body(folder: str, requests: Any) -> Any:
        answer_enosys(*map(tuple, requests), errnum=25)
        path = f"{folder}/x"
        pathlib.Path(path).touch()
        with unshared("--net") as process:
            subprocess.run(["mount", "--bind", f"/proc/{process.pid}/ns/net", path], check=True)
        opened = [os.open(path, os.O_RDONLY) for _ in range(40)]
        info = nsapi.discover("net")[os.fstat(opened[0]).st_dev, os.fstat(opened[0]).st_ino]
        for each in opened:
            os.close(each)
        info.open().close()
        return [len(info.references), path in info.references]

    assert root(body, str(readable_tmp), OLD_IOCTLS, under=ALONE) == [17, True]


def test_a_type_of_a_later_kernel_is_left_out(root: Runner) -> None:
    """What is mounted may be a namespace of a type that there is none of yet."""

    def body() -> Any:
        from nsapi import _discover

        pathlib.Path("/run/x").touch()
        with unshared("--uts") as process:
            subprocess.run(["mount", "--bind", f"/proc/{process.pid}/ns/uts", "/run/x"], check=True)
        with open("/run/x", "rb"), _discover._Walk(frozenset(_discover.TYPES), ("fds",)) as walk:
            del walk.types[nsapi.NamespaceType.UTS.flag]
            walk.run()
            return [each.type.proc_name for each in walk.snapshot()]

    under = (*ALONE, "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    assert root(body, under=under) == []


def test_mounts_that_may_not_be_seen_are_told_of(root: Runner) -> None:
    """With CAP_SYS_ADMIN gone, another's mount namespace is looked at by mountinfo; what that cannot, is told."""

    def body() -> Any:
        with unshared("--mount") as process:
            mnt = tuple(same_id(f"/proc/{process.pid}/ns/mnt"))
            drop_all_capabilities(but=19)  # CAP_SYS_PTRACE
            ours = nsapi.discover("mnt")
            # Now that nobody is in it, its mounts are seen by nobody without CAP_SYS_ADMIN.
            fd = os.open(f"/proc/{process.pid}/ns/mnt", os.O_RDONLY)
        theirs = nsapi.discover("mnt")
        os.close(fd)
        return [
            [mnt in ours, "mounts" in ours.skipped],
            [mnt in theirs, dict(theirs.skipped).get("mounts"), ["CAP_SYS_ADMIN" in text for text in theirs.unseen]],
            ["no process is in" in text for text in theirs.unseen],
        ]

    assert root(body, under=ALONE) == [[True, False], [True, {"denied": 1}, [True, True]], [False, True]]


def test_threads_are_looked_at_like_processes(root: Runner) -> None:
    """With CAP_SYS_PTRACE alone, what is mounted where only a thread is, is seen and opened by its directory in /proc."""

    def body(program: str) -> Any:
        with ready(*PYTHON, program):
            drop_all_capabilities(but=19)  # CAP_SYS_PTRACE
            snapshot = nsapi.discover("uts")
            (pinned,) = [each for each in snapshot if each.pinned]
            pinned.open().close()
            return [[pin.path for pin in pinned.pinned], dict(snapshot.skipped)]

    assert root(body, THREAD_MOUNTS, under=ALONE) == [["/mnt/thread"], {}]


def test_mounts_are_followed_from_one_mount_namespace_to_the_next(root: Runner) -> None:
    """Files keep mount namespaces that nobody is in, and in each of them a file keeps another namespace."""

    def body() -> Any:
        script = "mount -t tmpfs none /mnt && touch /mnt/$0 && unshare --uts mount --bind /proc/self/ns/uts /mnt/$0"
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # each CPU has numbers of its own to tell the older by
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        for name in ("a", "b"):
            pathlib.Path(f"/run/{name}").touch()
            subprocess.run(["unshare", f"--mount=/run/{name}", "sh", "-c", script, name], check=True)
        found = [each for each in nsapi.discover("uts") if each.pinned]
        mnt = {tuple(same_id(f"/run/{name}")): name for name in ("a", "b")}
        answers = sorted([pin.path, mnt.get(pin.mnt), pin.here] for each in found for pin in each.pinned)
        described = [each.owner_id is not None for each in found]
        answer_enosys(("open_by_handle_at", None))  # by the mount, then
        for each in found:
            each.open().close()
        return [answers, described]

    under = (*ALONE, "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    assert root(body, under=under) == [[["/mnt/a", "a", False], ["/mnt/b", "b", False]], [True, True]]


def test_an_owner_is_found_by_what_it_owns(root: Runner) -> None:
    """Also where user namespaces alone are asked for, and only a net namespace of it is left, with a process of another."""

    def body() -> Any:
        with unshared("--user", "--map-root-user", "--net") as process:
            id = tuple(same_id(f"/proc/{process.pid}/ns/user"))
            command = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "sh", "-c", "echo ready; exec sleep 1000"]
            with ready(*command):
                process.kill()
                process.wait()
                snapshot = nsapi.discover("user")
                (found,) = [each for each in snapshot if each.id == id]
                found.open().close()
                return [id in snapshot, id in nsapi.discover("user", sources="processes")]

    assert root(body, under=ALONE) == [True, False]


def test_sockets_of_other_pids_are_told_of(root: Runner) -> None:
    """Where /proc is of another pid namespace, its pids are not those that a socket could be copied by."""

    def body() -> Any:
        snapshot = nsapi.discover("net")
        return [
            "sockets" in snapshot.skipped,
            ["another pid namespace" in text for text in snapshot.unseen].count(True),
        ]

    assert root(body, under=("unshare", "--pid", "--fork", "--kill-child")) == [False, 1]


def test_many_mounts_are_all_seen(root: Runner) -> None:
    """More than the kernel tells of at once, and with longer names than there is room for at first; by either way."""

    def body() -> Any:
        import ctypes

        libc, long = ctypes.CDLL(None), "x" * 150
        with unshared("--uts") as process:
            for each in range(600):
                path = f"/run/{long}{each:03}"
                pathlib.Path(path).touch()
                assert libc.mount(f"/proc/{process.pid}/ns/uts".encode(), path.encode(), None, 4096, None) == 0
        answers = []
        for filtered in (False, True):
            if filtered:
                answer_enosys(("statmount", None), ("listmount", None))
            (pinned,) = [each for each in nsapi.discover("uts") if each.pinned]
            answers.append([len({pin.path for pin in pinned.pinned}), len(pinned.references)])
        return answers

    assert root(body, under=(*ALONE, "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")) == [[600, 16]] * 2


def test_a_mount_that_the_kernel_makes_twice_is_told_once(root: Runner) -> None:
    """In a shared /run, as under systemd, each name of `ip netns` is mounted on the folder below, too."""

    def body() -> Any:
        nsapi.create("net", name="blue").close()
        lines = pathlib.Path("/proc/self/mountinfo").read_text().count(" /run/netns/blue ")
        (found,) = [each for each in nsapi.discover("net") if each.pinned]
        return [lines, [pin.path for pin in found.pinned], found.references]

    script = 'mount -t tmpfs -o mode=755 none /run && mount --make-shared /run && exec "$@"'
    assert root(body, under=(*ALONE, "sh", "-c", script, "sh")) == [2, ["/run/netns/blue"], ["/run/netns/blue"]]


def test_processes_that_end_meanwhile_are_no_error(anyone: Runner) -> None:
    """Whoever comes and goes while it looks, it answers, and leaves nothing."""

    def body() -> Any:
        over = threading.Event()

        def churn() -> None:
            while not over.is_set():
                command = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "true"]
                subprocess.run(command, check=True)

        threads = [threading.Thread(target=churn) for _ in range(2)]
        for each in threads:
            each.start()
        try:
            own = {nsapi.discover().of(os.getpid()) for _ in range(30)}
        finally:
            over.set()
            for each in threads:
                each.join()
        return [len(own), len(own.pop()), sorted(fds()) == sorted({0, 1, 2} & set(fds()))]

    assert anyone(body, under=alone(anyone)) == [1, 8, True]


def test_the_next_process_tells_where_the_first_has_ended(root: Runner) -> None:
    """Between the scan and the look at the namespace the first process may end; another one in it is there still."""

    def body() -> Any:
        from nsapi import _discover

        with (
            ready("unshare", "--uts", "sh", "-c", "sleep 1000 & echo ready; wait") as process,
            _discover._Walk(frozenset(_discover.TYPES), ("processes",)) as walk,
        ):
            walk.run()
            inode = same_id(f"/proc/{process.pid}/ns/uts")[1]
            del walk.found[inode]
            process.kill()
            process.wait()
            walk._meet_member(nsapi.NamespaceType.UTS, inode, process.pid)
            return [walk.tasks.of(nsapi.NamespaceType.UTS, inode)[0] == process.pid, bool(walk.found[inode].facts)]

    assert root(body, under=ALONE) == [True, True]


def test_many_threads_look_at_once(anyone: Runner) -> None:
    """Each gets the whole answer, also one that is elsewhere itself, which is then found as a thread; nobody has moved."""

    def body() -> Any:
        first = threading.Thread(target=nsapi.discover)  # from here on the C library catches a signal of its own
        first.start()
        first.join()
        while len(os.listdir("/proc/self/task")) > 1:
            pass
        before = everything()
        answers: list[Any] = []

        def look(*, elsewhere: bool) -> None:
            if elsewhere:
                nsapi.unshare("uts")
            for _ in range(5):
                snapshot = nsapi.discover("uts")
                mine: Any = tuple(same_id("/proc/thread-self/ns/uts"))
                tids = [thread.tid for thread in snapshot[mine].threads]
                answers.append(mine in snapshot and elsewhere == (threading.get_native_id() in tids))

        away = [False, False, os.geteuid() == 0]
        threads = [threading.Thread(target=look, kwargs={"elsewhere": each}) for each in away]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        while len(os.listdir("/proc/self/task")) > 1:  # Python has joined them, the kernel is about to
            pass
        return [answers.count(True), [key for key, value in everything().items() if value != before[key]]]

    assert anyone(body, under=alone(anyone)) == [15, []]


@pytest.mark.parametrize("holder", ["root"], indirect=True)
def test_ctrl_c_at_any_moment_leaves_nothing(holder: Runner, readable_tmp: Path) -> None:
    """Wherever in nsapi CPython looks for signals, KeyboardInterrupt comes out, and no fd and no thread is left.

    That is at the start of a Python function and after a call of a C function.
    """

    def body(folder: str) -> Any:
        import inspect
        import warnings

        warnings.simplefilter("ignore")  # handles that the interrupt has left to be collected

        def look(id: Any, _: Any) -> Any:
            def use() -> None:
                info = nsapi.discover(["uts", "net", "mnt"])[tuple(id)]
                info.open().close()
                list(info.leaders)

            def attempt(ctrl_c: CtrlC) -> list[Any]:
                before = fds()
                with ctrl_c:
                    use()
                while len(os.listdir("/proc/self/task")) > 1:
                    os.sched_yield()
                left = [fd for fd in fds() if fd not in before]
                for fd in left:
                    os.close(fd)
                return left if ctrl_c.came == ctrl_c.raised else [*left, "swallowed"]

            def skip(code: Any, event: str) -> bool:
                generator = code.co_flags & inspect.CO_GENERATOR  # which is also called to be closed
                return event == "call" and bool(generator or code.co_name == "__exit__")

            moments, found = at_every_moment(attempt, skip=skip)
            return [moments > 500, found]

        answer_enosys(("open_by_handle_at", None))
        return holding("mount of nobody's", folder, look)

    assert holder(body, str(readable_tmp), under=ALONE) == [True, []]


@pytest.mark.parametrize("sources", [SOURCES, ["mounts"], ["processes", "ancestors"]], ids=["all", "mounts", "some"])
def test_no_free_fds_is_an_error(root: Runner, sources: list[str]) -> None:
    """With too few fds the answer would lack things: it is EMFILE, at every number, until one suffices."""

    def body(sources: list[str]) -> Any:
        import resource

        with unshared("--user", "--map-root-user", "--net", "--mount"):

            def found() -> Any:
                facts = ("id", "owner_id", "parent_id", "owner_uid", "ns_id", "pinned", "threads")
                return [[getattr(each, name) for name in facts] for each in nsapi.discover(sources=sources)]

            whole = found()
            before = fds()
            answers, errors = [], []
            for free in range(30):
                resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + free, 1 << 10))
                try:
                    answers.append(found() == whole)
                except nsapi.NamespaceError as error:
                    answers.append(error.errno == errno.EMFILE)
                    errors.append(error)  # with all its frames
            return [answers, fds() == before]

    assert root(body, sources, under=ALONE) == [[True] * 30, True]


def test_a_false_proc_is_refused(root: Runner) -> None:
    """What is no procfs says nothing about processes."""

    def body() -> Any:
        nsapi.discover()
        subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
        covered = failure(nsapi.discover)
        return [covered["errno"], covered["step"], covered["hint"]]

    errnum, step, why = root(body, under=("unshare", "--mount"))
    assert (errnum, step) == (errno.EXDEV, "open /proc")
    assert "mounted over /proc" in why


# ---- newer kernels ----


def test_mount_namespaces_of_nobody_are_listed_by_the_kernel(root: Runner) -> None:
    """Older and newer than the caller's own: kept by an fd that is on its way through a socket, which nobody sees."""

    def body() -> Any:
        from nsapi import _scan

        with open("/proc/self/ns/mnt", "rb") as own:
            if _scan.mount_namespace_beside(own.fileno(), previous=False).number in (-errno.EPERM, -errno.ENOTTY):
                return None
        ours, theirs = socket.socketpair()
        ids: list[Any] = []
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # each CPU gives out the numbers that it is listed by

        def keep() -> None:
            with unshared("--mount") as process, open(f"/proc/{process.pid}/ns/mnt", "rb") as file:
                socket.send_fds(ours, [b"x"], [file.fileno()])
                ids.append((os.fstat(file.fileno()).st_dev, os.fstat(file.fileno()).st_ino))

        keep()
        nsapi.unshare("mnt")
        keep()
        snapshot = nsapi.discover("mnt")
        for each in ids:
            snapshot[each].open().close()
        answers = [[not snapshot[each].nprocs, "mount namespace" in str(snapshot[each].references)] for each in ids]
        ours.close()
        theirs.close()
        return answers

    answers = root(body)
    if answers is None:
        pytest.skip("needs NS_MNT_GET_NEXT, Linux 6.13, for who is in the initial pid namespace")
    assert answers == [[True, True]] * 2


# ---- older kernels ----


@pytest.mark.parametrize("errnum", [errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("call", ["statmount", "listmount"])
def test_where_a_filter_knows_one_call_of_two_all_mounts_are_found(root: Runner, call: str, errnum: int) -> None:
    """By mountinfo then: what was not answered is not taken for nothing."""

    def body(call: str, errnum: int) -> Any:
        nsapi.create("net", path="/run/blue").close()
        answer_enosys((call, None), errnum=errnum)
        return [pin.path for each in nsapi.discover("net") for pin in each.pinned]

    under = (*ALONE, "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    assert root(body, call, errnum, under=under) == ["/run/blue"]


#: What Linux 5.10 lacks, as answers of a seccomp filter: the calls, and the requests of ioctl.
OLD = [["statmount", None], ["listmount", None], ["listns", None], ["pidfd_getfd", None]]
OLD_IOCTLS = [["ioctl", 0x8008B70D], ["ioctl", 0x8008B705], ["ioctl", 0x8010B70B], ["ioctl", 0x8010B70C]]


def test_an_older_kernel_shows_the_same(root: Runner) -> None:
    """Without statmount and ids, mountinfo tells of the mounts, and records are opened by what leads to them.

    Also where a thread alone is in the mount namespace, where the first process in it sees a part only, and where the mount
    point is deeper than any path can be opened at once.
    """

    def body(calls: Any, requests: Any, go: str) -> Any:
        def deep(uts: str) -> None:
            import ctypes

            for _ in range(120):
                os.mkdir("d" * 200)
                os.chdir("d" * 200)
            pathlib.Path("x").touch()
            assert ctypes.CDLL(None).mount(uts.encode(), b"x", None, 4096, None) == 0
            os.chdir("/")

        private = "mount --make-rprivate / && mount -t tmpfs none /run && cd /run &&"
        bind = "mount --bind /proc/self/ns/uts"
        first = f"{private} touch x 'a b' && unshare --uts {bind} 'a b' && mkdir jail jail/bin"
        first += " && for each in bin lib lib64 usr; do mkdir -p jail/$each && mount --rbind /$each jail/$each; done"
        jailed = "{ sleep 1000 & } && exec chroot jail sh -c 'echo ready; exec sleep 1000'"
        with (
            ready("unshare", "--mount", "sh", "-c", f"{first} && {jailed}"),
            ready(*PYTHON, go),
            unshared("--net", "--uts") as process,
        ):
            pathlib.Path("/run/y").touch()
            subprocess.run(["mount", "--bind", f"/proc/{process.pid}/ns/net", "/run/y"], check=True)
            os.chdir("/run")
            deep(f"/proc/{process.pid}/ns/uts")
            new = nsapi.discover()
            answer_enosys(*map(tuple, calls))
            answer_enosys(*map(tuple, requests), errnum=25)
            before = fds()
            old = nsapi.discover()
            facts = [
                [[each.id, sorted(each.pinned), each.owner_id, list(each.pids)] for each in snapshot]
                for snapshot in (new, old)
            ]
            for each in old:
                each.open().close()
            left = fds() != before
        pins = sorted(pin.path.replace("d" * 200, "d") for each in old for pin in each.pinned)
        differs = [pair for pair in zip(*facts, strict=True) if pair[0] != pair[1]]
        return [differs, len(facts[0]) == len(facts[1]), pins, {each.ns_id for each in old} == {None}, left]

    under = (*ALONE, "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    differs, as_many, pins, no_ids, left = root(body, OLD, OLD_IOCTLS, THREAD_MOUNTS, under=under)
    assert differs == []
    assert as_many
    assert pins == ["/mnt/thread", "/run/a b", f"/run{'/d' * 120}/x", "/run/y"]
    assert no_ids
    assert not left


@pytest.mark.parametrize(
    ("pages", "ids"),
    [
        ([-errno.ENOSYS], None),
        ([[]], []),
        ([[7, 9], [11], -errno.ENOENT], [7, 9, 11]),
        ([[7, 9], [11], []], [7, 9, 11]),
        ([[7, 9], -errno.EPERM], [7, 9]),
    ],
)
def test_listns_is_asked_until_there_is_no_more(pages: list[Any], ids: list[int] | None) -> None:
    """Each time for what is beyond the last id; that there is nothing, the kernel says by ENOENT."""
    asked: list[int] = []

    def ask(last: int) -> Any:
        asked.append(last)
        return pages[len(asked) - 1]

    assert all_pages(ask) == ids
    assert asked == [0, *(page[-1] for page in pages[:-1])]


def test_mountinfo_is_taken_by_its_words() -> None:
    """What a file system says of itself is no mount of a namespace, whatever it says."""
    lines = [
        rb"40 28 0:4 net:[4026532000] /run/a\040b\134c rw shared:20 - nsfs nsfs rw",
        rb"41 28 0:4 uts:[4026532001] /run/x rw - nsfs nsfs rw",
        rb"42 28 0:9 /x[abc /run/y rw master:3 - fuse.it x rw,name= - nsfs x",
        rb"43 28 0:9 /nsfs /nsfs rw - tmpfs nsfs rw",
    ]
    found = list(_nsfs_lines(b"\n".join(lines) + b"\n"))
    assert found == [(b"net:[4026532000]", "/run/a b\\c"), (b"uts:[4026532001]", "/run/x")]


def test_listns_agrees_with_the_walk(root: Runner) -> None:
    """Where the kernel lists namespaces itself, the walk finds them all the same."""

    def body() -> Any:
        from nsapi import _scan

        with unshared("--net"):
            ids = _scan.list_ids(0)
            return ids if ids is None else sorted(set(ids) - {each.ns_id for each in nsapi.discover()})

    missing = root(body, under=ALONE)
    if missing is None:
        pytest.skip("needs listns(2), Linux 6.19")
    assert missing == []


# ---- facts about one ----


def test_number_and_name_of_a_net_namespace(root: Runner, readable_tmp: Path) -> None:
    """What ip netns calls it, by name and by number, is told."""

    def body() -> Any:
        for command in ("add blue", "set blue 7", "add red"):
            subprocess.run(["ip", "netns", *command.split()], check=True)
        snapshot = nsapi.discover("net")
        found = {pin.path: each.nsid for each in snapshot for pin in each.pinned if pin.here}
        return [found, [each.nsid for each in snapshot.of(os.getpid())]]

    tool("ip")
    # With numbers of its own: the kernel takes its time to give back the 7 of a blue that is gone.
    under = (*ALONE, "--net", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")
    assert root(body, under=under) == [{"/run/netns/blue": 7, "/run/netns/red": None}, [None]]


def test_what_is_gone_is_not_opened(root: Runner) -> None:
    """Neither where everything has ended, nor where the pid is another's now; with ids of the kernel's and without."""

    def body(requests: Any) -> Any:
        answers: list[Any] = []
        for filtered in (False, True):
            if filtered:
                answer_enosys(*map(tuple, requests), errnum=25)
            with unshared("--net") as process:
                (found,) = [each for each in nsapi.discover("net") if process.pid in each.pids]
                # Its number stays its own, which an older kernel would give to the next one.
                kept = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY) if filtered else -1
            answers.append(failure(found.open))
            next_pid(process.pid)
            with unshared("--net") as other:
                answers.append([other.pid == process.pid, failure(found.open)["errno"]])
        os.close(kept)
        return answers

    first, again, without, again_without = root(body, OLD_IOCTLS, under=ALONE)
    for each in (first, without):
        assert each["errno"] == errno.ENOENT
        assert "FileNotFoundError" in each["classes"]
        assert "gone" in each["hint"]
    assert again == again_without == [True, errno.ENOENT]


def test_a_number_that_another_has_now_is_not_enough(root: Runner) -> None:
    """Where pid and inode number are another's now, the kernel's id still tells them apart; equality does so too."""

    def body() -> Any:
        for _ in range(200):  # the lowest free number is given next, here or elsewhere on this machine
            with unshared("--uts") as process:
                (found,) = [each for each in nsapi.discover("uts") if process.pid in each.pids]
            next_pid(process.pid)
            with unshared("--uts") as other:
                if tuple(same_id(f"/proc/{other.pid}/ns/uts")) == found.id:
                    refused = failure(found.open)
                    (again,) = [each for each in nsapi.discover("uts") if other.pid in each.pids]
                    return [refused["errno"], again.id == found.id, again == found, found.id in nsapi.discover("uts")]
        return "the number was never given again"

    if not has_ns_id():
        pytest.skip("needs NS_GET_ID, Linux 6.18")
    assert root(body, under=ALONE) == [errno.ENOENT, True, False, True]


def test_what_has_moved_is_opened_by_its_id(root: Runner) -> None:
    """By none of what led to it when it was found: it is kept by something else now."""

    def body() -> Any:
        with unshared("--net") as process:
            fd = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        info = nsapi.discover("net")[os.fstat(fd).st_dev, os.fstat(fd).st_ino]
        moved = os.dup(fd)
        os.close(fd)
        handle = info.open()
        same = handle.id == info.id
        handle.close()
        return [same, moved != fd]

    if not has_ns_id():
        pytest.skip("needs file handles of nsfs, Linux 6.18")
    assert root(body, under=ALONE) == [True, True]


def has_ns_id() -> bool:
    with contextlib.closing(nsapi.current("uts")) as handle:
        return handle.ns_id is not None


def test_what_may_not_be_opened_is_refused_as_that(root: Runner) -> None:
    """It is there still, and the error is a PermissionError, whatever else led nowhere."""

    def body() -> Any:
        with unshared("--net") as process:
            fd = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
            (found,) = [each for each in nsapi.discover("net") if process.pid in each.pids]
            os.close(fd)
            os.setresuid(61234, 61234, 0)
            refused = failure(found.open)
            os.setresuid(0, 0, 0)
            return [refused["errno"], "PermissionError" in str(refused["classes"])]

    assert root(body, under=ALONE) == [errno.EACCES, True]


def test_what_stands_there_now_is_not_touched(anyone: Runner, readable_tmp: Path) -> None:
    """Where an fd's number is that of a pipe by now, nobody opens that, and no other namespace is taken for the one."""

    def body(requests: Any, folder: str) -> Any:
        with unshared("--user", "--map-root-user", "--net") as process:
            fd = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        id = os.fstat(fd).st_dev, os.fstat(fd).st_ino
        info = nsapi.discover("net")[id]
        answer_enosys(*map(tuple, requests), errnum=25)
        answers = []
        waiting, _ = os.pipe()
        os.mkfifo(f"{folder}/fifo")  # who opens it, and no O_PATH, waits for a writer
        others = [os.open(f"/proc/self/ns/{type}", os.O_RDONLY) for type in ("net", "uts")]
        for other in (waiting, os.open(f"{folder}/fifo", os.O_PATH), *others):
            os.dup2(other, fd)
            answers.append([info.references == (f"/proc/{os.getpid()}/fd/{fd}",), failure(info.open)["errno"]])
        return answers

    assert anyone(body, OLD_IOCTLS, str(readable_tmp), under=alone(anyone), timeout=60) == [[True, errno.ENOENT]] * 4


def test_leaders_come_first(root: Runner) -> None:
    """A leader is a member whose parent is none; the others follow, ascending."""

    def body() -> Any:
        script = "sleep 1000 & sleep 1000 & echo ready; wait"
        with ready("unshare", "--uts", "sh", "-c", script) as process:
            (info,) = [each for each in nsapi.discover("uts") if process.pid in each.pids]
            kids = [pid for pid in info.pids if pid != process.pid]
            result: list[Any] = [info.leaders == (process.pid,), info.members == (process.pid, *kids), info.nprocs]
            shown = nsapi.discover().process(process.pid)
            assert shown is not None
            result.append([shown.ppid == os.getpid(), shown.name, shown.command.startswith("sh -c sleep 1000 &")])
        return result

    assert root(body, under=ALONE) == [True, True, 3, [True, "sh", True]]


def test_a_name_may_hold_anything(root: Runner) -> None:
    """The parent is read behind a name that looks like what follows it; with no free fd it is not taken for none."""

    def body() -> Any:
        import resource

        code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a) R 9 (\\n');"
        code += " print('ready', flush=True); time.sleep(1000)"
        with ready(*PYTHON, code) as process:
            shown = nsapi.discover("uts").process(process.pid)
            assert shown is not None
            answers: list[Any] = [shown.ppid == os.getpid(), shown.name]
            later = nsapi.discover("uts")
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(fds()) + 1, 1 << 10))
            answers.append(failure(later.to_json)["errno"])
        return answers

    assert root(body, under=ALONE) == [True, "a) R 9 (\n", errno.EMFILE]


def test_translates_pids_as_the_kernel_does(root: Runner) -> None:
    """Between a pid namespace, one inside it, and back; not to one that cannot see the process."""

    def body() -> Any:
        nested = "unshare --pid --fork --kill-child sh -c 'echo ready; exec sleep 1000'"
        with ready("unshare", "--pid", "--fork", "--kill-child", "sh", "-c", nested) as process:
            outer = only_child(process.pid)
            snapshot = nsapi.discover("pid")
            (here,) = snapshot.of(os.getpid())
            (a,) = snapshot.of(outer)
            (b,) = a.children
            (inner,) = b.pids
            names = [list(map(int, status("NSpid", pid).split())) for pid in (outer, inner)]
            move = snapshot.translate_pid
            return [
                [
                    b.parent == a,
                    a.parent == here,
                    [each.id for _, each in snapshot.tree("parent")[0].walk()] == [here.id, a.id, b.id],
                ],
                [move(inner, here, b) == names[1][-1], move(inner, here, a) == names[1][1]],
                [move(names[1][-1], b, here) == inner, move(names[1][1], a, b) == names[1][-1]],
                [move(outer, here, b), move(99999, here, a), move(os.getpid(), here, here) == os.getpid()],
            ]

    assert root(body, under=ALONE) == [[True] * 3, [True] * 2, [True] * 2, [None, None, True]]


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"types": "nets"}, ValueError, "type: 'nets' is no namespace type"),
        ({"types": ["net", "net"]}, ValueError, "types: one is given twice"),
        ({"types": []}, ValueError, "types: none is named"),
        ({"types": 7}, TypeError, "types: 7 is no namespace type and no iterable of them"),
        ({"types": [7]}, TypeError, "types: [7] is no namespace type"),
        ({"sources": "process"}, ValueError, "sources: 'process' is none of processes, threads"),
        ({"sources": ["fds", "FDS"]}, ValueError, "sources: 'FDS' is none of"),
        ({"sources": ()}, ValueError, "sources: none is named"),
        ({"sources": 7}, TypeError, "sources: 7 is no word"),
        ({"sources": [["fds"]]}, TypeError, "sources: [['fds']] is no word"),
    ],
)
def test_other_words_are_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    """Before anything is looked at, and naming what there is."""
    with pytest.raises(error, match=re.escape(text)):
        nsapi.discover(**arguments)


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_alone_answers(root: Runner, source: str) -> None:
    """Each finds no more than all together; alone, some need what they are to be found by, and say so by finding less."""

    def body(source: str) -> Any:
        with unshared("--net"):
            everything = {each.id for each in nsapi.discover()}
            found = {each.id for each in nsapi.discover(sources=source)}
            return [found <= everything, len(found)]

    within, count = root(body, source, under=ALONE)
    assert within
    assert count == {"processes": 9, "children": 2, "mounts": 1}.get(source, 0)
