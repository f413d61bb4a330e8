# SPDX-License-Identifier: MIT
"""subprocess's arguments, made into what the kernel takes: bytes without NUL, open fds. Refused here, before anything is."""

from __future__ import annotations

import os
import subprocess
from errno import EBADF

from nsapi import _native
from nsapi._errors import refused
from nsapi._native import Exec, Strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import IO, Any

    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
    File = int | IO[Any] | None


def encode(name: str, value: Path) -> bytes:
    """Encode as the kernel will read it; ValueError for a NUL, in subprocess's words."""
    encoded = os.fsencode(value)
    if b"\0" in encoded:
        raise ValueError(f"{name}: embedded null byte")
    return encoded


def user_id(user: str | int | None) -> int | None:
    """As subprocess: a name, or a number from 0 on."""
    if isinstance(user, str):
        import pwd

        return pwd.getpwnam(user).pw_uid
    return _id("User", user)


def group_id(group: str | int | None) -> int | None:
    """As subprocess: a name, or a number from 0 on."""
    if isinstance(group, str):
        import grp

        return grp.getgrnam(group).gr_gid
    return _id("Group", group)


def group_ids(groups: Iterable[str | int]) -> list[int]:
    """As subprocess: names and numbers."""
    if isinstance(groups, str):
        raise ValueError("Groups must be a list, not str")
    ids = [group_id(each) for each in groups]
    if None in ids:
        raise TypeError("Items in extra_groups must be a string or integer, not None")
    return ids  # type: ignore[return-value]


def _id(name: str, id: int | None) -> int | None:
    if id is not None and not isinstance(id, int):
        raise TypeError(f"{name} must be a string or an integer, not {type(id)}")
    if id is not None and id < 0:
        raise ValueError(f"{name} ID cannot be negative, got {id}")
    if id is not None and id >= 2**32 - 1:
        raise ValueError(f"{name} ID {id} is more than the kernel can hold")
    return id


def open_fds(fds: Collection[int]) -> tuple[int, ...]:
    """Sort pass_fds, and see that each is open."""
    numbers = tuple(sorted({int(fd) for fd in fds}))
    for fd in numbers:
        _refuse_closed("pass_fds", fd)
    return numbers


def end(name: str, file: File) -> int | None:
    """Find the fd of a file, and see that it is open, before anything else is."""
    if file is None or (isinstance(file, int) and file in (subprocess.PIPE, subprocess.DEVNULL)):
        return file
    if isinstance(file, int) and file == subprocess.STDOUT:
        if name != "stderr":
            raise ValueError(f"{name}: STDOUT is for stderr only")
        return file
    fd = file if isinstance(file, int) else file.fileno()
    _refuse_closed(name, fd)
    return fd


def _refuse_closed(name: str, fd: int) -> None:
    """Look before anything is opened here: that could get the number of a closed fd, and be passed instead."""
    if not 0 <= fd < 2**31:
        raise ValueError(f"{name}: {fd} is no file descriptor")
    try:
        os.get_inheritable(fd)
    except OSError:
        raise refused(EBADF, f"{name}: fd {fd} is not open") from None


def _variable(name: Any, value: Any) -> bytes:
    encoded = encode("env", name)
    if b"=" in encoded:
        raise ValueError("illegal environment variable name")
    return encoded + b"=" + encode("env", value)


def program(executable: Path, argv: Sequence[Path], env: Mapping[Any, Any] | None) -> Exec:
    """Make what execve takes; a name without a slash is looked up on the child's PATH, by the child."""
    variables = _native.environment() if env is None else Strings([_variable(*each) for each in env.items()])
    name = encode("executable", executable)
    paths = [name]
    if not os.path.dirname(name):
        paths = [os.path.join(os.fsencode(folder), name) for folder in os.get_exec_path(env)]
    return Exec(executable, Strings(paths), Strings([encode("args", each) for each in argv]), variables)


def file_of(fd: int) -> object:
    """Tell which file is behind *fd*; None where it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino
