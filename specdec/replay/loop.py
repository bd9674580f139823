"""The decode loop without a model: the target's answers come from a trace.

Why this is exact. Under greedy decoding the target's next token is a function of the text so far; under sampling, of the
text and of a random number that belongs to the position, not to the call (sampling.Chooser). A deterministic draft is
compared with that token and changes neither. So the text is the same under every such strategy, and one recording of
it decides what each draft of each of them is worth. A draft that is itself *sampled* is verified by rejection, and then
the text depends on it: such a strategy cannot be replayed in a sampled run, and is refused.

The same target on other kernels or batch shapes may round a near-tie differently; that is a property of live runs, not
of the replay, and the recorded margins say where it can happen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specdec.errors import SpecdecError
from specdec.replay.trace import Turn
from specdec.strategy import Strategy
from specdec.types import NO_DRAFT, Draft, Step, Steps, TokenArray


@dataclass(frozen=True, slots=True)
class Bounds:
    """What limits a draft besides the strategy: the loop's ``Limits`` and the target's batch."""

    n_predict: int
    n_batch: int
    n_vocab: int
    greedy: bool


@dataclass(frozen=True, slots=True)
class Replayed:
    """One generation replayed. ``steps`` int32 [2, steps]: drafted, accepted; ``notes`` only where a draft had one.
    ``n_output`` tokens, less than recorded where ``n_predict`` is smaller; ``cut``: 1 where a draft token ended it."""

    steps: Steps
    notes: list[str | None] | None
    n_output: int
    stop: str

    @property
    def cut(self) -> int:
        return int(1 + self.steps[1].sum() + self.steps.shape[1] - self.n_output)


def replay_turn(strategy: Strategy, turn: Turn, bounds: Bounds, fast: bool = False) -> Replayed:
    """What ``Decoder.generate`` would do with this strategy where the target says what the trace says.

    Args:
        strategy: opened; ``reset`` is the caller's.
        fast: use the strategy's compiled ``replay`` where it has one.
    """
    n_output = min(turn.n_output, bounds.n_predict)
    text = turn.ids[: turn.n_prompt + n_output]
    stop = turn.stop if n_output == turn.n_output else "length"
    most = min(strategy.longest_draft, bounds.n_batch - 1)
    steps = strategy.replay(text, turn.n_prompt, bounds.n_predict, most) if fast else None
    if steps is not None:
        return Replayed(steps, None, n_output, stop)
    drafted, accepted, notes = _step_by_step(strategy, text, turn.n_prompt, most, bounds)
    named = notes if any(notes) else None
    return Replayed(np.array([drafted, accepted], np.int32).reshape(2, -1), named, n_output, stop)


def _step_by_step(
    strategy: Strategy, text: TokenArray, n_prompt: int, most: int, bounds: Bounds
) -> tuple[list[int], list[int], list[str | None]]:
    """decode.py's loop: begin, then propose, verify, accept until the text ends."""
    drafted: list[int] = []
    counts: list[int] = []
    notes: list[str | None] = []
    strategy.begin(text[:n_prompt])
    n, end = n_prompt + 1, len(text)  # the first token comes from the prefill
    while n < end:
        room = min(bounds.n_predict - (n - n_prompt) - 1, most)
        draft = _checked(strategy, strategy.propose(text[:n], room), room, bounds) if room >= 1 else NO_DRAFT
        accepted = _agreeing(draft.token_ids, text[n : n + len(draft)]) if draft else 0
        emitted = text[n : n + accepted + 1].tolist()
        strategy.accept(Step(n - 1, draft, accepted, tuple(emitted)))
        drafted.append(len(draft))
        counts.append(accepted)
        notes.append(None if draft.note is None else str(draft.note))
        n += len(emitted)
    strategy.end()
    return drafted, counts, notes


def _checked(strategy: Strategy, draft: Draft, room: int, bounds: Bounds) -> Draft:
    """The draft as the loop would verify it; refuses what the loop refuses, and what a trace cannot decide."""
    if draft.parents is not None:
        raise SpecdecError(f"{strategy.name}: draft trees (parents) are not verified yet; propose a chain.")
    if draft.probs is not None and not bounds.greedy:
        raise SpecdecError(
            f"{strategy.name}: its drafts are sampled, so in a sampled run the text depends on them: it cannot be"
            " replayed.",
            "Compare it live.",
        )
    draft = draft.clipped(room)
    for token in draft.token_ids:
        if not 0 <= token < bounds.n_vocab:
            raise SpecdecError(f"{strategy.name}: proposed token {token}, outside 0..{bounds.n_vocab - 1}.")
    return draft


def _agreeing(draft: Sequence[int], text: TokenArray) -> int:
    """How many leading draft tokens are those of the text."""
    for i, (guess, token) in enumerate(zip(draft, text.tolist(), strict=False)):
        if guess != token:
            return i
    return len(text)
