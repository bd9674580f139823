"""MTP and draft models on nano models: their drafts are those of a naive re-computation; refusals."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from drafting import GREEDY, LIMITS, PROMPT, build, naive_mtp, pieces, recorded
from scipy.stats import chi2_contingency

from specdec.decode import Decoder
from specdec.errors import SpecdecError
from specdec.llama.gguf import read_header
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.llama.translate import Translator
from specdec.llama.vocab import match_vocabularies
from specdec.models import model_path
from specdec.rollback import Mode
from specdec.spec import ModelOptions
from specdec.strategy import Services
from specdec.testing.nano import write_nano
from specdec.types import Limits, Sampling


@pytest.fixture(scope="module")
def hybrid(nano_hybrid: Path) -> LlamaModel:
    return LlamaModel(nano_hybrid, ModelOptions(threads=1), mtp=True)


@pytest.mark.parametrize(("mode", "snapshots"), [("snapshots", 4), ("checkpoint", 0)])
def test_mtp_drafts_as_a_naive_computation(hybrid: LlamaModel, mode: Mode, snapshots: int) -> None:
    for prompt in (PROMPT, PROMPT[:3]):
        first = len(recorded(build("mtp(n_max=4)"), hybrid, mode, snapshots, [PROMPT[:20]]))
        seen = recorded(build("mtp(n_max=4)"), hybrid, mode, snapshots, [PROMPT[:20], prompt])[first:]
        for context, draft in seen[::9] + seen[-2:]:
            assert draft == naive_mtp(hybrid, context, len(draft), len(prompt))


def test_mtp_p_min_shortens_and_n_min_drops(hybrid: LlamaModel) -> None:
    free = dict((tuple(c), d) for c, d in recorded(build("mtp(n_max=4)"), hybrid, "snapshots", 4, [PROMPT]))
    gated = recorded(build("mtp(n_max=4, p_min=0.6)"), hybrid, "snapshots", 4, [PROMPT])
    pairs = [(draft, free[tuple(context)]) for context, draft in gated if tuple(context) in free]
    assert all(draft == whole[: len(draft)] for draft, whole in pairs)
    assert 0 < sum(len(d) for d, _ in pairs) < sum(len(w) for _, w in pairs)
    strict = recorded(build("mtp(n_max=4, p_min=0.6, n_min=3)"), hybrid, "snapshots", 4, [PROMPT])
    assert {len(d) for _, d in strict} <= {0, 3, 4}


def naive_draft(model: LlamaModel, context: list[int], n: int, n_prompt: int) -> list[int]:
    """The whole context through a fresh draft context, then the argmax chain."""
    target = LlamaTarget(model, 512)
    tokens, at = list(context), 0
    for ids in pieces(context, n_prompt - 1):
        row = target.decode(ids, at, "last")[0]
        at += len(ids)
    for _ in range(n):
        tokens.append(int(row.argmax()))
        row = target.decode(np.array(tokens[-1:], np.int32), at, "last")[0]
        at += 1
    target.close()
    return tokens[len(context) :]


@pytest.mark.parametrize("feed", ["together", "singly"])
@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_draft_model_drafts_as_a_naive_computation(hybrid: LlamaModel, tmp_path: Path, kind: str, feed: str) -> None:
    """A draft with weights near the target's accepts some and rejects some: every way back is taken."""
    path = write_nano(tmp_path / "draft.gguf", kind, seed=0 if kind == "hybrid" else 1)  # type: ignore[arg-type]
    model = LlamaModel(path, ModelOptions(threads=1))
    for prompt in (PROMPT, PROMPT[:40], PROMPT[:1]):
        strategy = build(f'draft(model="{path}", n_max=4, feed={feed})')
        seen = recorded(strategy, hybrid, "snapshots", 4, [prompt])
        for context, draft in seen[::7] + seen[-2:]:
            assert draft == naive_draft(model, context, len(draft), len(prompt))


