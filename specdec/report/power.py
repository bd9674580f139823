"""One note under a table: how small a difference it could have shown, and what it takes to show less."""

from __future__ import annotations

from specdec.report.names import row_name
from specdec.stats.power import POWER, WANTED
from specdec.types import Row


def could_find(total: list[Row]) -> list[str]:
    """Lines of the rows ``all``: the differences that would have been found, and the run that finds ``WANTED``."""
    known = [r for r in total if r["smallest_effect"] is not None]
    if not known:
        return []
    found = ", ".join(f"{row_name(r)} {_percent(r['smallest_effect'])}" for r in known)
    lines = [f"This table would have shown, about {POWER * 100:.0f} times of 100, a difference over all of: {found}."]
    plans = [r["needs"] for r in known if r["needs"]]
    rounds = [p for p in plans if "launches" in p]
    if rounds:
        launches, repeats = max(p["launches"] for p in rounds), max(p["repeats"] for p in rounds)
        more = f" --repeats {repeats}" if repeats > 1 else ""
        first = any(r["uneven"] is None for r in known)
        guess = ", a first guess: one round does not tell noise from prompts" if first else ""
        lines.append(f"To find {WANTED:.0%}: --launches {launches}{more}{_but(len(rounds), len(plans))}{guess}.")
    elif plans:
        prompts = max(p["prompts"] for p in plans)
        lines.append(f"To find {WANTED:.0%}, about {prompts:,} prompts: more rounds of these will not do.")
    if restless := [row_name(r) for r in known if not r["needs"] and r["smallest_effect"] > WANTED]:
        lines.append(f"Launches differ too much to plan for {WANTED:.0%}: {', '.join(restless)}.")
    return lines


def _but(rounds: int, plans: int) -> str:
    """Where rounds serve some of the strategies only."""
    return "" if rounds == plans else f" (for {rounds} of {plans} strategies; the others need more prompts)"


def _percent(effect: float) -> str:
    return f"{effect:.1%}" if effect < 0.1 else f"{effect:.0%}"
