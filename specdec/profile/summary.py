"""A profile's figures beside the curve, as numbers: drafting, checkpoints, prompts, and how steady the sweeps were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specdec.profile.plan import TEXT
from specdec.profile.predict import Expected, expect, lengths_of
from specdec.profile.stored import Profile


@dataclass(frozen=True, slots=True)
class DraftCost:
    """A strategy at one draft length and depth: as if every draft were rejected whole, as if every one were kept whole."""

    strategy: str
    depth: int
    length: int
    never: Expected
    always: Expected

    @property
    def drafting_s(self) -> tuple[float, float]:
        """Seconds a step of drafting and catching up, (all rejected before, all kept before)."""
        return tuple(e.seconds["propose"] + e.seconds["catch_up"] for e in (self.never, self.always))  # type: ignore[return-value]

    @property
    def verify_s(self) -> float:
        """Seconds of the target pass."""
        return self.always.seconds["verify"]

    @property
    def undo_s(self) -> float:
        """Seconds of rolling back after all was rejected."""
        return self.never.seconds["roll_back"]

    @property
    def break_even(self) -> tuple[float, float]:
        """The mean acceptance length from which the length pays, lowest and highest."""
        low, high = sorted((self.always.break_even, self.never.break_even))
        return low, high


def draft_costs(profile: Profile) -> list[DraftCost]:
    """Every measured strategy at every measured depth and draft length."""
    found = []
    for strategy in dict.fromkeys(profile.strategies):
        for depth, costs in profile.drafting(strategy)[1].items():  # of a profile that was cut off, not all depths
            measured = set(costs.steps.drafted.tolist())
            for length in (k for k in lengths_of(profile, strategy) if k in measured):
                never = expect(profile, strategy, length, [0.0] * length, depth)
                always = expect(profile, strategy, length, [1.0] * length, depth)
                if never and always:
                    found.append(DraftCost(strategy, depth, length, never, always))
    return found


@dataclass(frozen=True, slots=True)
class Saved:
    """Saving and restoring a recurrent state: ``way`` (checkpoint: on the device; checkpoint-host), median seconds."""

    way: str
    depth: int
    bytes: int
    save_s: float
    restore_s: float


def checkpoints(profile: Profile) -> list[Saved]:
    """By way and depth."""
    found: dict[tuple[str, int], tuple[int, list[float], list[float]]] = {}
    for line in profile.lines("checkpoint"):
        for way in ("checkpoint", "checkpoint-host"):
            _, save, restore = found.setdefault((way, line["depth"]), (line["bytes"], [], []))
            save += line[way]["save_s"]
            restore += line[way]["restore_s"]
    return [
        Saved(way, depth, size, float(np.median(save)), float(np.median(restore)))
        for (way, depth), (size, save, restore) in sorted(found.items())
    ]


@dataclass(frozen=True, slots=True)
class PromptSpeed:
    """Tokens a second of reading a prompt from ``start`` to ``end``: the target's alone, and with the strategy's work."""

    strategy: str
    start: int
    end: int
    target_tok_s: float
    tok_s: float


def prompt_speeds(profile: Profile) -> list[PromptSpeed]:
    """From the start or from the depth before, to each depth; ``none`` first."""
    found: dict[tuple[str, int, int], list[tuple[int, float, float]]] = {}
    for line in profile.lines("prompt"):
        if line["threads"] == profile.threads and line["tokens"] > 0 and not line["looks_back"]:
            if line["strategy"] == TEXT and (line["snapshots"] or line["rollback"] != "auto"):
                continue
            key = (line["strategy"], line["start"], line["start"] + line["tokens"])
            found.setdefault(key, []).append((line["tokens"], line["target_s"], line["strategy_s"]))
    speeds = []
    for (strategy, start, end), values in found.items():
        tokens, target, own = (float(v) for v in np.median(np.array(values), axis=0))
        name = "none" if strategy == TEXT else strategy
        speeds.append(PromptSpeed(name, start, end, tokens / target, tokens / (target + own)))
    return speeds


def sweep_medians(profile: Profile) -> list[float]:
    """Milliseconds of plain decoding in each sweep over all points."""
    medians: dict[int, list[float]] = {}
    for line in profile.lines("steps"):
        if line["strategy"] == TEXT and line["snapshots"] == 0 and line["threads"] == profile.threads:
            ones = [
                us
                for us, k, counted in zip(line["phase_us"]["verify"], line["drafted"], line["counted"], strict=True)
                if counted and k == 0 and line["series"] == "constant"
            ]
            medians.setdefault(line["repeat"], []).extend(ones)
    return [float(np.median(v)) / 1e3 for v in medians.values() if v]
