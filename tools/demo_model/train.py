"""Train the target with its MTP layer, then the drafts, within a wall-clock budget on one GPU.

    python train.py --data DIR --out DIR [--trunk 660 --heads 210 --other 60]

Stage 1: trunk and MTP layer jointly. Stage 2: trunk frozen; MTP layer and draft learn from the trunk's distribution.
Stage 3: the draft with the other vocabulary, from text alone. DIR comes from tokens.py. Weights go to OUT as float16
state parts (trunk, mtp, draft, other), curves to OUT/log.jsonl. In the last third of each stage the model computes
with weights rounded to the block formats of the shipped files (see optim.py).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import mtp as mtp_module
import numpy as np
import torch
import torch.nn.functional as F
from dense import DRAFT, OTHER_VOCABULARY, Dense, DenseBlock
from model import Block, TargetConfig, Trunk, rope_tables
from mtp import MTP, chain_losses, shift
from optim import Optimizer
from tokens import Windows, heldout_windows
from torch import Tensor, nn

CHAIN = 4


class Run:
    """What all stages share: options, clock, log."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.start = args, time.time()
        args.out.mkdir(parents=True, exist_ok=True)
        self.file = (args.out / "log.jsonl").open("a")

    def log(self, **row: Any) -> None:
        """One line, on screen and in the log."""
        row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        line = json.dumps({"t": round(time.time() - self.start, 1), **row})
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()

    def windows(self, size: int, batch: int, seed: int) -> Windows:
        """Training batches of one vocabulary."""
        stream = np.fromfile(self.args.data / f"train-{size}.bin", np.uint16)
        return Windows(stream, self.args.length, batch, self.args.device, seed)

    def held(self, size: int) -> dict[str, Tensor]:
        """Held-out windows of one vocabulary, by kind."""
        return heldout_windows(self.args.data, size, self.args.length, self.args.eval, self.args.device)

    def cast(self) -> Any:
        """Mixed precision on the GPU."""
        return torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.device == "cuda")


class Clock:
    """Progress through a stage by wall clock (or by steps, for tests); it starts after the warm-up steps."""

    def __init__(self, seconds: float, steps: int) -> None:
        self.seconds, self.steps, self.count, self.begin = seconds, steps, 0, 0.0

    def tick(self) -> float | None:
        """None when the stage is over, else the share done."""
        self.count += 1
        if self.steps:
            return None if self.count > self.steps else self.count / self.steps
        if self.count == 6:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.begin = time.time()
        share = 0.0 if self.count < 6 else (time.time() - self.begin) / self.seconds
        return None if share >= 1 else share


def rate(peak: float, share: float, step: int, hold: float = 0.45) -> float:
    """Warm-up over 150 steps, constant until `hold`, then linear to 2 %."""
    return peak * min(1.0, step / 150) * min(1.0, 0.02 + 0.98 * (1 - share) / (1 - hold))


def save(run: Run, name: str, module: nn.Module, optimizer: Optimizer) -> None:
    """The weights as the last steps used them (rounded), float16."""
    params = {id(p): n for n, p in optimizer.params}
    state = {}
    for n, p in module.named_parameters():
        key = params[id(p)]
        bits = optimizer.bits(key) if optimizer.quantise else 0
        state[n] = (p if bits else optimizer.master[key]).detach().half().cpu()
    torch.save(state, run.args.out / f"{name}.pt")


