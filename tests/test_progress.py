"""Progress without a terminal: a line now and then, failures at once."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from specdec.arms import Arm
from specdec.cli import progress
from specdec.registry import Registry
from specdec.types import Prompt


@pytest.mark.parametrize(("every", "lines"), [(0.0, 4), (3600.0, 1)])
def test_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, every: float, lines: int) -> None:
    monkeypatch.setattr(progress, "EVERY_S", every)
    said = io.StringIO()
    console = Console(file=said, width=200)
    observer = progress.RichObserver(Progress(console=console, disable=True), console)
    observer.start(5, 2)
    arm, prompt = Arm(Registry().plan("none")[0], "auto", 0, 0), Prompt("p", "w", "completion", "short", text="x")
    sample = {"status": "ok", "token_ids": [1] * 10, "generation_s": 2.0, "steps": {"drafted": [4], "accepted": [1]}}
    for _ in range(2):
        observer.cell(arm, prompt, [sample])
    observer.cell(arm, prompt, [{"status": "crashed", "error": "crashed: SIGSEGV"}])
    got = said.getvalue().splitlines()
    assert len(got) == lines
    assert "FAIL none on p: crashed: SIGSEGV" in got
    if lines > 1:
        assert got[0] == "3 of 5 cells; none p 5.0 tok/s, 25% accepted"
