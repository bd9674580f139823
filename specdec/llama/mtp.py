"""The MTP context: a second context over the target's own MTP layer.

It decodes token x at position p together with the target's hidden row of position p-1 (its trunk's output after the
final norm; zeros before the first token) and gives logits for position p+1 and a hidden row of its own, with which it
can go on alone. Reference behaviour: llama.cpp, common/speculative.cpp, ``common_speculative_impl_draft_mtp``.
"""

from __future__ import annotations

import numpy as np

from specdec.errors import SpecdecError
from specdec.llama.accounting import buffers
from specdec.llama.batch import Batch
from specdec.llama.gguf import Header
from specdec.llama.library import log, nextn
from specdec.llama.model import LlamaModel
from specdec.llama.target import context_error
from specdec.types import FloatArray, MemoryItem, TokenArray

_MTP_CONTEXT = 1
_SINGLE = ("qwen35", "qwen35moe")


def check_header(header: Header) -> None:
    """Refuse, in one line, what llama.cpp would refuse by aborting."""
    layers = header.nextn_layers
    if layers == 0:
        raise SpecdecError(
            "mtp: this GGUF has no MTP layer (nextn_predict_layers is 0).",
            "Use a file that kept it, or another strategy.",
        )
    if header.architecture not in _SINGLE:
        raise SpecdecError(
            f"mtp: the architecture {header.architecture!r} is not supported.", f"Supported: {', '.join(_SINGLE)}."
        )
    if layers != 1:
        raise SpecdecError(
            f"mtp: this GGUF has {layers} MTP layers; llama.cpp runs exactly one of {header.architecture}."
        )


class MtpContext:
    """One sequence of the MTP layer. Positions are those of the target.

    Args:
        model: loaded with its MTP layer; must outlive this.
        n_ctx: context length, tokens.
        n_ubatch: tokens computed at once. Small: its compute buffer costs VRAM (74 MiB on 35B-A3B at 64, 500 at 512).
        threads: of generation and of the prompt.
    """

    def __init__(self, model: LlamaModel, n_ctx: int, n_ubatch: int, threads: int) -> None:
        L = self._lib = model._lib
        self._nextn = nextn()
        self.width, self.n_vocab = model.width, model.n_vocab
        params = L.llama_context_default_params()
        params.ctx_type = _MTP_CONTEXT
        params.n_ctx, params.n_batch = n_ctx, min(model.options.batch_size, max(n_ctx, 32))
        params.n_ubatch = min(n_ubatch, params.n_batch)
        params.n_outputs_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type, params.type_k, params.type_v = model.attention()
        params.no_perf = True
        log.clear()
        self._context = L.llama_init_from_model(model.handle, params)
        if not self._context:
            raise context_error(f"a context of {n_ctx} tokens for the MTP layer")
        self._buffers = buffers(log.text())
        # Unmasked: the MTP graph of this llama.cpp does not pick output rows before it hands out hidden rows, so in
        # masked mode a batch of several tokens with one output gives the FIRST token's row.
        self._nextn.llama_set_embeddings_nextn(self._context, True, False)
        self._memory = L.llama_get_memory(self._context)
        self._rows = np.zeros((int(params.n_batch), self.width), np.float32)
        self._batch = Batch(L, len(self._rows), self._rows)

    def decode(
        self, ids: TokenArray, start: int, rows: FloatArray, output: bool
    ) -> tuple[FloatArray, FloatArray] | None:
        """Decode ``ids`` int32 [n] at ``start`` with ``rows`` float32 [n, width], rows[i] of position start+i-1.

        With ``output``: (logits [n_vocab], hidden row [width]) of the last token, valid until the next decode.
        """
        while len(ids) > self._batch.size:
            n = self._batch.size
            self.decode(ids[:n], start, rows[:n], output=False)
            ids, start, rows = ids[n:], start + n, rows[n:]
        n = len(ids)
        self._rows[:n] = rows
        self._batch.fill(ids, start, "last" if output else "none")
        status = self._lib.llama_decode(self._context, self._batch.handle)
        if status != 0:
            raise SpecdecError(f"mtp: llama_decode failed with {status} on {n} tokens at position {start}.")
        if not output:
            return None
        logits = self._lib.llama_get_logits_ith(self._context, n - 1)
        hidden = self._nextn.llama_get_embeddings_nextn_ith(self._context, n - 1)
        return np.ctypeslib.as_array(logits, (self.n_vocab,)), np.ctypeslib.as_array(hidden, (self.width,))

    def keep(self, length: int) -> None:
        """Forget positions ``length`` and later."""
        self._lib.llama_memory_seq_rm(self._memory, 0, length, -1)

    def clear(self) -> None:
        """Forget everything."""
        self._lib.llama_memory_clear(self._memory, True)

    def memory(self) -> list[MemoryItem]:
        """KV and compute buffers of this context."""
        return self._buffers

    def close(self) -> None:
        """Free the context; the weights stay the model's."""
        if self._context:
            self._batch.close()
            self._lib.llama_free(self._context)
            self._context = None
