"""Find every namespace of this host that one may see: as a tree, and one that lsns(8) would have to be asked twice for.

Works as root and as an ordinary user, who sees less and is told so.
"""

import contextlib
import subprocess

import nsapi

# A net namespace that no process is in: the handle alone keeps it. Made in a user namespace, it needs no privilege.
config = nsapi.Config.new("user", "net")
with nsapi.Popen(["cat"], config=config, stdin=subprocess.PIPE) as cat:
    handle = nsapi.open(cat, "net")

snapshot = nsapi.discover()

# Each user namespace, and below it what it owns.
for top in snapshot.tree("owner"):
    for depth, namespace in top.walk():
        name = f"{'  ' * depth}{namespace.type.proc_name}:[{namespace.id[1]}]"
        print(f"{name:24} {namespace.nprocs} processes, made by uid {namespace.owner_uid}")

# Filters are plain Python; the handle's id is the record's.
for namespace in snapshot.persistent():
    if namespace.id == handle.id:
        print(f"net:[{namespace.id[1]}]: no process, reached by {', '.join(namespace.references)}")

# What is found can be opened, wherever it was found, and is checked to be the same.
with contextlib.closing(snapshot[handle.id].open()) as again:
    print("opened again:", again)
handle.close()

for sentence in snapshot.unseen:
    print("not seen:", sentence)
