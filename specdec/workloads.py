"""Prompt sets: load, check, select, hash. The data lives in prompts/ (the package ``specdec.prompts``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from specdec.demo import WORKLOADS_BEGIN_WITH
from specdec.errors import SpecdecError
from specdec.types import Message, Prompt

LENGTHS = ("short", "medium", "long", "multi-turn")
"""Length classes: by input tokens, about 200 and 4,000 the borders; several user turns are a class of their own."""

_CHARS_PER_TOKEN = 4
_ROLES = ("system", "user", "assistant")


def builtin_prompts() -> list[Prompt]:
    """The prompts that come with specdec."""
    prompts: list[Prompt] = []
    for entry in sorted(resources.files("specdec.prompts").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".jsonl"):
            prompts += _parse(entry.read_text("utf-8"), entry.name)
    return prompts


def load_prompts(files: Iterable[str] = ()) -> list[Prompt]:
    """The user's prompt files if any are given, else the built-in ones. Ids must be unique."""
    prompts: list[Prompt] = []
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise SpecdecError(f"--prompts {name}: there is no such file.", "It holds one JSON object a line.")
        try:
            prompts += _parse(path.read_text("utf-8"), name)
        except UnicodeDecodeError as error:
            raise SpecdecError(f"--prompts {name}: is not UTF-8 text: {error}.") from error
    prompts = prompts or builtin_prompts()
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise SpecdecError(f"two prompts have the id {prompt.id!r}.", "Ids pair strategies; make them unique.")
        seen.add(prompt.id)
    return prompts


def select(prompts: list[Prompt], names: tuple[str, ...], limit: int | None) -> list[Prompt]:
    """Prompts of the named workloads or length classes, the first ``limit`` of each workload; without names all but the
    demo model's."""
    known = list(dict.fromkeys(p.workload for p in prompts))
    if not names and any(not w.startswith(WORKLOADS_BEGIN_WITH) for w in known):
        prompts = [p for p in prompts if not p.workload.startswith(WORKLOADS_BEGIN_WITH)]
    for name in names:
        if name not in known and name not in LENGTHS:
            raise SpecdecError(
                f"unknown workload {name!r}.", f"Known: {', '.join(known)}; lengths: {', '.join(LENGTHS)}."
            )
    order = list(dict.fromkeys([n for n in names if n in known] + known))
    chosen: list[Prompt] = []
    for workload in order:
        of_it = [p for p in prompts if p.workload == workload and (not names or {p.workload, p.length} & set(names))]
        chosen += of_it[:limit]
    if not chosen:
        raise SpecdecError(f"no prompt is of {', '.join(names)}.", f"Known workloads: {', '.join(known)}.")
    return chosen


def prompts_hash(prompts: list[Prompt]) -> str:
    """SHA-256 over ids and contents, in order."""
    digest = hashlib.sha256()
    for p in prompts:
        content = [p.id, p.kind, p.text, [[m.role, m.content] for m in p.messages]]
        digest.update(json.dumps(content, ensure_ascii=False).encode())
    return digest.hexdigest()


def prompt_of(fields: dict[str, Any]) -> Prompt:
    """A prompt from its own fields as JSON has them (``dataclasses.asdict``)."""
    return Prompt(**fields | {"messages": tuple(Message(**m) for m in fields["messages"])})


def _parse(text: str, origin: str) -> list[Prompt]:
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{origin}, line {number}"
        try:
            data = json.loads(line)
        except ValueError as error:
            raise SpecdecError(f"{where}: is not JSON: {error}.") from error
        if not isinstance(data, dict):
            raise SpecdecError(f"{where}: is not a JSON object.", "One object a line.")
        prompts.append(_spec_bench(data, where) if "turns" in data else _prompt(data, where, origin, number))
    if not prompts:
        raise SpecdecError(f"{origin}: has no prompts.", "It holds one JSON object a line.")
    return prompts


def _prompt(data: dict[str, Any], where: str, origin: str, number: int) -> Prompt:
    messages = data.get("messages", [])
    text = data.get("text", "")
    if bool(messages) == bool(text):
        raise SpecdecError(f"{where}: needs either 'messages' (a chat) or 'text' (a completion).")
    if not isinstance(text, str) or not isinstance(messages, list):
        raise SpecdecError(f"{where}: 'text' is a string, 'messages' a list.")
    for m in messages:
        if not isinstance(m, dict) or m.get("role") not in _ROLES or not isinstance(m.get("content"), str):
            raise SpecdecError(f"{where}: a message needs a 'role' of {', '.join(_ROLES)} and a 'content'.")
    parsed = tuple(Message(m["role"], m["content"]) for m in messages)
    if parsed and parsed[-1].role != "user":
        raise SpecdecError(f"{where}: the last message must be the user's.")
    return Prompt(
        id=str(data.get("id") or f"{Path(origin).stem}-{number:02d}"),
        workload=str(data.get("workload") or Path(origin).stem),
        kind="chat" if parsed else "completion",
        length=str(data.get("length") or _length(parsed, text)),
        messages=parsed,
        text=text,
        notes=str(data.get("notes", "")),
        licence=str(data.get("licence", "")),
    )


def _spec_bench(data: dict[str, Any], where: str) -> Prompt:
    """One line of Spec-Bench's ``question.jsonl``: question_id, category, turns."""
    turns = data["turns"]
    if not isinstance(turns, list) or not turns:
        raise SpecdecError(f"{where}: 'turns' is a list of at least one text.")
    messages = tuple(Message("user", str(turn)) for turn in turns)
    return Prompt(
        id=f"spec-bench-{data.get('question_id')}",
        workload=str(data.get("category", "spec-bench")),
        kind="chat",
        length=_length(messages, ""),
        messages=messages,
    )


def _length(messages: tuple[Message, ...], text: str) -> str:
    if sum(m.role == "user" for m in messages) > 1:
        return "multi-turn"
    tokens = (len(text) + sum(len(m.content) for m in messages)) // _CHARS_PER_TOKEN
    return "short" if tokens < 200 else "medium" if tokens < 4000 else "long"
