"""From the stored steps of a profile to costs that can be looked up: medians at measured points, straight lines between
measured neighbours, nothing beyond them.

A cost that was not measured is NaN, so that a prediction made with it is undefined and not wrong. Only the depth is
held at the first or last measured one beyond their range; a prediction says how many of its steps that concerned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.errors import SpecdecError
from specdec.profile.plan import TEXT
from specdec.store import Run, Sample
from specdec.types import PHASES

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Point = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one measured point, seconds."""

    median: float
    low: float
    high: float
    n: int

    @property
    def relative(self) -> float:
        """Half of the middle half's width, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def spread(seconds: Iterable[float]) -> Spread:
    """Median and quartiles."""
    values = np.fromiter(seconds, np.float64)
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Spread(float(middle), float(low), float(high), len(values))


@dataclass(frozen=True, slots=True)
class Steps:
    """Counted steps of one setting at one depth: arrays of one length, times in seconds."""

    drafted: Ints
    accepted: Ints
    drafted_before: Ints
    accepted_before: Ints
    same: npt.NDArray[np.bool_]
    start: Ints
    phase: dict[str, Array]

    def points(
        self, phase: str, key: Callable[[Steps], tuple[Ints, ...]], where: Any = slice(None)
    ) -> dict[Point, Array]:
        """Seconds of a phase by the point that ``key`` gives."""
        keys = np.stack(key(self), axis=1)[where]
        found: dict[Point, list[float]] = defaultdict(list)
        for point, seconds in zip(map(tuple, keys.tolist()), self.phase[phase][where].tolist(), strict=True):
            found[point].append(seconds)
        return {point: np.array(values) for point, values in sorted(found.items())}


def redecoded(drafted: Ints, accepted: Ints, checkpoints: npt.NDArray[np.bool_] | bool) -> Ints:
    """Tokens decoded again after each step: where a checkpoint was restored, the last token and what was kept."""
    return np.where((accepted < drafted) & checkpoints, accepted + 1, 0)


def same_shape(drafted: Ints, again: Ints, settle: int) -> npt.NDArray[np.bool_]:
    """Whether the ``settle`` decodes before each target pass had as many tokens as the pass itself: then llama.cpp (and
    a CUDA graph, with 2) uses what it built before. ``again`` are the tokens decoded again after each step."""
    out = np.zeros(len(drafted), bool)
    history: list[int] = []
    for i, (n, more) in enumerate(zip((drafted + 1).tolist(), again.tolist(), strict=True)):
        out[i] = len(history) >= settle and all(h == n for h in history[-settle:])
        history = [*history, n, *([more] if more else [])][-settle:]
    return out


def _steps(lines: list[Sample], settle: int, recurrent: bool) -> Steps:
    """Put the counted steps of these lines together; the step before each is that of the same block."""
    columns: dict[str, list[Ints]] = defaultdict(list)
    phases: dict[str, list[Array]] = defaultdict(list)
    for line in lines:
        drafted, accepted = np.array(line["drafted"], np.int64), np.array(line["accepted"], np.int64)
        checkpoints = recurrent & ((drafted > line["snapshots"]) | line["rollback"].startswith("checkpoint"))
        counted = np.array(line["counted"], bool)
        columns["drafted"].append(drafted[counted])
        columns["accepted"].append(accepted[counted])
        columns["drafted_before"].append(np.roll(drafted, 1)[counted])  # the first of a block is never counted
        columns["accepted_before"].append(np.roll(accepted, 1)[counted])
        columns["start"].append(np.array(line["start"], np.int64)[counted])
        columns["same"].append(same_shape(drafted, redecoded(drafted, accepted, checkpoints), settle)[counted])
        for phase in PHASES:
            phases[phase].append(np.array(line["phase_us"][phase])[counted] * 1e-6)
    joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Steps(**joined, phase={phase: np.concatenate(parts) for phase, parts in phases.items()})


@dataclass(frozen=True)
class Costs:
    """Costs of one setting at one depth.

    Args:
        steps: what was measured.
        looks_back: what a draft costs depends on its length alone, and not on what was kept before it.
    """

    steps: Steps
    looks_back: bool

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
        at_same, at_other = (self._curve(self.verify_points[s])(tokens) for s in (True, False))
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
        cells = self._medians(
            "propose", lambda s: (s.drafted, s.accepted_before, s.accepted_before == s.drafted_before)
        )
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
        points = self._medians("sample", lambda s: (s.accepted + 1,))
        return self._curve({n: v for (n,), v in points.items()})(rows)

    def catch_up(self, accepted: Ints) -> Array:
        """Seconds of handing the hidden rows of the kept tokens over."""
        points = self._medians("catch_up", lambda s: (s.accepted,))
        return self._curve({n: v for (n,), v in points.items()}, beyond=True)(accepted)

    def roll_back(self, drafted: Ints, accepted: Ints) -> Array:
        """Seconds of what is kept before a pass and of undoing what was rejected after it."""
        points = self._medians("roll_back", lambda s: (s.drafted, s.accepted))
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
        points = self._medians("other", lambda s: (s.accepted,))
        return self._curve({n: v for (n,), v in points.items()}, beyond=True)(accepted)

    def translate(self, drafted: Ints) -> Array:
        """Seconds of changing between vocabularies."""
        points = self._medians("translate", lambda s: (s.drafted,))
        return self._curve({n: v for (n,), v in points.items()}, beyond=True)(drafted)

    def _medians(self, phase: str, key: Callable[[Steps], tuple[Ints, ...]]) -> dict[Point, float]:
        return {point: float(np.median(v)) for point, v in self.steps.points(phase, key).items()}

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


@dataclass(frozen=True, slots=True)
class Key:
    """A setting of a profile."""

    strategy: str
    mode: str
    snapshots: int
    threads: int


class Profile:
    """A stored profile, read.

    Raises:
        SpecdecError: the run is not a profile, or holds no measured steps.
    """

    def __init__(self, run: Run) -> None:
        if run.meta["kind"] != "profile":
            raise SpecdecError(f"{run.folder} is no profile (kind {run.meta['kind']}).", "Take one: specdec profile.")
        self.run, self.meta = run, run.meta
        self.settle = int(self.meta["settle"])
        self.recurrent = bool(self.meta["context"]["recurrent"])
        groups: dict[Key, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        back = {}
        for line in run.samples:
            if line["kind"] == "steps":
                key = Key(line["strategy"], line["rollback"], line["snapshots"], line["threads"])
                groups[key][line["depth"]].append(line)
                back[key] = line["looks_back"]
        if not groups:
            raise SpecdecError(f"{run.folder} holds no measured steps.", "Take the profile again.")
        self.costs = {
            key: {
                depth: Costs(_steps(lines, self.settle, self.recurrent), back[key])
                for depth, lines in sorted(depths.items())
            }
            for key, depths in groups.items()
        }

    @property
    def id(self) -> str:
        """The run's name."""
        return self.run.id

    @property
    def threads(self) -> int:
        """Threads at which everything was measured."""
        return int(self.meta["context"]["threads"])

    @property
    def depths(self) -> list[int]:
        """Measured depths, rising."""
        return sorted(self.plain())

    @property
    def strategies(self) -> list[str]:
        """Names of the strategies whose drafting was measured."""
        return [k.strategy for k in self.costs if k.strategy != TEXT]

    def lines(self, kind: str) -> list[Sample]:
        """Stored lines of one kind: ``prompt``, ``checkpoint``, ``experts``, ``steps``."""
        return [s for s in self.run.samples if s["kind"] == kind]

    def plain(self) -> dict[int, Costs]:
        """The curve without snapshots, by depth."""
        return self.find(TEXT, lambda k: k.snapshots == 0 and k.mode == "auto")[1]

    def drafting(self, strategy: str) -> tuple[Key, dict[int, Costs]]:
        """The setting in which a strategy's drafting was measured."""
        try:
            return self.find(strategy)
        except LookupError:
            known = ", ".join(self.strategies) or "none"
            raise SpecdecError(
                f"profile {self.id} did not measure the strategy {strategy!r} (measured: {known}).",
                f"Take a profile with --strategies {strategy}.",
            ) from None

    def by_snapshots(self) -> dict[int, dict[int, Costs]]:
        """The curve at each number of snapshots, rising."""
        found = {
            k.snapshots: depths
            for k, depths in self.costs.items()
            if k.strategy == TEXT and k.mode == "auto" and k.threads == self.threads
        }
        return dict(sorted(found.items()))

    def rolling_back(self, mode: str, snapshots: int) -> dict[int, Costs]:
        """A setting of the curve that undoes drafts that way."""
        mode = "auto" if mode in ("checkpoint", "snapshots") else mode
        try:
            return self.find(TEXT, lambda k: k.mode == mode and (k.snapshots > 0) == (snapshots > 0))[1]
        except LookupError:
            return self.plain()

    def find(self, strategy: str, fits: Callable[[Key], bool] = lambda _: True) -> tuple[Key, dict[int, Costs]]:
        """The first setting of a strategy that fits, at the profile's own thread count.

        Raises:
            LookupError: there is none.
        """
        for key, depths in self.costs.items():
            if key.strategy == strategy and key.threads == self.threads and fits(key):
                return key, depths
        raise LookupError(strategy)


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
