"""The picture of costs: what a target pass costs by its tokens, and what each strategy's steps give and need.

The physics: a step over n tokens costs C(n) plain tokens and, if all of its draft is accepted, emits n. Between the
curve and that line lies all that speculation can win (``specdec.why``: break-even).
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from specdec.metrics import ALL
from specdec.profile.steps import Spread
from specdec.report.html.facts import Facts, Standing
from specdec.report.html.style import LIGHT, color, figure, marker


def draw(f: Facts) -> Figure | None:
    """None where the run has no timed steps."""
    standing = of_all(f)
    if len(f.curve) < 2 and not standing:
        return None
    drawn = figure(3.3 + (0.55 + 0.21 * len(standing) if standing else 0))
    heights = [3.0, 0.3 + 0.21 * len(standing)] if standing else [1]
    axes = drawn.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _upper(axes[0], f, standing)
    if standing:
        _lower(axes[1], f, standing)
    return drawn


def _upper(ax: Axes, f: Facts, standing: list[Standing]) -> None:
    """The curve, the line of whole acceptance, and each strategy's mean step."""
    largest = max([*f.curve, *f.profile_curve, 2])
    ax.plot([1, largest], [1, largest], ":", color=LIGHT["soft"], label="gain if every token is accepted")
    _curve(ax, f.curve, "-", "cost C(n) of a pass over n tokens")
    _curve(ax, f.profile_curve, "--", "C(n) of the profile")
    for s in standing:
        number = f.number(s.arm)
        ax.plot(s.tokens, s.cost.acceptance_length, marker(number), color=color(number))
    _log(ax, largest, standing, f)
    ax.grid()
    ax.set_xlabel("tokens in a target pass, n (1 + draft)")
    ax.set_ylabel("plain tokens")
    ax.legend(loc="upper left", handlelength=1.8)


def _lower(ax: Axes, f: Facts, standing: list[Standing]) -> None:
    """AL against break-even, a line each."""
    for i, s in enumerate(standing):
        number, al, need = f.number(s.arm), s.cost.acceptance_length, s.cost.break_even
        ax.plot([need, al], [i, i], color=color(number))
        ax.plot(need, i, "|", color=LIGHT["ink"], markersize=10, markeredgewidth=2)
        ax.plot(al, i, marker(number), color=color(number))
    ax.set_yticks(range(len(standing)), [s.name if len(s.name) <= 30 else f"{s.name[:29]}…" for s in standing])
    ax.set_ylim(len(standing) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.set_xlabel("tokens a step: mark = AL, bar = break-even AL")


def of_all(f: Facts) -> list[Standing]:
    """Standings over all workloads (of the only one, where there is one)."""
    return [s for s in f.standings if s.workload == (ALL if ALL in f.workloads else f.workloads[0])]


def alt(f: Facts) -> str:
    """The picture in words."""
    points = ", ".join(f"C({n}) = {s.median:.2f}" for n, s in [*f.curve.items()][:12])
    stands = "; ".join(
        f"{s.name}: {s.tokens:.1f} tokens a pass, AL {s.cost.acceptance_length:.2f}, break-even"
        f" {s.cost.break_even:.2f}, {'pays' if s.pays else 'does not pay'}"
        for s in of_all(f)
    )
    return f"Cost of a target pass against one over 1 token: {points}. {stands}."


def _curve(ax: Axes, points: dict[int, Spread], line: str, label: str) -> None:
    if len(points) > 1:
        n, spreads = [*points], points.values()
        ax.plot(n, [s.median for s in spreads], line, color=LIGHT["ink"], label=label)
        low, high = [s.low for s in spreads], [s.high for s in spreads]
        ax.fill_between(n, low, high, color=LIGHT["soft"], alpha=0.25, linewidth=0)


def _log(ax: Axes, largest: int, standing: list[Standing], f: Facts) -> None:
    """Both axes by powers of 2: drafts of 1 and of 64 tokens in one picture."""
    highest = max([largest, *(p.high for p in f.curve.values()), *(s.cost.break_even for s in standing)])
    lowest = min([1.0, *(p.low for p in f.curve.values()), *(s.cost.break_even for s in standing)])
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    few = largest <= 10
    ticks = [1, 1.5, 2, 3, 4, 6, 8] if few else [1, 2, 4, 8, 16, 32, 64, 128]
    ax.set_xticks([t for t in ticks if t <= largest and t == int(t)])
    ax.set_yticks([t for t in ticks if t <= highest])
    ax.set_xlim(0.93, largest * 1.08)
    ax.set_ylim(lowest * 0.93, highest * 1.08)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="minor", length=0)
