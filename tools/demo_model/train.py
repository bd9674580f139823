"""Train the target with its MTP layer, then the drafts, within a wall-clock budget on one GPU.

    python train.py --data DIR --out DIR [--trunk 870 --heads 190 --other 30]

The stages are in stages.py; DIR comes from tokens.py, and while it is not there yet, the program compiles and waits.
Weights go to OUT as float16 state parts (trunk, mtp, draft, other), curves to OUT/log.jsonl. Every --save-every seconds
the state of the running stage goes to OUT/<stage>.state: started again with the same OUT, training goes on from there.
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
from dense import DRAFT, OTHER_VOCABULARY, Dense, DenseBlock
from model import Block, TargetConfig, Trunk
from mtp import MTP
from stages import Heads, Other, Stage, Target
from tokens import Windows, heldout_windows
from torch import nn


class Log:
    """One line a row, on screen and in the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.start = path.open("a"), time.time()

    def __call__(self, **row: Any) -> None:
        row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        line = json.dumps({"t": round(time.time() - self.start, 1), **row})
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()


class Clock:
    """Progress through a stage by wall clock (or by steps, for tests); it starts after the first steps."""

    def __init__(self, seconds: float, steps: int, done: float = 0.0) -> None:
        self.seconds, self.steps, self.done, self.count, self.begin = seconds, steps, done, 0, 0.0

    def tick(self) -> float | None:
        """None when the stage is over, else the share done."""
        self.count += 1
        if self.steps:
            return None if self.count > self.steps else self.count / self.steps
        if self.count == 6:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.begin = time.time()
        share = self.done + (0.0 if self.count < 6 else (time.time() - self.begin) / self.seconds)
        return None if share >= 1 else share


def run(stage: Stage, args: argparse.Namespace, log: Log) -> None:
    """One stage from its beginning, or from where its saved state is."""
    path = args.out / f"{stage.name}.state"
    stage.begin()
    share, step = stage.load(path) if path.exists() else (0.0, 0)
    stream = np.fromfile(args.data / f"train-{stage.size}.bin", np.uint16)
    data = Windows(stream, args.length, args.batch, args.device, stage.seed + 1000 * step)
    clock, saved, previous = Clock(getattr(args, stage.name), args.steps, share), time.time(), step
    while share < 1 and (now := clock.tick()) is not None:
        share, step = now, step + 1
        loss, row = stage.loss(data.next())
        loss.backward()
        stage.update(share, step, args.lr)
        if step % args.log_every == 1 or step < 5:
            found = {
                k: v.item() if isinstance(v, torch.Tensor) else [round(x.item(), 3) for x in v] for k, v in row.items()
            }
            log(stage=stage.name, step=step, share=share, epoch=data.epochs, **found)
        if time.time() - saved > args.save_every:
            stage.save(path, share, step)
            saved = time.time()
    if step > previous:
        stage.save(path, 1.0, step)
    stage.finish(args.out)
    held = heldout_windows(args.data, stage.size, args.length, args.eval, args.device)
    for kind, windows in held.items():
        log(stage=stage.name, step=step, kind=kind, **stage.evaluate(windows))


def warm_up(stages: list[Stage], args: argparse.Namespace, log: Log) -> None:
    """Compile what every stage uses, on random tokens, without a step of any optimiser."""
    for stage in stages:
        stage.begin()
        for _ in range(2):
            ids = torch.randint(stage.size, (args.batch, args.length + 1), device=args.device)
            stage.loss(ids)[0].backward()
        stage.clear()
        log(warm=stage.name)


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


def init(module: nn.Module) -> None:
    """Normal(0.02) matrices, output projections smaller."""
    small = ("o_proj.weight", "out_proj.weight", "down_proj", "down_proj.weight")
    for name, p in module.named_parameters():
        if p.dim() >= 2 and "conv1d" not in name:
            nn.init.normal_(p, std=0.02 / (4 if name.endswith(small) else 1))


def options() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trunk", dest="target", type=float, default=870, help="seconds of stage 1")
    parser.add_argument("--heads", type=float, default=190, help="seconds of stage 2")
    parser.add_argument("--other", type=float, default=30, help="seconds of stage 3")
    parser.add_argument("--steps", type=int, default=0, help="steps of each stage instead of seconds (tests)")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--mtp-batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--eval", type=int, default=32, help="held-out windows of each kind")
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-every", type=float, default=120, help="seconds between saved states")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """All stages."""
    args = options()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    log = Log(args.out / "log.jsonl")
    log(settings={k: v for k, v in vars(args).items() if k not in ("data", "out")}, torch=torch.__version__)
    trunk, mtp = Trunk(TargetConfig()).to(args.device), MTP(TargetConfig()).to(args.device)
    draft, other = Dense(DRAFT).to(args.device), Dense(OTHER_VOCABULARY).to(args.device)
    for module in (trunk, mtp, draft, other):
        init(module)
    target = Target(args, trunk, mtp)
    stages = [target, Heads(args, trunk, mtp, draft), Other(args, other)]
    if args.compile:
        compile_parts()
        warm_up(stages, args, log)
    while not args.data.exists():
        time.sleep(0.5)
    for stage in stages:
        run(stage, args, log)
    log(done=True)


if __name__ == "__main__":
    main()
