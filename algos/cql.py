"""Conservative Q-learning: push down the value of actions the data does not hold."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos._common import (
    ActionScale,
    Memoryless,
    check_count,
    check_fraction,
    check_hidden,
    check_not_negative,
    check_positive,
    gaussian_log_prob,
    td_loss,
    transitions,
    values,
)
from toolkit.core import Batch, Exactness, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import Checkpointed, Net, Stack, adam, descend, generator, interval_log_mass, polyak, single, stack
from toolkit.normalize import Normalizer


@dataclass(frozen=True)
class CQLConfig(LearnerConfig):
    """CQL(H) (arXiv:2006.04779) on soft actor-critic (arXiv:1812.05905), or on double Q-learning.

    With discrete actions there is no actor: the sum over actions is exact, the target is that of double
    Q-learning (arXiv:1509.06461), and the policy takes the best action of the lesser critic.

    Constants are those of the authors' D4RL commands (aviralkumar2907/CQL, README.md and d4rl/examples). Their
    warm-up, 40,000 updates of the actor by cloning, is left out, as in d3rlpy; so is that they move the actor before
    the critics. The temperature's loss is the paper's, theirs has log temperature in place of temperature. The actor
    acts by its squashed mean.

    Against d3rlpy 2.8.1: with the same actions sampled, the conservative, temperature and actor
    losses are equal, and so is the TD loss when `entropy_backup` meets its `soft_q_backup`. Without
    it, the target uses a sampled next action, as the authors do; d3rlpy uses the mean. d3rlpy also
    multiplies its Lagrange threshold by the weight, steps the multiplier before using it, and
    turns it on by default.
    """

    name: ClassVar[str] = "cql"
    family: ClassVar[Family] = "offline_rl"
    paper: ClassVar[str] = "2006.04779"
    actions: ClassVar = ("continuous", "discrete")

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of actor and critics, ReLU between them."""
    net: Net = "mlp"
    """mlp, or residual: a block with layer norm (SimBa, arXiv:2410.09754) for each width, which must be equal."""
    actor_lr: float = 1e-4
    """Adam's learning rate for the actor and the temperature."""
    critic_lr: float = 3e-4
    """Adam's learning rate for the critics and the multiplier."""
    discount: float = 0.99
    """Weight of the next step's value."""
    n_step: int = 1
    """Rewards summed before the next value."""
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
    max_backup: bool = False
    """The target takes each critic's best of `samples` next actions, not one of them (appendix F, for AntMaze)."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden, self.net)
        check_positive(self, "actor_lr", "critic_lr", "tau", "reward_scale")
        check_fraction(self, "discount", "tau")
        check_count(self, "samples", "n_step")
        check_not_negative(self, "weight")
        if self.lagrange_threshold is not None and not math.isfinite(self.lagrange_threshold):
            raise ValueError(f"lagrange_threshold must be finite, got {self.lagrange_threshold}")
        if self.entropy_backup and self.max_backup:
            raise ValueError("entropy_backup and max_backup are two targets; choose one")

    @property
    def compiles(self) -> bool:
        """Always."""
        return True

    @property
    def needs(self) -> Needs:
        """Transitions with rewards, perhaps over n steps."""
        return Needs(reward=True, n_step=self.n_step, discount=self.discount if self.n_step > 1 else None)

    def build(self, spec: Spec, *, seed: int, device: str) -> CQL | DiscreteCQL:
        """Raises ValueError for unbounded actions."""
        return (DiscreteCQL if spec.discrete else CQL)(self, spec, seed=seed, device=device)


# The authors' command, for rewards made (r - 0.5) * 4 of 0 and 1 at the goal (d4rl/examples/cql_antmaze_new.py), with
# the paper's backup: the command leaves it out.
PRESETS = {"cql-antmaze": CQLConfig(lagrange_threshold=5.0, max_backup=True)}


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


class Conservative(Checkpointed):
    """What both kinds share: an observation normaliser, twin critics, their targets, perhaps a multiplier."""

    def __init__(self, config: CQLConfig, spec: Spec, critics: Stack, *, device: str) -> None:
        self.config, self.device, self.action_dim = config, device, spec.action_dim
        self.observe = Normalizer(spec.obs).to(device)
        self.critics = critics.to(device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_multiplier = nn.Parameter(torch.zeros((), device=device))
        self.critic_optimizer = adam(self.critics.parameters(), config.critic_lr)
        self.multiplier_optimizer = adam([self.log_multiplier], config.critic_lr)

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

    @property
    def discount(self) -> float:
        """Weight of the next step's value."""
        return self.config.discount

    def choose(self, obs: Tensor) -> Tensor:
        """The policy's actions for raw observations (N, O)."""
        raise NotImplementedError

    def policy(self, *, seed: int) -> Policy:
        """The squashed mean, or the best action; deterministic, so `seed` is unused."""
        return Memoryless(self.choose, self.device)


