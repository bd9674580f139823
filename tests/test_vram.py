"""Memory by item against llama.cpp's own log; the planner on files that have a header alone; the cap on a fake GPU."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from shape_file import write_08b, write_35b, write_llama
from typer.testing import CliRunner

from specdec.cli import app
from specdec.errors import OutOfMemory, SpecdecError
from specdec.groups import group_rows
from specdec.llama.ballast import Ballast
from specdec.llama.gguf import read_header
from specdec.models import model_path
from specdec.registry import Registry
from specdec.spec import ModelOptions, make_spec
from specdec.testing.nano import write_nano
from specdec.types import MemoryItem
from specdec.vram import memory as parts
from specdec.vram.arms import cases_of, common_split, lay_out
from specdec.vram.cards import capped_name, parse_cards
from specdec.vram.items import Case, itemise, total
from specdec.vram.overheads import MIB, compute
from specdec.vram.plan import fit, fit_at, splits

VOCABULARY = 1000
_KV_TYPES = [("f16", "f16"), ("q8_0", "q8_0")]


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_35b(tmp_path_factory.mktemp("shape") / "35b.gguf", VOCABULARY)


@pytest.fixture(scope="module")
def draft_shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_08b(tmp_path_factory.mktemp("shape") / "08b.gguf", VOCABULARY)


def _said(items: list[MemoryItem], kind: str) -> int:
    return sum(i.bytes for i in items if i.kind == kind)


def _near(expected: int, real: int) -> bool:
    return abs(expected - real) <= max(MIB, 0.03 * real)


@pytest.mark.parametrize("kind", ["hybrid", "dense", "demo", "demo-draft"])
@pytest.mark.parametrize(("k", "v"), _KV_TYPES)
def test_weights_kv_and_states_are_those_that_llama_cpp_allocates(tmp_path: Path, kind: str, k: str, v: str) -> None:
    from specdec.llama.model import LlamaModel
    from specdec.llama.target import LlamaTarget

    path = model_path(kind) if kind.startswith("demo") else write_nano(tmp_path / "nano.gguf", kind)  # type: ignore[arg-type]
    options = ModelOptions(cache_type_k=k, cache_type_v=v, load_mode="none", threads=1)  # type: ignore[arg-type]
    header, snapshots = read_header(path), 2
    model = LlamaModel(path, options, extra_buffers=False, mtp=header.nextn_layers > 0)
    target = LlamaTarget(model, 1000, snapshots=snapshots if model.recurrent else 0, longest_draft=2)
    try:
        cpu = options.model_copy(update={"gpu_layers": 0})
        tensors = sum(t.bytes for t in header.tensors)
        ours = parts.on("CPU", parts.weights(header, cpu)) + parts.on("CPU", parts.mtp_weights(header, cpu))
        assert ours == tensors
        assert _near(ours, _said(model.memory(), "weights"))
        rows = parts.on("CPU", parts.kv(header, cpu, 1000))
        assert abs(rows - _said(target.buffers, "KV")) < 0.02 * MIB  # the log has two decimals
        state = parts.on("CPU", parts.recurrent(header, cpu))
        assert abs((1 + snapshots) * state - _said(target.buffers, "recurrent")) < 0.02 * MIB
        assert bool(state) == model.recurrent
    finally:
        target.close()
        model.close()


def test_kv_of_the_mtp_layers_own_context(tmp_path: Path) -> None:
    from specdec.llama.model import LlamaModel
    from specdec.llama.mtp import MtpContext

    path, options = write_nano(tmp_path / "nano.gguf", "hybrid"), ModelOptions(threads=1)
    model = LlamaModel(path, options, mtp=True)
    context = MtpContext(model, 8192, 64, 1)
    try:
        expected = sum(i.bytes for i in parts.kv(model.header, options, 8192, mtp=True))
        assert expected > MIB / 2
        assert abs(expected - _said(context.memory(), "KV")) < 0.02 * MIB
    finally:
        context.close()
        model.close()


def test_the_35b_shape_in_published_figures(shape: Path) -> None:
    header, options = read_header(shape), ModelOptions()
    assert shape.stat().st_blocks * 512 < 4 * MIB  # the file has no data
    assert header.file_bytes / 1e9 == pytest.approx(20.9, abs=0.1)
    assert sum(i.bytes for i in parts.recurrent(header, options)) / MIB == pytest.approx(62.81, abs=0.01)
    assert sum(i.bytes for i in parts.mtp_weights(header, options)) / MIB == pytest.approx(474, abs=2)
    attention_layers, heads_by_length, bytes_of_k_and_v = 10, 2 * 256, 4
    assert (
        sum(i.bytes for i in parts.kv(header, options, 4096))
        == attention_layers * heads_by_length * bytes_of_k_and_v * 4096
    )


@pytest.mark.parametrize(
    ("n_ctx", "n_ubatch", "flash", "llama_cpp"),
    [
        (4096, 512, True, 76.02), (32768, 512, True, 104.28), (131072, 512, True, 200.28), (4096, 128, True, 19.0),
        (4096, 1024, True, 152.04), (4096, 512, False, 178.01), (32768, 512, False, 1130.01),
    ],
)  # fmt: skip
def test_compute_buffer_is_llama_cpps(shape: Path, n_ctx: int, n_ubatch: int, flash: bool, llama_cpp: float) -> None:
    """llama.cpp's own figures for this shape: a CPU build, allocation simulated (no_alloc)."""
    found = compute(read_header(shape), n_ctx, n_ubatch, rows=1, flash=flash) / MIB
    assert found == pytest.approx(llama_cpp, rel=0.03, abs=1.0)


