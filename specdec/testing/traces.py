"""Traces without a model: recorded from a toy target, or made of given texts. For tests, benchmarks, strategy authors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from specdec.decode import Decoder
from specdec.replay.recorder import Recorder
from specdec.replay.trace import Trace, Turn
from specdec.spec import RunSpec
from specdec.target import Target
from specdec.types import Limits, Sampling, TokenArray


def record_turn(
    target: Target, prompt_ids: TokenArray, limits: Limits, sampling: Sampling, prompt: str = "p", workload: str = "toy"
) -> Turn:
    """What ``target`` says to a prompt, by plain decoding."""
    generation = Decoder(target, Recorder({})).generate(prompt_ids, limits, sampling)
    ids = np.concatenate([prompt_ids, np.array(generation.token_ids, np.int32)])
    return turn_of(ids, len(prompt_ids), prompt, workload, generation.stop)


def turn_of(ids: TokenArray, n_prompt: int, prompt: str = "p", workload: str = "toy", stop: str = "length") -> Turn:
    """A turn of given tokens, int32 [n]."""
    ids = np.array(ids, np.int32)
    ids.flags.writeable = False
    return Turn(prompt, workload, 0, ids, n_prompt, stop)


def trace_of(turns: Sequence[Turn], n_predict: int, n_vocab: int, n_batch: int = 2048) -> Trace:
    """A trace of these turns, with the header that a recording would have; its model is called ``toy``."""
    prompts = {t.prompt: t for t in turns}
    n_ctx = max((len(t.ids) for t in turns), default=0)
    header = {
        "created_at": None,
        "specdec": None,
        "run_id": None,
        "spec": RunSpec(target="toy", n_predict=n_predict).model_dump(mode="json"),
        "labels": {"card": "none", "sampling": "greedy", "thinking": False, "ignore_eos": False},
        "sampling": dataclasses.asdict(Sampling()),
        "n_vocab": n_vocab,
        "n_batch": n_batch,
        "context": {"n_ctx": n_ctx, "threads": 1, "recurrent": False},
        "model": {"file": "toy", "description": "no model"},
        "prompts": [_prompt(p, t.workload, turns) for p, t in prompts.items()],
        "prompts_sha256": "",
        "environment": {},
        "top_k": 0,
        "drafters": {},
    }
    return Trace(header, list(turns))


def _prompt(prompt: str, workload: str, turns: Iterable[Turn]) -> dict[str, object]:
    own = [t for t in turns if t.prompt == prompt]
    return {"id": prompt, "workload": workload, "length": "short", "turns": len(own), "tokens": own[0].n_prompt}
