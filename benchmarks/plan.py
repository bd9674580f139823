"""The planner against what a GPU really gives: memory by card and strategy, and speed against llama.cpp's own fit.

    python benchmarks/plan.py TARGET.gguf [DRAFT.gguf] [--cards 8GB,12GB,16GB,24GB] [--llama-fit llama-fit-params]

Needs a GPU with the room. For each card and strategy a fresh process, not capped, loads the target at the planned split and
answers a prompt of several batches; the line gives the planned MiB of the whole process and the real ones (the device's
used memory, by NVML, over what was used before), and what llama.cpp says of its buffers. Then, where the tool is named,
`none` at the planned split beside the split that llama.cpp's own fit chooses for the same card and reserve, in turn, fresh
processes under the cap. One JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from specdec.engine import Engine
from specdec.llama.accounting import in_ram
from specdec.llama.ballast import hold
from specdec.llama.devices import describe
from specdec.monitor.nvml import Nvml
from specdec.runner.cap import hold_cap
from specdec.runner.checks import plan_strategies
from specdec.spec import ModelOptions, RunSpec, make_spec
from specdec.types import Limits, Prompt
from specdec.vram.arms import cases_of, header_of
from specdec.vram.cards import Card, parse_cards
from specdec.vram.items import Item
from specdec.vram.overheads import CUDA_CONTEXT, MIB
from specdec.vram.plan import Fit, fit

WORDS = ["def", "return", "value", "index", "for", "while", "list", "table", "none", "true"]
LONG = Prompt("p", "w", "completion", "long", text=" ".join(WORDS * 20))
"""Two batches: what llama.cpp takes for the longest pass is taken at the first."""
SHORT = Prompt("p", "w", "completion", "short", text=" ".join(WORDS[:4]))
"""Fewer tokens than make llama.cpp copy experts from RAM to the GPU."""


def used() -> int:
    """Bytes of the first GPU that are used by anyone."""
    nvml = Nvml()
    if not nvml.devices:
        sys.exit(f"no GPU: {nvml.reason}")
    bytes_ = nvml.devices[0].read().used_bytes
    nvml.close()
    return bytes_ or 0


def answer(spec: RunSpec, rounds: int = 0) -> dict[str, Any]:
    """In a fresh process, capped if ``spec`` says so: what its last strategy takes for a long prompt; then the speed of
    `none` on a short one, of ``rounds`` answers."""
    before = used()
    cap = hold_cap(spec, True, lambda line: None)
    engine = Engine(spec, plan_strategies(spec), lambda line: None)
    engine.fit([LONG])
    next(engine.answers(engine.arms[-1], LONG))
    told = engine.allocated(engine.arms[-1]) or []
    taken = used() - before - (cap.ballast.bytes if cap.ballast else 0)
    runs = [next(engine.answers(engine.arms[0], SHORT, Limits(128, True)))[1] for _ in range(rounds)]
    engine.close()
    seconds = sum(g.generation_s for g in runs)
    return {"taken": taken, "tok_s": sum(len(g.token_ids) for g in runs) / (seconds or 1.0), "told": by_kind(told)}


def fitted(words: list[str], limit: int) -> str:
    """What llama.cpp's tool prints on a GPU of which ``limit`` bytes are free."""
    ballast = hold(ModelOptions(), limit, 0)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if ballast is not None:
        ballast.close()
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed: {done.stderr[-500:]}")
    return done.stdout.strip().splitlines()[-1]


def fresh(function: Any, *arguments: Any) -> Any:
    """The function's result, from a process of its own: CUDA's context and what it loads late are counted each time."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def as_options(line: str, model: ModelOptions) -> ModelOptions:
    """llama.cpp's `-c N -ngl N -ot "a=CPU,b=CPU"` as options."""
    layers = re.search(r"-ngl (-?\d+)", line)
    patterns = re.search(r'-ot "([^"]*)"', line)
    moved = tuple(re.split(r",(?=blk)", patterns[1])) if patterns else ()
    return model.model_copy(update={"gpu_layers": int(layers[1]) if layers else -1, "override_tensor": moved})


