"""One process at a time writes a run. Windows' locks would keep readers out, too: there is none there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from specdec.errors import SpecdecError


def lock(file: IO[bytes]) -> None:
    """Hold the file until it is closed or this process ends; where another does, it is closed, and ``SpecdecError``."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        folder = Path(file.name).parent
        raise SpecdecError(f"{folder} is being written by another process.", "Wait until that has ended.") from None


def is_locked(path: Path) -> bool:
    """Whether a process holds the file now; False where that cannot be known (Windows, no right to read it)."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
