"""The rules of ngram-mod: a hash table from the last n tokens to the next one, walked to draft many.

Arguments that recur:
    tokens: uint32, the text, at least as long as the kernel is told.
    table: uint32 [size], the token that follows the n-gram of each slot; EMPTY where none was entered.
    touched: uint32, the slots that are not empty, so that clearing costs what was entered and not what fits.
    s: int64 [COUNTERS], what is counted: see the indices below.
    rule: (n, n_min, n_max, size, factor, leading, mask); the last four unsigned where compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specdec.kernels import kernel, kernel_or
from specdec.kernels.hashing import FACTOR, MASK, leading, window_hashes

EMPTY = 0xFFFFFFFF
USED, NEXT, LOW, DRAFTED, PURE, CATCH_UP = 0, 1, 2, 3, 4, 5
"""Indices of s. USED: slots in use; NEXT: first n-gram of the text that is not in the table; LOW: poor drafts in a row;
DRAFTED: length of the last draft before clipping; PURE: the table holds exactly this text's n-grams before NEXT;
CATCH_UP: the next proposal enters all that is new, however little."""
COUNTERS = 6
_CHUNK = 32
_LOW_ROUNDS = 5


def rule(n: int, n_min: int, n_max: int, size: int, unsigned: bool) -> tuple[Any, ...]:
    """The constants of a setting; ``unsigned`` for the compiled copy."""
    words = (size, FACTOR, leading(n), MASK)
    return (n, n_min, n_max, *(map(np.uint64, words) if unsigned else words))


def _add_vectorised(tokens: Any, first: int, stop: int, rule: Any, table: Any, touched: Any, s: Any) -> None:
    n, size = rule[0], rule[3]
    if stop <= first:
        return
    text, entries = np.asarray(tokens), np.asarray(table)
    slots = (window_hashes(text[first : stop + n - 1], n) % np.uint64(size)).astype(np.int64)
    fresh = np.unique(slots[entries[slots] == EMPTY])
    used = s[USED]
    room = max(0, min(len(fresh), len(touched) - used))
    np.asarray(touched)[used : used + room] = fresh[:room]
    s[USED] = used + len(fresh)
    entries[slots] = text[first + n : stop + n]  # later ones win


@kernel_or(_add_vectorised)
def add(tokens: Any, first: int, stop: int, rule: Any, table: Any, touched: Any, s: Any) -> None:
    """Enter the n-grams that start at first .. stop-1, each with the token after it; later ones win."""
    n, _, _, size, factor, leading, mask = rule
    if stop <= first:
        return
    state = size - size
    for k in range(first, first + n):
        state = (state * factor + tokens[k]) & mask
    used = s[USED]
    for i in range(first, stop):
        slot = state % size
        if table[slot] == EMPTY:
            if used < len(touched):
                touched[used] = slot
            used += 1
        table[slot] = tokens[i + n]
        state = (state * factor + tokens[i + n] - tokens[i] * leading) & mask
    s[USED] = used


def _clear_vectorised(table: Any, touched: Any, s: Any) -> None:
    slots = np.asarray(touched)[: s[USED]] if s[USED] <= len(touched) else slice(None)
    np.asarray(table)[slots] = EMPTY
    s[USED] = 0


@kernel_or(_clear_vectorised)
def clear(table: Any, touched: Any, s: Any) -> None:
    """Empty the table."""
    if s[USED] <= len(touched):
        for i in range(s[USED]):
            table[touched[i]] = EMPTY
    else:
        for i in range(len(table)):
            table[i] = EMPTY
    s[USED] = 0


@kernel
def begin(tokens: Any, length: int, rule: Any, table: Any, touched: Any, s: Any) -> None:
    """A new text: enter its prompt of ``length`` tokens; empty the table if it is more than a quarter full then."""
    n = rule[0]
    if s[CATCH_UP]:  # five poor drafts ended the last text: llama.cpp's table is empty now
        clear(table, touched, s)
    s[PURE] = 1 if s[USED] == 0 else 0
    s[NEXT] = s[DRAFTED] = s[CATCH_UP] = 0
    if length < n:
        return
    add(tokens, 0, length - n, rule, table, touched, s)
    s[NEXT] = length - n
    if 4 * s[USED] > len(table):
        clear(table, touched, s)
        s[PURE] = 0  # the prompt is not in the table


@kernel
def propose(tokens: Any, length: int, rule: Any, table: Any, touched: Any, s: Any, out: Any) -> int:
    """Enter what is new (once 32 tokens have gathered), walk the table; the draft's length, its tokens in ``out``."""
    n = rule[0]
    s[DRAFTED] = 0
    history = length - 1  # llama.cpp's history lacks the token sampled last
    if history < n:
        return 0
    if s[NEXT] + _CHUNK < history or s[CATCH_UP]:
        add(tokens, s[NEXT], history - n, rule, table, touched, s)
        s[NEXT] = history - n
        s[CATCH_UP] = 0
    s[DRAFTED] = walk(tokens, length, rule, table, out)
    return int(s[DRAFTED])


@kernel
def walk(tokens: Any, length: int, rule: Any, table: Any, out: Any) -> int:
    """Follow the table from the last n tokens: up to n_max tokens, none if fewer than n_min are found."""
    n, n_min, n_max, size, factor, leading, mask = rule
    state = size - size
    for k in range(length - n, length):
        state = (state * factor + tokens[k]) & mask
    for i in range(n_max):
        token = table[state % size]
        if token == EMPTY:
            return i if i >= n_min else 0
        out[i] = token
        oldest = tokens[length - n + i] if i < n else out[i - n]
        state = (state * factor + token - oldest * leading) & mask
    return int(n_max)


@kernel
def accept(accepted: int, table: Any, touched: Any, s: Any) -> None:
    """After a draft was verified: five drafts in a row of which less than a quarter was kept empty the table.

    llama.cpp then enters the whole text again at the next proposal. Where the table holds this text alone, that gives
    the table as it stands with the newest tokens entered: the same drafts, without the work.
    """
    if 4 * accepted >= s[DRAFTED]:
        s[LOW] = 0
        return
    s[LOW] += 1
    if s[LOW] < _LOW_ROUNDS:
        return
    s[LOW] = 0
    if s[PURE] and s[NEXT] > _CHUNK:
        s[CATCH_UP] = 1
    else:
        clear(table, touched, s)
        s[NEXT] = s[CATCH_UP] = 0
        s[PURE] = 1


@kernel
def replay(
    tokens: Any, n_prompt: int, most: Any, rule: Any, table: Any, touched: Any, s: Any, out: Any, steps: Any
) -> int:
    """All steps of a text whose end is known: specdec/decode.py's loop. ``most`` = (n_predict, longest draft);
    ``steps`` int32 [2, tokens] takes drafted and accepted of each step; returns how many steps there were."""
    begin(tokens, n_prompt, rule, table, touched, s)
    n, end, count = n_prompt + 1, len(tokens), 0
    while n < end:
        room = min(most[0] - (n - n_prompt) - 1, most[1])
        drafted = min(propose(tokens, n, rule, table, touched, s, out), room) if room >= 1 else 0
        accepted = 0
        while accepted < drafted and n + accepted < end and out[accepted] == tokens[n + accepted]:
            accepted += 1
        if drafted:
            accept(accepted, table, touched, s)
        steps[0, count] = drafted
        steps[1, count] = accepted
        count += 1
        n += accepted + 1
    return count
