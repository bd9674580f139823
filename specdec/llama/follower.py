"""A second model that follows the target's text: decodes what it has not seen, goes back where it guessed wrong.

An attention-only model cuts its KV cache. A hybrid model (Qwen3.5-0.8B) cannot go back token by token: it saves its
recurrent state on the device before it runs ahead, puts it back if it has to return behind that point, and decodes the
accepted tokens again.

A CUDA graph is replayed from the third decode of the same shape, with the states in the same place, on (llama.cpp,
ggml-cuda.cu, ``ggml_cuda_graph_update_required``). So on a GPU tokens are fed one at a time: a batch now and then would
interrupt the replay. For the same reason states are not kept in spare sequences, from which a model could go back
without decoding anything: the running state would change its place with every token (tried: 2.3 times slower).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from specdec.errors import SpecdecError
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.spec import ModelOptions
from specdec.target import Outputs
from specdec.types import FloatArray, MemoryItem, TokenArray


class Follower:
    """State: the memory holds ``end`` tokens, of which the first ``right`` are known to be those of the text.

    Args:
        path: the model, a GGUF file.
        options: its own placement, threads and cache types.
        n_ctx: its context length, tokens.
        ahead: the most tokens that it guesses at once.
        singly: whether up to ``ahead + 1`` new tokens are decoded one by one rather than together.
        likeliest: whether ``likeliest`` is asked for only, never ``row``: it is then found on the device.
    """

    def __init__(
        self,
        path: Path,
        options: ModelOptions,
        n_ctx: int,
        ahead: int,
        singly: bool = False,
        likeliest: bool = False,
    ) -> None:
        self.model = LlamaModel(path, options)
        trained = int(self.model.header.get("context_length", 0))
        if trained and n_ctx > trained:
            self.model.close()
            raise SpecdecError(
                f"draft: the run's context of {n_ctx} tokens exceeds the draft model's {trained}.",
                "Use shorter prompts, a smaller --n-predict, or another draft.",
            )
        # Guesses beyond the end of the run's context need room too.
        self._target = LlamaTarget(self.model, n_ctx + ahead, likeliest=likeliest)
        self._on_device = likeliest
        self._n_ctx = self._target.n_ctx - ahead
        self._at_once = ahead + 1 if singly else 0
        self._held = np.empty(self._target.n_ctx, np.int32)
        self._saved: int | None = None
        self.end = self._right = self._base = 0

    @property
    def n_ctx(self) -> int:
        """Tokens of text that it can hold."""
        return self._n_ctx

    def close(self) -> None:
        """Free context and weights."""
        self._target.close()
        self.model.close()

    def forget(self) -> None:
        """Empty the memory."""
        self._target.memory.clear()
        self.end = self._right = self._base = 0
        self._saved = None

    def compare(self, ids: TokenArray) -> None:
        """Find out how much of the memory is the beginning of ``ids``."""
        n = min(self.end, len(ids))
        same = self._held[:n] == ids[:n]
        self._right = n if same.all() else int(same.argmin())

    def kept(self, n: int) -> None:
        """The first ``n`` of the tokens that were fed by ``ahead`` since ``follow`` belong to the text."""
        self._right = min(self.end, self._right + n)

    def follow(self, ids: TokenArray) -> None:
        """Make the memory hold exactly ``ids``; at least its last token is decoded."""
        start = min(self._right, max(0, len(ids) - 1))
        if start < self.end:
            start = self._back_to(start)
        self._held[start : len(ids)] = ids[start:]
        singly = len(ids) - start <= self._at_once
        while start < len(ids):
            stop = start + 1 if singly else min(len(ids), start + self._target.n_batch)
            # Singly, the logits of each are asked for: without, the graph would have another shape.
            outputs: Outputs = "last" if singly or stop == len(ids) else "none"
            self._rows = self._target.decode(self._held[start:stop], start, outputs)
            start = stop
        self.end = self._right = self._base = len(ids)

    def ahead(self, token: int) -> None:
        """Decode a guessed token. What a hybrid model needs to come back is kept before."""
        if self._target.memory.recurrent and self.end == self._base:
            self._target.memory.save(on_device=True)
            self._saved = self.end
        self._held[self.end] = token
        self._rows = self._target.decode(self._held[self.end : self.end + 1], self.end, "last")
        self.end += 1

    def likeliest(self) -> int:
        """The likeliest token after what the memory holds."""
        return self._target.likeliest() if self._on_device else int(self._rows[0].argmax())

    def row(self) -> FloatArray:
        """The logits after what the memory holds, float32 [n_vocab]; valid until the next decode."""
        row: FloatArray = self._rows[0]
        return row

    def memory(self) -> list[MemoryItem]:
        """Weights, KV, compute buffers; for a hybrid the saved state."""
        states = [i for i in self._target.buffers if i.kind == "recurrent"]
        saved = [MemoryItem(i.device, "checkpoint", i.bytes) for i in states]
        return [*self.model.memory(), *self._target.buffers, *saved]

    def _back_to(self, length: int) -> int:
        """Cut to ``length`` tokens, or to the saved state before them; returns where the memory stands."""
        if not self._target.memory.recurrent:
            self._target.memory.remove_from(length)
            return length
        if self._saved is None or self._saved > length:
            self.forget()
            return 0
        self._target.memory.restore()
        self._target.memory.remove_from(self._saved)
        return self._saved
