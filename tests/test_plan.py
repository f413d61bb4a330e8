"""The plan: which steps, in which order and why; what it refuses. Nothing is performed here, and no privilege needed."""

from __future__ import annotations

import copy
import resource
import signal
from typing import Any, NamedTuple

import pytest
from conftest import Runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inside import PYTHON, TYPES, failure, fds

import nsapi
from nsapi import Config, NamespaceType, Unsupported
from nsapi._fields import CAPABILITIES, RLIMITS
from nsapi._mapping import Grant, Mapping
from nsapi._native import Program, Step
from nsapi._plan import NEEDS_LAUNCHER, NOT_PERFORMED, Facts, Plan, Request, mapping, plan
from nsapi._switch import Move

# No test is timed, so neither are hypothesis's examples.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

CLONE_NEWTIME = 0x80
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC = 2, 4, 8, 0x4000
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20
FIVE_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
UNLIMITED = 2**64 - 1

USER_FACTS = Facts(euid=1000, egid=1000)


def moves(*words: str) -> list[Move]:
    """What is joined, as ``_process`` would have opened it: one setns for each word, which may name several types."""
    return [Move(tuple(map(NamespaceType.parse, each.split(","))), 3, "there") for each in words]


class Case(NamedTuple):
    """What is asked for, and the words of the steps that come of it; *why* in this order."""

    why: str
    config: Config
    steps: str  # separated by ";"; "…" stands for restoring signals and mask, and exec
    joins: tuple[str, ...] = ()
    request: dict[str, Any] = {}  # noqa: RUF012
    facts: dict[str, Any] = {}  # noqa: RUF012

    def made(self) -> Plan:
        return plan(self.config, Request(**self.request), moves(*self.joins), USER_FACTS._replace(**self.facts))

    def plan(self) -> tuple[Step, ...]:
        made = self.made()
        assert made.carrier == "vfork"
        assert made.between == made.inside == ()
        return made.steps

    def reasons(self) -> list[str]:
        """Why it takes the launcher."""
        types = [each for move in moves(*self.joins) for each in move.types]
        given = self.config, Request(**self.request), types, USER_FACTS._replace(**self.facts)
        return [words for words, needed in NEEDS_LAUNCHER if needed(*given)]


END = "restore signals; restore the signal mask; exec"
MAPS = "write setgroups; write uid_map; write gid_map"
new = Config.new


