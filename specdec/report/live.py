"""Texts while they are being generated: steps as tokens with their texts, and at the end what they came to."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import cached_property

from rich.text import Text

from specdec.llama.pieces import Pieces
from specdec.metrics import BASELINE
from specdec.models import model_path
from specdec.report.show import Marks
from specdec.report.tokens import TokenStep, cut, token_step, view_sample
from specdec.store import Sample
from specdec.types import Generation, Step


class TokenStream:
    """Gives the steps of one generation their texts, as they come.

    Args:
        label: of the strategy; a step's note names the part of it that drafted.
        piece: the bytes of a token; characters go to the token that completes them.
        stops: strings that end the text and are no part of it: what may be the beginning of one is held back.
    """

    def __init__(self, label: str, piece: Callable[[int], bytes], stops: tuple[str, ...] = ()) -> None:
        self._label, self._piece = label, piece
        self._keep = max(map(len, stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._number, self._told = 0, 0
        self._held: list[TokenStep] = []

    def add(self, step: Step) -> list[TokenStep]:
        """One more step; returns those whose texts are settled now."""
        # A stop string ends in the last step, so at most its other characters lie in the steps before.
        settled = self._release(self._keep - 1) if self._keep else []
        texts = [self._decoder.decode(self._piece(token)) for token in step.emitted]
        source = str(step.draft.note or self._label)
        self._held.append(token_step(self._number, source, len(step.draft.token_ids), step.accepted, texts))
        self._number += 1
        return settled if self._keep else self._release(0)

    def end(self, text: str) -> list[TokenStep]:
        """The steps that were held back, cut to where the whole ``text`` ends."""
        rest: list[TokenStep] = []
        while self._held:
            held = self._held.pop(0)
            texts = cut([m.text for m in held.marks], len(text) - self._told)
            self._told += sum(map(len, texts))
            rest.append(token_step(held.number, held.source, held.drafted, held.accepted, texts))
        return rest

    def _release(self, keep: int) -> list[TokenStep]:
        """Steps that at least ``keep`` characters follow."""
        ready = []
        while self._held and sum(len(_text(s)) for s in self._held[1:]) >= keep:
            ready.append(self._held.pop(0))
            self._told += len(_text(ready[-1]))
        return ready


class SampleTexts:
    """Draws the texts of finished generations, one after the other, with the same marks.

    Args:
        target: the model's name, for its vocabulary.
        color: see ``Marks``.
    """

    def __init__(self, target: str, color: bool) -> None:
        self._target, self._marks = target, Marks(color)
        self._explained = Text()

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(model_path(self._target))

    def draw(self, samples: list[Sample]) -> Text:
        """Their texts (all are ok), and what the marks mean where that is new."""
        out = Text()
        for s in samples:
            out.append_text(self._text(s))
        if self._marks.sources and self._explained != (legend := self._marks.legend()):
            self._explained = legend
            out.append_text(legend)
        return out

    def _text(self, s: Sample) -> Text:
        turn = f", turn {s['turn'] + 1}" if s["turn"] else ""
        out = Text().append(f"{s['prompt']}{turn}, {s['strategy']}{' (warm-up)' if s['warmup'] else ''}:\n", "bold")
        if s["steps"]:
            for step in view_sample(s, 0, self._pieces).steps:
                out.append_text(self._marks.step(step))
        else:
            out.append(f"{s['text']} [{s['engine']} tells no steps]")
        return out.append("\n")


def summary(label: str, g: Generation) -> str:
    """What the text came to, in a line: tokens, speed, acceptance, AL."""
    speed = f" in {g.generation_s:.2f} s: {_tok_s(g):.1f} tok/s" if g.generation_s else ""
    drafted, accepted, steps = sum(g.steps.drafted), sum(g.steps.accepted), len(g.steps)
    if drafted:
        per = (len(g.token_ids) - 1) / steps
        rest = f"; {accepted} of {drafted} draft tokens accepted ({accepted / drafted:.0%}), AL {per:.2f}"
    else:
        rest = "" if label == BASELINE else f"; {label} drafted nothing: inactive"
    return f"{len(g.token_ids)} tokens{speed}{rest}."


def against_plain(label: str, g: Generation, plain: Generation | None, measure: str) -> str:
    """The same against plain decoding of the text's beginning (None: there is none), in a line that ends with the
    command ``measure``."""
    if label == BASELINE:
        return f"This was plain decoding. What drafting would give: {measure}"
    if plain is None or not plain.generation_s or not g.generation_s:
        return f"To compare it with plain decoding: {measure}"
    ratio, tokens = _tok_s(g) / _tok_s(plain), len(plain.token_ids)
    return (
        f"Speedup {ratio:.2f} over plain decoding ({_tok_s(plain):.1f} tok/s on {tokens} tokens), once. More: {measure}"
    )


def _tok_s(g: Generation) -> float:
    return len(g.token_ids) / g.generation_s


def _text(step: TokenStep) -> str:
    return "".join(m.text for m in step.marks)
