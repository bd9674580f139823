"""How long commands take that people wait for: `specdec --help`, and `specdec report` of 10,000 samples, as text and page.

    python benchmarks/commands.py

The report is of a synthetic run: 10,000 generations of 96 tokens under three strategies, of which two draft 0-3 tokens a
step.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import orjson

from specdec.store import create
from specdec.types import PHASES

SAMPLES, TOKENS = 10_000, 96


def synthetic_run(results: Path) -> Path:
    """A finished run of 10,000 made-up generations."""
    rng = np.random.default_rng(0)
    arms = [{"engine": "specdec", "strategy": s, "rollback": "auto"} for s in ("none", "ngram-simple", "ngram-mod")]
    meta = {
        "kind": "compare", "given": {},
        "labels": {"engine": "specdec", "label": "synthetic", "card": "none", "arm": "same split", "sampling": "greedy"},
        "arms": arms, "prompts": [], "model": {"file": "none", "description": "synthetic"},
        "spec": {"n_predict": TOKENS}, "context": {"threads": 1, "n_ctx": 512}, "cells": SAMPLES,
    }  # fmt: skip
    with create(results, meta) as writer:
        lines = []
        for i in range(SAMPLES):
            steps, log = _steps(rng, drafts=i % 3 > 0)
            seconds = float(rng.uniform(4, 6)) * steps / TOKENS
            sample = {
                **arms[i % 3], "workload": f"w{i % 11}", "prompt": f"p{i // 3}", "turn": 0, "repeat": 0,
                "launch": 0, "warmup": False,
                "status": "ok", "error": None, "token_ids": rng.integers(0, 150_000, TOKENS).tolist(), "text": "x" * 400,
                "steps": log, "stop": "length", "cut": 0,
                "generation_s": seconds, "end_to_end_s": seconds + 1, "ttft_s": 1.0, "n_redecoded": 0,
                "memory": [{"device": "CPU", "kind": "table", "bytes": (i % 3) << 20}],
                "phase_s": dict.fromkeys(PHASES, seconds / len(PHASES)),
            }  # fmt: skip
            lines.append(sample)
        (writer.folder / "samples.jsonl").write_bytes(b"".join(orjson.dumps(s) + b"\n" for s in lines))
        writer.finish()
        return writer.folder


def _steps(rng: np.random.Generator, drafts: bool) -> tuple[int, dict[str, Any]]:
    """Steps that emit TOKENS - 1 tokens."""
    accepted: list[int] = []
    while (left := TOKENS - 1 - sum(accepted) - len(accepted)) > 0:
        accepted.append(min(int(rng.integers(0, 4)) if drafts else 0, left - 1))
    n = len(accepted)
    took = rng.integers(40_000, 60_000, n).tolist()
    log = {"drafted": [max(3, a) if drafts else 0 for a in accepted], "accepted": accepted, "wall_us": took}
    return n, {**log, "verify_us": took, "rollback": [""] * n, "note": [None] * n}


def seconds(*command: str) -> float:
    """Best of three."""
    times = []
    for _ in range(3):
        began = perf_counter()
        subprocess.run([sys.executable, "-m", "specdec", *command], check=True, capture_output=True)
        times.append(perf_counter() - began)
    return min(times)


def main() -> None:
    spent = seconds("--help")
    print(f"specdec --help: {spent:.2f} s, {spent / 0.4:.2f} of the aim of 0.4 s")
    with tempfile.TemporaryDirectory() as folder:
        run = synthetic_run(Path(folder))
        spent = seconds("report", str(run))
        size = (run / "samples.jsonl").stat().st_size / 1e6
        print(
            f"specdec report of {SAMPLES:,} samples ({size:.0f} MB): {spent:.2f} s, {spent / 2:.2f} of the aim of 2 s"
        )
        page = Path(folder) / "report.html"
        spent = seconds("report", str(run), "--format", "html", "--out", str(page))
        print(
            f"the same as a page ({page.stat().st_size / 1e6:.2f} MB): {spent:.2f} s, {spent / 10:.2f} of the aim of 10 s"
        )


if __name__ == "__main__":
    main()
