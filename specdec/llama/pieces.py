"""Token texts from a GGUF's header alone: no weights, no llama.cpp library.

The rules are llama.cpp's ``llama_token_to_piece`` without special tokens (src/llama-vocab.cpp): byte-pair vocabularies
spell bytes as the characters of GPT-2's ``bytes_to_unicode``; SentencePiece writes a space as U+2581 and a byte as
``<0x0A>``; control and unknown tokens have no text.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from specdec.llama.gguf import read_header

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BYTE_PAIR = frozenset(("gpt2", "hybriddna", "whitespace"))


class Pieces:
    """The texts of a vocabulary's tokens, as bytes."""

    def __init__(self, path: Path) -> None:
        metadata = read_header(path, whole_arrays=True).metadata
        self._tokens: list[str] = metadata.get("tokenizer.ggml.tokens") or []
        self._types: list[int] = metadata.get("tokenizer.ggml.token_type") or []
        self._byte_pair = str(metadata.get("tokenizer.ggml.model")) in _BYTE_PAIR

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none for control tokens and for ids that the vocabulary does not have."""
        if not 0 <= token < len(self._tokens):
            return b""
        text, kind = self._tokens[token], self._types[token] if token < len(self._types) else 1
        if kind in (_UNKNOWN, _CONTROL):
            return b""
        if self._byte_pair:
            return text.encode() if kind == _USER_DEFINED else _from_characters(text)
        if byte := _BYTE.fullmatch(text):
            return bytes([int(byte[1], 16)])
        return text.replace("\u2581", " ").encode()


def _from_characters(text: str) -> bytes:
    known = _bytes_of()
    return b"".join(bytes([known[c]]) if c in known else c.encode() for c in text)


@cache
def _bytes_of() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
