"""What a run is asked to do, checked at the border. Names and units are llama.cpp's where it has the option."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from specdec.demo import WORKLOADS
from specdec.errors import SpecdecError
from specdec.rollback import Mode
from specdec.types import Limits, Sampling

LIMIT = 5
"""Prompts a workload, where nothing is said."""
QUICK_N_PREDICT = 64
"""Length of a quick run's answers, where none is given; it takes all prompts, one after another, until it knows."""

MOST = 2**31 - 1
"""Of whole numbers: llama.cpp's are of 32 bits."""

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


class Checked(BaseModel):
    """Base of what comes from the command line: frozen, unknown names refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelOptions(Checked):
    """How a model is loaded and its context made: llama.cpp's long option names, with underscores."""

    gpu_layers: int = Field(-1, ge=-1, le=MOST)
    n_cpu_moe: int = Field(0, ge=0, le=MOST)
    override_tensor: tuple[str, ...] = ()
    load_mode: Literal["auto", "none", "mmap"] = "auto"
    threads: int = Field(0, ge=0, le=1024)
    threads_batch: int = Field(0, ge=0, le=1024)
    ctx_size: int = Field(0, ge=0, le=MOST)
    batch_size: int = Field(2048, ge=32, le=MOST)
    ubatch_size: int = Field(512, ge=16, le=MOST)
    flash_attn: Literal["auto", "on", "off"] = "auto"
    cache_type_k: CacheType = "f16"
    cache_type_v: CacheType = "f16"
    op_offload: bool = True
    main_gpu: int = Field(-1, ge=-1, le=MOST)
    device: str = ""

    @property
    def split(self) -> str:
        """Where the layers lie, in llama.cpp's words: ``--n-cpu-moe 31`` or ``-ngl 20``; ``all on the GPU``."""
        parts = [f"-ngl {self.gpu_layers}"] if self.gpu_layers >= 0 else []
        parts += [f"--n-cpu-moe {self.n_cpu_moe}"] if self.n_cpu_moe else []
        return " ".join(parts) or "all on the GPU"


class SamplingOptions(Checked):
    """``sampling``: greedy, or the GGUF's own recommendation (``model``); single values override it."""

    sampling: Literal["greedy", "model"] = "greedy"
    temp: float | None = Field(None, ge=0.0, le=100.0)
    top_k: int | None = Field(None, ge=0, le=MOST)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    min_p: float | None = Field(None, ge=0.0, le=1.0)

    def resolve(self, recommended: dict[str, float], seed: int) -> Sampling:
        """The sampling that is used, given what the GGUF recommends (``general.sampling.*``)."""
        o = self
        if o.sampling == "model" and not recommended:
            raise SpecdecError("--sampling model: this GGUF recommends no sampling.", "Give --temp, --top-k, --top-p.")
        base = recommended if o.sampling == "model" else {}
        temperature = o.temp if o.temp is not None else base.get("temp", 0.0)
        if temperature <= 0.0 and (o.top_k is not None or o.top_p is not None or o.min_p is not None):
            raise SpecdecError("--top-k, --top-p and --min-p do nothing in greedy decoding.", "Give --temp too.")
        return Sampling(
            temperature=temperature,
            top_k=int(o.top_k if o.top_k is not None else base.get("top_k", 0)),
            top_p=o.top_p if o.top_p is not None else base.get("top_p", 1.0),
            min_p=o.min_p if o.min_p is not None else base.get("min_p", 0.0),
            seed=seed,
        )


