"""What drafts cost on a hybrid target and pay at given acceptance rates: MTP and a draft model, every way of going back.

    python benchmarks/hybrid.py TARGET.gguf DRAFT.gguf [--n-cpu-moe 0,31] [--rates 0.88,0.72,0.58,0.46]

Costs are real, acceptance is synthetic (the weights may be random: nothing depends on the text). Prints tok/s, the ratio
to plain decoding and milliseconds a step by phase, one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from specdec.engine import Engine
from specdec.registry import Registry
from specdec.server.engine import ServerEngine
from specdec.spec import make_spec
from specdec.types import PHASES, Generation, Prompt, ServedGeneration

ARMS = [
    *(f"mtp(n_max={n})" for n in (1, 2, 3, 4)),
    *(f'draft(model="{{draft}}", n_max={n})' for n in (1, 3)),
    'draft(model="{draft}", feed=together)',
]

Answer = Generation | ServedGeneration
Key = tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("draft", type=Path)
    parser.add_argument("--n-cpu-moe", default="0")
    parser.add_argument("--rates", default="0.88,0.72,0.58,0.46")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--n-predict", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rollback", default="auto")
    parser.add_argument(
        "--llama-server", default="", help="a binary to set beside it, with the same rates; none without"
    )
    parser.add_argument("--arms", default="", help="strategies, separated by ';'; {draft} is the draft model")
    options = parser.parse_args()
    for n_cpu_moe in map(int, options.n_cpu_moe.split(",")):
        measure(options, n_cpu_moe)


def measure(options: argparse.Namespace, n_cpu_moe: int) -> None:
    """All arms on one split, interleaved by prompt."""
    arms = options.arms.split(";") if options.arms else ARMS
    caches = {"flash_attn": "on", "cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    spec = make_spec(
        target=str(options.target),
        n_predict=options.n_predict,
        ignore_eos=True,
        rollback=tuple(options.rollback.split(",")),
        synthetic=tuple(float(r) for r in options.rates.split(",")),
        model={"n_cpu_moe": n_cpu_moe, "threads": options.threads} | caches,
    )
    planned = Registry().plan(",".join(a.replace("{draft}", str(options.draft)) for a in arms))
    engine = Engine(spec, planned, _say)
    rng = np.random.default_rng(0)
    words = [f"{w} " for w in ("def", "return", "value", "index", "for", "while", "list", "table", "none", "true")]
    prompts = [
        Prompt(f"p{i}", "random", "completion", "medium", text="".join(rng.choice(words, options.prompt_tokens)))
        for i in range(options.prompts + 1)
    ]
    engine.fit(prompts)
    made: dict[Key, list[Answer]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        turn = i % len(engine.arms)
        for arm in engine.arms[turn:] + engine.arms[:turn]:
            _, generation = next(engine.answers(arm, prompt))
            if i:  # the first prompt is the warm-up
                made[arm.key].append(generation)
    engine.close()
    _show(made, n_cpu_moe)
    if options.llama_server:
        theirs: dict[Key, list[Answer]] = defaultdict(list)
        with tempfile.TemporaryDirectory() as logs:
            named = spec.model_copy(update={"llama_server": options.llama_server})
            server = ServerEngine(named, planned, _say, Path(logs))
            server.fit(prompts)
            # One after the other: each has the whole model in a process of its own. How drafts are fed is ours alone.
            for arm in (a for a in server.arms if "feed=" not in a.planned.label):
                theirs[arm.key] += [next(server.answers(arm, prompt))[1] for prompt in prompts][1:]
                server.discard(arm)
            server.close()
        _show(theirs, n_cpu_moe)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(made: dict[Key, list[Answer]], n_cpu_moe: int) -> None:
    plain = _speed(next(answers for key, answers in made.items() if key[1] == "none"))
    for key, answers in made.items():
        print(json.dumps(_line(key, answers, plain) | {"n_cpu_moe": n_cpu_moe}), flush=True)


def _speed(answers: list[Answer]) -> float:
    return sum(len(g.token_ids) for g in answers) / sum(g.generation_s for g in answers)


def _line(key: Key, answers: list[Answer], plain: float) -> dict[str, object]:
    line: dict[str, object] = {
        "engine": key[0],
        "strategy": key[1],
        "rollback": key[2],
        "tok_s": round(_speed(answers), 1),
        "ratio": round(_speed(answers) / plain, 3),
        "prompt_ms": round(1e3 * float(np.mean([g.prefill_s for g in answers]))),
    }
    own = [g for g in answers if isinstance(g, Generation)]
    if own:
        steps = sum(len(g.steps) for g in own)
        phases = {p: round(1e3 * sum(g.phase_s[p] for g in own) / steps, 3) for p in PHASES}
        line["tokens_per_step"] = round(sum(len(g.token_ids) for g in own) / steps, 2)
        line["ms_per_step"] = {p: ms for p, ms in phases.items() if ms}
        line["memory_mib"] = round(sum(m.bytes for m in own[-1].memory) / 2**20)
    return line


if __name__ == "__main__":
    main()
