"""Undoing: the guard on the toy memory, and bit-exactness on real kernels (nano models, CPU)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from specdec.engine import Engine
from specdec.errors import SpecdecError, UnsafeRollback
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.registry import Registry
from specdec.rollback import Mode, Rollback, snapshots_for, snapshots_short_of
from specdec.spec import ModelOptions, make_spec
from specdec.testing.fake import FakeTarget
from specdec.testing.nano import VOCABULARY
from specdec.types import MemoryItem, Prompt, TokenArray


def ids(*tokens: int) -> TokenArray:
    return np.array(tokens, np.int32)


class Driver:
    """Decodes and tells the rollback, as the loop does."""

    def __init__(self, target: FakeTarget | LlamaTarget, mode: Mode) -> None:
        self.target = target
        self.rollback = Rollback(target.memory, mode, lambda i, s: self.target.decode(i, s, "none"))

    def decode(self, tokens: TokenArray) -> np.ndarray:
        start = self.rollback.end
        logits = self.target.decode(tokens, start, "all").copy()
        self.rollback.decoded(start, len(tokens))
        return logits


class TestGuard:
    """What llama.cpp would answer with True and a stale state is refused."""

    context = np.arange(40, dtype=np.int32) % 20

    def driver(self, snapshots: int = 4) -> Driver:
        d = Driver(FakeTarget(recurrent=True, snapshots=snapshots), "snapshots")
        d.decode(self.context[:10])
        return d

    def test_the_toy_has_the_blind_spots(self) -> None:
        """Without the guard the state is stale and nobody says so: single decodes crossed, a whole decode undone."""
        for batches in ([1, 1], [2]):
            d = self.driver()
            for n in batches:
                d.decode(self.context[d.rollback.end : d.rollback.end + n])
            assert d.target.memory.remove_from(10)
            assert d.target.memory.stale

    def test_whole_decode_undone(self) -> None:
        d = self.driver()
        d.decode(self.context[10:13])
        with pytest.raises(UnsafeRollback, match="the last decode had 3 tokens"):
            d.rollback.keep(10, self.context)

    def test_several_single_decodes_crossed(self) -> None:
        d = self.driver()
        for i in range(10, 13):
            d.decode(self.context[i : i + 1])
        with pytest.raises(UnsafeRollback, match="the last decode had 1 tokens"):
            d.rollback.keep(11, self.context)

    def test_two_rollbacks_in_a_row(self) -> None:
        d = self.driver()
        d.decode(self.context[10:15])
        assert d.rollback.keep(14, self.context) == "snapshots"
        with pytest.raises(UnsafeRollback, match="undone already: True"):
            d.rollback.keep(13, self.context)

    def test_more_than_the_snapshots(self) -> None:
        d = self.driver(snapshots=2)
        d.decode(self.context[10:15])
        with pytest.raises(UnsafeRollback, match="2 snapshots"):
            d.rollback.keep(12, self.context)

    def test_a_decode_that_does_not_continue(self) -> None:
        d = self.driver()
        with pytest.raises(UnsafeRollback, match="does not continue"):
            d.rollback.decoded(9, 1)

    def test_more_than_there_is(self) -> None:
        with pytest.raises(UnsafeRollback, match="cannot keep 11"):
            self.driver().rollback.keep(11, self.context)

    def test_safe_after_the_next_decode(self) -> None:
        d = self.driver()
        d.decode(self.context[10:15])
        d.rollback.keep(14, self.context)
        d.decode(self.context[14:17])
        assert d.rollback.keep(15, self.context) == "snapshots"
        assert not d.target.memory.stale


class TestPlanning:
    @pytest.mark.parametrize(
        ("mode", "longest", "asked", "expected"),
        [
            ("auto", 0, None, 0),
            ("auto", 4, None, 4),
            ("auto", 64, None, 0),
            ("auto", 64, 3, 3),
            ("snapshots", 12, None, 12),
            ("checkpoint", 4, None, 0),
            ("checkpoint-host", 4, 7, 0),
        ],
    )
    def test_snapshots(self, mode: Mode, longest: int, asked: int | None, expected: int) -> None:
        assert snapshots_for(mode, longest, True, asked) == expected
        assert snapshots_for("auto", longest, False, asked) == 0

    def test_snapshots_that_do_not_fit_the_memory_left(self) -> None:
        state, mib = [MemoryItem("CUDA0", "recurrent", 63 * 2**20), MemoryItem("CPU", "recurrent", 0)], 2**20
        assert not snapshots_short_of(8, state, {"CUDA0": 1017 * mib, "CPU": 0})
        assert snapshots_short_of(8, state, {"CUDA0": 1015 * mib}) == "CUDA0 has 1,015 MiB left, they take 504"
        assert not snapshots_short_of(0, state, {"CUDA0": 0})
        assert not snapshots_short_of(8, state, {"Vulkan0": 0})

    def test_forced_snapshots_that_cannot_hold_the_draft(self) -> None:
        with pytest.raises(SpecdecError, match="3 snapshots cannot hold drafts of up to 8") as e:
            snapshots_for("snapshots", 8, True, 3)
        assert "--snapshots 8" in e.value.hint

    def test_a_forced_way_on_attention_only(self) -> None:
        with pytest.raises(SpecdecError, match="attention layers only"):
            snapshots_for("checkpoint", 8, False, None)


@pytest.fixture(scope="module")
def hybrid(nano_hybrid: Path) -> LlamaModel:
    return LlamaModel(nano_hybrid, ModelOptions(threads=2))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("mode", "snapshots"),
    [("snapshots", 8), ("checkpoint", 0), ("checkpoint-host", 0), ("auto", 8), ("auto", 3), ("auto", 0)],
)
def test_logits_bit_for_bit_on_the_hybrid(hybrid: LlamaModel, mode: Mode, snapshots: int, seed: int) -> None:
    """Random drafts, random acceptance: every row equals that of a context that never speculated."""
    rng = np.random.default_rng(seed)
    driver = Driver(LlamaTarget(hybrid, 512, snapshots, 16), mode)
    plain = LlamaTarget(hybrid, 512, 0, 16)
    tokens = rng.integers(0, VOCABULARY - 2, 400).astype(np.int32)
    driver.decode(tokens[:16])
    plain.decode(tokens[:16], 0, "last")
    n, ways = 16, set()
    for _ in range(30):
        n_draft = int(rng.integers(0, 9))
        accepted = int(rng.integers(0, n_draft + 1))
        speculated = tokens[n : n + n_draft + 1].copy()
        speculated[accepted + 1 :] += 1  # the rejected part must leave no trace
        driver.rollback.before_pass(n_draft)
        rows = driver.decode(speculated)
        ways.add(driver.rollback.keep(n + 1 + accepted, tokens))
        wanted = plain.decode(tokens[n : n + 1 + accepted], n, "all")
        assert np.array_equal(rows[: accepted + 1], wanted)
        n += accepted + 1
    expected = {("snapshots", 8): {"snapshots"}, ("auto", 8): {"snapshots"}, ("auto", 3): {"snapshots", "checkpoint"}}
    assert ways - {""} == expected.get((mode, snapshots), {"checkpoint"})
    driver.target.close()
    plain.close()


def test_logits_bit_for_bit_on_attention_only(nano_dense: Path) -> None:
    model = LlamaModel(nano_dense, ModelOptions(threads=2))
    driver, plain = Driver(LlamaTarget(model, 512, 0, 8), "auto"), LlamaTarget(model, 512, 0, 8)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY - 2, 60).astype(np.int32)
    n = 0
    for accepted in (0, 3, 6, 2, 0, 5):
        speculated = np.append(tokens[n : n + accepted + 1], [1, 2]).astype(np.int32)
        rows = driver.decode(speculated)
        assert driver.rollback.keep(n + accepted + 1, tokens) == "seq_rm"
        assert np.array_equal(rows[: accepted + 1], plain.decode(tokens[n : n + accepted + 1], n, "all"))
        n += accepted + 1


def test_the_trap_is_real(hybrid: LlamaModel) -> None:
    """llama.cpp says True to a rollback across single decodes and computes something else: why the guard exists."""
    tokens = np.arange(30, dtype=np.int32)
    a, b = LlamaTarget(hybrid, 512, 4, 8), LlamaTarget(hybrid, 512, 0, 8)
    a.decode(tokens[:20], 0, "last")
    for i in range(20, 24):
        a.decode(tokens[i : i + 1], i, "last")
    assert a.memory.remove_from(21)
    b.decode(tokens[:20], 0, "last")
    b.decode(tokens[20:21], 20, "last")
    assert not np.array_equal(a.decode(ids(5), 21, "last"), b.decode(ids(5), 21, "last"))


@pytest.mark.parametrize(("left", "snapshots", "way"), [(10 * 2**30, 3, "snapshots"), (2**20, 0, "checkpoint")])
def test_auto_takes_checkpoints_where_snapshots_do_not_fit(
    nano_hybrid: Path, monkeypatch: pytest.MonkeyPatch, left: int, snapshots: int, way: str
) -> None:
    monkeypatch.setattr("specdec.engine.free_bytes", lambda: {"CPU": left})
    said: list[str] = []
    spec = make_spec(target=str(nano_hybrid), n_predict=24, ignore_eos=True, model={"threads": 1})
    engine = Engine(spec, Registry().plan("mtp(n_max=3)"), said.append)
    prompt = Prompt("p", "w", "completion", "short", text="abc" * 5)
    engine.fit([prompt])
    arm = next(a for a in engine.arms if a.longest_draft)
    _, generation = next(engine.answers(arm, prompt))
    engine.close()
    assert arm.snapshots == snapshots
    assert way in generation.steps.rollback
    assert any("do not fit" in line for line in said) == (not snapshots)
