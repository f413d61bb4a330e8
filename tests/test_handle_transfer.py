"""Handles that go to other processes: by multiprocessing, as sockets do, and by send_fds; by nothing else."""

from __future__ import annotations

import importlib
import inspect
import os
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner
from inside import failure, fds, unshared

import nsapi

METHODS = ("fork", "spawn", "forkserver")


# ---- what the other processes do: a module that they can import ----


def look(handle: nsapi.NamespaceHandle) -> Any:
    """What is seen of a handle by whom it has come to, who closes it."""
    with closing(handle):
        fd = handle.fileno()
        return [list(handle.id), handle.type.value, os.readlink(f"/proc/self/fd/{fd}"), os.get_inheritable(fd)]


def answer(handle: nsapi.NamespaceHandle, connection: Any, queue: Any) -> None:
    """One handle comes as an argument, one through a pipe, and one through a queue; one goes back."""
    with closing(queue.get()) as other:
        connection.send(other)
        connection.send([look(handle), look(connection.recv()), other == handle])
        connection.recv()  # who sends must be there when the receiver comes


class Replace:
    """When it is pickled, closes the handle and puts another one's fd under the same number."""

    def __init__(self, handle: nsapi.NamespaceHandle, other: nsapi.NamespaceHandle) -> None:
        self.handle, self.other = handle, other

    def __reduce__(self) -> Any:
        fd = self.handle.fileno()
        self.handle.close()
        os.dup2(self.other.fileno(), fd)
        return int, ()


def own_fds(handle: nsapi.NamespaceHandle) -> int:
    """How many fds there are in this process on the namespace."""
    return list(fds().values()).count(f"{handle.type.proc_name}:[{handle.id[1]}]")


def fds_after_all(handle: nsapi.NamespaceHandle) -> int:
    """The same, once the thread that hands out duplicates has closed the last: it takes one receiver after the other."""
    from multiprocessing.reduction import ForkingPickler

    with socket.socket() as other:
        ForkingPickler.loads(ForkingPickler.dumps(other)).close()
    return own_fds(handle)


@pytest.fixture
def anyone(anyone: Runner, readable_tmp: Path) -> Runner:
    """Its bodies, and the processes that they start, have the module `receiving`."""
    receiving = "import os\nfrom contextlib import closing\nfrom typing import Any\nimport nsapi\n"
    receiving += "\n\n".join(map(inspect.getsource, (look, answer, Replace)))  # type: ignore[arg-type]
    (readable_tmp / "receiving.py").write_text(f"from __future__ import annotations\n{receiving}")
    (readable_tmp / "receiving.py").chmod(0o644)
    prelude = f"{anyone.prelude}\nsys.path.insert(0, {str(readable_tmp)!r})\n{inspect.getsource(own_fds)}\n"
    prelude += inspect.getsource(fds_after_all)
    prelude += "\nimport importlib, tempfile\nfrom collections.abc import Callable\nfrom contextlib import closing\n"
    return Runner(anyone.name, anyone.python, anyone.prefix, prelude, anyone.library)


# ---- multiprocessing ----


def test_a_handle_arrives_by_every_way_of_multiprocessing(anyone: Runner) -> None:
    """As an argument, through Pipe, Queue, Pool and ProcessPoolExecutor: on the same namespace, with an fd of its own."""

    def body(*methods: str) -> Any:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        from receiving import answer, look  # type: ignore[import-not-found]

        with unshared("--user", "--net") as process:
            handle = nsapi.open(process, "net")
        answers, back = [], []
        for method in methods:
            context: Any = multiprocessing.get_context(method)
            (here, there), queue = context.Pipe(), context.Queue()
            worker = context.Process(target=answer, args=(handle, there, queue))
            worker.start()
            here.send(handle)
            queue.put(handle)
            back.append(here.recv())
            answers += here.recv()
            here.send(None)
            worker.join()
            for each in (here, there, queue):
                each.close()
            with context.Pool(1) as pool:
                answers += pool.map(look, [handle, handle])
                pool.close()
                pool.join()
        with ProcessPoolExecutor(1, context) as executor:
            answers.append(executor.submit(look, handle).result())
        want = [list(handle.id), "NEWNET", f"net:[{handle.id[1]}]", False]
        equal = [each == handle and each is not handle and each.fileno() != handle.fileno() for each in back]
        for each in back:
            each.close()
        left = fds_after_all(handle)
        handle.close()
        return [each for each in answers if each not in (want, True)], len(answers), equal, left

    assert anyone(body, *METHODS) == [[], 16, [True] * 3, 1]


def test_it_does_not_matter_what_was_imported_when(anyone: Runner) -> None:
    """multiprocessing may be loaded before or after the handle was made; of a subclass, too. nsapi does not load it."""

    def body(order: str) -> Any:
        if order == "multiprocessing first":
            importlib.import_module("multiprocessing")
        receiving: Any = importlib.import_module("receiving")

        class Mine(nsapi.NamespaceHandle):
            pass

        Mine.__module__, Mine.__qualname__ = "receiving", "Mine"
        receiving.Mine = Mine
        with closing(nsapi.current("net")) as plain, closing(Mine.from_fd(plain.fileno())) as special:
            answers = ["multiprocessing" in sys.modules]
            from multiprocessing.reduction import ForkingPickler, dump

            for handle in (plain, special, plain):
                with closing(ForkingPickler.loads(ForkingPickler.dumps([handle]))[0]) as other:
                    answers.append(type(other) is type(handle) and other == handle)
                with tempfile.TemporaryFile() as file:
                    dump(handle, file)
                    file.seek(0)
                    ForkingPickler.loads(file.read()).close()
        return answers

    assert anyone(body, "nsapi first") == [False, True, True, True]
    assert anyone(body, "multiprocessing first") == [True, True, True, True]


