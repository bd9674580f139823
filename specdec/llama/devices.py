"""ggml's devices: the CPU and the GPUs that this llama.cpp build sees."""

from __future__ import annotations

import ctypes

from specdec.llama.library import ggml_function


def devices() -> dict[str, int]:
    """Handles by name (``CPU``, ``CUDA0`` ...)."""
    count = ggml_function("ggml_backend_dev_count", ctypes.c_size_t, [])
    get = ggml_function("ggml_backend_dev_get", ctypes.c_void_p, [ctypes.c_size_t])
    name = ggml_function("ggml_backend_dev_name", ctypes.c_char_p, [ctypes.c_void_p])
    return {name(d).decode(): d for d in map(get, range(count()))}


def free_bytes() -> dict[str, int]:
    """Memory that each device says is free; devices that do not tell are left out."""
    size = ctypes.POINTER(ctypes.c_size_t)
    ask = ggml_function("ggml_backend_dev_memory", None, [ctypes.c_void_p, size, size])
    found = {}
    for name, handle in devices().items():
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ask(handle, ctypes.byref(free), ctypes.byref(total))
        if total.value:
            found[name] = int(free.value)
    return found
