"""``specdec export``: the winner of a stored run, for use elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run: its folder, its id, or `latest`.")],
    workload: Annotated[str, typer.Option("--workload", "-w", help="What won on this workload; all for all.")] = "all",
    format: Annotated[
        str, typer.Option("--format", "-f", help="llama-server, python or json; all for one after the other.")
    ] = "all",
    results: o.Results = o.DEFAULT_RESULTS,
) -> None:
    """Print the configuration that won a stored run: as a llama-server command, as Python, as JSON."""
    from specdec import export, store
    from specdec.errors import SpecdecError

    if format not in (*export.FORMATS, "all"):
        raise SpecdecError(f"--format {format}: unknown.", f"Known: {', '.join(export.FORMATS)}, all.")
    won = export.winner(store.find_comparison(run, results), workload)
    if format != "all":
        typer.echo(export.FORMATS[format](won))
        return
    for name, form in export.FORMATS.items():
        try:
            text = form(won)
        except SpecdecError as error:
            text = str(error)
        typer.echo(f"## {name}\n\n{text}\n")
