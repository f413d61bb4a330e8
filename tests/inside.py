"""What test bodies that run in a process of their own share; the runner of conftest puts it beside them."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing as closing
from contextlib import contextmanager
from pathlib import Path
from typing import Any as Any  # for the annotations of bodies

TYPES = ("user", "ipc", "uts", "net", "pid", "mnt", "cgroup", "time")


def ns(type: str, task: str | int = "thread-self") -> str:
    """``net:[4026531840]`` of the calling thread, as a user would look it up."""
    return os.readlink(f"/proc/{task}/ns/{type}")


def all_ns(task: str | int = "thread-self") -> dict[str, str]:
    names = [*TYPES, "pid_for_children", "time_for_children"]
    return {name: ns(name, task) for name in names}


#: The C library reads it when a thread gives its heap back, at its very end, which Thread.join() may not wait for.
HEAP_POLICY = "/proc/sys/vm/overcommit_memory"


def fds() -> dict[int, str]:
    """The fd table, without the fd that lists it, and that of a thread which is on its way out."""
    table = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            where = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if where != HEAP_POLICY:
            table[int(name)] = where
    return table


def children() -> list[int]:
    """Every child there is, dead ones too."""
    found: list[int] = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # that thread has just ended
    return found


def status(field: str, pid: int | str = "thread-self") -> str:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith(field + ":"))


def dumpable() -> int:
    return int(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))


def everything() -> dict[str, object]:
    """All of this process that a failing call could have changed."""
    return {
        "fds": fds(),
        "children": children(),
        "namespaces": all_ns(),
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "SigBlk": status("SigBlk"),
        "SigIgn": status("SigIgn"),
        "SigCgt": status("SigCgt"),
        "dumpable": dumpable(),
        "cwd": os.getcwd(),
        "root": os.readlink("/proc/thread-self/root"),
        "umask": status("Umask"),
        "threads": len(os.listdir("/proc/self/task")),
        "ids": (os.getresuid(), os.getresgid(), os.getgroups()),
        "caps": [status(f"Cap{kind}") for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")],
        "mounts": Path("/proc/self/mountinfo").read_text(encoding="utf-8"),
    }


@contextmanager
def unshared(*options: str) -> Iterator[subprocess.Popen[str]]:
    """A process in new namespaces made by unshare(1), to be entered; ready when it has said so, dead afterwards.

    With ``--pid`` add ``--fork``; then the child of the process is inside, see :func:`only_child`.
    """
    script = "echo ready; exec sleep 1000"
    argv = ["unshare", *options, "--kill-child" if "--fork" in options else "--", "sh", "-c", script]
    with ready(*argv) as process:
        yield process


def only_child(pid: int) -> int:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        (child,) = map(int, file.read().split())
    return child


def drop_all_capabilities(*, but: int = 0) -> None:
    """Of the calling thread, by the raw system call: capset(2) of version 3; but this one of the first 32 stays."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(but and 1 << but, but and 1 << but)
    number = {"x86_64": 126, "aarch64": 91}[os.uname().machine]
    assert ctypes.CDLL(None).syscall(number, header, data) == 0


