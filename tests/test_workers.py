"""Cells in worker processes: whatever happens in one costs its cell, and nothing is left behind."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import alive_after

from specdec.arms import Arm
from specdec.registry import Planned
from specdec.runner.checks import plan_strategies
from specdec.runner.engines import ENGINES
from specdec.runner.limits import TimeLimits
from specdec.runner.worker import serve
from specdec.spec import RunSpec, make_spec
from specdec.store import find_run, read_run
from specdec.types import PHASES, Generation, Limits, Prompt, Sampling, StepLog

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
    """A real segmentation fault, an abort, an assertion of ggml's, an exit, an exception, two ways of eating memory, and
    CUDA's way of saying that there is none."""
    hows = ("segfault", "abort", "assert", "exit", "raise", "eat", "eat-shared", "cuda")
    limits = ("--limit", 2, "--warmup", 0, "--ram-limit", 400)
    out, err, found = compare(nano_dense, *faulty(*(f"how={h}" for h in hows)), *limits)
    groups = by_strategy(found)
    seen = {h: {s["status"] for s in groups[f"faulty(how={h})"]} for h in hows}
    assert seen == {
        "segfault": {"crashed"}, "abort": {"crashed"}, "exit": {"crashed"}, "raise": {"error"},
        "eat": {"out-of-memory"}, "eat-shared": {"out-of-memory"},
        "assert": {"crashed"}, "cuda": {"out-of-memory"},
    }  # fmt: skip
    assert all(len(groups[f"faulty(how={h})"]) == 2 for h in hows), "each cell is recorded, once"
    for unhurt in ("none", "faulty"):
        assert [s["status"] for s in groups[unhurt]] == ["ok", "ok"]
    one = {h: groups[f"faulty(how={h})"][0] for h in hows}
    assert one["segfault"]["exit_code"] == -signal.SIGSEGV
    assert "SIGSEGV" in one["segfault"]["error"]
    assert any("faults.py" in line for line in one["segfault"]["log"]), "where it was in Python"
    assert "GGML_ASSERT(n_tokens > 0) failed" in one["assert"]["error"]
    assert "in _fault" in one["raise"]["traceback"]
    assert "FAIL: crashed" in out
    assert "FAIL: out-of-memory" in out
    assert "FAIL faulty(how=segfault): 2 cells: crashed: SIGSEGV" in out
    assert "Traceback" not in err


def test_hangs_cost_their_own_cells(nano_dense: Path) -> None:
    """A sleep, and a loop in C that never lets go of the interpreter."""
    limits = ("--limit", 1, "--warmup", 0, "--cell-timeout", 8)  # enough for `none` on a loaded machine
    out, _, found = compare(nano_dense, *faulty("how=sleep", "how=spin"), *limits)
    groups = by_strategy(found)
    for how in ("sleep", "spin"):
        (sample,) = groups[f"faulty(how={how})"]
        assert (sample["status"], sample["limit_s"]) == ("timed out", 8)
    assert any("in _fault" in line for line in sample["log"])
    assert [s["status"] for s in (*groups["none"], *groups["faulty"])] == ["ok", "ok"]
    assert "FAIL: timed out" in out


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
    limits = ("--limit", 1, "--warmup", 0, "--cell-timeout", 8)
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


# ---- inside the worker, with another engine


class OtherEngine:
    """Answers as it is told to; ``wrong`` answers count what they did not emit."""

    sampling, card, description = Sampling(), "CPU", "other"
    vram_asked, pids = 0, ()
    wrong = False

    def __init__(self, spec: RunSpec, planned: list[Planned], announce: Any) -> None:
        self.arms = [Arm(p, "auto", 0, 0, engine="other") for p in planned]

    def fit(self, prompts: list[Prompt], attempt: Any = None) -> dict[str, int]:
        return {p.id: 3 for p in prompts}

    def settings(self) -> dict[str, object]:
        return {"n_ctx": 512, "threads": 1}

    def allocated(self, arm: Arm) -> None: ...

    def held(self) -> None: ...

    def ready(self, arm: Arm) -> None: ...

    def discard(self, arm: Arm) -> None: ...

    def close(self) -> None: ...

    def answers(self, arm: Arm, prompt: Prompt, limits: Limits | None = None) -> Iterator[tuple[int, Generation]]:
        steps = StepLog([1], [1], [5], [5], [""], [None])
        phases = dict.fromkeys(PHASES, 0.0) | {"verify": 0.1}
        tokens = [1, 2, 3, 4] if self.wrong else [1, 2, 3]
        for turn in range(prompt.turns):
            yield turn, Generation(3, tokens, "abc", "length", 0, steps, 0.1, 0.1, 0.1, 0.2, phases)


