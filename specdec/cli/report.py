"""``specdec report``: from the store alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o

if TYPE_CHECKING:
    from specdec.store import Run


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run: its folder, its id, or `latest`.", autocompletion=complete.runs)],
    other: Annotated[str, typer.Argument(help="A second run, to compare with the first, prompt by prompt.")] = "",
    results: o.Results = o.DEFAULT_RESULTS,
    format: Annotated[
        str, typer.Option("--format", "-f", help="text, markdown (md), csv or json; csv for one run only.")
    ] = "text",
    allow_differences: Annotated[
        bool, typer.Option("--allow-differences", help="Compare two runs of other prompts, settings or models.")
    ] = False,
    profile: Annotated[
        str,
        typer.Option("--profile", help="Predict from this profile; default: the newest that fits, if there is one."),
    ] = "",
) -> None:
    """Print a stored run's tables, or those of two runs against each other; needs no model and no llama.cpp."""
    from specdec import store

    a = store.read_run(store.find_run(run, results))
    if other:
        typer.echo(_two(a, store.read_run(store.find_run(other, results)), format, allow_differences))
    else:
        typer.echo(_one(a, format, profile, results))


def _one(run: Run, format: str, profile: str, results: Path) -> str:
    from specdec.report import formats, tables
    from specdec.report import profile as profiles

    if run.meta["kind"] == "profile":
        forms = {"text": profiles.as_text, "md": profiles.as_markdown, "json": profiles.as_json}
        return _form(format, forms)(run)
    text = _form(
        format, {"text": tables.as_text, "md": tables.as_markdown, "csv": formats.as_csv, "json": formats.as_json}
    )(run)
    if format in ("csv", "json"):
        return text
    return text + _predict(run, profile, results, "simple" if format == "text" else "pipe")


def _two(a: Run, b: Run, format: str, allow: bool) -> str:
    from specdec.report import versus as report
    from specdec.versus import versus

    form = _form(format, {"text": report.as_text, "md": report.as_markdown, "json": report.as_json})
    return form(versus(a, b, allow))


def _form(format: str, forms: dict[str, Callable[..., str]]) -> Callable[..., str]:
    from specdec.errors import SpecdecError

    name = "md" if format == "markdown" else format
    if name not in forms:
        raise SpecdecError(f"--format {format}: unknown.", f"Known: {', '.join(forms)}.")
    return forms[name]


def _predict(run: Run, name: str, results: Path, style: str) -> str:
    """Prediction beside observation, where a profile fits the run; a replay observed nothing."""
    if run.meta["labels"]["label"] == "trace":
        return ""
    from specdec import store
    from specdec.errors import SpecdecError
    from specdec.profile.compare import find_profile, mismatches, prediction_rows
    from specdec.profile.stored import Profile
    from specdec.report.prediction import beside_table

    found = Profile(store.read_run(store.find_run(name, results))) if name else find_profile(run, results)
    if found is None:
        return ""
    if other := mismatches(run, found):
        raise SpecdecError(
            f"profile {found.id} does not fit this run: other {', '.join(other)}.",
            f"For a prediction from its acceptance alone: specdec predict {found.id} --run {run.id}.",
        )
    return "\n\n" + beside_table(prediction_rows(run, found), found, style)