CASES = {
    "nothing": Case("the least that subprocess does", Config(), "clone; close all other fds; …"),
    "uts": Case("all but time are made by the clone itself", new("uts"), "clone uts; close all other fds; …"),
    "the order of the types is the caller's": Case(
        "it is one call, so the order does not matter",
        new("net", "user", "ipc"),
        f"clone net,user,ipc; close all other fds; {MAPS}; …",
    ),
    "everything": Case(
        "time is unshared, so that its offsets can be written before exec; maps come before mounts",
        new(*TYPES, time_offsets={"boottime": 5}, hostname="a", domainname="b", loopback=True),
        f"clone user,ipc,uts,net,pid,mnt,cgroup; close all other fds; unshare time; {MAPS}; write timens_offsets;"
        " sethostname a; setdomainname b; bring up lo; make all mounts private; mount /proc; …",
    ),
    "time without offsets": Case("nothing to write", new("time"), "clone; close all other fds; unshare time; …"),
    "nobody is mapped": Case(
        "an empty map cannot be written, it is what there is before",
        new("user", uid_mappings=[], gid_mappings=[]),
        "clone user; close all other fds; …",
    ),
    "nobody is mapped, setgroups denied": Case(
        "that can be had without a map",
        new("user", uid_mappings=[], gid_mappings=[], setgroups="deny"),
        "clone user; close all other fds; write setgroups; …",
    ),
    "a uid alone": Case(
        "setgroups matters to the gid map only",
        new("user", uid_mappings="0:1000:1", gid_mappings=[]),
        "clone user; close all other fds; write uid_map; …",
    ),
    "a gid alone": Case(
        "the kernel wants setgroups denied before an unprivileged gid map",
        new("user", uid_mappings=[], gid_mappings="5:1000:1"),
        "clone user; close all other fds; write setgroups; write gid_map; …",
    ),
    "oom_score_adj": Case(
        "written before anything is joined or mounted",
        new("mnt", oom_score_adj=5),
        "clone mnt; close all other fds; write oom_score_adj; make all mounts private; …",
    ),
    "net joined": Case(
        "one setns, in the caller's user namespace",
        Config(),
        "clone; close all other fds; setns net of there; …",
        ("net",),
    ),
    "several joined": Case(
        "in the order in which they were opened; of a process all at once",
        Config(),
        "clone; close all other fds; setns net,uts of there; setns ipc of there; …",
        ("net,uts", "ipc"),
    ),
    "net joined, uts created": Case(
        "nothing makes the host's out of reach, so the clone may create",
        new("uts"),
        "clone uts; close all other fds; setns net of there; …",
        ("net",),
    ),
    "net joined, pid created": Case(
        "as pid 1, so by the clone",
        new("pid", "mnt"),
        "clone pid,mnt; close all other fds; setns net of there; make all mounts private; mount /proc; …",
        ("net",),
    ),
    "net joined, user created": Case(
        "after making a user namespace the host's are out of reach: join first, then make all at once, then map",
        new("user", "uts", "time", hostname="a"),
        f"clone; close all other fds; setns net of there; unshare user,uts,time; {MAPS}; sethostname a; …",
        ("net",),
    ),
    "mnt joined": Case(
        "setns has left the child at the root: the caller's directory where it exists",
        Config(),
        "clone; close all other fds; setns mnt of there; restore signals; chdir to the caller's directory;"
        " restore the signal mask; exec",
        ("mnt",),
    ),
    "mnt joined, cwd": Case(
        "cwd= may be relative to that",
        Config(),
        "clone; close all other fds; setns mnt of there; restore signals; chdir to the caller's directory; chdir a;"
        " restore the signal mask; exec",
        ("mnt",),
        {"cwd": (b"a", "a")},
    ),
    "mnt joined, user created": Case(
        "maps are written through the /proc of before",
        new("user"),
        f"clone; close all other fds; setns mnt of there; unshare user; {MAPS}; restore signals;"
        " chdir to the caller's directory; restore the signal mask; exec",
        ("mnt",),
    ),
    "cwd": Case(
        "the last thing that a path is resolved for, before exec",
        new("mnt"),
        "clone mnt; close all other fds; make all mounts private; restore signals; chdir /a; restore the signal mask;"
        " exec",
        request={"cwd": (b"/a", "/a")},
    ),
    "sysctl": Case(
        "where they are the new namespaces' own, in the order given, and before anything is mounted",
        new("net", "mnt", "ipc", sysctl={"net/ipv4/ip_forward": "1", "kernel.shmmni": "9"}, loopback=True),
        "clone net,mnt,ipc; close all other fds; bring up lo; write sysctl net.ipv4.ip_forward;"
        " write sysctl kernel.shmmni; make all mounts private; …",
    ),
    "mnt without pid": Case(
        "the old /proc tells the truth", new("mnt"), "clone mnt; close all other fds; make all mounts private; …"
    ),
    "pid without mnt": Case("nowhere to mount", new("pid"), "clone pid; close all other fds; …"),
    "mounts=[]": Case(
        "leaves the old /proc",
        new("mnt", "pid", mounts=[]),
        "clone mnt,pid; close all other fds; make all mounts private; …",
    ),
    "slave": Case(
        "a new /proc does not travel upwards",
        new("mnt", "pid", propagation="slave"),
        "clone mnt,pid; close all other fds; make all mounts slave; mount /proc; …",
    ),
    "shared": Case(
        "the new /proc must not appear in the caller's namespace",
        new("mnt", "pid", propagation="shared"),
        "clone mnt,pid; close all other fds; make all mounts shared; make /proc private; mount /proc; …",
    ),
    "unchanged": Case(
        "what / is may be shared",
        new("mnt", "pid", propagation="unchanged"),
        "clone mnt,pid; close all other fds; make /proc private; mount /proc; …",
    ),
    "unchanged, no /proc": Case(
        "nothing is mounted", new("mnt", propagation="unchanged"), "clone mnt; close all other fds; …"
    ),
    "files": Case(
        "all is closed, then what shall stay is kept and put in its place",
        Config(),
        "clone; close all other fds; pass fd 5; pass fd 7; make fd 9 the child's 0; make fd 1 the child's 2; …",
        request={"pass_fds": (5, 7), "stdio": ((9, 0), (1, 2))},
    ),
    "files, none closed": Case(
        "close_fds=False",
        Config(),
        "clone; make fd 9 the child's 0; …",
        request={"close_fds": False, "stdio": ((9, 0),)},
    ),
    "what the process is": Case(
        "limits while they can be set, then session, group, umask, signals",
        new(rlimits={"RLIMIT_CORE": 0, "RLIMIT_NOFILE": (1, 2)}),
        "clone; close all other fds; set RLIMIT_CORE; set RLIMIT_NOFILE; setsid; setpgid 0; umask; …",
        request={"start_new_session": True, "process_group": 0, "umask": 0},
    ),
    "signals stay ignored": Case(
        "restore_signals=False",
        Config(),
        "clone; close all other fds; restore the signal mask; exec",
        request={"restore_signals": False},
    ),
    "a group": Case(
        "of the caller's session",
        new("uts"),
        "clone uts; close all other fds; setpgid 7; …",
        request={"process_group": 7},
    ),
    "power": Case(
        "taken away last, bounding while CAP_SETPCAP is there; no_new_privs after it; then pdeathsig, which all that"
        " changes credentials would clear",
        new("user", capabilities={}, no_new_privs=True, parent_death_signal=15),
        f"clone user; close all other fds; {MAPS}; restore signals; drop bounding capabilities; set capabilities;"
        " set ambient capabilities; set no_new_privs; set parent_death_signal 15; restore the signal mask; exec",
    ),
    "all at once": Case(
        "the whole order",
        new(
            "user",
            "uts",
            "mnt",
            hostname="a",
            oom_score_adj=9,
            rlimits={"RLIMIT_CORE": 0},
            capabilities={},
            no_new_privs=True,
            parent_death_signal=9,
        ),
        f"clone; close all other fds; pass fd 5; write oom_score_adj; setns net of there; unshare user,uts,mnt; {MAPS};"
        " sethostname a; make all mounts private; set RLIMIT_CORE; setsid; umask; restore signals; chdir /a;"
        " drop bounding capabilities; set capabilities; set ambient capabilities; set no_new_privs;"
        " set parent_death_signal 9; restore the signal mask; exec",
        ("net",),
        {"pass_fds": (5,), "start_new_session": True, "umask": 0o22, "cwd": (b"/a", "/a")},
    ),
}


@pytest.mark.parametrize("situation", CASES)
def test_the_steps_and_their_order(situation: str) -> None:
    """What is asked for, as the words that an error would have."""
    case = CASES[situation]
    assert [step.words for step in case.plan()] == case.steps.replace("…", END).split("; ")


@pytest.mark.parametrize("situation", CASES)
def test_a_plan_is_pure(situation: str) -> None:
    """Made twice it is the same; the Config is unchanged, and nothing has been opened."""
    case = CASES[situation]
    before, open_before = copy.deepcopy(case.config), fds()
    first, second = ([{name: getattr(step, name) for name in Step.__slots__} for step in case.plan()] for _ in range(2))
    assert first == second
    assert case.config == before
    assert fds() == open_before


@pytest.mark.parametrize("situation", CASES)
def test_the_c_core_knows_every_step(situation: str) -> None:
    """Each has its function in the C core, under its name."""
    steps = CASES[situation].plan()
    assert Program(steps).steps == steps


