"""Where GGUF files lie on this machine: the current folder, and the stores of other programs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from specdec.demo import FILES, FOLDER
from specdec.models.quants import models_in, named

_MODEL_LAYER = "application/vnd.ollama.image.model"
Candidate = tuple[str, str, Path]
"""(source, what --target takes, file)."""


def candidates(folder: Path, more: Path | None) -> Iterator[Candidate]:
    """GGUF files, source by source; of a model in parts each part; a file may come twice. ``more``: a folder, with
    all that it holds."""
    for name in FILES:
        yield "demo", name, FOLDER / FILES[name]
    if more is not None:
        yield from _by_path("--dir", files(more, "**/*.gguf"))
    yield from _by_path("here", sorted((*folder.glob("*.gguf"), *folder.glob("models/*.gguf"))))
    yield from _by_path("llama.cpp", files(_llama_cpp_cache(), "*.gguf"))
    yield from _of_hub()
    for root in _lm_studio():
        yield from _by_path("LM Studio", files(root, "*/*/*.gguf"))
    yield from ollama_models()


def places(folder: Path, more: Path | None) -> list[Path]:
    """The folders that ``candidates`` looks in, those that are not there too."""
    given = [] if more is None else [more]
    return [*given, folder, folder / "models", _llama_cpp_cache(), hub_folder(), *_lm_studio(), *_ollama()]


def looked_in(places: list[Path]) -> str:
    """The folders, the home folder as ~."""
    home = Path.home()
    return ", ".join(f"~/{p.relative_to(home).as_posix()}" if p.is_relative_to(home) else str(p) for p in places)


def files(root: Path, pattern: str) -> list[Path]:
    """The files below a folder that may not be there, or not be ours to read; links whose file has gone are left out."""
    try:
        return sorted(p for p in root.glob(pattern) if p.is_file()) if root.is_dir() else []
    except OSError:  # another user's folder
        return []


def _by_path(source: str, paths: list[Path]) -> Iterator[Candidate]:
    for path in paths:
        yield source, str(path), path


def hub_folder() -> Path:
    """Hugging Face's cache, by its own variables (the library itself need not be installed)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
    return Path(os.path.expandvars(given)).expanduser()


def snapshots(repository: str) -> list[Path]:
    """The versions of a repository in the cache: that of its main branch first, then the newest."""
    folder = hub_folder() / f"models--{repository.replace('/', '--')}"
    try:
        main = (folder / "refs" / "main").read_text().strip()
    except OSError:  # only versions by commit, or nothing at all
        main = ""
    try:
        found = list((folder / "snapshots").iterdir())
    except OSError:
        return []
    return sorted(found, key=lambda p: (p.name != main, -p.stat().st_mtime))


def _of_hub() -> Iterator[Candidate]:
    for folder in sorted(hub_folder().glob("models--*")):
        repository = folder.name.removeprefix("models--").replace("--", "/")
        taken: set[str] = set()
        for snapshot in snapshots(repository):
            sizes = {p.relative_to(snapshot).as_posix(): p.stat().st_size for p in files(snapshot, "**/*.gguf")}
            for name, model in named(repository, models_in(sizes)):
                path = snapshot / model.files[0]
                yield "Hugging Face", str(path) if name in taken else name, path
                taken.add(name)


def _llama_cpp_cache() -> Path:
    """Where llama.cpp's own --hf-repo downloads lie."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(os.environ.get("LLAMA_CACHE") or (Path(cache) if cache else Path.home() / ".cache") / "llama.cpp")


def _lm_studio() -> list[Path]:
    return [Path.home() / ".lmstudio/models", Path.home() / ".cache/lm-studio/models"]


def _ollama() -> list[Path]:
    given = os.environ.get("OLLAMA_MODELS")
    return [Path(given)] if given else [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]


def ollama_models() -> Iterator[Candidate]:
    """A manifest names the model's layer by digest; the blob of that name is a plain GGUF file."""
    for root in _ollama():
        for manifest in files(root / "manifests", "*/*/*/*"):
            try:
                layers = json.loads(manifest.read_text())["layers"]
                digest = next(layer["digest"] for layer in layers if layer["mediaType"] == _MODEL_LAYER)
            except (OSError, ValueError, KeyError, TypeError, StopIteration):
                continue  # not a manifest of a model
            owner, name, tag = manifest.parts[-3:]
            whose = "" if owner == "library" else f"{owner}/"
            yield "Ollama", f"ollama:{whose}{name}:{tag}", root / "blobs" / str(digest).replace(":", "-")
