"""Whether repetition agrees with itself: what the intervals alone do not tell, and the command that settles it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from specdec.command import compare_command
from specdec.store import Sample

SPREAD = 0.05
"""Repeats of one prompt that spread more than this (pooled standard deviation of tok/s) are told."""
SETTLING = 3


def unsteady(samples: Iterable[Sample], spec: Mapping[str, Any]) -> list[str]:
    """One line for each thing that did not hold still from repeat to repeat or from launch to launch.

    Repeats and launches of a prompt under one arm should take the same time a token (greedy: the same text). Their
    standard deviations are pooled over the prompts, within launches and between them.

    Args:
        samples: of one run; warm-ups and failures are ignored. Read: engine, strategy, rollback, prompt, turn, launch,
            token_ids, generation_s.
        spec: the run's options, for the command that would settle it.
    """
    cells: dict[tuple[object, ...], dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
    texts: dict[tuple[object, ...], set[int]] = defaultdict(set)
    for s in samples:
        if not s["warmup"] and s["status"] == "ok" and s["generation_s"]:  # null in a replay without costs
            cell = s.get("engine", "specdec"), s["strategy"], s["rollback"], s["prompt"], s["turn"]
            texts[cell].add(hash(tuple(s["token_ids"])))
            cells[cell][s.get("launch", 0)].append(float(np.log(len(s["token_ids"]) / s["generation_s"])))
    repeated = [(cell, np.array(v)) for cell, by in cells.items() for v in by.values() if len(v) > 1]
    launched = [(cell, np.array([np.mean(v) for v in by.values()])) for cell, by in cells.items() if len(by) > 1]
    lines = []
    for what, found in (("Repeats", repeated), ("Launches", launched)):
        if not found:
            continue
        spread = _pooled([v for _, v in found])
        if spread > SPREAD:
            where, worst = max(found, key=lambda item: float(item[1].std(ddof=1)))
            same = len(texts[where]) == 1
            cause = (
                "Something else used the machine" if same else "The texts differ, or something else used the machine"
            )
            lines.append(
                f"{what} of the same prompt spread by {spread:.0%} (the most: {where[3]} under {where[1]}, {_span(worst)})."
                f" {cause}. End other programs, then{_settling(spec)}"
            )
    return lines


def again(spec: Mapping[str, Any]) -> str | None:
    """The command of a run, with more repeats and launches: at least three of each, more than it had.

    None for a run of a group, which no command makes alone. A quick run, which asks each strategy once a prompt, is
    asked for as a whole one on the same prompts.
    """
    if spec.get("group"):
        return None
    had = {name: int(spec.get(name) or 1) for name in ("repeats", "launches")}
    more = {name: SETTLING if n < SETTLING else 2 * n for name, n in had.items()}
    return compare_command({**spec, **more, "quick": False})


def _settling(spec: Mapping[str, Any]) -> str:
    command = again(spec)
    return f": {command}" if command else " run the whole group once more."


def _pooled(groups: list[Any]) -> float:
    squares = sum(float(((g - g.mean()) ** 2).sum()) for g in groups)
    return float(np.sqrt(squares / sum(len(g) - 1 for g in groups)))


def _span(logs: Any) -> str:
    return f"{np.exp(logs.min()):.1f}-{np.exp(logs.max()):.1f} tok/s"
