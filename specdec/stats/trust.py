"""How much a prompt's ratio is to be trusted, from how well its own rounds agree.

Bursts of other load hit some prompts and leave most alone. A prompt whose rounds disagree says little, and counted like
the others it would drown what they say. So prompts are weighted as the studies of a meta-analysis are (DerSimonian and
Laird 1986): by 1 / (noise of this prompt + true spread between prompts). Where prompts differ by more than their noise,
as they do where a strategy gains more on one text than on another, the true spread rules and all count alike; weights
are uneven only as far as noise explains the differences, and then all prompts estimate the same thing. With one round
nothing is known of the noise and all count alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_PRIOR = 1.0
"""Degrees of freedom that the typical prompt's variance has against a prompt's own (Smyth 2004): a variance of three
rounds alone may be small by luck."""
_MEDIAN = np.pi / 2
"""Variance of a median of three or more over that of a mean, for normal noise."""
_FLOOR = 1e-12


def trust(parts: Floats) -> tuple[Floats, float | None]:
    """Weights of the prompts, mean 1; and the standard deviation of their log ratios beyond the noise, None with one
    round.

    Args:
        parts: [prompts, rounds, 4] as ``Pairs`` has them; all 0 where a prompt has no such round (each has one at least).
    """
    there = parts[..., 1] > 0
    rounds = there.sum(axis=1)
    repeated = rounds > 1
    if not repeated.any():
        return np.ones(len(parts)), None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(there, np.log(parts) @ [1.0, -1.0, -1.0, 1.0], np.nan)
    effects = np.nanmedian(ratios, axis=1)
    squares = np.nansum((ratios - np.nanmean(ratios, axis=1, keepdims=True)) ** 2, axis=1)
    freedom = np.maximum(rounds - 1, 0)
    usual = float(np.median(squares[repeated] / freedom[repeated]))
    variance = np.maximum((squares + _PRIOR * usual) / (freedom + _PRIOR), _FLOOR)
    noise = variance * np.where(rounds > 2, _MEDIAN, 1.0) / np.maximum(rounds, 1)
    spread = _true_spread(effects, noise)
    weights = 1 / (noise + spread)
    return np.asarray(weights / weights.mean()), float(np.sqrt(spread))


def _true_spread(effects: Floats, noise: Floats) -> float:
    """Variance of ``effects`` between the prompts beyond their noise, by the method of moments."""
    weights = 1 / noise
    centre = (weights @ effects) / weights.sum()
    excess = float(weights @ (effects - centre) ** 2) - (len(effects) - 1)
    room = float(weights.sum() - (weights @ weights) / weights.sum())
    return max(0.0, excess / room) if len(effects) > 1 else 0.0
