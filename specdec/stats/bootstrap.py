"""A speedup and how sure it is: cluster bootstrap over prompts, Student's t, the launches' own variance.

The speedup is a ratio of sums over the prompts, each with its typical round (specdec.stats.pairs); its error is taken on
the logarithm, where a ratio and its reciprocal are alike. Prompts are the clusters: all repeats, turns and launches of
a prompt stay together (Davison & Hinkley 1997, 3.8; Field
& Welsh, JRSS B 69, 2007). They are resampled within their workload, n-1 of n with rescaled weights (Rao & Wu, JASA 83,
1988), which makes the bootstrap's variance unbiased for few prompts; the interval is value times exp(-+ t * error), t
with the degrees of freedom of that variance (Satterthwaite 1946). A percentile interval of 5 prompts would cover 84 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from specdec.stats.pairs import Floats, Pairs

RESAMPLES = 2000
LEVEL = 0.95
LAUNCHES_DIFFER = 0.05
"""Below this p-value launches are taken to differ, and their variance enters the error. Adding it always, however small,
would leave 3 launches with 2 degrees of freedom; never adding it would hide what a process does to a strategy."""

_FAR = 3.0
"""In median distances; where launches differ the median distance has that in it."""
_ROUNDING = 1e-20
"""Variance of logarithms below which launches differ by rounding only."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of speeds with its standard error.

    Args:
        value: sum of tokens over sum of seconds, ours over the baseline's, a typical round of each prompt.
        mean: geometric mean of the prompts' own ratios; only the geometric mean of A over B is the reciprocal of B over A.
        log_error, mean_log_error: standard errors of their logarithms; None where one prompt is all there is.
        freedom: degrees of freedom of the errors.
        prompts, launches: what they rest on.
        between_launches: standard deviation of log(value) from process to process beyond what its generations explain;
            None with one launch, which cannot tell.
        rounds: repeats in all launches together, of the prompt that has most.
        uneven: standard deviation of the prompts' log ratios beyond their noise; None with one round, which cannot tell.
    """

    value: float
    mean: float
    log_error: float | None
    mean_log_error: float | None
    freedom: float
    prompts: int
    launches: int
    between_launches: float | None
    uneven: float | None = None
    rounds: int = 1

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Of ``value``; None with one prompt."""
        return _interval(self.value, self.log_error, self.freedom, level)

    def mean_interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Of ``mean``; None with one prompt."""
        return _interval(self.mean, self.mean_log_error, self.freedom, level)

    def p_above(self, bound: float) -> float:
        """One-sided p-value against "the ratio is at most ``bound``"; 1 with one prompt."""
        if self.log_error is None:
            return 1.0
        return _upper_tail(float(np.log(self.value / bound)), self.log_error, self.freedom)

    def p_below(self, bound: float) -> float:
        """One-sided p-value against "the ratio is at least ``bound``"; 1 with one prompt."""
        if self.log_error is None:
            return 1.0
        return _upper_tail(float(np.log(bound / self.value)), self.log_error, self.freedom)

    @property
    def p_differs(self) -> float:
        """Two-sided p-value against "the ratio is 1": at most 0.05 exactly where the 95 % interval excludes 1."""
        return min(1.0, 2 * min(self.p_above(1.0), self.p_below(1.0)))

    def p_equal(self, within: float) -> float:
        """Against "further than ``within`` from 1", two one-sided tests (Schuirmann 1987), doubled so that it is at
        most 0.05 exactly where the 95 % interval lies inside 1 -+ ``within``."""
        return min(1.0, 2 * max(self.p_above(1 - within), self.p_below(1 + within)))


def estimate(pairs: Pairs, seed: int = 0, extra: Sequence[LaunchSpread] = ()) -> Estimate:
    """The speedup over these pairs, with its error.

    Args:
        pairs: what both sides did; or [prompts, 1, 8], a typical round of two such pairs: the ratio of their ratios.
        seed: of the resampling.
        extra: variance from launch to launch that the pairs do not hold themselves (two runs: each has its own).
    """
    by_prompt, trust, uneven = _weighed(pairs)
    value, mean = ratio_of_sums(by_prompt), float(np.exp(trust @ _log_ratio(by_prompt) / len(trust)))
    n, launches, rounds = len(by_prompt), pairs.launches, pairs.parts.shape[1]
    if n < 2:
        return Estimate(value, mean, None, None, 0.0, n, launches, None, uneven, rounds)
    groups = _groups(pairs)
    columns = np.column_stack([by_prompt, trust * _log_ratio(by_prompt), trust])[np.concatenate(groups)]
    resampled = _resamples(tuple(len(g) for g in groups), seed) @ columns  # in one go: the weights are what is large
    variance = float(_log_ratio(resampled[:, :-2]).var(ddof=1))
    mean_variance = float((resampled[:, -2] / resampled[:, -1]).var(ddof=1))
    own = launch_spread(pairs.by_launch() * trust[:, None, None]) if launches > 1 else None
    spreads = [*([own] if own else []), *extra]
    added = sum(s.variance / s.launches for s in spreads)
    freedom = _satterthwaite(variance, _freedom(by_prompt, groups, trust), spreads)
    between = float(np.sqrt(sum(s.variance for s in spreads))) if spreads else None
    errors = float(np.sqrt(variance + added)), float(np.sqrt(mean_variance + added))
    return Estimate(value, mean, *errors, freedom, n, launches, between, uneven, rounds)


def speedup(pairs: Pairs) -> float:
    """The speedup of ``estimate``, without its error."""
    return ratio_of_sums(_weighed(pairs)[0])


def _weighed(pairs: Pairs) -> tuple[Floats, Floats, float | None]:
    """Of each prompt a typical round times its weight, the weights, and how uneven the prompts are."""
    if pairs.parts.shape[-1] != 4:
        return pairs.parts[:, 0], np.ones(len(pairs.parts)), None
    trust, uneven = pairs.trust()
    return pairs.by_prompt() * trust[:, None], trust, uneven


def ratio_of_sums(by_prompt: Floats) -> float:
    """Of [prompts, columns] as in ``Pairs``, every prompt as it is: our speed over the baseline's."""
    return float(np.exp(_log_ratio(by_prompt.sum(axis=0))))


