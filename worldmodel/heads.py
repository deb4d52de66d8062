"""Heads turn a network's last layer into a distribution over what it predicts."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.core import Exactness
from toolkit.nets import interval_log_mass


class Head(Protocol):
    """A distribution over D numbers, read from `outputs` numbers of a network, for M stacked members.

    `exactness` says what `log_prob` is: the density itself, a lower bound of it, or nothing that
    may be compared (`log_prob` then raises).
    """

    exactness: Exactness
    outputs: int

    def mean(self, numbers: Tensor) -> Tensor:
        """(M, B, outputs) -> (M, B, D), the expected value."""

    def sample(self, numbers: Tensor, *, generator: torch.Generator) -> Tensor:
        """(M, B, outputs) -> (M, B, D), one draw for each row."""

    def log_prob(self, numbers: Tensor, value: Tensor) -> Tensor:
        """(M, B, outputs), value (B, D) or (M, B, D) -> (M, B, D), nats for each dimension."""

    def log_mass(self, numbers: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """(M, B, outputs), edges (B, D) -> (M, B, D) float64, nats of each interval; edges may be infinite."""


class GaussianHead(nn.Module):
    """Independent Gaussians with a softly bounded log-variance (arXiv:1805.12114, appendix A.1).

    The network gives D means, then D log-variances. Every member learns its own two bounds; add
    `penalty()` to the loss, or they widen without end. Units are those the network is trained in.
    """

    exactness: Exactness = "exact"

    def __init__(self, members: int, dims: int, *, low: float = -10.0, high: float = 0.5) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"the log-variance bounds must rise, got low {low} and high {high}")
        self.dims, self.outputs = dims, 2 * dims
        self.low = nn.Parameter(torch.full((members, 1, dims), low))
        self.high = nn.Parameter(torch.full((members, 1, dims), high))

    def log_variance(self, numbers: Tensor) -> Tensor:
        """(M, B, 2D) -> (M, B, D), squeezed from above and below by softplus."""
        below = self.high - F.softplus(self.high - numbers[..., self.dims :])
        return self.low + F.softplus(below - self.low)

    def mean(self, numbers: Tensor) -> Tensor:
        """(M, B, 2D) -> (M, B, D)."""
        return numbers[..., : self.dims]

    def sample(self, numbers: Tensor, *, generator: torch.Generator) -> Tensor:
        """(M, B, 2D) -> (M, B, D); one draw for each row."""
        mean = self.mean(numbers)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + noise * (0.5 * self.log_variance(numbers)).exp()

    def log_prob(self, numbers: Tensor, value: Tensor) -> Tensor:
        """(M, B, 2D), value (B, D) or (M, B, D) -> (M, B, D), nats for each dimension."""
        log_variance = self.log_variance(numbers)
        error = value - self.mean(numbers)
        return -0.5 * (error.square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))

    def log_mass(self, numbers: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """(M, B, 2D), edges (B, D) -> (M, B, D) float64, nats of each interval; edges may be infinite."""
        return interval_log_mass(low, high, self.mean(numbers), 0.5 * self.log_variance(numbers))

    def penalty(self) -> Tensor:
        """Sum of the bounds' widths, a 0-d tensor; the paper weighs it by 0.01."""
        return (self.high - self.low).sum()
