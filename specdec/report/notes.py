"""What stands beneath the tables: why, what the words mean, where drafts came from, failures, doubts."""

from __future__ import annotations

from specdec.report.names import row_name
from specdec.report.power import could_find
from specdec.stats.stability import unsteady
from specdec.store import Run
from specdec.types import Row
from specdec.why import Costs, why

_MOST_FAILURES = 5
_MOST_NOTES = 4
_MOST_REASONS = 10

_AT_SERVER = ["@server: by llama-server and its own clock; its speedup is against llama-server's own `none`."]


def notes(run: Run, table: list[Row], costs: Costs | None) -> list[str]:
    """Paragraphs; ``costs`` as for ``specdec.why``."""
    total = [r for r in table if r["workload"] == "all"]
    reasons, faults = _why(run, table, costs), _origins(total) + _failures(total)
    # More rounds can be asked of a comparison: a replay is the same each time, a quick one stops by itself.
    plannable = "trace" not in run.meta and not run.meta["spec"].get("quick")
    parts = [reasons, _explained(table), faults, _doubts(run), could_find(total) if plannable else []]
    return ["\n".join(lines) for lines in parts if lines]


def _why(run: Run, table: list[Row], costs: Costs | None) -> list[str]:
    reasons = why(table, run.samples, costs)
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
    return [f"WARNING: {line}" for line in unsteady(run.samples, run.meta["spec"])]


def _origins(total: list[Row]) -> list[str]:
    found = []
    for r in total:
        if r["drafted_by"]:
            most = sorted(r["drafted_by"].items(), key=lambda item: -item[1])[:_MOST_NOTES]
            shares = ", ".join(f"{who} {n / r['drafting_steps']:.0%}" for who, n in most)
            found.append(f"{row_name(r)}: drafts came from {shares}.")
        if r["text_differs"] and r["strategy"] != "none":
            found.append(
                f"{row_name(r)}: {len(r['text_differs'])} of {r['generations']} texts differ from those of `none`, the"
                f" first at token {min(r['text_differs'])} (rounding depends on the shape of a batch)."
            )
    return found


def _failures(total: list[Row]) -> list[str]:
    found = [(error, n, row_name(r)) for r in total for error, n in r["failures"].items()]
    lines = [f"FAIL {name}: {n} cells: {error}" for error, n, name in found[:_MOST_FAILURES]]
    if len(found) > _MOST_FAILURES:
        lines.append(f"... and {len(found) - _MOST_FAILURES} more kinds of failure: see samples.jsonl, status error.")
    return lines
