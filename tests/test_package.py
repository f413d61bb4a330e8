"""What is shipped: wheel, sdist and editable tree, each built as a user would, and the compiled core inside."""

from __future__ import annotations

import email
import glob
import importlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Runner, lacking, tool
from inside import everything

import nsapi

MODULES = {f"nsapi/{path.name}" for path in (REPOSITORY / "nsapi").glob("*.py")}
TYPING = {"nsapi/py.typed", "nsapi/_ffi.pyi"}
COMPILED = {"nsapi/_ffi.abi3.so", "nsapi/_boot.abi3.so", "nsapi/_launch"}
C_SOURCES = {f"nsapi/{path.name}" for path in (REPOSITORY / "nsapi").glob("_*.[ch]")}
DIST_INFO = {"METADATA", "WHEEL", "RECORD", "top_level.txt", "entry_points.txt", "licenses/LICENSE"}
#: What a build leaves in a tree, and what belongs to one checkout only.
NOT_SOURCE = shutil.ignore_patterns(
    *(".git", ".venv", "build", "dist", "_build", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis")
)
#: Every other CPython that pyenv has, as .ci/run finds them; free-threaded ones have no stable ABI before 3.15.
PYENV = os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv")
PYTHONS = [Path(path).parent.parent for path in sorted(glob.glob(f"{PYENV}/versions/3.1[0-9]*[0-9]/bin/python3"))]
#: Those that this one's wheel is tried on: itself and the next. Each one's suite in CI has others.
NEIGHBOURS = [path for path in PYTHONS if path.name.startswith(sys.version.split()[0])]
NEIGHBOURS += [(PYTHONS * 2)[PYTHONS.index(path) + 1] for path in NEIGHBOURS]
#: Those that are here; gcc must be.
COMPILERS = ["gcc", *filter(shutil.which, ("clang", "aarch64-linux-gnu-gcc"))]

#: Shows that an installation works: the kernel does what Python asked for, by way of the compiled core.
WORKS = """
import os, nsapi
config = nsapi.Config.new("user", "uts", hostname="inside")
script = ["sh", "-c", "uname -n; readlink /proc/self/ns/uts"]
name, there = nsapi.run(script, config=config, check=True, capture_output=True, text=True).stdout.split()
assert name == "inside" and there != os.readlink("/proc/self/ns/uts")
print(nsapi.__file__)
"""


def run(
    command: Sequence[str | Path], folder: str | Path = "/", **variables: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, away from this checkout, which Python would else import from."""
    environment = {**os.environ, "PYTHONPATH": "", **{name: str(value) for name, value in variables.items()}}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def succeed(command: Sequence[str | Path], folder: str | Path = "/", **variables: str | Path) -> str:
    done = run(command, folder, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(python: str | Path = sys.executable) -> list[str | Path]:
    return [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]


def project() -> dict[str, Any]:
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli
    loaded: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    return loaded


class Workshop:
    """Builds copies of this source. What builds take was fetched before: what fails here fails for its own sake."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wheelhouse, self.backend = folder, folder / "wheelhouse", folder / "backend"
        self.offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheelhouse)}
        needed = [*project()["build-system"]["requires"], *project()["project"]["dependencies"]]
        done = run([*pip(), "download", "--only-binary=:all:", "--dest", self.wheelhouse, *needed])
        if done.returncode:
            lacking(f"pip and a package index: {done.stderr.splitlines()[-1]}")
        requires = project()["build-system"]["requires"]
        succeed([*pip(), "install", "--target", self.backend, *requires], **self.offline)

    def source(self, name: str) -> Path:
        """A fresh copy of this source."""
        return Path(shutil.copytree(REPOSITORY, self.folder / name, ignore=NOT_SOURCE))

    def build(self, source: Path, what: str, before: str = "") -> Path:
        """Call the build backend in *source*, for a ``wheel`` or an ``sdist``; *before* is run first."""
        dist = source.parent / f"{source.name}-{what}"
        code = f"import sys, sysconfig\nfrom setuptools import build_meta\n{before}\n"
        code += f"print('BUILT', build_meta.build_{what}({str(dist)!r}))"
        built = succeed([sys.executable, "-c", code], source, PYTHONPATH=self.backend)
        return dist / built.rsplit("BUILT ", 1)[1].strip()

    def environment(self, name: str, python: str | Path = sys.executable) -> Path:
        """An empty venv of its own, without pip: the interpreter in it."""
        succeed([python, "-m", "venv", "--without-pip", self.folder / name])
        return self.folder / name / "bin/python"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("workshop")
    try:
        yield Workshop(folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sdist(workshop: Workshop) -> Path:
    return workshop.build(workshop.source("for-sdist"), "sdist")


@pytest.fixture(scope="session")
def wheel(workshop: Workshop, sdist: Path) -> Path:
    """Built by pip, in isolation, from the sdist and nothing else."""
    folder = workshop.folder / "from-sdist"
    succeed([*pip(), "wheel", "--no-deps", "--wheel-dir", folder, sdist], **workshop.offline)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="session")
