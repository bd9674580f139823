"""Do verdicts keep their promises? Whole tables, simulated on the spread of recorded generations.

python benchmarks/verdicts.py record RUN... > results/reference/spread-demo.csv     (runs of plain decoding against itself)
python benchmarks/verdicts.py results/reference/spread-*.csv                        (about a minute a file)

A recorded file has one line a generation of a strategy that is plain decoding under one of several names
(benchmarks/again.py), with several launches and repeats. The model of noise, on log(seconds a token):

    y = prompt + launch + block of (prompt, launch) + generation + arm of a launch (+ what is planted)

Prompt levels, blocks and the rounds within a block (one generation of each arm, one after another) are drawn from the
recording, so bursts of other load and heavy tails stay as they were; the arms within a round change places at random,
as they are the same strategy. The arm-of-a-launch effect (memory placement, say) is normal, with the
variance that the recording shows. Real strategies also gain more on one prompt than on another: ``--uneven`` adds that.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from specdec.stats import EQUAL_WITHIN, Pairs, estimate, judge
from specdec.store import read_run

Floats = npt.NDArray[np.float64]
FIELDS = ("arm", "workload", "prompt", "launch", "repeat", "tokens", "seconds")


@dataclass(frozen=True)
class Spread:
    """What a recording shows, on log(seconds a token).

    Args:
        blocks: residuals of the generations of one prompt in one launch, [rounds, arms] each.
        levels: log seconds a token of each prompt; tokens: how long its answers are.
        generation, block, launch_arm: standard deviations of the components (tables draw from launch_arm alone).
    """

    blocks: list[Floats]
    levels: Floats
    tokens: Floats
    generation: float
    block: float
    launch_arm: float
    launches: int
    arms: int


def load(paths: list[Path]) -> Spread:
    """Read a recorded spread and split it into its components."""
    lines = [row for path in paths for row in csv.DictReader(path.open())]
    y = np.array([math.log(float(r["seconds"]) / float(r["tokens"])) for r in lines])
    prompt = np.unique([r["prompt"] for r in lines], return_inverse=True)[1]
    launch = np.unique([r["launch"] for r in lines], return_inverse=True)[1]
    arm = np.unique([r["arm"] for r in lines], return_inverse=True)[1]
    levels = np.array([y[prompt == p].mean() for p in range(prompt.max() + 1)])
    rest = y - levels[prompt]
    rest -= np.array([rest[launch == x].mean() for x in range(launch.max() + 1)])[launch]
    repeat = np.unique([r["repeat"] for r in lines], return_inverse=True)[1]
    cells = []
    for p in range(prompt.max() + 1):
        for x in range(launch.max() + 1):
            rounds = [rest[(prompt == p) & (launch == x) & (repeat == r)] for r in range(repeat.max() + 1)]
            whole = [r for r in rounds if len(r) == arm.max() + 1]
            cells += [np.array(whole)] if whole else []
    within = float(np.mean([c.var(ddof=1) for c in cells]))
    between = float(np.var([c.mean() for c in cells], ddof=1)) - within / float(np.mean([c.size for c in cells]))
    return Spread(
        blocks=cells,
        levels=levels,
        tokens=np.array([float(np.mean([float(r["tokens"]) for r, q in zip(lines, prompt, strict=True) if q == p]))
                         for p in range(len(levels))]),
        generation=math.sqrt(within),
        block=math.sqrt(max(0.0, between)),
        launch_arm=math.sqrt(_launch_arm(rest, launch, arm)),
        launches=int(launch.max()) + 1,
        arms=int(arm.max()) + 1,
    )  # fmt: skip


def _launch_arm(rest: Floats, launch: npt.NDArray[np.int64], arm: npt.NDArray[np.int64]) -> float:
    """Variance of the arm-of-a-launch effect: what the means of arms within a launch vary beyond their own error."""
    found, noise = [], []
    for x in range(launch.max() + 1):
        groups = [rest[(launch == x) & (arm == a)] for a in range(arm.max() + 1)]
        found.append(float(np.var([g.mean() for g in groups], ddof=1)))
        noise.append(float(np.mean([g.var(ddof=1) / len(g) for g in groups])))
    return max(0.0, float(np.mean(found)) - float(np.mean(noise)))


@dataclass(frozen=True)
class Table:
    """The shape of a simulated comparison: prompts by workload, launches, repeats; speed of each arm against `none`."""

    prompts: int = 40
    launches: int = 3
    repeats: int = 1
    speeds: tuple[float, ...] = (1.0, 1.0)
    uneven: float = 0.0
    workloads: int = 4


def simulate(spread: Spread, table: Table, rng: np.random.Generator) -> list[tuple[int, str, str]]:
    """One table: (arm, workload or ``all``, verdict) of each row that is not the baseline's."""
    n, arms = table.prompts, len(table.speeds) + 1
    chosen = rng.integers(len(spread.levels), size=n)
    strata = [f"w{i % table.workloads}" for i in range(n)]
    noise = np.array([[_cell(spread, arms, table.repeats, rng) for _ in range(table.launches)] for _ in range(n)])
    noise += rng.normal(0, spread.launch_arm, (1, table.launches, arms, 1))  # [prompts, launches, arms, repeats]
    gain = np.log([1.0, *table.speeds]) + rng.normal(0, table.uneven, (n, arms)) * ([0.0] + [1.0] * (arms - 1))
    rates = np.exp(spread.levels[chosen][:, None, None, None] + noise - gain[:, None, :, None])
    seconds = np.moveaxis(rates, 2, 3).reshape(n, -1, arms) * spread.tokens[chosen][:, None, None]
    tokens = np.broadcast_to(spread.tokens[chosen][:, None], seconds.shape[:2])
    launch = [x for x in range(table.launches) for _ in range(table.repeats)]
    rows = []
    for a in range(1, arms):
        parts = np.stack([tokens, seconds[..., a], tokens, seconds[..., 0]], axis=-1)
        for workload in (*dict.fromkeys(strata), "all"):
            keep = np.array([workload in (s, "all") for s in strata])
            rows.append((a, workload, estimate(Pairs(parts[keep], list(np.array(strata)[keep]), launch))))
    verdicts = judge([e for *_, e in rows])
    return [(a, w, v.text if v else "") for (a, w, _), v in zip(rows, verdicts, strict=True)]


