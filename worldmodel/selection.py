"""Which weights of each member are kept: those of the best look at rows that gave no gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.core import Batch, Spec
from worldmodel.model import EnsembleModel

BLOCK = 512  # rows looked at at once


class Rows(NamedTuple):
    """N windows of L steps, as in Batch."""

    obs: Tensor  # (N, L+1, O)
    action: Tensor  # (N, L, A)
    reward: Tensor  # (N, L)
    terminated: Tensor  # (N, L) bool
    valid: Tensor  # (N, L) bool

    @classmethod
    def of(cls, batch: Batch, index: Tensor) -> Rows:
        """The windows of a batch at `index` (n,) int64."""
        return cls(*(getattr(batch, name)[index] for name in cls._fields))


class Reservoir(nn.Module):
    """The first `size` windows given to it, so that looks compare on the same ones; buffers, kept by checkpoints."""

    count: Tensor

    def __init__(self, spec: Spec, *, size: int, window: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("obs", torch.zeros(size, window + 1, spec.obs_dim))
        self.register_buffer("action", torch.zeros(size, window, spec.action_dim))
        self.register_buffer("reward", torch.zeros(size, window))
        self.register_buffer("terminated", torch.zeros(size, window, dtype=torch.bool))
        self.register_buffer("valid", torch.zeros(size, window, dtype=torch.bool))

    def add(self, batch: Batch, index: Tensor) -> None:
        """Keep the batch's windows at `index` (n,), as many as there is room for."""
        start = int(self.count)
        if start == self.size:
            return
        rows = Rows.of(batch, index[: self.size - start])
        for name, values in rows._asdict().items():
            getattr(self, name)[start : start + len(values)] = values
        self.count += len(rows.obs)

    def rows(self) -> Rows:
        """What was kept so far."""
        return Rows(*(getattr(self, name)[: int(self.count)] for name in Rows._fields))


class Selection(nn.Module):
    """Each member's best mean negative log likelihood so far, and how many looks ago it was; buffers (M,)."""

    best: Tensor
    since: Tensor

    def __init__(self, members: int) -> None:
        super().__init__()
        self.register_buffer("best", torch.full((members,), torch.inf))
        self.register_buffer("since", torch.zeros(members, dtype=torch.int64))

    def look(self, nll: Tensor) -> Tensor:
        """Which members (M,) bool are better than ever at `nll` (M,), or have never been finite."""
        nll = nll.nan_to_num(nan=torch.inf, posinf=torch.inf)
        better = (nll < self.best) | self.best.isinf()
        self.best.copy_(torch.where(better, nll, self.best))
        self.since.copy_(torch.where(better, 0, self.since + 1))
        return better

    def moving(self, patience: int) -> Tensor:
        """Which members (M,) bool still train: those that were best within `patience` looks; 0 never stops."""
        return (self.since < patience) | (patience == 0)


@torch.no_grad()
def mean_nll(model: EnsembleModel, rows: Rows) -> Tensor:
    """Each member's mean negative log likelihood of the windows (M,), nats a step; infinite without any."""
    count = len(rows.obs)
    if count == 0:
        return model.elites.new_full((model.network.members,), torch.inf, dtype=torch.get_default_dtype())
    blocks = zip(*(part.split(BLOCK) for part in rows), strict=True)
    return torch.stack([model.nll(*block).sum(1) for block in blocks]).sum(0) / count


@torch.no_grad()
def copy_members(source: EnsembleModel, target: EnsembleModel, which: Tensor) -> None:
    """Give `target` the weights of the members `which` (M,) bool of `source`."""
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.copy_(torch.where(which.view(-1, *[1] * (old.dim() - 1)), new, old))
