"""What stands in the loop while the target is recorded: a strategy that never drafts, a target that is listened to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.errors import SpecdecError
from specdec.replay.trace import Proposals, TopK
from specdec.sampling import top_candidates
from specdec.strategy import Services, Strategy, StrategyOptions
from specdec.target import Outputs, Target
from specdec.types import NO_DRAFT, Draft, FloatArray, Generation, Step, TokenArray

DEEPEST = 8
"""Longest recorded proposal."""


class Recorder(Strategy):
    """Decode plainly; ask each drafter, at every token, what it would propose, and note it.

    Plain decoding is what defines the text (rounding depends on the shape of a batch), and it makes every position one
    at which a drafter can be asked. What a drafter proposes depends on the text alone, so it proposes the same where a
    live run reaches that position in longer steps (again up to rounding).
    """

    name = "record"

    def __init__(self, drafters: dict[str, Strategy]) -> None:
        super().__init__(StrategyOptions())
        self.drafters = drafters
        self.needs = frozenset[str]().union(*(s.needs for s in drafters.values()))
        for strategy in drafters.values():
            strategy.tell_confidence = True

    @property
    def longest_draft(self) -> int:
        return max((s.longest_draft for s in self.drafters.values()), default=0)

    def check(self, target: Any) -> None:
        for strategy in self.drafters.values():
            strategy.check(target)

    def open(self, services: Services) -> None:
        for strategy in self.drafters.values():
            strategy.open(services)

    def begin(self, prompt_ids: TokenArray) -> None:
        self.prompt_ids = prompt_ids.copy()
        self._drafts: dict[str, list[Draft]] = {name: [] for name in self.drafters}
        for strategy in self.drafters.values():
            strategy.begin(prompt_ids)

    def process(self, ids: TokenArray, start: int, hidden: FloatArray) -> None:
        for strategy in self.drafters.values():
            if "hidden_states" in strategy.needs:
                strategy.process(ids, start, hidden)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        for name, strategy in self.drafters.items():
            draft = strategy.propose(context, max_tokens).clipped(max_tokens)
            if draft.probs is not None:
                raise SpecdecError(f"{name}: its drafts are sampled; only deterministic drafts can be recorded.")
            self._drafts[name].append(draft)
        return NO_DRAFT

    def accept(self, step: Step) -> None:
        for strategy in self.drafters.values():
            strategy.accept(step)

    def end(self) -> None:
        for strategy in self.drafters.values():
            strategy.end()

    def reset(self) -> None:
        for strategy in self.drafters.values():
            strategy.reset()

    def close(self) -> None:
        for strategy in self.drafters.values():
            strategy.close()

    def take(self, n_output: int) -> dict[str, Proposals]:
        """The proposals of the generation that ended, by drafter; empty rows where none was asked for (its end)."""
        return {name: _table(self._drafts[name], s.longest_draft, n_output) for name, s in self.drafters.items()}


def _table(drafts: list[Draft], depth: int, n_output: int) -> Proposals:
    ids = np.zeros((n_output, depth), np.int32)
    probs = np.zeros((n_output, depth), np.float32)
    lengths = np.zeros(n_output, np.uint8)
    for i, draft in enumerate(drafts):
        n = lengths[i] = len(draft)
        ids[i, :n] = draft.token_ids
        probs[i, :n] = np.nan if draft.confidence is None else draft.confidence
    return Proposals(ids, probs, lengths)


class Listener:
    """A target that notes the distribution behind each output token. Expects plain decoding: one row a token."""

    def __init__(self, target: Target, k: int) -> None:
        self._target, self._k = target, k
        self._row: FloatArray | None = None
        self._rows: list[tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.floating[Any]], float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def decode(self, ids: TokenArray, start: int, outputs: Outputs) -> FloatArray:
        """The target's; the token that is decoded tells what the row before it was used for."""
        self._settle(int(ids[0]))
        rows = self._target.decode(ids, start, outputs)
        if len(rows) > 1:
            raise SpecdecError("a recording decodes one token at a time.")
        self._row = rows[0].copy() if len(rows) else None
        return rows

    def take(self, generation: Generation) -> TopK:
        """The distributions of the generation that ended."""
        self._settle(generation.token_ids[-1])
        ids, logprobs, chosen, margins = (np.array(part) for part in zip(*self._rows, strict=True))
        self._rows.clear()
        half = np.float16
        return TopK(ids.astype(np.int32), logprobs.astype(half), chosen.astype(half), margins.astype(half))

    def _settle(self, token: int) -> None:
        if self._row is None:
            return
        row, self._row = self._row, None
        best = top_candidates(row, max(2, self._k))
        top = float(row[best[0]])
        total = top + float(np.log(np.exp(row - top).sum(dtype=np.float64)))
        logprobs = row[best[: self._k]].astype(np.float64) - total
        self._rows.append((best[: self._k], logprobs, float(row[token]) - total, top - float(row[best[1]])))
