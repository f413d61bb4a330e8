"""unshare, and what test_native.py leaves of setns: what each type changes, in a thread and alone, and every refusal."""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Runner, lacking
from inside import (
    NEW_OF_EACH,
    TYPES,
    all_ns,
    everything,
    failure,
    ns,
    only_child,
    ready,
    status,
    unshared,
)
from test_enter import ENTERABLE, NEW_TO_ENTER, OWN, Equipped, changes, in_thread, position

import nsapi

IN_A_THREAD = ("ipc", "uts", "net", "pid", "mnt", "cgroup", "time")

#: What is different afterwards: of the calling thread, and of what it starts.
MOVES = {"pid": ["pid_for_children"], "time": ["time_for_children"]}
CHILD_MOVES = {"pid": ["pid", "pid_for_children"], "time": ["time", "time_for_children"]}


def namespaces(task: str | int = "thread-self") -> dict[str, str]:
    """As all_ns(), but "" for a pid namespace for children in which there has been no child yet."""
    found = {}
    for name in [*TYPES, "pid_for_children", "time_for_children"]:
        try:
            found[name] = ns(name, task)
        except FileNotFoundError:
            found[name] = ""
    return found


def equip(runner: Runner) -> Runner:
    import inspect

    equipped = Equipped(runner)
    equipped.prelude += f"{inspect.getsource(namespaces)}\nMOVES = {MOVES!r}\n"
    return equipped


@pytest.fixture(scope="session")
def root(root: Runner) -> Runner:
    return equip(root)


@pytest.fixture(scope="session")
def user(user: Runner) -> Runner:
    return equip(user)


# ---- unshare: what it changes ----


@pytest.mark.parametrize("type", TYPES)
def test_unshare_changes_one_namespace_and_nothing_else(anyone: Runner, type: str) -> None:
    """For pid and time it is the children that move, not the caller; with user ids and capabilities change as well."""

    def body(type: str) -> Any:
        before, names = everything(), namespaces()
        assert nsapi.unshare(type) is None  # type: ignore[func-returns-value]
        changed = changes(names, namespaces())
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
            inherited = changes(names, namespaces(child.pid))
            now = {**everything(), "fds": before["fds"], "children": before["children"], "namespaces": 0}
        return {"moved": changed, "child": inherited, "rest": changes({**before, "namespaces": 0}, now)}

    answer = anyone(body, type)
    assert answer["moved"] == MOVES.get(type, [type])
    assert answer["child"] == CHILD_MOVES.get(type, [type])
    # The table of mounts shows the ids of its own mounts, and paths from the root of the cgroup namespace.
    allowed = {"user": {"ids", "caps"}, "mnt": {"mounts"}, "cgroup": {"mounts"}}
    assert set(answer["rest"]) <= allowed.get(type, set())


@pytest.mark.parametrize("type", IN_A_THREAD)
def test_unshare_in_a_thread_moves_that_thread_alone(anyone: Runner, type: str) -> None:
    """Every other thread of the process is as before, also in what it will start."""

    def body(type: str) -> Any:
        home = all_ns()
        with ThreadPoolExecutor(1) as mover, ThreadPoolExecutor(1) as bystander:
            before = [position(), bystander.submit(position).result()]
            mover.submit(nsapi.unshare, type).result()
            moved = changes(home, mover.submit(namespaces).result())
            readlink = ["readlink", f"/proc/self/ns/{type}"]
            started = [
                pool.submit(subprocess.check_output, readlink, text=True).result().strip() == home[type]
                for pool in (mover, bystander)
            ]
            return [moved, started, [position(), bystander.submit(position).result()] == before]

    assert anyone(body, type) == [MOVES.get(type, [type]), [False, True], True]


