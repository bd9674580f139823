"""``specdec doctor``."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o
from specdec.models.quants import size

if TYPE_CHECKING:
    from specdec.doctor import Check
    from specdec.models.local import LocalModel

_WIDTH, _INDENT = 100, " " * 7


@app.command()
def doctor(
    results: o.Results = o.DEFAULT_RESULTS,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what works on this machine, and how to mend what does not; exit code 1 if there is a fault."""
    from specdec.doctor import diagnose

    found = diagnose(results)
    if json:
        import orjson

        typer.echo(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2).decode())
    else:
        for check in found.checks:
            typer.echo(_lines(check))
            if check.area == "models" and check.state == "ok" and found.models:
                typer.echo("\n".join(_INDENT + "  " + _model(m) for m in found.models if m.fault is None))
        n = len(found.faults)
        typer.echo(f"\n{n} fault{'s' * (n != 1)} to mend." if n else "\nNo faults.")
    if found.faults:
        raise typer.Exit(1)


def _lines(check: Check) -> str:
    mark = {"ok": "ok", "note": "note", "fault": "FAULT"}[check.state]
    text = textwrap.fill(
        f"{mark:<7}{check.area}: {check.text}", _WIDTH, subsequent_indent=_INDENT, break_long_words=False
    )
    return f"{text}\n{_INDENT}-> {check.mend}" if check.mend else text


def _model(model: LocalModel) -> str:
    kind = model.architecture or "unknown"
    if model.experts:
        kind += f", {model.experts} experts"
    if model.mtp_layers:
        kind += ", MTP"
    return f"{model.name} ({kind}, {size(model.bytes)})"
