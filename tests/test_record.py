"""Recording real contexts (nano models): traces from the target and from stored runs, proposals, training data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording import MODEL, PROMPTS, Quiet

from specdec import runner, store
from specdec.errors import SpecdecError
from specdec.metrics import rows
from specdec.replay import job
from specdec.replay.record import Wanted, record
from specdec.replay.run import ReplayOptions
from specdec.replay.stored import record_from_run
from specdec.replay.trace import Trace, read_trace
from specdec.replay.training import read_training_data
from specdec.spec import RunSpec, make_spec


def spec_for(target: Path, tmp_path: Path, **more: Any) -> RunSpec:
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(p) for p in PROMPTS))
    given = {"target": str(target), "prompt_files": ("prompts.jsonl",), "n_predict": 40, "model": MODEL, "warmup": 0}
    return make_spec(**(given | more))


def recorded(spec: RunSpec, **wanted: Any) -> Trace:
    return read_trace(record(spec, Path("t.npz"), Wanted(**wanted), Quiet()))


def texts(trace: Trace) -> list[list[int]]:
    return [t.ids.tolist() for t in trace.turns]


@pytest.mark.parametrize("sampling", [{}, {"temp": 0.8}], ids=["greedy", "sampled"])
def test_a_recording_and_a_stored_run_give_the_same_trace(nano_hybrid: Path, tmp_path: Path, sampling: Any) -> None:
    spec = spec_for(nano_hybrid, tmp_path, sampling=sampling, strategies="none")
    ours = recorded(spec)
    run = store.read_run(runner.compare(spec, Path("results"), Quiet()))
    theirs = record_from_run(run, Path("u.npz"))
    assert texts(ours) == texts(theirs)
    assert [(t.prompt, t.index, t.n_prompt, t.stop) for t in ours.turns] == [
        (t.prompt, t.index, t.n_prompt, t.stop) for t in theirs.turns
    ]
    same = ("spec", "sampling", "n_vocab", "n_batch", "context", "model", "prompts", "prompts_sha256", "labels")
    assert {k: ours.header[k] for k in same} == {k: theirs.header[k] for k in same}


@pytest.mark.parametrize("sampling", [{}, {"temp": 0.8}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["nano_dense", "nano_hybrid"])
def test_a_replay_has_the_steps_of_the_live_run(
    kind: str, sampling: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On real contexts whose kernels are deterministic, conversations included."""
    strategies = (
        "ngram-simple(size_n=2, size_m=6),ngram-mod(n_match=2, n_min=1, n_max=9),cascade(ngram-simple, ngram-mod)"
    )
    spec = spec_for(request.getfixturevalue(kind), tmp_path, sampling=sampling, strategies=strategies, n_predict=90)
    live = store.read_run(runner.compare(spec, Path("results"), Quiet()))
    record_from_run(live, Path("t.npz"))
    done = store.read_run(job.replay(ReplayOptions(trace="t.npz", strategies=strategies), Path("r"), Quiet()))
    assert len(live.samples) == len(done.samples) == 16
    theirs = {(s["strategy"], s["prompt"], s["turn"]): s for s in done.samples}
    for s in live.samples:
        got = theirs[s["strategy"], s["prompt"], s["turn"]]
        assert got["token_ids"] == s["token_ids"]
        for key in ("drafted", "accepted", "note"):
            assert got["steps"][key] == s["steps"][key]
        assert (got["cut"], got["stop"]) == (s["cut"], s["stop"])


def test_recorded_proposals_replay_as_mtp_drafts_live(nano_hybrid: Path, tmp_path: Path) -> None:
    """n_max and p_min chosen offline: the steps of live runs with these settings."""
    strategies = "mtp(n_max=1),mtp(n_max=4),mtp(n_max=5, p_min=0.2),mtp(n_max=4, n_min=2, p_min=0.15)"
    spec = spec_for(nano_hybrid, tmp_path, strategies=strategies)
    trace = recorded(spec, drafters="mtp", depth=5)
    assert trace.drafters["mtp"]["depth"] == 5
    live = store.read_run(runner.compare(spec, Path("results"), Quiet()))
    done = store.read_run(job.replay(ReplayOptions(trace="t.npz", strategies=strategies), Path("r"), Quiet()))
    theirs = {(s["strategy"], s["prompt"], s["turn"]): s["steps"] for s in done.samples}
    drafted = set()
    for s in live.samples:
        got = theirs[s["strategy"], s["prompt"], s["turn"]]
        assert (got["drafted"], got["accepted"]) == (s["steps"]["drafted"], s["steps"]["accepted"])
        drafted |= set(got["drafted"])
    assert drafted >= {0, 1, 2, 4}


def test_log_probabilities_and_margins(nano_dense: Path, tmp_path: Path) -> None:
    trace = recorded(spec_for(nano_dense, tmp_path), top_k=3)
    for turn in trace.turns:
        top = turn.top
        assert top is not None
        assert top.ids.shape == top.logprobs.shape == (turn.n_output, 3)
        assert top.ids[:, 0].tolist() == turn.ids[turn.n_prompt :].tolist()  # greedy takes the best
        assert np.array_equal(top.chosen, top.logprobs[:, 0])
        assert (np.diff(top.logprobs.astype(float), axis=1) <= 0).all()
        gap = top.logprobs[:, 0].astype(float) - top.logprobs[:, 1].astype(float)
        assert top.margins.astype(float) == pytest.approx(gap, abs=0.02)
        assert (np.exp(top.logprobs.astype(float)).sum(axis=1) <= 1.001).all()


