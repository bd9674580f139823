"""A trace from a stored run: nothing is generated, no weights are loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from specdec.conversation import history
from specdec.environment import describe_model
from specdec.errors import SpecdecError
from specdec.llama.gguf import read_header
from specdec.llama.model import LlamaModel
from specdec.llama.target import batch_size
from specdec.models import model_path
from specdec.redact import refuse_redacted
from specdec.replay.header import make_header, make_turn
from specdec.replay.trace import Trace, Turn, check_new, write_trace
from specdec.spec import ModelOptions, RunSpec
from specdec.store import Run
from specdec.types import Message, Prompt
from specdec.workloads import load_prompts, prompts_hash, select


def record_from_run(run: Run, out: Path, target: str = "") -> Trace:
    """A trace of what ``none`` generated in a stored run (first repeat, no warm-ups).

    A run keeps no prompt tokens: they are made again from the prompts and the target's vocabulary (no weights are
    loaded), and checked against the run's counts. ``target``: where the GGUF lies now, if not where it was.
    """
    check_new(out)
    spec = _spec_of(run)
    path, prompts = _checked(run, spec, target)
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
    header = make_header(
        kept,
        {p["id"]: p["tokens"] for p in meta["prompts"]},
        run_id=run.id,
        labels={k: meta["labels"][k] for k in ("card", "sampling", "thinking", "ignore_eos")},
        sampling=dataclasses.asdict(sampling),
        n_vocab=n_vocab,
        n_batch=batch_size(spec.model, context["n_ctx"]),
        **{k: meta[k] for k in ("spec", "context", "model", "environment")},
    )
    trace = Trace(header, turns)
    write_trace(out, trace)
    return trace


def _checked(run: Run, spec: RunSpec, target: str) -> tuple[Path, list[Prompt]]:
    """The run's model file and prompts, if they are still what they were."""
    refuse_redacted(run, "it holds no text of the target")
    label = run.meta["labels"]["label"]
    if run.meta["kind"] != "compare" or label != "real":
        what = f"{label} run" if run.meta["kind"] == "compare" else run.meta["kind"]
        raise SpecdecError(f"{run.folder}: is a {what}: it holds no text of the target.", "Take a real comparison.")
    path = model_path(target or spec.target)
    if describe_model(read_header(path))["header_sha256"] != run.meta["model"]["header_sha256"]:
        raise SpecdecError(f"{path.name} is not the model of {run.folder}.", f"It was {run.meta['model']['file']}.")
    prompts = select(load_prompts(spec.prompt_files), spec.workloads, spec.limit)
    if prompts_hash(prompts) != run.meta["prompts_sha256"]:
        raise SpecdecError(f"{run.folder}: its prompts are not what they were.", "Record anew: specdec record.")
    return path, prompts


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
            turns.append(make_turn(prompt, number, ids.tolist(), sample))
            answers.append(Message("assistant", sample["text"]))
        complete.add(prompt.id)
    return turns, complete
