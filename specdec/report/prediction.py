"""Tables of predictions: beside what a run observed, and from given acceptance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from specdec.metrics import ENGINE, PLAIN_MOVED
from specdec.profile.compare import CLEAR, FLAG, PredictionRow, drift, own_samples, unlike_strategy
from specdec.profile.predict import Expected, expect, lengths_of
from specdec.profile.steps import Ints
from specdec.profile.stored import Profile
from specdec.report.names import arm_name
from specdec.store import Run
from specdec.types import PHASES, Row

_NA = "n/a"
_SMALL_MS = 0.005


def beside_table(rows: list[PredictionRow], profile: Profile, style: str = "simple") -> str:
    """Predicted beside observed tok/s, and the difference by phase in milliseconds a step."""
    phases = [p for p in PHASES if any(max(map(abs, r.phases[p])) >= _SMALL_MS for r in rows if r.phases)]
    body = []
    for r in rows:
        differences = [f"{r.phases[p][0] - r.phases[p][1]:+.2f}" if r.phases else "" for p in phases]
        body.append(
            [r.workload, _name(r), *_speeds(r), _speedup(r), *(differences if r.observed else [""] * len(phases))]
        )
    heads = ["workload", "strategy", "observed", "predicted", "diff", "speedup", *(p.replace("_", " ") for p in phases)]
    notes = [
        f"Profile {profile.id}. diff: predicted over observed tok/s; speedup: observed / predicted against `none`; ! where"
        f" above {FLAG:.0%} apart. Then predicted less observed by phase, ms a step.",
        *_score(rows),
    ]
    if any(r.held > 0 for r in rows):
        most = max(rows, key=lambda r: r.held)
        notes.append(
            f"Up to {most.held:.0%} of the steps lie outside the measured depths ({_depths(profile)} tokens): costs are"
            " held at the nearest."
        )
    notes += [f"{r.strategy} on {r.workload}: no prediction: {r.why}." for r in rows if r.why]
    return f"{_titled('Prediction', style)}\n\n{_tabulate(body, heads, style)}\n\n" + "\n".join(dict.fromkeys(notes))


def _score(rows: list[PredictionRow]) -> list[str]:
    """How near the predictions came, and whether the machine had changed."""
    lines, speeds = [], [r for r in rows if r.difference is not None]
    ratios = [r.speedup_difference for r in rows if r.speedup_difference is not None]
    sides = [r.right_side for r in rows if r.right_side is not None]
    if speeds:
        near = sum(not r.flagged for r in speeds)
        lines.append(f"Within {FLAG:.0%}: {near} of {len(speeds)} in tok/s")
        if ratios:
            lines[0] += f", {sum(abs(d) <= FLAG for d in ratios)} of {len(ratios)} in speedup"
        if sides:
            lines[0] += f"; gain or loss predicted rightly in {sum(sides)} of {len(sides)} beyond {CLEAR:.0%}"
        lines[0] += "."
    moved = drift(rows)
    if moved is not None and abs(moved) > PLAIN_MOVED:
        word = "slower" if moved > 0 else "faster"
        lines.append(
            f"The machine was {abs(1 / (1 + moved) - 1):.0%} {word} in the run than in the profile: `none`, which drafts"
            " nothing, differs by so much. Trust the speedups; for tok/s take a profile beside the run."
        )
    return lines


def best_table(found: list[Expected], depth: int | None, style: str = "simple") -> str:
    """What every strategy and draft length would give; the best is marked."""
    sure = [e for e in found if not e.looks_back] or found
    best = max(sure, key=lambda e: e.speedup)
    body = []
    for e in found:
        drafting = e.seconds["propose"] + e.seconds["catch_up"] + e.seconds["translate"]
        rest = e.seconds["roll_back"] + e.seconds["sample"] + e.seconds["other"]
        ms = [f"{1e3 * v:.2f}" for v in (drafting, e.seconds["verify"], rest)]
        mark = " <- best" if e is best and e.speedup > 1 else ""
        speed = [f"{e.tok_s:.2f}", f"{e.speedup:.2f}{mark}"]
        body.append([e.strategy, e.length, f"{e.tokens:.2f}", f"{e.break_even:.2f}", *ms, *speed])
    heads = ["strategy", "draft", "AL", "break-even", "draft ms", "verify ms", "rest ms", "tok/s", "speedup"]
    where = f"At {depth:,} tokens of context" if depth else "At the depth of half of the answers"
    notes = [f"{where}, against plain decoding at {1 / best.plain:.2f} tok/s."]
    if any(e.looks_back for e in found):
        notes.append(
            "n-grams: as if they found a draft at every step, which depends on the text; so never marked best."
        )
    if best.speedup <= 1:
        notes.append("Nothing pays at this acceptance: plain decoding is best.")
    return _tabulate(body, heads, style) + "\n\n" + "\n".join(notes)


def expectations(profile: Profile, rates: Sequence[float], depth: int) -> list[Expected]:
    """Every strategy of the profile at every draft length that rates are given for."""
    found = []
    for strategy in dict.fromkeys(profile.strategies):
        for length in lengths_of(profile, strategy):
            if length <= len(rates) and (e := expect(profile, strategy, length, rates, depth)):
                found.append(e)
    return found


def from_run(run: Run, profile: Profile) -> dict[str, list[Expected]]:
    """By strategy, what its shorter drafts would give with the conditional acceptance that a run recorded over all
    workloads. Only of the longest draft recorded; only of strategies that the profile measured as they ran; only where
    every draft was whole: n-grams are as long as they are, and of drafts that lacked confidence nothing is known.
    """
    named = {s["label"]: s for s in run.meta["strategies"]}
    longest: dict[str, tuple[int, list[float], int]] = {}
    for label, described in named.items():
        options = described["options"]
        selective = options.get("p_min", 0.0) > 0 or options.get("n_min", 0) > 1
        if unlike_strategy(described, profile) or "n_max" not in options or selective:
            continue
        steps = [s for s in own_samples(run) if s["strategy"] == label]
        drafted = np.array([d for s in steps for d in s["steps"]["drafted"]], np.int64)
        accepted = np.array([a for s in steps for a in s["steps"]["accepted"]], np.int64)
        if any(c.looks_back for c in profile.drafting(described["name"])[1].values()) or not drafted.any():
            continue
        rates = _conditional(drafted, accepted)
        depth = int(np.median([s["n_prompt"] + len(s["token_ids"]) // 2 for s in steps]))
        if len(rates) > len(longest.get(described["name"], (0, [], 0))[1]):
            longest[described["name"]] = (len(rates), rates, depth)
    found = {}
    for name, (_, rates, depth) in longest.items():
        made = [expect(profile, name, k, rates, depth) for k in range(1, len(rates) + 1)]
        found[name] = [e for e in made if e is not None]
    return {name: made for name, made in found.items() if made}


def by_length(found: dict[str, list[Expected]]) -> str:
    """Tables of ``from_run``, one below the other."""
    every = [e for made in found.values() for e in made]
    if not every:
        return ""
    title = _titled("At every draft length, with the acceptance over all workloads", "simple")
    return f"{title}\n\n{best_table(every, None)}"


def _conditional(drafted: Ints, accepted: Ints) -> list[float]:
    """Conditional acceptance by position, from position 1 on."""
    rates = []
    for i in range(1, int(drafted.max()) + 1):
        reached = (drafted >= i) & (accepted >= i - 1)
        if not reached.any():
            break
        rates.append(float((accepted[reached] >= i).mean()))
    return rates


def as_rows(rows: list[PredictionRow]) -> list[Row]:
    """For JSON."""
    return [
        {
            "workload": r.workload,
            "strategy": r.strategy,
            "rollback": r.rollback,
            "observed_tok_s": r.observed,
            "predicted_tok_s": r.predicted,
            "difference": r.difference,
            "observed_speedup": r.speedups[0],
            "predicted_speedup": r.speedups[1],
            "speedup_difference": r.speedup_difference,
            "flagged": r.flagged,
            "why": r.why or None,
            "phase_ms": {p: {"predicted": a, "observed": b} for p, (a, b) in r.phases.items()},
            "held_depths": r.held,
        }
        for r in rows
    ]


def expected_row(e: Expected) -> Row:
    """For JSON."""
    return {
        "strategy": e.strategy,
        "draft_length": e.length,
        "mean_acceptance_length": e.tokens,
        "break_even": e.break_even,
        "tok_s": e.tok_s,
        "speedup": e.speedup,
        "phase_s": e.seconds,
    }


def _speeds(r: PredictionRow) -> list[str]:
    shown = [_NA if v is None else f"{v:.2f}" for v in (r.observed, r.predicted)]
    difference = "" if r.difference is None else f"{r.difference:+.1%}{' !' if r.flagged else ''}"
    return [*shown, difference]


def _speedup(r: PredictionRow) -> str:
    """Observed / predicted, or the one that there is."""
    shown = " / ".join(f"{v:.2f}" for v in r.speedups if v is not None)
    return f"{shown} !" if r.speedup_difference is not None and abs(r.speedup_difference) > FLAG else shown


def _name(r: PredictionRow) -> str:
    return arm_name(ENGINE, r.strategy, r.rollback)


def _depths(profile: Profile) -> str:
    return f"{profile.depths[0]:,} to {profile.depths[-1]:,}"


def _titled(title: str, style: str) -> str:
    return f"## {title}" if style == "pipe" else f"{title}\n{'=' * len(title)}"


def _tabulate(body: list[list[str]] | list[list[object]], heads: list[str], style: str) -> str:
    return str(tabulate(body, heads, style, disable_numparse=True))
