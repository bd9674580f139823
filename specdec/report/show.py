"""A generated text in the terminal, each token marked by where it came from; with and without colour."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.text import Text
from tabulate import tabulate

from specdec.acceptance import draft_totals
from specdec.metrics import arm_of
from specdec.report.names import arm_name
from specdec.report.tokens import Mark, TokenStep, TokenView
from specdec.store import Run

_COLORS = ("green", "cyan", "magenta", "blue")
"""Of accepted tokens, by the strategy that drafted them."""
_BORDER = "|"


class Marks:
    """Draws steps, one after the other: of one text, or of several that share their colours.

    Args:
        color: whether tokens are told apart by colours; else by signs.
    """

    def __init__(self, color: bool) -> None:
        self._color = color
        self.sources: list[str] = []
        """What has drafted, in the order of its first draft."""

    def step(self, step: TokenStep) -> Text:
        """The texts of its tokens, marked."""
        out = Text()
        if step.drafted and step.source not in self.sources:
            self.sources.append(step.source)
        if step.number:
            out.append(_BORDER, "dim" if self._color else "")
        kept, rest = step.marks[: step.accepted], step.marks[step.accepted :]
        if step.drafted and not self._color:
            out.append("‹" + "·".join(_shown(m) for m in kept) + "›")
        else:
            for mark in kept:
                # Underlined too, every second position: borders are seen where a colour has none.
                style = _COLORS[self.sources.index(step.source) % len(_COLORS)]
                out.append(_shown(mark), f"{style} underline" if mark.position % 2 else style)
        for mark in rest:
            out.append(_shown(mark), "bold yellow" if self._color and mark.origin == "bonus" else "")
        return out

    def legend(self) -> Text:
        """What the marks so far mean, a line."""
        out = Text()
        if not self.sources:
            return out.append("Nothing was drafted: every token is plain.\n")
        if self._color:
            for i, source in enumerate(self.sources):
                out.append(f"accepted from {source}", _COLORS[i % len(_COLORS)])
                out.append(" (underlined: positions 1, 3, 5 ...)" if not i else "").append("  ")
            out.append("bonus", "bold yellow")
            return out.append("  plain  ").append(f"{_BORDER} step\n", "dim")
        return out.append(
            f"{_BORDER} begins a step. ‹a·b› accepted draft tokens, ‹› a draft of which none was; after it the bonus"
            " token. No ‹›: plain.\n"
        )


def has_color(console: Console) -> bool:
    """Whether colours can be seen there and are wanted (``NO_COLOR``)."""
    return console.color_system is not None and not console.no_color


def as_text(run: Run, seen: TokenView, color: bool) -> Text:
    """The text with its marks, what they mean, and the step counts."""
    s, marks = seen.sample, Marks(color)
    out = Text()
    out.append(f"Run {run.id}, sample {seen.number}: {s['prompt']}, {s['strategy']}")
    out.append(f"{' (warm-up)' if s['warmup'] else ''}, {len(s['token_ids'])} tokens, stopped by {s['stop']}\n\n")
    for step in seen.steps:
        out.append_text(marks.step(step))
    out.append("\n\n")
    out.append_text(marks.legend())
    out.append(_counts(seen))
    if seen.note:
        out.append(f"\n{seen.note}")
    return out


def steps_table(seen: TokenView) -> str:
    """A line a step."""
    body = [
        [s.number, s.source if s.drafted else "", s.drafted, s.accepted, "" if s.ms is None else f"{s.ms:.2f}",
         s.rollback, _visible("".join(m.text for m in s.marks))]
        for s in seen.steps
    ]  # fmt: skip
    heads = ["step", "drafted by", "drafted", "accepted", "ms", "rolled back by", "text"]
    return str(tabulate(body, heads, "simple", disable_numparse=True))


def list_table(run: Run) -> str:
    """The samples of a run with their numbers."""
    body = []
    for i, s in enumerate(run.samples, 1):
        known = s["status"] == "ok"
        drafted, accepted = draft_totals(s) if known else (0, 0)
        speed = f"{len(s['token_ids']) / s['generation_s']:.2f}" if known and s["generation_s"] else ""
        kept = f"{accepted / drafted:.0%}" if drafted else ""
        name = arm_name(*arm_of(s))
        what = "warm-up" if s["warmup"] else "" if known else s["status"]
        body.append([i, s["prompt"], name, len(s["token_ids"]) if known else "", kept, speed, what])
    heads = ["number", "prompt", "strategy", "tokens", "accepted", "tok/s", ""]
    return str(tabulate(body, heads, "simple", disable_numparse=True))


def _counts(seen: TokenView) -> str:
    steps = [s for s in seen.steps if s.number]
    drafting = Counter(s.source for s in steps if s.drafted)
    drafted, accepted = sum(s.drafted for s in steps), sum(s.accepted for s in steps)
    by = ", ".join(f"{n} by {source}" for source, n in drafting.items())
    rate = f", {accepted} of {drafted} draft tokens accepted ({accepted / drafted:.0%})" if drafted else ""
    emitted = sum(len(s.marks) for s in steps)
    per = f", {emitted / len(steps):.2f} tokens a step" if steps else ""
    return f"{len(steps)} steps{f', drafts: {by}' if by else ''}{rate}{per}."


def _shown(mark: Mark) -> str:
    return mark.text.replace("\x1b", "\u241b")  # the model's words, never commands to the terminal


def _visible(text: str) -> str:
    return text.replace("\n", "\\n").replace("\t", "\\t")
