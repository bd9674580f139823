"""The three stages of training: what is learnt from what, and how each is measured on held-out text.

Stage 1: trunk and MTP layer jointly. Stage 2: trunk frozen; MTP layer and draft learn from the trunk's distribution.
Stage 3: the draft with the other vocabulary, from text alone. In the last third of each stage the model computes with
weights rounded to the block formats of the shipped files (see optim.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import mtp as mtp_module
import torch
import torch.nn.functional as F
from dense import Dense
from model import TargetConfig, Trunk, rope_tables
from mtp import MTP, chain_losses, shift
from optim import Optimizer
from torch import Tensor, nn

CHAIN = 4
ROUND_FROM = 0.7
Row = dict[str, Any]


def rate(peak: float, share: float, step: int, hold: float = 0.45) -> float:
    """Warm-up over 150 steps, constant until `hold`, then linear to 2 %."""
    return peak * min(1.0, step / 150) * min(1.0, 0.02 + 0.98 * (1 - share) / (1 - hold))


class Stage:
    """Some modules, each with its own optimiser or several under one, and a loss."""

    name: str
    size = 8192
    seed: int
    optimizers: dict[str, Optimizer]  # by the names of their saved states
    modules: dict[str, nn.Module]  # by the names of the files they end in

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def cast(self) -> Any:
        """Mixed precision on the GPU."""
        return torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.device == "cuda")

    def begin(self) -> None:
        """Before the first step."""

    def loss(self, window: Tensor) -> tuple[Tensor, Row]:
        """What to minimise on a batch [B, length + 1], and what to log of it."""
        raise NotImplementedError

    def update(self, share: float, step: int, lr: float) -> None:
        """One step of the optimisers."""
        raise NotImplementedError

    def evaluate(self, windows: Tensor) -> Row:
        """Measures on held-out windows."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget gradients."""
        for module in self.modules.values():
            module.zero_grad(set_to_none=True)

    def save(self, path: Path, share: float, step: int) -> None:
        """All that is needed to go on."""
        state = {n: o.state_dict() for n, o in self.optimizers.items()}
        torch.save({"share": share, "step": step, "optimizers": state}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> tuple[float, int]:
        """Share and step of a saved state, which is put in place."""
        found = torch.load(path, map_location=self.args.device, weights_only=False)
        for name, state in found["optimizers"].items():
            self.optimizers[name].load_state_dict(state)
        return found["share"], found["step"]

    def finish(self, out: Path) -> None:
        """Weights as the last steps used them (rounded), float16."""
        masters = {id(p): o.final(n, p) for o in self.optimizers.values() for n, p in o.params}
        for name, module in self.modules.items():
            state = {n: masters[id(p)].detach().half().cpu() for n, p in module.named_parameters()}
            torch.save(state, out / f"{name}.pt")


class Target(Stage):
    """Stage 1."""

    name, seed = "target", 1

    def __init__(self, args: argparse.Namespace, trunk: Trunk, mtp: MTP) -> None:
        super().__init__(args)
        self.trunk, self.mtp = trunk, mtp
        self.modules = {"trunk": trunk, "mtp": mtp}
        self.optimizers = {"both": Optimizer(self.modules)}
        self.tables = rope_tables(TargetConfig(), args.length, args.device)

    def begin(self) -> None:
        self.trunk.requires_grad_(True)

    def loss(self, window: Tensor) -> tuple[Tensor, Row]:
        ids, targets, m = window[:, :-1], window[:, 1:], self.args.mtp_batch
        with self.cast():
            hidden, balance = self.trunk(ids, *self.tables)
            head = self.trunk.embed_tokens.weight
            hard = mtp_module.token_losses(hidden, head, targets)[0].mean()
            with torch.no_grad():
                teacher = F.linear(hidden[:m], head)
            embedded = F.embedding(ids[:m], head).to(hidden.dtype)
            steps, extra_balance = chain_losses(
                self.mtp, embedded, hidden[:m], head, targets[:m], teacher, self.tables, CHAIN
            )
        extra = sum(0.5 * h + 0.5 * s for h, s in steps) / CHAIN
        loss = hard + 0.3 * extra + 0.01 * (balance + extra_balance)
        return loss, {"loss": hard, "balance": balance, "mtp": [h for h, _ in steps]}

    def update(self, share: float, step: int, lr: float) -> None:
        self.optimizers["both"].quantise = share > ROUND_FROM
        self.optimizers["both"].step(rate(lr, share, step))

    def evaluate(self, windows: Tensor) -> Row:
        return measure(self, self.trunk, self.mtp, None, windows)


class Heads(Stage):
    """Stage 2: the trunk is frozen (and rounded); one forward pass of it teaches both, the MTP layer every other time."""

    name, seed = "heads", 7

    def __init__(self, args: argparse.Namespace, trunk: Trunk, mtp: MTP, draft: Dense) -> None:
        super().__init__(args)
        self.trunk, self.mtp, self.draft = trunk, mtp, draft
        self.modules = {"mtp": mtp, "draft": draft}
        self.tables = rope_tables(TargetConfig(), args.length, args.device)
        self.draft_tables = draft.tables(args.length, args.device)
        self.count = 0
        self.optimizers = {"draft": Optimizer({"draft": draft})}

    def begin(self) -> None:
        self.trunk.requires_grad_(False)
        self.optimizers["mtp"] = Optimizer({"mtp": self.mtp})  # from the weights that stage 1 left
        self.optimizers["mtp"].quantise = True

    def loss(self, window: Tensor) -> tuple[Tensor, Row]:
        ids, targets, m = window[:, :-1], window[:, 1:], self.args.mtp_batch
        self.count += 1
        steps: list[tuple[Tensor, Tensor]] = []
        with self.cast():
            with torch.no_grad():
                hidden, _ = self.trunk(ids, *self.tables)
                head = self.trunk.embed_tokens.weight
                teacher = F.linear(hidden, head)
            rows = self.draft(ids, *self.draft_tables)
            own = self.draft.embed_tokens.weight
            hard, soft = (x.mean() for x in mtp_module.token_losses(rows, own, targets, teacher))
            loss = 0.15 * hard + 0.85 * soft
            if self.count % 2:
                embedded = F.embedding(ids[:m], head).to(hidden.dtype)
                steps, balance = chain_losses(
                    self.mtp, embedded, hidden[:m], head, targets[:m], teacher[:m], self.tables, CHAIN
                )
                loss = loss + sum(0.1 * h + 0.9 * s for h, s in steps) / CHAIN + 0.01 * balance
        return loss, {"draft": hard, "draft_soft": soft, "mtp": [h for h, _ in steps]}

    def update(self, share: float, step: int, lr: float) -> None:
        self.optimizers["draft"].quantise = share > ROUND_FROM
        self.optimizers["draft"].step(rate(lr * 1.5, share, step))
        if self.count % 2:
            self.optimizers["mtp"].step(rate(lr * 0.3, share, step, 0.1))

    def evaluate(self, windows: Tensor) -> Row:
        return measure(self, self.trunk, self.mtp, self.draft, windows)


class Other(Stage):
    """Stage 3."""

    name, seed, size = "other", 9, 4096

    def __init__(self, args: argparse.Namespace, model: Dense) -> None:
        super().__init__(args)
        self.model, self.modules = model, {"other": model}
        self.optimizers = {"other": Optimizer(self.modules)}
        self.tables = model.tables(args.length, args.device)

    def loss(self, window: Tensor) -> tuple[Tensor, Row]:
        with self.cast():
            rows = self.model(window[:, :-1], *self.tables)
            hard = mtp_module.token_losses(rows, self.model.embed_tokens.weight, window[:, 1:])[0].mean()
        return hard, {"loss": hard}

    def update(self, share: float, step: int, lr: float) -> None:
        self.optimizers["other"].quantise = share > ROUND_FROM
        self.optimizers["other"].step(rate(lr * 1.5, share, step))

    def evaluate(self, windows: Tensor) -> Row:
        head, total = self.model.embed_tokens.weight, []
        torch.compiler.set_stance("force_eager")
        with torch.no_grad(), self.cast():
            for w in windows.split(8):
                logits = F.linear(self.model(w[:, :-1], *self.tables), head).float()
                total.append(F.cross_entropy(logits.flatten(0, 1), w[:, 1:].flatten()))
        torch.compiler.set_stance("default")
        return {"eval": torch.stack(total).mean().item()}


@torch.no_grad()
def measure(stage: Stage, trunk: Trunk, mtp: MTP, draft: Dense | None, windows: Tensor) -> Row:
    """Held-out loss; how often each MTP step and the draft pick the trunk's first choice (true prefixes)."""
    torch.compiler.set_stance("force_eager")
    head, length = trunk.embed_tokens.weight, windows.shape[1] - 1
    tables = rope_tables(TargetConfig(), length, windows.device)
    total, agree, same, batches = 0.0, [0.0] * CHAIN, 0.0, windows.split(8)
    for window in batches:
        ids, targets = window[:, :-1], window[:, 1:]
        with stage.cast():
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
                guess = F.linear(draft(ids, *draft.tables(length, ids.device)), draft.embed_tokens.weight)
                same += (guess.argmax(-1) == best).float().mean().item()
    torch.compiler.set_stance("default")
    count = len(batches)
    row = {"eval": total / count, "mtp_agree": [round(x / count, 4) for x in agree]}
    return row if draft is None else row | {"draft_agree": same / count}
