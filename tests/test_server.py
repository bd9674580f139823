"""The engine llama-server: against a stand-in (fake_server.py), and the real one where SPECDEC_LLAMA_SERVER names it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import alive_after

from specdec.arms import Arm
from specdec.errors import BrokenGeneration, SpecdecError
from specdec.registry import Registry
from specdec.server.answers import check_answer, count_passes
from specdec.server.client import Completion, Counters, sampling_fields
from specdec.server.engine import ServerEngine
from specdec.server.options import NoCounterpart, model_arguments, strategy_arguments
from specdec.server.process import Server, find_binary
from specdec.spec import ModelOptions, make_spec
from specdec.types import Limits, Message, Prompt, Sampling, ServedGeneration

PROMPT = Prompt("p", "w", "completion", "short", text="def add(a, b):")
REAL = os.environ.get("SPECDEC_LLAMA_SERVER")


@pytest.fixture
def engines() -> Any:
    """Makes engines on the demo target, and closes them."""
    made: list[ServerEngine] = []

    def make(binary: str, strategies: str = "none", said: list[str] | None = None, **spec: Any) -> ServerEngine:
        run = make_spec(target="demo", strategies=strategies, n_predict=8, llama_server=binary, **spec)
        planned = Registry().plan(strategies, {"draft": {"model": "demo-draft"}})
        say = said.append if said is not None else lambda _: None
        made.append(ServerEngine(run, planned, say, Path("logs")))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def answer(engine: ServerEngine, arm: Arm | None = None) -> ServedGeneration:
    return next(iter(engine.answers(arm or engine.arms[-1], PROMPT)))[1]


def test_answers_come_in_specdecs_words(fake: Any, engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "17")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy for the web is none for this machine's server
    engine = engines(fake(), "ngram-simple")
    lengths = engine.fit([PROMPT])
    assert [a.planned.label for a in engine.arms] == ["none", "ngram-simple"]
    plain, drafted = answer(engine, engine.arms[0]), answer(engine)
    assert plain.n_prompt == lengths["p"]
    assert (plain.stop, plain.generation_s, plain.prefill_s) == ("length", 0.08, 0.0125)
    assert (plain.drafted, plain.accepted, plain.target_passes, plain.n_drafting) == (0, 0, 7, 0)
    assert (drafted.drafted, drafted.accepted, drafted.target_passes, drafted.n_drafting, drafted.cut) == (
        6,
        4,
        3,
        2,
        0,
    )
    assert drafted.steps is drafted.phase_s is drafted.memory is None
    log = next(Path("logs").glob("*simple*")).read_text()
    arguments = json.loads(log.split("arguments: ")[1].split("]")[0] + "]")
    assert arguments[arguments.index("--parallel") + 1] == "1"
    assert arguments[arguments.index("--spec-ngram-simple-size-m") + 1] == "48"
    assert "] False" in log, "settings in the environment must not reach it"
    asked = json.loads(log.split("asked: ")[1].splitlines()[0])
    assert (asked["cache_prompt"], asked["samplers"], asked["n_predict"]) == (False, ["top_k"], 8)


def test_one_line_for_each_way_of_missing(fake: Any, engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("SPECDEC_LLAMA_SERVER", raising=False)
    with pytest.raises(SpecdecError, match=r"llama-server is not found\. Give --llama-server PATH, set"):
        find_binary()
    with pytest.raises(SpecdecError, match="--llama-server /no/such: there is no such program"):
        find_binary("/no/such")
    monkeypatch.undo()


def test_too_old_or_no_llama_server(fake: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecdecError, match=r"1234 \(abcdef0\)\) has no --spec-type: it is too old"):
        find_binary(fake("old"))
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)
    with pytest.raises(SpecdecError, match="does not tell a version"):
        find_binary(str(other))


def test_what_it_lacks_is_left_out_and_said(fake: Any, engines: Any) -> None:
    said: list[str] = []
    engine = engines(fake("no-mod"), "ngram,mtp,draft(sample=true),cascade(ngram-mod, ngram-simple)", said)
    assert [a.planned.label for a in engine.arms] == ["none", "ngram-simple"]
    text = "\n".join(said)
    assert "ngram-mod is left out" in text
    assert "has no option --spec-ngram-mod-n-match" in text
    assert "mtp is left out: version 1234 (abcdef0) has no --spec-type draft-mtp" in text
    assert "draft(sample=true) is left out: llama-server has no option like sample=True" in text
    assert "cascade(ngram-mod, ngram-simple) is left out: llama-server has no such strategy" in text


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        ("dies", r"llama-server ended with 3: GGML_ASSERT\(n > 0\) failed Its log: logs/"),
        ("malformed", "answer cannot be read"),
        ("liar", "8 tokens came, it counts 9"),
    ],
)
def test_a_bad_answer_is_one_line_and_the_next_one_is_asked_anew(fake: Any, engines: Any, mode: str, what: str) -> None:
    engine = engines(fake(mode))
    engine.fit([PROMPT])
    engine.ready(engine.arms[0])
    first = engine._pool.residents["none"].server.pid
    with pytest.raises(SpecdecError, match=what):
        answer(engine)
    engine.discard(engine.arms[0])
    with pytest.raises(SpecdecError, match=what):
        answer(engine)
    assert engine._pool.residents["none"].server.pid != first


def test_start_is_waited_for_and_given_up(fake: Any, tmp_path: Path) -> None:
    server = Server(find_binary(fake("slow")), ["--model", "x"], tmp_path / "log")
    assert server.start_s > 0.9
    assert server.running
    server.close()
    assert not psutil.pid_exists(server.pid)
    with pytest.raises(SpecdecError, match="was not ready within 1 s"):
        Server(find_binary(fake("never")), ["--model", "x"], tmp_path / "log", timeout_s=1.0)
    with pytest.raises(SpecdecError, match="llama-server ended with 1: error: failed to load model 'x'"):
        Server(find_binary(fake("starts-badly")), ["--model", "x"], tmp_path / "log")
    with pytest.raises(SpecdecError, match="has no option --no-such"):
        Server(find_binary(fake("slow")), ["--no-such", "1"], tmp_path / "log")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its killed parent")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_way_to_die_leaves_a_server_behind(fake: Any, how: signal.Signals) -> None:
    code = f"""
        import sys, time
        from pathlib import Path
        from specdec.server.process import Server, find_binary
        server = Server(find_binary({fake()!r}), ["--model", "x"], Path("log"))
        print(server.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(how)
        parent.wait()
    assert not alive_after([child])


def test_a_learning_strategy_starts_fresh_unless_state_is_carried(fake: Any, engines: Any) -> None:
    for carry in (False, True):
        engine = engines(fake(), "ngram-mod", carry_state=carry)
        engine.fit([PROMPT])
        pids = []
        for _ in range(3):
            answer(engine)
            pids.append(engine._pool.residents["ngram-mod"].server.pid)
        assert len(set(pids)) == (1 if carry else 3)


def test_where_memory_lacks_servers_take_turns(fake: Any, engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    engine = engines(fake(), "ngram-simple", said)
    monkeypatch.setattr("specdec.server.pool.Pool._fits_another", lambda _: False)
    engine.fit([PROMPT])
    for arm in [*engine.arms, *engine.arms]:
        answer(engine, arm)
        assert len(engine._pool.residents) == 1
    assert sum("1 configurations fit in memory" in line for line in said) == 1


def test_strategies_in_llama_servers_words() -> None:
    def words(text: str) -> list[str]:
        plan = Registry().plan(text, {"draft": {"model": "d.gguf"}})[-1]
        return strategy_arguments(plan, ModelOptions(cache_type_k="q8_0"), 4)

    assert words("none") == []
    mod = "--spec-type ngram-mod --spec-ngram-mod-n-match 16 --spec-ngram-mod-n-min 2 --spec-ngram-mod-n-max 64"
    assert words("ngram-mod(n_match=16, n_min=2)") == mod.split()
    mtp = "--spec-type draft-mtp --spec-draft-n-max 2 --spec-draft-n-min 0 --spec-draft-p-min 0.5"
    assert words("mtp(n_max=2, p_min=0.5)") == [
        *mtp.split(),
        "--spec-draft-type-k",
        "q8_0",
        "--spec-draft-type-v",
        "f16",
    ]
    draft = words("draft(gpu_layers=3)")
    assert draft[:4] == ["--spec-type", "draft-simple", "--spec-draft-model", "d.gguf"]
    assert " ".join(draft[-10:]) == (
        "--spec-draft-ngl 3 --spec-draft-threads 4 --spec-draft-threads-batch 4 --spec-draft-type-k f16"
        " --spec-draft-type-v f16"
    )
    for impossible in (
        "ngram-mod(table_size=2048)",
        "draft(translate=true)",
        "draft(feed=singly)",
        "mtp(ubatch_size=32)",
    ):
        with pytest.raises(NoCounterpart):
            words(impossible)
    options = ModelOptions(n_cpu_moe=3, op_offload=False, main_gpu=1, load_mode="none", device="CUDA0")
    line = " ".join(model_arguments("m.gguf", options, 512, 2))
    for part in (
        "--n-cpu-moe 3",
        "--no-op-offload",
        "--main-gpu 1 --split-mode none",
        "--load-mode none",
        "--device CUDA0",
    ):
        assert part in line


@pytest.mark.parametrize(("mode", "total"), [("", None), ("tells", (17.5 + 2) * 2**20)])
def test_memory_is_what_its_log_tells(fake: Any, engines: Any, mode: str, total: float | None) -> None:
    engine = engines(fake(mode), "ngram-simple")
    engine.fit([PROMPT])
    for arm in engine.arms:
        items = engine.allocated(arm)
        assert (items and sum(i.bytes for i in items)) == total
    held = engine.held()
    assert (held and sum(i.bytes for i in held)) == (total and 2 * total), "both servers run"


def test_sampling_has_our_filters_in_our_order_and_no_others() -> None:
    assert sampling_fields(Sampling()) == {"samplers": ["top_k"], "top_k": 1, "temperature": 0.0}
    fields = sampling_fields(Sampling(0.8, top_p=0.9, min_p=0.1, seed=2**63))
    assert fields["samplers"] == ["top_p", "min_p", "temperature"]
    assert 0 <= fields["seed"] < 2**31


def completion(n: int = 8, stop: str = "limit", drafted: int = 6, accepted: int = 4, **more: Any) -> Completion:
    timings = {"prompt_n": 5, "prompt_ms": 1.0, "predicted_n": n, "predicted_ms": 2.0}
    timings |= {"draft_n": drafted, "draft_n_accepted": accepted}
    fields = {"content": "", "tokens": [7] * n, "tokens_predicted": n, "stop_type": stop, "timings": timings}
    return Completion.model_validate(fields | more)


def test_passes_are_counted_or_unknown_never_guessed() -> None:
    def counters(n: int) -> Counters:
        return Counters(n_decode_total=n, spec_decode_num_drafts_total=0)

    assert count_passes(completion(), None, None, 1, 3) == 3
    assert count_passes(completion(stop="eos", drafted=0, accepted=0), None, None, 1, 3) == 7
    assert count_passes(completion(stop="eos"), None, None, 1, 3) is None
    assert count_passes(completion(stop="eos"), counters(10), counters(16), 1, 3) == 5, "two tokens were cut"
    assert count_passes(completion(stop="eos"), counters(10), counters(30), 1, 3) is None, "more than a draft was cut?"


@pytest.mark.parametrize(
    "bad",
    [{"truncated": True}, {"tokens_predicted": 9}, {"stop_type": "eos"}, {"stop_type": "none"}, {"tokens": [], "n": 0}],
)
def test_contradictions_are_refused(bad: dict[str, Any]) -> None:
    check_answer(completion(), 5, Limits(8), frozenset({2}))
    with pytest.raises(BrokenGeneration):
        check_answer(completion(**{k: v for k, v in bad.items() if k != "n"}), 5, Limits(8), frozenset({2}))
    with pytest.raises(BrokenGeneration):
        check_answer(completion(), 6, Limits(8), frozenset({2}))
    with pytest.raises(BrokenGeneration):
        check_answer(completion(), 5, Limits(9), frozenset({2}))


@pytest.mark.skipif(not REAL, reason="SPECDEC_LLAMA_SERVER names no llama-server")
def test_the_real_server_says_what_specdec_says(engines: Any) -> None:
    from specdec.engine import Engine

    strategies = "ngram-simple(size_n=4),ngram-mod(n_match=6, n_min=2),mtp,draft"
    theirs = engines(REAL, strategies, draft="demo-draft", stop=("\n\n",))
    spec = make_spec(target="demo", strategies=strategies, n_predict=64, draft="demo-draft")
    theirs._spec = spec
    planned = Registry().plan(strategies, {"draft": {"model": "demo-draft"}})
    ours = Engine(spec, planned, lambda _: None)
    talk = Prompt("t", "w", "chat", "multi-turn", (Message("user", "def f(x):"), Message("user", "def g(x):")))
    try:
        for engine in (ours, theirs):
            engine.fit([PROMPT, talk])
        for mine, arm in zip(ours.arms, theirs.arms, strict=True):
            for prompt in (PROMPT, talk):
                pairs = list(zip(ours.answers(mine, prompt), theirs.answers(arm, prompt), strict=True))
                a, b = pairs[0][0][1], pairs[0][1][1]
                assert a.token_ids[:12] == b.token_ids[:12], f"{arm.planned.label} on {prompt.id}"
                assert b.n_prompt == a.n_prompt
                assert b.target_passes is None or b.target_passes <= len(b.token_ids)
                if arm.planned.label == "none" and a.token_ids == b.token_ids:
                    assert (a.text, a.stop) == (b.text, b.stop)
                    assert b.target_passes == len(a.steps)
    finally:
        ours.close()


def test_counters_that_a_build_does_not_give_are_unknown(
    fake: Any, engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines(fake(), "ngram-simple")
    engine.fit([PROMPT])
    monkeypatch.setattr("specdec.server.client.Client.counters", lambda _: None)
    got = answer(engine)
    assert (got.target_passes, got.n_drafting) == (3, None)


def test_a_prompt_that_it_refuses(fake: Any, engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    engine = engines(fake())
    engine.fit([PROMPT])
    monkeypatch.setattr(engine, "tokens", lambda *_: np.array([-1], np.int32))
    with pytest.raises(SpecdecError, match="refused /completion with 400: Prompt contains invalid tokens"):
        answer(engine)