# ---- what is in a step ----

# words of a step: its op, the types that an error would name
WORDS = {
    "clone user,ipc,uts,net,pid,mnt,cgroup": ("clone", "user,ipc,uts,net,pid,mnt,cgroup"),
    "close all other fds": ("close_on_exec", ""),
    "pass fd 5": ("keep", ""),
    "make fd 1 the child's 2": ("dup2", ""),
    "write oom_score_adj": ("write", ""),
    "setns net,uts of there": ("setns", "net,uts"),
    "unshare user,uts,time": ("unshare", "user,uts,time"),
    "unshare time": ("unshare", "time"),
    "write setgroups": ("write", "user"),
    "write uid_map": ("write", "user"),
    "write gid_map": ("write", "user"),
    "write timens_offsets": ("write", "time"),
    "write sysctl net.ipv4.ip_forward": ("write", "net"),
    "write sysctl kernel.shmmni": ("write", "ipc"),
    "sethostname a": ("sethostname", "uts"),
    "setdomainname b": ("setdomainname", "uts"),
    "bring up lo": ("loopback", "net"),
    "make all mounts private": ("mount", "mnt"),
    "make all mounts slave": ("mount", "mnt"),
    "make all mounts shared": ("mount", "mnt"),
    "make /proc private": ("mount", "mnt"),
    "mount /proc": ("mount", "mnt"),
    "set RLIMIT_CORE": ("prlimit", ""),
    "setsid": ("setsid", ""),
    "setpgid 0": ("setpgid", ""),
    "umask": ("umask", ""),
    "restore signals": ("sigdefault", ""),
    "chdir to the caller's directory": ("chdir", ""),
    "chdir /a": ("chdir", ""),
    "drop bounding capabilities": ("cap_bound", ""),
    "set capabilities": ("capset", ""),
    "set ambient capabilities": ("cap_ambient", ""),
    "set no_new_privs": ("no_new_privs", ""),
    "set parent_death_signal 15": ("pdeathsig", ""),
    "restore the signal mask": ("sigmask", ""),
    "exec": ("exec", ""),
}


@pytest.mark.parametrize("words", WORDS)
def test_the_words_of_a_step_are_those_of_what_it_does(words: str) -> None:
    """And its types are those that the error of a failure would name."""
    found = [step for case in CASES.values() for step in case.plan() if step.words == words]
    assert found
    for step in found:
        assert (step.op, ",".join(each.proc_name for each in step.types)) == WORDS[words]


def test_every_kind_of_step_is_shown_above() -> None:
    """The table of words leaves no op out that a plan can have."""
    ops = {step.op for case in CASES.values() for step in case.plan()}
    assert {op for op, _ in WORDS.values()} == ops


def the(case: Case, words: str) -> Step:
    (step,) = (step for step in case.plan() if step.words == words)
    return step


@pytest.mark.parametrize(
    ("config", "facts", "words", "path", "data"),
    [
        (new("user"), {}, "write uid_map", b"self/uid_map", b"0 1000 1\n"),
        (new("user"), {"egid": 5}, "write gid_map", b"self/gid_map", b"0 5 1\n"),
        (new("user"), {}, "write setgroups", b"self/setgroups", b"deny"),
        (new("user", uid_mappings="7:1000:1", gid_mappings=[]), {}, "write uid_map", b"self/uid_map", b"7 1000 1\n"),
        (new("uts", oom_score_adj=-7), {}, "write oom_score_adj", b"self/oom_score_adj", b"-7"),
        (
            new("time", time_offsets={"boottime": -1.5, "monotonic": (3, 4)}),
            {},
            "write timens_offsets",
            b"self/timens_offsets",
            b"boottime -2 500000000\nmonotonic 3 4\n",
        ),
        (new("uts", hostname="ä"), {}, "sethostname ä", None, "ä".encode()),
        (new("uts", domainname="b"), {}, "setdomainname b", None, b"b"),
    ],
)
def test_what_is_written(config: Config, facts: dict[str, Any], words: str, path: bytes | None, data: bytes) -> None:
    """The text as the kernel reads it, all in one write, of the child's own file."""
    step = the(Case("", config, "", facts=facts), words)
    assert (step.path, step.data, step.length) == (path, data, len(data))


