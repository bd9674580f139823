"""PyTorch (float32) against llama.cpp (CPU) on held-out text: trunk logits and chained MTP logits.

    python parity.py F16-OR-QUANTISED.gguf [--reference parity.npz] [--tokenizers DIR --corpus heldout.jsonl]

The PyTorch model is built from the GGUF file's own tensors (dequantised), so a quantised file is compared with exactly
its own weights. With --save the token ids, top-1 and top-5 logits of PyTorch are stored for a test without torch.
With --tokenizers and --corpus the tokenizers are compared as well, on 10,000 strings.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
from lcpp import Context, Model
from tokens import KINDS

HERE = Path(__file__).parent
CHAIN = 4


def torch_logits(gguf: Path, ids: list[int]) -> list[np.ndarray]:
    """Trunk logits, then those of MTP steps 1-4 (row p of step k: token p, and true tokens before it)."""
    import torch
    import torch.nn.functional as F
    from from_gguf import load_target
    from model import TargetConfig, rope_tables
    from mtp import shift

    trunk, mtp = load_target(gguf)
    tables = rope_tables(TargetConfig(), len(ids))
    with torch.no_grad():
        x = torch.tensor([ids])
        hidden, _ = trunk(x, *tables)
        head, embedded = trunk.embed_tokens.weight, trunk.embed_tokens(x)
        found, rows, cache = [F.linear(hidden, head)[0].numpy()], hidden, []
        for _ in range(CHAIN):
            rows, _ = mtp.step(embedded, shift(rows), *tables, cache)
            found.append(F.linear(rows, head)[0].numpy())
    return found


def llama_logits(gguf: Path, ids: list[int]) -> list[np.ndarray]:
    """The same from llama.cpp; the chain is run position by position as in drafting, with the true tokens."""
    model = Model(gguf, mtp=True)
    target = Context(model, hidden=True)
    logits, hidden = target.decode(ids, 0)
    draft = Context(model, kind=1, hidden=True, other=target)
    before = np.concatenate([np.zeros_like(hidden[:1]), hidden[:-1]])
    first, _ = draft.decode(ids, 0, before)
    found = [logits, first, *(np.full_like(logits, np.nan) for _ in range(CHAIN - 1))]
    draft.cut(0)
    for p in range(len(ids) - CHAIN):
        row = before[p : p + 1]
        for step in range(CHAIN):
            out, row = draft.decode(ids[p + step : p + step + 1], p + step, row)
            if step:
                found[step + 1][p + step] = out[0]
        draft.cut(p)
        draft.decode(ids[p : p + 1], p, before[p : p + 1])
    return found


def compare(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Largest and mean difference and equal top-1 of each output."""
    table = {}
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        use = np.arange(max(0, i - 1), len(a) - CHAIN)
        difference = np.abs(a[use] - b[use])
        same = float(np.mean(a[use].argmax(1) == b[use].argmax(1)))
        table["trunk" if i == 0 else f"mtp step {i}"] = {
            "largest": float(difference.max()),
            "mean": float(difference.mean()),
            "scale": float(np.abs(a).max()),
            "same top-1": same,
        }
    return table


def check_tokenizer(gguf: Path, tokenizer: Path, corpus: Path, count: int = 10_000) -> int:
    """Number of strings (text pieces and made-up noise) that the two tokenizers split differently."""
    from tokenizers import Tokenizer

    rng, model, reference = random.Random(5), Model(gguf), Tokenizer.from_file(str(tokenizer))
    texts = [json.loads(line)["t"] for line in corpus.open()]
    odd = (
        "  \t\n\r\n  0123456789 éüßñ日本語한국어عربىעברית😀👩‍👩‍👧e\u0301 ١٢٣ ½ ǅ "
        "_-+=()[]{}'\"\\/*&^%$#@!~` don't I'LL we'Ve x²\u00a0\u200b\u3000 "
    )
    wrong = 0
    for i in range(count):
        if i % 2:
            text = rng.choice(texts)
            at = rng.randrange(len(text))
            text = text[at : at + rng.randrange(1, 200)]
        else:
            text = "".join(
                rng.choice([rng.choice(odd), chr(rng.randrange(1, 0x2FFF)), rng.choice("aZ 09\n  ")])
                for _ in range(rng.randrange(1, 40))
            )
            text = text.encode("utf-8", "ignore").decode()
        wrong += model.tokens(text) != reference.encode(text, add_special_tokens=False).ids
    return wrong


def main() -> None:
    """Run the comparison, print a table, save what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--length", type=int, default=256, help="tokens of each kind")
    parser.add_argument("--save", type=Path, help="store PyTorch's answers")
    parser.add_argument("--tokenizers", type=Path)
    parser.add_argument("--corpus", type=Path)
    args = parser.parse_args()
    stored, held = {}, np.load(HERE / "heldout.npz")
    for kind in args.kinds:
        ids = [int(t) for t in held[kind][0][: args.length]]
        ours, theirs = torch_logits(args.gguf, ids), llama_logits(args.gguf, ids)
        for name, row in compare(ours, theirs).items():
            print(kind, name, {k: round(v, 6) for k, v in row.items()}, flush=True)
        stored[f"{kind}/ids"] = np.array(ids, np.int32)
        for i, logits in enumerate(ours):
            order = np.argsort(-logits, 1)[:, :5]
            stored[f"{kind}/{i}/top"] = order.astype(np.int16)
            stored[f"{kind}/{i}/logits"] = np.take_along_axis(logits, order, 1).astype(np.float32)
    if args.save:
        np.savez_compressed(args.save, **stored)
        print(args.save.name, args.save.stat().st_size, "bytes")
    if args.tokenizers and args.corpus:
        size = Model(args.gguf).size
        print(
            "strings tokenized differently:",
            check_tokenizer(args.gguf, args.tokenizers / f"bpe-{size}.json", args.corpus),
            "of 10000",
        )


if __name__ == "__main__":
    main()
