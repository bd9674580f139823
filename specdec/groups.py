"""The runs of one ``--card`` command together: what a strategy won at the same split, what at the same VRAM, and what the
layers cost that it displaced. From the stored runs alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import log

from specdec.metrics import ALL, BASELINE, Arm, arm_of, arms_of, rows, tok_s
from specdec.stats import Estimate, LaunchSpread, estimate, judge, pair_generations
from specdec.store import Run, Sample
from specdec.types import Row
from specdec.vram.memory import GPU

SAME_SPLIT, SAME_VRAM = "same split", "same VRAM"
_OF_A_ROW = ("status", "prompts", "memory_bytes", "tok_s", "speedup", "speedup_low", "speedup_high", "verdict")


def cards_of(runs: Iterable[Run]) -> list[str]:
    """The cards of a group, as results name them, in the order of its runs."""
    return list(dict.fromkeys(_card(run) for run in runs))


def group_rows(runs: list[Run]) -> list[Row]:
    """A row for each card, engine and drafting strategy, over all workloads.

    ``same_split``: status, prompts, tok_s, speedup, its 95 % interval, verdict, split and planned VRAM, from the run that
    has it beside `none`. ``same_vram``: the same against `none` at the split that `none` itself affords; that lies in
    another run, so the two did not alternate in time: the machine's ``drift`` is in the interval, and where it is not
    known there is no verdict. ``plain`` in each: the `none` that it stands against.
    ``displaced`` and its interval: `none` at the strategy's own split over `none` at its own: what the layers that make
    room cost. None where a side is missing.
    """
    out: list[Row] = []
    moved = drift(runs)
    for card in cards_of(runs):
        out += _card_rows(card, [run for run in runs if _card(run) == card], moved)
    return out


def drift(runs: list[Run]) -> LaunchSpread | None:
    """How much `none` moved from run to run at the same split of the same card: the variance of its logarithm, all splits
    pooled; None where no two runs share a split. Of runs that were cut off, those prompts count that all of them have."""
    alike: dict[object, list[list[Sample]]] = defaultdict(list)
    for run in runs:
        for engine in {arm[0] for arm in arms_of(run)}:
            if plain := _good(run, (engine, BASELINE, "auto")):
                alike[_card(run), engine, _order(run)].append(plain)
    speeds = [found for sides in alike.values() if (found := _on_common_prompts(sides))]
    freedom = sum(len(s) - 1 for s in speeds)
    if not freedom:
        return None
    variance = sum((x - sum(s) / len(s)) ** 2 for s in speeds for x in s) / freedom
    return LaunchSpread(variance, variance, freedom + 1)


def _on_common_prompts(sides: list[list[Sample]]) -> list[float]:
    """The logarithm of each side's tok/s; empty where only one of several prompts is common to all: that is no measure of
    a machine."""
    prompts = [{(s["prompt"], s["turn"]) for s in side} for side in sides]
    common = set.intersection(*prompts)
    if len(common) < min(2, max(map(len, prompts))):
        return []
    speeds = (tok_s([s for s in side if (s["prompt"], s["turn"]) in common]) for side in sides)
    return [log(speed) for speed in speeds if speed]


def _card_rows(card: str, runs: list[Run], moved: LaunchSpread | None) -> list[Row]:
    found: list[Row] = []
    ratios: list[Estimate | None] = []
    for home in (run for run in runs if SAME_SPLIT in run.meta["labels"]["arm"]):
        for row in (r for r in rows(home) if r["workload"] == ALL and r["strategy"] != BASELINE):
            key = row["engine"], row["strategy"], row["rollback"]
            own = _own(key, home, runs)
            plain = _plain(row["engine"], own, home, runs)
            same_vram, ratio = _at_own_split(key, own, plain, moved) if own else (_not_run(key, home, plain), None)
            ratios.append(ratio if own is plain or moved else None)
            same_split = _at(home, key) | {k: row[k] for k in _OF_A_ROW}
            same_split["plain"] = _at(home, (row["engine"], BASELINE, "auto"))
            fixed = {"card": card, **{k: row[k] for k in ("engine", "strategy", "rollback", "label", "own_label")}}
            found.append(
                fixed | {"same_split": same_split, "same_vram": same_vram} | _displaced(key[0], own, plain, moved)
            )
    for row, verdict in zip(found, judge(ratios), strict=True):
        unknown = "cannot tell" if row["same_vram"]["speedup"] else None
        row["same_vram"]["verdict"] = verdict.text if verdict else unknown
    return found


def _own(key: Arm, home: Run, runs: list[Run]) -> Run | None:
    """The run that has a strategy at the split that its own cost leaves, the one beside the others first where that is the
    same; None where it is missing."""
    planned = _planned(home, key[1])
    have = [run for run in (home, *runs) if key in arms_of(run)]
    if planned is None:  # an older run does not say: what was run for this arm counts
        return next((run for run in have if SAME_VRAM in run.meta["labels"]["arm"]), home)
    return next((run for run in have if _split(run) == planned), None)


def _plain(engine: str, own: Run | None, home: Run, runs: list[Run]) -> Run | None:
    """The run whose `none` has the split that plain decoding affords, ``own`` first, because there the two alternated; None
    where it is missing."""
    measured = [run for run in (own or home, *runs) if _good(run, (engine, BASELINE, "auto"))]
    planned = _planned(home, BASELINE)
    if planned is None:
        return min(measured, key=_order, default=None)
    return next((run for run in measured if _split(run) == planned), None)


def _planned(run: Run, strategy: str) -> Row | None:
    """The split that the card allows a strategy by itself."""
    split: Row | None = (run.meta.get("cap") or {}).get("own_splits", {}).get(strategy)
    return split


def _split(run: Run) -> Row:
    model = run.meta["spec"]["model"]
    return {"gpu_layers": model["gpu_layers"], "n_cpu_moe": model["n_cpu_moe"]}


def _not_run(key: Arm, home: Run, plain: Run | None) -> Row:
    """In place of a run that is missing: it failed as a whole, or was not begun."""
    nothing = dict.fromkeys((*_OF_A_ROW, "run", "vram_bytes"))
    split = _planned(home, key[1]) or _split(home)
    return nothing | split | {"status": "not run", "plain": plain and _at(plain, (key[0], BASELINE, "auto"))}


def _at_own_split(key: Arm, own: Run, plain: Run | None, moved: LaunchSpread | None) -> tuple[Row, Estimate | None]:
    """What a strategy did at the split that its own cost leaves; the estimate of it."""
    plain_key = key[0], BASELINE, "auto"
    base = _good(plain, plain_key) if plain else []
    mine = next(r for r in rows(own) if r["workload"] == ALL and arm_of(r) == key)
    ratio = _ratio(_good(own, key), base, None if own is plain else moved)
    said: Row = _at(own, key) | {k: mine[k] for k in ("status", "prompts", "memory_bytes")}
    return said | _with_interval("speedup", ratio) | {"plain": plain and _at(plain, plain_key)}, ratio


def _displaced(engine: str, own: Run | None, plain: Run | None, moved: LaunchSpread | None) -> Row:
    """What the layers cost that make room; no interval where the drift between the two runs is not known."""
    if own is not None and own is plain:
        return {"displaced": 1.0, "displaced_low": 1.0, "displaced_high": 1.0}
    key = engine, BASELINE, "auto"
    ratio = _ratio(_good(own, key), _good(plain, key), moved) if own and plain else None
    known = _with_interval("displaced", ratio)
    return known if moved else known | {"displaced_low": None, "displaced_high": None}


def _with_interval(name: str, ratio: Estimate | None) -> Row:
    low, high = (ratio.interval() if ratio else None) or (None, None)
    return {name: ratio.value if ratio else None, f"{name}_low": low, f"{name}_high": high}


def _ratio(side: list[Sample], base: list[Sample], moved: LaunchSpread | None = None) -> Estimate | None:
    """``moved``: where the sides lie in two runs, each of which has drifted by so much."""
    pairs = pair_generations(side, base, "generation_s")
    if not pairs:
        return None
    n = moved.launches if moved else 0  # an estimate adds variance / launches: here each run is one
    return estimate(pairs, extra=[LaunchSpread(2 * n * moved.variance, 2 * n * moved.raw, n)] if moved else [])


def _good(run: Run, key: Arm) -> list[Sample]:
    """An arm's generations that count."""
    return [s for s in run.samples if arm_of(s) == key and not s["warmup"] and s["status"] == "ok"]


def _at(run: Run, key: Arm) -> Row:
    """Where an arm ran: run, split, what it was expected to take on the GPU, its speed."""
    cap = run.meta.get("cap") or {}
    items = cap.get("expected", {}).get(key[1])
    return {
        "run": run.id,
        **_split(run),
        "vram_bytes": None if items is None else sum(i["bytes"] for i in items if i["device"] == GPU),
        "tok_s": tok_s(_good(run, key)),
    }


def _order(run: Run) -> tuple[int, int]:
    """By how little of the model lies in RAM: `none` at its own split comes first; and it has a run for that."""
    model = run.meta["spec"]["model"]
    layers = model["gpu_layers"]
    return model["n_cpu_moe"], -layers if layers >= 0 else -(1 << 30)


def _card(run: Run) -> str:
    return str(run.meta["labels"]["card"])
