"""The pictures of a profile."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from specdec.profile.stored import Profile
from specdec.profile.summary import DraftCost, checkpoints, draft_costs, prompt_speeds
from specdec.report.html.facts import relative
from specdec.report.html.style import LIGHT, Picture, color, figure, legend_below, marker, short, stacked_bars

_MOST_LINES = 8
"""As many as there are colours."""


def curve(p: Profile) -> Picture:
    """T(n) at each depth, and with snapshots where any were taken."""
    depths = p.depths[:_MOST_LINES]
    drawn = figure(3.5)
    ax = drawn.add_subplot()
    said = []
    for i, depth in enumerate(depths, 1):
        points = sorted(p.curve(depth).items())
        n, ms = [k for k, _ in points], [1e3 * s.median for _, s in points]
        ax.plot(n, ms, marker=marker(i), color=color(i), markersize=4, label=f"{depth:,} tokens of context")
        low, high = [1e3 * s.low for _, s in points], [1e3 * s.high for _, s in points]
        ax.fill_between(n, low, high, color=color(i), alpha=0.2, linewidth=0)
        said.append(f"at {depth:,} tokens: " + ", ".join(f"T({k}) = {v:.3g} ms" for k, v in zip(n, ms, strict=True)))
    kept, curves = max(p.by_snapshots().items())
    if kept:
        with_them = sorted(curves[depths[0]].verify_points[True].items())
        line = [1e3 * s.median for _, s in with_them]
        ax.plot([n for n, _ in with_them], line, "--", color=LIGHT["ink"], label=f"{kept} snapshots, {depths[0]:,}")
    _axes(ax, "tokens in a target pass, n", "milliseconds")
    legend_below(drawn, ax, 2)
    return Picture(
        "curve",
        "What a target pass costs",
        drawn,
        "Time of a target pass over n tokens. " + "; ".join(said) + ".",
        "T(n): a target pass over n tokens after one of the same length; band: middle half. The flatter, the cheaper it is"
        " to verify a draft. Dashed: with recurrent states kept for rollback.",
    )


def break_even(p: Profile) -> Picture | None:
    """C(n) against what a step gives at most, and the break-even AL of each strategy."""
    depth = p.depths[0]
    points = relative(p.curve(depth))
    if len(points) < 2:
        return None
    costs = [c for c in draft_costs(p) if c.depth == depth]
    largest = max(points)
    drawn = figure(3.6)
    ax = drawn.add_subplot()
    ax.plot([1, largest], [1, largest], ":", color=LIGHT["soft"], label="gain if every token is accepted")
    ax.plot([*points], [x.median for x in points.values()], color=LIGHT["ink"], label="C(n)")
    said = [f"C({n}) = {x.median:.2f}" for n, x in points.items()]
    for i, (name, mine) in enumerate(_by_strategy(costs), 1):
        n = [c.length + 1 for c in mine]
        lows, highs = zip(*(c.break_even for c in mine), strict=True)
        ax.plot(n, highs, marker=marker(i), color=color(i), markersize=4, label=short(name, 24))
        ax.fill_between(n, lows, highs, color=color(i), alpha=0.2, linewidth=0)
        said += [f"{name}, drafts of {c.length}: {c.break_even[0]:.2f} to {c.break_even[1]:.2f}" for c in mine]
    _axes(ax, "tokens in a target pass, n (1 + draft)", "plain tokens")
    legend_below(drawn, ax, 2)
    return Picture(
        "break-even",
        "What a step must give",
        drawn,
        f"At {depth:,} tokens of context. " + ", ".join(said) + ".",
        f"At {depth:,} tokens of context. Below the dotted line there is something to win. A draft of k tokens (n = k + 1)"
        " pays where the tokens that a step emits (AL) lie above its strategy's line, the break-even AL: C(n) with drafting"
        " and rolling back on top. Bands: from all of each draft kept to all rejected.",
    )


def drafting(p: Profile) -> Picture | None:
    """Milliseconds of drafting by draft length."""
    depth = p.depths[0]
    costs = [c for c in draft_costs(p) if c.depth == depth]
    if not costs:
        return None
    drawn = figure(3.1)
    ax = drawn.add_subplot()
    said = []
    for i, (name, mine) in enumerate(_by_strategy(costs), 1):
        n = [c.length for c in mine]
        never, always = ([1e3 * c.drafting_s[j] for c in mine] for j in (0, 1))
        ax.plot(n, always, marker=marker(i), color=color(i), markersize=4, label=short(name))
        ax.fill_between(n, never, always, color=color(i), alpha=0.2, linewidth=0)
        said += [f"{name}, {k}: {a:.3g} to {b:.3g} ms" for k, a, b in zip(n, never, always, strict=True)]
    one = 1e3 * p.curve(depth)[1].median
    ax.axhline(one, color=LIGHT["soft"], linestyle=":", label="a plain token, T(1)")
    ax.set_ylim(bottom=0)
    _ticks(ax, max(c.length for c in costs))
    ax.grid()
    ax.set_xlabel("tokens of a draft")
    ax.set_ylabel("milliseconds a step")
    legend_below(drawn, ax, 2)
    return Picture(
        "drafting",
        "What drafting costs",
        drawn,
        f"Drafting and catching up at {depth:,} tokens of context. " + "; ".join(said) + ".",
        f"At {depth:,} tokens of context, with what was kept before decoded first. Line: all of the draft before was kept;"
        " band: down to none of it.",
    )


def rollback(p: Profile) -> Picture | None:
    """Saving and restoring a state, and undoing a rejected draft by strategy."""
    depth = p.depths[0]
    saved = [c for c in checkpoints(p) if c.depth == depth]
    longest = [
        max(mine, key=lambda c: c.length) for _, mine in _by_strategy(c for c in draft_costs(p) if c.depth == depth)
    ]
    if not saved and not longest:
        return None
    names = [c.way if c.way != "checkpoint" else "checkpoint, on device" for c in saved]
    names += [f"{short(c.strategy, 16)}, draft of {c.length}" for c in longest]
    none = [0.0] * len(longest)
    parts = [
        ("save", [1e3 * c.save_s for c in saved] + none, color(1)),
        ("restore", [1e3 * c.restore_s for c in saved] + none, color(2)),
        ("undo a draft rejected whole", [0.0] * len(saved) + [1e3 * c.undo_s for c in longest], color(3)),
    ]
    drawn = figure(1.2 + 0.32 * len(names))
    ax = drawn.add_subplot()
    widths = stacked_bars(ax, names, [part for part in parts if any(part[1])] or parts[2:])
    for i, width in enumerate(widths):
        ax.annotate(f"{width:.2g}", (width, i), (3, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.set_xlim(0, 1.12 * max(widths.max(), 1e-6))
    ax.set_xlabel("milliseconds")
    legend_below(drawn, ax)
    said = "; ".join(f"{name}: {width:.3g} ms" for name, width in zip(names, widths, strict=True))
    size = f" A state is {saved[0].bytes / 2**20:.1f} MiB." if saved else ""
    return Picture(
        "rollback",
        "What rolling back costs",
        drawn,
        f"At {depth:,} tokens of context. {said}.",
        f"Saving and restoring the recurrent state, and what a step of each strategy pays to undo a draft that was rejected"
        f" whole, its checkpoint included.{size}",
    )


def prompts(p: Profile) -> Picture | None:
    """Speed of reading prompts by depth."""
    speeds = prompt_speeds(p)
    if not speeds:
        return None
    drawn = figure(3.0)
    ax = drawn.add_subplot()
    names = list(dict.fromkeys(s.strategy for s in speeds))[: _MOST_LINES + 1]
    said = []
    for i, name in enumerate(names):
        mine = sorted((s.end, s.tok_s) for s in speeds if s.strategy == name)
        ax.plot(*zip(*mine, strict=True), marker=marker(i), color=color(i), label=short(name))
        said.append(f"{name}: " + ", ".join(f"{v:.4g} to {end:,}" for end, v in mine))
    ax.set_ylim(bottom=0)
    ax.grid()
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    ax.set_xlabel("tokens of context reached")
    ax.set_ylabel("tokens a second")
    legend_below(drawn, ax)
    return Picture(
        "prompts",
        "How fast prompts are read",
        drawn,
        "Tokens a second, from each depth to the next. " + "; ".join(said) + ".",
        "From each depth to the next. A strategy with a layer or a model of its own reads the prompt a second time.",
    )


def _by_strategy(costs: Iterable[DraftCost]) -> list[tuple[str, list[DraftCost]]]:
    found: dict[str, list[DraftCost]] = {}
    for c in costs:
        found.setdefault(c.strategy, []).append(c)
    return list(found.items())[:_MOST_LINES]


def _axes(ax: Axes, x: str, y: str) -> None:
    """Both by powers of 2, plain numbers."""
    ax.set_yscale("log", base=2)
    _ticks(ax, int(ax.get_xlim()[1]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid()
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def _ticks(ax: Axes, largest: int) -> None:
    """Tokens by powers of 2."""
    ax.set_xscale("log", base=2)
    ax.set_xticks([t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if t <= largest])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(which="minor", length=0)
