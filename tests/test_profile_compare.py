"""A profile beside a run: differences by phase, machines that changed, profiles that do not fit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from timed import (
    DEPTHS,
    Time,
    generations,
    measured,
    settings,
)

from specdec.profile import plan
from specdec.profile.compare import PredictionRow, drift, mismatches, prediction_rows
from specdec.profile.costs import Costs
from specdec.profile.predict import Arm, predict_steps
from specdec.profile.steps import join_steps, level, slowness
from specdec.profile.stored import Profile
from specdec.replay.cost import ProfileCosts
from specdec.report.prediction import beside_table
from specdec.store import Run, read_run

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"


def test_run_and_profile_side_by_side(clock: Time) -> None:
    profile = measured(clock, True)
    run = _run(clock, profile, True)
    assert mismatches(run, profile) == []
    rows = prediction_rows(run, profile)
    assert [r.strategy for r in rows] == ["none", "drafter", "other"]
    for r in rows[:2]:
        assert r.difference == pytest.approx(0.0, abs=5e-4)
        assert not r.flagged
        assert sum(p for p, _ in r.phases.values()) == pytest.approx(sum(o for _, o in r.phases.values()), rel=5e-4)
    assert rows[2].predicted is None
    assert rows[2].why == "not measured"
    assert drift(rows) == pytest.approx(0.0, abs=5e-4)
    assert "The machine was" not in beside_table(rows, profile)
    slower = prediction_rows(_run(clock, profile, True, stretch=1.2), profile)
    assert all(r.flagged for r in slower[:2])
    assert slower[0].difference == pytest.approx(0.2, abs=0.01)
    assert slower[1].speedup_difference == pytest.approx(0.0, abs=1e-3)
    assert drift(slower) == pytest.approx(0.2, abs=0.01)
    text = beside_table(slower, profile)
    assert "Within 10%: 0 of 2 in tok/s, 1 of 1 in speedup" in text
    assert "The machine was 17% slower in the run" in text


@pytest.mark.parametrize(
    ("observed", "predicted", "right"), [(1.2, 1.1, True), (1.2, 0.9, False), (0.8, 0.9, True), (1.04, 0.9, None)]
)
def test_the_side_of_one_counts_where_the_effect_is_clear(
    observed: float, predicted: float, right: bool | None
) -> None:
    row = PredictionRow("w", "s", "auto", 1.0, 1.0, "", {}, 0.0, (observed, predicted))
    assert row.right_side is right


def test_what_held_the_machine_up_lengthens_all_costs_alike(clock: Time) -> None:
    """A burst in the passes of one length leaves the curve's shape as it is."""
    costs = measured(clock, False).plain()[32]
    passes, yes = np.array([1, 4]), np.ones(2, bool)
    before = costs.verify(passes, yes)
    stalled = dict(costs.steps.phase)
    stalled["verify"] = stalled["verify"].copy()
    hit = np.flatnonzero(costs.steps.drafted == 3)[0]
    stalled["verify"][hit] *= 3
    more = stalled["verify"].sum() / costs.steps.phase["verify"].sum()
    steps = replace(costs.steps, phase=stalled)
    after = Costs(steps, False, level([steps])).verify(passes, yes)
    assert level([costs.steps]) == pytest.approx(1.0, abs=0.01)
    assert after == pytest.approx(before / costs.level * more, rel=0.02)


def slowed(lines: list[dict[str, Any]], strategy: str) -> list[dict[str, Any]]:
    """Two of the four rounds of a strategy's settings took 1.5 times as long, in every phase."""
    return [
        line | {"phase_us": {phase: [1.5 * t for t in took] for phase, took in line["phase_us"].items()}}
        if line["strategy"] == strategy and line["round"] % 2
        else line
        for line in lines
    ]


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("strategy", [plan.TEXT, "drafter"])
def test_rounds_that_were_slow_as_a_whole_shift_no_cost_against_another(
    clock: Time, recurrent: bool, strategy: str
) -> None:
    quiet = measured(clock, recurrent)
    held = Profile(Run(quiet.run.folder, quiet.meta, slowed(quiet.run.samples, strategy)))
    before, after = (p.plain()[DEPTHS[0]].level for p in (quiet, held))
    took = [sum(np.array(s["phase_us"]["verify"])[s["counted"]].sum() for s in p.run.samples) for p in (quiet, held)]
    assert after / before == pytest.approx(took[1] / took[0], rel=1e-3)
    assert after > 1.02 * before
    for snapshots, g in generations(clock, recurrent, 4):
        arm = Arm("drafter" if any(g.steps.drafted) else "none", "auto", snapshots, 4)
        steps = (g.steps.drafted, g.steps.accepted)
        expected, found = (predict_steps(*steps, p, arm, g.n_prompt) for p in (quiet, held))
        for phase in expected:
            assert found[phase] / after == pytest.approx(expected[phase] / before, rel=1e-3, abs=1e-9), phase


