"""A stand-in for pynvml with its names, units and errors: an RTX-like card whose answers a test sets, or makes fail."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST = 3, 4, 15
DRIVER_NOT_LOADED, MISMATCH = 9, 18
GIB = 1 << 30

CARD: dict[str, Any] = {
    "nvmlDeviceGetName": "NVIDIA GeForce RTX 4070",
    "nvmlDeviceGetPciInfo": SimpleNamespace(domain=0, bus=1, device=0, busId="00000000:01:00.0"),
    "nvmlDeviceGetClockInfo": {1: 2475, 2: 10501},  # MHz, by clock domain
    "nvmlDeviceGetPowerUsage": 143210,  # mW
    "nvmlDeviceGetEnforcedPowerLimit": 200000,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetTemperatureThreshold": 90,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=12 * GIB, free=4 * GIB, used=8 * GIB),
    "nvmlDeviceGetTotalEnergyConsumption": 5_000_000,  # mJ
    "nvmlDeviceGetViolationStatus": {
        0: SimpleNamespace(referenceTime=1_000_000, violationTime=2_000_000_000),  # ns
        1: SimpleNamespace(referenceTime=1_000_000, violationTime=0),
    },
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetGraphicsRunningProcesses": [],
    "nvmlDeviceGetCurrentDriverModel": 0,  # WDDM; FakeNvml makes it fail, as on Linux
}


class NVMLError(Exception):
    """As pynvml's: the error's number in ``value``."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


class Raises:
    """An answer that is an error."""

    def __init__(self, value: int) -> None:
        self.value = value


class FakeNvml:
    """The module object. ``cards[i]`` holds card i's answers and may be changed while a test runs."""

    NVMLError = NVMLError

    def __init__(self, cards: int = 1, init: int | None = None, **answers: Any) -> None:
        self.cards = [dict(CARD) | {"nvmlDeviceGetCurrentDriverModel": Raises(NOT_SUPPORTED)} for _ in range(cards)]
        for i, card in enumerate(self.cards):
            card["nvmlDeviceGetPciInfo"] = SimpleNamespace(domain=0, bus=1 + i, device=0)
            card.update(answers)
        self.init, self.calls = init, []

    def nvmlInit(self) -> None:
        if self.init is not None:
            raise NVMLError(self.init)

    def nvmlShutdown(self) -> None:
        self.calls.append("nvmlShutdown")

    def nvmlSystemGetDriverVersion(self) -> str:
        return "560.35.03"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def __getattr__(self, name: str) -> Any:
        if name not in CARD and name != "nvmlDeviceGetCurrentClocksThrottleReasons":
            raise AttributeError(name)

        def call(handle: int, *arguments: Any) -> Any:
            self.calls.append(name)
            answer = self.cards[handle].get(name, Raises(NOT_SUPPORTED))
            if isinstance(answer, Raises):
                raise NVMLError(answer.value)
            return answer[arguments[0]] if isinstance(answer, dict) else answer

        return call
