"""A Snapshot is data: what it says of itself holds for every host one can think of, also for one that contradicts itself."""

from __future__ import annotations

import json
import os
import pickle
import re
from array import array
from typing import Any

import pytest
from conftest import REPOSITORY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsapi import NamespaceInfo, NamespaceType, Snapshot
from nsapi._reference import Reference
from nsapi._snapshot import Pin, Thread
from nsapi._tasks import Tasks

# No test is timed, so neither are hypothesis's examples.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

DEVICE = 4
Id = tuple[int, int]


class World:
    """Processes that never were: who is whose parent, and what each is called from where."""

    def __init__(self, parents: dict[int, int], nspids: dict[int, tuple[int, ...]]) -> None:
        self.parents, self._nspids = parents, nspids

    def ppid(self, pid: int) -> int:
        return self.parents.get(pid, 0)

    def nspids(self, pid: int) -> tuple[int, ...]:
        return self._nspids.get(pid, ())


def snapshot_of(
    infos: list[NamespaceInfo], members: dict[int, dict[NamespaceType, int]], world: World | None = None
) -> Snapshot:
    pids = sorted(members)
    columns = {
        type: array("I", [members[pid].get(type, 0) for pid in pids])
        for type in {type for row in members.values() for type in row}
    }
    return Snapshot(infos, Tasks(array("I", pids), columns), processes=world or World({}, {}))


