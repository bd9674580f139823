"""From stored samples to rows: one per strategy, way of rolling back and workload, and one over all workloads.

Everything is derived on reading; undefined is None. Warm-ups and failures never enter a figure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from specdec.acceptance import acceptance
from specdec.monitor.findings import joules_per_token
from specdec.stats import Estimate, Pairs, judge, pair_generations, speedup
from specdec.stats import estimate as estimate_ratio
from specdec.stats.pairs import cell_of
from specdec.stats.power import WANTED, prompts_for, rounds_for, smallest_effect
from specdec.store import Run, Sample
from specdec.types import PHASES, Row

ALL = "all"
BASELINE = "none"
ENGINE = "specdec"
PLAIN_MOVED = 0.03
"""Plain decoding has nothing but the machine to make it differ: a change of its speed above this share is told."""

Group = list[Sample]
Arm = tuple[str, str, str]
"""Engine, strategy label, way of rolling back: what rows are keyed by, beside the workload."""


def arm_of(sample: Sample) -> Arm:
    """Whose generation this is. Samples of before there were several engines are specdec's."""
    return sample.get("engine", ENGINE), sample["strategy"], sample["rollback"]


def arms_of(run: Run) -> list[Arm]:
    """What the run compares, in its order."""
    return [(a.get("engine", ENGINE), a["strategy"], a["rollback"]) for a in run.meta["arms"]]


def rows(run: Run) -> list[Row]:
    """All rows of a run, workload by workload in the order of the run, ``all`` last.

    A strategy's baseline is the plain decoding of its own engine, or specdec's where that engine has none in this run.
    """
    measured = [s for s in run.samples if not s["warmup"]]
    groups: dict[tuple[Arm, str], Group] = defaultdict(list)
    for sample in measured:
        for workload in (sample["workload"], ALL):
            groups[arm_of(sample), workload].append(sample)
    workloads = [*dict.fromkeys(s["workload"] for s in measured), ALL]
    arms = arms_of(run)
    plain = {engine: arm for arm in arms for engine in (arm[0],) if arm[1] == BASELINE}
    table, ratios = [], []
    for workload in workloads:
        for arm in arms:
            baseline = groups.get((plain.get(arm[0], (ENGINE, BASELINE, "auto")), workload), [])
            row, ratio = _row(run, arm, workload, groups.get((arm, workload), []), baseline)
            table.append(row)
            ratios.append(ratio)
    verdicts = judge(ratios)
    comparisons = sum(v is not None and v.p is not None for v in verdicts)
    for row, ratio, verdict in zip(table, ratios, verdicts, strict=True):
        row["verdict"] = verdict and verdict.text
        row["p_value"], row["p_corrected"] = (verdict.p, verdict.p_corrected) if verdict else (None, None)
        row["smallest_effect"] = ratio and smallest_effect(ratio, comparisons)
        row["uneven"] = ratio and ratio.uneven
        row["needs"] = _needs(ratio, comparisons) if row["workload"] == ALL else None
    return table


def strategy_name(row: Row) -> str:
    """What people read: the strategy, its way of rolling back unless automatic, its label where it is not the run's."""
    name = str(row["strategy"]) if row["rollback"] == "auto" else f"{row['strategy']} [{row['rollback']}]"
    return f"{name} [{row['own_label']}]" if row.get("own_label") else name


def _needs(ratio: Estimate | None, comparisons: int) -> dict[str, int] | None:
    """The rounds, or where those will not do the prompts, that would find ``WANTED``; None where this run could, or where
    launches differ too much for either."""
    smallest = smallest_effect(ratio, comparisons) if ratio else None
    if ratio is None or smallest is None or smallest <= WANTED:
        return None
    plan = rounds_for(ratio, comparisons)
    if plan is not None:
        return {"launches": plan.launches, "repeats": plan.repeats}
    prompts = prompts_for(ratio, comparisons)
    return {"prompts": prompts} if prompts else None


def engine_ratios(run: Run) -> list[Row]:
    """specdec's speed over llama-server's: a row for each workload and strategy that both have measured, by prompt."""
    measured = [s for s in run.samples if not s["warmup"] and s["status"] == "ok"]
    groups: dict[tuple[Arm, str], Group] = defaultdict(list)
    for s in measured:
        for workload in (s["workload"], ALL):
            groups[arm_of(s), workload].append(s)
    out: list[Row] = []
    ratios = []
    for workload in [*dict.fromkeys(s["workload"] for s in measured), ALL]:
        for strategy in dict.fromkeys(arm[1] for arm in arms_of(run)):
            ours, theirs = (groups.get(((e, strategy, "auto"), workload), []) for e in (ENGINE, "llama-server"))
            pairs = _paired(ours, theirs, "generation_s")
            if pairs is not None:
                ratio = estimate_ratio(pairs)
                ratios.append(ratio)
                row = {"workload": workload, "strategy": strategy, "rollback": "auto", "engine": ENGINE}
                prompts = len({s["prompt"] for s in ours} & {s["prompt"] for s in theirs})
                low, high = ratio.interval() or (None, None)
                out.append({**row, "prompts": prompts, "ratio": ratio.value, "ratio_low": low, "ratio_high": high})
    for row, verdict in zip(out, judge(ratios), strict=True):
        row["verdict"] = verdict and verdict.text
    return out


