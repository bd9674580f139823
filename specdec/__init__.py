"""specdec: a laboratory for speculative decoding on one's own machine.

From Python: ``specdec.compare(...)`` returns a ``Run``, ``specdec.load_run()`` reads a stored one (docs/python.md). A
strategy of your own is a ``Strategy`` (docs/strategies.md). Everything here is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "Draft",
    "Run",
    "SpecdecError",
    "Step",
    "Strategy",
    "StrategyOptions",
    "__version__",
    "compare",
    "load_run",
    "replay_trace",
    "resume",
    "take_profile",
]

if TYPE_CHECKING:
    from specdec.api.calls import compare, load_run, replay_trace, resume, take_profile
    from specdec.api.run import Run
    from specdec.errors import SpecdecError
    from specdec.strategy import Strategy, StrategyOptions
    from specdec.types import Draft, Step

_HOMES = {
    "Draft": "specdec.types",
    "Run": "specdec.api.run",
    "SpecdecError": "specdec.errors",
    "Step": "specdec.types",
    "Strategy": "specdec.strategy",
    "StrategyOptions": "specdec.strategy",
    # Not `profile` and `replay`: packages of specdec have these names.
    **dict.fromkeys(("compare", "load_run", "replay_trace", "resume", "take_profile"), "specdec.api.calls"),
}


def __getattr__(name: str) -> object:
    # Lazy, so that `specdec --help` does not wait for NumPy and pydantic.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'specdec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
