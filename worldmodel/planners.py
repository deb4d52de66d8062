"""Planners: pure functions that search action sequences by their score alone.

Letters in shapes: M rows planned at once, N samples, H steps, A action numbers, K elites.
A score function maps obs (M, O) and actions (M, N, H, A) to (M, N), higher is better; it may be a
learned model, a simulator or a formula, and the planner never knows. A score that is not finite
counts as minus infinity.

One loop, `optimise`; a method is an update of the mean and spread that samples are drawn from. CEM
and iCEM share `cem`: the latter also keeps good sequences and draws coloured noise. For discrete
actions the mean is each choice's probability; see `worldmodel.spaces`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import toeplitz
from torch import Tensor

from worldmodel.spaces import ActionSpace

Score = Callable[[Tensor, Tensor], Tensor]
Update = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(actions (M, N, H, A), scores (M, N), mean (M, H, A), std (M, H, A)) -> new mean and std."""
Guide = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(obs (M, O), mean (M, H, A), noise (M, N, H, A)) -> the sequences (M, n, H, A) that replace the last n samples."""


@dataclass(frozen=True)
class Plan:
    """What a planner knows of M rows between two moments."""

    mean: Tensor  # (M, H, A); mean[:, 0], settled, is the action to execute
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
    space: ActionSpace,
    std: Tensor,
    guide: Guide | None = None,
) -> Plan:
    """Improve `start` once for each tensor of standard normal `noise` (M, N, H, A); N may differ.

    Samples are `noise` round the mean, settled into `space`; `std` (A,) is where every search begins.
    The first samples are replaced by the sequences kept so far and by the mean itself, so a plan that
    was good is scored again rather than lost (arXiv:2008.06389, section 3.2); the last by those of a `guide`.
    """
    mean, kept = start.mean, start.kept
    keep = kept.shape[1]
    spread = std.expand_as(mean)
    for normal in noise:
        sequences = space.perturb(mean[:, None], spread[:, None], normal)
        if guide is not None:
            guided = guide(obs, mean, normal)
            sequences[:, normal.shape[1] - guided.shape[1] :] = guided
        sequences[:, :keep] = kept
        sequences[:, keep] = mean
        actions = space.settle(sequences)
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
    return _moved(best, usable.to(best.dtype), mean, std, momentum)


def mppi(
    actions: Tensor, scores: Tensor, mean: Tensor, std: Tensor, *, temperature: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """Path-integral control: every sample counts, by exp(score / temperature) (arXiv:1707.02342, eq. 34).

    Scores are standardised over a row's samples first, so a temperature means the same for all rewards. The
    spread follows the weighted samples, as in arXiv:2203.04955, algorithm 1; the original holds it fixed.
    """
    return _moved(actions, soft_weights(scores, temperature), mean, std, momentum)


def mbop(actions: Tensor, scores: Tensor, mean: Tensor, std: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """The return-weighted mean of all samples, their spread as it was (arXiv:2008.05556, algorithm 2).

    Scores are standardised as in `mppi`. What makes it MBOP is where samples come from: a `guide` that
    follows a cloned policy through the model.
    """
    return _moved(actions, soft_weights(scores, temperature), mean, std, 0.0)[0], std


def soft_weights(scores: Tensor, temperature: float) -> Tensor:
    """Softmax of standardised scores (M, N) over a row's samples; 0 where minus infinity, also for whole rows."""
    usable = scores > -torch.inf
    count = usable.sum(1, keepdim=True).clamp_min(1)
    known = scores.where(usable, 0.0)
    off = (known - known.sum(1, keepdim=True) / count).where(usable, 0.0)
    scale = (off.square().sum(1, keepdim=True) / count).sqrt().clamp_min(1e-30)
    weight = (off / (temperature * scale)).where(usable, -torch.inf).softmax(1)
    return weight.where(usable, 0.0)


def _moved(actions: Tensor, weight: Tensor, mean: Tensor, std: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """Mean and std (M, H, A), moved to those of weighted samples; weight (M, N) need not sum to 1, and all 0 stays."""
    total = weight.sum(1, keepdim=True)
    found = (total > 0)[..., None]
    weight = (weight / total.where(total > 0, 1.0))[..., None, None]
    new_mean = (weight * actions).sum(1)
    new_std = (weight * (actions - new_mean[:, None]).square()).sum(1).sqrt()
    return new_mean.lerp(mean, momentum).where(found, mean), new_std.lerp(std, momentum).where(found, std)


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
