"""Two runs against each other, paired by prompt: another version of a strategy, another card, another build.

What must be the same for a difference to have one cause (prompts, settings, model) is checked; what may differ (the
machine, versions, the strategies' files) is named. Everything comes from the two stored runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np

from specdec.differences import Difference
from specdec.differences import environment as environment_differences
from specdec.differences import settings as setting_differences
from specdec.errors import SpecdecError
from specdec.metrics import ALL, BASELINE, PLAIN_MOVED, Arm, arm_of, arms_of
from specdec.report.names import arm_name
from specdec.stats import Estimate, Pairs, estimate, judge, launch_spread, ratio_of_sums
from specdec.stats.pairs import Floats
from specdec.stats.verdicts import CANNOT_TELL
from specdec.store import Run, Sample
from specdec.types import Row
from specdec.why import setting_line

_APART = timedelta(minutes=5)
"""Between the end of a launch and the next: less, and both may have met the same neighbour."""


@dataclass(frozen=True, slots=True)
class Versus:
    """Run B over run A.

    Args:
        rows: one for each arm that both have, by workload, ``all`` last (docs/results.md, "Two runs").
        settings: differences that make a comparison of speeds doubtful; environment: those that are named only.
        only_a, only_b: arms and prompts that one side alone has.
        lines: sentences on what the pairing cannot tell, and on a setting that was varied.
    """

    a: Run
    b: Run
    rows: list[Row]
    settings: list[Difference]
    environment: list[Difference]
    only_a: list[str]
    only_b: list[str]
    lines: list[str]


def versus(a: Run, b: Run, allow_differences: bool = False) -> Versus:
    """Pair two runs; refuses other prompts, settings or models unless told to go on."""
    for run in (a, b):
        if run.meta["kind"] != "compare":
            raise SpecdecError(f"{run.folder} is a {run.meta['kind']}.", "Name two comparisons.")
    settings = setting_differences(a, b)
    if settings and not allow_differences:
        named = "; ".join(d.line for d in settings)
        raise SpecdecError(
            f"{a.id} and {b.id} differ in {named}.", "Compare them all the same with --allow-differences."
        )
    mine, theirs = _generations(a), _generations(b)
    if not {p for _, p, _ in mine} & {p for _, p, _ in theirs}:
        raise SpecdecError(f"{a.id} and {b.id} share no prompt that both finished.", "Run both on the same prompts.")
    arms = [arm for arm in arms_of(a) if arm in arms_of(b)]
    if not arms:
        raise SpecdecError(f"{a.id} and {b.id} share no strategy.", "Compare runs that have one in common.")
    found = _rows(a, arms, mine, theirs)
    moved = None if settings else _plain_moved(a, b, found)
    apart = moved is not None and _are_apart(a) and _are_apart(b)
    _judge(found, may=moved is None or apart)
    lines = _lines(a, b, settings, found)
    if moved is not None:
        lines.append(_moved_line(moved, apart))
    only = [sorted(_names(x) - _names(y)) for x, y in ((a, b), (b, a))]
    return Versus(a, b, [f.row for f in found], settings, environment_differences(a, b), only[0], only[1], lines)


Rounds = dict[tuple[int, int], Floats]
Generations = dict[tuple[Arm, str, str], Rounds]
"""(arm, prompt, workload) -> (launch, repeat) -> tokens and seconds, the turns of a conversation added up."""


def _generations(run: Run) -> Generations:
    """A repeat that lacks one of the prompt's turns is left out."""
    turns: dict[tuple[Arm, str, str], dict[tuple[int, int], list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for s in run.samples:
        if not s["warmup"] and s["status"] == "ok" and s["generation_s"]:
            turns[arm_of(s), s["prompt"], s["workload"]][s.get("launch", 0), s["repeat"]].append(s)
    planned = {p["id"]: p["turns"] for p in run.meta["prompts"]}
    out: Generations = {}
    for key, rounds in turns.items():
        whole = {r: found for r, found in rounds.items() if len(found) == planned.get(key[1], 1)}
        if whole:
            out[key] = {
                r: np.array([sum(len(s["token_ids"]) for s in found), sum(s["generation_s"] for s in found)])
                for r, found in whole.items()
            }
    return out


@dataclass(frozen=True, slots=True)
class _Found:
    """A row, and the estimates whose verdicts depend on the whole table: of the speeds, of the speedups."""

    row: Row
    speed: Estimate
    speedup: Estimate | None


def _rows(a: Run, arms: list[Arm], mine: Generations, theirs: Generations) -> list[_Found]:
    found = []
    for workload in (*dict.fromkeys(p["workload"] for p in a.meta["prompts"]), ALL):
        for arm in arms:
            prompts = [(p, w) for x, p, w in mine if x == arm and workload in (w, ALL)]
            prompts = [k for k in prompts if _key(arm, k) in theirs]
            if prompts:
                found.append(_row(arm, workload, prompts, mine, theirs))
    return found


def _judge(found: list[_Found], may: bool) -> None:
    """Put verdicts into the rows, where they ``may`` be given.

    One launch says nothing of the next: none on speeds then, and none on speedups, of which one was seen to go from 0.92
    (0.90-0.95) to 0.99 (0.97-1.02) in 79 minutes (results/reference/repeat.txt).
    """
    known = [f if may and f.row["launches"] > 1 else None for f in found]
    speeds = judge([f.speed if f else None for f in known])
    speedups = judge([f.speedup if f else None for f in known])
    for f, verdict, relative in zip(found, speeds, speedups, strict=True):
        f.row["verdict"] = verdict.text if verdict else CANNOT_TELL
        f.row["p_value"], f.row["p_corrected"] = (verdict.p, verdict.p_corrected) if verdict else (None, None)
        f.row["speedup_verdict"] = (relative.text if relative else CANNOT_TELL) if f.speedup else None


def _row(arm: Arm, workload: str, prompts: list[tuple[str, str]], mine: Generations, theirs: Generations) -> _Found:
    sides = [_pairs(run, arm, None, prompts) for run in (mine, theirs)]
    of_a, of_b = (side.by_prompt()[:, :2] for side in sides)
    spreads = [s for side in sides if (s := launch_spread(side.by_launch(), level=1.0))]
    ratio = estimate(Pairs(np.concatenate([of_b, of_a], axis=1)[:, None], sides[0].strata), extra=spreads)
    low, high = ratio.interval() or (None, None)
    row: Row = {
        "engine": arm[0], "strategy": arm[1], "rollback": arm[2], "workload": workload, "prompts": len(prompts),
        "launches": min(side.launches for side in sides),
        "tok_s_a": float(of_a[:, 0].sum() / of_a[:, 1].sum()), "tok_s_b": float(of_b[:, 0].sum() / of_b[:, 1].sum()),
        "ratio": ratio.value, "ratio_low": low, "ratio_high": high, "mean_ratio": ratio.mean,
        "between_launches": ratio.between_launches,
    }  # fmt: skip
    relative, speedup = _against_plain(arm, prompts, mine, theirs)
    return _Found(row | relative, ratio, speedup)


def _against_plain(
    arm: Arm, prompts: list[tuple[str, str]], mine: Generations, theirs: Generations
) -> tuple[Row, Estimate | None]:
    """B's speedup over A's, each against plain decoding of its own run: what the machines do to both cancels.

    Every prompt counts as it is: a run's own table gives less weight to prompts whose rounds disagree, each run to others.
    """
    plain = (arm[0], BASELINE, "auto")
    both = [
        k
        for k in prompts
        if all(run.get(_key(plain, k), {}).keys() & run[_key(arm, k)].keys() for run in (mine, theirs))
    ]
    names = ("speedup_a", "speedup_b", "speedup_ratio", "speedup_ratio_low", "speedup_ratio_high")
    if arm == plain or not both:
        return dict.fromkeys(names), None
    sides = [_pairs(run, arm, plain, both) for run in (mine, theirs)]
    of_a, of_b = (side.by_prompt() for side in sides)
    spreads = [s for side in sides if (s := launch_spread(side.by_launch()))]
    ratio = estimate(Pairs(np.concatenate([of_b, of_a], axis=1)[:, None], sides[0].strata), extra=spreads)
    low, high = ratio.interval() or (None, None)
    values = (ratio_of_sums(of_a), ratio_of_sums(of_b), ratio.value, low, high)
    return dict(zip(names, values, strict=True)), ratio


def _key(arm: Arm, prompt: tuple[str, str]) -> tuple[Arm, str, str]:
    return arm, prompt[0], prompt[1]


def _pairs(run: Generations, arm: Arm, base: Arm | None, prompts: list[tuple[str, str]]) -> Pairs:
    """An arm's rounds beside those of another in the same run; beside 1 token a second where ``base`` is None."""
    cells = []
    for k in prompts:
        ours = run[_key(arm, k)]
        theirs = run[_key(base, k)] if base else dict.fromkeys(ours, np.ones(2))
        cells.append({r: np.concatenate([ours[r], theirs[r]]) for r in ours if r in theirs})
    rounds = sorted({r for cell in cells for r in cell})
    parts = np.array([[cell.get(r, np.zeros(4)) for r in rounds] for cell in cells])
    return Pairs(parts, [w for _, w in prompts], [launch for launch, _ in rounds])


def _names(run: Run) -> set[str]:
    """Arms and prompts of a run, by name."""
    return {arm_name(*arm) for arm in arms_of(run)} | {f"prompt {p['id']}" for p in run.meta["prompts"]}


def _lines(a: Run, b: Run, settings: Sequence[Difference], found: Sequence[_Found]) -> list[str]:
    lines = []
    few = [run.id for run in (a, b) if len({s.get("launch", 0) for s in run.samples}) < 2]
    if few:
        lines.append(
            f"One launch alone in {' and '.join(dict.fromkeys(few))}: what changes from one process, hour or temperature"
            " to the next is not in these intervals, and there is no verdict on B/A. Settle it: run both with"
            " --launches 3."
        )
    if len(settings) == 1 and not isinstance(settings[0].a, list | dict | str):
        whole = [f for f in found if f.row["workload"] == ALL]
        lines += [s for f in whole if (s := _setting(settings[0], f.row, f.speed))]
    return lines


def _plain_moved(a: Run, b: Run, found: Sequence[_Found]) -> float | None:
    """B's speed of plain decoding over A's, where processor and card are the same and it is another all the same."""
    machines = [(run.meta["environment"]["cpu"], run.meta["labels"]["card"]) for run in (a, b)]
    plain = next((f.row["ratio"] for f in found if (f.row["strategy"], f.row["workload"]) == (BASELINE, ALL)), 1.0)
    return plain if machines[0] == machines[1] and abs(plain - 1) > PLAIN_MOVED else None


def _are_apart(run: Run) -> bool:
    """Whether the run's launches lie so far apart that what a machine does for minutes differs between them, and so is in
    the intervals. A cell that was tried again later belongs to no launch's time."""
    times: dict[int, list[tuple[datetime, datetime]]] = defaultdict(list)
    for s in run.samples:
        if not s.get("at"):
            return False  # a replay, or a run of before times were kept
        began = datetime.fromisoformat(s["at"])
        times[s.get("launch", 0)].append((began, began + timedelta(seconds=s.get("end_to_end_s") or 0.0)))
    launches = sorted(times.values(), key=min)
    gaps = []
    for earlier, later in pairwise(launches):
        began = min(later)[0]
        gaps.append(began - max(ended for start, ended in earlier if start < began))
    return bool(gaps) and min(gaps) >= _APART


def _moved_line(plain: float, apart: bool) -> str:
    line = (
        f"Plain decoding ran at {plain:.2f} times A's speed on the same processor and card: the machine was not as it had"
        " been, or what is named below changed it. What slows a machine costs passes over several tokens more or less than"
        " plain ones, so speedups move with it"
    )
    if apart:
        return f"{line}; launches lay minutes apart, so that is in the intervals."
    return f"{line}: no verdicts. Settle it: run both with --launches 3 --launch-pause 10."


def _setting(difference: Difference, row: Row, ratio: Estimate) -> str | None:
    line = setting_line(difference.what, difference.a, difference.b, ratio)
    return line and f"{row['strategy']}: {line}"


def finished(runs: Iterable[Run]) -> list[str]:
    """A line for each run that was interrupted: it is compared on what it has."""
    return [f"{r.id} was interrupted: compared on what it has." for r in runs if not r.finished]
