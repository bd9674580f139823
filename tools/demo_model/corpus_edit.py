"""Documents in which a piece of code is repeated with a small change: they teach the models to copy."""

from __future__ import annotations

import random
import re

_NAME = re.compile(r"\b[a-z_][a-z0-9_]{3,}\b")
_COMMON = {
    "self",
    "return",
    "from",
    "import",
    "class",
    "else",
    "elif",
    "True",
    "None",
    "False",
    "with",
    "yield",
    "lambda",
    "while",
    "break",
    "continue",
    "raise",
    "except",
    "finally",
    "assert",
    "pass",
    "async",
    "await",
    "global",
    "print",
    "super",
    "__init__",
    "args",
    "kwargs",
    "that",
    "this",
}
_FRESH = [
    "value",
    "result",
    "item",
    "entry",
    "node",
    "record",
    "name",
    "target",
    "buffer",
    "options",
    "payload",
    "context",
    "handler",
    "source",
    "token",
    "index",
    "count",
    "request",
    "reply",
    "session",
    "message",
    "path",
]


def pieces(text: str) -> list[str]:
    """Top-level functions and classes, or methods, of 6 to 45 lines."""
    blocks = re.split(r"\n(?=(?:@|def |class |async def |    def |    async def |    @))", text)
    return [b.strip("\n") for b in blocks if 6 <= b.count("\n") <= 45 and "def " in b and len(b) < 2500]


def make_edit(text: str, rng: random.Random) -> str | None:
    """One such document made from a source file, or None when nothing in it suits."""
    found = pieces(text)
    if not found:
        return None
    piece = rng.choice(found)
    names = [n for n in _NAME.findall(piece) if n not in _COMMON]
    repeated = sorted({n for n in names if names.count(n) > 1})
    style = rng.random()
    if repeated and style < 0.7:
        old = rng.choice(repeated)
        new = rng.choice([n for n in _FRESH if n not in names] or ["other"])
        new = rng.choice([new, f"new_{old}", f"{old}_{new}"])
        changed = re.sub(rf"\b{re.escape(old)}\b", new, piece)
        task = f"rename {old} to {new}"
    elif style < 0.85:
        lines = piece.split("\n")
        at = rng.randrange(1, len(lines))
        changed = "\n".join([*lines[:at], f"{re.match(' *', lines[at])[0]}# changed", *lines[at:]])  # type: ignore[index]
        task = "add a comment"
    else:
        changed, task = piece, "no change"
    form = rng.randrange(3)
    if form == 0:
        return f"# Original:\n{piece}\n\n# Edited ({task}):\n{changed}\n"
    if form == 1:
        return f"# Task: {task}\n# Before\n{piece}\n\n# After\n{changed}\n"
    return f"```python\n{piece}\n```\n\nThe same code, {task}:\n\n```python\n{changed}\n```\n"
