"""A recorded text on another target: its tokens, the real passes of the target, drafts as recorded or by rates."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recording import MODEL, PROMPTS, Quiet
from typer.testing import CliRunner

from specdec import runner, store
from specdec.cli import app
from specdec.decode import Decoder
from specdec.differences import settings
from specdec.errors import SpecdecError
from specdec.forced.guided import ByRates, Guided, Said
from specdec.forced.rates import Rates
from specdec.forced.target import ForcedTarget
from specdec.forced.teacher import Teacher
from specdec.forced.trace import new_ids, prompts_of, settled, tokens_of, translated
from specdec.metrics import rows
from specdec.registry import Registry
from specdec.replay import job
from specdec.replay.loop import Bounds, replay_turn
from specdec.replay.record import Wanted, record
from specdec.replay.run import ReplayOptions
from specdec.replay.trace import Proposals, Trace, Turn, read_trace, write_trace
from specdec.report import tables
from specdec.spec import RunSpec, make_spec
from specdec.strategy import Services, Strategy
from specdec.testing.fake import FakeTarget
from specdec.testing.nano import write_nano
from specdec.testing.traces import record_turn, trace_of, turn_of
from specdec.types import Draft, Limits, Sampling, Step, TokenArray

MODEL_FREE = [
    "none",
    "ngram-simple(size_n=2, size_m=6)",
    "ngram-mod(n_match=2, n_min=1, n_max=8)",
    "cascade(ngram-simple(size_n=6, size_m=8), ngram-mod(n_match=2, n_min=0, n_max=4))",
]
LARGE = 64
"""Tokens in the other target's vocabulary; the recorded one has 24."""


def recording(seed: int, end_bias: float = -50.0) -> Trace:
    prompt = np.tile(np.random.default_rng(seed).integers(0, 20, 25), 5).astype(np.int32)
    target = FakeTarget(seed=seed, sharpness=6.0, end_bias=end_bias)
    return trace_of([record_turn(target, prompt, Limits(300), Sampling())], 300, target.n_vocab, target.n_batch)


def other_target(**memory: Any) -> FakeTarget:
    return FakeTarget(n_vocab=LARGE, seed=99, **memory)


def taught(trace: Trace, target: FakeTarget, rates: tuple[float, ...] = ()) -> Teacher:
    """A teacher for the target; tokens below 10 are not for texts there, so many ids have to move."""
    teacher = Teacher(trace, rates, Sampling())
    teacher.teach(SimpleNamespace(n_vocab=target.n_vocab, ordinary=lambda t: t >= 10 and t not in target.end_of_text))
    return teacher


def services(target: FakeTarget) -> Services:
    return Services(target.n_vocab, target.n_ctx)


class TestNewIds:
    def test_what_is_ordinary_keeps_its_number_and_no_two_meet(self) -> None:
        new = new_ids(np.array([0, 3, 5, 70], np.int32), 64, lambda t: t > 3)
        assert new[2] == 5
        assert len(set(new.tolist())) == 4
        assert all(3 < t < 64 for t in new.tolist())

    def test_too_small_a_vocabulary(self) -> None:
        with pytest.raises(SpecdecError, match="5 different tokens, the target's vocabulary room for 4"):
            new_ids(np.arange(5, dtype=np.int32), 8, lambda t: t >= 4)

    def test_a_translated_trace_is_the_same_text(self) -> None:
        trace = recording(1)
        new = translated(trace, LARGE, lambda t: t >= 10)
        old, moved = trace.turns[0].ids, new.turns[0].ids
        assert len(set(zip(old.tolist(), moved.tolist(), strict=True))) == len(set(old.tolist())) == len(tokens_of(new))
        assert moved.min() >= 10


@pytest.mark.parametrize("strategy", MODEL_FREE)
@pytest.mark.parametrize(
    "memory", [{}, {"recurrent": True, "snapshots": 8}, {"recurrent": True}], ids=["cut", "snapshots", "checkpoint"]
)
def test_model_free_steps_are_those_of_the_replay(strategy: str, memory: dict[str, Any]) -> None:
    accepted = ended = 0
    for seed in range(4):
        for end_bias, n_predict in ((-50.0, 300), (-50.0, 70), (5.0, 300)):
            trace = recording(seed, end_bias)
            turn, target = trace.turns[0], other_target(**memory)
            teacher = taught(trace, target)
            planned = Registry().plan(strategy)[-1]
            live, replayed = planned.build(teacher.single), planned.build()
            live.open(services(target))
            replayed.open(Services(24, target.n_ctx))
            (prompt,) = teacher.prompts
            ids = teacher.begin(prompt, 0, target.n_ctx)
            g = Decoder(teacher.target(target), live).generate(ids, teacher.limits(Limits(n_predict)), Sampling())
            got = replay_turn(replayed, turn, Bounds(n_predict, target.n_batch, 24, True))
            assert [g.steps.drafted, g.steps.accepted] == got.steps.tolist()
            assert (len(g.token_ids), g.stop, g.cut) == (got.n_output, got.stop, got.cut)
            assert teacher.checked(g).token_ids == g.token_ids
            assert not target.memory.stale
            assert not g.text
            accepted += int(got.steps[1].sum())
            ended += g.stop == "end-of-text"
    assert ended
    assert accepted or strategy == "none"


