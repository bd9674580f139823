"""What the page and its pictures show of a run, worked out once: rows, sentences, curves, memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from specdec.metrics import ALL, BASELINE, Arm, arm_of, arms_of, rows
from specdec.monitor.findings import instabilities
from specdec.profile.compare import PredictionRow, depth_of, pass_costs
from specdec.profile.steps import Spread, spread
from specdec.profile.stored import Profile
from specdec.report.answers import Answer, answer
from specdec.report.names import row_name
from specdec.stats.stability import unsteady
from specdec.store import Run, Sample
from specdec.types import Row
from specdec.why import StepCost, step_cost, why

MOST_SHOWN = 8
"""Strategies in a picture, ``none`` not counted: as many as there are colours."""
FEWEST_PASSES = 5
"""Target passes of one length below which the curve has no point."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a strategy stands on a workload: mean tokens of a target pass, AL, and the AL that it needs."""

    name: str
    arm: Arm
    workload: str
    tokens: float
    cost: StepCost

    @property
    def pays(self) -> bool:
        """Whether it emits more than its steps cost."""
        return self.cost.acceptance_length > self.cost.break_even


@dataclass
class Facts:
    """A run, read for showing.

    Args:
        run: the run.
        profile: one that fits it, or None.
        predictions: that profile's rows for this run.
    """

    run: Run
    profile: Profile | None = None
    predictions: list[PredictionRow] = field(default_factory=list)

    @cached_property
    def table(self) -> list[Row]:
        """All rows, ``all`` last."""
        return rows(self.run)

    @cached_property
    def measured(self) -> list[Sample]:
        """What counts: no warm-ups, no failures."""
        return [s for s in self.run.samples if not s["warmup"] and s["status"] == "ok"]

    @cached_property
    def workloads(self) -> list[str]:
        """In the order of the run, ``all`` last; of a run of one workload that one alone."""
        found = [*dict.fromkeys(r["workload"] for r in self.table)]
        return found[:1] if len(found) == 2 else found

    @cached_property
    def total(self) -> dict[Arm, Row]:
        """The rows over all workloads."""
        return {arm_of(r): r for r in self.table if r["workload"] == ALL}

    @cached_property
    def shown(self) -> list[Arm]:
        """Arms in pictures, in the order of the run: all, or the plain ones and the fastest where there are many."""
        arms = arms_of(self.run)
        plain, others = [a for a in arms if a[1] == BASELINE], [a for a in arms if a[1] != BASELINE]
        best = sorted(others, key=lambda a: -(self.total[a]["speedup"] or self.total[a]["mean_acceptance_length"] or 0))
        return [a for a in arms if a in plain or a in best[:MOST_SHOWN]]

    @cached_property
    def left_out(self) -> int:
        """Strategies that no picture shows."""
        return len(arms_of(self.run)) - len(self.shown)

    @cached_property
    def drafting(self) -> list[Arm]:
        """The shown arms but for plain decoding."""
        return [a for a in self.shown if a[1] != BASELINE]

    def name(self, arm: Arm) -> str:
        """What people read."""
        return row_name(self.total[arm])

    def number(self, arm: Arm) -> int:
        """Of its colour and marker: 0 for plain decoding, then 1, 2 ..."""
        return 0 if arm[1] == BASELINE else 1 + self.drafting.index(arm)

    def rows_of(self, workload: str) -> list[Row]:
        """Rows of one workload."""
        return [r for r in self.table if r["workload"] == workload]

    @cached_property
    def _with_steps(self) -> dict[Arm, dict[str, list[Sample]]]:
        """Measured generations with timed steps, by arm and workload."""
        found: dict[Arm, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        for s in self.measured:
            if s["steps"] and s["generation_s"] and "verify_us" in s["steps"]:
                found[arm_of(s)][s["workload"]].append(s)
        return found

    @cached_property
    def standings(self) -> list[Standing]:
        """Each shown strategy on each workload and on all of them, where the run has timed steps."""
        found = []
        for arm in self.drafting:
            for workload in self.workloads:
                ours, plain = self._group(arm, workload), self._group((arm[0], BASELINE, "auto"), workload)
                if cost := step_cost(ours, plain):
                    drafted = sum(sum(s["steps"]["drafted"]) for s in ours)
                    passes = sum(len(s["steps"]["drafted"]) for s in ours)
                    found.append(Standing(self.name(arm), arm, workload, 1 + drafted / passes, cost))
        return found

    def _group(self, arm: Arm, workload: str) -> list[Sample]:
        by = self._with_steps.get(arm, {})
        return [s for group in by.values() for s in group] if workload == ALL else by.get(workload, [])

    @cached_property
    def curve(self) -> dict[int, Spread]:
        """The verify cost curve, C(n) by n, from the run's own target passes, whatever strategy made them."""
        passes: dict[int, list[int]] = defaultdict(list)
        for arm, by in self._with_steps.items():
            for s in (s for group in by.values() for s in group):
                for drafted, took in zip(s["steps"]["drafted"], s["steps"]["verify_us"], strict=True):
                    if drafted or arm[1] == BASELINE:
                        passes[drafted + 1].append(took)
        one = float(np.median(passes[1])) if passes.get(1) else 0.0
        measured = {n: took for n, took in sorted(passes.items()) if one and len(took) >= FEWEST_PASSES}
        return {n: spread(us / one for us in took) for n, took in measured.items()}

    @cached_property
    def profile_curve(self) -> dict[int, Spread]:
        """The profile's curve at the depth nearest to the run's."""
        return {} if self.profile is None else relative(self.profile.curve(depth_of(self.run)))

    @cached_property
    def memory(self) -> dict[Arm, list[dict[str, Any]]]:
        """By arm the memory items of the generation that held most; arms that hold nothing are there, empty."""
        most: dict[Arm, list[dict[str, Any]]] = {}
        for s in self.measured:
            items = s["memory"]
            if items is not None and _bytes(items) >= _bytes(most.get(arm_of(s), [])):
                most[arm_of(s)] = items
        return {a: most[a] for a in self.shown if a in most}

    @cached_property
    def warnings(self) -> list[str]:
        """What did not hold still, each with the command that settles it."""
        found = [f.line for f in instabilities(self.run.samples)]
        return found + unsteady(self.run.samples, self.run.meta["spec"])

    @cached_property
    def answers(self) -> list[Answer]:
        """One sentence over all workloads first, then one for each, with the reasons."""
        costs = pass_costs(self.run, self.profile) if self.profile else None
        found = []
        for workload in sorted(self.workloads, key=lambda w: w != ALL):
            table = self.rows_of(workload)
            kind, sentence = answer([r for r in table if r["strategy"] != BASELINE])
            own = [s for s in self.run.samples if s["workload"] == workload]
            reasons = [] if workload == ALL else why(table, own, costs)
            where = "Over all workloads" if workload == ALL else f"On {workload}"
            found.append(Answer(workload, kind, f"{where} {sentence}", reasons))
        return found

    @cached_property
    def failures(self) -> list[tuple[str, str, int]]:
        """(strategy, error, cells)."""
        return [(row_name(r), error, n) for r in self.total.values() for error, n in r["failures"].items()]


def relative(curve: Mapping[int, Spread]) -> dict[int, Spread]:
    """C(n), what a target pass over n tokens costs against one over 1, by n, from a profile's T(n); empty where T(1) is
    not known."""
    one = curve[1].median if 1 in curve else 0.0
    return {n: Spread(s.median / one, s.low / one, s.high / one, s.n) for n, s in curve.items() if one}


def _bytes(items: list[dict[str, Any]]) -> int:
    return sum(int(i["bytes"]) for i in items)
