"""``ngram-mod``: a hash table from the last n tokens to the next one, walked to draft many.

The rules and defaults are llama.cpp's (common/ngram-mod.cpp and ``common_speculative_impl_ngram_mod`` in
common/speculative.cpp; its pull request 19164): one table for all prompts, without collision checks; emptied when more
than a quarter full at the start of a generation, or after five drafts in a row of which less than a quarter was kept.
The rules themselves are in specdec/kernels/ngram_mod.py, for live runs and replays alike.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from pydantic import Field

from specdec.kernels import available, compiled
from specdec.kernels import ngram_mod as kernels
from specdec.strategy import Strategy, StrategyOptions
from specdec.types import NO_DRAFT, Draft, MemoryItem, Step, Steps, TokenArray


class Options(StrategyOptions):
    n_match: int = Field(24, ge=1, le=1024, description="length of the n-gram that is hashed, tokens")
    n_min: int = Field(48, ge=0, le=1024, description="shortest draft worth verifying, tokens")
    n_max: int = Field(64, ge=1, le=1024, description="longest draft, tokens")
    table_size: int = Field(4 * 1024 * 1024, ge=1024, le=1 << 30, description="entries of the table, 4 bytes each")


class NgramMod(Strategy):
    """Walk the table from the last ``n_match`` tokens; draft up to ``n_max``, nothing below ``n_min``.

    New n-grams enter the table once 32 tokens have gathered, all at once.
    """

    name = "ngram-mod"
    Options = Options
    search = {"n_match": "4|6|8|12|16|24|32", "n_min": "0|2|4|8|16|32|48", "n_max": "2|4|8|16|32|48|64"}  # noqa: RUF012

    def __init__(self, options: StrategyOptions | None = None) -> None:
        super().__init__(options)
        o = self._o = cast(Options, self.options)
        self._table = np.full(o.table_size, kernels.EMPTY, np.uint32)
        self._touched = np.empty(o.table_size // 4 + 1, np.uint32)
        self._counters = np.zeros(kernels.COUNTERS, np.int64)
        self._draft = np.empty(o.n_max, np.uint32)
        self._rule = kernels.rule(o.n_match, o.n_min, o.n_max, o.table_size, unsigned=False)
        # Memoryviews: a fifth of the time of NumPy's own scalar access.
        self._state = (self._rule, self._table.data, self._touched.data, self._counters.data)

    def reset(self) -> None:
        kernels.clear(*self._state[1:])
        self._counters.fill(0)

    def begin(self, prompt_ids: TokenArray) -> None:
        kernels.begin(prompt_ids.view(np.uint32).data, len(prompt_ids), *self._state)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        n = kernels.propose(context.view(np.uint32).data, len(context), *self._state, self._draft.data)
        return Draft(self._draft[:n].tolist()) if n else NO_DRAFT

    def accept(self, step: Step) -> None:
        # llama.cpp divides by the length before clipping; so do we.
        if step.draft:
            kernels.accept(step.accepted, *self._state[1:])

    def replay(self, text: TokenArray, n_prompt: int, n_predict: int, most: int) -> Steps | None:
        if not available():
            return None
        o, steps = self._o, np.empty((2, len(text) - n_prompt), np.int32)
        rule = kernels.rule(o.n_match, o.n_min, o.n_max, o.table_size, unsigned=True)
        state = (rule, self._table, self._touched, self._counters, self._draft)
        n = compiled(kernels).replay(text.view(np.uint32), n_prompt, (n_predict, most), *state, steps)
        return steps[:, :n]

    def memory(self) -> list[MemoryItem]:
        return [MemoryItem("CPU", "table", self._table.nbytes + self._touched.nbytes)]
