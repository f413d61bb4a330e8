"""id_maps, and who writes them: subid files as shadow reads them, the real helpers, maps read back from the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import AS_OTHER, AS_USER, NAME, USER, Runner, ids_of, tool, with_etc
from inside import children, everything, failure, fds

import nsapi

Host = Callable[..., Runner]


@pytest.fixture
def host(root: Runner, user_python: str, library: Path, readable_tmp: Path) -> Host:
    """Make a host where the ordinary user has a name and these subids."""

    def make(
        subuid: str = "",
        subgid: str = "",
        *,
        user: bool = True,
        passwd: bool = True,
        gid: int = USER,
        nsswitch: str = "",
        login_defs: str = "",
    ) -> Runner:
        files = {"subuid": subuid, "subgid": subgid}
        if passwd:
            files["passwd"] = ids_of(NAME, USER)["passwd"].replace(f":{USER}:{USER}:", f":{USER}:{gid}:")
        if login_defs:
            files["login.defs"] = login_defs
        if nsswitch:
            files["nsswitch.conf"] = f"passwd: files\ngroup: files\n{nsswitch}\n"
        under = with_etc(readable_tmp, **files)
        if not user:
            return Runner("root", root.python, under, "", library)
        return Runner("user", user_python, [*under, *AS_OTHER, "env"], AS_USER, library)

    return make


LINES = f"""
# a comment
{NAME}:100000:1000
somebody:200000:1000
{USER}:300000:10
{NAME}:100500:600
{NAME}:5:
{NAME}:x:10
{NAME}:7:0
{NAME}:4294967290:100
{NAME}
{NAME}:61000:1000:extra
{NAME}:61230:10
{NAME}:800000:10\r
{NAME}:800000:10{" "}
 {NAME}:800000:10
{NAME}:0800000:10
{NAME}:\u0668:10
{NAME}:8:{"9" * 5000}
"""


def test_subids_are_all_lines_of_the_user(host: Host) -> None:
    """By name and by number, gids by the user's name too; each id once, in the order of the file."""

    def body(user: int) -> Any:
        def texts(kind: Any, user: Any = None) -> Any:
            maps = nsapi.id_maps(kind, user=user)
            return [nsapi.IDMap.format(maps.uid), nsapi.IDMap.format(maps.gid), maps.reason]

        return [texts("subids"), texts("auto"), texts("subids", "nsapi-test"), texts("subids", user)]

    subids, auto, named, numbered = host(LINES, f"{NAME}:700000:5\n")(body, USER)
    uids = "0:100000:1000,1000:300000:10,1010:101000:100,1110:61230:10"
    assert subids == [uids, "0:700000:5", None]
    assert named == numbered == subids
    # Their own id is root, and so no subid: exactly that one is missing from the last line.
    own = "0:61234:1,1:100000:1000,1001:300000:10,1011:101000:100,1111:61230:4,1115:61235:5"
    assert auto == [own, "0:61234:1,1:700000:5", None]


def test_a_last_line_needs_no_end(host: Host) -> None:
    def body() -> Any:
        return nsapi.IDMap.format(nsapi.id_maps("subids").uid)

    assert host(f"{NAME}:100000:9", f"{NAME}:100000:9")(body) == "0:100000:9"


def test_root_looks_up_the_maps_of_others(host: Host) -> None:
    def body(user: int) -> Any:
        found = [nsapi.id_maps(kind, user=user) for kind in ("root", "current", "subids", "auto")]
        return [[nsapi.IDMap.format(each.uid), nsapi.IDMap.format(each.gid), each.reason] for each in found]

    assert host(f"{NAME}:100000:9\n", f"{USER}:200000:9\n", user=False)(body, USER) == [
        ["0:61234:1", "0:61234:1", None],
        ["61234:61234:1", "61234:61234:1", None],
        ["0:100000:9", "0:200000:9", None],
        ["0:61234:1,1:100000:9", "0:61234:1,1:200000:9", None],
    ]


GRANTED = f"{NAME}:100000:65536\n"


