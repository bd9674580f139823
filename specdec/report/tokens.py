"""A generated text, token by token, each with where it came from. Pure: terminal and page draw it."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from specdec.errors import SpecdecError
from specdec.llama.pieces import Pieces
from specdec.metrics import BASELINE
from specdec.models import model_path
from specdec.redact import refuse_redacted
from specdec.store import Run, Sample

EXACT, GUESSED, IDS = "exact", "guessed", "ids"


@dataclass(frozen=True, slots=True)
class Mark:
    """A token: its text and its origin. ``accepted`` from position ``position`` (1, 2 ...) of a draft by the step's
    source; ``bonus``: the target's own, after a draft; ``plain``: the target's own, nothing was drafted."""

    text: str
    origin: str
    position: int = 0


@dataclass(frozen=True, slots=True)
class TokenStep:
    """What a step emitted. Number 0 is the prompt's decode, which gives the first token."""

    number: int
    source: str
    drafted: int
    accepted: int
    marks: tuple[Mark, ...]
    ms: float | None = None
    rollback: str = ""


@dataclass(frozen=True, slots=True)
class TokenView:
    """A sample's steps. ``texts`` says how the tokens' texts were had: ``exact`` from the vocabulary, ``guessed`` by
    dividing the text evenly, ``ids`` where there is no text."""

    sample: Sample
    number: int
    steps: list[TokenStep]
    texts: str

    @property
    def note(self) -> str:
        """What is not exact, in a sentence; empty where all is."""
        return {
            GUESSED: "The target's vocabulary is not at hand, or is not what made this text: borders between tokens are"
            " guessed by dividing the text evenly, so a mark can be a few characters off; which and"
            " how many tokens is exact. Name the GGUF with --target.",
            IDS: "The run holds no text, a recording's tokens alone: token ids are shown.",
        }.get(self.texts, "")


def view(run: Run, number: int, pieces: Pieces | None) -> TokenView:
    """The sample with this number (from 1) in the run's order.

    Raises:
        SpecdecError: it failed, was redacted, or its engine tells no steps.
    """
    s = run.samples[number - 1]
    where = f"sample {number} of run {run.id}"
    refuse_redacted(run, "its texts were left out")
    if s["status"] != "ok":
        raise SpecdecError(f"{where} failed ({s['status']}): {s['error']}", "Take another sample.")
    if not s["steps"]:
        raise SpecdecError(f"{where}: {s.get('engine')} tells no steps.", "Take a sample of the engine specdec.")
    return view_sample(s, number, pieces)


def view_sample(s: Sample, number: int, pieces: Pieces | None) -> TokenView:
    """A sample that is ok and whose engine tells its steps."""
    texts, how = _texts(s, pieces)
    return TokenView(s, number, list(_steps(s, texts)), how)


def find_pieces(run: Run, target: str = "") -> Pieces | None:
    """The vocabulary of the run's target: of the file ``target``, else where the run found it; None if it is gone."""
    if target:
        return Pieces(model_path(target))
    for name in (str(run.meta["spec"].get("target", "")), str(run.meta["model"].get("path", ""))):
        try:
            if name and model_path(name).is_file():
                return Pieces(model_path(name))
        except SpecdecError:
            continue  # gone, or not the model any more: the texts are guessed, and that is said
    return None


def find_sample(run: Run, name: str) -> int:
    """The number (from 1) of a sample: its number itself, or PROMPT/STRATEGY (the first one measured)."""
    if name.isdigit():
        if not 1 <= int(name) <= len(run.samples):
            raise SpecdecError(f"run {run.id} has no sample {name}.", f"It has 1 to {len(run.samples)}.")
        return int(name)
    prompt, _, strategy = name.partition("/")
    fits = [i for i, s in enumerate(run.samples, 1) if s["prompt"] == prompt and s["strategy"] == strategy]
    fits.sort(key=lambda i: (run.samples[i - 1]["warmup"], run.samples[i - 1]["status"] != "ok", i))
    if not fits:
        raise SpecdecError(
            f"run {run.id} has no sample {name!r}.",
            f"Name PROMPT/STRATEGY or a number; specdec show {run.id} lists them.",
        )
    return fits[0]


def _texts(s: Sample, pieces: Pieces | None) -> tuple[list[str], str]:
    ids = s["token_ids"]
    if not s["text"]:
        return [f"{i} " for i in ids], IDS
    if pieces is not None:
        raw = [pieces.piece(i) for i in ids]
        whole, stored = b"".join(raw), s["text"].encode()
        text = whole.decode("utf-8", "replace")
        if whole == stored or text == s["text"] or (s["stop"] == "stop-string" and text.startswith(s["text"])):
            return cut(_decoded(raw), len(s["text"])), EXACT
    at = [round(i * len(s["text"]) / len(ids)) for i in range(len(ids) + 1)]
    return [s["text"][a:b] for a, b in pairwise(at)], GUESSED


def _decoded(raw: Iterable[bytes]) -> list[str]:
    """Characters go to the token that completes them."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(piece) for piece in raw]


def cut(texts: list[str], room: int) -> list[str]:
    """The first ``room`` characters: a stop string is no part of the text."""
    out = []
    for text in texts:
        out.append(text[:room])
        room -= len(out[-1])
    return out


def token_step(
    number: int, source: str, drafted: int, accepted: int, texts: list[str], ms: float | None = None, rollback: str = ""
) -> TokenStep:
    """A step from the texts of the tokens that it emitted. ``source``: what drafted, if anything was drafted."""
    marks = [Mark(t, "accepted", p) for p, t in enumerate(texts[:accepted], 1)]
    marks += [Mark(t, "bonus" if drafted else "plain") for t in texts[accepted:]]
    return TokenStep(
        number, source if drafted or not number else BASELINE, drafted, accepted, tuple(marks), ms, rollback
    )


def _steps(s: Sample, texts: list[str]) -> Iterable[TokenStep]:
    log, at = s["steps"], 1
    yield token_step(0, s["strategy"], 0, 0, texts[:1])
    columns: list[Callable[[int], object]] = [_column(log, k) for k in ("note", "wall_us", "rollback")]
    for i, (drafted, accepted) in enumerate(zip(log["drafted"], log["accepted"], strict=True)):
        note, wall, rollback = (column(i) for column in columns)
        ms = float(wall) / 1e3 if isinstance(wall, int | float) else None
        own, at = texts[at : at + accepted + 1], at + accepted + 1
        yield token_step(i + 1, str(note or s["strategy"]), drafted, accepted, own, ms, str(rollback or ""))


def _column(log: Sample, key: str) -> Callable[[int], object]:
    values = log.get(key)
    return lambda i: values[i] if values else None
