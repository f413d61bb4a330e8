"""Files of container runtimes: each member read and written, faults told with their place, nothing dropped in silence."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Runner, lacking, tool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inside import PYTHON, all_ns, failure, fds, ns

import nsapi
from nsapi import Config, IDMap, Namespaces, NamespaceType, oci
from nsapi._fields import CAPABILITIES, CAPABILITY_SETS, RLIMITS
from nsapi._members import CARRIED, INSIDE, MEMBERS, UNAPPLIED

Document = dict[str, Any]

settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

NO_ID = 2**32 - 1
SCHEMAS = ("oci", "libcontainer")
NEW_OF_EACH = {
    "oci": [{"type": each.oci_name} for each in NamespaceType],
    "libcontainer": [{"type": each.value} for each in NamespaceType],
}


def put(document: Document, path: str, value: Any) -> Document:
    """A copy of *document* with *value* at *path*."""
    made = copy.deepcopy(document)
    *owners, name = path.split(".")
    at = made
    for each in owners:
        at = at.setdefault(each, {})
    at[name] = value
    return made


def at(document: Document, path: str) -> Any:
    """What is at *path*; "absent" if nothing is."""
    for each in path.split("."):
        if not isinstance(document, dict) or each not in document:
            return "absent"
        document = document[each]
    return document


def plain(schema: str) -> Document:
    """A file that creates a namespace of each type, with which any field may stand."""
    if schema == "libcontainer":
        return {"namespaces": copy.deepcopy(NEW_OF_EACH[schema])}
    return {"ociVersion": "1.2.0", "linux": {"namespaces": copy.deepcopy(NEW_OF_EACH[schema])}}


def with_user(schema: str, path: str) -> Document:
    """A file in which *path* may stand: a user has two members that are required."""
    return put(plain(schema), "process.user", {"uid": 0, "gid": 0}) if "process.user." in path else plain(schema)


# ---- fields ----

KILL = "CAP_KILL"
#: schema, member, JSON, field, value; each can be read and written.
FIELDS: list[tuple[str, str, Any, str, Any]] = [
    ("oci", "hostname", "box", "hostname", "box"),
    ("oci", "domainname", "example", "domainname", "example"),
    ("oci", "process.user", {"uid": 5, "gid": 6, "additionalGids": [7, 8]}, "uid", 5),
    ("oci", "process.user", {"uid": 5, "gid": 6, "additionalGids": [7, 8]}, "gid", 6),
    ("oci", "process.user", {"uid": 5, "gid": 6, "additionalGids": [7, 8]}, "groups", [7, 8]),
    ("oci", "process.capabilities", {"bounding": [KILL]}, "capabilities", {"bounding": frozenset({KILL})}),
    ("oci", "process.capabilities", {}, "capabilities", {}),
    *(
        ("oci", "process.rlimits", [{"type": name, "soft": 1, "hard": 2**64 - 1}], "rlimits", {name: (1, 2**64 - 1)})
        for name in RLIMITS
    ),
    ("oci", "process.noNewPrivileges", True, "no_new_privs", True),
    ("oci", "process.oomScoreAdj", -1000, "oom_score_adj", -1000),
    (
        *("oci", "linux.timeOffsets", {"boottime": {"secs": -5, "nanosecs": 7}, "monotonic": {"secs": 0, "nanosecs": 0}}),
        *("time_offsets", {"boottime": (-5, 7), "monotonic": (0, 0)}),
    ),
    ("oci", "linux.sysctl", {"net.ipv4.ip_forward": "1"}, "sysctl", {"net.ipv4.ip_forward": "1"}),
    *(("oci", "linux.rootfsPropagation", each, "propagation", each) for each in ("private", "slave", "shared")),
    ("libcontainer", "hostname", "box", "hostname", "box"),
    ("libcontainer", "domainname", "example", "domainname", "example"),
    ("libcontainer", "capabilities", {"Bounding": [KILL]}, "capabilities", {"bounding": frozenset({KILL})}),
    ("libcontainer", "rlimits", [{"type": 7, "soft": 1, "hard": 2}], "rlimits", {"RLIMIT_NOFILE": (1, 2)}),
    ("libcontainer", "no_new_privileges", True, "no_new_privs", True),
    ("libcontainer", "oom_score_adj", 0, "oom_score_adj", 0),
    ("libcontainer", "parent_death_signal", 9, "parent_death_signal", 9),
    ("libcontainer", "networks", [{"type": "loopback"}], "loopback", True),
    ("libcontainer", "time_offsets", {"boottime": {"secs": 1, "nanosecs": 0}}, "time_offsets", {"boottime": (1, 0)}),
    ("libcontainer", "sysctl", {"net.ipv4.ip_forward": "1"}, "sysctl", {"net.ipv4.ip_forward": "1"}),
    ("libcontainer", "rootPropagation", (1 << 18) | (1 << 14), "propagation", "private"),
    ("libcontainer", "rootPropagation", (1 << 19) | (1 << 14), "propagation", "slave"),
    ("libcontainer", "rootPropagation", (1 << 20) | (1 << 14), "propagation", "shared"),
    *(
        (schema, path, [dict(zip(names, numbers, strict=True)) for numbers in ((0, 1000, 1), (1, 100000, 65536))], field, [
            IDMap(0, 1000, 1), IDMap(1, 100000, 65536)
        ])
        for schema, path, names, field in (
            ("oci", "linux.uidMappings", ("containerID", "hostID", "size"), "uid_mappings"),
            ("oci", "linux.gidMappings", ("containerID", "hostID", "size"), "gid_mappings"),
            ("libcontainer", "uid_mappings", ("container_id", "host_id", "size"), "uid_mappings"),
            ("libcontainer", "gid_mappings", ("container_id", "host_id", "size"), "gid_mappings"),
        )
    ),
]  # fmt: skip
OTHER_MAP = {
    "linux.uidMappings": "linux.gidMappings", "linux.gidMappings": "linux.uidMappings",
    "uid_mappings": "gid_mappings", "gid_mappings": "uid_mappings",
}  # fmt: skip


@pytest.mark.parametrize(("schema", "path", "written", "field", "value"), FIELDS, ids=lambda value: str(value)[:25])
def test_a_member_is_read_into_its_field_and_written_from_it(
    schema: Any, path: str, written: Any, field: str, value: Any
) -> None:
    """And nothing of it stays in extra; of a Config that was never a file too."""
    document = put(plain(schema), path, written)
    if path in OTHER_MAP:
        document = put(document, OTHER_MAP[path], [])
    config = oci.load(document)
    assert getattr(config, field) == value
    assert (config.unapplied, at(config.extra, path)) == ([], "absent")
    fields = {field: value}
    if "_mappings" in field:
        fields |= {OTHER_MAP[field]: []}
    if field in ("uid", "gid", "groups"):
        fields = {"uid": 5, "gid": 6, "groups": [7, 8]}
    fresh = Config([*NamespaceType], **fields)
    assert at(oci.dump(fresh, schema=schema), path) == written


@pytest.mark.parametrize(("schema", "attribute"), [("oci", "oci_name"), ("libcontainer", "value")])
def test_namespaces_are_created_and_joined_in_order(schema: Any, attribute: str) -> None:
    """Each type by its word; a path that is absent, empty or null means to create."""
    for each in NamespaceType:
        word = getattr(each, attribute)
        joined = {"type": word, "path": f"/run/{word}"}
        for entry, path in ((joined, f"/run/{word}"), ({"type": word}, ""), ({"type": word, "path": ""}, "")):
            document = put(plain(schema), "linux.namespaces" if schema == "oci" else "namespaces", [entry])
            assert oci.load(document).namespaces == Namespaces([(each, path)])
            assert oci.dump(oci.load(document), schema=schema) == document
    config = oci.load(plain(schema))
    assert [each.type for each in config.namespaces] == list(NamespaceType)
    assert list(config.namespaces.created()) == list(NamespaceType)
    assert oci.dump(Config([*NamespaceType], loopback=True), schema=schema) == (
        plain(schema) if schema == "oci" else plain(schema) | {"networks": [{"type": "loopback"}]}
    )


#: Member, JSON, field, value: other spellings that are read.
UNSAID: list[tuple[str, Any, str, Any]] = [
    ("hostname", "", "hostname", None),
    ("hostname", None, "hostname", None),
    ("linux.rootfsPropagation", "", "propagation", None),
    ("linux.rootfsPropagation", "rslave", "propagation", "slave"),
    ("linux.rootfsPropagation", "rprivate", "propagation", "private"),
    ("linux.timeOffsets", {"boottime": {}}, "time_offsets", {"boottime": (0, 0)}),
    ("linux.timeOffsets", {"boottime": {"secs": None, "nanosecs": 3}}, "time_offsets", {"boottime": (0, 3)}),
    ("linux.uidMappings", None, "uid_mappings", None),
    ("process", None, "capabilities", None),
    ("process", {}, "capabilities", {}),
    ("process.capabilities", None, "capabilities", {}),
    ("process.capabilities", {"bounding": None}, "capabilities", {}),
    ("process.rlimits", None, "rlimits", {}),
    ("process.user", None, "uid", None),
    ("linux", {"namespaces": None}, "namespaces", Namespaces()),
    ("linux", {"namespaces": [{"type": "network"}]}, "loopback", True),
    ("linux", {"namespaces": [{"type": "network", "path": "/x"}]}, "loopback", False),
    ("linux", {"uidMappings": [], "gidMappings": []}, "uid_mappings", None),
]


@pytest.mark.parametrize(("path", "written", "field", "value"), UNSAID, ids=lambda value: str(value)[:30])
def test_what_is_unsaid_is_read_as_runtimes_do(path: str, written: Any, field: str, value: Any) -> None:
    """And written as it was."""
    document = put(plain("oci"), path, written)
    config = oci.load(document)
    assert getattr(config, field) == value
    assert oci.dump(config) == document


@pytest.mark.parametrize(
    ("linux", "groups"),
    [
        ({}, []),
        ({"namespaces": [{"type": "user", "path": "/x"}]}, []),
        ({"namespaces": [{"type": "user"}]}, None),
        ({"namespaces": [{"type": "user"}], "uidMappings": [], "gidMappings": []}, None),
        ({"namespaces": [{"type": "user"}], "uidMappings": [], "gidMappings": [(0, 0, 1)]}, None),
        ({"namespaces": [{"type": "user"}], "uidMappings": [], "gidMappings": [(0, 0, 2)]}, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("given", [{}, {"additionalGids": None}, {"additionalGids": []}], ids=str)
def test_a_user_without_groups_has_none_where_they_can_be_dropped(linux: Any, groups: Any, given: Any) -> None:
    """The caller's groups are power that the file did not give."""
    if "gidMappings" in linux:
        numbers = [dict(zip(("containerID", "hostID", "size"), each, strict=True)) for each in linux["gidMappings"]]
        linux = linux | {"gidMappings": numbers}
    document = {"ociVersion": "1.0.0", "process": {"user": {"uid": 0, "gid": 0, **given}}, "linux": linux}
    assert oci.load(document).groups == groups
    assert oci.dump(oci.load(document)) == document


