"""How parameters move: generators, optimisers, one step down a loss, targets that follow."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator with the given seed (any non-negative integer below 2**63)."""
    return torch.Generator(device=device).manual_seed(seed)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * source, for every parameter in one fused call."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)


def adam(parameters: Iterable[nn.Parameter], lr: float, *, weight_decay: float = 0.0) -> torch.optim.Adam:
    """Adam with torch's defaults, fused into one kernel where there is one; `weight_decay` is an L2 penalty."""
    own = list(parameters)
    return torch.optim.Adam(own, lr=lr, weight_decay=weight_decay, fused=own[0].device.type in {"cpu", "cuda"})


def adamw(parameters: Iterable[nn.Parameter], lr: float, *, weight_decay: float) -> torch.optim.AdamW:
    """Adam with decoupled weight decay (arXiv:1711.05101), fused likewise."""
    own = list(parameters)
    fused = own[0].device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(own, lr=lr, weight_decay=weight_decay, fused=fused)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None = None) -> None:
    """One step down `loss` (0-d) for the optimiser's own parameters; no other gradient is computed.

    With `clip`, the gradient's norm is brought down to it.
    """
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad()
    loss.backward(inputs=own)
    if clip is not None:
        nn.utils.clip_grad_norm_(own, clip)
    optimizer.step()
