"""The runs of one ``--card`` command as tables: what each strategy won at the same split and at the same VRAM, card by
card, and what its displaced layers cost."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from typing import Any

import orjson
from tabulate import tabulate

from specdec.groups import cards_of, drift, group_rows
from specdec.metrics import ENGINE, arm_of
from specdec.report.answers import card_answers
from specdec.report.cards import CAPACITY_ONLY
from specdec.report.formats import lines_of
from specdec.report.names import arm_name, row_name, split_name
from specdec.spec import RunSpec
from specdec.store import Run
from specdec.types import Row

_SAME_SPLIT = "same split: all strategies at the split that the most expensive needs, against `none` in the same run."
_SAME_VRAM = (
    "same VRAM: each at the split that its own cost leaves, against `none` at the split that `none` affords; where these"
    " differ they lie in different runs, "
)
_NAME, _SPLIT = 15, 14
"""Widths of columns: both tables keep within 80."""


def run_line(spec: RunSpec) -> str:
    """A run of a group in a line: card, arm, split, strategies."""
    return f"{spec.card}, {spec.arm}, {split_name(spec.model.n_cpu_moe, spec.model.gpu_layers)}: {spec.strategies}"


def as_text(runs: list[Run], planned: int = 0) -> str:
    """A group's tables as plain text, 80 columns wide; ``planned``: how many runs it has, where that is known."""
    return _report(runs, planned, "simple")


def as_markdown(runs: list[Run], planned: int = 0) -> str:
    """A group's tables as Markdown."""
    return _report(runs, planned, "pipe")


def as_json(runs: list[Run], planned: int = 0) -> str:
    """One object: ``group``, ``runs`` (ids), ``warnings`` and ``rows`` (docs/cards.md)."""
    said = {"group": runs[0].meta["group"], "runs": [run.id for run in runs]}
    said |= {"warnings": warnings(runs, planned), "rows": group_rows(runs)}
    return orjson.dumps(said, option=orjson.OPT_INDENT_2).decode()


def as_csv(runs: list[Run]) -> str:
    """One line a row; the fields of an arm behind its name: ``same_split_tok_s``."""
    return lines_of([{"group": runs[0].meta["group"], **_flat(row)} for row in group_rows(runs)])


def _head(runs: list[Run]) -> list[str]:
    """What a group is of."""
    meta = runs[0].meta
    label, sampling = meta["labels"]["label"], meta["labels"]["sampling"]
    prompts, longest = len(meta["prompts"]), meta["spec"]["n_predict"]
    return [
        f"Group {meta['group']}: {len(runs)} runs, {meta['model']['file']} ({meta['model']['description']})",
        f"{label}, {sampling}, {prompts} prompts, up to {longest} tokens, {meta['context']['threads']} threads,"
        f" context {meta['context']['n_ctx']:,}",
    ]


def warnings(runs: list[Run], planned: int = 0) -> list[str]:
    """What is missing of a group and how to go on, and what failed in it."""
    cut, missing = sum(not run.finished for run in runs), max(0, planned - len(runs))
    lines = []
    if cut or missing:
        group = runs[0].folder.parent / runs[0].meta["group"]
        what = [f"{cut} not finished"] if cut else []
        what += [f"{missing} missing"] if missing else []
        of = max(planned, len(runs))
        lines.append(f"INTERRUPTED: of {of} runs {', '.join(what)}. Go on: specdec resume {shlex.quote(str(group))}")
    failed = Counter(
        f"{run.meta['labels']['card']}, {run.id}, {arm_name(*arm_of(s))}: {s['error']}"
        for run in runs
        for s in run.samples
        if s["status"] != "ok" and not s["warmup"]
    )
    return lines + [f"FAIL {line} ({n} cells)" for line, n in failed.items()]


def notes(runs: list[Run]) -> list[str]:
    """What the arms are, and how far runs can be set beside each other."""
    apart = "launched in turns." if any(run.meta["spec"]["launches"] > 1 for run in runs) else "minutes apart."
    return [_SAME_SPLIT, _SAME_VRAM + apart, _drift_line(runs)]