def test_ambient_capabilities_that_cannot_be_granted_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """As the runtime-spec asks: a warning, no failure. The file stays as it was."""
    sets = {"bounding": [KILL], "permitted": [KILL, "CAP_CHOWN"], "inheritable": [KILL], "ambient": [KILL, "CAP_CHOWN"]}
    document = put(plain("oci"), "process.capabilities", sets)
    config = oci.load(document)
    assert config.capabilities is not None
    assert config.capabilities["ambient"] == {KILL}
    assert [(each.name, each.levelname) for each in caplog.records] == [("nsapi", "WARNING")]
    assert caplog.messages[0].startswith("process.capabilities.ambient: CAP_CHOWN: not granted")
    assert oci.dump(config) == document


def test_a_program_without_logging_is_told_on_stderr() -> None:
    """As logging does that nobody has configured; an import here could find a stranger's file, in a mount namespace."""
    code = """
        import sys, nsapi
        ambient = {"process": {"capabilities": {"ambient": ["CAP_KILL"]}}}
        nsapi.oci.load(ambient)
        print("logging" in sys.modules)
        import logging
        nsapi.oci.load(ambient)
    """
    done = subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(code)], capture_output=True, text=True)
    first, second = done.stderr.splitlines()
    assert (done.stdout, first) == ("False\n", second)
    assert first.startswith("process.capabilities.ambient: CAP_KILL: not granted")


# ---- faults ----

