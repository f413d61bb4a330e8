# SPDX-License-Identifier: MIT
"""A file that keeps a namespace: how it is made, found, and taken away. All by fds, since names may be another's by then."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from errno import EACCES, EBUSY, EINVAL, ELOOP, ENOENT, ENOTDIR, EPERM, EXDEV
from functools import partial
from typing import Any, NamedTuple, Protocol

from nsapi import _native
from nsapi._errors import NamespaceError, hint, refused
from nsapi._native import Fd, Held, Program, State, Step
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: What stands in the file below, where a process of ours is to end with the name.
WITH_INIT = b"nsapi-init\n"

_TREE, _FILE, _UNDER = range(3)  # slots
_FOLDER = _native.O_PATH | _native.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0)
_ENTRY = _native.O_PATH | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def _fd(path: str, flags: int, folder: int | None = None) -> Fd:
    return Fd(partial(os.open, dir_fd=folder), path, flags)


class Place(NamedTuple):
    """Where a file is to be: its folder is opened only when the rest is known to work."""

    words: str
    name: str
    open_folder: Callable[[], Fd]


def check_name(field: str, name: Any) -> None:
    """Refuse what is no name of a file."""
    if not isinstance(name, str):
        raise TypeError(f"{field}: {name!r} is no str")
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(
            f"{field}: {name!r} is no name of a file: it has a character, no '/' and no NUL, and is not . or .."
        )
    length = len(_encoded(field, name))
    if length > 255:
        raise ValueError(f"{field}: {name[:20]!r}… is {length} bytes long, and a name of a file at most 255")


def _encoded(field: str, text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError(f"{field}: {text!r} cannot be the name of a file: {error.reason}") from None


def at_path(field: str, path: Any) -> Place:
    """Take a str, bytes or os.PathLike for a place; only the last part of it is to be made."""
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise TypeError(f"{field}: {path!r} is no path") from None
    folder, name = os.path.split(text)
    check_name(field, name)
    if b"\0" in _encoded(field, folder):
        raise ValueError(f"{field}: {text!r} has a NUL")

    def open_folder() -> Fd:
        return _open(folder or ".", _FOLDER, words=folder or ".")

    return Place(text, name, open_folder)


def _open(path: str, flags: int, *, words: str, folder: int | None = None) -> Fd:
    try:
        return _fd(path, flags, folder)
    except OSError as error:
        raise failed(error, step=f"open {words}", words=words) from None


def failed(error: OSError, *, step: str, words: Any) -> NamespaceError:
    """Make the error for what Python could not do; *words* are the file's."""
    errnum = error.errno or EINVAL
    return NamespaceError(errnum, None, words, step=step, hint=hint(errnum, f"{step.split()[0]} file"))


# ---- the folders of names ----


def open_own_folder(base: str, *parts: str, private: bool) -> Fd:
    """Open, and make where it is missing, a folder of names below *base*; each is a mount of its own, as ip-netns(8) does.

    Shared, so that a name that is taken away is taken away in every mount namespace that has got a copy. *private* is for
    mount namespaces: the kernel refuses to pass on a mount that could hold itself.
    """
    folder, words = _open(base, _FOLDER, words=base), base
    for part in parts:
        words = f"{words}/{part}"
        with folder as outer:
            try:
                os.mkdir(part, 0o755, dir_fd=outer)
            except FileExistsError:
                pass
            except OSError as error:
                raise failed(error, step=f"make {words}", words=words) from None
            folder = _open_trusted(part, outer, words)
    try:
        if _propagate(folder.number, words, private=private):
            return folder
        import fcntl

        # Two at once would mount two, one hiding the names of the other. ip-netns takes the same lock.
        with _open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, words=words, folder=folder.number) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise failed(error, step=f"lock {words}", words=words) from None
            folder = _open(words, _FOLDER | os.O_NOFOLLOW, words=words)
            if not _propagate(folder.number, words, private=private):
                _mount_on_itself(folder.number, words)
                folder = _open(words, _FOLDER | os.O_NOFOLLOW, words=words)
                _propagate(folder.number, words, private=private)
        return folder
    except BaseException:
        folder.__exit__()  # who keeps the error keeps its traceback, and what that has open
        raise