@pytest.mark.parametrize("kind", ["nano_dense", "nano_hybrid"])
def test_training_data_has_every_position(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    trace = recorded(spec_for(request.getfixturevalue(kind), tmp_path), training=Path("data"), top_k=2)
    examples = list(read_training_data(Path("data")))
    assert [e.ids.tolist() for e in examples] == texts(trace)
    for example, turn in zip(examples, trace.turns, strict=True):
        n = len(turn.ids)
        assert example.hidden.shape == (n, 128)
        assert example.top_ids.shape == example.top_logprobs.shape == (n, 2)
        assert example.hidden.astype(float).std() > 0.1
        said = turn.ids[turn.n_prompt :]  # what is predicted after each position is the next token
        # Random weights have many near-ties, and attention rounds by the length of a pass; one place off, none would agree.
        assert (example.top_ids[turn.n_prompt - 1 : -1, 0] == said).mean() > 0.75


def test_training_hidden_rows_are_those_that_mtp_is_fed(nano_hybrid: Path, tmp_path: Path) -> None:
    from specdec.llama.model import LlamaModel
    from specdec.llama.target import LlamaTarget
    from specdec.spec import ModelOptions

    recorded(spec_for(nano_hybrid, tmp_path, limit=1), training=Path("data"))
    example = next(read_training_data(Path("data")))
    model = LlamaModel(nano_hybrid, ModelOptions(**MODEL))
    target = LlamaTarget(model, 512, hidden=True)
    target.decode(example.ids, 0, "last")
    assert example.hidden.astype(np.float32) == pytest.approx(target.hidden_rows(), abs=0.1)  # another batch shape
    target.close()
    model.close()


def test_an_interrupted_recording_keeps_what_is_complete(nano_dense: Path, tmp_path: Path) -> None:
    class Stops(Quiet):
        def cell(self, *_: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(spec_for(nano_dense, tmp_path), Path("t.npz"), Wanted(), Stops())
    assert [t.prompt for t in read_trace(Path("t.npz")).turns] == ["one"]


def test_faults_are_told_before_anything_runs(nano_dense: Path, tmp_path: Path) -> None:
    spec = spec_for(nano_dense, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for wanted, said in (
        (Wanted(drafters="ngram-mod"), "no model of its own"),
        (Wanted(drafters="mtp"), "no MTP layer"),
        (Wanted(drafters="draft(model=x, sample=true)"), "cannot be recorded"),
        (Wanted(training=Path("full")), "is not empty"),
    ):
        with pytest.raises(SpecdecError, match=said):
            record(spec, Path("t.npz"), wanted, Quiet())
    Path("kept.npz").write_bytes(b"an earlier recording")
    for out, said in (
        ("full", "exists already"),
        ("kept.npz", "exists already"),
        ("kept.npz/t.npz", "cannot be written"),
    ):
        with pytest.raises(SpecdecError, match=said):
            record(spec, Path(out), Wanted(), Quiet())
    assert Path("kept.npz").read_bytes() == b"an earlier recording"
    assert not Path("t.npz").exists()


def test_a_run_of_another_model_or_other_prompts_is_refused(
    nano_dense: Path, nano_hybrid: Path, tmp_path: Path
) -> None:
    spec = spec_for(nano_dense, tmp_path, n_predict=4, strategies="none")
    run = store.read_run(runner.compare(spec, Path("results"), Quiet()))
    with pytest.raises(SpecdecError, match="is not the model"):
        record_from_run(run, Path("t.npz"), str(nano_hybrid))
    (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPTS[0]))
    with pytest.raises(SpecdecError, match="prompts are not what they were"):
        record_from_run(run, Path("t.npz"))
    nothing = dataclasses.replace(run, samples=[])
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(p) for p in PROMPTS))
    with pytest.raises(SpecdecError, match="no finished generation"):
        record_from_run(nothing, Path("t.npz"))


def test_a_live_run_is_a_source_of_costs(nano_dense: Path, tmp_path: Path) -> None:
    strategies = "ngram-mod(n_match=2, n_min=1, n_max=9)"
    spec = spec_for(nano_dense, tmp_path, strategies=strategies)
    folder = runner.compare(spec, Path("results"), Quiet())
    record_from_run(store.read_run(folder), Path("t.npz"))
    options = ReplayOptions(trace="t.npz", strategies=strategies, costs=str(folder))
    done = store.read_run(job.replay(options, Path("r"), Quiet()))
    table = {r["strategy"]: r for r in rows(done) if r["workload"] == "all"}
    assert table["none"]["tok_s"] > 0
    assert table["ngram-mod(n_match=2, n_max=9, n_min=1)"]["speedup"] > 0
    assert done.meta["trace"]["costs"] == f"run {folder.name}"