@pytest.mark.parametrize(
    ("propagation", "words", "path", "data", "flags"),
    [
        (None, "make all mounts private", b"/", b"none", MS_REC | MS_PRIVATE),
        ("private", "make all mounts private", b"/", b"none", MS_REC | MS_PRIVATE),
        ("slave", "make all mounts slave", b"/", b"none", MS_REC | MS_SLAVE),
        ("shared", "make all mounts shared", b"/", b"none", MS_REC | MS_SHARED),
        ("shared", "make /proc private", b"/proc", b"none", MS_REC | MS_PRIVATE),
        ("unchanged", "mount /proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC),
    ],
)
def test_what_is_mounted(propagation: str | None, words: str, path: bytes, data: bytes, flags: int) -> None:
    """The arguments of mount(2)."""
    step = the(Case("", new("mnt", "pid", propagation=propagation), ""), words)
    assert (step.path, step.data, step.flags) == (path, data, flags)


@pytest.mark.parametrize("name", RLIMITS)
def test_every_limit_has_its_number(name: str) -> None:
    """By the name of getrlimit(2); -1 is no limit."""
    step = the(Case("", Config(rlimits={name: (5, -1)}), ""), f"set {name}")
    assert (step.flags, step.value, step.length) == (getattr(resource, name), 5, UNLIMITED)


@given(st.fixed_dictionaries({}, optional={name: st.sets(st.sampled_from(CAPABILITIES)) for name in FIVE_SETS}))
def test_capabilities_are_masks(sets: dict[str, set[str]]) -> None:
    """Bit by number, as in capabilities(7); a set that is left out is empty."""
    # What is ambient, exec makes permitted and effective.
    sets["ambient"] = sets.get("ambient", set()) & sets.get("permitted", set()) & sets.get("effective", set())
    case = Case("", Config(capabilities=sets), "")
    mask = {name: sum(1 << CAPABILITIES.index(each) for each in sets.get(name, ())) for name in FIVE_SETS}
    assert the(case, "drop bounding capabilities").value == mask["bounding"]
    assert the(case, "set ambient capabilities").value == mask["ambient"]
    step = the(case, "set capabilities")
    assert (step.flags, step.value, step.length) == (mask["effective"], mask["permitted"], mask["inheritable"])


def test_capabilities_have_the_numbers_of_the_kernel() -> None:
    """The first, one in the middle, and as many as this kernel knows."""
    assert len(CAPABILITIES) == len(set(CAPABILITIES)) == 41
    numbers = {
        "CAP_CHOWN": 0,
        "CAP_NET_ADMIN": 12,
        "CAP_SYS_ADMIN": 21,
        "CAP_SETFCAP": 31,
        "CAP_CHECKPOINT_RESTORE": 40,
    }
    assert {name: CAPABILITIES.index(name) for name in numbers} == numbers


def test_the_signals_that_python_ignores_are_given_back() -> None:
    """SIGPIPE and SIGXFSZ, as subprocess does."""
    mask = the(CASES["nothing"], "restore signals").value
    assert {number for number in range(1, 65) if mask >> number - 1 & 1} == {signal.SIGPIPE, signal.SIGXFSZ}


# ---- the rules of order, whatever is asked for ----

VFORK_JOINS = ("net", "uts", "ipc", "cgroup", "mnt")


@st.composite
def cases(draw: st.DrawFn, *, anything: bool = False) -> Case:
    """A valid Config with a request: what a vfork child can do, or *anything*."""
    words = list(draw(st.permutations(TYPES)))
    cut = sorted((draw(st.integers(0, 8)), draw(st.integers(0, 8))))
    created, joined = words[: cut[0]], words[cut[0] : cut[1]]
    fields: dict[str, Any] = {}
    if not anything:
        joined = [each for each in joined if each in VFORK_JOINS]
        if joined and "user" in created:
            created = [each for each in created if each != "pid"]

    def maybe(name: str, *values: Any, needs: str | None = None) -> None:
        if (needs is None or needs in created) and draw(st.integers(0, 2 if anything else 1)) == 0:
            fields[name] = draw(st.sampled_from(values))

    maybe("hostname", "a", needs="uts")
    maybe("domainname", "b", needs="uts")
    maybe("time_offsets", {"monotonic": 1}, needs="time")
    maybe("loopback", True, False, needs="net")
    maybe("sysctl", {}, {"net.ipv4.ip_forward": "1", "net/ipv4/conf/a.b/mtu": "2"}, needs="net")
    maybe("propagation", "private", "slave", "shared", "unchanged", needs="mnt")
    maybe("rlimits", {}, {"RLIMIT_CORE": 0}, {"RLIMIT_CORE": 0, "RLIMIT_CPU": 1})
    maybe("capabilities", {}, {name: ["CAP_KILL"] for name in ("bounding", "permitted", "effective")})
    maybe("no_new_privs", True, False)
    maybe("parent_death_signal", 9)
    maybe("cgroup_path", 0, "/x")
    maybe("oom_score_adj", *((-5, 0, 5) if anything else (5,)))
    maybe("setgroups", "deny", *(["allow"] if anything else []), needs="user")
    maybe("mounts", [], *([["x"]] if anything else []))
    maybe("uid_mappings", [], "7:1000:1", *(["5:7:1", "0:1000:1,1:5:2"] if anything else []), needs="user")
    if "uid_mappings" in fields:
        fields["gid_mappings"] = draw(st.sampled_from([[], "0:1000:1", *(["0:7:1"] if anything else [])]))
    request = {
        "cwd": draw(st.sampled_from([None, (b"/a", "/a")])),
        "stdio": draw(st.sampled_from([(), ((9, 0), (8, 1))])),
        "pass_fds": draw(st.sampled_from([(), (5, 6)])),
        "close_fds": draw(st.booleans()),
        "restore_signals": draw(st.booleans()),
        "start_new_session": draw(st.booleans()),
        "process_group": draw(st.sampled_from([-1, 0, *([7] if anything or "pid" not in created else [])])),
        "umask": draw(st.sampled_from([-1, 0])),
    }
    facts: dict[str, Any] = {}
    if anything and draw(st.booleans()):
        rare = draw(st.sampled_from([("uid", 0), ("gid", 0), ("groups", []), ("root", "/x"), ("extra", {"a": 1})]))
        fields.update([rare])
        maybe("init", True, needs="pid")
        request["uid"] = draw(st.none() | st.just(0))
    if anything:
        facts["euid"] = draw(st.sampled_from([0, 1000]))
        facts["dumpable"] = draw(st.booleans())
        facts["kernel"] = draw(st.sampled_from([(5, 10), (6, 1), (6, 2), (6, 18), (10, 0)]))
        facts["children_elsewhere"] = draw(st.integers(0, 3)) == 0
        facts["oom_score_adj"] = draw(st.sampled_from([-5, 0, 5]))
    config = Config.new(*created, namespaces=[(each, "/x") for each in joined], **fields)
    config.validate()
    return Case("", config, "", tuple(joined), request, facts)


def needs_launcher(case: Case) -> bool:
    """What DESIGN's list of the launcher says, told once more from the outside."""
    config, private = case.config, case.config.namespaces.is_private
    request, facts, user = Request(**case.request), USER_FACTS._replace(**case.facts), private("user")
    strange = any(
        (each.host_id, each.size) != (own, 1)
        for maps, own in ((config.uid_mappings, facts.euid), (config.gid_mappings, facts.egid))
        for each in maps or ()
    ) or any(len(maps or ()) > 1 for maps in (config.uid_mappings, config.gid_mappings))
    return any(
        (
            facts.children_elsewhere,
            user and strange,
            {"user", "pid", "time"} & set(case.joins),
            (request.uid, request.gid, request.groups) != (None, None, None),
            config.uid is not None,
            config.gid is not None,
            config.groups is not None,
            config.setgroups == "allow",
            config.init,
            case.joins and user and private("pid"),
            user and facts.euid != 0 and not facts.dumpable,
            request.process_group > 0 and private("pid"),
            user and config.oom_score_adj is not None and config.oom_score_adj < facts.oom_score_adj,
            private("time") and facts.kernel < (6, 2),
        )
    )


@given(cases(anything=True))
def test_the_carrier_is_as_the_list_says(case: Case) -> None:
    """The launcher for what is in the list, a vfork child for the rest; what nobody performs is Unsupported."""
    if case.config.unapplied or any(getattr(case.config, name) for name in NOT_PERFORMED):
        with pytest.raises(Unsupported):
            case.made()
    else:
        assert case.made().carrier == ("launcher" if needs_launcher(case) else "vfork")


@given(cases())
def test_the_order_follows_the_rules(case: Case) -> None:
    """Clone first, writes before mounts, joins before what is made late, power last, then pdeathsig, mask, exec."""
    steps = case.plan()
    ops = [step.op for step in steps]

    def places(*names: str) -> list[int]:
        return [at for at, op in enumerate(ops) if op in names]

    def in_order(first: list[int], then: list[int]) -> bool:
        return not first or not then or max(first) < min(then)

    maps = [at for at, step in enumerate(steps) if step.words in MAPS.split("; ")]
    offsets = [at for at, step in enumerate(steps) if step.words == "write timens_offsets"]

    assert places("clone") == [0]
    assert in_order(places("write"), places("mount"))
    assert in_order(places("setns"), places("unshare"))
    assert in_order(places("setns"), maps)
    assert in_order(places("unshare"), maps + offsets)
    assert in_order(maps, places("mount", "sethostname", "setdomainname", "loopback"))
    assert in_order(places("close_on_exec"), places("keep", "dup2"))
    assert in_order(places("setns", "mount"), places("chdir"))
    at_last = ["cap_bound", "capset", "cap_ambient", "no_new_privs", "pdeathsig", "sigmask", "exec"]
    last = [op for op in at_last if op in ops]
    assert ops[-len(last) :] == last
    assert ops[-2:] == ["sigmask", "exec"]


@given(cases())
def test_what_is_asked_for_is_done_once_and_nothing_else(case: Case) -> None:
    """Each type is made or joined by one step; a step stands for something that was asked."""
    config, request, steps = case.config, Request(**case.request), case.plan()
    made = [each for step in steps if step.op in ("clone", "unshare") for each in step.types]
    assert sorted(made, key=list(NamespaceType).index) == sorted(
        config.namespaces.created(), key=list(NamespaceType).index
    )
    assert [each.proc_name for step in steps if step.op == "setns" for each in step.types] == list(case.joins)
    for step in steps:
        if step.op in ("clone", "unshare", "setns"):
            assert step.flags == sum(each.flag for each in step.types)
    asked = {
        "close_on_exec": request.close_fds,
        "keep": len(request.pass_fds),
        "dup2": len(request.stdio),
        "sethostname": config.hostname is not None,
        "setdomainname": config.domainname is not None,
        "loopback": config.loopback,
        "prlimit": len(config.rlimits),
        "setsid": request.start_new_session,
        "setpgid": request.process_group >= 0,
        "umask": request.umask >= 0,
        "sigdefault": request.restore_signals,
        "chdir": (request.cwd is not None) + ("mnt" in case.joins),
        "cap_bound": config.capabilities is not None,
        "capset": config.capabilities is not None,
        "cap_ambient": config.capabilities is not None,
        "no_new_privs": config.no_new_privs,
        "pdeathsig": config.parent_death_signal is not None,
    }
    ops = [step.op for step in steps]
    assert {op: ops.count(op) for op in asked} == asked
    assert set(ops) <= {*asked, "clone", "unshare", "setns", "write", "mount", "sigmask", "exec"}


@given(cases())
def test_the_clone_makes_what_it_may(case: Case) -> None:
    """Never time, whose bit means something else to clone(2); nothing together with joins and a new user namespace."""
    clone = case.plan()[0]
    assert not clone.flags & CLONE_NEWTIME
    if case.joins and case.config.namespaces.is_private("user"):
        assert clone.flags == 0
    else:
        assert clone.flags == case.config.namespaces.clone_flags() & ~CLONE_NEWTIME


# ---- what is refused ----

#: The whole of NEEDS_LAUNCHER, in its order: the words, and what needs this row and no other.
LAUNCHER = {
    "id maps other than the caller's own single id, which a privileged process outside has to write": Case(
        "", new("user", uid_mappings="0:1000:1,1:100000:65536", gid_mappings=[]), ""
    ),
    "joining a user, pid or time namespace: strangers there could reach into a child that shares our memory": Case(
        "", Config(), "", ("pid",)
    ),
    "uid, gid, groups, user=, group=, extra_groups=: changing ids in shared memory changes our own dumpable flag": Case(
        "", new("uts", uid=0), ""
    ),
    "setgroups='allow', which a privileged process outside has to write": Case("", new("user", setgroups="allow"), ""),
    "starting a program while enter or setns has set the pid namespace of children: it would share our memory in sight of"
    " strangers": Case("", new("uts"), "", facts={"children_elsewhere": True}),
    "init=True": Case("", new("pid", init=True), ""),
    "the pid 1 that create leaves, which is to be no child of the caller": Case(
        "", new("pid"), "", request={"orphan": True}
    ),
    "joining together with a new user and a new pid namespace, which takes one more fork": Case(
        "", new("user", "pid"), "", ("net",)
    ),
    "a map written by an ordinary user's process that is not dumpable, whose /proc files belong to root": Case(
        "", new("user"), "", facts={"dumpable": False}
    ),
    "process_group greater than 0 with a new pid namespace, in which that group does not exist": Case(
        "", new("pid"), "", request={"process_group": 1}
    ),
    "oom_score_adj lowered together with a new user namespace, which has no power over it": Case(
        "", new("user", oom_score_adj=4), "", facts={"oom_score_adj": 5}
    ),
    "a new time namespace before Linux 6.2, where exec does not move into it": Case(
        "", new("time"), "", facts={"kernel": (6, 1)}
    ),
}
#: More of what a row means, by how the row begins.
MORE = [
    ("id maps", Case("a single foreign uid", new("user", uid_mappings="0:1001:1", gid_mappings=[]), "")),
    ("id maps", Case("a single foreign gid", new("user", uid_mappings=[], gid_mappings="0:1001:1"), "")),
    ("id maps", Case("one's own and the next", new("user", uid_mappings="0:1000:2", gid_mappings=[]), "")),
    ("id maps", Case("as root too", new("user", uid_mappings="0:0:2", gid_mappings=[]), "", facts={"euid": 0})),
    ("joining a user", Case("", Config(), "", ("user",))),
    ("joining a user", Case("", Config(), "", ("time",))),
    ("joining a user", Case("among others", Config(), "", ("net", "uts,time"))),
    ("uid, gid", Case("", new("uts", gid=0), "")),
    ("uid, gid", Case("an empty list is a wish", new("uts", groups=[]), "")),
    ("uid, gid", Case("user= and such", new("uts"), "", request={"uid": 5})),
    ("a new time", Case("", new("time"), "", facts={"kernel": (5, 10)})),
]
#: Their neighbours: planned, not refused.
PERFORMED = {
    "nobody is mapped": Case("", new("user", uid_mappings=[], gid_mappings=[]), ""),
    "one's own id as another": Case("", new("user", uid_mappings="7:1000:1", gid_mappings="8:1000:1"), ""),
    "setgroups denied": Case("", new("user", setgroups="deny"), ""),
    "uid 0 that is not asked for": Case("", new("uts"), "", facts={"euid": 0, "egid": 0}),
    "joins and a new user": Case("", new("user"), "", ("net",)),
    "joins and a new pid": Case("", new("pid"), "", ("net",)),
    "root that is not dumpable": Case("", new("user"), "", facts={"euid": 0, "egid": 0, "dumpable": False}),
    "not dumpable, without user": Case("", new("uts"), "", facts={"dumpable": False}),
    "a group of its own in a new pid": Case("", new("pid"), "", request={"process_group": 0}),
    "a group without a new pid": Case("", new("user"), "", request={"process_group": 1}),
    "oom_score_adj raised": Case("", new("user", oom_score_adj=6), "", facts={"oom_score_adj": 5}),
    "oom_score_adj as it is": Case("", new("user", oom_score_adj=5), "", facts={"oom_score_adj": 5}),
    "oom_score_adj lowered without user": Case("", new("uts", oom_score_adj=-5), ""),
    "time on Linux 6.2": Case("", new("time"), "", facts={"kernel": (6, 2)}),
    "everything else on Linux 5.10": Case(
        "", new(*(each for each in TYPES if each != "time")), "", facts={"kernel": (5, 10)}
    ),
    "SIGKILL after the main thread": Case("", new("pid", parent_death_signal=9), ""),
    "no mounts, no sysctl": Case("", new("mnt", mounts=[], sysctl={}, extra={}), ""),
    **CASES,
}


def test_what_needs_the_launcher_is_this_and_nothing_else() -> None:
    """The table word by word."""
    assert tuple(LAUNCHER) == tuple(words for words, _ in NEEDS_LAUNCHER)
    assert NOT_PERFORMED == ("mounts", "root")


@pytest.mark.parametrize(("row", "case"), [*LAUNCHER.items(), *MORE], ids=lambda value: str(value)[:30])
def test_what_needs_the_launcher_gets_it_for_this_reason(row: str, case: Case) -> None:
    """One reason, the one that is meant."""
    assert case.made().carrier == "launcher"
    assert [each[: len(row)] for each in case.reasons()] == [row]


def test_what_the_launcher_does_is_what_a_vfork_child_would() -> None:
    """All in its order: fds first, then the namespaces, which are no steps, then the same steps inside."""
    fields: dict[str, Any] = {"hostname": "a", "loopback": True, "rlimits": {"RLIMIT_CORE": 0}, "no_new_privs": True}
    request = {"stdio": ((5, 0),), "pass_fds": (6,), "start_new_session": True, "cwd": (b"/a", "/a")}
    types = ("user", "uts", "net", "pid", "mnt")
    vfork = Case("", new(*types, **fields), "", request=request).plan()
    made = Case("", new(*types, **fields, init=True), "", request=request).made()
    assert [step.words for step in made.steps if step.op in ("close_on_exec", "dup2")] == [
        step.words for step in vfork if step.op in ("close_on_exec", "dup2")
    ]
    assert [step.words for step in made.inside] == [step.words for step in vfork][-len(made.inside) :]
    assert not {"write", "unshare", "setns"} & {step.op for step in made.all}
    assert made.steps[0].flags == 0


def test_what_is_joined_is_set_up_before_a_user_namespace_is_made() -> None:
    """Then the caller still has power over it."""
    made = Case("", new("user", "pid", "net", hostname="a", uts="/x", loopback=True), "", ("uts",)).made()
    assert [step.op for step in made.between] == ["sethostname"]
    assert made.inside[0].op == "loopback"


RANGES = {"uid_mappings": "0:1000:1,1:100000:9", "gid_mappings": "0:1000:1,1:100000:9"}
GRANTED_U = Grant("/u", True, "ann", ((100000, 9),))
GRANTED_G = Grant("/g", True, "ann", None)


@pytest.mark.parametrize(
    ("fields", "facts", "expected"),
    [
        ({}, {}, ("child", True, None, None)),
        (RANGES, {}, ("stage 0", False, None, None)),
        (RANGES, {"may_map": False, "uids": GRANTED_U, "gids": GRANTED_G}, ("helpers", False, "/u", "/g")),
        (
            {**RANGES, "gid_mappings": "0:1000:1"},
            {"may_map": False, "uids": GRANTED_U},
            ("helpers", True, "/u", None),
        ),
        ({**RANGES, "setgroups": "deny"}, {}, ("stage 0", True, None, None)),
        ({"setgroups": "allow"}, {}, ("stage 0", False, None, None)),
        ({"uid_mappings": [], "gid_mappings": []}, {}, ("child", False, None, None)),
    ],
)
def test_who_writes_the_maps(fields: dict[str, Any], facts: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """The child its own single id, stage 0 what its capabilities allow, else the helpers; setgroups as `unshare -r`."""
    made = mapping(new("user", **fields), USER_FACTS._replace(**facts))
    assert (made.writer, made.deny_setgroups, made.uid_helper, made.gid_helper) == expected


@pytest.mark.parametrize(
    ("entry", "ranges", "missing"),
    [
        ("1:100000:10", ((100000, 10),), None),
        ("1:100000:10", ((100000, 5), (100005, 5)), None),  # two lines that touch
        ("1:100000:10", ((100005, 5), (100000, 5)), None),  # in any order
        ("1:100000:10", ((99990, 30),), None),
        ("1:100000:10", ((100000, 9),), 100009),
        ("1:100000:10", ((100001, 9),), 100000),
        ("1:100000:10", ((100000, 4), (100005, 5)), 100004),
        ("1:100000:10", ((100000, 5), (100002, 1), (100005, 4)), 100009),
        ("0:1000:1", (), None),  # his own, which newuidmap lets everybody map
        ("0:1000:2", ((1001, 1),), 1000),  # not as part of a range
        ("0:1001:1", (), 1001),
    ],
)
def test_what_is_granted_is_found_out_before_newuidmap_is(
    entry: str, ranges: tuple[tuple[int, int], ...], missing: int | None
) -> None:
    """By all lines of the user together; the error names the id, the entry, the user, and what he has."""
    maps = f"{entry},70000:1000:1" if entry != "0:1000:1" else f"{entry},1:1000:1"
    if entry == "0:1000:2":
        maps = entry
    facts = USER_FACTS._replace(euid=1000, may_map=False, uids=Grant("/u", True, "ann", ranges))
    config = new("user", uid_mappings=maps, gid_mappings=[])
    if missing is None:
        assert mapping(config, facts).uid_helper == "/u"
        return
    with pytest.raises(PermissionError) as caught:
        mapping(config, facts)
    assert caught.value.filename == "/etc/subuid"
    words = (str(missing), entry, "ann") if ranges else ("no line", "ann", "usermod")
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("grant", "error", "words"),
    [
        (Grant(), FileNotFoundError, ("newuidmap", "uidmap", "PATH")),
        (Grant("/bin/newuidmap", False), PermissionError, ("/bin/newuidmap", "setuid root", "file capabilities")),
        (Grant("/bin/newuidmap", True, "ann", ()), PermissionError, ("ann", "/etc/subuid", "usermod --add-subuids")),
    ],
)
def test_why_nobody_can_write_a_map(grant: Grant, error: type[OSError], words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        mapping(new("user", **RANGES), USER_FACTS._replace(may_map=False, uids=grant, gids=GRANTED_G))
    assert isinstance(caught.value, nsapi.NamespaceError)
    assert caught.value.step == "check"
    assert all(word in str(caught.value) for word in words), caught.value


def test_maps_that_nobody_can_write_are_refused() -> None:
    """Without CAP_SETUID and helpers; and "allow" for a map that the kernel takes with "deny" only."""
    for fields, errnum in ((RANGES, 2), ({"setgroups": "allow"}, 1)):
        with pytest.raises(nsapi.NamespaceError) as caught:
            mapping(new("user", **fields), USER_FACTS._replace(may_map=False))
        assert caught.value.errno == errnum
        assert caught.value.step == "check"
    assert mapping(new("uts"), USER_FACTS) == Mapping()


def test_ids_are_set_after_all_else_but_capabilities() -> None:
    """Groups, gid, uid: each while there is still the power to; capabilities are kept over it, then given."""
    kept = {kind: ["CAP_KILL"] for kind in FIVE_SETS}
    request = {"uid": 5, "gid": 6, "groups": (7, 8), "umask": 0}
    made = Case("", new("uts", capabilities=kept), "", request=request).made()
    assert [step.op for step in made.inside if step.op not in ("umask", "sigdefault")] == [
        "cap_bound", "keep_caps", "setgroups", "setresgid", "setresuid", "capset", "cap_ambient", "sigmask", "exec",
    ]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [("mounts", ["x"]), ("root", "/x")])
def test_what_is_not_performed_is_unsupported_by_name(field: str, value: Any) -> None:
    """Nothing that confines is dropped in silence."""
    with pytest.raises(Unsupported, match=f"check — {field} is not performed by this version of nsapi"):
        Case("", new("mnt", **{field: value}), "").plan()


SECCOMP: dict[str, Any] = {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}}
ROOTFS: dict[str, Any] = {"root": {"path": "rootfs"}}


