"""Estimates against known answers, verdicts over tables, and the promise that they keep on recorded spreads."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_1samp

from specdec.stats import EQUAL_WITHIN, Estimate, Pairs, estimate, judge, launch_spread
from specdec.stats.stability import again, unsteady
from specdec.stats.verdicts import corrected_p
from specdec.store import Sample

ROOT = Path(__file__).resolve().parent.parent


def bench(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def pairs(
    ours: np.ndarray, base: np.ndarray, strata: list[str] | None = None, launch: list[int] | None = None
) -> Pairs:
    """Seconds of 100 tokens, [prompts] or [prompts, rounds]."""
    ours, base = np.atleast_2d(ours.T).T, np.atleast_2d(base.T).T
    tokens = np.full_like(ours, 100.0)
    return Pairs(np.stack([tokens, ours, tokens, base], axis=-1), strata or ["w"] * len(ours), launch or [])


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_corrected_p_is_benjamini_and_hochbergs(n: int) -> None:
    p = np.random.default_rng(n).uniform(0, 1, n) ** 3
    p[0] = p[-1]
    assert corrected_p(p.tolist()) == pytest.approx(false_discovery_control(p, method="bh"))


class TestEstimate:
    def test_one_prompt_has_no_interval(self) -> None:
        got = estimate(pairs(np.array([5.0]), np.array([10.0])))
        assert got.value == pytest.approx(2.0)
        assert (got.interval(), got.mean_interval(), got.p_differs) == (None, None, 1.0)

    def test_sum_over_sum_and_geometric_mean(self) -> None:
        got = estimate(pairs(np.array([1.0, 100.0]), np.array([2.0, 50.0])))
        assert got.value == pytest.approx(52 / 101)
        assert got.mean == pytest.approx(1.0), "twice as fast here, half as fast there"

    def test_a_ratio_and_its_reciprocal_agree(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.uniform(1, 3, (2, 12))
        forth, back = estimate(pairs(a, b)), estimate(pairs(b, a))
        assert forth.value == pytest.approx(1 / back.value)
        assert forth.mean == pytest.approx(1 / back.mean)
        (low, high), (low_back, high_back) = forth.interval() or (0, 0), back.interval() or (0, 0)
        assert (low, high) == pytest.approx((1 / high_back, 1 / low_back))

    def test_equal_prompts_give_the_t_test(self) -> None:
        """Where every prompt weighs the same, the p-value is that of Student's t on the logarithms."""
        rng = np.random.default_rng(1)
        ours = np.exp(0.02 + 0.03 * rng.standard_normal(12))
        got = estimate(pairs(ours, np.ones(12)))
        wanted = ttest_1samp(np.log(ours), 0.0).pvalue
        assert got.p_differs == pytest.approx(wanted, rel=0.15)
        assert got.freedom == pytest.approx(11, rel=1e-6)

    def test_prompts_of_very_different_speed_cancel(self) -> None:
        base = np.array([1.0, 100.0, 3.0, 50.0, 9.0, 70.0])
        assert estimate(pairs(base / 1.1, base)).interval() == pytest.approx((1.1, 1.1))

    def test_workloads_are_strata(self) -> None:
        """Two workloads that differ in speedup, each without spread: nothing is unsure about these workloads."""
        base = np.ones(10)
        ours = np.repeat([0.5, 1.0], 5)
        apart = estimate(pairs(ours, base, ["a"] * 5 + ["b"] * 5))
        together = estimate(pairs(ours, base))
        assert apart.log_error == pytest.approx(0.0, abs=1e-12)
        assert together.log_error is not None
        assert together.log_error > 0.05

    def test_single_prompts_share_a_stratum(self) -> None:
        ours = np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
        alone = estimate(pairs(ours, np.ones(6), list("abcdef")))
        assert alone.log_error == estimate(pairs(ours, np.ones(6))).log_error
        joined = estimate(pairs(ours, np.ones(6), list("aaaaab")))
        assert joined.log_error == estimate(pairs(ours, np.ones(6))).log_error

    def test_a_burst_in_one_round_of_three_is_left_out(self) -> None:
        base = np.tile(np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]), 3)
        ours = base / 1.2
        ours[2, 1] *= 40
        assert estimate(pairs(ours, base)).value == pytest.approx(1.2)

    def test_what_slows_a_whole_round_cancels(self) -> None:
        rng = np.random.default_rng(2)
        slow = rng.uniform(1, 5, (8, 3))
        assert estimate(pairs(slow / 1.3, slow)).interval() == pytest.approx((1.3, 1.3))

    def test_a_missing_round_counts_for_nothing(self) -> None:
        base = np.ones((6, 3))
        got = pairs(base / 1.5, base, launch=[0, 1, 2])
        got.parts[4, 1] = 0
        assert estimate(got).value == pytest.approx(1.5)

    @pytest.mark.parametrize(("n", "strata"), [(5, 1), (20, 4)])
    def test_the_interval_covers(self, n: int, strata: int) -> None:
        """95 % intervals of a known ratio cover it in about 95 of 100 simulations, at 5 prompts too."""
        rng, covered = np.random.default_rng(3), 0
        for _ in range(400):
            ours = np.exp(0.1 * rng.standard_normal(n)) / 1.05
            low, high = estimate(pairs(ours, np.ones(n), [str(i % strata) for i in range(n)])).interval() or (9, 0)
            covered += low <= 1.05 / np.exp(0.005) <= high
        assert 0.92 <= covered / 400 <= 0.98

    def test_launches_that_differ_widen_the_interval(self) -> None:
        rng = np.random.default_rng(4)
        noise = np.exp(0.01 * rng.standard_normal((10, 3)))
        moved = noise * np.exp([-0.1, 0.0, 0.1])
        same, differ = (estimate(pairs(x, np.ones((10, 3)), launch=[0, 1, 2])) for x in (noise, moved))
        assert same.between_launches == 0
        assert differ.between_launches == pytest.approx(0.1, rel=0.1)
        assert differ.freedom < 3
        assert launch_spread(pairs(moved[:1], np.ones((1, 3)), launch=[0, 1, 2]).by_launch()) is None


