"""The table of memory: what an arm takes by kind, more than `none`, and what the driver counted beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from textwrap import wrap

from tabulate import MIN_PADDING, tabulate

from specdec.footprint import footprints
from specdec.llama.accounting import PLACES
from specdec.store import Run
from specdec.types import Row

_NAME_WIDTH = 22
_LEAST = 2**20 // 20  # what would be shown as 0.0
_GAP = 2
_ORDER = ("weights", "MTP weights", "KV", "recurrent", "snapshots", "checkpoint", "compute", "output")
_BROKEN = {
    "MTP weights": "MTP\nweights",
    "recurrent": "recur-\nrent",
    "snapshots": "snap-\nshots",
    "checkpoint": "check-\npoint",
}
_SEEN = {"GPU": "NVML", "RAM": "resi-\ndent"}

Column = tuple[str, list[str]]


def memory_table(run: Run, style: str, name: Callable[[Row], str], width: int = 80) -> str:
    """One table, or several beneath each other where one would be wider than ``width``; "" where nothing is known."""
    rows = footprints(run)
    if not rows:
        return ""
    place = next((p for p in PLACES if any(r[p]["total"] for r in rows)), "RAM")
    names = [name(r) for r in rows]
    kinds, sums = _kinds(rows, place), _sums(rows, place)
    if style == "simple":
        together = _stacked(names, kinds + sums, width)
        parts = together if len(together) == 1 else [*_stacked(names, kinds, width), *_stacked(names, sums, width)]
    else:
        parts = [[(_joined(head), cells) for head, cells in kinds + sums]]
    tables = [_drawn(names, part, style) for part in parts]
    notes = [line for said in _explained(rows, place) for line in wrap(said, width)]
    return "\n\n".join([f"{place}, MiB", *tables, "\n".join(notes)])


def _kinds(rows: list[Row], place: str) -> list[Column]:
    """The kinds of which any row has more than nothing."""
    items = [r[place]["items"] for r in rows]
    kinds = sorted({k for held in items for k, n in held.items() if n >= _LEAST}, key=_rank)
    return [(_BROKEN.get(k, k), [_mib(held.get(k)) for held in items]) for k in kinds]


def _sums(rows: list[Row], place: str) -> list[Column]:
    """Sums, and what was counted."""
    held = [r[place] for r in rows]
    observed = [_mib(h["observed"], "~" if h["observed_by"] == "card" else "") for h in held]
    columns = _in_all(rows, place, "total", "over\nnone")
    columns.append(("process", [_mib(h["held"]) for h in held]))
    columns.append((_SEEN[place], observed))
    columns.append(("not\ntold", [_mib(h["untold"], signed=True) for h in held]))
    columns += _in_all(rows, "RAM", "RAM", "RAM over\nnone") if place == "GPU" else []
    return [(head, cells) for head, cells in columns if any(cells)]


def _in_all(rows: list[Row], place: str, title: str, beyond: str) -> list[Column]:
    """The sum on a device, and what it is more than plain decoding's."""
    more = ["" if r["strategy"] == "none" else _mib(r[place]["more"], signed=True) for r in rows]
    return [(title, [_mib(r[place]["total"]) for r in rows]), (beyond, more)]


def _rank(kind: str) -> tuple[int, str]:
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER)), kind


def _mib(n: int | None, before: str = "", signed: bool = False) -> str:
    """MiB with a decimal below 100; nothing for what is not there."""
    if n is None or not (n or signed):
        return ""
    mib = n / 2**20
    return before + format(mib, ("+" if signed else "") + (",.1f" if abs(mib) < 100 else ",.0f"))


def _stacked(names: list[str], columns: list[Column], width: int) -> list[list[Column]]:
    """The columns in as few tables as ``width`` allows, filled from the left."""
    first = min(_NAME_WIDTH, max(len(n) for n in ["strategy", *names]))
    parts: list[list[Column]] = [[]]
    used = first
    for head, cells in columns:
        wide = _GAP + max(*(MIN_PADDING + len(line) for line in head.split("\n")), *map(len, cells))
        if used + wide > width and parts[-1]:
            parts.append([])
            used = first
        parts[-1].append((head, cells))
        used += wide
    return parts


def _drawn(names: list[str], columns: list[Column], style: str) -> str:
    body = [[name, *(cells[i] for _, cells in columns)] for i, name in enumerate(names)]
    heads = ["strategy", *(head for head, _ in columns)]
    align = ["left", *("right" for _ in columns)]
    widths = [_NAME_WIDTH if style == "simple" else None, *(None for _ in columns)]
    return str(
        tabulate(body, heads, style, disable_numparse=True, maxcolwidths=widths, colalign=align, headersalign=align)
    )


def _joined(head: str) -> str:
    return head.replace("-\n", "").replace("\n", " ")


def _explained(rows: list[Row], place: str) -> Iterator[str]:
    yield "Allocated as llama.cpp and the strategies tell it. over none: its total less that of `none`."
    counted = {r[place]["observed_by"] for r in rows} - {None}
    if not counted:
        return
    yield "process: all that the process says it holds, for the run's other strategies too."
    if place == "RAM":
        yield "resident: the most of it that lay in RAM during a generation."
        yield "not told: Python, libraries, rows of logits; below zero: allocated, but never touched."
    else:
        yield "NVML: the most that the driver counted for it."
        yield "not told: CUDA's context and kernels, cuBLAS, scratch memory, buffers that grew later."
    if "card" in counted:
        yield "~: how much the use of the card grew since the process began, by whoever: the driver names no processes."
