# SPDX-License-Identifier: MIT
"""The command line of ``nsapi``: its subcommands, their options, and help that teaches."""

from __future__ import annotations

import argparse
from typing import Any

from nsapi._types import NamespaceType, parse_types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn


class Usage(Exception):
    """The command line is none; the text says why."""


class Help(Exception):
    """The text is what was asked for."""


HELP = """\
usage: nsapi COMMAND [options]

Look at Linux namespaces, make them, keep them, and run programs inside.

  ls      list namespaces, as lsns(8), and those that no process is in
  tree    the same as trees: by owner, parent or process
  show    all about one namespace, or about those of a process
  run     run a program in new namespaces, or in those of others: unshare(1) and nsenter(1) in one
  enter   run a program, or a shell, in the namespaces of a process
  pin     keep a namespace by a name or a file, as `ip netns add` does
  unpin   take that file away again

  nsapi COMMAND --help   the options, with examples
  nsapi --version
  nsapi --debug COMMAND  the traceback of an error

examples:
  nsapi ls --type net                                 who is in which net namespace
  nsapi run --new user,pid,net --init -- sh           a shell as root of its own small world
  nsapi run --join net=blue -- ip addr                in a namespace of `ip netns`
  nsapi enter 4321                                    a shell in all namespaces of process 4321
"""

LS = """\
examples:
  nsapi ls                              all that can be reached from here
  nsapi ls --type net,uts               of these types
  nsapi ls --persistent                 in which nobody is: kept by a file, an fd, a socket, a child
  nsapi ls --task $$                    those of one process
  nsapi ls -o NS,TYPE,PATH              columns of your choice; +PATH adds one
  nsapi ls --json | jq '.namespaces[] | select(.type == "net") | .ns'

columns:
  NS       inode number                  UID      of that process
  TYPE     kind of namespace             USER     its name
  NPROCS   number of processes in it     NETNSID  number known to the caller's net namespace
  PID      the lowest of them            NSFS     where it is mounted
  PPID     its parent                    PNS      parent namespace
  COMMAND  its command line; [what keeps the namespace] where there is no process
  PATH     a file to open it by          ONS      owning user namespace
"""

TREE = """\
examples:
  nsapi tree                            below each user namespace what it owns
  nsapi tree parent --type pid,user     how pid and user namespaces are nested
  nsapi tree process --type net         below each the one that its first process comes from

A namespace of another type is shown where one of the types asked for stands below it.
"""

SHOW = """\
examples:
  nsapi show 4321                       the namespaces of process 4321, and which are those here
  nsapi show blue                       the one that has this name, of `ip netns` or `nsapi pin`
  nsapi show /proc/self/ns/net          the one that this file is
  nsapi show 4026531840                 by its inode number; net:[4026531840] is the same
"""

RUN = """\
examples:
  nsapi run --new user -- id                           root of a user namespace, as `unshare -r`
  nsapi run --new user,pid,mnt --init -- ps aux        with a pid 1 that reaps, and a /proc of its own
  nsapi run --new user,net --loopback -- ip addr       no network but lo
  nsapi run --new user --map auto -- sh                with the ids of /etc/subuid
  nsapi run --new uts --hostname box -- hostname
  nsapi run --join net=blue --join uts=4321 -- ss -tln  net of `ip netns`, uts of process 4321
  nsapi run --join 4321 -- ps aux                      all of process 4321, as `nsenter -a -t 4321`
  nsapi run --new user,time --time-offset boottime=86400 -- uptime

Without a program it is $SHELL. Without --init the program is pid 1 of a new pid namespace, where signals do nothing that
it has no handler for: Ctrl-C too.

exit status: the program's; by the same signal where one ended it; 127 there is no such program inside, 126 it cannot be
started, 2 the command line is wrong, 1 else.
"""

ENTER = """\
examples:
  nsapi enter 4321                      a shell in all its namespaces that differ from ours
  nsapi enter 4321 -- ps aux            a program there
  nsapi enter 4321 net,mnt -- ss -tln   in some of them
  nsapi enter blue -- ip addr           in a namespace of `ip netns`
  nsapi enter 4321 --uid 1000 --gid 1000 -- id

exit status: as of `nsapi run`.
"""

PIN = """\
examples:
  nsapi pin net blue                         a new one, as `ip netns add blue`
  nsapi pin net blue --loopback              with lo up
  nsapi pin uts /run/box.uts --hostname box  to a file of your choice
  nsapi pin net red --from 4321              that of process 4321, which may then end

With a name the file is /run/netns/NAME for net, /run/nsapi/TYPE/NAME for the others. What is there is never replaced.
In a pid namespace a pid 1 is left, which `nsapi unpin` ends.
"""

