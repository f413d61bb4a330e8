"""Keep interpreters inside for many calls: a concurrent.futures.Executor whose workers live in other namespaces.

Works as root and as an ordinary user.
"""

import asyncio
import socket

import nsapi

CONFIG = nsapi.Config.new("user", "net", "uts", hostname="worker", loopback=True)


def echo(text: str) -> str:
    """Send a text to oneself, over the loopback of the namespace that the worker is in."""
    with socket.create_server(("127.0.0.1", 8080)) as server, socket.create_connection(("127.0.0.1", 8080)) as client:
        connection, _ = server.accept()
        with connection:
            client.sendall(text.encode())
            return f"{socket.gethostname()}: {connection.recv(100).decode()}"


async def from_a_loop(pool: nsapi.ProcessPoolExecutor) -> str:
    """Await a call, as of any executor."""
    return await asyncio.get_running_loop().run_in_executor(pool, echo, "from a coroutine")


def main() -> None:
    """Submit, map, and await: each worker has a net namespace of its own, so that all can have one port."""
    with nsapi.ProcessPoolExecutor(2, config=CONFIG) as pool:
        print(pool.submit(echo, "one").result())
        print(list(pool.map(echo, ["two", "three"])))
        print(asyncio.run(from_a_loop(pool)))


if __name__ == "__main__":
    main()