ONE = {"containerID": 0, "hostID": 0, "size": 1}
#: What is put where in a good file, what is raised, and how its text goes.
REJECTED: list[tuple[str, Any, type[Exception], str]] = [
    ("linux.namespaces", [{"type": "pid"}, {"type": "ipc"}, {"type": "netwrk"}], ValueError,
        'linux.namespaces[2].type: "netwrk" is not one of user, ipc, uts, network, pid, mount, cgroup, time'),
    ("linux.namespaces", [{"type": "net"}], ValueError, 'linux.namespaces[0].type: "net" is not one of user, '),
    ("linux.namespaces", [{"type": "NEWNET"}], ValueError, 'linux.namespaces[0].type: "NEWNET" is not one of '),
    ("linux.namespaces", [{"type": "pid"}, {"type": "pid", "path": "/x"}], ValueError,
        'linux.namespaces[1].type: "pid" is given twice, first in linux.namespaces[0]'),
    ("linux.namespaces", [{"path": "/x"}], ValueError, "linux.namespaces[0].type: is missing, and required"),
    ("linux.namespaces", [{"type": None}], ValueError, "linux.namespaces[0].type: is missing, and required"),
    ("linux.namespaces", [{"type": 1}], TypeError, "linux.namespaces[0].type: 1 is not a string"),
    ("linux.namespaces", ["pid"], TypeError, 'linux.namespaces[0]: "pid" is not an object'),
    ("linux.namespaces", "pid", TypeError, 'linux.namespaces: "pid" is not an array'),
    ("linux.namespaces", [{"type": "pid", "path": "x"}], ValueError,
        'linux.namespaces[0].path: "x" is no absolute path'),
    ("linux.namespaces", [{"type": "pid", "path": "/x\0"}], ValueError, "linux.namespaces[0].path: "),
    ("linux.namespaces", [{"type": "pid", "path": ["/x"]}], TypeError,
        'linux.namespaces[0].path: ["/x"] is not a string'),
    *(("linux.uidMappings", [ONE, {**ONE, name: None}], ValueError,
        f"linux.uidMappings[1].{name}: is missing, and required") for name in ONE),
    *(("linux.uidMappings", [{**ONE, name: value}], error, f"linux.uidMappings[0].{name}: {text}")
        for name in ONE
        for value, error, text in (
            (2**32, ValueError, "4294967296 is not in 0 … 4294967295"), (-1, ValueError, "-1 is not in 0 … 4294967295"),
            (True, TypeError, "true is not a whole number"), ("0", TypeError, '"0" is not a whole number'),
            (1.0, TypeError, "1.0 is not a whole number"),
        )),
    ("linux.uidMappings", [{**ONE, "size": 0}], ValueError, "linux.uidMappings[0].size: 0 is not in 1 … 4294967295"),
    ("linux.uidMappings", [{**ONE, "hostID": NO_ID}], ValueError, f"linux.uidMappings[0].hostID: {NO_ID} is not in "),
    ("linux.gidMappings", [{**ONE, "hostID": NO_ID - 1, "size": 2}], ValueError, "linux.gidMappings[0].size: 2 ids from"),
    ("linux.gidMappings", [ONE, ONE], ValueError, "linux.uidMappings, linux.gidMappings: None and '0:0:1,"),
    ("linux", {"namespaces": [{"type": "user"}], "uidMappings": [ONE, ONE], "gidMappings": []}, ValueError,
        "linux.uidMappings: IDMap(container_id=0, host_id=0, size=1) and "),
    ("linux", {"uidMappings": [ONE], "gidMappings": [ONE]}, ValueError, "linux.uidMappings: '0:0:1', and a user name"),
    ("linux", {"namespaces": [{"type": "user", "path": "/x"}], "uidMappings": [ONE], "gidMappings": [ONE]}, ValueError,
        "linux.uidMappings: '0:0:1', and a user namespace is joined"),
    ("linux.timeOffsets", {"realtime": {}}, ValueError, 'linux.timeOffsets.realtime: "realtime" is not one of monoton'),
    ("linux.timeOffsets", {"boottime": 3}, TypeError, "linux.timeOffsets.boottime: 3 is not an object"),
    ("linux.timeOffsets", {"boottime": {"secs": 2**63}}, ValueError, "linux.timeOffsets.boottime.secs: 92233720368547"),
    ("linux.timeOffsets", {"boottime": {"secs": 0.5}}, TypeError, "linux.timeOffsets.boottime.secs: 0.5 is not a whole"),
    ("linux.timeOffsets", {"boottime": {"nanosecs": 10**9}}, ValueError, "linux.timeOffsets.boottime.nanosecs: 10000000"),
    ("linux.timeOffsets", {"boottime": {"nanosecs": -1}}, ValueError, "linux.timeOffsets.boottime.nanosecs: -1 is not"),
    ("linux", {"timeOffsets": {"boottime": {}}}, ValueError, "linux.timeOffsets: {'boottime': (0, 0)} need a create"),
    ("linux.sysctl", {"net.ipv4.ip_forward": 1}, TypeError, "linux.sysctl['net.ipv4.ip_forward']: 1 is not a string"),
    ("linux.sysctl", {"kernel.panic": "1"}, ValueError, "linux.sysctl: kernel.panic: '1' would be the host's too"),
    ("linux", {"sysctl": {"net.ipv4.ip_forward": "1"}}, ValueError, "linux.sysctl: net.ipv4.ip_forward: '1' needs a "),
    ("linux.rootfsPropagation", "none", ValueError, 'linux.rootfsPropagation: "none" is not one of private, slave, shar'),
    ("linux.rootfsPropagation", 1, TypeError, "linux.rootfsPropagation: 1 is not a string"),
    ("linux", {"rootfsPropagation": "slave"}, ValueError, "linux.rootfsPropagation: 'slave' needs a created mnt"),
    ("linux", [], TypeError, "linux: [] is not an object"),
    ("hostname", "x" * 65, ValueError, f"hostname: '{'x' * 65}' is not 1 to 64 bytes"),
    ("hostname", 1, TypeError, "hostname: 1 is not a string"),
    ("process.user", {"uid": 0}, ValueError, "process.user.gid: is missing, and required"),
    ("process.user", {"gid": 0}, ValueError, "process.user.uid: is missing, and required"),
    ("process.user", {"uid": NO_ID, "gid": 0}, ValueError, f"process.user.uid: {NO_ID} is not in 0 … "),
    ("process.user", {"uid": 0, "gid": False}, TypeError, "process.user.gid: false is not a whole number"),
    ("process.user", {"uid": 0, "gid": 0, "additionalGids": [0, NO_ID]}, ValueError,
        f"process.user.additionalGids[1]: {NO_ID} is not in 0 … "),
    ("process.user", {"uid": 0, "gid": 0, "additionalGids": ["0"]}, TypeError,
        'process.user.additionalGids[0]: "0" is not a whole'),
    ("process.capabilities", {"bounding": [KILL, "CAP_NOPE"]}, ValueError,
        'process.capabilities.bounding[1]: "CAP_NOPE" is no name of capabilities(7)'),
    ("process.capabilities", {"bounding": KILL}, TypeError, 'process.capabilities.bounding: "CAP_KILL" is not an array'),
    ("process.capabilities", {"bounding": [1]}, TypeError, "process.capabilities.bounding[0]: 1 is not a string"),
    ("process.capabilities", [KILL], TypeError, 'process.capabilities: ["CAP_KILL"] is not an object'),
    ("process.capabilities", {"effective": [KILL]}, ValueError, "process.capabilities: CAP_KILL is effective, so it must"),
    ("process.rlimits", [{"type": "RLIMIT_X", "soft": 0, "hard": 0}], ValueError,
        'process.rlimits[0].type: "RLIMIT_X" is not one of RLIMIT_AS, '),
    ("process.rlimits", [{"type": "RLIMIT_AS", "soft": 0, "hard": 0}] * 2, ValueError,
        "process.rlimits[1].type: RLIMIT_AS is given twice, first in process.rlimits[0]"),
    ("process.rlimits", [{"type": "RLIMIT_AS", "soft": 0}], ValueError, "process.rlimits[0].hard: is missing, and"),
    ("process.rlimits", [{"type": "RLIMIT_AS", "soft": 2, "hard": 1}], ValueError,
        "process.rlimits[0].soft: 2 is over hard, 1"),
    ("process.rlimits", [{"type": "RLIMIT_AS", "soft": -1, "hard": 1}], ValueError, "process.rlimits[0].soft: -1 is not"),
    ("process.oomScoreAdj", 1001, ValueError, "process.oomScoreAdj: 1001 is not in -1000 … 1000"),
    ("process.oomScoreAdj", True, TypeError, "process.oomScoreAdj: true is not a whole number"),
    ("process.noNewPrivileges", 1, TypeError, "process.noNewPrivileges: 1 is not true or false"),
    ("process.args", "sh", TypeError, 'process.args: "sh" is not an array of strings'),
    ("process.args", ["sh", 1], TypeError, "process.args[1]: 1 is not a string"),
    ("mounts", {}, TypeError, "mounts: {} is not an array"),
    ("annotations", {1: ""}, TypeError, "annotations: 1 is no name of a member, which is a str"),
    ("annotations", {"a": ("x",)}, TypeError, "annotations.a: ('x',) is no value of JSON"),
    ("annotations", {"a": float("nan")}, ValueError, "annotations.a: nan is no number of JSON"),
]  # fmt: skip
WITH_LIBCONTAINER: list[tuple[str, Any, type[Exception], str]] = [
    ("namespaces", [{"type": "network"}], ValueError, 'namespaces[0].type: "network" is not one of NEWUSER, NEWIPC, '),
    ("namespaces", [{"type": "NEWPID"}] * 2, ValueError, 'namespaces[1].type: "NEWPID" is given twice, first in namespa'),
    ("uid_mappings", [{"container_id": 0, "host_id": 0}], ValueError, "uid_mappings[0].size: is missing, and required"),
    ("uid_mappings", [{"container_id": 0, "host_id": 0, "size": 0}], ValueError, "uid_mappings[0].size: 0 is not in 1"),
    ("rlimits", [{"type": 99, "soft": 0, "hard": 0}], ValueError, "rlimits[0].type: 99 is no resource of getrlimit(2)"),
    ("rlimits", [{"type": "RLIMIT_AS", "soft": 0, "hard": 0}], TypeError, 'rlimits[0].type: "RLIMIT_AS" is not a whole'),
    ("capabilities", {"Bounding": ["KILL"]}, ValueError, 'capabilities.Bounding[0]: "KILL" is no name of capabilities(7)'),
    ("parent_death_signal", 65, ValueError, "parent_death_signal: 65 is not in 1 … 64"),
    ("networks", ["lo"], TypeError, 'networks[0]: "lo" is not an object'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "error", "text"), REJECTED, ids=lambda value: str(value)[:60])
