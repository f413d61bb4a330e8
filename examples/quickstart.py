"""Start a program in new namespaces, and compare what it sees with what everybody else sees.

Needs no privilege: the user namespace makes whoever runs this root inside, and nowhere else.
"""

import os
import socket
import subprocess
import sys

import nsapi

TYPES = ("user", "pid", "mnt", "net", "uts", "ipc")
LOOK = f"""
echo "host name: $(uname -n)"
echo "pid: $$"
echo "uid: $(id -u)"
echo interfaces: $(tail -n +3 /proc/net/dev | cut -d: -f1)
set -- /proc/[0-9]*; echo "processes: $#"
for type in {" ".join(TYPES)}; do echo "$type namespace: $(readlink /proc/self/ns/$type)"; done
"""


def facts(text: str) -> dict[str, str]:
    """Read what LOOK has printed."""
    return dict(line.split(": ", 1) for line in text.splitlines())


def interfaces() -> str:
    """Name the network interfaces that this thread sees."""
    return " ".join(name for _, name in socket.if_nameindex())


def main() -> None:
    """Show the table; as root, go and look in person."""
    config = nsapi.Config.new(*TYPES, hostname="inside", loopback=True)
    outside = facts(subprocess.run(["sh", "-c", LOOK], check=True, capture_output=True, text=True).stdout)
    inside = facts(nsapi.run(["sh", "-c", LOOK], config=config, check=True, capture_output=True, text=True).stdout)

    print(f"One shell script, run twice: in new {', '.join(TYPES)} namespaces, and outside.\n")
    print(f"{'':15} {'inside':18} outside")
    for name, value in inside.items():
        print(f"{name:15} {value:18} {outside[name]}")

    if os.geteuid() == 0:  # entering the namespaces of others takes CAP_SYS_ADMIN
        with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:  # ends when its stdin is closed
            with nsapi.enter(cat.pid, "net"):
                print(f"\nThis thread, in the net namespace of process {cat.pid}: {interfaces()}")
            print(f"This thread, back again: {interfaces()}")


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"quickstart: {error}")
