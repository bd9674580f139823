"""Stored options to a ``specdec compare`` line and, through the real command line, back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from specdec import runner
from specdec.cli import app
from specdec.cli.run import _measure
from specdec.command import compare_command
from specdec.demo import WORKLOADS
from specdec.spec import LIMIT, RunSpec, make_spec
from specdec.stats.stability import again


class Seen(Exception):
    pass


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The specification that the command line makes of a line."""
    seen: list[RunSpec] = []

    def take(spec: RunSpec, *_: object) -> None:
        seen.append(spec)
        raise Seen

    monkeypatch.setattr(runner, "compare", take)

    def read(line: str) -> RunSpec:
        program, *words = shlex.split(line)
        assert program == "specdec"
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, Seen), (line, result.output, result.exception)
        return seen[-1]

    return read


SPECS: dict[str, dict[str, Any]] = {
    "demo": {"target": "demo", "limit": LIMIT},
    "demo, all prompts": {"target": "demo"},
    "demo, some workloads": {"target": "demo", "workloads": ("demo-edit",), "draft": "other.gguf"},
    "demo, both kinds of prompts": {"target": "demo", "workloads": WORKLOADS, "prompt_files": ("p",)},
    "models": {"target": "x y.gguf", "draft": "d.gguf", "mtp_model": "m.gguf", "strategies": "mtp(n_max=2),draft"},
    "quick": {"target": "x", "quick": True, "n_predict": 64},
    "quick, with sizes": {"target": "x", "quick": True, "limit": LIMIT, "n_predict": 256},
    "both engines": {"target": "x", "engines": ("specdec", "llama-server"), "llama_server": "/bin/server"},
    "the other engine": {"target": "x", "engines": ("llama-server",)},
    "lists": {
        "target": "x", "rollback": ("snapshots", "checkpoint"), "synthetic": (0.88, 0.72, 0.0), "workloads": ("a", "b"),
        "prompt_files": ("p.jsonl", "q.jsonl"), "stop": ("\n\n", "-x", ","),
    },
    "trace": {"target": "x", "trace": "t.npz", "n_predict": 99},
    "flags": {"target": "x", "ignore_eos": True, "thinking": True, "carry_state": True, "count_experts": True},
    "numbers": {
        "target": "x", "limit": 7, "n_predict": 9, "repeats": 2, "launches": 3, "launch_pause": 2.5, "warmup": 0,
        "seed": 4, "snapshots": 0, "cell_timeout": 1.5, "ram_limit": 900, "vram_limit": 7168,
    },
    "sampling": {"target": "x", "sampling": {"sampling": "model", "temp": 0.0, "top_k": 0, "top_p": 0.9, "min_p": 0.1}},
    "model": {
        "target": "x",
        "model": {
            "gpu_layers": 0, "n_cpu_moe": 31, "override_tensor": ("a,b=CPU", "c=CPU"), "load_mode": "none", "threads": 3,
            "threads_batch": 2, "ctx_size": 4096, "batch_size": 512, "ubatch_size": 128, "flash_attn": "on",
            "cache_type_k": "q8_0", "cache_type_v": "q8_0", "op_offload": False, "main_gpu": 0, "device": "CUDA0,CUDA1",
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_the_command_asks_for_the_same_run(parsed: Any, name: str) -> None:
    spec = make_spec(**SPECS[name])
    assert parsed(compare_command(spec.model_dump(mode="json"))) == spec
    assert parsed(compare_command(spec.model_dump(mode="json", exclude_defaults=True))) == spec, "as stored under given"


def test_every_option_is_tried() -> None:
    of_a_group = {"card", "arm", "group", "strategy_files"}
    assert {name for spec in SPECS.values() for name in spec} == RunSpec.model_fields.keys() - of_a_group


@pytest.mark.parametrize("name", SPECS)
def test_more_repeats_of_the_same_run(parsed: Any, name: str) -> None:
    spec = make_spec(**SPECS[name])
    found = parsed(again(spec.model_dump(mode="json")))
    assert (found.repeats, found.launches, found.quick) == (3, 6 if spec.launches == 3 else 3, False)
    rest = {"repeats", "launches", "quick"}
    assert found.model_dump(exclude=rest) == spec.model_dump(exclude=rest)


def test_what_a_trace_fixes_is_left_to_it(parsed: Any) -> None:
    settled = make_spec(target="x", trace="t.npz", ignore_eos=True, thinking=True, stop=("a",), sampling={"temp": 1.0})
    assert parsed(compare_command(settled.model_dump(mode="json"))) == make_spec(target="x", trace="t.npz")


def test_a_strategy_of_a_file(parsed: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from specdec import Draft, Strategy\n"
        "class Mine(Strategy):\n"
        "    name = 'mine'\n"
        "    def propose(self, context, max_tokens):\n"
        "        return Draft()\n"
    )
    files = (f"{tmp_path}/mine.py:Mine",)
    found = parsed(compare_command({"target": "x", "strategies": "mtp", "strategy_files": files}))
    assert (found.strategies, found.strategy_files) == ("mtp,mine", files)
    assert parsed(f"specdec compare -m x --strategies '' --strategy {shlex.quote(files[0])}").strategies == "mine"


def test_one_text_leads_to_a_comparison_with_its_settings(parsed: Any) -> None:
    seen = make_spec(target="demo", strategies="none", n_predict=8, thinking=True, model={"threads": 1})
    assert parsed(_measure(seen)) == make_spec(target="demo", limit=LIMIT, thinking=True, model={"threads": 1})


def test_options_of_other_versions_are_passed_over() -> None:
    stored = {"target": "x", "limit": LIMIT, "gone": 3, "model": {"gone": 1, "threads": 2}, "sampling": None}
    assert compare_command(stored) == "specdec compare --target x --threads 2"


@pytest.mark.parametrize("command", ["compare", "record"])
def test_the_usual_number_of_prompts_has_one_value(command: str) -> None:
    """The command line names it anew: to import it from there would make --help slow."""
    import typer

    options = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    assert next(o.default for o in options if o.name == "limit") == LIMIT
