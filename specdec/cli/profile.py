"""``specdec profile``: what a step costs on this machine, part by part."""

from __future__ import annotations

from typing import Annotated

import typer

from specdec.cli import app
from specdec.cli import options as o
from specdec.errors import SpecdecError


@app.command()
def profile(
    target: o.Target = "demo",
    draft: o.DraftFile = "",
    mtp_model: o.MtpFile = "",
    strategies: Annotated[
        str,
        typer.Option("--strategies", "-s", help="Whose drafting is measured; default: mtp, draft, ngram as there are."),
    ] = "",
    strategy: o.StrategyFiles = [],  # noqa: B006 - Typer copies it
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
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")] = False,
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
    card: Annotated[
        str,
        typer.Option("--card", help="Emulate a card of this size, as 8GB: the split is planned, the rest held back."),
    ] = "",
    vram_limit: o.VramLimit = 0,
    reserve: o.Reserve = 512,
) -> None:
    """Measure what a step costs here: the verify cost curve, drafting, rolling back, sampling, prompts."""
    from specdec import store
    from specdec.cli.progress import watched
    from specdec.profile.measure import take_profile
    from specdec.profile.spec import ProfileSpec
    from specdec.report import profile as tables
    from specdec.spec import check

    values: dict[str, object] = {
        "target": target,
        "strategies": strategies,
        "strategy_files": tuple(strategy),
        "draft": draft,
        "mtp_model": mtp_model,
        "depths": _numbers("--depths", depths),
        "n_max": n_max,
        "repeats": repeats,
        "threads": _numbers("--threads", threads) or (0,),
        "experts": experts,
        "seed": seed,
        "vram_limit": vram_limit,
        "sampling": {"sampling": sampling, "temp": temp, "top_k": top_k, "top_p": top_p, "min_p": min_p},
        "model": {
            "gpu_layers": gpu_layers,
            "n_cpu_moe": n_cpu_moe,
            "override_tensor": tuple(override_tensor),
            "load_mode": "none" if no_mmap else load_mode,
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
    }
    if lengths:
        values["passes"] = _numbers("--lengths", lengths)
    spec = check(ProfileSpec, "profile", values)
    if card:
        from specdec.cli.cards import profile_on

        spec = profile_on(spec, card, reserve)
    with watched() as observer:
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
