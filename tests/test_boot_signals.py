"""Who stands between a spawner and its program passes on every signal, once, and ends and stops as the program does."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

import pytest
from conftest import Runner
from inside import Any, children

import nsapi

KINDS = (["user", "pid", "mnt"], ["user", "time"], ["user", "net"])
IDS = ["pid 1", "child", "itself"]

#: Takes signals one by one, and tells number and si_code of each.
TAKER = """
import signal
all = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
signal.pthread_sigmask(signal.SIG_BLOCK, all)
print("ready", flush=True)
while True:
    info = signal.sigwaitinfo(all)
    print(info.si_signo, info.si_code, flush=True)
"""
CATCHABLE = sorted(set(map(int, signal.valid_signals())) - {signal.SIGKILL, signal.SIGSTOP})
#: Of those that end nobody by themselves; and those that stop.
IGNORED = {int(each) for each in (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)}
STOPPING = {int(each) for each in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)}


@pytest.mark.parametrize("types", KINDS, ids=IDS)
def test_every_signal_that_can_be_caught_reaches_the_program_once(anyone: Runner, types: list[str]) -> None:
    """By number, in order; one that was queued with a value says so."""

    def body(types: list[str], code: str, signals: list[int]) -> Any:
        with nsapi.boot_env(nsapi.Config.new(*types)) as boot:
            process = subprocess.Popen(
                [sys.executable, "-c", code], env=boot.env, pass_fds=boot.pass_fds, stdout=subprocess.PIPE, text=True
            )
            boot.confirm(60, process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        taken = []
        try:
            for number in signals:
                os.kill(process.pid, number)
                taken.append(process.stdout.readline().split())
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.sigqueue(process.pid, signal.SIGRTMIN + 1, ctypes.c_void_p(5)) == 0
            queued = process.stdout.readline().split()
        finally:
            process.kill()
        rest = process.stdout.read()
        process.stdout.close()
        return [number for number, _ in taken], {code for _, code in taken} <= {"0"}, queued[1], rest, process.wait()

    names = [str(number) for number in CATCHABLE]
    assert anyone(body, types, TAKER, CATCHABLE) == [names, True, "-1", "", -9]


@pytest.mark.parametrize("types", KINDS[:2], ids=IDS[:2])
def test_every_signal_that_nobody_catches_does_what_it_does(anyone: Runner, types: list[str]) -> None:
    """It ends both by that signal, or changes nothing."""

    def body(types: list[str], signals: list[int], harmless: list[int]) -> Any:
        for number in signals:
            if number not in (9, 19):
                signal.signal(number, signal.SIG_DFL)  # under nohup, some are ignored
        wrong = []
        for number in signals:
            with nsapi.boot_env(nsapi.Config.new(*types)) as boot:
                process = subprocess.Popen(["sleep", "1000"], env=boot.env, pass_fds=boot.pass_fds)
                boot.confirm(60, process)
            os.kill(process.pid, number)
            if number in harmless:
                os.kill(process.pid, signal.SIGTERM)  # comes later
            expected = -signal.SIGTERM if number in harmless else -number
            try:
                if process.wait(20) != expected:
                    wrong.append((number, process.returncode))
            finally:
                process.kill()
        return wrong, children()

    signals = [number for number in CATCHABLE if number not in STOPPING] + [9]
    assert anyone(body, types, signals, sorted(IGNORED)) == [[], []]


@pytest.mark.parametrize(("key", "number"), [("", 1), ("\x03", 2), ("\x1c", 3)], ids=["hangup", "Ctrl-C", "Ctrl-\\"])
@pytest.mark.parametrize("types", KINDS[:2], ids=IDS[:2])
def test_a_terminal_of_its_own_ends_the_program(anyone: Runner, types: list[str], key: str, number: int) -> None:
    """By a key, which all in the group are told, or by hanging up, which only who stands between is told."""

    def body(types: list[str], key: str, number: int) -> Any:
        import json
        import pty

        signal.signal(number, signal.SIG_DFL)
        ours, theirs = pty.openpty()
        start = (
            "import fcntl, json, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
            "os.execvpe('sleep', ['sleep', '1000'], json.loads(sys.argv[1]))"
        )
        with nsapi.boot_env(nsapi.Config.new(*types)) as boot:
            process = subprocess.Popen(
                [sys.executable, "-c", start, json.dumps(boot.env)],
                pass_fds=boot.pass_fds,
                stdin=theirs,
                start_new_session=True,
            )
            boot.confirm(60, process)
        os.close(theirs)
        if key:
            os.write(ours, key.encode())
        else:
            os.close(ours)
        try:
            return process.wait(20), children()
        finally:
            process.kill()

    assert anyone(body, types, key, number) == [-number, []]


@pytest.mark.parametrize("types", KINDS, ids=IDS)
def test_an_alarm_from_before_is_the_programs(anyone: Runner, types: list[str]) -> None:
    """As after any exec: the process that has it is who stands between."""

    def body(types: list[str]) -> Any:
        import json

        start = (
            "import json, os, signal, sys; signal.setitimer(signal.ITIMER_REAL, 0.5);"
            "os.execvpe('sleep', ['sleep', '1000'], json.loads(sys.argv[1]))"
        )
        with nsapi.boot_env(nsapi.Config.new(*types)) as boot:
            process = subprocess.Popen([sys.executable, "-c", start, json.dumps(boot.env)], pass_fds=boot.pass_fds)
            boot.confirm(60, process)
        try:
            return process.wait(20), children()
        finally:
            process.kill()

    assert anyone(body, types) == [-14, []]
