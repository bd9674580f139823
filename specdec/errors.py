"""The one exception that a user sees: what happened and what to do, in one line, exit code 2."""

from __future__ import annotations


class SpecdecError(Exception):
    """A fault that the user can mend.

    Args:
        what: what is wrong and where, a full sentence.
        hint: what to do about it; may be empty.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = " ".join(what.split())
        self.hint = " ".join(hint.split())
        super().__init__(f"{self.what} {self.hint}".strip())


class UnsafeRollback(SpecdecError):
    """A rollback was asked for that the target cannot serve without leaving a stale state."""


class ServerDied(SpecdecError):
    """A server ended that was to answer. ``log``: the last lines that it printed."""

    def __init__(self, what: str, hint: str, log: list[str]) -> None:
        super().__init__(what, hint)
        self.log = log


class BrokenGeneration(SpecdecError):
    """A generation whose counters contradict each other: stored as an error, never as a result."""
