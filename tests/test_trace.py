"""Traces on disk: what is written is read, small; what is damaged is refused in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from specdec.errors import SpecdecError
from specdec.replay import trace as module
from specdec.replay.trace import Proposals, TopK, Trace, read_trace, write_trace
from specdec.testing.traces import trace_of, turn_of


def sample() -> Trace:
    """A conversation of two turns, the second holding the first, and a prompt with all that can be recorded."""
    rng = np.random.default_rng(0)
    first = turn_of(rng.integers(0, 1000, 50), 30, "talk")
    second = turn_of(np.concatenate([first.ids, rng.integers(0, 1000, 40)]), 70, "talk", stop="end-of-text")
    other = turn_of(rng.integers(0, 1000, 33), 20, "other", "code", "stop-string")
    turns = [first, dataclasses.replace(second, index=1, n_reused=50), other]
    return trace_of([_with_all(t, rng) for t in turns], 20, 1000)


def _with_all(turn: module.Turn, rng: np.random.Generator) -> module.Turn:
    n = turn.n_output
    half = rng.standard_normal((n, 3)).astype(np.float16)
    top = TopK(rng.integers(0, 9, (n, 3)).astype(np.int32), half, half[:, 0].copy(), half[:, 1].copy())
    probs = rng.random((n, 4)).astype(np.float32)
    said = Proposals(rng.integers(0, 9, (n, 4)).astype(np.int32), probs, rng.integers(0, 5, n).astype(np.uint8))
    return dataclasses.replace(turn, top=top, proposals={"mtp": said}, prefill_s=0.5, generation_s=1.5)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = sample()
    made.header["drafters"] = {"mtp": {"depth": 4, "options": {}}}
    write_trace(tmp_path / "t.npz", made)
    got = read_trace(tmp_path / "t.npz")
    assert got.n_tokens == made.n_tokens == 53
    assert got.drafters == {"mtp": {"depth": 4, "options": {}}}
    for a, b in zip(made.turns, got.turns, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        plain = ("prompt", "workload", "index", "n_prompt", "stop", "n_reused", "prefill_s", "generation_s")
        assert [getattr(a, k) for k in plain] == [getattr(b, k) for k in plain]
        assert not b.ids.flags.writeable
        for field in dataclasses.fields(TopK):
            assert np.array_equal(getattr(a.top, field.name), getattr(b.top, field.name))
        for field in dataclasses.fields(Proposals):
            assert np.array_equal(getattr(a.proposals["mtp"], field.name), getattr(b.proposals["mtp"], field.name))


def test_a_conversation_stores_each_token_once(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.npz", sample())
    with np.load(tmp_path / "t.npz") as file:
        assert len(file["tokens"]) == 50 + 40 + 33


def test_the_hash_does_not_depend_on_when_it_was_written(tmp_path: Path) -> None:
    assert write_trace(tmp_path / "a.npz", sample()) == write_trace(tmp_path / "b.npz", sample())


def test_a_million_tokens_stay_under_20_mb(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 248_320, 1_000_000)
    turns = [turn_of(tokens[i : i + 100_000], 1000, f"p{i}") for i in range(0, len(tokens), 100_000)]
    write_trace(tmp_path / "t.npz", trace_of(turns, 100_000, 248_320))
    assert (tmp_path / "t.npz").stat().st_size < 4_000_000


def damaged(path: Path, how: str) -> None:
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-200])
        return
    if how == "text":
        path.write_text("hello")
        return
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    if how == "token":
        arrays["tokens"][3] += 1
    if how == "other":
        arrays = {"x": np.arange(3)}
    if how == "version":
        raw = arrays["header"].tobytes().replace(b'"version":1', b'"version":9')
        arrays["header"] = np.frombuffer(raw, np.uint8)
    np.savez(path.open("wb"), **arrays)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("torn", "is not a trace, or damaged"),
        ("text", "is not a trace"),
        ("token", "does not match its hash"),
        ("other", "is not a trace"),
        ("version", "written in version 9"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, how: str, said: str) -> None:
    write_trace(tmp_path / "t.npz", sample())
    damaged(tmp_path / "t.npz", how)
    with pytest.raises(SpecdecError, match=said) as error:
        read_trace(tmp_path / "t.npz")
    assert "\n" not in str(error.value)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SpecdecError, match="specdec record"):
        read_trace(tmp_path / "none.npz")
