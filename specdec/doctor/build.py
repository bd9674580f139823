"""llama-cpp-python: whether it loads, what it was built for, and whether that fits this CPU and these GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specdec.doctor.check import Check, fault, note, ok
from specdec.llama.library import SUPPORTED

_PATIENCE_S = 60
_NEEDED = {"AVX2": "avx2", "FMA": "fma", "F16C": "f16c"}
"""llama.cpp's name of a CPU feature, and /proc/cpuinfo's: without these its x86 kernels are several times slower."""
_USEFUL = {"AVX512": "avx512f", "AVX512_VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16", "AVX_VNNI": "avx_vnni"}
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY = "0x10de", "0x03"

Facts = dict[str, Any]


def facts(command: tuple[str, ...] = (sys.executable, "-m", "specdec.llama.build")) -> Facts:
    """``specdec.llama.build.facts`` from a child process, or ``{"fault": ...}``: loading may end it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return _broken(f"loading llama-cpp-python did not end within {_PATIENCE_S} s")
    except OSError as error:
        return _broken(f"a child process could not be started: {error}")
    if done.returncode < 0:
        name = _signal(-done.returncode)
        why = " (the build uses instructions that this CPU lacks)" if name == "SIGILL" else ""
        return _broken(f"loading llama-cpp-python ends the process with {name}{why}")
    try:
        found: Facts = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        return _broken(f"loading llama-cpp-python ends with exit code {done.returncode}: {said}")
    return found


def install(cmake: str = "") -> str:
    """The command that builds llama-cpp-python anew from source, on this system's shell."""
    low, high = (".".join(map(str, v)) for v in SUPPORTED)
    pip = f'pip install --force-reinstall --no-cache-dir --no-deps "llama-cpp-python>={low},<{high}"'
    if not cmake:
        return pip
    return f'$env:CMAKE_ARGS="{cmake}"; {pip}' if sys.platform == "win32" else f'CMAKE_ARGS="{cmake}" {pip}'


def llama_cpp(found: Facts) -> Iterator[Check]:
    """Whether it loads; its version and backends; whether MTP can run."""
    if "fault" in found:
        given = os.environ.get("LLAMA_CPP_LIB_PATH")
        mend = f"unset LLAMA_CPP_LIB_PATH (it is {given}), or build that library anew" if given else install()
        yield fault("llama.cpp", str(found["fault"]).rstrip("."), mend)
        return
    elsewhere = ", from LLAMA_CPP_LIB_PATH" if os.environ.get("LLAMA_CPP_LIB_PATH") else ""
    commit = f"llama.cpp {found['commit']}" if found["commit"] else "llama.cpp of an unknown commit"
    yield ok(
        "llama.cpp",
        f"llama-cpp-python {found['version']}, {commit}{elsewhere}; backends: {', '.join(found['backends'])}",
    )
    for warning in found["warnings"]:
        yield fault("llama.cpp", warning, "unset LLAMA_CPP_LIB_PATH" if elsewhere else install())
    if found["mtp"]:
        yield fault("mtp", f"the strategy mtp cannot run: {found['mtp']}", install())
    else:
        yield ok("mtp", "this build has the functions that the strategy mtp needs")


def processor(found: Facts, cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Check]:
    """Whether the build uses what the CPU offers; whether its AMX kernels work."""
    if "fault" in found:
        return
    has = _cpu_flags(cpuinfo)
    used = set(found["features"])
    missing = [name for name, flag in _NEEDED.items() if flag in has and name not in used]
    unused = [name for name, flag in _USEFUL.items() if flag in has and name not in used]
    if missing:
        text = f"the build leaves out {', '.join(missing)}, which this CPU has: several times slower on the CPU"
        yield fault("cpu features", text, install("-DGGML_NATIVE=on"))
    else:
        yield ok("cpu features", f"used by the build: {', '.join(found['features']) or 'none named'}")
    if unused:
        yield note("cpu features", f"the CPU also has {', '.join(unused)}", install("-DGGML_NATIVE=on"))
    if found["amx"]["cpu"] and not found["amx"]["safe"]:
        flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
        text = "this build crashes with the CPU's AMX units; specdec works around it, about 10 % slower on the CPU"
        yield note("amx", text, f'CFLAGS="{flags}" CXXFLAGS="{flags}" {install()}')
    elif found["amx"]["cpu"]:
        yield ok("amx", "a decode with this CPU's AMX units in reach was tried and ends well")


def gpu(found: Facts, cards: list[dict[str, Any]], reason: str | None, pci: Path = _PCI) -> Iterator[Check]:
    """GPUs by NVML and by the build, and where the two do not agree."""
    usable = [d for d in found.get("devices", ()) if d["is_gpu"]]
    for card in cards:
        yield ok("gpu", _card(card))
        if card["may_spill"]:
            text = (
                f"GPU {card['index']}: this driver moves what does not fit into RAM without a word, at half the speed"
            )
            yield note("gpu", text, "leave some VRAM free: fewer --gpu-layers, a larger --n-cpu-moe")
    if not cards:
        yield from _no_nvml(usable, reason, pci)
    elif "fault" not in found and not usable:
        yield _unused_gpu(found, cards)
    elif usable and len(usable) < len(cards):
        names = ", ".join(d["name"] for d in usable)
        yield note("gpu", f"the build sees {names} only, of {len(cards)} GPUs", "unset CUDA_VISIBLE_DEVICES")


def _unused_gpu(found: Facts, cards: list[dict[str, Any]]) -> Check:
    if "CUDA" in found["backends"]:
        said = f": {found['log'][-1]}" if found["log"] else ""
        mend = (
            "unset CUDA_VISIBLE_DEVICES; nvidia-smi (its CUDA version must not be below the build's: update the driver)"
        )
        return fault("gpu", f"the build has CUDA but sees no GPU{said}", mend)
    text = f"{cards[0]['name'] or 'the GPU'} is there, but llama-cpp-python was built without CUDA: all runs on the CPU"
    return fault("gpu", text, install("-DGGML_CUDA=on"))


def _no_nvml(usable: list[dict[str, Any]], reason: str | None, pci: Path) -> Iterator[Check]:
    for device in usable:
        free, total = device["free_bytes"] / 2**30, device["total_bytes"] / 2**30
        yield ok("gpu", f"{device['name']}: {device['description']}, {free:.1f} of {total:.1f} GiB free")
    if reason and "mismatch" in reason.lower():
        yield fault("gpu", f"NVIDIA driver: {reason}", "restart the machine (the driver was updated under way)")
    elif not usable and _nvidia_on_bus(pci):
        text = f"an NVIDIA card is in this machine, but its driver does not answer ({reason})"
        yield fault("gpu", text, "install NVIDIA's driver, restart, then: nvidia-smi")
    elif not usable:
        yield ok("gpu", f"none: everything runs on the CPU (NVML: {reason})")


def _nvidia_on_bus(pci: Path) -> bool:
    def text(file: Path) -> str:
        try:
            return file.read_text().strip()
        except OSError:
            return ""

    folders = pci.iterdir() if pci.is_dir() else ()
    return any(text(f / "vendor") == _NVIDIA and text(f / "class").startswith(_DISPLAY) for f in folders)


def _card(card: dict[str, Any]) -> str:
    text = f"GPU {card['index']}: {card['name'] or 'unnamed'}, driver {card['driver'] or 'unknown'}"
    total, used = card["memory_bytes"], card["memory_used_bytes"]
    if total is None or used is None:
        return text
    return f"{text}, {(total - used) / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _cpu_flags(cpuinfo: Path) -> set[str]:
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _broken(text: str) -> Facts:
    return {"fault": text}
