"""Two runs against each other: pairing, refusals, differences, forms."""

from __future__ import annotations

import copy
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from specdec.cli import app
from specdec.errors import SpecdecError
from specdec.report import versus as report
from specdec.store import Run, Sample, read_run
from specdec.versus import Versus, versus

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference" / "20261122-085546-4561"


@pytest.fixture(scope="module")
def run() -> Run:
    return read_run(REFERENCE)


def changed(run: Run, factor: float = 1.0, strategy: str | None = None, **meta: Any) -> Run:
    """The run with the speed of a strategy (or of all) multiplied, and fields of its meta replaced."""
    samples = copy.deepcopy(run.samples)
    for s in samples:
        if strategy in (None, s["strategy"]):
            s["generation_s"] /= factor
    return Run(run.folder, {**copy.deepcopy(run.meta), "run_id": "b", **meta}, samples)


def ratios(got: Versus) -> list[float]:
    return [r["ratio"] for r in got.rows]


def test_a_run_against_itself_is_equal(run: Run) -> None:
    got = versus(run, run)
    assert {r["speedup_verdict"] for r in got.rows} == {"cannot tell", None}, "one launch says nothing of the next"
    assert {r["verdict"] for r in got.rows} == {"cannot tell"}
    assert ratios(got) == pytest.approx([1.0] * 35)
    assert (got.settings, got.only_a, got.only_b) == ([], [], [])


def test_the_ratio_is_b_over_a_and_the_machine_cancels_in_speedups(run: Run) -> None:
    rows = versus(run, changed(run, 1.5)).rows
    assert [r["ratio"] for r in rows] == pytest.approx([1.5] * 35)
    assert all(r["speedup_ratio"] == pytest.approx(1.0) for r in rows if r["strategy"] != "none")
    assert "Plain decoding ran at 1.50 times A's speed" in versus(run, changed(run, 1.5)).lines[-1]
    assert not any("Plain decoding ran" in line for line in versus(run, changed(run, 1.02)).lines)
    faster = versus(run, changed(run, 1.2, "mtp")).rows
    of_mtp = next(r for r in faster if (r["strategy"], r["workload"]) == ("mtp", "all"))
    assert (of_mtp["ratio"], of_mtp["speedup_ratio"]) == (pytest.approx(1.2), pytest.approx(1.2))
    assert of_mtp["speedup_b"] == pytest.approx(1.2 * of_mtp["speedup_a"])
    assert of_mtp["speedup_verdict"] == "cannot tell", "one launch"
    several = versus(launched(run, 0.001), launched(changed(run, 1.2, "mtp"), 0.001)).rows
    assert next(r for r in several if (r["strategy"], r["workload"]) == ("mtp", "all"))["speedup_verdict"] == "faster"


def test_a_machine_that_moved_leaves_no_verdict_on_speedups_unless_launches_were_apart(run: Run) -> None:
    """`mtp` 1.2 times as fast on a machine on which plain decoding is 1.1 times as fast."""
    faster = changed(changed(run, 1.1), 1.2, "mtp")

    def verdict(minutes_a: float, minutes_b: float) -> tuple[str, str]:
        got = versus(launched(run, 0.001, minutes_a), launched(faster, 0.001, minutes_b))
        row = next(r for r in got.rows if (r["strategy"], r["workload"]) == ("mtp", "all"))
        assert row["verdict"] == row["speedup_verdict"]
        return row["speedup_verdict"], next(line for line in got.lines if line.startswith("Plain decoding ran at 1.10"))

    for minutes in ((0, 0), (10, 0), (10, 4), (4.9, 10)):
        assert verdict(*minutes)[0] == "cannot tell"
        assert "no verdict" in verdict(*minutes)[1]
    assert verdict(10, 6)[0] == "faster"
    assert "in the intervals" in verdict(10, 6)[1]
    ours, theirs = launched(run, 0.001, 10), launched(faster, 0.001, 10)
    again = {
        **theirs.samples[3],
        "at": (datetime.fromisoformat(theirs.samples[-1]["at"]) + timedelta(days=1)).isoformat(),
    }
    assert versus_of_mtp(ours, Run(run.folder, theirs.meta, [*theirs.samples, again]))[0] == "faster", (
        "tried again later"
    )
    for s in theirs.samples:
        if s["launch"] == 2:
            s["at"] = (datetime.fromisoformat(s["at"]) - timedelta(minutes=9)).isoformat()
    assert versus_of_mtp(ours, theirs)[0] == "cannot tell", "the last two launches lie close together"
    long = launched(faster, 0.001, 10)
    for s in long.samples:
        s["end_to_end_s"] += 400 * (s["prompt"] == run.samples[-1]["prompt"])
    assert versus_of_mtp(ours, long)[0] == "cannot tell", "a launch ends with its last generation"
    for s in theirs.samples:
        s["at"] = None
    assert versus_of_mtp(ours, theirs) == ("cannot tell", True), "of before times were kept"


