"""Which cell comes next: the plan's grid in its order, or with ``quick`` whatever is not settled yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from specdec.arms import Arm
from specdec.quick import QuickPlan
from specdec.runner.order import Cell, CellKey
from specdec.runner.plan import Plan
from specdec.store import Run, Sample, cell_key

QUICK_SECONDS = 300.0
"""Of generations, warm-ups included; loading comes on top."""


def done_cells(run: Run, retry_failed: bool = False) -> set[CellKey]:
    """Cells that need not run again: all turns are there, or one failed (unless those are to be tried again). A
    conversation that was cut off runs again from its first turn; its turns then stand twice in the file, and the reader
    takes the later ones."""
    turns = {p["id"]: p["turns"] for p in run.meta["prompts"]}
    missing: dict[CellKey, int] = {}
    failed: set[CellKey] = set()
    for s in run.samples:
        key = cell_key(s)
        missing[key] = missing.get(key, 1 if s["warmup"] else turns[s["prompt"]]) - 1
        if s["status"] != "ok":
            failed.add(key)
    done = {key for key, left in missing.items() if left <= 0}
    return done - failed if retry_failed else done | failed


class Schedule:
    """Iterate for the cells to run.

    Args:
        plan: the run.
        done: cells that need not run again.
        stored: the samples so far; the caller appends to it before it asks for the next cell.
        launches: only the cells of the first so many launches; None: of all.
    """

    def __init__(self, plan: Plan, done: set[CellKey], stored: list[Sample], launches: int | None = None) -> None:
        left = [c for c in plan.cells if c.key not in done]
        self._todo = [c for c in left if launches is None or c.launch < launches]
        self._stored, self._plan, self.left = stored, plan, len(left)
        self._before = [s for s in stored if cell_key(s) in done], len(stored)
        self.whole = len(self._todo) == len(left)
        self._quick: QuickPlan | None = None
        if plan.spec.quick:
            self._arms: dict[tuple[str, str], Arm] = {(a.planned.label, a.rollback): a for a in plan.arms}
            self._quick = QuickPlan(list(self._arms), [(p.id, p.workload) for p in plan.prompts])

    def __iter__(self) -> Iterator[Cell]:
        if self._quick is None:
            yield from self._todo
            return
        yield from (c for c in self._todo if c.warmup)
        prompts = {p.id: p for p in self._plan.prompts}
        while cells := self._quick.next_cells(self._counted, self._seconds_left):
            yield from (Cell(self._arms[c.arm], prompts[c.prompt], 0) for c in cells)

    def pauses_s(self, launch: int = -1) -> float:
        """Seconds of the pauses between the launches that are still to be made, or that come after this one."""
        launches = {c.launch for c in self._todo if c.launch >= launch}
        return 60 * self._plan.spec.launch_pause * max(0, len(launches) - 1)

    def outcome(self) -> dict[str, Any]:
        """What joins run.json at the end: what a quick run has settled."""
        if self._quick is None:
            return {}
        d = self._quick.decide(self._counted, self._seconds_left)
        best = {"strategy": d.best[0], "rollback": d.best[1], "settled": d.best_settled}
        return {"quick": {"line": d.line, "on": d.on, "best": best, "prompts": d.prompts, "stopped": d.stopped}}

    @property
    def _counted(self) -> list[Sample]:
        """Without conversations that were cut off, and failures that are tried again."""
        before, n = self._before
        return before + self._stored[n:]

    @property
    def _seconds_left(self) -> float:
        """A generation that timed out took its time limit."""
        took = (s.get("limit_s") if s["status"] == "timed out" else s.get("end_to_end_s") for s in self._stored)
        return QUICK_SECONDS - sum(seconds or 0.0 for seconds in took)
