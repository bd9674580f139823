"""What a run ran on: machine, GPU, libraries, model file, git state. Facts only; whatever is absent is null."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from specdec.llama.gguf import Header, read_header
from specdec.models import model_path
from specdec.monitor import system
from specdec.monitor.nvml import Nvml
from specdec.registry import Planned

_PACKAGES = ("specdec", "llama-cpp-python", "numpy")


def describe_machine() -> dict[str, Any]:
    """Processor, memory, GPUs, operating system, library versions, git state of the code."""
    return {
        "os": platform.platform(),
        "python": sys.version.split()[0],
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "ram_bytes": psutil.virtual_memory().total,
        "cores_allowed": system.cores_allowed(),
        "cpu_governor": system.governor(),
        **system.state(),
        **_ggml_variables(),
        "gpus": gpus(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": git_state(Path(__file__).resolve().parent),
    }


def describe_model(header: Header) -> dict[str, Any]:
    """Name, size, architecture and a hash of the header (which names every tensor, its type and its shape)."""
    with open(header.path, "rb") as file:
        digest = hashlib.sha256(file.read(header.header_bytes)).hexdigest()
    return {
        "file": header.path.name,
        "bytes": header.file_bytes,
        "header_sha256": digest,
        "architecture": header.architecture,
        "name": header.metadata.get("general.name"),
        "layers": header.get("block_count"),
        "experts": header.get("expert_count"),
        "mtp_layers": header.nextn_layers,
    }


def describe_strategy(planned: Planned, with_model: bool = True) -> dict[str, Any]:
    """What names a strategy in run.json: options, the model and the file that it comes from, those nested in it. Without
    ``with_model`` no model is looked for: a replay loads none."""
    model = dict(planned.call.options).get("model") if with_model else None
    return {
        "model": describe_model(read_header(model_path(str(model)))) if model else None,
        "nested": [describe_strategy(child, with_model) for child in planned.children],
        "label": planned.label,
        "name": planned.found.cls.name,
        "options": planned.resolved,
        "origin": planned.found.origin.split(" (")[0],
        "file_sha256": planned.found.file_sha256,
    }


def gpus() -> list[dict[str, Any]]:
    """NVIDIA GPUs by NVML (``monitor.nvml.Device.describe``); an empty list where there is none."""
    nvml = Nvml()
    try:
        return [device.describe() for device in nvml.devices]
    finally:
        nvml.close()


def _ggml_variables() -> dict[str, list[str]]:
    """What makes ggml work otherwise (GGML_OP_OFFLOAD_MIN_BATCH, GGML_CUDA_DISABLE_GRAPHS ...), where any is set."""
    found = sorted(f"{k}={Path(v).name}" for k, v in os.environ.items() if k.startswith("GGML_"))  # of a path its name
    return {"ggml_variables": found} if found else {}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor()
    return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether files differ from it; None outside a checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
