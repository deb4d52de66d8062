"""AWAC: clone the data's actions, each weighted by how much better than the policy's own the critic finds it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from algos._common import (
    ActionScale,
    GaussianActor,
    Memoryless,
    check_continuous,
    check_count,
    check_fraction,
    check_hidden,
    check_not_negative,
    check_positive,
    td_loss,
    transitions,
    values,
)
from toolkit.core import Batch, Exactness, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import Checkpointed, Net, adam, descend, generator, polyak, stack
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class AWACConfig(LearnerConfig):
    """Advantage-weighted actor-critic (arXiv:2006.09359); constants of the authors' locomotion tasks.

    The policy is a Gaussian with a tanh-squashed mean and one log standard deviation per action
    dimension, -6 + 6 sigmoid(x), over actions in [-1, 1]; samples are clipped. It acts by its mean. The
    paper takes batches of 1024.

    The authors' examples/awac/mujoco/awac1.py (rail-berkeley/rlkit) has temperature 2; 1 is the trainer's default,
    and d3rlpy's. Their hand tasks have 0.5 and an actor of (256, 256), clip advantages at 0.5, take a state's
    value at the mean action and ignore termination; these three are not offered here.

    Against d3rlpy 2.8.1: its actor loss is ours summed over the batch. Its target is soft actor-critic's,
    with the entropy of a squashed sample at temperature 1; ours, as the authors', has no entropy. Its actor
    has no weight decay and the critics' two hidden layers, ours the authors' four.
    """

    name: ClassVar[str] = "awac"
    family: ClassVar[Family] = "offline_rl"
    paper: ClassVar[str] = "2006.09359"

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the critics' hidden layers, ReLU between them."""
    net: Net = "mlp"
    """mlp, or residual: a block with layer norm (SimBa, arXiv:2410.09754) for each width, which must be equal."""
    actor_hidden: tuple[int, ...] = (256, 256, 256, 256)
    """Widths of the actor's hidden layers, ReLU between them."""
    layer_norm: bool = False
    """Normalise the critics' hidden layers."""
    lr: float = 3e-4
    """Adam's learning rate, for all networks."""
    weight_decay: float = 1e-4
    """L2 penalty of the actor, as a part of Adam's gradient."""
    discount: float = 0.99
    """Weight of the next step's value."""
    n_step: int = 1
    """Rewards summed before the next value."""
    tau: float = 0.005
    """Share of the critics that enters their targets at each update."""
    temperature: float = 1.0
    """Advantages are divided by this (the paper's lambda); towards infinity it clones the data."""
    samples: int = 1
    """Actions of the policy that estimate the value of a state."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this; the temperature is relative to their size."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden, self.net)
        check_hidden(self.actor_hidden, self.net)
        check_positive(self, "lr", "tau", "temperature", "reward_scale")
        check_not_negative(self, "weight_decay")
        check_fraction(self, "discount", "tau")
        check_count(self, "n_step", "samples")

    @property
    def compiles(self) -> bool:
        """Always."""
        return True

    @property
    def needs(self) -> Needs:
        """Transitions with rewards, perhaps over n steps."""
        return Needs(reward=True, n_step=self.n_step, discount=self.discount if self.n_step > 1 else None)

    def build(self, spec: Spec, *, seed: int, device: str) -> AWAC:
        """Raises ValueError for discrete or unbounded actions."""
        return AWAC(self, spec, seed=seed, device=device)


def advantage_weight(advantage: Tensor, temperature: float) -> Tensor:
    """exp(advantage / temperature) over its mean in the batch, as in the authors' code; (B,)."""
    return (advantage / temperature).softmax(0) * len(advantage)


def actor_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """Mean of -weight * log pi(a|s): the data's actions, the better ones more; both (B,)."""
    return -(weight * log_prob).mean()


def bounded(free: Tensor) -> Tensor:
    """Any number to a log standard deviation in (-6, 0)."""
    return 6 * torch.sigmoid(free) - 6


