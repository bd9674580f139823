"""``specdec report``: from the store alone."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run: its folder, its id, or `latest`.", autocompletion=complete.runs)],
    results: o.Results = o.DEFAULT_RESULTS,
    format: Annotated[str, typer.Option("--format", "-f", help="text, md, csv or json.")] = "text",
) -> None:
    """Print a stored run's tables; needs no model and no llama.cpp."""
    from specdec import store
    from specdec.errors import SpecdecError
    from specdec.report import formats, tables

    forms = {"text": tables.as_text, "md": tables.as_markdown, "csv": formats.as_csv, "json": formats.as_json}
    if format not in forms:
        raise SpecdecError(f"--format {format}: unknown.", f"Known: {', '.join(forms)}.")
    typer.echo(forms[format](store.read_run(store.find_run(run, results))))