def _open_trusted(part: str, folder: int, words: str) -> Fd:
    """Names in it are believed: so nobody else may be able to change them, and no link may lead to it."""
    made = _open(part, _FOLDER | os.O_NOFOLLOW, words=words, folder=folder)
    status = os.fstat(made.number)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        made.__exit__()
        raise refused(EACCES, "others may write to this folder, so that no name in it is safe", filename=words)
    return made


def _propagate(folder: int, words: str, *, private: bool) -> bool:
    """Make the mount shared, or private; False where it is no mount yet."""
    kind = "private" if private else "shared"
    flags = _native.constant(f"MS_{kind.upper()}") | (0 if private else _native.constant("MS_REC"))
    step = Step("mount", f"make {words} {kind}", path=_proc_path(folder), data=b"none", flags=flags, filename=words)
    try:
        _native.run(Program([step]), State())
    except NamespaceError as error:
        if error.errno == EINVAL:
            return False
        raise
    return True


def _mount_on_itself(folder: int, words: str) -> None:
    flags = _native.constant("AT_RECURSIVE")
    steps = [
        Step("clone_mount", f"clone the mount of {words}", fd=folder, value=_TREE, flags=flags),
        Step("attach", f"mount {words} on itself", fd=folder, value=_TREE, filename=words),
    ]
    with Held() as state:
        _native.run(Program(steps), state)


def _proc_path(fd: int) -> bytes:
    """Name an open file by the kernel's link to it: mount(2) and umount2(2) take no fds."""
    path = f"/proc/thread-self/fd/{fd}"
    try:
        with _fd("/proc", _FOLDER) as proc:
            is_proc = _native.fs_magic(proc) == _native.constant("PROC_SUPER_MAGIC")
        if is_proc and os.path.samestat(os.fstat(fd), os.stat(path)):
            return path.encode()
    except OSError as error:
        raise NamespaceError(error.errno or EINVAL, None, "/proc", step="open /proc") from None
    raise NamespaceError(EXDEV, None, "/proc", step="open /proc", hint=hint(EXDEV, "open_own"))


# ---- one file ----


class Init(Protocol):
    """The pid 1 of a namespace that is to stay with its file, and to end with it."""

    stays: bool

    def let_stay(self) -> None:
        """Tell it to stay, which cannot be taken back; *stays* says from before that on that it has been told."""


def keep(fd: int, type: NamespaceType, place: Place, init: Init | None = None) -> None:
    """Make the file, which must not be there yet, and mount the namespace on it. On any failure, neither is left.

    With *init* the file says that a process is to end with it. That one is told last; if it fails, so has all. What Ctrl-C
    says afterwards comes too late: all is there.
    """
    with Held() as state:
        # First what needs the privilege: without it nothing has been made, no folder either.
        words = f"clone the mount of {type.proc_name}"
        _native.run(Program([Step("clone_mount", words, fd=fd, value=_TREE, types=(type,))]), state)
        with place.open_folder() as folder:
            _proc_path(folder)  # by it all would be undone
            try:
                _make(fd, type, folder, place, state, init)
            except BaseException:
                if init is None or not init.stays:
                    _undo(state, folder, place)
                raise


