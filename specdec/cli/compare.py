"""``specdec compare`` and ``specdec resume``."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o
from specdec.cli.fetch import fetch_models
from specdec.cli.option_groups import (
    Measuring,
    ModelFlags,
    Models,
    PromptFlags,
    SamplingFlags,
    TextFlags,
    grouped,
    split,
)

if TYPE_CHECKING:
    from specdec.spec import RunSpec


@app.command()
@grouped
def compare(
    context: typer.Context,
    models: Models,
    strategies: o.Strategies = "ngram",
    strategy: o.StrategyFiles = [],  # noqa: B006 - Typer copies it
    *,
    prompts: PromptFlags,
    text: TextFlags,
    measuring: Measuring,
    results: o.Results = o.DEFAULT_RESULTS,
    quick: o.Quick = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells (with --card the runs) and about the time they take.")
    ] = False,
    watch: o.Watch = False,
    json: o.Json = False,
    record: Annotated[
        Path | None, typer.Option("--record", help="Also write what `none` said as a trace, for specdec replay.")
    ] = None,
    rollback: o.RollbackModes = "auto",
    snapshots: o.Snapshots = None,
    synthetic: o.Synthetic = "",
    trace: o.Trace = "",
    sampling: SamplingFlags,
    model: ModelFlags,
    card: o.Cards = "",
    vram_limit: o.VramLimit = 0,
    reserve: o.Reserve = 512,
    engine: o.Engine = "specdec",
    with_llama_server: o.WithLlamaServer = False,
    llama_server: o.LlamaServer = "",
) -> None:
    """Compare draft strategies on a model: acceptance, memory and net speed by workload, against `none`."""
    from specdec.spec import QUICK_N_PREDICT, make_spec

    if quick:  # what was asked for still counts
        prompts = replace(prompts, limit=_given(context, "limit", prompts.limit, 0))
        text = replace(text, n_predict=_given(context, "n_predict", text.n_predict, QUICK_N_PREDICT))
    models.announce()
    spec = make_spec(
        **models.values(),
        **prompts.values(),
        **text.values(),
        **measuring.values(),
        **own_strategies(strategies, strategy),
        engines=("specdec", "llama-server") if with_llama_server else (engine,),
        llama_server=llama_server,
        vram_limit=vram_limit,
        rollback=split(rollback) or ("auto",),
        snapshots=snapshots,
        synthetic=split(synthetic),
        trace=trace,
        quick=quick,
        sampling=sampling.values(),
        model=model.values(),
    )
    if record is not None:
        _check_record(record, spec, card)
    fetch_models(spec)
    if card:
        from specdec.cli.cards import compare_cards

        compare_cards(spec, card, reserve, results, dry_run, json, watch)
        return
    if dry_run:
        _dry_run(spec)
        return
    from specdec import runner
    from specdec.cli.progress import watched

    with watched(models.target if watch else "") as observer:
        folder = runner.compare(spec, results, observer)
        if record is not None:
            from specdec import store
            from specdec.replay.stored import record_from_run

            record_from_run(store.read_run(folder), record)
            observer.announce(f"Wrote {record}")
    show(folder, json)


@app.command()
def resume(
    run: Annotated[
        str,
        typer.Argument(
            help="An interrupted run: its folder, its id, or `latest`; or a group (`compare --card`): its id.",
            autocompletion=complete.runs,
        ),
    ],
    results: o.Results = o.DEFAULT_RESULTS,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run cells that failed once more.")] = False,
    watch: o.Watch = False,
    json: o.Json = False,
) -> None:
    """Finish an interrupted run or group, in the same order and with the same seed."""
    from specdec import runner, store
    from specdec.cli.progress import watched
    from specdec.errors import SpecdecError
    from specdec.redact import refuse_redacted

    if group := store.find_group(run, results):
        from specdec.cli.cards import resume_cards

        if retry_failed:
            raise SpecdecError("--retry-failed: not of a whole group.", "Name the run whose cells failed.")
        resume_cards(group, json, watch)
        return
    found = store.read_run(store.find_run(run, results, "compare"))
    refuse_redacted(found, "it cannot be resumed")
    if "trace" in found.meta:
        from specdec.cli import replay

        replay.finish(found, json)
        return
    if found.meta["kind"] != "compare":
        raise SpecdecError(f"{found.folder} is a {found.meta['kind']}: it cannot be resumed.", "Take it again.")
    with watched(found.meta["spec"]["target"] if watch else "") as observer:
        folder = runner.resume(found, observer, retry_failed)
    show(folder, json)


def _check_record(record: Path, spec: RunSpec, card: str) -> None:
    """Now, not after the run: whether there is a text to record, and a file to write it to."""
    from specdec.errors import SpecdecError
    from specdec.replay.trace import check_new

    if spec.trace or spec.synthetic:
        raise SpecdecError("--record: with --trace or --synthetic the target's own text is not said.", "Leave it out.")
    if card:
        raise SpecdecError("--record: a comparison of cards is several runs.", "Record one: specdec record --from RUN.")
    check_new(record)


def _given(context: typer.Context, name: str, value: int, otherwise: int) -> int:
    """The option's value where the user named one."""
    source = context.get_parameter_source(name)
    return otherwise if source is None or source.name == "DEFAULT" else value


