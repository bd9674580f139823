"""kill -9 at 20 random moments: nothing but the generation in flight is lost, and the run comes out the same."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import alive_after

from specdec.store import find_run, read_run

KILLS = 20
SEED = 20
RECORDER = f"{Path(__file__).with_name('faults.py')}:Recorder"
PROMPTS = ("code", "math", "multi-turn")

Key = tuple[Any, ...]


def compare(target: Path, results: str) -> list[str]:
    fixed = [
        "--strategy",
        RECORDER,
        "--strategies",
        "ngram-simple",
        "--limit",
        "3",
        "--n-predict",
        "12",
        "--threads",
        "1",
    ]
    python = [sys.executable, "-m", "specdec", "compare", "--target", str(target), "--results", results]
    return [*python, *fixed, "--launches", "4", "--workloads", ",".join(PROMPTS)]


def raw(results: str) -> list[dict[str, Any]]:
    """What is stored, a torn last line left out."""
    lines = [line for file in Path(results).glob("*/samples.jsonl") for line in file.read_bytes().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def ended() -> int:
    """Generations that the recorder has seen to their end."""
    return len(Path("ended.txt").read_text().splitlines()) if Path("ended.txt").exists() else 0


def tokens(results: str) -> dict[Key, list[int]]:
    run = read_run(find_run("latest", Path(results)))
    assert run.finished
    names = ("engine", "strategy", "rollback", "prompt", "turn", "repeat", "launch", "warmup")
    found = {tuple(s[n] for n in names): s["token_ids"] for s in run.samples}
    assert len(found) == len(run.samples)
    return found


def kill_one(command: list[str], results: str, rng: random.Random) -> None:
    """Start it, kill it at a random moment after its start, or after the next generation that it stores."""
    before, before_ended = len(raw(results)), ended()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    if rng.random() < 0.7:
        while len(raw(results)) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.2))
    else:
        time.sleep(rng.uniform(0.0, 1.5))
    assert process.poll() is None, "there was something left to do"
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert not alive_after(children), "no orphan"
    new = [s for s in raw(results)[before:] if s["strategy"] == "recorder"]
    assert ended() - before_ended - len(new) in (0, 1), "only the generation in flight is lost"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_survives_twenty_kills(nano_dense: Path) -> None:
    subprocess.run(compare(nano_dense, "whole"), check=True, capture_output=True)
    rng, results = random.Random(SEED), "killed"
    resume = [sys.executable, "-m", "specdec", "resume", "latest", "--results", results]
    for _ in range(KILLS):
        begun = bool(list(Path(results).glob("*/run.json")))
        kill_one(resume if begun else compare(nano_dense, results), results, rng)
    assert raw(results)
    assert subprocess.run(resume, capture_output=True, check=False).returncode == 0
    assert len(list(Path(results).glob("*/run.json"))) == 1
    assert tokens(results) == tokens("whole")
