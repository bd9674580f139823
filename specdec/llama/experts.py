"""Counts the distinct experts that each layer of a mixture-of-experts target uses in a pass.

llama.cpp's scheduler asks a callback, for every node of the graph, whether it wants to see it. Wanting a layer's
``ffn_moe_topk`` splits the graph there and waits for the device: passes get slower by what that costs, so a context
counts only when asked to. What it answers: whether C(n) grows as the experts that n tokens need between them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.llama.library import ggml_function, llama

_NAME = b"ffn_moe_topk-"
_I32 = 26


class _Tensor(ctypes.Structure):
    """The beginning of ggml.h's struct ggml_tensor."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
    ]


class ExpertCounter:
    """Hand ``callback`` to a context (``cb_eval``) and keep this object as long as the context lives."""

    def __init__(self) -> None:
        self._name = ggml_function("ggml_get_name", ctypes.c_char_p, [ctypes.c_void_p])
        self._read = ggml_function(
            "ggml_backend_tensor_get", None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        )
        self._layers: dict[int, set[int]] = {}
        self._failed: Exception | None = None
        kind: Any = llama().llama_cpp.ggml_backend_sched_eval_callback
        self.callback = kind(self._see)

    def take(self) -> list[int]:
        """Distinct experts of each layer since the last call, in the order of the layers; then counts anew."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        counts = [len(self._layers[layer]) for layer in sorted(self._layers)]
        self._layers = {}
        return counts

    def _see(self, tensor: int, ask: bool, _data: int) -> bool:
        # An exception must not travel through llama.cpp: it is kept and raised by take().
        try:
            name = self._name(tensor)
            if not name.startswith(_NAME):
                return not ask
            if not ask:
                self._layers.setdefault(int(name[len(_NAME) :]), set()).update(self._chosen(tensor).tolist())
        except Exception as error:  # noqa: BLE001
            self._failed = error
        return True

    def _chosen(self, tensor: int) -> npt.NDArray[np.int32]:
        """The ids in a [experts used, tokens] tensor, which may be a view with longer rows."""
        t = _Tensor.from_address(tensor)
        if t.type != _I32:
            raise TypeError(f"ffn_moe_topk has ggml type {t.type}, not I32")
        used, tokens, stride = t.ne[0], t.ne[1], t.nb[1]
        raw = np.empty((tokens - 1) * stride + used * 4, np.uint8)
        self._read(tensor, raw.ctypes.data, 0, raw.nbytes)
        rows = np.lib.stride_tricks.as_strided(raw, (tokens, used * 4), (stride, 1))
        return np.ascontiguousarray(rows).view(np.int32).reshape(-1)
