"""Implicit Q-learning: offline reinforcement learning that never asks for the value of an unseen action."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from algos._common import (
    ActionScale,
    Memoryless,
    check_continuous,
    check_fraction,
    check_hidden,
    check_positive,
    gaussian_log_prob,
    transitions,
)
from toolkit.core import Batch, Family, LearnerConfig, Policy, Spec, child_seed
from toolkit.nets import MLP, Checkpointed, StackedMLP, adam, descend, generator, polyak
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class IQLConfig(LearnerConfig):
    """Implicit Q-learning (arXiv:2110.06169), in the order of the authors' code: V, actor, Q, targets.

    The policy is a Gaussian with a tanh-squashed mean and one log standard deviation per action
    dimension, clamped to [-5, 2], over actions in [-1, 1]. It acts by its mean.

    Against d3rlpy 2.8.1: the three losses are equal. There, the log standard deviation is
    -5 + 7 sigmoid(x) instead of a clamped x; Q's target uses V before its step of this update, here
    V after it; and V and Q share an optimiser. Against the authors' code: layers start uniform in
    +-1/sqrt(inputs) instead of orthogonal. The authors scale locomotion rewards so that returns span 1000;
    here `reward_scale` says so openly and is 1 unless set.
    """

    name: ClassVar[str] = "iql"
    family: ClassVar[Family] = "offline_rl"

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor, value and critics, ReLU between them."""
    lr: float = 3e-4
    """Adam's learning rate, for all networks."""
    discount: float = 0.99
    """Weight of the next step's value."""
    tau: float = 0.005
    """Share of the critics that enters their targets at each update."""
    expectile: float = 0.7
    """0.5 fits the mean value of dataset actions; towards 1, the best of them."""
    beta: float = 3.0
    """Inverse temperature of the advantage weights; 0 clones the data."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this; beta = 3 presumes advantages of about one, so bring them there."""
    max_weight: float = 100.0
    """Ceiling of the advantage weights."""
    cosine_steps: int = 0
    """Anneal the actor's rate to 0 over so many updates, as the authors do over a whole run; 0: constant."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden)
        check_positive(self, "lr", "tau", "max_weight", "reward_scale")
        check_fraction(self, "discount", "tau")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must lie in (0, 1), got {self.expectile}")
        if self.beta < 0 or self.cosine_steps < 0:
            raise ValueError(f"beta and cosine_steps must not be negative, got {self.beta} and {self.cosine_steps}")

    def build(self, spec: Spec, *, seed: int, device: str) -> IQL:
        """Raises ValueError for discrete or unbounded actions."""
        return IQL(self, spec, seed=seed, device=device)


def expectile_loss(error: Tensor, tau: float) -> Tensor:
    """Mean of |tau - 1(error < 0)| * error**2 (arXiv:2110.06169, eq. 5); error = Q - V."""
    weight = (tau - (error < 0).to(error.dtype)).abs()
    return (weight * error.square()).mean()


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Sum over critics of the mean of (r + discount V(s') - Q)**2 (eq. 6); q (M, B), target (B,)."""
    return (q - target).square().mean(1).sum()


def advantage_weight(advantage: Tensor, beta: float, ceiling: float) -> Tensor:
    """exp(beta * advantage), at most `ceiling` (eq. 7)."""
    return (beta * advantage).exp().clamp(max=ceiling)


def actor_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Mean of -weight * log pi(a|s): advantage-weighted regression (eq. 7); both (B,)."""
    return -(weight * log_prob).mean()


class GaussianActor(nn.Module):
    """tanh mean (..., A) and a state-independent log standard deviation (A,), over actions in [-1, 1]."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, weights: torch.Generator) -> None:
        super().__init__()
        self.mean = MLP(inputs, hidden, outputs, generator=weights)
        self.log_std = nn.Parameter(torch.zeros(outputs))

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density of each dimension: (..., O), (..., A) -> (..., A)."""
        return gaussian_log_prob(action, self.mean(obs).tanh(), self.log_std.clamp(-5, 2))


class IQL(Checkpointed):
    """Twin critics, their targets, a value function and an actor."""

    window = 1

    def __init__(self, config: IQLConfig, spec: Spec, *, seed: int, device: str) -> None:
        check_continuous(config.name, spec)
        weights = generator(child_seed(seed, "parameters"))
        obs, action = spec.obs_dim, spec.action_dim
        self.config, self.device = config, device
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        self.varying = Normalizer(spec.action).kept.to(device)
        self.actor = GaussianActor(obs, config.hidden, action, weights).to(device)
        self.critics = StackedMLP(2, obs + action, config.hidden, 1, generator=weights).to(device)
        self.value = MLP(obs, config.hidden, 1, generator=weights).to(device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_optimizer = adam(self.actor.parameters(), config.lr)
        self.critic_optimizer = adam(self.critics.parameters(), config.lr)
        self.value_optimizer = adam(self.value.parameters(), config.lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of V (eq. 5), the actor (eq. 7) and Q (eq. 6), then of the targets."""
        config = self.config
        s, a, reward, next_s, alive = transitions(batch, self.observe, self.scale)
        sa = torch.cat([s, a], dim=-1)
        with torch.no_grad():
            q = self.targets(sa).squeeze(-1).amin(0)

        v_loss = expectile_loss(q - self.value(s).squeeze(-1), config.expectile)
        descend(self.value_optimizer, v_loss)

        with torch.no_grad():
            v, next_v = self.value(torch.stack([s, next_s])).squeeze(-1)
            weight = advantage_weight(q - v, config.beta, config.max_weight)
            target = config.reward_scale * reward + config.discount * alive * next_v
        pi_loss = actor_loss(self.actor.log_prob(s, a).sum(-1), weight)
        for group in self.actor_optimizer.param_groups:
            group["lr"] = self.actor_lr()
        descend(self.actor_optimizer, pi_loss)

        q_loss = td_loss(self.critics(sa).squeeze(-1), target)
        descend(self.critic_optimizer, q_loss)
        polyak(self.targets, self.critics, config.tau)

        self.step += 1
        losses = {"value_loss": v_loss, "actor_loss": pi_loss, "critic_loss": q_loss}
        return {k: x.detach() for k, x in losses.items()} | {"value": v.mean(), "weight": weight.mean()}

    def actor_lr(self) -> float:
        """The actor's learning rate at this step."""
        if not self.config.cosine_steps:
            return self.config.lr
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.config.cosine_steps)))

    def action_log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density in nats, raw units; dimensions that are constant in the data count zero nats."""
        log_prob = self.actor.log_prob(self.observe(obs), self.scale(action)) - self.scale.reach.log()
        return (log_prob * self.varying).sum(-1)

    def choose(self, obs: Tensor) -> Tensor:
        """The squashed mean in raw units, for raw observations (N, O)."""
        return self.scale.inverse(self.actor.mean(self.observe(obs)).tanh())

    def policy(self, *, seed: int) -> Policy:
        """The squashed mean; deterministic, so `seed` is unused."""
        return Memoryless(self.choose, self.device)