def test_another_machine_or_other_settings_may_move_plain_decoding(run: Run) -> None:
    ours, theirs = (launched(r, 0.001) for r in (run, changed(changed(run, 1.1), 1.2, "mtp")))
    assert versus_of_mtp(ours, theirs) == ("cannot tell", True)
    theirs.meta["environment"]["cpu"] = "Another CPU"
    assert versus_of_mtp(ours, theirs) == ("faster", False)
    theirs.meta["environment"]["cpu"] = ours.meta["environment"]["cpu"]
    theirs.meta["context"]["threads"] = 16
    assert versus_of_mtp(ours, theirs) == ("faster", False)


def test_cards_of_two_groups_are_comparable(run: Run) -> None:
    other = changed(run, group="other")
    other.meta["spec"]["group"] = "other"
    assert versus(run, other).settings == []


def test_both_speedups_make_the_ratio(run: Run) -> None:
    noisy = changed(run)
    for i, s in enumerate(noisy.samples):
        s["generation_s"] *= 1 + 0.3 * (i * 7919 % 11) / 11
    for r in versus(launched(run, 0.02), launched(noisy, 0.03)).rows:
        if r["speedup_ratio"]:
            assert r["speedup_b"] / r["speedup_a"] == pytest.approx(r["speedup_ratio"])


def test_a_pause_between_launches_is_no_setting_but_named(run: Run) -> None:
    other = changed(run)
    other.meta["spec"]["launch_pause"] = 10.0
    assert "- minutes between launches: 0.0 / 10.0" in report.as_text(versus(run, other))


def versus_of_mtp(ours: Run, theirs: Run) -> tuple[str, bool]:
    """The verdict on its speedup, and whether a line tells of plain decoding."""
    got = versus(ours, theirs, allow_differences=True)
    row = next(r for r in got.rows if (r["strategy"], r["workload"]) == ("mtp", "all"))
    return row["speedup_verdict"], any(line.startswith("Plain decoding ran at 1.10") for line in got.lines)


def test_repeats_and_order_need_not_match(run: Run) -> None:
    doubled = changed(run)
    again = [{**s, "repeat": 1} for s in doubled.samples]
    got = versus(run, Run(run.folder, doubled.meta, list(reversed(doubled.samples)) + again))
    assert ratios(got) == pytest.approx([1.0] * 35)


def test_a_conversation_that_lacks_a_turn_is_left_out(run: Run) -> None:
    meta = copy.deepcopy(run.meta)
    meta["prompts"][0]["turns"] = 2
    cut = Run(run.folder, meta, run.samples)
    whole = next(r for r in versus(run, run).rows if r["workload"] == "all")
    got = next(r for r in versus(cut, cut).rows if r["workload"] == "all")
    assert got["prompts"] == whole["prompts"] - 1


@pytest.mark.parametrize(
    ("meta", "named"),
    [
        ({"prompts_sha256": "x"}, "prompts: 24 (24 shared, 0 of them of other length)"),
        ({"spec.n_predict": 64}, "n_predict: 192 / 64"),
        ({"labels.sampling": "greedy"}, "sampling: temp=0.8 / greedy"),
        ({"labels.label": "synthetic"}, "label: real / synthetic"),
        ({"context.threads": 16}, "threads: 2 / 16"),
        ({"model.header_sha256": "x", "model.file": "other.gguf"}, "model: target.gguf / other.gguf"),
        ({"spec.model.n_cpu_moe": 31}, "--n-cpu-moe: 0 / 31"),
    ],
)
def test_settings_that_differ_are_refused_unless_allowed(run: Run, meta: dict[str, Any], named: str) -> None:
    other = changed(run)
    for path, value in meta.items():
        *parents, last = path.split(".")
        place = other.meta
        for key in parents:
            place = place[key]
        place[last] = value
    with pytest.raises(SpecdecError, match="--allow-differences") as refused:
        versus(run, other)
    assert named in str(refused.value)
    got = versus(run, other, allow_differences=True)
    assert named in report.as_text(got)


