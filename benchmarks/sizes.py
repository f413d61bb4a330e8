# SPDX-License-Identifier: MIT
"""How large the launcher is: on disk, and in memory, where one stays as the pid 1 of init=True."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import nsapi

DISK, RESIDENT = 1024, 1536  # KiB


def _status(pid: str) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _most_resident() -> int:
    """What the reaper has had resident at most, as a launcher or since, in KiB."""
    config = nsapi.Config.new("user", "pid", init=True)
    with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE):
        found = [_status(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        (reaper,) = (
            each for each in found if each.get("Name") == "nsapi-init" and each.get("PPid") == str(os.getpid())
        )
        return int(reaper["VmHWM"].split()[0])


def sizes() -> list[dict[str, Any]]:
    """Measure both."""
    disk = (Path(nsapi.__file__).with_name("_launch").stat().st_size + 1023) // 1024
    measured = ("launcher, on disk", disk, DISK), ("launcher, resident", _most_resident(), RESIDENT)
    return [{"name": name, "kib": kib, "limit": limit, "pass": kib <= limit} for name, kib, limit in measured]
