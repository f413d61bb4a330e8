"""What run and Popen do in namespaces: created, joined, mixed, and each field of a Config, on the real kernel."""

from __future__ import annotations

import ctypes
import errno
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import USER, Runner, lacking, tool
from inside import (
    PYTHON,
    TYPES,
    all_ns,
    answer_enosys,
    everything,
    failure,
    fds,
    ns,
    ready,
    status,
    unshared,
)

import nsapi
from nsapi import Config
from nsapi._fields import RLIMITS

# ---- what the bodies here know beside inside.py ----


def own(*types: str) -> tuple[str, ...]:
    """These types; for an ordinary user also the user namespace that gives him the right to make them."""
    return types if os.geteuid() == 0 or "user" in types else ("user", *types)


def become_root(when: str = "where needed") -> None:
    """Let an ordinary user be root in a user namespace of his own, for good; root himself ``"always"`` only."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and when != "always":
        return
    nsapi.unshare("user")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text, encoding="ascii")


def out(argv: Any, config: Config, **keywords: Any) -> str:
    """What a program that ends well prints in these namespaces."""
    text: str = nsapi.run(argv, config=config, stdout=subprocess.PIPE, text=True, check=True, **keywords).stdout
    return text


def inside(config: Config) -> dict[str, str]:
    """The eight namespaces of a program started so, as it finds them itself."""
    found = out(["readlink", *(f"/proc/self/ns/{type}" for type in TYPES)], config)
    return dict(zip(TYPES, found.split(), strict=True))


def status_inside(config: Config, **keywords: Any) -> dict[str, str]:
    """/proc/self/status of a program started so."""
    lines = out(["cat", "/proc/self/status"], config, **keywords).splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def mounted(path: str) -> int:
    """How often something is mounted at *path*, for the calling thread."""
    return Path("/proc/thread-self/mountinfo").read_text(encoding="utf-8").count(f" {path} ")


def mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True)


def piped(argv: Any, config: Config, **keywords: Any) -> subprocess.Popen[Any]:
    """A program whose stdin and stdout are ours."""
    pipe = subprocess.PIPE
    return nsapi.Popen(argv, config=config, stdin=pipe, stdout=pipe, text=True, **keywords)


@contextmanager
def talking(script: str, config: Config, *args: str, **keywords: Any) -> Iterator[subprocess.Popen[Any]]:
    """A shell script that has said ``ready``, started so."""
    with piped(["sh", "-c", script, "sh", *args], config, **keywords) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def teaching(runner: Runner, *helpers: Callable[..., object]) -> Runner:
    """The same runner, whose bodies know these functions too, and Config and ExitStack."""
    source = "from contextlib import ExitStack\nfrom nsapi import Config\n" + "\n".join(
        inspect.getsource(each) for each in helpers
    )
    return Runner(runner.name, runner.python, runner.prefix, runner.prelude + source, runner.library)


HELPERS = (own, become_root, out, inside, status_inside, mounted, mount, piped, talking)


@pytest.fixture(scope="module")
def root(root: Runner) -> Runner:
    return teaching(root, *HELPERS)


@pytest.fixture(scope="module")
def user(user: Runner) -> Runner:
    return teaching(user, *HELPERS)


@pytest.fixture
def cgroup2() -> Iterator[str]:
    """A new directory in a cgroup2 tree; nothing is in it afterwards, nor is it."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    roots = [line.split()[4] for line in lines if " - cgroup2 " in line]
    for top in (*roots, None):
        if top is None:
            lacking("a cgroup2 tree that root may write to")
        path = Path(str(top), f"nsapi-tests-{os.getpid()}")
        try:
            path.mkdir()
        except OSError:
            continue
        break
    yield str(path)
    for each in sorted(path.glob("**/"), reverse=True):
        each.rmdir()


# ---- creating ----


def test_every_combination_of_types_is_created(anyone: Runner) -> None:
    """Each of the eight alone, in pairs, up to all in one go: what was asked for is new, and the rest the caller's."""

    def body() -> dict[str, object]:
        from itertools import chain, combinations

        here, wrong, asked = all_ns(), [], 0
        for types in chain.from_iterable(combinations(TYPES, count) for count in range(9)):
            if types and types == own(*types):
                there = inside(Config.new(*types))
                asked += 1
                if tuple(type for type in TYPES if there[type] != here[type]) != types:
                    wrong.append(types)
        return {"wrong": wrong, "asked": asked, "stayed": here == all_ns()}

    asked = 255 if anyone.name == "root" else 128
    assert anyone(body) == {"wrong": [], "asked": asked, "stayed": True}


def test_words_of_a_type_in_any_order_mean_the_same(anyone: Runner) -> None:
    """All eight by their other names, the user namespace last: it still owns the others, and all are made."""

    def body() -> object:
        words = ("mount", "NEWTIME", "CLONE_NEWPID", nsapi.NamespaceType.NET, "cgroup", "uts", "ipc")
        here = all_ns()
        there = inside(Config.new(*words, "user"))
        return [type for type in TYPES if there[type] == here[type]]

    assert anyone(body) == []


def test_a_new_user_namespace_owns_what_is_made_with_it(anyone: Runner) -> None:
    """So that root inside has power over all seven, and nobody needs any outside."""

    def body() -> object:
        with talking("echo ready; read _", Config.new(*TYPES)) as process:
            owners = {}
            user = nsapi.open(process, "user")
            for type in TYPES[1:]:
                handle = nsapi.open(process, type)
                owners[type] = handle.owner == user
                handle.close()
            user.close()
        return owners

    assert anyone(body) == dict.fromkeys(TYPES[1:], True)


def test_a_program_can_make_namespaces_in_those_it_was_given(anyone: Runner) -> None:
    """Nested: all eight in all eight."""

    def body() -> object:
        code = (
            "import nsapi, sys; pids = nsapi.run(['sh', '-c', 'echo $$; id -u; hostname'], stdout=-1, text=True,"
            f" config=nsapi.Config.new(*{TYPES!r}, hostname='inner')).stdout; print(pids.split())"
        )
        return out([sys.executable, "-c", code], Config.new(*TYPES, hostname="outer"))

    assert anyone(body) == "['1', '0', 'inner']\n"


# ---- joining ----


def test_every_form_of_target_is_joined(anyone: Runner, readable_tmp: Path) -> None:
    """By path, pid, process, handle, pidfd or open file, and by the three spellings of a join: the same namespace."""

    def body(folder: str) -> dict[str, object]:
        class File:
            def __init__(self, fd: int) -> None:
                self.fileno = lambda: fd

        become_root()
        here, wrong, asked = all_ns(), [], 0
        with unshared("--net", "--uts", "--ipc", "--cgroup", "--mount") as process:
            pidfd, there = os.pidfd_open(process.pid), all_ns(process.pid)
            for type in ("net", "uts", "ipc", "cgroup", "mnt"):
                path = f"/proc/{process.pid}/ns/{type}"
                os.symlink(path, f"{folder}/{type}")
                handle, file = nsapi.open(process, type), open(path, "rb")
                before = fds()
                forms = {
                    "pid": process.pid,
                    "Popen": process,
                    "handle": handle,
                    "pidfd": File(pidfd),
                    "file": file,
                    "path": path,
                    "bytes": path.encode(),
                    "PathLike": Path(path),
                    "symlink": f"{folder}/{type}",
                }
                for form, target in forms.items():
                    for spelling, config in {
                        "keyword": Config.new(**{type: target}),
                        "join": Config.join(target, type),
                        "late": Config([(type, path)]),
                    }.items():
                        asked += 1
                        found = inside(config)
                        if [each for each in TYPES if found[each] != here[each]] != [type] or found[type] != there[
                            type
                        ]:
                            wrong.append([type, form, spelling])
                    argv = ["readlink", f"/proc/self/ns/{type}"]
                    done = nsapi.run(argv, target=target, types=[type], stdout=subprocess.PIPE, text=True)
                    if done.stdout != there[type] + "\n":
                        wrong.append([type, form, "target="])
                for form in ("handle", "file", "path", "PathLike"):  # which are of one type by themselves
                    config = Config.join(forms[form])
                    if inside(config)[type] != there[type]:
                        wrong.append([type, form, "join without a type"])
                if fds() != before:
                    wrong.append([type, "fds"])
                handle.close()
                file.close()
            os.close(pidfd)
        return {"wrong": wrong, "asked": asked}

    assert anyone(body, str(readable_tmp)) == {"wrong": [], "asked": 5 * 9 * 3}