def _drift_line(runs: list[Run]) -> str:
    moved = drift(runs)
    if moved is None:
        return (
            "No two runs have the same split: how much the machine moved between runs is not known, and what lies in two"
            " runs has no verdict."
        )
    return (
        f"From run to run `none` moved by {math.expm1(math.sqrt(moved.variance)):.1%} at the same split (standard"
        " deviation): that is in the intervals of what lies in two runs."
    )


def same_split_table(rows: list[Row]) -> tuple[list[list[str]], list[str]]:
    """Of one card: cells and heads."""
    cells = []
    for r in rows:
        a = r["same_split"]
        cells.append([row_name(r), _figure(a["tok_s"], ".1f"), _figure(a["plain"]["tok_s"], ".1f"), *_won(a)])
    return cells, ["strategy", "tok/s", "none", "speedup", "95 %", "verdict"]


def same_vram_table(rows: list[Row]) -> tuple[list[list[str]], list[str]]:
    """Of one card: cells and heads; plain decoding at its own split first, for each engine."""
    cells = []
    for engine in dict.fromkeys(r["engine"] for r in rows):
        mine = [r for r in rows if r["engine"] == engine]
        plain = mine[0]["same_vram"]["plain"]
        if plain is not None:
            name = "none" if engine == ENGINE else "none @server"
            cells.append([name, _split(plain), _figure(plain["tok_s"], ".1f"), "", "", ""])
        cells += [
            [row_name(r), _split(r["same_vram"]), _figure(r["same_vram"]["tok_s"], ".1f"), *_won(r["same_vram"])]
            for r in mine
        ]
    return cells, ["strategy", "split", "tok/s", "speedup", "95 %", "verdict"]


def _report(runs: list[Run], planned: int, style: str) -> str:
    parts = ["\n".join([*_head(runs), *warnings(runs, planned)])]
    rows = group_rows(runs)
    for card in cards_of(runs):
        on_card = [r for r in rows if r["card"] == card]
        parts.append(f"## {card}" if style == "pipe" else f"{card}\n{'=' * len(card)}")
        parts += _card(on_card, style) if on_card else ["No strategy was run beside `none`."]
        parts.append("\n".join(_line(run) for run in runs if run.meta["labels"]["card"] == card))
    parts.append("\n".join(notes(runs)))
    return "\n\n".join([*parts, CAPACITY_ONLY])


def _card(rows: list[Row], style: str) -> list[str]:
    """The answers of a card and its two tables."""
    answers = card_answers(rows)
    lines = [f"- {line}" for a in answers for line in (a.sentence, *(f"{w}." for w in a.why))]
    common = rows[0]["same_split"]
    same_split = _table(same_split_table(rows), style, [_NAME])
    same_vram = _table(same_vram_table(rows), style, [_NAME, _SPLIT])
    return ["\n".join(lines), f"same split, {_split(common)}:\n\n{same_split}", f"same VRAM:\n\n{same_vram}"]


def _table(of: tuple[list[list[str]], list[str]], style: str, widths: list[int]) -> str:
    cells, heads = of
    every = [*widths, *[None for _ in heads[len(widths) :]]] if style == "simple" else None
    return str(tabulate(cells, heads, style, disable_numparse=True, maxcolwidths=every))


def _won(at: Row) -> list[str]:
    """Speedup, interval, verdict (or what went wrong)."""
    interval = "" if at["speedup_low"] is None else f"{at['speedup_low']:.2f}-{at['speedup_high']:.2f}"
    failed = at["status"] not in ("ok", "inactive")
    said = at["verdict"] or "n/a"
    if failed:
        said = at["status"] if at["status"] == "not run" else f"FAIL: {at['status']}"
    return [_figure(at["speedup"], ".2f"), interval, f"{said}; inactive" if at["status"] == "inactive" else said]


def _split(at: Row) -> str:
    return split_name(at["n_cpu_moe"], at["gpu_layers"])


def _line(run: Run) -> str:
    """A run of the group, and how it is read."""
    strategies = ", ".join(dict.fromkeys(a["strategy"] for a in run.meta["arms"]))
    name = run.id if run.meta.get("redacted") else shlex.quote(str(run.folder))
    return f"- {run.meta['labels']['arm']} ({strategies}): specdec report {name}"


def _figure(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)


def _flat(row: Row, prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for k, v in row.items():
        out |= _flat(v, f"{prefix}{k}_") if isinstance(v, dict) else {f"{prefix}{k}": v}
    return out
