"""What a stranger has prepared inside a mount namespace gets nothing of ours: paths, files of /proc, time."""

from __future__ import annotations

import errno
import io
import os
import pathlib
import signal
import threading
import warnings
from typing import Any

from conftest import Runner
from inside import drop_all_capabilities, failure, ready

import nsapi


def test_a_link_at_the_callers_directory_does_not_lead_out(root: Runner) -> None:
    """The program starts at the root of what it has joined, or not at all: never in the host's (CVE-2024-21626)."""

    def body() -> Any:
        import tempfile

        folder = tempfile.mkdtemp(prefix="nsapi-tests-")
        jail = f"""
            set -e; mount --make-rprivate /; mount -t tmpfs none {folder}; cd {folder}
            mkdir usr proc old tmp; for each in bin lib lib64; do ln -s usr/$each $each; done
            mount --bind /usr usr; mount -t proc proc proc; ln -s /proc/{os.getpid()}/root .{folder}
            pivot_root . old; umount -l /old; echo ready; exec sleep 1000
        """
        os.chdir(folder)
        look = ["sh", "-c", "pwd -P; ls -d home root etc/hostname 2>/dev/null; true"]
        try:
            with ready("unshare", "--mount", "sh", "-c", jail) as process:
                config = nsapi.Config.join(process, "mnt", capabilities={}, no_new_privs=True)
                told = nsapi.run(look, config=config, capture_output=True, text=True)
                explicit = failure(lambda: nsapi.run(look, config=config, cwd=folder))
                return [told.stdout, told.returncode, explicit["errno"], explicit["step"], explicit["hint"], folder]
        finally:
            os.chdir("/")
            os.rmdir(folder)

    out, status, errnum, step, hint, folder = root(body)
    assert (out, status) == ("/\n", 0)
    assert (errnum, step) == (errno.EXDEV, f"chdir {folder}")
    assert "outside of the root" in hint


def test_a_false_proc_is_neither_written_to_nor_waited_at(root: Runner) -> None:
    """Its `self` may lead to the real file of another process, its files may be FIFOs."""

    def body() -> Any:
        import tempfile

        real = tempfile.mkdtemp(prefix="nsapi-tests-")  # its own: removing a directory ends the mounts on it everywhere
        false_proc = f"""
            mount --make-rprivate /; mount -t proc proc {real}
            mount -t tmpfs none /proc; ln -s {real}/$1 /proc/self; mkdir /proc/thread-self
            mkfifo /proc/thread-self/status; [ "$2" = plain ] || mkfifo /proc/thread-self/oom_score_adj
            [ "$2" = fifo ] || ln -s {real}/$1/oom_score_adj /proc/thread-self/oom_score_adj
            echo ready; exec sleep 1000
        """
        signal.alarm(60)  # whoever waits at a FIFO ends here
        answers: list[Any] = []
        with ready("sh", "-c", "echo ready; exec sleep 1000") as victim:
            score = pathlib.Path(f"/proc/{victim.pid}/oom_score_adj")
            for kind in ("plain", "fifo"):
                argv = ("unshare", "--mount", "sh", "-c", false_proc, "sh", str(victim.pid), kind)
                with ready(*argv) as process, nsapi.enter(process.pid, "mnt"):
                    raised = nsapi.Config.new("uts", oom_score_adj=777)
                    dies = nsapi.Config.new("uts", parent_death_signal=9)
                    answers += [failure(lambda: nsapi.run(["true"], config=each)) for each in (raised, dies)]
                answers.append(score.read_text(encoding="ascii").strip())
        os.rmdir(real)
        return answers

    answers = root(body)
    for written, dies, score in (answers[:3], answers[3:]):
        assert score == "0"
        assert written["errno"] in (errno.EXDEV, errno.ELOOP)
        assert dies["errno"] == errno.EXDEV
        assert "procfs" in dies["hint"]


def test_a_hint_is_not_waited_for(root: Runner) -> None:
    """What helps is looked up in /proc: where a stranger has put a FIFO there, the error comes all the same."""

    def body() -> Any:
        script = (
            "mount --make-rprivate /; mount -t tmpfs none /proc; mkdir /proc/thread-self; mkfifo /proc/thread-self/status;"
            " echo ready; exec sleep 1000"
        )
        signal.alarm(60)
        texts: list[str] = []
        with ready("unshare", "--mount", "sh", "-c", script) as process:

            def work() -> None:
                nsapi.enter(process.pid, "mnt", unshare_fs=True).__enter__()
                drop_all_capabilities()  # of this thread, which ends inside
                texts.append(str(failure(lambda: nsapi.unshare("net"))["text"]))

            warnings.simplefilter("ignore")  # its handle is closed when it is collected
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        return texts

    (text,) = root(body)
    assert "Operation not permitted: unshare net" in text


def test_the_environment_may_change_while_it_is_copied() -> None:
    """os.environ in another thread moves the table of the C library: every program still gets a whole environment."""
    over = threading.Event()
    broken: list[str] = []

    def change() -> None:
        while not over.is_set():
            for number in range(500):
                os.environ[f"NSAPI_TEST_{number}"] = "v" * 50
            for number in range(500):
                del os.environ[f"NSAPI_TEST_{number}"]

    from nsapi import _native

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(60):
            try:
                _native.environment()
            except Exception as error:
                broken.append(repr(error))
    finally:
        over.set()
        thread.join()
    assert broken == []


def test_a_pipe_that_has_closed_itself_is_not_closed_again(monkeypatch: Any) -> None:
    """Ctrl-C between a file's making and its keeping: its number may be another thread's by now."""
    others: list[int] = []
    real = io.open

    def interrupted(fd: Any, *args: Any, **keywords: Any) -> Any:
        if not isinstance(fd, int):
            return real(fd, *args, **keywords)
        real(fd, *args, **keywords).close()
        others.append(os.open("/", os.O_RDONLY))
        assert others[-1] == fd
        raise KeyboardInterrupt

    monkeypatch.setattr(io, "open", interrupted)
    try:
        nsapi.run(["true"], config=nsapi.Config(), stdout=-1)
    except KeyboardInterrupt:
        pass
    os.fstat(others[0])
    os.close(others[0])
