# SPDX-License-Identifier: MIT
"""python -m benchmarks: measures the rows, prints the table, writes JSON; with --check, a miss is exit status 1."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import measure, record
from benchmarks.rows import HAS_PYROUTE2, rows
from benchmarks.sizes import sizes

LINE = "{:28} {:>10}  {:>10}  {:>10}  {}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "CPU part"):
            return value.strip()
    return platform.machine()


def _circumstances() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "nsapi": importlib.metadata.version("nsapi"),
    }


def _time(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:.2f} ms" if nanoseconds >= 1e5 else f"{nanoseconds / 1e3:.2f} us"


def _print(row: dict[str, Any]) -> None:
    """One line for each that ours is compared with, and PASS or MISS where that is an aim."""
    print(f"\n{row['name']}: {row['job']}")
    print(LINE.format(row["ours"]["name"], _time(row["ours"]["median_ns"]), "", "", "").rstrip())
    aims = {each["against"]: each for each in row["aims"]}
    for each in (row["floor"], *row["peers"]):
        aim = aims.get(each["name"])
        compared, limit, verdict = f"{each['ratio']:.2f} x", "", ""
        if aim is not None and aim["unit"] == "ms more":
            compared, limit = f"{aim['measured']:+.1f} ms", f"<= {aim['limit']} ms"
        elif aim is not None:
            limit = f"<= {aim['limit']:.2f} x"
        if aim is not None:
            verdict = "PASS" if aim["pass"] else "MISS"
        print(LINE.format(each["name"], _time(each["median_ns"]), compared, limit, verdict).rstrip())


def main() -> int:
    """Measure, print, write; 1 if --check finds a miss."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if an aim is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--only", action="append", metavar="ROW", help="measure this row; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a few rounds, small: tries the harness, measures nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nsapi-benchmarks-") as folder:
        floors = Path(folder) / "floors"
        table = rows(floors, quick=options.quick)
        unknown = set(options.only or ()) - {each.name for each in table}
        if unknown:
            parser.error(f"--only: {', '.join(unknown)}: the rows are {', '.join(each.name for each in table)}")
        if os.geteuid() != 0:
            parser.error("needs root: it enters namespaces")
        for command in ("cc", "unshare", "nsenter", "newuidmap", "lsns"):
            if shutil.which(command) is None:
                parser.error(f"needs the command {command}")
        source = Path(__file__).with_name("floors.c")
        subprocess.run(["cc", "-O2", "-Wall", "-o", str(floors), str(source)], check=True)
        result = {**_circumstances(), "quick": options.quick, "rows": []}
        print(*(f"{name} {result[name]}" for name in ("nsapi", "python", "kernel", "cpu")), sep=" · ")
        print("medians; x: the first line's time divided by that of this one")
        if not HAS_PYROUTE2:
            print("pyroute2 is not installed: socket is not compared with it")
        for row in table:
            if not options.only or row.name in options.only:
                result["rows"].append(record(row, measure(row)))
                _print(result["rows"][-1])
                sys.stdout.flush()
        result["sizes"] = [] if options.only else sizes(floors, quick=options.quick)
        for each in result["sizes"]:
            verdict = "PASS" if each["pass"] else "MISS"
            print(f"\n{each['name']}: {each['kib']} KiB <= {each['limit']} KiB  {verdict}")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    missed = [each for row in result["rows"] for each in row["aims"] if not each["pass"]]
    missed += [each for each in result["sizes"] if not each["pass"]]
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
