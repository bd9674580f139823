"""Write sources.json: every project whose text trains or tests the demo models, with version, licence and split.

    python make_sources.py --list packages.txt --sdists DIR --mirrors DIR

`packages.txt` holds one "name licence" a line. The versions are read from what `fetch_sources.py` brought.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from pathlib import Path

HELD_OUT = {
    "falcon",
    "luigi",
    "websockets",
    "marshmallow",
    "arrow",
    "rq",
    "structlog",
    "simpy",
    "jsonschema",
    "peewee",
    "glance",
    "click",
    "lmfit",
    "python/devguide",
    "prometheus/docs",
}
REPOSITORIES = {
    "python/peps": "CC0-1.0 or public domain",
    "python/devguide": "CC0-1.0",
    "rust-lang/book": "MIT/Apache-2.0",
    "rust-lang/cargo": "MIT/Apache-2.0",
    "rust-lang/rustc-dev-guide": "MIT/Apache-2.0",
    "rust-lang/reference": "MIT/Apache-2.0",
    "rust-lang/rust-by-example": "MIT/Apache-2.0",
    "rust-lang/rfcs": "MIT/Apache-2.0",
    "rust-lang/blog.rust-lang.org": "MIT/Apache-2.0",
    "swiftlang/swift-evolution": "Apache-2.0",
    "kubernetes/enhancements": "Apache-2.0",
    "jekyll/jekyll": "MIT",
    "standardebooks/manual": "CC0-1.0",
    "encode/django-rest-framework": "BSD-3-Clause",
    "pydantic/pydantic": "MIT",
    "huggingface/course": "Apache-2.0",
    "prometheus/docs": "Apache-2.0",
    "mkdocs/mkdocs": "BSD-2-Clause",
}


def normal(name: str) -> str:
    """Project names compared as the package index does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Collect the three kinds of source and write them, sorted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, required=True)
    parser.add_argument("--sdists", type=Path, required=True)
    parser.add_argument("--mirrors", type=Path, required=True, help="folder of git directories named owner+name/repo")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sources.json")
    args = parser.parse_args()
    licences = dict(line.split() for line in args.list.read_text().splitlines() if line.strip())
    known = {normal(name): (name, licence) for name, licence in licences.items() if licence != "skip"}
    rows = []
    for path in sorted(args.sdists.iterdir()):
        match = re.match(r"(.+)-([0-9][^-]*?)\.(tar\.gz|zip|tgz|tar\.bz2)$", path.name)
        if match and normal(match[1]) in known:
            name, licence = known[normal(match[1])]
            rows.append({"kind": "pypi", "name": name, "version": match[2], "licence": licence})
    for name, licence in REPOSITORIES.items():
        folder = args.mirrors / name.replace("/", "+") / "repo"
        commit = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
        if commit.returncode == 0:
            rows.append({"kind": "git", "name": name, "version": commit.stdout.strip(), "licence": licence})
    rows.append({"kind": "debian", "name": "python3.11-doc", "version": "3.11.2-6+deb12u9", "licence": "PSF-2.0"})
    for row in rows:
        row["split"] = "held-out" if row["name"] in HELD_OUT else "train"
    rows.sort(key=lambda r: (r["kind"], r["name"]))
    args.out.write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")
    print(len(rows), "sources,", sum(r["split"] == "held-out" for r in rows), "held out")


if __name__ == "__main__":
    main()
