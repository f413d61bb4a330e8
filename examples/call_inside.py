"""Call Python functions in other namespaces: values and exceptions come back, this process stays where it is.

Works as root and as an ordinary user.
"""

import os
import socket
import subprocess

import nsapi


def look(greeting: str) -> dict[str, object]:
    """Tell what is seen inside: it runs in an interpreter of its own."""
    return {"greeting": greeting, "host": socket.gethostname(), "uid": os.getuid(), "pid": os.getpid()}


def connect(port: int) -> None:
    """Fail inside, where nobody listens."""
    socket.create_connection(("127.0.0.1", port))


def main() -> None:
    """Call in new namespaces, then in those of a process."""
    config = nsapi.Config.new("user", "pid", "mnt", "net", "uts", hostname="inside", loopback=True)
    print(nsapi.call(look, "hello", config=config))
    try:
        nsapi.call(connect, 9, config=config)
    except ConnectionRefusedError as error:  # the real exception; its cause is the traceback inside
        print(f"refused, as it is said inside: {'in connect' in str(error.__cause__)}")
    try:
        nsapi.call(os._exit, 3, config=config)
    except subprocess.CalledProcessError as error:
        print(f"ended before it returned: {error.returncode}")

    with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:
        print(nsapi.call(look, "from a neighbour", target=cat)["host"])
        server = nsapi.call(socket.create_server, ("127.0.0.1", 8080), target=cat, types=("user", "net"))
        with server:  # born there, used here
            print(f"listens inside on port {server.getsockname()[1]}")

    # In a program of one thread also a closure, which is not pickled.
    seen = ["kept"]
    print(nsapi.call(lambda: [*seen, socket.gethostname()], config=config, method="fork"))


if __name__ == "__main__":
    main()
