"""Token streams for training: tokenize the packed corpus with all cores, serve shuffled windows.

    python tokens.py --data DIR --out DIR

DIR holds train-*.jsonl.xz, heldout.jsonl.xz and bpe-*.json (see pack_data.py). Writes, for each vocabulary,
train-<size>.bin and heldout-<size>-<kind>.bin (uint16; documents shuffled, <|endoftext|> = 0 after each).
"""

from __future__ import annotations

import argparse
import json
import lzma
import multiprocessing
import os
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

KINDS = ("code", "docs", "data", "edit")
_tokenizer: Tokenizer


def _start(path: str) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = Tokenizer.from_file(path)


def _encode(texts: list[str]) -> bytes:
    rows = [[*_tokenizer.encode(t, add_special_tokens=False).ids, 0] for t in texts]
    return np.concatenate([np.array(r, np.uint16) for r in rows]).tobytes()


def encode(texts: list[str], tokenizer: Path) -> np.ndarray:
    """All texts as one stream, in order."""
    groups = [texts[i : i + 64] for i in range(0, len(texts), 64)]
    with multiprocessing.Pool(os.cpu_count(), _start, (str(tokenizer),)) as pool:
        return np.frombuffer(b"".join(pool.imap(_encode, groups, chunksize=4)), np.uint16)


def read(path: Path) -> list[dict[str, str]]:
    """Documents of a packed file."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Windows:
    """Endless random windows of length+1 tokens: each epoch visits every window once, at a new phase."""

    def __init__(self, stream: np.ndarray, length: int, batch: int, device: str, seed: int = 0) -> None:
        self.stream = torch.from_numpy(stream.astype(np.int32)).to(device)
        self.length, self.batch, self.device = length, batch, device
        self.rng = torch.Generator().manual_seed(seed)
        self.order, self.phase, self.at, self.epochs = torch.empty(0, dtype=torch.long), 0, 0, -1
        self.reach = torch.arange(length + 1, device=device)

    def next(self) -> Tensor:
        """A batch [batch, length+1] of token ids (int64)."""
        if self.at + self.batch > len(self.order):
            self.phase = int(torch.randint(self.length, (1,), generator=self.rng))
            count = (len(self.stream) - self.phase - 1) // self.length
            self.order, self.at, self.epochs = torch.randperm(count, generator=self.rng), 0, self.epochs + 1
        starts = self.order[self.at : self.at + self.batch] * self.length + self.phase
        self.at += self.batch
        return self.stream[starts.to(self.device, non_blocking=True)[:, None] + self.reach].long()


def heldout_windows(folder: Path, size: int, length: int, count: int, device: str) -> dict[str, Tensor]:
    """The first windows of each kind of held-out text."""
    found = {}
    for kind in KINDS:
        stream = np.fromfile(folder / f"heldout-{size}-{kind}.bin", np.uint16)
        rows = min(count, (len(stream) - 1) // length)
        index = np.arange(rows)[:, None] * length + np.arange(length + 1)
        found[kind] = torch.from_numpy(stream[index].astype(np.int64)).to(device)
    return found


def main() -> None:
    """Tokenize both splits with each vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    part = args.out.with_name(args.out.name + ".part")  # train.py waits for the finished folder
    part.mkdir(parents=True, exist_ok=True)
    paths = [*sorted(args.data.glob("train-*.jsonl.xz")), args.data / "heldout.jsonl.xz"]
    with multiprocessing.Pool(len(paths)) as pool:
        *parts, held = pool.map(read, paths)
    train = [row for rows in parts for row in rows]
    random.Random(2).shuffle(train)
    for size in (8192, 4096):
        tokenizer = args.data / f"bpe-{size}.json"
        stream = encode([d["t"] for d in train], tokenizer)
        stream.tofile(part / f"train-{size}.bin")
        print(size, len(stream), "training tokens", flush=True)
        for kind in KINDS:
            texts = [d["t"] for d in held if d["k"] == kind]
            encode(texts, tokenizer).tofile(part / f"heldout-{size}-{kind}.bin")
            (part / f"heldout-{kind}.bytes").write_text(str(sum(len(t.encode()) for t in texts)))
    part.rename(args.out)


if __name__ == "__main__":
    main()
