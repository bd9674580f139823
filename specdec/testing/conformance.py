"""The conformance suite: what every strategy must keep to, tried on the toy target. ``specdec strategies check``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from specdec.decode import Decoder
from specdec.rollback import snapshots_for
from specdec.strategy import Services, Strategy
from specdec.testing.fake import FakeTarget
from specdec.types import NO_DRAFT, Draft, Generation, Limits, MemoryItem, Sampling, Step, TokenArray

Build = Callable[[], Strategy]
_LIMITS = Limits(n_predict=160)
_GREEDY = Sampling()
_SAMPLED = Sampling(temperature=1.0, seed=5)


@dataclass(frozen=True, slots=True)
class Check:
    """One property: held or not, and what was seen."""

    name: str
    passed: bool
    detail: str = ""


class _Plain(Strategy):
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
        _context_untouched,
        _reset_forgets,
        _short_and_odd_prompts,
        _memory_is_itemised,
    ]
    results = []
    for check in checks:
        name = (check.__doc__ or check.__name__).splitlines()[0].rstrip(".")
        try:
            results.append(Check(name, True, check(build)))
        except Exception as error:  # noqa: BLE001 - the strategy under test may raise anything; that is the result
            results.append(
                Check(name, False, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
            )
    return results


def opened(strategy: Strategy, target: FakeTarget) -> Strategy:
    """The strategy, opened with the toy target's facts."""
    strategy.open(Services(target.n_vocab, target.n_ctx, target.width, target.threads))
    return strategy


def toy_prompts() -> Iterator[TokenArray]:
    """Random, repetitive and short prompts."""
    rng = np.random.default_rng(1)
    yield rng.integers(0, 20, 90).astype(np.int32)
    yield np.tile(rng.integers(0, 20, 30), 5).astype(np.int32)
    yield rng.integers(0, 20, 3).astype(np.int32)


def run(
    strategy: Strategy, prompt: TokenArray, sampling: Sampling = _GREEDY, recurrent: bool = False, seed: int = 0
) -> Generation:
    """One checked generation on a toy target that suits the strategy."""
    snapshots = snapshots_for("auto", strategy.longest_draft, recurrent, None)
    target = FakeTarget(seed=seed, recurrent=recurrent, snapshots=snapshots)
    return Decoder(target, opened(strategy, target)).generate(prompt, _LIMITS, sampling)


def _ensure(held: bool, message: str) -> None:
    if not held:
        raise ValueError(message)


def _same_text(build: Build, sampling: Sampling, recurrent: bool) -> str:
    drafted = accepted = 0
    for seed, prompt in enumerate(toy_prompts()):
        wanted = run(_Plain(), prompt, sampling, recurrent, seed)
        got = run(build(), prompt, sampling, recurrent, seed)
        _ensure(got.token_ids == wanted.token_ids, f"the text differs from plain decoding on toy prompt {seed}")
        drafted += sum(got.steps.drafted)
        accepted += sum(got.steps.accepted)
    return f"{drafted} drafted, {accepted} accepted" if drafted else "drafted nothing on the toy prompts"


def _greedy_text_unchanged(build: Build) -> str:
    """Greedy text equals plain decoding."""
    return _same_text(build, _GREEDY, recurrent=False)


def _sampled_text_unchanged(build: Build) -> str:
    """Sampled text equals plain decoding, or drafts carry true probabilities."""
    target = FakeTarget()
    probe = opened(build(), target)
    prompt = next(iter(toy_prompts()))
    probe.begin(prompt)
    if probe.propose(prompt, 8).probs is None:
        return _same_text(build, _SAMPLED, recurrent=False)
    run(build(), prompt, _SAMPLED)
    return "drafts are sampled; the rejection rule keeps the distribution"


def _hybrid_memory_safe(build: Build) -> str:
    """Text is right on a recurrent target."""
    return _same_text(build, _GREEDY, recurrent=True)


def _drafts_are_valid(build: Build) -> str:
    """Drafts hold known tokens, probabilities that fit, and no more than longest_draft."""
    strategy, target = build(), FakeTarget()
    opened(strategy, target)
    longest = 0
    for prompt in toy_prompts():
        strategy.reset()
        strategy.begin(prompt[:-1])
        draft = strategy.propose(prompt, 64)
        longest = max(longest, len(draft))
        _ensure(len(draft) <= strategy.longest_draft, f"{len(draft)} tokens, longest_draft is {strategy.longest_draft}")
        _ensure(all(0 <= t < target.n_vocab for t in draft.token_ids), "a token outside the vocabulary")
        if draft.probs is not None:
            _ensure(draft.probs.shape == (len(draft), target.n_vocab), f"probs has shape {draft.probs.shape}")
            _ensure(bool(np.allclose(draft.probs.sum(axis=1), 1.0, atol=1e-3)), "probabilities do not add up to 1")
        strategy.accept(Step(len(prompt) - 1, draft, 0, (0,)))
        strategy.end()
    return f"longest draft seen: {longest}"


def _context_untouched(build: Build) -> str:
    """The context is not written to and not kept."""
    strategy = opened(build(), FakeTarget())
    prompt = next(iter(toy_prompts()))
    before, context = prompt.copy(), prompt.copy()
    context.flags.writeable = False
    strategy.begin(context)
    strategy.propose(context, 8)
    _ensure(bool(np.array_equal(before, context)), "the context was changed")
    return ""


def _reset_forgets(build: Build) -> str:
    """After reset() a strategy drafts as a new one does."""
    used, fresh = build(), build()
    first, second = list(toy_prompts())[:2]
    run(used, second)
    used.reset()
    _ensure(run(used, first).steps.drafted == run(fresh, first).steps.drafted, "drafts differ from a fresh instance's")
    return ""


def _short_and_odd_prompts(build: Build) -> str:
    """One-token prompts, and generations one after the other, work."""
    strategy = build()
    for length in (1, 2, 1):
        run(strategy, np.arange(length, dtype=np.int32))
    strategy.close()
    return ""


def _memory_is_itemised(build: Build) -> str:
    """memory() gives items with a device, a kind and bytes."""
    strategy = build()
    run(strategy, next(iter(toy_prompts())))
    items = strategy.memory()
    _ensure(all(isinstance(i, MemoryItem) and i.bytes >= 0 for i in items), "memory() must return MemoryItems")
    return f"{sum(i.bytes for i in items):,} bytes"
