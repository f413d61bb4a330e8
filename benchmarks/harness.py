# SPDX-License-Identifier: MIT
"""Measures contestants side by side: one short request each, in turns, round after round; medians."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Contestant:
    """Who does the job: an operation of a worker, performed *count* times in each round."""

    name: str
    worker: tuple[str, ...]
    operation: str
    count: int = 1


@dataclass(frozen=True)
class Aim:
    """What is promised of ours against a contestant: at most *limit* times its time, or *limit* ms more."""

    against: str
    limit: float
    in_ms: bool = False


@dataclass(frozen=True)
class Row:
    """A job: ours, the floor that it is measured against, and peers.

    *settle* is how long, in seconds, the kernel gets after each request to finish what that one has left behind.
    """

    name: str
    job: str
    ours: Contestant
    floor: Contestant
    peers: tuple[Contestant, ...] = ()
    aims: tuple[Aim, ...] = ()
    rounds: int = 60
    warmup: int = 3
    settle: float = 0.0

    @property
    def contestants(self) -> tuple[Contestant, ...]:
        """All of them, each with a name of its own."""
        return (self.ours, self.floor, *self.peers)


class Worker:
    """A process that performs operations and times them itself; ``with`` starts and ends it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.__exit__(kind, error, trace)

    def ask(self, operation: str, count: int) -> int:
        """Have *operation* performed *count* times in a row: the nanoseconds that one took."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{operation} {count}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker for {operation} has ended: {self.process.wait()}")
        return int(answer)


def measure(row: Row) -> dict[str, list[int]]:
    """Run the rounds of a row: the samples of each contestant, in nanoseconds."""
    samples: dict[str, list[int]] = {each.name: [] for each in row.contestants}
    with ExitStack() as stack:
        commands = dict.fromkeys(each.worker for each in row.contestants)
        started = {command: stack.enter_context(Worker(command)) for command in commands}
        for number in range(-row.warmup, row.rounds):
            # Nobody always runs behind the same neighbour.
            first = number % len(row.contestants)
            for each in row.contestants[first:] + row.contestants[:first]:
                took = started[each.worker].ask(each.operation, each.count)
                time.sleep(row.settle)
                if number >= 0:
                    samples[each.name].append(took)
    return samples


def record(row: Row, samples: dict[str, list[int]]) -> dict[str, Any]:
    """Make of the samples what goes into the JSON."""
    medians = {name: statistics.median(each) for name, each in samples.items()}
    ours = medians[row.ours.name]

    def contestant(each: Contestant) -> dict[str, Any]:
        low, _, high = statistics.quantiles(samples[each.name], n=4)
        median = medians[each.name]
        told = {"name": each.name, "median_ns": median, "quartiles_ns": [low, high], "count": each.count}
        return told if each is row.ours else {**told, "ratio": ours / median, "more_ms": (ours - median) / 1e6}

    def aim(each: Aim) -> dict[str, Any]:
        against = medians[each.against]
        measured = (ours - against) / 1e6 if each.in_ms else ours / against
        return {
            "against": each.against,
            "unit": "ms more" if each.in_ms else "x",
            "measured": measured,
            "limit": each.limit,
            "pass": measured <= each.limit,
        }

    return {
        "name": row.name,
        "job": row.job,
        "rounds": row.rounds,
        "ours": contestant(row.ours),
        "floor": contestant(row.floor),
        "peers": [contestant(each) for each in row.peers],
        "aims": [aim(each) for each in row.aims],
    }
