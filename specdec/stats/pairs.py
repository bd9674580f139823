"""From generations to pairs: what a strategy and its baseline did on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specdec.store import Sample

Floats = npt.NDArray[np.float64]
Key = Callable[[Sample], tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Work and time of two sides on the same prompts.

    Args:
        parts: float64 [prompts, launches, 4]: tokens, seconds, baseline tokens, baseline seconds, added up over the
            repeats and turns of a prompt in one launch; all 0 where a prompt is missing from a launch.
        strata: the workload of each prompt, [prompts]; the workloads of a run are chosen, its prompts are a sample.
    """

    parts: Floats
    strata: Sequence[str]

    @property
    def prompts(self) -> int:
        """How many prompts both sides have: the n of every statement."""
        return len(self.parts)


def cell_of(sample: Sample) -> tuple[object, ...]:
    """What pairs a generation with the baseline's of the same run."""
    return sample["prompt"], sample["turn"], sample["repeat"], sample.get("launch", 0)


def pair_generations(side: Iterable[Sample], base: Iterable[Sample], clock: str, key: Key = cell_of) -> Pairs | None:
    """Pair the generations that both sides have (by ``key``), added up by prompt and launch; None where none is left.

    Args:
        clock: which time counts: ``generation_s`` or ``end_to_end_s``.
    """
    theirs = {key(s): s for s in base}
    sums: dict[tuple[str, str], dict[object, Floats]] = {}
    for s in side:
        b = theirs.get(key(s))
        if b is not None and s[clock] > 0 and b[clock] > 0:
            pair = np.array([len(s["token_ids"]), s[clock], len(b["token_ids"]), b[clock]], np.float64)
            by_launch = sums.setdefault((s["workload"], s["prompt"]), {})
            launch = s.get("launch", 0)
            by_launch[launch] = by_launch.get(launch, np.zeros(4)) + pair
    if not sums:
        return None
    launches = list(dict.fromkeys(launch for by_launch in sums.values() for launch in by_launch))
    parts = np.array([[by_launch.get(x, np.zeros(4)) for x in launches] for by_launch in sums.values()])
    return Pairs(parts, [workload for workload, _ in sums])