SPELLINGS = ("word", "oci word", "NEW", "CLONE_NEW", "member", "mask")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_unshare_takes_every_spelling(anyone: Runner, spelling: str) -> None:
    """proc's, OCI's, libcontainer's and the kernel's word, the member itself, and a number."""

    def body(spelling: str) -> Any:
        moved: list[object] = []
        for member in nsapi.NamespaceType:
            words = {
                "word": member.proc_name,
                "oci word": member.oci_name,
                "NEW": member.value,
                "CLONE_NEW": f"CLONE_{member.value}",
                "member": member,
                "mask": member.flag,
            }
            pid = os.fork()
            if pid == 0:
                before = namespaces()
                nsapi.unshare(words[spelling])
                expected = MOVES.get(member.proc_name, [member.proc_name])
                os._exit(changes(before, namespaces()) != expected)
            moved.append(os.waitpid(pid, 0)[1])
        return moved

    assert anyone(body, spelling) == [0] * 8


@pytest.mark.parametrize("form", ["words", "members", "mask"])
def test_unshare_takes_several_types_at_once(anyone: Runner, form: str) -> None:
    """All that are named, in any order, by one call; a mask is as good as words."""

    def body(form: str) -> Any:
        moved = []
        for words in (["net", "uts"], ["mnt", "user"], list(TYPES)):
            pid = os.fork()
            if pid == 0:
                before, members = namespaces(), [nsapi.NamespaceType.parse(word) for word in words]
                if form == "mask":
                    nsapi.unshare(sum(member.flag for member in members))
                else:
                    nsapi.unshare(*(words if form == "words" else members))
                expected = sorted(MOVES.get(word, [word])[0] for word in words)
                os._exit(sorted(changes(before, namespaces())) != expected)
            moved.append(os.waitpid(pid, 0)[1])
        return moved

    assert anyone(body, form) == [0, 0, 0]


def test_several_types_are_one_system_call_and_all_or_none(root: Runner) -> None:
    """Where the last of several is not allowed, the first has not been made either."""

    def body() -> Any:
        pathlib.Path("/proc/sys/user/max_net_namespaces").write_text("0")
        before = everything()
        answer = failure(lambda: nsapi.unshare("uts", "ipc", "mnt", "cgroup", "net"))
        return [answer["errno"], changes(before, everything())]

    assert root(body, under=("unshare", "--user", "--map-root-user")) == [errno.ENOSPC, []]


def test_a_user_without_privilege_makes_the_others_with_user(user: Runner) -> None:
    """Together with user no capability is needed; he has all of them inside, and no ids until a map is written."""

    def body() -> Any:
        assert status("CapEff") == "0000000000000000"
        before, uid = namespaces(), os.getuid()
        nsapi.unshare("user", "net", "uts", "mnt")
        answer = {"moved": changes(before, namespaces()), "ids": [os.getuid(), os.getgid()]}
        answer["capable"] = int(status("CapEff"), 16) != 0
        pathlib.Path("/proc/self/setgroups").write_text("deny")
        pathlib.Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        subprocess.run(["hostname", "inside"], check=True)
        return {**answer, "mapped": os.getuid()}

    assert user(body, under=()) == {
        "moved": ["user", "uts", "net", "mnt"],
        "ids": [65534, 65534],
        "capable": True,
        "mapped": 0,
    }


def test_the_first_process_after_unsharing_pid_is_pid_1(anyone: Runner) -> None:
    """The caller keeps its own pid, starts no threads any more, and nobody at all once pid 1 has ended."""

    def body() -> Any:
        pid = os.getpid()
        nsapi.unshare("pid")
        thread = failure(lambda: in_thread(int))["text"]
        first = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout
        after = failure(os.fork)["errno"]
        return [os.getpid() == pid, thread, first, after]

    assert anyone(body) == [True, "can't start new thread", "1\n", errno.ENOMEM]


def test_unsharing_mnt_gives_the_thread_its_own_cwd_and_umask(anyone: Runner) -> None:
    """As unshare(2) says, CLONE_NEWNS implies CLONE_FS: what it changes from then on is its own."""

    def body() -> Any:
        os.chdir("/tmp")
        os.umask(0o022)

        def work() -> Any:
            nsapi.unshare("mnt")
            kept = [os.getcwd(), status("Umask")]
            os.chdir("/proc")
            os.umask(0o077)
            return kept

        return [in_thread(work), os.getcwd(), status("Umask")]

    assert anyone(body) == [["/tmp", "0022"], "/tmp", "0022"]