def _make(fd: int, type: NamespaceType, folder: int, place: Place, state: State, init: Init | None) -> None:
    name, mode = os.fsencode(place.name), 0 if init is None else 0o400
    words = f"mount the {type.proc_name} namespace on {place.words}"
    steps = [
        Step("make_file", f"make {place.words}", fd=folder, slot=_FILE, path=name, value=mode, filename=place.words),
        Step("attach", words, slot=_FILE, value=_TREE, types=(type,), filename=place.words),
    ]
    try:
        _native.run(Program(steps), state)
    except NamespaceError as error:
        if error.errno != EINVAL or type is not NamespaceType.MNT or error.index != 1:
            raise
        _attach_in_private(state, place.words, steps[1])
    try:
        there = os.path.samestat(os.stat(place.name, dir_fd=folder, follow_symlinks=False), os.fstat(fd))
    except OSError:
        there = False
    if not there:
        raise NamespaceError(
            EBUSY, None, place.words, step="check", hint="somebody else has moved the file away while it was being made"
        )
    if init is not None:
        try:
            os.write(state.raw.fd[_FILE], WITH_INIT)
        except OSError as error:
            raise failed(error, step=f"write {place.words}", words=place.words) from None
        init.let_stay()


def _attach_in_private(state: State, words: str, attach: Step) -> None:
    """The mount below passes on what is mounted there, to where it would hold itself: mount the file on itself first."""
    file = state.raw.fd[_FILE]
    steps = [
        Step("clone_mount", f"clone the mount of {words}", fd=file, value=_UNDER),
        Step("attach", f"mount {words} on itself", fd=file, value=_UNDER, filename=words),
    ]
    _native.run(Program(steps), state)
    under = state.raw.fd[_UNDER]
    flags = _native.constant("MS_PRIVATE")
    steps = [
        Step("mount", f"make {words} private", path=_proc_path(under), data=b"none", flags=flags, filename=words),
        Step("attach", attach.words, fd=under, value=_TREE, types=attach.types, filename=attach.filename),
    ]
    _native.run(Program(steps), state)


def _undo(state: State, folder: int, place: Place) -> None:
    """Take away what is there; what Ctrl-C says once more must wait until that is done."""
    while True:
        try:
            for slot in (_TREE, _UNDER):
                fd = state.raw.fd[slot]
                if fd >= 0:
                    path = f"/proc/thread-self/fd/{fd}".encode()
                    try:
                        _native.run(Program([_umount(path, place.words, _native.constant("MNT_DETACH"))]), State())
                    except NamespaceError:
                        pass  # it has never been attached
            if state.raw.fd[_FILE] >= 0:
                _remove(folder, place.name, os.fstat(state.raw.fd[_FILE]))
            return
        except KeyboardInterrupt:
            continue


def _umount(path: bytes, words: str, flags: int) -> Step:
    return Step("umount", f"umount {words}", path=path, flags=flags, filename=words)


def _remove(folder: int, name: str, status: os.stat_result) -> None:
    """Remove the file that has this status, and no other that has its name meanwhile."""
    try:
        if os.path.samestat(os.stat(name, dir_fd=folder, follow_symlinks=False), status):
            os.unlink(name, dir_fd=folder)
    except OSError:
        pass


