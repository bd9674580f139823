"""``draft``: a small model of the target's vocabulary drafts, one token after the other.

Options and defaults are llama.cpp's draft-simple. The draft model keeps what the target accepted: an attention-only
model cuts its KV cache there; a hybrid model (Qwen3.5-0.8B) cannot, so its recurrent state is saved on the device
before it drafts alone, and put back if the draft was not kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from specdec.errors import SpecdecError
from specdec.sampling import distribution, top_probability
from specdec.strategy import Services, Strategy, StrategyOptions
from specdec.types import NO_DRAFT, Draft, FloatArray, MemoryItem, Step, TokenArray

if TYPE_CHECKING:
    from specdec.llama.gguf import Header


class Options(StrategyOptions):
    model: str = Field("", description="the draft model, a GGUF file")
    n_max: int = Field(3, ge=1, le=64, description="longest draft, tokens")
    n_min: int = Field(0, ge=0, le=64, description="shortest draft worth verifying, tokens")
    p_min: float = Field(0.0, ge=0.0, le=1.0, description="stop drafting below this probability")
    sample: bool = Field(False, description="sample drafts with the run's sampling, verify by rejection sampling")
    gpu_layers: int = Field(-1, ge=-1, description="layers of the draft model in VRAM; -1 for all")
    threads: int = Field(0, ge=0, description="CPU threads; 0: the target's")
    cache_type_k: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] = Field("f16", description="KV cache type of K")
    cache_type_v: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] = Field("f16", description="KV cache type of V")


class DraftModel(Strategy):
    """Draft with a small model that shares the target's vocabulary.

    State: the draft's memory holds ``end`` tokens, of which the first ``right`` are those of the text.
    """

    name = "draft"
    Options = Options
    needs = frozenset({"target_model"})

    def __init__(self, options: StrategyOptions | None = None) -> None:
        super().__init__(options)
        self._o = cast(Options, self.options)
        self._target: Any = None
        self._model: Any = None
        self._end = self._right = self._drafted = 0
        self._saved: int | None = None

    def check(self, target: Header) -> None:
        from specdec.llama.vocab import match_vocabularies

        if not self._o.model:
            raise SpecdecError("draft: no draft model is named.", "Give --draft FILE, or draft(model=FILE).")
        found = match_vocabularies(target.path, Path(self._o.model))
        if not found.compatible:
            raise SpecdecError(
                f"draft: {'; '.join(found.reasons)}.",
                "Use a draft of the target's family (for Qwen3.5-35B-A3B: Qwen3.5-0.8B). See: specdec vocab TARGET DRAFT",
            )

    def open(self, services: Services) -> None:
        from specdec.llama.model import LlamaModel
        from specdec.llama.target import LlamaTarget

        o = self._o
        options = services.target_model.options.model_copy(  # type: ignore[attr-defined]
            update={
                "gpu_layers": o.gpu_layers, "threads": o.threads or services.threads, "n_cpu_moe": 0,
                "override_tensor": (), "cache_type_k": o.cache_type_k, "cache_type_v": o.cache_type_v,
            }
        )  # fmt: skip
        self._model = LlamaModel(Path(o.model), options)
        trained = int(self._model.header.get("context_length", 0))
        if trained and services.n_ctx > trained:
            raise SpecdecError(
                f"draft: the run's context of {services.n_ctx} tokens exceeds the draft model's {trained}.",
                "Use shorter prompts, a smaller --n-predict, or another draft.",
            )
        self._target = LlamaTarget(self._model, services.n_ctx)
        self._sampling = services.sampling
        self._rng = np.random.default_rng(services.sampling.seed + 1)
        self._n_vocab = services.n_vocab
        self._held = np.empty(services.n_ctx, np.int32)
        self._forget()

    def close(self) -> None:
        for part in (self._target, self._model):
            if part is not None:
                part.close()
        self._target = self._model = None

    def reset(self) -> None:
        if self._target is not None:
            self._forget()

    def begin(self, prompt_ids: TokenArray) -> None:
        same = self._held[: min(self._right, len(prompt_ids))] == prompt_ids[: self._right]
        self._right = int(np.argmin(np.append(same, False)))
        self._drafted = 0
        self._catch_up(prompt_ids[:-1])  # all but the last: the first proposal decodes it with the first new token

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        most = min(self._o.n_max, max_tokens)
        row = self._catch_up(context)
        if self._target.memory.recurrent and most > 1:
            self._target.memory.save(on_device=True)
            self._saved = len(context)
        tokens: list[int] = []
        rows: list[FloatArray] = []
        while True:
            token, sure = self._choose(row, rows)
            if not sure or token >= self._n_vocab:
                del rows[len(tokens) :]
                break
            tokens.append(token)
            if len(tokens) == most:
                break
            self._held[self._end] = token
            row = self._target.decode(self._held[self._end : self._end + 1], self._end, "last")[0]
            self._end += 1
        self._drafted = len(tokens)
        if len(tokens) < max(1, self._o.n_min):
            return NO_DRAFT
        return Draft(tokens, np.stack(rows) if rows else None)

    def accept(self, step: Step) -> None:
        if step.draft:  # the accepted tokens that this model decoded while drafting are right
            self._right = min(self._end, self._right + step.accepted)

    def memory(self) -> list[MemoryItem]:
        if self._target is None:
            return []
        items = [*self._model.memory(), *self._target.buffers]
        if self._target.memory.recurrent:
            items.append(MemoryItem("draft", "checkpoint", self._target.memory.checkpoint_bytes()))
        return items

    def _forget(self) -> None:
        self._target.memory.clear()
        self._end = self._right = self._drafted = 0
        self._saved = None

    def _catch_up(self, context: TokenArray) -> FloatArray:
        """Make the memory hold exactly ``context``; returns the logits row after its last token."""
        right = min(self._right, len(context) - 1) if len(context) else 0
        if right < self._end:
            right = self._cut(right)
        self._held[right : len(context)] = context[right:]
        row = np.empty(0, np.float32)
        for start in range(right, len(context), self._target.n_batch):
            stop = min(len(context), start + self._target.n_batch)
            rows = self._target.decode(self._held[start:stop], start, "last" if stop == len(context) else "none")
            row = rows[0] if len(rows) else row
        self._end = self._right = len(context)
        return row

    def _cut(self, length: int) -> int:
        """Go back to ``length`` tokens, or to the saved state before them; returns where the memory stands."""
        if not self._target.memory.recurrent:
            self._target.memory.remove_from(length)
            return length
        if self._saved is not None and self._saved <= length:
            self._target.memory.restore()
            self._target.memory.remove_from(self._saved)
            return self._saved
        self._forget()
        return 0

    def _choose(self, row: FloatArray, rows: list[FloatArray]) -> tuple[int, bool]:
        """The next draft token and whether it is sure enough; with sampling, its distribution goes to ``rows``."""
        if not self._o.sample or self._sampling.greedy:
            token = int(row.argmax())
            return token, self._o.p_min <= 0.0 or top_probability(row) >= self._o.p_min
        d = distribution(row, self._sampling)
        token = d.draw(float(self._rng.random()))
        full = np.zeros(self._n_vocab, np.float32)
        known = d.ids < self._n_vocab
        full[d.ids[known]] = d.probs[known]
        rows.append(full)
        return token, d.prob(token) >= self._o.p_min
