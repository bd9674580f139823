"""A class defined in a notebook or a script, written as a file that worker processes and later runs can load.

A file, not a pickle: it can be read, its hash goes into the results like any strategy's, and an interrupted run can be
resumed in another process. What the class uses goes along: imports, plain values, other functions and classes.
"""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
import os
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from specdec.errors import SpecdecError

_MAIN = "__main__"
_HINT = "Write the class into a file of its own and name it: './my_strategy.py:Class'."


def self_contained(cls: type) -> str:
    """Source text that defines ``cls``, a class of ``__main__``, and all that it uses.

    Raises:
        SpecdecError: its source is not to be had, or it uses something that cannot be written down.
    """
    collected = _Collected(cls.__qualname__)
    collected.add(cls.__qualname__, cls, set())
    imports = ["from __future__ import annotations", "", *sorted(set(collected.imports))]
    return "\n".join([*imports, "", *collected.values, "", "\n\n\n".join(collected.definitions), ""])


class _Collected:
    """What has been found to be needed, each thing after the ones that it uses."""

    def __init__(self, what: str) -> None:
        self.imports: list[str] = []
        self.values: list[str] = []
        self.definitions: list[str] = []
        self._what = what
        self._seen: set[str] = set()
        self._scope: dict[str, Any] = dict(vars(sys.modules[_MAIN]))

    def add(self, name: str, value: Any, attributes: set[str]) -> None:
        """Write down ``name = value``, in whatever form it has; of a module, the submodules among ``attributes`` too."""
        if name in self._seen:
            return
        self._seen.add(name)
        home, path = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if isinstance(value, ModuleType):
            self.imports.append(f"import {value.__name__} as {name}")
            inner = {m.rpartition(".")[2] for m in sys.modules if m.rpartition(".")[0] == value.__name__}
            self.imports += [f"import {value.__name__}.{a}" for a in sorted(inner & attributes)]
        elif isinstance(value, type | FunctionType) and home == _MAIN:
            self._define(value)
            if name != value.__name__:
                self.definitions.append(f"{name} = {value.__name__}")
        elif home and path and getattr(sys.modules.get(home), path, None) is value:
            self.imports.append(f"from {home} import {path} as {name}")
        elif _is_plain(value):
            self.values.append(f"{name} = {value!r}")
        else:
            raise SpecdecError(
                f"the strategy {self._what} uses {name!r}, a {type(value).__name__} that cannot be handed to a worker"
                " process.",
                f"Make it inside the class, or: {_HINT}",
            )

    def _define(self, thing: type | FunctionType) -> None:
        text = _source(thing, self._what)
        self._scope |= getattr(next(_functions(thing), None), "__globals__", {})
        code = compile(text, self._what, "exec", dont_inherit=True)
        attributes = {name for piece in _pieces(code) for name in piece.co_names}
        for name in dict.fromkeys(name for piece in _pieces(code) for name in _looked_up(piece)):
            if name in self._scope and name != thing.__name__ and not name.startswith("__"):
                self.add(name, self._scope[name], attributes)
        self.definitions.append(text)


def _is_plain(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def _pieces(code: CodeType) -> Iterator[CodeType]:
    """A piece of code and all that is inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _pieces(constant)


def _looked_up(code: CodeType) -> Iterator[str]:
    """Names that a piece of code may look up outside itself."""
    loads = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    yield from (str(i.argval) for i in dis.get_instructions(code) if i.opname in loads)


def _functions(thing: type | FunctionType) -> Iterator[FunctionType]:
    """The functions that are written inside a class, or the function itself."""
    if isinstance(thing, FunctionType):
        yield thing
        return
    for value in vars(thing).values():
        inner = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(inner, FunctionType) and inner.__module__ == _MAIN:
            yield inner


def _source(thing: type | FunctionType, what: str) -> str:
    """The text of a class or function at the top level of a cell or a script."""
    for file in _files(thing):
        text = "".join(linecache.getlines(file))
        try:
            top = ast.parse(text).body
        except SyntaxError:
            continue  # a cell that is not Python: it does not define it
        for node in reversed(top):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == thing.__qualname__:
                return _cut(text, node)
    raise SpecdecError(f"the source of {thing.__qualname__!r}, which {what} needs, is not to be had.", _HINT)


def _cut(text: str, node: ast.ClassDef | ast.FunctionDef) -> str:
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return "".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno]).rstrip()


def _files(thing: type | FunctionType) -> Iterator[str]:
    """Where the source may stand: the files of its own code; of a class without any the cells, the last first, and the
    script."""
    own = dict.fromkeys(inspect.unwrap(f).__code__.co_filename for f in _functions(thing))
    if any(linecache.getlines(file) for file in own):
        yield from own
        return
    yield from (f for f in reversed(list(linecache.cache)) if not os.path.exists(f))
    yield from filter(None, [getattr(sys.modules[_MAIN], "__file__", None)])
