"""Write docs/_screens/*.txt: what the command really prints, in a small world of its own. As root: `python docs/screens.py`.

The pages include them; tests/test_command.py runs this, and compares their shape with what is kept.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nsapi._command import COMMANDS, HELP, parser_of

SCREENS = Path(__file__).parent / "_screens"
#: Its own /run and its own processes, and two programs that are elsewhere.
WORLD = """
mount -t tmpfs -o mode=755 none /run
nsapi() { "$PYTHON" -m nsapi "$@"; }
mkfifo /run/ready /run/ready-too
nsapi pin net blue --loopback
nsapi run --new uts,ipc --hostname box -- sh -c 'echo >/run/ready; exec sleep 1000' &
read -r line </run/ready
nsapi run --new user,net,pid,mnt --loopback -- sh -c 'echo >/run/ready-too; exec sleep 2000' &
read -r line </run/ready-too
"""
SHOWN = {
    "ls": "nsapi ls --type uts,net,user",
    "ls-persistent": "nsapi ls --persistent",
    "tree": "nsapi tree --type net,user,uts,pid",
    "show": "nsapi show blue",
}


def screens() -> dict[str, str]:
    """Have the command print all that the pages show."""
    made = {"help": "$ nsapi --help\n" + HELP}
    made |= {f"help-{name}": f"$ nsapi {name} --help\n{parser_of(name).format_help()}" for name in COMMANDS}
    return made | {name: screen(name) for name in SHOWN}


def screen(name: str) -> str:
    """Have the command print one of them."""
    line = SHOWN[name]
    script = f"set -e\n{WORLD}\n{line}\nkill -KILL -1"
    done = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount-proc", "--propagation", "private", "sh", "-s"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHON": sys.executable, "PYTHONUTF8": "1"},
        cwd="/",
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.stderr or not done.stdout:
        raise SystemExit(f"{line}: exit status {done.returncode}: {done.stderr}")
    return f"$ {line}\n{done.stdout}".replace(sys.executable, "python3")


if __name__ == "__main__":
    SCREENS.mkdir(exist_ok=True)
    for name, text in screens().items():
        (SCREENS / f"{name}.txt").write_text(text, encoding="utf-8")
