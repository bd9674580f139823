"""``mtp``: the target's own multi-token-prediction layer drafts, one token after the other.

Options and rules are llama.cpp's draft-mtp (common/speculative.cpp). One thing is done better: llama.cpp lets the layer
decode every verified token in a pass of its own and then drafts; here the tokens that stayed are decoded in the same
pass that makes the first draft token, so a draft of n tokens costs n passes of the layer and not n + 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import Field

from specdec.demo import model_path
from specdec.sampling import top_probability
from specdec.strategy import Services, Strategy, StrategyOptions
from specdec.types import NO_DRAFT, Draft, FloatArray, MemoryItem, TokenArray

if TYPE_CHECKING:
    from specdec.llama.gguf import Header


class Options(StrategyOptions):
    n_max: int = Field(3, ge=1, le=64, description="longest draft, tokens")
    n_min: int = Field(0, ge=0, le=64, description="shortest draft worth verifying, tokens")
    p_min: float = Field(0.0, ge=0.0, le=1.0, description="stop drafting below this probability")
    ubatch_size: int = Field(64, ge=1, le=4096, description="tokens that the layer computes at once; costs VRAM")
    model: str = Field("", description="a GGUF with the MTP layer alone; default: the target's own file")


class Mtp(Strategy):
    """Draft with the target's own MTP layer, fed with the target's hidden rows.

    State: the layer's memory holds the first ``settled`` tokens of the text, each decoded with a true hidden row;
    ``pending`` are the true tokens after them, and ``rows`` their hidden rows, shifted by one: rows[0] belongs to
    position settled - 1.
    """

    name = "mtp"
    Options = Options
    needs = frozenset({"hidden_states", "target_model"})

    def __init__(self, options: StrategyOptions | None = None) -> None:
        super().__init__(options)
        self._o = cast(Options, self.options)
        self._context: Any = None
        self._own_model: Any = None
        self._settled = 0

    def check(self, target: Header) -> None:
        from specdec.llama.gguf import read_header
        from specdec.llama.mtp import check_header

        check_header(read_header(model_path(self._o.model)) if self._o.model else target)

    def open(self, services: Services) -> None:
        from specdec.llama.model import LlamaModel
        from specdec.llama.mtp import MtpContext

        model: Any = services.target_model
        if self._o.model:
            model = self._own_model = LlamaModel(model_path(self._o.model), model.options, mtp=True)
        self._weights = model.mtp_bytes
        self._context = MtpContext(model, services.n_ctx, self._o.ubatch_size, services.threads)
        self._restart()

    def close(self) -> None:
        for part in (self._context, self._own_model):
            if part is not None:
                part.close()
        self._context = self._own_model = None

    def process(self, ids: TokenArray, start: int, hidden: FloatArray) -> None:
        if start == 0:
            self._restart()
        known = start - (self._settled - 1)
        if known < 0:  # the target went back to an earlier prefix (a changed conversation)
            self._context.keep(start)
            self._settled, known = start, 1
            self._rows, self._pending = np.zeros((1, hidden.shape[1]), np.float32), ids[:0]
        self._rows = np.concatenate([self._rows[:known], hidden])
        self._pending = np.concatenate([self._pending[: known - 1], ids]) if known else ids[1:].copy()
        if len(self._pending) > self._o.n_max + 1:  # a piece of the prompt: now, not in the first draft's pass
            self._context.keep(self._settled)
            self._context.decode(self._pending, self._settled, self._rows[:-1], output=False)
            self._settled += len(self._pending)
            self._rows, self._pending = self._rows[-1:].copy(), ids[:0]

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        length = len(context)
        self._context.keep(self._settled)  # drop what earlier drafts left
        result = self._context.decode(context[self._settled :], self._settled, self._rows, output=True)
        self._rows, self._pending, self._settled = self._rows[-1:].copy(), context[:0], length
        tokens: list[int] = []
        confidence: list[float] = []
        most = min(self._o.n_max, max_tokens)
        while True:
            logits, row = result
            token = int(logits.argmax())
            if self._o.p_min > 0.0 or self.tell_confidence:
                confidence.append(top_probability(logits))
                if confidence[-1] < self._o.p_min:
                    break
            tokens.append(token)
            if len(tokens) == most:
                break
            position = length + len(tokens) - 1
            result = self._context.decode(np.array([token], np.int32), position, row[None].copy(), output=True)
        # What stands in rows now is of no use before process() brings the row of position length - 1.
        if len(tokens) < max(1, self._o.n_min):
            return NO_DRAFT
        return Draft(tokens, confidence=confidence if self.tell_confidence else None)

    def memory(self) -> list[MemoryItem]:
        return [MemoryItem("target", "weights", self._weights), *(self._context.memory() if self._context else [])]

    def _restart(self) -> None:
        self._context.clear()
        self._settled = 0
        self._rows = np.zeros((1, self._context.width), np.float32)
        self._pending = np.empty(0, np.int32)
