"""Optimiser and weight rounding for the demo models: Muon for matrices, AdamW for the rest, fake quantisation."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn


def newton_schulz(g: Tensor) -> Tensor:
    """Orthogonalise each matrix of g [n, rows, columns] approximately (five quintic steps)."""
    x = g.to(torch.bfloat16) if g.is_cuda else g.float()
    flip = x.shape[-2] > x.shape[-1]
    x = x.transpose(-1, -2) if flip else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.transpose(-1, -2) if flip else x).float()


def fake_quant(w: Tensor, bits: int) -> Tensor:
    """Round to llama.cpp's Q4_0 (bits 4) or Q5_0 (bits 5): blocks of 32, scale = signed extreme / -2^(bits-1)."""
    half = 2 ** (bits - 1)
    x = w.reshape(-1, 32)
    extreme = x.gather(1, x.abs().argmax(1, keepdim=True))
    scale = extreme / -half
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1.0 / scale)
    q = (x * inverse + half + 0.5).floor().clamp(0, 2 * half - 1) - half
    return (q * scale.half().float()).reshape(w.shape)


def is_matrix(name: str, p: Tensor) -> bool:
    """Weights that Muon handles."""
    small = ("embed", "mlp.gate.", "shared_expert_gate", "in_proj_a", "in_proj_b", "conv1d")
    return p.dim() >= 2 and not any(s in name for s in small)


class Optimizer:
    """Muon + AdamW over float32 master weights; with `quantise` on, the model sees the rounded weights."""

    def __init__(self, modules: dict[str, nn.Module], weight_decay: float = 0.1) -> None:
        named = [(f"{m}.{n}", p) for m, module in modules.items() for n, p in module.named_parameters()]
        seen: dict[int, str] = {}
        self.params = [(n, p) for n, p in named if seen.setdefault(id(p), n) == n]
        self.master = {n: p.detach().clone() for n, p in self.params}
        self.state: dict[str, dict[str, Tensor]] = {n: {} for n, _ in self.params}
        self.decay, self.quantise, self.count = weight_decay, False, 0
        self.groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for n, p in self.params:
            if is_matrix(n, p):
                self.groups[tuple(p.shape[-2:])].append(n)
        self.matrices = {n for names in self.groups.values() for n in names}

    def bits(self, name: str) -> int:
        """Bits of the shipped file for this weight; 0: not rounded during training."""
        return (4 if ".experts." in name else 5) if name in self.matrices else 0

    def final(self, name: str, p: Tensor) -> Tensor:
        """The weight to ship: rounded where the model computed with it rounded, else the master."""
        return p if self.quantise and self.bits(name) else self.master[name]

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {"master": self.master, "state": self.state, "count": self.count, "quantise": self.quantise}

    def load_state_dict(self, found: dict[str, Any]) -> None:
        """Take up a saved state; the model gets its weights."""
        self.master, self.state = found["master"], found["state"]
        self.count, self.quantise = found["count"], found["quantise"]
        self.hand_over()

    @torch.no_grad()
    def hand_over(self) -> None:
        """(Rounded) weights to the model; gradients cleared."""
        for n, p in self.params:
            bits = self.bits(n) if self.quantise else 0
            p.copy_(fake_quant(self.master[n], bits) if bits else self.master[n])
            p.grad = None

    @torch.no_grad()
    def step(self, lr: float, clip: float = 1.0) -> None:
        """Clip, update the masters, hand (rounded) weights to the model, clear the gradients."""
        grads = {n: p.grad for n, p in self.params if p.grad is not None}
        total = torch.stack(torch._foreach_norm(list(grads.values()))).norm()
        torch._foreach_mul_(list(grads.values()), (clip / (total + 1e-6)).clamp(max=1.0))
        self.count += 1
        rest = [n for n in grads if n not in self.matrices]
        self._adam(rest, grads, lr)
        for shape, names in self.groups.items():
            self._muon([n for n in names if n in grads], grads, lr, shape)
        self.hand_over()

    def _adam(self, names: list[str], grads: dict[str, Tensor], lr: float) -> None:
        if not names:
            return
        for n in names:
            if not self.state[n]:
                self.state[n] = {"m": torch.zeros_like(grads[n]), "v": torch.zeros_like(grads[n])}
        g, w = [grads[n] for n in names], [self.master[n] for n in names]
        m, v = ([self.state[n][k] for n in names] for k in "mv")
        torch._foreach_lerp_(m, g, 0.1)
        torch._foreach_mul_(v, 0.95)
        torch._foreach_addcmul_(v, g, g, 0.05)
        c1, c2 = 1 - 0.9**self.count, 1 - 0.95**self.count
        bottom = torch._foreach_sqrt(torch._foreach_div(v, c2))
        torch._foreach_add_(bottom, 1e-8)
        update: list[Any] = torch._foreach_div(torch._foreach_div(m, c1), bottom)
        torch._foreach_add_(w, update, alpha=-lr)

    def _muon(self, names: list[str], grads: dict[str, Tensor], lr: float, shape: tuple[int, ...]) -> None:
        if not names:
            return
        g = torch.cat([grads[n].reshape(-1, *shape) for n in names])
        key = names[0]
        if "m" not in self.state[key]:
            self.state[key]["m"] = torch.zeros_like(g)
        m = self.state[key]["m"].mul_(0.95).add_(g)
        update = newton_schulz(g + 0.95 * m) * (0.2 * max(shape) ** 0.5)
        at = 0
        for n in names:
            count = grads[n].numel() // (shape[0] * shape[1])
            w = self.master[n]
            w.mul_(1 - lr * self.decay).sub_(update[at : at + count].reshape(w.shape), alpha=lr)
            at += count
