"""Several runs that are compared with each other, launch by launch in turns: what the machine does meanwhile, for minutes
at a time, meets all of them and not one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from specdec.errors import SpecdecError
from specdec.runner.plan import Observer
from specdec.runner.run import compare, resume
from specdec.spec import RunSpec
from specdec.store import read_run


def compare_in_turns(
    runs: list[RunSpec], results: Path, observer: Observer, name: Callable[[RunSpec], str]
) -> tuple[list[Path], int]:
    """The first launch of every run, then the second of every run, and so on; each launch loads its model anew.

    A run that cannot be made is announced by its ``name``, with the reason, and left out from then on. Returns the folders
    of those whose first launch was made, in their order, and how many failed.
    """
    folders: dict[int, Path] = {}
    failed: set[int] = set()
    for launch in range(1, max((run.launches for run in runs), default=0) + 1):
        for i, run in enumerate(runs):
            if i in failed or launch > run.launches:
                continue
            turn = f", launch {launch} of {run.launches}" if run.launches > 1 else ""
            observer.announce(f"Run {i + 1} of {len(runs)}{turn}: {name(run)}")
            try:
                if i in folders:
                    resume(read_run(folders[i]), observer, launches=launch)
                else:
                    folders[i] = compare(run, results, observer, launches=launch)
            except SpecdecError as error:
                observer.announce(f"FAIL {name(run)}: {error}")
                failed.add(i)
    return [folders[i] for i in sorted(folders)], len(failed)