@pytest.mark.parametrize(
    ("n_ctx", "n_ubatch", "llama_cpp"), [(4096, 512, 46.16), (32768, 512, 74.42), (4096, 128, 11.65)]
)
def test_compute_buffer_of_a_dense_hybrid(draft_shape: Path, n_ctx: int, n_ubatch: int, llama_cpp: float) -> None:
    found = compute(read_header(draft_shape), n_ctx, n_ubatch, rows=1, flash=True) / MIB
    assert found == pytest.approx(llama_cpp, rel=0.03, abs=1.0)


@pytest.mark.parametrize(("ff", "experts", "used"), [(768, 0, 0), (1024, 0, 0), (128, 8, 4), (256, 8, 4), (1024, 4, 2)])
def test_compute_buffer_of_dense_layers_and_of_experts(tmp_path: Path, ff: int, experts: int, used: int) -> None:
    """Against llama.cpp's allocation."""
    from specdec.llama.model import LlamaModel
    from specdec.llama.target import LlamaTarget

    model = LlamaModel(
        write_llama(tmp_path / "llama.gguf", ff, experts, used), ModelOptions(flash_attn="on", threads=1)
    )
    target = LlamaTarget(model, 1024)
    real = next(i.bytes for i in target.buffers if i.kind == "compute")
    target.close()
    model.close()
    assert compute(model.header, 1024, 512, rows=1, flash=True) == pytest.approx(real, rel=0.01)


def _cases(shape: Path, draft: Path, n_ctx: int = 8192) -> list[Case]:
    planned = Registry().plan("mtp,draft,ngram", {"draft": {"model": str(draft)}})
    return [Case(p, n_ctx) for p in planned]


def test_a_plan_fits_and_one_layer_more_would_not(shape: Path, draft_shape: Path) -> None:
    header = read_header(shape)
    for card in parse_cards("8GB,12GB,16GB,24GB"):
        for case in _cases(shape, draft_shape):
            found = fit(case, header, ModelOptions(), card)
            assert found.fits
            assert 0 <= found.left == card.budget - total(found.items)
            tried = splits(header, ModelOptions())
            at = tried.index(found.options)
            if at:
                assert not fit_at(case, header, tried[at - 1], card).fits


def test_pinned_weights_cost_the_card_a_page_table(shape: Path) -> None:
    """As measured on an H100: 18 MiB for 22 layers' experts of this shape."""
    header, case = read_header(shape), Case(Registry().plan("none")[0], 4096)
    mapped, pinned = (
        itemise(case, header, ModelOptions(n_cpu_moe=22, load_mode=mode))  # type: ignore[arg-type]
        for mode in ("mmap", "none")
    )
    more = [i for i in pinned if i not in mapped]
    assert [(i.owner, i.device, i.kind) for i in more] == [("process", "GPU", "page table")]
    assert total(pinned) - total(mapped) == pytest.approx(18 * MIB, abs=3 * MIB)
    assert itemise(case, header, ModelOptions(gpu_layers=0, load_mode="none"))[-1].kind != "page table"


def test_more_draft_tokens_cost_a_state_each(shape: Path) -> None:
    header = read_header(shape)
    one, four = (Case(Registry().plan(f"mtp(n_max={n})")[1], 4096) for n in (1, 4))
    more = total(itemise(four, header, ModelOptions())) - total(itemise(one, header, ModelOptions()))
    assert more == 3 * sum(i.bytes for i in parts.recurrent(header, ModelOptions()))


def test_what_does_not_fit_says_what_would(shape: Path) -> None:
    header, card = read_header(shape), parse_cards("1.9GB")[0]
    case = Case(Registry().plan("none")[0], 131072)
    found = fit(case, header, ModelOptions(), card)
    assert not found.fits
    assert found.left < 0
    size = next(int(a.split()[1]) for a in found.advice if a.startswith("--ctx-size"))
    assert fit(Case(case.planned, size), header, ModelOptions(), card).fits
    assert "MiB are missing" in found.advice[-1]


