"""`python -m benchmarks.peers.environments`: a virtual environment for each peer, from its pinned requirements."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.catalogue import HERE, PEERS, ROOT

VENVS = ROOT / ".venv" / "peers"


def make(venvs: Path, names: list[str]) -> dict[str, str]:
    """Install what is not there yet. Returns the end of pip's words for each peer that could not be installed."""
    failures = {}
    for name in names:
        wanted = (HERE / name / "requirements.txt").read_text("utf-8")
        home, stamp = venvs / name, venvs / name / "installed.txt"
        if stamp.is_file() and stamp.read_text("utf-8") == wanted:
            continue
        print(f"installing {name} …", flush=True)
        commands = (
            [sys.executable, "-m", "venv", "--clear", str(home)],
            [
                str(home / "bin" / "python"),
                "-m",
                "pip",
                "--quiet",
                "--disable-pip-version-check",
                "install",
                "-r",
                str(HERE / name / "requirements.txt"),
            ],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                failures[name] = done.stderr[-1000:]
                break
        else:
            stamp.write_text(wanted, "utf-8")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venvs", type=Path, default=VENVS)
    parser.add_argument("names", nargs="*", default=[peer.name for peer in PEERS])
    given = parser.parse_args()
    for name, words in make(given.venvs, given.names).items():
        print(f"{name} cannot be installed here:\n{words}", file=sys.stderr)


if __name__ == "__main__":
    main()
