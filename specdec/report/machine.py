"""What the machine did during a run: energy a token, and warnings where it did not hold still."""

from __future__ import annotations

from specdec.monitor.findings import instabilities
from specdec.report.names import row_name
from specdec.store import Run
from specdec.types import Row

_PARTS = {"gpu": "GPU", "cpu": "CPU package"}


def machine_notes(run: Run, table: list[Row]) -> list[str]:
    """Lines under the tables, as at most one paragraph; none where nothing is known and nothing moved."""
    lines = _energy([r for r in table if r["workload"] == "all"])
    lines += [f"WARNING: {finding.line}" for finding in instabilities(run.samples)]
    return ["\n".join(lines)] if lines else []


def _energy(total: list[Row]) -> list[str]:
    lines = []
    for part, name in _PARTS.items():
        known = [(r, r["joules_per_token"][part]) for r in total if part in (r["joules_per_token"] or {})]
        if known:
            each = ", ".join(f"{row_name(r)} {joules:.3g}" for r, joules in known)
            lines.append(f"Energy, J a token ({name}, prompt and idle power included): {each}.")
    return lines
