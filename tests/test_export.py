"""``specdec export``: the winner by verdict, the commands that it becomes, each of them tried."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from specdec.errors import SpecdecError
from specdec.export import as_json, python_snippet, server_command, server_words, winner
from specdec.server.client import Client
from specdec.server.process import Server, find_binary
from specdec.spec import make_spec
from specdec.store import Run, create, read_run
from specdec.types import PHASES, Limits, Sampling

REAL = os.environ.get("SPECDEC_LLAMA_SERVER")
PROMPTS = 40


def stored(speeds: dict[str, float], strategies: str, workload: str = "demo-code", **more: Any) -> Run:
    """A made-up run in which each strategy is this many times as fast as ``none``, on every prompt."""
    spec = make_spec(target="demo", strategies=strategies, draft="demo-draft", n_predict=16, **more)
    meta = {
        "labels": {"engine": "specdec", "label": "synthetic", "card": "CPU", "arm": "same split", "sampling": "greedy"},
        "arms": [{"engine": "specdec", "strategy": s, "rollback": "auto"} for s in ("none", *speeds)],
        "prompts": [{"id": f"p{i}", "workload": workload} for i in range(PROMPTS)],
        "spec": spec.model_dump(mode="json"),
        "context": {"n_ctx": 512, "threads": 2, "recurrent": True},
    }
    with create(Path("results"), meta) as writer:
        for i in range(PROMPTS):
            for strategy, speed in {"none": 1.0, **speeds}.items():
                seconds = (1.0 + 0.01 * (i % 5)) / speed
                n = 0 if strategy == "none" else 8
                sample = {
                    "engine": "specdec", "launch": 0, "strategy": strategy, "rollback": "auto",
                    "workload": workload, "prompt": f"p{i}", "turn": 0,
                    "repeat": 0, "warmup": False, "status": "ok", "error": None, "token_ids": list(range(17)),
                    "generation_s": seconds, "end_to_end_s": seconds + 0.1, "ttft_s": 0.1, "n_redecoded": 0, "memory": [],
                    "steps": {"drafted": [n], "accepted": [n], "note": [None]},
                    "phase_s": dict.fromkeys(PHASES, seconds / len(PHASES)),
                }  # fmt: skip
                writer.append(sample)
        writer.finish()
        return read_run(writer.folder)


def test_the_fastest_of_those_shown_to_be_faster_wins() -> None:
    run = stored({"ngram-simple": 1.3, "mtp(n_max=2)": 1.6}, "ngram-simple,mtp(n_max=2)")
    won = winner(run)
    assert won.planned.label == "mtp(n_max=2)"
    assert won.why.startswith("mtp(n_max=2): 1.60 times plain decoding (")
    words = server_words(won)
    assert words[:3] == ["llama-server", "--model", str(words[2])]
    assert words[words.index("--parallel") + 1] == "1"
    assert " ".join(words).endswith("--spec-type draft-mtp --spec-draft-n-max 2 --temp 0")
    told = json.loads(as_json(won))
    assert (told["strategy"], told["options"]["n_max"], told["verdict"]) == ("mtp(n_max=2)", 2, "faster")
    assert told["llama_server"] == words
    with pytest.raises(SpecdecError, match=r"--workload story: this run has none\. It has: demo-code, all"):
        winner(run, "story")


def test_nothing_faster_is_none_and_said() -> None:
    won = winner(stored({"ngram-simple": 0.8}, "ngram-simple"))
    assert won.planned.label == "none"
    assert server_command(won).startswith("# nothing was shown to be faster than plain decoding over all workloads (40")
    assert "--spec-type" not in server_command(won)


def test_what_llama_server_lacks_is_said_and_left_to_python() -> None:
    won = winner(stored({"ngram-mod(table_size=2048)": 2.0}, "ngram-mod(table_size=2048)"))
    with pytest.raises(SpecdecError, match=r"no option like table_size=2048\. Use --format python"):
        server_words(won)
    assert json.loads(as_json(won))["llama_server"] is None
    assert "specdec.engine" in python_snippet(won)


def test_sampling_and_placement_go_along() -> None:
    model = {"n_cpu_moe": 2, "cache_type_k": "q8_0"}
    won = winner(stored({}, "none", sampling={"temp": 0.7, "top_p": 0.9}, model=model))
    command = server_command(won)
    assert command.endswith("--samplers 'top_p;temperature' --temp 0.7 --top-p 0.9")
    assert "--n-cpu-moe 2" in command
    assert "--cache-type-k q8_0" in command
    assert "llama_cpp" not in python_snippet(won), "Llama cannot keep experts in RAM"


@pytest.mark.parametrize("speeds", [{}, {"mtp(n_max=2)": 2.0}, {"draft": 2.0}])
@pytest.mark.parametrize("workload", ["demo-code", "chat"])
def test_the_snippet_runs(speeds: dict[str, float], workload: str) -> None:
    won = winner(stored(speeds, ",".join(speeds) or "none", workload))
    text = python_snippet(won)
    assert ("from llama_cpp import Llama" in text) == (not speeds)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.skipif(not REAL, reason="SPECDEC_LLAMA_SERVER names no llama-server")
@pytest.mark.parametrize("label", ["none", "mtp(n_max=2)", "draft", "ngram-simple", "ngram-mod(n_match=8)"])
def test_the_command_runs(label: str, tmp_path: Path) -> None:
    won = winner(stored({} if label == "none" else {label: 2.0}, label))
    line = server_command(won).splitlines()[-1]
    server = Server(find_binary(str(REAL)), shlex.split(line)[1:], tmp_path / "log")
    try:
        import numpy as np

        prompt = np.arange(300, 340, dtype=np.int32)
        answer = Client(server.port).complete(prompt, Limits(24, ignore_eos=True), Sampling(), cache=False)
    finally:
        server.close()
    assert len(answer.tokens) == 24
    assert (answer.timings.draft_n > 0) == (label in ("mtp(n_max=2)", "draft")) or label.startswith("ngram")


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from specdec.cli import main

    stored({"ngram-simple": 1.3}, "ngram-simple")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["specdec", "export", "latest", *arguments])
        try:
            main()
        except SystemExit as done:
            captured = capsys.readouterr()
            return int(done.code or 0), captured.out, captured.err
        raise AssertionError

    code, out, _ = call()
    assert code == 0
    assert [part in out for part in ("## llama-server", "## python", "## json", "--parallel 1")] == [True] * 4
    assert json.loads(call("--format", "json", "--workload", "demo-code")[1])["strategy"] == "ngram-simple"
    code, _, err = call("--format", "yaml")
    assert (code, err) == (2, "specdec: --format yaml: unknown. Known: llama-server, python, json, all.\n")
