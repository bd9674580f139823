"""Runs the cells of a comparison in order, stores each generation, goes on where an interrupted run stopped.

Order: workload by workload, prompt by prompt; within a prompt the arms rotate from prompt to prompt, so that slow drift
of the machine (heat, other load) meets all of them alike. Warm-ups are stored and marked.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from specdec.demo import model_path
from specdec.engine import Arm, Engine
from specdec.environment import describe_machine, describe_model
from specdec.errors import SpecdecError
from specdec.llama.gguf import read_header
from specdec.registry import Defaults, Planned, Registry
from specdec.spec import RunSpec
from specdec.store import Run, RunWriter, Sample, create, reopen
from specdec.types import Generation, Limits, Prompt
from specdec.workloads import load_prompts, prompts_hash, select

WARMUP_TOKENS = 16

CellKey = tuple[str, str, str, int, bool]
"""Strategy label, rollback, prompt id, repeat, warm-up."""


class Observer(Protocol):
    """Told how the run goes; prints, or does not."""

    def announce(self, line: str) -> None:
        """Something worth a line (a load, a warning)."""

    def start(self, total: int, done: int) -> None:
        """The run has ``total`` cells, ``done`` of which are stored already."""

    def cell(self, arm: Arm, prompt: Prompt, samples: list[Sample]) -> None:
        """One cell is stored."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One prompt under one arm, once."""

    arm: Arm
    prompt: Prompt
    repeat: int
    warmup: bool = False

    @property
    def key(self) -> CellKey:
        """Names the cell across processes."""
        return (*self.arm.key, self.prompt.id, self.repeat, self.warmup)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, with the model loaded."""

    engine: Engine
    prompts: list[Prompt]
    lengths: dict[str, int]
    cells: list[Cell]


def prepare(spec: RunSpec, observer: Observer) -> Plan:
    """Check everything that can be checked, load the model, lay out the cells."""
    defaults: Defaults = {"draft": {"model": spec.draft}, "mtp": {"model": spec.mtp_model}}
    planned = Registry(spec.strategy_files).plan(spec.strategies, defaults)
    for option, name in (("--draft", "draft"), ("--mtp-model", "mtp")):
        if defaults[name]["model"] not in ("", "demo-draft") and not any(name in p.label for p in planned):
            observer.announce(f"warning: {option} is not used: no strategy is {name}")
    prompts = select(load_prompts(spec.prompt_files), spec.workloads, spec.limit)
    engine = Engine(spec, planned, observer.announce)
    try:
        lengths = engine.fit(prompts)
    except SpecdecError:
        engine.close()
        raise
    return Plan(engine, prompts, lengths, list(order(engine.arms, prompts, spec.repeats, spec.warmup)))


def order(arms: list[Arm], prompts: list[Prompt], repeats: int, warmup: int) -> Iterator[Cell]:
    """All cells in the order in which they run."""
    for i in range(min(warmup, len(prompts))):
        yield from (Cell(arm, prompts[i], 0, warmup=True) for arm in arms)
    for i, prompt in enumerate(prompts):
        for repeat in range(repeats):
            turn = (i + repeat) % len(arms)
            yield from (Cell(arm, prompt, repeat) for arm in arms[turn:] + arms[:turn])


def compare(spec: RunSpec, results: Path, observer: Observer) -> Path:
    """Run a comparison from the start; returns the run's folder."""
    plan = prepare(spec, observer)
    with create(results, _meta(spec, plan)) as writer:
        observer.announce(f"Writing {writer.folder}")
        return _work(spec, plan, writer, set(), observer)


def resume(run: Run, observer: Observer) -> Path:
    """Finish an interrupted run, in the same order, with the same prompts and seed."""
    if run.finished:
        raise SpecdecError(f"{run.folder} is finished.", f"Read it with: specdec report {run.folder}")
    spec = RunSpec.model_validate(run.meta["spec"])
    plan = prepare(spec, observer)
    meta = _meta(spec, plan)
    for what in _IDENTITY:
        if _identity(meta, what) != _identity(run.meta, what):
            plan.engine.close()
            raise SpecdecError(f"{run.folder}: the {what} changed since it was started.", "Start a new run.")
    with reopen(run) as writer:
        return _work(spec, plan, writer, _done(run, plan), observer)


def _done(run: Run, plan: Plan) -> set[CellKey]:
    """Cells that need not run again: all turns are there, or one failed. A conversation that was cut off runs again
    from its first turn; its turns then stand twice in the file, and the reader takes the later ones."""
    turns = {c.key: 1 if c.warmup else c.prompt.turns for c in plan.cells}
    seen: Counter[CellKey] = Counter()
    for s in run.samples:
        key = (s["strategy"], s["rollback"], s["prompt"], s["repeat"], s["warmup"])
        seen[key] += 1 if s["status"] == "ok" else turns.get(key, 1)
    return {key for key, n in seen.items() if n >= turns.get(key, 1)}


