"""Look at the interfaces of every network namespace there is a process in, passing over what has ended meanwhile.

Entering takes CAP_SYS_ADMIN: run this as root, or as ``unshare --map-root-user --net python examples/visit_all.py``.
"""

import os
import socket
import sys

import nsapi


def processes() -> dict[str, int]:
    """Find one process in each net namespace, and this one for its own."""
    found = {os.readlink("/proc/self/ns/net"): os.getpid()}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.setdefault(os.readlink(f"/proc/{name}/ns/net"), int(name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def interfaces(pids: list[int]) -> dict[int, list[str]]:
    """List the interfaces where each process is; what cannot be entered is left out, and the visit goes on behind it."""
    found = {}
    with nsapi.visit(pids, "net") as each:
        while True:
            try:
                pid, _ = next(each)
            except StopIteration:
                break
            except nsapi.NamespaceError as error:
                print(f"passed over: {error}", file=sys.stderr)
            else:
                found[pid] = [name for _, name in socket.if_nameindex()]
    return found


def main() -> None:
    """Print a line for each namespace."""
    pids = processes()
    found = interfaces(list(pids.values()))
    if not found:
        sys.exit("visit_all: none could be entered")
    for namespace, pid in pids.items():
        if pid in found:
            own = " (this process)" if pid == os.getpid() else ""
            print(f"{namespace} of process {pid}{own}: {' '.join(found[pid])}")


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"visit_all: {error}")
