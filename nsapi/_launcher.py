# SPDX-License-Identifier: MIT
"""The launcher: its file in sealed memory, what it is told, what it answers, and that nothing of it stays behind."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import select
import signal
import socket
import struct
from errno import EACCES, ECANCELED, EFBIG, EINVAL, EMFILE, ENOSYS, EPERM, EPROTO
from typing import Any, NamedTuple

from nsapi import _native, _plan
from nsapi._errors import NamespaceError, Unsupported, hint
from nsapi._native import Exec, Program, State
from nsapi._types import NamespaceType, names_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nsapi._config import Config
    from nsapi._mapping import Mapping
    from nsapi._native import Step
    from nsapi._world import Join, Together

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_EXEC = 0x10  # Linux 6.3; before, every memfd can be executed
_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_launch")

# ---- its file ----

_known: tuple[int, tuple[int, int]] | None = None


def executable(*, joins: bool) -> tuple[int, bool]:
    """Find the fd to execute the launcher by, and whether it is the caller's to close.

    In memory, sealed, once per process: what is executed inside a stranger's namespaces can be opened there, as
    /proc/PID/exe, and must not be a file that others execute too (CVE-2019-5736).
    """
    global _known
    known = _known
    if known is not None and _is_still(*known):
        return known[0], False
    try:
        copy = _sealed_copy()
    except OSError as error:
        if error.errno not in (EACCES, EPERM):
            raise _unprepared(error, "copy the launcher to memory", _FILE) from None
        if joins:
            why = "files in memory cannot be executed (vm.memfd_noexec is 2), and no other is safe among strangers"
            raise NamespaceError(EACCES, None, None, step="copy the launcher to memory", hint=why) from None
        file = _native.new_cell()
        _native.fill(file, os.open, _FILE, os.O_RDONLY | os.O_CLOEXEC)
        return _native.take(file), True
    found = os.fstat(copy[0])
    identity = found.st_dev, found.st_ino
    # Without a lock, which a fork could leave locked for good: of two threads at once, the second uses what the first made.
    if _known is known or _known is None:
        _known = copy[0], identity
        copy[0] = -1
    return _known[0], False


def _is_still(fd: int, identity: tuple[int, int]) -> bool:
    """Tell whether it is open, the same, and sealed: a program that closes all its fds does not know of ours."""
    try:
        found = os.fstat(fd)
        return (found.st_dev, found.st_ino) == identity and fcntl.fcntl(fd, fcntl.F_GET_SEALS) == _SEALS
    except OSError:
        return False


def _sealed_copy() -> Any:
    with open(_FILE, "rb") as file:
        content = file.read()
    return sealed("nsapi", content, _MFD_EXEC)


def sealed(name: str, content: bytes, flags: int = 0) -> Any:
    """Put *content* in memory where nobody can change it any more: the fd, which is not 0, 1 or 2, in its cell."""
    flags |= os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    made = _native.new_cell()
    try:
        _native.fill(made, os.memfd_create, name, flags)
    except OSError as error:
        if error.errno != EINVAL or not flags & _MFD_EXEC:
            raise
        _native.fill(made, os.memfd_create, name, flags & ~_MFD_EXEC)
    if made[0] <= 2:
        low, made = made, _native.new_cell()
        _native.fill(made, fcntl.fcntl, low[0], fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(made[0], view) :]
        fcntl.fcntl(made[0], fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        _native.close_cell(made)  # who keeps the error keeps its traceback, and what that has open
        raise
    return made


# ---- its cargo: what _launch.c reads ----

_MAGIC, _MAX_JOINS = 0x6E734C31, 8
_DENY_SETGROUPS, _WITH_REAPER, _REAPER_DUMPABLE, _ORPHAN = 1, 2, 4, 8
_SLOTS = _native.constant("NSAPI_SLOTS")
_STEP = struct.Struct("=iii4xQQQII")
_HEADER = struct.Struct(f"=IIIII{_SLOTS}i10IiIiII{'IiI' * _MAX_JOINS}")


class Mission(NamedTuple):
    """What is the same each time that one Config is launched in the same circumstances."""

    program: Program
    plan: _plan.Plan
    message: bytes
    flags: int
    steps: bytes
    strings: bytes


def mission(
    plan: _plan.Plan, config: Config, mapping: Mapping, message: bytes, *, joins: bool, orphan: bool
) -> Mission:
    """Write down all of the cargo that does not change."""
    steps = plan.between + plan.inside
    at = _HEADER.size + len(steps) * _STEP.size
    flags = (_DENY_SETGROUPS if mapping.deny_setgroups else 0) | (_ORPHAN if orphan else 0)
    if config.init:
        flags |= _WITH_REAPER | (0 if joins else _REAPER_DUMPABLE)
    return Mission(Program(plan.steps), plan, message, flags, *_pack(steps, at))


def _pack(steps: Sequence[Step], at: int) -> tuple[bytes, bytes]:
    """Write steps as the launcher reads them (cargo_step), and the strings they point to, which will stand at *at*."""
    packed, strings = bytearray(), bytearray()
    for step in steps:
        offsets = []
        for text in (step.path, step.data):
            offsets.append(0 if text is None else at + len(strings))
            strings += b"" if text is None else text + b"\0"
        number = _native.constant(f"NSAPI_{step.op.upper()}")
        packed += _STEP.pack(number, step.fd, step.slot, step.flags, step.value, step.length, *offsets)
    return bytes(packed), bytes(strings)


def cargo(
    mission: Mission, program: Exec, lent: Sequence[int], joins: Sequence[Join], together: Together, death: int
) -> bytes:
    """Pack what this launch is to do."""
    plan, size = mission.plan, _STEP.size
    between, inside = len(plan.between), len(plan.inside)
    body = bytearray(mission.strings)
    start = _HEADER.size + (between + inside) * size
    ranges = [_HEADER.size, between, _HEADER.size + between * size, inside]
    for strings in program.strings:
        ranges += [start + len(body), strings.count]
        body += strings.block
    joined: list[int] = []
    for join in joins:
        joined += [join.type.flag, join.fd, start + len(body)]
        body += os.fsencode(join.words) + b"\0"
    joined += [0, -1, 0] * (_MAX_JOINS - len(joins))
    body += b"\0"
    mask = sum(1 << number - 1 for number in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    # The cgroup was the vfork child's; the caller's own fd of it may be one that the program is to have.
    slots = [fd if slot in (_plan.PROC, _plan.PARENT) else -1 for slot, fd in enumerate(lent)]
    slots += [-1] * (_SLOTS - len(slots))
    header = _HEADER.pack(
        _MAGIC, start + len(body), mission.flags, mask & 0xFFFFFFFF, mask >> 32, *slots, *ranges,
        together.fd, together.types, lent[_plan.PARENT], death, len(joins), *joined,
    )  # fmt: skip
    return header + mission.steps + bytes(body)


# ---- one launch ----

_PATIENCE = 2000  # milliseconds; nothing that stage 0 waits for outlives a caller that hangs up


#: Each launch has a number, and all that it starts is called so until it is the program: at most 15 characters.
_launches = itertools.count()


class Launched(NamedTuple):
    """The program, which runs, and the reaper beside it, if there is one. The pidfds are given away."""

    pid: int
    pidfd: int
    reaper: int = -1


def launch(
    mission: Mission,
    program: Exec,
    lent: Sequence[int],
    joins: Sequence[Join],
    together: Together,
    death: int,
    spawn: Callable[[Program, State], None],
    given: list[Launched],
) -> None:
    """Start the launcher and hear how it goes. On any failure all that it has started is ended and reaped.

    What runs at last is appended to *given*, and is the caller's from then on, even if KeyboardInterrupt comes next.
    """
    file, owned = executable(joins=bool(joins))
    fds = [file] if owned else []
    name = f"nsapi:{next(_launches):x}"
    talk = theirs = data = None
    state = State()
    try:
        ours, theirs = socket.socketpair()
        theirs.setblocking(True)  # whatever socket.setdefaulttimeout() says, which makes the file itself non-blocking
        talk = _Talk(ours, name, given)
        fds.extend(itertools.chain.from_iterable(map(os.pipe2, (os.O_CLOEXEC,))))  # one call: see _native.fill
        talk.end_of_log[0] = fds[-2]
        del fds[-2]
        ours.sendall(mission.message)
        data = sealed("nsapi", cargo(mission, program, lent, joins, together, death))
        control = [data[0], *(_above_stdio(fd, fds) for fd in (theirs.fileno(), fds[-1]))]
        slots = [*lent[: _plan.JOINS], *(join.fd for join in joins)]
        slots += [-1] * (_plan.TOGETHER - len(slots))
        arguments = _native.Strings([name.encode(), str(control[0]).encode()])
        variables = zip(("INITPIPE", "LOGPIPE", "LOGLEVEL"), (*control[1:], 1), strict=True)
        environment = _native.Strings([f"_LIBCONTAINER_{name}={value}".encode() for name, value in variables])
        itself = Exec(_FILE, _native.Strings([]), arguments, environment)
        state.lend([*slots, together.fd, file, *control], itself)
        spawn(mission.program, state)
        talk.started = state.child[1]
        theirs.close()
        close_all(fds)
        _native.close_cell(data)
        talk.hear(mission, program, joins)
    except BaseException as error:
        if talk is not None:
            if talk.started == _UNBORN:
                talk.started = state.child[1]  # KeyboardInterrupt between its birth and these lines
            if theirs is not None:
                theirs.close()
            close_all(fds)
            talk.end_all()
        if isinstance(error, OSError) and not isinstance(error, NamespaceError):
            raise _unprepared(error, "prepare the launcher") from None
        raise
    finally:
        if theirs is not None:
            theirs.close()
        if data is not None:
            _native.close_cell(data)
        close_all(fds)
        if talk is not None:
            talk.close()


def close_all(fds: list[int]) -> None:
    """Close each once, whenever Ctrl-C comes: after a call, so there is none between the next two."""
    while fds:
        fd = fds[-1]
        del fds[-1]
        os.close(fd)


def _above_stdio(fd: int, fds: list[int]) -> int:
    if fd > 2:
        return fd
    fds.extend(map(fcntl.fcntl, (fd,), (fcntl.F_DUPFD_CLOEXEC,), (3,)))
    return fds[-1]


_UNBORN, _REAPED = -1, -2  # in place of a pidfd


class _Talk:
    """What the stages say, and the pidfds of all that have been born. Owns its fds."""

    def __init__(self, ours: socket.socket, name: str, given: list[Launched]) -> None:
        self.ours, self.name, self.given = ours, name, given
        self.end_of_log = _native.new_cell()
        self.started = _UNBORN
        self.pidfds: dict[str, tuple[int, int]] = {}
        self.said = bytearray()
        self.messages: list[tuple[Any, ...]] = []  # at most one, until the pidfd in it is known

    @property
    def log(self) -> int:
        return int(self.end_of_log[0])

    def hear(self, mission: Mission, program: Exec, joins: Sequence[Join]) -> None:
        """Wait until the program is executed, or until all have ended."""
        self._listen()
        self._take_pidfds()
        fatal = [each for each in self._lines() if each.get("level") == "fatal"]
        if fatal:
            raise _failure(fatal[0], mission, program, joins)
        if any(pidfd < 0 for _, pidfd in self.pidfds.values()):
            raise NamespaceError(EMFILE, None, None, step="receive a pidfd", hint=_LIMITS[EMFILE])
        if "stage2_pid" not in self.pidfds:
            why = "it was killed, or its file is damaged"
            if (os.getuid(), os.getgid()) != (os.geteuid(), os.getegid()):
                why = "it trusts no caller whose real and effective ids differ: make them the same first"
            raise NamespaceError(EPROTO, None, None, step="start the launcher", hint=why)
        self._reap_started()
        if "stage1_pid" in self.pidfds:
            _wait(*self.pidfds["stage1_pid"])
            pidfd = self.pidfds["stage1_pid"][1]
            del self.pidfds["stage1_pid"]
            os.close(pidfd)
        _, reaper = self.pidfds.get("reaper_pid", (-1, -1))
        self.given.append(Launched(*self.pidfds["stage2_pid"], reaper))

    def _listen(self) -> None:
        while more := os.read(self.log, 65536):
            self.said += more

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in bytes(self.said).decode("utf-8", "replace").splitlines() if line]

    def _take_pidfds(self) -> bool:
        """Take those that are there, and tell whether more can come.

        Each is in a message of its own, which the kernel does not join with another.
        """
        room = socket.CMSG_SPACE(4)
        while True:
            try:
                if not self.messages:  # else Ctrl-C came next
                    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                    self.messages.extend(map(self.ours.recvmsg, (256,), (room,), (flags,)))
            except BlockingIOError:
                return True
            except ConnectionResetError:
                return False
            data, ancillary, _, _ = self.messages[0]
            if not data:
                return False
            ((key, pid),) = json.loads(data).items()
            # None came where this process can have no more open files; who was born must still be known.
            self.pidfds[key] = pid, struct.unpack("=i", ancillary[0][2][:4])[0] if ancillary else -1
            del self.messages[0]

    def _find_unreported(self) -> None:
        """Who was born, and its maker killed before that could report it, is a child of this thread; it has our name."""
        known = {pid for pid, _ in self.pidfds.values()}
        try:
            if os.readlink("/proc/self") != str(os.getpid()):
                return  # the numbers in there are those of another pid namespace
            with open("/proc/thread-self/children", "rb") as file:
                born = set(map(int, file.read().split())) - known
        except OSError:
            return
        for pid in born:
            pidfd = _native.new_cell()
            try:
                # Before it is known to be ours: nobody can have its number then.
                _native.fill(pidfd, os.pidfd_open, pid)
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    ours = file.read() == f"{self.name}\n"
            except OSError:
                ours = False
            if ours:
                self.pidfds[str(pid)] = pid, pidfd[0]
                pidfd[0] = -1
            else:
                _native.close_cell(pidfd)

    # Waiting twice does no harm, closing twice would: Ctrl-C comes after a call, none is between these and their last.

    def _reap_started(self) -> None:
        _wait(0, self.started)
        pidfd, self.started = self.started, _REAPED
        os.close(pidfd)

    def _kill_known(self) -> None:
        for pid, pidfd in self.pidfds.values():
            if pidfd >= 0:
                _kill(pidfd)
            elif _is_child(pid):
                os.kill(pid, signal.SIGKILL)

    def end_all(self) -> None:
        """End and reap all; what Ctrl-C says once more must wait until that is done."""
        hung_up = False
        while not self.given:
            try:
                if not hung_up and self.started >= 0 <= self.log:
                    # Not by a kill: stage 0 knows whom it has started, and we may not have been told yet.
                    self.ours.shutdown(socket.SHUT_WR)
                    hung_up = True
                if self.started >= 0:
                    if self.log >= 0:
                        self._kill_until_silent()
                        self.close()  # nobody has the other ends; there may be no more fds to look with
                    self._find_unreported()
                self._kill_known()
                # Pid 1 last: the kernel lets it go only after all that were in its namespace have been reaped.
                for key in sorted(self.pidfds, key="reaper_pid".__eq__):
                    pid, pidfd = self.pidfds[key]
                    _wait(pid, pidfd)
                    del self.pidfds[key]
                    if pidfd >= 0:
                        os.close(pidfd)
                if self.started >= 0:
                    self._reap_started()
                return
            except KeyboardInterrupt:
                continue

    def _kill_until_silent(self) -> None:
        """Listen until nobody is left to say anything. Whom a stranger inside has stopped says nothing, and stays."""
        poll = select.poll()
        poll.register(self.log, select.POLLIN)
        poll.register(self.ours, select.POLLIN)
        while True:
            self._kill_known()
            found = dict(poll.poll(_PATIENCE))
            if not found:
                _kill(self.started)  # it does not hear that we have hung up: frozen, by who owns its cgroup
            if self.ours.fileno() in found and not self._take_pidfds():
                poll.unregister(self.ours)
            if self.log in found:
                more = os.read(self.log, 65536)
                self.said += more
                if not more:
                    self._take_pidfds()
                    return

    def close(self) -> None:
        self.ours.close()
        _native.close_cell(self.end_of_log)


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _is_child(pid: int) -> bool:
    """Tell whether it is our child still, dead or alive, so that its number cannot be another's."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _wait(pid: int, pidfd: int) -> None:
    """Wait for our child, by its pidfd if there is one. Somebody else may have waited before."""
    try:
        os.waitid(*((os.P_PIDFD, pidfd) if pidfd >= 0 else (os.P_PID, pid)), os.WEXITED)
    except ChildProcessError:
        pass


