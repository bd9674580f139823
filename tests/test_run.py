"""`specdec run`: one text live, on the demo model; its steps on the toy target."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import on_terminal

from specdec import clock
from specdec.cli import main
from specdec.cli.run import _prompt
from specdec.decode import Decoder
from specdec.engine import Engine
from specdec.registry import Registry
from specdec.report import tokens
from specdec.report.live import TokenStream
from specdec.runner.checks import plan_strategies
from specdec.spec import RunSpec
from specdec.testing.fake import FakeTarget
from specdec.types import PHASES, Draft, Generation, Limits, Prompt, Sampling, Step

PROMPT = "def test_click(runner):\n"
SHORT = ("-n", "24", "-t", "1")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line, piped; (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["specdec", "run", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        captured = capsys.readouterr()
        return int(done.value.code or 0), captured.out, captured.err

    return run


def answer(strategies: str, **options: Any) -> Generation:
    """What the engine itself answers."""
    spec = RunSpec(target="demo", strategies=strategies, n_predict=24, model={"threads": 1}, **options)
    engine = Engine(spec, plan_strategies(spec), lambda line: None)
    try:
        prompt = Prompt("given", "run", "completion", "short", text=PROMPT)
        engine.fit([prompt])
        return next(engine.answers(engine.arms[-1], prompt))[1]
    finally:
        engine.close()


def test_piped_it_prints_the_text_and_nothing_else(call: Any) -> None:
    code, out, err = call(PROMPT, "--strategy", "mtp(n_max=2)", *SHORT)
    expected = answer("mtp(n_max=2)")
    assert (code, out) == (0, expected.text)
    drafted, accepted = sum(expected.steps.drafted), sum(expected.steps.accepted)
    assert "24 tokens in " in err
    assert f"{accepted} of {drafted} draft tokens accepted" in err
    assert f"AL {23 / len(expected.steps):.2f}" in err
    assert err.splitlines()[-1].endswith("specdec compare --strategies 'mtp(n_max=2)' --threads 1")


def test_a_stop_string_never_shows(call: Any) -> None:
    whole = answer("none").text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    out = call(PROMPT, "-s", "mtp", "--stop", stop, *SHORT)[1]
    assert out == whole[: whole.index(stop)]


def test_prompts_come_from_files_and_pipes(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(PROMPT.encode())
    expected = call(PROMPT, *SHORT)[1]
    assert call(f"@{path}", *SHORT)[1] == expected
    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", open(file.fileno(), closefd=False))  # noqa: SIM115
        assert call("-", *SHORT)[1] == expected


def test_a_prompt_is_a_message_unless_it_is_raw() -> None:
    raw, chat = _prompt(PROMPT, raw=True), _prompt(PROMPT, raw=False)
    assert (raw.kind, raw.text) == ("completion", PROMPT)
    assert (chat.kind, chat.messages[0].role, chat.messages[0].content) == ("chat", "user", PROMPT)


def test_a_strategy_of_your_own_with_options(call: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from pydantic import Field\n"
        "from specdec import Draft, Strategy, StrategyOptions\n"
        "class Mine(Strategy):\n"
        "    name = 'mine'\n"
        "    class Options(StrategyOptions):\n"
        "        token: int = Field(5, description='what it drafts')\n"
        "    def propose(self, context, max_tokens):\n"
        "        return Draft([self.options.token])\n"
    )
    code, out, err = call(PROMPT, "-s", "mine.py:Mine(token=7)", *SHORT)
    assert code == 0
    assert out
    assert re.search(r"of 2[0-3] draft tokens accepted", err)
    assert "--strategies 'mine(token=7)' --strategy mine.py:Mine" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["  "], "PROMPT: the prompt is empty"),
        (["@absent.txt"], "@absent.txt: there is no such file"),
        (["@latin.txt"], "latin.txt: is not UTF-8 text"),
        (["x", "-s", "ngram"], "--strategy names 2 strategies: ngram-simple, ngram-mod"),
        (["x", "-s", "ngrm"], "Unknown strategy 'ngrm'"),
        (["x", "-s", "absent.py:X"], "there is no file absent.py"),
        (["x", "-n", "0"], "See specdec run --help"),
        (["x", "--target", "absent.gguf"], "absent.gguf"),
        (["x", "--rollback", "auto,snapshots"], "--rollback"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(call: Any, tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len([line for line in err.splitlines() if line.startswith("specdec: ")]) == 1


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_a_terminal_gets_marks_and_a_summary(no_colour: str) -> None:
    command = [sys.executable, "-m", "specdec", "run", PROMPT, "-s", "mtp(n_max=2)", *SHORT]
    shown = on_terminal(command, NO_COLOR=no_colour, TERM="xterm-256color", COLUMNS="200").replace("\r\n", "\n")
    assert ("|‹" in shown) is bool(no_colour)
    assert ("\x1b[" in shown) is not bool(no_colour)
    tail = shown.rstrip().splitlines()
    assert "bonus" in tail[-3]
    assert tail[-2].startswith("24 tokens in ")
    assert re.fullmatch(r"Speedup \d+\.\d\d over plain decoding \(.* tok/s on 24 tokens\), once. More: .*", tail[-1])


# ---- steps as they come, on the toy target


class Echo:
    """A vocabulary of letters, as the toy target's."""

    def piece(self, token: int) -> bytes:
        return FakeTarget().piece(token)


