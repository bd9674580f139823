"""Runs on disk: nothing lost, nothing overwritten, damage named."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

from specdec.errors import SpecdecError
from specdec.metrics import rows
from specdec.profile.stored import Profile
from specdec.store import create, find_group, find_run, read_run, reopen


def sample(n: int) -> dict[str, object]:
    head = {"engine": "specdec", "strategy": "none", "rollback": "auto", "prompt": f"p{n}", "turn": 0, "repeat": 0}
    return head | {"launch": 0, "warmup": False, "status": "ok", "n": n}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with create(tmp_path / "results", {"cells": 3}) as writer:
        for n in range(2):
            writer.append(sample(n))
        return writer.folder


def test_a_started_run_is_readable(run: Path) -> None:
    got = read_run(run)
    assert (got.meta["status"], got.finished, [s["n"] for s in got.samples]) == ("started", False, [0, 1])


def test_a_torn_last_line_is_dropped_and_overwritten(run: Path) -> None:
    with open(run / "samples.jsonl", "ab") as file:
        file.write(orjson.dumps(sample(2))[:-7])
    assert len(read_run(run).samples) == 2
    with reopen(read_run(run)) as writer:
        writer.append(sample(2))
        writer.finish()
    got = read_run(run)
    assert [s["n"] for s in got.samples] == [0, 1, 2]
    assert got.finished


def test_a_turn_that_ran_twice_counts_once(run: Path) -> None:
    with reopen(read_run(run)) as writer:
        writer.append(sample(1) | {"n": 99})
    assert [s["n"] for s in read_run(run).samples] == [0, 99]


def test_damage_in_the_middle_is_named(run: Path) -> None:
    path = run / "samples.jsonl"
    path.write_bytes(b"{broken\n" + path.read_bytes())
    with pytest.raises(SpecdecError, match="line 1: is damaged"):
        read_run(run)


def test_another_schema_is_refused(run: Path) -> None:
    meta = orjson.loads((run / "run.json").read_bytes()) | {"schema": 0}
    (run / "run.json").write_bytes(orjson.dumps(meta))
    with pytest.raises(SpecdecError, match="written in schema 0, this specdec reads schemas 1 to 2"):
        read_run(run)


def test_version_1_is_read_as_one_engine_and_one_launch(run: Path) -> None:
    """Also where the run was resumed since: its file then holds lines of both versions."""
    meta = orjson.loads((run / "run.json").read_bytes()) | {
        "schema": 1,
        "arms": [{"strategy": "none", "rollback": "auto"}],
    }
    (run / "run.json").write_bytes(orjson.dumps(meta))
    old = {k: v for k, v in sample(7).items() if k not in ("engine", "launch")} | {"at": 12.5}
    with open(run / "samples.jsonl", "ab") as file:
        file.write(orjson.dumps(old) + b"\n")
    got = read_run(run)
    assert got.meta["schema"] == 2
    assert got.meta["arms"] == [{"engine": "specdec", "strategy": "none", "rollback": "auto"}]
    assert [(s["engine"], s["launch"]) for s in got.samples] == [("specdec", 0)] * 3
    assert got.samples[-1]["at"] is None, "a clock of another process says nothing"


def test_the_reference_runs_are_read() -> None:
    folders = [f.parent for f in (Path(__file__).resolve().parent.parent / "results").glob("*/*/run.json")]
    assert folders
    for folder in folders:
        got = read_run(folder)
        assert {s["engine"] for s in got.samples} == {"specdec"}
        assert Profile(got).curve() if got.meta["kind"] == "profile" else rows(got)


def test_no_run_json(tmp_path: Path) -> None:
    with pytest.raises(SpecdecError, match="cannot be read"):
        read_run(tmp_path)


def test_find_by_id_beginning_latest_and_path(run: Path) -> None:
    results = run.parent
    for name in (str(run), run.name, run.name[:13], "latest"):
        assert find_run(name, results) == run
    with pytest.raises(SpecdecError, match="no run match"):
        find_run("1999", results)
    with create(results, {}) as other:
        common = run.name[: next(i for i, (a, b) in enumerate(zip(run.name, other.folder.name, strict=True)) if a != b)]
    with pytest.raises(SpecdecError, match="2 runs match"):
        find_run(common, results)


def test_runs_of_one_second_have_folders_of_their_own_and_sort_as_they_were_started(tmp_path: Path) -> None:
    """Else ``latest`` would be any of them, and a group would be resumed in another order."""
    writers = [create(tmp_path, {"group": "g"}) for _ in range(20)]
    for w in writers:
        w.__exit__()
    folders = [w.folder for w in writers]
    group = find_group("g", tmp_path)
    assert group
    assert folders == sorted(set(folders)) == group.folders
    assert find_run("latest", tmp_path) == folders[-1]


def test_a_results_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecdecError, match=r"--results .*file: cannot be written"):
        create(tmp_path / "file", {})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_one_process_at_a_time_writes_a_run(run: Path) -> None:
    with reopen(read_run(run)) as writer:
        with pytest.raises(SpecdecError, match="is being written by another process"):
            reopen(read_run(run))
        writer.append(sample(2))
    with reopen(read_run(run)):
        assert len(read_run(run).samples) == 3
