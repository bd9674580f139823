"""``specdec profile``, ``predict`` and ``report`` on nano models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from page import check_page

from specdec.cli.cards import profile_on
from specdec.errors import SpecdecError
from specdec.profile import measure
from specdec.profile.job import prepare, strategies_of
from specdec.profile.spec import ProfileSpec
from specdec.spec import ModelOptions
from specdec.types import PHASES
from specdec.vram.arms import CONTEXT

PROFILE = ("--depths", "32,64", "--lengths", "1..3,6", "--n-max", "2", "--repeats", "3", "--threads", "1")


@pytest.mark.parametrize(
    ("more", "expected"),
    [((), ["none", "mtp", "draft", "ngram-simple", "ngram-mod", "mine"]), (("-s", "mtp"), ["none", "mtp", "mine"])],
)
def test_a_strategy_file_joins(
    call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: tuple[str, ...], expected: list[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from specdec import Draft, Strategy\n"
        "class Mine(Strategy):\n"
        "    name = 'mine'\n"
        "    def propose(self, context, max_tokens):\n"
        "        return Draft()\n"
    )
    seen: list[ProfileSpec] = []

    def take(spec: ProfileSpec, *_: object) -> None:
        seen.append(spec)
        raise SpecdecError("as far as this")

    monkeypatch.setattr(measure, "take_profile", take)
    assert call("profile", "--strategy", f"{tmp_path}/mine.py:Mine", *more)[0] == 2
    assert [p.label for p in strategies_of(seen[0], has_mtp=True)] == expected


def test_profile_then_predict_then_report(call: Any, nano_hybrid: Path) -> None:
    code, out, err = call("profile", "--target", nano_hybrid, "--strategies", "mtp", "--experts", *PROFILE)
    assert code == 0, err
    assert "settings at depths 32, 64: about" in err
    for words in (
        "Verify cost curve at 64",
        "snapshots",
        "uniform",
        "checkpoint-host",
        "Best speedup",
        "break-even AL",
    ):
        assert words in out
    (folder,) = Path("results").iterdir()
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"steps", "prompt", "checkpoint", "experts"}
    steps = [line for line in lines if line["kind"] == "steps"]
    assert all(len(line["drafted"]) == len(line["phase_us"][p]) for line in steps for p in PHASES)
    experts = [line for line in lines if line["kind"] == "experts"]
    used = next(line["distinct"] for line in experts if line["n"] == 1)
    assert len(set(used)) == 1  # one token uses as many experts in every layer
    assert all(a >= b for line in experts for a, b in zip(line["distinct"], used, strict=True))
    assert call("report", "latest")[1] == out
    assert json.loads(call("report", folder.name, "--format", "json")[1])["curves"]
    assert call("report", folder.name, "--format", "html", "--out", "p.html")[0] == 0
    sections = {a["id"] for a in check_page(Path("p.html").read_text()).all("section")}
    assert {"best", "curve", "break-even", "drafting", "rollback", "prompts"} <= sections
    code, _, err = call("report", folder.name, "--redact")
    assert (code, "only comparisons hold texts" in err) == (2, True)
    code, out, _ = call("predict", "--acceptance", "0.9,0.8")
    assert code == 0
    assert "break-even" in out
    _beside_a_run(call, nano_hybrid)


def _beside_a_run(call: Any, nano: Path) -> None:
    arguments = (
        "--target",
        nano,
        "--strategies",
        "mtp(n_max=2)",
        "--workloads",
        "code",
        "--limit",
        1,
        "--n-predict",
        24,
    )
    code, _, err = call("compare", *arguments, "--threads", 1, "--count-experts")
    assert code == 0, err
    counted = sorted(Path("results").iterdir())[-1]
    samples = [json.loads(line) for line in (counted / "samples.jsonl").read_text().splitlines()]
    assert all(len(s["steps"]["experts"]) == len(s["steps"]["drafted"]) for s in samples)
    code, out, _ = call("report", counted)
    assert "Prediction" not in out  # counting changes what passes take: the profile does not fit
    assert call("compare", *arguments, "--threads", 1)[0] == 0
    run = sorted(Path("results").iterdir())[-1]
    out = call("report", run)[1]
    assert "Prediction" in out
    assert "observed" in out
    rows = json.loads(call("predict", "--run", run, "--json")[1])
    assert {r["strategy"] for r in rows["rows"]} == {"none", "mtp(n_max=2)"}
    assert all(r["predicted_tok_s"] > 0 for r in rows["rows"])
    assert rows["differs"] == []
    meta = orjson.loads((run / "run.json").read_bytes())
    meta["environment"]["cpu"] = "another"
    (run / "run.json").write_bytes(orjson.dumps(meta))
    assert "Prediction" not in call("report", run)[1]
    code, _, err = call("report", run, "--profile", sorted(Path("results").iterdir())[0])
    assert code == 2
    assert "does not fit this run: other processor" in err
    out = call("predict", "--run", run)[1]
    assert "differs from the profile in: processor" in out
    assert "At every draft length" in out
    (strategy,) = (s for s in meta["strategies"] if s["name"] == "mtp")
    for other in ({"file_sha256": "another"}, {"options": strategy["options"] | {"p_min": 0.5}}):
        strategies = [s | other if s is strategy else s for s in meta["strategies"]]
        (run / "run.json").write_bytes(orjson.dumps(meta | {"strategies": strategies}))
        assert "At every draft length" not in call("predict", "--run", run)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "--acceptance", "0.9"), "there is no profile under results"),
        (("predict",), "either --acceptance or --run"),
        (("profile", "--target", "demo", "--depths", "many"), "--depths: 'many' is not a whole number"),
        (("profile", "--target", "demo", "--depths", "3"), "--depths: a depth is at least 16"),
        (("profile", "--target", "missing.gguf"), "missing.gguf"),
    ],
)
def test_bad_input_is_one_line(call: Any, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = call(*arguments)
    assert code == 2
    assert message in err
    assert out == ""
    assert len([line for line in err.splitlines() if line.startswith("specdec:")]) == 1


def test_two_rounds_are_two_sweeps_and_what_was_cut_off_is_read(call: Any, nano_hybrid: Path) -> None:
    asked = ("--depths", "32,64", "--lengths", "1,2", "--repeats", "2", "--threads", "1", "--strategies", "none")
    code, out, err = call("profile", "--target", nano_hybrid, *asked)
    assert code == 0, err
    assert "2 rounds in 2 sweeps" in out
    assert {line.partition(":")[0] for line in err.splitlines() if line.startswith("Sweep")} == {
        "Sweep 1 of 2", "Sweep 2 of 2"
    }  # fmt: skip
    (folder,) = Path("results").iterdir()
    meta = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(meta | {"status": "running"}))
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not (json.loads(line)["depth"] == 64 and json.loads(line)["snapshots"])]
    (folder / "samples.jsonl").write_text("".join(kept))
    code, out, _ = call("report", "latest")
    assert (code, "INTERRUPTED" in out, "at 64 tokens" in out) == (0, True, True)


def test_models_without_experts_and_depths_beyond_them_are_refused(call: Any, nano_dense: Path) -> None:
    code, _, err = call("profile", "--target", nano_dense, "--experts", *PROFILE)
    assert code == 2
    assert "no experts" in err
    code, _, err = call("profile", "--target", nano_dense, "--depths", "10000000", "--strategies", "none")
    assert code == 2
    assert "needs a context of" in err


@pytest.mark.parametrize("strategies", ["", "none", "mtp(n_max=4)", "ngram-simple(size_m=128)"])
def test_a_card_gets_the_context_that_the_depths_need(strategies: str) -> None:
    model = ModelOptions(device="none", threads=1)
    spec = ProfileSpec(target="demo", strategies=strategies, depths=(64, 512), repeats=2, threads=(1,), model=model)
    planned = profile_on(spec, "8GB", 512)
    job = prepare(planned, lambda _: None)
    job.close()
    assert job.depths == (64, 512)
    assert 512 < job.n_ctx <= planned.model.ctx_size <= job.n_ctx + 512
    assert profile_on(spec.model_copy(update={"depths": ()}), "8GB", 512).model.ctx_size == CONTEXT