def test_the_name_of_a_net_namespace_is_joined(anyone: Runner) -> None:
    """One that `ip netns add` made; looked up at each run, so that a name made anew means the new one."""
    tool("ip")

    def body() -> dict[str, object]:
        become_root()
        nsapi.unshare("mnt", "net")  # net: `ip netns add` goes back to the one it comes from
        mount("--make-rprivate", "/")
        mount("-t", "tmpfs", "none", "/run")
        by_keyword, by_join, found = Config.new(net="blue"), Config.join("blue"), []
        for _ in range(2):
            subprocess.run(["ip", "netns", "add", "blue"], check=True)
            stat = os.stat("/run/netns/blue")
            blue = f"net:[{stat.st_ino}]"
            found += [inside(config)["net"] == blue for config in (by_keyword, by_join)]
            keep = os.open("/run/netns/blue", os.O_RDONLY)  # else the next one may get its number
            subprocess.run(["ip", "netns", "delete", "blue"], check=True)
        os.close(keep)
        answer = failure(lambda: inside(by_keyword))
        return {"found": found, "missing": [answer["errno"], "blue" in str(answer["text"])]}

    assert anyone(body) == {"found": [True] * 4, "missing": [errno.ENOENT, True]}


def test_join_without_types_takes_all_that_differ(anyone: Runner) -> None:
    """Of a process: those in which it is elsewhere than the caller; where nothing differs, nothing is done."""

    def body() -> list[object]:
        become_root()
        answers: list[object] = []
        for types in (("net",), ("uts", "ipc"), ("net", "uts", "ipc", "cgroup", "mnt"), ()):
            with unshared(*(f"--{'mount' if type == 'mnt' else type}" for type in types)) as process:
                there = all_ns(process.pid)
                for target in (process, process.pid):
                    found = inside(Config.join(target))
                    answers.append(found == {type: there[type] for type in TYPES})
                    answers.append(
                        [type for type in TYPES if found[type] != ns(type)] == [t for t in TYPES if t in types]
                    )
        return answers

    assert anyone(body) == [True] * 4 * 2 * 2


def test_several_are_joined_of_several_processes(anyone: Runner) -> None:
    """Each type from somewhere else, in the order given and in the reverse."""

    def body() -> list[object]:
        become_root()
        answers: list[object] = []
        types = ("net", "uts", "ipc", "cgroup", "mnt")
        with ExitStack() as stack:
            held = [stack.enter_context(unshared("--net", "--uts", "--ipc", "--cgroup", "--mount")) for _ in types]
            wanted = {type: ns(type, process.pid) for type, process in zip(types, held, strict=True)}
            handle = nsapi.open(held[2], "ipc")
            targets = dict(
                zip(types, (held[0], held[1].pid, handle, f"/proc/{held[3].pid}/ns/cgroup", held[4]), strict=True)
            )
            for order in (types, types[::-1]):
                found = inside(Config.new(**{type: targets[type] for type in order}))
                answers.append({type: found[type] for type in types} == wanted)
            # Some of one process, named, and one of another.
            found = inside(Config.join(held[0], "net", "uts", ipc=held[1]))
            answers.append([found[type] == ns(type, held[0].pid) for type in ("net", "uts")])
            answers.append(found["ipc"] == ns("ipc", held[1].pid))
            handle.close()
        return answers

    assert anyone(body) == [True, True, [True, True], True]


def test_a_program_that_joins_another_program_of_ours(anyone: Runner) -> None:
    """A Popen of nsapi is a target as any other, by its pidfd; once it is waited for, it is refused."""

    def body() -> list[object]:
        become_root()
        with talking("echo ready; read _", Config.new("uts", "net", hostname="first")) as first:
            found = out(["uname", "-n"], Config.join(first, "uts", "net"))
        answer = failure(lambda: inside(Config.new(uts=first)))
        return [found, answer["errno"]]

    assert anyone(body) == ["first\n", errno.ESRCH]


def test_a_join_that_cannot_be_is_refused_before_anything_starts(anyone: Runner) -> None:
    """Missing, dead, no namespace, of another type, closed: the error of nsapi.open, and nothing is left."""

    def body(root: bool) -> dict[str, object]:
        dead = subprocess.Popen(["true"])
        dead.wait()
        closed = nsapi.current("net")
        config = Config.new(net=closed)
        closed.close()
        before = everything()
        answers = {
            "missing path": failure(lambda: inside(Config.new(net="/nowhere/net")))["errno"],
            "missing name": failure(lambda: inside(Config.new(net=f"missing-{os.getpid()}")))["errno"],
            "dead process": failure(lambda: inside(Config.new(net=dead)))["errno"],
            "dead pid": failure(lambda: inside(Config.join(dead.pid)))["errno"],
            "plain file": failure(lambda: inside(Config.new(net="/proc/self/status")))["errno"],
            "another type": failure(lambda: inside(Config.new(net="/proc/self/ns/uts")))["errno"],
            "closed since": failure(lambda: inside(config))["classes"][0],  # type: ignore[index]
        }
        return {**answers, "unchanged": everything() == before}

    assert anyone(body, anyone.name == "root") == {
        "missing path": errno.ENOENT,
        "missing name": errno.ENOENT,
        "dead process": errno.ESRCH,
        "dead pid": errno.ESRCH,
        "plain file": errno.EINVAL,
        "another type": errno.EINVAL,
        "closed since": "ValueError",
        "unchanged": True,
    }


# ---- both mixed ----


def test_some_are_joined_and_others_created(anyone: Runner) -> None:
    """Every mixture of the five that can be joined, with and without a new user namespace, with new time and pid."""

    def body() -> dict[str, object]:
        from itertools import product

        become_root()
        here, wrong, asked = all_ns(), [], 0
        with unshared("--net", "--uts", "--ipc", "--cgroup", "--mount") as process:
            there = all_ns(process.pid)
            for number, choice in enumerate(product("-cj", repeat=5)):
                for new_user in (False, True):
                    chosen = dict(zip(("net", "uts", "ipc", "cgroup", "mnt"), choice, strict=True))
                    joins = [type for type, what in chosen.items() if what == "j"]
                    created = {type for type, what in chosen.items() if what == "c"}
                    created |= {"user"} if new_user else set()
                    created |= {"time"} if number % 2 else set()
                    created |= {"pid"} if number % 3 and not (new_user and joins) else set()
                    if new_user and number % 4:
                        continue  # a quarter of them is enough
                    config = Config.new(*created, **dict.fromkeys(joins, process))
                    found = inside(config)
                    asked += 1
                    new = {type for type in TYPES if found[type] not in (here[type], there[type])}
                    joined = [type for type in chosen if found[type] == there[type]]
                    if new != created or joined != joins:
                        wrong.append([joins, sorted(created), found])
        return {"wrong": wrong, "asked": asked}

    assert anyone(body) == {"wrong": [], "asked": 243 + 61}