@pytest.mark.parametrize("as_user", [False, True])
def test_maps_of_every_kind_are_written_and_read_back(host: Host, as_user: bool) -> None:
    """What id_maps says is what the kernel shows inside, and what is read from outside; setgroups as ranges have it."""
    tool("newuidmap"), tool("newgidmap")

    def body(kinds: list[str]) -> Any:
        found = {}
        for kind in kinds:
            maps = nsapi.id_maps(kind)
            config = nsapi.Config.new("user", maps=kind)
            script = "cat /proc/self/uid_map; echo; cat /proc/self/gid_map; echo; cat /proc/self/setgroups; read line"
            with nsapi.Popen(["sh", "-c", script], config=config, stdin=-1, stdout=-1, text=True) as made:
                outside = nsapi.id_maps(made)
                text = made.communicate("")[0]
            uid, gid, setgroups = text.split("\n\n")
            inside = [nsapi.IDMap.parse(uid), nsapi.IDMap.parse(gid)]
            found[kind] = [inside == [maps.uid, maps.gid] == [outside.uid, outside.gid], setgroups.strip()]
        return [found, children()]

    kinds = ["root", "current", "subids", "auto"] + ([] if as_user else ["identity"])
    lines = GRANTED if as_user else f"root:100000:65536\n{GRANTED}"
    found, left = host(lines, lines, user=as_user)(body, kinds)
    allowed = {"subids", "auto", "identity"}
    assert found == {kind: [True, "allow" if kind in allowed else "deny"] for kind in kinds}
    assert left == []


def test_auto_degrades_with_the_reason(host: Host, readable_tmp: Path) -> None:
    """No line, no helper, a helper without privilege, a service: then root alone, which always works."""
    helper = readable_tmp / "bin" / "newuidmap"
    helper.parent.mkdir()
    helper.parent.chmod(0o755)
    helper.write_bytes(Path(tool("newuidmap")).read_bytes())
    helper.chmod(0o755)  # not setuid

    def body(path: str | None = None) -> Any:
        if path is not None:
            os.environ["PATH"] = path
        maps = nsapi.id_maps("auto")
        done = nsapi.run(["/usr/bin/id", "-u"], config=nsapi.Config.new("user", maps="auto"), capture_output=True)
        return [nsapi.IDMap.format(maps.uid), nsapi.IDMap.format(maps.gid), maps.reason, done.stdout.decode()]

    alone = f"0:{USER}:1"
    cases: list[tuple[Runner, list[str], list[str]]] = [
        (host(), [], [NAME, "/etc/subuid", "usermod --add-subuids"]),
        (host(GRANTED), [], [NAME, "/etc/subgid", "usermod --add-subgids"]),
        (host(GRANTED, GRANTED), ["/nowhere"], ["newuidmap", "package uidmap", "PATH"]),
        (host(GRANTED, GRANTED), [str(helper.parent)], [str(helper), "setuid root", "file capabilities"]),
        (host(GRANTED, GRANTED, nsswitch="subid: sss"), [], [NAME, "nsswitch.conf"]),
        (host(passwd=False), [], [str(USER), "/etc/subuid"]),
        (
            host(f"{USER}:100000:9\n", f"{USER}:100000:9\n", passwd=False),
            [],
            ["newuidmap", "without a name", "passwd(5)"],
        ),
        (host(GRANTED, GRANTED, gid=7), [], ["newuidmap", NAME, "passwd(5), 7", "newgrp(1)", "GRANT_AUX_GROUP_SUBIDS"]),
    ]
    for runner, args, words in cases:
        uid, gid, reason, inside = runner(body, *args)
        assert (uid, gid, inside) == (alone, alone, "0\n")
        assert all(word in reason for word in words), reason


