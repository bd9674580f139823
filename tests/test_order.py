"""The order of cells: balanced, complete, the same every time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from specdec.arms import Arm
from specdec.registry import Registry
from specdec.runner.order import Cell, order, williams
from specdec.types import Prompt


def arms(n: int, engine: str = "specdec") -> list[Arm]:
    text = ",".join(f"ngram-simple(size_m={i})" for i in range(1, n))
    planned = Registry().plan(text) if n > 1 else Registry().plan("none")
    return [Arm(p, "auto", 1, 0, engine=engine) for p in planned]


def prompts(n: int) -> list[Prompt]:
    return [Prompt(f"p{i}", "w", "completion", "short", text="x") for i in range(n)]


@pytest.mark.parametrize("n", range(1, 12))
def test_williams_rows_balance_places_and_predecessors(n: int) -> None:
    rows = williams(n)
    assert all(sorted(row) == list(range(n)) for row in rows)
    for block in range(0, len(rows), n):
        for place in range(n):
            assert sorted(row[place] for row in rows[block : block + n]) == list(range(n))
    follows = Counter((a, b) for row in rows for a, b in pairwise(row))
    if n > 1:
        assert len(follows) == n * (n - 1)
        assert len(set(follows.values())) == 1


@pytest.mark.parametrize(("n", "repeats", "launches"), [(2, 1, 1), (3, 2, 2), (4, 3, 1), (5, 1, 3)])
def test_every_arm_is_equally_often_in_each_place(n: int, repeats: int, launches: int) -> None:
    own = arms(n)
    cells = [c for c in order(own, prompts(2 * n), repeats, 1, launches) if not c.warmup]
    assert len({c.key for c in cells}) == len(cells) == n * 2 * n * repeats * launches
    places = Counter((cells[i + k].arm.key, k) for i in range(0, len(cells), n) for k in range(n))
    assert set(places.values()) == {2 * repeats * launches}
    assert all(len({c.prompt.id for c in cells[i : i + n]}) == 1 for i in range(0, len(cells), n)), "within a prompt"


def test_repeats_are_nested_in_prompts_and_warm_ups_come_first_in_each_launch() -> None:
    cells = list(order(arms(3), prompts(2), 2, 1, launches=2))
    assert [c.launch for c in cells] == [0] * 15 + [1] * 15
    first = cells[:15]
    assert [c.warmup for c in first] == [True] * 3 + [False] * 12
    assert [(c.prompt.id, c.repeat) for c in first[3::3]] == [("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1)]
    assert [c.arm for c in cells[3:6]] != [c.arm for c in cells[18:21]], "a prompt's order changes with the launch"


def test_engines_take_turns_and_hold_their_model_alone() -> None:
    both = [*arms(2), *(replace(a, engine="other") for a in arms(2))]
    cells = list(order(both, prompts(3), 1, 0, launches=2))

    def blocks(launch: int) -> list[str]:
        engines = [c.arm.engine for c in cells if c.launch == launch]
        return [e for i, e in enumerate(engines) if not i or engines[i - 1] != e]

    assert (blocks(0), blocks(1)) == (["specdec", "other"], ["other", "specdec"])


def test_a_key_names_a_cell_across_processes() -> None:
    (arm,), (prompt,) = arms(1), prompts(1)
    assert Cell(arm, prompt, 1, 2).key == ("specdec", "none", "auto", "p0", 1, 2, False)