def test_what_is_joined_stays_its_owners(anyone: Runner) -> None:
    """A new user namespace owns what is made with it, and has no power over what is joined."""

    def body() -> dict[str, object]:
        become_root()
        host = nsapi.current("user")
        with unshared("--net") as other:
            config = Config.new("user", "uts", net=other)
            script = "hostname renamed; ip link set lo up 2>/dev/null; echo $? >&2; echo ready; read _"
            with talking(script, config, stderr=subprocess.PIPE) as process:
                user = nsapi.open(process, "user")
                uts, net = nsapi.open(process, "uts"), nsapi.open(process, "net")
                owners = [uts.owner == user, net.owner == host]
                assert process.stderr is not None
                may_not = process.stderr.readline() != "0\n"
            for handle in (host, user, uts, net):
                handle.close()
        return {"owners": owners, "may_not": may_not}

    assert anyone(body) == {"owners": [True, True], "may_not": True}


def test_a_joined_namespace_is_set_up_before_power_over_it_is_given_away(anyone: Runner) -> None:
    """Host name, domain name and loopback of joined namespaces are set also where a new user namespace is made."""

    def body() -> list[str]:
        become_root()
        script = "uname -n; cat /proc/sys/kernel/domainname; cat /sys/class/net/lo/flags; id -u"
        with unshared("--net", "--uts", "--mount") as process:
            subprocess.run(
                ["nsenter", "-t", str(process.pid), "-m", "-n", "mount", "-t", "sysfs", "none", "/sys"], check=True
            )
            fields: dict[str, Any] = {"hostname": "inner", "domainname": "domain", "loopback": True}
            config = Config.new("user", uts=process, net=process, mnt=process, **fields)
            return out(["sh", "-c", script], config).split()

    assert anyone(body) == ["inner", "domain", "0x9", "0"]


# ---- id maps ----

MAPS: dict[str, tuple[dict[str, Any], list[str]]] = {
    # fields -> uid_map, gid_map, setgroups and `id -u` inside; U and G are the caller's ids
    "none: as unshare -r": ({}, ["0 U 1", "0 G 1", "deny", "0"]),
    "explicit root": ({"uid_mappings": [[0, "U", 1]], "gid_mappings": [[0, "G", 1]]}, ["0 U 1", "0 G 1", "deny", "0"]),
    "as oneself": ({"uid_mappings": [["U", "U", 1]], "gid_mappings": [["G", "G", 1]]}, ["U U 1", "G G 1", "deny", "U"]),
    "as another": (
        {"uid_mappings": [[77, "U", 1]], "gid_mappings": [[78, "G", 1]]},
        ["77 U 1", "78 G 1", "deny", "77"],
    ),
    "as text": ({"uid_mappings": "77:U:1", "gid_mappings": "78:G:1"}, ["77 U 1", "78 G 1", "deny", "77"]),
    "unmapped": ({"uid_mappings": [], "gid_mappings": []}, ["", "", "allow", "65534"]),
    "unmapped, denied": ({"uid_mappings": [], "gid_mappings": [], "setgroups": "deny"}, ["", "", "deny", "65534"]),
    "uid only": ({"uid_mappings": "0:U:1", "gid_mappings": []}, ["0 U 1", "", "allow", "0"]),
    "gid only": ({"uid_mappings": [], "gid_mappings": "0:G:1"}, ["", "0 G 1", "deny", "65534"]),
    "denied": ({"setgroups": "deny"}, ["0 U 1", "0 G 1", "deny", "0"]),
}


@pytest.mark.parametrize("carried", ["clone", "unshare"])
def test_a_map_of_a_single_id_is_written_by_the_child(anyone: Runner, carried: str) -> None:
    """The maps and setgroups are what was asked for, whoever asked and however the namespace comes to be."""

    def body(maps: dict[str, Any], carried: str) -> dict[str, list[str]]:
        ids = {"U": os.geteuid(), "G": os.getegid()}
        files = [f"/proc/self/{name}" for name in ("uid_map", "gid_map", "setgroups")]
        code = f"print(*([' '.join(open(name).read().split()) for name in {files}] + [__import__('os').getuid()]), sep=',')"
        if carried == "unshare":
            become_root()  # only who has power over something can join it
            ids = {"U": 0, "G": 0}
        found = {}
        with unshared(*([] if carried == "clone" else ["--uts"])) as process:
            for name, (fields, _) in maps.items():
                text = json.dumps(fields)
                for letter, id in ids.items():
                    text = text.replace(f'"{letter}"', str(id)).replace(f":{letter}:", f":{id}:")
                config = Config.new("user", **json.loads(text), **({} if carried == "clone" else {"uts": process}))
                found[name] = out([*PYTHON, code], config).strip().split(",")
        return found

    is_root = anyone.name == "root" or carried == "unshare"
    ids = {"U": "0", "G": "0"} if is_root else {"U": str(USER), "G": str(USER)}
    if not is_root and os.geteuid() != 0:
        ids = {"U": str(os.geteuid()), "G": str(os.getegid())}
    expected = {
        name: [" ".join(ids.get(word, word) for word in line.split()) for line in lines]
        for name, (_, lines) in MAPS.items()
    }
    if carried == "unshare" and anyone.name == "user":  # what is denied outside stays denied inside
        expected = {name: ["deny" if line == "allow" else line for line in lines] for name, lines in expected.items()}
    assert anyone(body, MAPS, carried) == expected


def test_denied_setgroups_is_refused_inside(anyone: Runner) -> None:
    """With a single id, setgroups(2) is EPERM for root inside, also where root has started it."""

    def body() -> str:
        code = "import os\ntry: os.setgroups([])\nexcept OSError as error: print(error.errno)"
        return out([*PYTHON, code], Config.new("user"))

    assert anyone(body) == f"{errno.EPERM}\n"


# ---- uts ----

NAMES = {"short": "a", "plain": "host.example", "longest": "n" * 64, "not ASCII": "ψ" * 32}


def test_host_name_and_domain_name_are_set(anyone: Runner) -> None:
    """One, the other or both, up to 64 bytes; the caller's stay, and so does the one that is not given."""

    def body(names: dict[str, str]) -> dict[str, object]:
        wrong = []
        host, domain = os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text().strip()
        code = "print(open('/proc/sys/kernel/hostname').read() + open('/proc/sys/kernel/domainname').read(), end='')"
        for name, text in names.items():
            for fields in ({"hostname": text}, {"domainname": text}, {"hostname": text, "domainname": text[::-1]}):
                found = out(
                    [*PYTHON, code], Config.new(*own("uts"), **fields), env={"PYTHONUTF8": "1"}, encoding="utf-8"
                )
                if found.splitlines() != [fields.get("hostname", host), fields.get("domainname", domain)]:
                    wrong.append([name, fields, found])
        same = [host, domain] == [os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text().strip()]
        return {"wrong": wrong, "same": same}

    assert anyone(body, NAMES) == {"wrong": [], "same": True}


def test_a_joined_uts_namespace_is_renamed_for_all_who_are_in_it(anyone: Runner) -> None:
    """hostname with a joined namespace is that namespace's from then on, and not the caller's."""

    def body() -> list[object]:
        become_root()
        mine = os.uname().nodename
        with unshared("--uts") as process:
            out(["true"], Config.new(uts=process, hostname="joined", domainname="there"))
            found = out(["sh", "-c", "uname -n; cat /proc/sys/kernel/domainname"], Config.new(uts=process))
        return [found.split(), os.uname().nodename == mine]

    assert anyone(body) == [["joined", "there"], True]


# ---- net ----

#: Connects to itself on both loopback addresses: "x" where that works.
CONNECT = """
import socket
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    try:
        with socket.create_server((address, 0), family=family) as server, socket.socket(family) as client:
            client.connect(server.getsockname())
            client.sendall(b"x")
            print(server.accept()[0].recv(1).decode(), end="")
    except OSError:
        print("-", end="")
"""


