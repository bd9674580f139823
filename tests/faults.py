"""Strategies that do what must not take a run down, for the tests of worker processes."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from specdec import Draft, Strategy
from specdec.strategy import StrategyOptions

KEPT: list[Any] = []


class Options(StrategyOptions):
    how: str = Field("", description="what goes wrong")
    where: str = Field("propose", description="the method in which it goes wrong")
    on: str = Field("", description="only while this file exists")


def eat() -> None:
    while True:
        KEPT.append(bytearray(os.urandom(1) * (32 << 20)))


def eat_shared() -> None:
    """Memory that counts to no limit which a process could set itself."""
    while True:
        KEPT.append(mmap.mmap(-1, 32 << 20))
        KEPT[-1].write(b"x" * (32 << 20))
        time.sleep(0.05)


def fail_assertion() -> None:
    """llama.cpp's own way out."""
    from specdec.llama.library import ggml_function

    abort = ggml_function("ggml_abort", None, [ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p])
    abort(b"ggml.c", 7, b"GGML_ASSERT(n_tokens > 0) failed")


def lack_vram() -> None:
    """What ggml-cuda does."""
    os.write(2, b"CUDA error: out of memory\n")
    os.abort()


WAYS: dict[str, Callable[[], object]] = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "assert": fail_assertion,
    "cuda": lack_vram,
    "sleep": lambda: time.sleep(1e6),
    "spin": lambda: sum(itertools.repeat(1, 10**15)),  # in C, and the interpreter's lock is never let go
    "eat": eat,
    "eat-shared": eat_shared,
    "exit": lambda: sys.exit(3),
    "raise": lambda: [][1],
}


class Faulty(Strategy):
    """Drafts nothing, and goes wrong as told."""

    name = "faulty"
    Options = Options

    def _fault(self, where: str) -> None:
        o: Any = self.options
        if o.where == where and (not o.on or Path(o.on).exists()):
            WAYS.get(o.how, lambda: None)()

    def open(self, services: Any) -> None:
        self._fault("open")

    def propose(self, context: Any, max_tokens: int) -> Draft:
        self._fault("propose")
        return Draft([])

    def close(self) -> None:
        self._fault("close")


class Longer(list[int]):
    """A draft whose beginnings are longer than asked for."""

    def __getitem__(self, i: Any) -> Any:
        return [7, *super().__getitem__(i)] if isinstance(i, slice) else super().__getitem__(i)


class Liar(Strategy):
    """Slips a token in that was never verified: what is emitted is not what the steps account for."""

    name = "liar"

    def propose(self, context: Any, max_tokens: int) -> Draft:
        return Draft(Longer([1]))


class Recorder(Strategy):
    """Takes its time, and leaves a line for each generation that it has seen to the end."""

    name = "recorder"

    def propose(self, context: Any, max_tokens: int) -> Draft:
        time.sleep(0.005)
        return Draft([int(context[-1])])

    def end(self) -> None:
        with open("ended.txt", "a") as file:
            file.write("x\n")


class Printer(Strategy):
    """Talks, and reads what is not for it."""

    name = "printer"

    def propose(self, context: Any, max_tokens: int) -> Draft:
        print("a line of the strategy's own")
        os.write(1, b'{"done": true}\n')
        assert sys.stdin.read() == ""
        return Draft([])
