"""``specdec replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o
from specdec.cli.compare import hint_page, own_strategies, terminal_width

if TYPE_CHECKING:
    from specdec.store import Run


@app.command()
def replay(
    trace: Annotated[str, typer.Argument(help="A trace: what `specdec record` wrote.")],
    strategies: Annotated[
        str,
        typer.Option(
            "--strategies", "-s", help="Comma list; values may be lists and ranges: 'ngram-mod(n_match=8..32:4)'."
        ),
    ] = "ngram",
    strategy: o.StrategyFiles = [],  # noqa: B006 - Typer copies it
    search: Annotated[
        bool,
        typer.Option("--search", help="Find the best setting; options that are not given take values worth trying."),
    ] = False,
    costs: Annotated[
        str, typer.Option("--costs", help="Predict speed: a profile or a compare run (folder or id), or a file.")
    ] = "",
    trials: Annotated[int, typer.Option("--trials", help="Settings that a search tries; 0: all, or 1000.")] = 0,
    held_out: Annotated[float, typer.Option("--held-out", help="Share of prompts kept out of the choice.")] = 0.25,
    n_predict: Annotated[int, typer.Option("--n-predict", "-n", help="Most tokens of an answer; 0: as recorded.")] = 0,
    carry_state: o.CarryState = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes; 0: as many as pay.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the search and of the held-out split.")] = 0,
    results: o.Results = o.DEFAULT_RESULTS,
    json: o.Json = False,
) -> None:
    """Try strategies on a recorded target: acceptance, and with costs the speed; no model is needed."""
    from specdec.replay.job import replay as run_replay
    from specdec.replay.run import ReplayOptions
    from specdec.spec import check

    options = check(
        ReplayOptions,
        "replay",
        {
            "trace": trace,
            **own_strategies(strategies, strategy),
            "n_predict": n_predict or None,
            "carry_state": carry_state,
            "costs": costs,
            "jobs": jobs,
            "search": search or bool(trials),
            "trials": trials,
            "held_out": held_out,
            "seed": seed,
        },
    )
    from specdec.cli.progress import watched

    with watched() as watcher:
        folder = run_replay(options, results, watcher)
    show(folder, json)


def finish(run: Run, json: bool) -> None:
    """Finish an interrupted replay."""
    from specdec.cli.progress import watched
    from specdec.replay.job import resume

    with watched() as watcher:
        folder = resume(run, watcher)
    show(folder, json)


def show(folder: Path, json: bool) -> None:
    """Print a finished replay."""
    from specdec import store
    from specdec.report import tables

    run = store.read_run(folder)
    if json:
        _print_json(run)
    else:
        typer.echo(tables.as_text(run, width=terminal_width()))
    if all(s["status"] != "ok" for s in run.samples):
        raise typer.Exit(1)
    if not json:
        hint_page(folder)


def _print_json(run: Run) -> None:
    """One object in the shape of compare's, written row by row: a large grid has many."""
    import orjson

    from specdec.replay.job import all_rows

    head = {"run_id": run.id, "status": run.meta["status"], "labels": run.meta["labels"]}
    if "search" in run.meta:
        head["search"] = run.meta["search"]
    typer.echo(orjson.dumps(head).decode()[:-1] + ',"rows":[')
    comma = ""
    for row in all_rows(run):
        typer.echo(comma + orjson.dumps(row).decode())
        comma = ","
    typer.echo("]}")
