"""Runs of a group, launch by launch in turns, on a nano model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from recording import MODEL, PROMPTS, Quiet

from specdec.errors import SpecdecError
from specdec.runner import compare, compare_in_turns, estimate_seconds, prepare, resume, resume_in_turns
from specdec.spec import RunSpec, make_spec
from specdec.store import Group, Run, find_group, read_run

STRATEGY = """
import os
from specdec import Draft, Strategy
class Here(Strategy):
    name = "{name}"
    def begin(self, prompt_ids):
        with open("{name}.txt", "a") as file:
            file.write(f"{{os.getpid()}}\\n")
    def propose(self, context, max_tokens):
        return Draft()
"""


class Told(Quiet):
    """Keeps what is announced; ``spoils`` changes that file when the second launches begin."""

    def __init__(self, spoils: Path | None = None) -> None:
        self.lines: list[str] = []
        self.starts: list[tuple[int, int, float]] = []
        self._spoils = spoils

    def start(self, total: int, done: int, pauses_s: float = 0.0) -> None:
        self.starts.append((total, done, pauses_s))

    def announce(self, line: str) -> None:
        self.lines.append(line)
        if self._spoils and ", launch 2 of 2" in line:
            self._spoils.write_text(STRATEGY.format(name=self._spoils.stem) + "# another\n")

    def told(self, word: str) -> list[str]:
        return [line for line in self.lines if line.startswith(word)]


class Impatient(Told):
    """Presses Ctrl-C when a line with this beginning comes."""

    def __init__(self, at: str = "never") -> None:
        super().__init__()
        self._at = at

    def announce(self, line: str) -> None:
        super().announce(line)
        if line.startswith(self._at):
            raise KeyboardInterrupt

    def heads(self) -> list[str]:
        """Runs and pauses, in their order."""
        found = [line for line in self.lines if line.startswith(("Run ", "A pause"))]
        return [line.partition(" of 2:")[0].partition(" of 1.5 min")[0] for line in found]


def run_of(target: object, name: str, launches: int) -> RunSpec:
    """A short comparison of `none` with a strategy of the test's own, which notes its process."""
    Path(f"{name}.py").write_text(STRATEGY.format(name=name))
    short = {"workloads": ("code",), "limit": 1, "n_predict": 4, "warmup": 0, "launches": launches, "model": MODEL}
    return make_spec(target=str(target), strategies=name, strategy_files=(f"{name}.py:Here",), **short)


def name_of(run: RunSpec) -> str:
    return run.strategy_files[0].partition(".")[0]


def group_in(results: str) -> Group:
    group = find_group("g", Path(results))
    assert group
    return group


def launches_of(run: Run) -> list[int]:
    """In the order of the file."""
    assert {s["status"] for s in run.samples} == {"ok"}
    assert set(Counter(s["launch"] for s in run.samples).values()) == {2}
    return sorted({s["launch"] for s in run.samples})


def test_a_group_is_launched_in_turns(nano_dense: Path) -> None:
    """One run goes through, one has a launch less, one cannot be made, one cannot go on after its first launch."""
    runs = [run_of(nano_dense, "whole", 2), run_of(nano_dense, "once", 1)]
    runs += [run_of("missing.gguf", "never", 2), run_of(nano_dense, "spoilt", 2)]
    observer = Told(spoils=Path("spoilt.py"))
    folders, failed = compare_in_turns(runs, Path("results"), observer, name_of)
    assert [line.partition(": ")[2] for line in observer.told("Run ")] == [
        "whole", "once", "never", "spoilt", "whole", "spoilt"
    ]  # fmt: skip
    assert [line.partition(": ")[0] for line in observer.told("Run ")][:2] == [
        "Run 1 of 4, launch 1 of 2",
        "Run 2 of 4",
    ]
    assert failed == 2
    assert [line.split(":")[0] for line in observer.told("FAIL ")] == ["FAIL never", "FAIL spoilt"]
    whole, once, spoilt = (read_run(folder) for folder in folders)
    assert [name_of(RunSpec(**run.meta["spec"])) for run in (whole, once, spoilt)] == ["whole", "once", "spoilt"]
    assert (launches_of(whole), whole.finished) == ([0, 1], True)
    assert (launches_of(once), once.finished) == ([0], True)
    assert (launches_of(spoilt), spoilt.finished) == ([0], False)
    assert whole.samples[1]["at"] < once.samples[0]["at"] < spoilt.samples[0]["at"] < whole.samples[2]["at"]
    assert len(set(Path("whole.txt").read_text().split())) == 2, "a process for each launch"


def test_launches_stop_a_run_and_resume_goes_on(nano_dense: Path) -> None:
    observer = Told()
    folder = compare(run_of(nano_dense, "mine", 2), Path("results"), observer, launches=1)
    run = read_run(folder)
    assert (launches_of(run), run.finished) == ([0], False)
    assert resume(run, observer) == folder
    run = read_run(folder)
    assert (launches_of(run), run.finished) == ([0, 1], True)
    assert len(set(Path("mine.txt").read_text().split())) == 2
    with pytest.raises(SpecdecError, match="is finished"):
        resume(run, observer, launches=2)


