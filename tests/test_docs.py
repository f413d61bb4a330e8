"""README, changelog and docs: commands, links, names and code in them are those of this version."""

from __future__ import annotations

import ast
import builtins
import datetime
import importlib
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, Runner, lacking, tool

import nsapi

README = REPOSITORY / "README.md"
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.rst"))]
PAGES = [path for path in PAGES if "_build" not in path.parts]
COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/python examples/quickstart.py",
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
)


def title(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def matches(pattern: str, path: Path) -> list[str]:
    return re.findall(pattern, path.read_text(), re.MULTILINE)


# ---- README and the files beside it ----


@pytest.mark.parametrize("command", COMMANDS, ids=["quickstart", "tests"])
def test_readme_shows_each_command_on_its_first_screen(command: str) -> None:
    """One line to paste, as a whole."""
    assert command in README.read_text().splitlines()[:40]


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "SECURITY.md"])
def test_readme_leads_to_its_neighbours(name: str) -> None:
    assert (REPOSITORY / name).read_text().strip()
    assert f"]({name})" in README.read_text()


def test_every_test_that_security_names_is_there() -> None:
    """In the third column of the second table, without `test_`: of the file named before them, else of test_security."""
    _, table = (REPOSITORY / "SECURITY.md").read_text().split("| rule | where | test |\n|---|---|---|\n")
    named = 0
    for row in table.partition("\n\n")[0].splitlines():
        rule, _, column = row.strip("| ").split(" | ")
        for part in column.split("; "):
            file = re.match(r"(test_\w+): ", part)
            there = matches(r"^def test_(\w+)\(", REPOSITORY / f"tests/{file[1] if file else 'test_security'}.py")
            names = re.findall(r"`([^`]+)`", part)
            assert set(names) <= set(there), (rule, names)
            named += len(names)
    assert named > 30


def test_ci_runs_readmes_test_command() -> None:
    """`.ci/run` is a program, and what it runs is what README says."""
    script = REPOSITORY / ".ci/run"
    if not script.exists():
        lacking("a git checkout: an sdist has no .ci")
    assert os.access(script, os.X_OK)
    assert COMMANDS[1] in script.read_text()


def test_changelog_keeps_a_changelog() -> None:
    """Keep a Changelog 1.1: newest first, dated, under its six headings; and pyproject's version is the newest."""
    path = REPOSITORY / "CHANGELOG.md"
    text = path.read_text()
    (version,) = matches(r'^version = "(.+)"$', REPOSITORY / "pyproject.toml")
    assert text.startswith("# Changelog\n")
    assert "keepachangelog.com/en/1.1.0" in text
    assert "semver.org" in text
    releases = [re.fullmatch(r"\[?([^\] ]+)\]?(?: - (\S+))?", line) for line in matches(r"^## (.+)$", path)]
    assert all(releases), matches(r"^## (.+)$", path)
    found = [each for each in releases if each is not None]
    released = [each for each in found if each[1] != "Unreleased"]
    assert [each[1] for each in found if each not in released] in ([], ["Unreleased"])
    numbers = [tuple(map(int, each[1].split("."))) for each in released]
    assert numbers == sorted(set(numbers), reverse=True)
    days = [datetime.date.fromisoformat(each[2]) for each in released]
    assert days == sorted(days, reverse=True)
    coming = tuple(map(int, version.split(".")))
    if coming not in numbers[:1]:  # not released yet: it is newer than all, and what is in it stands on top
        assert coming > max(numbers, default=())
        top = text.split("\n## ")[1]
        assert top.startswith("[Unreleased]\n")
        assert version in top
        assert "\n- " in top
    headings = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(matches(r"^### (.+)$", path)) <= headings


# ---- links ----


def heading_anchors(path: Path) -> set[str]:
    """As GitHub makes them of Markdown's headings."""
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in matches(r"^#+ (.+)$", path)}


