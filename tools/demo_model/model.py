"""The demo target in plain PyTorch: a tiny Qwen3.5-MoE trunk and its MTP layer.

Parameter names are those of the published checkpoints, so `export.py` can save the state as it is. Experts are
computed densely (one wide MLP whose hidden units are masked by the router): at this size that is faster than any
gather, and it compiles well. Norm weights are stored zero-centred (weight 0 means gain 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from deltanet import GatedDeltaNet, scan, tidy
from torch import Tensor, nn


@dataclass(frozen=True)
class TargetConfig:
    """Shape of the target; the defaults are the shipped model."""

    vocab_size: int = 8192
    hidden_size: int = 384
    num_hidden_layers: int = 8
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 64
    linear_num_key_heads: int = 4
    linear_num_value_heads: int = 8
    linear_key_head_dim: int = 64
    linear_value_head_dim: int = 64
    linear_conv_kernel_dim: int = 4
    num_experts: int = 16
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 96
    shared_expert_intermediate_size: int = 128
    max_position_embeddings: int = 4096
    rope_theta: float = 100000.0
    partial_rotary_factor: float = 0.5
    rms_norm_eps: float = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square norm with a zero-centred gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * (1.0 + self.weight.float())).type_as(x)


def rope_tables(c: TargetConfig, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions 0..length-1, [length, rotary width]."""
    width = int(c.head_dim * c.partial_rotary_factor)
    inverse = 1.0 / (c.rope_theta ** (torch.arange(0, width, 2, device=device).float() / width))
    angles = torch.outer(torch.arange(length, device=device).float(), inverse)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of the first channels of x [batch, heads, length, head_dim]."""
    width = cos.shape[-1]
    a, rest = x[..., :width], x[..., width:]
    half = torch.cat([-a[..., width // 2 :], a[..., : width // 2]], -1)
    return torch.cat([(a * cos + half * sin).type_as(x), rest], -1)


class Attention(nn.Module):
    """Full attention with query/key norms and a sigmoid output gate."""

    def __init__(self, c: TargetConfig) -> None:
        super().__init__()
        self.heads, self.kv, self.dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, self.heads * self.dim * 2, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, self.kv * self.dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, self.kv * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(self.dim, c.rms_norm_eps)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotated queries [B,H,T,D], keys and values repeated to all heads, and the gate [B,T,H*D]."""
        b, t, _ = x.shape
        q, gate = self.q_proj(x).view(b, t, self.heads, 2 * self.dim).chunk(2, -1)
        q = rotate(self.q_norm(q).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(b, t, self.kv, self.dim)).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, self.kv, self.dim).transpose(1, 2)
        repeat = self.heads // self.kv
        return q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1), gate.reshape(b, t, -1)

    def finish(self, y: Tensor, gate: Tensor) -> Tensor:
        """Gate and project the attention output [B,H,T,D]."""
        b, _, t, _ = y.shape
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1) * torch.sigmoid(gate))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v, gate = self.project(x, cos, sin)
        return self.finish(F.scaled_dot_product_attention(q, k, v, is_causal=True), gate)


class Experts(nn.Module):
    """Expert weights in the checkpoint's layout: [experts, 2*inner, width] and [experts, width, inner]."""

    def __init__(self, c: TargetConfig) -> None:
        super().__init__()
        e, f, d = c.num_experts, c.moe_intermediate_size, c.hidden_size
        self.gate_up_proj = nn.Parameter(torch.randn(e, 2 * f, d) * 0.02)
        self.down_proj = nn.Parameter(torch.randn(e, d, f) * 0.02)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x [N,width], weights [N,experts] (zero for the experts not chosen)."""
        e, _, d = self.gate_up_proj.shape
        f = self.down_proj.shape[-1]
        gate, up = F.linear(x, self.gate_up_proj.reshape(-1, d)).view(-1, e, 2 * f).chunk(2, -1)
        hidden = F.silu(gate) * up * weights.type_as(gate)[:, :, None]
        return F.linear(hidden.reshape(-1, e * f), self.down_proj.permute(1, 0, 2).reshape(d, e * f))


class MLP(nn.Module):
    """The shared expert."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """Top-k routed experts plus a gated shared expert; returns the output and the load-balance loss."""

    def __init__(self, c: TargetConfig) -> None:
        super().__init__()
        self.k = c.num_experts_per_tok
        self.gate = nn.Linear(c.hidden_size, c.num_experts, bias=False)
        self.experts = Experts(c)
        self.shared_expert = MLP(c.hidden_size, c.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(c.hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            probs = F.linear(flat.float(), self.gate.weight.float()).softmax(-1)
            top, index = probs.topk(self.k, -1)
            chosen = torch.zeros_like(probs).scatter(-1, index, 1.0)
            weights = probs * chosen / top.sum(-1, keepdim=True)
            balance = (chosen.mean(0) / self.k * probs.mean(0)).sum() * probs.shape[-1]
        y = self.experts(flat, weights)
        y = y + torch.sigmoid(self.shared_expert_gate(flat)) * self.shared_expert(flat)
        return y.view_as(x), balance


class Block(nn.Module):
    """One decoder layer: gated DeltaNet or full attention, then the MoE."""

    def __init__(self, c: TargetConfig, full: bool) -> None:
        super().__init__()
        self.full = full
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        if full:
            self.self_attn = Attention(c)
        else:
            self.linear_attn = GatedDeltaNet(c)
        self.mlp = MoE(c)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """First half of a full-attention layer."""
        return x + self.self_attn(self.input_layernorm(x), cos, sin)

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """First part of a DeltaNet layer: all before the scan."""
        return self.linear_attn.terms(self.input_layernorm(x))

    def feed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Second half: the MoE, with its load-balance loss."""
        y, balance = self.mlp(self.post_attention_layernorm(x))
        return x + y, balance

    def finish(self, x: Tensor, scanned: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """All after the scan."""
        return self.feed(x + self.linear_attn.finish(scanned, z))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        if self.full:
            return self.feed(*tidy(self.attend(x, cos, sin)))
        *terms, z = tidy(*self.prepare(x))
        return self.finish(x, *tidy(scan(tuple(terms))), z)


class Trunk(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, c: TargetConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Block(c, (i + 1) % 4 == 0) for i in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden rows AFTER the final norm, and the mean load-balance loss."""
        x = self.embed_tokens(ids)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        total = torch.zeros((), device=x.device)
        for layer in self.layers:
            x, balance = layer(x, cos, sin)
            total = total + balance
        return self.norm(x), total / len(self.layers)
