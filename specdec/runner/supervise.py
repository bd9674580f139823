"""Hand cells to a worker process, one at a time, and replace it where it is lost: a failure costs its cell.

An arm that loses its worker three times in a row, each time a fresh one, or that cannot even be opened, is given up: its
other cells are failures too, with that reason, and the model is not loaded again for each of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from specdec.arms import Arm, ArmKey
from specdec.errors import OutOfMemory, SpecdecError
from specdec.registry import Planned
from specdec.runner.limits import TimeLimits
from specdec.runner.order import WARMUP_TOKENS, Cell
from specdec.runner.process import WorkerLost, WorkerProcess, automatic_ram_limit
from specdec.runner.wire import Message
from specdec.spec import RunSpec
from specdec.store import Sample
from specdec.types import Limits, Prompt

LOST = ("crashed", "out-of-memory", "timed out")
"""Statuses of failures that end the worker process."""

PATIENCE = 3
"""So many lost workers in a row, and an arm is given up."""

_RELOAD_AFTER_S = 3.0


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker process of a run is told."""

    spec: RunSpec
    planned: list[Planned]
    prompts: list[Prompt]
    model_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine has said about itself once it had loaded the model."""

    arms: list[Arm]
    lengths: dict[str, int]
    settings: dict[str, Any]
    sampling: str
    card: str
    description: str


@dataclass(slots=True)
class _Worker:
    engine: str
    process: WorkerProcess
    served: set[ArmKey] = field(default_factory=set)


class Supervisor:
    """One worker process at a time.

    Args:
        job: the run.
        announce: takes one line for each thing worth telling (loads, losses).
    """

    def __init__(self, job: Job, announce: Callable[[str], None]) -> None:
        self._job, self._announce = job, announce
        self.ram_limit = (job.spec.ram_limit << 20) or automatic_ram_limit()
        self.limits = TimeLimits(job.spec.cell_timeout)
        self._prompts = {p.id: i for i, p in enumerate(job.prompts)}
        self._facts: dict[str, Facts] = {}
        self._worker: _Worker | None = None
        self._given_up: dict[ArmKey, tuple[str, str]] = {}
        self._losses: Counter[ArmKey] = Counter()
        self._told: set[str] = set()

    # ---- processes

    def use(self, engine: str) -> Facts:
        """Have a worker with this engine; the first time every strategy is opened, to see what cannot work.

        Raises ``SpecdecError`` where the user has to mend something, or plain decoding itself does not work.
        """
        if self._worker is not None and self._worker.engine == engine:
            return self._facts[engine]
        self.close()
        skip: set[int] = set()
        while engine not in self._facts:
            self._open(engine, skip)
        if self._worker is None:
            self._reopen(engine)
        return self._facts[engine]

    def close(self) -> None:
        """Let the worker end."""
        if self._worker is not None:
            self._worker.process.close()
        self._worker = None

    def kill(self) -> None:
        """End the worker at once."""
        if self._worker is not None:
            self._worker.process.kill()
        self._worker = None

    def _open(self, engine: str, skip: set[int]) -> None:
        """Load and open everything but ``skip``; an arm that takes the worker along is added to it."""
        arms: list[Arm] = []
        opening: int | None = None
        try:
            for message in self._opened(engine, skip, everything=True):
                if "facts" in message:
                    facts = self._read_facts(engine, message["facts"])
                    arms = facts.arms
                elif "opening" in message:
                    opening = message["opening"]
                elif "failed" in message:
                    skip.add(message["failed"])
                    self._give_up(arms[message["failed"]], message["status"], message["error"])
            self._facts[engine] = facts
        except WorkerLost as lost:
            self.kill()
            if opening is None or arms[opening].planned.label == "none":
                raise _unusable(lost, "while the target was made ready") from None
            skip.add(opening)
            self._give_up(arms[opening], lost.status, f"open() failed: {lost.error}")

    def _reopen(self, engine: str) -> None:
        """Another process for an engine that has worked before; one more try where it fails."""
        if self._job.spec.carry_state:
            self._announce("A fresh worker process: strategies begin it without what they had learnt")
        for again in (True, False):
            try:
                for _ in self._opened(engine, set(), everything=False):
                    pass
            except WorkerLost as lost:
                self.kill()
                if not again:
                    raise _unusable(lost, "while it was loaded again") from None
            except OutOfMemory:
                self.kill()
                if not again:
                    raise
            else:
                return
            time.sleep(_RELOAD_AFTER_S)  # a GPU's memory is not always free the moment a process is gone

    def _opened(self, engine: str, skip: set[int], everything: bool) -> Iterator[Message]:
        """Start a process and yield what it says until it is ready."""
        self._worker = _Worker(engine, WorkerProcess(self.ram_limit))
        process, job = self._worker.process, self._job
        order = {
            "spec": job.spec.model_dump(mode="json"),
            "engine": engine,
            "prompts": [asdict(p) for p in job.prompts],
            "strategies": {p.label: p.found.file_sha256 for p in job.planned},
            "open": everything,
            "skip": sorted(skip),
            "open_limit_s": self.limits.opening(),
        }
        process.send(order)
        limit_s = self.limits.loading(job.model_bytes)
        while "ready" not in (message := process.receive(limit_s)):
            if "refused" in message:
                self.kill()
                raise (OutOfMemory if message["memory"] else SpecdecError)(*message["refused"])
            if "opening" in message:
                limit_s = self.limits.opening()
            self._pass_on(message)
            yield message

    def _read_facts(self, engine: str, said: Message) -> Facts:
        planned = {p.label: p for p in self._job.planned}
        arms = [Arm(planned[a.pop("strategy")], **a) for a in said.pop("arms")]
        return Facts(arms=arms, **said)

    def _pass_on(self, message: Message) -> None:
        if "say" in message:
            self._announce(message["say"])
        elif "warn" in message and message["warn"] not in self._told:
            self._told.add(message["warn"])
            self._announce(f"warning: {message['warn']}")

    # ---- cells

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
        self.use(cell.arm.engine)
        shared = bool(self._worker and self._worker.served - {key})
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
        arms = {a.key: a for facts in self._facts.values() for a in facts.arms}
        for s in samples:
            arm = arms.get((s["engine"], s["strategy"], s["rollback"]))
            if arm is not None:
                self._account(arm, s)

    def measure(self, arm: Arm, prompt: Prompt, limits: Limits) -> Sample:
        """One generation that is not stored."""
        self.use(arm.engine)
        for sample in self._exchange(Cell(arm, prompt, 0, warmup=True), limits):
            if sample["status"] != "ok":
                raise SpecdecError(f"{arm.planned.label} on {prompt.id} failed: {sample['error']}")
        return sample

    def _exchange(self, cell: Cell, limits: Limits | None = None) -> Iterator[Sample]:
        """Have the worker serve the cell; where it is lost, the last sample says so and the worker is gone."""
        assert self._worker is not None
        process = self._worker.process
        order = self._order(cell, limits)
        turn, failed, patience_s = 0, False, self.limits.opening()
        try:
            process.log.clear()
            process.send({"cell": order})
            while "done" not in (message := process.receive(patience_s)):
                self._pass_on(message)
                if "turn" in message:
                    turn, patience_s = message["turn"], order["limit_s"]
                elif "sample" in message:
                    sample = message["sample"]
                    failed = sample["status"] != "ok"
                    yield self._noted(cell, sample, process)
                    if sample["status"] == "out-of-memory":  # what is left in it is not to be trusted
                        self.kill()
                        return
            self._worker.served.add(cell.arm.key)
        except WorkerLost as lost:
            self.kill()
            if not failed:
                more = {"turn": turn, "exit_code": lost.exit_code, "limit_s": patience_s, "log": lost.log}
                yield _head(cell) | _failure(lost.status, lost.error) | more

    def _order(self, cell: Cell, limits: Limits | None) -> Message:
        """What the worker is told of a cell (worker.py, ``Server.cell``)."""
        spec, facts = self._job.spec, self._facts[cell.arm.engine]
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
            "n_predict": limits and limits.n_predict,
            "ignore_eos": limits and limits.ignore_eos,
            "limit_s": self.limits.generation(cell.arm.key, n_prompt, n_predict),
        }

    def _noted(self, cell: Cell, sample: Sample, process: WorkerProcess) -> Sample:
        """Learn from a sample; a failure takes the last log lines along."""
        if sample["status"] == "ok":
            self.limits.measured(cell.arm.key, sample)
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


def _unusable(lost: WorkerLost, when: str) -> SpecdecError:
    """The target itself cannot be used: nothing can run."""
    kind = OutOfMemory if lost.status == "out-of-memory" else SpecdecError
    said = f" Its last line: {lost.log[-1][:200]}" if lost.log else ""
    return kind(f"the worker process failed {when}: {lost.error}.", said)


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
