"""Measure the demo models with llama.cpp on the CPU: losses, acceptance of MTP and draft, variety of the text.

    python evaluate.py [--models specdec/demo] [--prompts prompts] [--f16 DIR] [--out evaluation.json]

Acceptance: propose-and-verify over --tokens tokens a prompt, 4 draft tokens a step, greedy and sampled at temperature
0.8; per-position acceptance i = accepted at i / proposed at i. Variety: share of distinct 4-grams of the output.
Loss: mean cross-entropy (nats a token) over heldout.npz, 12 windows of 1,024 predictions of each kind of text.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from lcpp import Array, Context, Model

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DRAFT = 4


def loss(model: Model, windows: Array, threads: int) -> float:
    """Mean cross-entropy of windows of token ids."""
    total = []
    for window in windows:
        context = Context(model, threads=threads)
        ids = [int(t) for t in window[:-1]]
        logits = context.decode(ids, 0)[0].astype(np.float64)
        context.close()
        top = logits.max(1)
        norm = top + np.log(np.exp(logits - top[:, None]).sum(1))
        total.append((norm - logits[np.arange(len(ids)), window[1:].astype(int)]).mean())
    return float(np.mean(total))


class MTPProposer:
    """Chained drafting with the target's own MTP layer."""

    def __init__(self, target: Context, threads: int) -> None:
        self.context = Context(target.model, kind=1, hidden=True, threads=threads, other=target)
        self.row = np.zeros((1, target.model.width), np.float32)

    def settle(self, ids: list[int], start: int, hidden: Array | None) -> None:
        """Tokens that the target has decoded, with its hidden rows."""
        assert hidden is not None
        self.context.cut(start)
        self.context.decode(ids, start, np.concatenate([self.row, hidden[: len(ids) - 1]]))
        self.row = hidden[len(ids) - 1 : len(ids)]

    def propose(self, token: int, position: int) -> list[int]:
        """Draft tokens after `token`, which stands at `position` and is not decoded yet."""
        found: list[int] = []
        row: Array | None = self.row
        for i in range(DRAFT):
            logits, row = self.context.decode([token], position + i, row)
            token = int(logits[0].argmax())
            found.append(token)
        return found


class DraftProposer:
    """Drafting with a separate small model of the same vocabulary."""

    def __init__(self, model: Model, threads: int) -> None:
        self.context = Context(model, threads=threads)

    def settle(self, ids: list[int], start: int, hidden: Array | None) -> None:
        """Tokens that the target has decoded."""
        self.context.cut(start)
        self.context.decode(ids, start)

    def propose(self, token: int, position: int) -> list[int]:
        """Draft tokens after `token`."""
        found: list[int] = []
        for i in range(DRAFT):
            token = int(self.context.decode([token], position + i)[0][0].argmax())
            found.append(token)
        return found


def pick(logits: Array, temperature: float, rng: np.random.Generator) -> int:
    """The first choice at temperature 0, else a token sampled from the whole distribution."""
    if not temperature:
        return int(logits.argmax())
    z = logits.astype(np.float64) / temperature
    p = np.exp(z - z.max())
    return int(rng.choice(len(p), p=p / p.sum()))


def generate(
    target: Context, proposer: Any, prompt: list[int], count: int, temperature: float, seed: int
) -> tuple[list[int], list[int], int]:
    """Speculative decoding: tokens, accepted at each position, number of steps. Drafts are first choices; a draft
    token is accepted when it is the token that the target picks (its first choice, or its sample)."""
    rng = np.random.default_rng(seed)
    logits, hidden = target.decode(prompt, 0)
    proposer.settle(prompt, 0, hidden)
    token, position = pick(logits[-1], temperature, rng), len(prompt)
    out, accepted, steps = [token], [0] * DRAFT, 0
    while len(out) < count:
        draft = proposer.propose(token, position)
        logits, hidden = target.decode([token, *draft], position)
        chosen = [pick(logits[0], temperature, rng)]
        while len(chosen) <= DRAFT and draft[len(chosen) - 1] == chosen[-1]:
            accepted[len(chosen) - 1] += 1
            chosen.append(pick(logits[len(chosen)], temperature, rng))
        good = len(chosen) - 1
        steps += 1
        if good < DRAFT:
            target.cut(position + good + 1)
        proposer.settle([token, *draft[:good]], position, hidden)
        out += chosen
        token, position = chosen[-1], position + good + 1
    return out[:count], accepted, steps


def distinct(ids: list[int]) -> float:
    """Share of distinct 4-grams."""
    grams = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
    return len(set(grams)) / len(grams)


def workload_rows(args: argparse.Namespace, target: Model, draft: Model) -> dict[str, Any]:
    """Acceptance and variety of each workload, greedy and sampled at temperature 0.8."""
    table: dict[str, Any] = {}
    for path in sorted(args.prompts.glob("demo-*.jsonl")):
        prompts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        table[path.stem] = {"prompts": len(prompts)}
        for temperature in (0.0, 0.8):
            for name in ("mtp", "draft"):
                accepted, steps, variety = np.zeros(DRAFT), 0, []
                for number, prompt in enumerate(prompts):
                    context = Context(target, hidden=True, snapshots=DRAFT + 1, threads=args.threads)
                    mtp = name == "mtp"
                    proposer: Any = MTPProposer(context, args.threads) if mtp else DraftProposer(draft, args.threads)
                    ids = target.tokens(prompt["text"])
                    tokens, good, count = generate(context, proposer, ids, args.tokens, temperature, number)
                    accepted, steps = accepted + good, steps + count
                    variety.append(distinct(tokens))
                    proposer.context.close()
                    context.close()
                table[path.stem][f"{name}, temperature {temperature:g}"] = {
                    "acceptance": [round(float(a / steps), 3) for a in accepted],
                    "mean acceptance length": round(1 + float(accepted.sum()) / steps, 2),
                    "steps": steps,
                    "distinct 4-grams": round(float(np.mean(variety)), 3),
                }
                print(
                    path.stem, name, temperature, table[path.stem][f"{name}, temperature {temperature:g}"], flush=True
                )
    return table


def loss_rows(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Held-out loss of each file and kind of text."""
    held = np.load(HERE / "heldout.npz")
    files = {n: args.models / f"{n}.gguf" for n in ("target", "draft")}
    if args.f16:
        files |= {f"{n} F16": args.f16 / f"{n}-f16.gguf" for n in ("target", "draft")}
    losses = {}
    for name, path in files.items():
        model = Model(path)
        losses[name] = {kind: round(loss(model, held[kind], args.threads), 4) for kind in held.files}
        print("loss", name, losses[name], flush=True)
    return losses


def main() -> None:
    """Everything, printed and stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=ROOT / "specdec" / "demo")
    parser.add_argument("--prompts", type=Path, default=ROOT / "prompts")
    parser.add_argument("--f16", type=Path, help="folder with target-f16.gguf and draft-f16.gguf, to compare losses")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["loss", "workloads"], help="one half; the other half of OUT is kept")
    parser.add_argument("--out", type=Path, default=HERE / "evaluation.json")
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.only != "workloads":
        found["loss"] = loss_rows(args)
    if args.only != "loss":
        files = [args.models / f"{n}.gguf" for n in ("target", "draft")]
        found["workloads"] = workload_rows(args, Model(files[0], mtp=True), Model(files[1]))
        found["tokens"] = args.tokens
    if args.only and args.out.exists():  # the other half may have been written meanwhile
        found = json.loads(args.out.read_text()) | {
            k: v for k, v in found.items() if (k == "loss") == (args.only == "loss")
        }
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
