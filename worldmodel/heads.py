"""Heads turn a network's last layer into a distribution over what it predicts: the interface, and Gaussians."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.core import Exactness
from toolkit.nets import interval_log_mass


class Head(nn.Module):
    """A distribution over D numbers, read from `outputs` numbers of a network, for M stacked members.

    `exactness` says what `log_prob` is: the density itself, a lower bound of it, or nothing that
    may be compared (`log_prob` then raises). Every parameter has the members first. `scale` (D,)
    widens each dimension's spread; it is 1 in training, and fitted on held-out data afterwards.
    Units are those the network is trained in.
    """

    exactness: ClassVar[Exactness]
    reads_mean: ClassVar[bool] = False
    """Whether the mean is simply the first D numbers."""
    scale: Tensor

    def __init__(self, dims: int, outputs: int) -> None:
        super().__init__()
        self.dims, self.outputs = dims, outputs
        self.register_buffer("scale", torch.ones(dims))

    def mean(self, numbers: Tensor) -> Tensor:
        """(M, B, outputs) -> (M, B, D), the expected value."""
        raise NotImplementedError

    def std(self, numbers: Tensor) -> Tensor:
        """(M, B, outputs) -> (M, B, D), standard deviations, each given the expectations of those before it."""
        raise NotImplementedError

    def sample(self, numbers: Tensor, *, generator: torch.Generator) -> Tensor:
        """(M, B, outputs) -> (M, B, D), one draw for each row."""
        raise NotImplementedError

    def log_prob(self, numbers: Tensor, value: Tensor) -> Tensor:
        """(M, B, outputs), value (B, D) or (M, B, D) -> (M, B, D), nats; each dimension given those before it."""
        raise NotImplementedError

    def penalty(self) -> Tensor:
        """What training adds to the loss, times 0.01, to keep the parameters in place; a 0-d tensor."""
        raise NotImplementedError

    def of(self, members: Tensor) -> Self:
        """A copy that holds only the `members` (E,) int64."""
        part = copy.deepcopy(self)
        for parameter in part.parameters():
            parameter.data = parameter.data[members]
        return part

    def log_mass(self, numbers: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """(M, B, outputs), edges (B, D) -> (M, B, D) float64, nats of each interval; edges may be infinite."""
        raise NotImplementedError


class Bounds(nn.Module):
    """Soft bounds of log-variances (arXiv:1805.12114, appendix A.1), learned by every member for each of D dimensions.

    Add `width()` to the loss, or they widen without end.
    """

    def __init__(self, members: int, dims: int, *, low: float = -10.0, high: float = 0.5) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"the log-variance bounds must rise, got low {low} and high {high}")
        self.low = nn.Parameter(torch.full((members, 1, dims), low))
        self.high = nn.Parameter(torch.full((members, 1, dims), high))

    def forward(self, free: Tensor) -> Tensor:
        """(M, B, D) -> (M, B, D), squeezed from above and below by softplus."""
        below = self.high - F.softplus(self.high - free)
        return self.low + F.softplus(below - self.low)

    def width(self) -> Tensor:
        """Sum of the bounds' widths, a 0-d tensor; the paper weighs it by 0.01."""
        return (self.high - self.low).sum()


class GaussianLogProb(torch.autograd.Function):
    """-0.5 ((x - mean)**2 / variance + log variance + log 2 pi), log variance bounded and scaled as in GaussianHead.

    Its gradient is written out: a third of the operations that autograd would do, and no copies of the numbers.
    """

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, value: Tensor, low: Tensor, high: Tensor, scale: Tensor) -> Tensor:
        """numbers (M, B, 2D), value (B, D) or (M, B, D), bounds (M, 1, D), scale (D,) -> (M, B, D)."""
        mean, free = numbers.chunk(2, -1)
        above = high - free
        below = high - F.softplus(above) - low
        log_variance = low + F.softplus(below) + 2 * scale.log()
        error = value - mean
        pull = error * (-log_variance).exp()
        square = error * pull
        ctx.save_for_backward(above, below, pull, square, scale)
        ctx.shared = value.dim() < numbers.dim()
        return (square + log_variance).add_(math.log(2 * math.pi)).mul_(-0.5)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Of numbers, value, bounds and scale."""
        above, below, pull, square, scale = ctx.saved_tensors
        of_mean, of_variance = gradient * pull, gradient * (square - 1) * 0.5  # of the logarithm of the variance
        of_below = of_variance * below.sigmoid()
        of_free = of_below * above.sigmoid()
        of_value = of_scale = None
        if ctx.needs_input_grad[1]:
            of_value = -(of_mean.sum(0) if ctx.shared else of_mean)
        if ctx.needs_input_grad[4]:
            of_scale = 2 * of_variance.sum((0, 1)) / scale
        of_low, of_high = (of_variance - of_below).sum(1, keepdim=True), (of_below - of_free).sum(1, keepdim=True)
        return torch.cat([of_mean, of_free], -1), of_value, of_low, of_high, of_scale


class GaussianHead(Head):
    """Independent Gaussians (arXiv:1805.12114): the network gives D means, then D log-variances."""

    exactness = "exact"
    reads_mean = True

    def __init__(
        self,
        members: int,
        dims: int,
        *,
        low: float = -10.0,
        high: float = 0.5,
        generator: torch.Generator | None = None,  # nothing is drawn
    ) -> None:
        super().__init__(dims, 2 * dims)
        self.bounds = Bounds(members, dims, low=low, high=high)

    def log_variance(self, numbers: Tensor) -> Tensor:
        """(M, B, 2D) -> (M, B, D), within the soft bounds, then widened by `scale`."""
        return self.bounds(numbers[..., self.dims :]) + 2 * self.scale.log()

    def mean(self, numbers: Tensor) -> Tensor:
        """(M, B, 2D) -> (M, B, D)."""
        return numbers[..., : self.dims]

    def std(self, numbers: Tensor) -> Tensor:
        """(M, B, 2D) -> (M, B, D)."""
        return (0.5 * self.log_variance(numbers)).exp()

    def sample(self, numbers: Tensor, *, generator: torch.Generator) -> Tensor:
        """(M, B, 2D) -> (M, B, D); one draw for each row."""
        mean = self.mean(numbers)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + noise * self.std(numbers)

    def log_prob(self, numbers: Tensor, value: Tensor) -> Tensor:
        """(M, B, 2D), value (B, D) or (M, B, D) -> (M, B, D), nats for each dimension."""
        if torch.compiler.is_compiling():  # a compiler writes the gradient out by itself
            log_variance = self.log_variance(numbers)
            square = (value - self.mean(numbers)).square() * (-log_variance).exp()
            return -0.5 * (square + log_variance + math.log(2 * math.pi))
        return GaussianLogProb.apply(numbers, value, self.bounds.low, self.bounds.high, self.scale)

    def log_mass(self, numbers: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """(M, B, 2D), edges (B, D) -> (M, B, D) float64, nats of each interval; edges may be infinite."""
        return interval_log_mass(low, high, self.mean(numbers), 0.5 * self.log_variance(numbers))

    def penalty(self) -> Tensor:
        """Sum of the bounds' widths."""
        return self.bounds.width()
