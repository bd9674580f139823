"""Between two vocabularies, through text: the draft reads the target's text in its own tokens, its guess is read back.

The idea is universal assisted generation (Hugging Face) and Timor et al. 2502.05202 (string-level exact match). It is
lossless because the target verifies its own tokens as ever; a poor translation only costs acceptance.
"""

from __future__ import annotations

import numpy as np

from specdec.llama.model import LlamaModel
from specdec.types import TokenArray

_BORDER = 8
"""Draft tokens at the end of the text that are tokenized anew when text is added: what follows can change them."""
_ANCHORS = (4, 2, 1, 0)
"""Target tokens before the guess that its tokenization must reproduce; fewer are tried if more do not fit."""


class Translator:
    """Keeps one growing text in both vocabularies. State: ``ids`` are draft tokens, ``ends`` their ends in the text."""

    def __init__(self, target: LlamaModel, draft: LlamaModel) -> None:
        self._target, self._draft = target, draft
        self._restart()

    def _restart(self) -> None:
        self._context = np.empty(0, np.int32)
        self._text = bytearray()
        self._ids: list[int] = []
        self._ends: list[int] = []

    def to_draft(self, context: TokenArray) -> TokenArray | None:
        """The context in draft tokens, int32 [m]; None where it ends inside a character or the texts differ."""
        n = len(self._context)
        if len(context) < n or not np.array_equal(context[:n], self._context):
            self._restart()
            n = 0
        for token in context[n:].tolist():
            self._text += self._target.piece(token)
        self._context = context.copy()
        if not _whole(self._text):
            return None
        keep = max(0, len(self._ids) - _BORDER)
        while keep and self._ends[keep - 1] < len(self._text) and self._text[self._ends[keep - 1]] & 0xC0 == 0x80:
            keep -= 1  # this border lies inside a character
        del self._ids[keep:], self._ends[keep:]
        offset = self._ends[-1] if self._ends else 0
        rest = bytes(self._text[offset:])
        new = self._draft.tokenize_bytes(rest)
        pieces = [self._draft.piece(t) for t in new]
        if b"".join(pieces) != rest:
            self._restart()  # a vocabulary that adds or drops characters cannot be followed exactly
            return None
        for token, piece in zip(new, pieces, strict=True):
            offset += len(piece)
            self._ids.append(token)
            self._ends.append(offset)
        return np.array(self._ids, np.int32)

    def to_target(self, context: TokenArray, guess: list[int]) -> list[int]:
        """Target tokens for the draft's ``guess``; empty where the texts do not meet at a border."""
        text = b"".join(self._draft.piece(t) for t in guess)
        for n in _ANCHORS:
            if n > len(context):
                continue
            anchor = context[len(context) - n :].tolist()
            before = b"".join(self._target.piece(t) for t in anchor)
            ids = self._target.tokenize_bytes(before + text) if _whole(before + text) else []
            if len(ids) > n and ids[:n] == anchor:
                return ids[n:]
        return []


def _whole(text: bytes | bytearray) -> bool:
    """Whether the text ends with a whole character (UTF-8; 4 bytes are the longest)."""
    tail = bytes(text[-4:])
    for back in range(1, len(tail) + 1):
        byte = tail[-back]
        if byte & 0xC0 != 0x80:  # the first byte of the last character
            need = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back >= need
    return not tail