class Kept:
    """A file on which a namespace is mounted; ``with`` closes what is open of it."""

    def __init__(self, place: Place) -> None:
        self.place, self._owned, self._state = place, [place.open_folder()], Held()
        self._folder = self._owned[0].number
        try:
            with _open(place.name, _ENTRY, words=place.words, folder=self._folder) as entry:
                if not is_namespace(entry):
                    why = "no namespace is mounted there, so that it stays as it is"
                    raise refused(EINVAL, why, filename=place.words)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self._owned.append(_open(place.name, flags, words=place.words, folder=self._folder))
        except BaseException:
            self.__exit__()  # as in open_own_folder
            raise
        self.fd = self._owned[1].number

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *exc: object) -> None:
        self._state.close()
        for each in self._owned:
            each.__exit__()

    def take_away(self, end_init: Callable[[int], None]) -> None:
        """Unmount, and remove the file if it is one of those that are made for that: empty, or with what ours say.

        *end_init* is called with an fd of the namespace where a process is to end with the file; before anything else, so
        that after Ctrl-C the name is there still.
        """
        status, content = self._below()
        path = _proc_path(self._folder) + b"/" + os.fsencode(self.place.name)
        step = _umount(path, self.place.words, _native.constant("MNT_DETACH") | _native.constant("UMOUNT_NOFOLLOW"))
        if content == WITH_INIT:
            end_init(self.fd)
        interrupted = None
        while True:
            try:
                self._umount_and_remove(step, status, content, end_init)
                break
            except KeyboardInterrupt as error:  # a file of that name would be left, and be in everybody's way
                interrupted = error
        if interrupted is not None:
            try:
                raise interrupted
            finally:
                interrupted = None  # else it keeps its traceback, and that what is open

    # From the first umount on nothing is opened, except where the file below could not be seen before: where no more files
    # may be open that would fail, and leave the file.

    def _umount_and_remove(
        self, step: Step, status: os.stat_result | None, content: bytes, end_init: Callable[[int], None]
    ) -> None:
        top = self._status()
        if top is not None and os.path.samestat(top, os.fstat(self.fd)):
            _native.run(Program([step]), State())
        if status is None:
            status, content = self._look(self._folder)
            if content == WITH_INIT:
                end_init(self.fd)
        if status is None or not stat.S_ISREG(status.st_mode) or (status.st_size and content != WITH_INIT):
            return
        top = self._status()
        if top is None or not os.path.samestat(top, status):
            return
        try:  # for a mount namespace in a folder that is shared, the file is mounted on itself
            _native.run(Program([step]), State())
        except NamespaceError as error:
            if error.errno != EINVAL:  # it is no mount
                raise
        try:
            os.unlink(self.place.name, dir_fd=self._folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise failed(error, step=f"remove {self.place.words}", words=self.place.words) from None

    def _status(self) -> os.stat_result | None:
        with suppress(OSError):
            return os.stat(self.place.name, dir_fd=self._folder, follow_symlinks=False)
        return None

    def _below(self) -> tuple[os.stat_result | None, bytes]:
        """Look at the file below, through a copy of the folder's mount on which nothing is mounted."""
        words = f"clone the mount of {os.path.dirname(self.place.words) or '.'}"
        try:
            _native.run(Program([Step("clone_mount", words, fd=self._folder, value=_UNDER)]), self._state)
        except NamespaceError as error:
            if error.errno != EINVAL:
                raise
            return None, b""  # other mounts there were inherited by this user namespace, and may not be seen below
        return self._look(self._state.raw.fd[_UNDER])

    def _look(self, folder: int) -> tuple[os.stat_result | None, bytes]:
        """Tell what file it is, and what is in it if it may be ours."""
        try:
            status = os.stat(self.place.name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return None, b""
        if not stat.S_ISREG(status.st_mode) or status.st_size != len(WITH_INIT):
            return status, b""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with _fd(self.place.name, flags, folder) as fd:
                return os.fstat(fd), os.read(fd, len(WITH_INIT))
        except OSError as error:
            if error.errno in (ENOENT, EACCES, EPERM, ELOOP):
                return status, b""
            raise failed(error, step=f"open {self.place.words}", words=self.place.words) from None


def is_namespace(fd: int) -> bool:
    """Tell whether it is a file of nsfs; it may have been opened with O_PATH."""
    return _native.fs_magic(fd) == _native.constant("NSFS_MAGIC")


def listed(folder: str, type: NamespaceType) -> list[str]:
    """List the names in a folder that keep a namespace of *type*; what else is there is left out."""
    try:
        with _fd(folder, _FOLDER & ~_native.O_PATH) as fd:
            return [name for name in sorted(os.listdir(fd)) if _type_of(name, fd) == type.flag]
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR, EACCES):
            return []
        raise failed(error, step=f"open {folder}", words=folder) from None


def _type_of(name: str, folder: int) -> int:
    try:
        with _fd(name, _ENTRY, folder) as fd:
            if not is_namespace(fd):
                return 0
        with _fd(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, folder) as fd:
            return _native.ioctl(fd, "NS_GET_NSTYPE")
    except (FileNotFoundError, PermissionError):
        return 0  # taken away meanwhile, or hidden by who made it
