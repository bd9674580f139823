"""Find the best setting in a grid: the whole grid where it is small, else Optuna's TPE; and say how much to believe it.

The objective is predicted tok/s (tokens over seconds, summed over prompts, as a comparison sums them), or, where no
costs are known, the mean acceptance length, which does not know that longer drafts cost more. A part of the prompts is
held out: settings are chosen on the others, and the choice is judged on these.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.errors import SpecdecError
from specdec.registry import Registry
from specdec.replay import grid
from specdec.replay.trace import Trace
from specdec.syntax import Call, Value, parse

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MOST_SETTINGS = 5_000
"""Grid up to which all of it is tried."""
TRIALS = 1_000
NEAR = (0.01, 0.02, 0.05)
_STARTUP = 64


class Scores:
    """What each setting did, by prompt: work and cost, float64 [prompts, 2].

    Cost is seconds, or target passes where there are no costs; work is the tokens that came of it.
    """

    def __init__(self, trace: Trace, timed: bool, held_out: float, seed: int) -> None:
        self._timed = timed
        self._prompt = {p["id"]: i for i, p in enumerate(trace.header["prompts"])}
        self._of_turn = [self._prompt[t.prompt] for t in trace.turns]
        self.workloads = list(dict.fromkeys(t.workload for t in trace.turns))
        workload = {t.prompt: t.workload for t in trace.turns}
        self.workload = np.array([self.workloads.index(workload[p]) for p in self._prompt])
        self.held_out = _hold_out(list(self._prompt), self.workload, held_out, seed)
        self.table: dict[str, Floats] = {}
        self.failures: dict[str, str] = {}

    @property
    def unit(self) -> str:
        """Of every value."""
        return "predicted tok/s" if self._timed else "tokens per target pass"

    def add(self, label: str, counts: list[list[Any]]) -> float:
        """Take one setting's counts; its value on the tuning prompts, nan if it failed anywhere."""
        sums = np.zeros((len(self._prompt), 2))
        for turn, n_output, pairs, seconds in counts:
            if isinstance(pairs, str):
                self.failures[label] = pairs
                return float("nan")
            if seconds is not None:
                part = float(n_output), sum(seconds.values())
            else:
                _, accepted, n = np.array(pairs, np.int64).reshape(-1, 3).T
                part = float(((accepted + 1) * n).sum()), float(n.sum())
            sums[self._of_turn[turn]] += part
        self.table[label] = sums
        return self.value(label, ~self.held_out)

    def value(self, label: str, prompts: Bools) -> float:
        """Work over cost on these prompts; nan where there is none."""
        work, cost = self.table[label][prompts].sum(axis=0)
        return float(work / cost) if cost > 0 else float("nan")

    def ranked(self, prompts: Bools) -> list[tuple[str, float]]:
        """Settings and their values on these prompts, best first; of equal ones that nearest to the defaults."""
        found = [(label, self.value(label, prompts)) for label in self.table]
        return sorted((f for f in found if not np.isnan(f[1])), key=lambda f: (-f[1], len(f[0]), f[0]))


def _hold_out(prompts: list[str], workload: npt.NDArray[Any], share: float, seed: int) -> Bools:
    """The held-out prompts: of each workload with 3 or more prompts the given share, at least one, chosen by hash."""
    held = np.zeros(len(prompts), bool)
    for w in np.unique(workload):
        own = np.flatnonzero(workload == w)
        if share <= 0 or len(own) < 3:
            continue
        order = sorted(own, key=lambda i: hashlib.sha256(f"{seed}/{prompts[i]}".encode()).digest())
        held[order[: min(len(own) - 1, max(1, round(share * len(own))))]] = True
    return held


@dataclass(frozen=True, slots=True)
class Space:
    """A grid that is too large to try in full."""

    calls: list[Call]
    registry: Registry


class Suggest:
    """Labels to try, chosen by Optuna from what was told. Deterministic with one process and one seed."""

    def __init__(self, space: Space, trials: int, seed: int, known: dict[str, float]) -> None:
        try:
            import optuna
        except ImportError as error:
            raise SpecdecError(
                "a grid of this size needs Optuna, which is not installed.",
                "pip install 'specdec[replay]', or a smaller grid.",
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=_STARTUP, multivariate=True, group=True, constant_liar=True
            )
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._optuna, self._space, self._trials = optuna, space, trials
        self._open: dict[str, Any] = {}
        self._known = known

    def labels(self) -> Iterator[str]:
        """New labels until the trials are spent, or nothing new turns up."""
        stale = 0
        while self._trials > 0 and stale < 200:
            trial = self._study.ask()
            label = self._label(trial)
            if label in self._known or label in self._open:
                stale += 1
                seen = self._known.get(label)
                self._tell(trial, float("nan") if seen is None else seen)
                continue
            stale = 0
            self._trials -= 1
            self._open[label] = trial
            yield label

    def tell(self, label: str, value: float) -> None:
        """What a label was worth."""
        self._known[label] = value
        trial = self._open.pop(label, None)
        if trial is not None:
            self._tell(trial, value)

    def _tell(self, trial: Any, value: float) -> None:
        failed = self._optuna.trial.TrialState.FAIL
        self._study.tell(trial, None if np.isnan(value) else value, failed if np.isnan(value) else None)

    def _label(self, trial: Any) -> str:
        calls, registry = self._space.calls, self._space.registry
        number = trial.suggest_categorical("strategy", list(range(len(calls)))) if len(calls) > 1 else 0
        return registry.label(self._choose(trial, calls[number], f"{number}"))

    def _choose(self, trial: Any, call: Call, path: str) -> Call:
        chosen: list[tuple[str, Value]] = []
        for key, choices in grid.axes(call, self._space.registry, search=True).items():
            index = trial.suggest_int(f"{path}.{key}", 0, len(choices) - 1) if len(choices) > 1 else 0
            chosen.append((key, choices[index]))
        nested = tuple(self._choose(trial, n, f"{path}.{i}") for i, n in enumerate(call.nested))
        return Call(call.name, nested, tuple(chosen))


