"""Rows and samples as data frames of pandas and Polars, where those are installed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import orjson

from specdec.errors import SpecdecError

_OPENED = frozenset(("phase_seconds", "phase_s", "steps"))
"""Objects whose fields are the same in every row: a column each, ``phase_seconds.verify``."""


def frame(package: str, rows: Iterable[dict[str, Any]]) -> Any:
    """A ``DataFrame`` of ``package``, ``pandas`` or ``polars``; undefined is null.

    Raises:
        SpecdecError: the package is not installed.
    """
    try:
        module = import_module(package)
    except ImportError as error:
        raise SpecdecError(f"{package} is not installed.", f"pip install {package}") from error
    made = columns(rows)
    return module.DataFrame(made, strict=False) if package == "polars" else module.DataFrame(made)


def columns(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Column to values, all of the same length. Lists of numbers and words stay lists; other lists and objects are JSON."""
    flat = [dict(_cells(row)) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    return {name: [row.get(name) for row in flat] for name in names}


def _cells(row: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in row.items():
        if name in _OPENED and isinstance(value, dict):
            yield from _cells({f"{name}.{field}": inner for field, inner in value.items()})
        elif name in _OPENED:
            continue  # None: this row has none of its columns
        elif isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, list | dict) for v in value)):
            yield name, orjson.dumps(value).decode()
        else:
            yield name, value
