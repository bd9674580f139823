"""What a search found, in words and tables (docs/replay.md explains them)."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

_NA = "n/a"


def as_text(found: dict[str, Any], style: str = "simple") -> str:
    """The search part of a replay's report."""
    parts = [_headline(found), _compared(found, style), _workloads(found, style), _flatness(found), _held_out(found)]
    if found["unit"] != "predicted tok/s":
        parts.append(
            "Ranked by tokens per target pass: no costs were given, so nothing here knows that a long draft costs more\n"
            "than a short one. Give --costs RUN or FILE to predict speed."
        )
    if "costs" in found:
        parts.append(_costs(found["costs"]))
    parts.append(f"Confirm it live:\n  {found['confirm']}")
    title = "## Search" if style == "pipe" else "Search\n======"
    return "\n\n".join([title, *parts])


def _headline(found: dict[str, Any]) -> str:
    tried = found["settings"] + found["failed"]
    some = f" of a grid of {found['grid']:,} (chosen by TPE)" if tried < found["grid"] else ""
    failed = f"{found['failed']:,} of them FAILED, the first was {found['first_failure']}\n" if found["failed"] else ""
    return (
        f"{tried:,} settings{some} on {found['tuning_prompts']} prompts, {found['held_out_prompts']} held out.\n{failed}"
        f"Best overall: {found['best']['strategy']}, {found['best']['value']:.2f} {found['unit']}."
    )


def _compared(found: dict[str, Any], style: str) -> str:
    body = [[r["strategy"], *(_figure(r[k]) for k in ("tuning", "held_out", "all"))] for r in found["compared"]]
    heads = [found["unit"], "tuning", "held out", "all prompts"]
    return str(tabulate(body, heads, style, disable_numparse=True, maxcolwidths=[44, None, None, None]))


def _workloads(found: dict[str, Any], style: str) -> str:
    body = [
        [w["workload"], w["best"], _figure(w["value"]), _figure(w["overall_best"]), f"{w['loss']:.1%}"]
        for w in found["workloads"]
    ]
    heads = ["workload", "its best setting", "its best", "overall best", "loss"]
    table = tabulate(body, heads, style, disable_numparse=True, maxcolwidths=[None, 44, None, None, None])
    return f"{table}\nloss: what the one setting for all costs against the workload's own best (tuning prompts)."


def _flatness(found: dict[str, Any]) -> str:
    flat = found["flatness"]
    near = ", ".join(f"{n} within {share}" for share, n in flat["within"].items())
    lines = [f"How flat: of {flat['of']:,} settings {near} of the best."]
    for key, (close, tried) in flat["options"].items():
        lines.append(f"  {key}: {_range(close)} within 2 % (tried {_range(tried)})")
    return "\n".join(lines)


def _held_out(found: dict[str, Any]) -> str:
    best = found["best"]
    if best["held_out"] is None:
        return "Nothing was held out (3 prompts of a workload are needed): the best may fit these prompts alone."
    gap = 1 - best["held_out"] / best["held_out_best"]
    return (
        f"Held-out prompts: the chosen setting is number {best['held_out_rank']} of {found['settings']:,} there,"
        f" {gap:.1%} below the best\n({best['held_out_best_strategy']})."
    )


def _costs(costs: dict[str, Any]) -> str:
    return (
        f"Costs: {costs['name']} on {costs['card']}; target passes measured over {_runs(costs['lengths'])} tokens, a\n"
        "straight line between neighbours: a best setting that lies in a gap is a guess."
    )


def _runs(lengths: list[int]) -> str:
    """1-4, 9, 17-33."""
    parts: list[list[int]] = []
    for n in lengths:
        if parts and n == parts[-1][-1] + 1:
            parts[-1][1:] = [n]
        else:
            parts.append([n])
    return ", ".join("-".join(map(str, part)) for part in parts)


def _range(ends: list[float]) -> str:
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _figure(value: float | None) -> str:
    return _NA if value is None else f"{value:.2f}"
