"""A strategy that needs a model, beside a recorded text: its work is done and timed, its drafts come from elsewhere.

On a model with random weights an MTP layer or a draft model proposes noise, at the cost of the real thing. So the strategy
drafts as ever and is paid for, and what is verified in place of its draft comes from

* the recording, where it holds the strategy's proposals: bursts of hits and misses as they were; or
* given rates: the recorded text's next tokens as far as a draw accepts them, then a wrong one.

The strategy does not know: it is told as many accepted tokens as there were, takes them for its own, and keeps of its
memory what it would have kept. Either way the text stays the recorded one. One thing it pays too much for: in a
conversation a draft model compares the next prompt with what it took for the text, and reads more of it anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from specdec.errors import SpecdecError
from specdec.forced.rates import Rates
from specdec.forced.trace import RecordedText
from specdec.replay.recorded import Recorded, Tape, recorded
from specdec.replay.trace import Trace
from specdec.strategy import Services, Strategy
from specdec.syntax import Call, Value
from specdec.types import NO_DRAFT, Draft, FloatArray, MemoryItem, Step, TokenArray

if TYPE_CHECKING:
    from specdec.llama.gguf import Header
    from specdec.registry import Planned
    from specdec.spec import ModelOptions

_HOW_IT_RUNS = {"model", "gpu_layers", "threads", "feed", "cache_type_k", "cache_type_v", "ubatch_size"}
"""Options that say what the strategy costs, not what was proposed: they may differ from the recording's."""


@dataclass(slots=True)
class Said(Tape):
    """What is being said: the turn, its text, and with rates the draws. Shared by the target and all strategies."""

    text: RecordedText = field(default_factory=RecordedText)
    rates: Rates | None = None


class Drafts(Protocol):
    """Where the drafts come from that are verified."""

    def begin(self, prompt_ids: TokenArray) -> None:
        """A new generation."""

    def passes(self, context: TokenArray, most: int) -> int:
        """How many tokens the strategy has to draft for a draft of up to ``most`` after ``context``."""

    def draft(self, context: TokenArray, own: Sequence[int], most: int) -> Sequence[int]:
        """The draft, in place of the strategy's ``own``."""


class ByRates:
    """As many tokens as the strategy drafted; the recorded text's own as far as the draw accepts them."""

    def __init__(self, said: Said) -> None:
        self._said = said

    def begin(self, prompt_ids: TokenArray) -> None:
        """Nothing to do: luck belongs to positions."""

    def passes(self, context: TokenArray, most: int) -> int:
        return most

    def draft(self, context: TokenArray, own: Sequence[int], most: int) -> Sequence[int]:
        assert self._said.rates is not None, "the engine draws for each turn"
        at, n = len(context), len(own)
        text: list[int] = self._said.text.ids[at : at + n].tolist()
        accepted = min(self._said.rates.accepted(at, n), len(text))
        rest = list(own[accepted:])
        if rest and accepted < len(text) and rest[0] == text[accepted]:  # by chance: it must differ
            rest[0] = 0 if rest[0] else 1
        return text[:accepted] + rest


class ByRecording:
    """The recorded proposals, cut by n_max, n_min and p_min; where p_min cut one, its pass was made too."""

    def __init__(self, player: Recorded) -> None:
        self._player = player

    def begin(self, prompt_ids: TokenArray) -> None:
        self._player.begin(prompt_ids)

    def passes(self, context: TokenArray, most: int) -> int:
        return self._player.passes(context, most)

    def draft(self, context: TokenArray, own: Sequence[int], most: int) -> Sequence[int]:
        return self._player.propose(context, most).token_ids


class Guided(Strategy):
    """``own`` works, ``drafts`` says what is verified."""

    name = "guided"

    def __init__(self, own: Strategy, drafts: Drafts) -> None:
        super().__init__(own.options)
        self._own, self._drafts = own, drafts
        self.needs = own.needs
        self._told: Sequence[int] = ()

    @property
    def longest_draft(self) -> int:
        return self._own.longest_draft

    @property
    def translate_s(self) -> float:  # type: ignore[override]
        """The strategy's."""
        return self._own.translate_s

    def check(self, target: Header) -> None:
        self._own.check(target)

    def open(self, services: Services) -> None:
        self._own.open(services)

    def begin(self, prompt_ids: TokenArray) -> None:
        self._own.begin(prompt_ids)
        self._drafts.begin(prompt_ids)

    def process(self, ids: TokenArray, start: int, hidden: FloatArray) -> None:
        self._own.process(ids, start, hidden)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        most = min(max_tokens, self.longest_draft)
        own = self._own.propose(context, self._drafts.passes(context, most)).clipped(most)
        if own.probs is not None:
            raise SpecdecError(f"{self._own.name}: its drafts are sampled: no recording says how they fare.")
        said = self._drafts.draft(context, own.token_ids, most)
        self._told = own.token_ids[: len(said)]
        return Draft(said, note=own.note) if said else NO_DRAFT

    def accept(self, step: Step) -> None:
        told = Draft(self._told[: len(step.draft)])
        self._own.accept(replace(step, draft=told, accepted=min(step.accepted, len(told))))
        self._told = ()

    def end(self) -> None:
        self._own.end()

    def reset(self) -> None:
        self._own.reset()

    def close(self) -> None:
        self._own.close()

    def expected_memory(self, target: Header, options: ModelOptions, n_ctx: int) -> list[MemoryItem]:
        return self._own.expected_memory(target, options, n_ctx)

    def memory(self) -> list[MemoryItem]:
        return self._own.memory()


def guide(planned: Planned, trace: Trace, rates: tuple[float, ...], said: Said) -> Strategy:
    """``planned`` (not one made of others) as it runs beside a trace: as it is, or ``Guided`` where it needs a model."""
    own = planned.build()
    if not own.needs:
        return own
    options: dict[str, Any] = planned.resolved
    name, p_min = planned.found.cls.name, float(options.get("p_min", 0.0))
    if rates:
        if p_min > 0.0:
            raise SpecdecError(f"{planned.label}: given rates tell no confidence.", "Leave p_min out.")
        return Guided(own, ByRates(said))
    if name not in trace.drafters:
        raise SpecdecError(
            f"{planned.label}: the trace holds no proposals of {name}.",
            f"Record them (specdec record --drafts {name}), or give rates: --synthetic 0.88,0.72.",
        )
    kept = {k: v for k, v in planned.call.options if k not in _HOW_IT_RUNS}
    player = recorded(replace(planned, call=Call(name, (), tuple(kept.items()))), trace, said)
    return Guided(_unstopped(planned, p_min), ByRecording(player))


def _unstopped(planned: Planned, p_min: float) -> Strategy:
    """The strategy, drafting as many tokens as it is asked for; looking at its confidence where ``p_min`` would."""
    free: dict[str, Value] = {k: 0 for k in ("p_min", "n_min") if k in planned.resolved}
    options = dict(planned.call.options) | free
    own = replace(planned, call=Call(planned.call.name, (), tuple(options.items()))).build()
    own.tell_confidence = p_min > 0.0
    return own
