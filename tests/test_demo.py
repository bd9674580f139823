"""The demo models: what PyTorch says of the same weights, real acceptance, size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from specdec.conversation import seeded
from specdec.decode import Decoder
from specdec.demo import FILES, WORKLOADS
from specdec.engine import Engine
from specdec.llama.gguf import read_header
from specdec.llama.model import LlamaModel
from specdec.llama.target import LlamaTarget
from specdec.llama.vocab import match_vocabularies
from specdec.models import model_path
from specdec.registry import Registry
from specdec.spec import ModelOptions, make_spec
from specdec.strategy import Services
from specdec.types import Generation, Limits, Prompt, Sampling
from specdec.workloads import load_prompts, select

ROOT = Path(__file__).resolve().parent.parent
PARITY = ROOT / "tools" / "demo_model" / "parity.npz"


@pytest.fixture(scope="module")
def demo() -> LlamaModel:
    return LlamaModel(model_path("demo"), ModelOptions(threads=2), mtp=True)


def test_files_are_small_and_what_they_say() -> None:
    sizes = {name: model_path(name).stat().st_size for name in FILES}
    assert sizes["demo"] <= 20e6
    assert sizes["demo-draft"] <= 3e6
    assert sizes["demo-other"] <= 2e6
    header = read_header(model_path("demo"))
    assert (header.architecture, header.nextn_layers) == ("qwen35moe", 1)
    assert header.get("block_count") - header.nextn_layers >= 8
    assert header.get("expert_count") >= 16
    assert header.get("context_length") >= 4096


def test_vocabularies() -> None:
    assert match_vocabularies(model_path("demo"), model_path("demo-draft")).compatible
    assert not match_vocabularies(model_path("demo"), model_path("demo-other")).compatible


@pytest.mark.parametrize("kind", sorted({k.split("/")[0] for k in np.load(PARITY).files}))
def test_trunk_logits_are_pytorchs(demo: LlamaModel, kind: str) -> None:
    """Against PyTorch in float32 on the dequantised weights; llama.cpp rounds activations to 8 bits here."""
    reference = np.load(PARITY)
    ids, top, logits = (reference[f"{kind}/{k}"] for k in ("ids", "0/top", "0/logits"))
    target = LlamaTarget(demo, 512, longest_draft=len(ids))
    rows = target.decode(ids.astype(np.int32), 0, "all")
    n = min(len(rows), len(top))
    assert (rows[:n].argmax(axis=1) == top[:n, 0]).mean() >= 0.97
    difference = np.abs(np.take_along_axis(rows[:n], top[:n].astype(np.int64), axis=1) - logits[:n])
    assert difference.mean() < 0.05
    target.close()


def generations(demo: LlamaModel, text: str, workload: str, sampling: Sampling, n: int = 4) -> list[Generation]:
    strategy = Registry().plan(text, {"draft": {"model": "demo-draft"}})[-1].build()
    longest = strategy.longest_draft
    target = LlamaTarget(demo, 1024, longest if longest <= 8 else 0, longest, hidden="hidden_states" in strategy.needs)
    strategy.open(Services(target.n_vocab, 1024, target.width, 2, sampling, demo))
    decoder = Decoder(target, strategy)
    out = []
    for prompt in select(load_prompts(), (workload,), n):
        strategy.reset()
        decoder.clear()
        out.append(decoder.generate(demo.tokenize(prompt.text), Limits(96, ignore_eos=True), sampling))
    strategy.close()
    target.close()
    return out


def acceptance(answers: list[Generation], position: int) -> float:
    drafted = np.array([d for g in answers for d in g.steps.drafted])
    accepted = np.array([a for g in answers for a in g.steps.accepted])
    return float((accepted >= position).sum() / (drafted >= position).sum())


@pytest.mark.parametrize(("strategy", "floors"), [("mtp", (0.6, 0.4, 0.25)), ("draft", (0.5,))])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, seed=1)])
def test_real_acceptance_on_code(
    demo: LlamaModel, strategy: str, floors: tuple[float, ...], sampling: Sampling
) -> None:
    answers = generations(demo, strategy, "demo-code", sampling, n=6)
    for position, floor in enumerate(floors, 1):
        assert acceptance(answers, position) >= floor - (0.1 if sampling.temperature else 0.0)


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("strategy", ["mtp", "draft", "ngram-simple", "cascade(ngram-mod, mtp)"])
def test_greedy_text_is_that_of_plain_decoding_up_to_near_ties(demo: LlamaModel, strategy: str, workload: str) -> None:
    plain, drafted = (generations(demo, s, workload, Sampling(), n=3) for s in ("none", strategy))
    prompts = select(load_prompts(), (workload,), 3)
    for prompt, a, b in zip(prompts, plain, drafted, strict=True):
        differing = [i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=True)) if x != y]
        if differing:  # batch shapes round differently: then the two tokens must be nearly equally likely
            assert margin(demo, prompt, a, differing[0], b.token_ids[differing[0]]) < 0.5


def margin(demo: LlamaModel, prompt: Prompt, a: Generation, at: int, other: int) -> float:
    """How far both tokens are from the best one where two texts part, as a third batch shape sees it."""
    target = LlamaTarget(demo, 1024)
    ids = np.append(demo.tokenize(prompt.text), a.token_ids[:at]).astype(np.int32)
    row = target.decode(ids, 0, "last")[0].copy()
    target.close()
    return float(row.max() - min(row[a.token_ids[at]], row[other]))


def test_every_prompt_and_turn_draws_its_own_numbers() -> None:
    spec = make_spec(target="demo", sampling={"temp": 0.8}, strategies="none")
    engine = Engine(spec, Registry().plan("none"), lambda line: None)
    prompts = select(load_prompts(), ("translate", "multi-turn"), None)
    seeds = {seeded(engine.sampling, p, turn).seed for p in prompts for turn in range(p.turns)}
    assert len(seeds) == sum(p.turns for p in prompts)
    engine.close()


def test_compare_without_a_target_runs_the_demo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from specdec.cli import main

    arguments = ["compare", "--strategies", "mtp,ngram,draft", "--limit", "1", "--n-predict", "32", "--warmup", "0"]
    monkeypatch.setattr(sys, "argv", ["specdec", *arguments])
    with pytest.raises(SystemExit) as e:
        main()
    assert not e.value.code
    out, err = capsys.readouterr()
    assert "Target: the demo model that comes with specdec" in err
    for word in ("mtp", "draft", "ngram-mod", *WORKLOADS):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--strategies", "draft", "--draft", "demo-other"],
            "draft: vocabularies differ: target 8192 tokens, draft 4096",
        ),
        (
            ["--strategies", "mtp(n_max=4)", "--rollback", "snapshots", "--snapshots", "2"],
            "2 snapshots cannot hold drafts",
        ),
        (["--strategies", "draft", "--ctx-size", "8192"], "exceeds the draft model's"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    import sys

    from specdec.cli import main

    monkeypatch.setattr(sys, "argv", ["specdec", "compare", "--limit", "1", "--n-predict", "8", *arguments])
    with pytest.raises(SystemExit) as e:
        main()
    assert e.value.code == 2
    assert message in capsys.readouterr().err


def test_the_real_pair_agrees(real_model: Callable[[str], Path]) -> None:
    assert match_vocabularies(real_model("qwen2.5-coder-1.5b"), real_model("qwen2.5-coder-0.5b")).compatible
