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
    def line(self) -> str:
        """One sentence."""
        ratio = f"{self.longer_s / self.shorter_s:.{1 if self.longer_s > self.shorter_s else 2}f}"
        said = (
            f"A pass of {self.longer} tokens takes {ratio} times one of {self.shorter}"
            f" ({self.longer_s * 1e3:.1f} and {self.shorter_s * 1e3:.1f} ms, {self.depth:,} tokens deep)"
        )
        if self.longer > self.shorter + 1:
            lengths = ",".join(
                str(n) for n in range(self.shorter, self.longer + 1, -(-(self.longer - self.shorter) // 16))
            )
            return f"{said}: somewhere between lies a step. See where: --lengths {lengths}."
        word = "costs that much more" if self.longer_s > self.shorter_s else "is cheaper"
        than = f"one of {self.shorter - 1}" if self.shorter > 1 else "none"
        return f"{said}: a draft of {self.shorter} {'tokens' if self.shorter > 1 else 'token'} {word} than {than}."


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
