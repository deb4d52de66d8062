"""An autoregressive mixture: dimensions may depend on each other and have several modes, and the density is exact."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.nets import interval_log_mass
from worldmodel.heads import Bounds, Head

Choose = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(log weights, means, log standard deviations), each (M, B, K) -> one number for each row (M, B)."""

REACH = 8.0  # standardised residuals beyond it tell later dimensions no more
LOG_STD = 3.0  # a component's log standard deviation lies within +-3, in units of the dimension's own


class AutoregressiveHead(Head):
    """p(x) = prod_d p(x_d | x_1 .. x_{d-1}, input), each factor a mixture of K Gaussians.

    As the Gaussian head's, the network's first numbers are D means and D log-variances; they place and scale a
    residual z_d = (x_d - mean_d) / std_d. W further numbers a dimension, plus a linear function of the residuals
    before it, feed one layer whose output is the mixture of z_d: weights, means (plus another linear function
    of the residuals before it) and standard deviations. With K = 1 and no layer it would be a full-covariance Gaussian.
    Autoregressive mixtures: RNADE (arXiv:1306.0186); of dynamics, dimension by dimension: arXiv:2104.13877.
    """

    exactness = "exact"

    def __init__(
        self,
        members: int,
        dims: int,
        *,
        components: int = 5,
        width: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dims, (2 + width) * dims)
        self.components, self.width = components, width
        self.bounds = Bounds(members, dims)
        reach = 1 / math.sqrt(width)

        def uniform(*shape: int, bound: float) -> nn.Parameter:
            return nn.Parameter(torch.empty(members, *shape).uniform_(-bound, bound, generator=generator))

        self.before = uniform(dims, dims, width, bound=1 / math.sqrt(dims))  # of residual i on dimension d: i, d, W
        self.shift = nn.Parameter(torch.zeros(members, dims, dims))  # likewise, on all means of dimension d
        self.weight = uniform(dims, width, 3 * components, bound=reach)
        self.bias = uniform(dims, 1, 3 * components, bound=1.0)  # modes start apart
        self.register_buffer("earlier", torch.ones(dims, dims, dtype=torch.bool).triu(1), persistent=False)

    earlier: Tensor  # (i, d) is True where i < d

    def mean(self, numbers: Tensor) -> Tensor:
        """(M, B, outputs) -> (M, B, D): each dimension's expectation, given the expectations of those before it.

        The mean of the whole distribution where expectations are linear in the dimensions before, else near it.
        """
        return self._chain(numbers, lambda log_weight, mean, log_std: (log_weight.exp() * mean).sum(-1))

    def std(self, numbers: Tensor) -> Tensor:
        """(M, B, outputs) -> (M, B, D): standard deviations, each given the expectations of those before it."""
        found: list[Tensor] = []

        def expect(log_weight: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
            weight = log_weight.exp()
            centre = (weight * mean).sum(-1)
            found.append((weight * ((2 * log_std).exp() + (mean - centre[..., None]).square())).sum(-1).sqrt())
            return centre

        self._chain(numbers, expect)
        return torch.stack(found, -1) * self._parts(numbers)[1].exp()

    def sample(self, numbers: Tensor, *, generator: torch.Generator) -> Tensor:
        """(M, B, outputs) -> (M, B, D); one draw for each row, dimension after dimension."""

        def draw(log_weight: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
            uniform, noise = torch.empty_like(mean[..., :1]), torch.empty_like(mean[..., 0])
            uniform.uniform_(generator=generator)
            noise.normal_(generator=generator)
            component = (log_weight.exp().cumsum(-1)[..., :-1] < uniform).sum(-1, keepdim=True)
            place, spread = (each.gather(-1, component).squeeze(-1) for each in (mean, log_std))
            return place + spread.exp() * noise

        return self._chain(numbers, draw)

    def log_prob(self, numbers: Tensor, value: Tensor) -> Tensor:
        """(M, B, outputs), value (B, D) or (M, B, D) -> (M, B, D), nats; each dimension given those before it."""
        place, log_std, _ = self._parts(numbers)
        log_weight, mean, spread = self._given(numbers, value)
        residual = (value - place) * (-log_std).exp()
        error = (residual[..., None] - mean) * (-spread).exp()
        each = log_weight - 0.5 * error.square() - spread
        return each.logsumexp(-1) - 0.5 * math.log(2 * math.pi) - log_std

    def log_mass(self, numbers: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """See `Head`; each dimension given the middles of the intervals before it, 0 of an infinite one."""
        place, log_std, _ = self._parts(numbers)
        middle = ((low + high) / 2).where(low.isfinite() & high.isfinite(), 0.0).to(numbers.dtype)
        log_weight, mean, spread = self._given(numbers, middle)
        first, last = (((edge - place) * (-log_std).exp())[..., None] for edge in (low, high))
        return (log_weight + interval_log_mass(first, last, mean, spread)).logsumexp(-1)

    def _given(self, numbers: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mixtures of every residual given those of `value` before it: log weights, means, log std (M, B, D, K)."""
        place, log_std, features = self._parts(numbers)
        seen = ((value - place) * (-log_std).exp()).clamp(-REACH, REACH)
        before = self.before.flatten(2) * self.earlier.repeat_interleave(self.width, 1)  # (M, D, D W)
        hidden = F.silu(torch.baddbmm(features.flatten(2), seen, before)).unflatten(2, (self.dims, self.width))
        shift = torch.bmm(seen, self.shift * self.earlier)
        mixture = hidden.transpose(1, 2) @ self.weight + self.bias  # (M, D, B, 3 K)
        return self._mixture(mixture.transpose(1, 2), shift[..., None], self.scale[:, None])

    def penalty(self) -> Tensor:
        """Sum of the bounds' widths."""
        return self.bounds.width()

    def _parts(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(M, B, outputs) -> means and log standard deviations (M, B, D), features (M, B, D, W)."""
        mean, free, features = numbers.split([self.dims, self.dims, self.dims * self.width], -1)
        return mean, 0.5 * self.bounds(free), features.unflatten(-1, (self.dims, self.width))

    def _mixture(self, numbers: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., 3 K) -> log weights, means and log standard deviations (..., K) of the residual."""
        log_weight, mean, spread = numbers.split(self.components, -1)
        return log_weight.log_softmax(-1), mean + shift, LOG_STD * (spread / LOG_STD).tanh() + scale.log()

    def _chain(self, numbers: Tensor, choose: Choose) -> Tensor:
        """(M, B, outputs) -> (M, B, D): residuals chosen one after the other, back in the head's units."""
        place, log_std, features = self._parts(numbers)
        found: list[Tensor] = []
        for d in range(self.dims):
            hidden, shift = features[:, :, d], torch.zeros_like(place[..., :1])
            if found:
                seen = torch.stack(found, -1).clamp(-REACH, REACH)  # (M, B, d)
                hidden = torch.baddbmm(hidden, seen, self.before[:, :d, d])
                shift = torch.bmm(seen, self.shift[:, :d, d, None])
            mixture = torch.baddbmm(self.bias[:, d], F.silu(hidden), self.weight[:, d])
            found.append(choose(*self._mixture(mixture, shift, self.scale[d])))
        return place + torch.stack(found, -1) * log_std.exp()
