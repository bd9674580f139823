"""Rows as JSON and CSV: for programs."""

from __future__ import annotations

import csv
import io
from typing import Any

import orjson

from specdec.metrics import engine_ratios, rows
from specdec.stats.stability import unsteady
from specdec.store import Run
from specdec.types import Row
from specdec.why import Costs, why


def as_json(run: Run, costs: Costs | None = None) -> str:
    """One object: ``run_id``, ``labels``, ``status``, ``rows``, ``why`` and ``warnings`` (sentences); with two engines
    ``engine_ratios``. ``costs``: a profile's T(n), for ``why``."""
    return orjson.dumps(_object(run, costs), option=orjson.OPT_INDENT_2).decode()


def _object(run: Run, costs: Costs | None) -> dict[str, Any]:
    table, meta = rows(run), run.meta
    said: dict[str, Any] = {
        "why": why(table, run.samples, costs),
        "warnings": unsteady(run.samples, meta["spec"], meta["given"]),
    }
    ratios = engine_ratios(run)
    said |= {"engine_ratios": ratios} if ratios else {}
    return {"run_id": run.id, "status": meta["status"], "labels": meta["labels"], "rows": table, **said}


def as_csv(run: Run) -> str:
    """One line a row; lists and objects as JSON inside their cells, undefined empty."""
    return lines_of([{"run_id": run.id, **row} for row in rows(run)]) or "run_id\n"


def lines_of(table: list[Row]) -> str:
    """Rows of the same fields as CSV with a head; empty where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[*table[0]] if table else [], lineterminator="\n")
    if table:
        writer.writeheader()
    for row in table:
        writer.writerow({k: orjson.dumps(v).decode() if isinstance(v, list | dict) else v for k, v in row.items()})
    return text.getvalue()
