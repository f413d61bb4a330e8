# SPDX-License-Identifier: MIT
"""What the command shows: strings that may be hostile, tables, trees; colours and width on a terminal only."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def escape(text: str) -> str:
    r"""Make *text* harmless: what is not printable becomes ``\x1b``, as lsns(8) has it; so a line stays a line."""
    return text if text.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode keeps it
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """Count the columns that *text* takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(character: str) -> int:
    from unicodedata import category, east_asian_width

    return 0 if category(character) in ("Mn", "Me") else 2 if east_asian_width(character) in "WF" else 1


def clip(text: str, room: int) -> str:
    """Cut off what has no room."""
    if width(text) <= room:
        return text
    kept, used = "", 0
    for each in text:
        used += width(each)
        if used > room:
            break
        kept += each
    return kept


def out(text: str) -> None:
    """Write to standard output; OSError where there is none."""
    if sys.stdout is None:
        raise OSError("standard output is closed")
    sys.stdout.write(text)


class Screen:
    """Where the command writes to: how wide, in colour or not, with which lines for trees."""

    __slots__ = ("colour", "columns", "lines")

    def __init__(self) -> None:
        stdout = sys.stdout
        if stdout is not None:
            stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        terminal = stdout is not None and stdout.isatty()
        self.colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.columns = _columns() if terminal else 0
        try:
            "├─└│".encode((stdout and stdout.encoding) or "ascii")
            self.lines = ("├─", "└─", "│ ", "  ")
        except (UnicodeError, LookupError):
            self.lines = ("|-", "`-", "| ", "  ")

    def paint(self, text: str, code: str) -> str:
        """Colour *text*, which leaves its width."""
        return f"\033[{code}m{text}\033[0m" if self.colour and code else text


def _columns() -> int:
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 80


#: The colour of each type's word.
COLOURS = {"user": "33", "ipc": "35", "uts": "36", "net": "32", "pid": "31", "mnt": "34", "cgroup": "95", "time": "96"}
_BOLD = "1"


def table(
    screen: Screen,
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: frozenset[str],
    shrinks: str = "",
    headings: bool = True,
) -> None:
    """Print *rows* below *names*, of which those in *right* stand to the right, and *shrinks* is cut to the width."""
    cells = [[escape(cell) for cell in row] for row in rows]
    widths = [
        max([width(name) if headings else 0, *(width(row[at]) for row in cells)]) for at, name in enumerate(names)
    ]
    if screen.columns and shrinks in names:
        at = names.index(shrinks)
        others = sum(widths) - widths[at] + len(widths) - 1
        widths[at] = min(widths[at], max(screen.columns - others, len(shrinks)))
        cells = [[clip(cell, widths[at]) if place == at else cell for place, cell in enumerate(row)] for row in cells]
    for number, row in enumerate([list(names), *cells] if headings else cells):
        heading = headings and number == 0
        line = []
        for at, (name, cell) in enumerate(zip(names, row, strict=True)):
            space = " " * (widths[at] - width(cell))
            code = _BOLD if heading else COLOURS.get(cell, "") if name == "TYPE" else ""
            painted = screen.paint(cell, code)
            last = at == len(names) - 1
            line.append(space + painted if name in right else painted + ("" if last else space))
        out(" ".join(line).rstrip() + "\n")
