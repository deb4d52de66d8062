"""Many point mazes at once, bit for bit what `pointmaze` makes one by one; see `toolkit.envs._vector`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit.core import Array
from toolkit.envs._simulator import MujocoStates
from toolkit.envs._vector import Moves, MujocoRows

if TYPE_CHECKING:
    from toolkit.envs.pointmaze import PointMaze

FASTEST = 5.0  # m/s; the environment cuts speeds to this before each step
NEAR = 0.45  # m; the goal is reached at this distance


class PointMazeRows:
    """`rows` mazes. Resets go through one environment of Gymnasium-Robotics, steps through MuJoCo directly."""

    def __init__(self, suite: PointMaze, rows: int) -> None:
        self.rows, self.steps, self._limit = rows, np.zeros(rows, int), suite.max_steps
        self._env = suite.make()  # every reset happens here, so that it draws what a single environment draws
        self._inner = self._env.get_wrapper_attr("point_env")
        self._physics = MujocoRows(self._inner.model, rows)
        self._goal, self._velocity = np.zeros((rows, 2)), np.zeros((rows, 2))

    def reset(self, rows: Array, contexts: Array, seeds: Sequence[int]) -> dict[str, Array]:
        """observation (k, 4) and desired_goal (k, 2), float32."""
        position = np.zeros((len(rows), 2))
        for i, row in enumerate(rows.tolist()):
            self._env.reset(seed=int(seeds[i]), options={"context": contexts[i]})
            made, own = self._inner.model, self._physics.models[row]
            own.actuator_gear[:], own.dof_damping[:] = made.actuator_gear, made.dof_damping
            position[i], self._velocity[row] = self._physics.place(row, made, self._inner.data)
            self._goal[row] = self._env.get_wrapper_attr("goal")
        self.steps[rows] = 0
        return _observed(position, self._velocity[rows], self._goal[rows])

    def step(self, rows: Array, actions: Array) -> Moves:
        """One step of the named rows under forces (k, 2), clipped to -1..1 as the environment does."""
        slowed = np.clip(self._velocity[rows], -FASTEST, FASTEST)
        forces = np.clip(actions, -1.0, 1.0)
        position, velocity = self._physics.step(rows, forces, frames=self._inner.frame_skip, velocity=slowed)
        self._velocity[rows] = velocity
        self.steps[rows] += 1
        return _moves(position, velocity, self._goal[rows], self.steps[rows] >= self._limit)

    def close(self) -> None:
        """Close the environment that resets."""
        self._env.close()


class PointMazeStates:
    """`toolkit.envs._simulator.Simulator`; a state is the goal, the speed, the steps done, and MuJoCo's own state."""

    OWN = 5  # numbers before MuJoCo's

    def __init__(self, suite: PointMaze) -> None:
        self._limit, self._env = suite.max_steps, suite.make()
        self._inner = self._env.get_wrapper_attr("point_env")
        self._physics = MujocoStates(self._inner.model)

    def start(self, contexts: Array, seeds: Sequence[int]) -> tuple[Array, dict[str, Array]]:
        """Every start goes through the environment's own reset."""
        states = []
        for context, seed in zip(contexts, seeds, strict=True):
            self._env.reset(seed=int(seed), options={"context": context})
            made, data = self._inner.model, self._inner.data
            own = [*self._env.get_wrapper_attr("goal"), *data.qvel, 0.0]
            states.append(np.concatenate([own, self._physics.take(made, data), data.qpos]))
        found = np.array(states)
        return found[:, :-2], _observed(found[:, -2:], found[:, 2:4], found[:, :2])

    def step(self, states: Array, actions: Array) -> tuple[Array, Moves]:
        """Forces (k, 2), clipped to -1..1 as the environment does."""
        slowed, forces = np.clip(states[:, 2:4], -FASTEST, FASTEST), np.clip(actions, -1.0, 1.0)
        physics, position, velocity = self._physics.step(
            states[:, self.OWN :], forces, frames=self._inner.frame_skip, velocity=slowed
        )
        goal, done = states[:, :2], states[:, 4] + 1
        after = np.column_stack([goal, velocity, done, physics])
        return after, _moves(position, velocity, goal, done >= self._limit)

    def close(self) -> None:
        """Close the environment that resets."""
        self._env.close()


def _moves(position: Array, velocity: Array, goal: Array, late: Array) -> Moves:
    """What the maze says of k balls at `position` (k, 2)."""
    gap = position - goal
    distance = np.linalg.norm(gap, axis=-1)
    reached = distance <= NEAR
    for i in np.flatnonzero(np.abs(distance - NEAR) < 1e-9).tolist():  # the environment's norm may round otherwise
        reached[i] = np.linalg.norm(gap[i]) <= NEAR
    return Moves(_observed(position, velocity, goal), np.exp(-distance) - 1.0, reached, late, reached.copy())


def _observed(position: Array, velocity: Array, goal: Array) -> dict[str, Array]:
    seen = np.concatenate([position, velocity], axis=1, dtype=np.float32, casting="same_kind")
    return {"observation": seen, "desired_goal": goal.astype(np.float32)}
