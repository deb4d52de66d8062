"""Stacked networks: M members computed together by one batched multiply a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """M linear layers at once: (M, B, inputs) -> (M, B, outputs).

    Weights and biases start uniform in +-1/sqrt(inputs), torch's own rule for nn.Linear.
    """

    def __init__(self, members: int, inputs: int, outputs: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """(M, B, inputs) -> (M, B, outputs)."""
        return torch.baddbmm(self.bias, x, self.weight)


class StackedMLP(nn.Module):
    """M multilayer perceptrons at once; a shared input (B, inputs) is given to every member.

    forward: (B, inputs) or (M, B, inputs) -> (M, B, outputs).
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if members < 1 or any(width < 1 for width in hidden):
            raise ValueError(f"members and hidden widths must be at least 1, got {members} and {tuple(hidden)}")
        sizes = [inputs, *hidden, outputs]
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nn.ModuleList(StackedLinear(members, i, o, generator=generator) for i, o in pairs)
        self.members, self.activation = members, activation

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x.expand(self.members, *x.shape)
        for layer in list(self.layers)[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class MLP(nn.Module):
    """One perceptron for inputs of any leading shape: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, **options: Any) -> None:
        super().__init__()
        self.stack = StackedMLP(1, inputs, hidden, outputs, **options)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.stack(x.reshape(1, -1, x.shape[-1]))
        return flat.reshape(*x.shape[:-1], flat.shape[-1])


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator with the given seed (any non-negative integer below 2**63)."""
    return torch.Generator(device=device).manual_seed(seed)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * source, for every parameter in one fused call."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)
