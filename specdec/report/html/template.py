"""What all pages are made of: templates, the style sheet, pictures with their tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from specdec.report.html.about import Table
from specdec.report.html.style import DARK, LIGHT, Picture, inline_svg

_FOLDER = "templates"


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture in a page, with its tables."""

    picture: Picture
    svg: Markup
    tables: list[Table]


def shown(picture: Picture, tables: Iterable[Table] = ()) -> Shown:
    """A picture to be shown, with those of its tables that hold anything."""
    return Shown(picture, Markup(inline_svg(picture.figure, picture.name)), [t for t in tables if t.cells])


def render(template: str, title: str, source: str, **values: Any) -> str:
    """A page. ``title`` of the browser's tab; ``source``: what the page is of, for its last line."""
    page = _environment().get_template(f"{template}.html.j2")
    return page.render(style=Markup(_style()), title=title, source=source, **values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("specdec.report.html", _FOLDER),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _style() -> str:
    """The style sheet, with the palette of the pictures."""
    light, dark = ("; ".join(f"--{k}: {v}" for k, v in palette.items()) for palette in (LIGHT, DARK))
    names = [f":root {{ {light} }}", f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"]
    sheet = files("specdec.report.html").joinpath(_FOLDER).joinpath("page.css").read_text(encoding="utf-8")
    return "\n".join([*names, sheet])
