"""Rows as JSON and CSV: for programs."""

from __future__ import annotations

import csv
import io
from typing import Any

import orjson

from specdec.footprint import footprints
from specdec.llama.accounting import PLACES
from specdec.metrics import arm_of, engine_ratios, rows
from specdec.stats.stability import unsteady
from specdec.store import Run
from specdec.types import Row
from specdec.why import Costs, why


def as_json(run: Run, costs: Costs | None = None) -> str:
    """One object: ``run_id``, ``labels``, ``status``, ``rows``, ``memory`` (``footprint.footprints``), ``why`` and
    ``warnings`` (sentences); with two engines ``engine_ratios``. ``costs``: a profile's T(n), for ``why``."""
    return orjson.dumps(_object(run, costs), option=orjson.OPT_INDENT_2).decode()


def _object(run: Run, costs: Costs | None) -> dict[str, Any]:
    table, meta = rows(run), run.meta
    said: dict[str, Any] = {
        "memory": footprints(run),
        "why": why(table, run.samples, costs),
        "warnings": unsteady(run.samples, meta["spec"]),
    }
    ratios = engine_ratios(run)
    said |= {"engine_ratios": ratios} if ratios else {}
    return {"run_id": run.id, "status": meta["status"], "labels": meta["labels"], "rows": table, **said}


def as_csv(run: Run) -> str:
    """One line a row, with the arm's ``memory``; lists and objects as JSON inside their cells, undefined empty."""
    held = {arm_of(f): {place: f[place] for place in PLACES} for f in footprints(run)}
    table = [{"run_id": run.id, **row, "memory": held.get(arm_of(row))} for row in rows(run)]
    return lines_of(table) or "run_id\n"


def lines_of(table: list[Row]) -> str:
    """Rows as CSV with a head; what a row does not have stays empty. No rows: empty."""
    text = io.StringIO()
    fields = list(dict.fromkeys(key for row in table for key in row))
    writer = csv.DictWriter(text, fieldnames=fields, lineterminator="\n")
    if table:
        writer.writeheader()
    for row in table:
        writer.writerow({k: orjson.dumps(v).decode() if isinstance(v, list | dict) else v for k, v in row.items()})
    return text.getvalue()