# ---- what went wrong ----

_LIMITS = {
    EMFILE: "RLIMIT_NOFILE: this process can have no more open files",
    EFBIG: "RLIMIT_FSIZE is less than it needs",
}


def _unprepared(error: OSError, step: str, filename: str | None = None) -> NamespaceError:
    errnum = error.errno or EINVAL
    return (Unsupported if errnum == ENOSYS else NamespaceError)(
        errnum, None, filename, step=step, hint=_LIMITS.get(errnum)
    )


_PREFIX = re.compile(r"nsexec(-\d)?\[\d+\]: ")
_JOIN = re.compile(r"(?:join|ask for the type of) (?:the )?(\w+)(?: namespace)? ")


def _failure(fatal: dict[str, Any], mission: Mission, program: Exec, joins: Sequence[Join]) -> NamespaceError:
    plan, errnum = mission.plan, int(fatal.get("errno", 0))
    if "step" in fatal:
        return _native.failure(plan.all, len(plan.steps) + fatal["step"], errnum, program.name)
    text = _PREFIX.sub("", fatal.get("msg", ""), count=1)
    if errnum:
        text = text.removesuffix(f": {os.strerror(errnum)}")
    types: tuple[NamespaceType, ...] = ()
    op, filename = text, None
    if found := _JOIN.match(text):
        of = [each for each in joins if each.type.proc_name == found[1]]
        types, filename = tuple(each.type for each in of), of[0].words if of else None
        op, text = "setns", f"setns {names_of(types)} of {filename}"
    elif text.startswith("join 0x"):
        flags = int(text[5:], 16)
        of = [each for each in joins if each.type.flag & flags]
        types, filename = tuple(each.type for each in of), of[0].words if of else None
        op, text = "setns", f"setns {names_of(types)} of {filename}"
    elif text == "unshare the user namespace":
        op, types, text = "unshare", (NamespaceType.USER,), "unshare user"
    elif text.startswith("unshare 0x"):
        flags = int(text[8:], 16)
        types = tuple(each for each in NamespaceType if each.flag & flags)
        op, text = "unshare", f"unshare {names_of(types)}"
    elif text.startswith("start "):
        op = "clone"
    elif text.startswith("write "):
        name = text.split()[-1]
        op, text = "write", f"write {name}"
        types = (NamespaceType.USER,) if name in ("uid_map", "gid_map", "setgroups") else ()
    why = hint(errnum, op, text, tuple(each.proc_name for each in types))
    if not errnum:
        errnum = ECANCELED if text.endswith("has died") else EPERM
        if "exited with status" in text:
            why = "/etc/subuid or /etc/subgid does not grant these ids to this user; its own words are on stderr"
    return (Unsupported if errnum == ENOSYS else NamespaceError)(
        errnum, None, filename, step=text, type=types[0] if len(types) == 1 else None, hint=why
    )
