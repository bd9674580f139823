"""Speed from a profile and acceptance: what each step would cost here, phase by phase.

Acceptance comes as recorded steps (``predict_steps``), or as rates (``expect``): rate i is *conditional*, the
probability that draft token i is kept where all before it were. The probability that the first i are all kept, which
llama-server's ``--spec-synth-rates`` wants, is the product of the first i rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from specdec.profile.costs import Costs, by_depth
from specdec.profile.plan import TEXT
from specdec.profile.steps import Array, Ints, redecoded, same_shape
from specdec.profile.stored import Profile
from specdec.types import PHASES

BASELINE = "none"
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Arm:
    """What is predicted.

    Args:
        strategy: its name, as the profile measured it; ``none``; or ``text`` for drafts that cost nothing.
        mode, snapshots: the way of rolling back; snapshots None as the profile had them for this strategy.
        n_max: longest draft; with ``p_min`` above 0 a shorter draft took one more token's work.
    """

    strategy: str
    mode: str = "auto"
    snapshots: int | None = None
    n_max: int = 0
    p_min: float = 0.0


@dataclass(frozen=True, slots=True)
class States:
    """Steps with what came before each, arrays of one length. ``at`` is the depth of the pass, tokens."""

    drafted: Ints
    accepted: Ints
    accepted_before: Ints
    whole_before: Flags
    same: Flags
    at: Ints
    checkpoints: Flags


def predict_steps(
    drafted: Sequence[int] | Ints, accepted: Sequence[int] | Ints, profile: Profile, arm: Arm, n_prompt: int
) -> dict[str, Array]:
    """Seconds of each step of one generation by phase (PHASES); NaN where the profile did not measure that far.

    Args:
        drafted, accepted: one entry a step, from the first.
        n_prompt: tokens before the first step, which decodes at that position.
    """
    d, a = np.asarray(drafted, np.int64), np.asarray(accepted, np.int64)
    checkpoints = _checkpoints(profile, arm, d)
    before_d, before_a = np.concatenate([[1], d])[:-1], np.concatenate([[0], a])[:-1]
    states = States(
        drafted=d,
        accepted=a,
        accepted_before=before_a,
        whole_before=before_a == before_d,
        same=same_shape(d, redecoded(d, a, checkpoints), profile.settle),
        at=n_prompt + np.concatenate([[0], np.cumsum(a + 1)])[:-1].astype(np.int64),
        checkpoints=checkpoints,
    )
    return phase_seconds(states, profile, arm)


def phase_seconds(s: States, profile: Profile, arm: Arm) -> dict[str, Array]:
    """Seconds of each step by phase, given its state. See ``predict_steps``."""
    own, inner = _settings(profile, arm)
    cut = (arm.p_min > 0.0) & (s.drafted < arm.n_max)
    worked = np.where(cut, s.drafted + 1, s.drafted)
    plain = profile.plain()
    curves = [own] if inner and not _looks_back(own) else []
    curves += [profile.rolling_back(arm.mode, _snapshots(profile, arm)), plain]
    ways = [curves[0], profile.rolling_back(arm.mode, 0)]
    at, tokens, rejected = s.at, s.drafted + 1, s.accepted
    undo = [by_depth(way, at, tokens, lambda c: c.roll_back(s.drafted, rejected)) for way in ways]
    nothing = np.zeros(len(at))
    return {
        "propose": by_depth(own, at, tokens, lambda c: c.propose(worked, s.accepted_before, s.whole_before))
        if inner
        else nothing,
        "catch_up": by_depth(own, at, tokens, lambda c: c.catch_up(s.accepted)) if inner else nothing,
        "verify": _verify(s, profile, arm, curves),
        "sample": _first_known([by_depth(c, at, tokens, lambda c: c.sample(s.accepted + 1)) for c in curves]),
        "roll_back": np.where(s.drafted == 0, 0.0, np.where(s.checkpoints, undo[1], undo[0])),
        "translate": by_depth(own, at, tokens, lambda c: c.translate(s.drafted)) if inner else nothing,
        "other": by_depth(own, at, tokens, lambda c: c.other(s.accepted)),
    }


def _verify(s: States, profile: Profile, arm: Arm, curves: list[dict[int, Costs]]) -> Array:
    """Target passes as measured beside the arm's own drafting; where that was with other snapshots, with the difference
    that those make to a plain pass, which is measured most often: the states that are kept are copied by every pass,
    whatever its length."""
    tokens, one = s.drafted + 1, np.ones_like(s.drafted)

    def pass_(depths: dict[int, Costs], n: Ints = tokens) -> Array:
        return by_depth(depths, s.at, n, lambda c: c.verify(n, s.same))

    seconds = _first_known([pass_(c) for c in curves])
    measured, wanted = _measured_snapshots(profile, arm), _snapshots(profile, arm)
    if measured == wanted:
        return seconds
    kept = {count: pass_(depths, one) for count, depths in profile.by_snapshots().items()}
    difference = _between(kept, wanted) - _between(kept, measured)
    return np.where(s.drafted > 0, seconds + difference, seconds)


def _between(curves: dict[int, Array], count: int) -> Array:
    """The curve at ``count`` snapshots, in proportion between its measured neighbours; NaN beyond the last."""
    low, high = (max(c for c in curves if c <= count), min((c for c in curves if c >= count), default=None))
    if high is None:
        return np.full(len(curves[low]), np.nan)
    share = (count - low) / (high - low) if high > low else 0.0
    return curves[low] * (1 - share) + curves[high] * share


def first_token_seconds(profile: Profile, n_prompt: int) -> float:
    """Choosing the token that comes from the prompt's own decode, which a generation's time includes."""
    return float(
        by_depth(profile.plain(), np.array([n_prompt]), np.ones(1, np.int64), lambda c: c.sample(np.array([1])))[0]
    )


@dataclass(frozen=True, slots=True)
class Expected:
    """One strategy at one draft length.

    Args:
        tokens: expected tokens of a step (the mean acceptance length).
        seconds: expected seconds of a step by phase.
        plain: seconds of a step of plain decoding.
        looks_back: it finds drafts in the text, where there are any: a draft at every step is more than it can promise.
    """

    strategy: str
    length: int
    tokens: float
    seconds: dict[str, float] = field(repr=False)
    plain: float
    looks_back: bool = False

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def tok_s(self) -> float:
        """Tokens a second."""
        return self.tokens / self.step

    @property
    def speedup(self) -> float:
        """Against plain decoding."""
        return self.tok_s * self.plain

    @property
    def break_even(self) -> float:
        """The mean acceptance length from which this draft length pays."""
        return self.step / self.plain


def expect(profile: Profile, strategy: str, length: int, rates: Sequence[float], depth: int) -> Expected | None:
    """Drafts of always ``length`` tokens, kept with conditional ``rates`` (at least ``length`` of them) at ``depth``;
    None where the profile did not measure drafts of that length."""
    kept = profile.drafting(strategy)[0].snapshots if strategy != TEXT else 0
    arm = Arm(strategy, snapshots=min(kept, length), n_max=length)  # a run keeps as many as its drafts are long
    unconditional = np.cumprod([1.0, *rates[:length]])
    lengths = unconditional - np.append(unconditional[1:], 0.0)  # probability that exactly i tokens are kept
    before, now = (g.ravel() for g in np.meshgrid(np.arange(length + 1), np.arange(length + 1), indexing="ij"))
    drafted = np.full(len(now), length, np.int64)
    checkpoints = _checkpoints(profile, arm, drafted)
    again = redecoded(drafted, before, checkpoints)
    states = States(
        drafted=drafted,
        accepted=now,
        accepted_before=before,
        whole_before=before == length,
        same=again == 0,
        at=np.full(len(now), depth, np.int64),
        checkpoints=checkpoints,
    )
    weights = lengths[before] * lengths[now]
    phases = phase_seconds(states, profile, arm)
    seconds = {phase: float(weights[weights > 0] @ phases[phase][weights > 0]) for phase in PHASES}
    if not np.isfinite(sum(seconds.values())):
        return None
    back = _looks_back(profile.drafting(strategy)[1])
    return Expected(strategy, length, float(unconditional.sum()), seconds, plain_step(profile, depth), back)


def plain_step(profile: Profile, depth: int) -> float:
    """Seconds of a step of plain decoding at ``depth``."""
    nothing, yes = np.zeros(1, np.int64), np.ones(1, bool)
    states = States(nothing, nothing, nothing, yes, yes, np.array([depth]), ~yes)
    return float(sum(v[0] for v in phase_seconds(states, profile, Arm(BASELINE)).values()))


def lengths_of(profile: Profile, strategy: str) -> list[int]:
    """Draft lengths between the shortest and the longest that were measured."""
    measured = profile.drafting(strategy)[1].values()
    drafted = {int(k) for costs in measured for k in np.unique(costs.steps.drafted)}
    if any(costs.looks_back for costs in measured):
        return sorted(drafted - {0})
    return list(range(1, max(drafted) + 1))


def _settings(profile: Profile, arm: Arm) -> tuple[dict[int, Costs], bool]:
    """The setting that has the arm's own costs, and whether it drafts with work of its own."""
    if arm.strategy in (BASELINE, TEXT):
        return profile.rolling_back(arm.mode, _snapshots(profile, arm)), False
    return profile.drafting(arm.strategy)[1], True


