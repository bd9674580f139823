"""What a strategy's own fault, a wrong kind of run and a name that is taken lead to: one line, exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from specdec.faults import in_one_line, place_of
from specdec.locking import lock
from specdec.store import create
from specdec.syntax import parse

OWN = """
from specdec import Draft, Strategy
class Raises(Strategy):
    name = "raises"
    def propose(self, context, max_tokens):
        return Draft([int(context[999999])])
class Lists(Strategy):
    name = "lists"
    def propose(self, context, max_tokens):
        return [1]
class Quits(Strategy):
    name = "quits"
    def propose(self, context, max_tokens):
        raise SystemExit(3)
"""
SHORT = ("--workloads", "demo-edit", "--limit", "1", "--n-predict", "4", "--threads", "1", "--warmup", "0")


@pytest.fixture(autouse=True)
def own() -> None:
    """Faulty strategies, where the command runs."""
    Path("own.py").write_text(OWN)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raises", "the strategy failed: IndexError: index 999999 is out of bounds for axis 0"),
        ("Lists", "lists: propose() returned list. Return Draft(ids), or Draft()."),
        ("Quits", "the strategy failed: SystemExit: 3 (own.py:14)"),
    ],
)
def test_a_text_of_a_faulty_strategy(call: Any, name: str, said: str) -> None:
    code, _, err = call("run", "x", "--n-predict", 4, "--threads", 1, "--strategy", f"own.py:{name}")
    assert code == 2
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_where_a_fault_lies_is_told_everywhere(call: Any) -> None:
    code, out, _ = call("strategies", "check", "own.py:Raises")
    assert code == 1
    assert out.count("(own.py:6)") == 8
    _, out, _ = call("compare", "--strategy", "own.py:Raises", "--strategies", "none", *SHORT)
    assert "FAIL raises: 1 cells: IndexError" in out
    assert "(own.py:6)" in out
    profile = ("--strategies", "none", "--lengths", "1,2", "--depths", 64, "--repeats", 2, "--threads", 1)
    code, _, err = call("profile", "--strategy", "own.py:Raises", *profile)
    assert (code, err.splitlines()[-1][-38:]) == (2, "(own.py:6). Try it: specdec strategies check"[-38:])


def test_specdecs_own_faults_have_no_place() -> None:
    with pytest.raises(TypeError) as caught:
        parse(None)  # type: ignore[arg-type]
    assert place_of(caught.value).startswith("test_faults_told.py:"), "this file is none of specdec's"
    assert in_one_line(ValueError()) == "ValueError"


def test_latest_is_the_newest_of_what_a_command_reads(call: Any) -> None:
    assert call("compare", "--strategies", "none", *SHORT)[0] == 0
    profile = ("--lengths", "1,2", "--depths", 64, "--repeats", 2, "--threads", 1)
    assert call("profile", "--strategies", "mtp", "--n-max", 1, *profile)[0] == 0
    assert call("profile", "--strategies", "none", *profile)[0] == 0
    run, _, plain = sorted(Path("results").iterdir())
    assert f"Profile {plain.name}" in call("report", "latest")[1]
    assert "--ctx-size" in call("export", "latest", "--format", "llama-server")[1]
    assert call("predict", plain, "--run", "latest")[0] == 0
    assert "mtp" in call("predict", "--acceptance", "0.5")[1]
    assert call("redact", "latest", "--out", "shared")[0] == 0
    for command in (("export", plain), ("redact", plain, "--out", "x"), ("show", plain), ("predict", "--run", plain)):
        code, _, err = call(*command)
        assert (code, err.splitlines()[-1]) == (
            2, f"specdec: {plain} is a profile. Name a comparison: a run of specdec compare."
        )  # fmt: skip
    assert call("report", run, plain)[2].endswith(f"{plain} is a profile. Name two comparisons.\n")
    assert call("resume", "latest")[2].endswith(f"{run} is finished. Read it with: specdec report {run}\n")


def test_files_are_written_as_they_are_called_and_never_over_recordings(call: Any) -> None:
    assert call("compare", "--strategies", "none", *SHORT, "--record", "t.npz")[0] == 0
    call("report", "latest", "--out", "page.html")
    assert Path("page.html").read_text().startswith("<!doctype html>")
    before = Path("t.npz").read_bytes()
    runs = len(list(Path("results").iterdir()))
    for command in (
        ("compare", *SHORT, "--record", "t.npz"),
        ("record", "--out", "t.npz"),
        ("record", "--from", "latest", "--out", "t.npz"),
    ):
        code, _, err = call(*command)
        assert (code, err.splitlines()[-1]) == (
            2,
            "specdec: t.npz exists already. Name another file, or remove that one.",
        )
    assert Path("t.npz").read_bytes() == before
    assert len(list(Path("results").iterdir())) == runs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("strategies", "new", "mtp"), "'mtp' is the name of a known strategy"),
        (("compare", "--strategies", "./own.py:Raises"), "Files are named with --strategy."),
        (("plan", "--strategy", "own.py:Raises(n=1)"), "with options the others have to be named"),
        (("profile", "--lengths", "0"), "--lengths: a target pass has 1 to 512 tokens"),
        (("compare", "--target", ""), "no model is named"),
        (("compare", "--results", "own.py"), "--results own.py: cannot be written: Not a directory"),
    ],
)
def test_one_line(call: Any, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = call(*arguments)
    assert code == 2
    assert said in err.splitlines()[-1]
    assert "Loading" not in err


def test_what_does_nothing_here_is_said(call: Any) -> None:
    _, _, err = call("compare", "--strategies", "none", *SHORT, "-ngl", 9, "--n-cpu-moe", 3, "--llama-server", "/x")
    assert "warning: --llama-server is not used" in err
    if "NVIDIA" not in err:
        assert "warning: --gpu-layers, --n-cpu-moe: this llama-cpp-python sees no GPU" in err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_a_run_that_goes_on_is_not_called_interrupted(call: Any) -> None:
    call("compare", "--strategies", "none", *SHORT)
    (run,) = Path("results").iterdir()
    meta = orjson.loads((run / "run.json").read_bytes()) | {"status": "started"}
    (run / "run.json").write_bytes(orjson.dumps(meta))
    assert "INTERRUPTED: 1 of 1 cells are there. Finish it: specdec resume" in call("report", "latest")[1]
    with open(run / "samples.jsonl", "ab") as file:
        lock(file)
        assert "STILL GOING ON: 1 of 1 cells are there." in call("report", "latest")[1]


def test_a_group_is_no_run(call: Any) -> None:
    with create(Path("results"), {"kind": "compare", "group": "20270101-000000-abcd"}) as writer:
        name = writer.folder.name
    code, _, err = call("export", "20270101-000000-abcd")
    assert (code, err) == (2, f"specdec: 20270101-000000-abcd is a group of runs. Name one of them: {name}.\n")