UNPIN = """\
examples:
  nsapi unpin blue                      as `ip netns del blue`
  nsapi unpin --type uts box            of another type than net
  nsapi unpin /run/box.uts
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples; of one width, so that nothing is loaded to look for another."""

    def __init__(self, prog: str, **given: Any) -> None:
        super().__init__(prog, **{**given, "width": 100})


class Parser(argparse.ArgumentParser):
    """Raises Usage, one line, or Help instead of printing and exiting."""

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{self.prog}: {message} — see `{self.prog} --help`")

    def print_help(self, file: Any = None) -> NoReturn:
        raise Help(self.format_help())


def types_of(words: Sequence[str] | None) -> frozenset[NamespaceType]:
    """Parse the values of ``--type``, each one or several with commas between; all where it is not given."""
    if words is None:
        return frozenset(NamespaceType)
    return frozenset(parse_types(split(words)))


def split(words: Sequence[str] | None) -> list[str]:
    """Split the values of an option that may be given more than once, each with commas."""
    return [each for word in words or () for each in word.split(",")]


def _listing(parser: Parser) -> None:
    add = parser.add_argument
    add("-J", "--json", action="store_true", help="print JSON, of lsns(8)'s shape")
    add("-t", "--type", action="append", metavar="TYPES", help="only of these types; may be repeated")
    add("-o", "--output", metavar="COLUMNS", help="these columns, with commas between; +COLUMN adds one")
    add("-n", "--noheadings", action="store_true", help="print no headings")
    add("-u", "--notruncate", action="store_true", help="cut no command line to the width of the terminal")


def _ls(parser: Parser) -> None:
    _listing(parser)
    parser.add_argument("-P", "--persistent", action="store_true", help="only those that no process is in")
    parser.add_argument("-p", "--task", type=int, metavar="PID", help="only those of this process")


def _tree(parser: Parser) -> None:
    choices = ("owner", "parent", "process")
    parser.add_argument("by", nargs="?", choices=choices, default="owner", help="what stands above (owner)")
    _listing(parser)


def _show(parser: Parser) -> None:
    parser.add_argument("target", metavar="PID|NAME|PATH|ID", help="a process, or one namespace")
    parser.add_argument("-J", "--json", action="store_true", help="print JSON, as NamespaceInfo.to_dict() gives")


def _credentials(parser: Parser) -> None:
    group = parser.add_argument_group("how the program starts")
    add = group.add_argument
    add("--cwd", "--wd", metavar="DIR", help="working directory, inside")
    add("--uid", "--setuid", type=int, metavar="UID", help="uid inside")
    add("--gid", "--setgid", type=int, metavar="GID", help="gid inside")
    add("--groups", metavar="GIDS", help="supplementary gids, with commas between; '' for none")
    add("--cap", metavar="CAPS", help="these capabilities and no others, as CAP_KILL,CAP_NET_RAW; '' for none")
    add("--rlimit", action="append", metavar="NAME=SOFT[:HARD]", help="as NOFILE=1024:4096; may be repeated")
    add("--no-new-privs", action="store_true", help="no setuid program gives more privilege")
    add("--oom-score-adj", type=int, metavar="N", help="-1000 to 1000, proc(5)")
    add("--parent-death-signal", metavar="SIGNAL", help="sent to the program when nsapi ends, as KILL")
    add("--cgroup-path", metavar="DIR", help="cgroup2 directory to start in")


def _user(add: Callable[..., Any]) -> None:
    add("--map", metavar="KIND|MAPS", help="root, current, subids, auto, identity, or INSIDE:OUTSIDE:COUNT,…")
    add("--uid-map", metavar="MAPS", help="the same for uids alone")
    add("--gid-map", metavar="MAPS", help="and for gids")
    add("--setgroups", choices=("allow", "deny"), help="whether setgroups(2) may be called inside")


def _made(add: Callable[..., Any]) -> None:
    add("--hostname", metavar="NAME", help="of a uts namespace")
    add("--domainname", metavar="NAME", help="of a uts namespace")
    add("--loopback", action="store_true", help="bring lo up in a net namespace")
    add("--propagation", choices=("private", "slave", "shared", "unchanged"), help="of all mounts in a new mnt")
    add("--time-offset", action="append", metavar="CLOCK=SECONDS", help="boottime or monotonic, in a new time")
    add("--sysctl", action="append", metavar="KEY=VALUE", help="written in new namespaces; may be repeated")


def _run(parser: Parser) -> None:
    group = parser.add_argument_group("namespaces")
    group.add_argument("--new", action="append", metavar="TYPES", help="make these, as user,pid,net")
    words = "[TYPES=]PID|NAME|PATH"
    group.add_argument("--join", action="append", metavar=words, help="join these, or all that differ; may be repeated")
    group.add_argument("--init", action="store_true", help="a small reaper as pid 1 of the new pid namespace")
    group.add_argument("--keep-proc", action="store_true", help="mount no new /proc for new pid and mnt")
    _user(group.add_argument)
    _made(group.add_argument)
    _credentials(parser)
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- PROGRAM", help="with its arguments ($SHELL)")