class AWAC(Checkpointed):
    """Twin critics, their targets and a Gaussian actor."""

    exactness: Exactness = "exact"

    def __init__(self, config: AWACConfig, spec: Spec, *, seed: int, device: str) -> None:
        check_continuous(config.name, spec)
        weights = generator(child_seed(seed, "parameters"))
        obs, action, net, hidden, norm = spec.obs_dim, spec.action_dim, config.net, config.hidden, config.layer_norm
        self.config, self.device = config, device
        self.noise = generator(child_seed(seed, "noise"), device)
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        self.varying = Normalizer(spec.action).kept.to(device)
        self.actor = GaussianActor(obs, config.actor_hidden, action, weights, bounded, net).to(device)
        self.critics = stack(net, 2, obs + action, hidden, 1, layer_norm=norm, generator=weights).to(device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_optimizer = adam(self.actor.parameters(), config.lr, weight_decay=config.weight_decay)
        self.critic_optimizer = adam(self.critics.parameters(), config.lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critics, then of the actor and of the targets (algorithm 1)."""
        config = self.config
        s, a, reward, next_s, bootstrap = transitions(batch, config.needs, config.discount, self.observe, self.scale)
        noise = torch.randn(len(s), 1 + config.samples, a.shape[1], generator=self.noise, device=self.device)
        with torch.no_grad():
            next_a = self.actor.sample(next_s, noise[:, 0])
            next_q = self.targets(torch.cat([next_s, next_a], -1)).squeeze(-1).amin(0)
            target = config.reward_scale * reward + bootstrap * next_q

        q = self.critics(torch.cat([s, a], -1)).squeeze(-1)
        q_loss = td_loss(q, target)
        descend(self.critic_optimizer, q_loss)

        with torch.no_grad():
            sampled = self.actor.sample(s.unsqueeze(1), noise[:, 1:])
            own, *others = values(self.critics, s, torch.cat([a.unsqueeze(1), sampled], 1)).amin(0).unbind(1)
            advantage = own - torch.stack(others).mean(0)
            weight = advantage_weight(advantage, config.temperature)
        pi_loss = actor_loss(self.actor.log_prob(s, a).sum(-1), weight)
        descend(self.actor_optimizer, pi_loss)
        polyak(self.targets, self.critics, config.tau)

        self.step += 1
        metrics = {"critic_loss": q_loss, "actor_loss": pi_loss, "q": q.mean(), "advantage": advantage.mean()}
        return {k: x.detach() for k, x in metrics.items()}

    def action_log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density in nats, raw units; dimensions that are constant in the data count zero nats."""
        log_prob = self.actor.log_prob(self.observe(obs), self.scale(action)) - self.scale.reach.log()
        return (log_prob * self.varying).sum(-1)

    def action_log_mass(self, obs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log P(low < action <= high), clipped to the limits, nats; (B, O), edges (B, A) raw -> (B,) float64."""
        return self.actor.log_mass(self.observe(obs), self.scale(low), self.scale(high)).sum(-1)

    def choose(self, obs: Tensor) -> Tensor:
        """The squashed mean in raw units, for raw observations (N, O)."""
        return self.scale.inverse(self.actor(self.observe(obs)))

    def policy(self, *, seed: int) -> Policy:
        """The squashed mean; deterministic, so `seed` is unused."""
        return Memoryless(self.choose, self.device)

    @property
    def discount(self) -> float:
        """Weight of the next step's value."""
        return self.config.discount

    def state_value(self, obs: Tensor) -> Tensor:
        """The lesser critic's Q of the actor's own action, in the units of the data's rewards; raw (N, O) -> (N,)."""
        s = self.observe(obs)
        q = self.critics(torch.cat([s, self.actor(s)], -1)).squeeze(-1).amin(0)
        return q / self.config.reward_scale

    def action_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """The lesser critic's Q in the units of the data's rewards; raw (N, O), (N, A) -> (N,)."""
        q = self.critics(torch.cat([self.observe(obs), self.scale(action)], -1)).squeeze(-1).amin(0)
        return q / self.config.reward_scale
