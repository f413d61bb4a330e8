"""Tell which ids can be mapped here, and why not more; then map them, and see files through them.

Works as root and as an ordinary user; more with a line in /etc/subuid and /etc/subgid.
"""

import sys

import nsapi


def main() -> None:
    """Look up, show, use."""
    maps = nsapi.id_maps("auto")
    print("uids:", nsapi.IDMap.format(maps.uid))
    print("gids:", nsapi.IDMap.format(maps.gid))
    if maps.reason is not None:
        print("no more, since", maps.reason)
    # Who is 0 inside, seen from outside; and somebody whom no map has.
    print("0 is", nsapi.IDMap.host_of(maps.uid, 0), "outside, 4000000000 is", nsapi.IDMap.host_of(maps.uid, 4000000000))
    config = nsapi.Config.new("user", maps=maps)
    seen = nsapi.run(["cat", "/proc/self/uid_map"], config=config, capture_output=True, text=True, check=True).stdout
    print("the kernel has them:", nsapi.IDMap.parse(seen) == maps.uid)


if __name__ == "__main__":
    try:
        main()
    except nsapi.NamespaceError as error:
        sys.exit(f"ids: {error}")
