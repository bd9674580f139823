"""Tokens by their origin, and what is left of a run for sharing."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from specdec.cli import app
from specdec.errors import SpecdecError
from specdec.llama.pieces import Pieces
from specdec.metrics import rows
from specdec.redact import redacted, write_redacted
from specdec.report import tokens
from specdec.report.html import write
from specdec.store import Run, read_run

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference" / "20261122-085546-4561"


class Letters(Pieces):
    """A vocabulary of single characters: token 97 is "a"; 200 and 201 are the two bytes of "é"."""

    def __init__(self) -> None:
        pass

    def piece(self, token: int) -> bytes:
        return {200: b"\xc3", 201: b"\xa9"}.get(token, bytes([token]) if token < 128 else b"")


def a_run(**sample: Any) -> Run:
    """One generation, "abcdef": first token, a draft of 3 of which 2 were kept, a step without a draft, a draft of 1."""
    made = {
        "engine": "specdec", "strategy": "cascade(ngram-mod, mtp)", "rollback": "auto", "workload": "w", "prompt": "p",
        "turn": 0, "repeat": 0, "launch": 0, "warmup": False, "status": "ok", "error": None, "stop": "length", "cut": 1,
        "token_ids": [ord(c) for c in "abcdef"], "text": "abcdef",
        "steps": {"drafted": [3, 0, 1], "accepted": [2, 0, 1], "note": ["mtp", None, "ngram-mod"],
                  "wall_us": [900, 400, 500], "verify_us": [1, 1, 1], "rollback": ["snapshots", "", ""]},
    }  # fmt: skip
    meta = {"run_id": "r", "kind": "compare", "spec": {"target": "/no/such.gguf"}, "model": {}}
    return Run(Path("r"), meta, [made | sample])


def marks(run: Run, pieces: Pieces | None) -> list[tuple[str, str, int, str]]:
    seen = tokens.view(run, 1, pieces)
    return [(m.text, m.origin, m.position, s.source) for s in seen.steps for m in s.marks]


def test_each_token_has_its_origin() -> None:
    assert marks(a_run(), Letters()) == [
        ("a", "plain", 0, "cascade(ngram-mod, mtp)"),
        ("b", "accepted", 1, "mtp"),
        ("c", "accepted", 2, "mtp"),
        ("d", "bonus", 0, "mtp"),
        ("e", "plain", 0, "none"),
        ("f", "accepted", 1, "ngram-mod"),
    ]
    assert tokens.view(a_run(), 1, Letters()).note == ""


def test_characters_of_several_tokens_go_to_the_last_of_them() -> None:
    got = marks(a_run(token_ids=[97, 200, 201, 100, 101, 102], text="aédef"), Letters())
    assert [m[0] for m in got] == ["a", "", "é", "d", "e", "f"]


def test_what_follows_a_stop_string_is_cut() -> None:
    got = tokens.view(a_run(text="abcd", stop="stop-string"), 1, Letters())
    assert (got.texts, "".join(m.text for s in got.steps for m in s.marks)) == ("exact", "abcd")


def test_without_the_vocabulary_borders_are_guessed_and_that_is_said() -> None:
    for pieces, run in ((None, a_run()), (Letters(), a_run(text="ABCDEF"))):
        seen = tokens.view(run, 1, pieces)
        assert "guessed" in seen.note
        assert "".join(m.text for s in seen.steps for m in s.marks) == run.samples[0]["text"]
    assert "token ids" in tokens.view(a_run(text=""), 1, Letters()).note


def test_what_cannot_be_shown_is_told() -> None:
    for change, said in (
        ({"status": "crashed", "error": "it died"}, "failed"),
        ({"steps": None, "engine": "llama-server"}, "no steps"),
    ):
        with pytest.raises(SpecdecError, match=said):
            tokens.view(a_run(**change), 1, None)
    for name, said in (("7", "It has 1 to 1"), ("p/none", "PROMPT/STRATEGY")):
        with pytest.raises(SpecdecError, match=said):
            tokens.find_sample(a_run(), name)
    assert tokens.find_sample(a_run(), "p/cascade(ngram-mod, mtp)") == 1


def test_every_sample_of_a_run_accounts_for_its_text() -> None:
    run = read_run(REFERENCE)
    for number, s in enumerate(run.samples, 1):
        seen = tokens.view(run, number, None)
        found = [m for step in seen.steps for m in step.marks]
        assert len(found) == len(s["token_ids"])
        assert "".join(m.text for m in found) == s["text"]
        assert sum(m.origin == "accepted" for m in found) == sum(s["steps"]["accepted"])


def show(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "specdec", "show", str(REFERENCE), *arguments]
    unset = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=unset | environment).stdout


def test_the_terminal_marks_with_and_without_colour() -> None:
    plain = show("demo-code-01/mtp", NO_COLOR="1", FORCE_COLOR="1")
    assert "\x1b[3" not in plain
    assert "|‹" in plain
    run = read_run(REFERENCE)
    log = run.samples[tokens.find_sample(run, "demo-code-01/mtp") - 1]["steps"]
    assert f"{sum(log['accepted'])} of {sum(log['drafted'])} draft tokens accepted" in plain
    colored = show("demo-code-01/mtp", FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b[" in colored
    assert "‹" not in colored
    assert "demo-code-01" in show()
    assert len(show("demo-code-01/mtp", "--steps").splitlines()) == 3 + len(log["drafted"])


def test_pieces_of_byte_pairs_and_of_sentence_pieces(tmp_path: Path) -> None:
    import gguf

    def vocabulary(kind: str, texts: list[str], types: list[int]) -> Pieces:
        path = tmp_path / f"{kind}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tokenizer_model(kind)
        writer.add_token_list(texts)
        writer.add_token_types(types)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return Pieces(path)

    pairs = vocabulary("gpt2", ["Ġdef", "Ċ", "Ã©", "<|end|>", "<tool>"], [1, 1, 1, 3, 4])
    assert [pairs.piece(i) for i in range(6)] == [b" def", b"\n", "é".encode(), b"", b"<tool>", b""]
    sentence = vocabulary("llama", ["<unk>", "</s>", "<0x0A>", "▁a", "é"], [2, 3, 6, 1, 1])
    assert [sentence.piece(i) for i in range(5)] == [b"", b"", b"\n", b" a", "é".encode()]


def test_pieces_are_those_of_llama_cpp(real_model: Callable[[str], Path]) -> None:
    from specdec.llama.model import LlamaModel
    from specdec.spec import ModelOptions

    path = real_model("qwen2.5-coder-0.5b")
    model = LlamaModel(path, ModelOptions(), vocab_only=True)
    try:
        pieces = Pieces(path)
        assert [i for i in range(0, model.n_vocab, 7) if pieces.piece(i) != model.piece(i)] == []
    finally:
        model.close()


# ---- redaction


def private(folder: Path) -> Run:
    """The reference run with what a private one would hold."""
    run = read_run(REFERENCE)
    meta, samples = copy.deepcopy(run.meta), copy.deepcopy(run.samples)
    meta["spec"] |= {"target": "/home/Ann Smith/secret dir/big.gguf", "prompt_files": ["C:\\Users\\ann\\mine.jsonl"]}
    meta["given"] |= {"target": "/home/Ann Smith/secret dir/big.gguf", "stop": ["SECRET-STOP"]}
    meta["spec"]["stop"] = ["SECRET-STOP"]
    meta["model"]["path"] = "/home/Ann Smith/secret dir/big.gguf"
    for p in meta["prompts"]:
        p["id"] = f"SECRET-{p['id']}"
    for s in samples:
        s["prompt"] = f"SECRET-{s['prompt']}"
        s["text"] = f"SECRET {s['text']}"
        s["steps"]["note"] = ["SECRET" for _ in s["steps"]["note"]]
    gone = {"status": "crashed", "error": "/home/Ann Smith/secret dir/big.gguf: gone (12 tok/s)", "repeat": 9}
    samples.append({**samples[-1], **gone, "traceback": "SECRET", "log": ["SECRET"], "exit_code": -9})
    return Run(folder, meta, samples)


def test_a_redacted_run_holds_nothing_private(tmp_path: Path) -> None:
    run = private(tmp_path)
    out = write_redacted(run, tmp_path / "shared")
    stored = b"".join(p.read_bytes() for p in out.iterdir())
    for word in (b"SECRET", b"Ann", b"secret", b"/home", b"Users", b"click.Context"):
        assert word not in stored, word
    assert b"big.gguf: gone (12 tok/s)" in stored
    ids = {i for s in read_run(out).samples for i in s["token_ids"]}
    assert ids <= set(range(10)), "numbers of branches, no tokens"
    with pytest.raises(SpecdecError, match="is there already"):
        write_redacted(run, out)


def test_every_figure_survives_redaction(tmp_path: Path) -> None:
    run = read_run(REFERENCE)
    copy_ = read_run(write_redacted(run, tmp_path / "shared"))
    assert orjson.dumps(rows(copy_)) == orjson.dumps(rows(run))
    assert copy_.meta["redacted"] is True
    assert any(r["text_differs"] for r in rows(run))


def test_a_redacted_page_and_what_needs_the_texts(tmp_path: Path) -> None:
    run = redacted(private(tmp_path))
    page = write.of_run(run, None).page().decode()
    for word in ("SECRET", "Ann", "secret dir", "/home"):
        assert word not in page
    assert "left out of this report" in page
    with pytest.raises(SpecdecError, match="redacted"):
        tokens.view(run, 1, None)


@pytest.mark.parametrize(
    "arguments", [("show", "{}", "1"), ("resume", "{}"), ("record", "--from", "{}", "--out", "x.npz")]
)
def test_commands_that_need_the_texts_refuse_a_redacted_run(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    out = write_redacted(read_run(REFERENCE), tmp_path / "shared")
    meta = orjson.loads((out / "run.json").read_bytes()) | {"status": "started"}
    (out / "run.json").write_bytes(orjson.dumps(meta))
    done = CliRunner().invoke(app, [a.format(out) for a in arguments])
    assert isinstance(done.exception, SpecdecError)
    assert "redacted" in str(done.exception)


def test_the_redact_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["redact", str(REFERENCE), "--out", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["report", str(tmp_path / "a")])
    assert "ngram-mod" in done.output
