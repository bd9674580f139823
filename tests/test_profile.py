"""A profile on the toy target with a clock of its own: what every part costs is known, so predictions must be exact."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from page import check_page

from specdec import clock as clock_module
from specdec import decode
from specdec.decode import Decoder
from specdec.errors import SpecdecError
from specdec.forced.target import ForcedTarget
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.profile import bench as bench_module
from specdec.profile import job, plan
from specdec.profile.bench import Bench, Want
from specdec.profile.compare import PredictionRow, drift, mismatches, prediction_rows
from specdec.profile.costs import Costs
from specdec.profile.jumps import jumps
from specdec.profile.plan import Setting
from specdec.profile.predict import Arm, expect, plain_step, predict_steps
from specdec.profile.spec import ProfileSpec
from specdec.profile.stage import Outcome, Script, Scripted
from specdec.profile.steps import join_steps, level, redecoded, same_shape, slowness
from specdec.profile.stored import Profile
from specdec.registry import Registry
from specdec.report import profile as tables
from specdec.report.experts import uniform_law
from specdec.report.html import write
from specdec.report.prediction import beside_table, expectations
from specdec.rollback import snapshots_for
from specdec.spec import ModelOptions, check
from specdec.store import Run
from specdec.strategy import Strategy
from specdec.testing.fake import FakeMemory, FakeTarget
from specdec.types import PHASES, Draft, FloatArray, Generation, Limits, Sampling, Step, TokenArray
from specdec.vram.overheads import EXPERTS_SCRATCH, KERNELS

TEXT = np.random.default_rng(5).integers(0, 20, 600).astype(np.int32)
DEPTHS = (32, 128)
GREEDY = Sampling()


class Time:
    """A clock that only moves where something is said to take time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedMemory(FakeMemory):
    clock: Time

    def save(self, on_device: bool, slot: int = 0) -> None:
        self.clock.now += 0.003 if on_device else 0.007
        super().save(on_device, slot)

    def restore(self, slot: int = 0) -> None:
        self.clock.now += 0.004
        super().restore(slot)


class TimedTarget(FakeTarget):
    """A pass over n tokens has its price, and costs 1 ms more after another length, ``slope`` s more a token of depth."""

    slope = 0.0

    def __init__(self, clock: Time, recurrent: bool = False, snapshots: int = 0) -> None:
        super().__init__(recurrent=recurrent, snapshots=snapshots)
        self.memory = TimedMemory(recurrent, snapshots)
        self.memory.clock = self._clock = clock
        self._before = 0

    def decode(self, ids: TokenArray, start: int, outputs: Any) -> FloatArray:
        n = len(ids)
        stepwise = 0.010 + 0.002 * n + (0.009 if n > 4 else 0.0)  # other kernels from 5 tokens on
        self._clock.now += stepwise + self.slope * start + (0.001 if n != self._before else 0.0)
        self._before = n
        return super().decode(ids, start, outputs)


class Drafter(Strategy):
    """A draft costs 2 ms a token, and decoding what was kept 1 ms a token, as a draft model's would."""

    name = "drafter"
    longest = 6

    def __init__(self, clock: Time) -> None:
        super().__init__()
        self._clock, self._rng, self._behind = clock, np.random.default_rng(3), 1

    @property
    def longest_draft(self) -> int:
        return self.longest

    def begin(self, prompt_ids: TokenArray) -> None:
        self._behind = 1

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        n = min(max_tokens, self.longest)
        self._clock.now += 0.002 * n + 0.001 * self._behind
        return Draft(self._rng.integers(0, 20, n).tolist())

    def accept(self, step: Step) -> None:
        self._behind = step.accepted + 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock_module, "perf_counter", time)
    monkeypatch.setattr(decode, "perf_counter", time)
    monkeypatch.setattr(bench_module, "perf_counter", time)
    return time


def settings(recurrent: bool, passes: tuple[int, ...] = (*range(1, 10), 16)) -> list[Setting]:
    drafter = Setting("drafter", object(), "auto", snapshots_for("auto", 6, recurrent, None), (1, 2, 3, 4, 6))  # type: ignore[arg-type]
    return [*plan.text_settings(recurrent, passes, [1]), drafter]


