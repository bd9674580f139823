"""GGUF files that are on this machine already: demo models, the current folder, and the stores of other programs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.demo import FILES, model_path
from specdec.errors import SpecdecError
from specdec.llama.gguf import peek

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_MODEL_LAYER = "application/vnd.ollama.image.model"
_NOT_MODELS = {"clip", "mmproj"}
"""Architectures of image encoders and the like, which lie beside models."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """``name`` is how its store calls it; ``path`` what --target takes (of a split model, its first file); ``bytes`` of
    all its files. ``fault`` is set where the header cannot be read."""

    source: str
    name: str
    path: Path
    bytes: int
    architecture: str | None = None
    experts: int = 0
    mtp_layers: int = 0
    fault: str | None = None


def find_models(folder: Path = Path()) -> list[LocalModel]:
    """All that is found, each file once, source by source. Reads headers only as far as the tokenizer."""
    seen: set[Path] = set()
    found = []
    for source, name, path in _candidates(folder):
        try:
            real = path.resolve()
            size = _size(path)
        except OSError:  # a link whose file has gone, a folder that may not be read
            continue
        split = _SPLIT.search(path.name)
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
    split = _SPLIT.search(path.name)
    if split is None:
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.parent.glob(f"{path.name[: split.start()]}-*-of-{split[2]}.gguf"))


def _candidates(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """(source, name, path)."""
    for name in FILES:
        yield "demo", name, model_path(name)
    for path in sorted((*folder.glob("*.gguf"), *folder.glob("models/*.gguf"))):
        yield "here", path.name, path
    for path in _files(_llama_cpp_cache(), "*.gguf"):
        yield "llama.cpp", path.name, path
    for path in _files(_hub(), "models--*/snapshots/*/**/*.gguf"):
        repository = path.relative_to(_hub()).parts[0].removeprefix("models--").replace("--", "/")
        yield "Hugging Face", f"{repository}: {path.name}", path
    for root in (Path.home() / ".lmstudio/models", Path.home() / ".cache/lm-studio/models"):
        for path in _files(root, "*/*/*.gguf"):
            yield "LM Studio", "/".join(path.relative_to(root).parts[:2]) + f": {path.name}", path
    for root in _ollama():
        yield from _of_ollama(root)


def _files(root: Path, pattern: str) -> list[Path]:
    try:
        return sorted(root.glob(pattern)) if root.is_dir() else []
    except OSError:  # another user's folder
        return []


def _hub() -> Path:
    """huggingface_hub's cache, by its own variables."""
    home = os.environ.get("HF_HOME")
    cache = os.environ.get("XDG_CACHE_HOME")
    default = Path(home) if home else (Path(cache) if cache else Path.home() / ".cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or default / "hub")


def _llama_cpp_cache() -> Path:
    """Where llama.cpp's own --hf-repo downloads lie."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(os.environ.get("LLAMA_CACHE") or (Path(cache) if cache else Path.home() / ".cache") / "llama.cpp")


def _ollama() -> list[Path]:
    given = os.environ.get("OLLAMA_MODELS")
    return [Path(given)] if given else [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]


def _of_ollama(root: Path) -> Iterator[tuple[str, str, Path]]:
    """A manifest names the model's layer by digest; the blob of that name is a plain GGUF file."""
    for manifest in _files(root / "manifests", "*/*/*/*"):
        try:
            layers = json.loads(manifest.read_text())["layers"]
            digest = next(layer["digest"] for layer in layers if layer["mediaType"] == _MODEL_LAYER)
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            continue  # not a manifest of a model
        name, tag = manifest.parent.name, manifest.name
        yield "Ollama", f"{name}:{tag}", root / "blobs" / str(digest).replace(":", "-")
