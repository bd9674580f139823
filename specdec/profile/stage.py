"""The stage on which the loop is measured: its own steps, with acceptance decided beforehand.

A cost measured alone differs from the cost in the loop: a draft pass throws the target's weights out of the cache, and
on a GPU a change of shape throws away a captured graph. So nothing is timed here that is not a step of the loop in
decode.py; only the outcome of verification is set, by two logits a row, in the target's answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from specdec.strategy import Services, Strategy
from specdec.target import Outputs, Target, TargetMemory
from specdec.types import NO_DRAFT, Draft, FloatArray, MemoryItem, Step, TokenArray

_SURE = np.float32(1e9)
_NEVER = np.float32(-1e9)

Continuation = Callable[[int], int]
"""The token that the measured text has at a position."""


@dataclass(slots=True)
class Script:
    """What the next step shall do: draft ``length`` tokens, of which the first ``accepted`` are kept."""

    length: int = 0
    accepted: int = 0


class Staged:
    """A target whose verification ends as the script says; everything else is the target's own.

    The first token, and the bonus token after a draft that was kept whole, are those of the measured text, so that the
    text goes on as text.
    """

    def __init__(self, target: Target, script: Script, text: Continuation) -> None:
        self._target, self._script, self.text = target, script, text
        self.n_vocab, self.n_ctx, self.n_batch = target.n_vocab, target.n_ctx, target.n_batch
        self.end_of_text, self.piece = target.end_of_text, target.piece
        self.hidden_rows, self.take_experts = target.hidden_rows, target.take_experts
        self.memory: TargetMemory = target.memory

    def decode(self, ids: TokenArray, start: int, outputs: Outputs) -> FloatArray:
        """Decode; of a target pass (``all``) the rows that decide are set."""
        logits = self._target.decode(ids, start, outputs)
        if outputs == "last":
            logits[0, self.text(start + len(ids))] = _SURE
        elif outputs == "all":
            drafted = len(ids) - 1
            kept = min(self._script.accepted, drafted)
            for i in range(kept):
                logits[i, ids[i + 1]] = _SURE
            if kept < drafted:
                logits[kept, ids[kept + 1]] = _NEVER
            else:
                logits[kept, self.text(start + len(ids))] = _SURE
        return logits


class Scripted(Strategy):
    """A strategy that drafts as long as the script says, with an inner strategy's work or from the text itself.

    Args:
        inner: does the work that is timed; None drafts the text's own next tokens, for nothing.
        script, text: as in ``Staged``.
        longest: the most tokens that the script asks for.
    """

    name = "scripted"

    def __init__(self, inner: Strategy | None, script: Script, text: Continuation, longest: int) -> None:
        super().__init__()
        self.inner, self._script, self.text, self._longest = inner, script, text, longest
        self.needs = inner.needs if inner else frozenset()

    @property
    def longest_draft(self) -> int:
        return self._longest

    @property
    def translate_s(self) -> float:  # type: ignore[override]
        """The inner strategy's count."""
        return self.inner.translate_s if self.inner else 0.0

    def open(self, services: Services) -> None:
        if self.inner:
            self.inner.open(services)

    def begin(self, prompt_ids: TokenArray) -> None:
        if self.inner:
            self.inner.begin(prompt_ids)

    def process(self, ids: TokenArray, start: int, hidden: FloatArray) -> None:
        if self.inner:
            self.inner.process(ids, start, hidden)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        length = min(self._script.length, max_tokens)
        if length == 0:
            return NO_DRAFT
        if self.inner:
            return self.inner.propose(context, length).clipped(length)
        return Draft([self.text(len(context) + i) for i in range(length)])

    def accept(self, step: Step) -> None:
        if self.inner:
            self.inner.accept(step)

    def end(self) -> None:
        if self.inner:
            self.inner.end()

    def reset(self) -> None:
        if self.inner:
            self.inner.reset()

    def close(self) -> None:
        if self.inner:
            self.inner.close()

    def memory(self) -> list[MemoryItem]:
        return self.inner.memory() if self.inner else []
