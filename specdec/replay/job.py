"""``specdec replay``: start, resume, search; ends in a stored run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from specdec import store
from specdec.command import compare_command
from specdec.errors import SpecdecError
from specdec.metrics import rows
from specdec.registry import Registry
from specdec.replay import grid, worker
from specdec.replay.recorded import Tape, build
from specdec.replay.run import (
    Replay,
    ReplayOptions,
    Watcher,
    check_same,
    is_whole,
    keep,
    labels_of,
    meta,
    prepare,
    run_counts,
    run_whole,
    stored_counts,
)
from specdec.replay.samples import samples_of_counts
from specdec.replay.search import MOST_SETTINGS, TRIALS, Scores, Space, Suggest, summary
from specdec.replay.trace import read_trace
from specdec.types import Row

COUNTS = "settings.jsonl"


def replay(options: ReplayOptions, results: Path, watcher: Watcher) -> Path:
    """Run a replay from the start; returns the run's folder. The costs may be a run under ``results``, by its id."""
    if options.costs and not Path(options.costs).exists():
        try:
            options = options.model_copy(update={"costs": str(store.find_run(options.costs, results))})
        except SpecdecError as error:
            raise SpecdecError(f"--costs {options.costs}: there is no such file, and {error.what}") from error
    job = _Job(options)
    with store.create(results, job.meta) as writer:
        watcher.announce(f"Writing {writer.folder}")
        return job.run(writer, set(), watcher)


def resume(run: store.Run, watcher: Watcher) -> Path:
    """Finish an interrupted replay."""
    if run.finished:
        raise SpecdecError(f"{run.folder} is finished.", f"Read it with: specdec report {run.folder}")
    job = _Job(ReplayOptions.model_validate(run.meta["trace"]["options"]))
    check_same(job.replay, run)
    turns = len(job.replay.trace.turns)
    seen: dict[str, int] = {}
    for sample in run.samples:
        seen[sample["strategy"]] = seen.get(sample["strategy"], 0) + 1
    done = {label for label, n in seen.items() if n == turns}
    with store.reopen(run) as writer:
        return job.run(writer, done, watcher)


