"""What a drafter's trainer needs: tokens, the target's top-k and its hidden rows, at every position, in chunks on disk.

Reader: ``read_training_data(folder)``. Files, field by field: docs/trace.md.

Each text is decoded once more, prompt and answer together, in passes of many tokens: that gives every position, the
prompt's too, at the speed of a prompt. The hidden row of a position is the output of the target's last layer after the
final norm, before the output matrix: what MTP layers and EAGLE-like heads are fed with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from specdec.errors import SpecdecError
from specdec.llama.model import LlamaModel
from specdec.replay.trace import Turn
from specdec.sampling import top_candidates
from specdec.types import FloatArray, TokenArray

FORMAT, VERSION = "specdec-training-data", 1
CHUNK_BYTES = 256 << 20
"""A chunk is closed when it holds this much."""
_PASS = 32
"""Tokens of a pass: each asks for a row of logits, 1 MB at a vocabulary of 248 k."""

Half = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Example:
    """One text, prompt and answer.

    Args:
        ids: int32 [n]; the answer begins at ``n_prompt``.
        hidden: float16 [n, width], the target's hidden row at each position.
        top_ids: int32 [n, k], what the target finds most probable *after* each position, best first.
        top_logprobs: float16 [n, k], natural logarithms.
    """

    prompt: str
    workload: str
    turn: int
    n_prompt: int
    ids: TokenArray
    hidden: Half
    top_ids: TokenArray
    top_logprobs: Half


class TrainingWriter:
    """Writes a folder of chunks while a recording goes.

    Args:
        folder: must be new or empty.
        model: the loaded target; a context of its own is made from it.
        k: tokens of ``top_ids``.
    """

    def __init__(self, folder: Path, model: LlamaModel, n_ctx: int, k: int) -> None:
        from specdec.llama.embeddings import EmbeddingTarget

        if folder.exists() and any(folder.iterdir()):
            raise SpecdecError(f"--training-data {folder}: is not empty.", "Name a new folder.")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._k = folder, k
        self._target = EmbeddingTarget(model, n_ctx, _PASS)
        self._examples: list[Example] = []
        self._chunks: list[dict[str, Any]] = []

    def add(self, turn: Turn) -> None:
        """Decode the turn's text again and keep what comes out."""
        self._target.memory.clear()
        parts = [self._pass(turn.ids[i : i + _PASS], i) for i in range(0, len(turn.ids), _PASS)]
        hidden, ids, logprobs = (np.concatenate(p) for p in zip(*parts, strict=True))
        self._examples.append(
            Example(turn.prompt, turn.workload, turn.index, turn.n_prompt, turn.ids, hidden, ids, logprobs)
        )
        if sum(e.hidden.nbytes for e in self._examples) >= CHUNK_BYTES:
            self._flush()

    def close(self, header: dict[str, Any]) -> None:
        """Write what is left and the index; free the context."""
        self._flush()
        keys = ("created_at", "specdec", "model", "labels", "spec", "environment")
        index = {"format": FORMAT, "version": VERSION, "k": self._k, "width": self._target.width}
        index |= {"n_vocab": self._target.n_vocab, "chunks": self._chunks, **{k: header[k] for k in keys}}
        (self._folder / "index.json").write_bytes(orjson.dumps(index, option=orjson.OPT_INDENT_2))
        self._target.close()

    def _pass(self, ids: TokenArray, start: int) -> tuple[Half, TokenArray, Half]:
        rows = self._target.decode(ids, start, "all")
        hidden = self._target.hidden_rows().astype(np.float16)
        best = np.stack([top_candidates(row, self._k) for row in rows]).astype(np.int32)
        return hidden, best, np.stack([_logprobs(row, b) for row, b in zip(rows, best, strict=True)])

    def _flush(self) -> None:
        if not self._examples:
            return
        name = f"chunk-{len(self._chunks):05d}.npz"
        parts = {"ids": "ids", "hidden": "hidden", "top_ids": "top_ids", "top_logprobs": "top_logprobs"}
        arrays = {k: np.concatenate([getattr(e, a) for e in self._examples]) for k, a in parts.items()}
        np.savez(self._folder / name, **arrays)  # type: ignore[arg-type]
        texts = [
            {"prompt": e.prompt, "workload": e.workload, "turn": e.turn, "n_prompt": e.n_prompt, "n": len(e.ids)}
            for e in self._examples
        ]
        self._chunks.append({"file": name, "texts": texts})
        self._examples.clear()


def read_training_data(folder: Path) -> Iterator[Example]:
    """The texts of a folder, one by one; a chunk at a time is in memory."""
    try:
        index = orjson.loads((folder / "index.json").read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise SpecdecError(
            f"{folder}: holds no training data: {error}.", "See specdec record --training-data."
        ) from error
    if index.get("format") != FORMAT or index.get("version") != VERSION:
        raise SpecdecError(f"{folder}: is not training data of version {VERSION}.", "Update specdec.")
    for chunk in index["chunks"]:
        with np.load(folder / chunk["file"], allow_pickle=False) as file:
            arrays = {k: file[k] for k in ("ids", "hidden", "top_ids", "top_logprobs")}
        at = 0
        for text in chunk["texts"]:
            own = {k: a[at : at + text["n"]] for k, a in arrays.items()}
            yield Example(text["prompt"], text["workload"], text["turn"], text["n_prompt"], **own)
            at += text["n"]


def _logprobs(row: FloatArray, best: TokenArray) -> Half:
    top = float(row[best[0]])
    total = top + float(np.log(np.exp(row - top).sum(dtype=np.float64)))
    return (row[best].astype(np.float64) - total).astype(np.float16)
