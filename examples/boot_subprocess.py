"""Start a Python interpreter by subprocess, whose very first instruction is inside new namespaces.

Nobody but subprocess starts it, waits for it and signals it: nsapi gives an environment. Works as root and as an
ordinary user.
"""

import subprocess
import sys

import nsapi

PROGRAM = """
import os, sys
print("pid", os.getpid(), "uid", os.getuid(), "threads", len(os.listdir("/proc/self/task")), flush=True)
sys.exit(7)
"""


def main() -> None:
    """Run PROGRAM as pid 1 of a new pid namespace."""
    config = nsapi.Config.new("user", "pid", "mnt", "net")
    with nsapi.boot_env(config) as boot:
        command = [sys.executable, "-c", PROGRAM]
        with subprocess.Popen(
            command, env=boot.env, pass_fds=boot.pass_fds, stdout=subprocess.PIPE, text=True
        ) as process:
            # Preloading can be ignored (by a static program); only this tells that it was not.
            pids = boot.confirm(timeout=60, process=process)
            print("we hold its parent:", process.pid == pids.started != pids.program)
            output, _ = process.communicate()
    print("it says:", output.strip())
    print("exit status:", process.returncode)


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"boot_subprocess: {error}")
