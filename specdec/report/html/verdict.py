"""The answer in one sentence per workload: does it pay, which, by how much, how sure, at what memory, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.metrics import ALL, BASELINE
from specdec.report.html.facts import Facts, row_name
from specdec.stats import FEWEST_PROMPTS
from specdec.types import Row
from specdec.why import why

YES, NO, OPEN = "pays", "does not pay", "open"


@dataclass(frozen=True, slots=True)
class Answer:
    """On one workload. ``kind``: ``pays``, ``does not pay``, ``open``; ``why``: a sentence for each decided strategy."""

    workload: str
    kind: str
    sentence: str
    why: list[str]


def answers(f: Facts) -> list[Answer]:
    """The one over all workloads first, then one for each."""
    found = []
    for workload in sorted(f.workloads, key=lambda w: w != ALL):
        table = f.rows_of(workload)
        rows = [r for r in table if r["strategy"] != BASELINE]
        kind, sentence = _answer(rows)
        own = [s for s in f.run.samples if s["workload"] == workload]
        reasons = [] if workload == ALL else why(table, own)
        where = "Over all workloads" if workload == ALL else f"On {workload}"
        found.append(Answer(workload, kind, f"{where} {sentence}", reasons))
    return found


def _answer(rows: Sequence[Row]) -> tuple[str, str]:
    by = {v: [r for r in rows if r["verdict"] == v and r["speedup"]] for v in {r["verdict"] for r in rows}}
    faster = sorted(by.get("faster", []), key=lambda r: -r["speedup"])
    slower = sorted(by.get("slower", []), key=lambda r: r["speedup"])
    known = sorted((r for r in rows if r["speedup"] and r["status"] == "ok"), key=lambda r: -r["speedup"])
    slower = [r for r in slower if r in known]
    idle = [row_name(r) for r in rows if r["status"] == "inactive"]
    none = f" {', '.join(idle)} drafted nothing." if idle else ""
    if faster:
        return YES, _pays(faster)
    if not known and idle:
        return NO, f"nothing pays:{none}"
    if not known:
        return OPEN, f"nothing is known of speed: {_without_speed(rows)}."
    best = known[0]
    if all(r["verdict"] == "cannot tell" for r in known):
        few = f"{best['prompts']} prompt{'s are' if best['prompts'] != 1 else ' is'} too few for a verdict"
        few = few if best["prompts"] < FEWEST_PROMPTS else "a verdict cannot be given"
        return OPEN, f"{few} ({FEWEST_PROMPTS} are needed); the fastest measured was {_size(best)}."
    if len(slower) == len(known):
        return NO, f"nothing pays, every draft is slower than plain decoding: {_list(slower)}.{none}"
    rest = f"; slower: {_list(slower)}" if slower else ""
    equal = by.get("equal within 2 %", [])
    if len(slower) + len(equal) == len(known):
        return (
            NO,
            f"nothing pays: {_list(equal)} {'is' if len(equal) == 1 else 'are'} as fast as plain decoding{rest}.{none}",
        )
    return OPEN, f"nothing is shown to pay; the fastest measured was {_size(best)}{rest}.{none}"


def _pays(faster: list[Row]) -> str:
    best = faster[0]
    cost = best["memory_bytes"]
    held = f", and takes {cost / 2**20:.3g} MiB more memory" if cost else ""
    other = f" Also faster: {_list(faster[1:])}." if faster[1:] else ""
    times = f"{best['speedup']:.2f} times as fast as plain decoding"
    return f"{row_name(best)} pays: {times}{_sure(best)}{held}.{other}"


def _size(row: Row) -> str:
    verdict = f", {row['verdict']}" if row["verdict"] == "no difference shown" else ""
    return f"{row_name(row)}, {row['speedup']:.2f} times plain decoding{_sure(row)}{verdict}"


def _sure(row: Row) -> str:
    n = f"{row['prompts']} prompt{'s' if row['prompts'] != 1 else ''}"
    if row["speedup_low"] is None:
        return f" ({n})"
    return f" (95 %: {row['speedup_low']:.2f} to {row['speedup_high']:.2f}, {n})"


def _list(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row_name(r)} {r['speedup']:.2f}" for r in rows)


def _without_speed(rows: Sequence[Row]) -> str:
    if not rows:
        return "no strategy but none was run"
    known = [r for r in rows if r["mean_acceptance_length"]]
    if not known:
        return "no generation succeeded"
    best = max(known, key=lambda r: r["mean_acceptance_length"])
    return (
        f"there are no times; {row_name(best)} emits most tokens a target pass ({best['mean_acceptance_length']:.2f})"
    )
