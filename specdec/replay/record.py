"""Make a trace: run the target once, or take what a stored run already holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec import __version__
from specdec.conversation import history
from specdec.demo import model_path
from specdec.engine import Engine
from specdec.environment import describe_machine, describe_model
from specdec.errors import SpecdecError
from specdec.llama.gguf import read_header
from specdec.llama.model import LlamaModel
from specdec.llama.target import batch_size
from specdec.registry import Defaults, Planned, Registry
from specdec.replay.recorder import DEEPEST, Listener, Recorder
from specdec.replay.trace import Trace, Turn, write_trace
from specdec.spec import ModelOptions, RunSpec
from specdec.store import Run, Sample
from specdec.strategy import Strategy
from specdec.syntax import Call, Value
from specdec.types import Generation, Message, Prompt
from specdec.workloads import load_prompts, prompts_hash, select

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

    def build(self) -> Strategy:
        self.built.append(Recorder({name: planned.build() for name, planned in self.drafters.items()}))
        return self.built[-1]


def record(spec: RunSpec, out: Path, wanted: Wanted, observer: Observer) -> Path:
    """Decode all prompts plainly and write the trace. Interrupted, it writes what is complete."""
    _check_out(out)
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
            header = _engine_header(spec, engine, done, lengths, wanted, drafters)
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
            _turn(prompt, number, recorder.prompt_ids.tolist(), generation),
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


def _check_out(out: Path) -> None:
    """Find out now, not after the run, that the file cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "ab"):
            pass
        if not out.stat().st_size:
            out.unlink()
    except OSError as error:
        raise SpecdecError(f"--out {out}: cannot be written: {error.strerror}.", "Name another file.") from error


def _turn(prompt: Prompt, number: int, prompt_ids: list[int], g: Generation | Sample) -> Turn:
    import numpy as np

    of = dataclasses.asdict(g) if isinstance(g, Generation) else g
    ids = np.array([*prompt_ids, *of["token_ids"]], np.int32)
    ids.flags.writeable = False
    return Turn(
        prompt=prompt.id,
        workload=prompt.workload,
        index=number,
        ids=ids,
        n_prompt=len(prompt_ids),
        stop=of["stop"],
        n_reused=of["n_reused"],
        first_end_of_text=of["first_end_of_text"],
        prefill_s=of["prefill_s"],
        generation_s=of["generation_s"],
    )


def _engine_header(
    spec: RunSpec,
    engine: Engine,
    prompts: list[Prompt],
    lengths: dict[str, int],
    wanted: Wanted,
    drafters: dict[str, Planned],
) -> dict[str, Any]:
    labels = {
        "card": engine.card,
        "sampling": engine.sampling.label,
        "thinking": spec.thinking,
        "ignore_eos": spec.ignore_eos,
    }
    return {
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "specdec": __version__,
        "run_id": None,
        "spec": spec.model_dump(mode="json"),
        "labels": labels,
        "sampling": dataclasses.asdict(engine.sampling),
        "n_vocab": engine.model.n_vocab,
        "n_batch": engine.n_batch,
        "context": engine.settings(),
        "model": describe_model(engine.model.header) | {"description": engine.model.description},
        "prompts": [_describe(p, lengths[p.id]) for p in prompts],
        "prompts_sha256": prompts_hash(prompts),
        "environment": describe_machine(),
        "top_k": wanted.top_k,
        "drafters": {name: {"depth": wanted.depth, "options": p.resolved} for name, p in drafters.items()},
    }


def _describe(prompt: Prompt, tokens: int) -> dict[str, Any]:
    return {
        "id": prompt.id,
        "workload": prompt.workload,
        "length": prompt.length,
        "turns": prompt.turns,
        "tokens": tokens,
    }


