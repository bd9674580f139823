"""``draft``: a small model drafts, one token after the other.

Options and defaults are llama.cpp's draft-simple, and so is the vocabulary check. With ``translate`` a model of another
vocabulary drafts through text (specdec/llama/translate.py). How the draft model keeps up with what was accepted, and
goes back where it was not, is in specdec/llama/follower.py.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from specdec.errors import SpecdecError
from specdec.models import model_path
from specdec.sampling import distribution, top_probability
from specdec.strategy import Services, Strategy, StrategyOptions
from specdec.types import NO_DRAFT, Draft, FloatArray, MemoryItem, Step, TokenArray

if TYPE_CHECKING:
    from specdec.llama.follower import Follower
    from specdec.llama.gguf import Header
    from specdec.llama.translate import Translator
    from specdec.spec import ModelOptions

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]


class Options(StrategyOptions):
    model: str = Field("", description="the draft model, a GGUF file or demo-draft")
    n_max: int = Field(3, ge=1, le=64, description="longest draft, tokens")
    n_min: int = Field(0, ge=0, le=64, description="shortest draft worth verifying, tokens")
    p_min: float = Field(0.0, ge=0.0, le=1.0, description="stop drafting below this probability")
    sample: bool = Field(False, description="sample drafts with the run's sampling, verify by rejection sampling")
    translate: bool = Field(False, description="draft through text where the vocabularies differ")
    gpu_layers: int = Field(-1, ge=-1, description="layers of the draft model in VRAM; -1 for all")
    threads: int = Field(0, ge=0, description="CPU threads; 0: the target's")
    feed: Literal["auto", "together", "singly"] = Field("auto", description="accepted tokens; auto: singly on a GPU")
    cache_type_k: CacheType = Field("f16", description="KV cache type of K")
    cache_type_v: CacheType = Field("f16", description="KV cache type of V")


class DraftModel(Strategy):
    """Draft with a small model: of the target's vocabulary, or of another one through text."""

    name = "draft"
    Options = Options
    needs = frozenset({"target_model"})

    def __init__(self, options: StrategyOptions | None = None) -> None:
        super().__init__(options)
        self._o = cast(Options, self.options)
        self._follower: Follower | None = None
        self._translator: Translator | None = None

    def check(self, target: Header) -> None:
        from specdec.llama.gguf import read_header
        from specdec.llama.vocab import match_vocabularies

        if not self._o.model:
            raise SpecdecError("draft: no draft model is named.", "Give --draft FILE, or draft(model=FILE).")
        path = model_path(self._o.model)
        if self._o.sample and self._o.n_min > 1:
            raise SpecdecError("draft: sample and n_min exclude each other (dropping sampled drafts is not lossless).")
        if self._o.translate:
            if self._o.sample:
                raise SpecdecError("draft: sample and translate exclude each other.", "Leave one of them out.")
            read_header(path)
            return
        found = match_vocabularies(target.path, path)
        if not found.compatible:
            raise SpecdecError(
                f"draft: {'; '.join(found.reasons)}.",
                "Use a draft of the target's family (for Qwen3.5-35B-A3B: Qwen3.5-0.8B), or translate=true.",
            )

    def open(self, services: Services) -> None:
        from specdec.llama.follower import Follower
        from specdec.llama.model import runs_on_gpu
        from specdec.llama.translate import Translator

        o, target = self._o, cast(Any, services.target_model)
        options = target.options.model_copy(update=self._placement | {"threads": o.threads or services.threads})
        singly = o.feed == "singly" or (o.feed == "auto" and runs_on_gpu(options))
        likeliest = o.p_min <= 0.0 and not self.tell_confidence and (not o.sample or services.sampling.greedy)
        self._follower = Follower(model_path(o.model), options, services.n_ctx, o.n_max, singly, likeliest)
        self._translator = Translator(target, self._follower.model) if o.translate else None
        self._sampling, self._n_vocab = services.sampling, services.n_vocab
        self._rng = np.random.default_rng(services.sampling.seed + 1)

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()
        self._follower = None

    def reset(self) -> None:
        if self._follower is not None:
            self._follower.forget()
            self._rng = np.random.default_rng(self._sampling.seed + 1)

    def begin(self, prompt_ids: TokenArray) -> None:
        ids = self._read(prompt_ids)
        if ids is not None and len(ids) > 1:
            self._model.compare(ids)
            self._model.follow(ids[:-1])  # the last one is decoded with the first new token, by the first proposal

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        ids = self._read(context)
        if ids is None or len(ids) > self._model.n_ctx:
            return NO_DRAFT
        if self._translator is not None:
            self._model.compare(ids)
        self._confidence: list[float] = []
        self._model.follow(ids)
        tokens, rows = self._guess(min(self._o.n_max, max_tokens))
        if self._translator is not None:
            began = perf_counter()
            tokens = self._translator.to_target(context, tokens)[: self._o.n_max]
            self.translate_s += perf_counter() - began
        if len(tokens) < max(1, self._o.n_min):
            return NO_DRAFT
        confidence = self._confidence if self.tell_confidence and self._translator is None else None
        return Draft(tokens, np.stack(rows) if rows else None, confidence=confidence)

    def accept(self, step: Step) -> None:
        if step.draft and self._translator is None:
            self._model.kept(step.accepted)

    def expected_memory(self, target: Header, options: ModelOptions, n_ctx: int) -> list[MemoryItem]:
        from specdec.llama.gguf import whole_header
        from specdec.vram import memory as parts

        header, o = whole_header(model_path(self._o.model)), options.model_copy(update=self._placement)
        cells = n_ctx + self._o.n_max
        states = parts.recurrent(header, o)
        context = parts.compute_buffer(header, o, cells, min(o.ubatch_size, cells), rows=1)
        kept = states + [MemoryItem(i.device, "checkpoint", i.bytes) for i in states] + parts.output(header, rows=1)
        return parts.weights(header, o) + parts.kv(header, o, cells) + kept + context

    def memory(self) -> list[MemoryItem]:
        return [] if self._follower is None else self._follower.memory()

    @property
    def _placement(self) -> dict[str, object]:
        """How the draft model is loaded: its own options, nothing of the target's split."""
        o = self._o
        caches = {"cache_type_k": o.cache_type_k, "cache_type_v": o.cache_type_v}
        return {"gpu_layers": o.gpu_layers, "n_cpu_moe": 0, "override_tensor": ()} | caches

    @property
    def _model(self) -> Follower:
        assert self._follower is not None, "open() comes first"
        return self._follower

    def _read(self, context: TokenArray) -> TokenArray | None:
        """The text in the draft's tokens."""
        if self._translator is None:
            return context
        began = perf_counter()
        ids = self._translator.to_draft(context)
        self.translate_s += perf_counter() - began
        return ids

    def _guess(self, most: int) -> tuple[list[int], list[FloatArray]]:
        """Draft tokens, and with sampling the distributions that they were drawn from."""
        tokens: list[int] = []
        rows: list[FloatArray] = []
        while True:
            chosen = self._choose()
            if chosen is None:
                break
            tokens.append(chosen[0])
            self._confidence += [top_probability(self._model.row())] if self.tell_confidence else []
            rows += [chosen[1]] if chosen[1] is not None else []
            if len(tokens) == most:
                break
            self._model.ahead(tokens[-1])
        return tokens, rows

    def _choose(self) -> tuple[int, FloatArray | None] | None:
        """The next draft token, with its distribution over the target's vocabulary if it was sampled; None to stop.

        When sampling, stopping must not depend on the token that is drawn: then it would not follow the distribution
        that rejection sampling is told. So p_min is compared with the best token's probability, before the draw.
        """
        if not self._o.sample or self._sampling.greedy:
            token = self._model.likeliest()
            unsure = self._o.p_min > 0.0 and top_probability(self._model.row()) < self._o.p_min
            beyond = self._translator is None and token >= self._n_vocab
            return None if unsure or beyond else (token, None)
        d = distribution(self._model.row()[: self._n_vocab], self._sampling)
        if d.probs.max() < self._o.p_min:
            return None
        full = np.zeros(self._n_vocab, np.float32)
        full[d.ids] = d.probs
        return d.draw(float(self._rng.random())), full