class Choices:
    """Takes decisions from bytes, which are drawn at once: to draw a hundred times takes a loaded machine too long."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    def number(self, first: int, last: int) -> int:
        return first + next(self._data, 0) % (last - first + 1)

    def among(self, choices: Any) -> Any:
        return choices[self.number(0, len(choices) - 1)]


@st.composite
def hosts(draw: st.DrawFn) -> tuple[Snapshot, World]:
    """A host: user and pid namespaces in trees, others owned by somebody, processes somewhere; now and then a lie."""
    choose = Choices(draw(st.binary(min_size=256, max_size=256)))
    types = [choose.among(list(NamespaceType)) for _ in range(choose.number(0, 12))]
    infos: list[NamespaceInfo] = []
    for number, type in enumerate([NamespaceType.USER, NamespaceType.PID, *types]):
        users = [each.id for each in infos if each.type is NamespaceType.USER]
        kin = [each.id for each in infos if each.type is type]
        lie = choose.among([None, None, None, (DEVICE, choose.number(100, 113)), (DEVICE, 9999)])
        owner = lie or (choose.among(users) if users else None)
        parent = None
        if type in (NamespaceType.USER, NamespaceType.PID) and kin:
            parent = choose.among(kin)
        if type is NamespaceType.USER:
            owner = parent = lie or parent
        path = choose.among([(), ("/run/x",), ('/a "b"\\n\n\udcff',)])
        pins = tuple(Pin(each, (DEVICE, 1), True) for each in path)
        facts = {
            "owner_id": owner,
            "parent_id": parent,
            "pinned": pins,
            "ns_id": choose.among([None, 1, 1 << 63]),
        }
        infos.append(NamespaceInfo(type, (DEVICE, 100 + number), **facts))
    members: dict[int, dict[NamespaceType, int]] = {}
    for pid in {choose.number(1, 40) for _ in range(choose.number(0, 15))}:
        members[pid] = {}
        for type in NamespaceType:
            there = [each.id[1] for each in infos if each.type is type]
            members[pid][type] = choose.among([0, *there])
    parents = {choose.number(1, 40): choose.number(0, 40) for _ in range(choose.number(0, 20))}
    world = World(parents, {})
    return snapshot_of(infos, members, world), world


@given(hosts())
def test_every_namespace_is_in_each_tree_once(host: tuple[Snapshot, World]) -> None:
    """Whatever the relation, also where what was read contradicts itself; nothing stands below itself."""
    snapshot, _ = host
    for by in ("owner", "parent", "process"):
        walked = [each.id for top in snapshot.tree(by) for _, each in top.walk()]
        reachable = len(walked)
        assert len(set(walked)) == reachable
        assert set(walked) == {each.id for each in snapshot}, by
        for top in snapshot.tree(by):
            assert next(top.walk()) == (0, top.namespace)


@given(hosts())
def test_records_and_table_agree(host: tuple[Snapshot, World]) -> None:
    """Members, of, by_type, persistent and lookup say the same thing from different sides."""
    snapshot, world = host
    assert [each.id for each in snapshot] == [
        each.id for type in NamespaceType for each in sorted(snapshot.by_type(type), key=lambda each: each.id)
    ]
    for each in snapshot:
        assert snapshot[each.id] is each
        assert each.id in snapshot
        assert all(each in snapshot.of(pid) for pid in each.pids)
        assert sorted(each.members) == list(each.pids)
        assert each.members[: len(each.leaders)] == each.leaders
        assert all((world.ppid(pid) in each.pids) == (pid not in each.leaders) for pid in each.pids)
        assert (each in snapshot.persistent()) == (each.nprocs == 0)
        assert all(child.parent is each for child in each.children)
        assert all(owned.owner is each for owned in each.owned)
    assert (DEVICE, 1) not in snapshot


@given(hosts())
def test_json_holds_it_all(host: tuple[Snapshot, World]) -> None:
    """It is what to_dict gives, ASCII, and every id in it leads to a record or is known to be elsewhere."""
    snapshot, _ = host
    text = snapshot.to_json()
    assert text.isascii()
    loaded = json.loads(text)
    assert loaded == snapshot.to_dict()
    assert json.loads(snapshot.to_json(indent=2)) == loaded
    assert pickle.loads(pickle.dumps(snapshot)).to_dict() == loaded
    assert loaded["schema"] == 1
    assert [tuple(each["id"]) for each in loaded["namespaces"]] == [each.id for each in snapshot]
    for told, info in zip(loaded["namespaces"], snapshot, strict=True):
        assert set(told) == KEYS
        assert told["members"] == list(info.members)
        assert told["nprocs"] == len(told["members"])
        assert [tuple(each) for each in told["children"]] == [each.id for each in info.children]
        assert told["owner"] == (list(info.owner_id) if info.owner_id else None)


def test_the_schema_is_documented() -> None:
    """Its keys are those of the tables in the reference, no more and no less."""
    page = (REPOSITORY / "docs/reference/discover.rst").read_text().partition("The schema\n")[2]
    rows = [line[:20] for line in page.splitlines() if line.startswith("`")]
    documented = {name for row in rows for name in row.replace("`", "").replace(",", "").split()}
    assert documented == KEYS | set(snapshot_of([], {}).to_dict())


KEYS = set(
    "type id ns_id owner parent children owner_uid nsid nprocs leaders members threads pinned references".split()
)


@given(hosts())
def test_dot_is_one_graph(host: tuple[Snapshot, World]) -> None:
    """A line for each box and arrow; a path with quotes or newlines breaks none."""
    snapshot, _ = host
    lines = snapshot.to_dot().encode().decode().split("\n")
    arrows = [each.owner.id for each in snapshot if each.owner is not None]
    arrows += [each.parent.id for each in snapshot.by_type("pid") if each.parent is not None]
    assert sorted(line.split()[0].strip('"') for line in lines if "->" in line) == sorted(
        str(each[1]) for each in arrows
    )
    assert (lines[0], lines[-2:]) == ("digraph namespaces {", ["}", ""])
    boxes = [line for line in lines[2:-2] if "->" not in line]
    assert len(boxes) == len(snapshot)
    for line in boxes:
        inside = line.partition('label="')[2].removesuffix('"];')
        assert line.endswith('"];')
        assert not inside.replace("\\\\", "").replace('\\"', "").count('"')


@st.composite
def pid_namespaces(draw: st.DrawFn) -> tuple[Snapshot, dict[int, tuple[Id, dict[Id, int]]]]:
    """Nested pid namespaces and processes, and what each process is called where it is seen."""
    parents: dict[Id, Id | None] = {(DEVICE, 100): None}
    for number in range(draw(st.integers(0, 6))):
        parents[DEVICE, 101 + number] = draw(st.sampled_from(sorted(parents)))
    infos = [NamespaceInfo(NamespaceType.PID, id, parent_id=parent) for id, parent in parents.items()]
    calls: dict[int, tuple[Id, dict[Id, int]]] = {}
    last = dict.fromkeys(parents, 0)
    nspids = {}
    for pid in sorted(draw(st.sets(st.integers(1, 99), min_size=1, max_size=12))):
        home = draw(st.sampled_from(sorted(parents)))
        names: dict[Id, int] = {}
        each: Id | None = home
        while each is not None:
            last[each] += draw(st.integers(1, 3))
            names[each] = pid if parents[each] is None else last[each]
            each = parents[each]
        calls[pid] = home, names
        nspids[pid] = tuple(names[id] for id in reversed(names))
    members = {pid: {NamespaceType.PID: home[1]} for pid, (home, _) in calls.items()}
    return snapshot_of(infos, members, World({}, nspids)), calls


@given(pid_namespaces(), st.integers(1, 99))
def test_translating_pids_is_a_lookup(made: Any, stranger: int) -> None:
    """Between any two namespaces it gives what the process is called there, and None where it is not seen or is none."""
    snapshot, calls = made
    ids = [each.id for each in snapshot]
    for from_ in ids:
        known = {names[from_]: names for _, names in calls.values() if from_ in names}
        for to in ids:
            for pid, names in known.items():
                assert snapshot.translate_pid(pid, from_, to) == names.get(to)
                assert snapshot.translate_pid(pid, snapshot[from_], snapshot[to]) == names.get(to)
            if stranger not in known:
                assert snapshot.translate_pid(stranger, from_, to) is None


def test_translating_needs_pid_namespaces_of_the_snapshot() -> None:
    """Another type is a ValueError that says which argument, another snapshot's a KeyError."""
    pid, net = NamespaceInfo(NamespaceType.PID, (DEVICE, 1)), NamespaceInfo(NamespaceType.NET, (DEVICE, 2))
    snapshot = snapshot_of([pid, net], {1: {NamespaceType.PID: 1}}, World({}, {1: (1,)}))
    assert snapshot.translate_pid(1, pid, pid) == 1
    with pytest.raises(ValueError, match="to: <NamespaceInfo net:"):
        snapshot.translate_pid(1, pid, net)
    with pytest.raises(KeyError):
        snapshot.translate_pid(1, (DEVICE, 3), pid)


