"""The workhorses by name: a learner's option `net` picks one, and the rest of the learner does not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from toolkit.nets.residual import StackedResidual
from toolkit.nets.stacked import Single, Stack, StackedMLP
from toolkit.nets.transformer import Windowed, started

Net = Literal["mlp", "residual", "transformer"]


def stack(
    net: Net,
    members: int,
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: Callable[[Tensor], Tensor] = torch.relu_,
    layer_norm: bool = False,
    dropout: float = 0.0,
    generator: torch.Generator,
) -> Stack:
    """M networks of the named kind; a residual one always normalises, so `layer_norm` changes nothing there.

    Raises ValueError for a transformer, which reads windows: see `single`.
    """
    if net == "transformer":
        raise ValueError("a stack reads single steps and a transformer windows: choose mlp or residual")
    if net == "residual":
        return StackedResidual(
            members, inputs, hidden, outputs, activation=activation, dropout=dropout, generator=generator
        )
    return StackedMLP(
        members,
        inputs,
        hidden,
        outputs,
        activation=activation,
        layer_norm=layer_norm,
        dropout=dropout,
        generator=generator,
    )


def single(
    net: Net,
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: Callable[[Tensor], Tensor] = torch.relu_,
    layer_norm: bool = False,
    dropout: float = 0.0,
    window: int = 1,
    generator: torch.Generator,
) -> nn.Module:
    """One network of the named kind: (..., inputs) -> (..., outputs), any leading shape.

    A transformer reads (..., L, inputs), up to `window` steps in order, and gives (..., L, outputs): one output a step,
    from it and those before it. It always normalises, and its activation is ReLU.
    """
    if net == "transformer":
        return started(lambda: Windowed(inputs, hidden, outputs, window=window, dropout=dropout), generator)
    return Single(
        stack(
            net,
            1,
            inputs,
            hidden,
            outputs,
            activation=activation,
            layer_norm=layer_norm,
            dropout=dropout,
            generator=generator,
        )
    )
