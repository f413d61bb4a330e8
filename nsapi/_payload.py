# SPDX-License-Identifier: MIT
"""``nsapi run``, ``enter``, ``pin`` and ``unpin``: options into a Config; the program's signals, stops and end are ours."""

from __future__ import annotations

import builtins
import os
import signal
from typing import Any

from nsapi._command import Usage, split
from nsapi._config import Config
from nsapi._fields import CAPABILITY_SETS
from nsapi._maps import MAP_KINDS
from nsapi._pin import create, named, new_name
from nsapi._pin import unpin as _unpin
from nsapi._process import Popen
from nsapi._target import open
from nsapi._types import NamespaceType, is_namespace_supported, parse_types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace as Options
    from collections.abc import Sequence


# ---- words into fields ----


def target_of(word: str, type: NamespaceType | None = None) -> int | str:
    """Tell what a word of the command line points at: a pid, a path, or a name, of *type* or of whichever has it."""
    if word.isascii() and word.isdecimal():
        return int(word)
    if "/" in word:
        return word
    for each in [type] if type else [NamespaceType.NET, *NamespaceType]:
        path = named(each).get(word) if is_namespace_supported(each) else None
        if path is not None:
            return path
    if type in (None, NamespaceType.NET):
        return word  # open() tells where `ip netns` would have it
    raise FileNotFoundError(
        f"there is no {type.proc_name} namespace of the name {word!r}; `nsapi ls -o TYPE,NSFS` lists what has one, and a "
        "path has a '/'"
    )


def _pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    found = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise Usage(f"nsapi: {option}: {word!r} is not of the form NAME=VALUE")
        found[name] = value
    return found


def _number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Usage(f"nsapi: {option}: {text!r} is no number") from None


def _seconds(text: str) -> tuple[int, int]:
    """Read seconds, exactly: a float would lose nanoseconds."""
    import re

    found = re.fullmatch(r"([+-]?)([0-9]+)(?:\.([0-9]{1,9}))?", text)
    if found is None:
        raise Usage(f"nsapi: --time-offset: {text!r} is no number of seconds, as 86400 or -1.5")
    sign, whole, fraction = found.groups("")
    seconds, nanoseconds = int(whole), int(fraction.ljust(9, "0"))
    if sign == "-":
        return (-seconds - 1, 10**9 - nanoseconds) if nanoseconds else (-seconds, 0)
    return seconds, nanoseconds


def _fields_of_namespace(options: Options) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if options.map is not None:
        if options.uid_map is not None or options.gid_map is not None:
            raise Usage("nsapi: --map: it is for uids and gids, so --uid-map and --gid-map cannot be beside it")
        if options.map in MAP_KINDS:
            fields["maps"] = options.map
        else:
            fields["uid_mappings"] = fields["gid_mappings"] = options.map
    for field, value in (("uid_mappings", options.uid_map), ("gid_mappings", options.gid_map)):
        if value is not None:
            fields[field] = value
    for field in ("setgroups", "hostname", "domainname", "propagation"):
        if getattr(options, field) is not None:
            fields[field] = getattr(options, field)
    if options.loopback:
        fields["loopback"] = True
    if options.time_offset:
        offsets = _pairs("--time-offset", options.time_offset)
        fields["time_offsets"] = {clock: _seconds(text) for clock, text in offsets.items()}
    if options.sysctl:
        fields["sysctl"] = _pairs("--sysctl", options.sysctl)
    return fields


def _fields_of_program(options: Options) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for field in ("uid", "gid", "oom_score_adj", "cgroup_path"):
        if getattr(options, field) is not None:
            fields[field] = getattr(options, field)
    if options.no_new_privs:
        fields["no_new_privs"] = True
    if options.groups is not None:
        fields["groups"] = [_number("--groups", each) for each in options.groups.split(",") if options.groups]
    if options.cap is not None:
        names = [_capability(each) for each in options.cap.split(",") if options.cap]
        fields["capabilities"] = dict.fromkeys(CAPABILITY_SETS, names)
    if options.rlimit:
        limits = _pairs("--rlimit", options.rlimit)
        fields["rlimits"] = {_prefixed(name, "RLIMIT_"): _limit(text) for name, text in limits.items()}
    if options.parent_death_signal is not None:
        fields["parent_death_signal"] = _signal(options.parent_death_signal)
    return fields


def _prefixed(word: str, prefix: str) -> str:
    word = word.upper()
    return word if word.startswith(prefix) else prefix + word


def _capability(word: str) -> str:
    return _prefixed(word, "CAP_")


def _limit(text: str) -> tuple[int, int]:
    def number(word: str) -> int:
        return -1 if word == "unlimited" else _number("--rlimit", word)

    soft, _, hard = text.partition(":")
    return number(soft), number(hard or soft)


def _signal(word: str) -> int:
    if word.isdecimal():
        return int(word)
    try:
        return signal.Signals[_prefixed(word, "SIG")]
    except KeyError:
        raise Usage(f"nsapi: --parent-death-signal: {word!r} is no signal, as KILL or 15") from None


def _types(words: Sequence[str]) -> tuple[NamespaceType, ...]:
    return tuple(parse_types(split(words)))


# ---- run, enter ----


