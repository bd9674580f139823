"""The loop on the toy target: same text whatever is proposed, exact counters, every stop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import chisquare

from specdec.decode import Decoder
from specdec.errors import BrokenGeneration, SpecdecError
from specdec.registry import Registry
from specdec.rollback import Mode, snapshots_for
from specdec.strategy import Strategy
from specdec.testing.fake import FakeTarget
from specdec.types import PHASES, Draft, Generation, Limits, Sampling, Step, TokenArray

PROMPT = np.arange(12, dtype=np.int32)
GREEDY = Sampling()


class Guesser(Strategy):
    """Right with a given probability a token, else random; of random length. Remembers what it was told."""

    name = "guesser"
    longest = 7

    def __init__(self, answer: list[int], rightness: float, seed: int = 0) -> None:
        super().__init__()
        self.answer, self.rightness, self.rng = answer, rightness, np.random.default_rng(seed)
        self.steps: list[Step] = []
        self.begun: list[int] = []

    @property
    def longest_draft(self) -> int:
        return self.longest

    def begin(self, prompt_ids: TokenArray) -> None:
        self.begun, self.n_prompt = prompt_ids.tolist(), len(prompt_ids)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        at, n = len(context) - self.n_prompt, int(self.rng.integers(0, self.longest + 3))  # too long at times: clipped
        known = (self.answer[at : at + n] + [0] * n)[:n]
        wrong = self.rng.random(n) > self.rightness
        return Draft([int(self.rng.integers(0, 20)) if w else k for k, w in zip(known, wrong, strict=True)])

    def accept(self, step: Step) -> None:
        self.steps.append(step)


def naive(target: FakeTarget, prompt: TokenArray, n: int) -> list[int]:
    """The twin: decode everything again for each token, keep nothing, take the argmax."""
    tokens = prompt.tolist()
    for _ in range(n):
        target.memory.clear()
        tokens.append(int(target.decode(np.array(tokens, np.int32), 0, "last")[0].argmax()))
        if tokens[-1] in target.end_of_text:
            break
    target.memory.clear()
    return tokens[len(prompt) :]


def generate(strategy: Strategy, mode: Mode = "auto", recurrent: bool = False, snapshots: int | None = None,
             n: int = 100, sampling: Sampling = GREEDY, **limits: object) -> Generation:  # fmt: skip
    kept = snapshots_for(mode, strategy.longest_draft, recurrent, snapshots)
    target = FakeTarget(recurrent=recurrent, snapshots=kept)
    return Decoder(target, strategy, mode).generate(PROMPT, Limits(n, **limits), sampling)  # type: ignore[arg-type]


ANSWER = naive(FakeTarget(), PROMPT, 100)


@pytest.mark.parametrize("rightness", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("mode", "recurrent", "snapshots"),
    [
        ("auto", False, None),
        ("auto", True, None),
        ("auto", True, 2),
        ("auto", True, 0),
        ("snapshots", True, None),
        ("checkpoint", True, None),
        ("checkpoint-host", True, None),
    ],
)
def test_text_and_counters_for_any_proposer(
    mode: Mode, recurrent: bool, snapshots: int | None, rightness: float, seed: int
) -> None:
    guesser = Guesser(ANSWER, rightness, seed)
    g = generate(guesser, mode, recurrent, snapshots)
    assert g.token_ids == ANSWER
    assert len(g.token_ids) == 1 + sum(a + 1 for a in g.steps.accepted) - g.cut
    assert g.steps.drafted == [len(s.draft) for s in guesser.steps]
    assert g.steps.accepted == [s.accepted for s in guesser.steps]
    assert g.token_ids[1:] == [t for s in guesser.steps for t in s.emitted]
    assert guesser.begun == PROMPT.tolist()
    assert max(g.steps.drafted) <= guesser.longest
    if rightness == 1.0:
        assert g.steps.accepted == g.steps.drafted
        assert g.n_redecoded == 0


def test_each_way_of_rolling_back_is_taken_where_it_should() -> None:
    ways = {
        (mode, snapshots): set(generate(Guesser(ANSWER, 0.6), mode, True, snapshots).steps.rollback) - {""}
        for mode, snapshots in (("auto", None), ("auto", 2), ("auto", 0), ("checkpoint", None))
    }
    assert ways["auto", None] == {"snapshots"}
    assert ways["auto", 2] == {"snapshots", "checkpoint"}
    assert ways["auto", 0] == {"checkpoint"}
    assert ways["checkpoint", None] == {"checkpoint"}
    assert set(generate(Guesser(ANSWER, 0.6)).steps.rollback) - {""} == {"seq_rm"}


def test_redecoded_tokens_are_not_counted_as_emitted() -> None:
    g = generate(Guesser(ANSWER, 0.6), "checkpoint", True)
    assert g.n_redecoded > 0
    assert len(g.token_ids) == 100


def test_phases_add_up() -> None:
    g = generate(Guesser(ANSWER, 0.5), "checkpoint", True)
    assert set(g.phase_s) == set(PHASES)
    assert sum(g.phase_s.values()) == pytest.approx(g.generation_s, abs=1e-3)
    assert g.phase_s["roll_back"] > 0
    assert g.end_to_end_s >= g.ttft_s >= g.prefill_s


@pytest.mark.parametrize("recurrent", [False, True])
def test_sampled_text_is_the_same_with_deterministic_drafts(recurrent: bool) -> None:
    sampling = Sampling(1.0, top_k=5, seed=3)
    plain = Guesser([], 0.0)
    plain.longest = 0
    wanted = generate(plain, recurrent=recurrent, sampling=sampling).token_ids
    g = generate(Guesser(wanted, 0.7), recurrent=recurrent, sampling=sampling)
    assert g.token_ids == wanted
    assert 0 < sum(g.steps.accepted) < sum(g.steps.drafted)


class Sampler(Strategy):
    """Samples one draft token from a distribution that is not the target's."""

    name = "sampler"
    q = np.random.default_rng(5).dirichlet(np.ones(8)).astype(np.float32)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(10_000 + seed)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        return Draft([int(self.rng.choice(8, p=self.q / self.q.sum()))], self.q[None])


