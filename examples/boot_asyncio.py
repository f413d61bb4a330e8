"""Start Python interpreters by asyncio, each inside namespaces of its own from its first instruction on.

Works as root and as an ordinary user.
"""

import asyncio
import sys

import nsapi

PROGRAM = "import os, sys; print(os.getpid(), os.readlink('/proc/self/ns/pid'), flush=True); sys.exit(int(sys.argv[1]))"


async def run(status: int) -> tuple[str, int]:
    """Start one, and give what it says and how it ends."""
    with nsapi.boot_env(nsapi.Config.new("user", "pid", "mnt")) as boot:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, str(status)),
            env=boot.env,
            pass_fds=boot.pass_fds,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await asyncio.to_thread(boot.confirm, 60, process)
            output, _ = await process.communicate()
        finally:
            await process.wait()
    assert process.returncode is not None
    return output.decode().strip(), process.returncode


async def main() -> None:
    """Run three side by side."""
    results = await asyncio.gather(*(run(status) for status in (0, 7, 8)))
    said, statuses = zip(*results, strict=True)
    print("exit statuses:", *statuses)
    print("each is pid 1:", all(each.split()[0] == "1" for each in said))
    print("different namespaces:", len(set(said)))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except nsapi.NamespaceError as error:
        sys.exit(f"boot_asyncio: {error}")