def summary(scores: Scores, registry: Registry, defaults: list[str], grid_size: int) -> dict[str, Any]:
    """What the search found; all values in ``unit``, undefined ones null (docs/replay.md names the fields)."""
    tuning, held = ~scores.held_out, scores.held_out
    ranked = scores.ranked(tuning)
    if not ranked:
        first = next(iter(scores.failures.items()), ("", "no setting was tried"))
        raise SpecdecError(f"the search found nothing: {first[0]}: {first[1]}.")
    best, value = ranked[0]
    judged = [label for label in dict.fromkeys(["none", *defaults, best]) if label in scores.table]
    per_workload = [_workload(scores, i, best) for i in range(len(scores.workloads))]
    return {
        "unit": scores.unit,
        "settings": len(scores.table),
        "grid": grid_size,
        "failed": len(scores.failures),
        "first_failure": next((f"{label}: {what}" for label, what in scores.failures.items()), None),
        "tuning_prompts": int(tuning.sum()),
        "held_out_prompts": int(held.sum()),
        "best": {"strategy": best, "value": value, **_on_held_out(scores, best)},
        "compared": [_compared(scores, label) for label in judged],
        "top": [{"strategy": label, "value": v} for label, v in ranked[:10]],
        "workloads": per_workload,
        "flatness": _flatness(ranked, registry),
    }


def _workload(scores: Scores, number: int, overall: str) -> dict[str, Any]:
    of_it = ~scores.held_out & (scores.workload == number)
    best, value = scores.ranked(of_it)[0]
    theirs = scores.value(overall, of_it)
    held = scores.held_out & (scores.workload == number)
    gain = _or_none(scores.value(best, held) / scores.value(overall, held) - 1) if held.any() else None
    return {
        "workload": scores.workloads[number],
        "prompts": int(of_it.sum()),
        "best": best,
        "value": value,
        "overall_best": theirs,
        "loss": 1 - theirs / value,
        "held_out_gain": gain,
    }


def _compared(scores: Scores, label: str) -> dict[str, Any]:
    held = scores.held_out
    return {
        "strategy": label,
        "tuning": scores.value(label, ~held),
        "held_out": _or_none(scores.value(label, held)),
        "all": scores.value(label, np.ones_like(held)),
    }


def _on_held_out(scores: Scores, best: str) -> dict[str, Any]:
    """The chosen setting on prompts that did not choose it: its value, its rank, what the best there would have given."""
    if not scores.held_out.any():
        return {"held_out": None, "held_out_rank": None, "held_out_best": None, "held_out_best_strategy": None}
    ranked = scores.ranked(scores.held_out)
    values = [v for _, v in ranked]
    own = scores.value(best, scores.held_out)
    return {
        "held_out": own,
        "held_out_rank": 1 + sum(v > own for v in values),
        "held_out_best": values[0],
        "held_out_best_strategy": ranked[0][0],
    }


def _flatness(ranked: list[tuple[str, float]], registry: Registry) -> dict[str, Any]:
    """How many settings come near the best, and how far the options of those of its kind spread within 2 %.

    ``options``: option to [lowest, highest] within 2 %, [lowest, highest] tried; only those that were varied.
    """
    best, top = ranked[0]
    near = {f"{share:.0%}": sum(v >= (1 - share) * top for _, v in ranked) for share in NEAR}
    kind = _shape(parse(best)[0])
    tried: dict[str, list[float]] = {}
    close: dict[str, list[float]] = {}
    for label, value in ranked:
        call = parse(label)[0]
        if _shape(call) != kind:
            continue
        for key, option in _numbers(call, registry):
            tried.setdefault(key, []).append(option)
            if value >= (1 - NEAR[1]) * top:
                close.setdefault(key, []).append(option)
    varied = {k: [[min(close[k]), max(close[k])], [min(v), max(v)]] for k, v in tried.items() if min(v) < max(v)}
    return {"within": near, "of": len(ranked), "options": varied}


def _shape(call: Call) -> tuple[Any, ...]:
    return (call.name, *map(_shape, call.nested))


def _numbers(call: Call, registry: Registry, path: str = "") -> Iterator[tuple[str, float]]:
    """All options that are numbers, defaults included."""
    for key, value in registry.get(call.name).cls.Options(**dict(call.options)).model_dump().items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield path + key, value
    for nested in call.nested:
        yield from _numbers(nested, registry, f"{path}{nested.name}.")


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
