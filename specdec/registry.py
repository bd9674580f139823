"""Find strategies, check their options, build instances.

Three doors, the same for built-ins and for guests: a file in strategies/ (the package ``specdec.strategies``), an
installed package with an entry point in the group ``specdec.strategies``, and ``./file.py:Class``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from specdec.errors import SpecdecError
from specdec.faults import in_one_line
from specdec.strategy import Strategy, StrategyOptions
from specdec.syntax import Call, Value, parse, render

Defaults = dict[str, dict[str, Value]]
"""Strategy name to option to value."""

GROUPS = {"ngram": ("ngram-simple", "ngram-mod")}
"""Words that stand for several strategies."""

_FILE = re.compile(r"(?P<file>[^()]+\.py(:\w+)?)(?P<options>\(.*\))?", re.DOTALL)
_FILE_ALONE = re.compile(r"(?P<file>.+\.py(:\w+)?)", re.DOTALL)
"""Brackets in the path: then no options can be told from it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A strategy class and where it came from; ``file_sha256`` of the file that defines it goes into the results."""

    cls: type[Strategy]
    origin: str
    file_sha256: str | None
    file: str = ""
    """``file.py:Class`` where the user named it so."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A strategy with checked options, not yet built. ``label`` is canonical: rows are keyed by it."""

    label: str
    call: Call
    found: Found
    children: tuple[Planned, ...] = ()

    def build(self, single: Callable[[Planned], Strategy] | None = None) -> Strategy:
        """A new instance, its nested strategies new too; ``single`` builds those that are not made of others."""
        if single is not None and not self.children:
            return single(self)
        strategy = self.found.cls(_options(self.found.cls, self.call))
        if self.children:
            strategy.combine([(child.label, child.build(single)) for child in self.children])
        return strategy

    @property
    def files(self) -> list[str]:
        """The ``file.py:Class`` of it and of those nested in it that are known by their files alone."""
        own = [self.found.file] if self.found.file else []
        return list(dict.fromkeys(own + [file for child in self.children for file in child.files]))

    @property
    def resolved(self) -> dict[str, object]:
        """All options with their values, defaults included."""
        return _options(self.found.cls, self.call).model_dump(mode="json")


class Registry:
    """All strategies that can be named in this process."""

    def __init__(self, files: tuple[str, ...] = ()) -> None:
        self.known: dict[str, Found] = {}
        package = importlib.import_module("specdec.strategies")
        for module in pkgutil.iter_modules(package.__path__):
            self._add_module(importlib.import_module(f"{package.__name__}.{module.name}"))
        for point in entry_points(group="specdec.strategies"):
            try:
                cls = _check_class(point.load(), f"entry point {point.value}")
            except Exception as error:  # noqa: BLE001 - a guest package may fail in any way; it must not take us down
                warnings.warn(f"strategy {point.name!r} of {point.value} cannot be loaded: {error}", stacklevel=2)
                continue
            self._add(cls, f"entry point {point.value}")
        for spec in files:
            cls = load_class(spec)
            self._add(cls, spec, spec)

    def names(self) -> list[str]:
        """Known names, ``none`` first."""
        return sorted(self.known, key=lambda n: (n != "none", n))

    def get(self, name: str) -> Found:
        """The strategy of this name, or an error that says what is known."""
        if name not in self.known:
            close = difflib.get_close_matches(name.lower(), [*self.known, *GROUPS], n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            known = "Files are named with --strategy." if ".py" in name else f"Known: {', '.join(self.names())}."
            raise SpecdecError(f"Unknown strategy {name!r}.{guess}", known)
        return self.known[name]

    def plan(self, text: str, defaults: Defaults | None = None) -> list[Planned]:
        """Parse ``--strategies``, open groups, check options; ``none`` is always there, and first; doubles go once.

        ``defaults`` fill options that a strategy does not name (``--draft FILE``); they are no part of the label.
        """
        calls = [Call("none")]
        for call in parse(text):
            calls += [Call(name, call.nested, call.options) for name in GROUPS.get(call.name, (call.name,))]
        planned: dict[str, Planned] = {}
        for call in calls:
            made = self._planned(call, defaults or {})
            planned.setdefault(made.label, made)
        return list(planned.values())

    def _planned(self, call: Call, defaults: Defaults) -> Planned:
        found, label = self.get(call.name), self.label(call)
        given = dict(call.options)
        filled = {k: v for k, v in defaults.get(call.name, {}).items() if k not in given}
        children = tuple(self._planned(n, defaults) for n in call.nested)
        return Planned(label, Call(call.name, call.nested, (*call.options, *filled.items())), found, children)

    def label(self, call: Call) -> str:
        """Name and the options that differ from the defaults, sorted."""
        cls = self.get(call.name).cls
        options, default = _options(cls, call), cls.Options.model_construct()
        differing = tuple((k, v) for k, v in options.model_dump().items() if v != getattr(default, k))
        nested = tuple(Call(self.label(n)) for n in call.nested)
        return render(Call(call.name, nested, differing))

    def _add_module(self, module: object) -> None:
        for cls in vars(module).values():
            if (
                inspect.isclass(cls)
                and issubclass(cls, Strategy)
                and not inspect.isabstract(cls)
                and cls.__module__ == module.__name__  # type: ignore[attr-defined]
            ):
                self._add(cls, "built in")

    def _add(self, cls: type[Strategy], origin: str, named: str = "") -> None:
        file = inspect.getsourcefile(cls)
        where = f"{origin} ({file})" if origin == "built in" else origin
        _check_class(cls, where)
        if cls.name in self.known:
            other = self.known[cls.name].origin
            raise SpecdecError(f"Two strategies are called {cls.name!r}: {other} and {where}.", "Rename one of them.")
        sha = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).exists() else None
        self.known[cls.name] = Found(cls, where, sha, named)


