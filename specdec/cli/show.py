"""``specdec show``: a generated text, each token marked by where it came from."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run: its folder, its id, or `latest`.", autocompletion=complete.runs)],
    sample: Annotated[
        str, typer.Argument(help="A sample: its number, or PROMPT/STRATEGY; left out: the list of samples.")
    ] = "",
    steps: Annotated[bool, typer.Option("--steps", help="A table with a line a step instead of the text.")] = False,
    target: Annotated[
        str, typer.Option("--target", "-m", help="The GGUF of the run's target, if it lies elsewhere now.")
    ] = "",
    results: o.Results = o.DEFAULT_RESULTS,
) -> None:
    """Show a generated text, each token marked: accepted from which strategy and position, bonus, or plain."""
    from rich.console import Console

    from specdec import store
    from specdec.report import show as report
    from specdec.report import tokens

    found = store.find_comparison(run, results)
    if not sample:
        typer.echo(report.list_table(found))
        return
    seen = tokens.view(found, tokens.find_sample(found, sample), tokens.find_pieces(found, target))
    if steps:
        typer.echo(report.steps_table(seen))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(report.as_text(found, seen, report.has_color(console)))
