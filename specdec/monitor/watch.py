"""Watches the machine while something runs: counters before and after, and a few looks in between.

What it costs is in results/reference/monitor.txt (benchmarks/monitor.py); each sample says what its own looks took.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Event, Thread
from time import perf_counter
from typing import Any, NamedTuple

from specdec.monitor import system
from specdec.monitor.findings import Finding, spilled
from specdec.monitor.nvml import THROTTLE, Device, Nvml, Process, Reading, Totals, same_bus

DEFAULT_HZ = 5.0
"""Looks a second in between."""


class Monitor:
    """Reads the GPUs that a run uses, and the machine.

    Args:
        devices: PCI addresses of the GPUs to watch (``0000:c1:00.0``); None for all, empty for none.
        background: whether a thread looks in between; None: where there is a GPU to watch.
        hz: looks a second of that thread.
        pids: processes that count as ours; default this one.
        nvml: an open Nvml; default opens one, which ``close`` lets go.
    """

    def __init__(
        self,
        devices: Sequence[str] | None = None,
        background: bool | None = None,
        hz: float = DEFAULT_HZ,
        pids: Sequence[int] = (),
        nvml: Nvml | None = None,
    ) -> None:
        self._nvml, self._owned = nvml or Nvml(), nvml is None
        self.devices = list(self._nvml.devices)
        self._background = background
        self.period_s = 1 / hz
        self.pids = tuple(pids) or (os.getpid(),)
        self.used_before = {d.index: d.read().used_bytes for d in self.devices}
        """Bytes of each card, by index, that were in use when this Monitor was made."""
        self.keep(devices)

    def keep(self, devices: Sequence[str] | None) -> None:
        """Watch these of the GPUs alone (None: all of them); ``spill`` counts from here on."""
        self.devices = [d for d in self.devices if devices is None or _among(d, devices)]
        self._used_at_start = [d.read().used_bytes for d in self.devices]

    @property
    def background(self) -> bool:
        """Whether a thread looks in between."""
        return bool(self.devices) if self._background is None else self._background

    def close(self) -> None:
        """Let NVML go."""
        if self._owned:
            self._nvml.close()
        self.devices = []

    def watch(self) -> Watch:
        """A context manager around one generation."""
        return Watch(self)

    def state(self) -> dict[str, Any]:
        """The machine as it is now, for the start and the end of a run (run.json)."""
        cards = [{"index": d.index, **_known(d.read()._asdict())} for d in self.devices]
        return _known(system.state()) | ({"gpus": cards} if cards else {})

    def spill(self, asked_bytes: int) -> Finding | None:
        """Whether VRAM that was asked for since ``keep`` is on the cards (see ``findings.spilled``)."""
        now = [d.read().used_bytes for d in self.devices]
        if not now or None in now or None in self._used_at_start:
            return None
        grown = sum(n for n in now if n is not None) - sum(u for u in self._used_at_start if u is not None)
        return spilled(asked_bytes, grown)


class _Look(NamedTuple):
    cards: list[Reading]
    cpu_mhz: float | None


class _Edge(NamedTuple):
    at: float
    counters: system.Counters
    totals: list[Totals]


class Watch:
    """One stretch of time; ``facts`` may be called inside (up to now) or after it."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._looks: list[_Look] = []
        self._look_s = 0.0
        self._done = Event()
        self._thread: Thread | None = None
        self._end: _Edge | None = None

    def __enter__(self) -> Watch:
        if self._monitor.background:
            self._thread = Thread(target=self._run, name="specdec-monitor", daemon=True)
            self._thread.start()
        system.reset_resident_peak(self._monitor.pids)
        self._begin = self._edge()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = self._edge()
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        self._looks.append(self._look())

    def facts(self) -> dict[str, Any]:
        """JSON-able; what is not known is left out. Fields: docs/results.md, ``machine``."""
        end = self._end or self._edge()
        looks = list(self._looks) if self._end or self._looks else [self._look()]
        before, after, seconds = self._begin.counters, end.counters, end.at - self._begin.at
        own = _per_second(before.own_s, after.own_s, seconds)
        busy = _per_second(before.busy_s, after.busy_s, seconds)
        facts = {
            "watched_s": round(seconds, 4),
            "looks": len(looks),
            "looks_ms": round(self._look_s * 1e3, 2),
            "ram_available_bytes": system.ram_available(),
            "own_resident_bytes": system.resident_peak(self._monitor.pids),
            "major_faults": _grown(before.major_faults, after.major_faults),
            "swap_in_bytes": _grown(before.swap_in_bytes, after.swap_in_bytes),
            "swap_out_bytes": _grown(before.swap_out_bytes, after.swap_out_bytes),
            "cpu_mhz": _mean([look.cpu_mhz for look in looks], 0),
            "cpu_own_cores": own,
            "cpu_other_cores": None if own is None or busy is None else round(max(0.0, busy - own), 2),
            "cpu_stolen_cores": _per_second(before.steal_s, after.steal_s, seconds),
            "cpu_energy_j": _rounded(system.energy_between(before.cpu_energy_j, after.cpu_energy_j), 2),
            "on_battery": system.on_battery(),
        }
        cards = [self._card(i, device, looks, end) for i, device in enumerate(self._monitor.devices)]
        return _known(facts) | ({"gpus": cards} if cards else {})

    def _run(self) -> None:
        while not self._done.wait(self._monitor.period_s):
            began = perf_counter()
            self._looks.append(self._look())
            self._look_s += perf_counter() - began

    def _look(self) -> _Look:
        return _Look([d.read() for d in self._monitor.devices], system.cpu_mhz())

    def _edge(self) -> _Edge:
        counters = system.counters(self._monitor.pids)
        return _Edge(perf_counter(), counters, [d.totals() for d in self._monitor.devices])

    def _card(self, i: int, device: Device, looks: list[_Look], end: _Edge) -> dict[str, Any]:
        """One GPU's facts: means over the looks, the worst of heat and memory, differences of the counters."""
        cards = [look.cards[i] for look in looks]
        before, after = self._begin.totals[i], end.totals[i]
        energy, source = _grown(before.energy_j, after.energy_j), "counter"
        if energy is None or energy < 0:
            mean = _mean([c.power_w for c in cards], 2) if len(cards) > 1 else None
            energy, source = (None if mean is None else mean * (end.at - self._begin.at)), "power"
        slowest = [c.sm_mhz for c in cards if c.sm_mhz is not None]
        ours, others, theirs = _shares(device.processes(), self._monitor.pids)
        used = max((c.used_bytes for c in cards if c.used_bytes is not None), default=None)
        facts = {
            "index": device.index,
            "sm_mhz": _mean([c.sm_mhz for c in cards], 0),
            "sm_mhz_low": min(slowest, default=None),
            "memory_mhz": _mean([c.memory_mhz for c in cards], 0),
            "power_w": _mean([c.power_w for c in cards], 1),
            "temperature_c": max((c.temperature_c for c in cards if c.temperature_c is not None), default=None),
            "energy_j": _rounded(energy, 2),
            "energy_from": None if energy is None else source,
            "throttle": _throttle([c.throttle for c in cards]),
            "power_throttled_s": _rounded(_grown(before.power_throttled_s, after.power_throttled_s), 3),
            "heat_throttled_s": _rounded(_grown(before.heat_throttled_s, after.heat_throttled_s), 3),
            "used_bytes": used,
            "grown_bytes": _grown(self._monitor.used_before[device.index], used),
            "free_bytes": min((c.free_bytes for c in cards if c.free_bytes is not None), default=None),
            "own_bytes": ours,
            "other_processes": others,
            "other_bytes": theirs,
            "may_spill": device.may_spill or None,
        }
        return _known(facts)