# ---- unshare: refusals ----


@pytest.mark.parametrize("others", [1, 4])
def test_user_in_a_threaded_process_is_refused_with_the_number_of_threads(anyone: Runner, others: int) -> None:
    """Alone, with other types, or in a mask: before anything changes; threads that Python does not know count too."""

    def body(others: int) -> Any:
        libc = ctypes.CDLL(None)
        for _ in range(others - 1):
            thread = ctypes.c_ulong()
            assert libc.pthread_create(ctypes.byref(thread), None, libc.pause, None) == 0
        answers = []
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
            user = nsapi.NamespaceType.USER.flag
            before = everything()
            for types in (("user",), ("net", "user"), (user,), (user | nsapi.NamespaceType.UTS.flag,)):
                for unshare in (nsapi.unshare, lambda *types: pool.submit(nsapi.unshare, *types).result()):
                    answer = failure(lambda: unshare(*types))
                    answers.append([answer["errno"], answer["step"], answer["text"], changes(before, everything())])
        return answers

    answers = anyone(body, others)
    assert len(answers) == 8
    for errnum, step, text, changed in answers:
        assert (errnum, step) == (errno.EINVAL, "check")
        assert f"this process has {others + 1} threads" in text
        assert "use run or Popen" in text
        assert changed == []


def test_without_privilege_the_error_says_what_it_takes(user: Runner) -> None:
    """EPERM for each type but user: which step, which type, and both remedies; nothing has changed."""

    def body() -> Any:
        answers = []
        for words in ("ipc", "uts", "net", "pid", "mnt", "cgroup", "time", "net,uts"):
            before = everything()
            answer = failure(lambda: nsapi.unshare(*words.split(",")))
            answers.append([words, answer["classes"], answer["step"], answer["text"], changes(before, everything())])
        return answers

    for words, classes, step, text, changed in user(body, under=()):
        assert "PermissionError" in classes
        assert step == f"unshare {words}"
        assert "CAP_SYS_ADMIN" in text
        assert "add 'user'" in text
        assert changed == []


@pytest.mark.parametrize("type", TYPES)
def test_at_a_limit_the_error_names_the_sysctl(anyone: Runner, type: str) -> None:
    """ENOSPC where user.max_TYPE_namespaces is 0, which a sandbox can set for its inmates; nothing has changed."""

    def body(type: str) -> Any:
        pathlib.Path(f"/proc/sys/user/max_{type}_namespaces").write_text("0")
        before = everything()
        answer = failure(lambda: nsapi.unshare(type))
        return [answer["errno"], answer["step"], answer["text"], changes(before, everything())]

    under = ("unshare", "--user", "--map-root-user") if anyone.name == "root" else OWN
    errnum, step, text, changed = anyone(body, type, under=under)
    assert errnum == errno.ENOSPC
    assert step == f"unshare {type}"
    assert f"user.max_{type}_namespaces is 0" in text
    assert changed == []


def test_user_namespaces_nested_too_deep_are_told(anyone: Runner) -> None:
    """The kernel nests about 32: then ENOSPC, with the reason, as no limit of the sysctls is reached."""

    def body() -> Any:
        for depth in range(40):
            uid, gid = os.getuid(), os.getgid()
            answer = failure(lambda: nsapi.unshare("user"))
            if answer:
                return [depth, answer["errno"], answer["text"]]
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                pathlib.Path(f"/proc/self/{name}").write_text(text)
        return []

    depth, errnum, text = anyone(body, under=())
    assert depth > 20
    assert errnum == errno.ENOSPC
    assert "nested 33 deep" in text


def test_user_in_a_chroot_is_refused_with_a_reason(root: Runner, readable_tmp: pathlib.Path) -> None:
    """The kernel forbids it: EPERM, and the hint knows of chroots."""

    def body(folder: str) -> Any:
        unshare = nsapi.unshare  # is loaded at first use
        os.chroot(folder)
        return failure(lambda: unshare("user"))

    answer = root(body, str(readable_tmp))
    assert answer["errno"] == errno.EPERM
    assert "chroot" in answer["text"]


