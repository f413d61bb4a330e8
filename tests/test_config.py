"""The model: Namespaces against a plain list, IDMap against the kernel, each field of Config and the rules between."""

from __future__ import annotations

import copy
import errno
import math
import os
import pathlib
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest
from conftest import Runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from inside import TYPES, failure, fds

import nsapi
from nsapi import Config, IDMap, Namespace, Namespaces, NamespaceType

# No test is timed, so neither are hypothesis's examples.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

NO_ID = 2**32 - 1
NOBODY = 2**31 - 1  # above any pid

types = st.sampled_from(NamespaceType)
spellings = types.flatmap(
    lambda type: st.sampled_from([type, type.proc_name, type.oci_name, type.value, f"CLONE_{type.value}"])
)
paths = st.one_of(st.just(""), st.sampled_from(["/proc/1/ns/net", "/run/netns/blue", "./here", "/x" * 3000]))


# ---- Namespace ----


def test_a_namespace_is_a_type_and_a_path() -> None:
    """Any spelling, no path means to create it; a path may be bytes or a PathLike."""
    assert Namespace("network") == Namespace(NamespaceType.NET, "") == Namespace("net", path="")
    assert Namespace("net", "/x") == Namespace("NEWNET", b"/x") == Namespace("net", PurePosixPath("/x"))
    assert Namespace("net", "/x") != Namespace("uts", "/x")
    assert Namespace("net", "/x") != Namespace("net")


@given(spellings, paths, st.integers(1, 2**31))
def test_get_path_is_that_of_the_process_whatever_the_path(type: Any, path: str, pid: int) -> None:
    """As libcontainer's GetPath: where the namespace of *pid* is, not where this one is joined."""
    assert Namespace(type, path).get_path(pid) == f"/proc/{pid}/ns/{nsapi.ns_name(type)}"


def test_a_namespace_does_not_change() -> None:
    """A value: equal ones are one member of a set, and none can be assigned to."""
    namespace = Namespace("net", "/x")
    with pytest.raises(AttributeError):
        namespace.path = ""  # type: ignore[misc]
    assert len({namespace, Namespace("network", "/x")}) == 1
    assert pickle.loads(pickle.dumps(namespace)) == copy.deepcopy(namespace) == namespace


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("nut",), ValueError, ("type", "nut", *TYPES)),
        ((7,), TypeError, ("type", "7", *TYPES)),
        (("net", 5), TypeError, ("path", "5", "Config.new", "Config.join")),
        (("net", None), TypeError, ("path", "None")),
        (("net", b""), ValueError, ("path", "b''")),  # would be one to create
        (("net", "/a\0b"), ValueError, ("path", "NUL")),
        (("net", "/\ud800"), ValueError, ("path", "encoded")),
    ],
    ids=repr,
)
def test_a_namespace_of_something_else_is_refused(
    arguments: tuple[Any, ...], error: type[Exception], words: tuple[str, ...]
) -> None:
    """The field and what it takes are named."""
    refused(lambda: Namespace(*arguments), error, words)


def refused(call: Callable[[], object], error: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), str(caught.value)


# ---- Namespaces ----


class ListOfNamespaces(RuleBasedStateMachine):
    """libcontainer's Namespaces is a slice that is searched from the front; so is this model of it."""

    @initialize(items=st.lists(st.tuples(spellings, paths), unique_by=lambda item: NamespaceType.parse(item[0])))
    def make(self, items: list[tuple[Any, str]]) -> None:
        self.model = [(NamespaceType.parse(type), path) for type, path in items]
        self.real = Namespaces(items)

    @rule(type=spellings, path=paths)
    def add(self, type: Any, path: str) -> None:
        """Append, or overwrite the path in place."""
        parsed = NamespaceType.parse(type)
        places = [at for at, (each, _) in enumerate(self.model) if each is parsed]
        if places:
            self.model[places[0]] = (parsed, path)
        else:
            self.model.append((parsed, path))
        assert self.real.add(type, path) is None  # type: ignore[func-returns-value]

    @rule(type=spellings)
    def remove(self, type: Any) -> None:
        left = [row for row in self.model if row[0] is not NamespaceType.parse(type)]
        assert self.real.remove(type) is (len(left) < len(self.model))
        self.model = left

    @rule(type=spellings)
    def ask(self, type: Any) -> None:
        """contains, index, path_of, is_private, ``in``; in any spelling."""
        listed = [each for each, _ in self.model]
        parsed = NamespaceType.parse(type)
        assert self.real.contains(type) is (type in self.real) is (parsed in listed)
        assert self.real.index(type) == (listed.index(parsed) if parsed in listed else -1)
        assert self.real.path_of(type) == dict(self.model).get(parsed, "")
        assert self.real.is_private(type) is (dict(self.model).get(parsed) == "")

    @invariant()
    def reads_as_the_list(self) -> None:
        rows = [Namespace(*row) for row in self.model]
        assert list(self.real) == rows
        assert len(self.real) == len(rows)
        assert bool(self.real) is bool(rows)
        for at in range(-len(rows), len(rows)):
            assert self.real[at] == rows[at]
        with pytest.raises(IndexError):
            self.real[len(rows)]
        assert self.real.created() == tuple(each for each, path in self.model if not path)
        assert self.real.joined() == tuple(row for row in rows if row.path)

    @invariant()
    def only_what_is_created_has_flags(self) -> None:
        assert self.real.clone_flags() == sum(each.flag for each, path in self.model if not path)

    @invariant()
    def compares_by_value(self) -> None:
        assert self.real == Namespaces(self.model) == Namespaces(self.real) == copy.copy(self.real)
        assert self.real == copy.deepcopy(self.real) == pickle.loads(pickle.dumps(self.real))
        assert eval(repr(Namespaces(map(Namespace, [])))) == Namespaces()
        if len(self.model) > 1:
            assert self.real != Namespaces(reversed(self.model))
        assert self.real != Namespaces([*self.real][1:]) or not self.model
        assert self.real != list(self.real)
        with pytest.raises(TypeError, match="unhashable"):
            hash(self.real)

    @invariant()
    def copies_are_independent(self) -> None:
        for clone in (copy.copy(self.real), copy.deepcopy(self.real), Namespaces(self.real)):
            for each in NamespaceType:
                clone.remove(each)
            assert len(clone) == 0
        assert len(self.real) == len(self.model)


TestListOfNamespaces = ListOfNamespaces.TestCase


