"""What each arm of a run takes of the GPUs and of RAM, item by item, and what the driver and the system counted.

From the store alone. Runs of before there were items give no rows.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from specdec.llama.accounting import PLACES, by_place, place_of
from specdec.metrics import BASELINE, arm_of
from specdec.store import Run, Sample
from specdec.types import MemoryItem, Row


def footprints(run: Run) -> list[Row]:
    """A row for each arm whose items are known: ``engine``, ``strategy``, ``rollback``, and for ``GPU`` (all cards) and
    ``RAM`` an object, bytes:

    ``items`` by kind; ``total``, their sum; ``more``, the sum less that of `none` on the same engine (None without);
    ``observed``, the most that was counted for our processes during a generation, and ``observed_by`` (``process``, or
    ``card``: the growth of the cards' used memory); ``held``, what these processes said they held then, all arms
    together; ``untold``, the difference. None where it is not known.
    """
    known = [arm for arm in run.meta.get("memory", []) if arm["items"] is not None]
    plain = {arm["engine"]: by_place(_items(arm)) for arm in known if arm["strategy"] == BASELINE}
    return [_row(run, arm, plain.get(arm["engine"])) for arm in known]


def _row(run: Run, arm: dict[str, Any], plain: dict[str, int] | None) -> Row:
    key = arm["engine"], arm["strategy"], arm["rollback"]
    samples = [s for s in run.samples if arm_of(s) == key and s["status"] == "ok" and not s["warmup"]]
    items = _items(arm)
    sums = by_place(items)
    row: Row = dict(zip(("engine", "strategy", "rollback"), key, strict=True))
    for place in PLACES:
        kinds: Counter[str] = Counter()
        for item in items:
            if place_of(item.device) == place:
                kinds[item.kind] += item.bytes
        more = None if plain is None else sums[place] - plain[place]
        row[place] = {"items": dict(kinds), "total": sums[place], "more": more} | _observed(samples, place)
    return row


def _observed(samples: list[Sample], place: str) -> dict[str, Any]:
    """The most that was counted in any of the generations, and what the processes said they held at that time."""
    found = [(*seen, s["machine"]) for s in samples if (seen := _counted(s.get("machine") or {}, place)) is not None]
    if not found:
        return dict.fromkeys(("observed", "observed_by", "held", "untold"))
    most, by, machine = max(found, key=lambda f: f[0])
    held = machine.get("held_bytes", {}).get(place)
    return {"observed": most, "observed_by": by, "held": held, "untold": None if held is None else most - held}


def _counted(machine: dict[str, Any], place: str) -> tuple[int, str] | None:
    """(bytes, who counted them) of one generation."""
    if place == "RAM":
        resident = machine.get("own_resident_bytes")
        return None if resident is None else (resident, "process")
    cards = machine.get("gpus") or []
    for field, by in (("own_bytes", "process"), ("grown_bytes", "card")):
        if cards and all(field in card for card in cards):
            return sum(card[field] for card in cards), by
    return None


def _items(arm: dict[str, Any]) -> list[MemoryItem]:
    return [MemoryItem(i["device"], i["kind"], i["bytes"]) for i in arm["items"]]
