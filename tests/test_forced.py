"""Given tokens in place of the model's own: acceptance as asked, everything else the target's."""

from __future__ import annotations

import numpy as np
import pytest

from specdec.decode import Decoder
from specdec.errors import SpecdecError
from specdec.forced.rates import SyntheticAcceptance
from specdec.forced.target import ForcedTarget
from specdec.spec import make_spec
from specdec.strategy import Strategy
from specdec.testing.fake import FakeTarget
from specdec.types import Draft, Limits, Sampling, TokenArray

RATES = (0.88, 0.72, 0.58)
TOKENS = np.array(sorted(set(range(8, 24)) - FakeTarget().end_of_text), np.int32)
PROMPT = np.array([1, 2, 3], np.int32)


class Sevens(Strategy):
    """Always the same draft, right or wrong."""

    name = "sevens"
    length = 3

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        return Draft([7] * min(self.length, max_tokens))


def lengths(rates: tuple[float, ...], draft: int, n: int = 3000, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Accepted lengths of the steps with a whole draft, and the tokens."""
    target = FakeTarget(n_ctx=n + 16)
    strategy = Sevens()
    strategy.length = draft
    forced = ForcedTarget(target, SyntheticAcceptance(rates, target.n_ctx, TOKENS, seed))
    g = Decoder(forced, strategy).generate(PROMPT, Limits(n, ignore_eos=True), Sampling())
    steps = [a for d, a in zip(g.steps.drafted, g.steps.accepted, strict=True) if d == draft]
    return np.array(steps), g.token_ids


def test_acceptance_is_what_was_asked() -> None:
    accepted, _ = lengths(RATES, 3)
    for i, rate in enumerate(RATES, 1):
        found, error = (accepted >= i).mean(), np.sqrt(rate * (1 - rate) / len(accepted))
        assert abs(found - rate) < 4 * error


def test_nothing_is_accepted_beyond_the_rates_and_all_at_one() -> None:
    assert lengths((1.0, 1.0), 3)[0].tolist() == [2] * len(lengths((1.0, 1.0), 3)[0])
    assert not lengths((0.0,), 2)[0].any()


def test_shorter_drafts_meet_the_same_rates() -> None:
    accepted, _ = lengths(RATES, 1)
    assert abs(accepted.mean() - RATES[0]) < 0.04


def test_a_seed_gives_the_same_run() -> None:
    assert lengths(RATES, 3)[1] == lengths(RATES, 3)[1]
    assert lengths(RATES, 3)[1] != lengths(RATES, 3, seed=1)[1]


@pytest.mark.parametrize("rates", [(1.2,), (0.5, 0.6), (-0.1,), ("x",)])
def test_bad_rates(rates: tuple[float, ...]) -> None:
    with pytest.raises(SpecdecError, match="--synthetic"):
        make_spec(target="t", synthetic=rates)
