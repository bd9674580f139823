"""The winning configuration of a stored run, for use elsewhere: a llama-server command, a Python snippet, JSON."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import orjson

from specdec.demo import WORKLOADS_BEGIN_WITH
from specdec.errors import SpecdecError
from specdec.metrics import ALL, BASELINE, rows
from specdec.models import model_path
from specdec.registry import Planned, Registry
from specdec.server.client import sampling_fields
from specdec.server.options import NoCounterpart, model_arguments, strategy_arguments
from specdec.spec import RunSpec, stored_spec
from specdec.store import Run
from specdec.types import Row, Sampling

_DEFAULTS = {
    "--flash-attn": "auto", "--cache-type-k": "f16", "--cache-type-v": "f16", "--spec-draft-type-k": "f16",
    "--spec-draft-type-v": "f16", "--spec-draft-n-min": "0", "--spec-draft-p-min": "0.0",
}  # fmt: skip
"""llama-server's own: not worth stating in a command that people read."""
_BATCHES = {"--batch-size": 2048, "--ubatch-size": 512}
_LLAMA_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}


@dataclass(frozen=True, slots=True)
class Winner:
    """The configuration to use, and why in a sentence.

    Args:
        row: its row of the table (``none``'s own where nothing is faster).
        planned: its strategy with options.
        sampling: as the run chose tokens.
    """

    run: Run
    spec: RunSpec
    row: Row
    planned: Planned
    sampling: Sampling
    why: str

    @property
    def chats(self) -> bool:
        """Whether the run's prompts were chats (the demo target's are texts to go on with)."""
        return not all(p["workload"].startswith(WORKLOADS_BEGIN_WITH) for p in self.run.meta["prompts"])


def winner(run: Run, workload: str = ALL) -> Winner:
    """The fastest strategy of those whose verdict is ``faster``; ``none`` where there is no such."""
    table = [r for r in rows(run) if r["workload"] == workload]
    if not table:
        known = dict.fromkeys(r["workload"] for r in rows(run))
        raise SpecdecError(f"--workload {workload}: this run has none.", f"It has: {', '.join(known)}.")
    table = [r for r in table if r["engine"] == table[0]["engine"]]  # each engine has a baseline of its own
    faster = [r for r in table if r["verdict"] == "faster" and r["status"] == "ok"]
    row = max(faster, key=lambda r: r["speedup"], default=None)
    where = f"on {workload}" if workload != ALL else "over all workloads"
    if row is None:
        row = next((r for r in table if r["strategy"] == BASELINE), None)
        if row is None or row["tok_s"] is None:
            raise SpecdecError(f"{run.folder}: has no measured generation {where}.", "Run it to the end first.")
        why = f"nothing was shown to be faster than plain decoding {where} ({row['prompts']} prompts): no drafting"
    else:
        interval = f"{row['speedup_low']:.2f}-{row['speedup_high']:.2f}"
        why = f"{row['strategy']}: {row['speedup']:.2f} times plain decoding ({interval}) {where}, {row['prompts']} prompts"
    label = row["own_label"] or row["label"]
    if label != "real":
        why += f" [{label}: not measured on text that the model wrote]"
    spec = stored_spec(run.meta["spec"])
    defaults: Any = {"draft": {"model": spec.draft}, "mtp": {"model": spec.mtp_model}}
    plans = {p.label: p for p in Registry(spec.strategy_files).plan(spec.strategies, defaults)}
    return Winner(run, spec, row, plans[row["strategy"]], _sampling(run, spec), why)


def _sampling(run: Run, spec: RunSpec) -> Sampling:
    """As the run resolved it; its label holds what the model recommended."""
    if spec.sampling.sampling == "greedy":
        return spec.resolve_sampling({})
    given = dict(part.split("=") for part in run.meta["labels"]["sampling"].split() if "=" in part)
    kinds: dict[str, Any] = {"temp": float, "top_k": int, "top_p": float, "min_p": float}
    values: dict[str, Any] = {k: kinds[k](v) for k, v in given.items()}
    return Sampling(values.pop("temp", 0.0), seed=spec.seed, **values)


def server_words(w: Winner) -> list[str]:
    """The llama-server command, word by word. Raises ``SpecdecError`` where llama-server has no such strategy."""
    context = w.run.meta["context"]
    try:
        flags = strategy_arguments(w.planned, w.spec.model, context["threads"])
    except NoCounterpart as why:
        raise SpecdecError(f"{w.planned.label}: {why}.", "Use --format python.") from why
    words = model_arguments(w.spec.target, w.spec.model, context["n_ctx"], context["threads"]) + flags
    return ["llama-server", *_without_defaults(words, context["n_ctx"]), *_sampling_words(w.sampling)]


def _without_defaults(words: list[str], n_ctx: int) -> list[str]:
    defaults = _DEFAULTS | {name: str(min(size, n_ctx)) for name, size in _BATCHES.items()}
    kept: list[str] = []
    for word in words:
        if kept and defaults.get(kept[-1]) == word:
            kept.pop()
        else:
            kept.append(word)
    return kept


def _sampling_words(sampling: Sampling) -> list[str]:
    if sampling.greedy:
        return ["--temp", "0"]
    fields = sampling_fields(sampling)
    words = ["--samplers", ";".join(fields.pop("samplers")), "--temp", f"{fields.pop('temperature'):g}"]
    del fields["seed"]
    return words + [w for name, value in fields.items() for w in (f"--{name.replace('_', '-')}", f"{value:g}")]


