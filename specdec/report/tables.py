"""The tables of a run, 80 columns wide or as wide as the terminal, and as Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from itertools import groupby
from typing import Any

from tabulate import tabulate

from specdec.locking import is_locked
from specdec.metrics import engine_ratios, rows
from specdec.report import search
from specdec.report.machine import machine_notes
from specdec.report.memory import memory_table
from specdec.report.names import row_name
from specdec.report.notes import notes
from specdec.store import Run, cell_key
from specdec.types import PHASES, Row
from specdec.why import Costs

NARROW = 80
"""Columns of the narrowest terminal, and of whatever is no terminal."""

_NA = "n/a"
_STRATEGY_WIDTH = 26
_MOST_POSITIONS = 8
_POSITION_WIDTH = 6

Column = tuple[str, Callable[[Row], str]]
Section = tuple[str, list[Column], list[Row]]


def as_text(run: Run, costs: Costs | None = None, width: int = NARROW) -> str:
    """The whole report as plain text.

    Args:
        costs: a profile's T(n), for why a strategy pays (``specdec.why``).
        width: of the terminal; more than 80 columns join tables and show more positions.
    """
    return _report(run, costs, "simple", width)


def as_markdown(run: Run, costs: Costs | None = None) -> str:
    """The whole report as Markdown."""
    return _report(run, costs, "pipe", NARROW)


def speed_as_html(run: Run) -> str:
    """The speed table alone, as an HTML table (everything in it escaped)."""
    return _rendered(rows(run), _SPEED, "html", None)


def _report(run: Run, costs: Costs | None, style: str, width: int) -> str:
    table = rows(run)
    parts = [head(run), *_quick(run)]
    sections = _speed_and_drafting(table, width)
    if drafting := [r for r in table if r["acceptance_by_position"]]:
        most = _most_positions(drafting, width)
        sections.append(("Acceptance by position", _positions("acceptance_by_position", 1, most), drafting))
        if drafting := [r for r in drafting if any(c is not None for c in r["conditional_acceptance"])]:
            title = "Acceptance by position, where the one before was accepted"
            sections.append((title, _positions("conditional_acceptance", 2, most), drafting))
            sections.append(("Share of drafts by accepted length", _lengths(most), drafting))
    if ratios := engine_ratios(run):
        sections.append(("specdec over llama-server", _RATIOS, ratios))
    sections.append(("Where the time goes", _phases(table), table))
    parts += [
        f"{_heading(title, style)}\n\n{_table(shown, columns, style, width)}" for title, columns, shown in sections
    ]
    if held := memory_table(run, style, row_name, width):
        parts.append(f"{_heading('Memory', style)}\n\n{held}")
    parts += notes(run, table, costs)
    parts += machine_notes(run, table)
    if "search" in run.meta:
        parts.append(search.as_text(run.meta["search"], style))
    return "\n\n".join(parts)


def _heading(title: str, style: str) -> str:
    return f"## {title}" if style == "pipe" else f"{title}\n{'=' * len(title)}"


def _quick(run: Run) -> list[str]:
    """What a quick run has settled."""
    return [run.meta["quick"]["line"]] if "quick" in run.meta else []


def head(run: Run) -> str:
    """What was compared, on what, how: two lines, and one where the run was interrupted."""
    meta, labels = run.meta, run.meta["labels"]
    prompts = len(meta["prompts"])
    lines = [
        f"Run {run.id}: {meta['model']['file']} ({meta['model']['description']}) on {labels['card']}",
        f"{labels['label']}, {labels['sampling']}, {prompts} prompts, up to {meta['spec']['n_predict']} tokens,"
        f" {meta['context']['threads']} threads, context {meta['context']['n_ctx']:,}",
    ]
    lines += _taught(run)
    if meta.get("group"):
        whole = meta["group"] if meta.get("redacted") else shlex.quote(str(run.folder.parent / meta["group"]))
        lines.append(f"Arm of a comparison of cards: {labels['arm']}. All of it: specdec report {whole}")
    if not run.finished:
        done = len({cell_key(s) for s in run.samples})
        there = f"{done} of {meta['cells']} cells are there."
        go_on = f"INTERRUPTED: {there} Finish it: specdec resume {shlex.quote(str(run.folder))}"
        lines.append(f"STILL GOING ON: {there}" if is_locked(run.folder / "samples.jsonl") else go_on)
    return "\n".join(lines)


def _taught(run: Run) -> list[str]:
    """Whose text a target was made to say."""
    if (of := run.meta.get("teacher")) is None:
        return []
    lines = [f"Text recorded from {of['model']['file']}; every pass is this model's own."]
    if any(a.get("label") == "synthetic" for a in run.meta["arms"]):
        rates = ", ".join(f"{r:g}" for r in of["rates"])
        lines.append(f"[synthetic]: drafts accepted at the rates {rates}, not as recorded.")
    return lines


def _speed_and_drafting(table: list[Row], width: int) -> list[Section]:
    """On a wide terminal what drafting gives stands beside what it is for, as far as there is room."""
    for names in _BESIDE_SPEED if width > NARROW else ():
        joined = [c for c in _DRAFTING if c[0] in names]
        columns = [*_SPEED[:-1], *joined, _SPEED[-1]]
        if _width(_tight(_rendered(table, columns, "simple", _STRATEGY_WIDTH))) <= width:
            rest = [c for c in _DRAFTING if c not in joined]
            return [("Speed", columns, table), *([("Drafting", rest, table)] if rest else [])]
    return [("Speed", _SPEED, table), ("Drafting", _DRAFTING, table)]


def _table(table: list[Row], columns: list[Column], style: str, width: int) -> str:
    """Long names of strategies are broken, unless a wide terminal has room for them."""
    if style != "simple" or width <= NARROW:
        return _rendered(table, columns, style, _STRATEGY_WIDTH if style == "simple" else None)
    whole = _tight(_rendered(table, columns, style, None))
    return whole if _width(whole) <= width else _tight(_rendered(table, columns, style, _STRATEGY_WIDTH))


def _rendered(table: list[Row], columns: list[Column], style: str, most: int | None) -> str:
    body = []
    for workload, group in groupby(table, key=lambda r: r["workload"]):
        for i, row in enumerate(group):
            cells = [cell(row) for _, cell in columns]
            body.append([workload if not i or style == "pipe" else "", row_name(row), *cells])
    widths = [None, most, *[None for _ in columns]]
    heads = ["workload", "strategy", *(c for c, _ in columns)]
    return str(tabulate(body, heads, style, disable_numparse=True, maxcolwidths=widths))


def _tight(text: str) -> str:
    """A simple table without the room that tabulate leaves beside its heads."""
    lines = text.splitlines()
    spans = [m.span() for m in re.finditer("-+", lines[1])]
    cells = [["" if i == 1 else line[a:b].rstrip() for a, b in spans] for i, line in enumerate(lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells[1] = ["-" * n for n in widths]
    return "\n".join("  ".join(c.ljust(n) for c, n in zip(row, widths, strict=True)).rstrip() for row in cells)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def _speedup(row: Row) -> str:
    if row["strategy"] == "none" or row["speedup"] is None:
        return "" if row["strategy"] == "none" else _NA
    return f"{row['speedup']:.2f}"


def _interval(key: str, form: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        ends = row[f"{key}_low"], row[f"{key}_high"]
        return "" if ends[0] is None else "-".join(form.format(end) for end in ends)

    return cell


def _verdict(row: Row) -> str:
    if row["status"] in ("ok", "inactive"):
        verdict = row["verdict"] or ""
        return "; ".join(filter(None, [verdict, "inactive" if row["status"] == "inactive" else ""]))
    return {"not run": "not run", "error": "FAIL"}.get(row["status"], f"FAIL: {row['status']}")


def _mean(row: Row) -> str:
    return "" if row["mean_speedup"] is None else f"{row['mean_speedup']:.2f}"


def _number(key: str, form: str) -> Callable[[Row], str]:
    return lambda row: _NA if row[key] is None else form.format(row[key])


def _per_step(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key] / row['target_passes']:.2f}" if row["target_passes"] else _NA


def _percent(row: Row) -> str:
    return _NA if row["acceptance_rate"] is None else f"{row['acceptance_rate']:.0%}"


def _mebibytes(row: Row) -> str:
    return _NA if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:.1f}"


def _share(phase: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        seconds: dict[str, Any] | None = row["phase_seconds"]
        total = sum(seconds.values()) if seconds else 0.0
        return f"{seconds[phase] / total:.1%}" if seconds and total else _NA

    return cell


_SPEED: list[Column] = [
    ("n", lambda r: str(r["prompts"])),
    ("tok/s", _number("tok_s", "{:.2f}")),
    ("speedup", _speedup),
    ("95 %", _interval("speedup", "{:.2f}")),
    ("mean", _mean),
    ("verdict", _verdict),
]
_RATIOS: list[Column] = [
    ("n", lambda r: str(r["prompts"])),
    ("ratio", _number("ratio", "{:.3f}")),
    ("95 %", _interval("ratio", "{:.3f}")),
    ("verdict", lambda r: str(r["verdict"])),
]
_DRAFTING: list[Column] = [
    ("acceptance", _percent),
    ("AL", _number("mean_acceptance_length", "{:.2f}")),
    ("drafted/step", _per_step("drafted")),
    ("accepted/step", _per_step("accepted")),
    ("MiB", _mebibytes),
]
_BESIDE_SPEED = ([name for name, _ in _DRAFTING], ["acceptance", "AL", "MiB"], ["acceptance", "AL"])
"""Drafting columns that may stand beside the speed; the first choice that fits."""


def _most_positions(table: list[Row], width: int) -> int:
    """Positions that are shown: 8, on a wide terminal all that fit beside the names."""
    used = max(len(r["acceptance_by_position"]) for r in table)
    names = _width(_rendered(table, [], "simple", _STRATEGY_WIDTH))
    return (
        max(_MOST_POSITIONS, min(used, (width - names) // _POSITION_WIDTH - 1)) if width > NARROW else _MOST_POSITIONS
    )


def _positions(key: str, first: int, most: int) -> list[Column]:
    """Rates by position, the first positions only."""

    def cell(i: int) -> Callable[[Row], str]:
        return lambda row: "" if i >= len(row[key]) or row[key][i] is None else f"{row[key][i]:.0%}"

    return [(str(i + first), cell(i)) for i in range(most)]


def _lengths(most: int) -> list[Column]:
    """Shares of drafts by the number of their tokens that were accepted, the last column for all longer ones."""

    def cell(i: int) -> Callable[[Row], str]:
        def share(row: Row) -> str:
            counts = row["accepted_lengths"]
            n = sum(counts[i:]) if i == most else sum(counts[i : i + 1])
            return f"{n / sum(counts):.0%}" if n else ""

        return share

    return [*((str(i), cell(i)) for i in range(most)), (f"{most}+", cell(most))]


def _phases(table: list[Row]) -> list[Column]:
    """Phases that took any time in this run."""
    used = [p for p in PHASES if any(r["phase_seconds"] and r["phase_seconds"][p] for r in table)]
    return [("ttft s", _number("ttft_s", "{:.2f}")), *((p.replace("_", " "), _share(p)) for p in used)]
