"""The worker process of the moment: started, opened, replaced, ended. One at a time, for each holds the whole model;
with several engines one of each, where memory holds them together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from specdec.arms import Arm, ArmKey
from specdec.errors import OutOfMemory, SpecdecError
from specdec.registry import Planned
from specdec.runner.limits import TimeLimits
from specdec.runner.process import WorkerLost, WorkerProcess, automatic_ram_limit
from specdec.runner.wire import Message
from specdec.spec import RunSpec
from specdec.types import Prompt

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
    memory: list[list[Message] | None]
    """For each arm the items that were allocated for it; None where that is not known."""


@dataclass(slots=True)
class Worker:
    engine: str
    process: WorkerProcess
    served: set[ArmKey] = field(default_factory=set)


class Workers:
    """One worker process at a time; the others' stay only while ``together`` is set.

    Args:
        job: the run.
        announce: takes one line for each thing worth telling (loads, losses).
        unfit: is told of each arm that cannot be opened: status, and why.
    """

    def __init__(self, job: Job, announce: Callable[[str], None], unfit: Callable[[Arm, str, str], None]) -> None:
        self._job, self._announce, self._unfit = job, announce, unfit
        self.ram_limit = (job.spec.ram_limit << 20) or automatic_ram_limit()
        self.limits = TimeLimits(job.spec.cell_timeout)
        self.facts: dict[str, Facts] = {}
        self._worker: Worker | None = None
        self._aside: dict[str, Worker] = {}
        self.together = False
        self._told: set[str] = set()

    def use(self, engine: str) -> Worker:
        """A worker with this engine; the first time every strategy is opened, to see what cannot work.

        Raises ``SpecdecError`` where the user has to mend something, or plain decoding itself does not work.
        """
        if self._worker is not None and self._worker.engine == engine:
            return self._worker
        self._put_aside()
        self._worker = self._aside.pop(engine, None)
        skip: set[int] = set()
        while engine not in self.facts:
            self._open(engine, skip)
        return self._worker or self._reopen(engine)

    def close(self) -> None:
        """Let all workers end."""
        for worker in (self._worker, *self._aside.values()):
            if worker is not None:
                worker.process.close()
        self._worker = None
        self._aside.clear()

    def lose(self) -> None:
        """End the worker in use at once; those of other engines stay."""
        if self._worker is not None:
            self._worker.process.kill()
        self._worker = None

    def kill(self) -> None:
        """End all workers at once."""
        self.lose()
        for worker in self._aside.values():
            worker.process.kill()
        self._aside.clear()

    def _put_aside(self) -> None:
        if not self.together:
            self.close()
        elif self._worker is not None:
            self._aside[self._worker.engine], self._worker = self._worker, None

    def _open(self, engine: str, skip: set[int]) -> None:
        """Load and open everything but ``skip``; an arm that takes the worker along is added to it."""
        arms: list[Arm] = []
        opening: int | None = None
        try:
            for message in self._opened(engine, skip):
                if "arms" in message:
                    arms = self._read_arms(message["arms"])
                elif "facts" in message:
                    self.facts[engine] = self._read_facts(message["facts"])
                elif "opening" in message:
                    opening = message["opening"]
                elif "failed" in message:
                    skip.add(message["failed"])
                    self._unfit(arms[message["failed"]], message["status"], message["error"])
        except WorkerLost as lost:
            self.lose()
            if opening is None or arms[opening].planned.label == "none":
                raise _unusable(lost, "while the target was made ready") from None
            skip.add(opening)
            self._unfit(arms[opening], lost.status, f"open() failed: {lost.error}")

    def _reopen(self, engine: str) -> Worker:
        """Another process for an engine that has worked before; one more try where it fails."""
        if self._job.spec.carry_state:
            self._announce("A fresh worker process: strategies begin it without what they had learnt")
        try:
            return self._load(engine)
        except (WorkerLost, OutOfMemory):
            time.sleep(_RELOAD_AFTER_S)  # a GPU's memory is not always free the moment a process is gone
        try:
            return self._load(engine)
        except WorkerLost as lost:
            raise _unusable(lost, "while it was loaded again") from None

    def _load(self, engine: str) -> Worker:
        try:
            for _ in self._opened(engine, set()):
                pass
        except WorkerLost:
            self.lose()
            raise
        assert self._worker is not None
        return self._worker

    def _opened(self, engine: str, skip: set[int]) -> Iterator[Message]:
        """Start a process and yield what it says until it is ready."""
        known = self.facts.get(engine)
        self._worker = Worker(engine, WorkerProcess(self.ram_limit))
        process, job = self._worker.process, self._job
        order = {
            "spec": job.spec.model_dump(mode="json"),
            "engine": engine,
            "prompts": [asdict(p) for p in job.prompts],
            "strategies": {p.label: p.found.file_sha256 for p in job.planned},
            "arms": known and [a.snapshots for a in known.arms],
            "skip": sorted(skip),
            "open_limit_s": self.limits.opening(),
        }
        process.send(order)
        limit_s = self.limits.loading(job.model_bytes)
        while "ready" not in (message := process.receive(limit_s)):
            if "refused" in message:
                self.lose()
                raise (OutOfMemory if message["memory"] else SpecdecError)(*message["refused"])
            if "opening" in message:
                limit_s = self.limits.opening()
            self.pass_on(message)
            yield message

    def _read_arms(self, said: list[Message]) -> list[Arm]:
        planned = {p.label: p for p in self._job.planned}
        return [Arm(planned[a.pop("strategy")], **a) for a in said]

    def _read_facts(self, said: Message) -> Facts:
        return Facts(arms=self._read_arms(said.pop("arms")), **said)

    def pass_on(self, message: Message) -> None:
        if "say" in message:
            self._announce(message["say"])
        elif "warn" in message and message["warn"] not in self._told:
            self._told.add(message["warn"])
            self._announce(f"warning: {message['warn']}")


def _unusable(lost: WorkerLost, when: str) -> SpecdecError:
    """The target itself cannot be used: nothing can run."""
    kind = OutOfMemory if lost.status == "out-of-memory" else SpecdecError
    said = f" Its last line: {lost.log[-1][:200]}" if lost.log else ""
    return kind(f"the worker process failed {when}: {lost.error}.", said)
