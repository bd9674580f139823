"""The strategy syntax: ``name``, ``name(key=value, ...)``, nested: ``cascade(ngram-mod, draft(model="a b.gguf"))``.

Values are numbers, true/false, bare words or "quoted strings"; a list of strategies is separated by commas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from specdec.errors import SpecdecError

Value = bool | int | float | str

_TOKEN = re.compile(r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<punct>[(),=])|(?P<word>[^\s(),="]+))""")


class Word(str):
    """A bare word: where grids are allowed it may be one (specdec/replay/grid.py); a quoted string never is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One strategy as written: its name, its nested strategies and its options."""

    name: str
    nested: tuple[Call, ...] = ()
    options: tuple[tuple[str, Value], ...] = ()


def parse(text: str) -> list[Call]:
    """The strategies in ``text``, in order. Errors name the place."""
    parser = _Parser(text)
    calls = [parser.call()]
    while parser.take(","):
        calls.append(parser.call())
    if not parser.done:
        raise parser.error("a comma or the end")
    return calls


def render(call: Call) -> str:
    """The canonical form: nested strategies, then options sorted by name."""
    inside = [render(n) for n in call.nested]
    inside += [f"{key}={_render_value(value)}" for key, value in sorted(call.options)]
    return f"{call.name}({', '.join(inside)})" if inside else call.name


def _render_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and (not _TOKEN.fullmatch(value) or _bare(value) != value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def _bare(word: str) -> Value:
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return Word(word)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise SpecdecError(f"Cannot read the strategies {text!r} at character {position + 1}: unclosed quote.")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match.group(kind), match.start(kind)))
            position = match.end()
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at == len(self._tokens)

    def error(self, wanted: str) -> SpecdecError:
        found = "the end" if self.done else repr(self._tokens[self._at][1])
        where = len(self._text) if self.done else self._tokens[self._at][2]
        return SpecdecError(
            f"Cannot read the strategies {self._text!r}: at character {where + 1} expected {wanted}, found {found}.",
            "Write for example: ngram-mod(n_match=16, n_max=32),none",
        )

    def take(self, punct: str) -> bool:
        if not self.done and self._tokens[self._at][:2] == ("punct", punct):
            self._at += 1
            return True
        return False

    def call(self) -> Call:
        name = self._word("a strategy name")
        if not self.take("("):
            return Call(name)
        nested: list[Call] = []
        options: dict[str, Value] = {}
        while not self.take(")"):
            if nested or options:
                self._expect(",")
            if self._at + 1 < len(self._tokens) and self._tokens[self._at + 1][:2] == ("punct", "="):
                key = self._word("an option name")
                self._expect("=")
                if key in options:
                    raise SpecdecError(f"{name}: the option {key!r} is given twice.")
                options[key] = self._value()
            else:
                nested.append(self.call())
        return Call(name, tuple(nested), tuple(options.items()))

    def _expect(self, punct: str) -> None:
        if not self.take(punct):
            raise self.error(repr(punct))

    def _word(self, wanted: str) -> str:
        if self.done or self._tokens[self._at][0] != "word":
            raise self.error(wanted)
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _value(self) -> Value:
        if self.done or self._tokens[self._at][0] == "punct":
            raise self.error("a value")
        kind, text, _ = self._tokens[self._at]
        self._at += 1
        if kind == "string":
            return re.sub(r'\\(["\\])', r"\1", text[1:-1])
        return _bare(text)