def test_an_answer_that_a_stop_string_ended_ends_by_length() -> None:
    trace = trace_of([turn_of(np.arange(20, dtype=np.int32), 5, stop="stop-string")], 100, 24)
    target = other_target()
    teacher = taught(trace, target)
    ids = teacher.begin(teacher.prompts[0], 0, target.n_ctx)
    strategy = Registry().plan("none")[0].build()
    g = Decoder(teacher.target(target), strategy).generate(ids, teacher.limits(Limits(100)), Sampling())
    assert (g.stop, len(g.token_ids)) == ("length", 15)


class Noisy(Strategy):
    """Stands for a layer with random weights: drafts noise, and notes what it is asked and told."""

    name = "noisy"
    needs = frozenset({"target_model"})

    def __init__(self, length: int = 3) -> None:
        super().__init__()
        self.length, self.asked, self.told = length, [], []  # type: ignore[var-annotated]

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        self.asked.append(max_tokens)
        self.last = [int(t) for t in np.random.default_rng(len(context)).integers(0, LARGE, self.length)]
        return Draft(self.last[:max_tokens])

    def accept(self, step: Step) -> None:
        assert list(step.draft.token_ids) == self.last[: len(step.draft)], "its own draft, not what was verified"
        self.told.append((len(step.draft), step.accepted))


class TestRates:
    rates = (0.88, 0.72, 0.58)

    def run(self, rates: tuple[float, ...]) -> tuple[Any, Noisy, TokenArray, FakeTarget]:
        target, said, own = other_target(recurrent=True, snapshots=3), Said(), Noisy()
        said.text.ids = np.random.default_rng(0).integers(0, LARGE - 1, 3000).astype(np.int32)
        said.rates = Rates(rates, target.n_ctx, np.random.default_rng(0))
        forced = ForcedTarget(target, said.text, frozenset())
        g = Decoder(forced, Guided(own, ByRates(said))).generate(said.text.ids[:5], Limits(2990), Sampling())
        return g, own, said.text.ids, target

    def test_they_are_met_and_the_text_is_the_recorded_one(self) -> None:
        g, own, text, target = self.run(self.rates)
        assert g.token_ids == text[5:2995].tolist()
        accepted = np.array([a for d, a in zip(g.steps.drafted, g.steps.accepted, strict=True) if d == 3])
        for i, rate in enumerate(self.rates, 1):
            assert abs((accepted >= i).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / len(accepted))
        asked = [told for told in own.told if told[0]]
        assert asked == [(d, a) for d, a in zip(g.steps.drafted, g.steps.accepted, strict=True) if d]
        assert not target.memory.stale

    @pytest.mark.parametrize(("rates", "each"), [((0.0,), 0), ((1.0, 1.0), 2)])
    def test_none_and_all(self, rates: tuple[float, ...], each: int) -> None:
        g, *_ = self.run(rates)
        assert {a for d, a in zip(g.steps.drafted, g.steps.accepted, strict=True) if d == 3} == {each}

    def test_sampled_drafts_are_refused(self) -> None:
        class Sampled(Noisy):
            def propose(self, context: TokenArray, max_tokens: int) -> Draft:
                return Draft([1], np.ones((1, LARGE), np.float32) / LARGE)

        with pytest.raises(SpecdecError, match="drafts are sampled"):
            Guided(Sampled(), ByRates(Said())).propose(np.zeros(5, np.int32), 3)


def test_recorded_drafts_are_verified_and_the_strategy_works_for_them() -> None:
    """Where p_min stopped a proposal the strategy drafts one token more, as it would have to see that it is unsure."""

    class Listed:
        def begin(self, prompt_ids: TokenArray) -> None: ...

        def passes(self, context: TokenArray, most: int) -> int:
            return 3

        def draft(self, context: TokenArray, own: Sequence[int], most: int) -> Sequence[int]:
            return [7, 8]

    own = Noisy()
    guided = Guided(own, Listed())
    draft = guided.propose(np.zeros(5, np.int32), 4)
    guided.accept(Step(4, draft, 2, (7, 8, 9)))
    assert (draft.token_ids, own.asked, own.told) == ([7, 8], [3], [(2, 2)])


# ---- on contexts of llama.cpp

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


# ---- refusals


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


def test_prompts_are_known_by_their_tokens() -> None:
    (one,), (other,) = prompts_of(recording(1)), prompts_of(recording(2))
    assert one.turns == 1
    assert (one.id, one.workload) == (other.id, other.workload)
    assert one.messages != other.messages
