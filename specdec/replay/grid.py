"""Grids in the strategy syntax: ``ngram-mod(n_match=8..32:4, n_max=4|8|16)`` is one strategy for each combination."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from specdec.errors import SpecdecError
from specdec.registry import GROUPS, Registry
from specdec.syntax import Call, Value, Word, parse

_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::({_NUMBER}))?")
_MOST_VALUES = 10_000


def values(text: str) -> list[Value]:
    """What ``8..32:4`` (both ends count; the step's default is 1) or ``a|b|c``, or a mixture, stands for."""
    found: list[Value] = []
    for part in text.split("|"):
        match = _RANGE.fullmatch(part)
        if match is None:
            found.append(_value(part, text))
            continue
        low, high, step = (float(x) for x in (match[1], match[2], match[3] or "1"))
        count = int((high - low) / step + 1e-9) + 1 if step > 0 else 0
        if not 1 <= count <= _MOST_VALUES:
            raise SpecdecError(f"the range {part!r} is empty or too long.", "Write low..high:step, e.g. 8..32:4.")
        whole = "." not in part.replace("..", "")
        found += [int(low + i * step) if whole else round(low + i * step, 9) for i in range(count)]
    return list(dict.fromkeys(found))


def expand(calls: list[Call], registry: Registry, search: bool = False) -> Iterator[Call]:
    """Each combination of each call in turn; groups are opened.

    Args:
        search: options that are not given take the strategy's own ``search`` values.
    """
    for call in calls:
        for one in opened(call):
            yield from _combinations(one, registry, search)


def defaults(calls: list[Call], registry: Registry) -> list[Call]:
    """Each call with the options that are single values: what a search is to beat."""
    plain = []
    for call in calls:
        for one in opened(call):
            fixed = tuple((k, v) for k, v in one.options if not isinstance(v, Word) or len(values(v)) == 1)
            plain.append(Call(one.name, tuple(defaults(list(one.nested), registry)), fixed))
    return plain


def size(calls: list[Call], registry: Registry, search: bool = False) -> int:
    """How many combinations ``expand`` gives."""
    return sum(_size(one, registry, search) for call in calls for one in opened(call))


def opened(call: Call) -> list[Call]:
    """The call, or the members of the group that it names."""
    return [Call(name, call.nested, call.options) for name in GROUPS.get(call.name, (call.name,))]


def axes(call: Call, registry: Registry, search: bool) -> dict[str, list[Value]]:
    """The options of one call and the values of each."""
    given = {key: values(v) if isinstance(v, Word) else [v] for key, v in call.options}
    own = registry.get(call.name).cls.search if search else {}
    return given | {key: values(text) for key, text in own.items() if key not in given}


def read(text: str) -> list[Call]:
    """Parse ``--strategies`` where grids are allowed."""
    return parse(text)


def _combinations(call: Call, registry: Registry, search: bool) -> Iterator[Call]:
    options = axes(call, registry, search)
    inside = [list(_combinations(n, registry, search)) for n in call.nested]
    for nested in itertools.product(*inside):
        for chosen in itertools.product(*options.values()):
            yield Call(call.name, tuple(nested), tuple(zip(options, chosen, strict=True)))


def _size(call: Call, registry: Registry, search: bool) -> int:
    total = 1
    for choices in axes(call, registry, search).values():
        total *= len(choices)
    for nested in call.nested:
        total *= _size(nested, registry, search)
    return total


def _value(part: str, text: str) -> Value:
    if not part:
        raise SpecdecError(f"the list {text!r} has an empty value.", "Write a|b|c.")
    option = parse(f"x(y={part})")[0].options
    return option[0][1]
