"""Prompt sets: the built-in ones, the user's, Spec-Bench's layout, errors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from specdec.errors import SpecdecError
from specdec.workloads import LENGTHS, builtin_prompts, load_prompts, prompts_hash, select

TYPES = ("code", "code-edit", "chat", "multi-turn", "summarize", "extract", "rag", "math", "translate", "story", "long")


def test_built_in_prompts_cover_every_type() -> None:
    prompts = builtin_prompts()
    counts = Counter(p.workload for p in prompts)
    assert all(counts[t] >= 10 for t in TYPES)
    assert {p.length for p in prompts} == set(LENGTHS)
    assert len({p.id for p in prompts}) == len(prompts)
    contents = ["".join(m.content for m in p.messages) + p.text for p in prompts]
    assert len(set(contents)) == len(contents)
    assert all(p.licence and p.notes for p in prompts)


def test_turns_and_lengths() -> None:
    for p in builtin_prompts():
        assert (p.turns > 1) == (p.workload == "multi-turn")
        assert (p.length == "long") == (p.workload == "long")


def test_select_by_workload_length_and_limit() -> None:
    prompts = builtin_prompts()
    assert [p.id for p in select(prompts, ("story", "code"), 1)] == ["story-01", "code-01"]
    assert {p.workload for p in select(prompts, ("long",), None)} == {"long"}
    assert {p.length for p in select(prompts, ("short",), None)} == {"short"}
    assert {p.workload for p in select(prompts, (), 2)} == set(TYPES), "the demo model's prompts run only if named"
    assert len(select(prompts, (), 2)) == 2 * len(TYPES)
    with pytest.raises(SpecdecError, match=r"unknown workload 'cod'.*Known: .*code"):
        select(prompts, ("cod",), 1)


def write(path: Path, *objects: object) -> str:
    path.write_text("\n".join(o if isinstance(o, str) else json.dumps(o, ensure_ascii=False) for o in objects) + "\n")
    return str(path)


def test_own_file_with_defaults_and_odd_line_separators(tmp_path: Path) -> None:
    name = write(
        tmp_path / "mine.jsonl", {"text": "one\u2028two"}, "", {"messages": [{"role": "user", "content": "hi"}]}
    )
    first, second = load_prompts([name])
    assert (first.id, first.workload, first.kind, first.length) == ("mine-01", "mine", "completion", "short")
    assert (second.id, second.kind) == ("mine-03", "chat")


def test_given_answers_are_not_generated(tmp_path: Path) -> None:
    roles = ["system", "user", "assistant", "user", "user"]
    messages = [{"role": r, "content": f"{r} {i}"} for i, r in enumerate(roles)]
    (p,) = load_prompts([write(tmp_path / "mine.jsonl", {"messages": messages})])
    assert (p.asks, p.turns) == ((4, 5), 2)


def test_spec_bench_layout(tmp_path: Path) -> None:
    name = write(
        tmp_path / "question.jsonl",
        {"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."], "reference": []},
    )
    (p,) = load_prompts([name])
    assert (p.id, p.workload, p.turns, p.length) == ("spec-bench-81", "writing", 2, "multi-turn")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["{"], "line 1: is not JSON"),
        (["[1]"], "is not a JSON object"),
        ([{"id": "x"}], "needs either 'messages'"),
        ([{"text": "a", "messages": [{"role": "user", "content": "b"}]}], "needs either"),
        ([{"messages": [{"role": "robot", "content": "b"}]}], "needs a 'role' of"),
        (
            [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}],
            "must be the user's",
        ),
        ([{"id": "x", "text": "a"}, {"id": "x", "text": "b"}], "two prompts have the id 'x'"),
        ([""], "has no prompts"),
        ([{"question_id": 1, "turns": 5}], "line 1: 'turns' is a list"),
        ([{"question_id": 1, "turns": []}], "line 1: 'turns' is a list"),
    ],
)
def test_bad_files_name_the_line(tmp_path: Path, content: list[object], message: str) -> None:
    with pytest.raises(SpecdecError, match=message):
        load_prompts([write(tmp_path / "bad.jsonl", *content)])


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(SpecdecError, match="no such file"):
        load_prompts(["absent.jsonl"])
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecdecError, match="not UTF-8"):
        load_prompts([str(tmp_path / "b.jsonl")])


def test_hash_depends_on_content_and_order() -> None:
    prompts = builtin_prompts()
    assert prompts_hash(prompts) == prompts_hash(builtin_prompts())
    assert prompts_hash(prompts) != prompts_hash(prompts[::-1])