def test_pid_can_be_unshared_once(anyone: Runner) -> None:
    """A second time is EINVAL, with the reason; in a thread as well."""

    def body() -> Any:
        def work() -> Any:
            nsapi.unshare("pid")
            return failure(lambda: nsapi.unshare("pid"))

        answers = [in_thread(work), work()]
        return [[answer["errno"], answer["step"], answer["text"]] for answer in answers]

    for errnum, step, text in anyone(body):
        assert (errnum, step) == (errno.EINVAL, "unshare pid")
        assert "is set already" in text


WRONG = {
    "": ("TypeError", "name at least one"),
    "0": ("ValueError", "0 names no namespace type"),
    "-1": ("ValueError", "is no sum of CLONE_NEW*"),
    "2**64": ("ValueError", "is no sum of CLONE_NEW*"),
    "0x200": ("ValueError", "0x200 is no sum of CLONE_NEW*"),  # CLONE_FS
    "nsapi.NamespaceType.NET.flag | 0x200": ("ValueError", "is no sum of CLONE_NEW*"),
    "True": ("TypeError", "True is no namespace type"),
    "1.0": ("TypeError", "1.0 is no namespace type"),
    "None": ("TypeError", "None is no namespace type"),
    "'nut'": ("ValueError", "'nut' is no namespace type"),
    "'net,uts'": ("ValueError", "'net,uts' is no namespace type"),
    "b'net'": ("TypeError", "b'net' is no namespace type"),
    "['net', 'uts']": ("TypeError", "is no namespace type"),
    "'net', 'network'": ("ValueError", "given twice"),
    "'net', nsapi.NamespaceType.UTS.flag": ("TypeError", "is no namespace type"),
    "nsapi.NamespaceType.NET.flag, nsapi.NamespaceType.UTS.flag": ("TypeError", "is no namespace type"),
}


@pytest.fixture(scope="module")
def wrong(root: Runner) -> Any:
    def body(calls: list[str]) -> Any:
        before = everything()
        answers = {call: failure(lambda: eval(f"nsapi.unshare({call})")) for call in calls}
        return {**answers, "changed": changes(before, everything())}

    return root(body, list(WRONG))


@pytest.mark.parametrize("arguments", WRONG)
def test_arguments_of_unshare_that_mean_nothing_are_refused(wrong: Any, arguments: str) -> None:
    """TypeError or ValueError before any system call, naming what is wrong."""
    kind, words = WRONG[arguments]
    assert kind in wrong[arguments]["classes"], wrong[arguments]
    assert wrong[arguments]["errno"] is None
    assert words in wrong[arguments]["text"]
    assert wrong["changed"] == []


def test_a_thousand_failures_leave_nothing(user: Runner) -> None:
    """Of each kind: fds, children, namespaces, masks, mounts and memory of the process are as before."""

    def body() -> Any:
        pidfd, before = os.pidfd_open(os.getpid()), everything()
        for _ in range(1000):
            failure(lambda: nsapi.unshare("net"))
            failure(lambda: nsapi.unshare("nut"))
            failure(lambda: nsapi.setns(pidfd, "net"))
            failure(lambda: nsapi.setns(pidfd, "user"))
            failure(lambda: nsapi.setns(0, "net"))
        return changes(before, everything())

    assert user(body, under=()) == []


# ---- setns ----


