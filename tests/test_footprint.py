"""Memory by item: every byte once, with and without a strategy; what the driver counted beside it; the table."""

from __future__ import annotations

import json
import mmap
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_nvml import GIB, FakeNvml

from specdec.arms import Arm
from specdec.cli import main
from specdec.engine import Engine
from specdec.footprint import footprints
from specdec.llama.accounting import by_place, in_ram
from specdec.monitor import Monitor, system
from specdec.monitor.nvml import Nvml
from specdec.registry import Registry
from specdec.report import formats, tables
from specdec.rollback import Mode
from specdec.spec import ModelOptions, make_spec
from specdec.store import Run, find_run, read_run
from specdec.testing.nano import write_nano
from specdec.types import MemoryItem, Prompt
from specdec.vram import held
from specdec.vram.items import TARGET, Item

MIB = 2**20
ROUNDED = 0.02 * MIB  # the log has two decimals
PROMPT = Prompt("p", "w", "completion", "short", text="abc" * 5)
FAULTS = Path(__file__).with_name("faults.py")


def engine_of(target: Path, strategies: str, rollback: Mode = "auto") -> Engine:
    model = {"threads": 1, "load_mode": "none"}
    spec = make_spec(target=str(target), n_predict=24, ignore_eos=True, model=model, rollback=(rollback,))
    engine = Engine(spec, Registry().plan(strategies), lambda line: None)
    engine.fit([PROMPT])
    return engine


def summed(items: list[Any], *kinds: str) -> int:
    return sum(i.bytes for i in items if not kinds or i.kind in kinds)


def items_of(engine: Engine, arm: Arm) -> list[Item]:
    items = engine.allocated(arm)
    assert items is not None
    return items


def test_every_byte_is_counted_once(nano_hybrid: Path) -> None:
    engine = engine_of(nano_hybrid, "mtp(n_max=3)")
    plain, mtp = engine.arms
    try:
        context, strategy = engine._context(mtp), engine._strategy(mtp)
        items = items_of(engine, mtp)
        assert summed(items, "weights", "MTP weights") == summed(engine.model.memory())
        assert summed(items, "MTP weights") == engine.model.mtp_bytes
        assert summed(items, "recurrent", "snapshots") == summed(context.buffers, "recurrent")
        assert abs(summed(items, "snapshots") - 3 * summed(items, "recurrent")) <= 3
        own = [i for i in strategy.memory() if i.device != "target"]
        assert summed(items) == summed(engine.model.memory()) + summed(context.buffers) + summed(own)
        assert summed(engine.held()) == summed(items), "the process holds nothing else while this arm runs"
        without = items_of(engine, plain)
        assert not {"MTP weights", "snapshots", "checkpoint"} & {i.kind for i in without}
        assert {i.owner for i in without} == {TARGET}
    finally:
        engine.close()
    alone = engine_of(nano_hybrid, "none")
    try:  # loaded without the layer: what `none` costs does not depend on who else runs
        assert abs(summed(items_of(alone, alone.arms[0])) - summed(without)) < ROUNDED
    finally:
        alone.close()


@pytest.mark.parametrize(("rollback", "device"), [("checkpoint", None), ("checkpoint-host", "CPU")])
def test_a_checkpoint_is_one_state(nano_hybrid: Path, rollback: Mode, device: str | None) -> None:
    engine = engine_of(nano_hybrid, "mtp(n_max=3)", rollback)
    arm = engine.arms[-1]
    try:
        assert not [i for i in engine.held() if i.kind == "checkpoint"], "none is taken yet"
        before = summed(engine.held())
        states = [i for i in items_of(engine, arm) if i.kind == "recurrent"]
        (checkpoint,) = [i for i in items_of(engine, arm) if i.kind == "checkpoint"]
        assert checkpoint.device == (device or states[0].device)
        assert checkpoint.bytes == summed(states)
        _, generation = next(engine.answers(arm, PROMPT))
        assert any(generation.steps.drafted)
        assert abs(summed(engine.held()) - before - checkpoint.bytes) < ROUNDED
    finally:
        engine.close()


def test_a_draft_models_items_are_its_own(tmp_path: Path, nano_hybrid: Path) -> None:
    draft = write_nano(tmp_path / "draft.gguf", "hybrid", seed=1)
    engine = engine_of(nano_hybrid, f'draft(model="{draft}")')
    try:
        own = [i for i in items_of(engine, engine.arms[-1]) if i.owner != TARGET]
        (state,) = [i for i in own if i.kind == "recurrent"]
        (saved,) = [i for i in own if i.kind == "checkpoint"]
        assert (saved.bytes, saved.device) == (state.bytes, state.device)
        assert summed(own, "weights") > 0
    finally:
        engine.close()


