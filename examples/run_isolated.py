"""Run a program where it sees nothing of the host but files, and tell which step failed where one does.

Works as root and as an ordinary user.
"""

import subprocess
import sys

import nsapi

SANDBOX = nsapi.Config.new(
    *("user", "pid", "mnt", "net", "uts", "ipc"),
    hostname="sandbox",
    loopback=True,  # 127.0.0.1 and ::1 work, nothing else does
    rlimits={"RLIMIT_NOFILE": 64},
    no_new_privs=True,  # set-user-ID programs give nothing
)


def run(*argv: str) -> None:
    """Run *argv* in the sandbox, as subprocess.run would, and say how that went."""
    command = " ".join(argv)
    try:
        done = nsapi.run(argv, config=SANDBOX, check=True, timeout=60, capture_output=True, text=True)
    except FileNotFoundError:  # a NamespaceError, and the built-in class for its errno
        print(f"{command}: there is no such program inside")
    except nsapi.NamespaceError as error:  # the program was never started, and nothing is left of it
        sys.exit(f"run_isolated: {error.step}: {error.strerror} ({error.hint})")
    except subprocess.CalledProcessError as error:  # it was, and failed
        print(f"{command}: exit status {error.returncode}")
    else:
        print(f"{command}: {done.stdout.strip()}")


if __name__ == "__main__":
    run("uname", "-n")
    run("id", "-u")
    run("sh", "-c", "ulimit -n")
    run("sh", "-c", "exit 3")
    run("/no/such/program")
