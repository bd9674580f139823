"""What every page says of a run's options, model and machine; the table that all sections are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from specdec.differences import Difference
from specdec.report.names import arm_name

_MOST_ROWS = 400
"""Rows of a table: a grid of a thousand settings is for --format csv."""


@dataclass(frozen=True, slots=True)
class Table:
    """``cells`` row by row; columns from ``numbers`` on are right-aligned. ``title``: where the picture's is not enough."""

    heads: list[str]
    cells: list[list[str]]
    numbers: int = 2
    note: str = ""
    title: str = ""


def strategies(meta: dict[str, Any]) -> Table:
    """What was compared or measured, with all options."""
    described = {s["label"]: s for s in meta.get("strategies", ())}
    arms = [
        (arm_name(a.get("engine", "specdec"), a["strategy"], a["rollback"]), a["strategy"])
        for a in meta.get("arms", ())
    ]
    cells = []
    for name, label in arms[:_MOST_ROWS] or [(label, label) for label in described]:
        s = described.get(label, {})
        options = ", ".join(f"{k}={v}" for k, v in s.get("options", {}).items())
        model = (s.get("model") or {}).get("file", "")
        cells.append([name, options, str(s.get("origin", "")), str(model or "")])
    return Table(["strategy", "options", "origin", "model"], cells, 9)


def settings(meta: dict[str, Any]) -> Table:
    """Options, those given first."""
    given = dict(_flat(meta.get("given", {})))
    every = dict(_flat(meta["spec"]))
    cells = [[k, _shown(v), "given"] for k, v in given.items()]
    cells += [[k, _shown(v), ""] for k, v in every.items() if k not in given]
    cells += [[f"resolved: {k}", _shown(v), ""] for k, v in _flat(meta["context"])]
    return Table(["option", "value", ""], cells, 9)


def environment(meta: dict[str, Any]) -> Table:
    """Model, machine, versions."""
    cells = [[f"model: {k}", _shown(v)] for k, v in _flat(meta["model"])]
    cells += [[k, _shown(v)] for k, v in _flat(meta.get("environment", {}))]
    return Table(["what", "value"], cells, 9)


def differences(found: list[Difference]) -> Table:
    """What two runs do not have in common."""
    return Table(["what", "A", "B"], [[d.what, _shown(d.a) or "-", _shown(d.b) or "-"] for d in found], 9)


def card_kind(meta: dict[str, Any]) -> str:
    """Of a run under a cap: whether it was held; empty without one."""
    card = str(meta["labels"]["card"])
    kinds = {"emulated ": "emulated card: its capacity, not its bandwidth", "planned ": "card planned, not enforced"}
    return next((said for start, said in kinds.items() if card.startswith(start)), "")


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for k, v in values.items():
        if isinstance(v, dict):
            yield from _flat(v, f"{prefix}{k}.")
        else:
            yield f"{prefix}{k}", v


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_shown(v)}" for k, v in value.items())
    return "" if value is None else str(value)