def core(workshop: Workshop, wheel: Path) -> Path:
    """The compiled module, as it is in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract("nsapi/_ffi.abi3.so", workshop.folder / "core"))


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


# ---- wheel and sdist ----


def test_wheel_is_for_every_cpython_from_3_10(wheel: Path) -> None:
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version, python, abi) == ("nsapi", project()["project"]["version"], "cp310", "abi3")
    assert platform == sysconfig.get_platform().replace("-", "_").replace(".", "_")


def contents(wheel: Path) -> set[str]:
    """What is in the wheel, its metadata by their own names."""
    with zipfile.ZipFile(wheel) as archive:
        return {name.split(".dist-info/")[-1] for name in archive.namelist()}


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """No C source, no tests, no examples; the types and the licence."""
    assert contents(wheel) == MODULES | TYPING | COMPILED | DIST_INFO


def test_wheel_holds_a_launcher_that_can_be_executed(wheel: Path) -> None:
    """Where files in memory cannot be, it is executed where it was installed, by whoever may read it."""
    with zipfile.ZipFile(wheel) as archive:
        assert archive.getinfo("nsapi/_launch").external_attr >> 16 == 0o100755


def test_wheel_of_another_system_has_no_core(workshop: Workshop) -> None:
    """There the build asks for no compiler and no cffi, and makes a wheel for every Python."""
    source = workshop.source("elsewhere")
    # Setuptools has been imported before, and asks sysconfig for files that only the real system has.
    elsewhere = "sysconfig.get_config_vars(); sys.platform = 'darwin'; sys.modules['cffi'] = None"
    built = workshop.build(source, "wheel", elsewhere)
    assert built.name == f"nsapi-{project()['project']['version']}-py3-none-any.whl"
    assert contents(built) == MODULES | TYPING | DIST_INFO


def test_sdist_holds_all_that_is_in_the_repository(sdist: Path) -> None:
    """Sources, headers, tests, docs, examples, benchmarks, and the files that tell about them; no more and no less."""
    done = run([tool("git"), "ls-files", "-co", "--exclude-standard"], REPOSITORY)
    if done.returncode:
        lacking("a git checkout that is the caller's")
    tracked = {name for name in done.stdout.splitlines() if (REPOSITORY / name).exists() and name[0] != "."}
    with tarfile.open(sdist) as archive:
        packed = {each.name.split("/", 1)[1] for each in archive.getmembers() if each.isfile()}
    generated = {name for name in packed if name.split("/")[0] in ("PKG-INFO", "setup.cfg", "nsapi.egg-info")}
    assert packed - generated == tracked
    assert packed >= MODULES | TYPING | C_SOURCES | {"pyproject.toml", "setup.py", "LICENSE", "README.md"}
    assert packed >= {"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
    assert {name.split("/")[0] for name in packed} >= {"tests", "docs", "examples", "benchmarks"}


def test_metadata_says_what_it_needs(wheel: Path) -> None:
    """Three libraries and no more, any CPython from 3.10, MIT; the page of the index is README."""
    told = metadata(wheel)
    required = [line for line in told.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {re.split(r"[^\w-]", line)[0] for line in required} == {"attrs", "cffi", "typing-extensions"}
    assert told["Requires-Python"] == ">=3.10"
    assert (told["License-Expression"], told.get_all("License-File")) == ("MIT", ["LICENSE"])
    assert (REPOSITORY / "LICENSE").read_text().startswith("MIT License\n")
    page = told.get_payload(decode=True)
    assert isinstance(page, bytes)
    assert page.strip() == (REPOSITORY / "README.md").read_bytes().strip()
    supported = {line.rsplit(" ", 1)[1] for line in told.get_all("Classifier", []) if ":: Python :: 3." in line}
    assert supported >= {"3.10", "3.11", "3.12", "3.13"}
    assert "Typing :: Typed" in told.get_all("Classifier", [])


def test_pytest_finds_the_plugin(wheel: Path) -> None:
    """By an entry point of the module's own name: `-p nsapi.testing` is the same plugin, and `-p no:nsapi.testing` none."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert archive.read(name).decode().split("\n\n")[1].split() == [
            "[pytest11]",
            "nsapi.testing",
            "=",
            "nsapi.testing",
        ]