def train_target(run: Run, trunk: Trunk, mtp: MTP) -> Optimizer:
    """Stage 1."""
    a = run.args
    data, held = run.windows(8192, a.batch, 1), run.held(8192)
    optimizer = Optimizer({"trunk": trunk, "mtp": mtp})
    tables = rope_tables(TargetConfig(), a.length, a.device)
    clock, step = Clock(a.trunk, a.steps), 0
    while (share := clock.tick()) is not None:
        window = data.next()
        ids, targets = window[:, :-1], window[:, 1:]
        optimizer.quantise = share > 0.7
        with run.cast():
            hidden, balance = trunk(ids, *tables)
            head = trunk.embed_tokens.weight
            hard = mtp_module.token_losses(hidden, head, targets)[0].mean()
            m = a.mtp_batch
            with torch.no_grad():
                teacher = F.linear(hidden[:m], head)
            embedded = F.embedding(ids[:m], head).to(hidden.dtype)
            steps, mtp_balance = chain_losses(mtp, embedded, hidden[:m], head, targets[:m], teacher, tables, CHAIN)
        extra = sum(0.5 * h + 0.5 * s for h, s in steps) / CHAIN
        loss = hard + 0.3 * extra + 0.01 * (balance + mtp_balance)
        loss.backward()
        step += 1
        optimizer.step(rate(a.lr, share, step))
        if step % a.log_every == 1 or step < 5:
            run.log(
                stage="target",
                step=step,
                share=share,
                loss=hard.item(),
                balance=balance.item(),
                epoch=data.epochs,
                mtp=[round(h.item(), 3) for h, _ in steps],
                tokens=step * a.batch * a.length,
            )
        if step % a.eval_every == 0:
            evaluate(run, "target", step, trunk, mtp, None, held, tables)
    save(run, "trunk", trunk, optimizer)
    save(run, "mtp", mtp, optimizer)
    evaluate(run, "target", step, trunk, mtp, None, held, tables)
    return optimizer


def train_heads(run: Run, trunk: Trunk, mtp: MTP, draft: Dense) -> None:
    """Stage 2: the trunk is frozen (and rounded); one forward pass of it teaches both."""
    a = run.args
    data, held = run.windows(8192, a.batch, 7), run.held(8192)
    trunk.requires_grad_(False)
    tuned, drafted = Optimizer({"mtp": mtp}), Optimizer({"draft": draft})
    tuned.quantise = True
    tables, draft_tables = rope_tables(TargetConfig(), a.length, a.device), draft.tables(a.length, a.device)
    clock, step = Clock(a.heads, a.steps), 0
    while (share := clock.tick()) is not None:
        window = data.next()
        ids, targets = window[:, :-1], window[:, 1:]
        drafted.quantise = share > 0.7
        with run.cast():
            with torch.no_grad():
                hidden, _ = trunk(ids, *tables)
                head = trunk.embed_tokens.weight
                teacher = F.linear(hidden, head)
                embedded = F.embedding(ids, head).to(hidden.dtype)
            m = a.mtp_batch
            steps, balance = chain_losses(mtp, embedded[:m], hidden[:m], head, targets[:m], teacher[:m], tables, CHAIN)
            rows = draft(ids, *draft_tables)
            hard, soft = (x.mean() for x in mtp_module.token_losses(rows, draft.embed_tokens.weight, targets, teacher))
        (sum(0.1 * h + 0.9 * s for h, s in steps) / CHAIN + 0.01 * balance).backward()
        (0.2 * hard + 0.8 * soft).backward()
        step += 1
        tuned.step(rate(a.lr * 0.3, share, step, 0.1))
        drafted.step(rate(a.lr * 1.5, share, step))
        if step % a.log_every == 1:
            run.log(
                stage="heads",
                step=step,
                share=share,
                draft=hard.item(),
                draft_soft=soft.item(),
                mtp=[round(h.item(), 3) for h, _ in steps],
            )
    save(run, "mtp", mtp, tuned)
    save(run, "draft", draft, drafted)
    evaluate(run, "heads", step, trunk, mtp, draft, held, tables)


def train_other(run: Run, model: Dense) -> None:
    """Stage 3."""
    a = run.args
    data, held = run.windows(4096, a.batch, 9), run.held(4096)
    optimizer = Optimizer({"other": model})
    tables = model.tables(a.length, a.device)
    clock, step = Clock(a.other, a.steps), 0
    while (share := clock.tick()) is not None:
        window = data.next()
        optimizer.quantise = share > 0.7
        with run.cast():
            rows = model(window[:, :-1], *tables)
            hard = mtp_module.token_losses(rows, model.embed_tokens.weight, window[:, 1:])[0].mean()
        hard.backward()
        step += 1
        optimizer.step(rate(a.lr * 1.5, share, step))
        if step % a.log_every == 1:
            run.log(stage="other", step=step, share=share, loss=hard.item())
    save(run, "other", model, optimizer)
    with torch.no_grad(), run.cast():
        head = model.embed_tokens.weight
        found = {k: cross_entropy(model, w, head, tables) for k, w in held.items()}
    run.log(stage="other", step=step, eval=found)


