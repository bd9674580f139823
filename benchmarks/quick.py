"""Does the quick decision agree with the full run, and how long does it take? Simulated on recorded generations.

python benchmarks/quick.py results/reference/spread-mtp.csv

The recording has `none` and several draft lengths on the same prompts (benchmarks/verdicts.py record). A trial puts
the prompts into a random order, takes one recorded generation of each cell, and runs ``QuickPlan`` until it stops. The
full run is the whole recording. Agreement: on/off is the same (the likelier answer, where the time ended before it was
settled), and the arm chosen is not more than 2 % slower in the full run than the best there. Time: the recorded
seconds, scaled so that plain decoding makes 20 tokens a second, for answers of 64 tokens. What was recorded may be
one-sided, so the draft arms are also made slower or faster by planted factors.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from specdec.quick import BASELINE, ArmKey, QuickPlan
from specdec.stats import Pairs, estimate

TOKENS = 64
TOK_S = 20.0
SECONDS = 300.0

Cells = dict[tuple[ArmKey, str], list[tuple[float, float]]]


def load(path: Path, planted: float) -> tuple[Cells, dict[str, str]]:
    """Seconds a token of each cell, scaled, by arm and prompt; the workload of each prompt."""
    lines = list(csv.DictReader(path.open()))
    plain = [r for r in lines if r["arm"] == "none"]
    scale = sum(float(r["tokens"]) for r in plain) / sum(float(r["seconds"]) for r in plain) / TOK_S
    cells: Cells = {}
    for r in lines:
        factor = scale / (1.0 if r["arm"] == "none" else planted)
        rate = float(r["seconds"]) / float(r["tokens"]) * factor
        cells.setdefault(((r["arm"], "auto"), r["prompt"]), []).append((float(TOKENS), rate * TOKENS))
    return cells, {r["prompt"]: r["workload"] for r in lines}


def full(cells: Cells, workloads: dict[str, str]) -> tuple[bool, dict[ArmKey, float]]:
    """Whether the whole recording says on, and every arm's speedup."""
    arms = list(dict.fromkeys(a for a, _ in cells if a != BASELINE))
    speed = {}
    for arm in arms:
        parts = np.array([
            [[*x, *y] for x, y in zip(cells[arm, p], cells[BASELINE, p], strict=True)] for p in workloads
        ])  # fmt: skip
        speed[arm] = estimate(Pairs(parts, list(workloads.values()), list(range(parts.shape[1]))))
    best = max(arms, key=lambda a: speed[a].value)
    on = speed[best].value > 1 and speed[best].p_differs < 0.05
    return on, {a: e.value for a, e in speed.items()}


def trial(cells: Cells, workloads: dict[str, str], rng: np.random.Generator) -> tuple[Any, float, int]:
    """One quick run: its decision, seconds, prompts."""
    order = [(p, workloads[p]) for p in rng.permutation(list(workloads)).tolist()]
    plan = QuickPlan(list(dict.fromkeys(a for a, _ in cells)), order)
    samples: list[dict[str, Any]] = []
    spent = 0.0
    while todo := plan.next_cells(samples, SECONDS - spent):
        for cell in todo:
            found = cells[cell.arm, cell.prompt]
            tokens, seconds = found[rng.integers(len(found))]
            spent += seconds
            samples.append({
                "strategy": cell.arm[0], "rollback": cell.arm[1], "prompt": cell.prompt, "warmup": False, "status": "ok",
                "token_ids": range(int(tokens)), "generation_s": seconds, "end_to_end_s": seconds,
            })  # fmt: skip
    return plan.decide(samples, SECONDS - spent), spent, len({s["prompt"] for s in samples})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for planted in (0.9, 1.0, 1.1, 1.25, 1.5):
        cells, workloads = load(args.recording, planted)
        on, speed = full(cells, workloads)
        rng = np.random.default_rng(args.seed)
        agree, same, wrong, times, why = 0, 0, 0, [], Counter[str]()
        for _ in range(args.trials):
            decision, seconds, _ = trial(cells, workloads, rng)
            near = not on or (decision.best in speed and speed[decision.best] >= 0.98 * max(speed.values()))
            agree += decision.likely_on == on and near
            same += decision.likely_on == on and (not on or decision.best == max(speed, key=lambda a: speed[a]))
            wrong += decision.on is not None and decision.on != on
            times.append(seconds)
            why[decision.stopped] += 1
        arms = ", ".join(f"{a[0]} {v:.2f}" for a, v in speed.items())
        print(f"draft arms x {planted}: full run says {'on' if on else 'off'} ({arms})")
        print(f"  quick agrees in {agree} of {args.trials} (the very same arm in {same}; settled wrongly in {wrong});")
        print(f"  {np.median(times):.0f} s in the median, {np.quantile(times, 0.9):.0f} s in 9 of 10; {dict(why)}")


if __name__ == "__main__":
    main()
