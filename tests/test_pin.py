"""create, pin, unpin, named: namespaces without a process, and the files that keep them. Each in a /run of its own."""

from __future__ import annotations

import ctypes
import errno
import inspect
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import USER, Runner, tool
from inside import (
    PIDFD_GET,
    TYPES,
    CtrlC,
    answer_enosys,
    at_every_moment,
    changed,
    children,
    closing,
    end_of,
    ends,
    everything,
    failure,
    fds,
    first_of,
    mounted,
    ns,
    only_child,
    own_inits,
    ready,
    run_a_thread,
    status,
    unshared,
)

import nsapi

#: A mount namespace that nobody else sees, with a /run of its own; for an ordinary user in a user namespace of his own.
OWN_RUN = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'mount -t tmpfs -o mode=755 none /run && exec "$@"',
    "sh",
)
OWN_USER = ("unshare", "--user", "--map-root-user", *OWN_RUN[1:])


class Mounter:
    """Runs a body where it may mount: as root, or as root of a user namespace of one's own."""

    def __init__(self, runner: Runner, under: tuple[str, ...]) -> None:
        self.runner, self.under = runner, under

    def __call__(self, body: Any, *args: Any, **keywords: Any) -> Any:
        return self.runner(body, *args, under=self.under, **keywords)


@pytest.fixture
def host(root: Runner) -> Mounter:
    """Root, in a mount namespace with a /run of its own."""
    tool("unshare")
    return Mounter(root, OWN_RUN)


@pytest.fixture
def container(user: Runner, library: Path) -> Mounter:
    """An ordinary user, in a user and mount namespace of his own."""
    tool("unshare")
    return Mounter(Runner("root of his own", user.python, user.prefix, "", library), OWN_USER)


@pytest.fixture(params=["host", "container"])
def mounter(request: pytest.FixtureRequest) -> Mounter:
    """Both, one after the other."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Mounter)
    return found


# ---- without a name ----


def test_every_type_is_made_without_a_process(anyone: Runner) -> None:
    """A new one, that can be joined. The caller has no child and is where he was; an ordinary user's is owned by his."""

    def body() -> Any:
        user = nsapi.create("user")
        fields: dict[str, Any] = {"user": user} if os.geteuid() else {}
        nsapi.create("net", **fields).close()  # all modules are loaded now
        before, found = everything(), {}
        for type in TYPES:
            made = user if type == "user" else nsapi.create(type, **fields)
            argv, config = ["readlink", f"/proc/self/ns/{type}"], nsapi.Config.new(**{**fields, type: made})
            inside = nsapi.run(argv, config=config, capture_output=True, text=True, check=True).stdout.strip()
            found[type] = [
                inside == f"{type}:[{made.id[1]}]",
                inside != ns(type),
                not fields or type == "user" or made.owner == user,
                children(),
            ]
            if made is not user:
                made.close()
        same = before == everything()
        user.close()
        return [found, same]

    assert anyone(body) == [{type: [True, True, True, []] for type in TYPES}, True]


#: type, fields, what shows them inside, and how they show
FIELDS: list[tuple[str, dict[str, Any], str, str]] = [
    ("net", {"loopback": True}, "ip -o link show lo | grep -c LOWER_UP", "1"),
    ("net", {}, "ip -o link show lo | grep -c LOWER_UP", "0"),
    ("net", {"sysctl": {"net.ipv4.ip_forward": "1"}}, "cat /proc/sys/net/ipv4/ip_forward", "1"),
    ("uts", {"hostname": "box", "domainname": "yp"}, "uname -n; cat /proc/sys/kernel/domainname", "box yp"),
    ("ipc", {"sysctl": {"kernel.msgmni": "77"}}, "cat /proc/sys/kernel/msgmni", "77"),
    ("time", {"time_offsets": {"boottime": 86400 * 3650}}, "cut -c1-3 /proc/uptime", "315"),
    ("mnt", {"propagation": "shared"}, "findmnt -n -o PROPAGATION /", "shared"),
    ("mnt", {}, "findmnt -n -o PROPAGATION /", "private"),
    ("user", {"maps": "root"}, "cat /proc/self/uid_map", "0 0 1"),
    ("user", {"uid_mappings": [(5, 0, 7)], "gid_mappings": [(6, 0, 8)]}, "cat /proc/self/[ug]id_map", "6 0 8 5 0 7"),
]


def test_fields_are_those_of_the_namespace(host: Mounter) -> None:
    """As Config.new has them: they are set in the new namespace, and stay there without a process."""
    for each in ("ip", "findmnt"):
        tool(each)

    def body(rows: list[Any]) -> Any:
        found = []
        for type, fields, script, _ in rows:
            made = nsapi.create(type, **fields)
            config = nsapi.Config.new(**{type: made})
            done = nsapi.run(["sh", "-c", script], config=config, capture_output=True, text=True)
            found.append(" ".join(done.stdout.split()))
            made.close()
        return found

    assert host(body, FIELDS) == [row[3] for row in FIELDS]


# ---- pid: its pid 1 ----


def test_pid_1_is_nobodys_child_and_ends_with_the_handle(anyone: Runner) -> None:
    """No wait finds it, it holds nothing of the caller's, and reaps what is orphaned. Closing ends all that is inside."""

    def body() -> Any:
        fields: dict[str, Any] = {"user": nsapi.create("user")} if os.geteuid() else {}
        os.chdir("/proc")
        made = nsapi.create("pid", **fields)
        (init,) = first_of(made.id[1])
        watched = os.pidfd_open(init)
        files = sorted(os.readlink(f"/proc/{init}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{init}/fd"))
        is_stranger = status("PPid", init) != str(os.getpid()) and os.getsid(init) == init
        told = [children(), status("Name", init), is_stranger, os.readlink(f"/proc/{init}/cwd"), files]
        # Of an orphan nothing is left: the kernel reaps it, and the number of the namespace's processes goes down.
        script = "(exit 3) & exec sleep 600"
        config = nsapi.Config.new(**fields, pid=made)
        with nsapi.Popen(["sh", "-c", script], config=config, stdout=subprocess.PIPE) as process:
            made.close()
            made.close()
            told.append(process.wait())
        for each in fields.values():
            each.close()
        return [*told, ends(watched)]

    files = ["/dev/null", "/dev/null", "anon_inode", "socket"]
    told = anyone(body)
    assert told == [[], "nsapi-init", True, "/", files, -signal.SIGKILL, True]