def test_test_extra_has_what_the_suite_imports(wheel: Path) -> None:
    """README's test command installs `.[test]` and nothing else."""
    extra = [line for line in metadata(wheel).get_all("Requires-Dist", []) if 'extra == "test"' in line]
    have = {re.split(r"[^\w-]", line)[0] for line in extra} | {"attrs", "cffi", "nsapi"}
    have |= {path.stem for path in (REPOSITORY / "tests").glob("*.py")}
    imported = {
        found
        for path in (REPOSITORY / "tests").glob("*.py")
        for found in re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
    }
    assert imported - sys.stdlib_module_names - have == set()


def test_version_has_one_home() -> None:
    """It stands in pyproject.toml; the changelog tells of it, and no code repeats it."""
    version = project()["project"]["version"]
    literal = re.compile(rf"(?<![\d.]){re.escape(version)}(?![\d.])")
    places = [
        path for folder in ("nsapi", "docs", "benchmarks", "examples") for path in (REPOSITORY / folder).rglob("*")
    ]
    places += [REPOSITORY / "setup.py"]
    texts = [
        path for path in places if path.suffix in (".py", ".pyi", ".c", ".h", ".rst") and "_build" not in path.parts
    ]
    assert [str(path) for path in texts if literal.search(path.read_text())] == []


# ---- installed ----


@pytest.mark.parametrize("version", NEIGHBOURS or PYTHONS, ids=lambda path: path.name)
def test_one_wheel_works_on_every_python(workshop: Workshop, wheel: Path, version: Path) -> None:
    """The same file, in a fresh venv of another CPython than the one that has built it."""
    venv = workshop.environment(f"venv-{version.name}", version / "bin/python3")
    install = [*pip(version / "bin/python3"), "--python", venv, "install", "--only-binary=:all:"]
    needed = project()["project"]["dependencies"]
    done = run([*install, *needed], PIP_FIND_LINKS=workshop.wheelhouse)
    if done.returncode:
        lacking(f"pip and a package index for CPython {version.name}: {done.stderr.splitlines()[-1]}")
    succeed([*install, "--no-index", wheel])
    installed = Path(succeed([venv, "-W", "error", "-c", WORKS]).strip())
    assert installed.is_relative_to(venv.parent.parent)


def test_editable_install_works_and_follows_the_source(workshop: Workshop) -> None:
    """`pip install -e .`, in isolation: the core is compiled, and an edit of Python is seen at once."""
    source, venv = workshop.source("for-editable"), workshop.environment("venv-editable")
    succeed([*pip(), "--python", venv, "install", "--editable", source], **workshop.offline)
    main = source / "nsapi/__init__.py"
    assert succeed([venv, "-W", "error", "-c", WORKS]).strip() == str(main)
    main.write_text(main.read_text() + "EDITED = True\n")
    assert succeed([venv, "-c", "import nsapi; print(nsapi.EDITED)"]) == "True\n"


# ---- the compiled core ----


def test_core_exports_its_module_and_nothing_else(core: Path) -> None:
    """No symbol of ours can clash with, or be called by, another library."""
    lines = succeed([tool("nm"), "--dynamic", "--defined-only", core]).splitlines()
    assert [line.split()[-2:] for line in lines] == [["T", "PyInit__ffi"]]


