"""The pictures of a run. Each is a function of the facts; None where the run has nothing to show there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from specdec.metrics import ENGINE, Arm, arm_of
from specdec.profile.compare import PredictionRow
from specdec.report.html import costs
from specdec.report.html.facts import Facts
from specdec.report.html.forest import HOW_TO_READ, Bar, decided, forest, in_words
from specdec.report.html.memory import frontier, memory
from specdec.report.html.style import LIGHT, Picture, color, drawing, figure, legend_below, marker, short, stacked_bars
from specdec.types import PHASES, Row

_MOST_POSITIONS = 16
_MOST_LENGTHS = 8
_FEWEST_DRAFTS = 5
_PHASE_COLORS = {p: color(i) for p, i in zip(PHASES, (2, 5, 0, 3, 4, 6, 8), strict=True)}


def speedup(f: Facts) -> Picture | None:
    """Speedup over plain decoding by workload, with 95 % intervals."""
    groups: list[tuple[str, list[Bar]]] = []
    for workload in f.workloads:
        mine = [r for r in f.rows_of(workload) if arm_of(r) in f.drafting and r["speedup"] is not None]
        if mine:
            groups.append((workload, [_bar(f, r) for r in mine]))
    if not groups:
        return None
    return Picture(
        "speedup",
        "Speedup by workload",
        forest(groups, "speed against plain decoding (log scale)"),
        "Speed against plain decoding. " + in_words(groups),
        "Right of 1 is faster than plain decoding, left slower. " + HOW_TO_READ,
    )


def _bar(f: Facts, r: Row) -> Bar:
    arm = arm_of(r)
    ends = r["speedup_low"], r["speedup_high"]
    return Bar(f.name(arm), f.number(arm), r["speedup"], *ends, decided(r["verdict"]))


def positions(f: Facts) -> Picture | None:
    """Acceptance by position in the draft."""
    arms = [a for a in f.drafting if f.total[a]["acceptance_by_position"]]
    if not arms:
        return None
    drawn = figure(2.9)
    ax = drawn.add_subplot()
    said, cut = [], False
    for arm in arms:
        rates = f.total[arm]["acceptance_by_position"]
        cut |= len(rates) > _MOST_POSITIONS
        rates = rates[:_MOST_POSITIONS]
        number = f.number(arm)
        ax.plot(range(1, len(rates) + 1), rates, marker=marker(number), color=color(number), label=short(f.name(arm)))
        said.append(f"{f.name(arm)}: {', '.join(f'{r:.0%}' for r in rates)}")
    ax.set_ylim(0, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y")
    ax.set_xlabel("position in the draft")
    ax.set_ylabel("accepted / proposed there")
    legend_below(drawn, ax)
    more = f" The first {_MOST_POSITIONS} positions." if cut else ""
    return Picture(
        "positions",
        "Acceptance by position",
        drawn,
        "Share accepted at positions 1, 2, 3 ... over all workloads. " + "; ".join(said) + ".",
        f"Of the drafts that had a token at this position, the share in which it was accepted; all workloads.{more}",
    )


def lengths(f: Facts) -> Picture | None:
    """Histogram of how many tokens of a draft were accepted."""
    arms = [a for a in f.drafting if f.total[a]["accepted_lengths"]]
    if not arms:
        return None
    rows = -(-len(arms) // 2)
    drawn = figure(0.6 + 1.25 * rows)
    axes = drawn.subplots(rows, 2, sharey=True, squeeze=False)
    said = []
    for ax in axes.flat[len(arms) :]:
        ax.set_axis_off()
    for ax, arm in zip(axes.flat, arms, strict=False):
        counts = f.total[arm]["accepted_lengths"]
        binned = [*counts[:_MOST_LENGTHS], sum(counts[_MOST_LENGTHS:])][: max(len(counts), 2)]
        shares = np.array(binned) / sum(counts)
        ax.bar(range(len(shares)), shares, color=color(f.number(arm)), width=0.75)
        labels = [f"{i}+" if i == _MOST_LENGTHS else str(i) for i in range(len(shares))]
        ax.set_xticks(range(len(shares)), labels)
        ax.set_title(short(f.name(arm), 24))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.grid(axis="y")
        said.append(f"{f.name(arm)}: " + ", ".join(f"{n}: {s:.0%}" for n, s in zip(labels, shares, strict=True)))
    drawn.supxlabel("accepted tokens of a draft", fontsize=9.5, color=LIGHT["soft"])
    return Picture(
        "lengths",
        "Accepted lengths",
        drawn,
        "Share of drafts by number of accepted tokens. " + "; ".join(said) + ".",
        "Share of all drafts of which 0, 1, 2 ... tokens were accepted; all workloads. What was drafted and not"
        " accepted was paid for and thrown away.",
    )


def phases(f: Facts) -> Picture | None:
    """Milliseconds of a generated token by phase."""
    arms = [a for a in f.shown if f.total[a]["phase_seconds"] and f.total[a]["tok_s"]]
    if not arms:
        return None
    split = {}
    for arm in arms:
        seconds = f.total[arm]["phase_seconds"]
        per = 1e3 / f.total[arm]["tok_s"] / (sum(seconds.values()) or 1)
        split[arm] = {p: seconds[p] * per for p in PHASES}
    used = [p for p in ("verify", *(p for p in PHASES if p != "verify")) if any(v[p] for v in split.values())]
    drawn = figure(1.15 + 0.32 * len(arms))
    ax = drawn.add_subplot()
    parts = [(_phase(p), [split[a][p] for a in arms], _PHASE_COLORS[p]) for p in used]
    stacked_bars(ax, [f.name(a) for a in arms], parts)
    ax.set_xlabel("milliseconds for each generated token")
    legend_below(drawn, ax)
    said = "; ".join(
        f"{f.name(a)}: {sum(v.values()):.3g} ms, of it " + ", ".join(f"{_phase(p)} {v[p]:.2g}" for p in used if v[p])
        for a, v in split.items()
    )
    return Picture(
        "phases",
        "Where the time goes",
        drawn,
        f"Milliseconds for each generated token, by phase. {said}.",
        "A shorter bar is faster. A strategy wins where what it adds (drafting, catching up, rolling back) is less than"
        " what fewer target passes save.",
    )


def prediction(f: Facts) -> Picture | None:
    """Predicted beside observed speed."""
    known = [r for r in f.predictions if r.predicted and r.observed and arm_of_prediction(r) in f.shown]
    if not known or f.profile is None:
        return None
    drawn = figure(3.6)
    ax = drawn.add_subplot()
    seen: set[Arm] = set()
    for r in known:
        arm = arm_of_prediction(r)
        number = f.number(arm)
        label = None if arm in seen else short(f.name(arm))
        seen.add(arm)
        ax.plot([r.observed or 0.0], [r.predicted or 0.0], marker(number), color=color(number), label=label)
    values = [v for r in known for v in (r.observed, r.predicted) if v]
    ends = np.array([0.9 * min(values), 1.1 * max(values)])
    ax.plot(ends, ends, color=LIGHT["ink"], linewidth=1, zorder=1)
    ax.fill_between(ends, 0.9 * ends, 1.1 * ends, color=LIGHT["line"], alpha=0.5, linewidth=0, zorder=0)
    ax.set_xlabel("observed tok/s")
    ax.set_ylabel("predicted tok/s")
    ax.grid()
    legend_below(drawn, ax)
    near = sum(not r.flagged for r in known)
    return Picture(
        "prediction",
        "Prediction beside observation",
        drawn,
        f"Predicted against observed speed of {len(known)} strategies on workloads; {near} are within 10 %. "
        + "; ".join(
            f"{r.workload}, {r.strategy}: {r.observed:.4g} observed, {r.predicted:.4g} predicted" for r in known
        )
        + ".",
        f"From profile {f.profile.id} and the acceptance of this run. On the line: as predicted; in the band: within 10 %.",
    )


def arm_of_prediction(row: PredictionRow) -> Arm:
    """The arm of a prediction: specdec's own engine."""
    return ENGINE, row.strategy, row.rollback