def targets(page: Path) -> Iterator[tuple[str, Path]]:
    """What a page leads to or includes in this repository: as it is written there, and where that is."""
    docs = REPOSITORY / "docs"
    if page.suffix == ".md":
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"^\[[^\]]+\]: (\S+)", prose, re.MULTILINE):
            if not re.match(r"[a-z]+:", link):
                yield link, page.parent / link if link[0] != "#" else Path(f"{page}{link}")
        return
    for link in matches(r"^ *\.\. (?:literal)?include:: (\S+)", page) + matches(
        r"^ *\.\. (?:image|figure):: (\S+)", page
    ):
        yield link, page.parent / link
    for link in matches(r":doc:`(?:[^`<]*<)?([^`>]+)>?`", page):
        yield link, Path(f"{docs if link[0] == '/' else page.parent}/{link.lstrip('/')}.rst")
    for block in matches(r"^\.\. toctree::\n((?: +.*\n|\n)*)", page):
        for link in re.findall(r"^ +([\w/.-]+)$", block, re.MULTILINE):
            yield link, page.parent / f"{link}.rst"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link, include and table of contents names a file that is here, and a heading that is in it."""
    broken = []
    for link, target in targets(page):
        path, _, anchor = str(target).partition("#")
        if not Path(path).exists() or (anchor and anchor not in heading_anchors(Path(path))):
            broken.append(link)
    assert broken == []


def test_every_page_of_the_docs_is_in_the_contents() -> None:
    index = REPOSITORY / "docs/index.rst"
    listed = {target.resolve() for _, target in targets(index)}
    assert [title(page) for page in PAGES if page.suffix == ".rst" and page not in {index, *listed}] == []


def resolves(name: str) -> bool:
    """Whether a role's target is something: of nsapi, built in, or of the standard library."""
    if name.startswith("nsapi."):
        name = name.removeprefix("nsapi.")
    parts = name.split(".")
    if parts[0] in dir(nsapi) and not hasattr(builtins, parts[0]):
        found: object = nsapi
    elif len(parts) == 1 and hasattr(builtins, name):
        return True
    elif parts[0] in sys.stdlib_module_names:
        found = importlib.import_module(parts.pop(0))
    else:
        found = nsapi
    for part in parts:
        fields = {each.name for each in getattr(found, "__attrs_attrs__", ())}
        noted = part in fields or part in getattr(found, "__annotations__", {})
        if not hasattr(found, part) and not noted:
            return False
        found = getattr(found, part, None)
    return True


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".rst"], ids=title)
def test_roles_name_what_there_is(page: Path) -> None:
    """Sphinx leaves a reference to nothing as plain text and says nothing."""
    roles = matches(r":(?:class|exc|func|meth|attr|data|mod|obj|const):`(?:[^`<]*<)?[~!]?([^`>]+?)(?:\(\))?>?`", page)
    assert [name for name in roles if not resolves(name)] == []


# ---- code ----