@given(st.lists(st.one_of(spellings, st.tuples(spellings, paths), st.builds(Namespace, spellings, paths))))
def test_namespaces_are_made_of_words_pairs_and_namespaces(items: list[Any]) -> None:
    """In their order; a type that comes twice, in whatever form, is a mistake that is named."""
    rows = [
        item if isinstance(item, Namespace) else Namespace(*item) if isinstance(item, tuple) else Namespace(item)
        for item in items
    ]
    listed = [row.type for row in rows]
    if len(set(listed)) == len(listed):
        assert list(Namespaces(items)) == rows
        assert list(Namespaces(iter(items))) == rows
        return
    twice = next(each for at, each in enumerate(listed) if each in listed[:at])
    with pytest.raises(ValueError, match=f"^namespaces: {twice.proc_name} is given twice"):
        Namespaces(items)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ("net", TypeError, ("namespaces", "'net'", "list")),
        ({"net": "/x"}, TypeError, ("namespaces", "(type, path)")),
        (7, TypeError, ("namespaces", "7", "Namespace")),
        (None, TypeError, ("namespaces", "None")),
        ([("net",)], TypeError, ("namespaces", "pair")),
        ([("net", "/x", 1)], TypeError, ("namespaces", "pair")),
        (["nut"], ValueError, ("nut", *TYPES)),
        ([7], TypeError, ("7", *TYPES)),
        ([("net", 7)], TypeError, ("path", "7")),
        (["net", "network"], ValueError, ("namespaces", "net", "twice")),
    ],
    ids=repr,
)
def test_namespaces_of_something_else_are_refused(wrong: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    """By the class itself and as Config's field."""
    refused(lambda: Namespaces(wrong), error, words)
    refused(lambda: Config(wrong), error, words)


@pytest.mark.parametrize("method", ["add", "remove", "contains", "index", "path_of", "is_private", "__contains__"])
def test_no_method_takes_another_word_for_absent(method: str) -> None:
    """A misspelt type is told, not answered with False, -1 or the empty string."""
    namespaces = Namespaces(["net"])
    refused(lambda: getattr(namespaces, method)("nut"), ValueError, ("nut", *TYPES))
    refused(lambda: getattr(namespaces, method)(7), TypeError, ("7", *TYPES))
    assert list(namespaces) == [Namespace("net")]


# ---- IDMap ----


@st.composite
def id_maps(draw: st.DrawFn) -> IDMap:
    """Any that is valid: biased to the ends of the 32 bits."""
    container_id, host_id = (draw(st.one_of(st.integers(0, NO_ID - 1), st.integers(0, 9))) for _ in range(2))
    room = NO_ID - max(container_id, host_id)
    return IDMap(container_id, host_id, draw(st.one_of(st.integers(1, room), st.just(room))))


@given(*[st.one_of(st.integers(-3, 3), st.integers(NO_ID - 3, NO_ID + 3), st.integers(0, NO_ID))] * 3)
def test_an_id_map_is_valid_exactly_where_the_kernel_takes_it(container_id: int, host_id: int, size: int) -> None:
    """32-bit, not empty, without 4294967295, which is no id; else the number that is wrong is named."""
    ids_are = all(0 <= each < NO_ID for each in (container_id, host_id)) and size >= 1
    if ids_are and max(container_id, host_id) + size <= NO_ID:
        made = IDMap(container_id, host_id, size)
        assert (made.container_id, made.host_id, made.size) == (container_id, host_id, size)
    else:
        with pytest.raises(ValueError, match=r"^(container_id|host_id|size): .*42949672"):
            IDMap(container_id, host_id, size)


@pytest.mark.parametrize("field", ["container_id", "host_id", "size"])
@pytest.mark.parametrize("wrong", [True, 1.0, "1", None, [1]], ids=repr)
def test_an_id_map_is_of_whole_numbers(field: str, wrong: Any) -> None:
    """A bool, a float or text is a mistake."""
    fields: Any = {"container_id": 0, "host_id": 1000, "size": 1, field: wrong}
    refused(lambda: IDMap(**fields), TypeError, (field, repr(wrong), "int"))


@given(st.lists(id_maps(), max_size=20))
def test_what_format_writes_parse_reads(maps: list[IDMap]) -> None:
    """Round trip, through our text and through that of /proc/PID/uid_map, which the kernel pads to columns of ten."""
    assert IDMap.parse(IDMap.format(maps)) == maps
    assert IDMap.parse(IDMap.format(iter(maps))) == maps
    proc = "".join(f"{each.container_id:10} {each.host_id:10} {each.size:10}\n" for each in maps)
    assert IDMap.parse(proc) == maps
    assert IDMap.format(IDMap.parse(proc)) == ",".join(f"{m.container_id}:{m.host_id}:{m.size}" for m in maps)


def test_the_map_of_this_process_is_read() -> None:
    """And says where we are."""
    (*maps,) = IDMap.parse(Path("/proc/self/uid_map").read_text(encoding="ascii"))
    assert [each.to_host(os.getuid()) for each in maps if each.to_host(os.getuid()) is not None]


@pytest.mark.parametrize(
    ("text", "maps"),
    [
        ("", []),
        ("\n", []),
        ("0:1000:1", [IDMap(0, 1000, 1)]),
        (" 0 : 1000 : 1 , 1:100000:65536,", [IDMap(0, 1000, 1), IDMap(1, 100000, 65536)]),
        ("0 1000 1\n1 100000 65536", [IDMap(0, 1000, 1), IDMap(1, 100000, 65536)]),
        ("0:0:4294967295", [IDMap(0, 0, 4294967295)]),
    ],
)
def test_parse_reads_what_people_write(text: str, maps: list[IDMap]) -> None:
    """With blanks, commas, lines."""
    assert IDMap.parse(text) == maps


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("0:1000", ValueError, ("id map", "0:1000", "CONTAINER:HOST:SIZE")),
        ("0:1000:1:1", ValueError, ("id map", "CONTAINER:HOST:SIZE")),
        ("0:1000:", ValueError, ("id map", "CONTAINER:HOST:SIZE")),
        ("0 1000", ValueError, ("id map", "CONTAINER:HOST:SIZE")),
        ("-1:0:1", ValueError, ("id map", "-1:0:1")),
        ("0:0x10:1", ValueError, ("id map", "0:0x10:1")),
        ("0:1_000:1", ValueError, ("id map", "0:1_000:1")),
        ("0:٣:1", ValueError, ("id map", "0:٣:1")),
        ("0:²:1", ValueError, ("id map", "0:²:1")),
        ("root", ValueError, ("id map", "root")),
        ("0:1000:0", ValueError, ("size", "0 is not in 1")),
        ("0:4294967295:1", ValueError, ("host_id", "4294967294")),
        ("1:0:4294967295", ValueError, ("size", "container_id 1")),
        ("0:1000:1,0:1000", ValueError, ("id map", "'0:1000'")),
        (b"0:1000:1", TypeError, ("id map", "str")),
        (None, TypeError, ("id map", "None")),
    ],
    ids=repr,
)
def test_parse_refuses_what_is_no_map(text: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    """With the entry that is wrong; in a Config with the field, too."""
    refused(lambda: IDMap.parse(text), error, words)
    if isinstance(text, str):
        refused(lambda: Config.new("user", uid_mappings=text), error, ("uid_mappings", *words))
        refused(lambda: Config.new("user", gid_mappings=text), error, ("gid_mappings", *words))


@given(id_maps(), st.integers(0, NO_ID - 1))
def test_to_host_and_to_container_undo_each_other(each: IDMap, id: int) -> None:
    """Inside of the run one goes there and back; outside it is None, never a neighbour."""
    inside = each.container_id <= id < each.container_id + each.size
    there = each.to_host(id)
    assert (there is not None) is inside
    if there is not None:
        assert there - each.host_id == id - each.container_id
        assert each.to_container(there) == id
    back = each.to_container(id)
    assert (back is not None) is (each.host_id <= id < each.host_id + each.size)
    if back is not None:
        assert each.to_host(back) == id
    assert [each.to_host(each.container_id - 1), each.to_host(each.container_id + each.size)] == [None, None]
    assert each.to_host(each.container_id + each.size - 1) == each.host_id + each.size - 1


# ---- what a field of Config holds ----


class Pathlike:
    """An os.PathLike that is no pathlib.Path."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


UNLIMITED = 2**64 - 1
FIVE_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
SIXTY_FOUR = "x" * 62 + "ä"  # in bytes

# field, what is given, what it then is
ACCEPTED: tuple[tuple[str, Any, Any], ...] = (
    ("namespaces", ["net", ("uts", "/x")], Namespaces(["net", ("uts", "/x")])),
    ("namespaces", [], Namespaces()),
    ("uid_mappings", None, None),
    ("uid_mappings", [], []),
    ("uid_mappings", "", []),
    ("uid_mappings", "0:1000:1", [IDMap(0, 1000, 1)]),
    ("uid_mappings", [IDMap(0, 1000, 1)], [IDMap(0, 1000, 1)]),
    ("uid_mappings", ((0, 1000, 1), [1, 2000, 5]), [IDMap(0, 1000, 1), IDMap(1, 2000, 5)]),
    ("gid_mappings", {(0, 1000, 1)}, [IDMap(0, 1000, 1)]),
    ("setgroups", None, None),
    ("setgroups", "deny", "deny"),
    ("setgroups", "allow", "allow"),
    ("hostname", None, None),
    ("hostname", "a", "a"),
    ("hostname", "x" * 64, "x" * 64),
    ("domainname", SIXTY_FOUR, SIXTY_FOUR),
    ("time_offsets", {}, {}),
    ("time_offsets", {"boottime": 3600}, {"boottime": (3600, 0)}),
    ("time_offsets", {"monotonic": -1.5}, {"monotonic": (-2, 500_000_000)}),
    (
        "time_offsets",
        {"monotonic": 0.1, "boottime": (1, 999_999_999)},
        {"monotonic": (0, 10**8), "boottime": (1, 999_999_999)},
    ),
    ("mounts", None, None),
    ("mounts", [], []),
    ("maps", None, None),
    ("maps", "auto", "auto"),
    ("maps", "identity", "identity"),
    ("root", None, None),
    ("root", "/", "/"),
    ("root", PurePosixPath("/x"), PurePosixPath("/x")),
    ("propagation", None, None),
    ("propagation", "private", "private"),
    ("propagation", "slave", "slave"),
    ("propagation", "shared", "shared"),
    ("propagation", "unchanged", "unchanged"),
    ("sysctl", {"net.ipv4.ip_forward": "1"}, {"net.ipv4.ip_forward": "1"}),
    ("loopback", True, True),
    ("uid", 0, 0),
    ("uid", NO_ID - 1, NO_ID - 1),
    ("gid", None, None),
    ("groups", [], []),
    ("groups", (0, 5), (0, 5)),
    ("groups", range(3), range(3)),
    ("capabilities", None, None),
    ("capabilities", {}, {}),
    (
        "capabilities",
        {"bounding": ["CAP_KILL", "CAP_KILL"], "ambient": ()},
        {"bounding": frozenset({"CAP_KILL"}), "ambient": frozenset()},
    ),
    ("rlimits", {"RLIMIT_NOFILE": (5, 6)}, {"RLIMIT_NOFILE": (5, 6)}),
    ("rlimits", {"RLIMIT_CORE": 0, "RLIMIT_AS": -1}, {"RLIMIT_CORE": (0, 0), "RLIMIT_AS": (UNLIMITED, UNLIMITED)}),
    ("rlimits", {"RLIMIT_CORE": (0, -1)}, {"RLIMIT_CORE": (0, UNLIMITED)}),
    ("no_new_privs", False, False),
    ("oom_score_adj", -1000, -1000),
    ("oom_score_adj", 1000, 1000),
    ("parent_death_signal", signal.SIGKILL, 9),
    ("parent_death_signal", 64, 64),
    ("cgroup_path", "/sys/fs/cgroup/x", "/sys/fs/cgroup/x"),
    ("cgroup_path", PurePosixPath("/x"), PurePosixPath("/x")),
    ("cgroup_path", 0, 0),
    ("init", True, True),
    ("target", 7, 7),
    ("extra", {"hooks": []}, {"hooks": []}),
    ("allow", ["linux.seccomp", "root"], ("linux.seccomp", "root")),
    ("allow", (), ()),
)
_RANGE = "0 … 4294967294"
_PATHS = (
    (b"/x", TypeError),
    ("x", ValueError),
    ("", ValueError),
    ("./x", ValueError),
    (7.0, TypeError),
    ("/a\0", ValueError),
)

# field, what is given, what is raised, words of what was given and of what is taken
REFUSED: tuple[tuple[str, Any, type[Exception], tuple[str, ...]], ...] = (
    ("uid_mappings", 7, TypeError, ("7", "IDMap", "0:1000:1")),
    ("uid_mappings", b"0:1000:1", TypeError, ("b'0:1000:1'", "IDMap")),
    ("uid_mappings", {0: 1000}, TypeError, ("{0: 1000}", "IDMap")),
    ("uid_mappings", IDMap(0, 1000, 1), TypeError, ("IDMap",)),
    ("uid_mappings", [7], TypeError, ("7", "IDMap")),
    ("uid_mappings", ["0:1000:1"], TypeError, ("'0:1000:1'", "IDMap")),
    ("uid_mappings", [(0, 1000)], TypeError, ("(0, 1000)", "IDMap")),
    ("uid_mappings", [(0, 1000, 0)], ValueError, ("size", "1 …")),
    ("uid_mappings", [(0, "1000", 1)], TypeError, ("host_id", "int")),
    ("gid_mappings", [(0, NO_ID, 1)], ValueError, ("host_id", _RANGE)),
    ("maps", "all", ValueError, ("'all'", "'root'", "'current'", "'subids'", "'auto'", "'identity'")),
    ("maps", True, ValueError, ("True", "'auto'")),
    ("setgroups", "", ValueError, ("''", "None", "'deny'", "'allow'")),
    ("setgroups", True, ValueError, ("True", "'deny'")),
    ("setgroups", ["deny"], ValueError, ("['deny']", "'deny'")),
    *(
        (field, wrong, error, words)
        for field in ("hostname", "domainname")
        for wrong, error, words in (
            ("", ValueError, ("1 to 64 bytes",)),
            ("x" * 65, ValueError, ("1 to 64 bytes",)),
            ("x" * 63 + "ä", ValueError, ("1 to 64 bytes",)),
            ("a\0b", ValueError, ("NUL",)),
            ("\ud800", ValueError, ("encoded",)),
            (b"a", TypeError, ("b'a'", "str")),
            (7, TypeError, ("7", "str")),
        )
    ),
    ("time_offsets", None, TypeError, ("None", "dict", "clock")),
    ("time_offsets", [("boottime", 1)], TypeError, ("dict",)),
    ("time_offsets", {"realtime": 1}, ValueError, ("'realtime'", "monotonic", "boottime")),
    ("time_offsets", {7: 1}, ValueError, ("7", "monotonic", "boottime")),
    ("time_offsets", {"boottime": "1"}, TypeError, ("boottime", "'1'")),
    ("time_offsets", {"boottime": True}, TypeError, ("boottime", "True")),
    ("time_offsets", {"boottime": None}, TypeError, ("boottime", "None")),
    ("time_offsets", {"boottime": (1,)}, TypeError, ("boottime", "(1,)")),
    ("time_offsets", {"boottime": (1.5, 0)}, TypeError, ("boottime", "1.5")),
    ("time_offsets", {"boottime": (1, 10**9)}, ValueError, ("nanoseconds of boottime", "0 … 999999999")),
    ("time_offsets", {"boottime": (1, -1)}, ValueError, ("nanoseconds of boottime", "0 … 999999999")),
    ("time_offsets", {"monotonic": math.nan}, ValueError, ("monotonic", "nan")),
    ("time_offsets", {"monotonic": -math.inf}, ValueError, ("monotonic", "inf")),
    ("time_offsets", {"monotonic": 1e300}, ValueError, ("monotonic", str(2**63 - 1))),
    ("time_offsets", {"monotonic": 2**63}, ValueError, ("monotonic", str(2**63 - 1))),
    ("mounts", (), TypeError, ("list",)),
    ("mounts", {}, TypeError, ("list",)),
    *(("root", wrong, error, ("path",) if wrong != "/a\0" else ("NUL",)) for wrong, error in _PATHS),
    *(("cgroup_path", wrong, error, ("path",) if wrong != "/a\0" else ("NUL",)) for wrong, error in _PATHS),
    ("cgroup_path", -1, ValueError, ("-1", "0 …")),
    ("cgroup_path", 2**31, ValueError, (str(2**31), "0 …")),
    ("cgroup_path", True, TypeError, ("True",)),
    ("propagation", "rprivate", ValueError, ("'rprivate'", "'private'", "'slave'", "'shared'", "'unchanged'")),
    ("propagation", False, ValueError, ("False", "'private'")),
    ("sysctl", None, TypeError, ("None", "dict")),
    ("sysctl", {"a": 1}, TypeError, ("{'a': 1}", "str")),
    ("sysctl", {1: "a"}, TypeError, ("{1: 'a'}", "str")),
    ("sysctl", {"net.a": "1\0"}, ValueError, ("net.a", "NUL")),
    ("sysctl", {"net.a\0": "1"}, ValueError, ("net.a", "NUL")),
    ("sysctl", {"net.a": "\ud800"}, ValueError, ("net.a", "encoded")),
    *(
        (field, wrong, TypeError, (repr(wrong), "True", "False"))
        for field in ("loopback", "no_new_privs", "init")
        for wrong in (1, 0, None, "yes")
    ),
    *(
        (field, wrong, error, words)
        for field in ("uid", "gid")
        for wrong, error, words in (
            (-1, ValueError, ("-1", _RANGE)),
            (NO_ID, ValueError, (str(NO_ID), _RANGE)),
            (True, TypeError, ("True", "int")),
            ("root", TypeError, ("'root'", "int")),
            (0.0, TypeError, ("0.0", "int")),
        )
    ),
    ("groups", 5, TypeError, ("5", "list")),
    ("groups", "5", TypeError, ("'5'", "list")),
    ("groups", b"5", TypeError, ("b'5'", "list")),
    ("groups", {5}, TypeError, ("{5}", "list")),
    ("groups", ["5"], TypeError, ("'5'", "int")),
    ("groups", [True], TypeError, ("True", "int")),
    ("groups", [NO_ID], ValueError, (str(NO_ID), _RANGE)),
    ("capabilities", ["CAP_KILL"], TypeError, FIVE_SETS),
    ("capabilities", {"bound": []}, ValueError, ("'bound'", *FIVE_SETS)),
    ("capabilities", {"bounding": "CAP_KILL"}, TypeError, ("bounding", "'CAP_KILL'", "list")),
    ("capabilities", {"bounding": None}, TypeError, ("bounding", "None", "list")),
    ("capabilities", {"ambient": ["KILL"]}, ValueError, ("ambient", "'KILL'", "CAP_NET_ADMIN")),
    ("capabilities", {"ambient": ["cap_kill"]}, ValueError, ("ambient", "'cap_kill'", "CAP_NET_ADMIN")),
    ("capabilities", {"ambient": [5]}, ValueError, ("ambient", "5", "CAP_NET_ADMIN")),
    ("capabilities", {"ambient": [["CAP_KILL"]]}, ValueError, ("ambient", "['CAP_KILL']", "CAP_NET_ADMIN")),
    ("rlimits", [("RLIMIT_CORE", 1)], TypeError, ("dict", "RLIMIT_*", "(soft, hard)")),
    ("rlimits", {"CORE": 1}, ValueError, ("'CORE'", "RLIMIT_CORE", "RLIMIT_NOFILE")),
    ("rlimits", {4: 1}, ValueError, ("4", "RLIMIT_CORE")),
    ("rlimits", {"RLIMIT_CORE": None}, TypeError, ("RLIMIT_CORE", "None", "int")),
    ("rlimits", {"RLIMIT_CORE": "unlimited"}, TypeError, ("RLIMIT_CORE", "'unlimited'", "int")),
    ("rlimits", {"RLIMIT_CORE": (1, 2, 3)}, TypeError, ("RLIMIT_CORE", "(1, 2, 3)")),
    ("rlimits", {"RLIMIT_CORE": (0, True)}, TypeError, ("RLIMIT_CORE", "True", "int")),
    ("rlimits", {"RLIMIT_CORE": -2}, ValueError, ("RLIMIT_CORE", "-2", str(UNLIMITED))),
    ("rlimits", {"RLIMIT_CORE": 2**64}, ValueError, ("RLIMIT_CORE", str(2**64), str(UNLIMITED))),
    ("rlimits", {"RLIMIT_CORE": (2, 1)}, ValueError, ("RLIMIT_CORE", "soft 2", "hard 1")),
    ("rlimits", {"RLIMIT_CORE": (-1, 1)}, ValueError, ("RLIMIT_CORE", "soft -1", "hard 1")),
    ("oom_score_adj", -1001, ValueError, ("-1001", "-1000 … 1000")),
    ("oom_score_adj", 1001, ValueError, ("1001", "-1000 … 1000")),
    ("oom_score_adj", "0", TypeError, ("'0'", "int")),
    ("parent_death_signal", 0, ValueError, ("0", "1 … 64")),
    ("parent_death_signal", 65, ValueError, ("65", "1 … 64")),
    ("parent_death_signal", "SIGTERM", TypeError, ("'SIGTERM'", "int")),
    ("extra", None, TypeError, ("dict",)),
    ("extra", [], TypeError, ("dict",)),
    ("allow", "linux.seccomp", TypeError, ("'linux.seccomp'", "list")),
    ("allow", None, TypeError, ("None", "list")),
    ("allow", [b"root"], TypeError, ("b'root'", "path")),
)


def test_every_field_is_in_both_tables() -> None:
    """A field that is added needs its rows here; only *target* takes anything, since verbs know the forms."""
    from attrs import fields

    names = {each.name for each in fields(Config) if each.init}
    assert {field for field, *_ in ACCEPTED} == names
    assert {field for field, *_ in REFUSED} == names - {"namespaces", "target"}  # namespaces have a table above


@pytest.mark.parametrize(("field", "given", "stored"), ACCEPTED, ids=lambda value: str(value)[:40])
def test_a_field_takes(field: str, given: Any, stored: Any) -> None:
    """When it is made, by either name, and when it is assigned to."""
    made = [Config(**{field: given}), Config.new(**{field: given}), Config()]
    setattr(made[2], field, given)
    for config in made:
        assert getattr(config, field) == stored
        assert type(getattr(config, field)) is type(stored) or field == "parent_death_signal"
        assert config == made[0]


@pytest.mark.parametrize(("field", "wrong", "error", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_field_refuses(field: str, wrong: Any, error: type[Exception], words: tuple[str, ...]) -> None:
    """When it is made and when it is assigned to, which changes nothing; the field and what it takes are named."""
    for make in (Config, Config.new):
        refused(lambda: make(**{field: wrong}), error, (field, *words))
    config = Config()
    before = copy.deepcopy(config)
    refused(lambda: setattr(config, field, wrong), error, (field, *words))
    assert config == before


def test_no_other_field_is_taken() -> None:
    """A misspelt keyword or attribute is an error, never ignored."""
    calls: list[Any] = [
        lambda: Config(host_name="x"),  # type: ignore[call-arg]
        lambda: Config.new(network="blue"),
        lambda: Config.join(7, userns="x"),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"host_name|network|userns"):
            call()
    with pytest.raises(AttributeError):
        Config().host_name = "x"  # type: ignore[attr-defined]


@given(
    st.sampled_from(
        [
            ("uid", 0, NO_ID - 1),
            ("gid", 0, NO_ID - 1),
            ("oom_score_adj", -1000, 1000),
            ("parent_death_signal", 1, 64),
            ("cgroup_path", 0, 2**31 - 1),
        ]
    ),
    st.one_of(
        st.integers(), st.integers(-1002, 1002), st.integers(NO_ID - 2, NO_ID + 2), st.integers(2**31 - 2, 2**31 + 2)
    ),
)
def test_a_number_is_taken_exactly_in_its_range(row: tuple[str, int, int], number: int) -> None:
    """And the range is told."""
    field, low, high = row
    if low <= number <= high:
        assert getattr(Config(**{field: number}), field) == number  # type: ignore[arg-type]
    else:
        refused(lambda: Config(**{field: number}), ValueError, (field, str(number), f"{low} … {high}"))  # type: ignore[arg-type]


@given(st.text())
def test_a_name_is_taken_exactly_as_the_kernel_does(name: str) -> None:
    """1 to 64 bytes as they are encoded, without NUL."""
    try:
        size = len(os.fsencode(name)) if "\0" not in name else 0
    except UnicodeEncodeError:
        size = 0
    if 1 <= size <= 64:
        assert Config(hostname=name).hostname == name
    else:
        refused(lambda: Config(hostname=name), ValueError, ("hostname", repr(name)))


@given(st.one_of(st.floats(-(2.0**62), 2.0**62), st.floats(-10, 10)))
def test_an_offset_in_float_is_the_nearest_nanosecond(offset: float) -> None:
    """Also below zero, where the kernel wants the seconds rounded down and nanoseconds counted up."""
    seconds, nanoseconds = Config(time_offsets={"boottime": offset}).time_offsets["boottime"]
    assert 0 <= nanoseconds < 10**9
    assert abs(seconds + Fraction(nanoseconds, 10**9) - Fraction(offset)) <= Fraction(1, 2 * 10**9)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 999_999_999))
def test_an_offset_in_whole_numbers_is_kept(seconds: int, nanoseconds: int) -> None:
    """As runtime-spec's secs and nanosecs, to the ends of 64 bits; and again when it is assigned again."""
    config = Config(time_offsets={"monotonic": (seconds, nanoseconds), "boottime": seconds})
    for _ in range(2):
        assert config.time_offsets == {"monotonic": (seconds, nanoseconds), "boottime": (seconds, 0)}
        config.time_offsets = config.time_offsets


# ---- the rules between fields ----


def _maps(count: int, first: int = 0) -> list[IDMap]:
    return [IDMap(first + 2 * each, first + 2 * each, 1) for each in range(count)]


def both(maps: Any, **fields: Any) -> dict[str, Any]:
    return {"uid_mappings": maps, "gid_mappings": maps, **fields}


# what is created, fields (a type's name joins), words of the first problem
INVALID: dict[str, tuple[tuple[str, ...], dict[str, Any], tuple[str, ...]]] = {
    "uid map alone": (("user",), {"uid_mappings": "0:0:1"}, ("uid_mappings", "gid_mappings", "needs the other")),
    "gid map alone": (("user",), {"gid_mappings": []}, ("uid_mappings", "gid_mappings", "needs the other")),
    "uid map, no user": ((), {"uid_mappings": "0:0:1"}, ("uid_mappings", "not among the namespaces")),
    "empty uid map, no user": ((), {"uid_mappings": []}, ("uid_mappings", "not among the namespaces")),
    "gid map, no user": (("uts",), {"gid_mappings": "0:0:1"}, ("gid_mappings", "not among the namespaces")),
    "setgroups, no user": ((), {"setgroups": "deny"}, ("setgroups", "not among the namespaces")),
    "maps, joined user": ((), both("0:0:1", user="/x"), ("uid_mappings", "is joined")),
    "empty maps, joined user": ((), both([], user=NOBODY), ("uid_mappings", "is joined")),
    "setgroups, joined user": ((), {"user": "/x", "setgroups": "allow"}, ("setgroups", "is joined")),
    "inside twice": (("user",), both("0:0:2,1:5:1"), ("uid_mappings", "overlap", "container_id")),
    "inside twice, unsorted": (("user",), both("9:0:1,0:5:3,8:9:3"), ("uid_mappings", "overlap", "container_id")),
    "outside twice": (("user",), both("0:5:1,1:5:1"), ("uid_mappings", "overlap", "host_id")),
    "gids outside twice": (
        ("user",),
        {"uid_mappings": [], "gid_mappings": "0:5:2,7:6:1"},
        ("gid_mappings", "overlap", "host_id"),
    ),
    "341 entries": (("user",), both(_maps(341)), ("uid_mappings", "341 entries", "340")),
    "4,104 bytes": (("user",), both(_maps(171, 10**9)), ("uid_mappings", "4104 bytes", "4095")),
    "hostname, no uts": (("net",), {"hostname": "x"}, ("hostname", "uts")),
    "domainname, no uts": ((), {"domainname": "x"}, ("domainname", "uts")),
    "offsets, no time": ((), {"time_offsets": {"boottime": 1}}, ("time_offsets", "time namespace")),
    "offsets, joined time": ((), {"time_offsets": {"boottime": 1}, "time": "/x"}, ("time_offsets", "joined")),
    "loopback, no net": ((), {"loopback": True}, ("loopback", "net")),
    "propagation, no mnt": (("pid",), {"propagation": "slave"}, ("propagation", "mnt")),
    "propagation, joined mnt": ((), {"propagation": "slave", "mnt": "/x"}, ("propagation", "created mnt")),
    "init, no pid": (("mnt",), {"init": True}, ("init", "created pid")),
    "init, joined pid": ((), {"init": True, "pid": NOBODY}, ("init", "created pid")),
    "SIGTERM to pid 1": (("pid",), {"parent_death_signal": 15}, ("parent_death_signal", "15", "SIGKILL", "init=True")),
    "effective, not permitted": (
        (),
        {"capabilities": {"effective": ["CAP_KILL"]}},
        ("capabilities", "CAP_KILL", "effective", "permitted"),
    ),
    "ambient, not permitted": (
        (),
        {"capabilities": {"ambient": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "bounding": ["CAP_KILL"]}},
        ("capabilities", "CAP_KILL", "ambient", "permitted"),
    ),
    "ambient, not inheritable": (
        (),
        {"capabilities": {"ambient": ["CAP_KILL"], "permitted": ["CAP_KILL"]}},
        ("capabilities", "CAP_KILL", "ambient", "inheritable"),
    ),
    "inheritable, not bounding": (
        (),
        {"capabilities": {"inheritable": ["CAP_KILL"], "bounding": ["CAP_CHOWN"]}},
        ("capabilities", "CAP_KILL", "inheritable", "bounding"),
    ),
}
# their neighbours, in which nothing is wrong
VALID: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "nothing": ((), {}),
    "everything created": (TYPES, {}),
    "everything joined": ((), dict.fromkeys(TYPES, NOBODY)),
    "user without maps": (("user",), {}),
    "nobody is mapped": (("user",), both([])),
    "uids only": (("user",), {"uid_mappings": "0:0:1", "gid_mappings": []}),
    "maps": (("user",), both("0:1000:1,1:100000:65536", setgroups="deny")),
    "maps that touch": (("user",), both("5:0:5,0:5:5,10:10:1")),
    "all ids": (("user",), both("0:0:4294967295")),
    "340 entries": (("user",), both(_maps(340))),
    "4,080 bytes": (("user",), both(_maps(170, 10**9))),
    "names": (("uts",), {"hostname": "x", "domainname": "x"}),
    "names in a joined uts": ((), {"hostname": "x", "domainname": "x", "uts": "/x"}),
    "offsets": (("time",), {"time_offsets": {"boottime": 1}}),
    "joined time": ((), {"time": "/x", "time_offsets": {}}),
    "loopback": (("net",), {"loopback": True}),
    "loopback of a joined net": ((), {"loopback": True, "net": "blue"}),
    "propagation": (("mnt",), {"propagation": "unchanged"}),
    "init": (("pid",), {"init": True}),
    "SIGKILL to pid 1": (("pid",), {"parent_death_signal": 9}),
    "SIGTERM beside init": (("pid",), {"parent_death_signal": 15, "init": True}),
    "SIGTERM": ((), {"parent_death_signal": 15}),
    "SIGTERM in a joined pid": ((), {"parent_death_signal": 15, "pid": "/x"}),
    "no capabilities": ((), {"capabilities": {}}),
    "all five sets": ((), {"capabilities": {name: ["CAP_KILL"] for name in FIVE_SETS}}),
}