def _enter(parser: Parser) -> None:
    parser.add_argument("target", metavar="PID|NAME|PATH", help="a process, or one namespace")
    # Without a default argparse would call it required, in its error.
    words = "as net,mnt; all that differ from ours by default"
    parser.add_argument("types", nargs="*", default=[], metavar="TYPES", help=words)
    _credentials(parser)
    parser.epilog = f"The program and its arguments stand after --.\n\n{parser.epilog}"


def _pin(parser: Parser) -> None:
    parser.add_argument("type", metavar="TYPE", help="user, ipc, uts, net, pid, mnt, cgroup or time")
    parser.add_argument("name", metavar="NAME|PATH", help="what it shall be called; a path has a /")
    parser.add_argument("--from", dest="source", metavar="PID|NAME|PATH", help="keep this one, make none")
    parser.add_argument("--owner", metavar="PID|PATH", help="the user namespace that shall own it")
    parser.add_argument("--cgroup-path", metavar="DIR", help="where a cgroup or pid namespace is made")
    _user(parser.add_argument)
    _made(parser.add_argument)


def _unpin(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME|PATH", help="of which type ever, if it is a path")
    parser.add_argument("-t", "--type", metavar="TYPE", help="of which type the name is (net)")


#: Each subcommand: the module that performs it, what it is, its arguments, its examples.
COMMANDS: dict[str, tuple[str, str, Callable[[Parser], None], str]] = {
    "ls": ("_listing", "List namespaces: those of processes, as lsns(8), and all others that are kept.", _ls, LS),
    "tree": ("_listing", "Print namespaces as trees.", _tree, TREE),
    "show": ("_listing", "Tell all about a namespace, or about those of a process.", _show, SHOW),
    "run": ("_payload", "Run a program in new namespaces, or in those of others.", _run, RUN),
    "enter": ("_payload", "Run a program, or a shell, in the namespaces of a process.", _enter, ENTER),
    "pin": ("_payload", "Keep a new namespace, or one that there is, by a name or a file.", _pin, PIN),
    "unpin": ("_payload", "Take away the file that keeps a namespace.", _unpin, UNPIN),
}
USAGES = {
    "run": "nsapi run [--new TYPES] [--join …] [options] [--] [PROGRAM [ARGUMENT …]]",
    "enter": "nsapi enter PID|NAME|PATH [TYPES …] [options] [-- PROGRAM [ARGUMENT …]]",
}


def parser_of(command: str) -> Parser:
    """Make the parser of one subcommand."""
    _, words, arguments, examples = COMMANDS[command]
    parser = Parser(
        prog=f"nsapi {command}",
        usage=USAGES.get(command),
        description=words,
        epilog=examples,
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    arguments(parser)
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def parse(words: Sequence[str]) -> tuple[Callable[[argparse.Namespace], int], argparse.Namespace]:
    """Find out what is to be done, and with which options. Raises Usage."""
    none = argparse.Namespace(debug=False)
    command = words[0] if words else ""
    if command in ("-h", "--help", "help"):
        about = words[1] if command == "help" and words[1:] else ""
        if about and about not in COMMANDS:
            raise Usage(_no_command(about))
        return _say(parser_of(about).format_help() if about else HELP), none
    if command in ("-V", "--version"):
        return _version, none
    if command not in COMMANDS:
        raise Usage(_no_command(command if words else None))
    parser = parser_of(command)
    rest = list(words[1:])
    argv: list[str] = []
    if command == "enter" and "--" in rest:
        at = rest.index("--")
        rest, argv = rest[:at], rest[at + 1 :]
    try:
        options = parser.parse_intermixed_args(rest) if command == "enter" else parser.parse_args(rest)
    except Help as help:
        return _say(str(help)), none
    if command == "enter":
        options.argv = argv
    elif command == "run" and options.argv[:1] == ["--"]:
        del options.argv[0]
    from importlib import import_module

    perform: Callable[[argparse.Namespace], int] = getattr(import_module(f"nsapi.{COMMANDS[command][0]}"), command)
    return perform, options


def _no_command(word: str | None) -> str:
    known = ", ".join(COMMANDS)
    said = f"which command? One of {known}" if word is None else f"{word!r} is none of the commands {known}"
    return f"nsapi: {said} — see `nsapi --help`"


def _say(text: str) -> Callable[[argparse.Namespace], int]:
    def perform(_: argparse.Namespace) -> int:
        import signal

        from nsapi._screen import Screen, out

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `nsapi run --help | head`
        Screen()
        out(text)
        return 0

    return perform


def _version(_: argparse.Namespace) -> int:
    from importlib.metadata import version

    from nsapi._screen import out

    out(f"nsapi {version('nsapi')}\n")
    return 0
