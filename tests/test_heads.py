"""MTP layers in a file of their own, and chained heads: drafts are those of a naive re-computation; refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drafting import GREEDY, LIMITS, PROMPT, build, pieces, recorded

from specdec.decode import Decoder
from specdec.errors import SpecdecError
from specdec.llama.gguf import read_header
from specdec.llama.model import LlamaModel
from specdec.llama.mtp import MtpContext
from specdec.llama.target import LlamaTarget
from specdec.models import model_path
from specdec.rollback import snapshots_for
from specdec.spec import ModelOptions
from specdec.strategy import Services, Strategy
from specdec.testing.heads import LAYERS, write_heads, write_part
from specdec.testing.nano import write_nano
from specdec.types import Draft, FloatArray, Step, TokenArray

ONE = ModelOptions(threads=1, load_mode="none")


@pytest.fixture(scope="module")
def parts(nano_hybrid: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(the MTP layer alone, the model without it)."""
    folder = tmp_path_factory.mktemp("parts")
    alone = write_part(nano_hybrid, folder / "mtp.gguf", "mtp")
    return alone, write_part(nano_hybrid, folder / "trunk.gguf", "trunk")


@pytest.fixture(scope="module")
def step35(tmp_path_factory: pytest.TempPathFactory) -> LlamaModel:
    path = write_heads(tmp_path_factory.mktemp("step35") / "tiny.gguf", "step35", 3)
    return LlamaModel(path, ModelOptions(threads=1), mtp=True)


class TestSeparateFile:
    def test_same_drafts_as_the_layer_in_the_same_file(self, nano_hybrid: Path, parts: tuple[Path, Path]) -> None:
        whole = LlamaModel(nano_hybrid, ONE, mtp=True)
        wanted = recorded(build("mtp(n_max=4)"), whole, "snapshots", 4, [PROMPT, PROMPT[:9]])
        for path in (nano_hybrid, parts[1]):  # a target with the layer that does not load it, and one without
            bare = LlamaModel(path, ONE)
            separate = build(f'mtp(model="{parts[0]}", n_max=4)')
            assert recorded(separate, bare, "snapshots", 4, [PROMPT, PROMPT[:9]]) == wanted

    def test_same_drafts_on_the_demo_model(self, tmp_path: Path) -> None:
        alone = write_part(model_path("demo"), tmp_path / "mtp.gguf", "mtp")
        whole = LlamaModel(model_path("demo"), ModelOptions(threads=1), mtp=True)
        prompt = whole.tokenize("def read_lines(path):\n    with open(path) as file:\n")
        wanted = recorded(build("mtp"), whole, "snapshots", 3, [prompt])
        for path in (model_path("demo"), write_part(model_path("demo"), tmp_path / "trunk.gguf", "trunk")):
            bare = LlamaModel(path, ModelOptions(threads=1))
            build(f'mtp(model="{alone}")').check(bare.header)
            assert recorded(build(f'mtp(model="{alone}")'), bare, "snapshots", 3, [prompt]) == wanted

    def test_the_target_does_without_and_the_file_is_counted(self, nano_hybrid: Path, parts: tuple[Path, Path]) -> None:
        strategy = build(f'mtp(model="{parts[0]}")')
        strategy.check(read_header(nano_hybrid))
        assert "mtp_layer" in build("mtp").needs
        assert strategy.needs == {"hidden_states", "target_model"}
        whole, bare = LlamaModel(nano_hybrid, ONE, mtp=True), LlamaModel(nano_hybrid, ONE)
        saved = sum(i.bytes for i in whole.memory()) - sum(i.bytes for i in bare.memory())
        assert saved == pytest.approx(whole.mtp_bytes, abs=2**15)  # llama.cpp's log rounds to 0.01 MiB
        strategy.open(Services(bare.n_vocab, 512, bare.width, 1, GREEDY, bare))
        weights = sum(i.bytes for i in strategy.memory() if i.kind == "weights")
        assert weights == pytest.approx(sum(t.bytes for t in read_header(parts[0]).tensors), abs=2**15)
        assert any(i.kind == "KV" for i in strategy.memory())
        strategy.close()

    def test_wrong_files_are_refused_in_one_line(
        self, nano_hybrid: Path, parts: tuple[Path, Path], tmp_path: Path
    ) -> None:
        _, trunk = parts
        wide = write_part(write_heads(tmp_path / "w.gguf", "qwen35"), tmp_path / "wide.gguf", "mtp")
        other = write_nano(tmp_path / "o.gguf", "hybrid", n_vocab=700)
        more = write_part(write_nano(tmp_path / "m.gguf", "hybrid", n_vocab=540), tmp_path / "more.gguf", "mtp")
        target = read_header(nano_hybrid)
        for file, said in (
            (nano_hybrid, "hybrid.gguf is a whole model (0.00 GB), which would be loaded beside the target"),
            (trunk, "trunk.gguf has no MTP layer (nextn_predict_layers is 0)"),
            (wide, "of another model: the architecture is qwen35moe in the target, qwen35 there"),
            (write_part(other, tmp_path / "v.gguf", "mtp"), "vocabularies differ: target 512 tokens, draft 700"),
            (more, "token 510 differs"),
        ):
            with pytest.raises(SpecdecError) as e:
                build(f'mtp(model="{file}")').check(target)
            assert said in str(e.value)
            assert "\n" not in str(e.value)

    def test_another_width_or_depth_is_refused(
        self, nano_hybrid: Path, parts: tuple[Path, Path], tmp_path: Path
    ) -> None:
        data = parts[0].read_bytes()
        for key, value, said, first in (
            (b"embedding_length", 128, "the width is 128 in the target, 129 there", b"blk.4."),
            (b"block_count", 5, "the number of layers is 4 in the target, 5 there", b"blk.5."),
        ):
            old = key + (4).to_bytes(4, "little") + value.to_bytes(4, "little")
            assert data.count(old) == 1
            new = old[:-4] + (value + 1).to_bytes(4, "little")
            path = tmp_path / "other.gguf"
            path.write_bytes(data.replace(old, new).replace(b"blk.4.", first))
            with pytest.raises(SpecdecError, match=said):
                build(f'mtp(model="{path}")').check(read_header(nano_hybrid))

    def test_the_layer_alone_is_no_target_and_no_layer_is_no_head(
        self, parts: tuple[Path, Path], tmp_path: Path
    ) -> None:
        with pytest.raises(SpecdecError, match="holds an MTP layer alone, not a whole model"):
            LlamaTarget(LlamaModel(parts[0], ONE, mtp=True), 512)
        data = parts[0].read_bytes()
        broken = tmp_path / "declared.gguf"
        broken.write_bytes(data.replace(b"nextn.eh_proj", b"nextn.xx_proj"))
        with pytest.raises(SpecdecError, match=r"declares 1 MTP layer, but has no tensor blk\.4\.nextn\.eh_proj"):
            build("mtp").check(read_header(broken))


