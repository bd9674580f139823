"""Pictures of what a strategy holds, and of what that buys."""

from __future__ import annotations

from typing import Any

from specdec.metrics import Arm
from specdec.report.html.facts import Facts
from specdec.report.html.style import LIGHT, Picture, color, figure, legend_below, marker, short, stacked_bars
from specdec.vram.memory import GPU


def memory(f: Facts) -> Picture | None:
    """What each strategy holds beyond plain decoding, by item."""
    arms = [a for a in f.drafting if f.memory.get(a)]
    if not arms:
        return None
    held: dict[str, dict[Arm, float]] = {}
    for arm in arms:
        for item in f.memory[arm]:
            label = f"{item['kind']} ({item['device']})"
            held.setdefault(label, {}).setdefault(arm, 0.0)
            held[label][arm] += item["bytes"] / 2**20
    drawn = figure(1.0 + 0.32 * len(arms) + 0.2 * -(-len(held) // 2))
    ax = drawn.add_subplot()
    largest = sorted(held.items(), key=lambda kv: -sum(kv[1].values()))
    parts = [(k, [by.get(a, 0.0) for a in arms], color(1 + i % 8)) for i, (k, by) in enumerate(largest)]
    left = stacked_bars(ax, [f.name(a) for a in arms], parts)
    ax.set_xlabel("MiB beyond plain decoding")
    legend_below(drawn, ax, 2)
    said = "; ".join(f"{f.name(a)}: {total:.1f} MiB" for a, total in zip(arms, left, strict=True))
    return Picture(
        "memory",
        "Memory by item",
        drawn,
        f"Memory held beyond plain decoding. {said}.",
        "The generation that held most, by what it held and where. Strategies without a bar hold nothing there.",
    )


def frontier(f: Facts) -> Picture | None:
    """Speed against the memory that a strategy takes; of a run on a planned card against all VRAM that is planned."""
    cap = f.run.meta.get("cap") or {}
    held = _planned(f, cap) or {a: f.total[a]["memory_bytes"] for a in f.shown}
    speeds = {a: f.total[a]["tok_s"] for a in f.shown}
    points = [(n / 2**20, speeds[a], a) for a, n in held.items() if n is not None and speeds[a]]
    if len({p[0] for p in points}) < 2:
        return None
    drawn = figure(3.0)
    ax = drawn.add_subplot()
    ax.plot(*zip(*_unbeaten(points), strict=True), color=LIGHT["line"], linewidth=2.5, zorder=1)
    for mib, tok_s, arm in points:
        number = f.number(arm)
        ax.plot(mib, tok_s, marker(number), color=color(number), markersize=7.5, label=short(f.name(arm)))
    ax.set_ylim(0, 1.08 * max(p[1] for p in points))
    ax.grid()
    where = "RAM" if f.run.meta["labels"]["card"] == "CPU" else "memory"
    what = "MiB of VRAM, as planned" if cap else f"MiB of {where} beyond plain decoding"
    dashed = ""
    if cap:
        ax.axvline(cap["vram_limit_mib"], color=LIGHT["soft"], linestyle="--", linewidth=1, zorder=0)
        dashed = f" Dashed: what one process may take of {f.run.meta['labels']['card']}."
    ax.set_xlabel(what)
    ax.set_ylabel("tok/s, all workloads")
    legend_below(drawn, ax)
    return Picture(
        "frontier",
        "Speed against memory",
        drawn,
        f"Speed and {what}. "
        + "; ".join(f"{f.name(a)}: {tok_s:.4g} tok/s, {mib:.1f}" for mib, tok_s, a in points)
        + ".",
        f"The line joins what no other beats at its memory or less. Arm: {f.run.meta['labels']['arm']}.{dashed}",
    )


def _planned(f: Facts, cap: dict[str, Any]) -> dict[Arm, int | None]:
    """Bytes on the GPU that each arm was planned to take; empty without a cap."""
    expected = {s: sum(i["bytes"] for i in items if i["device"] == GPU) for s, items in cap.get("expected", {}).items()}
    return {a: expected.get(a[1]) for a in f.shown} if expected else {}


def _unbeaten(points: list[tuple[float, float, Arm]]) -> list[tuple[float, float]]:
    """The steps that join what no other beats at its memory or less."""
    best = 0.0
    line: list[tuple[float, float]] = []
    for mib, tok_s, _ in sorted(points, key=lambda p: (p[0], -p[1])):
        if tok_s > best:
            line += [(mib, best), (mib, tok_s)] if line else [(mib, tok_s)]
            best = tok_s
    return [*line, (max(p[0] for p in points), best)]
