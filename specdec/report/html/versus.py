"""Two runs against each other as one HTML file: ratios with their intervals, and what differs around them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from specdec.metrics import ALL, BASELINE
from specdec.report.html import about
from specdec.report.html.about import Table
from specdec.report.html.facts import MOST_SHOWN
from specdec.report.html.forest import HOW_TO_READ, Bar, decided, forest, in_words
from specdec.report.html.style import Picture, drawing
from specdec.report.html.template import render as fill
from specdec.report.html.template import shown
from specdec.report.names import row_name
from specdec.types import Row
from specdec.versus import Versus, finished


def speedups(v: Versus) -> Picture | None:
    """B's speedup over A's, each against plain decoding of its own run."""
    return _picture(
        v,
        ("speedups", "B's speedups over A's", "speedup_ratio", "speedup_verdict"),
        "Each run's speedup against plain decoding of its own: what a machine does to every strategy cancels. Right of 1:"
        " the strategy wins more in B than in A. A verdict takes several launches of both, and a steady machine.",
    )


def speeds(v: Versus) -> Picture | None:
    """B's tok/s over A's."""
    return _picture(
        v,
        ("speeds", "B's speed over A's", "ratio", "verdict"),
        "Tokens a second on the same prompts. Right of 1: faster in B. Nothing alternated in time between the two runs, so"
        " a verdict takes several launches of both.",
    )


PICTURES: dict[str, Callable[[Versus], Picture | None]] = {"speeds": speeds, "speedups": speedups}
"""By name, in the order of the page."""

_TABLES: dict[str, tuple[str, ...]] = {
    "speeds": ("tok_s_a", "tok_s_b", "ratio", "verdict"),
    "speedups": ("speedup_a", "speedup_b", "speedup_ratio", "speedup_verdict"),
}
"""Of each picture's table: what A had, what B had, their ratio, its verdict."""


def draw(name: str, v: Versus) -> Picture | None:
    """One picture in the project's style."""
    with drawing():
        return PICTURES[name](v)


def render(v: Versus) -> str:
    """The page."""
    meta = v.b.meta
    return fill(
        "versus",
        f"{v.b.id} over {v.a.id}",
        f"runs {v.a.id} (A) and {v.b.id} (B)",
        v=v,
        meta=meta,
        labels=meta["labels"],
        head=_head(v),
        sentences=_sentences(v),
        warnings=[*v.lines, *finished([v.a, v.b])],
        shown=[shown(p, [_table(v, *_TABLES[name])]) for name in PICTURES if (p := draw(name, v))],
        settings=about.differences(v.settings),
        environment=about.differences(v.environment),
        about=about,
        sides=[("A", v.a.meta), ("B", v.b.meta)],
    )


def _picture(v: Versus, named: tuple[str, str, str, str], caption: str) -> Picture | None:
    name, title, key, verdict = named
    arms = list(dict.fromkeys(row_name(r) for r in v.rows if r["strategy"] != BASELINE))[:MOST_SHOWN]
    groups = []
    for workload, rows in groupby((r for r in v.rows if r[key] is not None), key=lambda r: r["workload"]):
        bars = [_bar(r, arms, key, verdict) for r in rows if r["strategy"] == BASELINE or row_name(r) in arms]
        if bars:
            groups.append((workload, bars))
    if not groups:
        return None
    label = "run B over run A (log scale)"
    return Picture(name, title, forest(groups, label), f"{title}. {in_words(groups)}", f"{caption} {HOW_TO_READ}")


def _bar(row: Row, arms: list[str], key: str, verdict: str) -> Bar:
    number = 0 if row["strategy"] == BASELINE else 1 + arms.index(row_name(row))
    return Bar(row_name(row), number, row[key], row[f"{key}_low"], row[f"{key}_high"], decided(row[verdict]))


def _table(v: Versus, of_a: str, of_b: str, key: str, verdict: str) -> Table:
    cells = []
    for r in v.rows:
        if r[key] is not None:
            low, high = r[f"{key}_low"], r[f"{key}_high"]
            interval = "" if low is None else f"{low:.2f} to {high:.2f}"
            values = [f"{r[k]:.2f}" for k in (of_a, of_b, key)]
            cells.append([r["workload"], row_name(r), str(r["prompts"]), *values, interval, r[verdict] or ""])
    return Table(["workload", "strategy", "prompts", "A", "B", "B/A", "95 %", "verdict on B"], cells)


def _sentences(v: Versus) -> list[str]:
    """Of each strategy over all workloads: speed, and speedup."""
    lines = []
    for r in (r for r in v.rows if r["workload"] == ALL):
        line = f"{row_name(r)}: {r['tok_s_b']:.4g} tok/s in B, {r['tok_s_a']:.4g} in A: {_ratio(r, 'ratio')}"
        line += f", {r['verdict']}"
        if r["speedup_ratio"] is not None:
            line += f"; speedup {r['speedup_b']:.2f} and {r['speedup_a']:.2f}: {_ratio(r, 'speedup_ratio')}"
            line += f", {r['speedup_verdict']}"
        lines.append(f"{line}.")
    return lines


def _ratio(r: Row, key: str) -> str:
    low, high = r[f"{key}_low"], r[f"{key}_high"]
    return f"{r[key]:.2f} times" + ("" if low is None else f" (95 %: {low:.2f} to {high:.2f}, {r['prompts']} prompts)")


def _head(v: Versus) -> list[tuple[str, str]]:
    """Both runs in a few facts."""
    facts: list[tuple[str, Any]] = []
    for side, run in (("A", v.a), ("B", v.b)):
        taken = str(run.meta.get("started_at", ""))[:16].replace("T", " ")
        facts.append((f"run {side}", f"{run.id}, {taken}"))
        facts.append((f"{side}: model, card", f"{run.meta['model']['file']} on {run.meta['labels']['card']}"))
    return [(k, str(value)) for k, value in facts]