def programs(page: Path) -> list[str]:
    """The blocks of Python on a page."""
    if page.suffix == ".md":
        return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return list(map(textwrap.dedent, matches(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", page)))


#: What an ordinary user can do; all else enters or joins what belongs to root.
BY_USERS = ("docs/index.rst", "docs/howto/errors.rst", "docs/howto/unprivileged.rst")
WITH_CODE = [page for page in PAGES if programs(page)]


#: Names would be seen by all: in a mount namespace with a /run of its own.
OWN_RUN = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")


def run_page(page: Path, runner: Runner, *under: str) -> None:
    code = "".join(programs(page))
    command = [*runner.prefix, *under, runner.python, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, ""), f"{code}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", WITH_CODE, ids=title)
def test_code_on_a_page_runs(root: Runner, page: Path) -> None:
    """The blocks of a page, one after the other, are one program that works, without a warning."""
    run_page(page, root, *(OWN_RUN if page.name == "names.rst" else ()))


@pytest.mark.parametrize("name", BY_USERS)
def test_code_that_needs_no_privilege_runs_without(user: Runner, name: str) -> None:
    run_page(REPOSITORY / name, user)


def dialogues(page: Path) -> list[tuple[str, str]]:
    """The questions after ``>>>`` on a page, each with the line below it."""
    blocks = matches(r"^\.\. code-block:: pycon\n\n((?:   .*\n|\n)+)", page)
    return [each for block in blocks for each in re.findall(r">>> (.*)\n((?!>>>).*)\n", textwrap.dedent(block))]


@pytest.mark.parametrize("page", [page for page in PAGES if dialogues(page)], ids=title)
def test_dialogues_answer_as_shown(page: Path) -> None:
    """A page says what Python says, in the last line of a traceback; ``…`` leaves something out."""
    for question, answer in dialogues(page):
        code = f"import nsapi\ntry:\n    print(repr({question}))\n"
        code += "except Exception as error:\n    print(f'{type(error).__name__}: {error}')"
        command = [sys.executable, "-W", "error", "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/").stdout
        assert re.fullmatch(".*".join(map(re.escape, answer.split("…"))), said.strip()), said


def words_of_steps(module: Path) -> Iterator[str]:
    """Patterns of what a module calls the steps that may fail: the words of a Step, and ``step=`` of an error."""
    for function in ast.walk(ast.parse(module.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        assigned: dict[str, list[ast.expr]] = {}
        expressions: list[ast.expr] = []
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                assigned.setdefault(node.targets[0].id, []).append(node.value)
            elif isinstance(node, ast.Call):
                expressions += [each.value for each in node.keywords if each.arg == "step"]
                if isinstance(node.func, ast.Name) and node.func.id == "Step":
                    expressions += node.args[1:2]
        for each in expressions:
            for text in assigned.get(each.id, []) if isinstance(each, ast.Name) else [each]:
                yield from patterns(text)


def patterns(text: ast.expr) -> Iterator[str]:
    if isinstance(text, ast.IfExp):
        yield from (*patterns(text.body), *patterns(text.orelse))
    elif isinstance(text, ast.Constant):
        yield re.escape(str(text.value))
    elif isinstance(text, ast.JoinedStr):
        yield "".join(re.escape(str(each.value)) if isinstance(each, ast.Constant) else ".+" for each in text.values)


def test_reference_lists_every_step() -> None:
    """The words of an error's ``step`` can be looked up, all but those of closing, which never fails."""
    told = matches(r"^`([^`]+)`", REPOSITORY / "docs/reference/steps.rst")
    assert len(told) > 30
    used = {each for module in (REPOSITORY / "nsapi").glob("*.py") for each in words_of_steps(module)} - {"close", ".+"}
    assert len(used) > 30
    assert {each for each in used if not any(re.fullmatch(each, words) for words in told)} == set()


# ---- of no particular machine ----

#: Directories below / that every Linux may have.
COMMON = set("bin boot dev etc home lib lib32 lib64 media mnt opt proc root run sbin srv sys tmp usr var".split())
HOSTS = {"github.com", "keepachangelog.com", "semver.org", "man7.org", "docs.python.org", "peps.python.org"}
HOSTS |= {
    "www.kernel.org",
    "docs.kernel.org",
    "git.kernel.org",
    "lwn.net",
    "cffi.readthedocs.io",
    "packaging.python.org",
}


def tracked() -> list[Path]:
    done = subprocess.run(
        [tool("git"), "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True
    )
    if done.returncode:
        lacking("a git checkout that is the caller's")
    files = [path for path in map(REPOSITORY.joinpath, done.stdout.splitlines()) if path.is_file()]
    return [path for path in files if "corpus" not in path.parts]  # bytes, no text


def test_nothing_names_this_machine() -> None:
    """No path that only this machine has: of the checkout, of somebody's home, of the tests' interpreters."""
    here = {str(REPOSITORY), os.environ.get("NSAPI_TEST_USER_PYTHON") or str(REPOSITORY), str(Path(sys.prefix).parent)}
    names = "|".join(re.escape(name) for name in os.listdir("/") if name not in COMMON and name[0] != ".")
    machine = re.compile(
        rf"(?<![\w.~$}}/-])/(?:{names or '(?!)'})/|/(?:home|Users)/\w+/|" + "|".join(map(re.escape, here))
    )
    assert [f"{title(path)}: {found[0]}" for path in tracked() for found in machine.finditer(path.read_text())] == []


def test_links_to_the_world_go_where_everybody_can() -> None:
    """Public documentation, and no host of a registry or a company: each is in the list above."""
    found = {
        host: title(path)
        for path in tracked()
        for host in re.findall(r"\b(?:https?|ssh|git)://([^/\s\"'`)>\]]+)", path.read_text())
    }
    assert {host: page for host, page in found.items() if host not in HOSTS} == {}
