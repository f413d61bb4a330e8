# SPDX-License-Identifier: MIT
"""``nsapi ls``, ``tree`` and ``show``: what discover has found, in lsns(8)'s columns."""

from __future__ import annotations

import os
import sys
from typing import Any

from nsapi._command import Usage, types_of
from nsapi._discover import discover
from nsapi._screen import Screen, escape, out, table
from nsapi._types import NamespaceType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace as Options
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from nsapi._snapshot import NamespaceInfo, Node, Snapshot
    from nsapi._tasks import Process

DEFAULT = ("NS", "TYPE", "NPROCS", "PID", "USER", "COMMAND")
#: With --type net alone.
DEFAULT_NET = ("NS", "TYPE", "NPROCS", "PID", "USER", "NETNSID", "NSFS", "COMMAND")
RIGHT = frozenset(("NS", "NPROCS", "PID", "PPID", "UID", "NETNSID", "PNS", "ONS"))


class Row:
    """One namespace, and the first of its processes, which is read when a column wants it."""

    def __init__(self, info: NamespaceInfo, snap: Snapshot) -> None:
        self.info, self._snap = info, snap
        self._process: Process | None = None
        self._read = False

    @property
    def process(self) -> Process | None:
        if not self._read:
            pids = self.info.pids
            self._process, self._read = (self._snap.process(pids[0]) if pids else None), True
        return self._process

    def of_process(self, name: str) -> Any:
        return getattr(self.process, name, None)

    def user(self) -> str | None:
        return None if self.process is None else user_name(self.process.uid)

    def nsfs(self) -> list[str] | None:
        return [pin.path for pin in self.info.pinned if pin.here] or None

    def path(self) -> str | None:
        if self.info.nprocs:
            return f"/proc/{self.info.pids[0]}/ns/{self.info.type.proc_name}"
        here = self.nsfs()
        return here[0] if here else next((str(each) for each in self.info._references if each.kind == "path"), None)

    def kept_by(self) -> str:
        """Say what keeps a namespace that no process is in."""
        found = self.nsfs() or list(self.info.references)
        return f"[{found[0]}]" if found else ""


#: Each column: its value, as in JSON, where it is null if there is none.
VALUES: dict[str, Callable[[Row], Any]] = {
    "NS": lambda row: row.info.id[1],
    "TYPE": lambda row: row.info.type.proc_name,
    "PATH": Row.path,
    "NPROCS": lambda row: row.info.nprocs,
    "PID": lambda row: row.info.pids[0] if row.info.nprocs else None,
    "PPID": lambda row: row.of_process("ppid"),
    "COMMAND": lambda row: row.of_process("command"),
    "UID": lambda row: row.of_process("uid"),
    "USER": Row.user,
    "NETNSID": lambda row: row.info.nsid,
    "NSFS": Row.nsfs,
    "PNS": lambda row: row.info.parent_id[1] if row.info.parent_id else None,
    "ONS": lambda row: row.info.owner_id[1] if row.info.owner_id else None,
}

_names: dict[int, str] = {}


def user_name(uid: int) -> str:
    """Look up what the host calls *uid*: its number where it has no name."""
    if uid not in _names:
        try:
            from pwd import getpwuid

            _names[uid] = getpwuid(uid).pw_name
        except (ImportError, KeyError):
            _names[uid] = str(uid)
    return _names[uid]


def _text(name: str, row: Row) -> str:
    value = VALUES[name](row)
    if name == "COMMAND" and not row.info.nprocs:
        return row.kept_by()
    if value is None:
        return "unassigned" if name == "NETNSID" and row.info.type is NamespaceType.NET else ""
    return ",".join(value) if isinstance(value, list) else str(value)


def _columns(words: str | None, default: Sequence[str]) -> list[str]:
    if words is None:
        return list(default)
    names = list(default) if words.startswith("+") else []
    for word in words.removeprefix("+").upper().split(","):
        if word not in VALUES:
            raise Usage(f"nsapi: --output: {word!r} is none of {', '.join(VALUES)}")
        if word not in names:
            names.append(word)
    return names


