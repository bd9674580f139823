"""Everything that a profile needs before it is taken: a loaded model, settings, depths, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from specdec.errors import SpecdecError
from specdec.llama.devices import free_bytes
from specdec.llama.gguf import whole_header
from specdec.llama.library import gpu_names
from specdec.llama.model import LlamaModel, runs_on_gpu
from specdec.llama.target import LlamaTarget
from specdec.models import model_path
from specdec.profile import plan
from specdec.profile.plan import Setting
from specdec.profile.spec import ProfileSpec
from specdec.registry import Planned, Registry, default_strategies
from specdec.rollback import SNAPSHOT_RESERVE, snapshots_short_of
from specdec.runner.cap import Cap, hold_cap
from specdec.types import Sampling, TokenArray
from specdec.vram import memory as parts
from specdec.vram.overheads import DENSE_SCRATCH, EXPERTS_SCRATCH, KERNELS
from specdec.workloads import load_prompts

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A loaded model and everything that is to be measured on it."""

    spec: ProfileSpec
    model: LlamaModel
    sampling: Sampling
    settings: list[Setting]
    depths: tuple[int, ...]
    settle: int
    text: TokenArray
    n_ctx: int
    seconds: float
    card: str
    cap: Cap

    def close(self) -> None:
        """Free the weights, then what is held of the GPU."""
        self.model.close()
        self.cap.close()


def prepare(spec: ProfileSpec, say: Say) -> Job:
    """Load the model, choose strategies and depths, and find out how long it will take."""
    path = model_path(spec.target)
    header = whole_header(path)
    planned = strategies_of(spec, header.nextn_layers > 0 or bool(spec.mtp_model))
    probes = [p.build() for p in planned]
    for probe in probes:
        probe.check(header)
    say(f"Loading {path.name} ({header.file_bytes / 1e9:.2f} GB)")
    options = spec.model.model_copy(update={"threads": spec.threads[0]})
    cap = hold_cap(spec, True, say)
    try:
        model = LlamaModel(path, options, mtp=any("mtp_layer" in p.needs for p in probes))
    except BaseException:
        cap.close()
        raise
    try:
        say(f"Loaded in {model.load_s:.1f} s: {model.description}")
        return _job(spec, model, planned, cap, say)
    except BaseException:
        model.close()
        cap.close()
        raise


def _job(spec: ProfileSpec, model: LlamaModel, planned: list[Planned], cap: Cap, say: Say) -> Job:
    if spec.experts and not int(model.header.get("expert_count", 0)):
        raise SpecdecError("--experts: this model has no experts to count.", "Leave --experts out.")
    threads = [t or model.threads for t in spec.threads]
    drafting = plan.strategy_settings(planned, model.recurrent, spec.n_max, threads[0])
    passes = {*spec.passes, *(s.longest + 1 for s in drafting)}  # the curve reaches as far as any draft
    settings = plan.text_settings(model.recurrent, passes, threads) + drafting
    t1, per_prompt_token = _first_look(model)
    limit = spec.model.ctx_size or int(model.header.get("context_length", 0))
    depths = spec.depths or plan.default_depths(limit, per_prompt_token, len(settings), spec.repeats)
    longest = max(s.longest for s in settings)
    n_ctx = plan.context_of(depths[-1], longest)
    if limit and n_ctx > limit and spec.depths:
        raise SpecdecError(
            f"--depths {depths[-1]}: with room for drafts that needs a context of {n_ctx:,} tokens, this model has"
            f" {limit:,}.",
            f"Use depths of up to {max(16, limit - plan.room_beyond(longest, limit) - 256):,}.",
        )
    settings = _affordable(settings, spec, model, n_ctx, say)
    on_gpu = runs_on_gpu(spec.model)
    settle = 2 if on_gpu else 1
    seconds = plan.seconds(settings, depths, spec.repeats, settle, t1, per_prompt_token)
    sampling = spec.sampling.resolve(model.recommended_sampling, spec.seed)
    text = _text(model, n_ctx)
    card = cap.label(" + ".join(gpu_names()) if on_gpu else "CPU")
    return Job(spec, model, sampling, settings, tuple(depths), settle, text, n_ctx, seconds, card, cap)


