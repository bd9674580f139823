"""What is compared: an engine, a strategy, a way of rolling back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from specdec.registry import Planned
from specdec.rollback import Mode

ArmKey = tuple[str, str, str]
"""Engine, strategy label, rollback: what rows and samples are grouped by."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One thing that is compared: a strategy with a way of rolling back, on an engine."""

    planned: Planned
    rollback: Mode
    longest_draft: int
    snapshots: int
    hidden: bool = False
    engine: str = "specdec"

    @property
    def key(self) -> ArmKey:
        """What rows and samples are grouped by."""
        return self.engine, self.planned.label, self.rollback


Attempt = Callable[[Arm, Callable[[], object]], None]
"""Does something that an arm needs, or deals with its failure."""


def do(arm: Arm, action: Callable[[], object]) -> None:
    """Just do it: whatever fails is raised."""
    action()
