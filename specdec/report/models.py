"""Lists of models, for people within 80 columns and as JSON."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from tabulate import tabulate

from specdec.models.quants import named, size
from specdec.models.roles import Described
from specdec.models.stores import looked_in

if TYPE_CHECKING:
    from specdec.models.hub import Repository

_WIDTH = 80
_HEADS = ("architecture", "size", "quant", "layers", "experts", "MTP", "vocabulary")


def as_text(found: list[Described], places: list[Path]) -> str:
    """A row of facts for each model, its name above and its uses below; at the end where models were looked for."""
    rows = [_row(d) for d in found if d.fault is None]
    table = tabulate(rows, _HEADS, "simple", disable_numparse=True, colalign=_ALIGNED) if rows else ""
    heads, rule, *facts = table.splitlines() or ["", ""]
    lines, row = ["model, as --target takes it", f"  {heads}", f"  {rule}"], iter(facts)
    for d in found:
        lines += [d.model.name]
        if d.fault is not None:
            lines += [_wrapped(d.fault)]
            continue
        lines += [f"  {next(row)}".rstrip(), _wrapped(_uses(d))]
    return "\n".join([*lines, "", _wrapped(f"Looked in {looked_in(places)}; --dir FOLDER adds one.", "")])


_ALIGNED = ("left", "right", "left", "right", "right", "left", "right")


def as_json(found: list[Described]) -> str:
    """One object: ``models`` (docs/models.md)."""
    return orjson.dumps({"models": [d.as_dict() for d in found]}, option=orjson.OPT_INDENT_2).decode()


def files_as_text(repository: Repository) -> str:
    """The models of a repository, as --target takes them."""
    if not repository.models:
        return f"{repository.name} has no GGUF model."
    rows = [[name, size(m.bytes), len(m.files)] for name, m in named(repository.name, repository.models)]
    return tabulate(rows, ["model, as --target takes it", "size", "files"], colalign=("left", "right", "right"))


def files_as_json(repository: Repository) -> str:
    """One object: ``repository``, ``commit``, ``models``."""
    models = [
        {"name": name, "quant": m.quant, "bytes": m.bytes, "files": m.files}
        for name, m in named(repository.name, repository.models)
    ]
    body = {"repository": repository.name, "commit": repository.commit, "models": models}
    return orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()


def _row(d: Described) -> list[str]:
    m = d.model
    experts, layers = (str(n) if n else "" for n in (m.experts, d.layers))
    mtp = "yes" if m.mtp_layers else "no"
    return [m.architecture or "", size(m.bytes), d.quant, layers, experts, mtp, f"{d.vocabulary:,}"]


def _uses(d: Described) -> str:
    def short(names: tuple[str, ...]) -> str:  # of paths the file's name
        return ", ".join(Path(n).name if Path(n).is_absolute() else n for n in names)

    uses = ["target"] if d.target else []
    uses += [f"draft for {short(d.draft_for)}"] if d.draft_for else []
    uses += [f"MTP layer (--mtp-model) for {short(d.mtp_for)}"] if d.mtp_for else []
    return "; ".join(uses) or "no target here that it could draft for"


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
