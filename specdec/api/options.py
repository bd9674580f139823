"""The words of the Python functions: those of the command line, with underscores. Defaults are the specifications'."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, get_origin

from specdec.errors import SpecdecError
from specdec.rollback import Mode
from specdec.spec import CacheType, Checked, ModelOptions, SamplingOptions, Spec, check

Path = str | os.PathLike[str]


class ModelWords(TypedDict, total=False):
    """How the model is loaded: llama.cpp's long option names."""

    gpu_layers: int
    n_cpu_moe: int
    override_tensor: Sequence[str]
    load_mode: Literal["auto", "none", "mmap"]
    threads_batch: int
    ctx_size: int
    batch_size: int
    ubatch_size: int
    flash_attn: Literal["auto", "on", "off"]
    cache_type_k: CacheType
    cache_type_v: CacheType
    op_offload: bool
    main_gpu: int
    device: str


class SamplingWords(TypedDict, total=False):
    """How tokens are chosen."""

    sampling: Literal["greedy", "model"]
    temp: float
    top_k: int
    top_p: float
    min_p: float
    seed: int


class CommonWords(ModelWords, SamplingWords, total=False):
    """What a comparison and a profile share."""

    draft: Path
    mtp_model: Path
    vram_limit: int


class CompareWords(CommonWords, total=False):
    """All words of ``specdec.compare`` but those in its signature. ``specdec compare --help`` says what each means."""

    threads: int
    prompts: Path | Sequence[Path]
    repeats: int
    launches: int
    launch_pause: float
    warmup: int
    rollback: str | Sequence[Mode]
    snapshots: int
    synthetic: Sequence[float]
    trace: Path
    ignore_eos: bool
    stop: str | Sequence[str]
    thinking: bool
    carry_state: bool
    count_experts: bool
    cell_timeout: float
    ram_limit: int
    engine: str
    with_llama_server: bool
    llama_server: Path


class ProfileWords(CommonWords, total=False):
    """All words of ``specdec.take_profile`` but those in its signature. ``specdec profile --help`` says what each means."""

    threads: int | Sequence[int]
    depths: Sequence[int]
    lengths: Sequence[int]
    n_max: int
    repeats: int
    experts: bool


class ReplayWords(TypedDict, total=False):
    """All words of ``specdec.replay_trace`` but those in its signature. ``specdec replay --help`` says what each means."""

    search: bool
    trials: int
    costs: Path
    held_out: float
    n_predict: int
    carry_state: bool
    jobs: int
    seed: int


_GROUPS: dict[str, type[Checked]] = {"sampling": SamplingOptions, "model": ModelOptions}
_OTHER_NAMES = {"prompts": "prompt_files", "lengths": "passes"}
"""The command line's word to the specification's."""
_COMMA_LISTS = frozenset(("workloads", "rollback", "synthetic"))


def specification(
    kind: type[Spec], function: str, known: type, own: Mapping[str, Any], words: Mapping[str, Any]
) -> Spec:
    """A specification out of flat words; a word that is None counts as not given.

    Args:
        kind: the specification's class.
        function: whose words they are, for errors: ``specdec.compare``.
        known: the TypedDict that lists the function's words.
        own: what the function has settled itself, by the specification's names.
        words: what else was asked for.

    Raises:
        SpecdecError: a word that there is not, or a value that will not do; one line that names it.
    """
    names: frozenset[str] = known.__optional_keys__  # type: ignore[attr-defined]
    if unknown := sorted(words.keys() - names):
        close = difflib.get_close_matches(unknown[0], sorted(names | own.keys()), n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(names | own.keys()))}."
        raise SpecdecError(f"{function}: there is no option {unknown[0]!r}.", hint)
    values: dict[str, Any] = {}
    for word, value in (dict(own) | dict(words)).items():
        name = _OTHER_NAMES.get(word, word)
        group = _group(kind, name)
        fields = _GROUPS[group].model_fields if group else kind.model_fields
        if value is not None:
            place = values.setdefault(group, {}) if group else values
            place[name] = _plain(name, value, get_origin(fields[name].annotation) is tuple)
    return check(kind, function, values)


def _group(kind: type[Checked], name: str) -> str | None:
    """The group of the specification that a word belongs to; None: it stands on its own."""
    if name in kind.model_fields and name not in _GROUPS:
        return None
    return next(g for g, options in _GROUPS.items() if name in options.model_fields)


def _plain(name: str, value: Any, many: bool) -> Any:
    """Paths as text; where the specification wants several, a comma list or a single value is several."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not many:
        return value
    if isinstance(value, str):
        return tuple(v.strip() for v in value.split(",") if v.strip()) if name in _COMMA_LISTS else (value,)
    return tuple(_plain(name, v, False) for v in value) if isinstance(value, Iterable) else (value,)
