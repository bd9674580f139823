"""A smaller card on a bigger one: what is too much of a GPU's memory is taken and held, so that running over the rest
fails as it would on the smaller card."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Protocol

from specdec.errors import OutOfMemory, SpecdecError
from specdec.llama.devices import Device, describe, devices
from specdec.llama.library import ggml_function
from specdec.spec import ModelOptions

_MIB = 2**20
_TOLERANCE = 16 * _MIB
"""A GPU hands memory out in pages: what is left free may differ by so much from what was meant to be."""


class Gpu(Protocol):
    """What a ballast needs of a GPU. Its memory as it is seen from this process, whose own context counts as used."""

    name: str

    def free(self) -> int:
        """Bytes that are free now."""

    def take(self, n: int) -> int:
        """Allocate ``n`` bytes and touch nothing; a handle, 0 where they cannot be had."""

    def release(self, handle: int) -> None:
        """Give them back."""


@dataclass(slots=True)
class GgmlGpu:
    """A ggml device."""

    name: str
    device: int

    def free(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        size = ctypes.POINTER(ctypes.c_size_t)
        ask = ggml_function("ggml_backend_dev_memory", None, [ctypes.c_void_p, size, size])
        ask(self.device, ctypes.byref(free), ctypes.byref(total))
        return int(free.value)

    def take(self, n: int) -> int:
        of_device = ggml_function("ggml_backend_dev_buffer_type", ctypes.c_void_p, [ctypes.c_void_p])
        allocate = ggml_function("ggml_backend_buft_alloc_buffer", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t])
        return int(allocate(of_device(self.device), n) or 0)

    def release(self, handle: int) -> None:
        ggml_function("ggml_backend_buffer_free", None, [ctypes.c_void_p])(handle)


@dataclass(slots=True)
class Ballast:
    """Leaves ``allowance`` bytes of a GPU free for what this process allocates from now on, and holds the rest.

    Raises:
        SpecdecError: less is free than that, or the memory cannot be taken.
    """

    gpu: Gpu
    allowance: int
    _handle: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        free = self.gpu.free()
        if self.allowance > free:
            raise SpecdecError(
                f"the cap leaves {self.allowance / _MIB:,.0f} MiB to the run, but {self.gpu.name} has only"
                f" {free / _MIB:,.0f} MiB free.",
                "End what else uses the GPU, or name a smaller card.",
            )
        self.bytes = free - self.allowance
        if not self.bytes:
            return
        self._handle = self.gpu.take(self.bytes)
        if not self._handle:
            raise OutOfMemory(
                f"{self.gpu.name}: {self.bytes / _MIB:,.0f} MiB cannot be taken to emulate a smaller card."
            )
        left = self.gpu.free()
        if abs(left - self.allowance) > _TOLERANCE:
            self.close()
            raise SpecdecError(
                f"{self.gpu.name}: {left / _MIB:,.0f} MiB are free beside the ballast, not"
                f" {self.allowance / _MIB:,.0f}: other programs use this GPU.",
                "End them, and run again.",
            )

    def close(self) -> None:
        """Give the memory back."""
        if self._handle:
            self.gpu.release(self._handle)
            self._handle = 0


def the_gpu(options: ModelOptions) -> Device | None:
    """The one GPU that a run with these options uses; None where it uses none. Several cannot be capped."""
    if options.gpu_layers == 0 or options.device == "none":
        return None
    gpus = [d for d in describe() if d.is_gpu]
    if options.device:
        gpus = [d for d in gpus if d.name in options.device.split(",")]
    elif 0 <= options.main_gpu < len(gpus):
        gpus = [gpus[options.main_gpu]]
    if len(gpus) > 1:
        named = ", ".join(d.name for d in gpus)
        raise SpecdecError(f"a capped run uses one GPU, this one {len(gpus)} ({named}).", "Name one with --main-gpu 0.")
    return gpus[0] if gpus else None


def hold(options: ModelOptions, limit: int, context: int) -> Ballast | None:
    """Take the ballast for a run that may use ``limit`` bytes, ``context`` of them for what the process has paid before
    it allocates anything (on the emulated card it would pay that too). None where there is no GPU to cap."""
    gpu = the_gpu(options)
    if gpu is None:
        return None
    return Ballast(GgmlGpu(gpu.name, devices()[gpu.name]), limit - context)
