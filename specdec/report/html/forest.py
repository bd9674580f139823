"""Ratios with their intervals, one below the other in groups: speedups by workload, one run over another."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from specdec.report.html.style import LIGHT, color, figure, marker, short

_TICKS: tuple[tuple[float, ...], ...] = (
    (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 1.75),
    (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10),
    (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
"""Of ratios, for narrow, wide and very wide axes."""
HOW_TO_READ = (
    "Bars: 95 % intervals. Filled marks: a verdict was reached, over all comparisons of the table; hollow: no difference"
    " shown, or too few prompts. A bar at the edge goes on beyond it."
)
_DECIDED = ("faster", "slower", "equal within 2 %")


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio: its name, the number of its colour, its interval (None: unknown), whether a verdict was reached."""

    name: str
    number: int
    value: float
    low: float | None
    high: float | None
    sure: bool


def decided(verdict: str | None) -> bool:
    """Whether a verdict says anything."""
    return verdict in _DECIDED


def forest(groups: list[tuple[str, list[Bar]]], label: str) -> Figure:
    """Named groups of ratios on a log scale, 1 marked. ``label``: of the scale."""
    drawn = figure(0.75 + 0.2 * sum(len(bars) + 1.4 for _, bars in groups))
    ax: Axes = drawn.add_subplot()
    at, ticks = 0.0, []
    for group, bars in groups:
        ax.text(0, -at, short(group), transform=ax.get_yaxis_transform(), weight="bold", va="center", ha="left")
        at += 1
        for bar in bars:
            if bar.low is not None and bar.high is not None:
                ax.plot([bar.low, bar.high], [-at, -at], color=color(bar.number), solid_capstyle="butt")
            face = color(bar.number) if bar.sure else LIGHT["ground"]
            ax.plot(bar.value, -at, marker(bar.number), color=color(bar.number), markerfacecolor=face)
            ticks.append((-at, bar.name))
            at += 1
        at += 0.4
    ax.axvline(1, color=LIGHT["ink"], linewidth=1)
    ax.set_yticks([t for t, _ in ticks], [short(n) for _, n in ticks])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-at + 0.4, 0.8)
    ax.spines["left"].set_visible(False)
    every = [bar for _, bars in groups for bar in bars]
    _ratio_axis(ax, [bar.value for bar in every], [end for bar in every for end in (bar.low, bar.high)])
    ax.set_xlabel(label)
    return drawn


def in_words(groups: list[tuple[str, list[Bar]]]) -> str:
    """The same as a sentence."""
    said = []
    for group, bars in groups:
        for bar in bars:
            interval = f" ({bar.low:.2f} to {bar.high:.2f})" if bar.low is not None else ""
            said.append(f"{group}, {bar.name}: {bar.value:.2f}{interval}")
    return "; ".join(said) + "."


def _ratio_axis(ax: Axes, values: list[float], intervals: list[float | None]) -> None:
    """A log axis of ratios that holds 1 and all values, few plain ticks; very wide intervals run beyond it."""
    known, ends = [v for v in values if v], [v for v in intervals if v]
    low, high = min(0.9, *known) * 0.97, max(1.1, *known) * 1.03
    low, high = max(min(low, *ends, low), 0.6 * low), min(max(high, *ends, high), 1.6 * high)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    steps = _TICKS[bisect([2.0, 8.0], high / low)]
    ax.set_xticks([s for s in steps if low <= s <= high])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0)
    ax.grid(axis="x")