def test_a_file_that_may_not_be_read_is_left_to_the_helpers(host: Host, readable_tmp: Path) -> None:
    """They are setuid root: auto says why it does not know, and what is given in numbers is theirs to judge."""

    def body() -> Any:
        maps = nsapi.id_maps("auto")
        given = nsapi.Config.new("user", uid_mappings="0:100000:9", gid_mappings="0:100000:9")
        return [nsapi.IDMap.format(maps.uid), maps.reason, nsapi.run(["true"], config=given).returncode]

    runner = host(GRANTED, GRANTED)
    for file in readable_tmp.glob("*/sub?id"):
        file.chmod(0)
    ids, reason, status = runner(body)
    assert (ids, status) == (f"0:{USER}:1", 0)
    assert reason.startswith(f"the subuids of {NAME} are kept")
    assert reason.endswith("or in a file that may not be read")


def test_a_file_that_cannot_be_read_now_is_no_empty_file(host: Host) -> None:
    """Without open files to spare nobody can tell what is granted: auto is an error, not root alone."""

    def body() -> Any:
        import resource

        nsapi.id_maps("auto")
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return [failure(lambda: nsapi.id_maps(kind)) for kind in ("auto", "subids")]

    for found in host(GRANTED, GRANTED)(body):
        assert (found["errno"], found["step"]) == (24, "read subuid")


def test_what_cannot_be_had_says_why(host: Host, readable_tmp: Path) -> None:
    """Before anything runs: the exception, its step, and what a user needs to know."""

    def body() -> Any:
        def of(maps: str, **fields: Any) -> Any:
            def start() -> Any:
                return nsapi.run(
                    ["true"], config=nsapi.Config.new("user", **fields, uid_mappings=maps, gid_mappings=maps)
                )

            return failure(start)

        nsapi.create("user").close()  # the launcher's file stays in memory
        before = everything()
        own = os.getuid()
        cases = [
            failure(lambda: nsapi.run(["true"], config=nsapi.Config.new("user", maps="subids"))),
            of(f"0:{own}:1,1:100000:65537"),
            of(f"0:{own}:1,1:200000:1"),
            of(f"0:{own}:2"),
            of("0:0:1"),
        ]
        return [cases, before == everything(), children()]

    none = host()(body)[0][0]
    nameless = host(f"{USER}:100000:9\n", f"{USER}:100000:9\n", passwd=False)(body)[0][0]
    other = host(GRANTED, GRANTED, gid=7)(body)[0][0]
    cases, untouched, left = host(GRANTED, GRANTED)(body)
    assert untouched
    assert left == []
    words = [
        (none, ["PermissionError", "check", f"there is no line for {NAME} in /etc/subuid"]),
        (nameless, ["PermissionError", "check", "newuidmap", f"no entry of uid {USER} in passwd(5)"]),
        (other, ["PermissionError", "check", "newuidmap", f"the gid that {NAME} has in passwd(5), 7"]),
        (cases[1], ["uid 165536 of the entry 1:100000:65537 is not granted", NAME, "100000:65536", "/etc/subuid"]),
        (cases[2], ["uid 200000 of the entry 1:200000:1"]),
        (cases[3], [f"uid {USER} of the entry 0:{USER}:2"]),  # one's own is granted alone, and not as part of a range
        (cases[4], ["uid 0 of the entry 0:0:1"]),
    ]
    for found, expected in words:
        assert all(word in str(found) for word in expected), (found, expected)


