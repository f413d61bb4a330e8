"""Lists of IDMap against a model that is a plain dict of every id: parse, translate, compose, subtract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nsapi
from nsapi import Config, IDMap, IDMaps

settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")

LAST = 2**32 - 2
SMALL = st.integers(0, 40)


def model(maps: Sequence[IDMap]) -> dict[int, int]:
    """Say of every id inside what it is outside."""
    return {run.container_id + each: run.host_id + each for run in maps for each in range(run.size)}


@st.composite
def id_lists(draw: st.DrawFn) -> list[IDMap]:
    """Make a map that the kernel would take: nothing overlaps on either side; runs may touch, in any order."""
    runs: list[IDMap] = []
    for _ in range(draw(st.integers(0, 5))):
        run = IDMap(draw(SMALL), draw(SMALL), draw(st.integers(1, 12)))
        if not {*model(runs)} & {*model([run])} and not {*model(runs).values()} & {*model([run]).values()}:
            runs.append(run)
    return runs


@given(id_lists())
def test_parse_reads_what_format_writes_and_what_the_kernel_shows(maps: list[IDMap]) -> None:
    assert IDMap.parse(IDMap.format(maps)) == maps
    assert IDMap.parse("".join(f"{a.container_id:>10} {a.host_id:>10} {a.size:>10}\n" for a in maps)) == maps


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0:1000", ("'0:1000'", "CONTAINER:HOST:SIZE")),
        ("0:1000:1,0:1:x", ("'0:1:x'", "three whole numbers")),
        ("0:1000:1, 5:-1:1", ("'5:-1:1'",)),
        ("0:1000:0", ("'0:1000:0'", "size", "1 … 4294967295")),
        ("0:4294967295:1", ("'0:4294967295:1'", "host_id", "4294967294")),
        ("4294967296:0:1", ("'4294967296:0:1'", "container_id")),
        ("0:4294967290:6", ("'0:4294967290:6'", "go past 4294967294")),
        ("0 0 4294967296", ("'0 0 4294967296'", "size")),
    ],
)
def test_a_bad_entry_is_named(text: str, words: tuple[str, ...]) -> None:
    """Values outside uint32, zero sizes, wrap-around: the entry as it was given, and what is accepted."""
    for call in (IDMap.parse, lambda text: Config.new("user", uid_mappings=text, gid_mappings=[])):
        with pytest.raises(ValueError, match=r"id map|uid_mappings") as caught:
            call(text)
        assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ("0:0:10,9:100:1", ("overlap in container_id", "container_id=9", "size=10")),
        ("0:0:10,20:9:1", ("overlap in host_id", "host_id=9")),
        (",".join(f"{2 * n}:{2 * n}:1" for n in range(341)), ("341 entries", "340", "container_id=680")),
        (
            ",".join(f"{2 * n + 4000000000}:{2 * n + 4000000000}:1" for n in range(200)),
            ("4800 bytes", "4095", "container_id=4000000340"),
        ),
    ],
)
def test_what_the_kernel_would_refuse_in_a_list_is_named(maps: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="uid_mappings: ") as caught:
        Config.new("user", uid_mappings=maps, gid_mappings=[]).validate()
    assert all(word in str(caught.value) for word in words), caught.value


@given(id_lists(), st.integers(-3, 60))
def test_translating_is_looking_it_up(maps: list[IDMap], id: int) -> None:
    """None for what is not mapped; an error by choice, which names it."""
    there = model(maps)
    back = {host: container for container, host in there.items()}
    assert IDMap.host_of(maps, id) == there.get(id)
    assert IDMap.container_of(maps, id) == back.get(id)
    for function, known in ((IDMap.host_of, there), (IDMap.container_of, back)):
        if id in known:
            assert function(maps, id, strict=True) == known[id]
        else:
            with pytest.raises(LookupError, match=f"{id} "):
                function(maps, id, strict=True)


@pytest.mark.parametrize("id", ["0", None, 1.5, True])
def test_what_is_no_id_is_not_translated(id: Any) -> None:
    """A half between two ids is neither of them."""
    config = Config.new("user", uid_mappings="0:1000:5", gid_mappings="0:1000:5")
    single = IDMap(0, 1000, 5)
    for function in (single.to_host, single.to_container, config.host_uid, config.host_gid, Config().host_uid):
        with pytest.raises(TypeError, match=rf"^id: {id!r} is no int$"):
            function(id)


def test_what_is_no_list_is_named() -> None:
    """Whatever a field takes is taken; the rest is an error that names the argument, not one of its members."""
    text, pairs, runs = "0:1000:5", [(0, 1000, 5)], [IDMap(0, 1000, 5)]
    wrong: list[Any] = [None, 7, b"0:1000:5", {0: 1000}, runs[0], [None], [(0, 1000)], ["0:1000:5"]]
    calls: dict[str, list[Any]] = {
        "maps": [
            IDMap.format, lambda maps: IDMap.host_of(maps, 1), lambda maps: IDMap.container_of(maps, 1001),
            lambda maps: IDMap.subtract(maps, host_id=1), IDMap.subtract,
        ],
        "inner": [lambda maps: IDMap.compose(maps, runs)],
        "outer": [lambda maps: IDMap.compose(runs, maps)],
    }  # fmt: skip
    for name, functions in calls.items():
        for function in functions:
            assert function(text) == function(pairs) == function(iter(runs)) == function(runs)
            for each in wrong:
                with pytest.raises(TypeError, match=rf"^{name}: "):
                    function(each)


@given(id_lists(), id_lists())
def test_composing_is_translating_twice(inner: list[IDMap], outer: list[IDMap]) -> None:
    """A nested namespace's ids, all the way out; what is not mapped all the way is not there."""
    near, far = model(inner), model(outer)
    composed = IDMap.compose(inner, outer)
    assert model(composed) == {id: far[middle] for id, middle in near.items() if middle in far}
    assert sum(each.size for each in composed) == len(model(composed))


