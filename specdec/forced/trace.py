"""A recording read aloud by another target: its prompts and answers, in tokens that the target has.

Teacher forcing: what a trace (docs/trace.md) says is decoded by the target pass by pass, whatever the target itself would
have said. A strategy that needs no model sees tokens only as equal or different, so it drafts and is accepted as on the
real text under any one-to-one change of ids. An id keeps its number where the target has an ordinary token of that
number; only a strategy that hashes ids (ngram-mod) could tell, by other collisions in its table, where ids had to move.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from specdec.errors import SpecdecError
from specdec.replay.trace import Trace, Turn, read_trace
from specdec.spec import RunSpec, SamplingOptions
from specdec.types import Message, Prompt, Sampling, TokenArray


def settled(spec: RunSpec) -> tuple[RunSpec, Trace | None]:
    """(the run with what its trace has fixed already, the trace); refuses options that contradict the recording.

    Fixed are: sampling, thinking, whether the end of a text was ignored, the longest answer. Without ``trace``: (spec,
    None).
    """
    if not spec.trace:
        return spec, None
    if spec.engines != ("specdec",):
        raise SpecdecError("--trace: llama-server cannot be made to say a given text.", "Use --synthetic with it.")
    trace = read_trace(Path(spec.trace))
    recorded = RunSpec.model_validate(_known(trace.header["spec"]))
    if spec.prompt_files:
        raise SpecdecError("--trace has its own prompts: --prompts contradicts it.", "Leave one of them out.")
    for name in ("ignore_eos", "thinking", "stop"):
        if getattr(spec, name) and getattr(spec, name) != getattr(recorded, name):
            option = name.replace("_", "-")
            raise SpecdecError(f"--{option}: the trace was not recorded so.", "Leave it out; the text is fixed.")
    label = trace.header["labels"]["sampling"]
    given = spec.sampling.sampling if spec.sampling.sampling == "model" else spec.sampling.resolve({}, 0).label
    if spec.sampling != SamplingOptions() and given != label:
        raise SpecdecError(
            f"--trace: its text was recorded with sampling {label}, not {given}.",
            "Leave the sampling options out; the text is fixed.",
        )
    fixed = {
        "n_predict": min(spec.n_predict, recorded.n_predict),
        "ignore_eos": recorded.ignore_eos,
        "thinking": recorded.thinking,
        "sampling": _options(Sampling(**trace.header["sampling"])),
    }
    return spec.model_copy(update=fixed), trace


def _options(s: Sampling) -> SamplingOptions:
    """The options that ask for this sampling; what a model recommended is spelt out."""
    return (
        SamplingOptions()
        if s.greedy
        else SamplingOptions(temp=s.temperature, top_k=s.top_k, top_p=s.top_p, min_p=s.min_p)
    )


def _known(spec: dict[str, object]) -> dict[str, object]:
    """Of the options of the recording those that are looked at."""
    return {k: v for k, v in spec.items() if k in ("target", "n_predict", "ignore_eos", "thinking", "stop")}


def prompts_of(trace: Trace) -> list[Prompt]:
    """The recorded prompts; in place of each turn's words stands the hash of its tokens."""
    messages: dict[str, list[Message]] = {}
    for turn in trace.turns:
        messages.setdefault(turn.prompt, []).append(Message("user", hashlib.sha256(turn.ids.tobytes()).hexdigest()))
    return [
        Prompt(p["id"], p["workload"], "chat", p["length"], tuple(messages[p["id"]])) for p in trace.header["prompts"]
    ]


def tokens_of(trace: Trace) -> TokenArray:
    """All different ids of texts and proposals, int32, ascending."""
    parts = [t.ids for t in trace.turns]
    parts += [p.ids.ravel() for t in trace.turns for p in t.proposals.values()]
    return np.unique(np.concatenate(parts)).astype(np.int32) if parts else np.empty(0, np.int32)


def new_ids(ids: TokenArray, n_vocab: int, ordinary: Callable[[int], bool] = lambda token: True) -> TokenArray:
    """The target's id for each of ``ids`` (int32 [n], all different), one to one.

    Args:
        n_vocab: tokens in the target's vocabulary.
        ordinary: whether a token of it may stand for another: it ends no text and controls nothing.

    Raises:
        SpecdecError: there are not enough.
    """
    new = np.array([t if t < n_vocab and ordinary(t) else -1 for t in ids.tolist()], np.int32)
    taken = set(new.tolist())
    moved = np.flatnonzero(new < 0)
    free = (t for t in range(n_vocab) if t not in taken and ordinary(t))
    found = [t for _, t in zip(moved, free, strict=False)]
    if len(found) < len(moved):
        room = len(ids) - len(moved) + len(found)
        raise SpecdecError(
            f"--trace: it has {len(ids):,} different tokens, the target's vocabulary room for {room:,}.",
            "Use a target with a larger vocabulary.",
        )
    new[moved] = found
    return new


def translated(trace: Trace, n_vocab: int, ordinary: Callable[[int], bool]) -> Trace:
    """The trace in the tokens of a target (``new_ids``)."""
    ids = tokens_of(trace)
    table = np.zeros(int(ids[-1]) + 1 if len(ids) else 1, np.int32)
    table[ids] = new_ids(ids, n_vocab, ordinary)
    return Trace(trace.header, [_moved(turn, table) for turn in trace.turns])


def _moved(turn: Turn, table: TokenArray) -> Turn:
    new = table[turn.ids]
    new.flags.writeable = False
    proposals = {name: dataclasses.replace(p, ids=table[p.ids]) for name, p in turn.proposals.items()}
    return dataclasses.replace(turn, ids=new, top=None, proposals=proposals)


class RecordedText:
    """A source of tokens: those of ``ids`` (int32, prompt and answer), whatever is drafted.

    A draft that reaches beyond the recorded end is past deciding anything: there the text's first token is said.
    """

    def __init__(self) -> None:
        self.ids: TokenArray = np.empty(0, np.int32)

    def after(self, ids: TokenArray, start: int) -> TokenArray:
        said = self.ids[start + 1 : start + 1 + len(ids)]
        return np.concatenate([said, np.repeat(self.ids[:1], len(ids) - len(said))])