@pytest.mark.parametrize("way", ["handle", "pidfd"])
def test_setns_in_a_thread_moves_that_thread_alone_and_for_good(anyone: Runner, way: str) -> None:
    """Each type but user and time; every other thread is as before, and nothing comes back by itself."""

    def body(way: str) -> Any:
        wrong: list[Any] = []
        os.chdir("/tmp")
        with unshared(*NEW_TO_ENTER) as parent, ThreadPoolExecutor(1) as bystander:
            child = only_child(parent.pid)
            pidfd, there, before = (
                os.pidfd_open(child),
                all_ns(child),
                [position(), bystander.submit(position).result()],
            )
            for type in ENTERABLE:
                handle, name = nsapi.open(child, type), "pid_for_children" if type == "pid" else type

                def work() -> Any:
                    home = position()
                    nsapi.setns(handle if way == "handle" else pidfd, type, unshare_fs=type == "mnt")
                    moved = position()
                    return [changes(home, moved), moved[name] == there[name]]

                expected = {"pid": ["pid_for_children"], "mnt": ["mnt", "cwd"]}.get(type, [type])
                if in_thread(work) != [expected, True]:
                    wrong.append(type)
                if [position(), bystander.submit(position).result()] != before:
                    wrong.append([type, "others"])
                handle.close()
        return wrong

    assert anyone(body, way) == []


def test_setns_of_mnt_goes_to_its_root(root: Runner) -> None:
    """As setns(2): root and cwd are the root of the mount namespace, and a chroot is behind."""

    def body() -> Any:
        with unshared("--mount") as process:
            handle = nsapi.open(process, "mnt")
            nsapi.unshare("mnt")  # loads all modules that this takes
            os.chroot("/usr")
            os.chdir("/bin")
            nsapi.setns(handle)
            handle.close()
            return [os.getcwd(), os.path.isdir("/usr/bin")]

    assert root(body) == ["/", True]


@pytest.mark.parametrize("others", [1, 3])
def test_setns_of_user_and_time_in_a_threaded_process_is_refused_with_their_number(anyone: Runner, others: int) -> None:
    """By a namespace or by a pidfd, alone or among others, with and without nstype: nothing has changed."""

    def body(others: int) -> Any:
        answers: list[Any] = []
        with ThreadPoolExecutor(others) as pool, unshared(*NEW_OF_EACH) as parent:
            start = threading.Barrier(others + 1, timeout=30)
            for _ in range(others):
                pool.submit(start.wait)
            start.wait()
            child = only_child(parent.pid)
            pidfd = os.pidfd_open(child)
            for type in ("user", "time"):
                handle = nsapi.open(child, type)
                before = everything()
                ways: list[Any] = [
                    (handle,),
                    (handle, type),
                    (handle.fileno(), 0),
                    (pidfd, type),
                    (pidfd, ("net", type)),
                ]
                for way in ways:
                    answer = failure(lambda: nsapi.setns(*way))
                    text = answer["text"]
                    answers.append([type, answer["errno"], answer["step"], text, changes(before, everything())])
                handle.close()
        return answers

    answers = anyone(body, others)
    assert len(answers) == 10
    for type, errnum, step, text, changed in answers:
        assert errnum == (errno.EINVAL if type == "user" else errno.EUSERS)
        assert step == "check"
        assert f"this process has {others + 1} threads" in text
        assert f"a {type} namespace" in text
        assert "use run or Popen" in text
        assert changed == []