@given(id_lists(), st.sampled_from(["container_id", "host_id"]), SMALL, st.integers(1, 8))
def test_subtracting_takes_exactly_these(maps: list[IDMap], side: str, first: int, size: int) -> None:
    """What merely touches the ids that are taken out loses nothing."""
    gone = range(first, first + size)
    expected = {a: b for a, b in model(maps).items() if (a if side == "container_id" else b) not in gone}
    left = IDMap.subtract(maps, **{side: first}, size=size)
    assert model(left) == expected
    assert sum(each.size for each in left) == len(expected)


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        ({"container_id": 0}, "1:100001:9,20:200:5"),
        ({"container_id": 9}, "0:100000:9,20:200:5"),
        ({"container_id": 10}, "0:100000:10,20:200:5"),  # only touches: util-linux would lose 9
        ({"container_id": 4}, "0:100000:4,5:100005:5,20:200:5"),
        ({"host_id": 100010}, "0:100000:10,20:200:5"),
        ({"host_id": 99999}, "0:100000:10,20:200:5"),
        ({"host_id": 100005, "container_id": 22}, "0:100000:5,6:100006:4,20:200:2,23:203:2"),
        ({"container_id": 0, "size": 25}, ""),
        ({"container_id": LAST}, "0:100000:10,20:200:5"),
    ],
)
def test_a_single_id_taken_out_of_ranges(taken: dict[str, int], left: str) -> None:
    assert IDMap.format(IDMap.subtract(IDMap.parse("0:100000:10,20:200:5"), **taken)) == left


def test_the_ends_of_the_numbers() -> None:
    whole = [IDMap(0, 0, LAST + 1)]
    assert IDMap.host_of(whole, LAST) == LAST
    assert IDMap.host_of(whole, LAST + 1) is None
    assert IDMap.subtract(whole, container_id=LAST) == [IDMap(0, 0, LAST)]
    assert IDMap.compose(whole, whole) == whole
    for bad in (-1, LAST + 1):
        with pytest.raises(ValueError, match="container_id"):
            IDMap.subtract(whole, container_id=bad)
        with pytest.raises(ValueError, match=r"^host_id: "):
            IDMap.subtract(whole, host_id=bad)
    with pytest.raises(ValueError, match=r"^size: .* from host_id "):
        IDMap.subtract(whole, host_id=LAST, size=2)


def test_maps_of_id_maps_are_two_lists_or_a_word() -> None:
    pair = IDMaps([IDMap(0, 1000, 1)], [IDMap(0, 1001, 1)])
    config = Config.new("user", maps=pair)
    assert (config.uid_mappings, config.gid_mappings, config.maps) == (pair.uid, pair.gid, None)
    assert Config.new("user", maps="auto").maps == "auto"
    for fields, words in (
        ({"maps": "all"}, "maps: 'all' is not one of"),
        (
            {"maps": pair.uid},
            r"maps: \[IDMap.* is not one of .*'auto', .*; lists are for uid_mappings and gid_mappings$",
        ),
        ({"maps": pair, "uid_mappings": []}, "maps, uid_mappings"),
        ({"maps": "auto", "uid_mappings": [], "gid_mappings": []}, "one or the other"),
    ):
        with pytest.raises(ValueError, match=words):
            Config.new("user", **fields).validate()
    with pytest.raises(ValueError, match="maps: 'auto', and a user namespace is not among the namespaces"):
        nsapi.Config.new("uts", maps="auto").validate()
