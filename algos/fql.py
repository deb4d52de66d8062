"""Flow Q-learning: a flow clones the data, and an actor of one step is distilled from it while it climbs the critic."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
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
    td_loss,
    transitions,
)
from toolkit.core import Batch, Family, LearnerConfig, Needs, Policy, Spec, child_seed
from toolkit.nets import Checkpointed, Net, adam, descend, generator, polyak, single, stack
from toolkit.normalize import Normalizer

gelu = partial(F.gelu, approximate="tanh")


@dataclass(frozen=True)
class FQLConfig(LearnerConfig):
    """Flow Q-learning (arXiv:2502.02538). `alpha` is tuned for each task in the paper: see PRESETS.

    The policy is the one-step actor of fresh noise, so it is stochastic, and has no density here.

    Against the authors' code: three optimisers in place of one for the sum of the losses, which comes to the
    same with Adam; layers start uniform in +-1/sqrt(inputs); observations are standardised.
    """

    name: ClassVar[str] = "fql"
    family: ClassVar[Family] = "offline_rl"
    paper: ClassVar[str] = "2502.02538"

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the hidden layers of every network, GELU between them."""
    net: Net = "mlp"
    """mlp, or residual: a block with layer norm (SimBa, arXiv:2410.09754) for each width, which must be equal."""
    layer_norm: bool = True
    """Normalise the critics' hidden layers after their activations."""
    lr: float = 3e-4
    """Adam's learning rate, for all networks."""
    discount: float = 0.99
    """Weight of the next step's value."""
    n_step: int = 1
    """Rewards summed before the next value."""
    tau: float = 0.005
    """Share of the critics that enters their targets at each update."""
    alpha: float = 10.0
    """Weight of the distance to the flow's action; towards infinity the actor clones the data."""
    flow_steps: int = 10
    """Euler steps from noise to an action of the flow."""
    critic_mean: Literal["mean", "min"] = "mean"
    """How the two target critics make one value."""
    normalize_q: bool = False
    """Divide the actor's critic by the mean size of its values."""
    reward_scale: float = 1.0
    """Rewards are multiplied by this; unless `normalize_q`, alpha is relative to their size."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden, self.net)
        check_positive(self, "lr", "tau", "reward_scale")
        check_fraction(self, "discount", "tau")
        check_not_negative(self, "alpha")
        check_count(self, "n_step", "flow_steps")
        if self.critic_mean not in ("mean", "min"):
            raise ValueError(f"critic_mean is {self.critic_mean!r}; expected mean or min")

    @property
    def compiles(self) -> bool:
        """Always."""
        return True

    @property
    def needs(self) -> Needs:
        """Transitions with rewards, perhaps over n steps."""
        return Needs(reward=True, n_step=self.n_step, discount=self.discount if self.n_step > 1 else None)

    def build(self, spec: Spec, *, seed: int, device: str) -> FQL:
        """Raises ValueError for discrete or unbounded actions."""
        return FQL(self, spec, seed=seed, device=device)


PRESETS = {  # the authors' commands (seohongpark/fql, README.md) for OGBench's single tasks, and for D4RL's Adroit
    "fql-antmaze": FQLConfig(alpha=10.0, critic_mean="min"),  # large; giant: discount 0.995
    "fql-humanoidmaze": FQLConfig(alpha=30.0, discount=0.995),
    "fql-antsoccer": FQLConfig(alpha=10.0, discount=0.995),
    "fql-cube": FQLConfig(alpha=300.0),  # and scene
    "fql-puzzle": FQLConfig(alpha=1000.0),
    "fql-pen": FQLConfig(alpha=10_000.0, critic_mean="min"),  # human and cloned; 30,000 for door
}


def flow_loss(velocity: Tensor, noise: Tensor, action: Tensor) -> Tensor:
    """Mean of |v(s, x_t, t) - (a - z)|**2, where x_t = (1 - t) z + t a; all (B, A)."""
    return (velocity - (action - noise)).square().mean()


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Euler's rule from t = 0 to 1 along velocity(x, t); x (B, A), t (B, 1). Clipped to [-1, 1] at the end."""
    x = noise
    for index in range(steps):
        x = x + velocity(x, x.new_full((len(x), 1), index / steps)) / steps
    return x.clamp(-1, 1)


