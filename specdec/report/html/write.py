"""Bytes of pages and of single pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from specdec.errors import SpecdecError
from specdec.profile.compare import prediction_rows
from specdec.profile.stored import Profile
from specdec.report.html import group, page, pictures, profile, versus
from specdec.report.html.facts import Facts
from specdec.report.html.style import Picture, as_png, as_svg
from specdec.store import Run
from specdec.versus import Versus


@dataclass(frozen=True, slots=True)
class Drawable:
    """What has a page and pictures: its name, its page, the names of its pictures (the first is the usual one)."""

    name: str
    render: Callable[[], str]
    pictures: Iterable[str]
    draw: Callable[[str], Picture | None]

    def page(self) -> bytes:
        """HTML, UTF-8."""
        return self.render().encode()

    def picture(self, name: str, format: str) -> bytes:
        """One picture, the usual one where ``name`` is empty; ``format`` svg or png."""
        name = name or next(iter(self.pictures))
        if name not in self.pictures:
            raise SpecdecError(f"--picture {name}: unknown.", f"Known: {', '.join(self.pictures)}.")
        drawn = self.draw(name)
        if drawn is None:
            raise SpecdecError(f"{self.name} has nothing to show in the picture {name}.", "Try another picture.")
        return as_png(drawn.figure) if format == "png" else as_svg(drawn.figure, drawn.title, drawn.alt).encode()


def of_run(run: Run, fitting: Profile | None, target: str = "") -> Drawable:
    """A run. ``fitting``: a profile that fits it; ``target``: where its GGUF lies now, for the texts of tokens."""
    facts = Facts(run, fitting, [] if fitting is None else prediction_rows(run, fitting))
    return Drawable(
        f"run {run.id}",
        lambda: page.render(facts, target),
        pictures.PICTURES,
        lambda name: pictures.draw(name, facts),
    )


def of_group(runs: list[Run], planned: int = 0) -> Drawable:
    """The runs of one comparison of cards, and how many were planned (0: not known)."""
    name = f"group {runs[0].meta['group']}"
    return Drawable(name, lambda: group.render(runs, planned), group.PICTURES, lambda name: group.draw(name, runs))


def of_profile(run: Run) -> Drawable:
    """A profile."""
    read = Profile(run)
    name = f"profile {run.id}"
    return Drawable(name, lambda: profile.render(read), profile.PICTURES, lambda name: profile.draw(name, read))


def of_two(compared: Versus) -> Drawable:
    """Two runs."""
    name = f"{compared.b.id} over {compared.a.id}"
    return Drawable(name, lambda: versus.render(compared), versus.PICTURES, lambda name: versus.draw(name, compared))
