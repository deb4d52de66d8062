"""Residual networks with layer norm, stacked: M members computed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.nets.stacked import Member, Pair, Stack, StackedLinear, StackedNorm, dropped

WIDER = 4  # a block's hidden layer over its width


class StackedResidual(Stack):
    """M residual networks after SimBa (arXiv:2410.09754), without its running statistics of inputs.

    A linear layer to the width, one block x + W2 f(W1 norm(x)) for each entry of `hidden`, which must all be equal, a
    last norm and a linear layer. Weights start as `StackedLinear`'s; the paper's start orthogonal and He-normal.
    `dropout` is as `StackedMLP`'s, inside the blocks.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu_,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if members < 1 or not hidden or min(hidden) < 1 or len(set(hidden)) > 1:
            raise ValueError(f"a residual network needs one or more equal widths, got {tuple(hidden)}")
        width, rng = hidden[0], generator
        self.embed = StackedLinear(members, inputs, width, generator=rng)
        self.norms = nn.ModuleList(StackedNorm(members, width) for _ in range(len(hidden) + 1))
        self.widen = nn.ModuleList(StackedLinear(members, width, WIDER * width, generator=rng) for _ in hidden)
        self.narrow = nn.ModuleList(StackedLinear(members, WIDER * width, width, generator=rng) for _ in hidden)
        self.out = StackedLinear(members, width, outputs, generator=rng)
        self.members, self.activation, self.dropout = members, activation, dropout

    def forward(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        x = self.embed(self.shared(x))
        for norm, widen, narrow in zip(self.norms, self.widen, self.narrow, strict=False):
            x = x + narrow(dropped(self.activation(widen(norm(x))), self.dropout, random))
        return self.out(self.norms[-1](x))

    def apart(self) -> list[Member]:
        parts = [self.embed, self.out, *self.norms, *self.widen, *self.narrow]
        unbound = [[p.unbind() for p in part.parameters()] for part in parts]
        return [ResidualMember([(w[m], b[m]) for w, b in unbound], self.activation) for m in range(self.members)]


class ResidualMember(Member):
    """One member of a StackedResidual: (N, inputs) -> (N, outputs)."""

    def __init__(self, pairs: list[Pair], activation: Callable[[Tensor], Tensor]) -> None:
        self.first, self.out, *rest = pairs
        blocks = (len(rest) - 1) // 3
        self.norms, self.wider = rest[: blocks + 1], list(zip(rest[blocks + 1 :], rest[-blocks:], strict=False))
        self.activation = activation

    def after_first(self, x: Tensor) -> Tensor:
        """See `Member`."""
        x = x.flatten(0, -2)
        for norm, ((widen, wide_bias), (narrow, bias)) in zip(self.norms, self.wider, strict=False):
            h = self.activation(torch.addmm(wide_bias, self.normed(x, norm), widen))
            x = x + torch.addmm(bias, h, narrow)
        weight, bias = self.out
        return torch.addmm(bias, self.normed(x, self.norms[-1]), weight)

    @staticmethod
    def normed(x: Tensor, pair: Pair) -> Tensor:
        scale, shift = pair
        return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), scale)
