"""Import llama-cpp-python, check it, capture its log, and keep clear of the AMX crash.

On CPUs with AMX an ordinary build of llama.cpp 0c1e57098 dies with a segmentation fault in its AMX matrix kernels at
the first decode. A child process tries that once for each build (the result is kept in the user's cache folder); where
it dies, models are loaded without the extra buffer types, which costs about 10 % of CPU speed.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from specdec.errors import SpecdecError, tells_of_memory

SUPPORTED = ((0, 3, 36), (0, 3, 37))
"""llama-cpp-python releases whose structures this code knows: from the first, below the second."""

_INSTALL = 'Install it with: pip install "llama-cpp-python>=0.3.36,<0.3.37".'
_LEVELS = {1: "debug", 2: "info", 3: "warn", 4: "error"}
_CONTINUATION = 5
_GPU_KINDS = (1, 2)
"""ggml_backend_dev_type: a GPU, an integrated GPU (ggml-backend.h)."""
_COMMIT = "0c1e570"


class LogCapture:
    """Keeps the last lines of llama.cpp's log: (level, text)."""

    def __init__(self, size: int = 4000) -> None:
        self.lines: deque[tuple[str, str]] = deque(maxlen=size)
        self._partial = ""
        self._level = "info"
        self.echo: Callable[[str], None] | None = None
        """Where set, takes each line as it comes: a crash would take ``lines`` along."""

    def write(self, level: int, text: str) -> None:
        """Take a piece of log; pieces are joined to lines."""
        if level != _CONTINUATION:
            self._level = _LEVELS.get(level, "info")
        *whole, self._partial = (self._partial + text).split("\n")
        for line in whole if self._level != "debug" else []:
            if line.strip():
                self.lines.append((self._level, line))
                if self.echo is not None:
                    self.echo(line)

    def clear(self) -> None:
        """Forget what came before."""
        self.lines.clear()

    def text(self, *levels: str) -> list[str]:
        """Lines of these levels (all if none is named)."""
        return [line for level, line in self.lines if not levels or level in levels]


log = LogCapture()


@cache
def llama() -> ModuleType:
    """The llama_cpp module: right version, backend up, log captured."""
    _check_version()
    try:
        import llama_cpp
    except Exception as error:
        first = str(error).splitlines()[0]
        raise SpecdecError(f"llama-cpp-python cannot be loaded: {first}.", _INSTALL) from error
    callback = llama_cpp.llama_log_callback(lambda level, text, _: log.write(level, text.decode("utf-8", "replace")))
    log_set: Any = llama_cpp.llama_log_set
    log_set(callback, ctypes.c_void_p(0))
    llama_cpp.specdec_log_callback = callback  # must outlive every call into the library
    llama_cpp.llama_backend_init()
    _check_commit(llama_cpp)
    if log.echo is None:  # a worker's log is read by its parent, which tells what ended it
        _on_abort(llama_cpp)
    module: ModuleType = llama_cpp
    return module


def _on_abort(module: Any) -> None:
    """Where llama.cpp would abort this process: one line that says why, exit code 1, no dump of its stack."""
    set_callback = _of_ggml(module.llama_cpp._lib, "ggml_set_abort_callback")
    if set_callback is not None:
        module.specdec_abort_callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_last_words)
        set_callback(module.specdec_abort_callback)


def _last_words(message: bytes) -> NoReturn:
    said = [line.strip() for line in log.text("error")[-4:] if "CUDA error" in line or tells_of_memory(line)]
    why = ": ".join([message.decode("utf-8", "replace").strip(), *said[-1:]]).rstrip(".")
    hint = " Take a smaller context, or keep more of the model in RAM." if tells_of_memory(why) else ""
    with suppress(Exception):  # it may be closed, or another thread's to write
        sys.stdout.flush()
    os.write(2, f"specdec: llama.cpp ended the program: {why}.{hint}\n".encode())
    os._exit(1)


def _check_commit(module: ModuleType) -> None:
    """Warn where another llama.cpp was put in place of the one that the structures belong to (LLAMA_CPP_LIB_PATH)."""
    commit = getattr(module.llama_cpp._lib, "ggml_commit", None)
    if commit is None:
        return
    commit.restype = ctypes.c_char_p
    found = (commit() or b"unknown").decode()
    if found[: len(_COMMIT)] != _COMMIT and re.fullmatch(r"[0-9a-f]{7,}(-dirty)?", found):
        warnings.warn(f"this llama.cpp was built from {found}, specdec knows {_COMMIT}: it may crash", stacklevel=2)


