"""Prediction beside observation: a profile against the steps that a run recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from specdec.errors import SpecdecError
from specdec.profile.predict import BASELINE, Arm, first_token_seconds, predict_steps
from specdec.profile.stored import Profile
from specdec.store import Run, Sample, read_run
from specdec.types import PHASES

FLAG = 0.10
"""Differences above this share are flagged."""
CLEAR = 0.05
"""Speedups further than this from 1 are expected to be predicted on the right side of 1."""
_OF_A_DRAFT = frozenset({"n_max", "n_min", "p_min", "model"})
"""Options that change how much is drafted, not what a draft token costs; the model is compared by its header."""
_NOT_COSTS = frozenset({"ctx_size", "threads", "load_mode"})


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """One cell: a strategy on a workload.

    Args:
        observed, predicted: tokens a second; predicted None where the profile does not reach, ``why`` says where.
        phases: by phase (predicted, observed) milliseconds a step.
        held: share of the steps at depths beyond the measured ones.
        speedups: (observed, predicted) against ``none`` on the same workload; a machine that was slower throughout the
            run than in the profile leaves them as they are.
    """

    workload: str
    strategy: str
    rollback: str
    observed: float | None
    predicted: float | None
    why: str
    phases: dict[str, tuple[float, float]]
    held: float
    speedups: tuple[float | None, float | None] = (None, None)

    @property
    def difference(self) -> float | None:
        """Predicted over observed, less 1."""
        return self.predicted / self.observed - 1 if self.predicted and self.observed else None

    @property
    def flagged(self) -> bool:
        """Whether prediction and observation are further apart than they should be."""
        return self.difference is not None and abs(self.difference) > FLAG

    @property
    def speedup_difference(self) -> float | None:
        """Predicted over observed speedup, less 1."""
        observed, predicted = self.speedups
        return predicted / observed - 1 if predicted and observed else None

    @property
    def right_side(self) -> bool | None:
        """Whether gain or loss was predicted rightly; None where the observed effect is below ``CLEAR``."""
        observed, predicted = self.speedups
        if not observed or not predicted or abs(observed - 1) <= CLEAR:
            return None
        return (observed > 1) == (predicted > 1)


def prediction_rows(run: Run, profile: Profile, elsewhere: bool = False) -> list[PredictionRow]:
    """A row for each strategy and workload of a run, from its recorded steps, in the order of the run.

    ``elsewhere``: the run is another machine's, so that what it observed is of no use here and left out.
    """
    cells: dict[tuple[str, str, str], list[Sample]] = defaultdict(list)
    for s in own_samples(run):
        cells[s["workload"], s["strategy"], s["rollback"]].append(s)
    arms = {(a["strategy"], a["rollback"]): a["snapshots"] for a in run.meta["arms"] if a["engine"] == "specdec"}
    workloads = dict.fromkeys(workload for workload, _, _ in cells)
    described = {s["label"]: s for s in run.meta["strategies"]}
    rows = []
    for workload in workloads:
        for (label, mode), snapshots in arms.items():
            if group := cells.get((workload, label, mode)):
                arm = _arm(described[label], mode, snapshots)
                why = "" if arm.strategy == BASELINE else unlike_strategy(described[label], profile)
                rows.append(_row((workload, label, mode), group, profile, arm, why, elsewhere))
    return [_with_speedups(r, rows) for r in rows]


def own_samples(run: Run) -> list[Sample]:
    """The generations that count and that specdec's own engine made: a profile knows no other."""
    return [s for s in run.samples if s["engine"] == "specdec" and s["status"] == "ok" and not s["warmup"]]