def test_nothing_else_pickles_or_copies_it(anyone: Runner) -> None:
    """TypeError with the remedy, also once multiprocessing knows of handles; a pickler with its own answer is asked."""

    def body() -> Any:
        import copy
        import io
        import pickle

        class Own(pickle.Pickler):
            def reducer_override(self, each: Any) -> Any:
                return (str, ("mine",)) if isinstance(each, nsapi.NamespaceHandle) else NotImplemented

        class Sly:
            def __reduce__(self) -> Any:
                return bytes, (pickle.dumps(handle),)

        handle, answers = nsapi.current("net"), []
        for _ in range(2):
            ways: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, pickle.dumps, pickle._dumps]  # type: ignore[attr-defined]
            answers += [failure(lambda: way(handle)) for way in ways]
            answers += [failure(lambda: pickle.dumps([handle], protocol)) for protocol in range(6)]
            Own(file := io.BytesIO()).dump(handle)
            own = pickle.loads(file.getvalue())
            from multiprocessing.reduction import ForkingPickler

        answers.append(failure(lambda: ForkingPickler.dumps(Sly())))
        with closing(ForkingPickler.loads(ForkingPickler.dumps(handle))):
            answers.append(failure(lambda: pickle.dumps(handle)))
        handle.close()
        return [each.get("classes", [""])[0] + each.get("text", "") for each in answers], own  # type: ignore[index]

    answers, own = anyone(body)
    assert len(answers) == 22
    for text in answers:
        assert text.startswith(
            "TypeErrora NamespaceHandle owns an fd of this process and cannot be pickled or copied: "
        )
        assert "multiprocessing passes it" in text
    assert own == "mine"


def test_a_closed_handle_goes_nowhere(anyone: Runner) -> None:
    """ValueError, where it is sent; and nothing is left open for a receiver that never comes."""

    def body() -> Any:
        import multiprocessing
        from multiprocessing.reduction import ForkingPickler

        from receiving import look

        handle = nsapi.current("net")
        here, there = multiprocessing.Pipe()
        worker = multiprocessing.get_context("spawn").Process(target=look, args=(handle,))
        handle.close()
        before = own_fds(handle)
        ways: list[Callable[[], Any]] = [
            lambda: ForkingPickler.dumps(handle),
            lambda: here.send(handle),
            worker.start,
        ]
        answers = [failure(way) for way in ways]
        here.close()
        there.close()
        return [[each["classes"][0], each["text"]] for each in answers], own_fds(handle) - before  # type: ignore[index]

    answers, left = anyone(body)
    for kind, text in answers:
        assert kind == "ValueError"
        assert "is closed" in text
    assert left == 0


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_number_that_is_another_namespace_by_now_is_refused(anyone: Runner, method: str) -> None:
    """Closed by another thread while the process is being started: the receiver is told, and gets no stranger's."""

    def body(method: str) -> Any:
        import multiprocessing

        from receiving import Replace, look

        with unshared("--user", "--net") as process:
            other = nsapi.open(process, "net")
        handle, context = nsapi.current("net"), multiprocessing.get_context(method)
        fd = handle.fileno()
        worker = context.Process(target=look, args=(handle,), kwargs={"more": Replace(handle, other)})  # type: ignore[attr-defined]
        saved = os.dup(2)
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            worker.start()
            worker.join()
            os.dup2(saved, 2)
            said.seek(0)
            text = said.read().decode()
        os.close(saved)
        os.close(fd)
        other.close()
        return worker.exitcode, text

    code, text = anyone(body, method)
    assert code != 0
    assert "the handle was closed while the process was started that it was passed to" in text


def test_what_nobody_picks_up_waits_in_the_sender(anyone: Runner) -> None:
    """A duplicate is kept for the receiver, until it comes or the sharer is stopped: as with sockets."""

    def body() -> Any:
        from multiprocessing import resource_sharer
        from multiprocessing.reduction import ForkingPickler

        with closing(nsapi.current("net")) as handle:
            counts = [own_fds(handle)]
            ForkingPickler.dumps(handle)
            counts.append(own_fds(handle))
            resource_sharer.stop()
            return [*counts, own_fds(handle), threading.active_count()]

    assert anyone(body) == [1, 2, 1, 1]


def test_one_that_arrived_and_is_never_closed_warns(anyone: Runner) -> None:
    """It owns its fd as every other handle does."""

    def body() -> Any:
        from multiprocessing.reduction import ForkingPickler

        with closing(nsapi.current("net")) as handle, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ForkingPickler.loads(ForkingPickler.dumps(handle))
            return [str(each.message) == f"unclosed {handle!r}" for each in caught], fds_after_all(handle)

    assert anyone(body) == [[True], 1]


# ---- send_fds ----


def test_send_fds_and_from_fd(anyone: Runner) -> None:
    """The recipe of the docs: fileno() goes, from_fd() makes the handle, and each end closes what is its own."""

    def body() -> Any:
        here, there = socket.socketpair()
        with here, there, closing(nsapi.current("uts")) as handle:
            refused = failure(lambda: socket.send_fds(here, [b"x"], [handle]))  # type: ignore[list-item]
            socket.send_fds(here, [b"x"], [handle.fileno()])
            _, received, _, _ = socket.recv_fds(there, 1, 1)
            other = nsapi.NamespaceHandle.from_fd(received[0])
            os.close(received[0])
            answers = [other == handle, other.type is handle.type, os.get_inheritable(other.fileno())]
            other.close()
            return refused["classes"][0], answers, own_fds(handle)  # type: ignore[index]

    assert anyone(body) == ["TypeError", [True, True, False], 1]
