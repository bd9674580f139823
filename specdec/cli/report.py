"""``specdec report``: from the store alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o
from specdec.cli.compare import terminal_width

if TYPE_CHECKING:
    from specdec.profile.stored import Profile
    from specdec.store import Run

_FILES = ("html", "svg", "png")


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run: its folder, its id, or `latest`.", autocompletion=complete.runs)],
    other: Annotated[str, typer.Argument(help="A second run, to compare with the first, prompt by prompt.")] = "",
    results: o.Results = o.DEFAULT_RESULTS,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="text, markdown (md), json; of one run also csv, html (a page in one file), svg, png (one picture).",
        ),
    ] = "text",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write to this file instead of printing; html, svg and png want it."),
    ] = None,
    picture: Annotated[str, typer.Option("--picture", help="Which picture, for svg and png.")] = "speedup",
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
    """A stored run's tables or its page, or two runs against each other; needs no model and no llama.cpp."""
    from specdec import store
    from specdec.report.tables import NARROW

    runs = [store.read_run(store.find_run(name, results)) for name in (run, other) if name]
    found = _profile_of(runs[0], profile, results) if not other else None
    if redact:
        from specdec.redact import redacted

        runs = [redacted(r) for r in runs]
    if not other and format in _FILES and runs[0].meta["kind"] == "compare":
        _write(out, _drawn(runs[0], format, picture, found, target), format)
        return
    width = NARROW if out else terminal_width()
    text = _two(runs[0], runs[1], format, allow_differences) if other else _one(runs[0], format, found, width)
    if out is None:
        typer.echo(text)
    else:
        _write(out, f"{text}\n".encode(), format)


def _write(out: Path | None, content: bytes, format: str) -> None:
    from specdec.errors import SpecdecError

    if out is None:
        raise SpecdecError(f"--format {format} wants a file.", f"Add --out report.{format}.")
    out.write_bytes(content)
    typer.echo(f"{out} ({len(content) / 1e3:,.0f} kB)")


def _drawn(run: Run, format: str, picture: str, profile: Profile | None, target: str) -> bytes:
    """The page or a picture of a run."""
    from specdec.errors import SpecdecError

    try:
        from specdec.report.html import write
    except ImportError as error:
        raise SpecdecError(f"--format {format}: {error}.", "pip install matplotlib jinja2") from error
    if format == "html":
        return write.page(run, profile, target)
    return write.picture(run, profile, picture, format)


def _one(run: Run, format: str, profile: Profile | None, width: int) -> str:
    from specdec.report import formats, tables
    from specdec.report import profile as profiles

    if run.meta["kind"] == "profile":
        forms = {"text": profiles.as_text, "md": profiles.as_markdown, "json": profiles.as_json}
        return _form(format, forms)(run)
    forms = {"md": tables.as_markdown, "csv": formats.as_csv, "json": formats.as_json}
    text = _form(format, {"text": lambda run: tables.as_text(run, width), **forms})(run)
    if format in ("csv", "json"):
        return text
    return text + _predict(run, profile, "simple" if format == "text" else "pipe")


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


def _predict(run: Run, profile: Profile | None, style: str) -> str:
    """Prediction beside observation, where a profile fits the run."""
    if profile is None:
        return ""
    from specdec.profile.compare import prediction_rows
    from specdec.report.prediction import beside_table

    return "\n\n" + beside_table(prediction_rows(run, profile), profile, style)


def _profile_of(run: Run, name: str, results: Path) -> Profile | None:
    """The profile asked for, or the newest that fits; a replay observed nothing, so none is beside it."""
    if run.meta["kind"] != "compare" or "trace" in run.meta:
        return None
    from specdec import store
    from specdec.errors import SpecdecError
    from specdec.profile.compare import find_profile, mismatches
    from specdec.profile.stored import Profile

    found = Profile(store.read_run(store.find_run(name, results))) if name else find_profile(run, results)
    if found is not None and (other := mismatches(run, found)):
        raise SpecdecError(
            f"profile {found.id} does not fit this run: other {', '.join(other)}.",
            f"For a prediction from its acceptance alone: specdec predict {found.id} --run {run.id}.",
        )
    return found
