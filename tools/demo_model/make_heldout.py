"""Write heldout.npz: 12 windows of 1,025 tokens of each kind of held-out text, spread over the whole stream.

python make_heldout.py --data DIR      (the folder made by pack_data.py)
"""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

COUNT, LENGTH = 12, 1025


def main() -> None:
    """Tokenize the held-out documents in order and take evenly spaced windows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.data / "bpe-8192.json"))
    with lzma.open(args.data / "heldout.jsonl.xz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = {}
    for kind in ("code", "docs", "data", "edit"):
        ids = [i for r in rows if r["k"] == kind for i in [*tokenizer.encode(r["t"], add_special_tokens=False).ids, 0]]
        starts = np.linspace(0, len(ids) - LENGTH, COUNT).astype(int)
        found[kind] = np.array([ids[s : s + LENGTH] for s in starts], np.uint16)
    out = Path(__file__).parent / "heldout.npz"
    np.savez_compressed(out, **found)
    print(out.name, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
