"""ggml's devices: the CPU and the GPUs that this llama.cpp build sees (ggml-backend.h)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from specdec.llama.library import ggml_function, gpu_names
from specdec.spec import ModelOptions

_KINDS = {0: "CPU", 1: "GPU", 2: "integrated GPU", 3: "accelerator"}
"""enum ggml_backend_dev_type."""


class _Props(ctypes.Structure):
    """struct ggml_backend_dev_props; ``caps`` has five flags in this llama.cpp, and room for more."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", ctypes.c_bool * 64),
    ]


@dataclass(frozen=True, slots=True)
class Device:
    """``name`` is what --device takes; ``bus_id`` its PCI address, None where ggml does not know it. Bytes."""

    name: str
    description: str
    kind: str
    free_bytes: int
    total_bytes: int
    bus_id: str | None

    @property
    def is_gpu(self) -> bool:
        """A GPU of either kind."""
        return self.kind.endswith("GPU")


def devices() -> dict[str, int]:
    """Handles by name (``CPU``, ``CUDA0`` ...)."""
    count = ggml_function("ggml_backend_dev_count", ctypes.c_size_t, [])
    get = ggml_function("ggml_backend_dev_get", ctypes.c_void_p, [ctypes.c_size_t])
    name = ggml_function("ggml_backend_dev_name", ctypes.c_char_p, [ctypes.c_void_p])
    return {name(d).decode(): d for d in map(get, range(count()))}


def free_bytes() -> dict[str, int]:
    """Memory that each device says is free; devices that do not tell are left out."""
    return {d.name: d.free_bytes for d in describe() if d.total_bytes}


def describe() -> list[Device]:
    """What each device says of itself, in the build's order."""
    fill = ggml_function("ggml_backend_dev_get_props", None, [ctypes.c_void_p, ctypes.POINTER(_Props)])
    found = []
    for handle in devices().values():
        props = _Props()
        fill(handle, ctypes.byref(props))
        name, description, bus_id = (_decoded(t) for t in (props.name, props.description, props.device_id))
        kind = _KINDS.get(props.type, f"type {props.type}")
        found.append(Device(name, description, kind, props.memory_free, props.memory_total, bus_id or None))
    return found


def backends() -> list[str]:
    """The backends that were built in or found beside the library: CPU, CUDA, Metal, Vulkan ..."""
    count = ggml_function("ggml_backend_reg_count", ctypes.c_size_t, [])
    get = ggml_function("ggml_backend_reg_get", ctypes.c_void_p, [ctypes.c_size_t])
    name = ggml_function("ggml_backend_reg_name", ctypes.c_char_p, [ctypes.c_void_p])
    return [name(get(i)).decode() for i in range(count())]


def used_bus_ids(options: ModelOptions) -> list[str] | None:
    """PCI addresses of the GPUs that a run with these options uses, for ``Monitor``; empty for the CPU alone, None where
    ggml does not tell them (then watch all)."""
    if options.gpu_layers == 0 or options.device == "none":
        return []
    gpus = [d for d in describe() if d.is_gpu]
    if options.device:
        gpus = [d for d in gpus if d.name in options.device.split(",")]
    elif 0 <= options.main_gpu < len(gpus):
        gpus = [gpus[options.main_gpu]]
    ids = [d.bus_id for d in gpus if d.bus_id is not None]
    return ids if len(ids) == len(gpus) else None


def _decoded(text: bytes | None) -> str:
    return (text or b"").decode("utf-8", "replace")


def in_vain(options: ModelOptions) -> str:
    """A line where options of a GPU are given and there is none; empty otherwise."""
    given = {
        "--gpu-layers": options.gpu_layers > 0,
        "--n-cpu-moe": options.n_cpu_moe,
        "--main-gpu": options.main_gpu >= 0,
    }
    named = [name for name, value in given.items() if value]
    if not named or gpu_names():
        return ""
    return f"{', '.join(named)}: this llama-cpp-python sees no GPU, all of it runs on the CPU (specdec doctor)"
