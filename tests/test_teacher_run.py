"""`compare --trace` on contexts of llama.cpp: a recorded text on another nano model, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording import MODEL, PROMPTS, Quiet
from typer.testing import CliRunner

from specdec import runner, store
from specdec.cli import app
from specdec.differences import settings
from specdec.errors import SpecdecError
from specdec.forced.trace import settled
from specdec.metrics import rows
from specdec.replay import job
from specdec.replay.record import Wanted, record
from specdec.replay.run import ReplayOptions
from specdec.replay.trace import Proposals, Trace, Turn, read_trace, write_trace
from specdec.report import tables
from specdec.spec import RunSpec, make_spec
from specdec.testing.nano import write_nano
from specdec.testing.traces import trace_of, turn_of

N_PREDICT = 40


@pytest.fixture(scope="module")
def trace_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of a nano model, sampled so that its text does not loop, MTP proposals included, often put right."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(p) for p in PROMPTS))
    spec = make_spec(
        target=str(write_nano(folder / "recorded.gguf", "hybrid")),
        prompt_files=(str(folder / "prompts.jsonl"),),
        n_predict=N_PREDICT,
        model=MODEL,
        sampling={"temp": 0.8},
    )
    trace = read_trace(record(spec, folder / "t.npz", Wanted(drafters="mtp", depth=5), Quiet()))
    turns = [dataclasses.replace(t, proposals={"mtp": put_right(t)}) for t in trace.turns]
    write_trace(folder / "t.npz", Trace(trace.header, turns))
    return folder / "t.npz"


def put_right(turn: Turn) -> Proposals:
    """Proposals of which three in four are those of the text: random weights would guess none."""
    said, rng = turn.proposals["mtp"], np.random.default_rng(len(turn.ids))
    ids = said.ids.copy()
    for row, column in np.ndindex(ids.shape):
        at = turn.n_prompt + row + 1 + column
        if at < len(turn.ids) and rng.random() < 0.75:
            ids[row, column] = turn.ids[at]
    return dataclasses.replace(said, ids=ids)


@pytest.fixture(scope="module")
def other_nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights, a larger vocabulary."""
    return write_nano(tmp_path_factory.mktemp("nano") / "other.gguf", "hybrid", seed=5, n_vocab=600)


def spec_for(trace: Path, target: Path, **more: Any) -> RunSpec:
    given = {"target": str(target), "trace": str(trace), "n_predict": 256, "model": MODEL, "warmup": 0}
    return make_spec(**(given | more))


def test_a_run_on_another_model_takes_the_steps_of_the_replay(trace_file: Path, other_nano: Path) -> None:
    """Model-free strategies and recorded proposals alike, conversations, snapshots and checkpoints included."""
    strategies = (
        "ngram-simple(size_n=2, size_m=6),ngram-mod(n_match=2, n_min=1, n_max=9),mtp(n_max=2),"
        "mtp(n_max=4, n_min=2, p_min=0.15),cascade(ngram-simple(size_n=2, size_m=3), mtp(n_max=1))"
    )
    live = store.read_run(runner.compare(spec_for(trace_file, other_nano, strategies=strategies), Path("r"), Quiet()))
    asked = ReplayOptions(trace=str(trace_file), strategies=strategies)
    done = store.read_run(job.replay(asked, Path("replays"), Quiet()))
    theirs = {(s["strategy"], s["prompt"], s["turn"]): s for s in done.samples}
    assert len(live.samples) == len(theirs) == 24
    for s in live.samples:
        got = theirs[s["strategy"], s["prompt"], s["turn"]]
        assert s["status"] == "ok", s["error"]
        for key in ("drafted", "accepted", "note"):
            assert got["steps"][key] == s["steps"][key]
        assert (got["cut"], got["stop"], len(got["token_ids"])) == (s["cut"], s["stop"], len(s["token_ids"]))
        assert s["generation_s"] > 0
    assert sum(sum(s["steps"]["accepted"]) for s in live.samples if s["strategy"].startswith("mtp"))
    labels = live.meta["labels"]
    assert (labels["label"], labels["sampling"], live.meta["spec"]["n_predict"]) == ("trace", "temp=0.8", N_PREDICT)
    assert live.meta["teacher"]["model"]["file"] == "recorded.gguf"
    assert {r["label"] for r in rows(live)} == {"trace"}
    assert "Text recorded from recorded.gguf" in tables.as_text(live)


