"""Accept rules: exact in greedy decoding, distribution-preserving when sampled."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from specdec.errors import SpecdecError
from specdec.sampling import Distribution, distribution
from specdec.types import Sampling
from specdec.verify import verify_by_choice, verify_by_rejection

V = 6


def dense(probs: np.ndarray) -> Distribution:
    return Distribution(np.arange(len(probs)), probs)


@pytest.mark.parametrize(
    ("draft", "target", "expected"),
    [
        ([], [7], (0, 7)),
        ([1, 2], [1, 2, 3], (2, 3)),
        ([1, 2], [1, 9], (1, 9)),
        ([4], [5], (0, 5)),
        ([4, 1], [5], (0, 5)),
    ],
)
def test_choice_keeps_the_common_prefix(draft: list[int], target: list[int], expected: tuple[int, int]) -> None:
    asked: list[int] = []

    def choose(i: int) -> int:
        asked.append(i)
        return target[i]

    assert verify_by_choice(draft, choose) == expected
    assert asked == list(range(expected[0] + 1)), "no row beyond the first difference is read"


def emitted_pairs(n: int, q: np.ndarray, p: np.ndarray, seed: int) -> np.ndarray:
    """The first two tokens of n rounds with a sampled two-token draft; p[i] is the target after i draft tokens."""
    rng = np.random.default_rng(seed)
    out = np.empty((n, 2), int)
    for k in range(n):
        draft = [int(rng.choice(V, p=q[0])), int(rng.choice(V, p=q[1]))]
        uniform = rng.random((3, 2))
        accepted, bonus = verify_by_rejection(
            draft, q.astype(np.float32), lambda i: dense(p[i]), lambda i, u=uniform: (u[i, 0], u[i, 1])
        )
        tokens = [*draft[:accepted], bonus]
        out[k] = tokens[0], tokens[1] if len(tokens) > 1 else int(rng.choice(V, p=p[1]))
    return out


@pytest.mark.parametrize("seed", range(3))
def test_rejection_sampling_keeps_the_target_distribution(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    q, p = rng.dirichlet(np.full(V, 0.7), 2), rng.dirichlet(np.full(V, 0.7), 3)
    pairs = emitted_pairs(20_000, q, p, seed)
    for position in (0, 1):
        counts = np.bincount(pairs[:, position], minlength=V)
        assert chisquare(counts, p[position] * counts.sum()).pvalue > 1e-3


def test_a_biased_rule_would_be_caught() -> None:
    """The test above has teeth: accepting every draft token fails it."""
    rng = np.random.default_rng(1)
    q, p = rng.dirichlet(np.full(V, 0.7)), rng.dirichlet(np.full(V, 0.7))
    counts = np.bincount(rng.choice(V, 20_000, p=q), minlength=V)
    assert chisquare(counts, p * counts.sum()).pvalue < 1e-6


def test_a_draft_token_without_probability_is_refused() -> None:
    q = np.array([[1.0, 0.0]], np.float32)
    with pytest.raises(SpecdecError, match="has probability 0"):
        verify_by_rejection([1], q, lambda i: dense(np.array([0.5, 0.5])), lambda i: (0.5, 0.5))


def test_equal_distributions_are_always_accepted() -> None:
    q = np.array([[0.25, 0.75]], np.float32)
    assert verify_by_rejection([1], q, lambda i: dense(np.array([0.25, 0.75])), lambda i: (0.999, 0.1)) == (1, 0)


class TestFilters:
    """Filters against a plain sort over the whole vocabulary."""

    @pytest.mark.parametrize("n_vocab", [10, 1000, 50_000])
    @pytest.mark.parametrize("scale", [0.1, 3.0, 10.0])
    @pytest.mark.parametrize(
        "sampling",
        [
            Sampling(1.0),
            Sampling(0.7, top_k=40),
            Sampling(0.7, top_p=0.9),
            Sampling(1.3, top_p=0.3),
            Sampling(0.8, min_p=0.05),
            Sampling(0.8, top_k=20, top_p=0.95, min_p=0.02),
        ],
    )
    def test_same_distribution_as_by_sorting(self, n_vocab: int, scale: float, sampling: Sampling) -> None:
        row = (scale * np.random.default_rng(n_vocab).standard_normal(n_vocab)).astype(np.float32)
        got = distribution(row, sampling)
        wanted = by_sorting(row, sampling)
        dense_got = np.zeros(n_vocab)
        dense_got[got.ids] = got.probs
        assert len(set(got.ids.tolist())) == len(got.ids)
        assert np.abs(dense_got - wanted).sum() < 2e-3  # a token on the edge of the nucleus may fall either way
        assert got.probs.sum() == pytest.approx(1.0)

    def test_draws_follow_the_probabilities(self) -> None:
        d = distribution(np.array([0.0, 1.0, 2.0, -1.0], np.float32), Sampling(1.0))
        counts = np.bincount([d.draw(u) for u in np.random.default_rng(0).random(20_000)], minlength=4)
        assert chisquare(counts, np.array([d.prob(t) for t in range(4)]) * 20_000).pvalue > 1e-3

    def test_the_ends_of_the_unit_interval_are_safe(self) -> None:
        d = distribution(np.zeros(3, np.float32), Sampling(1.0))
        assert d.draw(0.0) == 0
        assert d.draw(np.nextafter(1.0, 0.0)) == 2


def by_sorting(row: np.ndarray, s: Sampling) -> np.ndarray:
    """The plain rule: sort, cut by top-k, top-p, min-p, then apply the temperature."""
    order = np.argsort(-row.astype(np.float64), kind="stable")
    if s.top_k:
        order = order[: s.top_k]
    if s.top_p < 1:
        e = np.exp(row[order].astype(np.float64) - row[order[0]])
        share = np.cumsum(e / e.sum())
        order = order[: int(np.searchsorted(share, s.top_p)) + 1]
    if s.min_p:
        order = order[row[order] >= row[order[0]] + np.log(s.min_p)]
    e = np.exp((row[order].astype(np.float64) - row[order[0]]) / s.temperature)
    out = np.zeros(len(row))
    out[order] = e / e.sum()
    return out
