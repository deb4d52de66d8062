"""Meta-World's simulators behind one environment whose resets take a context; see `metaworld.py`."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from toolkit.core import Array
from toolkit.envs._measure import read_context
from toolkit.envs._metaworld import TASKS
from toolkit.envs._render import need_opengl

if TYPE_CHECKING:
    from toolkit.envs.metaworld import MetaWorld

IDLE = 16
"""Simulators a process keeps for the next episode of their task: making one takes 0.1 s, keeping it 5 to 35 MB."""


class MetaWorldEnv(gym.Env):
    """Meta-World's tasks behind one environment; see `Suite.make`. A task's simulator is made when first needed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012  # Gymnasium declares it so

    def __init__(self, suite: MetaWorld, *, render: bool = False) -> None:
        load(suite.name)
        if render:
            need_opengl(suite.name)
        self.suite = suite
        self.render_mode = "rgb_array" if render else None
        self.action_space = suite.action_space
        parts: dict[str, gym.Space] = {"observation": spaces.Box(-np.inf, np.inf, (39,), np.float32)}
        if "task" in suite.roles:
            parts["task"] = spaces.Box(0.0, 1.0, (len(suite.members),), np.float32)
        self.observation_space = spaces.Dict(parts)
        self._simulator: Any = None
        self._task = ""
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Start in options["context"]; without it, in a training context drawn by `seed`.

        Raises ValueError for a context that does not fit, or whose object and goal are too near for Meta-World.
        """
        super().reset(seed=seed)
        context = read_context(self.suite, options, seed=seed, np_random=self.np_random)
        task, positions = self.suite.place(context)
        if task != self._task:
            self.close()
            self._simulator, self._task = _borrowed(self.suite.name, task, self.render_mode), task
        self._simulator._get_state_rand_vec = _given(task, positions)
        obs, _ = self._simulator.reset()
        self._steps = 0
        return self._seen(obs), {"success": False}

    def step(self, action: Any) -> tuple[dict[str, Array], float, bool, bool, dict[str, Any]]:
        """One step of 12.5 ms; terminated with info["success"] at the first success, truncated at the limit."""
        if self._simulator is None:
            raise gym.error.ResetNeeded("step before the first reset")
        obs, reward, _, _, info = self._simulator.step(np.clip(np.asarray(action, np.float32), -1.0, 1.0))
        self._steps += 1
        success = bool(info["success"])
        truncated = self._steps >= self.suite.max_steps and not success
        return self._seen(obs), float(reward) / 20 - 1, success, truncated, {"success": success}

    def render(self) -> Any:
        """The scene from the corner, (480, 480, 3) uint8, turned round: Meta-World's camera hangs upside down."""
        return None if self._simulator is None else np.ascontiguousarray(self._simulator.render()[::-1, ::-1])

    def close(self) -> None:
        """Leave the simulator to the next environment that plays its task."""
        if self._simulator is not None:
            _give_back(self._task, self._simulator)
        self._simulator, self._task = None, ""

    def _seen(self, obs: Array) -> dict[str, Array]:
        seen = {"observation": obs.astype(np.float32)}
        if "task" in self.suite.roles:
            seen["task"] = np.eye(len(self.suite.members), dtype=np.float32)[self.suite.members.index(self._task)]
        return seen


_idle: list[tuple[str, Any]] = []  # task and simulator that nobody plays, the longest idle first


def _borrowed(suite: str, task: str, render_mode: str | None) -> Any:
    """An idle simulator of `task`, or a new one. A reset leaves nothing of what it was used for before."""
    for index in reversed(range(len(_idle))):
        if _idle[index][0] == task and render_mode is None:
            return _idle.pop(index)[1]
    simulators, _ = load(suite)
    made = simulators[f"{task}-v3"](render_mode=render_mode, camera_name="corner2" if render_mode else None)
    made._partially_observable = False  # it shows its goal, also one outside the box it would clip observations to
    made.goal_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    made.__dict__.pop("sawyer_observation_space", None)
    made._set_task_called = True
    made.max_path_length = sys.maxsize
    return made


def _give_back(task: str, simulator: Any) -> None:
    """Keep a simulator for later, but not one that draws: what it holds of OpenGL is freed at once."""
    if simulator.render_mode is not None:
        simulator.close()
        return
    _idle.append((task, simulator))
    while len(_idle) > IDLE:
        _idle.pop(0)[1].close()


def _given(task: str, positions: Array) -> Any:
    """What Meta-World draws in a reset: `positions`, once for each of the two times it places everything.

    It would draw for ever while an object is too near its goal; the third time is therefore an error.
    """
    left = [positions.copy(), positions.copy()]

    def draw() -> Array:
        if not left:
            raise ValueError(
                f"object and goal at {positions.tolist()} are nearer than task {task!r} allows; "
                f"expected at least {TASKS[task].apart} m apart in x and y"
            )
        return left.pop()

    return draw


def load(suite: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Meta-World's environments and its policies, by name. Raises ImportError saying what to install."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mujoco  # noqa: F401
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
            from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        raise ImportError(
            f"suite {suite!r} cannot import {error.name or error}; pip install 'metaworld==3.1.1' 'mujoco==3.3.0' (pip "
            "then says that d3rlpy wants gymnasium 1.0.0, and it works all the same), or make setup, which has both"
        ) from error
    return ALL_V3_ENVIRONMENTS, ENV_POLICY_MAP
