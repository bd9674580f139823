"""``specdec profile``: what a step costs on this machine, part by part."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o
from specdec.cli.fetch import fetch_models
from specdec.cli.option_groups import ModelFlags, Models, SamplingFlags, grouped
from specdec.errors import SpecdecError


@app.command()
@grouped
def profile(
    models: Models,
    strategies: Annotated[
        str,
        typer.Option("--strategies", "-s", help="Whose drafting is measured; default: mtp, draft, ngram as there are."),
    ] = "",
    strategy: o.MoreStrategyFiles = [],  # noqa: B006 - Typer copies it
    depths: Annotated[
        str, typer.Option("--depths", help="Tokens of context, comma list; default: as the model and time allow.")
    ] = "",
    lengths: Annotated[
        str, typer.Option("--lengths", help="Tokens of a target pass, comma list; default 1..16,24,31,32,48,64.")
    ] = "",
    n_max: Annotated[int, typer.Option("--n-max", help="Longest draft of mtp and draft that is measured.")] = 8,
    repeats: Annotated[int, typer.Option("--repeats", help="Rounds over all points.")] = 6,
    threads: Annotated[
        str, typer.Option("--threads", "-t", help="CPU threads, 0: physical cores; a comma list adds curves.")
    ] = "0",
    experts: Annotated[
        bool, typer.Option("--experts", help="Count the distinct experts of each layer and pass too.")
    ] = False,
    seed: o.Seed = 0,
    results: o.Results = o.DEFAULT_RESULTS,
    json: o.Json = False,
    *,
    sampling: SamplingFlags,
    model: ModelFlags,
    card: Annotated[
        str,
        typer.Option("--card", help="Emulate a card of this size, as 8GB: the split is planned, the rest held back."),
    ] = "",
    vram_limit: o.VramLimit = 0,
    reserve: o.Reserve = 512,
) -> None:
    """Measure what a step costs here: the verify cost curve, drafting, rolling back, sampling, prompts."""
    from specdec import store
    from specdec.cli.compare import own_strategies
    from specdec.cli.progress import watched
    from specdec.faults import own_faults_told
    from specdec.profile.measure import take_profile
    from specdec.profile.spec import ProfileSpec
    from specdec.report import profile as tables
    from specdec.spec import check

    values: dict[str, object] = {
        **models.values(),
        **own_strategies(strategies, strategy, optional=True),
        "depths": _numbers("--depths", depths),
        "n_max": n_max,
        "repeats": repeats,
        "threads": _numbers("--threads", threads) or (0,),
        "experts": experts,
        "seed": seed,
        "vram_limit": vram_limit,
        "sampling": sampling.values(),
        "model": {k: v for k, v in model.values().items() if k != "threads"},  # --threads adds curves here
    }
    if lengths:
        values["passes"] = _numbers("--lengths", lengths)
    spec = check(ProfileSpec, "profile", values)
    fetch_models(spec)
    if card:
        from specdec.cli.cards import profile_on

        spec = profile_on(spec, card, reserve)
    with watched() as observer, own_faults_told():
        folder = take_profile(spec, results, observer.announce)
    run = store.read_run(folder)
    typer.echo(tables.as_json(run) if json else tables.as_text(run))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """A comma list of whole numbers; ``a..b`` stands for all of them from a to b."""
    found: list[int] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        first, _, last = part.partition("..")
        if not first.isdigit() or not (last or first).isdigit():
            raise SpecdecError(f"{option}: {part!r} is not a whole number.", f"Example: {option} 1..8,16.")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
