"""Config.sysctl: set inside, the host's unchanged, by either carrier; what is not set is an error that names the key."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner, tool
from inside import PYTHON, everything, failure, ready

import nsapi

FORWARD = "net.ipv4.ip_forward"
#: A vfork child, and what the launcher is for.
CARRIERS: dict[str, dict[str, object]] = {
    "vfork child": {},
    "launcher": {"uid": 0},
    "launcher with init": {"init": True},
}


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> dict[str, object]:
    """Fields that change nothing but who performs the steps."""
    return CARRIERS[request.param]


def host_file(key: str) -> Path:
    return Path("/proc/sys", *key.split("."))


# ---- what is set ----


def test_a_sysctl_is_set_inside_and_the_hosts_is_as_it_was(anyone: Runner, carrier: dict[str, object]) -> None:
    """Seen by sysctl(8), and by the same program outside."""
    tool("sysctl")

    def body(key: str, fields: dict[str, Any]) -> list[str]:
        before = subprocess.run(["sysctl", key], capture_output=True, text=True).stdout
        config = nsapi.Config.new("user", "net", "pid", sysctl={key: "1"}, **fields)
        inside = nsapi.run(["sysctl", key], config=config, capture_output=True, text=True, check=True).stdout
        after = subprocess.run(["sysctl", key], capture_output=True, text=True).stdout
        return [inside, before, after]

    inside, before, after = anyone(body, FORWARD, carrier)
    assert inside == f"{FORWARD} = 1\n"
    assert before == after
    if host_file(FORWARD).read_text() == "0\n":
        assert before == f"{FORWARD} = 0\n"


# a key, its type, the value written, the value read
KEYS = [
    (FORWARD, "net", "1\n", "1"),
    ("net/ipv4/conf/lo/forwarding", "net", "1", "1"),
    ("net.ipv4.ip_local_port_range", "net", "1024 2000", "1024\t2000"),
    ("net.ipv4.ping_group_range", "net", "0 0", "0\t0"),
    ("kernel.msgmax", "ipc", "4096", "4096"),
    ("kernel.sem", "ipc", "250 32000 32 77", "250\t32000\t32\t77"),
    ("kernel.shm_rmid_forced", "ipc", "1", "1"),
    ("fs.mqueue.queues_max", "ipc", "17", "17"),
    ("user.max_net_namespaces", "user", "3", "3"),
    ("kernel.domainname", "uts", "a b", "a b"),
    ("kernel.domainname", "uts", "d" * 64, "d" * 64),
]


def test_what_a_shell_in_unshare_may_set_can_be_set(anyone: Runner, carrier: dict[str, object]) -> None:
    """Keys of all four types: the value is read inside, where unshare(1) may write it; else the error has a hint."""
    tool("unshare")

    def body(keys: list[tuple[str, str, str, str]], fields: dict[str, Any]) -> list[Any]:
        answers = []
        for key, type, given, _ in keys:
            path = "/proc/sys/" + (key if "/" in key else key.replace(".", "/"))
            before = pathlib.Path(path).read_text()
            shell = [
                "unshare",
                "--user",
                "--map-root-user",
                f"--{type}",
                "sh",
                "-c",
                'printf %s "$0" > "$1"',
                given,
                path,
            ]
            may = subprocess.run(shell, capture_output=True).returncode == 0
            config = nsapi.Config.new("user", *({type, "pid"} - {"user"}), sysctl={key: given}, **fields)
            try:
                found: object = nsapi.run(["cat", path], config=config, capture_output=True, text=True).stdout
            except nsapi.NamespaceError as error:
                found = [error.errno, error.step, bool(error.hint)]
            answers.append([may, found, pathlib.Path(path).read_text() == before])
        return answers

    for (key, _, _, expected), (may, found, same) in zip(KEYS, anyone(body, KEYS, carrier), strict=True):
        assert same, key
        if may:
            assert found == f"{expected}\n", key
        else:
            assert found == [errno.EACCES, f"write sysctl {key.replace('/', '.')}", True]


def test_without_a_user_namespace_root_sets_them_too(root: Runner, carrier: dict[str, object]) -> None:
    """What is created is the caller's own then."""

    def body(key: str, fields: dict[str, Any]) -> Any:
        keys = {key: "1", "kernel.shmmni": "77", "kernel.domainname": "there"}
        config = nsapi.Config.new("net", "ipc", "uts", "pid", sysctl=keys, **fields)
        paths = ["/proc/sys/" + each.replace(".", "/") for each in keys]
        return nsapi.run(["cat", *paths], config=config, capture_output=True, text=True).stdout.split()

    assert root(body, FORWARD, carrier) == ["1", "77", "there"]