@pytest.mark.parametrize("feed", ["together", "singly"])
def test_a_hybrid_draft_that_is_often_wrong_still_drafts_right(hybrid: LlamaModel, tmp_path: Path, feed: str) -> None:
    path = write_nano(tmp_path / "draft.gguf", "hybrid", seed=9)
    strategy = build(f'draft(model="{path}", n_max=3, feed={feed})')
    seen = recorded(strategy, hybrid, "snapshots", 3, [PROMPT])
    model = LlamaModel(path, ModelOptions(threads=1))
    for context, draft in seen[::5]:
        assert draft == naive_draft(model, context, len(draft), len(PROMPT))


@pytest.mark.parametrize("p_min", [0.0, 0.35])
def test_sampled_drafts_are_lossless(hybrid: LlamaModel, nano_dense: Path, p_min: float) -> None:
    """The second token of many sampled answers, with and without the draft: one distribution, p_min or not."""
    sampling = Sampling(0.8, top_k=3)
    target = LlamaTarget(hybrid, 512, 2, 8)
    strategy = build(f'draft(model="{nano_dense}", n_max=2, sample=true, p_min={p_min})')
    strategy.open(Services(target.n_vocab, 512, target.width, 1, sampling, hybrid))
    drafting, plain = Decoder(target, strategy), Decoder(target, build("none"))
    counts: list[dict[tuple[int, ...], int]] = [{}, {}]
    for seed in range(1500):
        for tally, decoder in zip(counts, (drafting, plain), strict=True):
            decoder.clear()
            answer = decoder.generate(
                PROMPT[:12], Limits(3, ignore_eos=True), Sampling(0.8, top_k=3, seed=seed + 7_000_000)
            )
            key = tuple(answer.token_ids[:2])
            tally[key] = tally.get(key, 0) + 1
    strategy.close()
    target.close()
    seen = [k for k in set(counts[0]) | set(counts[1]) if counts[0].get(k, 0) + counts[1].get(k, 0) >= 20]
    table = np.array([[c.get(k, 0) for k in seen] for c in counts])
    assert len(seen) > 3
    assert chi2_contingency(table).pvalue > 1e-3


def test_sampled_drafts_come_from_their_distribution(hybrid: LlamaModel, nano_dense: Path) -> None:
    strategy = build(f'draft(model="{nano_dense}", n_max=3, sample=true)')
    seen = recorded(strategy, hybrid, "snapshots", 3, [PROMPT], Sampling(0.9, top_k=8, seed=2))
    assert sum(len(d) for _, d in seen) > 30


@pytest.fixture(scope="module")
def demo() -> LlamaModel:
    return LlamaModel(model_path("demo"), ModelOptions(threads=2), mtp=True)


class TestTranslation:
    """The demo target with a draft of another vocabulary: real text, split differently."""

    def test_text_is_that_of_plain_decoding_and_time_is_booked(self, demo: LlamaModel) -> None:
        ids = demo.tokenize("def read_lines(path):\n    with open(path) as file:\n        ")
        wanted = Decoder(LlamaTarget(demo, 512, 0, 8), build("none")).generate(ids, LIMITS, GREEDY)
        strategy = build("draft(model=demo-other, translate=true)")
        target = LlamaTarget(demo, 512, 3, 8)
        strategy.open(Services(target.n_vocab, 512, target.width, 1, GREEDY, demo))
        got = Decoder(target, strategy).generate(ids, LIMITS, GREEDY)
        assert got.token_ids == wanted.token_ids
        assert 0 < sum(got.steps.accepted) < sum(got.steps.drafted)
        assert 0 < got.phase_s["translate"] < got.generation_s
        strategy.close()

    def test_round_trip_of_text(self, demo: LlamaModel) -> None:
        draft = LlamaModel(model_path("demo-other"), ModelOptions(threads=1))
        translator = Translator(demo, draft)
        context = demo.tokenize("import os\n\n# Größe äö 漢字 🙂\nprint('total', 17)\n")
        torn = 0
        for n in range(1, len(context) + 1):
            ids = translator.to_draft(context[:n])
            text = b"".join(demo.piece(int(t)) for t in context[:n])
            if ids is None:
                torn += 1
                assert "\ufffd" in text.decode("utf-8", "replace"), "only a torn character stops the translation"
            else:
                assert b"".join(draft.piece(int(t)) for t in ids) == text
        assert 0 < torn < len(context) / 2
        back = translator.to_target(context, draft.tokenize_bytes(b"    return total"))
        assert b"".join(demo.piece(t) for t in back) == b"    return total"

    def test_sampling_and_translation_exclude_each_other(self, nano_hybrid: Path) -> None:
        with pytest.raises(SpecdecError, match="exclude each other"):
            build("draft(model=demo-other, translate=true, sample=true)").check(read_header(nano_hybrid))


