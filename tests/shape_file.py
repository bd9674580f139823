"""A GGUF that has the header of a big model and no data: a sparse file, for everything that reads headers alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as QT

VOCABULARY = 248320
_35B = {"width": 2048, "heads": 16, "layers": 40, "k_heads": 16, "v_heads": 32, "ff": 512, "experts": 256}
_08B = {"width": 1024, "heads": 8, "layers": 24, "k_heads": 16, "v_heads": 16, "ff": 3584, "experts": 0}
_KV, _HEAD, _STATE, _CONV = 2, 256, 128, 4


def write_35b(path: Path, n_vocab: int = VOCABULARY) -> Path:
    """The shape of Qwen3.5-35B-A3B: experts Q4_K, embeddings Q4_K, output Q6_K, the rest Q8_0; 20.9 GB, of which some MB
    lie on the disk. ``n_vocab`` shortens the list of tokens, not the tensors."""
    return _write(path, _35B, n_vocab)


def write_08b(path: Path, n_vocab: int = VOCABULARY) -> Path:
    """The shape of Qwen3.5-0.8B, a dense hybrid of the same vocabulary: a draft model."""
    return _write(path, _08B, n_vocab)


def write_llama(path: Path, ff: int, experts: int = 0, used: int = 0) -> Path:
    """Two layers of the architecture llama, 256 wide, zeros: small enough to be loaded."""
    width, layers = 256, 2
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(layers)
    w.add_context_length(4096)
    w.add_embedding_length(width)
    w.add_feed_forward_length(ff)
    w.add_head_count(4)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(64)
    w.add_vocab_size(64)
    w.add_tokenizer_model("no_vocab")
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(used)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (64, width), "output": (64, width), "output_norm": (width,)}
    for i in range(layers):
        several, ending = ((experts,), "_exps") if experts else ((), "")
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (width,),
            "ffn_norm": (width,),
            "ffn_gate_inp": (experts, width),
        }
        layer |= {f"attn_{x}": (width, width) for x in ("q", "k", "v", "output")}
        layer |= {f"ffn_{x}{ending}": (*several, ff, width) for x in ("gate", "up")}
        layer |= {f"ffn_down{ending}": (*several, width, ff)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items() if all(shape)}
    for name, shape in shapes.items():
        exact = len(shape) == 1 or "gate_inp" in name
        w.add_tensor(f"{name}.weight", np.zeros(shape, np.float32 if exact else np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def _write(path: Path, s: dict[str, int], n_vocab: int) -> Path:
    arch = "qwen35moe" if s["experts"] else "qwen35"
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(s["layers"] + 1)
    w.add_context_length(262144)
    w.add_embedding_length(s["width"])
    w.add_feed_forward_length(s["ff"])
    w.add_head_count(s["heads"])
    w.add_head_count_kv(_KV)
    w.add_key_length(_HEAD)
    w.add_value_length(_HEAD)
    w.add_rope_dimension_count(64)
    w.add_rope_dimension_sections([11, 11, 10, 0])
    w.add_rope_freq_base(1e7)
    w.add_layer_norm_rms_eps(1e-6)
    if s["experts"]:
        w.add_expert_count(s["experts"])
        w.add_expert_used_count(8)
        w.add_expert_feed_forward_length(s["ff"])
        w.add_expert_shared_feed_forward_length(s["ff"])
    w.add_ssm_conv_kernel(_CONV)
    w.add_ssm_inner_size(s["v_heads"] * _STATE)
    w.add_ssm_state_size(_STATE)
    w.add_ssm_time_step_rank(s["v_heads"])
    w.add_ssm_group_count(s["k_heads"])
    w.add_uint32(f"{arch}.full_attention_interval", 4)
    w.add_uint32(f"{arch}.nextn_predict_layers", 1)
    w.add_vocab_size(n_vocab)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen35")
    w.add_token_list([f"tok{i}" for i in range(n_vocab)])
    w.add_token_types([1] * n_vocab)
    w.add_token_merges(["t o"])
    tensors = list(_tensors(s))
    for name, shape, kind in tensors:
        w.add_tensor_info(name, list(shape), np.dtype(np.float32), _bytes(shape, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    size = path.stat().st_size if w.fout is None else w.fout[0].tell()
    w.close()
    with open(path, "r+b") as file:
        file.truncate(size + sum(-(-_bytes(shape, kind) // 32) * 32 for _, shape, kind in tensors) + 32)
    return path


def _tensors(s: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...], QT]]:
    width, layers = s["width"], s["layers"]
    yield "token_embd.weight", (VOCABULARY, width), QT.Q4_K
    yield "output_norm.weight", (width,), QT.F32
    yield "output.weight", (VOCABULARY, width), QT.Q6_K
    for i in range(layers + 1):
        for name, shape, kind in _layer(s, attention=i == layers or (i + 1) % 4 == 0, mtp=i == layers):
            yield f"blk.{i}.{name}", shape, kind


def _layer(s: dict[str, int], attention: bool, mtp: bool) -> Iterator[tuple[str, tuple[int, ...], QT]]:
    width, ff, n = s["width"], s["ff"], s["experts"]
    inner, key, q, kv = s["v_heads"] * _STATE, s["k_heads"] * _STATE, s["heads"] * _HEAD, _KV * _HEAD
    big: dict[str, tuple[int, ...]]
    small: dict[str, tuple[int, ...]] = {"attn_norm.weight": (width,), "post_attention_norm.weight": (width,)}
    if attention:
        big = {"attn_q.weight": (2 * q, width), "attn_k.weight": (kv, width), "attn_v.weight": (kv, width)}
        big |= {"attn_output.weight": (width, q)}
        small |= {"attn_q_norm.weight": (_HEAD,), "attn_k_norm.weight": (_HEAD,)}
    else:
        big = {"attn_qkv.weight": (2 * key + inner, width), "attn_gate.weight": (inner, width)}
        big |= {"ssm_beta.weight": (s["v_heads"], width), "ssm_alpha.weight": (s["v_heads"], width)}
        big |= {"ssm_out.weight": (width, inner)}
        small |= {"ssm_conv1d.weight": (2 * key + inner, _CONV), "ssm_dt.bias": (s["v_heads"],)}
        small |= {"ssm_a": (s["v_heads"],), "ssm_norm.weight": (_STATE,)}
    ending = "_shexp.weight" if n else ".weight"
    big |= {"ffn_gate" + ending: (ff, width), "ffn_up" + ending: (ff, width), "ffn_down" + ending: (width, ff)}
    if n:
        small |= {"ffn_gate_inp.weight": (n, width), "ffn_gate_inp_shexp.weight": (width,)}
        for name, shape in {"gate": (n, ff, width), "up": (n, ff, width), "down": (n, width, ff)}.items():
            yield f"ffn_{name}_exps.weight", shape, QT.Q4_K
    if mtp:
        big |= {"nextn.eh_proj.weight": (width, 2 * width)}
        small |= {f"nextn.{x}.weight": (width,) for x in ("enorm", "hnorm", "shared_head_norm")}
    for name, shape in big.items():
        yield name, shape, QT.Q8_0
    for name, shape in small.items():
        yield name, shape, QT.F32


def _bytes(shape: tuple[int, ...], kind: QT) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block * size
