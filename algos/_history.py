"""The policy of learners that read windows: what each row has seen, done and still asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from algos._common import ReturnScale, asked_for
from toolkit.core import Array, Step


class OfHistories(Protocol):
    """What `History` asks of a learner."""

    returns: ReturnScale
    device: str
    discrete: bool
    action_dim: int


Choose = Callable[[Tensor, Tensor, Tensor], Tensor]


class History:
    """A policy that keeps the last steps of every row: raw observations, its own actions and returns to go.

    `choose` gives actions for every step of histories: returns to go (N, L), observations (N, L, O) and actions
    (N, L, A), raw. An action must see the steps before it only, and what stands in its own place must not matter.
    """

    def __init__(self, learner: OfHistories, choose: Choose, context: int) -> None:
        self.learner, self.choose, self.context = learner, choose, context
        self.to_go = np.zeros(0, np.float32)

    @torch.no_grad()
    def act(self, step: Step) -> Array:
        """Actions for N rows. Raises ValueError if the number of rows changes while episodes run."""
        rows, learner = len(step.obs), self.learner
        fresh = len(self.to_go) != rows
        self.to_go = asked_for(self.to_go, float(learner.returns.target), step)
        if fresh:
            self.length = np.zeros(rows, int)
            self.asked = np.zeros((rows, self.context), np.float32)
            self.seen = np.zeros((rows, self.context, step.obs.shape[1]), np.float32)
            self.done = np.zeros((rows, self.context, learner.action_dim), np.float32)
        for kept in (self.asked, self.seen, self.done):
            kept[step.first] = 0
            full = ~step.first & (self.length == self.context)
            kept[full] = np.roll(kept[full], -1, axis=1)
        self.length = np.where(step.first, 1, np.minimum(self.length + 1, self.context))
        row, last = np.arange(rows), self.length - 1
        self.asked[row, last], self.seen[row, last], self.done[row, last] = self.to_go, step.obs, 0
        history = (torch.as_tensor(x, device=learner.device) for x in (self.asked, self.seen, self.done))
        action = self.choose(*history).cpu().numpy()[row, last]
        self.done[row, last] = np.eye(learner.action_dim, dtype=np.float32)[action] if learner.discrete else action
        return action