def actor_loss(q: Tensor, action: Tensor, cloned: Tensor, alpha: float, normalize: bool) -> Tensor:
    """alpha * mean |pi(s, z) - flow(s, z)|**2 - mean Q(s, pi(s, z)); q (B,), actions (B, A)."""
    size = q.detach().abs().mean() if normalize else 1.0
    return alpha * (action - cloned).square().mean() - q.mean() / size


class FQL(Checkpointed):
    """Twin critics, their targets, a flow and a one-step actor."""

    def __init__(self, config: FQLConfig, spec: Spec, *, seed: int, device: str) -> None:
        check_continuous(config.name, spec)
        weights = generator(child_seed(seed, "parameters"))
        obs, action, net, hidden, norm = spec.obs_dim, spec.action_dim, config.net, config.hidden, config.layer_norm
        self.config, self.device, self.action_dim = config, device, action
        self.noise = generator(child_seed(seed, "noise"), device)
        self.observe = Normalizer(spec.obs).to(device)
        self.scale = ActionScale(spec).to(device)
        self.flow = single(net, obs + action + 1, hidden, action, activation=gelu, generator=weights).to(device)
        self.actor = single(net, obs + action, hidden, action, activation=gelu, generator=weights).to(device)
        self.critics = stack(net, 2, obs + action, hidden, 1, activation=gelu, layer_norm=norm, generator=weights).to(
            device
        )
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.flow_optimizer = adam(self.flow.parameters(), config.lr)
        self.actor_optimizer = adam(self.actor.parameters(), config.lr)
        self.critic_optimizer = adam(self.critics.parameters(), config.lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the actor, the critics and the flow, then of the targets (algorithm 1)."""
        config = self.config
        s, a, reward, next_s, bootstrap = transitions(batch, config.needs, config.discount, self.observe, self.scale)
        next_z, z, actor_z = torch.randn(3, *a.shape, generator=self.noise, device=self.device)
        t = torch.rand(len(a), 1, generator=self.noise, device=self.device)
        with torch.no_grad():
            next_a = self.actor(torch.cat([next_s, next_z], -1)).clamp(-1, 1)
            both = self.targets(torch.cat([next_s, next_a], -1)).squeeze(-1)
            next_q = both.mean(0) if config.critic_mean == "mean" else both.amin(0)
            target = config.reward_scale * reward + bootstrap * next_q
            cloned = integrate(lambda x, time: self.flow(torch.cat([s, x, time], -1)), actor_z, config.flow_steps)

        # The actor's loss is that of the critics and the flow before their steps, as in the authors' one sum.
        action = self.actor(torch.cat([s, actor_z], -1))
        q_pi = self.critics(torch.cat([s, action.clamp(-1, 1)], -1)).squeeze(-1).mean(0)
        pi_loss = actor_loss(q_pi, action, cloned, config.alpha, config.normalize_q)
        descend(self.actor_optimizer, pi_loss)

        q = self.critics(torch.cat([s, a], -1)).squeeze(-1)
        q_loss = td_loss(q, target) / 2
        descend(self.critic_optimizer, q_loss)

        velocity = self.flow(torch.cat([s, (1 - t) * z + t * a, t], -1))
        bc_loss = flow_loss(velocity, z, a)
        descend(self.flow_optimizer, bc_loss)
        polyak(self.targets, self.critics, config.tau)

        self.step += 1
        metrics = {"critic_loss": q_loss, "flow_loss": bc_loss, "actor_loss": pi_loss, "q": q.mean()}
        return {k: x.detach() for k, x in metrics.items()}

    def choose(self, obs: Tensor, noise: Tensor) -> Tensor:
        """The one-step actor's actions in raw units, for raw observations (N, O) and noise (N, A)."""
        return self.scale.inverse(self.actor(torch.cat([self.observe(obs), noise], -1)).clamp(-1, 1))

    def policy(self, *, seed: int) -> Policy:
        """The one-step actor; its noise is a stream of `seed`."""
        random = generator(child_seed(seed, "policy"), self.device)

        def choose(obs: Tensor) -> Tensor:
            return self.choose(obs, torch.randn(len(obs), self.action_dim, generator=random, device=self.device))

        return Memoryless(choose, self.device, deterministic=False)