def test_pid_1_reaps_orphans(root: Runner) -> None:
    """No zombie stays whose parent has ended inside."""

    def body() -> Any:
        made = nsapi.create("pid")
        (init,) = first_of(made.id[1])
        script, config = "exec 3<&0; (read end <&3; exit 3) & exit 0", nsapi.Config.new(pid=made)
        family = pathlib.Path(f"/proc/{init}/task/{init}/children")
        with nsapi.Popen(["sh", "-c", script], config=config, stdin=subprocess.PIPE) as process:
            process.wait()
            (orphan,) = map(int, family.read_text().split())
            with os.fdopen(os.pidfd_open(orphan)) as watched:
                process.communicate()
                ended = ends(watched.fileno())
                deadline = time.monotonic() + 20
                while os.path.exists(f"/proc/{orphan}") and time.monotonic() < deadline:
                    os.sched_yield()
        left = family.read_text()
        made.close()
        return [ended, left]

    assert root(body) == [True, ""]


def test_pid_1_ends_with_its_maker_and_not_with_a_copy_of_the_handle(root: Runner) -> None:
    """SIGKILL takes it along; a process that was forked has a handle too, and closing that ends nothing."""

    def body() -> Any:
        forks = "os.fork() or os._exit(len(sys.stdin.read()))"  # who keeps a copy of all that its maker holds
        code = f"import nsapi, os, sys, time; h = nsapi.create('pid'); {forks}; print(h.id[1], flush=True); time.sleep(600)"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
            assert maker.stdout is not None
            inode = int(maker.stdout.readline())
            watched = os.pidfd_open(*first_of(inode))
            running = not ends(watched, 0)
            maker.kill()
            told: list[Any] = [running, ends(watched)]
        made = nsapi.create("pid")
        child = os.fork()
        if not child:
            made.close()
            os._exit(0)
        os.waitpid(child, 0)
        told.append(len(first_of(made.id[1])))
        made.close()
        return told

    assert root(body) == [True, True, 1]


def pin_there(handle: Any, path: str, answers: Any) -> None:
    handle.pin(path)
    answers.put(os.path.exists(path))
    handle.close()


def test_a_handle_that_was_passed_on_owns_no_pid_1(host: Mounter, tmp_path: Path) -> None:
    """It pins the namespace as any other handle does; pid 1 ends with the one that has made it."""
    (tmp_path / "passed.py").write_text(
        inspect.getsource(pin_there).replace(": Any", "").replace("import os", "") + "import os\n"
    )

    def body(folder: str) -> Any:
        import multiprocessing

        sys.path.insert(0, folder)
        from passed import pin_there  # type: ignore[import-not-found]

        context = multiprocessing.get_context("spawn")
        answers = context.Queue()
        made = nsapi.create("pid")
        process = context.Process(target=pin_there, args=(made, "/run/a", answers))
        process.start()
        process.join()
        told = [process.exitcode, answers.get(), len(first_of(made.id[1]))]
        watched = os.pidfd_open(*first_of(made.id[1]))
        nsapi.unpin("/run/a")
        told.append(ends(watched, 0))
        made.close()
        return [*told, ends(watched)]

    assert host(body, str(tmp_path)) == [0, True, 1, False, True]


def test_a_copy_of_the_handle_that_has_the_same_pid_ends_nothing(root: Runner) -> None:
    """Of a program that is pid 1, in a child that is pid 1 too."""
    tool("unshare")

    def body() -> Any:
        made = nsapi.create("pid")
        watched = os.pidfd_open(*first_of(made.id[1]))
        child = nsapi.clone(lambda: made.close(), flags="pid")
        told = [os.getpid(), child.wait(), ends(watched, 0)]
        made.close()
        return [*told, ends(watched)]

    under = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    assert root(body, under=under) == [1, 0, False, True]