@pytest.mark.parametrize("situation", INVALID)
def test_fields_that_contradict_each_other_are_refused(situation: str) -> None:
    """By validate(), and by a verb before it does anything; the field is named, and what it would need."""
    types, fields, words = INVALID[situation]
    config = Config.new(*types, **fields)
    refused(config.validate, ValueError, words)
    before = fds()
    refused(lambda: nsapi.run(["true"], config=config), ValueError, words)
    assert fds() == before


@pytest.mark.parametrize("situation", VALID)
def test_fields_that_agree_are_valid(situation: str) -> None:
    """validate() answers nothing, changes nothing, and touches nothing of the system."""
    types, fields = VALID[situation]
    config = Config.new(*types, **fields)
    before = copy.deepcopy(config), fds()
    for _ in range(2):
        assert config.validate() is None
        assert (config, fds()) == before


@pytest.mark.parametrize("situation", INVALID)
def test_what_was_valid_is_looked_at_again(situation: str) -> None:
    """A Config that was found valid and is made a contradiction by assignments is refused."""
    types, fields, words = INVALID[situation]
    wrong, config = Config.new(*types, **fields), Config()
    config.validate()
    for field in ("namespaces", "uid_mappings", "gid_mappings", *fields):
        if field not in TYPES:
            setattr(config, field, getattr(wrong, field))
    assert config == wrong
    refused(config.validate, ValueError, words)


