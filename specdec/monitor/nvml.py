"""NVIDIA GPUs by NVML, field by field: what a card, a driver or a permission does not tell is None, never an error.

The one home of NVML. Fields and units: NVIDIA's NVML reference (nvmlDeviceGet...); Python names: nvidia-ml-py.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

_FINAL = frozenset({3, 4, 13})
"""NVML_ERROR_NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND: the answer will not change, so it is not asked again."""

_WDDM = 0
_SLOWDOWN = 1  # NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
_GPU_SENSOR = 0  # NVML_TEMPERATURE_GPU
_SM, _MEMORY = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_BY_POWER, _BY_HEAT = 0, 1  # NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL

THROTTLE = {0x04: "power", 0x08: "hardware", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons that slow a card down. Left out: idle, clocks set by the user, sync."""


class Reading(NamedTuple):
    """What changes while a card works. MHz, W, degrees Celsius, bytes; ``throttle`` holds THROTTLE's bits."""

    sm_mhz: float | None
    memory_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    throttle: int | None
    used_bytes: int | None
    free_bytes: int | None


class Totals(NamedTuple):
    """Counters that only grow: joules since the driver was loaded, seconds slowed down by power and by heat."""

    energy_j: float | None
    power_throttled_s: float | None
    heat_throttled_s: float | None


class Process(NamedTuple):
    """A process on a card; ``bytes`` is None where the driver does not tell (Windows)."""

    pid: int
    bytes: int | None
    graphics: bool


class Nvml:
    """NVML, opened. Without a driver or a card ``devices`` is empty and ``reason`` says why.

    Args:
        module: the NVML bindings; None imports pynvml (nvidia-ml-py).
    """

    def __init__(self, module: Any = None) -> None:
        self.devices: list[Device] = []
        self.driver: str | None = None
        self.reason: str | None = None
        self._open = False
        try:
            if module is None:
                import pynvml

                module = pynvml
            self._nvml = module
            module.nvmlInit()
        except ImportError as error:
            self.reason = f"nvidia-ml-py is not installed ({error})"
            return
        except (module.NVMLError, OSError) as error:
            self.reason = str(error)
            return
        self._open = True
        asker = _Asker(module)
        self.driver = asker("nvmlSystemGetDriverVersion")
        for index in range(asker("nvmlDeviceGetCount") or 0):
            handle = asker.once("nvmlDeviceGetHandleByIndex", index)
            if handle is not None:
                self.devices.append(Device(module, handle, index, self.driver))
        if not self.devices:
            self.reason = "the driver shows no GPU"

    def close(self) -> None:
        """Let NVML go; the devices must not be read any more."""
        if self._open:
            self._open = False
            self.devices = []
            _Asker(self._nvml)("nvmlShutdown")


class _Asker:
    """Calls NVML functions by name; None where one fails. What can never be answered is asked once."""

    def __init__(self, module: Any) -> None:
        self._nvml = module
        self._refused: set[tuple[Any, ...]] = set()

    def __call__(self, name: str, *arguments: Any, key: Any = None) -> Any:
        """The function's result. ``key`` tells apart the uses of one function (a clock domain, a policy)."""
        if (name, key) in self._refused:
            return None
        try:
            return getattr(self._nvml, name)(*arguments)
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) in _FINAL:
                self._refused.add((name, key))
        except (AttributeError, OSError, TypeError, UnicodeDecodeError):  # older bindings, odd drivers
            self._refused.add((name, key))
        return None

    def once(self, name: str, *arguments: Any) -> Any:
        """The same for a call whose failure says nothing of the next."""
        return self(name, *arguments, key=arguments)


