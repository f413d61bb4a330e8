"""The init that init_parent.py starts: it is pid 1 of its namespaces when its first line runs."""

import os
import socket
import sys

import nsapi


def set_up(hostname: str) -> None:
    """Do what only somebody inside can do; what it raises is raised in the parent."""
    assert os.getpid() == 1
    socket.sethostname(hostname)


if __name__ == "__main__":
    hostname, *program = sys.argv[1:] or [""]
    try:
        nsapi.start_initialization(set_up, hostname)
    except RuntimeError as error:
        sys.exit(f"init_child: {error}")
    os.execvp(program[0], program)
