"""Write tiny GGUF models with random weights: real architectures, real kernels, meaningless text. For tests and probes.

``hybrid``: qwen35moe, gated-DeltaNet and attention layers 3:1, experts, one MTP layer: the shape of Qwen3.5-35B-A3B at
1/1000 of its size. ``dense``: llama, attention only. The tensor names and shapes are those that llama.cpp's
src/models/qwen35moe.cpp and llama.cpp read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import numpy.typing as npt

Kind = Literal["hybrid", "dense"]
Quant = Literal["F32", "Q8_0", "Q5_1"]

VOCABULARY = 512
_WIDTH, _HEADS, _KV_HEADS, _HEAD = 128, 4, 2, 32
_EXPERTS, _USED, _EXPERT_FF = 8, 2, 64
_K_HEADS, _V_HEADS, _STATE, _CONV = 2, 4, 32, 4
_LAYERS = 4
_TEMPLATE = (
    "{% for m in messages %}<|endoftext|>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def write_nano(
    path: Path, kind: Kind, quant: Quant = "Q5_1", seed: int = 0, n_vocab: int = VOCABULARY, template: str = ""
) -> Path:
    """Write a model of about 1 MB (at the default vocabulary) to ``path``.

    Q5_1 is the default for a reason: llama.cpp's CPU kernels for it treat every token of a batch alone, so results do
    not depend on the batch's shape and can be compared bit for bit. F32 and Q8_0 take tiled kernels from 2 tokens on.
    """
    writer = gguf.GGUFWriter(path, "qwen35moe" if kind == "hybrid" else "llama")
    _metadata(writer, kind)
    finish(writer, _hybrid(n_vocab) if kind == "hybrid" else _dense(n_vocab), quant, seed, n_vocab, template)
    return path


def finish(
    writer: gguf.GGUFWriter, shapes: Shapes, quant: Quant, seed: int, n_vocab: int = VOCABULARY, template: str = ""
) -> None:
    """Add vocabulary, chat template and random tensors of these shapes (rows first) to a writer, and write the file."""
    rng = np.random.default_rng(seed)
    _vocabulary(writer, n_vocab)
    writer.add_chat_template(template or _TEMPLATE)
    for name, shape in shapes:
        _add(writer, name, _weights(rng, name, shape), quant)
    write_out(writer)


def write_out(writer: gguf.GGUFWriter) -> None:
    """Write what the writer holds, and close it."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _metadata(w: gguf.GGUFWriter, kind: Kind) -> None:
    w.add_name(f"nano-{kind} (random weights)")
    w.add_block_count(_LAYERS + (kind == "hybrid"))
    w.add_context_length(8192)
    w.add_embedding_length(_WIDTH)
    w.add_feed_forward_length(_EXPERT_FF if kind == "hybrid" else 2 * _WIDTH)
    w.add_head_count(_HEADS)
    w.add_head_count_kv(_KV_HEADS)
    w.add_rope_dimension_count(_HEAD // 2 if kind == "hybrid" else _HEAD)
    w.add_rope_freq_base(1e6)
    w.add_layer_norm_rms_eps(1e-6)
    if kind == "dense":
        return
    w.add_key_length(_HEAD)
    w.add_value_length(_HEAD)
    w.add_rope_dimension_sections([3, 3, 2, 0])
    w.add_expert_count(_EXPERTS)
    w.add_expert_used_count(_USED)
    w.add_expert_feed_forward_length(_EXPERT_FF)
    w.add_expert_shared_feed_forward_length(_EXPERT_FF)
    w.add_ssm_conv_kernel(_CONV)
    w.add_ssm_inner_size(_V_HEADS * _STATE)
    w.add_ssm_state_size(_STATE)
    w.add_ssm_time_step_rank(_V_HEADS)
    w.add_ssm_group_count(_K_HEADS)
    w.add_uint32("qwen35moe.full_attention_interval", 4)
    w.add_uint32("qwen35moe.nextn_predict_layers", 1)


def _vocabulary(w: gguf.GGUFWriter, n_vocab: int) -> None:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + k) for k in range(256 - len(printable))]
    words = [f"tok{i}" for i in range(n_vocab - len(letters) - 2)]
    w.add_vocab_size(n_vocab)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list([*letters, *words, "<|endoftext|>", "<|im_end|>"])
    w.add_token_types([1] * (n_vocab - 2) + [3, 3])
    w.add_token_merges(["t o"])
    w.add_bos_token_id(n_vocab - 2)
    w.add_eos_token_id(n_vocab - 1)
    w.add_add_bos_token(False)


