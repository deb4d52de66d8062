"""What the learners on single transitions share: units, checks, the Gaussian actor, and a policy without memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.core import Array, Batch, LearnerConfig, Needs, Spec, Step
from toolkit.nets import Member, Net, Stack, interval_log_mass, single


class Transition(NamedTuple):
    """B transitions in the learner's own units."""

    obs: Tensor  # (B, O) standardised
    action: Tensor  # (B, A)
    reward: Tensor  # (B,) raw; summed over n steps where the learner asks for them
    next_obs: Tensor  # (B, O) standardised
    bootstrap: Tensor  # (B,) weight of the next state's value: the discount, 0 where terminated, not where truncated


def transitions(
    batch: Batch, needs: Needs, discount: float, observe: Callable[[Tensor], Tensor], scale: Callable[[Tensor], Tensor]
) -> Transition:
    """Windows of length 1 as transitions, with `observe` and `scale` applied. Raises as `check_batch` does."""
    check_batch(batch, needs)
    obs, next_obs = observe(batch.obs).unbind(1)
    alive = 1 - batch.terminated[:, 0].float()
    bootstrap = alive * (discount if needs.n_step == 1 or batch.discount is None else batch.discount[:, 0])
    return Transition(obs, scale(batch.action[:, 0]), batch.reward[:, 0], next_obs, bootstrap)


class ActionScale(nn.Module):
    """Raw actions (..., A) to [-1, 1] by the limits, and back; one-hot ones stay as they are.

    Raises ValueError if a limit is not finite.
    """

    low: Tensor
    high: Tensor
    middle: Tensor
    reach: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        if not (np.isfinite(spec.action_low).all() and np.isfinite(spec.action_high).all()):
            raise ValueError(
                f"action limits are {spec.action_low} to {spec.action_high}; expected finite ones: "
                "give the action space bounds before collecting, or use bc, which needs none"
            )
        low, high = (torch.as_tensor(np.array(limit, np.float32)) for limit in (spec.action_low, spec.action_high))
        plain = torch.full_like(low, spec.discrete, dtype=torch.bool)
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("middle", torch.where(plain, 0.0, (low + high) / 2))
        self.register_buffer("reach", torch.where(plain | (high <= low), 1.0, (high - low) / 2))

    def forward(self, raw: Tensor) -> Tensor:
        """Raw units -> [-1, 1]."""
        return (raw - self.middle) / self.reach

    def inverse(self, unit: Tensor) -> Tensor:
        """[-1, 1] -> raw units, never past a limit."""
        return (unit * self.reach + self.middle).clamp(self.low, self.high)