def known(value: float, error: float, prompts: int = 20) -> Estimate:
    return Estimate(value, value, error, error, prompts - 1.0, prompts, 1, None)


class TestVerdicts:
    @pytest.mark.parametrize(
        ("value", "error", "prompts", "text"),
        [
            (1.3, 0.02, 20, "faster"),
            (0.8, 0.02, 20, "slower"),
            (1.0, 0.005, 20, "equal within 2 %"),
            (1.012, 0.002, 20, "equal within 2 %"),
            (1.0, 0.3, 10, "no difference shown"),
            (1.02, 0.005, 20, "faster"),
            (1.3, 0.02, 4, "cannot tell"),
        ],
    )
    def test_five_verdicts(self, value: float, error: float, prompts: int, text: str) -> None:
        (got,) = judge([known(value, error, prompts)])
        assert got is not None
        assert got.text == text

    def test_the_verdict_agrees_with_the_interval(self) -> None:
        """Alone in its table, a comparison is decided exactly where its 95 % interval decides."""
        rng = np.random.default_rng(5)
        for _ in range(300):
            e = known(float(np.exp(0.02 * rng.standard_normal())), float(rng.uniform(0.001, 0.02)), 12)
            low, high = e.interval() or (0, 9)
            (got,) = judge([e])
            assert got is not None
            if low >= 1 - EQUAL_WITHIN and high <= 1 + EQUAL_WITHIN:
                assert got.text == "equal within 2 %"
            else:
                assert (got.text in ("faster", "slower")) == (low > 1 or high < 1)

    def test_a_table_asks_for_more(self) -> None:
        weak = known(1.05, 0.022)
        (alone,) = judge([weak])
        among = judge([weak, *[known(1.0, 0.022)] * 30])
        assert alone is not None
        assert among[0] is not None
        assert (alone.text, among[0].text) == ("faster", "no difference shown")
        assert among[0].p == alone.p

    def test_rows_without_an_estimate_stay_out(self) -> None:
        assert judge([None, known(1.0, 0.1, 3)])[0] is None
        assert judge([]) == []


