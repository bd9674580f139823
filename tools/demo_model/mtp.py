"""The MTP layer of the demo target, and the losses that train it as llama.cpp will run it: chained.

For position p: x = fc(concat(norm_e(embedding(token p)), norm_h(hidden p-1))), one full-attention decoder layer, its own
final norm, the trunk's (tied) head; it predicts token p+1. In the first step `hidden` is the trunk's output after its
final norm; in step k it is the layer's own output AFTER its final norm at p-1 in step k-1: the row that llama.cpp's MTP
context hands back. Step k attends to the first step's keys up to p-k+1 and to the chain's own keys after that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from deltanet import tidy
from model import Block, RMSNorm, TargetConfig
from torch import Tensor, nn


def shift(x: Tensor) -> Tensor:
    """Row p becomes row p-1; zeros before the first token."""
    return F.pad(x[:, :-1], (0, 0, 1, 0))


class MTP(nn.Module):
    """One multi-token-prediction layer, under the checkpoint's names (`mtp.` is put before them on export)."""

    def __init__(self, c: TargetConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * c.hidden_size, c.hidden_size, bias=False)
        self.pre_fc_norm_embedding = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.pre_fc_norm_hidden = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.layers = nn.ModuleList([Block(c, full=True)])
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def enter(self, embedded: Tensor, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """The layer's input x, and its rotated queries, keys, values and gate."""
        layer = self.layers[0]
        x = self.fc(torch.cat([self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)], -1))
        return x, *layer.self_attn.project(layer.input_layernorm(x), cos, sin)

    def leave(self, x: Tensor, attended: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Output projection, MoE and final norm."""
        layer = self.layers[0]
        y, balance = layer.feed(x + layer.self_attn.finish(attended, gate))
        return self.norm(y), balance

    def step(
        self, embedded: Tensor, hidden: Tensor, cos: Tensor, sin: Tensor, cache: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """One chain step; `hidden` is already shifted. Appends this step's keys and values to `cache`."""
        x, q, k, v, gate = tidy(*self.enter(embedded, hidden, cos, sin))
        cache.append((k, v))
        return self.leave(x, *tidy(chain_attention(q, cache)), gate)


def chain_attention(q: Tensor, cache: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention of step len(cache): first-step keys up to p-k+1, then one key of each later step."""
    k, v = cache[0]
    steps = len(cache)
    if steps == 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    t, d = q.shape[-2:]
    behind = torch.ones(t, t, dtype=torch.bool, device=q.device).tril(1 - steps)
    scores = (q @ k.transpose(-1, -2)).float().masked_fill(~behind, float("-inf"))
    later = []
    for s in range(1, steps):  # position p sees step s+1's key of position p-(steps-1-s)
        back = steps - 1 - s
        key, value = (F.pad(x[..., : t - back, :], (0, 0, back, 0)) for x in cache[s])
        score = (q * key).sum(-1, keepdim=True, dtype=torch.float32)
        if back:
            score = score.masked_fill((torch.arange(t, device=q.device) < back)[:, None], float("-inf"))
        later.append((score, value))
    weights = (torch.cat([scores, *(s for s, _ in later)], -1) * d**-0.5).softmax(-1).to(q.dtype)
    out = weights[..., :t] @ v
    for i, (_, value) in enumerate(later):
        out = out + weights[..., t + i, None] * value
    return out


def token_losses(rows: Tensor, head: Tensor, targets: Tensor, teacher: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each position with the true token and, given teacher logits, with the teacher's distribution."""
    z = F.linear(rows, head).float()
    norm = z.logsumexp(-1)
    hard = norm - z.gather(-1, targets[..., None])[..., 0]
    if teacher is None:
        return hard, hard
    return hard, norm - (teacher.float().softmax(-1) * z).sum(-1)


def chain_losses(
    mtp: MTP,
    embedded: Tensor,
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    teacher: Tensor,
    tables: tuple[Tensor, Tensor],
    steps: int,
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """(hard, soft) mean losses of each chain step, and the load-balance loss."""
    cache: list[tuple[Tensor, Tensor]] = []
    losses = []
    rows, balance = hidden, torch.zeros((), device=hidden.device)
    for step in range(steps):
        rows, b = mtp.step(embedded, shift(rows), *tables, cache)
        balance = balance + b / steps
        hard, soft = token_losses(rows, head, targets, teacher)
        losses.append(
            (hard[:, step:].mean(), soft[:, step:].mean())
        )  # earlier positions have no full chain behind them
    return losses, balance
