"""The worth of action sequences under a learned model: what a planner asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldmodel.model import EnsembleModel, Imagination

if TYPE_CHECKING:
    from worldmodel.mpc import MPCConfig

BLOCK_FLOATS = 1 << 17  # activations imagined at once: bounds memory, and stays inside the cache


class ImaginedReturn:
    """The score of a plan: the discounted sum of reward times the probability of being alive, less the penalty.

    With P particles and E elite members, particle p of sequence n is imagined by member (n P + p) mod E.
    """

    def __init__(self, config: MPCConfig, model: EnsembleModel) -> None:
        self.config, self.imagine = config, Imagination(model)
        self.discounts = config.discount ** torch.arange(config.horizon, device=model.elites.device)[:, None, None]
        self.penalty = config.penalty * model.targets.std[-1]  # raw reward for one unit of disagreement
        moves = model.targets.kept[:-1]
        self.unit = moves / model.inputs.std[: len(moves)] / moves.sum().clamp_min(1)

    def __call__(self, obs: Tensor, actions: Tensor) -> Tensor:
        """obs (M, O), actions (M, N, H, A) -> (M, N), in blocks of rows."""
        width = max(self.config.hidden, default=1)
        rows = max(1, BLOCK_FLOATS // (actions.shape[1] * self.config.particles * width))
        blocks = zip(obs.split(rows), actions.split(rows), strict=True)
        return torch.cat([self._block(*block) for block in blocks])

    def _block(self, obs: Tensor, actions: Tensor) -> Tensor:
        (rows, samples, horizon, size), particles = actions.shape, self.config.particles
        members = self.imagine.members
        group = samples * particles // members  # particles of one row that one member imagines
        dealt = actions.repeat_interleave(particles, dim=1).view(rows, group, members, horizon, size)
        dealt = dealt.permute(3, 2, 0, 1, 4).reshape(horizon, members, rows * group, size)
        start = obs.repeat_interleave(group, dim=0).expand(members, -1, -1)
        reached, reward, end = self.imagine(start, dealt)
        alive = (1 - end).cumprod(0)
        weight = self.discounts * torch.cat([torch.ones_like(alive[:1]), alive[:-1]])

        def gather(each: Tensor) -> Tensor:
            """(..., E, M * group) -> (..., M, N, P), the inverse of the deal."""
            parted = each.unflatten(-1, (rows, group)).movedim(-3, -1)  # (..., M, group, E)
            return parted.reshape(*each.shape[:-2], rows, samples, particles)

        score = gather((weight * reward).sum(0)).mean(-1)
        if particles > 1 and self.config.penalty:
            spread = gather(reached.movedim(-1, 0)).std(-1, correction=0).movedim(0, -1) @ self.unit  # (H, M, N)
            score = score - self.penalty * (gather(weight).mean(-1) * spread).sum(0)
        return score
