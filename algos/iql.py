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
    GaussianActor,
    Memoryless,
    check_count,
    check_dropout,
    check_fraction,
    check_hidden,
    check_not_negative,
    check_positive,
    td_loss,
    transitions,
)
from toolkit.core import Batch, Exactness, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import Checkpointed, Net, adam, descend, generator, polyak, single, stack
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class IQLConfig(LearnerConfig):
    """Implicit Q-learning (arXiv:2110.06169), in the order of the authors' code: V, actor, Q, targets.

    The policy is a Gaussian with a tanh-squashed mean and one log standard deviation per action
    dimension, clamped to [-5, 2], over actions in [-1, 1]. It acts by its mean. For discrete actions it is a
    softmax that acts by its mode, and the critics see the action one-hot.

    Against d3rlpy 2.8.1: the three losses are equal. There, the log standard deviation is
    -5 + 7 sigmoid(x) instead of a clamped x; Q's target uses V before its step of this update, here
    V after it; and V and Q share an optimiser. Against the authors' code: layers start uniform in
    +-1/sqrt(inputs) instead of orthogonal. The authors scale locomotion rewards so that returns span 1000;
    here `reward_scale` says so openly and is 1 unless set. Constants are those of ikostrikov/implicit_q_learning,
    configs/mujoco_config.py; `cosine_steps` is a million there (learner.py).
    """

    name: ClassVar[str] = "iql"
    family: ClassVar[Family] = "offline_rl"
    paper: ClassVar[str] = "2110.06169"
    actions: ClassVar = ("continuous", "discrete")

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor, value and critics, ReLU between them."""
    net: Net = "mlp"
    """mlp, or residual: a block with layer norm (SimBa, arXiv:2410.09754) for each width, which must be equal."""
    layer_norm: bool = False
    """Normalise the hidden layers of value and critics."""
    lr: float = 3e-4
    """Adam's learning rate, for all networks."""
    discount: float = 0.99
    """Weight of the next step's value."""
    n_step: int = 1
    """Rewards summed before the next value."""
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
    dropout: float = 0.0
    """Share of the actor's hidden numbers dropped in training."""
    cosine_steps: int = 0
    """Anneal the actor's rate to 0 over so many updates, as the authors do over a whole run; 0: constant."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden, self.net)
        check_positive(self, "lr", "tau", "max_weight", "reward_scale")
        check_fraction(self, "discount", "tau")
        check_not_negative(self, "beta", "cosine_steps")
        check_count(self, "n_step")
        check_dropout(self.dropout)
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must lie in (0, 1), got {self.expectile}")

    @property
    def compiles(self) -> bool:
        """Without dropout and annealing, which draw and change between losses."""
        return not self.dropout and not self.cosine_steps

    @property
    def needs(self) -> Needs:
        """Transitions with rewards, perhaps over n steps."""
        return Needs(reward=True, n_step=self.n_step, discount=self.discount if self.n_step > 1 else None)

    def build(self, spec: Spec, *, seed: int, device: str) -> IQL:
        """Raises ValueError for unbounded actions."""
        return IQL(self, spec, seed=seed, device=device)


PRESETS = {  # the authors' configs/antmaze_config.py, for rewards of -1 a step and 0 at the goal; kitchen_config.py
    "iql-antmaze": IQLConfig(expectile=0.9, beta=10.0),
    "iql-kitchen": IQLConfig(beta=0.5, dropout=0.1),  # and Adroit
}


def expectile_loss(error: Tensor, tau: float) -> Tensor:
    """Mean of |tau - 1(error < 0)| * error**2 (arXiv:2110.06169, eq. 5); error = Q - V."""
    weight = (tau - (error < 0).to(error.dtype)).abs()
    return (weight * error.square()).mean()


def advantage_weight(advantage: Tensor, beta: float, ceiling: float) -> Tensor:
    """exp(beta * advantage), at most `ceiling` (eq. 7)."""
    return (beta * advantage).exp().clamp(max=ceiling)


def actor_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Mean of -weight * log pi(a|s): advantage-weighted regression (eq. 7); both (B,)."""
    return -(weight * log_prob).mean()


def clamped(free: Tensor) -> Tensor:
    """A log standard deviation in [-5, 2]."""
    return free.clamp(-5, 2)