@pytest.fixture(scope="module")
def mixed(trace_file: Path, other_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> store.Run:
    """Rates for MTP beside n-grams on the recorded text, in two launches."""
    given = {"strategies": "mtp(n_max=2),ngram-simple(size_n=2, size_m=6)", "synthetic": (1.0, 0.5), "launches": 2}
    spec = spec_for(trace_file, other_nano, workloads=("w",), limit=1, n_predict=24, **given)
    return store.read_run(runner.compare(spec, tmp_path_factory.mktemp("mixed"), Quiet()))


def test_rates_are_for_those_that_need_a_model_and_say_so(mixed: store.Run) -> None:
    table = {r["strategy"]: r for r in rows(mixed) if r["workload"] == "all"}
    assert {s: r["label"] for s, r in table.items()} == {
        "none": "trace", "mtp(n_max=2)": "synthetic", "ngram-simple(size_m=6, size_n=2)": "trace",
    }  # fmt: skip
    assert table["mtp(n_max=2)"]["acceptance_by_position"][0] == 1.0
    said = tables.as_text(mixed)
    assert "mtp(n_max=2) [synthetic]" in said
    assert "none [" not in said
    assert "at the rates 1, 0.5" in said
    texts = {tuple(s["token_ids"]) for s in mixed.samples}
    assert len(texts) == 1
    assert len(mixed.samples) == 6


def test_two_runs_of_other_traces_or_rates_are_not_compared(mixed: store.Run) -> None:
    def named(change: Callable[[dict[str, Any]], None]) -> list[str]:
        meta = copy.deepcopy(mixed.meta)
        change(meta)
        return [d.what for d in settings(mixed, store.Run(mixed.folder, meta, mixed.samples))]

    assert named(lambda m: m["spec"].update(trace="elsewhere/t.npz")) == [], "the same recording at another place"
    assert named(lambda m: m["spec"].update(synthetic=[])) == ["synthetic"]
    assert named(lambda m: m["labels"].update(label="real")) == ["label"]
    assert named(lambda m: m.update(prompts_sha256="x")) == ["prompts"]


def test_an_interrupted_run_goes_on_and_a_changed_trace_is_noticed(
    trace_file: Path, other_nano: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.npz"
    own.write_bytes(trace_file.read_bytes())
    spec = spec_for(own, other_nano, strategies="ngram-simple(size_n=2)", workloads=("w",), n_predict=16)
    run = store.read_run(runner.compare(spec, Path("r"), Quiet()))

    def interrupted() -> store.Run:
        return store.Run(run.folder, run.meta | {"status": "started"}, run.samples[:1])

    (run.folder / "samples.jsonl").write_text(json.dumps(run.samples[0]) + "\n")
    again = store.read_run(runner.resume(interrupted(), Quiet()))
    assert [s["token_ids"] for s in again.samples] == [s["token_ids"] for s in run.samples]
    trace = read_trace(own)
    other = dataclasses.replace(trace.turns[0], ids=trace.turns[0].ids[::-1].copy())
    write_trace(own, Trace(trace.header, [other, *trace.turns[1:]]))
    with pytest.raises(SpecdecError, match="changed since it was started"):
        runner.resume(interrupted(), Quiet())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temp", "0.5"), "recorded with sampling temp=0.8, not temp=0.5"),
        (("--temp", "0"), "recorded with sampling temp=0.8, not greedy"),
        (("--sampling", "model"), "not model"),
        (("--ignore-eos",), "--ignore-eos: the trace was not recorded so"),
        (("--thinking",), "--thinking: the trace was not recorded so"),
        (("--stop", "x"), "--stop: the trace was not recorded so"),
        (("--prompts", "p.jsonl"), "has its own prompts"),
        (("--engine", "llama-server"), "llama-server cannot be made"),
        (("--with-llama-server",), "llama-server cannot be made"),
        (("--record", "x.npz"), "--record: with --trace"),
        (("--workloads", "story"), "unknown workload 'story'. Known: w, v"),
        (("--strategies", "draft"), "the trace holds no proposals of draft"),
        (("--strategies", "mtp(n_max=6)"), "recorded to a depth of 5"),
        (("--strategies", "mtp(p_min=0.5)", "--synthetic", "0.5"), "given rates tell no confidence"),
    ],
)
def test_contradictions_are_one_line(trace_file: Path, arguments: tuple[str, ...], message: str) -> None:
    run = CliRunner().invoke(app, ["compare", "--trace", str(trace_file), *arguments])
    assert isinstance(run.exception, SpecdecError)
    assert message in str(run.exception)
    assert not Path("results").exists()


def test_what_the_recording_had_may_be_said_again(trace_file: Path) -> None:
    spec, trace = settled(spec_for(trace_file, Path("t.gguf"), sampling={"temp": 0.8}, n_predict=8))
    assert (spec.n_predict, trace is not None) == (8, True)
    assert spec.sampling.temp == 0.8
    assert settled(spec)[0] == spec
    assert settled(spec_for(trace_file, Path("t.gguf")))[0].sampling == settled(spec)[0].sampling
    assert settled(make_spec(target="t"))[1] is None


def test_a_vocabulary_that_is_too_small_is_told_before_loading(trace_file: Path, tmp_path: Path) -> None:
    prompt = np.arange(600, dtype=np.int32)
    write_trace(tmp_path / "big.npz", trace_of([turn_of(prompt, 599)], 1, 600))
    small = write_nano(tmp_path / "small.gguf", "dense")
    with pytest.raises(SpecdecError, match="600 different tokens, the target's vocabulary room for 512"):
        runner.compare(spec_for(tmp_path / "big.npz", small), Path("r"), Quiet())
