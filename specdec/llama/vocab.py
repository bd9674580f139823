"""Whether a draft model speaks the target's vocabulary: llama.cpp's rules, on headers alone.

The rules are those of ``common_speculative_are_compatible`` (llama.cpp, common/speculative.cpp): same kind of
vocabulary; begin-of-text and end-of-text added alike, and then the same tokens; sizes within 128; texts equal from
token 5 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.llama.gguf import Header, read_header

_LARGEST_DIFFERENCE = 128
_FIRST_COMPARED = 5
_DEFAULT_BOS = 11
"""What llama.cpp takes for a BPE vocabulary without a begin-of-text id (llama-vocab.cpp)."""


@dataclass(frozen=True, slots=True)
class VocabularyMatch:
    """The result: ``reasons`` why not (none: compatible), ``warnings`` that do not break drafting."""

    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def compatible(self) -> bool:
        """Whether llama.cpp would accept the pair."""
        return not self.reasons


def match_vocabularies(target: Path, draft: Path) -> VocabularyMatch:
    """Compare two GGUF files by their headers; a second for 20 GB with 248 k tokens."""
    t, d = read_header(target, whole_arrays=True), read_header(draft, whole_arrays=True)
    return VocabularyMatch(tuple(_reasons(t, d)), tuple(_warnings(t, d)))


def _reasons(t: Header, d: Header) -> list[str]:
    kinds = [_value(h, "model") for h in (t, d)]
    if kinds[0] != kinds[1]:
        return [f"kinds of vocabulary differ: target {kinds[0]!r}, draft {kinds[1]!r}"]
    reasons = [r for r in (_special(t, d, "bos"), _special(t, d, "eos")) if r]
    tokens = [_value(h, "tokens") or [] for h in (t, d)]
    sizes = [len(x) for x in tokens]
    if abs(sizes[0] - sizes[1]) > _LARGEST_DIFFERENCE:
        reasons.append(f"vocabularies differ: target {sizes[0]} tokens, draft {sizes[1]}")
    for i in range(_FIRST_COMPARED, min(sizes)):
        if tokens[0][i] != tokens[1][i]:
            reasons.append(f"token {i} differs: target {tokens[0][i]!r}, draft {tokens[1][i]!r}")
            break
    return reasons


def _special(t: Header, d: Header, which: str) -> str | None:
    adds = [_adds(h, which) for h in (t, d)]
    name = {"bos": "begin-of-text", "eos": "end-of-text"}[which]
    if adds[0] != adds[1]:
        return f"{name} is added by the {'target' if adds[0] else 'draft'} only"
    ids = [_value(h, f"{which}_token_id") for h in (t, d)]
    return f"{name} differs: target {ids[0]}, draft {ids[1]}" if adds[0] and ids[0] != ids[1] else None


def _warnings(t: Header, d: Header) -> list[str]:
    """Special tokens that differ without breaking drafting, with the override that mends them."""
    lines = []
    for which in ("bos", "eos", "padding"):
        key = f"{which}_token_id"
        ids = [_value(h, key) for h in (t, d)]
        if ids[0] == ids[1]:
            continue
        falls = f" (llama.cpp falls back to {_DEFAULT_BOS})" if which == "bos" and ids[1] is None else ""
        mend = f"; with llama.cpp: --override-kv tokenizer.ggml.{key}=int:{ids[0]}" if ids[0] is not None else ""
        lines.append(f"{key}: target {_shown(ids[0])}, draft {_shown(ids[1])}{falls}{mend}")
    return lines


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _adds(header: Header, which: str) -> bool:
    stated = _value(header, f"add_{which}_token")
    # SentencePiece vocabularies add begin-of-text unless they say otherwise (llama-vocab.cpp).
    return bool(stated) if stated is not None else which == "bos" and _value(header, "model") == "llama"


def _value(header: Header, key: str) -> Any:
    return header.metadata.get(f"tokenizer.ggml.{key}")
