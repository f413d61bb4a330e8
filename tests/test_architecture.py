"""The shape of the package: imports run one way, each fact has one home, public names are complete and explained."""

from __future__ import annotations

import ast
import graphlib
import inspect
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pytest
from conftest import REPOSITORY

import nsapi

PACKAGE = REPOSITORY / "nsapi"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

# ---- imports ----

#: A module imports from rows below its own, and within a row without a circle. What runs first stands on top.
LAYERS = """
    __main__ testing _testrun _marks _listing _payload
    _command
    _screen
    __init__
    _enter _sockets _asyncio _futures _pin _discover _probe oci mounts _boot_env _process_pool
    _call
    _interpreter
    _process _worker _clone
    _world _snapshot
    _reference
    _target _tasks _channel
    _handle _idmap _bootstrap _launcher
    _arguments _bind
    _elsewhere
    _switch
    _plan
    _mapping
    _config
    _rules
    _maps _json
    _fields _members
    _types
    _scan
    _native
    _errors _ffi
"""
LAYER_OF = {name: row for row, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


class Edge(NamedTuple):
    """An import that happens when the program runs; in a function too, where it is late but no less an import."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}.py:{self.line} imports {self.imported}"


def parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def running_code(node: ast.AST) -> Iterator[ast.AST]:
    """All that is executed, which excludes what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for each in child.orelse:
                yield each
                yield from running_code(each)
        else:
            yield child
            yield from running_code(child)


def edges() -> list[Edge]:
    found = []
    for module in MODULES:
        for node in running_code(parse(module)):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            assert not getattr(node, "level", 0), (
                f"{module}.py:{node.lineno}: a relative import, which this cannot read"
            )
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (prefix + each.name for each in node.names):
                package, _, rest = name.partition(".")
                if package == "nsapi":
                    imported = rest.split(".")[0]
                    known = imported in LAYER_OF or imported in MODULES
                    found.append(Edge(module, imported if known else "__init__", node.lineno))
    return found


EDGES = edges()


def test_every_module_has_its_layer() -> None:
    assert [name for name in MODULES if name not in LAYER_OF] == []
    assert len(LAYERS.split()) == len(LAYER_OF)


def test_imports_run_one_way() -> None:
    """Words know of the machine, the machine not of words: nobody imports from a row above."""
    assert len(EDGES) > 20
    assert [str(each) for each in EDGES if LAYER_OF.get(each.importer, 0) > LAYER_OF.get(each.imported, 99)] == []


def test_imports_have_no_circle() -> None:
    """Not even within a row, nor by an import inside of a function."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for each in EDGES:
        graph[each.importer].add(each.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


#: Who reaches upwards past the import system, and why.
REACHES_UP = {
    "_switch": "before a thread enters a mount namespace all is loaded: afterwards an import would find the target's files",
}


def test_nobody_reaches_up_past_the_imports() -> None:
    """``sys.modules["nsapi…"]`` is an import that the tests above cannot see; each has its reason here."""
    reaching = set()
    for module in MODULES:
        for node in ast.walk(parse(module)):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "sys.modules":
                named = node.slice.value if isinstance(node.slice, ast.Constant) else ""
                reaching |= {module} if str(named).split(".")[0] == "nsapi" else set()
    assert reaching <= REACHES_UP.keys()


def test_only_native_sees_the_compiled_module() -> None:
    """No cffi type is seen beyond it, and the module that is of `_scan.c` what it is of `_native.c`."""
    assert {each.importer for each in EDGES if each.imported == "_ffi"} == {"_native"}
    for module in set(MODULES) - {"_native", "_scan"}:
        names = {node.id for node in ast.walk(parse(module)) if isinstance(node, ast.Name)}
        assert names.isdisjoint({"ffi", "lib"}), module
        assert taken_from(module, "_native").isdisjoint({"ffi", "lib"}), module


def taken_from(module: str, other: str) -> set[str]:
    """What a module uses of another, as ``other.name``, or by importing the name."""
    taken = set()
    for node in running_code(parse(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == other:
            taken.add(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module in (other, f"nsapi.{other}"):
            taken |= {each.name for each in node.names}
    return taken


@pytest.mark.parametrize(
    ("verb", "module"),
    [
        ("run", "_bind _enter _futures _handle _switch _worker"),
        ("enter", "_switch"),
        ("errand", "_switch"),
        ("leave", "_switch"),
        ("spawn", "_process"),
    ],
)
def test_each_way_into_the_core_has_one_user(verb: str, module: str) -> None:
    """What moves a thread and back is in _switch alone, what starts a program in _process alone."""
    users = {each for each in MODULES if verb in taken_from(each, "_native")}
    assert users == set(module.split())


@pytest.mark.parametrize("module", ["_plan", "_config", "_rules", "_fields"])
def test_words_and_plan_are_pure(module: str) -> None:
    """They read nothing and change nothing: of the system they use names and encodings only."""
    assert taken_from(module, "os") <= {"PathLike", "fsdecode", "fsencode", "fspath", "getpid"}
    assert taken_from(module, "_native") <= {"Step", "Exec", "Program", "constant"}
    called = {
        node.func.id for node in ast.walk(parse(module)) if isinstance(node, ast.Call) and hasattr(node.func, "id")
    }
    assert called.isdisjoint({"open", "exec", "eval", "__import__"})


def test_nothing_forks_the_interpreter() -> None:
    """A program is started by the C core; no Python runs between clone and exec."""
    forking = {"fork", "forkpty", "posix_spawn", "posix_spawnp", "fork_exec", "vfork"}
    users = {module for module in MODULES if taken_from(module, "os") & forking or taken_from(module, "pty")}
    assert users == set()


# ---- public names ----

#: The complete list of the design. Star-import leaves out ``open`` and ``socket``, which would hide other people's, and
#: ``testing``, which needs pytest; unless that is loaded, ``dir`` leaves it out, too.
PUBLIC = """
    NamespaceType Namespace Namespaces IDMap IDMaps Config NamespaceHandle NamespaceInfo Snapshot Report Child Popen
    NamespaceError NamespaceRestoreError Unsupported
    namespace_types ns_name is_namespace_supported id_maps
    open current create unpin named
    enter visit setns unshare socket socketpair
    run Popen clone create_subprocess_exec call ThreadPoolExecutor ProcessPoolExecutor
    boot_env bootstrap_data start_initialization
    discover probe
    mounts oci testing
""".split()
#: What is to come and nobody has asked for yet. A name that has come leaves this list.
PENDING = """
    Report
    probe mounts
""".split()
NO_STAR = {"open", "socket", "testing"}
NAMES = sorted(set(PUBLIC) - set(PENDING))
#: Names that are modules, with what they offer.
PUBLIC_MODULES = {"oci": {"dump", "load"}, "testing": {"Sandbox", "requires_namespace"}}


def test_public_names_are_complete() -> None:
    """All of the design, without what is pending; star-import hides no built-in and no module."""
    assert set(PENDING) <= set(PUBLIC)
    assert sorted(nsapi.__all__) == sorted(set(NAMES) - NO_STAR)
    assert len(set(nsapi.__all__)) == len(nsapi.__all__)
    assert {name for name in dir(nsapi) if name[0] != "_"} - {"TYPE_CHECKING"} | {"testing"} == set(NAMES)
    assert {name: set(getattr(nsapi, name).__all__) for name in PUBLIC_MODULES} == PUBLIC_MODULES


def test_type_checkers_see_the_same_names() -> None:
    """What is loaded at first use is imported for them, each as itself (PEP 484's re-export)."""
    imported: dict[str, str] = {}
    for node in ast.walk(parse("__init__")):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "nsapi":
            imported |= {each.asname or "": f"{node.module}.{each.name}" for each in node.names}
    homes = {name: "nsapi" if name in PUBLIC_MODULES else getattr(nsapi, name).__module__ for name in NAMES}
    assert imported == {name: f"{home}.{name}" for name, home in homes.items()}


def reference() -> dict[str, Path]:
    """What docs/reference documents by autodoc, and on which page."""
    found: dict[str, Path] = {}
    for page in sorted((REPOSITORY / "docs/reference").rglob("*.rst")):
        for name in re.findall(r"^\s*\.\. auto\w+:: *(?:nsapi\.)?([\w.]+)", page.read_text(), re.MULTILINE):
            assert name not in found, f"{name} is on two pages: {page.name}, {found[name].name}"
            found[name] = page
    return found


def test_reference_has_every_name_once() -> None:
    assert {name.split(".")[0] for name in reference()} == set(NAMES)
    for module, names in PUBLIC_MODULES.items():
        assert {name for name in reference() if name.split(".")[0] == module} == {f"{module}.{each}" for each in names}


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that are nsapi's own, not those of the class it is based on."""
    for name, value in vars(owner).items():
        target = getattr(value, "__func__", value)
        if name[0] != "_" and (inspect.isfunction(target) or isinstance(value, property)):
            yield name, target


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_explained(name: str) -> None:
    """A sentence for each, and for each method and property that it has."""
    public = getattr(nsapi, name)
    parts = {name: public}
    if name in PUBLIC_MODULES:
        parts |= {f"{name}.{each}": getattr(public, each) for each in PUBLIC_MODULES[name]}
    else:
        assert public.__module__.startswith("nsapi.")
    if isinstance(public, type):
        parts |= {f"{name}.{each}": value for each, value in members(public)}
    for each, value in parts.items():
        assert (value.__doc__ or "").strip(), f"{each} has no docstring"


@pytest.mark.parametrize("name", ["Config", "Namespace", "IDMap"])
def test_fields_are_explained(name: str) -> None:
    """Each field of a value is told of where the value is."""
    owner = getattr(nsapi, name)
    text = owner.__doc__
    named = set(re.findall(r"``(\w+)``|\*(\w+)\*", text))
    words = {word for pair in named for word in pair} | set(re.findall(r"\b(size|container_id|host_id)\b", text))
    fields = {each.name for each in attrs.fields(owner) if each.name[0] != "_"}
    assert fields - words == set()


def test_reference_tells_of_every_field_of_config() -> None:
    """What it does, needs and raises; a field that is forgotten there would be found by reading the source only."""
    text = "".join(path.read_text() for path in (REPOSITORY / "docs/reference").rglob("*.rst"))
    told = set(re.findall(r"`(\w+)`", text))
    assert {each.name for each in attrs.fields(nsapi.Config) if each.name[0] != "_"} - told == set()


# ---- sizes and homes ----


@pytest.mark.parametrize("path", sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("*.[ch]")]), ids=lambda path: path.name)
def test_no_module_outgrows_its_reader(path: Path) -> None:
    """About 500 lines of Python, about 1,500 of C; more is a sign that two things are in one file.

    `_nsexec.c` has to be one: it is put in the place of runc's.
    """
    limits = {".py": 550, "_nsexec.c": 1750}
    assert len(path.read_text().splitlines()) <= limits.get(path.name, limits.get(path.suffix, 1550))


