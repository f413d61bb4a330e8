"""Keep a network namespace by a name that `ip netns` knows too, with no process in it; then take the name away.

Works as root. Tells an ordinary user what the kernel allows him instead, and does that.
"""

import os
import sys

import nsapi

NAME = f"nsapi-example-{os.getpid()}"


def by_name() -> None:
    """Make it, use it by its name, as anybody could now, and take the name away."""
    nsapi.create("net", name=NAME, loopback=True).close()
    try:
        print("kept by:", nsapi.named()[NAME].replace(NAME, "NAME"))
        before = os.readlink("/proc/thread-self/ns/net")
        with nsapi.enter(NAME):
            print("inside it is another:", os.readlink("/proc/thread-self/ns/net") != before)
    finally:
        nsapi.unpin(NAME)
    print("still listed:", NAME in nsapi.named())


def by_handle() -> None:
    """Own a user namespace, and by it others: they live as long as the handles."""
    user = nsapi.create("user")
    net = nsapi.create("net", user=user, loopback=True)
    inside = nsapi.Config.new(user=user, net=net)
    print("kept by handles, and joined:", nsapi.run(["true"], config=inside).returncode == 0)
    net.close()
    user.close()


if __name__ == "__main__":
    try:
        by_name()
    except PermissionError as error:
        print(f"named: {error}")
        by_handle()
    except nsapi.NamespaceError as error:
        sys.exit(f"named: {error}")
