"""The recordings that come along: a real pair and the demo model. Replayed, they are the live runs that were measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from recording import Quiet

from specdec import store
from specdec.metrics import rows
from specdec.replay import job
from specdec.replay.run import ReplayOptions
from specdec.replay.trace import read_trace

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"
QWEN = REFERENCE / "traces" / "qwen2.5-coder-1.5b.npz"
DEMO = REFERENCE / "traces" / "demo.npz"


def replayed(trace: Path, strategies: str) -> store.Run:
    return store.read_run(job.replay(ReplayOptions(trace=str(trace), strategies=strategies), Path("r"), Quiet()))


def test_a_real_model_s_live_steps_are_replayed_one_for_one() -> None:
    """Where the live text is the recorded one; in one of ten a near-tie flipped (another batch shape)."""
    live = store.read_run(REFERENCE / str(read_trace(QWEN).header["run_id"]))
    done = replayed(QWEN, "ngram")
    theirs = {(s["strategy"], s["prompt"]): s for s in done.samples}
    same = other = accepted = 0
    for s in live.samples:
        if s["warmup"]:
            continue
        got = theirs[s["strategy"], s["prompt"]]
        if got["token_ids"] != s["token_ids"]:
            other += 1
            continue
        same += 1
        accepted += sum(s["steps"]["accepted"])
        assert (got["steps"]["drafted"], got["steps"]["accepted"]) == (s["steps"]["drafted"], s["steps"]["accepted"])
    assert (same, other) == (29, 1)
    assert accepted > 300


def test_recorded_mtp_proposals_get_better_with_confidence_and_longer_with_n_max() -> None:
    done = replayed(DEMO, "mtp(n_max=1),mtp(n_max=4),mtp(n_max=4, p_min=0.9),draft")
    table = {r["strategy"]: r for r in rows(done) if r["workload"] == "all"}
    rate = {name: r["acceptance_rate"] for name, r in table.items()}
    length = {name: r["mean_acceptance_length"] for name, r in table.items()}
    assert rate["mtp(n_max=4, p_min=0.9)"] > rate["mtp(n_max=1)"] > rate["mtp(n_max=4)"] > 0.5
    assert length["mtp(n_max=4)"] > length["mtp(n_max=1)"] > 1.5
    assert table["mtp(n_max=4)"]["memory_bytes"] is None
    assert rate["draft"] > 0.5


def test_margins_are_recorded() -> None:
    trace = read_trace(DEMO)
    assert trace.header["top_k"] == 4
    for turn in trace.turns:
        assert turn.top is not None
        assert (turn.top.margins >= 0).all()
        assert turn.top.ids[:, 0].tolist() == turn.ids[turn.n_prompt :].tolist()


@pytest.mark.parametrize("path", [QWEN, DEMO], ids=lambda p: p.stem)
def test_they_are_small(path: Path) -> None:
    assert path.stat().st_size < 100_000
