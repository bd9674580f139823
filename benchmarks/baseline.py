"""`none` through specdec over llama.cpp's own generation speed (llama-bench of the same build), interleaved.

    python benchmarks/baseline.py --target MODEL.gguf --llama-bench PATH [--tokens 96] [--pairs 5]

What bounds both: reading the weights once a token. specdec adds the batch, the wait, one argmax and its bookkeeping.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path

import numpy as np

from specdec.decode import Decoder
from specdec.llama.model import LlamaModel, default_threads
from specdec.llama.target import LlamaTarget
from specdec.registry import Registry
from specdec.spec import ModelOptions
from specdec.types import Limits, Sampling


def llama_bench(binary: str, target: Path, tokens: int, threads: int) -> float:
    """tok/s of llama-bench's generation test."""
    command = [binary, "-m", str(target), "-p", "0", "-n", str(tokens), "-t", str(threads), "-r", "1", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()

    model = LlamaModel(args.target, ModelOptions())
    decoder = Decoder(LlamaTarget(model, n_ctx=512), Registry().plan("none")[0].build())
    prompt, limits = np.array([1], np.int32), Limits(n_predict=args.tokens + 1, ignore_eos=True)

    def ours() -> float:
        decoder.clear()
        generation = decoder.generate(prompt, limits, Sampling())
        return (len(generation.token_ids) - 1) / generation.generation_s  # the first token is the prefill's

    def theirs() -> float:
        return llama_bench(args.llama_bench, args.target, args.tokens, default_threads())

    ours()
    theirs()
    ratios = []
    for i in range(args.pairs):
        first, second = (ours, theirs) if i % 2 else (theirs, ours)
        a, b = first(), second()
        mine, peer = (a, b) if i % 2 else (b, a)
        ratios.append(mine / peer)
        print(f"pair {i + 1}: specdec {mine:.2f} tok/s, llama-bench {peer:.2f} tok/s, ratio {mine / peer:.3f}")
    print(f"none over llama-bench: median {statistics.median(ratios):.3f} of {args.pairs} pairs")


if __name__ == "__main__":
    main()
