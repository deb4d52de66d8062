"""Planners: pure functions that search action sequences by their score alone.

Letters in shapes: M rows planned at once, N samples, H steps, A action numbers, K elites.
A score function maps obs (M, O) and actions (M, N, H, A) to (M, N), higher is better; it may be a
learned model, a simulator or a formula, and the planner never knows. A score that is not finite
counts as minus infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import toeplitz
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
Update = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(actions (M, N, H, A), scores (M, N), mean (M, H, A), std (M, H, A)) -> new mean and std."""


@dataclass(frozen=True)
class Plan:
    """What a planner knows of M rows between two moments."""

    mean: Tensor  # (M, H, A); mean[:, 0] is the action to execute
    kept: Tensor  # (M, k, H, A), the best sequences found, best first

    @classmethod
    def blank(cls, centre: Tensor, *, rows: int, horizon: int, keep: int) -> Plan:
        """M `rows` that plan to repeat the action `centre` (A,)."""
        mean = centre.expand(rows, horizon, -1).clone()
        return cls(mean, mean[:, None].repeat(1, keep, 1, 1))

    def shifted(self, first: Tensor, centre: Tensor) -> Plan:
        """The warm start one step later: the last action is `centre` (A,); rows where `first` (M,) know nothing."""

        def later(sequences: Tensor) -> Tensor:
            moved = sequences.roll(-1, dims=-2)
            moved[..., -1, :] = centre
            moved[first] = centre
            return moved

        return Plan(later(self.mean), later(self.kept))


def optimise(
    score: Score,
    obs: Tensor,
    start: Plan,
    noise: Iterable[Tensor],
    update: Update,
    *,
    low: Tensor,
    high: Tensor,
    std: Tensor,
) -> Plan:
    """Improve `start` once for each tensor of standard normal `noise` (M, N, H, A).

    Samples are mean + std * noise, clipped to [low, high]; `std` (A,) is where every search begins.
    The first samples are replaced by the sequences kept so far and by the mean itself, so a plan that
    was good is scored again rather than lost (arXiv:2008.06389, section 3.2).
    """
    mean, kept = start.mean, start.kept
    keep = kept.shape[1]
    spread = std.expand_as(mean)
    for normal in noise:
        actions = mean[:, None] + spread[:, None] * normal
        actions[:, :keep] = kept
        actions[:, keep] = mean
        actions = actions.clamp(low, high)
        scores = score(obs, actions)
        scores = scores.where(scores.isfinite(), -torch.inf)
        mean, spread = update(actions, scores, mean, spread)
        best, usable = top(actions, scores, keep)
        kept = best.where(usable[..., None, None], mean[:, None])
    return Plan(mean, kept)


def cem(
    actions: Tensor, scores: Tensor, mean: Tensor, std: Tensor, *, elites: int, momentum: float
) -> tuple[Tensor, Tensor]:
    """The cross-entropy update: new mean and std are momentum * old + (1 - momentum) * those of the best K.

    Samples that score minus infinity are never among the best; a row where nothing else is left
    keeps its mean and std. Source: arXiv:2008.06389, algorithm 1.
    """
    best, usable = top(actions, scores, elites)  # (M, K, H, A), (M, K)
    weight = usable[..., None, None].to(best.dtype)
    count = weight.sum(1).clamp_min(1)
    best_mean = (weight * best).sum(1) / count
    best_std = ((weight * (best - best_mean[:, None]).square()).sum(1) / count).sqrt()
    found = usable.any(1)[:, None, None]
    return mean.where(~found, best_mean.lerp(mean, momentum)), std.where(~found, best_std.lerp(std, momentum))


def top(actions: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best sequences of each row (M, count, H, A), and which of them score above minus infinity."""
    value, index = scores.topk(count, dim=1)
    rows = torch.arange(len(scores), device=scores.device)[:, None]
    return actions[rows, index], value > -torch.inf


def colour(horizon: int, exponent: float) -> Tensor:
    """(H, H) float32 factor: white noise (..., H) @ factor has unit variance and power 1 / frequency ** exponent.

    0 leaves it white; towards 2 and above, samples push one way for longer (arXiv:2008.06389,
    section 3.1). The series is the first half of one with period 2 H, so its ends are not tied together.
    """
    frequency = np.arange(1, horizon + 1)
    power = frequency ** -float(exponent)
    power[-1] /= 2  # the highest frequency has no sine
    lag = np.arange(horizon)
    covariance = (power * np.cos(np.pi * np.outer(lag, frequency) / horizon)).sum(1)
    if exponent == 0:
        covariance = (lag == 0).astype(np.float64)
    factor = np.linalg.cholesky(toeplitz(covariance / covariance[0]) + 1e-9 * np.eye(horizon))
    return torch.from_numpy(factor.T.astype(np.float32))
