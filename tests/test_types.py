"""NamespaceType: the table of the eight types, against the kernel's own answers, and every spelling of it."""

from __future__ import annotations

import copy
import fcntl
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner, tool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inside import TYPES

import nsapi
from nsapi import NamespaceType
from nsapi._types import flags_of, names_of, parse_types, types_in

#: In the order of libcontainer's NamespaceTypes(): member, its value there, below /proc/PID/ns, in the OCI runtime-spec,
#: and the flag of linux/sched.h.
TABLE = (
    ("USER", "NEWUSER", "user", "user", 0x10000000),
    ("IPC", "NEWIPC", "ipc", "ipc", 0x08000000),
    ("UTS", "NEWUTS", "uts", "uts", 0x04000000),
    ("NET", "NEWNET", "net", "network", 0x40000000),
    ("PID", "NEWPID", "pid", "pid", 0x20000000),
    ("MNT", "NEWNS", "mnt", "mount", 0x00020000),
    ("CGROUP", "NEWCGROUP", "cgroup", "cgroup", 0x02000000),
    ("TIME", "NEWTIME", "time", "time", 0x00000080),
)
SPELLINGS = {
    spelling: name
    for name, value, proc_name, oci_name, _ in TABLE
    for spelling in (proc_name, oci_name, value, f"CLONE_{value}")
}
NO_TYPES: tuple[Any, ...] = (
    "",
    "nut",
    "NET",
    "newnet",
    "net ",
    "CLONE_NEWPIDS",
    7,
    0x40000000,
    True,
    None,
    b"net",
    ["net"],
)
NS_GET_NSTYPE = 0xB703  # ioctl_nsfs(2)

# No test is timed, so neither are hypothesis's examples.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

types = st.sampled_from(NamespaceType)


# ---- the table ----


def test_the_table_is_that_of_libcontainer_and_of_the_runtime_spec() -> None:
    """Order, names and flags of all eight; USER is first."""
    rows = [(each.name, each.value, each.proc_name, each.oci_name, each.flag) for each in NamespaceType]
    assert rows == list(TABLE)


@pytest.mark.parametrize("type", NamespaceType)
def test_the_flag_is_what_the_kernel_calls_this_type(type: NamespaceType) -> None:
    """NS_GET_NSTYPE of /proc/self/ns/NAME answers with the flag."""
    with open(f"/proc/self/ns/{type.proc_name}", "rb") as file:
        assert fcntl.ioctl(file, NS_GET_NSTYPE) == type.flag


@pytest.mark.parametrize("type", NamespaceType)
def test_the_flag_is_what_python_calls_it(type: NamespaceType) -> None:
    """os.CLONE_NEW*, where this Python has it (3.12)."""
    assert getattr(os, f"CLONE_{type.value}", type.flag) == type.flag


def test_the_kernel_has_no_type_that_the_table_lacks() -> None:
    """What /proc/self/ns lists is what the table knows, but for the namespaces of children."""
    assert {name for name in os.listdir("/proc/self/ns") if not name.endswith("_for_children")} == set(TYPES)


def test_namespace_types_is_a_list_of_ones_own() -> None:
    """All eight in order; who changes the list changes nothing else."""
    listed = nsapi.namespace_types()
    assert listed == list(NamespaceType)
    assert listed[0] is NamespaceType.USER
    listed.clear()
    assert len(nsapi.namespace_types()) == 8


@pytest.mark.parametrize("type", NamespaceType)
def test_a_member_stays_itself(type: NamespaceType) -> None:
    """Looked up by value, copied, or sent to another process and back, it is the same object."""
    assert NamespaceType(type.value) is type  # type: ignore[call-arg]
    assert copy.copy(type) is copy.deepcopy(type) is type
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(type, protocol)) is type
    assert {type: 1}[pickle.loads(pickle.dumps(type))] == 1


# ---- spellings ----


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_field_is_read(spelling: str) -> None:
    """That of /proc, of the runtime-spec, of libcontainer and of the man pages."""
    assert NamespaceType.parse(spelling) is NamespaceType[SPELLINGS[spelling]]


@pytest.mark.parametrize("type", NamespaceType)
def test_a_member_is_read_as_itself(type: NamespaceType) -> None:
    """Who has a NamespaceType already need not spell it."""
    assert NamespaceType.parse(type) is type


@pytest.mark.parametrize("wrong", NO_TYPES, ids=repr)
def test_what_is_no_type_is_refused_with_the_words_that_are(wrong: Any) -> None:
    """ValueError for another word, TypeError for another kind of object; both name the field, the culprit and the words."""
    with pytest.raises(ValueError if isinstance(wrong, str) else TypeError) as caught:
        NamespaceType.parse(wrong)
    text = str(caught.value)
    assert text.startswith("type: ")
    assert repr(wrong) in text
    for word in (*TYPES, "network", "mount", "NEWNET", "CLONE_NEWNET"):
        assert word in text