def test_a_card_is_what_it_reports_less_the_reserve() -> None:
    assert [c.budget for c in parse_cards("8GB, 12GB", 512)] == [(8188 - 512) * MIB, (12284 - 512) * MIB]
    with pytest.raises(SpecdecError, match="not the size of a card"):
        parse_cards("8XB")
    with pytest.raises(SpecdecError, match="is not the size of a card"):
        parse_cards("99999999999GB")
    for reserve in (-1, 10**30):
        with pytest.raises(SpecdecError, match=f"--reserve {reserve}: is no part"):
            parse_cards("8GB", reserve)
    with pytest.raises(SpecdecError, match="nothing is left"):
        parse_cards("1GB", 1024)
    assert capped_name("8 GB", 7676, "NVIDIA H100", True) == "emulated 8 GB (NVIDIA H100, capped)"
    assert "not enforced" in capped_name("", 5000, "CPU", False)


def test_an_unknown_memory_is_refused(shape: Path) -> None:
    import dataclasses

    header = read_header(shape)
    strange = dataclasses.replace(header.tensors[-1], name="blk.0.time_mix_w1.weight")
    with pytest.raises(SpecdecError, match="not known to the planner"):
        parts.kv(dataclasses.replace(header, tensors=(*header.tensors, strange)), ModelOptions(), 4096)


def test_both_arms_are_laid_out(shape: Path, draft_shape: Path) -> None:
    spec = make_spec(target=str(shape), draft=str(draft_shape), strategies="mtp,draft,ngram")
    said: list[str] = []
    runs = lay_out(spec, parse_cards("8GB,12GB"), "g", said.append)
    assert {r.card for r in runs} == {"8 GB", "12 GB"}
    for card in ("8 GB", "12 GB"):
        mine = [r for r in runs if r.card == card]
        same = [r for r in mine if "same split" in r.arm]
        assert len({r.model.n_cpu_moe for r in same}) == 1
        assert sorted(",".join(r.strategies for r in same).split(",")) == ["draft", "mtp", "ngram-mod", "ngram-simple"]
        assert all(
            r.strategies in ("mtp", "draft") or "mtp" not in r.strategies for r in mine
        )  # each alone in its process
        common = same[0].model.n_cpu_moe  # the draft model costs the most
        own = {"mtp": common, "draft": common} | {r.strategies: r.model.n_cpu_moe for r in mine if "same VRAM" in r.arm}
        assert own["ngram-simple,ngram-mod"] < own["mtp"] <= own["draft"] == common
        assert len({(r.strategies, r.model.n_cpu_moe) for r in mine}) == len(mine)  # nothing runs twice
        assert {r.vram_limit for r in mine} == {8188 - 512 if card == "8 GB" else 12284 - 512}
    assert len(said) == 2 * 5


def test_the_one_split_of_a_profile_holds_the_mtp_layer_beside_a_draft_model(shape: Path, draft_shape: Path) -> None:
    spec = make_spec(target=str(shape), draft=str(draft_shape), strategies="mtp,draft")
    header = read_header(shape)
    mtp, draft = cases_of(spec, header)[-2:]
    layer = parts.on("GPU", parts.mtp_weights(header, spec.model))
    tried, further = splits(header, spec.model), 0
    for card in parse_cards("8GB,10GB,12GB,16GB,20GB"):
        split = common_split(spec, card)
        at = tried.index(split)
        assert total(itemise(draft, header, split)) + layer <= card.budget
        assert total(itemise(draft, header, tried[at - 1])) + layer > card.budget - MIB
        alone = [fit(case, header, spec.model, card).options for case in (mtp, draft)]
        assert alone == [common_split(spec.model_copy(update={"strategies": s}), card) for s in ("mtp", "draft")]
        further += at > tried.index(alone[1])
    assert further, "the draft model alone leaves more on the GPU"


class FakeGpu:
    """A GPU of so many bytes; other programs may come in between."""

    def __init__(self, free: int, taken_meanwhile: int = 0, refuses: bool = False) -> None:
        self.name, self._free, self._meanwhile, self._refuses = "FAKE0", free, taken_meanwhile, refuses
        self.held: dict[int, int] = {}

    def free(self) -> int:
        return self._free - sum(self.held.values())

    def take(self, n: int) -> int:
        if self._refuses or n > self.free():
            return 0
        self.held[7] = n
        self._free -= self._meanwhile
        return 7

    def release(self, handle: int) -> None:
        del self.held[handle]


def test_the_ballast_leaves_just_the_cap_free() -> None:
    gpu = FakeGpu(80 << 30)
    ballast = Ballast(gpu, 7 << 30)
    assert gpu.free() == 7 << 30
    assert gpu.take((7 << 30) + 1) == 0  # overrunning fails
    ballast.close()
    ballast.close()
    assert gpu.free() == 80 << 30


