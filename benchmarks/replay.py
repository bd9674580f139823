"""How fast a replay is, how much memory a grid takes, how large a trace is.

    python benchmarks/replay.py             (needs the extra: pip install 'specdec[replay]')

Text: half passages of 200 tokens that return, half random tokens, so that drafts of full length are made. Synthetic
tokens; what is measured is the replay, not a model.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from propose import text

from specdec import kernels
from specdec.registry import Registry
from specdec.replay.loop import Bounds, replay_turn
from specdec.replay.trace import read_trace, write_trace
from specdec.strategy import Services
from specdec.testing.traces import trace_of, turn_of

N_VOCAB = 150_000
HISTORY, ANSWER = 100_000, 100_000
SINGLE = ("ngram-mod", "ngram-mod(n_match=4, n_min=4)", "ngram-simple", "ngram-simple(size_n=4)")
GRID = "ngram-mod(n_match=4..28:1, n_min=0|2|8|48, n_max={})"
RUNS = ((100, "48"), (1000, "4..58:6"))


def one_core() -> None:
    """Tokens of the answer replayed in a second by one core, after a prompt of HISTORY tokens."""
    turn = turn_of(text(HISTORY + ANSWER), HISTORY)
    bounds = Bounds(ANSWER, 2048, N_VOCAB, greedy=True)
    for fast in (True, False) if kernels.available() else (False,):
        for name in SINGLE:
            planned = Registry().plan(name)[-1]
            seconds = []
            for _ in range(4):  # the first one compiles, or loads what was compiled
                strategy = planned.build()
                strategy.open(Services(N_VOCAB, HISTORY + ANSWER))
                began = perf_counter()
                done = replay_turn(strategy, turn, bounds, fast)
                seconds.append(perf_counter() - began)
            drafted, accepted = done.steps.sum(axis=1)
            print(
                f"{'compiled' if fast else 'python':8} {planned.label:30} {ANSWER / np.median(seconds[1:]):12,.0f}"
                f" tokens/s (first {seconds[0]:5.2f} s), {drafted:,} drafted, {accepted:,} accepted"
            )


def grids(folder: Path) -> None:
    """A search over a trace of 100,000 tokens by two processes, from the command line: wall time and peak memory."""
    write_trace(folder / "t.npz", trace_of([turn_of(text(ANSWER + 2_000), 2_000)], ANSWER, N_VOCAB))
    for count, n_max in RUNS:
        command = ["replay", "t.npz", "--search", "--strategies", GRID.format(n_max), "--jobs", "2"]
        began = perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", _MEASURED, *command], cwd=folder, capture_output=True, text=True, check=True
        )
        seconds = perf_counter() - began
        peak = re.findall(r"peak (\d+) (\d+)", run.stderr)[-1]
        settings = re.findall(r"([\d,]+) settings", run.stdout)[0]
        print(
            f"{settings} settings (about {count}) x {ANSWER:,} tokens, 2 processes: {seconds:.1f} s;"
            f" peak memory {int(peak[0]) / 1024:.0f} MB, largest worker {int(peak[1]) / 1024:.0f} MB"
        )


_MEASURED = """
import resource, sys
from specdec.cli import main
sys.argv = ["specdec", *sys.argv[1:]]
try:
    main()
finally:
    own, workers = (resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print("peak", own, workers, file=sys.stderr)
"""


def size(folder: Path) -> None:
    """A trace of a million tokens: random ones, which nothing can compress below their 17 bits."""
    tokens = np.random.default_rng(0).integers(0, N_VOCAB, 1_000_000)
    turns = [turn_of(tokens[i : i + 50_000], 1_000, f"p{i}") for i in range(0, len(tokens), 50_000)]
    began = perf_counter()
    write_trace(folder / "million.npz", trace_of(turns, 50_000, N_VOCAB))
    written = perf_counter()
    read_trace(folder / "million.npz")
    print(
        f"1,000,000 random tokens: {(folder / 'million.npz').stat().st_size / 1e6:.2f} MB, written in"
        f" {written - began:.2f} s, read and checked in {perf_counter() - written:.2f} s"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        size(Path(name))
        one_core()
        grids(Path(name))


if __name__ == "__main__":
    main()
