"""Progress: lines without a terminal, the time left, texts as they come."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress
from terminal import on_terminal

from specdec.arms import Arm
from specdec.cli import progress
from specdec.llama.pieces import Pieces
from specdec.models import model_path
from specdec.registry import Registry
from specdec.report import tokens
from specdec.report.show import as_text
from specdec.store import read_run
from specdec.types import Prompt

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference" / "20261122-085546-4561"


def an_observer(said: io.StringIO, texts_of: str = "", terminal: bool = False) -> progress.RichObserver:
    console = Console(file=said, width=200, force_terminal=terminal, no_color=True, legacy_windows=False)
    return progress.RichObserver(Progress(console=console, disable=True), console, texts_of)


def a_cell(prompt: str) -> tuple[Arm, Prompt]:
    return Arm(Registry().plan("none")[0], "auto", 0, 0), Prompt(prompt, "w", "completion", "short", text="x")


@pytest.mark.parametrize(("every", "lines"), [(0.0, 4), (3600.0, 1)])
def test_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, every: float, lines: int) -> None:
    monkeypatch.setattr(progress, "EVERY_S", every)
    times = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(times)))
    said = io.StringIO()
    observer = an_observer(said)
    observer.start(6, 2)
    ok = {"status": "ok", "token_ids": [1] * 10, "generation_s": 2.0, "steps": {"drafted": [4], "accepted": [1]}}
    for warmup in (True, False):
        observer.cell(*a_cell("p"), [ok | {"warmup": warmup}])
    observer.cell(*a_cell("p"), [{"status": "crashed", "error": "crashed: SIGSEGV"}])
    got = said.getvalue().splitlines()
    assert len(got) == lines
    assert "FAIL none on p: crashed: SIGSEGV" in got
    if lines > 1:
        assert got[0] == "3 of 6 cells; none p 5.0 tok/s, 25% accepted", "a warm-up says nothing of the time left"
        assert re.match(r"4 of 6 cells, 0:\d\d:\d\d left; none p 5.0 tok/s", got[1])
        observer.start(6, 5, pauses_s=7200.0)
        observer.cell(*a_cell("p"), [ok | {"warmup": True}])
        assert said.getvalue().splitlines()[-1] == "6 of 6 cells, 2:00:00 left; none p 5.0 tok/s, 25% accepted"


def test_texts_are_shown_as_they_come_with_the_marks_of_show() -> None:
    run = read_run(REFERENCE)
    number = tokens.find_sample(run, "demo-edit-01/mtp(n_max=1)")
    expected = as_text(run, tokens.view(run, number, tokens.find_pieces(run, "demo")), color=False).plain
    body, legend = expected.split("\n\n", 1)[1].rsplit("\n\n", 1)
    said = io.StringIO()
    observer = an_observer(said, "demo", terminal=True)
    for _ in range(2):
        observer.cell(*a_cell("demo-edit-01"), [run.samples[number - 1]])
    got = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue())
    assert got.count(f"demo-edit-01, mtp(n_max=1):\n{body}\n") == 2
    assert got.count(legend.splitlines()[0]) == 1, "what the marks mean is said once"


def test_a_server_tells_no_steps_and_failures_have_no_text() -> None:
    said = io.StringIO()
    observer = an_observer(said, "demo", terminal=True)
    served = {
        "status": "ok", "prompt": "p", "strategy": "mtp", "turn": 1, "warmup": True, "engine": "llama-server",
        "text": "abc", "steps": None, "token_ids": [1], "generation_s": 1.0, "drafted": 0, "accepted": 0,
    }  # fmt: skip
    observer.cell(*a_cell("p"), [served, {"status": "error", "error": "boom"}])
    got = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue())
    assert "p, turn 2, mtp (warm-up):\nabc [llama-server tells no steps]\n" in got


def test_texts_are_off_where_there_is_no_terminal() -> None:
    said = io.StringIO()
    observer = an_observer(said, "demo")
    run = read_run(REFERENCE)
    observer.cell(*a_cell("p"), [run.samples[0]])
    assert said.getvalue() == "--watch is off: stderr is no terminal.\n"


def test_a_comparison_shows_its_texts_on_a_terminal() -> None:
    words = [
        "compare",
        "--watch",
        "-s",
        "none",
        "-w",
        "demo-code",
        "--limit",
        "1",
        "-n",
        "8",
        "--warmup",
        "0",
        "-t",
        "1",
    ]
    shown = on_terminal([sys.executable, "-m", "specdec", *words], NO_COLOR="1", TERM="xterm-256color", COLUMNS="200")
    (sample,) = read_run(next(Path("results").iterdir())).samples
    seen = tokens.view_sample(sample, 1, Pieces(model_path("demo")))
    text = "|".join("".join(m.text for m in step.marks) for step in seen.steps)
    assert f"demo-code-01, none:\n{text}\n" in re.sub(r"\x1b\[[\d;]*m", "", shown).replace("\r\n", "\n")
