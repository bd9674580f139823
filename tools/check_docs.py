"""Check the documentation: every `specdec` and `make` command exists with its options, every link leads somewhere.

python tools/check_docs.py
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from specdec.cli import app

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(?:sh|bash|console|text)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)


def documents() -> Iterator[Path]:
    """All Markdown that people read."""
    yield from sorted(
        p for p in ROOT.rglob("*.md") if not any(part.startswith(".") for part in p.relative_to(ROOT).parts)
    )


def commands(text: str) -> Iterator[list[str]]:
    """Command lines in code blocks: lines (with their continuations) that begin with a program we know."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = (
                shlex.split(line.removeprefix("$ "), comments=True) if re.match(r"^(\$ )?(specdec|make) ", line) else []
            )
            if words:
                yield words


def fault(words: list[str], targets: set[str]) -> str | None:
    """What is wrong with a command line, or None."""
    if words[0] == "make":
        unknown = [w for w in words[1:] if "=" not in w and w not in targets]
        return f"no make target {unknown[0]!r}" if unknown else None
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands"):
        name = next((w for w in rest if not w.startswith("-")), None)
        known = command.commands
        if name is None or name not in known:
            break
        rest.remove(name)
        command = known[name]
    if hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        return f"no command {rest[0]!r}"
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    for word in rest:
        option = word.split("=")[0]
        if re.match(r"^--?[a-z]", option) and option not in options:
            return f"{command.name} has no option {option}"
    return None


def main() -> int:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    faults, checked = [], 0
    for path in documents():
        text = path.read_text(encoding="utf-8")
        for words in commands(text):
            checked += 1
            if wrong := fault(words, targets):
                faults.append(f"{path.relative_to(ROOT)}: {shlex.join(words)}: {wrong}")
        faults += [
            f"{path.relative_to(ROOT)}: dead link {link}"
            for link in LINK.findall(text)
            if not (path.parent / link).exists()
        ]
    print("\n".join(faults) if faults else f"{checked} commands in the documentation are right")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
