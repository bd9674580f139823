"""What recordings from the target and from stored runs have in common: a trace's header and its turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np

from specdec import __version__
from specdec.replay.trace import Turn
from specdec.types import Generation, Prompt
from specdec.workloads import prompts_hash


def make_header(prompts: list[Prompt], lengths: Mapping[str, int], **facts: Any) -> dict[str, Any]:
    """A trace's header (docs/trace.md): when and by what it was made, its prompts, and ``facts`` as they are."""
    return {
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "specdec": __version__,
        "prompts": [
            {"id": p.id, "workload": p.workload, "length": p.length, "turns": p.turns, "tokens": lengths[p.id]}
            for p in prompts
        ],
        "prompts_sha256": prompts_hash(prompts),
        "top_k": 0,
        "drafters": {},
        **facts,
    }


def make_turn(prompt: Prompt, number: int, prompt_ids: list[int], generation: Generation | Mapping[str, Any]) -> Turn:
    """A turn from a generation, or from one that a run stored."""
    of = dataclasses.asdict(generation) if isinstance(generation, Generation) else generation
    ids = np.array([*prompt_ids, *of["token_ids"]], np.int32)
    ids.flags.writeable = False
    return Turn(
        prompt=prompt.id,
        workload=prompt.workload,
        index=number,
        ids=ids,
        n_prompt=len(prompt_ids),
        stop=of["stop"],
        n_reused=of["n_reused"],
        first_end_of_text=of["first_end_of_text"],
        prefill_s=of["prefill_s"],
        generation_s=of["generation_s"],
    )
