# SPDX-License-Identifier: MIT
"""How large the launcher is: on disk, and in memory, where one stays as the pid 1 of init=True.

Run by its path, as operations.py, so that the nsapi that is measured is the installed one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DISK, RESIDENT = 1024, 1536  # KiB


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


def measure() -> list[dict[str, Any]]:
    """Measure both."""
    import nsapi  # late: who only has it measured may have no compiled one

    disk = (Path(nsapi.__file__).with_name("_launch").stat().st_size + 1023) // 1024
    measured = ("launcher, on disk", disk, DISK), ("launcher, resident", _most_resident(), RESIDENT)
    return [{"name": name, "kib": kib, "limit": limit, "pass": kib <= limit} for name, kib, limit in measured]


def sizes() -> list[dict[str, Any]]:
    """Have both measured."""
    done = subprocess.run([sys.executable, __file__], stdout=subprocess.PIPE, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(measure()))
