"""What the installed llama-cpp-python was built with. ``python -m specdec.llama.build`` prints it as one JSON object: a
process of its own, because a broken build may end the process that loads it (a missing instruction, an abort)."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import re
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from specdec.errors import SpecdecError


def facts() -> dict[str, Any]:
    """Version, commit, backends, devices, CPU features, MTP functions, AMX. SpecdecError where it cannot be loaded."""
    from specdec.llama import devices, library

    module = library.llama()
    info = (module.llama_print_system_info() or b"").decode("utf-8", "replace")
    return {
        "version": _version(module),
        "commit": _text("ggml_commit"),
        "folder": str(library.library_folder()),
        "backends": devices.backends(),
        "devices": [dataclasses.asdict(d) | {"is_gpu": d.is_gpu} for d in devices.describe()],
        "features": features(info),
        "system_info": info.strip(),
        "mtp": mtp_fault(),
        "amx": {"cpu": library.cpu_has_amx(), "safe": library.extra_buffers_are_safe()},
        "gpu_offload": bool(module.llama_supports_gpu_offload()),
        "log": library.log.text("warn", "error")[-5:],
    }


def features(system_info: str) -> list[str]:
    """The switches that are on in llama.cpp's system info line, ``CPU : AVX2 = 1 | ...``."""
    return re.findall(r"(\w+) = [1-9]\d*", system_info)


def mtp_fault() -> str | None:
    """Why the strategy mtp cannot run with this build; None where it can."""
    from specdec.llama import library

    try:
        extension = library.nextn()
    except SpecdecError as error:
        return error.what
    names = ("llama_set_embeddings_nextn", "llama_get_embeddings_nextn", "llama_set_nextn_layer_offset")
    missing = [n for n in names if not hasattr(extension, n)]
    return f"missing: {', '.join(missing)}" if missing else None


def _version(module: Any) -> str:
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return str(module.__version__)


def _text(function: str) -> str | None:
    from specdec.llama.library import ggml_function

    try:
        return (ggml_function(function, ctypes.c_char_p, [])() or b"").decode() or None
    except SpecdecError:
        return None


def main() -> int:
    """Print the facts, or what is wrong, as JSON."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found: dict[str, Any] = facts()
        except SpecdecError as error:
            found = {"fault": error.what}
    print(json.dumps(found | {"warnings": [str(w.message) for w in said if w.category is UserWarning]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