@dataclass(frozen=True, slots=True)
class LaunchSpread:
    """How much the log of a ratio varies from launch to launch.

    Args:
        variance: beyond what the generations' own spread explains; 0 where they explain it (F test at LAUNCHES_DIFFER).
        raw: all of it.
        launches: how many there were.
    """

    variance: float
    raw: float
    launches: int


def launch_spread(parts: Floats, level: float = LAUNCHES_DIFFER) -> LaunchSpread | None:
    """From the prompts that every launch has, [prompts, launches, columns] as in ``Pairs``; None below 2 of either.

    Args:
        level: p-value below which launches are taken to differ; 1 where the sides did not run in turns.
    """
    from scipy.special import fdtrc

    whole = parts[(parts[..., 1] > 0).all(axis=1)]
    prompts, launches = whole.shape[:2]
    if launches < 2 or prompts < 2:
        return None
    influence = _without_bursts(_influence(whole) * launches)
    raw = float(influence.sum(axis=0).var(ddof=1))
    rest = influence - influence.mean(axis=1, keepdims=True) - influence.mean(axis=0) + influence.mean()
    noise = prompts * float((rest**2).sum()) / ((prompts - 1) * (launches - 1))
    freedom = float(launches - 1)
    if raw < _ROUNDING:
        return LaunchSpread(0.0, raw, launches)
    beyond = raw > noise and fdtrc(freedom, freedom * (prompts - 1), raw / noise) < level if noise else raw > 0
    return LaunchSpread(raw - noise if beyond else 0.0, raw, launches)


