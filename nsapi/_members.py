# SPDX-License-Identifier: MIT
"""The members of a configuration file, OCI's and libcontainer's: what becomes of each. Pure; nothing is read here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

#: What becomes of a member that is no field of Config: its own members are looked at, it asks for something that is not
#: performed, or it is data that asks for nothing.
INSIDE, UNAPPLIED, CARRIED = "inside", "unapplied", "carried"


class Member(NamedTuple):
    """What kind of JSON value it is, what becomes of it (a field of Config, or one of the words above), and why."""

    kind: str
    becomes: str
    reason: str


def _table(text: str) -> dict[str, Member]:
    rows = (line.split(maxsplit=3) for line in text.strip().splitlines())
    return {path: Member(kind, becomes, " ".join(reason)) for path, kind, becomes, *reason in rows}


#: config.json of the OCI runtime-spec, 1.0 to 1.3, in the order in which Go writes it.
OCI = _table("""
    ociVersion               string   carried        says how the file is written
    process                  object   inside
    process.terminal         boolean  carried        stdin=, stdout=, stderr= of run
    process.consoleSize      object   carried        of that terminal
    process.user             object   inside
    process.user.uid         integer  uid
    process.user.gid         integer  gid
    process.user.umask       integer  unapplied      umask= of run
    process.user.additionalGids array groups         none given: no other groups, where the map lets them be dropped
    process.user.username    string   carried        Windows' form of uid
    process.args             strings  carried        the program is an argument of run
    process.commandLine      string   carried        Windows' form of args
    process.env              strings  carried        env= of run
    process.cwd              string   carried        cwd= of run
    process.capabilities     object   capabilities   absent from a process: none at all
    process.rlimits          array    rlimits
    process.noNewPrivileges  boolean  no_new_privs
    process.apparmorProfile  string   unapplied      LSM labels are not set
    process.oomScoreAdj      integer  oom_score_adj
    process.scheduler        object   unapplied      sched_setattr(2) is not called
    process.selinuxLabel     string   unapplied      LSM labels are not set
    process.ioPriority       object   unapplied      ioprio_set(2) is not called
    process.execCPUAffinity  object   unapplied      sched_setaffinity(2) is not called
    root                     object   unapplied      the root stays the caller's
    hostname                 string   hostname
    domainname               string   domainname
    mounts                   array    unapplied      nothing is mounted but a fresh /proc
    hooks                    object   unapplied      no other programs are run
    annotations              object   carried        words for other programs
    linux                    object   inside
    linux.uidMappings        array    uid_mappings   neither this nor gidMappings: the caller is root inside
    linux.gidMappings        array    gid_mappings
    linux.sysctl             object   sysctl
    linux.resources          object   unapplied      no cgroup is set up
    linux.cgroupsPath        string   unapplied      no cgroup is made; cgroup_path names one that is there
    linux.namespaces         array    namespaces     a created network gets its loopback
    linux.devices            array    unapplied      no device files are made
    linux.netDevices         object   unapplied      no interfaces are moved
    linux.seccomp            object   unapplied      no filter is installed
    linux.rootfsPropagation  string   propagation    unbindable: unapplied
    linux.maskedPaths        strings  unapplied      nothing is mounted over them
    linux.readonlyPaths      strings  unapplied      nothing is mounted over them
    linux.mountLabel         string   unapplied      LSM labels are not set
    linux.intelRdt           object   unapplied      resctrl is not set up
    linux.memoryPolicy       object   unapplied      set_mempolicy(2) is not called
    linux.personality        object   unapplied      personality(2) is not called
    linux.timeOffsets        object   time_offsets
    solaris                  object   unapplied      for another system
    windows                  object   unapplied      for another system
    vm                       object   unapplied      no virtual machine is made
    zos                      object   unapplied      for another system
    freebsd                  object   unapplied      for another system
