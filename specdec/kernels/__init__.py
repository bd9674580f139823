"""Inner loops with one source and two speeds: run by Python as they stand, or compiled by Numba.

A live run takes them as they stand: a few microseconds a step beside a target pass of milliseconds, and no import of
Numba. A replay, which has no target pass, compiles them (``compiled``). Both give the same results; the tests compare.

A kernel keeps to what both understand: scalars and arrays as arguments, unsigned 64-bit arithmetic with an explicit
mask. Compiled, its 64-bit constants come as ``np.uint64`` (``unsigned``), and wrap by themselves; in Python they are
plain integers, and the mask wraps them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_compiling = False


def kernel(function: F) -> F:
    """Decorator: compile this function in the compiled copy of its module."""
    return _jit(function) if _compiling else function


def kernel_or(plain: Callable[..., Any]) -> Callable[[F], F]:
    """Decorator: the same, and outside the compiled copy ``plain`` takes its place: a NumPy version, equal in result,
    of a loop that Python would run slowly."""

    def choose(function: F) -> F:
        return _jit(function) if _compiling else plain  # type: ignore[return-value]

    return choose


def _jit(function: F) -> F:
    import numba

    return numba.njit(cache=True)(function)  # type: ignore[no-any-return]


@cache
def available() -> bool:
    """Whether Numba is installed (the extra ``replay``); it is not imported."""
    return importlib.util.find_spec("numba") is not None


@cache
def compiled(module: ModuleType) -> ModuleType:
    """A copy of a kernel module whose kernels are compiled; compiled code is kept on disk beside it, or in Numba's
    cache folder where that cannot be written."""
    global _compiling
    name = f"{module.__name__}_compiled"
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    sys.modules[name] = copy  # Numba finds the globals of cached code by this name
    _compiling = True
    try:
        spec.loader.exec_module(copy)
    finally:
        _compiling = False
    return copy