@pytest.mark.parametrize(
    ("extra", "allow", "named"),
    [
        (SECCOMP, (), "linux.seccomp"),
        (SECCOMP, ("linux.secc", "linux.seccomp.defaultAction", "root"), "linux.seccomp"),
        (SECCOMP | ROOTFS, ("linux.seccomp",), "root"),
        (SECCOMP | ROOTFS, (), "linux.seccomp, root"),
        ({"a": 1}, (), "a"),
        ({"hostname": "x"}, (), "hostname"),
    ],
)
def test_what_a_file_asks_for_and_is_not_performed_is_unsupported_by_path(
    extra: dict[str, Any], allow: tuple[str, ...], named: str
) -> None:
    """Unless each path is allowed; a part of a name, or a part of what is there, does not allow the whole."""
    with pytest.raises(Unsupported, match=f"check — {named}: asked for and not performed"):
        Case("", new("mnt", extra=extra, allow=allow), "").plan()


@pytest.mark.parametrize(
    ("extra", "allow"),
    [
        (SECCOMP, ("linux.seccomp",)),
        (SECCOMP | ROOTFS, ["linux", "root"]),
        ({"process": {"args": ["sh"], "cwd": "/"}, "annotations": {"a": "b"}}, ()),
        ({"hooks": {}, "mounts": [], "linux": {"seccomp": None}}, ()),
        ({"new": [{"a": 1}]}, ("new",)),
    ],
)
def test_what_is_allowed_or_asks_for_nothing_is_planned(extra: dict[str, Any], allow: tuple[str, ...]) -> None:
    assert Case("", new("mnt", extra=extra, allow=allow), "").plan()