class TestPromise:
    """A smaller version of benchmarks/verdicts.py, on the recorded spread of the demo model against itself."""

    def test_tables_of_a_strategy_against_itself(self) -> None:
        bench_ = bench("verdicts")
        spread = bench_.load([ROOT / "results/reference/spread-demo.csv"])
        wrong, said = bench_.false_tables(spread, bench_.Table(launches=3), 60)
        assert wrong <= 5
        assert said.total() == 60 * 2 * 5

    def test_three_percent_are_found(self) -> None:
        bench_ = bench("verdicts")
        spread = bench_.load([ROOT / "results/reference/spread-demo.csv"])
        assert bench_.found(spread, bench_.Table(40, 3, 3, (1.03, 1.0)), 25) >= 18
        assert bench_.found(spread, bench_.Table(40, 3, 3, (0.97, 1.0)), 5) == 0

    def test_components_are_recovered(self) -> None:
        bench_ = bench("verdicts")
        rng = np.random.default_rng(6)
        spread = bench_.load([ROOT / "results/reference/spread-demo.csv"])
        blocks = [0.2 * rng.standard_normal() + 0.05 * rng.standard_normal((2, 3)) for _ in range(300)]
        quiet = replace(spread, blocks=blocks, launch_arm=0.0)
        cells = np.array([bench_._cell(quiet, 3, 2, rng) for _ in range(2000)])
        assert cells.std() == pytest.approx(np.hypot(0.2, 0.05), rel=0.1)
        assert np.sqrt(cells.var(axis=(1, 2), ddof=1).mean()) == pytest.approx(0.05, rel=0.1)


def generation(prompt: str, seconds: float, **more: object) -> Sample:
    fixed = {"strategy": "none", "rollback": "auto", "prompt": prompt, "turn": 0, "repeat": 0, "warmup": False}
    return {**fixed, "status": "ok", "token_ids": [0] * 10, "generation_s": seconds, **more}


class TestStability:
    def test_quiet_repeats_say_nothing(self) -> None:
        samples = [generation(p, 1.0 + 0.01 * r, repeat=r) for p in "ab" for r in range(3)]
        assert unsteady(samples, {}) == []
        assert unsteady([generation("a", 1.0)], {}) == []

    def test_repeats_and_launches_are_told_apart(self) -> None:
        repeats = [generation("a", 1.0 + r, repeat=r) for r in range(2)]
        (line,) = unsteady(repeats, {"target": "x y.gguf", "workloads": ["a", "b"]})
        assert line.startswith("Repeats of the same prompt spread by 49%")
        assert "a under none, 5.0-10.0 tok/s" in line
        assert "Something else used the machine" in line
        assert line.endswith("specdec compare --target 'x y.gguf' --workloads a,b --limit 0 --repeats 3 --launches 3")
        (line,) = unsteady([generation("a", 1.0 + x, launch=x) for x in range(2)], {})
        assert line.startswith("Launches of the same prompt")

    def test_other_texts_are_a_cause_too(self) -> None:
        (line,) = unsteady([generation("a", 1.0), generation("a", 2.0, repeat=1, token_ids=[1] * 10)], {})
        assert "The texts differ, or" in line

    def test_warm_ups_failures_and_other_turns_do_not_count(self) -> None:
        odd = [
            generation("a", 9.0, repeat=1, warmup=True),
            generation("a", 9.0, repeat=2, status="error"),
            generation("a", 9.0, turn=1),
        ]
        assert unsteady([generation("a", 1.0), *odd], {}) == []

    def test_the_command_keeps_all_options(self) -> None:
        spec = {
            "target": "m.gguf", "limit": None, "ignore_eos": True, "stop": ["x", "y"], "repeats": 4,
            "sampling": {"temp": 0.8}, "model": {"op_offload": False, "n_cpu_moe": 31},
        }  # fmt: skip
        wanted = (
            "specdec compare --target m.gguf --limit 0 --repeats 8 --launches 3 --ignore-eos --stop x --stop y --temp 0.8"
            " --n-cpu-moe 31 --no-op-offload"
        )
        assert again(spec) == wanted

    def test_a_quick_run_is_asked_for_as_a_whole_one(self) -> None:
        spec = {"target": "m.gguf", "quick": True, "n_predict": 64}
        wanted = "specdec compare --target m.gguf --limit 0 --n-predict 64 --repeats 3 --launches 3"
        assert again(spec) == wanted

    def test_a_run_of_a_group_has_no_command_of_its_own(self) -> None:
        spec = {"target": "m.gguf", "group": "g", "arm": "same VRAM", "card": "8 GB", "vram_limit": 7168}
        assert again(spec) is None
        (line,) = unsteady([generation("a", 1.0 + r, repeat=r) for r in range(2)], spec)
        assert line.endswith("End other programs, then run the whole group once more.")
