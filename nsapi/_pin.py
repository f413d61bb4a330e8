# SPDX-License-Identifier: MIT
"""create, unpin, named: namespaces that no process has to stay in, and the files that keep them."""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
from _thread import allocate_lock
from errno import EACCES, ELOOP, ENOENT, EPERM, ESRCH
from functools import partial
from typing import Any

from nsapi import _bind, _native, _switch
from nsapi._config import Config
from nsapi._errors import NamespaceError, refused, unsupported
from nsapi._handle import NamespaceHandle, children_are_elsewhere, duplicate_fd, own
from nsapi._process import Orphan, Popen
from nsapi._target import NETNS_DIR, is_ready
from nsapi._target import open as open_namespace
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: What of a Config is about the namespace itself, and not about a program.
_FIELDS: dict[NamespaceType, tuple[str, ...]] = {
    NamespaceType.USER: ("maps", "uid_mappings", "gid_mappings", "setgroups"),
    NamespaceType.IPC: ("user", "sysctl"),
    NamespaceType.UTS: ("user", "hostname", "domainname", "sysctl"),
    NamespaceType.NET: ("user", "loopback", "sysctl"),
    NamespaceType.PID: ("user", "cgroup_path"),
    NamespaceType.MNT: ("user", "propagation", "mounts", "root"),
    NamespaceType.CGROUP: ("user", "cgroup_path"),
    NamespaceType.TIME: ("user", "time_offsets"),
}


def create(type: NamespaceType | str, *, name: str | None = None, path: Any = None, **fields: Any) -> NamespaceHandle:
    """Make a new namespace and give a handle on it. No process is left in it, and the caller's place is not changed.

    It lives as long as the handle; with *name* or *path* as long as that file, until :func:`unpin`. *name* is
    ``/run/netns/NAME`` for net, as ip-netns(8) makes it, and ``/run/nsapi/TYPE/NAME`` for the others; where ``/run`` is
    not the caller's, below ``$XDG_RUNTIME_DIR/nsapi``. *path* is a str, bytes or os.PathLike.

    A pid namespace lives only as long as its pid 1. So one is left in it, ``nsapi-init``, which is no child of the caller
    and reaps what is orphaned: closing the handle ends it, or the end of this process does; with *name* or *path* it stays
    until :func:`unpin`.

    *fields* are those of ``Config.new`` that are about the namespace: for user ``maps``, ``uid_mappings``,
    ``gid_mappings``, ``setgroups``; net ``loopback``, ``sysctl``; uts ``hostname``, ``domainname``, ``sysctl``; ipc
    ``sysctl``; time ``time_offsets``; mnt ``propagation``; cgroup and pid ``cgroup_path``, where it is made. All but user
    take ``user=``, a user namespace that is to own it: with ``user=nsapi.create("user")`` no privilege is needed.

    Raises ValueError and TypeError for names and fields that do not fit; NamespaceError with the step that failed:
    ``EEXIST`` where there is such a file, ``EPERM`` without CAP_SYS_ADMIN, for *name* and *path* in the user namespace
    that owns the mount namespace. Nothing is left then: no process, file or mount.
    """
    _native.require()
    type = NamespaceType.parse(type)
    place = _place(type, name, path)
    for each in fields:
        if each not in _FIELDS[type]:
            known = ", ".join(_FIELDS[type])
            raise TypeError(f"{each}: is no field of a {type.proc_name} namespace; {known} are")
    config = Config.new(type, **fields)
    if place is None:
        return _make(type, config)
    try:
        return _make_with_file(type, config, place)
    except NamespaceError as error:
        if error.errno != ELOOP or type is not NamespaceType.MNT:
            raise
        return _make_younger(config, place, error)


def _make(type: NamespaceType, config: Config) -> NamespaceHandle:
    try:
        return _create_pid(config) if type is NamespaceType.PID else _create(type, config)
    except OSError as error:
        if isinstance(error, NamespaceError):
            raise
        raise _bind.failed(error, step="prepare the process that makes it", words=error.filename) from None


def _make_with_file(type: NamespaceType, config: Config, place: _bind.Place) -> NamespaceHandle:
    made = _make(type, config)
    try:
        made._keep(place)
        return made
    except BaseException:
        _take_back(made, place)
        raise


def _make_younger(config: Config, place: _bind.Place, error: NamespaceError) -> NamespaceHandle:
    """Make a mount namespace whose number is greater than that of the caller's own, as its file needs to be mounted there.

    Linux 6.18 tells by the number which is the younger, and each CPU gives out numbers from a stock of its own.
    """
    cpus = os.sched_getaffinity(0)
    try:
        for cpu in sorted(cpus):
            os.sched_setaffinity(0, {cpu})
            try:
                return _make_with_file(NamespaceType.MNT, config, place)
            except NamespaceError as again:
                if again.errno != ELOOP:
                    raise
        raise error
    finally:
        os.sched_setaffinity(0, cpus)


