"""Runs blocks of steps at a fixed depth: what one way of drafting costs, step by step and phase by phase.

A block begins at the same depth each time: the memory is put back to the prompt's state (a cut where there is attention
only, a saved state where layers are recurrent), outside everything that is timed. Within a block the text grows by what
the script keeps, as it does in a generation.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from specdec.clock import Clock
from specdec.decode import Decoder
from specdec.forced.target import ForcedTarget
from specdec.profile.stage import Outcome, Script, Scripted
from specdec.rollback import Mode
from specdec.target import Target
from specdec.types import PHASES, Limits, Sampling, Step, TokenArray

ANCHOR = 1
"""The slot of the saved state at the measured depth; slot 0 is the loop's own."""

_WALK = 32


@dataclass(frozen=True, slots=True)
class Want:
    """One step to run: its draft's length, how much of it is kept, and whether it is counted.

    ``fresh`` marks where the block may go back to its depth first: the steps from there need nothing of those before.
    """

    length: int
    accepted: int
    counted: bool = True
    fresh: bool = False


@dataclass(slots=True)
class Block:
    """What the steps of one block took. Arrays of one length; ``phase_us`` by phase, microseconds."""

    start: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    counted: list[bool] = field(default_factory=list)
    phase_us: dict[str, list[float]] = field(default_factory=lambda: {p: [] for p in PHASES})

    def add(self, step: Step, counted: bool, spent: dict[str, float]) -> None:
        """One step's counts and times."""
        self.start.append(step.start)
        self.drafted.append(len(step.draft))
        self.accepted.append(step.accepted)
        self.counted.append(counted)
        for phase in PHASES:
            self.phase_us[phase].append(round(spent[phase] * 1e6, 2))

    def as_dict(self) -> dict[str, Any]:
        """For a stored line."""
        names = ("start", "drafted", "accepted", "counted", "phase_us")
        return {name: getattr(self, name) for name in names}


class Bench:
    """One strategy on one context.

    Args:
        target: its memory is this bench's to fill and cut.
        strategy: opened; drafts from ``text`` or with its inner strategy.
        script: shared with ``strategy``.
        mode: the way of rolling back.
        text: int32 tokens; the measured prompts are its beginnings, so it is longer than the deepest depth.
        sampling: as the runs that are to be predicted.
    """

    def __init__(
        self, target: Target, strategy: Scripted, script: Script, mode: Mode, text: TokenArray, sampling: Sampling
    ) -> None:
        self._target, self._strategy, self._script = target, strategy, script
        self.text, self._sampling = text, sampling
        self._decoder = Decoder(ForcedTarget(target, Outcome(script, strategy.text, target.n_vocab)), strategy, mode)
        self._depth = 0

    def prefill(self, depth: int) -> dict[str, float]:
        """Bring the memory to ``depth`` tokens less one, and keep that state. Seconds: the target's own and the
        strategy's (an MTP layer or a draft model that reads the prompt too)."""
        end = depth - 1
        if self._depth:
            self.rewind()
        start = self._depth - 1 if self._depth else 0
        self._strategy.reset()
        began = perf_counter()
        self._strategy.begin(self.text[:end])
        spent = {"target_s": 0.0, "strategy_s": perf_counter() - began, "tokens": end - start, "start": start}
        while start < end:
            stop = min(end, start + self._target.n_batch)
            began = perf_counter()
            self._target.decode(self.text[start:stop], start, "last")
            decoded = perf_counter()
            if "hidden_states" in self._strategy.needs:
                self._strategy.process(self.text[start:stop], start, self._target.hidden_rows())
            spent["target_s"] += decoded - began
            spent["strategy_s"] += perf_counter() - decoded
            start = stop
        self._strategy.end()
        if self._target.memory.recurrent:
            self._target.memory.save(on_device=False, slot=ANCHOR)
        self._depth = depth
        return spent

    def run(self, wants: list[Want], walk: int | None = None) -> Block:
        """Run the steps in their order; where they may, go back to the depth after more than ``walk`` tokens."""
        block, clock = Block(), Clock()
        stream, walked = self._open(clock, wants), 0
        limit = max(_WALK, self._depth // 16) if walk is None else walk
        for i, want in enumerate(wants):
            if want.fresh and walked > limit:
                self._close(stream)
                stream, walked = self._open(clock, wants[i:]), 0
            self._script.length, self._script.accepted = want.length, want.accepted
            before = dict(clock.seconds) if walked else dict.fromkeys(PHASES, 0.0)
            step = next(stream)
            block.add(step, want.counted, {p: clock.seconds[p] - before[p] for p in PHASES})
            walked += len(step.emitted)
        self._close(stream)
        return block

    def checkpoint_seconds(self, on_device: bool) -> tuple[float, float]:
        """(save, restore) of the recurrent state, at the depth that was reached."""
        self.rewind()
        memory = self._target.memory
        began = perf_counter()
        memory.save(on_device)
        saved = perf_counter()
        memory.restore()
        restored = perf_counter()
        return saved - began, restored - saved

    def state_bytes(self) -> int:
        """Size of a saved recurrent state."""
        return self._target.memory.checkpoint_bytes()

    def rewind(self) -> None:
        """Put the memory back as ``prefill`` left it."""
        memory = self._target.memory
        if memory.recurrent:
            memory.restore(ANCHOR)
        memory.remove_from(self._depth - 1)
        self._decoder.restored(self.text[: self._depth - 1])

    def _open(self, clock: Clock, wants: list[Want]) -> Generator[Step, None, Any]:
        """A generation that begins at the depth, and has room for these steps."""
        self.rewind()
        prompt = self.text[: self._depth]
        room = 2 + sum(w.length + 1 for w in wants) + max(w.length for w in wants)
        limits = Limits(min(room, self._target.n_ctx - len(prompt)), ignore_eos=True)
        stream = self._decoder.stream(prompt, limits, self._sampling, clock)
        next(stream)  # the prompt's decode
        return stream

    def _close(self, stream: Generator[Step, None, Any]) -> None:
        stream.close()
        self._strategy.end()
