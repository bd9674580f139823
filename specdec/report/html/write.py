"""Bytes of the page and of single pictures."""

from __future__ import annotations

from specdec.errors import SpecdecError
from specdec.profile.compare import prediction_rows
from specdec.profile.stored import Profile
from specdec.report.html.facts import Facts
from specdec.report.html.page import render
from specdec.report.html.pictures import PICTURES, draw
from specdec.report.html.style import as_png, as_svg
from specdec.store import Run


def page(run: Run, profile: Profile | None, target: str = "") -> bytes:
    """The page: HTML, UTF-8. ``target``: where the GGUF of the run's target lies now, for the texts of tokens."""
    return render(_facts(run, profile), target).encode()


def picture(run: Run, profile: Profile | None, name: str, format: str) -> bytes:
    """One picture, ``format`` svg or png."""
    if name not in PICTURES:
        raise SpecdecError(f"--picture {name}: unknown.", f"Known: {', '.join(PICTURES)}.")
    drawn = draw(name, _facts(run, profile))
    if drawn is None:
        raise SpecdecError(f"run {run.id} has nothing to show in the picture {name}.", "Try another picture.")
    return as_png(drawn.figure) if format == "png" else as_svg(drawn.figure, drawn.title, drawn.alt).encode()


def _facts(run: Run, profile: Profile | None) -> Facts:
    return Facts(run, profile, [] if profile is None else prediction_rows(run, profile))
