"""The benchmarks run and tell about every row. Nothing here is timed: how fast it is, a machine of its own has to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY, lacking, tool

ROWS = [
    *("spawn", "spawn-2GiB-16threads", "launch-range", "launch-join", "launch-2GiB-16threads"),
    *("enter", "discover-2000", "discover-10000", "discover-growth", "socket", "socket-name", "visit", "call", "pool"),
    *("import", "ls"),
]


def test_quick_run_measures_every_row(tmp_path: Path) -> None:
    """`python -m benchmarks --quick --json FILE`, from the root of the repository."""
    if os.geteuid() != 0:
        lacking("root")
    for name in ("cc", "unshare", "nsenter", "newuidmap", "lsns"):
        tool(name)
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    results = json.loads(file.read_text())
    assert {"date", "kernel", "python", "cpu", "nsapi"} <= results.keys()
    assert [row["name"] for row in results["rows"]] == ROWS
    for row in results["rows"]:
        assert row["name"] in done.stdout
        assert row["ours"]["median_ns"] > 0
        others = [row["floor"], *row["peers"]]
        assert all(each["median_ns"] > 0 and each["ratio"] > 0 for each in others)
        assert row["aims"]
        assert {each["against"] for each in row["aims"]} <= {each["name"] for each in others}
        assert all(isinstance(each["pass"], bool) for each in row["aims"])
    assert [each["name"].split(" of ")[0] for each in results["sizes"]] == [
        *("launcher, on disk", "launcher, resident"),
        *("snapshot", "snapshot"),
    ]
    assert all(each["pass"] for each in results["sizes"])  # sizes are the same on every machine


def test_unknown_row_is_refused_with_the_rows_there_are(tmp_path: Path) -> None:
    """A slip in --only measures nothing."""
    command = [sys.executable, "-m", "benchmarks", "--only", "spwan"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "spwan" in done.stderr
    assert all(name in done.stderr for name in ROWS)


def test_check_ends_with_1_where_an_aim_is_missed(tmp_path: Path) -> None:
    """`--check` is for CI: a miss is told and is exit status 1; without it a run that has measured ends 0."""
    if os.geteuid() != 0:
        lacking("root")
    tool("cc")
    code = """if True:
        import sys
        from benchmarks import __main__ as program, rows
        def impossible(floors, *, quick=False):
            (row,) = [each for each in rows.rows(floors, quick=True) if each.name == "import"]
            return [rows.Row(row.name, row.job, row.ours, row.floor, (), (rows.Aim(row.floor.name, 1e-9),), rounds=3)]
        program.rows, program.sizes = impossible, lambda *_, **__: []
        sys.exit(program.main())
    """
    for argv, status in (((), 0), (("--check",), 1)):
        command = [sys.executable, "-c", code, *argv]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        assert "MISS" in done.stdout
