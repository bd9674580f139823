"""What can be known before a process is started: strategies, their options, what the files' headers allow."""

from __future__ import annotations

from specdec.forced.teacher import Teacher
from specdec.llama.gguf import Header, whole_header
from specdec.models import model_path
from specdec.registry import Defaults, Planned, Registry
from specdec.runner.engines import check_engines
from specdec.server.process import find_binary
from specdec.spec import RunSpec


def plan_strategies(spec: RunSpec) -> list[Planned]:
    """The strategies that the run names, with ``--draft`` and ``--mtp-model`` filled in; the same in every process."""
    defaults: Defaults = {"draft": {"model": spec.draft}, "mtp": {"model": spec.mtp_model}}
    return Registry(spec.strategy_files).plan(spec.strategies, defaults)


def unused_options(spec: RunSpec, planned: list[Planned]) -> list[str]:
    """A line for each model and program that was given and that nothing takes."""
    given = (("--draft", "draft", spec.draft), ("--mtp-model", "mtp", spec.mtp_model))
    lines = [
        f"{option} is not used: no strategy is {name}"
        for option, name, file in given
        if file not in ("", "demo-draft") and not any(name in p.label for p in planned)
    ]
    if spec.llama_server and "llama-server" not in spec.engines:
        lines.append("--llama-server is not used: it goes with --with-llama-server or --engine llama-server")
    return lines


def check_headers(spec: RunSpec, planned: list[Planned], teacher: Teacher | None = None) -> Header:
    """The target's header; raises ``SpecdecError`` where it, a strategy's own model or the trace cannot serve."""
    check_engines(spec.engines)
    if "llama-server" in spec.engines:
        find_binary(spec.llama_server)
    header = whole_header(model_path(spec.target))
    for plan in planned:
        plan.build(teacher.single if teacher else None).check(header)
    if teacher is not None:
        teacher.check(header.arrays.get("tokenizer.ggml.tokens", 0))
    return header