def test_a_fault_is_told_with_its_place(path: str, value: Any, error: type[Exception], text: str) -> None:
    """The text begins with the JSON path."""
    with pytest.raises(error) as caught:
        oci.load(put(plain("oci"), path, value))
    assert str(caught.value).startswith(text)
    assert type(caught.value) is error


@pytest.mark.parametrize(("path", "value", "error", "text"), WITH_LIBCONTAINER, ids=lambda value: str(value)[:60])
def test_a_fault_in_libcontainers_is_told_by_its_names(
    path: str, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        oci.load(put(plain("libcontainer"), path, value))
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_known_member_has_its_kind(schema: str) -> None:
    """Also what is only carried: a caller will use it."""
    for path, row in MEMBERS[schema].items():
        wrong = 1 if row.kind in ("string", "boolean") else "1"
        with pytest.raises(TypeError, match=rf"^{re.escape(path)}: \S+ is not "):
            oci.load(put(plain(schema), path, wrong))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"", ValueError, "line 1, column 1: no JSON: Expecting value"),
        (b'{\n "linux": {]}', ValueError, "line 2, column 12: no JSON: Expecting property name"),
        (b"{} {}", ValueError, "line 1, column 4: no JSON: Extra data"),
        (b'{\n"a": "\xff"}', ValueError, "line 2, column 7: no UTF-8: invalid start byte"),
        (b'{"linux": NaN}', ValueError, "NaN is no number of JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", ValueError, "Exceeds the limit"),
        (b"[" * 100_000, ValueError, "nested more than 64 deep"),
        (b"[1]", TypeError, "[1] is not an object"),
        (b"null", TypeError, "null is not an object"),
        (b"{}", ValueError, "neither OCI's (no ociVersion, no linux) nor libcontainer's (no namespaces)"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_such_file_is_told_with_its_name(
    text: bytes, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(error) as caught:
        oci.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"hostname": "a", "hostname": "b", "linux": {}}', "hostname"),
        ('{"linux": {"namespaces": [{"type": "pid"}, {"type": "ipc", "type": "uts"}]}}', "linux.namespaces[1].type"),
        ('{"linux": {"seccomp": {}, "seccomp": {}}}', "linux.seccomp"),
        ('{"linux": {}, "annotations": {"a.b": "", "a.b": ""}}', "annotations['a.b']"),
    ],
)
def test_a_member_that_comes_twice_is_refused(text: str, place: str) -> None:
    """JSON lets readers choose; two that choose differently would confine differently."""
    with pytest.raises(ValueError, match=f"^{re.escape(place)}: the member is given twice$"):
        oci.load(io.StringIO(text))


def test_deep_values_are_refused_at_any_depth() -> None:
    """As an error of the file, not of the interpreter."""
    value: Any = 1
    for _ in range(100):
        value = [value]
    with pytest.raises(ValueError, match=r"^annotations: nested more than 64 deep"):
        oci.load({"ociVersion": "1.0.0", "annotations": value})


# ---- sources ----