class RunSpec(Checked):
    """One run: what is compared on what."""

    target: str
    strategies: str = "ngram"
    strategy_files: tuple[str, ...] = ()
    draft: str = ""
    mtp_model: str = ""
    workloads: tuple[str, ...] = ()
    prompt_files: tuple[str, ...] = ()
    limit: int | None = Field(None, ge=1, le=MOST)
    n_predict: int = Field(256, ge=1, le=MOST)
    repeats: int = Field(1, ge=1, le=MOST)
    launches: int = Field(1, ge=1, le=MOST)
    launch_pause: float = Field(0.0, ge=0.0, le=1440.0, allow_inf_nan=False)
    warmup: int = Field(1, ge=0, le=MOST)
    seed: int = Field(0, ge=0, le=MOST)
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    thinking: bool = False
    carry_state: bool = False
    count_experts: bool = False
    rollback: tuple[Mode, ...] = ("auto",)
    snapshots: int | None = Field(None, ge=0, le=256)
    quick: bool = False
    synthetic: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...] = ()
    trace: str = ""
    sampling: SamplingOptions = SamplingOptions()
    model: ModelOptions = ModelOptions()
    engines: tuple[str, ...] = ("specdec",)
    llama_server: str = ""
    cell_timeout: float = Field(0.0, ge=0.0, le=1e6, allow_inf_nan=False)
    ram_limit: int = Field(0, ge=0, le=MOST)
    card: str = ""
    vram_limit: int = Field(0, ge=0, le=MOST)
    arm: Literal["same split", "same VRAM", "same split + same VRAM"] = "same split"
    group: str = ""

    @field_validator("synthetic")
    @classmethod
    def _not_increasing(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(b > a for a, b in pairwise(rates)):
            raise ValueError("the chance that more tokens are all accepted cannot be higher")
        return rates

    @model_validator(mode="after")
    def _quick_is_one_round(self) -> RunSpec:
        several = self.launches > 1 or self.repeats > 1 or self.launch_pause
        if self.quick and (several or len(self.engines) > 1):
            raise ValueError("--quick asks each strategy once a prompt: no --repeats, --launches or second engine")
        return self

    @model_validator(mode="after")
    def _pause_is_between_launches(self) -> RunSpec:
        if self.launch_pause and self.launches < 2:
            raise ValueError("--launch-pause is a pause between launches: name --launches 2 or more")
        return self

    @property
    def limits(self) -> Limits:
        """The length limits of each generation."""
        return Limits(self.n_predict, self.ignore_eos, self.stop)

    def resolve_sampling(self, recommended: dict[str, float]) -> Sampling:
        """The sampling that the run uses, given what the GGUF recommends (``general.sampling.*``)."""
        return self.sampling.resolve(recommended, self.seed)


_OPTIONS = {"passes": "lengths", "prompt_files": "prompts", "strategy_files": "strategy", "engines": "engine"}
"""Fields that the command line calls otherwise."""

Spec = TypeVar("Spec", bound=Checked)


def make_spec(command: str = "compare", /, **values: object) -> RunSpec:
    """A ``RunSpec``, or a one-line error that names the option of ``command`` and the fault."""
    return check(RunSpec, command, values)


def stored_spec(values: Mapping[str, object]) -> RunSpec:
    """The options of a stored run; a one-line error where they are another version's."""
    try:
        return RunSpec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(p) for p in first["loc"])
        raise SpecdecError(
            f"the run was made by another version of specdec: its option {name}: {first['msg']}.",
            "Use that version; run.json names it.",
        ) from error


def check(kind: type[Spec], command: str, values: Mapping[str, object]) -> Spec:
    """A specification of ``kind``, or a one-line error that names the option of ``command`` and the fault;
    ``command`` is the command line's, as ``compare``, or a function, as ``specdec.compare``.

    With the demo target, what is left open is filled with what comes along with it: its draft, its workloads.
    """
    try:
        return kind.model_validate({**values, **_for_demo(kind, values)})
    except ValidationError as error:
        first = error.errors()[0]
        places = [str(p) for p in first["loc"] if isinstance(p, str)]
        function = command.startswith("specdec.")
        place = places[-1] if places else ""
        option = "--" + _OPTIONS.get(place, place).replace("_", "-")
        name = (place if function else option) if places else command
        given = f" (given: {first['input']!r})" if places else ""
        what = first["msg"].removeprefix("Value error, ")
        more = f"See help({command})." if function else f"See specdec {command} --help."
        raise SpecdecError(f"{name}: {what}{given}.", more) from error


def _for_demo(kind: type[Spec], values: Mapping[str, object]) -> dict[str, object]:
    if values.get("target") != "demo":
        return {}
    filled: dict[str, object] = {} if values.get("draft") else {"draft": "demo-draft"}
    if "workloads" in kind.model_fields and not any(values.get(k) for k in ("workloads", "prompt_files", "trace")):
        filled["workloads"] = WORKLOADS
    return filled
