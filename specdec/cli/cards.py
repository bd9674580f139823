"""``specdec compare --card``: one run for each card and arm, then one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from specdec.errors import SpecdecError

if TYPE_CHECKING:
    from specdec.profile.spec import ProfileSpec
    from specdec.spec import ModelOptions, RunSpec
    from specdec.store import Group, Run


def compare_cards(
    spec: RunSpec, cards: str, reserve: int, results: Path, dry_run: bool, json: bool, watch: bool = False
) -> None:
    """Plan, run and show. A run that cannot be made costs itself, not the others; then the exit code is 1."""
    from specdec import runner, store
    from specdec.cli.progress import watched
    from specdec.forced.trace import settled
    from specdec.report import group as tables
    from specdec.vram.arms import lay_out
    from specdec.vram.cards import parse_cards

    _refuse(spec)
    spec, _ = settled(spec)
    group = store.new_id()
    with watched(spec.target if watch else "") as observer:
        runs = lay_out(spec, parse_cards(cards, reserve), group, observer.announce)
        for i, run in enumerate(runs, 1):
            observer.announce(f"Run {i} of {len(runs)}: {tables.run_line(run)}")
        if dry_run:
            return
        folders, failed = runner.compare_in_turns(runs, results, observer, tables.run_line)
    _show([store.read_run(folder) for folder in folders], len(runs), failed, json)


def resume_cards(group: Group, json: bool, watch: bool) -> None:
    """Finish the runs of a group, also those that were never begun, and show it."""
    from specdec import runner, store
    from specdec.cli.progress import watched
    from specdec.redact import refuse_redacted
    from specdec.report import group as tables

    begun = [store.read_run(folder) for folder in group.folders]
    for run in begun:
        refuse_redacted(run, "its group cannot be resumed")
    target = (group.specs or [run.meta["spec"] for run in begun])[0]["target"]
    with watched(target if watch else "") as observer:
        folders, failed = runner.resume_in_turns(group, observer, tables.run_line)
    _show([store.read_run(folder) for folder in folders], len(group.specs), failed, json)


def _show(found: list[Run], planned: int, failed: int, json: bool) -> None:
    """Print a group; where a run could not be made, or everything failed, the exit code is 1."""
    from specdec.report import group as tables

    if found:
        typer.echo(tables.as_json(found, planned) if json else tables.as_text(found, planned))
    if failed or all(s["status"] != "ok" for run in found for s in run.samples):
        raise typer.Exit(1)


def profile_on(spec: ProfileSpec, cards: str, reserve: int) -> ProfileSpec:
    """The profile at the split that the card allows with the most expensive of its strategies, capped."""
    from specdec.profile.job import context_for
    from specdec.spec import make_spec
    from specdec.vram.arms import CONTEXT, common_split
    from specdec.vram.cards import parse_cards
    from specdec.vram.overheads import MIB

    _refuse_split(spec.model)
    found = parse_cards(cards, reserve)
    if len(found) > 1 or spec.vram_limit:
        raise SpecdecError("--card: a profile is of one card.", "Take one for each; leave --vram-limit out.")
    model = spec.model.model_copy(update={"ctx_size": spec.model.ctx_size or context_for(spec) or CONTEXT})
    taken = ("target", "strategies", "strategy_files", "draft", "mtp_model")
    run = make_spec(model=model.model_dump(), **{name: getattr(spec, name) for name in taken})
    split = common_split(run, found[0], spec.n_max)
    return spec.model_copy(update={"model": split, "card": found[0].name, "vram_limit": found[0].budget // MIB})


def _refuse_split(model: ModelOptions) -> None:
    """Options that a planned split contradicts."""
    if model.n_cpu_moe or model.gpu_layers >= 0 or model.override_tensor:
        raise SpecdecError(
            "--card plans the split: --gpu-layers, --n-cpu-moe and --override-tensor contradict it.",
            "For a split of your own under a cap, use --vram-limit.",
        )


def _refuse(spec: RunSpec) -> None:
    """What a planned comparison contradicts."""
    _refuse_split(spec.model)
    if spec.vram_limit:
        raise SpecdecError("--card and --vram-limit exclude each other.", "--card sets the limit.")
    if spec.quick:
        raise SpecdecError(
            "--card and --quick exclude each other.", "Use --limit and --n-predict for a short comparison."
        )
    if len(spec.rollback) > 1:
        raise SpecdecError("--card plans for one way of rolling back.", "Name one with --rollback.")
