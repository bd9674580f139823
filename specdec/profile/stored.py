"""A stored profile, read: its settings by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from specdec.errors import SpecdecError
from specdec.profile.costs import Costs
from specdec.profile.plan import TEXT
from specdec.profile.steps import Spread, join_steps, level
from specdec.store import Run, Sample


@dataclass(frozen=True, slots=True)
class Key:
    """A setting of a profile."""

    strategy: str
    mode: str
    snapshots: int
    threads: int


class Profile:
    """A stored profile, read.

    Raises:
        SpecdecError: the run is not a profile, or holds no measured steps.
    """

    def __init__(self, run: Run) -> None:
        if run.meta["kind"] != "profile":
            raise SpecdecError(f"{run.folder} is no profile (kind {run.meta['kind']}).", "Take one: specdec profile.")
        self.run, self.meta = run, run.meta
        self.settle = int(self.meta["settle"])
        self.recurrent = bool(self.meta["context"]["recurrent"])
        groups: dict[Key, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        back = {}
        for line in run.samples:
            if line["kind"] == "steps":
                key = Key(line["strategy"], line["rollback"], line["snapshots"], line["threads"])
                groups[key][line["depth"]].append(line)
                back[key] = line["looks_back"]
        if not groups:
            raise SpecdecError(f"{run.folder} holds no measured steps.", "Take the profile again.")
        steps = {
            key: {depth: join_steps(lines, self.settle, self.recurrent) for depth, lines in sorted(depths.items())}
            for key, depths in groups.items()
        }
        whole = level(s for depths in steps.values() for s in depths.values())
        self.costs = {
            key: {depth: Costs(s, back[key], whole) for depth, s in depths.items()} for key, depths in steps.items()
        }

    @property
    def id(self) -> str:
        """The run's name."""
        return self.run.id

    @property
    def threads(self) -> int:
        """Threads at which everything was measured."""
        return int(self.meta["context"]["threads"])

    @property
    def depths(self) -> list[int]:
        """Measured depths, rising."""
        return sorted(self.plain())

    @property
    def strategies(self) -> list[str]:
        """Names of the strategies whose drafting was measured."""
        return [k.strategy for k in self.costs if k.strategy != TEXT]

    def lines(self, kind: str) -> list[Sample]:
        """Stored lines of one kind: ``prompt``, ``checkpoint``, ``experts``, ``steps``."""
        return [s for s in self.run.samples if s["kind"] == kind]

    def plain(self) -> dict[int, Costs]:
        """The curve without snapshots, by depth."""
        return self.find(TEXT, lambda k: k.snapshots == 0 and k.mode == "auto")[1]

    def curve(self, depth: int = 0) -> dict[int, Spread]:
        """T(n) by n at the measured depth nearest to ``depth``: passes after others of the same length, or where none were
        measured after any."""
        points = self.plain()[min(self.depths, key=lambda d: abs(d - depth))].verify_points
        return points[True] or points[False]

    def drafting(self, strategy: str) -> tuple[Key, dict[int, Costs]]:
        """The setting in which a strategy's drafting was measured."""
        try:
            return self.find(strategy)
        except LookupError:
            known = ", ".join(self.strategies) or "none"
            raise SpecdecError(
                f"profile {self.id} did not measure the strategy {strategy!r} (measured: {known}).",
                f"Take a profile with --strategies {strategy}.",
            ) from None

    def by_snapshots(self) -> dict[int, dict[int, Costs]]:
        """The curve at each number of snapshots, rising."""
        found = {
            k.snapshots: depths
            for k, depths in self.costs.items()
            if k.strategy == TEXT and k.mode == "auto" and k.threads == self.threads
        }
        return dict(sorted(found.items()))

    def rolling_back(self, mode: str, snapshots: int) -> dict[int, Costs]:
        """A setting of the curve that undoes drafts that way."""
        mode = "auto" if mode in ("checkpoint", "snapshots") else mode
        try:
            return self.find(TEXT, lambda k: k.mode == mode and (k.snapshots > 0) == (snapshots > 0))[1]
        except LookupError:
            return self.plain()

    def find(self, strategy: str, fits: Callable[[Key], bool] = lambda _: True) -> tuple[Key, dict[int, Costs]]:
        """The first setting of a strategy that fits, at the profile's own thread count.

        Raises:
            LookupError: there is none.
        """
        for key, depths in self.costs.items():
            if key.strategy == strategy and key.threads == self.threads and fits(key):
                return key, depths
        raise LookupError(strategy)
