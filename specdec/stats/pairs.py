"""From generations to pairs: what a strategy and its baseline did on the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from specdec.stats.trust import trust
from specdec.store import Sample

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Work and time of two sides on the same prompts.

    Args:
        parts: float64 [prompts, rounds, 4]: tokens, seconds, baseline tokens, baseline seconds; a round is one repeat in
            one launch, the turns of a conversation added up; all 0 where a prompt has no such round.
        strata: the workload of each prompt, [prompts]; the workloads of a run are chosen, its prompts are a sample.
        launch: which launch each round belongs to, [rounds]; empty: one launch.
    """

    parts: Floats
    strata: Sequence[str]
    launch: Sequence[int] = ()

    @property
    def prompts(self) -> int:
        """How many prompts both sides have: the n of every statement."""
        return len(self.parts)

    @property
    def launches(self) -> int:
        """How many processes these rounds ran in."""
        return len(set(self.launch)) or 1

    def by_prompt(self) -> Floats:
        """One typical round of each prompt, [prompts, 4]: see ``typical``."""
        return typical(self.parts)

    def by_launch(self) -> Floats:
        """One typical round of each prompt in each launch, [prompts, launches, 4]; 0 where there is none."""
        rounds = np.asarray(self.launch or [0] * self.parts.shape[1])
        return np.stack([typical(self.parts[:, rounds == x]) for x in dict.fromkeys(self.launch or [0])], axis=1)

    def trust(self) -> tuple[Floats, float | None]:
        """How much each prompt counts, [prompts], and how uneven they are: see ``specdec.stats.trust``."""
        return trust(self.parts)


def typical(parts: Floats) -> Floats:
    """The typical one of each prompt's rounds: [prompts, rounds, 4] to [prompts, 4].

    Both sides of a round ran right after one another, so what slows the machine for seconds cancels in their ratio, and
    the median of the ratios (of three rounds or more) leaves a burst of other load out that hit one side alone. Tokens
    are the mean, the baseline's time a token is its median, ours is that over the median ratio. One round stays as it is.
    """
    there = parts[..., 1] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(there[..., None], np.log(parts), np.nan)
        known = there.any(axis=1)
        out = np.zeros((len(parts), 4))
        if known.any():
            ratio = np.nanmedian(logs[known] @ [1.0, -1.0, -1.0, 1.0], axis=1)
            base = np.exp(np.nanmedian(logs[known][..., 3] - logs[known][..., 2], axis=1))
            tokens = np.where(there[known][..., None], parts[known], 0).sum(axis=1) / there[known].sum(axis=1)[:, None]
            ours, theirs = tokens[:, 0], tokens[:, 2]
            out[known] = np.stack([ours, ours * base / np.exp(ratio), theirs, theirs * base], axis=-1)
    return out


def cell_of(sample: Sample) -> tuple[object, ...]:
    """What pairs a generation with the baseline's of the same run."""
    return sample["prompt"], sample["turn"], sample["repeat"], sample.get("launch", 0)


def pair_generations(side: Iterable[Sample], base: Iterable[Sample], clock: str) -> Pairs | None:
    """Pair the generations that both sides have, by prompt and round; None where none is left.

    Args:
        clock: which time counts: ``generation_s`` or ``end_to_end_s``.
    """
    theirs = {cell_of(s): s for s in base}
    sums: dict[tuple[str, str], dict[tuple[int, int], list[float]]] = {}
    for s in side:
        b = theirs.get(cell_of(s))
        if b is not None and s[clock] and b[clock]:  # null in a replay without costs
            pair = [len(s["token_ids"]), s[clock], len(b["token_ids"]), b[clock]]
            rounds = sums.setdefault((s["workload"], s["prompt"]), {})
            key = s.get("launch", 0), s["repeat"]
            rounds[key] = [x + y for x, y in zip(rounds[key], pair, strict=True)] if key in rounds else pair
    if not sums:
        return None
    keys = sorted({key for rounds in sums.values() for key in rounds})
    parts = np.array([[rounds.get(key, [0.0] * 4) for key in keys] for rounds in sums.values()], np.float64)
    return Pairs(parts, [workload for workload, _ in sums], [launch for launch, _ in keys])
