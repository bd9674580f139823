"""Pictures of cards: speed against VRAM in both arms, and memory by item against what the card has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from specdec.groups import SAME_SPLIT, SAME_VRAM, cards_of, group_rows
from specdec.metrics import BASELINE
from specdec.report.html.style import LIGHT, Picture, color, figure, legend_below, marker, short, stacked_bars
from specdec.report.names import arm_name, row_name, split_name
from specdec.store import Run
from specdec.types import Row
from specdec.vram.items import PROCESS
from specdec.vram.memory import GPU

_GIB, _MIB = 2**30, 2**20
_ARMS = {"same_split": SAME_SPLIT, "same_vram": SAME_VRAM}
_MOST_NAMES = 8
"""Strategies in a picture, plain decoding not counted: as many as there are colours."""


@dataclass(frozen=True, slots=True)
class Point:
    """A strategy on a card in one arm: what it takes of the GPU as planned, how fast it is."""

    arm: str
    card: str
    name: str
    split: str
    vram_bytes: int
    tok_s: float


def frontier(runs: list[Run]) -> Picture | None:
    """Speed against VRAM, a panel for each arm; None where neither memory nor speed is known."""
    points = _points(group_rows(runs))
    arms = [a for a in _ARMS.values() if any(p.arm == a for p in points)]
    if not arms:
        return None
    names = list(dict.fromkeys(p.name for p in points))[: _MOST_NAMES + 1]
    limits = _limits(runs)
    drawn = figure(0.6 + 2.9 * len(arms))
    axes = drawn.subplots(len(arms), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, arm in zip(axes, arms, strict=True):
        ax.set_title(arm)
        _lines(ax, [p for p in points if p.arm == arm], names)
        for card, limit in limits.items():
            ax.axvline(limit / 1024, color=LIGHT["soft"], linestyle="--", linewidth=1, zorder=0)
            ax.annotate(
                short_card(card), (limit / 1024, 0), (3, 4), textcoords="offset points", rotation=90, fontsize=8,
                ha="left", va="bottom", color=LIGHT["soft"],
            )  # fmt: skip
        ax.set_ylim(0, 1.1 * max(p.tok_s for p in points))
        every = [*(v / 1024 for v in limits.values()), *(p.vram_bytes / _GIB for p in points)]
        ax.set_xlim(0.93 * min(every), 1.08 * max(every))
        ax.grid()
        ax.set_ylabel("tok/s, all workloads")
    axes[-1].set_xlabel("GiB of VRAM, as planned")
    legend_below(drawn, axes[0])
    said = "; ".join(
        f"{p.card}, {p.arm}, {p.name} at {p.split}: {p.tok_s:.4g} tok/s, {p.vram_bytes / _GIB:.2f} GiB" for p in points
    )
    return Picture(
        "frontier",
        "Speed against VRAM",
        drawn,
        f"Speed and VRAM in both arms. {said}.",
        "A line joins one strategy on the cards. Above: all at the split that the most expensive needs, so what a strategy"
        " holds comes on top. Below: each at the split that its own memory leaves it, none at its own: the one that is"
        f" highest beside a card's dashed line is that card's best. Dashed: what one process may take of {_said(limits)}.",
    )


def memory(runs: list[Run]) -> Picture | None:
    """VRAM by item as planned, for each card and each split that a strategy has on it."""
    limits = _limits(runs)
    rows = group_rows(runs)
    cards = [(card, bars) for card in cards_of(runs) if (bars := _bars(runs, [r for r in rows if r["card"] == card]))]
    if not cards:
        return None
    kinds = list(dict.fromkeys(kind for _, bars in cards for _, by in bars for kind in by))
    count = sum(len(bars) for _, bars in cards)
    drawn = figure(0.8 + 0.32 * count + 0.45 * len(cards) + 0.2 * -(-len(kinds) // 3))
    axes = drawn.subplots(
        len(cards), 1, sharex=True, squeeze=False, height_ratios=[len(bars) + 0.6 for _, bars in cards]
    )[:, 0]
    said = []
    for ax, (card, bars) in zip(axes, cards, strict=True):
        names = [name for name, _ in bars]
        parts = [(k, [by.get(k, 0) / _GIB for _, by in bars], color(i % 9)) for i, k in enumerate(kinds)]
        widths = stacked_bars(ax, names, parts)
        ax.set_title(short_card(card))
        if card in limits:
            ax.axvline(limits[card] / 1024, color=LIGHT["ink"], linestyle="--", linewidth=1)
        said += [f"{card}, {name}: {width:.2f} GiB" for name, width in zip(names, widths, strict=True)]
    axes[-1].set_xlabel("GiB of VRAM, as planned")
    legend_below(drawn, axes[0])
    return Picture(
        "memory",
        "Memory by item",
        drawn,
        "VRAM as planned, by item. " + "; ".join(said) + ".",
        "Behind a name: layers whose experts lie in RAM, or layers on the GPU. Dashed: what one process may take of the"
        " card. context and kernels are the process's own; a strategy's weights, caches and snapshots are in their kinds.",
    )


def _lines(ax: Axes, points: list[Point], names: list[str]) -> None:
    """Each strategy's points from card to card."""
    for number, name in enumerate(names):
        mine = sorted((p.vram_bytes / _GIB, p.tok_s) for p in points if p.name == name)
        if mine:
            ax.plot(*zip(*mine, strict=True), marker=marker(number), color=color(number), label=short(name))


