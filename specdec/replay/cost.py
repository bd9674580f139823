"""What a step costs, for predicting speed from counts: a target pass over n tokens, and what goes with it.

A step with a draft of d tokens costs T(d + 1), the target pass, and the rest: drafting, rolling back, sampling. T and
the rest are properties of a machine, a model and its placement; acceptance is a property of texts. So a replay on one
machine predicts the speed on any machine whose costs are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from specdec.errors import SpecdecError
from specdec.registry import Registry
from specdec.store import Run, read_run
from specdec.syntax import Call, parse

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]

_STALL = 5.0
"""A pass that took this many times the median of its length was held up by something else."""
_FEWEST = 3
"""Passes of one length from which its mean is taken."""


class CostModel(Protocol):
    """Seconds of steps on one machine."""

    @property
    def name(self) -> str:
        """Where it comes from: goes into the results."""

    @property
    def card(self) -> str:
        """The machine whose speed it predicts."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of the target passes that were measured; between them costs are guessed."""

    def seconds(self, strategy: str, drafted: Ints, accepted: Ints, n_prompt: int) -> dict[str, Floats]:
        """Seconds by phase of each step of one generation, in order, float64 [steps].

        ``strategy`` is a canonical label, ``n_prompt`` the depth of the first step; phases that are not known apart are
        booked under the one they belong to.
        """


@dataclass(frozen=True, slots=True)
class Curve:
    """T(n) at measured lengths, straight lines between them, and the rest of a step by strategy.

    Args:
        name: where it comes from; card: the machine.
        verify_s: seconds of a target pass over n tokens, by n.
        rest_s: strategy name to (seconds a step, seconds a draft token); the entry ``""`` serves all others.
    """

    name: str
    card: str
    verify_s: dict[int, float]
    rest_s: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def lengths(self) -> list[int]:
        return sorted(self.verify_s)

    def seconds(self, strategy: str, drafted: Ints, accepted: Ints, n_prompt: int) -> dict[str, Floats]:
        a_step, a_token = self.rest_s.get(strategy.partition("(")[0], self.rest_s.get("", (0.0, 0.0)))
        return {"verify": self._passes(drafted + 1), "propose": a_step + a_token * drafted.astype(np.float64)}

    def _passes(self, n: Ints) -> Floats:
        lengths = np.array(sorted(self.verify_s), np.float64)
        times = np.array([self.verify_s[int(x)] for x in lengths])
        inside = np.interp(n, lengths, times)
        if len(lengths) < 2:
            return np.asarray(inside)
        slope = max(0.0, (times[-1] - times[-2]) / (lengths[-1] - lengths[-2]))
        return np.asarray(inside + slope * np.maximum(0.0, n - lengths[-1]))


class ProfileCosts:
    """A profile (``specdec profile``): each step after the step before it, at its depth, phase by phase."""

    def __init__(self, run: Run) -> None:
        from specdec.profile.stored import Profile

        self._profile = Profile(run)
        self._needing = {name for name, found in Registry().known.items() if found.cls.needs}
        self.name = f"profile {run.id}"
        self.card = str(run.meta["labels"]["card"])

    @property
    def lengths(self) -> list[int]:
        points = (c.verify_points for c in self._profile.plain().values())
        return sorted({n for point in points for by_length in point.values() for n in by_length})

    def seconds(self, strategy: str, drafted: Ints, accepted: Ints, n_prompt: int) -> dict[str, Floats]:
        from specdec.profile.predict import Arm, first_token_seconds, predict_steps

        call = parse(strategy)[0]
        options = dict(call.options)
        longest, p_min = options.get("n_max", drafted.max(initial=0)), options.get("p_min", 0.0)
        name = self._measured(call)
        kept = self._profile.drafting(name)[0].snapshots if name in self._profile.strategies else 0
        arm = Arm(
            name, snapshots=min(kept, int(longest)), n_max=int(longest), p_min=float(p_min)
        )  # as a run keeps them
        counts = drafted.astype(np.int64), accepted.astype(np.int64)
        phases = {
            name: np.asarray(s, np.float64) for name, s in predict_steps(*counts, self._profile, arm, n_prompt).items()
        }
        if len(drafted):  # choosing the first token belongs to a generation's time
            first = np.zeros(len(drafted))
            first[0] = first_token_seconds(self._profile, n_prompt)
            phases["sample"] = phases["sample"] + first
        return phases

    def _measured(self, call: Call) -> str:
        """The strategy as the profile knows it. What drafts without a model and was not measured drafts for nothing:
        the n-grams take microseconds a step, a target pass milliseconds."""
        from specdec.profile.plan import TEXT

        if call.name == "none" or call.name in self._profile.strategies:
            return call.name
        needing = [name for name in _names(call) if name in self._needing]
        if needing:
            raise SpecdecError(
                f"{self.name}: did not measure {call.name} with {needing[0]}.",
                "Take a profile with it, or use --costs RUN.",
            )
        return TEXT


