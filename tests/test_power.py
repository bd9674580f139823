"""Prompts weighed by how well their rounds agree, and what a table could have found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from specdec.report.power import could_find
from specdec.stats import Estimate, Pairs, estimate
from specdec.stats.power import Rounds, prompts_for, rounds_for, smallest_effect


def pairs(logs: np.ndarray, launch: list[int] | None = None) -> Pairs:
    """Log ratios of speed, [prompts, rounds], of 100 tokens in a second."""
    ones = np.ones_like(logs)
    return Pairs(np.stack([100 * ones, np.exp(-logs), 100 * ones, ones], axis=-1), ["w"] * len(logs), launch or [])


def test_one_round_leaves_all_prompts_alike() -> None:
    weights, uneven = pairs(np.array([[0.1], [0.5], [-0.3]])).trust()
    assert weights.tolist() == [1.0, 1.0, 1.0]
    assert uneven is None


def test_a_prompt_whose_rounds_disagree_counts_less() -> None:
    rng = np.random.default_rng(0)
    logs = 0.03 + 0.01 * rng.standard_normal((12, 3))
    logs[:3] += 0.4 * rng.standard_normal((3, 3))
    weights, _ = pairs(logs).trust()
    assert weights[:3].max() < 0.2 * weights[3:].min()
    assert weights.mean() == pytest.approx(1.0)
    steady, noisy = (
        estimate(pairs(logs)),
        estimate(replace(pairs(logs), parts=pairs(np.median(logs, 1)[:, None]).parts)),
    )
    assert steady.log_error is not None
    assert noisy.log_error is not None
    assert steady.log_error < 0.3 * noisy.log_error
    assert steady.value == pytest.approx(np.exp(0.03), rel=0.01)


def test_where_prompts_truly_differ_all_count_alike() -> None:
    """A strategy that gains on some texts: noise of a few per cent must not choose among them."""
    rng = np.random.default_rng(1)
    logs = np.repeat([0.0, 0.7], 10)[:, None] + rng.choice([0.005, 0.03], (20, 1)) * rng.standard_normal((20, 3))
    weights, uneven = pairs(logs).trust()
    assert weights.max() / weights.min() < 1.05
    assert uneven == pytest.approx(0.36, abs=0.03)


def test_a_prompt_with_fewer_rounds_is_weighed_too() -> None:
    got = pairs(0.05 + 0.01 * np.random.default_rng(2).standard_normal((8, 3)))
    got.parts[2, 1:] = 0
    weights, _ = got.trust()
    assert weights[2] < weights.max()
    assert estimate(got).value == pytest.approx(1.05, abs=0.01)


def of(error: float, uneven: float | None = 0.0, rounds: int = 3, launches: int = 3) -> Estimate:
    return Estimate(1.0, 1.0, error, error, 39.0, 40, launches, None, uneven, rounds)


def test_the_smallest_effect_is_found_about_as_often_as_it_says() -> None:
    """Normal noise, one strategy: planted at what one table says, found in about 80 of 100 others."""
    rng = np.random.default_rng(3)
    said = smallest_effect(estimate(pairs(0.02 * rng.standard_normal((40, 1)))), 1)
    assert said is not None
    found = sum(
        estimate(pairs(np.log1p(said) + 0.02 * rng.standard_normal((40, 1)))).p_differs <= 0.05 for _ in range(200)
    )
    assert 140 <= found <= 180


def test_rounds_and_prompts_that_would_find_it() -> None:
    assert rounds_for(of(0.005), 1) is None, "it can already"
    assert rounds_for(of(0.02), 1) == Rounds(3, 4)
    assert rounds_for(of(0.02, uneven=0.12), 1) is None, "prompts differ: rounds do not help"
    assert prompts_for(of(0.02, uneven=0.12), 1) == 152
    assert rounds_for(of(0.02, rounds=1, launches=1, uneven=None), 1) == Rounds(3, 2)
    few = replace(of(0.02), prompts=4)
    assert (smallest_effect(few, 1), rounds_for(few, 1), prompts_for(few, 1)) == (None, None, None)


def test_what_launches_differ_by_shrinks_with_launches_alone() -> None:
    """Each process moves the arm by 3 %: repeats in three of them would never find 3 %, and neither would prompts."""

    def table(launches: int, repeats: int, seed: int) -> Estimate:
        rng = np.random.default_rng(seed)
        moves = np.repeat(0.03 * rng.standard_normal(launches), repeats)
        order = np.repeat(np.arange(launches), repeats).tolist()
        return estimate(pairs(moves + 0.02 * rng.standard_normal((40, launches * repeats)), order))

    plan = rounds_for(table(3, 1, 4), 1)
    assert plan is not None
    assert plan.launches > 5
    assert prompts_for(table(3, 1, 4), 1) is None
    found = [smallest_effect(table(plan.launches, plan.repeats, seed), 1) for seed in range(20)]
    assert np.median([f for f in found if f is not None]) == pytest.approx(0.03, abs=0.01)


def test_the_note_says_it_in_two_lines() -> None:
    rows = [
        {"strategy": "mtp", "smallest_effect": 0.041, "needs": {"launches": 3, "repeats": 2}, "uneven": 0.1},
        {"strategy": "draft", "smallest_effect": 0.12, "needs": {"prompts": 200}, "uneven": 0.1},
        {"strategy": "none", "smallest_effect": None, "needs": None, "uneven": None},
    ]
    rows = [row | {"engine": "specdec", "rollback": "auto"} for row in rows]
    assert could_find(rows) == [
        "This table would have shown, about 80 times of 100, a difference over all of: mtp 4.1%, draft 12%.",
        "To find 3%: --launches 3 --repeats 2 (for 1 of 2 strategies; the others need more prompts).",
    ]
    assert could_find(rows[1:2])[1] == "To find 3%, about 200 prompts: more rounds of these will not do."
    assert could_find(rows[2:]) == []
    assert could_find([rows[0] | {"needs": None}])[1] == "Launches differ too much to plan for 3%: mtp."
