"""What Python adds to a step: everything but the time inside llama.cpp's own functions.

    python benchmarks/overhead.py [--repeats 8]

A nano model with the vocabulary of a real one runs with drafts that are all accepted (the most rows that a step can
read); the calls into libllama are timed and taken off. Prints milliseconds a step beside the aim, and their ratio.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from specdec.decode import Decoder
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.registry import Registry
from specdec.spec import ModelOptions
from specdec.strategy import Services, Strategy
from specdec.testing.nano import write_nano
from specdec.types import Draft, Limits, Sampling, TokenArray

TOKENS = 200
"""Of an answer: short enough that the attention kernels round alike for one token and for many."""

CASES = [
    ("greedy", 151_936, 5, 0.5),
    ("greedy", 248_320, 9, 1.5),
    ("sampled", 151_936, 5, 3.0),
    ("sampled", 248_320, 9, 8.0),
    ("sampled, top-p only", 151_936, 5, 3.0),
    ("sampled, top-p only", 248_320, 9, 8.0),
]
DRAFT_AIM = 0.3
SAMPLING = {
    "greedy": Sampling(),
    "sampled": Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
    "sampled, top-p only": Sampling(temperature=0.8, top_p=0.95),
}


class Oracle(Strategy):
    """Drafts the known answer."""

    name = "oracle"
    answer: TokenArray
    n_prompt: int
    n_max: int

    @property
    def longest_draft(self) -> int:
        return self.n_max

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        at = len(context) - self.n_prompt
        return Draft(self.answer[at : at + self.n_max].tolist())


class Timed:
    """libllama with a stopwatch around the functions that compute."""

    def __init__(self, lib: Any) -> None:
        self._lib, self.seconds = lib, 0.0

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._lib, name)
        if name not in ("llama_decode", "llama_synchronize", "llama_memory_seq_rm", "llama_get_sampled_token_ith"):
            return function

        timed = self.stopwatch(function)
        setattr(self, name, timed)
        return timed

    def stopwatch(self, function: Any) -> Any:
        """The function, its time added up."""

        def timed(*arguments: Any) -> Any:
            began = perf_counter()
            result = function(*arguments)
            self.seconds += perf_counter() - began
            return result

        return timed


def measure(path: Path, sampling: Sampling, outputs: int, repeats: int) -> tuple[float, int]:
    """(milliseconds of Python a step, steps)."""
    model = LlamaModel(path, ModelOptions())
    target = LlamaTarget(model, n_ctx=512, longest_draft=outputs - 1)
    prompt, limits = np.arange(20, dtype=np.int32), Limits(n_predict=TOKENS, ignore_eos=True)
    oracle = Oracle()
    oracle.n_prompt, oracle.n_max, oracle.answer = len(prompt), outputs - 1, np.empty(0, np.int32)
    oracle.answer = np.array(Decoder(target, oracle).generate(prompt, limits, sampling).token_ids, np.int32)
    timed = Timed(target._lib)
    target._lib = timed
    target._logits_address = timed.stopwatch(target._logits_address)
    decoder = Decoder(target, oracle)
    spent, count = 0.0, 0
    for _ in range(repeats):
        decoder.clear()
        before = timed.seconds
        generation = decoder.generate(prompt, limits, sampling)
        assert sum(generation.steps.accepted) > 0.9 * sum(generation.steps.drafted), "the oracle must be right"
        spent += generation.prefill_s + generation.generation_s - (timed.seconds - before)
        count += len(generation.steps)
    target.close()
    model.close()
    return 1000 * spent / count, count


def measure_draft(path: Path, n_max: int, repeats: int) -> tuple[float, int]:
    """(milliseconds of Python that the draft strategy adds to a step, steps): in propose and accept, libllama taken off."""
    model = LlamaModel(path, ModelOptions())
    target = LlamaTarget(model, n_ctx=512, longest_draft=n_max)
    strategy = Registry().plan(f'draft(model="{path}", n_max={n_max})')[-1].build()
    strategy.open(Services(model.n_vocab, 512, model.width, model.threads, Sampling(), model))
    context = strategy._follower._target  # type: ignore[attr-defined]
    timed = context._lib = Timed(context._lib)
    context.memory._lib = timed
    context._logits_address = timed.stopwatch(context._logits_address)
    decoder, limits = Decoder(target, strategy), Limits(n_predict=TOKENS, ignore_eos=True)
    begin, before = strategy.begin, 0.0

    def watched(prompt_ids: TokenArray) -> None:
        nonlocal before
        begin(prompt_ids)  # decodes the prompt, before the clock of the phases starts
        before = timed.seconds

    strategy.begin = watched  # type: ignore[method-assign]
    spent, count = 0.0, 0
    for repeat in range(repeats + 1):
        decoder.clear()
        generation = decoder.generate(np.arange(20, dtype=np.int32), limits, Sampling())
        if repeat:  # the first is the warm-up
            spent += generation.phase_s["propose"] - (timed.seconds - before)
            count += len(generation.steps)
    strategy.close()
    target.close()
    model.close()
    return 1000 * spent / count, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = {n: write_nano(Path(folder) / f"{n}.gguf", "dense", n_vocab=n) for n in {c[1] for c in CASES}}
        for name, n_vocab, outputs, aim in CASES:
            ms, steps = measure(paths[n_vocab], SAMPLING[name], outputs, args.repeats)
            print(
                f"{name:20} vocabulary {n_vocab:,}, {outputs} outputs: {ms:.3f} ms a step ({steps} steps),"
                f" {ms / aim:.2f} of the aim of {aim} ms"
            )
        for n_vocab, path in sorted(paths.items()):
            ms, steps = measure_draft(path, 4, args.repeats)
            print(
                f"draft, n_max 4        vocabulary {n_vocab:,}: {ms:.3f} ms a step of its own ({steps} steps),"
                f" {ms / DRAFT_AIM:.2f} of the aim of {DRAFT_AIM} ms"
            )


if __name__ == "__main__":
    main()
