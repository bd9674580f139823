"""What is shown of a profile: tables, page, the steps of its curve."""

from __future__ import annotations

import copy

import orjson
import pytest
from page import check_page
from timed import (
    DEPTHS,
    Time,
    measured,
)

from specdec.errors import SpecdecError
from specdec.profile import plan
from specdec.profile.jumps import jumps, sentences
from specdec.profile.stored import Profile
from specdec.report import profile as tables
from specdec.report.experts import uniform_law
from specdec.report.html import write
from specdec.types import PHASES


def test_tables_hold_the_figures(clock: Time) -> None:
    profile = measured(clock, True)
    text = tables.as_text(profile.run)
    row = next(line.split() for line in text.splitlines() if line.startswith("5 "))
    assert row[1] == "29.00"
    assert "Best speedup possible" in text
    assert "break-even AL" in text


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_page_holds_the_figures(clock: Time, recurrent: bool) -> None:
    profile = measured(clock, recurrent)
    drawn = write.of_profile(profile.run)
    page = check_page(drawn.render())
    assert {"curve", "break-even", "drafting", "rollback", "notes"} <= {a["id"] for a in page.all("section")}
    alts = " ".join(str(a["aria-label"]) for a in page.all("div") if a.get("role") == "img")
    assert "T(5) = 29 ms" in alts
    assert "C(5) = 2.42" in alts
    for name in ("curve", "break-even", "drafting", "rollback"):
        assert drawn.picture(name, "png").startswith(b"\x89PNG")
    with pytest.raises(SpecdecError, match="nothing to show in the picture prompts"):
        drawn.picture("prompts", "svg")


def test_a_profile_that_was_cut_off_is_read(clock: Time) -> None:
    """A strategy was measured at the first depth only."""
    run = copy.deepcopy(measured(clock, True).run)
    last = Profile(run).strategies[-1]
    run.samples[:] = [s for s in run.samples if (s.get("strategy"), s.get("depth")) != (last, DEPTHS[1])]
    cut = Profile(run)
    assert list(cut.drafting(last)[1]) == [DEPTHS[0]]
    assert "Drafting, ms a step" in tables.as_text(run)
    check_page(write.of_profile(run).render())


def _with_curve(profile: Profile, milliseconds: dict[int, float], wobble: float) -> Profile:
    """The same, where plain passes over n tokens take so long, more or less by ``wobble``."""
    run = copy.deepcopy(profile.run)
    lengths = sorted(milliseconds)
    steps = [s for s in run.samples if s["kind"] == "steps" and (s["strategy"], s["snapshots"]) == (plan.TEXT, 0)]
    run.samples[:] = [s for s in run.samples if s not in steps]
    for first in (s for s in steps if s["series"] == "constant" and s["round"] == 0):
        drafted = [n - 1 for n in lengths for _ in range(9)]
        took = [milliseconds[n] * 1e3 * (1 + wobble * (i - 4) / 4) for n in lengths for i in range(9)]
        phases = {p: [0.0] * len(drafted) for p in PHASES} | {"verify": took}
        body = {"drafted": drafted, "accepted": [0] * len(drafted), "counted": [True] * len(drafted)}
        run.samples.append({**first, **body, "start": [first["start"][0]] * len(drafted), "phase_us": phases})
    return Profile(run)


@pytest.mark.parametrize(
    ("curve", "wobble", "said"),
    [
        (
            {1: 10, 2: 15, 31: 160, 32: 500},
            0.0,
            ["A pass of 32 tokens takes 3.1 times one of 31 (500.0 and 160.0 ms, 32 tokens deep; 3.1 times at 128)"],
        ),
        ({1: 10, 2: 15, 31: 160, 32: 100}, 0.0, ["a draft of 31 tokens is cheaper than one of 30."]),
        (
            {1: 10, 2: 15, 16: 90, 33: 490},
            0.0,
            ["somewhere between lies a step. See where: --lengths 16,18,20,22,24,26,28,30,32,33."],
        ),
        ({1: 10, 2: 20, 16: 160, 33: 330}, 0.0, []),
        ({1: 10, 2: 15, 31: 160, 32: 500}, 0.9, []),
        ({1: 10, 2: 15, 31: 160, 32: 100}, 0.5, []),
        ({1: 10, 2: 15, 31: 160, 32: 150}, 0.0, []),
    ],
)
def test_steps_of_the_curve_are_told(clock: Time, curve: dict[int, float], wobble: float, said: list[str]) -> None:
    profile = _with_curve(measured(clock, False), curve, wobble)
    lines = sentences(jumps(profile))
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))
    assert [line in tables.as_text(profile.run) for line in lines] == [True] * len(lines)
    page = write.of_profile(profile.run).render()
    assert ("Steps of the cost curve" in page) == bool(said)
    assert len(orjson.loads(tables.as_json(profile.run))["jumps"]) == len(said) * len(DEPTHS)


def test_uniform_law() -> None:
    assert uniform_law(256, 8, 1) == pytest.approx(8)
    assert uniform_law(256, 8, 2) == pytest.approx(15.75)
    assert uniform_law(16, 4, 1000) == pytest.approx(16)
