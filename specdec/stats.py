"""How sure a comparison is: paired by prompt, bootstrap over prompts, a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
EQUAL_WITHIN = 0.02
FEWEST_PROMPTS = 5
"""Below this many prompts no verdict is given: a bootstrap over so few says nothing of other prompts."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A speedup with its 95 % interval (None where one prompt is all there is) and what it allows to say."""

    value: float
    low: float | None
    high: float | None
    verdict: str


def speed_ratio(tokens: Floats, seconds: Floats, base_tokens: Floats, base_seconds: Floats, seed: int = 0) -> Ratio:
    """Speed (sum of tokens over sum of seconds) against a baseline's on the same prompts.

    Args: float64 [prompts] each, the same prompts in the same order, all above 0. Prompts are resampled in pairs
    (percentile bootstrap), so what a prompt does to both strategies cancels.
    """
    n = len(tokens)
    parts = np.stack([tokens, seconds, base_tokens, base_seconds])
    value = float(_ratio(parts.sum(axis=1)))
    if n < 2:
        return Ratio(value, None, None, "cannot tell")
    low, high = np.quantile(_ratio(parts @ _resamples(n, seed)), [0.025, 0.975])
    return Ratio(value, float(low), float(high), _verdict(float(low), float(high), n))


@lru_cache(maxsize=4)
def _resamples(n: int, seed: int) -> Floats:
    """How often each of n prompts is drawn in each resample, [n, RESAMPLES]; the same for all comparisons of a table."""
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES)
    return np.ascontiguousarray(weights.T, np.float64)


def _ratio(sums: Floats) -> Floats:
    """Ratio of speeds from rows (tokens, seconds, base tokens, base seconds)."""
    return np.asarray((sums[0] / sums[1]) / (sums[2] / sums[3]))


def _verdict(low: float, high: float, n: int) -> str:
    if n < FEWEST_PROMPTS:
        return "cannot tell"
    if low >= 1 - EQUAL_WITHIN and high <= 1 + EQUAL_WITHIN:
        return "equal within 2 %"
    if low > 1:
        return "faster"
    if high < 1:
        return "slower"
    return "no difference shown"
