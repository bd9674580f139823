"""What a model's name stands for: ``demo``, a file, ``hf:OWNER/REPO:QUANT``, ``ollama:NAME:TAG``.

Nothing here asks the network: a name of Hugging Face stands for the file in its cache. Commands download what is missing
before they start (specdec/cli/fetch.py), so worker processes find it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from specdec.demo import FILES, FOLDER
from specdec.errors import SpecdecError
from specdec.models import stores
from specdec.models.quants import choose, models_in

_HUB = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<quant>[\w.-]+)|/(?P<file>[^:]+\.gguf))?")
_IN_TEXT = re.compile(r"""hf:[^\s,()|"']+""")
_stand_ins: dict[str, Path] = {}


@dataclass(frozen=True, slots=True)
class HubName:
    """A model on Hugging Face: of a repository the only GGUF model, that of a quantisation, or a file."""

    text: str
    repository: str
    quant: str = ""
    file: str = ""

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Raises ``SpecdecError`` for what is no such name."""
        found = _HUB.fullmatch(text)
        if found is None:
            raise SpecdecError(
                f"{text!r} names no model on Hugging Face.",
                "Write hf:OWNER/REPO:QUANT, as hf:OWNER/REPO:Q4_K_M, or hf:OWNER/REPO/FILE.gguf.",
            )
        return cls(text, found["repository"], found["quant"] or "", found["file"] or "")

    def cached(self) -> Path | None:
        """The file (of several parts, the first) in Hugging Face's cache, all parts there; None if it is not."""
        for snapshot in stores.snapshots(self.repository):
            sizes = {p.relative_to(snapshot).as_posix(): p.stat().st_size for p in stores.files(snapshot, "**/*.gguf")}
            found = choose(models_in(sizes), self.quant, self.file, self.text)
            if found is not None:
                return snapshot / found.files[0]
        return None


def hub_names(*texts: str) -> list[str]:
    """The names of Hugging Face that stand in names of models and in strategies, each once."""
    return list(dict.fromkeys(name for text in texts for name in _IN_TEXT.findall(text)))


def model_path(name: str) -> Path:
    """The file that a model's name stands for.

    Raises ``SpecdecError`` where a name of Hugging Face or Ollama is not on this machine; a path is not looked at.
    """
    if not name:
        raise SpecdecError("no model is named.", "--target, --draft and the like name a GGUF file.")
    if name in FILES:
        return FOLDER / FILES[name]
    if name in _stand_ins:
        return _stand_ins[name]
    if name.startswith("hf:"):
        found = HubName.parse(name).cached()
        if found is None:
            raise SpecdecError(f"{name} is not on this machine.", f"Get it: specdec models get {name}")
        return found
    if name.startswith("ollama:"):
        return _of_ollama(name)
    return Path(name).expanduser()


@contextmanager
def standing_in(files: dict[str, Path]) -> Iterator[None]:
    """Within it these names stand for these files."""
    _stand_ins.update(files)
    try:
        yield
    finally:
        for name in files:
            del _stand_ins[name]


def _of_ollama(name: str) -> Path:
    known = {known: path for _, known, path in stores.ollama_models()}
    for wanted in (name, f"{name}:latest"):
        if wanted in known:
            return known[wanted]
    what = f"Ollama has {', '.join(known)}." if known else "Ollama's store holds no model (OLLAMA_MODELS names it)."
    raise SpecdecError(f"{name}: there is no such model in Ollama's store.", what)
