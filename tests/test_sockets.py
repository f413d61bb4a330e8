"""socket, socketpair, handle.socket: plain sockets, born elsewhere and used here, by a thread that has never been away."""

from __future__ import annotations

import ctypes
import errno
import inspect
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Runner, tool
from inside import (
    PIDFD_GET,
    CtrlC,
    answer_enosys,
    at_every_moment,
    everything,
    failure,
    fds,
    ns,
    status,
    unshared,
)
from test_enter import NEW_TO_ENTER, Equipped, changes, forbid, in_thread, position

import nsapi

# ---- what travels to the bodies beside inside.py and the helpers of test_enter ----


def born_in(made: socket.socket) -> str:
    """``net:[4026531840]``, the namespace that a socket belongs to, by the kernel's word."""
    handle = nsapi.open(made)
    handle.close()
    return f"net:[{handle.id[1]}]"


def new_nets(count: int, *, loopback: bool = False) -> list[nsapi.NamespaceHandle]:
    """New net namespaces without a process, made by a thread that has ended."""
    import fcntl

    def make() -> nsapi.NamespaceHandle:
        nsapi.unshare("net")
        if loopback:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
                fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
        return nsapi.current("net")

    with ThreadPoolExecutor(1) as pool:
        return [pool.submit(make).result() for _ in range(count)]


def drop_net_raw() -> None:
    """Take CAP_NET_RAW from the calling thread alone: capset(2) by the raw system call."""
    permitted = int(status("CapPrm"), 16) & ~(1 << 13)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    number = {"x86_64": 126, "aarch64": 91}[os.uname().machine]
    assert ctypes.CDLL(None).syscall(number, header, data) == 0


def forbid_the_way_home() -> None:
    """Let setns(2) refuse the second fd that is free: the next to be opened to return to; the first asks for it."""
    _, second = free = os.dup(0), os.dup(0)
    for each in free:
        os.close(each)
    forbid("setns", (0, second))


@pytest.fixture(scope="module")
def root(root: Runner) -> Runner:
    return with_helpers(root)


@pytest.fixture(scope="module")
def user(user: Runner) -> Runner:
    return with_helpers(user)


def with_helpers(runner: Runner) -> Runner:
    runner = Equipped(runner)
    helpers: list[Callable[..., Any]] = [born_in, new_nets, drop_net_raw, forbid_the_way_home]
    runner.prelude += "\n\n".join(map(inspect.getsource, helpers))
    return runner


# ---- what is made ----

KINDS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "tcp, told": (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "raw": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM, 0),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM, 0),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
    "seqpacket": (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0),
    "netlink": (socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "packet": (socket.AF_PACKET, socket.SOCK_RAW, 0x0300),  # ETH_P_ALL, in the network's order
    "nonblocking": (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0),
    "defaults": (-1, -1, -1),
}


def test_what_is_made_differs_from_a_plain_socket_by_its_namespace_only(anyone: Runner) -> None:
    """Class, family, type, protocol, timeout, inheritance, by handle and by the verb; and the thread is where it was."""

    def body(kinds: dict[str, list[int]]) -> Any:
        def told(made: socket.socket) -> list[object]:
            with made:
                own = [made.getsockopt(socket.SOL_SOCKET, each) for each in (socket.SO_TYPE, socket.SO_PROTOCOL)]
                facts = [type(made) is socket.socket, repr(made.family), repr(made.type), made.proto, own]
                return [
                    *facts,
                    made.gettimeout(),
                    os.get_blocking(made.fileno()),
                    made.get_inheritable(),
                    born_in(made),
                ]

        (handle,) = new_nets(1)
        there = f"net:[{handle.id[1]}]"
        wrong: list[object] = []
        before = position(), fds()
        for timeout in (None, 0.0, 2.5):
            socket.setdefaulttimeout(timeout)
            for name, arguments in kinds.items():
                *plain, _ = told(socket.socket(*arguments))
                for made in (handle.socket(*arguments), nsapi.socket(handle, *arguments)):
                    if told(made) != [*plain, there]:
                        wrong.append([name, timeout, plain])
        wrong += [] if (position(), fds()) == before else ["moved"]
        handle.close()
        return wrong

    assert anyone(body, KINDS) == []


def test_left_out_arguments_are_those_of_the_socket_module(anyone: Runner) -> None:
    def body() -> Any:
        (handle,) = new_nets(1)
        rows = []
        made = [handle.socket(), nsapi.socket(handle), socket.socket()]
        made += [*nsapi.socketpair(handle), *nsapi.socketpair(handle, None), *socket.socketpair()]
        for each in made:
            rows.append([repr(each.family), repr(each.type), each.proto])
            each.close()
        handle.close()
        return rows

    rows = anyone(body)
    assert rows[:3] == [rows[2]] * 3
    assert rows[3:] == [rows[-1]] * 6


