"""Strategies that do what must not take a run down, for the tests of worker processes."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import sys
import time
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


def go_wrong(how: str) -> None:
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "abort":
        os.abort()
    elif how == "sleep":
        time.sleep(1e6)
    elif how == "spin":  # in C, and the interpreter's lock is never let go
        sum(itertools.repeat(1, 10**15))
    elif how == "eat":
        while True:
            KEPT.append(bytearray(os.urandom(1) * (32 << 20)))
    elif how == "eat-shared":  # counts to no limit that the process could set itself
        while True:
            KEPT.append(mmap.mmap(-1, 32 << 20))
            KEPT[-1].write(b"x" * (32 << 20))
            time.sleep(0.05)
    elif how == "exit":
        sys.exit(3)
    elif how == "raise":
        raise ValueError("boom")


class Faulty(Strategy):
    """Drafts nothing, and goes wrong as told."""

    name = "faulty"
    Options = Options

    def _fault(self, where: str) -> None:
        o: Any = self.options
        if o.where == where and (not o.on or Path(o.on).exists()):
            go_wrong(o.how)

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
        time.sleep(0.01)
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