class SoftmaxActor(nn.Module):
    """A categorical distribution over discrete actions: logits (..., O) -> (..., A)."""

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], outputs: int, weights: torch.Generator, net: Net, dropout: float
    ) -> None:
        super().__init__()
        self.logits = single(net, inputs, hidden, outputs, dropout=dropout, generator=weights)

    def forward(self, obs: Tensor, random: torch.Generator | None = None) -> Tensor:
        return self.logits(obs, random)

    def log_prob(self, obs: Tensor, action: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Log probability of the one-hot `action`, in its place, else zero: (..., O), (..., A) -> (..., A)."""
        return self(obs, random).log_softmax(-1) * action


class IQL(Checkpointed):
    """Twin critics, their targets, a value function and an actor."""

    exactness: Exactness = "exact"

    def __init__(self, config: IQLConfig, spec: Spec, *, seed: int, device: str) -> None:
        weights = generator(child_seed(seed, "parameters"))
        obs, action, net, hidden, norm = spec.obs_dim, spec.action_dim, config.net, config.hidden, config.layer_norm
        self.config, self.device, self.discrete = config, device, spec.discrete
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        self.varying = Normalizer(spec.action).kept.to(device)
        self.actor: SoftmaxActor | GaussianActor
        if spec.discrete:
            self.actor = SoftmaxActor(obs, hidden, action, weights, net, config.dropout).to(device)
        else:
            self.actor = GaussianActor(obs, hidden, action, weights, clamped, net, config.dropout).to(device)
        self.noise = generator(child_seed(seed, "noise"), device) if config.dropout else None
        self.critics = stack(net, 2, obs + action, hidden, 1, layer_norm=norm, generator=weights).to(device)
        self.value = single(net, obs, hidden, 1, layer_norm=norm, generator=weights).to(device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_optimizer = adam(self.actor.parameters(), config.lr)
        self.critic_optimizer = adam(self.critics.parameters(), config.lr)
        self.value_optimizer = adam(self.value.parameters(), config.lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of V (eq. 5), the actor (eq. 7) and Q (eq. 6), then of the targets."""
        config = self.config
        s, a, reward, next_s, bootstrap = transitions(batch, config.needs, config.discount, self.observe, self.scale)
        sa = torch.cat([s, a], dim=-1)
        with torch.no_grad():
            q = self.targets(sa).squeeze(-1).amin(0)

        v_loss = expectile_loss(q - self.value(s).squeeze(-1), config.expectile)
        descend(self.value_optimizer, v_loss)

        with torch.no_grad():
            v, next_v = self.value(torch.stack([s, next_s])).squeeze(-1)
            weight = advantage_weight(q - v, config.beta, config.max_weight)
            target = config.reward_scale * reward + bootstrap * next_v
        pi_loss = actor_loss(self.actor.log_prob(s, a, self.noise).sum(-1), weight)
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
        """Log density (probability, if discrete) in nats, raw units; constant dimensions count zero nats."""
        log_prob = self.actor.log_prob(self.observe(obs), self.scale(action)) - self.scale.reach.log()
        return (log_prob if self.discrete else log_prob * self.varying).sum(-1)

    def action_log_mass(self, obs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log P(low < action <= high), clipped to the limits, nats; (B, O), edges (B, A) raw -> (B,) float64."""
        assert isinstance(self.actor, GaussianActor)  # discrete actions have `action_log_prob`
        return self.actor.log_mass(self.observe(obs), self.scale(low), self.scale(high)).sum(-1)

    def choose(self, obs: Tensor) -> Tensor:
        """The squashed mean in raw units, or the likeliest action, for raw observations (N, O)."""
        best = self.actor(self.observe(obs))
        return best.argmax(-1) if self.discrete else self.scale.inverse(best)

    def policy(self, *, seed: int) -> Policy:
        """The mean or the mode; deterministic, so `seed` is unused."""
        return Memoryless(self.choose, self.device)

    @property
    def discount(self) -> float:
        """Weight of the next step's value."""
        return self.config.discount

    def state_value(self, obs: Tensor) -> Tensor:
        """V in the units of the data's rewards; raw observations (N, O) -> (N,)."""
        return self.value(self.observe(obs)).squeeze(-1) / self.config.reward_scale

    def action_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """The lesser critic's Q in the units of the data's rewards; raw (N, O), (N, A) -> (N,)."""
        q = self.critics(torch.cat([self.observe(obs), self.scale(action)], -1)).squeeze(-1).amin(0)
        return q / self.config.reward_scale