def memory(spec: RunSpec, found: Fit) -> None:
    """A line on one strategy on one card."""
    name = {"card": found.card.name, "strategy": found.case.label, "split": found.split}
    own = spec.model_copy(update={"strategies": found.case.label, "model": found.options})
    planned = found.card.budget - found.left
    real = fresh(answer, own)
    taken = real["taken"]
    figures = {"planned_mib": planned / MIB, "taken_mib": taken / MIB, "off_mib": (planned - taken) / MIB}
    figures["card_mib"] = found.card.budget / MIB
    rounded = {k: round(v) for k, v in figures.items()}
    kinds = {"off": f"{planned / taken - 1:+.1%}", "n_ctx": found.case.n_ctx, "items": by_kind(found.items)}
    kinds["told"] = real["told"]
    print(json.dumps(name | rounded | kinds), flush=True)


def by_kind(items: Iterable[Item]) -> dict[str, int]:
    """MiB by kind, of what does not lie in RAM."""
    sums: Counter[str] = Counter()
    for item in items:
        if not in_ram(item.device):
            sums[item.kind] += item.bytes
    return {kind: round(n / MIB) for kind, n in sums.items()}


def capped(spec: RunSpec, card: Card, options: ModelOptions) -> RunSpec:
    """``spec`` on a card, at a split."""
    return spec.model_copy(update={"card": card.name, "vram_limit": card.budget // MIB, "model": options})


def against_fit(spec: RunSpec, plain: Fit, tool: str, margin: int, rounds: int) -> None:
    """A line on the speed of `none` at the planned split over that at llama.cpp's own."""
    m = spec.model
    words = [tool, "--model", spec.target, "--ctx-size", str(plain.case.n_ctx), "--flash-attn", "on"]
    words += ["--cache-type-k", m.cache_type_k, "--cache-type-v", m.cache_type_v]
    words += ["--fit-target", str(margin)] if margin else []
    whole = plain.card.budget + plain.card.reserve_mib * MIB  # theirs leaves a margin by its own reckoning
    line = fresh(fitted, words, whole)
    theirs = as_options(line, plain.options)
    speeds: dict[str, list[float]] = {"planned": [], "fitted": []}
    for _ in range(rounds):
        speeds["planned"].append(fresh(answer, capped(spec, plain.card, plain.options), 2)["tok_s"])
        open_ = capped(spec, plain.card, theirs).model_copy(update={"vram_limit": whole // MIB})
        speeds["fitted"].append(fresh(answer, open_, 2)["tok_s"])
    shown = {k: [round(s, 1) for s in v] for k, v in speeds.items()}
    ratio = sum(speeds["planned"]) / sum(speeds["fitted"])
    said = {"card": plain.card.name, "planned": plain.split, "fit": line, "tok_s": shown, "ratio": round(ratio, 3)}
    print(json.dumps(said), flush=True)


def main() -> None:
    """Print a line for each card and strategy, then one for each card on llama.cpp's fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("draft", nargs="?", default="")
    parser.add_argument("--cards", default="8GB,12GB,16GB,24GB")
    parser.add_argument("--strategies", default="")
    parser.add_argument("--ctx-size", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side against llama.cpp's fit")
    parser.add_argument("--llama-fit", default="")
    parser.add_argument("--fit-target", type=int, default=0, help="MiB it leaves free; 0: its own default")
    given = parser.parse_args()
    model = {"ctx_size": given.ctx_size, "threads": given.threads, "flash_attn": "on"}
    model |= {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    values = {"draft": given.draft, "strategies": given.strategies, "n_predict": 32, "synthetic": (0.9, 0.7, 0.5)}
    spec = make_spec(target=given.target, model=model, **values)
    tool = shutil.which(given.llama_fit) if given.llama_fit else None
    if given.llama_fit and tool is None:
        sys.exit(f"{given.llama_fit}: not found")
    header = header_of(spec)
    print(json.dumps({"devices": fresh(devices_here), "context_mib": CUDA_CONTEXT // MIB}), flush=True)
    for card in parse_cards(given.cards):
        fits = [fit(case, header, spec.model, card) for case in cases_of(spec, header)]
        for found in fits:
            memory(spec, found)
        if tool:
            plain = spec.model_copy(update={"strategies": "none", "synthetic": ()})
            against_fit(plain, fits[0], tool, given.fit_target, given.rounds)


def devices_here() -> list[str]:
    """The devices' names, from a process that ends with its CUDA context."""
    return [f"{d.name} {d.description}" for d in describe()]


if __name__ == "__main__":
    main()
