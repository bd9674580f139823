"""Who is told how a run goes: a notebook's cell, the terminal, a function, no one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from specdec.arms import Arm
from specdec.store import Sample
from specdec.types import Prompt

if TYPE_CHECKING:
    from specdec.cli.progress import RichObserver

Told = Callable[[int, int, str], object]
"""Takes how many cells (settings, of a replay) are stored, how many there are (0 while that is not known), and a line."""


class Telling:
    """Tells a function."""

    def __init__(self, tell: Told) -> None:
        self._tell, self._done, self._total = tell, 0, 0

    def announce(self, line: str) -> None:
        self._tell(self._done, self._total, line)

    def start(self, total: int, done: int, pauses_s: float = 0.0) -> None:
        self._done, self._total = done, total

    def cell(self, arm: Arm, prompt: Prompt, samples: list[Sample]) -> None:
        for sample in samples:
            if sample["status"] != "ok":
                self.announce(f"FAIL {arm.planned.label} on {prompt.id}: {sample['error']}")
        self._step(f"{arm.planned.label} {prompt.id}")

    def setting(self, label: str) -> None:
        self._step(label)

    def _step(self, line: str) -> None:
        self._done += 1
        self._tell(self._done, self._total, line)


class InNotebook(Telling):
    """What was announced, and below it one line that changes, in the output of a notebook's cell."""

    def __init__(self, display: Callable[..., Any]) -> None:
        super().__init__(lambda done, total, line: self._show(f"{done} of {total}: {line}"))
        self._lines: list[str] = []
        self._place = display({"text/plain": ""}, raw=True, display_id=True)

    def announce(self, line: str) -> None:
        self._lines.append(line)
        self._show("")

    def _show(self, last: str) -> None:
        self._place.update({"text/plain": "\n".join([*self._lines, last])}, raw=True)


@contextmanager
def observed(progress: bool | Told) -> Iterator[RichObserver | Telling]:
    """An observer for Python: True shows progress in a notebook or on stderr, False nothing, a function is called."""
    if callable(progress):
        yield Telling(progress)
    elif not progress:
        yield Telling(lambda done, total, line: None)
    elif (display := _notebook()) is not None:
        yield InNotebook(display)
    else:
        from specdec.cli.progress import watched

        with watched() as observer:
            yield observer


def _notebook() -> Callable[..., Any] | None:
    """IPython's ``display`` where a notebook shows it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:
        return None
    found: Callable[..., Any] = import_module("IPython.display").display
    return found