Made = tuple[tuple[str, ...], dict[str, Any]]


class Mutation(NamedTuple):
    """A valid Config by what it creates and its fields, what is changed in place in one of them, what is wrong then."""

    made_of: Made
    change: tuple[Any, ...]  # field, method, arguments
    error: type[Exception]
    words: tuple[str, ...]


MAPPED: Made = (("user",), both("0:0:2"))
SHIFTED: Made = (("time",), {"time_offsets": {"boottime": 1}})
GROUPED: Made = ((), {"groups": [1]})
LIMITED: Made = ((), {"rlimits": {"RLIMIT_CORE": 1}})
CONFINED: Made = ((), {"capabilities": {"bounding": []}})
MUTATIONS = {
    "a number in maps": Mutation(MAPPED, ("uid_mappings", "append", 7), TypeError, ("7", "IDMap")),
    "an empty run": Mutation(MAPPED, ("gid_mappings", "append", (9, 9, 0)), ValueError, ("size", "0")),
    "overlapping maps": Mutation(MAPPED, ("uid_mappings", "append", (1, 5, 1)), ValueError, ("overlap",)),
    "no user": Mutation(MAPPED, ("namespaces", "remove", "user"), ValueError, ("uid_mappings", "not among")),
    "user joined": Mutation(MAPPED, ("namespaces", "add", "user", "/x"), ValueError, ("uid_mappings", "is joined")),
    "no uts": Mutation(
        (("uts",), {"hostname": "x"}), ("namespaces", "remove", "uts"), ValueError, ("hostname", "needs a uts")
    ),
    "time joined": Mutation(SHIFTED, ("namespaces", "add", "time", "/x"), ValueError, ("time_offsets", "joined")),
    "another clock": Mutation(SHIFTED, ("time_offsets", "update", {"realtime": 1}), ValueError, ("realtime",)),
    "a word as offset": Mutation(SHIFTED, ("time_offsets", "update", {"boottime": "1"}), TypeError, ("'1'",)),
    "a float, equal": Mutation(SHIFTED, ("time_offsets", "update", {"boottime": (1.0, 0)}), TypeError, ("1.0",)),
    "a word in groups": Mutation(GROUPED, ("groups", "append", "x"), TypeError, ("'x'",)),
    "True for 1": Mutation(GROUPED, ("groups", "__setitem__", 0, True), TypeError, ("True",)),
    "1.0 for 1": Mutation(GROUPED, ("groups", "__setitem__", 0, 1.0), TypeError, ("1.0",)),
    "a number in sysctl": Mutation(
        (("net",), {"sysctl": {"net.a": "b"}}), ("sysctl", "update", {"a": 1}), TypeError, ("'a': 1}",)
    ),
    "soft over hard": Mutation(LIMITED, ("rlimits", "update", {"RLIMIT_CORE": (2, 1)}), ValueError, ("soft 2",)),
    "floats, equal": Mutation(LIMITED, ("rlimits", "update", {"RLIMIT_CORE": (1.0, 1.0)}), TypeError, ("1.0",)),
    "another limit": Mutation(LIMITED, ("rlimits", "update", {"CORE": 1}), ValueError, ("'CORE'",)),
    "a word": Mutation(CONFINED, ("capabilities", "update", {"bounding": "CAP_KILL"}), TypeError, ("'CAP_KILL'",)),
    "another set": Mutation(CONFINED, ("capabilities", "update", {"bound": []}), ValueError, ("'bound'",)),
    "not permitted": Mutation(
        CONFINED, ("capabilities", "update", {"effective": ["CAP_KILL"]}), ValueError, ("CAP_KILL", "permitted")
    ),
}