def test_a_strategy_that_drafts_by_itself_has_plain_steps_in_every_round(clock: Time) -> None:
    """They say how fast the machine was, and are no part of what was measured; what looks back has none of them."""
    profile, drafter = measured(clock, False), settings(False)[-1]
    rounds = [s for s in profile.run.samples if s["strategy"] == "drafter" and s["series"] == "constant"]
    for line in rounds:
        counted = [c for n, c in zip(line["drafted"], line["counted"], strict=True) if n == 0]
        assert len(counted) >= 8
        assert not any(counted)
    assert 0 not in profile.drafting("drafter")[1][DEPTHS[0]].steps.drafted
    assert all(w.length for w in plan.constant(replace(drafter, looks_back=True), 1, 0, random.Random(0)))
    assert slowness(slowed(rounds, "drafter")) == pytest.approx({0: 1.0, 1: 1.5, 2: 1.0, 3: 1.5}, rel=1e-3)


def test_rounds_without_plain_steps_stay_as_they_were_measured(clock: Time) -> None:
    lines = [s for s in slowed(measured(clock, False).run.samples, "drafter") if s["strategy"] == "drafter"]
    changing = [s for s in lines if s["series"] == "changing"]
    assert slowness(changing) == {}
    steps = join_steps(changing, 1, False)
    assert set(steps.slow) == {1.0}
    as_stored = [np.array(s["phase_us"]["verify"])[s["counted"]] * 1e-6 for s in changing]
    assert steps.phase["verify"] == pytest.approx(np.concatenate(as_stored))


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        (("environment", "cpu"), "other", "processor"),
        (("model", "header_sha256"), "2", "model"),
        (("context", "threads"), 8, "threads"),
        (("labels", "sampling"), "temp=0.8", "sampling"),
        (("spec", "model"), {"flash_attn": "on"}, "model options"),
        (("environment", "ggml_variables"), ["GGML_OP_OFFLOAD_MIN_BATCH=8"], "GGML_* variables"),
    ],
)
def test_a_profile_of_other_settings_never_fits(clock: Time, path: tuple[str, str], value: Any, name: str) -> None:
    profile = measured(clock, False)
    run = _run(clock, profile, False)
    run.meta[path[0]] = run.meta[path[0]] | {path[1]: value}
    assert mismatches(run, profile) == [name]


@pytest.mark.parametrize(("card", "found"), [("CPU", []), ("RTX", ["load mode"])])
def test_a_profile_of_a_mapped_file_does_not_fit_a_run_without_on_a_gpu(
    clock: Time, card: str, found: list[str]
) -> None:
    profile = measured(clock, False)
    run = _run(clock, profile, False)
    for meta in (profile.meta, run.meta):
        meta["labels"] = {**meta["labels"], "card": card}
    run.meta["spec"] = {**run.meta["spec"], "model": {**run.meta["spec"]["model"], "load_mode": "mmap"}}
    assert mismatches(run, profile) == []
    run.meta["spec"]["model"]["load_mode"] = "none"
    assert mismatches(run, profile) == found


def _run(clock: Time, profile: Profile, recurrent: bool, stretch: float = 1.0) -> Run:
    import dataclasses

    samples = []
    for name, (_, g) in zip(("none", "drafter"), generations(clock, recurrent, 4), strict=True):
        body = dataclasses.asdict(g)
        body["generation_s"] *= stretch
        samples.append(
            {
                "engine": "specdec",
                "strategy": name,
                "rollback": "auto",
                "workload": "w",
                "warmup": False,
                "status": "ok",
                **body,
            }
        )
    samples.append(samples[1] | {"strategy": "other"})
    samples.append(samples[1] | {"engine": "llama-server", "generation_s": 99.0})
    described = [
        {"name": n, "label": n, "file_sha256": "f", "model": None, "options": {}} for n in ("none", "drafter", "other")
    ]
    counts = {"none": 0, "drafter": 4, "other": 4}
    arms = [{"engine": "specdec", "strategy": n, "rollback": "auto", "snapshots": k} for n, k in counts.items()]
    arms.append(arms[1] | {"engine": "llama-server"})
    meta = {k: profile.meta[k] for k in ("environment", "model", "context", "labels", "spec")}
    return Run(Path("r"), meta | {"kind": "compare", "arms": arms, "strategies": described}, samples)


def test_a_profile_prices_the_states_that_a_run_would_keep() -> None:
    """As many as its drafts are long, however many the profile kept."""
    run = read_run(REFERENCE / "20261122-135041-ed97")
    costs, profile = ProfileCosts(run), Profile(run)
    accepted = np.arange(200) % 2
    for longest in (1, 2):
        drafted = np.full(200, longest)
        got = costs.seconds(f"mtp(n_max={longest})", drafted, accepted, 512)["verify"]
        arm = Arm("mtp", snapshots=longest, n_max=longest)
        assert got.sum() == pytest.approx(predict_steps(drafted, accepted, profile, arm, 512)["verify"].sum())
