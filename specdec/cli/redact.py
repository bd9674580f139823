"""``specdec redact``: a copy of a run that may be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o


@app.command()
def redact(
    run: Annotated[str, typer.Argument(help="A run: its folder, its id, or `latest`.", autocompletion=complete.runs)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the copy.")],
    results: o.Results = o.DEFAULT_RESULTS,
) -> None:
    """Copy a run without prompts, texts, token ids and paths; every figure of its report stays."""
    from specdec import store
    from specdec.redact import write_redacted

    folder = write_redacted(store.find_comparison(run, results), out)
    typer.echo(f"{folder}: without prompts, texts, token ids, logs and paths. Names of workloads and files are in it.")
