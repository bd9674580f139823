"""What a vocabulary adds to a prompt where its file says nothing: our rules beside llama.cpp's own reading of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from specdec.llama.gguf import read_header
from specdec.llama.library import llama
from specdec.llama.vocab import adds_token, match_vocabularies, token_id
from specdec.testing.nano import write_out

SIZE = 120
BPE_THAT_ADD = [
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "tekken",
    "chameleon",
]
BPE_THAT_DO_NOT = ["default", "qwen2", "qwen35", "gpt-2", "deepseek-llm", "smollm", "command-r", "gpt-4o", "kimi-k2"]


def write(path: Path, model: str, pre: str = "", **keys: object) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for add in (writer.add_block_count, writer.add_head_count):
        add(1)
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_feed_forward_length):
        add(32)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([f"t{i}" if i else "\u010a" for i in range(SIZE)])
    writer.add_token_types([1] * SIZE)
    writer.add_token_scores([0.0] * SIZE)
    writer.add_token_merges(["t 1"])
    for key, value in keys.items():
        getattr(writer, f"add_{key}")(value)
    write_out(writer)
    return path


def as_llama_cpp_reads(path: Path) -> dict[str, Any]:
    lib = llama()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    assert model
    vocab = lib.llama_model_get_vocab(model)
    ids = {"bos": lib.llama_vocab_bos(vocab), "eos": lib.llama_vocab_eos(vocab)}
    found = {
        "adds": (bool(lib.llama_vocab_get_add_bos(vocab)), bool(lib.llama_vocab_get_add_eos(vocab))),
        "ids": tuple(None if i < 0 else i for i in ids.values()),
    }
    lib.llama_model_free(model)
    return found


CASES: list[tuple[str, str, dict[str, object]]] = [
    *(("gpt2", pre, {}) for pre in BPE_THAT_ADD + BPE_THAT_DO_NOT),
    *(("gpt2", pre, {}) for pre in ("", "glm4", "glm5", "chatglm-bpe", "jina-v5-nano", "granite-embed-multi-311m")),
    ("gpt2", "gemma4", {"add_bos_token": False}),
    ("gemma4", "", {}),
    ("gemma4", "", {"add_bos_token": False, "bos_token_id": 2}),
    ("gpt2", "glm4", {"bos_token_id": 7}),
    ("gpt2", "llama-bpe", {"add_bos_token": False}),
    ("gpt2", "qwen2", {"add_bos_token": True, "add_eos_token": True, "bos_token_id": 4}),
    ("gpt2", "qwen2", {"bos_token_id": SIZE + 5, "eos_token_id": 9}),
    ("llama", "", {}),
    ("llama", "", {"add_bos_token": False, "eos_token_id": 5}),
    ("llama", "llama-bpe", {}),
    ("bert", "", {}),
    ("t5", "", {}),
    ("t5", "", {"add_eos_token": False}),
    ("rwkv", "", {}),
]


@pytest.mark.parametrize(("model", "pre", "keys"), CASES)
def test_defaults_are_those_that_llama_cpp_takes(tmp_path: Path, model: str, pre: str, keys: dict[str, object]) -> None:
    path = write(tmp_path / "v.gguf", model, pre, **keys)
    header = read_header(path, whole_arrays=True)
    known = as_llama_cpp_reads(path)
    assert (adds_token(header, "bos"), adds_token(header, "eos")) == known["adds"]
    assert (token_id(header, "bos"), token_id(header, "eos")) == known["ids"]
    assert token_id(read_header(path), "bos") == known["ids"][0], "and without reading the vocabulary"


def test_a_default_that_differs_is_a_reason(tmp_path: Path) -> None:
    target = write(tmp_path / "t.gguf", "gpt2", "llama-bpe")
    plain = write(tmp_path / "d.gguf", "gpt2", "qwen2")
    assert match_vocabularies(target, plain).reasons == ("begin-of-text is added by the target only",)
    named = write(tmp_path / "n.gguf", "gpt2", "llama-bpe", bos_token_id=3)
    assert match_vocabularies(target, named).reasons == ("begin-of-text differs: target 11, draft 3",)
    same = write(tmp_path / "s.gguf", "gpt2", "tekken", bos_token_id=11)
    assert match_vocabularies(target, same).compatible


def test_kinds_are_llama_cpps_not_names(tmp_path: Path) -> None:
    found = match_vocabularies(write(tmp_path / "a.gguf", "gpt2"), write(tmp_path / "b.gguf", "whitespace"))
    assert found.compatible
    other = match_vocabularies(write(tmp_path / "c.gguf", "gpt2"), write(tmp_path / "d.gguf", "llama"))
    assert other.reasons == ("kinds of vocabulary differ: target 'gpt2', draft 'llama'",)