def ls(options: Options) -> int:
    """List the namespaces."""
    wanted = types_of(options.type)
    snap = discover()
    found: Iterable[NamespaceInfo] = snap
    if options.task is not None:
        try:
            found = snap.of(options.task)
        except KeyError:
            raise ProcessLookupError(
                f"process {options.task} is not there, or its namespaces may not be seen"
            ) from None
    if options.persistent:
        persistent = set(snap.persistent())
        found = [each for each in found if each in persistent]
    rows = [Row(each, snap) for each in found if each.type in wanted]
    names = _columns(options.output, DEFAULT_NET if wanted == {NamespaceType.NET} else DEFAULT)
    if options.json:
        _json({"namespaces": [_plain(row, names) for row in rows], "unseen": list(snap.unseen)})
        return 0
    _print(names, [[_text(name, row) for name in names] for row in rows], options)
    _tell_unseen(snap)
    return 0


def tree(options: Options) -> int:
    """Print the trees of namespaces."""
    wanted = types_of(options.type)
    snap = discover()
    tops = _kept(snap.tree(options.by), wanted)
    names = _columns(options.output, DEFAULT)
    if options.json:
        _json({"namespaces": [_nested(top, snap, names) for top in tops], "unseen": list(snap.unseen)})
        return 0
    screen = Screen()
    rows = []
    for art, info in _drawn(tops, screen.lines):
        row = Row(info, snap)
        rows.append([art + _text(name, row) if name == names[0] else _text(name, row) for name in names])
    _print(names, rows, options, screen, right=RIGHT - {names[0]})
    _tell_unseen(snap)
    return 0


def _kept(nodes: Iterable[Node], wanted: frozenset[NamespaceType]) -> list[Node]:
    """Leave out what is of other types, but for those that what is wanted stands below."""
    if wanted == frozenset(NamespaceType):
        return list(nodes)
    stack = list(nodes)
    order = []
    for node in stack:
        order.append(node)
        stack += node.children
    alive = set()
    for node in reversed(order):
        node.children = [child for child in node.children if child.namespace in alive]
        if node.children or node.namespace.type in wanted:
            alive.add(node.namespace)
    return [node for node in nodes if node.namespace in alive]


def _drawn(tops: Sequence[Node], lines: tuple[str, str, str, str]) -> Iterator[tuple[str, NamespaceInfo]]:
    """Give each namespace with the lines before it."""
    tee, corner, bar, blank = lines
    stack = [(node, "", "") for node in reversed(tops)]
    while stack:
        node, own, below = stack.pop()
        yield own, node.namespace
        for place, child in enumerate(reversed(node.children)):
            last = place == 0
            stack.append((child, below + (corner if last else tee), below + (blank if last else bar)))