def _snapshots(profile: Profile, arm: Arm) -> int:
    if arm.snapshots is not None or arm.strategy in (BASELINE, TEXT):
        return arm.snapshots or 0
    return profile.drafting(arm.strategy)[0].snapshots


def _measured_snapshots(profile: Profile, arm: Arm) -> int:
    """Snapshots of the setting whose passes stand for the arm's."""
    if arm.strategy in (BASELINE, TEXT):
        return _snapshots(profile, arm)
    key, depths = profile.drafting(arm.strategy)
    return _snapshots(profile, arm) if _looks_back(depths) else key.snapshots


def _checkpoints(profile: Profile, arm: Arm, drafted: Ints) -> Flags:
    """Steps before which the loop keeps a checkpoint (rollback.py)."""
    if not profile.recurrent or arm.mode == "snapshots":
        return np.zeros(len(drafted), bool)
    return (drafted > 0) & ((drafted > _snapshots(profile, arm)) | arm.mode.startswith("checkpoint"))


def _looks_back(depths: dict[int, Costs]) -> bool:
    return any(costs.looks_back for costs in depths.values())


def _first_known(choices: list[Array]) -> Array:
    """Of each entry the first that was measured."""
    out = choices[0]
    for other in choices[1:]:
        out = np.where(np.isnan(out), other, out)
    return out
