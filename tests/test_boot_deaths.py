"""boot_env when somebody is killed, at every message: an error that names a step, and nobody is left running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Runner, tool
from inside import Any, children, failure, fds

import nsapi

STAGES, IN_PLACE = ["user", "pid", "mnt"], ["user", "net"]
PARTIES = [(STAGES, "0"), (STAGES, "1"), (STAGES, "2"), (["user", "time"], "2"), (IN_PLACE, "0"), (IN_PLACE, "m")]
IDS = [f"{'-'.join(types)}:{who}" for types, who in PARTIES]


@pytest.fixture(scope="session")
def killer(library: Path) -> str:
    """killer.c, to be preloaded, too."""
    path = library / "killer.so"
    source = REPOSITORY / "tests/killer.c"
    subprocess.run([tool("gcc"), "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", str(path), str(source)], check=True)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("types", "who"), PARTIES, ids=IDS)
def test_a_stage_that_is_killed_ends_all(anyone: Runner, killer: str, types: list[str], who: str) -> None:
    """Before and after each of its messages: either all had been said, or confirm tells the step and nothing has run."""

    def body(killer: str, types: list[str], who: str) -> Any:
        failed = 0
        before = fds()
        for number in range(1, 200):
            boot = nsapi.boot_env(nsapi.Config.new(*types))
            said, marker = os.pipe()
            env = {**boot.env, "NSAPI_TEST_KILL": f"{who}:{number}:{marker}:-1"}
            env["LD_PRELOAD"] += f":{killer}"
            process = subprocess.Popen(
                ["/bin/sh", "-c", "echo ran; read line; exit 7"],
                env=env,
                pass_fds=(*boot.pass_fds, marker),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            os.close(marker)
            facts = {}
            try:
                boot.confirm(60, process if number % 2 else None)
            except nsapi.NamespaceError as error:
                facts = {"step": error.step, "late": isinstance(error, TimeoutError)}
            output, _ = process.communicate()
            hit = os.read(said, 1) == b"\0"  # the end of file: nobody has it any more
            os.close(said)
            boot.close()
            told = f"{types} {who} at {number}: {facts} {output!r} {process.returncode}"
            assert nsapi._boot_env._holders(boot._inode) == [], told
            if facts:
                assert facts["step"], told
                assert not facts["late"], told
                # He who has died last may have let it begin, and took it with him.
                assert output == b"" or (who, facts["step"]) == ("0", "stage 0 has died"), told
                assert process.returncode in ((-9,) if who == "0" else (1, -4, -9)), told  # -4: as it; -9: by confirm
            else:
                assert process.returncode in ((7,) if who in "1m" else (7, -4, -9)), told
            if not hit:
                assert process.returncode == 7, told
                break
            failed += bool(facts)
        return failed, children(), fds() == before

    failed, left, same = anyone(body, killer, types, who)
    assert failed >= 2
    assert (left, same) == ([], True)


@pytest.mark.parametrize(("types", "who"), PARTIES, ids=IDS)
def test_a_spawner_that_is_killed_leaves_nobody(user: Runner, killer: str, types: list[str], who: str) -> None:
    """At the same moments, while who has come so far waits: what is not inside never runs, and all have gone."""

    def body(killer: str, types: list[str], who: str) -> Any:
        spawner = (
            "import nsapi, os, subprocess, sys\n"
            "killer, types, who, number, marker = sys.argv[1:]\n"
            "boot = nsapi.boot_env(nsapi.Config.new(*types.split(',')))\n"
            "own = os.pidfd_open(os.getpid())\n"
            "env = {**boot.env, 'NSAPI_TEST_KILL': f'{who}:{number}:{marker}:{own}'}\n"
            "env['LD_PRELOAD'] += ':' + killer\n"
            "fds = (*boot.pass_fds, own, int(marker))\n"
            "process = subprocess.Popen(['echo', 'ran'], env=env, pass_fds=fds, stderr=subprocess.DEVNULL)\n"
            "boot.confirm(60, process)\n"
            "os.write(1, b'confirmed\\n')\n"  # by one call, whatever buffers there are
            "sys.exit(process.wait())\n"
        )
        outputs = []
        for number in range(1, 200, 3):
            said, marker = os.pipe()
            argv = [sys.executable, "-c", spawner, killer, ",".join(types), who, str(number), str(marker)]
            process = subprocess.Popen(argv, pass_fds=(marker,), stdout=subprocess.PIPE)
            os.close(marker)
            hit = os.read(said, 1) == b"\0"
            if hit:
                process.kill()
            output, _ = process.communicate()  # the end of file: nobody has it any more
            assert os.read(said, 1) == b""
            os.close(said)
            if not hit:
                assert process.returncode == 0
                break
            assert process.returncode == -9
            outputs.append(output.decode())
        return outputs, children()

    outputs, left = user(body, killer, types, who)
    assert left == []
    assert outputs[0] == ""
    assert set(outputs) <= {"", "ran\n", "confirmed\n", "confirmed\nran\n", "ran\nconfirmed\n"}


@pytest.mark.parametrize("types", [STAGES, ["user", "time"]], ids="-".join)
def test_a_program_does_not_begin_without_who_stands_between(anyone: Runner, killer: str, types: list[str]) -> None:
    """He is killed while it waits at each of its moments: it has not asked to die with him yet, or dies with him."""

    def body(killer: str, types: list[str]) -> Any:
        outputs = []
        for number in range(1, 200):
            said, marker = os.pipe()
            gate, opener = os.pipe()
            with nsapi.boot_env(nsapi.Config.new(*types)) as boot:
                env = {**boot.env, "NSAPI_TEST_KILL": f"2:{number}:{marker}:{gate}"}
                env["LD_PRELOAD"] += f":{killer}"
                pass_fds = (*boot.pass_fds, marker, gate)
                pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
                process = subprocess.Popen(["echo", "ran"], env=env, pass_fds=pass_fds, **pipes)
                os.close(marker)
                hit = os.read(said, 1) == b"\0"
                if hit:
                    process.kill()
                    process.wait()
                os.close(opener)
                output, _ = process.communicate()  # the end of file: nobody has it any more
                os.close(said)
                os.close(gate)
                failure(boot.confirm)
            if not hit:
                assert output == b"ran\n"
                break
            outputs.append(output.decode())
        return len(outputs) > 3, set(outputs) == {""}, children()

    assert anyone(body, killer, types) == [True, True, []]


def test_a_fork_of_the_parent_is_not_taken_for_the_program(anyone: Runner) -> None:
    """It has a copy of the pipe for no fault of its own; when the program is killed, it lives."""

    def body() -> Any:
        boot = nsapi.boot_env(nsapi.Config.new("user"))
        hold, let_go = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(let_go)
            os.read(hold, 1)
            os._exit(7)
        process = subprocess.Popen(["sleep", "1000"], pass_fds=boot.pass_fds)  # without the environment
        facts = failure(lambda: boot.confirm(0.2))
        status = process.wait(60)
        boot.close()
        os.close(let_go)
        return "TimeoutError" in str(facts["classes"]), status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert anyone(body) == [True, -9, 7]
