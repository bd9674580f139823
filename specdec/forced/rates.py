"""Acceptance at given rates: which of a draft's tokens stay is drawn, not decided by the text."""

from __future__ import annotations

import numpy as np

from specdec.types import TokenArray


class Rates:
    """Draws how much of a draft is accepted.

    Args:
        rates: probability that the first 1, 2, ... draft tokens are ALL accepted: not increasing, as llama-server's
            ``--spec-synth-rates`` means them. Longer drafts are never accepted beyond them.
        n_ctx: the target's context length.
        rng: of the draws. Each position of the text has a number of its own, so strategies meet the same luck.
    """

    def __init__(self, rates: tuple[float, ...], n_ctx: int, rng: np.random.Generator) -> None:
        before = np.array([1.0, *rates[:-1]])
        self._conditional = np.divide(rates, before, out=np.zeros(len(rates)), where=before > 0)
        self._luck = rng.random(n_ctx + len(rates) + 1)

    def accepted(self, position: int, n: int) -> int:
        """How many tokens stay of a draft of ``n`` whose first token is for ``position``."""
        n = min(n, len(self._conditional))
        rejected = self._luck[position : position + n] >= self._conditional[:n]
        return int(np.append(rejected, True).argmax())


class SyntheticAcceptance:
    """A source of tokens that accepts drafts at given rates, whoever drafts them.

    Args:
        rates: as in ``Rates``.
        n_ctx: the target's context length.
        tokens: ids to emit where the target speaks itself (none that ends a text).
        seed: of the draws and of those tokens.
    """

    def __init__(self, rates: tuple[float, ...], n_ctx: int, tokens: TokenArray, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._rates = Rates(rates, n_ctx, rng)
        self._tokens = rng.choice(tokens, n_ctx + 1).astype(np.int32)

    def after(self, ids: TokenArray, start: int) -> TokenArray:
        own: TokenArray = self._tokens[start + 1 : start + 1 + len(ids)].copy()
        draft = ids[1:]
        accepted = self._rates.accepted(start + 1, len(draft))
        own[:accepted] = draft[:accepted]
        if accepted < len(draft) and own[accepted] == draft[accepted]:  # by chance: it must differ
            own[accepted] = self._tokens[start] if self._tokens[start] != draft[accepted] else self._tokens[start - 1]
        return own
