"""Texts split by vocabularies that add a space: exactly, and so that a draft model of such a vocabulary drafts."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
from drafting import GREEDY, LIMITS, build

from specdec.decode import Decoder
from specdec.llama.library import llama
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.llama.translate import Splitter, Translator
from specdec.models import model_path
from specdec.spec import ModelOptions
from specdec.strategy import Services
from specdec.testing.nano import write_out

TEXT = "def line(path):\n    return the  thing  # Größe 漢 🙂\n\n\tin the end\n"
WORDS = [
    "▁",
    "▁▁",
    "▁▁▁▁",
    "th",
    "he",
    "the",
    "▁the",
    "▁th",
    "in",
    "ing",
    "▁in",
    "nd",
    "end",
    "▁end",
    "re",
    "▁re",
    "li",
    "lin",
    "line",
]


def write_spm(path: Path, added: str = "", space: bool = True) -> Path:
    """A llama of one layer with random weights and a SentencePiece vocabulary: bytes, letters, words, one added token."""
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz()#:.,_'", *"".join(WORDS)})
    codes = [f"<0x{b:02X}>" for b in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *codes, *letters, *(w for w in WORDS if len(w) > 1)]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    tokens, kinds = ([*tokens, added], [*kinds, 4]) if added else (tokens, kinds)
    writer, width, rng = gguf.GGUFWriter(path, "llama"), 64, np.random.default_rng(5)
    writer.add_block_count(1)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_scores([float(len(t)) if k == 1 else 0.0 for t, k in zip(tokens, kinds, strict=True)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(space)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(width, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", rng.standard_normal((len(tokens), width)).astype(np.float32))
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]:
        writer.add_tensor(f"blk.0.{name}.weight", (rng.standard_normal((width, width)) / 8).astype(np.float32))
    write_out(writer)
    return path


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> LlamaModel:
    return LlamaModel(write_spm(tmp_path_factory.mktemp("spm") / "spm.gguf"), ModelOptions(threads=1))


@pytest.fixture(scope="module")
def demo() -> LlamaModel:
    return LlamaModel(model_path("demo"), ModelOptions(threads=2), mtp=True)


def pieces(model: LlamaModel, found: list[tuple[int, int]] | None) -> list[bytes]:
    assert found is not None
    return [model.piece(t) for t, _ in found]


class TestSplitter:
    def test_the_vocabulary_adds_a_space(self, spm: LlamaModel) -> None:
        assert b"".join(spm.piece(t) for t in spm.tokenize_bytes(b"line")) == b" line"

    def test_a_text_that_goes_on_has_no_space_of_its_own(self, spm: LlamaModel) -> None:
        split = Splitter(spm).split
        assert pieces(spm, split(b"ing the")) == [b"ing", b" the"]
        assert pieces(spm, split(b" the")) == [b" the"]  # and a space of its own stays with its word
        assert pieces(spm, split(b"\nthe")) == [b"\n", b"the"]
        assert split(b"") == []

    def test_a_text_that_begins_has_it(self, spm: LlamaModel) -> None:
        found = Splitter(spm).split(b"the line", begins=True)
        assert pieces(spm, found) == [b" the", b" ", b"line"]
        assert [n for _, n in found or []] == [3, 1, 4]

    @pytest.mark.parametrize("begins", [True, False])
    def test_every_cut_of_a_text_is_exact(self, spm: LlamaModel, begins: bool) -> None:
        split, text = Splitter(spm).split, TEXT.encode()
        for cut in range(len(TEXT)):
            raw = TEXT[cut:].encode()
            found = split(raw, begins)
            assert found is not None
            assert sum(n for _, n in found) == len(raw)
            assert b"".join(pieces(spm, found)) == (b" " if begins else b"") + raw
        assert text.endswith(b"\n")

    def test_a_token_inside_that_makes_a_new_beginning(self, tmp_path: Path) -> None:
        """llama.cpp adds a space behind every added token, not only at the start of the text."""
        model = LlamaModel(write_spm(tmp_path / "added.gguf", added="<|x|>"), ModelOptions(threads=1))
        assert b"".join(model.piece(t) for t in model.tokenize_bytes(b"in<|x|>the")) == b" in<|x|> the"
        assert pieces(model, Splitter(model).split(b"in<|x|>the")) == [b"in", b"<|x|>", b"the"]

    def test_without_the_added_space_nothing_is_done(self, tmp_path: Path) -> None:
        model = LlamaModel(write_spm(tmp_path / "plain.gguf", space=False), ModelOptions(threads=1))
        for begins in (True, False):
            assert pieces(model, Splitter(model).split(b"the line", begins)) == [b"the", b" ", b"line"]

    def test_what_a_vocabulary_cannot_say_is_none(self) -> None:
        class Loud:
            """A vocabulary that knows capitals only."""

            def tokenize_bytes(self, raw: bytes) -> list[int]:
                return list(raw.upper())

            def piece(self, token: int) -> bytes:
                return bytes([token])

        split = Splitter(Loud()).split  # type: ignore[arg-type]
        assert split(b"the end") is None


class TestSpmDraft:
    def test_growing_text_keeps_exact_and_starts_as_the_model_wants(self, demo: LlamaModel, spm: LlamaModel) -> None:
        translator, context = Translator(demo, spm), demo.tokenize(TEXT)
        assert spm.first_tokens == [1]
        read = 0
        for n in range(1, len(context) + 1):
            ids = translator.to_draft(context[:n])
            text = b"".join(demo.piece(int(t)) for t in context[:n])
            if ids is None:
                assert "\ufffd" in text.decode("utf-8", "replace"), "only a torn character stops the translation"
                continue
            read += 1
            assert ids[0] == 1
            assert b"".join(spm.piece(int(t)) for t in ids) == b" " + text
        assert read > len(context) / 2

    def test_it_drafts_and_the_text_is_that_of_plain_decoding(self, demo: LlamaModel, spm: LlamaModel) -> None:
        ids = demo.tokenize("def read_lines(path):\n    with open(path) as file:\n        ")
        wanted = Decoder(LlamaTarget(demo, 512, 0, 8), build("none")).generate(ids, LIMITS, GREEDY)
        strategy = build(f'draft(model="{spm.path}", translate=true)')
        target = LlamaTarget(demo, 512, 3, 8)
        strategy.open(Services(target.n_vocab, 512, target.width, 1, GREEDY, demo))
        got = Decoder(target, strategy).generate(ids, LIMITS, GREEDY)
        assert got.token_ids == wanted.token_ids
        assert sum(got.steps.drafted) >= 10  # random guesses: many have no whole characters
        strategy.close()

    def test_a_target_that_adds_a_space_gets_the_guess_as_it_goes_on(self, demo: LlamaModel, spm: LlamaModel) -> None:
        translator, context = Translator(spm, demo), np.array(spm.tokenize_bytes(b"the "), np.int32)
        back = translator.to_target(context, demo.tokenize_bytes(b"line in"))
        assert b"".join(spm.piece(t) for t in back) == b"line in"


def test_real_sentencepiece_vocabulary() -> None:
    """With SPECDEC_TEST_SPM: a SentencePiece GGUF, of which the vocabulary suffices (llama.cpp's models/ has some)."""
    path = os.environ.get("SPECDEC_TEST_SPM")
    if not path:
        pytest.skip("SPECDEC_TEST_SPM names no SentencePiece GGUF")
    lib = llama()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = LlamaModel.__new__(LlamaModel)  # the vocabulary half of one: the file may have no weights
    model._lib, model._pieces = lib, {}
    model.vocab = lib.llama_model_get_vocab(lib.llama_model_load_from_file(path.encode(), params))
    assert b"".join(model.piece(t) for t in model.tokenize_bytes(b"line")) == b" line"
    split = Splitter(model).split
    for cut in range(len(TEXT)):
        raw = TEXT[cut:].encode()
        assert b"".join(pieces(model, split(raw))) == raw
        assert b"".join(pieces(model, split(raw, begins=True))) == b" " + raw