def _names(call: Call) -> Iterator[str]:
    yield call.name
    for nested in call.nested:
        yield from _names(nested)


def load_costs(path: Path) -> CostModel:
    """Costs from a profile or from a comparison's own steps (folders), or from a file with ``verify_s`` (JSON, see
    docs/replay.md)."""
    if (path / "run.json").is_file():
        run = read_run(path)
        return ProfileCosts(run) if run.meta["kind"] == "profile" else costs_of_run(run)
    try:
        data = orjson.loads(path.read_bytes())
        verify = {int(n): float(s) for n, s in data["verify_s"].items()}
        rest = {k: (float(v[0]), float(v[1])) for k, v in data.get("rest_s", {}).items()}
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SpecdecError(
            f"--costs {path}: is neither a run nor a file of costs ({type(error).__name__}: {error}).",
            "Give a compare run's folder, or JSON with verify_s.",
        ) from error
    if 1 not in verify or any(s <= 0 for s in verify.values()):
        raise SpecdecError(
            f"--costs {path}: verify_s needs an entry 1 and times above 0.", "Seconds by tokens of a pass."
        )
    return Curve(str(data.get("name", path.name)), str(data.get("card", "?")), verify, rest)


def costs_of_run(run: Run) -> Curve:
    """T(n) and the rest of a step as a live run measured them: means over its own steps.

    What the run never did (a draft length, a strategy) is filled from its neighbours; so the run should hold drafts of
    the lengths that are to be predicted.
    """
    if "trace" in run.meta:
        raise SpecdecError(f"{run.folder}: is a replay, it measured no costs.", "Name a run of specdec compare.")
    by_length: dict[int, list[int]] = {}
    rest: dict[str, list[tuple[int, int]]] = {}
    for s in run.samples:
        if s["status"] != "ok" or s["warmup"]:
            continue
        name, steps = s["strategy"].partition("(")[0], s["steps"]
        for d, wall, verify in zip(steps["drafted"], steps["wall_us"], steps["verify_us"], strict=True):
            by_length.setdefault(d + 1, []).append(verify)
            rest.setdefault(name, []).append((d, wall - verify))
    if 1 not in by_length:
        raise SpecdecError(f"{run.folder}: has no target pass over one token.", "It needs generations of `none`.")
    verify_s = {n: 1e-6 * _mean(t) for n, t in by_length.items() if len(t) >= _FEWEST or n == 1}
    rest_s = {name: _line(points) for name, points in rest.items()}
    everything = [p for points in rest.values() for p in points]
    return Curve(f"run {run.id}", str(run.meta["labels"]["card"]), verify_s, {**rest_s, "": _line(everything)})


def _mean(microseconds: list[int]) -> float:
    times = np.array(microseconds, np.float64)
    return float(times[times <= _STALL * np.median(times)].mean())


def _line(points: list[tuple[int, int]]) -> tuple[float, float]:
    """(seconds a step, seconds a draft token) by least squares; a slope only where lengths differ and it is upward."""
    drafted, times = np.array(points, np.float64).T
    keep = times <= _STALL * max(1.0, float(np.quantile(times, 0.9)))
    drafted, times = drafted[keep], 1e-6 * times[keep]
    spread = float(((drafted - drafted.mean()) ** 2).sum())
    slope = float(((drafted - drafted.mean()) * times).sum()) / spread if spread > 0 else 0.0
    slope = max(0.0, slope)
    return max(0.0, float(times.mean()) - slope * float(drafted.mean())), slope
