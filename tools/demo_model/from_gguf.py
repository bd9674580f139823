"""Rebuild the PyTorch target from a GGUF file (dequantised): the inverse of the converter's changes."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from model import TargetConfig, Trunk
from mtp import MTP
from torch import Tensor

_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "attn_qkv.weight": "linear_attn.in_proj_qkv.weight",
    "attn_gate.weight": "linear_attn.in_proj_z.weight",
    "ssm_alpha.weight": "linear_attn.in_proj_a.weight",
    "ssm_beta.weight": "linear_attn.in_proj_b.weight",
    "ssm_conv1d.weight": "linear_attn.conv1d.weight",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_a": "linear_attn.A_log",
    "ssm_norm.weight": "linear_attn.norm.weight",
    "ssm_out.weight": "linear_attn.out_proj.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
    "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
    "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight",
    "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
    "ffn_down_exps.weight": "mlp.experts.down_proj",
}
_MTP = {
    "nextn.eh_proj.weight": "fc.weight",
    "nextn.enorm.weight": "pre_fc_norm_embedding.weight",
    "nextn.hnorm.weight": "pre_fc_norm_hidden.weight",
    "nextn.shared_head_norm.weight": "norm.weight",
}


def _grouped(x: Tensor, c: TargetConfig, width: int, dim: int = 0) -> Tensor:
    """Value heads from llama.cpp's tiled order back to the checkpoint's grouped order along a dimension."""
    x = x.movedim(dim, 0)
    repeat = c.linear_num_value_heads // c.linear_num_key_heads
    y = x.reshape(repeat, c.linear_num_key_heads, width, *x.shape[1:]).transpose(0, 1).reshape(x.shape)
    return y.movedim(0, dim)


def _restore(name: str, x: Tensor, c: TargetConfig) -> Tensor:
    """One tensor as the checkpoint has it."""
    width = c.linear_value_head_dim
    keys = 2 * c.linear_num_key_heads * c.linear_key_head_dim
    if name == "attn_qkv.weight" or name == "ssm_conv1d.weight":
        x = torch.cat([x[:keys], _grouped(x[keys:], c, width)])
        return x[:, None] if name.startswith("ssm") else x
    if name == "attn_gate.weight":
        return _grouped(x, c, width)
    if name in ("ssm_alpha.weight", "ssm_beta.weight", "ssm_dt.bias"):
        return _grouped(x, c, 1)
    if name == "ssm_a":
        return _grouped(torch.log(-x), c, 1)
    if name == "ssm_out.weight":
        return _grouped(x, c, width, dim=1)
    if "norm" in name and name != "ssm_norm.weight":
        return x - 1
    return x.reshape(1, -1) if name == "ffn_gate_inp_shexp.weight" else x


def load_target(path: Path) -> tuple[Trunk, MTP]:
    """Trunk and MTP layer in float32, with the file's own (dequantised) weights."""
    c = TargetConfig()
    found = {
        t.name: torch.from_numpy(
            np.array(dequantize(t.data, t.tensor_type), np.float32).reshape(t.shape[::-1].tolist())
        )
        for t in gguf.GGUFReader(path).tensors
    }
    trunk = {"embed_tokens.weight": found["token_embd.weight"], "norm.weight": found["output_norm.weight"] - 1}
    mtp: dict[str, Tensor] = {}
    for layer in range(c.num_hidden_layers + 1):
        into, prefix = (mtp, "layers.0.") if layer == c.num_hidden_layers else (trunk, f"layers.{layer}.")
        for name, ours in _LAYER.items():
            if (x := found.get(f"blk.{layer}.{name}")) is not None:
                into[prefix + ours] = _restore(name, x, c)
        pair = [found[f"blk.{layer}.ffn_{n}_exps.weight"] for n in ("gate", "up")]
        into[prefix + "mlp.experts.gate_up_proj"] = torch.cat(pair, 1)
    for name, ours in _MTP.items():
        x = found[f"blk.{c.num_hidden_layers}.{name}"]
        mtp[ours] = x - 1 if "norm" in name else x
    a, b = Trunk(c), MTP(c)
    a.load_state_dict(trunk)
    b.load_state_dict(mtp)
    return a.eval(), b.eval()
