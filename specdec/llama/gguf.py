"""A reader of GGUF headers: metadata and tensor list, no tensor data. 0.3 s where the gguf package takes 13 s.

The format is documented in ggml's docs/gguf.md: magic, version, counts, typed key-values, tensor infos, aligned data.
The big cost in a real file is the vocabulary (250 k strings); its arrays are skipped unless they are asked for.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from specdec.errors import SpecdecError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LARGE = 1024
_MERGES = "tokenizer.ggml.merges"
"""As many strings as there are tokens, and of use to a tokenizer alone: never kept."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file. ``shape`` in ggml's order (fastest first); ``offset`` from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What a GGUF file says of itself. Read only: a header read once is given again while its file stays the same."""

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    file_bytes: int
    header_bytes: int
    arrays: dict[str, int] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.metadata.get("general.architecture", "unknown"))

    def get(self, key: str, default: Any = None) -> Any:
        """An architecture's own value: ``get("block_count")`` reads ``qwen35moe.block_count``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def nextn_layers(self) -> int:
        """MTP layers that the file declares."""
        return int(self.get("nextn_predict_layers", 0))

    @property
    def trunk_layers(self) -> int:
        """Layers of the model itself, without its MTP layers."""
        return int(self.get("block_count", 0)) - self.nextn_layers

    @property
    def has_trunk(self) -> bool:
        """False for a file that holds the MTP layers alone: llama.cpp knows it by this tensor (src/models/*.cpp).

        The first part of a file in parts says nothing of the others; it passes for a whole model.
        """
        return (
            self.nextn_layers == 0
            or int(self.metadata.get("split.count", 0)) > 1
            or any(t.name == "blk.0.attn_norm.weight" for t in self.tensors)
        )


def read_header(path: Path, whole_arrays: bool = False) -> Header:
    """Read and check the header. Errors: no file, not a GGUF, unknown version, truncated (header or data)."""
    if not path.exists():
        raise SpecdecError(f"there is no file {path}.", "Check the path.")
    if not path.is_file():
        raise SpecdecError(f"{path} is not a file.", "Name the .gguf file itself.")
    found = path.stat()
    if whole_arrays:  # some MB: kept by whoever asked
        return _read(path, found.st_size, True)
    return _read_once(path, found.st_size, found.st_mtime_ns)


def whole_header(path: Path) -> Header:
    """The header of a model, of all its parts where the file is the first of several."""
    header = read_header(path)
    parts = int(header.metadata.get("split.count", 0))
    if parts < 2:
        return header
    found = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)
    if found is None:
        raise SpecdecError(f"{path.name} is one of {parts} parts, and its name does not tell the others'.")
    names = [path.with_name(f"{found[1]}-{i:05d}-of-{found[2]}.gguf") for i in range(1, parts + 1)]
    headers = [read_header(name) for name in names]
    tensors = tuple(t for h in headers for t in h.tensors)
    return replace(headers[0], tensors=tensors, file_bytes=sum(h.file_bytes for h in headers))


@lru_cache(maxsize=32)
def _read_once(path: Path, size: int, changed_ns: int) -> Header:
    """The header of the file as it was when it was changed last; a plan asks for it for every split."""
    return _read(path, size, False)


def _read(path: Path, size: int, whole_arrays: bool) -> Header:
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise SpecdecError(f"{path} is not a GGUF file (it does not begin with 'GGUF').", "Download it again.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = _Reader(data, whole_arrays).read(path, size)
            except (struct.error, IndexError, UnicodeDecodeError) as error:
                raise SpecdecError(f"{path} is truncated or damaged in its header.", "Download it again.") from error
    end = max((t.offset + t.bytes for t in header.tensors), default=0)
    if end > size:
        raise SpecdecError(
            f"{path} is truncated: it has {size:,} bytes, its tensors need {end:,}.", "Download it again."
        )
    return header


def peek(path: Path) -> dict[str, Any]:
    """The metadata up to the tokenizer (name, architecture, layers, experts), in about a millisecond: for lists of files.
    Nothing is checked; not a GGUF, or damaged, is a SpecdecError."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:4] != b"GGUF":
                raise SpecdecError(f"{path} is not a GGUF file.")
            return _Reader(data, False).metadata_before("tokenizer.")
    except (OSError, ValueError, struct.error, IndexError) as error:  # ValueError: an empty file cannot be mapped
        raise SpecdecError(f"{path} cannot be read as GGUF: {error}.") from error


def header_length(start: bytes) -> int | None:
    """How many of a file's first bytes are its header; None where these bytes do not hold all of it."""
    if start[:4] != b"GGUF"[: len(start)]:
        raise SpecdecError("the file is not a GGUF file (it does not begin with 'GGUF').")
    try:
        return _Reader(start, False).read(Path("the file"), len(start)).header_bytes
    except (struct.error, IndexError):
        return None


class _Reader:
    def __init__(self, data: mmap.mmap | bytes, whole_arrays: bool) -> None:
        self._data, self._at, self._whole = data, 4, whole_arrays
        self._arrays: dict[str, int] = {}

    def read(self, path: Path, size: int) -> Header:
        version = self._unpack("I")
        if version not in (2, 3):
            raise SpecdecError(f"{path} is GGUF version {version}; versions 2 and 3 are known.", "Convert it again.")
        n_tensors, n_values = self._unpack("Q"), self._unpack("Q")
        if n_tensors > 1 << 20 or n_values > 1 << 20:
            raise IndexError("absurd counts")
        metadata: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._string()
            metadata[key] = self._value(self._unpack("I"), key)
        infos = [(self._string(), self._shape(), self._unpack("I"), self._unpack("Q")) for _ in range(n_tensors)]
        alignment = int(metadata.get("general.alignment", 32))
        base = -(-self._at // alignment) * alignment
        tensors = tuple(Tensor(n, s, t, base + o, _tensor_bytes(path, n, s, t)) for n, s, t, o in infos)
        return Header(path, version, metadata, tensors, size, base, self._arrays)

    def metadata_before(self, prefix: str) -> dict[str, Any]:
        """The key-values before the first key with this prefix."""
        self._unpack("I"), self._unpack("Q")
        metadata: dict[str, Any] = {}
        for _ in range(self._unpack("Q")):
            key = self._string()
            if key.startswith(prefix):
                break
            metadata[key] = self._value(self._unpack("I"), key)
        return metadata

    def _unpack(self, code: str) -> Any:
        width = struct.calcsize("<" + code)
        value = struct.unpack_from("<" + code, self._data, self._at)[0]
        self._at += width
        return value

    def _bytes(self) -> bytes:
        n = self._unpack("Q")
        if n > len(self._data) - self._at:
            raise IndexError("string beyond the file")
        self._at += n
        return self._data[self._at - n : self._at]

    def _string(self) -> str:
        return self._bytes().decode("utf-8", "surrogateescape")

    def _shape(self) -> tuple[int, ...]:
        return tuple(self._unpack("Q") for _ in range(self._unpack("I")))

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            raise IndexError(f"unknown value type {kind}")
        return self._unpack(_SCALARS[kind])

    def _array(self, key: str) -> list[Any] | None:
        kind, n = self._unpack("I"), self._unpack("Q")
        self._arrays[key] = n
        keep = n <= _LARGE or (self._whole and key != _MERGES)
        if kind == _STRING:
            if keep:
                return self._strings(n)
            self._skip_strings(n)
            return None
        if kind not in _SCALARS:
            raise IndexError(f"unknown array type {kind}")
        width = struct.calcsize("<" + _SCALARS[kind])
        if n * width > len(self._data) - self._at:
            raise IndexError("array beyond the file")
        values = list(struct.unpack_from(f"<{n}{_SCALARS[kind]}", self._data, self._at)) if keep else None
        self._at += n * width
        return values

    def _strings(self, n: int) -> list[str]:
        """``n`` strings; a loop of its own, for there may be 250 k."""
        at, unpack, data, size = self._at, struct.Struct("<Q").unpack_from, self._data, len(self._data)
        found = []
        for _ in range(n):
            end = at + 8 + unpack(data, at)[0]
            if end > size:
                raise IndexError("string beyond the file")
            found.append(data[at + 8 : end].decode("utf-8", "surrogateescape"))
            at = end
        self._at = at
        return found

    def _skip_strings(self, n: int) -> None:
        at, unpack, data = self._at, struct.Struct("<Q").unpack_from, self._data
        for _ in range(n):
            at += 8 + unpack(data, at)[0]
        self._at = at


def _tensor_bytes(path: Path, name: str, shape: tuple[int, ...], kind: int) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise SpecdecError(f"{path}: tensor {name} has the unknown type {kind}.", "Update specdec.") from error
    return math.prod(shape) // int(block) * int(size)
