"""What a Config may mean: libcontainer's rules row by row, where ours are others and why, and all problems at once."""

from __future__ import annotations

import copy
import os
import pathlib
import subprocess
from typing import Any, NamedTuple

import pytest
from conftest import Runner
from hypothesis import given
from hypothesis import strategies as st
from inside import TYPES, failure, fds

import nsapi
from nsapi import Config, IDMap, _rules

FIELDS = {*dir(Config()), "uid_mappings, gid_mappings"}


class Row(NamedTuple):
    """A Config by what it creates and its fields, whether libcontainer accepts it, and we; what is said, or why not."""

    created: str
    fields: dict[str, Any]
    libcontainer: bool
    ours: bool
    words: str = ""  # of the problem, if we refuse it
    why: str = ""  # if we answer otherwise

    def make(self) -> Config:
        return Config.new(*self.created.split(), **self.fields)


def maps(uid: Any = None, gid: Any = None) -> dict[str, Any]:
    return {"uid_mappings": uid, "gid_mappings": gid}


def sysctl(key: str, value: str = "1", **fields: Any) -> dict[str, Any]:
    return {"sysctl": {key: value}, **fields}


ONE = "0:1000:1"
FORWARD = "net.ipv4.ip_forward"
HOST_NET = "/proc/1/ns/net"
JOINED = "one that is joined is others' too"
OTHERS_TOO = "in a namespace that is joined it changes others, and who asks for a container means his own"
KERNEL = "libcontainer leaves it to the kernel, which says EINVAL and not why"