@pytest.mark.parametrize(
    ("line", "grants"),
    [
        ("#GRANT_AUX_GROUP_SUBIDS yes", False),
        ("GRANT_AUX_GROUP_SUBIDS yes", True),
        ("GRANT_AUX_GROUP_SUBIDS\tYES\nLOGIN_RETRIES 5", True),
        ("GRANT_AUX_GROUP_SUBIDS no", False),
        ("GRANT_AUX_GROUP_SUBIDS yes\nGRANT_AUX_GROUP_SUBIDS no", False),
        ("GRANT_AUX_GROUP_SUBIDS", False),
    ],
)
def test_with_another_gid_auto_is_what_the_helpers_write(line: str, grants: bool, host: Host) -> None:
    """As after newgrp(1): they decide by login.defs(5), and what is told is what happens."""

    def body() -> Any:
        maps = nsapi.id_maps("auto")
        unmapped = nsapi.Config.new("user", uid_mappings=[], gid_mappings=[])
        with nsapi.Popen(["cat"], config=unmapped, stdin=subprocess.PIPE) as cat:
            theirs = subprocess.run(["newuidmap", str(cat.pid), "0", "100000", "1"], stderr=subprocess.DEVNULL)
        auto = nsapi.Config.new("user", maps="auto")
        done = nsapi.run(["cat", "/proc/self/uid_map"], config=auto, capture_output=True, text=True)
        return [len(maps.uid) > 1, theirs.returncode == 0, maps.uid == nsapi.IDMap.parse(done.stdout)]

    assert host(GRANTED, GRANTED, gid=7, login_defs=f"{line}\n")(body) == [grants, grants, True]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nsapi.id_maps("all"), ValueError, ("kind: 'all'", "root, current, subids, auto, identity")),
        (lambda: nsapi.id_maps(0), ValueError, ("kind: 0", "greater than 0")),
        (lambda: nsapi.id_maps(True), TypeError, ("kind: True",)),
        (lambda: nsapi.id_maps(None), TypeError, ("kind: None", "no pid")),
        (lambda: nsapi.id_maps(os.getpid(), user="root"), TypeError, ("user:",)),
        (lambda: nsapi.id_maps("root", user=1.5), TypeError, ("user: 1.5",)),  # type: ignore[arg-type]
        (lambda: nsapi.id_maps("root", user=4294967294), ValueError, ("user:", "4294967294")),
        (lambda: nsapi.id_maps("root", user="nobody-at-all"), ValueError, ("user:", "nobody-at-all")),
        (lambda: nsapi.id_maps(2**31 - 1), ProcessLookupError, ("process 2147483647",)),
    ],
)
def test_bad_words_name_what_is_accepted(
    call: Callable[[], Any], error: type[Exception], words: tuple[str, ...]
) -> None:
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


def test_maps_of_a_process_are_seen_from_here(anyone: Runner) -> None:
    """By pid or object, in the numbers of the caller's own user namespace; one that has ended has none."""

    def body() -> Any:
        with nsapi.Popen(["cat"], config=nsapi.Config.new("user"), stdin=subprocess.PIPE) as cat:
            by_pid, by_object = nsapi.id_maps(cat.pid), nsapi.id_maps(cat)
        ended = failure(lambda: nsapi.id_maps(cat.pid))
        return [nsapi.IDMap.format(by_pid.uid), by_pid == by_object, ended, os.getuid()]

    by_pid, same, ended, uid = anyone(body)
    assert by_pid == f"0:{uid}:1"
    assert same
    assert "ProcessLookupError" in str(ended)


FROM_WITHIN = """
import sys, nsapi
maps = nsapi.id_maps(int(sys.argv[1]))
print(nsapi.IDMap.format(maps.uid) or "-", maps.reason)
"""


@pytest.mark.parametrize(
    ("other", "seen", "reason"),
    [
        (None, "0:60:1", "of the 4294967295 uids of process PID, 1 are seen from the caller's own user namespace"),
        ("0:200:5", "-", "of the 5 uids of process PID, 0 are seen from the caller's own user namespace"),
        (
            "0:200:5,5:140:20",
            "5:40:10",
            "of the 25 uids of process PID, 10 are seen from the caller's own user namespace",
        ),
        ("3:100:7,20:149:1", "3:0:7,20:49:1", "None"),
        ("", "-", "None"),
    ],
)
def test_maps_of_others_are_read_in_a_nested_user_namespace(
    other: str | None, seen: str, reason: str, root: Runner
) -> None:
    """The kernel writes 4294967295 there, and numbers that are others' there: what the caller does not map is left out."""

    def body(code: str, other: str | None) -> Any:
        def same(ids: str) -> nsapi.IDMaps:
            return nsapi.IDMaps(nsapi.IDMap.parse(ids), nsapi.IDMap.parse(ids))

        config = nsapi.Config.new("net") if other is None else nsapi.Config.new("user", maps=same(other))
        with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:
            argv = [sys.executable, "-c", code, str(cat.pid)]
            own = nsapi.Config.new("user", maps=same("0:100:50,60:0:1"), uid=60, gid=60)
            done = nsapi.run(argv, config=own, capture_output=True, text=True, check=True)
        return done.stdout.replace(str(cat.pid), "PID").strip().split(" ", 1)

    assert root(body, FROM_WITHIN, other) == [seen, reason]


