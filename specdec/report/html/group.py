"""The runs of one ``--card`` command as one HTML file: both arms on each card, and what memory they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from specdec.groups import cards_of, group_rows
from specdec.report import group as tables
from specdec.report.answers import Answer, card_answers
from specdec.report.cards import CAPACITY_ONLY
from specdec.report.html import about, cards
from specdec.report.html.about import Table
from specdec.report.html.style import Picture, drawing
from specdec.report.html.template import render as fill
from specdec.report.html.template import shown
from specdec.report.names import row_name, split_name
from specdec.store import Run
from specdec.types import Row

PICTURES: dict[str, Callable[[list[Run]], Picture | None]] = {"frontier": cards.frontier, "memory": cards.memory}
"""By name, in the order of the page."""


@dataclass
class OnCard:
    """What the page says of one card."""

    card: str
    rows: list[Row]

    @cached_property
    def answers(self) -> list[Answer]:
        """At the same split, at the same VRAM."""
        return card_answers(self.rows)

    @property
    def tables(self) -> list[tuple[str, Table]]:
        """Both arms, each with its caption."""
        at = self.rows[0]["same_split"]
        split = split_name(at["n_cpu_moe"], at["gpu_layers"])
        cells, heads = tables.same_vram_table(self.rows)
        displaced = {row_name(r): r["displaced"] for r in self.rows}
        costs = [displaced.get(row[0]) for row in cells]
        cells = [[*row, "" if c is None else f"{c:.2f}"] for row, c in zip(cells, costs, strict=True)]
        note = "displaced: `none` at the strategy's split over `none` at its own: what the layers cost that make room."
        return [
            (f"Same split, {split}", _table(tables.same_split_table(self.rows), 1)),
            ("Same VRAM", Table([*heads, "displaced"], cells, 1, note.replace("`", ""))),
        ]


def draw(name: str, runs: list[Run]) -> Picture | None:
    """One picture in the project's style."""
    with drawing():
        return PICTURES[name](runs)


def render(runs: list[Run], planned: int = 0) -> str:
    """The page."""
    meta = runs[0].meta
    rows = group_rows(runs)
    on_cards = [OnCard(card, [r for r in rows if r["card"] == card]) for card in cards_of(runs)]
    return fill(
        "group",
        f"{meta['model']['file']} on {', '.join(c.card for c in on_cards)}, {meta['group']}",
        f"group {meta['group']}",
        meta=meta,
        labels=meta["labels"],
        runs=_runs(runs),
        cards=[c for c in on_cards if c.rows],
        kinds=dict.fromkeys(kind for run in runs if (kind := about.card_kind(run.meta))),
        shown=[shown(p) for name in PICTURES if (p := draw(name, runs))],
        head=_head(runs),
        failures=tables.warnings(runs, planned),
        notes=[n.replace("`", "") for n in (*tables.notes(runs), CAPACITY_ONLY)],
        about=about,
    )


def _head(runs: list[Run]) -> list[tuple[str, str]]:
    """The group in a few facts."""
    meta = runs[0].meta
    limits = {r.meta["labels"]["card"]: (r.meta.get("cap") or {}).get("vram_limit_mib") for r in runs}
    facts: list[tuple[str, Any]] = [
        ("model", f"{meta['model']['file']} ({meta['model']['description']})"),
        *((card, f"{limit:,} MiB for one process") for card, limit in limits.items() if limit),
        ("processor", meta.get("environment", {}).get("cpu")),
        ("text", f"{len(meta['prompts'])} prompts, up to {meta['spec']['n_predict']} tokens"),
        ("context", f"{meta['context']['n_ctx']:,} tokens, {meta['context']['threads']} threads"),
        ("taken", str(meta.get("started_at", ""))[:16].replace("T", " ")),
        ("group", f"{meta['group']}, {len(runs)} runs"),
    ]
    return [(k, str(v)) for k, v in facts if v]


def _runs(runs: list[Run]) -> Table:
    """What each run of the group is, and how it is read."""
    cells = []
    for run in runs:
        labels = run.meta["labels"]
        card, strategies = cards.short_card(labels["card"]), run.meta["spec"]["strategies"].replace(",", ", ")
        cells.append([card, labels["arm"], strategies, f"specdec report {run.id}"])
    return Table(["card", "arm", "strategies", "its own report"], cells, 3)


def _table(of: tuple[list[list[str]], list[str]], numbers: int) -> Table:
    cells, heads = of
    return Table(heads, cells, numbers)
