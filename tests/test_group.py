"""A comparison of cards, read again from the store: its tables, its page, what failed in it."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import orjson
import pytest
from card_group import GPU, GROUP, write_group
from page import check_page
from shape_file import write_08b, write_35b
from typer.testing import CliRunner

from specdec.cli import app
from specdec.errors import SpecdecError
from specdec.groups import drift, group_rows
from specdec.report import group
from specdec.report.html import write
from specdec.store import Run, find_group, plan_group, read_run

EMULATED = f"emulated 8 GB ({GPU}, capped)"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shape")
    return write_35b(folder / "35b.gguf", 1000), write_08b(folder / "08b.gguf", 1000)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, shapes: tuple[Path, Path]) -> Path:
    results = tmp_path_factory.mktemp("results")
    write_group(results, *shapes)
    return results


@pytest.fixture(scope="module")
def runs(stored: Path) -> list[Run]:

    found = find_group(GROUP, stored)
    assert found
    return [read_run(folder) for folder in found.folders]


def report(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def common_split(runs: list[Run]) -> int:
    """Expert layers in RAM in the same-split arm of the first card."""
    return int(group_rows(runs)[0]["same_split"]["n_cpu_moe"])


def test_a_group_of_which_no_run_was_begun(tmp_path: Path) -> None:
    plan_group(tmp_path, "20270101-000000-0000", [])
    with pytest.raises(SpecdecError, match=r"no run was begun\. Go on with: specdec resume"):
        report("20270101", "--results", tmp_path)


def test_a_group_is_read_again_by_its_id(stored: Path, runs: list[Run]) -> None:
    text = report(GROUP, "--results", stored)
    assert text == report(GROUP[:11], "--results", stored)
    for said in (
        EMULATED,
        f"same split, --n-cpu-moe {common_split(runs)}:",
        "same VRAM:",
        "makes room",
        "not its bandwidth",
    ):
        assert said in text
    tables = [line for line in text.splitlines() if line.startswith(("strategy ", "mtp  ", "ngram-", "none  ", "---"))]
    assert len(tables) > 20
    assert max(map(len, tables)) <= 80
    assert text.splitlines()[0].startswith(f"Group {GROUP}: {len(runs)} runs")


def test_what_is_missing_of_a_group_is_told(stored: Path, tmp_path: Path) -> None:
    """Two runs of the plan were never begun, one was cut off, in one a strategy crashed."""
    results = shutil.copytree(stored, tmp_path / "results")
    folders = sorted(results.iterdir())
    plan_group(results, GROUP, [{}] * len(folders))
    for folder in folders[-2:]:
        shutil.rmtree(folder)
    meta = orjson.loads((folders[0] / "run.json").read_bytes())
    (folders[0] / "run.json").write_bytes(orjson.dumps(meta | {"status": "started"}))
    lines = [orjson.loads(line) for line in (folders[1] / "samples.jsonl").read_bytes().splitlines()]
    label = lines[-1]["strategy"]
    failed = [s | {"status": "crashed", "error": "crashed: SIGSEGV"} if s["strategy"] == label else s for s in lines]
    (folders[1] / "samples.jsonl").write_bytes(b"".join(orjson.dumps(s) + b"\n" for s in failed))
    said = f"INTERRUPTED: of {len(folders)} runs 1 not finished, 2 missing. Go on: specdec resume {results / GROUP}"
    text = report(results / GROUP)
    assert said in text
    assert f"{folders[1].name}, {label}: crashed: SIGSEGV (12 cells)" in text
    assert orjson.loads(report(results / GROUP, "--format", "json"))["warnings"][0] == said
    page = tmp_path / "g.html"
    report(results / GROUP, "--format", "html", "--out", page)
    assert "2 missing" in page.read_text()
    assert "INTERRUPTED" not in report(stored / GROUP)


def test_a_run_names_its_group(stored: Path, runs: list[Run]) -> None:
    assert f"specdec report {stored / GROUP}\n" in report(runs[0].id, "--results", stored)
    assert report(stored / GROUP) == report(GROUP, "--results", stored)
    assert f"specdec report {GROUP}" in write.of_run(runs[0], None).render()


def test_rows_hold_both_arms(runs: list[Run]) -> None:
    rows = {(r["card"], r["strategy"]): r for r in group_rows(runs)}
    assert len(rows) == 2 * 4
    mtp = rows[EMULATED, "mtp"]
    assert mtp["same_split"]["speedup"] == pytest.approx(1.25, abs=0.03)
    assert mtp["same_vram"]["speedup"] == pytest.approx(1.25 * mtp["displaced"], rel=0.03)
    own, plain = mtp["same_vram"], mtp["same_vram"]["plain"]
    assert own["n_cpu_moe"] > plain["n_cpu_moe"]
    expected = (4 + 0.33 * plain["n_cpu_moe"]) / (4 + 0.33 * own["n_cpu_moe"])
    assert mtp["displaced"] == pytest.approx(expected, rel=0.03)
    for r in rows.values():
        for arm in ("same_split", "same_vram"):
            assert 0 < r[arm]["vram_bytes"] <= 11772 * 2**20


def test_what_lies_in_two_runs_carries_the_drift_between_runs(runs: list[Run]) -> None:
    """Seconds of one run doubled: the verdicts of the same split stay, across runs nothing can be told any more."""
    quiet = {(r["card"], r["strategy"]): r for r in group_rows(runs)}
    slow = next(r for r in runs if r.meta["spec"]["strategies"] == "draft" and r.meta["labels"]["card"] == EMULATED)
    held = [
        Run(r.folder, r.meta, [s | {"generation_s": 2 * s["generation_s"]} for s in r.samples]) if r is slow else r
        for r in runs
    ]
    moved = {(r["card"], r["strategy"]): r for r in group_rows(held)}
    assert quiet[EMULATED, "mtp"]["same_vram"]["verdict"] == "faster"
    for key, row in moved.items():
        assert row["same_split"]["verdict"] == quiet[key]["same_split"]["verdict"]
        if row["same_vram"]["run"] != row["same_vram"]["plain"]["run"]:
            assert row["same_vram"]["verdict"] == "no difference shown"
    assert "moved by" in group.as_text(held)


def test_the_drift_is_that_of_prompts_which_all_runs_have(runs: list[Run]) -> None:
    """A run that was cut off after its two slowest prompts has not moved for that; after one prompt nothing is known."""

    def cut(run: Run, prompts: int) -> Run:
        slow = [
            s | {"generation_s": s["generation_s"] * (9 if s["prompt"] in ("p0", "p1") else 1)} for s in run.samples
        ]
        kept = [f"p{i}" for i in range(prompts)]
        return Run(run.folder, run.meta, [s for s in slow if s["prompt"] in kept])

    whole = [cut(r, 12) for r in runs]
    moved = drift(whole)
    assert moved is not None
    for left in (2, 1):
        short = drift([cut(runs[0], left), *whole[1:]])
        assert short is not None
        assert short.variance < 4 * moved.variance
        assert (short.launches < moved.launches) == (left == 1)


def test_without_two_runs_at_one_split_there_is_no_verdict_across_runs(runs: list[Run]) -> None:
    on_card = [r for r in runs if r.meta["labels"]["card"] == EMULATED]
    by_split = {r.meta["spec"]["model"]["n_cpu_moe"]: r for r in on_card}
    mtp = next(r for r in on_card if r.meta["spec"]["strategies"] == "mtp" and "same split" in r.meta["labels"]["arm"])
    few = [mtp, by_split[min(by_split)]]
    splits = [r.meta["spec"]["model"]["n_cpu_moe"] for r in few]
    assert len(set(splits)) == len(splits) > 1
    assert group_rows(few)[0]["same_vram"]["verdict"] == "cannot tell"
    assert "not known" in group.as_text(few)


def test_a_run_that_is_missing_is_not_replaced_by_another(runs: list[Run]) -> None:
    """The n-grams' own run held plain decoding's own split too."""
    on_card = [r for r in runs if r.meta["labels"]["card"] == EMULATED]
    ngrams = [r for r in on_card if "ngram" in r.meta["spec"]["strategies"]]
    own = next(r for r in ngrams if "same VRAM" in r.meta["labels"]["arm"])
    rest = [r for r in on_card if r is not own]
    row = next(r for r in group_rows(rest) if r["strategy"] == "ngram-mod")
    assert row["same_split"]["speedup"] is not None
    assert (row["same_vram"]["status"], row["same_vram"]["speedup"], row["displaced"]) == ("not run", None, None)
    assert row["same_vram"]["n_cpu_moe"] == own.meta["spec"]["model"]["n_cpu_moe"]
    assert {r["same_vram"]["plain"] for r in group_rows(rest)} == {None}
    assert "not run" in group.as_text(rest)
    check_page(write.of_group(rest).render())
    group.as_csv(rest)


def test_formats_for_programs(stored: Path, runs: list[Run]) -> None:
    found = orjson.loads(report(GROUP, "--results", stored, "--format", "json"))
    assert (found["group"], len(found["runs"]), len(found["rows"])) == (GROUP, len(runs), 8)
    lines = [*csv.DictReader(io.StringIO(report(GROUP, "--results", stored, "--format", "csv")))]
    assert [line["strategy"] for line in lines] == [r["strategy"] for r in found["rows"]]
    assert float(lines[0]["same_vram_speedup"]) == found["rows"][0]["same_vram"]["speedup"]
    assert "| mtp" in report(GROUP, "--results", stored, "--format", "md")


def test_the_page_of_a_group(runs: list[Run]) -> None:
    page = check_page(write.of_group(runs).render())
    assert {a["id"] for a in page.all("section")} == {"verdict", "frontier", "memory", "figures", "runs"}
    for said in (EMULATED, "At the same VRAM mtp pays", "that alone makes plain decoding", "emulated card"):
        assert said in page.data
    alts = {str(a["aria-label"]) for a in page.all("div") if a.get("role") == "img"}
    for arm in ("same split", "same VRAM"):
        assert any(f"{EMULATED}, {arm}, mtp at --n-cpu-moe" in alt for alt in alts)
    assert any(f"{EMULATED}, draft, n-cpu-moe {common_split(runs)}" in alt for alt in alts)
    assert write.of_group(runs).picture("", "png").startswith(b"\x89PNG")


def test_a_plan_that_could_not_be_held_says_so(tmp_path: Path, shapes: tuple[Path, Path]) -> None:
    planned = write_group(tmp_path, *shapes, cards="8GB", enforced=False)
    page = check_page(write.of_group(planned).render())
    assert f"planned 8 GB ({GPU}, not enforced)" in page.data
    assert "card planned, not enforced" in page.data
    assert "emulated" not in page.data.replace("An emulated or planned card", "")


def test_a_strategy_that_ran_out_of_memory_is_a_row(runs: list[Run]) -> None:
    broken = [Run(r.folder, r.meta, [_failed(s) for s in r.samples]) for r in runs]
    text = group.as_text(broken)
    assert "FAIL: out-of-memory" in text
    assert {r["strategy"] for r in group_rows(broken)} == {"mtp", "draft", "ngram-simple", "ngram-mod"}
    page = check_page(write.of_group(broken).render())
    assert "8,192 MiB are too few" in page.data


def _failed(s: dict[str, object]) -> dict[str, object]:
    wrong = {"status": "out-of-memory", "error": "8,192 MiB are too few", "generation_s": None}
    return s | wrong if s["strategy"] == "draft" else s


def test_a_run_of_an_arm_has_its_frontier(runs: list[Run]) -> None:
    alone = next(r for r in runs if r.meta["spec"]["strategies"] == "mtp")
    page = check_page(write.of_run(alone, None).render())
    assert "frontier" in page.ids
    assert "MiB of VRAM, as planned" in page.data


def test_a_group_of_which_a_run_was_redacted_is_not_resumed(stored: Path, runs: list[Run], tmp_path: Path) -> None:
    copied = shutil.copytree(stored, tmp_path / "copied")
    file = copied / runs[0].folder.name / "run.json"
    file.write_bytes(orjson.dumps(runs[0].meta | {"redacted": True, "status": "running"}))
    with pytest.raises(SpecdecError, match="was redacted: its group cannot be resumed"):
        CliRunner().invoke(app, ["resume", GROUP, "--results", str(copied)], catch_exceptions=False)


def test_what_a_group_is_not(stored: Path, runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(SpecdecError, match="not compared with another"):
        report(GROUP, runs[0].id, "--results", stored)
    with pytest.raises(SpecdecError, match="no run match"):
        report("nothing", "--results", stored)
    with pytest.raises(SpecdecError, match="Known: text, md, csv, json, html"):
        report(GROUP, "--results", stored, "--format", "pdf")
    with pytest.raises(SpecdecError, match="Known: frontier, memory"):
        report(GROUP, "--results", stored, "--format", "svg", "--picture", "speedup", "--out", tmp_path / "x.svg")
    with pytest.raises(SpecdecError, match="beside one run"):
        report(GROUP, "--results", stored, "--profile", "x")
