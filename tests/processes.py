"""Whether processes have ended, where nobody may have collected them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil


def alive_after(processes: Iterable[psutil.Process], seconds: float = 60.0) -> list[psutil.Process]:
    """Those that still run when the time is over; empty as soon as none does. A zombie has ended: in a container nobody may
    ever collect it."""
    end = time.monotonic() + seconds
    left = list(processes)
    while (left := [p for p in left if _runs(p)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