ROWS = {
    # user
    "user, both maps": Row("user", maps(ONE, ONE), True, True),
    "user by path": Row("", {"user": "/proc/1/ns/user"}, True, True),
    "user, no map": Row("user", {}, False, True, why="the caller is root inside, as with unshare -r"),
    "user, both empty": Row("user", maps([], []), True, True),
    "user, uids alone": Row(
        "user", maps(uid=ONE), True, False, "uid_mappings, gid_mappings: '0:1000:1' and None: one given needs the other",
        "a forgotten list is seen; [] says that none is meant",
    ),
    "user, gids alone": Row(
        "user", maps(gid=ONE), True, False, "uid_mappings, gid_mappings: None and '0:1000:1': one given needs the other",
        "a forgotten list is seen; [] says that none is meant",
    ),
    "uids, no user": Row("", maps(uid=ONE), False, False, "uid_mappings: '0:1000:1', and a user namespace is not among"),
    "gids, no user": Row("", maps(gid=ONE), False, False, "gid_mappings: '0:1000:1', and a user namespace is not among"),
    "empty list, no user": Row("", maps(uid=[]), False, False, "uid_mappings: '', and a user namespace is not among"),
    "maps, user by path": Row(
        "", maps(ONE, ONE) | {"user": "/x"}, True, False, "uid_mappings: '0:1000:1', and a user namespace is joined",
        "libcontainer's validator leaves it to its reader of OCI files, which refuses those that differ",
    ),
    "maps to be looked up": Row("user", {"maps": "auto"}, True, True),
    "maps to be looked up, no user": Row("net", {"maps": "auto"}, False, False, "maps: 'auto', and a user namespace is not"),
    "maps given and to be looked up": Row(
        "user", maps(ONE, ONE) | {"maps": "root"}, True, False, "maps: 'root', and uid_mappings, gid_mappings: one or",
        "libcontainer knows no words for maps",
    ),
    # what needs the kernel's file is a verb's: see below
    "cgroup": Row("cgroup", {}, True, True),
    "time": Row("time", {"time_offsets": {"boottime": 1}}, True, True),
    "time by path": Row("", {"time": "/x"}, True, True),
    "time by path, offsets": Row(
        "", {"time": "/x", "time_offsets": {"boottime": 1}}, False, False, "time_offsets: {'boottime': (1, 0)} need"
    ),
    "offsets, no time": Row(
        "uts", {"time_offsets": {"monotonic": -1}}, False, False, "time_offsets: {'monotonic': (-1, 0)} need a created time"
    ),
    # uts and net
    "hostname": Row("uts", {"hostname": "a"}, True, True),
    "hostname, uts by path": Row("", {"hostname": "a", "uts": "/x"}, True, True),
    "hostname, no uts": Row("net", {"hostname": "a"}, False, False, "hostname: 'a' needs a uts namespace"),
    "domainname": Row("uts", {"domainname": "a"}, True, True),
    "domainname, no uts": Row("user", {"domainname": "a"}, False, False, "domainname: 'a' needs a uts namespace"),
    "interfaces": Row("net", {"loopback": True}, True, True),
    "interfaces, no net": Row("uts", {"loopback": True}, False, False, "loopback: True needs a net namespace"),
    # sysctl
    **{
        f"kernel.{name}": Row("ipc", sysctl(f"kernel.{name}"), True, True)
        for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
    },
    "fs.mqueue.": Row("ipc", sysctl("fs.mqueue.msg_max"), True, True),
    "net.": Row("net", sysctl(FORWARD), True, True),
    "user.": Row("user", sysctl("user.max_net_namespaces", **maps(ONE, ONE)), True, True),
    "kernel.domainname": Row("uts", sysctl("kernel.domainname"), True, True),
    "with slashes": Row("net ipc", {"sysctl": {"net/ipv4/ip_forward": "1", "kernel/sem": "1 2 3 4"}}, True, True),
    "a dot in a name": Row("net", sysctl("net/ipv4/conf/eth0.1/forwarding"), True, True),
    "a slash for a dot": Row("net", sysctl("net.ipv4.conf.eth0/1.forwarding"), True, True),
    "dots first, then a slash": Row(
        "ipc", sysctl("kernel.shm/max"), False, False, "sysctl: kernel.shm/max: '1' would be the host's"
    ),
    "shmmax, no ipc": Row("net", sysctl("kernel.shmmax"), False, False, "sysctl: kernel.shmmax: '1' needs a created ipc"),
    "mqueue, no ipc": Row("net", sysctl("fs.mqueue.x"), False, False, "sysctl: fs.mqueue.x: '1' needs a created ipc"),
    "net., no net": Row("ipc", sysctl(FORWARD), False, False, f"sysctl: {FORWARD}: '1' needs a created net"),
    "net/, no net": Row(
        "ipc", sysctl("net/ipv4/ip_forward"), False, False, "sysctl: net/ipv4/ip_forward: '1' needs a created net"
    ),
    "user., no user": Row("net", sysctl("user.x"), False, False, "sysctl: user.x: '1' needs a created user"),
    "domain, no uts": Row(
        "net", sysctl("kernel.domainname"), False, False, "sysctl: kernel.domainname: '1' needs a created uts"
    ),
    "kernel.hostname": Row(
        "uts", sysctl("kernel.hostname", "a"), False, False, "sysctl: kernel.hostname: 'a' is what the field hostname is for"
    ),
    "net., the host's net by path": Row("", sysctl(FORWARD, net=HOST_NET), False, False, JOINED),
    "net., another net by path": Row("", sysctl(FORWARD, net="blue"), True, False, JOINED, OTHERS_TOO),
    "ipc by path": Row("", sysctl("kernel.sem", ipc="/x"), True, False, JOINED, OTHERS_TOO),
    "user by path, user.": Row("", sysctl("user.x", user="/x"), True, False, JOINED, OTHERS_TOO),
    "uts by path": Row("", sysctl("kernel.domainname", uts="/x"), True, False, JOINED, OTHERS_TOO),
    **{
        f"{key}, all created": Row(" ".join(TYPES), sysctl(key), False, False, f"sysctl: {key}: '1' would be the host's")
        for key in ("kernel.panic", "kernel.msg_next_id", "kernel.shmmaxx", "kernel.ns_last_pid", "vm.swappiness",
                    "fs.file-max", "fs.mqueue", "dev.tty.ldisc_autoload", "network.x", "net", "shmmax", "a")
    },
    # rootless: with an ordinary caller, libcontainer wants
    "rootless, no user": Row("uts", {}, False, True, why="the kernel's EPERM has a hint that names user"),
    "rootless, no uid": Row("user", maps([], ONE), False, True, why="the kernel maps gids without uids"),
    "rootless, no gid": Row("user", maps(ONE, []), False, True, why="the kernel maps uids without gids"),
    # mounts, masked paths, devices, id-mapped mounts: not modelled
    "masked paths, no mnt": Row(
        "uts", {"extra": {"mask_paths": ["/proc/kcore"]}}, False, True, why="not modelled, and to run it is Unsupported"
    ),
    # what the kernel would refuse
    "inside twice": Row("user", maps("0:0:2,1:9:1", []), True, False, "uid_mappings: ", KERNEL),
    "outside twice": Row("user", maps([], "0:5:2,9:6:1"), True, False, "overlap in host_id", KERNEL),
    "no id at all": Row("user", maps("0:0:0", []), True, False, "uid_mappings: id map: '0:0:0': size: 0", KERNEL),
    "past the last id": Row("user", maps("0:4294967294:2", []), True, False, "uid_mappings: ", KERNEL),
    "beyond 32 bits": Row("user", maps([(2**32, 0, 1)], []), True, False, "uid_mappings: container_id: 4294967296", KERNEL),
    "below zero": Row("user", maps([(0, -1, 1)], []), True, False, "uid_mappings: host_id: -1", KERNEL),
    "341 entries": Row(
        "user", maps([(2 * each, 2 * each, 1) for each in range(341)], []), True, False, "uid_mappings: 341 entries", KERNEL
    ),
    "a clock too far": Row(
        "time", {"time_offsets": {"boottime": 4_611_686_019}}, True, False,
        "time_offsets: boottime: 4611686019 seconds, and no clock counts so far", KERNEL,
    ),
    "a clock too far back": Row(
        "time", {"time_offsets": {"monotonic": -9_223_372_037}}, True, False,
        "time_offsets: monotonic: -9223372037 seconds, and no clock counts so far", KERNEL,
    ),
    # and what it would do by half, without a word
    "an empty value": Row("net", sysctl(FORWARD, ""), True, False, "'' is empty", "the kernel ignores it and says 0"),
    "two lines": Row("net", sysctl(FORWARD, "1\n0"), True, False, r"'1\n0' has more", "a text is cut at its first line"),
    "a final newline": Row("net", sysctl(FORWARD, "1\n"), True, True),
    "a long domain": Row(
        "uts", sysctl("kernel.domainname", "a" * 65), True, False, "is over 64 bytes", "the kernel cuts it and says 65"
    ),
    "a domain of 64": Row("uts", sysctl("kernel.domainname", "a" * 64), True, True),
    "two domains": Row(
        "uts", sysctl("kernel.domainname", "a", domainname="b"), True, False, "'a', and domainname says 'b'",
        "one wish said twice, and the second would win",
    ),
    "a domain twice": Row("uts", sysctl("kernel.domainname", "a", domainname="a"), True, True),
    "a key twice": Row(
        "net", {"sysctl": {"net.a.b": "1", "net/a/b": "2"}}, True, False, "sysctl: 'net.a.b' and 'net/a/b' are the same key",
        "one wish said twice, and the second would win",
    ),
    "a way out": Row(
        "net", sysctl("net.//.kernel.panic"), True, False, "sysctl: 'net.//.kernel.panic' is no name",
        "our '/' between dots is a '.' in a name, so that this is net/../kernel",
    ),
    "a way out, with slashes": Row(
        "net", sysctl("net/../kernel/panic"), True, False, "sysctl: 'net/../kernel/panic' is no name", "as the last"
    ),
    "an empty name": Row("net", sysctl("net..x"), True, False, "sysctl: 'net..x' is no name", "such a file is not there"),
    "a trailing dot": Row("net", sysctl("net."), True, False, "sysctl: 'net.' is no name", "it is a directory"),
    # runtime-spec
    "a relative path": Row("", {"net": "./x"}, True, True),
    "a type twice": Row(
        "", {"namespaces": ["net", ("net", "/x")]}, False, False, "namespaces: net is given twice"
    ),
}  # fmt: skip