@pytest.mark.parametrize("validated", [False, True], ids=["never looked at", "found valid before"])
@pytest.mark.parametrize("situation", MUTATIONS)
def test_what_is_changed_in_place_is_looked_at_too(situation: str, validated: bool) -> None:
    """A list, dict or Namespaces inside of a Config may be changed; validate() and the verbs see it."""
    (types, fields), (field, method, *arguments), error, words = MUTATIONS[situation]
    config = Config.new(*types, **copy.deepcopy(fields))
    if validated:
        config.validate()
    getattr(getattr(config, field), method)(*arguments)
    if field != "namespaces":
        words = (field, *words)
    for _ in range(2):
        refused(config.validate, error, words)
        refused(lambda: nsapi.run(["true"], config=config), error, words)


@pytest.mark.parametrize("validated", [False, True], ids=["never looked at", "found valid before"])
def test_what_is_changed_in_place_is_converted_in_place(validated: bool) -> None:
    """What assignment takes, a list or dict inside takes too; it stays the same object, for who holds it."""
    fields = {"time_offsets": {"boottime": 1}, "rlimits": {"RLIMIT_CORE": 1}, "capabilities": {"bounding": []}}
    config = Config.new("user", "time", **both("0:0:1"), **fields)
    if validated:
        config.validate()
    held = [config.uid_mappings, config.time_offsets, config.rlimits, config.capabilities]
    assert config.uid_mappings is not None
    assert config.capabilities is not None
    config.uid_mappings.append((1, 5, 2))  # type: ignore[arg-type]
    config.time_offsets["monotonic"] = -0.5  # type: ignore[assignment]
    config.rlimits["RLIMIT_AS"] = -1  # type: ignore[assignment]
    config.capabilities["permitted"] = ["CAP_KILL"]  # type: ignore[assignment]
    config.validate()
    assert config.uid_mappings == [IDMap(0, 0, 1), IDMap(1, 5, 2)]
    assert config.time_offsets == {"boottime": (1, 0), "monotonic": (-1, 500_000_000)}
    assert config.rlimits == {"RLIMIT_CORE": (1, 1), "RLIMIT_AS": (UNLIMITED, UNLIMITED)}
    assert config.capabilities == {"bounding": frozenset(), "permitted": frozenset({"CAP_KILL"})}
    for mine, theirs in zip(
        held, [config.uid_mappings, config.time_offsets, config.rlimits, config.capabilities], strict=True
    ):
        assert mine is theirs


