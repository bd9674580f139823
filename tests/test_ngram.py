"""The n-gram strategies against plain transcriptions of llama.cpp's rules: the same drafts, token for token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from specdec.registry import Registry
from specdec.strategy import Strategy
from specdec.types import Step, TokenArray


def build(text: str) -> Strategy:
    return Registry().plan(text)[-1].build()


def sequences() -> Iterator[TokenArray]:
    """Random over a tiny and a large vocabulary, periodic, passages that return, returning with faults."""
    rng = np.random.default_rng(7)
    yield rng.integers(0, 3, 400).astype(np.int32)
    yield rng.integers(0, 150_000, 300).astype(np.int32)
    yield np.tile(rng.integers(0, 90, 37), 12).astype(np.int32)
    passages = [rng.integers(0, 248_000, 60) for _ in range(4)]
    returning = np.concatenate([passages[i] for i in rng.integers(0, 4, 14)])
    yield returning.astype(np.int32)
    faulty = returning.copy()
    faulty[rng.integers(0, len(faulty), 40)] = 5
    yield faulty.astype(np.int32)


def simple_by_the_rules(history: list[int], sampled: int, n: int, m: int) -> list[int]:
    """``common_ngram_simple_draft``, transcribed: ``history`` lacks the token sampled last."""
    length = len(history)
    if length <= n + m + 1:
        return []
    pattern = [*history[length - n + 1 :], sampled] if n > 1 else [sampled]
    for j in range(length - n - 1, 0, -1):
        if history[j : j + n] == pattern:
            count = min(m, length - (j + n))
            return history[j + n : j + n + count] if count >= n else []
    return []


@pytest.mark.parametrize(("n", "m"), [(12, 48), (1, 1), (2, 5), (3, 3), (5, 2)])
def test_ngram_simple_drafts_as_the_rules_say(n: int, m: int) -> None:
    drafted = 0
    for sequence in sequences():
        strategy = build(f"ngram-simple(size_n={n}, size_m={m})")
        strategy.begin(sequence[:20])
        position, step = 20, np.random.default_rng(n)
        while position < len(sequence):
            tokens = sequence[: position + 1]
            got = list(strategy.propose(tokens, 64).token_ids)
            assert got == simple_by_the_rules(tokens[:-1].tolist(), int(tokens[-1]), n, m)
            drafted += len(got)
            position += int(step.integers(1, 9))  # several tokens may be accepted between proposals
    assert drafted > 0 or n > m


class ModByTheRules:
    """``common_speculative_impl_ngram_mod`` and ``common_ngram_mod``, transcribed for one sequence."""

    def __init__(self, n: int, n_min: int, n_max: int, size: int) -> None:
        self.n, self.n_min, self.n_max, self.size = n, n_min, n_max, size
        self.entries: dict[int, int] = {}
        self.i_last = self.n_draft_last = self.n_low = 0

    def index(self, tokens: list[int]) -> int:
        value = 0
        for token in tokens[: self.n]:
            value = (value * 6364136223846793005 + token) % 2**64
        return value % self.size

    def add(self, tokens: list[int]) -> None:
        self.entries[self.index(tokens)] = tokens[self.n]

    def begin(self, prompt: list[int]) -> None:
        self.i_last = self.n_draft_last = 0
        if len(prompt) < self.n:
            return
        for i in range(len(prompt) - self.n):
            self.add(prompt[i:])
        self.i_last = len(prompt) - self.n
        if len(self.entries) / self.size > 0.25:
            self.entries.clear()

    def draft(self, prompt: list[int], id_last: int) -> list[int]:
        self.n_draft_last = 0
        if len(prompt) < self.n:
            return []
        if self.i_last + 32 < len(prompt):
            for i in range(self.i_last, len(prompt) - self.n):
                self.add(prompt[i:])
            self.i_last = len(prompt) - self.n
        result = [*prompt[len(prompt) - self.n + 1 :], id_last]
        for i in range(self.n_max):
            token = self.entries.get(self.index(result[i:]), -1)
            if token == -1:
                if i < self.n_min:
                    return []
                break
            result.append(token)
        self.n_draft_last = len(result) - self.n
        return result[self.n :]

    def accept(self, n_accepted: int) -> None:
        if self.n_draft_last > 0:
            if n_accepted / self.n_draft_last < 0.25:
                self.n_low += 1
                if self.n_low >= 5:
                    self.entries.clear()
                    self.n_low = self.i_last = 0
            else:
                self.n_low = 0


@pytest.mark.parametrize(
    ("n", "n_min", "n_max", "size"), [(24, 48, 64, 4_194_304), (3, 1, 8, 4096), (2, 0, 16, 1024), (1, 4, 4, 1024)]
)
def test_ngram_mod_drafts_and_resets_as_the_rules_say(n: int, n_min: int, n_max: int, size: int) -> None:
    strategy = build(f"ngram-mod(n_match={n}, n_min={n_min}, n_max={n_max}, table_size={size})")
    rules, rng = ModByTheRules(n, n_min, n_max, size), np.random.default_rng(n)
    drafts = resets = 0
    for sequence in sequences():  # state is shared from sequence to sequence, as llama.cpp's server shares it
        strategy.begin(sequence[:50])
        rules.begin(sequence[:50].tolist())
        position = 50
        while position < len(sequence):
            tokens = sequence[: position + 1]
            draft = strategy.propose(tokens, n_max)
            assert list(draft.token_ids) == rules.draft(tokens[:-1].tolist(), int(tokens[-1]))
            accepted = int(rng.integers(0, len(draft) + 1)) if rng.random() < 0.4 else 0
            before = len(rules.entries)
            if draft:  # llama.cpp is not told of empty drafts
                drafts += 1
                rules.accept(accepted)
            strategy.accept(Step(position, draft, accepted, ()))
            resets += before > 0 and not rules.entries
            position += accepted + 1
    assert drafts > 0
    assert resets > 0 or n == 24


def test_ngram_mod_empties_a_table_that_is_a_quarter_full() -> None:
    strategy, rules = build("ngram-mod(n_match=2, n_min=1, table_size=1024)"), ModByTheRules(2, 1, 64, 1024)
    sequence = np.random.default_rng(0).integers(0, 1000, 700).astype(np.int32)
    for n in (200, 700):
        strategy.begin(sequence[:n])
        rules.begin(sequence[:n].tolist())
        assert list(strategy.propose(sequence[:n], 64).token_ids) == rules.draft(
            sequence[: n - 1].tolist(), int(sequence[n - 1])
        )
    assert not rules.entries


def test_reset_empties_the_shared_table() -> None:
    strategy = build("ngram-mod(n_match=2, n_min=1)")
    text = np.tile(np.arange(9, dtype=np.int32), 5)
    strategy.begin(text)
    assert strategy.propose(text, 8)
    strategy.reset()
    strategy.begin(text[:2])
    assert not strategy.propose(text[:10], 8)
