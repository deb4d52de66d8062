"""What a learned model must beat: nothing changes, and everything changes linearly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from toolkit.core import Array, Exactness, Imagined, Reached
from toolkit.nets import interval_log_mass


@dataclass(frozen=True)
class Transitions:
    """N transitions in raw units; actions are one-hot if discrete."""

    obs: Tensor  # (N, O) float32
    action: Tensor  # (N, A) float32
    next_obs: Tensor  # (N, O) float32
    reward: Tensor  # (N,) float32
    terminated: Tensor  # (N,) bool
    episode: Array  # (N,) int64

    def __len__(self) -> int:
        """N."""
        return len(self.obs)

    @property
    def target(self) -> Array:
        """(N, O + 1) float64: the next observation and the reward."""
        return np.hstack([self.next_obs.numpy(), self.reward.numpy()[:, None]]).astype(np.float64)

    def take(self, chosen: Array) -> Transitions:
        """The transitions at `chosen`, a mask or positions."""
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        at = torch.from_numpy(index)
        return Transitions(
            self.obs[at], self.action[at], self.next_obs[at], self.reward[at], self.terminated[at], self.episode[index]
        )


def joined(parts: Sequence[Transitions]) -> Transitions:
    """All transitions, one part after another."""
    return Transitions(
        torch.cat([part.obs for part in parts]),
        torch.cat([part.action for part in parts]),
        torch.cat([part.next_obs for part in parts]),
        torch.cat([part.reward for part in parts]),
        torch.cat([part.terminated for part in parts]),
        np.concatenate([part.episode for part in parts]),
    )


class Baseline:
    """`toolkit.core.Dynamics` of one affine map: (next obs, reward) = [obs, action, 1] @ weight + Gaussian noise.

    Its `TransitionMass`: independent numbers, and an end at the data's rate.
    """

    exactness: Exactness = "exact"

    def __init__(self, weight: Array, data: Transitions) -> None:
        """weight (O + A + 1, O + 1); the noise is what it misses in the data."""
        inputs = np.hstack([data.obs.numpy(), data.action.numpy(), np.ones((len(data), 1))]).astype(np.float64)
        missed = np.square(data.target - inputs @ weight).mean(0)
        self.weight = torch.from_numpy(weight.astype(np.float32))
        self.std = torch.from_numpy(np.sqrt(missed).astype(np.float32))
        self.rate = (float(data.terminated.sum()) + 0.5) / (len(data) + 1)

    def imagine(self, obs: Tensor, action: Tensor, *, generator: Generator | None = None) -> Imagined:
        """See `toolkit.core.Dynamics`; it never expects an end."""
        ones, none = torch.ones(len(obs), 1), torch.zeros(len(obs))
        following = torch.cat([obs, action, ones], 1) @ self.weight
        if generator is not None:
            following = following + self.std * torch.randn(following.shape, generator=generator)
        return Imagined(following[:, :-1], following[:, -1], none, none, self.std.norm().expand(len(obs)))

    def transition_log_mass(self, reached: Reached) -> Tensor:
        """See `toolkit.core.TransitionMass`."""
        mean = self.imagine(reached.obs, reached.action)
        low, high = (
            torch.cat([obs, reward[:, None]], 1)
            for obs, reward in ((reached.next_low, reached.reward_low), (reached.next_high, reached.reward_high))
        )
        centre = torch.cat([mean.obs, mean.reward[:, None]], 1)
        mass = interval_log_mass(low, high, centre, self.std.clamp_min(1e-12).log()).sum(1)
        return mass + torch.where(reached.terminated, math.log(self.rate), math.log1p(-self.rate))

    def unseen(self, episodes: int) -> Array:
        """None."""
        return np.zeros(0, np.int64)


def persistence(data: Transitions) -> Baseline:
    """Observations stay as they are; the reward is its mean."""
    weight = np.zeros((data.obs.shape[1] + data.action.shape[1] + 1, data.obs.shape[1] + 1))
    weight[:-1, :-1] = np.eye(len(weight) - 1, data.obs.shape[1])
    weight[-1, -1] = float(data.reward.mean())
    return Baseline(weight, data)


def linear(data: Transitions, *, ridge: float = 1e-6) -> Baseline:
    """Ridge regression of the change and the reward, in closed form; `ridge` is per row, of standardised inputs."""
    inputs = np.hstack([data.obs.numpy(), data.action.numpy()]).astype(np.float64)
    mean, std = inputs.mean(0), inputs.std(0)
    std[std < 1e-6 * np.maximum(1.0, np.abs(mean))] = np.inf  # constant: no weight
    x, y = (inputs - mean) / std, data.target
    y[:, :-1] -= data.obs.numpy()
    gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
    slope = np.linalg.solve(gram, x.T @ (y - y.mean(0)) / len(x)) / std[:, None]
    weight = np.vstack([slope, y.mean(0) - mean @ slope])
    weight[: data.obs.shape[1], :-1] += np.eye(data.obs.shape[1])
    return Baseline(weight, data)