def _create(type: NamespaceType, config: Config) -> NamespaceHandle:
    """By a short process, which holds it until the handle does."""
    import socket

    from nsapi import _launcher

    launcher, owned = _launcher.executable(joins=False)
    fds = [launcher] if owned else []
    # It waits to be killed, or for the end of its standard input if we are. It needs nothing inside: neither files nor a
    # mapped id.
    command, itself = ["nsapi-hold"], f"/proc/self/fd/{launcher}"
    process = Popen.__new__(Popen)  # in our hands before it is born, whenever Ctrl-C comes
    ends: tuple[socket.socket, ...] = ()
    interrupted = None
    try:
        ends = socket.socketpair()
        ends[0].setblocking(True)  # whatever socket.setdefaulttimeout() says: else the holder reads nothing, and ends
        start = partial(Popen.__init__, process, command, executable=itself, config=config, pass_fds=(launcher,))
        _with_children_at_home(partial(start, stdin=ends[0].fileno()))
        made = open_namespace(process, type)
    finally:
        while True:  # as long as it takes, whatever Ctrl-C says
            try:
                if process._child_created:
                    process.kill()  # somebody who has been forked meanwhile may keep its standard input open
                    process.wait()
                for end in ends:
                    end.close()
                _launcher.close_all(fds)
                break
            except KeyboardInterrupt as error:
                interrupted = error
    if interrupted is not None:
        made.close()
        try:
            raise interrupted
        finally:
            interrupted = None  # its traceback has this frame
    return made


def _with_children_at_home(start: Callable[[], None]) -> None:
    """Start no pid 1 in a pid namespace that this thread has unshared for its children: after its end nobody can be one."""
    if os.path.exists("/proc/thread-self/ns/pid_for_children") or not children_are_elsewhere():  # it has a pid 1
        start()
        return
    with contextlib.ExitStack() as handles:
        home, there = (handles.enter_context(contextlib.closing(_of_thread(each))) for each in (False, True))
        _switch.with_children_at(home.fileno(), there.fileno(), start)


def _of_thread(of_children: bool) -> NamespaceHandle:
    try:
        return own(NamespaceType.PID, of_children=of_children)
    except NamespaceError as error:
        if error.errno != ENOENT:
            raise
        raise unsupported(
            "the pid namespace of this thread's children has no process yet, and this kernel opens none such: what makes the"
            " namespace would be its pid 1, and end. Start another program there first"
        ) from None


def _take_back(made: NamespaceHandle, place: _bind.Place) -> None:
    """Ctrl-C may have come when all was done: what is there is the new one, if it is not somebody else's of that name."""
    while True:
        try:
            if isinstance(made, PidHandle):
                made.stays = False
            with contextlib.suppress(OSError, ValueError), _bind.Kept(_bind.at_path("path", place.words)) as kept:
                if os.path.samestat(os.fstat(kept.fd), os.fstat(made.fileno())):
                    kept.take_away(_end_init_of)
            made.close()
            return
        except KeyboardInterrupt:  # the first is raised by who calls this
            continue


def _place(type: NamespaceType, name: Any, path: Any) -> _bind.Place | None:
    if name is not None and path is not None:
        raise TypeError("name, path: give one, not both")
    if path is not None:
        return _bind.at_path("path", path)
    return None if name is None else new_name(type, name)


def _place_of(type: NamespaceType, name: str) -> _bind.Place:
    """Find the place of a name that is there, or else where it would be."""
    _bind.check_name("name", name)
    paths = [os.path.join(folder, name) for folder in _folders(type)]
    return _bind.at_path("name", next((path for path in reversed(paths) if os.path.lexists(path)), paths[0]))


def new_name(type: NamespaceType, name: Any) -> _bind.Place:
    """Tell where a new name is to be made; its folder is not opened, or made, before it is needed."""
    _bind.check_name("name", name)
    folder = _own_folder(type)

    def open_folder() -> _native.Fd:
        if folder is None:
            why = "/run is not this user's, and XDG_RUNTIME_DIR names no folder: give path= instead of name="
            raise refused(EACCES, why, filename=name, type=type)
        return _bind.open_own_folder(*folder, private=type is NamespaceType.MNT)

    return _bind.Place(name if folder is None else os.path.join(*folder, name), name, open_folder)


def _own_folder(type: NamespaceType) -> tuple[str, ...] | None:
    """Where names are made by this caller: what has to be there, and what is made."""
    run, netns = os.path.split(NETNS_DIR)
    if _is_own(run):
        return (run, netns) if type is NamespaceType.NET else (run, "nsapi", type.proc_name)
    private = os.environ.get("XDG_RUNTIME_DIR", "")
    return (private, "nsapi", type.proc_name) if os.path.isabs(private) and _is_own(private) else None


