"""THE loop: propose -> verify -> accept -> roll back, for every strategy and every target.

One step is one target pass over the last token plus the draft. The pass gives the target's choice after each draft
token; the accepted prefix and one bonus token are emitted; what was rejected is undone (rollback.py). The first token
comes from the prefill. Time is booked by phase, and the phases of a generation add up to its generation time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from time import perf_counter

import numpy as np

from specdec.clock import Clock
from specdec.errors import SpecdecError
from specdec.rollback import Mode, Rollback
from specdec.sampling import Chooser
from specdec.strategy import Strategy
from specdec.target import Outputs, Target
from specdec.types import (
    NO_DRAFT,
    Draft,
    FloatArray,
    Generation,
    Limits,
    Sampling,
    Step,
    StepLog,
    TokenArray,
)
from specdec.verify import verify_by_choice, verify_by_rejection


class Decoder:
    """Generates with one strategy on one target, one prompt after the other.

    Args:
        target: its memory is this decoder's to fill and cut.
        strategy: opened already.
        mode: how rejected tokens are undone.
    """

    def __init__(self, target: Target, strategy: Strategy, mode: Mode = "auto") -> None:
        self._target = target
        self._strategy = strategy
        self._longest = strategy.longest_draft
        self._hidden = "hidden_states" in strategy.needs
        self._rollback = Rollback(target.memory, mode, self._redecode)
        self._held = np.empty(0, np.int32)
        self.clear()

    def clear(self) -> None:
        """Forget all tokens: the next prompt is decoded whole."""
        self._target.memory.clear()
        self._rollback.forget()
        self._held = np.empty(0, np.int32)

    def generate(
        self,
        prompt_ids: TokenArray,
        limits: Limits,
        sampling: Sampling,
        told: Callable[[Step], object] = lambda step: None,
    ) -> Generation:
        """One answer, with its counters checked. ``told`` is handed each of ``stream``'s steps as it is done."""
        stream = self.stream(prompt_ids, limits, sampling)
        while True:
            try:
                step = next(stream)
            except StopIteration as done:
                generation: Generation = done.value
                generation.check_identity()
                return generation
            told(step)

    def stream(
        self, prompt_ids: TokenArray, limits: Limits, sampling: Sampling, clock: Clock | None = None
    ) -> Generator[Step, None, Generation]:
        """Generate, yielding the prompt's decode as a step without a draft, whose one token is the first, then each step;
        the generator's return value is the ``Generation``. Time that the caller takes between two steps is not booked.

        ``clock`` is for callers that want the phases of each step: it is started again after the prefill.
        """
        return _Run(self, prompt_ids, limits, sampling, clock).steps()

    def restored(self, held: TokenArray) -> None:
        """The caller has put the target's memory back to exactly these tokens."""
        self._rollback.restart(len(held))
        self._held = held

    def _redecode(self, ids: TokenArray, start: int) -> None:
        self._target.decode(ids, start, "none")


