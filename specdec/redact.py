"""A run without what should not be shared: prompts, texts, token ids, paths. Every figure stays what it is.

Prompts are numbered, texts emptied, logs dropped; of a path the last part stays (a model's file name says what was
measured). Token ids become numbers that tell one thing alone: where two answers to the same prompt part.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

import orjson

from specdec.errors import SpecdecError
from specdec.store import Run, Sample

_PATHS = frozenset(("path", "target", "draft", "mtp_model", "strategy_files", "prompt_files", "model", "file", "trace"))
"""Fields whose strings are paths (or plain names, which stay)."""
_PATH = re.compile(
    r"""(?:(?<![\w/\\.])(?:~|\.{1,2}|[A-Za-z]:)?[\\/](?=[^\s\\/])|(?<![\w/\\.])(?=[^\s"'(),=|:]*[\\/][^\s"'(),=|:]*\.\w))"""
    r"""(?:[^\s"'(),=|:\\/]*[\\/])*(?P<last>[^\s"'(),=|:\\/]*)"""
)
"""An absolute path, one from ~ or . on, or one with folders and a suffix."""


def redacted(run: Run) -> Run:
    """The run as it may be shared; its folder is left out too. Refuses what is no comparison."""
    if run.meta["kind"] != "compare":
        raise SpecdecError(f"{run.folder} is a {run.meta['kind']}: only comparisons hold texts.", "Share it as it is.")
    known = _known_paths(run.meta)
    names = _names(run)
    meta = _clean(run.meta, known) | {"redacted": True, "prompts": _prompts(run.meta["prompts"], names)}
    for spec in ("spec", "given"):
        if meta.get(spec, {}).get("stop"):
            meta[spec]["stop"] = ["..." for _ in meta[spec]["stop"]]
    sources = _sources(run.meta["strategies"])
    samples = [
        _sample(s, names, ids, known, sources) for s, ids in zip(run.samples, _parting(run.samples), strict=True)
    ]
    return Run(Path(run.id), meta, samples)


def write_redacted(run: Run, out: Path) -> Path:
    """A redacted copy of a run in the folder ``out``, which must not hold anything yet."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecdecError(f"--out {out}: is there already.", "Name a new folder.")
    copy = redacted(run)
    out.mkdir(parents=True, exist_ok=True)
    (out / "samples.jsonl").write_bytes(b"".join(orjson.dumps(s) + b"\n" for s in copy.samples))
    (out / "run.json").write_bytes(orjson.dumps(copy.meta, option=orjson.OPT_INDENT_2))
    return out


def refuse_redacted(run: Run, what: str) -> None:
    """Raise where ``what`` needs the texts that a redacted run has no more."""
    if run.meta.get("redacted"):
        raise SpecdecError(f"{run.folder} was redacted: {what}.", "Take the whole run.")


def _names(run: Run) -> dict[str, str]:
    """Prompts by number, within their workload."""
    order: dict[str, str] = {p["id"]: p["workload"] for p in run.meta["prompts"]}
    order |= {s["prompt"]: s["workload"] for s in run.samples if s["prompt"] not in order}
    seen: dict[str, int] = defaultdict(int)
    names = {}
    for prompt, workload in order.items():
        seen[workload] += 1
        names[prompt] = f"{workload}#{seen[workload]}"
    return names


def _prompts(prompts: Iterable[dict[str, Any]], names: dict[str, str]) -> list[dict[str, Any]]:
    return [{**p, "id": names[p["id"]]} for p in prompts]


def _sample(s: Sample, names: dict[str, str], ids: list[int], known: list[str], sources: set[str]) -> Sample:
    out = {**s, "prompt": names[s["prompt"]], "token_ids": ids, "text": "", "strategy": _plain(s["strategy"], known)}
    out |= {k: None for k in ("traceback", "log") if k in s}
    out["error"] = None if s["error"] is None else _plain(s["error"], known)
    if s.get("steps") and s["steps"].get("note"):
        notes = [_plain(n, known) if n in sources else None for n in s["steps"]["note"]]
        out["steps"] = {**s["steps"], "note": notes}
    return out


def _sources(strategies: Iterable[dict[str, Any]]) -> set[str]:
    """Names and labels of all strategies, nested ones too: notes that say only who drafted."""
    found: set[str] = set()
    for s in strategies:
        found |= {s["label"], s["name"]} | _sources(s.get("nested") or ())
    return found


def _parting(samples: list[Sample]) -> list[list[int]]:
    """For each answer, one number a token: 0 where it goes the way of the first answer to its prompt, another number
    where it leaves it. Lengths, equality and the first difference of two answers stay what they were."""
    roots: dict[tuple[object, ...], dict[int, Any]] = defaultdict(dict)
    found = []
    for s in samples:
        node, ids = roots[s["prompt"], s.get("turn", 0)], []
        for token in s.get("token_ids") or ():
            number, node = node.setdefault(token, (len(node), {}))
            ids.append(number)
        found.append(ids)
    return found


def _known_paths(meta: dict[str, Any]) -> list[str]:
    """Strings of the run that are paths, longest first: they may hold spaces, and stand in messages too."""
    found: set[str] = set()

    def collect(value: Any, is_path: bool) -> None:
        if isinstance(value, dict):
            for k, v in value.items():
                collect(v, k in _PATHS)
        elif isinstance(value, list):
            for v in value:
                collect(v, is_path)
        elif is_path and isinstance(value, str) and _last(value) != value:
            found.add(value)

    collect(meta, False)
    folders = {str(parent) for f in found for parent in [*Path(f).parents][:-1] if len(parent.parts) > 1}
    return sorted(found | folders, key=len, reverse=True)


def _clean(value: Any, known: list[str]) -> Any:
    if isinstance(value, dict):
        return {_plain(k, known) if isinstance(k, str) else k: _clean(v, known) for k, v in value.items()}
    if isinstance(value, list):
        return [_clean(v, known) for v in value]
    return _plain(value, known) if isinstance(value, str) else value


def _plain(text: str, known: list[str]) -> str:
    for path in known:
        text = text.replace(path, _last(path))
    return _PATH.sub(lambda m: m["last"], text)


def _last(path: str) -> str:
    """The last part of a path of any system; ``file.py:Class`` keeps its class."""
    return PureWindowsPath(path).name or path
