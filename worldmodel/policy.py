"""A planner as a policy: at every step a search, warm from the one before."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from toolkit.core import Array, Spec, Step, child_seed
from toolkit.nets import generator
from worldmodel.model import EnsembleModel
from worldmodel.planners import Plan, cem, colour, optimise
from worldmodel.score import ImaginedReturn

if TYPE_CHECKING:
    from worldmodel.mpc import MPCConfig


class PlannerPolicy:
    """Plans for all rows at once and executes the first action of the elites' mean; warm start per row."""

    def __init__(self, config: MPCConfig, spec: Spec, model: EnsembleModel, *, seed: int, device: str) -> None:
        self.config, self.device, self.score = config, device, ImaginedReturn(config, model)
        # Without limits there is no range to search; the data's own stands in.
        low = np.where(np.isfinite(spec.action_low), spec.action_low, spec.action.low)
        high = np.where(np.isfinite(spec.action_high), spec.action_high, spec.action.high)
        self.low = torch.as_tensor(low, dtype=torch.float32, device=device)
        self.high = torch.as_tensor(high, dtype=torch.float32, device=device)
        self.centre = (self.low + self.high) / 2
        self.std = config.spread * (self.high - self.low) / 2
        self.update = partial(cem, elites=config.best, momentum=config.momentum)
        self.colour = colour(config.horizon, config.colour).to(device)
        self.rng = generator(child_seed(seed, "mpc", "plan"), device)
        self.plan: Plan | None = None

    @torch.inference_mode()
    def act(self, step: Step) -> Array:
        """Actions (N, A) float32. Raises ValueError if the number of rows changes while episodes run."""
        config, rows = self.config, len(step.obs)
        first = torch.as_tensor(step.first, device=self.device)
        if self.plan is None or (len(self.plan.mean) != rows and step.first.all()):
            keep = math.ceil(config.keep * config.best)
            start = Plan.blank(self.centre, rows=rows, horizon=config.horizon, keep=keep)
        elif len(self.plan.mean) != rows:
            raise ValueError(
                f"step shows {rows} rows, the one before it {len(self.plan.mean)}: a plan belongs to a row; "
                "keep the number of environments, or set first everywhere"
            )
        else:
            start = self.plan.shifted(first, self.centre)
        obs = torch.as_tensor(step.obs, dtype=torch.float32, device=self.device)
        noise = (self._noise(rows) for _ in range(config.iterations))
        limits = {"low": self.low, "high": self.high, "std": self.std}
        self.plan = optimise(self.score, obs, start, noise, self.update, **limits)
        return self.plan.mean[:, 0].clamp(self.low, self.high).cpu().numpy()

    def _noise(self, rows: int) -> Tensor:
        """(N, samples, H, A) standard normal, coloured over the H steps."""
        shape = (rows, self.config.samples, len(self.low), self.config.horizon)
        white = torch.randn(shape, generator=self.rng, device=self.device)
        return (white @ self.colour).transpose(2, 3)
