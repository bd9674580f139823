"""``specdec plan``: what fits a card, from the files' headers alone."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o
from specdec.cli.fetch import headers_of
from specdec.cli.option_groups import ContextFlags, Models, grouped, split


@app.command()
@grouped
def plan(
    card: Annotated[str, typer.Option("--card", help="Sizes of cards, comma list: 8GB,12GB.")] = "8GB,12GB,16GB",
    *,
    models: Models,
    strategies: Annotated[
        str, typer.Option("--strategies", "-s", help="Strategies, comma list; default: mtp, draft, ngram as there are.")
    ] = "",
    strategy: o.MoreStrategyFiles = [],  # noqa: B006 - Typer copies it
    reserve: o.Reserve = 512,
    ctx_size: Annotated[int, typer.Option("--ctx-size", "-c", help="Context, tokens.")] = 8192,
    context: ContextFlags,
    threads: o.Threads = 0,
    rollback: o.RollbackMode = "auto",
    snapshots: o.Snapshots = None,
    json: o.Json = False,
) -> None:
    """What fits a card: the split for each strategy, memory by item, what is left, and the commands."""
    from specdec.cli.compare import own_strategies
    from specdec.conversation import too_long
    from specdec.llama.model import default_threads
    from specdec.report import cards as tables
    from specdec.spec import make_spec
    from specdec.vram.arms import cases_of, header_of
    from specdec.vram.cards import parse_cards
    from specdec.vram.plan import fit

    spec = make_spec(
        "plan",
        **models.values(),
        **own_strategies(strategies, strategy, optional=True),
        rollback=split(rollback) or ("auto",),
        snapshots=snapshots,
        model=context.values() | {"ctx_size": ctx_size},
    )
    cards = parse_cards(card, reserve)
    with headers_of(models.target, models.draft, models.mtp_model, spec.strategies) as later:
        header = header_of(spec)
        if line := too_long(ctx_size, int(header.get("context_length", 0))):
            typer.echo(f"warning: {line}", err=True)
        cases = cases_of(spec, header)
        fits = [fit(case, header, spec.model, each) for each in cards for case in cases]
        text = (tables.as_json if json else tables.as_text)(fits, models.target, threads or default_threads())
    for path, downloaded in later.items():
        text = text.replace(path, downloaded)
    typer.echo(text)
    if not any(f.fits for f in fits):
        raise typer.Exit(1)