class _Job:
    def __init__(self, options: ReplayOptions) -> None:
        registry = Registry(options.strategy_files)
        calls = grid.read(options.strategies)
        self.grid_size = grid.size(calls, registry, options.search)
        self.sampled = self.grid_size > MOST_SETTINGS or bool(options.trials and options.trials < self.grid_size)
        if self.sampled and not options.search:
            raise SpecdecError(
                f"the grid has {self.grid_size:,} settings.", "Use --search, which tries the promising ones, or fewer."
            )
        self.defaults = [registry.label(c) for c in grid.defaults(calls, registry)]
        start = ["none", *self.defaults]
        self.labels = list(dict.fromkeys(start)) if self.sampled else labels_of(options, registry)
        self.trials = (options.trials or TRIALS) if self.sampled else 0
        self.n_settings = len(self.labels) + self.trials
        self.calls = [c for call in calls for c in grid.opened(call)]
        self.replay: Replay = prepare(options, self.n_settings)
        for label in self.labels[:64]:
            build(registry.plan(label)[-1], self.replay.trace, Tape())  # refuse now what cannot be replayed
        self.whole = is_whole(self.n_settings, self.replay.trace) and not self.sampled
        self.meta = meta(self.replay, self.labels if self.whole else [], self.n_settings * len(self.replay.trace.turns))

    def run(self, writer: store.RunWriter, done: set[str], watcher: Watcher) -> Path:
        try:
            if self.whole and not self.replay.options.search:
                run_whole(self.replay, self.labels, writer, done, watcher)
            else:
                self._search(writer, done, watcher)
        except KeyboardInterrupt:
            watcher.announce(f"Interrupted. Finish it with: specdec resume {writer.folder}")
            raise
        writer.finish()
        return writer.folder

    def _search(self, writer: store.RunWriter, done: set[str], watcher: Watcher) -> None:
        """Counts of every setting, then full samples of those that matter."""
        options, trace = self.replay.options, self.replay.trace
        scores = Scores(trace, self.replay.costs is not None, options.held_out, options.seed)
        file = writer.folder / COUNTS
        known = {label: scores.add(label, counts) for label, counts in stored_counts(file)}
        suggest = (
            Suggest(Space(self.calls, self.replay.registry), self._left(known), options.seed, known)
            if self.sampled
            else None
        )
        todo = self._todo(known, suggest)
        n_known = len(known)
        for label, counts in run_counts(self.replay, todo, file, self.n_settings, n_known, watcher):
            value = scores.add(label, counts)
            if suggest is not None:
                suggest.tell(label, value)
        found = summary(scores, self.replay.registry, self.defaults, self.grid_size)
        found["confirm"] = confirm(self.replay, self.defaults, found)
        if (costs := self.replay.costs) is not None:
            found["costs"] = {"name": costs.name, "card": costs.card, "lengths": costs.lengths}
        writer.meta["search"] = found
        self._keep_best(writer, done, found)

    def _left(self, known: dict[str, float]) -> int:
        return max(0, self.trials - sum(label not in self.labels for label in known))

    def _todo(self, known: dict[str, float], suggest: Suggest | None) -> Iterator[str]:
        yield from [label for label in self.labels if label not in known]
        if suggest is not None:
            yield from suggest.labels()

    def _keep_best(self, writer: store.RunWriter, done: set[str], found: dict[str, Any]) -> None:
        best = [found["best"]["strategy"], *(w["best"] for w in found["workloads"])]
        labels = list(dict.fromkeys(["none", *self.defaults, *best]))
        bench = worker.Bench(self.replay.plan, self.replay.trace)
        for label in labels:
            if label not in done:
                keep(self.replay, label, bench.run(label), writer)
        writer.meta.update({k: v for k, v in meta(self.replay, labels, 0).items() if k in ("arms", "strategies")})


_SAME = ("target", "workloads", "prompt_files", "limit", "seed", "ignore_eos", "thinking", "stop", "sampling", "model")
"""Options of the recording that hold for its confirmation too."""


def confirm(replay: Replay, defaults: list[str], found: dict[str, Any]) -> str:
    """The live command that puts the prediction to the test: default and best on the same prompts."""
    spec = replay.trace.header["spec"]
    settings = ",".join(dict.fromkeys([*defaults, found["best"]["strategy"]]))
    drafting = [name for name, word in (("draft", "draft"), ("mtp_model", "mtp")) if word in settings]
    asked = {name: spec[name] for name in (*_SAME, *drafting) if name in spec}
    files = list(replay.options.strategy_files)
    own = {"strategies": settings, "strategy_files": files, "n_predict": replay.plan.n_predict}
    return compare_command(asked | own)


def all_rows(run: store.Run) -> Iterator[Row]:
    """Rows of every setting of a run, also of those of which it stores counts alone; one setting in memory at a time."""
    file = run.folder / COUNTS
    if not file.exists():
        yield from rows(run)
        return
    options = ReplayOptions.model_validate(run.meta["trace"]["options"])
    trace = read_trace(Path(options.trace))
    baseline = [s for s in run.samples if s["strategy"] == "none"]
    for label, counts in stored_counts(file):
        yield from _rows_of(run, label, samples_of_counts(label, counts, trace), baseline)


def _rows_of(run: store.Run, label: str, own: Iterable[store.Sample], baseline: list[store.Sample]) -> Iterator[Row]:
    labels = ["none"] if label == "none" else ["none", label]
    arms = [{"engine": "specdec", "strategy": x, "rollback": "auto", "snapshots": 0} for x in labels]
    alone = dataclasses.replace(
        run, meta=run.meta | {"arms": arms}, samples=baseline if label == "none" else [*baseline, *own]
    )
    yield from (row for row in rows(alone) if row["strategy"] == label)
