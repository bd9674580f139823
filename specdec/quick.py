"""When a comparison may stop: sequential decisions on speculation on or off, and on the best arm.

Two questions, each answered to within a margin (2 %), so that each has an end:

1. Which arm is best? An arm is dropped once it is shown not to be more than the margin faster than the best so far.
2. On or off? ``on`` once the best arm is shown to be faster than plain decoding; ``off`` once none is left that could
   be more than the margin faster.

Looking again and again makes false answers likelier, so the error (0.1) is spent over the looks: they are made at 5, 7,
10, 15, 22, 33 ... prompts, and each may err with an equal share, divided by the answers that a look may get wrong
(arms + 2). By the union bound all answers are right, to within the margin, with probability 1 - error at least, whenever
the run stops. The p-values are those of the tables (specdec.stats): Student's t over prompts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from specdec.stats import FEWEST_PROMPTS, Estimate, Pairs, estimate
from specdec.store import Sample

ArmKey = tuple[str, str]
"""Strategy label, way of rolling back."""

BASELINE: ArmKey = ("none", "auto")
ERROR = 0.10
MARGIN = 0.02
FAIR = 0.5
_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class QuickCell:
    """One generation that should run next."""

    arm: ArmKey
    prompt: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What the samples so far settle.

    Args:
        prompts: complete prompts looked at last.
        on: True or False once settled, else None.
        best: the fastest arm so far (the baseline if nothing is faster); settled if ``best_settled``.
        dropped: arms shown not to be more than the margin faster than the best, and after how many prompts.
        speedups: of every arm against plain decoding at its last look.
        p_on: p-value against "the best is no faster than plain decoding" at the last look, times the number of arms.
        stopped: why no more cells come: ``settled``, ``out of prompts``, ``out of time``, ``every strategy failed``; None
            while it goes on.
    """

    prompts: int
    on: bool | None
    best: ArmKey
    best_settled: bool
    dropped: Mapping[ArmKey, int] = field(default_factory=dict)
    speedups: Mapping[ArmKey, float] = field(default_factory=dict)
    p_on: float = 1.0
    stopped: str | None = None

    @property
    def likely_on(self) -> bool:
        """On or off where the time ended first: on where the evidence for a gain is fair (the leader of several arms
        looks faster than it is, and speculation costs memory)."""
        return self.p_on <= FAIR if self.on is None else self.on

    @property
    def line(self) -> str:
        """The decision in one sentence."""
        name, n = self.best[0], self.prompts
        if self.on is False:
            return f"Off: after {n} prompts no strategy is more than {MARGIN:.0%} faster than plain decoding."
        gain = self.speedups.get(self.best, 1.0)
        if self.on and self.best_settled:
            return f"On: {name} is best, {gain:.2f}x of plain decoding, after {n} prompts."
        if self.on:
            left = f"; which strategy is best is not settled ({name} leads)"
            return f"On: {name} is {gain:.2f}x of plain decoding after {n} prompts{left}."
        lean, why = "on" if self.likely_on else "off", self.stopped or "going on"
        return f"Not settled after {n} prompts ({why}), likelier {lean}: {name} leads with {gain:.2f}x."