def test_the_longest_map_is_read_whole(root: Runner) -> None:
    """The kernel gives a page at a time: of 340 entries, 124."""

    def body() -> Any:
        maps = [nsapi.IDMap(each, each, 1) for each in range(340)]
        config = nsapi.Config.new("user", uid_mappings=maps, gid_mappings=maps)
        with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:
            read = nsapi.id_maps(cat)
        return [read.uid == maps, read.gid == maps]

    assert root(body) == [True, True]


def test_auto_is_no_more_than_the_kernel_takes(host: Host) -> None:
    """More lines than fit into one write: those that fit are mapped, and the reason says so. All of them are refused."""

    def body() -> Any:
        maps = nsapi.id_maps("auto")
        cat = ["cat", "/proc/self/uid_map"]
        done = nsapi.run(cat, config=nsapi.Config.new("user", maps="auto"), capture_output=True, text=True)
        subids = failure(lambda: nsapi.run(["true"], config=nsapi.Config.new("user", maps="subids")))
        return [nsapi.IDMap.parse(done.stdout) == maps.uid, len(maps.uid), len(maps.gid), maps.reason, subids["text"]]

    lines = "".join(f"root:{100000 + 131072 * each}:65536\n" for each in range(339))
    same, uids, gids, reason, refused = host(lines, lines, user=False)(body)
    assert same
    assert uids == gids == 182
    assert all(word in reason for word in ("340 entries", "4095 bytes", "182")), reason
    assert all(word in refused for word in ("check", "'subids'", "uid_map", "4095")), refused


IN_A_CONTAINER = """
import nsapi
for kind in "auto", "subids":
    try:
        maps = nsapi.id_maps(kind)
        nsapi.run(["cat", "/proc/self/uid_map"], config=nsapi.Config.new("user", maps=kind), check=True)
        print(nsapi.IDMap.format(maps.uid), maps.reason, flush=True)
    except nsapi.NamespaceError as error:
        print(error)
"""


def test_what_the_own_user_namespace_does_not_map_is_not_granted(host: Host) -> None:
    """In a container /etc/subuid may be the host's: auto is what there is of it, and says why."""

    def body(code: str, count: int) -> Any:
        ids = f"0:0:{count}"
        config = nsapi.Config.new("user", uid_mappings=ids, gid_mappings=ids)
        done = nsapi.run([sys.executable, "-c", code], config=config, capture_output=True, text=True, check=True)
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    container = host("root:100:50\n", "root:100:50\n", user=False)
    assert container(body, IN_A_CONTAINER, 1) == [
        "0 0 1",
        "0:0:1 no uid that /etc/subuid grants root is mapped in the caller's own user namespace",
        "[Errno 1] Operation not permitted: check: '/etc/subuid' — "
        "no uid that /etc/subuid grants root is mapped in the caller's own user namespace",
    ]
    assert container(body, IN_A_CONTAINER, 120) == [
        *("0 0 1", "1 100 20"),
        "0:0:1,1:100:20 of the 50 uids granted, the caller's own user namespace maps 20",
        *("0 100 20", "0:100:20 None"),
    ]


# ---- create ----


