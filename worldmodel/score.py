"""The worth of action sequences under a learned model: what a planner asks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolkit.core import Reward
from worldmodel.doubt import Doubt
from worldmodel.model import EnsembleModel, Imagination

if TYPE_CHECKING:
    from worldmodel.mpc import MPCConfig

BLOCK_FLOATS = 1 << 18  # activations of a layer imagined at once: bounds memory, and stays near the cache


class ImaginedReturn:
    """The score of a plan: the discounted sum of reward times the probability of being alive, less the penalty.

    With P particles and E elite members, particle p of sequence n is imagined by member (n P + p) mod E. Only the
    dynamics are computed step by step: rewards, ends, values and doubts of all steps of a block together.

    `reward` stands in for the model's own, `value` (R, O) -> (R,) is added for the last state reached, and `doubt`
    measures disagreement; each is left out if None.
    """

    def __init__(
        self,
        config: MPCConfig,
        model: EnsembleModel,
        *,
        reward: Reward | None = None,
        value: Callable[[Tensor], Tensor] | None = None,
        doubt: Doubt | None = None,
    ) -> None:
        self.config, self.imagine = config, Imagination(model)
        self.reward, self.value, self.doubt = reward, value, doubt
        steps = torch.arange(config.horizon + 1, device=model.elites.device)
        self.discounts = config.discount ** steps[:, None, None]
        scale = 1.0 if config.reward == "goal" else model.targets.std[-1]  # a goal's reward is in spreads already
        self.penalty = config.penalty * scale

    def __call__(self, obs: Tensor, actions: Tensor) -> Tensor:
        """obs (M, O), actions (M, N, H, A) -> (M, N), in blocks of sequences. N * P must be divisible by E."""
        rows, samples = actions.shape[:2]
        owner = torch.arange(rows * samples, device=obs.device) // samples
        members = self.imagine.members
        block = block_size(self.config, members)  # at most
        blocks = math.ceil(len(owner) / block)
        block = math.ceil(len(owner) / (blocks * members)) * members  # as many blocks, of equal size
        found = [
            self._block(obs[row], sequences)
            for row, sequences in zip(owner.split(block), actions.flatten(0, 1).split(block), strict=True)
        ]
        score, doubtful = (torch.cat(part).view(rows, samples) for part in zip(*found, strict=True))
        drop = doubtful & ~doubtful.all(1, keepdim=True)
        return score.masked_fill(drop, -torch.inf)

    def _block(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """obs (B, O), actions (B, H, A) -> scores (B,), and which of them are too doubtful (B,) bool."""
        members, particles = self.imagine.members, self.config.particles

        def deal(each: Tensor) -> Tensor:
            """(B, ...) -> (E, B P / E, ...)."""
            return each.repeat_interleave(particles, 0).unflatten(0, (-1, members)).transpose(0, 1)

        def gather(each: Tensor) -> Tensor:
            """(E, B P / E) -> (B, P), the inverse of the deal."""
            return each.T.reshape(-1, particles)

        start, dealt = deal(obs), deal(actions).movedim(2, 0).contiguous()  # (E, G, O), (H, E, G, A)
        path, reward, end = self.imagine.path(start, dealt)
        states = path[..., : self.imagine.obs_dim]
        if self.reward is not None:
            each = (part.flatten(0, 2) for part in (states[:-1], dealt, states[1:]))
            reward = self.reward(*each).view_as(reward)
        total, weight = self.worth(states[-1], reward, end)
        doubtful = torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
        if self.doubt is not None:
            doubt = self.doubt(self.imagine, path[:-1])  # (H, E, G)
            total = total - self.penalty * (weight[:-1] * doubt).sum(0)
            doubtful = (gather(doubt.amax(0)) > self.doubt.limit).any(1)
        return gather(total).mean(-1), doubtful

    def worth(self, last: Tensor, reward: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Discounted reward while alive, and the value of the `last` state reached (..., O).

        reward and end (H, E, G) -> (E, G), and the weights (H + 1, E, G) of each step and of what follows.
        """
        alive = torch.cat([torch.ones_like(end[:1]), (1 - end).cumprod(0)])
        weight = self.discounts * alive
        total = (weight[:-1] * reward).sum(0)
        if self.value is not None:
            total = total + weight[-1] * self.value(last.flatten(0, 1)).view_as(total)
        return total, weight


def block_size(config: MPCConfig, members: int) -> int:
    """Sequences at most that so many `members` imagine at once; a multiple of `members`."""
    width = max(config.hidden, default=1)
    return max(1, BLOCK_FLOATS // (width * config.particles * members)) * members


def goal_reward(achieved: tuple[int, ...], goal_dim: int, std: Tensor) -> Reward:
    """Minus the distance between the numbers `achieved` of the next observation and its last `goal_dim`.

    In units of the achieved numbers' own spread in the data; `std` (O,).
    """
    places = list(achieved)

    def reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return -((next_obs[:, places] - next_obs[:, -goal_dim:]) / std[places]).norm(dim=-1)

    return reward
