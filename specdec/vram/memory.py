"""The parts of a model's memory, each by llama.cpp's own formula, from the header alone.

Sources, in llama.cpp: llama-model.cpp (placement), llama-kv-cache.cpp (rows of K and V for each attention layer, the
context rounded up to 256), llama-memory-recurrent.cpp and llama-hparams.cpp (n_embd_r, n_embd_s; F32; 1 + n_rs_seq states).
Sliding windows are counted as full attention: an upper bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from specdec.errors import SpecdecError
from specdec.llama.fit import first_on_gpu, placed
from specdec.llama.gguf import Header
from specdec.spec import ModelOptions
from specdec.types import MemoryItem
from specdec.vram.overheads import DENSE_SCRATCH, EXPERTS_SCRATCH, compute, vocabulary_size

GPU, CPU = "GPU", "CPU"
_F32 = 4
_FLOATS = ("f16", "bf16", "f32")
_UNKNOWN_STATES = ("time_mix", "ssm_conv1d_q", "indexer")
"""In names of tensors: layers whose memory has another form (RWKV, Kimi's delta attention, sparse attention's index)."""


def weights(header: Header, options: ModelOptions, mtp: bool = False) -> list[MemoryItem]:
    """The weights on the GPU and in RAM, without those of the MTP layer (``mtp_weights``)."""
    return _by_device("weights", ((ram, t.bytes) for t, ram in placed(header, options, True, False)))


def mtp_weights(header: Header, options: ModelOptions) -> list[MemoryItem]:
    """The weights of the MTP layers, which only a strategy that drafts with them has loaded."""
    layers = tuple(f"blk.{i}." for i in range(header.trunk_layers, int(header.get("block_count", 0))))
    own = ((ram, t.bytes) for t, ram in placed(header, options, True, True) if t.name.startswith(layers))
    return _by_device("weights", own) if layers else []


def kv(header: Header, options: ModelOptions, n_ctx: int, mtp: bool = False) -> list[MemoryItem]:
    """The KV cache of the trunk, or with ``mtp`` that of the MTP layers' own context."""
    cells = -(-n_ctx // 256) * 256
    layers = range(header.trunk_layers, int(header.get("block_count", 0))) if mtp else range(header.trunk_layers)
    first = first_on_gpu(int(header.get("block_count", 0)), options.gpu_layers)
    kinds = _layer_kinds(header)
    sizes = ((i < first, cells * _kv_row(header, options, i)) for i in layers if "attention" in kinds[i])
    return _by_device("KV", sizes)


def recurrent(header: Header, options: ModelOptions) -> list[MemoryItem]:
    """One recurrent state of each layer that has one; a snapshot is as large."""
    kinds = _layer_kinds(header)
    first = first_on_gpu(int(header.get("block_count", 0)), options.gpu_layers)
    state = _state_bytes(header)
    layers = (i for i in range(header.trunk_layers) if "recurrent" in kinds[i])
    return _by_device("recurrent", ((i < first, state) for i in layers))


def output(header: Header, rows: int, hidden_rows: int = 0) -> list[MemoryItem]:
    """Logits, and hidden rows where they are kept: in RAM."""
    size = rows * vocabulary_size(header) + hidden_rows * int(header.get("embedding_length", 0))
    return [MemoryItem(CPU, "output", size * _F32)]


def compute_buffer(
    header: Header,
    options: ModelOptions,
    n_ctx: int,
    n_ubatch: int,
    rows: int,
    mtp: bool = False,
) -> list[MemoryItem]:
    """The compute buffer, room for the largest matrix that lies in RAM and is copied to the GPU for long batches
    (``op_offload``; each such copy begins a split of its own, so one at a time), and what CUDA takes beside."""
    if options.gpu_layers == 0:
        return []
    flash = options.flash_attn != "off"
    converted = _converted(header, options, n_ctx) if flash else 0
    scratch = EXPERTS_SCRATCH if int(header.get("expert_count", 0)) else DENSE_SCRATCH
    items = [
        MemoryItem(GPU, "compute", compute(header, n_ctx, n_ubatch, rows, flash, converted)),
        MemoryItem(GPU, "scratch", scratch),
    ]
    copied = 0
    if options.op_offload and not mtp:
        copied = max(
            (t.bytes for t, ram in placed(header, options, True) if ram and t.name.startswith("blk.")), default=0
        )
    return items + ([MemoryItem(GPU, "copies", copied)] if copied else [])


def on(device: str, items: Iterable[MemoryItem]) -> int:
    """Bytes on a device."""
    return sum(i.bytes for i in items if i.device == device)


def _by_device(kind: str, sizes: Iterable[tuple[bool, int]]) -> list[MemoryItem]:
    total = {GPU: 0, CPU: 0}
    for in_ram, n in sizes:
        total[CPU if in_ram else GPU] += n
    return [MemoryItem(device, kind, n) for device, n in total.items() if n]


@lru_cache(maxsize=32)
def _layer_kinds(header: Header) -> list[set[str]]:
    """For each layer of the file what its memory is: attention, recurrent, both or neither."""
    kinds: list[set[str]] = [set() for _ in range(int(header.get("block_count", 0)))]
    for layer, name in _of_layers(header):
        if any(word in name for word in _UNKNOWN_STATES):
            raise SpecdecError(
                f"{header.path.name}: the memory of the architecture {header.architecture!r} is not known to the planner.",
                "Its layers keep a state of another form (tensor " + name + ").",
            )
        if name.startswith(("ssm_", "shortconv")):
            kinds[layer].add("recurrent")
        if name.startswith(("attn_k.", "attn_kv_a_mqa.", "attn_qkv.")):
            kinds[layer].add("attention")
    plain = {layer for layer, name in _of_layers(header) if name.startswith(("attn_k.", "attn_kv_a_mqa."))}
    for layer, kind in enumerate(kinds):
        if "recurrent" in kind and layer not in plain:
            kind.discard("attention")  # a DeltaNet layer's attn_qkv feeds its convolution, not a KV cache
    return kinds


def _of_layers(header: Header) -> Iterator[tuple[int, str]]:
    for tensor in header.tensors:
        found = re.match(r"blk\.(\d+)\.(.*)", tensor.name)
        if found:
            yield int(found[1]), found[2]


def _kv_row(header: Header, options: ModelOptions, layer: int) -> int:
    """Bytes of one token in one layer's K and V."""
    rank = int(header.get("attention.kv_lora_rank", 0))
    if rank:  # latent attention: one compressed row, no V
        return _row_bytes(options.cache_type_k, rank + int(header.get("rope.dimension_count", 0)))
    heads = _per_layer(header, "attention.head_count", layer)
    kv_heads = _per_layer(header, "attention.head_count_kv", layer) or heads
    default = int(header.get("embedding_length", 0)) // heads if heads else 0
    k, v = (int(header.get(f"attention.{x}_length", default)) for x in ("key", "value"))
    return _row_bytes(options.cache_type_k, k * kv_heads) + _row_bytes(options.cache_type_v, v * kv_heads)


def _converted(header: Header, options: ModelOptions, n_ctx: int) -> int:
    """Bytes of the widest layer's K and V as F16, where the cache is quantised."""
    if options.cache_type_k in _FLOATS and options.cache_type_v in _FLOATS:
        return 0
    plain = options.model_copy(update={"cache_type_k": "f16", "cache_type_v": "f16"})
    kinds = _layer_kinds(header)
    rows = (_kv_row(header, plain, i) for i in range(len(kinds)) if "attention" in kinds[i])
    return -(-n_ctx // 256) * 256 * max(rows, default=0)


def _per_layer(header: Header, key: str, layer: int) -> int:
    value = header.get(key, 0)
    return int(value[min(layer, len(value) - 1)]) if isinstance(value, list) else int(value)


def _row_bytes(kind: str, n: int) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
    return -(-n // int(block)) * int(size)


def _state_bytes(header: Header) -> int:
    """One layer's recurrent state: the convolution's last inputs and the state proper, F32."""
    cache = int(header.get("shortconv.l_cache", 0))
    if cache:
        return (cache - 1) * int(header.get("embedding_length", 0)) * _F32
    inner, state = int(header.get("ssm.inner_size", 0)), int(header.get("ssm.state_size", 0))
    convolved = inner + 2 * int(header.get("ssm.group_count", 0)) * state
    return (max(0, int(header.get("ssm.conv_kernel", 0)) - 1) * convolved + state * inner) * _F32
