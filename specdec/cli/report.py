"""``specdec report``: from the store alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o
from specdec.cli.compare import terminal_width

if TYPE_CHECKING:
    from specdec.store import Run

_FILES = ("html", "svg", "png")
_FORMATS = {f".{f}": f for f in (*_FILES, "md", "json", "csv")} | {".htm": "html"}
"""By the name of the file that is written."""


@app.command()
def report(
    run: Annotated[
        str,
        typer.Argument(
            help="A run or a profile: its folder, its id, or `latest`; or a group (compare --card): its id.",
            autocompletion=complete.runs,
        ),
    ],
    other: Annotated[str, typer.Argument(help="A second run, to compare with the first, prompt by prompt.")] = "",
    results: o.Results = o.DEFAULT_RESULTS,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="text, markdown (md), json, html (a page in one file), svg, png (one picture); of runs also csv."
            " Default: as --out is called, else text.",
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write to this file instead of printing; html, svg and png want it."),
    ] = None,
    picture: Annotated[
        str, typer.Option("--picture", help="Which picture, for svg and png; default: the first of the page.")
    ] = "",
    redact: Annotated[
        bool, typer.Option("--redact", help="Leave out prompts, texts, token ids and paths: for sharing.")
    ] = False,
    target: Annotated[
        str, typer.Option("--target", "-m", help="The target's GGUF, for the texts of tokens in html, if it was moved.")
    ] = "",
    allow_differences: Annotated[
        bool, typer.Option("--allow-differences", help="Compare two runs of other prompts, settings or models.")
    ] = False,
    profile: Annotated[
        str,
        typer.Option("--profile", help="Predict from this profile; default: the newest that fits, if there is one."),
    ] = "",
) -> None:
    """A stored run's tables or its page, a profile's, a group's (`compare --card`), or two runs against each other; needs
    no model and no llama.cpp."""
    from specdec.errors import SpecdecError
    from specdec.redact import redacted
    from specdec.report import subjects

    format = format or _FORMATS.get(out.suffix.lower() if out else "", "text")
    runs, planned = _read(run, results)
    others, others_planned = _read(other, results) if other else ([], None)
    is_group = planned is not None
    if other and (is_group or others_planned is not None):
        raise SpecdecError("a group of runs is not compared with another.", "Name two of their runs.")
    if profile and (other or is_group):
        raise SpecdecError("--profile: a prediction stands beside one run.", "Name one run, or leave it out.")
    found = None if other or is_group else subjects.fitting_profile(runs[0], profile, results)
    if redact:
        runs, others = [redacted(r) for r in runs], [redacted(r) for r in others]
    if planned is not None:
        subject = subjects.of_group(runs, planned)
    elif other:
        subject = subjects.of_two(runs[0], others[0], allow_differences)
    else:
        subject = subjects.of_one(runs[0], found, target, None if out else terminal_width())
    if format in _FILES and out is None:
        raise SpecdecError(f"--format {format} wants a file.", f"Add --out report.{format}.")
    content = subject.made(format, picture)
    if out is None:
        typer.echo(content)
        return
    content = content if isinstance(content, bytes) else f"{content}\n".encode()
    out.write_bytes(content)
    typer.echo(f"{out} ({len(content) / 1e3:,.0f} kB)")


def _read(name: str, results: Path) -> tuple[list[Run], int | None]:
    """The run and None; or of the group of this name the runs that were begun, and how many were planned (0: not known)."""
    from specdec import store
    from specdec.errors import SpecdecError

    try:
        return [store.read_run(store.find_run(name, results))], None
    except SpecdecError:
        if not (group := store.find_group(name, results)):
            raise
    if not group.folders:
        raise SpecdecError(f"{group.folder}: no run was begun.", f"Go on with: specdec resume {group.folder}")
    return [store.read_run(folder) for folder in group.folders], len(group.specs)
