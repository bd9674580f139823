"""The models in a list of GGUF files: which files are parts of one, which quantisation each has by its name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from specdec.errors import SpecdecError

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
"""The end of a part's name, as llama.cpp's gguf-split writes it."""
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q\d(?:_(?:\d{1,2}|[KSMLP]|XX?S|X?XL|NL))*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32))"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_NOT_MODELS = re.compile(r"(^|/)mmproj|imatrix", re.IGNORECASE)
"""Image encoders and quantisation statistics lie beside models."""


@dataclass(frozen=True, slots=True)
class RepoModel:
    """One model of a repository: its ``files`` in order (several are parts; llama.cpp takes the first), their bytes."""

    files: tuple[str, ...]
    bytes: int

    @property
    def stem(self) -> str:
        """The file's name without folder, part and suffix."""
        return SPLIT.sub("", self.files[0]).removesuffix(".gguf").rpartition("/")[2]

    @property
    def quant(self) -> str:
        """The quantisation that the name tells, as Q4_K_M or UD-Q4_K_XL; where it tells none, the name."""
        found = _QUANT.findall(self.stem)
        return str(found[-1]) if found else self.stem


def models_in(files: Mapping[str, int]) -> list[RepoModel]:
    """The models among files (name: bytes), by size. A model whose parts are not all there is left out."""
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in sorted(files):
        if name.endswith(".gguf") and not _NOT_MODELS.search(name):
            split = SPLIT.search(name)
            groups[SPLIT.sub("", name), int(split[2]) if split else 1].append(name)
    whole = [names for (_, parts), names in groups.items() if len(names) == parts]
    return sorted((RepoModel(tuple(n), sum(files[f] for f in n)) for n in whole), key=lambda m: (m.bytes, m.files))


def of_quant(models: Iterable[RepoModel], quant: str) -> list[RepoModel]:
    """Those of the quantisation; ``Q4_K_XL`` finds UD-Q4_K_XL where there is no other. Case counts for nothing."""
    wanted = quant.lower()
    known = [(m.quant.lower(), m) for m in models]
    return [m for q, m in known if q == wanted] or [m for q, m in known if q.endswith(f"-{wanted}")]


def choose(models: list[RepoModel], quant: str, file: str, name: str) -> RepoModel | None:
    """The model that ``name`` asks for by quantisation or file; None if it is not there.

    Raises ``SpecdecError`` where more than one would do; it lists them.
    """
    if file:
        return next((m for m in models if file in m.files), None)
    found = of_quant(models, quant) if quant else models
    if len(found) > 1:
        raise SpecdecError(f"{name}: more than one model there would do.", f"Name one: {listed(name, found)}.")
    return found[0] if found else None


def listed(name: str, models: list[RepoModel]) -> str:
    """What --target takes for each, with sizes, in one line."""
    repository = "/".join(re.split(r"[:/]", name)[1:3])
    return ", ".join(f"{n} ({size(m.bytes)})" for n, m in named(repository, models)) or "no GGUF file"


def named(repository: str, models: list[RepoModel]) -> list[tuple[str, RepoModel]]:
    """Each with the name that --target takes: by quantisation where that is enough, else by file."""
    quants = [m.quant.lower() for m in models]
    return [
        (f"hf:{repository}:{m.quant}" if quants.count(m.quant.lower()) == 1 else f"hf:{repository}/{m.files[0]}", m)
        for m in models
    ]


def size(n: int) -> str:
    """Bytes, for people."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
