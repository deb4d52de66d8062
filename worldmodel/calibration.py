"""Making a model's uncertainty honest on held-out data, once its weights are chosen; neither correction moves a mean.

A network fits the spread of its errors on the data it has seen, and errs more elsewhere; a simulator without noise
leaves nothing but such errors.

**Spread.** One factor for each dimension's standard deviation, of the highest likelihood of what was held out under
the members' equal mixture (temperature scaling, arXiv:1706.04599, for densities). It makes the likelihood honest, not
every interval: where most steps are exact and a few are not, as beside a wall, no Gaussian is right at both.

**Termination.** A line through the logit (Platt, 1999), with a standard normal prior round the identity, so that a few
terminations, or none, change little.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from worldmodel.heads import Head
from worldmodel.model import EnsembleModel
from worldmodel.selection import Rows

WIDEST = 32.0  # scales lie within its inverse and itself


@torch.no_grad()
def calibrate(model: EnsembleModel, rows: Rows) -> None:
    """Fit `head.scale`, `end_slope` and `end_shift` to the first steps of held-out windows; nothing without any."""
    first = rows.valid[:, 0]
    if not first.any():
        return
    obs, action, reward = rows.obs[first, 0], rows.action[first, 0], rows.reward[first, 0]
    numbers, logit = model(obs, action)
    value = model.target(obs, rows.obs[first, 1], reward)
    model.head.scale.copy_(fit_scale(model.head.of(model.elites), numbers[model.elites], value, model.targets.kept))
    slope, shift = fit_logit(logit[model.elites], rows.terminated[first, 0]) if model.ends else (1.0, 0.0)
    model.end_slope.fill_(slope)
    model.end_shift.fill_(shift)


def fit_scale(head: Head, numbers: Tensor, value: Tensor, kept: Tensor) -> Tensor:
    """The scale (D,) of highest likelihood; numbers (E, N, outputs), value (N, D), kept (D,) bool; 1 where not kept.

    The search starts from the head's present scale.
    """
    start = head.scale

    def loss(log_scale: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            free = torch.as_tensor(log_scale, dtype=start.dtype, device=start.device).requires_grad_()
            head.scale = free.exp()
            log_prob = (head.log_prob(numbers, value) * kept).sum(-1)  # (E, N)
            nll = -log_prob.logsumexp(0).mean()
            (gradient,) = torch.autograd.grad(nll, free)
        return nll.item(), gradient.double().cpu().numpy()

    reach = math.log(WIDEST)
    found = minimize(
        loss, start.log().double().cpu().numpy(), jac=True, method="L-BFGS-B", bounds=[(-reach, reach)] * len(start)
    )
    head.scale = start
    return torch.as_tensor(found.x, dtype=start.dtype, device=start.device).exp().where(kept, 1.0)


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
