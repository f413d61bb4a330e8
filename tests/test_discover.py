"""discover finds every namespace, whatever keeps it alive, and what it finds can be opened; it disturbs nothing."""

from __future__ import annotations

import contextlib
import errno
import inspect
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner, tool
from inside import *

import nsapi

#: Alone with one's own processes: what else the host does cannot be seen.
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


# ---- the same as lsns ----


def test_finds_what_lsns_finds(root: Runner) -> None:
    """No namespace of lsns is missing, and each has as many processes, the same first of them, and the same uid."""

    def body() -> list[Any]:
        with unshared("--net", "--uts"), unshared("--user", "--map-root-user", "--ipc"), unshared("--pid", "--fork"):
            lsns = subprocess.run(
                ["lsns", "--json", "--output", "NS,TYPE,NPROCS,PID,UID"], capture_output=True, text=True, check=True
            )
            snapshot = nsapi.discover()
        own = [each.id[1] for each in snapshot.of(os.getpid())]
        theirs = [
            # lsns counts itself, which ended before us
            [row["type"], row["ns"], row["nprocs"] - (row["ns"] in own), row["pid"], row["uid"]]
            for row in json.loads(lsns.stdout)["namespaces"]
        ]
        ours = []
        for each in snapshot:
            if each.nprocs:
                first = snapshot.process(each.pids[0])
                # they have been killed meanwhile; all but one were root's
                ours.append([each.type.proc_name, each.id[1], each.nprocs, each.pids[0], first.uid if first else 0])
        return [sorted(theirs), sorted(ours)]

    tool("lsns")
    theirs, ours = root(body, under=ALONE)
    assert theirs == ours
    assert len(ours) >= 13


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
#: These need privilege over one's own mount namespace, or to go into another.
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
            id = (os.stat("/proc/self/ns/uts").st_dev, int(inode))
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
            ids = handle.owner.id, handle.id
        return find(*ids)


@pytest.fixture
def holder(anyone: Runner) -> Runner:
    """Runs a body that knows the function above."""
    prelude = f"{anyone.prelude}\nimport contextlib\n{inspect.getsource(holding)}"
    return Runner(anyone.name, anyone.python, anyone.prefix, prelude, anyone.library)


@pytest.mark.parametrize(("kind", "source", "type"), HOLDERS, ids=[row[0] for row in HOLDERS])
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
            others = [each for each in nsapi._discover.SOURCES if each != source]
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

    if kind in ROOT_ONLY and holder.name == "user":
        pytest.skip("needs privilege over a mount namespace: an ordinary user has none over his own")
    under = ALONE if holder.name == "root" else ()
    assert holder(body, kind, source, type, str(readable_tmp), under=under) == {
        "type": type,
        "opened": [type, True, True],
        "found without it": False,
        "found among its type": True,
        "only its type": True,
        "persistent": kind not in ("process", "thread"),
        "changed": [],
        "owner": True,
        "told": True,
    }
