"""Statistics carried by checkpoints: standardising inputs, and undoing it on outputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.core import Moments


class Normalizer(nn.Module):
    """Maps raw values (..., D) to (x - mean) / std; both are buffers, so every checkpoint carries them.

    A dimension whose spread is below 1e-6 of its size (or below 1e-6) is constant: it maps to zero
    and `kept` is False there. Raises ValueError for moments of no numbers: there is nothing to learn from.
    """

    mean: Tensor
    std: Tensor
    kept: Tensor

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        if len(moments.mean) == 0:
            raise ValueError(
                "the data have no vector observations, only images, and this learner reads none: collect vector "
                "observations too, or use a learner that takes images"
            )
        constant = moments.std < 1e-6 * np.maximum(1.0, np.abs(moments.mean))
        self.register_buffer("mean", torch.from_numpy(np.asarray(moments.mean, np.float32).copy()))
        self.register_buffer("std", torch.from_numpy(np.where(constant, 1.0, moments.std).astype(np.float32)))
        self.register_buffer("kept", torch.from_numpy(~constant))

    def forward(self, raw: Tensor) -> Tensor:
        """(..., D) raw units -> (..., D) standardised."""
        return (raw - self.mean) / self.std * self.kept

    def inverse(self, standard: Tensor) -> Tensor:
        """(..., D) standardised -> (..., D) raw units; constant dimensions return their mean."""
        return standard * self.kept * self.std + self.mean