def gaussian_log_prob(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density in nats of each dimension of a diagonal Gaussian; shapes broadcast."""
    return -0.5 * ((value - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Memoryless:
    """A policy that depends on the observation alone: `choose` maps (N, O) raw to actions, on `device`."""

    choose: Callable[[Tensor], Tensor]  # -> (N, A) float32 within the limits, or (N,) int64
    device: str
    deterministic: bool = True  # whether `choose` draws no random numbers

    @torch.no_grad()
    def act(self, step: Step) -> Array:
        """Actions for N rows; `step.first` changes nothing, for there is nothing to forget."""
        obs = torch.as_tensor(np.asarray(step.obs, np.float32), device=self.device)
        return self.choose(obs).cpu().numpy()


class ReturnScale(nn.Module):
    """Returns over the largest return of an episode in the data, in size; and the return a policy asks for.

    `target` is the given one, or the highest in the data. Both are buffers, so every checkpoint carries them.
    """

    largest: Tensor
    target: Tensor

    def __init__(self, spec: Spec, target: float | None) -> None:
        super().__init__()
        low, high = float(spec.returns.low[0]), float(spec.returns.high[0])
        self.register_buffer("largest", torch.tensor(max(abs(low), abs(high), 1e-6)))
        self.register_buffer("target", torch.tensor(high if target is None else target))

    def forward(self, returns: Tensor) -> Tensor:
        """Returns (...) of any sign to about [-1, 1]."""
        return returns / self.largest


class ReturnConditioned:
    """A policy that asks for `target` in every episode, less the rewards received; state is kept by row."""

    def __init__(self, choose: Callable[[Tensor, Tensor], Tensor], target: float, device: str) -> None:
        self.choose, self.target, self.device = choose, target, device  # choose: raw (N, O), (N,) -> actions
        self.to_go = np.zeros(0, np.float32)

    @torch.no_grad()
    def act(self, step: Step) -> Array:
        """Actions for N rows. Raises ValueError if the number of rows changes while episodes run."""
        self.to_go = asked_for(self.to_go, self.target, step)
        obs = torch.as_tensor(np.asarray(step.obs, np.float32), device=self.device)
        return self.choose(obs, torch.as_tensor(self.to_go, device=self.device)).cpu().numpy()


def asked_for(to_go: Array, target: float, step: Step) -> Array:
    """Returns to go (N,) float32 after `step`: `target` where an episode begins, else what is left of it."""
    if len(to_go) != len(step.obs):
        if not step.first.all():
            raise ValueError(
                f"step shows {len(step.obs)} rows, the one before it {len(to_go)}: a return to go belongs to a row; "
                "keep the number of environments, or set first everywhere"
            )
        to_go = np.zeros(len(step.obs), np.float32)
    return np.where(step.first, target, to_go - step.reward).astype(np.float32)


class GaussianActor(nn.Module):
    """tanh mean (..., A) and a state-independent log standard deviation (A,), over actions in [-1, 1].

    `bound` maps the free parameter, which starts at 0, to the log standard deviation.
    """

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        weights: torch.Generator,
        bound: Callable[[Tensor], Tensor],
        net: Net,
    ) -> None:
        super().__init__()
        self.mean = single(net, inputs, hidden, outputs, generator=weights)
        self.log_std = nn.Parameter(torch.zeros(outputs))
        self.bound = bound

    def forward(self, obs: Tensor) -> Tensor:
        """The mean action, squashed: (..., O) -> (..., A)."""
        return self.mean(obs).tanh()

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density of each dimension: (..., O), (..., A) -> (..., A)."""
        return gaussian_log_prob(action, self(obs), self.bound(self.log_std))

    def log_mass(self, obs: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """log P(low < action <= high) of each dimension before clipping: (B, O), edges (B, A) -> (B, A) float64."""
        return interval_log_mass(low, high, self(obs), self.bound(self.log_std))

    def sample(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions for standard normal `noise` (..., A), clipped to [-1, 1]."""
        return (self(obs) + self.bound(self.log_std).exp() * noise).clamp(-1, 1)


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Sum over critics of the mean of (target - Q(s, a))**2; q (M, B), target (B,)."""
    return (q - target).square().mean(1).sum()


def values(critics: Stack, obs: Tensor, actions: Tensor) -> Tensor:
    """Q of K actions for each state: (B, O), (B, K, A) -> (M, B, K).

    The state's share of the first layer is computed once for its K actions; on a CPU about a thousand
    rows are taken at a time, so that a layer's output is still in the cache when the next one reads it.
    """
    states = max(1, 1024 // actions.shape[1]) if obs.device.type == "cpu" else len(obs)
    parts = list(zip(obs.split(states), actions.split(states), strict=True))
    return torch.stack([torch.cat([member_values(one, *part) for part in parts]) for one in critics.apart()])


def member_values(critic: Member, obs: Tensor, actions: Tensor) -> Tensor:
    """One critic's Q: (B, O), (B, K, A) -> (B, K)."""
    weight, bias = critic.first
    of_obs, of_action = weight.split([obs.shape[-1], actions.shape[-1]])
    sums = actions @ of_action + torch.addmm(bias, obs, of_obs).unsqueeze(1)
    return critic.after_first(sums).view(actions.shape[:2])


def smoothed(action: Tensor, noise: Tensor, sigma: float, clip: float) -> Tensor:
    """Target policy smoothing (arXiv:1802.09477, sec. 5.3): noise of spread `sigma`, clipped, then to [-1, 1]."""
    return (action + (sigma * noise).clamp(-clip, clip)).clamp(-1, 1)


def check_batch(batch: Batch, needs: Needs) -> None:
    """Raises ValueError if the batch does not hold what the learner needs; see `toolkit.feed.sampler`."""
    if batch.action.shape[1] != needs.window:
        raise ValueError(
            f"batch has windows of {batch.action.shape[1]} steps; expected {needs.window}, the window of its `needs`"
        )
    due = {"next_action": needs.next_action, "discount": needs.n_step > 1, "return_to_go": needs.returns_to_go}
    if missing := [name for name, needed in due.items() if needed and getattr(batch, name) is None]:
        raise ValueError(
            f"batch has no {', '.join(missing)}, which the learner needs: draw it with toolkit.feed.sampler"
        )


def check_continuous(name: str, spec: Spec) -> None:
    """Raises ValueError if the data's actions are discrete."""
    if spec.discrete:
        raise ValueError(f"{name} here needs continuous actions, the store's are discrete ({spec.action_dim} choices)")


def check_positive(config: LearnerConfig, *names: str) -> None:
    """Raises ValueError for the first of the named numbers that is not above zero, or not finite."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {getattr(config, name)}")


def check_fraction(config: LearnerConfig, *names: str) -> None:
    """Raises ValueError for the first of the named numbers that lies outside [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(config, name)}")


def check_count(config: LearnerConfig, *names: str) -> None:
    """Raises ValueError for the first of the named numbers that is not at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def check_not_negative(config: LearnerConfig, *names: str) -> None:
    """Raises ValueError for the first of the named numbers that is below zero, or not finite."""
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"{name} must not be negative, and finite, got {getattr(config, name)}")


def check_hidden(hidden: tuple[int, ...], net: Net = "mlp") -> None:
    """Raises ValueError unless the network has a hidden layer, widths of at least 1, and equal ones if residual."""
    if net not in ("mlp", "residual"):
        raise ValueError(f"net is {net!r}; expected mlp or residual")
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must be one or more widths of at least 1, got {hidden}")
    if net == "residual" and len(set(hidden)) > 1:
        raise ValueError(f"the widths of a residual network must be equal, got {hidden}")
