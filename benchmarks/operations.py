# SPDX-License-Identifier: MIT
"""A worker that performs operations in Python and times them; it speaks floors.c's protocol.

It is run by its path, so that the nsapi that is measured is the installed one, never a folder beside it. A new
operation is a function that prepares, untimed, and gives back what is timed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import ctypes
import importlib.util
import mmap
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import nsapi

SIX = ("user", "pid", "mnt", "net", "ipc", "uts")
SIX_FLAGS = nsapi.Namespaces(SIX).clone_flags()
TRUE = ["/bin/true"]
UNSHARE = "unshare --user --map-root-user --pid --fork --mount --mount-proc --net --ipc --uts".split()

# What site imports at every start, but none of the .pth files in site-packages: the hook of an editable install alone
# takes longer to import than nsapi does.
BARE = "import site, sys; sys.path += {paths}\n"
LS = "from nsapi.__main__ import main\nmain(['ls'])\n"
FIRST_ENTER = "import nsapi\nh = nsapi.current('net')\nwith h: pass\nh.close()\n"

Perform = Callable[[], object]


def spawn_run() -> Perform:
    """Run a program in new namespaces by nsapi."""
    config = nsapi.Config.new(*SIX)
    return lambda: nsapi.run(TRUE, config=config, check=True)


def spawn_unshare() -> Perform:
    """Do the same by unshare(1)."""
    return lambda: subprocess.run([*UNSHARE, *TRUE], check=True)


def launch_range() -> Perform:
    """Map a range of ids, which takes the launcher."""
    ids = [nsapi.IDMap(0, 100000, 65536)]
    config = nsapi.Config.new("user", uid_mappings=ids, gid_mappings=ids)
    return lambda: nsapi.run(TRUE, config=config, check=True)


def launch_unshare() -> Perform:
    """Do the same by unshare(1), which has newuidmap do it."""
    help = subprocess.run(["unshare", "--help"], capture_output=True, text=True, check=True).stdout
    ids = "0:100000:65536" if "<inner>:<outer>" in help else "100000,0,65536"  # the order before util-linux 2.39
    return lambda: subprocess.run(["unshare", f"--map-users={ids}", f"--map-groups={ids}", *TRUE], check=True)


def launch_join() -> Perform:
    """Join all namespaces of a process in which ours differ."""
    cat = nsapi.Popen(["cat"], config=nsapi.Config.new(*SIX), stdin=subprocess.PIPE)
    return lambda: nsapi.run(TRUE, target=cat, check=True)


def launch_nsenter() -> Perform:
    """Do the same by nsenter(1)."""
    cat = nsapi.Popen(["cat"], config=nsapi.Config.new(*SIX), stdin=subprocess.PIPE)
    return lambda: subprocess.run(["nsenter", "--all", f"--target={cat.pid}", *TRUE], check=True)


libc_unshare = ctypes.CDLL(None).unshare


def _unshare_six() -> None:
    if libc_unshare(SIX_FLAGS) < 0:
        raise OSError("unshare")


def spawn_preexec() -> Perform:
    """Do less: no maps, no /proc, and nobody is born in the pid namespace. subprocess forks for a preexec_fn."""
    return lambda: subprocess.run(TRUE, preexec_fn=_unshare_six, check=True)


def spawn_fork() -> Perform:
    """Do as little, by os.fork."""

    def perform() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                _unshare_six()
                os.execv(TRUE[0], TRUE)
            finally:
                os._exit(127)
        if os.waitpid(pid, 0)[1]:
            raise ChildProcessError("the child failed")

    return perform


def _cat_elsewhere() -> nsapi.Popen:
    # It ends with its standard input, and so at the latest with this worker.
    return nsapi.Popen(["cat"], config=nsapi.Config.new("net"), stdin=subprocess.PIPE)


def _net_elsewhere() -> nsapi.NamespaceHandle:
    with _cat_elsewhere() as cat:
        return nsapi.open(cat, "net")


def enter_handle() -> Perform:
    """Enter a net namespace by a handle, and come back."""
    handle = _net_elsewhere()

    def perform() -> None:
        with handle:
            pass

    return perform


def enter_pid() -> Perform:
    """Enter that of a process, which has to be opened each time."""
    cat = _cat_elsewhere()

    def perform() -> None:
        with nsapi.enter(cat.pid, "net"):
            pass

    return perform


if sys.version_info >= (3, 12):

    def enter_os_setns() -> Perform:
        """Do what the floor does, call by call."""
        with contextlib.closing(_net_elsewhere()) as handle:
            elsewhere = os.dup(handle.fileno())

        def perform() -> None:
            home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            os.setns(elsewhere, os.CLONE_NEWNET)
            os.setns(home, os.CLONE_NEWNET)
            os.close(home)

        return perform


def discover_processes() -> Perform:
    """Find the namespaces of all processes."""
    return lambda: nsapi.discover(sources="processes")


def discover_all() -> Perform:
    """Look everywhere."""
    return lambda: nsapi.discover()


def discover_scan() -> Perform:
    """Have the floor do it: a process that is among those that it looks at, as we are."""
    floor = subprocess.Popen([os.environ["FLOORS"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pipe, answers = floor.stdin, floor.stdout
    assert pipe is not None
    assert answers is not None

    def perform() -> None:
        pipe.write("scan 1\n")
        pipe.flush()
        answers.readline()

    return perform


def discover_lsns() -> Perform:
    """Make the same table by lsns(8)."""
    return lambda: subprocess.run(["lsns", "--raw"], stdout=subprocess.DEVNULL, check=True)


def socket_handle() -> Perform:
    """Make a socket in a net namespace by a handle, and close it."""
    handle = _net_elsewhere()
    return lambda: handle.socket().close()


def socket_named() -> Perform:
    """Make it by a name, which has to be opened each time."""
    handle = _name_elsewhere()
    return lambda: nsapi.socket(handle).close()


def socket_pyroute2() -> Perform:
    """Do the same by pyroute2, which forks a process that sends it."""
    from pyroute2 import netns  # type: ignore[import-untyped, import-not-found, unused-ignore]

    name = _name_elsewhere()
    return lambda: netns.create_socket(name).close()


def _name_elsewhere() -> str:
    """Name a net namespace as `ip netns add` does, in a mount namespace that nobody else sees."""
    nsapi.unshare("mnt")
    path = Path("/run/netns/elsewhere")
    for command in ("--make-rprivate /", "-t tmpfs none /run"):
        subprocess.run(["mount", *command.split()], check=True)
    path.parent.mkdir()
    path.touch()
    with _cat_elsewhere() as cat:
        subprocess.run(["mount", "--bind", f"/proc/{cat.pid}/ns/net", str(path)], check=True)
    return path.name


MANY = 300


def _many_elsewhere() -> list[nsapi.NamespaceHandle]:
    handles = []
    with contextlib.closing(nsapi.current("net")) as home:
        for _ in range(MANY):
            nsapi.unshare("net")
            handles.append(nsapi.current("net"))
        nsapi.setns(home)
    return handles


def visit_handles() -> Perform:
    """Go through many net namespaces."""
    handles = _many_elsewhere()

    def perform() -> None:
        with nsapi.visit(handles, "net") as each:
            for _ in each:
                pass

    return perform


def visit_one_by_one() -> Perform:
    """Enter each and come home from each."""
    handles = _many_elsewhere()

    def perform() -> None:
        for handle in handles:
            with handle:
                pass

    return perform


# What the interpreter of a call loads: it can do with no less.
CALLED = "import nsapi._worker\n"


def call_cold() -> Perform:
    """Call a function in an interpreter of its own."""
    config = nsapi.Config.new("uts")
    return lambda: nsapi.call(os.getpid, config=config)


def call_bare() -> Perform:
    """Start an interpreter that imports the same modules, and have it do nothing."""
    command = [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", CALLED]  # type: ignore[attr-defined]
    return lambda: subprocess.run(command, check=True)


def pool_warm() -> Perform:
    """Call a function in a worker that is there already."""
    pool = nsapi.ProcessPoolExecutor(1, config=nsapi.Config.new("uts"))
    return lambda: pool.submit(os.getpid).result()


def pool_futures() -> Perform:
    """Do the same by concurrent.futures, nowhere else."""
    pool = concurrent.futures.ProcessPoolExecutor(1)
    return lambda: pool.submit(os.getpid).result()


def _start(code: str) -> Perform:
    found = [importlib.util.find_spec(name) for name in ("nsapi", "attrs", "_cffi_backend")]
    files = [Path(spec.origin) for spec in found if spec is not None and spec.origin is not None]
    paths = {str(file.parent.parent if file.stem == "__init__" else file.parent): None for file in files}
    command = [sys.executable, "-I", "-S", "-c", BARE.format(paths=list(paths)) + code]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def start_bare() -> Perform:
    """Start an interpreter."""
    return _start("")


def start_first_enter() -> Perform:
    """Start one that imports nsapi and enters once."""
    return _start(FIRST_ENTER)


def start_ls() -> Perform:
    """Start one that is the command `nsapi ls`."""
    return _start(LS)


def start_lsns() -> Perform:
    """Start lsns(8)."""
    return lambda: subprocess.run(["lsns"], check=True, stdout=subprocess.DEVNULL)


def _touch(mebibytes: int) -> mmap.mmap:
    # As a heap is: private, and of small pages. fork would not copy the tables of shared ones, and few of huge ones.
    memory = mmap.mmap(-1, mebibytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory[:: mmap.PAGESIZE] = b"\1" * (len(memory) // mmap.PAGESIZE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >= mebibytes << 10, "not resident"
    return memory


def main() -> None:
    """Answer one request after the other, until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--touch", type=int, default=0, metavar="MIB")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: that is the comparison
    memory = _touch(options.touch) if options.touch else None
    never = threading.Event()
    for _ in range(options.threads - 1):
        threading.Thread(target=never.wait, daemon=True).start()
    prepared: dict[str, Perform] = {}
    for line in sys.stdin:
        name, count = line.split()
        if name not in prepared:
            prepared[name] = globals()[name]()
        perform = prepared[name]
        start = time.perf_counter_ns()
        for _ in range(int(count)):
            perform()
        print((time.perf_counter_ns() - start) // int(count), flush=True)
    del memory
    sys.stdout.flush()
    for each in multiprocessing.active_children():  # those of concurrent.futures would wait for ever
        each.kill()
    os._exit(0)  # handles and children end with the process, without a word of what was left open


if __name__ == "__main__":
    main()
