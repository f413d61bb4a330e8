"""Give a namespace to another process of yours: a handle goes where multiprocessing goes.

Entering takes CAP_SYS_ADMIN, in the process that enters: run this as root, or as
``unshare --map-root-user --net python examples/handle_to_process.py``.
"""

import multiprocessing
import socket
import subprocess
import sys
from contextlib import closing
from multiprocessing.connection import Connection

import nsapi


def work(net: nsapi.NamespaceHandle, answers: Connection) -> None:
    """In the other process: this handle is its own, with an fd of its own, which it closes."""
    with closing(net), net:
        answers.send([name for _, name in socket.if_nameindex()])


def main() -> None:
    """Let a process that was started outside look around in a namespace in which there is no process."""
    config = nsapi.Config.new("net", loopback=True)
    with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:  # ends when its stdin is closed
        net = nsapi.open(cat, "net")
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with closing(net), here, there:
        worker = context.Process(target=work, args=(net, there))
        worker.start()  # from here on the handle of this process may be closed
        print("the other process sees:", *here.recv())
        worker.join()
    print("exit status:", worker.exitcode)


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"handle_to_process: {error}")
