"""What the learners on single transitions share: units, checks, the Gaussian, and a policy without memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.core import Array, Batch, LearnerConfig, Spec, Step


class Transition(NamedTuple):
    """B transitions in the learner's own units."""

    obs: Tensor  # (B, O) standardised
    action: Tensor  # (B, A)
    reward: Tensor  # (B,) raw
    next_obs: Tensor  # (B, O) standardised
    alive: Tensor  # (B,) 0 where terminated, so that truncated steps still bootstrap


def transitions(batch: Batch, observe: Callable[[Tensor], Tensor], scale: Callable[[Tensor], Tensor]) -> Transition:
    """Windows of length 1 as transitions, with `observe` and `scale` applied. Raises as `check_window` does."""
    check_window(batch, 1)
    obs, next_obs = observe(batch.obs).unbind(1)
    return Transition(obs, scale(batch.action[:, 0]), batch.reward[:, 0], next_obs, 1 - batch.terminated[:, 0].float())


class ActionScale(nn.Module):
    """Raw actions (..., A) to [-1, 1] by the limits, and back. Raises ValueError if a limit is not finite."""

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
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("middle", (low + high) / 2)
        self.register_buffer("reach", torch.where(high > low, (high - low) / 2, 1.0))

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

    @torch.no_grad()
    def act(self, step: Step) -> Array:
        """Actions for N rows; `step.first` changes nothing, for there is nothing to forget."""
        obs = torch.as_tensor(np.asarray(step.obs, np.float32), device=self.device)
        return self.choose(obs).cpu().numpy()


def check_window(batch: Batch, window: int) -> None:
    """Raises ValueError if the batch's windows are not `window` steps long."""
    if batch.action.shape[1] != window:
        raise ValueError(
            f"batch has windows of {batch.action.shape[1]} steps; expected {window}, the learner's `window`"
        )


def check_continuous(name: str, spec: Spec) -> None:
    """Raises ValueError if the data's actions are discrete."""
    if spec.discrete:
        raise ValueError(f"{name} here needs continuous actions, the store's are discrete ({spec.action_dim} choices)")


def check_positive(config: LearnerConfig, *names: str) -> None:
    """Raises ValueError for the first of the named numbers that is not above zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}")


def check_fraction(config: LearnerConfig, *names: str) -> None:
    """Raises ValueError for the first of the named numbers that lies outside [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(config, name)}")


def check_hidden(hidden: tuple[int, ...]) -> None:
    """Raises ValueError unless there is a hidden layer and every width is at least 1."""
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must be one or more widths of at least 1, got {hidden}")
