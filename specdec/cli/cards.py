"""``specdec compare --card``: one run for each card and arm, then one table."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from specdec.errors import SpecdecError

if TYPE_CHECKING:
    from specdec.spec import RunSpec


def compare_cards(spec: RunSpec, cards: str, reserve: int, results: Path, dry_run: bool, json: bool) -> None:
    """Plan, run and show. A run that cannot be made costs itself, not the others; then the exit code is 1."""
    from specdec import runner, store
    from specdec.cli.progress import watched
    from specdec.report import cards as tables
    from specdec.vram.arms import lay_out
    from specdec.vram.cards import parse_cards

    _refuse(spec)
    group = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with watched() as observer:
        runs = lay_out(spec, parse_cards(cards, reserve), group, observer.announce)
        for i, run in enumerate(runs, 1):
            observer.announce(f"Run {i} of {len(runs)}: {tables.run_line(run)}")
        if dry_run:
            return
        folders, failed = [], 0
        for i, run in enumerate(runs, 1):
            observer.announce(f"Run {i} of {len(runs)}: {tables.run_line(run)}")
            try:
                folders.append(runner.compare(run, results, observer))
            except SpecdecError as error:
                observer.announce(f"FAIL {tables.run_line(run)}: {error}")
                failed += 1
    if folders:
        found = [store.read_run(folder) for folder in folders]
        typer.echo(tables.group_as_json(found) if json else tables.group_as_text(found))
    if failed:
        raise typer.Exit(1)


def _refuse(spec: RunSpec) -> None:
    """What a planned split contradicts."""
    model = spec.model
    if model.n_cpu_moe or model.gpu_layers >= 0 or model.override_tensor:
        raise SpecdecError(
            "--card plans the split: --gpu-layers, --n-cpu-moe and --override-tensor contradict it.",
            "For a split of your own under a cap, use --vram-limit.",
        )
    if spec.vram_limit:
        raise SpecdecError("--card and --vram-limit exclude each other.", "--card sets the limit.")
    if spec.quick:
        raise SpecdecError(
            "--card and --quick exclude each other.", "Use --limit and --n-predict for a short comparison."
        )
    if len(spec.rollback) > 1:
        raise SpecdecError("--card plans for one way of rolling back.", "Name one with --rollback.")
