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
_SENTINELS = (b"\n", b"\x02")
"""Put before a text that goes on, where a vocabulary adds a space to what it takes for the beginning of a text."""


class Splitter:
    """Splits texts that go on into a model's tokens, exactly.

    SentencePiece vocabularies add a space to every text: tokens of "ing" are those of " ing". Behind a sentinel that is
    a token of its own the text stays as it is; the sentinel's tokens and the added space are then taken off. The space
    stands only where a text begins, because the model knows beginnings in no other way.
    """

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._space = b"" if b"".join(model.piece(t) for t in model.tokenize_bytes(b"a")) == b"a" else b" "

    def split(self, text: bytes, begins: bool = False) -> list[tuple[int, int]] | None:
        """(token, bytes of the text) of the whole ``text``; None where the vocabulary cannot say it exactly.

        ``begins``: nothing stands before it.
        """
        found: list[tuple[int, int]] = []
        at = 0
        while at < len(text):  # more than once where a token in the text makes the rest a new beginning
            taken = self._take(text[at:], begins and at == 0)
            if not taken:
                return None
            found += taken
            at += sum(n for _, n in taken)
        return found

    def _take(self, text: bytes, begins: bool) -> list[tuple[int, int]]:
        """The first tokens of ``text``, as many as are exact."""
        sentinels = _SENTINELS if self._space else ()
        for sentinel in (b"", *sentinels) if begins or not self._space else sentinels:
            ids = self._model.tokenize_bytes(sentinel + text)
            taken = self._exact(ids, self._space + sentinel + text, len(text), bool(sentinel))
            if any(n for _, n in taken):
                return taken
        return []

    def _exact(self, ids: list[int], whole: bytes, length: int, cut: bool) -> list[tuple[int, int]]:
        """The tokens that read as ``whole`` does, with their bytes in its last ``length``; those before cut off."""
        taken: list[tuple[int, int]] = []
        at, border = 0, len(whole) - length
        for token in ids:
            piece = self._model.piece(token)
            end = at + len(piece)
            if not piece or not whole.startswith(piece, at) or (cut and at < border < end):
                break
            if end > border or not cut:
                taken.append((token, max(0, end - border) - max(0, at - border)))
            at = end
        return taken


class Translator:
    """Keeps one growing text in both vocabularies. State: ``ids`` are draft tokens, ``ends`` their ends in the text."""

    def __init__(self, target: LlamaModel, draft: LlamaModel) -> None:
        self._target, self._draft = target, draft
        self._to_target, self._to_draft = Splitter(target), Splitter(draft)
        self._first = draft.first_tokens
        self._restart()

    def _restart(self) -> None:
        self._context = np.empty(0, np.int32)
        self._text = bytearray()
        self._ids: list[int] = list(self._first)
        self._ends: list[int] = [0] * len(self._ids)

    def to_draft(self, context: TokenArray) -> TokenArray | None:
        """The context in draft tokens, int32 [m]; None where it ends inside a character or the texts differ.

        Where the draft's vocabulary wants it, the tokens start with begin-of-text and an added space.
        """
        n = len(self._context)
        if len(context) < n or not np.array_equal(context[:n], self._context):
            self._restart()
            n = 0
        for token in context[n:].tolist():
            self._text += self._target.piece(token)
        self._context = context.copy()
        if not _whole(self._text):
            return None
        keep = max(len(self._first), len(self._ids) - _BORDER)
        while keep > len(self._first) and not self._may_end(self._ends[keep - 1]):
            keep -= 1
        del self._ids[keep:], self._ends[keep:]
        offset = self._ends[-1] if self._ends else 0
        new = self._to_draft.split(bytes(self._text[offset:]), begins=offset == 0)
        if new is None:
            self._restart()  # a vocabulary that cannot say this text cannot follow it
            return None
        for token, length in new:
            offset += length
            self._ids.append(token)
            self._ends.append(offset)
        return np.array(self._ids, np.int32)

    def _may_end(self, end: int) -> bool:
        """Whether tokens up to here can stay: neither the added space alone, nor a piece of a character."""
        return end > 0 and (end == len(self._text) or self._text[end] & 0xC0 != 0x80)

    def to_target(self, context: TokenArray, guess: list[int]) -> list[int]:
        """Target tokens for the draft's ``guess``; empty where the texts do not meet at a border."""
        text = b"".join(self._draft.piece(t) for t in guess)
        for n in _ANCHORS:
            if n > len(context):
                continue
            anchor = context[len(context) - n :].tolist()
            before = b"".join(self._target.piece(t) for t in anchor)
            found = self._to_target.split(before + text) if _whole(before + text) else None
            ids = [token for token, _ in found or ()]
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
