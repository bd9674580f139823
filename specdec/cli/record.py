"""``specdec record``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o
from specdec.cli.fetch import fetch_models
from specdec.cli.option_groups import ModelFlags, Models, PromptFlags, SamplingFlags, TextFlags, grouped


@app.command()
@grouped
def record(
    out: Annotated[Path, typer.Option("--out", "-o", help="The trace to write.")] = Path("trace.npz"),
    from_run: Annotated[
        str, typer.Option("--from", help="Take it from a stored run: its folder, its id, or `latest`; runs nothing.")
    ] = "",
    top_logprobs: Annotated[
        int, typer.Option("--top-logprobs", help="Keep so many log-probabilities and the margin at each token.")
    ] = 0,
    drafts: Annotated[
        str, typer.Option("--drafts", help="Also note what these propose at each token: mtp, draft, or both.")
    ] = "",
    depth: Annotated[int, typer.Option("--depth", min=1, max=64, help="Tokens of each proposal.")] = 8,
    training_data: Annotated[
        Path | None,
        typer.Option("--training-data", help="Folder for a drafter's training data, hidden states included."),
    ] = None,
    *,
    models: Models,
    prompts: PromptFlags,
    text: TextFlags,
    results: o.Results = o.DEFAULT_RESULTS,
    sampling: SamplingFlags,
    model: ModelFlags,
) -> None:
    """Record what the target says, once, so that `specdec replay` can try any number of strategies on it."""
    from specdec.cli.progress import watched
    from specdec.replay.record import Wanted
    from specdec.replay.record import record as run_record
    from specdec.spec import make_spec

    if from_run:
        _from_run(from_run, results, out, "" if models.demo else models.target, drafts or training_data or top_logprobs)
        return
    models.announce()
    spec = make_spec(
        "record",
        **models.values(),
        **prompts.values(),
        **text.values(),
        strategies="none",
        sampling=sampling.values(),
        model=model.values(),
    )
    fetch_models(spec)
    with watched() as observer:
        run_record(spec, out, Wanted(top_logprobs, drafts, depth, training_data), observer)
    _tell(out)


def _from_run(name: str, results: Path, out: Path, target: str, more: object) -> None:
    from specdec import store
    from specdec.errors import SpecdecError
    from specdec.replay.stored import record_from_run

    if more:
        raise SpecdecError(
            "--from: a stored run holds tokens alone.", "Leave --from out to record log-probabilities or proposals."
        )
    record_from_run(store.find_comparison(name, results), out, target)
    _tell(out)


def _tell(out: Path) -> None:
    from specdec.replay.trace import read_trace

    trace = read_trace(out)
    prompts, extra = len(trace.header["prompts"]), [f"proposals of {d}" for d in trace.drafters]
    extra += [f"top {trace.header['top_k']} log-probabilities"] if trace.header["top_k"] else []
    typer.echo(
        f"Wrote {out}: {prompts} prompts, {len(trace.turns)} answers, {trace.n_tokens:,} tokens"
        f"{', ' + ', '.join(extra) if extra else ''}, {out.stat().st_size / 1e6:.2f} MB.\n"
        f"Try strategies on it:\n  specdec replay {out} --search"
    )
