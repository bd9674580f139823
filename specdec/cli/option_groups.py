"""Options that go together, each group one parameter of a command, and the decorator that spreads them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

import typer

from specdec.cli import options as o


@dataclass(frozen=True, slots=True)
class Models:
    """The target and what drafts for it."""

    target: o.Target = "demo"
    draft: o.DraftFile = ""
    mtp_model: o.MtpFile = ""

    @property
    def demo(self) -> bool:
        """Whether the target is the demo model."""
        return self.target == "demo"

    def values(self) -> dict[str, object]:
        """As a ``RunSpec`` has them."""
        return asdict(self)

    def announce(self) -> None:
        """Say so where the user named no model."""
        if self.demo:
            typer.echo("Target: the demo model that comes with specdec (tiny, knows code and documentation).", err=True)


@dataclass(frozen=True, slots=True)
class SamplingFlags:
    """How tokens are chosen."""

    sampling: o.SamplingMode = "greedy"
    temp: o.Temp = None
    top_k: o.TopK = None
    top_p: o.TopP = None
    min_p: o.MinP = None

    def values(self) -> dict[str, object]:
        """As ``SamplingOptions`` has them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelFlags:
    """How a model is loaded and its context made."""

    gpu_layers: o.GpuLayers = -1
    n_cpu_moe: o.NCpuMoe = 0
    override_tensor: o.OverrideTensor = field(default_factory=list)
    load_mode: o.LoadMode = "auto"
    no_mmap: o.NoMmap = False
    threads: o.Threads = 0
    threads_batch: o.ThreadsBatch = 0
    ctx_size: o.CtxSize = 0
    batch_size: o.BatchSize = 2048
    ubatch_size: o.UbatchSize = 512
    flash_attn: o.FlashAttn = "auto"
    cache_type_k: o.CacheTypeK = "f16"
    cache_type_v: o.CacheTypeV = "f16"
    no_op_offload: o.NoOpOffload = False
    main_gpu: o.MainGpu = -1
    device: o.Device = ""

    def values(self) -> dict[str, object]:
        """As ``ModelOptions`` has them."""
        given = asdict(self)
        if given.pop("no_mmap"):
            given["load_mode"] = "none"
        given["op_offload"] = not given.pop("no_op_offload")
        return given


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of a group's type are spread: Typer sees the group's options in its place.

    A parameter of the command's own takes the place of an option of that name; the group then has its default.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    own = inspect.signature(command).parameters
    spread: dict[str, inspect.Parameter] = {}
    members: dict[str, list[str]] = {}
    for name, parameter in own.items():
        if name in groups:
            options = [p for p in _options(groups[name]) if p.name not in own or p.name in groups]
            members[name] = [p.name for p in options]
            spread |= {p.name: p for p in options}
        else:
            spread[name] = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)

    @wraps(command)
    def run(**given: Any) -> None:
        made = {g: groups[g](**{name: given.pop(name) for name in names}) for g, names in members.items()}
        command(**given, **made)

    run.__signature__ = inspect.Signature(list(spread.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in spread.values()}
    return run


def _options(group: Any) -> list[inspect.Parameter]:
    hints, kind = get_type_hints(group, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    defaults = group()
    return [inspect.Parameter(f.name, kind, default=getattr(defaults, f.name), annotation=hints[f.name])
            for f in fields(group)]  # fmt: skip
