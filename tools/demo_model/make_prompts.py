"""Choose the demo prompts: completion prompts from held-out text, by fixed rules and a fixed seed.

    python make_prompts.py --corpus heldout.jsonl --out FOLDER

No prompt is chosen by how well a model does on it. Each prompt ends at a line end or inside a line of prose.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from corpus_edit import make_edit
from corpus_json import make_record_document

COUNT = 12
SHORT, MEDIUM = (200, 550), (1000, 2200)
LICENCES = {r["name"]: r["licence"] for r in json.loads((Path(__file__).parent / "sources.json").read_text())}


def limits(index: int) -> tuple[str, tuple[int, int]]:
    """Short and medium prompts take turns; lengths in characters."""
    return ("short", SHORT) if index % 2 == 0 else ("medium", MEDIUM)


def cut_lines(text: str, low: int, high: int, rng: random.Random) -> str | None:
    """The first lines of a text, `low` to `high` characters long."""
    ends = [i + 1 for i, ch in enumerate(text[:high]) if ch == "\n" and i + 1 >= low]
    return text[: rng.choice(ends)] if ends else None


def code_prompt(text: str, low: int, high: int, rng: random.Random) -> str | None:
    """Up to just after the docstring or first lines of some function."""
    heads = [
        m.end() for m in re.finditer(r'^ *(?:async )?def [^\n]*:\n(?: +"""[^"\n]*"""\n)?', text, re.M) if low <= m.end()
    ]
    if not heads:
        return None
    end = rng.choice(heads)
    start = max(0, end - rng.randrange(low, high))
    start = text.rfind("\n", 0, start) + 1 if start else 0
    return text[start:end] if low <= end - start <= high else None


def docs_prompt(text: str, low: int, high: int, rng: random.Random) -> str | None:
    """A passage of prose from a paragraph's start to a word inside a later sentence."""
    starts = [0, *(m.end() for m in re.finditer(r"\n\n(?=[A-Z][a-z]+ )", text))]
    start = rng.choice(starts)
    piece = text[start : start + rng.randrange(low, high)]
    piece = piece[: max(piece.rfind(" "), 0)]
    last = piece.rsplit("\n\n", 1)[-1]
    plain = len(re.findall(r"[A-Za-z]+ ", piece)) * 8 > len(piece)
    return piece if len(piece) >= low and plain and len(last) > 60 and not re.search(r"[`:*|{}<>=]", last) else None


def made_up(low: int, high: int, rng: random.Random) -> str | None:
    """The first records of a made-up document that would go on."""
    text = make_record_document(rng)
    piece = cut_lines(text, low, high, rng)
    return piece if piece and len(text) > 1.8 * len(piece) and text.lstrip().startswith(("{", "[")) else None


def edit_prompt(text: str, low: int, high: int, rng: random.Random) -> str | None:
    """A piece of code and the beginning of its edited copy."""
    document = make_edit(text, rng)
    if not document or "no change" in document:
        return None
    mark = re.search(r"^(# Edited .*|# After|The same code, [^\n]*\n\n```python)\n", document, re.M)
    if not mark:
        return None
    end = document.find("\n", mark.end()) + 1
    rest = len(document) - end
    return document[:end] if low <= end <= high and rest > 250 else None


def candidates(rows: list[dict[str, str]], kind: str, rng: random.Random) -> Iterator[dict[str, str]]:
    """Held-out documents of a kind, taking the projects in turn."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["k"] == kind and row["p"] != "made-up" and len(row["t"]) > 1200:
            groups.setdefault(row["p"], []).append(row)
    for group in groups.values():
        rng.shuffle(group)
    while groups:
        for name in sorted(groups):
            yield groups[name].pop()
            if not groups[name]:
                del groups[name]


def make(workload: str, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The prompts of one workload."""
    rng = random.Random(workload)
    maker = {"demo-code": code_prompt, "demo-docs": docs_prompt, "demo-edit": edit_prompt, "demo-json": cut_lines}[
        workload
    ]
    kind = {"demo-docs": "docs", "demo-json": "data"}.get(workload, "code")
    source = candidates(rows, kind, rng)
    found: list[dict[str, str]] = []
    while len(found) < COUNT:
        length, (low, high) = limits(len(found))
        if workload == "demo-json" and len(found) % 3 != 2:
            text, notes, licence = made_up(low, high, rng), "made-up records, no real persons or systems", "MIT"
        else:
            row = next(source)
            json_like = re.match(r'\s*[\[{]\s*["{\[]', row["t"])
            if workload == "demo-json" and not (json_like and len(row["t"]) > 1.5 * high):
                continue
            tries = (maker(row["t"], low, high, rng) for _ in range(30))
            text, notes, licence = (
                next(filter(None, tries), None),
                f"from the held-out project {row['p']}",
                LICENCES[row["p"]],
            )
        if text:
            number = f"{workload}-{len(found) + 1:02d}"
            found.append(
                {
                    "id": number,
                    "workload": workload,
                    "kind": "completion",
                    "length": length,
                    "text": text,
                    "notes": notes,
                    "licence": licence,
                }
            )
    return found


def main() -> None:
    """Write one file for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.corpus.open()]
    for workload in ("demo-code", "demo-docs", "demo-json", "demo-edit"):
        lines = [json.dumps(p, ensure_ascii=False) for p in make(workload, rows)]
        (args.out / f"{workload}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(workload, len(lines))


if __name__ == "__main__":
    main()