@pytest.mark.parametrize("how", ["created", "joined"])
def test_loopback_answers(anyone: Runner, how: str) -> None:
    """With loopback=True a server on 127.0.0.1 and ::1 is reached inside; without it nothing is."""

    def body(how: str, code: str) -> list[str]:
        argv, answers = [*PYTHON, code], []
        if how == "created":
            for loopback in (False, True, False):
                answers.append(out(argv, Config.new(*own("net"), loopback=loopback)))
        else:
            become_root()
            with unshared("--net") as process:
                for loopback in (False, True, False):  # it stays up
                    answers.append(out(argv, Config.new(net=process, loopback=loopback)))
        return answers

    expected = ["--", "xx", "--" if how == "created" else "xx"]
    if not Path("/proc/net/if_inet6").exists():
        expected = [answer.replace("xx", "x-") for answer in expected]
    assert anyone(body, how, CONNECT) == expected


# ---- pid and /proc ----


def test_a_new_pid_namespace_has_its_own_proc(anyone: Runner) -> None:
    """With a new mnt namespace too, pid 1 sees itself and nobody else, and no stranger's mount table is changed."""

    def body() -> dict[str, object]:
        mounts = Path("/proc/self/mountinfo").read_text()
        script = (
            "echo $$; readlink /proc/self; cd /proc; echo [0-9]*; cat /proc/1/comm; grep -c ' /proc ' self/mountinfo"
        )
        pid, self, numbers, comm, count = out(["sh", "-c", script], Config.new(*own("pid", "mnt"))).splitlines()
        options = out(["sh", "-c", "grep ' /proc ' /proc/self/mountinfo | tail -n1"], Config.new(*own("pid", "mnt")))
        return {
            "pid": pid,
            "self": int(self) > 1,  # readlink's own
            "sees": numbers,
            "comm": comm,
            "one more": int(count) - mounts.count(" /proc "),
            "options": [word for word in ("nosuid", "nodev", "noexec") if word in options],
            "outside": mounts == Path("/proc/self/mountinfo").read_text(),
        }

    assert anyone(body) == {
        "pid": "1",
        "self": True,
        "sees": "1",
        "comm": "sh",
        "one more": 1,
        "options": ["nosuid", "nodev", "noexec"],
        "outside": True,
    }


OLD_PROC: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "mounts=[]": (("pid", "mnt"), {"mounts": []}),
    "pid alone": (("pid",), {}),
    "mnt alone": (("mnt",), {}),
}


@pytest.mark.parametrize("way", OLD_PROC)
def test_the_old_proc_is_kept(anyone: Runner, way: str) -> None:
    """By mounts=[], or where one of the two is not new, /proc shows what the caller sees: his own process too."""

    def body(types: tuple[str, ...], fields: dict[str, Any]) -> object:
        script = "echo $$; cat /proc/$1/stat; grep -c ' /proc ' /proc/self/mountinfo"
        pid, *stat, count = out(
            ["sh", "-c", script, "sh", str(os.getpid())], Config.new(*own(*types), **fields)
        ).split()
        return [pid == "1", stat[0] == str(os.getpid()), int(count) == mounted("/proc")]

    types, fields = OLD_PROC[way]
    assert anyone(body, types, fields) == ["pid" in types, True, True]


# ---- mnt ----

PROPAGATION = {
    # propagation -> a mount made inside is seen outside, one made outside is seen inside; in a new user namespace
    None: ((False, False), (False, False)),
    "private": ((False, False), (False, False)),
    "slave": ((False, True), (False, True)),
    "shared": ((True, True), (False, True)),
    "unchanged": ((True, True), (False, True)),  # the kernel makes slaves of shared ones then
}


@pytest.mark.parametrize("new_user", [False, True], ids=["same user", "new user"])
def test_mounts_propagate_as_said(anyone: Runner, readable_tmp: Path, new_user: bool) -> None:
    """private (the default), slave, shared or unchanged: shown by mounts that are made after the start."""

    def body(folder: str, ways: list[str | None], new_user: bool) -> list[object]:
        become_root()
        nsapi.unshare("mnt")
        mount("--make-rprivate", "/")
        mount("-t", "tmpfs", "none", folder)
        mount("--make-shared", folder)
        os.mkdir(f"{folder}/in")
        os.mkdir(f"{folder}/out")
        script = 'mount -t tmpfs none "$1/in" && echo ready && read _ && grep -c " $1/out " /proc/self/mountinfo'
        found: list[object] = []
        for way in ways:
            config = Config.new("mnt", *(["user"] if new_user else []), propagation=way)
            with talking(script, config, folder) as process:
                inside_is_seen = bool(mounted(f"{folder}/in"))
                mount("-t", "tmpfs", "none", f"{folder}/out")
                found.append([inside_is_seen, process.communicate("\n")[0] == "1\n"])
            for name in ("in", "out"):
                while mounted(f"{folder}/{name}"):
                    subprocess.run(["umount", f"{folder}/{name}"], check=True)
        return found

    expected = [list(row[new_user]) for row in PROPAGATION.values()]
    assert anyone(body, str(readable_tmp), list(PROPAGATION), new_user) == expected


@pytest.mark.parametrize("propagation", PROPAGATION)
def test_the_fresh_proc_is_never_seen_outside(anyone: Runner, propagation: str | None) -> None:
    """Where /proc is a shared mount, the new one still does not cover the caller's."""

    def body(propagation: str | None) -> list[object]:
        become_root()
        nsapi.unshare("mnt")
        mount("--make-rshared", "/")
        before = mounted("/proc")
        with talking(
            "readlink /proc/self >&2; echo ready; read _",
            Config.new("pid", "mnt", propagation=propagation),
            stderr=subprocess.DEVNULL,
        ):
            return [before, mounted("/proc"), os.readlink("/proc/self") == str(os.getpid())]

    before, meanwhile, right = anyone(body, propagation)
    assert (meanwhile, right) == (before, True)


# ---- time ----

OFFSETS: dict[str, dict[str, Any]] = {
    "boottime": {"boottime": 3600},
    "monotonic": {"monotonic": 86400},
    "both": {"monotonic": 5, "boottime": 7},
    "negative": {"monotonic": -1, "boottime": -2},
    "fraction": {"boottime": 1000.25, "monotonic": -0.5},
    "nanoseconds": {"boottime": (1, 1), "monotonic": (-1, 999_999_999)},
    "zero": {"boottime": 0},
    "none": {},
}
CLOCKS = """
import time
print(time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_BOOTTIME))
print(open("/proc/uptime").read().split()[0].replace(".", ""))
print(open("/proc/self/timens_offsets").read())
"""
SPLIT = {1000.25: (1000, 250_000_000), -0.5: (-1, 500_000_000)}


@pytest.mark.parametrize("way", OFFSETS)
def test_clocks_are_set_off(anyone: Runner, way: str) -> None:
    """Both clocks and /proc/uptime inside lie between two readings outside, plus the offset, to the nanosecond."""

    def body(offsets: dict[str, Any], code: str) -> list[list[int]]:
        offsets = {clock: tuple(each) if isinstance(each, list) else each for clock, each in offsets.items()}
        clocks = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
        before = [time.clock_gettime_ns(clock) for clock in clocks]
        found = out([*PYTHON, code], Config.new(*own("time"), time_offsets=offsets)).split()
        after = [time.clock_gettime_ns(clock) for clock in clocks]
        assert found[3::3] == ["monotonic", "boottime"]
        monotonic, boottime, uptime, seconds, nanoseconds, more, nanos = map(int, (*found[:3], *found[4:6], *found[7:]))
        return [before, [monotonic, boottime, uptime], after, [seconds, nanoseconds], [more, nanos]]

    given = OFFSETS[way]
    pairs = [SPLIT.get(given.get(clock, 0)) or given.get(clock, 0) for clock in ("monotonic", "boottime")]
    pairs = [pair if isinstance(pair, tuple) else (pair, 0) for pair in pairs]
    before, (*clocks, uptime), after, *written = anyone(body, given, CLOCKS)
    assert written == [list(pair) for pair in pairs]
    for low, clock, high, (seconds, nanoseconds) in zip(before, clocks, after, pairs, strict=True):
        offset = seconds * 10**9 + nanoseconds
        assert low + offset <= clock <= high + offset
    assert (before[1] + offset) // 10**7 <= uptime <= (after[1] + offset) // 10**7