def test_the_layers_weights_are_taken_off_the_gpu_that_holds_them(
    nano_hybrid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from specdec.llama.gguf import read_header

    monkeypatch.setattr(held, "runs_on_gpu", lambda options: True)
    header = read_header(nano_hybrid)
    layer = sum(t.bytes for t in header.tensors if t.name.startswith(f"blk.{header.trunk_layers}."))
    memory = [MemoryItem("CUDA0", "weights", 50 * MIB), MemoryItem("CPU_Mapped", "weights", 90 * MIB)]
    fake: Any = SimpleNamespace(path=nano_hybrid, header=header, mtp=True, memory=lambda: memory)
    fake.options = ModelOptions()
    trunk, own = held._split_weights(fake)
    assert own == [MemoryItem("CUDA0", "MTP weights", layer)]
    assert trunk == [MemoryItem("CUDA0", "weights", 50 * MIB - layer), memory[1]]
    fake.options = ModelOptions(gpu_layers=0)
    assert [i.device for i in held._split_weights(fake)[1]] == ["CPU_Mapped"]
    fake.mtp = False
    assert held._split_weights(fake) == (memory, [])


def test_which_buffers_lie_in_ram() -> None:
    ram = {"CPU", "CPU_Mapped", "CPU_REPACK", "CUDA_Host", "Vulkan_Host", "AMX"}
    gpus = {"CUDA0", "Vulkan1", "MTL0", "MTL0_Mapped", "SYCL0"}
    assert {d for d in ram | gpus if in_ram(d)} == ram
    assert by_place([MemoryItem(d, "KV", 1) for d in ram | gpus]) == {"GPU": len(gpus), "RAM": len(ram)}


# ---- what was counted


def test_growth_of_the_card_stands_in_for_a_process_that_the_driver_does_not_name() -> None:
    module = FakeNvml(cards=2)
    monitor = Monitor(background=False, nvml=Nvml(module))
    monitor.keep(["0000:02:00.0"])
    used = SimpleNamespace(total=12 * GIB, free=1 * GIB, used=11 * GIB)
    module.cards[1]["nvmlDeviceGetMemoryInfo"] = used
    with monitor.watch() as watch:
        pass
    (card,) = watch.facts()["gpus"]
    assert (card["index"], card["grown_bytes"]) == (1, 3 * GIB)
    assert "own_bytes" not in card
    assert watch.facts()["own_resident_bytes"] > MIB


def test_no_process_is_asked_for_while_a_generation_is_timed() -> None:
    module = FakeNvml()
    with Monitor(nvml=Nvml(module), background=False).watch() as watch:
        pass
    assert "nvmlDeviceGetComputeRunningProcesses" not in module.calls
    watch.facts()
    assert "nvmlDeviceGetComputeRunningProcesses" in module.calls


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets a process's peak")
def test_the_resident_peak_is_that_of_the_stretch() -> None:
    pids = (os.getpid(),)
    system.reset_resident_peak(pids)  # what other tests took does not count
    big = mmap.mmap(-1, 64 * MIB)  # not from the heap, which may keep what other tests gave back
    for page in range(0, len(big), mmap.PAGESIZE):
        big[page] = 1
    before = system.resident_peak(pids)
    big.close()
    system.reset_resident_peak(pids)
    after = system.resident_peak(pids)
    assert before is not None
    assert after is not None
    assert before - after > 48 * MIB
    assert system.resident_peak((2**30,)) is None


# ---- rows and tables


def arm(strategy: str, *items: tuple[str, str, int], engine: str = "specdec") -> dict[str, Any]:
    named = [{"owner": TARGET, "device": d, "kind": k, "bytes": n * MIB} for d, k, n in items]
    return {"engine": engine, "strategy": strategy, "rollback": "auto", "items": named or None}


def seen(strategy: str, held: int, warmup: bool = False, **card: int) -> dict[str, Any]:
    in_bytes = {k: v * MIB for k, v in card.items()}
    machine = {"gpus": [in_bytes], "own_resident_bytes": 300 * MIB, "held_bytes": {"GPU": held * MIB, "RAM": 0}}
    named = {"engine": "specdec", "strategy": strategy, "rollback": "auto", "status": "ok", "warmup": warmup}
    return named | {"machine": machine}


PLAIN = [("CUDA0", "weights", 7000), ("CUDA_Host", "output", 1), ("CUDA0", "KV", 85), ("CUDA0", "compute", 490)]
MTP = [("CUDA0", "MTP weights", 600), ("CUDA0", "snapshots", 188), ("CUDA0", "checkpoint", 63)]


def run_of(*samples: dict[str, Any], memory: list[dict[str, Any]] | None = None) -> Run:
    arms = [arm("none", *PLAIN, ("CUDA0", "recurrent", 63)), arm("mtp", *PLAIN, *MTP), arm("broken")]
    meta = {"memory": arms if memory is None else memory}
    return Run(Path("x"), meta, list(samples))


def test_rows_tell_more_than_none_and_what_is_unexplained() -> None:
    run = run_of(
        seen("none", 8500, own_bytes=9020, grown_bytes=1),
        seen("none", 8600, own_bytes=9100, grown_bytes=1),
        seen("none", 9900, warmup=True, own_bytes=9990),
        seen("mtp", 8700, grown_bytes=9250),
    )
    plain, mtp = footprints(run)
    assert plain["GPU"]["total"] == (7000 + 85 + 490 + 63) * MIB
    assert plain["GPU"]["more"] == 0
    assert plain["RAM"]["items"] == {"output": MIB}
    assert (plain["GPU"]["observed"], plain["GPU"]["observed_by"]) == (9100 * MIB, "process")
    assert plain["GPU"]["untold"] == 500 * MIB
    assert mtp["GPU"]["more"] == (600 + 188 + 63 - 63) * MIB
    assert (mtp["GPU"]["observed_by"], mtp["GPU"]["untold"]) == ("card", 550 * MIB)
    assert mtp["RAM"]["observed"] == 300 * MIB


def test_more_than_none_is_of_the_same_engine() -> None:
    memory = [arm("none", ("CUDA0", "KV", 1)), arm("mtp", ("CUDA0", "KV", 3), engine="llama-server")]
    assert [r["GPU"]["more"] for r in footprints(run_of(memory=memory))] == [0, None]


@pytest.mark.parametrize("style", ["simple", "pipe"])
def test_the_table_is_at_most_80_columns_wide(style: str) -> None:
    from specdec.report.memory import memory_table

    run = run_of(seen("none", 8600, own_bytes=9100), seen("mtp", 8700, grown_bytes=9250))
    text = memory_table(run, style, lambda row: str(row["strategy"]))
    assert text.startswith("GPU, MiB")
    for figure in ("7,000", "600", "188", "+788", "9,100", "~9,250", "+500", "+550"):
        assert figure in text
    assert "broken" not in text
    assert "output" not in text, "that lies in RAM"
    if style == "simple":
        assert max(map(len, text.splitlines())) <= 80
        assert text.count("strategy") >= 2, "stacked"
    else:
        assert "MTP weights" in text
        assert "checkpoint" in text


def test_runs_without_items_have_no_table() -> None:
    from specdec.report.memory import memory_table

    for run in (Run(Path("x"), {}, []), run_of(memory=[arm("none")])):
        assert footprints(run) == []
        assert memory_table(run, "simple", str) == ""


def test_a_run_stores_what_each_arm_was_given(
    nano_hybrid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["specdec", "compare", "--target", str(nano_hybrid), "--strategy", f"{FAULTS}:Faulty", "--strategies"]
    words += ["mtp,faulty(how=segfault,where=open)", "--workloads", "code", "--limit", "1", "--warmup", "0"]
    monkeypatch.setattr(sys, "argv", [*words, "--n-predict", "8", "--threads", "1", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    said = json.loads(capsys.readouterr().out)
    run = read_run(find_run("latest", Path("results")))
    stored = {a["strategy"]: a["items"] for a in run.meta["memory"]}
    assert [items for label, items in stored.items() if "segfault" in label] == [None]
    assert "MTP weights" in {i["kind"] for i in stored["mtp"]}
    assert [r["strategy"] for r in said["memory"]] == ["none", "mtp", "faulty"]
    for row in said["memory"]:
        assert row["RAM"]["held"] > 0
        assert row["RAM"]["observed"] - row["RAM"]["held"] == row["RAM"]["untold"]
    assert said["memory"][1]["RAM"]["more"] > 0
    assert "\nMemory\n======\n\nRAM, MiB" in tables.as_text(run)
    assert "## Memory" in tables.as_markdown(run)
    assert '""more""' in formats.as_csv(run)
    del run.meta["memory"]  # as older runs
    assert "Memory\n===" not in tables.as_text(run)
    assert json.loads(formats.as_json(run))["memory"] == []
