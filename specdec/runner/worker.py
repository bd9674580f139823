"""Inside a worker process: build the engine, open the strategies, serve cells one at a time, until the pipe closes."""

from __future__ import annotations

import os
import queue
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from specdec.arms import Arm
from specdec.errors import BrokenGeneration, OutOfMemory, ServerDied, SpecdecError, one_line
from specdec.faults import in_one_line
from specdec.llama.accounting import by_place
from specdec.llama.devices import used_bus_ids
from specdec.llama.library import log
from specdec.monitor import Monitor
from specdec.runner.cap import hold_cap
from specdec.runner.checks import plan_strategies
from specdec.runner.engines import AnyEngine, make_engine
from specdec.runner.guard import follow_parent, limit_ram, take_pipes, time_limit
from specdec.runner.order import WARMUP_TOKENS
from specdec.runner.wire import Message, send
from specdec.spec import RunSpec
from specdec.types import Generation, Limits, MemoryItem, ServedGeneration
from specdec.workloads import prompt_of

Tell = Callable[[Message], None]


def main(parent: int, ram_limit: int) -> None:
    """The process: ``parent`` is the id of the one that started it, ``ram_limit`` in bytes."""
    commands, answers = take_pipes()
    messages = follow_parent(parent, commands)
    limit_ram(ram_limit)
    log.echo = lambda line: print(line, file=sys.stderr, flush=True)
    serve(messages, lambda message: send(answers, message))
    sys.stdout.flush()
    os._exit(0)  # an orderly end would wait for the thread that reads the pipe


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
        server.close()


class Server:
    """One engine and its cells.

    Args:
        message: what the parent sent first: ``spec``, ``engine``, ``prompts``, ``strategies`` (label to the hash of its
            file), ``skip`` (arms, by index, that cannot be opened), ``arms`` (null, or each arm's snapshots as an
            earlier worker settled them), ``open_limit_s``.
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
        own = message["engine"] == "specdec"  # another engine says nothing of the GPUs that it uses: all are watched
        self._monitor = Monitor()  # now: what the cards hold before this process has a context on them
        if own:
            self._monitor.keep(used_bus_ids(self._spec.model))
        self._cap = hold_cap(self._spec, own, lambda line: tell({"say": line}))  # before the model takes anything
        self.engine: AnyEngine = make_engine(message["engine"], self._spec, planned, lambda line: tell({"say": line}))
        self._warm: set[int] = set()
        self._unfit: set[int] = set(message["skip"])
        if message["arms"] is None:
            tell({"arms": [_arm_facts(a) for a in self.engine.arms]})
            lengths = self.engine.fit(self._prompts, self._attempt)
            tell({"facts": self._facts(lengths)})
            if spilled := self._monitor.spill(self.engine.vram_asked):
                tell({"warn": spilled.line})
        else:  # another worker has opened everything and settled the arms: now each opens when its turn comes
            settled = zip(self.engine.arms, message["arms"], strict=True)
            self.engine.arms = [replace(arm, snapshots=snapshots) for arm, snapshots in settled]
            self.engine.fit(self._prompts, lambda arm, action: None)

    def close(self) -> None:
        """Free everything."""
        self.engine.close()
        self._cap.close()
        self._monitor.close()

    def _facts(self, lengths: dict[str, int]) -> Message:
        engine = self.engine
        return {
            "arms": [_arm_facts(a) for a in engine.arms],
            "lengths": lengths,
            "settings": engine.settings(),
            "sampling": engine.sampling.label,
            "card": self._cap.label(engine.card),
            "description": engine.description,
            "memory": [items and [asdict(i) for i in items] for items in map(engine.allocated, engine.arms)],
        }

    def _attempt(self, arm: Arm, action: Callable[[], object]) -> None:
        """Open something for an arm. A user's error ends the run; anything else costs the strategy's cells, unless it
        is plain decoding that does not work."""
        i = [a.key for a in self.engine.arms].index(arm.key)
        if i in self._unfit:
            return
        try:
            self._guarded(i, action)
        except Exception as error:  # a strategy may raise anything
            if isinstance(error, SpecdecError) and not isinstance(error, OutOfMemory):
                raise
            if arm.planned.label == "none":
                raise
            self._unfit.add(i)
            self._tell({"failed": i, **_failure(error, "open() failed: ")})

    def _guarded(self, i: int, action: Callable[[], object]) -> None:
        """Do something for an arm within the time that opening may take, after saying so."""
        self._tell({"opening": i})
        time_limit(self._open_limit_s)
        try:
            action()
        finally:
            time_limit(0)

    def cell(self, order: Message) -> None:
        """Serve one cell: a sample a turn, then ``done``. A failure is a sample too.

        ``order``: ``arm`` and ``prompt`` by index, ``head`` (the fields that name the samples), ``turns``, ``n_predict``
        and ``ignore_eos`` (null: the run's), ``limit_s`` for each turn, ``logs`` (a folder, or null).
        """
        arm, head, turn = self.engine.arms[order["arm"]], order["head"], 0
        try:
            if order["logs"]:
                self.engine.keep_logs(Path(order["logs"]))
            self._guarded(order["arm"], lambda: self.engine.ready(arm))
            if self._spec.warmup and not head["warmup"] and order["arm"] not in self._warm:
                self._warm_up(order)
                self._guarded(order["arm"], lambda: self.engine.ready(arm))  # a server may have to be started anew
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
            self._monitor.pids = (os.getpid(), *self.engine.pids)
            with self._monitor.watch() as watch:
                answer = next(answers, None)
            time_limit(0)
            if answer is None:
                raise BrokenGeneration(f"the engine gave {turn} answers to {order['turns']} turns.")
            if isinstance(answer[1], Generation):  # a server's answers are checked by its engine
                answer[1].check_identity()
            yield {"at": began, "machine": watch.facts() | self._held(), **_body(answer[1])}

    def _held(self) -> Message:
        """What our processes say they hold, a cap's ballast included: to lay beside what the driver counts."""
        items = self.engine.held()
        if items is None:
            return {}
        ballast = self._cap.ballast.bytes if self._cap.ballast else 0
        return {"held_bytes": by_place([*items, MemoryItem("GPU", "ballast", ballast)])}

    def _limits(self, order: Message) -> Limits | None:
        if order["n_predict"] is None:
            return None
        ignore = self._spec.ignore_eos if order["ignore_eos"] is None else order["ignore_eos"]
        return Limits(order["n_predict"], ignore, self._spec.stop)


def _arm_facts(arm: Arm) -> Message:
    return {"strategy": arm.planned.label, **{f.name: getattr(arm, f.name) for f in fields(arm) if f.name != "planned"}}


def _body(g: Generation | ServedGeneration) -> dict[str, Any]:
    return {"status": "ok", "error": None, **asdict(g)}


def _failure(error: Exception, during: str = "") -> dict[str, Any]:
    """A failure as a sample has it: status, one line, and for a strategy's own exception where it was raised."""
    if isinstance(error, SpecdecError):
        status = "out-of-memory" if isinstance(error, OutOfMemory) else "error"
        log = {"log": error.log} if isinstance(error, ServerDied) else {}  # its own, not this process's
        return {"status": status, "error": during + error.what, "traceback": "", **log}
    where = "".join(traceback.format_exception(error)[-3:])
    if isinstance(error, MemoryError):
        return {
            "status": "out-of-memory",
            "error": one_line(f"{during}out of memory: {error or 'no more RAM'}"),
            "traceback": where,
        }
    return {"status": "error", "error": during + in_one_line(error), "traceback": where}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