def _affordable(settings: list[Setting], spec: ProfileSpec, model: LlamaModel, n_ctx: int, say: Say) -> list[Setting]:
    """Those whose snapshots fit beside the model and everything else that is open then: the target's context, the
    strategy's own, and for the curve the state that checkpoints on the device keep. In a run ``auto`` would take
    checkpoints instead; here the setting is left out."""
    if not any(s.snapshots for s in settings):
        return settings
    target = LlamaTarget(model, n_ctx)
    buffers = target.buffers
    target.close()
    states = [item for item in buffers if item.kind == "recurrent"]
    scratch = EXPERTS_SCRATCH if int(model.header.get("expert_count", 0)) else DENSE_SCRATCH
    reserve = scratch + KERNELS  # a few were loaded by now; each kind of pass brings more
    reserve += 0 if spec.vram_limit else SNAPSHOT_RESERVE  # a cap has taken its reserve off already
    kept = []
    for setting in settings:
        left = free_bytes()
        for item in buffers + (states if setting.strategy == plan.TEXT else []):
            if item.device in left:
                left[item.device] -= item.bytes
        own = _own_bytes(setting, model, n_ctx) if setting.snapshots else 0
        short = snapshots_short_of(setting.snapshots, states, left, reserve + own)
        if short:
            say(f"warning: {setting_name(setting)} is left out: {short}")
        else:
            kept.append(setting)
    return kept


def _own_bytes(setting: Setting, model: LlamaModel, n_ctx: int) -> int:
    """What the setting's strategy will take of a GPU by itself; the weights of the target's MTP layer are loaded now."""
    if setting.planned is None or not runs_on_gpu(model.options):
        return 0
    strategy = setting.planned.build()
    try:
        items = strategy.expected_memory(model.header, model.options, n_ctx)
    except SpecdecError:
        return 0  # an architecture of which the planner does not know the memory: only the snapshots are looked at
    loaded = parts.mtp_weights(model.header, model.options) if "mtp_layer" in strategy.needs else []
    return parts.on(parts.GPU, items) - parts.on(parts.GPU, loaded)


def _first_look(model: LlamaModel) -> tuple[float, float]:
    """Seconds of a plain token and of a prompt's token, each from a few decodes."""
    target = LlamaTarget(model, 512)
    try:
        target.warm_up()
        ids = np.zeros(128, np.int32)
        began = perf_counter()
        target.decode(ids, 0, "last")
        prompt = (perf_counter() - began) / len(ids)
        began = perf_counter()
        for i in range(4):
            target.decode(ids[:1], len(ids) + i, "last")
        return (perf_counter() - began) / 4, prompt
    finally:
        target.close()


def _text(model: LlamaModel, n: int) -> TokenArray:
    """At least ``n`` tokens of the shipped prompts' text, repeated where they do not suffice."""
    parts: list[TokenArray] = []
    have = 0
    for prompt in load_prompts([]):
        body = prompt.text or "\n\n".join(m.content for m in prompt.messages)
        parts.append(model.tokenize(body, special=not parts))
        have += len(parts[-1])
        if have >= n:
            break
    return np.resize(np.concatenate(parts), max(n, have))


def strategies_of(spec: ProfileSpec, has_mtp: bool) -> list[Planned]:
    """What was named; else all that this target, and the draft model if there is one, can do."""
    named = spec.strategies or default_strategies(has_mtp, bool(spec.draft), spec.strategy_files)
    defaults: dict[str, dict[str, Any]] = {
        "draft": {"model": spec.draft, "n_max": spec.n_max},
        "mtp": {"model": spec.mtp_model, "n_max": spec.n_max},
    }
    return Registry(spec.strategy_files).plan(named, defaults)


def context_for(spec: ProfileSpec) -> int:
    """Tokens of context that the named depths need, whichever of its strategies the target can serve; 0 where no depth
    is named."""
    drafts = [p.build().longest_draft for p in strategies_of(spec, has_mtp=True)]
    return plan.context_of(max(spec.depths), max(*spec.passes, spec.n_max, *drafts)) if spec.depths else 0


def setting_name(setting: Setting) -> str:
    what = "the curve" if setting.strategy == plan.TEXT else setting.strategy
    snapshots = f", {setting.snapshots} snapshots" if setting.snapshots else ""
    mode = "" if setting.mode == "auto" else f", {setting.mode}"
    return f"{what}{snapshots}{mode}, {setting.threads} threads"
