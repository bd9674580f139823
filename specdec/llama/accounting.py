"""Memory by item, from the allocation lines of llama.cpp's log (its own breakdown is not reachable from Python)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from specdec.types import MemoryItem

_LINE = re.compile(r"(\S+)\s+(model|KV|RS|compute|output)\s+buffer size\s*=\s*([\d.]+)\s*MiB")
_KINDS = {"model": "weights", "KV": "KV", "RS": "recurrent", "compute": "compute", "output": "output"}
_RAM = ("CPU", "Host", "AMX", "BLAS")


def in_ram(device: str) -> bool:
    """Whether a buffer of this name (``CPU_Mapped``, ``CUDA_Host``, ``CUDA0`` ...) lies in system RAM."""
    return any(word in device for word in _RAM)


def by_place(items: Iterable[MemoryItem]) -> dict[str, int]:
    """Bytes on all GPUs together and in RAM: ``GPU``, ``RAM``."""
    sums = {"GPU": 0, "RAM": 0}
    for item in items:
        sums["RAM" if in_ram(item.device) else "GPU"] += item.bytes
    return sums


def buffers(lines: Iterable[str]) -> list[MemoryItem]:
    """One item for each buffer that llama.cpp says it allocated."""
    found = (_LINE.search(line) for line in lines)
    return [MemoryItem(m.group(1), _KINDS[m.group(2)], round(float(m.group(3)) * 2**20)) for m in found if m]
