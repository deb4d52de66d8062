"""True dynamics in the place of a learned model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from toolkit.core import Array, Followed, Planner, Policy
from toolkit.envs._simulator import Simulator
from toolkit.envs._vector import VectorEnvironment
from toolkit.evaluate import executable
from toolkit.store.schema import Schema
from toolkit.swaps.scene import Simulated


class TrueDynamics(Simulated):
    """The planner's sequences lead where the simulator says, rewards and ends included; its search stays as it is.

    What is left after this swap is due to the horizon and the search. Sequences end where the episode does.
    """

    def __call__(self, policy: Policy, rows: int) -> tuple[Policy, VectorEnvironment]:
        watched, played = self.staged(rows)
        assert isinstance(policy, Planner)

        def follow(actions: Tensor) -> Followed:
            return followed(self.trial, self.scene.schema, played.states, watched.running, actions)

        return policy.following(follow), watched


def followed(simulator: Simulator, schema: Schema, states: Array, running: Array, actions: Tensor) -> Followed:
    """Where actions (M, N, H, A) lead from states (M, S); rows that do not run lead nowhere and gain nothing."""
    rows, count, horizon, _ = actions.shape
    obs = np.zeros((rows * count, horizon, schema.obs_dim), np.float32)
    reward, end = np.zeros((2, rows * count, horizon), np.float32)
    left = np.flatnonzero(np.repeat(running, count))
    now, taken = states[left // count], actions.reshape(rows * count, horizon, -1).cpu().numpy()
    for h in range(horizon):
        if len(left) == 0:
            break
        chosen = taken[left, h].argmax(-1) if schema.discrete else taken[left, h]
        now, moves = simulator.step(now, executable(schema, chosen))
        obs[left, h:] = schema.flatten(moves.obs)[:, None]  # an ended episode stays where it ended
        reward[left, h], end[left, h] = moves.reward, moves.over
        now, left = now[~moves.over], left[~moves.over]
    return Followed(*(torch.from_numpy(x).unflatten(0, (rows, count)).to(actions.device) for x in (obs, reward, end)))
