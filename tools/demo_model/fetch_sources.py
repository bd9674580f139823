"""Download every source of sources.json: sdists with pip, repositories with git, Debian packages with apt.

    python fetch_sources.py --sdists DIR --mirrors DIR --debs DIR

pip prepares the metadata of an sdist before it keeps it, so the build backends must be installed beside pip:
pip install -U -r fetch-requirements.txt, best in an environment of its own. What is there already is not fetched again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from build_corpus import downloaded
from make_sources import normal

ROWS = json.loads((Path(__file__).parent / "sources.json").read_text())


def pip(row: dict[str, str], folder: Path) -> bool:
    """One sdist."""
    if normal(row["name"]) in downloaded(folder):
        return True
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        ":all:",
        "-d",
        str(folder),
        f"{row['name']}=={row['version']}",
    ]
    return subprocess.run(command).returncode == 0


def git(row: dict[str, str], folder: Path) -> bool:
    """One repository, as a git directory that holds the wanted commit."""
    target = folder / row["name"].replace("/", "+") / "repo"
    if not target.exists():
        url = f"https://github.com/{row['name']}.git"
        if subprocess.run(["git", "clone", "--bare", "-q", url, str(target)]).returncode:
            return False
    return subprocess.run(["git", "-C", str(target), "cat-file", "-e", row["version"]]).returncode == 0


def apt(row: dict[str, str], folder: Path) -> bool:
    """One Debian package (any version of it that the machine's sources have)."""
    if any(folder.glob(row["name"] + "_*.deb")):
        return True
    return subprocess.run(["apt-get", "download", row["name"]], cwd=folder).returncode == 0


def main() -> None:
    """Fetch all, report what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--sdists", "--mirrors", "--debs"):
        parser.add_argument(name, type=Path, required=True)
    args = parser.parse_args()
    ways = {"pypi": (pip, args.sdists), "git": (git, args.mirrors), "debian": (apt, args.debs)}
    missing = []
    for row in ROWS:
        way, folder = ways[row["kind"]]
        folder.mkdir(parents=True, exist_ok=True)
        if not way(row, folder):
            missing.append(f"{row['name']} {row['version']}")
    print(len(ROWS) - len(missing), "fetched; missing:", ", ".join(missing) or "none")


if __name__ == "__main__":
    main()
