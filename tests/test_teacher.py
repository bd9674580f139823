"""A recorded text on another target: its tokens, the real passes of the target, drafts as recorded or by rates."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from specdec.decode import Decoder
from specdec.errors import SpecdecError
from specdec.forced.guided import ByRates, Guided, Said
from specdec.forced.rates import Rates
from specdec.forced.target import ForcedTarget
from specdec.forced.teacher import Teacher
from specdec.forced.trace import new_ids, prompts_of, tokens_of, translated
from specdec.registry import Registry
from specdec.replay.loop import Bounds, replay_turn
from specdec.replay.trace import Trace
from specdec.strategy import Services, Strategy
from specdec.testing.fake import FakeTarget
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


def test_prompts_are_known_by_their_tokens() -> None:
    (one,), (other,) = prompts_of(recording(1)), prompts_of(recording(2))
    assert one.turns == 1
    assert (one.id, one.workload) == (other.id, other.workload)
    assert one.messages != other.messages
