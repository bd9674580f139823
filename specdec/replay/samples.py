"""From replayed steps to what a run stores: samples in the shape of a live run's, and counts for large grids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.replay.trace import Trace, Turn
from specdec.replay.worker import TurnResult
from specdec.store import Sample
from specdec.types import PHASES, Generation, StepLog, Steps

Floats = npt.NDArray[np.float64]


def samples(label: str, results: Iterable[TurnResult], trace: Trace) -> Iterator[Sample]:
    """One sample a turn. Times are predicted, or null where there are no costs; a trace holds no text."""
    for r in results:
        turn = trace.turns[r.turn]
        if r.replayed is None:
            yield _head(label, turn) | {"status": "error", "error": r.error, "traceback": r.traceback}
            continue
        notes = r.replayed.notes or [None] * r.replayed.steps.shape[1]
        body = _body(turn, r.replayed.steps, r.replayed.n_output, r.phases) | {
            "stop": r.replayed.stop,
            "cut": r.replayed.cut,
            "memory": r.memory,
        }
        body["steps"]["note"] = notes
        yield _head(label, turn) | body


def samples_of_counts(label: str, counts: list[list[Any]], trace: Trace) -> Iterator[Sample]:
    """The same from counts: steps in no particular order, which no figure of a row depends on."""
    for number, n_output, pairs, seconds in counts:
        turn = trace.turns[number]
        if isinstance(pairs, str):
            yield _head(label, turn) | {"status": "error", "error": pairs, "traceback": ""}
            continue
        table = np.array(pairs, np.int32).reshape(-1, 3)
        steps = np.repeat(table[:, :2], table[:, 2], axis=0).T
        body = _body(turn, steps, n_output, None)
        if seconds is not None:
            body |= {"generation_s": sum(seconds.values()), "phase_s": _all_phases(seconds)}
        yield _head(label, turn) | body


def _head(label: str, turn: Turn) -> Sample:
    return {
        "engine": "specdec",
        "strategy": label,
        "rollback": "auto",
        "workload": turn.workload,
        "prompt": turn.prompt,
        "turn": turn.index,
        "repeat": 0,
        "launch": 0,
        "warmup": False,
        "at": None,
    }


def _body(turn: Turn, steps: Steps, n_output: int, phases: dict[str, Floats] | None) -> Sample:
    n = steps.shape[1]
    step_s = None if phases is None else np.sum(list(phases.values()), axis=0)
    unknown: list[None] = [None] * n
    log = StepLog(
        drafted=steps[0].tolist(),
        accepted=steps[1].tolist(),
        wall_us=unknown if step_s is None else np.rint(1e6 * step_s).astype(int).tolist(),  # type: ignore[arg-type]
        verify_us=unknown if phases is None else np.rint(1e6 * phases["verify"]).astype(int).tolist(),  # type: ignore[arg-type]
        rollback=[""] * n,
        note=[None] * n,
    )
    total = None if step_s is None else float(step_s.sum())
    end = turn.first_end_of_text
    generation = Generation(
        n_prompt=turn.n_prompt,
        token_ids=turn.ids[turn.n_prompt : turn.n_prompt + n_output].tolist(),
        text="",
        stop=turn.stop,
        cut=int(1 + steps[1].sum() + n - n_output),
        steps=log,
        prefill_s=None,  # type: ignore[arg-type]
        ttft_s=None,  # type: ignore[arg-type]
        generation_s=total,  # type: ignore[arg-type]
        end_to_end_s=None,  # type: ignore[arg-type]
        phase_s=None if phases is None else _all_phases({p: float(np.sum(s)) for p, s in phases.items()}),  # type: ignore[arg-type]
        n_reused=turn.n_reused,
        first_end_of_text=end if end is None or end < n_output else None,
    )
    return {"status": "ok", "error": None, **dataclasses.asdict(generation)}


def _all_phases(seconds: dict[str, float]) -> dict[str, float]:
    return {phase: seconds.get(phase, 0.0) for phase in PHASES}