def test_validate_agrees_with_the_kernel_about_maps(root: Runner) -> None:
    """What it lets through the kernel takes, what it refuses the kernel refuses: 300 maps written to real namespaces."""

    def body() -> list[object]:
        import random

        from nsapi._maps import map_text

        dice, edge = random.Random(7), 2**32 - 1
        lists: list[list[tuple[int, int, int]]] = [[(0, 0, edge)], [(0, 0, edge), (edge - 1, 5, 1)], [(edge - 1, 0, 1)]]
        lists += [[(2 * at, 2 * at, 1) for at in range(count)] for count in (339, 340, 341)]
        long = [(10**9 + 2 * at, 10**9 + 2 * at, 1) for at in range(170)]  # 4,080 bytes of text
        lists += [[*long, (0, int("1" * digits), 1)] for digits in (1, 5, 9, 10)]  # 4,086 to 4,095
        lists += [[*long, (inside, 1_111_111_111, 1)] for inside in (11, 111)]  # 4,096, which is a page, and one more

        for _ in range(290):
            near = dice.choice([0, 5, edge - 12])
            count = dice.randrange(1, 4)
            lists.append(
                [(near + dice.randrange(12), near + dice.randrange(12), dice.randrange(4)) for _ in range(count)]
            )

        def kernel_takes(text: bytes) -> bool:
            started, go_on = os.pipe(), os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    nsapi.unshare("user")
                    os.write(started[1], b"x")
                    os.close(go_on[1])
                    os.read(go_on[0], 1)
                finally:
                    os._exit(0)
            assert os.read(started[0], 1) == b"x"
            file = os.open(f"/proc/{pid}/uid_map", os.O_WRONLY)
            answer = failure(lambda: os.write(file, text))
            for fd in (file, *started, *go_on):
                os.close(fd)
            os.waitpid(pid, 0)
            assert answer.get("errno") in (None, errno.EINVAL), (text, answer)
            return not answer

        def valid(rows: list[tuple[int, int, int]]) -> bool:
            try:
                nsapi.Config.new("user", uid_mappings=rows, gid_mappings=[]).validate()
            except ValueError:
                return False
            return True

        wrong: list[object] = []
        counts = [0, 0]
        for rows in lists:
            text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in rows).encode()
            ours, its = valid(rows), kernel_takes(text)
            counts[its] += 1
            if ours:
                assert map_text([nsapi.IDMap(*row) for row in rows]) == text
            if ours != its:
                wrong.append([rows, ours, its])
        return [wrong, min(counts) > 50]

    assert root(body) == [[], True]


