"""Strategies as Python has them (text, classes, instances) to the text and the files that worker processes are told."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from specdec import registry
from specdec.api.source import self_contained
from specdec.errors import SpecdecError
from specdec.strategy import Strategy
from specdec.syntax import Call, render

One = str | type[Strategy] | Strategy
Given = One | Sequence[One]

FOLDER = "strategies"
"""Folder beside the runs that holds strategies which had no file of their own."""


def named(given: Given, results: Path) -> tuple[str, tuple[str, ...]]:
    """The strategy syntax's text, and the ``file.py:Class`` of what is not known by name.

    Args:
        given: text, ``./file.py:Class`` (options in brackets after it), a class, an instance (its options count), or
            several of them.
        results: the folder of the runs; classes without a file of their own are written there, under ``strategies``.

    Raises:
        SpecdecError: something that is no strategy, or cannot be handed to a worker process.
    """
    known = registry.Registry().known
    texts: list[str] = []
    files: list[str] = []
    alone = isinstance(given, str | type | Strategy) or not isinstance(given, Iterable)
    several: list[Any] = [given] if alone else [*given]  # type: ignore[misc]
    for one in several:
        if isinstance(one, str):
            text, own = registry.named(one)
            texts.append(text)
            files += own
            continue
        call = _call(one)
        cls = one if isinstance(one, type) else type(one)
        if call.name not in known or known[call.name].cls is not cls:
            files.append(_file_of(cls, results))
        texts.append(render(call))
    return ",".join(texts), tuple(dict.fromkeys(files))


def _call(one: object) -> Call:
    cls = one if isinstance(one, type) else type(one)
    if not issubclass(cls, Strategy) or not hasattr(cls, "name"):
        raise SpecdecError(
            f"{one!r} is not a strategy.",
            "Give text, './file.py:Class', a class that is a specdec.Strategy, or one made.",
        )
    if not isinstance(one, Strategy):
        return Call(cls.name)
    if cls.combines:
        raise SpecdecError(f"{cls.name} is made of strategies.", f"Write it as text: '{cls.name}(ngram-mod, mtp)'.")
    return Call(cls.name, options=tuple(one.options.model_dump(exclude_defaults=True).items()))


def _file_of(cls: type[Strategy], results: Path) -> str:
    """``file.py:Class``: of a module its own file; of a notebook or a script one that is written for it."""
    if "." in cls.__qualname__:
        raise SpecdecError(
            f"the class {cls.__qualname__} is not at the top level.", "Define it outside of functions and classes."
        )
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if cls.__module__ != "__main__" and file:
        return f"{file}:{cls.__qualname__}"
    text = self_contained(cls)
    path = results / FOLDER / f"{cls.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return f"{path}:{cls.__qualname__}"
