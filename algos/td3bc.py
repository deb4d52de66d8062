"""TD3+BC: a deterministic actor that climbs the critic and is held near the data by a squared error."""

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
    td_loss,
    transitions,
)
from toolkit.core import Batch, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import Checkpointed, Net, adam, descend, generator, polyak, single, stack
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class TD3BCConfig(LearnerConfig):
    """TD3+BC (arXiv:2106.06860) on twin delayed deterministic policy gradients (arXiv:1802.09477).

    Constants are the authors', one set for all their tasks. Observations are standardised, as theirs.

    Against d3rlpy 2.8.1 the losses are equal; it moves the actor at updates 1, 3, ..., here and in
    the authors' code it is 2, 4, ... The authors add 1e-3 to the standard deviation of observations.
    """

    name: ClassVar[str] = "td3bc"
    family: ClassVar[Family] = "offline_rl"
    paper: ClassVar[str] = "2106.06860"

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics, ReLU between them."""
    net: Net = "mlp"
    """mlp, or residual: a block with layer norm (SimBa, arXiv:2410.09754) for each width, which must be equal."""
    layer_norm: bool = False
    """Normalise the critics' hidden layers."""
    lr: float = 3e-4
    """Adam's learning rate, for all networks."""
    discount: float = 0.99
    """Weight of the next step's value."""
    n_step: int = 1
    """Rewards summed before the next value."""
    tau: float = 0.005
    """Share of the networks that enters their targets, whenever the actor moves."""
    alpha: float = 2.5
    """Weight of the critic over the mean size of its values; 0 clones the data."""
    noise: float = 0.2
    """Spread of the noise on target actions, which lie in [-1, 1]."""
    noise_clip: float = 0.5
    """Ceiling of that noise."""
    actor_every: int = 2
    """Critic updates for each of the actor's."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this; `alpha` does not depend on it."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden, self.net)
        check_positive(self, "lr", "tau", "reward_scale")
        check_fraction(self, "discount", "tau")
        check_not_negative(self, "alpha", "noise", "noise_clip")
        check_count(self, "n_step", "actor_every")

    @property
    def compiles(self) -> bool:
        """Always."""
        return True

    @property
    def needs(self) -> Needs:
        """Transitions with rewards, perhaps over n steps."""
        return Needs(reward=True, n_step=self.n_step, discount=self.discount if self.n_step > 1 else None)

    def build(self, spec: Spec, *, seed: int, device: str) -> TD3BC:
        """Raises ValueError for discrete or unbounded actions."""
        return TD3BC(self, spec, seed=seed, device=device)


def actor_loss(q: Tensor, action: Tensor, data_action: Tensor, alpha: float) -> Tensor:
    """-lambda mean Q(s, pi(s)) + mean (pi(s) - a)**2, with lambda = alpha / mean |Q|; q (B,), actions (B, A)."""
    weight = alpha / q.detach().abs().mean()
    return (action - data_action).square().mean() - weight * q.mean()


class TD3BC(Checkpointed):
    """Twin critics, a deterministic actor, and targets of both."""

    def __init__(self, config: TD3BCConfig, spec: Spec, *, seed: int, device: str) -> None:
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
        self.critic_optimizer = adam(self.critics.parameters(), config.lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critics; every `actor_every`, also of the actor and of the targets."""
        config = self.config
        s, a, reward, next_s, bootstrap = transitions(batch, config.needs, config.discount, self.observe, self.scale)
        noise = torch.randn(a.shape, generator=self.noise, device=self.device)
        with torch.no_grad():
            next_a = smoothed(self.actor_target(next_s).tanh(), noise, config.noise, config.noise_clip)
            next_q = self.targets(torch.cat([next_s, next_a], -1)).squeeze(-1).amin(0)
            target = config.reward_scale * reward + bootstrap * next_q

        q = self.critics(torch.cat([s, a], -1)).squeeze(-1)
        q_loss = td_loss(q, target)
        descend(self.critic_optimizer, q_loss)
        metrics = {"critic_loss": q_loss.detach(), "q": q.detach().mean()}

        self.step += 1
        if self.step % config.actor_every == 0:
            action = self.actor(s).tanh()
            q_pi = self.critics.apart()[0](torch.cat([s, action], -1)).squeeze(-1)
            pi_loss = actor_loss(q_pi, action, a, config.alpha)
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
