# SPDX-License-Identifier: MIT
"""What a single field of a Config may hold: the kernel's words, and the converters and validators that know them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import Attribute, field, validators

#: user_namespaces(7): the id that stands for none.
NO_ID = 2**32 - 1
#: uts_namespaces(7), __NEW_UTS_LEN
MAX_HOSTNAME = 64

# capabilities(7) in the order of their numbers
CAPABILITIES: tuple[str, ...] = tuple(
    """
    CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP
    CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER
    CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
    CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
    CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
    CAP_CHECKPOINT_RESTORE
    """.split()
)
CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
RLIMITS: tuple[str, ...] = tuple(
    """
    RLIMIT_AS RLIMIT_CORE RLIMIT_CPU RLIMIT_DATA RLIMIT_FSIZE RLIMIT_MEMLOCK RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_NOFILE
    RLIMIT_NPROC RLIMIT_RSS RLIMIT_RTPRIO RLIMIT_RTTIME RLIMIT_SIGPENDING RLIMIT_STACK
    """.split()
)
CLOCKS = ("monotonic", "boottime")
PROPAGATIONS = ("private", "slave", "shared", "unchanged")


def encode(name: str, text: str) -> bytes:
    """Encode as the kernel will read it: what cannot be is the field's error here, not the codec's in a verb."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: {text!r} cannot be encoded: {error.reason}") from None
    if b"\0" in encoded:
        raise ValueError(f"{name}: {text!r} has a NUL byte")
    return encoded


def check_type(name: str, value: object) -> int:
    """Refuse what is no int, in the name of *name*."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: {value!r} is no int")
    return value


def check_int(owner: str, name: str, value: object, low: int, high: int) -> None:
    """Refuse what is no int from *low* to *high*, in the name of *owner* and *name*."""
    if not low <= check_type(f"{owner}{name}", value) <= high:
        raise ValueError(f"{owner}{name}: {value} is not in {low} … {high}")


def integer(low: int, high: int) -> Any:
    """Make a validator for an int from *low* to *high*."""

    def check(instance: object, attribute: Attribute[Any], value: object) -> None:
        check_int("", attribute.name, value, low, high)

    return check


def _offset(clock: str, value: Any) -> tuple[int, int]:
    seconds: Any
    nanoseconds: Any
    if isinstance(value, tuple) and len(value) == 2:
        seconds, nanoseconds = value
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"time_offsets: seconds of {clock}: {value} is no number of seconds")
        # By whole numbers, to the nearest nanosecond: products of floats are exact up to 104 days only.
        numerator, denominator = value.as_integer_ratio()
        seconds, nanoseconds = divmod((2 * numerator * 10**9 + denominator) // (2 * denominator), 10**9)
    else:
        seconds, nanoseconds = value, 0
    check_int("time_offsets: ", f"seconds of {clock}", seconds, -(2**63), 2**63 - 1)
    check_int("time_offsets: ", f"nanoseconds of {clock}", nanoseconds, 0, 999_999_999)
    return seconds, nanoseconds


def time_offsets(value: Any) -> dict[str, tuple[int, int]]:
    """Convert to whole seconds and nanoseconds, as timens_offsets has them."""
    if not isinstance(value, Mapping):
        raise TypeError(f"time_offsets: {value!r} is no dict of clock and seconds")
    for clock in value:
        if clock not in CLOCKS:
            raise ValueError(f"time_offsets: {clock!r} is no clock; it is one of {', '.join(CLOCKS)}")
    return {clock: _offset(clock, seconds) for clock, seconds in value.items()}


def capabilities(value: Any) -> dict[str, frozenset[str]] | None:
    """Convert each set of names to a frozenset."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"capabilities: {value!r} is no dict of {', '.join(CAPABILITY_SETS)}")
    sets = {}
    for name, names in value.items():
        if name not in CAPABILITY_SETS:
            raise ValueError(f"capabilities: {name!r} is no set; it is one of {', '.join(CAPABILITY_SETS)}")
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise TypeError(f"capabilities: {name}: {names!r} is no list of names")
        members = []
        for each in names:
            if each not in CAPABILITIES:
                raise ValueError(f"capabilities: {name}: {each!r} is no name of capabilities(7), as CAP_NET_ADMIN")
            members.append(each)
        sets[name] = frozenset(members)
    return sets


def rlimits(value: Any) -> dict[str, tuple[int, int]]:
    """Convert to soft and hard as prlimit(2) has them, where -1 is 2**64 - 1."""
    if not isinstance(value, Mapping):
        raise TypeError(f"rlimits: {value!r} is no dict of RLIMIT_* and (soft, hard)")
    limits = {}
    for name, pair in value.items():
        if name not in RLIMITS:
            raise ValueError(f"rlimits: {name!r} is no name of getrlimit(2); it is one of {', '.join(RLIMITS)}")
        soft, hard = pair if isinstance(pair, tuple) and len(pair) == 2 else (pair, pair)
        for each in (soft, hard):
            check_int("rlimits: ", name, each, -1, 2**64 - 1)
        # -1 is RLIM_INFINITY, as in the resource module.
        limits[name] = soft % 2**64, hard % 2**64
        if limits[name][0] > limits[name][1]:
            raise ValueError(f"rlimits: {name}: soft {soft} is over hard {hard}")
    return limits


def json_paths(value: Any) -> tuple[str, ...]:
    """Convert to a tuple of str; one path alone would be a list of letters."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"allow: {value!r} is no list of JSON paths, as ['linux.seccomp']")
    paths = tuple(value)
    for each in paths:
        if not isinstance(each, str):
            raise TypeError(f"allow: {each!r} is no JSON path, as 'linux.seccomp'")
    return paths


def one_of(*choices: object, remedy: str = "") -> Any:
    """Make a validator for one of these words; *remedy* is said to who gives another."""

    def check(instance: object, attribute: Attribute[Any], value: object) -> None:
        if value not in choices or isinstance(value, bool):
            words = ", ".join(map(repr, choices))
            raise ValueError(f"{attribute.name}: {value!r} is not one of {words}{remedy}")

    return check


# Validators, as attrs calls them.


def boolean(instance: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name}: {value!r} is neither True nor False")


def name(instance: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name}: {value!r} is no str")
    if not 0 < len(encode(attribute.name, value)) <= MAX_HOSTNAME:
        raise ValueError(f"{attribute.name}: {value!r} is not 1 to {MAX_HOSTNAME} bytes")


def absolute(instance: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{attribute.name}: {value!r} is no path")
    if not encode(attribute.name, os.fsdecode(value)).startswith(b"/"):
        raise ValueError(f"{attribute.name}: {value!r} is no absolute path")


def cgroup(instance: object, attribute: Attribute[Any], value: object) -> None:
    if isinstance(value, int):
        check_int("", attribute.name, value, 0, 2**31 - 1)
    else:
        absolute(instance, attribute, value)


def texts(instance: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, dict) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise TypeError(f"{attribute.name}: {value!r} is no dict of str and str")
    for key, text in value.items():
        encode(attribute.name, key)
        encode(f"{attribute.name}: {key}", text)


def ids(instance: object, attribute: Attribute[Any], value: object) -> None:
    if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, Sequence):
        raise TypeError(f"{attribute.name}: {value!r} is no list of ids")
    for each in value:
        check_int("", attribute.name, each, 0, NO_ID - 1)


def optional(check: Any) -> Any:
    """Make a field that is None unless it is given."""
    return field(default=None, validator=validators.optional(check), kw_only=True)


def flag() -> Any:
    """Make a field that is False unless it is given."""
    return field(default=False, validator=boolean, kw_only=True)
