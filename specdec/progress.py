"""Progress on stderr: a bar with time left on a terminal; elsewhere announcements, and now and then a line.

From Python also as calls of a function, as one changing line in a notebook, or not at all.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from specdec.arms import Arm
from specdec.metrics import draft_totals
from specdec.store import Sample
from specdec.types import Prompt

EVERY_S = 30.0
"""Without a terminal, at most one line of progress in so many seconds."""


Told = Callable[[int, int, str], object]
"""Takes how many cells (settings, of a replay) are stored, how many there are (0 while that is not known), and a line."""


def failures(arm: Arm, prompt: Prompt, samples: list[Sample]) -> list[str]:
    """A line for each generation of a cell that failed."""
    failed = [s for s in samples if s["status"] != "ok"]
    return [f"FAIL {arm.planned.label} on {prompt.id}: {s['error']}" for s in failed]


def cell_line(arm: Arm, prompt: Prompt, samples: list[Sample]) -> str:
    """A cell in a line: strategy, prompt, speed and acceptance."""
    text, ok = f"{arm.planned.label} {prompt.id}", [s for s in samples if s["status"] == "ok"]
    if not ok:
        return text
    tokens, seconds = sum(len(s["token_ids"]) for s in ok), sum(s["generation_s"] for s in ok)
    drafted, accepted = (sum(draft_totals(s)[i] for s in ok) for i in (0, 1))
    return f"{text} {tokens / seconds:.1f} tok/s" + (f", {accepted / drafted:.0%} accepted" if drafted else "")


class RichObserver:
    """Shows the last cell's speed and acceptance beside the bar."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console
        self._task = progress.add_task("", total=None, visible=False)
        self._told, self._left, self._total = monotonic(), 0, 0

    def announce(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def start(self, total: int, done: int) -> None:
        self._progress.update(self._task, total=total, completed=done, visible=True)
        self._told, self._left, self._total = monotonic(), total - done, total

    def cell(self, arm: Arm, prompt: Prompt, samples: list[Sample]) -> None:
        for line in failures(arm, prompt, samples):
            self.announce(line)
        text = cell_line(arm, prompt, samples)
        self._advance(f"cells; {text}", text)

    def setting(self, label: str) -> None:
        """One setting of a replay is stored."""
        self._advance(f"settings; {label}", label)

    def _advance(self, line: str, beside: str) -> None:
        self._progress.update(self._task, advance=1, description=beside)
        self._left -= 1
        if not self._console.is_terminal and monotonic() - self._told >= EVERY_S:
            self._told = monotonic()
            self.announce(f"{self._total - self._left} of {self._total} {line}")


@contextmanager
def watched() -> Iterator[RichObserver]:
    """An observer on stderr; warnings become single lines."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    with (
        Progress(
            *columns, console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal
        ) as progress,
        warnings.catch_warnings(),
    ):
        observer = RichObserver(progress, console)
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kwargs: observer.announce(f"warning: {message}")
        yield observer


class Telling:
    """Tells a function."""

    def __init__(self, tell: Told) -> None:
        self._tell, self._done, self._total = tell, 0, 0

    def announce(self, line: str) -> None:
        self._tell(self._done, self._total, line)

    def start(self, total: int, done: int) -> None:
        self._done, self._total = done, total

    def cell(self, arm: Arm, prompt: Prompt, samples: list[Sample]) -> None:
        for line in failures(arm, prompt, samples):
            self.announce(line)
        self._step(cell_line(arm, prompt, samples))

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
