"""A target that also hands out its last layer's output after the final norm, for every architecture.

llama.cpp's own "nextn" rows exist only where an architecture has MTP layers; its embeddings are the same rows everywhere.
"""

from __future__ import annotations

import ctypes

from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget, _floats
from specdec.types import FloatArray


class EmbeddingTarget(LlamaTarget):
    """Decode with outputs ``all``, at most ``most`` tokens a pass; then ``hidden_rows`` is float32 [n, width]."""

    def __init__(self, model: LlamaModel, n_ctx: int, most: int) -> None:
        super().__init__(model, n_ctx, 0, most - 1)
        self._lib.llama_set_embeddings(self._context, True)

    def hidden_rows(self) -> FloatArray:
        address = ctypes.cast(self._lib.llama_get_embeddings(self._context), ctypes.c_void_p).value
        return _floats(address, self._n_decoded, self.width)
