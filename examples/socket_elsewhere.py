"""Serve and fetch by HTTP in network namespaces that no thread of this process is in: only the sockets are there.

Going there takes CAP_SYS_ADMIN, over the namespace to return to as well: run this as root, or as
``unshare --map-root-user --net python examples/socket_elsewhere.py``.
"""

import http.client
import http.server
import os
import socket
import subprocess
import sys
from contextlib import closing
from threading import Thread

import nsapi

ADDRESS = ("127.0.0.1", 80)


class Server(http.server.HTTPServer):
    """Serves on a socket that it is given."""

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(ADDRESS, Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening


class Handler(http.server.BaseHTTPRequestHandler):
    """Says by which namespace's socket it has been asked."""

    def do_GET(self) -> None:
        """Answer with the number that lsns(8) shows."""
        with closing(nsapi.open(self.connection)) as net:
            text = str(net.id[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class Connection(http.client.HTTPConnection):
    """Connects from inside of a target: all that differs from http.client's."""

    def __init__(self, target: object, host: str, port: int) -> None:
        super().__init__(host, port, timeout=30)
        self.target = target

    def connect(self) -> None:
        """Make the socket there, and connect it from here."""
        self.sock = nsapi.socket(self.target)
        self.sock.settimeout(self.timeout)
        self.sock.connect((self.host, self.port))


def net_of_a_process() -> nsapi.NamespaceHandle:
    """Make a net namespace with its loopback up, and keep it by a handle, without the process that it was made for."""
    config = nsapi.Config.new("net", loopback=True)
    with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:  # ends when its stdin is closed
        return nsapi.open(cat, "net")


def main() -> None:
    """Have two servers on one address, each in its own namespace, and fetch from both."""
    here = os.readlink("/proc/thread-self/ns/net")
    with closing(net_of_a_process()) as red, closing(net_of_a_process()) as blue:
        for net in (red, blue):
            listening = net.socket()
            listening.bind(ADDRESS)
            listening.listen()
            with Server(listening) as server, closing(Connection(net, *ADDRESS)) as connection:
                thread = Thread(target=server.handle_request)
                thread.start()
                connection.request("GET", "/")
                text = connection.getresponse().read().decode()
                thread.join()
            print(f"{net}: the server of net:[{text}] has answered")
    print(f"this thread has been in {here}, and is: {os.readlink('/proc/thread-self/ns/net') == here}")


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"socket_elsewhere: {error}")