@pytest.mark.parametrize("wrong", ["1", None, 1.0, b"1", [1]])
def test_what_is_no_pid_is_told_by_its_name(wrong: Any) -> None:
    """A TypeError, and not that there is no such process."""
    pid = NamespaceInfo(NamespaceType.PID, (DEVICE, 1))
    snapshot = snapshot_of([pid], {1: {NamespaceType.PID: 1}}, World({}, {1: (1,)}))
    for call in (snapshot.of, snapshot.process, lambda wrong: snapshot.translate_pid(wrong, pid, pid)):
        with pytest.raises(TypeError, match=re.escape(f"pid: {wrong!r} is no int")):
            call(wrong)


def test_process_tree_follows_the_parents() -> None:
    """A namespace stands below that of its first process's parent, or grandparent if the parent is inside too."""
    infos = [NamespaceInfo(NamespaceType.UTS, (DEVICE, inode)) for inode in (1, 2, 3, 4)]
    rows = {1: 1, 5: 2, 7: 2, 8: 3}
    members = {pid: {NamespaceType.UTS: inode} for pid, inode in rows.items()}
    snapshot = snapshot_of(infos, members, World({5: 1, 7: 5, 8: 7}, {}))
    shown = [(depth, each.id[1]) for top in snapshot.tree("process") for depth, each in top.walk()]
    assert shown == [(0, 1), (1, 2), (2, 3), (0, 4)]
    members = {3: {NamespaceType.UTS: 1}, 5: {NamespaceType.UTS: 2}, 9: {NamespaceType.UTS: 2}}
    snapshot = snapshot_of(
        [NamespaceInfo(NamespaceType.UTS, (DEVICE, inode)) for inode in (1, 2)], members, World({5: 9, 9: 3}, {})
    )
    assert [[child.namespace.id[1] for child in top.children] for top in snapshot.tree("process")] == [[2]]


