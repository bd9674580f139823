"""Grids, workers, search, resume and the command, on traces of a toy target."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from specdec import store
from specdec.errors import SpecdecError
from specdec.metrics import rows
from specdec.registry import Registry
from specdec.replay import grid, job
from specdec.replay.cost import Curve, costs_of_run, load_costs
from specdec.replay.run import ReplayOptions
from specdec.replay.trace import write_trace
from specdec.testing.fake import FakeTarget
from specdec.testing.traces import record_turn, trace_of, turn_of
from specdec.types import Limits, Sampling

SMALL = "ngram-mod(n_match=1..4:1, n_min=0|2, n_max=2|6, table_size=1024)"
COSTS = {
    "name": "a card",
    "card": "Card 9000",
    "verify_s": {"1": 0.01, "3": 0.012, "9": 0.03},
    "rest_s": {"": [1e-4, 1e-5]},
}


class Quiet:
    """Collects what a replay tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.labels: list[str] = []
        self.total = self.done = 0

    def announce(self, line: str) -> None:
        self.lines.append(line)

    def start(self, total: int, done: int) -> None:
        self.total, self.done = total, done

    def setting(self, label: str) -> None:
        self.labels.append(label)


@pytest.fixture
def toy(tmp_path: Path) -> str:
    """Eight prompts of two workloads, answered by a toy target."""
    turns = []
    for i in range(8):
        prompt = np.tile(np.random.default_rng(i).integers(0, 20, 12), 3).astype(np.int32)
        target = FakeTarget(seed=i % 3, sharpness=5.0)
        workload = ("prose", "code")[i % 2]
        turns.append(record_turn(target, prompt, Limits(120), Sampling(), f"p{i}", workload))
    write_trace(tmp_path / "toy.npz", trace_of(turns, 120, 24))
    (tmp_path / "costs.json").write_text(json.dumps(COSTS))
    return str(tmp_path / "toy.npz")


def run(options: ReplayOptions, watcher: Quiet | None = None) -> store.Run:
    return store.read_run(job.replay(options, Path("results"), watcher or Quiet()))


# ---- grids


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8..32:8", [8, 16, 24, 32]),
        ("3..5", [3, 4, 5]),
        ("0.1..0.3:0.1", [0.1, 0.2, 0.3]),
        ("1|4|9", [1, 4, 9]),
        ("1..3:1|8|2", [1, 2, 3, 8]),
        ("true|false", [True, False]),
        ("q8_0|f16", ["q8_0", "f16"]),
        ("0..5:2", [0, 2, 4]),
    ],
)
def test_values(text: str, wanted: list[object]) -> None:
    assert grid.values(text) == wanted


@pytest.mark.parametrize("text", ["5..3:1", "1..9:0", "1||2", "1..1000000:1"])
def test_empty_values_are_refused(text: str) -> None:
    with pytest.raises(SpecdecError):
        grid.values(text)


def test_quoted_strings_are_no_grids() -> None:
    registry = Registry()
    calls = grid.read('draft(model="a|b", n_max=1|2)')
    assert [dict(c.options) for c in grid.expand(calls, registry)] == [
        {"model": "a|b", "n_max": 1},
        {"model": "a|b", "n_max": 2},
    ]


def test_groups_and_nested_strategies_open() -> None:
    registry = Registry()
    calls = grid.read("ngram,cascade(ngram-simple(size_n=2|3), ngram-mod(n_max=4|8))")
    labels = [registry.label(c) for c in grid.expand(calls, registry)]
    assert labels[:2] == ["ngram-simple", "ngram-mod"]
    assert len(labels) == 2 + 4 == grid.size(calls, registry)
    assert "cascade(ngram-simple(size_n=3), ngram-mod(n_max=8))" in labels


def test_search_adds_values_worth_trying_to_options_that_are_not_given() -> None:
    registry = Registry()
    own = grid.axes(grid.read("ngram-simple(size_n=5)")[0], registry, search=True)
    assert own["size_n"] == [5]
    assert len(own["size_m"]) > 3


