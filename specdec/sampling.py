"""From a row of logits to the distribution that a token is drawn from.

Filters and their order are llama.cpp's (common/common.h, ``common_params_sampling``): top-k, top-p, min-p, then the
temperature. The result does not depend on drafts, so it is the same with and without speculation.

What bounds this: a row of 152 k float32 is 0.6 MB, one read of it costs about 0.03 ms. Sorting it would cost 10 ms; so
candidates are found by thresholds and only they are sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.types import FloatArray, Sampling

_BLOCK = 256
_FEW = 64
_DRAFT_CANDIDATES = 10
_BINS, _BINS_PER_UNIT = 4096, 128


@dataclass(frozen=True, slots=True)
class Distribution:
    """Probabilities of the tokens that survived the filters.

    Args:
        ids: token ids, int64 [m], in an order that depends on the logits alone.
        probs: float [m], adding up to 1.
    """

    ids: npt.NDArray[np.int64]
    probs: npt.NDArray[np.floating[Any]]

    def draw(self, u: float) -> int:
        """The token at ``u`` in [0, 1) of the cumulative distribution."""
        cumulative = np.cumsum(self.probs, dtype=np.float64)
        index = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
        return int(self.ids[min(index, len(self.ids) - 1)])

    def prob(self, token: int) -> float:
        """Probability of one token; 0 where a filter removed it."""
        if token < len(self.ids) and self.ids[token] == token:  # nothing was filtered: all tokens in order
            return float(self.probs[token])
        found = np.flatnonzero(self.ids == token)
        return float(self.probs[found[0]]) if len(found) else 0.0


def distribution(row: FloatArray, sampling: Sampling) -> Distribution:
    """The distribution that ``sampling`` (temperature above 0) draws from, given one row of logits [n_vocab]."""
    n = row.shape[0]
    if 0 < sampling.top_k < n:
        ids = top_candidates(row, sampling.top_k)
        if sampling.top_p < 1.0:
            ids = ids[: _nucleus(_softmax(row[ids].astype(np.float64)), sampling.top_p)]
    elif sampling.top_p < 1.0:
        ids = _top_p_candidates(row, sampling.top_p)
    elif sampling.min_p > 0.0:
        ids = np.flatnonzero(row >= row.max() + np.float32(np.log(sampling.min_p)))
    else:
        weights = np.exp((row - row.max()) * np.float32(1.0 / sampling.temperature))
        return Distribution(_all_tokens(n), weights / weights.sum(dtype=np.float64))
    logits = row[ids].astype(np.float64)
    if sampling.min_p > 0.0:
        keep = logits >= logits.max() + np.log(sampling.min_p)
        ids, logits = ids[keep], logits[keep]
    return Distribution(ids, _softmax(logits / sampling.temperature))


@lru_cache(maxsize=2)
def _all_tokens(n: int) -> npt.NDArray[np.int64]:
    ids = np.arange(n, dtype=np.int64)
    ids.flags.writeable = False
    return ids


def top_candidates(row: FloatArray, k: int) -> npt.NDArray[np.int64]:
    """The ``k`` largest entries' indices, largest first, ties by index.

    The k-th largest of the block maxima bounds the k-th largest entry from below; only entries above it are sorted.
    """
    n = row.shape[0]
    blocks = n // _BLOCK
    if blocks <= k:
        candidates = np.arange(n, dtype=np.int64)
    else:
        maxima = row[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
        bound = np.partition(maxima, blocks - k)[blocks - k]
        candidates = np.flatnonzero(row >= bound)
    order = np.argsort(-row[candidates], kind="stable")[:k]
    return candidates[order]


def top_probability(row: FloatArray) -> float:
    """Probability of the best token among the ten best: what llama.cpp compares with a draft's p_min."""
    best = row[top_candidates(row, _DRAFT_CANDIDATES)].astype(np.float64)
    return float(1.0 / np.exp(best - best[0]).sum())


def _top_p_candidates(row: FloatArray, top_p: float) -> npt.NDArray[np.int64]:
    """The fewest most probable tokens that reach ``top_p``: from the first few where the distribution is peaked, as it
    mostly is, else by a histogram of logits, so that only the bin in which the sum crosses ``top_p`` is sorted."""
    weights = np.exp(row - row.max())
    total = float(weights.sum())
    few = top_candidates(row, _FEW)
    probs = weights[few].astype(np.float64) / total
    if probs.sum() >= top_p:
        return few[: _nucleus(probs, top_p)]
    below = row.max() - row
    bins = np.minimum(below * _BINS_PER_UNIT, _BINS - 1).astype(np.int64)
    mass = np.cumsum(np.bincount(bins, weights, _BINS)) / total
    edge = min(int(np.searchsorted(mass, top_p)), _BINS - 1)
    sure = np.flatnonzero(bins < edge)
    doubtful = np.flatnonzero(bins == edge)
    doubtful = doubtful[np.argsort(below[doubtful], kind="stable")]
    missing = top_p - (mass[edge - 1] if edge else 0.0)
    return np.concatenate([sure, doubtful[: _nucleus(weights[doubtful].astype(np.float64) / total, missing)]])


def _nucleus(probs: npt.NDArray[np.float64], top_p: float) -> int:
    """How many of the falling ``probs`` it takes to reach ``top_p``; at least 1."""
    return min(len(probs), int(np.searchsorted(np.cumsum(probs), top_p, side="left")) + 1)


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    e = np.exp(logits - logits.max())
    return np.asarray(e / e.sum())


class Chooser:
    """The target's choice at each output position: argmax, or a draw whose random number belongs to the position.

    Because the numbers belong to positions and not to calls, a sampled text is the same with and without drafts
    wherever drafts are deterministic. With ``ignore_eos`` end-of-text tokens are barred, as llama.cpp does it.
    """

    def __init__(self, sampling: Sampling, barred: frozenset[int], n_uniform: int) -> None:
        self._sampling = sampling
        self._barred, self._barred_ids = barred, np.fromiter(barred, np.int64, len(barred))
        # Two independent streams: one accepts, one draws.
        rng = np.random.default_rng(sampling.seed)
        self._uniform = rng.random((n_uniform, 2)) if not sampling.greedy else np.empty((0, 2))
        self.wanted_end: int | None = None

    def choose(self, row: FloatArray, position: int) -> int:
        """The token for output ``position`` (0 is the first token of the answer)."""
        if self._sampling.greedy:
            token = int(row.argmax())
            if token in self._barred:
                self._note_end(position)
                row[self._barred_ids] = -np.inf
                token = int(row.argmax())
            return token
        return self.distribution(row, position).draw(self.uniform(position)[1])

    def distribution(self, row: FloatArray, position: int) -> Distribution:
        """What output ``position`` is drawn from."""
        if self._barred:
            if int(row.argmax()) in self._barred:
                self._note_end(position)
            row[self._barred_ids] = -np.inf
        return distribution(row, self._sampling)

    def uniform(self, position: int) -> tuple[float, float]:
        """The two random numbers of output ``position``."""
        accept, draw = self._uniform[position]
        return float(accept), float(draw)

    def _note_end(self, position: int) -> None:
        if self.wanted_end is None or position < self.wanted_end:
            self.wanted_end = position
