"""A run on disk: ``results/<run_id>/run.json`` and ``samples.jsonl``, one line a generation, synced as it is written; of
a group of runs what is planned, ``results/<group>/group.json``.

Nothing is overwritten: samples are appended, and run.json changes only its status and what was added at the end. A
killed run stays readable: a torn last line is dropped on reading.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from specdec.errors import SpecdecError
from specdec.locking import lock

SCHEMA = 2
"""Version of both files' layout (docs/results.md). Version 1, without engines and launches, is read too."""

Sample = dict[str, Any]

_CELL = ("engine", "strategy", "rollback", "prompt", "repeat", "launch", "warmup")
_KEY = (*_CELL, "turn")
"""Names a generation; where one stands twice (a conversation run again after a kill), the later counts."""


def cell_key(sample: Sample) -> tuple[Any, ...]:
    """Names the cell that a generation belongs to: the turns of a conversation are one."""
    return tuple(sample[k] for k in _CELL)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read: ``meta`` is run.json, ``samples`` the generations in the order they were made."""

    folder: Path
    meta: dict[str, Any]
    samples: list[Sample]

    @property
    def id(self) -> str:
        """The folder's name."""
        return str(self.meta["run_id"])

    @property
    def finished(self) -> bool:
        """Whether every planned generation is there."""
        return bool(self.meta["status"] == "finished")


class RunWriter:
    """Appends to a run. Use as a context manager; leaving it marks nothing: call ``finish``."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.meta = folder, meta
        self._file = open(folder / "samples.jsonl", "ab")  # noqa: SIM115 - closed in __exit__
        lock(self._file)
        _drop_torn_line(folder / "samples.jsonl")

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, sample: Sample) -> None:
        """Add one generation; it is on the disk when this returns."""
        self._file.write(orjson.dumps(sample, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, **added: Any) -> None:
        """Every planned generation is there; ``added`` joins run.json."""
        self.meta |= added | {"status": "finished", "finished_at": _now()}
        _write_json(self.folder / "run.json", self.meta)


def new_id() -> str:
    """Date, time and the 65,536ths of the second in hexadecimal: names made one after the other sort in that order, also
    within a second."""
    now = datetime.now()
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond * 65536 // 1_000_000:04x}"


def create(results: Path, meta: dict[str, Any]) -> RunWriter:
    """A new run under ``results``, status ``started``."""
    run_id = new_id()
    folder = _new_folder(results, run_id)
    meta = {"schema": SCHEMA, "run_id": run_id, "status": "started", "started_at": _now(), **meta}
    _write_json(folder / "run.json", meta)
    return RunWriter(folder, meta)


def check_writable(results: Path) -> None:
    """Find out before a model is loaded that no run can be stored there; makes nothing."""
    there = next(p for p in (results, *results.absolute().parents) if p.exists())
    reason = 0 if os.access(there, os.W_OK | os.X_OK) else errno.EACCES
    if reason := reason if there.is_dir() else errno.ENOTDIR:
        raise _not_writable(results, OSError(reason, os.strerror(reason)))


def reopen(run: Run) -> RunWriter:
    """Go on with an interrupted run."""
    return RunWriter(run.folder, run.meta)


def find_run(name: str, results: Path, kind: str = "") -> Path:
    """A run's folder, by path or by id (or its unique beginning) under ``results``; ``latest`` is the newest (of this
    kind: ``compare``, ``profile``)."""
    if (Path(name) / "run.json").is_file():
        return Path(name)
    known = sorted(p.parent for p in results.glob("*/run.json")) if results.is_dir() else []
    if name == "latest":
        of_kind = (p for p in reversed(known) if kind in ("", _read_json(p / "run.json").get("kind", "compare")))
        matching = list(islice(of_kind, 1))
    else:
        matching = [p for p in known if p.name.startswith(name)]
    if len(matching) != 1:
        if group := find_group(name, results):
            ids = ", ".join(p.name for p in group.folders) or "none was begun"
            raise SpecdecError(f"{name} is a group of runs.", f"Name one of them: {ids}.")
        what = "no run" if not matching else f"{len(matching)} runs"
        listed = ", ".join(p.name for p in known[-5:]) or "none"
        raise SpecdecError(f"{what} match {name!r} under {results}.", f"The newest: {listed}.")
    return matching[0]


def find_comparison(name: str, results: Path) -> Run:
    """As ``find_run``, read; refuses a profile. ``latest`` is the newest comparison."""
    run = read_run(find_run(name, results, "compare"))
    if (kind := run.meta.get("kind", "compare")) != "compare":
        raise SpecdecError(f"{run.folder} is a {kind}.", "Name a comparison: a run of specdec compare.")
    return run


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that are compared with each other (``compare --card``).

    ``specs``: what was planned, in its order; empty where only runs are there (earlier versions kept no more). ``folders``:
    those that were begun, in the order they were started.
    """

    folder: Path
    specs: list[dict[str, Any]]
    folders: list[Path]


