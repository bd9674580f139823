"""The rolling hash of token windows: ``sum(token[k] * FACTOR**(n-1-k)) mod 2**64``, llama.cpp's ngram-mod hash."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FACTOR = 6364136223846793005
MASK = (1 << 64) - 1
_INVERSE = pow(FACTOR, -1, 1 << 64)

Words = npt.NDArray[np.uint64]

_powers = _inverses = np.ones(1, np.uint64)


def leading(n: int) -> int:
    """The factor of the token that leaves a window of n tokens."""
    return pow(FACTOR, n, 1 << 64)


def window_hashes(tokens: npt.NDArray[np.uint32], n: int) -> Words:
    """Hashes of all windows of n tokens, uint64 [len(tokens) - n + 1].

    ``FACTOR`` is odd, so it has an inverse mod 2**64, and a window's hash is a difference of prefix sums of
    ``token[k] * FACTOR**-k`` times a power: no loop over n.
    """
    global _powers, _inverses
    count = len(tokens)
    if len(_powers) < count + 1:
        _powers, _inverses = _geometric(FACTOR, 2 * count + 1), _geometric(_INVERSE, 2 * count + 1)
    prefix = np.zeros(count + 1, np.uint64)
    np.cumsum(tokens.astype(np.uint64) * _inverses[:count], out=prefix[1:])
    return np.asarray((prefix[n:] - prefix[:-n]) * _powers[n - 1 : count])


def _geometric(base: int, count: int) -> Words:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)
