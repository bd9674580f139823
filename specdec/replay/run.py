"""A replay from start to end: settings out of grids, spread over processes, stored as a run that report reads.

A run of few settings stores every step, as a live run does. A large grid would not fit on a disk that way: it stores
counts (``settings.jsonl``: how many steps drafted d and accepted a, by turn), from which all rows can be made, and full
samples for the settings that matter. Nothing of a setting stays in memory once it is stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import orjson
import psutil
from pydantic import Field

from specdec import kernels, store
from specdec.environment import describe_machine, describe_strategy
from specdec.errors import SpecdecError
from specdec.registry import Registry
from specdec.replay import grid, worker
from specdec.replay.cost import CostModel, load_costs
from specdec.replay.samples import samples
from specdec.replay.trace import Trace, read_trace
from specdec.spec import MOST, Checked

KEPT_WHOLE = 3_000_000
"""Settings x trace tokens up to which every step of every setting is stored (about 60 MB)."""
_WHOLE_SETTINGS = 8
_FAST_FROM = 300_000
"""Settings x trace tokens from which compiled kernels pay for the import of Numba."""
_PARALLEL_FROM = 3_000_000
"""Settings x trace tokens from which more processes pay for their start, with compiled kernels."""


class ReplayOptions(Checked):
    """What is asked of a replay; all that a resumed one needs."""

    trace: str
    strategies: str = "ngram"
    strategy_files: tuple[str, ...] = ()
    n_predict: int | None = Field(None, ge=1, le=MOST)
    carry_state: bool = False
    costs: str = ""
    jobs: int = Field(0, ge=0, le=1024)
    search: bool = False
    trials: int = Field(0, ge=0, le=MOST)
    held_out: float = Field(0.25, ge=0.0, lt=1.0)
    seed: int = Field(0, ge=0, le=MOST)


class Watcher(Protocol):
    """Told how a replay goes."""

    def announce(self, line: str) -> None:
        """Something worth a line."""

    def start(self, total: int, done: int) -> None:
        """``total`` settings, ``done`` of which are stored already."""

    def setting(self, label: str) -> None:
        """One setting is stored."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay that is about to run."""

    options: ReplayOptions
    trace: Trace
    registry: Registry
    costs: CostModel | None
    plan: worker.Plan
    jobs: int


def prepare(options: ReplayOptions, n_settings: int) -> Replay:
    """Read trace and costs; decide about kernels and processes."""
    trace = read_trace(Path(options.trace))
    costs = load_costs(Path(options.costs)) if options.costs else None
    work = n_settings * max(1, trace.n_tokens)
    fast = kernels.available() and work >= _FAST_FROM
    recorded = int(trace.header["spec"]["n_predict"])
    n_predict = min(recorded, options.n_predict or recorded)
    plan = worker.Plan(Path(options.trace), options.strategy_files, n_predict, options.carry_state, fast, options.costs)
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    enough = _PARALLEL_FROM if fast else _FAST_FROM
    jobs = options.jobs or (min(cores, n_settings) if work >= enough else 1)
    return Replay(options, trace, Registry(options.strategy_files), costs, plan, jobs)


def labels_of(options: ReplayOptions, registry: Registry) -> list[str]:
    """Canonical labels of all settings: ``none``, each named strategy's default where it is searched, the grid."""
    calls = grid.read(options.strategies)
    wanted = ["none"]
    if options.search:
        wanted += [registry.label(c) for c in grid.defaults(calls, registry)]
    wanted += [registry.label(c) for c in grid.expand(calls, registry, options.search)]
    return list(dict.fromkeys(wanted))


def is_whole(n_settings: int, trace: Trace) -> bool:
    """Whether every step of every setting is stored."""
    return n_settings <= _WHOLE_SETTINGS or n_settings * trace.n_tokens <= KEPT_WHOLE