def _dense(n_vocab: int) -> Shapes:
    yield from _ends(n_vocab)
    for i in range(_LAYERS):
        p = f"blk.{i}."
        yield from [(p + "attn_norm.weight", (_WIDTH,)), (p + "ffn_norm.weight", (_WIDTH,))]
        yield from [
            (p + "attn_q.weight", (_HEADS * _HEAD, _WIDTH)),
            (p + "attn_output.weight", (_WIDTH, _HEADS * _HEAD)),
        ]
        yield from [(p + f"attn_{x}.weight", (_KV_HEADS * _HEAD, _WIDTH)) for x in "kv"]
        yield from [(p + f"ffn_{x}.weight", (2 * _WIDTH, _WIDTH)) for x in ("gate", "up")]
        yield p + "ffn_down.weight", (_WIDTH, 2 * _WIDTH)


def _hybrid(n_vocab: int) -> Shapes:
    yield from _ends(n_vocab)
    for i in range(_LAYERS + 1):
        p, mtp = f"blk.{i}.", i == _LAYERS
        yield from [(p + "attn_norm.weight", (_WIDTH,)), (p + "post_attention_norm.weight", (_WIDTH,))]
        yield from _gated_attention(p) if mtp or i % 4 == 3 else _delta_net(p)
        yield from _experts(p)
        if mtp:
            yield p + "nextn.eh_proj.weight", (_WIDTH, 2 * _WIDTH)
            yield from [(p + f"nextn.{x}.weight", (_WIDTH,)) for x in ("enorm", "hnorm", "shared_head_norm")]


def _ends(n_vocab: int) -> Shapes:
    yield from [("token_embd.weight", (n_vocab, _WIDTH)), ("output.weight", (n_vocab, _WIDTH))]
    yield "output_norm.weight", (_WIDTH,)


def _gated_attention(p: str) -> Shapes:
    q, kv = _HEADS * _HEAD, _KV_HEADS * _HEAD
    yield from [(p + "attn_q.weight", (2 * q, _WIDTH)), (p + "attn_output.weight", (_WIDTH, q))]
    yield from [(p + "attn_k.weight", (kv, _WIDTH)), (p + "attn_v.weight", (kv, _WIDTH))]
    yield from [(p + "attn_q_norm.weight", (_HEAD,)), (p + "attn_k_norm.weight", (_HEAD,))]


def _delta_net(p: str) -> Shapes:
    inner, key = _V_HEADS * _STATE, _K_HEADS * _STATE
    yield from [(p + "attn_qkv.weight", (2 * key + inner, _WIDTH)), (p + "attn_gate.weight", (inner, _WIDTH))]
    yield from [
        (p + "ssm_conv1d.weight", (2 * key + inner, _CONV)),
        (p + "ssm_dt.bias", (_V_HEADS,)),
        (p + "ssm_a", (_V_HEADS,)),
    ]
    yield from [(p + "ssm_beta.weight", (_V_HEADS, _WIDTH)), (p + "ssm_alpha.weight", (_V_HEADS, _WIDTH))]
    yield from [(p + "ssm_norm.weight", (_STATE,)), (p + "ssm_out.weight", (_WIDTH, inner))]


def _experts(p: str) -> Shapes:
    yield p + "ffn_gate_inp.weight", (_EXPERTS, _WIDTH)
    yield from [(p + f"ffn_{x}_exps.weight", (_EXPERTS, _EXPERT_FF, _WIDTH)) for x in ("gate", "up")]
    yield p + "ffn_down_exps.weight", (_EXPERTS, _WIDTH, _EXPERT_FF)
    yield p + "ffn_gate_inp_shexp.weight", (_WIDTH,)
    yield from [(p + f"ffn_{x}_shexp.weight", (_EXPERT_FF, _WIDTH)) for x in ("gate", "up")]
    yield p + "ffn_down_shexp.weight", (_WIDTH, _EXPERT_FF)


def _weights(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if "norm" in name:
        return np.ones(shape, np.float32)
    draw = rng.standard_normal(shape)
    if name.endswith("ssm_a"):
        return (-np.abs(draw) - 0.05).astype(np.float32)
    scale = 3.0 * shape[-1] ** -0.5 if len(shape) > 1 else 0.1
    return (draw * scale).astype(np.float32)


def _add(writer: gguf.GGUFWriter, name: str, data: npt.NDArray[np.float32], quant: Quant) -> None:
    kind = gguf.GGMLQuantizationType[quant]
    if quant == "F32" or data.ndim < 2 or data.shape[-1] % 32:
        writer.add_tensor(name, data)
    else:
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