def test_load_takes_paths_files_and_dicts(tmp_path: Path) -> None:
    """With the same result."""
    text = json.dumps(put(plain("oci"), "annotations", {"name": "böx"}), ensure_ascii=False)
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    expected = oci.load(json.loads(text))
    assert expected.extra["annotations"] == {"name": "böx"}
    for source in (path, str(path), os.fsencode(path), io.StringIO(text), io.BytesIO(text.encode())):
        assert oci.load(source) == expected
    wrong: list[Any] = [None, 3, [("linux", {})]]
    for bad in wrong:
        with pytest.raises(TypeError, match="is no path, no file and no dict"):
            oci.load(bad)
    with pytest.raises(FileNotFoundError):
        oci.load(tmp_path / "none")


def test_load_and_dump_touch_no_namespace_and_share_nothing(tmp_path: Path) -> None:
    """What is joined need not exist; the dict, the Config and what is dumped are each their own."""
    document = plain("oci")
    document["linux"]["namespaces"][3]["path"] = str(tmp_path / "none")
    document["process"] = {"args": ["sh"]}
    before = (fds(), all_ns())
    config = oci.load(document)
    dumped = oci.dump(config)
    assert (fds(), all_ns()) == before
    document["process"]["args"].append("x")
    dumped["process"]["args"].append("y")
    dumped["linux"]["namespaces"].clear()
    assert config.extra["process"]["args"] == ["sh"]
    assert len(oci.dump(config)["linux"]["namespaces"]) == 8


def test_importing_nsapi_or_config_reads_no_json() -> None:
    """Who has no files does not pay for them."""
    code = "import sys, nsapi; nsapi.Config; print(*({'json', 'nsapi.oci', 'logging'} & (sys.modules.keys() - before)))"
    code = f"import sys; before = set(sys.modules); {code}; nsapi.oci.load"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


# ---- what is not performed ----


#: An interface is moved under its own name, and a group of resctrl is made that is named as the container.
EMPTY_AND_ASKS: dict[str, list[Any]] = {
    "linux.netDevices": [{"eth0": {}}, {"eth0": None}, {"eth0": {"name": ""}}],
    "netDevices": [{"eth0": {}}, {"eth0": None}, {"eth0": {"name": ""}}],
    "linux.intelRdt": [{}, {"closID": ""}],
    "intel_rdt": [{}],
}


@pytest.mark.parametrize("path", EMPTY_AND_ASKS)
def test_what_asks_by_its_mere_name_is_unapplied(path: str) -> None:
    """However little is in it, and by that name it is refused."""
    for value in EMPTY_AND_ASKS[path]:
        config = oci.load(put(plain("oci" if path.startswith("linux.") else "libcontainer"), path, value))
        assert config.unapplied == [path]
        with pytest.raises(nsapi.Unsupported, match=f"{re.escape(path)}: asked for"):
            nsapi.run(["true"], config=config)


@pytest.mark.parametrize(
    ("schema", "path"),
    [(schema, path) for schema in SCHEMAS for path, row in MEMBERS[schema].items() if row.becomes != INSIDE],
)
def test_a_known_member_is_a_field_or_unapplied_or_asks_for_nothing(schema: str, path: str) -> None:
    """One of the three, as the table has it; what is empty asks for nothing."""
    row = MEMBERS[schema][path]
    full = {"object": {"a": "b"}, "array": [{"a": "b"}], "strings": ["a"], "string": "a", "boolean": True, "integer": 0}
    empty = {"object": ({}, {"a": None}), "array": ([],), "strings": ([],), "string": ("",), "boolean": (False,)}
    if path in EMPTY_AND_ASKS:
        empty["object"] = ({},) if path.endswith("netDevices") else ()
    for value in (None, *empty.get(row.kind, ())):
        if row.becomes in (UNAPPLIED, CARRIED):
            document = put(with_user(schema, path), path, value)
            config = oci.load(document)
            assert config.unapplied == []
            assert oci.dump(config, schema=schema) == document  # type: ignore[arg-type]
    if row.becomes in (UNAPPLIED, CARRIED):
        document = put(with_user(schema, path), path, full[row.kind])
        config = oci.load(document)
        assert at(config.extra, path) == full[row.kind]
        assert config.unapplied == ([path] if row.becomes == UNAPPLIED else [])
        assert oci.dump(config, schema=schema) == document  # type: ignore[arg-type]
    else:
        assert row.becomes in {name for *_, name, _ in FIELDS} | {"namespaces"}


#: In which file, the paths that are unapplied: what no table knows.
UNKNOWN: list[tuple[Document, list[str]]] = [
    ({"linux": {}, "future": {}}, ["future"]),
    ({"linux": {"future": False}}, ["linux.future"]),
    ({"linux": {"future": None}}, []),
    ({"linux": {}, "process": {"future": 1, "user": {"uid": 0, "gid": 0, "a b": 1}}}, [
        "process.future", "process.user['a b']",
    ]),
    ({"linux": {"namespaces": [{"type": "pid"}, {"type": "ipc", "future": 1}]}}, ["linux.namespaces[1].future"]),
    ({"linux": {}, "process": {"capabilities": {"future": [KILL]}}}, ["process.capabilities.future[0]"]),
    ({"linux": {"namespaces": [{"type": "time"}], "timeOffsets": {"boottime": {"secs": 1, "x": 2}}}}, [
        "linux.timeOffsets.boottime.x",
    ]),
    ({"linux": {"namespaces": [{"type": "mount"}], "rootfsPropagation": "unbindable"}}, ["linux.rootfsPropagation"]),
    ({"linux": {"namespaces": [{"type": "mount"}], "rootfsPropagation": "runbindable"}}, ["linux.rootfsPropagation"]),
    ({"namespaces": [{"type": "NEWNET"}], "networks": [{"type": "loopback"}, {"type": "veth"}]}, [
        "networks[0].type", "networks[1].type",
    ]),
    ({"namespaces": [{"type": "NEWNS"}], "rootPropagation": 1 << 17}, ["rootPropagation"]),
    ({"linux": {}, "labels": ["of the other schema"], "linux.seccomp": {"a": 1}, "Linux": {}}, [
        "labels", "['linux.seccomp']", "Linux",
    ]),
    ({"namespaces": [], "ociversion": "1", "mounts": [{}], "linux_": {}}, ["ociversion", "mounts", "linux_"]),
]  # fmt: skip


@pytest.mark.parametrize(("document", "paths"), UNKNOWN, ids=lambda value: str(value)[:60])
def test_what_is_not_known_may_ask_for_anything(document: Document, paths: list[str]) -> None:
    """So it is unapplied, wherever it stands, and goes back into the file."""
    config = oci.load(document)
    assert config.unapplied == paths
    schema: Any = "oci" if "linux" in document else "libcontainer"
    assert oci.dump(config, schema=schema) == document


