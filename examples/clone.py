"""Fork this process into new namespaces by one system call, clone(2).

Works as root and as an ordinary user.
"""

import os
import socket

import nsapi


def child(name: str, write: int) -> int:
    """Run in the copy: what is returned is the exit status."""
    socket.sethostname(name)
    os.write(write, f"pid {os.getpid()} on {socket.gethostname()}".encode())
    return 7


def main() -> None:
    """Make the child, hear what it says, and wait for it."""
    read, write = os.pipe()
    before = socket.gethostname()
    with nsapi.clone(child, "inside", write, flags=["user", "pid", "uts"]) as process:
        print(os.read(read, 100).decode())
    print(f"exit status {process.returncode}; the host is still called the same: {socket.gethostname() == before}")


if __name__ == "__main__":
    main()