@pytest.mark.parametrize("kind", ["STREAM", "DGRAM", "SEQPACKET"])
def test_a_pair_is_connected_and_both_are_born_there(anyone: Runner, kind: str) -> None:
    def body(kind: str) -> Any:
        (handle,) = new_nets(1)
        before = position(), fds()
        one, other = nsapi.socketpair(handle, socket.AF_UNIX, getattr(socket, f"SOCK_{kind}"))
        with one, other:
            one.send(b"there")
            other.send(b"and back")
            facts = [other.recv(9), one.recv(9), *(type(each) is socket.socket for each in (one, other))]
            facts += [each.get_inheritable() for each in (one, other)]
            born = [born_in(each) == f"net:[{handle.id[1]}]" for each in (one, other)]
        handle.close()
        return [*map(str, facts), *born, changes(before[0], position()), fds() == {**before[1]}]

    *facts, closed = anyone(body, kind)
    assert facts == [str(b"there"), str(b"and back"), "True", "True", "False", "False", True, True, []]
    assert not closed  # the handle's, which was open before


def test_a_socket_keeps_its_namespace_when_nothing_else_does(anyone: Runner) -> None:
    """Handle closed and no process left: it can still be asked for, and be used to make another."""

    def body() -> Any:
        (handle,) = new_nets(1, loopback=True)
        there = f"net:[{handle.id[1]}]"
        server = handle.socket()
        handle.close()
        server.bind(("127.0.0.1", 0))
        server.listen()
        with server, nsapi.socket(server) as client:
            client.connect(server.getsockname())
            server.accept()[0].close()
            return born_in(client) == born_in(server) == there

    assert anyone(body)


def test_every_form_of_target_is_taken(root: Runner, readable_tmp: pathlib.Path) -> None:
    """What open() takes, without a type: of a process it is the net namespace."""
    tool("ip")

    def body(folder: str) -> Any:
        nsapi.unshare("mnt")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        with unshared("--net") as process:
            subprocess.run(["ip", "netns", "attach", "blue", str(process.pid)], check=True)
            path, there, pidfd = f"/proc/{process.pid}/ns/net", ns("net", process.pid), os.pidfd_open(process.pid)
            handle, file = nsapi.open(process, "net"), open(path, "rb")
            os.symlink(path, f"{folder}/net")

            class File:
                def fileno(self) -> int:
                    return pidfd

            class Process:
                pid = process.pid

            targets = [
                "blue",
                path,
                path.encode(),
                pathlib.Path(path),
                f"{folder}/net",
                handle,
                file,
                process.pid,
                process,
            ]
            targets += [File(), Process(), handle.socket(), handle.socket(socket.AF_UNIX)]
            before, wrong = (position(), fds()), []
            for target in targets:
                with nsapi.socket(target) as made:
                    born = [born_in(made)]
                for each in nsapi.socketpair(target):
                    born.append(born_in(each))
                    each.close()
                if born != [there] * 3 or (position(), fds()) != before:
                    wrong.append([repr(target), born])
            mine: list[Any] = [handle, file, *targets[-2:]]
            for opened in mine:
                opened.close()
        return [len(targets), wrong]

    assert root(body, str(readable_tmp)) == [13, []]


# ---- what it is for ----


def test_a_stock_client_fetches_over_veth_between_two_namespaces(anyone: Runner) -> None:
    """HTTP by http.server and http.client, IPv4 and IPv6, both ends in one process, no thread of which has moved."""
    tool("ip")

    def body() -> Any:
        import http.client
        import http.server

        class Server(http.server.ThreadingHTTPServer):
            def __init__(self, made: socket.socket) -> None:
                super().__init__(made.getsockname(), Handler, bind_and_activate=False)
                self.socket.close()
                self.socket = made

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = f"to {self.client_address[0]}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        def ip(where: nsapi.NamespaceHandle, *commands: str) -> None:
            with where:
                for command in commands:
                    subprocess.run(["ip", *command.split()], check=True)

        answers, here = [], ns("net")
        with unshared("--net") as one, unshared("--net") as two:
            left, right = nsapi.open(one, "net"), nsapi.open(two, "net")
            ip(left, f"link add veth0 type veth peer name veth0 netns {two.pid}")
            for number, side in ((1, left), (2, right)):
                addresses = (
                    f"address add 10.9.8.{number}/24 dev veth0",
                    f"address add fd00::{number}/64 dev veth0 nodad",
                )
                ip(side, *addresses, "link set veth0 up")
            for family, server_at, client_at in (
                (socket.AF_INET, "10.9.8.1", "10.9.8.2"),
                (socket.AF_INET6, "fd00::1", "fd00::2"),
            ):
                listening = left.socket(family)
                listening.bind((server_at, 80))
                listening.listen()
                server = Server(listening)
                thread = threading.Thread(target=server.serve_forever, args=[0.01])
                thread.start()
                connection = http.client.HTTPConnection(server_at, timeout=30)
                connection.sock = nsapi.socket(two, family)
                connection.sock.connect((server_at, 80))
                connection.request("GET", "/")
                answers.append([connection.getresponse().read().decode(), f"to {client_at}"])
                connection.close()
                server.shutdown()
                thread.join()
                server.server_close()
            left.close()
            right.close()
        return [answers, ns("net") == here]

    answers, home = anyone(body)
    assert [got for got, _ in answers] == [wanted for _, wanted in answers]
    assert len(answers) == 2
    assert home


