"""What watching the machine costs, and all that it sees here: every fact, the time of each read, the cost to other work.

    python benchmarks/monitor.py

Needs no model; on a machine with an NVIDIA GPU it shows the GPU's facts and times NVML's reads one by one.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from threading import active_count
from time import perf_counter, process_time, sleep
from typing import Any

import numpy as np

from specdec.monitor import Monitor, system
from specdec.monitor.nvml import Nvml
from specdec.monitor.watch import DEFAULT_HZ

READS, PAIRS, WORK_S = 200, 15, 1.0


def timed(call: Callable[[], Any], reads: int = READS) -> tuple[float, float]:
    """(median, 95th percentile) of a call, microseconds."""
    call()  # what cannot be answered is found out once
    times = []
    for _ in range(reads):
        began = perf_counter()
        call()
        times.append(perf_counter() - began)
    return float(np.median(times)) * 1e6, float(np.percentile(times, 95)) * 1e6


def line(name: str, call: Callable[[], Any]) -> None:
    median, high = timed(call)
    print(f"  {name:<34}{median:>10.1f}{high:>10.1f}")


def facts(nvml: Nvml) -> None:
    monitor = Monitor(nvml=nvml, background=True)
    print("Devices:", json.dumps([d.describe() for d in nvml.devices], indent=1) if nvml.devices else nvml.reason)
    print("State:", json.dumps(monitor.state(), indent=1))
    with monitor.watch() as watch:
        work(WORK_S)
    print("A second of work, watched:", json.dumps(watch.facts(), indent=1))


def costs(nvml: Nvml) -> None:
    print(f"\nCost of a read, microseconds ({READS} reads)\n  {'':<34}{'median':>10}{'95 %':>10}")
    pids = (os.getpid(),)
    for device in nvml.devices:
        for name, call in device.parts().items():
            line(f"GPU {device.index}: {name}", call)
    line("system: counters", lambda: system.counters(pids))
    line("system: CPU clock", system.cpu_mhz)
    line("system: RAM available", system.ram_available)
    line("system: battery", system.on_battery)
    for background in (False, True):
        monitor = Monitor(nvml=nvml, background=background)

        def watched(monitor: Monitor = monitor) -> None:
            with monitor.watch() as watch:
                pass
            watch.facts()

        line(f"a whole watch, thread {'on' if background else 'off'}", watched)


def work(seconds: float) -> int:
    """Matrix products in float32, as many as fit into ``seconds``."""
    a = np.ones((256, 256), np.float32)
    end, done = perf_counter() + seconds, 0
    while perf_counter() < end:
        a = a @ a * np.float32(1e-3)
        done += 1
    return done


def overhead(nvml: Nvml) -> None:
    """Work done in a second with the thread on against off, in pairs, order swapped each time."""
    for hz in (DEFAULT_HZ, 50.0):
        monitor = Monitor(nvml=nvml, background=True, hz=hz)
        ratios = []
        for i in range(PAIRS):
            done = {}
            for on in (i % 2 == 0, i % 2 == 1):
                if on:
                    with monitor.watch():
                        done[on] = work(WORK_S)
                else:
                    done[on] = work(WORK_S)
            ratios.append(done[True] / done[False])
        before = process_time()
        with monitor.watch():
            sleep(2 * WORK_S)
        share = (process_time() - before) / (2 * WORK_S)
        spread = np.percentile(ratios, [25, 75])
        print(
            f"{hz:g} looks a second: work done with / without {np.median(ratios):.4f} (middle half {spread[0]:.4f}-"
            f"{spread[1]:.4f}, {PAIRS} pairs); the thread takes {share:.3%} of one core"
        )
    assert active_count() == 1, "a watch left its thread behind"


def main() -> None:
    print(f"{platform.platform()}, {os.cpu_count()} logical cores")
    nvml = Nvml()
    facts(nvml)
    costs(nvml)
    print()
    overhead(nvml)
    nvml.close()


if __name__ == "__main__":
    main()