@pytest.mark.parametrize("wrong", [False, True])
def test_other_engines_answers_are_checked_too(monkeypatch: pytest.MonkeyPatch, wrong: bool) -> None:
    monkeypatch.setitem(ENGINES, "other", f"{__name__}:OtherEngine")
    monkeypatch.setattr(OtherEngine, "wrong", wrong)
    spec = make_spec(target="demo", strategies="none", warmup=0, engines=("other",))
    (planned,) = plan_strategies(spec)
    prompt = Prompt("p", "w", "completion", "short", text="x")
    commands: queue.SimpleQueue[Any] = queue.SimpleQueue()
    hashes = {planned.label: planned.found.file_sha256}
    commands.put({
        "spec": spec.model_dump(mode="json"), "engine": "other", "prompts": [asdict(prompt)], "strategies": hashes,
        "arms": None, "skip": [], "open_limit_s": 9,
    })  # fmt: skip
    head = {"engine": "other", "strategy": "none", "warmup": False}
    cell = {"arm": 0, "prompt": 0, "head": head, "turns": 1, "n_predict": None, "ignore_eos": None, "limit_s": 9}
    cell["logs"] = None
    commands.put({"cell": cell})
    commands.put({"close": True})
    said: list[dict[str, Any]] = []
    serve(commands, said.append)
    (sample,) = [m["sample"] for m in said if "sample" in m]
    assert sample["status"] == ("error" if wrong else "ok")
    assert sample["error"] == ("4 tokens were emitted, the steps account for 3." if wrong else None)
    assert sample["turn"] == 0
    assert said[-1] == {"done": True}


def test_a_strategy_that_changed_since_the_run_began_is_refused() -> None:
    spec = make_spec(target="demo", strategies="none")
    commands: queue.SimpleQueue[Any] = queue.SimpleQueue()
    commands.put({
        "spec": spec.model_dump(mode="json"), "engine": "specdec", "prompts": [], "strategies": {"none": "another"},
        "arms": None, "skip": [], "open_limit_s": 9,
    })  # fmt: skip
    said: list[dict[str, Any]] = []
    serve(commands, said.append)
    assert said[-1]["refused"][0] == "a strategy's file changed since the run began."


def test_time_limits_follow_what_was_measured() -> None:
    fast, slow = ("specdec", "none", "auto"), ("specdec", "s", "auto")
    limits = TimeLimits()
    assert limits.generation(fast, 100, 100) >= 600
    sample = {"n_prompt": 10, "n_reused": 0, "ttft_s": 1.0, "generation_s": 9.0, "token_ids": [0] * 10}
    limits.measured(fast, sample)
    assert limits.generation(fast, 100, 200) == pytest.approx(20 * (100 * 0.1 + 200 * 1.0))
    assert limits.generation(slow, 100, 200) == limits.generation(fast, 100, 200), "none of its own yet"
    limits.measured(slow, sample | {"generation_s": 90.0})
    assert limits.generation(slow, 100, 200) == pytest.approx(20 * (100 * 0.1 + 200 * 10.0))
    assert limits.generation(fast, 1, 1) == 60, "never less than a minute"
    asked = TimeLimits(7.0)
    assert asked.generation(slow, 10_000, 10_000) == asked.opening() == 7.0


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
    assert not alive_after(children)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_everything_and_says_how_to_go_on(nano_dense: Path) -> None:
    process = started(nano_dense, "--strategy", f"{FAULTS}:Recorder", "--strategies", "none", "--limit", 8)
    wait_for(lambda: stored() >= 3)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Interrupted. Finish it with: specdec resume results" in err
    assert "Traceback" not in err
    assert not alive_after(children)
