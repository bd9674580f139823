"""The answer in one sentence: does it pay, which, by how much, how sure, at what memory. From rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specdec.report.names import row_name, split_name
from specdec.stats import FEWEST_PROMPTS
from specdec.types import Row

YES, NO, OPEN = "pays", "does not pay", "open"


@dataclass(frozen=True, slots=True)
class Answer:
    """On one workload, or on one arm of a card. ``kind``: ``pays``, ``does not pay``, ``open``; ``why``: a sentence for
    each decided strategy."""

    where: str
    kind: str
    sentence: str
    why: list[str] = field(default_factory=list)


def answer(rows: Sequence[Row]) -> tuple[str, str]:
    """The kind and the sentence, to stand after "Over all workloads", on rows of drafting strategies."""
    known = sorted((r for r in rows if r["speedup"] and r["status"] == "ok"), key=lambda r: -r["speedup"])
    faster, slower, equal = (
        [r for r in known if r["verdict"] == verdict] for verdict in ("faster", "slower", "equal within 2 %")
    )
    slower.reverse()
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
        few = (
            f"{few} ({FEWEST_PROMPTS} are needed)" if best["prompts"] < FEWEST_PROMPTS else "a verdict cannot be given"
        )
        return OPEN, f"{few}; the fastest measured was {_size(best)}."
    if len(slower) == len(known):
        return NO, f"nothing pays, every draft is slower than plain decoding: {_list(slower)}.{none}"
    rest = f"; slower: {_list(slower)}" if slower else ""
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
    known = [r for r in rows if r.get("mean_acceptance_length")]  # rows of cards do not have it
    if any(r["status"] == "ok" and r.get("plain", r) is None for r in rows):
        return "plain decoding at its own split was not run"
    if not known:
        return "no generation succeeded"
    best = max(known, key=lambda r: r["mean_acceptance_length"])
    return (
        f"there are no times; {row_name(best)} emits most tokens a target pass ({best['mean_acceptance_length']:.2f})"
    )


def card_answers(rows: Sequence[Row]) -> list[Answer]:
    """Of one card's rows (``specdec.groups``): at the same split, at the same VRAM; what the displaced layers cost."""
    arms = []
    for arm in ("same_split", "same_vram"):
        kind, sentence = answer([{**r, **r[arm]} for r in rows])
        arms.append((kind, sentence))
    common = rows[0]["same_split"]
    where = f"At the same split ({split_name(common['n_cpu_moe'], common['gpu_layers'])})"
    costs = [line for r in rows if (line := _displaced(r))]
    return [
        Answer("same split", arms[0][0], f"{where} {arms[0][1]}"),
        Answer("same VRAM", arms[1][0], f"At the same VRAM {arms[1][1]}", costs),
    ]


def _displaced(r: Row) -> str:
    """What the layers cost that a strategy displaced; empty where that is not known."""
    own, plain = r["same_vram"], r["same_vram"]["plain"]
    if plain is None or r["displaced"] is None:
        return ""
    splits = [split_name(x["n_cpu_moe"], x["gpu_layers"]) for x in (own, plain)]
    if splits[0] == splits[1]:
        return f"{row_name(r)} displaces no layer: {splits[0]}, as plain decoding"
    low, high = r["displaced_low"], r["displaced_high"]
    sure = "" if low is None else f" (95 %: {low:.2f} to {high:.2f})"
    return (
        f"{row_name(r)} makes room with {splits[0]} instead of {splits[1]}: that alone makes plain decoding"
        f" {r['displaced']:.2f} times as fast{sure}"
    )
