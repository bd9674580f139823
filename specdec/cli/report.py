"""``specdec report``: from the store alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app, complete
from specdec.cli import options as o

if TYPE_CHECKING:
    from specdec.store import Run


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run: its folder, its id, or `latest`.", autocompletion=complete.runs)],
    other: Annotated[str, typer.Argument(help="A second run, to compare with the first, prompt by prompt.")] = "",
    results: o.Results = o.DEFAULT_RESULTS,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="text, markdown (md), json; of one run also csv, html (a page in one file), svg, png (one picture).",
        ),
    ] = "text",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write to this file instead of printing; html, svg and png want it."),
    ] = None,
    picture: Annotated[str, typer.Option("--picture", help="Which picture, for svg and png.")] = "speedup",
    redact: Annotated[
        bool, typer.Option("--redact", help="Leave out prompts, texts, token ids and paths: for sharing.")
    ] = False,
    target: Annotated[
        str, typer.Option("--target", "-m", help="The target's GGUF, for the texts of tokens in html, if it was moved.")
    ] = "",
    allow_differences: Annotated[
        bool, typer.Option("--allow-differences", help="Compare two runs of other prompts, settings or models.")
    ] = False,
    profile: Annotated[
        str,
        typer.Option("--profile", help="Predict from this profile; default: the newest that fits, if there is one."),
    ] = "",
) -> None:
    """A stored run's tables or its page, or two runs against each other; needs no model and no llama.cpp."""
    from specdec import store
    from specdec.report import render

    runs = [store.read_run(store.find_run(name, results)) for name in (run, other) if name]
    found = render.fitting_profile(runs[0], profile, results) if not other else None
    if redact:
        from specdec.redact import redacted

        runs = [redacted(r) for r in runs]
    if other:
        content = f"{_two(runs[0], runs[1], format, allow_differences)}\n".encode()
    else:
        content = render.render(runs[0], format, found, picture, target)
    if out is not None or format in render.DRAWN:
        _write(out, content, format)
    else:
        typer.echo(content.decode(), nl=False)


def _write(out: Path | None, content: bytes, format: str) -> None:
    from specdec.errors import SpecdecError

    if out is None:
        raise SpecdecError(f"--format {format} wants a file.", f"Add --out report.{format}.")
    out.write_bytes(content)
    typer.echo(f"{out} ({len(content) / 1e3:,.0f} kB)")


def _two(a: Run, b: Run, format: str, allow: bool) -> str:
    from specdec.report import render
    from specdec.report import versus as report
    from specdec.versus import versus

    form = render.form(format, {"text": report.as_text, "md": report.as_markdown, "json": report.as_json})
    return form(versus(a, b, allow))