def record_from_run(run: Run, out: Path, target: str = "") -> Trace:
    """A trace of what ``none`` generated in a stored run (first repeat, no warm-ups).

    A run keeps no prompt tokens: they are made again from the prompts and the target's vocabulary (no weights are
    loaded), and checked against the run's counts. ``target``: where the GGUF lies now, if not where it was.
    """
    label = run.meta["labels"]["label"]
    if label != "real":
        raise SpecdecError(f"{run.folder}: is a {label} run: it holds no text of the target.", "Take a real one.")
    spec = _spec_of(run)
    path = model_path(target or spec.target)
    if describe_model(read_header(path))["header_sha256"] != run.meta["model"]["header_sha256"]:
        raise SpecdecError(f"{path.name} is not the model of {run.folder}.", f"It was {run.meta['model']['file']}.")
    prompts = select(load_prompts(spec.prompt_files), spec.workloads, spec.limit)
    if prompts_hash(prompts) != run.meta["prompts_sha256"]:
        raise SpecdecError(f"{run.folder}: its prompts are not what they were.", "Record anew: specdec record.")
    model = LlamaModel(path, spec.model, vocab_only=True)
    try:
        turns, complete = _stored_turns(run, spec, prompts, model)
        n_vocab, sampling = model.n_vocab, spec.resolve_sampling(model.recommended_sampling)
    finally:
        model.close()
    kept = [p for p in prompts if p.id in complete]
    if not kept:
        raise SpecdecError(f"{run.folder} has no finished generation of `none`.", "Record anew: specdec record.")
    meta, context = run.meta, run.meta["context"]
    lengths = {p["id"]: p["tokens"] for p in meta["prompts"]}
    trace = Trace(
        {
            "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "specdec": __version__,
            "run_id": run.id,
            "spec": meta["spec"],
            "labels": {k: meta["labels"][k] for k in ("card", "sampling", "thinking", "ignore_eos")},
            "sampling": dataclasses.asdict(sampling),
            "n_vocab": n_vocab,
            "n_batch": batch_size(spec.model, context["n_ctx"]),
            "context": context,
            "model": meta["model"],
            "prompts": [_describe(p, lengths[p.id]) for p in kept],
            "prompts_sha256": prompts_hash(kept),
            "environment": meta["environment"],
            "top_k": 0,
            "drafters": {},
        },
        turns,
    )
    write_trace(out, trace)
    return trace


def _spec_of(run: Run) -> RunSpec:
    """The run's options, less those that only another version of specdec knows."""
    known = {k: v for k, v in run.meta["spec"].items() if k in RunSpec.model_fields}
    known["model"] = {k: v for k, v in known["model"].items() if k in ModelOptions.model_fields}
    return RunSpec.model_validate(known)


def _stored_turns(run: Run, spec: RunSpec, prompts: list[Prompt], model: LlamaModel) -> tuple[list[Turn], set[str]]:
    stored = {
        (s["prompt"], s["turn"]): s
        for s in run.samples
        if (s["engine"], s["strategy"]) == ("specdec", "none")
        and not (s["warmup"] or s["repeat"] or s["launch"])
        and s["status"] == "ok"
    }
    turns: list[Turn] = []
    complete: set[str] = set()
    for prompt in prompts:
        answers: list[Message] = []
        own = [stored.get((prompt.id, number)) for number in range(prompt.turns)]
        if None in own:
            continue
        for number, sample in enumerate(s for s in own if s is not None):
            if prompt.kind == "completion":
                ids = model.tokenize(prompt.text)
            else:
                ids = model.chat(list(history(prompt, answers)), spec.thinking)
            if len(ids) != sample["n_prompt"]:
                raise SpecdecError(
                    f"{run.folder}: {prompt.id} had {sample['n_prompt']} tokens, now it has {len(ids)}.",
                    "The tokenizer differs: record anew with specdec record.",
                )
            turns.append(_turn(prompt, number, ids.tolist(), sample))
            answers.append(Message("assistant", sample["text"]))
        complete.add(prompt.id)
    return turns, complete