class Device:
    """One GPU. ``bus_id`` is its PCI address in ggml's form, ``0000:c1:00.0`` (None where it has none)."""

    def __init__(self, module: Any, handle: Any, index: int, driver: str | None) -> None:
        self.index, self._handle, self._driver = index, handle, driver
        self._ask = _Asker(module)
        pci = self._ask("nvmlDeviceGetPciInfo", handle)
        self.bus_id = None if pci is None else f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"
        self.may_spill = may_spill(self._ask("nvmlDeviceGetCurrentDriverModel", handle))

    def describe(self) -> dict[str, Any]:
        """Name, driver and limits; None where they are not told."""
        reading = self.read()
        limit, slowdown = (
            self._ask("nvmlDeviceGetEnforcedPowerLimit", self._handle),
            self._ask("nvmlDeviceGetTemperatureThreshold", self._handle, _SLOWDOWN),
        )
        both = (
            None
            if reading.used_bytes is None or reading.free_bytes is None
            else reading.used_bytes + reading.free_bytes
        )
        return {
            "index": self.index,
            "bus_id": self.bus_id,
            "name": self._ask("nvmlDeviceGetName", self._handle),
            "driver": self._driver,
            "memory_bytes": both,
            "memory_used_bytes": reading.used_bytes,
            "power_limit_w": _scaled(limit, 1e-3),
            "slowdown_c": slowdown,
            "may_spill": self.may_spill,
        }

    def read(self) -> Reading:
        """One look: cheap enough for several a second."""
        ask, handle = self._ask, self._handle
        bits = ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if bits is None:  # drivers before 535 know the old name only
            bits = ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        memory = ask("nvmlDeviceGetMemoryInfo", handle)
        return Reading(
            ask("nvmlDeviceGetClockInfo", handle, _SM, key=_SM),
            ask("nvmlDeviceGetClockInfo", handle, _MEMORY, key=_MEMORY),
            _scaled(ask("nvmlDeviceGetPowerUsage", handle), 1e-3),
            ask("nvmlDeviceGetTemperature", handle, _GPU_SENSOR),
            bits,
            None if memory is None else int(memory.used),
            None if memory is None else int(memory.total - memory.used),
        )

    def totals(self) -> Totals:
        """The counters: differences of two are exact, whatever happened in between."""
        ask, handle = self._ask, self._handle
        slowed = [ask("nvmlDeviceGetViolationStatus", handle, p, key=p) for p in (_BY_POWER, _BY_HEAT)]
        power, heat = (None if s is None else s.violationTime * 1e-9 for s in slowed)
        return Totals(_scaled(ask("nvmlDeviceGetTotalEnergyConsumption", handle), 1e-3), power, heat)

    def processes(self) -> list[Process] | None:
        """Who is on the card; None where that is not told. A process that also draws counts as graphics."""
        compute = self._ask("nvmlDeviceGetComputeRunningProcesses", self._handle)
        if compute is None:
            return None
        drawing = {p.pid for p in self._ask("nvmlDeviceGetGraphicsRunningProcesses", self._handle) or ()}
        return [Process(p.pid, p.usedGpuMemory, p.pid in drawing) for p in compute]

    def parts(self) -> dict[str, Callable[[], Any]]:
        """The calls by name, to time each."""
        return {"read": self.read, "totals": self.totals, "processes": self.processes}


def may_spill(driver_model: int | None) -> bool:
    """Whether this driver may put VRAM allocations into system RAM without a word instead of failing.

    True under Windows' display driver model (WDDM; the driver's "CUDA sysmem fallback"), in WSL (the same driver below)
    and where llama.cpp was told to use managed memory. The plain Linux driver fails with out of memory instead.
    """
    if sys.platform == "win32":
        return driver_model in (None, _WDDM)
    return "microsoft" in platform.release().lower() or "GGML_CUDA_ENABLE_UNIFIED_MEMORY" in os.environ


def same_bus(a: str, b: str) -> bool:
    """Whether two PCI addresses are one card's: their domains differ in length between NVML and CUDA."""
    return _address(a) == _address(b)


def _address(bus_id: str) -> tuple[int, ...]:
    domain, bus, device = bus_id.lower().partition("-v")[0].rsplit(":", 2)
    return int(domain, 16), int(bus, 16), int(device.partition(".")[0], 16)


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else value * factor
