"""A llama_batch of one sequence, made once and filled anew for each decode."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from specdec.target import Outputs
from specdec.types import FloatArray, TokenArray


class Batch:
    """Room for ``size`` tokens.

    Args:
        lib: llama_cpp.
        size: most tokens of a decode.
        rows: float32 [size, width] of hidden rows that go with the tokens; stays the caller's and must outlive this.
    """

    def __init__(self, lib: Any, size: int, rows: FloatArray | None = None) -> None:
        self._lib, self.size = lib, size
        batch = self.handle = lib.llama_batch_init(size, 0, 1)
        if rows is not None:
            batch.embd = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        self._tokens: Any = np.ctypeslib.as_array(batch.token, (size,))
        self._positions: Any = np.ctypeslib.as_array(batch.pos, (size,))
        self._wanted: Any = np.ctypeslib.as_array(batch.logits, (size,))
        self._counting = np.arange(size, dtype=np.int32)
        # A single token is the most frequent batch: plain memory is written in a tenth of the time of NumPy's slices.
        self._first: Any = (batch.token, batch.pos, batch.logits)
        for i in range(size):
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0

    def fill(self, ids: TokenArray, start: int, outputs: Outputs) -> None:
        """Hold ``ids`` at positions start, start+1, ... with logits where asked."""
        n = self.handle.n_tokens = len(ids)
        if n == 1:
            tokens, positions, wanted = self._first
            tokens[0], positions[0], wanted[0] = int(ids[0]), start, outputs != "none"
            return
        self._tokens[:n] = ids
        self._positions[:n] = self._counting[:n]
        self._positions[:n] += start
        self._wanted[:n] = 1 if outputs == "all" else 0
        if outputs == "last":
            self._wanted[n - 1] = 1

    def close(self) -> None:
        """Free it, but not the rows, which are not llama.cpp's."""
        self.handle.embd = None
        self._lib.llama_batch_free(self.handle)