def test_300_namespaces_listen_on_one_port(anyone: Runner) -> None:
    """Each server is reached from its own namespace alone, and tells which it is."""

    def body() -> Any:
        handles, servers = new_nets(300, loopback=True), []
        before, address = position(), ("127.0.0.1", 8080)
        for handle in handles:
            servers.append(handle.socket())
            servers[-1].bind(address)
            servers[-1].listen()
        wrong = set()
        for handle, server in zip(handles, servers, strict=True):
            with handle.socket() as client:
                client.connect(address)
                client.settimeout(30)
                with server.accept()[0] as accepted:
                    accepted.sendall(str(handle.id[1]).encode())
                    if client.recv(20) != str(handle.id[1]).encode() or accepted.getpeername() != client.getsockname():
                        wrong.add(handle.id[1])
        ports = [server.getsockname()[1] for server in servers]
        for server, handle in zip(servers, handles, strict=True):
            server.close()
            handle.close()
        return [ports, len({handle.id for handle in handles}), sorted(wrong), changes(before, position())]

    assert anyone(body) == [[8080] * 300, 300, [], []]


def test_a_user_started_in_namespaces_of_his_own_makes_sockets_in_others_of_them(user: Runner) -> None:
    """By nsapi.run alone, with no privilege and no setuid helper on the way: he is root over what he has made."""

    def body(code: str) -> Any:
        done = nsapi.run(
            [sys.executable, "-W", "error", "-c", code],
            config=nsapi.Config.new("user", "net", "uts", loopback=True),
            capture_output=True,
            text=True,
        )
        return [done.returncode, done.stderr, done.stdout]

    code = """if True:
        import os, subprocess, nsapi
        config = nsapi.Config.new("net", loopback=True)
        with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as there:
            server, client = nsapi.socket(there), nsapi.socket(there.pid)
        here = os.readlink("/proc/thread-self/ns/net")
        with server, client:
            server.bind(("127.0.0.1", 80))
            server.listen()
            client.connect(("127.0.0.1", 80))
            server.accept()[0].close()
            handle = nsapi.open(server)
        print(here != f"net:[{handle.id[1]}]", os.readlink("/proc/thread-self/ns/net") == here)
        handle.close()
    """
    assert user(body, code, under=()) == [0, "", "True True\n"]


# ---- where the caller is ----


