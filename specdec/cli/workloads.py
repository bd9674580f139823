"""``specdec workloads``."""

from __future__ import annotations

import typer

from specdec.cli import app
from specdec.cli import options as o


@app.command()
def workloads(prompts: o.PromptFiles = []) -> None:  # noqa: B006 - Typer copies it
    """List the workloads: prompts, kind, length classes."""
    from tabulate import tabulate

    from specdec.workloads import LENGTHS, load_prompts

    by_workload: dict[str, list[tuple[str, str]]] = {}
    for p in load_prompts(prompts):
        by_workload.setdefault(p.workload, []).append((p.kind, p.length))
    table = []
    for name, entries in by_workload.items():
        lengths = [length for _, length in entries]
        classes = ", ".join(f"{lengths.count(c)} {c}" for c in LENGTHS if c in lengths)
        table.append([name, len(entries), "/".join(sorted({kind for kind, _ in entries})), classes])
    typer.echo(tabulate(table, ["workload", "prompts", "kind", "length"]))
