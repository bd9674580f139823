"""The tables of a profile."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson
from tabulate import tabulate

from specdec.profile.costs import Costs
from specdec.profile.jumps import jumps, sentences
from specdec.profile.plan import TEXT, sweeps
from specdec.profile.predict import expect, lengths_of
from specdec.profile.stored import Key, Profile
from specdec.profile.summary import checkpoints, draft_costs, prompt_speeds, sweep_medians
from specdec.report.experts import expert_columns, expert_notes
from specdec.store import Run

Cells = tuple[list[list[str]], list[str]]
"""Rows of a table, and its heads."""
ACCEPTANCE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_UNSTEADY = 0.05


def as_text(run: Run) -> str:
    """The whole profile as plain text."""
    return _report(Profile(run), "simple")


def as_markdown(run: Run) -> str:
    """The whole profile as Markdown."""
    return _report(Profile(run), "pipe")


def as_json(run: Run) -> str:
    """One object: the curves by setting and depth, break-even and best speedup by strategy and draft length."""
    profile = Profile(run)
    body = {
        "run_id": run.id,
        "status": run.meta["status"],
        "labels": run.meta["labels"],
        "curves": [_curve_json(key, depth, c) for key, depths in profile.costs.items() for depth, c in depths.items()],
        "best": _objects(*best_table(profile)),
        "drafting": _objects(*drafting_table(profile)),
        "jumps": [asdict(jump) for jump in jumps(profile)],
    }
    return orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()


def _objects(cells: list[list[str]], heads: list[str]) -> list[dict[str, str]]:
    return [dict(zip(heads, row, strict=True)) for row in cells]


def _curve_json(key: Key, depth: int, costs: Costs) -> dict[str, Any]:
    points = [
        {"tokens": n, "same_length": same, "median_s": s.median, "low_s": s.low, "high_s": s.high, "n": s.n}
        for same, curve in costs.verify_points.items()
        for n, s in curve.items()
    ]
    names = {"strategy": key.strategy, "rollback": key.mode, "snapshots": key.snapshots, "threads": key.threads}
    return {**names, "depth": depth, "verify": points}


def _report(profile: Profile, style: str) -> str:
    parts = [_head(profile)]
    for depth in profile.depths:
        parts.append(_section(f"Verify cost curve at {depth:,} tokens of context", *curve_table(profile, depth), style))
    if len({k.threads for k in profile.costs}) > 1:
        parts.append(_section("By threads: target pass, ms", *threads_table(profile), style))
    if profile.strategies:
        best = "Best speedup possible (draft length), by acceptance"
        parts.append(_section("Drafting, ms a step", *drafting_table(profile), style))
        parts.append(_section(best, *best_table(profile), style))
    if profile.lines("checkpoint"):
        parts.append(_section("Saving and restoring the recurrent state", *checkpoint_table(profile), style))
    parts.append(_section("Prompts, tok/s", *prompt_table(profile), style))
    if steps := sentences(jumps(profile)):
        parts.append("\n".join(steps))
    warnings = [f"warning: {line}" for line in unsteady(profile)]
    return "\n\n".join([*parts, "\n".join([*notes(profile), *warnings])])


def _head(profile: Profile) -> str:
    meta = profile.meta
    lines = [
        f"Profile {profile.id}: {meta['model']['file']} ({meta['model']['description']}) on {meta['labels']['card']}",
        f"{meta['labels']['sampling']}, {profile.threads} threads, context {meta['context']['n_ctx']:,},"
        f" {meta['spec']['repeats']} rounds in {sweeps(meta['spec']['repeats'])} sweeps",
    ]
    if not profile.run.finished:
        lines.append("INTERRUPTED: not every point is there. Take it again: specdec profile.")
    return "\n".join(lines)


def curve_table(profile: Profile, depth: int) -> Cells:
    """n, T(n), C(n), the same after a pass of another length, the same with snapshots, distinct experts."""
    same, other = profile.curve(depth), profile.plain()[depth].verify_points[False]
    most, curves = max(profile.by_snapshots().items())
    kept = curves[depth].verify_points[True] if most and depth in curves else {}  # a profile may be cut off
    base = same[1].median
    lengths = sorted(same | other)
    extra, heads = expert_columns(profile, depth, lengths)
    body = []
    for i, n in enumerate(lengths):
        s = same.get(n) or other[n]
        row = [str(n), f"{s.median * 1e3:.2f}", f"{s.relative:.1%}", f"{s.median / base:.2f}"]
        row += [f"{other[n].median * 1e3:.2f}" if n in other else ""]
        row += [f"{kept[n].median * 1e3:.2f}" if n in kept else ""] if kept else []
        body.append([*row, *extra[i]])
    snapshots = [f"{most} snapshots"] if kept else []
    return body, ["n", "T(n) ms", "+-", "C(n)", "after another n", *snapshots, *heads]


def threads_table(profile: Profile) -> Cells:
    """T(n) by threads, ms, at the shallowest depth."""
    curves = {
        k.threads: d[profile.depths[0]].verify_points
        for k, d in profile.costs.items()
        if k.strategy == TEXT and k.snapshots == 0 and k.mode == "auto"
    }
    some = {t: c[False] | c[True] for t, c in curves.items()}
    lengths = sorted(set.intersection(*(set(c) for c in some.values())))
    body = [[str(n), *(f"{c[n].median * 1e3:.2f}" for c in some.values())] for n in lengths]
    return body, ["n", *(f"{t} threads" for t in some)]


_DRAFT_HEADS = [
    "strategy",
    "depth",
    "draft",
    "all rejected before",
    "all kept before",
    "verify",
    "undo",
    "break-even AL",
]


def drafting_table(profile: Profile) -> Cells:
    """Costs of a step by strategy, depth and draft length, ms."""
    body = []
    for c in draft_costs(profile):
        ms = [*c.drafting_s, c.verify_s, c.undo_s]
        even = "-".join(f"{v:.2f}" for v in c.break_even)
        body.append([c.strategy, f"{c.depth:,}", str(c.length), *(f"{1e3 * v:.2f}" for v in ms), even])
    return body, _DRAFT_HEADS


def best_table(profile: Profile) -> Cells:
    """For each acceptance (the same at every position) the draft length that gives most, and what it gives."""
    body = []
    for strategy in dict.fromkeys(profile.strategies):
        for depth in profile.depths:
            cells = []
            for a in ACCEPTANCE:
                every = (expect(profile, strategy, k, [a] * k, depth) for k in lengths_of(profile, strategy))
                best = max((e for e in every if e), key=lambda e: e.speedup, default=None)
                cells.append(f"{best.speedup:.2f} ({best.length})" if best else "n/a")
            body.append([strategy, f"{depth:,}", *cells])
    return body, ["strategy", "depth", *(f"{a:g}" for a in ACCEPTANCE)]


def checkpoint_table(profile: Profile) -> Cells:
    """Saving and restoring the recurrent state."""
    body = [
        [c.way, f"{c.depth:,}", f"{c.bytes / 2**20:.1f}", f"{1e3 * c.save_s:.2f}", f"{1e3 * c.restore_s:.2f}"]
        for c in checkpoints(profile)
    ]
    return body, ["way", "depth", "MiB", "save ms", "restore ms"]


def prompt_table(profile: Profile) -> Cells:
    """Reading speed, tokens a second."""
    body = [
        [p.strategy, f"{p.start:,}-{p.end:,}", f"{p.target_tok_s:.1f}", f"{p.tok_s:.1f}"]
        for p in prompt_speeds(profile)
    ]
    return body, ["strategy", "tokens", "target alone", "with the strategy"]


def notes(profile: Profile) -> list[str]:
    """What the tables' columns mean."""
    return [
        "T(n): a target pass over n tokens after one of the same length, median; +-: half of the middle half's width.",
        "C(n) = T(n)/T(1). snapshots: the same with recurrent states kept for rollback.",
        "Drafting: with what was kept decoded first; undo: rolling back after all was rejected. Break-even AL: the mean"
        " acceptance length from which the length pays, if all or nothing is kept.",
        "Best speedup: the share of draft tokens kept where all before them were, the same at every position. n-grams:"
        " as if they found a draft at every step.",
        *expert_notes(profile),
    ]


def unsteady(profile: Profile) -> list[str]:
    """A warning where the sweeps disagree: then the machine was not the same throughout."""
    values = sweep_medians(profile)
    if len(values) < 2 or max(values) <= min(values) * (1 + _UNSTEADY):
        return []
    return [
        f"plain decoding took {min(values):.2f} ms in one sweep and {max(values):.2f} ms in another: the machine was not"
        " steady. Take the profile again with nothing else running."
    ]


def _section(title: str, body: list[list[str]], heads: list[str], style: str) -> str:
    heading = f"## {title}" if style == "pipe" else f"{title}\n{'=' * len(title)}"
    return f"{heading}\n\n{tabulate(body, heads, style, disable_numparse=True)}"
