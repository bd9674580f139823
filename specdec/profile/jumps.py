"""Steps of the verify cost curve: where one token more makes a pass much dearer, or even cheaper.

Devices change their way of computing at certain lengths (other kernels; with experts in RAM, from 32 tokens on a copy to
the GPU), so that the draft length next to such a step may be the worst or the best of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from specdec.profile.stored import Profile

DEARER, CHEAPER = 1.5, 0.9
"""A step up: more than so many times what it would cost in proportion to its tokens. A step down: less than so much of
the shorter one."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Between two measured lengths, ``shorter`` and ``longer`` tokens a pass, ``depth`` tokens deep; times in seconds."""

    depth: int
    shorter: int
    longer: int
    shorter_s: float
    longer_s: float

    @property
    def times(self) -> str:
        """The longer pass over the shorter one."""
        return f"{self.longer_s / self.shorter_s:.{1 if self.longer_s > self.shorter_s else 2}f} times"


def jumps(profile: Profile) -> list[Jump]:
    """Of plain target passes after passes of the same length, in their order; what the spreads explain is none."""
    found = []
    for depth in profile.depths:
        for (shorter, a), (longer, b) in pairwise(sorted(profile.curve(depth).items())):
            dearer = b.low > a.high * DEARER * longer / shorter
            cheaper = b.high < a.low * CHEAPER
            if dearer or cheaper:
                found.append(Jump(depth, shorter, longer, a.median, b.median))
    return found


def sentences(found: list[Jump]) -> list[str]:
    """One for each step, with all depths at which it was found."""
    alike: dict[tuple[int, int, bool], list[Jump]] = {}
    for jump in found:
        alike.setdefault((jump.shorter, jump.longer, jump.longer_s > jump.shorter_s), []).append(jump)
    return [_sentence(*steps) for steps in alike.values()]


def _sentence(first: Jump, *deeper: Jump) -> str:
    also = "".join(f"; {jump.times} at {jump.depth:,}" for jump in deeper)
    said = (
        f"A pass of {first.longer} tokens takes {first.times} one of {first.shorter}"
        f" ({first.longer_s * 1e3:.1f} and {first.shorter_s * 1e3:.1f} ms, {first.depth:,} tokens deep{also})"
    )
    if first.longer > first.shorter + 1:
        stride = -(-(first.longer - first.shorter) // 16)
        lengths = ",".join(str(n) for n in (*range(first.shorter, first.longer, stride), first.longer))
        return f"{said}: somewhere between lies a step. See where: --lengths {lengths}."
    word = "costs that much more" if first.longer_s > first.shorter_s else "is cheaper"
    than = f"one of {first.shorter - 1}" if first.shorter > 1 else "none"
    return f"{said}: a draft of {first.shorter} {'tokens' if first.shorter > 1 else 'token'} {word} than {than}."
