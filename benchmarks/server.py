"""specdec over llama-server, the same strategy, files, prompts and lengths; interleaved prompt by prompt.

    python benchmarks/server.py --target MODEL.gguf [--draft DRAFT.gguf] [--llama-server PATH] \
        --strategies none,ngram-simple,ngram-mod,mtp --workloads code,chat [--limit 2] [--n-predict 96] [--rounds 1]

Both engines answer each prompt, taking turns to go first, from the same token ids, greedy, at full length; strategies
keep what they learnt on both sides. llama-server's speed is by its own clock. Start-up is not timed. Prints a ratio for
each strategy: total tokens per second of specdec over llama-server's, and the median over prompts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from time import sleep

from specdec.engine import Arm, Engine
from specdec.registry import Registry
from specdec.server.engine import ServerEngine
from specdec.server.process import find_binary
from specdec.spec import RunSpec, make_spec
from specdec.types import Generation, Limits, Prompt, ServedGeneration
from specdec.workloads import load_prompts, select

PAUSE_S = 0.05
"""Between two engines, so that the threads of one are asleep when the other begins."""

Answer = Generation | ServedGeneration


def ask(engine: Engine | ServerEngine, arm: Arm, prompt: Prompt, limits: Limits | None = None) -> Answer:
    """The first answer to a prompt."""
    sleep(PAUSE_S)
    return next(iter(engine.answers(arm, prompt, limits)))[1]


def drafts(answer: Answer) -> tuple[int, int]:
    """(drafted, accepted)."""
    if isinstance(answer, ServedGeneration):
        return answer.drafted, answer.accepted
    return sum(answer.steps.drafted), sum(answer.steps.accepted)


def compare(engines: tuple[Engine, ServerEngine], arms: tuple[Arm, Arm], prompts: list[Prompt]) -> None:
    """Print the ratio for one strategy."""
    for engine, arm in zip(engines, arms, strict=True):
        ask(engine, arm, prompts[0], Limits(n_predict=32, ignore_eos=True))  # warm-up
    pairs: list[tuple[Answer, ...]] = []
    for i, prompt in enumerate(prompts):
        both = list(zip(engines, arms, strict=True))
        results = [ask(engine, arm, prompt) for engine, arm in (both if i % 2 else both[::-1])]
        pairs.append(tuple(results if i % 2 else results[::-1]))
    shown, speeds = [], []
    for k in (0, 1):
        speeds.append(sum(len(p[k].token_ids) for p in pairs) / sum(p[k].generation_s for p in pairs))
        drafted, accepted = (sum(drafts(p[k])[i] for p in pairs) for i in (0, 1))
        shown.append(f"{speeds[k]:.2f} tok/s ({accepted} of {drafted} accepted)")
    ratios = [(len(a.token_ids) / a.generation_s) / (len(b.token_ids) / b.generation_s) for a, b in pairs]
    same = sum(a.token_ids == b.token_ids for a, b in pairs)
    print(f"{arms[0].planned.label:18} specdec {shown[0]}, llama-server {shown[1]}: ratio {speeds[0] / speeds[1]:.3f},"
          f" median of {len(pairs)} prompts {statistics.median(ratios):.3f}, same text {same}", flush=True)  # fmt: skip


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", default="")
    parser.add_argument("--target", required=True)
    parser.add_argument("--draft", default="")
    parser.add_argument("--strategies", default="ngram")
    parser.add_argument("--workloads", default="code,chat")
    parser.add_argument("--prompts", action="append", default=[])
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--n-predict", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--temp", type=float, default=None)
    return parser.parse_args()


def make(args: argparse.Namespace) -> RunSpec:
    """The run that both engines are given."""
    return make_spec(
        target=args.target, draft=args.draft, strategies=args.strategies, n_predict=args.n_predict, ignore_eos=True,
        carry_state=True, sampling={"temp": args.temp},
    )  # fmt: skip


def main() -> None:
    args = options()
    spec = make(args)
    planned = Registry().plan(spec.strategies, {"draft": {"model": spec.draft}})
    names = () if args.prompts else tuple(args.workloads.split(","))
    prompts = select(load_prompts(args.prompts), names, args.limit)
    with tempfile.TemporaryDirectory() as logs:
        ours = Engine(spec, planned, print)
        theirs = ServerEngine(spec, planned, print, find_binary(args.llama_server), Path(logs))
        try:
            for engine in (ours, theirs):
                engine.fit(prompts)
            for arm in theirs.arms:
                theirs.ready(arm)
            mine = {arm.planned.label: arm for arm in ours.arms}
            for arm in theirs.arms:
                compare((ours, theirs), (mine[arm.planned.label], arm), prompts * args.rounds)
        finally:
            theirs.close()
            ours.close()


if __name__ == "__main__":
    main()
