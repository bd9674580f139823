"""Whether the machine held still: findings from the `machine` field of samples. Pure; thresholds and texts live here.

Warm-ups and failures are left out. A finding says what was seen, in how many generations, and what settles it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

GPU_CLOCK_MOVED = 0.05
"""Share of a run's median SM clock that a generation's mean may be off: decoding follows the clocks nearly one to one."""
CPU_CLOCK_MOVED = 0.10
"""The same for the CPU clock, which is read at a few moments only."""
POWER_LIMITED = 0.10
"""Share of a generation spent at the power limit; cards touch it now and then without slowing down."""
HEAT_LIMITED = 0.01
"""Share of a generation slowed down by heat or by the board."""
HOT_C = 83
"""Where GeForce cards begin to step their clocks down (their default target temperature)."""
SWAPPED_BYTES = 1 << 20
"""Swapped in and out during one generation, by the whole machine."""
FAULTS_PER_S = 20
"""Major page faults of ours a second: each reads the disk, 0.1 ms (NVMe) to 10 ms (hard disk)."""
OTHER_CORES, OTHER_SHARE = 0.3, 0.05
"""Processor time of other programs, in cores, and as a share of ours; the larger of both counts."""
STOLEN_CORES = 0.05
"""Processor time that the hypervisor gave to others, in cores."""
FEW = 0.05
"""Share of the generations that must show a thing before it is told (swap, heat and battery are told at once)."""
FULL = 0.015
"""Share of VRAM left free below which a card counts as full."""
SPILL_BYTES, SPILL_SHARE = 256 << 20, 0.05
"""VRAM that was asked for and is missing on the cards, bytes and share; both must be exceeded."""

Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that moved. ``kind`` is a stable name, ``text`` what was seen, ``settle`` what to do about it."""

    kind: str
    text: str
    settle: str
    generations: int = 0

    @property
    def line(self) -> str:
        """Both as one line."""
        return f"{self.text}. {self.settle}"


def instabilities(samples: Iterable[Sample]) -> list[Finding]:
    """What did not hold still over these samples of one run; empty where nothing is known or nothing moved."""
    machines = [m for s in samples if not s["warmup"] and s["status"] == "ok" and (m := s.get("machine"))]
    if not machines:
        return []
    cards: dict[int, list[Sample]] = {}
    for machine in machines:
        for card in machine.get("gpus", ()):
            cards.setdefault(card["index"], []).append({**card, "watched_s": machine["watched_s"]})
    found = [f for index in sorted(cards) for f in _of_card(index, cards[index])]
    return found + list(_of_system(machines))


def joules_per_token(samples: Iterable[Sample]) -> dict[str, float] | None:
    """Energy of whole generations, prompt included, over the tokens generated: ``gpu`` (all cards that the run used) and
    ``cpu`` (processor packages, without RAM), each where every generation knows it. Idle power is in it."""
    ok = [s for s in samples if not s["warmup"] and s["status"] == "ok"]
    tokens = sum(len(s["token_ids"]) for s in ok)
    machines = [s.get("machine") or {} for s in ok]
    gpu = [sum(c["energy_j"] for c in m["gpus"]) if _all_know(m) else None for m in machines]
    cpu = [m.get("cpu_energy_j") for m in machines]
    known = {k: sum(v) / tokens for k, v in (("gpu", gpu), ("cpu", cpu)) if tokens and v and None not in v}  # type: ignore[arg-type]
    return known or None


def spilled(asked_bytes: int, grown_bytes: int) -> Finding | None:
    """A finding where much less VRAM is in use than was asked for: the driver put the rest into system RAM.

    ``grown_bytes``: how much the cards' used memory grew meanwhile. It sees spills of any driver while other programs
    keep still; one that frees VRAM in the same moment looks the same.
    """
    missing = asked_bytes - grown_bytes
    if missing <= max(SPILL_BYTES, SPILL_SHARE * asked_bytes):
        return None
    return Finding(
        "vram-spill",
        f"{asked_bytes / 2**30:.1f} GiB of VRAM were asked for and {max(0, grown_bytes) / 2**30:.1f} GiB are in use: the"
        " driver seems to keep the rest in system RAM, at a fraction of the speed",
        "Move it there yourself (a larger --n-cpu-moe, fewer --gpu-layers) and compare tok/s.",
    )