def test_every_member_is_told_of_in_the_reference() -> None:
    """With what becomes of it, in the words of the table."""
    text = (REPOSITORY / "docs/reference/oci.rst").read_text()
    rows = [line.split(maxsplit=2) for line in text.splitlines() if line.startswith("`")]
    told = {(words[0].strip("`"), words[1].strip("`"), " ".join(words[2:])) for words in rows if len(words) > 1}
    for members in MEMBERS.values():
        known = {(path, row.becomes, row.reason) for path, row in members.items() if row.becomes != INSIDE}
        assert known - told == set()


# ---- round trips ----

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(words, children, max_size=3),
    max_leaves=6,
)


def maybe(value: st.SearchStrategy[Any], *others: Any) -> st.SearchStrategy[Any]:
    """Absent (the word), null, one of *others*, or *value*."""
    return st.one_of(st.sampled_from(["absent", None, *others]), value)


def kept(members: Document) -> Document:
    return {name: value for name, value in members.items() if value != "absent"}


def members_of(kind: str) -> st.SearchStrategy[Any]:
    """A value of this kind of the table."""
    return {
        "object": st.dictionaries(words, json_values, max_size=3), "array": st.lists(json_values, max_size=3),
        "strings": st.lists(words, max_size=3), "string": words, "boolean": st.booleans(), "integer": st.integers(),
    }[kind]  # fmt: skip


SPELLING: dict[str, Document] = {
    "oci": {
        "type": "oci_name", "map": ("containerID", "hostID", "size"), "capability": str, "limits": st.sampled_from(RLIMITS),
        "propagation": st.sampled_from(["private", "rslave", "shared", "unbindable", ""]),
    },
    "libcontainer": {
        "type": "value", "map": ("container_id", "host_id", "size"), "capability": str.capitalize,
        "limits": st.integers(0, 15).filter(lambda number: number != 10),
        "propagation": st.sampled_from([0, 1 << 17, 1 << 18, (1 << 19) | (1 << 14)]),
    },
}  # fmt: skip


@st.composite
def documents(draw: Any, schema: str) -> Document:
    """Valid files, with members of all kinds, absent and null, and unknown ones."""
    spelling = SPELLING[schema]

    def unknown(members: Document) -> Document:
        strange: Document = draw(st.dictionaries(st.sampled_from(["future", "a.b", "x y"]), json_values, max_size=1))
        return kept(members) | strange

    types = draw(st.lists(st.sampled_from(NamespaceType), unique=True))
    namespaces = []
    created = set()
    for each in types:
        path = draw(maybe(st.sampled_from(["/proc/1/ns/x", "/x"]), ""))
        if path in ("absent", None, ""):
            created.add(each.proc_name)
        namespaces.append(unknown({"type": getattr(each, spelling["type"]), "path": path}))
    names = {each.proc_name for each in types}
    fields: Document = {"namespaces": namespaces if namespaces else draw(maybe(st.just([]), []))}
    if schema == "libcontainer" and fields["namespaces"] == "absent":
        fields["namespaces"] = []
    for kind in ("uid_mappings", "gid_mappings"):
        fields[kind] = draw(st.sampled_from(["absent", None, []]))
    if "user" in created:
        for kind in ("uid_mappings", "gid_mappings"):
            ids = draw(st.integers(0, 5))
            rows = [
                (at * 10, 1000 + at * 10, size)
                for at, size in enumerate(draw(st.lists(st.integers(1, 10), max_size=3)))
            ]
            fields[kind] = [unknown(dict(zip(spelling["map"], row, strict=True))) for row in rows] if ids else []
    hostname = maybe(st.text("abc", min_size=1, max_size=64), "")
    fields["hostname"], fields["domainname"] = (
        (draw(hostname) if "uts" in names else draw(st.sampled_from(["absent", None, ""]))) for _ in range(2)
    )
    clocks = st.fixed_dictionaries({}, optional={"secs": st.integers(-9, 9) | st.none(), "nanosecs": st.integers(0, 9)})
    offsets = draw(st.dictionaries(st.sampled_from(["boottime", "monotonic"]), clocks))
    fields["time_offsets"] = {name: unknown(each) for name, each in offsets.items()} if "time" in created else None
    fields["sysctl"] = draw(maybe(st.just({"net.ipv4.ip_forward": "1"}))) if "net" in created else {}
    fields["propagation"] = draw(maybe(spelling["propagation"])) if "mnt" in created else None
    fields["no_new_privs"] = draw(maybe(st.booleans()))
    fields["oom_score_adj"] = draw(maybe(st.integers(-1000, 1000)))
    limits = draw(st.lists(spelling["limits"], unique=True, max_size=3))
    fields["rlimits"] = [unknown({"type": each, "hard": 2**64 - 1, "soft": draw(st.integers(0, 9))}) for each in limits]
    names_of = st.lists(st.sampled_from(CAPABILITIES[:4]), max_size=4)
    sets = {each: draw(names_of) for each in CAPABILITY_SETS}
    sets["bounding"] += sets["inheritable"]
    sets["permitted"] += sets["effective"]
    fields["capabilities"] = draw(
        maybe(st.just(unknown({spelling["capability"](name): each for name, each in sets.items()})))
    )
    if schema == "oci":
        fields |= {"uid": draw(st.integers(0, 9)), "gid": draw(st.integers(0, 9))}
        fields["groups"] = draw(maybe(st.lists(st.integers(0, 9))))
    else:
        fields["parent_death_signal"] = draw(st.sampled_from(["absent", 0, 9]))
        loopback = st.lists(st.sampled_from([{"type": "loopback"}, {"type": "veth"}, {"type": "loopback", "name": ""}]))
        fields["loopback"] = draw(maybe(loopback)) if "net" in names else []
    document: Document = {}
    for path, row in MEMBERS[schema].items():
        value = fields[row.becomes] if row.becomes in fields else draw(maybe(members_of(row.kind)))
        if row.becomes != INSIDE and value != "absent":
            document = put(document, path, value)
    if schema == "oci":
        shape = draw(st.sampled_from(["whole", "no process", "no user", "null process", "no linux", "null linux"]))
        if "linux" in shape and not names and fields["hostname"] in ("absent", None, "") and not fields["uid_mappings"]:
            document["linux"] = None
        elif "process" in shape:
            document.pop("process") if "no " in shape else document.update(process=None)
        elif "user" in shape and "process" in document:
            document["process"].pop("user", None)
        for path in ("process", "linux"):
            if document.get(path):
                document[path] = unknown(document[path])
    return unknown(document)


