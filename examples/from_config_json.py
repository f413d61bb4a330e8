"""Run the process of a container runtime's config.json in its namespaces, saying what is left out: FILE [PATH ...]."""

import sys

import nsapi

file, *allow = sys.argv[1:]
config = nsapi.oci.load(file, allow=allow)
process = config.extra["process"]
try:
    done = nsapi.run(process["args"], config=config, env=dict(each.split("=", 1) for each in process.get("env", ())))
except nsapi.Unsupported as error:
    sys.exit(f"{error}\nin this file: {' '.join(config.unapplied)}")
sys.exit(done.returncode)