def _plain(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {name.lower(): VALUES[name](row) for name in names}


def _nested(top: Node, snap: Snapshot, names: Sequence[str]) -> dict[str, Any]:
    made = _plain(Row(top.namespace, snap), names)
    stack = [(top, made)]
    while stack:
        node, into = stack.pop()
        if node.children:
            into["children"] = [_plain(Row(child.namespace, snap), names) for child in node.children]
            stack += zip(node.children, into["children"], strict=True)
    return made


def _json(value: Any) -> None:
    import json

    try:
        text = json.dumps(value, indent=2)
    except RecursionError:  # user namespaces nest 33 deep at most, so this is a tree by process
        raise OSError("the tree is too deep for JSON: use `nsapi ls --json`") from None
    out(text + "\n")


def _print(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    options: Options,
    screen: Screen | None = None,
    right: frozenset[str] = RIGHT,
) -> None:
    screen = screen or Screen()
    if options.notruncate:
        screen.columns = 0
    table(screen, names, rows, right=right, shrinks="COMMAND", headings=not options.noheadings)


def _tell_unseen(snap: Snapshot) -> None:
    if snap.unseen and sys.stderr is not None and sys.stderr.isatty():
        sys.stdout.flush()
        for each in snap.unseen:
            print(f"nsapi: not seen: {escape(each)}", file=sys.stderr)  # noqa: T201


# ---- show ----


def show(options: Options) -> int:
    """Tell all about one namespace, or about those of a process."""
    word: str = options.target
    if word.isascii() and word.isdecimal() and int(word) <= _MOST_PIDS:
        return _show_process(int(word), options)
    inode = _inode_of(word)
    snap = discover()
    info = next((each for each in snap if each.id[1] == inode), None)
    if info is None:
        raise FileNotFoundError(f"{word} is no namespace that can be reached from here")
    if options.json:
        _json(info.to_dict())
        return 0
    screen = Screen()
    facts = _facts(info, snap)
    space = max(len(name) for name, _ in facts)
    for name, values in facts:
        for number, value in enumerate(values):
            label = f"{name if number == 0 else '':<{space}}"
            out(f"{screen.paint(label, '1' if number == 0 else '')}  {escape(value)}\n")
    _tell_unseen(snap)
    return 0


#: The kernel's own limit, PID_MAX_LIMIT; the inode numbers of namespaces are greater by far.
_MOST_PIDS = 1 << 22


def _inode_of(word: str) -> int:
    from nsapi._payload import target_of
    from nsapi._target import open

    number = word
    if ":[" in word and word.endswith("]"):  # net:[4026531840]
        number = word[word.index(":[") + 2 : -1]
    if number.isascii() and number.isdecimal():
        return int(number)
    handle = open(target_of(word))
    try:
        return handle.id[1]
    finally:
        handle.close()


def _name(info: NamespaceInfo | None, id: tuple[int, int] | None, type: str) -> str:
    if info is not None:
        return f"{info.type.proc_name}:[{info.id[1]}]"
    return f"{type}:[{id[1]}]" if id else ""


def _facts(info: NamespaceInfo, snap: Snapshot) -> list[tuple[str, list[str]]]:
    def who(pid: int) -> str:
        process = snap.process(pid)
        return f"{pid} {user_name(process.uid)} {process.command}" if process else f"{pid} has ended"

    own = f"/proc/{os.getpid()}/"
    facts: list[tuple[str, list[str]]] = [
        ("namespace", [f"{info.type.proc_name}:[{info.id[1]}]"]),
        ("device, inode", [f"{info.id[0]}, {info.id[1]}"]),
        ("kernel's id", [str(info.ns_id)] if info.ns_id is not None else []),
        ("owner", [_name(info.owner, info.owner_id, "user")]),
        ("owner's uid", [f"{info.owner_uid} ({user_name(info.owner_uid)})"] if info.owner_uid is not None else []),
        ("parent", [_name(info.parent, info.parent_id, info.type.proc_name)]),
        ("children", [_name(each, each.id, "") for each in info.children]),
        ("owns", [_name(each, each.id, "") for each in info.owned]),
        ("netnsid", [str(info.nsid)] if info.nsid is not None else []),
        ("pinned", [pin.path + ("" if pin.here else f" in mnt:[{pin.mnt[1]}]") for pin in info.pinned]),
        ("processes", [str(info.nprocs)]),
        ("leaders", [who(pid) for pid in info.leaders]),
        ("threads", [f"{each.tid} of {who(each.pid)}" for each in info.threads]),
        ("reached by", [each for each in info.references if not each.startswith(own)]),
    ]
    return [(name, [each for each in values if each]) for name, values in facts if any(values)]


def _show_process(pid: int, options: Options) -> int:
    snap = discover()
    process = snap.process(pid)
    try:
        found = snap.of(pid)
    except KeyError:
        found = ()
    if process is None or not found:
        raise ProcessLookupError(f"process {pid} is not there, or its namespaces may not be seen")
    own = set(snap.of(os.getpid()))
    if options.json:
        facts = {"pid": pid, "ppid": process.ppid, "uid": process.uid, "name": process.name, "command": process.command}
        _json({**facts, "namespaces": [{**each.to_dict(), "same": each in own} for each in found]})
        return 0
    screen = Screen()
    out(f"process {pid} of {escape(user_name(process.uid))}, child of {process.ppid}: {escape(process.command)}\n")
    rows = []
    for each in found:
        row = Row(each, snap)
        relation = "same as here" if each in own else ""
        rows.append([*(_text(name, row) for name in ("NS", "TYPE", "NPROCS", "ONS")), relation])
    table(screen, ("NS", "TYPE", "NPROCS", "ONS", "HERE"), rows, right=RIGHT)
    _tell_unseen(snap)
    return 0
