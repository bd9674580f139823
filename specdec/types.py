"""Frozen value types that travel between the parts. Units: seconds, bytes, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.errors import BrokenGeneration

TokenArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
Steps = npt.NDArray[np.int32]
"""Counters of a generation's steps, int32 [2, steps]: drafted, accepted."""

PHASES = ("propose", "catch_up", "verify", "sample", "roll_back", "translate", "other")
"""Where the wall time of a step goes; the phases of a generation add up to its generation time."""


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a workload. ``chat`` prompts have messages (several user messages are turns of one conversation),
    ``completion`` prompts have text."""

    id: str
    workload: str
    kind: str
    length: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    notes: str = ""
    licence: str = ""

    @property
    def asks(self) -> tuple[int, ...]:
        """How many messages precede each answer that is to be generated: user messages without a given answer."""
        roles = [m.role for m in self.messages] + [""]
        return tuple(i + 1 for i, role in enumerate(roles[:-1]) if role == "user" and roles[i + 1] != "assistant") or (
            0,
        )

    @property
    def turns(self) -> int:
        """How many answers this prompt asks for."""
        return len(self.asks)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a strategy proposes in one step.

    Args:
        token_ids: the draft tokens in order; may be empty.
        probs: float32 [len(token_ids), n_vocab], the full distribution that each token was *sampled* from; None for
            a deterministic strategy.
        note: free text for the step's record (a cascade writes which of its strategies drafted).
        parents: reserved for trees; refused for now.
        confidence: how sure the drafter was of each token (what its p_min is compared with), where it was asked to
            tell (``Strategy.tell_confidence``).
    """

    token_ids: Sequence[int] = ()
    probs: FloatArray | None = None
    note: str | None = None
    parents: Sequence[int] | None = None
    confidence: Sequence[float] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    def clipped(self, n: int) -> Draft:
        """The first ``n`` tokens of this draft."""
        if len(self.token_ids) <= n:
            return self
        probs = None if self.probs is None else self.probs[:n]
        confidence = None if self.confidence is None else self.confidence[:n]
        return Draft(self.token_ids[:n], probs, self.note, confidence=confidence)


NO_DRAFT = Draft()


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one draft.

    Args:
        start: position of the first token of the target pass (the last token of the context that was proposed on).
        draft: the draft as verified, after clipping.
        accepted: how many of its tokens verification kept, up to the end of the text.
        emitted: the tokens that the step added: the accepted ones and the bonus token, less what a stop cut off.
    """

    start: int
    draft: Draft
    accepted: int
    emitted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MemoryItem:
    """One item of memory: where it lies, what it is, how large."""

    device: str
    kind: str
    bytes: int


@dataclass(frozen=True, slots=True)
class StepLog:
    """Per-step arrays of one generation, all of the same length (one entry a target pass)."""

    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    wall_us: list[int] = field(default_factory=list)
    verify_us: list[int] = field(default_factory=list)
    rollback: list[str] = field(default_factory=list)
    note: list[str | None] = field(default_factory=list)
    experts: list[list[int]] | None = None
    """Where they were counted: distinct experts of each layer in each target pass."""

    def __len__(self) -> int:
        return len(self.drafted)

    def add(self, step: Step, way: str, wall_s: float, verify_s: float) -> None:
        """One step more; ``way`` is how its rejected tokens were undone (``specdec.rollback.Way``)."""
        self.drafted.append(len(step.draft.token_ids))
        self.accepted.append(step.accepted)
        self.wall_us.append(round(wall_s * 1e6))
        self.verify_us.append(round(verify_s * 1e6))
        self.rollback.append(way)
        self.note.append(None if step.draft.note is None else str(step.draft.note))


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer of the target and everything that was counted and timed on the way.

    Identity: ``len(token_ids) == 1 + sum(accepted + 1 over steps) - cut``.

    Args:
        n_prompt: tokens of the prompt; n_reused of them were still in memory from the previous turn.
        stop: ``end-of-text``, ``stop-string`` or ``length``.
        cut: 1 where the last step's bonus token fell away because a draft token ended the text, else 0.
        prefill_s: time of the prompt's decode; ttft_s: from the request to the first token.
        generation_s: from the end of the prefill to the last token; end_to_end_s: everything.
        phase_s: seconds by phase (PHASES), adding up to generation_s.
        first_end_of_text: with ``ignore_eos``, the index in token_ids at which the model wanted to stop first.
    """

    n_prompt: int
    token_ids: list[int]
    text: str
    stop: str
    cut: int
    steps: StepLog
    prefill_s: float
    ttft_s: float
    generation_s: float
    end_to_end_s: float
    phase_s: dict[str, float]
    n_reused: int = 0
    n_redecoded: int = 0
    first_end_of_text: int | None = None
    memory: tuple[MemoryItem, ...] = ()

    def check_identity(self) -> None:
        """Raise ``BrokenGeneration`` where the counters contradict each other."""
        log = self.steps
        made = 1 + sum(a + 1 for a in log.accepted) - self.cut
        if len(self.token_ids) != made:
            raise BrokenGeneration(f"{len(self.token_ids)} tokens were emitted, the steps account for {made}.")
        if any(not 0 <= a <= d for a, d in zip(log.accepted, log.drafted, strict=True)):
            raise BrokenGeneration("a step accepted more tokens than it drafted.")
        booked = sum(self.phase_s.values())
        if abs(booked - self.generation_s) > 1e-3 + 0.001 * self.generation_s:
            raise BrokenGeneration(
                f"the phases add up to {booked:.6f} s, the generation took {self.generation_s:.6f} s."
            )


@dataclass(frozen=True, slots=True)
class ServedGeneration:
    """One answer of a server, with what a server tells. Fields named as in ``Generation`` mean the same; None is what it
    does not tell.

    Args:
        prefill_s, ttft_s, generation_s: by the server's own clock; end_to_end_s: by ours, request and answer included.
        drafted, accepted: totals of the generation. Tokens of the last draft that a stop cut off count as accepted.
        target_passes: steps; n_drafting of them verified a draft.
    """

    n_prompt: int
    n_reused: int
    token_ids: list[int]
    text: str
    stop: str
    prefill_s: float
    ttft_s: float
    generation_s: float
    end_to_end_s: float
    drafted: int
    accepted: int
    target_passes: int | None
    n_drafting: int | None
    cut: int | None
    steps: None = None
    phase_s: None = None
    n_redecoded: None = None
    first_end_of_text: None = None
    memory: None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target's tokens are chosen. ``temperature`` 0 is greedy; a filter at its neutral value is off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature <= 0.0

    @property
    def label(self) -> str:
        """Short form for run labels."""
        if self.greedy:
            return "greedy"
        parts = [f"temp={self.temperature:g}"]
        parts += [f"top_k={self.top_k}"] if self.top_k > 0 else []
        parts += [f"top_p={self.top_p:g}"] if self.top_p < 1.0 else []
        parts += [f"min_p={self.min_p:g}"] if self.min_p > 0.0 else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a generation ends: after ``n_predict`` tokens, at end-of-text (unless ignored), at a stop string."""

    n_predict: int = 256
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()


Row = dict[str, Any]
"""One row of a table: a strategy on a workload."""
