"""Sequential decisions: when to stop, what is right, what is asked for next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from recording import MODEL, PROMPTS, Quiet

from specdec.quick import BASELINE, ArmKey, Decision, QuickPlan
from specdec.runner import compare, resume
from specdec.spec import make_spec
from specdec.store import Sample, read_run

A, B, C = ("a", "auto"), ("b", "auto"), ("c", "auto")


def sample(arm: ArmKey, prompt: str, seconds: float, **more: object) -> Sample:
    fixed = {"strategy": arm[0], "rollback": arm[1], "prompt": prompt, "warmup": False, "status": "ok"}
    return {**fixed, "token_ids": [0] * 64, "generation_s": seconds, "end_to_end_s": seconds, **more}


def play(
    speeds: dict[ArmKey, float], noise: float, seed: int = 0, prompts: int = 40, seconds: float = np.inf
) -> tuple[Decision, list[Sample]]:
    """Run a plan on made-up speeds, each prompt with its own level and each generation with its own noise."""
    rng = np.random.default_rng(seed)
    order = [(f"p{i}", f"w{i % 4}") for i in range(prompts)]
    level = {p: float(np.exp(0.3 * rng.standard_normal())) for p, _ in order}
    plan = QuickPlan(list(speeds), order)
    samples: list[Sample] = []
    spent = 0.0
    while cells := plan.next_cells(samples, seconds - spent):
        for cell in cells:
            took = level[cell.prompt] / speeds[cell.arm] * float(np.exp(noise * rng.standard_normal()))
            samples.append(sample(cell.arm, cell.prompt, took))
            spent += took
    return plan.decide(samples, seconds - spent), samples


STRATEGY = """
from pathlib import Path
from specdec import Draft, Strategy
class Own(Strategy):
    name = "own"
    def propose(self, context, max_tokens):
        if not Path("mended").exists() and context[0] == 64:
            raise ValueError("not yet")
        return Draft()
