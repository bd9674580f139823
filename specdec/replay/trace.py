"""A trace: what the target said, prompt by prompt, in one file. Layout, field by field: docs/trace.md.

The file is a NumPy ``.npz`` (a zip of arrays): its ``header`` is JSON, its ``tokens`` hold all texts one after the other,
its ``turns`` say where each begins. A turn of a conversation stores only what it adds to the turn before. The header's
``sha256`` covers everything else in the file; a file that does not match is refused.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from specdec.errors import SpecdecError
from specdec.types import FloatArray, TokenArray

FORMAT = "specdec-trace"
VERSION = 1
STOPS = ("length", "end-of-text", "stop-string")

Arrays = dict[str, npt.NDArray[Any]]
Half = npt.NDArray[np.float16]

_TURN_COLUMNS = 9


@dataclass(frozen=True, slots=True)
class TopK:
    """The target's distribution at each output token of a turn, as it came out of plain decoding.

    Args:
        ids: int32 [n_output, k], the most probable tokens, best first.
        logprobs: float16 [n_output, k], their natural log-probabilities under the unfiltered softmax.
        chosen: float16 [n_output], that of the token that was chosen.
        margins: float16 [n_output], best logit less the second best: near 0 a differently rounded run may flip.
    """

    ids: TokenArray
    logprobs: Half
    chosen: Half
    margins: Half


@dataclass(frozen=True, slots=True)
class Proposals:
    """What a drafter would have proposed after each output token of a turn.

    Args:
        ids: int32 [n_output, depth], the draft; only the first ``lengths[i]`` tokens of a row count.
        probs: float32 [n_output, depth], the drafter's confidence in each (what its p_min is compared with).
        lengths: uint8 [n_output].
    """

    ids: TokenArray
    probs: FloatArray
    lengths: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer. ``ids`` int32: the prompt (its first ``n_prompt`` tokens; a conversation's whole history) and the
    answer. ``n_reused``, ``prefill_s``, ``generation_s``: of the plain decoding that was recorded."""

    prompt: str
    workload: str
    index: int
    ids: TokenArray
    n_prompt: int
    stop: str
    n_reused: int = 0
    first_end_of_text: int | None = None
    prefill_s: float = 0.0
    generation_s: float = 0.0
    top: TopK | None = None
    proposals: dict[str, Proposals] = field(default_factory=dict)

    @property
    def n_output(self) -> int:
        return len(self.ids) - self.n_prompt


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded run of the target. ``header``: model, sampling, limits, prompts, machine ... (docs/trace.md)."""

    header: dict[str, Any]
    turns: list[Turn]

    @property
    def n_tokens(self) -> int:
        """Answer tokens in all turns: what a replay has to get through."""
        return sum(t.n_output for t in self.turns)

    @property
    def drafters(self) -> dict[str, dict[str, Any]]:
        """Recorded drafters: name to ``depth`` and ``options``."""
        return dict(self.header["drafters"])


def check_new(path: Path) -> None:
    """Find out before a recording, not after it, that its file cannot be written, or is there: it may have taken hours."""
    if path.exists():
        raise SpecdecError(f"{path} exists already.", "Name another file, or remove that one.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.unlink()
    except OSError as error:
        raise SpecdecError(f"{path}: cannot be written: {error.strerror}.", "Name another file.") from error


def write_trace(path: Path, trace: Trace) -> str:
    """Write ``trace``; returns its hash. An existing file is replaced only when the new one is complete."""
    arrays = _pack(trace)
    header = {"format": FORMAT, "version": VERSION, **trace.header}
    header["sha256"] = _digest(header, arrays)
    raw = np.frombuffer(orjson.dumps(header, option=orjson.OPT_SERIALIZE_NUMPY), np.uint8)
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(new, "wb") as file:
            np.savez_compressed(file, header=raw, **arrays)  # type: ignore[arg-type]
        os.replace(new, path)
    except OSError as error:
        raise SpecdecError(f"{path}: cannot be written: {error.strerror}.", "Name another file.") from error
    return str(header["sha256"])


def read_trace(path: Path) -> Trace:
    """Read and check a trace; a file that is none, of another version, or damaged is one line."""
    header, arrays = _load(path)
    if header.get("format") != FORMAT:
        raise SpecdecError(f"{path} is not a trace.", "Make one with: specdec record --out FILE")
    if header.get("version") != VERSION:
        raise SpecdecError(
            f"{path}: was written in version {header.get('version')}, this specdec reads version {VERSION}.",
            "Update specdec.",
        )
    if header.get("sha256") != _digest(header, arrays):
        raise SpecdecError(f"{path}: is damaged: its content does not match its hash.", "Record it again.")
    return Trace(header, _unpack(header, arrays))


def _load(path: Path) -> tuple[dict[str, Any], Arrays]:
    if not path.is_file():
        raise SpecdecError(f"there is no trace {path}.", "Make one with: specdec record --out FILE")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = orjson.loads(arrays.pop("header").tobytes())
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError, TypeError, OSError) as error:
        raise SpecdecError(f"{path} is not a trace, or damaged.", "Record it again.") from error
    if not isinstance(header, dict):
        raise SpecdecError(f"{path} is not a trace.", "Make one with: specdec record --out FILE")
    return header, arrays


def _digest(header: dict[str, Any], arrays: Arrays) -> str:
    """SHA-256 over the header without its hash, and over each array's name, type, shape and bytes."""
    digest = hashlib.sha256()
    plain = {k: v for k, v in header.items() if k != "sha256"}
    digest.update(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _pack(trace: Trace) -> Arrays:
    index = {p["id"]: i for i, p in enumerate(trace.header["prompts"])}
    tokens, table, seconds = [], [], []
    before: Turn | None = None
    for turn in trace.turns:
        shared = _common(before.ids, turn.ids[: turn.n_prompt]) if before and before.prompt == turn.prompt else 0
        end = -1 if turn.first_end_of_text is None else turn.first_end_of_text
        place = (index[turn.prompt], turn.index, shared, turn.n_prompt, len(turn.ids))
        table.append((*place, STOPS.index(turn.stop), turn.n_reused, end, 0))
        seconds.append((turn.prefill_s, turn.generation_s))
        tokens.append(turn.ids[shared:])
        before = turn
    arrays: Arrays = {
        "tokens": np.concatenate(tokens).astype(np.int32) if tokens else np.empty(0, np.int32),
        "turns": np.array(table, np.int64).reshape(-1, _TURN_COLUMNS),
        "seconds": np.array(seconds, np.float64).reshape(-1, 2),
    }
    tops = [t.top for t in trace.turns if t.top is not None]
    for name in ("ids", "logprobs", "chosen", "margins") if tops else ():
        arrays[f"top_{name}"] = np.concatenate([getattr(top, name) for top in tops])
    for drafter in trace.header["drafters"]:
        parts = [t.proposals[drafter] for t in trace.turns]
        for name in ("ids", "probs", "lengths"):
            arrays[f"draft_{name} {drafter}"] = np.concatenate([getattr(p, name) for p in parts])
    return arrays


def _unpack(header: dict[str, Any], arrays: Arrays) -> list[Turn]:
    turns: list[Turn] = []
    at = out = 0
    for row, (prefill_s, generation_s) in zip(arrays["turns"].tolist(), arrays["seconds"].tolist(), strict=True):
        number, index, shared, n_prompt, length, stop, reused, end, _ = row
        prompt = header["prompts"][number]
        ids = np.empty(length, np.int32)
        ids[:shared] = turns[-1].ids[:shared] if shared else 0
        ids[shared:] = arrays["tokens"][at : at + length - shared]
        ids.flags.writeable = False
        rows = slice(out, out + length - n_prompt)
        turns.append(
            Turn(
                prompt["id"], prompt["workload"], index, ids, n_prompt, STOPS[stop], reused,
                None if end < 0 else end, prefill_s, generation_s,
                _top(arrays, rows), {d: _proposals(arrays, d, rows) for d in header["drafters"]},
            )
        )  # fmt: skip
        at, out = at + length - shared, rows.stop
    return turns


def _top(arrays: Arrays, rows: slice) -> TopK | None:
    if "top_ids" not in arrays:
        return None
    return TopK(*(arrays[f"top_{name}"][rows] for name in ("ids", "logprobs", "chosen", "margins")))


def _proposals(arrays: Arrays, drafter: str, rows: slice) -> Proposals:
    return Proposals(*(arrays[f"draft_{name} {drafter}"][rows] for name in ("ids", "probs", "lengths")))


def _common(a: TokenArray, b: TokenArray) -> int:
    """How many leading tokens are the same."""
    n = min(len(a), len(b))
    same = a[:n] == b[:n]
    return n if same.all() else int(same.argmin())
