"""How long a generation may take before it counts as hung."""

from __future__ import annotations

from typing import Any

from specdec.arms import ArmKey

OPEN_S = 900.0
"""For opening one strategy, which may load a model."""

_FACTOR = 20.0
_LEAST_S = 60.0
_UNKNOWN_S = 600.0
_SLOWEST_S = 1.0
"""Seconds a token before anything is measured: no machine on which this would be too short is worth waiting for."""


class TimeLimits:
    """Limits from what the run itself has measured.

    Args:
        asked: ``--cell-timeout`` in seconds, for every generation and for opening a strategy; 0 for automatic: 20
            times what the arm's slowest generation so far lets expect (or any arm's, while this one has none), and
            at least a minute. Before the first generation of all, ten minutes and a second for each token.
    """

    def __init__(self, asked: float = 0.0) -> None:
        self._asked = asked
        self._prompt_s: dict[ArmKey, float] = {}
        self._token_s: dict[ArmKey, float] = {}

    def measured(self, key: ArmKey, sample: dict[str, Any]) -> None:
        """Learn from a generation: seconds per token of the prompt and of the answer, the slowest count."""
        decoded = max(1, sample["n_prompt"] - sample["n_reused"])
        self._prompt_s[key] = max(self._prompt_s.get(key, 0.0), sample["ttft_s"] / decoded)
        per_token = sample["generation_s"] / max(1, len(sample["token_ids"]) - 1)
        self._token_s[key] = max(self._token_s.get(key, 0.0), per_token)

    def generation(self, key: ArmKey, n_prompt: int, n_predict: int) -> float:
        """Seconds for one generation of up to ``n_predict`` tokens after ``n_prompt``."""
        if self._asked:
            return self._asked
        if not self._token_s:
            return _UNKNOWN_S + _SLOWEST_S * (n_prompt + n_predict)
        prompt_s = self._prompt_s.get(key) or max(self._prompt_s.values())
        token_s = self._token_s.get(key) or max(self._token_s.values())
        return max(_LEAST_S, _FACTOR * (n_prompt * prompt_s + n_predict * token_s))

    def opening(self) -> float:
        """Seconds for making a context and opening a strategy."""
        return self._asked or OPEN_S

    @staticmethod
    def loading(n_bytes: int) -> float:
        """Seconds for starting a process and loading a file of this size: at least 10 MB/s."""
        return OPEN_S + n_bytes / 10e6
