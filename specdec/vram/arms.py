"""The strategies of a run as cases to plan for."""

from __future__ import annotations

from specdec.demo import model_path
from specdec.errors import SpecdecError
from specdec.llama.gguf import Header
from specdec.registry import Defaults, Registry
from specdec.spec import RunSpec
from specdec.vram.items import Case
from specdec.vram.memory import whole_header

CONTEXT = 8192
"""Tokens of context that are planned for where the run names none."""


def header_of(spec: RunSpec) -> Header:
    """The target's header, of all its parts."""
    header = whole_header(model_path(spec.target))
    if not header.has_trunk:
        raise SpecdecError(
            f"{header.path.name} holds an MTP layer alone, not a whole model.", "Give it as --mtp-model."
        )
    return header


def cases_of(spec: RunSpec, header: Header) -> list[Case]:
    """The strategies that are named, ``none`` first; where none is, all that the files given allow."""
    mtp = header.nextn_layers > 0 or bool(spec.mtp_model)
    named = spec.strategies or ",".join(["mtp"] * mtp + ["draft"] * bool(spec.draft) + ["ngram"])
    defaults: Defaults = {"draft": {"model": spec.draft}, "mtp": {"model": spec.mtp_model}}
    planned = Registry(spec.strategy_files).plan(named, defaults)
    for plan in planned:
        plan.build().check(header)
    n_ctx = spec.model.ctx_size or CONTEXT
    return [Case(p, n_ctx, spec.rollback[0], spec.snapshots) for p in planned]
