"""Two runs against each other, paired by prompt: another version of a strategy, another card, another build.

What must be the same for a difference to have one cause (prompts, settings, model) is checked; what may differ (the
machine, versions, the strategies' files) is named. Everything comes from the two stored runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specdec.errors import SpecdecError
from specdec.metrics import ALL, BASELINE, ENGINE, Arm, arm_of, arms_of
from specdec.stats import Estimate, LaunchSpread, Pairs, estimate, judge, launch_spread
from specdec.stats.pairs import Floats
from specdec.store import Run, Sample
from specdec.types import Row
from specdec.why import setting_line

_OF_THE_COMPARISON = {
    "target", "strategies", "strategy_files", "draft", "mtp_model", "workloads", "prompt_files", "limit", "repeats",
    "launches", "warmup", "rollback", "model", "sampling",
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
    settings = _settings(a, b)
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
    table, ratios = _table(a, arms, mine, theirs)
    lines = _lines(a, b, settings, table, ratios)
    only = [sorted(_names(x) - _names(y)) for x, y in ((a, b), (b, a))]
    return Versus(a, b, table, settings, _environment(a, b), only[0], only[1], lines)


Generations = dict[tuple[Arm, str, str], dict[object, Floats]]
"""(arm, prompt, workload) -> launch -> mean tokens and seconds of a repeat."""


def _generations(run: Run) -> Generations:
    """Tokens and seconds of each prompt, per repeat: runs may have repeated it differently often. A repeat that lacks
    one of the prompt's turns is left out."""
    turns: dict[tuple[Arm, str, str], dict[object, dict[int, list[Sample]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for s in run.samples:
        if not s["warmup"] and s["status"] == "ok" and s["generation_s"] > 0:
            turns[arm_of(s), s["prompt"], s["workload"]][s.get("launch", 0)][s["repeat"]].append(s)
    planned = {p["id"]: p["turns"] for p in run.meta["prompts"]}
    out: Generations = {}
    for key, launches in turns.items():
        for launch, repeats in launches.items():
            whole = [r for r in repeats.values() if len(r) == planned.get(key[1], 1)]
            if whole:
                sums = [[sum(len(s["token_ids"]) for s in r), sum(s["generation_s"] for s in r)] for r in whole]
                out.setdefault(key, {})[launch] = np.array(sums, np.float64).mean(axis=0)
    return out


def _table(a: Run, arms: list[Arm], mine: Generations, theirs: Generations) -> tuple[list[Row], list[Estimate | None]]:
    workloads = [*dict.fromkeys(p["workload"] for p in a.meta["prompts"]), ALL]
    table: list[Row] = []
    ratios: list[Estimate | None] = []
    for workload in workloads:
        for arm in arms:
            prompts = [(p, w) for x, p, w in mine if x == arm and w in (workload, w if workload == ALL else "")]
            prompts = [k for k in prompts if _key(arm, k) in theirs]
            if not prompts:
                continue
            row, ratio = _row(arm, workload, prompts, mine, theirs)
            table.append(row)
            ratios.append(ratio)
    for row, verdict in zip(table, judge(ratios), strict=True):
        row["verdict"] = verdict and verdict.text
        row["p_value"], row["p_corrected"] = (verdict.p, verdict.p_corrected) if verdict else (None, None)
    return table, ratios


def _row(
    arm: Arm, workload: str, prompts: list[tuple[str, str]], mine: Generations, theirs: Generations
) -> tuple[Row, Estimate]:
    of_a, of_b = _mean(mine, arm, prompts), _mean(theirs, arm, prompts)
    spreads = [s for run in (mine, theirs) if (s := _launch_spread(run, arm, prompts))]
    ratio = estimate(Pairs(np.concatenate([of_b, of_a], axis=1)[:, None], [w for _, w in prompts]), extra=spreads)
    low, high = ratio.interval() or (None, None)
    row: Row = {
        "engine": arm[0], "strategy": arm[1], "rollback": arm[2], "workload": workload, "prompts": len(prompts),
        "tok_s_a": float(of_a[:, 0].sum() / of_a[:, 1].sum()), "tok_s_b": float(of_b[:, 0].sum() / of_b[:, 1].sum()),
        "ratio": ratio.value, "ratio_low": low, "ratio_high": high, "mean_ratio": ratio.mean,
        "between_launches": ratio.between_launches,
    }  # fmt: skip
    return row | _against_plain(arm, prompts, mine, theirs), ratio


def _against_plain(arm: Arm, prompts: list[tuple[str, str]], mine: Generations, theirs: Generations) -> Row:
    """B's speedup over A's, each against plain decoding of its own run: what the machines do to both cancels."""
    plain = (arm[0], BASELINE, "auto")
    both = [k for k in prompts if _key(plain, k) in mine and _key(plain, k) in theirs]
    empty = dict.fromkeys(("speedup_a", "speedup_b", "speedup_ratio", "speedup_ratio_low", "speedup_ratio_high"))
    if arm == plain or not both:
        return empty
    parts = [_mean(run, x, both) for run in (theirs, mine) for x in (arm, plain)]
    speeds = [p[:, 0].sum() / p[:, 1].sum() for p in parts]
    ratio = estimate(Pairs(np.concatenate(parts, axis=1)[:, None], [w for _, w in both]))
    low, high = ratio.interval() or (None, None)
    values = (float(speeds[2] / speeds[3]), float(speeds[0] / speeds[1]), ratio.value, low, high)
    return dict(zip(empty, values, strict=True))


def _key(arm: Arm, prompt: tuple[str, str]) -> tuple[Arm, str, str]:
    return arm, prompt[0], prompt[1]


def _mean(run: Generations, arm: Arm, prompts: list[tuple[str, str]]) -> Floats:
    """[prompts, 2]: tokens and seconds, mean over launches."""
    return np.array([np.mean(list(run[_key(arm, k)].values()), axis=0) for k in prompts])


def _launch_spread(run: Generations, arm: Arm, prompts: list[tuple[str, str]]) -> LaunchSpread | None:
    """How much the speed of one run moved from launch to launch, as a ratio to 1 token a second."""
    launches = list(dict.fromkeys(x for k in prompts for x in run[_key(arm, k)]))
    ours = np.array([[run[_key(arm, k)].get(x, np.zeros(2)) for x in launches] for k in prompts])
    return launch_spread(np.concatenate([ours, np.ones_like(ours)], axis=-1))


def _settings(a: Run, b: Run) -> list[Difference]:
    """Everything that must agree: prompts, options, labels, the model file."""
    x, y = a.meta, b.meta
    found = []
    if x["prompts_sha256"] != y["prompts_sha256"]:
        ours, theirs = ({p["id"]: p.get("tokens") for p in m["prompts"]} for m in (x, y))
        found.append(Difference("prompts", _prompts(ours, theirs), _prompts(theirs, ours)))
    if x["model"]["header_sha256"] != y["model"]["header_sha256"]:
        found.append(Difference("model", x["model"]["file"], y["model"]["file"]))
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


def _environment(a: Run, b: Run) -> list[Difference]:
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


def _names(run: Run) -> set[str]:
    """Arms and prompts of a run, by name."""
    arms = {" ".join(p for p in (s, f"[{r}]" if r != "auto" else "", "" if e == ENGINE else f"on {e}") if p)
            for e, s, r in arms_of(run)}  # fmt: skip
    return arms | {f"prompt {p['id']}" for p in run.meta["prompts"]}


def _lines(
    a: Run, b: Run, settings: Sequence[Difference], table: list[Row], ratios: list[Estimate | None]
) -> list[str]:
    lines = []
    few = [run.id for run in (a, b) if len({s.get("launch", 0) for s in run.samples}) < 2]
    if few:
        lines.append(
            f"One launch alone in {' and '.join(dict.fromkeys(few))}: what changes from one process, hour or temperature to"
            " the next is not in the interval. Settle it: run both with --launches 3."
        )
    if len(settings) == 1 and not isinstance(settings[0].a, list | dict | str):
        whole = [(r, e) for r, e in zip(table, ratios, strict=True) if r["workload"] == ALL and e]
        lines += [s for r, e in whole if (s := _setting(settings[0], r, e))]
    return lines


def _setting(difference: Difference, row: Row, ratio: Estimate) -> str | None:
    line = setting_line(difference.what, difference.a, difference.b, ratio)
    return line and f"{row['strategy']}: {line}"


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return ", ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)


def finished(runs: Iterable[Run]) -> list[str]:
    """A line for each run that was interrupted: it is compared on what it has."""
    return [f"{r.id} was interrupted: compared on what it has." for r in runs if not r.finished]