# ---- cgroup ----


@pytest.mark.parametrize("old_clone", [False, True], ids=["clone3", "clone"])
def test_a_program_starts_in_its_cgroup(root: Runner, cgroup2: str, old_clone: bool) -> None:
    """By path or fd, and for every combination with new namespaces; a new cgroup namespace has it as its root."""

    def body(cgroup: str, old_clone: bool) -> dict[str, object]:
        name = cgroup.rsplit("/", 1)[1]
        if old_clone:
            answer_enosys(("clone3", None))
        opened = [os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY), os.open(cgroup, os.O_PATH)]
        mine, before, wrong, asked = Path("/proc/self/cgroup").read_text(), fds(), [], 0
        script = "grep ^0: /proc/self/cgroup; echo ready; read _"
        for form in (cgroup, Path(cgroup), *opened):
            for types in ((), ("uts",), ("cgroup",), ("user",), ("user", "cgroup", "mnt", "pid", "time"), TYPES):
                config = Config.new(*types, cgroup_path=form)
                argv = ["sh", "-c", script]
                with nsapi.Popen(
                    argv, config=config, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                ) as process:
                    assert process.stdout is not None
                    seen = process.stdout.readline().strip()
                    assert process.stdout.readline() == "ready\n"
                    there = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
                    members = Path(f"{cgroup}/cgroup.procs").read_text().split()
                    process.communicate("\n")
                asked += 1
                expected = "0::/" if "cgroup" in types else f"0::/{name}"
                if seen != expected or members != [str(process.pid)] or not any(line.endswith(name) for line in there):
                    wrong.append([str(form), types, seen, there, members])
        answer = {"wrong": wrong, "asked": asked, "fds": fds() == before}
        for fd in opened:
            os.close(fd)
        return {**answer, "stayed": Path("/proc/self/cgroup").read_text() == mine}

    assert root(body, cgroup2, old_clone) == {"wrong": [], "asked": 24, "fds": True, "stayed": True}


def test_a_cgroup_together_with_a_join(root: Runner, cgroup2: str) -> None:
    """The program is in the cgroup also where namespaces are joined, and a new cgroup namespace is rooted there."""

    def body(cgroup: str) -> list[str]:
        with unshared("--net") as process:
            config = Config.new("user", "cgroup", net=process, cgroup_path=cgroup)
            return out(["grep", "^0:", "/proc/self/cgroup"], config).split()

    assert root(body, cgroup2) == ["0::/"]


def test_a_user_starts_programs_in_a_cgroup_that_is_his(root: Runner, cgroup2: str) -> None:
    """As the kernel has it: from one cgroup below what he was given to another; elsewhere EACCES, and nothing starts."""

    def body(cgroup: str, user: int) -> list[object]:
        for name in ("here", "there"):
            os.mkdir(f"{cgroup}/{name}")
        for folder in (cgroup, f"{cgroup}/here", f"{cgroup}/there"):
            os.chown(f"{folder}/cgroup.procs", user, user)
        Path(f"{cgroup}/here/cgroup.procs").write_text("0")
        out(["true"], Config.new("uts"))  # it and the next load what this user may not be able to read
        everything()
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        found = out(["grep", "^0:", "/proc/self/cgroup"], Config.new(cgroup_path=f"{cgroup}/there")).strip()
        before = everything()
        answer = failure(lambda: out(["true"], Config.new(cgroup_path=os.path.dirname(cgroup))))
        return [
            found.removesuffix(f"{cgroup.rsplit('/', 1)[1]}/there"),
            answer["errno"],
            answer["step"],
            everything() == before,
        ]

    assert root(body, cgroup2, USER) == ["0::/", errno.EACCES, "clone", True]


def test_what_is_no_cgroup2_directory_is_refused_by_name(anyone: Runner, readable_tmp: Path) -> None:
    """A v1 directory is told apart, and so is one of something else, a missing one, a file, and an fd that is closed."""

    def body(folder: str) -> dict[str, object]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        v1 = [line.split()[4] for line in lines if " - cgroup " in line]
        Path(f"{folder}/file").touch()
        before = everything()
        paths = {"other": folder, "missing": f"{folder}/missing", "file": f"{folder}/file", "closed": 987}
        paths |= {"v1": v1[0]} if v1 else {}
        answers: dict[str, object] = {
            name: failure(lambda path=path: out(["true"], Config.new(cgroup_path=path)))  # type: ignore[misc]
            for name, path in paths.items()
        }
        return {**answers, "unchanged": everything() == before}

    answers = anyone(body, str(readable_tmp))
    assert answers["unchanged"]
    errnos = {"other": errno.EINVAL, "missing": errno.ENOENT, "file": errno.ENOTDIR, "closed": errno.EBADF}
    assert {name: answers[name]["errno"] for name in errnos} == errnos
    assert answers["other"]["path"] == str(readable_tmp)
    assert "no cgroup2 directory" in answers["other"]["text"]
    if "v1" not in answers:
        pytest.skip("needs a host with cgroup v1 for the rest")
    assert answers["v1"]["errno"] == errno.EINVAL
    assert "cgroup v1" in answers["v1"]["text"]
    assert answers["v1"]["path"] in answers["v1"]["text"]


# ---- the process ----


def test_oom_score_adj_is_the_programs_alone(anyone: Runner) -> None:
    """Raised inside, in every kind of namespace; the caller, whose memory the child shared, keeps his own."""

    def body() -> list[object]:
        mine = Path("/proc/self/oom_score_adj").read_text()
        argv, found = ["cat", "/proc/self/oom_score_adj"], []
        for types in (own("uts"), ("user", "pid", "mnt"), TYPES):
            for score in (int(mine), int(mine) + 1, 1000):
                found.append(out(argv, Config.new(*types, oom_score_adj=score)) == f"{score}\n")
        return [*found, Path("/proc/self/oom_score_adj").read_text() == mine]

    assert anyone(body) == [True] * 10


def test_no_new_privs_is_set_only_where_asked(anyone: Runner) -> None:
    """The bit of prctl(2), for the program; not for the caller."""

    def body() -> list[str]:
        found = [status_inside(Config.new(*own("uts"), no_new_privs=flag))["NoNewPrivs"] for flag in (False, True)]
        return [*found, status("NoNewPrivs")]

    assert anyone(body) == ["0", "1", "0"]


