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
class Flags:
    """A group of options."""

    def values(self) -> dict[str, object]:
        """As the part of a specification has them that they are of."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Models(Flags):
    """The target and what drafts for it."""

    target: o.Target = "demo"
    draft: o.DraftFile = ""
    mtp_model: o.MtpFile = ""

    @property
    def demo(self) -> bool:
        """Whether the target is the demo model."""
        return self.target == "demo"

    def announce(self) -> None:
        """Say so where the user named no model."""
        if self.demo:
            typer.echo("Target: the demo model that comes with specdec (tiny, knows code and documentation).", err=True)


@dataclass(frozen=True, slots=True)
class PromptFlags(Flags):
    """Which prompts."""

    workloads: o.Workloads = ""
    prompts: o.PromptFiles = field(default_factory=list)
    limit: o.Limit = 5

    def values(self) -> dict[str, object]:
        """As a ``RunSpec`` has them."""
        workloads, files = split(self.workloads), tuple(self.prompts)
        return {"workloads": workloads, "prompt_files": files, "limit": self.limit or None}


@dataclass(frozen=True, slots=True)
class TextFlags(Flags):
    """How a text goes on and where it ends."""

    n_predict: o.NPredict = 256
    seed: o.Seed = 0
    ignore_eos: o.IgnoreEos = False
    stop: o.Stop = field(default_factory=list)
    thinking: o.Thinking = False

    def values(self) -> dict[str, object]:
        """As a ``RunSpec`` has them."""
        return Flags.values(self) | {"stop": tuple(self.stop)}


@dataclass(frozen=True, slots=True)
class Measuring(Flags):
    """How often each cell runs, and what it may take."""

    repeats: o.Repeats = 1
    launches: o.Launches = 1
    launch_pause: o.LaunchPause = 0.0
    warmup: o.Warmup = 1
    carry_state: o.CarryState = False
    count_experts: o.CountExperts = False
    cell_timeout: o.CellTimeout = 0.0
    ram_limit: o.RamLimit = 0


@dataclass(frozen=True, slots=True)
class SamplingFlags(Flags):
    """How tokens are chosen."""

    sampling: o.SamplingMode = "greedy"
    temp: o.Temp = None
    top_k: o.TopK = None
    top_p: o.TopP = None
    min_p: o.MinP = None


@dataclass(frozen=True, slots=True)
class ContextFlags(Flags):
    """What decides about memory, wherever the layers lie."""

    ctx_size: o.CtxSize = 0
    batch_size: o.BatchSize = 2048
    ubatch_size: o.UbatchSize = 512
    flash_attn: o.FlashAttn = "auto"
    cache_type_k: o.CacheTypeK = "f16"
    cache_type_v: o.CacheTypeV = "f16"
    load_mode: o.LoadMode = "auto"
    no_mmap: o.NoMmap = False

    def values(self) -> dict[str, object]:
        """As ``ModelOptions`` has them."""
        given = Flags.values(self)
        if given.pop("no_mmap"):
            given["load_mode"] = "none"
        return given


@dataclass(frozen=True, slots=True)
class ModelFlags(ContextFlags):
    """How a model is loaded and its context made."""

    gpu_layers: o.GpuLayers = -1
    n_cpu_moe: o.NCpuMoe = 0
    override_tensor: o.OverrideTensor = field(default_factory=list)
    threads: o.Threads = 0
    threads_batch: o.ThreadsBatch = 0
    no_op_offload: o.NoOpOffload = False
    main_gpu: o.MainGpu = -1
    device: o.Device = ""

    def values(self) -> dict[str, object]:
        """As ``ModelOptions`` has them."""
        given = ContextFlags.values(self)
        return given | {"op_offload": not given.pop("no_op_offload")}


def split(text: str) -> tuple[str, ...]:
    """The parts of a comma list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


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
