"""Start a program in some namespaces of a process that is running already, as nsenter(1) does.

Joining takes CAP_SYS_ADMIN: run this as root, or as ``unshare --map-root-user python examples/join_process.py``.
"""

import subprocess
import sys

import nsapi

LOOK = ["sh", "-c", "echo $(uname -n): $(tail -n +3 /proc/net/dev | wc -l) interfaces, $(readlink /proc/self/ns/ipc)"]


def main() -> None:
    """Compare a host name, the interfaces and an ipc namespace: here, there, and half of each."""
    config = nsapi.Config.new("net", "uts", "ipc", hostname="elsewhere")
    with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:  # ends when its stdin is closed
        print("outside           ", subprocess.check_output(LOOK, text=True), end="")
        # The namespaces in which the process differs from us.
        show("all of the process", nsapi.Config.join(cat))
        # Two of them; ipc stays ours.
        show("its net and uts   ", nsapi.Config.join(cat, "net", "uts"))
        # One of them, and a new one with another name.
        show("its net, new uts  ", nsapi.Config.new("uts", net=cat, hostname="third"))


def show(words: str, config: nsapi.Config) -> None:
    """Run LOOK as *config* says."""
    done = nsapi.run(LOOK, config=config, check=True, capture_output=True, text=True)
    print(words, done.stdout, end="")


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"join_process: {error}")
