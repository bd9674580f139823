"""System facts: processor time by owner, page faults, swap, available RAM, CPU clock and energy, battery.

Read from /proc and /sys where they are (Linux; microseconds a field), by psutil elsewhere; None where neither tells.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil

_TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_LINUX = sys.platform.startswith("linux")
_MOST_CLOCKS = 8
_CGROUP = Path("/sys/fs/cgroup")


class Counters(NamedTuple):
    """What only grows. Seconds of processor time of the whole machine, of it stolen by the hypervisor, and of our
    processes; major page faults of our processes; bytes swapped by the whole machine; joules of the processor packages."""

    busy_s: float
    steal_s: float | None
    own_s: float | None
    major_faults: int | None
    swap_in_bytes: int | None
    swap_out_bytes: int | None
    cpu_energy_j: float | None


def counters(pids: tuple[int, ...]) -> Counters:
    """Read them all; ``pids`` are the processes that count as ours."""
    times = psutil.cpu_times()
    busy = sum(getattr(times, k, 0.0) for k in ("user", "nice", "system", "irq", "softirq", "interrupt", "dpc"))
    own_s, faults = _own(pids)
    swap_in, swap_out = _swapped()
    return Counters(busy, getattr(times, "steal", None), own_s, faults, swap_in, swap_out, _package_energy())


def _own(pids: tuple[int, ...]) -> tuple[float | None, int | None]:
    """(processor seconds, major page faults) of these processes together; one that has gone counts nothing."""
    found = [_process(pid) for pid in pids]
    seconds = [s for s, _ in found if s is not None]
    faults = [f for _, f in found if f is not None]
    return (sum(seconds) if seconds else None), (sum(faults) if faults else None)


def _process(pid: int) -> tuple[float | None, int | None]:
    if _LINUX:
        text = _text(Path(f"/proc/{pid}/stat"))
        if text is None:
            return None, None
        fields = text.rpartition(")")[2].split()  # proc(5): state is field 3; 12 majflt, 14 utime, 15 stime
        return (int(fields[11]) + int(fields[12])) * _TICK_S, int(fields[9])
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        faults = getattr(process.memory_info(), "pageins", None)  # macOS; Windows counts no major faults apart
    except psutil.Error:
        return None, None
    return times.user + times.system, faults


def reset_resident_peak(pids: tuple[int, ...]) -> None:
    """Let ``resident_peak`` count from now on; where the kernel cannot do that (not Linux), it counts from the start of
    the processes."""
    for pid in pids if _LINUX else ():
        with suppress(OSError):  # a sandbox without it, or a process that has gone
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): resets VmHWM, nothing else


def resident_peak(pids: tuple[int, ...]) -> int | None:
    """The highest resident sets of these processes, added up, bytes; what is resident now where the system keeps no
    peak (macOS). None where it tells nothing."""
    found = [n for n in map(_resident_peak, pids) if n is not None]
    return sum(found) if found else None


def _resident_peak(pid: int) -> int | None:
    peak = re.search(r"^VmHWM:\s*(\d+) kB", _text(Path(f"/proc/{pid}/status")) or "", re.MULTILINE) if _LINUX else None
    if peak is not None:
        return int(peak[1]) << 10
    try:
        told = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return int(getattr(told, "peak_wset", told.rss))


def _swapped() -> tuple[int | None, int | None]:
    """(in, out) bytes since boot, of the whole machine."""
    if not _LINUX:
        swap = psutil.swap_memory()
        return swap.sin, swap.sout
    lines = (_text(Path("/proc/vmstat")) or "").splitlines()
    pages = dict(line.split() for line in lines if line.startswith("pswp"))
    return tuple(int(pages[k]) * _PAGE_BYTES if k in pages else None for k in ("pswpin", "pswpout"))  # type: ignore[return-value]


@cache
def _packages() -> tuple[tuple[Path, int], ...]:
    """(energy file, where it wraps, microjoules) of each processor package; most systems let only root read them."""
    found = []
    for zone in sorted(Path("/sys/class/powercap").glob("intel-rapl:[0-9]*")):
        if zone.name.count(":") == 1 and (_text(zone / "name") or "").startswith("package"):
            wraps = _text(zone / "max_energy_range_uj")
            if _text(zone / "energy_uj") is not None and wraps is not None:
                found.append((zone / "energy_uj", int(wraps)))
    return tuple(found)


def _package_energy() -> float | None:
    texts = [_text(path) for path, _ in _packages()]
    return sum(int(t) for t in texts if t is not None) * 1e-6 if texts and None not in texts else None


def energy_between(before: float | None, after: float | None) -> float | None:
    """Joules between two readings; a counter that wrapped once in between is mended."""
    if before is None or after is None:
        return None
    wraps = max((limit for _, limit in _packages()), default=0) * 1e-6
    spent = after - before
    return spent if spent >= 0 else spent + wraps if spent + wraps >= 0 else None


def ram_available() -> int:
    """Bytes that programs can still take without swapping; a container's limit counts."""
    free = psutil.virtual_memory().available
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is None or used is None:
        return free
    cached = next((int(n) for k, n in _pairs(_CGROUP / "memory.stat") if k == "inactive_file"), 0)
    return max(0, min(free, limit - used + cached))


def cores_allowed() -> float | None:
    """Processors' worth of time that affinity and a container's quota leave to us; None where nothing limits it."""
    total = psutil.cpu_count() or 1
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quota = (_text(_CGROUP / "cpu.max") or "max").split()
    allowed = min(affine, int(quota[0]) / int(quota[1])) if len(quota) == 2 and quota[0] != "max" else affine
    return allowed if allowed < total else None


@cache
def _clock_files() -> tuple[Path, ...]:
    """A few cores' clock files, spread over the processor: each read may ask its core."""
    files = sorted(Path("/sys/devices/system/cpu/cpufreq").glob("policy*/scaling_cur_freq"))
    return tuple(files[:: max(1, len(files) // _MOST_CLOCKS)])


def cpu_mhz() -> float | None:
    """The fastest clock among a few cores: that of those at work. None where the system hides it (virtual machines)."""
    clocks = [_number(f) for f in _clock_files()]
    return max((c / 1e3 for c in clocks if c is not None), default=None)


def governor() -> str | None:
    """How the kernel sets the CPU clock, as ``driver/governor``."""
    folder = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    driver, name = _text(folder / "scaling_driver"), _text(folder / "scaling_governor")
    return f"{driver}/{name}" if driver and name else None


def on_battery() -> bool | None:
    """Whether the machine runs on its battery; None where it has none."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


def state() -> dict[str, Any]:
    """What changes between the start and the end of a run."""
    return {
        "ram_available_bytes": ram_available(),
        "swap_used_bytes": psutil.swap_memory().used,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "cpu_mhz": cpu_mhz(),
        "on_battery": on_battery(),
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None


def _pairs(path: Path) -> list[tuple[str, str]]:
    lines = (line.split() for line in (_text(path) or "").splitlines())
    return [(words[0], words[1]) for words in lines if len(words) == 2]
