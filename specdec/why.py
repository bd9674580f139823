"""Why a strategy wins, loses or does nothing: one sentence each, from rows and the steps behind them.

The physics: a step emits AL tokens and costs its target pass plus drafting, catching up and rolling back; a plain token
costs T(1). So a strategy pays where AL exceeds the break-even AL = mean cost of a step / T(1). With drafts of one
length k that is C(k+1) + draft cost / T(1), C(n) = T(n)/T(1) being the verify cost curve.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from specdec.metrics import strategy_name
from specdec.stats import Estimate
from specdec.store import Sample
from specdec.types import Row

_BASELINE = "none"
_ALL = "all"
_VERBS = {"faster": "wins", "slower": "loses", "equal within 2 %": "changes nothing"}
_NOTICEABLE = 0.05
"""Share of a plain token's time below which a part of a step is not mentioned."""

Costs = Mapping[int, float]
"""Seconds of a target pass over n tokens, by n: a profile's curve."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step of a strategy cost on a workload, in units of a plain token's time (T(1) and what goes with it).

    Args:
        acceptance_length: mean tokens emitted by a step, over all steps (AL).
        break_even: the AL at which it would be as fast as plain decoding.
        parts: the phases beside the target pass (``propose``, ``catch_up``, ``roll_back`` ...), each per step.
        n: tokens of the most frequent target pass that had a draft; None where it never drafted.
        verify: C(n), T(n)/T(1) of the target pass alone; None where unknown.
        by_profile: that it is a profile's, not the run's own.
    """

    acceptance_length: float
    break_even: float
    parts: dict[str, float]
    n: int | None
    verify: float | None
    by_profile: bool = False


def why(rows: Sequence[Row], samples: Iterable[Sample], costs: Costs | None = None) -> list[str]:
    """One sentence for each decided or inactive row, the largest effects first, inactive ones last.

    Args:
        rows: of one run, as ``specdec.metrics.rows`` gives them.
        samples: the same run's; warm-ups and failures are ignored.
        costs: a profile's T(n), seconds; without it C(n) comes from the run's own target passes.
    """
    groups: dict[tuple[str, str, str, str], list[Sample]] = defaultdict(list)
    for s in samples:
        if not s["warmup"] and s["status"] == "ok" and "verify_us" in (s["steps"] or ()):
            groups[s.get("engine", "specdec"), s["strategy"], s["rollback"], s["workload"]].append(s)
    decided = [r for r in rows if r["workload"] != _ALL and r["verdict"] in _VERBS and r["status"] == "ok"]
    decided.sort(key=lambda r: -abs(math.log(r["speedup"])))
    lines = []
    for row in decided:
        plain = groups.get((row["engine"], _BASELINE, "auto", row["workload"]), [])
        ours = groups.get((row["engine"], row["strategy"], row["rollback"], row["workload"]), [])
        if cost := step_cost(ours, plain, costs):
            lines.append(_sentence(row, cost))
    return lines + list(_inactive(rows))


def step_cost(ours: Sequence[Sample], plain: Sequence[Sample], costs: Costs | None = None) -> StepCost | None:
    """Cost of a step against a plain token's, over the prompts that both have; None where either has no steps."""
    both = {s["prompt"] for s in ours} & {s["prompt"] for s in plain}
    ours, plain = [s for s in ours if s["prompt"] in both], [s for s in plain if s["prompt"] in both]
    base, mine = _steps(plain), _steps(ours)
    if not len(base["wall_us"]) or not len(mine["wall_us"]):
        return None
    token_s = sum(s["generation_s"] for s in plain) / len(base["wall_us"])
    steps = len(mine["wall_us"])
    phases: dict[str, float] = defaultdict(float)
    for s in ours:
        for phase, seconds in s["phase_s"].items():
            phases[phase] += seconds / steps / token_s
    passes = mine["drafted"] + 1
    n = int(np.bincount(passes[passes > 1]).argmax()) if (passes > 1).any() else None
    return StepCost(
        acceptance_length=float(mine["accepted"].sum() + steps) / steps,
        break_even=sum(s["generation_s"] for s in ours) / steps / token_s,
        parts={p: v for p, v in phases.items() if p != "verify"},
        n=n,
        verify=None if n is None else _verify_cost(n, base, mine, costs),
        by_profile=n is not None and _knows(costs, n),
    )


def setting_line(what: str, a: Any, b: Any, ratio: Estimate) -> str | None:
    """One sentence on a setting whose two values were compared, b over a: ``16 threads are 8.0x slower than 8 (z = -6.1)``.

    None where one prompt is all there is: then nothing says how sure it is.
    """
    if ratio.log_error is None:
        return None
    z = math.log(ratio.value) / ratio.log_error if ratio.log_error else math.inf
    faster = ratio.value > 1
    times = ratio.value if faster else 1 / ratio.value
    size = f"{times:.1f}x" if times >= 2 else f"{abs(ratio.value - 1):.1%}"
    named = f"{b} {what} are" if isinstance(b, int) and not isinstance(b, bool) else f"{what} {b} is"
    return f"{named} {size} {'faster' if faster else 'slower'} than {a} (z = {z:+.1f})"


def _sentence(row: Row, cost: StepCost) -> str:
    source = " by the profile" if cost.by_profile else ""
    reasons = [f"verify cost C({cost.n}) = {cost.verify:.1f}{source}"] if cost.verify is not None else []
    names = {"propose": "drafting", "catch_up": "catching up", "roll_back": "rolling back", "translate": "translating"}
    large = sorted((-v, p) for p, v in cost.parts.items() if v >= _NOTICEABLE and p in names)
    reasons += [f"{names[p]} {-v:.2g}" for v, p in large]
    why_so = f" ({', '.join(reasons)})" if reasons else ""
    return (
        f"{strategy_name(row)} {_VERBS[row['verdict']]} on {row['workload']}: AL {cost.acceptance_length:.1f}, break-even"
        f" {cost.break_even:.1f}{why_so}"
    )


def _inactive(rows: Sequence[Row]) -> Iterable[str]:
    where: dict[str, list[str]] = defaultdict(list)
    for r in rows:
        if r["status"] == "inactive" and r["workload"] != _ALL:
            where[r["strategy"]].append(r["workload"])
    for name, workloads in where.items():
        yield f"{name} was inactive on {', '.join(dict.fromkeys(workloads))}: it drafted nothing"


def _steps(samples: Sequence[Sample]) -> dict[str, Any]:
    """Per-step arrays of all these generations, one after another."""
    names = ("drafted", "accepted", "wall_us", "verify_us")
    return {k: np.array([*chain.from_iterable(s["steps"][k] for s in samples)], np.int64) for k in names}


def _verify_cost(n: int, base: dict[str, Any], mine: dict[str, Any], costs: Costs | None) -> float | None:
    if costs and _knows(costs, n):
        return costs[n] / costs[1]
    one = float(base["verify_us"].mean())
    return float(mine["verify_us"][mine["drafted"] + 1 == n].mean()) / one if one else None


def _knows(costs: Costs | None, n: int) -> bool:
    return costs is not None and n in costs and 1 in costs