def test_they_are_written_in_the_order_given(anyone: Runner, carrier: dict[str, object]) -> None:
    """ip_forward sets all interfaces, so what is said of one must come after it to last; the kernel's ways, kept."""

    def body(key: str, fields: dict[str, Any]) -> list[str]:
        one = "net.ipv4.conf.lo.forwarding"
        answers = []
        for sysctl in ({key: "1", one: "0"}, {one: "0", key: "1"}):
            config = nsapi.Config.new("user", "net", "pid", sysctl=sysctl, **fields)
            path = "/proc/sys/net/ipv4/conf/lo/forwarding"
            answers.append(nsapi.run(["cat", path], config=config, capture_output=True, text=True).stdout.strip())
        return answers

    assert anyone(body, FORWARD, carrier) == ["0", "1"]


def test_the_program_gets_no_fd_of_it(anyone: Runner, carrier: dict[str, object]) -> None:
    """Not even with close_fds=False: the /proc through which they are written is the caller's."""

    def body(key: str, fields: dict[str, Any]) -> list[list[str]]:
        answers = []
        for close_fds in (True, False):
            config = nsapi.Config.new("user", "net", "pid", sysctl={key: "1"}, **fields)
            argv = [*PYTHON, "import os; print(*os.listdir('/proc/self/fd'))"]
            made = nsapi.run(
                argv, config=config, capture_output=True, text=True, stdin=subprocess.DEVNULL, close_fds=close_fds
            )
            answers.append(sorted(made.stdout.split()))
        return answers

    # 3 is the directory that is being listed.
    assert anyone(body, FORWARD, carrier) == [["0", "1", "2", "3"]] * 2


# ---- what is not set ----

# what is given, errno, words of the hint
FAILING = {
    "net.no.such_key": ("1", errno.ENOENT, "no such key"),
    "net.core.netdev_max_backlog": ("1000", errno.ENOENT, "the host's alone"),
    FORWARD: ("many", errno.EINVAL, "does not accept"),
    "net.ipv4.conf.lo.forwarding": ("1 2", errno.EIO, "beginning"),
    "net.ipv4": ("1", errno.EISDIR, ""),
}


def test_what_the_kernel_refuses_names_the_key(anyone: Runner, carrier: dict[str, object]) -> None:
    """And its place among the steps, with a hint; nothing is left of the program or its launcher."""

    def body(values: dict[str, str], fields: dict[str, Any]) -> list[Any]:
        nsapi.run(["true"], config=nsapi.Config.new("user", "net", "pid", **fields))  # what is kept for good is there
        before, answers = everything(), []
        for key, value in values.items():
            config = nsapi.Config.new("user", "net", "pid", sysctl={key: value}, **fields)
            answers.append(failure(lambda config=config: nsapi.run(["true"], config=config)))  # type: ignore[misc]
        return [answers, everything() == before]

    errors, same = anyone(body, {key: row[0] for key, row in FAILING.items()}, carrier)
    for (key, (_, errnum, words)), error in zip(FAILING.items(), errors, strict=True):
        assert (error["errno"], error["step"]) == (errnum, f"write sysctl {key}")
        assert words in (error["hint"] or "")
        assert "(step " in error["text"]
    assert same