@settings(max_examples=60)
@given(st.sampled_from(SCHEMAS).flatmap(lambda schema: st.tuples(st.just(schema), documents(schema))))
def test_what_is_loaded_is_dumped_as_it_was(case: tuple[Any, Document]) -> None:
    """Equal as JSON: order, null against absent, what no table knows; copied and pickled Configs too."""
    schema, document = case
    before = json.dumps(document, sort_keys=True)
    config = oci.load(document)
    for each in (config, copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert json.dumps(oci.dump(each, schema=schema), sort_keys=True) == before
    assert json.dumps(document, sort_keys=True) == before
    # Through text, and what was read is the same Config.
    again = oci.load(io.StringIO(json.dumps(oci.dump(config, schema=schema))))
    assert again == config
    assert sorted(again.unapplied) == sorted(config.unapplied)


@st.composite
def damaged(draw: Any, schema: str) -> Document:
    """A valid file with something else at one place, or in one place something more."""
    document: Document = draw(documents(schema))
    owner: Any = document
    while True:
        key = draw(st.sampled_from(sorted(owner) if isinstance(owner, dict) else range(len(owner))))
        if not isinstance(owner[key], (dict, list)) or not owner[key] or not draw(st.integers(0, 3)):
            break
        owner = owner[key]
    owner[key] = draw(json_values | st.sampled_from([-1, 2**32, 2**64, "/x", {"type": "pid"}, [{}], "\0", "\ud800"]))
    return document


@given(st.sampled_from(SCHEMAS).flatmap(lambda schema: st.tuples(st.just(schema), damaged(schema))))
@settings(max_examples=60)
def test_a_damaged_file_is_refused_or_comes_back(case: tuple[Any, Any]) -> None:
    """Whatever it holds: ValueError or TypeError with its place, or a Config that is dumped as it was."""
    schema, document = case
    fault: Exception | None = None
    try:
        config = oci.load(document)
    except (TypeError, ValueError) as error:
        fault = error
    if fault is None:
        assert oci.dump(config, schema=schema) == document
    else:
        assert type(fault) in (TypeError, ValueError)
        assert re.match(r"(\w+|\['.*'\])([.\[].*)?(, \S+)?: ", str(fault))


@settings(max_examples=60)
@given(st.sampled_from(SCHEMAS).flatmap(lambda schema: st.tuples(st.just(schema), documents(schema))))
def test_what_both_schemas_model_goes_from_one_to_the_other(case: tuple[Any, Document]) -> None:
    """All fields, but for those of a process, which libcontainer keeps elsewhere, and its own signal."""
    schema, document = case
    other: Any = "oci" if schema == "libcontainer" else "libcontainer"
    config = oci.load(document)
    there = oci.load(oci.dump(config, schema=other))
    for name in (
        "namespaces uid_mappings gid_mappings hostname domainname time_offsets sysctl propagation rlimits no_new_privs"
        " oom_score_adj"
    ).split():
        assert getattr(there, name) == getattr(config, name), name
    if config.capabilities is not None:
        assert there.capabilities == config.capabilities
    assert there.unapplied == []


def test_a_changed_field_is_written_anew_and_the_rest_as_it_was() -> None:
    """Of the file's order and nulls the others keep theirs; what is no more set is gone."""
    document = {
        "ociVersion": "1.0.2", "hostname": "old", "domainname": None, "annotations": {"a": "b"},
        "process": {"args": ["sh"], "noNewPrivileges": False, "user": {"uid": 1, "gid": 2},
            "rlimits": [{"type": "RLIMIT_CPU", "hard": 2, "soft": 1}]},
        "linux": {"namespaces": [{"type": "uts", "path": ""}, {"type": "network"}], "seccomp": None},
    }  # fmt: skip
    config = oci.load(document)
    config.hostname = "new"
    config.uid = 7
    config.rlimits.clear()
    config.namespaces.add("pid")
    config.extra["process"]["cwd"] = "/"
    expected: Document = copy.deepcopy(document)
    expected["hostname"] = "new"
    expected["process"] |= {"user": {"uid": 7, "gid": 2}, "cwd": "/"}
    del expected["process"]["rlimits"]
    expected["linux"]["namespaces"] = [{"type": "uts"}, {"type": "network"}, {"type": "pid"}]
    assert oci.dump(config) == expected
    config.hostname = None
    del config.extra["annotations"]
    del expected["hostname"], expected["annotations"]
    assert oci.dump(config) == expected


def test_what_a_schema_has_no_words_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Fields, and what the other schema's extra asks for; not what is allowed to be left out."""
    document = put(put(plain("oci"), "process.user", {"uid": 1, "gid": 1}), "linux.seccomp", {"defaultAction": "X"})
    document["linux"]["namespaces"] = []
    config = oci.load(document)
    assert oci.dump(config) == document
    assert caplog.messages == []
    oci.dump(config, schema="libcontainer")
    (words,) = caplog.messages
    assert words == "libcontainer has no words for what the config has in uid, gid, groups, linux.seccomp"
    caplog.clear()
    config.allow = ["linux.seccomp"]
    oci.dump(config, schema="libcontainer")
    assert "seccomp" not in caplog.text
    caplog.clear()
    oci.dump(Config.new("pid", "user", init=True, setgroups="deny", cgroup_path="/sys/fs/cgroup"))
    assert caplog.messages == ["oci has no words for what the config has in setgroups, cgroup_path, init"]
    caplog.clear()
    oci.dump(Config.new("net", "uts", "mnt", hostname="x"))
    assert caplog.messages == []


def test_a_config_that_was_no_file_is_dumped_whole() -> None:
    """A join by its path, extra by whose names it has."""
    config = Config.new("uts", net="blue", pid=1, extra={"process": {"args": ["sh"]}})
    assert oci.dump(config) == {
        "ociVersion": "1.2.0",
        "process": {"args": ["sh"]},
        "linux": {
            "namespaces": [
                {"type": "uts"},
                {"type": "network", "path": "/run/netns/blue"},
                {"type": "pid", "path": "/proc/1/ns/pid"},
            ]
        },
    }
    assert oci.dump(Config.new("uts", extra={"cgroups": {"x": 1}}), schema="libcontainer") == {
        "namespaces": [{"type": "NEWUTS"}], "cgroups": {"x": 1},
    }  # fmt: skip
    assert oci.dump(Config(), schema="libcontainer") == {"namespaces": []}
    with pytest.raises(ValueError, match=r"^target: which of its namespaces"):
        oci.dump(Config.join(1))
    with pytest.raises(ValueError, match=r"^schema: 'OCI' is not one of 'oci', 'libcontainer'"):
        oci.dump(Config(), schema="OCI")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^hostname: 'x' needs a uts namespace"):
        oci.dump(Config(hostname="x"))
    with pytest.raises(TypeError, match=r"^config: \{'linux': \{\}\} is no Config$"):
        oci.dump({"linux": {}})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "allow", ["linux.seccom", "linux.s", "l", "", "linux.seccomp.x", "linux.seccomp[0]", "seccomp"]
)
def test_what_is_allowed_is_allowed_by_its_whole_name(allow: str) -> None:
    """A path covers itself and what is in it, not what merely begins with the same letters."""
    config = Config.new(extra={"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}}, allow=[allow])
    with pytest.raises(nsapi.Unsupported, match=r"linux\.seccomp: asked for"):
        nsapi.run(["true"], config=config)


# ---- runc ----


def loaded_and_run(runc: str, folder: str, *options: str) -> Any:
    """Body: what `runc spec` writes is refused, then run with what is not performed allowed by name."""
    subprocess.run([runc, "spec", *options], cwd=folder, check=True)
    with open(f"{folder}/config.json") as file:
        document = json.load(file)
    config = nsapi.oci.load(f"{folder}/config.json")
    written = json.dumps(nsapi.oci.dump(config), indent="\t")
    same = nsapi.oci.dump(config) == document and written == Path(folder, "config.json").read_text()
    refused = failure(lambda: nsapi.run(["/bin/true"], config=config))
    allow = ["root", "mounts", "linux.resources", "linux.maskedPaths", "linux.readonlyPaths"]
    config = nsapi.oci.load(document, allow=allow)
    status = nsapi.run(["/bin/true"], config=config).returncode
    code = (
        "import json, os, socket, resource;"
        f"types = {[each.type.proc_name for each in config.namespaces]};"
        "print(json.dumps([socket.gethostname(), os.getresuid(), os.getresgid(), os.getpid(),"
        " resource.getrlimit(resource.RLIMIT_NOFILE), [os.readlink('/proc/self/ns/' + each) for each in types],"
        " [line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapBnd', 'CapEff', 'NoNewPrivs'))],"
        " os.getgroups()]))"
    )
    done = nsapi.run([*PYTHON, code], config=config, capture_output=True, text=True)
    outside = [ns(each.type.proc_name) for each in config.namespaces]
    return same, config.unapplied, refused, status, json.loads(done.stdout or "null"), outside, done.stderr


UNAPPLIED_OF_SPEC = ["root", "mounts", "linux.resources", "linux.maskedPaths", "linux.readonlyPaths"]


@pytest.mark.parametrize(("who", "options"), [("root", ()), ("root", ("--rootless",)), ("user", ("--rootless",))])
def test_runc_spec_is_loaded_equal_and_run(
    who: str, options: tuple[str, ...], request: pytest.FixtureRequest, readable_tmp: Path
) -> None:
    """The file that runc itself writes: nothing is lost, nothing is left out unasked, and it runs."""
    runc = tool("runc")
    runner: Runner = request.getfixturevalue(who)
    rootful = not options
    under = ("setpriv", "--groups=5,6") if rootful else ()  # power that the file does not give
    found = runner(loaded_and_run, runc, str(readable_tmp), *options, under=under)
    same, unapplied, refused, status, inside, outside, stderr = found
    assert same
    expected = [each for each in UNAPPLIED_OF_SPEC if not options or each != "linux.resources"]
    assert unapplied == expected
    assert "Unsupported" in refused["classes"]
    assert ", ".join(expected) in refused["text"]
    assert (status, stderr) == (0, "")
    name, uids, gids, pid, limit, namespaces, capabilities, groups = inside
    assert (name, uids, gids, pid, limit) == ("runc", [0] * 3, [0] * 3, 1, [1024, 1024])
    assert capabilities == ["0000000020000420", "0000000020000420", "1"]  # audit_write, kill, net_bind_service
    assert all(one != other for one, other in zip(namespaces, outside, strict=True))
    assert len(namespaces) == 5
    if rootful:
        assert groups == []


MAPPED = [{"containerID": 0, "hostID": 100000, "size": 65536}]
#: What is asked of runc beside what `runc spec` writes.
ASKED: dict[str, Document] = {
    "a created network and a joined ipc": {
        "namespaces": [{"type": each} for each in ("pid", "network", "mount", "uts", "cgroup")]
        + [{"type": "ipc", "path": "/proc/self/ns/ipc"}],
        "rootfsPropagation": "rslave", "sysctl": {"net.ipv4.ip_forward": "1"},
    },
    "a user namespace": {
        "namespaces": [{"type": each} for each in ("user", "pid", "mount", "uts")],
        "uidMappings": MAPPED, "gidMappings": MAPPED, "rootfsPropagation": "private",
    },
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED)
def test_runc_itself_reads_the_same_of_a_file(case: str, root: Runner, readable_tmp: Path) -> None:
    """It makes libcontainer's JSON of OCI's; both are loaded as the same Config, and its JSON comes back as it was."""
    runc = tool("runc")
    subprocess.run([runc, "spec"], cwd=readable_tmp, check=True)
    path = readable_tmp / "config.json"
    document = json.loads(path.read_text())
    document["process"] |= {"terminal": False, "args": ["/never"], "oomScoreAdj": 500}
    document["mounts"] = [each for each in document["mounts"] if each["destination"] in ("/proc", "/dev")]
    document["linux"] = ASKED[case]
    path.write_text(json.dumps(document))
    (readable_tmp / "rootfs").mkdir()
    (readable_tmp / "rootfs").chmod(0o777)
    shutil.copy(Path(nsapi.__file__).parent / "_launch", readable_tmp / "rootfs/never")
    script = """
        "$1" --root "$PWD/state" create "$2" </dev/null >said 2>&1 && cat "state/$2/state.json"
        "$1" --root "$PWD/state" delete --force "$2" >/dev/null 2>&1
    """
    done = nsapi.run(
        ["sh", "-c", script, "sh", runc, f"nsapi-test-{os.getpid()}"],
        config=Config.new("pid", "mnt", init=True),  # reaps what runc leaves to others
        cwd=readable_tmp,
        capture_output=True,
        text=True,
    )
    if not done.stdout:
        lacking(f"a host on which runc can make a container: {(readable_tmp / 'said').read_text()}")
    theirs = json.loads(done.stdout)["config"]
    ours, read = oci.load(document), oci.load(theirs)
    for field in (
        "namespaces uid_mappings gid_mappings hostname sysctl propagation loopback capabilities no_new_privs oom_score_adj"
    ).split():
        assert getattr(read, field) == getattr(ours, field), field
    assert oci.dump(read, schema="libcontainer") == theirs
    assert set(read.unapplied) == {"rootfs", "readonlyfs", "mounts", "devices", "cgroups"}
    written = oci.dump(ours, schema="libcontainer")
    for member in ("hostname", "no_new_privileges", "oom_score_adj"):
        assert written[member] == theirs[member]