class Helped(Strategy):
    """mtp, but two of three steps verify known right tokens and a wrong one: it must follow what it did not draft."""

    name = "helped"

    def __init__(self, mtp: Strategy, truth: list[int]) -> None:
        super().__init__()
        self.mtp, self.truth, self.turn = mtp, truth, 0
        self.needs = mtp.needs
        self.seen: list[tuple[list[int], list[int]]] = []
        self.open, self.begin, self.close = mtp.open, mtp.begin, mtp.close  # type: ignore[method-assign]

    def process(self, ids: TokenArray, start: int, hidden: FloatArray) -> None:
        self.mtp.process(ids, start, hidden)

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        self.turn += 1
        right = self.truth[len(context) :]
        if self.turn % 3 and len(right) > 3:
            return Draft([*right[: self.turn % 4], (right[self.turn % 4] + 1) % 500])
        draft = self.mtp.propose(context, max_tokens)
        self.seen.append((context.tolist(), list(draft.token_ids)))
        return draft

    def accept(self, step: Step) -> None:
        self.mtp.accept(step)


def naive_chain(model: LlamaModel, context: list[int], n: int, n_prompt: int) -> list[int]:
    """Every head in a context of its own, which decodes all of the text and of the draft so far anew."""
    target = LlamaTarget(model, 512, 0, 0, hidden=True)
    batches, rows, at = pieces(context, n_prompt), [np.zeros((1, model.width), np.float32)], 0
    for ids in batches:
        target.decode(ids, at, "none")
        rows.append(target.hidden_rows().copy())
        at += len(ids)
    target.close()
    shifted = np.concatenate(rows)
    heads = model.header.nextn_layers
    tokens: list[int] = []
    for draft in range(n):
        mtp, at = MtpContext(model, 512, 64, 1), 0
        for ids in (*batches, *(np.array([t], np.int32) for t in tokens)):
            stop = at + len(ids)
            result = mtp.decode(ids, at, shifted[at:stop], output=True, head=draft if heads > 1 else 0)
            at = stop
        assert result is not None
        tokens.append(int(result[0].argmax()))
        shifted = np.concatenate([shifted[:at], result[1][None]])
        mtp.close()
    return tokens


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [*((name, 1) for name in LAYERS), ("step35", 3), ("mimo2", 2), ("hy_v3", 3)],
)
def test_every_architecture_drafts_as_a_naive_computation(tmp_path: Path, architecture: str, heads: int) -> None:
    model = LlamaModel(write_heads(tmp_path / "tiny.gguf", architecture, heads), ModelOptions(threads=1), mtp=True)
    strategy = build("mtp(n_max=3)")
    strategy.check(model.header)
    plain = LlamaTarget(model, 512, 0, 8)
    truth = Decoder(plain, build("none")).generate(PROMPT, LIMITS, GREEDY).token_ids
    plain.close()
    target = LlamaTarget(model, 512, snapshots_for("auto", 4, model.recurrent, None), 8, hidden=True)
    helped = Helped(strategy, [*PROMPT.tolist(), *truth])
    helped.open(Services(target.n_vocab, target.n_ctx, target.width, 1, GREEDY, model))
    generation = Decoder(target, helped).generate(PROMPT, LIMITS, GREEDY)
    assert generation.token_ids == truth
    assert max(generation.steps.accepted) >= 3
    longest = 3 if heads == 1 else min(3, heads)
    assert {len(draft) for _, draft in helped.seen[:-3]} == {longest}
    for context, draft in helped.seen[::3]:
        assert draft == naive_chain(model, context, len(draft), len(PROMPT))
    helped.close()
    target.close()


