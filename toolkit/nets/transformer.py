"""Causal transformers: what is said of a step depends on it and on the steps before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.nets.stacked import check_inputs, dropped

HEAD = 64  # numbers of a token that one head of attention reads, where the width is a multiple of it (GPT-2's)

Built = TypeVar("Built", bound=nn.Module)


class Block(nn.Module):
    """Causal self-attention and a perceptron, each on normalised input and added to it: (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, random: torch.Generator | None) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        future = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        score = (q @ k.mT / math.sqrt(width / self.heads)).masked_fill(future, -math.inf)
        seen = (dropped(score.softmax(-1), self.dropout, random) @ v).transpose(1, 2).reshape(x.shape)
        x = x + dropped(self.mix(seen), self.dropout, random)
        return x + dropped(self.narrow(F.relu(self.widen(self.norm2(x)))), self.dropout, random)


class Transformer(nn.Module):
    """Tokens (B, T, width) -> (B, T, width), none of which has seen a later one; normalised first and last.

    `dropout` is the share of numbers dropped, where a generator is given: of the tokens, in attention and after each
    part of a block. Raises ValueError unless `heads` divides `width`.
    """

    def __init__(self, width: int, *, layers: int, heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} and {width}")
        self.dropout = dropout
        self.norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))

    def forward(self, tokens: Tensor, random: torch.Generator | None = None) -> Tensor:
        x = dropped(self.norm(tokens), self.dropout, random)
        for block in self.blocks:
            x = block(x, random)
        return self.last_norm(x)


class Windowed(nn.Module):
    """One token a step, its place in the window added: (..., L, inputs) -> (..., L, outputs), L at most `window`.

    One block for each entry of `hidden`, the width of a token, which must all be equal. A head of attention reads 64
    numbers of a token, or all of it where 64 does not divide the width.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, *, window: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1 or len(set(hidden)) > 1:
            raise ValueError(f"a transformer needs one or more equal widths, got {tuple(hidden)}")
        check_inputs(inputs)
        width = hidden[0]
        self.window = window
        self.embed, self.position = nn.Linear(inputs, width), nn.Embedding(window, width)
        heads = 1 if width % HEAD else width // HEAD
        self.trunk = Transformer(width, layers=len(hidden), heads=heads, dropout=dropout)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Raises ValueError for more than `window` steps."""
        steps = x.shape[-2] if x.dim() > 1 else 0
        if not 1 <= steps <= self.window:
            raise ValueError(
                f"input has shape {tuple(x.shape)}; expected (..., steps, numbers) with 1 to {self.window} steps, the "
                "window that this transformer was built for"
            )
        tokens = self.embed(x) + self.position.weight[:steps]
        return self.out(self.trunk(tokens.reshape(-1, *tokens.shape[-2:]), random)).view(*x.shape[:-1], -1)


def started(build: Callable[[], Built], weights: torch.Generator) -> Built:
    """What `build` makes, with GPT-2's first weights: normal with standard deviation 0.02, biases 0, norms 1."""
    with torch.device("meta"):  # torch's own start would draw from its global stream
        net = build()
    net = net.to_empty(device="cpu")
    for name, parameter in net.named_parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, 0, 0.02, generator=weights)
        else:
            nn.init.constant_(parameter, float("norm" in name and name.endswith("weight")))
    return net
