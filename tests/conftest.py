"""Shared: nano models written once, user folders redirected, a stand-in for llama-server, real models where
SPECDEC_TEST_MODELS names a folder."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from timed import Time

from specdec import clock as clock_module
from specdec import decode
from specdec.cli import main
from specdec.profile import bench
from specdec.testing.nano import write_nano


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C, and so would the processes that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in a folder of its own and keeps the user's cache untouched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The loop's clock moves where the toy target says that something takes time, and nowhere else."""
    time = Time()
    for module in (clock_module, decode, bench):
        monkeypatch.setattr(module, "perf_counter", time)
    return time


@pytest.fixture(scope="session")
def nano_hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nano(tmp_path_factory.mktemp("nano") / "hybrid.gguf", "hybrid")


@pytest.fixture(scope="session")
def nano_dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nano(tmp_path_factory.mktemp("nano") / "dense.gguf", "dense")


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """A real model by the beginning of its file name; skips with the reason where there is none."""

    def find(start: str) -> Path:
        folder = os.environ.get("SPECDEC_TEST_MODELS")
        if not folder:
            pytest.skip("SPECDEC_TEST_MODELS names no folder with real models")
        found = sorted(Path(folder).glob(f"{start}*.gguf"))
        if not found:
            pytest.skip(f"{folder} has no {start}*.gguf")
        return found[0]

    return find


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the program of a stand-in for llama-server (fake_server.py) and returns its path."""

    server = Path(__file__).with_name("fake_server.py")

    def make(mode: str = "") -> str:
        monkeypatch.setenv("FAKE_SERVER_MODE", mode)
        program = tmp_path / f"llama-server-{mode or 'well'}"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {server} "$@"\n')
        program.chmod(0o755)
        return str(program)

    return make


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command line; (exit code, stdout, stderr)."""

    def specdec(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["specdec", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return specdec
