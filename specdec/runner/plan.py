"""Lay out a run: check what can be checked, start the worker process that holds the model, list the cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from specdec.arms import Arm
from specdec.environment import describe_machine, describe_model, describe_strategy
from specdec.forced.teacher import Teacher, teacher_of
from specdec.llama.gguf import Header
from specdec.runner.cap import describe_cap
from specdec.runner.checks import check_headers, plan_strategies, unused_options
from specdec.runner.limits import free_memory, room_for_another
from specdec.runner.order import Cell, order
from specdec.runner.supervise import Supervisor
from specdec.runner.workers import Facts, Job
from specdec.spec import RunSpec
from specdec.store import Sample
from specdec.types import Prompt
from specdec.workloads import load_prompts, prompts_hash, select


class Observer(Protocol):
    """Told how the run goes; prints, or does not."""

    def announce(self, line: str) -> None:
        """Something worth a line (a load, a warning)."""

    def start(self, total: int, done: int, pauses_s: float = 0.0) -> None:
        """Work begins, or goes on after a pause: of ``total`` cells ``done`` are stored, and pauses of ``pauses_s``
        seconds together lie between the others."""

    def cell(self, arm: Arm, prompt: Prompt, samples: list[Sample]) -> None:
        """One cell is stored."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do. ``supervisor`` holds the worker process, with the model loaded: whoever has it closes it."""

    spec: RunSpec
    header: Header
    prompts: list[Prompt]
    facts: dict[str, Facts]
    arms: list[Arm]
    cells: list[Cell]
    supervisor: Supervisor
    teacher: Teacher | None = None

    @property
    def first(self) -> Facts:
        """What the first engine said."""
        return self.facts[self.spec.engines[0]]

    @property
    def lengths(self) -> dict[str, int]:
        """The prompts' lengths in tokens, by id."""
        return self.first.lengths


def prepare(spec: RunSpec, observer: Observer) -> Plan:
    """Check everything that can be checked, load the model in a worker process, lay out the cells."""
    spec, teacher = teacher_of(spec)
    planned = plan_strategies(spec)
    for line in unused_options(spec, planned):
        observer.announce(f"warning: {line}")
    prompts = select(teacher.prompts if teacher else load_prompts(spec.prompt_files), spec.workloads, spec.limit)
    header = check_headers(spec, planned, teacher)
    supervisor = Supervisor(Job(spec, planned, prompts, header.file_bytes), observer.announce)
    try:
        facts: dict[str, Facts] = {}
        for engine in reversed(spec.engines):  # the first stays loaded
            before = free_memory()
            facts[engine] = supervisor.use(engine)
            if len(facts) < len(spec.engines):
                supervisor.together = room_for_another(before, free_memory())
    except BaseException:
        supervisor.kill()
        raise
    arms = [arm for engine in spec.engines for arm in facts[engine].arms]
    cells = list(order(arms, prompts, spec.repeats, spec.warmup, spec.launches, supervisor.together))
    return Plan(spec, header, prompts, facts, arms, cells, supervisor, teacher)


def describe(plan: Plan) -> dict[str, Any]:
    """What run.json says before anything has run."""
    spec, first = plan.spec, plan.first
    return {
        "kind": "compare",
        "spec": spec.model_dump(mode="json"),
        "given": spec.model_dump(mode="json", exclude_defaults=True),
        "labels": {
            "engine": " + ".join(spec.engines),
            "label": "trace" if plan.teacher else "synthetic" if spec.synthetic else "real",
            "card": first.card,
            "arm": spec.arm,
            "sampling": first.sampling,
            "thinking": spec.thinking,
            "ignore_eos": spec.ignore_eos,
            "carry_state": spec.carry_state,
        },
        "strategies": [describe_strategy(p) for p in dict.fromkeys(a.planned for a in plan.arms)],
        "arms": [_arm(plan, a) for a in plan.arms],
        **({"teacher": plan.teacher.facts()} if plan.teacher else {}),
        "memory": [
            {"engine": a.engine, "strategy": a.planned.label, "rollback": a.rollback, "items": items}
            for facts in (plan.facts[engine] for engine in spec.engines)
            for a, items in zip(facts.arms, facts.memory, strict=True)
        ],
        "group": spec.group or None,
        "cap": describe_cap(spec, plan.header),
        "prompts_sha256": prompts_hash(plan.prompts),
        "prompts": [
            {"id": p.id, "workload": p.workload, "length": p.length, "turns": p.turns, "tokens": plan.lengths[p.id]}
            for p in plan.prompts
        ],
        "model": describe_model(plan.header) | {"description": first.description},
        "context": first.settings,
        "engines": {name: facts.settings | {"card": facts.card} for name, facts in plan.facts.items()},
        "limits": {"cell_timeout_s": spec.cell_timeout or "automatic", "ram_bytes": plan.supervisor.ram_limit},
        "environment": describe_machine(),
        "cells": len(plan.cells),
    }


def _arm(plan: Plan, arm: Arm) -> dict[str, Any]:
    """An arm as run.json names it; with a trace, each says what decides about its drafts."""
    own = {"label": plan.teacher.label(arm.planned)} if plan.teacher else {}
    named = {"engine": arm.engine, "strategy": arm.planned.label, "rollback": arm.rollback}
    return {**named, "snapshots": arm.snapshots, **own}


_IDENTITY = (
    "prompts", "recording", "strategies", "model file", "machine", "value of a GGML_* variable",
    "number of snapshots that fit into memory",
)  # fmt: skip


def what_changed(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What must not differ between start and resume, and does; of a model its header counts, not where it lies."""
    return next((what for what in _IDENTITY if _identity(before, what) != _identity(now, what)), None)


def _identity(meta: dict[str, Any], what: str) -> Any:
    machine = meta["environment"]
    return {
        "prompts": meta["prompts_sha256"],
        "recording": (meta.get("teacher") or {}).get("sha256"),
        "strategies": meta["strategies"],
        "model file": meta["model"]["header_sha256"],
        "machine": (machine["cpu"], meta["labels"]["card"], machine["packages"]),
        "value of a GGML_* variable": machine.get("ggml_variables"),
        "number of snapshots that fit into memory": meta["arms"],
    }[what]
