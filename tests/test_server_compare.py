"""`specdec compare` with llama-server: a stand-in, and the real one where SPECDEC_LLAMA_SERVER names it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REAL = os.environ.get("SPECDEC_LLAMA_SERVER")


def specdec(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user has it."""
    command = [sys.executable, "-m", "specdec", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


SHORT = ("--workloads", "demo-code", "--limit", "2", "--n-predict", "8")


def test_compare_with_llama_server_as_the_engine(fake: Any) -> None:
    binary = fake()
    done = specdec("compare", "--engine", "llama-server", "--llama-server", binary, "-s", "ngram-simple,mtp", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "mtp is left out" in done.stderr
    assert "ngram-simple @server" in done.stdout
    (folder,) = Path("results").iterdir()
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {(s["engine"], s["strategy"]) for s in lines} == {("llama-server", "none"), ("llama-server", "ngram-simple")}
    assert all(s["steps"] is None and s["generation_s"] == pytest.approx(0.08) for s in lines if not s["warmup"])
    assert json.loads((folder / "run.json").read_text())["context"]["llama_server"] == "1234 (abcdef0)"
    logs = {path.name: path.read_text() for path in (folder / "logs").iterdir()}
    assert set(logs) == {"llama-server-none.log", "llama-server-ngram-simple.log"}
    assert all(text.count("asked:") == 3 for text in logs.values()), "one warm-up, two prompts"


def test_compare_says_in_one_line_that_no_server_is_there() -> None:
    done = specdec("compare", "--with-llama-server", "--llama-server", "/no/such", *SHORT)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("specdec: --llama-server /no/such: there is no such program.")


def test_a_server_that_dies_costs_its_cells_and_leaves_its_last_words(fake: Any) -> None:
    done = specdec("compare", "--engine", "llama-server", "--llama-server", fake("dies"), "-s", "none", *SHORT)
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    (folder,) = Path("results").iterdir()
    last = json.loads((folder / "samples.jsonl").read_text().splitlines()[-1])
    assert last["error"].startswith("llama-server ended with 3: GGML_ASSERT(n > 0) failed")
    assert any("GGML_ASSERT" in line for line in last["log"])


@pytest.mark.skipif(not REAL, reason="SPECDEC_LLAMA_SERVER names no llama-server")
def test_both_engines_on_one_table() -> None:
    done = specdec("compare", "--with-llama-server", "-s", "ngram-simple,mtp", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "specdec over llama-server" in done.stdout
    told = json.loads(specdec("report", "latest", "--format", "json").stdout)
    pairs = {(r["workload"], r["strategy"]): r for r in told["engine_ratios"]}
    assert set(pairs) == {(w, s) for w in ("demo-code", "all") for s in ("none", "ngram-simple", "mtp")}
    assert all(r["ratio"] > 0 and r["prompts"] == 2 for r in pairs.values())
