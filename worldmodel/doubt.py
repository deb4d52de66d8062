"""Where not to trust a model: the disagreement of its members, measured against that on held-out data."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.model import EnsembleModel, Imagination


class Doubt:
    """How far the member that imagined a step and the next one differ about it, 1 being the mean on held-out data.

    The difference is that of their predicted changes, in spreads of the change, as a root mean square over the
    dimensions that move (one step from the same state: MOPO's measure, arXiv:2005.13239, for two members).
    `limit` is the held-out quantile `prune`, in the same units; infinite if it is 1.
    """

    @torch.no_grad()
    def __init__(self, model: EnsembleModel, held_out: Tensor, *, prune: float) -> None:
        """`held_out` (n, O + A), raw; without any, the unit is a spread of the change and nothing is pruned."""
        moves = model.targets.kept[:-1]
        self.weight = moves / model.targets.std[:-1].square() / moves.sum().clamp_min(1)
        self.unit, self.limit = torch.ones(()), torch.tensor(torch.inf)
        if len(held_out):
            imagine = Imagination(model)
            rows = held_out.to(model.targets.std).expand(1, imagine.members, -1, -1)
            raw = self(imagine, rows).flatten()
            self.unit = raw.mean().clamp_min(1e-6)
            self.limit = torch.quantile(raw, prune) / self.unit if prune < 1 else self.limit

    def __call__(self, imagine: Imagination, inputs: Tensor) -> Tensor:
        """Observation | action of each step and member (H, E, G, O + A) -> (H, E, G)."""
        steps, members, rows, _ = inputs.shape
        flat = inputs.transpose(0, 1).reshape(members, steps * rows, -1)
        own = imagine.step(flat)
        other = imagine.step(flat.roll(1, 0)).roll(-1, 0)  # member e + 1 at the states of member e
        apart = (own - other)[..., : imagine.obs_dim].square() @ self.weight
        return apart.sqrt().view(members, steps, rows).transpose(0, 1) / self.unit
