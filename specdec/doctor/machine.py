"""Everything but the build: Python, memory, processor time, models, prompts, strategies, folders, extras, terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from specdec import __version__
from specdec.doctor.check import Check, fault, note, ok
from specdec.errors import SpecdecError
from specdec.models.local import LocalModel
from specdec.models.stores import looked_in, places

_LEAST_RAM = 1 << 30
_LEAST_DISK = 200 << 20
_EXTRA = re.compile(r"^\s*([A-Za-z0-9._-]+).*;.*extra\s*==\s*['\"]([^'\"]+)['\"]")
_NAME = re.compile(r"^\s*([A-Za-z0-9._-]+)")


def python() -> Iterator[Check]:
    """Python, specdec, and the packages it needs."""
    yield ok("python", f"Python {sys.version.split()[0]}, specdec {__version__}")
    needed = [m[1] for line in _requirements() if "extra" not in line and (m := _NAME.match(line))]
    for name in needed:
        if name != "llama-cpp-python" and not _installed(name):
            yield fault("python", f"the package {name} is missing", f"pip install {name}")


def memory() -> Iterator[Check]:
    """System RAM."""
    import psutil

    from specdec.monitor.system import ram_available

    free, total = ram_available(), psutil.virtual_memory().total
    text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB available"
    yield ok("ram", text) if free >= _LEAST_RAM else fault("ram", f"only {text}", "close programs (see them with: top)")


def processor() -> Iterator[Check]:
    """Processor time that the system leaves to specdec, and how it sets the clock."""
    from specdec.llama.model import default_threads
    from specdec.monitor import system

    threads, allowed = default_threads(), system.cores_allowed()
    if allowed is not None and allowed < threads:
        fits = max(1, int(allowed))
        text = f"affinity or the container's quota leaves {allowed:g} cores; llama.cpp would start {threads} threads"
        yield fault("cpu", text, f"run with --threads {fits}")
    else:
        yield ok("cpu", f"{threads} physical cores, one thread on each by default")
    governor = system.governor() or ""
    if governor.endswith("/powersave") and "pstate" not in governor:
        text = f"the CPU clock is kept low ({governor})"
        yield note("cpu", text, "sudo cpupower frequency-set -g performance")
    if system.on_battery():
        yield note("cpu", "the machine runs on its battery: clocks will be low and move", "plug it in before measuring")


def models(found: list[LocalModel]) -> Iterator[Check]:
    """Which models are at hand."""
    by_source = Counter(m.source for m in found if m.fault is None)
    counts = ", ".join(f"{n} {source}" for source, n in by_source.items()) or "none found"
    yield ok(
        "models", f"{counts} (looked in {looked_in(places(Path(), None))}); specdec models says what each is good for"
    )
    for model in found:
        if model.fault:
            yield note("models", model.fault.rstrip("."), "download it again")
    if by_source["demo"] < 3:
        yield fault("models", "demo models are missing from this installation", "pip install --force-reinstall specdec")


def prompts() -> Iterator[Check]:
    """The workloads that come along."""
    from specdec.workloads import load_prompts

    try:
        shipped = load_prompts(())
    except SpecdecError as error:
        yield fault("prompts", str(error), "pip install --force-reinstall specdec")
        return
    yield ok("prompts", f"{len(shipped)} prompts in {len({p.workload for p in shipped})} workloads")


def strategies() -> Iterator[Check]:
    """Strategies that are found; plugins that are broken."""
    from specdec.registry import Registry

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        names = Registry().names()
    yield ok("strategies", ", ".join(names))
    for warning in said:
        if warning.category is UserWarning:
            yield fault("strategies", str(warning.message), "update or uninstall that package (pip uninstall NAME)")


def folders(results: Path) -> Iterator[Check]:
    """Whether runs and the little that is remembered can be written, and whether the disk has room."""
    from platformdirs import user_cache_path

    for area, folder, elsewhere in (
        ("results", results, "name another one with --results FOLDER"),
        ("cache", user_cache_path("specdec"), "set XDG_CACHE_HOME to a folder that you may write"),
    ):
        existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        reason = _refusal(existing)
        free = shutil.disk_usage(existing).free
        if reason:
            yield fault(area, f"{folder} cannot be written: {reason}", elsewhere)
        elif free < _LEAST_DISK:
            yield fault(area, f"{folder}: the disk has {free / 1e6:.0f} MB left", elsewhere)
        else:
            yield ok(area, f"{folder} can be written, {free / 1e9:.1f} GB free on its disk")


def extras() -> Iterator[Check]:
    """Optional packages, by the groups in which they are installed."""
    groups: dict[str, list[str]] = {}
    for line in _requirements():
        if match := _EXTRA.match(line):
            groups.setdefault(match[2], []).append(match[1])
    for group, names in groups.items():
        missing = [n for n in names if not _installed(n)]
        if missing:
            yield note("extras", f"{group}: not installed: {', '.join(missing)}", f'pip install "specdec[{group}]"')
        else:
            yield ok("extras", f"{group}: {', '.join(names)}")


def terminal() -> Iterator[Check]:
    """Where output goes, and whether it can show what is printed."""
    width = shutil.get_terminal_size().columns
    kind = f"{width} columns" if sys.stdout.isatty() else "output is piped: plain text, no progress bar"
    colour = ", no colours (NO_COLOR)" if os.environ.get("NO_COLOR") else ""
    yield ok("terminal", f"{kind}{colour}")
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    if encoding not in ("utf8", "utf8sig"):
        yield note(
            "terminal", f"it speaks {sys.stdout.encoding}: some texts of models will not show", "set PYTHONUTF8=1"
        )


def _refusal(folder: Path) -> str | None:
    """Why nothing can be written there; tries it with a file that is gone at once."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"specdec")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _requirements() -> list[str]:
    try:
        return distribution("specdec").requires or []
    except PackageNotFoundError:
        return []  # run from a copy of the sources: nothing says what belongs to it


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