def _shares(processes: list[Process] | None, pids: tuple[int, ...]) -> tuple[int | None, int | None, int | None]:
    """(our bytes, how many compute processes beside ours, their bytes). All None where ours are not on the list: then
    NVML counts process numbers of another namespace (containers), and who is who cannot be told."""
    ours = [p for p in processes or [] if p.pid in pids]
    if not ours:
        return None, None, None
    others = [p for p in processes or [] if p.pid not in pids and not p.graphics]
    return _sum(ours), len(others), _sum(others)


def _sum(processes: list[Process]) -> int | None:
    known = [p.bytes for p in processes if p.bytes is not None]
    return sum(known) if len(known) == len(processes) else None


def _throttle(bits: list[int | None]) -> dict[str, float] | None:
    """Share of the looks at which each reason held the card back; only those seen. None where it is not told."""
    known = [b for b in bits if b is not None]
    if not known:
        return None
    names = {name for bit, name in THROTTLE.items() if any(b & bit for b in known)}
    masks = {n: sum(bit for bit, name in THROTTLE.items() if name == n) for n in sorted(names)}
    return {n: round(sum(bool(b & mask) for b in known) / len(known), 2) for n, mask in masks.items()}


def _among(device: Device, wanted: Sequence[str]) -> bool:
    return device.bus_id is not None and any(same_bus(device.bus_id, w) for w in wanted)


def _grown(before: Any, after: Any) -> Any:
    return None if before is None or after is None else after - before


def _per_second(before: float | None, after: float | None, seconds: float) -> float | None:
    return None if before is None or after is None or seconds <= 0 else round(max(0.0, after - before) / seconds, 2)


def _mean(values: Sequence[float | None], digits: int) -> float | None:
    known = [v for v in values if v is not None]
    return round(sum(known) / len(known), digits) if known else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    """Without the undefined: they would fill the files and say nothing."""
    return {k: v for k, v in facts.items() if v is not None}
