"""A multiprocessing.Process (start method spawn) whose interpreter begins inside new namespaces.

multiprocessing takes no environment for a process, so the one place where it starts programs is replaced here. Works as
root and as an ordinary user.
"""

import io
import multiprocessing.popen_spawn_posix
import multiprocessing.process
import os
import sys
import time
from multiprocessing import context, reduction, resource_tracker, spawn, util
from typing import Any

import nsapi


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class _Popen(multiprocessing.popen_spawn_posix.Popen):
    """As its base, but the program gets the environment and the descriptors of ``process.boot``."""

    _fds: list[int]

    def _launch(self, process: Any) -> None:
        boot = process.boot
        tracker = resource_tracker.getfd()  # started before: it is to be outside
        data = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process._name), data)
            reduction.dump(process, data)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, alive = os.pipe()  # readable when the program has ended: it has the other end
        theirs, ours = os.pipe()
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=theirs)
            passed = {tracker, theirs, alive, *boot.pass_fds, *self._fds}
            actions = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in sorted(passed)]  # onto itself: stays open at exec
            self.pid = os.posix_spawn(spawn.get_executable(), command, boot.env, file_actions=actions)
            with open(ours, "wb", closefd=False) as file:
                file.write(data.getbuffer())
        finally:
            self.finalizer = util.Finalize(self, _close, (self.sentinel, ours))
            os.close(theirs)
            os.close(alive)


class BootProcess(context.SpawnProcess):
    """A Process that starts inside the namespaces of *config*."""

    def __init__(self, config: nsapi.Config, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.config = config

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what stays in the parent."""
        return {name: value for name, value in vars(self).items() if name not in ("boot", "config")}

    @staticmethod
    def _Popen(process: Any) -> _Popen:  # noqa: N802
        return _Popen(process)

    def start(self) -> None:
        """Start, and return when the program is inside."""
        with nsapi.boot_env(self.config) as self.boot:
            super().start()
            try:
                self.boot.confirm(60, self)
            except BaseException:
                self.join()  # it has been killed
                raise


def work(queue: Any) -> None:
    """Tell about this process, and end with status 7."""
    queue.put((os.getpid(), os.getuid(), os.readlink("/proc/self/ns/net")))
    queue.close()
    queue.join_thread()
    sys.exit(7)


def main() -> None:
    """Start one that ends by itself, and one that is terminated."""
    config = nsapi.Config.new("user", "pid", "mnt", "net")
    spawned = multiprocessing.get_context("spawn")
    queue = spawned.Queue()
    process = BootProcess(config, target=work, args=(queue,))
    process.start()
    pid, uid, net = queue.get(timeout=60)
    process.join()
    print("pid", pid, "uid", uid, "other net namespace:", net != os.readlink("/proc/self/ns/net"))
    print("exitcode:", process.exitcode)
    process = BootProcess(config, target=time.sleep, args=(1000,))
    process.start()
    process.terminate()
    process.join()
    print("terminated:", process.exitcode)


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"boot_multiprocessing: {error}")
