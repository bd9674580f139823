"""What people read of an arm, in tables, sentences and pictures alike."""

from __future__ import annotations

from specdec.metrics import ENGINE, strategy_name
from specdec.spec import ModelOptions
from specdec.types import Row


def arm_name(engine: str, strategy: str, rollback: str) -> str:
    """The strategy, its way of rolling back unless automatic, ``@server`` of llama-server."""
    name = strategy if rollback == "auto" else f"{strategy} [{rollback}]"
    return name if engine == ENGINE else f"{name} @server"


def row_name(row: Row) -> str:
    """The same of a row, with its label where that is not the run's."""
    name = strategy_name(row)
    return name if row["engine"] == ENGINE else f"{name} @server"


def split_name(n_cpu_moe: int, gpu_layers: int) -> str:
    """Where the layers lie (``ModelOptions.split``), of a stored row."""
    return ModelOptions(n_cpu_moe=n_cpu_moe, gpu_layers=gpu_layers).split
