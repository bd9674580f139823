"""Progress on stderr: a bar with time left on a terminal; elsewhere announcements, and now and then a line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from specdec.arms import Arm
from specdec.metrics import draft_totals
from specdec.store import Sample
from specdec.types import Prompt

EVERY_S = 30.0
"""Without a terminal, at most one line of progress in so many seconds."""


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
        ok = [s for s in samples if s["status"] == "ok"]
        for sample in samples:
            if sample["status"] != "ok":
                self.announce(f"FAIL {arm.planned.label} on {prompt.id}: {sample['error']}")
        text = f"{arm.planned.label} {prompt.id}"
        if ok:
            tokens, seconds = sum(len(s["token_ids"]) for s in ok), sum(s["generation_s"] for s in ok)
            drafted, accepted = (sum(draft_totals(s)[i] for s in ok) for i in (0, 1))
            text += f" {tokens / seconds:.1f} tok/s" + (f", {accepted / drafted:.0%} accepted" if drafted else "")
        self._progress.update(self._task, advance=1, description=text)
        self._left -= 1
        if not self._console.is_terminal and monotonic() - self._told >= EVERY_S:
            self._told = monotonic()
            self.announce(f"{self._total - self._left} of {self._total} cells; {text}")

    def setting(self, label: str) -> None:
        """One setting of a replay is done."""
        self._left -= 1
        self._progress.update(self._task, advance=1, description=label)


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
