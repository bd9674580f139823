"""specdec: a laboratory for speculative decoding on one's own machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Draft", "SpecdecError", "Step", "Strategy", "StrategyOptions", "__version__"]

if TYPE_CHECKING:
    from specdec.errors import SpecdecError
    from specdec.strategy import Strategy, StrategyOptions
    from specdec.types import Draft, Step

_HOMES = {
    "Draft": "specdec.types",
    "SpecdecError": "specdec.errors",
    "Step": "specdec.types",
    "Strategy": "specdec.strategy",
    "StrategyOptions": "specdec.strategy",
}


def __getattr__(name: str) -> object:
    # Lazy, so that `specdec --help` does not wait for NumPy and pydantic.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'specdec' has no attribute {name!r}")
