"""A loaded GGUF: weights, vocabulary, chat template. Contexts are made from it in target.py."""

from __future__ import annotations

import ctypes
import re
import time
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from specdec.errors import OutOfMemory, SpecdecError, tells_of_memory
from specdec.llama.accounting import buffers
from specdec.llama.devices import devices
from specdec.llama.gguf import Header, whole_header
from specdec.llama.library import extra_buffers_are_safe, ggml_function, gpu_names, llama, log
from specdec.spec import ModelOptions
from specdec.types import MemoryItem, Message, TokenArray

_CACHE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
"""ggml's type numbers (ggml.h, enum ggml_type)."""
_SPLIT_NONE = 0
_FLASH = {"auto": -1, "off": 0, "on": 1}
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LOAD_MODES = {"auto": -1, "none": 0, "mmap": 1}
COPIED_EXPERTS = (
    "experts in RAM: passes of 32 tokens and more, prompts too, copy them to the GPU, which is slow out of a mapped file"
    " (3 to 5 times as slow on one H100, docs/findings.md): use --no-mmap where RAM holds them"
)
"""What llama.cpp's own warning means."""
_MAPPED_EXPERTS = "tensor overrides to CPU are used with mmap enabled"
"""What llama.cpp's log says once (llama-model-loader.cpp)."""
EXPERTS = r"blk\.({layers})\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""The experts of some layers, as --n-cpu-moe means them."""
_SAMPLING_KEYS = ("temp", "top_k", "top_p", "min_p")


