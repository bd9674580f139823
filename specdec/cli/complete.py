"""What the shell offers for a value after Tab: run ids, workloads, strategies. Imports nothing until it is asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import typer


def runs(context: typer.Context, incomplete: str) -> list[str]:
    """Runs and groups under --results, the newest first, and ``latest``."""
    folder = Path(context.params.get("results") or "results")
    known = sorted((p.parent.name for kind in ("run", "group") for p in folder.glob(f"*/{kind}.json")), reverse=True)
    return [name for name in ("latest", *known) if name.startswith(incomplete)]


def workloads(incomplete: str) -> list[str]:
    """Workloads and length classes, in a comma list."""
    from specdec.workloads import load_prompts

    prompts = load_prompts(())
    return _in_list(dict.fromkeys([*(p.workload for p in prompts), *(p.length for p in prompts)]), incomplete)


def strategies(incomplete: str) -> list[str]:
    """Strategies and groups, in a comma list."""
    from specdec.registry import GROUPS

    return _in_list([*_names(), *GROUPS], incomplete)


def strategy(incomplete: str) -> list[str]:
    """One strategy."""
    return [name for name in _names() if name.startswith(incomplete)]


def _names() -> list[str]:
    from specdec.registry import Registry

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a broken plugin is the business of the command itself
        return Registry().names()


def _in_list(names: Iterable[str], incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
