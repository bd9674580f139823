"""``specdec report``: from the store alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o

if TYPE_CHECKING:
    from specdec.store import Run


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run: its folder, its id, or `latest`.")],
    results: o.Results = o.DEFAULT_RESULTS,
    profile: Annotated[
        str,
        typer.Option("--profile", help="Predict from this profile; default: the newest that fits, if there is one."),
    ] = "",
    format: Annotated[str, typer.Option("--format", "-f", help="text, md, csv or json.")] = "text",
) -> None:
    """Print a stored run's tables; needs no model and no llama.cpp."""
    from specdec import store
    from specdec.errors import SpecdecError
    from specdec.report import formats, tables

    forms = {"text": tables.as_text, "md": tables.as_markdown, "csv": formats.as_csv, "json": formats.as_json}
    if format not in forms:
        raise SpecdecError(f"--format {format}: unknown.", f"Known: {', '.join(forms)}.")
    found = store.read_run(store.find_run(run, results))
    if found.meta["kind"] == "profile":
        from specdec.report import profile as profiles

        forms = {"text": profiles.as_text, "md": profiles.as_markdown, "json": profiles.as_json}
        if format not in forms:
            raise SpecdecError(f"--format {format}: not for profiles.", f"Known: {', '.join(forms)}.")
    typer.echo(forms[format](found))
    if found.meta["kind"] == "compare" and format in ("text", "md"):
        _predict(found, profile, results, "pipe" if format == "md" else "simple")


def _predict(run: Run, name: str, results: Path, style: str) -> None:
    """Prediction beside observation, where a profile fits the run."""
    from specdec import store
    from specdec.errors import SpecdecError
    from specdec.profile.compare import find_profile, mismatches, prediction_rows
    from specdec.profile.stored import Profile
    from specdec.report.prediction import beside_table

    found = Profile(store.read_run(store.find_run(name, results))) if name else find_profile(run, results)
    if found is None:
        return
    if other := mismatches(run, found):
        raise SpecdecError(
            f"profile {found.id} does not fit this run: other {', '.join(other)}.",
            f"For a prediction from its acceptance alone: specdec predict {found.id} --run {run.id}.",
        )
    typer.echo("\n" + beside_table(prediction_rows(run, found), found, style))