def test_a_cap_that_cannot_be_is_refused() -> None:
    with pytest.raises(SpecdecError, match="has only"):
        Ballast(FakeGpu(6 << 30), 7 << 30)
    with pytest.raises(OutOfMemory, match="cannot be taken"):
        Ballast(FakeGpu(80 << 30, refuses=True), 7 << 30)
    busy = FakeGpu(80 << 30, taken_meanwhile=1 << 30)
    with pytest.raises(SpecdecError, match="other programs"):
        Ballast(busy, 7 << 30)
    assert not busy.held


def test_plan_from_the_command_line(shape: Path, draft_shape: Path) -> None:
    arguments = ["plan", "--target", str(shape), "--draft", str(draft_shape), "--card", "8GB,12GB"]
    text = CliRunner().invoke(app, arguments).output
    assert "--n-cpu-moe" in text
    assert "llama-server --model" in text
    assert "not its bandwidth" in text
    assert text.count("out of a mapped file") == 2, "once a card"
    assert "mapped file" not in CliRunner().invoke(app, [*arguments, "--no-mmap"]).output
    pinned = orjson.loads(CliRunner().invoke(app, [*arguments, "--no-mmap", "--json"]).output)["plans"]
    for plan in pinned:
        assert "--load-mode none" in plan["specdec"]
        assert "--load-mode none" in plan["llama_server"]
        assert "page table" in {i["kind"] for i in plan["items"]}
    plans = orjson.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)["plans"]
    assert len(plans) == 2 * 5
    for plan in plans:
        assert plan["gpu_bytes"] == sum(i["bytes"] for i in plan["items"] if i["device"] == "GPU")
        assert plan["left_bytes"] == plan["budget_bytes"] - plan["gpu_bytes"]
        assert f"--n-cpu-moe {plan['n_cpu_moe']}" in plan["llama_server"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], ["none", "mtp", "ngram-simple", "ngram-mod", "mine"]),
        (["-s", "mtp"], ["none", "mtp", "mine"]),
    ],
)
def test_a_strategy_file_joins_a_plan(shape: Path, tmp_path: Path, more: list[str], expected: list[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "from specdec import Draft, Strategy\n"
        "class Mine(Strategy):\n"
        "    name = 'mine'\n"
        "    def propose(self, context, max_tokens):\n"
        "        return Draft()\n"
    )
    file = f"{tmp_path}/mine.py:Mine"
    result = CliRunner().invoke(app, ["plan", "-m", str(shape), "--strategy", file, "--card", "8GB", "--json", *more])
    plans = orjson.loads(result.output)["plans"]
    assert [plan["strategy"] for plan in plans] == expected
    assert [file in plan["specdec"] for plan in plans] == [name == "mine" for name in expected]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--n-cpu-moe", "3"], "contradict"),
        (["--vram-limit", "900"], "exclude"),
        (["--quick"], "exclude"),
        (["--record", "x.npz"], "several runs"),
    ],
)
def test_what_contradicts_a_card(more: list[str], why: str) -> None:
    result = CliRunner().invoke(app, ["compare", "--card", "8GB", *more])
    assert isinstance(result.exception, SpecdecError)
    assert why in str(result.exception)


def test_cards_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    """The plan is computed, both arms run, and everything says that the cap was not enforced."""
    from specdec import store

    arguments = ["compare", "--card", "0.88GB", "--reserve", "0", "-s", "mtp,ngram-simple", "--limit", "1", "-n", "4"]
    arguments += ["-w", "demo-json", "-c", "8192", "--warmup", "0", "-t", "1", "--device", "none"]
    result = CliRunner().invoke(app, [*arguments, "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    runs = [store.read_run(folder) for folder in sorted(path.parent for path in tmp_path.glob("*/run.json"))]
    assert len({run.meta["group"] for run in runs}) == 1
    assert {run.meta["labels"]["card"] for run in runs} == {"planned 0.88 GB (CPU, not enforced)"}
    mtp = [run for run in runs if run.meta["spec"]["strategies"] == "mtp"]
    assert mtp[0].meta["cap"]["expected"]["mtp"]
    table = {row["strategy"]: row for row in group_rows(runs)}
    assert set(table) == {"mtp", "ngram-simple"}
    assert table["mtp"]["same_split"]["n_cpu_moe"] == table["ngram-simple"]["same_split"]["n_cpu_moe"] > 0
    assert table["ngram-simple"]["same_vram"]["n_cpu_moe"] == 0
    assert table["ngram-simple"]["same_vram"]["speedup"] > 0
    assert table["mtp"]["displaced"] > 0
