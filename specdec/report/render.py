"""A run in the form that was asked for: tables, rows, the page, one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from specdec import store
from specdec.errors import SpecdecError
from specdec.profile.compare import find_profile, mismatches, prediction_rows
from specdec.profile.stored import Profile
from specdec.report import formats, tables
from specdec.report import profile as profiles
from specdec.report.prediction import beside_table
from specdec.store import Run

DRAWN = ("html", "svg", "png")
"""Formats that are for a file, not for a terminal."""


def render(run: Run, format: str, profile: Profile | None, picture: str, target: str) -> bytes:
    """A comparison or a profile as text, markdown (md), json; a comparison also as csv, html, svg, png.

    Args:
        run: what is shown.
        format: one of those names.
        profile: a prediction from it stands beside what was observed; None for none.
        picture: which picture, for svg and png.
        target: where the target's GGUF lies now, for the texts of tokens in html; may be empty.

    Raises:
        SpecdecError: an unknown format or picture.
    """
    if format in DRAWN and run.meta["kind"] == "compare":
        return _drawn(run, format, profile, picture, target)
    return f"{as_text(run, format, profile)}\n".encode()


def as_text(run: Run, format: str, profile: Profile | None) -> str:
    """A comparison as text, markdown (md), csv or json, a profile as text, markdown or json."""
    if run.meta["kind"] == "profile":
        return form(format, {"text": profiles.as_text, "md": profiles.as_markdown, "json": profiles.as_json})(run)
    known = {"text": tables.as_text, "md": tables.as_markdown, "csv": formats.as_csv, "json": formats.as_json}
    text = form(format, known)(run)
    if profile is None or format in ("csv", "json"):
        return text
    style = "simple" if format == "text" else "pipe"
    return text + "\n\n" + beside_table(prediction_rows(run, profile), profile, style)


def form(format: str, known: dict[str, Callable[..., str]]) -> Callable[..., str]:
    """The writer of a format, or an error that lists the known ones."""
    name = "md" if format == "markdown" else format
    if name not in known:
        raise SpecdecError(f"--format {format}: unknown.", f"Known: {', '.join(known)}.")
    return known[name]


def fitting_profile(run: Run, name: str, results: Path) -> Profile | None:
    """The profile asked for, or the newest that fits; a replay observed nothing, so none is beside it."""
    if run.meta["kind"] != "compare" or run.meta["labels"]["label"] == "trace":
        return None
    found = Profile(store.read_run(store.find_run(name, results))) if name else find_profile(run, results)
    if found is not None and (other := mismatches(run, found)):
        raise SpecdecError(
            f"profile {found.id} does not fit this run: other {', '.join(other)}.",
            f"For a prediction from its acceptance alone: specdec predict {found.id} --run {run.id}.",
        )
    return found


def _drawn(run: Run, format: str, profile: Profile | None, picture: str, target: str) -> bytes:
    try:
        from specdec.report.html import write
    except ImportError as error:
        raise SpecdecError(f"--format {format}: {error}.", "pip install matplotlib jinja2") from error
    if format == "html":
        return write.page(run, profile, target)
    return write.picture(run, profile, picture, format)
