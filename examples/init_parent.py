"""A container's init in two files, as libcontainer's: this one makes the namespaces, init_child.py sets them up.

Works as root and as an ordinary user.
"""

import subprocess
import sys
from pathlib import Path

import nsapi

CHILD = str(Path(__file__).with_name("init_child.py"))


def run(hostname: str) -> None:
    """Start the init, wait until it is ready, show what its program says."""
    with nsapi.boot_env(nsapi.Config.new("user", "pid", "mnt", "uts", "net", "ipc")) as boot:
        command = [sys.executable, CHILD, hostname, "uname", "-n"]
        with subprocess.Popen(
            command, env=boot.env, pass_fds=boot.pass_fds, stdout=subprocess.PIPE, text=True
        ) as process:
            boot.wait_ready(timeout=60, process=process)
            output, _ = process.communicate()
            print("the program in the container says:", output.strip())
    print("exit status:", process.returncode)


if __name__ == "__main__":
    try:
        run("container")
        run("x" * 65)  # one byte too many for the kernel
    except nsapi.NamespaceError as error:
        sys.exit(f"init_parent: {error}")
    except OSError as error:  # what the child has raised, with its traceback
        print("init failed:", error)
        print("it was raised in:", "init_child.py" if "init_child.py" in str(error.__cause__) else "?")
