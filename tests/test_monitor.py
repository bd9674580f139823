"""The machine during a generation, on a card that is not there: units, differences, refusals, findings."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_nvml import CARD, DRIVER_NOT_LOADED, GIB, GPU_IS_LOST, NO_PERMISSION, NOT_SUPPORTED, FakeNvml, Raises

from specdec.environment import describe_machine
from specdec.llama.fit import ram_fit, weights_in_ram
from specdec.llama.gguf import read_header
from specdec.monitor import Monitor, instabilities, joules_per_token, system
from specdec.monitor.findings import FAULTS_PER_S, spilled
from specdec.monitor.nvml import Nvml, may_spill, same_bus
from specdec.spec import ModelOptions


def watched(module: FakeNvml, change: Any = None, **options: Any) -> dict[str, Any]:
    """The facts of a stretch in which ``change`` is called."""
    monitor = Monitor(nvml=Nvml(module), **{"background": False} | options)
    with monitor.watch() as watch:
        if change is not None:
            change()
    return watch.facts()


def test_a_cards_facts_have_the_units_they_claim() -> None:
    (card,) = [d.describe() for d in Nvml(FakeNvml()).devices]
    assert card == {
        "index": 0, "bus_id": "0000:01:00.0", "name": "NVIDIA GeForce RTX 4070", "driver": "560.35.03",
        "memory_bytes": 12 * GIB, "memory_used_bytes": 8 * GIB, "power_limit_w": 200.0, "slowdown_c": 90,
        "may_spill": False,
    }  # fmt: skip


def test_counters_are_taken_as_differences() -> None:
    module = FakeNvml(nvmlDeviceGetComputeRunningProcesses=[
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=6 * GIB),
        SimpleNamespace(pid=os.getpid() + 1, usedGpuMemory=GIB),
        SimpleNamespace(pid=os.getpid() + 2, usedGpuMemory=GIB),
    ], nvmlDeviceGetGraphicsRunningProcesses=[SimpleNamespace(pid=os.getpid() + 2, usedGpuMemory=GIB)])  # fmt: skip

    def work() -> None:
        module.cards[0]["nvmlDeviceGetTotalEnergyConsumption"] += 12_500
        slowed = SimpleNamespace(referenceTime=0, violationTime=2_500_000_000)
        module.cards[0]["nvmlDeviceGetViolationStatus"] = {0: slowed, 1: SimpleNamespace(violationTime=0)}

    facts = watched(module, work)
    (card,) = facts["gpus"]
    assert card["energy_j"] == 12.5
    assert card["energy_from"] == "counter"
    assert card["power_throttled_s"] == 0.5
    assert card["heat_throttled_s"] == 0.0
    assert (card["sm_mhz"], card["memory_mhz"], card["power_w"], card["temperature_c"]) == (2475, 10501, 143.2, 61)
    assert card["throttle"] == {"power": 1.0}
    assert (card["own_bytes"], card["other_processes"], card["other_bytes"]) == (6 * GIB, 1, GIB)
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("error", [NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST])
@pytest.mark.parametrize("name", sorted(CARD))
def test_any_single_field_may_be_refused(name: str, error: int) -> None:
    module = FakeNvml(**{name: Raises(error)})
    facts = watched(module)
    full = watched(FakeNvml())
    lost = set(full["gpus"][0]) - set(facts["gpus"][0])
    assert len(lost) <= 3
    assert None not in facts["gpus"][0].values()
    Nvml(module).devices[0].describe()


def test_a_card_that_tells_nothing_is_still_a_card() -> None:
    facts = watched(FakeNvml(**{name: Raises(NOT_SUPPORTED) for name in CARD}))
    assert facts["gpus"] == [{"index": 0}]


def test_what_cannot_be_answered_is_asked_once() -> None:
    module = FakeNvml(
        nvmlDeviceGetPowerUsage=Raises(NOT_SUPPORTED), nvmlDeviceGetTemperature=Raises(GPU_IS_LOST),
        nvmlDeviceGetClockInfo={1: 2475},
    )  # fmt: skip
    device = Nvml(module).devices[0]
    with pytest.raises(KeyError):  # a fault of the fake itself is not swallowed
        device.read()
    module.cards[0]["nvmlDeviceGetClockInfo"] = {1: 2475, 2: 10501}
    for _ in range(3):
        assert device.read().power_w is None
    assert module.calls.count("nvmlDeviceGetPowerUsage") == 1
    assert module.calls.count("nvmlDeviceGetTemperature") == 3  # may come back


@pytest.mark.parametrize("module", [FakeNvml(init=DRIVER_NOT_LOADED), FakeNvml(cards=0)])
def test_without_a_gpu_the_system_is_still_watched(module: FakeNvml) -> None:
    nvml = Nvml(module)
    assert nvml.devices == []
    assert nvml.reason
    facts = watched(module)
    assert "gpus" not in facts
    assert facts["ram_available_bytes"] > 0
    assert facts["watched_s"] >= 0


def test_nvml_bindings_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py" in (Nvml().reason or "")


def test_old_drivers_know_the_throttle_reasons_by_their_old_name() -> None:
    module = FakeNvml(nvmlDeviceGetCurrentClocksEventReasons=Raises(13), nvmlDeviceGetCurrentClocksThrottleReasons=0x48)
    assert watched(module)["gpus"][0]["throttle"] == {"hardware": 1.0, "heat": 1.0}


def test_energy_falls_back_to_power_where_there_is_no_counter() -> None:
    module = FakeNvml(nvmlDeviceGetTotalEnergyConsumption=Raises(NOT_SUPPORTED), nvmlDeviceGetPowerUsage=100_000)
    facts = watched(module, lambda: time.sleep(0.5), background=True, hz=200)
    (card,) = facts["gpus"]
    assert facts["looks"] > 2
    assert card["energy_from"] == "power"
    assert card["energy_j"] == pytest.approx(100 * facts["watched_s"], abs=0.01)
    assert "energy_j" not in watched(module)["gpus"][0]  # one look is no mean


def test_looks_in_between_see_what_the_ends_do_not() -> None:
    module = FakeNvml()

    def dip() -> None:
        module.cards[0]["nvmlDeviceGetClockInfo"] = {1: 900, 2: 10501}
        time.sleep(0.5)
        module.cards[0]["nvmlDeviceGetClockInfo"] = {1: 2475, 2: 10501}

    (card,) = watched(module, dip, background=True, hz=200)["gpus"]
    assert card["sm_mhz_low"] == 900
    assert 900 < card["sm_mhz"] < 2475


def test_only_the_devices_of_the_run_are_shown() -> None:
    nvml = Nvml(FakeNvml(cards=2))
    assert [d.index for d in Monitor(["0000:02:00.0"], nvml=nvml).devices] == [1]
    assert [d.index for d in Monitor(nvml=nvml).devices] == [0, 1]
    none = Monitor([], nvml=nvml)
    assert none.devices == []
    assert not none.background
    assert same_bus("00000000:C1:00.0", "0000:c1:00.0-v1")


def test_processes_of_another_namespace_are_not_taken_for_strangers() -> None:
    module = FakeNvml(nvmlDeviceGetComputeRunningProcesses=[SimpleNamespace(pid=1 << 22, usedGpuMemory=GIB)])
    assert not {"own_bytes", "other_processes"} & set(watched(module)["gpus"][0])


def test_own_and_other_processor_time() -> None:
    def burn() -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    facts = watched(FakeNvml(cards=0), burn)
    spent = facts["cpu_own_cores"] * facts["watched_s"]
    assert spent == pytest.approx(0.2, abs=0.05 + 0.005 * facts["watched_s"])  # cores have two decimals
    assert watched(FakeNvml(cards=0), burn, pids=[1 << 22]).get("cpu_own_cores") is None


def test_a_wrapped_energy_counter_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_packages", lambda: ((Path("x"), 1_000_000_000),))
    assert system.energy_between(990.0, 5.0) == pytest.approx(15.0)
    assert system.energy_between(5.0, 7.5) == 2.5
    assert system.energy_between(None, 5.0) is None


def test_which_drivers_spill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert may_spill(0)
    assert not may_spill(1)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.release", lambda: "6.1.0-generic")
    assert not may_spill(None)
    monkeypatch.setenv("GGML_CUDA_ENABLE_UNIFIED_MEMORY", "1")
    assert may_spill(None)
    monkeypatch.delenv("GGML_CUDA_ENABLE_UNIFIED_MEMORY")
    monkeypatch.setattr("platform.release", lambda: "5.15.153.1-microsoft-standard-WSL2")
    assert may_spill(None)


def test_vram_that_was_asked_for_and_is_not_there() -> None:
    module = FakeNvml()
    monitor = Monitor(nvml=Nvml(module))
    module.cards[0]["nvmlDeviceGetMemoryInfo"] = SimpleNamespace(total=12 * GIB, free=0, used=11 * GIB)
    assert monitor.spill(3 * GIB) is None
    found = monitor.spill(5 * GIB)
    assert found is not None
    assert "5.0 GiB of VRAM were asked for and 3.0 GiB are in use" in found.text
    assert spilled(GIB, GIB - (200 << 20)) is None


def sample(seconds: float = 2.0, status: str = "ok", warmup: bool = False, **machine: Any) -> dict[str, Any]:
    facts = {"watched_s": seconds, **machine}
    return {"warmup": warmup, "status": status, "token_ids": [1] * 100, "machine": facts}


def card(mhz: float = 2000, **more: Any) -> dict[str, Any]:
    return {"gpus": [{"index": 0, "sm_mhz": mhz, **more}]}


def test_a_machine_that_holds_still_gives_no_finding() -> None:
    still = card(temperature_c=70, throttle={}, power_throttled_s=0.0, other_processes=0, used_bytes=8, free_bytes=4)
    assert (
        instabilities([sample(**still, major_faults=3, cpu_mhz=4000, cpu_own_cores=8, cpu_other_cores=0.3)] * 20) == []
    )
    assert instabilities([sample(), {"warmup": False, "status": "ok", "machine": None}]) == []
    assert instabilities([]) == []


@pytest.mark.parametrize(
    ("kind", "machine"),
    [
        ("gpu-clock", card(1800, temperature_c=75)),
        ("gpu-power", card(power_throttled_s=0.5)),
        ("gpu-power", card(throttle={"power": 0.5})),
        ("gpu-heat", card(heat_throttled_s=0.1)),
        ("gpu-heat", card(throttle={"heat": 0.2})),
        ("gpu-temperature", card(temperature_c=84)),
        ("gpu-shared", card(other_processes=1)),
        ("vram-full", card(used_bytes=999, free_bytes=1, may_spill=True)),
        ("cpu-clock", {"cpu_mhz": 3000}),
        ("swap", {"swap_in_bytes": 1 << 20, "swap_out_bytes": 1}),
        ("page-faults", {"major_faults": 2 * FAULTS_PER_S + 1}),
        ("cpu-load", {"cpu_own_cores": 2.0, "cpu_other_cores": 0.5}),
        ("cpu-stolen", {"cpu_stolen_cores": 0.1}),
        ("battery", {"on_battery": True}),
    ],
)
def test_each_unrest_is_found_and_says_what_settles_it(kind: str, machine: dict[str, Any]) -> None:
    rest = [sample(**card(), cpu_mhz=4000)] * 7
    found = instabilities([*rest, *[sample(**machine)] * 3])
    assert [f.kind for f in found] == [kind]
    assert found[0].generations == 3
    assert "3 of 10 generations" in found[0].text
    assert len(found[0].settle) > 10
    assert instabilities([*rest, *[sample(**machine, warmup=True)] * 3]) == []
    assert instabilities([*rest, *[sample(**machine, status="error")] * 3]) == []


def test_a_single_blip_among_many_is_not_told_unless_it_is_grave() -> None:
    rest = [sample(**card())] * 40
    assert instabilities([*rest, sample(**card(1500))]) == []
    assert [f.kind for f in instabilities([*rest, sample(swap_in_bytes=1 << 30)])] == ["swap"]


def test_energy_per_token_counts_all_cards_and_needs_every_generation() -> None:
    two = {"gpus": [{"index": 0, "energy_j": 150.0}, {"index": 1, "energy_j": 50.0}], "cpu_energy_j": 100.0}
    assert joules_per_token([sample(**two), sample(**two, warmup=True)]) == {"gpu": 2.0, "cpu": 1.0}
    assert joules_per_token([sample(**two), sample(cpu_energy_j=300.0)]) == {"cpu": 2.0}
    assert joules_per_token([sample()]) is None
    assert joules_per_token([]) is None


def test_weights_in_ram_follow_the_placement(nano_hybrid: Path) -> None:
    header = read_header(nano_hybrid)
    total = sum(t.bytes for t in header.tensors)
    experts = sum(t.bytes for t in header.tensors if "exps" in t.name and t.name.startswith("blk.0."))
    embeddings = sum(t.bytes for t in header.tensors if t.name.startswith("token_embd"))

    def in_ram(gpu: bool = True, **options: Any) -> int:
        return weights_in_ram(header, ModelOptions(**options), gpu, mtp=True)

    assert experts > 0
    assert in_ram(gpu=False) == total
    assert in_ram() == embeddings
    assert in_ram(n_cpu_moe=1) == embeddings + experts
    assert in_ram(override_tensor=(r"blk\.0\..*exps=CPU",)) == embeddings + experts
    assert in_ram(gpu_layers=0) == total
    assert weights_in_ram(header, ModelOptions(), gpu=False) <= total


def test_ram_fit_says_what_will_happen() -> None:
    assert ram_fit(10, 11, mmap=True)[0]
    fits, text = ram_fit(20_000_000_000, 8_000_000_000, mmap=True)
    assert not fits
    assert text == "20.00 GB of weights in RAM, 8.0 GB available: they will be read from disk again and again"
    assert "swap" in ram_fit(20, 8, mmap=False)[1]


def test_what_makes_ggml_work_otherwise_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("GGML_")]:
        monkeypatch.delenv(name)
    assert "ggml_variables" not in describe_machine()
    monkeypatch.setenv("GGML_OP_OFFLOAD_MIN_BATCH", "8")
    monkeypatch.setenv("GGML_BACKEND_PATH", "/somewhere/private/libggml.so")
    assert describe_machine()["ggml_variables"] == ["GGML_BACKEND_PATH=libggml.so", "GGML_OP_OFFLOAD_MIN_BATCH=8"]
