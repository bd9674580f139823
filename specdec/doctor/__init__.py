"""``specdec doctor``: what works on this machine, and for each fault the command that mends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from specdec.doctor.check import Check
from specdec.models.local import LocalModel, find_models

__all__ = ["Check", "Diagnosis", "diagnose"]


@dataclasses.dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks in the order in which they are shown, and what was found on the way."""

    checks: list[Check]
    models: list[LocalModel]
    build: dict[str, Any]
    gpus: list[dict[str, Any]]

    @property
    def faults(self) -> list[Check]:
        """What must be mended."""
        return [c for c in self.checks if c.state == "fault"]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        models = [dataclasses.asdict(m) | {"path": str(m.path)} for m in self.models]
        checks = [dataclasses.asdict(c) for c in self.checks]
        return {"faults": len(self.faults), "checks": checks, "build": self.build, "gpus": self.gpus, "models": models}


def diagnose(results: Path) -> Diagnosis:
    """Look at everything; about two seconds; loads no model and changes nothing (a file is tried and removed)."""
    from specdec.doctor import build, machine
    from specdec.monitor.nvml import Nvml

    facts = build.facts()
    nvml = Nvml()
    try:
        gpus = [d.describe() for d in nvml.devices]
        reason = nvml.reason
    finally:
        nvml.close()
    models = find_models()
    parts: list[Iterable[Check]] = [
        machine.python(),
        build.llama_cpp(facts),
        build.processor(facts),
        build.gpu(facts, gpus, reason),
        machine.memory(),
        machine.processor(),
        machine.models(models),
        machine.prompts(),
        machine.strategies(),
        machine.folders(results),
        machine.extras(),
        machine.terminal(),
    ]
    return Diagnosis([c for part in parts for c in part], models, facts, gpus)
