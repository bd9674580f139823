"""Two runs against each other: as a table for people, as JSON for programs."""

from __future__ import annotations

from itertools import groupby

import orjson
from tabulate import tabulate

from specdec.report.names import row_name
from specdec.types import Row
from specdec.versus import Versus, finished


def as_text(versus: Versus) -> str:
    """The comparison as plain text."""
    return _report(versus, "simple")


def as_markdown(versus: Versus) -> str:
    """The comparison as Markdown."""
    return _report(versus, "pipe")


def as_json(versus: Versus) -> str:
    """One object: ``a``, ``b`` (run ids), ``settings``, ``environment``, ``only_a``, ``only_b``, ``rows``, ``notes``."""
    object = {
        "a": versus.a.id,
        "b": versus.b.id,
        "settings": [{"what": d.what, "a": d.a, "b": d.b} for d in versus.settings],
        "environment": [{"what": d.what, "a": d.a, "b": d.b} for d in versus.environment],
        "only_a": versus.only_a,
        "only_b": versus.only_b,
        "rows": versus.rows,
        "notes": versus.lines + finished([versus.a, versus.b]),
    }
    return orjson.dumps(object, option=orjson.OPT_INDENT_2).decode()


def _report(versus: Versus, style: str) -> str:
    parts = [f"Run B {versus.b.id} over run A {versus.a.id}", _table(versus.rows, style)]
    if against := _against_plain(versus.rows, style):
        parts.append(against)
    parts.append("\n".join(_notes(versus)))
    named = [("Settings that differ, A / B", versus.settings), ("Environment that differs, A / B", versus.environment)]
    parts += ["\n".join([f"{title}:", *(f"- {d.line}" for d in found)]) for title, found in named if found]
    only = [
        f"Only in {side}: {', '.join(names)}." for side, names in (("A", versus.only_a), ("B", versus.only_b)) if names
    ]
    return "\n\n".join(parts + only)


def _table(rows: list[Row], style: str) -> str:
    heads = ["workload", "strategy", "n", "A tok/s", "B tok/s", "B/A", "95 %", "verdict on B"]
    body = []
    for workload, group in groupby(rows, key=lambda r: r["workload"]):
        for i, r in enumerate(group):
            speeds = [f"{r['tok_s_a']:.2f}", f"{r['tok_s_b']:.2f}", f"{r['ratio']:.2f}"]
            where = workload if not i or style == "pipe" else ""
            body.append([where, row_name(r), r["prompts"], *speeds, _interval(r, "ratio"), r["verdict"]])
    return str(tabulate(body, heads, style, disable_numparse=True))


def _against_plain(rows: list[Row], style: str) -> str:
    """Speedups of both runs side by side: what a machine does to every strategy cancels."""
    heads = ["workload", "strategy", "n", "A speedup", "B speedup", "B/A", "95 %", "verdict on B"]
    body = []
    for workload, group in groupby((r for r in rows if r["speedup_ratio"] is not None), key=lambda r: r["workload"]):
        for i, r in enumerate(group):
            where = workload if not i or style == "pipe" else ""
            ratios = [f"{r[k]:.2f}" for k in ("speedup_a", "speedup_b", "speedup_ratio")]
            body.append(
                [where, row_name(r), r["prompts"], *ratios, _interval(r, "speedup_ratio"), r["speedup_verdict"]]
            )
    title = "Each against `none` of its own run:"
    return f"{title}\n\n{tabulate(body, heads, style, disable_numparse=True)}" if body else ""


def _notes(versus: Versus) -> list[str]:
    return [
        *versus.lines,
        *finished([versus.a, versus.b]),
        "B/A: tok/s of generation on the same n prompts; verdicts allow for their table's comparisons (docs/verdicts.md).",
    ]


def _interval(row: Row, key: str) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return "" if low is None else f"{low:.2f}-{high:.2f}"
