"""A trace beside a loaded target: what the engine asks of it, turn by turn."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from specdec.conversation import seeded
from specdec.errors import BrokenGeneration
from specdec.forced.guided import Said, guide
from specdec.forced.rates import Rates
from specdec.forced.target import ForcedTarget
from specdec.forced.trace import new_ids, prompts_of, settled, tokens_of, translated
from specdec.replay.trace import Trace, Turn
from specdec.strategy import Strategy
from specdec.types import Generation, Limits, Message, Prompt, Sampling, TokenArray

if TYPE_CHECKING:
    from specdec.llama.model import LlamaModel
    from specdec.registry import Planned
    from specdec.spec import RunSpec
    from specdec.target import Target


class Teacher:
    """Says what the target is to be asked and what it is to answer.

    Args:
        trace: in its own tokens, until ``teach`` knows the target's.
        rates: at which drafts of strategies that need a model are accepted; empty: as recorded.
        sampling: the run's; its seed is that of the draws.
    """

    def __init__(self, trace: Trace, rates: tuple[float, ...], sampling: Sampling) -> None:
        self._trace, self._rates, self._sampling = trace, rates, sampling
        self._said = Said()

    @property
    def prompts(self) -> list[Prompt]:
        """The recorded prompts."""
        return prompts_of(self._trace)

    def facts(self) -> dict[str, Any]:
        """What run.json says of the recording."""
        header = self._trace.header
        model = {k: header["model"].get(k) for k in ("file", "description", "header_sha256")}
        return {"sha256": header["sha256"], "model": model, "n_vocab": header["n_vocab"], "rates": list(self._rates)}

    def label(self, planned: Planned) -> str:
        """What decides about the drafts of a strategy: ``trace``, or given rates: ``synthetic``."""
        return "synthetic" if self._rates and planned.build(self.single).needs else "trace"

    def check(self, n_vocab: int) -> None:
        """Refuse a target that has too few tokens, before it is loaded; 0 where its header does not tell."""
        if n_vocab:
            new_ids(tokens_of(self._trace), n_vocab)

    def single(self, planned: Planned) -> Strategy:
        """Builds a strategy that is not made of others (``Planned.build``)."""
        return guide(planned, self._trace, self._rates, self._said)

    def teach(self, model: LlamaModel) -> None:
        """From now on in the tokens of this model; raises ``SpecdecError`` where it has too few."""
        self._trace = translated(self._trace, model.n_vocab, model.ordinary)
        self._turns = {(t.prompt, t.index): t for t in self._trace.turns}
        self._ends = frozenset(int(t.ids[-1]) for t in self._trace.turns if t.stop == "end-of-text")

    def target(self, target: Target) -> ForcedTarget:
        """``target``, saying what is recorded."""
        return ForcedTarget(target, self._said.text, self._ends)

    def whole(self, prompt: Prompt, history: tuple[Message, ...]) -> TokenArray:
        """The prompt's tokens with all its turns but the last answer, whatever the ``history``."""
        return _asked(self._turns[prompt.id, prompt.turns - 1])

    def begin(self, prompt: Prompt, number: int, n_ctx: int) -> TokenArray:
        """This turn of this prompt is next: its prompt's tokens."""
        turn = self._said.turn = self._turns[prompt.id, number]
        self._said.text.ids = turn.ids
        if self._rates:
            rng = np.random.default_rng(seeded(self._sampling, prompt, number).seed)
            self._said.rates = Rates(self._rates, n_ctx, rng)
        return _asked(turn)

    def limits(self, limits: Limits) -> Limits:
        """Those of the turn: what ended it by chance of its text ends it here by length."""
        turn = self._turn
        n = limits.n_predict if turn.stop == "end-of-text" else min(limits.n_predict, turn.n_output)
        return Limits(n)

    def checked(self, generation: Generation) -> Generation:
        """The generation, if it says what is recorded; with what the recording knows of its end."""
        turn, n = self._turn, len(generation.token_ids)
        if generation.token_ids != turn.ids[turn.n_prompt :][:n].tolist():
            raise BrokenGeneration(f"the answer to {turn.prompt} is not the recorded one.")
        end = turn.first_end_of_text
        return dataclasses.replace(generation, first_end_of_text=None if end is None or end >= n else end)

    @property
    def _turn(self) -> Turn:
        assert self._said.turn is not None, "begin() comes first"
        return self._said.turn


def _asked(turn: Turn) -> TokenArray:
    ids: TokenArray = turn.ids[: turn.n_prompt]
    return ids


def teacher_of(spec: RunSpec) -> tuple[RunSpec, Teacher | None]:
    """The run as its trace allows it, and the teacher; without ``trace`` the run as it is, and None."""
    spec, trace = settled(spec)
    return spec, None if trace is None else Teacher(trace, spec.synthetic, spec.resolve_sampling({}))
