"""Takes a profile: loads the model, goes through the settings, stores every step that was timed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from specdec.environment import describe_machine, describe_model, describe_strategy
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.profile import plan
from specdec.profile.bench import Bench
from specdec.profile.job import Job, Say, prepare, setting_name
from specdec.profile.plan import SWEEPS, Setting, sweeps
from specdec.profile.spec import ProfileSpec
from specdec.profile.stage import Script, Scripted
from specdec.rollback import SNAPSHOT_LIMIT
from specdec.store import RunWriter, Sample, check_writable, create
from specdec.strategy import Services


def take_profile(spec: ProfileSpec, results: Path, say: Say) -> Path:
    """Measure and store a profile; returns the run's folder."""
    check_writable(results)
    job = prepare(spec, say)
    try:
        depths = ", ".join(f"{d:,}" for d in job.depths)
        say(f"{len(job.settings)} settings at depths {depths}: about {_minutes(job.seconds)}")
        with create(results, _meta(job)) as writer:
            say(f"Writing {writer.folder}")
            for sweep in range(sweeps(spec.repeats)):
                for setting in job.settings:
                    say(f"Sweep {sweep + 1} of {sweeps(spec.repeats)}: {setting_name(setting)}")
                    _keep(writer, measure(job, setting, sweep))
            if spec.experts:
                say("Counting distinct experts (not timed)")
                _keep(writer, count_experts(job))
            writer.finish()
            return writer.folder
    finally:
        job.close()


def measure(job: Job, setting: Setting, sweep: int) -> Iterator[Sample]:
    """All lines of one setting in one sweep: prompts, blocks of steps, checkpoints."""
    model, spec = job.model, job.spec
    model.options = model.options.model_copy(update={"threads": setting.threads})
    script = Script()
    text = job.text if not setting.looks_back else np.resize(job.text[: job.depths[0] // 2], job.n_ctx)
    inner = setting.planned.build() if setting.planned else None
    strategy = Scripted(inner, script, lambda i: int(text[i % len(text)]), setting.longest)
    target = LlamaTarget(model, job.n_ctx, setting.snapshots, setting.longest, "hidden_states" in strategy.needs)
    try:
        target.warm_up()
        facts = (model.n_vocab, target.n_ctx, model.width, model.threads)
        strategy.open(Services(*facts, sampling=job.sampling, target_model=model))
        bench = Bench(target, strategy, script, setting.mode, text, job.sampling)
        walk = 0 if setting.looks_back else None  # its text has to go on as it repeated
        rng = random.Random(f"{spec.seed} {sweep} {setting.strategy} {setting.mode} {setting.snapshots}")
        for depth in job.depths:
            yield _line(setting, depth, sweep, "prompt", bench.prefill(depth))
            if setting.strategy == plan.TEXT and model.recurrent:
                yield _line(setting, depth, sweep, "checkpoint", _checkpoints(bench, spec.repeats))
            for round_ in range(sweep, spec.repeats, SWEEPS):
                for series in ("constant", "changing"):
                    wants = (
                        plan.constant(setting, job.settle, round_, rng)
                        if series == "constant"
                        else plan.changing(setting, rng)
                    )
                    if wants:
                        body = {"series": series, "round": round_, **bench.run(wants, walk).as_dict()}
                        yield _line(setting, depth, sweep, "steps", body, f"{series} {round_}")
    finally:
        strategy.close()
        target.close()


def count_experts(job: Job) -> Iterator[Sample]:
    """Distinct experts of each layer for passes of every length, on the text itself; and how long such a pass took."""
    passes = job.spec.passes
    setting = Setting(plan.TEXT, None, "auto", 0, tuple(n - 1 for n in passes), threads=job.settings[0].threads)
    target = LlamaTarget(job.model, job.n_ctx, 0, setting.longest, count_experts=True)
    text, script = job.text, Script()
    try:
        target.warm_up()
        bench = Bench(target, Scripted(None, script, lambda i: int(text[i]), 1), script, "auto", text, job.sampling)
        for depth in job.depths:
            for repeat in range(job.spec.repeats):
                start = depth + repeat * 16  # other tokens, other experts
                bench.prefill(start)
                for n in passes:
                    bench.rewind()
                    target.take_experts()
                    began = perf_counter()
                    target.decode(text[start - 1 : start - 1 + n], start - 1, "all")
                    body = {"n": n, "seconds": perf_counter() - began, "distinct": target.take_experts()}
                    yield _line(setting, depth, 0, "experts", body, f"{n} {repeat}")
    finally:
        target.close()


def _checkpoints(bench: Bench, repeats: int) -> dict[str, Any]:
    out: dict[str, Any] = {"bytes": bench.state_bytes()}
    for way, on_device in (("checkpoint", True), ("checkpoint-host", False)):
        pairs = [bench.checkpoint_seconds(on_device) for _ in range(repeats)]
        out[way] = {"save_s": [s for s, _ in pairs], "restore_s": [r for _, r in pairs]}
    return out


def _line(setting: Setting, depth: int, sweep: int, kind: str, body: dict[str, Any], more: str = "") -> Sample:
    """A stored line; the fields that name a generation in other runs name the block here (store.py)."""
    where = f"{setting.snapshots} snapshots, {setting.threads} threads, depth {depth}"
    return {
        "kind": kind,
        "engine": "specdec",
        "strategy": setting.strategy,
        "rollback": setting.mode,
        "snapshots": setting.snapshots,
        "threads": setting.threads,
        "looks_back": setting.looks_back,
        "depth": depth,
        "prompt": f"{kind}: {where} {more}".strip(),
        "turn": 0,
        "repeat": sweep,
        "launch": 0,
        "warmup": False,
        "status": "ok",
        "error": None,
        "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        **body,
    }


def _keep(writer: RunWriter, lines: Iterator[Sample]) -> None:
    for line in lines:
        writer.append(line)


def _meta(job: Job) -> dict[str, Any]:
    spec, model = job.spec, job.model
    planned = list(dict.fromkeys(s.planned for s in job.settings if s.planned))
    return {
        "kind": "profile",
        "spec": spec.model_dump(mode="json"),
        "given": spec.model_dump(mode="json", exclude_defaults=True),
        "labels": {"engine": "specdec", "label": "real", "card": job.card, "sampling": job.sampling.label},
        "strategies": [describe_strategy(p) for p in planned],
        "model": describe_model(model.header) | {"description": model.description, **_experts(model)},
        "context": {"n_ctx": job.n_ctx, "threads": job.settings[0].threads, "recurrent": model.recurrent},
        "snapshot_limit": SNAPSHOT_LIMIT,
        "depths": job.depths,
        "settle": job.settle,
        "sampling": asdict(job.sampling),
        "environment": describe_machine(),
    }


def _experts(model: LlamaModel) -> dict[str, Any]:
    return {"experts_used": model.header.get("expert_used_count")}


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