def test_inside_a_block_the_thread_stays_in_that_block(anyone: Runner) -> None:
    """Going back is to where the thread was: in blocks of net and of other types, after unshare, and in the target."""

    def body() -> Any:
        wrong: list[object] = []

        def check(where: str) -> None:
            before, table = position(), fds()
            for handle in handles:
                with handle.socket() as made:
                    if born_in(made) != f"net:[{handle.id[1]}]":
                        wrong.append([where, "born elsewhere"])
            if changes(before, position()) or fds() != table:
                wrong.append([where, changes(before, position())])

        def work() -> None:
            check("outside")
            with handles[0]:
                check("in net")
                with nsapi.enter(child, "mnt", "uts", "net", unshare_fs=True):
                    check("in mnt, uts, net")
                check("in net again")
            with nsapi.enter(child, "pid"):
                check("in pid")
            nsapi.unshare("net", "ipc")
            check("after unshare")

        handles = new_nets(2)
        with unshared(*NEW_TO_ENTER) as parent:
            child = int(pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
            before = position()
            in_thread(work)
            wrong += changes(before, position())
        for handle in handles:
            handle.close()
        return wrong

    assert anyone(body) == []


def test_many_threads_make_sockets_and_none_is_seen_elsewhere(anyone: Runner) -> None:
    """16 threads, some of them in blocks; each socket is born where it was asked for, and the others never move."""

    def body() -> Any:
        handles, before, wrong = new_nets(8), fds(), list[object]()
        names = [f"net:[{handle.id[1]}]" for handle in handles]
        start = threading.Barrier(17, timeout=30)

        def work(number: int) -> None:
            def make(home: str) -> None:
                for turn in range(150):
                    at = (number + turn) % 8
                    with nsapi.socket(handles[at]) if turn % 2 else handles[at].socket(socket.AF_UNIX) as made:
                        if born_in(made) != names[at] or ns("net") != home:
                            wrong.append([number, turn])

            start.wait()
            if number % 2:
                with handles[number // 2]:
                    make(names[number // 2])
            make(here)

        here = ns("net")
        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        start.wait()
        while any(thread.is_alive() for thread in threads):
            if ns("net") != here:
                wrong.append("the main thread")
            threads[0].join(0.001)
            threads = [thread for thread in threads if thread.is_alive()]
        wrong += [] if fds() == before else ["fds"]
        for handle in handles:
            handle.close()
        return wrong

    assert anyone(body) == []


def test_asyncio_serves_and_connects_with_sockets_made_on_the_loop(anyone: Runner) -> None:
    """Two tasks of one loop, each with its namespace; the loop's thread is at home whenever anybody looks."""

    def body() -> Any:
        import asyncio

        (red, blue), here = new_nets(2, loopback=True), ns("net")

        async def greet(net: nsapi.NamespaceHandle) -> list[object]:
            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(f"{net.id[1]} {ns('net') == here}".encode())
                await writer.drain()
                writer.close()

            listening = net.socket()
            listening.bind(("127.0.0.1", 8080))
            async with await asyncio.start_server(answer, sock=listening):
                client = nsapi.socket(net)
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", 8080))
                reader, writer = await asyncio.open_connection(sock=client)
                said = (await reader.read()).decode()
                writer.close()
                await writer.wait_closed()
            return [said == f"{net.id[1]} True", ns("net") == here]

        async def main() -> Any:
            return await asyncio.gather(greet(red), greet(blue))

        seen = asyncio.run(main())
        red.close()
        blue.close()
        return seen

    assert anyone(body) == [[True, True], [True, True]]


def test_nothing_is_forked_and_no_thread_is_started(root: Runner, readable_tmp: pathlib.Path) -> None:
    """The calls of the kernel: there, made with close-on-exec, and back, in this order and by this thread alone."""
    trace = readable_tmp / "trace"

    def body() -> Any:
        handle = nsapi.current("net")
        nsapi.unshare("net")  # no other thread, whose end would be in the trace
        with handle.socket():  # the first tries out whether it may come back
            pass
        failure(lambda: os.rmdir("/begin"))
        handle.socket().close()
        for each in nsapi.socketpair(handle):
            each.close()
        failure(lambda: os.rmdir("/end"))
        handle.close()

    calls = "trace=process,setns,unshare,socket,socketpair,rmdir"
    root(body, under=(tool("strace"), "-f", "-o", str(trace), "-e", calls))
    lines = trace.read_text().split('rmdir("/begin")')[1].split('rmdir("/end")')[0].splitlines()[1:-1]
    named = [re.sub(r"^\d+ +(\w+)\(.*", r"\1", line) for line in lines]
    assert named == ["setns", "socket", "setns", "setns", "socketpair", "setns"]
    assert "SOCK_STREAM|SOCK_CLOEXEC" in lines[1]
    assert len({line.split()[0] for line in lines}) == 1


# ---- failing ----

#: The call, its errno, its step, and a word of the hint.
FAILURES = {
    "family": ("socket", (999,), "EAFNOSUPPORT", "socket 999, SOCK_STREAM, 0", ""),
    "negative": ("socket", (-5, 1, 0), "EAFNOSUPPORT", "socket -5, SOCK_STREAM, 0", ""),
    "protocol": ("socket", (2, 1, 200), "EPROTONOSUPPORT", "socket AF_INET, SOCK_STREAM, 200", ""),
    "type": ("socket", (2, 9, 0), "ESOCKTNOSUPPORT", "socket AF_INET, 9, 0", ""),
    "raw": ("socket", (2, 3, 1), "EPERM", "socket AF_INET, SOCK_RAW, 1", "CAP_NET_RAW"),
    "packet": ("socket", (17, 3, 0), "EPERM", "socket AF_PACKET, SOCK_RAW, 0", "CAP_NET_RAW"),
    "pair": ("socketpair", (2,), "EOPNOTSUPP", "socketpair AF_INET, SOCK_STREAM, 0", "AF_UNIX"),
    "pair of none": ("socketpair", (1, 9), "ESOCKTNOSUPPORT", "socketpair AF_UNIX, 9, 0", ""),
}


def test_what_the_kernel_refuses_is_told_by_a_thread_at_home(anyone: Runner) -> None:
    """Errno, step, arguments by name, target and remedy; no fd is left, whether by handle, path or process."""

    def body(failures: dict[str, Any]) -> Any:
        rows = {}
        with unshared("--net") as process:
            handle = nsapi.open(process, "net")
            targets = [handle, f"/proc/{process.pid}/ns/net", process.pid]

            def work() -> None:
                drop_net_raw()
                for name, (verb, arguments, *_) in failures.items():
                    before = everything()
                    answers = [failure(lambda: getattr(nsapi, verb)(each, *arguments)) for each in targets]
                    rows[name] = [answers, changes(before, everything())]

            in_thread(work)
            handle.close()
        return rows

    rows = anyone(body, FAILURES)
    for name, (answers, changed) in rows.items():
        _, _, errnum, step, why = FAILURES[name]
        assert changed == [], name
        assert len(answers) == 3
        for answer in answers:
            assert (answer["errno"], answer["step"]) == (getattr(errno, errnum), step)
            assert "NamespaceError" in answer["classes"]
            assert why in (answer["hint"] or ""), name
            assert answer["path"]


def test_a_pair_that_cannot_be_made_closes_nothing_that_is_not_its_own(
    root: Runner, readable_tmp: pathlib.Path
) -> None:
    """The kernel has named two fds by then and taken them back: another thread's, if they were closed now."""
    trace = readable_tmp / "trace"

    def body() -> Any:
        handle = nsapi.current("net")
        nsapi.unshare("net")  # no other thread, whose end would be in the trace
        answer = failure(lambda: nsapi.socketpair(handle, socket.AF_INET))
        handle.close()
        return answer["errno"]

    under = tool("strace"), "-f", "-o", str(trace), "-e", "trace=socketpair,close,setns"
    assert root(body, under=under) == errno.EOPNOTSUPP
    lines = trace.read_text().splitlines()
    (failed,) = [line for line in lines if "socketpair(AF_INET" in line]
    after = [line for line in lines[lines.index(failed) + 1 :] if line.split()[0] == failed.split()[0]]
    assert [re.sub(r"^\d+ +(\w+)\(.* = ", r"\1 ", line) for line in after[:2]] == ["setns 0", "close 0"]
    assert "EBADF" not in "".join(after)


def test_without_free_file_descriptors_it_fails_whole(anyone: Runner) -> None:
    """Wherever on the way the limit is met: EMFILE, nothing changed, no fd left; then it works, with none to spare."""

    def body() -> Any:
        import resource
        from functools import partial

        answers: list[Any] = []
        with unshared("--net") as process:
            handle, path = nsapi.open(process, "net"), f"/proc/{process.pid}/ns/net"
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            before, free = everything(), max(fds()) + 1
            uses: list[Callable[[], Any]] = [handle.socket]
            uses += [partial(nsapi.socketpair, each) for each in (handle, path, process.pid)]
            for use in uses:
                failed, wrong = 0, list[str]()
                for spare in range(20):
                    resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, hard))
                    try:
                        made: Any = use()
                        for each in (made,) if isinstance(made, socket.socket) else made:
                            each.close()
                        break
                    except OSError as error:
                        failed += 1
                        wrong += [] if error.errno == errno.EMFILE else [str(error)]
                    finally:
                        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                        wrong += changes(before, everything())
                answers.append([failed, wrong])
            handle.close()
        return answers

    for failed, wrong in anyone(body):
        assert wrong == []
        assert 1 <= failed < 20


@pytest.mark.parametrize("type", ["uts", "mnt", "user"])
def test_another_type_is_refused_with_both_named(anyone: Runner, type: str) -> None:
    """By handle, path and file; before anything is changed."""

    def body(type: str) -> Any:
        path = f"/proc/self/ns/{type}"
        handle, before = nsapi.current(type), everything()
        with open(path) as file:
            answers = [failure(lambda: nsapi.socket(each)) for each in (handle, path, file)]
        answers += [failure(handle.socket), failure(lambda: nsapi.socketpair(handle))]
        left = changes(before, everything())
        handle.close()
        return [answers, left]

    answers, left = anyone(body, type)
    assert left == []
    for answer in answers:
        assert (answer["errno"], answer["step"]) == (errno.EINVAL, "check")
        assert answer["hint"] == f"it is a {type} namespace, and net was asked for"


#: Targets that are none, and what is said of them.
NO_TARGETS = {
    "no name": ("nsapi-no-such-name", "FileNotFoundError", "nsapi.open never creates one"),
    "no path": ("/no/such/path", "FileNotFoundError", "open /no/such/path"),
    "no namespace": ("/etc/passwd", "NamespaceError", "it is no namespace"),
    "FIFO": ("FIFO", "NamespaceError", "it is no namespace"),
    "no process": (2**22 + 1, "ProcessLookupError", "has ended"),
    "no pid": (0, "ValueError", "target: 0 is no pid"),
    "empty": ("", "ValueError", "target: '' is no name"),
    "NUL": ("/\0", "ValueError", "is no path"),
    "no form": (1.5, "TypeError", "target: 1.5 is no namespace or process"),
}


def test_a_target_that_is_none_is_told_as_open_tells_it(anyone: Runner, readable_tmp: pathlib.Path) -> None:
    """Word for word; nothing is created, and a FIFO is not waited for."""

    def body(targets: dict[str, Any], folder: str) -> Any:
        before, rows = everything(), {}
        os.mkfifo(f"{folder}/FIFO")
        for name, (target, *_) in targets.items():
            target = f"{folder}/FIFO" if target == "FIFO" else target
            rows[name] = [failure(lambda: nsapi.socket(target)), failure(lambda: nsapi.open(target, "net"))]
        return [rows, changes(before, everything())]

    rows, left = anyone(body, NO_TARGETS, str(readable_tmp))
    assert left == []
    for name, (answer, told) in rows.items():
        _, kind, words = NO_TARGETS[name]
        assert answer == told
        assert kind in answer["classes"], name
        assert words in answer["text"]


def test_a_path_is_looked_at_before_it_is_opened(root: Runner) -> None:
    """To open a device might do something. A lease tells: whoever has it hears of each opening."""

    def body() -> Any:
        import fcntl

        heard: list[int] = []
        signal.signal(signal.SIGIO, lambda number, _: heard.append(number))
        subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
        fd = os.open("/mnt/file", os.O_RDWR | os.O_CREAT)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        answers = [failure(lambda: nsapi.socket("/mnt/file"))["errno"], list(heard)]
        try:
            os.open("/mnt/file", os.O_RDONLY | os.O_NONBLOCK)
        except BlockingIOError:
            os.close(fd)  # and after this call Python has called the handler
        return [*answers, heard]

    assert root(body, under=(tool("unshare"), "--mount")) == [errno.EINVAL, [], [signal.SIGIO]]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("inet",), TypeError, "family: 'inet' is no int"),
        ((2, None), TypeError, "type: None is no int"),
        ((2, 1, 1.0), TypeError, r"proto: 1\.0 is no int"),
        ((2**31,), ValueError, "family: 2147483648 is no int of C"),
        ((2, 1, -(2**31) - 1), ValueError, "proto: -2147483649 is no int of C"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_before_the_target_is_looked_at(
    arguments: Any, error: Any, words: str
) -> None:
    for verb in (nsapi.socket, nsapi.socketpair):
        with pytest.raises(error, match=words):
            verb("/no/such/path", *arguments)
    handle = nsapi.current("net")
    with pytest.raises(error, match=words):
        handle.socket(*arguments)
    handle.close()
    with pytest.raises(ValueError, match="is closed"):
        handle.socket()


def test_a_user_without_privilege_is_told_what_it_takes(user: Runner) -> None:
    """EPERM at the door, also for the namespace that he is in: setns(2) wants CAP_SYS_ADMIN whatever is set."""

    def body() -> Any:
        handle, before = nsapi.current("net"), everything()
        ways = (handle.socket, lambda: nsapi.socket("/proc/self/ns/net"), lambda: nsapi.socketpair(os.getpid()))
        answers = [failure(way) for way in ways]
        left = changes(before, everything())
        handle.close()
        return [answers, left]

    answers, left = user(body, under=())
    assert left == []
    for answer in answers:
        assert "PermissionError" in answer["classes"]
        assert "NamespaceRestoreError" not in answer["classes"]
        assert "CAP_SYS_ADMIN" in answer["text"]


def test_who_could_not_come_back_is_refused_at_the_door(user: Runner) -> None:
    """In a user namespace that does not own the caller's net namespace, going to one that it owns would be one-way."""

    def body() -> Any:
        with unshared("--net") as process:
            handle, before = nsapi.open(process, "net"), everything()
            targets = [handle, f"/proc/{process.pid}/ns/net", process.pid]
            answers = [failure(lambda: nsapi.socket(each)) for each in targets]
            left = changes(before, everything())
            answers.append(failure(lambda: in_thread(handle.socket)))
            handle.close()
        return [answers, left]

    answers, left = user(body, under=("unshare", "--map-root-user"))
    assert left == []
    for answer in answers:
        assert "PermissionError" in answer["classes"]
        assert "NamespaceRestoreError" not in answer["classes"]
        assert answer["step"] == "check that the net namespace can be returned to"


@pytest.mark.parametrize("verb", ["socket", "socketpair"])
def test_a_thread_that_cannot_go_back_is_lost_and_has_no_socket(root: Runner, verb: str) -> None:
    """NamespaceRestoreError says so; the thread does nothing of the kind any more, and others go on."""

    def body(verb: str) -> Any:
        (handle,) = new_nets(1)

        def work() -> Any:
            handle.socket().close()  # it may come back
            forbid_the_way_home()
            table = fds()
            answer = failure(lambda: getattr(nsapi, verb)(handle))
            answer["fds"] = fds() == table
            answer["lost"] = ns("net") == f"net:[{handle.id[1]}]"
            answer["again"] = [
                failure(way) for way in (handle.socket, handle.__enter__, lambda: nsapi.socketpair(handle))
            ]
            return answer

        def other() -> bool:
            with handle.socket() as made:
                return born_in(made) == f"net:[{handle.id[1]}]" != ns("net")

        answer = in_thread(work)
        answer["others"] = [in_thread(other), other()]
        handle.close()
        return answer

    answer = root(body, verb)
    assert "NamespaceRestoreError" in answer["classes"]
    assert (answer["errno"], answer["step"]) == (errno.EPERM, "return to the net namespace of before")
    assert answer["lost"]
    assert answer["fds"]
    for again in answer["again"]:
        assert "NamespaceRestoreError" in again["classes"]
        assert "is lost" in again["text"]
    assert answer["others"] == [True, True]


def test_a_failing_socket_in_a_thread_that_cannot_go_back_tells_both(root: Runner) -> None:
    def body() -> Any:
        (handle,) = new_nets(1)

        def work() -> Any:
            handle.socket().close()
            forbid_the_way_home()
            table = fds()
            answer = failure(lambda: handle.socket(999))
            return {**answer, "fds": fds() == table}

        answer = in_thread(work)
        handle.close()
        return answer

    answer = root(body)
    assert "NamespaceRestoreError" in answer["classes"]
    assert answer["step"] == "going back after: socket 999, SOCK_STREAM, 0"
    assert answer["errno"] == errno.EPERM
    assert answer["fds"]


# ---- Ctrl-C ----

INTERRUPTED = (
    "handle.socket",
    "socket of a handle",
    "socket of a path",
    "socket of a pid",
    "socket of a socket",
    "socketpair of a handle",
    "socket inside",
)


@pytest.mark.parametrize("way", INTERRUPTED)
def test_ctrl_c_at_any_moment_leaves_the_thread_at_home_and_no_fd(root: Runner, way: str) -> None:
    """Wherever in nsapi or the socket module CPython looks for signals: at the start of a function, after one of C's."""

    def body(way: str) -> Any:
        warnings.simplefilter("ignore")  # sockets that were whole, and are collected with what was interrupted

        (handle, other) = new_nets(2)
        path = f"/proc/self/fd/{handle.fileno()}"
        there = handle.socket()

        def use() -> None:
            if way == "handle.socket":
                made = [handle.socket()]
            elif way == "socket of a path":
                made = [nsapi.socket(path)]
            elif way == "socket of a pid":
                made = [nsapi.socket(os.getpid())]
            elif way == "socket of a socket":
                made = [nsapi.socket(there)]
            elif way == "socketpair of a handle":
                made = [*nsapi.socketpair(handle)]
            else:
                made = [nsapi.socket(handle)]
            sys.setprofile(None)
            for each in made:
                each.close()

        def attempt(ctrl_c: CtrlC) -> list[object]:
            handle.socket().close()
            others = [os.dup(0) for _ in range(4)]  # whose numbers have just been those of nsapi
            home, table = position(), fds()
            with ctrl_c:
                use()
            wrong: list[object] = changes(home, position())  # type: ignore[assignment]
            wrong += [] if fds() == table else ["fds"]
            wrong += [] if ctrl_c.came == ctrl_c.raised else ["swallowed"]
            with nsapi.socket(handle) as made:
                wrong += [] if born_in(made) == f"net:[{handle.id[1]}]" else ["no socket any more"]
            wrong += [] if ns("net") == home["net"] and fds() == table else ["afterwards"]
            for each in others:
                os.close(each)
            return wrong

        def inside(ctrl_c: CtrlC) -> list[object]:
            if way != "socket inside":
                return attempt(ctrl_c)
            with other:
                return attempt(ctrl_c)

        moment, found = at_every_moment(lambda ctrl_c: in_thread(lambda: inside(ctrl_c)), also=socket.__file__)
        there.close()
        before = fds()
        table = len(before)
        handle.close()
        other.close()
        return [moment, found, table - len(fds())]

    moments, wrong, closed = root(body, way)
    assert moments > 10
    assert wrong == []
    assert closed == 2  # the handles have no users left that would keep their fds


def test_ctrl_c_does_not_hide_that_a_thread_is_lost(root: Runner) -> None:
    """Whenever it comes, a thread that has not come back refuses to go anywhere else, and has no fd more."""

    def body() -> Any:
        (handle,) = new_nets(1)
        there = f"net:[{handle.id[1]}]"

        def attempt(ctrl_c: CtrlC) -> list[object]:
            handle.socket().close()
            forbid_the_way_home()
            table = fds()
            with ctrl_c:
                failure(handle.socket)
            away = ns("net") == there
            refused = failure(lambda: handle.socket().close() if away else None).get("step") == "check"
            return [] if away == refused and fds() == table else [away, refused]

        result = at_every_moment(lambda ctrl_c: in_thread(lambda: attempt(ctrl_c)))
        handle.close()
        return result

    moments, wrong = root(body)
    assert moments > 10
    assert wrong == []


# ---- older kernels, other threads ----


@pytest.mark.parametrize("kernel", ["without the ioctls", "without PIDFD_THREAD", "without pidfd_open"])
def test_an_older_kernel_makes_them_as_exactly(root: Runner, kernel: str) -> None:
    """Also in a thread that has left its process, whose way back is not that of the main thread."""

    def body(kernel: str) -> Any:
        with unshared("--net") as process:
            handle, there = nsapi.open(process, "net"), ns("net", process.pid)

            def work() -> Any:
                nsapi.unshare("net")
                if kernel == "without the ioctls":
                    answer_enosys(*PIDFD_GET, errnum=25)
                elif kernel == "without PIDFD_THREAD":
                    answer_enosys(("pidfd_open", 0o200), errnum=22)
                else:
                    answer_enosys(("pidfd_open", None))
                before, table = position(), fds()
                targets: list[Any] = [handle, f"/proc/{process.pid}/ns/net"]
                targets += [] if kernel == "without pidfd_open" else [process.pid]
                born = []
                for target in targets:
                    with nsapi.socket(target) as made:
                        born.append(born_in(made) == there)
                return [all(born), changes(before, position()), fds() == table]

            answer = in_thread(work)
            handle.close()
        return answer

    assert root(body, kernel) == [True, [], True]


def test_a_handle_that_is_closed_at_any_moment_makes_a_socket_or_says_so(root: Runner) -> None:
    """Never one of another namespace, whose handle has got the number of the fd; which is closed when the call ends."""

    def body() -> Any:
        folder, (red, blue) = os.path.dirname(nsapi.__file__), new_nets(2)
        seen: list[object] = []

        def attempt(moment: int) -> bool:
            count, handle, others = 0, red.duplicate(), list[nsapi.NamespaceHandle]()

            def hook(frame: Any, event: str, _: Any) -> None:
                nonlocal count
                if event in ("call", "c_call", "c_return") and frame.f_code.co_filename.startswith(folder):
                    count += 1
                    if count == moment:
                        sys.setprofile(None)
                        handle.close()
                        others.extend(blue.duplicate() for _ in range(3))

            sys.setprofile(hook)
            try:
                with handle.socket() as made:
                    sys.setprofile(None)
                    seen.append(born_in(made) == f"net:[{red.id[1]}]")
            except ValueError as error:
                seen.append("is closed" in str(error) and "closed")
            finally:
                sys.setprofile(None)
            for each in (handle, *others):
                each.close()
            return count >= moment

        red.socket().close()
        table, moment = fds(), 1
        while attempt(moment):
            moment += 1
        left = fds() == table
        red.close()
        blue.close()
        return [moment, seen, left]

    moments, seen, left = root(body)
    assert moments > 10
    assert seen.index(True) > 0  # closed in time, it says so; from then on its fd is kept to the end of the call
    assert set(seen[: seen.index(True)]) == {"closed"}
    assert set(seen[seen.index(True) :]) == {True}
    assert left
