"""GGUF headers: read as the gguf package reads them; damage named in one line."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from specdec.errors import SpecdecError
from specdec.llama.gguf import read_header, whole_header
from specdec.llama.model import LlamaModel
from specdec.spec import ModelOptions
from specdec.testing.nano import write_nano, write_out


@pytest.mark.parametrize("whole", [False, True])
def test_same_as_the_gguf_package(nano_hybrid: Path, whole: bool) -> None:
    header, reader = read_header(nano_hybrid, whole_arrays=whole), gguf.GGUFReader(nano_hybrid)
    assert [(t.name, t.shape, t.offset, t.bytes) for t in header.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), int(t.data_offset), int(t.n_bytes)) for t in reader.tensors
    ]
    for key, value in header.metadata.items():
        if value is not None:
            assert value == pytest.approx(reader.get_field(key).contents()) if isinstance(value, float) else True
            assert isinstance(value, float) or value == reader.get_field(key).contents()
    assert header.header_bytes == reader.data_offset
    assert (header.architecture, header.nextn_layers, header.get("block_count")) == ("qwen35moe", 1, 5)


def test_large_arrays_are_skipped_but_counted(tmp_path: Path) -> None:
    header = read_header(write_nano(tmp_path / "v.gguf", "dense", n_vocab=3000))
    assert header.metadata["tokenizer.ggml.tokens"] is None
    assert header.arrays["tokenizer.ggml.tokens"] == 3000
    assert (
        read_header(tmp_path / "v.gguf", whole_arrays=True).metadata["tokenizer.ggml.tokens"][2998] == "<|endoftext|>"
    )


@pytest.mark.parametrize("part", [3, 10, 40, 0.3, 0.9, 0.999])
def test_truncated_anywhere(nano_hybrid: Path, tmp_path: Path, part: float) -> None:
    data = nano_hybrid.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[: part if isinstance(part, int) else int(part * len(data))])
    with pytest.raises(SpecdecError, match=r"truncated|is not a GGUF file"):
        read_header(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Dear reader, this is text.", "is not a GGUF file"),
        (b"", "is not a GGUF file"),
        (b"GGUF\x09\0\0\0" + bytes(64), "GGUF version 9"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 64, "truncated or damaged"),
    ],
)
def test_not_a_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(SpecdecError, match=message):
        read_header(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecdecError, match="there is no file"):
        read_header(tmp_path / "absent.gguf")
    with pytest.raises(SpecdecError, match="is not a file"):
        read_header(tmp_path)


def test_unknown_architecture_is_one_line(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "no-such-arch")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SpecdecError, match="does not know the architecture 'no-such-arch'"):
        LlamaModel(tmp_path / "odd.gguf", ModelOptions())


def test_a_model_in_parts_is_read_whole(nano_hybrid: Path, tmp_path: Path) -> None:
    """Its MTP layer lies in the last part; what is told of memory must know it."""
    reader = gguf.GGUFReader(nano_hybrid)
    values = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = str(values.pop("general.architecture").contents())
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture, split_max_tensors=len(reader.tensors) * 2 // 3)
    for name, field in values.items():
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    write_out(writer)
    first, last = sorted(tmp_path.glob("m-*.gguf"))
    whole, parts = (LlamaModel(path, ModelOptions(threads=1), mtp=True) for path in (nano_hybrid, first))
    assert (parts.mtp_bytes, len(parts.header.tensors)) == (whole.mtp_bytes, len(whole.header.tensors))
    assert parts.header.file_bytes == first.stat().st_size + last.stat().st_size
    for model in (whole, parts):
        model.close()
    last.unlink()
    with pytest.raises(SpecdecError, match=f"there is no file .*{last.name}"):
        LlamaModel(first, ModelOptions())
    first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(SpecdecError, match=r"renamed\.gguf is one of 2 parts"):
        whole_header(tmp_path / "renamed.gguf")