def test_create_leaves_a_namespace_and_no_process(anyone: Runner) -> None:
    """It has its maps, can be joined, and lives as long as the handle."""

    def body() -> Any:
        nsapi.create("user").close()  # the launcher's file stays in memory
        before = everything()
        made, own = nsapi.create("user"), nsapi.current("user")
        held = [made.type.proc_name, made.owner_uid == os.getuid(), made.id != own.id, children()]
        joined = nsapi.run(
            ["sh", "-c", "id -u; readlink /proc/self/ns/user; cat /proc/self/uid_map"],
            config=nsapi.Config.new("net", user=made),
            capture_output=True,
            text=True,
        )
        uid, name, *numbers = joined.stdout.split()
        held += [uid, name == f"user:[{made.id[1]}]", numbers]
        made.close()
        own.close()
        return [held, before == everything(), os.getuid()]

    held, untouched, uid = anyone(body)
    assert held == ["user", True, True, [], "0", True, ["0", str(uid), "1"]]
    assert untouched


def test_create_waits_for_nobody_else(root: Runner) -> None:
    """Who is forked meanwhile, as by multiprocessing in another thread, holds a copy of every fd."""

    def body() -> Any:
        import importlib

        pin: Any = importlib.import_module("nsapi._pin")
        opened, forked = pin.open_namespace, []

        def open_and_fork(*args: Any) -> Any:
            forked.append(os.fork())
            if not forked[0]:
                signal.alarm(20)
                signal.pause()
            return opened(*args)

        pin.open_namespace = open_and_fork
        nsapi.create("user").close()
        alive = os.waitpid(forked[0], os.WNOHANG) == (0, 0)
        os.kill(forked[0], signal.SIGKILL)
        return alive

    assert root(body)


def test_create_leaves_nobody_where_ctrl_c_cuts_it_short(root: Runner) -> None:
    """Also where it comes when the process is there, before Popen has been left."""

    def body() -> Any:
        import importlib

        pin: Any = importlib.import_module("nsapi._pin")
        nsapi.create("user").close()

        class Interrupted(nsapi.Popen):
            def __init__(self, *args: Any, **keywords: Any) -> None:
                super().__init__(*args, **keywords)
                born.extend(children())
                raise KeyboardInterrupt

        pin.Popen, born, before = Interrupted, list[int](), fds()
        try:
            nsapi.create("user").close()
        except KeyboardInterrupt:
            return [len(born), children(), fds() == before]

    assert root(body) == [1, [], True]


def test_create_takes_maps_of_every_kind(host: Host) -> None:
    tool("newuidmap")

    def body() -> Any:
        found = []
        own = os.getuid()
        one = f"5:{own}:1"
        cases: list[dict[str, Any]] = [
            {"maps": "auto"},
            {"uid_mappings": one, "gid_mappings": one},
        ]
        for fields in cases:
            made = nsapi.create("user", **fields)
            script = ["sh", "-c", "id -u; cat /proc/self/uid_map"]
            done = nsapi.run(script, config=nsapi.Config.new(user=made), capture_output=True, text=True)
            found.append(done.stdout.split())
            made.close()
        nobody = nsapi.create("user", uid_mappings=[], gid_mappings=[])
        found.append(failure(lambda: nsapi.run(["true"], config=nsapi.Config.new(user=nobody)))["text"])
        nobody.close()
        return [found, children(), own]

    found, left, own = host(GRANTED, GRANTED)(body)
    *found, unmapped = found
    assert found == [["0", "0", str(own), "1", "1", "100000", "65536"], ["5", "5", str(own), "1"]]
    assert "that the joined user namespace does not map" in unmapped
    assert left == []


def test_create_refuses_what_is_not_of_a_user_namespace(anyone: Runner) -> None:
    def body() -> Any:
        nsapi.create("user").close()
        before = everything()
        cases = [
            failure(lambda: nsapi.create("user", hostname="a")),
            failure(lambda: nsapi.create("users")),
            failure(lambda: nsapi.create("user", maps="everybody")),
            failure(lambda: nsapi.create("user", uid_mappings="0:0:1")),
        ]
        return [[str(each) for each in cases], before == everything(), children()]

    cases, untouched, left = anyone(body)
    for found, words in zip(
        cases,
        [("TypeError", "hostname"), ("ValueError",), ("maps",), ("gid_mappings",)],
        strict=True,
    ):
        assert all(word in found for word in words), found
    assert untouched
    assert left == []
