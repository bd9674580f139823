"""From the stored steps of a profile to costs that can be looked up: medians at measured points, all lengthened by what
the profile's passes took beyond theirs, straight lines between measured neighbours, nothing beyond them.

A cost that was not measured is NaN, so that a prediction made with it is undefined and not wrong. Only the depth is
held at the first or last measured one beyond their range; a prediction says how many of its steps that concerned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from specdec.profile.steps import Array, Ints, Point, Spread, Steps, spread

_DEPENDS: dict[str, Callable[[Steps], tuple[Ints, ...]]] = {
    "propose": lambda s: (s.drafted, s.accepted_before, (s.accepted_before == s.drafted_before).astype(np.int64)),
    "catch_up": lambda s: (s.accepted,),
    "sample": lambda s: (s.accepted + 1,),
    "roll_back": lambda s: (s.drafted, s.accepted),
    "translate": lambda s: (s.drafted,),
    "other": lambda s: (s.accepted,),
}


@dataclass(frozen=True)
class Costs:
    """Costs of one setting at one depth.

    Args:
        steps: what was measured.
        looks_back: what a draft costs depends on its length alone, and not on what was kept before it.
        level: factor from medians to what sums are made of (``steps.level``).
    """

    steps: Steps
    looks_back: bool
    level: float = 1.0

    @cached_property
    def verify_points(self) -> dict[bool, dict[int, Spread]]:
        """Time of a target pass by its tokens: after decodes of the same length (True) and of another one (False)."""
        return {
            same: {
                n: spread(values)
                for (n,), values in self.steps.points(
                    "verify", lambda s: (s.drafted + 1,), self.steps.same == same
                ).items()
            }
            for same in (True, False)
        }

    def verify(self, tokens: Ints, same: npt.NDArray[np.bool_]) -> Array:
        """Seconds of target passes over ``tokens`` tokens, after passes of the same length or not."""
        at_same, at_other = (self._curve(self.verify_points[s])(tokens) * self.level for s in (True, False))
        chosen, rest = np.where(same, at_same, at_other), np.where(same, at_other, at_same)
        return np.where(np.isnan(chosen), rest, chosen)

    def lay(self, tokens: Ints) -> Array:
        """Mean depth of the measured passes over ``tokens`` tokens."""
        counts = np.bincount(self.steps.drafted)
        sums = np.bincount(self.steps.drafted, self.steps.start.astype(np.float64))
        return self._curve({n + 1: float(sums[n] / counts[n]) for n in np.flatnonzero(counts)}, beyond=True)(tokens)

    def propose(self, drafted: Ints, accepted_before: Ints, whole_before: npt.NDArray[np.bool_]) -> Array:
        """Seconds of drafting ``drafted`` tokens after a step that kept ``accepted_before`` tokens (the whole draft, or
        not): what was kept and the bonus token are to be decoded first."""
        if self.looks_back:  # what it learns it learns in bulk, now and then: the mean has that in it, a median has not
            hit = self.steps.drafted > 0
            spent = self.steps.phase["propose"]
            means = [float(spent[part].mean()) if part.any() else np.nan for part in (~hit, hit)]
            return np.where(drafted > 0, means[1], means[0])
        size = max(int(drafted.max(initial=0)), int(accepted_before.max(initial=0))) + 1
        table = self._propose_table(size)
        return np.where(drafted > 0, table[drafted, accepted_before, whole_before.astype(int)], 0.0)

    def _propose_table(self, size: int) -> Array:
        """[drafted, accepted before, whole before]: measured cells; elsewhere the cost of the length and the extra cost
        of the state before, which do not depend on each other."""
        cells = self._typical["propose"]
        cells = {p: v for p, v in cells.items() if p[0] > 0}
        base = {k: v for (k, a, whole), v in cells.items() if a == 0 and not whole}
        every = np.arange(size)
        lengths = self._curve(base)(every)
        table = np.full((size, size, 2), np.nan)
        for whole in (0, 1):
            extra: dict[int, list[float]] = defaultdict(list)
            for (k, a, w), seconds in cells.items():
                if w == whole and k in base:
                    extra[a].append(seconds - base[k])
            states = self._curve({a: float(np.median(v)) for a, v in extra.items()})(every)
            table[:, :, whole] = lengths[:, None] + states[None, :]
        for (k, a, w), seconds in cells.items():
            if k < size and a < size:
                table[k, a, w] = seconds
        return table

    def sample(self, rows: Ints) -> Array:
        """Seconds of choosing the target's tokens from ``rows`` rows of logits."""
        points = self._typical["sample"]
        return self._curve({n: v for (n,), v in points.items()})(rows)

    def catch_up(self, accepted: Ints) -> Array:
        """Seconds of handing the hidden rows of the kept tokens over."""
        points = self._typical["catch_up"]
        return self._curve({n: v for (n,), v in points.items()}, beyond=True)(accepted)

    def roll_back(self, drafted: Ints, accepted: Ints) -> Array:
        """Seconds of what is kept before a pass and of undoing what was rejected after it."""
        points = self._typical["roll_back"]
        whole = {k: v for (k, a), v in points.items() if a == k}
        size = int(drafted.max(initial=0)) + 1
        table = np.full((size, size), np.nan)
        partial: dict[int, Array] = {}
        for k in {k for k, a in points if a < k}:
            row = {a: v for (d, a), v in points.items() if d == k and a < k}
            # Which of its tokens were kept matters only by how many are decoded again: the ends hold beyond.
            partial[k] = self._curve(row, beyond=True)(np.arange(size))
        for a in range(size):
            lengths = {k: float(row[a]) for k, row in partial.items() if k > a}
            if lengths:
                inside = np.arange(size) <= max(partial)
                table[:, a] = np.where(inside, self._curve(lengths, beyond=True)(np.arange(size)), np.nan)
        rejected = table[drafted, np.minimum(accepted, size - 1)]
        return np.where(accepted == drafted, self._curve(whole)(drafted), rejected)

    def other(self, accepted: Ints) -> Array:
        """Seconds of everything else in a step: Python around the phases, and taking the tokens over."""
        points = self._typical["other"]
        return self._curve({n: v for (n,), v in points.items()}, beyond=True)(accepted)

    def translate(self, drafted: Ints) -> Array:
        """Seconds of changing between vocabularies."""
        points = self._typical["translate"]
        return self._curve({n: v for (n,), v in points.items()}, beyond=True)(drafted)

    @cached_property
    def _typical(self) -> dict[str, dict[Point, float]]:
        """Of each phase, seconds by what the phase depends on."""
        return {
            phase: {point: float(np.median(v)) * self.level for point, v in self.steps.points(phase, key).items()}
            for phase, key in _DEPENDS.items()
        }

    @staticmethod
    def _curve(points: Mapping[int, Spread | float], beyond: bool = False) -> Callable[[Ints], Array]:
        """Straight lines between neighbours; NaN beyond the first and the last point unless they hold there."""
        at = np.array(sorted(points), np.float64)
        values = [points[int(n)] for n in at]
        seconds = np.array([v.median if isinstance(v, Spread) else v for v in values], np.float64)
        if not len(at):
            return lambda n: np.full(np.shape(n), np.nan)
        edge = {} if beyond else {"left": np.nan, "right": np.nan}
        return lambda n: np.asarray(np.interp(n, at, seconds, **edge))


def by_depth(depths: dict[int, Costs], at: Ints, tokens: Ints, cost: Callable[[Costs], Array]) -> Array:
    """A cost of each step at its depth ``at``: between two measured depths in proportion, at the ends held.

    The steps of a block walk on from the depth at which it begins, so a measured point stands where its own steps lay
    on average; ``tokens`` of each step's pass name the point.
    """
    costs = [depths[d] for d in sorted(depths)]
    known = [c.lay(tokens) for c in costs]
    values = [np.broadcast_to(cost(c), at.shape) for c in costs]
    out = np.array(values[0], np.float64)
    for (low, below), (high, above) in pairwise(zip(known, values, strict=True)):
        share = np.clip((at - low) / (high - low), 0.0, 1.0)
        out = np.where(share > 0, below * (1 - share) + above * share, out)
    return out
