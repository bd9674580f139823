"""Hand cells to a worker process, one at a time, and replace it where it is lost: a failure costs its cell.

An arm that loses its worker three times in a row, each time a fresh one, or that cannot even be opened, is given up: its
other cells are failures too, with that reason, and the model is not loaded again for each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from specdec.arms import Arm, ArmKey
from specdec.errors import SpecdecError
from specdec.runner.order import WARMUP_TOKENS, Cell
from specdec.runner.process import WorkerLost, WorkerProcess
from specdec.runner.wire import Message
from specdec.runner.workers import Facts, Job, Workers
from specdec.store import Sample
from specdec.types import Limits, Prompt

LOST = ("crashed", "out-of-memory", "timed out")
"""Statuses of failures that end the worker process."""

PATIENCE = 3
"""So many lost workers in a row, and an arm is given up."""


class Supervisor:
    """Serves cells, whatever becomes of the processes that do the work.

    Args:
        job: the run.
        announce: takes one line for each thing worth telling (loads, losses).
    """

    def __init__(self, job: Job, announce: Callable[[str], None]) -> None:
        self._job, self._announce = job, announce
        self._workers = Workers(job, announce, self._give_up)
        self._prompts = {p.id: i for i, p in enumerate(job.prompts)}
        self.logs: Path | None = None
        """Where engines keep the logs of the processes that they start."""
        self._given_up: dict[ArmKey, tuple[str, str]] = {}
        self._losses: Counter[ArmKey] = Counter()

    def use(self, engine: str) -> Facts:
        """What this engine says of itself; it is loaded now."""
        self._workers.use(engine)
        return self._workers.facts[engine]

    @property
    def together(self) -> bool:
        """Whether each engine's worker stays while another's works; then their cells can take turns prompt by prompt."""
        return self._workers.together

    @together.setter
    def together(self, value: bool) -> None:
        self._workers.together = value

    @property
    def ram_limit(self) -> int:
        """Bytes that a worker may take beside file-mapped weights."""
        return self._workers.ram_limit

    def close(self) -> None:
        """Let the worker end; the next cell gets a fresh one."""
        self._workers.close()

    def kill(self) -> None:
        """End the worker at once."""
        self._workers.kill()

    def serve(self, cell: Cell) -> Iterator[Sample]:
        """The cell's samples as they are made, one a turn; a failure is a sample too.

        A cell that runs out of memory in a worker that has served other arms is run once more in a fresh one: what was
        left there may not be its own.
        """
        key = cell.arm.key
        if key in self._given_up:
            status, error = self._given_up[key]
            yield _head(cell) | _failure(status, error)
            return
        shared = bool(self._workers.use(cell.arm.engine).served - {key})
        for again in (shared, False):
            last: Sample = {}
            for last in self._exchange(cell):
                if not (again and last["status"] == "out-of-memory"):
                    yield last
            if last["status"] != "out-of-memory" or not again:
                break
            self._announce(
                f"{cell.arm.planned.label} on {cell.prompt.id} ran out of memory: once more in a fresh worker"
            )
            self.use(cell.arm.engine)
        self._account(cell.arm, last)

    def recall(self, samples: list[Sample]) -> None:
        """Count what an earlier process of this run lost, so that an arm stays given up."""
        arms = {a.key: a for facts in self._workers.facts.values() for a in facts.arms}
        for s in samples:
            arm = arms.get((s["engine"], s["strategy"], s["rollback"]))
            if arm is not None:
                self._account(arm, s)

    def measure(self, arm: Arm, prompt: Prompt, limits: Limits) -> Sample:
        """One generation that is not stored."""
        for sample in self._exchange(Cell(arm, prompt, 0, warmup=True), limits):
            if sample["status"] != "ok":
                raise SpecdecError(f"{arm.planned.label} on {prompt.id} failed: {sample['error']}")
        return sample

    def _exchange(self, cell: Cell, limits: Limits | None = None) -> Iterator[Sample]:
        """Have the worker serve the cell; where it is lost, the last sample says so and the worker is gone."""
        worker = self._workers.use(cell.arm.engine)
        process, order = worker.process, self._order(cell, limits)
        turn, failed, patience_s = 0, False, self._workers.limits.opening()
        try:
            process.log.clear()
            process.send({"cell": order})
            while "done" not in (message := process.receive(patience_s)):
                self._workers.pass_on(message)
                if "turn" in message:
                    turn, patience_s = message["turn"], order["limit_s"]
                elif "opening" in message:
                    patience_s = self._workers.limits.opening()
                elif "sample" in message:
                    sample = message["sample"]
                    failed = sample["status"] != "ok"
                    yield self._noted(cell, sample, process)
                    if sample["status"] == "out-of-memory":  # what is left in it is not to be trusted
                        self._workers.lose()
                        return
            worker.served.add(cell.arm.key)
        except WorkerLost as lost:
            self._workers.lose()
            if not failed:
                more = {"turn": turn, "exit_code": lost.exit_code, "limit_s": patience_s, "log": lost.log}
                yield _head(cell) | _failure(lost.status, lost.error) | more

    def _order(self, cell: Cell, limits: Limits | None) -> Message:
        """What the worker is told of a cell (worker.py, ``Server.cell``)."""
        spec, facts = self._job.spec, self._workers.facts[cell.arm.engine]
        if cell.warmup and limits is None:
            limits = Limits(min(WARMUP_TOKENS, spec.n_predict), spec.ignore_eos)
        n_predict = limits.n_predict if limits else spec.n_predict
        turns = 1 if cell.warmup else cell.prompt.turns
        n_prompt = facts.lengths[cell.prompt.id] + (turns - 1) * n_predict
        return {
            "arm": facts.arms.index(cell.arm),
            "prompt": self._prompts[cell.prompt.id],
            "head": _head(cell),
            "turns": turns,
            "logs": self.logs and str(self.logs),
            "n_predict": limits and limits.n_predict,
            "ignore_eos": limits and limits.ignore_eos,
            "limit_s": self._workers.limits.generation(cell.arm.key, n_prompt, n_predict),
        }

    def _noted(self, cell: Cell, sample: Sample, process: WorkerProcess) -> Sample:
        """Learn from a sample; a failure takes the last log lines along."""
        if sample["status"] == "ok":
            self._workers.limits.measured(cell.arm.key, sample)
            return sample
        return _failure(sample["status"], sample["error"]) | {"log": list(process.log)} | sample

    def _account(self, arm: Arm, last: Sample) -> None:
        """Give an arm up that loses one worker after the other."""
        if last["status"] not in LOST:
            self._losses[arm.key] = 0
            return
        self._losses[arm.key] += 1
        if self._losses[arm.key] >= PATIENCE and arm.key not in self._given_up:
            self._give_up(arm, last["status"], f"given up after {PATIENCE} failures in a row: {last['error']}")

    def _give_up(self, arm: Arm, status: str, error: str) -> None:
        self._given_up[arm.key] = (status, error)
        self._announce(f"FAIL {arm.planned.label}: {error}")


def _head(cell: Cell) -> Sample:
    return {
        "engine": cell.arm.engine,
        "strategy": cell.arm.planned.label,
        "rollback": cell.arm.rollback,
        "workload": cell.prompt.workload,
        "prompt": cell.prompt.id,
        "turn": 0,
        "repeat": cell.repeat,
        "launch": cell.launch,
        "warmup": cell.warmup,
        "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    }


def _failure(status: str, error: str) -> Sample:
    """The fields of a failure; ``error`` is one line."""
    fixed: Sample = {"traceback": "", "machine": None, "exit_code": None, "limit_s": None, "log": []}
    return {"status": status, "error": error, **fixed}