class TestRefusals:
    def refused(self, text: str, target: Path) -> str:
        with pytest.raises(SpecdecError) as e:
            build(text).check(read_header(target))
        return str(e.value)

    def test_no_mtp_layer(self, nano_dense: Path) -> None:
        assert "this GGUF has no MTP layer (nextn_predict_layers is 0)" in self.refused("mtp", nano_dense)

    def test_two_mtp_layers(self, nano_hybrid: Path, tmp_path: Path) -> None:
        data = nano_hybrid.read_bytes()
        key = b"nextn_predict_layers" + (4).to_bytes(4, "little")
        assert key + (1).to_bytes(4, "little") in data
        two = tmp_path / "two.gguf"
        two.write_bytes(data.replace(key + (1).to_bytes(4, "little"), key + (2).to_bytes(4, "little")))
        assert "has 2 MTP layers" in self.refused("mtp", two)

    def test_no_draft_named_or_missing(self, nano_hybrid: Path) -> None:
        assert "no draft model is named. Give --draft FILE" in self.refused("draft", nano_hybrid)
        assert "there is no file" in self.refused("draft(model=absent.gguf)", nano_hybrid)

    def test_other_vocabulary(self, nano_hybrid: Path, tmp_path: Path) -> None:
        other = write_nano(tmp_path / "other.gguf", "dense", n_vocab=900)
        assert "vocabularies differ: target 512 tokens, draft 900" in self.refused(
            f'draft(model="{other}")', nano_hybrid
        )


class TestVocabulary:
    def write(self, path: Path, tokens: list[str], model: str = "gpt2", **keys: object) -> Path:
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tokenizer_model(model)
        writer.add_token_list(tokens)
        for key, value in keys.items():
            getattr(writer, f"add_{key}")(value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    @pytest.mark.parametrize(
        ("draft", "keys", "reason"),
        [
            ([f"t{i}" for i in range(300)], {}, None),
            ([f"t{i}" for i in range(400)], {}, None),
            ([f"t{i}" for i in range(429)], {}, "vocabularies differ: target 300 tokens, draft 429"),
            ([f"t{i}" if i != 7 else "x" for i in range(300)], {}, "token 7 differs: target 't7', draft 'x'"),
            ([f"t{i}" if i != 3 else "x" for i in range(300)], {}, None),
            ([f"t{i}" for i in range(300)], {"add_bos_token": True}, "begin-of-text is added by the draft only"),
            (
                [f"t{i}" for i in range(300)],
                {"model": "llama"},
                "kinds of vocabulary differ: target 'gpt2', draft 'llama'",
            ),
        ],
    )
    def test_llama_cpps_rules(
        self, tmp_path: Path, draft: list[str], keys: dict[str, object], reason: str | None
    ) -> None:
        target = self.write(tmp_path / "t.gguf", [f"t{i}" for i in range(300)])
        found = match_vocabularies(target, self.write(tmp_path / "d.gguf", draft, **keys))  # type: ignore[arg-type]
        assert found.compatible == (reason is None)
        if reason:
            assert found.reasons[0] == reason

    def test_special_tokens_that_do_not_break_drafting_are_warnings(self, tmp_path: Path) -> None:
        tokens = [f"t{i}" for i in range(300)]
        target = self.write(tmp_path / "t.gguf", tokens, bos_token_id=298)
        found = match_vocabularies(target, self.write(tmp_path / "d.gguf", tokens))
        assert found.compatible
        assert "llama.cpp falls back to 11" in found.warnings[0]
        assert "--override-kv tokenizer.ggml.bos_token_id=int:298" in found.warnings[0]
