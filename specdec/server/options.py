"""specdec's options in llama-server's words (common/arg.cpp): the model's, and each strategy's that has a counterpart."""

from __future__ import annotations

from typing import Any

from specdec.models import model_path
from specdec.registry import Planned
from specdec.server.process import Binary
from specdec.spec import ModelOptions

ALL_LAYERS = "999"
_KEEPS_STATE = ("ngram-mod",)
_TYPES = {"ngram-simple": "ngram-simple", "ngram-mod": "ngram-mod", "mtp": "draft-mtp", "draft": "draft-simple"}
_DRAFTING = {"n_max", "n_min", "p_min", "model"}
_MAPPED: dict[str, set[str]] = {
    "none": set(),
    "ngram-simple": {"size_n", "size_m"},
    "ngram-mod": {"n_match", "n_min", "n_max"},
    "mtp": _DRAFTING,
    "draft": _DRAFTING | {"gpu_layers", "threads", "cache_type_k", "cache_type_v"},
}
"""Options that have a counterpart; any other must stand at its default, which is what llama-server does."""
_QUIET = ("--no-ui", "--no-webui")


class NoCounterpart(Exception):
    """llama-server cannot do what this strategy does. The message says why, in a clause."""


def model_arguments(target: str, options: ModelOptions, n_ctx: int, threads: int) -> list[str]:
    """Loading, offload and context as specdec's own engine has them; one slot."""
    o = options
    arguments = ["--model", str(model_path(target)), "--parallel", "1", "--ctx-size", str(n_ctx)]
    arguments += ["--threads", str(threads), "--threads-batch", str(o.threads_batch or threads)]
    arguments += ["--batch-size", str(min(o.batch_size, n_ctx)), "--ubatch-size", str(min(o.ubatch_size, n_ctx))]
    arguments += ["--gpu-layers", ALL_LAYERS if o.gpu_layers < 0 else str(o.gpu_layers), "--flash-attn", o.flash_attn]
    arguments += ["--cache-type-k", o.cache_type_k, "--cache-type-v", o.cache_type_v]
    arguments += ["--n-cpu-moe", str(o.n_cpu_moe)] if o.n_cpu_moe else []
    arguments += ["--override-tensor", ",".join(o.override_tensor)] if o.override_tensor else []
    arguments += ["--load-mode", o.load_mode] if o.load_mode != "auto" else []
    arguments += [] if o.op_offload else ["--no-op-offload"]
    arguments += ["--main-gpu", str(o.main_gpu), "--split-mode", "none"] if o.main_gpu >= 0 else []
    return arguments + (["--device", o.device] if o.device else [])


def measuring_arguments(binary: Binary, checkpoints: bool) -> list[str]:
    """What keeps a measurement clean, where the build knows it: nothing is fitted behind our back, no prompt is kept
    between requests, no page is served; without conversations no context checkpoints, which nothing would use."""
    wanted = [["--fit", "off"], ["--cache-ram", "0"], ["--metrics"]]
    wanted += [] if checkpoints else [["--ctx-checkpoints", "0"]]
    wanted += [[name] for name in _QUIET if name in binary.options][:1]
    return [word for words in wanted if words[0] in binary.options for word in words]


def strategy_arguments(planned: Planned, options: ModelOptions, threads: int) -> list[str]:
    """The options of a strategy, every one of them stated.

    Raises:
        NoCounterpart: it, or an option of it, is specdec's alone.
    """
    name, o = planned.found.cls.name, planned.resolved
    if planned.found.origin.split(" (")[0] != "built in" or name not in _MAPPED:
        raise NoCounterpart("llama-server has no such strategy")
    for option, field in planned.found.cls.Options.model_fields.items():
        if option not in _MAPPED[name] and o[option] != field.default:
            raise NoCounterpart(f"llama-server has no option like {option}={o[option]}")
    return [] if name == "none" else ["--spec-type", _TYPES[name], *_BUILDERS[name](o, options, threads)]


def keeps_state(planned: Planned) -> bool:
    """Whether llama-server's version learns from request to request, and cannot be told to forget."""
    return planned.found.cls.name in _KEEPS_STATE


def _ngram_simple(o: dict[str, Any], _options: ModelOptions, _threads: int) -> list[str]:
    return ["--spec-ngram-simple-size-n", str(o["size_n"]), "--spec-ngram-simple-size-m", str(o["size_m"])]


def _ngram_mod(o: dict[str, Any], _options: ModelOptions, _threads: int) -> list[str]:
    return [
        w for key in ("n_match", "n_min", "n_max") for w in (f"--spec-ngram-mod-{key.replace('_', '-')}", str(o[key]))
    ]


def _drafting(o: dict[str, Any]) -> list[str]:
    return [w for key in ("n_max", "n_min", "p_min") for w in (f"--spec-draft-{key.replace('_', '-')}", str(o[key]))]


def _caches(k: str, v: str) -> list[str]:
    return ["--spec-draft-type-k", k, "--spec-draft-type-v", v]


def _mtp(o: dict[str, Any], options: ModelOptions, _threads: int) -> list[str]:
    own = ["--spec-draft-model", str(model_path(o["model"]))] if o["model"] else []
    return [*_drafting(o), *own, *_caches(options.cache_type_k, options.cache_type_v)]


def _draft(o: dict[str, Any], _options: ModelOptions, threads: int) -> list[str]:
    layers = ALL_LAYERS if o["gpu_layers"] < 0 else str(o["gpu_layers"])
    arguments = ["--spec-draft-model", str(model_path(o["model"])), *_drafting(o), "--spec-draft-ngl", layers]
    own = str(o["threads"] or threads)
    arguments += ["--spec-draft-threads", own, "--spec-draft-threads-batch", own]
    return arguments + _caches(o["cache_type_k"], o["cache_type_v"])


_BUILDERS = {"ngram-simple": _ngram_simple, "ngram-mod": _ngram_mod, "mtp": _mtp, "draft": _draft}
