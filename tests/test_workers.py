"""Cells in worker processes: whatever happens in one costs its cell, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from specdec.store import find_run, read_run

FAULTS = Path(__file__).with_name("faults.py")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a worker with its parent on Linux only")


def command(target: Path, *arguments: object) -> list[str]:
    fixed = ("--n-predict", "8", "--threads", "1", "--workloads", "code")
    return [sys.executable, "-m", "specdec", "compare", "--target", str(target), *fixed, *map(str, arguments)]


def compare(target: Path, *arguments: object, code: int = 0) -> tuple[str, str, list[dict[str, Any]]]:
    """(stdout, stderr, samples in the order of the file) of a comparison."""
    done = subprocess.run(command(target, *arguments), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr, samples()


def samples() -> list[dict[str, Any]]:
    return [json.loads(line) for run in Path("results").glob("*") for line in (run / "samples.jsonl").open()]


def by_strategy(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for s in found:
        if not s["warmup"]:
            groups[s["strategy"]].append(s)
    return groups


def faulty(*options: str) -> tuple[str, ...]:
    calls = ",".join(f"faulty({o})" for o in options)
    return ("--strategy", f"{FAULTS}:Faulty", "--strategies", calls or "faulty")


def test_faults_cost_their_own_cells(nano_dense: Path) -> None:
    """A real segmentation fault, an abort, an exit, an exception, a sleep, a loop in C, two ways of eating memory."""
    hows = ("segfault", "abort", "exit", "raise", "sleep", "spin", "eat", "eat-shared")
    limits = ("--limit", 2, "--warmup", 0, "--cell-timeout", 3, "--ram-limit", 400)
    out, err, found = compare(nano_dense, *faulty(*(f"how={h}" for h in hows)), *limits)
    groups = by_strategy(found)
    seen = {h: {s["status"] for s in groups[f"faulty(how={h})"]} for h in hows}
    assert seen == {
        "segfault": {"crashed"}, "abort": {"crashed"}, "exit": {"crashed"}, "raise": {"error"},
        "sleep": {"timed out"}, "spin": {"timed out"}, "eat": {"out-of-memory"}, "eat-shared": {"out-of-memory"},
    }  # fmt: skip
    assert all(len(groups[f"faulty(how={h})"]) == 2 for h in hows), "each cell is recorded, once"
    for unhurt in ("none", "faulty"):
        assert [s["status"] for s in groups[unhurt]] == ["ok", "ok"]
    one = {h: groups[f"faulty(how={h})"][0] for h in hows}
    assert one["segfault"]["exit_code"] == -signal.SIGSEGV
    assert "SIGSEGV" in one["segfault"]["error"]
    assert any("go_wrong" in line for line in one["segfault"]["log"]), "where it was in Python"
    assert any("go_wrong" in line for line in one["spin"]["log"])
    assert one["spin"]["limit_s"] == 3
    assert "go_wrong" in one["raise"]["traceback"]
    assert "FAIL: crashed" in out
    assert "FAIL: timed out" in out
    assert "FAIL: out-of-memory" in out
    assert "FAIL faulty(how=segfault): 2 cells: crashed: SIGSEGV" in out
    assert "Traceback" not in err


def test_an_arm_that_keeps_failing_is_given_up(nano_dense: Path) -> None:
    _, err, found = compare(nano_dense, *faulty("how=abort"), "--limit", 5, "--warmup", 0)
    group = by_strategy(found)["faulty(how=abort)"]
    assert [s["status"] for s in group] == ["crashed"] * 5
    assert [s["error"].startswith("given up after 3 failures in a row: crashed") for s in group] == [False] * 3 + [
        True
    ] * 2
    assert err.count("Loading ") == 4, "the model is not loaded for cells that are given up"


def test_a_fresh_worker_is_warmed_up(nano_dense: Path) -> None:
    """Its first generation is no measurement either: stored and marked, and the reader counts it once."""
    _, err, found = compare(nano_dense, *faulty("how=abort"), "--limit", 2)
    plain = [(s["warmup"], s["prompt"]) for s in found if s["strategy"] == "none"]
    assert err.count("Loading ") == 4
    assert plain.count((True, "code-01")) == 3, "at the start, and in each of the two workers that served it later"
    assert [p for warm, p in plain if not warm] == ["code-01", "code-02"]
    run = read_run(find_run("latest", Path("results")))
    assert [s["warmup"] for s in run.samples if s["strategy"] == "none"] == [True, False, False]


def test_a_strategy_that_cannot_be_opened_costs_its_cells(nano_dense: Path) -> None:
    hows = [f"how={h},where=open" for h in ("segfault", "raise", "sleep")]
    limits = ("--limit", 1, "--warmup", 0, "--cell-timeout", 3)
    _, err, found = compare(nano_dense, *faulty(*hows), *limits)
    groups = by_strategy(found)
    got = [groups[f"faulty(how={h}, where=open)"][0] for h in ("segfault", "raise", "sleep")]
    assert [s["status"] for s in got] == ["crashed", "error", "timed out"]
    assert all(s["error"].startswith("open() failed: ") for s in got)
    assert groups["none"][0]["status"] == "ok"
    assert err.count("FAIL faulty(") >= 3


def test_a_fault_while_closing_harms_nothing(nano_dense: Path) -> None:
    _, _, found = compare(nano_dense, *faulty("how=segfault,where=close"), "--limit", 1)
    assert {s["status"] for s in found} == {"ok"}


def test_memory_that_another_left_behind_is_not_held_against_an_arm(nano_dense: Path, isolated: Path) -> None:
    (isolated / "hoarder.py").write_text(
        "from specdec import Draft, Strategy\n"
        "kept = []\n"
        "class Hoarder(Strategy):\n    name = 'hoarder'\n"
        "    def propose(self, context, max_tokens):\n        return Draft([])\n"
        "    def end(self):\n        kept.append(bytearray(b'x' * (150 << 20)))\n"
        "class Needy(Strategy):\n    name = 'needy'\n"
        "    def begin(self, prompt_ids):\n        bytearray(b'x' * (150 << 20))\n"
        "    def propose(self, context, max_tokens):\n        return Draft([])\n"
    )
    files = ("--strategy", "hoarder.py:Hoarder", "--strategy", "hoarder.py:Needy", "--strategies", "none")
    _, err, found = compare(nano_dense, *files, "--limit", 5, "--warmup", 0, "--ram-limit", 400)
    groups = by_strategy(found)
    assert {s["status"] for s in groups["needy"]} == {s["status"] for s in groups["none"]} == {"ok"}
    assert "once more in a fresh worker" in err


def test_what_a_strategy_prints_or_reads_disturbs_nothing(nano_dense: Path) -> None:
    out, _, found = compare(nano_dense, "--strategy", f"{FAULTS}:Printer", "--strategies", "none", "--limit", 1)
    assert {s["status"] for s in found} == {"ok"}
    assert "a line of the strategy" not in out


def test_a_generation_that_breaks_an_identity_is_an_error(nano_dense: Path) -> None:
    out, _, found = compare(nano_dense, "--strategy", f"{FAULTS}:Liar", "--strategies", "none", "--limit", 1)
    groups = by_strategy(found)
    assert [s["status"] for s in groups["liar"]] == ["error"]
    assert "tokens" in groups["liar"][0]["error"]
    assert [s["status"] for s in groups["none"]] == ["ok"]
    assert "FAIL" in out


def test_launches_are_fresh_processes(nano_dense: Path) -> None:
    _, err, found = compare(nano_dense, "--strategies", "ngram-simple", "--limit", 2, "--repeats", 2, "--launches", 2)
    assert err.count("Loading ") == 2
    for launch in (0, 1):
        mine = [s for s in found if s["launch"] == launch]
        assert len(mine) == 2 + 2 * 2 * 2
        assert [s["warmup"] for s in mine] == [True] * 2 + [False] * 8
    assert {s["engine"] for s in found} == {"specdec"}


def test_failed_cells_are_done_until_asked_for(nano_dense: Path) -> None:
    Path("bad").touch()
    arguments = (*faulty("how=abort,on=bad"), "--limit", 2, "--warmup", 0)
    compare(nano_dense, *arguments)
    resume = [sys.executable, "-m", "specdec", "resume", "latest"]
    assert subprocess.run(resume, capture_output=True, check=False).returncode == 2, "the run is finished"
    Path("bad").unlink()
    done = subprocess.run([*resume, "--retry-failed"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = read_run(find_run("latest", Path("results")))
    assert {s["status"] for s in run.samples} == {"ok"}
    assert len(run.samples) == run.meta["cells"]
    again = subprocess.run([*resume, "--retry-failed"], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "has no failed cells" in again.stderr


def test_the_parent_never_loads_llama_cpp(nano_dense: Path) -> None:
    code = (
        "import sys; from specdec.cli import main;"
        f"sys.argv = {['specdec', *command(nano_dense, '--limit', 1)[3:]]!r}\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "assert 'llama_cpp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# ---- ends


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def started(target: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(command(target, *arguments), stderr=subprocess.PIPE, text=True, start_new_session=True)


def stored() -> int:
    return len([line for run in Path("results").glob("*/samples.jsonl") for line in run.open()])


@LINUX
@pytest.mark.parametrize("how", ["sleep", "spin"])
def test_a_hanging_worker_does_not_outlive_its_parent(nano_dense: Path, how: str) -> None:
    process = started(nano_dense, *faulty(f"how={how}"), "--limit", 1, "--warmup", 0)
    wait_for(lambda: stored() == 1)
    time.sleep(0.3)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_everything_and_says_how_to_go_on(nano_dense: Path) -> None:
    process = started(nano_dense, "--strategy", f"{FAULTS}:Recorder", "--strategies", "none", "--limit", 8)
    wait_for(lambda: stored() >= 3)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted. Finish it with: specdec resume results" in err
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
