"""How pictures look: one palette for light and dark, told apart by marker too, and SVG that fits into a page.

Colours keep 4.5:1 against the page's ground in both modes. In a page they become CSS variables, so that a picture
follows the reader's mode; a picture alone keeps the light ones.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specdec.stats.pairs import Floats

LIGHT = {
    "ground": "#fffffe", "ink": "#1b1f24", "soft": "#59636f", "line": "#d3d8de",
    "s0": "#5f6771", "s1": "#0b62b1", "s2": "#b84400", "s3": "#00745a", "s4": "#8a3da8",
    "s5": "#8a5c00", "s6": "#b3246c", "s7": "#3c3f99", "s8": "#2f6f7a",
}  # fmt: skip
DARK = {
    "ground": "#14181d", "ink": "#e8ebee", "soft": "#a5afba", "line": "#3a424c",
    "s0": "#a0a8b1", "s1": "#6db3f4", "s2": "#ff9a5c", "s3": "#4ccfa4", "s4": "#d59cf2",
    "s5": "#efc352", "s6": "#ff8cc0", "s7": "#a5a9ff", "s8": "#82d0db",
}  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")
WIDTH = 4.4
"""Inches: a phone shows it a little smaller, and its text is still read."""

_FONTS = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_RC: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9.5,
    "svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "specdec",
    "figure.facecolor": LIGHT["ground"], "axes.facecolor": LIGHT["ground"], "savefig.facecolor": LIGHT["ground"],
    "text.color": LIGHT["ink"], "axes.labelcolor": LIGHT["soft"], "axes.edgecolor": LIGHT["line"],
    "xtick.color": LIGHT["soft"], "ytick.color": LIGHT["soft"], "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"], "grid.color": LIGHT["line"], "grid.linewidth": 0.7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
    "lines.linewidth": 1.6, "lines.markersize": 5.5,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn picture; ``alt`` says the same in words, ``caption`` how to read it."""

    name: str
    title: str
    figure: Figure
    alt: str
    caption: str


def color(number: int) -> str:
    """Of a series: 0 is plain decoding."""
    return LIGHT[f"s{number}"]


def marker(number: int) -> str:
    """Of a series."""
    return MARKERS[number % len(MARKERS)]


@contextmanager
def drawing() -> Iterator[None]:
    """Within it figures are made and saved in this style, whatever the user's matplotlib settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)
        yield


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, inches."""
    return Figure(figsize=(width, height), layout="constrained")


def as_png(drawn: Figure) -> bytes:
    """A picture alone, 200 dots an inch."""
    out = io.BytesIO()
    with drawing():
        drawn.savefig(out, format="png", dpi=200)
    return out.getvalue()


def as_svg(drawn: Figure, title: str, alt: str) -> str:
    """A picture alone, in light colours; text stays text."""
    out = io.StringIO()
    with drawing():
        drawn.savefig(out, format="svg", metadata={"Date": None, "Title": title, "Description": alt})
    return out.getvalue().replace("'DejaVu Sans'", _FONTS)


def inline_svg(drawn: Figure, name: str) -> str:
    """For a page: colours as variables, ids of its own, nothing that names an address."""
    svg = as_svg(drawn, "", "")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg\b([^>]*?) width="[\d.]+pt"', r"<svg\1", svg)
    svg = re.sub(r'<svg\b([^>]*?) height="[\d.]+pt"', r'<svg\1 aria-hidden="true" focusable="false"', svg)
    for key, value in LIGHT.items():
        svg = svg.replace(value, f"var(--{key})")
    return svg.strip()


def legend_below(drawn: Figure, ax: Axes, columns: int = 3) -> None:
    """The legend under everything, in as many columns as fit."""
    handles, labels = ax.get_legend_handles_labels()
    columns = min(columns, len(labels), 2 if max(map(len, labels), default=0) > 16 else columns)
    drawn.legend(handles, labels, loc="outside lower center", ncols=max(1, columns), handlelength=1.6)


def short(name: str, most: int = 30) -> str:
    """A name that fits."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def stacked_bars(ax: Axes, names: list[str], parts: list[tuple[str, list[float], str]]) -> Floats:
    """A horizontal bar for each name, the first on top, of ``parts`` (label, a width for each name, colour); returns the
    whole widths, [names]."""
    left = np.zeros(len(names))
    for label, widths, filled in parts:
        ax.barh(
            range(len(names)), widths, left=left, height=0.66, label=label, color=filled,
            edgecolor=LIGHT["ground"], linewidth=0.6,
        )  # fmt: skip
        left += np.array(widths)
    ax.set_yticks(range(len(names)), [short(n) for n in names])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    return left