@pytest.mark.parametrize("old", [False, True], ids=["this kernel", "before 6.11"])
def test_the_pid_namespace_of_ones_children_stays_as_it_is(root: Runner, old: bool) -> None:
    """After unshare, what makes a namespace is not the first there, whose end would be that of all others."""

    def body(old: bool) -> Any:
        if old:
            answer_enosys(*PIDFD_GET, errnum=25)
        script, uts = "echo $$; read line", nsapi.create("uts")
        told: list[Any] = []
        nsapi.unshare("pid")
        told.append([failure(lambda: nsapi.create(type).close()).get("errno", 0) for type in TYPES])
        config = nsapi.Config.new(uts=uts)
        with nsapi.Popen(["sh", "-c", script], config=config, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
            assert first.stdout is not None
            told.append(int(first.stdout.readline()))
            told.append([failure(lambda: nsapi.create(type).close()).get("errno", 0) for type in TYPES])
        uts.close()
        return [*told, children()]

    empty, first, occupied, left = root(body, old)
    unsupported = [errno.ENOSYS if type == "pid" else 0 for type in TYPES]  # it would be made in that one
    assert empty in (unsupported, [errno.ENOSYS] * 8)  # kernels before 6.11 open no pid namespace that is empty
    assert (old, empty) != (True, unsupported)
    assert (first, occupied, left) == (1, unsupported, [])


# ---- names ----


def test_names_of_every_type(mounter: Mounter) -> None:
    """Made, listed, opened by their path when the handle is closed, joined, taken away: nothing stays."""

    def body() -> Any:
        found: dict[str, Any] = {}
        for type in TYPES:
            nsapi.create(type, name="a").close()
            nsapi.unpin("a", type)  # the folders of names stay, as ip-netns(8) leaves its own
        before, tree = mounted(), sorted(map(str, pathlib.Path("/run").rglob("*")))
        for type in TYPES:
            made = nsapi.create(type, name="blue")
            names = nsapi.named(type)
            path = names["blue"]
            made.close()
            with closing(nsapi.open(path)) as again:
                config = nsapi.Config.new(**{type: again})
                argv = ["readlink", f"/proc/self/ns/{type}"]
                done = None
                if type != "user" or os.stat("/proc/self/ns/user").st_ino != again.id[1]:
                    done = nsapi.run(argv, config=config, capture_output=True, text=True).stdout.strip()
                found[type] = [names, again == made, done == f"{type}:[{made.id[1]}]", children()]
            nsapi.unpin("blue", type)
            found[type] += [nsapi.named(type), os.path.lexists(path)]
        lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
        folders = [
            [line.split()[4], "shared:" in line] for line in lines if f"/run{line.split()[3]}" == line.split()[4]
        ]
        return [found, sorted(folders), before == mounted(), tree == sorted(map(str, pathlib.Path("/run").rglob("*")))]

    found, folders, *untouched = mounter(body)
    # Each a mount of its own, which passes on what is taken away; but for mnt, where it would pass on a mount into itself.
    assert folders == [
        ["/run/netns", True],
        *([f"/run/nsapi/{type}", type != "mnt"] for type in sorted(TYPES) if type != "net"),
    ]
    for type in TYPES:
        path = "/run/netns/blue" if type == "net" else f"/run/nsapi/{type}/blue"
        assert found[type] == [{"blue": path}, True, True, [], {}, False], type
    assert untouched == [True, True]


def test_names_are_those_of_ip_netns(host: Mounter) -> None:
    """Each makes, lists, uses and takes away the other's, in a mount that is shared and that both take for their own."""
    tool("ip")

    def body(ours_first: bool) -> Any:
        def ip(*words: str) -> list[str]:
            done = subprocess.run(["ip", *words], capture_output=True, text=True)
            return [*done.stdout.split(), *done.stderr.split(), str(done.returncode)]

        def ours() -> None:
            nsapi.create("net", name="blue", loopback=True).close()

        # With numbers of its own: the kernel takes its time to give back the 7 of a blue that is gone.
        nsapi.unshare("net")
        told: list[Any] = []
        for each in (
            (ours, lambda: ip("netns", "add", "red")) if ours_first else (lambda: ip("netns", "add", "red"), ours)
        ):
            each()
        told += [sorted(ip("netns", "list")), nsapi.named()]
        told.append(ip("netns", "exec", "blue", "readlink", "/proc/self/ns/net")[0])
        with nsapi.enter("blue") as blue, closing(nsapi.open("red")) as red:
            told += [f"net:[{blue.id[1]}]", blue != red]
        told.append(nsapi.run(["true"], target="red").returncode)
        told += [ip("netns", "set", "blue", "7"), ip("netns", "list-id")[:2]]
        with ready("ip", "netns", "exec", "blue", "sh", "-c", "echo ready; exec sleep 600") as process:
            pid = str(process.pid)
            told.append([ip("netns", "identify", pid)[0], ip("netns", "pids", "blue") == [pid, "0"]])
            told[-1] += [ip("netns", "attach", "green", pid)[-1], nsapi.named().get("green")]
        nsapi.unpin("green")
        told[-1] += [failure(lambda: nsapi.create("net", name="red"))["errno"], ip("netns", "add", "blue")[-1] != "0"]
        lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
        folder = [line for line in lines if line.split()[4] == "/run/netns" and "tmpfs" in line]
        told.append([len(folder), "shared:" in folder[0]])
        told += [ip("netns", "del", "blue"), nsapi.named()]
        nsapi.unpin("red")
        told += [ip("netns", "list"), nsapi.named(), os.listdir("/run/netns")]
        return told

    for ours_first in (True, False):
        names, ours, link, same, others, ran, given, ids, seen, folder, *rest = host(body, ours_first)
        assert names[-2:] == ["blue", "red"]
        assert ours == {"blue": "/run/netns/blue", "red": "/run/netns/red"}
        assert [link == same, others, ran, given, ids, folder] == [True, True, 0, ["0"], ["nsid", "7"], [1, True]]
        assert seen == ["blue", True, "0", "/run/netns/green", 17, True]
        assert rest == [["0"], {"red": "/run/netns/red"}, ["0"], {}, []]


def test_taken_away_in_every_mount_namespace_that_has_a_copy(host: Mounter) -> None:
    """Who has been started meanwhile in a mount namespace of his own keeps no namespace alive by it."""

    def body() -> Any:
        nsapi.create("net", name="blue").close()
        with unshared("--mount", "--propagation", "slave") as process:
            lines = pathlib.Path(f"/proc/{process.pid}/mountinfo").read_text()
            nsapi.unpin("blue")
            return ["/run/netns/blue" in lines, "blue" in pathlib.Path(f"/proc/{process.pid}/mountinfo").read_text()]

    assert host(body) == [True, False]


def test_a_path_is_a_str_bytes_or_pathlike(mounter: Mounter) -> None:
    """Of every type; also in a shared mount, which the kernel refuses for mnt: then a private one is between."""

    def body(shared: bool) -> Any:
        os.mkdir("/run/here")
        if shared:
            subprocess.run(["mount", "--make-shared", "/run"], check=True)
        os.chdir("/run/here")
        before, found = mounted(), {}
        with unshared("--mount", "--propagation", "unchanged"):  # who has a copy of each mount
            for type in TYPES:
                forms: list[Any] = [f"/run/here/{type}", os.fsencode(f"./{type}"), pathlib.Path(type)]
                same = []
                for form in forms:
                    made = nsapi.create(type, path=form)
                    made.close()
                    with closing(nsapi.open(f"./{type}", type)) as again:
                        same.append(again == made)
                    nsapi.unpin(pathlib.Path(f"/run/here/{type}"), type)
                found[type] = [same, os.listdir("."), before == mounted()]
        return found

    for shared in (False, True):
        assert mounter(body, shared) == {type: [[True] * 3, [], True] for type in TYPES}


def test_a_mount_namespace_is_younger_whatever_the_cpu(host: Mounter) -> None:
    """Linux 6.18 compares numbers that each CPU gives out from a stock of its own; the thread's affinity stays."""

    def body() -> Any:
        cpus = sorted(os.sched_getaffinity(0))
        wrong = []
        for here, there in ((cpus[0], cpus[-1]), (cpus[-1], cpus[0])):
            os.sched_setaffinity(0, {there})
            nsapi.unshare("mnt")
            os.sched_setaffinity(0, {here})
            os.sched_setaffinity(0, cpus)
            nsapi.create("mnt", path="/run/a").close()
            nsapi.unpin("/run/a", "mnt")
            wrong += [sorted(os.sched_getaffinity(0)) != cpus, os.listdir("/run")]
        return wrong

    assert host(body) == [False, [], False, []]


def test_pin_keeps_a_namespace_that_is_there(mounter: Mounter) -> None:
    """Any handle's, more than once; the handle stays, and closing it ends nothing."""

    def body() -> Any:
        with unshared("--uts", "--net") as process:
            uts, net = nsapi.open(process.pid, "uts"), nsapi.open(process.pid, "net")
        uts.pin("/run/a")
        uts.pin(b"/run/b")
        net.pin(pathlib.Path("/run/c"))
        told = [uts.fileno() >= 0]
        for handle in (uts, net):
            handle.close()
        for path, handle in (("/run/a", uts), ("/run/b", uts), ("/run/c", net)):
            with closing(nsapi.open(path)) as again:
                told.append(again == handle)
            nsapi.unpin(path)
        return [told, os.listdir("/run"), "is closed" in str(failure(lambda: uts.pin("/run/d"))["text"])]

    assert mounter(body) == [[True] * 4, [], True]


def test_pid_1_of_a_name_stays_until_that_is_taken_away(host: Mounter) -> None:
    """Over the end of its maker; whoever takes the name away ends it. A handle may get a file later."""

    def body(code: str) -> Any:
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as maker:
            assert maker.stdout is not None
            inode = int(maker.stdout.readline())
            maker.kill()
        (init,) = first_of(inode)
        watched = os.pidfd_open(init)
        files = sorted({os.readlink(f"/proc/{init}/fd/{fd}") for fd in os.listdir(f"/proc/{init}/fd")})
        (path,) = nsapi.named("pid").values()
        with closing(nsapi.open(path)) as found:
            run = nsapi.run(["sh", "-c", "kill -9 1; echo $$"], config=nsapi.Config.new(pid=found), capture_output=True)
        told = [files, int(run.stdout) > 1, ends(watched, 0)]
        nsapi.unpin("x", "pid")
        return [*told, ends(watched), nsapi.named("pid")]

    ends_at_once = "; import time; time.sleep(600)"
    made = "import nsapi; h = nsapi.create('pid', name='x'); print(h.id[1], flush=True)"
    later = (
        "import nsapi; nsapi.create('pid', name='y').close(); nsapi.unpin('y', 'pid'); h = nsapi.create('pid');"
        " h.pin('/run/nsapi/pid/x'); print(h.id[1], flush=True)"
    )
    for code in (made, f"{made}; h.close()", made + ends_at_once, later + ends_at_once, f"{later}; h.close()"):
        assert host(body, code) == [["/dev/null"], True, False, True, {}], code


def test_a_pid_1_that_has_ended_gets_no_file(host: Mounter) -> None:
    """ESRCH, and what was mounted already is taken away: nobody can join such a namespace."""

    def body() -> Any:
        made = nsapi.create("pid")
        (init,) = first_of(made.id[1])
        watched = os.pidfd_open(init)
        os.kill(init, signal.SIGKILL)
        ended, before = ends(watched), everything()
        found = failure(lambda: made.pin("/run/a"))
        same = before == everything()
        made.close()
        return [ended, found["errno"], found["hint"], same, os.listdir("/run")]

    assert host(body) == [True, 3, "its pid 1 has ended", True, []]


def test_a_pid_1_that_was_told_to_stay_stays_whoever_hears_its_answer(host: Mounter) -> None:
    """Ctrl-C may come between, and the handle be closed, before pid 1 has done what it was told."""

    def body() -> Any:
        made = nsapi.create("pid")
        (init,) = first_of(made.id[1])
        watched = os.pidfd_open(init)
        os.kill(init, signal.SIGSTOP)  # it has not heard it yet
        ctrl_c = CtrlC(1, lambda code, event: (code.co_name, event) != ("let_stay", "c_return"))
        with ctrl_c:
            made.pin("/run/a")
        made.close()
        os.kill(init, signal.SIGCONT)
        while not ends(watched, 0) and os.readlink(f"/proc/{init}/fd/0") != "/dev/null":
            os.sched_yield()
        told = [ctrl_c.place.split()[-1], ends(watched, 0), os.listdir("/run")]
        nsapi.unpin("/run/a")
        return [*told, ends(watched), os.listdir("/run")]

    assert host(body) == ["send", False, ["a"], True, []]


def test_the_name_of_a_pid_namespace_that_has_ended_is_taken_away(mounter: Mounter) -> None:
    """Where somebody has killed its pid 1; the handle of its maker may be open still."""

    def body() -> Any:
        assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: it is ours to wait for
        made = nsapi.create("pid", path="/run/a")
        (init,) = first_of(made.id[1])
        os.kill(init, signal.SIGKILL)
        status = os.waitpid(init, 0)[1]
        nsapi.unpin("/run/a")
        made.close()
        return [status, os.listdir("/run")]

    assert mounter(body) == [signal.SIGKILL, []]


@pytest.mark.parametrize("old", [False, True], ids=["by NS_GET_TGID_FROM_PIDNS", "before Linux 6.11"])
def test_unpin_ends_no_pid_1_but_ours(host: Mounter, old: bool) -> None:
    """Of a container's pid namespace the file is taken away, and the container goes on; ours is found by either way."""

    def body(old: bool) -> Any:
        if old:
            answer_enosys(("ioctl", 0x8004B707), errnum=25)
        with unshared("--pid", "--fork") as process:
            init = only_child(process.pid)
            watched = os.pidfd_open(init)
            with closing(nsapi.open(init, "pid")) as handle:
                handle.pin("/run/x")
            nsapi.unpin("/run/x", "pid")
            told = [ends(watched, 0), os.listdir("/run")]
        with closing(nsapi.create("pid", path="/run/y")) as made:
            watched = os.pidfd_open(*first_of(made.id[1]))
            nsapi.unpin("/run/y")
        return [*told, ends(watched), os.listdir("/run")]

    assert host(body, old) == [False, [], True, []]


def test_unpin_leaves_the_name_where_it_cannot_end_pid_1(host: Mounter) -> None:
    """From within the pid namespace, or beside it: EPERM, and the name is there still, for who can."""

    def body() -> Any:
        made = nsapi.create("pid", path="/run/a")
        watched = os.pidfd_open(*first_of(made.id[1]))
        code = (
            "import nsapi\ntry: nsapi.unpin('/run/a')\nexcept PermissionError as error: print(error.step, error.hint)"
        )
        argv, told = [sys.executable, "-c", code], []
        for config in (nsapi.Config.new(pid=made), nsapi.Config.new("pid")):
            done = nsapi.run(argv, config=config, capture_output=True, text=True)
            told.append([done.stdout, os.path.exists("/run/a"), ends(watched, 0)])
        made.close()
        nsapi.unpin("/run/a")
        return [*told, ends(watched)]

    text = "check its pid 1 can be ended only from the pid namespace that it was made in, or one above\n"
    assert host(body) == [[text, True, False]] * 2 + [True]


def test_unpin_where_the_file_below_cannot_be_seen_before(container: Mounter) -> None:
    """Mounts that a user namespace has inherited hide what they are on, and so the folder that they are in."""

    def body() -> Any:
        made = nsapi.create("pid", path="/run/here/a")
        watched = os.pidfd_open(*first_of(made.id[1]))
        made.close()
        nsapi.unpin("/run/here/a")
        nsapi.create("net", path="/run/here/a").close()
        nsapi.unpin("/run/here/a")
        return [ends(watched), os.listdir("/run/here")]

    inherit = (
        "mkdir -p /run/here/other && mount -t tmpfs none /run/here/other && exec unshare --user --map-root-user --mount"
    )
    under = (*OWN_USER, "sh", "-c", f'{inherit} "$@"', "sh")
    assert container.runner(body, under=under) == [True, ["other"]]


# ---- never what is there ----


def test_what_is_there_is_never_opened(mounter: Mounter) -> None:
    """FileExistsError, whatever it is: a file, a folder, a name, a link that leads nowhere. It stays as it was."""

    def body() -> Any:
        nsapi.create("net", name="blue").close()
        handle = nsapi.open("blue")
        pathlib.Path("/run/file").write_text("mine")
        os.mkdir("/run/folder")
        os.symlink("/run/nowhere", "/run/link")
        os.symlink("/run/netns/blue", "/run/netns/other")
        os.symlink("/run/nowhere", "/run/netns/dangling")
        nsapi.create("pid", path="/run/pid").close()
        ours = first_of(os.stat("/run/pid").st_ino)
        before = everything()
        cases: list[Any] = []
        cases += [failure(lambda: nsapi.create("net", path=f"/run/{path}")) for path in ("file", "folder", "link")]
        cases += [failure(lambda: handle.pin(f"/run/{path}")) for path in ("file", "link", "netns/blue")]
        cases += [failure(lambda: nsapi.create("net", name=name)) for name in ("blue", "other", "dangling")]
        cases += [
            failure(lambda: nsapi.create("pid", path="/run/link")),
            failure(lambda: nsapi.create("pid", path="/run/pid")),
        ]
        same = before == everything()
        content = [pathlib.Path("/run/file").read_text(), os.path.lexists("/run/nowhere")]
        content.append(ours == first_of(os.stat("/run/pid").st_ino))
        nsapi.unpin("/run/pid")
        nsapi.unpin("blue")
        handle.close()
        return [[[*case["classes"][1:3], case["errno"], case["hint"]] for case in cases], same, content]

    cases, same, content = mounter(body)
    hint = "what is there is never opened by create or pin: nsapi.open does, and nsapi.unpin takes it away"
    assert cases == [["NamespaceError", "FileExistsError", 17, hint]] * 11
    assert same
    assert content == ["mine", False, True]


MAKE_AT_ONCE = """
import concurrent.futures, nsapi, sys
def make(_):
    try:
        made = nsapi.create("net", name="blue")
    except FileExistsError:
        return 0
    made.close()
    return 1
sys.stdin.readline()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(make, range(4))))
"""


def test_of_many_at_once_one_makes_the_name(host: Mounter) -> None:
    """Threads of several processes, in a /run where nobody has made the folder yet: one wins, and its mount is seen."""

    def body(code: str) -> Any:
        makers = [
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        for each in makers:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        won = sum(int(each.communicate()[0]) for each in makers)
        lines = [line for line in mounted() if line == "/netns /run/netns"]
        return [won, len(lines), nsapi.named(), [each.returncode for each in makers]]

    assert host(body, MAKE_AT_ONCE) == [1, 1, {"blue": "/run/netns/blue"}, [0, 0, 0]]


def test_the_folder_of_names_is_mounted_by_one_at_a_time(host: Mounter) -> None:
    """Under the lock that ip-netns(8) takes too, or else both would mount it."""

    def body() -> Any:
        import fcntl

        os.mkdir("/run/netns")
        lock = os.open("/run/netns", os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_SH)
        code, waits = "import nsapi; nsapi.create('net', name='blue').close()", False
        with subprocess.Popen([sys.executable, "-c", code]) as maker:
            while not waits and maker.poll() is None:
                lines = pathlib.Path("/proc/locks").read_text().splitlines()
                waits = any("->" in line and str(maker.pid) in line.split() for line in lines)
            meanwhile = "/netns /run/netns" in mounted()
            os.close(lock)
        return [waits, meanwhile, maker.returncode, list(nsapi.named())]

    assert host(body) == [True, False, 0, ["blue"]]


def test_the_file_below_is_that_of_ip_netns(host: Mounter) -> None:
    """Empty, and nobody may write to it, whatever the umask; but for a pid namespace it says that pid 1 ends with it."""
    tool("ip")

    def body() -> Any:
        os.umask(0)
        subprocess.run(["ip", "netns", "add", "red"], check=True)
        nsapi.create("net", name="blue").close()
        nsapi.create("pid", path="/run/pid").close()
        inits, found = first_of(os.stat("/run/pid").st_ino), {}
        for path in ("/run/netns/red", "/run/netns/blue", "/run/pid"):
            subprocess.run(["umount", path], check=True)
            found[path] = [os.stat(path).st_mode & 0o7777, pathlib.Path(path).read_text()]
        for each in inits:
            os.kill(each, signal.SIGKILL)
        return found

    wanted = {"/run/netns/red": [0, ""], "/run/netns/blue": [0, ""], "/run/pid": [0o400, "nsapi-init\n"]}
    assert host(body) == wanted


def test_a_file_that_is_moved_away_meanwhile_is_no_name(host: Mounter) -> None:
    """By somebody in another mount namespace, where nothing is mounted on it: EBUSY, and no mount is left.

    What is open meanwhile is inherited by nobody who is started by another thread.
    """
    tool("nsenter")

    def body() -> Any:
        with unshared("--mount", "--propagation", "private") as process, closing(nsapi.create("net")) as handle:

            def move(frame: Any, event: str, argument: Any) -> None:
                if event == "c_call" and argument is os.stat and frame.f_code.co_name == "_make":
                    sys.setprofile(None)
                    inherited.extend(fds()[fd] for fd in fds() if fd > 2 and os.get_inheritable(fd))
                    elsewhere = ["nsenter", "--mount", f"--target={process.pid}"]
                    subprocess.run([*elsewhere, "mv", "/run/a", "/run/b"], check=True)

            inherited: list[str] = []
            before = everything()
            sys.setprofile(move)
            found = failure(lambda: handle.pin("/run/a"))
            sys.setprofile(None)
            told = [found["errno"], "moved the file away" in str(found["hint"])]
            return [*told, changed(before), os.listdir("/run"), inherited]

    assert host(body) == [errno.EBUSY, True, [], ["b"], []]


def test_unpin_removes_nothing_of_a_stranger(mounter: Mounter) -> None:
    """What is no namespace stays, and what lies below one and is not empty; each refusal says why."""

    def body() -> Any:
        nsapi.create("net", name="blue").close()
        pathlib.Path("/run/file").write_text("mine")
        pathlib.Path("/run/empty").touch()
        pathlib.Path("/run/netns/stale").touch()
        os.mkdir("/run/folder")
        os.symlink("/run/netns/blue", "/run/link")
        os.symlink("/run/nowhere", "/run/dangling")
        for path in ("/run/under", "/run/netns/uts"):
            pathlib.Path(path).touch()
        subprocess.run(["mount", "--bind", "/run/file", "/run/under"], check=True)
        for path in ("/run/under", "/run/netns/uts"):
            subprocess.run(["mount", "--bind", "/proc/self/ns/uts", path], check=True)
        before = everything()
        cases = {
            str(name): failure(lambda: nsapi.unpin(name, type))
            for name, type in [
                *[
                    (f"/run/{each}", None)
                    for each in ("file", "empty", "folder", "link", "dangling", "nothing", "no/thing")
                ],
                *[
                    ("/proc/self/ns/net", None),
                    ("stale", None),
                    ("none", None),
                    ("none", "mnt"),
                    ("/run/netns/blue", "uts"),
                ],
            ]
        }
        same = [before == everything(), nsapi.named()]
        # Somebody has mounted a namespace on a file of his, or on what he has mounted.
        nsapi.unpin("/run/under")
        same.append(pathlib.Path("/run/under").read_text())
        subprocess.run(["mount", "--bind", "/proc/self/ns/uts", "/run/file"], check=True)
        nsapi.unpin("/run/file")
        return [
            {name: [case.get("errno"), case.get("hint")] for name, case in cases.items()},
            same,
            pathlib.Path("/run/file").read_text(),
        ]

    no_namespace = [22, "no namespace is mounted there, so that it stays as it is"]
    missing = [2, "nsapi.named lists the names that there are"]
    cases, same, content = mounter(body)
    assert cases == {
        **dict.fromkeys((f"/run/{name}" for name in ("file", "empty", "folder", "link", "dangling")), no_namespace),
        **dict.fromkeys(("/run/nothing", "/run/no/thing", "none"), missing),
        **dict.fromkeys(("/proc/self/ns/net", "stale"), no_namespace),
        "/run/netns/blue": [22, "it is a net namespace, and uts was asked for"],
    }
    assert same == [True, {"blue": "/run/netns/blue"}, "mine"]
    assert content == "mine"


def test_an_error_that_is_kept_keeps_nothing_open(mounter: Mounter) -> None:
    """Its traceback has what was open when it came: an fd on a folder would be in the way of umount(8)."""

    def body() -> Any:
        nsapi.create("net", name="blue").close()
        pathlib.Path("/run/file").touch()
        os.makedirs("/run/nsapi/uts")
        os.chmod("/run/nsapi/uts", 0o777)
        os.symlink("/run", "/run/nsapi/ipc")
        before, kept = fds(), []
        for call in (
            lambda: nsapi.unpin("/run/file"),
            lambda: nsapi.unpin("/run/nothing"),
            lambda: nsapi.unpin("/run/netns/blue", "uts"),
            lambda: nsapi.create("net", name="blue"),
            lambda: nsapi.create("uts", name="a"),
            lambda: nsapi.create("ipc", name="a"),
        ):
            try:
                call()
            except OSError as error:
                kept.append(error)
        return [[error.errno for error in kept], before == fds()]

    assert mounter(body) == [[22, 2, 22, 17, 13, 20], True]


# ---- what fails ----

#: type, keywords, the error's class, and what it says; refused before any system call
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    *[("net", {"name": name}, "ValueError", "name: ") for name in ("", ".", "..", "a/b", "a\0b", "x" * 256, "ä" * 128)],
    *[
        ("uts", {"path": path}, "ValueError", "path: ")
        for path in ("", "/run/", "/run/..", ".", "a\0/b", "/a/b\0", "x" * 256)
    ],
    ("net", {"name": "\ud800"}, "ValueError", "name: '\\ud800' cannot be the name of a file"),
    ("net", {"path": "/\ud800/a"}, "ValueError", "path: '/\\ud800' cannot be the name of a file"),
    ("net", {"name": 5}, "TypeError", "name: 5 is no str"),
    ("net", {"path": 5}, "TypeError", "path: 5 is no path"),
    ("net", {"name": "a", "path": "/run/a"}, "TypeError", "name, path: give one, not both"),
    ("net", {"hostname": "a"}, "TypeError", "hostname: is no field of a net namespace; user, loopback, sysctl are"),
    ("user", {"user": 1}, "TypeError", "user: is no field of a user namespace"),
    ("uts", {"hostname": "a" * 65}, "ValueError", "hostname"),
    ("network namespace", {}, "ValueError", "network namespace"),
]


def test_wrong_arguments_are_told_by_their_name(anyone: Runner) -> None:
    def body(rows: list[Any]) -> Any:
        nsapi.named()
        before = everything()
        cases: list[Any] = [failure(lambda: nsapi.create(type, **fields)) for type, fields, *_ in rows]
        cases += [failure(lambda: nsapi.unpin(name)) for name in ("", "..", "a\0", "/run/.", 7)]
        cases += [failure(lambda: nsapi.named("nets"))]
        handle = nsapi.current("net")
        cases += [failure(lambda: handle.pin(path)) for path in ("", "/run/", 7)]
        handle.close()
        return [[(case["classes"][0], case["text"]) for case in cases], before == everything()]

    cases, same = anyone(body, WRONG)
    wanted = [(row[2], row[3]) for row in WRONG]
    wanted += [("ValueError", "name: ")] * 4 + [("TypeError", "name: 7 is no path"), ("ValueError", "nets")]
    wanted += [("ValueError", "path: ")] * 2 + [("TypeError", "path: 7 is no path")]
    for (found, text), (kind, words) in zip(cases, wanted, strict=True):
        assert (found, words in text) == (kind, True), (text, kind, words)
    assert same


#: What an ordinary user tries in the host's mount namespace: what it is, the errno, and words of the error
REFUSED: dict[str, tuple[int, tuple[str, ...]]] = {
    "without a user namespace": (1, ("clone net", "in create give user=, one of yours")),
    "a path": (
        1,
        ("clone the mount of net", "CAP_SYS_ADMIN in the user namespace that owns this mount namespace", "handle"),
    ),
    "a name": (1, ("clone the mount of net", "CAP_SYS_ADMIN in the user namespace that owns this mount namespace")),
    "a pid 1 with a path": (1, ("clone the mount of pid", "CAP_SYS_ADMIN in the user namespace that owns")),
    "pin": (1, ("clone the mount of net", "CAP_SYS_ADMIN in the user namespace that owns this mount namespace")),
}


def test_an_ordinary_user_is_told_what_the_kernel_allows_him(user: Runner, readable_tmp: Path) -> None:
    """And nothing is left: no process, no file, no folder."""

    def body(folder: str) -> Any:
        os.environ["XDG_RUNTIME_DIR"] = folder
        mine = nsapi.create("user")
        net = nsapi.create("net", user=mine)
        before = everything()
        cases = {
            "without a user namespace": failure(lambda: nsapi.create("net")),
            "a path": failure(lambda: nsapi.create("net", user=mine, path=f"{folder}/a")),
            "a name": failure(lambda: nsapi.create("net", user=mine, name="a")),
            "a pid 1 with a path": failure(lambda: nsapi.create("pid", user=mine, path=f"{folder}/a")),
            "pin": failure(lambda: net.pin(f"{folder}/b")),
        }
        untouched = [before == everything(), os.listdir(folder)]
        mine.close()
        net.close()
        return [{name: [case["errno"], case["text"]] for name, case in cases.items()}, untouched]

    own = readable_tmp / "own"
    own.mkdir()
    if os.geteuid() == 0:
        os.chown(own, USER, USER)
    cases, untouched = user(body, str(own))
    for name, (errnum, words) in REFUSED.items():
        assert cases[name][0] == errnum
        assert all(each in cases[name][1] for each in words), cases[name]
    assert untouched == [True, []]


def test_names_of_an_ordinary_user_have_a_private_place(user: Runner, library: Path, readable_tmp: Path) -> None:
    """In namespaces of his own, where /run is not his: below XDG_RUNTIME_DIR, or it is said that there is none."""

    def body(folder: str) -> Any:
        os.environ["XDG_RUNTIME_DIR"] = folder
        nsapi.create("uts", name="a").close()
        told: list[Any] = [nsapi.named("uts")]
        nsapi.unpin("a", "uts")
        told += [nsapi.named("uts"), os.listdir(f"{folder}/nsapi/uts")]
        os.chdir(folder)
        before = everything()
        refused = []
        for elsewhere in (None, "/", "."):
            os.environ.pop("XDG_RUNTIME_DIR") if elsewhere is None else os.environ.update(XDG_RUNTIME_DIR=elsewhere)
            refused.append(failure(lambda: nsapi.create("uts", name="a"))["text"])
        return [*told, refused, before == everything()]

    own = readable_tmp / "own"
    own.mkdir()
    if os.geteuid() == 0:
        os.chown(own, USER, USER)
    under = ("unshare", "--user", "--map-root-user", "--mount")
    runner = Runner("root of his own", user.python, user.prefix, "", library)
    listed, after, left, refused, same = runner(body, str(own), under=under)
    assert (listed, after, left) == ({"a": f"{own}/nsapi/uts/a"}, {}, [])
    for text in refused:
        assert "/run is not this user's, and XDG_RUNTIME_DIR names no folder: give path= instead of name=" in text
    assert same


def test_failures_leave_nothing(host: Mounter) -> None:
    """No room for a file, a namespace or an fd, a folder that cannot be written, or is another's, a false /proc."""

    def body() -> Any:
        import resource

        nsapi.create("net", name="warm").close()
        nsapi.create("pid", name="warm").close()
        handle = nsapi.open("warm")
        for path in ("/run/full", "/run/ro", "/run/open", "/run/filled"):
            os.mkdir(path)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "none", "/run/full"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_blocks=1", "none", "/run/filled"], check=True)
        pathlib.Path("/run/filled/one").write_text("block")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", "/run/ro"], check=True)
        before, found = everything(), {}
        found["full"] = failure(lambda: nsapi.create("pid", path="/run/full/a"))
        found["filled"] = failure(lambda: nsapi.create("pid", path="/run/filled/a"))
        found["read-only"] = failure(lambda: nsapi.create("net", path="/run/ro/a"))
        found["no folder"] = failure(lambda: nsapi.create("net", path="/run/none/a"))
        os.chmod("/run/netns", 0o777)
        found["anybody's"] = failure(lambda: nsapi.create("net", name="a"))
        os.chmod("/run/netns", 0o755)
        os.mkdir("/run/nsapi/ipc")
        os.chown("/run/nsapi/ipc", 1, 1)
        found["another's"] = failure(lambda: nsapi.create("ipc", name="a"))
        os.symlink("/run/netns", "/run/nsapi/uts")
        found["a link"] = failure(lambda: nsapi.create("uts", name="a"))
        with closing(nsapi.current("mnt")) as own:
            found["one's own mount namespace"] = failure(lambda: own.pin("/run/open/a"))
        untouched: list[Any] = [before == everything() and os.listdir("/run/filled") == ["one"]]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = next(fd for fd in range(3, 1000) if fd not in fds())
        for type, fields in (("net", {"name": "a"}), ("pid", {"name": "a"}), ("mnt", {"path": "/run/m"})):
            count, there = 0, everything()
            for limit in range(lowest, lowest + 40):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                try:
                    made = nsapi.create(type, **fields)
                    break
                except nsapi.NamespaceError as error:
                    count += error.errno == errno.EMFILE
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                after = everything()
                assert there == after, (limit, [name for name in there if there[name] != after[name]])
            made.close()
            untouched.append(2 < count < 39)
        # A name is there whole, or not at all.
        for path, type in (("/run/m", "mnt"), ("/run/nsapi/pid/a", "pid"), ("/run/netns/a", "net")):
            count, there = 0, everything()
            for limit in range(lowest, lowest + 40):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                try:
                    nsapi.unpin(path, type)
                    break
                except nsapi.NamespaceError as error:
                    count += error.errno == errno.EMFILE
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert there == everything(), (limit, path)
            untouched.append(2 < count < 39 and not os.path.lexists(path))
        untouched.append(before == everything())
        subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)
        found["false /proc"] = failure(lambda: handle.pin("/run/open/a"))
        subprocess.run(["umount", "/proc"], check=True)
        links = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/fd"
        for number in range(100):
            os.makedirs(f"/run/decoy/{number}")
        subprocess.run(["mount", "--bind", "/run/decoy", links], check=True)
        found["false links"] = failure(lambda: handle.pin("/run/open/a"))
        subprocess.run(["umount", links], check=True)
        untouched += [before == everything(), os.listdir("/run/open")]
        nsapi.unpin("warm", "pid")
        handle.close()
        untouched.append(own_inits())
        return [{name: [case["errno"], case["text"]] for name, case in found.items()}, untouched]

    found, untouched = host(body)
    assert {name: case[0] for name, case in found.items()} == {
        "full": 28,
        "filled": 28,
        "read-only": 30,
        "no folder": 2,
        "anybody's": 13,
        "another's": 13,
        "a link": 20,
        "one's own mount namespace": 40,
        "false /proc": 18,
        "false links": 18,
    }
    assert "make /run/full/a" in found["full"][1]
    assert "write /run/filled/a" in found["filled"][1]
    for each in ("anybody's", "another's"):
        assert "others may write to this folder" in found[each][1]
    assert untouched == [True] * 9 + [[], []]


