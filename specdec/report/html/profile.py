"""A profile as one HTML file: what a target pass costs, and what drafting, rolling back and reading prompts cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from specdec.profile.jumps import jumps, sentences
from specdec.profile.plan import sweeps
from specdec.profile.stored import Profile
from specdec.report import profile as tables
from specdec.report.html import about, profile_pictures
from specdec.report.html.about import Table
from specdec.report.html.style import Picture, drawing
from specdec.report.html.template import render as fill
from specdec.report.html.template import shown

PICTURES: dict[str, Callable[[Profile], Picture | None]] = {
    "curve": profile_pictures.curve,
    "break-even": profile_pictures.break_even,
    "drafting": profile_pictures.drafting,
    "rollback": profile_pictures.rollback,
    "prompts": profile_pictures.prompts,
}
"""By name, in the order of the page."""


def draw(name: str, profile: Profile) -> Picture | None:
    """One picture in the project's style."""
    with drawing():
        return PICTURES[name](profile)


def render(profile: Profile) -> str:
    """The page."""
    meta = profile.meta
    return fill(
        "profile",
        f"profile of {meta['model']['file']} on {meta['labels']['card']}, {profile.id}",
        f"profile {profile.id}",
        profile=profile,
        meta=meta,
        labels=meta["labels"],
        card_kind=about.card_kind(meta),
        head=_head(profile),
        best=_table(tables.best_table(profile), 1),
        steps=sentences(jumps(profile)),
        warnings=tables.unsteady(profile),
        shown=[shown(p, _tables(name, profile)) for name in PICTURES if (p := draw(name, profile))],
        notes=tables.notes(profile),
        about=about,
    )


def _tables(name: str, profile: Profile) -> list[Table]:
    """Those of a picture."""
    if name == "curve":
        many = len({k.threads for k in profile.costs}) > 1
        found = [_table(tables.curve_table(profile, d), 0, f"At {d:,} tokens of context") for d in profile.depths]
        return [*found, _table(tables.threads_table(profile), 0, "By threads, ms")] if many else found
    own: dict[str, Callable[[Profile], tables.Cells]] = {
        "drafting": tables.drafting_table,
        "rollback": tables.checkpoint_table,
        "prompts": tables.prompt_table,
    }
    return [_table(own[name](profile), 1)] if name in own else []


def _table(of: tables.Cells, numbers: int, title: str = "") -> Table:
    cells, heads = of
    return Table(heads, cells, numbers, title=title)


def _head(profile: Profile) -> list[tuple[str, str]]:
    """The profile in a few facts."""
    meta = profile.meta
    facts: list[tuple[str, Any]] = [
        ("model", f"{meta['model']['file']} ({meta['model']['description']})"),
        ("card", meta["labels"]["card"]),
        ("processor", meta["environment"].get("cpu")),
        ("context", f"{meta['context']['n_ctx']:,} tokens, {profile.threads} threads"),
        ("measured", f"{meta['spec']['repeats']} rounds in {sweeps(meta['spec']['repeats'])} sweeps"),
        ("taken", str(meta.get("started_at", ""))[:16].replace("T", " ")),
        ("profile", profile.id),
    ]
    return [(k, str(v)) for k, v in facts if v]
