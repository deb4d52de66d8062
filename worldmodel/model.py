"""An ensemble of probabilistic networks that predicts what an action does, and imagining with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.core import Moments, Spec
from toolkit.nets import StackedMLP
from toolkit.normalize import Normalizer
from worldmodel.heads import GaussianHead


class EnsembleModel(nn.Module):
    """M members, each p(next_obs - obs, reward, terminated | obs, action) (arXiv:1805.12114).

    One stacked network gives the Gaussian head its numbers (O changes of the observation and the
    reward, standardised) and one more number, the logit of termination. A dimension whose change is
    constant in the data, as a goal's is, is predicted to change by that constant and has no part in
    likelihoods; a constant reward likewise. While `ends` is False, as it is until training data shows
    a termination, its probability is exactly zero.

    `elites` (E,) int64 are the members that `log_prob` and `Imagination` use.
    """

    elites: Tensor
    ends: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self, spec: Spec, *, members: int, elites: int, hidden: Sequence[int], generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.obs_dim = spec.obs_dim
        self.inputs = Normalizer(_join(spec.obs, spec.action))  # (O + A,)
        self.targets = Normalizer(_join(spec.delta, spec.reward))  # (O + 1,)
        self.head = GaussianHead(members, spec.obs_dim + 1)
        inputs, outputs = spec.obs_dim + spec.action_dim, self.head.outputs + 1
        self.network = StackedMLP(members, inputs, hidden, outputs, activation=F.silu, generator=generator)
        # An episode terminates at most once: the logit starts at the largest rate the data could have.
        rate = min(0.5, max(spec.episodes, 1) / max(spec.transitions, 2))
        *_, last_bias = self.network.parameters()
        with torch.no_grad():
            last_bias[..., -1] = math.log(rate / (1 - rate))
        self.register_buffer("elites", torch.arange(elites))
        self.register_buffer("low", torch.from_numpy(np.array(spec.obs.low, np.float32)))
        self.register_buffer("high", torch.from_numpy(np.array(spec.obs.high, np.float32)))
        self.register_buffer("ends", torch.zeros((), dtype=torch.bool))

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """obs (B, O), action (B, A), raw -> the head's numbers (M, B, 2 (O + 1)) and termination logits (M, B)."""
        numbers = self.network(self.inputs(torch.cat([obs, action], -1)))
        return numbers[..., :-1], numbers[..., -1]

    def target(self, obs: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """(B, O), (B, O), (B,) -> (B, O + 1), standardised change and reward."""
        return self.targets(torch.cat([next_obs - obs, reward[..., None]], -1))

    def nll(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor, terminated: Tensor) -> Tensor:
        """(M, B): negative log likelihood of each transition under each member, nats, standardised units."""
        numbers, logit = self(obs, action)
        log_prob = self.head.log_prob(numbers, self.target(obs, next_obs, reward)) * self.targets.kept
        end = F.binary_cross_entropy_with_logits(logit, terminated.float().expand_as(logit), reduction="none")
        return end - log_prob.sum(-1)

    def predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Every member's expectation: next_obs (M, B, O), reward (M, B), probability of termination (M, B)."""
        numbers, logit = self(obs, action)
        change = self.targets.inverse(self.head.mean(numbers))
        return obs + change[..., :-1], change[..., -1], logit.sigmoid() * self.ends

    def log_prob(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """log p(next_obs, reward | obs, action) in nats, raw units; obs (B, O), reward (B,) -> (B,).

        The elite members' equal mixture: the log of the mean of their densities. Exact, by `head.exactness`.
        """
        numbers, _ = self(obs, action)
        log_prob = self.head.log_prob(numbers, self.target(obs, next_obs, reward))
        each = ((log_prob - self.targets.std.log()) * self.targets.kept).sum(-1)[self.elites]  # (E, B)
        return torch.logsumexp(each, 0) - math.log(len(self.elites))


class Selection(nn.Module):
    """Each member's mean negative log likelihood since the last look, and its best so far; buffers (M,)."""

    total: Tensor
    count: Tensor
    best: Tensor

    def __init__(self, members: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(members))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("best", torch.full((members,), torch.inf))

    def add(self, nll: Tensor, chosen: Tensor) -> None:
        """Count the `chosen` (B,) columns of nll (M, B)."""
        self.total += nll.where(chosen, 0.0).sum(1)
        self.count += chosen.sum()

    def mean(self) -> Tensor:
        """(M,), each member's mean since the last look; 0 if nothing was counted."""
        return self.total / self.count.clamp_min(1)

    def look(self) -> Tensor:
        """Which members (M,) bool are better than ever, or were never compared; starts a new mean."""
        mean = self.mean().where(self.count > 0, torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)
        better = (mean < self.best) | self.best.isinf()
        self.best.copy_(torch.where(better, mean, self.best))
        self.total.zero_()
        self.count.zero_()
        return better


class Imagination:
    """The elite members' mean predictions over many steps, as fast as plain matrix multiplies go.

    Elite weights are gathered once and the normalisers folded into the first and last layers, so a
    step is one multiply a layer on raw numbers. Log-variances are not computed. Imagined observations
    are clamped to the range seen in the data (constant dimensions, goals, are not): a network means
    nothing beyond it, and a planner looks for exactly such places.
    """

    @torch.no_grad()
    def __init__(self, model: EnsembleModel) -> None:
        elites, obs_dim = model.elites, model.obs_dim
        each = list(model.network.parameters())  # weight, bias, weight, bias ...
        layers = [(weight[elites], bias[elites]) for weight, bias in zip(each[::2], each[1::2], strict=True)]
        scale = model.inputs.kept / model.inputs.std
        weight, bias = layers[0]
        layers[0] = (weight * scale[:, None], bias - (model.inputs.mean * scale) @ weight[:, None])
        keep = [*range(obs_dim + 1), -1]  # means of change and reward, and the logit
        scale = F.pad(model.targets.kept * model.targets.std, (0, 1), value=1.0)
        weight, bias = layers[-1]
        layers[-1] = (weight[..., keep] * scale, bias[..., keep] * scale + F.pad(model.targets.mean, (0, 1)))
        self.layers = [(weight.contiguous(), bias.contiguous()) for weight, bias in layers]
        self.members, self.obs_dim, self.ends = len(elites), obs_dim, model.ends.clone()
        moves = model.targets.kept[:-1]
        self.low, self.high = model.low.where(moves, -torch.inf), model.high.where(moves, torch.inf)

    @torch.no_grad()
    def step(self, inputs: Tensor) -> Tensor:
        """Each member's own rows, observation | action, raw (E, R, O + A) -> its change, reward and logit of
        termination (E, R, O + 2)."""
        y = inputs
        for weight, bias in self.layers[:-1]:
            y = F.silu(torch.baddbmm(bias, y, weight), inplace=True)
        weight, bias = self.layers[-1]
        return torch.baddbmm(bias, y, weight)

    def after(self, obs: Tensor, step: Tensor) -> Tensor:
        """The observation reached from obs (..., O) by a `step` (..., O + 2), within the data's range."""
        return torch.clamp(obs + step[..., : self.obs_dim], self.low, self.high)

    @torch.no_grad()
    def __call__(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Member e starts from obs (E, R, O) and takes actions (H, E, R, A).

        Returns the observations reached (H, E, R, O), the rewards (H, E, R), and the probability of
        having terminated in each step (H, E, R).
        """
        x = torch.cat([obs, actions[0]], -1)  # the one input buffer: observation | action
        state = x[..., : self.obs_dim]  # a view: it moves along
        reached, reward, logit = [], [], []
        for action in actions:
            x[..., self.obs_dim :] = action
            y = self.step(x)
            reached.append(self.after(state, y))
            x[..., : self.obs_dim] = reached[-1]
            reward.append(y[..., self.obs_dim])
            logit.append(y[..., self.obs_dim + 1])
        return torch.stack(reached), torch.stack(reward), torch.stack(logit).sigmoid() * self.ends


def _join(first: Moments, second: Moments) -> Moments:
    """Moments of both vectors, one after the other."""
    return Moments(*(np.concatenate([getattr(first, f.name), getattr(second, f.name)]) for f in fields(Moments)))