#: Which system call is refused, what is done, the step that fails, and what is left below /run beside its folders
STEPS: list[tuple[str, str, str, list[str]]] = [
    ("open_tree", "create net name", "clone the mount of net", []),
    ("open_tree", "unpin net", "clone the mount of /run/here", ["here/x"]),
    ("move_mount", "create net name", "mount /run/netns on itself", []),
    ("move_mount", "create net", "mount the net namespace on /run/here/x", []),
    ("move_mount", "create pid", "mount the pid namespace on /run/here/x", []),
    ("mount", "create net name", "make /run/netns shared", []),
    ("mount", "create mnt", "make /run/here/x private", []),
    ("umount2", "unpin net", "umount /run/here/x", ["here/x"]),
    ("umount2", "unpin mnt", "umount /run/here/x", ["here/x"]),
    ("flock", "create net name", "lock /run/netns", []),
    ("unlinkat", "unpin net", "remove /run/here/x", ["here/x"]),
]


def test_each_step_fails_with_its_words_and_leaves_nothing(host: Mounter) -> None:
    """No file, mount, fd or pid 1; what could not be taken away is there still, to be tried again."""

    def body(rows: list[Any]) -> Any:
        os.mkdir("/run/here")
        subprocess.run(["mount", "--make-shared", "/run"], check=True)  # a file of mnt needs a mount of its own there
        fields: dict[str, Any] = {"path": "/run/here/x"}
        found = []
        run_a_thread()
        for type in ("net", "pid", "mnt"):
            nsapi.create(type).close()  # all modules are loaded now
        for call, done, *_ in rows:
            what, type, *name = done.split()
            keywords: Any = {"name": "x"} if name else {**fields}
            if type == "mnt":
                keywords["propagation"] = "unchanged"  # nothing is mounted inside
            if what == "unpin":
                nsapi.create(type, **fields).close()
            before, told = everything(), []

            def in_thread() -> None:
                """A filter is its thread's own."""
                answer_enosys((call, None), errnum=errno.EPERM)
                if what == "unpin":
                    told.append(failure(lambda: nsapi.unpin("/run/here/x")))
                else:
                    told.append(failure(lambda: nsapi.create(type, **keywords)))

            thread = threading.Thread(target=in_thread)
            thread.start()
            end_of(thread)
            left = [str(path.relative_to("/run")) for path in pathlib.Path("/run").rglob("*") if path.is_file()]
            same = changed(before)
            if what == "unpin" and "remove" not in str(told[0]["step"]):
                nsapi.unpin("/run/here/x")
            for path in ("/run/here/x", "/run/netns"):
                subprocess.run(["umount", "--quiet", path], stderr=subprocess.DEVNULL)
            if os.path.exists("/run/here/x"):
                os.unlink("/run/here/x")
            found.append([told[0]["errno"], told[0]["step"], left, same, own_inits()])
        return found

    rows = host(body, STEPS)
    for row, found in zip(STEPS, rows, strict=True):
        mounts = ["mounts"] if row[2].startswith("remove") else []
        assert found == [errno.EPERM, row[2], row[3], mounts, []], row


