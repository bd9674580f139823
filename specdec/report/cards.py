"""Cards as tables: what fits, what it takes item by item, the commands."""

from __future__ import annotations

import shlex
from itertools import groupby
from typing import Any

import orjson
from tabulate import tabulate

from specdec.command import compare_command
from specdec.llama.model import COPIED_EXPERTS
from specdec.registry import Planned
from specdec.server.options import NoCounterpart, model_arguments, strategy_arguments
from specdec.spec import LIMIT
from specdec.syntax import Value
from specdec.vram.items import Item, total
from specdec.vram.memory import CPU
from specdec.vram.plan import Fit

_MIB = 2**20
_KINDS = ("weights", "KV", "recurrent", "snapshots", "checkpoint", "compute", "copies", "scratch")
CAPACITY_ONLY = (
    "An emulated or planned card has the capacity of the card, not its bandwidth: another GPU's speed is its own."
)


def as_text(fits: list[Fit], target: str, threads: int) -> str:
    """A table for each card, then what does not fit, then the commands."""
    parts = []
    for card, group in groupby(fits, key=lambda f: f.card):
        on_card = list(group)
        head = f"{card.name}: {card.budget / _MIB:,.0f} MiB to use ({card.reserve_mib} MiB reserved); GPU memory in MiB"
        heads = ["strategy", "split", *_KINDS, "process", "total", "left", "RAM"]
        body = [_row(f) for f in on_card]
        lines = [head, str(tabulate(body, heads, "simple", disable_numparse=True, colalign=("left", "left")))]
        for f in on_card:
            lines += [f"{f.case.label} does not fit: {advice}." for advice in f.advice]
        lines += [f"{f.case.label}: {_priced(f, on_card[0])}" for f in on_card[1:] if f.fits and on_card[0].fits]
        lines += _mapped(on_card)
        parts.append("\n".join(lines))
    parts.append(_commands(fits, target, threads))
    return "\n\n".join(parts) + f"\n\n{CAPACITY_ONLY}"


def as_json(fits: list[Fit], target: str, threads: int) -> str:
    """One object: ``plans``, one for each card and strategy (docs/cards.md)."""
    plans = [_plan(f, target, threads) for f in fits]
    return orjson.dumps({"target": target, "plans": plans}, option=orjson.OPT_INDENT_2).decode()


def specdec_command(fit: Fit, target: str) -> str:
    """The ``specdec compare`` that measures this plan."""
    case, planned = fit.case, fit.case.planned
    asked = {
        "target": target,
        "strategies": case.label,
        "strategy_files": planned.files,
        "limit": LIMIT,
        "rollback": [case.rollback],
        "snapshots": case.snapshots,
        "model": fit.options.model_dump(mode="json") | {"ctx_size": case.n_ctx},
        "vram_limit": fit.card.budget // _MIB,
    }
    return compare_command(asked | _models(planned))


def _models(planned: Planned) -> dict[str, Value]:
    """The models that its strategies were given beside the label."""
    options = {"draft": "draft", "mtp": "mtp_model"}
    drafting = [p for p in (planned, *planned.children) if p.call.name in options and "model=" not in p.label]
    return {options[p.call.name]: dict(p.call.options).get("model", "") for p in drafting}


def server_command(fit: Fit, target: str, threads: int) -> list[str] | str:
    """The words of the llama-server command, or why there is none."""
    try:
        flags = strategy_arguments(fit.case.planned, fit.options, threads)
    except NoCounterpart as why:
        return str(why)
    return ["llama-server", *model_arguments(target, fit.options, fit.case.n_ctx, threads), *flags, "--fit", "off"]


def _row(f: Fit) -> list[str]:
    def mib(items: list[Item]) -> str:
        n = total(items)
        return f"{n / _MIB:,.0f}" if n else ""

    kinds = [mib([i for i in f.items if i.kind == kind and i.owner != "process"]) for kind in _KINDS]
    process = mib([i for i in f.items if i.owner == "process"])
    rest = [f"{total(f.items) / _MIB:,.0f}", f"{f.left / _MIB:,.0f}", f"{total(f.items, CPU) / _MIB:,.0f}"]
    return [f.case.label, f.split if f.fits else f"does not fit ({f.split})", *kinds, process, *rest]


def _priced(f: Fit, plain: Fit) -> str:
    """A strategy's own VRAM, and what it displaces."""
    own = total([i for i in f.items if i.owner == f.case.label]) / _MIB
    more = total(f.items) - total(plain.items)
    if f.split == plain.split:
        return f"{own:,.0f} MiB of its own, {more / _MIB:,.0f} more than `none` in all; the split stays"
    return f"{own:,.0f} MiB of its own: {f.split} instead of {plain.split}"


def _mapped(on_card: list[Fit]) -> list[str]:
    """What a mapped file costs where experts lie in RAM; nothing where none do, or the file is not mapped."""
    most = max((f for f in on_card if f.fits), key=lambda f: f.options.n_cpu_moe, default=None)
    if most is None or not (most.options.n_cpu_moe and most.options.op_offload) or most.options.load_mode == "none":
        return []
    weights = sum(i.bytes for i in most.items if (i.device, i.kind) == (CPU, "weights"))
    return [f"warning: {COPIED_EXPERTS} ({weights / 1e9:.1f} GB, which then cannot be given back)."]


def _plan(f: Fit, target: str, threads: int) -> dict[str, Any]:
    server = server_command(f, target, threads)
    return {
        "card": f.card.name,
        "budget_bytes": f.card.budget,
        "reserve_mib": f.card.reserve_mib,
        "strategy": f.case.label,
        "fits": f.fits,
        "gpu_layers": f.options.gpu_layers,
        "n_cpu_moe": f.options.n_cpu_moe,
        "n_ctx": f.case.n_ctx,
        "items": [{"owner": i.owner, "device": i.device, "kind": i.kind, "bytes": i.bytes} for i in f.items],
        "gpu_bytes": total(f.items),
        "ram_bytes": total(f.items, CPU),
        "left_bytes": f.left,
        "advice": list(f.advice),
        "specdec": specdec_command(f, target) if f.fits else None,
        "llama_server": shlex.join(server) if f.fits and isinstance(server, list) else None,
    }


def _commands(fits: list[Fit], target: str, threads: int) -> str:
    lines = []
    for f in fits:
        if f.fits:
            server = server_command(f, target, threads)
            shown = shlex.join(server) if isinstance(server, list) else f"# no llama-server command: {server}"
            lines += [f"# {f.case.label} on {f.card.name}", specdec_command(f, target), shown]
    return "\n".join(lines)