@pytest.mark.parametrize("situation", ROWS)
def test_a_config_is_valid_as_the_table_says(situation: str) -> None:
    """Accepted: nothing is said or raised. Refused: by validate and by a verb, before it has opened anything."""
    row = ROWS[situation]
    if row.ours:
        config = row.make()
        assert config.validate() is None
        assert config.validate(all=True) == []
        assert not row.words
        return
    before = fds()
    for call in (lambda: row.make().validate(), lambda: nsapi.run(["true"], config=row.make())):
        with pytest.raises(ValueError, match=": ") as caught:
            call()
        assert row.words in str(caught.value)
        assert str(caught.value).split(":")[0] in FIELDS
    assert fds() == before


@pytest.mark.parametrize("situation", ROWS)
def test_all_problems_begin_with_the_first(situation: str) -> None:
    """validate(all=True) answers with what validate() raises, and goes on."""
    row = ROWS[situation]
    try:
        config = row.make()
    except ValueError:
        return  # refused where it was given
    problems = config.validate(all=True)
    assert bool(problems) is not row.ours
    if problems:
        with pytest.raises(ValueError, match=": ") as caught:
            config.validate()
        assert str(caught.value) == problems[0]
        assert any(row.words in each for each in problems)


def test_where_we_answer_otherwise_there_is_a_reason() -> None:
    """Each row that differs from libcontainer's says why, and no other."""
    assert {name for name, row in ROWS.items() if bool(row.why) is (row.libcontainer is row.ours)} == set()


