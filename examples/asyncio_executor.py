"""Work in two net namespaces from one asyncio loop: a pool of threads lives in each, and the loop stays where it is.

Entering takes CAP_SYS_ADMIN: run this as root, or as
``unshare --map-root-user --net python examples/asyncio_executor.py``.
"""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection

import nsapi

ADDRESS = ("127.0.0.1", 8080)


def pool() -> nsapi.ThreadPoolExecutor:
    """Make a net namespace with its loopback up, and threads that live in it; the process it was made for is not needed."""
    config = nsapi.Config.new("net", loopback=True)
    with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:  # ends when its stdin is closed
        return nsapi.ThreadPoolExecutor(cat, "net", max_workers=4)


def fetch() -> str:
    """Ask by a client that blocks, and knows nothing of namespaces or asyncio."""
    with closing(HTTPConnection(*ADDRESS, timeout=30)) as client:
        client.request("GET", "/")
        return client.getresponse().read().decode()


async def serve(name: str, inside: nsapi.ThreadPoolExecutor) -> asyncio.Server:
    """Serve on the loop with a socket that was made inside: it stays there, whoever uses it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nthis is " + name.encode())
        await writer.drain()
        writer.close()

    listening = await asyncio.get_running_loop().run_in_executor(inside, socket.create_server, ADDRESS)
    return await asyncio.start_server(answer, sock=listening)


async def main() -> None:
    """Serve one address in both, and ask both at the same time."""
    loop, before = asyncio.get_running_loop(), os.readlink("/proc/thread-self/ns/net")
    with pool() as red, pool() as blue:
        async with await serve("red", red), await serve("blue", blue):
            for reply in await asyncio.gather(*(loop.run_in_executor(each, fetch) for each in (red, blue, red))):
                print(reply)
    print("the loop has moved:", os.readlink("/proc/thread-self/ns/net") != before)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except nsapi.NamespaceError as error:
        sys.exit(f"asyncio_executor: {error}")
