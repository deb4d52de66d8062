"""Making a model's uncertainty honest on held-out data, and measuring whether it is.

A network fits the spread of its errors on the data it has seen, and errs more elsewhere; a simulator without noise
leaves nothing but such errors. Two corrections are fitted on held-out steps once the weights are chosen, so that
neither moves a mean: one factor for each dimension's spread, and a line through the logit of termination.

The factor maximises the likelihood of each dimension under the members' equal mixture (temperature scaling of a
regression; arXiv:1706.04599 for classifiers). The line is Platt's (1999), with a standard normal prior round the
identity, so a few terminations, or none, change little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from toolkit.core import Batch
from worldmodel.heads import Head
from worldmodel.model import EnsembleModel
from worldmodel.selection import Rows

WIDEST = 32.0  # scales lie within its inverse and itself
GOLDEN = (math.sqrt(5) - 1) / 2
ROUNDS = 24  # of golden section: the scale to 1e-4 of itself


@torch.no_grad()
def calibrate(model: EnsembleModel, rows: Rows) -> None:
    """Fit `head.scale`, `end_slope` and `end_shift` to the first steps of held-out windows; nothing without any."""
    first = rows.valid[:, 0]
    if not first.any():
        return
    obs, action, reward = rows.obs[first, 0], rows.action[first, 0], rows.reward[first, 0]
    numbers, logit = model(obs, action)
    value = model.target(obs, rows.obs[first, 1], reward)
    fitted = fit_scale(model.head.of(model.elites), numbers[model.elites], value)
    model.head.scale.copy_(fitted.where(model.targets.kept, 1.0))
    slope, shift = fit_logit(logit[model.elites], rows.terminated[first, 0]) if model.ends else (1.0, 0.0)
    model.end_slope.fill_(slope)
    model.end_shift.fill_(shift)


@torch.no_grad()
def fit_scale(head: Head, numbers: Tensor, value: Tensor) -> Tensor:
    """The scale (D,) of highest likelihood; numbers (E, N, outputs), value (N, D). Leaves the head as it was.

    Golden section in its logarithm, all dimensions at once: a dimension's likelihood is a function of its own scale.
    """
    before = head.scale.clone()

    def likelihood(log_scale: Tensor) -> Tensor:
        head.scale.copy_(log_scale.exp())
        return head.log_prob(numbers, value).logsumexp(0).mean(0)

    reach = math.log(WIDEST)
    low, high = torch.full_like(before, -reach), torch.full_like(before, reach)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = likelihood(left), likelihood(right)
    for _ in range(ROUNDS):
        lower = at_left >= at_right  # the best lies below `right`
        high, low = torch.where(lower, right, high), torch.where(lower, low, left)
        fresh = torch.where(lower, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_fresh = likelihood(fresh)
        left, right = torch.where(lower, fresh, right), torch.where(lower, left, fresh)
        at_left, at_right = torch.where(lower, at_fresh, at_right), torch.where(lower, at_left, at_fresh)
    head.scale.copy_(before)
    return ((low + high) / 2).exp()


def fit_logit(logit: Tensor, happened: Tensor) -> tuple[float, float]:
    """Slope and shift of the line through logits (E, N) that best tell what `happened` (N,) bool; members count alike.

    Minimises the members' mean log loss, summed over rows, plus half of (slope - 1)**2 + shift**2.
    """
    x, y = logit.double().cpu().numpy(), happened.double().cpu().numpy()

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        slope, shift = line
        z = slope * x + shift
        excess = np.exp(-np.logaddexp(0, -z)) - y  # probability minus outcome
        prior = np.array([slope - 1, shift])
        value = (np.logaddexp(0, z) - y * z).sum() / len(x) + 0.5 * prior @ prior
        return value, np.array([(excess * x).sum(), excess.sum()]) / len(x) + prior

    slope, shift = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(slope), float(shift)


@torch.no_grad()
def ranks(model: EnsembleModel, batch: Batch, *, draws: int, generator: torch.Generator) -> Tensor:
    """Where each first step lies among the elite members' draws: (N, O + 1) in (0, 1), reward last.

    `draws` for each member. Uniform where the marginals are right: the probability integral transform, for every
    head that can be sampled. NaN in dimensions that are constant in the data, and in rows that are not valid.
    """
    obs, action, reward = batch.obs[:, 0], batch.action[:, 0], batch.reward[:, 0]
    numbers = model(obs, action)[0][model.elites]
    value, head = model.target(obs, batch.obs[:, 1], reward), model.head.of(model.elites)
    below = torch.zeros_like(value)
    for _ in range(draws):
        below += (head.sample(numbers, generator=generator) < value).sum(0)
    tie = torch.rand(value.shape, generator=generator, device=value.device)  # so that a rank is uniform, not discrete
    found = (below + tie) / (draws * len(model.elites) + 1)
    return found.where(model.targets.kept & batch.valid[:, :1], math.nan)


def coverage(found: Tensor, levels: Sequence[float]) -> Tensor:
    """How often central intervals hold what came: ranks (N, D) -> (levels, D); NaN for constant dimensions."""
    off = (found - 0.5).abs()
    return torch.stack([(off <= level / 2).to(off).where(off.isfinite(), math.nan).nanmean(0) for level in levels])


def reliability(probability: Tensor, happened: Tensor, *, bins: int = 10) -> Tensor:
    """(N,), (N,) bool -> (bins, 3): in each tenth of probability the rows, their mean probability, their frequency.

    NaN where a bin is empty.
    """
    place = (probability * bins).long().clamp_max(bins - 1)
    count = torch.bincount(place, minlength=bins).double()
    sums = [torch.bincount(place, each.double(), minlength=bins) / count for each in (probability, happened)]
    return torch.stack([count, *sums], 1)