def cross_entropy(model: Dense, windows: Tensor, head: Tensor, tables: tuple[Tensor, Tensor]) -> float:
    """Mean loss of a dense model, in small batches."""
    total = [
        F.cross_entropy(F.linear(model(w[:, :-1], *tables), head).float().flatten(0, 1), w[:, 1:].flatten())
        for w in windows.split(8)
    ]
    return round(torch.stack(total).mean().item(), 4)


@torch.no_grad()
def evaluate(
    run: Run,
    stage: str,
    step: int,
    trunk: Trunk,
    mtp: MTP,
    draft: Dense | None,
    held: dict[str, Tensor],
    tables: tuple[Tensor, Tensor],
) -> None:
    """Held-out loss by kind; how often each MTP step and the draft pick the trunk's first choice (true prefixes)."""
    torch.compiler.set_stance("force_eager")
    head = trunk.embed_tokens.weight
    for kind, windows in held.items():
        total, agree, same, batches = 0.0, [0.0] * CHAIN, 0.0, 0
        for window in windows.split(8):
            ids, targets = window[:, :-1], window[:, 1:]
            with run.cast():
                hidden, _ = trunk(ids, *tables)
                logits = F.linear(hidden, head)
                total += F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()).item()
                best = logits.argmax(-1)
                rows, cache, embedded = hidden, [], F.embedding(ids, head).to(hidden.dtype)
                chain = torch.ones_like(best, dtype=torch.bool)
                for s in range(CHAIN):  # accepted at s+1: this and all earlier steps right
                    rows, _ = mtp.step(embedded, shift(rows), *tables, cache)
                    chain = shift(chain[..., None].float())[..., 0].bool() if s else chain
                    chain = chain & (F.linear(rows, head).argmax(-1) == best)
                    agree[s] += chain[:, CHAIN:].float().mean().item()
                if draft is not None:
                    guess = F.linear(draft(ids, *draft.tables(ids.shape[1], ids.device)), draft.embed_tokens.weight)
                    same += (guess.argmax(-1) == best).float().mean().item()
            batches += 1
        run.log(
            stage=stage,
            step=step,
            kind=kind,
            eval=total / batches,
            mtp_agree=[round(x / batches, 4) for x in agree],
            draft_agree=same / batches,
        )
    torch.compiler.set_stance("default")


def compile_parts() -> None:
    """Compile the parts that all layers share (small graphs: whole layers take minutes to compile)."""

    def fast(f: Any) -> Any:
        return torch.compile(f, dynamic=False)

    for owner, names in (
        (Block, ("attend", "prepare", "feed", "finish")),
        (MTP, ("enter", "leave")),
        (DenseBlock, ("forward",)),
        (mtp_module, ("token_losses", "chain_attention")),
    ):
        for name in names:
            setattr(owner, name, fast(getattr(owner, name)))


def main() -> None:
    """All stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trunk", type=float, default=660, help="seconds of stage 1")
    parser.add_argument("--heads", type=float, default=210, help="seconds of stage 2")
    parser.add_argument("--other", type=float, default=60, help="seconds of stage 3")
    parser.add_argument("--steps", type=int, default=0, help="steps of each stage instead of seconds (tests)")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--mtp-batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--eval", type=int, default=64, help="held-out windows of each kind")
    parser.add_argument("--eval-every", type=int, default=1000)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    run = Run(args)
    if args.compile:
        compile_parts()
    run.log(settings={k: str(v) for k, v in vars(args).items()}, torch=torch.__version__)
    trunk, mtp = Trunk(TargetConfig()).to(args.device), MTP(TargetConfig()).to(args.device)
    for module in (trunk, mtp):
        init(module)
    train_target(run, trunk, mtp)
    draft, other = Dense(DRAFT).to(args.device), Dense(OTHER_VOCABULARY).to(args.device)
    for model in (draft, other):
        init(model)
    train_heads(run, trunk, mtp, draft)
    train_other(run, other)
    run.log(done=True)


def init(module: nn.Module) -> None:
    """Normal(0.02) matrices, output projections smaller."""
    for name, p in module.named_parameters():
        if p.dim() >= 2 and "conv1d" not in name:
            nn.init.normal_(
                p,
                std=0.02
                / (4 if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj", "down_proj.weight")) else 1),
            )


if __name__ == "__main__":
    main()
