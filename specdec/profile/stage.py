"""The stage on which the loop is measured: its own steps, with acceptance decided beforehand.

A cost measured alone differs from the cost in the loop: a draft pass throws the target's weights out of the cache, and
on a GPU a change of shape throws away a captured graph. So nothing is timed here that is not a step of the loop in
decode.py; only the outcome of verification is set, in the target's answer (forced.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from specdec.strategy import Services, Strategy
from specdec.types import NO_DRAFT, Draft, FloatArray, MemoryItem, Step, TokenArray

Continuation = Callable[[int], int]
"""The token that the measured text has at a position."""


@dataclass(slots=True)
class Script:
    """What the next step shall do: draft ``length`` tokens, of which the first ``accepted`` are kept."""

    length: int = 0
    accepted: int = 0


class Outcome:
    """What a ``ForcedTarget`` says so that verification ends as the script wants.

    Where a draft was kept whole, and where there was none, it says the measured text, so that the text goes on as text.
    """

    def __init__(self, script: Script, text: Continuation, n_vocab: int) -> None:
        self._script, self._text, self._n_vocab = script, text, n_vocab

    def after(self, ids: TokenArray, start: int) -> TokenArray:
        own = np.array([self._text(start + 1 + i) for i in range(len(ids))], np.int32)
        draft = ids[1:]
        kept = min(self._script.accepted, len(draft))
        own[:kept] = draft[:kept]
        if kept < len(draft) and own[kept] == draft[kept]:  # text drafts are right: it must differ
            own[kept] = (own[kept] + 1) % self._n_vocab
        return own


class Scripted(Strategy):
    """A strategy that drafts as long as the script says, with an inner strategy's work or from the text itself.

    Args:
        inner: does the work that is timed; None drafts the text's own next tokens, for nothing.
        script, text: as in ``Outcome``.
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
