"""The engines that can answer prompts, by name. A worker process builds one; no other process loads a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from specdec.arms import Arm, Attempt, do
from specdec.errors import SpecdecError
from specdec.registry import Planned
from specdec.spec import RunSpec
from specdec.types import Generation, Limits, MemoryItem, Prompt, Sampling, ServedGeneration
from specdec.vram.items import Item

ENGINES = {"specdec": "specdec.engine:Engine", "llama-server": "specdec.server.engine:ServerEngine"}
"""Name to ``module:class``; the class is built with (spec, planned, announce)."""


class AnyEngine(Protocol):
    """What a worker process needs of an engine."""

    arms: list[Arm]
    """What it can run of the strategies that were planned; each arm says this engine's name."""
    sampling: Sampling

    @property
    def card(self) -> str:
        """The GPUs in use, or CPU."""

    @property
    def description(self) -> str:
        """The target, in the engine's words."""

    @property
    def vram_asked(self) -> int:
        """Bytes of VRAM that its weights take; 0 where it cannot tell."""

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that it has started: what they take is not other programs' doing."""

    def allocated(self, arm: Arm) -> list[Item] | None:
        """After ``fit``: what was allocated for this arm, item by item; None where that is not known."""

    def held(self) -> list[MemoryItem] | None:
        """What its processes say they hold now, all arms together; None where they do not tell."""

    def settings(self) -> dict[str, object]:
        """What the context was resolved to: ``n_ctx``, ``threads`` ..."""

    def fit(self, prompts: list[Prompt], attempt: Attempt = do) -> dict[str, int]:
        """Called once, first: choose or check the context length, and open through ``attempt`` what each arm needs, so
        that a failure is put down to its arm. ``attempt`` may leave things undone: then ``ready`` does them. May fix
        ``arms`` (their order and keys stay). Returns the prompts' lengths in tokens, by id."""

    def ready(self, arm: Arm) -> None:
        """Make ready whatever the arm needs, so that a failure shows before its first generation."""

    def answers(
        self, arm: Arm, prompt: Prompt, limits: Limits | None = None
    ) -> Iterator[tuple[int, Generation]] | Iterator[tuple[int, ServedGeneration]]:
        """(turn, generation) for each turn of the prompt, from an empty memory; ``limits`` None: the run's."""

    def keep_logs(self, folder: Path) -> None:
        """Where the logs of processes that it starts are to be kept; told before each cell, always the same folder."""

    def discard(self, arm: Arm) -> None:
        """After a failure: trust nothing that this arm has left."""

    def close(self) -> None:
        """Free everything."""


def make_engine(name: str, spec: RunSpec, planned: list[Planned], announce: Callable[[str], None]) -> AnyEngine:
    """Build the engine of this name, which loads the model; ``announce`` takes a line for each thing worth telling."""
    module, _, cls = _place(name).partition(":")
    return cast(AnyEngine, getattr(import_module(module), cls)(spec, planned, announce))


def check_engines(names: tuple[str, ...]) -> None:
    """Raise ``SpecdecError`` where a name is unknown."""
    for name in names:
        _place(name)


def _place(name: str) -> str:
    if name not in ENGINES:
        raise SpecdecError(f"unknown engine {name!r}.", f"Known: {', '.join(ENGINES)}.")
    return ENGINES[name]
