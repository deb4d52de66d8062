"""Samples that follow a policy through the model, and a policy cloned from the data for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.core import Spec
from toolkit.nets import StackedMLP
from toolkit.normalize import Normalizer
from worldmodel.model import Imagination
from worldmodel.spaces import ActionSpace

Choose = Callable[[Tensor], Tensor]
"""Raw observations (R, O) -> actions (R, A), raw, one-hot if discrete."""


class PolicyGuide:
    """Closed-loop proposals: at every imagined state the prior's action, with noise, mixed with the last plan.

    Sequence i of all is imagined by member i mod E. The last one of each row has no noise. With `inertia` b, actions
    are (1 - b) (prior + noise) + b plan (arXiv:2008.05556, algorithm 2, where the prior sees the last action too).
    """

    def __init__(
        self, choose: Choose, imagine: Imagination, space: ActionSpace, *, share: float, std: Tensor, inertia: float
    ) -> None:
        self.choose, self.imagine, self.space = choose, imagine, space
        self.share, self.std, self.inertia = share, std, inertia

    def __call__(self, obs: Tensor, mean: Tensor, noise: Tensor) -> Tensor:
        """obs (M, O), mean (M, H, A), noise (M, N, H, A) -> (M, n, H, A), n = ceil(share N)."""
        noise = noise[:, -math.ceil(self.share * noise.shape[1]) :].clone()
        noise[:, -1] = 0.0
        return self._follow(obs, mean, noise, self.inertia)

    def alone(self, obs: Tensor, horizon: int) -> Tensor:
        """(M, O) -> (M, H, A): what the prior would do."""
        mean = self.space.centre.expand(len(obs), horizon, -1)
        return self._follow(obs, mean, torch.zeros_like(mean)[:, None], 0.0)[:, 0]

    def _follow(self, obs: Tensor, mean: Tensor, noise: Tensor, inertia: float) -> Tensor:
        rows, count, horizon, size = noise.shape
        members = self.imagine.members
        group = math.ceil(rows * count / members)
        dealt = torch.arange(group * members, device=obs.device).clamp(max=rows * count - 1).view(group, members).T
        state, noise = obs[dealt // count], noise.flatten(0, 1)[dealt]  # (E, G, O), (E, G, H, A)
        plan, taken = mean[dealt // count], torch.empty_like(noise)
        for h in range(horizon):
            prior = self.choose(state.flatten(0, 1)).view(members, group, size)
            moved = self.space.perturb(prior.lerp(plan[..., h, :], inertia), (1 - inertia) * self.std, noise[..., h, :])
            taken[..., h, :] = action = self.space.settle(moved)
            state = self.imagine.after(state, self.imagine.step(torch.cat([state, action], -1)))
        return taken.transpose(0, 1).flatten(0, 1)[: rows * count].view(rows, count, horizon, size)


class Clone(nn.Module):
    """The data's behaviour as a function of the observation: a mean fitted by squared error, or a softmax's mode."""

    def __init__(self, spec: Spec, hidden: Sequence[int], *, generator: torch.Generator) -> None:
        super().__init__()
        self.discrete, self.size = spec.discrete, spec.action_dim
        self.observe, self.scale = Normalizer(spec.obs), Normalizer(spec.action)
        self.network = StackedMLP(1, spec.obs_dim, hidden, spec.action_dim, activation=F.silu, generator=generator)

    def loss(self, obs: Tensor, action: Tensor, weight: Tensor) -> Tensor:
        """Weighted mean over rows (B,): of the squared error in the data's spreads, or of -log p(action), nats."""
        output = self.network(self.observe(obs))[0]
        if self.discrete:
            each = -(output.log_softmax(-1) * action).sum(-1)
        else:
            each = (output - self.scale(action)).square().mean(-1)
        return (weight * each).sum() / weight.sum().clamp_min(1)

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (R, O) -> actions (R, A), raw, one-hot if discrete; limits are for the planner to keep."""
        output = self.network(self.observe(obs))[0]
        if self.discrete:
            return F.one_hot(output.argmax(-1), self.size).to(output.dtype)
        return self.scale.inverse(output)
