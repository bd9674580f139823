"""A tiny dense draft model with the shape of Qwen3 (names as in its checkpoints), in plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DenseConfig:
    """Shape of a draft; head and embedding are tied."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 64
    max_position_embeddings: int = 4096
    rope_theta: float = 100000.0
    rms_norm_eps: float = 1e-6


DRAFT = DenseConfig(8192, 192, 4, 768, 3, 1)
OTHER_VOCABULARY = DenseConfig(4096, 128, 4, 384, 2, 1)


class Norm(nn.Module):
    """RMS norm with an ordinary gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight).type_as(x)


def rotate_all(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding over the whole head."""
    half = x.shape[-1] // 2
    return (x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin).type_as(x)


class DenseAttention(nn.Module):
    """Grouped attention with query and key norms."""

    def __init__(self, c: DenseConfig) -> None:
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm = Norm(c.head_dim, c.rms_norm_eps)
        self.k_norm = Norm(c.head_dim, c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        c = self.c
        q = rotate_all(self.q_norm(self.q_proj(x).view(b, t, -1, c.head_dim)).transpose(1, 2), cos, sin)
        k = rotate_all(self.k_norm(self.k_proj(x).view(b, t, -1, c.head_dim)).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, -1, c.head_dim).transpose(1, 2)
        repeat = c.num_attention_heads // c.num_key_value_heads
        y = F.scaled_dot_product_attention(
            q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1), is_causal=True
        )
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


class DenseMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, c: DenseConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DenseBlock(nn.Module):
    """One decoder layer."""

    def __init__(self, c: DenseConfig) -> None:
        super().__init__()
        self.input_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = DenseAttention(c)
        self.post_attention_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.mlp = DenseMLP(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Dense(nn.Module):
    """Embedding, layers, final norm; returns the normed hidden rows (the head is the embedding)."""

    def __init__(self, c: DenseConfig) -> None:
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(DenseBlock(c) for _ in range(c.num_hidden_layers))
        self.norm = Norm(c.hidden_size, c.rms_norm_eps)

    def tables(self, length: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions 0..length-1."""
        inverse = 1.0 / (
            self.c.rope_theta ** (torch.arange(0, self.c.head_dim, 2, device=device).float() / self.c.head_dim)
        )
        angles = torch.outer(torch.arange(length, device=device).float(), inverse)
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)