def answer_enosys(*calls: tuple[str, int | None], errnum: int = 38) -> None:
    """Install a seccomp filter, for good: the calls named answer *errnum* (ENOSYS), as an older kernel would.

    A call is its name and, for ioctl and setns, the request or the types (the second argument).
    """
    numbers = {"clone3": 435, "close_range": 436, "pidfd_open": 434, "openat2": 437, "pidfd_getfd": 438}
    numbers |= {"statmount": 457, "listmount": 458, "listns": 470, "open_tree": 428, "move_mount": 429}
    numbers |= {
        "x86_64": {"ioctl": 16, "setns": 308, "statx": 332, "open_by_handle_at": 304}
        | {"mount": 165, "umount2": 166, "flock": 73, "unlinkat": 263},
        "aarch64": {"ioctl": 29, "setns": 268, "statx": 291, "open_by_handle_at": 265}
        | {"mount": 40, "umount2": 39, "flock": 32, "unlinkat": 35},
    }[os.uname().machine]
    program: list[tuple[int, int, int, int]] = []
    for name, request in calls:
        program.append((0x20, 0, 0, 0))  # load the number of the call
        if request is None:
            program += [(0x15, 0, 1, numbers[name]), (0x06, 0, 0, 0x00050000 | errnum)]
        else:
            program += [
                (0x15, 0, 3, numbers[name]),
                (0x20, 0, 0, 24),  # low half of the second argument
                (0x15, 0, 1, request),
                (0x06, 0, 0, 0x00050000 | errnum),
            ]
    program.append((0x06, 0, 0, 0x7FFF0000))  # allow

    class Filter(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))

    class Prog(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter)))

    filters = (Filter * len(program))(*(Filter(*row) for row in program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.byref(Prog(len(program), filters)), 0, 0) == 0, ctypes.get_errno()


#: An argv that prints something about itself, for payloads: ``[*PYTHON, "print(1)"]``.
PYTHON = (sys.executable, "-I", "-S", "-c")


#: Options of unshare(1) for a child in new namespaces of all eight types, as root or as a user.
NEW_OF_EACH = "--user --map-root-user --ipc --uts --net --pid --fork --mount --cgroup --time".split()

#: The requests PIDFD_GET_*_NAMESPACE, unknown to Linux before 6.11: ``answer_enosys(*PIDFD_GET, errnum=25)``.
PIDFD_GET = [("ioctl", 0xFF00 + number) for number in range(1, 11)]


@contextmanager
def ready(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """A process that first says ``ready``, and is killed afterwards."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def failure(call: Callable[[], object]) -> dict[str, object]:
    """How *call* fails, as its caller sees it; empty if it does not."""
    try:
        call()
    except Exception as error:
        facts = {name: getattr(error, name, None) for name in ("errno", "step", "path", "hint")}
        return {**facts, "classes": [each.__name__ for each in type(error).__mro__], "text": str(error)}
    return {}


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """The class of the exception that *call* ends with, and its text; empty if it does not."""
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def same_id(path: str) -> list[int]:
    """Device and inode of what is at *path*, as ``list(handle.id)``."""
    found = os.stat(path)
    return [found.st_dev, found.st_ino]


def next_pid(pid: int) -> None:
    """Let the next process of this pid namespace get this pid."""
    with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:
        file.write(str(pid - 1))


def end_of(thread: threading.Thread) -> None:
    """Join it, and wait until the kernel has let it go as well."""
    thread.join()
    while os.path.exists(f"/proc/self/task/{thread.native_id}"):
        os.sched_yield()


class CtrlC:
    """Ctrl-C at one moment: KeyboardInterrupt where CPython looks for signals in nsapi for the *moment*-th time.

    It looks where a Python function begins and after a call of a C function. Not counted are ``__del__`` and what it
    calls, where CPython swallows the exception, and where *skip* says so of the code and the event. Moment 0 never comes.
    """

    def __init__(
        self, moment: int, skip: Callable[[Any, str], bool] = lambda code, event: False, also: str = ""
    ) -> None:
        import nsapi

        self.moment, self.skip = moment, skip
        self.files = (os.path.dirname(nsapi.__file__), also) if also else (os.path.dirname(nsapi.__file__),)
        self.count, self.place, self.raised = 0, "", False

    @property
    def came(self) -> bool:
        return self.count >= self.moment

    def _is_in_del(self, frame: Any) -> bool:
        while frame is not None and frame.f_code.co_filename.startswith(self.files):
            if frame.f_code.co_name == "__del__":
                return True
            frame = frame.f_back
        return False

    def _look(self, frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event not in ("call", "c_return") or not code.co_filename.startswith(self.files):
            return
        if self.skip(code, event) or self._is_in_del(frame):
            return
        self.count += 1
        if self.count == self.moment:
            self.place = f"{code.co_name}, line {frame.f_lineno}, {event} {getattr(argument, '__name__', '')}"
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        sys.setprofile(self._look)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        """Out of the block comes no KeyboardInterrupt, but is noted."""
        sys.setprofile(None)
        self.raised = kind is KeyboardInterrupt
        return self.raised


def at_every_moment(attempt: Callable[[CtrlC], list[Any]], **keywords: Any) -> tuple[int, list[Any]]:
    """How many moments there are for Ctrl-C in *attempt*, and, of each, where it came and what *attempt* says is wrong.

    The first attempt is without: it imports what is imported late.
    """
    attempt(CtrlC(0, **keywords))
    found: list[Any] = []
    for moment in range(1, 100000):
        ctrl_c = CtrlC(moment, **keywords)
        wrong = attempt(ctrl_c)
        if wrong:
            found.append([ctrl_c.place, *wrong])
        if not ctrl_c.came:
            break
    return moment, found


@contextmanager
def waiting_for_all(thief: str) -> Iterator[None]:
    """Somebody in this process waits for every child: a "thread" in a loop, or the "handler" of SIGCHLD."""

    def steal(*_: object, flags: int = os.WNOHANG) -> None:
        try:
            while os.waitpid(-1, flags)[0]:
                pass
        except ChildProcessError:
            os.sched_yield()

    def steal_on() -> None:
        while not stop.is_set():
            steal(flags=0)

    stop, thread = threading.Event(), threading.Thread(target=steal_on)
    if thief == "thread":
        thread.start()
    else:
        signal.signal(signal.SIGCHLD, steal)
    try:
        yield
    finally:
        stop.set()
        if thief == "thread":
            end_of(thread)


def living(init: int) -> list[str]:
    """Who lives in the pid namespace of *init*, its pid 1, beside it, by the /proc that is mounted there."""
    found = []
    for stat in Path(f"/proc/{init}/root/proc").glob("[0-9]*/stat"):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] not in ("Z", "X") and stat.parent.name != "1":
                found.append(stat.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found


def first_of(inode: int) -> list[int]:
    """The pid 1 of the pid namespace with this inode, as /proc shows it; empty if it has ended."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            same = os.stat(f"/proc/{name}/ns/pid").st_ino == inode
            if same and status("NSpid", name).split()[-1] == "1" and status("State", name)[0] not in "ZX":
                found.append(int(name))
        except OSError:
            continue
    return found


def ends(pidfd: int, seconds: int = 20) -> bool:
    """Whether the process of this pidfd has ended, or does so now."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def own_inits() -> list[int]:
    """The processes called nsapi-init in this mount namespace that live on; those that are ending have ended then."""
    deadline = time.monotonic() + 20
    while True:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if (
                    status("Name", pid) == "nsapi-init"
                    and ns("mnt", pid) == ns("mnt")
                    and status("State", pid)[0] not in "ZX"
                ):
                    found.append(int(pid))
            except OSError:
                continue  # it has just ended
        if not found or time.monotonic() > deadline:
            return found


def mounted() -> list[str]:
    """All mounts that this mount namespace has, without their numbers."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return sorted(" ".join(line.split()[3:5]) for line in lines)


# ---- functions to be called in other interpreters ----


class Unpicklable(Exception):
    """An exception that holds what cannot be pickled, or one that is loaded by too few arguments."""

    def __init__(self, text: str, loads: bool) -> None:
        super().__init__(text)
        self.lock = None if loads else threading.Lock()


def raise_unpicklable(loads: bool) -> None:
    raise Unpicklable("worse", loads)


class Odd(Exception):
    """An exception that becomes something else on the way."""

    def __reduce__(self) -> tuple[Any, ...]:
        return str, ("no exception",)


def raise_odd() -> None:
    raise Odd("c")


def sockets_of(count: int) -> list[Any]:
    import socket

    return [socket.socket() for _ in range(count)]


def raise_it(error: BaseException) -> None:
    raise error


def write_to(sock: Any, data: bytes) -> None:
    sock.sendall(data)


def open_own(type: str) -> Any:
    import nsapi

    return nsapi.current(type)


def id_of(handle: Any) -> list[int]:
    return list(handle.id)


#: What a Config does to a process, as far as a file shows it.
SHOWN = [
    *(f"/proc/self/{name}" for name in ("status", "limits", "oom_score_adj", "timens_offsets", "setgroups", "cgroup")),
    *(f"/proc/self/{name}" for name in ("uid_map", "gid_map", "mountinfo")),
    *(f"/proc/sys/{name}" for name in ("kernel/hostname", "kernel/domainname", "net/ipv4/ip_forward")),
]


def shown(said: str | None = None) -> list[str]:
    """What of SHOWN is the same in all processes that one Config starts, here or as ``grep -H "" FILE …`` has said it."""
    if said is None:
        files = {name: Path(name).read_text(encoding="ascii").splitlines() for name in SHOWN}
        said = "\n".join(f"{name}:{line}" for name, lines in files.items() for line in lines)
    found = []
    for line in said.splitlines():
        name, text = line.split(":", 1)
        if name.endswith("mountinfo"):
            text = " ".join([text.split()[4], *(each.split(":")[0] for each in text.split(" - ")[0].split()[6:])])
        if not name.endswith("status") or text.startswith(("Uid", "Gid", "Groups", "Cap", "NoNewPrivs")):
            found.append(f"{name}:{text}")
    return found


def death_signal() -> int:
    """PR_GET_PDEATHSIG."""
    found = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(found), 0, 0, 0)
    return found.value


def lo_is_up() -> bool:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.connect_ex(("127.0.0.1", 9)) == 0


def all_shown() -> list[Any]:
    return [*shown(), death_signal(), lo_is_up()]


def import_late(name: str) -> str:
    __import__(name)
    return name


def fork_and_die(sock: Any) -> None:
    """Die, while a child holds all open files, until the other end of *sock* is closed."""
    if os.fork():
        os._exit(7)
    sock.recv(1)
    os._exit(0)


@contextmanager
def without_python(folder: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a mount namespace, in a net namespace too, where nothing is in the folders that Python is in."""
    fifo = os.path.join(folder, "fifo")
    os.mkfifo(fifo)
    hidden = [name for name in ("/opt", "/var", "/root", "/home", "/usr") if os.path.isdir(name)]
    mounts = " && ".join(f"mount -t tmpfs none {name}" for name in hidden)
    script = f"exec 3<>{fifo} && {mounts} && echo ready && read line <&3"
    with ready("unshare", "--mount", "--net", "sh", "-c", script) as process:
        yield process


def whereabouts(_: object = None) -> tuple[int, str]:
    """The process that this is called in, and its UTS namespace."""
    return os.getpid(), ns("uts")


def meet(place: str, number: int) -> tuple[int, str]:
    """`whereabouts`, told when ``number`` processes have come to the directory ``place``: so they run at once."""
    Path(place, str(os.getpid())).touch()
    while len(os.listdir(place)) < number:
        os.sched_yield()
    return whereabouts()


def run_a_thread() -> None:
    """So that the C library has set the handlers that it has for threads, and the thread is gone."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    changed({})


def changed(before: dict[str, object]) -> list[str]:
    """What of everything() is not as before; threads that have been joined take a moment until the kernel has none."""
    while len(os.listdir("/proc/self/task")) > threading.active_count():
        os.sched_yield()
    return [name for name, value in everything().items() if value != before.get(name)]
