"""What each model on this machine is, and what it can do for another, from headers alone.

A draft model needs its target's vocabulary (specdec/llama/vocab.py) and pays only where it is smaller: one of at most half
the parameters counts as one. A file with an MTP layer alone serves targets of its architecture, width and vocabulary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from specdec.errors import SpecdecError
from specdec.llama.gguf import Header, read_header, whole_header
from specdec.llama.vocab import compare_vocabularies
from specdec.models.local import LocalModel


@dataclass(frozen=True, slots=True)
class Described:
    """A model with what its header says: ``quant`` as the file states it, ``layers`` of the trunk, tokens, parameters.

    ``target``: it can be one. ``draft_for``, ``mtp_for``: names of the targets here that it can draft for, by --draft and
    by --mtp-model. ``fault``: why the header cannot be read; then nothing else is known.
    """

    model: LocalModel
    quant: str = ""
    layers: int = 0
    vocabulary: int = 0
    parameters: int = 0
    target: bool = False
    draft_for: tuple[str, ...] = ()
    mtp_for: tuple[str, ...] = ()
    fault: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, one object."""
        own = {k: v for k, v in asdict(self).items() if k != "model"}
        return asdict(self.model) | own | {"path": str(self.model.path)}


@dataclass(frozen=True, slots=True)
class _Known:
    """A model whose header was read; models whose ``vocabulary`` is one number can draft for each other."""

    model: LocalModel
    header: Header
    vocabulary: int

    @property
    def parameters(self) -> int:
        return sum(prod(t.shape) for t in self.header.tensors)

    @property
    def generates(self) -> bool:
        """Not an MTP layer alone, not a model that looks both ways (embeddings)."""
        h = self.header
        return h.has_trunk and h.get("attention.causal") is not False and h.trunk_layers > 0

    def drafts_for(self, target: _Known) -> bool:
        return self.generates and self.vocabulary == target.vocabulary and 2 * self.parameters <= target.parameters

    def completes(self, target: _Known) -> bool:
        """Its MTP layer is one for the target."""
        a, b = self.header, target.header
        alike = (a.architecture, a.get("embedding_length")) == (b.architecture, b.get("embedding_length"))
        return not a.has_trunk and alike and self.vocabulary == target.vocabulary

    def described(self, targets: list[_Known]) -> Described:
        h = self.header
        return Described(
            self.model,
            quant_of(h),
            h.trunk_layers if h.has_trunk else 0,
            h.arrays.get("tokenizer.ggml.tokens", 0),
            self.parameters,
            self.generates,
            tuple(t.model.name for t in targets if self.drafts_for(t)),
            tuple(t.model.name for t in targets if self.completes(t)),
        )


def describe_models(models: list[LocalModel]) -> list[Described]:
    """Each with what it can be used as among the others. Reads every header, some of them with the vocabulary."""
    read = [_read(model) for model in models]
    numbers = _vocabularies([None if isinstance(r, str) else r for r in read])
    known = [r if isinstance(r, str) else _Known(m, r, n) for m, r, n in zip(models, read, numbers, strict=True)]
    targets = [k for k in known if isinstance(k, _Known) and k.generates]
    return [
        Described(m, fault=k) if isinstance(k, str) else k.described(targets)
        for m, k in zip(models, known, strict=True)
    ]


def _read(model: LocalModel) -> Header | str:
    """The header, or why there is none."""
    try:
        return model.fault or whole_header(model.path)
    except (SpecdecError, OSError) as error:
        return str(error)


def quant_of(header: Header) -> str:
    """The quantisation that the file states, else the type of most of its bytes."""
    from gguf.constants import GGMLQuantizationType, LlamaFileType

    try:
        return (
            str(LlamaFileType(header.metadata["general.file_type"]).name).removeprefix("MOSTLY_").removeprefix("ALL_")
        )
    except (KeyError, ValueError):  # not stated; a type that the gguf package does not know yet
        types: Counter[int] = Counter()
        for t in header.tensors:
            types[t.type] += t.bytes
        return str(GGMLQuantizationType(types.most_common(1)[0][0]).name) if types else ""


def _vocabularies(headers: list[Header | None]) -> list[int]:
    """For each header the number of its vocabulary. Where a kind of vocabulary comes once it is not read; the others are
    read once and compared with one of every number."""
    numbers, kept = list(range(len(headers))), dict[int, Header]()
    kinds = Counter(_kind(h) for h in headers if h is not None)
    for i, header in enumerate(headers):
        if header is not None and kinds[_kind(header)] > 1:
            whole = read_header(header.path, whole_arrays=True)
            numbers[i] = next((n for n, h in kept.items() if compare_vocabularies(h, whole).compatible), i)
            kept.setdefault(numbers[i], whole)
    return numbers


def _kind(header: Header) -> tuple[object, object]:
    return header.metadata.get("tokenizer.ggml.model"), header.metadata.get("tokenizer.ggml.pre")