def measured(clock: Time, recurrent: bool, settle: int = 1, depths: tuple[int, ...] = DEPTHS) -> Profile:
    """A profile as measure.py takes it, of the toy target."""
    lines: list[dict[str, Any]] = []
    for setting in settings(recurrent):
        script, target = Script(), TimedTarget(clock, recurrent, setting.snapshots)
        inner = Drafter(clock) if setting.planned else None
        strategy = Scripted(inner, script, lambda i: int(TEXT[i]), setting.longest)
        bench = Bench(target, strategy, script, setting.mode, TEXT, GREEDY)
        rng = random.Random(1)
        for depth in depths:
            bench.prefill(depth)
            for round_ in range(4):
                for series, wants in (
                    ("constant", plan.constant(setting, settle, round_, rng)),
                    ("changing", plan.changing(setting, rng)),
                ):
                    block = bench.run(wants).as_dict()
                    lines.append({**_names(setting, depth, round_), "series": series, **block})
        assert not target.memory.stale
    meta = {
        "kind": "profile",
        "run_id": "p",
        "status": "finished",
        "settle": settle,
        "context": {"recurrent": recurrent, "threads": 1, "n_ctx": 600},
        "labels": {"card": "CPU", "sampling": "greedy"},
        "model": {"file": "toy", "description": "toy", "header_sha256": "1"},
        "environment": {"cpu": "toy", "packages": {"llama-cpp-python": "1"}},
        "spec": {"model": {"threads": 0, "flash_attn": "auto"}, "repeats": 4},
        "strategies": [{"name": "drafter", "label": "drafter", "file_sha256": "f", "model": None, "options": {}}],
    }
    return Profile(Run(Path("p"), meta, lines))


def _names(setting: Setting, depth: int, round_: int) -> dict[str, Any]:
    names = {"strategy": setting.strategy, "rollback": setting.mode, "snapshots": setting.snapshots, "threads": 1}
    return {"kind": "steps", **names, "looks_back": False, "depth": depth, "repeat": 0, "round": round_}


class Oracle(Drafter):
    """The drafter, right as often as it happens: its first tokens are those of the known answer."""

    def __init__(self, clock: Time, answer: list[int], n_prompt: int, n_max: int) -> None:
        super().__init__(clock)
        self._answer, self._n_prompt, self.longest = answer, n_prompt, n_max

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        tokens = list(super().propose(context, max_tokens).token_ids)
        at, right = len(context) - self._n_prompt, int(self._rng.integers(0, len(tokens) + 1))
        known = self._answer[at : at + right]
        return Draft(known + tokens[len(known) :])


def generations(clock: Time, recurrent: bool, n_max: int) -> Iterator[tuple[int, Generation]]:
    """(snapshots, generation) of the loop itself, without and with drafts."""
    prompt, limits = TEXT[:40].copy(), Limits(60)
    plain = Decoder(TimedTarget(clock, recurrent), _Nothing()).generate(prompt, limits, GREEDY)
    yield 0, plain
    snapshots = snapshots_for("auto", n_max, recurrent, None)
    oracle = Oracle(clock, plain.token_ids, len(prompt), n_max)
    drafted = Decoder(TimedTarget(clock, recurrent, snapshots), oracle).generate(prompt, limits, GREEDY)
    assert drafted.token_ids == plain.token_ids
    assert len(set(drafted.steps.accepted)) > 1
    yield snapshots, drafted


class _Nothing(Strategy):
    name = "none"

    @property
    def longest_draft(self) -> int:
        return 0

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        return Draft()


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
        (("spec", "model"), {"load_mode": "none"}, "model options"),
        (("environment", "ggml_variables"), ["GGML_OP_OFFLOAD_MIN_BATCH=8"], "GGML_* variables"),
    ],
)
def test_a_profile_of_other_settings_never_fits(clock: Time, path: tuple[str, str], value: Any, name: str) -> None:
    profile = measured(clock, False)
    run = _run(clock, profile, False)
    run.meta[path[0]] = run.meta[path[0]] | {path[1]: value}
    assert mismatches(run, profile) == [name]


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


