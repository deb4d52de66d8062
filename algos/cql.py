"""Conservative Q-learning: push down the value of actions the data does not hold."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
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
class CQLConfig(LearnerConfig):
    """CQL(H) (arXiv:2006.04779) on soft actor-critic (arXiv:1812.05905).

    Constants are those of the authors' D4RL commands. Their warm-up of the actor by cloning is left
    out, as in d3rlpy. The actor acts by its squashed mean.

    Against d3rlpy 2.8.1: with the same actions sampled, the conservative, temperature and actor
    losses are equal, and so is the TD loss when `entropy_backup` meets its `soft_q_backup`. Without
    it, the target uses a sampled next action, as the authors do; d3rlpy uses the mean. d3rlpy also
    multiplies its Lagrange threshold by the weight, steps the multiplier before using it, and
    turns it on by default.
    """

    name: ClassVar[str] = "cql"
    family: ClassVar[Family] = "offline_rl"

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics, ReLU between them."""
    actor_lr: float = 1e-4
    """Adam's learning rate for the actor, the temperature and the multiplier."""
    critic_lr: float = 3e-4
    """Adam's learning rate for the critics."""
    discount: float = 0.99
    """Weight of the next step's value."""
    tau: float = 0.005
    """Share of the critics that enters their targets at each update."""
    samples: int = 10
    """Actions sampled for each state from each of three proposals: pi(s), pi(s') and uniform."""
    weight: float = 5.0
    """Weight of the conservative term."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this; the weight of the conservative term is relative to their size."""
    lagrange_threshold: float | None = None
    """Learn a multiplier that holds the weighted gap near this number; None keeps the weight fixed."""
    entropy_backup: bool = False
    """Subtract temperature * log pi(a'|s') from the target, as soft actor-critic does."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden)
        check_positive(self, "actor_lr", "critic_lr", "tau", "samples", "reward_scale")
        check_fraction(self, "discount", "tau")
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")

    def build(self, spec: Spec, *, seed: int, device: str) -> CQL:
        """Raises ValueError for discrete or unbounded actions."""
        return CQL(self, spec, seed=seed, device=device)


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Sum over critics of the mean of (r + discount Q'(s', a') - Q)**2; q (M, B), target (B,)."""
    return (q - target).square().mean(1).sum()


def conservative_gap(q: Tensor, log_density: Tensor, data_q: Tensor) -> Tensor:
    """log sum_a exp Q(s, a) - Q(s, a_data), averaged over the batch (arXiv:2006.04779, eq. 4).

    The sum is importance-sampled (appendix F): q (M, B, K) at sampled actions whose proposal has
    `log_density` (B, K) in nats; data_q (M, B) -> (M,).
    """
    return ((q - log_density).logsumexp(-1) - data_q).mean(1)


def actor_loss(q: Tensor, log_prob: Tensor, temperature: Tensor) -> Tensor:
    """Mean of temperature * log pi(a|s) - min Q(s, a) (arXiv:1812.05905, eq. 7); all (B,)."""
    return (temperature * log_prob - q).mean()


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Mean of -temperature * (log pi(a|s) + target entropy) (arXiv:1812.05905, eq. 18)."""
    return -(log_temperature.exp() * (log_prob.detach() + target_entropy)).mean()


def squashed_sample(head: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """tanh of a Gaussian: head (..., 2A) and noise (..., A) -> actions (..., A), log densities (...)."""
    mean, log_std = head.chunk(2, dim=-1)
    log_std = log_std.clamp(-20, 2)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(x)^2), written so that it does not overflow
    log_slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return raw.tanh(), (gaussian_log_prob(raw, mean, log_std) - log_slope).sum(-1)


def values(critics: StackedMLP, obs: Tensor, actions: Tensor) -> Tensor:
    """Q of K actions for each state: (B, O), (B, K, A) -> (M, B, K).

    The state's share of the first layer is computed once for its K actions; on a CPU about a thousand
    rows are taken at a time, so that a layer's output is still in the cache when the next one reads it.
    """
    states = max(1, 1024 // actions.shape[1]) if obs.device.type == "cpu" else len(obs)
    parts = list(zip(obs.split(states), actions.split(states), strict=True))
    members = zip(*(parameter.unbind() for parameter in critics.parameters()), strict=True)
    return torch.stack([torch.cat([member_values(own, *part) for part in parts]) for own in members])


def member_values(parameters: Sequence[Tensor], obs: Tensor, actions: Tensor) -> Tensor:
    """One critic's Q: weight and bias of each layer in turn, (B, O), (B, K, A) -> (B, K)."""
    weight, bias, *hidden, last, offset = parameters
    of_obs, of_action = weight.split([obs.shape[-1], actions.shape[-1]])
    x = (actions @ of_action + torch.addmm(bias, obs, of_obs).unsqueeze(1)).relu_().flatten(0, 1)  # (B * K, H)
    for weight, bias in zip(hidden[::2], hidden[1::2], strict=True):
        x = torch.addmm(bias, x, weight).relu_()
    return torch.addmm(offset, x, last).view(actions.shape[:2])


