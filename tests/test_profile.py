"""Prediction from a profile of which every cost is known must be exact."""

from __future__ import annotations

import numpy as np
import pytest
from timed import (
    GREEDY,
    TEXT,
    Time,
    TimedTarget,
    generations,
    measured,
)

from specdec.errors import SpecdecError
from specdec.forced.target import ForcedTarget
from specdec.profile.bench import Bench, Want
from specdec.profile.predict import Arm, expect, plain_step, predict_steps
from specdec.profile.stage import Outcome, Script, Scripted
from specdec.profile.steps import redecoded, same_shape
from specdec.report.prediction import expectations
from specdec.testing.fake import FakeTarget
from specdec.types import Sampling


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("n_max", [1, 3, 4, 5, 6])
def test_prediction_is_exact_where_the_costs_are(clock: Time, recurrent: bool, n_max: int) -> None:
    profile = measured(clock, recurrent)
    for snapshots, g in generations(clock, recurrent, n_max):
        name = "drafter" if any(g.steps.drafted) else "none"
        arm = Arm(name, "auto", snapshots, n_max)
        phases = predict_steps(g.steps.drafted, g.steps.accepted, profile, arm, g.n_prompt)
        # One pass in fifty of a point is the first after the memory was put back: it shows in the factor for all.
        for phase in ("propose", "verify", "roll_back"):
            assert phases[phase].sum() == pytest.approx(g.phase_s[phase], rel=5e-4, abs=1e-9), phase
        assert sum(v.sum() for v in phases.values()) == pytest.approx(g.generation_s, rel=5e-4)


@pytest.mark.parametrize("recurrent", [False, True])
def test_depth_costs_what_it_costs(clock: Time, monkeypatch: pytest.MonkeyPatch, recurrent: bool) -> None:
    monkeypatch.setattr(TimedTarget, "slope", 2e-5)  # a pass at depth 600 costs twice what one at 0 does
    profile = measured(clock, recurrent)
    for snapshots, g in generations(clock, recurrent, 3):
        arm = Arm("drafter" if any(g.steps.drafted) else "none", "auto", snapshots, 3)
        phases = predict_steps(g.steps.drafted, g.steps.accepted, profile, arm, g.n_prompt)
        # A point's steps lie a few tokens beside the mean depth of all.
        assert phases["verify"].sum() == pytest.approx(g.phase_s["verify"], rel=0.02)


def test_checkpoints_cost_what_they_cost(clock: Time) -> None:
    profile = measured(clock, True)
    drafted, accepted = [4, 4, 4], [0, 4, 2]
    for mode, save in (("checkpoint", 0.003), ("checkpoint-host", 0.007)):
        phases = predict_steps(drafted, accepted, profile, Arm("drafter", mode, 0, 4), 32)
        again = [0.010 + 0.002 * n + 0.001 for n in (1, 3)]
        expected = [save + 0.004 + again[0], save, save + 0.004 + again[1]]
        assert phases["roll_back"] == pytest.approx(expected, rel=5e-4)


def test_steps_of_the_curve_stay_steps_and_nothing_lies_beyond(clock: Time) -> None:
    profile = measured(clock, False)
    costs = profile.plain()[32]
    four, five = (costs.verify(np.array([n]), np.array([True]))[0] for n in (4, 5))
    assert five - four == pytest.approx(0.002 + 0.009)
    assert np.isnan(costs.verify(np.array([17]), np.array([True]))[0])
    phases = predict_steps([20], [0], profile, Arm("text", n_max=20), 32)
    assert np.isnan(phases["verify"][0])


def test_a_change_of_length_has_its_price(clock: Time) -> None:
    profile = measured(clock, False)
    arm = Arm("text", n_max=3)
    settled = predict_steps([3] * 4, [0] * 4, profile, arm, 32)["verify"]
    changing = predict_steps([3, 2, 3, 2], [0] * 4, profile, arm, 32)["verify"]
    assert settled[0] - settled[1] == pytest.approx(0.001)
    assert changing[2] == pytest.approx(settled[0])


