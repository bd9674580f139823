"""Choose the documents that travel to the training machine and compress them.

    python pack_data.py --corpus DIR --tokenizers DIR --out DIR [--code 130 --docs 120]

All data and edit documents are kept; code and docs are sampled down to the given megabytes.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import shutil
from collections import Counter
from pathlib import Path

HELD_OUT = {"code": 1_200_000, "docs": 1_200_000, "data": 600_000, "edit": 250_000}


def main() -> None:
    """Sample, write train.jsonl.xz and heldout.jsonl.xz, copy the tokenizers, print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--code", type=float, default=130, help="megabytes of code")
    parser.add_argument("--docs", type=float, default=120, help="megabytes of documentation")
    parser.add_argument("--preset", type=int, default=6, help="xz preset")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stats = json.loads((args.corpus / "stats.json").read_text())
    keep = {kind: min(1.0, getattr(args, kind) * 1e6 / stats[f"train/{kind}"]) for kind in ("code", "docs")}
    rng, size = random.Random(3), Counter()
    with (
        (args.corpus / "train.jsonl").open() as source,
        lzma.open(args.out / "train.jsonl.xz", "wt", preset=args.preset, encoding="utf-8") as out,
    ):
        for line in source:
            row = json.loads(line)
            if rng.random() < keep.get(row["k"], 1.0):
                size["train", row["k"]] += len(row["t"])
                out.write(json.dumps({"k": row["k"], "t": row["t"]}, ensure_ascii=False) + "\n")
    rows = [json.loads(line) for line in (args.corpus / "heldout.jsonl").open()]
    rng.shuffle(rows)
    with lzma.open(args.out / "heldout.jsonl.xz", "wt", preset=args.preset, encoding="utf-8") as out:
        for row in rows:
            if size["held-out", row["k"]] < HELD_OUT[row["k"]] and len(row["t"]) < 40_000:
                size["held-out", row["k"]] += len(row["t"])
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    for path in args.tokenizers.glob("bpe-*.json"):
        shutil.copy(path, args.out)
    print(
        {"/".join(k): v for k, v in size.items()}, {p.name: p.stat().st_size for p in args.out.iterdir() if p.is_file()}
    )


if __name__ == "__main__":
    main()