def _dry_run(spec: RunSpec) -> None:
    from specdec import runner
    from specdec.cli.progress import watched

    with watched() as observer:
        plan = runner.prepare(spec, observer)
        try:
            seconds = runner.estimate_seconds(plan)
        finally:
            plan.supervisor.kill()
    for arm in plan.arms:
        snapshots = f", {arm.snapshots} snapshots" if arm.snapshots else ""
        typer.echo(f"{arm.planned.label}: rollback {arm.rollback}{snapshots}, drafts of up to {arm.longest_draft}")
    by_workload: dict[str, list[int]] = {}
    for prompt in plan.prompts:
        by_workload.setdefault(prompt.workload, []).append(plan.lengths[prompt.id])
    for workload, lengths in by_workload.items():
        typer.echo(f"{workload}: {len(lengths)} prompts, {min(lengths):,} to {max(lengths):,} tokens")
    typer.echo(f"{len(plan.cells)} cells, about {_duration(seconds)} (from one short measurement of plain decoding)")


def show(folder: Path, json: bool) -> None:
    """Print a finished run; where everything failed, the exit code is 1."""
    from specdec import store
    from specdec.report import formats, tables

    run = store.read_run(folder)
    typer.echo(formats.as_json(run) if json else tables.as_text(run, width=terminal_width()))
    if all(s["status"] != "ok" for s in run.samples):
        raise typer.Exit(1)
    if not json:
        hint_page(folder)


def hint_page(folder: Path) -> None:
    """The command that makes the run's page; on stderr, for it is no result."""
    words = ["specdec", "report", str(folder), "--format", "html", "--out", "report.html"]
    typer.echo(f"\nThe same as a page, with pictures: {shlex.join(words)}", err=True)


def terminal_width() -> int:
    """Columns that tables may take on stdout: what is no terminal gets the same 80 wherever it runs."""
    from specdec.report.tables import NARROW

    return max(NARROW, shutil.get_terminal_size().columns) if sys.stdout.isatty() else NARROW


def own_strategies(strategies: str, files: list[str], optional: bool = False) -> dict[str, object]:
    """``strategies`` and ``strategy_files`` of a specification: those of --strategy take part beside those named; with
    ``optional`` and none named, beside the default ones."""
    from specdec.errors import SpecdecError
    from specdec.registry import load_class, named

    texts = [strategies] if strategies.strip() else []
    paths = []
    for file in files:
        text, path = named(file)
        paths.append(path[0] if path else load_class(file).name)  # what is no file is refused there
        if strategies.strip() or not optional:
            texts.append(text)
        elif "(" in text:
            raise SpecdecError(f"--strategy {file}: with options the others have to be named.", "Add --strategies.")
    return {"strategies": ",".join(texts), "strategy_files": tuple(paths)}


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
