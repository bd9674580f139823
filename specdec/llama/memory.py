"""llama.cpp's memory of one sequence: cutting, snapshots, checkpoints. Safety is rollback.py's business."""

from __future__ import annotations

import ctypes
from typing import Any

from specdec.errors import SpecdecError

_PARTIAL_ONLY = 1
_ON_DEVICE = 2
_SEQUENCE = 0


class LlamaMemory:
    """Sequence 0 of a context. ``snapshots`` is the context's ``n_rs_seq`` (0 where the architecture has none)."""

    def __init__(self, lib: Any, context: Any, recurrent: bool) -> None:
        self._lib, self._context = lib, context
        self._memory = lib.llama_get_memory(context)
        self.recurrent = recurrent
        self.snapshots = int(lib.llama_n_rs_seq(context))
        self._saved: dict[int, tuple[Any, int, int]] = {}  # slot: buffer, flags, bytes

    def remove_from(self, position: int) -> bool:
        """``llama_memory_seq_rm``; its True does not mean that the state is right (rollback.py)."""
        return bool(self._lib.llama_memory_seq_rm(self._memory, _SEQUENCE, position, -1))

    def save(self, on_device: bool, slot: int = 0) -> None:
        """Copy the recurrent state: on the device, or into a host buffer that is kept and reused."""
        flags = _PARTIAL_ONLY | (_ON_DEVICE if on_device else 0)
        size = self._lib.llama_state_seq_get_size_ext(self._context, _SEQUENCE, flags)
        buffer = self._saved[slot][0] if slot in self._saved else b""
        if size > len(buffer):
            buffer = (ctypes.c_uint8 * size)()
        written = self._lib.llama_state_seq_get_data_ext(self._context, buffer, size, _SEQUENCE, flags)
        if written == 0:
            raise SpecdecError("llama.cpp could not save a checkpoint.", "Try --rollback checkpoint-host.")
        self._saved[slot] = (buffer, flags, size)

    def restore(self, slot: int = 0) -> None:
        """Put the saved state back."""
        buffer, flags, size = self._saved[slot]
        if not self._lib.llama_state_seq_set_data_ext(self._context, buffer, size, _SEQUENCE, flags):
            raise SpecdecError("llama.cpp could not restore a checkpoint.", "Try --rollback checkpoint-host.")

    def checkpoint_bytes(self) -> int:
        """Bytes of one recurrent state."""
        return int(self._lib.llama_state_seq_get_size_ext(self._context, _SEQUENCE, _PARTIAL_ONLY))

    def saved(self) -> list[tuple[bool, int]]:
        """For each checkpoint that is kept whether the states lie on the device, and the bytes that lie in RAM."""
        return [(bool(flags & _ON_DEVICE), len(buffer)) for buffer, flags, _ in self._saved.values()]

    def clear(self) -> None:
        """Empty the memory; the recurrent state is zeroed."""
        self._lib.llama_memory_clear(self._memory, True)
