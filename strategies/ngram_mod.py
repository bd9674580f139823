"""``ngram-mod``: a hash table from the last n tokens to the next one, walked to draft many.

The rules and defaults are llama.cpp's (common/ngram-mod.cpp and ``common_speculative_impl_ngram_mod`` in
common/speculative.cpp; its pull request 19164): one table for all prompts, without collision checks; emptied when more
than a quarter full at the start of a generation, or after five drafts in a row of which less than a quarter was kept.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from specdec.strategy import Strategy, StrategyOptions
from specdec.types import NO_DRAFT, Draft, MemoryItem, Step, TokenArray

_FACTOR = 6364136223846793005
_INVERSE = pow(_FACTOR, -1, 1 << 64)
_MASK = (1 << 64) - 1
_EMPTY = -1
_CHUNK = 32
_FULL = 0.25
_LOW = 0.25
_LOW_ROUNDS = 5


class Options(StrategyOptions):
    n_match: int = Field(24, ge=1, le=1024, description="length of the n-gram that is hashed, tokens")
    n_min: int = Field(48, ge=0, le=1024, description="shortest draft worth verifying, tokens")
    n_max: int = Field(64, ge=1, le=1024, description="longest draft, tokens")
    table_size: int = Field(4 * 1024 * 1024, ge=1024, le=1 << 30, description="entries of the table, 4 bytes each")


class NgramMod(Strategy):
    """Walk the table from the last ``n_match`` tokens; draft up to ``n_max``, nothing below ``n_min``.

    The hash of a window is ``sum(token[k] * FACTOR**(n-1-k)) mod 2**64``. Drafting rolls it: a multiplication a token.
    New n-grams enter the table once 32 tokens have gathered, all at once in NumPy.
    """

    name = "ngram-mod"
    Options = Options

    def __init__(self, options: StrategyOptions | None = None) -> None:
        super().__init__(options)
        self._o = cast(Options, self.options)
        self._table = np.full(self._o.table_size, _EMPTY, np.int32)
        self._entries: memoryview[int] = self._table.data  # a fifth of the time of NumPy's own scalar access
        self._leading = pow(_FACTOR, self._o.n_match, 1 << 64)
        self._powers = np.ones(1, np.uint64)
        self._inverses = np.ones(1, np.uint64)
        self.reset()

    def reset(self) -> None:
        self._clear()
        self._low = 0
        self._next = 0
        self._drafted = 0

    def begin(self, prompt_ids: TokenArray) -> None:
        self._next = 0
        self._drafted = 0
        n = self._o.n_match
        if len(prompt_ids) < n:
            return
        self._add(prompt_ids, 0, len(prompt_ids) - n)
        self._next = len(prompt_ids) - n
        if self._used / self._o.table_size > _FULL:
            self._clear()

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        n = self._o.n_match
        self._drafted = 0
        length = len(context) - 1  # llama.cpp's history lacks the token sampled last
        if length < n:
            return NO_DRAFT
        if self._next + _CHUNK < length:
            self._add(context, self._next, length - n)
            self._next = length - n
        tokens = self._walk(context[-n:].tolist())
        self._drafted = len(tokens)
        return Draft(tokens) if tokens else NO_DRAFT

    def accept(self, step: Step) -> None:
        if not step.draft or not self._drafted:
            return
        # llama.cpp divides by the length before clipping; so do we.
        if step.accepted / self._drafted >= _LOW:
            self._low = 0
            return
        self._low += 1
        if self._low >= _LOW_ROUNDS:
            self._clear()
            self._low = 0
            self._next = 0

    def memory(self) -> list[MemoryItem]:
        return [MemoryItem("CPU", "table", self._table.nbytes)]

    def _walk(self, window: list[int]) -> list[int]:
        n, size, entries, leading = self._o.n_match, self._o.table_size, self._entries, self._leading
        state = 0
        for token in window:
            state = state * _FACTOR + token
        state &= _MASK
        for i in range(self._o.n_max):
            token = entries[state % size]
            if token == _EMPTY:
                if i < self._o.n_min:
                    return []
                break
            window.append(token)
            state = (state * _FACTOR + token - window[i] * leading) & _MASK
        return window[n:]

    def _clear(self) -> None:
        self._table.fill(_EMPTY)
        self._used = 0

    def _add(self, context: TokenArray, first: int, stop: int) -> None:
        """Enter the n-grams that start at first .. stop-1, each with the token after it; later ones win."""
        if stop <= first:
            return
        n = self._o.n_match
        slots = (self._hashes(context[first : stop + n - 1]) % np.uint64(self._o.table_size)).astype(np.int64)
        fresh = slots[self._table[slots] == _EMPTY]
        self._used += len(np.unique(fresh))
        self._table[slots] = context[first + n : stop + n]

    def _hashes(self, tokens: TokenArray) -> npt.NDArray[np.uint64]:
        """Hashes of all windows of n tokens, uint64 [len(tokens) - n + 1].

        ``FACTOR`` is odd, so it has an inverse mod 2**64, and a window's hash is a difference of prefix sums of
        ``token[k] * FACTOR**-k`` times a power: no loop over n.
        """
        n, count = self._o.n_match, len(tokens)
        if len(self._powers) < count + 1:
            self._powers = _geometric(_FACTOR, 2 * count + 1)
            self._inverses = _geometric(_INVERSE, 2 * count + 1)
        prefix = np.zeros(count + 1, np.uint64)
        np.cumsum(tokens.astype(np.uint64) * self._inverses[:count], out=prefix[1:])
        return np.asarray((prefix[n:] - prefix[:-n]) * self._powers[n - 1 : count])


def _geometric(base: int, count: int) -> npt.NDArray[np.uint64]:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)
