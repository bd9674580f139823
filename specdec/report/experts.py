"""Distinct experts of a profile's passes, beside what independent choices would need."""

from __future__ import annotations

import numpy as np

from specdec.profile.stored import Profile


def uniform_law(experts: int, used: int, tokens: int) -> float:
    """Distinct experts that ``tokens`` tokens need if each chooses ``used`` of ``experts`` independently and evenly:
    E (1 - (1 - k/E)^n)."""
    return experts * (1 - (1 - used / experts) ** tokens)


def expert_columns(profile: Profile, depth: int, lengths: list[int]) -> tuple[list[list[str]], list[str]]:
    """Cells for each length, and the columns' heads; empty where nothing was counted."""
    counts: dict[int, list[float]] = {}
    for line in profile.lines("experts"):
        if line["depth"] == depth:
            counts.setdefault(line["n"], []).append(float(np.mean(line["distinct"])))
    if not counts:
        return [[] for _ in lengths], []
    model = profile.meta["model"]
    law = [f"{uniform_law(model['experts'], model['experts_used'], n):.1f}" for n in lengths]
    cells = [[f"{np.mean(counts[n]):.1f}" if n in counts else "", law[i]] for i, n in enumerate(lengths)]
    return cells, ["experts", "uniform"]


def expert_notes(profile: Profile) -> list[str]:
    """What the columns mean, and what counting cost."""
    lines = [line for line in profile.lines("experts") if line["n"] == 1]
    if not lines:
        return []
    model = profile.meta["model"]
    counted = float(np.median([line["seconds"] for line in lines if line["depth"] == profile.depths[0]]))
    points = profile.plain()[profile.depths[0]].verify_points
    plain = (points[True] or points[False])[1].median
    return [
        f"experts: distinct experts of a layer and pass, mean over {len(lines[0]['distinct'])} layers; uniform: what"
        f" independent even choices of {model['experts_used']} of {model['experts']} would need. Counting made a pass over"
        f" 1 token {counted / plain:.2f} times as long; the times above are without it."
    ]
