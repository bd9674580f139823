"""What the loop asks of a target: decode tokens, hand out logits, undo. llama.cpp's is in specdec/llama/."""

from __future__ import annotations

from typing import Literal, Protocol

from specdec.types import FloatArray, TokenArray

Outputs = Literal["none", "last", "all"]


class TargetMemory(Protocol):
    """What the target remembers of the tokens decoded so far (one sequence)."""

    @property
    def recurrent(self) -> bool:
        """True where some layers keep a recurrent state."""

    @property
    def snapshots(self) -> int:
        """How many recurrent states before the last one the most recent decode keeps; 0 without."""

    def remove_from(self, position: int) -> bool:
        """Forget the tokens at ``position`` and later. True says only that llama.cpp did not refuse: see rollback.py."""

    def save(self, on_device: bool, slot: int = 0) -> None:
        """Keep a copy of the recurrent state: one a slot, the latest wins; on the device there is one slot only."""

    def restore(self, slot: int = 0) -> None:
        """Put the saved recurrent state back. The KV cache's tail is still to be removed."""

    def checkpoint_bytes(self) -> int:
        """Size of one recurrent state as saved now."""

    def clear(self) -> None:
        """Forget everything."""


class Target(Protocol):
    """A language model with one sequence. Positions count from 0."""

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""

    @property
    def n_ctx(self) -> int:
        """Context length, tokens."""

    @property
    def n_batch(self) -> int:
        """Most tokens of one decode."""

    @property
    def end_of_text(self) -> frozenset[int]:
        """Tokens that end a generation."""

    @property
    def memory(self) -> TargetMemory:
        """What it remembers."""

    def decode(self, ids: TokenArray, start: int, outputs: Outputs) -> FloatArray:
        """Decode ``ids`` (int32 [n], n <= n_batch) at positions start, start+1, ...

        Returns logits float32 [rows, n_vocab]: n rows for ``all``, 1 for ``last``, 0 for ``none``. The array is valid
        until the next decode and may be written to. Blocks until the logits are there.
        """

    def hidden_rows(self) -> FloatArray:
        """Hidden rows float32 [n, width] of the last decode's tokens, where the target was made to keep them."""

    def take_experts(self) -> list[int] | None:
        """Distinct experts of each layer since the last call; None where they are not counted."""

    def piece(self, token: int) -> bytes:
        """The bytes of a token, special tokens rendered as nothing."""
