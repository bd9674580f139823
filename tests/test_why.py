"""Sentences from hand-made steps."""

from __future__ import annotations

import math
from typing import Any

import pytest

from specdec.stats import Estimate
from specdec.store import Sample
from specdec.types import PHASES, Row
from specdec.why import setting_line, step_cost, why


def steps(strategy: str, drafted: list[int], accepted: list[int], verify_ms: list[float], **phases: float) -> Sample:
    """A generation whose target passes took ``verify_ms`` each, and its other phases these seconds in all."""
    verify = sum(verify_ms) / 1e3
    seconds = verify + sum(phases.values())
    us = [round(1e3 * ms) for ms in verify_ms]
    return {
        "strategy": strategy, "rollback": "auto", "workload": "story", "prompt": "p", "warmup": False, "status": "ok",
        "generation_s": seconds, "phase_s": dict.fromkeys(PHASES, 0.0) | {"verify": verify, **phases},
        "steps": {"drafted": drafted, "accepted": accepted, "wall_us": us, "verify_us": us},
    }  # fmt: skip


def row(strategy: str, verdict: str, speedup: float, **more: Any) -> Row:
    fixed = {"engine": "specdec", "strategy": strategy, "rollback": "auto", "workload": "story", "status": "ok"}
    return {**fixed, "verdict": verdict, "speedup": speedup, **more}


PLAIN = steps("none", [0] * 10, [0] * 10, [10.0] * 10)
LOSES = steps("mtp(n_max=4)", [4] * 10, [1] * 9 + [0], [32.0] * 10, propose=0.04)


def test_a_loss_is_explained_by_its_break_even() -> None:
    (line,) = why([row("mtp(n_max=4)", "slower", 0.53)], [PLAIN, LOSES])
    assert line == "mtp(n_max=4) loses on story: AL 1.9, break-even 3.6 (verify cost C(5) = 3.2, drafting 0.4)"


def test_speedup_is_al_over_break_even() -> None:
    cost = step_cost([LOSES], [PLAIN])
    assert cost is not None
    tokens, plain_s, ours_s = 19, 0.1, LOSES["generation_s"]
    assert cost.acceptance_length / cost.break_even == pytest.approx((tokens / ours_s) / (10 / plain_s))


def test_a_profile_takes_the_place_of_the_run_s_own_passes() -> None:
    (line,) = why([row("mtp(n_max=4)", "slower", 0.53)], [PLAIN, LOSES], costs={1: 0.02, 5: 0.05})
    assert "C(5) = 2.5" in line
    (line,) = why([row("mtp(n_max=4)", "slower", 0.53)], [PLAIN, LOSES], costs={1: 0.02, 6: 0.05})
    assert "C(5) = 3.2" in line, "a curve without that n says nothing of it"


def test_the_most_frequent_draft_is_the_one_named() -> None:
    mixed = steps("s", [0, 2, 2, 7], [0, 2, 2, 0], [10.0, 15.0, 17.0, 99.0])
    cost = step_cost([mixed], [PLAIN])
    assert cost is not None
    assert (cost.n, cost.verify) == (3, pytest.approx(1.6))


def test_only_prompts_that_both_have() -> None:
    elsewhere = {**PLAIN, "prompt": "other"}
    assert step_cost([LOSES], [elsewhere]) is None
    assert why([row("mtp(n_max=4)", "slower", 0.5)], [elsewhere, LOSES]) == []


def test_undecided_rows_and_warm_ups_say_nothing() -> None:
    assert why([row("mtp(n_max=4)", "no difference shown", 0.9)], [PLAIN, LOSES]) == []
    warm = [{**PLAIN, "warmup": True}, {**LOSES, "warmup": True}]
    assert why([row("mtp(n_max=4)", "slower", 0.5)], warm) == []


def test_largest_effects_first_and_inactive_last() -> None:
    wins = steps("s", [4] * 10, [4] * 10, [12.0] * 10)
    rows = [
        row("quiet", "no difference shown", 1.0, status="inactive"),
        row("quiet", "slower", 0.97, status="inactive", workload="chat"),
        row("mtp(n_max=4)", "slower", 0.8),
        row("s", "faster", 4.2),
    ]
    lines = why(rows, [PLAIN, LOSES, wins])
    assert [line.split(" on ")[0] for line in lines] == ["s wins", "mtp(n_max=4) loses", "quiet was inactive"]
    assert lines[2] == "quiet was inactive on story, chat: it drafted nothing"


def test_a_thread_sweep() -> None:
    ratio = Estimate(1 / 8, 1 / 8, math.log(8) / 6, 0.1, 9.0, 10, 1, None)
    assert setting_line("threads", 8, 16, ratio) == "16 threads are 8.0x slower than 8 (z = -6.0)"
    small = Estimate(1.061, 1.061, 0.02, 0.02, 9.0, 10, 1, None)
    assert setting_line("--flash-attn", "off", "on", small) == "--flash-attn on is 6.1% faster than off (z = +3.0)"
    assert setting_line("threads", 8, 16, Estimate(2.0, 2.0, None, None, 0.0, 1, 1, None)) is None
