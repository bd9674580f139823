"""Several runs that are compared with each other, launch by launch in turns: what the machine does meanwhile, for minutes
at a time, meets all of them and not one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from specdec.errors import SpecdecError
from specdec.runner.plan import Observer
from specdec.runner.run import compare, pause, resume
from specdec.runner.schedule import done_cells
from specdec.spec import RunSpec, stored_spec
from specdec.store import Group, Run, cell_key, plan_group, read_run

Name = Callable[[RunSpec], str]


def compare_in_turns(runs: list[RunSpec], results: Path, observer: Observer, name: Name) -> tuple[list[Path], int]:
    """The first launch of every run, then the second of every run, and so on; each launch loads its model anew.

    A run that cannot be made is announced by its ``name``, with the reason, and left out from then on. What is planned is
    kept under the runs' ``group``. Returns the folders of those whose first launch was made, in their order, and how many
    failed.
    """
    if runs and runs[0].group:
        plan_group(results, runs[0].group, [run.model_dump(mode="json") for run in runs])
        observer.announce(f"Writing {results / runs[0].group}, the plan of {len(runs)} runs")
    return _in_turns(runs, {}, results, observer, name)


def resume_in_turns(group: Group, observer: Observer, name: Name) -> tuple[list[Path], int]:
    """Finish what of a group was interrupted or never begun, in turns again.

    Returns the folders of all its runs and how many could not be finished. Raises ``SpecdecError`` where nothing is left to
    do.
    """
    begun = [(stored_spec(run.meta["spec"]), run) for run in map(read_run, group.folders)]
    runs = [stored_spec(spec) for spec in group.specs] or [spec for spec, _ in begun]
    finished = [spec for spec, run in begun if run.finished]
    left = [run for run in runs if run not in finished]
    if not left:
        raise SpecdecError(f"{group.folder} is finished.", f"Read it with: specdec report {group.folder}")
    folders = {left.index(spec): run.folder for spec, run in begun if spec in left}
    made, failed = _in_turns(left, folders, group.folder.parent, observer, name)
    return list(dict.fromkeys([*group.folders, *made])), failed


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
            made, whole = _launches(begun) if begun else (0, True)
            if begun and launch < made + whole and (launch < run.launches or begun.finished):
                continue
            turn = f", launch {launch} of {run.launches}" if run.launches > 1 else ""
            try:
                if launched not in (0, launch) and launch > made:
                    pause(run, observer)
                launched = launch
                observer.announce(f"Run {i + 1} of {len(runs)}{turn}: {name(run)}")
                if begun:
                    resume(begun, observer, launches=launch)
                else:
                    folders[i] = compare(run, results, observer, launches=launch)
            except SpecdecError as error:
                observer.announce(f"FAIL {name(run)}: {error}")
                failed.add(i)
            except KeyboardInterrupt:
                if run.group:  # of a run that was cut off, not in a pause, it has been said
                    observer.announce(f"All runs of the group: specdec resume {results / run.group}")
                raise
    return [folders[i] for i in sorted(folders)], len(failed)


def _launches(run: Run) -> tuple[int, bool]:
    """How many launches of a run were begun, and whether the last of them has all its cells."""
    last = max((int(s["launch"]) for s in run.samples), default=-1)
    cells = {cell_key(s) for s in run.samples if s["launch"] == last}
    return last + 1, len(cells & done_cells(run)) == run.meta["cells"] / run.meta["spec"]["launches"]
