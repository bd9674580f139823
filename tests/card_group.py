"""A stored comparison of cards with made-up speeds: laid out, capped and labelled as `compare --card` would, on the header
of a big model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from specdec.llama.gguf import read_header
from specdec.metrics import BASELINE
from specdec.runner.cap import describe_cap
from specdec.spec import RunSpec, make_spec
from specdec.store import Run, create, read_run
from specdec.types import PHASES
from specdec.vram.arms import lay_out
from specdec.vram.cards import capped_name, parse_cards

GROUP = "20270101-000000-beef"
GPU = "NVIDIA H100 80GB HBM3"
REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference" / "20261122-085546-4561"
_TOKENS = 41
_DRAFTS = 4
_GAIN = {BASELINE: 1.0, "mtp": 1.25, "draft": 1.1, "ngram-simple": 1.0, "ngram-mod": 0.97}
_ACCEPTED = {"mtp": 3, "draft": 3, "ngram-simple": 1, "ngram-mod": 1}


def write_group(results: Path, shape: Path, draft: Path, cards: str = "8GB,12GB", enforced: bool = True) -> list[Run]:
    """The group's runs, stored under ``results``; a token takes 4 ms and 0.33 ms for each expert layer in RAM."""
    spec = make_spec(target=str(shape), draft=str(draft), strategies="mtp,draft,ngram")
    rng = np.random.default_rng(1)
    runs = []
    for i, run in enumerate(lay_out(spec, parse_cards(cards), GROUP, lambda _: None)):
        with create(results, _meta(run, shape, enforced) | {"started_at": f"2027-01-01T00:{i:02}:00+00:00"}) as writer:
            for sample in _samples(run, rng):
                writer.append(sample)
            writer.finish()
        runs.append(read_run(writer.folder))
    return runs


def _labels(run: RunSpec) -> list[str]:
    return list(dict.fromkeys([BASELINE, *run.strategies.split(",")]))


def _meta(run: RunSpec, shape: Path, enforced: bool) -> dict[str, Any]:
    """Of the reference run, with what a run on a card has of its own."""
    meta: dict[str, Any] = copy.deepcopy(orjson.loads((REFERENCE / "run.json").read_bytes()))
    for key in ("run_id", "status", "started_at", "finished_at", "schema"):
        meta.pop(key, None)
    card = capped_name(run.card, run.vram_limit, GPU, enforced)
    dumped = run.model_dump(mode="json")
    return meta | {
        "spec": dumped, "given": {}, "group": run.group, "cap": describe_cap(run, read_header(shape)),
        "labels": meta["labels"] | {"card": card, "arm": run.arm},
        "arms": [{"engine": "specdec", "strategy": s, "rollback": "auto", "snapshots": 0} for s in _labels(run)],
        "model": meta["model"] | {"file": "Qwen3.5-35B-A3B-Q4_K_M.gguf", "description": "qwen35moe 35B.A3B Q4_K"},
    }  # fmt: skip


def _samples(run: RunSpec, rng: np.random.Generator) -> list[dict[str, Any]]:
    found = []
    for prompt in range(12):
        for label in _labels(run):
            speed = 1e3 / (4 + 0.33 * run.model.n_cpu_moe) * _GAIN[label] * rng.normal(1, 0.02)
            found.append(_sample(label, prompt, _TOKENS / speed))
    return found


def _sample(label: str, prompt: int, seconds: float) -> dict[str, Any]:
    accepted = (
        [_ACCEPTED[label]] * ((_TOKENS - 1) // (1 + _ACCEPTED[label])) if label != BASELINE else [0] * (_TOKENS - 1)
    )
    n = len(accepted)
    took = [round(1e6 * seconds / n)] * n
    return {
        "engine": "specdec", "strategy": label, "rollback": "auto", "workload": f"w{prompt % 2}", "prompt": f"p{prompt}",
        "turn": 0, "repeat": 0, "launch": 0, "warmup": False, "status": "ok", "error": None, "n_prompt": 100,
        "token_ids": list(range(_TOKENS)), "text": "", "stop": "length", "cut": 0, "n_redecoded": 0,
        "steps": {
            "drafted": [_DRAFTS * (label != BASELINE)] * n, "accepted": accepted, "wall_us": took, "verify_us": took,
            "rollback": [""] * n, "note": [None] * n,
        },
        "generation_s": seconds, "end_to_end_s": seconds + 1, "ttft_s": 1.0,
        "memory": [] if label == BASELINE else [{"device": "GPU", "kind": "snapshots", "bytes": 1 << 28}],
        "phase_s": dict.fromkeys(PHASES, 0.0) | {"verify": seconds},
    }  # fmt: skip
