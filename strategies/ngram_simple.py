"""``ngram-simple``: look up the last n tokens earlier in the context, draft what followed them there.

The rules and defaults are llama.cpp's (common/ngram-map.cpp, ``common_ngram_simple_draft``; its pull request 18471).
There every step scans the whole history; here an index from n-gram to its latest position makes a step O(1). The rules
themselves are in specdec/kernels/ngram_simple.py, for live runs and replays alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from pydantic import Field

from specdec.kernels import available, compiled
from specdec.kernels import ngram_simple as kernels
from specdec.strategy import Services, Strategy, StrategyOptions
from specdec.types import NO_DRAFT, Draft, MemoryItem, Steps, TokenArray

if TYPE_CHECKING:
    from specdec.llama.gguf import Header
    from specdec.spec import ModelOptions

_FEWEST_BITS = 10


class Options(StrategyOptions):
    size_n: int = Field(12, ge=1, le=1024, description="length of the n-gram that is looked up, tokens")
    size_m: int = Field(48, ge=1, le=1024, description="most tokens drafted after a match, tokens")


class NgramSimple(Strategy):
    """Draft what followed the latest earlier occurrence of the last ``size_n`` tokens, up to ``size_m`` tokens.

    As in llama.cpp: position 0 never matches, nothing is drafted before ``size_n + size_m + 2`` tokens of context, and
    a match too close to the end (fewer than ``size_n`` tokens after it) drafts nothing.
    """

    name = "ngram-simple"
    Options = Options
    search = {"size_n": "1..16:1|20|24|32", "size_m": "2|4|6|8|12|16|24|32|48|64"}  # noqa: RUF012

    def __init__(self, options: StrategyOptions | None = None) -> None:
        super().__init__(options)
        self._o = cast(Options, self.options)
        self._next = np.ones(1, np.int64)
        self._bits = 0
        self._make_room(1 << _FEWEST_BITS)

    @property
    def longest_draft(self) -> int:
        return self._o.size_m

    def open(self, services: Services) -> None:
        self._make_room(services.n_ctx)

    def begin(self, prompt_ids: TokenArray) -> None:
        self._make_room(len(prompt_ids))
        self._forget()
        kernels.index(prompt_ids.view(np.uint32).data, len(prompt_ids), *self._state)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        if len(context) > len(self._chain):
            self._make_room(2 * len(context))
        start, n = kernels.propose(context.view(np.uint32).data, len(context), *self._state)
        return Draft(context[start : start + n].tolist()) if n else NO_DRAFT

    def replay(self, text: TokenArray, n_prompt: int, n_predict: int, most: int) -> Steps | None:
        if not available():
            return None
        self._make_room(len(text))
        self._forget()
        rule = kernels.rule(self._o.size_n, self._o.size_m, self._bits, unsigned=True)
        steps = np.empty((2, len(text) - n_prompt), np.int32)
        state = (rule, self._heads, self._chain, self._next)
        n = compiled(kernels).replay(text.view(np.uint32), n_prompt, (n_predict, most), *state, steps)
        return steps[:, :n]

    def expected_memory(self, target: Header, options: ModelOptions, n_ctx: int) -> list[MemoryItem]:
        return [MemoryItem("CPU", "table", 8 << max(_FEWEST_BITS, (n_ctx - 1).bit_length()))]

    def memory(self) -> list[MemoryItem]:
        return [MemoryItem("CPU", "table", self._heads.nbytes + self._chain.nbytes)]

    def _forget(self) -> None:
        self._heads.fill(-1)
        self._next[0] = 1

    def _make_room(self, tokens: int) -> None:
        """Room for an index over a text of ``tokens``; one that has to grow is filled anew by the next proposal."""
        bits = max(_FEWEST_BITS, (tokens - 1).bit_length())
        if bits <= self._bits:
            return
        self._bits = bits
        self._heads, self._chain = np.empty(1 << bits, np.int32), np.empty(1 << bits, np.int32)
        self._forget()
        rule = kernels.rule(self._o.size_n, self._o.size_m, bits, unsigned=False)
        # Memoryviews: a fifth of the time of NumPy's own scalar access.
        self._state = (rule, self._heads.data, self._chain.data, self._next.data)
