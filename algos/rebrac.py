"""ReBRAC: TD3+BC with the penalty in the critic's target too, deeper networks and layer norm."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from algos._common import (
    ActionScale,
    Memoryless,
    check_continuous,
    check_count,
    check_fraction,
    check_hidden,
    check_not_negative,
    check_positive,
    smoothed,
    transitions,
)
from toolkit.core import Batch, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import Checkpointed, Net, adam, descend, generator, polyak, single, stack
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class ReBRACConfig(LearnerConfig):
    """Behaviour-regularised actor-critic, revisited (arXiv:2305.09836).

    The two penalties are tuned for each data set in the paper; the defaults are those of
    halfcheetah-medium-v2, and PRESETS holds some others. The paper takes batches of 1024 for locomotion, 256 else.

    Against d3rlpy 2.8.1 the losses are equal up to the layer norm and depth, which it lacks. Against the
    authors' code (tinkoff-ai/CORL, algorithms/offline/rebrac.py): biases and last layers start uniform in
    +-1/sqrt(inputs), theirs at 0.1 and in +-0.003 or 0.001; observations are standardised. The penalty needs the
    action that followed; where a truncated episode ends it is unknown, and that step is left out of the critic's
    loss (the authors' data call it the last action again).
    """

    name: ClassVar[str] = "rebrac"
    family: ClassVar[Family] = "offline_rl"
    paper: ClassVar[str] = "2305.09836"

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of actor and critics, ReLU between them."""
    net: Net = "mlp"
    """mlp, or residual: a block with layer norm (SimBa, arXiv:2410.09754) for each width, which must be equal."""
    layer_norm: bool = True
    """Normalise the critics' hidden layers after their activations."""
    lr: float = 1e-3
    """Adam's learning rate for the actor."""
    critic_lr: float = 1e-3
    """Adam's learning rate for the critics."""
    discount: float = 0.99
    """Weight of the next step's value."""
    tau: float = 0.005
    """Share of the networks that enters their targets, whenever the actor moves."""
    actor_penalty: float = 0.001
    """Weight of (pi(s) - a)**2 in the actor's loss, beside Q over its mean size."""
    critic_penalty: float = 0.01
    """Weight of (pi(s') - a')**2 in the critic's target."""
    noise: float = 0.2
    """Spread of the noise on target actions, which lie in [-1, 1]."""
    noise_clip: float = 0.5
    """Ceiling of that noise."""
    actor_every: int = 2
    """Critic updates for each of the actor's."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this; the critic's penalty is relative to their size."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden, self.net)
        check_positive(self, "lr", "critic_lr", "tau", "reward_scale")
        check_fraction(self, "discount", "tau")
        check_not_negative(self, "actor_penalty", "critic_penalty", "noise", "noise_clip")
        check_count(self, "actor_every")

    @property
    def compiles(self) -> bool:
        """Always."""
        return True

    @property
    def needs(self) -> Needs:
        """Transitions with rewards and the action that followed."""
        return Needs(reward=True, next_action=True)

    def build(self, spec: Spec, *, seed: int, device: str) -> ReBRAC:
        """Raises ValueError for discrete or unbounded actions."""
        return ReBRAC(self, spec, seed=seed, device=device)


PRESETS = {  # tinkoff-ai/CORL, configs/offline/rebrac
    "rebrac-hopper": ReBRACConfig(actor_penalty=0.1, critic_penalty=0.01),  # hopper-medium-expert-v2
    "rebrac-walker2d": ReBRACConfig(actor_penalty=0.05, critic_penalty=0.1),  # walker2d-medium-v2
    "rebrac-antmaze": ReBRACConfig(  # antmaze-large-diverse-v2
        actor_penalty=0.002, critic_penalty=0.002, lr=3e-4, critic_lr=5e-5, discount=0.999, reward_scale=100.0
    ),
}


def critic_loss(q: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Sum over critics of the mean of (target - Q)**2 where `known`; q (M, B), target (B,), known (B,) bool."""
    return ((q - target).square() * known).sum() / known.sum().clamp_min(1)


def squared_distance(action: Tensor, other: Tensor) -> Tensor:
    """Summed over action dimensions: (B, A), (B, A) -> (B,)."""
    return (action - other).square().sum(-1)


def actor_loss(q: Tensor, distance: Tensor, penalty: float) -> Tensor:
    """Mean of penalty * (pi(s) - a)**2 - Q(s, pi(s)) / mean |Q|; both (B,)."""
    return (penalty * distance - q / q.detach().abs().mean()).mean()


class ReBRAC(Checkpointed):
    """Twin critics, a deterministic actor, and targets of both."""

    def __init__(self, config: ReBRACConfig, spec: Spec, *, seed: int, device: str) -> None:
        check_continuous(config.name, spec)
        weights = generator(child_seed(seed, "parameters"))
        obs, action, net, hidden, norm = spec.obs_dim, spec.action_dim, config.net, config.hidden, config.layer_norm
        self.config, self.device = config, device
        self.noise = generator(child_seed(seed, "noise"), device)
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        self.actor = single(net, obs, hidden, action, generator=weights).to(device)
        self.critics = stack(net, 2, obs + action, hidden, 1, layer_norm=norm, generator=weights).to(device)
        self.actor_target = copy.deepcopy(self.actor).requires_grad_(False)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_optimizer = adam(self.actor.parameters(), config.lr)
        self.critic_optimizer = adam(self.critics.parameters(), config.critic_lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critics; every `actor_every`, also of the actor and of the targets."""
        config = self.config
        s, a, reward, next_s, bootstrap = transitions(batch, config.needs, config.discount, self.observe, self.scale)
        assert batch.next_action is not None
        assert batch.next_valid is not None
        known = batch.next_valid[:, 0] | batch.terminated[:, 0]
        noise = torch.randn(a.shape, generator=self.noise, device=self.device)
        with torch.no_grad():
            next_a = smoothed(self.actor_target(next_s).tanh(), noise, config.noise, config.noise_clip)
            next_q = self.targets(torch.cat([next_s, next_a], -1)).squeeze(-1).amin(0)
            distance = squared_distance(next_a, self.scale(batch.next_action[:, 0]))
            target = config.reward_scale * reward + bootstrap * (next_q - config.critic_penalty * distance)

        q = self.critics(torch.cat([s, a], -1)).squeeze(-1)
        q_loss = critic_loss(q, target, known)
        descend(self.critic_optimizer, q_loss)
        metrics = {"critic_loss": q_loss.detach(), "q": q.detach().mean(), "next_distance": distance.mean()}

        self.step += 1
        if self.step % config.actor_every == 0:
            action = self.actor(s).tanh()
            q_pi = self.critics(torch.cat([s, action], -1)).squeeze(-1).amin(0)
            pi_loss = actor_loss(q_pi, squared_distance(action, a), config.actor_penalty)
            descend(self.actor_optimizer, pi_loss)
            polyak(self.targets, self.critics, config.tau)
            polyak(self.actor_target, self.actor, config.tau)
            metrics["actor_loss"] = pi_loss.detach()
        return metrics

    def choose(self, obs: Tensor) -> Tensor:
        """The actor's actions in raw units, for raw observations (N, O)."""
        return self.scale.inverse(self.actor(self.observe(obs)).tanh())

    def policy(self, *, seed: int) -> Policy:
        """The actor; deterministic, so `seed` is unused."""
        return Memoryless(self.choose, self.device)

    @property
    def discount(self) -> float:
        """Weight of the next step's value."""
        return self.config.discount

    def state_value(self, obs: Tensor) -> Tensor:
        """The lesser critic's Q of the actor's own action, in the units of the data's rewards; raw (N, O) -> (N,)."""
        s = self.observe(obs)
        q = self.critics(torch.cat([s, self.actor(s).tanh()], -1)).squeeze(-1).amin(0)
        return q / self.config.reward_scale

    def action_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """The lesser critic's Q in the units of the data's rewards; raw (N, O), (N, A) -> (N,)."""
        q = self.critics(torch.cat([self.observe(obs), self.scale(action)], -1)).squeeze(-1).amin(0)
        return q / self.config.reward_scale
