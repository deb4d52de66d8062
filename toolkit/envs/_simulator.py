"""A suite's own dynamics as a pure function of a state: actions can be tried, and taken back.

Letters in shapes: k states of S numbers, A action numbers. A state holds all that the future depends on: where things
are, the context's dynamics, the goal, and how many steps are left.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from toolkit.core import Array
from toolkit.envs._vector import Moves, advancing


class Simulator(Protocol):
    """What `Suite.simulator` makes. It plays the episodes that `Suite.make` plays; rewards are equal up to rounding."""

    def start(self, contexts: Array, seeds: Sequence[int]) -> tuple[Array, dict[str, Array]]:
        """Where episodes begin in contexts (k, C) with the seeds beside them: states (k, S) float64, and what they
        show, key -> (k, ...)."""

    def step(self, states: Array, actions: Array) -> tuple[Array, Moves]:
        """One step from states (k, S), which came from here and are left as they are; actions (k, A) float32 or (k,)
        integers."""

    def close(self) -> None:
        """Free what is held."""


class Played:
    """A `toolkit.envs._vector.VectorEnvironment` of a simulator, which is left open, whose rows' states can be seen."""

    def __init__(self, simulator: Simulator, rows: int) -> None:
        self.simulator, self.rows = simulator, rows
        self.states = np.zeros((rows, 0))  # (rows, S)

    def reset(self, rows: Array, contexts: Array, seeds: Sequence[int]) -> dict[str, Array]:
        found, shown = self.simulator.start(contexts, seeds)
        if self.states.shape[1] != found.shape[1]:
            self.states = np.zeros((self.rows, found.shape[1]))
        self.states[rows] = found
        return shown

    def step(self, rows: Array, actions: Array) -> Moves:
        self.states[rows], moves = self.simulator.step(self.states[rows], actions)
        return moves

    def close(self) -> None:
        """Nothing: whoever made the simulator closes it."""


class MujocoStates:
    """MuJoCo's state as numbers: one MjData for any number of states, and a model for every dynamics that was met."""

    def __init__(self, model: Any) -> None:
        import mujoco

        self._mujoco = mujoco
        self._everything = mujoco.mjtState.mjSTATE_INTEGRATION  # warm start of the solver included
        self.size = mujoco.mj_stateSize(model, self._everything)
        self.models: list[Any] = []
        self._advance, self._data = advancing(mujoco), mujoco.MjData(model)

    def take(self, model: Any, data: Any) -> Array:
        """Where `data` stands (1 + size,): the number of its model, of which a copy is kept, and MuJoCo's state."""
        state = np.zeros(self.size)
        self._mujoco.mj_getState(model, data, state, self._everything)
        self.models.append(copy.copy(model))
        return np.concatenate([[len(self.models) - 1], state])

    def step(
        self, states: Array, controls: Array, *, frames: int, velocity: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """`frames` steps from states (k, 1 + size) under controls (k, nu): states, qpos (k, nq) and qvel (k, nv).

        `velocity` is as in `toolkit.envs._vector.MujocoRows.step`.
        """
        get, put, everything, data = self._mujoco.mj_getState, self._mujoco.mj_setState, self._everything, self._data
        advance, ctrl, qpos, qvel = self._advance, data.ctrl, data.qpos, data.qvel
        after, position, speed = states.copy(), np.zeros((len(states), len(qpos))), np.zeros((len(states), len(qvel)))
        slowed = [None] * len(states) if velocity is None else velocity
        models = [self.models[number] for number in states[:, 0].astype(int).tolist()]
        each = zip(models, after[:, 1:], controls, slowed, position, speed, strict=True)
        for model, state, control, slow, where, fast in each:
            put(model, data, state, everything)
            advance(model, data, ctrl, qvel, control, frames, slow)
            get(model, data, state, everything)
            where[:], fast[:] = qpos, qvel
        return after, position, speed
