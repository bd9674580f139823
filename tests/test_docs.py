"""The documentation check has teeth."""

from __future__ import annotations

import importlib.util
import json
import linecache
import re
from pathlib import Path
from typing import Any

import pytest

from specdec import SpecdecError
from specdec.registry import load_class
from specdec.testing.conformance import check_strategy

ROOT = Path(__file__).resolve().parent.parent


def load() -> object:
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "tools" / "check_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("specdec compare --target x.gguf -n 4", None),
        ("specdec strategies show ngram-mod", None),
        ("specdec compare --taget x.gguf", "compare has no option --taget"),
        ("specdec compere --target x", "no command 'compere'"),
        ("specdec strategies shew x", "no command 'shew'"),
        ("make demo TARGET=x", None),
        ("make damo", "no make target 'damo'"),
    ],
)
def test_commands_are_checked(line: str, fault: str | None) -> None:
    assert load().fault(line.split(), {"demo"}) == fault  # type: ignore[attr-defined]


def test_the_strategy_in_the_readme_works(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "after_last.py").write_text(code)
    results = check_strategy(load_class(str(tmp_path / "after_last.py:AfterLast")).__call__)
    assert [c for c in results if not c.passed] == []
    assert "accepted" in results[0].detail


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)


class Cells:
    """A notebook: code blocks one after the other, their source where IPython keeps it, their output kept."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.scope: dict[str, Any] = {"__name__": "__main__"}
        self._capsys = capsys

    def run(self, code: str) -> str:
        file = f"<cell {len(linecache.cache)}>"
        linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
        exec(compile(code, file, "exec"), self.scope)
        return self._capsys.readouterr().out


@pytest.fixture
def cells(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cells:
    Path("results").mkdir()
    Path("results/reference").symlink_to(ROOT / "results" / "reference")
    monkeypatch.setattr(linecache, "cache", dict(linecache.cache))
    return Cells(capsys)


def is_frame(code: str) -> bool:
    return ".to_pandas" in code or ".to_polars" in code


def test_the_python_page_runs_and_says_what_it_shows(cells: Cells) -> None:
    said = [cells.run(code) for code in blocks("python.md", "python") if not is_frame(code)]
    shown = blocks("python.md", "text")
    assert len(shown) == 2
    assert all(text in said for text in shown)
    assert cells.scope["run"].finished
    assert {s["status"] for s in cells.scope["mine"].samples()} == {"ok"}
    assert Path("report.html").exists()


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_the_python_page_s_data_frames(cells: Cells, package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    cells.run("import specdec\nrun = specdec.load_run('20261122-085546-4561', results='results/reference')")
    codes = [c for c in blocks("python.md", "python") if f".to_{package}" in c]
    assert len(codes) == 1
    cells.run(codes[0])


def test_strategies_of_the_strategies_page_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    codes = blocks("strategies.md", "python")
    files = [c for c in codes if c.startswith("# ")]
    for code in files:
        (tmp_path / code.splitlines()[0][2:]).write_text(code)
    assert len(files) == 3
    for code in files:
        results = check_strategy(load_class(str(tmp_path / code.splitlines()[0][2:])))
        assert [c for c in results if not c.passed] == []
        assert not results[0].detail.startswith("0 of")
    (use,) = [c for c in codes if not c.startswith("# ")]
    exec(use, {})


def test_the_strategies_page_names_every_method() -> None:
    from specdec.strategy import Strategy

    page = (ROOT / "docs" / "strategies.md").read_text()
    methods = {n for n, v in vars(Strategy).items() if callable(v) and not n.startswith("_") and n != "Options"}
    assert {m for m in methods if f"`{m}(" not in page} == set()


def test_the_concepts_page_s_figures_are_the_recorded_ones() -> None:
    lines = (ROOT / "results" / "reference" / "hybrid-h100.txt").read_text().splitlines()
    runs = [json.loads(line) for line in lines if line.startswith('{"engine": "specdec"')]
    page = (ROOT / "docs" / "concepts.md").read_text()
    for layers, where in ((0, "all in VRAM"), (31, "31 layers' experts in RAM")):
        by = {r["strategy"]: r for r in runs if r["n_cpu_moe"] == layers}
        mtp = [by[name] for name in ("mtp(n_max=1)", "mtp(n_max=2)", "mtp", "mtp(n_max=4)")]
        plain = by["none"]["ms_per_step"]
        step = [sum(r["ms_per_step"].values()) / sum(plain.values()) for r in mtp]
        verify = [r["ms_per_step"]["verify"] / plain["verify"] for r in mtp]
        for name, values in (
            ("AL", [r["tokens_per_step"] for r in mtp]),
            ("C(k+1)", verify),
            ("break-even AL", step),
            ("speedup", [r["ratio"] for r in mtp]),
        ):
            assert f"| {name}, {where} | {' | '.join(f'{v:.2f}' for v in values)} |" in page
        assert f"{sum(plain.values()):.1f} ms" in page


def test_a_fault_in_a_cell_is_seen(cells: Cells) -> None:
    with pytest.raises(SpecdecError):
        cells.run("import specdec\nspecdec.compare(strategies='ngrm', progress=False)")