def depth_of(run: Run) -> int:
    """Tokens of context at the middle of a typical answer; 0 where nothing was generated."""
    return int(np.median([s["n_prompt"] + len(s["token_ids"]) // 2 for s in own_samples(run)] or [0]))


def pass_costs(run: Run, profile: Profile) -> dict[int, float]:
    """The profile's T(n), seconds, by n, at the measured depth nearest to the run's."""
    return {n: s.median for n, s in profile.curve(depth_of(run)).items()}


def _with_speedups(row: PredictionRow, rows: list[PredictionRow]) -> PredictionRow:
    plain = next((r for r in rows if r.workload == row.workload and r.strategy == BASELINE), None)
    if plain is None or row is plain:
        return row
    pairs = ((row.observed, plain.observed), (row.predicted, plain.predicted))
    observed, predicted = (a / b if a and b else None for a, b in pairs)
    return replace(row, speedups=(observed, predicted))


def drift(rows: list[PredictionRow]) -> float | None:
    """Predicted over observed speed of plain decoding, less 1 (geometric mean of the workloads): nothing but the machine
    can make that differ. None without plain decoding."""
    plain = [np.log1p(r.difference) for r in rows if r.strategy == BASELINE and r.difference is not None]
    return float(np.expm1(np.mean(plain))) if plain else None


def mismatches(run: Run, profile: Profile) -> list[str]:
    """What differs between the run's and the profile's model, machine and settings; empty where the profile fits."""
    theirs, ours = _settings(run.meta), _settings(profile.meta)
    return [name for name in theirs if theirs[name] != ours[name]]


def find_profile(run: Run, results: Path) -> Profile | None:
    """The newest finished profile under ``results`` that fits the run."""
    return next((found for found in _profiles(results) if not mismatches(run, found)), None)


def newest_profile(results: Path) -> Profile:
    """The newest finished profile under ``results`` that measured a strategy that drafts, else the newest."""
    newest: Profile | None = None
    for found in _profiles(results):
        if found.strategies:
            return found
        newest = newest or found
    if newest is not None:
        return newest
    raise SpecdecError(f"there is no profile under {results}.", "Take one: specdec profile --target MODEL.gguf.")


def unlike_strategy(described: dict[str, Any], profile: Profile) -> str:
    """Why the profile says nothing about a run's strategy; empty where it does."""
    name = described["name"]
    ours = [s for s in profile.meta["strategies"] if s["name"] == name]
    if name not in profile.strategies or not ours:
        return "not measured"
    if described["file_sha256"] != ours[0]["file_sha256"]:
        return "its file changed"
    if (described["model"] or {}).get("header_sha256") != (ours[0]["model"] or {}).get("header_sha256"):
        return "another draft model"
    options, measured = described["options"], ours[0]["options"]
    other = [o for o in options if o not in _OF_A_DRAFT and options[o] != measured.get(o)]
    return f"measured with another {', '.join(other)}" if other else ""


def _arm(described: dict[str, Any], mode: str, snapshots: int) -> Arm:
    options = described["options"]
    return Arm(described["name"], mode, snapshots, int(options.get("n_max", 0)), float(options.get("p_min", 0.0)))


def _row(
    cell: tuple[str, str, str], group: list[Sample], profile: Profile, arm: Arm, why: str, elsewhere: bool
) -> PredictionRow:
    tokens, seconds = sum(len(s["token_ids"]) for s in group), sum(s["generation_s"] or 0.0 for s in group)
    steps = sum(len(s["steps"]["drafted"]) for s in group)
    observed = None if elsewhere or not seconds else tokens / seconds  # a replay without costs took no time
    if why:
        return PredictionRow(*cell, observed, None, why, {}, 0.0)
    total, held = dict.fromkeys(PHASES, 0.0), 0
    for s in group:
        log = s["steps"]
        for phase, values in predict_steps(log["drafted"], log["accepted"], profile, arm, s["n_prompt"]).items():
            total[phase] += float(values.sum())
        total["sample"] += first_token_seconds(profile, s["n_prompt"])
        at = s["n_prompt"] + np.cumsum(np.add(log["accepted"], 1))
        held += int(((at < profile.depths[0]) | (at > profile.depths[-1])).sum())
    predicted = tokens / sum(total.values())
    unknown = [phase for phase in PHASES if not np.isfinite(total[phase])]
    why = f"{', '.join(unknown)} not measured at these lengths" if unknown else ""
    per_step = 1e3 / max(1, steps)
    phases = {p: (total[p] * per_step, sum(s["phase_s"][p] for s in group) * per_step) for p in PHASES}
    return PredictionRow(*cell, observed, None if unknown else predicted, why, phases, held / max(1, steps))


def _settings(meta: dict[str, Any]) -> dict[str, Any]:
    """What a profile and a run must have in common."""
    machine, model = meta["environment"], dict(meta["spec"]["model"])
    return {
        "model": meta["model"]["header_sha256"],
        "processor": machine["cpu"],
        "card": meta["labels"]["card"],
        "llama-cpp-python": machine["packages"]["llama-cpp-python"],
        "threads": meta["context"]["threads"],
        "sampling": meta["labels"]["sampling"],
        "counting experts": meta["spec"].get("count_experts", False),
        "load mode": model.get("load_mode") == "none" and meta["labels"]["card"] != "CPU",  # to a CPU it is all one
        "GGML_* variables": machine.get("ggml_variables", []),
        "model options": {k: v for k, v in model.items() if k not in _NOT_COSTS},
    }


def _profiles(results: Path) -> Iterator[Profile]:
    """The finished profiles under ``results``, the newest first."""
    for folder in sorted((p.parent for p in results.glob("*/run.json")), reverse=True):
        if (found := _profile(folder)) is not None:
            yield found


def _profile(folder: Path) -> Profile | None:
    """The finished profile in this folder, or None; other kinds of runs are not read whole."""
    try:
        meta = orjson.loads((folder / "run.json").read_bytes())
        if meta["kind"] != "profile" or meta["status"] != "finished":
            return None
        return Profile(read_run(folder))
    except (SpecdecError, KeyError, orjson.JSONDecodeError):
        return None  # another schema, or damaged: no profile that could be used