""")

#: libcontainer's configs.Config, as in the "config" of runc's state.json, 1.1 to 1.5, in Go's order.
LIBCONTAINER = _table("""
    no_pivot_root            boolean  carried        how rootfs is entered
    parent_death_signal      integer  parent_death_signal
    rootfs                   string   unapplied      the root stays the caller's
    umask                    integer  unapplied      umask= of run
    readonlyfs               boolean  unapplied      the root stays the caller's
    rootPropagation          integer  propagation    unbindable: unapplied
    mounts                   array    unapplied      nothing is mounted but a fresh /proc
    devices                  array    unapplied      no device files are made
    netDevices               object   unapplied      no interfaces are moved
    mount_label              string   unapplied      LSM labels are not set
    hostname                 string   hostname
    domainname               string   domainname
    namespaces               array    namespaces
    capabilities             object   capabilities
    networks                 array    loopback       others than loopback: unapplied
    routes                   array    unapplied      no routes are made
    cgroups                  object   unapplied      no cgroup is set up; cgroup_path names one that is there
    apparmor_profile         string   unapplied      LSM labels are not set
    process_label            string   unapplied      LSM labels are not set
    rlimits                  array    rlimits
    oom_score_adj            integer  oom_score_adj
    uid_mappings             array    uid_mappings   neither this nor gid_mappings: the caller is root inside
    gid_mappings             array    gid_mappings
    mask_paths               strings  unapplied      nothing is mounted over them
    readonly_paths           strings  unapplied      nothing is mounted over them
    sysctl                   object   sysctl
    seccomp                  object   unapplied      no filter is installed
    no_new_privileges        boolean  no_new_privs
    hooks                    object   unapplied      no other programs are run
    Hooks                    object   unapplied      no other programs are run
    version                  string   carried        says how the file is written
    labels                   strings  carried        words for other programs
    no_new_keyring           boolean  carried        no keyring is made in any case
    intel_rdt                object   unapplied      resctrl is not set up
    rootless_euid            boolean  carried        who has started runc
    rootless_cgroups         boolean  carried        who has started runc
    time_offsets             object   time_offsets
    scheduler                object   unapplied      sched_setattr(2) is not called
    personality              object   unapplied      personality(2) is not called
    io_priority              object   unapplied      ioprio_set(2) is not called
    exec_cpu_affinity        object   unapplied      sched_setaffinity(2) is not called
    memory_policy            object   unapplied      set_mempolicy(2) is not called
""")

MEMBERS = {"oci": OCI, "libcontainer": LIBCONTAINER}

#: Of these each member asks, whatever it holds: an interface is moved under its own name.
_EACH_ASKS = ("linux.netDevices", "netDevices")
#: These ask by being there: an empty one is a group of the container's own.
_ALWAYS_ASK = ("linux.intelRdt", "intel_rdt")


def join(path: str, name: str | int) -> str:
    """Name a member of the object, or an element of the array, that is at *path*."""
    if isinstance(name, int):
        return f"{path}[{name}]"
    if not re.fullmatch(r"[\w-]+", name):
        return f"{path}[{name!r}]"
    return f"{path}.{name}" if path else name


def schema_of(extra: dict[str, Any]) -> str | None:
    """Tell by whose names *extra* was written, as far as its members tell."""
    for schema, other in (("oci", LIBCONTAINER), ("libcontainer", OCI)):
        if MEMBERS[schema].keys() & extra.keys() - other.keys():
            return schema
    return None


def unapplied(extra: dict[str, Any], schema: str | None) -> Iterator[str]:
    """List the paths in *extra* of what is asked for and not performed. What is not known may ask for anything."""
    rows = MEMBERS[schema or schema_of(extra) or "oci"]
    for name, value in extra.items():
        yield from _of_member(rows, join("", name), value)


def _of_member(rows: dict[str, Member], path: str, value: Any) -> Iterator[str]:
    becomes = rows[path].becomes if path in rows else ""
    if becomes == CARRIED or value is None:
        return
    if becomes == INSIDE and isinstance(value, dict):
        for name, each in value.items():
            yield from _of_member(rows, join(path, name), each)
    elif becomes == UNAPPLIED:
        if not _is_empty(value) or path in _ALWAYS_ASK or (path in _EACH_ASKS and value):
            yield path
    elif becomes:  # a field, and yet in extra: here it does nothing
        yield from _leaves(path, value)
    else:
        yield path


def _is_empty(value: Any) -> bool:
    """Tell whether it asks for nothing, as many programs write what they leave out. 0 does, of a umask."""
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    return value is None or value is False or value in ("", [])


def _leaves(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, (dict, list)):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(join(path, name), each)
    elif value is not None:
        yield path


def covered(path: str, allow: Sequence[str]) -> bool:
    """Tell whether *allow* has *path*, or what it is a part of."""
    return any(path == each or path.startswith((f"{each}.", f"{each}[")) for each in allow)
