"""The tables of the page, as heads and cells of text."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from specdec.metrics import BASELINE, ENGINE, engine_ratios
from specdec.report.html.about import Table
from specdec.report.html.facts import Facts
from specdec.report.names import arm_name, row_name
from specdec.types import PHASES, Row

_MOST_ROWS = 400
"""Rows of a table: a grid of a thousand settings is for --format csv."""


def speed(f: Facts) -> Table:
    """What was measured, by workload and strategy."""
    heads = ["workload", "strategy", "prompts", "tok/s", "speedup", "95 %", "AL", "accepted", "MiB", "verdict"]
    cells = []
    for r in f.table:
        interval = "" if r["speedup_low"] is None else f"{r['speedup_low']:.2f} to {r['speedup_high']:.2f}"
        speedup = "" if r["strategy"] == BASELINE else _number(r["speedup"], ".2f")
        accepted = "n/a" if r["acceptance_rate"] is None else f"{r['acceptance_rate']:.0%}"
        held = "n/a" if r["memory_bytes"] is None else f"{r['memory_bytes'] / 2**20:.1f}"
        al = _number(r["mean_acceptance_length"], ".2f")
        numbers = [str(r["prompts"]), _number(r["tok_s"], ".2f"), speedup, interval, al, accepted, held]
        cells.append([r["workload"], row_name(r), *numbers, _verdict(r)])
    note = f"The first {_MOST_ROWS} of {len(cells)} rows." if len(cells) > _MOST_ROWS else ""
    return Table(heads, cells[:_MOST_ROWS], note=note)


def engines(f: Facts) -> Table:
    """specdec's speed over llama-server's."""
    cells = []
    for r in engine_ratios(f.run):
        interval = "" if r["ratio_low"] is None else f"{r['ratio_low']:.3f} to {r['ratio_high']:.3f}"
        cells.append(
            [r["workload"], r["strategy"], str(r["prompts"]), f"{r['ratio']:.3f}", interval, str(r["verdict"])]
        )
    heads = ["workload", "strategy", "prompts", "ratio", "95 %", "verdict"]
    return Table(heads, cells, note="specdec over llama-server, tok/s on the same prompts.")


def standings(f: Facts) -> Table:
    """Acceptance length against break-even, by workload."""
    heads = [
        "workload",
        "strategy",
        "tokens a pass",
        "AL",
        "break-even",
        "difference",
        "C(n)",
        "drafting",
        "rolling back",
    ]
    cells = []
    for s in sorted(f.standings, key=lambda s: f.workloads.index(s.workload)):
        c = s.cost
        curve = "" if c.n is None or c.verify is None else f"C({c.n}) = {c.verify:.2f}"
        drafting = sum(c.parts.get(p, 0.0) for p in ("propose", "catch_up", "translate"))
        numbers = [f"{v:.2f}" for v in (s.tokens, c.acceptance_length, c.break_even)]
        difference = f"{c.acceptance_length - c.break_even:+.2f}"
        cells.append(
            [s.workload, s.name, *numbers, difference, curve, f"{drafting:.2f}", f"{c.parts.get('roll_back', 0.0):.2f}"]
        )
    return Table(heads, cells, note="AL and costs of a step in plain tokens. A positive difference pays.")


def curve(f: Facts) -> Table:
    """The verify cost curve, point by point."""
    own, profile = f.curve, f.profile_curve
    cells = [
        [
            str(n),
            *([f"{p.median:.2f}", f"{p.low:.2f} to {p.high:.2f}", f"{p.n:,}"] if (p := own.get(n)) else [""] * 3),
        ]
        + ([f"{profile[n].median:.2f}" if n in profile else ""] if profile else [])
        for n in sorted({*own, *profile})
    ]
    heads = ["tokens", "C(n)", "middle half", "passes"] + ([f"profile {f.profile.id}"] if f.profile and profile else [])
    return Table(heads, cells, 0)


def predictions(f: Facts) -> Table:
    """Predicted beside observed."""
    cells = []
    for r in f.predictions:
        name = arm_name(ENGINE, r.strategy, r.rollback)
        off = "" if r.difference is None else f"{r.difference:+.1%}{' !' if r.flagged else ''}"
        speedups = [_number(v, ".2f") if v else "" for v in r.speedups]
        cells.append([r.workload, name, _number(r.observed, ".2f"), _number(r.predicted, ".2f"), off, *speedups, r.why])
    heads = [
        "workload",
        "strategy",
        "observed tok/s",
        "predicted",
        "difference",
        "observed speedup",
        "predicted",
        "why not",
    ]
    return Table(heads, cells, note="! marks differences above 10 %.")


def machine(f: Facts) -> Table:
    """What the machine did during the generations: medians and ranges."""
    machines = [m for s in f.measured if (m := s.get("machine"))]
    cells = []
    for label, key, unit, scale in (
        ("CPU clock", "cpu_mhz", "MHz", 1.0),
        ("our processor time", "cpu_own_cores", "cores", 1.0),
        ("other programs", "cpu_other_cores", "cores", 1.0),
        ("taken by the hypervisor", "cpu_stolen_cores", "cores", 1.0),
        ("RAM left", "ram_available_bytes", "GiB", 2.0**-30),
        ("major page faults", "major_faults", "a generation", 1.0),
    ):
        cells += _range(label, [m.get(key) for m in machines], unit, scale)
    cards: dict[int, list[dict[str, Any]]] = {}
    for card in (c for m in machines for c in m.get("gpus", ())):
        cards.setdefault(card["index"], []).append(card)
    for index, seen in sorted(cards.items()):
        for label, key, unit, scale in (
            ("SM clock", "sm_mhz", "MHz", 1.0),
            ("memory clock", "memory_mhz", "MHz", 1.0),
            ("power", "power_w", "W", 1.0),
            ("temperature", "temperature_c", "°C", 1.0),
            ("VRAM in use", "used_bytes", "GiB", 2.0**-30),
        ):
            cells += _range(f"GPU {index}: {label}", [c.get(key) for c in seen], unit, scale)
    return Table(["", "median", "lowest", "highest", ""], cells, 1)


def energy(f: Facts) -> Table:
    """Joules for a generated token."""
    cells = []
    for r in f.total.values():
        joules = r["joules_per_token"] or {}
        if joules:
            cells.append([row_name(r), *(_number(joules.get(part), ".3g") for part in ("gpu", "cpu"))])
    note = "Prompt and idle power included."
    return Table(["strategy", "GPU, J a token", "CPU package, J a token"], cells, 1, note)


def phase_seconds(f: Facts) -> Table:
    """Share of the time by phase, over all workloads."""
    cells = []
    for r in f.total.values():
        seconds = r["phase_seconds"]
        if seconds and (total := sum(seconds.values())):
            cells.append([row_name(r), _number(r["ttft_s"], ".3f"), *(f"{seconds[p] / total:.1%}" for p in PHASES)])
    heads = ["strategy", "first token, s", *(p.replace("_", " ") for p in PHASES)]
    return Table(heads, cells, 1)


def _verdict(row: Row) -> str:
    if row["status"] in ("ok", "inactive"):
        said = row["verdict"] or ""
        return f"{said}; inactive" if row["status"] == "inactive" else said
    return "not run" if row["status"] == "not run" else f"failed: {row['status']}"


def _range(label: str, values: Iterable[float | None], unit: str, scale: float) -> list[list[str]]:
    known = [v * scale for v in values if v is not None]
    if not known:
        return []
    return [[label, *(f"{v:,.4g}" for v in (median(known), min(known), max(known))), unit]]


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)
