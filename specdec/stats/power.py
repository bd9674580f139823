"""What a table could have found, and what it takes to find less: planned from the spread that it shows itself.

An effect is found in 80 of 100 tables where it is as large as the interval's half width plus the room that luck needs:
(t at 1 - alpha/2 + t at 0.8) x error of the logarithm. More rounds shrink the part of the error that is noise of the
machine; what a strategy gains more on one prompt than on another shrinks with the number of prompts alone, and what a
process does to it with the number of launches. A rule of
thumb: where errors differ from table to table (heavy tails) it says a little less than simulation does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from specdec.stats.bootstrap import Estimate
from specdec.stats.verdicts import FALSE_DISCOVERIES, FEWEST_PROMPTS

POWER = 0.8
WANTED = 0.03
"""The effect that more rounds are planned for."""
_LAUNCHES = 3
"""Launches that are advised before repeats: they show what a process does, and three rounds leave a burst out."""
_FAR = 1.0
"""Of a logarithm: what lies beyond is no figure to plan with."""
_MOST_ROUNDS = 30
"""More rounds than this are no advice: more prompts are."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """A plan of rounds: ``launches`` processes, ``repeats`` in each."""

    launches: int
    repeats: int


def smallest_effect(estimate: Estimate, comparisons: int) -> float | None:
    """The speedup, less 1, that would be found 80 times of 100 with this error; None where no verdict is given, or where it
    is beyond 2.7 times: with so few launches and prompts nothing can be planned.

    Args:
        comparisons: how many the table makes; one alone has to stand out of so many.
    """
    if estimate.log_error is None or estimate.prompts < FEWEST_PROMPTS:
        return None
    reach = _reach(estimate.freedom, comparisons) * estimate.log_error
    return math.expm1(reach) if reach < _FAR else None


def rounds_for(estimate: Estimate, comparisons: int, effect: float = WANTED) -> Rounds | None:
    """The fewest rounds that would find ``effect``; None where more rounds alone will not (prompts, or launches, differ too
    much) or none are needed."""
    smallest = smallest_effect(estimate, comparisons)
    if smallest is None or smallest <= effect:
        return None
    first = max(_LAUNCHES, estimate.launches)
    last = _MOST_ROUNDS if estimate.between_launches else first
    plans = (Rounds(n, repeats) for n in range(first, last + 1) for repeats in range(1, _MOST_ROUNDS // n + 1))
    enough = (p for p in plans if _finds(estimate, comparisons, effect, p.launches, p.launches * p.repeats))
    return min(enough, key=lambda p: (p.launches * p.repeats, p.launches), default=None)


def prompts_for(estimate: Estimate, comparisons: int, effect: float = WANTED) -> int | None:
    """About how many prompts would find ``effect`` with as many rounds as there were; None where no verdict is given, or
    where launches differ too much for that."""
    smallest = smallest_effect(estimate, comparisons)
    if smallest is None or estimate.log_error is None:
        return None
    by_launches = _by_launches(estimate, estimate.launches)
    of_prompts = estimate.log_error**2 - by_launches
    left = (math.log1p(effect) / _reach(estimate.freedom, comparisons)) ** 2 - by_launches
    return math.ceil(estimate.prompts * of_prompts / left) if left > 0 else None


def _finds(estimate: Estimate, comparisons: int, effect: float, launches: int, rounds: int) -> bool:
    """Whether so many launches with so many rounds in all of them would find the effect."""
    error = (estimate.log_error or 0.0) ** 2 - _by_launches(estimate, estimate.launches)
    uneven = min((estimate.uneven or 0.0) ** 2 / estimate.prompts, error)
    of_prompts = uneven + (error - uneven) * estimate.rounds / rounds
    by_launches, freedom = _by_launches(estimate, launches), estimate.freedom
    if by_launches:  # more launches also tell better how much they differ (Satterthwaite)
        parts = of_prompts**2 / (estimate.prompts - 1) + by_launches**2 / (launches - 1)
        freedom = (of_prompts + by_launches) ** 2 / parts
    return _reach(freedom, comparisons) * math.sqrt(of_prompts + by_launches) <= math.log1p(effect)


def _by_launches(estimate: Estimate, launches: int) -> float:
    """The part of the error's square that only launches shrink."""
    return (estimate.between_launches or 0.0) ** 2 / launches


def _reach(freedom: float, comparisons: int) -> float:
    from scipy.special import stdtrit

    alpha = FALSE_DISCOVERIES / max(1, comparisons)
    return float(stdtrit(freedom, 1 - alpha / 2) + stdtrit(freedom, POWER))
