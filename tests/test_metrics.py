"""Rows from samples: hand-made numbers, the traps of the field, statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specdec.metrics import rows
from specdec.store import Run, Sample
from specdec.types import PHASES, Row


def sample(strategy: str, prompt: str, drafted: list[int], accepted: list[int], seconds: float, **more: Any) -> Sample:
    n = 1 + sum(a + 1 for a in accepted)
    fields: Sample = {
        "strategy": strategy, "rollback": "auto", "workload": "w", "prompt": prompt, "turn": 0, "repeat": 0,
        "warmup": False, "status": "ok", "error": None, "token_ids": list(range(n)), "generation_s": seconds,
        "end_to_end_s": seconds + 1.0, "ttft_s": 1.0, "phase_s": dict.fromkeys(PHASES, seconds / len(PHASES)),
        "steps": {"drafted": drafted, "accepted": accepted, "note": [None] * len(drafted)}, "memory": [], "n_redecoded": 0,
    }  # fmt: skip
    return fields | more


def run_of(*samples: Sample) -> Run:
    arms = [{"strategy": s, "rollback": "auto"} for s in dict.fromkeys(s["strategy"] for s in samples)]
    labels = {"engine": "specdec", "label": "real", "card": "CPU", "arm": "same split"}
    return Run(Path("x"), {"run_id": "x", "status": "finished", "labels": labels, "arms": arms}, list(samples))


def row(run: Run, strategy: str, workload: str = "all") -> Row:
    (found,) = [r for r in rows(run) if (r["strategy"], r["workload"]) == (strategy, workload)]
    return found


def plain(prompt: str, n: int, seconds: float, **more: Any) -> Sample:
    return sample("none", prompt, [0] * n, [0] * n, seconds, **more)


def test_counters_and_rates() -> None:
    run = run_of(plain("a", 5, 6.0), sample("s", "a", [3, 0, 2, 3], [3, 0, 0, 1], 2.0))
    got = row(run, "s")
    assert (got["drafted"], got["accepted"], got["target_passes"], got["drafting_steps"]) == (8, 4, 4, 3)
    assert got["acceptance_rate"] == 0.5
    assert got["mean_acceptance_length"] == 2.0, "over all steps, empty drafts included"
    assert got["mean_acceptance_length_drafting"] == pytest.approx(7 / 3)
    assert got["acceptance_by_position"] == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.5]
    assert got["conditional_acceptance"] == [pytest.approx(1 / 2), 1.0]
    assert got["accepted_lengths"] == [1, 1, 0, 1]
    assert got["tok_s"] == pytest.approx(9 / 2)
    assert got["speedup"] == pytest.approx((9 / 2) / (6 / 6))
    assert got["end_to_end_speedup"] == pytest.approx((9 / 3) / (6 / 7))


def test_a_strategy_that_drafted_nothing_is_inactive_not_zero() -> None:
    got = row(run_of(plain("a", 5, 6.0), sample("s", "a", [0, 0], [0, 0], 2.0)), "s")
    assert (got["status"], got["acceptance_rate"], got["acceptance_by_position"]) == ("inactive", None, [])
    assert got["mean_acceptance_length"] == 1.0
    assert got["mean_acceptance_length_drafting"] is None


def test_warm_ups_and_failures_never_enter_a_figure() -> None:
    good = [plain("a", 5, 6.0), sample("s", "a", [2], [1], 1.0)]
    bad = [
        plain("a", 5, 600.0, warmup=True),
        sample("s", "w", [9], [9], 99.0, warmup=True),
        {k: v for k, v in sample("s", "b", [9], [9], 99.0).items() if k not in ("steps", "token_ids")}
        | {"status": "error", "error": "boom"},
    ]
    got = row(run_of(*good, *bad), "s")
    wanted = row(run_of(*good), "s")
    assert got | {"failures": {}} == wanted
    assert got["failures"] == {"boom": 1}


def test_only_failures() -> None:
    failed = {"strategy": "s", "rollback": "auto", "workload": "w", "prompt": "a", "turn": 0, "repeat": 0}
    got = row(run_of(plain("a", 5, 6.0), {**failed, "warmup": False, "status": "error", "error": "boom"}), "s")
    assert (got["status"], got["tok_s"], got["speedup"], got["phase_seconds"]) == ("error", None, None, None)


def test_speedup_pairs_by_prompt() -> None:
    """A prompt that the strategy lacks must not count in the baseline either."""
    run = run_of(plain("a", 9, 10.0), plain("slow", 9, 1000.0), sample("s", "a", [0] * 9, [0] * 9, 5.0))
    assert row(run, "s")["speedup"] == pytest.approx(2.0)


def test_speedup_pairs_by_turn_and_repeat() -> None:
    """A missing repeat or turn of one side is left out of the other."""
    run = run_of(plain("a", 9, 10.0), plain("a", 9, 1000.0, repeat=1), sample("s", "a", [0] * 9, [0] * 9, 5.0))
    assert row(run, "s")["speedup"] == pytest.approx(2.0)


def test_notes_of_empty_drafts_are_not_counted() -> None:
    quiet = sample("s", "a", [0, 0], [0, 0], 1.0)
    quiet["steps"]["note"] = ["why not", "why not"]
    assert row(run_of(plain("a", 1, 1.0), quiet), "s")["drafted_by"] == {}


def test_different_texts_are_counted() -> None:
    same, other = sample("s", "a", [1], [0], 1.0), sample("s", "b", [1], [0], 1.0, token_ids=[7, 7])
    assert row(run_of(plain("a", 1, 1.0), plain("b", 1, 1.0), same, other), "s")["text_differs"] == [0]


def test_workloads_in_order_and_all_last() -> None:
    run = run_of(plain("a", 1, 1.0, workload="z"), plain("b", 1, 1.0, workload="y"))
    assert [r["workload"] for r in rows(run)] == ["z", "y", "all"]
