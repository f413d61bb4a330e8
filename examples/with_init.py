"""Run a program beside an init, which reaps orphans, so that signals and statuses are those of any program.

Works as root and as an ordinary user.
"""

import signal
import subprocess
import sys

import nsapi

CONFIG = nsapi.Config.new("user", "pid", "mnt", "uts", hostname="box", init=True)

# An orphan, that nobody but pid 1 could reap; and a program that waits.
PROGRAM = "(sleep 1000 &); echo started; read line"


def main() -> None:
    """Start it, look inside from a second program, end it as any other."""
    with nsapi.Popen(["sh", "-c", PROGRAM], config=CONFIG, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as box:
        assert box.stdout is not None
        box.stdout.readline()
        # A second program joins all that is new: the namespaces of the first are told apart from ours.
        seen = nsapi.run(
            ["sh", "-c", "uname -n; cat /proc/1/comm /proc/2/comm"],
            target=box,
            capture_output=True,
            text=True,
            check=True,
        )
        print(*seen.stdout.split())
        box.terminate()  # without init it would be pid 1, and the kernel would drop the signal
    print("ended by", signal.Signals(-box.returncode).name)  # and the orphan with it


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"with_init: {error}")
