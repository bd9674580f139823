"""A run as one HTML file that asks the network for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from specdec.metrics import ALL, BASELINE
from specdec.report.html import about, sections
from specdec.report.html.facts import Facts
from specdec.report.html.pictures import PICTURES, draw
from specdec.report.html.template import Shown, shown
from specdec.report.html.template import render as fill
from specdec.report.tokens import TokenView, find_pieces, view

_MOST_TEXTS = 4
_MOST_TOKENS = 512
_TABLES = {"speedup": [sections.speed, sections.engines], "verify-cost": [sections.standings, sections.curve],
           "phases": [sections.phase_seconds], "prediction": [sections.predictions]}  # fmt: skip
"""Tables that belong to a picture."""


def render(f: Facts, target: str = "") -> str:
    """The page. ``target``: the GGUF of the run's target, for the texts of tokens, if it lies elsewhere now."""
    meta = f.run.meta
    texts = list(_texts(f, target))
    return fill(
        "run",
        f"{meta['model']['file']} on {meta['labels']['card']}, {f.run.id}",
        f"run {f.run.id}",
        run=f.run,
        meta=meta,
        labels=meta["labels"],
        card_kind=about.card_kind(meta),
        shown=[s for name in PICTURES if (s := _shown(name, f))],
        facts=f,
        head=_head(f),
        texts=texts,
        sources=_colors(texts),
        most_tokens=_MOST_TOKENS,
        sections=sections,
        about=about,
    )


def _shown(name: str, f: Facts) -> Shown | None:
    picture = draw(name, f)
    return None if picture is None else shown(picture, [make(f) for make in _TABLES.get(name, [])])


def _head(f: Facts) -> list[tuple[str, str]]:
    """The run in a few facts."""
    meta, labels = f.run.meta, f.run.meta["labels"]
    facts: list[tuple[str, Any]] = [
        ("model", f"{meta['model']['file']} ({meta['model']['description']})"),
        ("card", labels["card"]),
        ("processor", meta.get("environment", {}).get("cpu")),
        ("text", f"{len(meta['prompts'])} prompts, up to {meta['spec']['n_predict']} tokens, {labels['sampling']}"),
        ("context", f"{meta['context']['n_ctx']:,} tokens, {meta['context']['threads']} threads"),
        ("taken", str(meta.get("started_at", ""))[:16].replace("T", " ")),
        ("run", f.run.id),
    ]
    return [(k, str(v)) for k, v in facts if v]


def _texts(f: Facts, target: str) -> Iterator[TokenView]:
    """A few generations: on each workload the one with the most accepted tokens, of
    another strategy each time where it has half as many."""
    if f.run.meta.get("redacted"):
        return
    pieces, seen = find_pieces(f.run, target), set()
    numbers = {id(s): i for i, s in enumerate(f.run.samples, 1)}
    for workload in [w for w in f.workloads if w != ALL][:_MOST_TEXTS]:
        own = [
            s
            for s in f.measured
            if s["workload"] == workload and s["steps"] and s["text"] and s["strategy"] != BASELINE
        ]
        share = {id(s): sum(s["steps"]["accepted"]) / max(1, len(s["token_ids"])) for s in own}
        most = max(share.values(), default=0.0)
        fresh = [s for s in own if s["strategy"] not in seen and share[id(s)] > most / 2] or own
        if most:
            best = max(fresh, key=lambda s: share[id(s)])
            seen.add(best["strategy"])
            yield view(f.run, numbers[id(best)], pieces)


def _colors(texts: list[TokenView]) -> dict[str, int]:
    """A colour for each strategy that drafted in the texts."""
    sources = dict.fromkeys(step.source for t in texts for step in t.steps if step.drafted)
    return {name: 1 + i % 8 for i, name in enumerate(sources)}
