"""Several runs that are compared with each other, launch by launch in turns: what the machine does meanwhile, for minutes
at a time, meets all of them and not one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from specdec.errors import SpecdecError
from specdec.runner.plan import Observer
from specdec.runner.run import compare, pause, resume
from specdec.spec import RunSpec
from specdec.store import Run, read_run

Name = Callable[[RunSpec], str]


def compare_in_turns(runs: list[RunSpec], results: Path, observer: Observer, name: Name) -> tuple[list[Path], int]:
    """The first launch of every run, then the second of every run, and so on; each launch loads its model anew.

    A run that cannot be made is announced by its ``name``, with the reason, and left out from then on. Returns the folders
    of those whose first launch was made, in their order, and how many failed.
    """
    return _in_turns(runs, {}, results, observer, name)


def resume_in_turns(found: Sequence[Run], observer: Observer, name: Name) -> int:
    """Finish those of these runs that were interrupted, in turns again; returns how many could not be finished."""
    left = [run for run in found if not run.finished]
    runs = [RunSpec.model_validate(run.meta["spec"]) for run in left]
    return _in_turns(runs, {i: run.folder for i, run in enumerate(left)}, Path(), observer, name)[1]


def _in_turns(
    runs: list[RunSpec], folders: dict[int, Path], results: Path, observer: Observer, name: Name
) -> tuple[list[Path], int]:
    failed: set[int] = set()
    launched = 0
    for launch in range(1, max((run.launches for run in runs), default=0) + 1):
        for i, run in enumerate(runs):
            if i in failed or launch > run.launches:
                continue
            begun = read_run(folders[i]) if i in folders else None
            made = _launches(begun) if begun else 0
            if launch < made or (begun and begun.finished):
                continue
            turn = f", launch {launch} of {run.launches}" if run.launches > 1 else ""
            try:
                if launched not in (0, launch) and launch > made:
                    pause(run, observer)
                observer.announce(f"Run {i + 1} of {len(runs)}{turn}: {name(run)}")
                if begun:
                    resume(begun, observer, launches=launch)
                else:
                    folders[i] = compare(run, results, observer, launches=launch)
                if begun is None or len(read_run(folders[i]).samples) > len(begun.samples):
                    launched = launch  # not where all of it had been done: that takes no time
            except SpecdecError as error:
                observer.announce(f"FAIL {name(run)}: {error}")
                failed.add(i)
            except KeyboardInterrupt:
                _tell(runs, observer)
                raise
    return [folders[i] for i in sorted(folders)], len(failed)


def _launches(run: Run) -> int:
    """How many launches of a run were begun."""
    return 1 + max((int(s["launch"]) for s in run.samples), default=-1)


def _tell(runs: list[RunSpec], observer: Observer) -> None:
    """How an interrupted group is finished; of a run that was cut off, not in a pause, it has been said."""
    if runs[0].group:
        observer.announce(f"All runs of the group that were begun: specdec resume {runs[0].group}")