def plan_group(results: Path, group: str, specs: list[dict[str, Any]]) -> None:
    """Keep what a group will run, before any of it has begun."""
    folder = _new_folder(results, group)
    _write_json(folder / "group.json", {"schema": SCHEMA, "group": group, "specs": specs})


def find_group(name: str, results: Path) -> Group | None:
    """By its folder or its id, or by the id's unique beginning where no run's id begins so; None where there is none."""
    if not name:
        return None
    if Path(name).name != name:
        results, name = Path(name).parent, Path(name).name
    groups: dict[str, list[tuple[str, Path]]] = {path.parent.name: [] for path in results.glob("*/group.json")}
    for path in results.glob("*/run.json"):
        try:
            meta = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            continue  # not readable: not the one that is asked for
        if meta.get("group"):
            groups.setdefault(meta["group"], []).append((meta.get("started_at", ""), path.parent))
    matching = [name] if name in groups else [g for g in groups if g.startswith(name)]
    if len(matching) != 1 or (name not in groups and any(results.glob(f"{name}*/run.json"))):
        return None
    folder = results / matching[0]
    specs = _read_json(folder / "group.json")["specs"] if folder.is_dir() else []
    return Group(folder, specs, [run for _, run in sorted(groups[matching[0]])])


def read_run(folder: Path) -> Run:
    """Read a run; refuses an unknown schema."""
    meta = _read_json(folder / "run.json")
    schema = meta["schema"]
    samples = _samples(folder / "samples.jsonl")
    if meta.get("kind") == "profile":  # its lines are no generations
        return Run(folder, meta, list(samples))
    if schema == 1:
        meta, samples = _from_1(meta), map(_sample_from_1, samples)
    latest = {tuple(s[k] for k in _KEY): s for s in samples}
    return Run(folder, meta, list(latest.values()))


def _from_1(meta: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew one engine."""
    arms = [{"engine": "specdec", **a} for a in meta.get("arms", [])]
    return meta | {"schema": SCHEMA, "arms": arms}


def _sample_from_1(sample: Sample) -> Sample:
    """Version 1 knew one engine and one launch, and its ``at`` was a clock that other processes do not share. A run
    that was resumed since holds lines of both versions."""
    return sample if "engine" in sample else {"engine": "specdec", **sample, "launch": 0, "at": None, "machine": None}


def _samples(path: Path) -> Iterator[Sample]:
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is empty or torn
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise SpecdecError(
                f"{path}, line {number}: is damaged: {error}.", "Remove the line to read the rest."
            ) from error


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with open(path, "r+b") as file:
                file.truncate(whole)


def _new_folder(results: Path, name: str) -> Path:
    folder = results / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise _not_writable(results, error) from error
    return folder


def _not_writable(results: Path, error: OSError) -> SpecdecError:
    return SpecdecError(f"--results {results}: cannot be written: {error.strerror}.", "Name another folder.")


def _read_json(path: Path) -> dict[str, Any]:
    """A run's or a group's own file; refuses an unknown schema."""
    try:
        read: dict[str, Any] = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise SpecdecError(f"{path} cannot be read: {error}.", "Is this the folder of a run?") from error
    if (schema := read.get("schema")) not in (1, SCHEMA):
        raise SpecdecError(
            f"{path.parent}: was written in schema {schema}, this specdec reads schemas 1 to {SCHEMA}.",
            "Update specdec.",
        )
    return read


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """All of it or nothing, on the disk when this returns."""
    new = path.with_name(f"{path.name}.new")
    with open(new, "wb") as file:
        file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