# ---- runs


def test_a_replay_is_a_run_that_report_reads(toy: str) -> None:
    done = run(ReplayOptions(trace=toy, strategies="ngram-mod(n_match=2, n_min=1),ngram-simple(size_n=2)"))
    assert done.finished
    assert done.meta["labels"]["label"] == "replay"
    table = rows(done)
    assert {r["workload"] for r in table} == {"prose", "code", "all"}
    none = next(r for r in table if r["strategy"] == "none" and r["workload"] == "all")
    mod = next(r for r in table if r["strategy"].startswith("ngram-mod") and r["workload"] == "all")
    assert none["target_passes"] == 8 * 119
    assert mod["target_passes"] < none["target_passes"]
    assert not mod["text_differs"]
    assert mod["tok_s"] is None
    assert mod["speedup"] is None


def test_costs_make_speeds(toy: str) -> None:
    done = run(ReplayOptions(trace=toy, strategies="ngram-mod(n_match=2, n_min=1)", costs="costs.json"))
    table = {r["strategy"]: r for r in rows(done) if r["workload"] == "all"}
    assert done.meta["labels"]["card"] == "Card 9000"
    assert table["none"]["tok_s"] == pytest.approx(8 * 120 / (8 * 119 * 0.0101))
    mod = next(s for s in done.samples if s["strategy"] != "none")
    verify = np.interp(np.array(mod["steps"]["drafted"]) + 1, [1, 3, 9], [0.01, 0.012, 0.03])
    rest = 1e-4 + 1e-5 * np.array(mod["steps"]["drafted"])
    beyond = np.maximum(0, np.array(mod["steps"]["drafted"]) + 1 - 9) * (0.03 - 0.012) / 6
    assert mod["generation_s"] == pytest.approx(float((verify + rest + beyond).sum()))


