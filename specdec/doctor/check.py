"""One line of the diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """``area`` is a stable name, ``text`` what is the case; ``mend`` what to type or do, always there for a fault."""

    area: str
    state: State
    text: str
    mend: str | None = None


def ok(area: str, text: str) -> Check:
    """As it should be."""
    return Check(area, "ok", text)


def note(area: str, text: str, mend: str | None = None) -> Check:
    """Worth knowing; not wrong."""
    return Check(area, "note", text, mend)


def fault(area: str, text: str, mend: str) -> Check:
    """Something does not work, or far slower than it could."""
    return Check(area, "fault", text, mend)
