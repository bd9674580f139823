"""``specdec predict``: what each strategy would give here, before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o
from specdec.errors import SpecdecError

if TYPE_CHECKING:
    from specdec.profile.stored import Profile


@app.command()
def predict(
    profile: Annotated[str, typer.Argument(help="A profile: its folder, its id; default: the newest.")] = "",
    acceptance: Annotated[
        str,
        typer.Option(
            "--acceptance",
            help="Conditional rates by position, e.g. 0.8,0.7,0.6: the share of draft tokens i that are kept where all"
            " before them were. (llama-server's --spec-synth-rates are their running products: 0.8,0.56,0.336.)",
        ),
    ] = "",
    run: Annotated[str, typer.Option("--run", help="Take the acceptance that a run recorded, here or elsewhere.")] = "",
    depth: Annotated[int, typer.Option("--depth", help="Tokens of context; 0: the shallowest measured depth.")] = 0,
    results: o.Results = o.DEFAULT_RESULTS,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Predict tok/s and speedup of each strategy and draft length from a profile and acceptance."""
    if bool(acceptance) == bool(run):
        raise SpecdecError("predict wants either --acceptance or --run.", "Example: --acceptance 0.8,0.7,0.6.")
    found = _profile(profile, results)
    typer.echo(_of_run(found, run, results, json) if run else _of_rates(found, _rates(acceptance), depth, json))


def _of_rates(profile: Profile, rates: list[float], depth: int, json: bool) -> str:
    import orjson

    from specdec.report import prediction as tables

    depth = depth or profile.depths[0]
    if not profile.depths[0] <= depth <= profile.depths[-1]:
        raise SpecdecError(
            f"--depth {depth}: profile {profile.id} measured {profile.depths[0]} to {profile.depths[-1]}.",
            "Take a profile with --depths.",
        )
    found = tables.expectations(profile, rates, depth)
    if not found:
        raise SpecdecError(f"profile {profile.id} measured no strategy that drafts.", "Take another profile.")
    if json:
        rows = [tables.expected_row(e) for e in found]
        return orjson.dumps({"profile": profile.id, "depth": depth, "rows": rows}, option=orjson.OPT_INDENT_2).decode()
    return tables.best_table(found, depth)


def _of_run(profile: Profile, name: str, results: Path, json: bool) -> str:
    import orjson

    from specdec import store
    from specdec.profile.compare import mismatches, prediction_rows
    from specdec.report import prediction as tables

    run = store.find_comparison(name, results)
    other = mismatches(run, profile)
    rows = prediction_rows(run, profile, elsewhere=bool(other))
    by_rates = tables.from_run(run, profile)
    if json:
        by_length = {name: [tables.expected_row(e) for e in found] for name, found in by_rates.items()}
        body: dict[str, object] = {"profile": profile.id, "run": run.id, "differs": other, "rows": tables.as_rows(rows)}
        body["by_length"] = by_length
        return orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
    head = f"Acceptance of run {run.id}"
    head += f"; it differs from the profile in: {', '.join(other)}. What it observed is left out." if other else "."
    return head + "\n\n" + tables.beside_table(rows, profile) + "\n\n" + tables.by_length(by_rates)


def _profile(name: str, results: Path) -> Profile:
    from specdec import store
    from specdec.profile.compare import newest_profile
    from specdec.profile.stored import Profile

    if name and name != "latest":
        return Profile(store.read_run(store.find_run(name, results)))
    return newest_profile(results)


def _rates(text: str) -> list[float]:
    rates = []
    for part in text.split(","):
        try:
            rates.append(float(part))
        except ValueError:
            raise SpecdecError(
                f"--acceptance: {part!r} is not a number.", "Example: --acceptance 0.8,0.7,0.6."
            ) from None
        if not 0.0 <= rates[-1] <= 1.0:
            raise SpecdecError(f"--acceptance: {part} is not a probability.", "Rates lie between 0 and 1.")
    return rates