"""


def test_a_large_gain_is_settled_at_the_first_look() -> None:
    decision, samples = play({BASELINE: 1.0, A: 1.5, B: 1.2}, 0.01)
    assert (decision.on, decision.best, decision.stopped, decision.prompts) == (True, A, "settled", 5)
    assert len(samples) == 15
    assert decision.line == "On: a is best, 1.49x of plain decoding, after 5 prompts."


def test_off_is_settled_too() -> None:
    decision, _ = play({BASELINE: 1.0, A: 0.9, B: 0.8}, 0.02)
    assert (decision.on, decision.best, decision.stopped) == (False, BASELINE, "settled")
    assert decision.line.startswith("Off: after")


def test_no_gain_at_all_has_an_end() -> None:
    decision, samples = play({BASELINE: 1.0, A: 1.0}, 0.01)
    assert (decision.on, decision.stopped) == (False, "settled")
    assert len(samples) < 80


def test_dropped_arms_are_not_asked_for_again() -> None:
    decision, samples = play({BASELINE: 1.0, A: 1.30, B: 1.27, C: 0.6}, 0.03)
    asked = {arm[0]: sum(s["strategy"] == arm[0] for s in samples) for arm in (BASELINE, A, B, C)}
    assert decision.dropped[C] == 5
    assert asked["c"] == 5
    assert asked["a"] > 5
    assert asked["none"] == asked["a"]


def test_time_and_prompts_end_it_unsettled() -> None:
    hard = {BASELINE: 1.0, A: 1.05}
    late, samples = play(hard, 0.3, seconds=20.0)
    assert (late.stopped, late.on) == ("out of time", None)
    assert sum(s["end_to_end_s"] for s in samples) < 25
    assert late.line.startswith("Not settled after 7 prompts (out of time)")
    assert play(hard, 0.3, prompts=6)[0].stopped == "out of prompts"


def test_answers_are_right_nine_times_in_ten() -> None:
    """With noise, over many runs: what is settled is true to within the margin."""
    wrong = 0
    for seed in range(25):
        decision, _ = play({BASELINE: 1.0, A: 1.10, B: 1.03, C: 0.95}, 0.06, seed)
        wrong += decision.on is False or (decision.best_settled and decision.best != A)
    for seed in range(25):
        decision, _ = play({BASELINE: 1.0, A: 1.0, B: 1.0, C: 1.0}, 0.06, seed)
        wrong += decision.on is True
    assert wrong <= 5


def test_each_call_is_told_everything_and_gives_the_same_answer() -> None:
    plan = QuickPlan([BASELINE, A], [("x", "w"), ("y", "w"), ("z", "v")])
    assert [(c.arm, c.prompt) for c in plan.next_cells([])] == [(BASELINE, "x"), (A, "x")]
    half = [sample(BASELINE, "x", 1.0)]
    assert [(c.arm, c.prompt) for c in plan.next_cells(half)] == [(A, "x")], "an interrupted prompt is finished"
    whole = [*half, sample(A, "x", 1.0)]
    cells = plan.next_cells(whole)
    assert [(c.arm, c.prompt) for c in cells] == [(A, "z"), (BASELINE, "z")], "another workload; arms rotate"
    assert plan.next_cells(whole) == cells
    assert plan.next_cells([sample(A, "x", 1.0, warmup=True)])[0].prompt == "x"


def test_an_arm_that_only_fails_is_left_out() -> None:
    plan = QuickPlan([BASELINE, A, B], [(f"p{i}", "w") for i in range(9)])
    bad = [sample(A, f"p{i}", 1.0, status="crashed") for i in range(2)]
    good = [sample(x, f"p{i}", 1.0 / s) for i in range(2) for x, s in ((BASELINE, 1.0), (B, 2.0))]
    assert {c.arm for c in plan.next_cells(bad + good)} == {BASELINE, B}
    more = [sample(x, f"p{i}", t + 0.001 * i) for i in range(2, 7) for x, t in ((BASELINE, 1.0), (B, 0.5))]
    assert plan.decide(bad + good + more).best == B


def test_where_every_strategy_fails_it_ends() -> None:
    plan = QuickPlan([BASELINE, A, B], [(f"p{i}", "w") for i in range(9)])
    taken = [sample(x, f"p{i}", 1.0, status="crashed") for i in range(2) for x in (A, B)]
    taken += [sample(BASELINE, f"p{i}", 1.0) for i in range(2)]
    assert plan.next_cells(taken) == ()
    assert plan.decide(taken).stopped == "every strategy failed"


def test_what_is_run_again_counts_as_not_run(nano_dense: Path) -> None:
    """On resume: a conversation that was cut off, and with --retry-failed what failed."""
    Path("p.jsonl").write_text("\n".join(json.dumps(p) for p in PROMPTS))
    Path("own.py").write_text(STRATEGY)
    given = {"prompt_files": ("p.jsonl",), "strategies": "own", "strategy_files": ("own.py:Own",), "model": MODEL}
    spec = make_spec(target=str(nano_dense), quick=True, n_predict=4, warmup=0, limit=None, **given)
    folder = compare(spec, Path("results"), Quiet())

    def by_cell() -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for s in read_run(folder).samples:
            found.setdefault((s["strategy"], s["prompt"]), []).append(s["status"])
        return found

    assert by_cell()["own", "one"] == ["error"]
    assert by_cell()["own", "talk"] == ["ok", "ok"]
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"talk"' in line and '"own"' in line and json.loads(line)["turn"])
    (folder / "samples.jsonl").write_text("".join(lines[:cut] + lines[cut + 1 :]))
    meta = json.loads((folder / "run.json").read_text()) | {"status": "started"}
    (folder / "run.json").write_text(json.dumps(meta))
    Path("mended").touch()
    resume(read_run(folder), Quiet())
    assert by_cell()["own", "talk"] == ["ok", "ok"]
    assert by_cell()["own", "one"] == ["error"]
    resume(read_run(folder), Quiet(), retry_failed=True)
    assert by_cell()["own", "one"] == ["ok"]


def test_the_baseline_must_take_part() -> None:
    with pytest.raises(ValueError, match="none"):
        QuickPlan([A], [("x", "w")])
