"""The rules of ngram-simple: an index from each n-gram to its latest position, chained by hash bucket.

Arguments that recur:
    tokens: uint32, the text, at least as long as the kernel is told.
    heads: int32 [2**bits], the latest position whose n-gram falls into each bucket; -1 for none.
    chain: int32 [at least the text's length], the position before it in the same bucket.
    s: int64 [1], the first n-gram that is not in the index.
    rule: (n, m, factor, leading, mask, shift); the last four unsigned where compiled; shift = 64 - bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specdec.kernels import kernel, kernel_or
from specdec.kernels.hashing import FACTOR, MASK, leading, window_hashes

NEXT = 0
_FEW = 24
"""Entries up to which a plain loop is faster than NumPy."""


def rule(n: int, m: int, bits: int, unsigned: bool) -> tuple[Any, ...]:
    """The constants of a setting; ``unsigned`` for the compiled copy."""
    words = (FACTOR, leading(n), MASK, 64 - bits)
    return (n, m, *(map(np.uint64, words) if unsigned else words))


def _enter(tokens: Any, first: int, stop: int, rule: Any, heads: Any, chain: Any) -> None:
    """Enter the n-grams that start at first .. stop-1."""
    n, _, factor, leading, mask, shift = rule
    state = mask - mask
    for k in range(first, first + n):
        state = (state * factor + tokens[k]) & mask
    for i in range(first, stop):
        bucket = state >> shift
        chain[i] = heads[bucket]
        heads[bucket] = i
        state = (state * factor + tokens[i + n] - tokens[i] * leading) & mask


def _enter_vectorised(tokens: Any, first: int, stop: int, rule: Any, heads: Any, chain: Any) -> None:
    if stop - first <= _FEW:
        _enter(tokens, first, stop, rule, heads, chain)
        return
    n, latest = rule[0], np.asarray(heads)
    hashes = window_hashes(np.asarray(tokens)[first : stop + n - 1], n)
    buckets = (hashes >> np.uint64(rule[5])).astype(np.int64)
    order = np.argsort(buckets, kind="stable")
    of = buckets[order]
    new = np.append(True, of[1:] != of[:-1])
    before = np.where(new, latest[of], np.append(0, order[:-1] + first))
    np.asarray(chain)[order + first] = before
    last = np.append(new[1:], True)
    latest[of[last]] = order[last] + first


enter = kernel_or(_enter_vectorised)(_enter)


@kernel
def index(tokens: Any, length: int, rule: Any, heads: Any, chain: Any, s: Any) -> None:
    """Enter what is new and ends before the last two of ``length`` tokens."""
    stop = length - rule[0] - 1
    if stop > s[NEXT]:
        enter(tokens, s[NEXT], stop, rule, heads, chain)
        s[NEXT] = stop


@kernel
def latest(tokens: Any, length: int, rule: Any, heads: Any, chain: Any) -> int:
    """The latest indexed position of the last n tokens; -1 for none."""
    n, _, factor, _, mask, shift = rule
    tail = length - n
    state = mask - mask
    for k in range(tail, length):
        state = (state * factor + tokens[k]) & mask
    at = int(heads[state >> shift])
    while at >= 0:
        same = 0
        while same < n and tokens[at + same] == tokens[tail + same]:
            same += 1
        if same == n:
            return at
        at = int(chain[at])
    return -1


@kernel
def propose(tokens: Any, length: int, rule: Any, heads: Any, chain: Any, s: Any) -> tuple[int, int]:
    """(start, length) of the draft in ``tokens``."""
    n, m = rule[0], rule[1]
    index(tokens, length, rule, heads, chain, s)
    history = length - 1  # llama.cpp's history lacks the token sampled last
    if history <= n + m + 1:
        return 0, 0
    match = latest(tokens, length, rule, heads, chain)
    count = min(m, history - (match + n))
    if match < 0 or count < n:
        return 0, 0
    return match + n, count


@kernel
def replay(tokens: Any, n_prompt: int, most: Any, rule: Any, heads: Any, chain: Any, s: Any, steps: Any) -> int:
    """All steps of a text whose end is known: specdec/decode.py's loop. ``most`` = (n_predict, longest draft);
    ``steps`` int32 [2, tokens] takes drafted and accepted of each step; returns how many steps there were."""
    index(tokens, n_prompt, rule, heads, chain, s)
    n, end, count = n_prompt + 1, len(tokens), 0
    while n < end:
        room = min(most[0] - (n - n_prompt) - 1, most[1])
        start, drafted = propose(tokens, n, rule, heads, chain, s) if room >= 1 else (0, 0)
        drafted = min(drafted, room)
        accepted = 0
        while accepted < drafted and n + accepted < end and tokens[start + accepted] == tokens[n + accepted]:
            accepted += 1
        steps[0, count] = drafted
        steps[1, count] = accepted
        count += 1
        n += accepted + 1
    return count
