"""``mtp``: the target's own multi-token-prediction layers (heads) draft.

Options and rules are llama.cpp's draft-mtp (common/speculative.cpp): a single head drafts one token after the other; of
several chained heads each drafts one token, so their number bounds the draft. One thing is done better: llama.cpp lets
every head decode the verified tokens in a pass of its own and then drafts; here the tokens that stayed are decoded in
the same pass that makes the head's first draft token, so a draft of n tokens costs n passes (not n + 1, and with
chained heads not 2 n). Heads that cannot draft, because n_max is below their number, are left alone.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import Field

from specdec.models import model_path
from specdec.sampling import top_probability
from specdec.strategy import Services, Strategy, StrategyOptions
from specdec.types import NO_DRAFT, Draft, FloatArray, MemoryItem, TokenArray

if TYPE_CHECKING:
    from specdec.llama.gguf import Header
    from specdec.spec import ModelOptions


class Options(StrategyOptions):
    n_max: int = Field(3, ge=1, le=64, description="longest draft, tokens; at most the number of chained heads")
    n_min: int = Field(0, ge=0, le=64, description="shortest draft worth verifying, tokens")
    p_min: float = Field(0.0, ge=0.0, le=1.0, description="stop drafting below this probability")
    ubatch_size: int = Field(64, ge=1, le=4096, description="tokens that the layer computes at once; costs VRAM")
    model: str = Field("", description="a GGUF with the MTP layer alone; default: the target's own file")


class Mtp(Strategy):
    """Draft with the target's own MTP layers, fed with the target's hidden rows.

    State: head h has decoded the first ``settled[h]`` tokens of the text, each with a true hidden row. ``ids`` are the
    tokens from position ``first`` on that the target has decoded, and ``rows`` the hidden rows to decode them with: rows[0]
    belongs to position first - 1, and the last row, one more than ids, to the token that comes next.
    """

    name = "mtp"
    Options = Options
    needs = frozenset({"hidden_states", "target_model", "mtp_layer"})

    def __init__(self, options: StrategyOptions | None = None) -> None:
        super().__init__(options)
        self._o = cast(Options, self.options)
        if self._o.model:
            self.needs = self.needs - {"mtp_layer"}
        self._context: Any = None
        self._own_model: Any = None
        self._n_max, self._heads = self._o.n_max, 1
        self._first, self._settled = 0, [0]
        self._ids: TokenArray = np.empty(0, np.int32)
        self._rows: FloatArray = np.empty((0, 0), np.float32)

    @property
    def longest_draft(self) -> int:
        return self._n_max

    def check(self, target: Header) -> None:
        from specdec.llama.gguf import read_header
        from specdec.llama.mtp import check_header, check_separate

        if self._o.model:
            header = read_header(model_path(self._o.model))
            check_separate(header, target)
        else:
            header = target
            check_header(header)
        self._plan(header)
        if self._n_max < self._o.n_max and "n_max" in self._o.model_fields_set:
            warnings.warn(
                f"mtp: drafts have at most {self._n_max} tokens, not n_max {self._o.n_max}: the model has"
                f" {self._n_max} chained MTP heads, and each drafts one token",
                stacklevel=2,
            )

    def open(self, services: Services) -> None:
        from specdec.llama.model import LlamaModel
        from specdec.llama.mtp import MtpContext

        model: Any = services.target_model
        if self._o.model:
            model = self._own_model = LlamaModel(model_path(self._o.model), model.options, mtp=True)
            self._weights = model.memory()
        else:
            self._weights = [MemoryItem("target", "weights", model.mtp_bytes)]
        self._plan(model.header)
        sizes = services.n_ctx, self._o.ubatch_size, services.threads
        self._context = MtpContext(model, *sizes, on_device=self._o.p_min <= 0.0 and not self.tell_confidence)
        self._restart()

    def close(self) -> None:
        for part in (self._context, self._own_model):
            if part is not None:
                part.close()
        self._context = self._own_model = None

    def begin(self, prompt_ids: TokenArray) -> None:
        end = self._first + len(self._ids)  # the last answer's last token was drafted upon, but never decoded
        self._settled = [min(s, end) for s in self._settled]

    def process(self, ids: TokenArray, start: int, hidden: FloatArray) -> None:
        if start == 0:
            self._restart()
        if start < self._first + len(self._ids):  # the target went back to an earlier prefix (a changed conversation)
            self._settled = [min(s, start) for s in self._settled]
        known = start - self._first
        if known < 0:  # so far back that the true row of position start - 1 is gone
            self._first, known = start, 0
            self._rows, self._ids = np.zeros((1, hidden.shape[1]), np.float32), ids[:0]
        self._rows = np.concatenate([self._rows[: known + 1], hidden])
        self._ids = np.concatenate([self._ids[:known], ids])
        for head in range(self._heads):
            if self._first + len(self._ids) - self._settled[head] > self._n_max + 1:
                self._catch_up(head)  # a piece of the prompt: now, not in the head's next draft pass
        self._forget_settled()

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        tokens: list[int] = []
        confidence: list[float] = []
        rows: list[FloatArray] = []
        most = min(self._n_max, max_tokens)
        while True:
            logits, row = self._next(context, tokens, rows)
            token = self._context.likeliest()
            if self._o.p_min > 0.0 or self.tell_confidence:
                confidence.append(top_probability(logits))
                if confidence[-1] < self._o.p_min:
                    break
            tokens.append(token)
            rows.append(row.copy())
            if len(tokens) == most:
                break
        if len(tokens) < max(1, self._o.n_min):
            return NO_DRAFT
        return Draft(tokens, confidence=confidence if self.tell_confidence else None)

    def expected_memory(self, target: Header, options: ModelOptions, n_ctx: int) -> list[MemoryItem]:
        from specdec.llama.gguf import whole_header
        from specdec.vram import memory as parts

        header = whole_header(model_path(self._o.model)) if self._o.model else target
        own = parts.weights(header, options) if self._o.model else []
        context = parts.compute_buffer(header, options, n_ctx, self._o.ubatch_size, rows=1, mtp=True)
        kept = parts.kv(header, options, n_ctx, mtp=True) + parts.output(header, rows=1)
        return own + parts.mtp_weights(header, options) + kept + context

    def memory(self) -> list[MemoryItem]:
        return [*self._weights, *self._context.memory()] if self._context else []

    def _plan(self, header: Header) -> None:
        from specdec.llama.mtp import chained_heads

        chained = chained_heads(header)
        self._n_max = min(self._o.n_max, chained or self._o.n_max)
        self._heads = self._n_max if chained else 1

    def _next(self, context: TokenArray, tokens: list[int], rows: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Logits and hidden row after ``context`` and the draft ``tokens``, which left the hidden ``rows``."""
        length = len(context)
        result: tuple[FloatArray, FloatArray]
        if tokens and self._heads == 1:  # the memory holds all but the last draft token
            last = np.array(tokens[-1:], np.int32)
            result = self._context.decode(last, length + len(tokens) - 1, rows[-1][None], output=True)
            return result
        head = len(tokens)
        at = self._settled[head]
        self._context.keep(at)  # drop what earlier drafts and the other heads left; theirs is not lost, see decode
        ids = np.concatenate([context[at:], np.array(tokens, np.int32)])
        given = np.concatenate([self._rows[at - self._first :], *(row[None] for row in rows)])
        # One pass for all: on a GPU, one token a pass (a shape that CUDA graphs replay) was slower (a layer is too short).
        result = self._context.decode(ids, at, given, output=True, head=head)
        self._settled[head] = length
        return result

    def _catch_up(self, head: int) -> None:
        at = self._settled[head]
        ids = self._ids[at - self._first :]
        self._context.keep(at)
        self._context.decode(ids, at, self._rows[at - self._first : -1], output=False, head=head)
        self._settled[head] = at + len(ids)

    def _forget_settled(self) -> None:
        """Drop the tokens and rows that every head has decoded, but one: the target may decode its last token again."""
        done = min(min(self._settled), self._first + len(self._ids)) - self._first - 1
        if done > 0:
            self._first += done
            self._ids, self._rows = self._ids[done:], self._rows[done:].copy()

    def _restart(self) -> None:
        self._context.clear()
        self._first, self._settled = 0, [0] * self._heads
        self._rows = np.zeros((1, self._context.width), np.float32)
        self._ids = np.empty(0, np.int32)