class CQL(Checkpointed):
    """Twin critics, their targets, a squashed Gaussian actor, a temperature and perhaps a multiplier."""

    window = 1

    def __init__(self, config: CQLConfig, spec: Spec, *, seed: int, device: str) -> None:
        check_continuous(config.name, spec)
        weights = generator(child_seed(seed, "parameters"))
        obs, action = spec.obs_dim, spec.action_dim
        self.config, self.device, self.action_dim = config, device, action
        self.noise = generator(child_seed(seed, "noise"), device)
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        self.actor = MLP(obs, config.hidden, 2 * action, generator=weights).to(device)
        self.critics = StackedMLP(2, obs + action, config.hidden, 1, generator=weights).to(device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.zeros((), device=device))
        self.log_multiplier = nn.Parameter(torch.zeros((), device=device))
        self.actor_optimizer = adam(self.actor.parameters(), config.actor_lr)
        self.critic_optimizer = adam(self.critics.parameters(), config.critic_lr)
        self.temperature_optimizer = adam([self.log_temperature], config.actor_lr)
        self.multiplier_optimizer = adam([self.log_multiplier], config.actor_lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critics (eq. 4), then of temperature and actor, then of the targets."""
        config = self.config
        s, a, reward, next_s, alive = transitions(batch, self.observe, self.scale)
        count = config.samples
        # K actions of each policy for the gap; one more at s for the actor, and at s' for the target
        noise = torch.randn(2, len(s), count + 1, self.action_dim, generator=self.noise, device=self.device)
        uniform = torch.rand(len(s), count, self.action_dim, generator=self.noise, device=self.device) * 2 - 1

        with torch.no_grad():
            sampled, log_density = squashed_sample(self.actor(torch.stack([s, next_s])).unsqueeze(2), noise)
            next_q = values(self.targets, next_s, sampled[1, :, count:]).squeeze(-1).amin(0)
            if config.entropy_backup:
                next_q = next_q - self.log_temperature.exp() * log_density[1, :, count]
            target = config.reward_scale * reward + config.discount * alive * next_q
            here, there = sampled[:, :, :count]
            proposals = torch.cat([a.unsqueeze(1), here, there, uniform], dim=1)  # (B, 1 + 3K, A)
            log_uniform = torch.full_like(uniform[..., 0], -self.action_dim * math.log(2))
            log_density = torch.cat([*log_density[:, :, :count], log_uniform], dim=1)  # (B, 3K)

        q = values(self.critics, s, proposals)
        gap = conservative_gap(q[..., 1:], log_density, q[..., 0])
        bellman = td_loss(q[..., 0], target)
        descend(self.critic_optimizer, bellman + self.penalty(gap))

        action, log_prob = squashed_sample(self.actor(s).unsqueeze(1), noise[0, :, count:])
        log_prob = log_prob.squeeze(1)
        descend(self.temperature_optimizer, temperature_loss(self.log_temperature, log_prob, -self.action_dim))
        temperature = self.log_temperature.detach().exp()
        pi_loss = actor_loss(values(self.critics, s, action).squeeze(-1).amin(0), log_prob, temperature)
        descend(self.actor_optimizer, pi_loss)
        polyak(self.targets, self.critics, config.tau)

        self.step += 1
        metrics = {"critic_loss": bellman, "gap": gap.mean(), "actor_loss": pi_loss, "temperature": temperature}
        return {k: x.detach() for k, x in (metrics | {"q": q[..., 0].mean(), "entropy": -log_prob.mean()}).items()}

    def penalty(self, gap: Tensor) -> Tensor:
        """The conservative term for gaps (M,); with a threshold, also one step of the multiplier (eq. 30)."""
        weighted = self.config.weight * gap
        if self.config.lagrange_threshold is None:
            return weighted.sum()
        excess = weighted - self.config.lagrange_threshold
        multiplier = self.log_multiplier.exp().clamp(max=1e6)
        penalty = (multiplier.detach() * excess).sum()
        descend(self.multiplier_optimizer, -(multiplier * excess.detach()).mean())
        return penalty

    def choose(self, obs: Tensor) -> Tensor:
        """The squashed mean in raw units, for raw observations (N, O)."""
        return self.scale.inverse(self.actor(self.observe(obs)).chunk(2, dim=-1)[0].tanh())

    def policy(self, *, seed: int) -> Policy:
        """The squashed mean; deterministic, so `seed` is unused."""
        return Memoryless(self.choose, self.device)
