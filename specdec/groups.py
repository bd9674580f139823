"""The runs of one ``--card`` command together: what a strategy won at the same split, what at the same VRAM, and what the
layers cost that it displaced. From the stored runs alone."""

from __future__ import annotations

from collections.abc import Iterable

from specdec.metrics import ALL, BASELINE, Arm, arm_of, arms_of, rows
from specdec.stats import Estimate, estimate, judge, pair_generations
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
    another run, so the two did not alternate in time. ``plain`` in each: the `none` that it stands against.
    ``displaced``: `none` at the strategy's own split over `none` at its own: what the layers that make room cost. None
    where a side is missing.
    """
    out: list[Row] = []
    for card in cards_of(runs):
        out += _card_rows(card, [run for run in runs if _card(run) == card])
    return out


def _card_rows(card: str, runs: list[Run]) -> list[Row]:
    found: list[Row] = []
    ratios: list[Estimate | None] = []
    own_runs = [run for run in runs if SAME_VRAM in run.meta["labels"]["arm"]]
    for home in (run for run in runs if SAME_SPLIT in run.meta["labels"]["arm"]):
        for row in (r for r in rows(home) if r["workload"] == ALL and r["strategy"] != BASELINE):
            key = row["engine"], row["strategy"], row["rollback"]
            own = next((run for run in own_runs if key in arms_of(run)), home)
            plain = _plain(row["engine"], own, runs)
            same_vram, ratio, displaced = _at_own_split(key, own, plain)
            ratios.append(ratio)
            same_split = _at(home, key) | {k: row[k] for k in _OF_A_ROW}
            same_split["plain"] = _at(home, (row["engine"], BASELINE, "auto"))
            fixed = {"card": card, **{k: row[k] for k in ("engine", "strategy", "rollback", "label", "own_label")}}
            found.append(fixed | {"same_split": same_split, "same_vram": same_vram, "displaced": displaced})
    for row, verdict in zip(found, judge(ratios), strict=True):
        row["same_vram"]["verdict"] = verdict and verdict.text
    return found


def _plain(engine: str, own: Run, runs: list[Run]) -> Run | None:
    """The run whose `none` has the split that plain decoding affords; ``own`` where that has the same split, because
    there the two alternated."""
    measured = [run for run in runs if _good(run, (engine, BASELINE, "auto"))]
    plain = min(measured, key=_order, default=None)
    return own if plain and _order(own) == _order(plain) else plain


def _at_own_split(key: Arm, own: Run, plain: Run | None) -> tuple[Row, Estimate | None, float | None]:
    """What a strategy did at the split that its own cost leaves; the estimate of it; what the displaced layers cost."""
    plain_key = key[0], BASELINE, "auto"
    base = _good(plain, plain_key) if plain else []
    mine = next(r for r in rows(own) if r["workload"] == ALL and arm_of(r) == key)
    ratio = _ratio(_good(own, key), base)
    low, high = (ratio.interval() if ratio else None) or (None, None)
    said: Row = _at(own, key) | {k: mine[k] for k in ("status", "prompts", "memory_bytes")}
    said |= {"speedup": ratio.value if ratio else None, "speedup_low": low, "speedup_high": high}
    said["plain"] = plain and _at(plain, plain_key)
    if own is plain:
        return said, ratio, 1.0
    displaced = _ratio(_good(own, plain_key), base)
    return said, ratio, displaced.value if displaced else None


def _ratio(side: list[Sample], base: list[Sample]) -> Estimate | None:
    pairs = pair_generations(side, base, "generation_s")
    return estimate(pairs) if pairs else None


def _good(run: Run, key: Arm) -> list[Sample]:
    """An arm's generations that count."""
    return [s for s in run.samples if arm_of(s) == key and not s["warmup"] and s["status"] == "ok"]


def _at(run: Run, key: Arm) -> Row:
    """Where an arm ran: run, split, what it was expected to take on the GPU, its speed."""
    model, cap = run.meta["spec"]["model"], run.meta.get("cap") or {}
    items = cap.get("expected", {}).get(key[1])
    timed = [s for s in _good(run, key) if s["generation_s"]]
    seconds = sum(s["generation_s"] for s in timed)
    return {
        "run": run.id,
        "n_cpu_moe": model["n_cpu_moe"],
        "gpu_layers": model["gpu_layers"],
        "vram_bytes": None if items is None else sum(i["bytes"] for i in items if i["device"] == GPU),
        "tok_s": sum(len(s["token_ids"]) for s in timed) / seconds if seconds else None,
    }


def _order(run: Run) -> tuple[int, int]:
    """By how little of the model lies in RAM: `none` at its own split comes first; and it has a run for that."""
    model = run.meta["spec"]["model"]
    layers = model["gpu_layers"]
    return model["n_cpu_moe"], -layers if layers >= 0 else -(1 << 30)


def _card(run: Run) -> str:
    return str(run.meta["labels"]["card"])
