"""Serve one port in two network namespaces, and ask each by a program that joins it: all on one event loop.

Works as root and as an ordinary user.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE

import nsapi

SERVER = """
import socket, sys
with socket.create_server(("127.0.0.1", 8080)) as server:
    print("ready", flush=True)
    while True:
        with server.accept()[0] as connection:
            connection.sendall(sys.argv[1].encode())
"""
CLIENT = "import socket; print(socket.create_connection(('127.0.0.1', 8080)).makefile().read())"


async def serve_and_ask(name: str) -> str:
    """Start a server in a new namespace, and a client beside it; the server ends with the block."""
    config = nsapi.Config.new("user", "net", loopback=True)
    argv = (sys.executable, "-c", SERVER, name)
    async with await nsapi.create_subprocess_exec(*argv, config=config, stdout=PIPE) as server:
        assert server.stdout is not None
        await server.stdout.readline()
        client = await nsapi.create_subprocess_exec(sys.executable, "-c", CLIENT, target=server, stdout=PIPE)
        output, _ = await client.communicate()
        server.kill()
    return f"{output.decode().strip()}: the client {client.returncode}, the server {server.returncode}"


async def main() -> None:
    """Do it twice at the same time; then let a timeout end a program."""
    for line in await asyncio.gather(serve_and_ask("red"), serve_and_ask("blue")):
        print(line)
    sleeper = await nsapi.create_subprocess_exec("sleep", "1000", config=nsapi.Config.new("user", "pid", "mnt"))
    try:
        await asyncio.wait_for(sleeper.communicate(), 0.1)
    except asyncio.TimeoutError:
        print("after its timeout:", sleeper.returncode)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except nsapi.NamespaceError as error:
        sys.exit(f"asyncio_subprocess: {error}")