class CQL(Conservative):
    """Continuous actions: with a squashed Gaussian actor and a temperature."""

    exactness: Exactness = "exact"

    def __init__(self, config: CQLConfig, spec: Spec, *, seed: int, device: str) -> None:
        weights = generator(child_seed(seed, "parameters"))
        obs, action = spec.obs_dim, spec.action_dim
        self.scale = ActionScale(spec).to(device)
        self.noise = generator(child_seed(seed, "noise"), device)
        self.actor = single(config.net, obs, config.hidden, 2 * action, generator=weights).to(device)
        critics = stack(config.net, 2, obs + action, config.hidden, 1, generator=weights)
        super().__init__(config, spec, critics, device=device)
        self.log_temperature = nn.Parameter(torch.zeros((), device=device))
        self.actor_optimizer = adam(self.actor.parameters(), config.actor_lr)
        self.temperature_optimizer = adam([self.log_temperature], config.actor_lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critics (eq. 4), then of temperature and actor, then of the targets."""
        config = self.config
        s, a, reward, next_s, bootstrap = transitions(batch, config.needs, config.discount, self.observe, self.scale)
        count = config.samples
        # K actions of each policy for the gap; one more at s for the actor, and at s' for the target
        noise = torch.randn(2, len(s), count + 1, self.action_dim, generator=self.noise, device=self.device)
        uniform = torch.rand(len(s), count, self.action_dim, generator=self.noise, device=self.device) * 2 - 1

        with torch.no_grad():
            sampled, log_density = squashed_sample(self.actor(torch.stack([s, next_s])).unsqueeze(2), noise)
            tried = sampled[1, :, :count] if config.max_backup else sampled[1, :, count:]
            next_q = values(self.targets, next_s, tried).amax(-1).amin(0)
            if config.entropy_backup:
                next_q = next_q - self.log_temperature.exp() * log_density[1, :, count]
            target = config.reward_scale * reward + bootstrap * next_q
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

    def action_log_mass(self, obs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log P(low < action <= high) of the squashed Gaussian, nats; (B, O), edges (B, A) raw -> (B,) float64."""
        low, high = (self.scale(edge).clamp(-1, 1).atanh() for edge in (low, high))
        mean, log_std = self.actor(self.observe(obs)).chunk(2, dim=-1)
        return interval_log_mass(low, high, mean, log_std.clamp(-20, 2)).sum(-1)

    def choose(self, obs: Tensor) -> Tensor:
        """The squashed mean in raw units, for raw observations (N, O)."""
        return self.scale.inverse(self.actor(self.observe(obs)).chunk(2, dim=-1)[0].tanh())

    def state_value(self, obs: Tensor) -> Tensor:
        """The lesser critic's Q of the squashed mean, in the units of the data's rewards; raw (N, O) -> (N,)."""
        s = self.observe(obs)
        action = self.actor(s).chunk(2, dim=-1)[0].tanh()
        q = self.critics(torch.cat([s, action], -1)).squeeze(-1).amin(0)
        return q / self.config.reward_scale

    def action_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """The lesser critic's Q in the units of the data's rewards; raw (N, O), (N, A) -> (N,)."""
        q = self.critics(torch.cat([self.observe(obs), self.scale(action)], -1)).squeeze(-1).amin(0)
        return q / self.config.reward_scale


class DiscreteCQL(Conservative):
    """Discrete actions, one-hot in a Batch: every critic gives the value of each action."""

    def __init__(self, config: CQLConfig, spec: Spec, *, seed: int, device: str) -> None:
        weights = generator(child_seed(seed, "parameters"))
        critics = stack(config.net, 2, spec.obs_dim, config.hidden, spec.action_dim, generator=weights)
        super().__init__(config, spec, critics, device=device)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critics (eq. 4), then of the targets."""
        config = self.config
        s, a, reward, next_s, bootstrap = transitions(batch, config.needs, config.discount, self.observe, nn.Identity())
        with torch.no_grad():
            next_q = self.targets(next_s).amin(0)  # (B, A)
            best = (next_q if config.max_backup else self.critics(next_s).amin(0)).argmax(-1, keepdim=True)
            target = config.reward_scale * reward + bootstrap * next_q.gather(1, best).squeeze(1)

        q = self.critics(s)  # (M, B, A)
        data_q = (q * a).sum(-1)
        gap = (q.logsumexp(-1) - data_q).mean(1)
        bellman = td_loss(data_q, target)
        descend(self.critic_optimizer, bellman + self.penalty(gap))
        polyak(self.targets, self.critics, config.tau)

        self.step += 1
        metrics = {"critic_loss": bellman, "gap": gap.mean(), "q": data_q.mean()}
        return {k: x.detach() for k, x in metrics.items()}

    def choose(self, obs: Tensor) -> Tensor:
        """The best action of the lesser critic, for raw observations (N, O)."""
        return self.critics(self.observe(obs)).amin(0).argmax(-1)

    def state_value(self, obs: Tensor) -> Tensor:
        """The lesser critic's Q of the best action, in the units of the data's rewards; raw (N, O) -> (N,)."""
        return self.critics(self.observe(obs)).amin(0).amax(-1) / self.config.reward_scale

    def action_value(self, obs: Tensor, action: Tensor) -> Tensor:
        """The lesser critic's Q of a one-hot action, in the units of the data's rewards; raw (N, O), (N, A) -> (N,)."""
        return (self.critics(self.observe(obs)) * action).sum(-1).amin(0) / self.config.reward_scale
