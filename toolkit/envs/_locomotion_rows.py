"""Many runners at once, bit for bit what `_locomotion` makes one by one; see `toolkit.envs._vector`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.core import Array
from toolkit.envs._simulator import MujocoStates
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
        position, velocity = self._physics.step(rows, actions, frames=self._runner.frame_skip)
        self._steps[rows] += 1
        late = self._steps[rows] >= self._suite.max_steps
        moves = _moves(self._runner, self._suite, position, velocity, actions, self._x[rows], self._start[rows], late)
        self._x[rows] = position[:, 0]
        return moves

    def close(self) -> None:
        """Close the environment that resets."""
        self._env.close()


class LocomotionStates:
    """`toolkit.envs._simulator.Simulator`; a state is where it began, x, the steps done, and MuJoCo's own state."""

    def __init__(self, suite: Locomotion, env: LocomotionEnv) -> None:
        self._suite, self._env, self._runner = suite, env, env.simulated
        self._physics = MujocoStates(self._runner.model)

    def start(self, contexts: Array, seeds: Sequence[int]) -> tuple[Array, dict[str, Array]]:
        """Every start goes through the environment's own reset."""
        states, shown = [], []
        for context, seed in zip(contexts, seeds, strict=True):
            shown.append(self._env.reset(seed=int(seed), options={"context": context})[0]["observation"])
            x = self._runner.data.qpos[0]
            states.append(np.concatenate([[x, x, 0.0], self._physics.take(self._runner.model, self._runner.data)]))
        return np.array(states), {"observation": np.stack(shown)}

    def step(self, states: Array, actions: Array) -> tuple[Array, Moves]:
        """One step under actions (k, A)."""
        start, before, done = states[:, 0], states[:, 1], states[:, 2] + 1
        physics, position, velocity = self._physics.step(states[:, 3:], actions, frames=self._runner.frame_skip)
        late = done >= self._suite.max_steps
        moves = _moves(self._runner, self._suite, position, velocity, actions, before, start, late)
        return np.column_stack([start, position[:, 0], done, physics]), moves

    def close(self) -> None:
        """Close the environment that resets."""
        self._env.close()


def _moves(
    runner: Any,
    suite: Locomotion,
    position: Array,
    velocity: Array,
    actions: Array,
    before: Array,
    start: Array,
    late: Array,
) -> Moves:
    """What Gymnasium's `runner` says of k that moved from x `before` (k,) to `position` (k, nq)."""
    reward = runner._forward_reward_weight * ((position[:, 0] - before) / runner.dt)
    fallen = np.zeros(len(position), bool)
    if hasattr(runner, "_healthy_z_range"):  # the cheetah cannot fall
        healthy = _healthy(runner, position, velocity)
        fallen = ~healthy & runner._terminate_when_unhealthy
        reward = reward + healthy * runner._healthy_reward
        velocity = np.clip(velocity, -FASTEST, FASTEST)
    reward = reward - runner._ctrl_cost_weight * np.sum(np.square(actions), axis=1)
    far = position[:, 0] - start >= suite.distance
    shown = {"observation": np.concatenate([position[:, 1:], velocity], axis=1).astype(np.float32)}
    return Moves(shown, reward, fallen, late, far & ~fallen)


def _healthy(runner: Any, position: Array, velocity: Array) -> Array:
    """(k,) bool: height, angle and, for the hopper, the rest of the state are within Gymnasium's ranges."""
    checks = [(position[:, 1:2], runner._healthy_z_range), (position[:, 2:3], runner._healthy_angle_range)]
    if hasattr(runner, "_healthy_state_range"):
        checks.append((np.concatenate([position[:, 2:], velocity], axis=1), runner._healthy_state_range))
    inside = [((low < values) & (values < high)).all(axis=1) for values, (low, high) in checks]
    return np.all(inside, axis=0)
