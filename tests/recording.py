"""What tests of recordings share: prompts, how a nano model is loaded, an observer that keeps still."""

from __future__ import annotations

from typing import Any

PROMPTS = [
    {"id": "one", "workload": "w", "text": "abc abc abc abc abc abc abc"},
    {"id": "two", "workload": "w", "text": "to be or not to be or not to be"},
    {
        "id": "talk",
        "workload": "v",
        "messages": [{"role": "user", "content": "hello hello"}, {"role": "user", "content": "again again"}],
    },
]
MODEL = {"threads": 1, "gpu_layers": 0, "device": "none"}


class Quiet:
    """An observer of runs and replays that keeps still."""

    def announce(self, line: str) -> None: ...

    def start(self, total: int, done: int, pauses_s: float = 0.0) -> None: ...

    def cell(self, *_: Any) -> None: ...

    def setting(self, label: str) -> None: ...
