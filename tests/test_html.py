"""The page: self-contained, whole, accessible, and not to be broken by what a run holds."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from page import Page, check_page
from typer.testing import CliRunner

from specdec.cli import app
from specdec.errors import SpecdecError
from specdec.report import answers
from specdec.report.html import write
from specdec.report.html.facts import Facts
from specdec.report.html.pictures import PICTURES, draw
from specdec.report.html.style import DARK, LIGHT
from specdec.store import Run, read_run
from specdec.versus import versus

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference" / "20261122-085546-4561"
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }} $\\frac{1}{0}$"


@pytest.fixture(scope="module")
def run() -> Run:
    return read_run(REFERENCE)


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return write.of_run(run, None).page().decode()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def changed(run: Run, **meta: Any) -> Run:
    return Run(run.folder, {**copy.deepcopy(run.meta), **meta}, copy.deepcopy(run.samples))


def test_it_is_well_formed_and_asks_nothing_of_the_network(html: str) -> None:
    check_page(html)
    assert len(html) < 3e6


def test_every_section_is_there(page: Page, run: Run) -> None:
    sections = {a["id"] for a in page.all("section")}
    assert sections == {"verdict", *PICTURES, "texts", "machine", "words"} - {"prediction"}
    meta = run.meta
    for text in ("real", meta["labels"]["sampling"], meta["environment"]["cpu"], "ngram-mod", "n_match=24", run.id):
        assert text in page.data


def test_pictures_have_alternatives_with_the_figures(page: Page, run: Run) -> None:
    alts = {a["aria-label"] for a in page.all("div") if a.get("role") == "img"}
    assert len(alts) == len(page.all("svg")) == 7
    row = next(r for r in Facts(run).table if (r["workload"], r["strategy"]) == ("demo-edit", "mtp"))
    said = f"demo-edit, mtp: {row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
    assert any(said in str(a) for a in alts)
    assert all(a.get("aria-hidden") == "true" for a in page.all("svg"))


def test_pictures_follow_the_readers_mode(html: str) -> None:
    style, rest = html.split("</style>", 1)
    assert all(f"--{name}: {value}" in style for palette in (LIGHT, DARK) for name, value in palette.items())
    inside = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", rest))
    assert inside <= {"#000000"}, "a colour that stays as it is in dark mode"


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_text_and_marks_have_contrast(palette: dict[str, str]) -> None:
    def light(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    ground = light(palette["ground"])
    for name, value in palette.items():
        if name not in ("ground", "line"):
            a, b = sorted((light(value), ground), reverse=True)
            assert (a + 0.05) / (b + 0.05) >= 4.5, name


def test_hostile_content_stays_text(run: Run) -> None:
    other = changed(run)
    other.meta["model"]["file"] = HOSTILE
    for s in other.samples:
        s["text"] = HOSTILE + s["text"]
        s["workload"] = s["workload"].replace("demo-code", f"w{HOSTILE}")
        if s["strategy"] == "mtp":
            s["strategy"] = HOSTILE
    for a in (*other.meta["arms"], *other.meta["strategies"]):
        for key in ("strategy", "label"):
            if a.get(key) == "mtp":
                a[key] = HOSTILE
    found = Page(write.of_run(other, None).page().decode())
    assert len(found.all("script")) == 1
    assert not found.all("img")
    assert (found.unbalanced, found.open) == ([], [])
    assert not [k for _, attributes in found.tags for k in attributes if k.startswith("on")]
    assert "{{ 7 * 7 }}" in found.data


def test_one_sentence_a_workload(run: Run) -> None:
    facts = Facts(run)
    found = {a.where: a for a in facts.answers}
    assert list(found) == ["all", *facts.workloads[:-1]]
    for workload, answer in found.items():
        faster = [r for r in facts.rows_of(workload) if r["verdict"] == "faster"]
        assert (answer.kind == "pays") == bool(faster)
        if faster:
            best = max(faster, key=lambda r: r["speedup"])
            assert f"{best['strategy']} pays: {best['speedup']:.2f} times" in answer.sentence


def test_what_drafted_nothing_is_no_contender(run: Run) -> None:
    other = changed(run)
    for s in other.samples:
        if s["strategy"] == "ngram-mod":
            n = len(s["token_ids"]) - 1
            s["steps"] = {k: [v] * n for k, v in (("drafted", 0), ("accepted", 0), ("wall_us", 9), ("verify_us", 9))}
            s["steps"] |= {"note": [None] * n, "rollback": [""] * n}
            s["cut"] = 0
    facts = Facts(other)
    for answer in facts.answers:
        assert "fastest measured was ngram-mod" not in answer.sentence
        assert answer.kind == "pays" or "ngram-mod drafted nothing." in answer.sentence


@pytest.mark.parametrize(
    ("verdict", "speedup", "idle", "kind", "sentence"),
    [
        ("no difference shown", 1.1, "equal within 2 %", "open", "nothing is shown to pay; the fastest measured was A"),
        ("slower", 0.8, "faster", "does not pay", "every draft is slower than plain decoding: A 0.80"),
        ("equal within 2 %", 1.0, "slower", "does not pay", "A 1.00 is as fast as plain decoding."),
    ],
)
def test_no_verdict_on_what_drafted_nothing_is_told(
    verdict: str, speedup: float, idle: str, kind: str, sentence: str
) -> None:
    alike = {"engine": "specdec", "rollback": "auto", "own_label": None, "memory_bytes": 0, "prompts": 10}
    alike |= {"speedup_low": 0.9, "speedup_high": 1.2}
    rows = [
        {**alike, "strategy": "A", "status": "ok", "verdict": verdict, "speedup": speedup},
        {**alike, "strategy": "B", "status": "inactive", "verdict": idle, "speedup": 1.01},
    ]
    found = answers.answer(rows)
    assert found[0] == kind
    assert sentence in found[1]
    assert "B drafted nothing." in found[1]
    assert found[1].count("B") == 1


def test_too_few_prompts_is_no_verdict(run: Run) -> None:
    few = Run(run.folder, run.meta, [s for s in run.samples if s["prompt"].endswith(("01", "02"))])
    found = {a.where: a for a in Facts(few).answers}
    assert found["demo-edit"].kind == "open"
    assert "2 prompts are too few for a verdict (5 are needed)" in found["demo-edit"].sentence


@pytest.mark.parametrize(
    ("label", "said"), [("trace", "come from a recording"), ("synthetic", "given rates"), ("emulated", "emulated")]
)
def test_labels_are_told(run: Run, label: str, said: str) -> None:
    other = changed(run)
    other.meta["labels"]["label"] = label
    found = Page(write.of_run(other, None).page().decode())
    assert said in found.data


def test_failures_and_interruptions_are_told(run: Run) -> None:
    other = changed(run, status="started")
    other.samples[-1] |= {"status": "crashed", "error": "the worker <died>"}
    found = Page(write.of_run(other, None).page().decode())
    assert "the worker <died>" in found.data
    assert "Interrupted" in found.data


def test_a_run_without_times_and_one_that_failed_whole(run: Run) -> None:
    timeless = changed(run)
    for s in timeless.samples:
        s |= {"generation_s": None, "ttft_s": None, "end_to_end_s": None, "phase_s": None, "memory": None}
        s["steps"] = {k: v for k, v in s["steps"].items() if k not in ("wall_us", "verify_us")}
    found = Page(write.of_run(timeless, None).page().decode())
    assert "there are no times" in found.data
    failed = changed(run)
    failed.samples[:] = [{**s, "status": "error", "error": "no"} for s in failed.samples]
    assert "no generation succeeded" in Page(write.of_run(failed, None).page().decode()).data


def test_many_strategies_leave_pictures_readable(run: Run) -> None:
    other = changed(run)
    for n in range(20):
        other.meta["arms"].append({"engine": "specdec", "strategy": f"more-{n}", "rollback": "auto", "snapshots": 0})
        other.samples.extend({**s, "strategy": f"more-{n}"} for s in run.samples if s["strategy"] == "mtp")
    facts = Facts(other)
    assert len(facts.drafting) == 8
    hidden = 20 + len(run.meta["arms"]) - 9
    assert facts.left_out == hidden
    assert f"{hidden} more are in the table" in write.of_run(other, None).page().decode()


def test_the_curve_is_the_runs_own(run: Run) -> None:
    curve = Facts(run).curve
    assert curve[1].median == pytest.approx(1.0)
    assert curve[1].low <= curve[1].median <= curve[1].high
    assert curve[max(curve)].median > curve[4].median > curve[2].median > 1


@pytest.mark.parametrize("name", [n for n in PICTURES if n != "prediction"])
def test_single_pictures(run: Run, name: str) -> None:
    assert write.of_run(run, None).picture(name, "png").startswith(b"\x89PNG")
    svg = write.of_run(run, None).picture(name, "svg").decode()
    assert "<text" in svg
    assert draw(name, Facts(run)) is not None


def test_pictures_that_cannot_be_made(run: Run) -> None:
    with pytest.raises(SpecdecError, match="Known: speedup"):
        write.of_run(run, None).picture("nix", "png")
    with pytest.raises(SpecdecError, match="nothing to show in the picture prediction"):
        write.of_run(run, None).picture("prediction", "png")


def test_two_runs_on_a_page(run: Run) -> None:
    other = changed(run, run_id="B", environment=run.meta["environment"] | {"cpu": "another processor"})
    for s in other.samples:
        s["generation_s"] /= 2 if s["strategy"] == "mtp" else 1
    compared = versus(run, other)
    drawn = write.of_two(compared)
    page = check_page(drawn.render())
    row = next(r for r in compared.rows if (r["workload"], r["strategy"]) == ("all", "mtp"))
    assert f"{row['ratio']:.2f} times (95 %" in page.data
    assert "another processor" in page.data
    assert {a["id"] for a in page.all("section")} == {"verdict", "speeds", "speedups", "differences"}
    assert b"<text" in drawn.picture("", "svg")


def test_why_quotes_the_profile_that_is_given(run: Run, tmp_path: Path) -> None:
    from specdec.report import formats, tables

    costs = {n: 0.01 * n for n in range(1, 80)}
    for said in (tables.as_text(run, costs), formats.as_json(run, costs)):
        assert "C(4) = 4.0 by the profile" in said
    assert "by the profile" not in tables.as_text(run)


def test_the_command_writes_files(tmp_path: Path) -> None:
    for format in ("html", "svg", "png", "text", "md", "csv", "json"):
        out = tmp_path / f"report.{format}"
        done = CliRunner().invoke(app, ["report", str(REFERENCE), "--format", format, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert out.stat().st_size > 1000
        assert str(out) in done.output.replace("\n", "")
    done = CliRunner().invoke(app, ["report", str(REFERENCE), "--format", "html"])
    assert "wants a file" in str(done.exception)


def test_text_needs_neither_matplotlib_nor_llama_cpp() -> None:
    code = (
        "import sys; sys.modules.update({'matplotlib': None, 'jinja2': None, 'llama_cpp': None});"
        "from specdec.cli import main; main()"
    )
    base = [sys.executable, "-c", code, "report", str(REFERENCE)]
    done = subprocess.run(base, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Speed" in done.stdout
    done = subprocess.run([*base, "--format", "html", "--out", "x.html"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install matplotlib jinja2" in done.stderr
    assert done.stderr.count("\n") == 1