def test_counts_give_the_rows_that_steps_give(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ReplayOptions(trace=toy, strategies=SMALL, costs="costs.json")
    whole = rows(run(options))
    monkeypatch.setattr("specdec.replay.job.is_whole", lambda n, trace: False)
    compact = {(r["strategy"], r["workload"]): r for r in job.all_rows(run(options))}
    assert len(compact) == len(whole) == 3 * 17
    for row in whole:
        for key, value in compact[row["strategy"], row["workload"]].items():
            # What depends on how many comparisons the table makes differs.
            if key not in ("memory_bytes", "verdict", "p_value", "p_corrected", "smallest_effect", "needs"):
                assert value == pytest.approx(row[key]), key


def test_processes_and_one_process_agree(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdec.replay.job.is_whole", lambda n, trace: False)
    found = [run(ReplayOptions(trace=toy, strategies=SMALL, search=True, jobs=n)) for n in (1, 2)]
    lines = [{x["strategy"]: x["turns"] for x in map(orjson.loads, _counts(r).splitlines())} for r in found]
    assert lines[0] == lines[1]
    assert found[0].meta["search"] == found[1].meta["search"]


def _counts(done: store.Run) -> bytes:
    return (done.folder / job.COUNTS).read_bytes()


@pytest.mark.parametrize("whole", [True, False])
def test_an_interrupted_replay_resumes_where_it_stopped(toy: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdec.replay.job.is_whole", lambda n, trace: whole)
    options = ReplayOptions(trace=toy, strategies=SMALL)
    complete = list(job.all_rows(run(options)))

    class Stops(Quiet):
        def setting(self, label: str) -> None:
            super().setting(label)
            if len(self.labels) == 5:
                raise KeyboardInterrupt

    stopped = Stops()
    with pytest.raises(KeyboardInterrupt):
        job.replay(options, Path("stopped"), stopped)
    assert "specdec resume" in stopped.lines[-1]
    (folder,) = Path("stopped").iterdir()
    if not whole:
        with open(folder / job.COUNTS, "ab") as file:
            file.write(b'{"strategy": "torn')
    again = Quiet()
    done = store.read_run(job.resume(store.read_run(folder), again))
    assert (again.total, again.done) == (17, 5)
    assert not set(again.labels) & set(stopped.labels)
    assert list(job.all_rows(done)) == complete


def test_a_strategy_that_fails_costs_its_prompt(toy: str) -> None:
    first = int(np.random.default_rng(3).integers(0, 20, 12)[0])
    Path("mine.py").write_text(
        "from specdec import Draft, Strategy\n"
        "class Mine(Strategy):\n"
        "    name = 'mine'\n"
        "    def begin(self, prompt_ids):\n"
        "        self.first = int(prompt_ids[0])\n"
        "    def propose(self, context, max_tokens):\n"
        f"        if self.first == {first}:\n"
        "            raise RuntimeError('no')\n"
        "        return Draft([int(context[-1])])\n"
    )
    done = run(ReplayOptions(trace=toy, strategies="mine", strategy_files=("mine.py:Mine",)))
    errors = [s for s in done.samples if s["status"] == "error"]
    assert 1 <= len(errors) < 8
    assert errors[0]["error"] == "RuntimeError: no"
    assert len(done.samples) == 16


# ---- search


def test_the_whole_grid_is_searched_and_the_best_is_the_best(toy: str) -> None:
    done = run(ReplayOptions(trace=toy, strategies=SMALL, search=True, costs="costs.json", held_out=0.0))
    found = done.meta["search"]
    table = {r["strategy"]: r["tok_s"] for r in job.all_rows(done) if r["workload"] == "all"}
    assert found["settings"] == 18 == len(table)  # the grid, none, and the default of what is searched
    assert found["best"]["strategy"] == max(table, key=table.__getitem__)
    assert found["best"]["value"] == pytest.approx(max(table.values()))
    assert found["best"]["held_out"] is None
    assert found["flatness"]["within"]["5%"] >= found["flatness"]["within"]["1%"] >= 1
    for w in found["workloads"]:
        assert 0 <= w["loss"] < 1
    assert {s["strategy"] for s in done.samples} >= {"none", found["best"]["strategy"]}


def test_held_out_prompts_do_not_choose(toy: str) -> None:
    found = run(ReplayOptions(trace=toy, strategies=SMALL, search=True)).meta["search"]
    assert (found["tuning_prompts"], found["held_out_prompts"]) == (6, 2)
    best = next(r for r in found["compared"] if r["strategy"] == found["best"]["strategy"])
    assert best["held_out"] == found["best"]["held_out"]
    assert found["best"]["held_out_best"] >= found["best"]["held_out"]
    assert 1 <= found["best"]["held_out_rank"] <= found["settings"]


def test_optuna_comes_near_the_best_of_a_large_grid(toy: str) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed (the extra 'replay')")
    space = "ngram-mod(n_match=1..12:1, n_min=0..6:1, n_max=1..12:1, table_size=1024)"
    full = run(ReplayOptions(trace=toy, strategies=space, search=True, costs="costs.json")).meta["search"]
    few = run(ReplayOptions(trace=toy, strategies=space, search=True, trials=150, costs="costs.json"))
    found = few.meta["search"]
    assert found["settings"] == 152
    assert found["grid"] == 12 * 7 * 12
    assert found["best"]["value"] >= 0.98 * full["best"]["value"]
    again = run(ReplayOptions(trace=toy, strategies=space, search=True, trials=150, costs="costs.json"))
    assert again.meta["search"] == found


def test_a_grid_that_is_too_large_asks_for_a_search(toy: str) -> None:
    with pytest.raises(SpecdecError, match="--search"):
        run(ReplayOptions(trace=toy, strategies="ngram-mod(n_match=1..100:1, n_max=1..100:1)"))


# ---- costs


def test_costs_of_a_run_are_its_steps(toy: str) -> None:
    done = run(ReplayOptions(trace=toy, strategies="ngram-mod(n_match=2, n_min=1, n_max=4)", costs="costs.json"))
    with pytest.raises(SpecdecError, match="is a replay"):
        costs_of_run(done)
    del done.meta["trace"]
    got, given = costs_of_run(done), load_costs(Path("costs.json"))
    for name, drafted in (("none", [0]), ("ngram-mod(n_max=4)", [0, 1, 4])):
        steps = np.array([drafted, [0] * len(drafted)])
        ours, theirs = (sum(c.seconds(name, *steps, 0).values()) for c in (got, given))
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_lengths_between_and_beyond_measured_ones() -> None:
    curve = Curve("x", "y", {1: 1.0, 3: 2.0, 5: 4.0})
    seconds = curve.seconds("none", np.array([0, 1, 2, 3, 6]), np.zeros(5, int), 0)
    assert seconds["verify"].tolist() == [1.0, 1.5, 2.0, 3.0, 6.0]


@pytest.mark.parametrize("text", ["[]", "{}", '{"verify_s": {"2": 0.1}}', '{"verify_s": {"1": -1}}', "no json"])
def test_costs_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(SpecdecError, match="--costs"):
        load_costs(tmp_path / "c.json")


# ---- the command


def specdec(*arguments: str) -> Any:
    return subprocess.run([sys.executable, "-m", "specdec", *arguments], capture_output=True, text=True, check=False)


def test_the_command_prints_rows_and_what_was_found(toy: str) -> None:
    done = specdec("replay", toy, "-s", SMALL, "--search", "--costs", "costs.json", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["labels"]["label"] == "replay"
    assert len(told["rows"]) == 3 * 18
    assert told["search"]["confirm"].startswith("specdec compare --target toy --strategies")
    text = specdec("report", "latest").stdout
    assert "Best overall" in text
    assert "Confirm it live" in text


def test_without_costs_the_tables_say_so(toy: str) -> None:
    done = specdec("replay", toy, "-s", "ngram-mod(n_match=2, n_min=1)")
    assert done.returncode == 0, done.stderr
    assert "n/a" in done.stdout
    found = specdec("replay", toy, "-s", SMALL, "--search")
    assert found.returncode == 0, found.stderr
    assert "no costs were given" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "nowhere.npz"], "there is no trace"),
        (["replay", "TOY", "-s", "mtp"], "holds no proposals"),
        (["replay", "TOY", "-s", "ngrm"], "Did you mean"),
        (["replay", "TOY", "-s", "ngram-mod(n_max=9..2:1)"], "is empty or too long"),
        (["replay", "TOY", "-s", "ngram-mod(n_max=0|2)"], "n_max"),
        (["replay", "TOY", "--costs", "nowhere"], "--costs nowhere"),
        (["replay", "TOY", "--held-out", "1.5"], "--held-out"),
    ],
)
def test_faults_are_one_line(toy: str, arguments: list[str], said: str) -> None:
    done = specdec(*[toy if a == "TOY" else a for a in arguments])
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_n_predict_cuts_the_answers(toy: str) -> None:
    done = run(ReplayOptions(trace=toy, strategies="ngram-mod(n_match=2, n_min=1)", n_predict=30))
    assert {len(s["token_ids"]) for s in done.samples} == {30}
    assert {s["stop"] for s in done.samples} == {"length"}


def test_state_is_carried_where_asked(tmp_path: Path) -> None:
    text = np.random.default_rng(0).integers(0, 1000, 80).astype(np.int32)
    turns = [turn_of(text, 10, "a"), turn_of(text, 10, "b")]
    write_trace(tmp_path / "t.npz", trace_of(turns, 70, 1000))
    strategies = "ngram-mod(n_match=2, n_min=1, n_max=8)"
    drafted = {}
    for carry in (False, True):
        done = run(ReplayOptions(trace=str(tmp_path / "t.npz"), strategies=strategies, carry_state=carry))
        drafted[carry] = {s["prompt"]: sum(s["steps"]["drafted"]) for s in done.samples if s["strategy"] != "none"}
    assert drafted[False] == {"a": 0, "b": 0}
    assert drafted[True]["b"] > 0