# ---- Config.new and Config.join ----


class Process:
    def __init__(self, pid: Any) -> None:
        self.pid = pid


class File:
    def __init__(self, fd: int, **attributes: Any) -> None:
        self.fileno = lambda: fd
        vars(self).update(attributes)


# what is joined, the path by which; None is one that cannot be opened later than now, and is kept
TARGETS: dict[str, tuple[Any, str]] = {
    "a name": ("blue", "/run/netns/blue"),
    "an absolute path": ("/no/such", "/no/such"),
    "a relative path": ("./blue", "./blue"),
    "a path with a slash": ("no/such", "no/such"),
    "a path in bytes": (b"/no/such", "/no/such"),
    "a pathlib.Path": (PurePosixPath("/no/such"), "/no/such"),
    "a PathLike of bytes": (Pathlike(b"/no/such"), "/no/such"),
    "a pid": (NOBODY, f"/proc/{NOBODY}/ns/net"),
    "an object with a pid": (Process(NOBODY), f"/proc/{NOBODY}/ns/net"),
    "an object with fileno()": (File(987), f"/proc/{os.getpid()}/fd/987"),
    "fileno() 0": (File(0), f"/proc/{os.getpid()}/fd/0"),
}


@pytest.mark.parametrize("form", TARGETS)
def test_a_join_is_described_and_nothing_is_opened(form: str) -> None:
    """As keyword of new, as target of join: the path, and what lives behind it, which need not exist yet."""
    target, path = TARGETS[form]
    before = fds()
    live = not isinstance(target, (str, bytes, PurePosixPath, Pathlike))
    by_new, by_join = Config.new("uts", net=target), Config.join(target, "network", namespaces=["uts"])
    for config in (by_new, by_join):
        assert [each.type.proc_name for each in config.namespaces] == ["uts", "net"]
        assert config.namespaces.path_of("net") == path
        assert not config.namespaces.is_private("net")
        assert config.namespaces.clone_flags() == NamespaceType.UTS.flag
        assert config.namespaces[1].target is (target if live else None)
        config.validate()
    assert by_new.namespaces == by_join.namespaces
    assert (by_new.target, by_join.target) == (None, target)
    assert fds() == before


@pytest.mark.parametrize("type", TYPES)
def test_every_type_joins_by_its_name_as_keyword(type: str) -> None:
    """net=, mnt= and so on; of a process, by the number, without looking whether it is there."""
    config = Config.new(**{type: NOBODY})
    assert config.namespaces == Config.join(NOBODY, type).namespaces
    assert config.namespaces.path_of(type) == f"/proc/{NOBODY}/ns/{type}"
    assert config.namespaces[0].target == NOBODY
    assert Config.new(**{type: "/x"}).namespaces == Namespaces([(type, "/x")])


def test_new_creates_words_in_their_order() -> None:
    """Then come the joins; keywords that are no type's are fields, so cgroup= joins and cgroup_path= is one."""
    config = Config.new("mount", NamespaceType.USER, "CLONE_NEWPID", cgroup="/x", cgroup_path="/y", hostname="z")
    assert config.namespaces == Namespaces(["mnt", "user", "pid", ("cgroup", "/x")])
    assert (config.cgroup_path, config.hostname) == ("/y", "z")
    assert Config.new("net", namespaces=["uts", ("ipc", "/x")]).namespaces == Namespaces(["uts", ("ipc", "/x"), "net"])
    assert Config.new() == Config()


def test_join_takes_the_types_that_are_named() -> None:
    """In their order, after what is created; a name is of net; the type of a handle is its own; of a process none is all."""
    assert [each.type.proc_name for each in Config.join(NOBODY, "net", "uts").namespaces] == ["net", "uts"]
    assert Config.join("blue").namespaces == Namespaces([("net", "/run/netns/blue")])
    assert Config.join(NOBODY).namespaces == Namespaces()
    assert Config.join(NOBODY).target == NOBODY
    config = Config.join(NOBODY, "uts", namespaces=["net"], hostname="x", ipc="/y")
    assert [each.type.proc_name for each in config.namespaces] == ["net", "ipc", "uts"]
    assert config.hostname == "x"


def test_a_handle_is_kept_and_never_closed() -> None:
    """Config lends it: what happens to the Config does not happen to the handle."""
    before = fds()
    with closing(nsapi.current("net")) as handle:
        opened = fds()
        for config in (Config.new(net=handle), Config.join(handle), Config.join(handle, "net")):
            assert [each.target for each in config.namespaces] == [handle]
            assert config.namespaces.path_of("net") == f"/proc/{os.getpid()}/fd/{handle.fileno()}"
            assert fds() == opened
        del config
        assert fds() == opened
        assert Config.new(net=handle) == Config.new(net=handle)
    assert fds() == before


def test_a_socket_is_an_object_with_fileno() -> None:
    """Its net namespace is looked for when a verb runs."""
    with socket.socket() as file:
        before = fds()
        assert Config.new(net=file).namespaces[0].target is file
        assert fds() == before