def _without_bursts(influence: Floats) -> Floats:
    """[prompts, launches], what stands far from its prompt's median cut to ``_FAR`` (Huber's psi): a burst in one
    generation is no property of its launch, and would both hide and feign one."""
    middle = np.median(influence, axis=1, keepdims=True)
    away = influence - middle
    reach = _FAR * float(np.median(np.abs(away[away != 0]))) if away.any() else 0.0
    return np.asarray(middle + np.clip(away, -reach, reach))


def _satterthwaite(variance: float, freedom: float, spreads: Sequence[LaunchSpread]) -> float:
    """Degrees of freedom of the prompts' variance and the launches' added up (those of launches that matter)."""
    counted = [s for s in spreads if s.variance > 0]
    if not counted:
        return freedom
    total = variance + sum(s.variance / s.launches for s in counted)
    parts = variance**2 / freedom + sum((s.raw / s.launches) ** 2 / (s.launches - 1) for s in counted)
    return max(1.0, total**2 / parts)


def _groups(pairs: Pairs) -> list[Any]:
    """Indices of the prompts by workload; workloads with a single prompt share one group, or join the largest."""
    strata = np.asarray(pairs.strata)
    counts = Counter(pairs.strata)
    alone = [i for i, s in enumerate(pairs.strata) if counts[s] == 1]
    groups = [np.flatnonzero(strata == s) for s in counts if counts[s] > 1]
    if len(alone) == 1 and groups:
        largest = max(range(len(groups)), key=lambda g: len(groups[g]))
        groups[largest] = np.concatenate([groups[largest], alone])
    elif alone:
        groups.append(np.array(alone))
    return groups


@lru_cache(maxsize=32)
def _resamples(sizes: tuple[int, ...], seed: int) -> Floats:
    """Weights of the prompts, group after group, in each resample: float64 [RESAMPLES, prompts]."""
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(n - 1, np.full(n, 1.0 / n), size=RESAMPLES) * (n / (n - 1)) for n in sizes]
    return np.ascontiguousarray(np.concatenate(drawn, axis=1), np.float64)


_SIGNS = np.array([1.0, -1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0])
"""Of the logarithms of Pairs.parts: tokens, seconds, base tokens, base seconds; then a second ratio to divide by."""


def _log_ratio(parts: Floats) -> Floats:
    """Log of the ratio of speeds, of [..., 4] or (ratio of two ratios) [..., 8]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(parts)
    return np.asarray(logs @ _SIGNS[: parts.shape[-1]])


def _influence(parts: Floats) -> Floats:
    """What each entry of [..., columns] adds to the log ratio of the sums, to first order."""
    columns = parts.shape[-1]
    sums = parts.reshape(-1, columns).sum(axis=0)
    return np.asarray((parts / sums) @ _SIGNS[:columns])


def _freedom(by_prompt: Floats, groups: list[Any], trust: Floats) -> float:
    """Satterthwaite's degrees of freedom of the variance added up over the groups; prompts of uneven weight count as
    fewer (Kish 1965)."""
    influence = _influence(by_prompt)
    variances = np.array([len(g) * float(influence[g].var(ddof=1)) for g in groups])
    each = np.array([max(1.0, trust[g].sum() ** 2 / float(trust[g] @ trust[g]) - 1) for g in groups])
    total = float(variances.sum())
    return total**2 / float((variances**2 / each).sum()) if total > 0 else float(each.sum())


def _interval(value: float, error: float | None, freedom: float, level: float) -> tuple[float, float] | None:
    from scipy.special import stdtrit

    if error is None:
        return None
    reach = float(np.exp(stdtrit(freedom, 0.5 + level / 2) * error)) if error > 0 else 1.0
    return value / reach, value * reach


def _upper_tail(distance: float, error: float, freedom: float) -> float:
    """P(T > distance / error) under Student's t; an error of 0 decides outright."""
    from scipy.special import stdtr

    if error <= 0:
        return 0.5 if abs(distance) < 1e-12 else float(distance < 0)
    return float(stdtr(freedom, -distance / error))
