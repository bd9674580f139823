"""Inside a worker process: build the engine, open the strategies, serve cells one at a time, until the pipe closes."""

from __future__ import annotations

import queue
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from specdec.arms import Arm
from specdec.decode import check_identity
from specdec.errors import BrokenGeneration, OutOfMemory, SpecdecError
from specdec.llama.library import log
from specdec.runner.checks import plan_strategies
from specdec.runner.engines import AnyEngine, make_engine
from specdec.runner.guard import follow_parent, limit_ram, take_pipes, time_limit
from specdec.runner.order import WARMUP_TOKENS
from specdec.runner.wire import Message, send
from specdec.spec import RunSpec
from specdec.types import Generation, Limits
from specdec.workloads import prompt_of

Tell = Callable[[Message], None]


def main(parent: int, ram_limit: int) -> None:
    """The process: ``parent`` is the id of the one that started it, ``ram_limit`` in bytes."""
    commands, answers = take_pipes()
    messages = follow_parent(parent, commands)
    limit_ram(ram_limit)
    log.echo = lambda line: print(line, file=sys.stderr, flush=True)
    serve(messages, lambda message: send(answers, message))


def serve(messages: queue.SimpleQueue[Message], tell: Tell) -> None:
    """Answer messages until one says ``close``."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kwargs: tell({"warn": str(message)})
        first = messages.get()
        try:
            server = Server(first, tell)
            tell({"ready": True})
        except SpecdecError as error:
            tell({"refused": [error.what, error.hint], "memory": isinstance(error, OutOfMemory)})
            return
        except MemoryError as error:
            said = f"out of memory while the target was made ready: {error}"
            tell({"refused": [said, "Try a larger --ram-limit."], "memory": True})
            return
        while "cell" in (message := messages.get()):
            server.cell(message["cell"])
        server.engine.close()


class Server:
    """One engine and its cells.

    Args:
        message: what the parent sent first: ``spec``, ``engine``, ``prompts``, ``strategies`` (label to the hash of its
            file), ``open`` (whether to open every arm now, ``skip`` excepted), ``open_limit_s``.
        tell: sends a message to the parent.
    """

    def __init__(self, message: Message, tell: Tell) -> None:
        self._tell = tell
        self._spec = RunSpec.model_validate(message["spec"])
        self._prompts = [prompt_of(p) for p in message["prompts"]]
        self._open_limit_s = float(message["open_limit_s"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parent has shown what there is to warn of
            planned = plan_strategies(self._spec)
        if {p.label: p.found.file_sha256 for p in planned} != message["strategies"]:
            raise SpecdecError("a strategy's file changed since the run began.", "Start a new run.")
        self.engine: AnyEngine = make_engine(message["engine"], self._spec, planned, lambda line: tell({"say": line}))
        lengths = self.engine.fit(self._prompts)
        tell({"facts": self._facts(lengths)})
        self._warm: set[int] = set()
        if message["open"]:
            self._open_all(set(message["skip"]))

    def _facts(self, lengths: dict[str, int]) -> Message:
        engine = self.engine
        return {
            "arms": [_arm_facts(a) for a in engine.arms],
            "lengths": lengths,
            "settings": engine.settings(),
            "sampling": engine.sampling.label,
            "card": engine.card,
            "description": engine.description,
        }

    def _open_all(self, skip: set[int]) -> None:
        """Make each kind of context and open every strategy once: what cannot work here shows before anything runs.

        A user's error ends the run. Anything else costs the strategy's cells, unless it is plain decoding's.
        """
        arms = self.engine.arms
        for i in sorted(set(range(len(arms))) - skip, key=lambda i: (arms[i].snapshots, arms[i].hidden)):
            try:
                self._make_ready(i)
            except Exception as error:  # a strategy may raise anything
                if isinstance(error, SpecdecError) and not isinstance(error, OutOfMemory):
                    raise
                if arms[i].planned.label == "none":
                    raise
                self._tell({"failed": i, **_failure(error, "open() failed: ")})
                self.engine.discard(arms[i])

    def _make_ready(self, i: int) -> None:
        self._tell({"opening": i})
        time_limit(self._open_limit_s)
        try:
            self.engine.ready(self.engine.arms[i])
        finally:
            time_limit(0)

    def cell(self, order: Message) -> None:
        """Serve one cell: a sample a turn, then ``done``. A failure is a sample too.

        ``order``: ``arm`` and ``prompt`` by index, ``head`` (the fields that name the samples), ``turns``, ``n_predict``
        and ``ignore_eos`` (null: the run's), ``limit_s`` for each turn.
        """
        arm, head, turn = self.engine.arms[order["arm"]], order["head"], 0
        try:
            self._make_ready(order["arm"])
            if self._spec.warmup and not head["warmup"] and order["arm"] not in self._warm:
                self._warm_up(order)
            self._warm.add(order["arm"])
            for sample in self._samples(arm, order):
                self._tell({"sample": head | {"turn": turn} | sample})
                turn += 1
        except Exception as error:  # noqa: BLE001 - a strategy may raise anything; it costs its cell, not the run
            time_limit(0)
            self._tell({"sample": head | {"turn": turn, "at": _now()} | _failure(error)})
            self.engine.discard(arm)
        self._tell({"done": True})

    def _warm_up(self, order: Message) -> None:
        """This process is younger than the run (it was resumed, or another was lost): the arm's first pass is no
        measurement here either."""
        warm = {"prompt": 0, "turns": 1, "n_predict": min(WARMUP_TOKENS, self._spec.n_predict), "ignore_eos": None}
        named = {"workload": self._prompts[0].workload, "prompt": self._prompts[0].id, "repeat": 0, "warmup": True}
        for sample in self._samples(self.engine.arms[order["arm"]], order | warm):
            self._tell({"sample": order["head"] | named | {"turn": 0} | sample})

    def _samples(self, arm: Arm, order: Message) -> Iterator[Message]:
        """What is stored of each turn: the generation, checked, and what surrounds it."""
        prompt = self._prompts[order["prompt"]]
        answers = self.engine.answers(arm, prompt, self._limits(order))
        for turn in range(order["turns"]):
            began = _now()
            self._tell({"turn": turn})
            time_limit(order["limit_s"])
            answer = next(answers, None)
            time_limit(0)
            if answer is None:
                raise BrokenGeneration(f"the engine gave {turn} answers to {order['turns']} turns.")
            check_identity(answer[1])
            yield {"at": began, **_body(answer[1])}

    def _limits(self, order: Message) -> Limits | None:
        if order["n_predict"] is None:
            return None
        ignore = self._spec.ignore_eos if order["ignore_eos"] is None else order["ignore_eos"]
        return Limits(order["n_predict"], ignore, self._spec.stop)


def _arm_facts(arm: Arm) -> Message:
    fields = ("rollback", "longest_draft", "snapshots", "hidden", "engine")
    return {"strategy": arm.planned.label, **{f: getattr(arm, f) for f in fields}}


def _body(g: Generation) -> dict[str, Any]:
    # machine: what the machine's state was around this generation; nothing reads it yet.
    return {"status": "ok", "error": None, "machine": None, **asdict(g)}


def _failure(error: Exception, during: str = "") -> dict[str, Any]:
    """A failure as a sample has it: status, one line, and for a strategy's own exception where it was raised."""
    if isinstance(error, SpecdecError):
        status = "out-of-memory" if isinstance(error, OutOfMemory) else "error"
        return {"status": status, "error": during + error.what, "traceback": ""}
    where = "".join(traceback.format_exception(error)[-3:])
    if isinstance(error, MemoryError):
        return {
            "status": "out-of-memory",
            "error": f"{during}out of memory: {error or 'no more RAM'}",
            "traceback": where,
        }
    return {"status": "error", "error": f"{during}{type(error).__name__}: {error}", "traceback": where}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