def _folders(type: NamespaceType) -> list[str]:
    """Where names may be, the last one first to be believed."""
    run = NETNS_DIR if type is NamespaceType.NET else f"{os.path.dirname(NETNS_DIR)}/nsapi/{type.proc_name}"
    own = _own_folder(type)
    return [run] if own is None else [os.path.join(*own), run]


def _is_own(folder: str) -> bool:
    try:
        return os.stat(folder).st_uid == os.geteuid()
    except OSError:
        return False


# ---- pid: what keeps it is a process ----

_PATIENCE = 500  # milliseconds; pid 1 ends only after all that were in there have been reaped, by their parents


#: Another one in each process that is forked from this: by the pid they may be the same, each the first of its namespace.
_process = object()


def _note_fork() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class PidHandle(NamespaceHandle):
    """A handle that owns the pid 1 of its namespace, until that is to stay with a file; not so in any other process."""

    __slots__ = ("_channel", "_init", "_maker", "_pinning", "stays")

    def __init__(self, cell: Any, words: str) -> None:
        self._init: Any = None  # a pidfd of pid 1, in its cell
        self._channel: Any = None  # the socket by which it is told to stay
        self._maker = _process
        self._pinning = allocate_lock()
        self.stays = False
        super().__init__(cell, words, NamespaceType.PID)

    @property
    def _owns_init(self) -> bool:
        return self._init is not None and self._maker is _process and not self.stays

    def _keep(self, place: _bind.Place, init: _bind.Init | None = None) -> None:
        if not self._owns_init:
            super()._keep(place)
            return
        with self._pinning:
            super()._keep(place, self if self._owns_init else None)

    def let_stay(self) -> None:
        """Tell pid 1 to stay, and wait until it has let go of this process."""
        import socket

        channel, heard = self._channel, b""
        try:
            self.stays = True  # no call until it is told
            channel.send(b"s", socket.MSG_NOSIGNAL)
            while more := channel.recv(16):
                heard += more
        except OSError:
            pass
        if heard != b"s" or is_ready(self._init[0]):
            self.stays = False
            raise refused(ESRCH, "its pid 1 has ended", type=NamespaceType.PID)

    def close(self) -> None:
        """Close the fd, and end pid 1, and with it all that lives in the namespace, unless it is to stay with a file."""
        super().close()
        with self._lock:
            owned, init, channel = self._owns_init, self._init, self._channel
            self._init = self._channel = None
        if owned:
            _end(init[0])
        if init is not None:
            _native.close_cell(init)
            channel.close()


def _create_pid(config: Config) -> PidHandle:
    """Leave a pid 1 in it: of nobody's children, in a session of its own, with no file of ours."""
    import socket

    from nsapi import _launcher

    launcher, owned = _launcher.executable(joins=False)
    fds = [launcher] if owned else []
    me = _native.new_cell()
    ends: tuple[socket.socket, ...] = ()
    process, made = Orphan.__new__(Orphan), None  # in our hands before it is born
    try:
        pidfd = _native.fill_with_pidfd(me, os.getpid())
        if pidfd < 0:
            raise NamespaceError(-pidfd, None, None, step="pidfd_open of this process")
        # Until it is told to stay it ends with our end of this, and so if Ctrl-C comes before we have its pidfd.
        ends = ours, theirs = socket.socketpair()
        for end in ends:
            end.setblocking(True)  # whatever socket.setdefaulttimeout() says: it may take its time
        # Not DEVNULL: subprocess's is a number, which Ctrl-C may lose.
        with _native.Fd(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC) as nothing:
            process.__init__(  # type: ignore[misc]
                ["nsapi-init", "pid", str(pidfd)],
                executable=f"/proc/self/fd/{launcher}",
                stdin=theirs.fileno(),
                stdout=nothing,
                stderr=nothing,
                cwd="/",
                env={},
                start_new_session=True,
                pass_fds=(launcher, pidfd),
                config=config,
            )
        with contextlib.closing(open_namespace(process, NamespaceType.PID)) as found:
            made = PidHandle(duplicate_fd(found.fileno()), f"pid namespace of nsapi-init {process.pid}")
        if ours.recv(1) != b"r":
            raise NamespaceError(ESRCH, None, None, step="start nsapi-init", type=NamespaceType.PID)
        init = duplicate_fd(process.pidfd)
        made._init, made._channel, ends = init, ours, (theirs,)
        return made
    except BaseException:
        if process.pidfd >= 0:
            _end(process.pidfd)
        if made is not None:
            made.close()
        raise
    finally:
        interrupted = None
        while True:
            try:
                process.disown()
                for end in ends:
                    end.close()
                _native.close_cell(me)
                _launcher.close_all(fds)
                break
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            try:
                raise interrupted
            finally:
                interrupted = None  # its traceback has this frame