@pytest.mark.parametrize("situation", PERFORMED)
def test_nothing_else_is_unsupported(situation: str) -> None:
    """The neighbours of what is refused, and all that is planned above."""
    assert PERFORMED[situation].plan()


@pytest.mark.parametrize("facts", [{}, {"euid": 0, "egid": 0}], ids=["user", "root"])
def test_a_parents_death_is_that_of_the_spawning_thread(facts: dict[str, Any]) -> None:
    """Only the main thread lives as long as the process; the message names the remedies. Without it, any thread spawns."""
    elsewhere = {**facts, "main_thread": False}
    case = Case("", new("uts", parent_death_signal=9), "", facts=elsewhere)
    with pytest.raises(ValueError, match=r"^parent_death_signal: .* main thread.* init=True$"):
        case.plan()
    assert Case("", new("uts"), "", facts=elsewhere).plan()
    made = Case("", new("pid", init=True, parent_death_signal=15), "", facts=elsewhere).made()
    assert "pdeathsig" not in [step.op for step in made.all]  # pid 1 sees to it


ROOT = {"euid": 0, "egid": 0}
KEEPS = {"bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}
ONE = {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"]}


@pytest.mark.parametrize(
    ("config", "facts", "is_refused"),
    [
        (new("uts", capabilities=KEEPS), ROOT, True),
        (new("user", capabilities=KEEPS), {}, True),
        (new("user", capabilities={**KEEPS, "permitted": [], "effective": []}), {}, True),
        (new("user", capabilities=KEEPS), ROOT, True),
        (new("user", capabilities=KEEPS, no_new_privs=True), {}, False),
        (new("user", capabilities={**ONE, "effective": ["CAP_KILL"]}), {}, False),
        (new("user", capabilities=ONE), {}, True),
        (new("user", capabilities=ONE, no_new_privs=True), {}, True),
        (new("user", capabilities={"bounding": [], "permitted": ["CAP_KILL"]}), {}, False),
        (new("user", capabilities=KEEPS, uid_mappings="5:1000:1", gid_mappings=[]), {}, False),
        (new("user", capabilities=KEEPS, uid_mappings=[], gid_mappings=[]), ROOT, False),
        (new("uts", capabilities=KEEPS), {}, False),
    ],
)
def test_capabilities_that_exec_would_give_back_are_refused(
    config: Config, facts: dict[str, Any], is_refused: bool
) -> None:
    """Who is uid 0 inside gets all of bounding by exec, whatever permitted says; the message names them and the remedies.

    What is permitted is effective then, too.
    """
    case = Case("", config, "", facts=facts)
    if not is_refused:
        assert case.plan()
        return
    with pytest.raises(
        ValueError, match=r"^capabilities: .*CAP_CHOWN.*no_new_privs=True|^capabilities: .*CAP_KILL"
    ) as caught:
        case.plan()
    assert "bounding" in str(caught.value) or config.no_new_privs


def test_run_says_so_before_anything_is_started() -> None:
    """What is unsupported is that of a verb, too: no child, no fd."""
    before = fds()
    with pytest.raises(Unsupported, match="root"):
        nsapi.run(["true"], config=new("pid", init=True, root="/x"))
    assert fds() == before


def test_what_was_planned_once_is_not_taken_for_what_is_asked_now(anyone: Runner) -> None:
    """The same Config, changed by assignment or in place between two runs, does what it says at each."""

    def body() -> dict[str, object]:
        code = (
            "import os, resource; print(os.uname().nodename, resource.getrlimit(resource.RLIMIT_NOFILE), os.getcwd())"
        )
        config = nsapi.Config.new("user", "uts", hostname="a", rlimits={"RLIMIT_NOFILE": 30})

        def told(**keywords: Any) -> str:
            done = nsapi.run([*PYTHON, code], config=config, capture_output=True, text=True, **keywords)
            return str(done.stdout).strip()

        found: dict[str, object] = {"first": told(), "again": told(), "cwd": told(cwd="/usr")}
        config.hostname = "b"
        found["assigned"] = told()
        config.rlimits["RLIMIT_NOFILE"] = (20, 20)
        found["in place"] = told()
        for field in ("extra", "sysctl"):
            getattr(config, field)["a"] = "b"
            found[field] = failure(told).get("classes")
            getattr(config, field).clear()
            found[f"no {field}"] = told()
        return found

    found = anyone(body)
    assert found["first"] == found["again"] == "a (30, 30) /"
    assert found["cwd"] == "a (30, 30) /usr"
    assert found["assigned"] == "b (30, 30) /"
    assert found["in place"] == found["no extra"] == found["no sysctl"] == "b (20, 20) /"
    assert "ValueError" in (found["sysctl"] or ())
    assert "Unsupported" in (found["extra"] or ())
