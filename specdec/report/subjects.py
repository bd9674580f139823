"""What can be reported, and as what: a run, a profile, a group of runs, two runs against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from specdec.errors import SpecdecError
from specdec.store import Run

if TYPE_CHECKING:
    from specdec.profile.stored import Profile
    from specdec.report.html.write import Drawable

_DRAWN = ("html", "svg", "png")


@dataclass(frozen=True, slots=True)
class Subject:
    """``texts``: by format; ``drawn``: its page and pictures, which want matplotlib and jinja2."""

    texts: dict[str, Callable[[], str]]
    drawn: Callable[[], Drawable]

    def made(self, format: str, picture: str = "") -> str | bytes:
        """The report: text, or bytes of a page or a picture (the usual one where none is named)."""
        name = "md" if format == "markdown" else format
        if name in self.texts:
            return self.texts[name]()
        if name not in _DRAWN:
            raise SpecdecError(f"--format {format}: unknown here.", f"Known: {', '.join((*self.texts, *_DRAWN))}.")
        drawn = self.drawn()
        return drawn.page() if name == "html" else drawn.picture(picture, name)


def of_one(run: Run, profile: Profile | None, target: str = "", width: int | None = None) -> Subject:
    """A run, with the prediction of a profile that fits it, or a profile.

    Args:
        target: where the run's GGUF lies now.
        width: of the terminal; None: 80 columns.
    """
    if run.meta["kind"] == "profile":
        return _of_profile(run)
    from specdec.report import formats, tables

    costs = None
    if profile is not None:
        from specdec.profile.compare import pass_costs

        costs = pass_costs(run, profile)
    texts = {
        "text": lambda: tables.as_text(run, costs, width or tables.NARROW) + _predicted(run, profile, "simple"),
        "md": lambda: tables.as_markdown(run, costs) + _predicted(run, profile, "pipe"),
        "csv": lambda: formats.as_csv(run),
        "json": lambda: formats.as_json(run, costs),
    }
    return Subject(texts, lambda: _write().of_run(run, profile, target))


def _of_profile(run: Run) -> Subject:
    """A profile."""
    from specdec.report import profile as tables

    texts = {
        "text": lambda: tables.as_text(run),
        "md": lambda: tables.as_markdown(run),
        "json": lambda: tables.as_json(run),
    }
    return Subject(texts, lambda: _write().of_profile(run))


def of_group(runs: list[Run], planned: int) -> Subject:
    """The runs of one comparison of cards, and how many were planned (0: not known)."""
    from specdec.report import group as tables

    texts = {
        "text": lambda: tables.as_text(runs, planned),
        "md": lambda: tables.as_markdown(runs, planned),
        "csv": lambda: tables.as_csv(runs),
        "json": lambda: tables.as_json(runs, planned),
    }
    return Subject(texts, lambda: _write().of_group(runs, planned))


def of_two(a: Run, b: Run, allow_differences: bool) -> Subject:
    """Run B over run A."""
    from specdec.report import versus as tables
    from specdec.versus import versus

    compared = versus(a, b, allow_differences)
    texts = {
        "text": lambda: tables.as_text(compared),
        "md": lambda: tables.as_markdown(compared),
        "json": lambda: tables.as_json(compared),
    }
    return Subject(texts, lambda: _write().of_two(compared))


def fitting_profile(run: Run, name: str, results: Path) -> Profile | None:
    """The profile asked for, or the newest under ``results`` that fits; a replay observed nothing, so none is beside it.

    Raises:
        SpecdecError: the one asked for is of another machine, model or setting.
    """
    if run.meta["kind"] != "compare" or "trace" in run.meta:
        return None
    from specdec import store
    from specdec.profile.compare import find_profile, mismatches
    from specdec.profile.stored import Profile

    found = Profile(store.read_run(store.find_run(name, results))) if name else find_profile(run, results)
    if found is not None and (other := mismatches(run, found)):
        raise SpecdecError(
            f"profile {found.id} does not fit this run: other {', '.join(other)}.",
            f"For a prediction from its acceptance alone: specdec predict {found.id} --run {run.id}.",
        )
    return found


def _write() -> ModuleType:
    """What makes pages and pictures."""
    try:
        from specdec.report.html import write
    except ImportError as error:
        raise SpecdecError(f"html, svg, png: {error}.", "pip install matplotlib jinja2") from error
    return write


def _predicted(run: Run, profile: Profile | None, style: str) -> str:
    """Prediction beside observation, where a profile fits the run."""
    if profile is None:
        return ""
    from specdec.profile.compare import prediction_rows
    from specdec.report.prediction import beside_table

    return "\n\n" + beside_table(prediction_rows(run, profile), profile, style)
