"""``specdec record``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o
from specdec.cli.compare import split


@app.command()
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
    target: o.Target = "demo",
    draft: o.DraftFile = "",
    mtp_model: o.MtpFile = "",
    workloads: o.Workloads = "",
    prompts: o.PromptFiles = [],  # noqa: B006 - Typer copies it
    limit: o.Limit = 5,
    n_predict: o.NPredict = 256,
    seed: o.Seed = 0,
    results: o.Results = o.DEFAULT_RESULTS,
    ignore_eos: o.IgnoreEos = False,
    stop: o.Stop = [],  # noqa: B006
    thinking: o.Thinking = False,
    sampling: o.SamplingMode = "greedy",
    temp: o.Temp = None,
    top_k: o.TopK = None,
    top_p: o.TopP = None,
    min_p: o.MinP = None,
    gpu_layers: o.GpuLayers = -1,
    n_cpu_moe: o.NCpuMoe = 0,
    override_tensor: o.OverrideTensor = [],  # noqa: B006
    load_mode: o.LoadMode = "auto",
    no_mmap: o.NoMmap = False,
    threads: o.Threads = 0,
    threads_batch: o.ThreadsBatch = 0,
    ctx_size: o.CtxSize = 0,
    batch_size: o.BatchSize = 2048,
    ubatch_size: o.UbatchSize = 512,
    flash_attn: o.FlashAttn = "auto",
    cache_type_k: o.CacheTypeK = "f16",
    cache_type_v: o.CacheTypeV = "f16",
    no_op_offload: o.NoOpOffload = False,
    main_gpu: o.MainGpu = -1,
    device: o.Device = "",
) -> None:
    """Record what the target says, once, so that `specdec replay` can try any number of strategies on it."""
    from specdec.cli.progress import watched
    from specdec.replay.record import Wanted
    from specdec.replay.record import record as run_record
    from specdec.spec import make_spec

    if from_run:
        _from_run(from_run, results, out, "" if target == "demo" else target, drafts or training_data or top_logprobs)
        return
    if target == "demo":
        typer.echo("Target: the demo model that comes with specdec (tiny, knows code and documentation).", err=True)
    spec = make_spec(
        target=target,
        strategies="none",
        draft=draft,
        mtp_model=mtp_model,
        workloads=split(workloads),
        prompt_files=tuple(prompts),
        limit=limit or None,
        n_predict=n_predict,
        seed=seed,
        ignore_eos=ignore_eos,
        stop=tuple(stop),
        thinking=thinking,
        sampling={"sampling": sampling, "temp": temp, "top_k": top_k, "top_p": top_p, "min_p": min_p},
        model={
            "gpu_layers": gpu_layers,
            "n_cpu_moe": n_cpu_moe,
            "override_tensor": tuple(override_tensor),
            "load_mode": "none" if no_mmap else load_mode,
            "threads": threads,
            "threads_batch": threads_batch,
            "ctx_size": ctx_size,
            "batch_size": batch_size,
            "ubatch_size": ubatch_size,
            "flash_attn": flash_attn,
            "cache_type_k": cache_type_k,
            "cache_type_v": cache_type_v,
            "op_offload": not no_op_offload,
            "main_gpu": main_gpu,
            "device": device,
        },
    )
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
    record_from_run(store.read_run(store.find_run(name, results)), out, target)
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