class TestChainedHeads:
    def test_p_min_and_late_heads(self, step35: LlamaModel) -> None:
        """Heads that p_min left behind catch up before they draft again."""
        seen = recorded(build("mtp(n_max=3, p_min=0.3)"), step35, "snapshots", 0, [PROMPT, PROMPT[:5]])
        lengths = {len(draft) for _, draft in seen}
        assert {0, 3} <= lengths or {1, 3} <= lengths
        for context, draft in [s for s in seen if len(s[1]) > 1][::4]:
            n_prompt = 5 if context[:6] != PROMPT[:6].tolist() else len(PROMPT)
            assert draft == naive_chain(step35, context, len(draft), n_prompt)

    def test_n_max_is_clipped_to_the_heads_with_a_word(self, step35: LlamaModel) -> None:
        asked = build("mtp(n_max=5)")
        with pytest.warns(UserWarning, match="at most 3 tokens, not n_max 5: the model has 3 chained MTP heads"):
            asked.check(step35.header)
        assert asked.longest_draft == 3
        few = build("mtp(n_max=2)")
        few.check(step35.header)
        assert few.longest_draft == 2
        assert {len(d) for _, d in recorded(few, step35, "snapshots", 0, [PROMPT])[:-2]} == {2}

    def test_chained_heads_in_a_file_of_their_own(self, step35: LlamaModel, tmp_path: Path) -> None:
        alone = write_part(step35.path, tmp_path / "mtp.gguf", "mtp")
        bare = LlamaModel(step35.path, ModelOptions(threads=1))
        wanted = recorded(build("mtp"), step35, "snapshots", 0, [PROMPT])
        assert recorded(build(f'mtp(model="{alone}")'), bare, "snapshots", 0, [PROMPT]) == wanted

    def test_refusals(self, tmp_path: Path) -> None:
        for architecture, heads, said in (
            ("glm4moe", 2, "has 2 MTP layers; llama.cpp runs exactly one of glm4moe"),
            ("qwen35", 2, "has 2 MTP layers; llama.cpp runs exactly one of qwen35"),
        ):
            path = write_heads(tmp_path / f"{architecture}.gguf", architecture, heads)
            with pytest.raises(SpecdecError, match=said):
                build("mtp").check(read_header(path))
        fused = write_heads(tmp_path / "mimo2.gguf", "mimo2", 2)
        split = tmp_path / "split.gguf"
        split.write_bytes(fused.read_bytes().replace(b"blk.5.attn_qkv", b"blk.5.attn_xyz"))
        with pytest.raises(SpecdecError, match=r"declares 2 MTP layers, but has no tensor blk\.5\.attn_qkv\.weight"):
            build("mtp").check(read_header(split))
        unknown = tmp_path / "unknown.gguf"
        unknown.write_bytes(fused.read_bytes().replace(b"mimo2", b"mimo9"))
        with pytest.raises(SpecdecError, match=r"'mimo9' is not supported\. Supported: qwen35,"):
            build("mtp").check(read_header(unknown))
