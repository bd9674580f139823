"""A few lines around llama-cpp-python's low-level interface: logits, hidden rows and MTP contexts for these tools."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp as L
import numpy as np
from llama_cpp import llama_cpp_ext as X

Array = np.ndarray


@L.llama_log_callback
def _quiet(level: int, text: bytes, user: object) -> None:
    """Drop llama.cpp's log."""


class Model:
    """A loaded GGUF file."""

    def __init__(self, path: Path | str, mtp: bool = False) -> None:
        L.llama_log_set(_quiet, ctypes.c_void_p(0))
        L.llama_backend_init()
        params = L.llama_model_default_params()
        params.load_mtp, params.use_extra_bufts, params.n_gpu_layers = mtp, False, 0
        self.handle = L.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise SystemExit(f"cannot load {path}")
        self.vocab = L.llama_model_get_vocab(self.handle)
        self.size, self.width = L.llama_vocab_n_tokens(self.vocab), L.llama_model_n_embd(self.handle)

    def tokens(self, text: str) -> list[int]:
        """Token ids, no specials added or parsed."""
        raw = text.encode()
        buffer = (L.llama_token * (len(raw) + 8))()
        count = L.llama_tokenize(self.vocab, raw, len(raw), buffer, len(buffer), False, False)
        return list(buffer[:count])

    def text(self, ids: list[int]) -> str:
        """The text of token ids."""
        out = b""
        buffer = ctypes.create_string_buffer(256)
        for i in ids:
            count = L.llama_token_to_piece(self.vocab, i, buffer, 256, 0, True)
            out += buffer.raw[:count]
        return out.decode(errors="replace")


class Context:
    """One sequence of a model. `kind` 1 is an MTP context; `hidden` keeps a hidden row for every token."""

    def __init__(
        self,
        model: Model,
        length: int = 2048,
        kind: int = 0,
        hidden: bool = False,
        snapshots: int = 0,
        threads: int = 2,
        other: Context | None = None,
    ) -> None:
        self.model, self.hidden = model, hidden
        params = L.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_rs_seq = length, length, 512, snapshots
        params.ctx_type, params.flash_attn_type, params.type_k, params.type_v = kind, 0, 0, 0
        params.n_threads = params.n_threads_batch = threads
        if other is not None:
            params.ctx_other = other.handle
        self.handle = L.llama_init_from_model(model.handle, params)
        if hidden:
            X.llama_set_embeddings_nextn(self.handle, True, kind == 1)

    def decode(self, ids: list[int], start: int, rows: Array | None = None) -> tuple[Array, Array | None]:
        """Decode tokens at positions start.. (an MTP context also takes the hidden rows before them).

        Returns the logits [n, vocabulary] and, where asked for, the hidden rows [n, width].
        """
        count, width = len(ids), self.model.width
        batch = L.llama_batch_init(count, 0 if rows is None else width, 1)
        batch.n_tokens = count
        null = ctypes.POINTER(L.llama_token)()
        if rows is not None:
            keep = (L.llama_token * count)(*ids)
            batch.token = keep
            ctypes.memmove(batch.embd, np.ascontiguousarray(rows, np.float32).ctypes.data, count * width * 4)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, start + i, 1, 1
            batch.seq_id[i][0] = 0
        code = L.llama_decode(self.handle, batch)
        if rows is not None:
            batch.token = null  # ours, not the library's to free
        L.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"decode failed with code {code}")
        logits = np.ctypeslib.as_array(L.llama_get_logits(self.handle), shape=(count, self.model.size)).copy()
        if not self.hidden:
            return logits, None
        return logits, np.ctypeslib.as_array(X.llama_get_embeddings_nextn(self.handle), shape=(count, width)).copy()

    def cut(self, position: int) -> None:
        """Forget positions from `position` on."""
        if not L.llama_memory_seq_rm(L.llama_get_memory(self.handle), 0, position, -1):
            raise RuntimeError(f"cannot go back to position {position}")

    def close(self) -> None:
        """Free the context."""
        L.llama_free(self.handle)
