"""What test_boot starts by each spawner, and how it reaches it; beside inside.py, where bodies and programs import it."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import nsapi

T = TypeVar("T")
BootProcess: Any = importlib.import_module("boot_multiprocessing").BootProcess  # the example's, beside this file

# ---- the program ----


class Custom(Exception):
    """As people write them: with attributes, and arguments that are not those of Exception."""

    def __init__(self, first: str, second: Any) -> None:
        super().__init__(f"{first}: {len(second)}")
        self.first, self.second = first, second

    def __reduce__(self) -> Any:
        return type(self), (self.first, self.second)


def act(what: str, out: Any = None) -> None:
    """Tell in one line what this process is at its beginning, then do *what*."""
    threads = len(os.listdir("/proc/self/task"))
    facts: dict[str, Any] = {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "threads": threads,
        "sid": os.getsid(0),
        "pgid": os.getpgid(0),
    }
    facts["ns"] = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    facts["mask"] = sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    caught: list[int] = []
    if what == "catch":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, lambda number, frame: caught.append(number))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if what == "family":
        subprocess.Popen(["sleep", "1000"], close_fds=False)
        for fd in (1, out.fileno() if out is not None else 1):
            os.set_inheritable(fd, True)
        subprocess.Popen(["sleep", "1000"], close_fds=False)
    line = json.dumps(facts)
    if out is None:
        print(line, flush=True)
    else:
        out.send(line)
    if what == "exit":
        sys.exit(7)
    if what == "crash":
        ctypes.string_at(0)
    if what == "close":
        if out is None:
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        else:
            out.close()
    while len(caught) < 3 and os.getppid() >= 0:
        time.sleep(0.01 if what == "catch" else 1000)
    sys.exit(len(set(caught)))


# ---- who starts it ----


class Subprocess:
    def __init__(self, boot: Any, what: str) -> None:
        command = [sys.executable, "-c", f"import booting; booting.act({what!r})"]
        self.process = subprocess.Popen(command, env=boot.env, pass_fds=boot.pass_fds, stdout=subprocess.PIPE)

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def wait(self) -> int | None:
        return self.process.wait(60)

    def close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()


class Asyncio:
    def __init__(self, boot: Any, what: str) -> None:
        self.loop = asyncio.new_event_loop()
        command = [sys.executable, "-c", f"import booting; booting.act({what!r})"]
        self.process = self.run(
            asyncio.create_subprocess_exec(*command, env=boot.env, pass_fds=boot.pass_fds, stdout=subprocess.PIPE)
        )

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(what, 60))

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.run(self.process.stdout.readline())

    def wait(self) -> int | None:
        return self.run(self.process.wait())

    def close(self) -> None:
        self.run(asyncio.sleep(0))
        self.loop.close()
        while len(os.listdir("/proc/self/task")) > 1:  # the thread that has waited for it is on its way out
            os.sched_yield()


class Multiprocessing:
    def __init__(self, boot: Any, what: str) -> None:
        self.ours, theirs = multiprocessing.get_context("spawn").Pipe()
        self.process = BootProcess(None, target=act, args=(what, theirs))
        self.process.boot = boot
        multiprocessing.Process.start(self.process)  # without its with and confirm: both are ours
        theirs.close()

    def line(self) -> bytes:
        try:
            return bytes(self.ours.recv(), "utf-8")
        except (EOFError, ConnectionResetError):
            return b""

    def wait(self) -> int | None:
        self.process.join(60)
        exitcode: int | None = self.process.exitcode
        return exitcode

    def close(self) -> None:
        self.ours.close()
        multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # it is a child too, and no zombie


SPAWNERS: dict[str, Callable[[Any, str], Any]] = {
    "subprocess": Subprocess,
    "asyncio": Asyncio,
    "multiprocessing": Multiprocessing,
}


class Scene:
    """A program started by one of them, inside."""

    def __init__(self, spawner: str, what: str, *types: str, **fields: Any) -> None:
        self.boot = nsapi.boot_env(nsapi.Config.new(*types, **fields))
        self.spawned = SPAWNERS[spawner](self.boot, what)
        self.process = self.spawned.process
        self.pids = self.boot.confirm(60, self.process)
        self.pidfd = os.pidfd_open(self.pids.program)
        self.facts = json.loads(self.spawned.line())

    def end(self) -> int | None:
        """Wait for what the spawner holds, for the program, and until nobody has the pipe that all inside inherit."""
        status: int | None = self.spawned.wait()
        assert self.spawned.line() == b""
        assert select.select([self.pidfd], [], [], 60)[0], "the program is alive"
        os.close(self.pidfd)
        self.spawned.close()
        self.boot.close()
        return status


def initialized(code: str) -> tuple[Any, int, str, str]:
    """Run *code* inside, until it is ready: what wait_ready raises, the exit status, what it has printed."""
    with nsapi.boot_env(nsapi.Config.new("user", "pid", "mnt")) as boot:
        command = [sys.executable, "-c", f"import nsapi, os, sys\n{code}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, env=boot.env, pass_fds=boot.pass_fds, text=True, **pipes)  # type: ignore[call-overload]
        error = None
        try:
            boot.wait_ready(60, process)
        except Exception as caught:
            error = caught
        output, errors = process.communicate()
    return error, process.returncode, output, errors
