"""From stored samples to rows: one per strategy, way of rolling back and workload, and one over all workloads.

Everything is derived on reading; undefined is None. Warm-ups and failures never enter a figure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.stats import Ratio, speed_ratio
from specdec.store import Run, Sample
from specdec.types import PHASES, Row

ALL = "all"
BASELINE = "none"

Group = list[Sample]


def rows(run: Run) -> list[Row]:
    """All rows of a run, workload by workload in the order of the run, ``all`` last."""
    measured = [s for s in run.samples if not s["warmup"]]
    groups: dict[tuple[str, str, str], Group] = defaultdict(list)
    for sample in measured:
        for workload in (sample["workload"], ALL):
            groups[sample["strategy"], sample["rollback"], workload].append(sample)
    arms = [(a["strategy"], a["rollback"]) for a in run.meta["arms"]]
    workloads = [*dict.fromkeys(s["workload"] for s in measured), ALL]
    out = []
    for workload in workloads:
        baseline = groups.get((BASELINE, "auto", workload), [])
        out += [_row(run, arm, workload, groups.get((*arm, workload), []), baseline) for arm in arms]
    return out


def _row(run: Run, arm: tuple[str, str], workload: str, group: Group, baseline: Group) -> Row:
    labels = run.meta["labels"]
    ok = [s for s in group if s["status"] == "ok"]
    fixed = {"strategy": arm[0], "workload": workload, "rollback": arm[1]}
    fixed |= {k: labels[k] for k in ("engine", "card", "arm", "label")}
    counts = _counts(ok)
    return {
        **fixed,
        "status": _status(arm[0], group, ok, counts["drafted"]),
        "prompts": len({s["prompt"] for s in ok}),
        "generations": len(ok),
        "failures": dict(Counter(s["error"] for s in group if s["status"] != "ok")),
        **_speeds(ok, baseline),
        **counts,
        "memory_bytes": _memory(ok),
        "text_differs": _text_differs(ok, baseline),
    }


def _status(strategy: str, group: Group, ok: Group, drafted: int) -> str:
    if not group:
        return "not run"
    if not ok:
        return str(group[0]["status"])
    return "inactive" if not drafted and strategy != BASELINE else "ok"


def _counts(ok: Group) -> dict[str, Any]:
    """Counters over all steps of all generations."""
    drafted = np.array([d for s in ok for d in s["steps"]["drafted"]], np.int64)
    accepted = np.array([a for s in ok for a in s["steps"]["accepted"]], np.int64)
    drafting = drafted > 0
    steps, n_drafted, n_accepted = len(drafted), int(drafted.sum()), int(accepted.sum())
    return {
        "drafted": n_drafted,
        "accepted": n_accepted,
        "target_passes": steps,
        "drafting_steps": int(drafting.sum()),
        "redecoded": sum(s["n_redecoded"] for s in ok),
        "acceptance_rate": _divide(n_accepted, n_drafted),
        "mean_acceptance_length": _divide(n_accepted + steps, steps),
        "mean_acceptance_length_drafting": _divide(int(accepted[drafting].sum() + drafting.sum()), int(drafting.sum())),
        "acceptance_by_position": _by_position(drafted, accepted),
        "conditional_acceptance": _conditional(drafted, accepted),
        "accepted_lengths": np.bincount(accepted[drafting]).tolist() if drafting.any() else [],
        "drafted_by": dict(
            Counter(n for s in ok for n, d in zip(s["steps"]["note"], s["steps"]["drafted"], strict=True) if n and d)
        ),
    }


def _by_position(drafted: npt.NDArray[np.int64], accepted: npt.NDArray[np.int64]) -> list[float]:
    """accepted at i / proposed at i, for i = 1 .. the longest draft."""
    longest = int(drafted.max(initial=0))
    return [float((accepted >= i).sum() / (drafted >= i).sum()) for i in range(1, longest + 1)]


def _conditional(drafted: npt.NDArray[np.int64], accepted: npt.NDArray[np.int64]) -> list[float | None]:
    """Of the drafts that had a token i and whose token i-1 was accepted, the share whose token i was: from i = 2 on."""
    longest = int(drafted.max(initial=0))
    return [
        _divide(int((accepted >= i).sum()), int(((accepted >= i - 1) & (drafted >= i)).sum()))
        for i in range(2, longest + 1)
    ]


def _speeds(ok: Group, baseline: Group) -> dict[str, Any]:
    ok = [s for s in ok if s["generation_s"] is not None]  # a replay without costs has counts alone
    first = [s["ttft_s"] for s in ok if s["ttft_s"] is not None]
    tokens, seconds = _total(ok, _tokens), _total(ok, _generation)
    base = [s for s in baseline if s["status"] == "ok"]
    ratio = _paired(ok, base, "generation_s")
    end_to_end = _paired(ok, base, "end_to_end_s")
    return {
        "tok_s": _divide(tokens, seconds),
        "ttft_s": _divide(sum(first), len(first)),
        "speedup": ratio and ratio.value,
        "speedup_low": ratio and ratio.low,
        "speedup_high": ratio and ratio.high,
        "verdict": ratio and ratio.verdict,
        "end_to_end_speedup": end_to_end and end_to_end.value,
        "phase_seconds": {p: _total(ok, lambda s, p=p: s["phase_s"][p]) for p in PHASES} if ok else None,
    }


def _paired(ok: Group, base: Group, clock: str) -> Ratio | None:
    """Speed against the baseline's on the generations that both have, added up by prompt."""
    if not ok or ok[0]["strategy"] == BASELINE:
        return None
    theirs = {_cell(s): s for s in base}
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for s in ok:
        b = theirs.get(_cell(s))
        if b is not None and s[clock] and b[clock]:
            pair = np.array([len(s["token_ids"]), s[clock], len(b["token_ids"]), b[clock]], np.float64)
            sums[s["prompt"]] = sums.get(s["prompt"], np.zeros(4)) + pair
    return speed_ratio(*np.array(list(sums.values())).T) if sums else None


def _cell(sample: Sample) -> tuple[str, int, int]:
    """What pairs a strategy's generation with the baseline's."""
    return sample["prompt"], sample["turn"], sample["repeat"]


def _memory(ok: Group) -> int | None:
    """The most that the strategy held in any generation, bytes."""
    return max((sum(m["bytes"] for m in s["memory"]) for s in ok if s["memory"] is not None), default=None)


def _text_differs(ok: Group, baseline: Group) -> list[int] | None:
    """For each generation whose tokens are not the baseline's, the index of the first one that differs."""
    plain = {_cell(s): s["token_ids"] for s in baseline if s["status"] == "ok"}
    pairs = [(s["token_ids"], plain[_cell(s)]) for s in ok if _cell(s) in plain]
    if not pairs:
        return None
    return [_first_difference(a, b) for a, b in pairs if a != b]


def _first_difference(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _tokens(sample: Sample) -> int:
    return len(sample["token_ids"])


def _generation(sample: Sample) -> float:
    return float(sample["generation_s"])


def _total(group: Group, value: Any) -> float:
    return float(sum(value(s) for s in group))


def _divide(a: float, b: float) -> float | None:
    return a / b if b else None