def test_a_key_of_the_host_is_refused_before_anything_runs(root: Runner) -> None:
    """Also one of a namespace that is only joined, and by a way that leads out; the host's value is not touched."""

    def body() -> list[Any]:
        def value() -> str:
            return pathlib.Path("/proc/sys/kernel/panic").read_text() + pathlib.Path("/proc/sys/kernel/sem").read_text()

        new, keys = nsapi.Config.new, {"kernel.panic": "7"}
        configs = [
            new("net", "ipc", "uts", sysctl=keys), new("user", sysctl=keys), new("net", sysctl={"kernel.sem": "1 2 3 4"}),
            new("uts", ipc="/proc/1/ns/ipc", sysctl={"kernel.sem": "1 2 3 4"}),
            new("net", sysctl={"net/../kernel/panic": "7"}), new("net", sysctl={"net.//.kernel.panic": "7"}),
        ]  # fmt: skip
        before = [value(), everything()]
        answers = [failure(lambda config=each: nsapi.run(["true"], config=config)) for each in configs]  # type: ignore[misc]
        return [[each["classes"] for each in answers], [value(), everything()] == before]

    refused, same = root(body)
    assert [classes[0] for classes in refused] == ["ValueError"] * 6
    assert same


def test_a_false_proc_inside_is_not_written_to(root: Runner, readable_tmp: Path, carrier: dict[str, object]) -> None:
    """A mount namespace that is joined may have anything at /proc/sys: the caller's /proc is written, from before."""

    def body(folder: str, key: str, fields: dict[str, Any]) -> Any:
        real, false = f"{folder}/real", f"{folder}/false"
        for path in (real, f"{false}/net/ipv4"):
            os.makedirs(path)
        pathlib.Path(false, "net/ipv4/ip_forward").write_text("false\n")
        script = f"mount -t proc proc {real} && mount --bind {false} /proc/sys && echo ready && exec sleep 1000"
        with ready("unshare", "--mount", "sh", "-c", script) as there:
            config = nsapi.Config.new("net", "pid", mnt=there.pid, sysctl={key: "1"}, **fields)
            files = ["/proc/sys/net/ipv4/ip_forward", f"{real}/sys/net/ipv4/ip_forward"]
            return nsapi.run(["cat", *files], config=config, capture_output=True, text=True).stdout.split()

    assert root(body, str(readable_tmp), FORWARD, carrier) == ["false", "1"]


def test_a_read_only_proc_is_told(root: Runner) -> None:
    """As in a container without privileges: EROFS, and where that comes from."""

    def body(key: str) -> Any:
        nsapi.unshare("mnt")
        for options in (["--make-rprivate", "/"], ["--bind", "/proc", "/proc"], ["-o", "remount,bind,ro", "/proc"]):
            subprocess.run(["mount", *options], check=True)
        return failure(lambda: nsapi.run(["true"], config=nsapi.Config.new("net", sysctl={key: "1"})))

    error = root(body, FORWARD)
    assert (error["errno"], error["step"]) == (errno.EROFS, f"write sysctl {FORWARD}")
    assert "read-only" in error["hint"]


def test_what_covers_proc_sys_is_told_from_it(root: Runner, carrier: dict[str, object]) -> None:
    """As in a container: nothing is written to what is mounted there, by EXDEV with a hint of its own."""

    def body(key: str, fields: dict[str, Any]) -> Any:
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", "/proc/sys"], check=True)
        path = pathlib.Path("/proc/sys/net/ipv4")
        path.mkdir(parents=True)
        (path / "ip_forward").write_text("0\n")
        config = nsapi.Config.new("user", "net", "pid", sysctl={key: "1"}, **fields)
        return [failure(lambda: nsapi.run(["true"], config=config)), (path / "ip_forward").read_text()]

    error, content = root(body, FORWARD, carrier)
    assert (error["errno"], error["step"]) == (errno.EXDEV, f"write sysctl {FORWARD}")
    assert "mounted over /proc" in error["hint"]
    assert content == "0\n"