def test_deep_trees_need_no_deep_stack() -> None:
    """Anybody can nest processes thousands deep, each in a namespace of its own."""
    infos = [NamespaceInfo(NamespaceType.UTS, (DEVICE, inode)) for inode in range(1, 5001)]
    members = {pid: {NamespaceType.UTS: pid} for pid in range(1, 5001)}
    snapshot = snapshot_of(infos, members, World({pid: pid - 1 for pid in range(2, 5001)}, {}))
    (top,) = snapshot.tree("process")
    assert max(depth for depth, _ in top.walk()) == 4999
    assert repr(top) == "<Node <NamespaceInfo uts:[1]>, 1 children>"


def test_ways_that_lead_in_a_circle_lead_nowhere() -> None:
    """Each of two is to be opened by way of the other: neither is there any more."""
    one, other = (DEVICE, 1), (DEVICE, 2)
    ways = {one: Reference("next", of=other), other: Reference("previous", of=one)}
    infos = [NamespaceInfo(NamespaceType.MNT, id, _references=(way,)) for id, way in ways.items()]
    for each in snapshot_of(infos, {}):
        with pytest.raises(FileNotFoundError, match="it is gone, or nothing that was found leads to it"):
            each.open()


def test_a_record_cannot_be_changed_and_equals_its_like() -> None:
    """It is a fact: hashable, and equal to one of the same namespace in a later snapshot, unless the number was reused."""
    one, same, reused = (NamespaceInfo(NamespaceType.NET, (DEVICE, 1), ns_id=each) for each in (7, 7, 8))
    with pytest.raises(AttributeError, match="nsid: a NamespaceInfo tells what was found"):
        one.nsid = 4
    assert (one == same, one == reused, one == 7, len({one, same})) == (True, False, False, 1)
    assert repr(one) == "<NamespaceInfo net:[1]>"


def test_lookups_that_fail() -> None:
    """By name, before anything is read."""
    snapshot = snapshot_of([NamespaceInfo(NamespaceType.NET, (DEVICE, 1), threads=(Thread(7, 8),))], {})
    assert snapshot.persistent() == ()
    with pytest.raises(KeyError, match="process 7 is not in this snapshot"):
        snapshot.of(7)
    with pytest.raises(KeyError):
        snapshot.of(-1)
    uts = NamespaceInfo(NamespaceType.UTS, (DEVICE, 1))
    with pytest.raises(KeyError):
        snapshot_of([uts], {1: {NamespaceType.UTS: 1}, 5: {NamespaceType.UTS: 1}}).of(3)
    with pytest.raises(ValueError, match="by: 'size' is none of owner, parent, process"):
        snapshot.tree("size")
    with pytest.raises(KeyError):
        snapshot[DEVICE, 2]
    with pytest.raises(ValueError, match="type: 'nets'"):
        snapshot.by_type("nets")


def test_members_are_compact() -> None:
    """Ten thousand processes are arrays of numbers, not objects: a few hundred KiB until somebody asks for more."""
    pids = array("I", range(1, 10001))
    tasks = Tasks(pids, {type: array("I", [1] * 10000) for type in NamespaceType})
    snapshot = Snapshot([NamespaceInfo(NamespaceType.NET, (DEVICE, 1))], tasks)
    (info,) = snapshot
    assert isinstance(info.pids, array)
    assert (info.nprocs, info.pids.itemsize) == (10000, 4)
    assert snapshot.process(os.getpid()) is not None
