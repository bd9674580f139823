"""A second model that follows the target's text: decodes what it has not seen, goes back where it guessed wrong.

An attention-only model cuts its KV cache. A hybrid model (Qwen3.5-0.8B) cannot go back token by token: it saves its
recurrent state on the device before it runs ahead (``mark``) and puts it back if it has to return behind that point.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from specdec.errors import SpecdecError
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.spec import ModelOptions
from specdec.types import FloatArray, MemoryItem, TokenArray


class Follower:
    """State: the memory holds ``end`` tokens, of which the first ``right`` are known to be those of the text.

    Args:
        path: the model, a GGUF file.
        options: its own placement, threads and cache types.
        n_ctx: its context length, tokens.
    """

    def __init__(self, path: Path, options: ModelOptions, n_ctx: int) -> None:
        self.model = LlamaModel(path, options)
        trained = int(self.model.header.get("context_length", 0))
        if trained and n_ctx > trained:
            self.model.close()
            raise SpecdecError(
                f"draft: the run's context of {n_ctx} tokens exceeds the draft model's {trained}.",
                "Use shorter prompts, a smaller --n-predict, or another draft.",
            )
        self._target = LlamaTarget(self.model, n_ctx)
        self._held = np.empty(self._target.n_ctx, np.int32)
        self._saved: int | None = None
        self.end = self._right = 0

    @property
    def n_ctx(self) -> int:
        """Tokens that it can hold."""
        return self._target.n_ctx

    def close(self) -> None:
        """Free context and weights."""
        self._target.close()
        self.model.close()

    def forget(self) -> None:
        """Empty the memory."""
        self._target.memory.clear()
        self.end = self._right = 0
        self._saved = None

    def compare(self, ids: TokenArray) -> None:
        """Find out how much of the memory is the beginning of ``ids``."""
        n = min(self.end, len(ids))
        same = self._held[:n] == ids[:n]
        self._right = n if same.all() else int(same.argmin())

    def kept(self, n: int) -> None:
        """The first ``n`` of the tokens that were fed by ``ahead`` since ``follow`` belong to the text."""
        self._right = min(self.end, self._right + n)

    def follow(self, ids: TokenArray) -> FloatArray:
        """Make the memory hold exactly ``ids`` (at least its last token is decoded); the logits row after it."""
        start = min(self._right, max(0, len(ids) - 1))
        if start < self.end:
            start = self._back_to(start)
        self._held[start : len(ids)] = ids[start:]
        row = np.empty(0, np.float32)
        while start < len(ids):
            stop = min(len(ids), start + self._target.n_batch)
            rows = self._target.decode(self._held[start:stop], start, "last" if stop == len(ids) else "none")
            row, start = (rows[0] if len(rows) else row), stop
        self.end = self._right = len(ids)
        return row

    def mark(self) -> None:
        """About to run ahead: save what a hybrid model needs to come back here."""
        if self._target.memory.recurrent:
            self._target.memory.save(on_device=True)
            self._saved = self.end

    def ahead(self, token: int) -> FloatArray:
        """Decode a guessed token; the logits row after it."""
        self._held[self.end] = token
        row: FloatArray = self._target.decode(self._held[self.end : self.end + 1], self.end, "last")[0]
        self.end += 1
        return row

    def memory(self) -> list[MemoryItem]:
        """Weights, KV, compute buffers; for a hybrid the saved state."""
        items = [*self.model.memory(), *self._target.buffers]
        if self._target.memory.recurrent:
            items.append(MemoryItem("draft", "checkpoint", self._target.memory.checkpoint_bytes()))
        return items

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