def test_every_rlimit_is_set(anyone: Runner) -> None:
    """Each by its name, (soft, hard) or one for both, and -1 for none; the others and the caller's stay."""

    def body(names: list[str]) -> dict[str, object]:
        import resource

        # What no program can start under is left out of the smallest: it needs a stack, files and memory.
        enough = {"RLIMIT_AS": 2**32, "RLIMIT_DATA": 2**31, "RLIMIT_NPROC": 10**4, "RLIMIT_STACK": 2**20}
        mine = {name: resource.getrlimit(getattr(resource, name)) for name in names}
        code = "import resource; print(*resource.getrlimit({}))"
        wrong, given = [], {}
        for name, (soft, hard) in mine.items():
            most = enough.get(name, 77) if hard == -1 else min(hard, enough.get(name, 77))
            for limit in ((most, hard), most, (most - 1 if most else 0, most), (soft, hard)):
                expected = list(limit) if isinstance(limit, tuple) else [limit, limit]
                config = Config.new(*own("uts"), rlimits={name: limit})
                found = out([*PYTHON, code.format(getattr(resource, name))], config).split()
                if list(map(int, found)) != expected:
                    wrong.append([name, limit, found])
            given[name] = (most, most)
        code = f"import resource; print(*[resource.getrlimit(getattr(resource, name)) == {given}[name] for name in {names}])"
        at_once = out([*PYTHON, code], Config.new(*own("uts"), rlimits=given)).split()
        same = mine == {name: resource.getrlimit(getattr(resource, name)) for name in names}
        return {"wrong": wrong, "at once": at_once.count("True"), "same": same}

    names = [name for name in RLIMITS if hasattr(resource, name)]
    assert anyone(body, names) == {"wrong": [], "at once": len(names), "same": True}


# ---- capabilities ----

SETS = ("inheritable", "permitted", "effective", "bounding", "ambient")  # as in /proc/PID/status
_TWO = ["CAP_KILL", "CAP_CHOWN"]
_ALL_FIVE = dict.fromkeys(SETS, _TWO)
ZERO, TWO = "0" * 16, "0" * 14 + "21"

#: fields -> the five sets inside, as uid 0 inside and as another
CAPABILITY_CASES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "none at all": ({"capabilities": {}}, [ZERO] * 5, [ZERO] * 5),
    "all five sets": ({"capabilities": _ALL_FIVE}, [TWO] * 5, [TWO] * 5),
    # exec makes permitted anew: for uid 0 of the bounding set, for others of the ambient one; capabilities(7)
    "without ambient": (
        {"capabilities": {**_ALL_FIVE, "ambient": []}},
        [TWO, TWO, TWO, TWO, ZERO],
        [TWO, ZERO, ZERO, TWO, ZERO],
    ),
    "without inheritable": (
        {"capabilities": {**_ALL_FIVE, "ambient": [], "inheritable": []}},
        [ZERO, TWO, TWO, TWO, ZERO],
        [ZERO, ZERO, ZERO, TWO, ZERO],
    ),
    "no_new_privs": (
        {"capabilities": {"bounding": _TWO}, "no_new_privs": True},
        [ZERO, ZERO, ZERO, TWO, ZERO],
        [ZERO, ZERO, ZERO, TWO, ZERO],
    ),
}


