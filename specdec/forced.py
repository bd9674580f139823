"""A target whose passes are real and whose tokens are given: costs without meaning, or with that of a recording.

A model with random weights costs what a real one of its shape costs, but its text means nothing and no draft would be
accepted. So each pass is decoded for real (time, memory, rollback), and the choice after each of its tokens is put in
place of the model's own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from specdec.target import Outputs, Target
from specdec.types import FloatArray, TokenArray

_CERTAIN = 1e30
"""A logit above all others."""


class Source(Protocol):
    """Where the tokens come from."""

    def after(self, ids: TokenArray, start: int) -> TokenArray:
        """The target's choice after each of ``ids`` int32 [n], decoded at ``start``; int32 [n]."""


class ForcedTarget:
    """``target`` with the choices of ``source``; everything else is the target's."""

    def __init__(self, target: Target, source: Source) -> None:
        self._target, self._source = target, source
        self.n_vocab, self.n_ctx, self.n_batch = target.n_vocab, target.n_ctx, target.n_batch
        self.end_of_text, self.memory = target.end_of_text, target.memory
        self.piece, self.hidden_rows, self.take_experts = target.piece, target.hidden_rows, target.take_experts

    def decode(self, ids: TokenArray, start: int, outputs: Outputs) -> FloatArray:
        logits = self._target.decode(ids, start, outputs)
        if len(logits):
            chosen = self._source.after(ids, start)[-len(logits) :]
            logits[np.arange(len(logits)), chosen] = _CERTAIN
        return logits


class SyntheticAcceptance:
    """Accepts draft tokens at given rates, whoever drafts them.

    Args:
        rates: probability that the first 1, 2, ... draft tokens are ALL accepted: not increasing, as llama-server's
            ``--spec-synth-rates`` means them. Longer drafts are never accepted beyond them.
        n_ctx: the target's context length.
        tokens: ids to emit where the target speaks itself (none that ends a text).
        seed: of the draws. Each position of the text has a number of its own, so strategies meet the same luck.
    """

    def __init__(self, rates: tuple[float, ...], n_ctx: int, tokens: TokenArray, seed: int = 0) -> None:
        before = np.array([1.0, *rates[:-1]])
        self._conditional = np.divide(rates, before, out=np.zeros(len(rates)), where=before > 0)
        rng = np.random.default_rng(seed)
        self._luck = rng.random(n_ctx + len(rates) + 1)
        self._tokens = rng.choice(tokens, n_ctx + 1).astype(np.int32)

    def after(self, ids: TokenArray, start: int) -> TokenArray:
        own: TokenArray = self._tokens[start + 1 : start + 1 + len(ids)].copy()
        draft = ids[1:]
        n = min(len(draft), len(self._conditional))
        rejected = self._luck[start + 1 : start + 1 + n] >= self._conditional[:n]
        accepted = int(np.append(rejected, True).argmax())
        own[:accepted] = draft[:accepted]
        if accepted < len(draft) and own[accepted] == draft[accepted]:  # by chance: it must differ
            own[accepted] = self._tokens[start] if self._tokens[start] != draft[accepted] else self._tokens[start - 1]
        return own
