"""A run in Python: its table, verdicts, reports, texts and data frames, from a stored run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from refused import refusal

import specdec
from specdec.api.frames import columns
from specdec.report import formats

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"
RUN = "20261122-085546-4561"


@pytest.fixture(scope="module")
def reference() -> specdec.Run:
    return specdec.load_run(RUN, REFERENCE)


def test_a_run_gives_what_the_report_gives(reference: specdec.Run) -> None:
    as_json = json.loads(formats.as_json(reference.stored))
    assert json.loads(json.dumps(reference.table())) == as_json["rows"]
    assert reference.why == as_json["why"]
    mtp = next(r for r in as_json["rows"] if (r["workload"], r["strategy"]) == ("demo-edit", "mtp(n_max=1)"))
    assert reference.verdicts["demo-edit"]["mtp(n_max=1)"] == mtp["verdict"] == "faster"
    assert len(reference.samples(warmups=True)) > len(reference.samples()) == 24 * 7
    assert reference.id in repr(reference)
    assert str(reference).startswith(f"Run {RUN}")
    shown = reference._repr_html_()
    assert shown.count("<tr>") == 36
    assert "no difference shown" in shown


def test_names_in_a_notebook_s_table_are_escaped(reference: specdec.Run) -> None:
    rows = [s | {"workload": "<b>"} for s in reference.stored.samples]
    hostile = specdec.Run(type(reference.stored)(reference.folder, reference.meta, rows))
    assert "<b>" not in hostile._repr_html_()
    assert "&lt;b&gt;" in hostile._repr_html_()


def test_reports_go_to_files(reference: specdec.Run) -> None:
    page = reference.report()
    assert page == Path(f"report-{RUN}.html")
    assert page.read_text().startswith("<!doctype html>")
    assert reference.report("text").suffix == ".txt"
    assert reference.report("png", "p.png", picture="phases").read_bytes().startswith(b"\x89PNG")
    assert "demo-edit-01" not in reference.report("json", "r.json", redact=True).read_text()
    assert "--format pdf: unknown here." in refusal(lambda: reference.report("pdf"))
    assert not Path(f"report-{RUN}.pdf").exists()


def test_texts_that_are_not_there(reference: specdec.Run, tmp_path: Path) -> None:
    assert reference.text(1) == reference.stored.samples[0]["text"]
    assert "has no sample 9999" in refusal(lambda: reference.text(9999))
    assert "has no sample 'x/y'" in refusal(lambda: reference.text("x/y"))
    failed = reference.samples()[0] | {"status": "crashed", "error": "crashed: SIGSEGV"}
    assert "crashed: SIGSEGV" in refusal(lambda: reference.text(failed))
    from specdec.redact import write_redacted

    shared = specdec.load_run(write_redacted(reference.stored, tmp_path / "shared"))
    assert "was redacted" in refusal(lambda: shared.text(1))
    assert shared.verdicts == reference.verdicts


def test_columns_have_one_length_and_known_forms() -> None:
    rows = [
        {"a": 1, "phase_s": {"verify": 0.5, "sample": 0.1}, "failures": {}, "rates": [0.5, None], "memory": [{"x": 1}]},
        {"a": None, "phase_s": None, "failures": {"e": 2}, "rates": [], "memory": []},
    ]
    assert columns(rows) == {
        "a": [1, None],
        "phase_s.verify": [0.5, None],
        "phase_s.sample": [0.1, None],
        "failures": ["{}", '{"e":2}'],
        "rates": [[0.5, None], []],
        "memory": ['[{"x":1}]', []],
    }


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_frames_where_the_package_is_there(package: str, reference: specdec.Run) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    frame = getattr(reference, f"to_{package}")()
    assert type(frame).__module__.startswith(package)
    assert frame.shape[0] == len(reference.table())
    assert frame["tok_s"].max() == max(r["tok_s"] for r in reference.table())
    assert "phase_seconds.verify" in frame.columns
    samples = getattr(reference, f"to_{package}")(samples=True)
    assert samples.shape[0] == len(reference.samples())
    assert list(samples["token_ids"][0]) == reference.samples()[0]["token_ids"]


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_frames_where_it_is_not(package: str, reference: specdec.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(getattr(reference, f"to_{package}")) == f"{package} is not installed. pip install {package}"
