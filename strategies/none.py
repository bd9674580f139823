"""``none``: no draft at all. The baseline, and a strategy like any other."""

from __future__ import annotations

from specdec.strategy import Strategy
from specdec.types import NO_DRAFT, Draft, TokenArray


class NoDraft(Strategy):
    """Plain decoding, one token a pass: what every other strategy is compared with."""

    name = "none"

    @property
    def longest_draft(self) -> int:
        return 0

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        return NO_DRAFT
