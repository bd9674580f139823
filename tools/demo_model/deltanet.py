"""Gated DeltaNet in plain PyTorch, chunked so that it trains fast: see Yang et al., arXiv 2412.06464."""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 64
_LEAF = 16


class _UnitLowerInverse(torch.autograd.Function):
    """(I + A)^-1 for strictly lower triangular A [..., 64, 64]: 16x16 leaves by doubling, then block by block."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        inverse = _invert(a)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        t = inverse.transpose(-1, -2)
        return -(t @ grad @ t).tril(-1)


def _invert(a: Tensor) -> Tensor:
    size = a.shape[-1]
    if size <= _LEAF:
        x = -a
        eye = torch.eye(size, dtype=a.dtype, device=a.device)
        inverse, power = eye + x, x
        for _ in range(3):  # I + x, x^2, x^4, x^8: exact, x is nilpotent of order 16
            power = power @ power
            inverse = inverse + inverse @ power
        return inverse
    half = size // 2
    blocks = _invert(torch.stack([a[..., :half, :half], a[..., half:, half:]]))
    upper, lower = blocks[0], blocks[1]
    corner = -(lower @ a[..., half:, :half] @ upper)
    return torch.cat([F.pad(upper, (0, half)), torch.cat([corner, lower], -1)], -2)


def chunk_gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """Outputs for q, k, v [B,H,T,D] (q, k normalised, q scaled), log decay g and beta [B,H,T]; T a multiple of 64."""
    b, h, t, d = q.shape
    n = t // CHUNK
    kind = q.dtype
    q, k, v = (x.reshape(b, h, n, CHUNK, d) for x in (q, k, v))
    beta = beta.reshape(b, h, n, CHUNK, 1)
    total = g.reshape(b, h, n, CHUNK).float().cumsum(-1)
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).tril()
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(~lower, float("-inf")).exp()
    k_beta = (k * beta).to(kind)
    system = ((k_beta @ k.transpose(-1, -2)).float() * decay).tril(-1)
    within = ((q @ k.transpose(-1, -2)).float() * decay).to(kind)
    with torch.autocast(q.device.type, enabled=False):
        inverse = _UnitLowerInverse.apply(system).to(kind)
    reach = total.exp()[..., None]
    values = inverse @ (v * beta).to(kind)
    erase = inverse @ (k_beta * reach).to(kind)
    q_in = (q * reach).to(kind)
    k_out = (k * (total[..., -1:] - total).exp()[..., None]).to(kind).transpose(-1, -2)
    keep = total[..., -1].exp()[..., None, None]
    state = torch.zeros(b, h, d, d, device=q.device, dtype=torch.float32)
    out = []
    for i in range(n):
        s = state.to(kind)
        new = values[:, :, i] - erase[:, :, i] @ s
        out.append(q_in[:, :, i] @ s + within[:, :, i] @ new)
        state = state * keep[:, :, i] + (k_out[:, :, i] @ new).float()
    return torch.stack(out, 2).reshape(b, h, t, d)


def l2norm(x: Tensor) -> Tensor:
    """Rows of unit length."""
    x = x.float()
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


class GatedNorm(nn.Module):
    """RMS norm with an ordinary gain, times silu(gate)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight
        return (y * F.silu(gate.float())).type_as(gate)


class GatedDeltaNet(nn.Module):
    """The linear-attention layer of Qwen3.5."""

    def __init__(self, c: Any) -> None:
        super().__init__()
        self.hk, self.hv, self.dim = c.linear_num_key_heads, c.linear_num_value_heads, c.linear_key_head_dim
        keys, values = self.hk * self.dim, self.hv * self.dim
        self.keys, self.values, self.kernel = keys, values, c.linear_conv_kernel_dim
        self.in_proj_qkv = nn.Linear(c.hidden_size, 2 * keys + values, bias=False)
        self.in_proj_z = nn.Linear(c.hidden_size, values, bias=False)
        self.in_proj_b = nn.Linear(c.hidden_size, self.hv, bias=False)
        self.in_proj_a = nn.Linear(c.hidden_size, self.hv, bias=False)
        self.conv1d = nn.Conv1d(2 * keys + values, 2 * keys + values, self.kernel, groups=2 * keys + values, bias=False)
        steps = torch.exp(torch.linspace(-6.9, -2.3, self.hv))  # 0.001 .. 0.1, as in Mamba
        self.dt_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.A_log = nn.Parameter(torch.log(torch.linspace(1.0, 16.0, self.hv)))
        self.norm = GatedNorm(self.dim, c.rms_norm_eps)
        self.out_proj = nn.Linear(values, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        pad = -t % CHUNK
        mixed = self.in_proj_qkv(x)
        weight = self.conv1d.weight.to(mixed.dtype)
        shifted = F.pad(mixed, (0, 0, self.kernel - 1, 0))
        mixed = F.silu(sum(shifted[:, i : i + t] * weight[:, 0, i] for i in range(self.kernel)))
        q, k, v = mixed.split([self.keys, self.keys, self.values], -1)
        kind = mixed.dtype
        repeat = self.hv // self.hk
        q = (l2norm(q.reshape(b, t, self.hk, self.dim)) * self.dim**-0.5).to(kind).repeat_interleave(repeat, 2)
        k = l2norm(k.reshape(b, t, self.hk, self.dim)).to(kind).repeat_interleave(repeat, 2)
        v = v.reshape(b, t, self.hv, self.dim)
        beta = torch.sigmoid(self.in_proj_b(x)).float()
        g = -self.A_log.float().exp() * F.softplus(self.in_proj_a(x).float() + self.dt_bias)
        if pad:
            q, k, v = (F.pad(y, (0, 0, 0, 0, 0, pad)) for y in (q, k, v))
            beta, g = (F.pad(y, (0, 0, 0, pad)) for y in (beta, g))
        y = chunk_gated_delta_rule(*(z.transpose(1, 2) for z in (q, k, v, g, beta)))[:, :, :t]
        z = self.in_proj_z(x).view(b, t, self.hv, self.dim)
        return self.out_proj(self.norm(y.transpose(1, 2), z).reshape(b, t, -1))
