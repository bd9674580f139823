"""Rows from samples: hand-made numbers, the traps of the field, statistics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from specdec.metrics import rows
from specdec.store import Run, Sample, read_run
from specdec.types import PHASES, Row


def sample(strategy: str, prompt: str, drafted: list[int], accepted: list[int], seconds: float, **more: Any) -> Sample:
    n = 1 + sum(a + 1 for a in accepted)
    fields: Sample = {
        "strategy": strategy, "rollback": "auto", "workload": "w", "prompt": prompt, "turn": 0, "repeat": 0,
        "engine": "specdec", "launch": 0,
        "warmup": False, "status": "ok", "error": None, "token_ids": list(range(n)), "generation_s": seconds,
        "end_to_end_s": seconds + 1.0, "ttft_s": 1.0, "phase_s": dict.fromkeys(PHASES, seconds / len(PHASES)),
        "steps": {"drafted": drafted, "accepted": accepted, "note": [None] * len(drafted)}, "memory": [], "n_redecoded": 0,
    }  # fmt: skip
    return fields | more


def run_of(*samples: Sample) -> Run:
    arms = [
        {"engine": "specdec", "strategy": s, "rollback": "auto"} for s in dict.fromkeys(s["strategy"] for s in samples)
    ]
    labels = {"engine": "specdec", "label": "real", "card": "CPU", "arm": "same split"}
    return Run(Path("x"), {"run_id": "x", "status": "finished", "labels": labels, "arms": arms}, list(samples))


def row(run: Run, strategy: str, workload: str = "all") -> Row:
    (found,) = [r for r in rows(run) if (r["strategy"], r["workload"]) == (strategy, workload)]
    return found


def plain(prompt: str, n: int, seconds: float, **more: Any) -> Sample:
    return sample("none", prompt, [0] * n, [0] * n, seconds, **more)


def test_counters_and_rates() -> None:
    run = run_of(plain("a", 5, 6.0), sample("s", "a", [3, 0, 2, 3], [3, 0, 0, 1], 2.0))
    got = row(run, "s")
    assert (got["drafted"], got["accepted"], got["target_passes"], got["drafting_steps"]) == (8, 4, 4, 3)
    assert got["acceptance_rate"] == 0.5
    assert got["mean_acceptance_length"] == 2.0, "over all steps, empty drafts included"
    assert got["mean_acceptance_length_drafting"] == pytest.approx(7 / 3)
    assert got["acceptance_by_position"] == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.5]
    assert got["conditional_acceptance"] == [pytest.approx(1 / 2), 1.0]
    assert got["accepted_lengths"] == [1, 1, 0, 1]
    assert got["tok_s"] == pytest.approx(9 / 2)
    assert got["speedup"] == pytest.approx((9 / 2) / (6 / 6))
    assert got["end_to_end_speedup"] == pytest.approx((9 / 3) / (6 / 7))


def test_a_strategy_that_drafted_nothing_is_inactive_not_zero() -> None:
    got = row(run_of(plain("a", 5, 6.0), sample("s", "a", [0, 0], [0, 0], 2.0)), "s")
    assert (got["status"], got["acceptance_rate"], got["acceptance_by_position"]) == ("inactive", None, [])
    assert got["mean_acceptance_length"] == 1.0
    assert got["mean_acceptance_length_drafting"] is None


def test_warm_ups_and_failures_never_enter_a_figure() -> None:
    good = [plain("a", 5, 6.0), sample("s", "a", [2], [1], 1.0)]
    bad = [
        plain("a", 5, 600.0, warmup=True),
        sample("s", "w", [9], [9], 99.0, warmup=True),
        {k: v for k, v in sample("s", "b", [9], [9], 99.0).items() if k not in ("steps", "token_ids")}
        | {"status": "error", "error": "boom"},
    ]
    got = row(run_of(*good, *bad), "s")
    wanted = row(run_of(*good), "s")
    assert got | {"failures": {}} == wanted
    assert got["failures"] == {"boom": 1}


def test_only_failures() -> None:
    failed = {
        "engine": "specdec",
        "launch": 0,
        "strategy": "s",
        "rollback": "auto",
        "workload": "w",
        "prompt": "a",
        "turn": 0,
        "repeat": 0,
    }
    got = row(run_of(plain("a", 5, 6.0), {**failed, "warmup": False, "status": "error", "error": "boom"}), "s")
    assert (got["status"], got["tok_s"], got["speedup"], got["phase_seconds"]) == ("error", None, None, None)


def test_speedup_pairs_by_prompt() -> None:
    """A prompt that the strategy lacks must not count in the baseline either."""
    run = run_of(plain("a", 9, 10.0), plain("slow", 9, 1000.0), sample("s", "a", [0] * 9, [0] * 9, 5.0))
    assert row(run, "s")["speedup"] == pytest.approx(2.0)


def test_speedup_pairs_by_turn_and_repeat() -> None:
    """A missing repeat or turn of one side is left out of the other."""
    run = run_of(plain("a", 9, 10.0), plain("a", 9, 1000.0, repeat=1), sample("s", "a", [0] * 9, [0] * 9, 5.0))
    assert row(run, "s")["speedup"] == pytest.approx(2.0)


def test_notes_of_empty_drafts_are_not_counted() -> None:
    quiet = sample("s", "a", [0, 0], [0, 0], 1.0)
    quiet["steps"]["note"] = ["why not", "why not"]
    assert row(run_of(plain("a", 1, 1.0), quiet), "s")["drafted_by"] == {}


def test_different_texts_are_counted() -> None:
    same, other = sample("s", "a", [1], [0], 1.0), sample("s", "b", [1], [0], 1.0, token_ids=[7, 7])
    assert row(run_of(plain("a", 1, 1.0), plain("b", 1, 1.0), same, other), "s")["text_differs"] == [0]


def test_workloads_in_order_and_all_last() -> None:
    run = run_of(plain("a", 1, 1.0, workload="z"), plain("b", 1, 1.0, workload="y"))
    assert [r["workload"] for r in rows(run)] == ["z", "y", "all"]


def test_launches_are_paired_and_counted() -> None:
    """Each launch against its own baseline: launch 1 was twice as slow for both."""
    both = [
        s
        for p in "abcde"
        for x in (0, 1, 2)
        for s in (
            plain(p, 9, 10.0 * (x + 1), launch=x),
            sample("s", p, [0] * 9, [0] * 9, 5.0 * (x + 1), launch=x),
        )
    ]
    got = row(run_of(*both), "s")
    assert (got["launches"], got["generations"], got["prompts"]) == (3, 15, 5)
    assert got["speedup"] == pytest.approx(2.0)
    assert got["between_launches"] == 0
    alone = [s for s in both if s["strategy"] == "none" or s["launch"] == 2]
    assert row(run_of(*alone), "s")["speedup"] == pytest.approx(2.0), "the baseline's other launches do not count"


def test_mean_and_sum_differ_where_prompts_do() -> None:
    ours = [sample("s", "a", [0] * 9, [0] * 9, 0.5), sample("s", "b", [0] * 9, [0] * 9, 18.0)]
    run = run_of(plain("a", 9, 1.0), plain("b", 9, 9.0), *ours)
    got = row(run, "s")
    assert got["speedup"] == pytest.approx(10 / 18.5)
    assert got["mean_speedup"] == pytest.approx(1.0)
    assert got["mean_speedup_low"] < 1 < got["mean_speedup_high"]


def test_an_engine_has_its_own_baseline_where_it_ran_one() -> None:
    other = {"engine": "llama-server"}
    samples = [
        plain("a", 9, 10.0), sample("s", "a", [0] * 9, [0] * 9, 5.0),
        sample("s", "a", [0] * 9, [0] * 9, 4.0, **other),
    ]  # fmt: skip
    run = run_of(*samples)
    run.meta["arms"].append({"strategy": "s", "rollback": "auto", "engine": "llama-server"})
    speedups = {r["engine"]: r["speedup"] for r in rows(run) if (r["workload"], r["strategy"]) == ("all", "s")}
    assert speedups == {"specdec": pytest.approx(2.0), "llama-server": pytest.approx(2.5)}
    run.samples.append(plain("a", 9, 20.0, **other))
    run.meta["arms"].append({"strategy": "none", "rollback": "auto", "engine": "llama-server"})
    got = {(r["engine"], r["strategy"]): r["speedup"] for r in rows(run) if r["workload"] == "all"}
    assert got["llama-server", "s"] == pytest.approx(5.0)
    assert got["llama-server", "none"] is None
    assert got["specdec", "s"] == pytest.approx(2.0)


def test_verdicts_allow_for_the_whole_table() -> None:
    """The same effect, alone and among many strategies that do nothing."""

    def table(others: int) -> Row:
        factors = {
            "s": [1.04, 1.05, 1.10, 1.02, 1.06, 1.09],
            **{f"o{i}": [1.1, 0.9, 1.2, 0.8, 1.0, 1.01] for i in range(others)},
        }
        samples = [plain(p, 9, 10.0) for p in "abcdef"]
        samples += [
            sample(name, p, [0] * 9, [0] * 9, 10.0 / f)
            for name, of in factors.items()
            for p, f in zip("abcdef", of, strict=True)
        ]
        return row(run_of(*samples), "s")

    alone, among = table(0), table(20)
    assert (alone["verdict"], among["verdict"]) == ("faster", "no difference shown")
    assert alone["p_value"] == among["p_value"] < among["p_corrected"]
    assert among["speedup_low"] > 1


def served(strategy: str, prompt: str, drafted: int, accepted: int, passes: int | None, seconds: float) -> Sample:
    """A sample of an engine that tells totals alone."""
    told = {"drafted": drafted, "accepted": accepted, "target_passes": passes, "n_drafting": 2 if drafted else 0}
    unknown = dict.fromkeys(("steps", "phase_s", "memory", "n_redecoded"))
    return sample(strategy, prompt, [], [], seconds, token_ids=list(range(9))) | told | unknown


def test_totals_without_steps_give_rates_and_null_for_what_only_steps_tell() -> None:
    base = [served("none", p, 0, 0, 8, 8.0) for p in "ab"]
    run = run_of(*base, served("s", "a", 6, 4, 4, 4.0), served("s", "b", 4, 3, 5, 4.0))
    got = row(run, "s")
    assert (got["drafted"], got["accepted"], got["target_passes"], got["drafting_steps"]) == (10, 7, 9, 4)
    assert got["acceptance_rate"] == 0.7
    assert got["mean_acceptance_length"] == pytest.approx(16 / 9)
    assert got["mean_acceptance_length_drafting"] == pytest.approx(11 / 4)
    assert got["speedup"] == pytest.approx(2.0)
    for key in ("acceptance_by_position", "conditional_acceptance", "accepted_lengths", "drafted_by", "redecoded"):
        assert got[key] is None, key
    assert got["phase_seconds"] is got["memory_bytes"] is None
    plain = row(run, "none")
    assert (plain["acceptance_rate"], plain["mean_acceptance_length"]) == (None, 1.0)


def test_a_pass_count_that_one_sample_lacks_is_unknown_for_the_row() -> None:
    got = row(run_of(served("none", "a", 0, 0, 8, 8.0), served("s", "a", 6, 4, None, 4.0)), "s")
    assert (got["target_passes"], got["mean_acceptance_length"], got["acceptance_rate"]) == (None, None, 4 / 6)


def test_tables_of_totals_show_na() -> None:
    from specdec.report.tables import as_text

    run = run_of(served("none", "a", 0, 0, 8, 8.0), served("s", "a", 6, 4, None, 4.0))
    run.meta.update(prompts=[{}], model={"file": "m", "description": "d"}, spec={"n_predict": 8}, cells=2)
    run.meta.update(context={"threads": 1, "n_ctx": 512}, given={})
    run.meta["labels"]["sampling"] = "greedy"
    line = next(line for line in as_text(run).split("Drafting\n")[1].splitlines() if " s " in line)
    assert line.split()[1:] == ["67%", "n/a", "n/a", "n/a", "n/a"]


class TestWideTerminals:
    """Of a real run: nothing is lost, nothing is too wide."""

    @pytest.fixture
    def run(self) -> Run:
        return read_run(Path(__file__).resolve().parent.parent / "results" / "reference" / "20261122-085546-4561")

    def tables(self, text: str) -> dict[str, list[str]]:
        found = re.findall(r"^(.+)\n=+\n\n((?:.+\n)+)", text, re.MULTILINE)
        return {title: body.splitlines() for title, body in found}

    @pytest.mark.parametrize(
        ("width", "beside"), [(120, "acceptance  AL    MiB"), (150, "drafted/step  accepted/step")]
    )
    def test_what_drafting_gives_stands_beside_the_speed(self, run: Run, width: int, beside: str) -> None:
        from specdec.report.tables import as_text

        narrow, wide = self.tables(as_text(run)), self.tables(as_text(run, width=width))
        assert beside in wide["Speed"][0]
        assert max(len(line) for body in wide.values() for line in body) <= width
        assert ("Drafting" in wide) == (width < 150)
        for at in range(2, len(narrow["Speed"])):
            figures = {*narrow["Speed"][at].split(), *narrow["Drafting"][at].split()}
            assert figures <= {*wide["Speed"][at].split(), *(wide.get("Drafting", []) or [""] * 99)[at].split()}
        positions = wide["Acceptance by position"][0].split()[2:]
        assert positions == [str(i + 1) for i in range(len(positions))]
        assert len(positions) > 8

    def test_eighty_columns_stay_as_they_are(self, run: Run) -> None:
        from specdec.report.tables import as_text

        assert as_text(run, width=80) == as_text(run)
        assert self.tables(as_text(run))["Acceptance by position"][0].split()[-1] == "8"
