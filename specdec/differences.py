"""What two runs do not have in common: settings, which make a comparison of speeds doubtful, and environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specdec.store import Run

_OF_THE_COMPARISON = {
    "target", "strategies", "strategy_files", "draft", "mtp_model", "workloads", "prompt_files", "limit", "repeats",
    "launches", "launch_pause", "warmup", "rollback", "model", "sampling", "trace", "group",
}  # fmt: skip
"""Options of a run that say what is compared or how often; the rest of them are settings."""

_OF_THE_MACHINE = ("threads", "device", "main_gpu")
"""Options of a model that are told by what they came to: the threads used, the card."""

_LABELS = ("label", "arm", "sampling", "thinking", "ignore_eos", "carry_state")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same in both runs."""

    what: str
    a: Any
    b: Any

    @property
    def line(self) -> str:
        """``threads: 8 / 16``."""
        return f"{self.what}: {_shown(self.a)} / {_shown(self.b)}"


def settings(a: Run, b: Run) -> list[Difference]:
    """Everything that must agree: prompts, options, labels, the model file."""
    x, y = a.meta, b.meta
    found = []
    if x["prompts_sha256"] != y["prompts_sha256"]:
        ours, theirs = ({p["id"]: p.get("tokens") for p in m["prompts"]} for m in (x, y))
        found.append(Difference("prompts", _prompts(ours, theirs), _prompts(theirs, ours)))
    if x["model"]["header_sha256"] != y["model"]["header_sha256"]:
        found.append(Difference("model", x["model"]["file"], y["model"]["file"]))
    recordings = [(m.get("teacher") or {}).get("sha256") for m in (x, y)]
    if recordings[0] != recordings[1]:
        found.append(Difference("recording", *(r and r[:12] for r in recordings)))
    found += _differing({k: x["labels"].get(k) for k in _LABELS}, {k: y["labels"].get(k) for k in _LABELS})
    options = [
        {k: v for k, v in m["spec"].items() if k not in _OF_THE_COMPARISON}
        | {f"--{k.replace('_', '-')}": v for k, v in m["spec"].get("model", {}).items() if k not in _OF_THE_MACHINE}
        | {"threads": m["context"].get("threads")}
        for m in (x, y)
    ]
    named = {d.what for d in found}
    return found + [d for d in _differing(*options) if d.what not in named]


def _prompts(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    shared = [p for p in ours if p in theirs]
    return f"{len(ours)} ({len(shared)} shared, {sum(ours[p] != theirs[p] for p in shared)} of them of other length)"


def environment(a: Run, b: Run) -> list[Difference]:
    """What may differ: the machine, versions, the code of strategies, how often prompts were repeated."""
    sides = []
    for run in (a, b):
        meta, machine = run.meta, run.meta["environment"]
        side = {"card": meta["labels"]["card"], "when": meta.get("started_at")}
        side |= {k: v for k, v in machine.items() if k not in ("packages", "git", "load_average", "gpus")}
        side["GPUs"] = [str(g.get("name")) for g in machine.get("gpus") or ()]
        side |= {f"{k} version": v for k, v in machine.get("packages", {}).items()}
        git = machine.get("git") or {}
        side["commit"] = git and f"{git.get('commit', '?')[:10]}{' (changed)' if git.get('dirty') else ''}"
        side |= {f"file of {s['label']}": (s.get("file_sha256") or "")[:10] for s in meta.get("strategies", ())}
        side |= {
            f"draft model of {s['label']}": s["model"]["file"] for s in meta.get("strategies", ()) if s.get("model")
        }
        side |= {k: meta["spec"].get(k, 1) for k in ("repeats", "launches")}
        side["minutes between launches"] = meta["spec"].get("launch_pause", 0.0)
        side["context"] = meta["context"].get("n_ctx")
        side["model path"] = meta["model"].get("file")
        sides.append(side)
    return [d for d in _differing(*sides) if d.what != "when"] + [
        Difference("when", sides[0]["when"], sides[1]["when"])
    ]


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[Difference]:
    keys = dict.fromkeys([*a, *b])
    of_one = ("file of", "draft model of")
    return [
        Difference(k, a.get(k), b.get(k))
        for k in keys
        if a.get(k) != b.get(k) and not (k.startswith(of_one) and (k not in a or k not in b))
    ]


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return ", ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)