def _cell(spread: Spread, arms: int, repeats: int, rng: np.random.Generator) -> Floats:
    """Residuals of one prompt in one launch, [arms, repeats]: one recorded block, its rounds drawn and their arms mixed.

    More arms than were recorded take further rounds of the same block.
    """
    block = spread.blocks[rng.integers(len(spread.blocks))]
    each = -(-arms // block.shape[1])
    rounds = block[rng.integers(len(block), size=repeats * each)]
    return rng.permuted(rounds, axis=1).reshape(repeats, -1)[:, :arms].T


def false_tables(spread: Spread, table: Table, tables: int, seed: int = 0) -> tuple[int, Counter[str]]:
    """How many of ``tables`` say anything false, and what they said, row by row."""
    rng, wrong, said = np.random.default_rng(seed), 0, Counter[str]()
    for _ in range(tables):
        rows = simulate(spread, table, rng)
        wrong += any(_false(text, table.speeds[arm - 1]) for arm, _, text in rows)
        said.update(text for *_, text in rows)
    return wrong, said


def _false(text: str, speed: float) -> bool:
    equal = 1 - EQUAL_WITHIN <= speed <= 1 + EQUAL_WITHIN
    return {"faster": speed <= 1, "slower": speed >= 1, "equal within 2 %": not equal}.get(text, False)


def found(spread: Spread, table: Table, tables: int, seed: int = 0) -> int:
    """In how many of ``tables`` the row ``all`` of the first arm is called faster."""
    rng = np.random.default_rng(seed)
    return sum((1, "all", "faster") in simulate(spread, table, rng) for _ in range(tables))


def record(folders: list[str]) -> None:
    """Print the recorded spread of these runs, one launch each unless their samples say otherwise."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(FIELDS)
    seen: dict[tuple[str, int], int] = defaultdict(lambda: len(seen))
    for folder in folders:
        for s in read_run(Path(folder)).samples:
            if not s["warmup"] and s["status"] == "ok":
                launch = seen[folder, s.get("launch", 0)]
                tokens, seconds = len(s["token_ids"]), f"{s['generation_s']:.5f}"
                out.writerow([s["strategy"], s["workload"], s["prompt"], launch, s["repeat"], tokens, seconds])


def report(path: Path, tables: int, seed: int) -> None:
    """All figures of one recorded file."""
    s = load([path])
    print(f"{path.name}: {len(s.levels)} prompts, {s.arms} arms, {s.launches} launches")
    print(
        f"  spread of seconds a token: generation {s.generation:.1%}, prompt in a launch {s.block:.1%},"
        f" arm of a launch {s.launch_arm:.2%}; median |generation| {np.median([abs(c - c.mean()) for c in s.blocks]):.1%}"
    )
    for prompts, launches, arms, workloads in (
        (5, 1, 1, 1),
        (20, 1, 2, 4),
        (20, 3, 2, 4),
        (40, 3, 2, 4),
        (40, 3, 6, 4),
    ):
        shape = Table(prompts, launches, 1, (1.0,) * arms, workloads=workloads)
        wrong, said = false_tables(s, shape, tables, seed)
        shares = ", ".join(f"{text} {n / said.total():.1%}" for text, n in said.most_common())
        print(f"  against itself, {prompts} prompts in {workloads} workloads, {launches} launches, {arms} arms:"
              f" {wrong} of {tables} tables say something false ({shares})")  # fmt: skip
    moved = replace(s, launch_arm=0.01)
    wrong, _ = false_tables(moved, Table(), tables, seed)
    print(f"  the same, 40 prompts, 3 launches, 2 arms, and launches that move each arm by 1 %: {wrong} of {tables}")
    wrong, _ = false_tables(s, Table(40, 3, 3, (1.021, 0.979)), tables, seed)
    print(
        f"  2.1 % apart, 40 prompts, 3 launches, 3 repeats: {wrong} of {tables} tables call it equal or the wrong way"
    )
    for planted, prompts, launches, repeats in (
        (1.03, 40, 3, 1), (1.03, 40, 3, 2), (1.03, 40, 3, 3), (1.03, 40, 1, 1), (1.03, 20, 3, 3), (1.05, 40, 3, 1),
        (1.10, 20, 1, 1),
    ):  # fmt: skip
        n = found(s, Table(prompts, launches, repeats, (planted, 1.0)), tables, seed)
        shape = f"{prompts} prompts, {launches} launches, {repeats} repeats"
        print(f"  {planted - 1:.0%} planted, {shape}: found in {n} of {tables}")
    n = found(s, Table(40, 3, 1, (1.03, 1.0), uneven=0.05), tables, seed)
    print(f"  3 % planted, 5 % uneven over prompts, 40 prompts, 3 launches, 1 repeat: found in {n} of {tables}")


def main() -> None:
    if sys.argv[1:2] == ["record"]:
        record(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spread", type=Path, nargs="+", help="recorded spreads, CSV")
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for path in args.spread:
        report(path, args.tables, args.seed)


if __name__ == "__main__":
    main()