def _check_version() -> None:
    found = _installed_version()
    parts = tuple(int(p) for p in found.split(".")[:3] if p.isdigit())
    if not SUPPORTED[0] <= parts < SUPPORTED[1]:
        raise SpecdecError(f"llama-cpp-python {found} is installed; specdec knows 0.3.36.", _INSTALL)


def _installed_version() -> str:
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        # A bare copy of the package's files on PYTHONPATH has no metadata, but says its version itself.
        try:
            import llama_cpp
        except ImportError as error:
            raise SpecdecError(f"llama-cpp-python is not installed: {error}.", _INSTALL) from error
        return str(llama_cpp.__version__)


def library_folder() -> Path:
    """Where the loaded libllama lies."""
    return _folder_of(_handle())


def _folder_of(lib: Any) -> Path:
    return Path(str(lib._name)).resolve().parent


def _handle() -> Any:
    """The loaded libllama (a ctypes library)."""
    return llama().llama_cpp._lib


@cache
def nextn() -> ModuleType:
    """llama-cpp-python's bindings of the functions that MTP needs; not a stable interface, so they may be missing."""
    llama()
    try:
        from llama_cpp import llama_cpp_ext
    except (ImportError, AttributeError) as error:
        raise SpecdecError(f"mtp: this llama-cpp-python lacks the MTP functions: {error}.", _INSTALL) from error
    module: ModuleType = llama_cpp_ext
    return module


def address_function(name: str) -> Any:
    """A function of libllama from a context to an address: an int at once, without a pointer object in between."""
    return ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)((name, _handle()))


def gpu_names() -> list[str]:
    """The GPUs that this llama.cpp build sees, as ggml describes them."""
    count = ggml_function("ggml_backend_dev_count", ctypes.c_size_t, [])
    get = ggml_function("ggml_backend_dev_get", ctypes.c_void_p, [ctypes.c_size_t])
    kind = ggml_function("ggml_backend_dev_type", ctypes.c_int, [ctypes.c_void_p])
    describe = ggml_function("ggml_backend_dev_description", ctypes.c_char_p, [ctypes.c_void_p])
    return [describe(d).decode() for d in map(get, range(count())) if kind(d) in _GPU_KINDS]


def ggml_function(name: str, result: Any, arguments: list[Any]) -> Any:
    """A function of ggml, which libllama has loaded already."""
    function = _of_ggml(_handle(), name)
    if function is None:
        raise SpecdecError(f"this llama.cpp build has no {name}.", _INSTALL)
    function.restype, function.argtypes = result, arguments
    return function


def _of_ggml(lib: Any, name: str) -> Any:
    """A function of ggml or None; Windows looks into the named library only, so there ggml's own are asked."""
    own = getattr(lib, name, None)
    if own is not None:
        return own
    files = (f for stem in ("ggml-base", "ggml", "ggml-cpu") for f in _folder_of(lib).glob(f"*{stem}.dll"))
    return next((f for file in files if (f := getattr(ctypes.CDLL(str(file)), name, None)) is not None), None)


def cpu_has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has AMX tiles."""
    return cpuinfo.exists() and "amx_tile" in cpuinfo.read_text(errors="replace")


def extra_buffers_are_safe() -> bool:
    """False where this build crashes with its extra buffer types on this CPU; probes once, in a child process."""
    if not cpu_has_amx():
        return True
    return probe(_probe_key(), [sys.executable, "-m", "specdec.llama.amx_probe"])


def _probe_key() -> str:
    file = max(library_folder().glob("*ggml-cpu*"), default=None, key=lambda f: f.stat().st_mtime)
    stat = (file or library_folder()).stat()
    return f"{file or library_folder()}:{stat.st_size}:{int(stat.st_mtime)}"


def probe(key: str, command: list[str]) -> bool:
    """Whether ``command`` ends well; remembered under ``key`` in the user's cache folder."""
    from platformdirs import user_cache_path

    store = user_cache_path("specdec") / "amx.json"
    try:
        known = json.loads(store.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        known[key] = done.returncode == 0
        try:
            store.parent.mkdir(parents=True, exist_ok=True)
            store.write_text(json.dumps(known))
        except OSError as error:
            warnings.warn(f"the result of the AMX probe cannot be kept in {store}: {error}", stacklevel=2)
    return bool(known[key])