def test_a_limit_leaves_nothing(container: Mounter) -> None:
    """Of every type: the hint names the sysctl; no folder is made for a name that cannot be."""

    def body() -> Any:
        found = {}
        nsapi.create("user").close()
        before = everything()
        for type in TYPES:
            path = f"/proc/sys/user/max_{type}_namespaces"
            old = pathlib.Path(path).read_text()
            pathlib.Path(path).write_text("0")
            found[type] = failure(lambda: nsapi.create(type, name="a"))
            pathlib.Path(path).write_text(old)
        return [
            {type: [case["errno"], case["hint"]] for type, case in found.items()},
            before == everything(),
            os.listdir("/run"),
        ]

    found, same, left = container(body)
    assert found == {type: [28, f"user.max_{type}_namespaces is 0"] for type in TYPES}
    assert (same, left) == (True, [])


def test_ctrl_c_leaves_nothing(host: Mounter) -> None:
    """Wherever it comes while a name is made or taken away: it is there whole or not at all, and so is its pid 1."""

    def body(type: str) -> Any:
        moment = 0

        def skip(code: Any, _: str) -> bool:
            return not code.co_filename.endswith(("/_pin.py", "/_bind.py")) or code.co_name == "__exit__"

        def again(frame: Any, event: str, argument: Any) -> Any:
            """Once more, while all is undone for the first."""
            if frame.f_code.co_name == "_undo":
                if event == "line" and "slot" in frame.f_locals:
                    sys.settrace(None)
                    raise KeyboardInterrupt
                return again
            return None

        def interrupted(call: Any) -> bool:
            """Whether it has come, at the next of these places; there may be no more."""
            nonlocal moment
            moment, made = moment + 1, None
            ctrl_c = CtrlC(moment, skip)
            sys.settrace(again)
            with ctrl_c:
                made = call()
            sys.settrace(None)
            if made is not None:
                made.close()
            return ctrl_c.came

        def rest() -> Any:
            """What is there of it, when those who are ending have ended: all have our mount namespace."""
            deadline, own = time.monotonic() + 20, ns("mnt")
            while True:
                alive = []
                for pid in filter(str.isdigit, os.listdir("/proc")):
                    try:
                        if ns("mnt", pid) == own and status("State", pid)[0] not in "ZX" and pid != str(os.getpid()):
                            alive.append(status("Name", pid))
                    except OSError:
                        continue
                if not alive or time.monotonic() > deadline:
                    break
            after = everything()
            return [alive, os.listdir(folder), *(name for name in before if before[name] != after[name])]

        warnings.simplefilter("ignore")  # who is interrupted may leave a handle unclosed, which closes itself then
        nsapi.create(type, name="warm").close()
        folder = os.path.dirname(nsapi.named(type)["warm"])
        nsapi.unpin("warm", type)
        before, wrong, counts = everything(), [], []
        while interrupted(lambda: nsapi.create(type, name="a")):
            if nsapi.named(type):
                wrong.append(["name", moment])
                nsapi.unpin("a", type)
            if rest() != [[], []]:
                wrong.append(["create", moment, rest()])
                before = everything()
        counts.append(moment > 30)
        moment = 0
        while interrupted(lambda: nsapi.unpin("a", type)):
            if not nsapi.named(type):
                if rest() != [[], []]:
                    wrong.append(["unpin", moment, rest()])
                    before = everything()
                nsapi.create(type, name="a").close()
        counts.append(moment > 20)
        moment = 0
        while True:
            handle = nsapi.create(type)
            before, inits = everything(), first_of(handle.id[1])
            came = interrupted(lambda: handle.pin(f"{folder}/a"))
            there = bool(nsapi.named(type))
            if not there and everything() != before:
                wrong.append(["pin", moment, os.listdir(folder)])
            handle.close()
            # Where the name is there pid 1 stays with it, whenever Ctrl-C came; and else with the handle, as before.
            if there != (first_of(handle.id[1]) == inits) and inits:
                wrong.append(["pid 1", moment, there])
            for name in nsapi.named(type):
                nsapi.unpin(name, type)
            if rest()[0]:
                wrong.append(["pid 1 stays", moment, there])
            if not came:
                break
        counts.append(moment > 15)
        return [wrong, counts, rest()[1]]

    for type in ("net", "pid"):
        assert host(body, type) == [[], [True, True, True], []], type


def test_ctrl_c_while_pid_1_is_started_leaves_no_fd(root: Runner) -> None:
    """Also where it comes in subprocess, which opens /dev/null for who asks it to."""

    def body() -> Any:
        def attempt(ctrl_c: CtrlC) -> list[Any]:
            before = fds()
            with ctrl_c:
                nsapi.create("pid").close()
            after = fds()
            return [] if after == before else [before, after]

        warnings.simplefilter("ignore")  # who is interrupted may leave a handle unclosed, which closes itself then
        file = subprocess.__file__
        return at_every_moment(attempt, skip=lambda code, _: code.co_filename != file, also=file)

    moments, wrong = root(body)
    assert moments > 5
    assert wrong == []
