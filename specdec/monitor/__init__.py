"""What the machine did during a generation (clocks, power, energy, heat, memory, swap, other load); whether it held still.

    monitor = Monitor(devices)
    with monitor.watch() as watch:
        ...  # a generation
    sample["machine"] = watch.facts()

``instabilities(samples)`` turns what many generations left into findings.
"""

from specdec.monitor.findings import Finding, instabilities, joules_per_token
from specdec.monitor.watch import Monitor, Watch

__all__ = ["Finding", "Monitor", "Watch", "instabilities", "joules_per_token"]