# type, what is given to join, what is raised, words beside the type
NO_TARGETS: dict[str, tuple[str, Any, type[Exception], tuple[str, ...]]] = {
    "empty": ("net", "", ValueError, ("''", "path")),
    "a dot": ("net", ".", ValueError, ("'.'", "path")),
    "dots": ("net", "..", ValueError, ("'..'", "path")),
    "empty bytes": ("net", b"", ValueError, ("path",)),
    "an empty PathLike": ("net", Pathlike(""), ValueError, ("path",)),
    "a name for uts": ("uts", "blue", ValueError, ("'blue'", "net", "'/'")),
    "NUL": ("net", "/a\0b", ValueError, ("NUL",)),
    "NUL in a name": ("net", "a\0b", ValueError, ("NUL",)),
    "no text": ("net", "/\ud800", ValueError, ("encoded",)),
    "None": ("net", None, TypeError, ("None", "path", "pid", "handle")),
    "True": ("net", True, TypeError, ("True", "path", "pid", "handle")),
    "a float": ("net", 1.5, TypeError, ("1.5", "path", "pid", "handle")),
    "a list": ("net", ["/x"], TypeError, ("['/x']", "path", "pid", "handle")),
    "an object": ("net", object(), TypeError, ("object", "path", "pid", "handle")),
    "pid 0": ("net", 0, ValueError, ("0", "pid greater than 0")),
    "pid -1": ("net", -1, ValueError, ("-1", "pid greater than 0")),
    "a process not started": ("net", Process(None), ValueError, ("Process", "pid greater than 0")),
    "a pid that is a word": ("net", Process("7"), ValueError, ("Process", "pid greater than 0")),
    "a handle of another type": ("net", File(0, type=NamespaceType.UTS), ValueError, ("uts namespace", "not net")),
}


@pytest.mark.parametrize("form", NO_TARGETS)
def test_what_can_never_be_joined_is_refused_at_once(form: str) -> None:
    """By new and by join; never taken for a namespace to be created. The type and what it takes are named."""
    type, target, error, words = NO_TARGETS[form]
    refused(lambda: Config.new(**{type: target}), error, (*words,) if "NUL" in form else (type, *words))
    # None is refused before any type is looked at.
    refused(lambda: Config.join(target, type), error, ("target", "None") if target is None else words)


def test_a_closed_handle_is_refused_at_once() -> None:
    """With the name of the field that holds it."""
    handle = nsapi.current("net")
    handle.close()
    refused(lambda: Config.new(net=handle), ValueError, ("net", "closed"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Config.new("net", net="blue"), ("net", "created and joined")),
        (lambda: Config.new("uts", "mount", mnt=NOBODY), ("mnt", "created and joined")),
        (lambda: Config.new(net="blue", namespaces=["net"]), ("net", "created and joined")),
        (lambda: Config.new(net="blue", namespaces=[("net", "/x")]), ("net", "joined")),
        (lambda: Config.new("net", "network"), ("net", "twice")),
        (lambda: Config.new("net", namespaces=["net"]), ("net", "twice")),
        (lambda: Config.join(NOBODY, "net", "network"), ("net", "twice")),
        (lambda: Config.join(NOBODY, "net", net="blue"), ("net", "twice")),
        (lambda: Config.join(NOBODY, "net", namespaces=["net"]), ("net", "created or joined")),
        (lambda: Config.join("blue", namespaces=["net"]), ("net", "created or joined")),
        (lambda: Config.join(File(0, type=NamespaceType.NET), "uts"), ("uts", "net namespace")),
        (lambda: Config.new("nut"), ("type", "nut", *TYPES)),
        (lambda: Config.join(NOBODY, "nut"), ("type", "nut", *TYPES)),
    ],
)
def test_a_type_comes_once(make: Callable[[], Config], words: tuple[str, ...]) -> None:
    """Created and joined both, or twice, is a mistake that is named."""
    refused(make, ValueError, words)


def test_a_path_without_a_slash_means_to_a_config_what_it_means_to_open(anyone: Runner, readable_tmp: Path) -> None:
    """A PathLike or bytes is a file in the working directory, and never a name of ip-netns(8)."""

    def body(folder: str) -> dict[str, list[object]]:
        os.chdir(folder)
        pathlib.Path("nsapi-no-name").write_text("", encoding="ascii")
        found = {}
        for form in (pathlib.Path("nsapi-no-name"), b"nsapi-no-name", "./nsapi-no-name"):
            calls: list[Any] = [
                lambda form=form: nsapi.open(form),
                lambda form=form: nsapi.run(["true"], config=nsapi.Config.new(net=form)),
                lambda form=form: nsapi.run(["true"], target=form, types=("net",)),
                lambda form=form: nsapi.run(["true"], target=form),
                lambda form=form: nsapi.run(["true"], config=nsapi.Config([("net", form)])),
            ]
            found[repr(form)] = [failure(call)["errno"] for call in calls]
        return found

    answers = anyone(body, str(readable_tmp))
    assert len(answers) == 3
    for form, errnos in answers.items():
        assert errnos == [22] * 5, form  # EINVAL: it is no namespace


# ---- values ----


@pytest.mark.parametrize(("field", "given", "stored"), ACCEPTED, ids=lambda value: str(value)[:40])
def test_configs_compare_by_value(field: str, given: Any, stored: Any) -> None:
    """Equal where all fields are, also after pickling and copying; never hashed, since they change."""
    config, plain = Config(**{field: given}), Config()
    assert (config == plain) is (stored == getattr(plain, field))
    for same in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert same == config
        assert getattr(same, field) == stored
    with pytest.raises(TypeError, match="unhashable"):
        hash(config)


def test_a_copy_is_looked_at_by_itself() -> None:
    """That the first was valid says nothing of what has become of its copy, nor the other way round."""
    config = Config.new("uts", hostname="x")
    config.validate()
    for clone in (copy.copy(config), copy.deepcopy(config)):
        clone.namespaces = Namespaces()
        refused(clone.validate, ValueError, ("hostname", "uts"))
        config.validate()


def test_namespaces_given_are_those_of_the_config() -> None:
    """A Namespaces object is kept, so that who made it goes on changing the Config; any other iterable is copied."""
    namespaces, words = Namespaces(["net"]), ["net"]
    kept, copied = Config(namespaces), Config(words)
    namespaces.add("uts")
    words.append("uts")
    assert kept.namespaces is namespaces
    assert len(copied.namespaces) == 1


def test_defaults_are_not_shared() -> None:
    """Each Config has its own lists and dicts."""
    first, second = Config(), Config()
    first.namespaces.add("net")
    first.rlimits["RLIMIT_CORE"] = (0, 0)
    first.time_offsets["boottime"] = (1, 0)
    first.sysctl["a"] = "b"
    first.extra["a"] = "b"
    assert second == Config()


def test_the_model_reads_nothing(anyone: Runner) -> None:
    """No file is opened by making, changing, comparing and validating a Config, of whatever it speaks."""

    def body() -> list[str]:
        opened = []
        config = nsapi.Config.new("user", "mnt", net="blue", hostname=None)
        config.validate()

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if event in ("open", "import", "os.listdir", "os.scandir", "subprocess.Popen", "socket.connect"):
                opened.append(event)

        sys.addaudithook(watch)
        config = nsapi.Config.new("user", "pid", net="blue", uts=2**31 - 1, hostname="x", uid_mappings="0:5:1")
        config.gid_mappings = [nsapi.IDMap(0, 5, 1)]
        config.namespaces.add("ipc", "/no/such")
        config.validate()
        nsapi.Config.join("/no/such", "net", mnt=2**31 - 1).validate()
        assert config != nsapi.Config.new("user")
        return opened

    assert anyone(body) == []