def streamed(strategy: str, stops: tuple[str, ...] = ()) -> tuple[Generation, list[tokens.TokenStep], list[Step]]:
    target, steps = FakeTarget(recurrent=True, snapshots=8), list[Step]()
    planned = Registry().plan(strategy)[-1]
    stream = TokenStream(planned.label, target.piece, stops)
    shown: list[tokens.TokenStep] = []

    def told(step: Step) -> None:
        steps.append(step)
        shown.extend(stream.add(step))

    limits = Limits(60, stop=stops)
    prompt = np.arange(12, dtype=np.int32)
    g = Decoder(target, planned.build(), "auto").generate(prompt, limits, Sampling(), told)
    return g, shown + stream.end(g.text), steps


@pytest.mark.parametrize("strategy", ["none", "ngram-simple(size_n=1, size_m=4)"])
def test_the_live_view_is_that_of_the_stored_sample(strategy: str) -> None:
    g, shown, steps = streamed(strategy)
    sample = {
        "strategy": Registry().plan(strategy)[-1].label, "token_ids": g.token_ids, "text": g.text, "stop": g.stop,
        "steps": {"drafted": g.steps.drafted, "accepted": g.steps.accepted, "note": g.steps.note},
    }  # fmt: skip
    assert shown == tokens.view_sample(sample, 1, Echo()).steps  # type: ignore[arg-type]
    assert steps[0] == Step(11, Draft(()), 0, (g.token_ids[0],))
    assert [t for step in steps for t in step.emitted] == g.token_ids
    assert (max(g.steps.accepted) > 0) is (strategy != "none")


@pytest.mark.parametrize("length", [1, 2, 5, 11])
@pytest.mark.parametrize("strategy", ["none", "ngram-simple(size_n=1, size_m=4)"])
def test_what_is_shown_ends_where_the_text_ends(strategy: str, length: int) -> None:
    text = streamed(strategy)[0].text
    for start in range(0, len(text) - length, 7):
        stop = text[start : start + length]
        g, shown, _ = streamed(strategy, (stop, "not in it, and rather long"))
        assert g.text == text[: text.index(stop)]
        assert "".join(m.text for s in shown for m in s.marks) == g.text
        assert [s.number for s in shown] == list(range(len(shown)))


def test_time_between_steps_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 9.0, 11.0])
    monkeypatch.setattr(clock, "perf_counter", lambda: next(times))
    it = clock.Clock()
    it.to("verify")
    it.skip()
    it.to("sample")
    assert it.seconds == dict.fromkeys(PHASES, 0.0) | {"verify": 1.0, "sample": 2.0}
    assert it.booked == 3.0
