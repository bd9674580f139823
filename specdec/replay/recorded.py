"""Strategies as a replay builds them: as they are, or from recorded proposals where they would need a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specdec.errors import SpecdecError
from specdec.registry import Planned
from specdec.replay.trace import Proposals, Trace, Turn
from specdec.strategy import Strategy, StrategyOptions
from specdec.types import NO_DRAFT, Draft, TokenArray

_CHOSEN_OFFLINE = ("n_max", "n_min", "p_min")
"""Options that a recording leaves open; all others must be those of the recording."""


@dataclass(slots=True)
class Tape:
    """Which turn is being replayed: shared by the recorded strategies of one instance."""

    turn: Turn | None = None


class Recorded(Strategy):
    """A drafter played back: its recorded proposals, cut by n_max, n_min and p_min as the drafter itself cuts them."""

    name = "recorded"
    needs = frozenset({"recorded"})
    """Tells a replay that what it would hold live is not known; a combination of strategies passes it on."""

    def __init__(self, name: str, options: StrategyOptions, tape: Tape) -> None:
        super().__init__(options)
        self._name, self._tape = name, tape
        o: Any = options
        self._n_max, self._shortest, self._p_min = int(o.n_max), max(1, int(getattr(o, "n_min", 0))), float(o.p_min)

    def begin(self, prompt_ids: TokenArray) -> None:
        assert self._tape.turn is not None, "the replay names the turn"
        self._first = self._tape.turn.n_prompt + 1
        self._said: Proposals = self._tape.turn.proposals[self._name]

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        row = len(context) - self._first
        n, _ = self._cut(row, max_tokens)
        return Draft(self._said.ids[row, :n].tolist()) if n >= self._shortest else NO_DRAFT

    def passes(self, context: TokenArray, max_tokens: int) -> int:
        """How many tokens the drafter would look at for its proposal: one more than it proposes where p_min stops it."""
        n, unsure = self._cut(len(context) - self._first, max_tokens)
        return max(1, n + unsure)

    def _cut(self, row: int, most: int) -> tuple[int, bool]:
        """(sure tokens of a row, whether p_min cut it)."""
        n = min(self._n_max, most, int(self._said.lengths[row]))
        unsure = self._said.probs[row, :n] < self._p_min  # p_min 0: none, for none was compared
        return (int(unsure.argmax()), True) if unsure.any() else (n, False)


def build(planned: Planned, trace: Trace, tape: Tape) -> Strategy:
    """A new instance of ``planned`` for a replay of ``trace``; refuses what only a live run can tell."""

    def single(one: Planned) -> Strategy:
        if one.found.cls.name in trace.drafters:
            return recorded(one, trace, tape)
        strategy = one.build()
        if strategy.needs:
            raise SpecdecError(
                f"{one.label}: needs the model, and this trace holds no proposals of it.",
                f"Record them (specdec record --drafts {one.found.cls.name}), or compare it live.",
            )
        return strategy

    return planned.build(single)


def recorded(planned: Planned, trace: Trace, tape: Tape) -> Recorded:
    """``planned`` played back; refuses options that its proposals were not recorded with."""
    name = planned.found.cls.name
    depth, was = trace.drafters[name]["depth"], trace.drafters[name]["options"]
    options, given = planned.resolved, dict(planned.call.options)
    for key in given:
        if key not in _CHOSEN_OFFLINE and options[key] != was.get(key):
            raise SpecdecError(
                f"{planned.label}: was recorded with {key}={was.get(key)}.", "Only n_max, n_min and p_min can differ."
            )
    if int(str(options["n_max"])) > depth:
        raise SpecdecError(
            f"{planned.label}: proposals were recorded to a depth of {depth}.", f"Use n_max={depth} or less."
        )
    return Recorded(name, planned.found.cls.Options(**given), tape)