SETNS_WRONG = {
    "file of another type": ("NamespaceError", errno.EINVAL, "it is a uts namespace, and net was asked for"),
    "handle of another type": ("NamespaceError", errno.EINVAL, "it is a uts namespace, and net was asked for"),
    "file, two types": ("NamespaceError", errno.EINVAL, "it is a uts namespace, and uts,net was asked for"),
    "own user namespace": ("NamespaceError", errno.EINVAL, "leave user out of nstype"),
    "own user namespace of a pidfd": ("NamespaceError", errno.EINVAL, "leave user out of nstype"),
    "own user namespace among others": ("NamespaceError", errno.EINVAL, "leave user out of nstype"),
    "plain file": ("NamespaceError", errno.EINVAL, "it is no namespace and no pidfd"),
    "directory": ("NamespaceError", errno.EINVAL, "it is no namespace and no pidfd"),
    "/proc/PID": ("NamespaceError", errno.EINVAL, "it is no namespace and no pidfd"),
    "socket": ("NamespaceError", errno.EINVAL, "it is no namespace and no pidfd"),
    "O_PATH": ("NamespaceError", errno.EBADF, "O_PATH"),
    "closed fd": ("NamespaceError", errno.EBADF, "fd 987"),
    "closed file": ("ValueError", None, "closed"),
    "closed handle": ("ValueError", None, "closed"),
    "-1": ("NamespaceError", errno.EBADF, "fd -1"),
    "2**31": ("NamespaceError", errno.EBADF, "fd 2147483648"),
    "2**70": ("NamespaceError", errno.EBADF, "fd 1180591620717411303424"),
    "pidfd without type": ("NamespaceError", errno.EINVAL, "for a pidfd nstype names the types"),
    "pidfd of a dead process": ("ProcessLookupError", errno.ESRCH, "has ended"),
    "pidfd of a zombie": ("ProcessLookupError", errno.ESRCH, "has ended"),
    "pidfd of a dead process, user": ("ProcessLookupError", errno.ESRCH, "has ended"),
    "fd: bool": ("TypeError", None, "True is no file descriptor"),
    "fd: str": ("TypeError", None, "'/proc/self/ns/net' is no file descriptor"),
    "fd: None": ("TypeError", None, "None is no file descriptor"),
    "fd: float": ("TypeError", None, "1.0 is no file descriptor"),
    "nstype: bool": ("TypeError", None, "True is no namespace type"),
    "nstype: None": ("TypeError", None, "None is no namespace type"),
    "nstype: float": ("TypeError", None, "1.5 is no namespace type"),
    "nstype: a number in it": ("TypeError", None, "7 is no namespace type"),
    "nstype: no type": ("ValueError", None, "'nut' is no namespace type"),
    "nstype: twice": ("ValueError", None, "given twice"),
    "nstype: other flags": ("ValueError", None, "0x200 is no sum of CLONE_NEW*"),
    "nstype: negative": ("ValueError", None, "is no sum of CLONE_NEW*"),
}


def refuse_setns() -> Any:
    """In the child: each way once to look at the error, 50 times to look at what is left."""
    import socket

    file, plain, a_socket, closed = open("/proc/self/ns/uts"), open("/dev/null"), socket.socket(), open("/dev/null")
    closed.close()
    handle, closed_handle = nsapi.current("uts"), nsapi.current("uts")
    closed_handle.close()
    own, pidfd = nsapi.current("user"), os.pidfd_open(os.getpid())
    ended, zombie = subprocess.Popen(["true"]), subprocess.Popen(["true"])
    dead, gone = os.pidfd_open(ended.pid), os.pidfd_open(zombie.pid)
    ended.wait()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    ways: dict[str, tuple[Any, ...]] = {
        "file of another type": (file, "net"),
        "handle of another type": (handle, "net"),
        "file, two types": (file, ("uts", "net")),
        "own user namespace": (own,),
        "own user namespace of a pidfd": (pidfd, "user"),
        "own user namespace among others": (pidfd, ("user", "net", "uts")),
        "plain file": (plain,),
        "directory": (os.open("/", os.O_RDONLY), "net"),
        "/proc/PID": (os.open("/proc/self", os.O_RDONLY), "net"),
        "socket": (a_socket, "net"),
        "O_PATH": (os.open("/proc/self/ns/uts", os.O_PATH), "uts"),
        "closed fd": (987, "net"),
        "closed file": (closed, "net"),
        "closed handle": (closed_handle,),
        "-1": (-1, "net"),
        "2**31": (2**31, "net"),
        "2**70": (2**70, "net"),
        "pidfd without type": (pidfd,),
        "pidfd of a dead process": (dead, "net"),
        "pidfd of a zombie": (gone, ("net", "uts")),
        "pidfd of a dead process, user": (dead, ("user", "net")),
        "fd: bool": (True, "net"),
        "fd: str": ("/proc/self/ns/net", "net"),
        "fd: None": (None,),
        "fd: float": (1.0, "net"),
        "nstype: bool": (file, True),
        "nstype: None": (file, None),
        "nstype: float": (file, 1.5),
        "nstype: a number in it": (file, ["uts", 7]),
        "nstype: no type": (file, "nut"),
        "nstype: twice": (pidfd, ("net", "net")),
        "nstype: other flags": (file, 0x200),
        "nstype: negative": (file, -1),
    }
    answers: dict[str, Any] = {}
    for name, way in ways.items():
        answers[name], before = failure(lambda: nsapi.setns(*way)), everything()
        for _ in range(50):
            failure(lambda: nsapi.setns(*way))
        answers[name]["changed"] = changes(before, everything())
    zombie.wait()
    for each in (file, plain, a_socket, handle, own):
        each.close()
    return answers