def verify_cost(f: Facts) -> Picture | None:
    """The verify cost curve, break-even, and where each strategy stands."""
    drawn = costs.draw(f)
    if drawn is None:
        return None
    source = "Line: this run's own target passes (band: middle half)"
    dashed = f"; dashed: profile {f.profile.id}" if f.profile and f.profile_curve else ""
    return Picture(
        "verify-cost",
        "What a step costs, what it gives",
        drawn,
        costs.alt(f),
        f"{source}{dashed}. Speculation can win what lies between the curve and the dotted line; marks: the mean step of"
        " each strategy, all workloads. Below: what a step emits (mark) against what it costs in plain tokens, drafting"
        " and rolling back included (bar). A mark right of its bar pays.",
    )


PICTURES: dict[str, Callable[[Facts], Picture | None]] = {
    "speedup": speedup,
    "verify-cost": verify_cost,
    "phases": phases,
    "positions": positions,
    "lengths": lengths,
    "memory": memory,
    "frontier": frontier,
    "prediction": prediction,
}
"""By name, in the order of the page."""


def draw(name: str, f: Facts) -> Picture | None:
    """One picture in the project's style."""
    with drawing():
        return PICTURES[name](f)


def _phase(name: str) -> str:
    return {"propose": "draft", "catch_up": "catch up", "verify": "target pass", "roll_back": "roll back"}.get(
        name, name
    )