class _Run:
    """One generation in progress."""

    def __init__(
        self, decoder: Decoder, prompt_ids: TokenArray, limits: Limits, sampling: Sampling, clock: Clock | None
    ) -> None:
        self._began = perf_counter()
        self._d, self._limits, self._clock = decoder, limits, clock or Clock()
        self._target, self._strategy = decoder._target, decoder._strategy
        self._n_prompt = len(prompt_ids)
        capacity = self._n_prompt + limits.n_predict
        if not self._n_prompt or capacity > self._target.n_ctx:
            raise SpecdecError(
                f"a prompt of {self._n_prompt} tokens and {limits.n_predict} more do not fit a context of"
                f" {self._target.n_ctx}.",
                f"Use --ctx-size {capacity} or a smaller --n-predict." if self._n_prompt else "The prompt is empty.",
            )
        self._buffer = np.empty(capacity, np.int32)
        self._buffer[: self._n_prompt] = prompt_ids
        self._view = self._buffer.view()
        self._view.flags.writeable = False
        self._n = self._n_prompt
        barred = self._target.end_of_text if limits.ignore_eos else frozenset[int]()
        self._ends = self._target.end_of_text - barred
        self._chooser = Chooser(sampling, barred, limits.n_predict + 1)
        self._sampled = not sampling.greedy
        self._text = bytearray()
        self._experts: list[list[int]] = []
        self._log = StepLog()
        self._stop, self._cut = "", 0

    def steps(self) -> Generator[Step, None, Generation]:
        self._strategy.begin(self._view[: self._n])
        reused = self._reuse()
        prefill_began = perf_counter()
        row = self._prefill(reused)
        prefill_s = perf_counter() - prefill_began
        clock = self._clock
        clock.restart()
        self._target.take_experts()  # those of the prompt
        redecoded = self._d._rollback.n_redecoded
        first = self._emit([self._chooser.choose(row, 0)])
        clock.to("sample")
        ttft_s = perf_counter() - self._began
        yield Step(self._n_prompt - 1, NO_DRAFT, 0, tuple(first))
        clock.skip()
        while not self._stop:
            step = self._step(clock)
            clock.to("other")
            yield step
            clock.skip()
        generation_s = clock.booked
        self._strategy.end()
        self._d._held = self._view[: self._d._rollback.end]
        return Generation(
            n_prompt=self._n_prompt,
            n_reused=reused,
            token_ids=self._view[self._n_prompt : self._n].tolist(),
            text=self._text.decode("utf-8", "replace"),
            stop=self._stop,
            cut=self._cut,
            steps=replace(self._log, experts=self._experts) if self._experts else self._log,
            prefill_s=prefill_s,
            ttft_s=ttft_s,
            generation_s=generation_s,
            end_to_end_s=perf_counter() - self._began,
            phase_s=clock.seconds,
            n_redecoded=self._d._rollback.n_redecoded - redecoded,
            first_end_of_text=self._chooser.wanted_end,
        )

    def _reuse(self) -> int:
        """Keep what the memory already holds of this prompt; at least its last token is decoded again."""
        d, prompt = self._d, self._view[: self._n]
        held = d._held[: len(prompt) - 1]
        same = int(np.argmin(np.append(held == prompt[: len(held)], False)))
        if same < d._rollback.end and (d._target.memory.recurrent or not same):
            d.clear()  # a recurrent state cannot go back to the common prefix
            return 0
        d._rollback.keep(same, prompt)
        return same

    def _prefill(self, start: int) -> FloatArray:
        """Decode the prompt from ``start`` in chunks; returns the logits row after its last token."""
        while True:
            stop = min(self._n, start + self._target.n_batch)
            logits = self._pass(start, stop, "last" if stop == self._n else "none")
            if self._d._hidden:
                self._strategy.process(self._view[start:stop], start, self._target.hidden_rows())
            if stop == self._n:
                return np.asarray(logits[0])
            start = stop

    def _pass(self, start: int, stop: int, outputs: Outputs) -> FloatArray:
        logits = self._target.decode(self._view[start:stop], start, outputs)
        self._d._rollback.decoded(start, stop - start)
        return logits

    def _step(self, clock: Clock) -> Step:
        began = perf_counter()
        rollback, start = self._d._rollback, self._n - 1
        # 1. propose
        translated = self._strategy.translate_s
        draft = self._propose()
        n_draft = len(draft.token_ids)
        clock.to("propose")
        if self._strategy.translate_s != translated:
            clock.move("propose", "translate", self._strategy.translate_s - translated)
        # 2. one target pass over the last token and the draft
        rollback.before_pass(n_draft)
        if n_draft:  # a step without a draft is kept short: after a pass the caches are cold, each call counts
            clock.to("roll_back")
            self._buffer[self._n : self._n + n_draft] = draft.token_ids
        logits = self._pass(start, self._n + n_draft, "all")
        verify_s = clock.to("verify")
        experts = self._target.take_experts()
        # 3. accept
        accepted, bonus = self._verify(draft, logits)
        clock.to("sample")
        # 4. hand over the hidden rows of what stays, while they are there
        kept = self._n + accepted
        if self._d._hidden:
            self._strategy.process(self._view[start:kept], start, self._target.hidden_rows()[: kept - start])
            clock.to("catch_up")
        # 5. undo what was rejected; the bonus token is decoded by the next pass
        way = rollback.keep(kept, self._view)
        if way:
            clock.to("roll_back")
        # 6. tell
        emitted = self._emit([*draft.token_ids[:accepted], bonus])
        accepted = min(accepted, len(emitted))  # what the target would have kept after its text's end is no gain
        self._cut += accepted + 1 - len(emitted)
        clock.to("other")
        step = Step(start, draft, accepted, tuple(emitted))
        self._strategy.accept(step)
        clock.to("propose")
        self._log.add(step, way, perf_counter() - began, verify_s)
        if experts is not None:
            self._experts.append(experts)
        return step

    def _propose(self) -> Draft:
        room = min(self._limits.n_predict - (self._n - self._n_prompt) - 1, self._d._longest, self._target.n_batch - 1)
        if room < 1:
            return NO_DRAFT
        draft = self._strategy.propose(self._view[: self._n], room)
        if not isinstance(draft, Draft):
            raise SpecdecError(
                f"{self._strategy.name}: propose() returned {type(draft).__name__}.", "Return Draft(ids), or Draft()."
            )
        if draft.parents is not None:
            raise SpecdecError(f"{self._strategy.name}: draft trees (parents) are not verified yet; propose a chain.")
        draft = draft.clipped(room)
        for token in draft.token_ids:
            if not 0 <= token < self._target.n_vocab:
                raise SpecdecError(
                    f"{self._strategy.name}: proposed token {token}, outside 0..{self._target.n_vocab - 1}."
                )
        return draft

    def _verify(self, draft: Draft, logits: FloatArray) -> tuple[int, int]:
        chooser, base = self._chooser, self._n - self._n_prompt
        if not draft.token_ids:
            return 0, chooser.choose(logits[0], base)
        if draft.probs is not None and self._sampled:
            return verify_by_rejection(
                draft.token_ids,
                draft.probs,
                lambda i: chooser.distribution(logits[i], base + i),
                lambda i: chooser.uniform(base + i),
            )
        return verify_by_choice(draft.token_ids, lambda i: chooser.choose(logits[i], base + i))

    def _emit(self, tokens: list[int]) -> list[int]:
        """Append tokens until a stop; what comes after it is cut."""
        room = self._limits.n_predict - (self._n - self._n_prompt)
        for i, token in enumerate(tokens):
            self._buffer[self._n] = token
            self._n += 1
            self._text += self._target.piece(token)
            if token in self._ends:
                self._stop = "end-of-text"
            elif self._limits.stop and self._stop_string():
                self._stop = "stop-string"
            elif i + 1 == room:
                self._stop = "length"
            if self._stop:
                return tokens[: i + 1]
        return tokens

    def _stop_string(self) -> bool:
        for stop in self._limits.stop:
            at = self._text.find(stop.encode())
            if at >= 0:
                del self._text[at:]
                return True
        return False
