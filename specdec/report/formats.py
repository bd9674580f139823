"""Rows as JSON and CSV: for programs."""

from __future__ import annotations

import csv
import io
from typing import Any

import orjson

from specdec.metrics import rows
from specdec.stats.stability import unsteady
from specdec.store import Run
from specdec.why import why


def as_json(run: Run) -> str:
    """One object: ``run_id``, ``labels``, ``status``, ``rows``, ``why`` and ``warnings`` (sentences)."""
    return orjson.dumps(_object(run), option=orjson.OPT_INDENT_2).decode()


def _object(run: Run) -> dict[str, Any]:
    table, meta = rows(run), run.meta
    said = {"why": why(table, run.samples), "warnings": unsteady(run.samples, meta["spec"], meta["given"])}
    return {"run_id": run.id, "status": meta["status"], "labels": meta["labels"], "rows": table, **said}


def as_csv(run: Run) -> str:
    """One line a row; lists and objects as JSON inside their cells, undefined empty."""
    table = rows(run)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=["run_id", *table[0]] if table else ["run_id"], lineterminator="\n")
    writer.writeheader()
    for row in table:
        flat = {k: orjson.dumps(v).decode() if isinstance(v, list | dict) else v for k, v in row.items()}
        writer.writerow({"run_id": run.id, **flat})
    return text.getvalue()
