"""Write tiny GGUF models of the architectures with MTP layers, with random weights; and MTP layers in a file of their own.

For tests and probes, beside ``nano.py`` (qwen35moe). Tensor names and shapes are those that llama.cpp's
src/models/{qwen35,qwen3next,glm4-moe,step35,mimo2,hy-v3}.cpp read. The attention window of step35 and mimo2 is short
enough that ordinary prompts leave it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import gguf

from specdec.testing.nano import VOCABULARY, Quant, Shapes, finish, write_out

_WIDTH, _HEADS, _KV_HEADS, _HEAD, _FF = 128, 4, 2, 32, 128
_EXPERTS, _USED, _EXPERT_FF = 4, 2, 64
_K_HEADS, _V_HEADS, _STATE, _CONV = 2, 4, 32, 4
_LAYERS, _WINDOW = 4, 24
_NEXTN = "nextn_predict_layers"


def write_heads(path: Path, architecture: str, heads: int = 1, quant: Quant = "Q5_1", seed: int = 0) -> Path:
    """Write a model with ``heads`` MTP layers to ``path``; the architectures are the keys of ``LAYERS``."""
    writer = gguf.GGUFWriter(path, architecture)
    _common(writer, heads)
    if architecture in ("qwen35", "qwen3next"):
        _recurrent(writer, architecture)
    if architecture == "qwen35":
        writer.add_rope_dimension_sections([3, 3, 2, 0])
    else:
        writer.add_expert_feed_forward_length(_EXPERT_FF)
    if architecture in ("qwen3next", "glm4moe"):
        writer.add_expert_count(_EXPERTS)
        writer.add_expert_used_count(_USED)
    if architecture == "qwen3next":
        writer.add_expert_shared_feed_forward_length(_EXPERT_FF)
    if architecture == "glm4moe":
        writer.add_expert_shared_count(1)
        writer.add_leading_dense_block_count(1)
    if architecture in ("step35", "mimo2"):
        writer.add_sliding_window(_WINDOW)
        writer.add_sliding_window_pattern([i % 2 == 1 or i >= _LAYERS for i in range(_LAYERS + heads)])
    finish(writer, _shapes(LAYERS[architecture], heads), quant, seed)
    return path


def write_part(source: Path, path: Path, part: Literal["mtp", "trunk"]) -> Path:
    """Split a model as llama.cpp's converter does.

    ``mtp`` keeps what ``convert_hf_to_gguf.py --mtp`` keeps: the MTP layers, embeddings, output norm and output head,
    and the whole header; ``trunk`` what ``--no-mtp`` keeps, with a header that knows of no MTP layer.
    """
    reader = gguf.GGUFReader(source)
    values = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = str(values.pop("general.architecture").contents())
    blocks, nextn = f"{architecture}.block_count", f"{architecture}.{_NEXTN}"
    total = int(values[blocks].contents())
    first = total - int(values[nextn].contents())
    writer = gguf.GGUFWriter(path, architecture)
    for name, field in values.items():
        if part == "trunk" and name in (blocks, nextn):
            continue
        kind, value = field.types[0], field.contents()
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        if inner is not None and part == "trunk" and name.startswith(f"{architecture}.") and len(value) == total:
            value = value[:first]  # one value a layer
        writer.add_key_value(name, value, kind, inner)
    if part == "trunk":
        writer.add_uint32(blocks, first)
    for tensor in reader.tensors:
        layer = int(tensor.name.split(".")[1]) if tensor.name.startswith("blk.") else None
        if layer is None or (layer >= first) == (part == "mtp"):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    write_out(writer)
    return path


def _common(w: gguf.GGUFWriter, heads: int) -> None:
    w.add_name(f"tiny-{w.arch} with {heads} MTP layers (random weights)")
    w.add_block_count(_LAYERS + heads)
    w.add_context_length(8192)
    w.add_embedding_length(_WIDTH)
    w.add_feed_forward_length(_FF)
    w.add_head_count(_HEADS)
    w.add_head_count_kv(_KV_HEADS)
    w.add_key_length(_HEAD)
    w.add_value_length(_HEAD)
    w.add_rope_dimension_count(_HEAD // 2 if w.arch in ("qwen35", "qwen3next") else _HEAD)
    w.add_rope_freq_base(1e6)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_uint32(f"{w.arch}.{_NEXTN}", heads)


def _recurrent(w: gguf.GGUFWriter, architecture: str) -> None:
    w.add_ssm_conv_kernel(_CONV)
    w.add_ssm_inner_size(_V_HEADS * _STATE)
    w.add_ssm_state_size(_STATE)
    w.add_ssm_time_step_rank(_V_HEADS)
    w.add_ssm_group_count(_K_HEADS)
    w.add_uint32(f"{architecture}.full_attention_interval", 4)


def _shapes(layer: Callable[[str, int, bool], Shapes], heads: int) -> Shapes:
    yield from [("token_embd.weight", (VOCABULARY, _WIDTH)), ("output.weight", (VOCABULARY, _WIDTH))]
    yield "output_norm.weight", (_WIDTH,)
    for i in range(_LAYERS + heads):
        p = f"blk.{i}."
        yield p + "attn_norm.weight", (_WIDTH,)
        yield from layer(p, i, i >= _LAYERS)
        if i >= _LAYERS:
            yield p + "nextn.eh_proj.weight", (_WIDTH, 2 * _WIDTH)
            yield from [(p + f"nextn.{x}.weight", (_WIDTH,)) for x in ("enorm", "hnorm", "shared_head_norm")]


def _qwen35(p: str, i: int, mtp: bool) -> Shapes:
    yield p + "post_attention_norm.weight", (_WIDTH,)
    if mtp or i % 4 == 3:
        yield from _attention(p, gated=True)
    else:
        yield from _delta_net(p)
        yield from [(p + f"ssm_{x}.weight", (_V_HEADS, _WIDTH)) for x in ("beta", "alpha")]
    yield from _dense(p)


def _qwen3next(p: str, i: int, mtp: bool) -> Shapes:
    yield p + "post_attention_norm.weight", (_WIDTH,)
    if mtp or i % 4 == 3:
        yield from _attention(p, gated=True)
    else:
        yield from _delta_net(p)
        yield p + "ssm_ba.weight", (2 * _V_HEADS, _WIDTH)
    yield p + "ffn_gate_inp_shexp.weight", (_WIDTH,)
    yield from _experts(p)


def _glm4moe(p: str, i: int, mtp: bool) -> Shapes:
    yield p + "post_attention_norm.weight", (_WIDTH,)
    yield from _attention(p)
    if i == 0:
        yield from _dense(p)
    else:
        yield p + "exp_probs_b.bias", (_EXPERTS,)
        yield from _experts(p)


def _step35(p: str, i: int, mtp: bool) -> Shapes:
    yield p + "ffn_norm.weight", (_WIDTH,)
    yield p + "attn_gate.weight", (_HEADS, _WIDTH)
    yield from _attention(p)
    yield from _dense(p)


def _mimo2(p: str, i: int, mtp: bool) -> Shapes:
    yield p + "ffn_norm.weight", (_WIDTH,)
    yield p + "attn_qkv.weight", ((_HEADS + 2 * _KV_HEADS) * _HEAD, _WIDTH)
    yield p + "attn_output.weight", (_WIDTH, _HEADS * _HEAD)
    yield from _dense(p)


def _hy_v3(p: str, i: int, mtp: bool) -> Shapes:
    yield p + "ffn_norm.weight", (_WIDTH,)
    yield from _attention(p)
    yield from _dense(p)


LAYERS: dict[str, Callable[[str, int, bool], Shapes]] = {
    "qwen35": _qwen35,
    "qwen3next": _qwen3next,
    "glm4moe": _glm4moe,
    "step35": _step35,
    "mimo2": _mimo2,
    "hy_v3": _hy_v3,
}
"""Architecture -> the tensors of a layer: (prefix, index, whether it is an MTP layer)."""


def _attention(p: str, gated: bool = False) -> Shapes:
    q, kv = _HEADS * _HEAD, _KV_HEADS * _HEAD
    yield from [(p + "attn_q.weight", (q * (1 + gated), _WIDTH)), (p + "attn_output.weight", (_WIDTH, q))]
    yield from [(p + f"attn_{x}.weight", (kv, _WIDTH)) for x in "kv"]
    yield from [(p + f"attn_{x}_norm.weight", (_HEAD,)) for x in "qk"]


def _delta_net(p: str) -> Shapes:
    inner, key = _V_HEADS * _STATE, _K_HEADS * _STATE
    yield from [(p + "attn_qkv.weight", (2 * key + inner, _WIDTH)), (p + "attn_gate.weight", (inner, _WIDTH))]
    yield from [(p + "ssm_conv1d.weight", (2 * key + inner, _CONV)), (p + "ssm_norm.weight", (_STATE,))]
    yield from [(p + "ssm_dt.bias", (_V_HEADS,)), (p + "ssm_a", (_V_HEADS,)), (p + "ssm_out.weight", (_WIDTH, inner))]


def _dense(p: str) -> Shapes:
    yield from [(p + f"ffn_{x}.weight", (_FF, _WIDTH)) for x in ("gate", "up")]
    yield p + "ffn_down.weight", (_WIDTH, _FF)


def _experts(p: str) -> Shapes:
    yield p + "ffn_gate_inp.weight", (_EXPERTS, _WIDTH)
    yield from [(p + f"ffn_{x}_exps.weight", (_EXPERTS, _EXPERT_FF, _WIDTH)) for x in ("gate", "up")]
    yield p + "ffn_down_exps.weight", (_EXPERTS, _WIDTH, _EXPERT_FF)
    yield from [(p + f"ffn_{x}_shexp.weight", (_EXPERT_FF, _WIDTH)) for x in ("gate", "up")]
    yield p + "ffn_down_shexp.weight", (_WIDTH, _EXPERT_FF)