def test_same_shape_sees_what_is_decoded_again() -> None:
    drafted, accepted = np.array([2, 2, 2, 2]), np.array([2, 1, 2, 2])
    assert same_shape(drafted, redecoded(drafted, accepted, False), 1).tolist() == [False, True, True, True]
    again = redecoded(drafted, accepted, True)
    assert again.tolist() == [0, 2, 0, 0]
    assert same_shape(drafted, again, 1).tolist() == [False, True, False, True]
    assert same_shape(drafted, redecoded(drafted, accepted, False), 2).tolist() == [False, False, True, True]


@pytest.mark.parametrize("rates", [[0.8, 0.7, 0.6], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
def test_expectation_is_the_mean_of_many_steps(clock: Time, rates: list[float]) -> None:
    profile = measured(clock, False, depths=(128,))
    rng = np.random.default_rng(0)
    accepted = np.cumprod(rng.random((4000, 3)) < np.array(rates), axis=1).sum(axis=1)
    phases = predict_steps(np.full(4000, 3), accepted, profile, Arm("drafter", n_max=3), 128)
    expected = expect(profile, "drafter", 3, rates, 128)
    assert expected is not None
    assert expected.tokens == pytest.approx((accepted + 1).mean(), rel=0.02)
    assert expected.tokens == pytest.approx(1 + sum(np.cumprod(rates)))
    assert expected.step == pytest.approx(sum(v.mean() for v in phases.values()), rel=0.01)
    assert expected.speedup == pytest.approx(expected.tokens / expected.break_even)
    assert expected.plain == pytest.approx(plain_step(profile, 128))


def test_predictions_stay_within_what_was_measured(clock: Time) -> None:
    profile = measured(clock, False)
    found = expectations(profile, [0.9] * 12, 64)
    assert [e.length for e in found] == [1, 2, 3, 4, 5, 6]
    assert expect(profile, "drafter", 9, [0.9] * 9, 64) is None
    with pytest.raises(SpecdecError, match="did not measure the strategy 'mtp'"):
        expect(profile, "mtp", 1, [0.9], 64)


def test_the_script_decides_and_the_memory_is_right(clock: Time) -> None:
    target, script = TimedTarget(clock, recurrent=True, snapshots=4), Script()
    text = lambda i: int(TEXT[i])  # noqa: E731
    bench = Bench(target, Scripted(None, script, text, 6), script, "auto", TEXT, GREEDY)
    bench.prefill(50)
    wants = [Want(k, a) for k, a in ((3, 1), (6, 2), (2, 2), (0, 0), (4, 0), (6, 6), (1, 1))]
    block = bench.run(wants)
    assert block.drafted == [w.length for w in wants]
    assert block.accepted == [w.accepted for w in wants]
    assert block.start == list(50 + np.concatenate([[0], np.cumsum(np.array(block.accepted) + 1)])[:-1])
    assert not target.memory.stale
    again = bench.run(wants)
    assert again.start == block.start
    bench.rewind()
    assert target.memory.tokens == TEXT[:49].tolist()
    assert not target.memory.stale


def test_a_forced_sampled_step_is_kept_and_rejected_too(clock: Time) -> None:
    script, text = Script(2, 1), lambda i: int(TEXT[i])
    bench = Bench(
        TimedTarget(clock), Scripted(None, script, text, 4), script, "auto", TEXT, Sampling(temperature=0.8, top_k=5)
    )
    bench.prefill(40)
    block = bench.run([Want(2, 1), Want(3, 3), Want(4, 0)])
    assert block.accepted == [1, 3, 0]


def test_the_outcome_is_what_the_script_wants() -> None:
    target = ForcedTarget(FakeTarget(), Outcome(Script(1, 1), lambda i: 7, 24))
    assert target.decode(np.array([3], np.int32), 0, "last").argmax() == 7
    assert target.decode(np.array([1, 2], np.int32), 1, "all").argmax(axis=1).tolist() == [2, 7]
    none = Outcome(Script(2, 0), lambda i: 5, 24)
    assert none.after(np.array([1, 5, 5], np.int32), 0).tolist() == [
        6,
        5,
        5,
    ]  # the draft is the text: refused all the same
