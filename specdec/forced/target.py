"""A target whose passes are real and whose tokens are given: costs without meaning, or with that of a recording.

A model with random weights costs what a real one of its shape costs, but its text means nothing and no draft would be
accepted. So each pass is decoded for real (time, memory, rollback), and the choice after each of its tokens is put in
place of the model's own. Who chooses: ``SyntheticAcceptance`` (rates.py), or a recorded text (trace.py).
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
    """``target`` with the choices of ``source``; everything else is the target's.

    Args:
        target: decodes each pass.
        source: chooses.
        ends: tokens that end a text, where they are the source's and not the target's; then the bytes of the target's
            tokens say nothing of the source's text, and ``piece`` is empty.
    """

    def __init__(self, target: Target, source: Source, ends: frozenset[int] | None = None) -> None:
        self._target, self._source = target, source
        self.n_vocab, self.n_ctx, self.n_batch = target.n_vocab, target.n_ctx, target.n_batch
        self.memory = target.memory
        self.hidden_rows, self.take_experts = target.hidden_rows, target.take_experts
        self.end_of_text = target.end_of_text if ends is None else ends
        self.piece = target.piece if ends is None else _no_bytes

    def decode(self, ids: TokenArray, start: int, outputs: Outputs) -> FloatArray:
        logits = self._target.decode(ids, start, outputs)
        if len(logits):
            chosen = self._source.after(ids, start)[-len(logits) :]
            logits[np.arange(len(logits)), chosen] = _CERTAIN
        return logits


def _no_bytes(token: int) -> bytes:
    return b""