WRONG: dict[str, Any] = {
    "hostname": "a",
    "loopback": True,
    "propagation": "slave",
    "init": True,
    "setgroups": "deny",
    "time_offsets": {"boottime": 1},
    "sysctl": {"kernel.panic": "1"},
    "capabilities": {"effective": ["CAP_KILL"]},
    "uid_mappings": "0:0:1",
}


@given(st.sets(st.sampled_from(sorted(WRONG))))
def test_all_that_is_wrong_is_listed(names: set[str]) -> None:
    """One line for each, whatever else is wrong; asked again, the same; nothing is changed by asking."""
    config = Config(**{name: copy.deepcopy(WRONG[name]) for name in names})
    before = copy.deepcopy(config)
    problems = config.validate(all=True)
    assert sorted(each.split(":")[0] for each in problems) == sorted(names)
    assert config.validate(all=True) == problems
    assert config == before


def test_what_is_no_value_any_more_is_listed_too() -> None:
    """What was put into a list or dict afterwards, of whatever type; rules about other fields still hold."""
    config = Config.new("user", "net", **maps("0:0:1", "0:0:1"), sysctl={FORWARD: "1"}, rlimits={"RLIMIT_CORE": 1})
    assert config.validate(all=True) == []
    assert config.uid_mappings is not None
    config.uid_mappings.append(7)  # type: ignore[arg-type]
    config.sysctl["net.x"] = 1  # type: ignore[assignment]
    config.rlimits["CORE"] = (1, 1)
    config.hostname = "a"
    problems = config.validate(all=True)
    assert [each.split(":")[0] for each in problems] == ["uid_mappings", "sysctl", "rlimits", "hostname"]
    with pytest.raises(TypeError, match="uid_mappings: 7 is no IDMap"):
        config.validate()
    config.uid_mappings.pop(), config.sysctl.pop("net.x"), config.rlimits.pop("CORE")
    config.hostname = None
    assert config.validate(all=True) == []


def test_every_field_with_a_rule_is_a_field() -> None:
    """A rule that looks at a misspelt field would never be left out."""
    assert {name for rule in _rules.RULES for name in rule.fields} <= set(dir(Config()))


# ---- names of sysctls ----

KEYS = st.lists(
    st.sampled_from(["net", "user", "fs", "mqueue", "kernel", "sem", "..", ".", "a", "/", "b", ""]), min_size=1
)


@given(KEYS.map(".".join) | KEYS.map("/".join) | st.text("net.user/a", max_size=12))
def test_no_key_leads_out_of_what_it_belongs_to(key: str) -> None:
    """What is valid is a file below the tree of a type that is created, and has one name with dots."""
    for type in ("ipc", "net", "user", "uts"):
        if Config.new(type, sysctl={key: "1"}).validate(all=True):
            continue
        head, *parts = _rules.sysctl_path(key).decode().split("/")
        assert head == "sys"
        assert not {"", ".", ".."} & set(parts)
        trees = {"ipc": (["kernel"], ["fs", "mqueue"]), "net": (["net"],), "user": (["user"],), "uts": (["kernel"],)}
        assert any(parts[: len(tree)] == tree and len(parts) > len(tree) for tree in trees[type])
        dotted = _rules.sysctl_key(key)
        assert _rules.sysctl_key(dotted) == dotted
        assert _rules.sysctl_path(dotted) == _rules.sysctl_path(key)


# ---- ids ----