def test_core_has_no_constructor(core: Path) -> None:
    """Whoever loads it runs no code of ours; the one entry is frame_dummy, the compiler's, in every shared object."""
    sections = succeed([tool("readelf"), "--sections", "--wide", core])
    assert not re.search(r"\.(ctors|preinit_array)\b", sections)
    sizes = re.findall(r"\.init_array +INIT_ARRAY +[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+)", sections)
    assert [int(size, 16) // struct.calcsize("P") for size in sizes] in ([], [1])


def test_importing_changes_nothing(anyone: Runner) -> None:
    """All modules loaded, even with the variable set by which a container runtime talks to a program that starts."""

    def body() -> list[str]:
        os.environ["_LIBCONTAINER_INITPIPE"] = "3"
        assert not [name for name in sys.modules if name.startswith("nsapi.")]
        before = everything()
        assert all(hasattr(nsapi, name) for name in dir(nsapi))
        assert "nsapi._ffi" in sys.modules
        after = everything()
        return [name for name in before if before[name] != after[name]]

    assert anyone(body) == []


@pytest.mark.parametrize("optimization", ["-O0", "-O2"])
@pytest.mark.parametrize("assembler", ["assembler", "no assembler"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_core_compiles_without_a_warning(tmp_path: Path, compiler: str, assembler: str, optimization: str) -> None:
    """C11 by each compiler that is here; also as on a machine for which there is no assembler."""
    _compile(tmp_path, compiler, assembler, optimization)


def _compile(folder: Path, compiler: str, assembler: str = "assembler", optimization: str = "-O2") -> Path:
    text = (REPOSITORY / "nsapi/_native.c").read_text()
    if assembler != "assembler":
        text, count = re.subn(r"defined\(__(x86_64|aarch64)__\)", "0", text)
        assert count == 2
    source, made = folder / "_native.c", folder / "_native.o"
    source.write_text(text)
    options = ["-std=c11", optimization, "-fPIC", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]
    succeed([tool(compiler), *options, "-I", REPOSITORY / "nsapi", "-c", source, "-o", made])
    return made


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("source", sorted(name for name in C_SOURCES if name.endswith(".c")))
def test_c_compiles_without_a_warning(tmp_path: Path, source: str, compiler: str) -> None:
    """Each file by itself, with conversions that change a value shown too."""
    options = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-D_GNU_SOURCE"]
    headers = Path(sysconfig.get_paths()["include"])  # for _clone.c alone; Debian has a part of them for each machine
    machine = f"{compiler.removesuffix('-gcc')}/{headers.name}"
    asked_for = source.endswith("_clone.c") and machine in (headers / "pyconfig.h").read_text()
    if asked_for and not Path("/usr/include", machine).exists():
        lacking(f"/usr/include/{machine}")
    options += ["-isystem", str(headers)]
    succeed(
        [tool(compiler), *options, "-I", REPOSITORY / "nsapi", "-c", REPOSITORY / source, "-o", tmp_path / "made.o"]
    )


@pytest.mark.parametrize("compiler", COMPILERS)
def test_core_has_no_writable_statics(tmp_path: Path, compiler: str) -> None:
    """Threads share it without a lock, and a vfork child runs it in its parent's memory."""
    lines = succeed([tool("size"), "--format=sysv", "--radix=10", _compile(tmp_path, compiler)]).splitlines()
    sizes = {parts[0]: int(parts[1]) for parts in map(str.split, lines) if len(parts) == 3 and parts[1].isdigit()}
    assert sizes[".text"] > 0
    writable = re.compile(r"\.(data|bss|tdata|tbss)(?!\.rel\.ro)")
    assert {name: size for name, size in sizes.items() if size and writable.match(name)} == {}


# ---- setup.py ----


def test_setup_says_only_what_pyproject_cannot() -> None:
    assert len((REPOSITORY / "setup.py").read_text().splitlines()) <= 115


@pytest.mark.parametrize(
    ("free_threaded", "version", "options"),
    [
        (0, (3, 10), {"py_limited_api": "cp310"}),
        (0, (3, 15), {"py_limited_api": "cp310"}),
        (1, (3, 14), {}),  # has no stable ABI: setuptools refuses the option
        (1, (3, 15), {"py_limited_api": "cp315"}),
    ],
)
def test_wheel_tag_follows_the_stable_abi(
    workshop: Workshop, free_threaded: int, version: tuple[int, int], options: dict[str, str]
) -> None:
    """One wheel for all that have one ABI; free-threaded Pythons have theirs from 3.15 on."""
    code = "import cffi, json, runpy, setuptools, sys, sysconfig\nreal = sysconfig.get_config_var\n"
    code += f"sysconfig.get_config_var = lambda name: {free_threaded} if name == 'Py_GIL_DISABLED' else real(name)\n"
    code += f"sys.version_info = {(*version, 0, 'final', 0)}\nprint(json.dumps(runpy.run_path('setup.py')['WHEEL']))"
    said = succeed([sys.executable, "-c", code], REPOSITORY, PYTHONPATH=workshop.backend)
    assert json.loads(said) == options
