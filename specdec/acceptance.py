"""What verification kept of the drafts: acceptance rate, mean acceptance length, acceptance by position."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.store import Sample


def acceptance(generations: list[Sample]) -> dict[str, Any]:
    """Counters over all steps of all generations, the part of a row that they make. Undefined is None."""
    if any(s["steps"] is None for s in generations):
        return _totals(generations)
    drafted = np.array([*chain.from_iterable(s["steps"]["drafted"] for s in generations)], np.int64)
    accepted = np.array([*chain.from_iterable(s["steps"]["accepted"] for s in generations)], np.int64)
    drafting = drafted > 0
    steps, n_drafted, n_accepted = len(drafted), int(drafted.sum()), int(accepted.sum())
    return {
        "drafted": n_drafted,
        "accepted": n_accepted,
        "target_passes": steps,
        "drafting_steps": int(drafting.sum()),
        "redecoded": sum(s["n_redecoded"] for s in generations),
        "acceptance_rate": _divide(n_accepted, n_drafted),
        "mean_acceptance_length": _divide(n_accepted + steps, steps),
        "mean_acceptance_length_drafting": _divide(int(accepted[drafting].sum() + drafting.sum()), int(drafting.sum())),
        "acceptance_by_position": _by_position(drafted, accepted),
        "conditional_acceptance": _conditional(drafted, accepted),
        "accepted_lengths": np.bincount(accepted[drafting]).tolist() if drafting.any() else [],
        "drafted_by": dict(
            Counter(
                n
                for s in generations
                if any(s["steps"]["note"])
                for n, d in zip(s["steps"]["note"], s["steps"]["drafted"], strict=True)
                if n and d
            )
        ),
    }


def draft_totals(sample: Sample) -> tuple[int, int]:
    """(drafted, accepted) of a generation, from its steps or, where a server told totals alone, from those."""
    steps = sample["steps"] or sample
    return int(np.sum(steps["drafted"])), int(np.sum(steps["accepted"]))


def _totals(ok: list[Sample]) -> dict[str, Any]:
    """The same of generations that come without steps: what only steps can tell is None."""
    drafted, accepted = (sum(draft_totals(s)[i] for s in ok) for i in (0, 1))
    steps = _known([s["target_passes"] for s in ok])
    drafting = _known([s["n_drafting"] for s in ok])
    return {
        "drafted": drafted,
        "accepted": accepted,
        "target_passes": steps,
        "drafting_steps": drafting,
        "redecoded": None,
        "acceptance_rate": _divide(accepted, drafted),
        "mean_acceptance_length": steps and _divide(accepted + steps, steps),
        "mean_acceptance_length_drafting": drafting and _divide(accepted + drafting, drafting),
        **dict.fromkeys(("acceptance_by_position", "conditional_acceptance", "accepted_lengths", "drafted_by")),
    }


def _known(counts: list[int | None]) -> int | None:
    """Their sum; None where one of them is not known."""
    return None if None in counts else sum(c for c in counts if c is not None)


def _by_position(drafted: npt.NDArray[np.int64], accepted: npt.NDArray[np.int64]) -> list[float]:
    """accepted at i / proposed at i, for i = 1 .. the longest draft."""
    longest = int(drafted.max(initial=0))
    return [float((accepted >= i).sum() / (drafted >= i).sum()) for i in range(1, longest + 1)]


def _conditional(drafted: npt.NDArray[np.int64], accepted: npt.NDArray[np.int64]) -> list[float | None]:
    """Of the drafts that had a token i and whose token i-1 was accepted, the share whose token i was: from i = 2 on."""
    longest = int(drafted.max(initial=0))
    return [
        _divide(int((accepted >= i).sum()), int(((accepted >= i - 1) & (drafted >= i)).sum()))
        for i in range(2, longest + 1)
    ]


def _divide(a: float, b: float) -> float | None:
    return a / b if b else None
