"""Choose the documents that travel to the training machine and compress them, in parts that travel one by one.

    python pack_data.py --corpus DIR --tokenizers DIR --out DIR [--code 235 --docs 135 --parts 2]

All data and edit documents are kept; code and docs are sampled down to the given megabytes, and very repetitive code
(tables, generated-looking tests) is left out. Writes train-1.jsonl.xz, ... and heldout.jsonl.xz.
"""

from __future__ import annotations

import argparse
import json
import lzma
import multiprocessing
import random
import shutil
import zlib
from collections import Counter
from pathlib import Path

HELD_OUT = {"code": 1_200_000, "docs": 1_200_000, "data": 600_000, "edit": 250_000}


def repetitive(text: str, ratio: float) -> bool:
    """Whether deflate shrinks a text to less than this share."""
    raw = text.encode()
    return len(zlib.compress(raw, 6)) < ratio * len(raw)


def pack(args: argparse.Namespace, part: int) -> Counter[str]:
    """Every so-many-th document of the training split, sampled, into one file."""
    stats = json.loads((args.corpus / "stats.json").read_text())
    keep = {kind: min(1.0, getattr(args, kind) * 1e6 / stats[f"train/{kind}"]) for kind in ("code", "docs")}
    rng, size = random.Random(3 + part), Counter[str]()
    with (
        (args.corpus / "train.jsonl").open() as source,
        lzma.open(args.out / f"train-{part + 1}.jsonl.xz", "wt", preset=args.preset, encoding="utf-8") as out,
    ):
        for number, line in enumerate(source):
            if number % args.parts != part or rng.random() >= keep.get(json.loads(line)["k"], 1.0):
                continue
            row = json.loads(line)
            if row["k"] == "code" and repetitive(row["t"], args.ratio):
                size["train/code left out"] += len(row["t"])
                continue
            size[f"train/{row['k']}"] += len(row["t"])
            out.write(json.dumps({"k": row["k"], "t": row["t"]}, ensure_ascii=False) + "\n")
    return size


def pack_heldout(args: argparse.Namespace) -> Counter[str]:
    """A sample of the held-out split."""
    rng, size = random.Random(3), Counter[str]()
    rows = [json.loads(line) for line in (args.corpus / "heldout.jsonl").open()]
    rng.shuffle(rows)
    with lzma.open(args.out / "heldout.jsonl.xz", "wt", preset=args.preset, encoding="utf-8") as out:
        for row in rows:
            if size[f"held-out/{row['k']}"] < HELD_OUT[row["k"]] and len(row["t"]) < 40_000:
                size[f"held-out/{row['k']}"] += len(row["t"])
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return size


def main() -> None:
    """Write the parts side by side, copy the tokenizers, print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--code", type=float, default=235, help="megabytes of code, before repetitive files go")
    parser.add_argument("--docs", type=float, default=135, help="megabytes of documentation")
    parser.add_argument("--ratio", type=float, default=0.17, help="code that deflate shrinks further is left out")
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--preset", type=int, default=6, help="xz preset")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with multiprocessing.Pool(args.parts) as pool:
        size = sum(pool.starmap(pack, [(args, part) for part in range(args.parts)]), Counter[str]())
    size += pack_heldout(args)
    for path in args.tokenizers.glob("bpe-*.json"):
        shutil.copy(path, args.out)
    print(dict(size), {p.name: p.stat().st_size for p in args.out.iterdir() if p.is_file()})


if __name__ == "__main__":
    main()
