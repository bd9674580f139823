"""A profile on the toy target with a clock of its own: what every part costs is known."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from specdec.decode import Decoder
from specdec.profile import plan
from specdec.profile.bench import Bench
from specdec.profile.plan import Setting
from specdec.profile.stage import Script, Scripted
from specdec.profile.stored import Profile
from specdec.rollback import snapshots_for
from specdec.store import Run
from specdec.strategy import Strategy
from specdec.testing.fake import FakeMemory, FakeTarget
from specdec.types import Draft, FloatArray, Generation, Limits, Sampling, Step, TokenArray

TEXT = np.random.default_rng(5).integers(0, 20, 600).astype(np.int32)
DEPTHS = (32, 128)
GREEDY = Sampling()


class Time:
    """A clock that only moves where something is said to take time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedMemory(FakeMemory):
    clock: Time

    def save(self, on_device: bool, slot: int = 0) -> None:
        self.clock.now += 0.003 if on_device else 0.007
        super().save(on_device, slot)

    def restore(self, slot: int = 0) -> None:
        self.clock.now += 0.004
        super().restore(slot)


class TimedTarget(FakeTarget):
    """A pass over n tokens has its price, and costs 1 ms more after another length, ``slope`` s more a token of depth."""

    slope = 0.0

    def __init__(self, clock: Time, recurrent: bool = False, snapshots: int = 0) -> None:
        super().__init__(recurrent=recurrent, snapshots=snapshots)
        self.memory = TimedMemory(recurrent, snapshots)
        self.memory.clock = self._clock = clock
        self._before = 0

    def decode(self, ids: TokenArray, start: int, outputs: Any) -> FloatArray:
        n = len(ids)
        stepwise = 0.010 + 0.002 * n + (0.009 if n > 4 else 0.0)  # other kernels from 5 tokens on
        self._clock.now += stepwise + self.slope * start + (0.001 if n != self._before else 0.0)
        self._before = n
        return super().decode(ids, start, outputs)


class Drafter(Strategy):
    """A draft costs 2 ms a token, and decoding what was kept 1 ms a token, as a draft model's would."""

    name = "drafter"
    longest = 6

    def __init__(self, clock: Time) -> None:
        super().__init__()
        self._clock, self._rng, self._behind = clock, np.random.default_rng(3), 1

    @property
    def longest_draft(self) -> int:
        return self.longest

    def begin(self, prompt_ids: TokenArray) -> None:
        self._behind = 1

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        n = min(max_tokens, self.longest)
        self._clock.now += 0.002 * n + 0.001 * self._behind
        return Draft(self._rng.integers(0, 20, n).tolist())

    def accept(self, step: Step) -> None:
        self._behind = step.accepted + 1


def settings(recurrent: bool, passes: tuple[int, ...] = (*range(1, 10), 16)) -> list[Setting]:
    drafter = Setting("drafter", object(), "auto", snapshots_for("auto", 6, recurrent, None), (1, 2, 3, 4, 6))  # type: ignore[arg-type]
    return [*plan.text_settings(recurrent, passes, [1]), drafter]


def measured(clock: Time, recurrent: bool, settle: int = 1, depths: tuple[int, ...] = DEPTHS) -> Profile:
    """A profile as measure.py takes it, of the toy target."""
    lines: list[dict[str, Any]] = []
    for setting in settings(recurrent):
        script, target = Script(), TimedTarget(clock, recurrent, setting.snapshots)
        inner = Drafter(clock) if setting.planned else None
        strategy = Scripted(inner, script, lambda i: int(TEXT[i]), setting.longest)
        bench = Bench(target, strategy, script, setting.mode, TEXT, GREEDY)
        rng = random.Random(1)
        for depth in depths:
            bench.prefill(depth)
            for round_ in range(4):
                for series, wants in (
                    ("constant", plan.constant(setting, settle, round_, rng)),
                    ("changing", plan.changing(setting, rng)),
                ):
                    block = bench.run(wants).as_dict()
                    lines.append({**_names(setting, depth, round_), "series": series, **block})
        assert not target.memory.stale
    meta = {
        "kind": "profile",
        "run_id": "p",
        "status": "finished",
        "settle": settle,
        "context": {"recurrent": recurrent, "threads": 1, "n_ctx": 600},
        "labels": {"card": "CPU", "sampling": "greedy"},
        "model": {"file": "toy", "description": "toy", "header_sha256": "1"},
        "environment": {"cpu": "toy", "packages": {"llama-cpp-python": "1"}},
        "spec": {"model": {"threads": 0, "flash_attn": "auto"}, "repeats": 4},
        "strategies": [{"name": "drafter", "label": "drafter", "file_sha256": "f", "model": None, "options": {}}],
    }
    return Profile(Run(Path("p"), meta, lines))


def _names(setting: Setting, depth: int, round_: int) -> dict[str, Any]:
    names = {"strategy": setting.strategy, "rollback": setting.mode, "snapshots": setting.snapshots, "threads": 1}
    return {"kind": "steps", **names, "looks_back": False, "depth": depth, "repeat": 0, "round": round_}


class Oracle(Drafter):
    """The drafter, right as often as it happens: its first tokens are those of the known answer."""

    def __init__(self, clock: Time, answer: list[int], n_prompt: int, n_max: int) -> None:
        super().__init__(clock)
        self._answer, self._n_prompt, self.longest = answer, n_prompt, n_max

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        tokens = list(super().propose(context, max_tokens).token_ids)
        at, right = len(context) - self._n_prompt, int(self._rng.integers(0, len(tokens) + 1))
        known = self._answer[at : at + right]
        return Draft(known + tokens[len(known) :])


def generations(clock: Time, recurrent: bool, n_max: int) -> Iterator[tuple[int, Generation]]:
    """(snapshots, generation) of the loop itself, without and with drafts."""
    prompt, limits = TEXT[:40].copy(), Limits(60)
    plain = Decoder(TimedTarget(clock, recurrent), _Nothing()).generate(prompt, limits, GREEDY)
    yield 0, plain
    snapshots = snapshots_for("auto", n_max, recurrent, None)
    oracle = Oracle(clock, plain.token_ids, len(prompt), n_max)
    drafted = Decoder(TimedTarget(clock, recurrent, snapshots), oracle).generate(prompt, limits, GREEDY)
    assert drafted.token_ids == plain.token_ids
    assert len(set(drafted.steps.accepted)) > 1
    yield snapshots, drafted


class _Nothing(Strategy):
    name = "none"

    @property
    def longest_draft(self) -> int:
        return 0

    def propose(self, context: TokenArray, max_tokens: int) -> Draft:
        return Draft()
