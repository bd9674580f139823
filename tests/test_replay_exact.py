"""A replay's steps are the live run's, one for one: every built-in strategy that needs no model, greedy and sampled."""

from __future__ import annotations

import numpy as np
import pytest

from specdec import kernels
from specdec.decode import Decoder
from specdec.registry import Registry
from specdec.replay.loop import Bounds, replay_turn
from specdec.replay.recorder import Recorder
from specdec.replay.trace import Turn
from specdec.strategy import Services, Strategy
from specdec.testing.fake import FakeTarget
from specdec.types import Generation, Limits, Sampling, TokenArray

MODEL_FREE = [
    "none",
    "ngram-simple",
    "ngram-simple(size_n=1, size_m=1)",
    "ngram-simple(size_n=3, size_m=7)",
    "ngram-mod",
    "ngram-mod(n_match=2, n_min=1, n_max=8)",
    "ngram-mod(n_match=3, n_min=4, n_max=5, table_size=1024)",
    "cascade(ngram-simple(size_n=6, size_m=8), ngram-mod(n_match=2, n_min=0, n_max=4))",
]
SAMPLINGS = [Sampling(), Sampling(temperature=0.7, seed=3), Sampling(temperature=1.0, top_k=4, seed=9)]


def test_every_model_free_strategy_is_covered() -> None:
    registry = Registry()
    names = {n for n in registry.names() if "target_model" not in registry.known[n].cls.needs}
    assert names == {s.split("(")[0] for s in MODEL_FREE}


def build(text: str) -> Strategy:
    return Registry().plan(text)[-1].build()


def live(target: FakeTarget, strategy: Strategy, prompt: TokenArray, limits: Limits, sampling: Sampling) -> Generation:
    return Decoder(target, strategy).generate(prompt, limits, sampling)


def conversation(seed: int) -> list[tuple[int, TokenArray]]:
    """(target seed, prompt): a repetitive prompt, then one that holds it and more, then a short one."""
    rng = np.random.default_rng(seed)
    first = np.tile(rng.integers(0, 20, 25), 5).astype(np.int32)
    return [(seed, first), (seed, np.concatenate([first, first[:40], first])), (seed, first[:4])]


def turn_of(prompt: TokenArray, g: Generation) -> Turn:
    ids = np.concatenate([prompt, np.array(g.token_ids, np.int32)]).astype(np.int32)
    ids.flags.writeable = False
    return Turn("p", "w", 0, ids, len(prompt), g.stop)


def compare(text: str, sampling: Sampling, limits: Limits, fast: bool, end_bias: float = -50.0) -> tuple[int, int]:
    drafted = accepted = 0
    for seed in range(4):
        target = FakeTarget(seed=seed, end_bias=end_bias, sharpness=6.0)
        services = Services(target.n_vocab, target.n_ctx)
        in_loop, replayed = build(text), build(text)
        in_loop.open(services)
        replayed.open(services)
        for _, prompt in conversation(seed):  # state is carried from one to the next, as within a conversation
            plain = live(target, Recorder({}), prompt, limits, sampling)
            wanted = live(target, in_loop, prompt, limits, sampling)
            bounds = Bounds(limits.n_predict, target.n_batch, target.n_vocab, sampling.greedy)
            got = replay_turn(replayed, turn_of(prompt, plain), bounds, fast)
            assert wanted.token_ids == plain.token_ids
            assert got.steps[0].tolist() == wanted.steps.drafted
            assert got.steps[1].tolist() == wanted.steps.accepted
            assert (got.n_output, got.stop, got.cut) == (len(wanted.token_ids), wanted.stop, wanted.cut)
            if not fast:
                assert (got.notes or [None] * len(wanted.steps)) == wanted.steps.note
            drafted += sum(wanted.steps.drafted)
            accepted += sum(wanted.steps.accepted)
    return drafted, accepted


@pytest.mark.parametrize("fast", [False, True], ids=["python", "compiled"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: s.label)
@pytest.mark.parametrize("text", MODEL_FREE)
def test_steps_are_those_of_the_live_run(text: str, sampling: Sampling, fast: bool) -> None:
    if fast and not kernels.available():
        pytest.skip("Numba is not installed (the extra 'replay')")
    drafted, accepted = compare(text, sampling, Limits(n_predict=300), fast)
    if text != "none" and sampling.greedy:
        assert drafted >= accepted > 0


@pytest.mark.parametrize("fast", [False, True], ids=["python", "compiled"])
@pytest.mark.parametrize("text", MODEL_FREE[1:])
def test_texts_that_end_early_end_alike(text: str, fast: bool) -> None:
    """End-of-text in the middle of a draft, and a stop string."""
    if fast and not kernels.available():
        pytest.skip("Numba is not installed (the extra 'replay')")
    compare(text, Sampling(temperature=1.0, seed=1), Limits(n_predict=200), fast, end_bias=-1.0)
    compare(text, Sampling(), Limits(n_predict=200, stop=("ab", "cc", "xq")), fast)
