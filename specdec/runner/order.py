"""What runs when: workload by workload, prompt by prompt, the arms of a prompt in a balanced order.

The orders are the rows of a Williams design (Williams 1949): over as many presentations as there are arms every arm
stands once in every place, so slow drift of the machine (heat, other load) meets all of them alike, and over the whole
design (twice as many rows where the number of arms is odd) each arm follows each other one equally often, so what one
leaves behind in caches and clocks is shared out too. Prompts, repeats and launches go through the rows one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from specdec.arms import Arm
from specdec.types import Prompt

WARMUP_TOKENS = 16

CellKey = tuple[str, str, str, str, int, int, bool]
"""Engine, strategy label, rollback, prompt id, repeat, launch, warm-up."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One prompt under one arm, once."""

    arm: Arm
    prompt: Prompt
    repeat: int
    launch: int = 0
    warmup: bool = False

    @property
    def key(self) -> CellKey:
        """Names the cell across processes."""
        return (*self.arm.key, self.prompt.id, self.repeat, self.launch, self.warmup)


def williams(n: int) -> list[list[int]]:
    """Orders of ``n`` things: n rows where n is even, 2n where it is odd (n rows and their mirror images)."""
    first = [0]
    for k in range(1, n):
        first.append((k + 1) // 2 if k % 2 else n - k // 2)
    rows = [[(place + i) % n for place in first] for i in range(n)]
    return rows + [row[::-1] for row in rows] if n % 2 and n > 1 else rows


def order(arms: list[Arm], prompts: list[Prompt], repeats: int, warmup: int, launches: int = 1) -> Iterator[Cell]:
    """All cells in the order in which they run.

    A launch is the whole grid in fresh worker processes, its warm-ups first. Engines come one after the other within a
    launch (each holds the whole model), in an order that changes from launch to launch. ``repeats`` of a prompt follow
    each other, each with its own order of arms; a prompt's order changes from launch to launch.
    """
    engines = list(dict.fromkeys(a.engine for a in arms))
    for launch in range(launches):
        turn = launch % len(engines)
        for engine in engines[turn:] + engines[:turn]:
            own = [a for a in arms if a.engine == engine]
            for prompt in prompts[:warmup]:
                yield from (Cell(arm, prompt, 0, launch, warmup=True) for arm in own)
            rows = williams(len(own))
            for i, prompt in enumerate(prompts):
                for repeat in range(repeats):
                    row = rows[(i * repeats + repeat + launch) % len(rows)]
                    yield from (Cell(own[k], prompt, repeat, launch) for k in row)
