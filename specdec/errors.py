"""The one exception that a user sees: what happened and what to do, in one line, exit code 2."""

from __future__ import annotations

import re

_MEMORY = re.compile(
    r"out of memory|failed to allocate|unable to allocate|cannot allocate memory|bad_alloc|not enough memory"
    r"|resource allocation failed",  # cuBLAS, CUBLAS_STATUS_ALLOC_FAILED
    re.I,
)


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


class SpecdecError(Exception):
    """A fault that the user can mend.

    Args:
        what: what is wrong and where, a full sentence.
        hint: what to do about it; may be empty.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = one_line(what)
        self.hint = one_line(hint)
        super().__init__(f"{self.what} {self.hint}".strip())


class OutOfMemory(SpecdecError):
    """RAM or VRAM did not suffice. Costs what asked for it, not the run."""


class UnsafeRollback(SpecdecError):
    """A rollback was asked for that the target cannot serve without leaving a stale state."""


class ServerDied(SpecdecError):
    """A server ended that was to answer. ``log``: the last lines that it printed."""

    def __init__(self, what: str, hint: str, log: list[str]) -> None:
        super().__init__(what, hint)
        self.log = log


class BrokenGeneration(SpecdecError):
    """A generation whose counters contradict each other: stored as an error, never as a result."""


def tells_of_memory(text: str) -> bool:
    """Whether a log speaks of memory that could not be had (llama.cpp's, CUDA's and libc's words)."""
    return _MEMORY.search(text) is not None
