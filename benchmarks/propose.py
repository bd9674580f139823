"""How long the n-gram strategies take to propose, by length of the context.

    python benchmarks/propose.py

Prints the median and the 95th percentile in microseconds, and the ratio of the longest to the shortest context: a step
must not scan the context. Text: half repeated passages, half random tokens, so that drafts of full length are made.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

from specdec.registry import Registry
from specdec.strategy import Strategy
from specdec.types import Step, TokenArray

LENGTHS = (2_000, 8_000, 32_000, 128_000)
STEPS = 600


def text(length: int, seed: int = 0) -> TokenArray:
    """Tokens of which half come from passages that return."""
    rng = np.random.default_rng(seed)
    passages = [rng.integers(0, 150_000, 200) for _ in range(20)]
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < length:
        parts.append(passages[rng.integers(20)] if len(parts) % 2 else rng.integers(0, 150_000, 200))
    return np.concatenate(parts)[:length].astype(np.int32)


def measure(strategy: Strategy, length: int) -> tuple[float, float, int]:
    """(median, 95th percentile in microseconds, drafts made) over STEPS proposals at this length."""
    context = text(length + STEPS)
    strategy.reset()
    strategy.begin(context[:length])
    spent, drafts = [], 0
    for i in range(STEPS):
        view = context[: length + i]
        began = perf_counter()
        draft = strategy.propose(view, 64)
        spent.append(1e6 * (perf_counter() - began))
        drafts += bool(draft)
        strategy.accept(Step(length + i - 1, draft, len(draft), ()))
    return float(np.median(spent)), float(np.quantile(spent, 0.95)), drafts


def main() -> None:
    for planned in Registry().plan("ngram")[1:]:
        medians = []
        for length in LENGTHS:
            median, high, drafts = measure(planned.build(), length)
            medians.append(median)
            print(
                f"{planned.label:14} context {length:7,}: median {median:5.1f} us, 95 % {high:6.1f} us, {drafts} drafts"
            )
        print(f"{planned.label:14} longest over shortest context: {medians[-1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
