"""``specdec vocab``."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import app
from specdec.cli.fetch import headers_of


@app.command()
def vocab(
    target: Annotated[str, typer.Argument(help="A GGUF file, hf:OWNER/REPO:QUANT, or demo.")],
    draft: Annotated[str, typer.Argument(help="The same; demo-draft, demo-other.")],
) -> None:
    """Check from the headers alone whether a draft model speaks the target's vocabulary; exit code 1 if not."""
    from specdec.llama.vocab import match_vocabularies
    from specdec.models import model_path

    with headers_of(target, draft):
        found = match_vocabularies(model_path(target), model_path(draft))
    for reason in found.reasons:
        typer.echo(f"no: {reason}")
    for warning in found.warnings:
        typer.echo(f"warning: {warning}")
    typer.echo("compatible" if found.compatible else "not compatible")
    if not found.compatible:
        raise typer.Exit(1)
