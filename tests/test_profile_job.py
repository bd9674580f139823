"""What is measured, how often and how deep, and what has room."""

from __future__ import annotations

from pathlib import Path

import pytest

from specdec.errors import SpecdecError
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.profile import job, plan
from specdec.profile.plan import Setting
from specdec.profile.spec import ProfileSpec
from specdec.registry import Registry
from specdec.spec import ModelOptions, check
from specdec.vram.overheads import EXPERTS_SCRATCH, KERNELS


def test_specification_is_checked() -> None:
    assert check(ProfileSpec, "profile", {"target": "t", "passes": (4, 2)}).passes == (1, 2, 4)
    with pytest.raises(SpecdecError, match="at least 16"):
        check(ProfileSpec, "profile", {"target": "t", "depths": (3,)})
    with pytest.raises(SpecdecError, match="--lengths"):
        check(ProfileSpec, "profile", {"target": "t", "passes": (0,)})


@pytest.mark.parametrize(("n_ctx", "missing", "fits"), [(4096, 0, True), (4096, 1, False), (256, 1, True)])
def test_snapshots_have_to_fit_beside_all_that_is_open_then(
    nano_hybrid: Path, monkeypatch: pytest.MonkeyPatch, n_ctx: int, missing: int, fits: bool
) -> None:
    """Room for the context of 4,096 tokens, 8 snapshots and a checkpoint, what CUDA takes beside, and not a byte more."""
    model = LlamaModel(nano_hybrid, ModelOptions(threads=1))
    target = LlamaTarget(model, 4096)
    buffers = [i for i in target.buffers if i.device == "CPU"]
    target.close()
    state = sum(i.bytes for i in buffers if i.kind == "recurrent")
    need = sum(i.bytes for i in buffers) + (8 + 1) * state + EXPERTS_SCRATCH + KERNELS
    monkeypatch.setattr(job, "free_bytes", lambda: {"CPU": need - missing})
    said: list[str] = []
    curve, plain = (Setting(plan.TEXT, None, "auto", n, (1,)) for n in (8, 0))
    spec = ProfileSpec(target=str(nano_hybrid), vram_limit=1)
    kept = job._affordable([curve, plain], spec, model, n_ctx, said.append)
    assert kept == ([curve, plain] if fits else [plain])
    assert [line.split(",")[0] for line in said] == ([] if fits else ["warning: the curve"])
    drafting = Setting("mtp", None, "auto", 8, (1,))
    monkeypatch.setattr(job, "_own_bytes", lambda setting, *_: state if setting.strategy == "mtp" else 0)
    assert job._affordable([drafting], spec, model, n_ctx, said.append) == ([drafting] if fits else [])
    model.close()


def test_what_a_strategy_takes_of_the_gpu_counts_without_the_layer_that_is_loaded(
    nano_hybrid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "runs_on_gpu", lambda options: options.gpu_layers != 0)
    planned = Registry().plan("mtp")[1]
    setting = Setting("mtp", planned, "auto", 4, (1, 2))
    on_gpu = LlamaModel(nano_hybrid, ModelOptions(threads=1), mtp=True)
    on_gpu.options = ModelOptions(gpu_layers=99)
    items = planned.build().expected_memory(on_gpu.header, on_gpu.options, 4096)
    weights = sum(i.bytes for i in items if (i.device, i.kind) == ("GPU", "weights"))
    assert weights
    assert job._own_bytes(setting, on_gpu, 4096) == sum(i.bytes for i in items if i.device == "GPU") - weights
    both = Setting("cascade", Registry().plan(f"cascade(mtp, draft(model={nano_hybrid}))")[1], "auto", 4, (1, 2))
    draft = (
        Registry().plan(f"draft(model={nano_hybrid})")[1].build().expected_memory(on_gpu.header, on_gpu.options, 4096)
    )
    own = job._own_bytes(setting, on_gpu, 4096) + sum(i.bytes for i in draft if i.device == "GPU")
    assert job._own_bytes(both, on_gpu, 4096) == own, "the draft model's weights are not loaded yet"
    on_gpu.options = ModelOptions(gpu_layers=0)
    assert job._own_bytes(setting, on_gpu, 4096) == 0
    on_gpu.close()


def test_the_settings_are_gone_through_as_often_as_there_are_rounds() -> None:
    assert [plan.sweeps(n) for n in (2, 3, 9)] == [2, 3, 3]
    seconds = [plan.seconds(plan.text_settings(False, {1, 2}, [1]), (512,), n, 1, 0.01, 0.0) for n in (2, 4)]
    assert seconds[1] == pytest.approx(2 * seconds[0])


def test_default_depths_follow_model_and_patience() -> None:
    assert plan.default_depths(0, 1e-6, 5, 4) == plan.DEPTHS
    assert plan.default_depths(4096, 1e-6, 5, 4) == (128, 512, 2048)
    assert plan.default_depths(0, 0.02, 5, 4) == (128,)
    assert plan.default_depths(0, 0.01, 5, 4) == (128,)
    assert plan.default_depths(0, 0.01, 5, 2) == (128, 512), "two sweeps, so that more fit"