def server_command(w: Winner) -> str:
    """A shell command, its reason above it."""
    return f"# {w.why}\n{shlex.join(server_words(w))}"


def python_snippet(w: Winner) -> str:
    """A program: llama-cpp-python's own ``Llama`` where that can do it, else specdec's engine.

    ``Llama`` (0.3.36) offers drafting through ``draft_model`` alone: its one drafter, prompt lookup, is none of specdec's
    strategies, it has no MTP and no draft models, and it undoes drafts by cutting the memory without asking whether a
    recurrent model can. So it serves plain decoding.
    """
    m = w.spec.model
    beyond = m.n_cpu_moe or m.override_tensor or m.device or {m.cache_type_k, m.cache_type_v} - set(_LLAMA_TYPES)
    text = _llama(w) if w.planned.label == BASELINE and not beyond else _specdec(w)
    return f"# {w.why}\n{text}"


def _llama(w: Winner) -> str:
    m, s, context = w.spec.model, w.sampling, w.run.meta["context"]
    loading: dict[str, Any] = {
        "model_path": str(model_path(w.spec.target)), "n_ctx": context["n_ctx"], "n_gpu_layers": m.gpu_layers,
        "n_threads": context["threads"], "n_threads_batch": m.threads_batch or context["threads"],
        "n_batch": m.batch_size, "n_ubatch": m.ubatch_size, "verbose": False,
    }  # fmt: skip
    loading |= {"flash_attn": m.flash_attn == "on"} if m.flash_attn != "auto" else {}
    types = {"type_k": m.cache_type_k, "type_v": m.cache_type_v}
    loading |= {key: _LLAMA_TYPES[kind] for key, kind in types.items() if kind != "f16"}
    loading |= {"use_mmap": m.load_mode == "mmap"} if m.load_mode != "auto" else {}
    loading |= {} if m.op_offload else {"op_offload": False}
    loading |= {"main_gpu": m.main_gpu, "split_mode": 0} if m.main_gpu >= 0 else {}
    asking: dict[str, Any] = {"max_tokens": w.spec.n_predict, "temperature": s.temperature, "top_k": s.top_k}
    asking |= {"top_p": s.top_p, "min_p": s.min_p, "repeat_penalty": 1.0}
    asking |= {"stop": list(w.spec.stop)} if w.spec.stop else {}
    if w.chats:
        ask = 'create_chat_completion(\n    messages=[{"role": "user", "content": "Hello!"}],'
        said = 'answer["choices"][0]["message"]["content"]'
    else:
        ask, said = 'create_completion(\n    "def fibonacci(n):",', 'answer["choices"][0]["text"]'
    return (
        f"from llama_cpp import Llama\n\nllm = Llama(\n{_keywords(loading)})\n"
        f"answer = llm.{ask}\n{_keywords(asking)})\nprint({said})"
    )


def _specdec(w: Winner) -> str:
    kept = ("strategy_files", "draft", "mtp_model", "n_predict", "stop", "thinking", "snapshots", "sampling", "model")
    given = w.spec.model_dump(exclude_defaults=True, include=set(kept))
    settings = {"target": w.spec.target, "strategies": w.planned.label, "rollback": (w.row["rollback"],), **given}
    prompt = 'Prompt("mine", "mine", "completion", "short", text="def fibonacci(n):")'
    if w.chats:
        prompt = 'Prompt("mine", "mine", "chat", "short", messages=(Message("user", "Hello!"),))'
    types = "Message, Prompt" if w.chats else "Prompt"
    return f"""from specdec.engine import Engine
from specdec.registry import Registry
from specdec.spec import RunSpec
from specdec.types import {types}

spec = RunSpec(
{_keywords(settings)})
models = {{"draft": {{"model": spec.draft}}, "mtp": {{"model": spec.mtp_model}}}}
engine = Engine(spec, Registry(spec.strategy_files).plan(spec.strategies, models), lambda line: None)
prompt = {prompt}
try:
    engine.fit([prompt])
    for turn, answer in engine.answers(engine.arms[-1], prompt):
        print(answer.text)
finally:
    engine.close()"""


def _keywords(values: dict[str, Any]) -> str:
    return "".join(f"    {name}={value!r},\n" for name, value in values.items())


def as_json(w: Winner) -> str:
    """One object; ``llama_server`` is null where it has no such strategy."""
    try:
        command = server_words(w)
    except SpecdecError:
        command = None
    measured = ("workload", "rollback", "tok_s", "speedup", "speedup_low", "speedup_high", "verdict", "prompts")
    found = {
        "run_id": w.run.id,
        "why": w.why,
        "strategy": w.planned.label,
        "name": w.planned.found.cls.name,
        "options": w.planned.resolved,
        **{key: w.row[key] for key in measured},
        "target": w.spec.target,
        "model_options": w.spec.model.model_dump(mode="json"),
        "context": w.run.meta["context"],
        "sampling": w.sampling.label,
        "thinking": w.spec.thinking,
        "llama_server": command,
    }
    return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()


FORMATS = {"llama-server": server_command, "python": python_snippet, "json": as_json}
