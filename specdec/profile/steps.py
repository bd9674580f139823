"""The stored steps of a profile as arrays, and which of them follow a decode of the same length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.store import Sample
from specdec.types import PHASES

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Point = tuple[int, ...]


_STALL = 5.0
"""Medians: what a step took beyond so many was one event, and counts as so many."""


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
    """Counted steps of one setting at one depth: arrays of one length, times in seconds.

    ``phase`` has the times as they would have been at the setting's usual speed: what was measured over ``slow``
    (``slowness``).
    """

    drafted: Ints
    accepted: Ints
    drafted_before: Ints
    accepted_before: Ints
    same: npt.NDArray[np.bool_]
    start: Ints
    slow: Array
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


def join_steps(lines: list[Sample], settle: int, recurrent: bool) -> Steps:
    """Put the counted steps of these lines together; the step before each is that of the same block."""
    columns: dict[str, list[Any]] = defaultdict(list)
    phases: dict[str, list[Array]] = defaultdict(list)
    slow = slowness(lines)
    for line in lines:
        drafted, accepted = np.array(line["drafted"], np.int64), np.array(line["accepted"], np.int64)
        checkpoints = recurrent & ((drafted > line["snapshots"]) | line["rollback"].startswith("checkpoint"))
        counted = np.array(line["counted"], bool)
        columns["drafted"].append(drafted[counted])
        columns["accepted"].append(accepted[counted])
        columns["drafted_before"].append(np.roll(drafted, 1)[counted])  # the first of a block is never counted
        columns["accepted_before"].append(np.roll(accepted, 1)[counted])
        columns["start"].append(np.array(line["start"], np.int64)[counted])
        columns["slow"].append(np.full(int(counted.sum()), slow.get(line["round"], 1.0)))
        columns["same"].append(same_shape(drafted, redecoded(drafted, accepted, checkpoints), settle)[counted])
        for phase in PHASES:
            phases[phase].append(np.array(line["phase_us"][phase])[counted] * 1e-6 / columns["slow"][-1])
    joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Steps(**joined, phase={phase: np.concatenate(parts) for phase, parts in phases.items()})


def slowness(lines: list[Sample]) -> dict[int, float]:
    """By round, how much longer its plain steps took than the setting's usual ones; empty where it has none in a row.

    Each round of a setting goes through all its lengths within a second or so, plain steps among them. What holds a
    machine up (another program, a neighbour on the same core) lasts for seconds or minutes and hits whole rounds: what a
    round measured over what its plain steps took stays. Usual is the lower quartile of the rounds: hold-ups make
    slower, and the fastest round of a few is luck. It supposes that a hold-up lengthens all passes and drafts alike.
    """
    plain: dict[int, float] = {}
    for line in lines:
        ones = np.array(line["phase_us"]["verify"])[np.array(line["drafted"]) == 0]
        if line["series"] == "constant" and len(ones) and not line["looks_back"]:
            plain[line["round"]] = float(np.median(ones[len(ones) // 3 :]))  # the first third settles (plan.py)
    usual = float(np.quantile(list(plain.values()), 0.25)) if plain else 0.0
    return {round_: took / usual for round_, took in plain.items()}


def level(settings: Iterable[Steps]) -> float:
    """How much longer all target passes of a profile took together than the medians of their points say.

    A generation's time is a sum of steps, and their times lean to the right (other threads wake, caches are cold), and
    rounds were slow now and then: medians at the usual speed add up to less. One factor for the whole profile: a mean of
    its own for each point would make a burst that hit it a property of that length.
    """
    took = expected = 0.0
    for steps in settings:
        points = 2 * steps.drafted + steps.same
        for point in np.unique(points):
            here = points == point
            values = steps.phase["verify"][here]
            middle = float(np.median(values))
            took += float((np.minimum(values, _STALL * middle) * steps.slow[here]).sum())
            expected += middle * len(values)
    return took / expected if expected else 1.0