def _points(rows: list[Row]) -> list[Point]:
    """In both arms; plain decoding first."""
    plain: list[Point] = []
    drafting: list[Point] = []
    for r in rows:
        for key, arm in _ARMS.items():
            at = r[key]
            base = arm_name(r["engine"], BASELINE, "auto")
            for into, name, x in ((drafting, row_name(r), at), (plain, base, at["plain"])):
                if x and x["tok_s"] and x["vram_bytes"]:
                    split = split_name(x["n_cpu_moe"], x["gpu_layers"])
                    into.append(Point(arm, r["card"], name, split, x["vram_bytes"], x["tok_s"]))
    once = {(p.arm, p.card, p.name): p for p in reversed(plain)}
    return [*reversed(once.values()), *drafting]


def _bars(runs: list[Run], rows: list[Row]) -> list[tuple[str, dict[str, int]]]:
    """Of one card: by strategy and split in both arms, bytes by kind on the GPU; plain decoding first."""
    expected = {run.id: (run.meta.get("cap") or {}).get("expected", {}) for run in runs}
    arms = [(r["strategy"], r[arm]) for r in rows for arm in _ARMS]
    arms = [(BASELINE, at["plain"]) for _, at in arms if at["plain"]] + arms
    found: dict[tuple[str, str], dict[str, int]] = {}
    for label, at in arms:
        if label in expected.get(at["run"], {}):
            split = split_name(at["n_cpu_moe"], at["gpu_layers"]).removeprefix("--")
            found.setdefault((label, split), _by_kind(expected[at["run"]][label]))
    order = list(dict.fromkeys(label for label, _ in found))
    named = sorted(found.items(), key=lambda bar: (order.index(bar[0][0]), bar[0][1]))
    return [(f"{short(label, 16)}, {split}", by) for (label, split), by in named]


def _by_kind(items: list[dict[str, Any]]) -> dict[str, int]:
    """Bytes on the GPU; the weights first, what the process takes of its own last."""
    out: dict[str, int] = {}
    for i in sorted(items, key=lambda i: (i["owner"] == PROCESS, i["kind"] != "weights")):
        if i["device"] == GPU and i["bytes"]:
            out[i["kind"]] = out.get(i["kind"], 0) + i["bytes"]
    return out


def _limits(runs: list[Run]) -> dict[str, int]:
    """MiB that one process may take, by card."""
    return {_card(r): r.meta["cap"]["vram_limit_mib"] for r in runs if r.meta.get("cap")}


def _said(limits: dict[str, int]) -> str:
    return ", ".join(f"{card}: {limit:,} MiB" for card, limit in limits.items())


def _card(run: Run) -> str:
    return str(run.meta["labels"]["card"])


def short_card(card: str) -> str:
    """Without the GPU that it stands on, which the page names: ``emulated 8 GB, capped``."""
    start, _, rest = card.partition(" (")
    kept = rest.rstrip(")").split(", ")[-1]
    return f"{start}, {kept}" if rest else short(card)
