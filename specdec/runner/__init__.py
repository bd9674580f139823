"""Runs comparisons: cells in a balanced order, served by worker processes, stored one by one.

``plan`` checks and lays out, ``order`` says what comes when, ``supervise`` hands cells to a worker process, ``workers``
starts and replaces it, ``process`` is one seen from outside, ``worker`` and ``guard`` are its inside. The process that
calls these functions never loads llama.cpp: whatever happens in there costs a cell.
"""

from specdec.runner.order import Cell, CellKey
from specdec.runner.plan import Observer, Plan, prepare
from specdec.runner.run import compare, estimate_seconds, resume
from specdec.runner.turns import compare_in_turns, resume_in_turns

__all__ = [
    "Cell",
    "CellKey",
    "Observer",
    "Plan",
    "compare",
    "compare_in_turns",
    "estimate_seconds",
    "prepare",
    "resume",
    "resume_in_turns",
]
