"""What is measured: which ways of drafting, at which lengths and depths, in which order, and how long that may take.

Points are interleaved: within a round every length comes once in a random order, rounds repeat, and the whole list of
settings is gone through several times, so that a machine that slows down shows up as a spread and not as a shape.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from specdec.profile.bench import Want
from specdec.registry import Planned
from specdec.rollback import SNAPSHOT_LIMIT, Mode, snapshots_for

Series = Literal["constant", "changing"]

TEXT = "text"
"""Drafts taken from the text itself, at no cost: the verify cost curve."""
PASSES = (*range(1, 17), 24, 31, 32, 48, 64)
"""Tokens of a target pass at which the curve is taken: 8 to 9, 16 to 17 and 31 to 32 change kernels on some devices."""
LENGTHS = (1, 2, 3, 4, 6, 8)
"""Draft lengths at which strategies that draft token by token are taken."""
LONG_LENGTHS = (1, 2, 4, 8, 16, 32, 48, 64)
"""Draft lengths of strategies that draft at once (n-grams)."""
DEPTHS = (128, 512, 2048, 4096, 16384)
SWEEPS = 3
_PLAIN = 16
"""Steps in a row without a draft that are counted: plain decoding follows itself. Half as many before them are not: after
long passes, which compute, it takes several short ones, which wait for memory, to be as fast as in a run."""
_ANCHOR = 8
"""Of a strategy with work of its own: plain steps in each round, half as many before them, none counted, so that the
round has the speed of the machine beside it (``steps.slowness``)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One context with one way of drafting.

    Args:
        strategy: name of the strategy, or ``TEXT``.
        planned: how to build it; None for ``TEXT``.
        lengths: draft lengths.
        snapshots: recurrent states kept (hybrid targets).
        looks_back: it finds drafts in the text: the measured text repeats itself.
        threads: of the target; 0 as the model's.
    """

    strategy: str
    planned: Planned | None
    mode: Mode
    snapshots: int
    lengths: tuple[int, ...]
    looks_back: bool = False
    threads: int = 0

    @property
    def longest(self) -> int:
        """The longest draft."""
        return max(self.lengths)

    @property
    def drafts_alone(self) -> bool:
        """Whether it drafts token by token, with work of its own (not from the text)."""
        return self.planned is not None and not self.looks_back


def text_settings(recurrent: bool, passes: Iterable[int], threads: Iterable[int]) -> list[Setting]:
    """The verify cost curve: for a hybrid target with snapshots off and on, and with checkpoints on the host."""
    lengths = tuple(n - 1 for n in sorted(set(passes)))
    first, *others = threads
    more = [Setting(TEXT, None, "auto", 0, lengths, threads=t) for t in others]
    if not recurrent:
        return [Setting(TEXT, None, "auto", 0, lengths, threads=first), *more]
    short = tuple(n for n in lengths if n <= SNAPSHOT_LIMIT)
    few = tuple(n for n in lengths if n in (0, 1, 3, 7))
    return [
        Setting(TEXT, None, "auto", 0, lengths, threads=first),
        # A pass copies every kept state: its time grows with their number, evenly from the first one on.
        Setting(TEXT, None, "auto", SNAPSHOT_LIMIT, short, threads=first),
        Setting(TEXT, None, "auto", 1, short, threads=first),
        Setting(TEXT, None, "checkpoint-host", 0, few or short, threads=first),
        *more,
    ]


def strategy_settings(planned: list[Planned], recurrent: bool, n_max: int, threads: int) -> list[Setting]:
    """Each strategy with drafts of several lengths, up to ``n_max`` where it drafts token by token."""
    found = []
    for plan in planned:
        longest = plan.build().longest_draft
        if not longest:
            continue
        at_once = not any(key == "n_max" for key, _ in plan.call.options) and longest > SNAPSHOT_LIMIT
        wanted = LONG_LENGTHS if at_once else LENGTHS
        top = longest if at_once else n_max
        lengths = tuple(sorted({k for k in wanted if k <= top} | {top}))
        snapshots = snapshots_for("auto", longest if at_once else top, recurrent, None)
        name = plan.found.cls.name
        found.append(Setting(name, plan, "auto", snapshots, lengths, at_once, threads))
    return found


def constant(setting: Setting, settle: int, round_: int, rng: random.Random) -> list[Want]:
    """Every length in turn, each for several steps: ``settle`` steps that are not counted, then counted ones whose kept
    lengths are all that a draft of that length can have (the curve: nothing, half, all but one, all, over the rounds)."""
    wants: list[Want] = []
    lengths = setting.lengths + ((0,) if setting.drafts_alone else ())
    for length in rng.sample(lengths, len(lengths)):
        kept = _kept(setting, length, round_, rng)
        first = kept[-1] if setting.drafts_alone else length
        lead = max(settle, len(kept) // 2) if length == 0 else max(1, settle)
        wants += [Want(length, first, False, i == 0) for i in range(lead)]
        wants += [Want(length, a, length in setting.lengths) for a in kept]
    return wants


def changing(setting: Setting, rng: random.Random) -> list[Want]:
    """Every length once, each after another length. On the curve short drafts are kept whole, so that no tokens are
    decoded again in between; plain decoding follows such a one."""
    lengths = rng.sample(setting.lengths, len(setting.lengths))
    if len(lengths) < 2:
        return []
    if 0 in lengths:
        lengths.remove(0)
        shortest = lengths.index(min(lengths))
        lengths.insert(shortest + 1, 0)
    wants = [Want(lengths[-1], 0, False, True)]
    for length in lengths:
        kept = rng.randint(0, length) if setting.planned else length if length <= SNAPSHOT_LIMIT else 0
        wants.append(Want(length, kept))
    return wants


def _kept(setting: Setting, length: int, round_: int, rng: random.Random) -> list[int]:
    if length == 0:
        return [0] * (_ANCHOR if setting.planned else _PLAIN)
    if setting.looks_back:
        return [length, 0, 0, 0]  # kept whole, the text goes on repeating; then a rejection, and searches in vain
    if setting.planned:
        return rng.sample(range(length + 1), length + 1)
    some = sorted({0, length // 2, length - 1, length})
    return [length, some[-1 - round_ % len(some)], 0]


def sweeps(repeats: int) -> int:
    """How often the whole list of settings is gone through."""
    return min(SWEEPS, repeats)


def default_depths(
    limit: int, per_prompt_token_s: float, n_settings: int, repeats: int, patience_s: float = 60.0
) -> tuple[int, ...]:
    """As deep as the model goes and ``patience_s`` of reading prompts allows; at least the first."""
    fit = [d for d in DEPTHS if not limit or d + room_beyond(64, d) <= limit]
    fit = [d for d in fit if d * per_prompt_token_s * n_settings * sweeps(repeats) <= patience_s]
    return tuple(fit) or DEPTHS[:1]


def room_beyond(longest: int, depth: int) -> int:
    """Tokens of context beyond ``depth`` that blocks with drafts of up to ``longest`` tokens may need."""
    return 6 * (longest + 1) + 128 + depth // 16


def context_of(depth: int, longest: int) -> int:
    """Tokens of context for blocks at ``depth`` with drafts of up to ``longest`` tokens."""
    return -(-(depth + room_beyond(longest, depth)) // 256) * 256


def seconds(settings: list[Setting], depths: Iterable[int], repeats: int, settle: int, t1: float, tp: float) -> float:
    """About the time that measuring takes: a pass over n tokens costs one over 1 token and n of a prompt (``t1``, ``tp``
    seconds), which is more than it does, unless long passes copy experts to a GPU."""
    rng, total = random.Random(0), 0.0
    for setting in settings:
        wants = constant(setting, settle, 0, rng) + changing(setting, rng)
        inner = 0.5 * t1 if setting.planned and not setting.looks_back else 0.0
        one = sum(t1 + (w.length + 1) * tp + w.length * inner for w in wants)
        for depth in depths:
            total += repeats * one + sweeps(repeats) * depth * tp * (2 if setting.planned else 1)
    return total