def run(options: Options) -> int:
    """Run a program in new namespaces, joined ones, or both."""
    if not options.new and not options.join:
        raise Usage("nsapi run: neither --new nor --join is given: nothing is run outside by mistake")
    fields = {**_fields_of_namespace(options), **_fields_of_program(options)}
    if options.init:
        fields["init"] = True
    if options.keep_proc:
        fields["mounts"] = []
    new = _types(options.new or ())
    whole = []
    for word in options.join or ():
        types, equals, target = word.partition("=")
        if not equals or "/" in types:
            whole.append(target_of(word))
            continue
        for each in _types([types]):
            if each.proc_name in fields:
                raise Usage(f"nsapi run: --join: {each.proc_name} is joined twice")
            if each in new:
                raise Usage(f"nsapi run: {each.proc_name}: made by --new or joined by --join, not both: leave out one")
            fields[each.proc_name] = target_of(target, each)
    if len(whole) > 1:
        raise Usage("nsapi run: --join: only one can be without its types; name them, as net=4321")
    config = Config.join(whole[0], namespaces=new, **fields) if whole else Config.new(*new, **fields)
    return _perform(options, config)


def enter(options: Options) -> int:
    """Run a program where another process is."""
    try:
        types = _types(options.types)
    except ValueError as error:
        raise Usage(f"nsapi enter: {error} — the program and its arguments stand after --") from None
    target = target_of(options.target, types[0] if len(types) == 1 else None)
    return _perform(options, Config.join(target, *types, **_fields_of_program(options)))


def _perform(options: Options, config: Config) -> int:
    from nsapi.__main__ import die

    argv = options.argv or [os.environ.get("SHELL") or "/bin/sh"]
    status = _wait(argv, config, options.cwd)
    return status if status >= 0 else die(-status)


#: What a terminal sends to a process group.
_OF_TERMINAL = frozenset(
    (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP, signal.SIGWINCH)
    if os.name == "posix"
    else ()
)
#: What is never handed on: it cannot be caught, or is about this process alone.
_OWN = frozenset("SIGKILL SIGSTOP SIGCONT SIGCHLD SIGSEGV SIGBUS SIGFPE SIGILL SIGTRAP SIGABRT SIGSYS SIGPIPE".split())


def _wait(argv: Sequence[str], config: Config, cwd: str | None) -> int:
    """Start the program, and be what it is to whoever looks at us: signals go to it, its stops and its end are ours.

    From before it starts until it has, signals are kept; then they are waited for, because only so the kernel tells whose
    they are: what a terminal sends has gone to the program already.
    """
    from nsapi.__main__ import die

    caught: list[int] = []
    own = {getattr(signal, name) for name in _OWN}
    passed = {each for each in signal.valid_signals() - own if signal.getsignal(each) != signal.SIG_IGN}
    before = {each: signal.signal(each, lambda number, _: caught.append(number)) for each in passed}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, there would be no status
    try:
        process = Popen(argv, config=config, cwd=cwd, env=_environment(), close_fds=False)
    except BaseException:
        for each, handler in before.items():
            signal.signal(each, handler if handler is not None else signal.SIG_DFL)
        if caught:
            die(caught[0])
        raise
    waited = {*passed, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    for number in caught:
        _send(process, number)
    while process.poll() is None:
        if _has_stopped(process.pid):
            os.kill(os.getpid(), signal.SIGSTOP)  # until the shell says `fg`
            _send(process, signal.SIGCONT)
        told = signal.sigwaitinfo(waited)
        if told.si_signo != signal.SIGCHLD and not (told.si_code > 0 and _terminal_told(process.pid, told.si_signo)):
            _send(process, told.si_signo)
    return int(process.wait())


def _environment() -> dict[str, str] | None:
    """Give the environment that nsapi was started with, where the interpreter has changed it.

    In the C locale it sets LC_CTYPE, for all that it starts (PEP 538): to what there may not be where the program goes.
    """
    if "LC_CTYPE" not in os.environ:
        return None
    try:
        with builtins.open("/proc/self/environ", "rb") as file:
            given = [each for each in file.read().split(b"\0") if each.startswith(b"LC_CTYPE=")]
    except OSError:
        return None
    environment = dict(os.environ)
    del environment["LC_CTYPE"]
    if given:
        environment["LC_CTYPE"] = os.fsdecode(given[0]).partition("=")[2]
    return environment


def _has_stopped(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is not None
    except ChildProcessError:  # it has ended since it was asked
        return False


def _terminal_told(pid: int, number: int) -> bool:
    """Tell whether a terminal that has sent us this signal has sent it to the program, too.

    It does to all of its foreground group, of which the program need not be any more. When it is closed, SIGHUP is for the
    leader of the session alone.
    """
    alone = number == signal.SIGHUP and os.getsid(0) == os.getpid()
    return number in _OF_TERMINAL and not alone and os.getpgid(pid) == os.getpgrp()


def _send(process: Popen, number: int) -> None:
    try:
        process.send_signal(number)
    except PermissionError:
        pass  # it has become another user's; it is waited for all the same


# ---- pin, unpin ----


def pin(options: Options) -> int:
    """Keep a namespace by a file."""
    type = NamespaceType.parse(options.type)
    is_path = "/" in options.name
    fields = _fields_of_namespace(options)
    if options.cgroup_path is not None:
        fields["cgroup_path"] = options.cgroup_path
    if options.owner is not None:
        fields["user"] = target_of(options.owner, NamespaceType.USER)
    if options.source is None:
        create(type, **{"path" if is_path else "name": options.name}, **fields).close()
        return 0
    if fields:
        raise Usage("nsapi pin: --from keeps a namespace as it is: no other option can be beside it")
    handle = open(target_of(options.source, type), type)
    try:
        if is_path:
            handle.pin(options.name)
        else:
            handle._keep(new_name(type, options.name))
    finally:
        handle.close()
    return 0


def unpin(options: Options) -> int:
    """Take away the file that keeps a namespace."""
    _unpin(options.name, options.type)
    return 0
