"""``ngram-simple``: look up the last n tokens earlier in the context, draft what followed them there.

The rules and defaults are llama.cpp's (common/ngram-map.cpp, ``common_ngram_simple_draft``; its pull request 18471).
There every step scans the whole history; here an index from n-gram to its latest position makes a step O(1).
"""

from __future__ import annotations

from typing import cast

from pydantic import Field

from specdec.strategy import Strategy, StrategyOptions
from specdec.types import NO_DRAFT, Draft, MemoryItem, TokenArray

_BYTES_PER_ENTRY = 200
"""Of the index, measured with tracemalloc on CPython 3.11: key object, position object and hash slot."""


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

    def __init__(self, options: StrategyOptions | None = None) -> None:
        super().__init__(options)
        self._o = cast(Options, self.options)
        self._latest: dict[bytes, int] = {}
        self._indexed = 1

    @property
    def longest_draft(self) -> int:
        return self._o.size_m

    def begin(self, prompt_ids: TokenArray) -> None:
        self._latest.clear()
        self._indexed = 1
        self._index(prompt_ids)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        n, m = self._o.size_n, self._o.size_m
        self._index(context)
        length = len(context) - 1  # llama.cpp's history lacks the token sampled last
        if length <= n + m + 1:
            return NO_DRAFT
        match = self._latest.get(context[-n:].tobytes())
        if match is None:
            return NO_DRAFT
        count = min(m, length - (match + n))
        if count < n:
            return NO_DRAFT
        return Draft(context[match + n : match + n + count].tolist())

    def memory(self) -> list[MemoryItem]:
        return [MemoryItem("CPU", "table", len(self._latest) * (_BYTES_PER_ENTRY + 4 * self._o.size_n))]

    def _index(self, context: TokenArray) -> None:
        """Enter the n-grams that start at self._indexed and later, and end before the last two tokens."""
        n, stop = self._o.size_n, len(context) - self._o.size_n - 1
        if stop <= self._indexed:
            return
        first, size = self._indexed, 4 * n
        raw = context[first : stop + n - 1].tobytes()
        latest = self._latest
        for i in range(stop - first):
            latest[raw[4 * i : 4 * i + size]] = first + i
        self._indexed = stop
