"""From a run's options, as it stores them, to the ``specdec compare`` that asks for them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from specdec.spec import LIMIT, QUICK_N_PREDICT, RunSpec, make_spec

_NAMES = {"strategy_files": "strategy", "prompt_files": "prompts"}
"""Options whose name on the command line is another."""
_COMMA_LISTS = ("workloads", "rollback", "synthetic")
_FIXED_BY_TRACE = ("ignore_eos", "thinking", "stop", "sampling")


def compare_command(options: Mapping[str, Any]) -> str:
    """The command, ready for a shell; what it does by default goes without saying.

    Args:
        options: of a ``RunSpec``, as ``run.json`` has them under ``spec``; those that are missing have their defaults,
            those that ``RunSpec`` does not have are ignored. Not of a run of a group: ``--card`` made it, with others.
    """
    asked = _whole(options)
    if asked["trace"]:
        asked = _whole({k: v for k, v in asked.items() if k not in _FIXED_BY_TRACE})
    words = ["specdec", "compare"]
    for name, value, usual in _beside(asked, _usual(asked)):
        words += _words(name, value) if value != usual else []
    return shlex.join(words)


def _whole(options: Mapping[str, Any], default: dict[str, Any] | None = None) -> dict[str, Any]:
    """All options and no other, each of ``options`` where it is there."""
    whole: dict[str, Any] = {}
    for name, usual in (default or RunSpec(target="demo").model_dump(mode="json")).items():
        value = options.get(name, usual)
        if isinstance(usual, dict):
            whole[name] = _whole(value or {}, usual)
        else:
            whole[name] = list(value) if isinstance(value, tuple) else value
    return whole


def _usual(asked: dict[str, Any]) -> dict[str, Any]:
    """What the command line makes of nothing but this target and these texts."""
    texts = {name: asked[name] for name in ("target", "prompt_files", "trace")}
    quick = {"limit": None, "n_predict": QUICK_N_PREDICT} if asked["quick"] else {"limit": LIMIT}
    usual = make_spec(**texts, **quick).model_dump(mode="json")
    return usual | {"target": "demo", "prompt_files": [], "trace": ""}


def _beside(asked: dict[str, Any], usual: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(option, its value, its usual value), the options of groups too."""
    found = []
    for name, value in asked.items():
        if isinstance(value, dict):
            found += _beside(value, usual[name])
        else:
            found.append((name, value, usual[name]))
    return found


def _words(name: str, value: Any) -> list[str]:
    """An option that is not as usual. Flags are off by default, all but ``op_offload``."""
    option = f"--{_NAMES.get(name, name).replace('_', '-')}"
    if name == "limit":
        return [option, str(value or 0)]
    if name == "engines":
        return ["--with-llama-server"] if len(value) > 1 else ["--engine", *value]
    if name == "op_offload":
        return ["--no-op-offload"]
    if value in (None, "", []):
        return []
    if isinstance(value, bool):
        return [option]
    if name in _COMMA_LISTS:
        return [option, ",".join(map(str, value))]
    return [word for one in (value if isinstance(value, list) else [value]) for word in (option, str(one))]