def test_environment_is_named_and_not_refused(run: Run) -> None:
    other = changed(run)
    other.meta["environment"]["cpu"] = "Another CPU"
    other.meta["environment"]["packages"]["llama-cpp-python"] = "0.3.37"
    other.meta["strategies"][2]["file_sha256"] = "0123456789abcdef"
    text = report.as_text(versus(run, other))
    for line in ("- cpu: AMD EPYC / Another CPU", "- llama-cpp-python version: 0.3.36 / 0.3.37", "/ 0123456789"):
        assert line in text


def test_what_one_side_alone_has_is_named(run: Run) -> None:
    other = changed(run)
    other.meta["arms"] = [a for a in other.meta["arms"] if a["strategy"] != "ngram-mod"]
    got = versus(run, other)
    assert got.only_a == ["ngram-mod"]
    assert all(r["strategy"] != "ngram-mod" for r in got.rows)
    with pytest.raises(SpecdecError, match="share no strategy"):
        versus(run, changed(run, arms=[]))


def test_no_prompt_in_common_is_refused_even_if_allowed(run: Run) -> None:
    other = changed(run)
    for s in other.samples:
        s["prompt"] += "-other"
    with pytest.raises(SpecdecError, match="share no prompt"):
        versus(run, other, allow_differences=True)


def test_one_launch_is_told_and_several_widen_the_interval(run: Run) -> None:
    assert any("One launch alone" in line for line in versus(run, run).lines)

    steady, moving = versus(launched(run, 0.0), launched(run, 0.0)), versus(launched(run, 0.02), launched(run, 0.0))
    assert not any("One launch" in line for line in moving.lines)
    assert steady.rows[-1]["ratio_high"] < 1.001
    assert steady.rows[-1]["verdict"] == "equal within 2 %"
    assert moving.rows[-1]["ratio_high"] - moving.rows[-1]["ratio_low"] > 0.05
    assert moving.rows[-1]["verdict"] == "no difference shown"
    faster = versus(launched(run, 0.001), launched(changed(run, 1.5, "mtp"), 0.001)).rows
    assert next(r for r in faster if (r["strategy"], r["workload"]) == ("mtp", "all"))["verdict"] == "faster"


def launched(run: Run, by: float, minutes: float = 0.0) -> Run:
    """Three launches, each slower than the one before, so many minutes after it ended."""
    at = [datetime.fromisoformat(s["at"]) for s in run.samples]
    step = max(at) - min(at) + timedelta(minutes=minutes)
    samples: list[Sample] = []
    for launch in range(3):
        for s, began in zip(run.samples, at, strict=True):
            slower = s["generation_s"] * (1 + by * launch)
            samples.append({**s, "launch": launch, "generation_s": slower, "at": (began + launch * step).isoformat()})
    return Run(run.folder, run.meta, samples)


def test_a_sweep_of_one_setting_gets_its_sentence(run: Run) -> None:
    slow = changed(run, 1 / 8)
    slow.meta["context"] = {**slow.meta["context"], "threads": 16}
    slow.samples[5]["generation_s"] *= 1.01
    lines = versus(run, slow, allow_differences=True).lines
    assert any(line.startswith("none: 16 threads are 8.0x slower than 2 (z = -") for line in lines)


class TestCommand:
    def call(self, *words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["report", *words])
        return result.exit_code, result.output

    def test_forms(self, run: Run, tmp_path: Path) -> None:
        b = tmp_path / "b"
        b.mkdir()
        (b / "run.json").write_bytes(orjson.dumps(changed(run, 1.1).meta))
        (b / "samples.jsonl").write_bytes(b"".join(orjson.dumps(s) + b"\n" for s in changed(run, 1.1).samples))
        code, text = self.call(str(REFERENCE), str(b))
        assert code == 0
        assert "Run B b over run A 20261122-085546-4561" in text
        code, text = self.call(str(REFERENCE), str(b), "--format", "markdown")
        assert "| workload" in text
        code, text = self.call(str(REFERENCE), str(b), "--format", "json")
        got = json.loads(text)
        assert got["rows"][-1]["ratio"] == pytest.approx(1.1)
        assert got["a"] == "20261122-085546-4561"

    def test_one_run_as_markdown(self) -> None:
        assert self.call(str(REFERENCE), "-f", "markdown") == self.call(str(REFERENCE), "-f", "md")
