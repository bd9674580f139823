"""Train the two byte-level BPE tokenizers (8,192 and 4,096 entries) on a sample of the training text.

    python train_tokenizer.py --corpus DIR --out DIR [--megabytes 60]

The pre-tokenizer is llama.cpp's "qwen35", so the GGUF files tokenize exactly like this.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_end|>"]


def new_tokenizer() -> Tokenizer:
    """An untrained tokenizer with the qwen35 pre-tokenizer."""
    tk = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tk.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tk.decoder = decoders.ByteLevel()
    return tk


def sample(path: Path, size: int) -> Iterator[str]:
    """Random documents of train.jsonl, about `size` characters; synthetic edits left out."""
    rng = random.Random(1)
    total = path.stat().st_size
    with path.open() as file:
        for line in file:
            if rng.random() < size / total:
                row = json.loads(line)
                if row["k"] != "edit":
                    yield row["t"]


def main() -> None:
    """Train and save both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=60)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for size, share in ((8192, 1.0), (4096, 0.5)):
        tk = new_tokenizer()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=SPECIAL,
            show_progress=False,
        )
        tk.train_from_iterator(sample(args.corpus / "train.jsonl", int(args.megabytes * 1e6 * share)), trainer)
        tk.save(str(args.out / f"bpe-{size}.json"))
        print(size, tk.get_vocab_size())


if __name__ == "__main__":
    main()