@pytest.fixture(scope="module", params=["root", "user"])
def setns_refusals(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)(refuse_setns)


@pytest.mark.parametrize("way", SETNS_WRONG)
def test_setns_says_what_is_wrong(setns_refusals: Any, way: str) -> None:
    """A class and errno to act upon, words that name the caller's own things, nothing changed and nothing left open."""
    raised, errnum, words = SETNS_WRONG[way]
    answer = setns_refusals[way]
    assert raised in answer["classes"], answer
    assert answer["errno"] == errnum
    assert words in answer["text"]
    assert "_Lent" not in answer["text"]
    assert answer["changed"] == []
    assert sorted(setns_refusals) == sorted(SETNS_WRONG)


def test_setns_without_privilege_says_what_it_takes(user: Runner) -> None:
    """EPERM on one's own process's and EACCES on another user's namespaces, by fd and by pidfd; nothing has changed."""

    def body() -> Any:
        answers = []
        with ready("sh", "-c", "echo ready; exec sleep 1000") as process:
            handle, pidfd, root = nsapi.open(process, "net"), os.pidfd_open(process.pid), os.pidfd_open(1)
            before = everything()
            for fd, types in ((handle, "net"), (pidfd, "net"), (pidfd, ("mnt", "uts")), (root, "net"), (root, "user")):
                answer = failure(lambda: nsapi.setns(fd, types))
                answers.append([answer["classes"], answer["text"], changes(before, everything())])
            handle.close()
        return answers

    answers = user(body, under=())
    for classes, text, changed in answers:
        assert "PermissionError" in classes
        assert "CAP_SYS_" in text
        assert "_Lent" not in text
        assert changed == []


def test_setns_takes_the_pidfd_of_a_thread(root: Runner) -> None:
    """PIDFD_THREAD of pidfd_open(2): the namespaces of that thread, not of its process."""

    def body() -> Any:
        told, stop = threading.Event(), threading.Event()
        seen: list[Any] = []

        def stay() -> None:
            nsapi.unshare("uts")
            seen.extend([threading.get_native_id(), ns("uts")])
            told.set()
            stop.wait(30)

        thread = threading.Thread(target=stay)
        thread.start()
        told.wait(30)
        try:
            pidfd = os.pidfd_open(seen[0], os.O_EXCL)
        except OSError:
            stop.set()
            return ["old kernel"]

        def move() -> str:
            nsapi.setns(pidfd, "uts")
            return ns("uts")

        moved = in_thread(move)
        stop.set()
        thread.join()
        return [moved == seen[1] != ns("uts")]

    answer = root(body)
    if answer == ["old kernel"]:
        lacking("Linux 6.9, for PIDFD_THREAD")
    assert answer == [True]


def test_the_children_of_a_thread_after_setns_of_pid(anyone: Runner) -> None:
    """They are born in the other namespace, while the caller stays where it is; back again by its own namespace."""

    def body() -> Any:
        with unshared(*NEW_TO_ENTER) as parent:
            child, home = only_child(parent.pid), nsapi.current("pid")
            handle, own = nsapi.open(child, "pid"), ns("pid")
            readlink = ["readlink", "/proc/self/ns/pid"]
            nsapi.setns(handle, "pid")
            seen = [ns("pid") == own, subprocess.check_output(readlink, text=True).strip() == ns("pid", child)]
            nsapi.setns(home)
            seen.append(subprocess.check_output(readlink, text=True).strip() == own)
            for each in (home, handle):
                each.close()
        return seen

    assert anyone(body) == [True, True, True]
