"""``cascade(a, b, ...)``: the first strategy that proposes something wins; all are told what was accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specdec.strategy import Services, Strategy
from specdec.types import NO_DRAFT, Draft, FloatArray, MemoryItem, Step, TokenArray

if TYPE_CHECKING:
    from specdec.llama.gguf import Header
    from specdec.spec import ModelOptions


class Cascade(Strategy):
    """Ask the strategies in order; verify the first draft that is not empty.

    A step's note is the label of the strategy that drafted. The others are told of the step as one without a draft of
    theirs, as llama.cpp tells them (``is_other``), so their own counters stay their own.
    """

    name = "cascade"
    combines = True

    def combine(self, children: list[tuple[str, Strategy]]) -> None:
        self._children = children
        self._winner: Strategy | None = None
        self.needs = frozenset().union(*(s.needs for _, s in children))

    @property
    def longest_draft(self) -> int:
        return max(s.longest_draft for _, s in self._children)

    def check(self, target: Header) -> None:
        for _, strategy in self._children:
            strategy.check(target)

    def open(self, services: Services) -> None:
        for _, strategy in self._children:
            strategy.open(services)

    def begin(self, prompt_ids: TokenArray) -> None:
        for _, strategy in self._children:
            strategy.begin(prompt_ids)

    def process(self, ids: TokenArray, start: int, hidden: FloatArray) -> None:
        for _, strategy in self._children:
            if "hidden_states" in strategy.needs:
                strategy.process(ids, start, hidden)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        self._winner = None
        for label, strategy in self._children:
            before = strategy.translate_s
            draft = strategy.propose(context, max_tokens).clipped(strategy.longest_draft)
            self.translate_s += strategy.translate_s - before
            if draft:
                self._winner = strategy
                return Draft(draft.token_ids, draft.probs, draft.note or label, draft.parents)
        return NO_DRAFT

    def accept(self, step: Step) -> None:
        for _, strategy in self._children:
            theirs = strategy is self._winner
            strategy.accept(step if theirs else Step(step.start, NO_DRAFT, 0, step.emitted))

    def end(self) -> None:
        for _, strategy in self._children:
            strategy.end()

    def reset(self) -> None:
        for _, strategy in self._children:
            strategy.reset()

    def close(self) -> None:
        for _, strategy in self._children:
            strategy.close()

    def expected_memory(self, target: Header, options: ModelOptions, n_ctx: int) -> list[MemoryItem]:
        return [i for _, strategy in self._children for i in strategy.expected_memory(target, options, n_ctx)]

    def memory(self) -> list[MemoryItem]:
        return [item for _, strategy in self._children for item in strategy.memory()]
