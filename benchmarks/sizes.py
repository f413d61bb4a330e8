# SPDX-License-Identifier: MIT
"""How large things are: the launcher on disk, and in memory, where one stays as the pid 1 of init=True; a snapshot.

Run by its path, as operations.py, so that the nsapi that is measured is the installed one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DISK, RESIDENT, SNAPSHOT = 1024, 1536, 32 * 1024  # KiB
CROWD = 10_000


def _status(pid: str) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _most_resident() -> int:
    """What the reaper has had resident at most, as a launcher or since, in KiB."""
    import nsapi

    config = nsapi.Config.new("user", "pid", init=True)
    with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE):
        found = [_status(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        (reaper,) = (
            each for each in found if each.get("Name") == "nsapi-init" and each.get("PPid") == str(os.getpid())
        )
        return int(reaper["VmHWM"].split()[0])


def _row(name: str, kib: int, limit: int) -> dict[str, Any]:
    return {"name": name, "kib": kib, "limit": limit, "pass": kib <= limit}


def snapshot() -> list[dict[str, Any]]:
    """Measure what a snapshot of all these processes needs at most while it is made, with its JSON after that."""
    import nsapi

    nsapi.discover(sources="threads").to_json()  # what is loaded once, without anything of that size
    before = int(_status("self")["VmRSS"].split()[0])
    Path("/proc/self/clear_refs").write_text("5")  # what was most is forgotten
    made = nsapi.discover()
    most = int(_status("self")["VmHWM"].split()[0])
    count = sum(1 for pid in os.listdir("/proc") if pid.isdigit())
    assert max(each.nprocs for each in made) == count
    made.to_json()
    last = int(_status("self")["VmHWM"].split()[0])
    text = f"snapshot of {count:,} processes, all sources"
    return [_row(text, most - before, SNAPSHOT), _row(f"{text}, and its JSON", last - before, SNAPSHOT)]


def measure() -> list[dict[str, Any]]:
    """Measure the launcher."""
    import nsapi  # late: who only has it measured may have no compiled one

    disk = (Path(nsapi.__file__).with_name("_launch").stat().st_size + 1023) // 1024
    return [_row("launcher, on disk", disk, DISK), _row("launcher, resident", _most_resident(), RESIDENT)]


def sizes(floors: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Have all measured; the snapshot in a crowd that *floors* makes."""
    crowd = [str(floors), "crowd", str(CROWD // 20 if quick else CROWD)]
    found: list[dict[str, Any]] = []
    for command in ([sys.executable, __file__], [*crowd, sys.executable, __file__, "snapshot"]):
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found += json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(snapshot() if sys.argv[1:] == ["snapshot"] else measure()))
