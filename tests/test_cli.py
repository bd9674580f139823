"""The commands, in-process, on nano models: output, exit codes, resume."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from specdec.types import PHASES

ROW_KEYS = {
    "strategy", "workload", "engine", "rollback", "card", "arm", "label", "status", "prompts", "tok_s", "ttft_s",
    "end_to_end_speedup", "speedup", "speedup_low", "speedup_high", "verdict", "acceptance_rate",
    "mean_acceptance_length", "acceptance_by_position", "drafted", "accepted", "target_passes", "phase_seconds",
    "memory_bytes",
}  # fmt: skip
SHORT = ("--n-predict", "24", "--threads", "1")


def test_compare_prints_tables_and_stores(call: Any, nano_hybrid: Path) -> None:
    code, out, err = call("compare", "--target", nano_hybrid, "--workloads", "code,story", "--limit", 2, *SHORT)
    assert code == 0
    for word in ("none", "ngram-simple", "ngram-mod", "tok/s", "acceptance", "code", "story", "all", "verify"):
        assert word in out
    assert "Loaded in" in err
    assert max(map(len, out.split("\nspeedup: ")[0].splitlines())) <= 100
    (run,) = Path("results").iterdir()
    assert err.splitlines()[-1].endswith(f": specdec report {run} --format html --out report.html")
    meta = json.loads((run / "run.json").read_text())
    assert meta["status"] == "finished"
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 * (1 + 4)
    assert sum(s["warmup"] for s in samples) == 3


def test_json_is_alone_on_stdout_and_complete(call: Any, nano_hybrid: Path) -> None:
    code, out, err = call("compare", "--target", nano_hybrid, "--workloads", "chat", "--limit", 1, "--json", *SHORT)
    assert code == 0
    assert "specdec report" not in err
    got = json.loads(out)
    assert {"run_id", "labels", "rows"} <= set(got)
    assert len(got["rows"]) == 3 * 2
    for row in got["rows"]:
        assert set(row) >= ROW_KEYS
        assert set(row["phase_seconds"]) == set(PHASES)


@pytest.mark.parametrize("format", ["text", "md", "csv", "json"])
def test_report_needs_no_llama_cpp(call: Any, nano_dense: Path, format: str) -> None:
    assert call("compare", "--target", nano_dense, "--workloads", "math", "--limit", 1, *SHORT)[0] == 0
    code = (
        "import sys; sys.modules['llama_cpp'] = None; from specdec.cli import main;"
        f"sys.argv = ['specdec', 'report', 'latest', '--format', {format!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if format == "json":
        assert json.loads(done.stdout)["rows"]
    elif format == "csv":
        table = list(csv.DictReader(io.StringIO(done.stdout)))
        assert {r["strategy"] for r in table} == {"none", "ngram-simple", "ngram-mod"}
    else:
        assert "ngram-mod" in done.stdout
    assert ("|" in done.stdout) == (format == "md")


def test_rollback_axis_on_the_hybrid(call: Any, nano_hybrid: Path) -> None:
    code, out, _ = call(
        "compare", "--target", nano_hybrid, "--strategies", "ngram-simple(size_n=1, size_m=6)",
        "--workloads", "code-edit", "--limit", 2, "--rollback", "snapshots,checkpoint,checkpoint-host", "--json", *SHORT,
    )  # fmt: skip
    assert code == 0
    rows = [r for r in json.loads(out)["rows"] if r["workload"] == "all"]
    assert [r["rollback"] for r in rows] == ["auto", "snapshots", "checkpoint", "checkpoint-host"]
    assert len({(r["drafted"], r["accepted"], r["target_passes"]) for r in rows[1:]}) == 1
    assert rows[1]["drafted"] > 0
    assert [r["text_differs"] for r in rows] == [[], [], [], []]


def test_multi_turn_and_sampling(call: Any, nano_dense: Path) -> None:
    code, out, _ = call(
        "compare", "--target", nano_dense, "--strategies", "ngram-mod(n_match=1,n_min=1,n_max=3)", "--temp", 0.9,
        "--top-k", 20, "--seed", 7, "--workloads", "multi-turn", "--limit", 1, "--json", *SHORT,
    )  # fmt: skip
    assert code == 0
    got = json.loads(out)
    assert got["labels"]["sampling"] == "temp=0.9 top_k=20"
    row = got["rows"][-1]
    assert row["generations"] > 1
    assert row["text_differs"] == [], "deterministic drafts leave sampled texts as they are"


def test_interrupted_run_is_reported_and_resumed(call: Any, nano_dense: Path) -> None:
    arguments = ("compare", "--target", nano_dense, "--workloads", "code,multi-turn", "--limit", 2, *SHORT)
    call(*arguments)
    (run,) = Path("results").iterdir()
    whole = [json.loads(line) for line in (run / "samples.jsonl").read_bytes().splitlines()]
    lines = (run / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (run / "samples.jsonl").write_bytes(b"".join(lines[:-4]) + lines[-4][:50])  # killed while writing
    meta = json.loads((run / "run.json").read_text()) | {"status": "started"}
    (run / "run.json").write_bytes(orjson.dumps(meta))
    code, out, _ = call("report", run)
    assert code == 0
    assert "INTERRUPTED" in out
    assert f"specdec resume {run}" in out
    code, out, _ = call("resume", run)
    assert code == 0
    assert "INTERRUPTED" not in out
    from specdec.store import read_run

    again = read_run(run).samples
    fields = ("strategy", "prompt", "turn", "token_ids")
    assert [[s[f] for f in fields] for s in again] == [[s[f] for f in fields] for s in whole]
    assert call("resume", run)[0] == 2


def test_resume_refuses_changed_prompts(call: Any, nano_dense: Path, isolated: Path) -> None:
    (isolated / "p.jsonl").write_text('{"text": "abc"}\n')
    call("compare", "--target", nano_dense, "--prompts", "p.jsonl", *SHORT)
    (run,) = Path("results").iterdir()
    meta = json.loads((run / "run.json").read_text()) | {"status": "started"}
    (run / "run.json").write_bytes(orjson.dumps(meta))
    (isolated / "p.jsonl").write_text('{"text": "abd"}\n')
    code, _, err = call("resume", run)
    assert code == 2
    assert "the prompts changed" in err


def test_a_failing_strategy_costs_its_cells_only(call: Any, nano_dense: Path, isolated: Path) -> None:
    (isolated / "bad.py").write_text(
        "from specdec import Draft, Strategy\n"
        "class Bad(Strategy):\n"
        "    name = 'bad'\n"
        "    def propose(self, context, max_tokens):\n"
        "        raise ValueError('boom')\n"
    )
    code, out, err = call("compare", "--target", nano_dense, "--strategies", "none", "--strategy", "bad.py:Bad",
                          "--workloads", "code", "--limit", 1, *SHORT)  # fmt: skip
    assert code == 0
    assert "FAIL bad: 1 cells: ValueError: boom" in out
    assert "FAIL bad on code-01" in err


def test_dry_run_runs_nothing(call: Any, nano_hybrid: Path) -> None:
    code, out, _ = call(
        "compare", "--target", nano_hybrid, "--workloads", "code,long", "--limit", 2, "--dry-run", *SHORT
    )
    assert code == 0
    assert "code: 2 prompts" in out
    assert "15 cells, about" in out
    assert not Path("results").exists()


class TestErrors:
    """One line on stderr, exit code 2, nothing written."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--strategies", "ngrm"], "Unknown strategy 'ngrm'. Did you mean 'ngram'?"),
            (["--strategies", "ngram-mod(nmax=1)"], "unknown option 'nmax'"),
            (["--workloads", "poetry"], "unknown workload 'poetry'"),
            (["--prompts", "absent.jsonl"], "there is no such file"),
            (["--rollback", "maybe"], "--rollback: Input should be 'auto'"),
            (["--n-predict", "0"], "--n-predict: Input should be greater than or equal to 1"),
            (["--cache-type-k", "q9"], "--cache-type-k"),
            (["--ctx-size", "300", "--workloads", "code-edit"], "--ctx-size is 300"),
            (["--rollback", "snapshots", "--snapshots", "4"], "4 snapshots cannot hold drafts of up to 48 tokens"),
            (["--top-k", "5"], "do nothing in greedy decoding"),
            (["--sampling", "model"], "recommends no sampling"),
            (["--strategy", "nofile.py:X"], "there is no file nofile.py"),
        ],
    )
    def test_bad_options(self, call: Any, nano_hybrid: Path, arguments: list[str], message: str) -> None:
        code, out, err = call("compare", "--target", nano_hybrid, "--limit", 1, *arguments)
        assert code == 2
        assert out == ""
        assert message in err
        assert "Traceback" not in err
        assert len([line for line in err.splitlines() if line.startswith("specdec: ")]) == 1
        assert not Path("results").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "there is no file"), (b"just text", "is not a GGUF file"), ("cut", "is truncated")],
    )
    def test_bad_models(self, call: Any, nano_dense: Path, isolated: Path, content: Any, message: str) -> None:
        path = isolated / "m.gguf"
        if content is not None:
            path.write_bytes(nano_dense.read_bytes()[:-1000] if content == "cut" else content)
        code, _, err = call("compare", "--target", path)
        assert code == 2
        assert message in err.splitlines()[-1]

    @pytest.mark.parametrize("arguments", [("compress",), ("compare", "--nonsense"), ("compare", "--limit", "x")])
    def test_usage_errors_are_one_line(self, call: Any, arguments: tuple[str, ...]) -> None:
        code, out, err = call(*arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith("specdec: No such") or "valid integer" in err

    def test_unknown_run(self, call: Any) -> None:
        assert call("report", "1999")[0] == 2
        assert call("report", "1999", "--format", "pdf")[0] == 2


class TestStrategies:
    def test_list_and_show(self, call: Any) -> None:
        assert "ngram-simple" in call("strategies")[1]
        out = call("strategies", "show", "ngram-mod")[1]
        assert "n_match" in out
        assert "4194304" in out
        assert "It has no options" in call("strategies", "show", "none")[1]

    def test_new_check_compare(self, call: Any, nano_dense: Path) -> None:
        assert call("strategies", "new", "my-own")[0] == 0
        code, out, _ = call("strategies", "check", "my_own.py:MyOwn")
        assert code == 0
        assert "FAIL" not in out
        assert call("strategies", "new", "my-own")[0] == 2, "never overwritten"
        assert call("strategies", "new", "a(b")[0] == 2
        mine = ("--strategy", "my_own.py:MyOwn", "--strategies", "my-own(n_max=2)")
        code, out, _ = call(
            "compare", "--target", nano_dense, *mine, "--workloads", "code", "--limit", 1, "--json", *SHORT
        )
        assert code == 0
        assert [r["strategy"] for r in json.loads(out)["rows"][:3]] == ["none", "my-own(n_max=2)", "my-own"]

    def test_check_a_known_name_and_a_faulty_file(self, call: Any, isolated: Path) -> None:
        assert call("strategies", "check", "ngram-mod(n_max=8)")[0] == 0
        (isolated / "f.py").write_text(
            "from specdec import Draft, Strategy\n"
            "class F(Strategy):\n    name = 'f'\n"
            "    def propose(self, context, max_tokens):\n        return Draft([-1])\n"
        )
        code, out, _ = call("strategies", "check", "f.py:F")
        assert code == 1
        assert "FAIL" in out


def test_workloads_and_version(call: Any) -> None:
    from specdec import __version__

    out = call("workloads")[1]
    assert "multi-turn" in out
    assert call("--version")[1].strip() == __version__


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['specdec', '--help']\n"
        "from specdec.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'pydantic', 'llama_cpp', 'gguf', 'rich.progress'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
