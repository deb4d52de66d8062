"""What a planner may try: actions between limits, or one of several choices."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.core import Spec


class ActionSpace(Protocol):
    """How a search moves through sequences (..., H, A). Its mean may lie between actions; `settle` makes it one."""

    centre: Tensor  # (A,), the mean of a search that knows nothing

    def std(self, spread: float) -> Tensor:
        """(A,), the spread of a search that begins; 1 reaches all actions."""

    def perturb(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """Standard normal `noise` (..., H, A) round a mean, not yet settled; shapes broadcast."""

    def settle(self, sequences: Tensor) -> Tensor:
        """The nearest sequences (..., H, A) that can be executed."""


class Box:
    """Actions between the limits `low` and `high` (A,): samples are mean + std * noise, clipped."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high, self.centre = low, high, (low + high) / 2

    def std(self, spread: float) -> Tensor:
        """`spread` of half the range of each number, (A,)."""
        return spread * (self.high - self.low) / 2

    def perturb(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """mean + std * noise."""
        return torch.addcmul(mean, std, noise)

    def settle(self, sequences: Tensor) -> Tensor:
        """Within the limits."""
        return sequences.clamp(self.low, self.high)


class Choices:
    """One of A choices, one-hot. A mean holds each choice's probability, and `std` the share drawn uniformly.

    Normal noise becomes Gumbel noise of the same rank, so the largest of log p + noise is a draw from p
    (arXiv:1611.01144, eq. 1), and noise that is coloured over time holds a choice for longer.
    """

    def __init__(self, count: int, device: str) -> None:
        self.count, self.centre = count, torch.full((count,), 1 / count, device=device)

    def std(self, spread: float) -> Tensor:
        """The share `spread` for each choice, (A,)."""
        return torch.full_like(self.centre, spread)

    def perturb(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """log p + Gumbel noise, p = (1 - std) mean + std / A; its largest entry is the draw."""
        chance = mean.lerp(self.centre, std.clamp(0, 1).expand_as(mean))
        return chance.log() - (-torch.special.log_ndtr(noise)).log()

    def settle(self, sequences: Tensor) -> Tensor:
        """One-hot, the largest entry."""
        return F.one_hot(sequences.argmax(-1), self.count).to(self.centre.dtype)


def action_space(spec: Spec, device: str) -> ActionSpace:
    """The space of a store's actions. Without limits there is no range to search; the data's own stands in."""
    if spec.discrete:
        return Choices(spec.action_dim, device)
    low = np.where(np.isfinite(spec.action_low), spec.action_low, spec.action.low)
    high = np.where(np.isfinite(spec.action_high), spec.action_high, spec.action.high)
    return Box(*(torch.as_tensor(limit, dtype=torch.float32, device=device) for limit in (low, high)))
