"""Accept rules: which draft tokens stay, and which token the target adds. Pure functions, no model inside.

All of them are lossless: the emitted tokens are distributed as the target alone would emit them.

* greedy: keep while the draft equals the target's argmax.
* deterministic draft, sampled target: sample the target at each position and compare (what llama.cpp does). The draws
  are indexed by position, so the text is the same as without a draft.
* sampled draft: rejection sampling (Leviathan et al. 2211.17192, algorithm 1; Chen et al. 2302.01318): keep token x
  with probability min(1, p(x)/q(x)); on rejection draw from max(p - q, 0), normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from specdec.errors import SpecdecError
from specdec.sampling import Distribution
from specdec.types import FloatArray

Verdict = tuple[int, int]
"""(accepted, the bonus token)."""


def verify_by_choice(draft: Sequence[int], choose: Callable[[int], int]) -> Verdict:
    """Compare the draft with the target's own tokens; ``choose(i)`` gives the target's token after i draft tokens.

    Serves greedy decoding and sample-and-compare alike. ``choose`` is called for i = 0 .. accepted, in order.
    """
    for i, token in enumerate(draft):
        wanted = choose(i)
        if wanted != token:
            return i, wanted
    return len(draft), choose(len(draft))


def verify_by_rejection(
    draft: Sequence[int],
    q: FloatArray,
    p: Callable[[int], Distribution],
    uniform: Callable[[int], tuple[float, float]],
) -> Verdict:
    """Rejection sampling for drafts that were sampled from ``q``.

    Args:
        draft: the draft tokens; each must have been drawn from its row of ``q``.
        q: float32 [len(draft), n_vocab], rows adding up to 1.
        p: the target's distribution after i draft tokens.
        uniform: two independent uniform numbers for position i: one accepts, the other draws.
    """
    for i, token in enumerate(draft):
        target = p(i)
        proposed = float(q[i, token])
        if not proposed > 0.0:
            raise SpecdecError(
                f"draft token {token} has probability {proposed} in its own draft distribution.",
                "A strategy that gives probabilities must sample its tokens from them.",
            )
        accept, draw = uniform(i)
        if accept * proposed < target.prob(token):
            continue
        return i, _residual(target, q[i]).draw(draw)
    return len(draft), p(len(draft)).draw(uniform(len(draft))[1])


def _residual(p: Distribution, q: FloatArray) -> Distribution:
    rest = np.maximum(p.probs - q[p.ids].astype(np.float64), 0.0)
    total = rest.sum()
    # p <= q everywhere means p == q up to rounding: a rejection then had probability 0 but for rounding.
    return p if total <= 0.0 else Distribution(p.ids, rest / total)
