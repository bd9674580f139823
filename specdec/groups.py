"""The runs of one ``--card`` command together: what a strategy won at the same split, what at the same VRAM, and what the
layers cost that it displaced. From the stored runs alone."""

from __future__ import annotations

from collections.abc import Iterable

from specdec.metrics import ALL, BASELINE, rows
from specdec.stats import Estimate, estimate, judge, pair_generations
from specdec.store import Run, Sample
from specdec.types import Row

SAME_SPLIT, SAME_VRAM = "same split", "same VRAM"


def group_rows(runs: list[Run]) -> list[Row]:
    """A row for each card, engine and drafting strategy, over all workloads.

    ``same_split``: tok_s, speedup, its 95 % interval, verdict and split, from the run that has it beside `none`.
    ``same_vram``: the same against `none` at the split that `none` itself affords; that lies in another run, so the two
    did not alternate in time. ``displaced``: `none` at the strategy's own split over `none` at its own: what the layers
    that make room cost. None where a side is missing.
    """
    out: list[Row] = []
    for card in dict.fromkeys(_card(run) for run in runs):
        on_card = [run for run in runs if _card(run) == card]
        out += _card_rows(card, on_card)
    return out


def _card_rows(card: str, runs: list[Run]) -> list[Row]:
    found: list[Row] = []
    ratios: list[Estimate | None] = []
    same_split = [(run, r) for run in runs if SAME_SPLIT in run.meta["labels"]["arm"] for r in rows(run)]
    for home, row in ((run, r) for run, r in same_split if r["workload"] == ALL and r["strategy"] != BASELINE):
        key = row["engine"], row["strategy"], row["rollback"]
        own = next((run for run in runs if SAME_VRAM in run.meta["labels"]["arm"] and _samples(run, key)), home)
        plain_key = row["engine"], BASELINE, "auto"
        plain = min((r for r in runs if _samples(r, plain_key)), key=lambda r: _order(r), default=None)
        if plain and _order(own) == _order(plain):
            plain = own  # the same split: then the `none` that alternated with it
        base = _samples(plain, plain_key) if plain else []
        ratio = _ratio(_samples(own, key), base)
        ratios.append(ratio)
        displaced = _ratio(_samples(own, plain_key), base) if own is not plain else None
        found.append(
            {
                "card": card,
                "engine": row["engine"],
                "strategy": row["strategy"],
                "rollback": row["rollback"],
                "label": row["label"],
                "own_label": row["own_label"],
                "same_split": _split(home)
                | {k: row[k] for k in ("status", "tok_s", "speedup", "speedup_low", "speedup_high", "verdict")},
                "same_vram": _split(own) | {"run": own.id, "plain": plain and _split(plain)} | _numbers(ratio),
                "displaced": displaced.value if displaced else 1.0 if base else None,
            }
        )
    for row, verdict in zip(found, judge(ratios), strict=True):
        row["same_vram"]["verdict"] = verdict and verdict.text
    return found


def _ratio(side: list[Sample], base: list[Sample]) -> Estimate | None:
    pairs = pair_generations(side, base, "generation_s")
    return estimate(pairs) if pairs else None


def _numbers(ratio: Estimate | None) -> Row:
    low, high = (ratio.interval() if ratio else None) or (None, None)
    return {"speedup": ratio.value if ratio else None, "speedup_low": low, "speedup_high": high}


def _samples(run: Run, key: tuple[str, str, str]) -> list[Sample]:
    """An arm's good generations."""

    def mine(samples: Iterable[Sample]) -> Iterable[Sample]:
        return (s for s in samples if (s["engine"], s["strategy"], s["rollback"]) == key)

    return [s for s in mine(run.samples) if not s["warmup"] and s["status"] == "ok"]


def _split(run: Run) -> Row:
    model = run.meta["spec"]["model"]
    return {"n_cpu_moe": model["n_cpu_moe"], "gpu_layers": model["gpu_layers"], "run": run.id}


def _order(run: Run) -> tuple[int, int]:
    """By how little of the model lies in RAM: `none` at its own split comes first; and it has a run for that."""
    model = run.meta["spec"]["model"]
    layers = model["gpu_layers"]
    return model["n_cpu_moe"], -layers if layers >= 0 else -(1 << 30)


def _card(run: Run) -> str:
    return str(run.meta["labels"]["card"])
