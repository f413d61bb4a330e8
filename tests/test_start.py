"""The launcher has no C library in it where _start.c knows the machine; what stands in its place does what it should."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY, lacking, tool

import nsapi

MACHINE = os.uname().machine
SOURCES = [REPOSITORY / "tests/start_main.c", REPOSITORY / "nsapi/_start.c"]
COMPILERS = ["gcc", *filter(shutil.which, ("clang",))]


def build(compiler: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compile as setup.py does, with what Debian's Python adds to it."""
    # Not every venv has setuptools; here only what it is told matters.
    build_ext = SimpleNamespace(build_ext=object)
    stub = SimpleNamespace(Extension=lambda *_, **options: SimpleNamespace(**options), setup=None)
    for name, module in {"": stub, ".command": SimpleNamespace(), ".command.build_ext": build_ext}.items():
        monkeypatch.setitem(sys.modules, f"setuptools{name}", module)
    setup = runpy.run_path(str(REPOSITORY / "setup.py"), run_name="setup")
    flags = "-fstack-protector-strong -D_FORTIFY_SOURCE=2".split() + setup["LAUNCHER"].extra_compile_args
    links = setup["LAUNCHER"].extra_link_args
    program = folder / "program"
    subprocess.run(
        [
            compiler,
            "-D_GNU_SOURCE",
            "-Werror",
            "-Wconversion",
            "-Wno-unused-command-line-argument",
            *flags,
            *SOURCES,
            *links,
            "-o",
            program,
        ],
        check=True,
        cwd=REPOSITORY,
    )
    return program


@pytest.mark.parametrize("compiler", COMPILERS)
def test_it_does_what_the_man_pages_say(compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function that the launcher takes from it; the exit status is the line of start_main.c that fails."""
    if MACHINE not in ("x86_64", "aarch64"):
        lacking("a machine that _start.c knows")
    tool(compiler)
    monkeypatch.chdir(REPOSITORY)  # setup.py reads its files by relative paths
    program = build(compiler, tmp_path, monkeypatch)
    done = subprocess.run([program, "one", "two"], env={"WANT_NOT": "", "WANTED": "found", "Z": ""})
    assert done.returncode == 0, f"tests/start_main.c, line {done.returncode}, or its 256th after that"


def test_the_launcher_asks_no_one_before_main() -> None:
    """What glibc does first costs more than the kernel takes to execute the launcher; it must not come back unseen."""
    if MACHINE not in ("x86_64", "aarch64"):
        lacking("a machine that _start.c knows")
    launcher = Path(nsapi.__file__).with_name("_launch")
    assert launcher.stat().st_size < 128 * 1024
    done = subprocess.run([tool("strace"), "-f", launcher, "no cargo"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 125  # it has no cargo
    calls = [line.split("(")[0] for line in done.stderr.splitlines() if "(" in line]
    assert calls == ["execve", "fstat", "exit_group"], done.stderr  # the second looks for its cargo
