"""The planner against what llama.cpp takes: for each strategy on each card, the plan beside the real allocation.

    python benchmarks/plan.py TARGET.gguf [DRAFT.gguf] [--cards 8GB,12GB,16GB,24GB] [--llama-fit PATH/llama-fit-params]

Needs a GPU with the room. For each card and strategy: loads the target at the planned split, opens the strategy, makes the
context that a run would, and prints predicted and real VRAM of this process (free memory before and after, by the
device's own account) and the difference; then, where the tool is named, the split that llama.cpp's own fit chooses.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from specdec.engine import Engine
from specdec.llama.ballast import GgmlGpu, the_gpu
from specdec.llama.devices import devices
from specdec.runner.checks import plan_strategies
from specdec.spec import RunSpec, make_spec
from specdec.types import Prompt
from specdec.vram.arms import cases_of, header_of
from specdec.vram.cards import parse_cards
from specdec.vram.overheads import CUDA_CONTEXT, MIB
from specdec.vram.plan import Fit, fit

PROMPT = Prompt("p", "w", "completion", "short", text="def fibonacci(n):\n")


def real(spec: RunSpec, found: Fit) -> int:
    """Bytes that this process takes of the GPU for one strategy, `none` beside it, after a short answer."""
    gpu = the_gpu(found.options)
    if gpu is None:
        sys.exit("this build sees no GPU: there is nothing to compare")
    card = GgmlGpu(gpu.name, devices()[gpu.name])
    before = card.free()
    own = spec.model_copy(update={"strategies": found.case.label, "model": found.options})
    engine = Engine(own, plan_strategies(own), lambda line: None)
    try:
        engine.fit([PROMPT])
        for _ in engine.answers(engine.arms[-1], PROMPT):
            pass
        return before - card.free()
    finally:
        engine.close()


def main() -> None:
    """Print a line for each card and strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("draft", nargs="?", default="")
    parser.add_argument("--cards", default="8GB,12GB,16GB,24GB")
    parser.add_argument("--ctx-size", type=int, default=8192)
    parser.add_argument("--llama-fit", default="")
    given = parser.parse_args()
    model = {"ctx_size": given.ctx_size, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    spec = make_spec(target=given.target, draft=given.draft, strategies="", n_predict=16, model=model)
    header = header_of(spec)
    for card in parse_cards(given.cards):
        for case in cases_of(spec, header):
            found = fit(case, header, spec.model, card)
            expected = card.budget - found.left - CUDA_CONTEXT  # the context was there before we looked
            taken = real(spec, found)
            print(
                f"{card.name} {case.label}: {found.split}: planned {expected / MIB:,.0f} MiB, taken {taken / MIB:,.0f},"
                f" {(expected - taken) / MIB:+,.0f} MiB ({expected / taken - 1:+.1%})",
                flush=True,
            )
        if given.llama_fit:
            words = [given.llama_fit, "--model", given.target, "--ctx-size", str(given.ctx_size)]
            words += ["--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--fit-target", "512"]
            print(f"{card.name} llama.cpp's fit (of the whole GPU, unless it is capped):")
            subprocess.run(words, check=False)


if __name__ == "__main__":
    main()