def estimate_seconds(plan: Plan, spec: RunSpec) -> float:
    """Upper bound of a run's time, from one short generation of the first prompt (plain decoding, no early stops)."""
    plain = next(a for a in plan.engine.arms if a.planned.label == "none")
    shortest = min(plan.prompts, key=lambda p: plan.lengths[p.id])
    _, g = next(iter(plan.engine.answers(plain, shortest, Limits(n_predict=min(8, spec.n_predict), ignore_eos=True))))
    per_prompt_token = g.prefill_s / max(1, g.n_prompt)
    per_token = g.generation_s / max(1, len(g.token_ids) - 1)
    total = 0.0
    for cell in plan.cells:
        tokens = WARMUP_TOKENS if cell.warmup else spec.n_predict * cell.prompt.turns
        total += plan.lengths[cell.prompt.id] * per_prompt_token + tokens * per_token
    return total


def _work(spec: RunSpec, plan: Plan, writer: RunWriter, done: set[CellKey], observer: Observer) -> Path:
    todo = [c for c in plan.cells if c.key not in done]
    observer.start(len(plan.cells), len(plan.cells) - len(todo))
    try:
        for cell in todo:
            samples = []
            for sample in _run_cell(spec, plan.engine, cell):
                writer.append(sample)
                samples.append(sample)
            observer.cell(cell.arm, cell.prompt, samples)
        writer.finish()
    except KeyboardInterrupt:
        observer.announce(f"Interrupted. Finish it with: specdec resume {writer.folder}")
        raise
    finally:
        plan.engine.close()
    return writer.folder


def _run_cell(spec: RunSpec, engine: Engine, cell: Cell) -> Iterator[Sample]:
    """The cell's samples as they are made, one a turn. A failure is a sample too, and does not end the run."""
    limits = dataclasses.replace(spec.limits, n_predict=min(WARMUP_TOKENS, spec.n_predict)) if cell.warmup else None
    turn = -1
    try:
        for turn, generation in engine.answers(cell.arm, cell.prompt, limits):
            yield _head(cell, turn) | _body(generation)
            if cell.warmup:
                break
    except Exception as error:  # noqa: BLE001 - a strategy may raise anything; it costs its cell, not the run
        engine.discard(cell.arm)
        what = error.what if isinstance(error, SpecdecError) else f"{type(error).__name__}: {error}"
        where = traceback.format_exception(error)[-3:] if not isinstance(error, SpecdecError) else []
        yield _head(cell, turn + 1) | {"status": "error", "error": what, "traceback": "".join(where)}


def _head(cell: Cell, turn: int) -> Sample:
    return {
        "strategy": cell.arm.planned.label,
        "rollback": cell.arm.rollback,
        "workload": cell.prompt.workload,
        "prompt": cell.prompt.id,
        "turn": turn,
        "repeat": cell.repeat,
        "warmup": cell.warmup,
        "at": perf_counter(),
    }


def _body(g: Generation) -> Sample:
    return {"status": "ok", "error": None, **dataclasses.asdict(g)}


def _meta(spec: RunSpec, plan: Plan) -> dict[str, Any]:
    """What run.json says before anything has run."""
    engine, machine = plan.engine, describe_machine()
    return {
        "kind": "compare",
        "spec": spec.model_dump(mode="json"),
        "given": spec.model_dump(mode="json", exclude_defaults=True),
        "labels": {
            "engine": "specdec",
            "label": "real",
            "card": engine.card,
            "arm": "same split",
            "sampling": engine.sampling.label,
            "thinking": spec.thinking,
            "ignore_eos": spec.ignore_eos,
            "carry_state": spec.carry_state,
        },
        "strategies": [_describe(p) for p in dict.fromkeys(a.planned for a in engine.arms)],
        "arms": [{"strategy": a.planned.label, "rollback": a.rollback, "snapshots": a.snapshots} for a in engine.arms],
        "prompts_sha256": prompts_hash(plan.prompts),
        "prompts": [
            {"id": p.id, "workload": p.workload, "length": p.length, "turns": p.turns, "tokens": plan.lengths[p.id]}
            for p in plan.prompts
        ],
        "model": describe_model(engine.model.header) | {"description": engine.model.description},
        "context": engine.settings(),
        "environment": machine,
        "cells": len(plan.cells),
    }


def _describe(planned: Planned) -> dict[str, Any]:
    model = dict(planned.call.options).get("model")
    return {
        "model": describe_model(read_header(model_path(str(model)))) if model else None,
        "nested": [_describe(child) for child in planned.children],
        "label": planned.label,
        "name": planned.found.cls.name,
        "options": planned.resolved,
        "origin": planned.found.origin.split(" (")[0],
        "file_sha256": planned.found.file_sha256,
    }


_IDENTITY = ("prompts", "strategies", "model file", "machine")


def _identity(meta: dict[str, Any], what: str) -> Any:
    """What must not change between start and resume; of a model its header, not where it lies."""
    machine = meta["environment"]
    return {
        "prompts": meta["prompts_sha256"],
        "strategies": meta["strategies"],
        "model file": meta["model"]["header_sha256"],
        "machine": (machine["cpu"], meta["labels"]["card"], machine["packages"]),
    }[what]
