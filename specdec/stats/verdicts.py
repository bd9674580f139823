"""Verdicts over a whole table, with the share of false ones kept down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specdec.stats.bootstrap import Estimate
from specdec.stats.pairs import Floats

FALSE_DISCOVERIES = 0.05
"""Of the verdicts faster, slower (and, apart, equal) in a table, the expected share that is false is at most this."""
EQUAL_WITHIN = 0.02
FEWEST_PROMPTS = 5
"""Below this many prompts no verdict is given: so few say nothing of other prompts."""

FASTER, SLOWER, EQUAL = "faster", "slower", "equal within 2 %"
NONE_SHOWN, CANNOT_TELL = "no difference shown", "cannot tell"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One of the five verdicts, and the p-values behind it: of "no difference", alone and corrected for the table."""

    text: str
    p: float | None
    p_corrected: float | None


def judge(table: Sequence[Estimate | None]) -> list[Verdict | None]:
    """The verdicts of a table's comparisons; None where there is no estimate.

    Differences and equalities are each corrected over all comparisons of the table that have enough prompts
    (Benjamini & Hochberg 1995; it also holds for rows that depend on each other positively, as those that share a
    baseline do: Benjamini & Yekutieli 2001).
    A comparison that is both shown to differ and shown to be within 2 % is ``equal within 2 %``.
    """
    fit = [i for i, e in enumerate(table) if e is not None and e.prompts >= FEWEST_PROMPTS and e.log_error is not None]
    known = [e for i in fit if (e := table[i]) is not None]
    differs, equal = [e.p_differs for e in known], [e.p_equal(EQUAL_WITHIN) for e in known]
    out: list[Verdict | None] = [None if e is None else Verdict(CANNOT_TELL, None, None) for e in table]
    if not fit:
        return out
    corrected = corrected_p(differs), corrected_p(equal)
    for i, e, p, q, q_equal in zip(fit, known, differs, *corrected, strict=True):
        out[i] = Verdict(_text(e.value, float(q), float(q_equal)), p, float(q))
    return out


def corrected_p(p: Sequence[float]) -> Floats:
    """Of p-values of one table: the smallest rate of false discoveries at which each would be one (Benjamini & Hochberg
    1995). Four lines, where importing scipy.stats for its function takes longer than most reports."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values)
    scaled = values[order] * len(values) / np.arange(1, len(values) + 1)
    out = np.empty_like(values)
    out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return out


def _text(value: float, q: float, q_equal: float) -> str:
    if q_equal <= FALSE_DISCOVERIES:
        return EQUAL
    if q <= FALSE_DISCOVERIES:
        return FASTER if value > 1 else SLOWER
    return NONE_SHOWN