def test_sampled_drafts_keep_the_distribution_of_the_second_token() -> None:
    target = FakeTarget(n_vocab=8, sharpness=1.0, end_bias=0.0)
    first = int(target.decode(PROMPT % 8, 0, "last")[0].argmax())
    prompt = np.append(PROMPT % 8, first).astype(np.int32)
    target.memory.clear()
    counts, plain = np.zeros(8), np.zeros(8)
    never = Guesser([], 0.0)
    never.longest = 0
    for seed in range(6000):
        for strategy, tally in ((Sampler(seed), counts), (never, plain)):
            g = Decoder(target, strategy).generate(prompt, Limits(3, ignore_eos=True), Sampling(1.0, seed=seed))
            tally[g.token_ids[1]] += 1
    both = counts + plain
    seen = both > 20
    expected = plain[seen] * counts[seen].sum() / plain[seen].sum()
    # Two samples against each other: the statistic of their difference has variance n1 + n2.
    assert chisquare(counts[seen], expected).statistic / 2 < 3 * seen.sum()


class TestStops:
    def test_length(self) -> None:
        g = generate(Guesser(ANSWER, 1.0), n=10)
        assert (g.stop, len(g.token_ids)) == ("length", 10)
        assert g.cut == 0, "drafts are clipped so that nothing is computed beyond the limit"

    def test_one_token_needs_no_step(self) -> None:
        g = generate(Guesser(ANSWER, 1.0), n=1)
        assert (len(g.token_ids), len(g.steps), g.stop) == (1, 0, "length")

    @pytest.mark.parametrize("rightness", [0.0, 1.0])
    def test_end_of_text_inside_a_draft_cuts_the_rest(self, rightness: float) -> None:
        target = FakeTarget(end_bias=1.5)
        wanted = naive(target, PROMPT, 100)
        assert wanted[-1] in target.end_of_text
        g = Decoder(target, Guesser([*wanted, 1, 2, 3], rightness)).generate(PROMPT, Limits(100), GREEDY)
        assert (g.token_ids, g.stop) == (wanted, "end-of-text")

    def test_ignore_eos_bars_the_end_and_notes_it(self) -> None:
        target = FakeTarget(end_bias=1.5)
        end = len(naive(target, PROMPT, 100)) - 1
        g = Decoder(target, Guesser([], 0.0)).generate(PROMPT, Limits(60, ignore_eos=True), GREEDY)
        assert len(g.token_ids) == 60
        assert not set(g.token_ids) & target.end_of_text
        assert g.first_end_of_text == end

    def test_stop_string_cuts_text_and_tokens(self) -> None:
        text = generate(Guesser([], 0.0)).text
        stop = text[5:8]
        g = generate(Guesser(ANSWER, 1.0), stop=(stop,))
        assert g.stop == "stop-string"
        assert g.text == text[: text.index(stop)]
        assert g.token_ids == ANSWER[: text.index(stop) + 3]


