"""The documentation check has teeth."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

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
