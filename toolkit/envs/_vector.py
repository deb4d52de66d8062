"""Environments of one suite stepped together: rows that start and end on their own, and MuJoCo without the wrappers.

Nothing resets behind the caller's back: a row that has ended waits until `reset` names it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array


@dataclass(frozen=True)
class Moves:
    """What one step of k rows led to; every array is new and the caller's own."""

    obs: dict[str, Any]  # key -> (k, ...); dicts inside where the environment has them
    reward: Array  # (k,) float64
    terminated: Array  # (k,) bool
    truncated: Array  # (k,) bool; may be True beside terminated
    success: Array  # (k,) bool

    @property
    def over(self) -> Array:
        """(k,) bool: the rows whose episode has ended."""
        return self.terminated | self.truncated


class VectorEnvironment(Protocol):
    """`rows` environments of one suite. A row is stepped only when it is named, and only between reset and end."""

    rows: int

    def reset(self, rows: Array, contexts: Array, seeds: Sequence[int]) -> dict[str, Array]:
        """Start an episode in each of the k named rows, from the context (k, C) and seed beside it; key -> (k, ...)."""

    def step(self, rows: Array, actions: Array) -> Moves:
        """One step of each of the k named rows with the action beside it, (k, A) float32 or (k,) integers."""

    def close(self) -> None:
        """Free what the rows hold."""


class Singles:
    """A vector environment made of single ones: any suite's, at the speed of one after the other."""

    def __init__(self, envs: Sequence[gym.Env]) -> None:
        self.envs, self.rows = list(envs), len(envs)
        self.discrete = isinstance(self.envs[0].action_space, spaces.Discrete)

    def reset(self, rows: Array, contexts: Array, seeds: Sequence[int]) -> dict[str, Array]:
        started = zip(rows.tolist(), contexts, seeds, strict=True)
        shown = [self.envs[row].reset(seed=int(seed), options={"context": c})[0] for row, c, seed in started]
        return _stacked(shown)

    def step(self, rows: Array, actions: Array) -> Moves:
        moved = []
        for row, action in zip(rows.tolist(), actions, strict=True):
            moved.append(self.envs[row].step(int(action) if self.discrete else action))
        shown, reward, terminated, truncated, infos = zip(*moved, strict=True)
        return Moves(
            _stacked(shown),
            np.array(reward, np.float64),
            np.array(terminated, bool),
            np.array(truncated, bool),
            np.array([info.get("success", False) for info in infos], bool),
        )

    def close(self) -> None:
        for env in self.envs:
            env.close()


def _stacked(shown: Sequence[Any]) -> Any:
    """Observations of k rows, dicts of any depth, as one whose arrays begin with k."""
    if isinstance(shown[0], dict):
        return {key: _stacked([obs[key] for obs in shown]) for key in shown[0]}
    return np.stack(shown)


class MujocoRows:
    """A list of MjData stepped in turn, each with a model of its own, so that rows may differ in their dynamics.

    What an environment adds to the physics (observation, reward, end) is left to the caller, in NumPy over all
    rows at once: that is where the wrappers of single environments spend their time.
    """

    def __init__(self, model: Any, rows: int) -> None:
        import mujoco

        self._mujoco = mujoco
        self._everything = mujoco.mjtState.mjSTATE_INTEGRATION  # warm start of the solver included
        self.models = [copy.copy(model) for _ in range(rows)]
        self._data = [mujoco.MjData(own) for own in self.models]
        self._qpos, self._qvel = [d.qpos for d in self._data], [d.qvel for d in self._data]  # views: no look-ups later
        self._ctrl, self._advance = [d.ctrl for d in self._data], advancing(mujoco)
        self._state = np.zeros(mujoco.mj_stateSize(model, self._everything))

    def place(self, row: int, model: Any, data: Any) -> tuple[Array, Array]:
        """Continue in `row` where `data` stands, with all that the next step depends on; its qpos (nq,), qvel (nv,)."""
        self._mujoco.mj_getState(model, data, self._state, self._everything)
        self._mujoco.mj_setState(self.models[row], self._data[row], self._state, self._everything)
        return self._qpos[row].copy(), self._qvel[row].copy()

    def derive(self, row: int) -> None:
        """Work out what the solver keeps of masses and lengths, after the row's model was changed; then `place` it."""
        self._mujoco.mj_setConst(self.models[row], self._data[row])

    def step(self, rows: Array, controls: Array, *, frames: int, velocity: Array | None = None) -> tuple[Array, Array]:
        """`frames` steps of the physics of the named rows under controls (k, nu); their qpos (k, nq) and qvel (k, nv).

        `velocity` (k, nv) is for environments that call `set_state` before each step: it replaces qvel and, as
        there, the solver starts from that state under the controls of the step before. (mj_forward leaves all that
        depends on position and velocity in place, so mj_step2 suffices after it; it knows no Runge-Kutta.)
        """
        named = rows.tolist()
        slowed = [None] * len(named) if velocity is None else velocity
        for row, control, speed in zip(named, controls, slowed, strict=True):
            self._advance(self.models[row], self._data[row], self._ctrl[row], self._qvel[row], control, frames, speed)
        return np.array([self._qpos[row] for row in named]), np.array([self._qvel[row] for row in named])


def advancing(mujoco: Any) -> Callable[..., None]:
    """What `MujocoRows.step` does to one row: (model, data, views of its ctrl and qvel, control, frames, speed)."""
    forward, first, more = mujoco.mj_forward, mujoco.mj_step2, mujoco.mj_step

    def advance(
        model: Any, data: Any, ctrl: Array, qvel: Array, control: Array, frames: int, speed: Array | None
    ) -> None:
        if speed is None:
            ctrl[:] = control
            more(model, data, frames)
            return
        qvel[:] = speed
        forward(model, data)
        ctrl[:] = control
        first(model, data)
        if frames > 1:
            more(model, data, frames - 1)

    return advance