def test_launches_may_be_a_pause_apart(nano_dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pause between two launches, of a run and of a group; none before the first or after the last."""
    waited: list[float] = []
    monkeypatch.setattr("specdec.runner.run.sleep", waited.append)
    runs = [run_of(nano_dense, n, 2).model_copy(update={"launch_pause": 1.5, "group": "g"}) for n in ("one", "two")]
    observer = Impatient()
    plan = prepare(runs[0], observer)
    assert estimate_seconds(plan) > 90
    plan.supervisor.kill()
    compare(runs[0], Path("results"), observer)
    assert (waited, observer.heads()) == ([90.0], ["A pause"])
    assert observer.starts == [(4, 0, 90.0), (4, 2, 0.0)], "a pause is in the time left until it is over"
    observer = Impatient("Run 2 of 2, launch 2")
    with pytest.raises(KeyboardInterrupt):
        compare_in_turns(runs, Path("turns"), observer, name_of)
    order = ["Run 1 of 2, launch 1", "Run 2 of 2, launch 1", "A pause", "Run 1 of 2, launch 2", "Run 2 of 2, launch 2"]
    assert observer.heads() == order
    observer = Impatient()
    folders, _ = resume_in_turns(group_in("turns"), observer, name_of)
    assert "A pause" not in observer.heads(), "the first thing it does: whoever resumes has waited"
    assert [launches_of(read_run(folder)) for folder in folders] == [[0, 1]] * 2


def test_a_run_that_fails_costs_no_second_pause(nano_dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("specdec.runner.run.sleep", waited.append)
    runs = [run_of(nano_dense, n, 2).model_copy(update={"launch_pause": 1.5}) for n in ("spoilt", "one")]
    observer = Told(spoils=Path("spoilt.py"))
    assert compare_in_turns(runs, Path("results"), observer, name_of)[1] == 1
    assert waited == [90.0]


def test_resume_names_the_variable_that_changed(nano_dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = compare(run_of(nano_dense, "mine", 2), Path("results"), Told(), launches=1)
    monkeypatch.setenv("GGML_OP_OFFLOAD_MIN_BATCH", "8")
    with pytest.raises(SpecdecError, match=r"the value of a GGML_\* variable changed since it was started"):
        resume(read_run(folder), Told())


def test_a_group_that_is_interrupted_in_a_pause_says_how_to_go_on(
    nano_dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tired(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("specdec.runner.run.sleep", tired)
    run = run_of(nano_dense, "one", 2).model_copy(update={"launch_pause": 1.0, "group": "g"})
    observer = Told()
    with pytest.raises(KeyboardInterrupt):
        compare_in_turns([run], Path("results"), observer, name_of)
    assert observer.lines[-1].endswith("specdec resume results/g")
    (folder,) = group_in("results").folders
    assert launches_of(read_run(folder)) == [0]


def test_an_interrupted_group_is_finished_in_turns(nano_dense: Path) -> None:
    """Also what was never begun, twice interrupted; what had failed is tried again."""
    names = ("one", "two", "never")
    runs = [run_of(nano_dense, name, 3).model_copy(update={"group": "g"}) for name in names]
    with pytest.raises(KeyboardInterrupt):
        compare_in_turns(runs, Path("results"), Impatient("Run 1 of 3, launch 1"), name_of)
    assert group_in("results").folders == []
    Path("never.py").rename("later.py")
    with pytest.raises(KeyboardInterrupt):
        resume_in_turns(group_in("results"), Impatient("Run 2 of 3, launch 2"), name_of)
    assert [launches_of(read_run(folder)) for folder in group_in("results").folders] == [[0, 1], [0]]
    Path("later.py").rename("never.py")
    observer = Told()
    folders, failed = resume_in_turns(group_in("results"), observer, name_of)
    assert [line.partition(",")[2] for line in observer.told("Run ")] == [
        " launch 1 of 3: never", " launch 2 of 3: two", " launch 2 of 3: never",
        *(f" launch 3 of 3: {name}" for name in names),
    ]  # fmt: skip
    assert failed == 0
    assert [launches_of(read_run(folder)) for folder in folders] == [[0, 1, 2]] * 3
    with pytest.raises(SpecdecError, match="results/g is finished"):
        resume_in_turns(group_in("results"), Told(), name_of)


def test_a_launch_of_conversations_is_whole_with_all_their_turns(nano_dense: Path) -> None:
    Path("p.jsonl").write_text("\n".join(json.dumps(p) for p in PROMPTS[1:]))
    spec = run_of(nano_dense, "talker", 2).model_copy(
        update={"workloads": (), "prompt_files": ("p.jsonl",), "group": "g"}
    )
    run = read_run(compare(spec, Path("results"), Told(), launches=1))
    assert [len(run.samples), run.meta["cells"]] == [6, 8]
    observer = Told()
    folders, _ = resume_in_turns(group_in("results"), observer, name_of)
    assert observer.told("Run ") == ["Run 1 of 1, launch 2 of 2: talker"]
    assert len(read_run(folders[0]).samples) == 12
    lines = (run.folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "samples.jsonl").write_text("".join(lines[:5]))
    meta = json.loads((run.folder / "run.json").read_text()) | {"status": "started"}
    (run.folder / "run.json").write_text(json.dumps(meta))
    observer = Told()
    resume_in_turns(group_in("results"), observer, name_of)
    assert len(observer.told("Run ")) == 2, "a turn was missing"


def test_options_of_another_version_are_named(nano_dense: Path) -> None:
    folder = compare(run_of(nano_dense, "mine", 2), Path("results"), Told(), launches=1)
    meta = json.loads((folder / "run.json").read_text())
    meta["spec"]["newer"] = 1
    (folder / "run.json").write_text(json.dumps(meta))
    with pytest.raises(SpecdecError, match="another version of specdec: its option newer"):
        resume(read_run(folder), Told())
