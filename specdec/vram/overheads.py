"""What no formula gives, and where each figure comes from. Bytes.

llama.cpp's compute buffer holds the tensors of its largest graph that are alive at the same time. For the layers known
here its peak is the widest moment of one layer (``widest``), times the tokens computed at once; it agrees with
llama.cpp's own figure (a CPU build, simulated allocation) within 3 % or 1 MiB for both shapes of Qwen3.5 at
128, 512 and 1,024 tokens and contexts of 4,096 to 131,072 (tests/test_vram.py holds the figures), and within 1 % for small
models of the architecture llama, dense and with experts. What CUDA adds, from its source and from figures on an H100:
``converted``, and the constants below.
"""

from __future__ import annotations

from specdec.llama.gguf import Header

MIB = 2**20

CUDA_CONTEXT = 527 * MIB
"""What a process pays on the card before it allocates anything: CUDA's context. Measured by NVML on one H100 (driver
580.159.04, CUDA 13): 526.8 MiB. Consumer cards probably take less; none was measured."""

KERNELS = 68 * MIB
"""What CUDA loads at the first pass and keeps until the process ends. Measured there: 68 MiB are left when everything is
freed."""

EXPERTS_SCRATCH, DENSE_SCRATCH = 136 * MIB, 32 * MIB
"""What a context takes beyond its buffers, with and without experts: ggml-cuda's pool for temporaries, graphs, and cuBLAS
(the routers' F32 matrices use it; a handle and a workspace for each context: 32 MiB from Hopper on, 4 MiB before,
ggml-cuda/common.cuh). Measured there, upper end: 114 to 136 MiB for contexts of the 35B-A3B shape and its MTP layer, 8 to
25 MiB for the 0.8B shape (results/reference/plan-h100.txt)."""

PAGE_TABLE_SHARE = 512
"""Of weights in pinned RAM (no mapped file) the card holds a page table: 8 bytes for each 4 KiB. Measured there: 18 MiB
for the 9.9 GiB of 22 layers' experts (results/reference/plan-h100.txt)."""

_F32 = 4


def widest(header: Header) -> int:
    """Numbers per token that one layer keeps alive at its widest moment.

    A gated-DeltaNet layer: its convolution's input, the same with the state in front, its output, the gate, the residual.
    A feed-forward of wide experts, or a dense one: gate, up and their product, four times the model's width beside them. Of
    narrow experts: the chosen ones' outputs, the same weighted, the shared one's, the residual. Attention: queries with
    their gate, the output, the residual.
    """
    width, inner, state = (_largest(header, k) for k in ("embedding_length", "ssm.inner_size", "ssm.state_size"))
    convolved = inner + 2 * _largest(header, "ssm.group_count") * state
    used, heads = _largest(header, "expert_used_count"), _largest(header, "attention.head_count")
    wide = _largest(header, "feed_forward_length")
    expert = _largest(header, "expert_feed_forward_length") or wide
    head = _largest(header, "attention.key_length") or (width // heads if heads else 0)
    moments = [3 * convolved + inner + width] if inner else []
    moments += [2 * used * width + 2 * width, 3 * used * expert + 4 * width] if used else []
    dense = any(t.name.endswith(("ffn_up.weight", "ffn_gate.weight")) for t in header.tensors)
    moments += [3 * wide + 4 * width] if dense else []
    return max([*moments, 3 * heads * head + 2 * width])


def compute(header: Header, n_ctx: int, n_ubatch: int, rows: int, flash: bool, converted: int = 0) -> int:
    """The compute buffer of a context, but for copies of weights that lie in RAM.

    Args:
        n_ubatch: tokens computed at once; rows: rows of logits made room for.
        flash: whether flash attention runs; else the scores of all heads are kept.
        converted: bytes of one layer's K and V as F16: CUDA's flash attention turns a quantised cache into F16 for a pass
            of three tokens or more (two before Ada; ggml-cuda/fattn.cu), and has room for all of it.
    """
    width, heads, head = (
        _largest(header, k) for k in ("embedding_length", "attention.head_count", "attention.key_length")
    )
    mask = n_ubatch * n_ctx * (2 if flash else _F32)
    layer = n_ubatch * widest(header) * _F32
    if not flash:
        attention = 4 * heads * (head or width // max(1, heads)) + 2 * width
        layer = max(layer, n_ubatch * (n_ctx * heads + attention) * _F32)
    if converted:
        layer = max(layer, n_ubatch * (5 * heads * head + 2 * width + 3 * head) * _F32 + converted)
    output = (rows * vocabulary_size(header) + (n_ubatch + 2 * rows) * width) * _F32
    return max(layer, output) + mask


def vocabulary_size(header: Header) -> int:
    """Tokens of the vocabulary, by the embedding's shape."""
    return next((t.shape[-1] for t in header.tensors if t.name == "token_embd.weight"), 0)


def _largest(header: Header, key: str) -> int:
    """A value of the architecture, the largest where each layer has its own."""
    value = header.get(key, 0)
    return max(value) if isinstance(value, list) else int(value)