@given(st.text())
def test_no_other_word_is_a_type(word: str) -> None:
    """A word is one of the spellings, or refused."""
    if word in SPELLINGS:
        assert NamespaceType.parse(word).name == SPELLINGS[word]
    else:
        with pytest.raises(ValueError, match=r"^type: "):
            NamespaceType.parse(word)
        assert nsapi.ns_name(word) == ""


@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.binary(), st.lists(st.text()), st.dictionaries(st.text(), types)
    )
)
def test_no_other_object_is_a_type(wrong: Any) -> None:
    """Neither is a number, which would be a flag, nor a collection of types."""
    with pytest.raises(TypeError, match=r"^type: "):
        NamespaceType.parse(wrong)
    assert nsapi.ns_name(wrong) == ""
    assert nsapi.is_namespace_supported(wrong) is False


# ---- several at once ----


@given(st.lists(types))
def test_several_types_are_read_in_their_order_and_none_twice(several: list[NamespaceType]) -> None:
    """A duplicate is a mistake, in whatever spelling."""
    words = [each.oci_name if at % 2 else f"CLONE_{each.value}" for at, each in enumerate(several)]
    if len(set(several)) == len(several):
        assert parse_types(words) == tuple(several)
        assert names_of(several).split(",") == [each.proc_name for each in several] or not several
    else:
        with pytest.raises(ValueError, match=r"^types: one is given twice: "):
            parse_types(words)


@given(st.sets(types))
def test_a_mask_and_its_types_are_the_same(several: set[NamespaceType]) -> None:
    """types_in undoes flags_of, in the order of the table."""
    mask = flags_of(several)
    assert mask == sum(each.flag for each in several)
    assert types_in(mask) == tuple(each for each in NamespaceType if each in several)


@given(st.integers(-(2**40), 2**40))
def test_a_mask_of_anything_else_is_refused(mask: int) -> None:
    """A bit that is no namespace's is never dropped in silence."""
    if mask & ~flags_of(NamespaceType):
        with pytest.raises(ValueError, match="CLONE_NEW"):
            types_in(mask)
    else:
        assert flags_of(types_in(mask)) == mask


# ---- what the kernel has ----


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_ns_name_is_the_file_below_proc(spelling: str) -> None:
    """As libcontainer's NsName, from any spelling."""
    type = NamespaceType.parse(spelling)
    assert nsapi.ns_name(spelling) == nsapi.ns_name(type) == type.proc_name
    assert os.path.exists(f"/proc/self/ns/{nsapi.ns_name(spelling)}")


@pytest.mark.parametrize("wrong", NO_TYPES, ids=repr)
def test_what_is_no_type_has_no_name_and_is_not_supported(wrong: Any) -> None:
    """``""`` and False, as in libcontainer: no exception."""
    assert nsapi.ns_name(wrong) == ""
    assert nsapi.is_namespace_supported(wrong) is False


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_kernel_that_shows_a_type_supports_it(spelling: str) -> None:
    """In any spelling, as a bool."""
    assert nsapi.is_namespace_supported(spelling) is True
    assert nsapi.is_namespace_supported(NamespaceType.parse(spelling)) is True


def test_support_is_what_proc_shows_at_the_first_question(root: Runner) -> None:
    """Later answers are that of the first, also when /proc has gone meanwhile; what is no type is asked anew each time."""

    def body() -> list[bool]:
        first = nsapi.is_namespace_supported("net")
        os.chroot("/usr")  # no /proc there
        asked = ("net", "network", nsapi.NamespaceType.NET, "uts", "nut")
        return [first, *map(nsapi.is_namespace_supported, asked)]

    assert root(body) == [True, True, True, True, False, False]


def test_many_threads_ask_the_kernel_once_for_each_type(anyone: Runner, readable_tmp: Path) -> None:
    """One stat per process and type, whoever asks first, and no Python but one looks at a time."""
    trace = readable_tmp / "trace"
    strace = (tool("strace"), "-f", "-qq", "-e", "trace=%file", "-e", "signal=none", "-o", str(trace))

    def body() -> bool:
        nsapi.is_namespace_supported("nut")
        start, answers = threading.Barrier(8), []

        def ask(first: int) -> None:
            start.wait()
            for at in range(first, first + 16):
                answers.append(nsapi.is_namespace_supported(TYPES[at % 8]))

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return answers == [True] * 128

    assert anyone(body, under=strace) is True
    text = trace.read_text(encoding="utf-8", errors="replace")
    assert {type: text.count(f'"/proc/self/ns/{type}"') for type in TYPES} == dict.fromkeys(TYPES, 1)