class TestReuse:
    """Turns of a conversation: the memory is kept where it can be, and the text is that of a fresh start."""

    @pytest.mark.parametrize("recurrent", [False, True])
    @pytest.mark.parametrize("change", ["extended", "changed", "shorter"])
    def test_second_turn(self, recurrent: bool, change: str) -> None:
        target = FakeTarget(recurrent=recurrent, snapshots=4 if recurrent else 0)
        strategy = Guesser(ANSWER, 0.5)
        strategy.longest = 4
        decoder = Decoder(target, strategy)
        first = decoder.generate(PROMPT, Limits(30), GREEDY)
        history = [*PROMPT.tolist(), *first.token_ids]
        prompts = {"extended": [*history, 3, 1, 4], "changed": [*history[:-5], 9, 9, 9], "shorter": history[:10]}
        prompt = np.array(prompts[change], np.int32)
        g = decoder.generate(prompt, Limits(30), GREEDY)
        assert g.token_ids == naive(FakeTarget(), prompt, 30)
        if change == "extended":
            assert g.n_reused >= len(history) - 1
        elif recurrent:
            assert g.n_reused == 0
        else:
            assert g.n_reused == min(len(prompt) - 1, len(history) - 5)


class TestRefusals:
    def test_context_too_long(self) -> None:
        with pytest.raises(SpecdecError, match="do not fit a context of 64"):
            Decoder(FakeTarget(n_ctx=64), Guesser([], 0)).generate(PROMPT, Limits(60), GREEDY)

    def test_empty_prompt(self) -> None:
        with pytest.raises(SpecdecError, match="prompt is empty"):
            Decoder(FakeTarget(), Guesser([], 0)).generate(PROMPT[:0], Limits(5), GREEDY)

    @pytest.mark.parametrize(
        ("draft", "message"), [(Draft([99]), "token 99, outside"), (Draft([1], parents=[0]), "trees")]
    )
    def test_bad_drafts(self, draft: Draft, message: str) -> None:
        guesser = Guesser([], 0)
        guesser.propose = lambda context, max_tokens: draft  # type: ignore[method-assign]
        with pytest.raises(SpecdecError, match=message):
            generate(guesser)

    def test_broken_counters_are_caught(self) -> None:
        good = generate(Guesser(ANSWER, 0.5))
        with pytest.raises(BrokenGeneration, match="account for"):
            dataclasses.replace(good, token_ids=good.token_ids[:-1]).check_identity()
        with pytest.raises(BrokenGeneration, match="phases"):
            dataclasses.replace(good, generation_s=good.generation_s + 1).check_identity()


def test_prefill_in_chunks_gives_the_same_text() -> None:
    prompt = np.random.default_rng(0).integers(0, 20, 70).astype(np.int32)
    texts = [
        Decoder(FakeTarget(n_batch=b), Guesser([], 0.0)).generate(prompt, Limits(20), GREEDY).token_ids
        for b in (16, 128)
    ]
    assert texts[0] == texts[1] == naive(FakeTarget(), prompt, 20)


def test_hidden_rows_cover_every_settled_token_once() -> None:
    class Watcher(Guesser):
        needs = frozenset({"hidden_states"})
        seen: list[tuple[int, list[int], list[float]]]

        def process(self, ids: TokenArray, start: int, hidden: np.ndarray) -> None:
            self.seen = [*getattr(self, "seen", []), (start, ids.tolist(), hidden[:, 0].tolist())]

    watcher = Watcher(ANSWER, 0.6)
    g = generate(watcher, "checkpoint", True)
    tokens = [t for _, ids, _ in watcher.seen for t in ids]
    assert tokens == [*PROMPT.tolist(), *g.token_ids][: len(tokens)]
    assert [start for start, _, _ in watcher.seen] == np.cumsum([0, *(len(i) for _, i, _ in watcher.seen)])[
        :-1
    ].tolist()
    assert all(hidden == [float(i) for i in ids] for _, ids, hidden in watcher.seen)


@pytest.mark.parametrize("name", ["ngram-mod(n_match=3, n_min=1, n_max=6)", "ngram-simple(size_n=2, size_m=5)"])
def test_a_built_in_strategy_drafts_on_repetitive_text(name: str) -> None:
    """So that the equality tests of the conformance suite are about something."""
    from specdec.testing.conformance import Bench

    g = Bench(Registry().plan(name)[-1].build()).generate(np.tile(np.arange(20, dtype=np.int32), 6))
    assert sum(g.steps.accepted) > 0
