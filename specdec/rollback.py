"""Undo the rejected part of a draft, the cheapest way that is safe.

A KV cache can be cut at any position. A recurrent state cannot: three of four layers of a Qwen3.5 carry one. For those

* *snapshots*: the last decode kept the states after each of its last ``snapshots + 1`` tokens; llama.cpp's seq_rm then
  steps back. It also returns True where it leaves a STALE state (a whole decode undone, several decodes crossed, a
  second rollback before the next decode): wrong text and no error. ``Rollback`` therefore keeps its own account of the
  last decode and refuses those.
* *checkpoint*: the state is copied before the pass (on the device or to the host); after a rejection it is put back
  and the kept tokens are decoded again.

``auto`` takes snapshots where the draft fits into them, and otherwise a checkpoint before the pass, restored only if
more was rejected than the snapshots hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from specdec.errors import SpecdecError, UnsafeRollback
from specdec.target import TargetMemory
from specdec.types import MemoryItem, TokenArray

Mode = Literal["auto", "snapshots", "checkpoint", "checkpoint-host"]

Way = Literal["", "seq_rm", "snapshots", "checkpoint"]
"""How a step was undone; empty where nothing was."""

SNAPSHOT_LIMIT = 8
"""Longest draft that ``auto`` serves from snapshots: each costs VRAM for one recurrent state (62.8 MiB on 35B-A3B)."""


SNAPSHOT_RESERVE = 512 * 2**20
"""Bytes that ``auto`` leaves free on a device: for the larger compute buffers that come with snapshots, and the desktop."""


def snapshots_short_of(
    count: int, states: list[MemoryItem], free: dict[str, int], reserve: int = SNAPSHOT_RESERVE
) -> str:
    """Where ``count`` snapshots do not fit, in words; empty where they do.

    Args:
        states: what one recurrent state takes, an item for each device.
        free: bytes left on each device; of a device that is not named nothing is known, and it is taken to have room.
        reserve: bytes that must stay free.
    """
    for item in states:
        need, left = count * item.bytes, free.get(item.device)
        if left is not None and need and need + reserve > left:
            return f"{item.device} has {left / 2**20:,.0f} MiB left, they take {need / 2**20:,.0f}"
    return ""


def snapshots_for(mode: Mode, longest_draft: int, recurrent: bool, asked: int | None) -> int:
    """How many snapshots a context needs for drafts of this length; refuses what cannot work, before anything runs.

    ``asked`` is the user's ``--snapshots``, None for automatic.
    """
    if not recurrent:
        if mode != "auto" and longest_draft:
            raise SpecdecError(
                f"--rollback {mode}: this model has attention layers only, its memory is cut with seq_rm.",
                "Leave --rollback at auto.",
            )
        return 0
    if not longest_draft or mode in ("checkpoint", "checkpoint-host"):
        return 0
    if mode == "snapshots":
        if asked is not None and asked < longest_draft:
            raise SpecdecError(
                f"--rollback snapshots: {asked} snapshots cannot hold drafts of up to {longest_draft} tokens.",
                f"Use --snapshots {longest_draft}, shorter drafts, or --rollback auto.",
            )
        return asked if asked is not None else longest_draft
    if asked is not None:
        return asked
    return longest_draft if longest_draft <= SNAPSHOT_LIMIT else 0


class Rollback:
    """Keeps the account of what the target's memory holds and undoes what was rejected.

    Args:
        memory: the target's memory.
        mode: which way to take.
        redecode: decodes tokens again at a position, without outputs; used after a checkpoint was restored.
    """

    def __init__(self, memory: TargetMemory, mode: Mode, redecode: Callable[[TokenArray, int], None]) -> None:
        self._memory = memory
        self._mode = mode
        self._redecode = redecode
        self.n_redecoded = 0
        self.forget()

    def forget(self) -> None:
        """The memory was cleared."""
        self.restart(0)

    def restart(self, end: int) -> None:
        """The memory holds ``end`` tokens that this account knows nothing about: none of them can be undone."""
        self._end = end
        self._last = 0
        self._undone = True
        self._saved: int | None = None

    @property
    def end(self) -> int:
        """How many tokens the target's memory holds."""
        return self._end

    def before_pass(self, n_draft: int) -> None:
        """Before a target pass with ``n_draft`` draft tokens: save what may have to be restored."""
        self._saved = None
        if not n_draft or not self._memory.recurrent or self._mode == "snapshots":
            return
        if self._mode == "auto" and n_draft <= self._memory.snapshots:
            return
        self._memory.save(on_device=self._mode != "checkpoint-host")
        self._saved = self._end

    def decoded(self, start: int, n: int) -> None:
        """The target has decoded ``n`` tokens from position ``start``."""
        if start != self._end:
            raise UnsafeRollback(f"a decode at position {start} does not continue a memory of {self._end} tokens.")
        self._end, self._last, self._undone = start + n, n, False

    def keep(self, length: int, context: TokenArray) -> Way:
        """Make the memory hold exactly the first ``length`` tokens of ``context``; says which way was taken."""
        rejected = self._end - length
        if rejected == 0:
            return ""
        if rejected < 0:
            raise UnsafeRollback(f"cannot keep {length} tokens of a memory of {self._end}.")
        if not self._memory.recurrent:
            self._cut(length)
            return "seq_rm"
        if self._mode in ("auto", "snapshots") and self._snapshots_reach(rejected):
            self._cut(length)
            self._undone = True
            return "snapshots"
        if self._saved is None or self._saved > length:
            raise UnsafeRollback(
                f"cannot undo {rejected} tokens of a recurrent memory: the last decode had {self._last} tokens,"
                f" {self._memory.snapshots} snapshots are kept, undone already: {self._undone}, no checkpoint."
            )
        self._restore(length, context)
        return "checkpoint"

    def _snapshots_reach(self, rejected: int) -> bool:
        return not self._undone and rejected <= min(self._memory.snapshots, self._last - 1)

    def _restore(self, length: int, context: TokenArray) -> None:
        saved = self._saved
        assert saved is not None
        self._memory.restore()
        self._cut(saved)  # the recurrent state stands at saved - 1 again: this removes KV entries only
        self._undone, self._saved = True, None
        again = context[saved:length]
        if len(again):
            self._redecode(again, saved)
            self.n_redecoded += len(again)
            self.decoded(saved, len(again))

    def _cut(self, length: int) -> None:
        if not self._memory.remove_from(length):
            raise UnsafeRollback(f"llama.cpp refused to cut the memory at position {length}.")
        self._end = length