def _end(init: int) -> None:
    """Kill a pid 1, and reap it where it has become a child of ours: of a reaper, that is, or a pid 1 itself."""
    import select

    try:
        signal.pidfd_send_signal(init, signal.SIGKILL)
    except ProcessLookupError:
        pass
    poll = select.poll()
    poll.register(init, select.POLLIN)
    poll.poll(_PATIENCE)
    try:
        os.waitid(os.P_PIDFD, init, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass


def _end_init_of(namespace: int) -> None:
    init, parent = _native.new_cell(), _native.new_cell()
    # From within it nobody can, and from beside it nobody sees whom.
    if _native.fill_by_ioctl(parent, namespace, "NS_GET_PARENT") == -EPERM:
        why = "its pid 1 can be ended only from the pid namespace that it was made in, or one above"
        raise refused(EPERM, why, type=NamespaceType.PID)
    if _find_init(init, namespace):
        _end(init[0])
        _native.close_cell(init)


def _find_init(cell: Any, namespace: int) -> bool:
    """Open a pidfd of the pid 1 of a pid namespace; False where it has ended.

    A number that the kernel tells before and after is that of pid 1 between, and no other's.
    """
    while True:
        pid = _native.ioctl_pid(namespace, "NS_GET_TGID_FROM_PIDNS", 1)
        if pid == -ESRCH:
            return False
        if pid < 0:  # before Linux 6.11
            return _find_init_in_proc(cell, namespace)
        init = _native.fill_with_pidfd(cell, pid)
        if init >= 0 and _native.ioctl_pid(namespace, "NS_GET_TGID_FROM_PIDNS", 1) == pid:
            return True
        if init < 0 and init != -ESRCH:
            raise NamespaceError(-init, None, None, step="pidfd_open of pid 1", type=NamespaceType.PID)
        _native.close_cell(cell)


def _find_init_in_proc(cell: Any, namespace: int) -> bool:
    """Look for it in /proc, where NSpid counts it from outside to inside."""
    wanted = os.fstat(namespace)
    for name in filter(str.isdigit, os.listdir("/proc")):
        if _native.fill_with_pidfd(cell, int(name)) < 0:
            continue
        try:
            with builtins.open(f"/proc/{name}/status", encoding="utf-8", errors="replace") as file:
                pids = next((line.split() for line in file if line.startswith("NSpid:")), [])
            if pids[-1:] == ["1"] and os.path.samestat(os.stat(f"/proc/{name}/ns/pid"), wanted):
                signal.pidfd_send_signal(cell[0], 0)  # so that it was this process, and no other, which was looked at
                return True
        except OSError:
            pass
        _native.close_cell(cell)
    return False


# ---- names ----


def unpin(name: Any, type: NamespaceType | str | None = None) -> None:
    """Take away the file that keeps a namespace, by whatever it was made; what else keeps it, as a process, stays.

    *name* is a str without ``/``, one of :func:`named`, for net or of the given *type*; or a path, a str with ``/``, bytes
    or an os.PathLike, that must be of *type* if that is given. Where :func:`create` has left a pid 1 with the file, it is
    killed, and with it all that lives in that pid namespace.

    It is unmounted, in every mount namespace that shares the mount. The file below is removed if it is empty.

    Raises NamespaceError: ``ENOENT``; ``EINVAL`` where no namespace is mounted, or one of another type, and nothing is
    removed; ``EPERM`` without CAP_SYS_ADMIN in the user namespace that owns the mount namespace.
    """
    _native.require()
    parsed = None if type is None else NamespaceType.parse(type)
    if isinstance(name, str) and "/" not in name:
        parsed = parsed or NamespaceType.NET
        place = _place_of(parsed, name)
    else:
        place = _bind.at_path("name", name)
    with _bind.Kept(place) as kept:
        NamespaceHandle(duplicate_fd(kept.fd), place.words, parsed).close()
        kept.take_away(_end_init_of)


def named(type: NamespaceType | str = NamespaceType.NET) -> dict[str, str]:
    """List the names of namespaces of *type*, each with its path: those that ip-netns(8) has made too, sorted.

    What is in ``/run/netns``, or ``/run/nsapi/TYPE``, and below ``$XDG_RUNTIME_DIR/nsapi``, and is no namespace of that
    type is left out: as the empty file that a name leaves behind where its mount is not seen.
    """
    _native.require()
    type = NamespaceType.parse(type)
    found: dict[str, str] = {}
    for folder in _folders(type):
        found |= {name: os.path.join(folder, name) for name in _bind.listed(folder, type)}
    return dict(sorted(found.items()))