class _BufferOverride(ctypes.Structure):
    """llama.h, struct llama_model_tensor_buft_override; llama-cpp-python leaves it out."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p)]


class LlamaModel:
    """Weights in memory.

    Args:
        path: the GGUF; its header is checked before llama.cpp sees it.
        options: offload, load mode and threads (the context's share is used by ``LlamaTarget``).
        mtp: whether to load the MTP layer too; a baseline without it pays nothing for it.
        vocab_only: load no weights: enough to tokenize and to render chats.
        extra_buffers: whether llama.cpp may repack weights for the CPU; None decides by probe where the CPU has AMX.
    """

    def __init__(
        self,
        path: Path,
        options: ModelOptions,
        extra_buffers: bool | None = None,
        mtp: bool = False,
        vocab_only: bool = False,
    ) -> None:
        self.path, self.options, self.mtp = path, options, mtp
        self.header: Header = whole_header(path)
        L = self._lib = llama()
        if extra_buffers is None:
            extra_buffers = extra_buffers_are_safe()
            if not extra_buffers:
                warnings.warn(
                    "this llama.cpp build crashes with this CPU's AMX units: extra buffer types are off (about 10 %"
                    " slower on the CPU); rebuild llama-cpp-python as the README says.",
                    stacklevel=2,
                )
        params = L.llama_model_default_params()
        params.n_gpu_layers = options.gpu_layers
        params.load_mode = _LOAD_MODES[options.load_mode]
        if options.main_gpu >= 0:
            params.main_gpu, params.split_mode = options.main_gpu, _SPLIT_NONE
        params.use_extra_bufts = extra_buffers
        params.load_mtp, params.vocab_only = mtp, vocab_only
        self._keep = _apply_placement(params, options)
        log.clear()
        began = time.perf_counter()
        self.handle = L.llama_model_load_from_file(str(path).encode(), params)
        self.load_s = time.perf_counter() - began
        if not self.handle:
            raise _load_error(path)
        self._buffers = buffers(log.text())
        mapped = any(_MAPPED_EXPERTS in line for line in log.text("warn"))
        if mapped and options.op_offload and runs_on_gpu(options):
            warnings.warn(f"{COPIED_EXPERTS}.", stacklevel=2)
        self.vocab = L.llama_model_get_vocab(self.handle)
        self.n_vocab = int(L.llama_vocab_n_tokens(self.vocab))
        self.width = int(L.llama_model_n_embd(self.handle))
        self.recurrent = bool(L.llama_model_is_recurrent(self.handle) or L.llama_model_is_hybrid(self.handle))
        self._pieces: dict[int, bytes] = {}

    def close(self) -> None:
        """Free the weights; contexts made from them must be closed before."""
        if self.handle:
            self._lib.llama_model_free(self.handle)
            self.handle = None

    def memory(self) -> list[MemoryItem]:
        """Weights, by device."""
        return self._buffers

    @property
    def mtp_bytes(self) -> int:
        """Bytes of the MTP layer's weights."""
        first = self.header.trunk_layers
        layers = tuple(f"blk.{i}." for i in range(first, first + self.header.nextn_layers))
        return sum(t.bytes for t in self.header.tensors if t.name.startswith(layers)) if layers else 0

    @property
    def threads(self) -> int:
        """CPU threads of generation, as asked or by default."""
        return self.options.threads or default_threads()

    def attention(self) -> tuple[int, int, int]:
        """(flash attention, K cache type, V cache type) as llama.cpp's numbers, for a context."""
        o = self.options
        return _FLASH[o.flash_attn], _CACHE_TYPES[o.cache_type_k], _CACHE_TYPES[o.cache_type_v]

    @cached_property
    def description(self) -> str:
        """llama.cpp's one-line description, e.g. ``qwen2 1.5B Q4_K - Medium``."""
        buffer = ctypes.create_string_buffer(256)
        self._lib.llama_model_desc(self.handle, buffer, 256)
        return buffer.value.decode()

    @cached_property
    def end_of_text(self) -> frozenset[int]:
        """All tokens that end a generation."""
        is_end = self._lib.llama_vocab_is_eog
        return frozenset(t for t in range(self.n_vocab) if is_end(self.vocab, t))

    def ordinary(self, token: int) -> bool:
        """Whether a token is part of texts: it ends none and controls nothing."""
        return token not in self.end_of_text and not self._lib.llama_vocab_is_control(self.vocab, token)

    @cached_property
    def first_tokens(self) -> list[int]:
        """What the vocabulary wants at the beginning of a text: begin-of-text, or nothing."""
        wanted = self._lib.llama_vocab_get_add_bos(self.vocab)
        return [int(self._lib.llama_vocab_bos(self.vocab))] if wanted else []

    @property
    def recommended_sampling(self) -> dict[str, float]:
        """What the GGUF recommends under ``general.sampling.*``."""
        found = {k: self.header.metadata.get(f"general.sampling.{k}") for k in _SAMPLING_KEYS}
        return {k: float(v) for k, v in found.items() if v is not None}

    def piece(self, token: int) -> bytes:
        """The bytes of a token; control tokens are rendered as nothing."""
        known = self._pieces.get(token)
        if known is None:
            buffer = ctypes.create_string_buffer(512)
            n = self._lib.llama_token_to_piece(self.vocab, token, buffer, 512, 0, False)
            known = self._pieces[token] = buffer.raw[: max(0, n)]
        return known

    def tokenize(self, text: str, special: bool = True) -> TokenArray:
        """Token ids int32 [n]; ``special`` adds what the vocabulary wants at the start. Special tokens are parsed."""
        return np.array(self.tokenize_bytes(text.encode(), special, parse=True), np.int32)

    def tokenize_bytes(self, raw: bytes, special: bool = False, parse: bool = False) -> list[int]:
        """Token ids of raw bytes; ``parse`` reads the texts of special tokens as these tokens."""
        room = 3 * len(raw) + 16  # bytes that are not UTF-8 become replacement characters of three bytes
        buffer = (ctypes.c_int32 * room)()
        n = self._lib.llama_tokenize(self.vocab, raw, len(raw), buffer, room, special, parse)
        if n < 0:
            raise SpecdecError(f"a text of {len(raw)} bytes cannot be tokenized (llama_tokenize gave {n}).")
        return list(buffer[:n])

    def chat(self, messages: list[Message], thinking: bool) -> TokenArray:
        """Token ids of a conversation in the GGUF's own chat template, ready for the assistant's turn."""
        bos = self._text_of(self._lib.llama_vocab_bos(self.vocab))
        text = self._render(messages, thinking)
        return self.tokenize(text, special=not (bos and text.startswith(bos)))

    def _render(self, messages: list[Message], thinking: bool) -> str:
        try:
            given = [{"role": m.role, "content": m.content} for m in messages]
            return str(self._template(messages=given, enable_thinking=thinking).prompt)
        except SpecdecError:
            raise
        except Exception as error:
            if messages[0].role == "system" and len(messages) > 1:  # some templates know no system role
                first = Message("user", f"{messages[0].content}\n\n{messages[1].content}")
                return self._render([first, *messages[2:]], thinking)
            raise SpecdecError(
                f"{self.path.name}: its chat template refuses these messages: {error}.", "Leave this workload out."
            ) from error

    @cached_property
    def _template(self) -> Any:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        raw = self._lib.llama_model_chat_template(self.handle, None) or b""
        if not raw:
            warnings.warn(f"{self.path.name} has no chat template: ChatML is used, as llama-server does", stacklevel=2)
        tokens = [self._text_of(f(self.vocab)) for f in (self._lib.llama_vocab_eos, self._lib.llama_vocab_bos)]
        return Jinja2ChatFormatter(raw.decode() or _CHATML, eos_token=tokens[0], bos_token=tokens[1])

    def _text_of(self, token: int) -> str:
        return (
            "" if token < 0 else (self._lib.llama_vocab_get_text(self.vocab, token) or b"").decode("utf-8", "replace")
        )


def runs_on_gpu(options: ModelOptions) -> bool:
    """Whether a model with these options computes on a GPU."""
    return options.gpu_layers != 0 and options.device != "none" and bool(gpu_names())


def default_threads() -> int:
    """Physical cores: llama.cpp's matrix kernels gain nothing from a core's second thread, and often lose."""
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def _apply_placement(params: Any, options: ModelOptions) -> list[Any]:
    """Set devices and buffer overrides; returns the arrays that must live as long as the model loads."""
    keep: list[Any] = []
    patterns = [o.rpartition("=") for o in options.override_tensor]
    if any(not pattern for pattern, _, _ in patterns):
        raise SpecdecError("--override-tensor wants PATTERN=BUFFER.", r"Example: 'blk\.1\.ffn_.*_exps=CPU'.")
    overrides = [(pattern, name) for pattern, _, name in patterns]
    if options.n_cpu_moe:
        layers = "|".join(map(str, range(options.n_cpu_moe)))
        overrides.append((EXPERTS.format(layers=layers), "CPU"))
    if overrides:
        array = (_BufferOverride * (len(overrides) + 1))()  # the last one stays empty: the end of the list
        for slot, (pattern, name) in zip(array, overrides, strict=False):
            slot.pattern, slot.buft = checked_pattern(pattern).encode(), _buffer_type(name)
        params.tensor_buft_overrides = ctypes.cast(array, ctypes.c_void_p)
        keep.append(array)
    if options.device:
        names = [] if options.device == "none" else options.device.split(",")
        devices = (ctypes.c_void_p * (len(names) + 1))(*[_device(n) for n in names])
        params.devices = ctypes.cast(devices, ctypes.c_void_p)
        keep.append(devices)
    return keep


def checked_pattern(pattern: str) -> str:
    """The pattern of an override; SpecdecError where it is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise SpecdecError(f"--override-tensor: {pattern!r} is not a regular expression: {error}.") from error
    return pattern


def _buffer_type(name: str) -> int:
    if name == "CPU":
        return int(ggml_function("ggml_backend_cpu_buffer_type", ctypes.c_void_p, [])())
    of_device = ggml_function("ggml_backend_dev_buffer_type", ctypes.c_void_p, [ctypes.c_void_p])
    name_of = ggml_function("ggml_backend_buft_name", ctypes.c_char_p, [ctypes.c_void_p])
    known = {name_of(t).decode(): t for t in map(of_device, devices().values()) if t}
    if name not in known:
        raise SpecdecError(f"--override-tensor: unknown buffer type {name!r}.", f"Known: {', '.join(['CPU', *known])}.")
    return int(known[name])


def _device(name: str) -> int:
    known = devices()
    if name not in known:
        raise SpecdecError(f"--device: unknown device {name!r}.", f"Known: none, {', '.join(known)}.")
    return known[name]


def _load_error(path: Path) -> SpecdecError:
    """One line from llama.cpp's log: what it could not load."""
    errors = log.text("error")
    joined = " ".join(errors)
    if "unknown model architecture" in joined:
        name = re.search(r"unknown model architecture: '([^']*)'", joined)
        arch = name.group(1) if name else "?"
        return SpecdecError(
            f"{path.name}: this llama.cpp does not know the architecture {arch!r}.", "Use another model."
        )
    if tells_of_memory(joined):
        return OutOfMemory(
            f"{path.name}: out of memory while loading ({_shorten(errors)}).",
            "Offload fewer layers (--gpu-layers), or move experts to RAM (--n-cpu-moe).",
        )
    return SpecdecError(f"{path.name}: llama.cpp cannot load it: {_shorten(errors) or 'no reason given'}.")


def _shorten(lines: list[str]) -> str:
    """The last telling error line, without function names."""
    telling = [line for line in lines if "failed to load model" not in line] or lines
    return re.sub(r"^\w+: ", "", telling[0])[:200] if telling else ""
