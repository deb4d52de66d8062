"""Stacked networks: M members computed together by one batched multiply a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]  # a weight and a bias
NARROW = 16  # outputs below which a weight lies column by column: multiply libraries are several times faster then


def by_column(weight: Tensor) -> Tensor:
    """The same numbers (..., inputs, outputs), column after column in memory; strides say so even of one column."""
    return torch.empty_like(weight.mT, memory_format=torch.contiguous_format).copy_(weight.mT).mT


def dropped(x: Tensor, share: float, random: torch.Generator | None) -> Tensor:
    """`share` of the numbers zero and the rest larger, drawn from `random`; without it, as where a policy acts, x."""
    if random is None or share == 0:
        return x
    return x * torch.empty_like(x).bernoulli_(1 - share, generator=random) / (1 - share)


def check_inputs(inputs: int) -> None:
    """Raises ValueError for a network without inputs."""
    if inputs < 1:
        raise ValueError(
            f"a network was asked for with {inputs} inputs: the data have no vector observations, only images, and "
            "this learner reads none"
        )


class StackedLinear(nn.Module):
    """M linear layers at once: (M, B, inputs) -> (M, B, outputs).

    Weights and biases start uniform in +-1/sqrt(inputs), torch's own rule for nn.Linear. Raises ValueError without
    inputs: data of images alone give none.
    """

    def __init__(self, members: int, inputs: int, outputs: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_inputs(inputs)
        bound = 1 / math.sqrt(inputs)
        weight = torch.empty(members, inputs, outputs).uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(by_column(weight) if outputs < NARROW else weight)
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        """(M, B, inputs) -> (M, B, outputs)."""
        weight, bias = self.weight, self.bias
        if len(weight) == 1 and 1 < weight.shape[-1] < NARROW:  # a plain multiply's gradient keeps the layout
            return torch.addmm(bias.squeeze(0), x.squeeze(0), weight.squeeze(0)).unsqueeze(0)
        if torch.compiler.is_compiling():  # the bias joins the activation's loop and is not copied out first
            return torch.bmm(x, weight) + bias
        return torch.baddbmm(bias, x, weight)


class StackedNorm(nn.Module):
    """M layer norms at once (arXiv:1607.06450): (M, B, width) -> (M, B, width)."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise over the last axis, then scale and shift."""
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:]), self.weight)


class Stack(nn.Module):
    """M networks at once: (B, inputs), given to every member, or (M, B, inputs) -> (M, B, outputs).

    `forward` takes a generator too, `random`: with one, hidden numbers are dropped as the network was built to.
    """

    members: int

    def shared(self, x: Tensor) -> Tensor:
        """The input of every member (M, B, inputs)."""
        return x.expand(self.members, *x.shape) if x.dim() == 2 else x

    def apart(self) -> list[Member]:
        """The members one by one, with the weights of this moment, dropping nothing; gradients reach the stack."""
        raise NotImplementedError


class StackedMLP(Stack):
    """M multilayer perceptrons at once. With `layer_norm`, every hidden layer is
    normalised after its activation. `activation` may work in place. `dropout` is the share of every hidden
    layer's numbers that is dropped where a generator is given.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Callable[[Tensor], Tensor] = torch.relu_,
        layer_norm: bool = False,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if members < 1 or any(width < 1 for width in hidden):
            raise ValueError(f"members and hidden widths must be at least 1, got {members} and {tuple(hidden)}")
        sizes = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(StackedLinear(members, i, o, generator=generator) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(StackedNorm(members, width) for width in hidden if layer_norm)
        self.members, self.activation, self.dropout = members, activation, dropout

    def forward(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        x = self.shared(x)
        for index, layer in enumerate(list(self.layers)[:-1]):
            x = dropped(self.activation(layer(x)), self.dropout, random)
            if self.norms:
                x = self.norms[index](x)
        return self.layers[-1](x)

    def apart(self) -> list[Member]:
        layers, norms = (
            [tuple(p.unbind() for p in part.parameters()) for part in parts] for parts in (self.layers, self.norms)
        )
        return [
            Member([(w[m], b[m]) for w, b in layers], [(w[m], b[m]) for w, b in norms], self.activation)
            for m in range(self.members)
        ]


class Member:
    """One member of a StackedMLP: (N, inputs) -> (N, outputs)."""

    def __init__(self, layers: list[Pair], norms: list[Pair], activation: Callable[[Tensor], Tensor]) -> None:
        self.first, *self.rest = layers
        self.norms, self.activation = norms, activation

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self.first
        return self.after_first(torch.addmm(bias, x, weight))

    def after_first(self, x: Tensor) -> Tensor:
        """From the first layer's sums (..., width), which may be overwritten, to the output (N, outputs).

        They are flattened after the activation only: in place on a view, it would cost a copy of the gradient.
        """
        for index, (weight, bias) in enumerate(self.rest):
            x = self.activation(x)
            if self.norms:
                scale, shift = self.norms[index]
                x = torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), scale)
            x = torch.addmm(bias, x.flatten(0, -2), weight)
        return x


class Single(nn.Module):
    """The one member of a stack, for inputs of any leading shape: (..., inputs) -> (..., outputs)."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        flat = self.stack(x.reshape(1, -1, x.shape[-1]), random)
        return flat.reshape(*x.shape[:-1], flat.shape[-1])
