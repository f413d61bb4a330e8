"""From the JSON of `nsapi ls`: which namespaces are kept by a file alone, and whose processes are in how many net ones."""

import json
import subprocess
import sys

command = [sys.executable, "-m", "nsapi", "ls", "--json", "-o", "NS,TYPE,NPROCS,USER,NSFS"]
seen = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

for each in seen["namespaces"]:
    if each["nprocs"] == 0 and each["nsfs"]:
        print(f"kept by {each['nsfs'][0]!r}: {each['type']}:[{each['ns']}]")

nets = [each["user"] for each in seen["namespaces"] if each["type"] == "net" and each["user"]]
for user in sorted(set(nets)):
    print(f"{user}: {nets.count(user)} net")

for sentence in seen["unseen"]:
    print("not seen:", sentence)
