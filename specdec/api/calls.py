"""The functions of ``import specdec``: what the commands of the same names do, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specdec import store
from specdec.api import options
from specdec.api.options import CompareWords, ProfileWords, ReplayWords, specification
from specdec.api.progress import Told, observed
from specdec.api.run import Run
from specdec.api.strategies import Given, named
from specdec.errors import SpecdecError
from specdec.redact import refuse_redacted
from specdec.spec import LIMIT, QUICK_N_PREDICT, RunSpec

if TYPE_CHECKING:
    from typing_extensions import Unpack

RESULTS = "results"


def compare(
    target: options.Path = "demo",
    strategies: Given = "ngram",
    workloads: str | Sequence[str] = (),
    *,
    limit: int | None = None,
    n_predict: int | None = None,
    quick: bool = False,
    results: options.Path = RESULTS,
    progress: bool | Told = True,
    **words: Unpack[CompareWords],
) -> Run:
    """Compare draft strategies on a model, like ``specdec compare``; ``none`` always takes part.

    The model is loaded in a worker process of its own, never in the calling one.

    Args:
        target: a GGUF file; ``demo`` is the model that comes with specdec.
        strategies: text in the strategy syntax, ``./file.py:Class``, a ``Strategy`` class, an instance with options, or
            several of them. A class of a notebook is written to a file under ``results/strategies``, with what it uses.
        workloads: workloads or length classes, as a sequence or a comma list; default all (of the demo target its own).
        limit: prompts a workload, 0 for all; default 5, with ``quick`` all.
        n_predict: most tokens of an answer; default 256, with ``quick`` 64.
        quick: stop as soon as on or off, and the best strategy, are settled.
        results: the folder that holds the runs.
        progress: True shows it, False does not; a function is called with (cells done, cells in all, a line).
        words: every other option of the command line, with underscores: ``temp=0.8``, ``n_cpu_moe=31`` ... Not there:
            ``card`` and ``reserve`` (the command line's alone), ``no_mmap`` (``load_mode="none"``),
            ``no_op_offload`` (``op_offload=False``), ``record`` (``Run.record``).

    Returns:
        the run, stored under ``results``. Generations that failed are among its samples.

    Raises:
        SpecdecError: an option, a model or a strategy will not do; one line that says what and where.
    """
    folder = Path(results)
    text, files = named(strategies, folder)
    engine, both = words.pop("engine", None), words.pop("with_llama_server", False)
    own = {
        "target": target,
        "strategies": text,
        "strategy_files": files,
        "workloads": workloads,
        "limit": (limit if limit is not None else 0 if quick else LIMIT) or None,
        "n_predict": QUICK_N_PREDICT if n_predict is None and quick else n_predict,
        "quick": quick,
        "engines": ("specdec", "llama-server") if both else ("specdec" if engine is None else engine,),
    }
    spec = specification(RunSpec, "specdec.compare", CompareWords, own, words)
    from specdec import runner

    with observed(progress) as observer:
        return _read(runner.compare(spec, folder, observer))


def resume(
    run: str | Path | Run, *, retry_failed: bool = False, results: options.Path = RESULTS, progress: bool | Told = True
) -> Run:
    """Finish an interrupted comparison or replay, in the same order and with the same seed.

    Args:
        run: a run, its folder, its id or ``latest``.
        retry_failed: run the cells that failed once more.
        results: the folder that holds the runs.
        progress: as of ``compare``.

    Raises:
        SpecdecError: it is finished, was redacted, or what it was started with has changed.
    """
    found = load_run(run.folder if isinstance(run, Run) else run, results).stored  # as it is now, not as it was read
    refuse_redacted(found, "it cannot be resumed")
    if found.meta["kind"] != "compare":
        raise SpecdecError(f"{found.folder} is a {found.meta['kind']}: it cannot be resumed.", "Take it again.")
    with observed(progress) as observer:
        if "trace" in found.meta:
            from specdec.replay import job

            return _read(job.resume(found, observer))
        from specdec import runner

        return _read(runner.resume(found, observer, retry_failed))


def load_run(run: str | Path = "latest", results: options.Path = RESULTS) -> Run:
    """A stored run: its folder, its id (or the unique beginning of it) under ``results``, or ``latest``.

    Raises:
        SpecdecError: there is no such run, or it cannot be read.
    """
    return _read(store.find_run(str(run), Path(results)))


def take_profile(
    target: options.Path = "demo",
    strategies: Given = "",
    *,
    results: options.Path = RESULTS,
    progress: bool | Told = True,
    **words: Unpack[ProfileWords],
) -> Run:
    """Measure what a step costs on this machine, like ``specdec profile``: the verify cost curve, drafting, rolling back.

    The model is loaded in the calling process, for times without a pipe in between: a crash of llama.cpp ends it.

    Args:
        target: a GGUF file, or ``demo``.
        strategies: whose drafting is measured, as of ``compare``; default mtp, draft and ngram as there are.
        results: the folder that holds the runs.
        progress: as of ``compare``; counts stay 0.
        words: every other option of the command line, with underscores; not ``card`` and ``reserve``.

    Returns:
        the profile; ``print(run)`` prints its tables, ``run.report("json", path)`` writes its curves.
    """
    from specdec.profile import measure
    from specdec.profile.spec import ProfileSpec

    folder = Path(results)
    text, files = named(strategies, folder) if strategies else ("", ())
    own = {"target": target, "strategies": text, "strategy_files": files}
    spec = specification(ProfileSpec, "specdec.take_profile", ProfileWords, own, words)
    with observed(progress) as observer:
        return _read(measure.take_profile(spec, folder, observer.announce))


def replay_trace(
    trace: options.Path,
    strategies: Given = "ngram",
    *,
    results: options.Path = RESULTS,
    progress: bool | Told = True,
    **words: Unpack[ReplayWords],
) -> Run:
    """Try strategies on a recorded target, like ``specdec replay``: exact acceptance, without a model.

    Large grids start processes: a script that asks for one keeps its calls under ``if __name__ == "__main__":``.

    Args:
        trace: what ``specdec record`` or ``Run.record`` wrote.
        strategies: as of ``compare``; in text values may be lists and ranges: ``"ngram-mod(n_match=8..32:4)"``.
        results: the folder that holds the runs.
        progress: as of ``compare``, with settings for cells.
        words: every other option of the command line, with underscores.
    """
    from specdec.replay import job
    from specdec.replay.run import ReplayOptions

    folder = Path(results)
    text, files = named(strategies, folder)
    own = {"trace": trace, "strategies": text, "strategy_files": files, "search": bool(words.get("trials"))}
    asked = specification(ReplayOptions, "specdec.replay_trace", ReplayWords, own, words)
    with observed(progress) as observer:
        return _read(job.replay(asked, folder, observer))


def _read(folder: Path) -> Run:
    return Run(store.read_run(folder))