def _of_card(index: int, cards: Sequence[Sample]) -> Iterator[Finding]:
    name, n = f"GPU {index}", len(cards)
    clocks = [c["sm_mhz"] for c in cards if c.get("sm_mhz")]
    lock = f"nvidia-smi -i {index} --lock-gpu-clocks={min(clocks):.0f}" if clocks else "a lower power limit"
    again = f"As administrator: {lock} (undo: nvidia-smi -i {index} --reset-gpu-clocks); then the same run again."
    if moved := _moved(clocks, GPU_CLOCK_MOVED):
        heat = [c["temperature_c"] for c in cards if c.get("temperature_c") is not None]
        span = f", at {min(heat)}-{max(heat)} °C" if heat else ""
        text = f"{name}: the clock moved between {min(clocks):,.0f} and {max(clocks):,.0f} MHz{span}"
        yield Finding("gpu-clock", _in(text, moved, n), again, moved)
    if power := _count(cards, lambda c: _limited(c, "power", "power brake") > POWER_LIMITED):
        yield Finding("gpu-power", _in(f"{name} ran at its power limit", power, n), again, power)
    if hot := _count(cards, lambda c: _limited(c, "heat", "hardware") > HEAT_LIMITED, few=0):
        yield Finding(
            "gpu-heat", _in(f"{name} was slowed down by heat or its board", hot, n), f"Mend its cooling. {again}", hot
        )
    elif warm := _count(cards, lambda c: c.get("temperature_c", 0) >= HOT_C):
        yield Finding("gpu-temperature", _in(f"{name} reached {HOT_C} °C or more", warm, n), again, warm)
    if shared := _count(cards, lambda c: c.get("other_processes", 0) > 0):
        text = _in(f"{name}: other programs computed on it", shared, n)
        yield Finding(
            "gpu-shared", text, f"nvidia-smi -i {index} names them: end them, then the same run again.", shared
        )
    if full := _count(cards, lambda c: c.get("may_spill") and _is_full(c)):
        text = _in(f"{name}: VRAM was full, and this driver moves what does not fit into RAM without a word", full, n)
        yield Finding("vram-full", text, "Compare with more experts in RAM: a larger --n-cpu-moe.", full)


def _of_system(machines: Sequence[Sample]) -> Iterator[Finding]:
    n = len(machines)
    clocks = [m["cpu_mhz"] for m in machines if m.get("cpu_mhz")]
    if moved := _moved(clocks, CPU_CLOCK_MOVED):
        text = f"the CPU clock moved between {min(clocks):,.0f} and {max(clocks):,.0f} MHz"
        yield Finding(
            "cpu-clock", _in(text, moved, n), "sudo cpupower frequency-set -g performance; then again.", moved
        )
    if swapped := _count(machines, lambda m: _swap(m) > SWAPPED_BYTES, few=0):
        most = max(map(_swap, machines)) / 2**20
        text = _in(f"the machine swapped, up to {most:,.0f} MiB", swapped, n)
        yield Finding(
            "swap", text, "Close programs, or take a model that fits the RAM; then the same run again.", swapped
        )
    if faults := _count(machines, lambda m: m.get("major_faults", 0) > FAULTS_PER_S * max(1.0, m["watched_s"])):
        text = _in("weights were read from disk while generating (major page faults)", faults, n)
        yield Finding(
            "page-faults", text, "Run with --no-mmap, or take a smaller file if RAM does not hold it.", faults
        )
    if load := _count(machines, _is_disturbed):
        most = max(m.get("cpu_other_cores", 0) for m in machines)
        text = _in(f"other programs took up to {most:.1f} cores", load, n)
        yield Finding(
            "cpu-load",
            text,
            "top names them: end them, then the same again (not --quick: with --repeats 3).",
            load,
        )
    if stolen := _count(machines, lambda m: m.get("cpu_stolen_cores", 0) > STOLEN_CORES):
        text = _in("the hypervisor gave processor time to other guests", stolen, n)
        yield Finding("cpu-stolen", text, "The same run with --repeats 5 shows how much it matters.", stolen)
    if battery := _count(machines, lambda m: m.get("on_battery") is True, few=0):
        yield Finding("battery", _in("the machine ran on its battery", battery, n), "Plug it in, then again.", battery)


def _in(text: str, count: int, of: int) -> str:
    return f"{text} (in {count} of {of} generations)"


def _count(items: Sequence[Sample], shows: Callable[[Sample], Any], few: float = FEW) -> int:
    """How many show it; 0 where those are fewer than ``few`` of them."""
    count = sum(bool(shows(i)) for i in items)
    return count if count > few * len(items) else 0


def _moved(clocks: Sequence[float], share: float) -> int:
    """How many are further than ``share`` from the median; 0 where they are few."""
    middle = median(clocks) if clocks else 0
    count = sum(abs(c - middle) > share * middle for c in clocks)
    return count if count > FEW * len(clocks) else 0


def _limited(card: Sample, *reasons: str) -> float:
    """Share of a generation that a reason held the card back: by the driver's clock where it has one, else by looks."""
    seconds = card.get(f"{reasons[0]}_throttled_s")
    looks = max((card.get("throttle", {}).get(r, 0.0) for r in reasons), default=0.0)
    timed = seconds / card["watched_s"] if seconds is not None and card["watched_s"] else 0.0
    return max(timed, looks)


def _is_full(card: Sample) -> bool:
    used, free = card.get("used_bytes"), card.get("free_bytes")
    return used is not None and free is not None and free < FULL * (used + free)


def _swap(machine: Sample) -> int:
    return int(machine.get("swap_in_bytes", 0) + machine.get("swap_out_bytes", 0))


def _is_disturbed(machine: Sample) -> bool:
    ours, others = machine.get("cpu_own_cores", 0.0), machine.get("cpu_other_cores", 0.0)
    return bool(others > max(OTHER_CORES, OTHER_SHARE * ours))


def _all_know(machine: Sample) -> bool:
    return bool(machine.get("gpus")) and all("energy_j" in c for c in machine["gpus"])