def _row(run: Run, arm: Arm, workload: str, group: Group, baseline: Group) -> tuple[Row, Estimate | None]:
    """The row but for its verdict, which depends on the whole table, and the estimate that it rests on."""
    labels = run.meta["labels"]
    ok = [s for s in group if s["status"] == "ok"]
    base = [s for s in baseline if s["status"] == "ok"]
    fixed = {"engine": arm[0], "strategy": arm[1], "workload": workload, "rollback": arm[2]}
    fixed |= {k: labels[k] for k in ("card", "arm")} | _label(run, arm)
    counts = acceptance(ok)
    first = [s["ttft_s"] for s in ok if s["ttft_s"] is not None]
    pairs, whole = _paired(ok, base, "generation_s"), _paired(ok, base, "end_to_end_s")
    ratio = estimate_ratio(pairs) if pairs else None
    row = {
        **fixed,
        "status": _status(arm[1], group, ok, counts["drafted"]),
        "prompts": ratio.prompts if ratio else len({s["prompt"] for s in ok}),
        "generations": len(ok),
        "launches": len({s.get("launch", 0) for s in ok}),
        "failures": dict(Counter(s["error"] for s in group if s["status"] != "ok")),
        "tok_s": tok_s(ok),
        "ttft_s": sum(first) / len(first) if first else None,
        "phase_seconds": _phases(ok),
        **_compared(ratio),
        "end_to_end_speedup": speedup(whole) if whole else None,
        **counts,
        "memory_bytes": _memory(ok),
        "joules_per_token": joules_per_token(ok),
        "text_differs": _text_differs(ok, base) if labels["label"] == "real" else None,
    }
    return row, ratio


def _label(run: Run, arm: Arm) -> dict[str, str | None]:
    """``label`` of the arm, and ``own_label``: the same where it is not the run's, else None."""
    whole: str = run.meta["labels"]["label"]
    own = {(a.get("engine", ENGINE), a["strategy"], a["rollback"]): a.get("label", whole) for a in run.meta["arms"]}
    label = own.get(arm, whole)
    return {"label": label, "own_label": None if label == whole else label}


def _status(strategy: str, group: Group, ok: Group, drafted: int) -> str:
    if not group:
        return "not run"
    if not ok:
        return str(group[0]["status"])
    return "inactive" if not drafted and strategy != BASELINE else "ok"


def _compared(ratio: Estimate | None) -> dict[str, Any]:
    """Against the baseline: the ratio of sums and the geometric mean of the prompts' ratios, each with its interval."""
    low, high = (ratio and ratio.interval()) or (None, None)
    mean_low, mean_high = (ratio and ratio.mean_interval()) or (None, None)
    return {
        "speedup": ratio and ratio.value,
        "speedup_low": low,
        "speedup_high": high,
        "mean_speedup": ratio and ratio.mean,
        "mean_speedup_low": mean_low,
        "mean_speedup_high": mean_high,
        "between_launches": ratio and ratio.between_launches,
    }


def tok_s(group: Group) -> float | None:
    """Tokens over seconds of generations; None where no time is known (a replay without costs has counts alone)."""
    timed = [s for s in group if s["generation_s"] is not None]
    seconds = float(sum(s["generation_s"] for s in timed))
    return sum(len(s["token_ids"]) for s in timed) / seconds if seconds else None


def _phases(ok: Group) -> dict[str, float] | None:
    if not ok or any(s["phase_s"] is None for s in ok):
        return None
    return {p: float(sum(s["phase_s"][p] for s in ok)) for p in PHASES}


def _paired(ok: Group, base: Group, clock: str) -> Pairs | None:
    """The generations that both have; None for the baseline itself."""
    same = not ok or not base or arm_of(ok[0]) == arm_of(base[0])
    return None if same else pair_generations(ok, base, clock)


def _memory(ok: Group) -> int | None:
    """The most that the strategy held in any generation, bytes."""
    return max((sum(m["bytes"] for m in s["memory"]) for s in ok if s["memory"] is not None), default=None)


def _text_differs(ok: Group, baseline: Group) -> list[int] | None:
    """For each generation whose tokens are not the baseline's, the index of the first one that differs."""
    plain = {cell_of(s): s["token_ids"] for s in baseline}
    pairs = [(s["token_ids"], plain[cell_of(s)]) for s in ok if cell_of(s) in plain]
    if not pairs:
        return None
    return [_first_difference(a, b) for a, b in pairs if a != b]


def _first_difference(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