@pytest.mark.parametrize(
    ("who", "inside_as"),
    [("root", "itself"), ("root", "root"), ("root", "another"), ("user", "root"), ("user", "another")],
)
def test_the_program_has_the_capabilities_it_was_given(
    request: pytest.FixtureRequest, who: str, inside_as: str
) -> None:
    """All five sets, as the program finds them in /proc/self/status: ambient ones are kept by exec."""

    def body(cases: dict[str, dict[str, Any]], inside_as: str) -> dict[str, object]:
        names = [f"Cap{name}" for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
        mine = [status(name) for name in names]
        types = ["uts"] if inside_as == "itself" else ["user"]
        maps: dict[str, Any] = {}
        if inside_as == "another":
            maps = {"uid_mappings": f"77:{os.getuid()}:1", "gid_mappings": f"77:{os.getgid()}:1"}
        found = {}
        for name, fields in cases.items():
            there = status_inside(Config.new(*types, **fields, **maps))
            found[name] = [there[each] for each in names]
        return {"found": found, "same": mine == [status(name) for name in names]}

    cases = {name: fields for name, (fields, _, _) in CAPABILITY_CASES.items()}
    expected = {name: row[1 + (inside_as == "another")] for name, row in CAPABILITY_CASES.items()}
    assert request.getfixturevalue(who)(body, cases, inside_as) == {"found": expected, "same": True}


REGAINED: dict[str, dict[str, Any]] = {
    "bounding alone": {"capabilities": {"bounding": _TWO}},
    "permitted is less": {"capabilities": {"bounding": _TWO, "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]}},
    "effective is less": {"capabilities": {"bounding": _TWO, "permitted": _TWO, "effective": ["CAP_KILL"]}},
    "effective is left out": {"capabilities": {"bounding": _TWO, "permitted": _TWO}},
    "effective is left out, no_new_privs": {
        "capabilities": {"bounding": _TWO, "permitted": _TWO},
        "no_new_privs": True,
    },
    "as another, ambient is more than effective": {"capabilities": {**_ALL_FIVE, "effective": []}},
}


@pytest.mark.parametrize("case", REGAINED)
def test_a_program_never_has_more_capabilities_than_it_was_given(anyone: Runner, case: str) -> None:
    """Where exec would give back what a set leaves out, nothing is started; a set left out is empty."""

    def body(fields: dict[str, Any], another: bool) -> dict[str, object]:
        if another:
            fields |= {"uid_mappings": f"77:{os.getuid()}:1", "gid_mappings": f"77:{os.getgid()}:1"}
        config = Config.new(*(["user"] if another else own("uts")), **fields)
        return failure(lambda: status_inside(config))

    answer = anyone(body, REGAINED[case], case.startswith("as another"))
    assert answer, "it was started, and exec has given it what it should not have"
    assert "ValueError" in answer["classes"]
    assert answer["text"].startswith("capabilities: ")


# ---- parent_death_signal ----

DEATHS: dict[str, tuple[tuple[str, ...], int]] = {
    "SIGTERM": (("uts",), signal.SIGTERM),
    "a real-time signal": (("uts",), signal.SIGRTMIN + 3),
    "SIGKILL": (("uts",), signal.SIGKILL),
    "SIGKILL for pid 1": (("pid", "mnt"), signal.SIGKILL),
    "in a user namespace": (("user",), signal.SIGTERM),
}


MORTAL = """
import nsapi, sys
config = nsapi.Config.new(*sys.argv[2:], parent_death_signal=int(sys.argv[1]), no_new_privs=True)
child = nsapi.Popen(["sleep", "1000"], config=config)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("way", DEATHS)
def test_a_program_dies_with_the_process_that_started_it(anyone: Runner, way: str) -> None:
    """By the signal that was asked for, when that process is killed and can do nothing about it."""

    def body(types: tuple[str, ...], number: int, code: str) -> object:
        assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: orphans become ours
        argv = [sys.executable, "-c", code, str(number), *own(*types)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            alive = os.waitpid(parent.pid, os.WNOHANG) == (0, 0) and os.path.exists(f"/proc/{child}")
            parent.kill()
        return [alive, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]

    types, number = DEATHS[way]
    assert anyone(body, types, number, MORTAL) == [True, -number]


#: The same by a root that has dropped its capabilities: exec gives them back, and with that takes the signal away.
REGAINING = MORTAL.replace("child =", "sys.path.insert(0, '')\nfrom inside import *\ndrop_all_capabilities()\nchild =")


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_a_death_signal_is_not_lost_by_exec(root: Runner, no_new_privs: bool) -> None:
    """prctl(2): it is cleared where exec gives capabilities. Then the program is not started, and the remedy is named."""

    def body(code: str, no_new_privs: bool) -> list[object]:
        assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: orphans become ours
        code = code if no_new_privs else code.replace("no_new_privs=True", "")
        argv, pipe = [sys.executable, "-c", code, str(int(signal.SIGKILL))], subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as parent:
            assert parent.stdout is not None
            assert parent.stderr is not None
            line = parent.stdout.readline()
            if not line:
                return ["refused", parent.stderr.read()]
            parent.kill()
        child = int(line)
        os.kill(child, signal.SIGTERM)  # comes second, if the other has come
        return ["started", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]

    how, what = root(body, REGAINING, no_new_privs)
    if no_new_privs:
        assert (how, what) == ("started", -signal.SIGKILL)
    else:
        assert (how, "no_new_privs" in str(what)) == ("refused", True)


def test_it_lives_on_while_a_thread_ends(anyone: Runner) -> None:
    """The kernel ties the signal to the thread, so only the main thread may ask; others' ends do no harm."""

    def body() -> list[object]:
        config = Config.new(*own("uts"), parent_death_signal=signal.SIGKILL)
        answers: list[object] = []
        thread = threading.Thread(target=lambda: answers.append(failure(lambda: out(["true"], config))))
        thread.start()
        thread.join()
        with talking("echo ready; read line; echo $line", config) as process:
            for _ in range(3):
                thread = threading.Thread(target=out, args=(["true"], Config.new(*own("uts"))))
                thread.start()
                thread.join()
            answers.append(process.communicate("alive\n")[0])
        return answers

    refusal, alive = anyone(body)
    assert "ValueError" in refusal["classes"]
    assert refusal["text"].startswith("parent_death_signal: ")
    assert "init=True" in refusal["text"]
    assert alive == "alive\n"


# ---- resolved inside ----

#: In a mnt namespace of its own: a tmpfs over the folder given, with a program and a directory that nobody else sees.
FURNISH = """
mount -t tmpfs none "$0" && mkdir "$0/bin" "$0/both" "$0/only-inside" && cd "$0/only-inside" &&
printf '#!/bin/sh\\necho hello from "$(pwd)"\\n' > "$0/bin/greet" && chmod 755 "$0/bin/greet" &&
ln -s ../bin/greet here && echo ready && exec sleep 1000
"""


def test_path_and_cwd_are_looked_up_inside(anyone: Runner, readable_tmp: Path) -> None:
    """A program, its directory and the caller's own are those of the mnt namespace that is joined."""

    def body(folder: str, script: str) -> dict[str, object]:
        become_root()
        for name in ("both", "only-outside", "outside-bin"):
            os.mkdir(f"{folder}/{name}")
        Path(f"{folder}/outside-bin/outsider").write_text("#!/bin/sh\necho outside\n")
        os.chmod(f"{folder}/outside-bin/outsider", 0o755)
        env = {**os.environ, "PATH": f"{folder}/bin:{folder}/outside-bin:/usr/bin:/bin"}
        found: dict[str, object] = {}
        with ready("unshare", "--mount", "sh", "-c", script, folder) as process:
            config = Config.new(mnt=process)
            os.chdir(f"{folder}/both")
            found["program on PATH"] = out(["greet"], config, env=env)
            found["cwd kept"] = out(["pwd", "-P"], config)
            found["same name, other directory"] = int(out(["stat", "-c", "%d", "."], config)) != os.stat(".").st_dev
            os.chdir(f"{folder}/only-outside")
            found["cwd not there"] = out(["pwd", "-P"], config)
            found["cwd given"] = out(["pwd", "-P"], config, cwd=f"{folder}/only-inside")
            found["program in cwd"] = out(["./here"], config, cwd=f"{folder}/only-inside")
            found["executable"] = out(["x"], config, executable=f"{folder}/bin/greet")
            missing = failure(lambda: out(["outsider"], config, env=env))
            found["program only outside"] = [missing["errno"], missing["step"], missing["path"]]
            missing = failure(lambda: out(["true"], config, cwd=f"{folder}/only-outside"))
            found["cwd only outside"] = [missing["errno"], missing["step"], missing["path"]]
            os.chdir(folder)
            os.rmdir(f"{folder}/only-outside")
            os.mkdir(f"{folder}/gone")
            os.chdir(f"{folder}/gone")
            os.rmdir(f"{folder}/gone")
            found["cwd removed"] = out(["pwd", "-P"], config)
            os.chdir("/")
            found["relative cwd"] = out(["pwd", "-P"], config, cwd=f"{folder}/only-inside"[1:])
        return {name: json.loads(json.dumps(each).replace(folder, "FOLDER")) for name, each in found.items()}

    assert anyone(body, str(readable_tmp), FURNISH) == {
        "program on PATH": "hello from FOLDER/both\n",
        "cwd kept": "FOLDER/both\n",
        "same name, other directory": True,
        "cwd not there": "/\n",
        "cwd given": "FOLDER/only-inside\n",
        "program in cwd": "hello from FOLDER/only-inside\n",
        "executable": "hello from /\n",
        "program only outside": [errno.ENOENT, "exec outsider", "outsider"],
        "cwd only outside": [errno.ENOENT, "chdir FOLDER/only-outside", "FOLDER/only-outside"],
        "cwd removed": "/\n",
        "relative cwd": "FOLDER/only-inside\n",
    }


def test_a_program_is_started_from_within_a_root_that_has_no_python(anyone: Runner) -> None:
    """In `enter(…, "mnt")` nothing of nsapi or of Python is looked for any more: it is not there, or a stranger's."""

    def body() -> list[object]:
        become_root()
        nsapi.unshare("mnt")
        config, library = (
            Config.new("uts", hostname="inner", rlimits={"RLIMIT_NOFILE": 99}),
            os.path.dirname(os.__file__),
        )
        with unshared("--mount") as process:
            for folder in (library, os.path.dirname(os.path.dirname(nsapi.__file__))):
                argv = ["nsenter", "-t", str(process.pid), "-m", "mount", "-t", "tmpfs", "none", folder]
                subprocess.run(argv, check=True)
            with nsapi.enter(process, "mnt"):
                seen = os.path.exists(nsapi.__file__) or os.path.exists(os.__file__)
                done = nsapi.run(["sh", "-c", "ulimit -n; exit 7"], config=config, stdout=subprocess.PIPE, timeout=60)
                failed = failure(lambda: nsapi.run(["/nowhere"], config=config))["errno"]
        return [seen, done.returncode, done.stdout.decode(), failed]

    assert anyone(body) == [False, 7, "99\n", errno.ENOENT]


def test_the_callers_directory_is_kept_in_new_namespaces(anyone: Runner, readable_tmp: Path) -> None:
    """Also one that only he may search, and one that has been removed: the program is there, not in "/"."""

    def body(folder: str) -> list[object]:
        os.mkdir(f"{folder}/mine", 0o700)
        os.chdir(f"{folder}/mine")
        found: list[object] = [out(["pwd", "-P"], Config.new(*types)) for types in (own("mnt"), TYPES)]
        os.rmdir(f"{folder}/mine")
        found.append(int(out(["stat", "-c", "%h", "."], Config.new(*TYPES))))
        return found

    mine = f"{readable_tmp}/mine\n"
    assert anyone(body, str(readable_tmp)) == [mine, mine, 0]


# ---- bad combinations ----

BAD: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    # what is created, fields, the field that the ValueError names first; C, U and the like are put in by the body
    "hostname": ((), {"hostname": "x"}, "hostname"),
    "domainname": (("net",), {"domainname": "x"}, "domainname"),
    "time_offsets": (("uts",), {"time_offsets": {"boottime": 1}}, "time_offsets"),
    "time_offsets, joined": ((), {"time": 1, "time_offsets": {"boottime": 1}}, "time_offsets"),
    "loopback": (("uts",), {"loopback": True}, "loopback"),
    "propagation": (("uts",), {"propagation": "slave"}, "propagation"),
    "propagation, joined": ((), {"mnt": 1, "propagation": "slave"}, "propagation"),
    "init": (("uts",), {"init": True}, "init"),
    "pdeathsig for pid 1": (("pid",), {"parent_death_signal": 15}, "parent_death_signal"),
    "maps without user": (("uts",), {"uid_mappings": "0:0:1", "gid_mappings": "0:0:1"}, "uid_mappings"),
    "setgroups without user": (("uts",), {"setgroups": "deny"}, "setgroups"),
    "one map": (("user",), {"uid_mappings": "0:0:1"}, "uid_mappings"),
    "overlap": (("user",), {"uid_mappings": "0:0:2,1:9:1", "gid_mappings": []}, "uid_mappings"),
    "effective": (("uts",), {"capabilities": {"effective": ["CAP_KILL"]}}, "capabilities"),
    "ambient": (("uts",), {"capabilities": {"ambient": ["CAP_KILL"], "permitted": ["CAP_KILL"]}}, "capabilities"),
    "inheritable": (("uts",), {"capabilities": {"inheritable": ["CAP_KILL"]}}, "capabilities"),
    "regained": (("user",), {"capabilities": {"bounding": ["CAP_KILL"], "permitted": []}}, "capabilities"),
    "regained, and a join": (
        ("user",),
        {"capabilities": {"bounding": _TWO, "permitted": []}, "net": 1},
        "capabilities",
    ),
    "thread": (("uts",), {"parent_death_signal": 9}, "parent_death_signal"),
    "thread, and a join": ((), {"net": "nowhere", "parent_death_signal": 9}, "parent_death_signal"),
}
#: System calls by which Python and the C library keep house, or the caller looks at himself; the rest would be too much.
HOUSEKEEPING = (
    *("mmap", "munmap", "mprotect", "madvise", "mremap", "brk", "futex", "rt_sigprocmask", "sched_yield"),
    *("getpid", "gettid", "geteuid", "getegid", "getcwd", "uname", "prctl(PR_GET_DUMPABLE)"),
)


def test_a_bad_combination_is_refused_before_any_system_call(anyone: Runner, readable_tmp: Path) -> None:
    """A ValueError that names the field; a trace shows that nothing has been asked of the kernel."""
    strace = tool("strace")

    def body(bad: dict[str, Any]) -> dict[str, object]:
        answers: dict[str, object] = {}
        for name, (types, fields, _) in bad.items():
            config = Config.new(*types, **fields)

            def call(config: Config = config, name: str = name) -> None:
                failure(lambda: nsapi.run(["true"], config=config))  # what is imported or looked up for the first time
                os.access(f"/begin {name}", os.F_OK)
                try:
                    nsapi.run(["true"], config=config)
                except ValueError as error:
                    answer: object = str(error)
                except Exception as error:
                    answer = repr(error)
                else:
                    answer = "it was started"
                os.access(f"/end {name}", os.F_OK)
                answers[name] = answer

            if name.startswith("thread"):
                thread = threading.Thread(target=call)
                thread.start()
                thread.join()
            else:
                call()
        return answers

    trace = readable_tmp / "trace"
    answers = anyone(body, BAD, under=(strace, "-f", "-qq", "-o", str(trace)))
    assert {name: answer.split(": ")[0].split(",")[0] for name, answer in answers.items()} == {
        name: field for name, (_, _, field) in BAD.items()
    }
    calls: dict[str, list[str]] = {}
    where: dict[str, str] = {}
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        pid, call = line.split(maxsplit=1)
        if '"/begin ' in call:
            where[pid] = call.split('"')[1].removeprefix("/begin ")
            calls[where[pid]] = []
        elif '"/end ' in call:
            del where[pid]
        elif pid in where and " resumed>" not in call and not call.startswith(HOUSEKEEPING):
            calls[where[pid]].append(call)
    assert calls == {name: [] for name in BAD}


# ---- a Config is looked at again for each program ----


def test_what_is_changed_in_a_config_holds_for_the_next_program(anyone: Runner) -> None:
    """Fields set anew, lists and dicts changed in place, namespaces added and removed: each run does what it says then."""

    def body() -> dict[str, object]:
        become_root()
        here = all_ns()
        config = Config.new("uts", hostname="one", rlimits={"RLIMIT_NOFILE": 100}, time_offsets={})
        script = "uname -n; ulimit -n; cat /proc/self/oom_score_adj; readlink /proc/self/ns/net /proc/self/ns/time"
        argv, mine = ["sh", "-c", script], int(Path("/proc/self/oom_score_adj").read_text())
        found: dict[str, object] = {}

        def look(name: str) -> None:
            host, files, oom, net, time = out(argv, config).split()
            found[name] = [host, files, int(oom) - mine, net == here["net"], time == here["time"]]

        look("first")
        look("again")
        config.hostname = "two"
        look("field")
        config.rlimits["RLIMIT_NOFILE"] = 90  # type: ignore[assignment]
        look("dict")
        config.namespaces.add("net")
        look("added")
        config.namespaces.add("time")
        config.time_offsets["boottime"] = 1  # type: ignore[assignment]
        look("offset")
        config.oom_score_adj = mine + 5
        look("oom")
        config.namespaces.remove("net")
        config.namespaces.remove("time")
        config.time_offsets.clear()
        config.oom_score_adj = None
        look("removed")
        with unshared("--net") as process:
            config.namespaces.add("net", f"/proc/{process.pid}/ns/net")
            joined = ns("net", process.pid)
            found["joined"] = inside(config)["net"] == joined
        config.hostname = None
        config.namespaces.remove("uts")
        config.namespaces.remove("net")
        found["nothing left"] = inside(config) == {type: here[type] for type in TYPES}
        return found

    assert anyone(body) == {
        "first": ["one", "100", 0, True, True],
        "again": ["one", "100", 0, True, True],
        "field": ["two", "100", 0, True, True],
        "dict": ["two", "90", 0, True, True],
        "added": ["two", "90", 0, False, True],
        "offset": ["two", "90", 0, False, False],
        "oom": ["two", "90", 5, False, False],
        "removed": ["two", "90", 0, True, True],
        "joined": True,
        "nothing left": True,
    }


def test_the_world_is_looked_at_again_for_each_program(anyone: Runner, readable_tmp: Path) -> None:
    """The same Config after the caller has changed: ids, environment, directory, limits, namespaces, oom score."""

    def body(folder: str) -> dict[str, object]:
        found: dict[str, object] = {}
        config = Config.new("user", "uts")
        os.mkdir(f"{folder}/there")
        outside = [line.split()[1] for line in out(["cat", "/proc/self/uid_map"], config).splitlines()]
        found["map"] = outside == [str(os.geteuid())]
        os.environ["NSAPI_TEST"] = "new"
        os.chdir(f"{folder}/there")
        found["environ"] = out(["sh", "-c", "echo $NSAPI_TEST"], config)
        found["cwd"] = out(["pwd", "-P"], config) == f"{folder}/there\n"
        found["PATH"] = []
        for name in ("first", "second"):
            os.mkdir(f"{folder}/{name}")
            Path(f"{folder}/{name}/greet").write_text(f"#!/bin/sh\necho {name}\n")
            os.chmod(f"{folder}/{name}/greet", 0o755)
            os.environ["PATH"] = f"{folder}/{name}:/usr/bin:/bin"
            found["PATH"].append(out(["greet"], config))  # type: ignore[attr-defined]
        if os.geteuid() == 0:
            os.setegid(1234)
            gids = out(["cat", "/proc/self/gid_map"], config).split()
            os.setegid(0)
            found["gid"] = gids == ["0", "1234", "1"]
        else:
            become_root()
            found["gid"] = out(["cat", "/proc/self/gid_map"], config).split() == ["0", "0", "1"]
        nsapi.unshare("net")
        found["net"] = inside(config)["net"] == ns("net")
        os.chdir("/")
        return found

    assert anyone(body, str(readable_tmp)) == {
        "map": True,
        "environ": "new\n",
        "cwd": True,
        "PATH": ["first\n", "second\n"],
        "gid": True,
        "net": True,
    }
