"""The tables of a run, 80 columns wide, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from tabulate import tabulate

from specdec.metrics import engine_ratios, rows
from specdec.report import search
from specdec.report.machine import machine_notes
from specdec.report.memory import memory_table
from specdec.stats.stability import unsteady
from specdec.store import Run
from specdec.types import PHASES, Row
from specdec.why import why

_NA = "n/a"
_STRATEGY_WIDTH = 26
_MOST_FAILURES = 5
_MOST_POSITIONS = 8
_MOST_NOTES = 4
_MOST_REASONS = 10

_AT_SERVER = ["@server: by llama-server and its own clock; its speedup is against llama-server's own `none`."]

Column = tuple[str, Callable[[Row], str]]


def as_text(run: Run) -> str:
    """The whole report as plain text."""
    return _report(run, "simple")


def as_markdown(run: Run) -> str:
    """The whole report as Markdown."""
    return _report(run, "pipe")


def _report(run: Run, style: str) -> str:
    table = rows(run)
    parts = [_head(run), *_quick(run)]
    sections = [("Speed", _SPEED, table), ("Drafting", _DRAFTING, table)]
    if drafting := [r for r in table if r["acceptance_by_position"]]:
        sections.append(("Acceptance by position", _positions("acceptance_by_position", 1), drafting))
        if drafting := [r for r in drafting if any(c is not None for c in r["conditional_acceptance"])]:
            title = "Acceptance by position, where the one before was accepted"
            sections.append((title, _positions("conditional_acceptance", 2), drafting))
            sections.append(("Share of drafts by accepted length", _LENGTHS, drafting))
    if ratios := engine_ratios(run):
        sections.append(("specdec over llama-server", _RATIOS, ratios))
    sections.append(("Where the time goes", _phases(table), table))
    parts += [f"{_heading(title, style)}\n\n{_table(shown, columns, style)}" for title, columns, shown in sections]
    if held := memory_table(run, style, _name):
        parts.append(f"{_heading('Memory', style)}\n\n{held}")
    parts += _notes(run, table)
    parts += machine_notes(run, table)
    if "search" in run.meta:
        parts.append(search.as_text(run.meta["search"], style))
    return "\n\n".join(parts)


def _heading(title: str, style: str) -> str:
    return f"## {title}" if style == "pipe" else f"{title}\n{'=' * len(title)}"


def _quick(run: Run) -> list[str]:
    """What a quick run has settled."""
    return [run.meta["quick"]["line"]] if "quick" in run.meta else []


def _head(run: Run) -> str:
    meta, labels = run.meta, run.meta["labels"]
    prompts = len(meta["prompts"])
    lines = [
        f"Run {run.id}: {meta['model']['file']} ({meta['model']['description']}) on {labels['card']}",
        f"{labels['label']}, {labels['sampling']}, {prompts} prompts, up to {meta['spec']['n_predict']} tokens,"
        f" {meta['context']['threads']} threads, context {meta['context']['n_ctx']:,}",
    ]
    if not run.finished:
        named = ("engine", "strategy", "rollback", "prompt", "repeat", "launch", "warmup")
        done = len({tuple(s[k] for k in named) for s in run.samples})
        lines.append(f"INTERRUPTED: {done} of {meta['cells']} cells are there. Finish it: specdec resume {run.folder}")
    return "\n".join(lines)


def _table(table: list[Row], columns: list[Column], style: str) -> str:
    body = []
    for workload, group in groupby(table, key=lambda r: r["workload"]):
        for i, row in enumerate(group):
            cells = [cell(row) for _, cell in columns]
            body.append([workload if not i or style == "pipe" else "", _name(row), *cells])
    widths = [None, _STRATEGY_WIDTH if style == "simple" else None, *[None for _ in columns]]
    heads = ["workload", "strategy", *(c for c, _ in columns)]
    return str(tabulate(body, heads, style, disable_numparse=True, maxcolwidths=widths))


def _name(row: Row) -> str:
    name = str(row["strategy"]) if row["rollback"] == "auto" else f"{row['strategy']} [{row['rollback']}]"
    return name if row["engine"] == "specdec" else f"{name} @server"


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
        return f"{verdict}; inactive" if row["status"] == "inactive" else verdict
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


def _positions(key: str, first: int) -> list[Column]:
    """Rates by position, the first positions only."""

    def cell(i: int) -> Callable[[Row], str]:
        return lambda row: "" if i >= len(row[key]) or row[key][i] is None else f"{row[key][i]:.0%}"

    return [(str(i + first), cell(i)) for i in range(_MOST_POSITIONS)]


def _length(i: int) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        counts = row["accepted_lengths"]
        n = sum(counts[i:]) if i == _MOST_POSITIONS else sum(counts[i : i + 1])
        return f"{n / sum(counts):.0%}" if n else ""

    return cell


_LENGTHS: list[Column] = [
    *((str(i), _length(i)) for i in range(_MOST_POSITIONS)),
    (f"{_MOST_POSITIONS}+", _length(_MOST_POSITIONS)),
]


def _phases(table: list[Row]) -> list[Column]:
    """Phases that took any time in this run."""
    used = [p for p in PHASES if any(r["phase_seconds"] and r["phase_seconds"][p] for r in table)]
    return [("ttft s", _number("ttft_s", "{:.2f}")), *((p.replace("_", " "), _share(p)) for p in used)]


def _notes(run: Run, table: list[Row]) -> list[str]:
    total = [r for r in table if r["workload"] == "all"]
    parts = [_why(run, table), _explained(table), _origins(total) + _failures(total), _doubts(run)]
    return ["\n".join(lines) for lines in parts if lines]


def _why(run: Run, table: list[Row]) -> list[str]:
    reasons = why(table, run.samples)
    lines = [f"{line}." for line in reasons[:_MOST_REASONS]]
    return lines + (
        [f"... and {len(reasons) - _MOST_REASONS} more: see --format json."] if reasons[_MOST_REASONS:] else []
    )


def _explained(table: list[Row]) -> list[str]:
    compared = sum(r["p_value"] is not None for r in table)
    return [
        "speedup: sum of tokens / sum of seconds against `none` on the same n prompts; mean: geometric, of the prompts'.",
        f"95 %: of the speedup, row by row; verdicts allow for the table's {compared} comparisons (docs/verdicts.md).",
        *_AT_SERVER[: any(r["engine"] != "specdec" for r in table)],
        "AL: mean acceptance length, tokens emitted per target pass over all steps, bonus token included; break-even: the"
        " AL that pays for a step; costs of a step in plain tokens, C(n): a target pass over n tokens against one over 1.",
    ]


def _doubts(run: Run) -> list[str]:
    """What the intervals do not hold, each with the command that settles it."""
    return [f"WARNING: {line}" for line in unsteady(run.samples, run.meta["spec"], run.meta["given"])]


def _origins(total: list[Row]) -> list[str]:
    notes = []
    for r in total:
        if r["drafted_by"]:
            most = sorted(r["drafted_by"].items(), key=lambda item: -item[1])[:_MOST_NOTES]
            shares = ", ".join(f"{who} {n / r['drafting_steps']:.0%}" for who, n in most)
            notes.append(f"{_name(r)}: drafts came from {shares}.")
        if r["text_differs"] and r["strategy"] != "none":
            notes.append(
                f"{_name(r)}: {len(r['text_differs'])} of {r['generations']} texts differ from those of `none`, the"
                f" first at token {min(r['text_differs'])} (rounding depends on the shape of a batch)."
            )
    return notes


def _failures(total: list[Row]) -> list[str]:
    found = [(error, n, _name(r)) for r in total for error, n in r["failures"].items()]
    lines = [f"FAIL {name}: {n} cells: {error}" for error, n, name in found[:_MOST_FAILURES]]
    if len(found) > _MOST_FAILURES:
        lines.append(f"... and {len(found) - _MOST_FAILURES} more kinds of failure: see samples.jsonl, status error.")
    return lines
