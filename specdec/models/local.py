"""The GGUF models that are on this machine already, each once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.errors import SpecdecError
from specdec.llama.gguf import peek
from specdec.models.quants import SPLIT
from specdec.models.stores import candidates

_NOT_MODELS = {"clip", "mmproj"}
"""Architectures of image encoders and the like, which lie beside models."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """``name`` is what --target takes; ``path`` the file (of a split model, its first); ``bytes`` of all its files.
    ``fault`` is set where the header cannot be read."""

    source: str
    name: str
    path: Path
    bytes: int
    architecture: str | None = None
    experts: int = 0
    mtp_layers: int = 0
    fault: str | None = None


def find_models(folder: Path = Path(), more: Path | None = None) -> list[LocalModel]:
    """All that is found, each file once, source by source. Reads headers only as far as the tokenizer."""
    seen: set[Path] = set()
    found = []
    for source, name, path in candidates(folder, more):
        try:
            real = path.resolve()
            size = _size(path)
        except OSError:  # a link whose file has gone, a folder that may not be read
            continue
        split = SPLIT.search(path.name)
        if real in seen or (split and int(split[1]) != 1):
            continue
        seen.add(real)
        model = _described(source, name, path, size)
        if model.architecture not in _NOT_MODELS:
            found.append(model)
    return found


def _described(source: str, name: str, path: Path, size: int) -> LocalModel:
    try:
        metadata = peek(path)
    except SpecdecError as error:
        return LocalModel(source, name, path, size, fault=error.what)
    architecture = str(metadata.get("general.architecture", "unknown"))

    def number(key: str) -> int:
        value: Any = metadata.get(f"{architecture}.{key}", 0)
        return value if isinstance(value, int) else 0

    return LocalModel(source, name, path, size, architecture, number("expert_count"), number("nextn_predict_layers"))


def _size(path: Path) -> int:
    split = SPLIT.search(path.name)
    if split is None:
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.parent.glob(f"{path.name[: split.start()]}-*-of-{split[2]}.gguf"))
