"""One setting over a whole trace: the unit of work, in this process or in one of several."""

from __future__ import annotations

import signal
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specdec.errors import SpecdecError
from specdec.registry import Registry
from specdec.replay.cost import CostModel, load_costs
from specdec.replay.loop import Bounds, Replayed, replay_turn
from specdec.replay.recorded import Tape, build
from specdec.replay.trace import Trace, Turn, read_trace
from specdec.strategy import Services, Strategy
from specdec.types import Sampling, Steps

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What every process must know: picklable, small."""

    trace: Path
    files: tuple[str, ...]
    n_predict: int
    carry_state: bool
    fast: bool
    costs: str = ""


@dataclass(frozen=True, slots=True)
class TurnResult:
    """A turn under a setting, with each step's predicted seconds by phase, or the error that it ended in."""

    turn: int
    replayed: Replayed | None = None
    phases: dict[str, npt.NDArray[np.float64]] | None = None
    error: str | None = None
    traceback: str = ""
    memory: list[dict[str, Any]] | None = None


class Bench:
    """A trace and the means to run settings over it."""

    def __init__(self, plan: Plan, trace: Trace | None = None) -> None:
        self._plan = plan
        self.trace = trace if trace is not None else read_trace(plan.trace)
        self.costs = load_costs(Path(plan.costs)) if plan.costs else None
        self._registry = Registry(plan.files)
        header = self.trace.header
        sampling = Sampling(**header["sampling"])
        context = header["context"]
        self._services = Services(header["n_vocab"], context["n_ctx"], 0, context["threads"], sampling)
        self._bounds = Bounds(plan.n_predict, header["n_batch"], header["n_vocab"], sampling.greedy)

    def run(self, label: str) -> list[TurnResult]:
        """Every turn under one setting. A failure costs its prompt, as in a live run, and the setting starts anew."""
        results: list[TurnResult] = []
        tape = Tape()
        strategy: Strategy | None = None
        failed = ""
        for number, turn in enumerate(self.trace.turns):
            if turn.prompt == failed and turn.index:
                continue
            try:
                strategy = strategy or self._open(label, tape)
                results.append(self._turn(label, strategy, tape, number, turn))
            except Exception as error:  # noqa: BLE001 - a strategy may raise anything; it costs its prompt, not the run
                results.append(_failure(number, error))
                failed = turn.prompt
                if strategy is not None:
                    strategy.close()
                strategy = None
        if strategy is not None:
            strategy.close()
        return results

    def _open(self, label: str, tape: Tape) -> Strategy:
        strategy = build(self._registry.plan(label)[-1], self.trace, tape)
        strategy.open(self._services)
        return strategy

    def _turn(self, label: str, strategy: Strategy, tape: Tape, number: int, turn: Turn) -> TurnResult:
        if turn.index == 0 and not self._plan.carry_state:
            strategy.reset()
        tape.turn = turn
        replayed = replay_turn(strategy, turn, self._bounds, self._plan.fast)
        phases = None if self.costs is None else predicted(self.costs, label, replayed.steps, turn.n_prompt)
        return TurnResult(number, replayed, phases, memory=_memory(strategy))

    def count(self, label: str) -> list[list[Any]]:
        """The same, compact: for each turn [turn, output tokens, [[drafted, accepted, steps], ...], seconds by phase or
        null], or [turn, 0, error, null]."""
        return [_counted(r) for r in self.run(label)]


def _counted(r: TurnResult) -> list[Any]:
    if r.replayed is None:
        return [r.turn, 0, r.error, None]
    seconds = None if r.phases is None else {phase: float(np.sum(s)) for phase, s in r.phases.items()}
    return [r.turn, r.replayed.n_output, _pairs(r.replayed.steps), seconds]


def _memory(strategy: Strategy) -> list[dict[str, Any]] | None:
    """What the strategy holds; unknown where a recording stands for a model."""
    if "recorded" in strategy.needs:
        return None
    return [asdict(item) for item in strategy.memory()]


def _failure(number: int, error: Exception) -> TurnResult:
    if isinstance(error, SpecdecError):
        return TurnResult(number, error=f"{error.what} {error.hint}".strip())
    where = "".join(traceback.format_exception(error)[-3:])
    return TurnResult(number, error=f"{type(error).__name__}: {error}", traceback=where)


_bench: Bench | None = None


def start(plan: Plan) -> None:
    """Once in each worker process. Ctrl-C is the parent's business."""
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bench = Bench(plan)


def work(label: str, small: bool) -> Any:
    """One setting in a worker process: its results, or their counts where ``small``."""
    assert _bench is not None, "start() comes first"
    return _bench.count(label) if small else _bench.run(label)


def predicted(costs: CostModel, label: str, steps: Steps, n_prompt: int) -> dict[str, npt.NDArray[np.float64]]:
    """Seconds of each step by phase; refuses what the costs do not cover."""
    phases = costs.seconds(label, steps[0], steps[1], n_prompt)
    if not all(np.isfinite(s).all() for s in phases.values()):
        raise SpecdecError(f"{costs.name}: did not measure what {label} does.", "Measure it, or leave --costs out.")
    return phases


def _pairs(steps: Steps) -> list[list[int]]:
    steps = steps.astype(np.int64)
    base = int(steps.max(initial=0)) + 1
    codes, counts = np.unique(steps[0] * base + steps[1], return_counts=True)
    return [[int(c) // base, int(c) % base, int(n)] for c, n in zip(codes, counts, strict=True)]