def load_class(spec: str) -> type[Strategy]:
    """The class that ``file.py:Class`` names; without ``:Class`` the file's only strategy."""
    path_text, _, name = spec.rpartition(":") if ".py:" in spec else (spec, "", "")
    path = Path(path_text)
    if not path.is_file():
        raise SpecdecError(f"--strategy {spec}: there is no file {path_text}.", "Write ./file.py:Class.")
    module_name = f"specdec_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise SpecdecError(f"--strategy {spec}: {path_text} is not a Python file.", "Write ./file.py:Class.")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise SpecdecError(f"--strategy {spec}: {path_text} fails on import: {in_one_line(error)}") from error
    classes = {n: c for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module_name}
    if name:
        if name not in classes:
            raise SpecdecError(
                f"--strategy {spec}: {path_text} has no class {name!r}.", f"It has: {', '.join(classes)}."
            )
        return _check_class(classes[name], spec)
    strategies = [c for c in classes.values() if issubclass(c, Strategy) and not inspect.isabstract(c)]
    if len(strategies) != 1:
        raise SpecdecError(
            f"--strategy {spec}: {path_text} has {len(strategies)} strategies.", "Name one: file.py:Class."
        )
    return _check_class(strategies[0], spec)


def named(text: str) -> tuple[str, tuple[str, ...]]:
    """(the strategy in its syntax, the file that defines it, if one does).

    Of ``./file.py:Class(n_max=2)`` the class's own name with these options; all else is left as it is.
    """
    own = _FILE.fullmatch(text) or _FILE_ALONE.fullmatch(text)
    if own is None:
        return text, ()
    return load_class(own["file"]).name + (own.groupdict().get("options") or ""), (own["file"],)


def default_strategies(mtp: bool, draft: bool, files: tuple[str, ...] = ()) -> str:
    """What takes part where nothing is named: what the models allow, n-grams, and the strategies of files."""
    return ",".join(["mtp"] * mtp + ["draft"] * draft + ["ngram", *(load_class(f).name for f in files)])


def _check_class(cls: Any, where: str) -> type[Strategy]:
    if not (inspect.isclass(cls) and issubclass(cls, Strategy)):
        raise SpecdecError(f"{where} is not a strategy.", "Derive it from specdec.Strategy.")
    if inspect.isabstract(cls):
        raise SpecdecError(f"{where} has no propose().", "Write propose(self, context, max_tokens) -> Draft.")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or parse_name(name) != name:
        raise SpecdecError(f"{where}: its name is {name!r}.", 'Give the class a plain name, e.g. name = "my-strategy".')
    return cls


def parse_name(name: str) -> str | None:
    """``name`` if it is a plain strategy name, else None."""
    try:
        calls = parse(name)
    except SpecdecError:
        return None
    return calls[0].name if len(calls) == 1 and calls[0] == Call(name) else None


def option_lines(cls: type[Strategy]) -> list[tuple[str, str, str, str]]:
    """(option, type, default, description with unit) of a strategy."""
    return [
        (
            name,
            getattr(field.annotation, "__name__", str(field.annotation)),
            str(field.default),
            field.description or "",
        )
        for name, field in cls.Options.model_fields.items()
    ]


def _options(cls: type[Strategy], call: Call) -> StrategyOptions:
    if call.nested and not cls.combines:
        raise SpecdecError(f"{call.name}: takes no strategies inside its brackets.")
    if cls.combines and len(call.nested) < 2:
        raise SpecdecError(f"{call.name}: needs at least two strategies.", f"Example: {call.name}(ngram-mod, mtp).")
    known = cls.Options.model_fields
    listed = ", ".join(f"{n} ({t}, {d})" for n, t, d, _ in option_lines(cls)) or "none"
    for key, _ in call.options:
        if key not in known:
            raise SpecdecError(f"{call.name}: unknown option {key!r}.", f"Known: {listed}.")
    try:
        return cls.Options(**dict(call.options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "options"
        raise SpecdecError(f"{call.name}: {where}: {first['msg']}.", f"Known: {listed}.") from error
