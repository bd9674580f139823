"""Progress on stderr: a bar with time left on a terminal; elsewhere announcements, and now and then a line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from specdec.acceptance import draft_totals
from specdec.arms import Arm
from specdec.report.live import SampleTexts
from specdec.report.show import has_color
from specdec.store import Sample
from specdec.types import Prompt

EVERY_S = 30.0
"""Without a terminal, at most one line of progress in so many seconds."""


class RichObserver:
    """Shows the last cell's speed and acceptance beside the bar, and above it the texts of ``texts_of``, a target."""

    def __init__(self, progress: Progress, console: Console, texts_of: str = "") -> None:
        self._progress, self._console = progress, console
        self._texts: SampleTexts | None = None
        if texts_of and console.is_terminal:
            self._texts = SampleTexts(texts_of, has_color(console))
        elif texts_of:
            self.announce("--watch is off: stderr is no terminal.")
        self._task = progress.add_task("", total=None, visible=False, left="")
        self._told, self._left, self._total, self._pauses_s = monotonic(), 0, 0, 0.0
        self._at, self._spent_s, self._counted = monotonic(), 0.0, 0

    def announce(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def start(self, total: int, done: int, pauses_s: float = 0.0) -> None:
        self._progress.update(self._task, total=total, completed=done, visible=True)
        self._told, self._left, self._total, self._pauses_s = monotonic(), total - done, total, pauses_s
        self._at = monotonic()

    def setting(self, label: str) -> None:
        """One setting of a replay is done."""
        self._advance(label, counts=True)

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
        if self._texts is not None and ok:
            # Between cells: the worker has said that it is done and has no order yet. It sends nothing for this that
            # it would not send anyway, so neither its own work nor a busy neighbour changes what is timed.
            self._console.print(self._texts.draw(ok), highlight=False, soft_wrap=True)
        left = self._advance(text, counts=not any(s["warmup"] for s in ok))
        if not self._console.is_terminal and monotonic() - self._told >= EVERY_S:
            self._told = monotonic()
            self.announce(f"{self._total - self._left} of {self._total} cells{left and f', {left}'}; {text}")

    def _advance(self, text: str, counts: bool) -> str:
        """One more is done; returns how much time is left, by the mean of those that count: warm-ups are short."""
        now = monotonic()
        self._left -= 1
        if counts:
            self._spent_s, self._counted = self._spent_s + now - self._at, self._counted + 1
        self._at = now
        seconds = self._pauses_s + self._left * self._spent_s / self._counted if self._counted else None
        left = "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"
        self._progress.update(self._task, advance=1, description=text, left=left)
        return left


@contextmanager
def watched(texts_of: str = "") -> Iterator[RichObserver]:
    """An observer on stderr; warnings become single lines.

    Args:
        texts_of: the target whose texts are shown as they come, token by token, on a terminal; empty for none.
    """
    console = Console(stderr=True)
    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", style="progress.remaining", markup=False),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(
        *columns, console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal
    ) as progress:
        observer = RichObserver(progress, console, texts_of)
        with warnings_as_lines(observer.announce):
            yield observer


@contextmanager
def warnings_as_lines(announce: Callable[[str], None]) -> Iterator[None]:
    """Inside, each warning becomes a line."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kwargs: announce(f"warning: {message}")
        yield
