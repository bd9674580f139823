"""Make a trace by running the target once (from a stored run: stored.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec.engine import Engine
from specdec.environment import describe_machine, describe_model
from specdec.errors import SpecdecError
from specdec.registry import Defaults, Planned, Registry
from specdec.replay.header import make_header, make_turn
from specdec.replay.recorder import DEEPEST, Listener, Recorder
from specdec.replay.trace import Trace, Turn, check_new, write_trace
from specdec.spec import RunSpec
from specdec.strategy import Strategy
from specdec.syntax import Call, Value
from specdec.types import Prompt
from specdec.workloads import load_prompts, select

if TYPE_CHECKING:
    from specdec.replay.training import TrainingWriter
    from specdec.runner import Observer


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What a recording holds besides the tokens.

    Args:
        top_k: log-probabilities kept at each output token; 0 for none.
        drafters: strategies whose proposals are noted, in the strategy syntax (``mtp,draft``); empty for none.
        depth: tokens of each proposal.
        training: folder for a drafter's training data; None for none.
    """

    top_k: int = 0
    drafters: str = ""
    depth: int = DEEPEST
    training: Path | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Recording(Planned):
    """The one arm of a recording: builds the recorder; ``built`` ends with the one that is in use."""

    drafters: dict[str, Planned] = dataclasses.field(default_factory=dict)
    built: list[Recorder] = dataclasses.field(default_factory=list)

    def build(self, single: Callable[[Planned], Strategy] | None = None) -> Strategy:
        self.built.append(Recorder({name: planned.build() for name, planned in self.drafters.items()}))
        return self.built[-1]


def record(spec: RunSpec, out: Path, wanted: Wanted, observer: Observer) -> Path:
    """Decode all prompts plainly and write the trace. Interrupted, it writes what is complete."""
    check_new(out)
    drafters = _drafters(spec, wanted)
    plain = Registry().plan("none")[0]
    recording = _Recording(plain.label, plain.call, plain.found, drafters=drafters)
    listeners: list[Listener] = []

    def watch(target: Any) -> Any:
        listeners[:] = [Listener(target, wanted.top_k)] if wanted.top_k else []
        return listeners[0] if listeners else target

    prompts = select(load_prompts(spec.prompt_files), spec.workloads, spec.limit)
    engine = Engine(spec.model_copy(update={"snapshots": 0}), [recording], observer.announce, watch)
    turns: list[Turn] = []
    done: list[Prompt] = []
    try:
        lengths = engine.fit(prompts)
        writer = _training(engine, wanted)
        observer.start(len(prompts), 0)
        for prompt in prompts:
            turns += list(_turns(engine, recording.built, prompt, listeners, writer))
            done.append(prompt)
            observer.cell(engine.arms[0], prompt, [])
    except KeyboardInterrupt:
        if done:
            observer.announce(f"Interrupted: {len(done)} of {len(prompts)} prompts are kept in {out}")
        raise
    finally:
        if done:
            kept = [t for t in turns if t.prompt in {p.id for p in done}]
            header = _header(spec, engine, done, lengths, wanted, drafters)
            write_trace(out, Trace(header, kept))
            if writer is not None:
                writer.close(header)
        engine.close()
    return out


def _turns(
    engine: Engine, built: list[Recorder], prompt: Prompt, listeners: list[Listener], writer: TrainingWriter | None
) -> Iterator[Turn]:
    for number, generation in engine.answers(engine.arms[0], prompt):
        recorder = built[-1]
        turn = dataclasses.replace(
            make_turn(prompt, number, recorder.prompt_ids.tolist(), generation),
            top=listeners[0].take(generation) if listeners else None,
            proposals=recorder.take(len(generation.token_ids)),
        )
        if writer is not None:
            writer.add(turn)
        yield turn


def _drafters(spec: RunSpec, wanted: Wanted) -> dict[str, Planned]:
    """The drafters to ask, by name, at the depth of the recording."""
    if not wanted.drafters:
        return {}
    defaults: Defaults = {"draft": {"model": spec.draft}, "mtp": {"model": spec.mtp_model}}
    found: dict[str, Planned] = {}
    for planned in Registry(spec.strategy_files).plan(wanted.drafters, defaults)[1:]:
        name, options = planned.found.cls.name, planned.resolved
        if planned.children or not {"n_max", "p_min"} <= set(options):
            raise SpecdecError(f"--drafts: {name} drafts with no model of its own.", "A replay runs it as it is.")
        if options.get("sample") or options.get("translate"):
            raise SpecdecError(f"--drafts: {name} with sample or translate cannot be recorded.", "Compare it live.")
        if name in found:
            raise SpecdecError(f"--drafts: {name} is named twice.", "One recording serves all its settings.")
        given: dict[str, Value] = dict(planned.call.options) | {"n_max": wanted.depth, "p_min": 0.0, "n_min": 0}
        found[name] = dataclasses.replace(planned, call=Call(name, (), tuple(given.items())))
    return found


def _training(engine: Engine, wanted: Wanted) -> TrainingWriter | None:
    if wanted.training is None:
        return None
    from specdec.replay.training import TrainingWriter

    return TrainingWriter(wanted.training, engine.model, int(str(engine.settings()["n_ctx"])), wanted.top_k or 8)


def _header(
    spec: RunSpec,
    engine: Engine,
    prompts: list[Prompt],
    lengths: dict[str, int],
    wanted: Wanted,
    drafters: dict[str, Planned],
) -> dict[str, Any]:
    asked = {"thinking": spec.thinking, "ignore_eos": spec.ignore_eos}
    return make_header(
        prompts,
        lengths,
        run_id=None,
        spec=spec.model_dump(mode="json"),
        labels={"card": engine.card, "sampling": engine.sampling.label, **asked},
        sampling=dataclasses.asdict(engine.sampling),
        n_vocab=engine.model.n_vocab,
        n_batch=engine.n_batch,
        context=engine.settings(),
        model=describe_model(engine.model.header) | {"description": engine.model.description},
        environment=describe_machine(),
        top_k=wanted.top_k,
        drafters={name: {"depth": wanted.depth, "options": p.resolved} for name, p in drafters.items()},
    )
