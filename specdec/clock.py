"""The clock of the loop: wall time booked by phase, without gaps."""

from __future__ import annotations

from time import perf_counter

from specdec.types import PHASES


class Clock:
    """Books wall time by phase without gaps: each ``to`` books the time since the last one."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin again at zero, now."""
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.start = self._last = perf_counter()

    def to(self, phase: str) -> float:
        """Book the time since the last call to ``phase``; returns it in seconds."""
        now = perf_counter()
        spent = now - self._last
        self.seconds[phase] += spent
        self._last = now
        return spent

    def skip(self) -> None:
        """Book the time since the last call to no phase: it belongs to somebody else."""
        now = perf_counter()
        self.start += now - self._last
        self._last = now

    @property
    def booked(self) -> float:
        """Seconds from the start to the last booking."""
        return self._last - self.start

    def move(self, source: str, phase: str, seconds: float) -> None:
        """Rebook part of a phase."""
        self.seconds[source] -= seconds
        self.seconds[phase] += seconds
