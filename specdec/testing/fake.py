"""A toy target that behaves like llama.cpp where it matters: recurrent memory, snapshots, checkpoints, stale states.

Its next-token distribution depends on the last two tokens, so greedy text soon repeats and n-gram strategies find
something. Its recurrent state is a hash of all tokens. A wrong rollback leaves a state that does not match the tokens;
the logits then change, as they would in a real model.
"""

from __future__ import annotations

import numpy as np

from specdec.target import Outputs
from specdec.types import FloatArray, TokenArray

_SEED_STATE = 1469598103934665603
_PRIME = 1099511628211
_MASK = (1 << 64) - 1


def _advance(state: int, token: int) -> int:
    return ((state ^ (token + 1)) * _PRIME) & _MASK


class FakeMemory:
    """Follows llama_memory_recurrent::seq_rm (llama.cpp, src/llama-memory-recurrent.cpp), its blind spots included."""

    def __init__(self, recurrent: bool, snapshots: int) -> None:
        self.recurrent, self.snapshots = recurrent, snapshots
        self.clear()

    def clear(self) -> None:
        self.tokens: list[int] = []
        self.state = _SEED_STATE
        self._planes = [_SEED_STATE] * (self.snapshots + 1)
        self._pending = False
        self._saved: dict[int, tuple[int, int]] = {}

    def append(self, ids: list[int]) -> None:
        """A decode: planes that it does not reach keep what an earlier decode left there."""
        states = [self.state]
        for token in ids:
            states.append(_advance(states[-1], token))
        self.tokens += ids
        self.state = states[-1]
        for back, state in enumerate(reversed(states[1:])):
            if back <= self.snapshots:
                self._planes[back] = state
        self._pending = False

    def remove_from(self, position: int) -> bool:
        rejected = len(self.tokens) - position
        if rejected <= 0:
            return True
        if self.recurrent:
            if (position, self.state) in self._saved.values():
                pass  # restored already: only the KV tail is cut
            elif self._pending or rejected > self.snapshots:
                return False
            else:
                self.state, self._pending = self._planes[rejected], True
        del self.tokens[position:]
        return True

    def save(self, on_device: bool, slot: int = 0) -> None:
        self._saved[slot] = (len(self.tokens), self.state)

    def restore(self, slot: int = 0) -> None:
        self.state, self._pending = self._saved[slot][1], False

    def checkpoint_bytes(self) -> int:
        return 8

    @property
    def stale(self) -> bool:
        """Whether the recurrent state is not that of the tokens."""
        state = _SEED_STATE
        for token in self.tokens:
            state = _advance(state, token)
        return self.recurrent and state != self.state


class FakeTarget:
    """A deterministic language model over a small vocabulary; token ``n_vocab - 1`` ends a text.

    Args:
        n_vocab: size of the vocabulary.
        seed: of the random bigram table.
        recurrent, snapshots: kind of memory.
        sharpness: scale of the logits; the larger, the more peaked the distribution.
        end_bias: added to the logit of the end-of-text token (large negative: texts do not end by themselves).
    """

    def __init__(
        self,
        n_vocab: int = 24,
        seed: int = 0,
        recurrent: bool = False,
        snapshots: int = 0,
        n_ctx: int = 4096,
        n_batch: int = 128,
        sharpness: float = 2.0,
        end_bias: float = -50.0,
    ) -> None:
        self.n_vocab, self.n_ctx, self.n_batch, self.width, self.threads = n_vocab, n_ctx, n_batch, 4, 1
        self.end_of_text = frozenset({n_vocab - 1})
        self.memory = FakeMemory(recurrent, snapshots)
        rng = np.random.default_rng(seed)
        self._table = (sharpness * rng.standard_normal((n_vocab, n_vocab, n_vocab))).astype(np.float32)
        self._table[:, :, n_vocab - 1] += end_bias
        self._hidden: FloatArray = np.empty((0, self.width), np.float32)
        self.decoded = 0

    def decode(self, ids: TokenArray, start: int, outputs: Outputs) -> FloatArray:
        assert start == len(self.memory.tokens), "positions must continue"
        assert 0 < len(ids) <= self.n_batch
        self.decoded += len(ids)
        stale = self.memory.stale
        self.memory.append([int(t) for t in ids])
        self._hidden = np.repeat(np.asarray(ids, np.float32)[:, None], self.width, axis=1)
        rows = {"none": range(0), "last": range(len(ids) - 1, len(ids)), "all": range(len(ids))}[outputs]
        return (
            np.stack([self._row(start + i, stale) for i in rows])
            if len(rows)
            else np.empty((0, self.n_vocab), np.float32)
        )

    def hidden_rows(self) -> FloatArray:
        return self._hidden

    def take_experts(self) -> list[int] | None:
        return None

    def piece(self, token: int) -> bytes:
        return b"" if token in self.end_of_text else bytes([97 + token % 26])

    def _row(self, position: int, stale: bool) -> FloatArray:
        tokens = self.memory.tokens
        row = self._table[tokens[position - 1] if position else 0, tokens[position]]
        return np.roll(row, 1) if stale else row.copy()