SHIFTED = [IDMap(0, 1000, 1), IDMap(1, 100000, 65536)]
# what is created or joined, maps of uids and of gids, id, uid outside, gid outside: a number, or words of the error
IDS: list[tuple[Config, int, int | str, int | str]] = [
    (Config(), 5, 5, 5),
    (Config.new("net"), 4294967294, 4294967294, 4294967294),
    (Config.new("user", **maps(SHIFTED, "0:7:1")), 0, 1000, 7),
    (Config.new("user", **maps(SHIFTED, "0:7:1")), 1, 100000, "id: 1 is not mapped: gid_mappings is '0:7:1'"),
    (Config.new("user", **maps(SHIFTED, SHIFTED)), 65536, 165535, 165535),
    (Config.new("user", **maps(SHIFTED, SHIFTED)), 65537, "id: 65537 is not mapped", "id: 65537 is not mapped"),
    (Config.new("user", **maps(SHIFTED, SHIFTED)), -1, "id: -1 is not mapped", "id: -1 is not mapped"),
    (Config.new("user", **maps("3:5:1,2:9:4", "2:9:4,3:5:1")), 3, 5, 10),  # invalid: the first entry that has it
    (Config.new("user"), 0, "uid_mappings has nothing: none is given", "gid_mappings has nothing: none is given"),
    (Config.new("user", **maps([], ONE)), 0, "uid_mappings has nothing: nobody is mapped", 1000),
    (Config.new("user", maps="auto"), 7, "which it will be a verb finds out", "which it will be a verb finds out"),
    (
        Config.new(user="/x"),
        0,
        "uid_mappings has nothing: the user namespace is joined",
        "the user namespace is joined",
    ),
]


@pytest.mark.parametrize("row", IDS, ids=str)
def test_an_id_inside_is_told_from_outside(row: tuple[Config, int, int | str, int | str]) -> None:
    """As HostUID and HostGID: unchanged without a user namespace, else by the first entry; an error names the id."""
    config, id, *expected = row
    for call, answer in zip((config.host_uid, config.host_gid), expected, strict=True):
        if isinstance(answer, int):
            assert call(id) == answer
        else:
            with pytest.raises(LookupError, match=f"^id: {id}") as caught:
                call(id)
            assert answer in str(caught.value)


def test_an_id_outside_is_what_the_kernel_makes_of_it(root: Runner) -> None:
    """A file of uid and gid 3 inside belongs outside to host_uid(3) and host_gid(3)."""

    def body() -> object:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o777)
            given = {"uid_mappings": "0:100000:10", "gid_mappings": "0:200000:10"}
            config = nsapi.Config.new("user", uid=3, gid=3, groups=[], **given)
            nsapi.run(["touch", f"{folder}/file"], config=config, check=True)
            found = os.stat(f"{folder}/file")
            return [found.st_uid, found.st_gid] == [config.host_uid(3), config.host_gid(3)] == [100003, 200003]

    assert root(body) is True


# ---- what depends on the system ----


def test_a_type_that_the_kernel_lacks_is_refused_before_anything_runs(root: Runner) -> None:
    """By its missing file, as libcontainer does: of cgroup such a kernel would say nothing, and make none."""

    def body() -> object:
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
        empty = nsapi.run(["true"], config=nsapi.Config.new("uts")).returncode  # no /proc tells nothing
        pathlib.Path("/proc/self/ns").mkdir(parents=True)
        for name in ("uts", "net"):
            pathlib.Path("/proc/self/ns", name).touch()
        call = lambda: nsapi.run(["true"], config=nsapi.Config.new("uts", "cgroup"))  # noqa: E731
        there = nsapi.run(["true"], config=nsapi.Config.new("uts")).returncode
        return [empty, there, failure(call), failure(lambda: nsapi.boot_env(nsapi.Config.new("uts", "cgroup")))]

    empty, there, *both = root(body)
    assert (empty, there) == (0, 0)
    for refused in both:
        assert refused["classes"][0] == "Unsupported"
        assert (refused["errno"], refused["step"]) == (38, "check")
        assert "no cgroup namespaces" in refused["hint"]


def test_a_path_of_another_type_is_refused_before_anything_runs() -> None:
    """runtime-spec: an error if what is at the path is no namespace of that type; both are named."""
    for path, words in (("/proc/self/ns/uts", "uts"), ("/proc/self/status", "no namespace")):
        before = fds()
        found = failure(lambda path=path: nsapi.run(["true"], config=Config.new(net=path)))  # type: ignore[misc]
        assert found["step"] == "check"
        assert words in str(found["text"])
        assert fds() == before
