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


class _Scan(torch.autograd.Function):
    """The recurrence over chunks. Only what is truly sequential runs in the loops; the rest is batched over chunks.

    All inputs [batch*heads, chunks, ...]: values, erase, queries [64, D], within [64, 64], keys [D, 64], keep [1, 1].
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, erase: Tensor, q: Tensor, within: Tensor, keys: Tensor, keep: Tensor
    ) -> Tensor:
        count, d = values.shape[1], values.shape[-1]
        state = torch.zeros(values.shape[0], d, d, device=values.device, dtype=torch.float32)
        states = values.new_empty(values.shape[0], count, d, d)
        new = torch.empty_like(values)
        for i in range(count):
            states[:, i] = state
            new[:, i] = torch.baddbmm(values[:, i], erase[:, i], states[:, i], alpha=-1)
            state.mul_(keep[:, i]).add_(torch.bmm(keys[:, i], new[:, i]))
        ctx.save_for_backward(erase, q, within, keys, keep, states, new)
        return q @ states + within @ new

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        erase, q, within, keys, keep, states, new = ctx.saved_tensors
        d_new = within.mT @ grad
        source = q.mT @ grad
        d_states = torch.empty_like(states)  # gradient of the state AFTER each chunk
        d_state = torch.zeros(states.shape[0], *states.shape[2:], device=states.device, dtype=torch.float32)
        for i in reversed(range(states.shape[1])):
            d_states[:, i] = d_state
            d_new[:, i] = torch.baddbmm(d_new[:, i], keys[:, i].mT, d_states[:, i])
            d_state.mul_(keep[:, i]).add_(torch.baddbmm(source[:, i], erase[:, i].mT, d_new[:, i], alpha=-1))
        d_keep = (d_states * states).sum((-1, -2), keepdim=True, dtype=torch.float32)
        return d_new, -(d_new @ states.mT), grad @ states.mT, grad @ new.mT, d_states @ new.mT, d_keep


def chunk_terms(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    """What `_Scan` needs, from q, k, v [B,H,T,D] (q, k normalised, q scaled), log decay g and beta [B,H,T]."""
    b, h, t, d = q.shape
    n = t // CHUNK
    kind = q.dtype
    q, k, v = (x.contiguous().view(b * h, n, CHUNK, d) for x in (q, k, v))
    beta = beta.contiguous().view(b * h, n, CHUNK, 1)
    total = g.contiguous().view(b * h, n, CHUNK).float().cumsum(-1)
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).tril()
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(~lower, float("-inf")).exp()
    k_beta = (k * beta).to(kind)
    system = ((k_beta @ k.mT).float() * decay).tril(-1)
    within = ((q @ k.mT).float() * decay).to(kind)
    with torch.autocast(q.device.type, enabled=False):
        inverse = _UnitLowerInverse.apply(system).to(kind)
    reach = total.exp()[..., None]
    values = inverse @ (v * beta).to(kind)
    erase = inverse @ (k_beta * reach).to(kind)
    keys = (k * (total[..., -1:] - total).exp()[..., None]).to(kind).mT.contiguous()
    return values, erase, (q * reach).to(kind), within, keys, total[..., -1].exp()[..., None, None]


def tidy(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Between separately compiled parts: their backward graphs expect contiguous gradients."""
    for t in tensors:
        if t.requires_grad:
            t.register_hook(Tensor.contiguous)
    return tensors


def scan(terms: tuple[Tensor, ...]) -> Tensor:
    """The recurrence, outside autocast and never compiled."""
    with torch.autocast(terms[0].device.type, enabled=False):
        out: Tensor = _Scan.apply(*terms)
    return out


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

    def terms(self, x: Tensor) -> tuple[Tensor, ...]:
        """Inputs of the scan, and the output gate z."""
        b, t, _ = x.shape
        pad = -t % CHUNK
        mixed = self.in_proj_qkv(x)
        weight = self.conv1d.weight.to(mixed.dtype)
        shifted = F.pad(mixed, (0, 0, self.kernel - 1, 0))
        taps = [shifted[:, i : i + t] * weight[:, 0, i] for i in range(self.kernel)]
        q, k, v = F.silu(torch.stack(taps).sum(0)).split([self.keys, self.keys, self.values], -1)
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
        z = self.in_proj_z(x).view(b, t, self.hv, self.dim)
        return *chunk_terms(*(y.transpose(1, 2) for y in (q, k, v, g, beta))), z

    def finish(self, y: Tensor, z: Tensor) -> Tensor:
        """Scan output [B*H, chunks, 64, D] -> layer output."""
        b, t = z.shape[:2]
        y = y.reshape(b, self.hv, -1, self.dim)[:, :, :t].transpose(1, 2).contiguous()
        return self.out_proj(self.norm(y, z).reshape(b, t, -1))