class QuickPlan:
    """Says which cells to run next, and when to stop.

    Stateless towards its caller: every call gets all samples so far (a resumed run gives the same answers). Prompts are
    taken in turn from each workload; within a prompt the arms rotate. A prompt counts once every arm that was still in
    has run it; one where an arm failed counts for nobody.

    Args:
        arms: all arms, the baseline among them.
        prompts: (prompt id, workload) in the order of the run.
    """

    def __init__(self, arms: Sequence[ArmKey], prompts: Sequence[tuple[str, str]], *, error: float = ERROR) -> None:
        if BASELINE not in arms:
            raise ValueError(f"{BASELINE} must be one of the arms")
        self._arms, self._error = list(arms), error
        self._prompts = _in_turn(prompts)
        self._known: dict[bytes, Estimate] = {}  # earlier looks need no second computation

    def next_cells(self, samples: Iterable[Sample], seconds_left: float = math.inf) -> tuple[QuickCell, ...]:
        """The cells of the next prompt, or of one that is not complete; empty: stop.

        Args:
            samples: of this run so far, in any order.
            seconds_left: a prompt that would take longer, by the arms' mean time so far, is not begun.
        """
        taken = _Taken(samples, self._known)
        decision = self._decide(taken)
        if decision.stopped == "settled":
            return ()
        alive = [a for a in self._arms if a == BASELINE or a not in decision.dropped]
        alive = [a for a in alive if a not in taken.broken]
        if alive == [BASELINE] != self._arms:
            return ()
        for i, (prompt, _) in enumerate(self._prompts):
            turned = alive[i % len(alive) :] + alive[: i % len(alive)]
            missing = [a for a in turned if (a, prompt) not in taken.tried]
            if missing:
                long = sum(taken.mean_seconds(a) for a in missing) > seconds_left
                return () if long else tuple(QuickCell(a, prompt) for a in missing)
        return ()

    def decide(self, samples: Iterable[Sample], seconds_left: float = math.inf) -> Decision:
        """What is settled, and why it stops if it does."""
        samples = list(samples)
        taken = _Taken(samples, self._known)
        decision = self._decide(taken)
        if decision.stopped is None and not self.next_cells(samples, seconds_left):
            done = {s["prompt"] for s in samples if not s["warmup"]}
            reason = "out of prompts" if done >= {p for p, _ in self._prompts} else "out of time"
            if taken.broken >= set(self._arms) - {BASELINE} != set():
                reason = "every strategy failed"
            return replace(decision, stopped=reason)
        return decision

    def _decide(self, taken: _Taken) -> Decision:
        """Goes through the looks in order, dropping arms, until it is settled or the samples end."""
        dropped: dict[ArmKey, int] = {}
        on: bool | None = None
        best, speedups, last = BASELINE, dict[ArmKey, float](), 0
        p_on = 1.0
        rivals = [a for a in self._arms if a != BASELINE and a not in taken.broken]
        looks = _looks(len(self._prompts))
        for n in looks:
            alive = [a for a in rivals if a not in dropped]
            shared = [p for p in self._prompts if all((a, p[0]) in taken.cells for a in [BASELINE, *alive])]
            if len(shared) < n or not alive:
                break
            last, alpha = n, self._error / len(looks) / (len(rivals) + 2)
            against = {a: taken.ratio(a, BASELINE, shared[:n]) for a in alive}
            speedups |= {a: e.value for a, e in against.items()}
            best = max(alive, key=lambda a: against[a].value)
            p_on = min(1.0, len(rivals) * against[best].p_above(1.0))
            for a in alive:
                if a != best and taken.ratio(a, best, shared[:n]).p_below(1 + MARGIN) <= alpha:
                    dropped[a] = n
            if on is None and against[best].p_above(1.0) <= alpha:
                on = True
            elif on is None and all(against[a].p_below(1 + MARGIN) <= alpha for a in alive):
                on, best = False, BASELINE
            left = [a for a in rivals if a not in dropped]
            if on is False or (on and len(left) == 1):
                return Decision(n, on, best, True, dropped, speedups, p_on, "settled")
        left = [a for a in rivals if a not in dropped]
        return Decision(last, on, best, last > 0 and len(left) == 1, dropped, speedups, p_on)


class _Taken:
    """Samples by arm and prompt: tokens and seconds, added up over turns."""

    def __init__(self, samples: Iterable[Sample], known: dict[bytes, Estimate]) -> None:
        self._known = known
        self.cells: dict[tuple[ArmKey, str], tuple[float, float]] = {}
        self.tried: set[tuple[ArmKey, str]] = set()
        self._seconds: dict[ArmKey, list[float]] = defaultdict(list)
        failed: set[tuple[ArmKey, str]] = set()
        for s in samples:
            if s["warmup"]:
                continue
            key = (s["strategy"], s["rollback"]), s["prompt"]
            self.tried.add(key)
            if s["status"] != "ok" or s["generation_s"] <= 0:
                failed.add(key)
                continue
            tokens, seconds = self.cells.get(key, (0.0, 0.0))
            self.cells[key] = tokens + len(s["token_ids"]), seconds + s["generation_s"]
            self._seconds[key[0]].append(s["end_to_end_s"])
        for key in failed:
            self.cells.pop(key, None)
        counts = {a: sum(k[0] == a for k in failed) for a, _ in failed}
        self.broken = {a for a, n in counts.items() if n >= 2 and not any(k[0] == a for k in self.cells)}
        """Arms that have only failed, twice or more."""

    def mean_seconds(self, arm: ArmKey) -> float:
        """Of a generation of this arm, else of any; 0 before the first."""
        found = self._seconds.get(arm) or [x for v in self._seconds.values() for x in v]
        return float(np.mean(found)) if found else 0.0

    def ratio(self, arm: ArmKey, base: ArmKey, prompts: Sequence[tuple[str, str]]) -> Estimate:
        parts = np.array([[[*self.cells[arm, p], *self.cells[base, p]]] for p, _ in prompts], np.float64)
        key = parts.tobytes()
        if key not in self._known:
            self._known[key] = estimate(Pairs(parts, [w for _, w in prompts]))
        return self._known[key]


def _in_turn(prompts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """One prompt of each workload, then the next of each: a run that stops early has seen all workloads."""
    seen: dict[str, int] = defaultdict(int)
    rounds = []
    for p in prompts:
        rounds.append((seen[p[1]], p))
        seen[p[1]] += 1
    return [p for _, p in sorted(rounds, key=lambda item: item[0])]


def _looks(most: int) -> list[int]:
    """Numbers of prompts at which a look is made: growing by a quarter, the last prompt always among them."""
    looks, n = [], FEWEST_PROMPTS
    while n < most:
        looks.append(n)
        n = max(n + 1, int(n * _GROWTH))
    return [*looks, most] if most >= FEWEST_PROMPTS else []