def test_tables_hold_the_figures(clock: Time) -> None:
    profile = measured(clock, True)
    text = tables.as_text(profile.run)
    row = next(line.split() for line in text.splitlines() if line.startswith("5 "))
    assert row[1] == "29.00"
    assert "Best speedup possible" in text
    assert "break-even AL" in text


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_page_holds_the_figures(clock: Time, recurrent: bool) -> None:
    profile = measured(clock, recurrent)
    drawn = write.of_profile(profile.run)
    page = check_page(drawn.render())
    assert {"curve", "break-even", "drafting", "rollback", "notes"} <= {a["id"] for a in page.all("section")}
    alts = " ".join(str(a["aria-label"]) for a in page.all("div") if a.get("role") == "img")
    assert "T(5) = 29 ms" in alts
    assert "C(5) = 2.42" in alts
    for name in ("curve", "break-even", "drafting", "rollback"):
        assert drawn.picture(name, "png").startswith(b"\x89PNG")
    with pytest.raises(SpecdecError, match="nothing to show in the picture prompts"):
        drawn.picture("prompts", "svg")


def _with_curve(profile: Profile, milliseconds: dict[int, float], wobble: float) -> Profile:
    """The same, where plain passes over n tokens take so long, more or less by ``wobble``."""
    run = copy.deepcopy(profile.run)
    lengths = sorted(milliseconds)
    steps = [s for s in run.samples if s["kind"] == "steps" and (s["strategy"], s["snapshots"]) == (plan.TEXT, 0)]
    run.samples[:] = [s for s in run.samples if s not in steps]
    for first in (s for s in steps if s["series"] == "constant" and s["round"] == 0):
        drafted = [n - 1 for n in lengths for _ in range(9)]
        took = [milliseconds[n] * 1e3 * (1 + wobble * (i - 4) / 4) for n in lengths for i in range(9)]
        phases = {p: [0.0] * len(drafted) for p in PHASES} | {"verify": took}
        body = {"drafted": drafted, "accepted": [0] * len(drafted), "counted": [True] * len(drafted)}
        run.samples.append({**first, **body, "start": [first["start"][0]] * len(drafted), "phase_us": phases})
    return Profile(run)


@pytest.mark.parametrize(
    ("curve", "wobble", "said"),
    [
        (
            {1: 10, 2: 15, 31: 160, 32: 500},
            0.0,
            ["A pass of 32 tokens takes 3.1 times one of 31 (500.0 and 160.0 ms, "],
        ),
        ({1: 10, 2: 15, 31: 160, 32: 100}, 0.0, ["a draft of 31 tokens is cheaper than one of 30."]),
        ({1: 10, 2: 15, 16: 90, 33: 490}, 0.0, ["somewhere between lies a step. See where: --lengths 16..33."]),
        ({1: 10, 2: 20, 16: 160, 33: 330}, 0.0, []),
        ({1: 10, 2: 15, 31: 160, 32: 500}, 0.9, []),
        ({1: 10, 2: 15, 31: 160, 32: 100}, 0.5, []),
        ({1: 10, 2: 15, 31: 160, 32: 150}, 0.0, []),
    ],
)
def test_steps_of_the_curve_are_told(clock: Time, curve: dict[int, float], wobble: float, said: list[str]) -> None:
    profile = _with_curve(measured(clock, False), curve, wobble)
    lines = [jump.line for jump in jumps(profile) if jump.depth == DEPTHS[0]]
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))
    assert [line in tables.as_text(profile.run) for line in lines] == [True] * len(lines)
    page = write.of_profile(profile.run).render()
    assert ("Steps of the cost curve" in page) == bool(said)
    assert len(orjson.loads(tables.as_json(profile.run))["jumps"]) == len(said) * len(DEPTHS)


