"""``specdec models``: those on this machine, those of a repository, downloads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import app
from specdec.cli.fetch import say

group = typer.Typer(
    help="List the models on this machine, show those of a repository, get one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(group, name="models")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


@group.callback()
def list_models(
    context: typer.Context,
    dir: Annotated[Path | None, typer.Option("--dir", help="Look in this folder too, with all below it.")] = None,
    json: Json = False,
) -> None:
    """List the GGUF models on this machine, and what each can be used as."""
    if context.invoked_subcommand is not None:
        return
    from specdec.errors import SpecdecError
    from specdec.models.local import find_models
    from specdec.models.roles import describe_models
    from specdec.models.stores import places
    from specdec.report import models as tables

    if dir is not None and not dir.is_dir():
        raise SpecdecError(f"--dir {dir}: there is no such folder.", "Check the path.")
    found = describe_models(find_models(more=dir))
    typer.echo(tables.as_json(found) if json else tables.as_text(found, places(Path(), dir)))


@group.command()
def files(
    name: Annotated[str, typer.Argument(metavar="hf:OWNER/REPO", help="A repository on Hugging Face.")],
    json: Json = False,
) -> None:
    """List the models of a repository on Hugging Face with their sizes; downloads nothing."""
    from specdec.models import hub
    from specdec.report import models as tables

    repository = hub.look_up(name)
    typer.echo(tables.files_as_json(repository) if json else tables.files_as_text(repository))


@group.command()
def get(
    name: Annotated[
        str,
        typer.Argument(metavar="hf:OWNER/REPO:QUANT", help="A model on Hugging Face; also hf:OWNER/REPO/FILE.gguf."),
    ],
) -> None:
    """Download a model into Hugging Face's cache, going on where an earlier try stopped; print its path."""
    from specdec.models import hub

    typer.echo(str(hub.fetch(name, say)))
    if sys.stdout.isatty():
        say(f"Use it: specdec compare --target {name}")
