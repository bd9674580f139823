"""Compare and resume: the cells of a plan that are not stored yet, one by one, each stored before the next begins."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from time import sleep

from specdec.environment import gpus
from specdec.errors import SpecdecError
from specdec.monitor import system
from specdec.runner.order import WARMUP_TOKENS, CellKey
from specdec.runner.plan import Observer, Plan, describe, prepare, what_changed
from specdec.runner.schedule import QUICK_SECONDS, Schedule, done_cells
from specdec.spec import RunSpec, stored_spec
from specdec.store import Run, RunWriter, Sample, check_writable, create, reopen
from specdec.types import Limits


def compare(spec: RunSpec, results: Path, observer: Observer, launches: int | None = None) -> Path:
    """Run a comparison from the start; returns the run's folder.

    ``launches``: stop after so many of the run's launches; ``resume`` goes on. None: all of them.
    """
    check_writable(results)
    plan = prepare(spec, observer)
    try:
        with create(results, describe(plan)) as writer:
            observer.announce(f"Writing {writer.folder}")
            return _work(plan, writer, set(), [], observer, launches)
    finally:
        plan.supervisor.kill()


def resume(run: Run, observer: Observer, retry_failed: bool = False, launches: int | None = None) -> Path:
    """Finish an interrupted run, in the same order, with the same prompts and seed.

    Cells that failed are done, too, unless ``retry_failed``; then a finished run may be taken up again. ``launches`` as in
    ``compare``.
    """
    if run.finished and not (retry_failed and any(s["status"] != "ok" for s in run.samples)):
        what = "has no failed cells" if retry_failed else "is finished"
        raise SpecdecError(f"{run.folder} {what}.", f"Read it with: specdec report {run.folder}")
    plan = prepare(stored_spec(run.meta["spec"]), observer)
    try:
        what_differs = what_changed(run.meta, describe(plan))
        if what_differs:
            raise SpecdecError(f"{run.folder}: the {what_differs} changed since it was started.", "Start a new run.")
        if not retry_failed:
            plan.supervisor.recall(run.samples)
        with reopen(run) as writer:
            return _work(plan, writer, done_cells(run, retry_failed), list(run.samples), observer, launches)
    finally:
        plan.supervisor.kill()


def estimate_seconds(plan: Plan) -> float:
    """About a run's time, from one short generation of the first prompt: plain decoding, no early stops, no loading."""
    spec, plain = plan.spec, next(a for a in plan.arms if a.planned.label == "none")
    shortest = min(plan.prompts, key=lambda p: plan.lengths[p.id])
    g = plan.supervisor.measure(plain, shortest, Limits(n_predict=min(8, spec.n_predict), ignore_eos=True))
    per_prompt_token = g["prefill_s"] / max(1, g["n_prompt"])
    per_token = g["generation_s"] / max(1, len(g["token_ids"]) - 1)
    total = 0.0
    for cell in plan.cells:
        tokens = WARMUP_TOKENS if cell.warmup else spec.n_predict * cell.prompt.turns
        total += plan.lengths[cell.prompt.id] * per_prompt_token + tokens * per_token
    total = min(total, QUICK_SECONDS) if spec.quick else total
    return total + 60 * spec.launch_pause * (spec.launches - 1)


def pause(spec: RunSpec, observer: Observer) -> None:
    """Wait between two launches, as long as the run asks for: what changes meanwhile (temperature, other programs,
    neighbours on a shared machine) is then part of what differs between launches, and of the intervals."""
    if spec.launch_pause:
        until = datetime.now() + timedelta(minutes=spec.launch_pause)
        observer.announce(f"A pause of {spec.launch_pause:g} min before the next launch, until {until:%H:%M}")
        sleep(60 * spec.launch_pause)


def _work(
    plan: Plan, writer: RunWriter, done: set[CellKey], stored: list[Sample], observer: Observer, launches: int | None
) -> Path:
    schedule = Schedule(plan, done, stored, launches)
    plan.supervisor.logs = writer.folder.resolve() / "logs"
    total, stored_cells = len(plan.cells), len(plan.cells) - schedule.left
    observer.start(total, stored_cells, schedule.pauses_s())
    launch: int | None = None
    try:
        for made, cell in enumerate(schedule, stored_cells):
            if launch is not None and cell.launch != launch:
                plan.supervisor.close()  # the next cell gets a fresh process
                pause(plan.spec, observer)
                observer.start(total, made, schedule.pauses_s(cell.launch))
            launch = cell.launch
            samples = []
            for sample in plan.supervisor.serve(cell):
                writer.append(sample)
                samples.append(sample)
            stored += samples
            observer.cell(cell.arm, cell.prompt, [s for s in samples if s["warmup"] == cell.warmup])
        plan.supervisor.close()
        if schedule.whole:
            writer.finish(environment_at_end=system.state() | {"gpus": gpus()}, **schedule.outcome())
    except BaseException as error:
        how = "Interrupted" if isinstance(error, KeyboardInterrupt) else "Stopped"
        observer.announce(f"{how}. Finish it with: specdec resume {writer.folder}")
        raise
    return writer.folder
