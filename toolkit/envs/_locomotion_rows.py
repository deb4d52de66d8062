"""Many runners at once, bit for bit what `_locomotion` makes one by one; see `toolkit.envs._vector`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit.core import Array
from toolkit.envs._vector import Moves, MujocoRows

if TYPE_CHECKING:
    from toolkit.envs._locomotion import Locomotion, LocomotionEnv

FASTEST = 10.0  # observed speeds are cut to this where the runner can fall


class LocomotionRows:
    """`rows` runners. Resets go through one environment of Gymnasium, steps through MuJoCo directly."""

    def __init__(self, suite: Locomotion, env: LocomotionEnv, rows: int) -> None:
        self.rows, self._suite, self._env = rows, suite, env
        self._runner = env.simulated
        self._physics = MujocoRows(self._runner.model, rows)
        self._falls = hasattr(self._runner, "_healthy_z_range")  # the cheetah cannot
        self._steps = np.zeros(rows, int)
        self._start, self._x = np.zeros(rows), np.zeros(rows)

    def reset(self, rows: Array, contexts: Array, seeds: Sequence[int]) -> dict[str, Array]:
        """observation (k, O) float32."""
        shown = []
        for i, row in enumerate(rows.tolist()):
            obs, _ = self._env.reset(seed=int(seeds[i]), options={"context": contexts[i]})
            made, own = self._runner.model, self._physics.models[row]
            for name in self._env.own:
                getattr(own, name)[:] = getattr(made, name)
            self._physics.derive(row)
            position, _ = self._physics.place(row, made, self._runner.data)
            self._start[row] = self._x[row] = position[0]
            shown.append(obs["observation"])
        self._steps[rows] = 0
        return {"observation": np.stack(shown)}

    def step(self, rows: Array, actions: Array) -> Moves:
        """One step of the named rows under actions (k, A)."""
        runner, before = self._runner, self._x[rows]
        position, velocity = self._physics.step(rows, actions, frames=runner.frame_skip)
        self._x[rows] = position[:, 0]
        self._steps[rows] += 1
        reward = runner._forward_reward_weight * ((position[:, 0] - before) / runner.dt)
        fallen = np.zeros(len(rows), bool)
        if self._falls:
            healthy = self._healthy(position, velocity)
            fallen = ~healthy & runner._terminate_when_unhealthy
            reward = reward + healthy * runner._healthy_reward
            velocity = np.clip(velocity, -FASTEST, FASTEST)
        reward = reward - runner._ctrl_cost_weight * np.sum(np.square(actions), axis=1)
        far = position[:, 0] - self._start[rows] >= self._suite.distance
        return Moves(
            {"observation": np.concatenate([position[:, 1:], velocity], axis=1).astype(np.float32)},
            reward,
            fallen,
            self._steps[rows] >= self._suite.max_steps,
            far & ~fallen,
        )

    def close(self) -> None:
        """Close the environment that resets."""
        self._env.close()

    def _healthy(self, position: Array, velocity: Array) -> Array:
        """(k,) bool: height, angle and, for the hopper, the rest of the state are within Gymnasium's ranges."""
        runner = self._runner
        checks = [(position[:, 1:2], runner._healthy_z_range), (position[:, 2:3], runner._healthy_angle_range)]
        if hasattr(runner, "_healthy_state_range"):
            checks.append((np.concatenate([position[:, 2:], velocity], axis=1), runner._healthy_state_range))
        inside = [((low < values) & (values < high)).all(axis=1) for values, (low, high) in checks]
        return np.all(inside, axis=0)