def test_map_of_the_modules_names_each() -> None:
    """Who opens the package first reads which module does what, in about ten lines."""
    assert nsapi.__doc__ is not None
    rows = re.findall(r"^``(\w+)``\s+(\S.*)$", nsapi.__doc__, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(set(MODULES) - {"__init__", "__main__"})
    assert "``_native.c``" in nsapi.__doc__


#: A name of the kernel's, as in C.
KERNEL_NAME = re.compile(r"(CLONE|NS_GET|PIDFD|SIOC|MS|NSFS|PROC|CGROUP2?|SYS|PR_CAP|CLOSE_RANGE)_\w+")


def constants() -> set[str]:
    """What setup.py asks the compiler for, on behalf of Python."""
    found = re.search(r'CONSTANTS = """(.*?)"""', (REPOSITORY / "setup.py").read_text(), re.DOTALL)
    assert found is not None
    return set(found[1].split())


def test_python_holds_no_number_of_the_kernels() -> None:
    """Flags and requests come from the compiler, by name; written out in Python they would have a second home."""
    from nsapi import _native

    numbers = {_native.constant(name) for name in constants()}
    wrong = []
    for module in MODULES:
        with (PACKAGE / f"{module}.py").open("rb") as file:
            literals = [token for token in tokenize.tokenize(file.readline) if token.type == tokenize.NUMBER]
        for token in literals:
            value = ast.literal_eval(token.string)
            # A small decimal number may be anything's.
            if value in numbers and (not token.string.isdigit() or value >= 2**16):
                wrong.append(f"{module}.py:{token.start[0]}: {token.string}")
        wrong += [f"{module}.py: os.{name}" for name in taken_from(module, "os") if name.startswith("CLONE_")]
    assert wrong == []


def test_constants_are_asked_for_only_where_used() -> None:
    """Every name in setup.py is one that Python looks up, whole or put together."""
    text = "".join((PACKAGE / f"{module}.py").read_text() for module in MODULES)
    prefixes = re.findall(r'f"([A-Z_]+_)\{', text)  # f"CLONE_{self.value}"
    unused = {name for name in constants() if name not in text and not name.startswith(tuple(prefixes))}
    assert unused == set()


def test_kernel_numbers_in_c_have_one_home() -> None:
    """What old headers lack is defined in _kernel.h: one place to look at, and one to delete from."""
    defined: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.glob("*.[ch]")):
        for name in re.findall(r"^\s*#\s*define\s+(\w+)", path.read_text(), re.MULTILINE):
            if KERNEL_NAME.fullmatch(name):
                defined.setdefault(name, []).append(path.name)
    assert defined
    assert {name: homes for name, homes in defined.items() if homes != ["_kernel.h"]} == {}
    for path in sorted(PACKAGE.glob("*.c")):
        assert re.findall(r"\bsyscall\(\s*\d+", path.read_text()) == [], f"{path.name}: a call by number"


def test_steps_have_one_vocabulary() -> None:
    """Every step that Python plans is one of _native.h, and _native.h has none that is never planned."""
    header = (PACKAGE / "_native.h").read_text()
    body = re.search(r"enum nsapi_op \{(.*?)\}", header, re.DOTALL)
    assert body is not None
    vocabulary = {name.lower() for name in re.findall(r"NSAPI_(\w+),?", re.sub(r"/\*.*?\*/", "", body[1]))} - {"ops"}
    words: set[object] = set()
    planned: set[object] = set()
    for node in (node for module in MODULES for node in ast.walk(parse(module))):
        if isinstance(node, ast.Constant):
            words.add(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Step":
            planned |= {first.value for first in node.args[:1] if isinstance(first, ast.Constant)}
    assert planned - vocabulary == set()
    assert vocabulary - words == set()