def execute(replay: Replay, labels: Iterable[str], small: bool) -> Iterator[tuple[str, Any]]:
    """(label, results) of each setting as it is done: ``TurnResult``s, or their counts where ``small``.

    Settings are handed out as processes get free, so labels may be a generator and nothing piles up.
    """
    if replay.jobs == 1:
        bench = worker.Bench(replay.plan, replay.trace)
        for one in labels:
            yield one, bench.count(one) if small else bench.run(one)
        return
    with ProcessPoolExecutor(replay.jobs, get_context("spawn"), worker.start, (replay.plan,)) as pool:
        pending: dict[Any, str] = {}
        todo = iter(labels)
        label: str | None
        try:
            while True:
                while len(pending) < 2 * replay.jobs and (label := next(todo, None)) is not None:
                    pending[pool.submit(worker.work, label, small)] = label
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        finally:
            for future in pending:
                future.cancel()


def run_whole(replay: Replay, labels: list[str], writer: store.RunWriter, done: set[str], watcher: Watcher) -> None:
    """Store every step of every setting."""
    watcher.start(len(labels), len(done))
    for label, results in execute(replay, [x for x in labels if x not in done], small=False):
        keep(replay, label, results, writer)
        watcher.setting(label)


def keep(replay: Replay, label: str, results: list[worker.TurnResult], writer: store.RunWriter) -> None:
    """Append the samples of one setting."""
    for sample in samples(label, results, replay.trace):
        writer.append(sample)


def run_counts(
    replay: Replay, labels: Iterable[str], file: Path, total: int, done: int, watcher: Watcher
) -> Iterator[tuple[str, list[list[Any]]]]:
    """Append the counts of each setting to ``file``, and pass them on."""
    watcher.start(total, done)
    with open(file, "ab") as out:
        for label, counts in execute(replay, labels, small=True):
            out.write(orjson.dumps({"strategy": label, "turns": counts}) + b"\n")
            out.flush()
            watcher.setting(label)
            yield label, counts


def stored_counts(file: Path) -> Iterator[tuple[str, list[list[Any]]]]:
    """(label, counts) of what an earlier process stored; a torn last line is cut off."""
    if not file.exists():
        return
    whole = file.read_bytes().rfind(b"\n") + 1
    with open(file, "r+b") as out:
        out.truncate(whole)
    with open(file, "rb") as lines:
        for line in lines:
            row = orjson.loads(line)
            yield row["strategy"], row["turns"]


def meta(replay: Replay, labels: list[str], cells: int) -> dict[str, Any]:
    """What run.json says: a comparison, labelled as a trace."""
    header, options = replay.trace.header, replay.options
    planned = [replay.registry.plan(label)[-1] for label in labels]
    card = replay.costs.card if replay.costs else header["labels"]["card"]
    return {
        "kind": "compare",
        "spec": header["spec"] | {"strategies": options.strategies, "n_predict": replay.plan.n_predict},
        "given": options.model_dump(mode="json", exclude_defaults=True),
        "labels": {
            "engine": "specdec",
            "label": "replay",
            "card": card,
            "arm": "same split",
            **{k: header["labels"][k] for k in ("sampling", "thinking", "ignore_eos")},
            "carry_state": options.carry_state,
        },
        "strategies": [describe_strategy(p, with_model=False) for p in planned],
        "arms": [{"engine": "specdec", "strategy": label, "rollback": "auto", "snapshots": 0} for label in labels],
        "prompts_sha256": header["prompts_sha256"],
        "prompts": header["prompts"],
        "model": header["model"],
        "context": header["context"],
        "environment": describe_machine(),
        "cells": cells,
        "trace": {
            "sha256": header["sha256"],
            "recorded_on": header["environment"],
            "costs": replay.costs.name if replay.costs else None,
            "options": options.model_dump(mode="json"),
        },
    }


def check_same(replay: Replay, run: store.Run) -> None:
    """A resumed replay must be on the same trace."""
    if run.meta["trace"]["sha256"] != replay.trace.header["sha256"]:
        raise SpecdecError(f"{run.folder}: the trace changed since it was started.", "Start a new replay.")
