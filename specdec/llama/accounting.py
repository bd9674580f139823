"""Memory by item, from the allocation lines of llama.cpp's log (its own breakdown is not reachable from Python)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from specdec.types import MemoryItem

_LINE = re.compile(r"(\S+)\s+(model|KV|RS|compute|output)\s+buffer size\s*=\s*([\d.]+)\s*MiB")
_KINDS = {"model": "weights", "KV": "KV", "RS": "recurrent", "compute": "compute", "output": "output"}
PLACES = ("GPU", "RAM")
_RAM = ("CPU", "Host", "AMX", "BLAS")


def in_ram(device: str) -> bool:
    """Whether a buffer of this name (``CPU_Mapped``, ``CUDA_Host``, ``CUDA0`` ...) lies in system RAM."""
    return any(word in device for word in _RAM)


def place_of(device: str) -> str:
    """``GPU`` or ``RAM``: where a buffer of this name lies."""
    return "RAM" if in_ram(device) else "GPU"


def by_place(items: Iterable[MemoryItem]) -> dict[str, int]:
    """Bytes on all GPUs together and in RAM: ``GPU``, ``RAM``."""
    sums = dict.fromkeys(PLACES, 0)
    for item in items:
        sums[place_of(item.device)] += item.bytes
    return sums


def buffers(lines: Iterable[str]) -> list[MemoryItem]:
    """One item for each buffer that llama.cpp says it allocated."""
    found = (_LINE.search(line) for line in lines)
    return [MemoryItem(m.group(1), _KINDS[m.group(2)], round(float(m.group(3)) * 2**20)) for m in found if m]
