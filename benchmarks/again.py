"""Plain decoding under other names: what a comparison says of these against `none` is its error.

specdec compare --strategy benchmarks/again.py:Again1 --strategy benchmarks/again.py:Again2 --strategies none
"""

from __future__ import annotations

from specdec import Draft, Strategy
from specdec.types import NO_DRAFT, TokenArray


class Again1(Strategy):
    """As `none`: drafts nothing, shares its context."""

    name = "again-1"

    @property
    def longest_draft(self) -> int:
        return 0

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        return NO_DRAFT


class Again2(Again1):
    name = "again-2"
