"""The conformance suite: what every strategy must keep to. ``specdec strategies check`` runs it.

It runs on the toy target. Strategies that need a real model (MTP, draft models) run on a nano model with random
weights, whose CPU kernels are deterministic, so that texts can be compared there too.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from specdec.decode import Decoder
from specdec.faults import in_one_line
from specdec.replay.loop import Bounds, replay_turn
from specdec.replay.recorded import Recorded, Tape
from specdec.replay.recorder import Recorder
from specdec.rollback import snapshots_for
from specdec.strategy import Services, Strategy
from specdec.target import Target
from specdec.testing.fake import FakeTarget
from specdec.testing.traces import turn_of
from specdec.types import NO_DRAFT, Draft, Generation, Limits, MemoryItem, Sampling, Steps, TokenArray

Build = Callable[[], Strategy]
LIMITS = Limits(n_predict=160)
_GREEDY = Sampling()
_SAMPLED = Sampling(temperature=1.0, seed=5)


@dataclass(frozen=True, slots=True)
class Check:
    """One property: held or not, and what was seen."""

    name: str
    passed: bool
    detail: str = ""


class Plain(Strategy):
    """No drafts: what texts are compared with."""

    name = "plain"

    @property
    def longest_draft(self) -> int:
        return 0

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        return NO_DRAFT


def check_strategy(build: Build) -> list[Check]:
    """Run every check on fresh instances; an exception in one is that check's failure."""
    checks: list[Callable[[Build], str]] = [
        _greedy_text_unchanged,
        _sampled_text_unchanged,
        _hybrid_memory_safe,
        _drafts_are_valid,
        _reset_forgets,
        _short_and_odd_prompts,
        _memory_is_itemised,
        _replay_equals_live,
    ]
    results = []
    for check in checks:
        name = (check.__doc__ or check.__name__).splitlines()[0].rstrip(".")
        try:
            results.append(Check(name, True, check(build)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the strategy under test raises is the result
            results.append(Check(name, False, in_one_line(error)))
    return results


def toy_prompts() -> Iterator[TokenArray]:
    """Random, repetitive and short prompts."""
    rng = np.random.default_rng(1)
    yield rng.integers(0, 20, 90).astype(np.int32)
    yield np.tile(rng.integers(0, 20, 30), 5).astype(np.int32)
    yield rng.integers(0, 20, 3).astype(np.int32)


class Bench:
    """A strategy on a target that suits it: a toy, or the nano hybrid where it needs a real model."""

    def __init__(
        self, strategy: Strategy, sampling: Sampling = _GREEDY, recurrent: bool = False, seed: int = 0
    ) -> None:
        self.strategy, self.sampling = strategy, sampling
        self._real = "target_model" in strategy.needs
        snapshots = snapshots_for("auto", strategy.longest_draft, recurrent or self._real, None)
        self.target = (
            _nano(snapshots) if self._real else FakeTarget(seed=seed, recurrent=recurrent, snapshots=snapshots)
        )
        model = getattr(self.target, "model", None)
        strategy.open(Services(self.target.n_vocab, self.target.n_ctx, 0, 1, sampling, model))
        self.decoder = Decoder(self.target, strategy)

    def generate(self, prompt: TokenArray) -> Generation:
        """One checked generation from an empty memory."""
        self.decoder.clear()
        return self.decoder.generate(prompt, LIMITS, self.sampling)

    def plain(self, prompt: TokenArray) -> Generation:
        """The same without drafts."""
        return Decoder(self.target, Plain()).generate(prompt, LIMITS, self.sampling)

    def close(self) -> None:
        """Close the strategy and, where it is real, the target."""
        self.strategy.close()
        if self._real:
            self.target.close()  # type: ignore[attr-defined]


@cache
def _nano_model() -> Any:
    from specdec.llama.model import LlamaModel
    from specdec.spec import ModelOptions
    from specdec.testing.nano import write_nano

    path = write_nano(Path(tempfile.mkdtemp(prefix="specdec-nano-")) / "hybrid.gguf", "hybrid")
    return LlamaModel(path, ModelOptions(threads=1, gpu_layers=0, device="none"), mtp=True)


def _nano(snapshots: int) -> Target:
    from specdec.llama.target import LlamaTarget

    return LlamaTarget(_nano_model(), 512, snapshots, 64, hidden=True)


def _ensure(held: bool, message: str) -> None:
    if not held:
        raise ValueError(message)


def _same_text(build: Build, sampling: Sampling, recurrent: bool) -> str:
    drafted = accepted = 0
    for seed, prompt in enumerate(toy_prompts()):
        bench = Bench(build(), sampling, recurrent, seed)
        got, wanted = bench.generate(prompt), bench.plain(prompt)
        bench.close()
        _ensure(got.token_ids == wanted.token_ids, f"the text differs from plain decoding on toy prompt {seed}")
        drafted += sum(got.steps.drafted)
        accepted += sum(got.steps.accepted)
    return f"{drafted} drafted, {accepted} accepted" if drafted else "drafted nothing on the toy prompts"


def _greedy_text_unchanged(build: Build) -> str:
    """Greedy text equals plain decoding."""
    return _same_text(build, _GREEDY, recurrent=False)


def _sampled_text_unchanged(build: Build) -> str:
    """Sampled text equals plain decoding, or drafts carry their probabilities."""
    bench = Bench(build(), _SAMPLED)
    drafts = spy(bench.strategy)
    bench.generate(next(iter(toy_prompts())))
    bench.close()
    if any(d.probs is not None for d in drafts):
        return "drafts are sampled; the rejection rule keeps the distribution"
    return _same_text(build, _SAMPLED, recurrent=False)


def _hybrid_memory_safe(build: Build) -> str:
    """Text is right on a recurrent target."""
    return _same_text(build, _GREEDY, recurrent=True)


def spy(strategy: Strategy) -> list[Draft]:
    """Watch ``propose``: collects the drafts, and raises where one breaks a rule or touches the context."""
    drafts: list[Draft] = []
    propose = strategy.propose

    def watched(context: TokenArray, max_tokens: int) -> Draft:
        before = context.copy()
        draft = propose(context, max_tokens)
        _ensure(bool(np.array_equal(before, context)), "the context was changed")
        _ensure(len(draft) <= strategy.longest_draft, f"{len(draft)} tokens, longest_draft is {strategy.longest_draft}")
        if draft.probs is not None:
            _ensure(len(draft.probs) == len(draft), f"probs has shape {draft.probs.shape}")
            _ensure(bool(np.allclose(draft.probs.sum(axis=1), 1.0, atol=1e-3)), "probabilities do not add up to 1")
        drafts.append(draft)
        return draft

    strategy.propose = watched  # type: ignore[method-assign]
    return drafts


def _drafts_are_valid(build: Build) -> str:
    """Drafts are no longer than longest_draft, probabilities fit, the context is not written to."""
    longest = 0
    for sampling in (_GREEDY, _SAMPLED):
        for prompt in toy_prompts():
            bench = Bench(build(), sampling)
            drafts = spy(bench.strategy)
            bench.generate(prompt)
            bench.close()
            longest = max([longest, *map(len, drafts)])
    return f"longest draft seen: {longest}"


def _reset_forgets(build: Build) -> str:
    """After reset() a strategy drafts as a new one does."""
    first, second = list(toy_prompts())[:2]
    used, fresh = Bench(build()), Bench(build())
    used.generate(second)
    used.strategy.reset()
    same = used.generate(first).steps.drafted == fresh.generate(first).steps.drafted
    used.close()
    fresh.close()
    _ensure(same, "drafts differ from a fresh instance's")
    return ""


def _short_and_odd_prompts(build: Build) -> str:
    """One-token prompts, and generations one after the other, work."""
    bench = Bench(build())
    for length in (1, 2, 1):
        bench.generate(np.arange(length, dtype=np.int32))
    bench.close()
    return ""


def _replay_equals_live(build: Build) -> str:
    """Replayed on a recorded text, its steps are those of the live run."""
    strategy = build()
    real, recordable = "target_model" in strategy.needs, {"n_max", "p_min"} <= set(type(strategy.options).model_fields)
    if strategy.needs and not (real and recordable and not strategy.combines):
        return "needs the target: it cannot be replayed"
    steps = 0
    for sampling in (_GREEDY,) if real else (_GREEDY, _SAMPLED):
        for prompt in toy_prompts():
            bench = Bench(build(), sampling)
            drafts, wanted = spy(bench.strategy), bench.generate(prompt)
            bench.close()
            if not sampling.greedy and any(d.probs is not None for d in drafts):
                return "sampled drafts: only greedy runs can be replayed"
            for fast in (False, True):
                got = _replayed(build, prompt, sampling, fast)
                drafted_and_accepted = [wanted.steps.drafted, wanted.steps.accepted]
                _ensure(got.tolist() == drafted_and_accepted, f"steps differ on a prompt of {len(prompt)} tokens")
            steps += len(wanted.steps)
    return f"{steps} steps"


def _replayed(build: Build, prompt: TokenArray, sampling: Sampling, fast: bool) -> Steps:
    """Steps of a replay: of the strategy itself, or of its recorded proposals where it needs the model."""
    strategy = build()
    real = "target_model" in strategy.needs
    recorder = Recorder({strategy.name: build()} if real else {})
    bench = Bench(recorder, sampling)
    said = bench.generate(prompt)
    target, tape = bench.target, Tape()
    ids = np.concatenate([prompt, np.array(said.token_ids, np.int32)])
    proposals = recorder.take(len(said.token_ids))
    bench.close()
    tape.turn = dataclasses.replace(turn_of(ids, len(prompt), stop=said.stop), proposals=proposals)
    if real:
        strategy = Recorded(strategy.name, strategy.options, tape)
    strategy.open(Services(target.n_vocab, target.n_ctx, 0, 1, sampling))
    replayed = replay_turn(
        strategy, tape.turn, Bounds(LIMITS.n_predict, target.n_batch, target.n_vocab, sampling.greedy), fast
    )
    strategy.close()
    return replayed.steps


def _memory_is_itemised(build: Build) -> str:
    """memory() gives items with a device, a kind and bytes."""
    bench = Bench(build())
    bench.generate(next(iter(toy_prompts())))
    items = bench.strategy.memory()
    bench.close()
    _ensure(all(isinstance(i, MemoryItem) and i.bytes >= 0 for i in items), "memory() must return MemoryItems")
    return f"{sum(i.bytes for i in items):,} bytes"