def test_uniform_law() -> None:
    assert uniform_law(256, 8, 1) == pytest.approx(8)
    assert uniform_law(256, 8, 2) == pytest.approx(15.75)
    assert uniform_law(16, 4, 1000) == pytest.approx(16)


def test_specification_is_checked() -> None:
    assert check(ProfileSpec, "profile", {"target": "t", "passes": (4, 2)}).passes == (1, 2, 4)
    with pytest.raises(SpecdecError, match="at least 16"):
        check(ProfileSpec, "profile", {"target": "t", "depths": (3,)})
    with pytest.raises(SpecdecError, match="--passes"):
        check(ProfileSpec, "profile", {"target": "t", "passes": (0,)})


@pytest.mark.parametrize(("n_ctx", "missing", "fits"), [(4096, 0, True), (4096, 1, False), (256, 1, True)])
def test_snapshots_have_to_fit_beside_all_that_is_open_then(
    nano_hybrid: Path, monkeypatch: pytest.MonkeyPatch, n_ctx: int, missing: int, fits: bool
) -> None:
    """Room for the context of 4,096 tokens, 8 snapshots and a checkpoint, what CUDA takes beside, and not a byte more."""
    model = LlamaModel(nano_hybrid, ModelOptions(threads=1))
    target = LlamaTarget(model, 4096)
    buffers = [i for i in target.buffers if i.device == "CPU"]
    target.close()
    state = sum(i.bytes for i in buffers if i.kind == "recurrent")
    need = sum(i.bytes for i in buffers) + (8 + 1) * state + EXPERTS_SCRATCH + KERNELS
    monkeypatch.setattr(job, "free_bytes", lambda: {"CPU": need - missing})
    said: list[str] = []
    curve, plain = (Setting(plan.TEXT, None, "auto", n, (1,)) for n in (8, 0))
    spec = ProfileSpec(target=str(nano_hybrid), vram_limit=1)
    kept = job._affordable([curve, plain], spec, model, n_ctx, said.append)
    assert kept == ([curve, plain] if fits else [plain])
    assert [line.split(",")[0] for line in said] == ([] if fits else ["warning: the curve"])


def test_what_a_strategy_takes_of_the_gpu_counts_without_the_layer_that_is_loaded(
    nano_hybrid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "runs_on_gpu", lambda options: options.gpu_layers != 0)
    planned = Registry().plan("mtp")[1]
    setting = Setting("mtp", planned, "auto", 4, (1, 2))
    on_gpu = LlamaModel(nano_hybrid, ModelOptions(threads=1), mtp=True)
    on_gpu.options = ModelOptions(gpu_layers=99)
    items = planned.build().expected_memory(on_gpu.header, on_gpu.options, 4096)
    weights = sum(i.bytes for i in items if (i.device, i.kind) == ("GPU", "weights"))
    assert weights
    assert job._own_bytes(setting, on_gpu, 4096) == sum(i.bytes for i in items if i.device == "GPU") - weights
    on_gpu.options = ModelOptions(gpu_layers=0)
    assert job._own_bytes(setting, on_gpu, 4096) == 0


def test_the_settings_are_gone_through_as_often_as_there_are_rounds() -> None:
    assert [plan.sweeps(n) for n in (2, 3, 9)] == [2, 3, 3]
    seconds = [plan.seconds(plan.text_settings(False, {1, 2}, [1]), (512,), n, 1, 0.01, 0.0) for n in (2, 4)]
    assert seconds[1] == pytest.approx(2 * seconds[0])


def test_default_depths_follow_model_and_patience() -> None:
    assert plan.default_depths(0, 1e-6, 5, 4) == plan.DEPTHS
    assert plan.default_depths(4096, 1e-6, 5, 4) == (128, 512, 2048)
    assert plan.default_depths(0, 0.02, 5, 4) == (128,)
    assert plan.default_depths(0, 0.01, 5, 4) == (128,)
    assert plan.default_depths(0, 0.01, 5, 2) == (128, 512), "two sweeps, so that more fit"
