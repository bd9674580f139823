"""Whether a draft model speaks the target's vocabulary: llama.cpp's rules, on headers alone.

The rules are those of ``common_speculative_are_compatible`` (llama.cpp, common/speculative.cpp): same kind of
vocabulary; begin-of-text and end-of-text added alike, and then the same tokens; sizes within 128; texts equal from
token 5 on. What a file does not say is what llama.cpp's ``llama_vocab::impl::load`` (src/llama-vocab.cpp) takes for it:
that depends on the kind of vocabulary and, for byte-pair vocabularies, on the pre-tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.llama.gguf import Header, read_header

_LARGEST_DIFFERENCE = 128
_FIRST_COMPARED = 5


@dataclass(frozen=True, slots=True)
class _Kind:
    """What llama.cpp takes where a file says nothing: which tokens are added, and their ids."""

    type: str
    add_bos: bool = False
    add_eos: bool = False
    bos: int | None = None
    eos: int | None = None


_KINDS = {
    "llama": _Kind("SentencePiece", add_bos=True, bos=1, eos=2),
    "gpt2": _Kind("byte-pair", bos=11, eos=11),
    "hybriddna": _Kind("byte-pair", bos=11, eos=11),
    "whitespace": _Kind("byte-pair", bos=11, eos=11),
    "gemma4": _Kind("byte-pair"),
    "bert": _Kind("WordPiece", add_bos=True, bos=101),
    "t5": _Kind("unigram", add_eos=True, eos=1),
    "plamo2": _Kind("PLaMo-2", bos=1, eos=2),
}
"""By ``tokenizer.ggml.model``; others (rwkv, none) have no such tokens."""
_ADD_BOS = frozenset(
    [
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "jina-v5-nano",
        "tekken",
        "chameleon",
    ]
)
"""Pre-tokenizers (``tokenizer.ggml.pre``) whose byte-pair vocabularies add begin-of-text unless the file says not to."""
_ALWAYS_BOS = frozenset(("gemma4", "granite-embed-multi-311m"))
"""Those that add it whatever the file says."""
_NO_BOS = frozenset(("chatglm-bpe", "glm4", "glm5"))
"""Those that have no begin-of-text unless the file names it."""


@dataclass(frozen=True, slots=True)
class VocabularyMatch:
    """The result: ``reasons`` why not (none: compatible), ``warnings`` that do not break drafting, tokens in each."""

    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    sizes: tuple[int, int]

    @property
    def compatible(self) -> bool:
        """Whether llama.cpp would accept the pair."""
        return not self.reasons


def match_vocabularies(target: Path, draft: Path) -> VocabularyMatch:
    """Compare two GGUF files by their headers; a second for 20 GB with 248 k tokens."""
    return compare_vocabularies(read_header(target, whole_arrays=True), read_header(draft, whole_arrays=True))


def compare_vocabularies(target: Header, draft: Header) -> VocabularyMatch:
    """Compare two headers that were read with their whole arrays."""
    sizes = len(_value(target, "tokens") or ()), len(_value(draft, "tokens") or ())
    return VocabularyMatch(tuple(_reasons(target, draft)), tuple(_warnings(target, draft)), sizes)


def _reasons(t: Header, d: Header) -> list[str]:
    kinds = [str(_value(h, "model")) for h in (t, d)]
    if len({_kind(h).type for h in (t, d)}) > 1:
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
    adds = [adds_token(h, which) for h in (t, d)]
    name = {"bos": "begin-of-text", "eos": "end-of-text"}[which]
    if adds[0] != adds[1]:
        return f"{name} is added by the {'target' if adds[0] else 'draft'} only"
    ids = [token_id(h, which) for h in (t, d)]
    return f"{name} differs: target {_shown(ids[0])}, draft {_shown(ids[1])}" if adds[0] and ids[0] != ids[1] else None


def _warnings(t: Header, d: Header) -> list[str]:
    """Special tokens that differ without breaking drafting, with the override that mends them."""
    lines = []
    for which in ("bos", "eos", "padding"):
        key = f"{which}_token_id"
        ids = [_value(h, key) for h in (t, d)]
        if ids[0] == ids[1]:
            continue
        default = token_id(d, which) if ids[1] is None else None
        falls = f" (llama.cpp falls back to {default})" if default is not None else ""
        mend = f"; with llama.cpp: --override-kv tokenizer.ggml.{key}=int:{ids[0]}" if ids[0] is not None else ""
        lines.append(f"{key}: target {_shown(ids[0])}, draft {_shown(ids[1])}{falls}{mend}")
    return lines


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def adds_token(header: Header, which: str) -> bool:
    """Whether llama.cpp adds begin-of-text (``bos``) or end-of-text (``eos``) to a prompt of this model."""
    kind, pre = _kind(header), _pre(header)
    if which == "bos" and pre in _ALWAYS_BOS:
        return True
    stated = _value(header, f"add_{which}_token")
    if stated is not None:
        return bool(stated)
    return kind.add_bos or pre in _ADD_BOS if which == "bos" else kind.add_eos


def token_id(header: Header, which: str) -> int | None:
    """The id that llama.cpp uses for begin-of-text (``bos``), end-of-text (``eos``), ...: stated, or its default.

    An id beyond the vocabulary counts as not stated, as llama.cpp has it; None where there is no such token.
    """
    size = len(_value(header, "tokens") or ()) or header.arrays.get("tokenizer.ggml.tokens", 0)
    stated = _value(header, f"{which}_token_id")
    if stated is not None and int(stated) < size:
        return int(stated)
    default = {"bos": _kind(header).bos, "eos": _kind(header).eos}.get(which)
    if default is None or default >= size or (which == "bos" and _pre(header) in _NO_BOS):
        return None
    return default


def _kind(header: Header) -> _Kind:
    name = str(_value(header, "model"))
    return _KINDS.get(name, _Kind(name))


def _pre(header: Header) -> str:
    """The pre-tokenizer; only byte-pair vocabularies have one."""
    name = str(_value(header, "model"))
    if name == "gemma4":
        return name
    return str(_value(header, "pre") or "default") if _kind(header).type == "byte-pair" else ""


def _value(header: Header, key: str) -> Any:
    return header.metadata.get(f"tokenizer.ggml.{key}")
