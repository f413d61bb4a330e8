"""Enter network namespaces from threads: each thread moves alone, and what it makes inside stays there.

Entering takes CAP_SYS_ADMIN, over the namespace to return to as well: run this as root, or as
``unshare --map-root-user --net python examples/enter_net.py``.
"""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import nsapi

ADDRESS = ("127.0.0.1", 8080)


def net_of_a_process() -> nsapi.NamespaceHandle:
    """Make a net namespace with its loopback up, and keep it by a handle, without the process that it was made for."""
    config = nsapi.Config.new("net", loopback=True)
    with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:  # ends when its stdin is closed
        return nsapi.open(cat, "net")


def serve(net: nsapi.NamespaceHandle) -> socket.socket:
    """Listen inside: a socket belongs for ever to the namespace that it was made in."""
    with net:
        return socket.create_server(ADDRESS)


def main() -> None:
    """Let two threads listen on one address, each in its own namespace, and connect to both from this one."""
    with closing(net_of_a_process()) as red, closing(net_of_a_process()) as blue:
        with ThreadPoolExecutor() as pool:
            servers = list(pool.map(serve, [red, blue]))
        for net, server in zip([red, blue], servers, strict=True):
            with server, net, socket.create_connection(ADDRESS):
                connection, peer = server.accept()
                connection.close()
                print(f"{net}: a connection from {peer[0]} to port {ADDRESS[1]}")

        # By pid, path or name, nsapi.enter opens the namespace for the length of the block.
        with nsapi.enter(os.getpid(), "net") as own:
            print(f"{own}: {len(socket.if_nameindex())} interfaces, in this thread's own namespace")


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"enter_net: {error}")
